/* op_embed.c - from ids and values to the first residual stream, in three passes:
 *
 *   row tiles   clean = E[id] + W2 relu(w0 x + b0) + b2; h = input_proj(masked clean)
 *   cells       mean of the pooled clean rows
 *   cell tiles  z = MLP(mean), to the cells' [LAT] rows of h
 *
 * The mean lies in the [LAT] rows of `clean`, which nothing else uses. Its sum runs over the cell's
 * rows in order, in blocks of BLOCK rows to keep the rounding small: neither batch nor threads can
 * change it. */
#include "engine/cpu/cpu.h"

#include <string.h>

enum { BLOCK = 32, POOL_COLS = 128 };

typedef struct job {
    scd_device *device;
    const scd_batch_rows *b;
    const scd_embed_args *a;
    scd_tiles tiles;
    scd_cursor cursor;
} job;

typedef struct space {
    void *x;    /* (tile, max(d, H)) act */
    float *y;   /* (tile, max(d, H) rounded up) */
    float *row; /* (d) */
} space;

static size_t carve(char *base, size_t d, size_t hidden_dim, space *s)
{
    size_t used = 0;
    size_t wide = d > hidden_dim ? d : hidden_dim;
    s->x = scd_carve(base, &used, SCD_TILE_ROWS * wide, sizeof(float));
    s->y = scd_carve(base, &used, SCD_TILE_ROWS * (wide + 16), sizeof(float));
    s->row = scd_carve(base, &used, d, sizeof(float));
    return used;
}

size_t scd_embed_scratch(size_t d, size_t hidden_dim)
{
    space s;
    return carve(NULL, d, hidden_dim, &s);
}

static void table_row(const job *j, int32_t id, float *out)
{
    const scd_embed_args *a = j->a;
    size_t row_bytes = a->d * scd_dtype_bytes(a->gene_embedding_dtype);
    j->device->kernels->to_f32((const char *)a->gene_embedding + (size_t)id * row_bytes,
                               a->gene_embedding_dtype, a->d, out);
}

/* clean of one row from y = W2 relu(...), and its masked form as act. */
static void token_row(const job *j, const space *s, size_t row, const float *y, void *x)
{
    const scd_embed_args *a = j->a;
    const scd_kernels *kernels = j->device->kernels;
    float *clean = a->clean + row * a->d;
    table_row(j, j->b->ids[row], s->row);
    kernels->add(y, a->value_b2, a->d, clean);
    kernels->add(clean, s->row, a->d, clean);
    if (j->b->hidden[row] & SCD_HIDE_GENE)
        kernels->add_act(a->gene_mask, a->value_mask, a->d, x);
    else if (j->b->hidden[row] & SCD_HIDE_VALUE)
        kernels->add_act(s->row, a->value_mask, a->d, x);
    else
        kernels->store(clean, a->d, x);
}

static scd_code token_tile(job *j, int thread, const space *s, size_t first, size_t n)
{
    const scd_embed_args *a = j->a;
    const scd_batch_rows *b = j->b;
    const scd_kernels *kernels = j->device->kernels;
    size_t x_bytes = a->d * kernels->act_bytes;
    for (size_t r = 0; r < n; r++)
        kernels->value_in(b->values[first + r], a->value_w0, a->value_b0, a->d,
                          (char *)s->x + r * x_bytes);
    scd_code code = scd_product_part(j->device, thread, a->value_w2, 0, s->x, n, s->y);
    if (code)
        return code;
    for (size_t r = 0; r < n; r++)
        if (b->ids[first + r] >= 0)
            token_row(j, s, first + r, s->y + r * a->value_w2->wide, (char *)s->x + r * x_bytes);
    code = scd_product_part(j->device, thread, a->input_proj, 0, s->x, n, s->y);
    for (size_t r = 0; r < n && !code; r++)
        if (b->ids[first + r] >= 0)
            memcpy(a->h + (first + r) * a->hidden_dim, s->y + r * a->input_proj->wide,
                   a->hidden_dim * sizeof *a->h);
    return code;
}

static void token_body(void *arg, int thread)
{
    job *j = arg;
    space s;
    carve(j->device->scratch[thread].memory, j->a->d, j->a->hidden_dim, &s);
    for (size_t first, n; scd_tiles_take(&j->tiles, &first, &n);) {
        scd_code code = token_tile(j, thread, &s, first, n);
        if (code)
            atomic_store(&j->tiles.failed, (int)code);
    }
}

/* Columns col .. col + n of a cell's mean, into its [LAT] row. */
static void pool_columns(const job *j, size_t cell, size_t col, size_t n)
{
    const scd_embed_args *a = j->a;
    const scd_batch_rows *b = j->b;
    const scd_kernels *kernels = j->device->kernels;
    size_t first = b->host_cu_rows[cell], end = b->host_cu_rows[cell + 1], pooled = 0;
    float block[POOL_COLS], *mean = a->clean + first * a->d + col;
    memset(mean, 0, n * sizeof *mean);
    for (size_t at = first + 1; at < end; at += BLOCK) {
        memset(block, 0, sizeof block);
        for (size_t r = at; r < at + BLOCK && r < end; r++) {
            if (a->visible_pooling && b->hidden[r])
                continue;
            kernels->add(block, a->clean + r * a->d + col, n, block);
            pooled++;
        }
        kernels->add(mean, block, n, mean);
    }
    if (pooled)
        kernels->scale(mean, 1.0f / (float)pooled, n);
}

static void pool_body(void *arg, int thread)
{
    (void)thread;
    job *j = arg;
    size_t d = j->a->d, pieces = (d + POOL_COLS - 1) / POOL_COLS, n = j->b->n_cells * pieces;
    for (size_t task; (task = scd_cursor_take(&j->cursor, n)) < n;) {
        size_t col = task % pieces * POOL_COLS;
        pool_columns(j, task / pieces, col, d - col < POOL_COLS ? d - col : POOL_COLS);
    }
}

static scd_code latent_tile(job *j, int thread, const space *s, size_t first, size_t n)
{
    const scd_embed_args *a = j->a;
    const scd_kernels *kernels = j->device->kernels;
    const uint32_t *lat = j->b->host_cu_rows + first;
    size_t act = kernels->act_bytes;
    for (size_t c = 0; c < n; c++)
        kernels->store(a->clean + lat[c] * a->d, a->d, (char *)s->x + c * a->d * act);
    scd_code code = scd_product_part(j->device, thread, a->latent_w0, 0, s->x, n, s->y);
    if (code)
        return code;
    for (size_t c = 0; c < n; c++)
        kernels->layer_norm_relu(s->y + c * a->latent_w0->wide, a->latent_b0, a->latent_norm_w,
                                 a->latent_norm_b, a->hidden_dim,
                                 (char *)s->x + c * a->hidden_dim * act);
    code = scd_product_part(j->device, thread, a->latent_w3, 0, s->x, n, s->y);
    for (size_t c = 0; c < n && !code; c++)
        kernels->add(s->y + c * a->latent_w3->wide, a->latent_b3, a->hidden_dim,
                     a->h + lat[c] * a->hidden_dim);
    return code;
}

static void latent_body(void *arg, int thread)
{
    job *j = arg;
    space s;
    carve(j->device->scratch[thread].memory, j->a->d, j->a->hidden_dim, &s);
    for (size_t first, n; scd_tiles_take(&j->tiles, &first, &n);) {
        scd_code code = latent_tile(j, thread, &s, first, n);
        if (code)
            atomic_store(&j->tiles.failed, (int)code);
    }
}

scd_code scd_cpu_embed(scd_device *device, const scd_batch_rows *batch, const scd_embed_args *args,
                       scd_error *err)
{
    for (size_t r = 0; r < batch->n_rows; r++)
        if (batch->ids[r] >= (int64_t)args->vocab)
            return scd_fail(err, SCD_E_INVALID, "gene id %d in a vocabulary of %zu",
                            (int)batch->ids[r], args->vocab);
    job j = {.device = device, .b = batch, .a = args};
    scd_tiles_init(&j.tiles, batch->n_rows, device->threads);
    scd_pool_run(device->pool, token_body, &j);
    scd_code code = scd_tiles_end(&j.tiles, err);
    if (code)
        return code;
    scd_cursor_init(&j.cursor);
    scd_pool_run(device->pool, pool_body, &j);
    scd_tiles_init(&j.tiles, batch->n_cells, device->threads);
    scd_pool_run(device->pool, latent_body, &j);
    return scd_tiles_end(&j.tiles, err);
}
