/* train_attention.c - attention within each cell, forward and backward.
 *
 * A task is one head of one cell. Blocks of its rows keep their scores in the thread's scratch:
 *   S = scale Q K^T;  P = exp(S - lse);  O = P V.
 * The backward pass makes P again from lse (Dao et al. 2022, FlashAttention, algorithm 4):
 *   delta = rowsum(dO * O);  dP = dO V^T;  dS = P * (dP - delta);
 *   dV += P^T dO;  dQ = scale dS K;  dK += scale dS^T Q,
 * where dK and dV add up block after block. */
#include "engine/cpu/train_impl.h"

#include <math.h>

/* A block: as many rows as pay off, but few enough in a long cell that its scores stay in a core's
 * second-level cache. Depends on the cell alone. */
enum { MOST_QUERIES = 192, LEAST_QUERIES = 64, SCORES = 96 * 1024 };

static size_t block_rows(size_t n)
{
    size_t rows = n ? SCORES / n / 16 * 16 : MOST_QUERIES;
    return rows < LEAST_QUERIES ? LEAST_QUERIES : rows > MOST_QUERIES ? MOST_QUERIES : rows;
}

/* The most scratch that a cell's scores take, `copies` of them. */
static size_t score_bytes(const uint32_t *cu_rows, size_t n_cells, size_t copies)
{
    size_t most = 0;
    for (size_t c = 0; c < n_cells; c++) {
        size_t n = cu_rows[c + 1] - cu_rows[c], scores = block_rows(n) * n;
        most = scores > most ? scores : most;
    }
    return copies * most * sizeof(float);
}

typedef struct forward {
    const scd_t_attention *a;
    const scd_train_kernels *kernels;
} forward;

static scd_code forward_head(void *arg, size_t task, void *scratch)
{
    const forward *f = arg;
    const scd_t_attention *a = f->a;
    size_t cell = task / a->n_heads, head = task % a->n_heads, dim = a->hidden_dim / a->n_heads;
    size_t row = a->host_cu_rows[cell], n = a->host_cu_rows[cell + 1] - row;
    size_t ld = 3 * a->hidden_dim, width = a->hidden_dim;
    const float *q = a->qkv + row * ld + head * dim, *k = q + width, *v = k + width;
    float *out = a->out + row * width + head * dim;
    float *lse = a->lse + head * a->host_cu_rows[a->n_cells] + row, *s = scratch;
    float total[MOST_QUERIES];
    size_t block = block_rows(n);
    scd_code code = SCD_OK;
    for (size_t i = 0; i < n && !code; i += block) {
        size_t m = n - i < block ? n - i : block;
        code =
            scd_gemm_nt(m, n, dim, SCD_LOG2_E / sqrtf((float)dim), q + i * ld, ld, k, ld, 0, s, n);
        for (size_t r = 0; r < m; r++) {
            float top = f->kernels->top(s + r * n, n);
            total[r] = f->kernels->exp2_sum(s + r * n, top, n);
            lse[i + r] = SCD_LN_2 * (top + log2f(total[r]));
        }
        if (!code)
            code = scd_gemm_nn(m, dim, n, 1, s, n, v, ld, 0, out + i * width, width);
        for (size_t r = 0; r < m; r++)
            f->kernels->scale(out + (i + r) * width, 1.0f / total[r], dim);
    }
    return code;
}

scd_code scd_t_cpu_attention(scd_device *device, const scd_t_attention *args, scd_error *err)
{
    forward f = {args, scd_train_kernels_of(device->kernels)};
    return scd_train_run(device, args->n_cells * args->n_heads,
                         score_bytes(args->host_cu_rows, args->n_cells, 1), forward_head, &f, err);
}

typedef struct backward {
    const scd_t_attention_back *a;
    const scd_train_kernels *kernels;
} backward;

/* One head of one cell: first rows, first columns of the head; ld floats between rows of q, k, v
 * and their gradients, width between those of out. */
typedef struct head_view {
    size_t n, dim, ld, width;
    const float *q, *k, *v, *out, *dout, *lse;
    float *dq, *dk, *dv;
} head_view;

static head_view view(const scd_t_attention_back *a, size_t task)
{
    size_t cell = task / a->n_heads, head = task % a->n_heads, dim = a->hidden_dim / a->n_heads;
    size_t row = a->host_cu_rows[cell], width = a->hidden_dim, ld = 3 * width;
    size_t in = row * ld + head * dim, out = row * width + head * dim;
    return (head_view){.n = a->host_cu_rows[cell + 1] - row,
                       .dim = dim,
                       .ld = ld,
                       .width = width,
                       .q = a->qkv + in,
                       .k = a->qkv + in + width,
                       .v = a->qkv + in + 2 * width,
                       .out = a->out + out,
                       .dout = a->dout + out,
                       .lse = a->lse + head * a->host_cu_rows[a->n_cells] + row,
                       .dq = a->dqkv + in,
                       .dk = a->dqkv + in + width,
                       .dv = a->dqkv + in + 2 * width};
}

static scd_code backward_head(void *arg, size_t task, void *scratch)
{
    const backward *b = arg;
    head_view h = view(b->a, task);
    float scale = 1 / sqrtf((float)h.dim), *s = scratch, *dp;
    size_t block = block_rows(h.n);
    scd_code code = SCD_OK;
    dp = s + block * h.n;
    for (size_t i = 0; i < h.n && !code; i += block) {
        size_t m = h.n - i < block ? h.n - i : block;
        const float *q = h.q + i * h.ld, *dout = h.dout + i * h.width;
        float add = i ? 1 : 0;
        code = scd_gemm_nt(m, h.n, h.dim, SCD_LOG2_E * scale, q, h.ld, h.k, h.ld, 0, s, h.n);
        if (!code)
            code = scd_gemm_nt(m, h.n, h.dim, 1, dout, h.width, h.v, h.ld, 0, dp, h.n);
        for (size_t r = 0; r < m; r++) {
            float delta = b->kernels->dot(dout + r * h.width, h.out + (i + r) * h.width, h.dim);
            b->kernels->softmax_back(s + r * h.n, dp + r * h.n, SCD_LOG2_E * h.lse[i + r], delta,
                                     h.n);
        }
        if (!code)
            code = scd_gemm_tn(h.n, h.dim, m, 1, s, h.n, dout, h.width, add, h.dv, h.ld);
        if (!code)
            code = scd_gemm_nn(m, h.dim, h.n, scale, dp, h.n, h.k, h.ld, 0, h.dq + i * h.ld, h.ld);
        if (!code)
            code = scd_gemm_tn(h.n, h.dim, m, scale, dp, h.n, q, h.ld, add, h.dk, h.ld);
    }
    return code;
}

scd_code scd_t_cpu_attention_back(scd_device *device, const scd_t_attention_back *args,
                                  scd_error *err)
{
    backward b = {args, scd_train_kernels_of(device->kernels)};
    return scd_train_run(device, args->n_cells * args->n_heads,
                         score_bytes(args->host_cu_rows, args->n_cells, 2), backward_head, &b, err);
}
