/* handle_annotations.c - POST /v1/annotations: the task's fields and items; the way is infer.c's.
 *
 * What is cached of a cell are the probabilities of all labels: "top_k" and "threshold" are applied
 * to them when the answer is written, and do not split the cache. */
#include "api/annotate_fields.h"
#include "api/models.h"
#include "server/infer_call.h"
#include "server/router.h"

enum { DEFAULT_TOP_K = 3 };

static bool choose_top_k(scd_infer_call *call, size_t asked)
{
    const scd_head_info *head = call->work.head;
    if (asked > head->n_labels) {
        scd_problem_add(&call->problem, "/top_k",
                        "is %zu, head \"%.80s\" has %zu labels: ask for at most as many", asked,
                        head->name, head->n_labels);
        return false;
    }
    size_t by_default = head->n_labels < DEFAULT_TOP_K ? head->n_labels : DEFAULT_TOP_K;
    call->fields.annotate.top_k = asked ? asked : by_default;
    return true;
}

bool scd_annotations_read_fields(scd_infer_call *call, const char **unknown)
{
    scd_annotate_fields fields;
    if (scd_annotate_fields_decode(&call->request, &fields, &call->problem))
        return false;
    const scd_head_info *head =
        scd_models_choose_head(call->model, "annotation", fields.head, &call->problem);
    call->head = call->work.head = head;
    if (!head || !choose_top_k(call, fields.top_k))
        return false;
    call->fields.annotate.threshold = fields.has_threshold ? fields.threshold : head->threshold;
    call->fields.annotate.order = scd_arena_alloc(&call->arena, head->n_labels, sizeof(uint64_t));
    *unknown = fields.unknown;
    if (!call->fields.annotate.order)
        scd_problem_set(&call->problem, SCD_PROBLEM_UNAVAILABLE, "out of memory: try again");
    return call->fields.annotate.order != NULL;
}

static void write_result(const scd_infer_call *call, const scd_infer_cell *cell, scd_answer *answer)
{
    const scd_head_info *head = call->work.head;
    scd_annotation a = {.labels = head->labels,
                        .probabilities = cell->result,
                        .genes_unused = cell->cell.genes_unwanted,
                        .n_labels = head->n_labels,
                        .top_k = call->fields.annotate.top_k,
                        .threshold = call->fields.annotate.threshold,
                        .order = call->fields.annotate.order};
    scd_answer_annotation(answer, &a);
}

/* A label in the answer: its member names, a number, its text with every byte escaped as six. */
static void size_result(const scd_infer_call *call, size_t *about, size_t *most)
{
    enum { ABOUT = 50, AROUND_TEXT = 64, ESCAPED = 6 };
    size_t n = call->fields.annotate.top_k + 2; /* the best one and its ontology id come again */
    *about = n * ABOUT;
    *most = n * (AROUND_TEXT + ESCAPED * SCD_HEAD_MAX_LABEL_BYTES);
}

static const scd_infer_task task = {.name = "annotate",
                                    .read_fields = scd_annotations_read_fields,
                                    .write_result = write_result,
                                    .size_result = size_result};

void scd_handle_annotations(scd_daemon *d, scd_exchange *x)
{
    scd_infer(&task, d, x);
}
