/* train_attention.cu - attention within each cell, backward, in fp32 on plain cores; forward is
 * op_attention.cu's.
 *
 *   S = scale Q K^T;  P = exp(S - lse);  O = P V
 *   delta = rowsum(dO O);  dP = dO V^T;  dS = P (dP - delta);
 *   dV = P^T dO;  dQ = scale dS K;  dK = scale dS^T Q
 * (Dao et al. 2022, FlashAttention, algorithms 1 and 4). Exponents are of 2. */
#include "engine/cuda/attention_f32.cuh"
#include "engine/cuda/train.h"

typedef struct attention_args {
    const uint32_t *cu; /* (cells + 1) */
    const float *qkv;   /* (R, 3 H) */
    const float *out, *dout, *delta, *lse;
    float *to; /* dqkv */
    size_t width, dim, tiles, heads, rows;
    float scale;
} attention_args;

/* Where a block works: rows [first, first + n) of the cell [start, end), columns from `col` on. */
typedef struct place {
    size_t first, start, end, col;
    int n;
} place;

template <int B> SCD_DEVICE place my_place(const attention_args &a)
{
    scd_query_tile at = scd_query_tile_at(blockIdx.x, a.tiles);
    place p;
    p.start = a.cu[at.cell];
    p.end = a.cu[at.cell + 1];
    p.first = p.start + at.tile * B;
    p.n = scd_rows_left(p.first, B, p.end);
    p.col = blockIdx.y * a.dim;
    return p;
}

/* delta (heads, R): dO times O of a row and head; a warp takes one. */
SCD_KERNEL row_deltas(attention_args a, float *delta)
{
    size_t at = (size_t)blockIdx.x * (THREADS / SCD_WARP) + threadIdx.x / SCD_WARP;
    size_t head = at % a.heads, row = at / a.heads, from = row * a.width + head * a.dim;
    float sum = 0.0f;
    if (row >= a.rows)
        return;
    for (size_t i = threadIdx.x % SCD_WARP; i < a.dim; i += SCD_WARP)
        sum += a.dout[from + i] * a.out[from + i];
    sum = gpu_warp_sum(sum);
    if (threadIdx.x % SCD_WARP == 0)
        delta[head * a.rows + row] = sum;
}

template <int D, int B> static size_t queries_bytes(void)
{
    return (4 * B * (D + 1) + B * (B + 1)) * sizeof(float);
}

/* dQ of B queries; keys and values come in tiles. */
template <int D, int B> SCD_KERNEL_OF(THREADS) backward_queries(attention_args a)
{
    const int R = B / GROUPS, C = B / GROUP, E = D / GROUP;
    float *q = (float *)gpu_shared(), *d = q + B * (D + 1), *k = d + B * (D + 1);
    float *v = k + B * (D + 1), *ds = v + B * (D + 1);
    place at = my_place<B>(a);
    int group = (int)threadIdx.x / GROUP, lane = (int)threadIdx.x % GROUP;
    size_t ld = 3 * a.width, mine = at.first + (size_t)(group * R), last = at.end - 1;
    float o[R][E], s[R][C], dp[R][C], lse[R], delta[R], scale[R];
    if (at.n == 0)
        return; /* the whole block */
    SCD_UNROLL
    for (int i = 0; i < R; i++) {
        size_t row = mine + (size_t)i < last ? mine + (size_t)i : last; /* what is not stored */
        lse[i] = LOG2_E * a.lse[blockIdx.y * a.rows + row];
        delta[i] = a.delta[blockIdx.y * a.rows + row];
        scale[i] = LN_2 * a.scale;
        SCD_UNROLL
        for (int e = 0; e < E; e++)
            o[i][e] = 0.0f;
    }
    load_tile<D, B>(a.qkv + at.first * ld + at.col, ld, a.dim, at.n, q);
    load_tile<D, B>(a.dout + at.first * a.width + at.col, a.width, a.dim, at.n, d);
    for (size_t row = at.start; row < at.end; row += B) {
        const float *from = a.qkv + row * ld + a.width + at.col;
        int left = scd_rows_left(row, B, at.end);
        gpu_sync_block(); /* the last tile is used up */
        load_tile<D, B>(from, ld, a.dim, left, k);
        load_tile<D, B>(from + a.width, ld, a.dim, left, v);
        gpu_sync_block();
        multiply_rows<D, R, C>(q + group * R * (D + 1), k + lane * (D + 1), s);
        multiply_rows<D, R, C>(d + group * R * (D + 1), v + lane * (D + 1), dp);
        SCD_UNROLL
        for (int i = 0; i < R; i++)
            SCD_UNROLL
        for (int j = 0; j < C; j++) {
            bool real = lane + j * GROUP < left;
            float p = real ? gpu_exp2(s[i][j] * a.scale - lse[i]) : 0.0f;
            ds[(group * R + i) * (B + 1) + lane + j * GROUP] = p * (dp[i][j] - delta[i]);
        }
        gpu_sync_warp(); /* a group's rows of ds are its own */
        gather_rows<D, B, R, E>(ds + group * R * (B + 1), k + lane, o);
    }
    store_rows<R, E>(o, scale, ld, a.dim, at.n, a.to + at.first * ld + at.col);
}

template <int D, int B> static size_t keys_bytes(void)
{
    return (4 * B * (D + 1) + 2 * B * (B + 1) + 2 * B) * sizeof(float);
}

/* What a block that makes dK and dV shares. */
typedef struct keys_shared {
    float *k, *v;        /* own (B, D + 1) */
    float *q, *d;        /* tile (B, D + 1): queries and dO */
    float *p, *ds;       /* (B, B + 1): own rows, the tile's columns */
    float *lse, *deltas; /* (B) of the tile's rows */
} keys_shared;

template <int D, int B> SCD_DEVICE keys_shared carve_keys(void)
{
    keys_shared s;
    s.k = (float *)gpu_shared();
    s.v = s.k + B * (D + 1);
    s.q = s.v + B * (D + 1);
    s.d = s.q + B * (D + 1);
    s.p = s.d + B * (D + 1);
    s.ds = s.p + B * (B + 1);
    s.lse = s.ds + B * (B + 1);
    s.deltas = s.lse + B;
    return s;
}

template <int D, int B>
SCD_DEVICE void load_queries(const attention_args &a, const place &at, size_t row, int left,
                             const keys_shared &t)
{
    load_tile<D, B>(a.qkv + row * 3 * a.width + at.col, 3 * a.width, a.dim, left, t.q);
    load_tile<D, B>(a.dout + row * a.width + at.col, a.width, a.dim, left, t.d);
    for (int i = (int)threadIdx.x; i < B; i += THREADS) {
        size_t from = blockIdx.y * a.rows + row + (size_t)i;
        t.lse[i] = i < left ? LOG2_E * a.lse[from] : 0.0f;
        t.deltas[i] = i < left ? a.delta[from] : 0.0f;
    }
}

/* dK and dV of B keys; queries and dO come in tiles. */
template <int D, int B> SCD_KERNEL_OF(THREADS) backward_keys(attention_args a)
{
    const int R = B / GROUPS, C = B / GROUP, E = D / GROUP;
    keys_shared t = carve_keys<D, B>();
    place at = my_place<B>(a);
    int group = (int)threadIdx.x / GROUP, lane = (int)threadIdx.x % GROUP;
    size_t ld = 3 * a.width;
    float dk[R][E], dv[R][E], s[R][C], dp[R][C], scale[R], one[R];
    if (at.n == 0)
        return; /* the whole block */
    SCD_UNROLL
    for (int i = 0; i < R; i++) {
        scale[i] = LN_2 * a.scale;
        one[i] = 1.0f;
        SCD_UNROLL
        for (int e = 0; e < E; e++)
            dk[i][e] = dv[i][e] = 0.0f;
    }
    const float *own = a.qkv + at.first * ld + a.width + at.col;
    load_tile<D, B>(own, ld, a.dim, at.n, t.k);
    load_tile<D, B>(own + a.width, ld, a.dim, at.n, t.v);
    for (size_t row = at.start; row < at.end; row += B) {
        int left = scd_rows_left(row, B, at.end);
        gpu_sync_block(); /* the last tile is used up */
        load_queries<D, B>(a, at, row, left, t);
        gpu_sync_block();
        multiply_rows<D, R, C>(t.k + group * R * (D + 1), t.q + lane * (D + 1), s);
        multiply_rows<D, R, C>(t.v + group * R * (D + 1), t.d + lane * (D + 1), dp);
        SCD_UNROLL
        for (int i = 0; i < R; i++)
            SCD_UNROLL
        for (int j = 0; j < C; j++) {
            int col = lane + j * GROUP, to = (group * R + i) * (B + 1) + col;
            float p = col < left ? gpu_exp2(s[i][j] * a.scale - t.lse[col]) : 0.0f;
            t.p[to] = p;
            t.ds[to] = p * (dp[i][j] - t.deltas[col]);
        }
        gpu_sync_warp(); /* a group's rows of p and ds are its own */
        gather_rows<D, B, R, E>(t.p + group * R * (B + 1), t.d + lane, dv);
        gather_rows<D, B, R, E>(t.ds + group * R * (B + 1), t.q + lane, dk);
    }
    float *to = a.to + at.first * ld + a.width + at.col;
    store_rows<R, E>(dk, scale, ld, a.dim, at.n, to);
    store_rows<R, E>(dv, one, ld, a.dim, at.n, to + a.width);
}

/* ---- launches ------------------------------------------------------------------------------ */

static size_t longest(const uint32_t *cu, size_t n_cells)
{
    size_t most = 0;
    for (size_t c = 0; c < n_cells; c++)
        most = cu[c + 1] - cu[c] > most ? cu[c + 1] - cu[c] : most;
    return most;
}

static attention_args args_of(const uint32_t *cu, size_t width, size_t heads, size_t rows,
                              const float *qkv)
{
    attention_args a = {};
    a.cu = cu;
    a.qkv = qkv;
    a.width = width;
    a.heads = heads;
    a.dim = width / heads;
    a.rows = rows;
    a.scale = (float)(M_LOG2E / sqrt((double)a.dim));
    return a;
}

template <int D, int B> static dim3 grid_of(attention_args *a, size_t n_cells, size_t most)
{
    a->tiles = scd_ceil_div(most, B);
    return dim3((unsigned)(n_cells * a->tiles), (unsigned)a->heads);
}

template <int D, int B>
static scd_code go_back(scd_device *device, attention_args a, size_t n_cells, size_t most,
                        scd_error *err)
{
    void (*queries)(attention_args) = backward_queries<D, B>;
    void (*keys)(attention_args) = backward_keys<D, B>;
    dim3 grid = grid_of<D, B>(&a, n_cells, most);
    size_t bytes = queries_bytes<D, B>(), more = keys_bytes<D, B>();
    scd_code code = SCD_LAUNCH_2D(device, err, queries, grid, THREADS, bytes, a);
    return code ? code : SCD_LAUNCH_2D(device, err, keys, grid, THREADS, more, a);
}

scd_code scd_t_cuda_attention(scd_device *device, const scd_t_attention *args, scd_error *err)
{
    size_t h = args->hidden_dim;
    scd_attention_f32 a = {};
    a.n_cells = args->n_cells;
    a.most = longest(args->host_cu_rows, args->n_cells);
    a.rows = args->host_cu_rows[args->n_cells];
    a.width = h;
    a.heads = args->n_heads;
    a.cu_q = a.cu_k = args->cu_rows;
    a.q = args->qkv;
    a.k = args->qkv + h;
    a.v = args->qkv + 2 * h;
    a.ld_q = a.ld_k = 3 * h;
    a.out = args->out;
    a.lse = args->lse;
    return scd_cuda_attention_f32(device, &a, err);
}

scd_code scd_t_cuda_attention_back(scd_device *device, const scd_t_attention_back *args,
                                   scd_error *err)
{
    size_t rows = args->host_cu_rows[args->n_cells];
    size_t most = longest(args->host_cu_rows, args->n_cells);
    attention_args a = args_of(args->cu_rows, args->hidden_dim, args->n_heads, rows, args->qkv);
    scd_code code = scd_cuda_check_heads(args->hidden_dim, args->n_heads, err);
    if (!code)
        code = scd_gpu_enter(device->gpu, err);
    if (!code)
        code = scd_cuda_scratch_want(device, a.heads * rows * sizeof(float), err);
    if (code)
        return code;
    float *delta = (float *)(void *)device->scratch;
    a.out = args->out;
    a.dout = args->dout;
    a.lse = args->lse;
    a.delta = delta;
    a.to = args->dqkv;
    code = SCD_LAUNCH(device, err, row_deltas, scd_ceil_div(a.heads * rows, THREADS / SCD_WARP),
                      THREADS, 0, a, delta);
    if (code)
        return code;
    if (a.dim <= 32)
        return go_back<32, 32>(device, a, args->n_cells, most, err);
    if (a.dim <= 64)
        return go_back<64, 32>(device, a, args->n_cells, most, err);
    return go_back<128, 16>(device, a, args->n_cells, most, err);
}
