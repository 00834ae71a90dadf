/* test_net_faults.c - the net on bad input, on calls out of order, and out of memory. */
#include "tests/unit/net_fixture.h"

#include "engine/base/mem.h"

#include <math.h>
#include <stdlib.h>
#include <unistd.h>

static const size_t lengths[] = {5, 1, 7, 3, 10, 2};
enum { N_CELLS = 6 };

static void refused(net_fixture *f, const scd_net_batch *b, scd_code code, const char *words)
{
    assert_int_equal(scd_net_forward(f->net, b, 1, &f->err), code);
    if (!strstr(f->err.message, words))
        fail_msg("\"%s\" does not say \"%s\"", f->err.message, words);
    assert_int_equal(scd_net_backward(f->net, 0, &f->err), SCD_E_INVALID);
}

static void a_batch_that_contradicts_itself_is_refused(void **state)
{
    (void)state;
    net_fixture f;
    made_batch m, good;
    net_open(&f, 1, false, 4);
    made_cells(&good, 1, lengths, N_CELLS, MADE_MIXED);
    m = good;
    m.b.n_cells = 0;
    refused(&f, &m.b, SCD_E_INVALID, "without cells");
    m.b.n_cells = N_CELLS;
    m.b.n_rows = NET_MAX_ROWS + 1;
    refused(&f, &m.b, SCD_E_TOO_LARGE, "at most 128");

#define REFUSED(change, words)                                                                     \
    made_cells(&m, 1, lengths, N_CELLS, MADE_MIXED);                                               \
    change;                                                                                        \
    refused(&f, &m.b, SCD_E_INVALID, words)
    REFUSED(m.cu_rows[1] = 1, "cell 0 of the batch has no tokens");
    REFUSED(m.cu_rows[N_CELLS]--, "cu_rows");
    REFUSED(m.ids[m.cu_rows[2]] = 3, "[LAT]");
    REFUSED(m.ids[1] = NET_VOCAB, "gene id 40");
    REFUSED(m.ids[1] = -1, "gene id -1");
    REFUSED(m.masked[1] = m.masked[0], "ascending");
    REFUSED(m.masked[m.b.n_masked - 1] = 4000, "4000");
    REFUSED(m.masked[0] = 0, "rows of tokens");
    REFUSED(m.gene_masked[1] = m.gene_masked[0], "gene target");
    REFUSED(m.gene_masked[m.b.n_gene_masked - 1] = 127, "gene target");
    REFUSED(m.gene_targets[0] = NET_VOCAB, "gene target 40");
#undef REFUSED
    net_ok(scd_net_forward(f.net, &good.b, 1, &f.err), &f.err);
    net_close(&f);
}

static void calls_out_of_order_are_refused(void **state)
{
    (void)state;
    net_fixture f;
    made_batch m;
    scd_net_loss loss;
    scd_net_predictions said;
    float latents[N_CELLS * 32];
    net_open(&f, 1, false, 4);
    made_cells(&m, 1, lengths, N_CELLS, MADE_MIXED);
    assert_int_equal(scd_net_latents(f.net, latents, &f.err), SCD_E_INVALID);
    assert_null(scd_net_device_latents(f.net));
    assert_int_equal(scd_net_pretrain_loss(f.net, 1, 1, &loss, &f.err), SCD_E_INVALID);
    assert_int_equal(scd_net_get_predictions(f.net, &said, &f.err), SCD_E_INVALID);
    assert_int_equal(scd_net_latent_gradient(f.net, latents, &f.err), SCD_E_INVALID);
    net_ok(scd_net_forward(f.net, &m.b, 1, &f.err), &f.err);
    net_ok(scd_net_backward(f.net, 0, &f.err), &f.err);
    assert_int_equal(scd_net_backward(f.net, 0, &f.err), SCD_E_INVALID);
    net_ok(scd_net_forward(f.net, &m.b, 1, &f.err), &f.err);
    assert_int_equal(scd_net_backward(f.net, 3, &f.err), SCD_E_INVALID);
    assert_non_null(strstr(f.err.message, "layer 3"));
    net_ok(scd_net_backward(f.net, 2, &f.err), &f.err);
    size_t first, n;
    assert_int_equal(scd_net_tensor(f.net, "layers.2.norm1.weight", &first, &n, &f.err),
                     SCD_E_NOT_FOUND);
    net_close(&f);
}

static void a_gradient_that_is_not_finite_moves_nothing(void **state)
{
    (void)state;
    net_fixture f;
    double norm;
    float scale;
    net_open(&f, 1, false, 4);
    net_state before = export_state(&f);
    scd_net_step step = step_of(7);
    scd_net_grads(f.net)[1000] = NAN;
    assert_int_equal(scd_net_update(f.net, &step, &norm, &scale, &f.err), SCD_E_INVALID);
    assert_non_null(strstr(f.err.message, "step 7"));
    assert_false(norm <= 1e300);
    step.step = 0;
    assert_int_equal(scd_net_update(f.net, &step, &norm, &scale, &f.err), SCD_E_INVALID);
    net_state after = export_state(&f);
    assert_memory_equal(after.params, before.params, 3 * before.n * sizeof(float));
    free(after.params);
    free(before.params);
    net_close(&f);
}

static scd_code new_net(net_fixture *f, size_t max_rows)
{
    scd_model_config config = net_config(false);
    const scd_net_options options = {.max_rows = max_rows};
    return scd_net_new(&scd_backend_cpu, &scd_train_ops_cpu, f->device, &config, &options, &f->net,
                       &f->err);
}

static void sizes_that_no_machine_has_are_refused(void **state)
{
    (void)state;
    net_fixture f = {.device = net_device(1)};
    assert_int_equal(new_net(&f, 1), SCD_E_INVALID);
    assert_int_equal(new_net(&f, SIZE_MAX / 2), SCD_E_INVALID);
    assert_int_equal(new_net(&f, SIZE_MAX / 4), SCD_E_INVALID);
    assert_null(f.net);
    scd_model_config config = net_config(false);
    config.n_heads = 3;
    const scd_net_options options = {.max_rows = 64};
    assert_int_equal(scd_net_new(&scd_backend_cpu, &scd_train_ops_cpu, f.device, &config, &options,
                                 &f.net, &f.err),
                     SCD_E_INVALID);
    scd_train_ops other = scd_train_ops_cpu;
    other.size--;
    config = net_config(false);
    assert_int_equal(
        scd_net_new(&scd_backend_cpu, &other, f.device, &config, &options, &f.net, &f.err),
        SCD_E_DEVICE);
    scd_backend_cpu.close(f.device);
}

/* Everything that may allocate, in order; the first code that is not SCD_OK. */
static scd_code whole_step(net_fixture *f, const scd_net_batch *b, const char *path)
{
    scd_net_loss loss;
    double norm;
    float scale;
    scd_net_step step = step_of(1);
    scd_code code = new_net(f, NET_MAX_ROWS);
    if (!code)
        code = scd_net_randomize(f->net, 1, &f->err);
    if (!code)
        code = scd_net_forward(f->net, b, 1, &f->err);
    if (!code)
        code = scd_net_pretrain_loss(f->net, 1, 1, &loss, &f->err);
    if (!code)
        code = scd_net_backward(f->net, 0, &f->err);
    if (!code)
        code = scd_net_update(f->net, &step, &norm, &scale, &f->err);
    return code ? code : scd_net_save(f->net, path, SCD_F32, &f->err);
}

static void every_allocation_may_fail(void **state)
{
    (void)state;
    made_batch m;
    char path[] = "/tmp/scdiva-net-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    made_cells(&m, 1, lengths, N_CELLS, MADE_MIXED);
    scd_code code = SCD_E_NOMEM;
    long n = 0;
    /* One device for all: where threads come and go by the dozen, valgrind takes the frames of
     * oneDNN's generated code, on a stack that is used again, for uninitialised. */
    scd_device *device = net_device(2);
    for (; code; n++) {
        net_fixture f = {.device = device};
        scd_mem_fail_after(n);
        code = whole_step(&f, &m.b, path);
        scd_mem_fail_after(-1);
        if (code)
            assert_int_equal(code, SCD_E_NOMEM);
        scd_net_free(f.net);
    }
    scd_backend_cpu.close(device);
    assert_true(n > 40); /* names, four arrays, activations, ... */
    unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_batch_that_contradicts_itself_is_refused),
        cmocka_unit_test(calls_out_of_order_are_refused),
        cmocka_unit_test(a_gradient_that_is_not_finite_moves_nothing),
        cmocka_unit_test(sizes_that_no_machine_has_are_refused),
        cmocka_unit_test(every_allocation_may_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
