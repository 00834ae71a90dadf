/* task_options.c - the options of the verbs that are tasks of files, and the query that they are;
 * see task.h.
 *
 * Which parameters a task takes is asked of the table of tasks (api/task.h). Names of a query have
 * underscores where options have dashes. */
#include "api/cli/task.h"
#include "api/results.h"
#include "engine/model/file.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAX_LIST_FILE = 1 << 20, DOUBLE_BYTES = 40 };

static const char *const sides[] = {"rows", "columns", NULL};
static const char *const on_errors[] = {"skip", "fail", NULL};
static const char *const directions[] = {"activation", "knockdown", NULL};
static const char *const poolings[] = {"visible", "clean", NULL};

/* The parameters that are text; `common`: of every task. */
static const struct {
    const char *option, *param;
    size_t at;
    bool common;
    const char *const *choices;
    const char *value, *help;
} params[] = {
#define AT(name) #name, offsetof(cli_task, name)
    {"head", AT(head), false, NULL, "NAME", "which head, where a model has several"},
    {"genes", AT(genes), false, NULL, "A,B|@FILE",
     "genes to impute (every gene of the file that the model knows)"},
    {"pooling", AT(pooling), false, poolings, "visible|clean",
     "clean leaks what is hidden: for comparison alone (visible)"},
    {"regulators", AT(regulators), false, NULL, "A,B|@FILE", "genes whose associations are wanted"},
    {"top-k", AT(top_k), false, NULL, "N", "targets of each regulator (20)"},
    {"layers", AT(layers), false, NULL, "0,1", "layers of the model whose attention counts (all)"},
    {"heads", AT(heads), false, NULL, "0,1", "heads of the attention that count (all)"},
    {"perturbations", AT(perturbations), false, NULL, "A,A+B|@FILE",
     "what is perturbed: + stands between the genes of one"},
    {"direction", AT(direction), false, directions, "activation|knockdown",
     "of the perturbations (that of the context nearest to the controls)"},
    {"context", AT(context), false, NULL, "NAME",
     "of the head that answers (the nearest to the controls)"},
    {"top-genes", AT(top_genes), false, NULL, "N",
     "only so many genes of each perturbation, those that change most (all)"},
    {"control-column", AT(control_column), false, NULL, "NAME",
     "the column of obs that says which cells are controls (all are)"},
    {"control", AT(control), false, NULL, "VALUE", "what it has for a control (control)"},
    {"batch-column", AT(batch_column), false, NULL, "NAME",
     "the column of obs that names batches: tells how well they are mixed"},
    {"label-column", AT(label_column), false, NULL, "NAME",
     "the column that names types: tells how well they are kept apart"},
    {"uncorrected", AT(uncorrected), false, NULL, "DIR",
     "a model to compare with, the one before fine-tuning; with --server its name"},
    {"layer", AT(layer), true, NULL, "NAME",
     "the matrix: X, raw/X, a layer (by evidence: layers/counts, raw/X, X)"},
    {"gene-column", AT(gene_column), true, NULL, "NAME",
     "the column of var that names the genes (by evidence); \"index\""},
    {"genome", AT(genome), true, NULL, "NAME", "10x files of several: only this one's genes"},
    {"genes-in", AT(genes_in), true, sides, "rows|columns",
     "tables: where the genes are (by evidence)"},
    {"on-error", AT(on_error), true, on_errors, "skip|fail",
     "cells without a known gene: leave unanswered (skip), or stop"},
#undef AT
};
enum { N_PARAMS = sizeof params / sizeof params[0] };

static const char **text_at(cli_task *o, size_t i)
{
    return (const char **)(void *)((char *)o + params[i].at);
}

size_t cli_task_options(const cli_verb *verb, void *into, cli_option *t)
{
    static const char *const devices[] = {"auto", "cpu", "cuda", NULL};
    static const char *const precisions[] = {"auto", "fp32", "bf16", NULL};
    cli_task *o = into;
    const scd_task_kind *kind = scd_task_find(verb->name);
    const cli_option first[] = {
        {"output", 'o', CLI_TEXT, &o->output, "FILE", ".h5ad, .csv, .tsv or .npy", 0, 0, 0, 0},
        {"model", 'm', CLI_TEXT, &o->model, "DIR", "model directory; with --server its name there",
         0, 0, 0, 0},
        {"server", 0, CLI_TEXT, &o->server, "URL", "as a job of a daemon; the same bytes", 0, 0, 0,
         0},
        {"key-file", 0, CLI_TEXT, &o->key_file, "FILE",
         "its bearer token (else $SCDIVA_API_KEY, where set)", 0, 0, 0, 0},
    };
    const cli_option of_annotate[] = {
        {"threshold", 0, CLI_NUMBER, &o->threshold, "P",
         "below it a cell is unknown (the head's own)", 0, 0, 1, &o->has_threshold},
        {"embeddings", 0, CLI_FLAG, &o->embeddings, NULL, "write embeddings as well", 0, 0, 0, 0},
    };
    const cli_option last[] = {
        {"force", 0, CLI_FLAG, &o->force, NULL,
         "go on where less than half of the counts is on known genes", 0, 0, 0, 0},
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
    size_t n = sizeof first / sizeof first[0];
    memcpy(t, first, sizeof first);
    for (size_t i = 0; i < N_PARAMS; i++)
        if (params[i].common || scd_task_takes(kind, params[i].param))
            t[n++] = (cli_option){.name = params[i].option,
                                  .kind = params[i].choices ? CLI_CHOICE : CLI_TEXT,
                                  .to = text_at(o, i),
                                  .value = params[i].value,
                                  .help = params[i].help,
                                  .choices = params[i].choices};
    if (scd_task_takes(kind, "threshold")) {
        memcpy(t + n, of_annotate, sizeof of_annotate);
        n += sizeof of_annotate / sizeof of_annotate[0];
    }
    memcpy(t + n, last, sizeof last);
    return n + sizeof last / sizeof last[0];
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

/* ---- the query ------------------------------------------------------------------------------ */

/* Of a file of names, with blanks, commas or line ends between: with commas alone. free() it. */
static scd_code read_list(const char *path, char **out, scd_error *err)
{
    int fd = -1;
    size_t n = 0, n_bytes;
    char *text = NULL;
    scd_code code = scd_file_open(path, &fd, &n_bytes, err);
    if (!code)
        code = scd_file_read(fd, path, MAX_LIST_FILE, &text, &n_bytes, err);
    if (fd >= 0)
        close(fd);
    if (code)
        return code;
    for (size_t i = 0; i < n_bytes; i++) {
        bool is_between = strchr(" \t\r\n,", text[i]) != NULL;
        if (!is_between)
            text[n++] = text[i];
        else if (n && text[n - 1] != ',')
            text[n++] = ',';
    }
    text[n && text[n - 1] == ',' ? n - 1 : n] = '\0';
    *out = text;
    return SCD_OK;
}

static int set(const cli_verb *verb, cli_task *o, size_t i, scd_problem *problem)
{
    const char *text = *text_at(o, i);
    char *list = NULL;
    scd_error err = {0};
    if (text && *text == '@' && read_list(text + 1, &list, &err))
        return cli_usage(verb, "--%s %s: %s", params[i].option, text, err.message);
    if (text)
        scd_job_query_set(&o->query, params[i].param, list ? list : text, problem);
    free(list);
    return CLI_OK;
}

void cli_problem_text(const scd_problem *problem, char out[CLI_PROBLEM_BYTES])
{
    static const char of_queries[] = " (a parameter of the query)";
    const scd_problem_error *first = &problem->errors[0];
    if (!problem->n_errors || first->pointer[0] != '/') {
        snprintf(out, CLI_PROBLEM_BYTES, "%s", problem->detail);
        return;
    }
    int n = (int)strcspn(first->pointer + 1, "/");
    snprintf(out, CLI_PROBLEM_BYTES, "--%.*s %s", n, first->pointer + 1, first->detail);
    for (int i = 2; i < 2 + n; i++)
        out[i] = out[i] == '_' ? '-' : out[i];
    char *end = strstr(out, of_queries);
    if (end)
        *end = '\0';
}

int cli_task_query(const cli_verb *verb, cli_task *o)
{
    scd_problem problem = {0};
    scd_job_query *q = &o->query;
    const char *suffix = strrchr(o->output, '.'), *slash = strrchr(o->input, '/');
    size_t n_input = strlen(o->input);
    *q = (scd_job_query){.has_threshold = o->has_threshold,
                         .threshold = o->threshold,
                         .embeddings = o->embeddings,
                         .force = o->force,
                         .overwrite = o->overwrite};
    scd_job_query_set(q, "task", o->verb, &problem);
    scd_job_query_set(q, "format", suffix ? suffix + 1 : "", &problem);
    const char *name = slash && slash + 1 < o->input + n_input ? slash + 1 : o->input;
    snprintf(q->filename, sizeof q->filename, "%s", name);
    for (size_t i = 0; i < N_PARAMS; i++)
        if (set(verb, o, i, &problem))
            return CLI_USAGE;
    if (!problem.kind)
        scd_job_query_check(q, &problem);
    char text[CLI_PROBLEM_BYTES];
    if (!problem.kind)
        return CLI_OK;
    cli_problem_text(&problem, text);
    return cli_usage(verb, "%s", text);
}
