/* op_qkv.cu - RMSNorm, a product for each part, which leaves it where it belongs, and RoPE on q and
 * k there.
 *
 * RoPE, rotate-half: columns i and i + D/2 of a head turn by the angle pos theta^(-2 i / D). The
 * table of cosines and sines is made in float64, once for a model. */
#include "engine/cuda/gpu.cuh"

enum { THREADS = 256 };

size_t scd_cuda_qkv_scratch(size_t rows, size_t hidden_dim, size_t act)
{
    size_t used = 0;
    scd_cuda_carve(NULL, &used, rows * hidden_dim, act);
    return used;
}

/* table (rows, dim): cosines of a position, then its sines. */
SCD_KERNEL rope_table(float *table, size_t rows, size_t dim, double theta)
{
    size_t at = (size_t)blockIdx.x * THREADS + threadIdx.x, half = dim / 2;
    if (at >= rows * half)
        return;
    size_t pos = at / half, i = at % half;
    double angle = (double)pos * pow(theta, -2.0 * (double)i / (double)dim);
    table[pos * dim + i] = (float)cos(angle);
    table[pos * dim + half + i] = (float)sin(angle);
}

typedef struct turn_args {
    unsigned rows, width, half, rope_rows;
    const float *rope;
    const uint32_t *pos; /* NULL: all 0 */
    void *x[2];          /* (rows, width) act: what turns, first all rows of one */
    volatile uint32_t *fault;
} turn_args;

/* A warp takes a row of one part; a lane takes W neighbours and the columns that turn with them. */
template <typename T, size_t W> SCD_KERNEL turn_rows(turn_args a)
{
    unsigned row = blockIdx.x * (THREADS / SCD_WARP) + threadIdx.x / SCD_WARP;
    if (row >= a.rows)
        return;
    unsigned pos = a.pos ? a.pos[row] : 0;
    if (pos >= a.rope_rows) {
        *a.fault = SCD_FAULT_POS;
        pos = 0;
    }
    const float *turn = a.rope + (size_t)pos * 2 * a.half;
    T *x = (T *)(blockIdx.y ? a.x[1] : a.x[0]) + (size_t)row * a.width;
    for (unsigned p = threadIdx.x % SCD_WARP * W; p < a.width / 2; p += SCD_WARP * W) {
        scd_rope_pair at = scd_rope_pair_at(p, a.half);
        float x0[W], x1[W], c[W], s[W];
        gpu_load_pack<W>(x + at.a, x0);
        gpu_load_pack<W>(x + at.a + a.half, x1);
        gpu_load_floats<W>(turn + at.i, c);
        gpu_load_floats<W>(turn + a.half + at.i, s);
        SCD_UNROLL
        for (size_t k = 0; k < W; k++) {
            float first = x0[k];
            x0[k] = first * c[k] - x1[k] * s[k];
            x1[k] = x1[k] * c[k] + first * s[k];
        }
        gpu_store_pack<W>(x + at.a, x0);
        gpu_store_pack<W>(x + at.a + a.half, x1);
    }
}

template <typename T>
static scd_code turn(scd_device *device, const turn_args *a, unsigned parts, scd_error *err)
{
    bool wide =
        a->half % SCD_WIDE(T) == 0 && scd_cuda_aligned(a->x[0]) && scd_cuda_aligned(a->x[1]);
    void (*kernel)(turn_args) = wide ? turn_rows<T, SCD_WIDE(T)> : turn_rows<T, 1>;
    dim3 grid((unsigned)scd_ceil_div(a->rows, THREADS / SCD_WARP), parts);
    return SCD_LAUNCH_2D(device, err, kernel, grid, THREADS, 0, *a);
}

/* q and k, those that were asked for. */
static scd_code turn_parts(scd_device *device, const scd_qkv_args *args, const float *rope,
                           scd_error *err)
{
    turn_args a = {};
    unsigned parts = 0;
    a.rows = (unsigned)args->rows;
    a.width = (unsigned)args->hidden_dim;
    a.half = (unsigned)(args->hidden_dim / args->n_heads / 2);
    a.rope_rows = (unsigned)device->max_rows;
    a.rope = rope;
    a.pos = args->pos;
    a.fault = device->fault;
    if (args->parts & SCD_PART_Q)
        a.x[parts++] = args->q;
    if (args->parts & SCD_PART_K)
        a.x[parts++] = args->k;
    return device->bf16 ? turn<uint16_t>(device, &a, parts, err)
                        : turn<float>(device, &a, parts, err);
}

/* The table of such heads, made when they are first seen. */
static scd_code rope_of(scd_device *device, size_t dim, double theta, const float **out,
                        scd_error *err)
{
    for (size_t i = 0; i < device->n_ropes; i++)
        if (device->ropes[i].dim == dim && device->ropes[i].theta == theta) {
            *out = device->ropes[i].table;
            return SCD_OK;
        }
    float *table;
    scd_code code = scd_cuda_rope_add(device, dim, theta, &table, err);
    if (code)
        return code;
    size_t n = device->max_rows * (dim / 2);
    code = SCD_LAUNCH(device, err, rope_table, scd_ceil_div(n, THREADS), THREADS, 0, table,
                      device->max_rows, dim, theta);
    if (code)
        scd_gpu_free(device->gpu, device->ropes[--device->n_ropes].table);
    *out = table;
    return code;
}

/* The parts that were asked for, each where it belongs: one product of those that lie evenly. Which
 * products they share does not change their bits. */
static scd_code multiply(scd_device *device, const scd_qkv_args *args, const void *n,
                         scd_error *err)
{
    char *const out[3] = {(char *)args->q, (char *)args->k, (char *)args->v};
    scd_code code = SCD_OK;
    for (size_t first = 0, parts; first < 3 && !code; first += parts) {
        parts = 1;
        if (!(args->parts & (1u << first)))
            continue;
        size_t step = 0;
        while (first + parts < 3 && args->parts & (1u << (first + parts))) {
            ptrdiff_t bytes = out[first + parts] - out[first + parts - 1];
            size_t apart = (size_t)bytes / device->act;
            if (bytes <= 0 || bytes % SCD_GEMM_ALIGN || (step && apart != step) ||
                apart < args->rows * args->hidden_dim)
                break;
            step = apart;
            parts++;
        }
        code = scd_cuda_product(device, args->wqkv, first, parts, n, args->rows, false, out[first],
                                step, err);
    }
    return code;
}

scd_code scd_cuda_qkv(scd_device *device, const scd_qkv_args *args, scd_error *err)
{
    void *n = device->scratch;
    const float *rope = NULL;
    scd_code code = scd_cuda_check_rows(device, args->rows, err);
    if (!code)
        code = scd_cuda_check_heads(args->hidden_dim, args->n_heads, err);
    if (!code)
        code = scd_gpu_enter(device->gpu, err);
    if (!code)
        code = rope_of(device, args->hidden_dim / args->n_heads,
                       args->rope_theta > 0 ? args->rope_theta : 10000.0, &rope, err);
    if (!code)
        code = scd_cuda_norm_act(device, args->h, args->norm, args->rows, args->hidden_dim, n, err);
    if (!code && args->wqkv->streams && args->hidden_dim == args->n_heads * 64 &&
        args->n_heads % 2 == 0)
        return scd_cuda_stream_turned(device, args, n, rope, err);
    if (!code)
        code = multiply(device, args, n, err);
    return code ? code : turn_parts(device, args, rope, err);
}
