/* classifier.c - see classifier.h. */
#include "engine/denoise/classifier.h"

#include "engine/base/mem.h"
#include "engine/denoise/gene_term.h"

#include <stdlib.h>

struct scd_classifier {
    const scd_backend *be;
    scd_device *device;
    const scd_head *head;
    size_t hidden_dim, mlp_dim, n_labels, vocab;
    scd_forward *base, *over; /* over: NULL where the head changes no tensor of the model */
    scd_matrix *w0, *w2;
    float *b0, *b2;                /* device (mlp_dim), (n_labels) */
    float *hidden, *logits;        /* device (max cells, mlp_dim), (max cells, n_labels) */
    float *slot_logits[SCD_SLOTS]; /* device, like logits; NULL where the device does not overlap */
    scd_gene_term genes;           /* host; weight NULL: the head has no linear half */
    double *row;                   /* (n_labels) */
};

static scd_code load_matrix(scd_classifier *c, const char *name, size_t rows, size_t cols,
                            unsigned uses, scd_matrix **out, scd_error *err)
{
    scd_tensor t;
    const scd_safetensors *file = scd_head_tensors(c->head);
    scd_code code = scd_safetensors_get(file, name, rows, cols, &t, err);
    if (!code)
        code = c->be->matrix_pack(c->device, &t, 1, uses, out, err);
    if (!code)
        scd_safetensors_forget(file, &t);
    return code;
}

static scd_code alloc_floats(scd_classifier *c, size_t rows, size_t cols, float **out,
                             scd_error *err)
{
    size_t bytes;
    void *memory = NULL;
    if (!scd_size_mul(rows, cols, &bytes) || !scd_size_mul(bytes, sizeof(float), &bytes))
        return scd_fail(err, SCD_E_NOMEM, "%zu rows of %zu floats are too many", rows, cols);
    scd_code code = c->be->alloc(c->device, bytes, &memory, err);
    *out = memory;
    return code;
}

static scd_code load_vector(scd_classifier *c, const char *name, size_t n, float **out,
                            scd_error *err)
{
    scd_tensor t;
    scd_code code = scd_safetensors_get(scd_head_tensors(c->head), name, n, 0, &t, err);
    if (!code)
        code = alloc_floats(c, n, 1, out, err);
    if (code)
        return code;
    float *host = scd_malloc(n, sizeof *host);
    if (!host)
        return scd_fail(err, SCD_E_NOMEM, "out of memory loading %s", name);
    scd_tensor_to_f32(&t, 0, n, host);
    code = c->be->upload(c->device, *out, host, n * sizeof *host, err);
    free(host);
    return code;
}

static scd_code load(scd_classifier *c, size_t max_cells, scd_error *err)
{
    size_t h = c->hidden_dim, k = c->mlp_dim, n = c->n_labels;
    scd_code code = SCD_OK;
    if (scd_head_get_info(c->head)->has_backbone)
        code = scd_forward_open_over(c->base, scd_head_tensors(c->head), &c->over, err);
    if (!code)
        code = load_matrix(c, "mlp.0.weight", k, h, SCD_FOR_BIAS_RELU, &c->w0, err);
    if (!code)
        code = load_matrix(c, "mlp.2.weight", n, k, SCD_FOR_BIAS, &c->w2, err);
    if (!code)
        code = load_vector(c, "mlp.0.bias", k, &c->b0, err);
    if (!code)
        code = load_vector(c, "mlp.2.bias", n, &c->b2, err);
    if (!code)
        code = alloc_floats(c, max_cells, k, &c->hidden, err);
    if (!code)
        code = alloc_floats(c, max_cells, n, &c->logits, err);
    for (int i = 0; i < SCD_SLOTS && !code && c->be->slot_begin; i++)
        code = alloc_floats(c, max_cells, n, &c->slot_logits[i], err);
    if (!code && scd_head_get_info(c->head)->has_gene_term)
        code = scd_gene_term_load(scd_head_tensors(c->head), c->vocab, n, &c->genes, err);
    c->row = scd_malloc(n, sizeof *c->row);
    return !code && !c->row ? scd_fail(err, SCD_E_NOMEM, "out of memory") : code;
}

scd_code scd_classifier_open(const scd_backend *backend, scd_device *device, const scd_head *head,
                             const scd_model_config *config, scd_forward *base, size_t max_rows,
                             scd_classifier **out, scd_error *err)
{
    *out = NULL;
    scd_classifier *c = scd_calloc(1, sizeof *c);
    if (!c)
        return scd_fail(err, SCD_E_NOMEM, "out of memory");
    const scd_head_info *info = scd_head_get_info(head);
    c->be = backend;
    c->device = device;
    c->head = head;
    c->hidden_dim = config->hidden_dim;
    c->mlp_dim = info->mlp_dim;
    c->n_labels = info->n_labels;
    c->vocab = config->vocab;
    c->base = base;
    scd_code code = load(c, max_rows / 2 + 1, err); /* a cell has at least two rows */
    if (code) {
        scd_classifier_close(c);
        return code;
    }
    *out = c;
    return SCD_OK;
}

void scd_classifier_close(scd_classifier *c)
{
    if (!c)
        return;
    free(c->row);
    scd_gene_term_release(&c->genes);
    for (int i = 0; i < SCD_SLOTS; i++)
        c->be->free(c->device, c->slot_logits[i]);
    c->be->free(c->device, c->logits);
    c->be->free(c->device, c->hidden);
    c->be->free(c->device, c->b2);
    c->be->free(c->device, c->b0);
    c->be->matrix_free(c->device, c->w2);
    c->be->matrix_free(c->device, c->w0);
    scd_forward_close(c->over);
    free(c);
}

/* The head's two products on embeddings (n_cells, H), not synchronized. */
static scd_code run_head(scd_classifier *c, const float *embeddings, size_t n_cells, float *logits,
                         scd_error *err)
{
    scd_linear_args first = {.rows = n_cells,
                             .in_dim = c->hidden_dim,
                             .out_dim = c->mlp_dim,
                             .x = embeddings,
                             .w = c->w0,
                             .bias = c->b0,
                             .relu = 1,
                             .y = c->hidden};
    scd_linear_args second = {.rows = n_cells,
                              .in_dim = c->mlp_dim,
                              .out_dim = c->n_labels,
                              .x = c->hidden,
                              .w = c->w2,
                              .bias = c->b2,
                              .y = logits};
    scd_code code = c->be->linear(c->device, &first, err);
    return code ? code : c->be->linear(c->device, &second, err);
}

/* On the host: rows of logits become probabilities. */
static void finish(scd_classifier *c, const scd_cell *const *cells, size_t n_cells, float *out)
{
    for (size_t i = 0; i < n_cells; i++) {
        float *row = out + i * c->n_labels;
        if (c->genes.weight)
            scd_gene_term_join(&c->genes, cells[i]->ids, cells[i]->values, cells[i]->n_tokens,
                               c->row, row);
        scd_head_probabilities(c->head, row, c->row);
        for (size_t k = 0; k < c->n_labels; k++)
            row[k] = (float)c->row[k];
    }
}

static scd_forward *forward_of(const scd_classifier *c)
{
    return c->over ? c->over : c->base;
}

scd_code scd_classifier_run(scd_classifier *c, const scd_cell *const *cells, size_t n_cells,
                            float *out, scd_error *err)
{
    const float *embeddings = NULL;
    scd_code code = scd_forward_run(forward_of(c), cells, n_cells, &embeddings, err);
    if (!code)
        code = run_head(c, embeddings, n_cells, c->logits, err);
    if (!code)
        code = c->be->synchronize(c->device, err);
    if (!code)
        code = c->be->download(c->device, out, c->logits, n_cells * c->n_labels * sizeof *out, err);
    if (!code)
        finish(c, cells, n_cells, out);
    return code;
}

scd_code scd_classifier_begin(scd_classifier *c, int slot, const scd_cell *const *cells,
                              size_t n_cells, scd_error *err)
{
    const float *embeddings = NULL;
    float *logits = c->slot_logits[slot];
    scd_code code = scd_forward_begin(forward_of(c), slot, cells, n_cells, &embeddings, err);
    if (!code)
        code = run_head(c, embeddings, n_cells, logits, err);
    if (!code)
        code = scd_forward_end(forward_of(c), slot, logits, n_cells * c->n_labels * sizeof *logits,
                               err);
    if (code)
        scd_forward_end(forward_of(c), slot, NULL, 0, NULL);
    return code;
}

scd_code scd_classifier_fetch(scd_classifier *c, int slot, const scd_cell *const *cells,
                              size_t n_cells, float *out, scd_error *err)
{
    scd_code code = scd_forward_fetch(forward_of(c), slot, out, err);
    if (!code)
        finish(c, cells, n_cells, out);
    return code;
}
