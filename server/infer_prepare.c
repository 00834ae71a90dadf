/* infer_prepare.c - see infer_call.h: from a body to cells with keys, and what the cache has. */
#include "api/cache_key.h"
#include "api/models.h"
#include "engine/base/clock.h"
#include "server/infer_call.h"
#include "server/reply.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* Fractions of the counts that resolve to genes of the model (SPEC section 2). */
static const double WARN_MAPPED = 0.8, REFUSE_MAPPED = 0.5;

void scd_infer_warn(scd_infer_call *call, const char *code, const char *fmt, ...)
{
    char text[400];
    if (call->n_warnings == SCD_MAX_WARNINGS)
        return;
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    const char *detail = scd_arena_strndup(&call->arena, text, strlen(text));
    if (detail)
        call->warnings[call->n_warnings++] = (scd_warning){code, detail};
}

bool scd_infer_out_of_memory(scd_infer_call *call)
{
    scd_problem_set(&call->problem, SCD_PROBLEM_TOO_LARGE,
                    "the request needs more memory than one request gets: send fewer cells at a "
                    "time");
    return false;
}

/* ---- genes ---------------------------------------------------------------------------------- */

typedef struct name_counts {
    size_t names, mouse;
} name_counts;

/* Tokens of n names, in the arena given; NULL: out of memory. */
static int32_t *resolve_all(const scd_infer_call *call, const scd_text *names, size_t n,
                            scd_arena *arena, name_counts *counts)
{
    const scd_vocab *vocab = call->model->vocab;
    const char **texts = scd_arena_alloc(arena, n, sizeof *texts);
    size_t *lengths = scd_arena_alloc(arena, n, sizeof *lengths);
    int32_t *tokens = scd_arena_alloc(arena, n, sizeof *tokens);
    scd_rung *rungs = scd_arena_alloc(arena, n, sizeof *rungs);
    if (!texts || !lengths || !tokens || !rungs)
        return NULL;
    for (size_t i = 0; i < n; i++) {
        texts[i] = names[i].data;
        lengths[i] = names[i].n;
    }
    scd_vocab_resolve_all(vocab, texts, lengths, n, tokens, rungs);
    counts->names += n;
    for (size_t i = 0; i < n; i++)
        if (tokens[i] < 0 && scd_vocab_looks_mouse(vocab, names[i].data, names[i].n))
            counts->mouse++;
    return tokens;
}

static bool refuse_mouse(scd_infer_call *call, const name_counts *counts)
{
    if (!scd_vocab_is_human(call->model->vocab) || counts->mouse * 2 <= counts->names)
        return false;
    scd_problem_set(&call->problem, SCD_PROBLEM_INVALID,
                    "%zu of %zu gene names are mouse identifiers and model \"%s\" knows human "
                    "genes: map them to their human orthologs first",
                    counts->mouse, counts->names, call->model->name);
    return true;
}

/* ---- cells ---------------------------------------------------------------------------------- */

/* In a body of tensors. */
static void point_at_element(const scd_request *r, size_t c, size_t index, char out[128])
{
    const scd_request_places *places = &r->places;
    size_t first = c * places->cell_step;
    if (index == SIZE_MAX && !places->cell_step)
        snprintf(out, 128, "%s", places->cells);
    else if (index == SIZE_MAX)
        snprintf(out, 128, "%s/%zu", places->cells, first);
    else if (places->is_dense)
        snprintf(out, 128, "%s/%zu", places->values, first + r->cells[c].columns[index]);
    else
        snprintf(out, 128, "%s/%zu", places->values,
                 (size_t)(r->cells[c].values - r->cells[0].values) + index);
}

void scd_infer_point_at(const scd_infer_call *call, size_t c, size_t index, char out[128])
{
    const scd_request *r = &call->request;
    size_t in_body = c / (call->copies ? call->copies : 1);
    if (r->places.cells)
        point_at_element(r, c, index, out);
    else if (call->is_lone && index == SIZE_MAX)
        snprintf(out, 128, "/genes");
    else if (call->is_lone)
        snprintf(out, 128, "/values/%zu", index);
    else if (index == SIZE_MAX)
        snprintf(out, 128, r->is_matrix ? "/matrix/indptr/%zu" : "/cells/%zu", in_body);
    else if (r->is_matrix)
        snprintf(out, 128, "/matrix/data/%zu",
                 (size_t)(r->cells[c].values - r->cells[0].values) + index);
    else
        snprintf(out, 128, "/cells/%zu/values/%zu", in_body, index);
}

void scd_infer_blame(scd_infer_call *call, size_t c, scd_problem_kind kind, const char *pointer,
                     const char *detail)
{
    scd_infer_cell *cell = &call->cells[c];
    if (!call->request.skip_errors) {
        if (call->request.places.cells) /* a pointer to an element does not say whose it is */
            scd_problem_add(&call->problem, pointer, "cell %zu: %s", c, detail);
        else
            scd_problem_add(&call->problem, pointer, "%s", detail);
        return;
    }
    cell->bad = true;
    cell->kind = kind;
    cell->detail = scd_arena_strndup(&call->arena, detail, strlen(detail));
    cell->pointer = scd_arena_strndup(&call->arena, pointer, strlen(pointer));
}

const scd_infer_cell *scd_infer_bad_cell(const scd_infer_call *call, size_t c)
{
    if (call->cells[c].bad)
        return &call->cells[c];
    return call->beside && call->beside->cells[c].bad ? &call->beside->cells[c] : NULL;
}

void scd_infer_warn_skipped(scd_infer_call *call)
{
    size_t n = 0, first = 0;
    const scd_infer_cell *bad = NULL;
    for (size_t c = call->request.n_cells; c-- > 0;)
        if (scd_infer_bad_cell(call, c)) {
            bad = scd_infer_bad_cell(call, c);
            first = c;
            n++;
        }
    if (n)
        scd_infer_warn(call, "cells-skipped", "%zu of %zu cells were left out, cell %zu: %.150s", n,
                       call->request.n_cells, first, bad->detail ? bad->detail : "");
}

bool scd_infer_whole_cell(const scd_infer_call *call, size_t c, const scd_measured *measured,
                          scd_cell *out)
{
    *out = call->cells[c].cell;
    if (!out->genes_truncated)
        return true;
    scd_model_config config = *call->model->config;
    config.max_gene_len = config.vocab;
    return !scd_cell_serialize(&config, call->model->vocab, call->request.input, measured->values,
                               measured->scratch, out, NULL, NULL);
}

/* Genes without a value part from the others, which keep their places. False: memory is out. */
static bool part_shown(scd_cell_values *values, scd_measured *measured)
{
    size_t n = values->n, n_shown = 0;
    for (size_t i = 0; i < n; i++)
        n_shown += isnan(values->values[i]) ? 1 : 0;
    if (!n_shown)
        return true;
    int32_t *tokens = scd_arena_alloc(measured->scratch, n, sizeof *tokens);
    double *given = scd_arena_alloc(measured->scratch, n, sizeof *given);
    scd_shown *shown = scd_arena_alloc(measured->scratch, n_shown, sizeof *shown);
    if (!tokens || !given || !shown)
        return false;
    for (size_t i = 0; i < n; i++) {
        bool open = isnan(values->values[i]);
        tokens[i] = open ? -1 : values->tokens[i];
        given[i] = open ? 0 : values->values[i];
        if (open)
            shown[measured->n_shown++] = (scd_shown){values->tokens[i], i};
    }
    measured->shown = shown;
    values->tokens = tokens;
    values->values = given;
    values->may_be_blank = true;
    return true;
}

/* Of a row of a dense matrix the zeros were left out: what is said of a value names its column. */
static void name_column(const scd_infer_call *call, size_t c, size_t index, scd_error *err)
{
    if (!call->request.places.is_dense || index == SIZE_MAX)
        return;
    char before[40], text[sizeof err->message];
    size_t n = (size_t)snprintf(before, sizeof before, "value %zu ", index);
    if (strncmp(err->message, before, n) != 0)
        return;
    snprintf(text, sizeof text, "value %u %s", call->request.cells[c].columns[index],
             err->message + n);
    memcpy(err->message, text, sizeof text);
}

/* Serialize the cell and plan it. False only when memory is out. */
static bool take_values(scd_infer_call *call, size_t c, scd_cell_values *values,
                        scd_measured *measured)
{
    scd_infer_cell *cell = &call->cells[c];
    size_t bad_index = SIZE_MAX;
    scd_error err = {0};
    if (call->task->open_values && !part_shown(values, measured))
        return false;
    scd_code code = scd_cell_serialize(call->model->config, call->model->vocab, call->request.input,
                                       values, &call->arena, &cell->cell, &bad_index, &err);
    if (code == SCD_E_INVALID) {
        char pointer[128];
        scd_infer_point_at(call, c, bad_index, pointer);
        name_column(call, c, bad_index, &err);
        scd_infer_blame(call, c, SCD_PROBLEM_INVALID, pointer, err.message);
        return true;
    }
    if (code)
        return false;
    cell->cell.genes_unknown -= measured->n_shown;
    cell->cell.genes_known += measured->n_shown;
    return !call->task->plan_cell || call->task->plan_cell(call, c, measured);
}

/* False only when memory is out. */
static bool serialize_cell(scd_infer_call *call, size_t c, const int32_t *shared,
                           name_counts *counts)
{
    const scd_cell_input *in = &call->request.cells[c];
    if (in->fault) {
        scd_infer_blame(call, c, in->fault_kind, in->fault_pointer, in->fault);
        return true;
    }
    if (!in->n && call->task->blank_cells)
        return call->task->plan_cell(call, c, &(scd_measured){0});
    scd_arena scratch = {0}; /* tokens are needed only while this cell is planned */
    scd_arena_init(&scratch, call->arena.max_bytes);
    int32_t *tokens = shared ? scd_arena_alloc(&scratch, in->n, sizeof *tokens)
                             : resolve_all(call, in->genes, in->n, &scratch, counts);
    bool ok = tokens != NULL;
    for (size_t i = 0; ok && shared && i < in->n; i++)
        tokens[i] = shared[in->columns[i]];
    if (ok) {
        scd_cell_values values = {.n = in->n,
                                  .tokens = tokens,
                                  .values = in->values,
                                  .total = in->total,
                                  .wanted = call->head ? call->head->genes : NULL};
        scd_measured measured = {.tokens = shared ? shared : tokens,
                                 .n = shared ? call->request.n_shared_genes : in->n,
                                 .values = &values,
                                 .scratch = &scratch};
        ok = take_values(call, c, &values, &measured);
    }
    scd_arena_release(&scratch);
    return ok;
}

/* SPEC section 2: over the whole request warn under 80 % and refuse under 50 % unless forced; a
 * single cell under 50 % is answered with a warning. */
static bool judge_mapping(scd_infer_call *call)
{
    double mapped = 0, given = 0;
    size_t n = 0, poor = 0, first_poor = 0;
    for (size_t c = 0; c < call->request.n_cells; c++) {
        const scd_infer_cell *cell = &call->cells[c];
        if (cell->bad)
            continue;
        n++;
        mapped += cell->cell.mapped_counts;
        given += cell->cell.given_counts;
        if (cell->cell.mapped_counts < REFUSE_MAPPED * cell->cell.given_counts && !poor++)
            first_poor = c;
    }
    if (!n || given <= 0)
        return true;
    double fraction = mapped / given;
    if (fraction < REFUSE_MAPPED && n > 1 && !call->request.force) {
        scd_problem_set(
            &call->problem, SCD_PROBLEM_INVALID,
            "only %.1f %% of the counts are of genes that model \"%s\" knows: check the "
            "gene names (POST /v1/genes), or send \"force\": true",
            100 * fraction, call->model->name);
        return false;
    }
    if (fraction < WARN_MAPPED)
        scd_infer_warn(call, "genes-unmapped",
                       "only %.1f %% of the counts are of genes that model \"%s\" knows",
                       100 * fraction, call->model->name);
    if (poor && n > 1)
        scd_infer_warn(
            call, "cells-unmapped",
            "%zu cells have less than half of their counts on known genes, the first is cell %zu",
            poor, first_poor);
    return true;
}

/* A head answers for the genes that its training data measured, and so does a model that says
 * which those were. */
static void judge_use(scd_infer_call *call)
{
    const scd_head_info *head = call->head && call->head->genes ? call->head : NULL;
    bool restricted = head || scd_vocab_used(call->model->vocab);
    size_t used = 0, unused = 0;
    for (size_t c = 0; restricted && c < call->request.n_cells; c++) {
        used += call->cells[c].bad ? 0 : call->cells[c].cell.n_tokens;
        unused += call->cells[c].bad ? 0 : call->cells[c].cell.genes_unwanted;
    }
    if ((double)unused > (1 - WARN_MAPPED) * (double)(used + unused))
        scd_infer_warn(
            call, "genes-unused",
            "%.1f %% of the expressed genes were left out: the training data of %s \"%.80s\" "
            "measured %zu genes, and these are not among them",
            100 * (double)unused / (double)(used + unused), head ? "head" : "model",
            head ? head->name : call->model->name,
            head ? head->n_genes : scd_vocab_n_used(call->model->vocab));
}

bool scd_infer_serialize(scd_infer_call *call)
{
    scd_request *r = &call->request;
    name_counts counts = {0};
    call->cells = scd_arena_zalloc(&call->arena, r->n_cells, sizeof *call->cells);
    const int32_t *shared = NULL;
    if (r->is_matrix)
        shared = resolve_all(call, r->shared_genes, r->n_shared_genes, &call->input, &counts);
    if (!call->cells || (r->is_matrix && !shared))
        return scd_infer_out_of_memory(call);
    if (r->is_matrix && refuse_mouse(call, &counts))
        return false;
    for (size_t c = 0; c < r->n_cells; c++)
        if (!serialize_cell(call, c, shared, &counts))
            return scd_infer_out_of_memory(call);
    if (!r->is_matrix && refuse_mouse(call, &counts))
        return false;
    if (call->problem.kind || !judge_mapping(call))
        return false;
    judge_use(call);
    return !call->task->plan_end || call->task->plan_end(call);
}

/* ---- cache ---------------------------------------------------------------------------------- */

/* Every cell's place among the results, one after the other. */
static bool place_results(scd_infer_call *call)
{
    size_t n = call->request.n_cells, total = 0;
    for (size_t c = 0; c < n; c++) {
        scd_infer_cell *cell = &call->cells[c];
        cell->width = cell->idle ? 0 : call->width;
        if (cell->plan && !cell->idle)
            cell->width = scd_plan_width(cell->plan->kind, cell->cell.n_tokens, cell->n_hidden);
        total += cell->width;
    }
    call->results = scd_arena_alloc(&call->arena, total ? total : 1, sizeof *call->results);
    call->orders = scd_arena_alloc(&call->arena, n, sizeof *call->orders);
    if (!call->results || !call->orders)
        return scd_infer_out_of_memory(call);
    float *at = call->results;
    for (size_t c = 0; c < n; at += call->cells[c++].width)
        call->cells[c].result = at;
    return true;
}

/* One more order, with the cell's course where it has a plan. */
static bool order_cell(scd_infer_call *call, size_t c)
{
    scd_infer_cell *cell = &call->cells[c];
    scd_order *order = &call->orders[call->n_orders];
    scd_error err = {0};
    *order = (scd_order){.cell = &cell->cell, .key = cell->key, .out = cell->result};
    scd_code code = SCD_OK;
    if (cell->plan)
        code = scd_course_new(cell->plan, call->model->config, &cell->cell, &order->course, &err);
    if (code == SCD_E_NOMEM)
        return scd_infer_out_of_memory(call);
    if (code) {
        char pointer[128];
        scd_infer_point_at(call, c, SIZE_MAX, pointer);
        scd_infer_blame(call, c, SCD_PROBLEM_INVALID, pointer, err.message);
        return true;
    }
    call->n_orders++;
    call->course_bytes += order->course ? scd_course_bytes(order->course) : 0;
    return call->course_bytes <= call->arena.max_bytes || scd_infer_out_of_memory(call);
}

void scd_infer_drop_orders(scd_infer_call *call)
{
    for (size_t i = 0; i < call->n_orders; i++) {
        scd_course_free(call->orders[i].course);
        call->orders[i].course = NULL;
    }
}

/* The result of cell c from the cache. */
static bool find_result(scd_infer_call *call, size_t c, scd_hasher *hasher,
                        const scd_cache_scope *scope, scd_buf *value)
{
    scd_infer_cell *cell = &call->cells[c];
    scd_cache_scope own = *scope;
    char parameters[SCD_PLAN_TEXT];
    if (cell->plan) {
        scd_cache_plan_text(cell->plan, call->model->config, cell->cell.n_tokens, parameters);
        own.task = call->task->name;
        own.parameters = parameters;
    }
    cell->key = scd_cache_key(hasher, &own, &cell->cell);
    scd_buf_clear(value);
    if (!scd_store_get(call->d->store, &cell->key, value) ||
        value->n_bytes != cell->width * sizeof(float))
        return false;
    memcpy(cell->result, value->data, value->n_bytes);
    cell->source = SCD_SOURCE_HIT;
    call->n_hits++;
    return true;
}

static size_t widest_bytes(const scd_infer_call *call)
{
    size_t widest = 0;
    for (size_t c = 0; c < call->request.n_cells; c++)
        widest = call->cells[c].width > widest ? call->cells[c].width : widest;
    return widest * sizeof(float);
}

bool scd_infer_look_up(scd_infer_call *call)
{
    scd_hasher *hasher = scd_hasher_new();
    if (!hasher || !place_results(call)) {
        scd_hasher_free(hasher);
        return scd_infer_out_of_memory(call);
    }
    /* One pass without a head is an embedding, whichever task wants it. */
    scd_cache_scope scope = {.model = call->model->digest,
                             .task = call->work.head ? call->task->name : "embed",
                             .parameters = "",
                             .identity = call->device->identity};
    if (call->work.head)
        scope.head = call->work.head->digest;
    scd_buf value;
    scd_buf_init(&value, widest_bytes(call));
    int64_t start = scd_now_ns();
    bool ok = true;
    for (size_t c = 0; ok && c < call->request.n_cells; c++) {
        const scd_infer_cell *cell = &call->cells[c];
        if (!cell->bad && !cell->idle && !find_result(call, c, hasher, &scope, &value))
            ok = order_cell(call, c);
    }
    call->cache_s = (double)(scd_now_ns() - start) * 1e-9;
    scd_buf_release(&value);
    scd_hasher_free(hasher);
    return ok && call->problem.kind == SCD_PROBLEM_NONE;
}

/* ---- the whole way -------------------------------------------------------------------------- */

static bool in_time(scd_infer_call *call)
{
    if (scd_now_ns() < call->deadline_ns)
        return true;
    scd_problem_set(&call->problem, SCD_PROBLEM_DEADLINE,
                    "the deadline passed before the request was read");
    return false;
}

bool scd_infer_decode(scd_infer_call *call)
{
    size_t n;
    const char *body = scd_exchange_body(call->x, &n);
    call->request.cells_required = !call->task->cells_optional;
    call->request.values_optional = call->task->open_values;
    if (call->task->decode ? !call->task->decode(call)
                           : scd_request_decode(body, n, &call->d->limits, &call->input,
                                                &call->request, &call->problem) != SCD_PROBLEM_NONE)
        return false;
    call->decoded = true;
    const char *unknown = NULL;
    call->model =
        scd_models_choose(call->d->engine, call->request.model, &call->work.model, &call->problem);
    if (!call->model || !call->task->read_fields(call, &unknown))
        return false;
    if (!call->task->write_items)
        call->n_items = call->request.n_cells;
    call->width = scd_engine_width(call->d->engine, call->work);
    scd_exchange_get_note(call->x)->cells = call->request.n_cells;
    if (!call->model->config->trained)
        scd_infer_warn(call, "untrained",
                       "model \"%s\" has random weights: its answers mean nothing",
                       call->model->name);
    if (unknown)
        scd_infer_warn(call, "unknown-field", "field \"%.80s\" is not known here and was ignored",
                       unknown);
    if (call->request.timeout_ms)
        call->deadline_ns =
            scd_exchange_arrived_ns(call->x) + call->request.timeout_ms * SCD_NS_PER_MS;
    return in_time(call);
}

void scd_infer_drop_input(scd_infer_call *call)
{
    if (call->decoded)
        scd_request_release(&call->request);
    call->decoded = false;
    scd_arena_release(&call->input);
}

static bool copy_text(scd_infer_call *call, scd_text *text)
{
    if (text->n)
        text->data = scd_arena_strndup(&call->arena, text->data, text->n);
    return text->data || !text->n;
}

/* What the answer repeats of the request moves to our own memory; the rest goes. */
static bool let_go_of_input(scd_infer_call *call)
{
    scd_request *r = &call->request;
    bool ok = copy_text(call, &r->sample_id) && copy_text(call, &r->external_ids);
    for (size_t c = 0; ok && c < r->n_cells; c++) {
        call->cells[c].id = r->cells[c].id;
        ok = copy_text(call, &call->cells[c].id);
    }
    if (!ok)
        return scd_infer_out_of_memory(call);
    r->cells = NULL;
    r->shared_genes = NULL;
    scd_infer_drop_input(call);
    scd_exchange_drop_body(call->x);
    return true;
}

static bool keep(scd_infer_call *call)
{
    size_t bytes = call->arena.used_bytes + call->course_bytes + scd_infer_answer_bytes(call);
    if (call->beside)
        bytes += call->beside->arena.used_bytes;
    if (scd_exchange_keep(call->x, bytes))
        return true;
    scd_no_room(call->x, &call->problem);
    return false;
}

bool scd_infer_prepare(scd_infer_call *call)
{
    bool ok = scd_infer_serialize(call) && scd_infer_look_up(call) &&
              (!call->beside || scd_infer_prepare_beside(call)) && let_go_of_input(call) &&
              keep(call) && in_time(call);
    if (!ok)
        scd_infer_drop_orders(call);
    return ok;
}
