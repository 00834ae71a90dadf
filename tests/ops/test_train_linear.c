/* test_train_linear.c - products of training: forward against float64, gradients against central
 * differences, on every device. Outputs are NaN before the call. */
#include "tests/ops/ref64.h"
#include "tests/ops/train_check.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

typedef struct product {
    size_t rows, in, out;
    array x, w, b, dy;
    double *y;
} product;

static double scalar(void *ctx)
{
    product *p = ctx;
    ref_linear(p->rows, p->in, p->out, p->x.d, p->w.d, p->b.d, 0, p->y);
    return train_dot(p->dy.d, p->y, p->rows * p->out);
}

static product random_product(fixture *f, size_t rows, size_t in, size_t out)
{
    return (product){.rows = rows,
                     .in = in,
                     .out = out,
                     .x = fixture_random(f, 1, rows * in, 1),
                     .w = fixture_random(f, 2, out * in, 0.3),
                     .b = fixture_random(f, 3, out, 1),
                     .dy = fixture_random(f, 4, rows * out, 1),
                     .y = fixture_doubles(f, rows * out)};
}

static void one_product(fixture *f, size_t rows, size_t in, size_t out)
{
    scd_error err;
    product p = random_product(f, rows, in, out);
    float *y = fixture_room_floats(f, rows * out);
    const float *x = fixture_place_array(f, p.x), *w = fixture_place_array(f, p.w);
    const float *dy = fixture_place_array(f, p.dy);
    scd_t_linear a = {rows, in, out, x, w, fixture_place_array(f, p.b), y};
    train_ok(f->be->train->linear(f->device, &a, &err), &err);
    ref_linear(rows, in, out, p.x.d, p.w.d, p.b.d, 0, p.y);
    train_same(f, "linear", p.y, y, rows * out);
    a.b = NULL;
    train_ok(f->be->train->linear(f->device, &a, &err), &err);
    ref_linear(rows, in, out, p.x.d, p.w.d, NULL, 0, p.y);
    train_same(f, "linear without bias", p.y, y, rows * out);

    array dx0 = fixture_random(f, 5, rows * in, 1), dw0 = fixture_random(f, 6, out * in, 1);
    array db0 = fixture_random(f, 7, out, 1);
    float *dx = fixture_room_floats(f, rows * in);
    float *dw = fixture_place_array(f, dw0), *db = fixture_place_array(f, db0);
    scd_t_linear_back b = {rows, in, out, x, w, dy, dx, dw, db, 0};
    train_ok(f->be->train->linear_back(f->device, &b, &err), &err);
    train_gradient(f, "linear dx", scalar, &p, &p.x, NULL, dx);
    train_gradient(f, "linear dw", scalar, &p, &p.w, dw0.f, dw);
    train_gradient(f, "linear db", scalar, &p, &p.b, db0.f, db);
    float *dx_sum = fixture_place_array(f, dx0);
    b = (scd_t_linear_back){rows, in, out, x, w, dy, dx_sum, NULL, NULL, 1};
    train_ok(f->be->train->linear_back(f->device, &b, &err), &err);
    train_gradient(f, "linear dx +=", scalar, &p, &p.x, dx0.f, dx_sum);
}

static void check_products(fixture *f)
{
    static const size_t sizes[][3] = {{1, 1, 1},    {1, 26, 7},   {7, 26, 26},   {77, 128, 96},
                                      {300, 96, 1}, {300, 1, 26}, {257, 33, 130}};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
        one_product(f, sizes[i][0], sizes[i][1], sizes[i][2]);
}

static void a_product_and_its_three_gradients_agree_at_any_size(void **state)
{
    (void)state;
    fixture_on_every_device(check_products);
}

/* Enough rows that the sum of dw is cut into pieces. */
static void check_long(fixture *f)
{
    scd_error err;
    enum { ROWS = 2061, IN = 19, OUT = 140 };
    product p = random_product(f, ROWS, IN, OUT);
    array dw0 = fixture_random(f, 6, OUT * IN, 1), db0 = fixture_random(f, 7, OUT, 1);
    float *dw = fixture_place_array(f, dw0), *db = fixture_place_array(f, db0);
    scd_t_linear_back b = {ROWS,
                           IN,
                           OUT,
                           fixture_place_array(f, p.x),
                           fixture_place_array(f, p.w),
                           fixture_place_array(f, p.dy),
                           NULL,
                           dw,
                           db,
                           0};
    train_ok(f->be->train->linear_back(f->device, &b, &err), &err);
    double *want = fixture_doubles(f, OUT * IN), *sums = fixture_doubles(f, OUT);
    for (size_t o = 0; o < OUT; o++) {
        sums[o] = db0.d[o];
        for (size_t r = 0; r < ROWS; r++)
            sums[o] += p.dy.d[r * OUT + o];
        for (size_t i = 0; i < IN; i++) {
            want[o * IN + i] = dw0.d[o * IN + i];
            for (size_t r = 0; r < ROWS; r++)
                want[o * IN + i] += p.dy.d[r * OUT + o] * p.x.d[r * IN + i];
        }
    }
    train_same(f, "dw of many rows", want, dw, OUT * IN);
    train_same(f, "db of many rows", sums, db, OUT);
}

static void gradients_of_weights_are_right_where_the_sum_over_rows_is_cut(void **state)
{
    (void)state;
    fixture_on_every_device(check_long);
}

static void check_nothing(fixture *f)
{
    scd_error err;
    array w = fixture_random(f, 1, 6, 1), before = fixture_random(f, 2, 6, 1);
    float *dw = fixture_place_array(f, before), *db = fixture_place_array(f, before);
    scd_t_linear a = {.rows = 0, .in_dim = 2, .out_dim = 3, .w = fixture_place_array(f, w)};
    train_ok(f->be->train->linear(f->device, &a, &err), &err);
    scd_t_linear_back b = {.rows = 0, .in_dim = 2, .out_dim = 3, .w = a.w, .dw = dw, .db = db};
    train_ok(f->be->train->linear_back(f->device, &b, &err), &err);
    train_same(f, "dw", before.d, dw, 6);
    train_same(f, "db", before.d, db, 3);
}

static void no_rows_change_nothing(void **state)
{
    (void)state;
    fixture_on_every_device(check_nothing);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_product_and_its_three_gradients_agree_at_any_size),
        cmocka_unit_test(gradients_of_weights_are_right_where_the_sum_over_rows_is_cut),
        cmocka_unit_test(no_rows_change_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
