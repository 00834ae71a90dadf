/* engine.c - see engine.h. */
#include "engine/engine.h"

#include "engine/base/mem.h"
#include "engine/denoise/classifier.h"
#include "engine/model/forward.h"
#include "engine/model/lengths.h"
#include "engine/model/model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* On a CPU a batch gains nothing beyond a few hundred rows, and a short one lets a waiting single
 * cell in sooner; a GPU wants to be filled. */
enum { CPU_BATCH_ROWS = 2048, CUDA_BATCH_ROWS = 65536, LEAST_BATCH_ROWS = 2048 };
enum { CPU_GOOD_ROWS = 256, CUDA_GOOD_ROWS = 4096 };

typedef struct slot {
    scd_model *model;
    scd_forward *forward;
    scd_denoiser *denoiser; /* NULL: the device has no gene_pick */
    size_t n_heads;
    scd_head **heads;             /* (n_heads) */
    scd_classifier **classifiers; /* (n_heads) NULL where the head is of another task */
    scd_predictor **predictors;   /* (n_heads) likewise */
    scd_forward **overs;          /* (n_heads) of a predictor with backbone tensors */
    const scd_head_info **infos;  /* (n_heads) */
    size_t *lengths;
    scd_served_model served;
} slot;

struct scd_engine {
    const scd_backend *be;
    scd_device *device;
    size_t max_rows;
    size_t n_models;
    slot *slots;
    const scd_cell **cells; /* (max_cells) of a batch without courses */
    float *results;         /* (max_cells, the widest result) */
    char why[512];
};

/* Every head that stands in the model's directory. */
static scd_code open_heads(slot *s, const char *model_dir, scd_error *err)
{
    char **dirs;
    size_t n;
    scd_code code = scd_heads_find(model_dir, &dirs, &n, err);
    if (code || !n)
        return code;
    s->heads = scd_calloc(n, sizeof *s->heads);
    s->classifiers = scd_calloc(n, sizeof *s->classifiers);
    s->predictors = scd_calloc(n, sizeof *s->predictors);
    s->overs = scd_calloc(n, sizeof *s->overs);
    s->infos = scd_calloc(n, sizeof *s->infos);
    if (!s->heads || !s->classifiers || !s->predictors || !s->overs || !s->infos)
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
        code = scd_lengths_read(o->model_dirs[i],
                                scd_model_get_config(e->slots[i].model)->max_gene_len,
                                &e->slots[i].lengths, &e->slots[i].served.n_lengths, err);
        if (code)
            return code;
        code = open_heads(&e->slots[i], o->model_dirs[i], err);
        if (code)
            return code;
    }
    return SCD_OK;
}

/* A head means something on the model that it was trained on and on no other. */
static scd_code check_heads(const slot *s, scd_error *err)
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

static scd_code load_head(scd_engine *e, slot *s, size_t i, scd_error *err)
{
    const scd_model_config *config = scd_model_get_config(s->model);
    if (!s->infos[i]->perturb)
        return scd_classifier_open(e->be, e->device, s->heads[i], config, s->forward, e->max_rows,
                                   &s->classifiers[i], err);
    return s->infos[i]->has_backbone
               ? scd_forward_open_over(s->forward, scd_head_tensors(s->heads[i]), &s->overs[i], err)
               : SCD_OK;
}

/* Once it is known that the heads are this model's. */
static scd_code bind_heads(slot *s, scd_error *err)
{
    scd_code code = check_heads(s, err);
    for (size_t i = 0; i < s->n_heads && !code; i++)
        if (s->infos[i]->perturb)
            code = scd_predictor_open(s->heads[i], s->model, &s->predictors[i], err);
    return code;
}

/* The digest comes last: it is computed while the weights are packed. */
static scd_code load_model(scd_engine *e, slot *s, scd_error *err)
{
    const scd_model_config *config = scd_model_get_config(s->model);
    scd_code code = scd_forward_open(e->be, e->device, s->model, e->max_rows, &s->forward, err);
    if (!code && e->be->gene_pick)
        code = scd_denoiser_open(e->be, e->device, s->model, s->forward, e->max_rows, &s->denoiser,
                                 err);
    for (size_t i = 0; i < s->n_heads && !code; i++)
        code = load_head(e, s, i, err);
    if (!code)
        code = scd_model_digest(s->model, &s->served.digest, err);
    if (code)
        return code;
    scd_digest_hex(&s->served.digest, s->served.digest_hex);
    s->served.name = scd_model_name(s->model);
    s->served.config = config;
    s->served.vocab = scd_model_vocab(s->model);
    s->served.n_params = scd_model_n_params(s->model);
    s->served.heads = s->infos;
    s->served.n_heads = s->n_heads;
    s->served.lengths = s->lengths;
    return bind_heads(s, err);
}

static scd_code load_models(scd_engine *e, scd_error *err)
{
    for (size_t i = 0; i < e->n_models; i++) {
        scd_code code = load_model(e, &e->slots[i], err);
        if (code) {
            scd_fail_within(err, "model \"%s\"", scd_model_name(e->slots[i].model));
            return code;
        }
    }
    return SCD_OK;
}

static void close_slot(slot *s)
{
    for (size_t i = 0; i < s->n_heads; i++) {
        scd_classifier_close(s->classifiers[i]);
        scd_predictor_close(s->predictors[i]);
        scd_forward_close(s->overs[i]);
    }
    scd_denoiser_close(s->denoiser);
    scd_forward_close(s->forward);
    for (size_t i = 0; i < s->n_heads; i++)
        scd_head_close(s->heads[i]);
    scd_model_close(s->model);
    free(s->lengths);
    free(s->infos);
    free(s->overs);
    free(s->predictors);
    free(s->classifiers);
    free(s->heads);
}

/* A cell has at least two rows. */
static size_t max_cells(const scd_engine *e)
{
    return e->max_rows / 2 + 1;
}

static scd_code allocate(scd_engine *e, scd_error *err)
{
    size_t widest = 0;
    for (size_t m = 0; m < e->n_models; m++)
        for (size_t h = 0; h <= e->slots[m].n_heads; h++) {
            size_t width = scd_engine_width(
                e, (scd_work){.model = m, .head = h ? e->slots[m].infos[h - 1] : NULL});
            widest = width > widest ? width : widest;
        }
    e->cells = scd_malloc(max_cells(e), sizeof *e->cells);
    e->results = scd_malloc(max_cells(e), widest * sizeof *e->results);
    return e->cells && e->results
               ? SCD_OK
               : scd_fail(err, SCD_E_NOMEM, "out of memory for batches of %zu rows", e->max_rows);
}

/* *rows: those of a batch, once they are known. */
static scd_code open_once(const scd_engine_options *o, scd_engine **out, size_t *rows,
                          scd_error *err)
{
    *out = NULL;
    *rows = 0;
    scd_engine *e = scd_calloc(1, sizeof *e);
    if (e)
        e->slots = scd_calloc(o->n_models, sizeof *e->slots);
    if (!e || !e->slots) {
        scd_engine_close(e);
        return scd_fail(err, SCD_E_NOMEM, "out of memory");
    }
    scd_device_options d = {
        .precision = o->precision, .threads = o->threads, .index = o->device_index, .give_way = 1};
    e->max_rows = o->max_batch_tokens;
    scd_code code = scd_backend_open(o->device, &d, &e->be, &e->device, e->why, sizeof e->why, err);
    if (!code && !e->max_rows)
        e->max_rows = e->be == &scd_backend_cpu ? CPU_BATCH_ROWS : CUDA_BATCH_ROWS;
    if (!code)
        code = open_models(e, o, err);
    if (!code) {
        *rows = e->be == &scd_backend_cpu ? 0 : e->max_rows;
        code = load_models(e, err);
    }
    if (!code)
        code = allocate(e, err);
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
                 "; batches of %zu tokens, since it has no room for %zu", (*out)->max_rows, first);
    }
    return code;
}

void scd_engine_close(scd_engine *e)
{
    if (!e)
        return;
    for (size_t i = 0; e->slots && i < e->n_models; i++)
        close_slot(&e->slots[i]);
    if (e->device)
        e->be->close(e->device);
    free(e->results);
    free(e->cells);
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

size_t scd_engine_good_rows(const scd_engine *e)
{
    size_t good = e->be == &scd_backend_cpu ? CPU_GOOD_ROWS : CUDA_GOOD_ROWS;
    return good < e->max_rows ? good : e->max_rows;
}

size_t scd_engine_n_models(const scd_engine *e)
{
    return e->n_models;
}

const scd_served_model *scd_engine_model(const scd_engine *e, size_t index)
{
    return &e->slots[index].served;
}

/* Which of the model's heads it is; n_heads: none. */
static size_t place_of(const slot *s, const scd_head_info *head)
{
    size_t i = 0;
    while (i < s->n_heads && s->infos[i] != head)
        i++;
    return i;
}

const scd_predictor *scd_engine_predictor(const scd_engine *e, size_t model,
                                          const scd_head_info *head)
{
    const slot *s = &e->slots[model];
    size_t i = place_of(s, head);
    return i < s->n_heads ? s->predictors[i] : NULL;
}

size_t scd_engine_width(const scd_engine *e, scd_work work)
{
    bool is_label = work.head && !work.head->perturb;
    return is_label ? work.head->n_labels : e->slots[work.model].served.config->hidden_dim;
}

scd_code scd_engine_compute(scd_engine *e, scd_work work, const scd_cell *const *cells,
                            size_t n_cells, float *out, scd_error *err)
{
    slot *s = &e->slots[work.model];
    if (!work.head)
        return scd_forward_embed(s->forward, cells, n_cells, out, err);
    size_t i = place_of(s, work.head);
    if (i == s->n_heads)
        return scd_fail(err, SCD_E_INTERNAL, "head \"%s\" is not of model %zu", work.head->name,
                        work.model);
    if (s->predictors[i])
        return scd_forward_embed(s->overs[i] ? s->overs[i] : s->forward, cells, n_cells, out, err);
    return scd_classifier_run(s->classifiers[i], cells, n_cells, out, err);
}

bool scd_engine_denoises(const scd_engine *e)
{
    return e->be->gene_pick != NULL;
}

bool scd_engine_associates(const scd_engine *e)
{
    return e->be->gene_pick && e->be->attention_weights;
}

static scd_code step_plain(scd_engine *e, scd_work work, const scd_step *steps, size_t n,
                           scd_error *err)
{
    size_t width = scd_engine_width(e, work);
    if (n > max_cells(e))
        return scd_fail(err, SCD_E_TOO_LARGE, "a batch holds at most %zu rows", e->max_rows);
    for (size_t i = 0; i < n; i++) {
        if (steps[i].course)
            return scd_fail(err, SCD_E_INTERNAL, "there are no courses here");
        e->cells[i] = steps[i].cell;
    }
    scd_code code = scd_engine_compute(e, work, e->cells, n, e->results, err);
    for (size_t i = 0; i < n && !code; i++)
        memcpy(steps[i].out, e->results + i * width, width * sizeof *e->results);
    return code;
}

scd_code scd_engine_step(scd_engine *e, scd_work work, const scd_step *steps, size_t n,
                         scd_error *err)
{
    slot *s = &e->slots[work.model];
    if (work.head || !s->denoiser)
        return step_plain(e, work, steps, n, err);
    return scd_denoiser_run(s->denoiser, steps, n, work.pooling, err);
}
