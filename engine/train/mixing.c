/* mixing.c - see mixing.h. */
#include "engine/train/mixing.h"

#include "engine/base/mem.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>

enum { K = SCD_MIXING_NEIGHBOURS };

typedef struct cells {
    const float *x;
    size_t n, dim;
    const int32_t *batch, *label;
    double *norm; /* (n) */
} cells;

static double product(const cells *c, size_t i, size_t j)
{
    double sum = 0;
    for (size_t k = 0; k < c->dim; k++)
        sum += (double)c->x[i * c->dim + k] * (double)c->x[j * c->dim + k];
    return sum;
}

/* The up to K cells most like i, of i's label or of any label; how many. Ties: the first. */
static size_t nearest(const cells *c, size_t i, bool of_own, size_t out[K])
{
    double best[K];
    size_t n = 0;
    for (size_t j = 0; j < c->n; j++) {
        if (j == i || (of_own ? c->label[j] != c->label[i] : c->label[j] < 0))
            continue;
        double s = product(c, i, j) / (c->norm[i] * c->norm[j]);
        if (n == K && s <= best[K - 1])
            continue;
        size_t at = n < K ? n++ : K - 1;
        for (; at && best[at - 1] < s; at--) {
            best[at] = best[at - 1];
            out[at] = out[at - 1];
        }
        best[at] = s;
        out[at] = j;
    }
    return n;
}

/* Adds one cell's share of neighbours of its own batch, where its kind has another. */
static void add_batch(const cells *c, size_t i, scd_mixing *m)
{
    size_t found[K], own = 0, others = 0, n_own = 0;
    for (size_t j = 0; j < c->n; j++) {
        if (j == i || c->label[j] != c->label[i])
            continue;
        others++;
        n_own += c->batch[j] == c->batch[i];
    }
    if (n_own == others)
        return;
    size_t n = nearest(c, i, true, found);
    for (size_t k = 0; k < n; k++)
        own += c->batch[found[k]] == c->batch[i];
    m->own_batch += (double)own / (double)n;
    m->by_chance += (double)n_own / (double)others;
    m->n++;
}

static void add_label(const cells *c, size_t i, scd_mixing *m)
{
    size_t found[K], own = 0;
    size_t n = c->label[i] < 0 ? 0 : nearest(c, i, false, found);
    if (!n)
        return;
    for (size_t k = 0; k < n; k++)
        own += c->label[found[k]] == c->label[i];
    m->own_label += (double)own / (double)n;
    m->n_labelled++;
}

scd_code scd_mixing_of(const float *x, size_t n, size_t dim, const int32_t *batch,
                       const int32_t *label, scd_mixing *out, scd_error *err)
{
    cells c = {x, n, dim, batch, label, scd_malloc(n, sizeof *c.norm)};
    scd_mixing m = {0};
    if (!c.norm)
        return scd_fail(err, SCD_E_NOMEM, "out of memory for %zu cells", n);
    for (size_t i = 0; i < n; i++)
        c.norm[i] = sqrt(fmax(product(&c, i, i), 1e-24));
    for (size_t i = 0; i < n; i++) {
        add_batch(&c, i, &m);
        add_label(&c, i, &m);
    }
    m.own_batch = m.n ? m.own_batch / (double)m.n : NAN;
    m.by_chance = m.n ? m.by_chance / (double)m.n : NAN;
    m.own_label = m.n_labelled ? m.own_label / (double)m.n_labelled : NAN;
    *out = m;
    free(c.norm);
    return SCD_OK;
}
