/* worker.h - who computes: an engine in this process, or a daemon. Both give the same bits.
 *
 * Threads: main. Owns: engine or connection, until close. */
#ifndef SCD_CLI_WORKER_H
#define SCD_CLI_WORKER_H

#include "api/run.h"

typedef struct cli_head {
    const char *name, *digest_hex;
    size_t n_labels;
    const char *const *labels;       /* (n_labels) */
    const char *const *ontology_ids; /* (n_labels) "" where there is none */
    double threshold;
} cli_head;

/* The model that was chosen; lives as long as the worker. */
typedef struct cli_model {
    const char *name, *digest_hex;
    size_t width, max_gene_len;
    bool is_trained;
    const char *device, *isa, *precision;
    cli_head head; /* name NULL: none was asked for */
} cli_model;

typedef scd_run_cell cli_cell; /* what came out of one cell */

typedef struct cli_worker cli_worker;

typedef struct cli_worker_options {
    const char *model;    /* a directory, or a name on the server (NULL: its first) */
    const char *server;   /* NULL: in this process */
    const char *key_file; /* of the server's bearer token; NULL: $SCDIVA_API_KEY, if any */
    const char *head;     /* NULL: the only one */
    bool needs_head;
    bool looks_only;                /* no engine: genes and sizes alone; run is not to be called */
    const char *device, *precision; /* in process: "auto", ... */
    size_t threads;
} cli_worker_options;

scd_code cli_worker_open(const cli_worker_options *options, cli_worker **out, scd_error *err);
void cli_worker_close(cli_worker *worker); /* NULL is fine */

const cli_model *cli_worker_model(const cli_worker *worker);
/* Gene names as this model knows them, for scd_file_plan_options. */
void cli_worker_genes(cli_worker *worker, scd_file_plan_options *options);

/* Rows of the plan's matrix, the first of which is row `first`: embeddings (n, width) unless NULL,
 * probabilities (n, n_labels) unless NULL, cells (n). A cell without known genes is not answered:
 * its rows are NaN. SCD_E_INVALID names cell and gene where a value is of no use. */
scd_code cli_worker_run(cli_worker *worker, const scd_file_plan *plan, const scd_cells_rows *rows,
                        size_t first, float *embeddings, float *probabilities, cli_cell *cells,
                        scd_error *err);

/* What the model would cost: bytes of its weights in memory, and seconds of a cell of n tokens on
 * this machine (0: on a server, unknown). Estimates. */
void cli_worker_estimate(const cli_worker *worker, double n_tokens, double *bytes, double *seconds);

#endif
