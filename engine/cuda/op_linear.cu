/* op_linear.cu - the general product for heads, and rows by index.
 *
 * y = x W^T + b, optionally ReLU: in the product where its matrix has a plan for that, else by a
 * kernel after it. The input is fp32; where act is bf16 it is rounded into scratch, as many rows at
 * once as there is room for, which no row's bits depend on. */
#include "engine/cuda/gpu.cuh"

enum { THREADS = 256 };

SCD_KERNEL round_rows(const float *x, size_t n, uint16_t *out)
{
    size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x;
    if (i < n)
        gpu_store(&out[i], x[i]);
}

/* y (n / width, width) += b, in place; a thread takes an element. */
SCD_KERNEL bias_rows(float *y, const float *bias, bool relu, size_t n, size_t width)
{
    size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x;
    if (i >= n)
        return;
    float sum = y[i] + (bias ? bias[i % width] : 0.0f);
    y[i] = relu && sum < 0.0f ? 0.0f : sum;
}

SCD_KERNEL gather(const float *src, const uint32_t *index, size_t width, float *dst)
{
    src += index[blockIdx.x] * width;
    dst += blockIdx.x * width;
    for (size_t i = threadIdx.x; i < width; i += THREADS)
        dst[i] = src[i];
}

scd_code scd_cuda_rows_act(scd_device *device, const float *x, size_t n, size_t width, void *room,
                           const void **out, scd_error *err)
{
    *out = device->bf16 ? room : x;
    return device->bf16 ? SCD_LAUNCH(device, err, round_rows, scd_ceil_div(n * width, THREADS),
                                     THREADS, 0, x, n * width, (uint16_t *)room)
                        : SCD_OK;
}

scd_code scd_cuda_product_bias(scd_device *device, const scd_matrix *w, const void *x, size_t m,
                               const float *bias, bool relu, float *y, scd_error *err)
{
    scd_gemm_plan *plan = bias ? w->biased[relu] : NULL;
    size_t n = m * w->part_rows;
    if (!m)
        return SCD_OK;
    if (plan)
        return scd_gemm_run_bias(plan, w->weights, x, m, bias, y, err);
    scd_code code = scd_cuda_product(device, w, 0, 1, x, m, false, y, 0, err);
    if (!code && (bias || relu))
        code = SCD_LAUNCH(device, err, bias_rows, scd_ceil_div(n, THREADS), THREADS, 0, y, bias,
                          relu, n, w->part_rows);
    return code;
}

/* Rows [first, first + n). */
static scd_code some_rows(scd_device *device, const scd_linear_args *a, size_t first, size_t n,
                          scd_error *err)
{
    const void *x;
    scd_code code =
        scd_cuda_rows_act(device, a->x + first * a->in_dim, n, a->in_dim, device->scratch, &x, err);
    return code ? code
                : scd_cuda_product_bias(device, a->w, x, n, a->bias, a->relu != 0,
                                        a->y + first * a->out_dim, err);
}

scd_code scd_cuda_linear(scd_device *device, const scd_linear_args *args, scd_error *err)
{
    if (args->w->n_parts != 1 || args->w->cols != args->in_dim ||
        args->w->part_rows != args->out_dim)
        return scd_fail(err, SCD_E_INVALID, "linear: the matrix is %zu x %zu, not %zu x %zu",
                        args->w->n_parts * args->w->part_rows, args->w->cols, args->out_dim,
                        args->in_dim);
    scd_code code = scd_gpu_enter(device->gpu, err);
    /* whole multiples of the least, so that every piece starts aligned */
    size_t chunk = device->scratch_bytes / (args->in_dim * device->act);
    chunk -= chunk % SCD_CUDA_LINEAR_ROWS;
    for (size_t at = 0; at < args->rows && !code; at += chunk) {
        size_t left = args->rows - at;
        code = some_rows(device, args, at, left < chunk ? left : chunk, err);
    }
    return code;
}

scd_code scd_cuda_gather_rows(scd_device *device, const float *src, const uint32_t *index, size_t n,
                              size_t width, float *dst, scd_error *err)
{
    scd_code code = scd_gpu_enter(device->gpu, err);
    return code ? code : SCD_LAUNCH(device, err, gather, n, THREADS, 0, src, index, width, dst);
}
