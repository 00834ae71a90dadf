/* task_perturb.c - perturb: what perturbations do to the control cells of a file, as POST
 * /v1/perturbations has it (api/perturb_ask.h).
 *
 * A cell's row holds its embedding, by the genes that the head's study measured, and the values of
 * the head's genes; other cells than controls are not looked at. The network's part is a mean over
 * control cells: where there are very many, over some of them at even distances. */
#include "api/perturb_ask.h"
#include "api/task.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { CHECK_BYTES = 16 << 20, MAX_NETWORK_CELLS = 10000, N_SCORES = SCD_N_SCORES };

typedef struct perturb {
    scd_perturb_genes *asked;                   /* (n) */
    scd_perturb_gene (*genes)[SCD_MAX_TARGETS]; /* (n) */
    size_t n;
    scd_perturb_controls controls;
    size_t H, G;
    uint8_t *is_control; /* (n_cells of the file); NULL: all are */
    size_t stride;       /* every how-many-th control the network sees */
    float *embeddings;   /* (n_network, H) of those */
    size_t n_network, cap_network;
} perturb;

/* ---- what is asked --------------------------------------------------------------------------- */

static void refuse(scd_problem *problem, size_t i, const char *what)
{
    char pointer[64];
    snprintf(pointer, sizeof pointer, "/perturbations/%zu", i);
    scd_problem_add(problem, pointer, "%s (a parameter of the query)", what);
}

/* "A+B", or "A B": a plus in a query is a blank. Names in the arena. */
static bool read_genes(scd_text item, size_t i, scd_arena *arena, scd_perturb_genes *out,
                       scd_problem *problem)
{
    scd_text *names = scd_arena_zalloc(arena, SCD_MAX_TARGETS, sizeof *names);
    size_t n = 0;
    if (!names)
        return false;
    out->names = names;
    for (size_t at = 0; at < item.n; at++) {
        size_t from = at;
        while (at < item.n && item.data[at] != '+' && item.data[at] != ' ')
            at++;
        if (at == from && at < item.n && item.data[at] == ' ')
            continue; /* beside a plus, or another blank */
        if (at == from || n == SCD_MAX_TARGETS) {
            refuse(problem, i, at == from ? "has no gene beside a +" : "has too many genes");
            return true;
        }
        names[n++] = (scd_text){item.data + from, at - from};
    }
    if (item.n && item.data[item.n - 1] == '+')
        refuse(problem, i, "has no gene behind its last +");
    out->n = n;
    return true;
}

/* All of the query, into *p. False: out of memory. */
static bool read_query(const scd_job_query *q, const scd_task_model *who, scd_arena *arena,
                       perturb *p, const scd_perturb_ear *ear, scd_problem *problem)
{
    scd_text *items;
    p->controls = (scd_perturb_controls){
        .head = who->head,
        .predictor = scd_engine_predictor(who->engine, who->index, who->head),
        .wanted_context = {q->context, strlen(q->context)},
        .direction = SCD_N_DIRECTIONS};
    for (int k = 0; k < SCD_N_DIRECTIONS; k++)
        if (strcmp(q->direction, scd_direction_name((scd_direction)k)) == 0)
            p->controls.direction = (scd_direction)k;
    if (!scd_job_list_read(q->list, arena, &items, &p->n))
        return false;
    p->asked = scd_arena_zalloc(arena, p->n, sizeof *p->asked);
    p->genes = scd_arena_zalloc(arena, p->n, sizeof *p->genes);
    if (!p->asked || !p->genes)
        return false;
    if (p->n > SCD_MAX_PERTURBATIONS)
        scd_problem_add(problem, "/perturbations",
                        "has %zu perturbations: ask for at most %d at a time (a parameter of the "
                        "query)",
                        p->n, (int)SCD_MAX_PERTURBATIONS);
    for (size_t i = 0; i < p->n && !problem->kind; i++)
        if (!read_genes(items[i], i, arena, &p->asked[i], problem))
            return false;
    if (!problem->kind)
        scd_perturb_find(&p->controls, who->model->name, p->asked, p->n, p->genes, ear, problem);
    if (!problem->kind)
        scd_perturb_check_choice(&p->controls, problem);
    if (!problem->kind)
        scd_perturb_fits(&p->controls, p->n, problem);
    return true;
}

static void check(const scd_job_query *q, const scd_task_model *who, scd_problem *problem)
{
    scd_arena arena;
    perturb p = {0};
    scd_arena_init(&arena, CHECK_BYTES);
    if (!read_query(q, who, &arena, &p, NULL, problem))
        scd_problem_set(problem, SCD_PROBLEM_UNAVAILABLE, "out of memory: try again");
    scd_arena_release(&arena);
}

/* ---- which cells ----------------------------------------------------------------------------- */

static scd_code no_controls(const scd_task *t, const scd_cells_categories *c, const char *column,
                            const char *value, scd_error *err)
{
    char names[300] = "";
    for (size_t i = 0; i < c->n_categories; i++) {
        size_t at = strlen(names);
        snprintf(names + at, sizeof names - at, "%s\"%.40s\"", at ? ", " : "", c->categories[i]);
    }
    return scd_fail(
        err, SCD_E_INVALID,
        "%s: no cell has \"%.60s\" in obs[\"%.60s\"]: say which are controls (--control); "
        "there is %s",
        scd_cells_path(t->cells), value, column, names);
}

static scd_code choose_controls(scd_task *t, perturb *p, size_t *n_controls, scd_error *err)
{
    const scd_job_query *q = t->query;
    const char *value = *q->control ? q->control : "control";
    scd_cells_categories c;
    *n_controls = t->plan->n_cells;
    if (!*q->control_column)
        return SCD_OK;
    scd_code code = scd_cells_column_categories(t->cells, t->plan->choice.obs_frame,
                                                q->control_column, t->arena, &c, err);
    if (code)
        return code;
    p->is_control = scd_arena_zalloc(t->arena, c.n + 1, 1);
    if (!p->is_control)
        return scd_task_no_memory(err);
    *n_controls = 0;
    for (size_t i = 0; i < c.n; i++) {
        bool is_one = c.codes[i] >= 0 && strcmp(c.categories[c.codes[i]], value) == 0;
        p->is_control[i] = is_one;
        *n_controls += is_one;
    }
    return *n_controls ? SCD_OK : no_controls(t, &c, q->control_column, value, err);
}

static void warn(void *arg, const char *code, const char *text)
{
    scd_task *t = arg;
    (void)code;
    scd_file_plan_warn(t->plan, t->arena, "%s", text);
}

static scd_code reserve(scd_task *t, perturb *p, size_t n_controls, scd_error *err)
{
    p->stride = (n_controls + MAX_NETWORK_CELLS - 1) / MAX_NETWORK_CELLS;
    p->cap_network = (n_controls + p->stride - 1) / p->stride;
    p->embeddings = scd_arena_alloc(t->arena, p->cap_network, p->H * sizeof *p->embeddings);
    p->controls.sums = scd_arena_zalloc(t->arena, p->G, sizeof(double));
    p->controls.squares = scd_arena_zalloc(t->arena, p->G, sizeof(double));
    if (p->stride > 1)
        scd_file_plan_warn(t->plan, t->arena,
                           "%zu control cells: the network's part is the mean over %zu of them, at "
                           "even distances; all else is over all",
                           n_controls, p->cap_network);
    return p->embeddings && p->controls.sums && p->controls.squares ? SCD_OK
                                                                    : scd_task_no_memory(err);
}

static scd_code open(scd_task *t, scd_error *err)
{
    scd_problem problem = {0};
    const scd_perturb_ear ear = {warn, t};
    const scd_head_info *head = t->who.head;
    size_t n_controls = 0;
    perturb *p = scd_arena_zalloc(t->arena, 1, sizeof *p);
    if (!p || !read_query(t->query, &t->who, t->arena, p, &ear, &problem))
        return scd_task_no_memory(err);
    if (problem.kind)
        return scd_fail(err, SCD_E_INVALID, "%s", problem.detail);
    p->H = t->who.model->config->hidden_dim;
    p->G = head->perturb->n_genes;
    t->own = p;
    t->row_floats = p->H + p->G;
    t->n_works = 1;
    t->works[0] = (scd_work){.model = t->who.index, .head = head->has_backbone ? head : NULL};
    t->cache_tasks[0] = head->has_backbone ? "perturb" : "embed";
    scd_code code = choose_controls(t, p, &n_controls, err);
    return code ? code : reserve(t, p, n_controls, err);
}

/* ---- cells ----------------------------------------------------------------------------------- */

/* All genes of the cell, though the model sees MAX_GENE_LEN of them. */
static scd_code make_whole(scd_task *t, const scd_cells_rows *rows, size_t row, size_t first,
                           scd_arena *arena, scd_cell *cell, scd_error *err)
{
    scd_served_model model = *t->who.model;
    scd_model_config config = *model.config;
    scd_run_cell said;
    config.max_gene_len = config.vocab;
    model.config = &config;
    return scd_run_cell_make(&model, t->plan, rows, row, first, t->who.head->genes, arena, cell,
                             &said, err);
}

static scd_code add(scd_task *t, const scd_cells_rows *rows, size_t row, size_t first, float *out,
                    scd_task_chunk *chunk, scd_run_cell *said, scd_error *err)
{
    const perturb *p = t->own;
    scd_cell cell = {0}, whole;
    if (p->is_control && !p->is_control[first + row]) {
        *said = (scd_run_cell){.is_outside = true};
        return SCD_OK;
    }
    scd_code code = scd_run_cell_make(t->who.model, t->plan, rows, row, first, t->who.head->genes,
                                      chunk->arena, &cell, said, err);
    if (code || !said->is_answered)
        return code;
    whole = cell;
    if (said->n_truncated)
        code = make_whole(t, rows, row, first, chunk->arena, &whole, err);
    if (code)
        return code;
    float *values = out + p->H;
    memset(values, 0, p->G * sizeof *values);
    for (size_t i = 0; i < whole.n_tokens; i++) {
        int32_t g = scd_predictor_gene_of(p->controls.predictor, whole.ids[i]);
        if (g >= 0)
            values[g] = whole.values[i];
    }
    return scd_task_order_add(chunk, 0, &cell, out, p->H) ? SCD_OK : scd_task_no_memory(err);
}

static scd_code fold(scd_task *t, const scd_run_cell *said, const float *row, size_t cell,
                     scd_error *err)
{
    perturb *p = t->own;
    scd_perturb_controls *c = &p->controls;
    (void)cell;
    (void)err;
    if (!said->is_answered)
        return SCD_OK;
    if (c->n % p->stride == 0 && p->n_network < p->cap_network)
        memcpy(p->embeddings + p->n_network++ * p->H, row, p->H * sizeof *row);
    c->n++;
    for (size_t g = 0; g < p->G; g++) {
        double x = (double)row[p->H + g];
        c->sums[g] += x;
        c->squares[g] += x * x;
    }
    return SCD_OK;
}

/* ---- the table ------------------------------------------------------------------------------- */

/* The table's columns, with room for all rows. */
typedef struct columns {
    const char **perturbation, **gene;
    float *numbers[4 + SCD_N_BASELINES]; /* control, delta, expression, spread, baselines */
    uint8_t *in_training;
    float *matrix; /* (n, G) */
} columns;

static bool make_columns(scd_task *t, size_t n_rows, columns *c)
{
    static const char *const names[] = {"control", "delta", "expression", "spread"};
    const perturb *p = t->own;
    scd_arena *a = t->arena;
    scd_table *table = &t->table;
    c->perturbation = scd_arena_alloc(a, n_rows, sizeof *c->perturbation);
    c->gene = scd_arena_alloc(a, n_rows, sizeof *c->gene);
    c->in_training = scd_arena_alloc(a, n_rows, sizeof *c->in_training);
    c->matrix = scd_arena_alloc(a, p->n, p->G * sizeof *c->matrix);
    bool ok = c->perturbation && c->gene && c->in_training && c->matrix;
    *table = (scd_table){.columns = {{.name = "perturbation", .texts = c->perturbation},
                                     {.name = "gene", .texts = c->gene},
                                     {.name = "in_training", .bools = c->in_training}},
                         .n_columns = 3,
                         .matrix = c->matrix,
                         .n_matrix_rows = p->n,
                         .n_matrix_columns = p->G};
    for (size_t k = 0; k < 4 + SCD_N_BASELINES; k++) {
        c->numbers[k] = scd_arena_alloc(a, n_rows, sizeof *c->numbers[k]);
        ok = ok && c->numbers[k];
        table->columns[table->n_columns++] =
            (scd_table_column){.name = k < 4 ? names[k] : scd_baseline_name((scd_baseline)(k - 4)),
                               .floats = c->numbers[k]};
    }
    return ok;
}

/* n_genes of perturbation i, in order[]. */
static void put_rows(scd_task *t, const char *name, const scd_perturb_answer *predicted,
                     const uint32_t *order, size_t n_genes, columns *c)
{
    const perturb *p = t->own;
    const scd_perturb_info *info = p->controls.head->perturb;
    for (size_t i = 0; i < n_genes; i++) {
        size_t g = order[i], at = t->table.n_rows++;
        c->perturbation[at] = name;
        c->gene[at] = info->genes[g];
        c->in_training[at] = predicted->in_training;
        c->numbers[0][at] = p->controls.mean[g];
        c->numbers[1][at] = predicted->delta[g];
        c->numbers[2][at] = p->controls.mean[g] + predicted->delta[g];
        c->numbers[3][at] = p->controls.sd[g];
        for (size_t b = 0; b < SCD_N_BASELINES; b++)
            c->numbers[4 + b][at] = predicted->baselines[b][g];
    }
}

static scd_code predict(scd_task *t, size_t i, scd_perturb_ask *ask, size_t n_genes, columns *c,
                        scd_error *err)
{
    const perturb *p = t->own;
    scd_perturb_answer predicted;
    scd_arena arena;
    scd_arena_init(&arena, SIZE_MAX / 2);
    ask->n_genes = p->asked[i].n;
    ask->genes = p->genes[i];
    scd_text name = scd_perturb_name(&p->asked[i], &arena);
    const char *kept = name.data ? scd_arena_strndup(t->arena, name.data, name.n) : NULL;
    uint32_t *order = scd_arena_alloc(&arena, 2 * p->G, sizeof *order);
    scd_code code = kept && order
                        ? scd_predictor_run(p->controls.predictor, ask, &arena, &predicted, err)
                        : scd_task_no_memory(err);
    for (uint32_t g = 0; g < p->G && !code; g++)
        order[g] = g;
    if (!code && n_genes < p->G)
        scd_response_top(predicted.delta, p->G, order);
    if (!code) {
        memcpy(c->matrix + i * p->G, predicted.delta, p->G * sizeof *predicted.delta);
        put_rows(t, kept, &predicted, order, n_genes, c);
    }
    scd_arena_release(&arena);
    return code;
}

/* ---- what is told ---------------------------------------------------------------------------- */

static const char *score_text(scd_task *t, const char *name, const scd_response_score *s)
{
    char text[200];
    snprintf(text, sizeof text,
             "%s: pearson_delta %.4f, mse %.6g, overlap_at_20 %.3f, direction_match %.3f over %zu "
             "perturbations left out",
             name, s->pearson, s->mse, s->overlap, s->direction, s->n);
    return scd_arena_strndup(t->arena, text, strlen(text));
}

/* How the head's own evaluation judged it, and each baseline. */
static scd_code tell_scores(scd_task *t, const scd_perturb_context *context, scd_error *err)
{
    const char **scores = scd_arena_alloc(t->arena, N_SCORES, sizeof *scores);
    bool ok = scores != NULL;
    for (size_t k = 0; k < N_SCORES && ok; k++) {
        const char *name = k == SCD_SCORE_MODEL ? "model" : scd_baseline_name((scd_baseline)k);
        scores[k] = score_text(t, name, &context->scores[k]);
        ok = scores[k] != NULL;
    }
    if (!ok)
        return scd_task_no_memory(err);
    scd_task_fact_list(t, "evaluation", scores, N_SCORES);
    return SCD_OK;
}

static scd_code tell(scd_task *t, scd_error *err)
{
    const perturb *p = t->own;
    const scd_perturb_controls *c = &p->controls;
    const scd_perturb_context *context = &c->head->perturb->contexts[c->context];
    scd_task_fact_text(t, "context", context->name);
    scd_task_fact_text(t, "direction", scd_direction_name(context->direction));
    scd_task_fact_number(t, "controls", (double)c->n);
    scd_task_fact_number(t, "controls_correlation", c->correlation);
    scd_task_fact_number(t, "controls_anchor", c->anchor);
    scd_task_fact_list(t, "readout", c->head->perturb->genes, p->G);
    return tell_scores(t, context, err);
}

static scd_code finish(scd_task *t, scd_error *err)
{
    perturb *p = t->own;
    scd_perturb_controls *controls = &p->controls;
    const scd_perturb_ear ear = {warn, t};
    size_t n_genes = t->query->top_genes && t->query->top_genes < p->G ? t->query->top_genes : p->G;
    columns c = {0};
    scd_arena arena;
    if (!scd_perturb_settle(controls, t->arena, &ear) || !make_columns(t, p->n * n_genes, &c))
        return scd_task_no_memory(err);
    scd_perturb_ask ask = {.context = controls->context,
                           .control = controls->mean,
                           .anchor = controls->anchor,
                           .n_cells = p->n_network};
    scd_code code = SCD_OK;
    scd_arena_init(&arena, SIZE_MAX / 2);
    if (controls->head->perturb->contexts[controls->context].gate > 0) {
        ask.cells = scd_predictor_cells(controls->predictor, p->embeddings, p->n_network, &arena);
        code = ask.cells ? SCD_OK : scd_task_no_memory(err);
    }
    for (size_t i = 0; i < p->n && !code; i++)
        code = predict(t, i, &ask, n_genes, &c, err);
    scd_arena_release(&arena);
    return code ? code : tell(t, err);
}

static void spec(const scd_task *t, scd_results_spec *s)
{
    s->table = &t->table;
}

const scd_task_ops scd_task_perturb = {
    .check = check, .open = open, .add = add, .fold = fold, .finish = finish, .spec = spec};
