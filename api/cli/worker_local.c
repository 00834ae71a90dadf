/* worker_local.c - a worker that looks into a model directory; see worker.h. */
#include "api/cli/worker_impl.h"

#include "engine/base/mem.h"
#include "engine/model/model.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void close_local(cli_worker *worker)
{
    scd_model_close(worker->self);
}

/* ---- what it would cost ---- */

/* Rough rates of one core, in operations a second: what `inspect` guesses a run's time by. */
static double flops_of(const char *isa, size_t threads)
{
    static const struct {
        const char *isa;
        double flops;
    } known[] = {{"avx512_bf16", 4e11}, {"avx512", 2e11}, {"avx2", 8e10}, {"generic", 4e9}};
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    double n = threads ? (double)threads : cores > 0 ? (double)cores : 1;
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (strcmp(known[i].isa, isa) == 0)
            return known[i].flops * n;
    return 2e14; /* a GPU */
}

/* Work of one token: every weight but those of the genes' tables, once. */
static void estimate(cli_worker *worker, const scd_model_config *c, size_t n_params, size_t bytes,
                     double flops_per_second)
{
    size_t of_genes = c->vocab * (c->d + c->hidden_dim);
    worker->weight_bytes = (double)n_params * (double)bytes;
    worker->flops_per_token = 2 * (double)(n_params > of_genes ? n_params - of_genes : 0);
    worker->flops_per_second = flops_per_second;
}

/* ---- genes ---- */

static const scd_vocab *vocab_of(const cli_worker *worker)
{
    return scd_model_vocab(worker->self);
}

static scd_code resolve_here(void *arg, const char *const *names, size_t n, int32_t *tokens,
                             scd_rung *rungs, scd_error *err)
{
    scd_gene_book book = scd_gene_book_of(vocab_of(arg));
    return book.resolve(book.arg, names, n, tokens, rungs, err);
}

static bool is_mouse_here(void *arg, const char *name)
{
    const scd_vocab *vocab = vocab_of(arg);
    return scd_vocab_is_human(vocab) && scd_vocab_looks_mouse(vocab, name, strlen(name));
}

static const cli_worker_ops ops = {close_local, resolve_here, is_mouse_here};

scd_code cli_worker_open_local(cli_worker *worker, const cli_worker_options *o, scd_error *err)
{
    scd_model *model = NULL;
    scd_code code = scd_model_open(o->model, &model, err);
    if (code)
        return code;
    worker->ops = &ops;
    worker->self = model;
    const scd_model_config *c = scd_model_get_config(model);
    bool has_bf16 = __builtin_cpu_supports("avx512bf16");
    const char *isa = has_bf16                              ? "avx512_bf16"
                      : __builtin_cpu_supports("avx512f")   ? "avx512"
                      : __builtin_cpu_supports("avx2") != 0 ? "avx2"
                                                            : "generic";
    worker->model = (cli_model){.name = scd_model_name(model), .max_gene_len = c->max_gene_len};
    estimate(worker, c, scd_model_n_params(model), has_bf16 ? 2 : 4, flops_of(isa, 0));
    return SCD_OK;
}
