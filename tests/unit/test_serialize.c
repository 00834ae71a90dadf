/* test_serialize.c - counts and log1p values become tokens as SPEC sections 1 and 2 say.
 *
 * The reference is written the slow, plain way: float64 log1p, a stable sort with a comparison. The
 * fast path must give the same bits.
 *
 * Threads: main. */
#include "engine/base/mem.h"
#include "engine/base/rng.h"
#include "engine/model/serialize.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { VOCAB = 5000 };

static const scd_model_config config = {.vocab = VOCAB,
                                        .pad_id = 0,
                                        .mask_id = 1,
                                        .pad_fill_id = VOCAB - 3,
                                        .bos_id = VOCAB - 2,
                                        .eos_id = VOCAB - 1,
                                        .max_gene_len = 1200};

typedef struct fixture {
    scd_vocab *plain, *weighted; /* without and with entropies */
    scd_arena arena;
} fixture;

static int set_up(void **state)
{
    fixture *f = calloc(1, sizeof *f);
    char *plain = malloc(VOCAB * 40), *weighted = malloc(VOCAB * 40);
    size_t p = (size_t)sprintf(plain, "token_id\tsymbol\n");
    size_t w = (size_t)sprintf(weighted, "token_id\tsymbol\tentropy\n");
    for (int i = 2; i < VOCAB - 3; i++) {
        p += (size_t)sprintf(plain + p, "%d\tG%d\n", i, i);
        /* Token 7 has no entropy; token 8 has 0, the largest weight. */
        if (i == 7)
            w += (size_t)sprintf(weighted + w, "%d\tG%d\t\n", i, i);
        else
            w += (size_t)sprintf(weighted + w, "%d\tG%d\t%.6f\n", i, i, (i + 89) % 97 / 97.0);
    }
    if (scd_vocab_parse(plain, p, &config, &f->plain, NULL) ||
        scd_vocab_parse(weighted, w, &config, &f->weighted, NULL))
        return -1;
    scd_arena_init(&f->arena, 1 << 28);
    free(plain);
    free(weighted);
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    fixture *f = *state;
    scd_arena_release(&f->arena);
    scd_vocab_free(f->plain);
    scd_vocab_free(f->weighted);
    free(f);
    return 0;
}

static scd_cell serialize(fixture *f, const scd_vocab *vocab, scd_input_kind kind, size_t n,
                          const int32_t *tokens, const double *values, double total)
{
    scd_cell cell;
    scd_error err = {0};
    const scd_cell_values in = {.n = n, .tokens = tokens, .values = values, .total = total};
    if (scd_cell_serialize(&config, vocab, kind, &in, &f->arena, &cell, NULL, &err))
        fail_msg("%s", err.message);
    return cell;
}

static void assert_refused(fixture *f, scd_input_kind kind, size_t n, const int32_t *tokens,
                           const double *values, double total, size_t bad, const char *part)
{
    scd_cell cell;
    scd_error err = {0};
    size_t bad_index = 12345;
    const scd_cell_values in = {.n = n, .tokens = tokens, .values = values, .total = total};
    assert_int_equal(
        scd_cell_serialize(&config, f->plain, kind, &in, &f->arena, &cell, &bad_index, &err),
        SCD_E_INVALID);
    assert_true(bad_index == bad);
    if (!strstr(err.message, part))
        fail_msg("'%s' does not say '%s'", err.message, part);
}

/* ---- the plain reference --------------------------------------------------------------------- */

typedef struct scored {
    int32_t id;
    float x, score;
} scored;

static int by_score(const void *a, const void *b)
{
    const scored *x = a, *y = b;
    if (x->score != y->score)
        return x->score > y->score ? -1 : 1;
    return x->id - y->id;
}

static size_t reference(const scd_vocab *vocab, size_t n, const int32_t *tokens,
                        const double *values, double total, scored *out)
{
    double *sums = calloc(VOCAB, sizeof *sums), all = 0;
    size_t n_out = 0;
    for (size_t i = 0; i < n; i++) {
        all += values[i];
        if (tokens[i] >= 0)
            sums[tokens[i]] += values[i];
    }
    for (int32_t id = 0; id < VOCAB; id++) {
        if (sums[id] == 0)
            continue;
        float x = (float)log1p(1e4 * sums[id] / (total > 0 ? total : all));
        float h = scd_vocab_entropy(vocab, id);
        float score = scd_vocab_has_entropies(vocab) ? x / (h + 1e-6f) : x;
        out[n_out++] = (scored){id, x, score};
    }
    qsort(out, n_out, sizeof *out, by_score);
    free(sums);
    return n_out;
}

static void random_cells_match_the_plain_reference_to_the_bit(void **state)
{
    fixture *f = *state;
    enum { MOST = 6000 };
    static int32_t tokens[MOST];
    static double values[MOST];
    static scored expected[VOCAB];
    for (uint64_t round = 0; round < 200; round++) {
        size_t n = 1 + (size_t)(scd_rng_uniform(1, round, 0) * (round % 3 ? 300 : MOST - 1));
        double sum = 0;
        for (size_t i = 0; i < n; i++) {
            uint32_t w[4];
            scd_rng_block(2, round, i, w);
            tokens[i] = w[0] % 10 ? (int32_t)(2 + w[1] % (VOCAB - 5)) : -1;
            values[i] = w[2] % 4 ? w[3] % (w[2] % 16 ? 4 : 500) : 0;
            sum += values[i];
        }
        tokens[0] = 2;
        values[0] = 1;
        double total = round % 2 ? 0 : 2 * sum + 0.5;
        const scd_vocab *vocab = round % 4 < 2 ? f->plain : f->weighted;
        size_t n_expected = reference(vocab, n, tokens, values, total, expected);
        scd_cell cell = serialize(f, vocab, SCD_INPUT_COUNTS, n, tokens, values, total);
        assert_int_equal(cell.n_tokens + cell.genes_truncated, n_expected);
        assert_int_equal(cell.n_tokens, n_expected < 1200 ? n_expected : 1200);
        for (size_t i = 0; i < cell.n_tokens; i++) {
            assert_int_equal(cell.ids[i], expected[i].id);
            assert_true(cell.values[i] == expected[i].x);
        }
        scd_arena_release(&f->arena);
    }
}

/* ---- the rules one by one -------------------------------------------------------------------- */

static void a_count_becomes_log1p_of_counts_per_ten_thousand(void **state)
{
    fixture *f = *state;
    const int32_t tokens[] = {10, 11, -1};
    const double values[] = {3, 5, 92};
    scd_cell cell = serialize(f, f->plain, SCD_INPUT_COUNTS, 3, tokens, values, 0);
    assert_int_equal(cell.n_tokens, 2);
    assert_int_equal(cell.ids[0], 11);
    assert_true(cell.values[0] == (float)log1p(500)); /* 5 of 100, unknown genes included */
    assert_true(cell.values[1] == (float)log1p(300));
    cell = serialize(f, f->plain, SCD_INPUT_COUNTS, 3, tokens, values, 200);
    assert_true(cell.values[0] == (float)log1p(250));
    assert_int_equal(cell.genes_known, 2);
    assert_int_equal(cell.genes_unknown, 1);
    assert_true(cell.mapped_counts == 8 && cell.given_counts == 100);
}

static void log1p_values_are_taken_as_they_are(void **state)
{
    fixture *f = *state;
    const int32_t tokens[] = {10, 11, -1};
    const double values[] = {1.2345678912345, 9.2104403669765, 2};
    scd_cell cell = serialize(f, f->plain, SCD_INPUT_LOG1P_CP10K, 3, tokens, values, 0);
    assert_true(cell.values[1] == 1.2345678912345f);
    assert_true(cell.values[0] == (float)log1p(1e4)); /* the limit itself, through float32 */
    assert_true(fabs(cell.given_counts - expm1(2) - cell.mapped_counts) < 1e-9);
}

static void inputs_on_one_token_are_summed_in_count_space(void **state)
{
    fixture *f = *state;
    const int32_t tokens[] = {10, 11, 10, 10};
    const double counts[] = {1, 10, 2, 3}, logs[] = {0.5, 3, 1.5, 1};
    scd_cell cell = serialize(f, f->plain, SCD_INPUT_COUNTS, 4, tokens, counts, 100);
    assert_int_equal(cell.n_tokens, 2);
    assert_true(cell.values[1] == (float)log1p(600));
    assert_int_equal(cell.genes_known, 4);
    cell = serialize(f, f->plain, SCD_INPUT_LOG1P_CP10K, 4, tokens, logs, 0);
    assert_int_equal(cell.n_tokens, 2);
    assert_true(cell.values[1] == (float)log1p(expm1(0.5) + expm1(1) + expm1(1.5)));
}

static void the_order_of_the_inputs_does_not_matter(void **state)
{
    fixture *f = *state;
    enum { N = 900 };
    int32_t tokens[N], turned_tokens[N];
    double logs[N], turned_logs[N];
    for (size_t i = 0; i < N; i++) {
        uint32_t w[4];
        scd_rng_block(3, 0, i, w);
        tokens[i] = (int32_t)(2 + w[0] % 200);
        logs[i] = w[1] % 1000 / 250.0;
    }
    for (size_t i = 0; i < N; i++) {
        turned_tokens[i] = tokens[N - 1 - i];
        turned_logs[i] = logs[N - 1 - i];
    }
    scd_cell a = serialize(f, f->weighted, SCD_INPUT_LOG1P_CP10K, N, tokens, logs, 0);
    scd_cell b = serialize(f, f->weighted, SCD_INPUT_LOG1P_CP10K, N, turned_tokens, turned_logs, 0);
    assert_int_equal(a.n_tokens, b.n_tokens);
    assert_memory_equal(a.ids, b.ids, a.n_tokens * sizeof *a.ids);
    assert_memory_equal(a.values, b.values, a.n_tokens * sizeof *a.values);
}

static void ties_go_by_token_id_and_entropy_divides_the_score(void **state)
{
    fixture *f = *state;
    const int32_t tokens[] = {40, 9, 30, 7, 8};
    const double values[] = {2, 2, 2, 2, 2};
    scd_cell cell = serialize(f, f->plain, SCD_INPUT_COUNTS, 5, tokens, values, 0);
    const int32_t by_id[] = {7, 8, 9, 30, 40};
    assert_memory_equal(cell.ids, by_id, sizeof by_id);
    cell = serialize(f, f->weighted, SCD_INPUT_COUNTS, 5, tokens, values, 0);
    const int32_t by_entropy[] = {8, 9, 30, 40, 7}; /* H = 0, 1/97, 22/97, 32/97, 1 */
    assert_memory_equal(cell.ids, by_entropy, sizeof by_entropy);
}

static void zeros_are_no_tokens_but_their_genes_are_known(void **state)
{
    fixture *f = *state;
    const int32_t tokens[] = {10, 11, -1, 12};
    const double counts[] = {0, 4, 0, -0.0}, logs[] = {1e-50, 1, 0, 0};
    scd_cell cell = serialize(f, f->plain, SCD_INPUT_COUNTS, 4, tokens, counts, 0);
    assert_int_equal(cell.n_tokens, 1);
    assert_int_equal(cell.genes_known, 3);
    assert_int_equal(cell.genes_unknown, 1);
    cell = serialize(f, f->plain, SCD_INPUT_LOG1P_CP10K, 4, tokens, logs, 0);
    assert_int_equal(cell.n_tokens, 1); /* 1e-50 is 0 in float32 */
    assert_int_equal(cell.ids[0], 11);
}

static void genes_that_are_not_wanted_are_left_out_but_count_in_the_total(void **state)
{
    fixture *f = *state;
    static uint8_t wanted[VOCAB];
    const int32_t tokens[] = {10, 11, -1, 12, 10};
    const double counts[] = {3, 4, 5, 0, 1};
    scd_cell all = serialize(f, f->plain, SCD_INPUT_COUNTS, 5, tokens, counts, 0), some;
    scd_cell_values in = {.n = 5, .tokens = tokens, .values = counts, .wanted = wanted};
    scd_error err = {0};
    wanted[11] = 1;
    assert_int_equal(
        scd_cell_serialize(&config, f->plain, SCD_INPUT_COUNTS, &in, &f->arena, &some, NULL, &err),
        SCD_OK);
    assert_int_equal(some.n_tokens, 1);
    assert_int_equal(some.ids[0], 11);
    assert_int_equal(some.genes_unwanted, 2); /* inputs: two of token 10, and 12 has no value */
    assert_int_equal(some.genes_known, all.genes_known);
    assert_true(some.mapped_counts == all.mapped_counts && some.given_counts == all.given_counts);
    assert_int_equal(all.n_tokens, 2);
    assert_int_equal(all.genes_unwanted, 0);
    assert_true(some.values[0] == all.values[all.ids[0] == 11 ? 0 : 1]);
    wanted[11] = 0;
    assert_int_equal(
        scd_cell_serialize(&config, f->plain, SCD_INPUT_COUNTS, &in, &f->arena, &some, NULL, &err),
        SCD_E_INVALID);
    assert_non_null(strstr(err.message, "none of its 3 expressed genes"));
}

static void so_are_those_that_the_vocabulary_does_not_use(void **state)
{
    fixture *f = *state;
    scd_vocab *v = NULL;
    static uint8_t wanted[VOCAB];
    const char *genes = "token_id\tsymbol\tused\n10\tA\t1\n11\tB\t0\n12\tC\t1\n";
    const int32_t tokens[] = {10, 11, 12};
    const double counts[] = {3, 4, 5};
    assert_int_equal(scd_vocab_parse(genes, strlen(genes), &config, &v, NULL), SCD_OK);
    scd_cell all = serialize(f, f->plain, SCD_INPUT_COUNTS, 3, tokens, counts, 0);
    scd_cell some = serialize(f, v, SCD_INPUT_COUNTS, 3, tokens, counts, 0);
    assert_true(some.n_tokens == 2 && some.ids[0] == 12 && some.ids[1] == 10);
    assert_true(some.values[0] == all.values[0] && some.genes_unwanted == 1);
    assert_true(some.genes_known == 3 && some.mapped_counts == all.mapped_counts);
    scd_cell_values in = {.n = 3, .tokens = tokens, .values = counts, .wanted = wanted};
    wanted[10] = wanted[11] = 1; /* both must want a gene */
    assert_int_equal(
        scd_cell_serialize(&config, v, SCD_INPUT_COUNTS, &in, &f->arena, &some, NULL, NULL),
        SCD_OK);
    assert_true(some.n_tokens == 1 && some.ids[0] == 10 && some.genes_unwanted == 2);
    wanted[10] = 0;
    assert_int_equal(
        scd_cell_serialize(&config, v, SCD_INPUT_COUNTS, &in, &f->arena, &some, NULL, NULL),
        SCD_E_INVALID);
    in.may_be_blank = true;
    assert_int_equal(
        scd_cell_serialize(&config, v, SCD_INPUT_COUNTS, &in, &f->arena, &some, NULL, NULL),
        SCD_OK);
    assert_int_equal(some.n_tokens, 0);
    scd_vocab_free(v);
}

static void a_cell_is_cut_at_the_maximum_and_says_so(void **state)
{
    fixture *f = *state;
    enum { N = 3000 };
    static int32_t tokens[N];
    static double values[N];
    for (int i = 0; i < N; i++) {
        tokens[i] = 2 + i;
        values[i] = 1 + i;
    }
    scd_cell cell = serialize(f, f->plain, SCD_INPUT_COUNTS, N, tokens, values, 0);
    assert_int_equal(cell.n_tokens, 1200);
    assert_int_equal(cell.genes_truncated, 1800);
    assert_int_equal(cell.ids[0], 3001);
    assert_int_equal(cell.ids[1199], 1802);
}

static void values_that_are_no_counts_are_refused_by_index(void **state)
{
    fixture *f = *state;
    const int32_t tokens[] = {10, 11, 12};
    const struct {
        double value;
        const char *part;
    } bad[] = {{NAN, "NaN"},     {INFINITY, "infinite"}, {-1, "scaled"},
               {-0.5, "counts"}, {1.5, "whole"},         {3.0000001, "whole"},
               {1e300, "2^53"},  {0x1p53 + 2, "2^53"},   {1e-300, "whole"}};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        const double values[] = {1, 2, bad[i].value};
        assert_refused(f, SCD_INPUT_COUNTS, 3, tokens, values, 0, 2, bad[i].part);
    }
    const double fraction[] = {1, 2.5, 3};
    assert_refused(f, SCD_INPUT_COUNTS, 3, tokens, fraction, 0, 1, "log1p_cp10k");
    const int32_t unknown[] = {10, -1, 12}; /* a value of an unknown gene is checked as well */
    assert_refused(f, SCD_INPUT_COUNTS, 3, unknown, fraction, 0, 1, "2.5");
}

static void values_that_are_no_log1p_are_refused_by_index(void **state)
{
    fixture *f = *state;
    const int32_t tokens[] = {10, 11};
    const double counts[] = {1, 40}, over[] = {9.2105, 1}, scaled[] = {-0.3, 1}, nan[] = {1, NAN};
    assert_refused(f, SCD_INPUT_LOG1P_CP10K, 2, tokens, counts, 0, 1, "\"input\": \"counts\"");
    assert_refused(f, SCD_INPUT_LOG1P_CP10K, 2, tokens, over, 0, 0, "log1p CP10K");
    assert_refused(f, SCD_INPUT_LOG1P_CP10K, 2, tokens, scaled, 0, 0, "send the counts");
    assert_refused(f, SCD_INPUT_LOG1P_CP10K, 2, tokens, nan, 0, 1, "NaN");
}

static void totals_that_cannot_be_are_refused(void **state)
{
    fixture *f = *state;
    const int32_t tokens[] = {10, -1};
    const double values[] = {4, 6};
    assert_refused(f, SCD_INPUT_COUNTS, 2, tokens, values, 9, SIZE_MAX, "less than the sum 10");
    assert_refused(f, SCD_INPUT_COUNTS, 2, tokens, values, -1, SIZE_MAX, "total is -1");
    assert_refused(f, SCD_INPUT_COUNTS, 2, tokens, values, NAN, SIZE_MAX, "finite");
    assert_refused(f, SCD_INPUT_COUNTS, 2, tokens, values, INFINITY, SIZE_MAX, "finite");
    serialize(f, f->plain, SCD_INPUT_COUNTS, 2, tokens, values, 9.999999); /* rounded somewhere */
}

static void a_cell_without_a_known_gene_is_refused(void **state)
{
    fixture *f = *state;
    const int32_t unknown[] = {-1, -1}, tokens[] = {10, -1};
    const double values[] = {4, 6}, none[] = {0, 6};
    assert_refused(f, SCD_INPUT_COUNTS, 2, unknown, values, 0, SIZE_MAX, "0 genes known");
    assert_refused(f, SCD_INPUT_COUNTS, 2, tokens, none, 0, SIZE_MAX, "no known gene");
    assert_refused(f, SCD_INPUT_COUNTS, 0, tokens, none, 0, SIZE_MAX, "no known gene");
    assert_refused(f, SCD_INPUT_LOG1P_CP10K, 1, tokens, none, 0, SIZE_MAX, "no known gene");
}

static void a_million_inputs_of_one_gene_are_one_token(void **state)
{
    fixture *f = *state;
    enum { N = 1000000 };
    int32_t *tokens = malloc(N * sizeof *tokens);
    double *values = malloc(N * sizeof *values);
    for (size_t i = 0; i < N; i++) {
        tokens[i] = 10;
        values[i] = 1 + (double)(i % 3);
    }
    scd_cell cell = serialize(f, f->plain, SCD_INPUT_COUNTS, N, tokens, values, 0);
    assert_int_equal(cell.n_tokens, 1);
    assert_true(cell.values[0] == (float)log1p(1e4));
    free(values);
    free(tokens);
}

static void a_failed_allocation_is_reported_and_leaks_nothing(void **state)
{
    fixture *f = *state;
    enum { N = 4000 };
    static int32_t tokens[N];
    static double values[N];
    for (int i = 0; i < N; i++) {
        tokens[i] = 2 + i / 40; /* groups larger than the ones combined on the stack */
        values[i] = 1;
    }
    const scd_cell_values in = {.n = N, .tokens = tokens, .values = values};
    scd_cell cell;
    scd_code code = SCD_E_NOMEM;
    for (long n = 0; code && n < 1000; n++) {
        scd_arena_release(&f->arena);
        scd_mem_fail_after(n);
        code = scd_cell_serialize(&config, f->plain, SCD_INPUT_COUNTS, &in, &f->arena, &cell, NULL,
                                  NULL);
        scd_mem_fail_after(-1);
        assert_true(code == SCD_OK || code == SCD_E_NOMEM);
    }
    assert_int_equal(code, SCD_OK);
    scd_arena none;
    scd_arena_init(&none, 8);
    assert_int_equal(
        scd_cell_serialize(&config, f->plain, SCD_INPUT_COUNTS, &in, &none, &cell, NULL, NULL),
        SCD_E_NOMEM);
    scd_arena_release(&none);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_cells_match_the_plain_reference_to_the_bit),
        cmocka_unit_test(a_count_becomes_log1p_of_counts_per_ten_thousand),
        cmocka_unit_test(log1p_values_are_taken_as_they_are),
        cmocka_unit_test(inputs_on_one_token_are_summed_in_count_space),
        cmocka_unit_test(the_order_of_the_inputs_does_not_matter),
        cmocka_unit_test(ties_go_by_token_id_and_entropy_divides_the_score),
        cmocka_unit_test(zeros_are_no_tokens_but_their_genes_are_known),
        cmocka_unit_test(genes_that_are_not_wanted_are_left_out_but_count_in_the_total),
        cmocka_unit_test(so_are_those_that_the_vocabulary_does_not_use),
        cmocka_unit_test(a_cell_is_cut_at_the_maximum_and_says_so),
        cmocka_unit_test(values_that_are_no_counts_are_refused_by_index),
        cmocka_unit_test(values_that_are_no_log1p_are_refused_by_index),
        cmocka_unit_test(totals_that_cannot_be_are_refused),
        cmocka_unit_test(a_cell_without_a_known_gene_is_refused),
        cmocka_unit_test(a_million_inputs_of_one_gene_are_one_token),
        cmocka_unit_test(a_failed_allocation_is_reported_and_leaks_nothing),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
