/* oip_request.c - see oip_request.h. The JSON in front, and what lies behind it; oip_members.c
 * reads one input or output, oip_cells.c makes cells of the tensors. */
#include "api/oip_request.h"

#include "api/oip_cells.h"
#include "api/oip_members.h"
#include "engine/base/mem.h"

#include <cjson/cJSON.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- the frame ------------------------------------------------------------------------------- */

scd_problem_kind scd_oip_frame(const char *header, const char *bytes, size_t n, scd_oip_body *out,
                               scd_problem *problem)
{
    *out = (scd_oip_body){.bytes = bytes, .n = n, .n_json = n, .has_length = header != NULL};
    if (!header)
        return SCD_PROBLEM_NONE;
    size_t length = 0, n_digits = strspn(header, "0123456789");
    if (!n_digits || header[n_digits])
        return scd_problem_set(problem, SCD_PROBLEM_BAD_REQUEST,
                               "Inference-Header-Content-Length is \"%.40s\", must be a number of "
                               "bytes: how long the JSON in front of the binary data is",
                               header);
    for (size_t i = 0; i < n_digits && length <= n; i++)
        length = length * 10 + (size_t)(header[i] - '0');
    if (length > n)
        return scd_problem_set(problem, SCD_PROBLEM_BAD_REQUEST,
                               "Inference-Header-Content-Length is %.40s, but the body has %zu "
                               "bytes",
                               header, n);
    out->n_json = length;
    return SCD_PROBLEM_NONE;
}

/* An array of objects, each with faults of its own. */
static bool read_each(scd_oip_reader *r, const char *base,
                      bool (*read)(scd_oip_reader *r, size_t index, scd_fault *fault))
{
    scd_scan *scan = &r->decoder.scan;
    scd_place place = {base, SCD_NO_INDEX, NULL, SCD_NO_INDEX};
    scd_fault fault = {0};
    bool ok;
    if (!scd_read_expect(&r->decoder, SCD_SCAN_ARRAY, &place, &fault, &ok)) {
        scd_problem_add_fault(r->decoder.problem, &fault);
        return ok;
    }
    if (!scd_scan_enter(scan, '['))
        return false;
    for (size_t i = 0; scd_scan_element(scan, i); i++) {
        scd_fault own = {0};
        if (!read(r, i, &own))
            return false;
        scd_problem_add_fault(r->decoder.problem, &own);
    }
    return !scan->error;
}

/* ---- parameters of the request -------------------------------------------------------------- */

static bool read_timeout_us(scd_oip_reader *r, const scd_place *place, scd_fault *fault)
{
    size_t us = 0;
    if (!scd_oip_read_size(&r->decoder, place, &us, fault))
        return false;
    if (us > (size_t)SCD_REQUEST_MAX_TIMEOUT_MS * 1000)
        scd_fault_set(fault, SCD_PROBLEM_INVALID, place, "must be at most %zu microseconds",
                      (size_t)SCD_REQUEST_MAX_TIMEOUT_MS * 1000);
    else
        r->timeout_us = (double)us;
    return true;
}

static bool read_parameter(scd_oip_reader *r, scd_text key, unsigned *seen, scd_fault *fault)
{
    static const char *const names[] = {"input", "timeout_ms", "on_error",
                                        "force", "timeout",    "binary_data_output"};
    static const char base[] = "/parameters";
    scd_place place = {base, SCD_NO_INDEX, NULL, SCD_NO_INDEX};
    size_t m = scd_oip_member(key, names, 6, &place, seen, fault);
    if (m < 4)
        return scd_read_field(&r->decoder, &place, r->cells, fault);
    if (m == 4)
        return read_timeout_us(r, &place, fault);
    if (m == 5)
        return scd_read_bool(&r->decoder, &place, &r->out->binary_output, fault);
    return scd_read_task_member(&r->decoder, base, key, &r->n_task_bytes, r->cells, fault);
}

static bool read_parameters(scd_oip_reader *r)
{
    scd_scan *scan = &r->decoder.scan;
    scd_place place = {"/parameters", SCD_NO_INDEX, NULL, SCD_NO_INDEX};
    scd_fault fault = {0};
    unsigned seen = 0;
    scd_text key;
    bool ok;
    if (!scd_read_expect(&r->decoder, SCD_SCAN_OBJECT, &place, &fault, &ok)) {
        scd_problem_add_fault(r->decoder.problem, &fault);
        return ok;
    }
    if (!scd_scan_enter(scan, '{'))
        return false;
    for (size_t i = 0; scd_scan_member(scan, i, r->decoder.arena, &key); i++) {
        scd_fault own = {0};
        if (i >= SCD_REQUEST_MAX_MEMBERS) {
            scd_fault_set(&own, SCD_PROBLEM_INVALID, &place, "more than %d parameters",
                          SCD_REQUEST_MAX_MEMBERS);
            ok = scd_scan_skip(scan, NULL);
        } else {
            ok = read_parameter(r, key, &seen, &own);
        }
        if (!ok)
            return false;
        scd_problem_add_fault(r->decoder.problem, &own);
    }
    return !scan->error;
}

/* ---- the whole ------------------------------------------------------------------------------ */

static bool read_top(scd_oip_reader *r)
{
    static const char *const names[] = {"id",         "inputs",     "outputs",
                                        "parameters", "model_name", "model_version"};
    scd_decoder *d = &r->decoder;
    scd_text key;
    unsigned seen = 0;
    bool ok = true;
    if (!scd_read_start(d))
        return false;
    for (size_t i = 0; ok && scd_scan_member(&d->scan, i, d->arena, &key); i++) {
        scd_fault fault = {0};
        scd_place place = {"", SCD_NO_INDEX, NULL, SCD_NO_INDEX};
        size_t m = scd_oip_member(key, names, 6, &place, &seen, &fault);
        if (fault.kind != SCD_PROBLEM_NONE) {
            ok = scd_scan_skip(&d->scan, NULL);
        } else if (m != 1 && scd_oip_is_absent(d, &ok)) {
            continue;
        } else if (m == 0) {
            ok = scd_read_text(d, &place, d->limits->max_name_bytes, &r->out->id, &fault);
        } else if (m == 1) {
            ok = read_each(r, "/inputs", scd_oip_read_input);
        } else if (m == 2) {
            r->out->names_outputs = true;
            ok = read_each(r, "/outputs", scd_oip_read_output);
        } else if (m == 3) {
            ok = read_parameters(r);
        } else {
            ok = (m < 6 || scd_oip_note_unknown(r, "", key)) && scd_scan_skip(&d->scan, NULL);
        }
        scd_problem_add_fault(d->problem, &fault);
    }
    if (!ok || !scd_scan_end(&d->scan))
        return false;
    if (!(seen & 2))
        scd_problem_add(d->problem, "", "\"inputs\" is missing: the tensors of the cells");
    return true;
}

/* A contradiction of the frame, said of one input. */
static void bad_frame(scd_oip_reader *r, const scd_oip_tensor *t, const char *detail)
{
    char pointer[80];
    snprintf(pointer, sizeof pointer, "%s/parameters/binary_data_size", t->at);
    scd_problem_add(r->decoder.problem, pointer, "%s", detail);
    r->decoder.problem->kind = SCD_PROBLEM_BAD_REQUEST;
}

static const char needs_header[] = "binary data needs the header Inference-Header-Content-Length: "
                                   "how long the JSON in front of it "
                                   "is";

/* Without the header binary data looks like JSON gone wrong: that is not what is to be said. */
static void explain_malformed(scd_oip_reader *r)
{
    scd_problem *problem = r->decoder.problem;
    if (problem->kind != SCD_PROBLEM_MALFORMED_JSON || r->body->has_length)
        return;
    for (size_t i = 0; i < r->n_inputs; i++)
        if (r->inputs[i].is_binary) {
            scd_problem_set(problem, SCD_PROBLEM_NONE, "%s", "");
            bad_frame(r, &r->inputs[i], needs_header);
            return;
        }
}

/* Each binary tensor gets its bytes; they must be there, and none may be left. */
static void share_out(scd_oip_reader *r)
{
    const scd_oip_body *body = r->body;
    size_t at = body->n_json;
    bool any = false;
    char text[200];
    for (size_t i = 0; i < r->n_inputs; i++) {
        scd_oip_tensor *t = &r->inputs[i];
        if (!t->is_binary)
            continue;
        any = true;
        if (!body->has_length) {
            bad_frame(r, t, needs_header);
            return;
        }
        if (t->n_binary > body->n - at) {
            snprintf(text, sizeof text, "announces %zu bytes, but the body has %zu left for it",
                     t->n_binary, body->n - at);
            bad_frame(r, t, text);
            return;
        }
        t->data = (scd_text){body->bytes + at, t->n_binary};
        at += t->n_binary;
    }
    if (at != body->n)
        scd_problem_set(r->decoder.problem, SCD_PROBLEM_BAD_REQUEST,
                        "%zu bytes behind the JSON%s belong to no input", body->n - at,
                        any ? " and the binary data" : "");
}

/* A tensor of n elements of known size has as many bytes. */
static void check_sizes(scd_oip_reader *r)
{
    for (size_t i = 0; i < r->n_inputs; i++) {
        const scd_oip_tensor *t = &r->inputs[i];
        size_t size = scd_oip_type_bytes(t->type), bytes;
        if (!t->is_binary || !size)
            continue;
        if (scd_size_mul(t->n, size, &bytes) && bytes == t->n_binary)
            continue;
        char pointer[80];
        snprintf(pointer, sizeof pointer, "%s/parameters/binary_data_size", t->at);
        scd_problem_add(r->decoder.problem, pointer,
                        "is %zu, but the shape says %zu elements of %zu byte%s", t->n_binary, t->n,
                        size, size == 1 ? "" : "s");
    }
}

static bool read_whole(scd_oip_reader *r)
{
    scd_problem *problem = r->decoder.problem;
    if (!read_top(r))
        return false;
    if (problem->kind == SCD_PROBLEM_NONE)
        share_out(r);
    if (problem->kind == SCD_PROBLEM_NONE)
        check_sizes(r);
    if (problem->kind == SCD_PROBLEM_NONE &&
        !scd_oip_join(&r->decoder, r->inputs, r->n_inputs, r->cells))
        return false;
    if (problem->kind == SCD_PROBLEM_NONE && !r->cells->n_cells)
        scd_problem_add(problem, "/inputs", "no cells: give at least one");
    if (problem->kind == SCD_PROBLEM_NONE)
        scd_judge_cells(r->cells, problem);
    if (r->timeout_us > 0 && !r->cells->timeout_ms)
        r->cells->timeout_ms = (int64_t)((r->timeout_us + 999) / 1000);
    return true;
}

scd_problem_kind scd_oip_decode(const scd_oip_body *body, const scd_request_limits *limits,
                                scd_arena *arena, scd_oip_request *out, scd_request *cells,
                                scd_problem *problem)
{
    *out = (scd_oip_request){0};
    *cells = (scd_request){.model = cells->model, .cells_required = true};
    scd_problem_set(problem, SCD_PROBLEM_NONE, "%s", "");
    scd_oip_reader *r = scd_calloc(1, sizeof *r);
    cells->task = cJSON_CreateObject();
    if (!r || !cells->task) {
        scd_problem_set(problem, SCD_PROBLEM_UNAVAILABLE, "out of memory: try again");
    } else {
        *r = (scd_oip_reader){.body = body, .out = out, .cells = cells};
        scd_decoder_init(&r->decoder, body->bytes, body->n_json, limits, arena, problem);
        if (!read_whole(r)) {
            scd_decoder_stopped(&r->decoder);
            explain_malformed(r);
        }
        scd_decoder_release(&r->decoder);
    }
    free(r);
    if (problem->kind != SCD_PROBLEM_NONE)
        scd_request_release(cells);
    return problem->kind;
}

const char *scd_oip_first_parameter(const scd_request *cells)
{
    return cells->task->child ? cells->task->child->string : NULL;
}
