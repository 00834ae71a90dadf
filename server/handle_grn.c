/* handle_grn.c - POST /v1/grn: associations of regulators with the other genes of the cells; the
 * way is infer.c's.
 *
 * What is summed over cells, and what it means, is api/associations.h's. */
#include "api/associations.h"
#include "api/grn_fields.h"
#include "api/json_write.h"
#include "server/router.h"
#include "server/sampling.h"

#include <stdio.h>
#include <string.h>

struct scd_grn_call {
    scd_plan plan; /* of every cell, its regulators left out */
    int32_t *regulators;
    size_t n_regulators, top_k;
    size_t *n_expressing;           /* (n_regulators) cells */
    scd_association_tally *tallies; /* (V) of one regulator at a time */
    scd_association *found;         /* (V) */
};

/* ---- fields --------------------------------------------------------------------------------- */

/* (n) bytes, 1 where the number is listed. NULL: problem is set. */
static uint8_t *choose(scd_infer_call *call, const scd_numbers *numbers, size_t n, const char *what)
{
    uint8_t *chosen = scd_arena_zalloc(&call->arena, n, 1);
    if (!chosen) {
        scd_infer_out_of_memory(call);
        return NULL;
    }
    memset(chosen, numbers->n == 0, n);
    for (size_t i = 0; i < numbers->n; i++) {
        if (numbers->numbers[i] < n) {
            chosen[numbers->numbers[i]] = 1;
            continue;
        }
        char at[64];
        snprintf(at, sizeof at, "/%s/%zu", what, i);
        scd_problem_add(&call->problem, at, "is %zu, the model has %s 0 to %zu",
                        numbers->numbers[i], what, n - 1);
    }
    return call->problem.kind ? NULL : chosen;
}

static bool read_fields(scd_infer_call *call, const char **unknown)
{
    scd_grn_fields f;
    const scd_model_config *config = call->model->config;
    if (scd_grn_fields_decode(&call->request, &call->input, &f, &call->problem))
        return false;
    if (!scd_engine_associates(call->d->engine)) {
        scd_problem_set(&call->problem, SCD_PROBLEM_UNAVAILABLE,
                        "this device (%s) does not tell its attention: serve with --device cpu",
                        scd_engine_device_kind(call->d->engine));
        return false;
    }
    struct scd_grn_call *g = scd_arena_zalloc(&call->arena, 1, sizeof *g);
    if (!g)
        return scd_infer_out_of_memory(call);
    call->fields.grn = g;
    g->top_k = f.top_k;
    g->n_regulators = f.regulators.n;
    g->regulators = scd_sampling_resolve(call, &f.regulators, "/regulators");
    g->plan = (scd_plan){.kind = SCD_PLAN_ASSOCIATE,
                         .layers = choose(call, &f.layers, config->n_layers, "layers"),
                         .heads = choose(call, &f.heads, config->n_heads, "heads")};
    if (call->problem.kind)
        return false;
    g->n_expressing = scd_arena_zalloc(&call->arena, g->n_regulators, sizeof *g->n_expressing);
    g->tallies = scd_arena_alloc(&call->arena, config->vocab, sizeof *g->tallies);
    g->found = scd_arena_alloc(&call->arena, config->vocab, sizeof *g->found);
    *unknown = f.unknown;
    return (g->n_expressing && g->tallies && g->found) || scd_infer_out_of_memory(call);
}

/* ---- plans ---------------------------------------------------------------------------------- */

static bool plan_cell(scd_infer_call *call, size_t c, const scd_measured *measured)
{
    (void)measured;
    struct scd_grn_call *g = call->fields.grn;
    scd_infer_cell *cell = &call->cells[c];
    scd_plan *plan = scd_arena_alloc(&call->arena, 1, sizeof *plan);
    uint8_t *marks = scd_arena_zalloc(&call->arena, cell->cell.n_tokens, 1);
    if (!plan || !marks)
        return false;
    for (size_t i = 0; i < cell->cell.n_tokens; i++)
        for (size_t r = 0; r < g->n_regulators; r++)
            if (cell->cell.ids[i] == g->regulators[r]) {
                marks[i] = 1;
                cell->n_hidden++;
                g->n_expressing[r]++;
            }
    *plan = g->plan;
    plan->hidden = marks;
    cell->plan = plan;
    cell->idle = !cell->n_hidden || cell->cell.n_tokens < 2;
    return true;
}

static bool plan_end(scd_infer_call *call)
{
    struct scd_grn_call *g = call->fields.grn;
    size_t n_absent = 0, first = 0, n_active = 0, n_tokens = 0;
    size_t vocab = call->model->config->vocab;
    for (size_t r = g->n_regulators; r-- > 0;)
        if (!g->n_expressing[r]) {
            n_absent++;
            first = r;
        }
    for (size_t c = 0; c < call->request.n_cells; c++) {
        n_tokens += call->cells[c].bad ? 0 : call->cells[c].cell.n_tokens;
        n_active += !call->cells[c].bad && !call->cells[c].idle;
    }
    size_t n_targets = n_tokens < vocab ? n_tokens : vocab;
    call->n_items = (g->n_regulators - n_absent) * (g->top_k < n_targets ? g->top_k : n_targets);
    if (n_absent == g->n_regulators)
        scd_problem_add(&call->problem, "/regulators",
                        "none of them is expressed in any cell: there is nothing to look at");
    else if (!n_active)
        scd_problem_add(&call->problem, "/regulators",
                        "no cell that expresses them has another gene: there is nothing to look "
                        "at");
    else if (n_absent)
        scd_infer_warn(call, "not-expressed",
                       "%zu regulators are expressed in no cell, the first is regulator %zu",
                       n_absent, first);
    scd_infer_warn_skipped(call);
    return !call->problem.kind;
}

/* ---- the answer ----------------------------------------------------------------------------- */

/* Which of the cell's marked tokens the regulator at `place` is. */
static size_t nth_marked(const scd_infer_cell *cell, size_t place)
{
    size_t n = 0;
    for (size_t i = 0; i < place; i++)
        n += cell->plan->hidden[i];
    return n;
}

/* What cell c says of the regulator. */
static void add_cell(const scd_infer_call *call, const scd_infer_cell *cell, int32_t regulator)
{
    size_t n = cell->cell.n_tokens, at = scd_association_place(cell->cell.ids, n, regulator);
    const float *weights = NULL;
    if (at < n && !cell->idle)
        weights = cell->result + 1 + 2 * n * nth_marked(cell, at);
    scd_association_add(call->fields.grn->tallies, regulator, cell->cell.ids, cell->cell.values, n,
                        weights, weights ? weights + n : NULL);
}

static void put_pair(const scd_infer_call *call, size_t r, const scd_association *a, scd_buf *out)
{
    scd_buf_puts(out, ",\"regulator\":");
    scd_sampling_put_gene(out, call->model->vocab, call->fields.grn->regulators[r]);
    scd_buf_puts(out, ",\"target\":");
    scd_sampling_put_gene(out, call->model->vocab, a->gene);
    scd_buf_puts(out, ",\"weight\":");
    scd_json_double(out, a->weight);
    scd_buf_printf(out, ",\"sign\":%d,\"effect\":", a->sign);
    scd_json_double(out, a->effect);
    scd_buf_puts(out, ",\"coexpression\":");
    scd_json_double(out, a->coexpression);
    scd_buf_printf(out, ",\"cells\":%zu", a->n_both);
}

/* The regulator's top_k targets, from item->index on, which moves behind them. */
static void put_regulator(const scd_infer_call *call, size_t r, scd_answer_item *item,
                          scd_answer *answer)
{
    const struct scd_grn_call *g = call->fields.grn;
    size_t vocab = call->model->config->vocab, n_cells = 0;
    memset(g->tallies, 0, vocab * sizeof *g->tallies);
    for (size_t c = 0; c < call->request.n_cells; c++) {
        if (call->cells[c].bad)
            continue;
        add_cell(call, &call->cells[c], g->regulators[r]);
        n_cells++;
    }
    size_t n = scd_association_list(g->tallies, vocab, g->regulators[r], g->n_expressing[r],
                                    n_cells, g->found);
    size_t shown = n < g->top_k ? n : g->top_k;
    for (size_t i = 0; i < shown; i++, item->index++) {
        scd_answer_item_begin(answer, item);
        put_pair(call, r, &g->found[i], answer->out);
        scd_answer_item_end(answer);
    }
}

static bool write_items(scd_infer_call *call, scd_answer *answer)
{
    const struct scd_grn_call *g = call->fields.grn;
    scd_answer_item item = scd_infer_sum(call);
    for (size_t r = 0; r < g->n_regulators; r++)
        if (g->n_expressing[r])
            put_regulator(call, r, &item, answer);
    return true;
}

/* Two names, in which every byte may be escaped as six, and five numbers. */
static void size_result(const scd_infer_call *call, size_t *about, size_t *most)
{
    enum { ABOUT = 200, MOST = 4096 };
    (void)call;
    *about = ABOUT;
    *most = MOST;
}

static const scd_infer_task task = {.name = "grn",
                                    .heavy = true,
                                    .read_fields = read_fields,
                                    .plan_cell = plan_cell,
                                    .plan_end = plan_end,
                                    .write_items = write_items,
                                    .size_result = size_result};

void scd_handle_grn(scd_daemon *d, scd_exchange *x)
{
    scd_infer(&task, d, x);
}
