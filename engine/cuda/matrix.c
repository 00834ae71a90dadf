/* matrix.c - weights on the device, and the one algorithm that multiplies each shape.
 *
 * A weight lies as in the file, parts stacked, rounded to bf16 on the host where that is the
 * precision. Promise 1 of the specification rests on products whose rows do not know of each other:
 * look, do not believe. Each new shape is multiplied with many rows and with few, and the bytes of
 * a row compared; an algorithm that fails gives way to the next. */
#include "engine/base/mem.h"
#include "engine/cuda/cuda.h"
#include "engine/cuda/number.h"

#include <stdlib.h>
#include <string.h>

enum { MANY_ROWS = 300, PLACE = 16 };
/* The i-th small product takes rows from PLACE times the sum of those before it. */
static const size_t few_rows[] = {1, 7, 65};
enum { N_FEW = sizeof few_rows / sizeof few_rows[0] };

static scd_code check_parts(const scd_tensor *parts, size_t n_parts, scd_error *err)
{
    if (n_parts < 1 || n_parts > 3)
        return scd_fail(err, SCD_E_INVALID, "a matrix has 1 to 3 parts, not %zu", n_parts);
    for (size_t i = 0; i < n_parts; i++)
        if (parts[i].rows != parts[0].rows || parts[i].cols != parts[0].cols || !parts[i].rows ||
            !parts[i].cols)
            return scd_fail(err, SCD_E_INVALID, "parts of a matrix differ: %zu x %zu and %zu x %zu",
                            parts[0].rows, parts[0].cols, parts[i].rows, parts[i].cols);
    size_t n;
    if (!scd_size_mul(parts[0].rows, parts[0].cols, &n) || !scd_size_mul(n, 3 * 4, &n))
        return scd_fail(err, SCD_E_INVALID, "a matrix of %zu x %zu", parts[0].rows, parts[0].cols);
    return SCD_OK;
}

static float element(const scd_tensor *t, size_t i)
{
    if (t->dtype == SCD_F32)
        return ((const float *)t->data)[i];
    uint16_t half = ((const uint16_t *)t->data)[i];
    return t->dtype == SCD_BF16 ? scd_bf16_to_f32(half) : scd_f16_to_f32(half);
}

static void to_act(const scd_tensor *t, bool bf16, void *out)
{
    size_t n = t->rows * t->cols;
    if (t->dtype == (bf16 ? SCD_BF16 : SCD_F32)) {
        memcpy(out, t->data, n * scd_dtype_bytes(t->dtype));
        return;
    }
    for (size_t i = 0; i < n; i++)
        if (bf16)
            ((uint16_t *)out)[i] = scd_f32_to_bf16(element(t, i));
        else
            ((float *)out)[i] = element(t, i);
}

static scd_code upload_parts(scd_device *device, scd_matrix *m, const scd_tensor *parts,
                             scd_error *err)
{
    size_t bytes = m->part_rows * m->cols * device->act;
    scd_code code = scd_gpu_alloc(device->gpu, m->n_parts * bytes, &m->weights, err);
    void *host = code ? NULL : scd_malloc(bytes, 1);
    if (!code && !host)
        code = scd_fail(err, SCD_E_NOMEM, "out of memory for a matrix of %zu x %zu",
                        m->n_parts * m->part_rows, m->cols);
    for (size_t i = 0; i < m->n_parts && !code; i++) {
        to_act(&parts[i], device->bf16, host);
        code = scd_cuda_upload(device, (char *)m->weights + i * bytes, host, bytes, err);
    }
    free(host);
    return code;
}

/* ---- are rows exact? ----------------------------------------------------------------------- */

typedef struct probe {
    const scd_gemm_shape *shape;
    size_t x_row, y_row; /* bytes */
    char *x, *y;         /* device (MANY_ROWS, ...) */
    char *many, *few;    /* host, MANY_ROWS of y */
} probe;

/* Small numbers of every sign that no two rows share. */
static void fill(const scd_gemm_shape *s, size_t n, void *out)
{
    uint32_t state = 1;
    for (size_t i = 0; i < n; i++) {
        state = state * 1664525u + 1013904223u; /* Numerical Recipes, section 7.1 */
        float value = (float)(int32_t)state * 0x1p-31f;
        if (s->bf16)
            ((uint16_t *)out)[i] = scd_f32_to_bf16(value);
        else
            ((float *)out)[i] = value;
    }
}

/* *exact: rows of small products at odd places have the bytes of the same rows of a large one. */
static scd_code try_rows(scd_device *device, scd_gemm_plan *plan, const probe *p, const void *w,
                         bool *exact, scd_error *err)
{
    size_t parts = p->shape->n_parts, first = 0;
    scd_code code = scd_gemm_run(plan, parts, w, p->x, MANY_ROWS, false, p->y, err);
    if (!code)
        code = scd_cuda_download(device, p->many, p->y, MANY_ROWS * p->y_row, err);
    *exact = true;
    for (size_t i = 0; i < N_FEW && !code && *exact; first += few_rows[i++]) {
        const char *x = p->x + first * PLACE * p->x_row; /* 16 rows of any width are aligned */
        size_t n = few_rows[i];
        code = scd_gemm_run(plan, parts, w, x, n, false, p->y, err);
        if (!code)
            code = scd_cuda_download(device, p->few, p->y, n * p->y_row, err);
        *exact = !code && !memcmp(p->few, p->many + first * PLACE * p->y_row, n * p->y_row);
    }
    return code;
}

static scd_code probe_open(scd_device *device, const scd_gemm_shape *s, probe *p, scd_error *err)
{
    void *x = NULL, *y = NULL;
    size_t n = s->part_rows * s->n_parts;
    p->shape = s;
    p->x_row = s->cols * device->act;
    p->y_row = n * (scd_gemm_gives_act(s) ? device->act : sizeof(float));
    p->many = scd_malloc(MANY_ROWS, p->y_row > p->x_row ? p->y_row : p->x_row);
    p->few = scd_malloc(MANY_ROWS, p->y_row);
    if (!p->many || !p->few)
        return scd_fail(err, SCD_E_NOMEM, "out of memory");
    scd_code code = scd_gpu_alloc(device->gpu, MANY_ROWS * p->x_row, &x, err);
    p->x = x;
    if (!code)
        code = scd_gpu_alloc(device->gpu, MANY_ROWS * p->y_row, &y, err);
    p->y = y;
    if (code)
        return code;
    fill(s, MANY_ROWS * s->cols, p->many);
    return scd_cuda_upload(device, p->x, p->many, MANY_ROWS * p->x_row, err);
}

static scd_code settle(scd_device *device, const scd_gemm_shape *s, scd_gemm_plan *plan,
                       const void *w, scd_error *err)
{
    probe p = {0};
    bool exact = false;
    scd_code code = probe_open(device, s, &p, err);
    while (!code && !exact) {
        code = try_rows(device, plan, &p, w, &exact, err);
        if (!code && !exact && !scd_gemm_plan_next(plan))
            code = scd_fail(err, SCD_E_DEVICE,
                            "every product of %s for %zu x %zu depends on a row's place in its "
                            "batch",
                            scd_gemm_version(device->gemm), s->n_parts * s->part_rows, s->cols);
    }
    scd_gpu_free(device->gpu, p.y);
    scd_gpu_free(device->gpu, p.x);
    free(p.few);
    free(p.many);
    return code;
}

/* The plan of a shape, made when it is first seen with the weights `w`. */
static scd_code plan_for(scd_device *device, const scd_matrix *m, scd_gemm_plan **out,
                         scd_error *err)
{
    scd_gemm_shape s = {m->part_rows, m->n_parts, m->cols, device->bf16};
    for (size_t i = 0; i < device->n_plans; i++) {
        const scd_gemm_shape *o = &device->plans[i].shape;
        if (o->part_rows == s.part_rows && o->n_parts == s.n_parts && o->cols == s.cols) {
            *out = device->plans[i].plan;
            return SCD_OK;
        }
    }
    scd_shape_plan *more = scd_realloc(device->plans, device->n_plans + 1, sizeof *device->plans);
    if (!more)
        return scd_fail(err, SCD_E_NOMEM, "out of memory");
    device->plans = more;
    scd_gemm_plan *plan;
    scd_code code = scd_gemm_plan_new(device->gemm, &s, &plan, err);
    if (!code)
        code = settle(device, &s, plan, m->weights, err);
    if (code) {
        scd_gemm_plan_free(plan);
        return code;
    }
    device->plans[device->n_plans++] = (scd_shape_plan){s, plan};
    *out = plan;
    return SCD_OK;
}

scd_code scd_cuda_matrix_pack(scd_device *device, const scd_tensor *parts, size_t n_parts,
                              scd_matrix **out, scd_error *err)
{
    *out = NULL;
    scd_code code = check_parts(parts, n_parts, err);
    if (!code)
        code = scd_gpu_enter(device->gpu, err);
    if (code)
        return code;
    scd_matrix *m = scd_calloc(1, sizeof *m);
    if (!m)
        return scd_fail(err, SCD_E_NOMEM, "out of memory");
    m->n_parts = n_parts;
    m->part_rows = parts[0].rows;
    m->cols = parts[0].cols;
    code = upload_parts(device, m, parts, err);
    if (!code)
        code = plan_for(device, m, &m->plan, err);
    if (!code && n_parts == 1)
        code = scd_cuda_scratch_want(device, SCD_CUDA_LINEAR_ROWS * m->cols * device->act, err);
    if (code) {
        scd_cuda_matrix_free(device, m);
        return code;
    }
    *out = m;
    return SCD_OK;
}

void scd_cuda_matrix_free(scd_device *device, scd_matrix *m)
{
    if (!m)
        return;
    if (scd_gpu_enter(device->gpu, NULL) == SCD_OK)
        scd_gpu_free(device->gpu, m->weights);
    free(m);
}

scd_code scd_cuda_product(scd_device *device, const scd_matrix *w, size_t first, size_t parts,
                          const void *x, size_t m, bool add, void *y, scd_error *err)
{
    size_t skip = first * w->part_rows * w->cols * device->act;
    if (!m)
        return SCD_OK;
    return scd_gemm_run(w->plan, parts, (const char *)w->weights + skip, x, m, add, y, err);
}
