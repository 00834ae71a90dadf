/* train_embed.c - from ids and values to tokens, forward and backward (SPEC 1.1 to 1.3).
 *
 * The value encoder's first layer goes by chunks of rows. Embedding goes by cells, since pooling is
 * a sum over a cell. The gradient of the gene table goes by ranges of columns: every task walks
 * through all rows in order, so a gene that stands in many cells adds up in that order. */
#include "engine/cpu/train_impl.h"

typedef struct value_job {
    const void *a;
    const scd_train_kernels *kernels;
    float *parts; /* (chunks, 2 d): dw, db */
} value_job;

static scd_code value_forward(void *arg, size_t task, void *scratch)
{
    (void)scratch;
    const value_job *j = arg;
    const scd_t_value_in *a = j->a;
    size_t first = task * SCD_CHUNK_ROWS, n = scd_chunk_size(a->rows, SCD_CHUNK_ROWS, task);
    for (size_t r = first; r < first + n; r++)
        if (a->ids[r] < 0)
            memset(a->u + r * a->d, 0, a->d * sizeof *a->u);
        else
            j->kernels->value_in(a->x[r], a->w, a->b, a->d, a->u + r * a->d);
    return SCD_OK;
}

scd_code scd_t_cpu_value_in(scd_device *device, const scd_t_value_in *args, scd_error *err)
{
    value_job j = {.a = args, .kernels = scd_train_kernels_of(device->kernels)};
    return scd_train_run(device, scd_chunks(args->rows, SCD_CHUNK_ROWS), 0, value_forward, &j, err);
}

static scd_code value_backward(void *arg, size_t task, void *scratch)
{
    (void)scratch;
    const value_job *j = arg;
    const scd_t_value_in_back *a = j->a;
    size_t first = task * SCD_CHUNK_ROWS, n = scd_chunk_size(a->rows, SCD_CHUNK_ROWS, task);
    float *dw = j->parts + task * 2 * a->d, *db = dw + a->d;
    memset(dw, 0, 2 * a->d * sizeof *dw);
    for (size_t r = first; r < first + n; r++)
        if (a->ids[r] >= 0)
            j->kernels->value_in_back(a->x[r], a->u + r * a->d, a->du + r * a->d, a->d, dw, db);
    return SCD_OK;
}

scd_code scd_t_cpu_value_in_back(scd_device *device, const scd_t_value_in_back *args,
                                 scd_error *err)
{
    value_job j = {.a = args, .kernels = scd_train_kernels_of(device->kernels)};
    size_t chunks = scd_chunks(args->rows, SCD_CHUNK_ROWS), d = args->d;
    scd_code code = scd_train_shared(device, chunks * 2 * d, &j.parts, err);
    if (!code)
        code = scd_train_run(device, chunks, 0, value_backward, &j, err);
    if (code)
        return code;
    scd_train_add_parts(device, j.parts, chunks, 2 * d, d, args->dw);
    scd_train_add_parts(device, j.parts + d, chunks, 2 * d, d, args->db);
    return SCD_OK;
}

/* ---- tokens ---- */

static int is_pooled(const scd_t_tokens *t, size_t row)
{
    return t->ids[row] >= 0 && (!t->visible_pooling || !t->hidden[row]);
}

static size_t n_pooled(const scd_t_tokens *t, size_t cell)
{
    size_t n = 0;
    for (size_t r = t->host_cu_rows[cell]; r < t->host_cu_rows[cell + 1]; r++)
        n += (size_t)is_pooled(t, r);
    return n;
}

typedef struct embed_job {
    const scd_t_embed *a;
    const scd_train_kernels *kernels;
} embed_job;

static scd_code embed_cell(void *arg, size_t cell, void *scratch)
{
    (void)scratch;
    const embed_job *j = arg;
    const scd_t_embed *a = j->a;
    const scd_t_tokens *t = &a->t;
    size_t d = t->d, n = n_pooled(t, cell);
    float *pooled = a->pooled + cell * d;
    memset(pooled, 0, d * sizeof *pooled);
    for (size_t r = t->host_cu_rows[cell]; r < t->host_cu_rows[cell + 1]; r++) {
        float *clean = a->clean + r * d, *tok = a->tok + r * d;
        if (t->ids[r] < 0) {
            memset(clean, 0, d * sizeof *clean);
            memset(tok, 0, d * sizeof *tok);
            continue;
        }
        const float *gene = a->table + (size_t)t->ids[r] * d;
        j->kernels->add(clean, gene, d);
        if (t->hidden[r] & SCD_HIDE_GENE)
            j->kernels->sum(tok, a->gene_mask, a->value_mask, d);
        else if (t->hidden[r])
            j->kernels->sum(tok, gene, a->value_mask, d);
        else
            memcpy(tok, clean, d * sizeof *tok);
        if (is_pooled(t, r))
            j->kernels->add(pooled, clean, d);
    }
    if (n)
        j->kernels->scale(pooled, 1.0f / (float)n, d);
    return SCD_OK;
}

scd_code scd_t_cpu_embed(scd_device *device, const scd_t_embed *args, scd_error *err)
{
    embed_job j = {args, scd_train_kernels_of(device->kernels)};
    return scd_train_run(device, args->t.n_cells, 0, embed_cell, &j, err);
}

enum { COLUMNS = 32 }; /* of the table's gradient in a task */

typedef struct back_job {
    const scd_t_embed_back *a;
    const scd_train_kernels *kernels;
    float *parts; /* (cells, 2 d): sums over a cell for the gene's and the value's mask */
} back_job;

static scd_code back_cell(void *arg, size_t cell, void *scratch)
{
    (void)scratch;
    const back_job *j = arg;
    const scd_t_embed_back *a = j->a;
    const scd_t_tokens *t = &a->t;
    size_t d = t->d, n = n_pooled(t, cell);
    float *gene = j->parts + cell * 2 * d, *value = gene + d;
    memset(gene, 0, 2 * d * sizeof *gene);
    for (size_t r = t->host_cu_rows[cell]; r < t->host_cu_rows[cell + 1]; r++) {
        const float *dtok = a->dtok + r * d;
        float *dclean = a->dclean + r * d;
        memset(dclean, 0, d * sizeof *dclean);
        if (t->ids[r] < 0)
            continue;
        if (!t->hidden[r])
            memcpy(dclean, dtok, d * sizeof *dclean);
        else
            j->kernels->add(value, dtok, d);
        if (t->hidden[r] & SCD_HIDE_GENE)
            j->kernels->add(gene, dtok, d);
        if (is_pooled(t, r))
            j->kernels->axpy(dclean, 1.0f / (float)n, a->dpooled + cell * d, d);
    }
    return SCD_OK;
}

/* The gene's embedding is part of clean, and of tok where its value alone is hidden. */
static scd_code back_table(void *arg, size_t task, void *scratch)
{
    (void)scratch;
    const back_job *j = arg;
    const scd_t_embed_back *a = j->a;
    const scd_t_tokens *t = &a->t;
    size_t d = t->d, first = task * COLUMNS, n = scd_chunk_size(d, COLUMNS, task);
    for (size_t r = 0; r < t->rows; r++) {
        if (t->ids[r] < 0)
            continue;
        float *gene = a->dtable + (size_t)t->ids[r] * d + first;
        if (!t->hidden[r] || is_pooled(t, r))
            j->kernels->add(gene, a->dclean + r * d + first, n);
        if (t->hidden[r] && !(t->hidden[r] & SCD_HIDE_GENE))
            j->kernels->add(gene, a->dtok + r * d + first, n);
    }
    return SCD_OK;
}

scd_code scd_t_cpu_embed_back(scd_device *device, const scd_t_embed_back *args, scd_error *err)
{
    back_job j = {.a = args, .kernels = scd_train_kernels_of(device->kernels)};
    size_t d = args->t.d, n_cells = args->t.n_cells;
    scd_code code = scd_train_shared(device, n_cells * 2 * d, &j.parts, err);
    if (!code)
        code = scd_train_run(device, n_cells, 0, back_cell, &j, err);
    if (!code && args->dtable)
        code = scd_train_run(device, scd_chunks(d, COLUMNS), 0, back_table, &j, err);
    if (!code && args->dgene_mask)
        scd_train_add_parts(device, j.parts, n_cells, 2 * d, d, args->dgene_mask);
    if (!code && args->dvalue_mask)
        scd_train_add_parts(device, j.parts + d, n_cells, 2 * d, d, args->dvalue_mask);
    return code;
}
