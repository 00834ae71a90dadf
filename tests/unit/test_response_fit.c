/* test_response_fit.c - additive effects: what a mixed model must do, on made-up studies. */
#include "engine/train/response_fit.h"

#include "engine/base/mem.h"
#include "engine/base/rng.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { G = 60, T = 8, SINGLES = 6, N = 10, D = 3, N_PAIRS = N - SINGLES };

/* Targets 0 to 5 alone and four pairs, two of them with targets that were never alone; every
 * delta is a mean plus the sum of its targets' effects plus noise. */
typedef struct made {
    scd_response_condition conditions[N];
    float deltas[N * G], features[N * D];
    double noise[N];
    uint32_t group[N];
    float effect[T][G], mean[G];
    scd_study s;
} made;

static void make(made *m, float noise)
{
    static const uint32_t pairs[N_PAIRS][2] = {{0, 1}, {2, 6}, {3, 6}, {4, 7}};
    memset(m, 0, sizeof *m);
    for (size_t g = 0; g < G; g++) {
        m->mean[g] = 0.5f * scd_rng_normal(1, 0, g);
        for (size_t t = 0; t < T; t++)
            m->effect[t][g] = scd_rng_normal(1, 1 + t, g);
    }
    for (uint32_t i = 0; i < N; i++) {
        scd_response_condition *c = &m->conditions[i];
        c->n_targets = i < SINGLES ? 1 : 2;
        c->n_cells = 50;
        c->targets[0] = i < SINGLES ? i : pairs[i - SINGLES][0];
        c->targets[1] = i < SINGLES ? 0 : pairs[i - SINGLES][1];
        m->group[i] = i;
        m->noise[i] = (double)noise * (double)noise * G;
        for (size_t g = 0; g < G; g++) {
            float x = m->mean[g] + noise * scd_rng_normal(2, i, g);
            for (size_t k = 0; k < c->n_targets; k++)
                x += m->effect[c->targets[k]][g];
            m->deltas[i * G + g] = x;
        }
        for (size_t k = 0; k < D; k++)
            m->features[i * D + k] = scd_rng_normal(3, i, k);
    }
    m->s = (scd_study){G, T, 1, N, D, N, m->conditions, m->deltas, m->noise, m->features, m->group};
}

static double distance(const float *a, const float *b)
{
    double sum = 0;
    for (size_t g = 0; g < G; g++)
        sum += pow((double)a[g] - (double)b[g], 2);
    return sqrt(sum);
}

static const uint8_t all[N] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
static const scd_fit_settings plain = {.misfit = 0.01, .power = 0, .weight = 0, .shrink = 1};

static void ask_effects(const scd_fit *f, const scd_response_condition *c, float *out)
{
    scd_response_query q = {
        .context = c->context, .n_asked = c->n_targets, .n_targets = c->n_targets};
    memcpy(q.targets, c->targets, sizeof q.targets);
    scd_response_baseline(&f->response, SCD_BASELINE_EFFECTS, &q, out);
}

static void what_was_measured_well_is_answered_as_measured(void **state)
{
    (void)state;
    static made m;
    float out[G];
    scd_fit f;
    make(&m, 0.01f);
    assert_int_equal(scd_fit_new(&m.s, all, &plain, &f, NULL), SCD_OK);
    for (size_t i = 0; i < N; i++) {
        ask_effects(&f, &m.conditions[i], out);
        assert_true(distance(out, m.deltas + i * G) < 0.3 * distance(m.deltas + i * G, m.mean));
    }
    scd_fit_release(&f);
}

static void a_pair_of_known_targets_is_their_sum_and_a_target_is_learned_from_pairs(void **state)
{
    (void)state;
    static made m;
    float out[G], want[G];
    make(&m, 0.05f);
    assert_int_equal(scd_fit_predict(&m.s, all, &plain, SINGLES, out, NULL), SCD_OK);
    assert_true(distance(out, m.deltas + SINGLES * G) <
                distance(m.mean, m.deltas + SINGLES * G) / 3);
    /* target 6 was seen in two pairs, never alone */
    scd_fit f;
    assert_int_equal(scd_fit_new(&m.s, all, &plain, &f, NULL), SCD_OK);
    const scd_response_condition six = {.n_targets = 1, .targets = {6}};
    ask_effects(&f, &six, out);
    for (size_t g = 0; g < G; g++)
        want[g] = m.mean[g] + m.effect[6][g];
    assert_true(distance(out, want) < distance(m.mean, want) / 2);
    scd_fit_release(&f);
}

static void noise_shrinks_what_one_condition_says_to_the_mean(void **state)
{
    (void)state;
    static made m;
    float near[G], far[G];
    scd_fit f;
    make(&m, 0.05f);
    assert_int_equal(scd_fit_new(&m.s, all, &plain, &f, NULL), SCD_OK);
    ask_effects(&f, &m.conditions[5], near);
    m.noise[5] *= 4000; /* said to be measured on very few cells */
    scd_fit noisy;
    assert_int_equal(scd_fit_new(&m.s, all, &plain, &noisy, NULL), SCD_OK);
    ask_effects(&noisy, &m.conditions[5], far);
    assert_true(distance(far, noisy.response.effect_mean) <
                0.8 * distance(near, f.response.effect_mean));
    scd_fit_release(&noisy);
    scd_fit_release(&f);
}

static void leaving_out_is_fitting_without(void **state)
{
    (void)state;
    static made m;
    float left_out[G], without[G];
    make(&m, 0.3f);
    for (size_t i = 0; i < N; i++) {
        uint8_t keep[N];
        scd_fit f;
        memcpy(keep, all, sizeof keep);
        keep[i] = 0;
        assert_int_equal(scd_fit_predict(&m.s, all, &plain, i, left_out, NULL), SCD_OK);
        assert_int_equal(scd_fit_new(&m.s, keep, &plain, &f, NULL), SCD_OK);
        assert_int_equal(f.response.n_conditions, N - 1);
        ask_effects(&f, &m.conditions[i], without);
        assert_true(distance(left_out, without) < 1e-4); /* float32 tables */
        scd_fit_release(&f);
    }
}

static void
a_mean_that_helps_nobody_is_shrunk_and_additivity_is_trusted_where_it_holds(void **state)
{
    (void)state;
    static made m;
    scd_fit_settings s;
    make(&m, 0.05f);
    assert_int_equal(scd_fit_choose(&m.s, all, 0, 0, &s, NULL), SCD_OK);
    assert_true(s.misfit <= 0.1);
    for (size_t i = 0; i < N; i++) /* no mean, no shared target: nothing to learn from others */
        for (size_t g = 0; g < G; g++) {
            m.deltas[i * G + g] = scd_rng_normal(9, i, g);
            m.conditions[i].n_targets = 1;
            m.conditions[i].targets[0] = (uint32_t)(i % T);
        }
    m.s.n_conditions = T;
    assert_int_equal(scd_fit_choose(&m.s, all, 0, 0, &s, NULL), SCD_OK);
    assert_true(s.shrink == 0.5);
}

static void one_condition_or_none_in_a_context_is_no_trouble(void **state)
{
    (void)state;
    static made m;
    scd_fit_settings s[2] = {plain, plain};
    scd_fit f;
    float out[G];
    make(&m, 0.1f);
    m.s.n_contexts = 2; /* the second without any */
    assert_int_equal(scd_fit_choose(&m.s, all, 1, 0, &s[1], NULL), SCD_OK);
    assert_int_equal(scd_fit_new(&m.s, all, s, &f, NULL), SCD_OK);
    const scd_response_condition c = {.context = 1, .n_targets = 1, .targets = {0}};
    ask_effects(&f, &c, out);
    for (size_t g = 0; g < G; g++)
        assert_true(out[g] == 0);
    scd_fit_release(&f);
}

static void every_allocation_that_fails_is_reported(void **state)
{
    (void)state;
    static made m;
    scd_fit_settings s;
    scd_fit f = {0};
    make(&m, 0.1f);
    for (long n = 0;; n++) {
        scd_error err = {0};
        scd_mem_fail_after(n);
        scd_code code = scd_fit_choose(&m.s, all, 0, 3, &s, &err);
        if (!code)
            code = scd_fit_new(&m.s, all, &s, &f, &err);
        scd_mem_fail_after(-1);
        if (!code)
            break;
        assert_int_equal(code, SCD_E_NOMEM);
        assert_null(f.block);
    }
    scd_fit_release(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_measured_well_is_answered_as_measured),
        cmocka_unit_test(a_pair_of_known_targets_is_their_sum_and_a_target_is_learned_from_pairs),
        cmocka_unit_test(noise_shrinks_what_one_condition_says_to_the_mean),
        cmocka_unit_test(leaving_out_is_fitting_without),
        cmocka_unit_test(
            a_mean_that_helps_nobody_is_shrunk_and_additivity_is_trusted_where_it_holds),
        cmocka_unit_test(one_condition_or_none_in_a_context_is_no_trouble),
        cmocka_unit_test(every_allocation_that_fails_is_reported),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
