/* train_rope.cu - RoPE in place, both ways: a rotation's gradient is the rotation back.
 *
 * Positions are known on the device alone, so there is no table of them: a thread keeps one pair of
 * columns of some rows and makes each angle in float64, taken to [-pi, pi] before its sine is. */
#include "engine/cuda/gpu.cuh"
#include "engine/cuda/train.h"

enum { THREADS = 128, ROWS = 32 };

/* Block (rows, pairs). */
SCD_KERNEL turn_rows(scd_t_rope a)
{
    size_t dim = a.hidden_dim / a.n_heads, half = dim / 2;
    size_t pair = (size_t)blockIdx.y * THREADS + threadIdx.x, first = (size_t)blockIdx.x * ROWS;
    int n = scd_rows_left(first, ROWS, a.rows);
    if (pair >= a.hidden_dim / 2)
        return;
    scd_rope_pair at = scd_rope_pair_at((unsigned)pair, (unsigned)half);
    const double turn = 6.283185307179586476925;
    double frequency = pow(a.theta, -2.0 * (double)at.i / (double)dim);
    for (size_t r = first; r < first + (size_t)n; r++) {
        double angle = (double)a.pos[r] * frequency;
        float rest = (float)(angle - turn * rint(angle / turn));
        float c = cosf(rest), s = a.inverse ? -sinf(rest) : sinf(rest);
        float *x = a.x + r * a.stride + at.a, x0 = x[0], x1 = x[half];
        x[0] = x0 * c - x1 * s;
        x[half] = x1 * c + x0 * s;
    }
}

scd_code scd_t_cuda_rope(scd_device *device, const scd_t_rope *args, scd_error *err)
{
    scd_t_rope a = *args;
    a.theta = a.theta > 0 ? a.theta : 10000.0;
    dim3 grid((unsigned)scd_ceil_div(a.rows, ROWS),
              (unsigned)scd_ceil_div(a.hidden_dim / 2, THREADS));
    scd_code code = scd_gpu_enter(device->gpu, err);
    return code ? code : SCD_LAUNCH_2D(device, err, turn_rows, grid, THREADS, 0, a);
}
