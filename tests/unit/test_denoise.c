/* test_denoise.c - courses on a real engine with a tiny model: they end, keep their promises, and
 * their bits depend on the cell, its seed and the pass alone. What the numbers should be is checked
 * against float64 in tests/e2e/test_denoise.py. */
#include "engine/engine.h"
#include "tests/unit/tiny_model.h"

#include "engine/base/mem.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

enum { CELLS = 6, MAX_WIDTH = 1 + 2 * TINY_MAX_GENES * TINY_MAX_GENES, GENES = TINY_VOCAB - 5 };

static const uint8_t all[8] = {1, 1, 1, 1, 1, 1, 1, 1}; /* layers, heads */

static tiny_model model;
static scd_engine *engine;

static int32_t ids[CELLS][TINY_MAX_GENES];
static float values[CELLS][TINY_MAX_GENES];
static uint8_t hidden[CELLS][TINY_MAX_GENES];
static uint8_t half_given[CELLS][TINY_MAX_GENES]; /* the same, with genes that are shown */
static scd_cell cells[CELLS];

static int open_engine(void **state)
{
    (void)state;
    const char *dir = model.dir;
    scd_engine_options o = {.device = SCD_DEVICE_CPU,
                            .threads = 2,
                            .max_batch_tokens = CELLS * (TINY_MAX_GENES + 1),
                            .model_dirs = &dir,
                            .n_models = 1};
    for (size_t i = 0; i < CELLS; i++) {
        size_t n = i + 1 == CELLS ? TINY_MAX_GENES : 3 + 2 * i;
        for (size_t k = 0; k < n; k++) {
            ids[i][k] = (int32_t)(2 + (i * 11 + k) % GENES);
            values[i][k] = 0.5f + (float)((i + k * 3) % 7);
            hidden[i][k] = k % 3 != 0;
            half_given[i][k] = hidden[i][k] && k % 2 ? SCD_HIDE_VALUE : hidden[i][k];
        }
        cells[i] = (scd_cell){.n_tokens = n, .ids = ids[i], .values = values[i]};
    }
    memset(hidden[CELLS - 1], 1, TINY_MAX_GENES); /* nothing is seen of the last */
    return tiny_model_make(&model, "tiny", "1") || scd_engine_open(&o, &engine, NULL);
}

static int close_engine(void **state)
{
    (void)state;
    scd_engine_close(engine);
    tiny_model_remove(&model);
    return 0;
}

static scd_plan plan_of(size_t cell, scd_plan_kind kind, size_t steps, float temperature)
{
    return (scd_plan){.kind = kind,
                      .hidden = hidden[cell],
                      .seed = 100 + cell,
                      .steps = steps,
                      .temperature = temperature,
                      .layers = all,
                      .heads = all};
}

static scd_course *course_of(const scd_plan *asked, size_t cell)
{
    scd_course *c = NULL;
    scd_error err = {0};
    if (scd_course_new(asked, scd_engine_model(engine, 0)->config, &cells[cell], &c, &err))
        fail_msg("%s", err.message);
    return c;
}

static void step(const scd_step *steps, size_t n)
{
    scd_error err = {0};
    if (scd_engine_step(engine, (scd_work){0}, steps, n, &err))
        fail_msg("%s", err.message);
}

/* The cell's whole way, alone. */
static size_t alone(const scd_plan *asked, size_t cell, float *out)
{
    size_t width, passes = 0;
    scd_course *c = course_of(asked, cell);
    for (; scd_course_passes_left(c); passes++) {
        assert_true(passes < 1000);
        step(&(scd_step){.course = c}, 1);
    }
    const float *r = scd_course_result(c, &width);
    assert_true(r[0] == (float)passes);
    memcpy(out, r, width * sizeof *out);
    scd_course_free(c);
    return width;
}

static void every_hidden_token_becomes_a_gene_that_the_cell_does_not_have_yet(void **state)
{
    (void)state;
    static const float temperatures[] = {0, 1, 5};
    for (size_t i = 0; i < CELLS; i++)
        for (size_t t = 0; t < 3; t++)
            for (size_t steps = 1; steps <= 5; steps += 2) {
                scd_plan p = plan_of(i, SCD_PLAN_SAMPLE, steps, temperatures[t]);
                float r[MAX_WIDTH];
                size_t width = alone(&p, i, r);
                bool seen[TINY_VOCAB] = {false};
                for (size_t k = 0; k < cells[i].n_tokens; k++)
                    if (!hidden[i][k])
                        seen[ids[i][k]] = true;
                for (size_t k = 1; k < width; k += 3) {
                    assert_true(r[k] >= 2 && r[k] < 2 + GENES && !seen[(int)r[k]]);
                    assert_true(r[k + 1] >= 0 && r[k + 2] > 0 && r[k + 2] <= 1);
                    seen[(int)r[k]] = true;
                }
            }
}

/* Courses of every kind and plain cells in one batch, joining and leaving at different passes. */
static void a_course_has_the_same_bits_alone_and_in_company(void **state)
{
    (void)state;
    static const scd_plan_kind kinds[] = {SCD_PLAN_ASSOCIATE, SCD_PLAN_VALUES, SCD_PLAN_POSTERIOR};
    float embedding[TINY_DIM], want[2 * CELLS][MAX_WIDTH];
    const scd_cell *plain = &cells[1];
    assert_int_equal(scd_engine_compute(engine, (scd_work){0}, &plain, 1, embedding, NULL), SCD_OK);
    scd_course *c[2 * CELLS];
    size_t width[2 * CELLS], n_left = 0;
    for (size_t i = 0; i < 2 * CELLS; i++) {
        scd_plan p = plan_of(i % CELLS, i < CELLS ? SCD_PLAN_SAMPLE : kinds[i % 3], 1 + i % 4,
                             i % 2 ? 1.0f : 0);
        p.refresh = i % 3 == 0 && p.kind == SCD_PLAN_SAMPLE;
        if (i % 2 && p.kind == SCD_PLAN_SAMPLE)
            p.hidden = half_given[i];
        width[i] = alone(&p, i % CELLS, want[i]);
        c[i] = course_of(&p, i % CELLS);
    }
    for (size_t round = 0; round == 0 || n_left; round++) {
        scd_step steps[CELLS];
        float out[TINY_DIM];
        size_t n = 0;
        n_left = 0;
        for (size_t i = 0; i < 2 * CELLS; i++) {
            n_left += scd_course_passes_left(c[i]) > 0;
            if (scd_course_passes_left(c[i]) && n + 1 < CELLS && (i + round) % 3)
                steps[n++] = (scd_step){.course = c[i]};
        }
        steps[n++] = (scd_step){.cell = plain, .out = out};
        step(steps, n);
        assert_memory_equal(out, embedding, sizeof out);
    }
    for (size_t i = 0; i < 2 * CELLS; i++) {
        size_t got;
        const float *r = scd_course_result(c[i], &got);
        assert_int_equal(got, width[i]);
        assert_memory_equal(r, want[i], got * sizeof *r);
        scd_course_free(c[i]);
    }
}

static void the_seed_decides_at_a_temperature_and_nothing_at_none(void **state)
{
    (void)state;
    for (int warm = 0; warm < 2; warm++) {
        float a[MAX_WIDTH], b[MAX_WIDTH];
        scd_plan p = plan_of(4, SCD_PLAN_SAMPLE, 3, warm ? 2.0f : 0);
        size_t width = alone(&p, 4, a);
        p.seed++;
        alone(&p, 4, b);
        assert_true((memcmp(a, b, width * sizeof *a) == 0) == !warm);
    }
}

static void only_candidates_are_named(void **state)
{
    (void)state;
    const int32_t candidates[] = {40, 41, 42, 43, 44, 45, 46, 3};
    scd_plan p = plan_of(3, SCD_PLAN_SAMPLE, 2, 1);
    p.candidates = candidates;
    p.n_candidates = 8;
    float r[MAX_WIDTH];
    size_t width = alone(&p, 3, r);
    for (size_t k = 1; k < width; k += 3)
        assert_true(r[k] == 3 || (r[k] >= 40 && r[k] <= 46));
}

static void a_list_of_candidates_as_long_as_what_is_hidden_is_used_up(void **state)
{
    (void)state;
    int32_t candidates[TINY_MAX_GENES];
    for (int32_t i = 0; i < TINY_MAX_GENES; i++)
        candidates[i] = 10 + i;
    scd_plan p = plan_of(CELLS - 1, SCD_PLAN_SAMPLE, 1, 0); /* 20 tokens, lists of 16 */
    p.candidates = candidates;
    p.n_candidates = TINY_MAX_GENES;
    float r[MAX_WIDTH];
    size_t width = alone(&p, CELLS - 1, r);
    bool seen[TINY_VOCAB] = {false};
    for (size_t k = 1; k < width; k += 3) {
        assert_true(r[k] >= 10 && r[k] < 10 + TINY_MAX_GENES && !seen[(int)r[k]]);
        seen[(int)r[k]] = true;
    }
}

static void what_does_not_fit_or_has_a_head_is_refused(void **state)
{
    (void)state;
    scd_error err = {0};
    scd_plan p = plan_of(CELLS - 1, SCD_PLAN_SAMPLE, 1, 0);
    scd_step steps[CELLS + 1];
    scd_course *c = course_of(&p, CELLS - 1);
    for (size_t i = 0; i <= CELLS; i++)
        steps[i] = (scd_step){.course = c};
    assert_int_equal(scd_engine_step(engine, (scd_work){0}, steps, CELLS + 1, &err),
                     SCD_E_TOO_LARGE);
    assert_int_equal(scd_course_passes_left(c), 1);
    scd_course_free(c);
}

static void a_failing_allocation_at_open_is_reported_and_leaves_nothing(void **state)
{
    (void)state;
    const char *dir = model.dir;
    scd_engine_options o = {.device = SCD_DEVICE_CPU,
                            .threads = 1,
                            .max_batch_tokens = TINY_MAX_GENES + 1,
                            .model_dirs = &dir,
                            .n_models = 1};
    scd_code code = SCD_E_NOMEM;
    for (long n = 0; code; n++) {
        scd_engine *e = NULL;
        scd_mem_fail_after(n);
        code = scd_engine_open(&o, &e, NULL);
        scd_mem_fail_after(-1);
        assert_true(code == SCD_OK || code == SCD_E_NOMEM || code == SCD_E_DEVICE);
        assert_true((e != NULL) == (code == SCD_OK));
        scd_engine_close(e);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_hidden_token_becomes_a_gene_that_the_cell_does_not_have_yet),
        cmocka_unit_test(a_course_has_the_same_bits_alone_and_in_company),
        cmocka_unit_test(the_seed_decides_at_a_temperature_and_nothing_at_none),
        cmocka_unit_test(only_candidates_are_named),
        cmocka_unit_test(a_list_of_candidates_as_long_as_what_is_hidden_is_used_up),
        cmocka_unit_test(what_does_not_fit_or_has_a_head_is_refused),
        cmocka_unit_test(a_failing_allocation_at_open_is_reported_and_leaves_nothing),
    };
    return cmocka_run_group_tests(tests, open_engine, close_engine);
}
