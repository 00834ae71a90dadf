/* test_pert_net.c - the network of a perturbation head: it learns what it is shown, computes what
 * engine/denoise/response.h computes of its parameters, and begins again alike. */
#include "engine/train/pert_net.h"

#include "engine/base/rng.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { H = 6, D = 4, K = 16, G = 5, N = 8 };

static scd_device *device;
static scd_pert_net *net;
static float embeddings[N * H], features[N * D], targets[N * G];
static scd_pert_sample samples[N];

static int set_up(void **state)
{
    (void)state;
    const scd_device_options options = {.precision = SCD_PRECISION_FP32, .threads = 2};
    const scd_pert_shape shape = {H, D, K, G, N};
    for (size_t i = 0; i < N * H; i++)
        embeddings[i] = scd_rng_normal(1, 1, i);
    for (size_t i = 0; i < N * D; i++)
        features[i] = scd_rng_normal(1, 2, i);
    for (size_t i = 0; i < N * G; i++)
        targets[i] = scd_rng_normal(1, 3, i);
    for (size_t i = 0; i < N; i++)
        samples[i] = (scd_pert_sample){embeddings + i * H, features + i * D,
                                       i % 2 ? SCD_ACTIVATION : SCD_KNOCKDOWN};
    return scd_backend_cpu.open(&options, &device, NULL) ||
           scd_pert_net_new(&scd_backend_cpu, &scd_train_ops_cpu, device, &shape, &net, NULL);
}

static int tear_down(void **state)
{
    (void)state;
    scd_pert_net_free(net);
    scd_pert_net_free(NULL);
    scd_backend_cpu.close(device);
    return 0;
}

/* Steps towards the targets; the mean squared distance before the last one. */
static double learn(size_t n_steps)
{
    float out[N * G], d_out[N * G];
    double loss = 0;
    for (size_t s = 1; s <= n_steps; s++) {
        const scd_net_step step = {
            .step = s, .lr = 0.02f, .beta1 = 0.9f, .beta2 = 0.999f, .eps = 1e-8f, .clip = 5};
        assert_int_equal(scd_pert_net_forward(net, samples, N, out, NULL), SCD_OK);
        loss = 0;
        for (size_t i = 0; i < N * G; i++) {
            d_out[i] = 2 * (out[i] - targets[i]) / (N * G);
            loss += pow((double)out[i] - (double)targets[i], 2) / (N * G);
        }
        assert_int_equal(scd_pert_net_step(net, samples, N, d_out, &step, NULL), SCD_OK);
    }
    return loss;
}

static void it_begins_by_changing_nothing_and_learns_what_it_is_shown(void **state)
{
    (void)state;
    float out[N * G];
    assert_int_equal(scd_pert_net_reset(net, 4, NULL), SCD_OK);
    assert_int_equal(scd_pert_net_forward(net, samples, N, out, NULL), SCD_OK);
    for (size_t i = 0; i < N * G; i++)
        assert_true(out[i] == 0);
    double first = learn(1);
    assert_true(learn(600) < first / 100);
}

static void its_parameters_mean_the_same_to_the_daemon(void **state)
{
    (void)state;
    float out[N * G], one[G], *params = calloc(scd_pert_net_n_params(net), sizeof *params);
    double cells[K], scratch[K + D];
    assert_int_equal(scd_pert_net_reset(net, 5, NULL), SCD_OK);
    learn(50);
    assert_int_equal(scd_pert_net_forward(net, samples, N, out, NULL), SCD_OK);
    assert_int_equal(scd_pert_net_export(net, params, NULL), SCD_OK);
    scd_response_net view = scd_pert_net_view(net, params);
    for (size_t i = 0; i < N; i++) {
        scd_response_net_cells(&view, samples[i].embedding, 1, cells);
        scd_response_net_run(&view, cells, 1, samples[i].direction, samples[i].feature, scratch,
                             one);
        for (size_t g = 0; g < G; g++) /* fp32 sums of tens of products of about 1 */
            assert_true(fabsf(one[g] - out[i * G + g]) < 1e-4f);
    }
    free(params);
}

static void the_same_seed_and_steps_give_the_same_bits(void **state)
{
    (void)state;
    size_t bytes = scd_pert_net_n_params(net) * sizeof(float);
    float *params[3] = {malloc(bytes), malloc(bytes), malloc(bytes)};
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(scd_pert_net_reset(net, i == 2, NULL), SCD_OK);
        learn(20);
        assert_int_equal(scd_pert_net_export(net, params[i], NULL), SCD_OK);
    }
    assert_memory_equal(params[0], params[1], bytes);
    assert_true(memcmp(params[0], params[2], bytes) != 0);
    for (size_t i = 0; i < 3; i++)
        free(params[i]);
}

static void too_many_samples_and_gradients_that_are_no_numbers_are_refused(void **state)
{
    (void)state;
    scd_error err = {0};
    float out[N * G], d_out[N * G] = {NAN};
    const scd_net_step step = {.step = 1, .lr = 0.1f, .beta1 = 0.9f, .beta2 = 0.9f, .eps = 1e-8f};
    assert_int_equal(scd_pert_net_forward(net, samples, N + 1, out, &err), SCD_E_TOO_LARGE);
    assert_non_null(strstr(err.message, "9 samples, the network has room for 8"));
    assert_int_equal(scd_pert_net_forward(net, samples, N, out, NULL), SCD_OK);
    assert_int_equal(scd_pert_net_step(net, samples, N, d_out, &step, &err), SCD_E_INVALID);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_begins_by_changing_nothing_and_learns_what_it_is_shown),
        cmocka_unit_test(its_parameters_mean_the_same_to_the_daemon),
        cmocka_unit_test(the_same_seed_and_steps_give_the_same_bits),
        cmocka_unit_test(too_many_samples_and_gradients_that_are_no_numbers_are_refused),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
