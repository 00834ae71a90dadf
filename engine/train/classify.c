/* classify.c - see classify.h. */
#include "engine/train/classify.h"

#include "engine/base/mem.h"
#include "engine/train/device.h"

#include <stdlib.h>
#include <string.h>

scd_code scd_classifier_open(const scd_model *model, const scd_classifier_options *o,
                             scd_classifier *out, scd_error *err)
{
    const scd_model_config *config = o->config ? o->config : scd_model_get_config(model);
    size_t classes = o->classes, micro_rows = o->micro_rows;
    if (micro_rows < config->max_gene_len + 1)
        micro_rows = config->max_gene_len + 1;
    *out = (scd_classifier){
        .model = model, .config = config, .vocab = scd_model_vocab(model), .classes = classes};
    scd_net_options net = {.max_rows = micro_rows};
    scd_class_head_shape shape = {config->hidden_dim, o->mlp_dim, classes, micro_rows / 2 + 1};
    scd_code code = scd_train_device_open(o->device, o->threads, &out->be, &out->device, err);
    if (!code) {
        out->ops = out->be->train;
        code = scd_net_new(out->be, out->ops, out->device, config, &net, &out->net, err);
    }
    if (!code)
        code = scd_net_load(out->net, scd_model_tensors(model), err);
    if (!code && classes)
        code = scd_class_head_new(out->be, out->ops, out->device, &shape, &out->head, err);
    if (!code && classes && o->has_genes)
        code = scd_gene_head_new(out->be, out->ops, out->device, config->vocab, classes,
                                 &out->genes_head, err);
    if (!code)
        code = scd_pack_new(micro_rows, &out->pack, err);
    if (code)
        scd_classifier_close(out);
    return code;
}

void scd_classifier_close(scd_classifier *c)
{
    if (!c->device) {
        *c = (scd_classifier){0};
        return;
    }
    scd_pack_free(c->pack);
    scd_gene_head_free(c->genes_head);
    scd_class_head_free(c->head);
    scd_net_free(c->net);
    c->be->close(c->device);
    *c = (scd_classifier){0};
}

typedef struct overlay {
    scd_classifier *c;
    const scd_safetensors *tensors;
} overlay;

static scd_code overlay_tensor(void *arg, const scd_tensor_entry *entry, scd_error *err)
{
    const overlay *o = arg;
    size_t rows, first, n;
    scd_tensor tensor;
    if (!scd_safetensors_has(o->tensors, entry->name, &rows))
        return SCD_OK;
    scd_code code =
        scd_safetensors_get(o->tensors, entry->name, entry->rows, entry->cols, &tensor, err);
    if (!code)
        code = scd_net_tensor(o->c->net, entry->name, &first, &n, err);
    if (code)
        return code;
    float *host = scd_malloc(n, sizeof *host);
    if (!host)
        return scd_fail(err, SCD_E_NOMEM, "out of memory for %s", entry->name);
    scd_tensor_to_f32(&tensor, 0, n, host);
    code = o->c->be->upload(o->c->device, scd_net_params(o->c->net) + first, host, n * sizeof *host,
                            err);
    free(host);
    return code;
}

scd_code scd_classifier_overlay(scd_classifier *c, const scd_safetensors *tensors, scd_error *err)
{
    overlay o = {c, tensors};
    scd_code code = scd_model_each_tensor(c->config, overlay_tensor, &o, err);
    if (!code && c->head)
        code = scd_class_head_load(c->head, tensors, err);
    return code || !c->genes_head ? code : scd_gene_head_load(c->genes_head, tensors, err);
}

/* ---- running --------------------------------------------------------------------------------- */

enum { MOST_CELLS = 4096 };

typedef struct running {
    scd_classifier *c;
    scd_classified_sink *sink;
    void *arg;
    scd_arena names;       /* barcodes of the cells in the pack */
    scd_classified *cells; /* (MOST_CELLS) the same */
    float *logits, *embeddings;
} running;

static scd_code run_pack(running *r, scd_error *err)
{
    scd_classifier *c = r->c;
    const scd_net_batch *batch = scd_pack_batch(c->pack);
    if (!batch->n_cells)
        return SCD_OK;
    scd_code code = scd_net_forward(c->net, batch, 1, err);
    if (!code)
        code = scd_net_latents(c->net, r->embeddings, err);
    if (!code && c->head)
        code = scd_class_head_forward(c->head, scd_net_device_latents(c->net), batch->n_cells,
                                      r->logits, err);
    if (!code && c->genes_head)
        scd_gene_head_join(c->genes_head, batch, r->logits);
    for (size_t i = 0; i < batch->n_cells && !code; i++) {
        r->cells[i].logits = c->head ? r->logits + i * c->classes : NULL;
        r->cells[i].embedding = r->embeddings + i * c->config->hidden_dim;
        code = r->sink(r->arg, &r->cells[i], err);
    }
    scd_pack_clear(c->pack);
    scd_arena_release(&r->names);
    return code;
}

/* The cell just added to the pack, for the sink. */
static scd_code remember(running *r, const scd_corpus_cell *cell, size_t index, scd_error *err)
{
    char *barcode = scd_arena_strndup(&r->names, cell->barcode, strlen(cell->barcode));
    if (!barcode)
        return scd_fail(err, SCD_E_NOMEM, "out of memory for a barcode");
    r->cells[scd_pack_batch(r->c->pack)->n_cells - 1] =
        (scd_classified){.index = index, .file = cell->file, .barcode = barcode};
    return SCD_OK;
}

/* A cell without any gene the model knows: after those before it, with no answer. */
static scd_code run_empty(running *r, const scd_corpus_cell *cell, size_t index, scd_error *err)
{
    scd_classified none = {.index = index, .file = cell->file, .barcode = cell->barcode};
    scd_code code = run_pack(r, err);
    return code ? code : r->sink(r->arg, &none, err);
}

scd_code scd_classifier_take(const scd_classifier *c, const scd_corpus_cell *cell, scd_arena *arena,
                             scd_corpus_cell *out, scd_error *err)
{
    const uint8_t *used = scd_vocab_used(c->vocab);
    *out = *cell;
    if ((!c->genes && !used) || !cell->n)
        return SCD_OK;
    int32_t *tokens = scd_arena_alloc(arena, cell->n, sizeof *tokens);
    float *values = scd_arena_alloc(arena, cell->n, sizeof *values);
    if (!tokens || !values)
        return scd_fail(err, SCD_E_NOMEM, "out of memory for a cell");
    out->n = 0;
    out->tokens = tokens;
    out->values = values;
    for (size_t i = 0; i < cell->n; i++) {
        int32_t token = cell->tokens[i];
        if ((c->genes && !c->genes[token]) || (used && !used[token]))
            continue;
        tokens[out->n] = token;
        values[out->n++] = cell->values[i];
    }
    return SCD_OK;
}

static scd_code run_cell(running *r, const scd_corpus_cell *whole, size_t index,
                         const scd_augment_options *augment, uint64_t draw, scd_error *err)
{
    static const scd_augment_options as_measured;
    scd_classifier *c = r->c;
    scd_arena arena;
    scd_corpus_cell taught, *cell = &taught;
    scd_cell out;
    scd_arena_init(&arena, SIZE_MAX / 2);
    scd_code code = scd_classifier_take(c, whole, &arena, cell, err);
    if (!code && !cell->n)
        code = run_empty(r, cell, index, err);
    if (code || !cell->n) {
        scd_arena_release(&arena);
        return code;
    }
    scd_augment_input in = {.cell = cell, .draw = draw};
    code =
        scd_augment(augment ? augment : &as_measured, &in, c->config, c->vocab, &arena, &out, err);
    scd_sequence sequence = {.n = out.n_tokens, .ids = out.ids, .values = out.values};
    if (!code && !scd_pack_add(c->pack, &sequence)) {
        code = run_pack(r, err);
        if (!code && !scd_pack_add(c->pack, &sequence))
            code = scd_fail(err, SCD_E_INTERNAL, "a cell of %zu tokens does not fit", sequence.n);
    }
    if (!code)
        code = remember(r, cell, index, err);
    scd_arena_release(&arena);
    return code;
}

scd_code scd_classifier_run(scd_classifier *c, scd_feed *feed, size_t n,
                            const scd_augment_options *augment, uint64_t first_draw,
                            scd_classified_sink *sink, void *arg, scd_error *err)
{
    scd_code code = SCD_OK;
    scd_pack_clear(c->pack);
    running r = {.c = c, .sink = sink, .arg = arg};
    scd_arena_init(&r.names, SIZE_MAX / 2);
    r.cells = scd_malloc(MOST_CELLS, sizeof *r.cells);
    r.logits = scd_malloc(MOST_CELLS * (c->classes + 1), sizeof *r.logits);
    r.embeddings = scd_malloc(MOST_CELLS * c->config->hidden_dim, sizeof *r.embeddings);
    if (!r.cells || !r.logits || !r.embeddings)
        code = scd_fail(err, SCD_E_NOMEM, "out of memory for a batch");
    for (size_t i = 0; i < n && !code; i++) {
        const scd_corpus_cell *cell;
        size_t index;
        code = scd_feed_next(feed, &cell, &index, err);
        if (!code)
            code = run_cell(&r, cell, index, augment, first_draw + i, err);
        if (!code && scd_pack_batch(c->pack)->n_cells == MOST_CELLS)
            code = run_pack(&r, err);
    }
    if (!code)
        code = run_pack(&r, err);
    free(r.cells);
    scd_arena_release(&r.names);
    free(r.logits);
    free(r.embeddings);
    return code;
}
