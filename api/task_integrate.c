/* task_integrate.c - integrate: embeddings of a model that was fine-tuned for integration, and,
 * where a column of obs names the batches, how well these are mixed (api/lisi.h).
 *
 * The figures stand beside those of what was not corrected: the expression itself - ln(1 + counts
 * per 10,000) of the model's genes -, and the embeddings of another model, usually the one that the
 * fine-tuning began with, where one is named. All are over the same cells of the file, at even
 * distances where there are very many. A cell's row holds its embedding, then the other model's. */
#include "api/lisi.h"
#include "api/models.h"
#include "api/task.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { MAX_CELLS = 3000, ROW_BYTES = 64 << 20, N_WAYS = 3 };

/* What is compared: its name in uns, and for people. */
typedef enum way { CORRECTED, UNCORRECTED, EXPRESSION } way;
static const char *const way_names[N_WAYS] = {"embedding", "uncorrected embedding", "expression"};
static const char *const ilisi_keys[N_WAYS] = {"ilisi", "ilisi_uncorrected", "ilisi_expression"};
static const char *const clisi_keys[N_WAYS] = {"clisi", "clisi_uncorrected", "clisi_expression"};

typedef struct integrate {
    const scd_served_model *other; /* NULL: none was named */
    size_t other_index, width, other_width;
    scd_file_plan other_plan;     /* its tokens are the other model's */
    const int32_t *batch, *label; /* (n_cells of the file); NULL: no such column */
    size_t stride;                /* every how-many-th cell is compared */
    size_t n, cap;                /* cells compared */
    size_t *cells;                /* (n) rows of the file */
    int32_t *batches, *labels;    /* (n) */
    float *embeddings, *others;   /* (n, width), (n, other_width) */
    scd_cell *expression;         /* (n) */
    float *dense;                 /* (V) one cell at a time */
} integrate;

/* ---- what is asked -------------------------------------------------------------------------- */

/* NULL: none is named, or the problem says that there is none of that name. */
static const scd_served_model *find_other(const scd_job_query *q, const scd_task_model *who,
                                          size_t *index, scd_problem *problem)
{
    if (!*q->uncorrected)
        return NULL;
    return scd_models_choose(who->engine, (scd_text){q->uncorrected, strlen(q->uncorrected)}, index,
                             problem);
}

static void check(const scd_job_query *q, const scd_task_model *who, scd_problem *problem)
{
    size_t index;
    find_other(q, who, &index, problem);
}

static scd_code read_column(scd_task *t, const char *column, const int32_t **codes, scd_error *err)
{
    scd_cells_categories c;
    *codes = NULL;
    if (!*column)
        return SCD_OK;
    scd_code code =
        scd_cells_column_categories(t->cells, t->plan->choice.obs_frame, column, t->arena, &c, err);
    if (!code)
        *codes = c.codes;
    return code;
}

static scd_code reserve(scd_task *t, integrate *g, scd_error *err)
{
    size_t n = t->plan->n_cells;
    scd_arena *a = t->arena;
    g->stride = (n + MAX_CELLS - 1) / MAX_CELLS;
    g->cap = (n + g->stride - 1) / g->stride;
    g->cells = scd_arena_alloc(a, g->cap, sizeof *g->cells);
    g->batches = scd_arena_alloc(a, g->cap, sizeof *g->batches);
    g->labels = scd_arena_alloc(a, g->cap, sizeof *g->labels);
    g->embeddings = scd_arena_alloc(a, g->cap, g->width * sizeof *g->embeddings);
    g->others = scd_arena_alloc(a, g->cap, (g->other_width + 1) * sizeof *g->others);
    g->expression = scd_arena_zalloc(a, g->cap, sizeof *g->expression);
    g->dense = scd_arena_zalloc(a, t->who.model->config->vocab, sizeof *g->dense);
    return g->cells && g->batches && g->labels && g->embeddings && g->others && g->expression &&
                   g->dense
               ? SCD_OK
               : scd_task_no_memory(err);
}

/* The file's genes as the other model knows them. */
static scd_code open_other(scd_task *t, integrate *g, scd_error *err)
{
    const scd_file_plan *p = t->plan;
    scd_gene_book book = scd_gene_book_of(g->other->vocab);
    int32_t *tokens = scd_arena_alloc(t->arena, p->n_genes + 1, sizeof *tokens);
    scd_rung *rungs = scd_arena_alloc(t->arena, p->n_genes + 1, sizeof *rungs);
    if (!tokens || !rungs)
        return scd_task_no_memory(err);
    scd_code code = book.resolve(book.arg, p->genes, p->n_genes, tokens, rungs, err);
    for (size_t i = 0; i < p->n_genes && !code; i++)
        if (p->left_out[i])
            tokens[i] = -1;
    g->other_plan = *p;
    g->other_plan.tokens = tokens;
    g->other_width = g->other->config->hidden_dim;
    t->works[t->n_works] = (scd_work){.model = g->other_index};
    t->cache_tasks[t->n_works++] = "embed";
    scd_task_fact_text(t, "uncorrected_digest", g->other->digest_hex);
    return code;
}

static scd_code open(scd_task *t, scd_error *err)
{
    scd_problem problem = {0};
    const scd_job_query *q = t->query;
    integrate *g = scd_arena_zalloc(t->arena, 1, sizeof *g);
    if (!g)
        return scd_task_no_memory(err);
    t->own = g;
    t->n_works = 1;
    t->works[0] = (scd_work){.model = t->who.index};
    t->cache_tasks[0] = "embed";
    t->width = g->width = t->who.model->config->hidden_dim;
    g->other = find_other(q, &t->who, &g->other_index, &problem);
    if (problem.kind)
        return scd_fail(err, SCD_E_INVALID, "%s", problem.detail);
    scd_code code = g->other ? open_other(t, g, err) : SCD_OK;
    if (!code)
        code = read_column(t, q->batch_column, &g->batch, err);
    if (!code)
        code = read_column(t, q->label_column, &g->label, err);
    if (!code && g->batch)
        code = reserve(t, g, err);
    t->row_floats = t->width + g->other_width;
    return code;
}

/* ---- cells ---------------------------------------------------------------------------------- */

static scd_code add(scd_task *t, const scd_cells_rows *rows, size_t row, size_t first, float *out,
                    scd_task_chunk *chunk, scd_run_cell *said, scd_error *err)
{
    const integrate *g = t->own;
    scd_cell cell = {0}, other = {0};
    scd_run_cell said_there = {0};
    scd_code code = scd_run_cell_make(t->who.model, t->plan, rows, row, first, NULL, chunk->arena,
                                      &cell, said, err);
    if (!code && g->other)
        code = scd_run_cell_make(g->other, &g->other_plan, rows, row, first, NULL, chunk->arena,
                                 &other, &said_there, err);
    if (code)
        return code;
    bool ok = !said->is_answered || scd_task_order_add(chunk, 0, &cell, out, t->width);
    if (ok && said_there.is_answered)
        ok = scd_task_order_add(chunk, 1, &other, out + t->width, g->other_width);
    return ok ? SCD_OK : scd_task_no_memory(err);
}

static scd_code fold(scd_task *t, const scd_run_cell *said, const float *row, size_t cell,
                     scd_error *err)
{
    integrate *g = t->own;
    (void)err;
    if (!g->batch || cell % g->stride || g->n == g->cap || !said->is_answered ||
        g->batch[cell] < 0 || (g->other && isnan(row[t->width])))
        return SCD_OK;
    memcpy(g->embeddings + g->n * g->width, row, g->width * sizeof *row);
    if (g->other)
        memcpy(g->others + g->n * g->other_width, row + t->width, g->other_width * sizeof *row);
    g->batches[g->n] = g->batch[cell];
    g->labels[g->n] = g->label ? g->label[cell] : -1;
    g->cells[g->n++] = cell;
    return SCD_OK;
}

/* ---- how well they are mixed ---------------------------------------------------------------- */

typedef struct space {
    const float *x; /* (n, dim) */
    size_t n, dim;
} space;

static void embedding_distances(void *arg, size_t i, double *out)
{
    const space *s = arg;
    for (size_t k = 0; k < s->n; k++) {
        double sum = 0;
        for (size_t d = 0; d < s->dim; d++) {
            double x = (double)s->x[i * s->dim + d] - (double)s->x[k * s->dim + d];
            sum += x * x;
        }
        out[k] = sum;
    }
}

static double square_of(const scd_cell *c)
{
    double sum = 0;
    for (size_t i = 0; i < c->n_tokens; i++)
        sum += (double)c->values[i] * (double)c->values[i];
    return sum;
}

static void expression_distances(void *arg, size_t i, double *out)
{
    const integrate *g = arg;
    const scd_cell *one = &g->expression[i];
    double own = square_of(one);
    for (size_t k = 0; k < one->n_tokens; k++)
        g->dense[one->ids[k]] = one->values[k];
    for (size_t k = 0; k < g->n; k++) {
        const scd_cell *c = &g->expression[k];
        double product = 0;
        for (size_t j = 0; j < c->n_tokens; j++)
            product += (double)g->dense[c->ids[j]] * (double)c->values[j];
        out[k] = own + square_of(c) - 2 * product;
    }
    for (size_t k = 0; k < one->n_tokens; k++)
        g->dense[one->ids[k]] = 0;
}

/* The values of the cells that are compared, read once more, all of the model's genes. */
static scd_code read_expression(scd_task *t, integrate *g, scd_error *err)
{
    scd_served_model model = *t->who.model;
    scd_model_config config = *model.config;
    scd_code code = SCD_OK;
    config.max_gene_len = config.vocab;
    model.config = &config;
    for (size_t i = 0; i < g->n && !code; i++) {
        scd_arena arena;
        scd_cells_rows rows;
        scd_run_cell said;
        scd_arena_init(&arena, ROW_BYTES);
        code = scd_cells_rows_read(t->cells, t->plan->choice.matrix, g->cells[i], 1, &arena, &rows,
                                   err);
        if (!code)
            code = scd_run_cell_make(&model, t->plan, &rows, 0, g->cells[i], NULL, t->arena,
                                     &g->expression[i], &said, err);
        scd_arena_release(&arena);
    }
    return code;
}

/* One more line of what was found. */
static void note(scd_task *t, const char *text)
{
    scd_file_plan *p = t->plan;
    const char *kept = scd_arena_strndup(t->arena, text, strlen(text));
    if (kept && p->n_decisions < SCD_PLAN_MAX_NOTES)
        p->decisions[p->n_decisions++] = kept;
}

static scd_code judge(scd_task *t, integrate *g, way which, const scd_lisi_cells *cells,
                      scd_error *err)
{
    char text[300];
    double median, mixed = NAN, apart = NAN;
    size_t n_kinds, n_labels = 0, n, n_labelled = 0;
    scd_code code = scd_lisi_median(cells, g->batches, &median, &n_kinds, &n, err);
    if (code)
        return code;
    mixed = scd_lisi_mixed(median, n_kinds);
    if (isnan(median)) {
        if (which == CORRECTED)
            scd_file_plan_warn(t->plan, t->arena,
                               "how well batches are mixed means nothing here: %zu cells with a "
                               "batch, %zu batches",
                               n, n_kinds);
        return SCD_OK;
    }
    if (g->label)
        code = scd_lisi_median(cells, g->labels, &median, &n_labels, &n_labelled, err);
    if (g->label && !code)
        apart = scd_lisi_apart(median, n_labels);
    scd_task_fact_number(t, ilisi_keys[which], mixed);
    if (isfinite(apart))
        scd_task_fact_number(t, clisi_keys[which], apart);
    size_t at = (size_t)snprintf(text, sizeof text, "%s: iLISI %.3f of %zu batches",
                                 way_names[which], mixed, n_kinds);
    if (isfinite(apart))
        snprintf(text + at, sizeof text - at, ", cLISI %.3f of %zu labels", apart, n_labels);
    at = strlen(text);
    snprintf(text + at, sizeof text - at, ", over %zu cells", n);
    note(t, text);
    return code;
}

static scd_code finish(scd_task *t, scd_error *err)
{
    integrate *g = t->own;
    if (!g->batch)
        return SCD_OK;
    space own = {g->embeddings, g->n, g->width}, other = {g->others, g->n, g->other_width};
    const scd_lisi_cells corrected = {g->n, embedding_distances, &own};
    const scd_lisi_cells uncorrected = {g->n, embedding_distances, &other};
    const scd_lisi_cells expression = {g->n, expression_distances, g};
    scd_task_fact_number(t, "cells_compared", (double)g->n);
    scd_code code = judge(t, g, CORRECTED, &corrected, err);
    if (!code && g->other)
        code = judge(t, g, UNCORRECTED, &uncorrected, err);
    if (!code)
        code = read_expression(t, g, err);
    return code ? code : judge(t, g, EXPRESSION, &expression, err);
}

const scd_task_ops scd_task_integrate = {
    .check = check, .open = open, .add = add, .fold = fold, .finish = finish};
