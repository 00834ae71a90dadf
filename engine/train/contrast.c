/* contrast.c - see contrast.h. */
#include "engine/train/contrast.h"

#include "engine/base/mem.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

typedef struct work {
    double *unit;   /* (n, dim) u */
    double *norm;   /* (n) |x| */
    double *s;      /* (n, n) similarities, then the loss's gradient of them */
    double *d_unit; /* (dim) of one view */
} work;

static double dot(const double *a, const double *b, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += a[i] * b[i];
    return sum;
}

static void normalise(const scd_contrast *c, work *w)
{
    for (size_t i = 0; i < c->n; i++) {
        double *u = w->unit + i * c->dim;
        for (size_t k = 0; k < c->dim; k++)
            u[k] = (double)c->x[i * c->dim + k];
        w->norm[i] = sqrt(fmax(dot(u, u, c->dim), 1e-24));
        for (size_t k = 0; k < c->dim; k++)
            u[k] /= w->norm[i];
    }
    for (size_t i = 0; i < c->n; i++)
        for (size_t j = i; j < c->n; j++)
            w->s[i * c->n + j] = w->s[j * c->n + i] =
                dot(w->unit + i * c->dim, w->unit + j * c->dim, c->dim) / c->temperature;
}

static bool is_like(const scd_contrast *c, size_t i, size_t j)
{
    return i != j && c->kind[i] == c->kind[j];
}

static bool is_compared(const scd_contrast *c, size_t i, size_t j)
{
    if (i == j)
        return false;
    if (c->kind[i] < c->n_labels)
        return c->kind[j] < c->n_labels;
    return c->kind[i] == c->kind[j] || c->domain[i] == c->domain[j];
}

/* Row i of s becomes the gradient of i's loss: softmax over A(i) less 1 / |P(i)| in P(i). */
static double row_loss(const scd_contrast *c, size_t i, double *s)
{
    double best = -INFINITY, sum = 0, mean = 0, n_like = 0;
    for (size_t j = 0; j < c->n; j++) {
        if (is_compared(c, i, j))
            best = fmax(best, s[j]);
        n_like += is_like(c, i, j);
    }
    for (size_t j = 0; j < c->n; j++)
        if (is_compared(c, i, j))
            sum += exp(s[j] - best);
    for (size_t j = 0; j < c->n; j++) {
        if (is_like(c, i, j))
            mean += s[j] / n_like;
        s[j] = n_like > 0 && is_compared(c, i, j) ? exp(s[j] - best) / sum : 0;
        s[j] -= is_like(c, i, j) ? 1 / n_like : 0;
    }
    return n_like > 0 ? best + log(sum) - mean : 0;
}

/* From the gradient of s, through s_ij = u_i u_j / temperature and u = x / |x|, to that of x. */
static void back(const scd_contrast *c, const work *w, double scale, float *gradient)
{
    for (size_t i = 0; i < c->n; i++) {
        const double *u = w->unit + i * c->dim;
        memset(w->d_unit, 0, c->dim * sizeof *w->d_unit);
        for (size_t j = 0; j < c->n; j++) {
            double g = (w->s[i * c->n + j] + w->s[j * c->n + i]) / c->temperature;
            for (size_t k = 0; g != 0 && k < c->dim; k++)
                w->d_unit[k] += g * w->unit[j * c->dim + k];
        }
        double along = dot(w->d_unit, u, c->dim);
        for (size_t k = 0; k < c->dim; k++)
            gradient[i * c->dim + k] = (float)(scale * (w->d_unit[k] - along * u[k]) / w->norm[i]);
    }
}

scd_code scd_contrast_loss(const scd_contrast *c, double scale, double *loss, float *gradient,
                           scd_error *err)
{
    size_t vectors, pairs;
    work w = {0};
    scd_code code = SCD_OK;
    *loss = 0;
    if (!scd_size_mul(c->n, c->dim, &vectors) || !scd_size_mul(c->n, c->n, &pairs))
        return scd_fail(err, SCD_E_TOO_LARGE, "%zu views are too many to compare", c->n);
    w.unit = scd_malloc(vectors, sizeof *w.unit);
    w.norm = scd_malloc(c->n, sizeof *w.norm);
    w.s = scd_malloc(pairs, sizeof *w.s);
    w.d_unit = scd_malloc(c->dim, sizeof *w.d_unit);
    if (!w.unit || !w.norm || !w.s || !w.d_unit) {
        code = scd_fail(err, SCD_E_NOMEM, "out of memory for %zu views", c->n);
        goto done;
    }
    normalise(c, &w);
    for (size_t i = 0; i < c->n; i++)
        *loss += row_loss(c, i, w.s + i * c->n);
    back(c, &w, scale, gradient);
done:
    free(w.d_unit);
    free(w.s);
    free(w.norm);
    free(w.unit);
    return code;
}

void scd_reverse_gradient(const float *adversary, double strength, size_t n, float *gradient)
{
    for (size_t i = 0; i < n; i++)
        gradient[i] -= (float)(strength * (double)adversary[i]);
}

double scd_reverse_strength(double done)
{
    return 2 / (1 + exp(-10 * done)) - 1;
}
