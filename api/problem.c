/* problem.c - see problem.h. */
#include "api/problem.h"

#include "api/json_write.h"
#include "api/text.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const struct {
    int status;
    const char *name, *title;
} kinds[SCD_N_PROBLEMS] = {
    [SCD_PROBLEM_NONE] = {200, "none", "No problem"},
    [SCD_PROBLEM_MALFORMED_JSON] = {400, "malformed-json", "The request body is not valid JSON"},
    [SCD_PROBLEM_BAD_REQUEST] = {400, "bad-request", "The request cannot be understood"},
    [SCD_PROBLEM_UNAUTHORIZED] = {401, "unauthorized", "A valid API key is required"},
    [SCD_PROBLEM_FORBIDDEN] = {403, "forbidden", "This API key may not do that"},
    [SCD_PROBLEM_NOT_FOUND] = {404, "not-found", "There is no such resource"},
    [SCD_PROBLEM_METHOD] = {405, "method-not-allowed", "The resource has no such method"},
    [SCD_PROBLEM_CONFLICT] = {409, "conflict", "The resource is not in a state for that"},
    [SCD_PROBLEM_LENGTH_REQUIRED] = {411, "length-required", "The request has no usable length"},
    [SCD_PROBLEM_TOO_LARGE] = {413, "too-large", "The request is larger than the limits allow"},
    [SCD_PROBLEM_MEDIA_TYPE] = {415, "unsupported-media-type",
                                "The body's media type or encoding is not supported"},
    [SCD_PROBLEM_RANGE] = {416, "range", "The range is not in the file"},
    [SCD_PROBLEM_INVALID] = {422, "invalid", "The request's content is invalid"},
    [SCD_PROBLEM_OVERLOADED] = {429, "overloaded", "The queue is full"},
    [SCD_PROBLEM_INTERNAL] = {500, "internal", "The server failed"},
    [SCD_PROBLEM_UNAVAILABLE] = {503, "unavailable", "The server cannot answer at the moment"},
    [SCD_PROBLEM_DEADLINE] = {504, "deadline-exceeded", "The deadline passed before the answer"},
    [SCD_PROBLEM_STORAGE] = {507, "insufficient-storage", "There is no room on disk for that"},
};

int scd_problem_status(scd_problem_kind kind)
{
    return kinds[kind].status;
}

const char *scd_problem_name(scd_problem_kind kind)
{
    return kinds[kind].name;
}

const char *scd_problem_title(scd_problem_kind kind)
{
    return kinds[kind].title;
}

scd_problem_kind scd_problem_of_code(scd_code code)
{
    switch (code) {
    case SCD_OK:
        return SCD_PROBLEM_NONE;
    case SCD_E_INVALID:
        return SCD_PROBLEM_INVALID;
    case SCD_E_TOO_LARGE:
        return SCD_PROBLEM_TOO_LARGE;
    case SCD_E_BUSY:
        return SCD_PROBLEM_OVERLOADED;
    case SCD_E_NOT_FOUND:
        return SCD_PROBLEM_NOT_FOUND;
    case SCD_E_TIMEOUT:
        return SCD_PROBLEM_DEADLINE;
    case SCD_E_CANCELED: /* the client that gave up does not read this: we are shutting down */
    case SCD_E_NOMEM:
        return SCD_PROBLEM_UNAVAILABLE;
    case SCD_E_IO:
    case SCD_E_CORRUPT:
    case SCD_E_DEVICE:
    case SCD_E_INTERNAL:
        return SCD_PROBLEM_INTERNAL;
    }
    return SCD_PROBLEM_INTERNAL;
}

/* vsnprintf that does not leave half a character behind when it has to cut. */
static void format(char *out, size_t cap, const char *fmt, va_list args)
{
    int n = vsnprintf(out, cap, fmt, args);
    if (n < 0)
        out[0] = '\0';
    else if ((size_t)n >= cap)
        out[scd_utf8_cut(out, cap - 1)] = '\0';
}

scd_problem_kind scd_problem_set(scd_problem *problem, scd_problem_kind kind, const char *fmt, ...)
{
    problem->kind = kind;
    problem->n_errors = 0;
    problem->n_seen = 0;
    problem->retry_after_s = 0;
    va_list args;
    va_start(args, fmt);
    format(problem->detail, sizeof problem->detail, fmt, args);
    va_end(args);
    return kind;
}

scd_problem_kind scd_problem_from_error(scd_problem *problem, const scd_error *err)
{
    scd_problem_kind kind = scd_problem_of_code(err->code);
    if (kind == SCD_PROBLEM_INTERNAL)
        return scd_problem_set(
            problem, kind,
            "The server failed to answer; the request is not to blame. Try again, "
            "and if it persists give the request id to the operator.");
    if (err->code == SCD_E_NOMEM)
        return scd_problem_set(problem, kind,
                               "The server is out of memory at the moment. Try again later or with "
                               "a smaller request.");
    return scd_problem_set(problem, kind, "%s", err->message);
}

void scd_problem_add(scd_problem *problem, const char *pointer, const char *fmt, ...)
{
    if (problem->kind == SCD_PROBLEM_NONE)
        scd_problem_set(problem, SCD_PROBLEM_INVALID, "%s", "");
    if (problem->n_seen++ >= SCD_PROBLEM_MAX_ERRORS)
        return;
    scd_problem_error *entry = &problem->errors[problem->n_errors++];
    size_t n = strlen(pointer);
    if (n >= sizeof entry->pointer)
        n = scd_utf8_cut(pointer, sizeof entry->pointer - 1);
    memcpy(entry->pointer, pointer, n);
    entry->pointer[n] = '\0';
    va_list args;
    va_start(args, fmt);
    format(entry->detail, sizeof entry->detail, fmt, args);
    va_end(args);
    if (!problem->detail[0])
        snprintf(problem->detail, sizeof problem->detail, "%s%s%s", entry->pointer,
                 entry->pointer[0] ? ": " : "", entry->detail);
}

static void write_problem(const scd_problem *problem, const char *instance, bool with_error,
                          scd_buf *out)
{
    scd_buf_puts(out, "{\"type\":\"urn:scdiva:problem:");
    scd_buf_puts(out, scd_problem_name(problem->kind));
    scd_buf_puts(out, "\",\"title\":");
    scd_json_text(out, scd_problem_title(problem->kind));
    scd_buf_printf(out, ",\"status\":%d,\"detail\":", scd_problem_status(problem->kind));
    char detail[sizeof problem->detail + 64];
    size_t n = (size_t)snprintf(detail, sizeof detail, "%s", problem->detail);
    if (problem->n_seen > problem->n_errors)
        snprintf(detail + n, sizeof detail - n, " (the first %zu of %zu errors are listed)",
                 problem->n_errors, problem->n_seen);
    scd_json_text(out, detail);
    if (with_error) {
        scd_buf_puts(out, ",\"error\":");
        scd_json_text(out, detail);
    }
    if (instance) {
        scd_buf_puts(out, ",\"instance\":");
        scd_json_text(out, instance);
    }
    scd_buf_puts(out, ",\"errors\":[");
    for (size_t i = 0; i < problem->n_errors; i++) {
        scd_buf_puts(out, i ? ",{\"pointer\":" : "{\"pointer\":");
        scd_json_text(out, problem->errors[i].pointer);
        scd_buf_puts(out, ",\"detail\":");
        scd_json_text(out, problem->errors[i].detail);
        scd_buf_putc(out, '}');
    }
    scd_buf_puts(out, "]}");
}

void scd_problem_write(const scd_problem *problem, const char *instance, scd_buf *out)
{
    write_problem(problem, instance, false, out);
}

void scd_problem_write_oip(const scd_problem *problem, const char *instance, scd_buf *out)
{
    write_problem(problem, instance, true, out);
}

void scd_problem_within(scd_problem *problem, const char *base)
{
    const char *first = problem->n_errors ? problem->errors[0].pointer : "";
    if (*first && !strncmp(problem->detail, first, strlen(first))) {
        char detail[sizeof problem->detail];
        snprintf(detail, sizeof detail, "%s%.600s", base, problem->detail);
        memcpy(problem->detail, detail, sizeof detail);
    }
    for (size_t i = 0; i < problem->n_errors; i++) {
        scd_problem_error *entry = &problem->errors[i];
        char pointer[sizeof entry->pointer];
        snprintf(pointer, sizeof pointer, "%s%.100s", base, entry->pointer);
        memcpy(entry->pointer, pointer, sizeof pointer);
    }
}
