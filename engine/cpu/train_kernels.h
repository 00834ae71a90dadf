/* train_kernels.h - the rows of training: what is compiled once per instruction set, in fp32.
 *
 * train_kernels_body.h is written over vec.h and included by one train_kernels_<isa>.c each. Every
 * kernel goes along one row (or one run of n floats) without allocation; sums run in a fixed order,
 * so that a row's bits depend on its inputs alone. "+=" marks what is added to.
 *
 * Threads: any. */
#ifndef SCD_CPU_TRAIN_KERNELS_H
#define SCD_CPU_TRAIN_KERNELS_H

#include "engine/backend/train_ops.h"
#include "engine/cpu/kernels.h"

#define SCD_LOG2_E 1.44269504f
#define SCD_LN_2 0.693147181f

typedef struct scd_train_kernels {
    void (*add)(float *y, const float *x, size_t n);                 /* y += x */
    void (*axpy)(float *y, float a, const float *x, size_t n);       /* y += a x */
    void (*scale)(float *y, float a, size_t n);                      /* y *= a */
    void (*sum)(float *y, const float *a, const float *b, size_t n); /* y = a + b */
    float (*dot)(const float *a, const float *b, size_t n);
    void (*relu)(float *y, size_t n);
    void (*relu_back)(const float *y, float *dy, size_t n); /* dy = 0 where y <= 0 */

    /* Returns rstd. */
    float (*rms_norm)(const float *x, const float *w, size_t n, float *y);
    /* dx +=; dw +=, may be NULL */
    void (*rms_norm_back)(const float *x, const float *w, float rstd, const float *dy, size_t n,
                          float *dx, float *dw);
    void (*norm_relu)(const float *x, const float *w, const float *b, size_t n, float *y,
                      float *mean, float *rstd);
    /* dx =; dw, db += */
    void (*norm_relu_back)(const float *x, const float *w, const float *y, float mean, float rstd,
                           const float *dy, size_t n, float *dx, float *dw, float *db);

    /* In place on n_heads heads of `dim`; cos_sin: dim / 2 cosines, then as many sines; turn 1, or
     * -1 to rotate back. */
    void (*rope)(float *x, const float *cos_sin, float turn, size_t n_heads, size_t dim);

    /* Scores are in powers of two - scaled by SCD_LOG2_E - since 2^x takes two thirds of the time
     * that e^x takes. The largest; x = 2^(x - top), whose sum is returned. */
    float (*top)(const float *x, size_t n);
    float (*exp2_sum)(float *x, float top, size_t n);
    /* From scores s to p = 2^(s - lse2), from dp to ds = p (dp - delta). */
    void (*softmax_back)(float *s, float *dp, float lse2, float delta, size_t n);

    void (*swiglu)(const float *gate, const float *up, size_t n, float *y);
    void (*swiglu_back)(const float *gate, const float *up, const float *dy, size_t n, float *dgate,
                        float *dup);

    /* u = relu(x w + b); dw += x du, db += du where u > 0 */
    void (*value_in)(float x, const float *w, const float *b, size_t n, float *u);
    void (*value_in_back)(float x, const float *u, const float *du, size_t n, float *dw, float *db);

    /* The first place that holds `value`. */
    size_t (*place)(const float *x, float value, size_t n);

    void (*adamw)(const scd_t_adamw *a, size_t first, size_t n);
    double (*sum_squares)(const float *x, size_t n);
} scd_train_kernels;

extern const scd_train_kernels scd_train_kernels_generic;
#if defined(__x86_64__)
extern const scd_train_kernels scd_train_kernels_avx2, scd_train_kernels_avx512;
#endif

/* Those of the same instruction set; AVX-512 for avx512_bf16. */
const scd_train_kernels *scd_train_kernels_of(const scd_kernels *kernels);

#endif
