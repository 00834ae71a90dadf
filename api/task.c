/* task.c - see task.h: the table, and what all tasks share. */
#include "api/task.h"

#include "api/json_write.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static const char *const all_formats[] = {"h5ad", "csv", "tsv", "npy", NULL};
static const char *const of_embed[] = {NULL};
static const char *const table_formats[] = {"h5ad", "csv", "tsv", NULL};
static const char *const of_grn[] = {"regulators", "top_k", "layers", "heads", NULL};
static const char *const of_perturb[] = {"perturbations", "head",           "direction", "context",
                                         "top_genes",     "control_column", "control",   NULL};
static const char *const of_integrate[] = {"batch_column", "label_column", "uncorrected", NULL};
static const char *const of_impute[] = {"genes", "pooling", NULL};
static const char *const of_annotate[] = {"head", "threshold", "embeddings", NULL};

static scd_code count_label(scd_task *t, const scd_run_cell *said, const float *row, size_t cell,
                            scd_error *err);

static const scd_task_ops in_one_pass = {0}, annotate = {.fold = count_label};

static const scd_task_kind kinds[] = {
    {"embed", NULL, of_embed, all_formats, &in_one_pass, NULL, NULL},
    {"annotate", "annotation", of_annotate, all_formats, &annotate, NULL, NULL},
    {"integrate", NULL, of_integrate, all_formats, &scd_task_integrate, NULL, NULL},
    {"impute", NULL, of_impute, all_formats, &scd_task_impute, NULL, NULL},
    {"perturb", "perturbation", of_perturb, all_formats, &scd_task_perturb, "perturbations",
     "the genes to perturb, with commas between, and + between those of one perturbation"},
    {"grn", NULL, of_grn, table_formats, &scd_task_grn, "regulators",
     "the genes whose associations are asked for, with commas between"},
};
enum { N_KINDS = sizeof kinds / sizeof kinds[0] };

/* ---- the table ------------------------------------------------------------------------------ */

const scd_task_kind *scd_task_find(const char *name)
{
    for (size_t i = 0; i < N_KINDS; i++)
        if (strcmp(kinds[i].name, name) == 0)
            return &kinds[i];
    return NULL;
}

static bool is_listed(const char *const *list, const char *name)
{
    for (; *list; list++)
        if (strcmp(*list, name) == 0)
            return true;
    return false;
}

bool scd_task_takes(const scd_task_kind *kind, const char *parameter)
{
    return is_listed(kind->parameters, parameter);
}

bool scd_task_writes(const scd_task_kind *kind, const char *format)
{
    return is_listed(kind->formats, format);
}

void scd_task_names(const char *parameter, char out[160])
{
    out[0] = '\0';
    for (size_t i = 0; i < N_KINDS; i++) {
        size_t n = strlen(out);
        if (!parameter || scd_task_takes(&kinds[i], parameter))
            snprintf(out + n, 160 - n, "%s%s", n ? ", " : "", kinds[i].name);
    }
}

void scd_task_check(const scd_job_query *query, const scd_task_model *who, scd_problem *problem)
{
    const scd_task_kind *kind = scd_task_find(query->task);
    if (kind && kind->ops->check)
        kind->ops->check(query, who, problem);
}

/* ---- opening -------------------------------------------------------------------------------- */

scd_code scd_task_no_memory(scd_error *err)
{
    return scd_fail(err, SCD_E_NOMEM, "out of memory for a chunk of cells");
}

static scd_code list_labels(scd_task *t, scd_error *err)
{
    const scd_head_info *head = t->who.head;
    size_t n = head ? head->n_labels : 0;
    t->labels = scd_arena_alloc(t->arena, n + 1, sizeof *t->labels);
    t->ontology_ids = scd_arena_alloc(t->arena, n + 1, sizeof *t->ontology_ids);
    if (!t->labels || !t->ontology_ids)
        return scd_fail(err, SCD_E_NOMEM, "out of memory for %zu labels", n);
    for (size_t i = 0; i < n; i++) {
        t->labels[i] = head->labels[i].label;
        t->ontology_ids[i] = head->labels[i].ontology_id ? head->labels[i].ontology_id : "";
    }
    return SCD_OK;
}

static void add_work(scd_task *t, const scd_head_info *head, const char *cache_task)
{
    t->cache_tasks[t->n_works] = cache_task;
    t->works[t->n_works++] = (scd_work){.model = t->who.index, .head = head};
}

scd_code scd_task_open(scd_task *t, scd_error *err)
{
    const scd_head_info *head = t->who.head;
    t->threshold = t->query->has_threshold ? t->query->threshold : head ? head->threshold : 0;
    const char *const *told;
    size_t n_told;
    scd_code code = list_labels(t, err);
    if (!code && !scd_job_query_tell(t->query, t->kind->parameters, t->arena, &told, &n_told))
        code = scd_task_no_memory(err);
    if (code)
        return code;
    if (n_told)
        scd_task_fact_list(t, "parameters", told, n_told);
    if (t->kind->ops->open)
        return t->kind->ops->open(t, err);
    bool annotates = t->kind->head != NULL;
    t->width = !annotates || t->query->embeddings ? t->who.model->config->hidden_dim : 0;
    t->n_labels = annotates ? head->n_labels : 0;
    t->row_floats = t->width + t->n_labels;
    t->counts = scd_arena_zalloc(t->arena, t->n_labels + 1, sizeof *t->counts);
    if (!t->counts)
        return scd_task_no_memory(err);
    if (t->width)
        add_work(t, NULL, "embed");
    if (t->n_labels)
        add_work(t, head, t->kind->name);
    return SCD_OK;
}

/* ---- cells ---------------------------------------------------------------------------------- */

void scd_task_chunk_init(scd_task_chunk *chunk, scd_arena *arena)
{
    *chunk = (scd_task_chunk){.arena = arena};
    chunk->last = &chunk->first;
}

scd_task_order *scd_task_order_add(scd_task_chunk *chunk, size_t work, const scd_cell *cell,
                                   float *out, size_t width)
{
    scd_task_order *order = scd_arena_zalloc(chunk->arena, 1, sizeof *order);
    if (!order)
        return NULL;
    *order = (scd_task_order){
        .work = work, .cell = *cell, .out = out, .width = width, .n_tokens = cell->n_tokens + 1};
    *chunk->last = order;
    chunk->last = &order->next;
    chunk->n_orders++;
    chunk->n_tokens += order->n_tokens;
    return order;
}

scd_task_order *scd_task_course_add(scd_task_chunk *chunk, size_t work, const scd_cell *cell,
                                    scd_plan *plan, size_t n_hidden, size_t n_passes, float *row)
{
    size_t width = scd_plan_width(plan->kind, cell->n_tokens, n_hidden);
    float *out = scd_arena_alloc(chunk->arena, width, sizeof *out);
    scd_task_order *order = out ? scd_task_order_add(chunk, work, cell, out, width) : NULL;
    if (!order)
        return NULL;
    order->plan = plan;
    order->row = row;
    chunk->n_tokens += order->n_tokens * (n_passes - 1);
    order->n_tokens *= n_passes;
    return order;
}

/* An embedding, then probabilities. A head may use fewer genes than the model: its cell is not the
 * embedding's. */
static scd_code add_in_one_pass(scd_task *t, const scd_cells_rows *rows, size_t row, size_t first,
                                float *out, scd_task_chunk *chunk, scd_run_cell *said,
                                scd_error *err)
{
    for (size_t i = 0; i < t->n_works; i++) {
        const scd_head_info *head = t->works[i].head;
        size_t width = head ? t->n_labels : t->width;
        scd_cell cell = {0};
        scd_code code =
            scd_run_cell_make(t->who.model, t->plan, rows, row, first, head ? head->genes : NULL,
                              chunk->arena, &cell, said, err);
        if (code)
            return code;
        if (said->is_answered && !scd_task_order_add(chunk, i, &cell, out, width))
            return scd_task_no_memory(err);
        out += width;
    }
    return SCD_OK;
}

scd_code scd_task_add(scd_task *t, const scd_cells_rows *rows, size_t row, size_t first, float *out,
                      scd_task_chunk *chunk, scd_run_cell *said, scd_error *err)
{
    for (size_t i = 0; i < t->row_floats; i++)
        out[i] = NAN;
    return (t->kind->ops->add ? t->kind->ops->add : add_in_one_pass)(t, rows, row, first, out,
                                                                     chunk, said, err);
}

void scd_task_take(scd_task *t, const scd_task_order *order)
{
    if (t->kind->ops->take)
        t->kind->ops->take(t, order);
}

/* ---- all of them ---------------------------------------------------------------------------- */

bool scd_task_folds(const scd_task *t)
{
    return t->kind->ops->fold != NULL;
}

scd_code scd_task_fold(scd_task *t, const scd_run_cell *said, const void *rows, size_t stride,
                       size_t n, size_t first, scd_error *err)
{
    scd_code code = SCD_OK;
    for (size_t i = 0; i < n && !code; i++) {
        const char *row = (const char *)rows + i * stride;
        code = t->kind->ops->fold(t, said + i, (const float *)(const void *)row, first + i, err);
    }
    return code;
}

static scd_code count_label(scd_task *t, const scd_run_cell *said, const float *row, size_t cell,
                            scd_error *err)
{
    (void)said;
    (void)cell;
    (void)err;
    const float *p = row + t->width;
    size_t best = scd_best_label(p, t->n_labels);
    if (best < t->n_labels) {
        t->counts[best].n_cells++;
        t->counts[best].n_unknown += (double)p[best] < t->threshold;
    }
    return SCD_OK;
}

bool scd_task_write_labels(const scd_task *t, scd_buf *out)
{
    bool any = false;
    if (t->kind->ops != &annotate)
        return false;
    scd_buf_putc(out, '[');
    for (size_t i = 0; i < t->n_labels; i++) {
        if (!t->counts[i].n_cells)
            continue;
        scd_buf_puts(out, any ? ",{\"label\":" : "{\"label\":");
        scd_json_text(out, t->labels[i]);
        scd_buf_printf(out, ",\"cells\":%zu,\"unknown\":%zu}", t->counts[i].n_cells,
                       t->counts[i].n_unknown);
        any = true;
    }
    scd_buf_putc(out, ']');
    return true;
}

scd_code scd_task_finish(scd_task *t, scd_error *err)
{
    return t->kind->ops->finish ? t->kind->ops->finish(t, err) : SCD_OK;
}

scd_results_spec scd_task_spec(const scd_task *t)
{
    scd_results_spec spec = {.cells = t->cells,
                             .plan = t->plan,
                             .task = t->kind->name,
                             .embedding_width = t->width,
                             .n_labels = t->n_labels,
                             .labels = t->labels,
                             .threshold = t->threshold};
    if (t->kind->ops->spec)
        t->kind->ops->spec(t, &spec);
    return spec;
}

size_t scd_task_facts(const scd_task *t, const scd_run_sums *sums, const char *input,
                      const char *input_sha256, scd_fact facts[SCD_RUN_MAX_FACTS])
{
    const scd_device_info *device = t->who.device;
    const scd_run_about about = {.task = t->kind->name,
                                 .model = t->who.model->name,
                                 .model_digest = t->who.model->digest_hex,
                                 .device = t->who.device_kind,
                                 .isa = device->isa,
                                 .precision =
                                     device->precision == SCD_PRECISION_BF16 ? "bf16" : "fp32",
                                 .head = t->who.head ? t->who.head->name : NULL,
                                 .head_digest = t->who.head ? t->who.head->digest_hex : NULL,
                                 .threshold = t->threshold,
                                 .n_labels = t->n_labels,
                                 .labels = t->labels,
                                 .ontology_ids = t->ontology_ids,
                                 .facts = t->facts,
                                 .n_facts = t->n_facts,
                                 .input = input,
                                 .input_format = scd_cells_format(t->cells),
                                 .input_sha256 = input_sha256};
    return scd_run_facts(&about, t->plan, sums, facts);
}

scd_code scd_task_block(const scd_results_spec *spec, const void *rows, size_t stride, size_t n,
                        const scd_cells_rows *input, scd_arena *arena, scd_results_block *out,
                        scd_error *err)
{
    size_t width = spec->embedding_width, n_labels = spec->n_labels;
    *out = (scd_results_block){.n = n, .rows = input};
    if (spec->denoised) {
        scd_cells_rows *layer = scd_arena_alloc(arena, 1, sizeof *layer);
        if (!layer)
            return scd_fail(err, SCD_E_NOMEM, "out of memory for the result");
        out->denoised = layer;
        return scd_results_layer(spec, rows, stride, input, arena, layer, err);
    }
    float *embeddings = scd_arena_alloc(arena, n, (width + 1) * sizeof *embeddings);
    float *probabilities = scd_arena_alloc(arena, n, (n_labels + 1) * sizeof *probabilities);
    if (!embeddings || !probabilities)
        return scd_fail(err, SCD_E_NOMEM, "out of memory for the result");
    for (size_t i = 0; i < n; i++) {
        const char *at = (const char *)rows + i * stride;
        memcpy(embeddings + i * width, at, width * sizeof *embeddings);
        memcpy(probabilities + i * n_labels, at + width * sizeof *embeddings,
               n_labels * sizeof *probabilities);
    }
    out->embeddings = width ? embeddings : NULL;
    out->probabilities = n_labels ? probabilities : NULL;
    return SCD_OK;
}
