/* train_gemm.c - see train_gemm.h. */
#include "engine/cpu/train_gemm.h"

#include <dnnl.h>

static scd_code gemm(char ta, char tb, size_t m, size_t n, size_t k, float alpha, const float *a,
                     size_t lda, const float *b, size_t ldb, float beta, float *c, size_t ldc)
{
    if (!m || !n || !k)
        return SCD_OK;
    dnnl_status_t s = dnnl_sgemm(ta, tb, (dnnl_dim_t)m, (dnnl_dim_t)n, (dnnl_dim_t)k, alpha, a,
                                 (dnnl_dim_t)lda, b, (dnnl_dim_t)ldb, beta, c, (dnnl_dim_t)ldc);
    return s == dnnl_success ? SCD_OK : s == dnnl_out_of_memory ? SCD_E_NOMEM : SCD_E_DEVICE;
}

scd_code scd_gemm_nt(size_t m, size_t n, size_t k, float alpha, const float *a, size_t lda,
                     const float *b, size_t ldb, float beta, float *c, size_t ldc)
{
    return gemm('N', 'T', m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}

scd_code scd_gemm_nn(size_t m, size_t n, size_t k, float alpha, const float *a, size_t lda,
                     const float *b, size_t ldb, float beta, float *c, size_t ldc)
{
    return gemm('N', 'N', m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}

scd_code scd_gemm_tn(size_t m, size_t n, size_t k, float alpha, const float *a, size_t lda,
                     const float *b, size_t ldb, float beta, float *c, size_t ldc)
{
    return gemm('T', 'N', m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}
