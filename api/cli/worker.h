/* worker.h - who knows a model's genes and sizes, without running it: its directory, or a daemon.
 *
 * Threads: main. Owns: model or connection, until close. */
#ifndef SCD_CLI_WORKER_H
#define SCD_CLI_WORKER_H

#include "api/cells_plan.h"

/* The model that was chosen; lives as long as the worker. */
typedef struct cli_model {
    const char *name;
    size_t max_gene_len;
} cli_model;

typedef struct cli_worker cli_worker;

typedef struct cli_worker_options {
    const char *model;    /* a directory, or a name on the server (NULL: its first) */
    const char *server;   /* NULL: a directory */
    const char *key_file; /* of the server's bearer token; NULL: $SCDIVA_API_KEY, if any */
} cli_worker_options;

scd_code cli_worker_open(const cli_worker_options *options, cli_worker **out, scd_error *err);
void cli_worker_close(cli_worker *worker); /* NULL is fine */

const cli_model *cli_worker_model(const cli_worker *worker);
/* Gene names as this model knows them, for scd_file_plan_options. */
void cli_worker_genes(cli_worker *worker, scd_file_plan_options *options);

/* What the model would cost: bytes of its weights in memory, and seconds of a cell of n tokens on
 * this machine (0: on a server, unknown). Estimates. */
void cli_worker_estimate(const cli_worker *worker, double n_tokens, double *bytes, double *seconds);

#endif
