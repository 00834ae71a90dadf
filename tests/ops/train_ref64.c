/* train_ref64.c - see train_ref64.h. */
#include "tests/ops/train_ref64.h"

#include <math.h>
#include <stdlib.h>

void ref_norm_relu(size_t rows, size_t width, const double *x, const double *w, const double *b,
                   double *y)
{
    for (size_t r = 0; r < rows; r++, x += width, y += width) {
        double mean = 0, var = 0;
        for (size_t i = 0; i < width; i++)
            mean += x[i] / (double)width;
        for (size_t i = 0; i < width; i++)
            var += (x[i] - mean) * (x[i] - mean) / (double)width;
        for (size_t i = 0; i < width; i++)
            y[i] = fmax(0, (x[i] - mean) / sqrt(var + 1e-5) * w[i] + b[i]);
    }
}

void ref_qkv_attention(size_t n_cells, size_t width, size_t n_heads, const uint32_t *cu_rows,
                       const double *qkv, double *out, double *lse)
{
    size_t dim = width / n_heads, rows = cu_rows[n_cells];
    double *p = malloc(rows * sizeof *p);
    for (size_t c = 0; c < n_cells; c++)
        for (size_t h = 0; h < n_heads; h++)
            for (size_t i = cu_rows[c]; i < cu_rows[c + 1]; i++) {
                const double *q = qkv + i * 3 * width + h * dim;
                double *o = out + i * width + h * dim, top = -INFINITY, total = 0;
                for (size_t j = cu_rows[c]; j < cu_rows[c + 1]; j++) {
                    const double *k = qkv + j * 3 * width + width + h * dim;
                    p[j] = 0;
                    for (size_t x = 0; x < dim; x++)
                        p[j] += q[x] * k[x] / sqrt((double)dim);
                    top = fmax(top, p[j]);
                }
                for (size_t j = cu_rows[c]; j < cu_rows[c + 1]; j++)
                    total += p[j] = exp(p[j] - top);
                for (size_t x = 0; x < dim; x++) {
                    o[x] = 0;
                    for (size_t j = cu_rows[c]; j < cu_rows[c + 1]; j++)
                        o[x] += p[j] / total * qkv[j * 3 * width + 2 * width + h * dim + x];
                }
                if (lse)
                    lse[h * rows + i] = top + log(total);
            }
    free(p);
}

void ref_swiglu(size_t rows, size_t ffn, const double *gate_up, double *y)
{
    for (size_t r = 0; r < rows; r++)
        for (size_t i = 0; i < ffn; i++) {
            double g = gate_up[r * 2 * ffn + i];
            y[r * ffn + i] = g / (1 + exp(-g)) * gate_up[r * 2 * ffn + ffn + i];
        }
}

void ref_value_in(size_t rows, size_t d, const int32_t *ids, const double *x, const double *w,
                  const double *b, double *u)
{
    for (size_t r = 0; r < rows; r++)
        for (size_t i = 0; i < d; i++)
            u[r * d + i] = ids[r] < 0 ? 0 : fmax(0, x[r] * w[i] + b[i]);
}

void ref_tokens(const scd_t_tokens *t, const double *u, const double *table,
                const double *gene_mask, const double *value_mask, double *clean, double *tok,
                double *pooled)
{
    size_t d = t->d;
    for (size_t c = 0; c < t->n_cells; c++) {
        double n = 0;
        for (size_t i = 0; i < d; i++)
            pooled[c * d + i] = 0;
        for (size_t r = t->host_cu_rows[c]; r < t->host_cu_rows[c + 1]; r++) {
            int pool = t->ids[r] >= 0 && !(t->visible_pooling && t->hidden[r]);
            n += pool;
            for (size_t i = 0; i < d; i++) {
                double gene = t->ids[r] < 0 ? 0 : table[(size_t)t->ids[r] * d + i];
                clean[r * d + i] = t->ids[r] < 0 ? 0 : u[r * d + i] + gene;
                tok[r * d + i] = clean[r * d + i];
                if (t->ids[r] >= 0 && t->hidden[r] & SCD_HIDE_GENE)
                    tok[r * d + i] = gene_mask[i] + value_mask[i];
                else if (t->ids[r] >= 0 && t->hidden[r] & SCD_HIDE_VALUE)
                    tok[r * d + i] = gene + value_mask[i];
                if (pool)
                    pooled[c * d + i] += clean[r * d + i];
            }
        }
        for (size_t i = 0; i < d && n > 0; i++)
            pooled[c * d + i] /= n;
    }
}

void ref_gene_loss(size_t n, size_t width, size_t vocab, const double *x, const double *w,
                   const int32_t *targets, double *loss, int32_t *best)
{
    double *logit = malloc(vocab * sizeof *logit);
    for (size_t r = 0; r < n; r++) {
        size_t top = 0;
        double total = 0;
        for (size_t j = 0; j < vocab; j++) {
            logit[j] = 0;
            for (size_t i = 0; i < width; i++)
                logit[j] += x[r * width + i] * w[j * width + i];
            if (logit[j] > logit[top])
                top = j;
        }
        for (size_t j = 0; j < vocab; j++)
            total += exp(logit[j] - logit[top]);
        loss[r] = logit[top] + log(total) - logit[targets[r]];
        if (best)
            best[r] = (int32_t)top;
    }
    free(logit);
}

void ref_class_loss(size_t n, size_t classes, const double *logits, const double *targets,
                    const double *weight, double *loss)
{
    for (size_t r = 0; r < n; r++, logits += classes, targets += classes) {
        double total = 0;
        loss[r] = 0;
        for (size_t k = 0; k < classes; k++)
            total += exp(logits[k]);
        for (size_t k = 0; k < classes; k++)
            loss[r] -= weight[r] * targets[k] * (logits[k] - log(total));
    }
}

void ref_adamw(const scd_t_adamw *a, double *w, double *m, double *v, const double *g)
{
    double b1 = (double)a->beta1, b2 = (double)a->beta2;
    for (size_t i = 0; i < a->n; i++) {
        double d = g[i] * (double)a->grad_scale;
        m[i] = b1 * m[i] + (1 - b1) * d;
        v[i] = b2 * v[i] + (1 - b2) * d * d;
        double move = m[i] / (double)a->bias1 / (sqrt(v[i] / (double)a->bias2) + (double)a->eps);
        w[i] -= (double)a->lr * (move + (double)a->decay * w[i]);
    }
}
