/* test_score.c - figures of agreement against numbers worked out by hand. */
#include "engine/denoise/score.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

static void close_to(double got, double want)
{
    if (!(fabs(got - want) < 1e-6))
        fail_msg("%.9g, not %.9g", got, want);
}

static void correlations_and_errors_are_those_of_the_books(void **state)
{
    (void)state;
    const float a[] = {1, 2, 3, 4}, b[] = {1, 4, 9, 16}, c[] = {4, 3, 2, 1};
    float scratch[16];
    close_to(scd_pearson(a, a, 4), 1);
    close_to(scd_pearson(a, c, 4), -1);
    close_to(scd_pearson(a, b, 4), 0.984374038);
    close_to(scd_spearman(a, b, 4, scratch), 1);
    close_to(scd_mean_abs_error(a, c, 4), 2);
}

static void equal_values_share_their_rank(void **state)
{
    (void)state;
    const float a[] = {1, 1, 2, 5}, b[] = {3, 1, 2, 9};
    float scratch[16];
    /* ranks 0.5 0.5 2 3 and 2 0 1 3 */
    close_to(scd_spearman(a, b, 4, scratch), 0.632455532);
}

static void what_means_nothing_is_nan(void **state)
{
    (void)state;
    const float a[] = {1, 1, 1}, b[] = {1, 2, 3};
    float scratch[12];
    assert_true(isnan(scd_pearson(a, b, 3)));
    assert_true(isnan(scd_pearson(b, b, 1)));
    assert_true(isnan(scd_spearman(a, b, 3, scratch)));
    assert_true(isnan(scd_mean_abs_error(a, b, 0)));
    assert_true(isnan(scd_order_compare(0, 0, 0, 0, 0).bleu));
}

static void orders_are_compared_by_edits_by_runs_and_by_places(void **state)
{
    (void)state;
    const int32_t truth[] = {10, 11, 12, 13, 14}, swapped[] = {11, 10, 12, 13, 14};
    const int32_t strange[] = {20, 21, 22, 23, 24}, shifted[] = {11, 12, 13, 14, 30};
    uint32_t places[6];
    float scratch[30];
    scd_order_score s = scd_order_compare(truth, truth, 5, places, scratch);
    close_to(s.edit_distance, 0);
    close_to(s.bleu, 1);
    close_to(s.spearman, 1);
    s = scd_order_compare(truth, swapped, 5, places, scratch);
    close_to(s.edit_distance, 0.4);
    close_to(s.bleu, 0); /* no run of four */
    close_to(s.spearman, 0.9);
    s = scd_order_compare(truth, strange, 5, places, scratch);
    close_to(s.edit_distance, 1);
    close_to(s.bleu, 0);
    assert_true(isnan(s.spearman)); /* all at the end: no order */
    s = scd_order_compare(truth, shifted, 5, places, scratch);
    close_to(s.edit_distance, 0.4); /* one gone at the start, one more at the end */
    close_to(s.bleu, exp((log(4.0 / 5) + log(3.0 / 4) + log(2.0 / 3) + log(1.0 / 2)) / 4));
    close_to(s.spearman, 0); /* places 5 0 1 2 3 */
}

static void short_orders_are_judged_by_the_runs_they_have(void **state)
{
    (void)state;
    const int32_t two[] = {5, 6}, one[] = {5};
    uint32_t places[3];
    float scratch[12];
    close_to(scd_order_compare(two, two, 2, places, scratch).bleu, 1);
    close_to(scd_order_compare(one, one, 1, places, scratch).bleu, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(correlations_and_errors_are_those_of_the_books),
        cmocka_unit_test(equal_values_share_their_rank),
        cmocka_unit_test(what_means_nothing_is_nan),
        cmocka_unit_test(orders_are_compared_by_edits_by_runs_and_by_places),
        cmocka_unit_test(short_orders_are_judged_by_the_runs_they_have),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
