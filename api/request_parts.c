/* request_parts.c - see request_parts.h. */
#include "api/request_parts.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

void scd_decoder_init(scd_decoder *decoder, const char *body, size_t n,
                      const scd_request_limits *limits, scd_arena *arena, scd_problem *problem)
{
    *decoder = (scd_decoder){.limits = limits, .arena = arena, .problem = problem};
    scd_scan_init(&decoder->scan, body, n, limits->max_depth);
    scd_problem_set(problem, SCD_PROBLEM_NONE, "%s", "");
}

void scd_decoder_release(scd_decoder *decoder)
{
    scd_scan_vec_release(&decoder->cells);
    scd_scan_vec_release(&decoder->names);
    scd_scan_vec_release(&decoder->numbers);
}

scd_problem_kind scd_decoder_stopped(scd_decoder *decoder)
{
    const scd_scan *scan = &decoder->scan;
    if (!scan->error)
        return decoder->problem->kind;
    if (scan->over_arena)
        return scd_problem_set(decoder->problem, SCD_PROBLEM_TOO_LARGE,
                               "The body needs more memory than one request may have (%zu MiB). "
                               "Send it in several requests.",
                               decoder->arena->max_bytes >> 20);
    if (scan->no_memory)
        return scd_problem_set(decoder->problem, SCD_PROBLEM_UNAVAILABLE,
                               "The server is out of memory at the moment. Try again later or with "
                               "a smaller request.");
    char detail[256];
    scd_scan_describe(scan, detail, sizeof detail);
    return scd_problem_set(decoder->problem, SCD_PROBLEM_MALFORMED_JSON, "%s", detail);
}

void *scd_decoder_alloc(scd_decoder *decoder, size_t count, size_t size)
{
    return scd_scan_alloc(&decoder->scan, decoder->arena, count, size);
}

bool scd_whole(double value, size_t *out)
{
    if (!(value >= 0) || value > 9007199254740992.0 || value != (double)(uint64_t)value)
        return false;
    *out = (size_t)value;
    return true;
}

/* ---- faults -----------------------------------------------------------------------------------*/

/* "/member" with "~" and "/" escaped as RFC 6901 says, cut to the room there is. */
static size_t write_member(const char *member, char *out, size_t cap)
{
    size_t n = 0;
    out[n++] = '/';
    for (; *member && n + 3 < cap; member++) {
        bool special = *member == '~' || *member == '/';
        if (special)
            out[n++] = '~';
        out[n++] = *member == '~' ? '0' : special ? '1' : *member;
    }
    n = scd_utf8_cut(out, n);
    out[n] = '\0';
    return n;
}

static void write_pointer(const scd_place *place, char *out, size_t cap)
{
    size_t n = (size_t)snprintf(out, cap, "%s", place->base);
    if (place->index != SCD_NO_INDEX)
        n += (size_t)snprintf(out + n, cap - n, "/%zu", place->index);
    if (place->member)
        n += write_member(place->member, out + n, cap - n - 24); /* 24: an index may follow */
    if (place->element != SCD_NO_INDEX)
        snprintf(out + n, cap - n, "/%zu", place->element);
}

void scd_fault_set(scd_fault *fault, scd_problem_kind kind, const scd_place *place, const char *fmt,
                   ...)
{
    if (fault->kind != SCD_PROBLEM_NONE)
        return;
    fault->kind = kind;
    write_pointer(place, fault->pointer, sizeof fault->pointer);
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(fault->detail, sizeof fault->detail, fmt, args);
    va_end(args);
    if (n >= (int)sizeof fault->detail)
        fault->detail[scd_utf8_cut(fault->detail, sizeof fault->detail - 1)] = '\0';
}

void scd_fault_unknown_member(scd_fault *fault, const scd_place *place, scd_text key,
                              const char *known)
{
    if (fault->kind != SCD_PROBLEM_NONE)
        return;
    char name[65];
    size_t n = scd_utf8_cut(key.data, key.n < sizeof name ? key.n : sizeof name - 1);
    memcpy(name, key.data, n);
    name[n] = '\0';
    scd_place at = *place;
    at.member = name;
    scd_fault_set(fault, SCD_PROBLEM_INVALID, &at, "unknown member: known are %s", known);
}

void scd_problem_add_fault(scd_problem *problem, const scd_fault *fault)
{
    if (fault->kind == SCD_PROBLEM_NONE)
        return;
    scd_problem_add(problem, fault->pointer, "%s", fault->detail);
    if (fault->kind == SCD_PROBLEM_TOO_LARGE)
        problem->kind = SCD_PROBLEM_TOO_LARGE;
}

bool scd_read_expect(scd_decoder *decoder, scd_scan_type wanted, const scd_place *place,
                     scd_fault *fault, bool *ok)
{
    scd_scan_type type = scd_scan_peek(&decoder->scan);
    *ok = true;
    if (type == wanted)
        return true;
    *ok = scd_scan_skip(&decoder->scan, NULL);
    if (*ok)
        scd_fault_set(fault, SCD_PROBLEM_INVALID, place, "must be %s, not %s%s",
                      scd_scan_type_name(wanted), scd_scan_type_name(type),
                      type == SCD_SCAN_NULL ? ": leave it out where there is none" : "");
    return false;
}

bool scd_read_start(scd_decoder *decoder)
{
    static const scd_place whole = {"", SCD_NO_INDEX, NULL, SCD_NO_INDEX};
    scd_fault fault = {0};
    bool ok;
    if (scd_read_expect(decoder, SCD_SCAN_OBJECT, &whole, &fault, &ok))
        return scd_scan_enter(&decoder->scan, '{');
    if (ok && scd_scan_end(&decoder->scan))
        scd_problem_add(decoder->problem, "", "the body %s", fault.detail);
    return false;
}

static const char not_finite[] =
    "is too large: a number must be finite (a double holds up to 1.8e308)";

/* ---- single values ----------------------------------------------------------------------------*/

bool scd_read_text(scd_decoder *decoder, const scd_place *place, size_t max_bytes, scd_text *out,
                   scd_fault *fault)
{
    bool ok;
    if (!scd_read_expect(decoder, SCD_SCAN_STRING, place, fault, &ok))
        return ok;
    scd_text text;
    if (!scd_scan_string(&decoder->scan, decoder->arena, &text))
        return false;
    if (text.n > max_bytes)
        scd_fault_set(fault, SCD_PROBLEM_INVALID, place, "has %zu bytes, at most %zu are accepted",
                      text.n, max_bytes);
    else
        *out = text;
    return true;
}

bool scd_read_number(scd_decoder *decoder, const scd_place *place, double *out, scd_fault *fault)
{
    bool ok;
    double value;
    if (!scd_read_expect(decoder, SCD_SCAN_NUMBER, place, fault, &ok))
        return ok;
    if (!scd_scan_number(&decoder->scan, &value))
        return false;
    if (isfinite(value))
        *out = value;
    else
        scd_fault_set(fault, SCD_PROBLEM_INVALID, place, "%s", not_finite);
    return true;
}

bool scd_read_total(scd_decoder *decoder, const scd_place *place, double *out, scd_fault *fault)
{
    double total = NAN; /* stays so when there is no number */
    if (!scd_read_number(decoder, place, &total, fault))
        return false;
    if (total > 0)
        *out = total;
    else if (total <= 0)
        scd_fault_set(fault, SCD_PROBLEM_INVALID, place,
                      "the total of a cell must be above 0, not %g: leave it out to take the sum "
                      "of the values",
                      total);
    return true;
}

bool scd_read_bool(scd_decoder *decoder, const scd_place *place, bool *out, scd_fault *fault)
{
    bool ok;
    if (!scd_read_expect(decoder, SCD_SCAN_BOOL, place, fault, &ok))
        return ok;
    return scd_scan_bool(&decoder->scan, out);
}

bool scd_read_input_kind(scd_decoder *decoder, const scd_place *place, scd_input_kind *out,
                         scd_fault *fault)
{
    scd_text text = {"counts", 6};
    if (!scd_read_text(decoder, place, SIZE_MAX, &text, fault))
        return false;
    if (scd_text_is(text, "counts"))
        *out = SCD_INPUT_COUNTS;
    else if (scd_text_is(text, "log1p_cp10k"))
        *out = SCD_INPUT_LOG1P_CP10K;
    else
        scd_fault_set(fault, SCD_PROBLEM_INVALID, place, "must be \"counts\" or \"log1p_cp10k\"");
    return true;
}

/* ---- arrays -----------------------------------------------------------------------------------*/

static void judge_array(const scd_place *place, const scd_scan_array *array, scd_scan_type wanted,
                        size_t max, size_t max_name_bytes, scd_fault *fault)
{
    scd_place at = *place;
    if (array->bad != SIZE_MAX) {
        at.element = array->bad;
        if (array->bad_type == wanted && wanted == SCD_SCAN_NUMBER)
            scd_fault_set(fault, SCD_PROBLEM_INVALID, &at, "%s", not_finite);
        else if (array->bad_type == wanted)
            scd_fault_set(fault, SCD_PROBLEM_INVALID, &at,
                          "is a name of more than the %zu bytes that are accepted", max_name_bytes);
        else
            scd_fault_set(fault, SCD_PROBLEM_INVALID, &at, "must be %s, not %s",
                          scd_scan_type_name(wanted), scd_scan_type_name(array->bad_type));
    }
    if (array->n > max)
        scd_fault_set(fault, SCD_PROBLEM_TOO_LARGE, place,
                      "has %zu elements, at most %zu are "
                      "accepted",
                      array->n, max);
}

/* How many elements scratch may take: no more than would then fit into the arena. */
static size_t bound(const scd_decoder *decoder, size_t max, size_t size)
{
    size_t fits = (decoder->arena->max_bytes - decoder->arena->used_bytes) / size + 1;
    return max < fits ? max : fits;
}

/* Read an array into `vec` and from there, now that its length is known, into the arena. */
static bool read_array(scd_decoder *decoder, const scd_place *place, size_t max,
                       scd_scan_type wanted, const void **out, size_t *n, scd_fault *fault)
{
    bool ok, is_names = wanted == SCD_SCAN_STRING;
    *out = NULL;
    *n = 0;
    if (!scd_read_expect(decoder, SCD_SCAN_ARRAY, place, fault, &ok))
        return ok;
    size_t size = is_names ? sizeof(scd_text) : sizeof(double);
    size_t max_name_bytes = decoder->limits->max_name_bytes;
    scd_scan_vec *vec = is_names ? &decoder->names : &decoder->numbers;
    vec->max = bound(decoder, max, size);
    scd_scan_array array;
    ok = is_names ? scd_scan_names(&decoder->scan, decoder->arena, max_name_bytes, vec, &array)
                  : scd_scan_numbers(&decoder->scan, vec, &array);
    if (!ok)
        return false;
    *n = array.n;
    scd_fault own = {0};
    judge_array(place, &array, wanted, max, max_name_bytes, &own);
    if (own.kind != SCD_PROBLEM_NONE) {
        if (fault->kind == SCD_PROBLEM_NONE)
            *fault = own;
        return true;
    }
    void *copy = scd_decoder_alloc(decoder, array.n, size);
    if (!copy)
        return false;
    if (array.n)
        memcpy(copy, vec->data, array.n * size);
    *out = copy;
    return true;
}

bool scd_read_numbers(scd_decoder *decoder, const scd_place *place, size_t max, const double **out,
                      size_t *n, scd_fault *fault)
{
    const void *array;
    bool ok = read_array(decoder, place, max, SCD_SCAN_NUMBER, &array, n, fault);
    *out = array;
    return ok;
}

bool scd_read_values(scd_decoder *decoder, const scd_place *place, size_t max, const double **out,
                     size_t *n, scd_fault *fault)
{
    decoder->scan.nulls = decoder->values_optional;
    bool ok = scd_read_numbers(decoder, place, max, out, n, fault);
    decoder->scan.nulls = false;
    return ok;
}

bool scd_read_names(scd_decoder *decoder, const scd_place *place, size_t max, const scd_text **out,
                    size_t *n, scd_fault *fault)
{
    const void *array;
    bool ok = read_array(decoder, place, max, SCD_SCAN_STRING, &array, n, fault);
    *out = array;
    return ok;
}
