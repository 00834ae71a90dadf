/* test_cuda_train.c - a step of training on the emulated device: every call of the runtime failing
 * in turn, and what a batch's ids may be. */
#include "tests/cuda_host/host.h"
#include "tests/ops/cuda_backend.h"
#include "tests/unit/net_fixture.h"

#include "engine/base/mem.h"

#include <math.h>

static const size_t lengths[] = {5, 1, 7, 3};
enum { N_CELLS = 4 };
static const scd_backend *const be = &scd_backend_cuda;

static void the_table_names_its_version_and_is_whole(void **state)
{
    (void)state;
    const scd_train_ops *ops = be->train;
    assert_int_equal(ops->abi, SCD_BACKEND_ABI);
    assert_int_equal(ops->size, sizeof *ops);
    void (*const *entry)(void) = (void (*const *)(void))(const void *)&ops->linear;
    for (; (const char *)entry < (const char *)ops + sizeof *ops; entry++)
        assert_true(*entry != NULL);
}

/* Open, learn from one batch, update and close; the first code that is not SCD_OK. */
static scd_code life(const scd_net_batch *b, scd_error *err)
{
    const scd_device_options options = {.precision = SCD_PRECISION_FP32};
    const scd_model_config config = net_config(false);
    const scd_net_options net_options = {.max_rows = 64};
    const scd_net_step step = step_of(1);
    scd_device *device = NULL;
    scd_net *net = NULL;
    scd_net_loss loss;
    double norm;
    float scale;
    scd_code code = be->open(&options, &device, err);
    if (!code)
        code = scd_net_new(be, be->train, device, &config, &net_options, &net, err);
    if (!code)
        code = scd_net_randomize(net, 1, err);
    if (!code)
        code = scd_net_zero_grads(net, err);
    if (!code)
        code = scd_net_forward(net, b, 1, err);
    if (!code)
        code = scd_net_pretrain_loss(net, 1, 1, &loss, err);
    if (!code)
        code = scd_net_backward(net, 0, err);
    if (!code)
        code = scd_net_update(net, &step, &norm, &scale, err);
    scd_emu_fail_after = -1; /* what cannot be entered cannot be freed */
    scd_net_free(net);
    be->close(device);
    return code;
}

static void any_call_that_fails_is_an_error_with_its_name_and_nothing_leaks(void **state)
{
    (void)state;
    made_batch m;
    made_cells(&m, 1, lengths, N_CELLS, MADE_MIXED);
    long calls = 0;
    for (bool failed = true; failed; calls++) {
        scd_error err;
        scd_emu_fail_after = calls;
        scd_code code = life(&m.b, &err);
        failed = code != SCD_OK;
        if (failed) {
            assert_int_equal(code, SCD_E_DEVICE);
            assert_non_null(strstr(err.message, ": told to fail"));
        }
        assert_int_equal(scd_emu_blocks, 0);
    }
    assert_true(calls > 400);
}

static void any_allocation_that_fails_is_an_error_and_nothing_leaks(void **state)
{
    (void)state;
    made_batch m;
    made_cells(&m, 1, lengths, N_CELLS, MADE_MIXED);
    scd_code code = SCD_E_NOMEM;
    for (long n = 0; code; n++) {
        scd_mem_fail_after(n);
        code = life(&m.b, NULL);
        scd_mem_fail_after(-1);
        assert_true(code == SCD_OK || code == SCD_E_NOMEM);
        assert_int_equal(scd_emu_blocks, 0);
    }
}

/* Both devices learn the same from the same: the loss of ten steps, and where they lead. */
static void a_net_learns_on_cuda_what_it_learns_on_the_cpu(void **state)
{
    (void)state;
    fixture f[2];
    net_state end[2];
    double first[2], last[2];
    made_batch m;
    scd_error err;
    made_cells(&m, 1, lengths, N_CELLS, MADE_MIXED);
    assert_true(fixture_open_on(&f[0], &scd_backend_cpu, SCD_PRECISION_FP32, 0, &err));
    assert_true(fixture_open_on(&f[1], be, SCD_PRECISION_FP32, 0, &err));
    for (size_t i = 0; i < 2; i++) {
        net_fixture net;
        net_open_on(&net, f[i].be, f[i].device, false, 3, 64);
        for (uint64_t s = 1; s <= 10; s++) {
            scd_net_loss loss;
            double norm;
            float scale;
            scd_net_step step = step_of(s);
            net_ok(scd_net_zero_grads(net.net, &net.err), &net.err);
            net_ok(scd_net_forward(net.net, &m.b, 1, &net.err), &net.err);
            net_ok(scd_net_pretrain_loss(net.net, 0.1f, 0.1f, &loss, &net.err), &net.err);
            net_ok(scd_net_backward(net.net, 0, &net.err), &net.err);
            net_ok(scd_net_update(net.net, &step, &norm, &scale, &net.err), &net.err);
            last[i] = loss.gene_sum + loss.value_sum;
            first[i] = s == 1 ? last[i] : first[i];
        }
        end[i] = export_state(&net);
        scd_net_free(net.net);
        fixture_release(&f[i]);
    }
    assert_true(last[0] < 0.9 * first[0]);
    /* ten steps magnify what fp32 rounds: 1e-7 a sum, and AdamW divides by small numbers */
    assert_true(fabs(first[1] - first[0]) < 1e-5 * first[0]);
    assert_true(fabs(last[1] - last[0]) < 1e-3 * last[0]);
    free(end[0].params);
    free(end[1].params);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_table_names_its_version_and_is_whole),
        cmocka_unit_test(any_call_that_fails_is_an_error_with_its_name_and_nothing_leaks),
        cmocka_unit_test(any_allocation_that_fails_is_an_error_and_nothing_leaks),
        cmocka_unit_test(a_net_learns_on_cuda_what_it_learns_on_the_cpu),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
