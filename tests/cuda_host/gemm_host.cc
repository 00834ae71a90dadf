/* gemm_host.cc - engine/cuda/gemm.h in plain loops: inputs as they are (bf16 or fp32), sums in
 * fp32, one chain in order of k, then the bias.
 *
 * CUDA_EMULATOR_EPILOGUES=none: no shape with an epilogue can be had; =bad: each can, by bad
 * algorithms; =refused: each can, and the products are refused. A device opened after that keeps to
 * it. */
#include "engine/cuda/gemm.h"

#include "engine/cuda/number.h"
#include "tests/cuda_host/impl.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

struct scd_gemm_lib {
    bool none, bad, refused; /* products with an epilogue */
};

struct scd_gemm_plan {
    const scd_gemm_lib *lib;
    scd_gemm_shape shape;
    int algorithm;
    bool refused;
};

enum { ALGORITHMS = 3 };
int scd_emu_bad_algorithms;
long scd_emu_fused;

scd_code scd_gemm_open(scd_gpu *gpu, scd_gemm_lib **out, scd_error *err)
{
    (void)gpu;
    *out = NULL;
    scd_code code = scd_emu_call("gemm_open", err);
    if (code)
        return code;
    *out = (scd_gemm_lib *)calloc(1, sizeof **out);
    if (!*out)
        return scd_fail(err, SCD_E_NOMEM, "out of memory");
    const char *epilogues = getenv("CUDA_EMULATOR_EPILOGUES");
    (*out)->none = epilogues && !strcmp(epilogues, "none");
    (*out)->bad = epilogues && !strcmp(epilogues, "bad");
    (*out)->refused = epilogues && !strcmp(epilogues, "refused");
    return SCD_OK;
}

void scd_gemm_close(scd_gemm_lib *lib)
{
    free(lib);
}

const char *scd_gemm_version(const scd_gemm_lib *lib)
{
    (void)lib;
    return "emulated";
}

scd_code scd_gemm_plan_new(scd_gemm_lib *lib, const scd_gemm_shape *shape, scd_gemm_plan **out,
                           scd_error *err)
{
    *out = NULL;
    scd_code code = scd_emu_call("gemm_plan_new", err);
    if (code || (shape->epilogue && lib->none))
        return code;
    *out = (scd_gemm_plan *)calloc(1, sizeof **out);
    if (!*out)
        return scd_fail(err, SCD_E_NOMEM, "out of memory");
    (*out)->lib = lib;
    (*out)->shape = *shape;
    return SCD_OK;
}

void scd_gemm_plan_free(scd_gemm_plan *plan)
{
    free(plan);
}

bool scd_gemm_plan_next(scd_gemm_plan *plan)
{
    plan->refused = false;
    return ++plan->algorithm < ALGORITHMS;
}

bool scd_gemm_plan_refused(const scd_gemm_plan *plan)
{
    return plan->refused;
}

/* One row or more of numbers as fp32. */
static float *widen(const void *from, size_t n, bool bf16)
{
    float *to = (float *)malloc(n * sizeof *to);
    if (!to)
        abort();
    for (size_t i = 0; i < n; i++)
        to[i] = bf16 ? scd_bf16_to_f32(((const uint16_t *)from)[i]) : ((const float *)from)[i];
    return to;
}

/* The order of the sum turns round in every second row where the algorithm is a bad one. */
static float dot(const float *a, const float *b, size_t n, bool backwards)
{
    float sum = 0.0f;
    for (size_t i = 0; i < n; i++) {
        size_t k = backwards ? n - 1 - i : i;
        sum += a[k] * b[k];
    }
    return sum;
}

/* What scd_gemm_run was given. */
struct product {
    scd_gemm_shape shape;
    bool bad;
    size_t parts, m;
    const void *w, *x;
    bool add;
    void *y;
    size_t step;
    const float *bias; /* NULL: there is none */
};

static float finish(const struct product *p, float sum, size_t column)
{
    sum += p->bias ? p->bias[column] : 0.0f;
    return p->shape.epilogue == SCD_EPILOGUE_BIAS_RELU && sum < 0.0f ? 0.0f : sum;
}

static void multiply(const struct product *p)
{
    const scd_gemm_shape *s = &p->shape;
    size_t n = s->part_rows;
    scd_emu_flush();
    scd_emu_unlock();
    float *wide_w = widen(p->w, p->parts * n * s->cols, s->bf16),
          *wide_x = widen(p->x, p->m * s->cols, s->bf16);
    for (size_t i = 0; i < p->parts; i++)
        for (size_t r = 0; r < p->m; r++)
            for (size_t j = 0; j < n; j++) {
                float sum = dot(wide_x + r * s->cols, wide_w + (i * n + j) * s->cols, s->cols,
                                p->bad && r % 2);
                size_t at = i * p->step + r * n + j;
                if (scd_gemm_gives_act(s) && s->bf16)
                    ((uint16_t *)p->y)[at] = scd_f32_to_bf16(sum);
                else
                    ((float *)p->y)[at] = finish(p, sum, j) + (p->add ? ((float *)p->y)[at] : 0.0f);
            }
    free(wide_w);
    free(wide_x);
    scd_emu_lock();
}

static bool is_bad(const scd_gemm_plan *plan)
{
    return plan->algorithm < scd_emu_bad_algorithms || (plan->shape.epilogue && plan->lib->bad);
}

static scd_code run(scd_gemm_plan *plan, size_t parts, const void *w, const void *x, size_t m,
                    bool add, void *y, size_t step, const float *bias, scd_error *err)
{
    const scd_gemm_shape *s = &plan->shape;
    size_t bytes = scd_gemm_gives_act(s) && s->bf16 ? 2 : 4;
    if (((uintptr_t)x | (uintptr_t)y) % SCD_GEMM_ALIGN ||
        (parts > 1 && step * bytes % SCD_GEMM_ALIGN))
        return scd_fail(err, SCD_E_INVALID, "a product's rows lie at no multiple of 16 bytes");
    if ((add && scd_gemm_gives_act(s)) || parts > s->n_parts ||
        (parts > 1 && step < m * s->part_rows) || !bias != !s->epilogue)
        return scd_fail(err, SCD_E_INTERNAL, "no such product");
    const struct product p = {*s, is_bad(plan), parts, m, w, x, add, y, step, bias};
    if (!scd_emu_keep([=] { multiply(&p); }))
        multiply(&p);
    return SCD_OK;
}

scd_code scd_gemm_run(scd_gemm_plan *plan, size_t parts, const void *w, const void *x, size_t m,
                      bool add, void *y, size_t step, scd_error *err)
{
    scd_code code = scd_emu_call("gemm", err);
    return code ? code : run(plan, parts, w, x, m, add, y, step, NULL, err);
}

scd_code scd_gemm_run_bias(scd_gemm_plan *plan, const void *w, const void *x, size_t m,
                           const float *b, float *y, scd_error *err)
{
    plan->refused = false;
    scd_code code = scd_emu_call("gemm_bias", err);
    if (code)
        return code;
    plan->refused = plan->lib->refused;
    if (plan->refused)
        return scd_fail(err, SCD_E_DEVICE, "gemm_bias: not supported");
    if ((uintptr_t)b % SCD_GEMM_ALIGN)
        return scd_fail(err, SCD_E_INVALID, "a bias lies at no multiple of 16 bytes");
    scd_emu_fused++;
    return run(plan, 1, w, x, m, false, y, 0, b, err);
}

/* Element (r, c) of a (rows, cols) view, transposed where the matrix lies the other way. */
static float at(const float *x, size_t ld, bool turned, size_t r, size_t c)
{
    return turned ? x[c * ld + r] : x[r * ld + c];
}

scd_code scd_gemm_f32_run(scd_gemm_lib *lib, const scd_gemm_f32 *p, scd_error *err)
{
    (void)lib;
    scd_code code = scd_emu_call("gemm_f32", err);
    if (code)
        return code;
    if (!p->m || !p->n || !p->k || !p->batch || p->ldc < p->n || p->lda < (p->ta ? p->m : p->k) ||
        p->ldb < (p->tb ? p->k : p->n))
        return scd_fail(err, SCD_E_INTERNAL, "no such product");
    scd_emu_flush();
    scd_emu_unlock();
    for (size_t i = 0; i < p->batch; i++)
        for (size_t r = 0; r < p->m; r++)
            for (size_t j = 0; j < p->n; j++) {
                const float *a = p->a + i * p->step_a, *b = p->b + i * p->step_b;
                float sum = 0.0f, *c = p->c + i * p->step_c + r * p->ldc + j;
                for (size_t k = 0; k < p->k; k++)
                    sum += at(a, p->lda, p->ta, r, k) * at(b, p->ldb, p->tb, k, j);
                *c = p->alpha * sum + (p->beta != 0.0f ? p->beta * *c : 0.0f);
            }
    scd_emu_lock();
    return SCD_OK;
}
