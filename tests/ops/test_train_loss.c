/* test_train_loss.c - the losses and the optimizer's step against float64, gradients against
 * central differences, on every device. */
#include "tests/ops/train_check.h"
#include "tests/ops/train_ref64.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

typedef struct gene_case {
    size_t n, width, vocab;
    array x, w;
    int32_t *targets;
    double *loss, scale;
} gene_case;

static double gene_scalar(void *ctx)
{
    gene_case *c = ctx;
    double sum = 0;
    ref_gene_loss(c->n, c->width, c->vocab, c->x.d, c->w.d, c->targets, c->loss, NULL);
    for (size_t i = 0; i < c->n; i++)
        sum += c->loss[i];
    return c->scale * sum;
}

/* Each output alone gives what all together gave, which is in *all. dw0: what dw began as. */
static void alone(fixture *f, const scd_t_gene_loss *all, array dw0)
{
    scd_error err;
    size_t n = all->n, n_dx = n * all->hidden_dim, n_dw = all->vocab * all->hidden_dim;
    scd_t_gene_loss b = *all;
    b.loss = fixture_room_floats(f, n);
    b.dx = b.dw = NULL;
    train_ok(f->be->train->gene_loss(f->device, &b, &err), &err);
    train_equal(f, b.loss, all->loss, n);
    b.dx = fixture_room_floats(f, n_dx);
    train_ok(f->be->train->gene_loss(f->device, &b, &err), &err);
    train_equal(f, b.dx, all->dx, n_dx);
    b.dx = NULL;
    b.dw = fixture_place_array(f, dw0);
    train_ok(f->be->train->gene_loss(f->device, &b, &err), &err);
    train_equal(f, b.dw, all->dw, n_dw);
}

static void gene_loss_case(fixture *f, size_t n, size_t width, size_t vocab, double spread)
{
    scd_error err;
    gene_case c = {.n = n,
                   .width = width,
                   .vocab = vocab,
                   .x = fixture_random(f, 1, n * width, spread),
                   .w = fixture_random(f, 2, vocab * width, 1),
                   .targets = fixture_block(f, n * sizeof *c.targets),
                   .loss = fixture_doubles(f, n),
                   .scale = 0.25};
    int32_t *best = fixture_room(f, n * sizeof *best), *want = fixture_block(f, n * sizeof *want);
    float *loss = fixture_room_floats(f, n), *dx = fixture_room_floats(f, n * width);
    array dw0 = fixture_random(f, 3, vocab * width, 0.1);
    float *dw = fixture_place_array(f, dw0);
    for (size_t i = 0; i < n; i++) /* the first and the last id among them */
        c.targets[i] = (int32_t)(i % 3 == 0 ? vocab - 1 : i % 3 == 1 ? 0 : i * 7919 % vocab);
    const float *x = fixture_place_array(f, c.x), *w = fixture_place_array(f, c.w);
    const int32_t *targets = fixture_place(f, c.targets, n * sizeof *targets);
    scd_t_gene_loss a = {n, width, vocab, x, w, targets, 0.25f, loss, best, dx, dw};
    train_ok(f->be->train->gene_loss(f->device, &a, &err), &err);
    ref_gene_loss(n, width, vocab, c.x.d, c.w.d, c.targets, c.loss, want);
    train_same(f, "gene_loss", c.loss, loss, n);
    assert_memory_equal(fixture_fetch(f, best, n * sizeof *best), want, n * sizeof *best);
    train_gradient(f, "gene_loss dx", gene_scalar, &c, &c.x, NULL, dx);
    train_gradient(f, "gene_loss dw", gene_scalar, &c, &c.w, dw0.f, dw);

    if (n < 1000)
        alone(f, &a, dw0);
}

static void check_gene_loss(fixture *f)
{
    gene_loss_case(f, 1, 26, 1, 1);
    gene_loss_case(f, 7, 26, 77, 1);
    gene_loss_case(f, 77, 16, 300, 1);
    gene_loss_case(f, 5, 32, 1030, 3); /* three tiles; logits of some forty */
    gene_loss_case(f, 130, 8, 513, 1);
    gene_loss_case(f, 3, 8, 4100, 1); /* three tiles of CUDA's */
    gene_loss_case(f, 2051, 4, 5, 1); /* more rows than it takes at once */
}

static void the_loss_over_the_vocabulary_and_its_gradients_agree(void **state)
{
    (void)state;
    fixture_on_every_device(check_gene_loss);
}

/* Small whole numbers, so that every sum is exact: columns 3 and 700 equal the best. */
static void check_ties(fixture *f)
{
    scd_error err;
    enum { N = 9, WIDTH = 4, VOCAB = 800 };
    float x[N * WIDTH], w[VOCAB * WIDTH];
    int32_t targets[N];
    for (size_t i = 0; i < VOCAB * WIDTH; i++)
        w[i] = (float)(i % 3);
    for (size_t i = 0; i < WIDTH; i++)
        w[3 * WIDTH + i] = w[700 * WIDTH + i] = w[703 * WIDTH + i] = 5;
    for (size_t i = 0; i < N * WIDTH; i++)
        x[i] = i < WIDTH ? 0 : 1; /* the first row: all logits are 0 */
    for (size_t i = 0; i < N; i++)
        targets[i] = 700;
    scd_t_gene_loss a = {.n = N,
                         .hidden_dim = WIDTH,
                         .vocab = VOCAB,
                         .x = fixture_place(f, x, sizeof x),
                         .w = fixture_place(f, w, sizeof w),
                         .targets = fixture_place(f, targets, sizeof targets),
                         .scale = 1,
                         .loss = fixture_room_floats(f, N),
                         .best = fixture_room(f, sizeof targets)};
    train_ok(f->be->train->gene_loss(f->device, &a, &err), &err);
    const float *loss = fixture_fetch(f, a.loss, N * sizeof *loss);
    const int32_t *best = fixture_fetch(f, a.best, N * sizeof *best);
    assert_int_equal(best[0], 0);
    assert_true(fabsf(loss[0] - logf(VOCAB)) < 1e-5f);
    for (size_t i = 1; i < N; i++)
        assert_int_equal(best[i], 3);
    a.n = 0;
    train_ok(f->be->train->gene_loss(f->device, &a, &err), &err);
}

static void of_equal_logits_the_lowest_id_is_the_best(void **state)
{
    (void)state;
    fixture_on_every_device(check_ties);
}

/* Logits of thousands: the loss is their difference, p is 0 or 1, nothing overflows. */
static void check_far(fixture *f)
{
    scd_error err;
    enum { VOCAB = 1100 };
    float w[VOCAB], zeros[VOCAB] = {0};
    const float x[2] = {1000, -1000};
    const int32_t targets[2] = {1099, 1099};
    for (size_t i = 0; i < VOCAB; i++)
        w[i] = (float)i;
    scd_t_gene_loss a = {.n = 2,
                         .hidden_dim = 1,
                         .vocab = VOCAB,
                         .x = fixture_place(f, x, sizeof x),
                         .w = fixture_place(f, w, sizeof w),
                         .targets = fixture_place(f, targets, sizeof targets),
                         .scale = 1,
                         .loss = fixture_room_floats(f, 2),
                         .best = fixture_room(f, sizeof targets),
                         .dx = fixture_room_floats(f, 2),
                         .dw = fixture_place(f, zeros, sizeof zeros)};
    train_ok(f->be->train->gene_loss(f->device, &a, &err), &err);
    const float *loss = fixture_fetch(f, a.loss, 2 * sizeof *loss);
    const float *dx = fixture_fetch(f, a.dx, 2 * sizeof *dx);
    const float *dw = fixture_fetch(f, a.dw, sizeof zeros);
    const int32_t *best = fixture_fetch(f, a.best, sizeof targets);
    assert_true(loss[0] == 0 && loss[1] == 1099000);
    assert_true(best[0] == 1099 && best[1] == 0);
    assert_true(fabsf(dx[0]) < 1e-3f && dx[1] == -1099);
    assert_true(dw[0] == -1000 && dw[1099] == 1000 && dw[500] == 0);
}

static void logits_of_thousands_neither_overflow_nor_vanish(void **state)
{
    (void)state;
    fixture_on_every_device(check_far);
}

typedef struct class_case {
    size_t n, classes;
    array logits;
    double *targets, *weight, *loss;
} class_case;

static double class_scalar(void *ctx)
{
    class_case *c = ctx;
    double sum = 0;
    ref_class_loss(c->n, c->classes, c->logits.d, c->targets, c->weight, c->loss);
    for (size_t i = 0; i < c->n; i++)
        sum += c->loss[i];
    return 0.5 * sum;
}

static void class_loss_case(fixture *f, size_t n, size_t classes)
{
    scd_error err;
    array targets = fixture_random(f, 2, n * classes, 1), weight = fixture_random(f, 3, n, 1);
    for (size_t i = 0; i < n; i++) {
        float sum = 0, *t = targets.f + i * classes;
        for (size_t k = 0; k < classes; k++) /* some classes get nothing */
            sum += t[k] = t[k] > 0 || k == i % classes ? fabsf(t[k]) : 0;
        for (size_t k = 0; k < classes; k++)
            t[k] /= sum;
        weight.f[i] = fabsf(weight.f[i]);
    }
    class_case c = {n,
                    classes,
                    fixture_random(f, 1, n * classes, 2),
                    fixture_from_float(f, targets.f, n * classes),
                    fixture_from_float(f, weight.f, n),
                    fixture_doubles(f, n)};
    float *loss = fixture_room_floats(f, n), *d = fixture_room_floats(f, n * classes);
    scd_t_class_loss a = {n,
                          classes,
                          fixture_place_array(f, c.logits),
                          fixture_place_array(f, targets),
                          fixture_place_array(f, weight),
                          0.5f,
                          loss,
                          d};
    train_ok(f->be->train->class_loss(f->device, &a, &err), &err);
    class_scalar(&c);
    train_same(f, "class_loss", c.loss, loss, n);
    if (classes > 1)
        train_gradient(f, "class_loss dlogits", class_scalar, &c, &c.logits, NULL, d);
    a.dlogits = NULL;
    train_ok(f->be->train->class_loss(f->device, &a, &err), &err);
    train_same(f, "class_loss alone", c.loss, loss, n);
}

static void check_class_loss(fixture *f)
{
    class_loss_case(f, 1, 8);
    class_loss_case(f, 7, 2);
    class_loss_case(f, 300, 13);
}

static void the_loss_over_soft_classes_and_its_gradient_agree(void **state)
{
    (void)state;
    fixture_on_every_device(check_class_loss);
}

static void check_class_far(fixture *f)
{
    scd_error err;
    const float logits[4] = {-1000, 1000, 1000, -1000}, targets[4] = {1, 0, 1, 0};
    const float weight[2] = {0, 2};
    scd_t_class_loss a = {.n = 2,
                          .classes = 2,
                          .logits = fixture_place(f, logits, sizeof logits),
                          .targets = fixture_place(f, targets, sizeof targets),
                          .weight = fixture_place(f, weight, sizeof weight),
                          .scale = 1,
                          .loss = fixture_room_floats(f, 2),
                          .dlogits = fixture_room_floats(f, 4)};
    train_ok(f->be->train->class_loss(f->device, &a, &err), &err);
    const float *loss = fixture_fetch(f, a.loss, 2 * sizeof *loss);
    const float *d = fixture_fetch(f, a.dlogits, 4 * sizeof *d);
    assert_true(loss[0] == 0 && loss[1] == 0); /* weight 0; certain and right */
    for (size_t i = 0; i < 4; i++)
        assert_true(d[i] == 0);
}

static void certain_classes_and_weights_of_zero_give_zeros(void **state)
{
    (void)state;
    fixture_on_every_device(check_class_far);
}

static void adamw_case(fixture *f, size_t n)
{
    scd_error err;
    array w = fixture_random(f, 1, n, 1), m = fixture_random(f, 2, n, 0.1);
    array v = fixture_random(f, 3, n, 0.1), g = fixture_random(f, 4, n, 1);
    for (size_t i = 0; i < n; i++)
        v.d[i] = (double)(v.f[i] = v.f[i] * v.f[i]);
    float *to = fixture_place_array(f, w), *to_m = fixture_place_array(f, m);
    float *to_v = fixture_place_array(f, v);
    const float *from = fixture_place_array(f, g);
    scd_t_adamw a = {n,      to,    to_m,  to_v, from, 1e-3f, 0.9f,
                     0.999f, 1e-8f, 0.01f, 0.5f, 0.1f, 0.001f};
    train_ok(f->be->train->adamw(f->device, &a, &err), &err);
    ref_adamw(&a, w.d, m.d, v.d, g.d);
    train_same(f, "adamw w", w.d, to, n);
    train_same(f, "adamw m", m.d, to_m, n);
    train_same(f, "adamw v", v.d, to_v, n);
}

static void check_adamw(fixture *f)
{
    adamw_case(f, 1);
    adamw_case(f, 77);
    adamw_case(f, 40001);
    /* No gradient yet and no moments: only decay moves a weight. */
    scd_error err;
    const float start[4] = {2, 0, 0, 0};
    float *w = fixture_place(f, start, sizeof start);
    scd_t_adamw a = {1, w, w + 1, w + 2, w + 3, 0.1f, 0.9f, 0.999f, 1e-8f, 0.5f, 1, 0.1f, 0.001f};
    train_ok(f->be->train->adamw(f->device, &a, &err), &err);
    const float *end = fixture_fetch(f, w, sizeof start);
    assert_true(fabsf(end[0] - 1.9f) < 1e-6f && end[1] == 0 && end[2] == 0);
    a.n = 0;
    train_ok(f->be->train->adamw(f->device, &a, &err), &err);
}

static void a_step_of_adamw_agrees(void **state)
{
    (void)state;
    fixture_on_every_device(check_adamw);
}

static void check_squares(fixture *f)
{
    scd_error err;
    static const size_t counts[] = {0, 1, 15, 16385, 70001};
    for (size_t c = 0; c < sizeof counts / sizeof counts[0]; c++) {
        array x = fixture_random(f, 1, counts[c], 1);
        double got = -1, want = train_dot(x.d, x.d, counts[c]);
        train_ok(
            f->be->train->sum_squares(f->device, fixture_place_array(f, x), counts[c], &got, &err),
            &err);
        assert_true(fabs(got - want) <= 1e-12 * want); /* both in float64 */
    }
    const float large[3] = {1e30f, 1e30f, 0}; /* squares no float holds */
    double got;
    train_ok(
        f->be->train->sum_squares(f->device, fixture_place(f, large, sizeof large), 3, &got, &err),
        &err);
    assert_true(fabs(got - 2e60) < 1e54);
    const float broken[2] = {1, NAN};
    train_ok(f->be->train->sum_squares(f->device, fixture_place(f, broken, sizeof broken), 2, &got,
                                       &err),
             &err);
    assert_true(isnan(got));
}

static void squares_are_summed_in_float64_and_nan_is_not_lost(void **state)
{
    (void)state;
    fixture_on_every_device(check_squares);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_loss_over_the_vocabulary_and_its_gradients_agree),
        cmocka_unit_test(of_equal_logits_the_lowest_id_is_the_best),
        cmocka_unit_test(logits_of_thousands_neither_overflow_nor_vanish),
        cmocka_unit_test(the_loss_over_soft_classes_and_its_gradient_agree),
        cmocka_unit_test(certain_classes_and_weights_of_zero_give_zeros),
        cmocka_unit_test(a_step_of_adamw_agrees),
        cmocka_unit_test(squares_are_summed_in_float64_and_nan_is_not_lost),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
