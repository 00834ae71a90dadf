/* request.c - see request.h. The top level: members in any order, joined and judged at the end.
 *
 * Whether faults of single cells are problems of the request depends on "on_error", which may come
 * last; so cells keep their faults until then. */
#include "api/request.h"

#include "api/request_forms.h"

#include <cjson/cJSON.h>
#include <stdlib.h>
#include <string.h>

typedef enum member {
    MODEL,
    INPUT, /* these four are scd_read_field's */
    TIMEOUT,
    ON_ERROR,
    FORCE,
    SAMPLE_ID,
    EXTERNAL_IDS,
    CELLS,
    GENES,
    MATRIX,
    IDS,
    TOTALS,
    N_MEMBERS /* the task's own */
} member;

static const char *const names[N_MEMBERS] = {
    [MODEL] = "model",
    [INPUT] = "input",
    [TIMEOUT] = "timeout_ms",
    [ON_ERROR] = "on_error",
    [FORCE] = "force",
    [SAMPLE_ID] = "sample_id",
    [EXTERNAL_IDS] = "external_ids",
    [CELLS] = "cells",
    [GENES] = "genes",
    [MATRIX] = "matrix",
    [IDS] = "ids",
    [TOTALS] = "totals",
};

typedef struct top { /* what is being put together */
    scd_decoder decoder;
    scd_request *out;
    scd_matrix_parts matrix;
    unsigned seen; /* 1 << member */
    size_t n_task_bytes, n_external_ids;
} top;

static member member_of(scd_text key)
{
    for (member m = 0; m < N_MEMBERS; m++)
        if (scd_text_is(key, names[m]))
            return m;
    return N_MEMBERS;
}

/* Kept as raw JSON; only its length is looked at. */
static bool read_external_ids(top *t, const scd_place *place, scd_fault *fault)
{
    scd_scan *scan = &t->decoder.scan;
    scd_scan_type type = scd_scan_peek(scan);
    const char *first = scan->at;
    if (type != SCD_SCAN_ARRAY) {
        scd_fault_set(fault, SCD_PROBLEM_INVALID, place, "must be an array, not %s",
                      scd_scan_type_name(type));
        return scd_scan_skip(scan, NULL);
    }
    size_t n = 0;
    if (!scd_scan_enter(scan, '['))
        return false;
    for (; scd_scan_element(scan, n); n++)
        if (!scd_scan_skip(scan, NULL))
            return false;
    if (scan->error)
        return false;
    t->n_external_ids = n;
    t->out->external_ids = (scd_text){first, (size_t)(scan->at - first)};
    return true;
}

static bool read_known(top *t, member m, const scd_place *place, scd_fault *fault)
{
    scd_decoder *d = &t->decoder;
    const scd_request_limits *limits = d->limits;
    scd_request *out = t->out;
    scd_matrix_parts *matrix = &t->matrix;
    switch (m) {
    case MODEL:
        return scd_read_text(d, place, limits->max_name_bytes, &out->model, fault);
    case INPUT:
    case TIMEOUT:
    case ON_ERROR:
    case FORCE:
        return scd_read_field(d, place, out, fault);
    case SAMPLE_ID:
        return scd_scan_skip(&d->scan, &out->sample_id);
    case EXTERNAL_IDS:
        return read_external_ids(t, place, fault);
    case CELLS:
        return scd_read_cells(d, out);
    case GENES:
        matrix->has_genes = true;
        return scd_read_names(d, place, limits->max_genes_per_cell, &matrix->genes,
                              &matrix->n_genes, fault);
    case MATRIX:
        matrix->has_matrix = true;
        return scd_read_matrix(d, matrix);
    case IDS:
        matrix->has_ids = true;
        return scd_read_names(d, place, limits->max_cells, &matrix->ids, &matrix->n_ids, fault);
    default:
        matrix->has_totals = true;
        return scd_read_numbers(d, place, limits->max_cells, &matrix->totals, &matrix->n_totals,
                                fault);
    }
}

/* One member, whose key has been read. */
static bool read_member(top *t, scd_text key, size_t i)
{
    scd_scan *scan = &t->decoder.scan;
    member m = member_of(key);
    scd_place place = {"", SCD_NO_INDEX, m < N_MEMBERS ? names[m] : NULL, SCD_NO_INDEX};
    scd_fault fault;
    fault.kind = SCD_PROBLEM_NONE;
    if (i >= SCD_REQUEST_MAX_MEMBERS)
        scd_fault_set(&fault, SCD_PROBLEM_INVALID, &place, "more than %d members at the top level",
                      SCD_REQUEST_MAX_MEMBERS);
    else if (m < N_MEMBERS && t->seen & 1u << m)
        scd_fault_set(&fault, SCD_PROBLEM_INVALID, &place, "is given twice");
    bool ok;
    if (fault.kind != SCD_PROBLEM_NONE) {
        ok = scd_scan_skip(scan, NULL);
    } else if (m < N_MEMBERS) {
        t->seen |= 1u << m;
        ok = read_known(t, m, &place, &fault);
    } else {
        ok = scd_read_task_member(&t->decoder, "", key, &t->n_task_bytes, t->out, &fault);
    }
    if (ok)
        scd_problem_add_fault(t->decoder.problem, &fault);
    return ok;
}

/* The whole body; false when the scanner has stopped, or the body is no object. */
static bool read_body(top *t)
{
    scd_scan *scan = &t->decoder.scan;
    scd_text key;
    if (!scd_read_start(&t->decoder))
        return false;
    for (size_t i = 0; scd_scan_member(scan, i, t->decoder.arena, &key); i++)
        if (!read_member(t, key, i))
            return false;
    return scd_scan_end(scan);
}

/* ---- judging the whole ------------------------------------------------------------------------*/

/* Which form it is; rows of a matrix become cells. false: no memory. */
static bool choose_form(top *t)
{
    scd_problem *problem = t->decoder.problem;
    scd_request *out = t->out;
    const scd_matrix_parts *matrix = &t->matrix;
    if (t->seen & 1u << CELLS) {
        for (member m = GENES; m <= TOTALS; m++)
            if (t->seen & 1u << m) {
                scd_fault fault = {0};
                scd_place place = {"", SCD_NO_INDEX, names[m], SCD_NO_INDEX};
                scd_fault_set(
                    &fault, SCD_PROBLEM_INVALID, &place,
                    "belongs to the matrix form: give either \"cells\", or \"genes\" with "
                    "\"matrix\", not both");
                scd_problem_add_fault(problem, &fault);
            }
        return true;
    }
    if (matrix->has_matrix)
        return scd_join_matrix(&t->decoder, matrix, out);
    if (out->cells_required && matrix->has_genes)
        scd_problem_add(problem, "", "\"matrix\" is missing: \"genes\" names its columns");
    for (member m = IDS; m <= TOTALS; m++)
        if (t->seen & 1u << m)
            scd_problem_add(problem, m == IDS ? "/ids" : "/totals", "has no matrix to belong to");
    return true;
}

typedef struct id_entry {
    scd_text id;
    size_t cell;
} id_entry;

static int by_id_then_cell(const void *left, const void *right)
{
    const id_entry *a = left, *b = right;
    int order = memcmp(a->id.data, b->id.data, a->id.n < b->id.n ? a->id.n : b->id.n);
    if (order)
        return order;
    if (a->id.n != b->id.n)
        return a->id.n < b->id.n ? -1 : 1;
    return a->cell < b->cell ? -1 : a->cell > b->cell;
}

/* Sorted rather than hashed: n log n whatever the ids are, with no secret to keep. */
static bool check_ids(top *t)
{
    scd_request *out = t->out;
    id_entry *entries = scd_decoder_alloc(&t->decoder, out->n_cells, sizeof *entries);
    if (!entries)
        return false;
    size_t n = 0;
    for (size_t i = 0; i < out->n_cells; i++)
        if (out->cells[i].id.n)
            entries[n++] = (id_entry){out->cells[i].id, i};
    qsort(entries, n, sizeof *entries, by_id_then_cell);
    for (size_t i = 1; i < n; i++) {
        scd_text id = entries[i].id;
        if (id.n != entries[i - 1].id.n || memcmp(id.data, entries[i - 1].id.data, id.n) != 0)
            continue;
        scd_fault fault = {0};
        scd_place place = {out->is_matrix ? "/ids" : "/cells", entries[i].cell,
                           out->is_matrix ? NULL : "id", SCD_NO_INDEX};
        scd_fault_set(&fault, SCD_PROBLEM_INVALID, &place, "\"%.*s\" is also the id of cell %zu",
                      (int)scd_utf8_cut(id.data, id.n < 100 ? id.n : 100), id.data,
                      entries[i - 1].cell);
        if (!scd_cell_blame(&t->decoder, &out->cells[entries[i].cell], &fault))
            return false;
    }
    return true;
}

/* What can only be said now that every member has been read. false: no memory. */
static bool judge(top *t)
{
    scd_problem *problem = t->decoder.problem;
    scd_request *out = t->out;
    if (!choose_form(t))
        return false;
    out->shared_genes = t->matrix.genes;
    out->n_shared_genes = t->matrix.n_genes;
    if (problem->kind != SCD_PROBLEM_NONE)
        return true;
    if (out->cells_required && out->n_cells == 0)
        scd_problem_add(
            problem, t->seen & 1u << CELLS ? "/cells" : "",
            "no cells: give at least one, as \"cells\" or as \"genes\" with \"matrix\"");
    if (out->external_ids.n && t->n_external_ids != out->n_cells)
        scd_problem_add(problem, "/external_ids", "%zu external ids for %zu cells",
                        t->n_external_ids, out->n_cells);
    if (out->n_cells && !check_ids(t))
        return false;
    scd_judge_cells(out, problem);
    return true;
}

scd_problem_kind scd_request_decode(const char *body, size_t n, const scd_request_limits *limits,
                                    scd_arena *arena, scd_request *out, scd_problem *problem)
{
    *out = (scd_request){.cells_required = out->cells_required,
                         .values_optional = out->values_optional};
    top t = {.out = out, .matrix = {.places = &scd_matrix_of_request}};
    scd_decoder_init(&t.decoder, body, n, limits, arena, problem);
    t.decoder.values_optional = out->values_optional;
    out->task = cJSON_CreateObject();
    if (!out->task)
        scd_scan_no_memory(&t.decoder.scan);
    if (t.decoder.scan.error || !read_body(&t) || !judge(&t))
        scd_decoder_stopped(&t.decoder);
    scd_decoder_release(&t.decoder);
    if (problem->kind != SCD_PROBLEM_NONE)
        scd_request_release(out);
    return problem->kind;
}

void scd_request_release(scd_request *request)
{
    cJSON_Delete(request->task);
    request->task = NULL;
}
