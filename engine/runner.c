/* runner.c - see runner.h. */
#include "engine/runner.h"

#include "engine/base/mem.h"
#include "engine/denoise/classifier.h"
#include "engine/model/forward.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A model on the device. */
typedef struct seat {
    scd_runner_model of;
    scd_forward *forward;
    scd_denoiser *denoiser;       /* NULL: the device has no gene_pick */
    scd_classifier **classifiers; /* (n_heads) NULL where the head is of another task */
    scd_forward **overs;          /* (n_heads) of a perturbation head with backbone tensors */
} seat;

struct scd_runner {
    const scd_backend *be;
    scd_device *device;
    char name[32];
    size_t max_rows;
    size_t n_seats;
    seat *seats;
    const scd_cell **cells; /* (max_cells) of a batch without courses */
    float *results;         /* (max_cells, the widest result) */
    struct {                /* a batch that was begun */
        scd_runner_work work;
        const scd_step *steps;
        size_t n;
    } slots[SCD_SLOTS];
};

scd_code scd_runner_open(scd_device_choice choice, const scd_device_options *options,
                         scd_runner **out, char *why, size_t n, scd_error *err)
{
    *out = NULL;
    scd_runner *r = scd_calloc(1, sizeof *r);
    if (!r)
        return scd_fail(err, SCD_E_NOMEM, "out of memory");
    scd_code code = scd_backend_open(choice, options, &r->be, &r->device, why, n, err);
    if (code) {
        scd_runner_close(r);
        return code;
    }
    if (r->be == &scd_backend_cpu)
        snprintf(r->name, sizeof r->name, "%s", r->be->name);
    else
        snprintf(r->name, sizeof r->name, "%s:%d", r->be->name, options->index);
    *out = r;
    return SCD_OK;
}

static const scd_head_info *head_info(const seat *s, size_t head)
{
    return scd_head_get_info(s->of.heads[head]);
}

static scd_code load_head(scd_runner *r, seat *s, size_t i, scd_error *err)
{
    const scd_head *head = s->of.heads[i];
    if (!head_info(s, i)->perturb)
        return scd_classifier_open(r->be, r->device, head, scd_model_get_config(s->of.model),
                                   s->forward, r->max_rows, &s->classifiers[i], err);
    return head_info(s, i)->has_backbone
               ? scd_forward_open_over(s->forward, scd_head_tensors(head), &s->overs[i], err)
               : SCD_OK;
}

static scd_code load_seat(scd_runner *r, seat *s, scd_error *err)
{
    size_t n_heads = s->of.n_heads;
    s->classifiers = scd_calloc(n_heads + 1, sizeof *s->classifiers);
    s->overs = scd_calloc(n_heads + 1, sizeof *s->overs);
    if (!s->classifiers || !s->overs)
        return scd_fail(err, SCD_E_NOMEM, "out of memory for %zu heads", n_heads);
    scd_code code = scd_forward_open(r->be, r->device, s->of.model, r->max_rows, &s->forward, err);
    if (!code && r->be->gene_pick)
        code = scd_denoiser_open(r->be, r->device, s->of.model, s->forward, r->max_rows,
                                 &s->denoiser, err);
    for (size_t i = 0; i < n_heads && !code; i++)
        code = load_head(r, s, i, err);
    return code;
}

static size_t width_of(const seat *s, size_t head)
{
    bool is_label = head < s->of.n_heads && !head_info(s, head)->perturb;
    return is_label ? head_info(s, head)->n_labels : scd_model_get_config(s->of.model)->hidden_dim;
}

/* A cell has at least two rows. */
static size_t max_cells(const scd_runner *r)
{
    return r->max_rows / 2 + 1;
}

static scd_code allocate(scd_runner *r, scd_error *err)
{
    size_t widest = 0;
    for (size_t m = 0; m < r->n_seats; m++)
        for (size_t h = 0; h <= r->seats[m].of.n_heads; h++) {
            size_t width = width_of(&r->seats[m], h);
            widest = width > widest ? width : widest;
        }
    r->cells = scd_malloc(max_cells(r), sizeof *r->cells);
    r->results = scd_malloc(max_cells(r), widest * sizeof *r->results);
    return r->cells && r->results
               ? SCD_OK
               : scd_fail(err, SCD_E_NOMEM, "out of memory for batches of %zu rows", r->max_rows);
}

scd_code scd_runner_load(scd_runner *r, const scd_runner_model *models, size_t n_models,
                         size_t max_rows, scd_error *err)
{
    r->max_rows = max_rows;
    r->seats = scd_calloc(n_models, sizeof *r->seats);
    if (!r->seats)
        return scd_fail(err, SCD_E_NOMEM, "out of memory");
    r->n_seats = n_models;
    for (size_t m = 0; m < n_models; m++) {
        r->seats[m].of = models[m];
        scd_code code = load_seat(r, &r->seats[m], err);
        if (code) {
            scd_fail_within(err, "model \"%s\"", scd_model_name(models[m].model));
            return code;
        }
    }
    return allocate(r, err);
}

static void close_seat(seat *s)
{
    for (size_t i = 0; s->classifiers && s->overs && i < s->of.n_heads; i++) {
        scd_classifier_close(s->classifiers[i]);
        scd_forward_close(s->overs[i]);
    }
    scd_denoiser_close(s->denoiser);
    scd_forward_close(s->forward);
    free(s->overs);
    free(s->classifiers);
}

void scd_runner_close(scd_runner *r)
{
    if (!r)
        return;
    for (size_t i = 0; i < r->n_seats; i++)
        close_seat(&r->seats[i]);
    if (r->device)
        r->be->close(r->device);
    free(r->results);
    free(r->cells);
    free(r->seats);
    free(r);
}

const scd_backend *scd_runner_backend(const scd_runner *r)
{
    return r->be;
}

const scd_device_info *scd_runner_info(const scd_runner *r)
{
    return r->be->info(r->device);
}

const char *scd_runner_name(const scd_runner *r)
{
    return r->name;
}

size_t scd_runner_max_rows(const scd_runner *r)
{
    return r->max_rows;
}

/* The pass of plain cells that this work is; of a classifier, the one under it. */
static scd_forward *forward_of(const seat *s, size_t head)
{
    scd_forward *over = head < s->of.n_heads ? s->overs[head] : NULL;
    return over ? over : s->forward;
}

static scd_classifier *classifier_of(const seat *s, size_t head)
{
    return head < s->of.n_heads ? s->classifiers[head] : NULL;
}

scd_code scd_runner_compute(scd_runner *r, scd_runner_work work, const scd_cell *const *cells,
                            size_t n_cells, float *out, scd_error *err)
{
    const seat *s = &r->seats[work.model];
    scd_classifier *classifier = classifier_of(s, work.head);
    return classifier ? scd_classifier_run(classifier, cells, n_cells, out, err)
                      : scd_forward_embed(forward_of(s, work.head), cells, n_cells, out, err);
}

/* r->cells: those of steps without courses. */
static scd_code take_cells(scd_runner *r, const scd_step *steps, size_t n, scd_error *err)
{
    if (n > max_cells(r))
        return scd_fail(err, SCD_E_TOO_LARGE, "a batch holds at most %zu rows", r->max_rows);
    for (size_t i = 0; i < n; i++) {
        if (steps[i].course)
            return scd_fail(err, SCD_E_INTERNAL, "there are no courses here");
        r->cells[i] = steps[i].cell;
    }
    return SCD_OK;
}

static void hand_out(const scd_runner *r, scd_runner_work work, const scd_step *steps, size_t n)
{
    size_t width = width_of(&r->seats[work.model], work.head);
    for (size_t i = 0; i < n; i++)
        memcpy(steps[i].out, r->results + i * width, width * sizeof *r->results);
}

scd_code scd_runner_step(scd_runner *r, scd_runner_work work, const scd_step *steps, size_t n,
                         scd_error *err)
{
    seat *s = &r->seats[work.model];
    if (work.head >= s->of.n_heads && s->denoiser)
        return scd_denoiser_run(s->denoiser, steps, n, work.pooling, err);
    scd_code code = take_cells(r, steps, n, err);
    if (!code)
        code = scd_runner_compute(r, work, r->cells, n, r->results, err);
    if (!code)
        hand_out(r, work, steps, n);
    return code;
}

/* ---- one batch behind the other -------------------------------------------------------------- */

bool scd_runner_overlaps(const scd_runner *r, scd_runner_work work, const scd_step *steps, size_t n)
{
    bool plain =
        n <= max_cells(r) && scd_forward_overlaps(forward_of(&r->seats[work.model], work.head), n);
    for (size_t i = 0; i < n && plain; i++)
        plain = !steps[i].course;
    return plain;
}

scd_code scd_runner_begin(scd_runner *r, int slot, scd_runner_work work, const scd_step *steps,
                          size_t n, scd_error *err)
{
    const seat *s = &r->seats[work.model];
    scd_classifier *classifier = classifier_of(s, work.head);
    scd_forward *forward = forward_of(s, work.head);
    r->slots[slot].work = work;
    r->slots[slot].steps = steps;
    r->slots[slot].n = n;
    scd_code code = take_cells(r, steps, n, err);
    if (code)
        return code;
    if (classifier)
        return scd_classifier_begin(classifier, slot, r->cells, n, err);
    const float *out = NULL;
    size_t bytes = n * width_of(s, work.head) * sizeof *out;
    code = scd_forward_begin(forward, slot, r->cells, n, &out, err);
    if (!code)
        code = scd_forward_end(forward, slot, out, bytes, err);
    if (code)
        scd_forward_end(forward, slot, NULL, 0, NULL);
    return code;
}

scd_code scd_runner_fetch(scd_runner *r, int slot, scd_error *err)
{
    scd_runner_work work = r->slots[slot].work;
    const scd_step *steps = r->slots[slot].steps;
    size_t n = r->slots[slot].n;
    const seat *s = &r->seats[work.model];
    scd_classifier *classifier = classifier_of(s, work.head);
    scd_code code = take_cells(r, steps, n, err);
    if (!code)
        code = classifier ? scd_classifier_fetch(classifier, slot, r->cells, n, r->results, err)
                          : scd_forward_fetch(forward_of(s, work.head), slot, r->results, err);
    if (!code)
        hand_out(r, work, steps, n);
    return code;
}
