/* inspect.c - scdiva inspect and validate: what a file holds, what of it would be used, how much of
 * it the model knows; nothing is computed.
 *
 * inspect looks at up to 1,000 rows; validate reads all of them. Without --model or --server the
 * model is $SCDIVA_MODEL, else the one that comes with the program; without any, names are not
 * mapped.
 *
 * Threads: main. Owns: everything of the run. */
#include "api/cli/cli.h"
#include "api/cli/task.h"
#include "api/cli/worker.h"
#include "api/confined.h"
#include "api/json_write.h"
#include "engine/base/mem.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    OUT_BYTES = 1 << 26,
    BLOCK_CELLS = 256,
    BLOCK_BYTES = 1 << 30,
    SHOWN = 20,
    PATH_BYTES = 4096
};

typedef struct inspection {
    cli_task o; /* the options that say what of the file is meant */
    bool is_validation;
    char bundled[PATH_BYTES];
    scd_cells *cells;
    cli_worker *worker; /* NULL: no model */
    const cli_model *model;
    scd_arena arena;
    scd_file_plan plan;
    scd_error fault;                          /* why it cannot be used; code OK: it can */
    const char *problems[SCD_PLAN_MAX_NOTES]; /* of validate */
    size_t n_problems;
    double memory_bytes, seconds;
} inspection;

size_t cli_inspect_options(const cli_verb *verb, void *into, cli_option *t)
{
    (void)verb;
    static const char *const sides[] = {"rows", "columns", NULL};
    cli_task *o = into;
    const cli_option all[] = {
        {"model", 'm', CLI_TEXT, &o->model, "DIR",
         "model directory ($SCDIVA_MODEL, else the bundled one)", 0, 0, 0, 0},
        {"server", 0, CLI_TEXT, &o->server, "URL", "ask a daemon which genes it knows", 0, 0, 0, 0},
        {"key-file", 0, CLI_TEXT, &o->key_file, "FILE",
         "its bearer token (else $SCDIVA_API_KEY, where set)", 0, 0, 0, 0},
        {"layer", 0, CLI_TEXT, &o->layer, "NAME", "the matrix (by evidence)", 0, 0, 0, 0},
        {"gene-column", 0, CLI_TEXT, &o->gene_column, "NAME",
         "the column of var that names the genes (by evidence)", 0, 0, 0, 0},
        {"genome", 0, CLI_TEXT, &o->genome, "NAME", "10x files of several: only this one's genes",
         0, 0, 0, 0},
        {"genes-in", 0, CLI_CHOICE, &o->genes_in, "rows|columns",
         "tables: where the genes are (by evidence)", sides, 0, 0, 0},
        {"force", 0, CLI_FLAG, &o->force, NULL,
         "less than half of the counts on known genes will do", 0, 0, 0, 0},
        {"json", 0, CLI_FLAG, &o->json, NULL, "as JSON", 0, 0, 0, 0},
    };
    memcpy(t, all, sizeof all);
    return sizeof all / sizeof all[0];
}

/* ---- the model ---- */

/* Beside the program: as installed, as built, as built for a sanitizer. */
static const char *find_bundled(inspection *in)
{
    static const char *const places[] = {"/../share/scdivad/models/pbmc", "/../config/models/pbmc",
                                         "/../../config/models/pbmc"};
    char program[PATH_BYTES / 2];
    ssize_t n = readlink("/proc/self/exe", program, sizeof program - 1);
    if (n <= 0)
        return NULL;
    program[n] = '\0';
    *strrchr(program, '/') = '\0';
    for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
        snprintf(in->bundled, sizeof in->bundled, "%s%s/genes.tsv", program, places[i]);
        if (access(in->bundled, R_OK))
            continue;
        *strrchr(in->bundled, '/') = '\0';
        return in->bundled;
    }
    return NULL;
}

static scd_code open_worker(inspection *in, scd_error *err)
{
    cli_task *o = &in->o;
    if (!o->server && !o->model)
        o->model = getenv("SCDIVA_MODEL");
    if (!o->server && !o->model)
        o->model = find_bundled(in);
    if (!o->server && !o->model)
        return SCD_OK;
    cli_worker_options w = {.model = o->model, .server = o->server, .key_file = o->key_file};
    scd_code code = cli_worker_open(&w, &in->worker, err);
    if (!code)
        in->model = cli_worker_model(in->worker);
    return code;
}

/* ---- validate: every row ---- */

static void problem(inspection *in, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static void problem(inspection *in, const char *fmt, ...)
{
    char text[1024];
    va_list args;
    if (in->n_problems == SCD_PLAN_MAX_NOTES)
        return;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    const char *copy = scd_arena_strndup(&in->arena, text, strlen(text));
    if (copy)
        in->problems[in->n_problems++] = copy;
}

static const char *judge_value(double value, scd_input_kind kind)
{
    if (!isfinite(value))
        return "is not finite";
    if (value < 0)
        return "is negative";
    if (kind == SCD_INPUT_COUNTS && value != floor(value))
        return "is a fraction, where the others are counts";
    if (kind == SCD_INPUT_LOG1P_CP10K && value > 9.21046)
        return "is above ln(1 + 10000), the most that log1p_cp10k can be";
    return NULL;
}

typedef struct pass {
    size_t n_bad, n_empty, n_unknown, first_empty;
} pass;

static void check_row(inspection *in, const scd_cells_rows *rows, size_t row, size_t cell, pass *p)
{
    bool has_known = false;
    for (uint64_t i = rows->indptr[row]; i < rows->indptr[row + 1]; i++) {
        uint32_t gene = rows->indices[i];
        const char *why = judge_value(rows->data[i], in->plan.choice.kind);
        if (in->plan.left_out[gene])
            continue;
        has_known = has_known || !in->plan.tokens || in->plan.tokens[gene] >= 0;
        if (why && p->n_bad++ < SHOWN)
            problem(in, "%s: %.9g in row %zu, gene \"%.80s\" %s", in->plan.choice.matrix,
                    rows->data[i], cell, in->plan.genes[gene], why);
    }
    if (!has_known && p->n_empty++ == 0)
        p->first_empty = cell;
}

static scd_code check_rows(inspection *in, scd_error *err)
{
    scd_code code = SCD_OK;
    pass p = {0};
    for (size_t at = 0; at < in->plan.n_cells && !code; at += BLOCK_CELLS) {
        size_t n = in->plan.n_cells - at < BLOCK_CELLS ? in->plan.n_cells - at : BLOCK_CELLS;
        scd_cells_rows rows;
        scd_arena arena;
        scd_arena_init(&arena, BLOCK_BYTES);
        code = scd_cells_rows_read(in->cells, in->plan.choice.matrix, at, n, &arena, &rows, err);
        for (size_t row = 0; row < n && !code; row++)
            check_row(in, &rows, row, at + row, &p);
        scd_arena_release(&arena);
    }
    if (p.n_bad > SHOWN)
        problem(in, "%zu values more are of no use", p.n_bad - SHOWN);
    if (p.n_empty)
        scd_file_plan_warn(&in->plan, &in->arena,
                           "%zu cells have no known gene with a value above 0 and would not be "
                           "answered, the first is row %zu",
                           p.n_empty, p.first_empty);
    return code;
}

/* Names that come more than once are allowed, and worth knowing. */
static scd_code check_names(inspection *in, const char *frame, const char *column, const char *what,
                            scd_error *err)
{
    scd_cells_categories c;
    scd_arena arena;
    scd_arena_init(&arena, BLOCK_BYTES);
    scd_code code = scd_cells_column_categories(in->cells, frame, column, &arena, &c, err);
    if (!code && c.n_categories < c.n)
        scd_file_plan_warn(&in->plan, &in->arena, "%zu %s, %zu of them different", c.n, what,
                           c.n_categories);
    scd_arena_release(&arena);
    return code;
}

static scd_code validate(inspection *in, scd_error *err)
{
    const scd_cells_choice *c = &in->plan.choice;
    scd_code code = check_names(in, c->obs_frame, NULL, "names of cells", err);
    if (!code)
        code = check_names(in, c->frame, c->gene_column, "names of genes", err);
    if (!code)
        code = check_rows(in, err);
    if (!code && in->n_problems)
        code = scd_fail(err, SCD_E_INVALID, "%s: %s", in->o.input, in->problems[0]);
    return code;
}

/* ---- what a run would take ---- */

static void estimate(inspection *in)
{
    double weights = 0, per_cell = 0;
    if (!in->worker)
        return;
    double tokens = in->plan.values_per_cell;
    if (tokens > (double)in->model->max_gene_len)
        tokens = (double)in->model->max_gene_len;
    cli_worker_estimate(in->worker, tokens, &weights, &per_cell);
    double entries =
        in->plan.n_cells ? (double)in->plan.n_stored / (double)in->plan.n_cells * BLOCK_CELLS : 0;
    in->memory_bytes = weights > 0 ? weights + 64e6 + entries * 40 : 0;
    in->seconds = per_cell * (double)in->plan.n_cells;
}

/* ---- telling ---- */

static const char *encoding_name(scd_cells_encoding e)
{
    return e == SCD_CELLS_DENSE ? "dense"
           : e == SCD_CELLS_CSR ? "csr"
           : e == SCD_CELLS_CSC ? "csc"
                                : "text";
}

static void json_matrices(const inspection *in, scd_buf *out)
{
    scd_buf_puts(out, ",\"matrices\":[");
    for (size_t i = 0; i < scd_cells_n_matrices(in->cells); i++) {
        scd_cells_matrix m;
        scd_error fault;
        const char *name = scd_cells_matrix_name(in->cells, i);
        scd_buf_puts(out, i ? ",{\"name\":" : "{\"name\":");
        scd_json_text(out, name);
        if (scd_cells_matrix_get(in->cells, name, &m, &fault))
            cli_json_text(out, "error", fault.message);
        else
            scd_buf_printf(out,
                           ",\"encoding\":\"%s\",\"rows\":%zu,\"columns\":%zu,\"stored\":%" PRIu64,
                           encoding_name(m.encoding), m.rows, m.cols, m.n_stored);
        scd_buf_putc(out, '}');
    }
    scd_buf_putc(out, ']');
}

static void json_columns(const inspection *in, const char *key, const char *frame, scd_buf *out)
{
    size_t n = frame ? scd_cells_n_columns(in->cells, frame) : 0;
    scd_buf_printf(out, ",\"%s\":[", key);
    for (size_t i = 0; i < n; i++) {
        scd_buf_puts(out, i ? "," : "");
        scd_json_text(out, scd_cells_column_name(in->cells, frame, i));
    }
    scd_buf_putc(out, ']');
}

static void json_plan(const inspection *in, scd_buf *out)
{
    const scd_file_plan *p = &in->plan;
    const scd_cells_choice *c = &p->choice;
    scd_buf_printf(out, ",\"cells\":%zu,\"genes\":%zu", p->n_cells, p->n_genes);
    cli_json_text(out, "matrix", c->matrix);
    cli_json_text(out, "values",
                  !c->matrix                    ? NULL
                  : c->kind == SCD_INPUT_COUNTS ? "counts"
                                                : "log1p_cp10k");
    cli_json_text(out, "gene_column", c->matrix && !c->gene_column ? "index" : c->gene_column);
    json_columns(in, "obs_columns", c->obs_frame ? c->obs_frame : "obs", out);
    json_columns(in, "var_columns", c->frame ? c->frame : "var", out);
    if (in->worker) {
        scd_buf_printf(out,
                       ",\"genes_known\":%zu,\"genes_unknown\":%zu,\"genes_ambiguous\":%zu,"
                       "\"genes_left_out\":%zu,\"rungs\":{",
                       p->n_known, p->n_unknown, p->n_ambiguous, p->n_left_out);
        for (int i = 0, n = 0; i < SCD_N_RUNGS; i++)
            if (p->rungs[i])
                scd_buf_printf(out, "%s\"%s\":%zu", n++ ? "," : "", scd_rung_name((scd_rung)i),
                               p->rungs[i]);
        scd_buf_puts(out, "},\"counts_mapped\":");
        scd_json_double(out, p->mapped_share);
    }
    scd_buf_printf(out, ",\"rows_looked_at\":%zu,\"values_per_cell\":", p->n_sampled);
    scd_json_double(out, p->values_per_cell);
}

static void write_json(const inspection *in, scd_buf *out)
{
    scd_buf_puts(out, "{\"input\":");
    scd_json_text(out, in->o.input);
    scd_buf_printf(out, ",\"usable\":%s", in->fault.code ? "false" : "true");
    cli_json_text(out, "reason", in->fault.code ? in->fault.message : NULL);
    if (in->cells) {
        cli_json_text(out, "format", scd_cells_format(in->cells));
        json_matrices(in, out);
        cli_json_text(out, "model", in->model ? in->model->name : NULL);
        json_plan(in, out);
        cli_json_texts(out, "decisions", in->plan.decisions, in->plan.n_decisions);
        cli_json_texts(out, "warnings", in->plan.warnings, in->plan.n_warnings);
        cli_json_texts(out, "problems", in->problems, in->n_problems);
        scd_buf_printf(out, ",\"estimate\":{\"memory_bytes\":%.0f,\"seconds\":%.0f}",
                       in->memory_bytes, in->seconds);
    }
    scd_buf_puts(out, "}\n");
}

static void tell_columns(const inspection *in, const char *frame, scd_buf *out)
{
    size_t n = scd_cells_n_columns(in->cells, frame);
    if (!scd_cells_frame_rows(in->cells, frame))
        return;
    scd_buf_printf(out, "%-10s", frame);
    for (size_t i = 0; i < n && i < SHOWN; i++)
        scd_buf_printf(out, "%s %s", i ? "," : "", scd_cells_column_name(in->cells, frame, i));
    scd_buf_puts(out, n > SHOWN ? ", ...\n" : n ? "\n" : " names alone\n");
}

static void tell_matrices(const inspection *in, scd_buf *out)
{
    for (size_t i = 0; i < scd_cells_n_matrices(in->cells); i++) {
        scd_cells_matrix m;
        scd_error fault;
        const char *name = scd_cells_matrix_name(in->cells, i);
        if (scd_cells_matrix_get(in->cells, name, &m, &fault))
            scd_buf_printf(out, "%-10s %s\n", name, fault.message);
        else
            scd_buf_printf(out, "%-10s %zu cells x %zu genes, %s, %" PRIu64 " values stored\n",
                           name, m.rows, m.cols, encoding_name(m.encoding), m.n_stored);
    }
}

static void tell(const inspection *in, scd_buf *out)
{
    const scd_file_plan *p = &in->plan;
    const scd_cells_choice *c = &p->choice;
    scd_buf_printf(out, "%s: %s\n", in->o.input, scd_cells_format(in->cells));
    tell_matrices(in, out);
    tell_columns(in, c->obs_frame ? c->obs_frame : "obs", out);
    tell_columns(in, c->frame ? c->frame : "var", out);
    scd_buf_putc(out, '\n');
    for (size_t i = 0; i < p->n_decisions; i++)
        scd_buf_printf(out, "%s\n", p->decisions[i]);
    if (in->model && !isnan(p->mapped_share))
        scd_buf_printf(out, "%.1f %% of the counts of %zu cells are of genes that model %s knows\n",
                       100 * p->mapped_share, p->n_sampled, in->model->name);
    else if (!in->model)
        scd_buf_puts(out, "no model: genes are not mapped (--model DIR)\n");
    if (in->seconds > 0 && !in->fault.code)
        scd_buf_printf(out, "a run would take some %.0f MB and, by a rough guess, %.0f s\n",
                       in->memory_bytes * 1e-6, in->seconds < 1 ? 1 : in->seconds);
    for (size_t i = 0; i < p->n_warnings; i++)
        scd_buf_printf(out, "warning: %s\n", p->warnings[i]);
    for (size_t i = 0; i < in->n_problems; i++)
        scd_buf_printf(out, "problem: %s\n", in->problems[i]);
    if (in->fault.code)
        scd_buf_printf(out, "of no use: %s\n", in->fault.message);
    else
        scd_buf_puts(out, "can be used\n");
}

/* ---- the whole ---- */

/* What is wrong with the file's content is a reason to be of no use, all else one not to be
 * readable. */
static int status_of(scd_code code)
{
    if (!code)
        return CLI_OK;
    return code == SCD_E_INVALID || code == SCD_E_NOT_FOUND ? CLI_FAILED : CLI_UNREADABLE;
}

static int look(inspection *in)
{
    scd_file_plan_options options = {0};
    scd_code code = scd_cells_open_confined(in->o.input, NULL, &in->cells, &in->fault);
    if (code)
        return CLI_UNREADABLE;
    if ((code = open_worker(in, &in->fault)))
        return CLI_UNREADABLE;
    cli_task_plan(&in->o, &options);
    if (in->worker)
        cli_worker_genes(in->worker, &options);
    code = scd_cells_plan(in->cells, &options, &in->arena, &in->plan, &in->fault);
    if (!code && in->is_validation)
        code = validate(in, &in->fault);
    estimate(in);
    return status_of(code);
}

int cli_inspect(const cli_verb *verb, int argc, char **argv)
{
    inspection *in = scd_calloc(1, sizeof *in);
    cli_option table[CLI_MAX_OPTIONS];
    scd_buf out;
    if (!in)
        return CLI_UNREADABLE;
    in->is_validation = strcmp(verb->name, "validate") == 0;
    in->o.verb = verb->name;
    in->plan.mapped_share = NAN;
    int status = cli_args_read(verb, table, cli_inspect_options(verb, &in->o, table), argc, argv,
                               &in->o.input);
    if (status) {
        free(in);
        return status < 0 ? CLI_OK : status;
    }
    scd_arena_init(&in->arena, SIZE_MAX / 2);
    scd_buf_init(&out, OUT_BYTES);
    status = look(in);
    if (in->o.json)
        write_json(in, &out);
    else if (in->cells)
        tell(in, &out);
    if (status && !in->o.json)
        fprintf(stderr, "scdiva: %s\n", in->fault.message);
    status = out.n_bytes ? cli_print(&out, status) : status;
    scd_buf_release(&out);
    scd_arena_release(&in->arena);
    scd_cells_close(in->cells);
    cli_worker_close(in->worker);
    free(in);
    return status;
}
