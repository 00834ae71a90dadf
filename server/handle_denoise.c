/* handle_denoise.c - POST /v1/denoise: hide tokens and find them again, or find the values of named
 * genes; the way is infer.c's.
 *
 * - mask: gene and value of some tokens are hidden in place, and found in `steps` passes.
 * - impute: genes are shown and their values hidden - in place where the cell has them, appended in
 *   the order of their ids where it has not; one pass. A model that never saw a hidden value alone
 *   answers through the posterior over hidden positions. */
#include "engine/base/rng.h"
#include "server/denoise_call.h"
#include "server/router.h"
#include "server/sampling.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- fields --------------------------------------------------------------------------------- */

static int by_id(const void *a, const void *b)
{
    int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    return (x > y) - (x < y);
}

/* What belongs to hidden genes makes no sense where genes are shown. */
static void refuse_with_impute(scd_infer_call *call, const scd_sampling_fields *f)
{
    const struct {
        bool given;
        const char *pointer;
    } fields[] = {{f->has_temperature, "/temperature"},
                  {f->confidence != 0, "/confidence"},
                  {f->refresh, "/refresh"},
                  {f->candidates.given, "/candidates"}};
    for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++)
        if (fields[i].given)
            scd_problem_add(&call->problem, fields[i].pointer,
                            "belongs to \"mask\": to impute is to find the values of genes that "
                            "are shown, in one step");
}

static bool read_impute(scd_infer_call *call, const scd_denoise_fields *f, scd_denoise_call *d)
{
    refuse_with_impute(call, &f->sampling);
    d->impute = true;
    d->plan.kind = SCD_PLAN_VALUES;
    if (!call->model->config->value_masking) {
        d->plan.kind = SCD_PLAN_POSTERIOR;
        scd_infer_warn(call, "posterior",
                       "model \"%.80s\" was not trained to find the value of a gene that it is "
                       "shown: values are means over hidden positions, weighted by how probable "
                       "the gene is there",
                       call->model->name);
    }
    if (f->sampling.steps > 1)
        scd_infer_warn(call, "steps", "values are imputed in one step: \"steps\" changes nothing");
    return call->problem.kind == SCD_PROBLEM_NONE;
}

static bool read_targets(scd_infer_call *call, const scd_denoise_fields *f, scd_denoise_call *d)
{
    const scd_names *names = d->impute ? &f->impute : &f->mask;
    if (!names->given)
        return true;
    d->n_targets = names->n;
    d->targets = scd_sampling_resolve(call, names, d->impute ? "/impute" : "/mask/genes");
    if (!d->targets)
        return false;
    qsort(d->targets, d->n_targets, sizeof *d->targets, by_id);
    d->measured = scd_arena_zalloc(&call->arena, d->n_targets, 1);
    d->present = scd_arena_zalloc(&call->arena, d->n_targets, 1);
    d->one_list = call->request.is_matrix;
    return (d->measured && d->present) || scd_infer_out_of_memory(call);
}

static bool read_fields(scd_infer_call *call, const char **unknown)
{
    scd_denoise_fields f;
    if (scd_denoise_fields_decode(&call->request, &call->input, &f, &call->problem))
        return false;
    scd_denoise_call *d = scd_arena_zalloc(&call->arena, 1, sizeof *d);
    if (!d)
        return scd_infer_out_of_memory(call);
    call->fields.denoise = d;
    if (!scd_sampling_plan(call, &f.sampling, 0, &d->plan))
        return false;
    d->fraction = f.fraction;
    d->seed = f.seed;
    d->per_gene = f.has_per_gene ? f.per_gene : call->request.n_cells > 1;
    *unknown = f.unknown;
    return (!f.impute.given || read_impute(call, &f, d)) && read_targets(call, &f, d);
}

/* ---- plans ---------------------------------------------------------------------------------- */

static bool blame(scd_infer_call *call, size_t c, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* True: it is said, and the cell is done with. */
static bool blame(scd_infer_call *call, size_t c, const char *fmt, ...)
{
    char pointer[128], text[256];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    scd_infer_point_at(call, c, SIZE_MAX, pointer);
    scd_infer_blame(call, c, SCD_PROBLEM_INVALID, pointer, text);
    return true;
}

static bool is_target(const scd_denoise_call *d, int32_t id)
{
    return bsearch(&id, d->targets, d->n_targets, sizeof id, by_id) != NULL;
}

/* Which target that is. */
static size_t target_of(const scd_denoise_call *d, int32_t id)
{
    const int32_t *at = bsearch(&id, d->targets, d->n_targets, sizeof id, by_id);
    return (size_t)(at - d->targets);
}

static int by_number(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* A token's draw, which depends on the seed and the cell and not on its place, above its id. */
static uint64_t draw_of(uint64_t seed, int32_t id)
{
    uint32_t words[4];
    scd_rng_block(seed, UINT64_MAX, (uint64_t)id, words);
    return (uint64_t)words[0] << 32 | (uint32_t)id;
}

/* Hides the k tokens with the least draws. False: memory is out. */
static bool hide_least(scd_arena *scratch, const scd_cell *cell, uint64_t seed, size_t k,
                       uint8_t *hidden)
{
    size_t n = cell->n_tokens;
    uint64_t *draws = scd_arena_alloc(scratch, n, sizeof *draws);
    if (!draws)
        return false;
    for (size_t i = 0; i < n; i++)
        draws[i] = draw_of(seed, cell->ids[i]);
    qsort(draws, n, sizeof *draws, by_number);
    for (size_t i = 0; i < n; i++)
        hidden[i] = draw_of(seed, cell->ids[i]) <= draws[k - 1];
    return true;
}

static bool plan_mask(scd_infer_call *call, size_t c, uint64_t seed, scd_denoise_cell *own)
{
    scd_denoise_call *d = call->fields.denoise;
    scd_infer_cell *cell = &call->cells[c];
    size_t n = cell->cell.n_tokens, k = (size_t)lround(d->fraction * (double)n);
    if (d->fraction > 0) {
        if (n < 2)
            return blame(call, c, "has one token: with it hidden there is nothing to go by");
        k = k < 1 ? 1 : k < n ? k : n - 1;
        if (!hide_least(&call->input, &cell->cell, seed, k, own->hidden))
            return false;
    }
    for (size_t i = 0; i < n; i++) {
        if (!(d->fraction > 0))
            own->hidden[i] = is_target(d, cell->cell.ids[i]);
        own->truth_known[i] = own->hidden[i];
        cell->n_hidden += own->hidden[i];
    }
    if (cell->n_hidden == n)
        return blame(call, c, "has no token but those to hide: there would be nothing to go by");
    if (!cell->n_hidden) {
        cell->idle = true;
        d->n_without++;
    }
    return true;
}

/* Which targets have their value given, be it 0: measured[i] of target i. The list is the same for
 * all cells of a matrix, and marked once. */
static void mark_measured(scd_denoise_call *d, const scd_measured *m)
{
    if (d->measured_of == m->tokens)
        return;
    memset(d->measured, 0, d->n_targets);
    for (size_t i = 0; i < m->n; i++)
        if (is_target(d, m->tokens[i]))
            d->measured[target_of(d, m->tokens[i])] = 1;
    d->measured_of = d->one_list ? m->tokens : NULL;
}

/* The cell with the targets that it does not have behind its own tokens. False: memory is out. */
static bool append_targets(scd_infer_call *call, scd_cell *cell, size_t n_more)
{
    scd_denoise_call *d = call->fields.denoise;
    size_t n = cell->n_tokens;
    int32_t *ids = scd_arena_alloc(&call->arena, n + n_more, sizeof *ids);
    float *values = scd_arena_zalloc(&call->arena, n + n_more, sizeof *values);
    if (!ids || !values)
        return false;
    memcpy(ids, cell->ids, n * sizeof *ids);
    memcpy(values, cell->values, n * sizeof *values);
    memset(d->present, 0, d->n_targets);
    for (size_t i = 0; i < n; i++)
        if (is_target(d, ids[i]))
            d->present[target_of(d, ids[i])] = 1;
    for (size_t i = 0, at = n; i < d->n_targets; i++)
        if (!d->present[i])
            ids[at++] = d->targets[i];
    cell->ids = ids;
    cell->values = values;
    cell->n_tokens = n + n_more;
    return true;
}

static bool plan_impute(scd_infer_call *call, size_t c, const scd_measured *measured,
                        scd_denoise_cell *own)
{
    scd_denoise_call *d = call->fields.denoise;
    scd_infer_cell *cell = &call->cells[c];
    mark_measured(d, measured);
    for (size_t i = 0; i < cell->cell.n_tokens; i++) {
        int32_t id = cell->cell.ids[i];
        own->hidden[i] = is_target(d, id);
        own->truth_known[i] =
            own->hidden[i] && (cell->cell.values[i] > 0 || d->measured[target_of(d, id)]);
    }
    cell->n_hidden = d->n_targets;
    return true;
}

/* Makes room first: the arrays have the length that the cell will have. */
static bool plan_cell(scd_infer_call *call, size_t c, const scd_measured *measured)
{
    scd_denoise_call *d = call->fields.denoise;
    scd_infer_cell *cell = &call->cells[c];
    size_t n_own = cell->cell.n_tokens, n_more = 0, most = call->model->config->max_gene_len;
    if (d->impute) {
        for (size_t i = 0; i < n_own; i++)
            n_more += is_target(d, cell->cell.ids[i]); /* those that it has */
        if (n_more == n_own)
            return blame(call, c, "has no gene but those to impute: there is nothing to go by");
        n_more = d->n_targets - n_more;
        if (n_own + n_more > most)
            return blame(call, c,
                         "would have %zu tokens with the genes to impute, at most %zu: "
                         "impute fewer at a time",
                         n_own + n_more, most);
        if (!append_targets(call, &cell->cell, n_more))
            return false;
    }
    size_t n = cell->cell.n_tokens;
    scd_denoise_cell *own = scd_arena_alloc(&call->arena, 1, sizeof *own);
    scd_plan *plan = scd_arena_alloc(&call->arena, 1, sizeof *plan);
    uint8_t *bytes = scd_arena_zalloc(&call->arena, 2, n);
    if (!own || !plan || !bytes)
        return false;
    *own = (scd_denoise_cell){bytes, bytes + n};
    *plan = d->plan;
    uint64_t seed;
    if (!scd_sampling_seed(call, d->seed, 0, &cell->cell, &seed))
        return false;
    plan->seed = plan->temperature > 0 ? seed : 0; /* where nothing is drawn it names nothing */
    plan->hidden = own->hidden;
    cell->plan = plan;
    cell->planned = own;
    return d->impute ? plan_impute(call, c, measured, own) : plan_mask(call, c, seed, own);
}

static bool plan_end(scd_infer_call *call)
{
    const scd_denoise_call *d = call->fields.denoise;
    if (d->n_without)
        scd_infer_warn(call, "nothing-hidden",
                       "%zu cells have none of the genes to hide: nothing was computed of them",
                       d->n_without);
    return scd_denoise_scores_prepare(call) || scd_infer_out_of_memory(call);
}

/* ---- the answer ----------------------------------------------------------------------------- */

static void write_result(const scd_infer_call *call, const scd_infer_cell *cell, scd_answer *answer)
{
    scd_sampling_put_found(answer->out, call->model->vocab, NULL, cell->result,
                           cell->idle ? 0 : cell->n_hidden);
    scd_denoise_scores_put(call, (size_t)(cell - call->cells), answer->out);
}

static void write_end(const scd_infer_call *call, scd_buf *out)
{
    const scd_denoise_call *d = call->fields.denoise;
    scd_sampling_put_parameters(out, &d->plan, d->seed);
    scd_denoise_gene_scores_put(call, out);
}

/* A hidden token: a name and two numbers, and its line among the gene scores, in which every byte
 * of the name may be escaped as six. */
static void size_result(const scd_infer_call *call, size_t *about, size_t *most)
{
    enum { ABOUT = 200, MOST = 4096, SCORES = 2048 };
    size_t n = call->fields.denoise->max_hidden;
    *about = n * ABOUT + SCORES;
    *most = n * MOST + SCORES;
}

static const scd_infer_task task = {.name = "denoise",
                                    .heavy = true,
                                    .read_fields = read_fields,
                                    .plan_cell = plan_cell,
                                    .plan_end = plan_end,
                                    .write_result = write_result,
                                    .write_end = write_end,
                                    .size_result = size_result};

void scd_handle_denoise(scd_daemon *d, scd_exchange *x)
{
    scd_infer(&task, d, x);
}
