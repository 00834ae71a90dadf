/* op_norm.cu - RMSNorm of rows: a warp takes a row.
 *
 * out = h / sqrt(mean h^2 + 1e-5) * w. A lane sums W neighbours, then those 32 W further, and so
 * on; the lanes' sums are added in the fixed order of gpu_warp_sum. W is 4 where the width is a
 * multiple of it: the order, and so the bits, depend on the width alone. */
#include "engine/cuda/gpu.cuh"

enum { WARPS = 8 };

template <typename T, size_t W>
SCD_KERNEL norm_rows(const float *h, const float *w, size_t rows, size_t width, T *out)
{
    size_t row = (size_t)blockIdx.x * WARPS + threadIdx.x / SCD_WARP;
    size_t first = threadIdx.x % SCD_WARP * W;
    if (row >= rows)
        return;
    h += row * width;
    out += row * width;
    float square = 0.0f, x[W];
    for (size_t i = first; i < width; i += SCD_WARP * W) {
        gpu_load_pack<W>(h + i, x);
        SCD_UNROLL
        for (size_t k = 0; k < W; k++)
            square += x[k] * x[k];
    }
    float scale = 1.0f / sqrtf(gpu_warp_sum(square) / (float)width + 1e-5f);
    for (size_t i = first; i < width; i += SCD_WARP * W) {
        gpu_load_pack<W>(h + i, x);
        SCD_UNROLL
        for (size_t k = 0; k < W; k++)
            x[k] *= scale * w[i + k];
        gpu_store_pack<W>(out + i, x);
    }
}

template <typename T>
static scd_code launch(scd_device *device, const float *h, const float *w, size_t rows,
                       size_t width, T *out, scd_error *err)
{
    void (*kernel)(const float *, const float *, size_t, size_t, T *) =
        width % 4 ? norm_rows<T, 1> : norm_rows<T, 4>;
    if (width % 4 == 0 && !(scd_cuda_aligned(h) && scd_cuda_aligned(out)))
        return scd_fail(err, SCD_E_INVALID, "a norm's rows lie at no multiple of 16 bytes");
    return SCD_LAUNCH(device, err, kernel, scd_ceil_div(rows, WARPS), WARPS * SCD_WARP, 0, h, w,
                      rows, width, out);
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
