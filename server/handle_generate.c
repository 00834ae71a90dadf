/* handle_generate.c - POST /v1/generate: whole cells, from nothing or from visible genes; the way
 * is infer.c's.
 *
 * A prompt - a cell of the request, "genes" with "values", or nothing - becomes n cells. Visible
 * genes stand first, in the model's order; the tokens behind them are found. Each cell has a seed
 * of its own, so that the first n of more cells are the same. */
#include "engine/base/rng.h"
#include "server/router.h"
#include "server/sampling.h"

#include <stdio.h>
#include <string.h>

struct scd_generate_call {
    scd_plan plan;
    uint64_t seed;
    const size_t *lengths; /* (n_lengths) */
    size_t n_lengths;
};

static const float DEFAULT_TEMPERATURE = 1;

/* ---- fields --------------------------------------------------------------------------------- */

static bool check_lengths(scd_infer_call *call, const scd_generate_fields *f)
{
    size_t most = call->model->config->max_gene_len;
    if (!f->n_lengths && !call->model->n_lengths)
        scd_problem_add(
            &call->problem, "/length",
            "is missing, and model \"%.80s\" does not say how long its cells were: give "
            "a number of genes, or an array of such numbers to draw from, at most %zu",
            call->model->name, most);
    for (size_t i = 0; i < f->n_lengths; i++)
        if (f->lengths[i] > most) {
            char at[64];
            snprintf(at, sizeof at, f->n_lengths > 1 ? "/length/%zu" : "/length", i);
            scd_problem_add(&call->problem, at, "is %zu, cells of this model have at most %zu",
                            f->lengths[i], most);
            break;
        }
    return call->problem.kind == SCD_PROBLEM_NONE;
}

/* "genes" and "values" as the one prompt. */
static bool read_prompt(scd_infer_call *call, const scd_generate_fields *f)
{
    scd_request *r = &call->request;
    if ((r->is_matrix || !r->n_shared_genes) && !f->values)
        return true;
    if (r->n_cells)
        scd_problem_add(&call->problem, "/values",
                        "stands beside \"%s\": give the visible genes in one place",
                        r->is_matrix ? "matrix" : "cells");
    else if (r->n_shared_genes != f->n_values)
        scd_problem_add(&call->problem, "/values",
                        "%zu values for %zu visible genes: give exactly one for each", f->n_values,
                        r->n_shared_genes);
    if (call->problem.kind)
        return false;
    r->cells = scd_arena_zalloc(&call->input, 1, sizeof *r->cells);
    double *values = scd_arena_alloc(&call->input, f->n_values, sizeof *values);
    if (!r->cells || !values)
        return scd_infer_out_of_memory(call);
    memcpy(values, f->values, f->n_values * sizeof *values);
    r->cells[0] = (scd_cell_input){.n = f->n_values, .genes = r->shared_genes, .values = values};
    r->n_cells = 1;
    call->is_lone = true;
    return true;
}

/* Every prompt n times, one after the other; without one, n cells of nothing. */
static bool repeat_prompts(scd_infer_call *call, size_t n)
{
    scd_request *r = &call->request;
    size_t n_prompts = r->n_cells ? r->n_cells : 1, most = call->d->limits.max_cells;
    if (n > most / n_prompts) {
        scd_problem_set(&call->problem, SCD_PROBLEM_TOO_LARGE,
                        "%zu cells of %zu prompts are asked for, at most %zu at a time", n,
                        n_prompts, most);
        return false;
    }
    scd_cell_input *cells = scd_arena_zalloc(&call->input, n * n_prompts, sizeof *cells);
    if (!cells)
        return scd_infer_out_of_memory(call);
    for (size_t i = 0; i < n * n_prompts && r->n_cells; i++)
        cells[i] = r->cells[i / n];
    r->cells = cells;
    r->n_cells = n * n_prompts;
    call->copies = n;
    return true;
}

static bool read_fields(scd_infer_call *call, const char **unknown)
{
    scd_generate_fields f;
    if (scd_generate_fields_decode(&call->request, &call->arena, &f, &call->problem))
        return false;
    struct scd_generate_call *g = scd_arena_zalloc(&call->arena, 1, sizeof *g);
    if (!g)
        return scd_infer_out_of_memory(call);
    call->fields.generate = g;
    g->seed = f.seed;
    g->lengths = f.n_lengths ? f.lengths : call->model->lengths;
    g->n_lengths = f.n_lengths ? f.n_lengths : call->model->n_lengths;
    *unknown = f.unknown;
    return check_lengths(call, &f) &&
           scd_sampling_plan(call, &f.sampling, DEFAULT_TEMPERATURE, &g->plan) &&
           read_prompt(call, &f) && repeat_prompts(call, f.n);
}

/* ---- plans ---------------------------------------------------------------------------------- */

/* The prompt's tokens, then as many to find as the length asks for. False: memory is out. */
static bool lengthen(scd_infer_call *call, scd_cell *cell, size_t length, uint8_t **hidden)
{
    size_t n = cell->n_tokens;
    int32_t *ids = scd_arena_zalloc(&call->arena, length, sizeof *ids);
    float *values = scd_arena_zalloc(&call->arena, length, sizeof *values);
    *hidden = scd_arena_zalloc(&call->arena, length, 1);
    if (!ids || !values || !*hidden)
        return false;
    if (n) {
        memcpy(ids, cell->ids, n * sizeof *ids);
        memcpy(values, cell->values, n * sizeof *values);
    }
    memset(*hidden + n, 1, length - n);
    cell->ids = ids;
    cell->values = values;
    cell->n_tokens = length;
    return true;
}

/* One of the lengths that leave something to find; 0: there is none. */
static size_t draw_length(const struct scd_generate_call *g, size_t n_seen, uint32_t word)
{
    size_t n = 0;
    for (size_t i = 0; i < g->n_lengths; i++)
        n += g->lengths[i] > n_seen;
    size_t drawn = (size_t)((uint64_t)word * n >> 32);
    for (size_t i = 0; i < g->n_lengths; i++)
        if (g->lengths[i] > n_seen && drawn-- == 0)
            return g->lengths[i];
    return 0;
}

static bool plan_cell(scd_infer_call *call, size_t c, const scd_measured *measured)
{
    (void)measured;
    const struct scd_generate_call *g = call->fields.generate;
    scd_infer_cell *cell = &call->cells[c];
    size_t n_seen = cell->cell.n_tokens;
    scd_plan *plan = scd_arena_alloc(&call->arena, 1, sizeof *plan);
    uint8_t *hidden;
    uint64_t seed;
    uint32_t words[4];
    if (!plan || !scd_sampling_seed(call, g->seed, c % call->copies, &cell->cell, &seed))
        return false;
    scd_rng_block(seed, UINT64_MAX, UINT64_MAX, words);
    size_t length = draw_length(g, n_seen, words[0]);
    if (!length) {
        char pointer[128], text[160];
        scd_infer_point_at(call, c, SIZE_MAX, pointer);
        snprintf(text, sizeof text,
                 "%zu genes are visible, and no cell is to have more: there is nothing to find",
                 n_seen);
        scd_infer_blame(call, c, SCD_PROBLEM_INVALID, pointer, text);
        return true;
    }
    if (!lengthen(call, &cell->cell, length, &hidden))
        return false;
    *plan = g->plan;
    /* The number of the sample is in the seed, and must be: cells of one prompt differ by it alone.
     */
    plan->seed = plan->temperature > 0 ? seed : 0;
    plan->hidden = hidden;
    cell->plan = plan;
    cell->n_hidden = length - n_seen;
    return true;
}

/* ---- the answer ----------------------------------------------------------------------------- */

/* ,"genes":[...],"values":[...] of the whole cell, what was visible first. */
static void write_result(const scd_infer_call *call, const scd_infer_cell *cell, scd_answer *answer)
{
    scd_cell whole = {.n_tokens = cell->cell.n_tokens - cell->n_hidden,
                      .ids = cell->cell.ids,
                      .values = cell->cell.values};
    scd_sampling_put_found(answer->out, call->model->vocab, &whole, cell->result, cell->n_hidden);
}

static void write_end(const scd_infer_call *call, scd_buf *out)
{
    const struct scd_generate_call *g = call->fields.generate;
    scd_sampling_put_parameters(out, &g->plan, g->seed);
}

static void size_result(const scd_infer_call *call, size_t *about, size_t *most)
{
    enum { ABOUT = 40, MOST = 2048, AROUND = 256 };
    size_t longest = 0;
    for (size_t c = 0; c < call->request.n_cells; c++) {
        size_t n = call->cells[c].cell.n_tokens;
        longest = n > longest ? n : longest;
    }
    *about = longest * ABOUT + AROUND;
    *most = longest * MOST + AROUND;
}

static const scd_infer_task task = {.name = "generate",
                                    .cells_optional = true,
                                    .blank_cells = true,
                                    .heavy = true,
                                    .read_fields = read_fields,
                                    .plan_cell = plan_cell,
                                    .write_result = write_result,
                                    .write_end = write_end,
                                    .size_result = size_result};

void scd_handle_generate(scd_daemon *d, scd_exchange *x)
{
    scd_infer(&task, d, x);
}
