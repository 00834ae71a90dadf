/* attention_tile.cuh - what attention's kernels on tensor cores share: a warp's queries, the
 * softmax of a tile of scores, the write-out. Here S, P and O are fragments of m16n8k16 (index.h),
 * M times 16 rows of them; a warpgroup's products (wgmma) leave theirs in the same places.
 *
 * Weights are relative to a `top` that is raised only when one would exceed 2^SLACK: what was
 * summed is then seldom scaled, and neither bf16 nor a sum in fp32 minds such weights. Whether a
 * row's top is raised depends on that row's scores alone. */
#ifndef SCD_CUDA_ATTENTION_TILE_CUH
#define SCD_CUDA_ATTENTION_TILE_CUH

#include "engine/cuda/gpu.cuh"

#define SCD_SLACK 8.0f

typedef struct tile_args {
    const uint32_t *cu_q, *cu_k; /* (cells + 1) */
    const uint16_t *q, *k, *v;   /* (rows, width) bf16 */
    uint16_t *out;
    size_t width, tiles;
    int dim;     /* of a head */
    int wide;    /* rows of a head can be copied 16 bytes at once, else 4 */
    float scale; /* log2 e / sqrt(dim) */
} tile_args;

/* A warp's 16 M queries: their fragments, and what is summed so far. Half h of a fragment is row
 * lane / 4 + 8 h. */
template <int D, int M> struct warp_state {
    uint32_t q[M][D / 16][4];
    float o[M][D / 8][4];
    float top[M][2], total[M][2]; /* total: of this lane's columns */
};

/* `q` is the warp's first row, of which `rows` exist. */
template <int D, int M>
SCD_DEVICE void load_queries(warp_state<D, M> &s, const uint16_t *q, const tile_args &a, int rows,
                             int lane)
{
    SCD_UNROLL
    for (int m = 0; m < M; m++) {
        SCD_UNROLL
        for (int k = 0; k < D / 16; k++) {
            SCD_UNROLL
            for (int reg = 0; reg < 4; reg++) {
                int r = m * 16 + scd_frag_a_row(lane, reg);
                int c = k * 16 + scd_frag_a_col(lane, reg);
                bool real = r < rows && c < a.dim;
                s.q[m][k][reg] =
                    real ? *(const uint32_t *)(const void *)(q + (size_t)r * a.width + c) : 0u;
            }
        }
        SCD_UNROLL
        for (int d = 0; d < D / 8; d++)
            s.o[m][d][0] = s.o[m][d][1] = s.o[m][d][2] = s.o[m][d][3] = 0.0f;
        s.top[m][0] = s.top[m][1] = -INFINITY;
        s.total[m][0] = s.total[m][1] = 0.0f;
    }
}

/* Keys from `left` on are none of the cell's. */
template <int M, int N> SCD_DEVICE void mask_keys(float p[M][N / 8][4], int left, int lane)
{
    if (left >= N)
        return;
    SCD_UNROLL
    for (int m = 0; m < M; m++)
        SCD_UNROLL
    for (int n = 0; n < N / 8; n++)
        SCD_UNROLL
    for (int i = 0; i < 4; i++)
        if (n * 8 + scd_frag_c_col(lane, i) >= left)
            p[m][n][i] = -INFINITY;
}

/* The largest score of each of a fragment's two rows. */
template <int N> SCD_DEVICE void top_scores(const float p[N / 8][4], float top[2])
{
    SCD_UNROLL
    for (int h = 0; h < 2; h++) {
        top[h] = fmaxf(p[0][2 * h], p[0][2 * h + 1]);
        SCD_UNROLL
        for (int n = 1; n < N / 8; n++)
            top[h] = fmaxf(top[h], fmaxf(p[n][2 * h], p[n][2 * h + 1]));
    }
    SCD_UNROLL
    for (int far = 1; far < 4; far *= 2) /* the four lanes of a row */
        SCD_UNROLL
    for (int h = 0; h < 2; h++)
        top[h] = fmaxf(top[h], gpu_shfl_xor(top[h], far));
}

/* Scores become weights; what was summed so far shrinks where the top is raised. */
template <int D, int M, int N>
SCD_DEVICE void soften(warp_state<D, M> &s, float scale, float p[M][N / 8][4])
{
    SCD_UNROLL
    for (int m = 0; m < M; m++) {
        float top[2], shrink[2] = {1.0f, 1.0f};
        top_scores<N>(p[m], top);
        SCD_UNROLL
        for (int h = 0; h < 2; h++)
            if (!((top[h] - s.top[m][h]) * scale <= SCD_SLACK)) {
                shrink[h] = gpu_exp2((s.top[m][h] - top[h]) * scale);
                s.top[m][h] = top[h];
            }
        if (shrink[0] != 1.0f || shrink[1] != 1.0f) {
            SCD_UNROLL
            for (int h = 0; h < 2; h++) {
                s.total[m][h] *= shrink[h];
                SCD_UNROLL
                for (int d = 0; d < D / 8; d++) {
                    s.o[m][d][2 * h] *= shrink[h];
                    s.o[m][d][2 * h + 1] *= shrink[h];
                }
            }
        }
        float shift[2] = {-s.top[m][0] * scale, -s.top[m][1] * scale};
        SCD_UNROLL
        for (int n = 0; n < N / 8; n++)
            SCD_UNROLL
        for (int i = 0; i < 4; i++) {
            p[m][n][i] = gpu_exp2(fmaf(p[m][n][i], scale, shift[i / 2]));
            s.total[m][i / 2] += p[m][n][i];
        }
    }
}

/* Weights of 16 keys, from key 16 n on, as A. */
SCD_DEVICE void weights_as_a(const float p[][4], int n, uint32_t a[4])
{
    SCD_UNROLL
    for (int reg = 0; reg < 4; reg++) {
        const float *c = &p[2 * n + reg / 2][(reg & 1) * 2];
        a[reg] = gpu_pack_bf16(c[0], c[1]);
    }
}

template <int D, int M>
SCD_DEVICE void store_outputs(const warp_state<D, M> &s, uint16_t *out, const tile_args &a,
                              int rows, int lane)
{
    SCD_UNROLL
    for (int m = 0; m < M; m++)
        SCD_UNROLL
    for (int h = 0; h < 2; h++) {
        float total = s.total[m][h];
        total += gpu_shfl_xor(total, 1);
        total += gpu_shfl_xor(total, 2);
        float scale = total > 0.0f ? 1.0f / total : 0.0f; /* 0: a cell without keys */
        int r = m * 16 + scd_frag_c_row(lane, 2 * h);
        SCD_UNROLL
        for (int d = 0; d < D / 8; d++) {
            int c = d * 8 + scd_frag_c_col(lane, 0);
            if (r < rows && c < a.dim)
                *(uint32_t *)(void *)(out + (size_t)r * a.width + c) =
                    gpu_pack_bf16(s.o[m][d][2 * h] * scale, s.o[m][d][2 * h + 1] * scale);
        }
    }
}

/* Heads of 64, whose rows can be copied 16 bytes at once, on Hopper (attention_group.cu). */
scd_code scd_cuda_attention_group(scd_device *device, const scd_attention_args *args,
                                  const tile_args *given, size_t most, scd_error *err);

#endif
