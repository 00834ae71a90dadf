/* engine.c - see engine.h. */
#include "engine/engine.h"

#include "engine/base/mem.h"
#include "engine/model/forward.h"
#include "engine/model/model.h"

#include <stdlib.h>
#include <string.h>

/* On a CPU a batch gains nothing beyond a few hundred rows, and a short one lets a waiting single
 * cell in sooner; a GPU wants to be filled. */
enum { CPU_BATCH_ROWS = 2048, CUDA_BATCH_ROWS = 65536 };

typedef struct slot {
    scd_model *model;
    scd_forward *forward;
    scd_served_model served;
} slot;

struct scd_engine {
    const scd_backend *be;
    scd_device *device;
    size_t max_rows;
    size_t n_models;
    slot *slots;
    char why[512];
};

static scd_code open_models(scd_engine *e, const scd_engine_options *o, scd_error *err)
{
    for (size_t i = 0; i < o->n_models; i++) {
        scd_code code = scd_model_open(o->model_dirs[i], &e->slots[i].model, err);
        if (code)
            return code;
        e->n_models = i + 1;
        const char *name = scd_model_name(e->slots[i].model);
        for (size_t j = 0; j < i; j++)
            if (!strcmp(name, scd_model_name(e->slots[j].model)))
                return scd_fail(err, SCD_E_INVALID,
                                "two models are called \"%s\": rename one directory", name);
        size_t need = scd_model_get_config(e->slots[i].model)->max_gene_len + 1;
        if (e->max_rows < need)
            e->max_rows = need;
    }
    return SCD_OK;
}

static scd_code load_models(scd_engine *e, scd_error *err)
{
    for (size_t i = 0; i < e->n_models; i++) {
        slot *s = &e->slots[i];
        scd_code code = scd_forward_open(e->be, e->device, s->model, e->max_rows, &s->forward, err);
        if (!code)
            code = scd_model_digest(s->model, &s->served.digest, err);
        if (code) {
            scd_fail_within(err, "model \"%s\"", scd_model_name(s->model));
            return code;
        }
        scd_digest_hex(&s->served.digest, s->served.digest_hex);
        s->served.name = scd_model_name(s->model);
        s->served.config = scd_model_get_config(s->model);
        s->served.vocab = scd_model_vocab(s->model);
        s->served.n_params = scd_model_n_params(s->model);
    }
    return SCD_OK;
}

scd_code scd_engine_open(const scd_engine_options *o, scd_engine **out, scd_error *err)
{
    *out = NULL;
    scd_engine *e = scd_calloc(1, sizeof *e);
    if (e)
        e->slots = scd_calloc(o->n_models, sizeof *e->slots);
    if (!e || !e->slots) {
        scd_engine_close(e);
        return scd_fail(err, SCD_E_NOMEM, "out of memory");
    }
    scd_device_options d = {.precision = o->precision, .threads = o->threads};
    e->max_rows = o->max_batch_tokens;
    scd_code code = scd_backend_choose(o->device, &e->be, e->why, sizeof e->why, err);
    if (!code && !e->max_rows)
        e->max_rows = e->be == &scd_backend_cpu ? CPU_BATCH_ROWS : CUDA_BATCH_ROWS;
    if (!code)
        code = open_models(e, o, err);
    if (!code)
        code = e->be->open(&d, &e->device, err);
    if (!code)
        code = load_models(e, err);
    if (code) {
        scd_engine_close(e);
        return code;
    }
    *out = e;
    return SCD_OK;
}

void scd_engine_close(scd_engine *e)
{
    if (!e)
        return;
    for (size_t i = 0; e->slots && i < e->n_models; i++) {
        scd_forward_close(e->slots[i].forward);
        scd_model_close(e->slots[i].model);
    }
    if (e->device)
        e->be->close(e->device);
    free(e->slots);
    free(e);
}

const scd_device_info *scd_engine_device(const scd_engine *e)
{
    return e->be->info(e->device);
}

const char *scd_engine_device_kind(const scd_engine *e)
{
    return e->be->name;
}

const char *scd_engine_why(const scd_engine *e)
{
    return e->why;
}

size_t scd_engine_max_rows(const scd_engine *e)
{
    return e->max_rows;
}

size_t scd_engine_n_models(const scd_engine *e)
{
    return e->n_models;
}

const scd_served_model *scd_engine_model(const scd_engine *e, size_t index)
{
    return &e->slots[index].served;
}

scd_code scd_engine_embed(scd_engine *e, size_t index, const scd_cell *const *cells, size_t n_cells,
                          float *out, scd_error *err)
{
    return scd_forward_embed(e->slots[index].forward, cells, n_cells, out, err);
}
