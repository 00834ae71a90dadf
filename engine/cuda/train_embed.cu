/* train_embed.cu - from ids and values to tokens, forward and backward (SPEC 1.1 to 1.3).
 *
 * Rows go one a block; sums over rows in chunks whose parts are added in order; the mean of a cell
 * as in op_embed.cu. The gradient of the gene table: the host sorts the rows by gene, and a block
 * takes one gene and its rows in their order, so that no two blocks add to the same place. */
#include "engine/cuda/gene_order.h"
#include "engine/cuda/gpu.cuh"
#include "engine/cuda/pool.cuh"
#include "engine/cuda/train.h"

enum { THREADS = 256 };

/* ---- the value encoder's first layer ------------------------------------------------------- */

SCD_KERNEL value_rows(scd_t_value_in a)
{
    size_t row = blockIdx.x;
    bool lat = a.ids[row] < 0;
    float x = a.x[row];
    for (size_t i = threadIdx.x; i < a.d; i += THREADS)
        a.u[row * a.d + i] = lat ? 0.0f : fmaxf(x * a.w[i] + a.b[i], 0.0f);
}

/* parts (chunks, 2 d): dw, then db, of a chunk of rows; a thread takes a column. */
SCD_KERNEL value_parts(scd_t_value_in_back a, float *parts)
{
    size_t col = (size_t)blockIdx.x * THREADS + threadIdx.x;
    size_t first = (size_t)blockIdx.y * SCD_TRAIN_CHUNK;
    int n = scd_rows_left(first, SCD_TRAIN_CHUNK, a.rows);
    if (col >= a.d)
        return;
    float dw = 0.0f, db = 0.0f;
    for (size_t r = first; r < first + (size_t)n; r++) {
        bool through = a.ids[r] >= 0 && a.u[r * a.d + col] > 0.0f;
        float du = through ? a.du[r * a.d + col] : 0.0f;
        dw += a.x[r] * du;
        db += du;
    }
    parts[blockIdx.y * 2 * a.d + col] = dw;
    parts[(blockIdx.y * 2 + 1) * a.d + col] = db;
}

scd_code scd_t_cuda_value_in(scd_device *device, const scd_t_value_in *args, scd_error *err)
{
    scd_code code = scd_gpu_enter(device->gpu, err);
    return code ? code : SCD_LAUNCH(device, err, value_rows, args->rows, THREADS, 0, *args);
}

scd_code scd_t_cuda_value_in_back(scd_device *device, const scd_t_value_in_back *args,
                                  scd_error *err)
{
    size_t chunks = scd_ceil_div(args->rows, SCD_TRAIN_CHUNK), d = args->d;
    dim3 grid((unsigned)scd_ceil_div(d, THREADS), (unsigned)chunks);
    scd_code code = scd_gpu_enter(device->gpu, err);
    if (!code)
        code = scd_cuda_scratch_want(device, chunks * 2 * d * sizeof(float), err);
    float *parts = (float *)(void *)device->scratch;
    if (!code)
        code = SCD_LAUNCH_2D(device, err, value_parts, grid, THREADS, 0, *args, parts);
    if (!code)
        code = scd_cuda_add_parts(device, parts, chunks, 2 * d, d, args->dw, err);
    return code ? code : scd_cuda_add_parts(device, parts + d, chunks, 2 * d, d, args->db, err);
}

/* ---- tokens -------------------------------------------------------------------------------- */

SCD_KERNEL token_rows(scd_t_embed a, volatile uint32_t *fault)
{
    size_t row = blockIdx.x, d = a.t.d;
    int32_t id = a.t.ids[row];
    uint8_t hidden = a.t.hidden[row];
    bool lat = id < 0;
    if (!lat && (size_t)id >= a.t.vocab) {
        *fault = SCD_FAULT_ID;
        lat = true;
    }
    for (size_t i = threadIdx.x; i < d; i += THREADS) {
        float gene = lat ? 0.0f : a.table[(size_t)id * d + i];
        float whole = lat ? 0.0f : a.clean[row * d + i] + gene;
        float masked = hidden & SCD_HIDE_GENE    ? a.gene_mask[i] + a.value_mask[i]
                       : hidden & SCD_HIDE_VALUE ? gene + a.value_mask[i]
                                                 : whole;
        a.clean[row * d + i] = whole;
        a.tok[row * d + i] = lat ? 0.0f : masked;
    }
}

scd_code scd_t_cuda_embed(scd_device *device, const scd_t_embed *args, scd_error *err)
{
    const scd_t_tokens *t = &args->t;
    dim3 pieces((unsigned)t->n_cells, (unsigned)scd_ceil_div(t->d, SCD_WARP));
    scd_code code = scd_gpu_enter(device->gpu, err);
    if (!code)
        code = SCD_LAUNCH(device, err, token_rows, t->rows, THREADS, 0, *args, device->fault);
    return code ? code
                : SCD_LAUNCH_2D(device, err, pool_cells<float>, pieces, POOL_THREADS, POOL_SHARED,
                                args->clean, t->hidden, t->cu_rows, t->visible_pooling, t->d,
                                args->pooled);
}

/* ---- backward ------------------------------------------------------------------------------ */

SCD_DEVICE bool is_pooled(const scd_t_tokens &t, size_t row)
{
    return t.ids[row] >= 0 && (!t.visible_pooling || !t.hidden[row]);
}

/* share (C): 1 over the number of pooled rows of each cell, 0 without any; a warp takes a cell. */
SCD_KERNEL pooled_share(scd_t_tokens t, float *share)
{
    size_t cell = (size_t)blockIdx.x * (THREADS / SCD_WARP) + threadIdx.x / SCD_WARP;
    size_t lane = threadIdx.x % SCD_WARP;
    float n = 0.0f;
    if (cell >= t.n_cells)
        return;
    for (size_t r = t.cu_rows[cell] + lane; r < t.cu_rows[cell + 1]; r += SCD_WARP)
        n += is_pooled(t, r) ? 1.0f : 0.0f;
    n = gpu_warp_sum(n);
    if (lane == 0)
        share[cell] = n > 0.0f ? 1.0f / n : 0.0f;
}

/* dclean of a row: what comes from tok, and from the mean of its cell. */
SCD_KERNEL clean_rows(scd_t_embed_back a, const float *share)
{
    size_t row = blockIdx.x, d = a.t.d;
    size_t cell = scd_cell_of_row(a.t.cu_rows, a.t.n_cells, row);
    bool seen = a.t.ids[row] >= 0 && !a.t.hidden[row], pooled = is_pooled(a.t, row);
    float part = pooled ? share[cell] : 0.0f;
    for (size_t i = threadIdx.x; i < d; i += THREADS) {
        float x = seen ? a.dtok[row * d + i] : 0.0f;
        a.dclean[row * d + i] = pooled ? x + part * a.dpooled[cell * d + i] : x;
    }
}

/* parts (chunks, 2 d): dtok of rows whose gene is hidden, then of those whose value is. */
SCD_KERNEL mask_parts(scd_t_embed_back a, float *parts)
{
    size_t col = (size_t)blockIdx.x * THREADS + threadIdx.x, d = a.t.d;
    size_t first = (size_t)blockIdx.y * SCD_TRAIN_CHUNK;
    int n = scd_rows_left(first, SCD_TRAIN_CHUNK, a.t.rows);
    if (col >= d)
        return;
    float gene = 0.0f, value = 0.0f;
    for (size_t r = first; r < first + (size_t)n; r++) {
        float x = a.t.ids[r] >= 0 && a.t.hidden[r] ? a.dtok[r * d + col] : 0.0f;
        value += x;
        gene += a.t.hidden[r] & SCD_HIDE_GENE ? x : 0.0f;
    }
    parts[blockIdx.y * 2 * d + col] = gene;
    parts[(blockIdx.y * 2 + 1) * d + col] = value;
}

/* A block takes a gene. Its embedding is part of clean, and of tok where its value alone is hidden.
 */
SCD_KERNEL gene_rows(scd_t_embed_back a, const uint32_t *genes, const uint32_t *starts,
                     const uint32_t *rows)
{
    size_t d = a.t.d, end = starts[blockIdx.x + 1];
    float *to = a.dtable + genes[blockIdx.x] * d;
    for (size_t i = threadIdx.x; i < d; i += THREADS) {
        float sum = to[i];
        for (size_t at = starts[blockIdx.x]; at < end; at++) {
            size_t r = rows[at];
            uint8_t hidden = a.t.hidden[r];
            if (!hidden || is_pooled(a.t, r))
                sum += a.dclean[r * d + i];
            if (hidden && !(hidden & SCD_HIDE_GENE))
                sum += a.dtok[r * d + i];
        }
        to[i] = sum;
    }
}

static scd_code back_table(scd_device *device, const scd_t_embed_back *a, scd_error *err)
{
    scd_gene_order *o = &device->order;
    scd_code code = scd_gene_order_sort(o, a->t.host_ids, a->t.rows, a->t.vocab, err);
    if (!code)
        code = scd_cuda_scratch_want(device, o->n_words * sizeof *o->genes, err);
    uint32_t *genes = (uint32_t *)(void *)device->scratch;
    if (!code)
        code = scd_cuda_upload(device, genes, o->genes, o->n_words * sizeof *o->genes, err);
    return code ? code
                : SCD_LAUNCH(device, err, gene_rows, o->n_genes, THREADS, 0, *a, genes,
                             genes + (o->starts - o->genes), genes + (o->rows - o->genes));
}

static scd_code back_masks(scd_device *device, const scd_t_embed_back *a, scd_error *err)
{
    size_t chunks = scd_ceil_div(a->t.rows, SCD_TRAIN_CHUNK), d = a->t.d;
    dim3 grid((unsigned)scd_ceil_div(d, THREADS), (unsigned)chunks);
    scd_code code = scd_cuda_scratch_want(device, chunks * 2 * d * sizeof(float), err);
    float *parts = (float *)(void *)device->scratch;
    if (!code)
        code = SCD_LAUNCH_2D(device, err, mask_parts, grid, THREADS, 0, *a, parts);
    if (!code && a->dgene_mask)
        code = scd_cuda_add_parts(device, parts, chunks, 2 * d, d, a->dgene_mask, err);
    if (!code && a->dvalue_mask)
        code = scd_cuda_add_parts(device, parts + d, chunks, 2 * d, d, a->dvalue_mask, err);
    return code;
}

scd_code scd_t_cuda_embed_back(scd_device *device, const scd_t_embed_back *args, scd_error *err)
{
    const scd_t_tokens *t = &args->t;
    size_t blocks = scd_ceil_div(t->n_cells, THREADS / SCD_WARP);
    scd_code code = scd_gpu_enter(device->gpu, err);
    if (!code)
        code = scd_cuda_scratch_want(device, t->n_cells * sizeof(float), err);
    float *share = (float *)(void *)device->scratch;
    if (!code)
        code = SCD_LAUNCH(device, err, pooled_share, blocks, THREADS, 0, *t, share);
    if (!code)
        code = SCD_LAUNCH(device, err, clean_rows, t->rows, THREADS, 0, *args, share);
    if (!code)
        code = back_masks(device, args, err);
    return code || !args->dtable ? code : back_table(device, args, err);
}
