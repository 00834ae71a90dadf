/* handle_generate.c - POST /v1/generate: whole cells, from nothing or from visible genes; the way
 * is infer.c's.
 *
 * A prompt - a cell of the request, "genes" with or without "values", or nothing - becomes n cells.
 * Visible genes with a value stand first, in the model's order, those without one behind them, by
 * id, since nothing tells their rank; the tokens behind these are found. Each cell has a seed of
 * its own, so that the first n of more cells are the same. */
#include "engine/base/rng.h"
#include "server/router.h"
#include "server/sampling.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct scd_generate_call {
    scd_plan plan;
    uint64_t seed;
    const size_t *lengths; /* (n_lengths) */
    size_t n_lengths;
    size_t n_shown; /* visible genes without a value, in all cells */
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
    bool has_genes = !r->is_matrix && r->n_shared_genes;
    if (!has_genes && !f->values)
        return true;
    if (r->n_cells)
        scd_problem_add(&call->problem, "/values",
                        "stands beside \"%s\": give the visible genes in one place",
                        r->is_matrix ? "matrix" : "cells");
    else if (f->values && r->n_shared_genes != f->n_values)
        scd_problem_add(&call->problem, "/values",
                        "%zu values for %zu visible genes: give exactly one for each, null where "
                        "it is to be found, or none at all",
                        f->n_values, r->n_shared_genes);
    if (call->problem.kind)
        return false;
    r->cells = scd_arena_zalloc(&call->input, 1, sizeof *r->cells);
    double *values = scd_arena_alloc(&call->input, r->n_shared_genes, sizeof *values);
    if (!r->cells || !values)
        return scd_infer_out_of_memory(call);
    for (size_t i = 0; i < r->n_shared_genes; i++)
        values[i] = f->values ? f->values[i] : NAN;
    r->cells[0] =
        (scd_cell_input){.n = r->n_shared_genes, .genes = r->shared_genes, .values = values};
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

static int by_token(const void *a, const void *b)
{
    const scd_shown *x = a, *y = b;
    return (x->token > y->token) - (x->token < y->token);
}

/* A gene without a value: at the place of its name, but for a matrix that of its null. */
static void blame_shown(scd_infer_call *call, size_t c, const scd_shown *shown, const char *what)
{
    char pointer[128], at[160];
    bool in_matrix = call->request.is_matrix;
    scd_infer_point_at(call, c, in_matrix ? shown->input : SIZE_MAX, pointer);
    snprintf(at, sizeof at,
             in_matrix       ? "%s"
             : call->is_lone ? "%s/%zu"
                             : "%s/genes/%zu",
             pointer, shown->input);
    scd_infer_blame(call, c, SCD_PROBLEM_INVALID, at, what);
}

/* Each must be a gene of the model that comes once: *ok. `seen` has room for every gene, zeroed. */
static void check_shown(scd_infer_call *call, size_t c, const scd_measured *m, uint8_t *seen,
                        bool *ok)
{
    enum { WITH_VALUE = 1, WITHOUT = 2 };
    *ok = true;
    for (size_t i = 0; i < m->values->n; i++)
        if (m->values->tokens[i] >= 0)
            seen[m->values->tokens[i]] = WITH_VALUE;
    for (size_t i = 0; i < m->n_shown && *ok; i++) {
        int32_t token = m->shown[i].token;
        const char *what = NULL;
        if (token < 0)
            what = "is no gene of the model (POST /v1/genes shows what names become): it has no "
                   "value that could be found";
        else if (seen[token])
            what = seen[token] == WITH_VALUE ? "is a gene that comes with a value too"
                                             : "is a gene that comes twice without a value";
        else
            seen[token] = WITHOUT;
        if (what)
            blame_shown(call, c, &m->shown[i], what);
        *ok = !what;
    }
}

/* Genes without a value become tokens whose value is hidden, by id behind the others; *ok says
 * whether they can. False: memory is out. */
static bool show(scd_infer_call *call, size_t c, const scd_measured *m, bool *ok)
{
    scd_cell *cell = &call->cells[c].cell;
    size_t n = cell->n_tokens, all = n + m->n_shown;
    *ok = true;
    if (!m->n_shown)
        return true;
    scd_shown *shown = scd_arena_alloc(m->scratch, m->n_shown, sizeof *shown);
    uint8_t *seen = scd_arena_zalloc(m->scratch, call->model->config->vocab, 1);
    int32_t *ids = scd_arena_alloc(&call->arena, all, sizeof *ids);
    float *values = scd_arena_zalloc(&call->arena, all, sizeof *values);
    if (!shown || !seen || !ids || !values)
        return false;
    check_shown(call, c, m, seen, ok);
    memcpy(shown, m->shown, m->n_shown * sizeof *shown);
    qsort(shown, m->n_shown, sizeof *shown, by_token);
    for (size_t i = 0; i < n; i++) {
        ids[i] = cell->ids[i];
        values[i] = cell->values[i];
    }
    for (size_t i = 0; i < m->n_shown; i++)
        ids[n + i] = shown[i].token;
    cell->ids = ids;
    cell->values = values;
    cell->n_tokens = all;
    return true;
}

/* Behind the visible tokens, the last n_shown of which lack a value, as many to find as the length
 * asks for. False: memory is out. */
static bool lengthen(scd_infer_call *call, scd_cell *cell, size_t n_shown, size_t length,
                     uint8_t **hidden)
{
    size_t n = cell->n_tokens;
    int32_t *ids = scd_arena_zalloc(&call->arena, length, sizeof *ids);
    float *values = scd_arena_zalloc(&call->arena, length, sizeof *values);
    *hidden = scd_arena_zalloc(&call->arena, length, 1);
    if (!ids || !values || !*hidden)
        return false;
    for (size_t i = 0; i < length; i++) {
        ids[i] = i < n ? cell->ids[i] : 0;
        values[i] = i < n ? cell->values[i] : 0;
        (*hidden)[i] = i >= n ? SCD_HIDE_GENE : i >= n - n_shown ? SCD_HIDE_VALUE : 0;
    }
    cell->ids = ids;
    cell->values = values;
    cell->n_tokens = length;
    return true;
}

/* One of the lengths from `least` on; 0: there is none. */
static size_t draw_length(const struct scd_generate_call *g, size_t least, uint32_t word)
{
    size_t n = 0;
    for (size_t i = 0; i < g->n_lengths; i++)
        n += g->lengths[i] >= least;
    size_t drawn = (size_t)((uint64_t)word * n >> 32);
    for (size_t i = 0; i < g->n_lengths; i++)
        if (g->lengths[i] >= least && drawn-- == 0)
            return g->lengths[i];
    return 0;
}

static bool plan_cell(scd_infer_call *call, size_t c, const scd_measured *measured)
{
    struct scd_generate_call *g = call->fields.generate;
    scd_infer_cell *cell = &call->cells[c];
    size_t n_seen = cell->cell.n_tokens, n_shown = measured->n_shown;
    scd_plan *plan = scd_arena_alloc(&call->arena, 1, sizeof *plan);
    uint8_t *hidden;
    uint64_t seed;
    uint32_t words[4];
    bool ok;
    if (!plan || !show(call, c, measured, &ok) ||
        !scd_sampling_seed(call, g->seed, c % call->copies, &cell->cell, &seed))
        return false;
    if (!ok)
        return true;
    scd_rng_block(seed, UINT64_MAX, UINT64_MAX, words);
    size_t length = draw_length(g, n_seen + (n_shown ? n_shown : 1), words[0]);
    if (!length) {
        char pointer[128], text[160];
        scd_infer_point_at(call, c, SIZE_MAX, pointer);
        snprintf(text, sizeof text, "%zu genes are visible, and no cell is to have %s",
                 n_seen + n_shown, n_shown ? "as many" : "more: there is nothing to find");
        scd_infer_blame(call, c, SCD_PROBLEM_INVALID, pointer, text);
        return true;
    }
    if (!lengthen(call, &cell->cell, n_shown, length, &hidden))
        return false;
    *plan = g->plan;
    /* The number of the sample is in the seed, and must be: cells of one prompt differ by it alone.
     */
    plan->seed = plan->temperature > 0 ? seed : 0;
    plan->hidden = hidden;
    cell->plan = plan;
    cell->n_hidden = length - n_seen;
    g->n_shown += n_shown;
    return true;
}

/* What it means that values are to be found of genes that are shown. */
static bool plan_end(scd_infer_call *call)
{
    const struct scd_generate_call *g = call->fields.generate;
    if (g->n_shown && !call->model->config->value_masking)
        scd_infer_warn(
            call, "posterior",
            "model \"%.80s\" was not trained to find the value of a gene that it is "
            "shown: of visible genes without a value it is not told, and their values "
            "are means over hidden positions, weighted by how probable the gene is there",
            call->model->name);
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
                                    .open_values = true,
                                    .heavy = true,
                                    .read_fields = read_fields,
                                    .plan_cell = plan_cell,
                                    .plan_end = plan_end,
                                    .write_result = write_result,
                                    .write_end = write_end,
                                    .size_result = size_result};

void scd_handle_generate(scd_daemon *d, scd_exchange *x)
{
    scd_infer(&task, d, x);
}
