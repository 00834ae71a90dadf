/* op_block_out.cu - the second half of a block: o_proj and residual, RMSNorm, the gated MLP and
 * residual. Both residuals are added by the product that makes them, in fp32. */
#include "engine/cuda/gpu.cuh"

enum { THREADS = 256 };

typedef struct out_space {
    void *n;       /* (rows, H) act: normed rows */
    void *gate_up; /* (2, step) act: gate (rows, F), then up */
    size_t step;
    void *mid;      /* (rows, F) act: silu(gate) up */
    float *squares; /* see scd_cuda_stream_out */
} out_space;

static size_t carve(char *base, size_t rows, size_t hidden_dim, size_t ffn_dim, size_t act,
                    out_space *s)
{
    size_t used = 0;
    s->n = scd_cuda_carve(base, &used, rows * hidden_dim, act);
    s->step = scd_gemm_step(rows, ffn_dim);
    s->gate_up = scd_cuda_carve(base, &used, 2 * s->step, act);
    s->mid = scd_cuda_carve(base, &used, rows * ffn_dim, act);
    s->squares =
        (float *)scd_cuda_carve(base, &used, rows * scd_cuda_squares(hidden_dim), sizeof(float));
    return used;
}

size_t scd_cuda_block_out_scratch(size_t rows, size_t hidden_dim, size_t ffn_dim, size_t act)
{
    out_space s;
    return carve(NULL, rows, hidden_dim, ffn_dim, act, &s);
}

/* silu(x) = x / (1 + e^-x); a block takes a row, a thread W columns at once. */
template <typename T, size_t W>
SCD_KERNEL silu_mul(const T *gate_up, size_t step, size_t ffn_dim, T *mid)
{
    gate_up += blockIdx.x * ffn_dim;
    mid += blockIdx.x * ffn_dim;
    for (size_t i = threadIdx.x * W; i < ffn_dim; i += THREADS * W) {
        float gate[W], up[W];
        gpu_load_pack<W>(gate_up + i, gate);
        gpu_load_pack<W>(gate_up + step + i, up);
        SCD_UNROLL
        for (size_t k = 0; k < W; k++)
            up[k] *= gate[k] / (1.0f + expf(-gate[k]));
        gpu_store_pack<W>(mid + i, up);
    }
}

template <typename T>
static scd_code gated(scd_device *device, const out_space *s, size_t rows, size_t ffn_dim,
                      scd_error *err)
{
    void (*kernel)(const T *, size_t, size_t, T *) =
        ffn_dim % SCD_WIDE(T) ? silu_mul<T, 1> : silu_mul<T, SCD_WIDE(T)>;
    return SCD_LAUNCH(device, err, kernel, rows, THREADS, 0, (const T *)s->gate_up, s->step,
                      ffn_dim, (T *)s->mid);
}

/* s->mid, and the stream with o_proj's part. */
static scd_code to_mid(scd_device *device, const scd_block_out_args *args, const out_space *s,
                       scd_error *err)
{
    size_t rows = args->rows;
    if (args->wo->streams && args->wgate_up->streams)
        return scd_cuda_stream_out(device, args, s->n, s->squares, s->mid, err);
    scd_code code =
        scd_cuda_product(device, args->wo, 0, 1, args->att, rows, true, args->h, 0, err);
    if (!code)
        code = scd_cuda_norm_act(device, args->h, args->norm2, rows, args->hidden_dim, s->n, err);
    if (!code)
        code = scd_cuda_product(device, args->wgate_up, 0, 2, s->n, rows, false, s->gate_up,
                                s->step, err);
    if (code)
        return code;
    return device->bf16 ? gated<uint16_t>(device, s, rows, args->ffn_dim, err)
                        : gated<float>(device, s, rows, args->ffn_dim, err);
}

scd_code scd_cuda_block_out(scd_device *device, const scd_block_out_args *args, scd_error *err)
{
    size_t rows = args->rows;
    scd_code code = scd_cuda_check_rows(device, rows, err);
    if (!code)
        code = scd_gpu_enter(device->gpu, err);
    if (code)
        return code;
    out_space s;
    carve(device->scratch, rows, args->hidden_dim, args->ffn_dim, device->act, &s);
    code = to_mid(device, args, &s, err);
    if (!code)
        code = scd_cuda_product(device, args->wdown, 0, 1, s.mid, rows, true, args->h, 0, err);
    return code;
}
