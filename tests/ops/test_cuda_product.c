/* test_cuda_product.c - products of our own (engine/cuda/product_group.cu) on the emulator: who
 * uses them, their layout, what happens when something fails. That they are right is test_ops.c's,
 * that a row's bits do not depend on its place test_cuda_exact.c's. */
#include "tests/cuda_host/host.h"
#include "tests/ops/cuda_backend.h"

#include <string.h>

enum { WIDTH = 128, FFN = 64, ROWS = 5 };

static void setenv_all(const char *isa, const char *kernels)
{
    setenv("CUDA_EMULATOR_ISA", isa, 1);
    setenv("SCDIVA_CUDA_KERNELS", kernels, 1);
}

static void unsetenv_all(void)
{
    unsetenv("CUDA_EMULATOR_ISA");
    unsetenv("SCDIVA_CUDA_KERNELS");
}

static bool named(const char *isa, const char *kernels, int bf16)
{
    fixture f;
    setenv_all(isa, kernels);
    cuda_open(&f, bf16);
    unsetenv_all();
    bool next = strstr(f.info->identity, "next/") != NULL;
    fixture_release(&f);
    return next;
}

/* Their bits are others', so the identity must tell; only Hopper has them, and only in bf16. */
static void an_identity_says_which_kernels_they_are(void **state)
{
    (void)state;
    assert_true(named("90", "next", 1));
    assert_false(named("90", "next", 0));
    assert_false(named("80", "next", 1));
    assert_false(named("90", "", 1));
    assert_false(named("90", "measured", 1));
    fixture f;
    scd_error err;
    setenv_all("90", "theirs");
    assert_false(fixture_open_on(&f, &scd_backend_cuda, SCD_PRECISION_BF16, 0, &err));
    unsetenv_all();
    assert_non_null(strstr(err.message, "SCDIVA_CUDA_KERNELS is \"theirs\": measured or next"));
}

/* A block's second half and q, k, v. */
typedef struct life {
    scd_device *device;
    scd_matrix *square, *gate_up, *down, *qkv;
    char *memory;
} life;

static const scd_backend *const be = &scd_backend_cuda;

static scd_code pack(life *l, size_t parts, size_t rows, size_t cols, scd_matrix **out,
                     scd_error *err)
{
    static float weights[WIDTH * WIDTH];
    scd_tensor t[3];
    for (size_t i = 0; i < WIDTH * WIDTH; i++)
        weights[i] = (float)((double)(i % 13) / 40 - 0.15);
    for (size_t i = 0; i < parts; i++)
        t[i] = (scd_tensor){.data = weights, .dtype = SCD_F32, .rows = rows, .cols = cols};
    return be->matrix_pack(l->device, t, parts, 0, out, err);
}

static scd_code load(life *l, bool with_qkv, scd_error *err)
{
    scd_device_options options = {.precision = SCD_PRECISION_BF16};
    setenv_all("90", "next");
    scd_code code = be->open(&options, &l->device, err);
    unsetenv_all();
    if (!code)
        code = pack(l, 2, FFN, WIDTH, &l->gate_up, err);
    if (!code)
        code = pack(l, 1, WIDTH, WIDTH, &l->square, err);
    if (!code)
        code = pack(l, 1, WIDTH, FFN, &l->down, err);
    if (!code && with_qkv)
        code = pack(l, 3, WIDTH, WIDTH, &l->qkv, err);
    if (!code)
        code = be->reserve(l->device, ROWS, WIDTH, FFN, WIDTH, err);
    void *memory = NULL;
    if (!code)
        code = be->alloc(l->device, 1 << 16, &memory, err);
    l->memory = memory;
    return code;
}

static void end(life *l)
{
    if (!l->device)
        return;
    be->matrix_free(l->device, l->square);
    be->matrix_free(l->device, l->gate_up);
    be->matrix_free(l->device, l->down);
    be->matrix_free(l->device, l->qkv);
    be->free(l->device, l->memory);
    be->close(l->device);
}

static scd_code run(life *l, scd_error *err)
{
    static const float floats[1 << 14];
    scd_code code = be->upload(l->device, l->memory, floats, sizeof floats, err);
    scd_block_out_args o = {.rows = ROWS,
                            .hidden_dim = WIDTH,
                            .ffn_dim = FFN,
                            .h = (float *)(void *)l->memory,
                            .att = l->memory + 8192,
                            .norm2 = (float *)(void *)(l->memory + 16384),
                            .wo = l->square,
                            .wgate_up = l->gate_up,
                            .wdown = l->down};
    if (!code)
        code = be->block_out(l->device, &o, err);
    return code ? code : be->synchronize(l->device, err);
}

static void any_call_that_fails_is_an_error_and_nothing_leaks(void **state)
{
    (void)state;
    long calls = 0;
    for (bool failed = true; failed; calls++) {
        life l = {0};
        scd_error err;
        scd_emu_fail_after = calls;
        scd_code code = load(&l, false, &err);
        if (!code)
            code = run(&l, &err);
        failed = scd_emu_fail_after == -1;
        assert_int_equal(code, failed ? SCD_E_DEVICE : SCD_OK);
        if (failed)
            assert_non_null(strstr(err.message, ": told to fail"));
        scd_emu_fail_after = -1;
        end(&l);
        assert_int_equal(scd_emu_blocks, 0);
    }
    assert_true(calls > 30);
}

static void a_position_beyond_the_reserve_is_noted(void **state)
{
    (void)state;
    life l = {0};
    scd_error err;
    assert_int_equal(load(&l, true, &err), SCD_OK);
    const uint32_t pos[ROWS] = {0, 1, ROWS, 2, 3};
    assert_int_equal(be->upload(l.device, l.memory, pos, sizeof pos, &err), SCD_OK);
    float *floats = (float *)(void *)(l.memory + 4096);
    char *out = l.memory + 16384;
    scd_qkv_args q = {.rows = ROWS,
                      .hidden_dim = WIDTH,
                      .n_heads = WIDTH / 64,
                      .h = floats,
                      .norm = floats + ROWS * WIDTH,
                      .wqkv = l.qkv,
                      .pos = (const uint32_t *)(void *)l.memory,
                      .parts = SCD_PART_V,
                      .v = out};
    static const float zeros[(ROWS + 1) * WIDTH];
    assert_int_equal(be->upload(l.device, floats, zeros, sizeof zeros, &err), SCD_OK);
    assert_int_equal(be->qkv(l.device, &q, &err), SCD_OK);
    assert_int_equal(be->synchronize(l.device, &err), SCD_OK); /* v does not turn */
    q.parts = SCD_PART_K;
    q.k = out;
    assert_int_equal(be->qkv(l.device, &q, &err), SCD_OK);
    assert_int_equal(be->synchronize(l.device, &err), SCD_E_INVALID);
    assert_int_equal(be->synchronize(l.device, &err), SCD_OK);
    q.rows = 0;
    assert_int_equal(be->qkv(l.device, &q, &err), SCD_OK);
    assert_int_equal(be->synchronize(l.device, &err), SCD_OK);
    end(&l);
    assert_int_equal(scd_emu_blocks, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_identity_says_which_kernels_they_are),
        cmocka_unit_test(any_call_that_fails_is_an_error_and_nothing_leaks),
        cmocka_unit_test(a_position_beyond_the_reserve_is_noted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
