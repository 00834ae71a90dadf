/* engine.c - see engine.h: the models and what is known of them; runner.c has them on a device. */
#include "engine/engine.h"

#include "engine/base/mem.h"
#include "engine/model/lengths.h"
#include "engine/model/model.h"
#include "engine/runner.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* On a CPU a batch gains nothing beyond a few hundred rows, and a short one lets a waiting single
 * cell in sooner; a GPU wants to be filled. */
enum { CPU_BATCH_ROWS = 2048, CUDA_BATCH_ROWS = 65536, LEAST_BATCH_ROWS = 2048 };
enum { CPU_GOOD_ROWS = 256, CUDA_GOOD_ROWS = 4096 };

typedef struct holding {
    scd_model *model;
    size_t n_heads;
    scd_head **heads;            /* (n_heads) */
    scd_predictor **predictors;  /* (n_heads) NULL where the head is of another task */
    const scd_head_info **infos; /* (n_heads) */
    size_t *lengths;
    scd_served_model served;
} holding;

struct scd_engine {
    size_t n_models;
    holding *holdings;
    scd_runner_model *models; /* (n_models) of the holdings */
    size_t most_rows;         /* asked for, or 0; of the longest cell */
    size_t longest;
    int threads;
    bool wants_fp32;
    size_t n_runners;     /* at the start */
    scd_runner **runners; /* (n_runners + 1): the last is for the CPU that may come */
    atomic_bool moved;    /* and has */
    char why[512];
};

/* Every head that stands in the model's directory. */
static scd_code open_heads(holding *s, const char *model_dir, scd_error *err)
{
    char **dirs;
    size_t n;
    scd_code code = scd_heads_find(model_dir, &dirs, &n, err);
    if (code || !n)
        return code;
    s->heads = scd_calloc(n, sizeof *s->heads);
    s->predictors = scd_calloc(n, sizeof *s->predictors);
    s->infos = scd_calloc(n, sizeof *s->infos);
    if (!s->heads || !s->predictors || !s->infos)
        code = scd_fail(err, SCD_E_NOMEM, "%s: out of memory for %zu heads", model_dir, n);
    for (size_t i = 0; i < n && !code; i++) {
        code = scd_head_open(dirs[i], scd_model_get_config(s->model), &s->heads[i], err);
        if (code)
            break;
        s->infos[i] = scd_head_get_info(s->heads[i]);
        s->n_heads = i + 1;
    }
    scd_heads_forget(dirs, n);
    return code;
}

static scd_code open_models(scd_engine *e, const scd_engine_options *o, scd_error *err)
{
    for (size_t i = 0; i < o->n_models; i++) {
        scd_code code = scd_model_open(o->model_dirs[i], &e->holdings[i].model, err);
        if (code)
            return code;
        e->n_models = i + 1;
        const char *name = scd_model_name(e->holdings[i].model);
        for (size_t j = 0; j < i; j++)
            if (!strcmp(name, scd_model_name(e->holdings[j].model)))
                return scd_fail(err, SCD_E_INVALID,
                                "two models are called \"%s\": rename one directory", name);
        size_t need = scd_model_get_config(e->holdings[i].model)->max_gene_len + 1;
        if (e->longest < need)
            e->longest = need;
        code = scd_lengths_read(o->model_dirs[i],
                                scd_model_get_config(e->holdings[i].model)->max_gene_len,
                                &e->holdings[i].lengths, &e->holdings[i].served.n_lengths, err);
        if (code)
            return code;
        code = open_heads(&e->holdings[i], o->model_dirs[i], err);
        if (code)
            return code;
        e->models[i] =
            (scd_runner_model){e->holdings[i].model, e->holdings[i].heads, e->holdings[i].n_heads};
    }
    return SCD_OK;
}

/* A head means something on the model that it was trained on and on no other. */
static scd_code check_heads(const holding *s, scd_error *err)
{
    for (size_t i = 0; i < s->n_heads; i++)
        if (strcmp(s->infos[i]->model_digest_hex, s->served.digest_hex) != 0)
            return scd_fail(err, SCD_E_INVALID,
                            "head \"%s\" was trained on the model with digest %s, this one has %s: "
                            "train it again, or remove heads/%s",
                            s->infos[i]->name, s->infos[i]->model_digest_hex, s->served.digest_hex,
                            s->infos[i]->name);
    return SCD_OK;
}

/* Once it is known that the heads are this model's. */
static scd_code bind_heads(holding *s, scd_error *err)
{
    scd_code code = check_heads(s, err);
    for (size_t i = 0; i < s->n_heads && !code; i++)
        if (s->infos[i]->perturb)
            code = scd_predictor_open(s->heads[i], s->model, &s->predictors[i], err);
    return code;
}

/* The digest comes last: it is computed while the weights are packed. */
static scd_code finish_model(holding *s, scd_error *err)
{
    scd_code code = scd_model_digest(s->model, &s->served.digest, err);
    if (code)
        return code;
    scd_digest_hex(&s->served.digest, s->served.digest_hex);
    s->served.name = scd_model_name(s->model);
    s->served.config = scd_model_get_config(s->model);
    s->served.vocab = scd_model_vocab(s->model);
    s->served.n_params = scd_model_n_params(s->model);
    s->served.heads = s->infos;
    s->served.n_heads = s->n_heads;
    s->served.lengths = s->lengths;
    return bind_heads(s, err);
}

static scd_code finish_models(scd_engine *e, scd_error *err)
{
    for (size_t i = 0; i < e->n_models; i++) {
        scd_code code = finish_model(&e->holdings[i], err);
        if (code) {
            scd_fail_within(err, "model \"%s\"", scd_model_name(e->holdings[i].model));
            return code;
        }
    }
    return SCD_OK;
}

static void close_holding(holding *s)
{
    for (size_t i = 0; i < s->n_heads; i++) {
        scd_predictor_close(s->predictors[i]);
        scd_head_close(s->heads[i]);
    }
    scd_model_close(s->model);
    free(s->lengths);
    free(s->infos);
    free(s->predictors);
    free(s->heads);
}

/* ---- devices -------------------------------------------------------------------------------- */

static bool is_cpu(const scd_runner *r)
{
    return scd_runner_backend(r) == &scd_backend_cpu;
}

/* Rows of a batch on this device. */
static size_t rows_for(const scd_engine *e, const scd_runner *r)
{
    size_t rows = e->most_rows ? e->most_rows : is_cpu(r) ? CPU_BATCH_ROWS : CUDA_BATCH_ROWS;
    return rows > e->longest ? rows : e->longest;
}

/* Of several devices a message says which; the code also where there is no err. */
static scd_code within(const scd_engine *e, const char *name, scd_code code, scd_error *err)
{
    if (code && e->n_runners > 1)
        scd_fail_within(err, "%s", name);
    return code;
}

/* Any of them may compute any cell, and the cache knows only one identity. */
static scd_code check_alike(const scd_engine *e, size_t i, scd_error *err)
{
    const scd_runner *a = e->runners[0], *b = e->runners[i];
    if (!strcmp(scd_runner_info(a)->identity, scd_runner_info(b)->identity))
        return SCD_OK;
    return scd_fail(err, SCD_E_INVALID,
                    "%s (%s) and %s (%s) differ, and with them the last bits of results, which "
                    "may not depend on the device that was free: give each kind a server of its "
                    "own",
                    scd_runner_name(a), scd_runner_info(a)->identity, scd_runner_name(b),
                    scd_runner_info(b)->identity);
}

static scd_code open_devices(scd_engine *e, const scd_engine_options *o, scd_error *err)
{
    scd_device_options d = {.precision = o->precision, .threads = o->threads, .give_way = 1};
    e->n_runners = o->n_gpus > 1 ? o->n_gpus : 1;
    e->runners = scd_calloc(e->n_runners + 1, sizeof *e->runners);
    if (!e->runners)
        return scd_fail(err, SCD_E_NOMEM, "out of memory");
    scd_code code = SCD_OK;
    for (size_t i = 0; i < e->n_runners && !code; i++) {
        char name[32];
        d.index = o->n_gpus ? o->gpus[i] : 0;
        snprintf(name, sizeof name, "cuda:%d", d.index);
        code = scd_runner_open(o->device, &d, &e->runners[i], e->why, sizeof e->why, err);
        code = within(e, name, code, err);
        if (!code)
            code = check_alike(e, i, err);
    }
    return code;
}

static scd_code load_devices(scd_engine *e, scd_error *err)
{
    scd_code code = SCD_OK;
    for (size_t i = 0; i < e->n_runners && !code; i++) {
        scd_runner *r = e->runners[i];
        code = scd_runner_load(r, e->models, e->n_models, rows_for(e, r), err);
        code = within(e, scd_runner_name(r), code, err);
    }
    return code;
}

/* *rows: those of a batch, once they are known and may be too many. */
static scd_code open_once(const scd_engine_options *o, scd_engine **out, size_t *rows,
                          scd_error *err)
{
    *out = NULL;
    *rows = 0;
    scd_engine *e = scd_calloc(1, sizeof *e);
    if (e) {
        e->holdings = scd_calloc(o->n_models, sizeof *e->holdings);
        e->models = scd_calloc(o->n_models, sizeof *e->models);
    }
    if (!e || !e->holdings || !e->models) {
        scd_engine_close(e);
        return scd_fail(err, SCD_E_NOMEM, "out of memory");
    }
    e->most_rows = o->max_batch_tokens;
    e->threads = o->threads;
    e->wants_fp32 = o->precision == SCD_PRECISION_FP32;
    scd_code code = open_devices(e, o, err);
    if (!code)
        code = open_models(e, o, err);
    if (!code) {
        *rows = is_cpu(e->runners[0]) ? 0 : rows_for(e, e->runners[0]);
        code = load_devices(e, err);
    }
    if (!code)
        code = finish_models(e, err);
    if (code) {
        scd_engine_close(e);
        return code;
    }
    *out = e;
    return SCD_OK;
}

/* A GPU without room for its batches is asked for half of them, down to one that is not worth it.
 */
scd_code scd_engine_open(const scd_engine_options *o, scd_engine **out, scd_error *err)
{
    scd_engine_options less = *o;
    size_t rows, first = 0;
    scd_code code = open_once(&less, out, &rows, err);
    while (code == SCD_E_NOMEM && rows / 2 >= LEAST_BATCH_ROWS) {
        first = first ? first : rows;
        less.max_batch_tokens = rows / 2;
        code = open_once(&less, out, &rows, err);
    }
    if (!code && first) {
        size_t n = strlen((*out)->why);
        snprintf((*out)->why + n, sizeof(*out)->why - n,
                 "; batches of %zu tokens, since it has no room for %zu", scd_engine_max_rows(*out),
                 first);
        (*out)->most_rows = o->max_batch_tokens; /* what the CPU would be asked for */
    }
    return code;
}

void scd_engine_close(scd_engine *e)
{
    if (!e)
        return;
    for (size_t i = 0; e->runners && i <= e->n_runners; i++)
        scd_runner_close(e->runners[i]);
    for (size_t i = 0; e->holdings && i < e->n_models; i++)
        close_holding(&e->holdings[i]);
    free(e->runners);
    free(e->models);
    free(e->holdings);
    free(e);
}

scd_code scd_engine_move_to_cpu(scd_engine *e, scd_error *err)
{
    const scd_device_options d = {.precision =
                                      e->wants_fp32 ? SCD_PRECISION_FP32 : SCD_PRECISION_AUTO,
                                  .threads = e->threads,
                                  .give_way = 1};
    scd_runner *cpu;
    char why[64];
    if (atomic_load(&e->moved) || is_cpu(e->runners[0]))
        return scd_fail(err, SCD_E_DEVICE, "it is the CPU that computes");
    scd_code code = scd_runner_open(SCD_DEVICE_CPU, &d, &cpu, why, sizeof why, err);
    if (!code)
        code = scd_runner_load(cpu, e->models, e->n_models, rows_for(e, cpu), err);
    if (code) {
        scd_runner_close(cpu);
        return code;
    }
    e->runners[e->n_runners] = cpu;
    atomic_store(&e->moved, true);
    return SCD_OK;
}

size_t scd_engine_n_devices(const scd_engine *e)
{
    return e->n_runners + (atomic_load(&e->moved) ? 1 : 0);
}

/* That which computes now, the first of them. */
static const scd_runner *present(const scd_engine *e)
{
    return e->runners[atomic_load(&e->moved) ? e->n_runners : 0];
}

const scd_device_info *scd_engine_device(const scd_engine *e)
{
    return scd_runner_info(present(e));
}

const char *scd_engine_device_kind(const scd_engine *e)
{
    return scd_runner_backend(present(e))->name;
}

const char *scd_engine_why(const scd_engine *e)
{
    return e->why;
}

size_t scd_engine_max_rows(const scd_engine *e)
{
    return scd_runner_max_rows(present(e));
}

const scd_device_info *scd_engine_device_at(const scd_engine *e, size_t device)
{
    return scd_runner_info(e->runners[device]);
}

const char *scd_engine_device_name(const scd_engine *e, size_t device)
{
    return scd_runner_name(e->runners[device]);
}

size_t scd_engine_max_rows_at(const scd_engine *e, size_t device)
{
    return scd_runner_max_rows(e->runners[device]);
}

size_t scd_engine_good_rows_at(const scd_engine *e, size_t device)
{
    return is_cpu(e->runners[device]) ? CPU_GOOD_ROWS : CUDA_GOOD_ROWS;
}

size_t scd_engine_n_models(const scd_engine *e)
{
    return e->n_models;
}

const scd_served_model *scd_engine_model(const scd_engine *e, size_t index)
{
    return &e->holdings[index].served;
}

/* Which of the model's heads it is; n_heads: none. */
static size_t place_of(const holding *s, const scd_head_info *head)
{
    size_t i = 0;
    while (i < s->n_heads && s->infos[i] != head)
        i++;
    return i;
}

const scd_predictor *scd_engine_predictor(const scd_engine *e, size_t model,
                                          const scd_head_info *head)
{
    const holding *s = &e->holdings[model];
    size_t i = place_of(s, head);
    return i < s->n_heads ? s->predictors[i] : NULL;
}

size_t scd_engine_width(const scd_engine *e, scd_work work)
{
    bool is_label = work.head && !work.head->perturb;
    return is_label ? work.head->n_labels : e->holdings[work.model].served.config->hidden_dim;
}

/* SCD_E_INTERNAL: the head is not of this model. */
static scd_code runner_work(const scd_engine *e, scd_work work, scd_runner_work *out,
                            scd_error *err)
{
    const holding *s = &e->holdings[work.model];
    *out = (scd_runner_work){work.model, place_of(s, work.head), work.pooling};
    if (!work.head || out->head < s->n_heads)
        return SCD_OK;
    return scd_fail(err, SCD_E_INTERNAL, "head \"%s\" is not of model %zu", work.head->name,
                    work.model);
}

scd_code scd_engine_compute(scd_engine *e, scd_work work, const scd_cell *const *cells,
                            size_t n_cells, float *out, scd_error *err)
{
    scd_runner_work w;
    scd_code code = runner_work(e, work, &w, err);
    return code ? code : scd_runner_compute(e->runners[0], w, cells, n_cells, out, err);
}

scd_code scd_engine_step_on(scd_engine *e, size_t device, scd_work work, const scd_step *steps,
                            size_t n, scd_error *err)
{
    scd_runner_work w;
    scd_code code = runner_work(e, work, &w, err);
    return code ? code : scd_runner_step(e->runners[device], w, steps, n, err);
}

bool scd_engine_device_overlaps(const scd_engine *e, size_t device)
{
    return scd_runner_backend(e->runners[device])->slot_begin != NULL;
}

bool scd_engine_overlaps(const scd_engine *e, size_t device, scd_work work, const scd_step *steps,
                         size_t n)
{
    scd_runner_work w;
    return !runner_work(e, work, &w, NULL) && scd_runner_overlaps(e->runners[device], w, steps, n);
}

scd_code scd_engine_begin(scd_engine *e, size_t device, int slot, scd_work work,
                          const scd_step *steps, size_t n, scd_error *err)
{
    scd_runner_work w;
    scd_code code = runner_work(e, work, &w, err);
    return code ? code : scd_runner_begin(e->runners[device], slot, w, steps, n, err);
}

scd_code scd_engine_fetch(scd_engine *e, size_t device, int slot, scd_error *err)
{
    return scd_runner_fetch(e->runners[device], slot, err);
}

bool scd_engine_denoises(const scd_engine *e)
{
    return scd_runner_backend(present(e))->gene_pick != NULL;
}

bool scd_engine_associates(const scd_engine *e)
{
    const scd_backend *be = scd_runner_backend(present(e));
    return be->gene_pick && be->attention_weights;
}
