/* op_attention.cu - full attention within each cell; here in fp32, on plain cores, for inference
 * and training alike.
 *
 *   S = scale Q K^T;  O = softmax(S) V
 * by online softmax (Milakov and Gimelshein, arXiv 1805.02867): keys are taken in tiles, in order;
 * a larger top scales what was summed before it. Exponents are of 2. What a query gets depends on
 * the keys of its cell alone, since tiles start at the cell's first key. */
#include "engine/cuda/attention_f32.cuh"

template <int D, int B> static size_t forward_bytes(void)
{
    return (3 * B * (D + 1) + B * (B + 1)) * sizeof(float);
}

/* Raw scores become weights; what was summed shrinks to the new top. */
template <int R, int C, int E>
SCD_DEVICE void soften(float scale, int left, float s[R][C], float top[R], float total[R],
                       float o[R][E])
{
    int lane = (int)threadIdx.x % GROUP;
    SCD_UNROLL
    for (int i = 0; i < R; i++) {
        float most = top[i];
        SCD_UNROLL
        for (int j = 0; j < C; j++) {
            s[i][j] = lane + j * GROUP < left ? s[i][j] * scale : -INFINITY;
            most = fmaxf(most, s[i][j]);
        }
        most = group_max(most);
        float shrink = gpu_exp2(top[i] - most);
        top[i] = most;
        total[i] *= shrink;
        SCD_UNROLL
        for (int e = 0; e < E; e++)
            o[i][e] *= shrink;
        SCD_UNROLL
        for (int j = 0; j < C; j++)
            total[i] += s[i][j] = gpu_exp2(s[i][j] - most);
    }
}

typedef struct forward_args {
    scd_attention_f32 a;
    size_t tiles, dim;
    float scale; /* log2 e / sqrt(dim) */
} forward_args;

template <int D, int B> SCD_KERNEL_OF(THREADS) attention_f32(forward_args args)
{
    const int R = B / GROUPS, C = B / GROUP, E = D / GROUP;
    const scd_attention_f32 &a = args.a;
    float *q = (float *)gpu_shared(), *k = q + B * (D + 1), *v = k + B * (D + 1);
    float *p = v + B * (D + 1);
    scd_query_tile at = scd_query_tile_at(blockIdx.x, args.tiles);
    size_t first = a.cu_q[at.cell] + at.tile * B, col = blockIdx.y * args.dim;
    size_t end = a.cu_k[at.cell + 1];
    int n = scd_rows_left(first, B, a.cu_q[at.cell + 1]);
    int group = (int)threadIdx.x / GROUP, lane = (int)threadIdx.x % GROUP;
    float o[R][E], top[R], total[R], s[R][C];
    if (n == 0)
        return; /* the whole block */
    SCD_UNROLL
    for (int i = 0; i < R; i++) {
        top[i] = -INFINITY;
        total[i] = 0.0f;
        SCD_UNROLL
        for (int e = 0; e < E; e++)
            o[i][e] = 0.0f;
    }
    load_tile<D, B>(a.q + first * a.ld_q + col, a.ld_q, args.dim, n, q);
    for (size_t row = a.cu_k[at.cell]; row < end; row += B) {
        int left = scd_rows_left(row, B, end);
        gpu_sync_block(); /* the last tile is used up */
        load_tile<D, B>(a.k + row * a.ld_k + col, a.ld_k, args.dim, left, k);
        load_tile<D, B>(a.v + row * a.ld_k + col, a.ld_k, args.dim, left, v);
        gpu_sync_block();
        multiply_rows<D, R, C>(q + group * R * (D + 1), k + lane * (D + 1), s);
        soften<R, C, E>(args.scale, left, s, top, total, o);
        SCD_UNROLL
        for (int i = 0; i < R; i++)
            SCD_UNROLL
        for (int j = 0; j < C; j++)
            p[(group * R + i) * (B + 1) + lane + j * GROUP] = s[i][j];
        gpu_sync_warp(); /* a group's rows of p are its own */
        gather_rows<D, B, R, E>(p + group * R * (B + 1), v + lane, o);
    }
    SCD_UNROLL
    for (int i = 0; i < R; i++) {
        float sum = group_sum(total[i]);
        size_t row = first + (size_t)(group * R + i);
        if (a.lse && group * R + i < n && lane == 0)
            a.lse[blockIdx.y * a.rows + row] = LN_2 * (top[i] + log2f(sum));
        total[i] = sum > 0.0f ? 1.0f / sum : 0.0f;
    }
    store_rows<R, E>(o, total, a.width, args.dim, n, a.out + first * a.width + col);
}

template <int D, int B>
static scd_code launch(scd_device *device, const scd_attention_f32 *a, size_t dim, scd_error *err)
{
    void (*kernel)(forward_args) = attention_f32<D, B>;
    forward_args args = {*a, scd_ceil_div(a->most, B), dim, (float)(M_LOG2E / sqrt((double)dim))};
    dim3 grid((unsigned)(a->n_cells * args.tiles), (unsigned)a->heads);
    size_t bytes = forward_bytes<D, B>();
    return SCD_LAUNCH_2D(device, err, kernel, grid, THREADS, bytes, args);
}

scd_code scd_cuda_attention_f32(scd_device *device, const scd_attention_f32 *args, scd_error *err)
{
    scd_code code = scd_cuda_check_heads(args->width, args->heads, err);
    if (!code)
        code = scd_gpu_enter(device->gpu, err);
    if (code)
        return code;
    size_t dim = args->width / args->heads;
    if (dim <= 32)
        return launch<32, 32>(device, args, dim, err);
    if (dim <= 64)
        return launch<64, 32>(device, args, dim, err);
    return launch<128, 16>(device, args, dim, err);
}

static scd_code plain(scd_device *device, const scd_attention_args *args, size_t most,
                      scd_error *err)
{
    scd_attention_f32 a = {};
    a.n_cells = args->n_cells;
    a.most = most;
    a.width = args->hidden_dim;
    a.heads = args->n_heads;
    a.cu_q = args->cu_q;
    a.cu_k = args->cu_k;
    a.q = (const float *)args->q;
    a.k = (const float *)args->k;
    a.v = (const float *)args->v;
    a.ld_q = a.ld_k = args->hidden_dim;
    a.out = (float *)args->out;
    return scd_cuda_attention_f32(device, &a, err);
}

scd_code scd_cuda_attention(scd_device *device, const scd_attention_args *args, scd_error *err)
{
    size_t most = 0;
    for (size_t c = 0; c < args->n_cells; c++) {
        size_t n_q = args->host_cu_q[c + 1] - args->host_cu_q[c];
        most = n_q > most ? n_q : most;
    }
    scd_code code = scd_cuda_check_heads(args->hidden_dim, args->n_heads, err);
    if (!code)
        code = scd_gpu_enter(device->gpu, err);
    if (code)
        return code;
    return device->bf16 ? scd_cuda_attention_bf16(device, args, most, err)
                        : plain(device, args, most, err);
}
