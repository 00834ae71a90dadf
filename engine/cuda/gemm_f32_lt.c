/* gemm_f32_lt.c - the products of training (gemm.h) by cuBLASLt, in fp32 without TF32.
 *
 * cuBLASLt thinks in columns: row-major c = op(a) op(b) is, read by columns, c' = op(b)' op(a)', so
 * its A is our b and its B our a. The algorithm of a shape is the best that the heuristic offers
 * without split-K; it is asked once and kept in a small table, since a step of training meets the
 * same shapes in every layer. */
#include "engine/cuda/gemm_lt.h"

#include "engine/base/mem.h"

#include <stdlib.h>
#include <string.h>

enum { SLOTS = 256, CANDIDATES = 16, ALIGNED = 16 };

/* All that an algorithm may depend on; compared as bytes, so it has no holes. */
typedef struct key {
    uint64_t m, n, k, lda, ldb, ldc, batch, step_a, step_b, step_c;
    uint32_t ta, tb, align_a, align_b, align_c, add; /* add: beta is not 0 */
} key;

typedef struct slot {
    key key;
    bool used;
    cublasLtMatmulAlgo_t algo;
} slot;

struct scd_lt_f32 {
    cublasLtMatmulDesc_t desc;
    cublasLtMatrixLayout_t a, b, c; /* as cuBLASLt names them: our b, our a, our c */
    cublasLtMatmulPreference_t like;
    slot slots[SLOTS];
};

/* ---- the library's objects ----------------------------------------------------------------- */

void scd_lt_f32_free(scd_gemm_lib *lib)
{
    const scd_cublaslt *lt = lib->lt;
    scd_lt_f32 *f = lib->f32;
    if (!f)
        return;
    if (f->like)
        lt->MatmulPreferenceDestroy(f->like);
    cublasLtMatrixLayout_t layouts[] = {f->a, f->b, f->c};
    for (size_t i = 0; i < sizeof layouts / sizeof layouts[0]; i++)
        if (layouts[i])
            lt->MatrixLayoutDestroy(layouts[i]);
    if (f->desc)
        lt->MatmulDescDestroy(f->desc);
    free(f);
    lib->f32 = NULL;
}

static scd_code open_f32(scd_gemm_lib *lib, scd_error *err)
{
    const scd_cublaslt *lt = lib->lt;
    const uint64_t workspace = SCD_LT_WORKSPACE_BYTES;
    const uint32_t none = CUBLASLT_REDUCTION_SCHEME_NONE;
    if (lib->f32)
        return SCD_OK;
    scd_lt_f32 *f = lib->f32 = scd_calloc(1, sizeof *f);
    if (!f)
        return scd_fail(err, SCD_E_NOMEM, "out of memory");
    scd_code code = SCD_LT(MatmulDescCreate, &f->desc, CUBLAS_COMPUTE_32F, CUDA_R_32F);
    cublasLtMatrixLayout_t *const layouts[] = {&f->a, &f->b, &f->c};
    for (size_t i = 0; i < sizeof layouts / sizeof layouts[0] && !code; i++)
        code = SCD_LT(MatrixLayoutCreate, layouts[i], CUDA_R_32F, 1, 1, 1);
    if (!code)
        code = SCD_LT(MatmulPreferenceCreate, &f->like);
    if (!code)
        code = SCD_LT(MatmulPreferenceSetAttribute, f->like,
                      CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace, sizeof workspace);
    if (!code)
        code = SCD_LT(MatmulPreferenceSetAttribute, f->like,
                      CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &none, sizeof none);
    if (code)
        scd_lt_f32_free(lib);
    return code;
}

static scd_code set_layout(const scd_cublaslt *lt, cublasLtMatrixLayout_t layout, uint64_t rows,
                           uint64_t cols, size_t ld, size_t batch, size_t step, scd_error *err)
{
    const int32_t count = (int32_t)batch;
    const int64_t ld_floats = (int64_t)ld, offset = (int64_t)step;
    const struct {
        cublasLtMatrixLayoutAttribute_t what;
        const void *value;
        size_t bytes;
    } sets[] = {
        {CUBLASLT_MATRIX_LAYOUT_ROWS, &rows, sizeof rows},
        {CUBLASLT_MATRIX_LAYOUT_COLS, &cols, sizeof cols},
        {CUBLASLT_MATRIX_LAYOUT_LD, &ld_floats, sizeof ld_floats},
        {CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &count, sizeof count},
        {CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &offset, sizeof offset},
    };
    scd_code code = SCD_OK;
    for (size_t i = 0; i < sizeof sets / sizeof sets[0] && !code; i++)
        code = SCD_LT(MatrixLayoutSetAttribute, layout, sets[i].what, sets[i].value, sets[i].bytes);
    return code;
}

/* Make the descriptors those of this product. */
static scd_code describe(scd_gemm_lib *lib, const scd_gemm_f32 *p, scd_error *err)
{
    const scd_cublaslt *lt = lib->lt;
    scd_lt_f32 *f = lib->f32;
    const cublasOperation_t op_a = p->tb ? CUBLAS_OP_T : CUBLAS_OP_N;
    const cublasOperation_t op_b = p->ta ? CUBLAS_OP_T : CUBLAS_OP_N;
    scd_code code =
        SCD_LT(MatmulDescSetAttribute, f->desc, CUBLASLT_MATMUL_DESC_TRANSA, &op_a, sizeof op_a);
    if (!code)
        code = SCD_LT(MatmulDescSetAttribute, f->desc, CUBLASLT_MATMUL_DESC_TRANSB, &op_b,
                      sizeof op_b);
    if (!code)
        code = set_layout(lt, f->a, p->tb ? p->k : p->n, p->tb ? p->n : p->k, p->ldb, p->batch,
                          p->step_b, err);
    if (!code)
        code = set_layout(lt, f->b, p->ta ? p->m : p->k, p->ta ? p->k : p->m, p->lda, p->batch,
                          p->step_a, err);
    return code ? code : set_layout(lt, f->c, p->n, p->m, p->ldc, p->batch, p->step_c, err);
}

/* ---- one algorithm a shape ----------------------------------------------------------------- */

/* Largest power of two up to ALIGNED at which every row starts. */
static uint32_t alignment(const float *at, size_t ld, size_t batch, size_t step)
{
    size_t bytes = (uintptr_t)at | ld * sizeof *at | (batch > 1 ? step * sizeof *at : 0);
    uint32_t to = ALIGNED;
    while (bytes % to)
        to /= 2;
    return to;
}

static key key_of(const scd_gemm_f32 *p)
{
    key k;
    memset(&k, 0, sizeof k);
    k.m = p->m, k.n = p->n, k.k = p->k;
    k.lda = p->lda, k.ldb = p->ldb, k.ldc = p->ldc;
    k.batch = p->batch;
    if (p->batch > 1)
        k.step_a = p->step_a, k.step_b = p->step_b, k.step_c = p->step_c;
    k.ta = p->ta, k.tb = p->tb, k.add = p->beta != 0.0f;
    k.align_a = alignment(p->a, p->lda, p->batch, p->step_a);
    k.align_b = alignment(p->b, p->ldb, p->batch, p->step_b);
    k.align_c = alignment(p->c, p->ldc, p->batch, p->step_c);
    return k;
}

/* FNV-1a (Fowler, Noll, Vo). */
static size_t place_of(const key *k)
{
    const unsigned char *bytes = (const unsigned char *)k;
    uint64_t h = 14695981039346656037u;
    for (size_t i = 0; i < sizeof *k; i++)
        h = (h ^ bytes[i]) * 1099511628211u;
    return (size_t)(h % SLOTS);
}

static scd_code ask(scd_gemm_lib *lib, const key *k, cublasLtMatmulAlgo_t *algo, scd_error *err)
{
    const scd_cublaslt *lt = lib->lt;
    scd_lt_f32 *f = lib->f32;
    cublasLtMatmulHeuristicResult_t found[CANDIDATES];
    int n = 0;
    const struct {
        cublasLtMatmulPreferenceAttributes_t what;
        uint32_t value;
    } sets[] = {
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, k->align_b},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, k->align_a},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, k->align_c},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, k->align_c},
    };
    scd_code code = SCD_OK;
    for (size_t i = 0; i < sizeof sets / sizeof sets[0] && !code; i++)
        code = SCD_LT(MatmulPreferenceSetAttribute, f->like, sets[i].what, &sets[i].value,
                      sizeof sets[i].value);
    if (!code)
        code = SCD_LT(MatmulAlgoGetHeuristic, lib->handle, f->desc, f->a, f->b, f->c, f->c, f->like,
                      CANDIDATES, found, &n);
    for (int i = 0; i < n && !code; i++)
        if (found[i].state == CUBLAS_STATUS_SUCCESS && scd_lt_whole_sums(lt, &found[i].algo)) {
            *algo = found[i].algo;
            return SCD_OK;
        }
    return code ? code
                : scd_fail(err, SCD_E_DEVICE,
                           "%s has no fp32 product without split-K for %zu x %zu x %zu (of %d "
                           "tried)",
                           lib->version, (size_t)k->m, (size_t)k->n, (size_t)k->k, n);
}

scd_code scd_gemm_f32_run(scd_gemm_lib *lib, const scd_gemm_f32 *p, scd_error *err)
{
    const scd_cublaslt *lt = lib->lt;
    scd_code code = open_f32(lib, err);
    if (!code)
        code = describe(lib, p, err);
    if (code)
        return code;
    scd_lt_f32 *f = lib->f32;
    key k = key_of(p);
    slot *s = &f->slots[place_of(&k)];
    if (!s->used || memcmp(&s->key, &k, sizeof k) != 0) {
        code = ask(lib, &k, &s->algo, err);
        s->used = !code;
        s->key = k;
    }
    return code ? code
                : SCD_LT(Matmul, lib->handle, f->desc, &p->alpha, p->b, f->a, p->a, f->b, &p->beta,
                         p->c, f->c, p->c, f->c, &s->algo, lib->workspace, SCD_LT_WORKSPACE_BYTES,
                         (cudaStream_t)scd_gpu_stream(lib->gpu));
}
