/* gemm_lt.c - see gemm.h: products by cuBLASLt.
 *
 * cuBLASLt thinks in columns. Row-major y (m, n) = x (m, k) w (n, k)^T is, read by columns,
 * y' (n, m) = w' (k, n)^T x' (k, m): so A is w, transposed, and B is x. No operand is copied, and m
 * is the number of columns of B, C and D. Parts of a weight are a batch of such products, all of
 * the same x.
 *
 * What could let a row's bits depend on m is ruled out three times: the heuristic is asked when a
 * shape is first seen, for a nominal m, without reductions; algorithms with split-K are passed
 * over; and each is checked for one row, some and many (matrix.c then compares bytes). What is best
 * for many rows of one column may not take an odd number of them, so algorithms for few follow.
 *
 * An epilogue's bias runs along the rows of y', as the library's does, and has D's type: fp32.
 * Where it will lie is not known when algorithms are asked for, and they are chosen by its
 * alignment: they are shown an address that is as aligned as the contract promises and no more. */
#include "engine/cuda/gemm_lt.h"

#include "engine/base/mem.h"

#include <stdio.h>
#include <stdlib.h>

enum { NOMINAL_ROWS = 8192, FEW_ROWS = 7, CANDIDATES = 16 };

struct scd_gemm_plan {
    scd_gemm_lib *lib;
    scd_gemm_shape shape;
    cublasLtMatmulDesc_t desc;
    cublasLtMatrixLayout_t w, x, y;
    cublasLtMatmulAlgo_t algos[2 * CANDIDATES]; /* best first: for many rows, then for few */
    size_t n_algos, at;
    bool refused;
};

scd_code scd_lt_check(const scd_cublaslt *lt, cublasStatus_t s, const char *call, scd_error *err)
{
    if (s == CUBLAS_STATUS_SUCCESS)
        return SCD_OK;
    return scd_fail(err, s == CUBLAS_STATUS_ALLOC_FAILED ? SCD_E_NOMEM : SCD_E_DEVICE,
                    "cublasLt%s: %s", call, lt->GetStatusName(s));
}

scd_code scd_gemm_open(scd_gpu *gpu, scd_gemm_lib **out, scd_error *err)
{
    *out = NULL;
    const scd_cublaslt *lt;
    scd_code code = scd_cublaslt_load(&lt, err);
    if (code)
        return code;
    scd_gemm_lib *lib = scd_calloc(1, sizeof *lib);
    if (!lib)
        return scd_fail(err, SCD_E_NOMEM, "out of memory");
    lib->lt = lt;
    lib->gpu = gpu;
    code = SCD_LT(Create, &lib->handle);
    if (!code)
        code = scd_gpu_alloc(gpu, SCD_LT_WORKSPACE_BYTES, &lib->workspace, err);
    if (code) {
        scd_gemm_close(lib);
        return code;
    }
    size_t v = lt->GetVersion(); /* 130002: 13.0.2 */
    snprintf(lib->version, sizeof lib->version, "cublaslt-%zu.%zu.%zu", v / 10000, v / 100 % 100,
             v % 100);
    *out = lib;
    return SCD_OK;
}

void scd_gemm_close(scd_gemm_lib *lib)
{
    if (!lib)
        return;
    scd_lt_f32_free(lib);
    scd_gpu_free(lib->gpu, lib->workspace);
    if (lib->handle)
        lib->lt->Destroy(lib->handle);
    free(lib);
}

const char *scd_gemm_version(const scd_gemm_lib *lib)
{
    return lib->version;
}

/* ---- plans --------------------------------------------------------------------------------- */

static cudaDataType_t act_type(const scd_gemm_shape *s)
{
    return s->bf16 ? CUDA_R_16BF : CUDA_R_32F;
}

static cudaDataType_t result_type(const scd_gemm_shape *s)
{
    return scd_gemm_gives_act(s) ? act_type(s) : CUDA_R_32F;
}

/* Largest power of two up to SCD_GEMM_ALIGN at which every part's first row lies. */
static uint32_t weight_alignment(const scd_gemm_shape *s)
{
    size_t bytes = s->part_rows * s->cols * (s->bf16 ? 2 : 4), to = SCD_GEMM_ALIGN;
    while (s->n_parts > 1 && bytes % to)
        to /= 2;
    return (uint32_t)to;
}

static scd_code set_bias(scd_gemm_plan *p, const void *b, scd_error *err)
{
    const scd_cublaslt *lt = p->lib->lt;
    return SCD_LT(MatmulDescSetAttribute, p->desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &b, sizeof b);
}

static scd_code set_epilogue(scd_gemm_plan *p, scd_error *err)
{
    const scd_cublaslt *lt = p->lib->lt;
    const cublasLtEpilogue_t epilogue = p->shape.epilogue == SCD_EPILOGUE_BIAS_RELU
                                            ? CUBLASLT_EPILOGUE_RELU_BIAS
                                            : CUBLASLT_EPILOGUE_BIAS;
    const int32_t type = CUDA_R_32F;
    scd_code code = SCD_LT(MatmulDescSetAttribute, p->desc, CUBLASLT_MATMUL_DESC_EPILOGUE,
                           &epilogue, sizeof epilogue);
    if (!code)
        code = SCD_LT(MatmulDescSetAttribute, p->desc, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &type,
                      sizeof type);
    /* the workspace is at a multiple of 256 */
    return code ? code : set_bias(p, (const char *)p->lib->workspace + SCD_GEMM_ALIGN, err);
}

static scd_code make_descriptors(scd_gemm_plan *p, scd_error *err)
{
    const scd_cublaslt *lt = p->lib->lt;
    const scd_gemm_shape *s = &p->shape;
    const cublasOperation_t transposed = CUBLAS_OP_T;
    const int64_t w_step = (int64_t)(s->part_rows * s->cols), x_step = 0;
    scd_code code = SCD_LT(MatmulDescCreate, &p->desc, CUBLAS_COMPUTE_32F, CUDA_R_32F);
    if (!code)
        code = SCD_LT(MatmulDescSetAttribute, p->desc, CUBLASLT_MATMUL_DESC_TRANSA, &transposed,
                      sizeof transposed);
    if (!code && s->epilogue)
        code = set_epilogue(p, err);
    if (!code)
        code =
            SCD_LT(MatrixLayoutCreate, &p->w, act_type(s), s->cols, s->part_rows, (int64_t)s->cols);
    if (!code)
        code = SCD_LT(MatrixLayoutCreate, &p->x, act_type(s), s->cols, 1, (int64_t)s->cols);
    if (!code)
        code = SCD_LT(MatrixLayoutCreate, &p->y, result_type(s), s->part_rows, 1,
                      (int64_t)s->part_rows);
    if (!code)
        code = SCD_LT(MatrixLayoutSetAttribute, p->w, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET,
                      &w_step, sizeof w_step);
    if (!code)
        code = SCD_LT(MatrixLayoutSetAttribute, p->x, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET,
                      &x_step, sizeof x_step);
    return code;
}

/* Make the layouts those of `parts` parts, `step` apart, and m rows. */
static scd_code set_sizes(scd_gemm_plan *p, size_t parts, size_t m, size_t step, scd_error *err)
{
    const scd_cublaslt *lt = p->lib->lt;
    const uint64_t rows = m;
    const int64_t y_step = (int64_t)step;
    const int32_t batch = (int32_t)parts;
    const struct {
        cublasLtMatrixLayout_t layout;
        cublasLtMatrixLayoutAttribute_t what;
        const void *value;
        size_t bytes;
    } sets[] = {
        {p->x, CUBLASLT_MATRIX_LAYOUT_COLS, &rows, sizeof rows},
        {p->y, CUBLASLT_MATRIX_LAYOUT_COLS, &rows, sizeof rows},
        {p->w, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &batch, sizeof batch},
        {p->x, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &batch, sizeof batch},
        {p->y, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &batch, sizeof batch},
        {p->y, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &y_step, sizeof y_step},
    };
    scd_code code = SCD_OK;
    for (size_t i = 0; i < sizeof sets / sizeof sets[0] && !code; i++)
        code = SCD_LT(MatrixLayoutSetAttribute, sets[i].layout, sets[i].what, sets[i].value,
                      sets[i].bytes);
    return code;
}

static bool config_is(const scd_cublaslt *lt, const cublasLtMatmulAlgo_t *algo,
                      cublasLtMatmulAlgoConfigAttributes_t what, uint32_t most)
{
    uint32_t value = UINT32_MAX;
    size_t written;
    return lt->MatmulAlgoConfigGetAttribute(algo, what, &value, sizeof value, &written) ==
               CUBLAS_STATUS_SUCCESS &&
           value <= most;
}

bool scd_lt_whole_sums(const scd_cublaslt *lt, const cublasLtMatmulAlgo_t *algo)
{
    return config_is(lt, algo, CUBLASLT_ALGO_CONFIG_SPLITK_NUM, 1) &&
           config_is(lt, algo, CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME,
                     CUBLASLT_REDUCTION_SCHEME_NONE);
}

/* Computes every m and number of parts, and never splits a sum. */
static bool fits(scd_gemm_plan *p, const cublasLtMatmulAlgo_t *algo)
{
    static const size_t rows[] = {1, FEW_ROWS, 64, NOMINAL_ROWS, NOMINAL_ROWS + 1};
    const scd_cublaslt *lt = p->lib->lt;
    if (!scd_lt_whole_sums(lt, algo))
        return false;
    for (size_t parts = 1; parts <= p->shape.n_parts; parts++)
        for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
            cublasLtMatmulHeuristicResult_t r;
            if (set_sizes(p, parts, rows[i], scd_gemm_step(rows[i], p->shape.part_rows), NULL) ||
                lt->MatmulAlgoCheck(p->lib->handle, p->desc, p->w, p->x, p->y, p->y, algo, &r) !=
                    CUBLAS_STATUS_SUCCESS ||
                r.workspaceSize > SCD_LT_WORKSPACE_BYTES)
                return false;
        }
    return true;
}

static scd_code prefer(const scd_gemm_plan *p, cublasLtMatmulPreference_t like, scd_error *err)
{
    const scd_cublaslt *lt = p->lib->lt;
    const uint32_t none = CUBLASLT_REDUCTION_SCHEME_NONE, aligned = SCD_GEMM_ALIGN;
    const uint32_t w_aligned = weight_alignment(&p->shape);
    const uint64_t workspace = SCD_LT_WORKSPACE_BYTES;
    const struct {
        cublasLtMatmulPreferenceAttributes_t what;
        const void *value;
        size_t bytes;
    } sets[] = {
        {CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace, sizeof workspace},
        {CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &none, sizeof none},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, &w_aligned, sizeof w_aligned},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, &aligned, sizeof aligned},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, &aligned, sizeof aligned},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, &aligned, sizeof aligned},
    };
    scd_code code = SCD_OK;
    for (size_t i = 0; i < sizeof sets / sizeof sets[0] && !code; i++)
        code =
            SCD_LT(MatmulPreferenceSetAttribute, like, sets[i].what, sets[i].value, sets[i].bytes);
    return code;
}

/* Append what the heuristic proposes for so many rows, as far as it fits. That it proposes nothing
 * is no error here. */
static scd_code ask(scd_gemm_plan *p, cublasLtMatmulPreference_t like, size_t rows, size_t *tried,
                    scd_error *err)
{
    const scd_cublaslt *lt = p->lib->lt;
    cublasLtMatmulHeuristicResult_t found[CANDIDATES];
    int n = 0;
    scd_code code =
        set_sizes(p, p->shape.n_parts, rows, scd_gemm_step(rows, p->shape.part_rows), err);
    if (code || lt->MatmulAlgoGetHeuristic(p->lib->handle, p->desc, p->w, p->x, p->y, p->y, like,
                                           CANDIDATES, found, &n) != CUBLAS_STATUS_SUCCESS)
        return code;
    for (int i = 0; i < n; i++)
        if (found[i].state == CUBLAS_STATUS_SUCCESS && fits(p, &found[i].algo))
            p->algos[p->n_algos++] = found[i].algo;
    *tried += (size_t)n;
    return SCD_OK;
}

static scd_code find_algorithms(scd_gemm_plan *p, cublasLtMatmulPreference_t like, scd_error *err)
{
    size_t tried = 0;
    scd_code code = prefer(p, like, err);
    if (!code)
        code = ask(p, like, NOMINAL_ROWS, &tried, err);
    if (!code)
        code = ask(p, like, FEW_ROWS, &tried, err);
    if (!code && !p->n_algos && !p->shape.epilogue)
        code = scd_fail(err, SCD_E_DEVICE,
                        "%s has no algorithm without split-K for %zu x %zu%s (of %zu tried)",
                        p->lib->version, p->shape.part_rows, p->shape.cols,
                        p->shape.bf16 ? " in bf16" : "", tried);
    return code;
}

scd_code scd_gemm_plan_new(scd_gemm_lib *lib, const scd_gemm_shape *shape, scd_gemm_plan **out,
                           scd_error *err)
{
    const scd_cublaslt *lt = lib->lt;
    cublasLtMatmulPreference_t like = NULL;
    *out = NULL;
    scd_gemm_plan *p = scd_calloc(1, sizeof *p);
    if (!p)
        return scd_fail(err, SCD_E_NOMEM, "out of memory");
    p->lib = lib;
    p->shape = *shape;
    scd_code code = make_descriptors(p, err);
    if (!code)
        code = SCD_LT(MatmulPreferenceCreate, &like);
    if (!code)
        code = find_algorithms(p, like, err);
    if (like)
        lt->MatmulPreferenceDestroy(like);
    if (code || !p->n_algos) {
        scd_gemm_plan_free(p);
        return code;
    }
    *out = p;
    return SCD_OK;
}

void scd_gemm_plan_free(scd_gemm_plan *p)
{
    if (!p)
        return;
    const scd_cublaslt *lt = p->lib->lt;
    if (p->desc)
        lt->MatmulDescDestroy(p->desc);
    cublasLtMatrixLayout_t layouts[] = {p->w, p->x, p->y};
    for (size_t i = 0; i < sizeof layouts / sizeof layouts[0]; i++)
        if (layouts[i])
            lt->MatrixLayoutDestroy(layouts[i]);
    free(p);
}

bool scd_gemm_plan_next(scd_gemm_plan *p)
{
    p->refused = false;
    if (p->at + 1 >= p->n_algos)
        return false;
    p->at++;
    return true;
}

bool scd_gemm_plan_refused(const scd_gemm_plan *p)
{
    return p->refused;
}

scd_code scd_gemm_run_bias(scd_gemm_plan *p, const void *w, const void *x, size_t m, const float *b,
                           float *y, scd_error *err)
{
    if ((uintptr_t)b % SCD_GEMM_ALIGN)
        return scd_fail(err, SCD_E_INVALID, "a bias lies at no multiple of %d bytes",
                        (int)SCD_GEMM_ALIGN);
    scd_code code = set_bias(p, b, err);
    return code ? code : scd_gemm_run(p, 1, w, x, m, false, y, 0, err);
}

scd_code scd_gemm_run(scd_gemm_plan *p, size_t parts, const void *w, const void *x, size_t m,
                      bool add, void *y, size_t step, scd_error *err)
{
    const scd_cublaslt *lt = p->lib->lt;
    const float one = 1.0f, times_y = add ? 1.0f : 0.0f;
    p->refused = false;
    size_t y_bytes = scd_gemm_gives_act(&p->shape) && p->shape.bf16 ? 2 : 4;
    if (((uintptr_t)x | (uintptr_t)y) % SCD_GEMM_ALIGN ||
        (parts > 1 && step * y_bytes % SCD_GEMM_ALIGN) ||
        (uintptr_t)w % weight_alignment(&p->shape))
        return scd_fail(err, SCD_E_INVALID, "a product's rows lie at no multiple of %d bytes",
                        (int)SCD_GEMM_ALIGN);
    scd_code code = set_sizes(p, parts, m, step, err);
    if (code)
        return code;
    cublasStatus_t s =
        lt->Matmul(p->lib->handle, p->desc, &one, w, p->w, x, p->x, &times_y, y, p->y, y, p->y,
                   &p->algos[p->at], p->lib->workspace, SCD_LT_WORKSPACE_BYTES,
                   (cudaStream_t)scd_gpu_stream(p->lib->gpu));
    p->refused = s == CUBLAS_STATUS_NOT_SUPPORTED || s == CUBLAS_STATUS_INVALID_VALUE;
    return scd_lt_check(lt, s, "Matmul", err);
}
