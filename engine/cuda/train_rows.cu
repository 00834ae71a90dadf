/* train_rows.cu - rows by index, sums of parts, and the plain operations on n floats. */
#include "engine/cuda/gpu.cuh"
#include "engine/cuda/train.h"

enum { THREADS = 256, EACH = 4 }; /* floats of a thread, THREADS apart */

/* ---- rows ---------------------------------------------------------------------------------- */

/* A block takes a row. */
SCD_KERNEL get_rows(const float *src, const uint32_t *index, size_t width, float *dst)
{
    src += index[blockIdx.x] * width;
    dst += blockIdx.x * width;
    for (size_t i = threadIdx.x; i < width; i += THREADS)
        dst[i] = src[i];
}

/* No index stands twice, so blocks do not meet. */
SCD_KERNEL add_rows(const float *src, const uint32_t *index, size_t width, float *dst)
{
    src += blockIdx.x * width;
    dst += index[blockIdx.x] * width;
    for (size_t i = threadIdx.x; i < width; i += THREADS)
        dst[i] += src[i];
}

scd_code scd_t_cuda_rows_get(scd_device *device, const scd_t_rows *a, scd_error *err)
{
    scd_code code = scd_gpu_enter(device->gpu, err);
    return code ? code
                : SCD_LAUNCH(device, err, get_rows, a->n, THREADS, 0, a->src, a->index, a->width,
                             a->dst);
}

scd_code scd_t_cuda_rows_add(scd_device *device, const scd_t_rows *a, scd_error *err)
{
    scd_code code = scd_gpu_enter(device->gpu, err);
    return code ? code
                : SCD_LAUNCH(device, err, add_rows, a->n, THREADS, 0, a->src, a->index, a->width,
                             a->dst);
}

/* A thread takes a column. */
SCD_KERNEL sum_parts(const float *parts, size_t n, size_t stride, size_t width, float *dst)
{
    size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x;
    if (i >= width)
        return;
    float sum = dst[i];
    for (size_t p = 0; p < n; p++)
        sum += parts[p * stride + i];
    dst[i] = sum;
}

scd_code scd_cuda_add_parts(scd_device *device, const float *parts, size_t n, size_t stride,
                            size_t width, float *dst, scd_error *err)
{
    return SCD_LAUNCH(device, err, sum_parts, scd_ceil_div(width, THREADS), THREADS, 0, parts, n,
                      stride, width, dst);
}

/* ---- n floats ------------------------------------------------------------------------------ */

enum what { COPY, ADD, ZERO, RELU, RELU_BACK };

/* y = op(x, y), element by element. */
template <int op> SCD_DEVICE float changed(const float *x, const float *y)
{
    if (op == COPY)
        return *x;
    if (op == ADD)
        return *x + *y;
    if (op == RELU)
        return fmaxf(*y, 0.0f);
    if (op == RELU_BACK)
        return *x > 0.0f ? *y : 0.0f;
    return 0.0f;
}

template <int op> SCD_KERNEL change(const float *x, size_t n, float *y)
{
    size_t first = (size_t)blockIdx.x * THREADS * EACH + threadIdx.x;
    SCD_UNROLL
    for (size_t j = 0; j < EACH; j++) {
        size_t i = first + j * THREADS;
        if (i < n)
            y[i] = changed<op>(x + i, y + i);
    }
}

template <int op>
static scd_code run(scd_device *device, const float *x, size_t n, float *y, scd_error *err)
{
    scd_code code = scd_gpu_enter(device->gpu, err);
    return code ? code
                : SCD_LAUNCH(device, err, change<op>, scd_ceil_div(n, THREADS * EACH), THREADS, 0,
                             x, n, y);
}

scd_code scd_t_cuda_copy(scd_device *device, const float *x, size_t n, float *y, scd_error *err)
{
    return run<COPY>(device, x, n, y, err);
}

scd_code scd_t_cuda_add(scd_device *device, const float *x, size_t n, float *y, scd_error *err)
{
    return run<ADD>(device, x, n, y, err);
}

scd_code scd_t_cuda_zero(scd_device *device, float *y, size_t n, scd_error *err)
{
    return run<ZERO>(device, y, n, y, err);
}

scd_code scd_t_cuda_relu(scd_device *device, float *y, size_t n, scd_error *err)
{
    return run<RELU>(device, y, n, y, err);
}

scd_code scd_t_cuda_relu_back(scd_device *device, const float *y, size_t n, float *dy,
                              scd_error *err)
{
    return run<RELU_BACK>(device, y, n, dy, err);
}
