/* fixture.c - see fixture.h. */
#include "tests/ops/fixture.h"

#include "engine/base/rng.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { HOPPER = N_DEVICES - 2, HOPPER_NEXT };

static const struct {
    const char *isa;
    scd_precision precision;
    double tolerance;
} configs[N_DEVICES] = {
    /* fp32: the promise of the specification. bf16 has 8 bits: every product rounds both inputs by
     * up to 2^-9, and three products follow one another in the longest operation. */
    {"generic", SCD_PRECISION_FP32, 1e-4}, {"avx2", SCD_PRECISION_FP32, 1e-4},
    {"avx512", SCD_PRECISION_FP32, 1e-4},  {"avx512_bf16", SCD_PRECISION_BF16, 2e-2},
    {"cuda", SCD_PRECISION_FP32, 1e-4},    {"cuda", SCD_PRECISION_BF16, 2e-2},
    {"cuda", SCD_PRECISION_BF16, 2e-2},    {"cuda", SCD_PRECISION_BF16, 2e-2},
};

/* Not in builds of the thread sanitizer: the emulator's fibers are one thread's. */
extern const scd_backend scd_backend_cuda __attribute__((weak));

static bool open_cuda(fixture *f, size_t config, bool needed)
{
    scd_error err = {.message = "this build has no CUDA backend"};
    const scd_backend *be = &scd_backend_cuda;
    if (config >= HOPPER)
        setenv("CUDA_EMULATOR_ISA", "90", 1);
    if (config == HOPPER)
        setenv("CUDA_EMULATOR_EPILOGUES", "none", 1); /* biases by kernels */
    if (config == HOPPER_NEXT) {
        setenv("SCDIVA_CUDA_KERNELS", "next", 1);
        setenv("CUDA_EMULATOR_PROCESSORS", "6", 1); /* several groups of blocks */
        setenv("CUDA_EMULATOR_ORDER", "2", 1);      /* by chance */
    }
    bool there =
        be && fixture_open_on(f, be, configs[config].precision, configs[config].tolerance, &err);
    unsetenv("CUDA_EMULATOR_EPILOGUES");
    unsetenv("CUDA_EMULATOR_ISA");
    unsetenv("CUDA_EMULATOR_PROCESSORS");
    unsetenv("CUDA_EMULATOR_ORDER");
    unsetenv("SCDIVA_CUDA_KERNELS");
    if (needed && !there)
        fail_msg("%s", err.message);
    return there;
}

bool fixture_open(fixture *f, size_t config, int threads)
{
    const char *only = getenv("SCDIVA_TEST_DEVICES");
    bool of_cuda = config >= N_CONFIGS;
    if (only && strcmp(only, of_cuda ? "cuda" : "cpu") != 0)
        return false;
    if (of_cuda)
        return open_cuda(f, config, only != NULL);
    *f = (fixture){.be = &scd_backend_cpu};
    scd_device_options options = {.precision = configs[config].precision, .threads = threads};
    setenv("SCDIVA_ISA", configs[config].isa, 1);
    scd_error err;
    scd_code code = f->be->open(&options, &f->device, &err);
    unsetenv("SCDIVA_ISA");
    if (code == SCD_E_DEVICE)
        return false;
    assert_int_equal(code, SCD_OK);
    f->info = f->be->info(f->device);
    f->bf16 = f->info->precision == SCD_PRECISION_BF16;
    f->tolerance = configs[config].tolerance;
    if (!strcmp(f->info->isa, configs[config].isa))
        return true;
    fixture_release(f); /* the machine has less */
    return false;
}

void fixture_on_every_device(void (*check)(fixture *f))
{
    size_t tested = 0;
    for (size_t i = 0; i < N_DEVICES; i++) {
        fixture f;
        if (!fixture_open(&f, i, 2))
            continue;
        check(&f);
        fixture_release(&f);
        tested++;
    }
    assert_true(tested > 0);
}

bool fixture_open_on(fixture *f, const scd_backend *be, scd_precision precision, double tolerance,
                     scd_error *err)
{
    *f = (fixture){.be = be, .tolerance = tolerance};
    scd_device_options options = {.precision = precision};
    if (be->open(&options, &f->device, err))
        return false;
    f->info = be->info(f->device);
    f->bf16 = f->info->precision == SCD_PRECISION_BF16;
    return true;
}

void fixture_release(fixture *f)
{
    for (size_t i = 0; i < f->n_placed; i++)
        f->be->free(f->device, f->placed[i]);
    for (size_t i = 0; i < f->n_matrices; i++)
        f->be->matrix_free(f->device, f->matrices[i]);
    for (size_t i = 0; i < f->n_blocks; i++)
        free(f->blocks[i]);
    f->be->close(f->device);
}

void fixture_ok(scd_code code, const scd_error *err)
{
    if (code)
        fail_msg("%s", err->message);
}

bool fixture_on_cpu(const fixture *f)
{
    return f->be == &scd_backend_cpu;
}

bool fixture_is_slow(const fixture *f)
{
    return !strncmp(f->info->name, "emulated", 8);
}

double *fixture_fetch_act(fixture *f, const void *device, size_t n)
{
    return fixture_from_act(f, fixture_fetch(f, device, n * f->info->act_bytes), n);
}

void *fixture_block(fixture *f, size_t bytes)
{
    assert_true(f->n_blocks < MAX_BLOCKS);
    void *p = malloc(bytes);
    assert_non_null(p);
    memset(p, 0xff, bytes);
    f->blocks[f->n_blocks++] = p;
    return p;
}

double *fixture_doubles(fixture *f, size_t n)
{
    return fixture_block(f, n * sizeof(double));
}

array fixture_random(fixture *f, uint64_t seed, size_t n, double spread)
{
    array a = {fixture_block(f, n * sizeof(float)), fixture_doubles(f, n), n};
    for (size_t i = 0; i < n; i++) {
        a.f[i] = (float)((double)scd_rng_normal(seed, 0, i) * spread);
        a.d[i] = (double)a.f[i];
    }
    return a;
}

static uint16_t to_bf16(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, 4);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16); /* to nearest even */
}

static float from_bf16(uint16_t h)
{
    uint32_t bits = (uint32_t)h << 16;
    float x;
    memcpy(&x, &bits, 4);
    return x;
}

void *fixture_act(fixture *f, array *a)
{
    void *act = fixture_block(f, a->n * f->info->act_bytes);
    uint16_t *half = act;
    if (!f->bf16)
        return memcpy(act, a->f, a->n * sizeof(float));
    for (size_t i = 0; i < a->n; i++) {
        half[i] = to_bf16(a->f[i]);
        a->f[i] = from_bf16(half[i]);
        a->d[i] = (double)a->f[i];
    }
    return act;
}

double *fixture_from_float(fixture *f, const float *x, size_t n)
{
    double *d = fixture_doubles(f, n);
    for (size_t i = 0; i < n; i++)
        d[i] = (double)x[i];
    return d;
}

double *fixture_from_act(fixture *f, const void *act, size_t n)
{
    if (!f->bf16)
        return fixture_from_float(f, act, n);
    const uint16_t *half = act;
    double *d = fixture_doubles(f, n);
    for (size_t i = 0; i < n; i++)
        d[i] = (double)from_bf16(half[i]);
    return d;
}

scd_matrix *fixture_matrix(fixture *f, const array *parts, size_t n_parts, size_t rows, size_t cols)
{
    scd_tensor t[3];
    for (size_t i = 0; i < n_parts; i++)
        t[i] = (scd_tensor){.data = parts[i].f, .dtype = SCD_F32, .rows = rows, .cols = cols};
    scd_error err;
    scd_matrix *m = NULL;
    const unsigned uses = n_parts == 1 ? SCD_FOR_BIAS | SCD_FOR_BIAS_RELU : 0;
    if (f->be->matrix_pack(f->device, t, n_parts, uses, &m, &err))
        fail_msg("%s", err.message);
    f->matrices[f->n_matrices++] = m;
    return m;
}

void *fixture_place(fixture *f, const void *host, size_t bytes)
{
    scd_error err;
    void *p = NULL;
    if (f->be == &scd_backend_cpu) { /* not from its alloc, which rounds sizes up */
        p = fixture_block(f, bytes);
        return memcpy(p, host, bytes);
    }
    assert_true(f->n_placed < MAX_BLOCKS);
    if (f->be->alloc(f->device, bytes, &p, &err) || f->be->upload(f->device, p, host, bytes, &err))
        fail_msg("%s", err.message);
    f->placed[f->n_placed++] = p;
    return p;
}

void *fixture_room(fixture *f, size_t bytes)
{
    return fixture_place(f, fixture_block(f, bytes), bytes);
}

void *fixture_fetch(fixture *f, const void *device, size_t bytes)
{
    scd_error err;
    void *host = fixture_block(f, bytes);
    if (f->be->download(f->device, host, device, bytes, &err))
        fail_msg("%s", err.message);
    return host;
}

float *fixture_place_array(fixture *f, array a)
{
    return fixture_place(f, a.f, a.n * sizeof *a.f);
}

float *fixture_room_floats(fixture *f, size_t n)
{
    return fixture_room(f, n * sizeof(float));
}

double fixture_error(const double *want, const double *got, size_t n)
{
    double worst = 0, most = 0;
    for (size_t i = 0; i < n; i++) {
        double e = fabs(got[i] - want[i]);
        if (!(e <= worst))
            worst = isnan(e) ? INFINITY : e;
        most = fmax(most, fabs(want[i]));
    }
    return worst / most;
}
