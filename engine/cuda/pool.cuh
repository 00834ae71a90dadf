/* pool.cuh - the mean of the pooled rows of each cell, for op_embed.cu and train_embed.cu.
 *
 * The mean of 32 columns of a cell is made by one block: its warp w sums rows w, w + 8, .. and the
 * eight sums are added in order, so it depends on the cell's rows alone. */
#ifndef SCD_CUDA_POOL_CUH
#define SCD_CUDA_POOL_CUH

#include "engine/cuda/gpu.cuh"

enum { POOL_THREADS = 256, POOL_WARPS = POOL_THREADS / SCD_WARP };
/* (POOL_WARPS, 32) sums, then (POOL_WARPS) counts. */
#define POOL_SHARED ((POOL_WARPS * SCD_WARP + POOL_WARPS) * sizeof(float))

/* Block (cell, 32 columns): mean over the cell's tokens, those with hidden == 0 alone if `visible`.
 */
template <typename T>
SCD_KERNEL pool_cells(const float *clean, const uint8_t *hidden, const uint32_t *cu_rows,
                      int visible, size_t d, T *mean)
{
    float *sums = (float *)gpu_shared(), *counts = sums + POOL_WARPS * SCD_WARP;
    size_t cell = blockIdx.x, warp = threadIdx.x / SCD_WARP, lane = threadIdx.x % SCD_WARP;
    size_t col = blockIdx.y * SCD_WARP + lane, end = cu_rows[cell + 1];
    float sum = 0.0f, count = 0.0f;
    for (size_t row = cu_rows[cell] + 1 + warp; row < end; row += POOL_WARPS) {
        if (visible && hidden[row])
            continue;
        count += 1.0f;
        sum += col < d ? clean[row * d + col] : 0.0f;
    }
    sums[warp * SCD_WARP + lane] = sum;
    if (lane == 0)
        counts[warp] = count;
    gpu_sync_block();
    if (warp > 0 || col >= d)
        return;
    sum = count = 0.0f;
    for (size_t w = 0; w < POOL_WARPS; w++) {
        sum += sums[w * SCD_WARP + lane];
        count += counts[w];
    }
    gpu_store(&mean[cell * d + col], count > 0.0f ? sum / count : 0.0f);
}

#endif
