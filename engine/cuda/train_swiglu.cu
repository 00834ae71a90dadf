/* train_swiglu.cu - silu(gate) * up, forward and backward; a block takes a row. */
#include "engine/cuda/gpu.cuh"
#include "engine/cuda/train.h"

enum { THREADS = 256 };

SCD_DEVICE float sigmoid(float x)
{
    return 1.0f / (1.0f + expf(-x));
}

SCD_KERNEL gate_rows(scd_t_swiglu a)
{
    const float *gate = a.gate_up + blockIdx.x * 2 * a.ffn_dim, *up = gate + a.ffn_dim;
    for (size_t i = threadIdx.x; i < a.ffn_dim; i += THREADS)
        a.y[blockIdx.x * a.ffn_dim + i] = gate[i] * sigmoid(gate[i]) * up[i];
}

/* d silu(g) / dg = s (1 + g (1 - s)), s = sigmoid(g) */
SCD_KERNEL gate_back(scd_t_swiglu_back a)
{
    const float *gate = a.gate_up + blockIdx.x * 2 * a.ffn_dim, *up = gate + a.ffn_dim;
    const float *dy = a.dy + blockIdx.x * a.ffn_dim;
    float *dgate = a.dgate_up + blockIdx.x * 2 * a.ffn_dim, *dup = dgate + a.ffn_dim;
    for (size_t i = threadIdx.x; i < a.ffn_dim; i += THREADS) {
        float g = gate[i], s = sigmoid(g), u = up[i];
        dgate[i] = dy[i] * u * (s * (1.0f + g * (1.0f - s)));
        dup[i] = dy[i] * (g * s);
    }
}

scd_code scd_t_cuda_swiglu(scd_device *device, const scd_t_swiglu *args, scd_error *err)
{
    scd_code code = scd_gpu_enter(device->gpu, err);
    return code ? code : SCD_LAUNCH(device, err, gate_rows, args->rows, THREADS, 0, *args);
}

scd_code scd_t_cuda_swiglu_back(scd_device *device, const scd_t_swiglu_back *args, scd_error *err)
{
    scd_code code = scd_gpu_enter(device->gpu, err);
    return code ? code : SCD_LAUNCH(device, err, gate_back, args->rows, THREADS, 0, *args);
}
