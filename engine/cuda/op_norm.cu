/* op_norm.cu - RMSNorm of rows: a warp takes a row.
 *
 * out = h / sqrt(mean h^2 + 1e-5) * w. A lane sums columns lane, lane + 32, ..; the lanes' sums are
 * added in the fixed order of gpu_warp_sum. */
#include "engine/cuda/gpu.cuh"

enum { WARPS = 8 };

template <typename T>
SCD_KERNEL norm_rows(const float *h, const float *w, size_t rows, size_t width, T *out)
{
    size_t row = (size_t)blockIdx.x * WARPS + threadIdx.x / SCD_WARP;
    size_t lane = threadIdx.x % SCD_WARP;
    if (row >= rows)
        return;
    h += row * width;
    out += row * width;
    float square = 0.0f;
    for (size_t i = lane; i < width; i += SCD_WARP)
        square += h[i] * h[i];
    float scale = 1.0f / sqrtf(gpu_warp_sum(square) / (float)width + 1e-5f);
    for (size_t i = lane; i < width; i += SCD_WARP)
        gpu_store(&out[i], h[i] * scale * w[i]);
}

template <typename T>
static scd_code launch(scd_device *device, const float *h, const float *w, size_t rows,
                       size_t width, T *out, scd_error *err)
{
    return SCD_LAUNCH(device, err, norm_rows<T>, scd_ceil_div(rows, WARPS), WARPS * SCD_WARP, 0, h,
                      w, rows, width, out);
}

scd_code scd_cuda_norm_act(scd_device *device, const float *h, const float *weight, size_t rows,
                           size_t width, void *out, scd_error *err)
{
    return device->bf16 ? launch(device, h, weight, rows, width, (uint16_t *)out, err)
                        : launch(device, h, weight, rows, width, (float *)out, err);
}

scd_code scd_cuda_rms_norm(scd_device *device, const float *h, const float *weight, size_t rows,
                           size_t width, float *out, scd_error *err)
{
    scd_code code = scd_gpu_enter(device->gpu, err);
    return code ? code : launch(device, h, weight, rows, width, out, err);
}
