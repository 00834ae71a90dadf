/* op_attention.cu - full attention within each cell; here in fp32, on plain cores.
 *
 * Online softmax (Milakov and Gimelshein, arXiv 1805.02867): keys are taken in tiles, in order; a
 * larger top scales what was summed before it. Exponents are of 2, the scale includes log2 e.
 *
 * A block is one head and QUERIES queries of a cell, QUERIES / WARPS of them for each warp. A lane
 * scores one key of a tile, then sums the columns lane, lane + 32, .. of its warp's outputs. What a
 * query gets depends on the keys of its cell alone, since tiles start at the cell's first key. */
#include "engine/cuda/gpu.cuh"

enum {
    WARPS = 4,
    THREADS = WARPS * SCD_WARP,
    EACH = 4, /* queries of a warp */
    QUERIES = WARPS * EACH,
    KEYS = SCD_WARP,
    COLS = SCD_CUDA_MAX_HEAD / SCD_WARP
};

typedef struct fp32_args {
    const uint32_t *cu_q, *cu_k; /* (cells + 1) */
    const float *q, *k, *v;      /* (rows, width) */
    float *out;
    size_t width, dim, tiles;
    float scale;
} fp32_args;

/* What a block shares. Rows of keys and values have dim + 1 floats, for the banks. */
typedef struct fp32_shared {
    float *q; /* (QUERIES, dim) */
    float *k; /* (KEYS, dim + 1) */
    float *v; /* (KEYS, dim + 1) */
    float *p; /* (QUERIES, KEYS) */
} fp32_shared;

SCD_DEVICE fp32_shared fp32_carve(size_t dim)
{
    fp32_shared s;
    s.q = (float *)gpu_shared();
    s.k = s.q + QUERIES * dim;
    s.v = s.k + KEYS * (dim + 1);
    s.p = s.v + KEYS * (dim + 1);
    return s;
}

static size_t fp32_bytes(size_t dim)
{
    return (QUERIES * dim + 2 * KEYS * (dim + 1) + QUERIES * KEYS) * sizeof(float);
}

/* `rows` rows of one head to shared rows `pitch` apart, zeros up to `all` rows. */
SCD_DEVICE void fp32_load(const float *from, size_t width, size_t dim, int rows, int all,
                          size_t pitch, float *to)
{
    for (size_t i = threadIdx.x; i < (size_t)all * dim; i += THREADS) {
        size_t r = i / dim, c = i % dim;
        to[r * pitch + c] = r < (size_t)rows ? from[r * width + c] : 0.0f;
    }
}

/* One query's state in a warp. */
typedef struct fp32_query {
    float top, total; /* total: this lane's keys */
    float o[COLS];    /* columns lane, lane + 32, .. */
} fp32_query;

/* The scores of `left` keys become weights at p (KEYS). */
SCD_DEVICE void fp32_weigh(fp32_query *u, const float *q, const float *k, size_t dim, int lane,
                           int left, float scale, float *p)
{
    float score = 0.0f;
    for (size_t i = 0; i < dim; i++)
        score += q[i] * k[i];
    if (lane >= left)
        score = -INFINITY;
    float top = fmaxf(u->top, gpu_warp_max(score));
    float shrink = gpu_exp2((u->top - top) * scale), weight = gpu_exp2((score - top) * scale);
    u->top = top;
    u->total = u->total * shrink + weight;
    for (int i = 0; i < COLS; i++)
        u->o[i] *= shrink;
    p[lane] = weight;
}

SCD_KERNEL attention_fp32(fp32_args a)
{
    scd_query_tile at = scd_query_tile_at(blockIdx.x, a.tiles);
    size_t head = blockIdx.y * a.dim, first = a.cu_q[at.cell] + at.tile * QUERIES;
    size_t k0 = a.cu_k[at.cell], n_k = a.cu_k[at.cell + 1] - k0;
    int n_q = scd_rows_left(first, QUERIES, a.cu_q[at.cell + 1]);
    int lane = (int)threadIdx.x % SCD_WARP, mine = (int)threadIdx.x / SCD_WARP * EACH;
    if (n_q == 0)
        return; /* the whole block */
    fp32_shared s = fp32_carve(a.dim);
    fp32_query u[EACH];
    for (int j = 0; j < EACH; j++) {
        u[j].top = -INFINITY;
        u[j].total = 0.0f;
        for (int i = 0; i < COLS; i++)
            u[j].o[i] = 0.0f;
    }
    fp32_load(a.q + first * a.width + head, a.width, a.dim, n_q, QUERIES, a.dim, s.q);
    for (size_t key = 0; key < n_k; key += KEYS) {
        int left = scd_rows_left(key, KEYS, n_k);
        size_t from = (k0 + key) * a.width + head;
        gpu_sync_block(); /* the last tile is used up */
        fp32_load(a.k + from, a.width, a.dim, left, KEYS, a.dim + 1, s.k);
        fp32_load(a.v + from, a.width, a.dim, left, KEYS, a.dim + 1, s.v);
        gpu_sync_block();
        for (int j = 0; j < EACH; j++)
            fp32_weigh(&u[j], s.q + (size_t)(mine + j) * a.dim, s.k + (size_t)lane * (a.dim + 1),
                       a.dim, lane, left, a.scale, s.p + (mine + j) * KEYS);
        gpu_sync_warp();
        for (int r = 0; r < left; r++)
            for (int i = 0; i < COLS; i++) {
                size_t col = (size_t)(lane + i * SCD_WARP);
                float v = col < a.dim ? s.v[(size_t)r * (a.dim + 1) + col] : 0.0f;
                for (int j = 0; j < EACH; j++)
                    u[j].o[i] += s.p[(mine + j) * KEYS + r] * v;
            }
    }
    for (int j = 0; j < EACH; j++) {
        float total = gpu_warp_sum(u[j].total);
        for (int i = 0; i < COLS; i++) {
            size_t col = (size_t)(lane + i * SCD_WARP);
            if (mine + j < n_q && col < a.dim)
                a.out[(first + (size_t)(mine + j)) * a.width + head + col] = u[j].o[i] / total;
        }
    }
}

static scd_code run_fp32(scd_device *device, const scd_attention_args *args, size_t most,
                         scd_error *err)
{
    fp32_args a = {};
    a.cu_q = args->cu_q;
    a.cu_k = args->cu_k;
    a.q = (const float *)args->q;
    a.k = (const float *)args->k;
    a.v = (const float *)args->v;
    a.out = (float *)args->out;
    a.width = args->hidden_dim;
    a.dim = args->hidden_dim / args->n_heads;
    a.tiles = scd_ceil_div(most, QUERIES);
    a.scale = (float)(M_LOG2E / sqrt((double)a.dim));
    dim3 grid((unsigned)(args->n_cells * a.tiles), (unsigned)args->n_heads);
    return SCD_LAUNCH_2D(device, err, attention_fp32, grid, THREADS, fp32_bytes(a.dim), a);
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
                        : run_fp32(device, args, most, err);
}
