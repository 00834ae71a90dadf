/* train_gemm.h - fp32 products of one thread, for the tasks of training.
 *
 * oneDNN's sgemm, called without OpenMP threads: how it cuts sums then depends on the shape alone.
 * All matrices are row-major; ld is the number of floats from one row to the next; beta 0 writes
 * c whatever it holds. A product with nothing to sum over leaves c alone, so k = 0 goes with
 * beta 1.
 *
 * Threads: any that has said scd_pool_no_openmp. Errors: SCD_E_DEVICE. */
#ifndef SCD_CPU_TRAIN_GEMM_H
#define SCD_CPU_TRAIN_GEMM_H

#include "engine/base/error.h"

#include <stddef.h>

/* c (m, n) = alpha a (m, k) b (n, k)^T + beta c: activations times weights, queries times keys. */
scd_code scd_gemm_nt(size_t m, size_t n, size_t k, float alpha, const float *a, size_t lda,
                     const float *b, size_t ldb, float beta, float *c, size_t ldc);

/* c (m, n) = alpha a (m, k) b (k, n) + beta c: gradients of activations. */
scd_code scd_gemm_nn(size_t m, size_t n, size_t k, float alpha, const float *a, size_t lda,
                     const float *b, size_t ldb, float beta, float *c, size_t ldc);

/* c (m, n) = alpha a (k, m)^T b (k, n) + beta c: gradients of weights, a sum over k rows. */
scd_code scd_gemm_tn(size_t m, size_t n, size_t k, float alpha, const float *a, size_t lda,
                     const float *b, size_t ldb, float beta, float *c, size_t ldc);

#endif
