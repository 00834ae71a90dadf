/* ref64.h - every operation of engine/backend/backend.h in float64, in the plainest C there is.
 *
 * Made to be read and believed, not to be fast: one function per operation, one loop per index.
 * Shapes as in backend.h; all arrays are dense and row-major.
 *
 * Threads: any. Owns: nothing. */
#ifndef SCD_TESTS_REF64_H
#define SCD_TESTS_REF64_H

#include <stddef.h>
#include <stdint.h>

/* y (rows, out) = x (rows, in) w^T + b; w (out, in); b may be NULL; relu: negative becomes 0 */
void ref_linear(size_t rows, size_t in, size_t out, const double *x, const double *w,
                const double *b, int relu, double *y);

/* out = h / sqrt(mean h^2 + 1e-5) * w, per row */
void ref_rms_norm(size_t rows, size_t width, const double *h, const double *w, double *out);

/* In place: rotate-half on n_heads heads of each row. */
void ref_rope(size_t rows, size_t width, size_t n_heads, const uint32_t *pos, double theta,
              double *x);

/* n = RMSNorm(h); out = n w^T, with RoPE where `rotate`: one of q, k, v */
void ref_qkv_part(size_t rows, size_t width, size_t n_heads, const double *h, const double *norm,
                  const double *w, const uint32_t *pos, double theta, int rotate, double *out);

void ref_attention(size_t n_cells, size_t width, size_t n_heads, const uint32_t *cu_q,
                   const uint32_t *cu_k, const double *q, const double *k, const double *v,
                   double *out);

/* weights (rows) that row r pays to every row of one cell in one head */
void ref_attention_row(size_t rows, size_t width, size_t n_heads, size_t head, size_t r,
                       const double *q, const double *k, double *weights);

/* h in and out */
void ref_block_out(size_t rows, size_t width, size_t ffn, double *h, const double *att,
                   const double *wo, const double *norm2, const double *wgate, const double *wup,
                   const double *wdown);

/* Logits l (vocab) of one row; allowed (vocab) 0 or 1. lse over the allowed ones; the `top` largest
 * keys l + temperature * noise in order, lower gene first among equals, -1 where there are no more.
 */
double ref_gene_pick(size_t vocab, const double *l, const uint8_t *allowed, double temperature,
                     const double *noise, size_t top, int32_t *genes);

typedef struct ref_embed_args {
    size_t n_cells, d, width;
    const uint32_t *cu_rows;
    const int32_t *ids;
    const float *values;
    const uint8_t *hidden;
    const double *table, *value_w0, *value_b0, *value_w2, *value_b2, *value_mask, *gene_mask;
    const double *input_proj;
    const double *latent_w0, *latent_b0, *latent_norm_w, *latent_norm_b, *latent_w3, *latent_b3;
    int visible_pooling;
} ref_embed_args;

void ref_embed(const ref_embed_args *args, double *h);

#endif
