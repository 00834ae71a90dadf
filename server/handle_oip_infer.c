/* handle_oip_infer.c - POST /v2/models/{name}/infer: tensors in, tensors out; the way is infer.c's.
 *
 * The outputs that are asked for choose what is computed: an embedding, the probabilities of an
 * annotation head, both - two works of the same cells - or neither. Results, keys and caches are
 * those of /v1/embeddings and /v1/annotations. */
#include "api/oip_answer.h"
#include "api/oip_request.h"
#include "engine/base/mem.h"
#include "server/infer_call.h"
#include "server/oip_call.h"
#include "server/reply.h"
#include "server/router.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

typedef struct scd_oip_call {
    scd_oip_request request; /* its texts go with the body */
    scd_text id;
    size_t n_results;
    scd_oip_output_id which[SCD_N_OUTPUTS]; /* (n_results) in the order of the request */
    bool is_binary[SCD_N_OUTPUTS];          /* (n_results) */
    bool embeds;
    scd_infer_call *annotated; /* the call, or the one beside it; NULL: no labels are wanted */
    /* Of the annotation, for the answer: (cells), the last two (cells, top_k) */
    scd_text *labels, *ontology_ids;
    float *probabilities;
    bool *unknown;
    scd_text *top_labels;
    float *top_probabilities;
} scd_oip_call;

static const scd_infer_task task;

/* ---- what is asked for ---------------------------------------------------------------------- */

static bool decode(scd_infer_call *call)
{
    size_t n;
    const char *bytes = scd_exchange_body(call->x, &n);
    const char *header = scd_exchange_header(call->x, SCD_OIP_HEADER);
    scd_oip_body body;
    call->oip = scd_arena_zalloc(&call->arena, 1, sizeof *call->oip);
    if (!call->oip)
        return scd_infer_out_of_memory(call);
    if (!scd_oip_find_model(call->d, call->x, &call->request.model))
        return false;
    return !scd_oip_frame(header, bytes, n, &body, &call->problem) &&
           !scd_oip_decode(&body, &call->d->limits, &call->input, &call->oip->request,
                           &call->request, &call->problem);
}

static void want(scd_oip_call *o, scd_oip_output_id id, bool is_binary)
{
    o->which[o->n_results] = id;
    o->is_binary[o->n_results++] = is_binary;
}

/* An output that this model has, by its name; SCD_N_OUTPUTS: it has not, and that is said. */
static scd_oip_output_id find_output(scd_infer_call *call, size_t i)
{
    scd_text name = call->oip->request.outputs[i].name;
    bool annotates = scd_oip_annotates(call->model);
    char pointer[64], known[300] = "";
    for (int id = 0; id < SCD_N_OUTPUTS; id++) {
        if (scd_oip_is_annotation((scd_oip_output_id)id) && !annotates)
            continue;
        if (scd_text_is(name, scd_oip_outputs[id].name))
            return (scd_oip_output_id)id;
        size_t n = strlen(known);
        snprintf(known + n, sizeof known - n, "%s%s", n ? ", " : "", scd_oip_outputs[id].name);
    }
    snprintf(pointer, sizeof pointer, "/outputs/%zu/name", i);
    scd_problem_add(&call->problem, pointer, "model \"%.60s\" has no output \"%.*s\": there are %s",
                    call->model->name, (int)scd_utf8_cut(name.data, name.n < 40 ? name.n : 40),
                    name.data, known);
    return SCD_N_OUTPUTS;
}

/* Which outputs, and so which works. */
static bool choose_outputs(scd_infer_call *call)
{
    scd_oip_call *o = call->oip;
    const scd_oip_request *r = &o->request;
    bool annotates = scd_oip_annotates(call->model), has_labels = false;
    for (size_t i = 0; i < r->n_outputs; i++) {
        scd_oip_output_id id = find_output(call, i);
        if (id != SCD_N_OUTPUTS)
            want(o, id, r->outputs[i].has_binary ? r->outputs[i].is_binary : r->binary_output);
    }
    for (int id = 0; !r->n_outputs && id < SCD_N_OUTPUTS; id++)
        if (annotates || !scd_oip_is_annotation((scd_oip_output_id)id))
            want(o, (scd_oip_output_id)id, r->binary_output);
    for (size_t i = 0; i < o->n_results; i++) {
        o->embeds |= o->which[i] == SCD_OUT_EMBEDDING;
        has_labels |= scd_oip_is_annotation(o->which[i]);
    }
    if (call->problem.kind)
        return false;
    if (has_labels)
        o->annotated = o->embeds ? scd_infer_add_beside(call, &task) : call;
    return o->annotated || !has_labels || scd_infer_out_of_memory(call);
}

static bool read_fields(scd_infer_call *call, const char **unknown)
{
    scd_oip_call *o = call->oip;
    if (!choose_outputs(call))
        return false;
    scd_infer_call *a = o->annotated;
    *unknown = scd_oip_first_parameter(&call->request);
    if (a && !scd_annotations_read_fields(a, unknown)) {
        call->problem = a->problem;
        scd_problem_within(&call->problem, "/parameters");
        return false;
    }
    if (a)
        a->width = scd_engine_width(call->d->engine, a->work);
    if (!*unknown)
        *unknown = o->request.unknown;
    o->id = o->request.id;
    if (o->id.n)
        o->id.data = scd_arena_strndup(&call->arena, o->id.data, o->id.n);
    return o->id.data || !o->id.n || scd_infer_out_of_memory(call);
}

/* Where neither an embedding nor a label is wanted nothing is computed. */
static bool plan_cell(scd_infer_call *call, size_t c, const scd_measured *measured)
{
    (void)measured;
    call->cells[c].idle = call->oip && !call->oip->embeds && !call->oip->annotated;
    return true;
}

/* ---- the answer ----------------------------------------------------------------------------- */

static scd_text text_of(const char *text)
{
    return text ? (scd_text){text, strlen(text)} : (scd_text){"", 0};
}

/* A cell that has no label: what is said in its place. */
static void annotate_bad(scd_oip_call *o, size_t c, size_t k)
{
    o->labels[c] = o->ontology_ids[c] = text_of("");
    o->probabilities[c] = NAN;
    o->unknown[c] = true;
    for (size_t i = 0; i < k; i++) {
        o->top_labels[c * k + i] = text_of("");
        o->top_probabilities[c * k + i] = NAN;
    }
}

static void annotate_cell(scd_oip_call *o, size_t c)
{
    const scd_infer_call *call = o->annotated;
    const scd_head_info *head = call->work.head;
    size_t k = call->fields.annotate.top_k;
    scd_annotation a = {.labels = head->labels,
                        .probabilities = call->cells[c].result,
                        .n_labels = head->n_labels,
                        .top_k = k,
                        .threshold = call->fields.annotate.threshold,
                        .order = call->fields.annotate.order};
    scd_annotation_sort(&a);
    const scd_head_label *best = &head->labels[a.order[0]];
    o->labels[c] = text_of(best->label);
    o->ontology_ids[c] = text_of(best->ontology_id);
    o->probabilities[c] = a.probabilities[a.order[0]];
    o->unknown[c] = scd_annotation_is_unknown(&a);
    for (size_t i = 0; i < k; i++) {
        o->top_labels[c * k + i] = text_of(head->labels[a.order[i]].label);
        o->top_probabilities[c * k + i] = a.probabilities[a.order[i]];
    }
}

/* False: memory is out. */
static bool annotate_all(scd_infer_call *call)
{
    scd_oip_call *o = call->oip;
    scd_arena *arena = &call->arena;
    size_t n = call->request.n_cells, k = o->annotated->fields.annotate.top_k, n_top;
    if (!scd_size_mul(n, k, &n_top))
        return false;
    o->labels = scd_arena_alloc(arena, n, sizeof *o->labels);
    o->ontology_ids = scd_arena_alloc(arena, n, sizeof *o->ontology_ids);
    o->probabilities = scd_arena_alloc(arena, n, sizeof *o->probabilities);
    o->unknown = scd_arena_alloc(arena, n, sizeof *o->unknown);
    o->top_labels = scd_arena_alloc(arena, n_top, sizeof *o->top_labels);
    o->top_probabilities = scd_arena_alloc(arena, n_top, sizeof *o->top_probabilities);
    if (!o->labels || !o->ontology_ids || !o->probabilities || !o->unknown || !o->top_labels ||
        !o->top_probabilities)
        return false;
    for (size_t c = 0; c < n; c++)
        if (o->annotated->cells[c].bad)
            annotate_bad(o, c, k);
        else
            annotate_cell(o, c);
    return true;
}

/* Rows of bad cells are NaN. */
static const float *embeddings(scd_infer_call *call)
{
    for (size_t c = 0; c < call->request.n_cells; c++)
        for (size_t i = 0; call->cells[c].bad && i < call->width; i++)
            call->cells[c].result[i] = NAN;
    return call->results;
}

static int64_t count_of(const scd_infer_call *call, size_t c, scd_oip_output_id id)
{
    const scd_infer_call *a = call->oip->annotated;
    const scd_cell *cell = &call->cells[c].cell;
    return (int64_t)(id == SCD_OUT_TOKENS          ? cell->n_tokens
                     : id == SCD_OUT_GENES_KNOWN   ? cell->genes_known
                     : id == SCD_OUT_GENES_UNKNOWN ? cell->genes_unknown
                     : id == SCD_OUT_GENES_TRUNCATED
                         ? cell->genes_truncated
                         : (a ? a : call)->cells[c].cell.genes_unwanted);
}

/* What is wrong with a cell, in any of its works; "": nothing. NULL: memory is out. */
static const void *errors(scd_infer_call *call)
{
    size_t n = call->request.n_cells;
    scd_text *texts = scd_arena_alloc(&call->arena, n, sizeof *texts);
    for (size_t c = 0; texts && c < n; c++) {
        const scd_infer_cell *bad = scd_infer_bad_cell(call, c);
        texts[c] = text_of(bad ? bad->detail : NULL);
    }
    return texts;
}

static const void *counts(scd_infer_call *call, scd_oip_output_id id)
{
    size_t n = call->request.n_cells;
    int64_t *numbers = scd_arena_alloc(&call->arena, n, sizeof *numbers);
    for (size_t c = 0; numbers && c < n; c++)
        numbers[c] = call->cells[c].bad ? 0 : count_of(call, c, id);
    return numbers;
}

/* NULL: memory is out. */
static const void *elements_of(scd_infer_call *call, scd_oip_output_id id)
{
    const scd_oip_call *o = call->oip;
    switch (id) {
    case SCD_OUT_EMBEDDING:
        return embeddings(call);
    case SCD_OUT_LABEL:
        return o->labels;
    case SCD_OUT_ONTOLOGY_ID:
        return o->ontology_ids;
    case SCD_OUT_PROBABILITY:
        return o->probabilities;
    case SCD_OUT_UNKNOWN:
        return o->unknown;
    case SCD_OUT_TOP_LABELS:
        return o->top_labels;
    case SCD_OUT_TOP_PROBABILITIES:
        return o->top_probabilities;
    case SCD_OUT_ERROR:
        return errors(call);
    default:
        return counts(call, id);
    }
}

enum { MAX_PARAMETERS = 12 };

/* What a list answer says around its items. */
static size_t put_parameters(const scd_infer_call *call, const char *warnings,
                             scd_oip_parameter out[MAX_PARAMETERS])
{
    const scd_infer_call *a = call->oip->annotated, *b = call->beside;
    scd_answer_item sum = scd_infer_sum(call);
    size_t n = 0, cells = 0, cached = 0;
    for (size_t c = 0; c < call->request.n_cells; c++) {
        bool hit = call->cells[c].source == SCD_SOURCE_HIT;
        cells += !call->cells[c].bad;
        cached += !call->cells[c].bad && hit && (!b || b->cells[c].source == SCD_SOURCE_HIT);
    }
    out[n++] = (scd_oip_parameter){"model_digest", call->model->digest_hex, 0};
    if (a) {
        out[n++] = (scd_oip_parameter){"head", a->head->name, 0};
        out[n++] = (scd_oip_parameter){"head_digest", a->head->digest_hex, 0};
        out[n++] = (scd_oip_parameter){"threshold", NULL, a->fields.annotate.threshold};
    }
    out[n++] = (scd_oip_parameter){"cells", NULL, (double)cells};
    out[n++] = (scd_oip_parameter){"tokens", NULL, (double)sum.tokens};
    out[n++] = (scd_oip_parameter){"cached", NULL, (double)cached};
    out[n++] = (scd_oip_parameter){"genes_unknown", NULL, (double)sum.genes_unknown};
    out[n++] = (scd_oip_parameter){"genes_truncated", NULL, (double)sum.genes_truncated};
    out[n++] =
        (scd_oip_parameter){"genes_unused", NULL, (double)scd_infer_sum(a ? a : call).genes_unused};
    if (warnings)
        out[n++] = (scd_oip_parameter){"warnings", warnings, 0};
    return n;
}

static bool write_results(scd_infer_call *call, const char *warnings, scd_buf *out,
                          scd_memo_info *info)
{
    scd_oip_call *o = call->oip;
    scd_oip_result results[SCD_N_OUTPUTS];
    scd_oip_parameter parameters[MAX_PARAMETERS];
    for (size_t i = 0; i < o->n_results; i++) {
        scd_oip_output_id id = o->which[i];
        const scd_oip_output_kind *kind = &scd_oip_outputs[id];
        results[i] = (scd_oip_result){
            .name = kind->name,
            .type = kind->type,
            .n_dims = kind->n_dims,
            .dims = {call->request.n_cells, id == SCD_OUT_EMBEDDING ? call->width
                                            : o->annotated ? o->annotated->fields.annotate.top_k
                                                           : 0},
            .elements = elements_of(call, id),
            .is_binary = o->is_binary[i]};
        if (!results[i].elements)
            return scd_infer_out_of_memory(call);
    }
    scd_oip_answer answer = {.model_name = call->model->name,
                             .model_version = SCD_OIP_VERSION,
                             .id = o->id,
                             .n_parameters = put_parameters(call, warnings, parameters),
                             .parameters = parameters,
                             .n_results = o->n_results,
                             .results = results};
    info->n_json = scd_oip_write(&answer, out);
    if (info->n_json)
        info->content_type = "application/octet-stream";
    return true;
}

static bool write_answer(scd_infer_call *call, scd_buf *out, scd_memo_info *info)
{
    enum { MAX_WARNING_BYTES = 16 << 10 };
    scd_infer_warn_skipped(call);
    if (call->oip->annotated && !annotate_all(call))
        return scd_infer_out_of_memory(call);
    scd_buf warnings;
    scd_buf_init(&warnings, MAX_WARNING_BYTES);
    scd_oip_warnings(&warnings, call->warnings, call->n_warnings);
    bool ok = !warnings.failed ? write_results(call, warnings.data, out, info)
                               : scd_infer_out_of_memory(call);
    scd_buf_release(&warnings);
    return ok;
}

/* Of a cell: numbers of its embedding, labels with every byte escaped as six, counts, an error. */
static void size_result(const scd_infer_call *call, size_t *about, size_t *most)
{
    enum {
        NUMBER = 12,
        LONGEST_NUMBER = 20,
        COUNTS = 120,
        LABEL = 60,
        AROUND_LABEL = 64,
        ESCAPED = 6
    };
    const scd_oip_call *o = call->oip;
    size_t width = o->embeds ? call->width : 0;
    size_t n_labels = o->annotated ? o->annotated->fields.annotate.top_k + 2 : 0;
    *about = width * NUMBER + n_labels * LABEL + COUNTS;
    *most = width * LONGEST_NUMBER + COUNTS +
            n_labels * (AROUND_LABEL + ESCAPED * SCD_HEAD_MAX_LABEL_BYTES);
}

static const scd_infer_task task = {.name = "annotate", /* what keys say where a head computes */
                                    .by_path = true,
                                    .decode = decode,
                                    .read_fields = read_fields,
                                    .plan_cell = plan_cell,
                                    .write_answer = write_answer,
                                    .size_result = size_result};

void scd_handle_v2_infer(scd_daemon *d, scd_exchange *x)
{
    scd_text name;
    if (scd_oip_find_model(d, x, &name)) /* else it is answered, before anything is read */
        scd_infer(&task, d, x);
}

void scd_handle_v2_infer_version(scd_daemon *d, scd_exchange *x)
{
    scd_handle_v2_infer(d, x);
}
