/* test_augment.c - augmented cells: what each step does to counts, totals and values. */
#include "engine/train/augment.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

enum { GENES = 200, VOCAB = GENES + 5 };

static scd_error err;
static scd_model_config config = {.vocab = VOCAB,
                                  .pad_id = 0,
                                  .mask_id = 1,
                                  .pad_fill_id = VOCAB - 3,
                                  .bos_id = VOCAB - 2,
                                  .eos_id = VOCAB - 1,
                                  .max_gene_len = 1200};
static scd_vocab *vocab;
static int32_t tokens[GENES];
static float counts[GENES];
static scd_corpus_cell cell = {
    .kind = SCD_INPUT_COUNTS, .n = GENES, .tokens = tokens, .values = counts};

static int open_vocab(void **state)
{
    (void)state;
    static char tsv[1 << 16];
    size_t at = (size_t)snprintf(tsv, sizeof tsv, "token_id\tsymbol\n");
    for (int i = 0; i < GENES; i++) {
        at += (size_t)snprintf(tsv + at, sizeof tsv - at, "%d\tGENE%d\n", i + 2, i);
        tokens[i] = i + 2;
        counts[i] = (float)(1 + i % 7 * 20);
        cell.total += (double)counts[i];
    }
    return (int)scd_vocab_parse(tsv, at, &config, &vocab, &err);
}

static int close_vocab(void **state)
{
    (void)state;
    scd_vocab_free(vocab);
    return 0;
}

/* The augmented cell; its values by token (0: not there). Returns the number of tokens. */
static size_t augmented(const scd_augment_options *o, scd_augment_input in, double values[VOCAB])
{
    scd_arena arena;
    scd_cell out;
    scd_arena_init(&arena, 1u << 24);
    in.cell = in.cell ? in.cell : &cell;
    if (scd_augment(o, &in, &config, vocab, &arena, &out, &err))
        fail_msg("%s", err.message);
    memset(values, 0, VOCAB * sizeof *values);
    for (size_t i = 0; i < out.n_tokens; i++)
        values[out.ids[i]] = (double)out.values[i];
    size_t n = out.n_tokens;
    scd_arena_release(&arena);
    return n;
}

static double expected(double count, double total)
{
    return log1p(1e4 * count / total);
}

static void without_options_a_cell_is_as_measured(void **state)
{
    (void)state;
    double v[VOCAB];
    scd_augment_options none = {0};
    assert_int_equal(augmented(&none, (scd_augment_input){.draw = 3}, v), GENES);
    for (int i = 0; i < GENES; i++) /* float32 of values below 10 */
        assert_true(fabs(v[i + 2] - expected((double)counts[i], cell.total)) < 1e-6);
}

static void the_same_draw_gives_the_same_cell_and_another_another(void **state)
{
    (void)state;
    double a[VOCAB], b[VOCAB], c[VOCAB];
    scd_augment_options o = {.seed = 5,
                             .thin_share = 1,
                             .thin_min = 0.2,
                             .panel_share = 1,
                             .panel_min = 0.3,
                             .gene_sigma = 0.5};
    augmented(&o, (scd_augment_input){.draw = 9}, a);
    augmented(&o, (scd_augment_input){.draw = 9}, b);
    augmented(&o, (scd_augment_input){.draw = 10}, c);
    assert_memory_equal(a, b, sizeof a);
    assert_memory_not_equal(a, c, sizeof a);
}

/* Over many draws the mean of thinned counts is that of the fraction. */
static void thinning_keeps_composition_in_the_mean(void **state)
{
    (void)state;
    enum { DRAWS = 400, GENE = 6 }; /* 121 counts: thinned by the normal's rounding too */
    scd_augment_options o = {.seed = 1, .thin_share = 1, .thin_min = 0.5};
    double v[VOCAB], sum = 0;
    for (uint64_t d = 0; d < DRAWS; d++) {
        augmented(&o, (scd_augment_input){.draw = d}, v);
        sum += expm1(v[GENE + 2]) / 1e4;
    }
    double share = (double)counts[GENE] / cell.total;
    /* one draw spreads by about a tenth (90 counts left), 400 by a half per cent: 5 sigma */
    assert_true(fabs(sum / DRAWS / share - 1) < 0.025);
}

static void a_sum_of_cells_adds_counts_and_totals(void **state)
{
    (void)state;
    const float other_counts[] = {50, 7};
    const int32_t other_tokens[] = {2, 3};
    scd_corpus_cell other = {.kind = SCD_INPUT_COUNTS,
                             .n = 2,
                             .tokens = other_tokens,
                             .values = other_counts,
                             .total = 100};
    const scd_corpus_cell *partners[] = {&other};
    scd_augment_options o = {.sum_share = 1, .sum_max = 2};
    double v[VOCAB];
    augmented(&o, (scd_augment_input){.partners = partners, .n_partners = 1}, v);
    assert_true(fabs(v[2] - expected((double)counts[0] + 50, cell.total + 100)) < 1e-6);
    assert_true(fabs(v[3] - expected((double)counts[1] + 7, cell.total + 100)) < 1e-6);
    assert_true(fabs(v[4] - expected((double)counts[2], cell.total + 100)) < 1e-6);
}

/* Ranks rise with the token, so that the second half is the more variable one. */
static void a_panel_keeps_a_fraction_and_prefers_variable_genes(void **state)
{
    (void)state;
    enum { DRAWS = 400 };
    float rank[VOCAB] = {0};
    double v[VOCAB], low = 0, high = 0;
    for (int i = 0; i < GENES; i++)
        rank[i + 2] = (float)(i + 1) / GENES;
    scd_augment_options o = {.panel_share = 1, .panel_min = 0.02, .gene_rank = rank};
    for (uint64_t draw = 0; draw < DRAWS; draw++) {
        augmented(&o, (scd_augment_input){.draw = draw}, v);
        for (int i = 0; i < GENES; i++)
            *(i < GENES / 2 ? &low : &high) += v[i + 2] > 0;
    }
    /* log-uniform in [m, 1] has the mean (1 - m) / -ln m = 0.25 and spreads by 0.26: 400 draws
     * tell it to 0.013, three of which are allowed; ranks end at 1 / 200 above their mean */
    assert_true(fabs((low + high) / (DRAWS * GENES) - 0.98 / -log(0.02)) < 0.04);
    assert_true(high > 1.5 * low);
    o.panel_min = 1;
    assert_int_equal(augmented(&o, (scd_augment_input){.draw = 1}, v), GENES);
}

static void a_panel_may_recompute_the_total(void **state)
{
    (void)state;
    double v[VOCAB], sum;
    scd_augment_options o = {.panel_share = 1, .panel_min = 0.1, .panel_total = 1};
    for (uint64_t draw = 0; draw < 20; draw++) {
        augmented(&o, (scd_augment_input){.draw = draw}, v);
        sum = 0;
        for (int i = 0; i < GENES; i++)
            sum += expm1(v[i + 2]);
        assert_true(fabs(sum / 1e4 - 1) < 1e-4); /* the total is that of the panel */
    }
    o.panel_total = 0;
    augmented(&o, (scd_augment_input){.draw = 1}, v);
    for (int i = 0; i < GENES; i++)
        assert_true(v[i + 2] == 0 ||
                    fabs(v[i + 2] - expected((double)counts[i], cell.total)) < 1e-6);
}

static void a_subset_has_the_number_of_tokens_asked_for_at_most(void **state)
{
    (void)state;
    double v[VOCAB];
    scd_augment_options o = {.max_tokens = 37};
    assert_int_equal(augmented(&o, (scd_augment_input){.draw = 1}, v), 37);
    for (int i = 0; i < GENES; i++) /* those that stay keep their values */
        assert_true(v[i + 2] == 0 ||
                    fabs(v[i + 2] - expected((double)counts[i], cell.total)) < 1e-6);
}

static void a_cell_never_becomes_empty(void **state)
{
    (void)state;
    const float one[] = {1};
    scd_corpus_cell poor = {
        .kind = SCD_INPUT_COUNTS, .n = 1, .tokens = tokens, .values = one, .total = 5000};
    scd_augment_options o = {.thin_share = 1,
                             .thin_min = 0.001,
                             .panel_share = 1,
                             .panel_min = 0.001,
                             .subset_share = 1,
                             .subset_min = 0.001,
                             .scale_share = 1,
                             .scale = 10,
                             .gene_sigma = 2};
    double v[VOCAB];
    for (uint64_t draw = 0; draw < 200; draw++)
        assert_int_equal(augmented(&o, (scd_augment_input){.cell = &poor, .draw = draw}, v), 1);
}

static void cells_without_counts_are_not_thinned_or_summed(void **state)
{
    (void)state;
    const float x[] = {1.5f, 2.5f};
    scd_corpus_cell logs = {.kind = SCD_INPUT_LOG1P_CP10K, .n = 2, .tokens = tokens, .values = x};
    const scd_corpus_cell *partners[] = {&cell};
    scd_augment_options o = {.thin_share = 1, .thin_min = 0.01, .sum_share = 1, .sum_max = 2};
    double v[VOCAB];
    augmented(&o, (scd_augment_input){.cell = &logs, .partners = partners, .n_partners = 1}, v);
    assert_true(fabs(v[2] - 1.5) < 1e-6 && fabs(v[3] - 2.5) < 1e-6 && v[4] == 0);
}

static void values_stay_within_what_a_model_takes(void **state)
{
    (void)state;
    const float much[] = {1e6f};
    scd_corpus_cell rich = {
        .kind = SCD_INPUT_COUNTS, .n = 1, .tokens = tokens, .values = much, .total = 1e6};
    scd_augment_options o = {.scale_share = 1, .scale = 100};
    double v[VOCAB];
    for (uint64_t draw = 0; draw < 50; draw++)
        assert_int_equal(augmented(&o, (scd_augment_input){.cell = &rich, .draw = draw}, v), 1);
}

static void options_out_of_range_are_named(void **state)
{
    (void)state;
    scd_augment_options o = {.thin_share = 0.5};
    assert_int_equal(scd_augment_check(&o, &err), SCD_E_INVALID);
    assert_non_null(strstr(err.message, "thin-min"));
    o = (scd_augment_options){.panel_share = 1.5, .panel_min = 0.5};
    assert_int_equal(scd_augment_check(&o, &err), SCD_E_INVALID);
    assert_non_null(strstr(err.message, "panel-share"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(without_options_a_cell_is_as_measured),
        cmocka_unit_test(the_same_draw_gives_the_same_cell_and_another_another),
        cmocka_unit_test(thinning_keeps_composition_in_the_mean),
        cmocka_unit_test(a_sum_of_cells_adds_counts_and_totals),
        cmocka_unit_test(a_panel_keeps_a_fraction_and_prefers_variable_genes),
        cmocka_unit_test(a_panel_may_recompute_the_total),
        cmocka_unit_test(a_subset_has_the_number_of_tokens_asked_for_at_most),
        cmocka_unit_test(a_cell_never_becomes_empty),
        cmocka_unit_test(cells_without_counts_are_not_thinned_or_summed),
        cmocka_unit_test(values_stay_within_what_a_model_takes),
        cmocka_unit_test(options_out_of_range_are_named),
    };
    return cmocka_run_group_tests(tests, open_vocab, close_vocab);
}
