/* test_train_attention.c - attention of training: forward and lse against float64, the gradient of
 * q, k and v against central differences, on every device. */
#include "tests/ops/train_check.h"
#include "tests/ops/train_ref64.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

typedef struct attention_case {
    size_t n_cells, width, heads;
    const uint32_t *cu;
    array qkv, dout;
    double *out;
} attention_case;

static double scalar(void *ctx)
{
    attention_case *c = ctx;
    ref_qkv_attention(c->n_cells, c->width, c->heads, c->cu, c->qkv.d, c->out, NULL);
    return train_dot(c->dout.d, c->out, c->cu[c->n_cells] * c->width);
}

static void one_case(fixture *f, size_t n_cells, const uint32_t *cu, size_t width, size_t heads,
                     double spread)
{
    scd_error err;
    size_t rows = cu[n_cells], n = rows * width;
    attention_case c = {n_cells,
                        width,
                        heads,
                        cu,
                        fixture_random(f, 1, 3 * n, spread),
                        fixture_random(f, 2, n, 1),
                        fixture_doubles(f, n)};
    float *out = fixture_room_floats(f, n), *lse = fixture_room_floats(f, heads * rows);
    float *dqkv = fixture_room_floats(f, 3 * n);
    const float *qkv = fixture_place_array(f, c.qkv), *dout = fixture_place_array(f, c.dout);
    const uint32_t *dev = fixture_place(f, cu, (n_cells + 1) * sizeof *cu);
    double *want_lse = fixture_doubles(f, heads * rows);
    scd_t_attention a = {n_cells, width, heads, cu, dev, qkv, out, lse};
    train_ok(f->be->train->attention(f->device, &a, &err), &err);
    ref_qkv_attention(n_cells, width, heads, cu, c.qkv.d, c.out, want_lse);
    train_same(f, "attention", c.out, out, n);
    train_same(f, "attention lse", want_lse, lse, heads * rows);
    scd_t_attention_back b = {n_cells, width, heads, cu, dev, qkv, out, lse, dout, dqkv};
    train_ok(f->be->train->attention_back(f->device, &b, &err), &err);
    train_gradient(f, "attention dqkv", scalar, &c, &c.qkv, NULL, dqkv);
}

static void check_shapes(fixture *f)
{
    static const uint32_t one[] = {0, 1}, two[] = {0, 200}, few[] = {0, 3, 4, 11},
                          block[] = {0, 64, 129};
    static const uint32_t mixed[] = {0, 77, 78, 78, 90};
    one_case(f, 1, one, 16, 1, 1);
    one_case(f, 3, few, 26, 1, 1);
    one_case(f, 2, block, 32, 2, 1);
    one_case(f, 4, mixed, 96, 3, 1); /* a cell of one row, and one without any */
    one_case(f, 3, few, 256, 2, 1);
    one_case(f, 4, mixed, 128, 2, 1);
    one_case(f, 1, two, 16, 1, 1);   /* more than one block of queries */
    one_case(f, 2, block, 20, 2, 3); /* scores up to some hundred */
}

static void attention_and_the_gradient_of_q_k_and_v_agree(void **state)
{
    (void)state;
    fixture_on_every_device(check_shapes);
}

/* The longest cell the official model takes: forward alone, its twin is slow. */
static void check_long(fixture *f)
{
    scd_error err;
    enum { ROWS = 1201, WIDTH = 16 };
    static const uint32_t cu[] = {0, ROWS};
    array qkv = fixture_random(f, 1, ROWS * 3 * WIDTH, 1);
    float *out = fixture_room_floats(f, ROWS * WIDTH), *lse = fixture_room_floats(f, ROWS);
    double *want = fixture_doubles(f, ROWS * WIDTH), *want_lse = fixture_doubles(f, ROWS);
    const uint32_t *dev = fixture_place(f, cu, sizeof cu);
    scd_t_attention a = {1, WIDTH, 1, cu, dev, fixture_place_array(f, qkv), out, lse};
    train_ok(f->be->train->attention(f->device, &a, &err), &err);
    ref_qkv_attention(1, WIDTH, 1, cu, qkv.d, want, want_lse);
    train_same(f, "attention over 1201 rows", want, out, ROWS * WIDTH);
    train_same(f, "lse over 1201 rows", want_lse, lse, ROWS);
}

static void the_longest_cell_agrees(void **state)
{
    (void)state;
    fixture_on_every_device(check_long);
}

/* Softmax over one key is 1: the output is v, and nothing flows to q and k. */
static void check_single(fixture *f)
{
    scd_error err;
    enum { CELLS = 5, WIDTH = 32 };
    uint32_t cu[CELLS + 1];
    for (uint32_t i = 0; i <= CELLS; i++)
        cu[i] = i;
    array qkv = fixture_random(f, 1, CELLS * 3 * WIDTH, 1);
    array dout = fixture_random(f, 2, CELLS * WIDTH, 1);
    const uint32_t *dev = fixture_place(f, cu, sizeof cu);
    const float *in = fixture_place_array(f, qkv), *d = fixture_place_array(f, dout);
    float *to = fixture_room_floats(f, CELLS * WIDTH), *lse = fixture_room_floats(f, 2 * CELLS);
    float *back = fixture_room_floats(f, CELLS * 3 * WIDTH);
    scd_t_attention a = {CELLS, WIDTH, 2, cu, dev, in, to, lse};
    train_ok(f->be->train->attention(f->device, &a, &err), &err);
    scd_t_attention_back b = {CELLS, WIDTH, 2, cu, dev, in, to, lse, d, back};
    train_ok(f->be->train->attention_back(f->device, &b, &err), &err);
    const float *out = fixture_fetch(f, to, CELLS * WIDTH * sizeof *out);
    const float *dqkv = fixture_fetch(f, back, CELLS * 3 * WIDTH * sizeof *dqkv);
    for (size_t r = 0; r < CELLS; r++)
        for (size_t i = 0; i < WIDTH; i++) {
            assert_true(fabsf(out[r * WIDTH + i] - qkv.f[r * 3 * WIDTH + 2 * WIDTH + i]) < 1e-6f);
            assert_true(fabsf(dqkv[r * 3 * WIDTH + i]) < 1e-5f);
            assert_true(fabsf(dqkv[r * 3 * WIDTH + WIDTH + i]) < 1e-5f);
            assert_true(fabsf(dqkv[r * 3 * WIDTH + 2 * WIDTH + i] - dout.f[r * WIDTH + i]) < 1e-5f);
        }
}

static void cells_of_one_row_return_their_value(void **state)
{
    (void)state;
    fixture_on_every_device(check_single);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(attention_and_the_gradient_of_q_k_and_v_agree),
        cmocka_unit_test(the_longest_cell_agrees),
        cmocka_unit_test(cells_of_one_row_return_their_value),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
