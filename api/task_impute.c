/* task_impute.c - impute: values of named genes, or of all genes of the file, in every cell.
 *
 * As POST /v1/denoise has it: a gene to impute is shown and its value hidden - in place where the
 * cell has it, behind its tokens in the order of ids where it has not. A few genes are found in one
 * pass of the cell; more in groups of at most a quarter of MAX_GENE_LEN, each in a pass that shows
 * all other genes of the cell as they are. Where there is no room for all of these, the last ones
 * of the cell's order are not shown, and count as truncated. */
#include "api/task.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    GROUP_SHARE = 4,  /* of MAX_GENE_LEN: the genes of one pass */
    LEAST_GROUPS = 8, /* of a whole file's genes, so that most of each cell is seen */
    CHECK_BYTES = 16 << 20
};

typedef struct impute {
    scd_plan plan;      /* of every pass, what it hides left out */
    size_t n;           /* genes to impute */
    int32_t *ids;       /* (n) ascending; number i is of group i % n_groups */
    int32_t *columns;   /* (n) where the value of ids[i] stands in a cell's row */
    const char **names; /* (n) of the columns */
    int32_t *values_of; /* (n_genes of the file) columns; -1 */
    size_t n_groups;
} impute;

typedef struct target {
    int32_t id, column;
} target;

static int by_id(const void *a, const void *b)
{
    int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    return (x > y) - (x < y);
}

/* Which of ids that is; -1: none. */
static int32_t find(const impute *m, int32_t id)
{
    const int32_t *at = bsearch(&id, m->ids, m->n, sizeof id, by_id);
    return at ? (int32_t)(at - m->ids) : -1;
}

/* ---- before the file is there --------------------------------------------------------------- */

static void check(const scd_job_query *q, const scd_task_model *who, scd_problem *problem)
{
    scd_arena arena;
    size_t n;
    scd_arena_init(&arena, CHECK_BYTES);
    if (scd_task_can_denoise(who, problem) && *q->list_name)
        scd_task_genes(q, who->model->vocab, &arena, &n, problem);
    scd_arena_release(&arena);
}

/* ---- which genes ---------------------------------------------------------------------------- */

static scd_code named_genes(scd_task *t, impute *m, target **out, scd_error *err)
{
    scd_problem problem = {0};
    scd_text *names;
    int32_t *tokens = scd_task_genes(t->query, t->who.model->vocab, t->arena, &m->n, &problem);
    if (!tokens)
        return scd_fail(err, SCD_E_INVALID, "%s", problem.detail);
    m->names = scd_arena_alloc(t->arena, m->n, sizeof *m->names);
    *out = scd_arena_alloc(t->arena, m->n, sizeof **out);
    if (!m->names || !*out || !scd_job_list_read(t->query->list, t->arena, &names, &m->n))
        return scd_task_no_memory(err);
    for (size_t i = 0; i < m->n; i++) {
        (*out)[i] = (target){tokens[i], (int32_t)i};
        m->names[i] = scd_arena_strndup(t->arena, names[i].data, names[i].n);
        if (!m->names[i])
            return scd_task_no_memory(err);
    }
    return SCD_OK;
}

/* Each gene of the file that the model knows, in the file's order. */
static scd_code all_genes(scd_task *t, impute *m, target **out, scd_error *err)
{
    const scd_file_plan *p = t->plan;
    uint8_t *seen = scd_arena_zalloc(t->arena, t->who.model->config->vocab, 1);
    m->names = scd_arena_alloc(t->arena, p->n_genes + 1, sizeof *m->names);
    *out = scd_arena_alloc(t->arena, p->n_genes + 1, sizeof **out);
    if (!seen || !m->names || !*out)
        return scd_task_no_memory(err);
    for (size_t gene = 0; gene < p->n_genes; gene++) {
        int32_t id = p->tokens[gene];
        if (id < 0 || seen[id])
            continue;
        seen[id] = 1;
        m->names[m->n] = p->genes[gene];
        (*out)[m->n] = (target){id, (int32_t)m->n};
        m->n++;
    }
    return SCD_OK;
}

static scd_code sort_targets(scd_task *t, impute *m, target *targets, scd_error *err)
{
    qsort(targets, m->n, sizeof *targets, by_id);
    m->ids = scd_arena_alloc(t->arena, m->n + 1, sizeof *m->ids);
    m->columns = scd_arena_alloc(t->arena, m->n + 1, sizeof *m->columns);
    m->values_of = scd_arena_alloc(t->arena, t->plan->n_genes + 1, sizeof *m->values_of);
    if (!m->ids || !m->columns || !m->values_of)
        return scd_task_no_memory(err);
    for (size_t i = 0; i < m->n; i++) {
        m->ids[i] = targets[i].id;
        m->columns[i] = targets[i].column;
    }
    return SCD_OK;
}

/* Columns of the file; a layer has no room for a gene that the file does not have. */
static scd_code map_columns(scd_task *t, impute *m, scd_error *err)
{
    uint8_t *placed = scd_arena_zalloc(t->arena, m->n + 1, 1);
    if (!placed)
        return scd_task_no_memory(err);
    for (size_t gene = 0; gene < t->plan->n_genes; gene++) {
        int32_t id = t->plan->tokens[gene], at = id < 0 ? -1 : find(m, id);
        m->values_of[gene] = at < 0 ? -1 : m->columns[at];
        if (at >= 0)
            placed[m->columns[at]] = 1;
    }
    for (size_t i = 0; i < m->n && strcmp(t->query->format, "h5ad") == 0; i++)
        if (!placed[i])
            return scd_fail(err, SCD_E_INVALID,
                            "%s: has no gene \"%.80s\", and a layer has the file's genes alone: "
                            "leave it out of --genes, or write .csv, .tsv or .npy",
                            scd_cells_path(t->cells), m->names[i]);
    return SCD_OK;
}

static void make_plan(scd_task *t, impute *m)
{
    const scd_served_model *model = t->who.model;
    bool clean = strcmp(t->query->pooling, "clean") == 0;
    m->plan =
        (scd_plan){.kind = model->config->value_masking ? SCD_PLAN_VALUES : SCD_PLAN_POSTERIOR,
                   .pooling = clean ? SCD_POOL_CLEAN : SCD_POOL_VISIBLE,
                   .steps = 1};
    if (m->plan.kind == SCD_PLAN_POSTERIOR)
        scd_file_plan_warn(t->plan, t->arena,
                           "model \"%.80s\" was not trained to find the value of a gene that it is "
                           "shown: values are means over hidden positions, weighted by how "
                           "probable the gene is there",
                           model->name);
    if (clean)
        scd_file_plan_warn(t->plan, t->arena,
                           "\"clean\" pooling lets what is hidden leak through the latent token: "
                           "these values say nothing about imputation");
    scd_task_fact_number(t, "genes_imputed", (double)m->n);
    scd_task_fact_number(t, "passes_per_cell", (double)m->n_groups);
    scd_task_fact_text(t, "found_by",
                       m->plan.kind == SCD_PLAN_VALUES ? "hidden values" : "posterior");
    scd_task_fact_text(t, "pooling", clean ? "clean" : "visible");
    if (*t->query->list_name)
        scd_task_fact_list(t, "genes", m->names, m->n);
}

static scd_code open(scd_task *t, scd_error *err)
{
    impute *m = scd_arena_zalloc(t->arena, 1, sizeof *m);
    size_t group = t->who.model->config->max_gene_len / GROUP_SHARE;
    bool is_named = *t->query->list_name != '\0';
    target *targets;
    if (!m)
        return scd_task_no_memory(err);
    scd_code code = is_named ? named_genes(t, m, &targets, err) : all_genes(t, m, &targets, err);
    if (!code)
        code = sort_targets(t, m, targets, err);
    if (!code)
        code = map_columns(t, m, err);
    if (code)
        return code;
    group = group ? group : 1;
    m->n_groups = (m->n + group - 1) / group;
    if (!is_named && m->n_groups < LEAST_GROUPS)
        m->n_groups = LEAST_GROUPS < m->n ? LEAST_GROUPS : m->n;
    make_plan(t, m);
    t->own = m;
    t->row_floats = m->n;
    t->n_works = 1;
    t->works[0] = (scd_work){.model = t->who.index, .pooling = m->plan.pooling};
    t->cache_tasks[0] = "denoise";
    return SCD_OK;
}

/* ---- cells ---------------------------------------------------------------------------------- */

static size_t group_size(const impute *m, size_t group)
{
    return m->n / m->n_groups + (group < m->n % m->n_groups);
}

/* What a pass shows of a cell: ids, values, what is hidden; behind its own tokens the group's other
 * genes. present: (group_size) zeros, 1 afterwards for those of the group that the cell has. */
static void show(const impute *m, size_t group, size_t most, const scd_cell *whole, scd_cell *cell,
                 uint8_t *hidden, uint8_t *present)
{
    size_t room = most - group_size(m, group), n = 0, n_visible = 0;
    for (size_t i = 0; i < whole->n_tokens; i++) {
        int32_t at = find(m, whole->ids[i]);
        bool is_hidden = at >= 0 && (size_t)at % m->n_groups == group;
        if (!is_hidden && n_visible == room)
            continue;
        n_visible += !is_hidden;
        if (is_hidden)
            present[(size_t)at / m->n_groups] = 1;
        cell->ids[n] = whole->ids[i];
        cell->values[n] = whole->values[i];
        hidden[n++] = is_hidden;
    }
    for (size_t at = group; at < m->n; at += m->n_groups)
        if (!present[at / m->n_groups]) {
            cell->ids[n] = m->ids[at];
            cell->values[n] = 0;
            hidden[n++] = 1;
        }
    cell->n_tokens = n;
}

static scd_code add_pass(scd_task *t, const scd_cell *whole, size_t group, float *out,
                         scd_task_chunk *chunk, size_t *n_left_out, scd_error *err)
{
    const impute *m = t->own;
    size_t n_hidden = group_size(m, group), most = t->who.model->config->max_gene_len;
    size_t room = whole->n_tokens + n_hidden;
    scd_cell cell = *whole;
    scd_plan *plan = scd_arena_alloc(chunk->arena, 1, sizeof *plan);
    uint8_t *hidden = scd_arena_zalloc(chunk->arena, room, 1);
    uint8_t *present = scd_arena_zalloc(chunk->arena, n_hidden, 1);
    cell.ids = scd_arena_alloc(chunk->arena, room, sizeof *cell.ids);
    cell.values = scd_arena_alloc(chunk->arena, room, sizeof *cell.values);
    if (!plan || !hidden || !present || !cell.ids || !cell.values)
        return scd_task_no_memory(err);
    show(m, group, most, whole, &cell, hidden, present);
    size_t n_own = 0;
    for (size_t i = 0; i < n_hidden; i++)
        n_own += present[i];
    size_t n_shown = cell.n_tokens - n_hidden, n_left = whole->n_tokens - n_own - n_shown;
    *n_left_out = n_left > *n_left_out ? n_left : *n_left_out;
    if (!n_shown)
        return SCD_OK; /* nothing to go by: its values stay unknown */
    *plan = m->plan;
    plan->hidden = hidden;
    return scd_task_course_add(chunk, 0, &cell, plan, n_hidden, 1, out) ? SCD_OK
                                                                        : scd_task_no_memory(err);
}

static scd_code add(scd_task *t, const scd_cells_rows *rows, size_t row, size_t first, float *out,
                    scd_task_chunk *chunk, scd_run_cell *said, scd_error *err)
{
    const impute *m = t->own;
    size_t n_left_out = 0;
    scd_cell whole = {0};
    scd_code code = scd_run_cell_make(t->who.model, t->plan, rows, row, first, NULL, chunk->arena,
                                      &whole, said, err);
    for (size_t group = 0; group < m->n_groups && !code && said->is_answered; group++)
        code = add_pass(t, &whole, group, out, chunk, &n_left_out, err);
    said->n_truncated += n_left_out;
    return code;
}

static void take(scd_task *t, const scd_task_order *order)
{
    const impute *m = t->own;
    size_t n_hidden = (order->width - 1) / SCD_SAMPLE_WIDTH;
    for (size_t i = 0; i < n_hidden; i++) {
        const float *found = order->out + 1 + SCD_SAMPLE_WIDTH * i;
        int32_t at = find(m, (int32_t)found[0]);
        if (at >= 0)
            order->row[m->columns[at]] = found[1];
    }
}

static void spec(const scd_task *t, scd_results_spec *s)
{
    const impute *m = t->own;
    s->denoised = strcmp(t->query->format, "h5ad") == 0;
    s->n_values = m->n;
    s->values_of = m->values_of;
    s->columns = m->names;
    s->embedding_width = s->denoised ? 0 : m->n;
}

const scd_task_ops scd_task_impute = {
    .check = check, .open = open, .add = add, .take = take, .spec = spec};
