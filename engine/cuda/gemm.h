/* gemm.h - products of rows with a packed weight, whose bits do not depend on the number of rows.
 *
 * y_i (m, n) = x (m, k) w_i (n, k)^T for each part i of a weight, all dense and row-major. x and w
 * are act; one-part weights give fp32, those of several parts act (what follows them reads less).
 * Two sides: gemm_lt.c (cuBLASLt) and tests/cuda_host/gemm_host.cc (plain loops).
 *
 * A plan belongs to a shape: one algorithm, without split-K and reductions, used for every m and
 * for any number of the parts at once. What is done to y before it is written, its epilogue, is
 * part of the shape; not every shape has algorithms with one.
 *
 * Threads: the owner. Owns: the plan owns its descriptors. */
#ifndef SCD_CUDA_GEMM_H
#define SCD_CUDA_GEMM_H

#include "engine/cuda/runtime.h"

#ifdef __cplusplus
extern "C" {
#endif

#include <stdbool.h>

typedef struct scd_gemm_lib scd_gemm_lib;
typedef struct scd_gemm_plan scd_gemm_plan;

/* y as it is, y + b, max(y + b, 0), where a NaN may become 0; b (n) fp32. The last two: one part,
 * which is not added to. */
typedef enum scd_epilogue {
    SCD_EPILOGUE_NONE,
    SCD_EPILOGUE_BIAS,
    SCD_EPILOGUE_BIAS_RELU
} scd_epilogue;

typedef struct scd_gemm_shape {
    size_t part_rows, n_parts; /* part_rows: n */
    size_t cols;               /* k */
    bool bf16;                 /* act is bf16, else fp32 */
    scd_epilogue epilogue;
} scd_gemm_shape;

/* Where x, w, y and b start, and each part's y after the first: multiples of so many bytes. */
enum { SCD_GEMM_ALIGN = 16 };

/* Elements from one part's y (m, n) to the next where parts lie one behind the other. */
static inline size_t scd_gemm_step(size_t m, size_t n)
{
    return (m * n + 7) / 8 * 8; /* eight bf16 are SCD_GEMM_ALIGN bytes */
}

static inline bool scd_gemm_gives_act(const scd_gemm_shape *s)
{
    return s->n_parts > 1;
}

scd_code scd_gemm_open(scd_gpu *gpu, scd_gemm_lib **out, scd_error *err);
void scd_gemm_close(scd_gemm_lib *lib);                /* NULL is fine */
const char *scd_gemm_version(const scd_gemm_lib *lib); /* "cublaslt-13.0.2" */

/* The best algorithm that computes every m and every number of parts. *out is NULL, which is no
 * error, where a shape with an epilogue has none. */
scd_code scd_gemm_plan_new(scd_gemm_lib *lib, const scd_gemm_shape *shape, scd_gemm_plan **out,
                           scd_error *err);
void scd_gemm_plan_free(scd_gemm_plan *plan); /* NULL is fine */
/* Go on to the next best algorithm; false when there is none. */
bool scd_gemm_plan_next(scd_gemm_plan *plan);
/* Did the last run since then fail because the library does not take these arguments with this
 * algorithm, after all? That says nothing of the device, and is so whenever it is tried. */
bool scd_gemm_plan_refused(const scd_gemm_plan *plan);

/* parts: how many consecutive parts, w being the first's first row; their y lie `step` elements
 * apart (one part: it does not matter). add: y += x w^T, fp32 results only. */
scd_code scd_gemm_run(scd_gemm_plan *plan, size_t parts, const void *w, const void *x, size_t m,
                      bool add, void *y, size_t step, scd_error *err);
/* The same for a shape with an epilogue. */
scd_code scd_gemm_run_bias(scd_gemm_plan *plan, const void *w, const void *x, size_t m,
                           const float *b, float *y, scd_error *err);

/* ---- products of training ---- */

/* c (m, n) = alpha op(a) op(b) + beta c, fp32 in, fp32 accumulated, row-major: op(a) is (m, k), of
 * a (m, k) or with `ta` of a (k, m) transposed; b likewise. lda, ldb and ldc are floats from one
 * row to the next. `batch` such products lie step_* floats apart (1: one, steps do not matter).
 *
 * A sum over k is one piece in one algorithm, chosen by the shape alone: the same arguments give
 * the same bits. m, n, k and batch are at least 1; c is no operand. */
typedef struct scd_gemm_f32 {
    bool ta, tb;
    size_t m, n, k, lda, ldb, ldc;
    const float *a, *b;
    float *c, alpha, beta;
    size_t batch, step_a, step_b, step_c;
} scd_gemm_f32;

scd_code scd_gemm_f32_run(scd_gemm_lib *lib, const scd_gemm_f32 *product, scd_error *err);

#ifdef __cplusplus
}
#endif
#endif
