/* forward_pass.c - see forward.h: a batch from its cells to the states that are wanted.
 *
 * Batches are staged in one host block and uploaded in one copy. */
#include "engine/model/forward_impl.h"

#include <string.h>

/* Row `row` of the cell's tokens and [LAT] on the host; which of them are wanted, from *n_want on.
 */
static void stage_cell(scd_forward *f, const scd_forward_cell *cell, size_t row, size_t *n_want)
{
    staging *s = &f->host;
    size_t n = cell->n_tokens;
    s->ids[row] = -1;
    s->values[row] = 0;
    s->hidden[row] = 0;
    memcpy(s->ids + row + 1, cell->ids, n * sizeof *s->ids);
    memcpy(s->values + row + 1, cell->values, n * sizeof *s->values);
    if (cell->hidden)
        memcpy(s->hidden + row + 1, cell->hidden, n);
    else
        memset(s->hidden + row + 1, 0, n);
    for (size_t i = 0; i <= n; i++) {
        s->pos[row + i] = (uint32_t)i;
        if (i ? cell->wanted && cell->wanted[i - 1] : !cell->wanted) {
            s->want[*n_want] = (uint32_t)(row + i);
            s->wpos[(*n_want)++] = (uint32_t)i;
        }
    }
}

enum { NO_SLOT = -1 };

/* A pass over a batch that lies on the device. */
typedef struct pass {
    scd_forward *f;
    scd_batch_rows batch;
    size_t n_want;
    scd_pooling pooling;
    int slot;      /* whose memory it uses; NO_SLOT: the forward's own */
    float *states; /* device: where the wanted states go */
    bool small;    /* padded to this bucket */
    scd_bucket bucket;
} pass;

/* Rows of all cells, and whether [LAT]'s states are all that is wanted. */
static scd_code count_rows(const scd_forward *f, const scd_forward_cell *cells, size_t n_cells,
                           size_t *rows, bool *latents_alone, scd_error *err)
{
    *rows = 0;
    *latents_alone = true;
    for (size_t c = 0; c < n_cells; c++) {
        if (!cells[c].n_tokens)
            return scd_fail(err, SCD_E_INVALID, "cell %zu of the batch has no tokens", c);
        if (cells[c].n_tokens + 1 > f->max_rows - *rows)
            return scd_fail(err, SCD_E_TOO_LARGE, "a batch holds at most %zu rows", f->max_rows);
        *rows += cells[c].n_tokens + 1;
        *latents_alone = *latents_alone && !cells[c].wanted;
    }
    return SCD_OK;
}

/* Behind `row` and cell n_cells: rows of no cell, and cells without rows whose [LAT] state is
 * wanted. Nobody looks at what they give. */
static void pad(scd_forward *f, size_t row, size_t n_cells, const scd_bucket *to)
{
    staging *s = &f->host;
    for (size_t c = n_cells; c < to->cells; c++) {
        s->cu_rows[c + 1] = s->want[c] = (uint32_t)row;
        s->cu_want[c + 1] = (uint32_t)(c + 1);
        s->wpos[c] = 0;
    }
    for (; row < to->rows; row++) {
        s->ids[row] = -1;
        s->values[row] = 0;
        s->hidden[row] = 0;
        s->pos[row] = 0;
    }
    for (size_t c = 1; c <= to->cells; c++)
        f->recorded_cu[c] = (uint32_t)to->rows;
}

/* What makes recorded passes differ besides their size. */
static size_t kind_of(const pass *p)
{
    return (size_t)p->pooling * (1 + SCD_SLOTS) + (size_t)(p->slot - NO_SLOT);
}

/* Lay the cells out as rows on the host and copy the description to the device. `plain`: as they
 * are, else padded to a bucket where there is one for them. */
static scd_code stage(pass *p, const scd_forward_cell *cells, size_t n_cells, bool plain,
                      scd_error *err)
{
    scd_forward *f = p->f;
    staging *s = &f->host;
    size_t row = 0, rows;
    bool latents_alone;
    scd_code code = count_rows(f, cells, n_cells, &rows, &latents_alone, err);
    if (code)
        return code;
    p->small = !plain && latents_alone &&
               scd_recorded_bucket(f->be, rows, n_cells, kind_of(p), f->max_rows, &p->bucket);
    rows = p->small ? p->bucket.rows : rows;
    size_t bytes = scd_forward_carve_staging(f->host_block, rows, s);
    void *block = p->slot == NO_SLOT ? f->device_block : f->slot_block[p->slot];
    scd_forward_carve_staging(block, rows, &f->dev);
    for (size_t c = 0; c < n_cells; c++) {
        s->cu_rows[c] = (uint32_t)row;
        s->cu_want[c] = (uint32_t)p->n_want;
        stage_cell(f, &cells[c], row, &p->n_want);
        row += cells[c].n_tokens + 1;
    }
    s->cu_rows[n_cells] = (uint32_t)row;
    s->cu_want[n_cells] = (uint32_t)p->n_want;
    if (p->small) {
        pad(f, row, n_cells, &p->bucket);
        n_cells = p->n_want = p->bucket.cells;
    }
    p->batch = (scd_batch_rows){.n_cells = n_cells,
                                .n_tokens = rows - n_cells,
                                .n_rows = rows,
                                .cu_rows = f->dev.cu_rows,
                                .host_cu_rows = p->small ? f->recorded_cu : s->cu_rows,
                                .ids = f->dev.ids,
                                .values = f->dev.values,
                                .hidden = f->dev.hidden,
                                .pos = f->dev.pos};
    return p->slot == NO_SLOT
               ? f->be->upload(f->device, block, f->host_block, bytes, err)
               : f->be->slot_begin(f->device, p->slot, block, f->host_block, bytes, err);
}

static scd_code embed_rows(scd_forward *f, const scd_batch_rows *batch, scd_pooling pooling,
                           scd_error *err)
{
    scd_embed_args args = {
        .gene_embedding = f->gene_embedding,
        .gene_embedding_dtype = f->gene_embedding_dtype,
        .d = f->c.d,
        .hidden_dim = f->c.hidden_dim,
        .vocab = f->c.vocab,
        .value_w0 = f->value_w0,
        .value_b0 = f->value_b0,
        .value_w2 = f->value_w2,
        .value_b2 = f->value_b2,
        .value_mask = f->value_mask,
        .gene_mask = f->gene_mask,
        .input_proj = f->input_proj,
        .latent_w0 = f->latent_w0,
        .latent_b0 = f->latent_b0,
        .latent_norm_w = f->latent_norm_w,
        .latent_norm_b = f->latent_norm_b,
        .latent_w3 = f->latent_w3,
        .latent_b3 = f->latent_b3,
        .visible_pooling = pooling == SCD_POOL_VISIBLE,
        .clean = f->clean,
        .h = f->h,
    };
    return f->be->embed(f->device, batch, &args, err);
}

/* Queries of the last layer, whose wanted rows move to f->h_want, where the result stays. */
static scd_code wanted_queries(scd_forward *f, const scd_qkv_args *all, size_t n_want,
                               scd_error *err)
{
    scd_qkv_args q = *all;
    q.rows = n_want;
    q.h = f->h_want;
    q.pos = f->dev.wpos;
    q.parts = SCD_PART_Q;
    q.q = f->q;
    q.k = q.v = NULL;
    scd_code code =
        f->be->gather_rows(f->device, f->h, f->dev.want, n_want, f->c.hidden_dim, f->h_want, err);
    return code ? code : f->be->qkv(f->device, &q, err);
}

static scd_qkv_args qkv_of(const scd_forward *f, const layer *l, const scd_batch_rows *batch,
                           unsigned parts)
{
    return (scd_qkv_args){.rows = batch->n_rows,
                          .hidden_dim = f->c.hidden_dim,
                          .n_heads = f->c.n_heads,
                          .rope_theta = f->c.rope_theta,
                          .h = f->h,
                          .norm = l->norm1,
                          .wqkv = l->qkv,
                          .pos = batch->pos,
                          .parts = parts,
                          .q = parts & SCD_PART_Q ? f->q : NULL,
                          .k = f->k,
                          .v = f->v};
}

/* What follows queries, keys and values; of the last block n_want rows alone. */
static scd_code attend(scd_forward *f, const layer *l, const scd_batch_rows *batch, bool last,
                       size_t n_want, scd_error *err)
{
    scd_attention_args att = {.n_cells = batch->n_cells,
                              .hidden_dim = f->c.hidden_dim,
                              .n_heads = f->c.n_heads,
                              .cu_q = last ? f->dev.cu_want : batch->cu_rows,
                              .cu_k = batch->cu_rows,
                              .host_cu_q = last ? f->host.cu_want : batch->host_cu_rows,
                              .host_cu_k = batch->host_cu_rows,
                              .q = f->q,
                              .k = f->k,
                              .v = f->v,
                              .out = f->att};
    scd_block_out_args out = {.rows = last ? n_want : batch->n_rows,
                              .hidden_dim = f->c.hidden_dim,
                              .ffn_dim = f->c.ffn_dim,
                              .h = last ? f->h_want : f->h,
                              .att = f->att,
                              .wo = l->o,
                              .norm2 = l->norm2,
                              .wgate_up = l->gate_up,
                              .wdown = l->down};
    scd_code code = f->be->attention(f->device, &att, err);
    return code ? code : f->be->block_out(f->device, &out, err);
}

/* One block; the last one computes n_want rows alone. */
static scd_code run_layer(scd_forward *f, const layer *l, const scd_batch_rows *batch, bool last,
                          size_t n_want, scd_error *err)
{
    unsigned parts = SCD_PART_K | SCD_PART_V | (last ? 0 : SCD_PART_Q);
    scd_qkv_args qkv = qkv_of(f, l, batch, parts);
    scd_code code = f->be->qkv(f->device, &qkv, err);
    if (!code && last)
        code = wanted_queries(f, &qkv, n_want, err);
    return code ? code : attend(f, l, batch, last, n_want, err);
}

static scd_code run_pass(void *arg, scd_error *err)
{
    const pass *p = arg;
    scd_forward *f = p->f;
    scd_code code = embed_rows(f, &p->batch, p->pooling, err);
    for (size_t i = 0; i < f->c.n_layers && !code; i++)
        code = run_layer(f, &f->layers[i], &p->batch, i + 1 == f->c.n_layers, p->n_want, err);
    return code ? code
                : f->be->rms_norm(f->device, f->h_want, f->final_norm, p->n_want, f->c.hidden_dim,
                                  p->states, err);
}

static scd_code run_staged(pass *p, scd_error *err)
{
    scd_forward *f = p->f;
    return p->small ? scd_recorded_run(&f->recorded, f->be, f->device, &p->bucket, run_pass, p, err)
                    : run_pass(p, err);
}

scd_code scd_forward_pass(scd_forward *f, const scd_forward_cell *cells, size_t n_cells,
                          scd_pooling pooling, const float **out, scd_error *err)
{
    pass p = {.f = f, .pooling = pooling, .slot = NO_SLOT, .states = f->states};
    *out = f->states;
    scd_code code = stage(&p, cells, n_cells, false, err);
    return code ? code : run_staged(&p, err);
}

/* Cells of which nothing is hidden and [LAT]'s state is wanted: f->cells. */
static scd_code take_plain(scd_forward *f, const scd_cell *const *cells, size_t n_cells,
                           scd_error *err)
{
    if (n_cells > f->max_rows / 2 + 1)
        return scd_fail(err, SCD_E_TOO_LARGE, "a batch holds at most %zu rows", f->max_rows);
    for (size_t c = 0; c < n_cells; c++)
        f->cells[c] = (scd_forward_cell){
            .n_tokens = cells[c]->n_tokens, .ids = cells[c]->ids, .values = cells[c]->values};
    return SCD_OK;
}

static scd_pooling plain_pooling(const scd_forward *f)
{
    return f->c.latent_visible ? SCD_POOL_VISIBLE : SCD_POOL_CLEAN;
}

scd_code scd_forward_run(scd_forward *f, const scd_cell *const *cells, size_t n_cells,
                         const float **out, scd_error *err)
{
    scd_code code = take_plain(f, cells, n_cells, err);
    return code ? code : scd_forward_pass(f, f->cells, n_cells, plain_pooling(f), out, err);
}

bool scd_forward_overlaps(const scd_forward *f, size_t n_cells)
{
    return f->be->slot_begin && n_cells <= scd_forward_slot_cells(f->max_rows);
}

scd_code scd_forward_begin(scd_forward *f, int slot, const scd_cell *const *cells, size_t n_cells,
                           const float **out, scd_error *err)
{
    pass p = {.f = f, .pooling = plain_pooling(f), .slot = slot, .states = f->slot_states[slot]};
    *out = p.states;
    scd_code code = take_plain(f, cells, n_cells, err);
    if (!code)
        code = stage(&p, f->cells, n_cells, false, err);
    return code ? code : run_staged(&p, err);
}

scd_code scd_forward_end(scd_forward *f, int slot, const void *src, size_t bytes, scd_error *err)
{
    return f->be->slot_end(f->device, slot, src, bytes, err);
}

scd_code scd_forward_fetch(scd_forward *f, int slot, void *dst, scd_error *err)
{
    return f->be->slot_collect(f->device, slot, dst, err);
}

scd_code scd_forward_embed(scd_forward *f, const scd_cell *const *cells, size_t n_cells, float *out,
                           scd_error *err)
{
    const float *embeddings;
    scd_code code = scd_forward_run(f, cells, n_cells, &embeddings, err);
    if (!code)
        code = f->be->synchronize(f->device, err);
    if (!code)
        code = f->be->download(f->device, out, embeddings, n_cells * f->c.hidden_dim * sizeof *out,
                               err);
    return code;
}

scd_code scd_forward_watch(scd_forward *f, const scd_forward_cell *cell, const scd_watch_keys *w,
                           scd_error *err)
{
    pass p = {.f = f, .slot = NO_SLOT};
    if (!f->be->attention_weights)
        return scd_fail(err, SCD_E_DEVICE, "this device does not tell its attention");
    scd_code code = stage(&p, cell, 1, true, err);
    if (!code)
        code = embed_rows(f, &p.batch, SCD_POOL_VISIBLE, err);
    const uint32_t cu_keys[2] = {0, (uint32_t)w->n_keys};
    scd_attention_weights_args a = {.n_cells = 1,
                                    .hidden_dim = f->c.hidden_dim,
                                    .n_heads = f->c.n_heads,
                                    .host_cu_rows = p.batch.host_cu_rows,
                                    .q = f->q,
                                    .k = f->k,
                                    .use_heads = w->heads,
                                    .cu_keys = cu_keys,
                                    .keys = w->keys,
                                    .out = w->out};
    size_t n = f->c.n_layers;
    while (n && !w->layers[n - 1]) /* nothing is watched behind the last that is */
        n--;
    for (size_t i = 0; i < n && !code; i++) {
        scd_qkv_args qkv = qkv_of(f, &f->layers[i], &p.batch, SCD_PART_Q | SCD_PART_K | SCD_PART_V);
        code = f->be->qkv(f->device, &qkv, err);
        if (!code && w->layers[i])
            code = f->be->attention_weights(f->device, &a, err);
        if (!code && i + 1 < n)
            code = attend(f, &f->layers[i], &p.batch, false, 0, err);
    }
    return code;
}
