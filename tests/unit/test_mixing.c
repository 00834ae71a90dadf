/* test_mixing.c - who the neighbours of cells are, on cells placed by hand. */
#include "engine/train/mixing.h"

#include "engine/base/mem.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#define assert_near(a, b, tolerance) assert_true(fabs((a) - (b)) <= (tolerance))

enum { N = 80, DIM = 2 };

static float x[N * DIM];
static int32_t batch[N], label[N];

/* Cell i at an angle of its place; i even: batch 0. */
static void place(double angle_of_batch, double angle_of_label)
{
    for (size_t i = 0; i < N; i++) {
        batch[i] = (int32_t)(i % 2);
        label[i] = (int32_t)(i / 2 % 2);
        double a = angle_of_batch * batch[i] + angle_of_label * label[i] + 1e-3 * (double)i;
        x[i * DIM] = (float)((1 + (double)i) * cos(a)); /* lengths do not matter */
        x[i * DIM + 1] = (float)((1 + (double)i) * sin(a));
    }
}

static scd_mixing look(const int32_t *labels)
{
    scd_mixing m;
    assert_int_equal(scd_mixing_of(x, N, DIM, batch, labels, &m, NULL), SCD_OK);
    return m;
}

static void batches_that_lie_apart_are_seen(void **state)
{
    (void)state;
    place(1, 0.3);
    scd_mixing m = look(label);
    assert_near(m.own_batch, 1, 1e-12);
    assert_near(m.by_chance, 19.0 / 39, 1e-12); /* 20 of 40 with the label, less itself */
    assert_int_equal(m.n, N);
}

static void batches_that_are_mixed_are_as_by_chance(void **state)
{
    (void)state;
    place(0, 1);
    scd_mixing m = look(label);
    assert_true(fabs(m.own_batch - m.by_chance) < 0.1);
    assert_near(m.own_label, 1, 1e-12);
    place(0, 0);
    assert_true(look(label).own_label < 0.6);
}

static void a_label_of_one_batch_alone_is_not_counted(void **state)
{
    (void)state;
    place(1, 0.3);
    for (size_t i = 0; i < N; i++)
        label[i] = batch[i];
    scd_mixing m = look(label);
    assert_int_equal(m.n, 0);
    assert_true(isnan(m.own_batch) && isnan(m.by_chance));
    assert_int_equal(m.n_labelled, N);
}

static void cells_without_a_label_are_no_neighbours_of_a_labels(void **state)
{
    (void)state;
    place(0, 1);
    for (size_t i = 0; i < N; i += 3)
        label[i] = -1;
    assert_near(look(label).own_label, 1, 1e-12);
}

static void without_labels_all_cells_are_compared(void **state)
{
    (void)state;
    place(1, 0);
    for (size_t i = 0; i < N; i++)
        label[i] = -1;
    scd_mixing m = look(label);
    assert_near(m.own_batch, 1, 1e-12);
    assert_near(m.by_chance, 39.0 / 79, 1e-12);
    assert_true(isnan(m.own_label));
}

static void an_allocation_that_fails_is_said(void **state)
{
    (void)state;
    scd_mixing m;
    place(0, 0);
    scd_mem_fail_after(0);
    assert_int_equal(scd_mixing_of(x, N, DIM, batch, label, &m, NULL), SCD_E_NOMEM);
    scd_mem_fail_after(-1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(batches_that_lie_apart_are_seen),
        cmocka_unit_test(batches_that_are_mixed_are_as_by_chance),
        cmocka_unit_test(a_label_of_one_batch_alone_is_not_counted),
        cmocka_unit_test(cells_without_a_label_are_no_neighbours_of_a_labels),
        cmocka_unit_test(an_allocation_that_fails_is_said),
        cmocka_unit_test(without_labels_all_cells_are_compared),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
