/* train_ref64.h - the forward half of every operation of engine/backend/train_ops.h in float64.
 *
 * Gradients have no twin: they are held against central differences of these functions
 * (train_check.h). What ref64.h already has - linear, RMSNorm, RoPE - is not here again.
 *
 * Threads: any. Owns: nothing. */
#ifndef SCD_TESTS_TRAIN_REF64_H
#define SCD_TESTS_TRAIN_REF64_H

#include "engine/backend/train_ops.h"

void ref_norm_relu(size_t rows, size_t width, const double *x, const double *w, const double *b,
                   double *y);

/* qkv (R, 3H); out (R, H); lse (n_heads, R) or NULL */
void ref_qkv_attention(size_t n_cells, size_t width, size_t n_heads, const uint32_t *cu_rows,
                       const double *qkv, double *out, double *lse);

void ref_swiglu(size_t rows, size_t ffn, const double *gate_up, double *y);

void ref_value_in(size_t rows, size_t d, const int32_t *ids, const double *x, const double *w,
                  const double *b, double *u);

/* u (R, d): what the value encoder gave; clean, tok (R, d), pooled (C, d) out */
void ref_tokens(const scd_t_tokens *t, const double *u, const double *table,
                const double *gene_mask, const double *value_mask, double *clean, double *tok,
                double *pooled);

/* loss (n); best (n) or NULL */
void ref_gene_loss(size_t n, size_t width, size_t vocab, const double *x, const double *w,
                   const int32_t *targets, double *loss, int32_t *best);

void ref_class_loss(size_t n, size_t classes, const double *logits, const double *targets,
                    const double *weight, double *loss);

/* One step; fields of `a` besides pointers */
void ref_adamw(const scd_t_adamw *a, double *w, double *m, double *v, const double *g);

#endif
