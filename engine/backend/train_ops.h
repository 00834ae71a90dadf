/* train_ops.h - the operations that training needs beside those of backend.h, one table a backend.
 *
 * Finer than the inference table: each is one formula, forward and backward side by side, so that
 * every gradient can be checked alone; engine/train/net.c puts them together. Everything is fp32.
 *
 * Conventions: gradients of parameters are added to ("+="), gradients of activations are written
 * ("="), unless a line says otherwise. Outputs may alias inputs only where a line says so. Shapes
 * as in backend.h: R rows ([LAT] row first in each cell), H, F, V, d; matrices row-major.
 *
 * Reproducibility: a result depends on the arguments alone, not on the number of threads. Sums over
 * rows run in fixed chunks and a fixed order; work is divided by output, never by luck.
 *
 * Threads: the device's owner, as in backend.h. Memory: device pointers, but for names in host_*.
 * Errors:  SCD_E_DEVICE, SCD_E_NOMEM for scratch; shapes are the caller's responsibility. */
#ifndef SCD_TRAIN_OPS_H
#define SCD_TRAIN_OPS_H

#include "engine/backend/backend.h"

/* y (rows, out) = x (rows, in) w^T + b; w (out, in); b (out) or NULL. */
typedef struct scd_t_linear {
    size_t rows, in_dim, out_dim;
    const float *x, *w, *b;
    float *y;
} scd_t_linear;

/* dw += dy^T x; db += column sums of dy; dx = dy w, or += where dx_add. dx, dw, db may be NULL. */
typedef struct scd_t_linear_back {
    size_t rows, in_dim, out_dim;
    const float *x, *w, *dy;
    float *dx, *dw, *db;
    int dx_add;
} scd_t_linear_back;

/* RMSNorm (eps 1e-5): y = x * rstd * w, rstd = 1 / sqrt(mean x^2 + eps), (rows) out. */
typedef struct scd_t_rms_norm {
    size_t rows, width;
    const float *x, *w;
    float *y, *rstd;
} scd_t_rms_norm;

typedef struct scd_t_rms_norm_back {
    size_t rows, width;
    const float *x, *w, *rstd, *dy;
    float *dx; /* += : it already holds the residual's gradient */
    float *dw; /* += , NULL: not wanted */
} scd_t_rms_norm_back;

/* LayerNorm (eps 1e-5, biased variance) and ReLU: y = max(0, (x - mean) * rstd * w + b). */
typedef struct scd_t_norm_relu {
    size_t rows, width;
    const float *x, *w, *b;
    float *y, *mean, *rstd; /* mean, rstd (rows) out */
} scd_t_norm_relu;

typedef struct scd_t_norm_relu_back {
    size_t rows, width;
    const float *x, *w, *b, *y, *mean, *rstd, *dy;
    float *dx, *dw, *db;
} scd_t_norm_relu_back;

/* Rotate-half in place on n_heads heads of each row; `inverse` rotates back, which is also the
 * backward pass. pos (rows). */
typedef struct scd_t_rope {
    size_t rows, hidden_dim, n_heads, stride; /* stride: floats from one row to the next */
    double theta;
    const uint32_t *pos;
    float *x;
    int inverse;
} scd_t_rope;

/* Attention within each cell. q, k, v are columns [0, H), [H, 2H), [2H, 3H) of qkv (R, 3H). */
typedef struct scd_t_attention {
    size_t n_cells, hidden_dim, n_heads;
    const uint32_t *host_cu_rows, *cu_rows; /* (C + 1) */
    const float *qkv;
    float *out; /* (R, H) */
    float *lse; /* (n_heads, R): log of the sum of exp of the scaled scores */
} scd_t_attention;

typedef struct scd_t_attention_back {
    size_t n_cells, hidden_dim, n_heads;
    const uint32_t *host_cu_rows, *cu_rows;
    const float *qkv, *out, *lse, *dout;
    float *dqkv; /* (R, 3H) = */
} scd_t_attention_back;

/* y (rows, F) = silu(gate) * up, gate_up (rows, 2F): gate first. Backward: dgate_up =. */
typedef struct scd_t_swiglu {
    size_t rows, ffn_dim;
    const float *gate_up;
    float *y;
} scd_t_swiglu;

typedef struct scd_t_swiglu_back {
    size_t rows, ffn_dim;
    const float *gate_up, *dy;
    float *dgate_up;
} scd_t_swiglu_back;

/* u (rows, d) = relu(x w + b), x (rows) scalars: the value encoder's first layer, and ReLU in
 * general where x is a matrix: see relu_back. Rows whose ids are < 0 become 0. */
typedef struct scd_t_value_in {
    size_t rows, d;
    const float *x, *w, *b;
    const int32_t *ids;
    float *u;
} scd_t_value_in;

typedef struct scd_t_value_in_back {
    size_t rows, d;
    const float *x, *u, *du;
    const int32_t *ids;
    float *dw, *db;
} scd_t_value_in_back;

/* What the rows of a batch hold; ids < 0 in [LAT] rows. Everything on the device. */
typedef struct scd_t_tokens {
    size_t n_cells, rows, d, vocab;
    const uint32_t *host_cu_rows, *cu_rows;
    const int32_t *ids, *host_ids;
    const uint8_t *hidden; /* SCD_HIDE_* */
    int visible_pooling;
} scd_t_tokens;

/* clean (R, d) holds the value encoder's output and becomes += table[id]; [LAT] rows become 0.
 * tok (R, d): clean, or gene_mask + value_mask where GENE is hidden, or table[id] + value_mask
 * where only VALUE is; [LAT] rows 0. pooled (C, d): mean of the pooled clean rows, 0 without any.
 */
typedef struct scd_t_embed {
    scd_t_tokens t;
    const float *table, *gene_mask, *value_mask;
    float *clean, *tok, *pooled;
} scd_t_embed;

/* dclean (R, d) =: what flows into the value encoder ([LAT] rows 0); dtable += by id, a gene's rows
 * in order; dgene_mask, dvalue_mask +=. dtable may be NULL. */
typedef struct scd_t_embed_back {
    scd_t_tokens t;
    const float *dtok, *dpooled;
    float *dclean, *dtable, *dgene_mask, *dvalue_mask;
} scd_t_embed_back;

/* dst (n, width) = src rows at index; back: dst rows at index += src. index without repeats. */
typedef struct scd_t_rows {
    size_t n, width;
    const uint32_t *index;
    const float *src;
    float *dst;
} scd_t_rows;

/* Cross-entropy of the gene over n rows x (n, H) of final states, weights w (V, H); logits live in
 * tiles of the vocabulary only. Specials are logits like any other. Each row's loss is weighted by
 * `scale` in the gradients alone.
 *   loss[i] = logsumexp(x w^T) - logit[target]; best[i] = argmax (the lowest id of equals)
 *   dx = scale (p - onehot) w; dw += scale (p - onehot)^T x. dx and dw both NULL: loss only. */
typedef struct scd_t_gene_loss {
    size_t n, hidden_dim, vocab;
    const float *x, *w;
    const int32_t *targets; /* (n) on the device */
    float scale;
    float *loss;   /* (n) */
    int32_t *best; /* (n) */
    float *dx, *dw;
} scd_t_gene_loss;

/* Softmax cross-entropy with soft targets over few classes (heads): logits (n, classes), targets
 * (n, classes) summing to 1, weight (n). loss[i] = -weight sum_k t_k log p_k;
 * dlogits = scale weight (p - t). */
typedef struct scd_t_class_loss {
    size_t n, classes;
    const float *logits, *targets, *weight;
    float scale;
    float *loss, *dlogits;
} scd_t_class_loss;

/* AdamW (Loshchilov & Hutter 2019), in place over n parameters:
 *   g' = g * grad_scale; m = b1 m + (1 - b1) g'; v = b2 v + (1 - b2) g'^2;
 *   w -= lr ( (m / bias1) / (sqrt(v / bias2) + eps) + decay w ) */
typedef struct scd_t_adamw {
    size_t n;
    float *w, *m, *v;
    const float *g;
    float lr, beta1, beta2, eps, decay, grad_scale, bias1, bias2;
} scd_t_adamw;

typedef struct scd_train_ops {
    uint32_t abi, size;

    scd_code (*linear)(scd_device *, const scd_t_linear *, scd_error *);
    scd_code (*linear_back)(scd_device *, const scd_t_linear_back *, scd_error *);
    scd_code (*rms_norm)(scd_device *, const scd_t_rms_norm *, scd_error *);
    scd_code (*rms_norm_back)(scd_device *, const scd_t_rms_norm_back *, scd_error *);
    scd_code (*norm_relu)(scd_device *, const scd_t_norm_relu *, scd_error *);
    scd_code (*norm_relu_back)(scd_device *, const scd_t_norm_relu_back *, scd_error *);
    scd_code (*rope)(scd_device *, const scd_t_rope *, scd_error *);
    scd_code (*attention)(scd_device *, const scd_t_attention *, scd_error *);
    scd_code (*attention_back)(scd_device *, const scd_t_attention_back *, scd_error *);
    scd_code (*swiglu)(scd_device *, const scd_t_swiglu *, scd_error *);
    scd_code (*swiglu_back)(scd_device *, const scd_t_swiglu_back *, scd_error *);
    scd_code (*value_in)(scd_device *, const scd_t_value_in *, scd_error *);
    scd_code (*value_in_back)(scd_device *, const scd_t_value_in_back *, scd_error *);
    scd_code (*embed)(scd_device *, const scd_t_embed *, scd_error *);
    scd_code (*embed_back)(scd_device *, const scd_t_embed_back *, scd_error *);
    scd_code (*rows_get)(scd_device *, const scd_t_rows *, scd_error *);
    scd_code (*rows_add)(scd_device *, const scd_t_rows *, scd_error *);
    scd_code (*gene_loss)(scd_device *, const scd_t_gene_loss *, scd_error *);
    scd_code (*class_loss)(scd_device *, const scd_t_class_loss *, scd_error *);

    /* y = x or y += x; dy = 0 where y <= 0 (ReLU's backward, y its output). n floats. */
    scd_code (*copy)(scd_device *, const float *x, size_t n, float *y, scd_error *);
    scd_code (*add)(scd_device *, const float *x, size_t n, float *y, scd_error *);
    scd_code (*zero)(scd_device *, float *y, size_t n, scd_error *);
    scd_code (*relu)(scd_device *, float *y, size_t n, scd_error *); /* in place */
    scd_code (*relu_back)(scd_device *, const float *y, size_t n, float *dy, scd_error *);

    /* *host_out = sum of x^2 in float64, chunks of fixed length added in order. */
    scd_code (*sum_squares)(scd_device *, const float *x, size_t n, double *host_out, scd_error *);
    scd_code (*adamw)(scd_device *, const scd_t_adamw *, scd_error *);
} scd_train_ops;

extern const scd_train_ops scd_train_ops_cpu, scd_train_ops_cuda;

#endif
