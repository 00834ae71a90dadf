/* attention_f32.cuh - what attention in fp32, on plain cores, shares: forward (op_attention.cu, for
 * inference and training) and backward (train_attention.cu).
 *
 * A block is one head and B rows of a cell, its own: queries where O or dQ is made, keys where dK
 * and dV are. The other side comes in tiles of B rows, in order, so nothing is added by two blocks.
 * A thread has R own rows (those of its group of eight), C rows of the tile and E columns of the
 * head; rows of a tile in shared memory are D + 1 floats apart, for the banks. Heads up to D wide
 * are computed as D, with zeros beyond. */
#ifndef SCD_CUDA_ATTENTION_F32_CUH
#define SCD_CUDA_ATTENTION_F32_CUH

#include "engine/cuda/gpu.cuh"

enum { THREADS = 128, GROUP = 8, GROUPS = THREADS / GROUP };
#define LOG2_E 1.44269504f
#define LN_2 0.693147181f

/* B rows of one head, `from` the first of n that are real, to rows D + 1 apart; zeros elsewhere. */
template <int D, int B>
SCD_DEVICE void load_tile(const float *from, size_t ld, size_t dim, int n, float *to)
{
    for (int i = (int)threadIdx.x; i < B * D; i += THREADS) {
        int r = i / D, c = i % D;
        to[r * (D + 1) + c] = r < n && (size_t)c < dim ? from[(size_t)r * ld + (size_t)c] : 0.0f;
    }
}

/* s[i][j] = own row i times row j of the tile. */
template <int D, int R, int C>
SCD_DEVICE void multiply_rows(const float *own, const float *tile, float s[R][C])
{
    SCD_UNROLL
    for (int i = 0; i < R; i++)
        SCD_UNROLL
    for (int j = 0; j < C; j++)
        s[i][j] = 0.0f;
    SCD_UNROLL
    for (int d = 0; d < D; d++) {
        float x[R], y[C];
        SCD_UNROLL
        for (int i = 0; i < R; i++)
            x[i] = own[i * (D + 1) + d];
        SCD_UNROLL
        for (int j = 0; j < C; j++)
            y[j] = tile[j * GROUP * (D + 1) + d];
        SCD_UNROLL
        for (int i = 0; i < R; i++)
            SCD_UNROLL
        for (int j = 0; j < C; j++)
            s[i][j] += x[i] * y[j];
    }
}

/* o[i][e] += sum over the tile's rows r of p[i][r] tile[r][e]. */
template <int D, int B, int R, int E>
SCD_DEVICE void gather_rows(const float *p, const float *tile, float o[R][E])
{
    for (int r = 0; r < B; r++) {
        float x[R];
        SCD_UNROLL
        for (int i = 0; i < R; i++)
            x[i] = p[i * (B + 1) + r];
        SCD_UNROLL
        for (int e = 0; e < E; e++) {
            float y = tile[r * (D + 1) + e * GROUP];
            SCD_UNROLL
            for (int i = 0; i < R; i++)
                o[i][e] += x[i] * y;
        }
    }
}

/* The group's sum or largest, for all of its eight threads. */
SCD_DEVICE float group_sum(float x)
{
    for (int mask = GROUP / 2; mask; mask /= 2)
        x += gpu_shfl_xor(x, mask);
    return x;
}

SCD_DEVICE float group_max(float x)
{
    for (int mask = GROUP / 2; mask; mask /= 2)
        x = fmaxf(x, gpu_shfl_xor(x, mask));
    return x;
}

/* o (R, E) to n rows of one head, `to` the block's first; times `scale` (R). */
template <int R, int E>
SCD_DEVICE void store_rows(const float o[R][E], const float scale[R], size_t ld, size_t dim, int n,
                           float *to)
{
    int mine = (int)threadIdx.x / GROUP * R, lane = (int)threadIdx.x % GROUP;
    SCD_UNROLL
    for (int i = 0; i < R; i++)
        SCD_UNROLL
    for (int e = 0; e < E; e++) {
        size_t c = (size_t)(lane + e * GROUP);
        if (mine + i < n && c < dim)
            to[(size_t)(mine + i) * ld + c] = o[i][e] * scale[i];
    }
}

/* Rows of q lie ld_q floats apart, of k and v ld_k, of out `width`. lse (heads, rows), which may be
 * NULL: the natural logarithm of what a query's weights were divided by. `most` queries in a cell
 * at most; a cell without keys gets zeros. */
typedef struct scd_attention_f32 {
    size_t n_cells, most, rows, width, heads;
    const uint32_t *cu_q, *cu_k; /* (cells + 1) */
    const float *q, *k, *v;
    size_t ld_q, ld_k;
    float *out, *lse;
} scd_attention_f32;

scd_code scd_cuda_attention_f32(scd_device *device, const scd_attention_f32 *args, scd_error *err);

#endif
