/* test_contrast.c - the losses of integration: values worked out by hand, gradients against
 * differences, and what reversing a discriminator's gradient does. */
#include "engine/train/contrast.h"

#include "engine/base/mem.h"
#include "engine/base/rng.h"
#include "engine/train/class_head.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* cmocka compares floats; these are doubles. */
#define assert_near(a, b, tolerance) assert_true(fabs((double)(a) - (double)(b)) <= (tolerance))

enum { N = 7, DIM = 5, BATCHES = 3, MLP = 6 };

static float x[N * DIM], gradient[N * DIM];
static const int32_t kind[N] = {0, 0, 1, 2, 1, 0, 2}, domain[N] = {0, 0, 1, 0, 1, 1, 0};

static void fill(void)
{
    for (size_t i = 0; i < N * DIM; i++)
        x[i] = scd_rng_normal(3, 1, i);
}

static double loss_of(const scd_contrast *c)
{
    float unused[N * DIM];
    double loss;
    assert_int_equal(scd_contrast_loss(c, 1, &loss, unused, NULL), SCD_OK);
    return loss;
}

/* The formula of contrast.h, written as it stands there. */
static double formula(const scd_contrast *c)
{
    double total = 0;
    for (size_t i = 0; i < c->n; i++) {
        double sum = 0, mean = 0, like = 0;
        for (size_t j = 0; j < c->n; j++) {
            double s = 0, a = 0, b = 0;
            for (size_t k = 0; k < c->dim; k++) {
                s += (double)c->x[i * c->dim + k] * (double)c->x[j * c->dim + k];
                a += (double)c->x[i * c->dim + k] * (double)c->x[i * c->dim + k];
                b += (double)c->x[j * c->dim + k] * (double)c->x[j * c->dim + k];
            }
            s /= sqrt(a * b) * c->temperature;
            if (i == j)
                continue;
            if (c->kind[i] == c->kind[j]) {
                like++;
                mean += s;
            }
            if (c->kind[i] < c->n_labels ? c->kind[j] < c->n_labels
                                         : c->kind[i] == c->kind[j] || c->domain[i] == c->domain[j])
                sum += exp(s);
        }
        if (like > 0)
            total += log(sum) - mean / like;
    }
    return total;
}

static void two_views_of_two_cells_have_the_loss_worked_out_by_hand(void **state)
{
    (void)state;
    /* Views of a cell coincide, cells are at right angles: log(e^(1/t) + 2) - 1/t for each. */
    const float views[] = {2, 0, 3, 0, 0, 1, 0, 5};
    const int32_t cells[] = {0, 0, 1, 1}, apart[] = {0, 0, 1, 1};
    const int32_t together[] = {4, 4, 4, 4};
    scd_contrast c = {.n = 4,
                      .dim = 2,
                      .x = views,
                      .kind = cells,
                      .n_labels = 2,
                      .domain = apart,
                      .temperature = 0.5};
    assert_near(loss_of(&c), 4 * (log(exp(2) + 2) - 2), 1e-12);
    c.n_labels = 0; /* nothing in their domain to be told from */
    assert_near(loss_of(&c), 0, 1e-12);
    c.n_labels = 1; /* no other label, nothing else in the domain */
    assert_near(loss_of(&c), 0, 1e-12);
    c.domain = together;
    assert_near(loss_of(&c), 2 * (log(exp(2) + 2) - 2), 1e-12);
}

static scd_contrast made_up(int32_t n_labels)
{
    return (scd_contrast){.n = N,
                          .dim = DIM,
                          .x = x,
                          .kind = kind,
                          .n_labels = n_labels,
                          .domain = domain,
                          .temperature = 0.3};
}

static void the_loss_is_the_formulas(void **state)
{
    (void)state;
    fill();
    for (int32_t n_labels = 0; n_labels <= 3; n_labels++) {
        scd_contrast c = made_up(n_labels);
        assert_near(loss_of(&c), formula(&c), 1e-9);
    }
}

/* Inputs are float: a step of 2^-9 is exact in them; the error of a central difference is of the
 * order of its square, 4e-6, times third derivatives of some hundred. */
static void check_gradient(int32_t n_labels)
{
    const float step = 0x1p-9f;
    fill();
    for (size_t i = 0; i < N * DIM; i++) /* so that adding and taking the step away is exact */
        x[i] = roundf(x[i] * 1024) / 1024;
    scd_contrast c = made_up(n_labels);
    double loss;
    assert_int_equal(scd_contrast_loss(&c, 0.25, &loss, gradient, NULL), SCD_OK);
    for (size_t i = 0; i < N * DIM; i++) {
        float was = x[i];
        x[i] = was + step;
        double above = loss_of(&c);
        x[i] = was - step;
        double below = loss_of(&c);
        x[i] = was;
        double want = 0.25 * (above - below) / (2 * (double)step);
        assert_near(gradient[i], want, 1e-3);
    }
}

static void its_gradient_is_that_of_differences(void **state)
{
    (void)state;
    for (int32_t n_labels = 0; n_labels <= 3; n_labels++)
        check_gradient(n_labels);
}

static void a_view_that_nothing_is_like_has_no_loss_of_its_own(void **state)
{
    (void)state;
    static const int32_t alone[] = {0, 1, 2};
    fill();
    scd_contrast c = made_up(3);
    c.n = 3;
    c.kind = alone;
    double loss = 1;
    assert_int_equal(scd_contrast_loss(&c, 1, &loss, gradient, NULL), SCD_OK);
    assert_near(loss, 0, 0);
    for (size_t i = 0; i < 3 * DIM; i++)
        assert_near(gradient[i], 0, 0);
}

static void very_sharp_similarities_stay_finite(void **state)
{
    (void)state;
    fill();
    for (size_t i = 0; i < DIM; i++)
        x[i] = 0; /* a zero vector points nowhere */
    scd_contrast c = made_up(3);
    c.temperature = 1e-4;
    double loss;
    assert_int_equal(scd_contrast_loss(&c, 1, &loss, gradient, NULL), SCD_OK);
    assert_true(isfinite(loss));
    for (size_t i = 0; i < N * DIM; i++)
        assert_true(isfinite(gradient[i]));
}

static void an_allocation_that_fails_is_said(void **state)
{
    (void)state;
    scd_code code = SCD_E_NOMEM;
    const scd_contrast c = made_up(3);
    fill();
    for (long n = 0; code; n++) {
        double loss;
        scd_mem_fail_after(n);
        code = scd_contrast_loss(&c, 1, &loss, gradient, NULL);
        scd_mem_fail_after(-1);
        assert_true(code == SCD_OK || (code == SCD_E_NOMEM && n < 8));
    }
}

/* ---- the reversed gradient ------------------------------------------------------------------- */

typedef struct adversary {
    scd_device *device;
    scd_class_head *head;
    float *latents; /* device (N, DIM) */
    float targets[N * BATCHES], weights[N];
} adversary;

static double adversary_loss(adversary *a, const float *host, float *d_host)
{
    const scd_backend *be = &scd_backend_cpu;
    const float *d_latents;
    double loss;
    assert_int_equal(be->upload(a->device, a->latents, host, N * DIM * sizeof(float), NULL), 0);
    assert_int_equal(scd_class_head_forward(a->head, a->latents, N, NULL, NULL), SCD_OK);
    assert_int_equal(scd_class_head_loss(a->head, a->latents, N, a->targets, a->weights, 1, &loss,
                                         &d_latents, NULL),
                     SCD_OK);
    assert_int_equal(be->download(a->device, d_host, d_latents, N * DIM * sizeof(float), NULL), 0);
    return loss;
}

static void the_reversed_gradient_leads_uphill_for_the_adversary(void **state)
{
    (void)state;
    adversary a = {0};
    const scd_device_options options = {.precision = SCD_PRECISION_FP32, .threads = 1};
    const scd_class_head_shape shape = {DIM, MLP, BATCHES, N};
    void *memory;
    float d[N * DIM], unused[N * DIM], reversed[N * DIM] = {0}, moved[N * DIM];
    fill();
    assert_int_equal(scd_backend_cpu.open(&options, &a.device, NULL), SCD_OK);
    assert_int_equal(scd_backend_cpu.alloc(a.device, sizeof x, &memory, NULL), SCD_OK);
    a.latents = memory;
    assert_int_equal(
        scd_class_head_new(&scd_backend_cpu, &scd_train_ops_cpu, a.device, &shape, &a.head, NULL),
        SCD_OK);
    assert_int_equal(scd_class_head_randomize(a.head, 5, NULL), SCD_OK);
    for (size_t i = 0; i < N; i++) {
        a.targets[i * BATCHES + i % BATCHES] = 1;
        a.weights[i] = 0.5f + 0.25f * (float)(i % 4);
    }
    double before = adversary_loss(&a, x, d), slope = 0;
    scd_reverse_gradient(d, 0.5, N * DIM, reversed);
    for (size_t i = 0; i < N * DIM; i++) {
        assert_near(reversed[i], -0.5f * d[i], 1e-9);
        moved[i] = x[i] - 0.01f * reversed[i]; /* what minimising does */
        slope += (double)d[i] * (double)(moved[i] - x[i]);
    }
    double after = adversary_loss(&a, moved, unused);
    assert_true(slope > 0 && after > before);
    /* to first order: the head is piecewise linear under a smooth loss */
    assert_near((after - before) / slope, 1, 0.1);
    scd_class_head_free(a.head);
    scd_backend_cpu.free(a.device, memory);
    scd_backend_cpu.close(a.device);
}

static void its_strength_rises_from_nothing_to_one(void **state)
{
    (void)state;
    assert_near(scd_reverse_strength(0), 0, 1e-12);
    assert_true(scd_reverse_strength(0.1) > 0.4 && scd_reverse_strength(0.1) < 0.5);
    assert_near(scd_reverse_strength(1), 1, 1e-4);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(two_views_of_two_cells_have_the_loss_worked_out_by_hand),
        cmocka_unit_test(the_loss_is_the_formulas),
        cmocka_unit_test(its_gradient_is_that_of_differences),
        cmocka_unit_test(a_view_that_nothing_is_like_has_no_loss_of_its_own),
        cmocka_unit_test(very_sharp_similarities_stay_finite),
        cmocka_unit_test(an_allocation_that_fails_is_said),
        cmocka_unit_test(the_reversed_gradient_leads_uphill_for_the_adversary),
        cmocka_unit_test(its_strength_rises_from_nothing_to_one),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
