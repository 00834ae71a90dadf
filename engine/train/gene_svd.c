/* gene_svd.c - see gene_svd.h.
 *
 * Z is never formed: with z = (x - mean) / spread, a cell's row times Q is the sum over its
 * expressed genes less a vector that all cells share, and likewise back. */
#include "engine/train/gene_svd.h"

#include "engine/base/mem.h"
#include "engine/base/rng.h"
#include "engine/train/corrupt.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define START_STREAM (UINT64_C(0xC4) << 56)
#define SPREAD_FLOOR 0.1 /* added to the spread: genes seen once or twice are noise */
#define KEPT_VARIANCE 0.2
enum { N_ROUNDS = 5, BLOCK_CELLS = 256 };

typedef struct work {
    const scd_gene_svd_input *in;
    size_t n_cells;
    double *mean, *spread;  /* (vocab) over all looked-at cells, zeros included; spread 0: unseen */
    double *basis, *next;   /* (vocab, d) Q; Z^T Z Q as it is summed */
    double *shared, *total; /* (d) sum of mean / spread * Q; sum of the cells' rows */
    double *row;            /* (d) one cell's; in the end the eigenvalues of Z^T Z */
    double *gram;           /* (d, d) */
} work;

/* ---- cells ----------------------------------------------------------------------------------- */

typedef void visit(work *w, const scd_clean_cell *cell);

static scd_code visit_block(work *w, size_t first, size_t n, visit *each, scd_error *err)
{
    scd_arena arena;
    scd_arena_init(&arena, SIZE_MAX / 2);
    scd_corpus_cell *cells = scd_arena_alloc(&arena, n, sizeof *cells);
    scd_code code = cells ? scd_corpus_read(w->in->corpus, first, n, &arena, cells, err)
                          : scd_fail(err, SCD_E_NOMEM, "out of memory");
    for (size_t i = 0; i < n && !code; i++) {
        scd_clean_cell clean;
        if (w->in->keep && !w->in->keep[first + i])
            continue;
        if (!(code = scd_clean_cell_of(&cells[i], &arena, &clean, err)))
            each(w, &clean);
    }
    scd_arena_release(&arena);
    return code;
}

static scd_code visit_cells(work *w, visit *each, scd_error *err)
{
    size_t all = scd_corpus_n_cells(w->in->corpus);
    size_t n_blocks = (all + BLOCK_CELLS - 1) / BLOCK_CELLS,
           n_used = w->in->max_cells / BLOCK_CELLS;
    scd_code code = SCD_OK;
    n_used = n_used < 1 ? 1 : n_used < n_blocks ? n_used : n_blocks;
    for (size_t i = 0; i < n_used && !code; i++) {
        size_t first = i * n_blocks / n_used * BLOCK_CELLS, left = all - first;
        code = visit_block(w, first, left < BLOCK_CELLS ? left : BLOCK_CELLS, each, err);
    }
    return code;
}

static void add_moments(work *w, const scd_clean_cell *cell)
{
    for (size_t i = 0; i < cell->n; i++) {
        double x = (double)cell->values[i];
        w->mean[cell->ids[i]] += x;
        w->spread[cell->ids[i]] += x * x;
    }
    w->n_cells++;
}

static void finish_moments(work *w)
{
    double n = w->n_cells ? (double)w->n_cells : 1;
    for (size_t g = 0; g < w->in->vocab; g++) {
        if (!(w->spread[g] > 0))
            continue;
        w->mean[g] /= n;
        double variance = w->spread[g] / n - w->mean[g] * w->mean[g];
        w->spread[g] = sqrt(variance > 0 ? variance : 0) + SPREAD_FLOOR;
    }
}

/* next += z^T (z Q), but for what the mean takes away from every gene: that comes at the end. */
static void add_cell(work *w, const scd_clean_cell *cell)
{
    size_t d = w->in->d;
    for (size_t j = 0; j < d; j++)
        w->row[j] = -w->shared[j];
    for (size_t i = 0; i < cell->n; i++) {
        const double *q = w->basis + (size_t)cell->ids[i] * d;
        double z = (double)cell->values[i] / w->spread[cell->ids[i]];
        for (size_t j = 0; j < d; j++)
            w->row[j] += z * q[j];
    }
    for (size_t i = 0; i < cell->n; i++) {
        double *y = w->next + (size_t)cell->ids[i] * d;
        double z = (double)cell->values[i] / w->spread[cell->ids[i]];
        for (size_t j = 0; j < d; j++)
            y[j] += z * w->row[j];
    }
    for (size_t j = 0; j < d; j++)
        w->total[j] += w->row[j];
}

/* ---- the basis ------------------------------------------------------------------------------- */

/* next = Z^T Z Q */
static scd_code multiply(work *w, scd_error *err)
{
    size_t d = w->in->d, vocab = w->in->vocab;
    memset(w->next, 0, vocab * d * sizeof *w->next);
    memset(w->shared, 0, d * sizeof *w->shared);
    memset(w->total, 0, d * sizeof *w->total);
    for (size_t g = 0; g < vocab; g++)
        for (size_t j = 0; j < d && w->spread[g] > 0; j++)
            w->shared[j] += w->mean[g] / w->spread[g] * w->basis[g * d + j];
    scd_code code = visit_cells(w, add_cell, err);
    for (size_t g = 0; g < vocab; g++)
        for (size_t j = 0; j < d && w->spread[g] > 0; j++)
            w->next[g * d + j] -= w->mean[g] / w->spread[g] * w->total[j];
    return code;
}

/* L of A^T A = L L^T, in the lower half of `l` (d, d). A column that depends on earlier ones gets
 * zeros. */
static void factor(const double *a, size_t d, size_t vocab, double *l)
{
    memset(l, 0, d * d * sizeof *l);
    for (size_t g = 0; g < vocab; g++)
        for (size_t j = 0; j < d; j++)
            for (size_t k = 0; k <= j; k++)
                l[j * d + k] += a[g * d + j] * a[g * d + k];
    for (size_t j = 0; j < d; j++) {
        double whole = l[j * d + j];
        for (size_t k = 0; k <= j; k++) {
            double sum = l[j * d + k];
            for (size_t i = 0; i < k; i++)
                sum -= l[j * d + i] * l[k * d + i];
            if (k == j)
                l[j * d + j] = sum > 1e-18 * whole ? sqrt(sum) : 0;
            else
                l[j * d + k] = l[k * d + k] > 0 ? sum / l[k * d + k] : 0;
        }
    }
}

/* Columns of `a` become orthonormal, in order: a <- a L^-T, twice, which is as good as Gram-Schmidt
 * and goes along the rows (CholeskyQR2, Yamamoto et al. 2015). norms (d): what was left of each
 * column, 0 where it depends on the others. */
static void orthonormalize(double *a, size_t d, size_t vocab, double *l, double *norms)
{
    for (int pass = 0; pass < 2; pass++) {
        factor(a, d, vocab, l);
        for (size_t j = 0; j < d && !pass; j++)
            norms[j] = l[j * d + j];
        for (size_t g = 0; g < vocab; g++)
            for (size_t j = 0; j < d; j++) {
                double x = a[g * d + j];
                for (size_t k = 0; k < j; k++)
                    x -= l[j * d + k] * a[g * d + k];
                a[g * d + j] = l[j * d + j] > 0 ? x / l[j * d + j] : 0;
            }
    }
}

static scd_code iterate(work *w, scd_error *err)
{
    size_t d = w->in->d, vocab = w->in->vocab;
    scd_code code = SCD_OK;
    for (size_t g = 0; g < vocab; g++)
        for (size_t j = 0; j < d; j++)
            w->basis[g * d + j] =
                w->spread[g] > 0 ? (double)scd_rng_normal(w->in->seed, START_STREAM | g, j) : 0;
    orthonormalize(w->basis, d, vocab, w->gram, w->row);
    for (int round = 0; round < N_ROUNDS && !code; round++) {
        double *old = w->basis;
        if ((code = multiply(w, err)))
            break;
        w->basis = w->next;
        w->next = old;
        orthonormalize(w->basis, d, vocab, w->gram, w->row);
    }
    return code;
}

/* Rows weighted and brought to unit variance, mixed with what was there. */
static void mix(const work *w, float *embedding)
{
    size_t d = w->in->d;
    for (size_t g = 0; g < w->in->vocab; g++) {
        const double *v = w->basis + g * d;
        double squares = 0;
        for (size_t j = 0; j < d; j++)
            squares += v[j] * v[j] * sqrt(w->row[j]); /* (eigenvalue^(1/4))^2 */
        if (!(squares > 0))
            continue;
        double scale = sqrt((1 - KEPT_VARIANCE) * (double)d / squares);
        for (size_t j = 0; j < d; j++)
            embedding[g * d + j] = (float)(scale * v[j] * sqrt(sqrt(w->row[j])) +
                                           sqrt(KEPT_VARIANCE) * (double)embedding[g * d + j]);
    }
}

scd_code scd_gene_svd(const scd_gene_svd_input *input, float *embedding, scd_error *err)
{
    size_t vocab = input->vocab, d = input->d;
    work w = {.in = input};
    scd_code code = SCD_OK;
    w.mean = scd_calloc(vocab, sizeof *w.mean);
    w.spread = scd_calloc(vocab, sizeof *w.spread);
    w.basis = scd_calloc(vocab, d * sizeof *w.basis);
    w.next = scd_calloc(vocab, d * sizeof *w.next);
    w.shared = scd_calloc(d, sizeof *w.shared);
    w.total = scd_calloc(d, sizeof *w.total);
    w.row = scd_calloc(d, sizeof *w.row);
    w.gram = scd_calloc(d, d * sizeof *w.gram);
    if (!w.mean || !w.spread || !w.basis || !w.next || !w.shared || !w.total || !w.row || !w.gram)
        code =
            scd_fail(err, SCD_E_NOMEM, "out of memory for the co-expression of %zu genes", vocab);
    if (!code && !(code = visit_cells(&w, add_moments, err))) {
        finish_moments(&w);
        if (!(code = iterate(&w, err)))
            mix(&w, embedding);
    }
    free(w.gram);
    free(w.row);
    free(w.total);
    free(w.shared);
    free(w.next);
    free(w.basis);
    free(w.spread);
    free(w.mean);
    return code;
}
