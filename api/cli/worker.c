/* worker.c - see worker.h. */
#include "api/cli/worker_impl.h"

#include "engine/base/mem.h"

#include <stdlib.h>

scd_code cli_worker_open(const cli_worker_options *options, cli_worker **out, scd_error *err)
{
    cli_worker *worker = scd_calloc(1, sizeof *worker);
    if (!worker)
        return scd_fail(err, SCD_E_NOMEM, "out of memory");
    scd_code code = options->server ? cli_worker_open_remote(worker, options, err)
                                    : cli_worker_open_local(worker, options, err);
    if (code) {
        cli_worker_close(worker);
        return code;
    }
    worker->book = (scd_gene_book){worker->ops->resolve, worker};
    *out = worker;
    return SCD_OK;
}

void cli_worker_close(cli_worker *worker)
{
    if (worker && worker->ops)
        worker->ops->close(worker);
    free(worker);
}

const cli_model *cli_worker_model(const cli_worker *worker)
{
    return &worker->model;
}

void cli_worker_genes(cli_worker *worker, scd_file_plan_options *options)
{
    options->book = &worker->book;
    options->is_mouse = worker->ops->is_mouse;
    options->is_mouse_arg = worker;
    options->model = worker->model.name;
}

void cli_worker_estimate(const cli_worker *worker, double n_tokens, double *bytes, double *seconds)
{
    double flops = worker->flops_per_token * n_tokens;
    *bytes = worker->weight_bytes;
    *seconds = worker->flops_per_second > 0 ? flops / worker->flops_per_second : 0;
}
