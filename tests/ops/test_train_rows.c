/* test_train_rows.c - the operations of training that go along rows: norms, RoPE, the gated unit,
 * row indices and the plain ones. Forward against float64, gradients against central differences,
 * on every device, at sizes that miss every vector and chunk. */
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
        float *y = fixture_room_floats(f, n), *rstd = fixture_room_floats(f, rows);
        const float *x = fixture_place_array(f, c.x), *w = fixture_place_array(f, c.w);
        scd_t_rms_norm a = {rows, width, x, w, y, rstd};
        train_ok(f->be->train->rms_norm(f->device, &a, &err), &err);
        rms_scalar(&c);
        train_same(f, "rms_norm", c.y, y, n);
        array dx0 = fixture_random(f, 5, n, 1), dw0 = fixture_random(f, 6, width, 1);
        float *dx = fixture_place_array(f, dx0), *dw = fixture_place_array(f, dw0),
              *again = fixture_place_array(f, dx0);
        scd_t_rms_norm_back b = {rows, width, x, w, rstd, fixture_place_array(f, c.dy), dx, dw};
        train_ok(f->be->train->rms_norm_back(f->device, &b, &err), &err);
        train_gradient(f, "rms_norm dx", rms_scalar, &c, &c.x, dx0.f, dx);
        train_gradient(f, "rms_norm dw", rms_scalar, &c, &c.w, dw0.f, dw);
        b.dx = again;
        b.dw = NULL;
        train_ok(f->be->train->rms_norm_back(f->device, &b, &err), &err);
        train_equal(f, again, dx, n);
    }
}

static void rms_norm_and_its_gradients_agree_and_are_added_to_what_is_there(void **state)
{
    (void)state;
    fixture_on_every_device(check_rms);
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
        float *y = fixture_room_floats(f, n), *rstd = fixture_room_floats(f, rows);
        float *mean = fixture_room_floats(f, rows), *dx = fixture_room_floats(f, n);
        const float *x = fixture_place_array(f, c.x), *w = fixture_place_array(f, c.w);
        const float *bias = fixture_place_array(f, c.b), *dy = fixture_place_array(f, c.dy);
        scd_t_norm_relu a = {rows, width, x, w, bias, y, mean, rstd};
        train_ok(f->be->train->norm_relu(f->device, &a, &err), &err);
        layer_scalar(&c);
        train_same(f, "norm_relu", c.y, y, n);
        array dw0 = fixture_random(f, 5, width, 1), db0 = fixture_random(f, 6, width, 1);
        float *dw = fixture_place_array(f, dw0), *db = fixture_place_array(f, db0);
        scd_t_norm_relu_back b = {rows, width, x, w, bias, y, mean, rstd, dy, dx, dw, db};
        train_ok(f->be->train->norm_relu_back(f->device, &b, &err), &err);
        if (width > 1) /* a single element is its own mean: the gradient is 0 but for rounding */
            train_gradient(f, "norm_relu dx", layer_scalar, &c, &c.x, NULL, dx);
        train_gradient(f, "norm_relu dw", layer_scalar, &c, &c.w, dw0.f, dw);
        train_gradient(f, "norm_relu db", layer_scalar, &c, &c.b, db0.f, db);
    }
}

static void layer_norm_with_relu_and_its_gradients_agree(void **state)
{
    (void)state;
    fixture_on_every_device(check_layer);
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
        float *turned = fixture_place_array(f, x);
        for (size_t r = 0; r < rows; r++) {
            pos[r] = (uint32_t)(r * 7 % rows * 4);
            memcpy(want + r * width, x.d + r * stride, width * sizeof *want);
        }
        const uint32_t *dev = fixture_place(f, pos, rows * sizeof *pos);
        scd_t_rope a = {rows, width, heads, stride, 500, dev, turned, 0};
        train_ok(f->be->train->rope(f->device, &a, &err), &err);
        ref_rope(rows, width, heads, pos, 500, want);
        const float *got = fixture_fetch(f, turned, rows * stride * sizeof *got);
        for (size_t r = 0; r < rows; r++) {
            train_same_host(f, "rope", want + r * width, got + r * stride, width);
            assert_memory_equal(got + r * stride + width, x.f + r * stride + width,
                                width * sizeof *got);
        }
        a.inverse = 1; /* the gradient: an orthogonal matrix, transposed */
        train_ok(f->be->train->rope(f->device, &a, &err), &err);
        train_same(f, "rope there and back", x.d, turned, rows * stride);
    }
}

static void rope_turns_rows_in_place_and_back_again(void **state)
{
    (void)state;
    fixture_on_every_device(check_rope);
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
        const uint32_t *dev = fixture_place(f, pos, sizeof pos);
        float *got = fixture_place_array(f, x);
        scd_t_rope a = {ROWS, WIDTH, turns[i].heads, WIDTH, turns[i].theta, dev, got, 0};
        train_ok(f->be->train->rope(f->device, &a, &err), &err);
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
    fixture_on_every_device(check_rope_tables);
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
        float *y = fixture_room_floats(f, n), *dx = fixture_room_floats(f, 2 * n);
        const float *gate_up = fixture_place_array(f, c.gate_up);
        scd_t_swiglu a = {rows, ffn, gate_up, y};
        train_ok(f->be->train->swiglu(f->device, &a, &err), &err);
        swiglu_scalar(&c);
        train_same(f, "swiglu", c.y, y, n);
        scd_t_swiglu_back b = {rows, ffn, gate_up, fixture_place_array(f, c.dy), dx};
        train_ok(f->be->train->swiglu_back(f->device, &b, &err), &err);
        train_gradient(f, "swiglu dgate_up", swiglu_scalar, &c, &c.gate_up, NULL, dx);
    }
}

static void the_gated_unit_and_its_gradient_agree(void **state)
{
    (void)state;
    fixture_on_every_device(check_swiglu);
}

/* Far from zero the unit is the identity or nothing, and its slope 1 or 0: never NaN. */
static void check_swiglu_far(fixture *f)
{
    scd_error err;
    const float gate_up[8] = {-200, -90, 90, 200, 1, 1, 1, 1}, dy[4] = {1, 1, 1, 1};
    const float want_y[4] = {0, 0, 90, 200}, want_slope[4] = {0, 0, 1, 1};
    float *y_dev = fixture_room_floats(f, 4), *dx_dev = fixture_room_floats(f, 8);
    const float *in = fixture_place(f, gate_up, sizeof gate_up);
    scd_t_swiglu a = {1, 4, in, y_dev};
    scd_t_swiglu_back b = {1, 4, in, fixture_place(f, dy, sizeof dy), dx_dev};
    train_ok(f->be->train->swiglu(f->device, &a, &err), &err);
    train_ok(f->be->train->swiglu_back(f->device, &b, &err), &err);
    const float *y = fixture_fetch(f, y_dev, 4 * sizeof *y);
    const float *dx = fixture_fetch(f, dx_dev, 8 * sizeof *dx);
    for (size_t i = 0; i < 4; i++) {
        assert_true(y[i] - want_y[i] < 1e-30f && want_y[i] - y[i] < 1e-30f);
        assert_true(dx[i] - want_slope[i] < 1e-30f && want_slope[i] - dx[i] < 1e-30f);
    }
}

static void the_gated_unit_stays_finite_far_from_zero(void **state)
{
    (void)state;
    fixture_on_every_device(check_swiglu_far);
}

static void check_rows(fixture *f)
{
    scd_error err;
    enum { ROWS = 400, N = 301, WIDTH = 37 };
    array x = fixture_random(f, 1, ROWS * WIDTH, 1), d0 = fixture_random(f, 2, ROWS * WIDTH, 1);
    uint32_t index[N];
    for (size_t i = 0; i < N; i++)
        index[i] = (uint32_t)(i * 7 % ROWS); /* 7 and 400 have no common factor */
    float *to = fixture_room_floats(f, N * WIDTH), *sums = fixture_place_array(f, d0);
    const uint32_t *dev = fixture_place(f, index, sizeof index);
    scd_t_rows a = {N, WIDTH, dev, fixture_place_array(f, x), to};
    train_ok(f->be->train->rows_get(f->device, &a, &err), &err);
    const float *got = fixture_fetch(f, to, N * WIDTH * sizeof *got);
    for (size_t i = 0; i < N; i++)
        assert_memory_equal(got + i * WIDTH, x.f + index[i] * WIDTH, WIDTH * sizeof *got);
    scd_t_rows b = {N, WIDTH, dev, to, sums};
    train_ok(f->be->train->rows_add(f->device, &b, &err), &err);
    double *want = fixture_doubles(f, ROWS * WIDTH);
    memcpy(want, d0.d, ROWS * WIDTH * sizeof *want);
    for (size_t i = 0; i < N; i++)
        for (size_t j = 0; j < WIDTH; j++)
            want[index[i] * WIDTH + j] += x.d[index[i] * WIDTH + j];
    train_same(f, "rows_add", want, sums, ROWS * WIDTH);
    a.n = b.n = 0;
    train_ok(f->be->train->rows_get(f->device, &a, &err), &err);
    train_ok(f->be->train->rows_add(f->device, &b, &err), &err);
}

static void rows_are_taken_by_index_and_added_back(void **state)
{
    (void)state;
    fixture_on_every_device(check_rows);
}

static void check_plain(fixture *f)
{
    scd_error err;
    static const size_t counts[] = {0, 1, 15, 17, 32768, 70001};
    for (size_t k = 0; k < sizeof counts / sizeof counts[0]; k++) {
        size_t n = counts[k], bytes = n * sizeof(float);
        array x = fixture_random(f, 1, n, 1), y = fixture_random(f, 2, n, 1);
        if (n > 15)
            x.f[3] = 0, x.f[15] = -0.0f; /* ReLU passes no gradient at zero, of either sign */
        const float *in = fixture_place_array(f, x);
        float *a = fixture_room_floats(f, n), *b = fixture_place_array(f, y);
        float *c = fixture_place_array(f, x), *d = fixture_place_array(f, y);
        train_ok(f->be->train->copy(f->device, in, n, a, &err), &err);
        assert_memory_equal(fixture_fetch(f, a, bytes), x.f, bytes);
        train_ok(f->be->train->add(f->device, in, n, b, &err), &err);
        train_ok(f->be->train->relu(f->device, c, n, &err), &err);
        train_ok(f->be->train->relu_back(f->device, c, n, d, &err), &err);
        train_ok(f->be->train->zero(f->device, a, n, &err), &err);
        const float *zeros = fixture_fetch(f, a, bytes), *added = fixture_fetch(f, b, bytes);
        const float *cut = fixture_fetch(f, c, bytes), *back = fixture_fetch(f, d, bytes);
        for (size_t i = 0; i < n; i++) {
            assert_true(added[i] == x.f[i] + y.f[i]);
            assert_true(cut[i] == (x.f[i] > 0 ? x.f[i] : 0));
            assert_true(back[i] == (x.f[i] > 0 ? y.f[i] : 0));
            assert_true(zeros[i] == 0);
        }
    }
}

static void copies_sums_zeros_and_relu_do_what_they_say_at_any_length(void **state)
{
    (void)state;
    fixture_on_every_device(check_plain);
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
