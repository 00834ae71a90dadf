/* kernels.h - what is compiled once per instruction set.
 *
 * kernels_body.h, attention_body.h and product_body.h are written over vec.h and included by one
 * kernels_<isa>.c each; isa.h picks the table at open. The table also fixes the type of activations
 * (act): bf16 for avx512_bf16, float elsewhere.
 *
 * All kernels work on one row or one task, without allocation; a row's bits depend on its inputs
 * alone. Threads: any. */
#ifndef SCD_CPU_KERNELS_H
#define SCD_CPU_KERNELS_H

#include "engine/backend/backend.h"

/* One head of one cell, some of its queries. */
typedef struct scd_attention_task {
    const void *q, *k, *v; /* act; first row, first column of the head */
    void *out;             /* act */
    size_t ld;             /* elements between rows */
    size_t n_q, n_k;
    size_t head_dim; /* even, at most SCD_MAX_HEAD_DIM */
    void *scratch;   /* attention_scratch(n_k, head_dim) bytes, 64-byte aligned */
} scd_attention_task;

enum { SCD_MAX_HEAD_DIM = 128 };
#define SCD_NORM_EPS 1e-5f

typedef struct scd_kernels {
    size_t act_bytes;

    /* out = RMSNorm(h, w), n wide */
    void (*norm)(const float *h, const float *w, size_t n, void *out);
    void (*norm_f32)(const float *h, const float *w, size_t n, float *out);
    /* h += y; out = RMSNorm(h, w) */
    void (*add_norm)(float *h, const float *y, const float *w, size_t n, void *out);
    /* out = a + b, in float and as act */
    void (*add)(const float *a, const float *b, size_t n, float *out);
    void (*add_act)(const float *a, const float *b, size_t n, void *out);
    void (*scale)(float *a, float factor, size_t n);
    void (*store)(const float *y, size_t n, void *out); /* float to act */
    /* out = act(silu(g) u) */
    void (*silu_mul)(const float *g, const float *u, size_t n, void *out);
    /* RoPE on n_heads heads of `dim`: cos_sin holds dim / 2 cosines, then as many sines. */
    void (*rope)(const float *y, const float *cos_sin, size_t n_heads, size_t dim, void *out);
    /* y + bias (NULL: none), then max(0, .) where relu; out may be y */
    void (*bias)(const float *y, const float *bias, int relu, size_t n, float *out);
    /* out = act(relu(x w + b)) */
    void (*value_in)(float x, const float *w, const float *b, size_t n, void *out);
    /* out = act(relu(LayerNorm(y + bias) w + b)); changes y */
    void (*layer_norm_relu)(float *y, const float *bias, const float *w, const float *b, size_t n,
                            void *out);
    /* n elements of a table as float */
    void (*to_f32)(const void *in, scd_dtype dtype, size_t n, float *out);

    size_t (*attention_scratch)(size_t n_k, size_t head_dim);
    void (*attention)(const scd_attention_task *task);

    /* Products where oneDNN does not keep a row's bits (it does from AVX-512 on); else NULL.
     * Weights: (n / product_cols) panels of (k, product_cols). y (m, ldy) = x (m, k) W^T. */
    size_t product_cols;
    void (*product)(const float *x, size_t m, size_t k, const float *w, size_t n, float *y,
                    size_t ldy);

    void (*exp_test)(const float *x, size_t n, float *exp, float *exp2); /* for tests */
} scd_kernels;

extern const scd_kernels scd_kernels_generic;
#if defined(__x86_64__)
extern const scd_kernels scd_kernels_avx2, scd_kernels_avx512, scd_kernels_avx512bf16;
#endif

#endif
