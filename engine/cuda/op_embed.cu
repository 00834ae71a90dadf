/* op_embed.cu - from gene ids and values to the first residual stream.
 *
 *   x = relu(w0 value + b0);  clean = (W2 x + b2) + E[id];  h[token] = input_proj(masked clean)
 *   mean of the pooled clean rows of each cell;  h[LAT] = MLP(mean)
 *
 * Products run over all rows: in [LAT] rows they multiply zeros, and what they leave in h there is
 * overwritten by the latent MLP, which comes last. The mean is pool.cuh's.
 *
 * Rows are made by warps, a lane taking W neighbours: four floats are one access of 16 bytes, and
 * fp32 is most of what moves. One where d or an address does not allow it; the bits are the same.
 */
#include "engine/cuda/gpu.cuh"
#include "engine/cuda/pool.cuh"

enum { THREADS = 256, WARPS = THREADS / SCD_WARP };

typedef struct embed_space {
    void *x;      /* (rows, d) act: relu(..), then the masked rows */
    void *mean;   /* (cells, d) act */
    float *y;     /* (cells, H): Linear(mean), then z */
    void *latent; /* (cells, H) act: relu(LayerNorm(..)) */
} embed_space;

static size_t carve(char *base, size_t rows, size_t cells, size_t d, size_t hidden_dim, size_t act,
                    embed_space *s)
{
    size_t used = 0;
    s->x = scd_cuda_carve(base, &used, rows * d, act);
    s->mean = scd_cuda_carve(base, &used, cells * d, act);
    s->y = (float *)scd_cuda_carve(base, &used, cells * hidden_dim, sizeof(float));
    s->latent = scd_cuda_carve(base, &used, cells * hidden_dim, act);
    return used;
}

size_t scd_cuda_embed_scratch(size_t rows, size_t d, size_t hidden_dim, size_t act)
{
    embed_space s;
    return carve(NULL, rows, rows, d, hidden_dim, act, &s);
}

typedef struct value_args {
    const float *values;  /* (rows) */
    const float *w0, *b0; /* (d) */
    size_t rows, d;
    void *x; /* (rows, d) act out */
} value_args;

/* x = relu(w0 value + b0) */
template <typename T, size_t W> SCD_KERNEL value_rows(value_args a)
{
    size_t row = (size_t)blockIdx.x * WARPS + threadIdx.x / SCD_WARP;
    if (row >= a.rows)
        return;
    float value = a.values[row];
    T *x = (T *)a.x + row * a.d;
    for (size_t i = threadIdx.x % SCD_WARP * W; i < a.d; i += SCD_WARP * W) {
        float w[W], b[W];
        gpu_load_pack<W>(a.w0 + i, w);
        gpu_load_pack<W>(a.b0 + i, b);
        SCD_UNROLL
        for (size_t k = 0; k < W; k++)
            w[k] = fmaxf(w[k] * value + b[k], 0.0f);
        gpu_store_pack<W>(x + i, w);
    }
}

template <size_t W>
SCD_DEVICE void load_table(const void *table, scd_dtype dtype, size_t at, float out[W])
{
    if (dtype == SCD_F32) {
        gpu_load_pack<W>((const float *)table + at, out);
        return;
    }
    const void *from = (const uint16_t *)table + at;
    gpu_pack<uint16_t, W> half = *(const gpu_pack<uint16_t, W> *)from;
    SCD_UNROLL
    for (size_t k = 0; k < W; k++)
        out[k] = dtype == SCD_BF16 ? scd_bf16_to_f32(half.v[k]) : scd_f16_to_f32(half.v[k]);
}

typedef struct token_args {
    const int32_t *ids;    /* (rows) */
    const uint8_t *hidden; /* (rows) */
    const void *table;     /* (vocab, d) */
    scd_dtype dtype;
    size_t vocab, rows, d;
    const float *value_mask, *gene_mask; /* (d) */
    float *clean;                        /* (rows, d): W2 x + b2 in, clean out */
    void *x;                             /* (rows, d) act out: masked clean, 0 in [LAT] rows */
    volatile uint32_t *fault;
} token_args;

/* seen = what the model sees in W columns of a row whose value, or gene and value, is hidden. */
template <size_t W>
SCD_DEVICE void mask_columns(const token_args &a, uint8_t hidden, size_t i, const float gene[W],
                             float seen[W])
{
    float mask[W], base[W] = {};
    gpu_load_pack<W>(a.value_mask + i, mask);
    if (hidden & SCD_HIDE_GENE)
        gpu_load_pack<W>(a.gene_mask + i, base);
    SCD_UNROLL
    for (size_t k = 0; k < W; k++)
        seen[k] = (hidden & SCD_HIDE_GENE ? base[k] : gene[k]) + mask[k];
}

template <typename T, size_t W> SCD_KERNEL token_rows(token_args a)
{
    size_t row = (size_t)blockIdx.x * WARPS + threadIdx.x / SCD_WARP;
    if (row >= a.rows)
        return;
    int32_t id = a.ids[row];
    uint8_t hidden = a.hidden[row] & (SCD_HIDE_GENE | SCD_HIDE_VALUE);
    float *clean = a.clean + row * a.d;
    T *x = (T *)a.x + row * a.d;
    bool lat = id < 0;
    if (!lat && (size_t)id >= a.vocab) {
        *a.fault = SCD_FAULT_ID;
        lat = true;
    }
    for (size_t i = threadIdx.x % SCD_WARP * W; i < a.d; i += SCD_WARP * W) {
        float gene[W] = {}, seen[W];
        gpu_load_pack<W>(clean + i, seen);
        if (!lat)
            load_table<W>(a.table, a.dtype, (size_t)id * a.d + i, gene);
        SCD_UNROLL
        for (size_t k = 0; k < W; k++)
            seen[k] += gene[k];
        gpu_store_pack<W>(clean + i, seen);
        if (hidden)
            mask_columns<W>(a, hidden, i, gene, seen);
        SCD_UNROLL
        for (size_t k = 0; k < W; k++)
            seen[k] = lat ? 0.0f : seen[k];
        gpu_store_pack<W>(x + i, seen);
    }
}

/* out = relu(LayerNorm(y)), a warp takes a row; the variance is biased, eps 1e-5. */
template <typename T>
SCD_KERNEL latent_norm(const float *y, const float *norm_w, const float *norm_b, size_t rows,
                       size_t width, T *out)
{
    size_t row = (size_t)blockIdx.x * WARPS + threadIdx.x / SCD_WARP;
    size_t lane = threadIdx.x % SCD_WARP;
    if (row >= rows)
        return;
    y += row * width;
    float sum = 0.0f, square = 0.0f;
    for (size_t i = lane; i < width; i += SCD_WARP)
        sum += y[i];
    float mean = gpu_warp_sum(sum) / (float)width;
    for (size_t i = lane; i < width; i += SCD_WARP) {
        float off = y[i] - mean;
        square += off * off;
    }
    float scale = 1.0f / sqrtf(gpu_warp_sum(square) / (float)width + 1e-5f);
    for (size_t i = lane; i < width; i += SCD_WARP)
        gpu_store(&out[row * width + i],
                  fmaxf((y[i] - mean) * scale * norm_w[i] + norm_b[i], 0.0f));
}

/* h[first row of cell c] = y[c] */
SCD_KERNEL latent_out(const float *y, const uint32_t *cu_rows, size_t width, float *h)
{
    y += blockIdx.x * width;
    h += cu_rows[blockIdx.x] * width;
    for (size_t i = threadIdx.x; i < width; i += THREADS)
        h[i] = y[i];
}

/* Do all rows of d start at multiples of 16 bytes? (x lies in scratch and does.) */
static bool is_wide(const scd_embed_args *a)
{
    return a->d % 4 == 0 && scd_cuda_aligned(a->value_w0) && scd_cuda_aligned(a->value_b0) &&
           scd_cuda_aligned(a->value_mask) && scd_cuda_aligned(a->gene_mask) &&
           scd_cuda_aligned(a->gene_embedding) && scd_cuda_aligned(a->clean);
}

template <typename T>
static scd_code tokens(scd_device *device, const scd_batch_rows *b, const scd_embed_args *a,
                       const embed_space *s, scd_error *err)
{
    token_args t = {};
    t.ids = b->ids;
    t.hidden = b->hidden;
    t.table = a->gene_embedding;
    t.dtype = a->gene_embedding_dtype;
    t.vocab = a->vocab;
    t.rows = b->n_rows;
    t.d = a->d;
    t.value_mask = a->value_mask;
    t.gene_mask = a->gene_mask;
    t.clean = a->clean;
    t.x = s->x;
    t.fault = device->fault;
    const value_args v = {b->values, a->value_w0, a->value_b0, b->n_rows, a->d, s->x};
    bool wide = is_wide(a);
    void (*make_values)(value_args) = wide ? value_rows<T, 4> : value_rows<T, 1>;
    void (*make_tokens)(token_args) = wide ? token_rows<T, 4> : token_rows<T, 1>;
    size_t blocks = scd_ceil_div(b->n_rows, WARPS);
    scd_code code = SCD_LAUNCH(device, err, make_values, blocks, THREADS, 0, v);
    if (!code)
        code = scd_cuda_product_bias(device, a->value_w2, s->x, b->n_rows, a->value_b2, false,
                                     a->clean, err);
    if (!code)
        code = SCD_LAUNCH(device, err, make_tokens, blocks, THREADS, 0, t);
    if (!code)
        code = scd_cuda_product(device, a->input_proj, 0, 1, s->x, b->n_rows, false, a->h, 0, err);
    return code;
}

template <typename T>
static scd_code latents(scd_device *device, const scd_batch_rows *b, const scd_embed_args *a,
                        const embed_space *s, scd_error *err)
{
    size_t n = b->n_cells, width = a->hidden_dim;
    dim3 pieces((unsigned)n, (unsigned)scd_ceil_div(a->d, SCD_WARP));
    scd_code code =
        SCD_LAUNCH_2D(device, err, pool_cells<T>, pieces, POOL_THREADS, POOL_SHARED, a->clean,
                      b->hidden, b->cu_rows, a->visible_pooling, a->d, (T *)s->mean);
    if (!code)
        code =
            scd_cuda_product_bias(device, a->latent_w0, s->mean, n, a->latent_b0, false, s->y, err);
    if (!code)
        code = SCD_LAUNCH(device, err, latent_norm<T>, scd_ceil_div(n, WARPS), THREADS, 0, s->y,
                          a->latent_norm_w, a->latent_norm_b, n, width, (T *)s->latent);
    if (!code)
        code = scd_cuda_product_bias(device, a->latent_w3, s->latent, n, a->latent_b3, false, s->y,
                                     err);
    if (!code)
        code = SCD_LAUNCH(device, err, latent_out, n, THREADS, 0, s->y, b->cu_rows, width, a->h);
    return code;
}

scd_code scd_cuda_embed(scd_device *device, const scd_batch_rows *batch, const scd_embed_args *args,
                        scd_error *err)
{
    scd_code code = scd_cuda_check_rows(device, batch->n_rows, err);
    if (!code)
        code = scd_gpu_enter(device->gpu, err);
    if (code || !batch->n_cells)
        return code;
    embed_space s;
    carve(device->scratch, batch->n_rows, batch->n_cells, args->d, args->hidden_dim, device->act,
          &s);
    code = device->bf16 ? tokens<uint16_t>(device, batch, args, &s, err)
                        : tokens<float>(device, batch, args, &s, err);
    if (!code)
        code = device->bf16 ? latents<uint16_t>(device, batch, args, &s, err)
                            : latents<float>(device, batch, args, &s, err);
    return code;
}
