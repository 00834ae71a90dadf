/* test_response.c - baselines, the network's arithmetic and the scores, on a study of two contexts,
 * three targets and four genes that can be checked by hand. */
#include "engine/denoise/response.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

enum { G = 4, T = 3, C = 2, N = 4, D = 2 };

/* Context 0: targets 0 and 1 alone, and 0 with 2. Context 1: target 0 alone. */
static const scd_response_condition conditions[N] = {
    {.context = 0, .n_targets = 1, .targets = {0}, .n_cells = 10},
    {.context = 0, .n_targets = 1, .targets = {1}, .n_cells = 10},
    {.context = 0, .n_targets = 2, .targets = {0, 2}, .n_cells = 10},
    {.context = 1, .n_targets = 1, .targets = {0}, .n_cells = 10},
};
static const float deltas[N * G] = {1, 0, 0, 0, 0, 2, 0, 0, 2, 1, 0, -3, 0, 0, 9, 0};
static const float means[C * G] = {1, 1, 0, -1, 0, 0, 9, 0};
static const float effect_mean[C * G] = {0.5f, 0.5f, 0, 0, 0, 0, 1, 0};
static const float effects[C * T * G] = {[0] = 1, [G + 1] = 2, [2 * G + 3] = -3};
static const double power[C] = {0.5, 0};
static const float ridge[N * G] = {0.25f, 0, 0, 0, 0, 0.5f, 0, 0, 0, 0, 0, 0, 7, 7, 7, 7};
static const float features[N * D] = {1, 0, 0, 1, 1, 1, 1, 0};

static const scd_response study = {.n_genes = G,
                                   .n_targets = T,
                                   .n_contexts = C,
                                   .n_conditions = N,
                                   .feature_dim = D,
                                   .conditions = conditions,
                                   .deltas = deltas,
                                   .means = means,
                                   .effect_mean = effect_mean,
                                   .effects = effects,
                                   .power = power,
                                   .ridge = ridge,
                                   .features = features};

static void assert_values(const float *got, float a, float b, float c, float d)
{
    const float want[G] = {a, b, c, d};
    for (size_t g = 0; g < G; g++)
        if (fabsf(got[g] - want[g]) > 1e-6f) /* sums of a few numbers near 1 */
            fail_msg("gene %zu: %g, not %g", g, (double)got[g], (double)want[g]);
}

static void ask(scd_baseline baseline, uint32_t context, size_t n_asked, size_t n, uint32_t a,
                uint32_t b, const float *feature, float *out)
{
    scd_response_query q = {.context = context,
                            .n_asked = (uint32_t)n_asked,
                            .n_targets = (uint32_t)n,
                            .targets = {a, b},
                            .feature = feature};
    scd_response_baseline(&study, baseline, &q, out);
}

static void no_change_and_the_mean_are_the_same_for_every_question(void **state)
{
    (void)state;
    float out[G];
    ask(SCD_BASELINE_NO_CHANGE, 0, 1, 1, 0, 0, features, out);
    assert_values(out, 0, 0, 0, 0);
    ask(SCD_BASELINE_MEAN, 0, 2, 2, 0, 1, features, out);
    assert_values(out, 1, 1, 0, -1);
    ask(SCD_BASELINE_MEAN, 1, 1, 0, 0, 0, features, out);
    assert_values(out, 0, 0, 9, 0);
}

static void additive_sums_what_was_measured_alone_and_takes_the_mean_for_the_rest(void **state)
{
    (void)state;
    float out[G];
    ask(SCD_BASELINE_ADDITIVE, 0, 2, 2, 0, 1, features, out);
    assert_values(out, 1, 2, 0, 0);
    ask(SCD_BASELINE_ADDITIVE, 0, 2, 2, 1, 2, features, out); /* 2 never alone */
    assert_values(out, 1, 3, 0, -1);
    ask(SCD_BASELINE_ADDITIVE, 0, 2, 0, 0, 0, features, out); /* none known: the mean once */
    assert_values(out, 1, 1, 0, -1);
    ask(SCD_BASELINE_ADDITIVE, 1, 1, 1, 1, 0, features, out); /* known in the other context only */
    assert_values(out, 0, 0, 9, 0);
}

static void ridge_adds_to_the_mean_by_the_products_of_features_of_its_context(void **state)
{
    (void)state;
    float out[G];
    const float feature[D] = {2, 1};
    ask(SCD_BASELINE_RIDGE, 0, 1, 0, 0, 0, feature, out);
    assert_values(out, 1 + 2 * 0.25f, 1 + 0.5f, 0, -1);
}

static void nearest_shares_most_targets_and_then_has_the_likest_features(void **state)
{
    (void)state;
    float out[G];
    const float like_second[D] = {0.1f, 3};
    ask(SCD_BASELINE_NEAREST, 0, 2, 1, 2, 0, like_second, out);
    assert_values(out, 2, 1, 0, -3);
    ask(SCD_BASELINE_NEAREST, 0, 1, 0, 0, 0, like_second, out);
    assert_values(out, 0, 2, 0, 0);
}

static void effects_are_summed_over_a_mean_that_grows_with_the_number_of_genes(void **state)
{
    (void)state;
    float out[G];
    ask(SCD_BASELINE_EFFECTS, 0, 2, 2, 0, 1, features, out);
    assert_values(out, 0.5f * sqrtf(2) + 1, 0.5f * sqrtf(2) + 2, 0, 0);
    ask(SCD_BASELINE_EFFECTS, 0, 4, 0, 0, 0, features, out);
    assert_values(out, 1, 1, 0, 0);
    ask(SCD_BASELINE_EFFECTS, 1, 3, 1, 1, 0, features, out);
    assert_values(out, 0, 0, 1, 0);
}

static void a_combination_is_found_where_all_its_genes_and_no_more_were_perturbed(void **state)
{
    (void)state;
    scd_response_query q = {.n_asked = 2, .n_targets = 2, .targets = {0, 2}};
    assert_int_equal(scd_response_find(&study, &q), 2);
    q.n_asked = 3; /* a third one that nobody knows */
    assert_true(scd_response_find(&study, &q) == SIZE_MAX);
    q = (scd_response_query){.context = 1, .n_asked = 2, .n_targets = 2, .targets = {0, 2}};
    assert_true(scd_response_find(&study, &q) == SIZE_MAX);
    q = (scd_response_query){.context = 1, .n_asked = 1, .n_targets = 1, .targets = {0}};
    assert_int_equal(scd_response_find(&study, &q), 3);
}

static void no_gene_falls_below_zero(void **state)
{
    (void)state;
    const float control[G] = {1, 0, 2, 0.5f};
    float delta[G] = {-2, -0.1f, -1, 3};
    scd_response_clamp(G, control, delta);
    assert_values(delta, -1, 0, -1, 3);
}

static void the_network_is_the_mean_of_its_formula_over_the_cells(void **state)
{
    (void)state;
    enum { H = 2, K = 2 };
    const float w0[K * (H + D)] = {1, 0, 0, 1, -1, 0.5f, 2, 0}, b0[K] = {0.5f, -1};
    const float w2[G * K] = {1, 0, 0, 1, 1, 1, -2, 0}, b2[G] = {0, 0.25f, 0, 1};
    const float token[D] = {0.5f, 0}, direction[SCD_N_DIRECTIONS * D] = {0, 0, 0, 1};
    const float cells[2 * H] = {1, 2, -4, 1}, feature[D] = {1, -1};
    const scd_response_net net = {H, D, K, G, w0, b0, w2, b2, token, direction};
    double projected[2 * K], scratch[K + D], mean[K] = {0};
    float out[G];
    for (int dir = 0; dir < SCD_N_DIRECTIONS; dir++) {
        double p[D], want[G];
        memset(mean, 0, sizeof mean);
        for (size_t i = 0; i < D; i++)
            p[i] = (double)token[i] + (double)direction[dir * D + (int)i] + (double)feature[i];
        for (size_t c = 0; c < 2; c++)
            for (size_t j = 0; j < K; j++) {
                const float *w = w0 + j * (H + D);
                double x = (double)b0[j];
                for (size_t i = 0; i < H; i++)
                    x += (double)w[i] * (double)cells[c * H + i];
                for (size_t i = 0; i < D; i++)
                    x += (double)w[H + i] * p[i];
                mean[j] += fmax(x, 0) / 2;
            }
        for (size_t g = 0; g < G; g++)
            want[g] = (double)b2[g] + (double)w2[g * K] * mean[0] + (double)w2[g * K + 1] * mean[1];
        scd_response_net_cells(&net, cells, 2, projected);
        scd_response_net_run(&net, projected, 2, (scd_direction)dir, feature, scratch, out);
        for (size_t g = 0; g < G; g++)
            assert_true(fabs((double)out[g] - want[g]) < 1e-6);
    }
}

static void scores_are_what_their_names_say(void **state)
{
    (void)state;
    enum { M = 40 };
    float measured[M] = {0}, predicted[M] = {0};
    uint32_t order[2 * M];
    scd_response_score s, sum = {0};
    for (size_t g = 0; g < M; g++) { /* the first 20 change most, every second one downwards */
        float size = g < 20 ? 2 + (float)g : 0.01f * (float)g;
        measured[g] = g % 2 ? -size : size;
        predicted[g] = 0.5f * measured[g];
    }
    scd_response_score_of(M, predicted, measured, order, &s);
    assert_true(fabs(s.pearson - 1) < 1e-12 && s.overlap > 0.999 && s.direction > 0.999);
    scd_response_score_add(&sum, &s);
    for (size_t g = 0; g < 5; g++)
        predicted[g] = -predicted[g];
    for (size_t g = 10; g < 20; g++)
        predicted[g] = 0; /* leave room for ten of the others */
    scd_response_score_of(M, predicted, measured, order, &s);
    assert_true(fabs(s.direction - 5.0 / 20) < 1e-12);
    assert_true(fabs(s.overlap - 10.0 / 20) < 1e-12);
    scd_response_score_add(&sum, &s);
    scd_response_score_mean(&sum);
    assert_int_equal(sum.n, 2);
    assert_true(fabs(sum.overlap - 0.75) < 1e-12);
    memset(predicted, 0, sizeof predicted); /* no change has no correlation */
    scd_response_score_of(M, predicted, measured, order, &s);
    assert_true(s.pearson == 0 && s.overlap == 0 && s.direction == 0 && s.mse > 0);
}

static void the_largest_changes_come_first_and_ties_by_place(void **state)
{
    (void)state;
    const float delta[5] = {-1, 3, 0, 1, -3};
    uint32_t order[10];
    scd_response_top(delta, 5, order);
    const uint32_t want[5] = {1, 4, 0, 3, 2};
    assert_memory_equal(order, want, sizeof want);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_change_and_the_mean_are_the_same_for_every_question),
        cmocka_unit_test(additive_sums_what_was_measured_alone_and_takes_the_mean_for_the_rest),
        cmocka_unit_test(ridge_adds_to_the_mean_by_the_products_of_features_of_its_context),
        cmocka_unit_test(nearest_shares_most_targets_and_then_has_the_likest_features),
        cmocka_unit_test(effects_are_summed_over_a_mean_that_grows_with_the_number_of_genes),
        cmocka_unit_test(a_combination_is_found_where_all_its_genes_and_no_more_were_perturbed),
        cmocka_unit_test(no_gene_falls_below_zero),
        cmocka_unit_test(the_network_is_the_mean_of_its_formula_over_the_cells),
        cmocka_unit_test(scores_are_what_their_names_say),
        cmocka_unit_test(the_largest_changes_come_first_and_ties_by_place),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
