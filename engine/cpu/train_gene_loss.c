/* train_gene_loss.c - cross-entropy over the vocabulary without ever holding the logits.
 *
 * First pass, tasks are chunks of rows: tile after tile of the vocabulary, with a running maximum m
 * and sum l of exp(logit - m) (Milakov & Gimelshein 2018), and the same for the gradient of x,
 *   g = sum_j exp(logit_j - m) w_j,  multiplied by exp(old m - m) where m rises;
 *   in the end  dx = scale (g / l - w_target).
 * Second pass, tasks are tiles of the vocabulary: p = exp(logit - lse) of one chunk of rows after
 * the other, and dw_tile += scale (p - onehot)^T x in that order. Both keep their tile of logits in
 * a core's cache, and no task waits for another. Logits, m and lse are in powers of two. */
#include "engine/cpu/train_impl.h"

#include <math.h>

enum { ROWS = 128, TILE = 512 };

typedef struct job {
    const scd_t_gene_loss *a;
    const scd_train_kernels *kernels;
    float *lse2; /* (n) between the passes */
} job;

/* Running state of a chunk of rows. */
typedef struct rows_state {
    float m[ROWS], l[ROWS], target[ROWS];
    float *g;      /* (ROWS, H); NULL: no gradient */
    float *logits; /* (ROWS, TILE) */
} rows_state;

/* Row r takes in `n` logits from column `first` on, which become 2^(logit - m). */
static void take_in(const job *j, rows_state *s, size_t row, size_t r, size_t first, size_t n)
{
    const scd_t_gene_loss *a = j->a;
    float *x = s->logits + r * n;
    size_t target = (size_t)a->targets[row], width = a->hidden_dim;
    if (target >= first && target < first + n)
        s->target[r] = x[target - first];
    float top = j->kernels->top(x, n);
    if (first == 0 || top > s->m[r]) {
        float keep = first ? exp2f(s->m[r] - top) : 0;
        if (a->best)
            a->best[row] = (int32_t)(first + j->kernels->place(x, top, n));
        s->l[r] *= keep;
        if (s->g && first)
            j->kernels->scale(s->g + r * width, keep, width);
        s->m[r] = top;
    }
    s->l[r] += j->kernels->exp2_sum(x, s->m[r], n);
}

static void finish_row(const job *j, const rows_state *s, size_t row, size_t r)
{
    const scd_t_gene_loss *a = j->a;
    size_t width = a->hidden_dim;
    j->lse2[row] = s->m[r] + log2f(s->l[r]);
    if (a->loss)
        a->loss[row] = SCD_LN_2 * (j->lse2[row] - s->target[r]);
    if (!a->dx)
        return;
    float *g = s->g + r * width;
    j->kernels->scale(g, 1.0f / s->l[r], width);
    j->kernels->axpy(g, -1.0f, a->w + (size_t)a->targets[row] * width, width);
    j->kernels->scale(g, a->scale, width);
}

static scd_code loss_rows(void *arg, size_t task, void *scratch)
{
    const job *j = arg;
    const scd_t_gene_loss *a = j->a;
    size_t row = task * ROWS, n = scd_chunk_size(a->n, ROWS, task), width = a->hidden_dim;
    const float *x = a->x + row * width;
    rows_state s = {.logits = scratch, .g = a->dx ? a->dx + row * width : NULL};
    scd_code code = SCD_OK;
    for (size_t first = 0; first < a->vocab && !code; first += TILE) {
        size_t cols = a->vocab - first < TILE ? a->vocab - first : TILE;
        const float *w = a->w + first * width;
        code = scd_gemm_nt(n, cols, width, SCD_LOG2_E, x, width, w, width, 0, s.logits, cols);
        for (size_t r = 0; r < n && !code; r++)
            take_in(j, &s, row + r, r, first, cols);
        if (!code && s.g)
            code =
                scd_gemm_nn(n, width, cols, 1, s.logits, cols, w, width, first ? 1 : 0, s.g, width);
    }
    for (size_t r = 0; r < n && !code; r++)
        finish_row(j, &s, row + r, r);
    return code;
}

static scd_code dw_tile(void *arg, size_t task, void *scratch)
{
    const job *j = arg;
    const scd_t_gene_loss *a = j->a;
    size_t first = task * TILE, cols = scd_chunk_size(a->vocab, TILE, task), width = a->hidden_dim;
    const float *w = a->w + first * width;
    float *p = scratch;
    scd_code code = SCD_OK;
    for (size_t row = 0; row < a->n && !code; row += ROWS) {
        size_t n = a->n - row < ROWS ? a->n - row : ROWS;
        const float *x = a->x + row * width;
        code = scd_gemm_nt(n, cols, width, SCD_LOG2_E, x, width, w, width, 0, p, cols);
        for (size_t r = 0; r < n && !code; r++) {
            size_t target = (size_t)a->targets[row + r];
            j->kernels->exp2_sum(p + r * cols, j->lse2[row + r], cols);
            if (target >= first && target < first + cols)
                p[r * cols + target - first] -= 1.0f;
        }
        if (!code)
            code = scd_gemm_tn(cols, width, n, a->scale, p, cols, x, width, 1,
                               a->dw + first * width, width);
    }
    return code;
}

scd_code scd_t_cpu_gene_loss(scd_device *device, const scd_t_gene_loss *args, scd_error *err)
{
    job j = {.a = args, .kernels = scd_train_kernels_of(device->kernels)};
    size_t bytes = (size_t)ROWS * TILE * sizeof(float);
    scd_code code = scd_train_shared(device, args->n, &j.lse2, err);
    if (!code)
        code = scd_train_run(device, scd_chunks(args->n, ROWS), bytes, loss_rows, &j, err);
    if (!code && args->dw)
        code = scd_train_run(device, scd_chunks(args->vocab, TILE), bytes, dw_tile, &j, err);
    return code;
}
