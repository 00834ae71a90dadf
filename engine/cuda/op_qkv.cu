/* op_qkv.cu - RMSNorm, one product for all parts that are asked for, and RoPE in the write-out.
 *
 * RoPE, rotate-half: columns i and i + D/2 of a head turn by the angle pos theta^(-2 i / D). The
 * table of cosines and sines is made in float64, once for a model. */
#include "engine/cuda/gpu.cuh"

enum { THREADS = 256 };

typedef struct qkv_space {
    void *n; /* (rows, H) act: normed rows */
    void *y; /* (rows, 3 H) act: what the product gives */
} qkv_space;

static size_t carve(char *base, size_t rows, size_t hidden_dim, size_t act, qkv_space *s)
{
    size_t used = 0;
    s->n = scd_cuda_carve(base, &used, rows * hidden_dim, act);
    s->y = scd_cuda_carve(base, &used, 3 * rows * hidden_dim, act);
    return used;
}

size_t scd_cuda_qkv_scratch(size_t rows, size_t hidden_dim, size_t act)
{
    qkv_space s;
    return carve(NULL, rows, hidden_dim, act, &s);
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

typedef struct write_args {
    size_t n_parts, width, half, rope_rows;
    const float *rope;
    const uint32_t *pos; /* NULL: all 0 */
    const void *y;       /* (rows, n_parts * width) act */
    void *out[3];        /* (rows, width) act */
    int rotate[3];
    volatile uint32_t *fault;
} write_args;

/* A block takes a row; a thread takes W neighbours and the columns that turn with them. */
template <typename T, size_t W> SCD_KERNEL write_out(write_args a)
{
    size_t row = blockIdx.x, pairs = a.width / 2, pos = a.pos ? a.pos[row] : 0;
    const T *y = (const T *)a.y + row * a.n_parts * a.width;
    if (pos >= a.rope_rows) {
        *a.fault = SCD_FAULT_POS;
        pos = 0;
    }
    const float *turn = a.rope + pos * 2 * a.half;
    for (size_t p = threadIdx.x * W; p < a.n_parts * pairs; p += THREADS * W) {
        size_t part = p / pairs;
        scd_rope_pair at = scd_rope_pair_at(p % pairs, a.half);
        T *out = (T *)a.out[part] + row * a.width + at.a;
        float x0[W], x1[W];
        gpu_load_pack<W>(y + part * a.width + at.a, x0);
        gpu_load_pack<W>(y + part * a.width + at.a + a.half, x1);
        if (a.rotate[part]) {
            SCD_UNROLL
            for (size_t k = 0; k < W; k++) {
                float c = turn[at.i + k], s = turn[a.half + at.i + k], first = x0[k];
                x0[k] = first * c - x1[k] * s;
                x1[k] = x1[k] * c + first * s;
            }
        }
        gpu_store_pack<W>(out, x0);
        gpu_store_pack<W>(out + a.half, x1);
    }
}

template <typename T>
static scd_code write_rows(scd_device *device, size_t rows, write_args w, scd_error *err)
{
    bool wide = w.half % SCD_WIDE(T) == 0;
    for (size_t i = 0; i < w.n_parts; i++)
        wide = wide && scd_cuda_aligned(w.out[i]);
    void (*kernel)(write_args) = wide ? write_out<T, SCD_WIDE(T)> : write_out<T, 1>;
    return SCD_LAUNCH(device, err, kernel, rows, THREADS, 0, w);
}

static scd_code rope_fill(scd_device *device, size_t dim, double theta, scd_error *err)
{
    if (device->rope_dim == dim && device->rope_theta == theta)
        return SCD_OK;
    size_t n = device->max_rows * (dim / 2);
    scd_code code = SCD_LAUNCH(device, err, rope_table, scd_ceil_div(n, THREADS), THREADS, 0,
                               device->rope, device->max_rows, dim, theta);
    device->epoch++; /* graphs read another table */
    device->rope_dim = code ? 0 : dim;
    device->rope_theta = theta;
    return code;
}

/* Parts first .. first + n, which lie side by side in the weights. */
static scd_code run_parts(scd_device *device, const scd_qkv_args *a, const qkv_space *s,
                          size_t first, size_t n, scd_error *err)
{
    void *const out[3] = {a->q, a->k, a->v};
    write_args w = {};
    w.n_parts = n;
    w.width = a->hidden_dim;
    w.half = a->hidden_dim / a->n_heads / 2;
    w.rope_rows = device->max_rows;
    w.rope = device->rope;
    w.pos = a->pos;
    w.y = s->y;
    w.fault = device->fault;
    for (size_t i = 0; i < n; i++) {
        w.out[i] = out[first + i];
        w.rotate[i] = first + i < 2;
    }
    scd_code code = scd_cuda_product(device, a->wqkv, first, n, s->n, a->rows, false, s->y, err);
    if (code)
        return code;
    return device->bf16 ? write_rows<uint16_t>(device, a->rows, w, err)
                        : write_rows<float>(device, a->rows, w, err);
}

scd_code scd_cuda_qkv(scd_device *device, const scd_qkv_args *args, scd_error *err)
{
    scd_code code = scd_cuda_check_rows(device, args->rows, err);
    if (!code)
        code = scd_cuda_check_heads(args->hidden_dim, args->n_heads, err);
    if (!code)
        code = scd_gpu_enter(device->gpu, err);
    if (!code)
        code = rope_fill(device, args->hidden_dim / args->n_heads,
                         args->rope_theta > 0 ? args->rope_theta : 10000.0, err);
    qkv_space s;
    carve(device->scratch, args->rows, args->hidden_dim, device->act, &s);
    if (!code)
        code =
            scd_cuda_norm_act(device, args->h, args->norm, args->rows, args->hidden_dim, s.n, err);
    for (size_t first = 0, n; first < 3 && !code; first += n) {
        n = 1;
        if (!(args->parts & (1u << first)))
            continue;
        while (first + n < 3 && args->parts & (1u << (first + n)))
            n++;
        code = run_parts(device, args, &s, first, n, err);
    }
    return code;
}
