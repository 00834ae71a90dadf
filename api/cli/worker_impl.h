/* worker_impl.h - the two kinds of worker behind worker.h.
 *
 * Threads: main. Owns: `self`. */
#ifndef SCD_CLI_WORKER_IMPL_H
#define SCD_CLI_WORKER_IMPL_H

#include "api/cli/worker.h"

typedef struct cli_worker_ops {
    void (*close)(cli_worker *worker);
    scd_code (*resolve)(void *arg, const char *const *names, size_t n, int32_t *tokens,
                        scd_rung *rungs, scd_error *err);
    bool (*is_mouse)(void *arg, const char *name); /* NULL: by ENSMUSG alone */
} cli_worker_ops;

struct cli_worker {
    const cli_worker_ops *ops;
    void *self;
    cli_model model;
    scd_gene_book book; /* of ops->resolve */
    double weight_bytes, flops_per_token, flops_per_second;
};

scd_code cli_worker_open_local(cli_worker *worker, const cli_worker_options *o, scd_error *err);
scd_code cli_worker_open_remote(cli_worker *worker, const cli_worker_options *o, scd_error *err);

#endif
