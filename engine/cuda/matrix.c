/* matrix.c - weights on the device, and the one algorithm that multiplies each shape.
 *
 * A weight lies as in the file, parts stacked, rounded to bf16 on the host where that is the
 * precision. Promise 1 of the specification rests on products whose rows do not know of each other:
 * look, do not believe. Each new shape is multiplied with many rows and with few, as it will be
 * used, and the bytes of a row compared; an algorithm that fails, or is refused, gives way to the
 * next. A shape with an epilogue may run out of them: its matrices then leave the bias to a kernel
 * (op_linear.cu). That is found out here, by the shape, and never by what a batch looks like. */
#include "engine/base/mem.h"
#include "engine/cuda/cuda.h"
#include "engine/cuda/number.h"

#include <stdlib.h>
#include <string.h>

/* A large product has more rows than one wave of tiles takes, in blocks of BLOCK that hold the same
 * numbers; its y is bounded. Small ones have rows from odd places of a block. */
enum { BLOCK = 300, ROWS_A_PROCESSOR = 70, MOST_Y_BYTES = 64 << 20 };
static const struct {
    size_t first, n;
} small[] = {{3, 1}, {37, 7}, {129, 65}};
enum { N_SMALL = sizeof small / sizeof small[0] };

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
    size_t rows;         /* of the large product, a multiple of BLOCK */
    size_t x_row, y_row; /* bytes of a row of x and of a part's y */
    char *w;             /* device, of the shape */
    float *bias;         /* device (part_rows); NULL without an epilogue */
    char *x, *y;         /* device: of the large product */
    char *few_x, *few_y; /* device (BLOCK, ..): of a small one */
    char *block;         /* host (BLOCK, cols) act: x of every block */
    char *before;      /* host (BLOCK, part_rows): what a block of y holds before it is added to */
    char *large, *got; /* host (n_parts, BLOCK, part_rows): y of a block */
} probe;

/* Numbers from -1 to 1 that no two rows share. */
static void fill(const scd_gemm_shape *s, uint32_t state, size_t n, void *out)
{
    for (size_t i = 0; i < n; i++) {
        state = state * 1664525u + 1013904223u; /* Numerical Recipes, section 7.1 */
        float value = (float)(int32_t)state * 0x1p-31f;
        if (s->bf16)
            ((uint16_t *)out)[i] = scd_f32_to_bf16(value);
        else
            ((float *)out)[i] = value;
    }
}

/* Which parts of the weight, and whether what is there is added to. */
typedef struct trial {
    size_t first, parts;
    bool add;
} trial;

static scd_code run(scd_gemm_plan *plan, const probe *p, const trial *t, const char *x, size_t rows,
                    char *y, scd_error *err)
{
    size_t part = p->shape->part_rows * p->x_row;
    if (p->bias)
        return scd_gemm_run_bias(plan, p->w, x, rows, p->bias, (float *)(void *)y, err);
    return scd_gemm_run(plan, t->parts, p->w + t->first * part, x, rows, t->add, y,
                        scd_gemm_step(rows, p->shape->part_rows), err);
}

/* The first block of the large product to p->large. *exact: the last one has the same bytes. */
static scd_code run_large(scd_device *device, scd_gemm_plan *plan, const probe *p, const trial *t,
                          bool *exact, scd_error *err)
{
    size_t block = BLOCK * p->y_row, last = (p->rows - BLOCK) * p->y_row;
    size_t step = scd_gemm_step(p->rows, p->shape->part_rows) * (p->y_row / p->shape->part_rows);
    scd_code code = SCD_OK;
    for (size_t r = 0; t->add && r < p->rows && !code; r += BLOCK)
        code = scd_cuda_upload(device, p->y + r * p->y_row, p->before, block, err);
    if (!code)
        code = run(plan, p, t, p->x, p->rows, p->y, err);
    for (size_t k = 0; k < t->parts && !code && *exact; k++) {
        code = scd_cuda_download(device, p->large + k * block, p->y + k * step, block, err);
        if (!code)
            code = scd_cuda_download(device, p->got, p->y + k * step + last, block, err);
        *exact = !code && !memcmp(p->large + k * block, p->got, block);
    }
    return code;
}

/* *exact: rows [first, first + n) by themselves have the bytes that they have in p->large. */
static scd_code run_small(scd_device *device, scd_gemm_plan *plan, const probe *p, const trial *t,
                          size_t first, size_t n, bool *exact, scd_error *err)
{
    size_t block = BLOCK * p->y_row, rows = n * p->y_row;
    size_t step = scd_gemm_step(n, p->shape->part_rows) * (p->y_row / p->shape->part_rows);
    scd_code code =
        scd_cuda_upload(device, p->few_x, p->block + first * p->x_row, n * p->x_row, err);
    for (size_t k = 0; k < t->parts && !code; k++)
        code =
            scd_cuda_upload(device, p->few_y + k * step, p->before + first * p->y_row, rows, err);
    if (!code)
        code = run(plan, p, t, p->few_x, n, p->few_y, err);
    for (size_t k = 0; k < t->parts && !code && *exact; k++) {
        code = scd_cuda_download(device, p->got, p->few_y + k * step, rows, err);
        *exact = !code && !memcmp(p->got, p->large + k * block + first * p->y_row, rows);
    }
    return code;
}

/* *exact: what a trial gives a row does not depend on the rows beside it. */
static scd_code try_rows(scd_device *device, scd_gemm_plan *plan, const probe *p, const trial *t,
                         bool *exact, scd_error *err)
{
    scd_code code = run_large(device, plan, p, t, exact, err);
    for (size_t i = 0; i < N_SMALL && !code && *exact; i++)
        code = run_small(device, plan, p, t, small[i].first, small[i].n, exact, err);
    return code;
}

/* Every run of parts; one part also added to what is there, as o_proj and down are. */
static scd_code try_all(scd_device *device, scd_gemm_plan *plan, const probe *p, bool *exact,
                        scd_error *err)
{
    size_t n = p->shape->n_parts;
    scd_code code = SCD_OK;
    *exact = true;
    for (size_t first = 0; first < n && !code && *exact; first++)
        for (size_t parts = 1; parts <= n - first && !code && *exact; parts++)
            code = try_rows(device, plan, p, &(trial){first, parts, false}, exact, err);
    if (n == 1 && !p->bias && !code && *exact)
        code = try_rows(device, plan, p, &(trial){0, 1, true}, exact, err);
    return code;
}

/* n numbers of our own on the device: real weights may all be zero, and would prove nothing. */
static scd_code numbers(scd_device *device, bool bf16, uint32_t state, size_t n, void **out,
                        scd_error *err)
{
    const scd_gemm_shape like = {.bf16 = bf16};
    size_t each = bf16 ? 2 : 4;
    void *host = scd_malloc(n, each);
    if (!host)
        return scd_fail(err, SCD_E_NOMEM, "out of memory");
    fill(&like, state, n, host);
    scd_code code = scd_gpu_alloc(device->gpu, n * each, out, err);
    if (!code)
        code = scd_cuda_upload(device, *out, host, n * each, err);
    free(host);
    return code;
}

static scd_code probe_weights(scd_device *device, probe *p, scd_error *err)
{
    const scd_gemm_shape *s = p->shape;
    void *w = NULL, *bias = NULL;
    scd_code code = numbers(device, s->bf16, 2, s->n_parts * s->part_rows * s->cols, &w, err);
    if (!code && s->epilogue)
        code = numbers(device, false, 4, s->part_rows, &bias, err);
    p->w = w;
    p->bias = bias;
    return code;
}

static scd_code place(scd_device *device, size_t bytes, char **out, scd_error *err)
{
    void *memory = NULL;
    scd_code code = scd_gpu_alloc(device->gpu, bytes, &memory, err);
    *out = memory;
    return code;
}

static scd_code probe_open(scd_device *device, const scd_gemm_shape *s, probe *p, scd_error *err)
{
    size_t each = scd_gemm_gives_act(s) ? device->act : sizeof(float);
    p->shape = s;
    p->x_row = s->cols * device->act;
    p->y_row = s->part_rows * each;
    size_t most = MOST_Y_BYTES / (s->n_parts * p->y_row);
    size_t rows = (size_t)device->processors * ROWS_A_PROCESSOR;
    rows = (rows < most ? rows : most) / BLOCK * BLOCK;
    p->rows = rows > BLOCK ? rows : BLOCK;
    p->block = scd_malloc(BLOCK, p->x_row);
    p->before = scd_malloc(BLOCK, p->y_row);
    p->large = scd_malloc(s->n_parts * BLOCK, p->y_row);
    p->got = scd_malloc(BLOCK, p->y_row);
    if (!p->block || !p->before || !p->large || !p->got)
        return scd_fail(err, SCD_E_NOMEM, "out of memory");
    fill(s, 1, BLOCK * s->cols, p->block);
    fill(&(scd_gemm_shape){.bf16 = each == 2}, 3, BLOCK * s->part_rows, p->before);
    scd_code code = place(device, p->rows * p->x_row, &p->x, err);
    for (size_t r = 0; r < p->rows && !code; r += BLOCK)
        code = scd_cuda_upload(device, p->x + r * p->x_row, p->block, BLOCK * p->x_row, err);
    if (!code)
        code = place(device, s->n_parts * scd_gemm_step(p->rows, s->part_rows) * each, &p->y, err);
    if (!code)
        code = place(device, BLOCK * p->x_row, &p->few_x, err);
    if (!code)
        code =
            place(device, s->n_parts * scd_gemm_step(BLOCK, s->part_rows) * each, &p->few_y, err);
    return code ? code : probe_weights(device, p, err);
}

static void probe_release(scd_device *device, probe *p)
{
    void *const placed[] = {p->bias, p->w, p->x, p->y, p->few_x, p->few_y};
    char *const made[] = {p->block, p->before, p->large, p->got};
    for (size_t i = 0; i < sizeof placed / sizeof placed[0]; i++)
        scd_gpu_free(device->gpu, placed[i]);
    for (size_t i = 0; i < sizeof made / sizeof made[0]; i++)
        free(made[i]);
}

/* *exact: the plan has come to an algorithm that is. Only a shape with an epilogue may have none.
 */
static scd_code settle(scd_device *device, const scd_gemm_shape *s, scd_gemm_plan *plan,
                       bool *exact, scd_error *err)
{
    probe p = {0};
    bool more = true;
    *exact = false;
    scd_code code = probe_open(device, s, &p, err);
    while (!code && more && !*exact) {
        code = try_all(device, plan, &p, exact, err);
        if (code && scd_gemm_plan_refused(plan)) {
            code = SCD_OK;
            *exact = false;
        }
        more = *exact || scd_gemm_plan_next(plan);
    }
    if (!code && !*exact && !s->epilogue)
        code = scd_fail(err, SCD_E_DEVICE,
                        "every product of %s for %zu x %zu depends on a row's place in its batch, "
                        "or is refused",
                        scd_gemm_version(device->gemm), s->part_rows, s->cols);
    probe_release(device, &p);
    return code;
}

/* The plan of a matrix's shape, made when the shape is first seen; NULL: none with this epilogue.
 */
static scd_code plan_for(scd_device *device, const scd_matrix *m, scd_epilogue epilogue,
                         scd_gemm_plan **out, scd_error *err)
{
    scd_gemm_shape s = {m->part_rows, m->n_parts, m->cols, device->bf16, epilogue};
    for (size_t i = 0; i < device->n_plans; i++) {
        const scd_gemm_shape *o = &device->plans[i].shape;
        if (o->part_rows == s.part_rows && o->n_parts == s.n_parts && o->cols == s.cols &&
            o->epilogue == s.epilogue) {
            *out = device->plans[i].plan;
            return SCD_OK;
        }
    }
    scd_shape_plan *more = scd_realloc(device->plans, device->n_plans + 1, sizeof *device->plans);
    if (!more)
        return scd_fail(err, SCD_E_NOMEM, "out of memory");
    device->plans = more;
    scd_gemm_plan *plan;
    bool exact = false;
    scd_code code = scd_gemm_plan_new(device->gemm, &s, &plan, err);
    if (!code && plan)
        code = settle(device, &s, plan, &exact, err);
    if (code || !exact) {
        scd_gemm_plan_free(plan);
        plan = NULL;
    }
    if (code)
        return code;
    device->plans[device->n_plans++] = (scd_shape_plan){s, plan};
    *out = plan;
    return SCD_OK;
}

scd_code scd_cuda_matrix_pack(scd_device *device, const scd_tensor *parts, size_t n_parts,
                              unsigned uses, scd_matrix **out, scd_error *err)
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
    m->streams = !code && scd_cuda_streams(device, m->part_rows, m->cols);
    if (m->streams)
        code = scd_gpu_map_rows(device->gpu, m->weights, n_parts * m->part_rows, m->cols, &m->map,
                                err);
    if (!code)
        code = plan_for(device, m, SCD_EPILOGUE_NONE, &m->plan, err);
    if (!code && n_parts == 1 && uses & SCD_FOR_BIAS)
        code = plan_for(device, m, SCD_EPILOGUE_BIAS, &m->biased[false], err);
    if (!code && n_parts == 1 && uses & SCD_FOR_BIAS_RELU)
        code = plan_for(device, m, SCD_EPILOGUE_BIAS_RELU, &m->biased[true], err);
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
                          const void *x, size_t m, bool add, void *y, size_t step, scd_error *err)
{
    size_t skip = first * w->part_rows * w->cols * device->act;
    if (!m)
        return SCD_OK;
    return scd_gemm_run(w->plan, parts, (const char *)w->weights + skip, x, m, add, y, step, err);
}
