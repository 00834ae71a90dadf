/* task_grn.c - grn: associations of regulators with the other genes of a file's cells, as POST
 * /v1/grn has them (api/associations.h).
 *
 * A cell's row holds its tokens (as bits), their values, and for each regulator the attention that
 * every token pays to it and its effect on every token: L numbers each, L being the tokens that a
 * cell of this file may have. Sums are made over the rows. */
#include "api/associations.h"
#include "api/grn_fields.h"
#include "api/task.h"

#include <stdio.h>
#include <string.h>

enum { CHECK_BYTES = 16 << 20 };

typedef struct grn {
    scd_plan plan; /* of every cell, its regulators left out */
    int32_t *regulators;
    size_t n_regulators, length;    /* L */
    scd_association_tally *tallies; /* (n_regulators, V) */
    size_t *n_expressing;           /* (n_regulators) cells */
    size_t n_cells;
} grn;

/* ---- before the file is there --------------------------------------------------------------- */

/* (n) bytes, 1 where the number is listed; all of them where none is. NULL: the problem's. */
static uint8_t *choose(const char *list, size_t n, const char *pointer, scd_arena *arena,
                       scd_problem *problem)
{
    scd_text *items;
    size_t n_items = 0;
    uint8_t *chosen = scd_arena_zalloc(arena, n, 1);
    if (!chosen || !scd_job_list_read(list, arena, &items, &n_items)) {
        scd_problem_set(problem, SCD_PROBLEM_UNAVAILABLE, "out of memory: try again");
        return NULL;
    }
    memset(chosen, !*list, n);
    for (size_t i = 0; i < n_items && *list; i++) {
        size_t number = 0, digits = 0;
        for (; digits < items[i].n && digits < 6 && items[i].data[digits] >= '0' &&
               items[i].data[digits] <= '9';
             digits++)
            number = 10 * number + (size_t)(items[i].data[digits] - '0');
        if (!digits || digits < items[i].n || number >= n)
            scd_problem_add(problem, pointer,
                            "\"%.*s\" is none of the model's %s, 0 to %zu (a parameter of the "
                            "query)",
                            (int)(items[i].n < 40 ? items[i].n : 40), items[i].data, pointer + 1,
                            n - 1);
        else
            chosen[number] = 1;
    }
    return problem->kind ? NULL : chosen;
}

/* Regulators, layers and heads into *out (NULL: they are checked alone). */
static void read_query(const scd_job_query *q, const scd_task_model *who, scd_arena *arena,
                       grn *out, scd_problem *problem)
{
    const scd_model_config *c = who->model->config;
    out->regulators = scd_task_genes(q, who->model->vocab, arena, &out->n_regulators, problem);
    if (out->n_regulators > SCD_MAX_REGULATORS)
        scd_problem_add(problem, "/regulators",
                        "has %zu genes: ask for at most %d at a time (a parameter of the query)",
                        out->n_regulators, (int)SCD_MAX_REGULATORS);
    out->plan = (scd_plan){.kind = SCD_PLAN_ASSOCIATE,
                           .layers = choose(q->layers, c->n_layers, "/layers", arena, problem),
                           .heads = choose(q->heads, c->n_heads, "/heads", arena, problem)};
}

static void check(const scd_job_query *q, const scd_task_model *who, scd_problem *problem)
{
    scd_arena arena;
    grn g = {0};
    if (!scd_engine_associates(who->engine)) {
        scd_problem_set(problem, SCD_PROBLEM_UNAVAILABLE,
                        "this device (%s) does not tell its attention: use cpu",
                        scd_engine_device_kind(who->engine));
        return;
    }
    scd_arena_init(&arena, CHECK_BYTES);
    read_query(q, who, &arena, &g, problem);
    scd_arena_release(&arena);
}

/* ---- cells ---------------------------------------------------------------------------------- */

static scd_code open(scd_task *t, scd_error *err)
{
    scd_problem problem = {0};
    size_t vocab = t->who.model->config->vocab, most = t->who.model->config->max_gene_len;
    grn *g = scd_arena_zalloc(t->arena, 1, sizeof *g);
    if (!g)
        return scd_task_no_memory(err);
    read_query(t->query, &t->who, t->arena, g, &problem);
    if (problem.kind)
        return scd_fail(err, SCD_E_INVALID, "%s", problem.detail);
    g->length = t->plan->n_known < most ? t->plan->n_known : most;
    g->tallies = scd_arena_zalloc(t->arena, g->n_regulators, vocab * sizeof *g->tallies);
    g->n_expressing = scd_arena_zalloc(t->arena, g->n_regulators, sizeof *g->n_expressing);
    if (!g->tallies || !g->n_expressing)
        return scd_task_no_memory(err);
    t->own = g;
    t->row_floats = g->length * (2 + 2 * g->n_regulators);
    t->n_works = 1;
    t->works[0] = (scd_work){.model = t->who.index};
    t->cache_tasks[0] = "grn";
    scd_task_fact_text(t, "meaning", "associations: no cause is looked at");
    return SCD_OK;
}

static int32_t which_regulator(const grn *g, int32_t id)
{
    for (size_t r = 0; r < g->n_regulators; r++)
        if (g->regulators[r] == id)
            return (int32_t)r;
    return -1;
}

static scd_code add(scd_task *t, const scd_cells_rows *rows, size_t row, size_t first, float *out,
                    scd_task_chunk *chunk, scd_run_cell *said, scd_error *err)
{
    const grn *g = t->own;
    scd_cell cell = {0};
    size_t n_marked = 0;
    memset(out, 0, t->row_floats * sizeof *out);
    scd_code code = scd_run_cell_make(t->who.model, t->plan, rows, row, first, NULL, chunk->arena,
                                      &cell, said, err);
    if (code || !said->is_answered)
        return code;
    memcpy(out, cell.ids, cell.n_tokens * sizeof *out);
    memcpy(out + g->length, cell.values, cell.n_tokens * sizeof *out);
    scd_plan *plan = scd_arena_alloc(chunk->arena, 1, sizeof *plan);
    uint8_t *marks = scd_arena_zalloc(chunk->arena, cell.n_tokens, 1);
    if (!plan || !marks)
        return scd_task_no_memory(err);
    for (size_t i = 0; i < cell.n_tokens; i++)
        n_marked += marks[i] = which_regulator(g, cell.ids[i]) >= 0;
    if (!n_marked || cell.n_tokens < 2)
        return SCD_OK;
    *plan = g->plan;
    plan->hidden = marks;
    return scd_task_course_add(chunk, 0, &cell, plan, n_marked, 1 + 4 * n_marked, out)
               ? SCD_OK
               : scd_task_no_memory(err);
}

static float *weights_of(const grn *g, float *row, size_t regulator)
{
    return row + g->length * (2 + 2 * regulator);
}

static void take(scd_task *t, const scd_task_order *order)
{
    const grn *g = t->own;
    size_t n = order->cell.n_tokens;
    const float *from = order->out + 1;
    for (size_t i = 0; i < n; i++) {
        int32_t r = which_regulator(g, order->cell.ids[i]);
        if (r < 0)
            continue;
        float *to = weights_of(g, order->row, (size_t)r);
        memcpy(to, from, n * sizeof *to);
        memcpy(to + g->length, from + n, n * sizeof *to);
        from += 2 * n;
    }
}

/* ---- all of them ---------------------------------------------------------------------------- */

static scd_code fold(scd_task *t, const scd_run_cell *said, const float *row, size_t cell,
                     scd_error *err)
{
    grn *g = t->own;
    size_t n = said->n_tokens, vocab = t->who.model->config->vocab;
    const int32_t *ids = (const int32_t *)(const void *)row;
    if (!said->is_answered)
        return SCD_OK;
    g->n_cells++;
    for (size_t i = 0; i < n; i++)
        if (n > g->length || ids[i] < 0 || (size_t)ids[i] >= vocab)
            return scd_fail(err, SCD_E_INTERNAL, "row %zu is not what was computed", cell);
    for (size_t r = 0; r < g->n_regulators; r++) {
        bool is_there = scd_association_place(ids, n, g->regulators[r]) < n;
        const float *weights = row + g->length * (2 + 2 * r);
        g->n_expressing[r] += is_there;
        if (!is_there || n < 2)
            weights = NULL;
        scd_association_add(g->tallies + r * vocab, g->regulators[r], ids, row + g->length, n,
                            weights, weights ? weights + g->length : NULL);
    }
    return SCD_OK;
}

/* The table's columns, with room for n rows. */
typedef struct columns {
    const char **regulator, **target;
    double *weight, *effect, *coexpression;
    int64_t *sign, *cells;
} columns;

static bool make_columns(scd_task *t, size_t n, columns *c)
{
    scd_arena *a = t->arena;
    *c = (columns){scd_arena_alloc(a, n + 1, sizeof *c->regulator),
                   scd_arena_alloc(a, n + 1, sizeof *c->target),
                   scd_arena_alloc(a, n + 1, sizeof *c->weight),
                   scd_arena_alloc(a, n + 1, sizeof *c->effect),
                   scd_arena_alloc(a, n + 1, sizeof *c->coexpression),
                   scd_arena_alloc(a, n + 1, sizeof *c->sign),
                   scd_arena_alloc(a, n + 1, sizeof *c->cells)};
    t->table = (scd_table){.n_columns = 7,
                           .columns = {{.name = "regulator", .texts = c->regulator},
                                       {.name = "target", .texts = c->target},
                                       {.name = "weight", .doubles = c->weight},
                                       {.name = "sign", .wholes = c->sign},
                                       {.name = "effect", .doubles = c->effect},
                                       {.name = "coexpression", .doubles = c->coexpression},
                                       {.name = "cells", .wholes = c->cells}}};
    return c->regulator && c->target && c->weight && c->effect && c->coexpression && c->sign &&
           c->cells;
}

static const char *name_of(scd_task *t, int32_t gene)
{
    char scratch[32];
    const char *name = scd_association_name(t->who.model->vocab, gene, scratch);
    return scd_arena_strndup(t->arena, name, strlen(name));
}

static bool list_regulator(scd_task *t, size_t r, size_t top_k, scd_association *found, columns *c)
{
    const grn *g = t->own;
    size_t vocab = t->who.model->config->vocab;
    size_t n = scd_association_list(g->tallies + r * vocab, vocab, g->regulators[r],
                                    g->n_expressing[r], g->n_cells, found);
    const char *regulator = name_of(t, g->regulators[r]);
    bool ok = regulator != NULL;
    for (size_t i = 0; i < n && i < top_k && ok; i++) {
        size_t at = t->table.n_rows++;
        c->regulator[at] = regulator;
        c->target[at] = name_of(t, found[i].gene);
        c->weight[at] = found[i].weight;
        c->sign[at] = found[i].sign;
        c->effect[at] = found[i].effect;
        c->coexpression[at] = found[i].coexpression;
        c->cells[at] = (int64_t)found[i].n_both;
        ok = c->target[at] != NULL;
    }
    return ok;
}

/* Who is expressed in no cell. */
static scd_code judge(scd_task *t, scd_error *err)
{
    const grn *g = t->own;
    char names[300] = "", scratch[32];
    size_t n = 0;
    for (size_t r = 0; r < g->n_regulators; r++) {
        size_t at = strlen(names);
        if (g->n_expressing[r])
            continue;
        n++;
        snprintf(names + at, sizeof names - at, "%s%s", at ? ", " : "",
                 scd_association_name(t->who.model->vocab, g->regulators[r], scratch));
    }
    if (n == g->n_regulators)
        return scd_fail(err, SCD_E_INVALID,
                        "%s: none of the regulators (%s) is expressed in any cell: there is "
                        "nothing to look at",
                        scd_cells_path(t->cells), names);
    if (n)
        scd_file_plan_warn(t->plan, t->arena, "%zu regulators are expressed in no cell: %s", n,
                           names);
    return SCD_OK;
}

static scd_code finish(scd_task *t, scd_error *err)
{
    const grn *g = t->own;
    columns c;
    size_t vocab = t->who.model->config->vocab;
    size_t top_k = t->query->top_k ? t->query->top_k : SCD_GRN_TOP_K;
    size_t most = top_k < vocab ? top_k : vocab;
    scd_association *found = scd_arena_alloc(t->arena, vocab, sizeof *found);
    scd_code code = judge(t, err);
    if (code)
        return code;
    bool ok = found && make_columns(t, g->n_regulators * most, &c);
    for (size_t r = 0; r < g->n_regulators && ok; r++)
        if (g->n_expressing[r])
            ok = list_regulator(t, r, most, found, &c);
    if (!ok)
        return scd_task_no_memory(err);
    if (!t->table.n_rows)
        return scd_fail(err, SCD_E_INVALID,
                        "%s: no cell that expresses the regulators has another gene: there is "
                        "nothing to look at",
                        scd_cells_path(t->cells));
    return SCD_OK;
}

static void spec(const scd_task *t, scd_results_spec *s)
{
    s->table = &t->table;
}

const scd_task_ops scd_task_grn = {.check = check,
                                   .open = open,
                                   .add = add,
                                   .take = take,
                                   .fold = fold,
                                   .finish = finish,
                                   .spec = spec};
