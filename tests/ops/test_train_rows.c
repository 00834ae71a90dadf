/* test_train_rows.c - the operations of training that go along rows: norms, RoPE, the gated unit,
 * row indices and the plain ones. Forward against float64, gradients against central differences,
 * on each instruction set, at sizes that miss every vector and chunk. */
#include "tests/ops/ref64.h"
#include "tests/ops/train_check.h"
#include "tests/ops/train_ref64.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

static const size_t sizes[][2] = {{1, 26}, {7, 128}, {77, 96}, {300, 26}, {129, 1}};
enum { N_SIZES = sizeof sizes / sizeof sizes[0] };

typedef struct row_case {
    size_t rows, width;
    array x, w, b, dy;
    double *y;
} row_case;

static row_case random_rows(fixture *f, size_t rows, size_t width)
{
    return (row_case){.rows = rows,
                      .width = width,
                      .x = fixture_random(f, 1, rows * width, 1),
                      .w = fixture_random(f, 2, width, 1),
                      .b = fixture_random(f, 3, width, 1),
                      .dy = fixture_random(f, 4, rows * width, 1),
                      .y = fixture_doubles(f, rows * width)};
}

static double rms_scalar(void *ctx)
{
    row_case *c = ctx;
    ref_rms_norm(c->rows, c->width, c->x.d, c->w.d, c->y);
    return train_dot(c->dy.d, c->y, c->rows * c->width);
}

static void check_rms(fixture *f)
{
    scd_error err;
    for (size_t i = 0; i < N_SIZES; i++) {
        size_t rows = sizes[i][0], width = sizes[i][1], n = rows * width;
        row_case c = random_rows(f, rows, width);
        float *y = fixture_block(f, n * sizeof *y), *rstd = fixture_block(f, rows * sizeof *rstd);
        scd_t_rms_norm a = {rows, width, c.x.f, c.w.f, y, rstd};
        train_ok(train_ops->rms_norm(f->device, &a, &err), &err);
        rms_scalar(&c);
        train_same(f, "rms_norm", c.y, y, n);
        array dx0 = fixture_random(f, 5, n, 1), dw0 = fixture_random(f, 6, width, 1);
        float *dx = train_copy(f, &dx0), *dw = train_copy(f, &dw0), *again = train_copy(f, &dx0);
        scd_t_rms_norm_back b = {rows, width, c.x.f, c.w.f, rstd, c.dy.f, dx, dw};
        train_ok(train_ops->rms_norm_back(f->device, &b, &err), &err);
        train_gradient(f, "rms_norm dx", rms_scalar, &c, &c.x, dx0.f, dx);
        train_gradient(f, "rms_norm dw", rms_scalar, &c, &c.w, dw0.f, dw);
        b.dx = again;
        b.dw = NULL;
        train_ok(train_ops->rms_norm_back(f->device, &b, &err), &err);
        assert_memory_equal(again, dx, n * sizeof *dx);
    }
}

static void rms_norm_and_its_gradients_agree_and_are_added_to_what_is_there(void **state)
{
    (void)state;
    train_on_every_isa(check_rms);
}

static double layer_scalar(void *ctx)
{
    row_case *c = ctx;
    ref_norm_relu(c->rows, c->width, c->x.d, c->w.d, c->b.d, c->y);
    return train_dot(c->dy.d, c->y, c->rows * c->width);
}

static void check_layer(fixture *f)
{
    scd_error err;
    for (size_t i = 0; i < N_SIZES; i++) {
        size_t rows = sizes[i][0], width = sizes[i][1], n = rows * width;
        row_case c = random_rows(f, rows, width);
        float *y = fixture_block(f, n * sizeof *y), *rstd = fixture_block(f, rows * sizeof *rstd);
        float *mean = fixture_block(f, rows * sizeof *mean), *dx = fixture_block(f, n * sizeof *dx);
        scd_t_norm_relu a = {rows, width, c.x.f, c.w.f, c.b.f, y, mean, rstd};
        train_ok(train_ops->norm_relu(f->device, &a, &err), &err);
        layer_scalar(&c);
        train_same(f, "norm_relu", c.y, y, n);
        array dw0 = fixture_random(f, 5, width, 1), db0 = fixture_random(f, 6, width, 1);
        float *dw = train_copy(f, &dw0), *db = train_copy(f, &db0);
        scd_t_norm_relu_back b = {rows, width, c.x.f,  c.w.f, c.b.f, y,
                                  mean, rstd,  c.dy.f, dx,    dw,    db};
        train_ok(train_ops->norm_relu_back(f->device, &b, &err), &err);
        if (width > 1) /* a single element is its own mean: the gradient is 0 but for rounding */
            train_gradient(f, "norm_relu dx", layer_scalar, &c, &c.x, NULL, dx);
        train_gradient(f, "norm_relu dw", layer_scalar, &c, &c.w, dw0.f, dw);
        train_gradient(f, "norm_relu db", layer_scalar, &c, &c.b, db0.f, db);
    }
}

static void layer_norm_with_relu_and_its_gradients_agree(void **state)
{
    (void)state;
    train_on_every_isa(check_layer);
}

/* Rotated q and k within rows of q, k, v; what stands between is left alone. */
static void check_rope(fixture *f)
{
    scd_error err;
    static const size_t shapes[][3] = {{1, 2, 1}, {7, 26, 1}, {77, 96, 3}, {300, 64, 4}};
    for (size_t i = 0; i < 4; i++) {
        size_t rows = shapes[i][0], width = shapes[i][1], heads = shapes[i][2], stride = 2 * width;
        array x = fixture_random(f, 1, rows * stride, 1);
        uint32_t *pos = fixture_block(f, rows * sizeof *pos);
        double *want = fixture_doubles(f, rows * width);
        float *turned = train_copy(f, &x);
        for (size_t r = 0; r < rows; r++) {
            pos[r] = (uint32_t)(r * 7 % rows * 4);
            memcpy(want + r * width, x.d + r * stride, width * sizeof *want);
        }
        scd_t_rope a = {rows, width, heads, stride, 500, pos, turned, 0};
        train_ok(train_ops->rope(f->device, &a, &err), &err);
        ref_rope(rows, width, heads, pos, 500, want);
        for (size_t r = 0; r < rows; r++) {
            train_same(f, "rope", want + r * width, turned + r * stride, width);
            assert_memory_equal(turned + r * stride + width, x.f + r * stride + width,
                                width * sizeof *turned);
        }
        a.inverse = 1; /* the gradient: an orthogonal matrix, transposed */
        train_ok(train_ops->rope(f->device, &a, &err), &err);
        train_same(f, "rope there and back", x.d, turned, rows * stride);
    }
}

static void rope_turns_rows_in_place_and_back_again(void **state)
{
    (void)state;
    train_on_every_isa(check_rope);
}

/* Other sizes in between, and the inference operations that share the table of angles. */
static void check_rope_tables(fixture *f)
{
    scd_error err;
    enum { ROWS = 5, WIDTH = 8 };
    array x = fixture_random(f, 1, ROWS * WIDTH, 1);
    static const struct {
        size_t heads;
        double theta;
        uint32_t last;
    } turns[] = {{1, 10000, 4}, {2, 10000, 900}, {2, 100, 3}, {1, 10000, 2000}, {2, 0, 3}};
    for (size_t i = 0; i < sizeof turns / sizeof turns[0]; i++) {
        const uint32_t pos[ROWS] = {0, 1, 2, 3, turns[i].last};
        float *got = train_copy(f, &x);
        scd_t_rope a = {ROWS, WIDTH, turns[i].heads, WIDTH, turns[i].theta, pos, got, 0};
        train_ok(train_ops->rope(f->device, &a, &err), &err);
        double *want = fixture_doubles(f, ROWS * WIDTH);
        memcpy(want, x.d, ROWS * WIDTH * sizeof *want);
        ref_rope(ROWS, WIDTH, turns[i].heads, pos, turns[i].theta > 0 ? turns[i].theta : 10000,
                 want);
        train_same(f, "rope after others", want, got, ROWS * WIDTH);
    }
}

static void rope_is_right_whatever_was_turned_before(void **state)
{
    (void)state;
    train_on_every_isa(check_rope_tables);
}

typedef struct gated_case {
    size_t rows, ffn;
    array gate_up, dy;
    double *y;
} gated_case;

static double swiglu_scalar(void *ctx)
{
    gated_case *c = ctx;
    ref_swiglu(c->rows, c->ffn, c->gate_up.d, c->y);
    return train_dot(c->dy.d, c->y, c->rows * c->ffn);
}

static void check_swiglu(fixture *f)
{
    scd_error err;
    for (size_t i = 0; i < N_SIZES; i++) {
        size_t rows = sizes[i][0], ffn = sizes[i][1], n = rows * ffn;
        gated_case c = {rows, ffn, fixture_random(f, 1, 2 * n, 3), fixture_random(f, 2, n, 1),
                        fixture_doubles(f, n)};
        float *y = fixture_block(f, n * sizeof *y), *dx = fixture_block(f, 2 * n * sizeof *dx);
        scd_t_swiglu a = {rows, ffn, c.gate_up.f, y};
        train_ok(train_ops->swiglu(f->device, &a, &err), &err);
        swiglu_scalar(&c);
        train_same(f, "swiglu", c.y, y, n);
        scd_t_swiglu_back b = {rows, ffn, c.gate_up.f, c.dy.f, dx};
        train_ok(train_ops->swiglu_back(f->device, &b, &err), &err);
        train_gradient(f, "swiglu dgate_up", swiglu_scalar, &c, &c.gate_up, NULL, dx);
    }
}

static void the_gated_unit_and_its_gradient_agree(void **state)
{
    (void)state;
    train_on_every_isa(check_swiglu);
}

/* Far from zero the unit is the identity or nothing, and its slope 1 or 0: never NaN. */
static void check_swiglu_far(fixture *f)
{
    scd_error err;
    const float gate_up[8] = {-200, -90, 90, 200, 1, 1, 1, 1}, dy[4] = {1, 1, 1, 1};
    const float want_y[4] = {0, 0, 90, 200}, want_slope[4] = {0, 0, 1, 1};
    float y[4], dx[8];
    scd_t_swiglu a = {1, 4, gate_up, y};
    scd_t_swiglu_back b = {1, 4, gate_up, dy, dx};
    train_ok(train_ops->swiglu(f->device, &a, &err), &err);
    train_ok(train_ops->swiglu_back(f->device, &b, &err), &err);
    for (size_t i = 0; i < 4; i++) {
        assert_true(y[i] - want_y[i] < 1e-30f && want_y[i] - y[i] < 1e-30f);
        assert_true(dx[i] - want_slope[i] < 1e-30f && want_slope[i] - dx[i] < 1e-30f);
    }
}

static void the_gated_unit_stays_finite_far_from_zero(void **state)
{
    (void)state;
    train_on_every_isa(check_swiglu_far);
}

static void check_rows(fixture *f)
{
    scd_error err;
    enum { ROWS = 400, N = 301, WIDTH = 37 };
    array x = fixture_random(f, 1, ROWS * WIDTH, 1), d0 = fixture_random(f, 2, ROWS * WIDTH, 1);
    uint32_t index[N];
    for (size_t i = 0; i < N; i++)
        index[i] = (uint32_t)(i * 7 % ROWS); /* 7 and 400 have no common factor */
    float *got = fixture_block(f, N * WIDTH * sizeof *got), *sums = train_copy(f, &d0);
    scd_t_rows a = {N, WIDTH, index, x.f, got};
    train_ok(train_ops->rows_get(f->device, &a, &err), &err);
    for (size_t i = 0; i < N; i++)
        assert_memory_equal(got + i * WIDTH, x.f + index[i] * WIDTH, WIDTH * sizeof *got);
    scd_t_rows b = {N, WIDTH, index, got, sums};
    train_ok(train_ops->rows_add(f->device, &b, &err), &err);
    double *want = fixture_doubles(f, ROWS * WIDTH);
    memcpy(want, d0.d, ROWS * WIDTH * sizeof *want);
    for (size_t i = 0; i < N; i++)
        for (size_t j = 0; j < WIDTH; j++)
            want[index[i] * WIDTH + j] += x.d[index[i] * WIDTH + j];
    train_same(f, "rows_add", want, sums, ROWS * WIDTH);
    a.n = b.n = 0;
    train_ok(train_ops->rows_get(f->device, &a, &err), &err);
    train_ok(train_ops->rows_add(f->device, &b, &err), &err);
}

static void rows_are_taken_by_index_and_added_back(void **state)
{
    (void)state;
    train_on_every_isa(check_rows);
}

static void check_plain(fixture *f)
{
    scd_error err;
    static const size_t counts[] = {0, 1, 15, 17, 32768, 70001};
    for (size_t c = 0; c < sizeof counts / sizeof counts[0]; c++) {
        size_t n = counts[c], bytes = n * sizeof(float);
        array x = fixture_random(f, 1, n, 1), y = fixture_random(f, 2, n, 1);
        if (n > 15)
            x.f[3] = 0, x.f[15] = -0.0f; /* ReLU passes no gradient at zero, of either sign */
        float *copied = fixture_block(f, bytes), *added = train_copy(f, &y);
        float *cut = train_copy(f, &x), *back = train_copy(f, &y);
        train_ok(train_ops->copy(f->device, x.f, n, copied, &err), &err);
        assert_memory_equal(copied, x.f, bytes);
        train_ok(train_ops->add(f->device, x.f, n, added, &err), &err);
        train_ok(train_ops->relu(f->device, cut, n, &err), &err);
        train_ok(train_ops->relu_back(f->device, cut, n, back, &err), &err);
        train_ok(train_ops->zero(f->device, copied, n, &err), &err);
        for (size_t i = 0; i < n; i++) {
            assert_true(added[i] == x.f[i] + y.f[i]);
            assert_true(cut[i] == (x.f[i] > 0 ? x.f[i] : 0));
            assert_true(back[i] == (x.f[i] > 0 ? y.f[i] : 0));
            assert_true(copied[i] == 0);
        }
    }
}

static void copies_sums_zeros_and_relu_do_what_they_say_at_any_length(void **state)
{
    (void)state;
    train_on_every_isa(check_plain);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rms_norm_and_its_gradients_agree_and_are_added_to_what_is_there),
        cmocka_unit_test(layer_norm_with_relu_and_its_gradients_agree),
        cmocka_unit_test(rope_turns_rows_in_place_and_back_again),
        cmocka_unit_test(rope_is_right_whatever_was_turned_before),
        cmocka_unit_test(the_gated_unit_and_its_gradient_agree),
        cmocka_unit_test(the_gated_unit_stays_finite_far_from_zero),
        cmocka_unit_test(rows_are_taken_by_index_and_added_back),
        cmocka_unit_test(copies_sums_zeros_and_relu_do_what_they_say_at_any_length),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
