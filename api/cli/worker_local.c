/* worker_local.c - a worker that holds the engine in this process; see worker.h. */
#include "api/cli/worker_impl.h"

#include "engine/base/mem.h"
#include "engine/engine.h"
#include "engine/model/model.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { CELL_BYTES = 1 << 30 };

typedef struct local {
    scd_model *model;   /* where no engine is needed, ... */
    scd_engine *engine; /* ... or this one's */
    const scd_served_model *served;
    const scd_vocab *vocab;
    const scd_head_info *head; /* NULL: none was asked for */
    const char **labels, **ontology_ids;
} local;

static void close_local(cli_worker *worker)
{
    local *l = worker->self;
    if (!l)
        return;
    scd_engine_close(l->engine);
    scd_model_close(l->model);
    free(l->labels);
    free(l->ontology_ids);
    free(l);
}

/* ---- opening ---- */

static scd_code choose_head(local *l, const char *name, scd_error *err)
{
    char names[300] = "";
    const scd_head_info *only = NULL;
    size_t n = 0;
    for (size_t i = 0; i < l->served->n_heads; i++) {
        const scd_head_info *head = l->served->heads[i];
        size_t at = strlen(names);
        if (strcmp(head->task, "annotation") != 0)
            continue;
        if (name && strcmp(head->name, name) == 0)
            l->head = head;
        snprintf(names + at, sizeof names - at, "%s\"%s\"", n++ ? ", " : "", head->name);
        only = head;
    }
    if (!name && n == 1)
        l->head = only;
    if (l->head)
        return SCD_OK;
    if (!n)
        return scd_fail(err, SCD_E_INVALID,
                        "model \"%s\" has no annotation head: scdiva-train finetune makes one",
                        l->served->name);
    return scd_fail(err, SCD_E_INVALID, "model \"%s\" has %s%s%s: choose with --head, there is %s",
                    l->served->name, name ? "no annotation head \"" : "several annotation heads",
                    name ? name : "", name ? "\"" : "", names);
}

static scd_code describe_head(cli_worker *worker, local *l, scd_error *err)
{
    const scd_head_info *h = l->head;
    l->labels = scd_malloc(h->n_labels, sizeof *l->labels);
    l->ontology_ids = scd_malloc(h->n_labels, sizeof *l->ontology_ids);
    if (!l->labels || !l->ontology_ids)
        return scd_fail(err, SCD_E_NOMEM, "out of memory for %zu labels", h->n_labels);
    for (size_t i = 0; i < h->n_labels; i++) {
        l->labels[i] = h->labels[i].label;
        l->ontology_ids[i] = h->labels[i].ontology_id ? h->labels[i].ontology_id : "";
    }
    worker->model.head = (cli_head){.name = h->name,
                                    .digest_hex = h->digest_hex,
                                    .n_labels = h->n_labels,
                                    .labels = l->labels,
                                    .ontology_ids = l->ontology_ids,
                                    .threshold = h->threshold};
    return SCD_OK;
}

/* Rough rates of one core, in operations a second: what `inspect` guesses a run's time by. */
static double flops_of(const char *isa, size_t threads)
{
    static const struct {
        const char *isa;
        double flops;
    } known[] = {{"avx512_bf16", 4e11}, {"avx512", 2e11}, {"avx2", 8e10}, {"generic", 4e9}};
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    double n = threads ? (double)threads : cores > 0 ? (double)cores : 1;
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (strcmp(known[i].isa, isa) == 0)
            return known[i].flops * n;
    return 2e14; /* a GPU */
}

/* Work of one token: every weight but those of the genes' tables, once. */
static void estimate(cli_worker *worker, const scd_model_config *c, size_t n_params, size_t bytes,
                     double flops_per_second)
{
    size_t of_genes = c->vocab * (c->d + c->hidden_dim);
    worker->weight_bytes = (double)n_params * (double)bytes;
    worker->flops_per_token = 2 * (double)(n_params > of_genes ? n_params - of_genes : 0);
    worker->flops_per_second = flops_per_second;
}

static void describe(cli_worker *worker, const local *l, size_t threads)
{
    const scd_served_model *s = l->served;
    const scd_device_info *device = scd_engine_device(l->engine);
    bool is_bf16 = device->precision == SCD_PRECISION_BF16;
    worker->model = (cli_model){.name = s->name,
                                .digest_hex = s->digest_hex,
                                .width = s->config->hidden_dim,
                                .max_gene_len = s->config->max_gene_len,
                                .is_trained = s->config->trained,
                                .device = scd_engine_device_kind(l->engine),
                                .isa = device->isa,
                                .precision = is_bf16 ? "bf16" : "fp32"};
    estimate(worker, s->config, s->n_params, is_bf16 ? 2 : 4, flops_of(device->isa, threads));
}

/* The model alone, without an engine. */
static scd_code look(cli_worker *worker, local *l, const char *dir, scd_error *err)
{
    scd_code code = scd_model_open(dir, &l->model, err);
    if (code)
        return code;
    const scd_model_config *c = scd_model_get_config(l->model);
    bool has_bf16 = __builtin_cpu_supports("avx512bf16");
    const char *isa = has_bf16                              ? "avx512_bf16"
                      : __builtin_cpu_supports("avx512f")   ? "avx512"
                      : __builtin_cpu_supports("avx2") != 0 ? "avx2"
                                                            : "generic";
    l->vocab = scd_model_vocab(l->model);
    worker->model = (cli_model){.name = scd_model_name(l->model),
                                .width = c->hidden_dim,
                                .max_gene_len = c->max_gene_len,
                                .is_trained = c->trained};
    estimate(worker, c, scd_model_n_params(l->model), has_bf16 ? 2 : 4, flops_of(isa, 0));
    return SCD_OK;
}

static scd_device_choice device_of(const char *name)
{
    return name && strcmp(name, "cpu") == 0    ? SCD_DEVICE_CPU
           : name && strcmp(name, "cuda") == 0 ? SCD_DEVICE_CUDA
                                               : SCD_DEVICE_AUTO;
}

static scd_precision precision_of(const char *name)
{
    return name && strcmp(name, "fp32") == 0   ? SCD_PRECISION_FP32
           : name && strcmp(name, "bf16") == 0 ? SCD_PRECISION_BF16
                                               : SCD_PRECISION_AUTO;
}

/* ---- genes ---- */

static scd_code resolve_here(void *arg, const char *const *names, size_t n, int32_t *tokens,
                             scd_rung *rungs, scd_error *err)
{
    const cli_worker *worker = arg;
    const local *l = worker->self;
    scd_gene_book book = scd_gene_book_of(l->vocab);
    return book.resolve(book.arg, names, n, tokens, rungs, err);
}

static bool is_mouse_here(void *arg, const char *name)
{
    const cli_worker *worker = arg;
    const scd_vocab *vocab = ((const local *)worker->self)->vocab;
    return scd_vocab_is_human(vocab) && scd_vocab_looks_mouse(vocab, name, strlen(name));
}

/* ---- cells ---- */

typedef struct block {
    const scd_file_plan *plan;
    const scd_cells_rows *rows;
    scd_arena arena;
    scd_cell *cells;           /* (n) */
    const scd_cell **answered; /* those with tokens, ... */
    size_t *places;            /* ... and their rows */
    size_t n_answered;
} block;

/* Whole cells up to the engine's rows at a time; results go to the places of their cells. */
static scd_code compute(local *l, const block *b, const scd_head_info *head, float *out,
                        scd_error *err)
{
    scd_work work = {.head = head};
    size_t width = scd_engine_width(l->engine, work), most = scd_engine_max_rows(l->engine);
    float *packed = scd_malloc(b->n_answered + 1, width * sizeof *packed);
    scd_code code = packed ? SCD_OK : scd_fail(err, SCD_E_NOMEM, "out of memory");
    for (size_t i = 0; i < b->rows->n * width; i++)
        out[i] = NAN;
    for (size_t at = 0, end; at < b->n_answered && !code; at = end) {
        size_t rows = 0;
        for (end = at; end < b->n_answered; end++) {
            rows += b->answered[end]->n_tokens + 1;
            if (rows > most)
                break;
        }
        code = scd_engine_compute(l->engine, work, b->answered + at, end - at, packed, err);
        for (size_t i = at; i < end && !code; i++)
            memcpy(out + b->places[i] * width, packed + (i - at) * width, width * sizeof *out);
    }
    free(packed);
    return code;
}

/* A head may use fewer genes than the model: its cells are not the embedding's. */
static scd_code run_pass(local *l, const scd_file_plan *plan, const scd_cells_rows *rows,
                         size_t first, const scd_head_info *head, float *out, cli_cell *cells,
                         scd_error *err)
{
    block b = {.plan = plan, .rows = rows};
    scd_code code = SCD_OK;
    scd_arena_init(&b.arena, CELL_BYTES);
    b.cells = scd_arena_zalloc(&b.arena, rows->n, sizeof *b.cells);
    b.answered = scd_arena_alloc(&b.arena, rows->n, sizeof *b.answered);
    b.places = scd_arena_alloc(&b.arena, rows->n, sizeof *b.places);
    if (!b.cells || !b.answered || !b.places)
        code = scd_fail(err, SCD_E_NOMEM, "out of memory for %zu cells", rows->n);
    for (size_t row = 0; row < rows->n && !code; row++) {
        code = scd_run_cell_make(l->served, plan, rows, row, first, head ? head->genes : NULL,
                                 &b.arena, b.cells + row, cells + row, err);
        if (code || !cells[row].is_answered)
            continue;
        b.places[b.n_answered] = row;
        b.answered[b.n_answered++] = b.cells + row;
    }
    if (!code)
        code = compute(l, &b, head, out, err);
    scd_arena_release(&b.arena);
    return code;
}

static scd_code run_here(cli_worker *worker, const scd_file_plan *plan, const scd_cells_rows *rows,
                         size_t first, float *embeddings, float *probabilities, cli_cell *cells,
                         scd_error *err)
{
    local *l = worker->self;
    scd_code code = SCD_OK;
    if (embeddings)
        code = run_pass(l, plan, rows, first, NULL, embeddings, cells, err);
    if (!code && probabilities)
        code = run_pass(l, plan, rows, first, l->head, probabilities, cells, err);
    return code;
}

static const cli_worker_ops ops = {close_local, resolve_here, is_mouse_here, run_here};

scd_code cli_worker_open_local(cli_worker *worker, const cli_worker_options *o, scd_error *err)
{
    local *l = scd_calloc(1, sizeof *l);
    if (!l)
        return scd_fail(err, SCD_E_NOMEM, "out of memory");
    worker->ops = &ops;
    worker->self = l;
    if (o->looks_only)
        return look(worker, l, o->model, err);
    scd_engine_options engine = {.device = device_of(o->device),
                                 .precision = precision_of(o->precision),
                                 .threads = (int)o->threads,
                                 .model_dirs = &o->model,
                                 .n_models = 1};
    scd_code code = scd_engine_open(&engine, &l->engine, err);
    if (code)
        return code;
    l->served = scd_engine_model(l->engine, 0);
    l->vocab = l->served->vocab;
    describe(worker, l, o->threads);
    if (o->needs_head)
        code = choose_head(l, o->head, err);
    return code || !l->head ? code : describe_head(worker, l, err);
}
