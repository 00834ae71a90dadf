/* request_fields.c - what a request says beside its cells: the fields that every task has, and the
 * task's own, which are kept as JSON for it. */
#include "api/request_parts.h"

#include <cjson/cJSON.h>
#include <string.h>

static bool read_timeout(scd_decoder *decoder, const scd_place *place, scd_request *out,
                         scd_fault *fault)
{
    double ms = 1;
    if (!scd_read_number(decoder, place, &ms, fault))
        return false;
    if (!(ms >= 1 && ms <= SCD_REQUEST_MAX_TIMEOUT_MS) || ms != (double)(int64_t)ms)
        scd_fault_set(fault, SCD_PROBLEM_INVALID, place,
                      "must be a whole number of milliseconds from 1 to %d",
                      SCD_REQUEST_MAX_TIMEOUT_MS);
    else
        out->timeout_ms = (int64_t)ms;
    return true;
}

static bool read_on_error(scd_decoder *decoder, const scd_place *place, scd_request *out,
                          scd_fault *fault)
{
    scd_text text = {"fail", 4};
    if (!scd_read_text(decoder, place, SIZE_MAX, &text, fault))
        return false;
    out->skip_errors = scd_text_is(text, "skip");
    if (!out->skip_errors && !scd_text_is(text, "fail"))
        scd_fault_set(fault, SCD_PROBLEM_INVALID, place, "must be \"fail\" or \"skip\"");
    return true;
}

bool scd_read_field(scd_decoder *decoder, const scd_place *place, scd_request *out,
                    scd_fault *fault)
{
    if (!strcmp(place->member, "input"))
        return scd_read_input_kind(decoder, place, &out->input, fault);
    if (!strcmp(place->member, "timeout_ms"))
        return read_timeout(decoder, place, out, fault);
    if (!strcmp(place->member, "on_error"))
        return read_on_error(decoder, place, out, fault);
    return scd_read_bool(decoder, place, &out->force, fault);
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

static bool keep_member(scd_decoder *decoder, const scd_place *place, size_t *n_bytes,
                        scd_request *out, scd_fault *fault)
{
    scd_scan *scan = &decoder->scan;
    scd_text raw;
    scan->longest_number = 0;
    scan->met_infinity = scan->met_nul = false;
    if (!scd_scan_skip(scan, &raw))
        return false;
    *n_bytes += raw.n;
    if (*n_bytes > SCD_REQUEST_MAX_TASK_BYTES) {
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
    if (cJSON_GetObjectItemCaseSensitive(out->task, place->member)) {
        scd_fault_set(fault, SCD_PROBLEM_INVALID, place, "is given twice");
        return true;
    }
    cJSON *value = cJSON_ParseWithLength(raw.data, raw.n);
    if (!value || !cJSON_AddItemToObject(out->task, place->member, value)) {
        cJSON_Delete(value);
        return scd_scan_no_memory(scan);
    }
    return true;
}

bool scd_read_task_member(scd_decoder *decoder, const char *base, scd_text key, size_t *n_bytes,
                          scd_request *out, scd_fault *fault)
{
    char *name = scd_decoder_alloc(decoder, key.n + 1, 1);
    if (!name)
        return false;
    memcpy(name, key.data, key.n);
    name[key.n] = '\0';
    scd_place place = {base, SCD_NO_INDEX, name, SCD_NO_INDEX};
    if (strlen(name) != key.n)
        scd_fault_set(fault, SCD_PROBLEM_INVALID, &place, "names may not contain \\u0000");
    return keep_member(decoder, &place, n_bytes, out, fault);
}

void scd_judge_cells(const scd_request *request, scd_problem *problem)
{
    for (size_t i = 0; i < request->n_cells && !request->skip_errors; i++) {
        const scd_cell_input *cell = &request->cells[i];
        if (!cell->fault)
            continue;
        scd_problem_add(problem, cell->fault_pointer, "%s", cell->fault);
        if (cell->fault_kind == SCD_PROBLEM_TOO_LARGE)
            problem->kind = SCD_PROBLEM_TOO_LARGE;
    }
}
