/* task.h - `scdiva embed`, `annotate` and the other tasks of files: the options of a run, who
 * computes, and what is told of it.
 *
 * Threads: main. Owns: nothing. */
#ifndef SCD_CLI_TASK_H
#define SCD_CLI_TASK_H

#include "api/cli/cli.h"
#include "api/task.h"

typedef struct cli_task {
    const char *verb, *input;
    const char *output, *model, *server, *key_file;
    /* Parameters of the query (api/job_query.h), as they were given. */
    const char *layer, *gene_column, *genome, *genes_in, *on_error;
    const char *head, *genes, *pooling, *regulators, *top_k, *layers, *heads;
    const char *perturbations, *direction, *context, *top_genes, *control_column, *control;
    const char *batch_column, *label_column, *uncorrected;
    double threshold;
    bool has_threshold, embeddings, force, overwrite;
    const char *device, *precision;
    size_t threads;
    bool json, quiet;
    scd_job_query query; /* all of it, checked */
} cli_task;

/* ---- task_options.c ---- */
size_t cli_task_options(const cli_verb *verb, void *into, cli_option *table);
/* o->query from the options; CLI_OK, or CLI_USAGE after a message. */
int cli_task_query(const cli_verb *verb, cli_task *task);
/* A problem in the words of the command line: "genes_in" is --genes-in here. */
enum { CLI_PROBLEM_BYTES = 700 };
void cli_problem_text(const scd_problem *problem, char out[CLI_PROBLEM_BYTES]);
/* What the user says of the file, for the plan. */
void cli_task_plan(const cli_task *task, scd_file_plan_options *options);

/* ---- task.c ---- */
/* Somebody pressed Ctrl-C, or asked us to end. */
bool cli_is_interrupted(void *unused);
void cli_catch_signals(void); /* so that it is asked about, and a broken pipe is an error */

/* ---- compute.c: an engine in this process ---- */
/* All orders of the chunk. SCD_E_CANCELED: interrupted. */
scd_code cli_compute(scd_engine *engine, const scd_task *task, const scd_task_chunk *chunk,
                     scd_error *err);

/* ---- remote.c: a job of a daemon ---- */
int cli_run_remote(const cli_task *task);

/* ---- task_facts.c ---- */
int cli_task_report(const cli_task *task, const scd_task *run, const scd_fact *facts, size_t n,
                    const scd_run_sums *sums);

#endif
