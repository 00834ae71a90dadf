/* task.h - `scdiva embed` and `annotate`: the options of a run, and what is told of it.
 *
 * Threads: main. Owns: nothing. */
#ifndef SCD_CLI_TASK_H
#define SCD_CLI_TASK_H

#include "api/cli/cli.h"
#include "api/cli/worker.h"
#include "api/results.h"

typedef struct cli_task {
    const char *verb, *input;
    const char *output, *model, *server, *key_file, *head;
    const char *layer, *gene_column, *genome, *genes_in;
    const char *on_error, *device, *precision;
    double threshold;
    size_t threads;
    bool has_threshold, force, overwrite, embeddings, json, quiet;
} cli_task;

/* What the user says of the file, for the plan. */
void cli_task_plan(const cli_task *task, scd_file_plan_options *options);

typedef scd_run_sums cli_sums; /* over all cells */

enum { CLI_MAX_FACTS = SCD_RUN_MAX_FACTS };

/* The facts of uns["scdiva"][verb], in the arena; how many (api/run.h). */
size_t cli_task_facts(const cli_task *task, const cli_model *model, const scd_file_plan *plan,
                      const cli_sums *sums, const char *input_sha256, const char *format,
                      scd_arena *arena, scd_fact facts[CLI_MAX_FACTS]);
int cli_task_report(const cli_task *task, const cli_model *model, const scd_fact *facts, size_t n,
                    const cli_sums *sums);

#endif
