/* op_attention_weights.cu - the weights of attention themselves, for some keys.
 *
 * A block is a row of a cell, its heads one after the other: threads go through all keys for the
 * largest score and the sum, then through those that are asked for. What is added to an element is
 * added by one thread in the order of heads. The sums so far come from the host and go back. */
#include "engine/cuda/gpu.cuh"

enum { THREADS = 128 };

typedef struct weights_args {
    const void *q, *k;    /* of the cell's first row */
    const uint32_t *keys; /* (n_keys) */
    float *out;           /* (rows, n_keys) */
    size_t rows, n_keys, width, dim, n_heads;
    uint64_t heads; /* bit a: head a is used */
    float share, scale;
} weights_args;

/* q (shared, dim) times key `key` of a head that starts at `col`, in powers of two. */
template <typename T>
SCD_DEVICE float score(const weights_args &a, const float *q, size_t key, size_t col)
{
    const T *k = (const T *)a.k + key * a.width + col;
    float sum = 0.0f;
    for (size_t i = 0; i < a.dim; i++)
        sum += q[i] * gpu_load(&k[i]);
    return sum * a.scale;
}

/* The largest and the sum of what threads have, the same for all. Shared: (THREADS) floats, free
 * again when all have passed the next barrier. */
SCD_DEVICE float block_max(float mine, float *shared)
{
    shared[threadIdx.x] = mine;
    gpu_sync_block();
    float top = shared[0];
    for (int t = 1; t < THREADS; t++)
        top = fmaxf(top, shared[t]);
    return top;
}

SCD_DEVICE float block_sum(float mine, float *shared)
{
    shared[threadIdx.x] = mine;
    gpu_sync_block();
    float sum = 0.0f;
    for (int t = 0; t < THREADS; t++)
        sum += shared[t];
    return sum;
}

/* Shared: (dim) the row's query, then (THREADS) twice. */
template <typename T> SCD_KERNEL_OF(THREADS) weigh_row(weights_args a)
{
    float *q = (float *)gpu_shared(), *tops = q + a.dim, *sums = tops + THREADS;
    float *out = a.out + blockIdx.x * a.n_keys;
    for (size_t head = 0; head < a.n_heads; head++) {
        size_t col = head * a.dim;
        if (!(a.heads >> head & 1))
            continue;
        gpu_sync_block(); /* the last head's query and sums are used up */
        for (size_t i = threadIdx.x; i < a.dim; i += THREADS)
            q[i] = gpu_load((const T *)a.q + blockIdx.x * a.width + col + i);
        gpu_sync_block();
        float top = -INFINITY, sum = 0.0f;
        for (size_t key = threadIdx.x; key < a.rows; key += THREADS)
            top = fmaxf(top, score<T>(a, q, key, col));
        top = block_max(top, tops);
        for (size_t key = threadIdx.x; key < a.rows; key += THREADS)
            sum += gpu_exp2(score<T>(a, q, key, col) - top);
        sum = block_sum(sum, sums);
        for (size_t i = threadIdx.x; i < a.n_keys; i += THREADS)
            out[i] += a.share * (gpu_exp2(score<T>(a, q, a.keys[i], col) - top) / sum);
    }
}

static scd_code check(const scd_attention_weights_args *a, scd_error *err)
{
    enum { MOST_HEADS = 64 };
    scd_code code = scd_cuda_check_heads(a->hidden_dim, a->n_heads, err);
    if (!code && a->n_heads > MOST_HEADS)
        code = scd_fail(err, SCD_E_INVALID, "%zu heads: at most %d", a->n_heads, (int)MOST_HEADS);
    for (size_t c = 0; c < a->n_cells && !code; c++)
        for (size_t i = a->cu_keys[c]; i < a->cu_keys[c + 1] && !code; i++)
            if (a->keys[i] >= a->host_cu_rows[c + 1] - a->host_cu_rows[c])
                code = scd_fail(err, SCD_E_INVALID, "key %u of %u rows", a->keys[i],
                                a->host_cu_rows[c + 1] - a->host_cu_rows[c]);
    return code;
}

static scd_code one_cell(scd_device *device, const scd_attention_weights_args *a, size_t cell,
                         const uint32_t *keys, float *out, scd_error *err)
{
    size_t n_used = 0, first = a->host_cu_rows[cell] * a->hidden_dim * device->act;
    weights_args w = {};
    w.q = (const char *)a->q + first;
    w.k = (const char *)a->k + first;
    w.keys = keys + a->cu_keys[cell];
    w.out = out;
    w.rows = a->host_cu_rows[cell + 1] - a->host_cu_rows[cell];
    w.n_keys = a->cu_keys[cell + 1] - a->cu_keys[cell];
    w.width = a->hidden_dim;
    w.n_heads = a->n_heads;
    w.dim = a->hidden_dim / a->n_heads;
    w.scale = (float)(M_LOG2E / sqrt((double)w.dim));
    for (size_t head = 0; head < a->n_heads; head++)
        if (a->use_heads[head]) {
            w.heads |= (uint64_t)1 << head;
            n_used++;
        }
    w.share = 1.0f / (float)(n_used ? n_used : 1);
    size_t shared = (w.dim + 2 * THREADS) * sizeof(float), rows = w.n_keys ? w.rows : 0;
    return device->bf16 ? SCD_LAUNCH(device, err, weigh_row<uint16_t>, rows, THREADS, shared, w)
                        : SCD_LAUNCH(device, err, weigh_row<float>, rows, THREADS, shared, w);
}

scd_code scd_cuda_attention_weights(scd_device *device, const scd_attention_weights_args *args,
                                    scd_error *err)
{
    size_t n_out = 0, used = 0, n_keys = args->cu_keys[args->n_cells];
    scd_code code = check(args, err);
    for (size_t c = 0; c < args->n_cells; c++)
        n_out += (size_t)(args->host_cu_rows[c + 1] - args->host_cu_rows[c]) *
                 (args->cu_keys[c + 1] - args->cu_keys[c]);
    if (code || !n_out)
        return code;
    scd_cuda_carve(NULL, &used, n_keys, sizeof *args->keys);
    code = scd_gpu_enter(device->gpu, err);
    if (!code)
        code = scd_cuda_scratch_want(device, used + n_out * sizeof(float), err);
    uint32_t *keys = (uint32_t *)(void *)device->scratch;
    float *out = (float *)(void *)(device->scratch + used), *at = out;
    if (!code)
        code = scd_cuda_upload(device, keys, args->keys, n_keys * sizeof *keys, err);
    if (!code)
        code = scd_cuda_upload(device, out, args->out, n_out * sizeof *out, err);
    for (size_t c = 0; c < args->n_cells && !code; c++) {
        code = one_cell(device, args, c, keys, at, err);
        at += (size_t)(args->host_cu_rows[c + 1] - args->host_cu_rows[c]) *
              (args->cu_keys[c + 1] - args->cu_keys[c]);
    }
    return code ? code : scd_cuda_download(device, args->out, out, n_out * sizeof *out, err);
}
