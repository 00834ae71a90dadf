/* ref64.c - see ref64.h. */
#include "tests/ops/ref64.h"

#include "engine/backend/backend.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>

void ref_linear(size_t rows, size_t in, size_t out, const double *x, const double *w,
                const double *b, int relu, double *y)
{
    for (size_t r = 0; r < rows; r++)
        for (size_t o = 0; o < out; o++) {
            double sum = b ? b[o] : 0;
            for (size_t i = 0; i < in; i++)
                sum += x[r * in + i] * w[o * in + i];
            y[r * out + o] = relu && sum < 0 ? 0 : sum;
        }
}

void ref_rms_norm(size_t rows, size_t width, const double *h, const double *w, double *out)
{
    for (size_t r = 0; r < rows; r++) {
        double square = 0;
        for (size_t i = 0; i < width; i++)
            square += h[r * width + i] * h[r * width + i];
        for (size_t i = 0; i < width; i++)
            out[r * width + i] = h[r * width + i] / sqrt(square / (double)width + 1e-5) * w[i];
    }
}

void ref_rope(size_t rows, size_t width, size_t n_heads, const uint32_t *pos, double theta,
              double *x)
{
    size_t dim = width / n_heads, half = dim / 2;
    for (size_t r = 0; r < rows; r++)
        for (size_t j = 0; j < n_heads; j++)
            for (size_t i = 0; i < half; i++) {
                double angle = (pos ? pos[r] : 0) * pow(theta, -2.0 * (double)i / (double)dim);
                double *a = &x[r * width + j * dim + i], *b = a + half, first = *a;
                *a = first * cos(angle) - *b * sin(angle);
                *b = *b * cos(angle) + first * sin(angle);
            }
}

void ref_qkv_part(size_t rows, size_t width, size_t n_heads, const double *h, const double *norm,
                  const double *w, const uint32_t *pos, double theta, int rotate, double *out)
{
    double *n = malloc(rows * width * sizeof *n);
    ref_rms_norm(rows, width, h, norm, n);
    ref_linear(rows, width, width, n, w, NULL, 0, out);
    if (rotate)
        ref_rope(rows, width, n_heads, pos, theta, out);
    free(n);
}

/* One query: softmax(q K^T / sqrt(dim)) V over n_k keys. */
static void ref_query(size_t width, size_t dim, size_t n_k, const double *q, const double *k,
                      const double *v, double *out)
{
    double *p = malloc(n_k * sizeof *p), top = -INFINITY, total = 0;
    for (size_t j = 0; j < n_k; j++) {
        p[j] = 0;
        for (size_t i = 0; i < dim; i++)
            p[j] += q[i] * k[j * width + i];
        p[j] /= sqrt((double)dim);
        top = fmax(top, p[j]);
    }
    for (size_t j = 0; j < n_k; j++) {
        p[j] = exp(p[j] - top);
        total += p[j];
    }
    for (size_t i = 0; i < dim; i++) {
        out[i] = 0;
        for (size_t j = 0; j < n_k; j++)
            out[i] += p[j] / total * v[j * width + i];
    }
    free(p);
}

void ref_attention(size_t n_cells, size_t width, size_t n_heads, const uint32_t *cu_q,
                   const uint32_t *cu_k, const double *q, const double *k, const double *v,
                   double *out)
{
    size_t dim = width / n_heads;
    for (size_t c = 0; c < n_cells; c++)
        for (size_t r = cu_q[c]; r < cu_q[c + 1]; r++)
            for (size_t j = 0; j < n_heads; j++) {
                size_t key = cu_k[c] * width + j * dim, at = r * width + j * dim;
                ref_query(width, dim, cu_k[c + 1] - cu_k[c], q + at, k + key, v + key, out + at);
            }
}

void ref_block_out(size_t rows, size_t width, size_t ffn, double *h, const double *att,
                   const double *wo, const double *norm2, const double *wgate, const double *wup,
                   const double *wdown)
{
    double *y = malloc(rows * width * sizeof *y), *n = malloc(rows * width * sizeof *n);
    double *gate = malloc(rows * ffn * sizeof *gate), *up = malloc(rows * ffn * sizeof *up);
    ref_linear(rows, width, width, att, wo, NULL, 0, y);
    for (size_t i = 0; i < rows * width; i++)
        h[i] += y[i];
    ref_rms_norm(rows, width, h, norm2, n);
    ref_linear(rows, width, ffn, n, wgate, NULL, 0, gate);
    ref_linear(rows, width, ffn, n, wup, NULL, 0, up);
    for (size_t i = 0; i < rows * ffn; i++)
        up[i] *= gate[i] / (1 + exp(-gate[i]));
    ref_linear(rows, ffn, width, up, wdown, NULL, 0, y);
    for (size_t i = 0; i < rows * width; i++)
        h[i] += y[i];
    free(y);
    free(n);
    free(gate);
    free(up);
}

static void ref_clean(const ref_embed_args *a, size_t row, double *clean)
{
    double *x = malloc(a->d * sizeof *x);
    for (size_t i = 0; i < a->d; i++)
        x[i] = fmax(0, a->value_w0[i] * (double)a->values[row] + a->value_b0[i]);
    ref_linear(1, a->d, a->d, x, a->value_w2, a->value_b2, 0, clean);
    for (size_t i = 0; i < a->d; i++)
        clean[i] += a->table[(size_t)a->ids[row] * a->d + i];
    free(x);
}

/* z of one cell from the mean of its pooled rows */
static void ref_latent(const ref_embed_args *a, const double *mean, double *z)
{
    size_t n = a->width;
    double *y = malloc(n * sizeof *y), m = 0, var = 0;
    ref_linear(1, a->d, n, mean, a->latent_w0, a->latent_b0, 0, y);
    for (size_t i = 0; i < n; i++)
        m += y[i] / (double)n;
    for (size_t i = 0; i < n; i++)
        var += (y[i] - m) * (y[i] - m) / (double)n;
    for (size_t i = 0; i < n; i++)
        y[i] = fmax(0, (y[i] - m) / sqrt(var + 1e-5) * a->latent_norm_w[i] + a->latent_norm_b[i]);
    ref_linear(1, n, n, y, a->latent_w3, a->latent_b3, 0, z);
    free(y);
}

static void ref_embed_cell(const ref_embed_args *a, size_t first, size_t end, double *h)
{
    double *clean = malloc(a->d * sizeof *clean), *mean = calloc(a->d, sizeof *mean);
    size_t pooled = 0;
    for (size_t r = first + 1; r < end; r++) {
        ref_clean(a, r, clean);
        if (!a->visible_pooling || !a->hidden[r]) {
            pooled++;
            for (size_t i = 0; i < a->d; i++)
                mean[i] += clean[i];
        }
        for (size_t i = 0; i < a->d; i++) {
            if (a->hidden[r] & SCD_HIDE_GENE)
                clean[i] = a->gene_mask[i] + a->value_mask[i];
            else if (a->hidden[r] & SCD_HIDE_VALUE)
                clean[i] = a->table[(size_t)a->ids[r] * a->d + i] + a->value_mask[i];
        }
        ref_linear(1, a->d, a->width, clean, a->input_proj, NULL, 0, h + r * a->width);
    }
    for (size_t i = 0; i < a->d && pooled; i++)
        mean[i] /= (double)pooled;
    ref_latent(a, mean, h + first * a->width);
    free(clean);
    free(mean);
}

void ref_embed(const ref_embed_args *a, double *h)
{
    for (size_t c = 0; c < a->n_cells; c++)
        ref_embed_cell(a, a->cu_rows[c], a->cu_rows[c + 1], h);
}

double ref_gene_pick(size_t vocab, const double *l, const uint8_t *allowed, double temperature,
                     const double *noise, size_t top, int32_t *genes)
{
    double largest = -INFINITY, sum = 0;
    for (size_t j = 0; j < vocab; j++)
        if (allowed[j] && l[j] > largest)
            largest = l[j];
    for (size_t j = 0; j < vocab; j++)
        if (allowed[j])
            sum += exp(l[j] - largest);
    for (size_t k = 0; k < top; k++) {
        double best = -INFINITY;
        genes[k] = -1;
        for (size_t j = 0; j < vocab; j++) {
            double key = l[j] + (temperature > 0 ? temperature * noise[j] : 0);
            bool taken = !allowed[j];
            for (size_t i = 0; i < k; i++)
                taken = taken || genes[i] == (int32_t)j;
            if (!taken && key > best) {
                best = key;
                genes[k] = (int32_t)j;
            }
        }
    }
    return largest + log(sum);
}

void ref_attention_row(size_t rows, size_t width, size_t n_heads, size_t head, size_t r,
                       const double *q, const double *k, double *weights)
{
    size_t dim = width / n_heads;
    double largest = -INFINITY, sum = 0;
    for (size_t i = 0; i < rows; i++) {
        weights[i] = 0;
        for (size_t d = head * dim; d < (head + 1) * dim; d++)
            weights[i] += q[r * width + d] * k[i * width + d] / sqrt((double)dim);
        largest = fmax(largest, weights[i]);
    }
    for (size_t i = 0; i < rows; i++)
        sum += weights[i] = exp(weights[i] - largest);
    for (size_t i = 0; i < rows; i++)
        weights[i] /= sum;
}
