/* train_adamw.cu - the optimizer's step, and the norm that gradients are clipped by.
 *
 * Squares are summed in float64: a block takes RUN floats, a thread every THREADS-th of them, and
 * halves of the block are added until one is left. One more block adds the parts the same way. */
#include "engine/cuda/gpu.cuh"
#include "engine/cuda/train.h"

enum { THREADS = 256, RUN = 1 << 14 };

SCD_KERNEL step(scd_t_adamw a)
{
    size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x;
    if (i >= a.n)
        return;
    float g = a.g[i] * a.grad_scale, w = a.w[i];
    float m = a.beta1 * a.m[i] + (1.0f - a.beta1) * g;
    float v = a.beta2 * a.v[i] + (1.0f - a.beta2) * (g * g);
    float move = a.lr / a.bias1 * m / (sqrtf(v * (1.0f / a.bias2)) + a.eps);
    a.m[i] = m;
    a.v[i] = v;
    a.w[i] = w - (a.lr * a.decay * w + move);
}

scd_code scd_t_cuda_adamw(scd_device *device, const scd_t_adamw *args, scd_error *err)
{
    scd_code code = scd_gpu_enter(device->gpu, err);
    return code ? code
                : SCD_LAUNCH(device, err, step, scd_ceil_div(args->n, THREADS), THREADS, 0, *args);
}

/* The sum of what each thread of the block has, for thread 0. Shared: (THREADS) doubles. */
SCD_DEVICE double block_sum(double mine)
{
    double *sums = (double *)gpu_shared();
    sums[threadIdx.x] = mine;
    for (unsigned n = THREADS / 2; n; n /= 2) {
        gpu_sync_block();
        if (threadIdx.x < n)
            sums[threadIdx.x] += sums[threadIdx.x + n];
    }
    return threadIdx.x == 0 ? sums[0] : 0;
}

SCD_KERNEL squares(const float *x, size_t n, double *parts)
{
    size_t end = (size_t)blockIdx.x * RUN + RUN;
    double sum = 0;
    end = end < n ? end : n;
    for (size_t i = (size_t)blockIdx.x * RUN + threadIdx.x; i < end; i += THREADS)
        sum += (double)x[i] * (double)x[i];
    sum = block_sum(sum);
    if (threadIdx.x == 0)
        parts[blockIdx.x] = sum;
}

SCD_KERNEL add_all(const double *parts, size_t n, double *out)
{
    double sum = 0;
    for (size_t i = threadIdx.x; i < n; i += THREADS)
        sum += parts[i];
    sum = block_sum(sum);
    if (threadIdx.x == 0)
        *out = sum;
}

scd_code scd_t_cuda_sum_squares(scd_device *device, const float *x, size_t n, double *host_out,
                                scd_error *err)
{
    size_t runs = scd_ceil_div(n, RUN), shared = THREADS * sizeof(double);
    *host_out = 0;
    if (!n)
        return SCD_OK;
    scd_code code = scd_gpu_enter(device->gpu, err);
    if (!code)
        code = scd_cuda_scratch_want(device, (runs + 1) * sizeof(double), err);
    double *parts = (double *)(void *)device->scratch;
    if (!code)
        code = SCD_LAUNCH(device, err, squares, runs, THREADS, shared, x, n, parts + 1);
    if (!code)
        code = SCD_LAUNCH(device, err, add_all, 1, THREADS, shared, parts + 1, runs, parts);
    return code ? code : scd_cuda_download(device, host_out, parts, sizeof *host_out, err);
}
