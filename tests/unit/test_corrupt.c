/* test_corrupt.c - what the objective hides of a cell, how often, and that it depends on nothing
 * but seed and draw number.
 *
 * Threads: main. */
#include "engine/base/mem.h"
#include "engine/train/corrupt.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { N_GENES = 400, FIRST = 2 };

typedef struct fixture {
    scd_model_config config;
    scd_vocab *plain, *weighted; /* without entropies; with falling ones */
    int32_t ids[N_GENES];
    float values[N_GENES];
    scd_clean_cell cell;
    scd_arena arena;
} fixture;

static scd_vocab *vocab_of(const scd_model_config *config, bool entropies)
{
    static char text[N_GENES * 40];
    scd_vocab *vocab = NULL;
    size_t at = (size_t)sprintf(text, "token_id\tsymbol%s\n", entropies ? "\tentropy" : "");
    for (int i = 0; i < N_GENES; i++) {
        at += (size_t)sprintf(text + at, "%d\tG%d", FIRST + i, i);
        at += (size_t)(entropies ? sprintf(text + at, "\t%.3f\n", 1.0 - 0.002 * i)
                                 : sprintf(text + at, "\n"));
    }
    assert_int_equal(scd_vocab_parse(text, at, config, &vocab, NULL), SCD_OK);
    return vocab;
}

static int set_up(void **state)
{
    fixture *f = calloc(1, sizeof *f);
    char json[300];
    int n = snprintf(json, sizeof json,
                     "{\"VOCAB_SIZE\": %d, \"PAD_FILL_GENE_ID\": %d, \"BOS_GENE_ID\": %d, "
                     "\"EOS_GENE_ID\": %d, \"MAX_GENE_LEN\": 1000}",
                     N_GENES + 5, N_GENES + 2, N_GENES + 3, N_GENES + 4);
    assert_int_equal(scd_model_config_parse(json, (size_t)n, &f->config, NULL), SCD_OK);
    f->plain = vocab_of(&f->config, false);
    f->weighted = vocab_of(&f->config, true);
    for (int i = 0; i < N_GENES; i++) {
        f->ids[i] = FIRST + (i * 7) % N_GENES; /* 7 and N_GENES share no factor: any order */
        f->values[i] = 0.01f * (float)(1 + (i * 31) % 300);
    }
    f->cell = (scd_clean_cell){N_GENES, f->ids, f->values};
    scd_arena_init(&f->arena, 1 << 26);
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

static scd_corrupted corrupt(fixture *f, const scd_corrupt_options *o, uint64_t draw)
{
    scd_corrupted out;
    scd_error err = {0};
    if (scd_corrupt(o, &f->config, f->plain, &f->cell, draw, &f->arena, &out, &err))
        fail_msg("%s", err.message);
    return out;
}

static float clean_value(const fixture *f, int32_t id)
{
    for (size_t i = 0; i < N_GENES; i++)
        if (f->ids[i] == id)
            return f->values[i];
    fail_msg("token %d was never given", id);
    return 0;
}

static const scd_corrupt_options paper = {.seed = 5, .depth_min = 0.25};

static void nine_tenths_of_m_are_hidden_and_one_is_left(void **state)
{
    fixture *f = *state;
    double n_hidden = 0, n_target = 0;
    for (uint64_t draw = 0; draw < 200; draw++) {
        scd_corrupted c = corrupt(f, &paper, draw);
        assert_int_equal(c.sequence.n, N_GENES);
        assert_int_equal(c.n_gene, c.n_value);
        for (size_t i = 0; i < N_GENES; i++) {
            uint8_t target = c.sequence.target[i], hidden = c.sequence.hidden[i];
            assert_true(target == 0 || target == (SCD_TARGET_GENE | SCD_TARGET_VALUE));
            assert_true(hidden == 0 || hidden == (SCD_HIDE_GENE | SCD_HIDE_VALUE));
            assert_true(target || !hidden); /* nothing is hidden that is not asked for */
            n_hidden += hidden != 0;
            n_target += target != 0;
        }
    }
    /* 40,000 members of M: five standard errors of a share of 0.9 are 0.0075. */
    assert_true(fabs(n_hidden / n_target - 0.9) < 0.0075);
}

static void a_cells_masking_rate_is_uniform(void **state)
{
    fixture *f = *state;
    enum { N = 1000, BINS = 5 };
    int bins[BINS] = {0};
    double sum = 0;
    for (uint64_t draw = 0; draw < N; draw++) {
        double share = (double)corrupt(f, &paper, draw).n_value / N_GENES;
        sum += share;
        bins[share < 1 ? (int)(share * BINS) : BINS - 1]++;
        scd_arena_release(&f->arena);
    }
    /* sd of the mean of N uniforms 0.0091; of a bin's count sqrt(1000 * .2 * .8) = 12.6 */
    assert_true(fabs(sum / N - 0.5) < 0.046);
    for (int i = 0; i < BINS; i++)
        assert_in_range(bins[i], 200 - 63, 200 + 63);
}

static void values_are_rescaled_and_targets_clean(void **state)
{
    fixture *f = *state;
    double least = 1, most = 0;
    for (uint64_t draw = 0; draw < 100; draw++) {
        scd_corrupted c = corrupt(f, &paper, draw);
        double scale = expm1((double)c.sequence.values[0]) / expm1((double)c.sequence.clean[0]);
        for (size_t i = 0; i < N_GENES; i++) {
            double x = (double)c.sequence.clean[i];
            assert_true(c.sequence.clean[i] == clean_value(f, c.sequence.ids[i]));
            /* seen is a float32, so is the value the scale was read from */
            assert_true(fabs((double)c.sequence.values[i] - log1p(scale * expm1(x))) < 1e-5);
        }
        least = scale < least ? scale : least;
        most = scale > most ? scale : most;
    }
    assert_true(least >= 0.25 - 1e-5 && least < 0.3);
    assert_true(most <= 1 + 1e-5 && most > 0.95);
}

static void without_rescaling_the_model_sees_clean_values(void **state)
{
    fixture *f = *state;
    scd_corrupted c = corrupt(f, &(scd_corrupt_options){.seed = 5, .depth_min = 1}, 3);
    assert_memory_equal(c.sequence.values, c.sequence.clean, N_GENES * sizeof(float));
}

static void the_same_draw_is_the_same_whatever_order_the_tokens_came_in(void **state)
{
    fixture *f = *state;
    int32_t ids[N_GENES];
    float values[N_GENES];
    for (size_t i = 0; i < N_GENES; i++) {
        ids[i] = f->ids[N_GENES - 1 - i];
        values[i] = f->values[N_GENES - 1 - i];
    }
    scd_corrupted a = corrupt(f, &paper, 77), b;
    const scd_clean_cell turned = {N_GENES, ids, values};
    assert_int_equal(scd_corrupt(&paper, &f->config, f->plain, &turned, 77, &f->arena, &b, NULL),
                     SCD_OK);
    assert_memory_equal(a.sequence.ids, b.sequence.ids, sizeof ids);
    assert_memory_equal(a.sequence.values, b.sequence.values, sizeof values);
    assert_memory_equal(a.sequence.hidden, b.sequence.hidden, N_GENES);
    assert_memory_equal(a.sequence.target, b.sequence.target, N_GENES);
    scd_corrupted other = corrupt(f, &paper, 78);
    assert_memory_not_equal(a.sequence.target, other.sequence.target, N_GENES);
    scd_corrupt_options seed = paper;
    seed.seed++;
    other = corrupt(f, &seed, 77);
    assert_memory_not_equal(a.sequence.target, other.sequence.target, N_GENES);
}

static void the_order_is_that_of_the_values_the_model_sees(void **state)
{
    fixture *f = *state;
    scd_corrupted c;
    for (uint64_t draw = 0; draw < 20; draw++) {
        assert_int_equal(
            scd_corrupt(&paper, &f->config, f->weighted, &f->cell, draw, &f->arena, &c, NULL),
            SCD_OK);
        for (size_t i = 1; i < N_GENES; i++) {
            float before = c.sequence.values[i - 1] /
                           (scd_vocab_entropy(f->weighted, c.sequence.ids[i - 1]) + 1e-6f);
            float here =
                c.sequence.values[i] / (scd_vocab_entropy(f->weighted, c.sequence.ids[i]) + 1e-6f);
            assert_true(before > here ||
                        (before == here && c.sequence.ids[i - 1] < c.sequence.ids[i]));
        }
    }
}

static void a_random_order_hides_the_same_tokens(void **state)
{
    fixture *f = *state;
    scd_corrupt_options shuffled = paper;
    shuffled.random_order = true;
    scd_corrupted a = corrupt(f, &paper, 9), b = corrupt(f, &shuffled, 9);
    bool asked[N_GENES + FIRST] = {false};
    size_t moved = 0;
    for (size_t i = 0; i < N_GENES; i++)
        asked[a.sequence.ids[i]] = a.sequence.target[i] != 0;
    for (size_t i = 0; i < N_GENES; i++) {
        assert_true(asked[b.sequence.ids[i]] == (b.sequence.target[i] != 0));
        moved += a.sequence.ids[i] != b.sequence.ids[i];
    }
    assert_true(moved > N_GENES / 2);
}

static void a_fixed_rate_hides_all_of_m(void **state)
{
    fixture *f = *state;
    const scd_corrupt_options fixed = {.seed = 1, .depth_min = 1, .rate = 0.15};
    size_t n = 0;
    for (uint64_t draw = 0; draw < 50; draw++) {
        scd_corrupted c = corrupt(f, &fixed, draw);
        for (size_t i = 0; i < N_GENES; i++)
            assert_int_equal(c.sequence.hidden[i],
                             c.sequence.target[i] ? SCD_HIDE_GENE | SCD_HIDE_VALUE : 0);
        n += c.n_value;
    }
    /* 20,000 tokens: five standard errors are 0.0126. */
    assert_true(fabs((double)n / (50 * N_GENES) - 0.15) < 0.0126);
}

static void a_share_of_m_hides_only_the_value(void **state)
{
    fixture *f = *state;
    scd_corrupt_options o = paper;
    o.value_only = 0.3;
    double n_value_only = 0, n_left = 0, n = 0;
    for (uint64_t draw = 0; draw < 200; draw++) {
        scd_corrupted c = corrupt(f, &o, draw);
        size_t n_gene = 0;
        for (size_t i = 0; i < N_GENES; i++) {
            uint8_t target = c.sequence.target[i], hidden = c.sequence.hidden[i];
            assert_true((hidden == SCD_HIDE_VALUE) == (target == SCD_TARGET_VALUE));
            n_value_only += target == SCD_TARGET_VALUE;
            n_left += target && !hidden;
            n_gene += (target & SCD_TARGET_GENE) != 0;
        }
        assert_int_equal(n_gene, c.n_gene);
        n += (double)c.n_value;
    }
    assert_true(fabs(n_value_only / n - 0.3) < 0.0115); /* five standard errors of 40,000 */
    assert_true(fabs(n_left / n - 0.07) < 0.0064);      /* a tenth of the rest */
}

static void what_is_cut_is_counted(void **state)
{
    fixture *f = *state;
    f->config.max_gene_len = 100;
    scd_corrupted c = corrupt(f, &paper, 1);
    assert_int_equal(c.sequence.n, 100);
    assert_int_equal(c.n_truncated, N_GENES - 100);
}

static void a_cell_without_tokens_has_no_sequence(void **state)
{
    fixture *f = *state;
    f->cell.n = 0;
    assert_int_equal(corrupt(f, &paper, 1).sequence.n, 0);
}

static void clean_values_are_those_of_serving(void **state)
{
    fixture *f = *state;
    const int32_t tokens[] = {3, 5, 8};
    const float counts[] = {1, 0, 12}, logs[] = {0.5f, 0, 9};
    scd_corpus_cell cell = {.kind = SCD_INPUT_COUNTS, .n = 3, .tokens = tokens, .values = counts};
    cell.total = 2500;
    scd_clean_cell clean;
    assert_int_equal(scd_clean_cell_of(&cell, &f->arena, &clean, NULL), SCD_OK);
    const double values[] = {1, 0, 12};
    const scd_cell_values in = {.n = 3, .tokens = tokens, .values = values, .total = 2500};
    scd_cell served;
    assert_int_equal(scd_cell_serialize(&f->config, f->plain, SCD_INPUT_COUNTS, &in, &f->arena,
                                        &served, NULL, NULL),
                     SCD_OK);
    assert_int_equal(clean.n, 2);
    assert_int_equal(clean.ids[1], 8);
    assert_true(clean.values[0] == served.values[1] && clean.values[1] == served.values[0]);
    cell.kind = SCD_INPUT_LOG1P_CP10K;
    cell.values = logs;
    assert_int_equal(scd_clean_cell_of(&cell, &f->arena, &clean, NULL), SCD_OK);
    assert_true(clean.n == 2 && clean.values[0] == 0.5f && clean.values[1] == 9);
}

static void a_full_arena_is_reported(void **state)
{
    fixture *f = *state;
    for (size_t room = 0; room < 60000; room += 700) {
        scd_arena small;
        scd_corrupted out;
        scd_arena_init(&small, room);
        scd_code code = scd_corrupt(&paper, &f->config, f->plain, &f->cell, 1, &small, &out, NULL);
        assert_true(code == SCD_OK || code == SCD_E_NOMEM);
        scd_arena_release(&small);
    }
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(nine_tenths_of_m_are_hidden_and_one_is_left),
        TEST(a_cells_masking_rate_is_uniform),
        TEST(values_are_rescaled_and_targets_clean),
        TEST(without_rescaling_the_model_sees_clean_values),
        TEST(the_same_draw_is_the_same_whatever_order_the_tokens_came_in),
        TEST(the_order_is_that_of_the_values_the_model_sees),
        TEST(a_random_order_hides_the_same_tokens),
        TEST(a_fixed_rate_hides_all_of_m),
        TEST(a_share_of_m_hides_only_the_value),
        TEST(what_is_cut_is_counted),
        TEST(a_cell_without_tokens_has_no_sequence),
        TEST(clean_values_are_those_of_serving),
        TEST(a_full_arena_is_reported),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
