/* test_lisi.c - how many kinds stand among neighbours, where that can be said without computing;
 * against numpy it is tests/e2e/test_tasks.py's, against scib-metrics tests/bench/quality's. */
#include "api/lisi.h"

#include "engine/base/mem.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <cmocka.h>

enum { N = 120 };

/* Two clusters far apart, or a line of cells. */
typedef struct places {
    double x[N];
} places;

static void distances(void *arg, size_t i, double *out)
{
    const places *p = arg;
    for (size_t k = 0; k < N; k++)
        out[k] = (p->x[i] - p->x[k]) * (p->x[i] - p->x[k]);
}

static double median_of(const places *p, const int32_t *kind, size_t *n_kinds, size_t *n)
{
    const scd_lisi_cells cells = {N, distances, (void *)p};
    double median;
    assert_int_equal(scd_lisi_median(&cells, kind, &median, n_kinds, n, NULL), SCD_OK);
    return median;
}

static void kinds_that_keep_apart_count_as_one_and_mixed_ones_as_two(void **state)
{
    (void)state;
    places p;
    int32_t apart[N], mixed[N];
    size_t n_kinds, n;
    for (int i = 0; i < N; i++) {
        p.x[i] = (i < N / 2 ? 0 : 1e6) + 1e-3 * i;
        apart[i] = i < N / 2 ? 3 : 5; /* kinds between that do not occur do not count */
        mixed[i] = i % 2;
    }
    double one = median_of(&p, apart, &n_kinds, &n), two = median_of(&p, mixed, &n_kinds, &n);
    assert_int_equal(n_kinds, 2);
    assert_int_equal(n, N);
    assert_true(fabs(one - 1) < 0.05 && two > 1.9 && two <= 2);
    assert_true(scd_lisi_mixed(two, 2) > 0.9 && scd_lisi_apart(one, 2) > 0.9);
    assert_true(scd_lisi_mixed(1, 2) == 0 && scd_lisi_apart(1, 2) == 1);
}

static void cells_without_a_kind_are_nobodys_neighbours(void **state)
{
    (void)state;
    places p;
    int32_t kind[N];
    size_t n_kinds, n;
    for (int i = 0; i < N; i++) {
        p.x[i] = 1e-3 * i;
        kind[i] = i % 3 == 2 ? -1 : i % 3;
    }
    assert_true(median_of(&p, kind, &n_kinds, &n) > 1.9);
    assert_int_equal(n, N / 3 * 2);
}

static void what_means_nothing_is_no_number(void **state)
{
    (void)state;
    places p;
    int32_t kind[N];
    size_t n_kinds, n;
    for (int i = 0; i < N; i++) {
        p.x[i] = i;
        kind[i] = 0;
    }
    assert_true(isnan(median_of(&p, kind, &n_kinds, &n)) && n_kinds == 1);
    for (int i = 0; i < N; i++)
        kind[i] = i < 4 ? i % 2 : -1;
    assert_true(isnan(median_of(&p, kind, &n_kinds, &n)) && n == 4);
}

static void cells_in_one_place_are_even_neighbours(void **state)
{
    (void)state;
    places p = {{0}};
    int32_t kind[N];
    size_t n_kinds, n;
    for (int i = 0; i < N; i++)
        kind[i] = i % 2;
    double median = median_of(&p, kind, &n_kinds, &n);
    assert_true(median > 1.9 && median <= 2);
}

static void every_failed_allocation_is_reported(void **state)
{
    (void)state;
    const places p = {{0}};
    const int32_t kind[N] = {0, 1};
    const scd_lisi_cells cells = {N, distances, (void *)&p};
    double median;
    size_t n_kinds, n;
    for (long left = 0; left < 4; left++) {
        scd_mem_fail_after(left);
        scd_code code = scd_lisi_median(&cells, kind, &median, &n_kinds, &n, NULL);
        scd_mem_fail_after(-1);
        assert_int_equal(code, SCD_E_NOMEM);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(kinds_that_keep_apart_count_as_one_and_mixed_ones_as_two),
        cmocka_unit_test(cells_without_a_kind_are_nobodys_neighbours),
        cmocka_unit_test(what_means_nothing_is_no_number),
        cmocka_unit_test(cells_in_one_place_are_even_neighbours),
        cmocka_unit_test(every_failed_allocation_is_reported),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
