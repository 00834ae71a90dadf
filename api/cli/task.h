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

/* The sums over all cells. */
typedef struct cli_sums {
    size_t n_cells, n_answered, n_poor, n_truncated_cells, first_unanswered;
    uint64_t n_tokens, n_truncated, n_unused;
    double mapped, given;
    double seconds; /* of the whole run; told, not written */
} cli_sums;

enum { CLI_MAX_FACTS = 40 };

/* The facts of uns["scdiva"][verb], in the arena; how many. They do not depend on when, where or
 * how long: the same input and model give the same ones. */
size_t cli_task_facts(const cli_task *task, const cli_model *model, const scd_file_plan *plan,
                      const cli_sums *sums, const char *input_sha256, const char *format,
                      scd_arena *arena, scd_fact facts[CLI_MAX_FACTS]);
int cli_task_report(const cli_task *task, const cli_model *model, const scd_fact *facts, size_t n,
                    const cli_sums *sums);

#endif
