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
    INPUT,
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

static bool read_timeout(top *t, const scd_place *place, scd_fault *fault)
{
    double ms = 1;
    if (!scd_read_number(&t->decoder, place, &ms, fault))
        return false;
    if (!(ms >= 1 && ms <= SCD_REQUEST_MAX_TIMEOUT_MS) || ms != (double)(int64_t)ms)
        scd_fault_set(fault, SCD_PROBLEM_INVALID, place,
                      "must be a whole number of milliseconds from 1 to %d",
                      SCD_REQUEST_MAX_TIMEOUT_MS);
    else
        t->out->timeout_ms = (int64_t)ms;
    return true;
}

static bool read_on_error(top *t, const scd_place *place, scd_fault *fault)
{
    scd_text text = {"fail", 4};
    if (!scd_read_text(&t->decoder, place, SIZE_MAX, &text, fault))
        return false;
    t->out->skip_errors = scd_text_is(text, "skip");
    if (!t->out->skip_errors && !scd_text_is(text, "fail"))
        scd_fault_set(fault, SCD_PROBLEM_INVALID, place, "must be \"fail\" or \"skip\"");
    return true;
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

/* JSON that cJSON cannot keep as it is, of what was read since these were cleared; NULL: it can. */
static const char *unfit_for_cjson(const scd_scan *scan)
{
    enum { CJSON_NUMBER_BYTES = 63 };
    return scan->longest_number > CJSON_NUMBER_BYTES ? "numbers may have at most 63 characters here"
           : scan->met_infinity ? "numbers must be finite (a double holds up to 1.8e308)"
           : scan->met_nul      ? "strings may not contain \\u0000 here"
                                : NULL;
}

/* A member that we do not know: one more field of the task, as cJSON. */
static bool read_task_member(top *t, const scd_place *place, scd_fault *fault)
{
    scd_scan *scan = &t->decoder.scan;
    scd_text raw;
    scan->longest_number = 0;
    scan->met_infinity = scan->met_nul = false;
    if (!scd_scan_skip(scan, &raw))
        return false;
    t->n_task_bytes += raw.n;
    if (t->n_task_bytes > SCD_REQUEST_MAX_TASK_BYTES) {
        scd_fault_set(fault, SCD_PROBLEM_TOO_LARGE, place,
                      "members beside the cells may have %d bytes together",
                      SCD_REQUEST_MAX_TASK_BYTES);
        return true;
    }
    const char *why_not = unfit_for_cjson(scan);
    if (why_not) {
        scd_fault_set(fault, SCD_PROBLEM_INVALID, place, "%s", why_not);
        return true;
    }
    if (cJSON_GetObjectItemCaseSensitive(t->out->task, place->member)) {
        scd_fault_set(fault, SCD_PROBLEM_INVALID, place, "is given twice");
        return true;
    }
    cJSON *value = cJSON_ParseWithLength(raw.data, raw.n);
    if (!value || !cJSON_AddItemToObject(t->out->task, place->member, value)) {
        cJSON_Delete(value);
        return scd_scan_no_memory(scan);
    }
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
        return scd_read_input_kind(d, place, &out->input, fault);
    case TIMEOUT:
        return read_timeout(t, place, fault);
    case ON_ERROR:
        return read_on_error(t, place, fault);
    case FORCE:
        return scd_read_bool(d, place, &out->force, fault);
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
        char *name = scd_decoder_alloc(&t->decoder, key.n + 1, 1);
        if (!name)
            return false;
        memcpy(name, key.data, key.n);
        name[key.n] = '\0';
        place.member = name;
        if (strlen(name) != key.n)
            scd_fault_set(&fault, SCD_PROBLEM_INVALID, &place, "names may not contain \\u0000");
        ok = read_task_member(t, &place, &fault);
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
    for (size_t i = 0; i < out->n_cells && !out->skip_errors; i++) {
        const scd_cell_input *cell = &out->cells[i];
        if (!cell->fault)
            continue;
        scd_problem_add(problem, cell->fault_pointer, "%s", cell->fault);
        if (cell->fault_kind == SCD_PROBLEM_TOO_LARGE)
            problem->kind = SCD_PROBLEM_TOO_LARGE;
    }
    return true;
}

scd_problem_kind scd_request_decode(const char *body, size_t n, const scd_request_limits *limits,
                                    scd_arena *arena, scd_request *out, scd_problem *problem)
{
    *out = (scd_request){.cells_required = out->cells_required,
                         .values_optional = out->values_optional};
    top t = {.out = out};
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
