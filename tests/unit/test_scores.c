/* test_scores.c - accuracy, F1, calibration error, temperature and threshold on cells small enough
 * to count by hand. */
#include "engine/base/rng.h"
#include "engine/train/scores.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

static scd_error err;

static void near(double got, double want, double tolerance)
{
    if (!(fabs(got - want) <= tolerance))
        fail_msg("%.9g, not %.9g", got, want);
}

static void the_scores_are_those_counted_by_hand(void **state)
{
    (void)state;
    const float logits[] = {2, 0, 0, 0, 2, 0, 0, 2, 0, 0, 0, 2};
    const int32_t truth[] = {0, 1, 0, 2}; /* answers 0, 1, 1, 2 */
    scd_scores s;
    assert_int_equal(scd_scores_of(logits, NULL, truth, 4, 3, 1, &s, &err), SCD_OK);
    near(s.accuracy, 0.75, 1e-12);
    near(s.balanced_accuracy, (0.5 + 1 + 1) / 3, 1e-12);
    near(s.macro_f1, (2.0 / 3 + 2.0 / 3 + 1) / 3, 1e-12);
    double p = exp(2) / (exp(2) + 2);
    near(s.ece, fabs(p - 0.75), 1e-12); /* all cells are in one bin */
    near(s.loss, -(3 * log(p) + log(1 / (exp(2) + 2))) / 4, 1e-12);
}

static void a_class_that_nobody_has_counts_only_against_those_it_was_taken_for(void **state)
{
    (void)state;
    const float logits[] = {2, 0, -5, 0, 2, -5, 0, 0, 2};
    const int32_t truth[] = {0, 1, 0}; /* answers 0, 1, 2 */
    scd_scores s;
    assert_int_equal(scd_scores_of(logits, NULL, truth, 3, 3, 1, &s, &err), SCD_OK);
    near(s.macro_f1, (2.0 / 3 + 1) / 2, 1e-12);
    near(s.balanced_accuracy, (0.5 + 1) / 2, 1e-12);
}

static void no_cells_have_no_score(void **state)
{
    (void)state;
    scd_scores s;
    assert_int_equal(scd_scores_of(NULL, NULL, NULL, 0, 3, 1, &s, &err), SCD_E_INVALID);
}

/* Labels drawn from softmax(logits / 2): the temperature that fits is 2. */
static void the_temperature_is_that_of_the_labels(void **state)
{
    (void)state;
    enum { N = 20000, CLASSES = 3 };
    float *logits = malloc(N * CLASSES * sizeof *logits);
    float *targets = calloc(N * CLASSES, sizeof *targets);
    for (size_t i = 0; i < N; i++) {
        double p[CLASSES], u = (double)scd_rng_uniform(1, 2, i);
        for (size_t k = 0; k < CLASSES; k++)
            logits[i * CLASSES + k] = 3 * scd_rng_normal(1, 1, i * CLASSES + k);
        scd_scores_softmax(logits + i * CLASSES, CLASSES, 2, p);
        size_t k = u < p[0] ? 0 : u < p[0] + p[1] ? 1 : 2;
        targets[i * CLASSES + k] = 1;
    }
    /* 20,000 draws: the estimate's own spread is about 0.02 */
    near(scd_scores_fit_temperature(logits, targets, N, CLASSES), 2, 0.08);
    near(scd_scores_fit_temperature(logits, targets, 0, CLASSES), 1, 0);
    free(logits);
    free(targets);
}

static void the_threshold_is_the_least_that_keeps_the_precision(void **state)
{
    (void)state;
    /* confidences fall; the third answer is wrong */
    const float logits[] = {4, 0, 3, 0, 2, 0, 1, 0};
    const int32_t truth[] = {0, 0, 1, 0};
    double p[2], at;
    assert_int_equal(scd_scores_fit_threshold(logits, truth, 4, 2, 1, 1, &at, &err), SCD_OK);
    scd_scores_softmax(logits + 2, 2, 1, p);
    near(at, p[0], 1e-12);
    assert_int_equal(scd_scores_fit_threshold(logits, truth, 4, 2, 1, 0.75, &at, &err), SCD_OK);
    near(at, 0, 0); /* all four reach it together */
    const int32_t all_wrong[] = {1, 1, 1, 1};
    assert_int_equal(scd_scores_fit_threshold(logits, all_wrong, 4, 2, 1, 0.5, &at, &err), SCD_OK);
    scd_scores_softmax(logits, 2, 1, p);
    near(at, p[0], 1e-12); /* out of reach: the best there is */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_scores_are_those_counted_by_hand),
        cmocka_unit_test(a_class_that_nobody_has_counts_only_against_those_it_was_taken_for),
        cmocka_unit_test(no_cells_have_no_score),
        cmocka_unit_test(the_temperature_is_that_of_the_labels),
        cmocka_unit_test(the_threshold_is_the_least_that_keeps_the_precision),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
