/* task.c - scdiva embed and annotate: a file of cells through a model, block by block; see task.h.
 *
 * Order: what can be refused is refused first - options, output, file, genes - and then computed.
 * The file is read once more from its start; a block is at most 256 cells, so that memory does not
 * grow with the file. Judged over all cells at the end is what was judged over some at the start.
 *
 * Threads: main; the engine's own. Owns: everything of the run. */
#include "api/cli/task.h"

#include "api/confined.h"
#include "engine/base/clock.h"
#include "engine/base/mem.h"
#include "engine/model/file.h"

#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* A block is what one read, one computation and one step of the progress are: enough to fill a
 * device, and not so much that a slow one says nothing for long. */
enum { BLOCK_CELLS = 256, BLOCK_TOKENS = 1 << 16, BLOCK_ENTRIES = 1 << 20, BLOCK_BYTES = 1 << 30 };

/* ---- options ---- */

size_t cli_task_options(void *into, cli_option *t)
{
    static const char *const devices[] = {"auto", "cpu", "cuda", NULL};
    static const char *const precisions[] = {"auto", "fp32", "bf16", NULL};
    static const char *const on_errors[] = {"skip", "fail", NULL};
    static const char *const sides[] = {"rows", "columns", NULL};
    cli_task *o = into;
    const cli_option all[] = {
        {"output", 'o', CLI_TEXT, &o->output, "FILE", ".h5ad, .csv, .tsv or .npy", 0, 0, 0, 0},
        {"model", 'm', CLI_TEXT, &o->model, "DIR", "model directory; with --server its name there",
         0, 0, 0, 0},
        {"server", 0, CLI_TEXT, &o->server, "URL", "compute on a daemon; the same bytes", 0, 0, 0,
         0},
        {"key-file", 0, CLI_TEXT, &o->key_file, "FILE",
         "its bearer token (else $SCDIVA_API_KEY, where set)", 0, 0, 0, 0},
        {"head", 0, CLI_TEXT, &o->head, "NAME", "annotate: which head, where a model has several",
         0, 0, 0, 0},
        {"threshold", 0, CLI_NUMBER, &o->threshold, "P",
         "annotate: below it a cell is unknown (the head's own)", 0, 0, 1, &o->has_threshold},
        {"embeddings", 0, CLI_FLAG, &o->embeddings, NULL, "annotate: write embeddings as well", 0,
         0, 0, 0},
        {"layer", 0, CLI_TEXT, &o->layer, "NAME",
         "the matrix: X, raw/X, a layer (by evidence: layers/counts, raw/X, X)", 0, 0, 0, 0},
        {"gene-column", 0, CLI_TEXT, &o->gene_column, "NAME",
         "the column of var that names the genes (by evidence); \"index\"", 0, 0, 0, 0},
        {"genome", 0, CLI_TEXT, &o->genome, "NAME", "10x files of several: only this one's genes",
         0, 0, 0, 0},
        {"genes-in", 0, CLI_CHOICE, &o->genes_in, "rows|columns",
         "tables: where the genes are (by evidence)", sides, 0, 0, 0},
        {"force", 0, CLI_FLAG, &o->force, NULL,
         "go on where less than half of the counts is on known genes", 0, 0, 0, 0},
        {"on-error", 0, CLI_CHOICE, &o->on_error, "skip|fail",
         "cells without a known gene: leave unanswered (skip), or stop", on_errors, 0, 0, 0},
        {"overwrite", 0, CLI_FLAG, &o->overwrite, NULL,
         "replace OUTPUT, and results that INPUT holds already", 0, 0, 0, 0},
        {"device", 0, CLI_CHOICE, &o->device, "auto|cpu|cuda", "in process: where to compute",
         devices, 0, 0, 0},
        {"precision", 0, CLI_CHOICE, &o->precision, "auto|fp32|bf16", "in process: of the products",
         precisions, 0, 0, 0},
        {"threads", 0, CLI_COUNT, &o->threads, "N", "in process: 0 is one per core", 0, 0, 4096, 0},
        {"json", 0, CLI_FLAG, &o->json, NULL, "the report as JSON on standard output", 0, 0, 0, 0},
        {"quiet", 'q', CLI_FLAG, &o->quiet, NULL, "no progress, no notes", 0, 0, 0, 0},
    };
    memcpy(t, all, sizeof all);
    return sizeof all / sizeof all[0];
}

void cli_task_plan(const cli_task *o, scd_file_plan_options *plan)
{
    plan->matrix = o->layer;
    plan->gene_column = o->gene_column;
    plan->genome = o->genome;
    plan->force = o->force;
    if (o->genes_in)
        plan->matrix = strcmp(o->genes_in, "rows") == 0 ? SCD_CELLS_IN_COLUMNS : SCD_CELLS_IN_ROWS;
}

static int check(const cli_verb *verb, cli_task *o)
{
    scd_error err;
    if (!o->model && !o->server)
        o->model = getenv("SCDIVA_MODEL");
    if (!o->output)
        return cli_usage(verb, "-o OUTPUT is missing");
    if (scd_results_check_path(o->output, &err))
        return cli_usage(verb, "-o %s", err.message);
    if (!o->model && !o->server)
        return cli_usage(verb, "--model DIR or --server URL is missing");
    if (o->layer && o->genes_in)
        return cli_usage(verb, "--layer and --genes-in both name the matrix");
    return CLI_OK;
}

/* ---- a run ---- */

typedef struct run {
    const cli_task *o;
    cli_worker *worker;
    const cli_model *model;
    scd_cells *cells;
    scd_arena arena; /* of the plan */
    scd_file_plan plan;
    scd_results *results;
    cli_progress progress;
    cli_sums sums;
    float *embeddings, *probabilities; /* (block, width), (block, n_labels) */
    cli_cell *said;                    /* (block) */
    size_t block;                      /* cells */
} run;

static volatile sig_atomic_t interrupted;

static void on_signal(int number)
{
    (void)number;
    interrupted = 1;
}

static bool wants_embeddings(const cli_task *o)
{
    return strcmp(o->verb, "embed") == 0 || o->embeddings;
}

static scd_code open_worker(run *r, scd_error *err)
{
    const cli_task *o = r->o;
    cli_worker_options w = {.model = o->model,
                            .server = o->server,
                            .key_file = o->key_file,
                            .head = o->head,
                            .needs_head = strcmp(o->verb, "annotate") == 0,
                            .device = o->device,
                            .precision = o->precision,
                            .threads = o->threads};
    scd_code code = cli_worker_open(&w, &r->worker, err);
    if (!code)
        r->model = cli_worker_model(r->worker);
    return code;
}

static scd_code make_plan(run *r, scd_error *err)
{
    scd_file_plan_options options = {0};
    cli_task_plan(r->o, &options);
    cli_worker_genes(r->worker, &options);
    scd_code code = scd_cells_plan(r->cells, &options, &r->arena, &r->plan, err);
    if (!code && !r->model->is_trained)
        scd_file_plan_warn(&r->plan, &r->arena,
                           "model \"%s\" has random weights: its answers mean "
                           "nothing",
                           r->model->name);
    if (!code && !r->o->quiet) {
        cli_print_notes("note", r->plan.decisions, r->plan.n_decisions);
        cli_print_notes("warning", r->plan.warnings, r->plan.n_warnings);
    }
    return code;
}

static size_t block_of(const run *r)
{
    const scd_file_plan *p = &r->plan;
    double stored = (double)p->n_stored / (double)(p->n_cells ? p->n_cells : 1);
    double tokens = fmin(p->values_per_cell, (double)r->model->max_gene_len);
    double cells = fmin(BLOCK_TOKENS / (tokens + 1), BLOCK_ENTRIES / (stored + 1));
    return cells < 1 ? 1 : cells > BLOCK_CELLS ? BLOCK_CELLS : (size_t)cells;
}

static scd_code open_results(run *r, scd_error *err)
{
    const cli_head *head = &r->model->head;
    const cli_task *o = r->o;
    scd_results_spec spec = {.path = o->output,
                             .cells = r->cells,
                             .plan = &r->plan,
                             .task = o->verb,
                             .overwrite = o->overwrite,
                             .embedding_width = wants_embeddings(o) ? r->model->width : 0,
                             .n_labels = head->name ? head->n_labels : 0,
                             .labels = head->labels,
                             .threshold = o->has_threshold ? o->threshold : head->threshold};
    r->block = block_of(r);
    r->said = scd_malloc(r->block, sizeof *r->said);
    if (spec.embedding_width)
        r->embeddings = scd_malloc(r->block, spec.embedding_width * sizeof(float));
    if (spec.n_labels)
        r->probabilities = scd_malloc(r->block, spec.n_labels * sizeof(float));
    if (!r->said || (spec.embedding_width && !r->embeddings) ||
        (spec.n_labels && !r->probabilities))
        return scd_fail(err, SCD_E_NOMEM, "out of memory");
    return scd_results_open(&spec, &r->results, err);
}

static scd_code run_block(run *r, size_t first, size_t n, scd_error *err)
{
    scd_arena arena;
    scd_cells_rows rows;
    scd_arena_init(&arena, BLOCK_BYTES);
    scd_code code =
        scd_cells_rows_read(r->cells, r->plan.choice.matrix, first, n, &arena, &rows, err);
    if (!code)
        code = cli_worker_run(r->worker, &r->plan, &rows, first, r->embeddings, r->probabilities,
                              r->said, err);
    if (!code)
        code = scd_run_count(&r->sums, r->said, n, first, strcmp(r->o->on_error, "fail") == 0,
                             r->o->input, err);
    scd_results_block block = {n, r->embeddings, r->probabilities, &rows, NULL};
    if (!code)
        code = scd_results_add(r->results, &block, err);
    scd_arena_release(&arena);
    return code;
}

static scd_code run_all(run *r, scd_error *err)
{
    scd_code code = SCD_OK;
    cli_progress_begin(&r->progress, r->plan.n_cells, r->o->quiet);
    for (size_t at = 0; at < r->plan.n_cells && !code; at += r->block) {
        size_t n = r->plan.n_cells - at < r->block ? r->plan.n_cells - at : r->block;
        code = interrupted ? scd_fail(err, SCD_E_CANCELED, "interrupted; nothing was written")
                           : run_block(r, at, n, err);
        cli_progress_add(&r->progress, n);
    }
    cli_progress_end(&r->progress);
    return code;
}

static scd_code judge(run *r, scd_error *err)
{
    size_t before = r->plan.n_warnings;
    scd_code code = scd_run_judge(&r->sums, &r->plan, &r->arena, r->o->force, r->o->input,
                                  r->model->name, r->model->max_gene_len, r->model->head.name, err);
    if (!code && !r->o->quiet)
        cli_print_notes("warning", r->plan.warnings + before, r->plan.n_warnings - before);
    return code;
}

/* Of a file; "" of a folder. */
static scd_code digest_input(run *r, char hex[SCD_DIGEST_HEX], scd_error *err)
{
    const scd_digest *known = scd_results_input_digest(r->results);
    scd_digest digest;
    size_t n_bytes;
    int fd = -1;
    hex[0] = '\0';
    if (known) {
        scd_digest_hex(known, hex);
        return SCD_OK;
    }
    if (scd_file_open(r->o->input, &fd, &n_bytes, NULL))
        return SCD_OK;
    scd_hasher *hasher = scd_hasher_new();
    scd_code code = hasher ? scd_hasher_add_file(hasher, fd, r->o->input, err)
                           : scd_fail(err, SCD_E_NOMEM, "out of memory");
    if (!code) {
        digest = scd_hasher_finish(hasher);
        scd_digest_hex(&digest, hex);
    }
    scd_hasher_free(hasher);
    close(fd);
    return code;
}

static void release(run *r)
{
    scd_results_free(r->results);
    free(r->probabilities);
    free(r->embeddings);
    free(r->said);
    scd_arena_release(&r->arena);
    scd_cells_close(r->cells);
    cli_worker_close(r->worker);
}

int cli_run_task(const cli_verb *verb, int argc, char **argv)
{
    cli_task o = {.verb = verb->name, .on_error = "skip", .device = "auto", .precision = "auto"};
    cli_option table[CLI_MAX_OPTIONS];
    scd_fact facts[CLI_MAX_FACTS];
    char sha256[SCD_DIGEST_HEX] = "";
    scd_error err = {0};
    run r = {.o = &o};
    int64_t start = scd_now_ns();
    int status = cli_args_read(verb, table, cli_task_options(&o, table), argc, argv, &o.input);
    if (!status)
        status = check(verb, &o);
    if (status)
        return status < 0 ? CLI_OK : status;
    scd_arena_init(&r.arena, SIZE_MAX / 2);
    signal(SIGINT, on_signal);
    signal(SIGTERM, on_signal);
    signal(SIGPIPE, SIG_IGN);
    scd_code code = scd_cells_open_confined(o.input, NULL, &r.cells, &err);
    if (!code)
        code = open_worker(&r, &err);
    if (!code)
        code = make_plan(&r, &err);
    if (!code)
        code = open_results(&r, &err);
    if (!code)
        code = run_all(&r, &err);
    if (!code)
        code = judge(&r, &err);
    if (!code)
        code = digest_input(&r, sha256, &err);
    size_t n = code ? 0
                    : cli_task_facts(&o, r.model, &r.plan, &r.sums, sha256,
                                     scd_cells_format(r.cells), &r.arena, facts);
    if (!code)
        code = scd_results_commit(r.results, facts, n, &err);
    r.sums.seconds = (double)(scd_now_ns() - start) * 1e-9;
    status = code ? cli_fail(&err, o.json) : cli_task_report(&o, r.model, facts, n, &r.sums);
    release(&r);
    return status;
}
