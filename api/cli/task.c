/* task.c - scdiva embed, annotate, perturb, integrate, impute, grn: a file of cells in, results
 * out.
 *
 * A run refuses what it can before it computes: options, output, model, file, genes. Then it reads
 * the file once, block by block, computes each and writes it; memory does not grow with the file.
 * The output appears at the end. With --server all of this is a job of a daemon (remote.c). */
#include "api/cli/task.h"

#include "api/confined.h"
#include "api/models.h"
#include "engine/base/clock.h"
#include "engine/base/mem.h"
#include "engine/model/file.h"

#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* A block is what one read, one computation and one step of the progress are: enough to fill a
 * device, and not so much that a slow one says nothing for long. */
enum {
    BLOCK_CELLS = 256,
    BLOCK_TOKENS = 1 << 16,
    BLOCK_ENTRIES = 1 << 20,
    BLOCK_ROWS_BYTES = 64 << 20
};
#define BLOCK_BYTES ((size_t)4 << 30)

static volatile sig_atomic_t interrupted;

static void on_signal(int number)
{
    (void)number;
    interrupted = 1;
}

bool cli_is_interrupted(void *unused)
{
    (void)unused;
    return interrupted != 0;
}

void cli_catch_signals(void)
{
    signal(SIGINT, on_signal);
    signal(SIGTERM, on_signal);
    signal(SIGPIPE, SIG_IGN);
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
    return cli_task_query(verb, o);
}

/* ---- a run in this process ------------------------------------------------------------------ */

typedef struct run {
    cli_task *o;
    scd_engine *engine;
    scd_cells *cells;
    scd_arena arena; /* of plan and task */
    scd_gene_book book;
    scd_file_plan plan;
    scd_task task;
    scd_results_spec spec;
    scd_results *results;
    cli_progress progress;
    scd_run_sums sums;
    float *rows;        /* (block, task.row_floats) */
    scd_run_cell *said; /* (block) */
    size_t block;       /* cells */
} run;

static scd_device_choice device_of(const char *name)
{
    return strcmp(name, "cpu") == 0    ? SCD_DEVICE_CPU
           : strcmp(name, "cuda") == 0 ? SCD_DEVICE_CUDA
                                       : SCD_DEVICE_AUTO;
}

static scd_precision precision_of(const char *name)
{
    return strcmp(name, "fp32") == 0   ? SCD_PRECISION_FP32
           : strcmp(name, "bf16") == 0 ? SCD_PRECISION_BF16
                                       : SCD_PRECISION_AUTO;
}

static scd_code open_engine(run *r, scd_error *err)
{
    cli_task *o = r->o;
    const char *const dirs[] = {o->model, o->uncorrected};
    const scd_engine_options options = {.device = device_of(o->device),
                                        .precision = precision_of(o->precision),
                                        .threads = (int)o->threads,
                                        .model_dirs = dirs,
                                        .n_models = o->uncorrected ? 2 : 1};
    scd_code code = scd_engine_open(&options, &r->engine, err);
    if (code || !o->uncorrected)
        return code;
    snprintf(o->query.uncorrected, sizeof o->query.uncorrected, "%s",
             scd_engine_model(r->engine, 1)->name);
    return SCD_OK;
}

/* The model, the head, and whether what is asked makes sense to them. */
static scd_code choose(run *r, scd_error *err)
{
    scd_problem problem = {0};
    scd_task *t = &r->task;
    t->query = &r->o->query;
    t->kind = scd_task_find(r->o->verb);
    t->who.engine = r->engine;
    t->who.device = scd_engine_device(r->engine);
    t->who.device_kind = scd_engine_device_kind(r->engine);
    scd_models_choose_for(t->kind, t->query, "", &t->who, &problem);
    if (!problem.kind)
        scd_task_check(t->query, &t->who, &problem);
    char text[CLI_PROBLEM_BYTES];
    if (!problem.kind)
        return SCD_OK;
    cli_problem_text(&problem, text);
    return scd_fail(err, SCD_E_INVALID, "%s", text);
}

static bool is_mouse(void *arg, const char *name)
{
    const scd_vocab *vocab = arg;
    return scd_vocab_is_human(vocab) && scd_vocab_looks_mouse(vocab, name, strlen(name));
}

static scd_code make_plan(run *r, scd_error *err)
{
    const scd_served_model *model = r->task.who.model;
    r->book = scd_gene_book_of(model->vocab);
    scd_file_plan_options options = {.book = &r->book,
                                     .is_mouse = is_mouse,
                                     .is_mouse_arg = (void *)model->vocab,
                                     .model = model->name};
    cli_task_plan(r->o, &options);
    scd_code code = scd_cells_plan(r->cells, &options, &r->arena, &r->plan, err);
    if (!code && !model->config->trained)
        scd_file_plan_warn(&r->plan, &r->arena,
                           "model \"%s\" has random weights: its answers mean nothing",
                           model->name);
    r->task.cells = r->cells;
    r->task.plan = &r->plan;
    r->task.arena = &r->arena;
    return code ? code : scd_task_open(&r->task, err);
}

static size_t block_of(const run *r)
{
    const scd_file_plan *p = &r->plan;
    double stored = (double)p->n_stored / (double)(p->n_cells ? p->n_cells : 1);
    double tokens = fmin(p->values_per_cell, (double)r->task.who.model->config->max_gene_len);
    double cells = fmin(BLOCK_TOKENS / (tokens + 1), BLOCK_ENTRIES / (stored + 1));
    cells = fmin(cells, BLOCK_ROWS_BYTES / (double)(r->task.row_floats * sizeof(float) + 1));
    if (r->spec.denoised)
        cells = fmin(cells, BLOCK_ENTRIES / (double)(p->n_genes + 1));
    return cells < 1 ? 1 : cells > BLOCK_CELLS ? BLOCK_CELLS : (size_t)cells;
}

static scd_code open_results(run *r, scd_error *err)
{
    r->spec = scd_task_spec(&r->task);
    r->spec.path = r->o->output;
    r->spec.overwrite = r->o->overwrite;
    r->block = block_of(r);
    r->said = scd_malloc(r->block, sizeof *r->said);
    r->rows = scd_malloc(r->block, (r->task.row_floats + 1) * sizeof *r->rows);
    if (!r->said || !r->rows)
        return scd_fail(err, SCD_E_NOMEM, "out of memory");
    return scd_results_open(&r->spec, &r->results, err);
}

/* Rows from *row on, as many as are worth a computation; a cell may take many passes. */
static scd_code compute_some(run *r, const scd_cells_rows *rows, size_t first, size_t *row,
                             scd_error *err)
{
    scd_arena arena;
    scd_task_chunk chunk;
    scd_code code = SCD_OK;
    size_t from = *row;
    scd_arena_init(&arena, BLOCK_BYTES);
    scd_task_chunk_init(&chunk, &arena);
    for (; *row < rows->n && !code && chunk.n_tokens < BLOCK_TOKENS; ++*row)
        code = scd_task_add(&r->task, rows, *row, first, r->rows + *row * r->task.row_floats,
                            &chunk, r->said + *row, err);
    if (!code)
        code = cli_compute(r->engine, &r->task, &chunk, err);
    for (const scd_task_order *o = chunk.first; o && !code; o = o->next)
        scd_task_take(&r->task, o);
    scd_arena_release(&arena);
    if (!code)
        cli_progress_add(&r->progress, *row - from);
    return code;
}

static scd_code compute_block(run *r, const scd_cells_rows *rows, size_t first, scd_error *err)
{
    scd_code code = SCD_OK;
    for (size_t row = 0; row < rows->n && !code;)
        code = compute_some(r, rows, first, &row, err);
    return code;
}

static scd_code run_block(run *r, size_t first, size_t n, scd_error *err)
{
    scd_arena arena;
    scd_cells_rows rows;
    scd_results_block block;
    size_t stride = r->task.row_floats * sizeof *r->rows;
    scd_arena_init(&arena, BLOCK_BYTES);
    scd_code code =
        scd_cells_rows_read(r->cells, r->plan.choice.matrix, first, n, &arena, &rows, err);
    if (!code)
        code = compute_block(r, &rows, first, err);
    if (!code)
        code =
            scd_run_count(&r->sums, r->said, n, first, r->o->query.fail_on_error, r->o->input, err);
    if (!code && scd_task_folds(&r->task))
        code = scd_task_fold(&r->task, r->said, r->rows, stride, n, first, err);
    if (!code)
        code = scd_task_block(&r->spec, r->rows, stride, n, &rows, &arena, &block, err);
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
        code = interrupted ? SCD_E_CANCELED : run_block(r, at, n, err);
    }
    cli_progress_end(&r->progress);
    return code == SCD_E_CANCELED ? scd_fail(err, code, "interrupted; nothing was written") : code;
}

/* What is known now that all cells are there. */
static scd_code judge(run *r, scd_error *err)
{
    const scd_task_model *who = &r->task.who;
    scd_code code =
        scd_run_judge(&r->sums, &r->plan, &r->arena, r->o->force, r->o->input, who->model->name,
                      who->model->config->max_gene_len, who->head ? who->head->name : NULL, err);
    if (!code && scd_task_folds(&r->task))
        code = scd_task_finish(&r->task, err);
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
    free(r->rows);
    free(r->said);
    scd_arena_release(&r->arena);
    scd_cells_close(r->cells);
    scd_engine_close(r->engine);
}

/* Notes and warnings from these on. */
static void print_notes(const run *r, size_t decisions, size_t warnings)
{
    const scd_file_plan *p = &r->plan;
    if (r->o->quiet)
        return;
    cli_print_notes("note", p->decisions + decisions, p->n_decisions - decisions);
    cli_print_notes("warning", p->warnings + warnings, p->n_warnings - warnings);
}

/* From the file to all cells computed. */
static scd_code go(run *r, scd_error *err)
{
    scd_code code = scd_cells_open_confined(r->o->input, NULL, &r->cells, err);
    if (!code)
        code = open_engine(r, err);
    if (!code)
        code = choose(r, err);
    if (!code)
        code = make_plan(r, err);
    if (code)
        return code;
    print_notes(r, 0, 0);
    size_t n_decisions = r->plan.n_decisions, n_warnings = r->plan.n_warnings;
    code = open_results(r, err);
    if (!code)
        code = run_all(r, err);
    if (!code)
        code = judge(r, err);
    if (!code)
        print_notes(r, n_decisions, n_warnings);
    return code;
}

static int run_here(cli_task *o)
{
    scd_fact facts[SCD_RUN_MAX_FACTS];
    char sha256[SCD_DIGEST_HEX] = "";
    scd_error err = {0};
    run r = {.o = o};
    size_t n = 0;
    int64_t start = scd_now_ns();
    scd_arena_init(&r.arena, SIZE_MAX / 2);
    scd_code code = go(&r, &err);
    if (!code)
        code = digest_input(&r, sha256, &err);
    if (!code)
        n = scd_task_facts(&r.task, &r.sums, o->query.filename, sha256, facts);
    if (!code)
        code = scd_results_commit(r.results, facts, n, &err);
    r.sums.seconds = (double)(scd_now_ns() - start) * 1e-9;
    int status = code ? cli_fail(&err, o->json) : cli_task_report(o, &r.task, facts, n, &r.sums);
    release(&r);
    return status;
}

int cli_run_task(const cli_verb *verb, int argc, char **argv)
{
    cli_task o = {.verb = verb->name, .device = "auto", .precision = "auto"};
    cli_option table[CLI_MAX_OPTIONS];
    int status =
        cli_args_read(verb, table, cli_task_options(verb, &o, table), argc, argv, &o.input);
    if (!status)
        status = check(verb, &o);
    if (status)
        return status < 0 ? CLI_OK : status;
    cli_catch_signals();
    return o.server ? cli_run_remote(&o) : run_here(&o);
}
