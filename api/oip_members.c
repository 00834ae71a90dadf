/* oip_members.c - see oip_members.h. */
#include "api/oip_members.h"

#include "engine/base/mem.h"

#include <stdio.h>
#include <string.h>

enum { MAX_SHAPE_NUMBERS = 4096 }; /* that are read at all, to say how many there were */

bool scd_oip_note_unknown(scd_oip_reader *r, const char *where, scd_text key)
{
    if (r->out->unknown)
        return true;
    size_t n = strlen(where), n_key = scd_utf8_cut(key.data, key.n < 100 ? key.n : 100);
    char *text = scd_decoder_alloc(&r->decoder, n + n_key + 1, 1);
    if (!text)
        return false;
    memcpy(text, where, n);
    memcpy(text + n, key.data, n_key);
    text[n + n_key] = '\0';
    r->out->unknown = text;
    return true;
}

size_t scd_oip_member(scd_text key, const char *const *names, size_t n, scd_place *place,
                      unsigned *seen, scd_fault *fault)
{
    size_t m = 0;
    while (m < n && !scd_text_is(key, names[m]))
        m++;
    if (m == n)
        return n;
    place->member = names[m];
    if (*seen & 1u << m)
        scd_fault_set(fault, SCD_PROBLEM_INVALID, place, "is given twice");
    *seen |= 1u << m;
    return m;
}

bool scd_oip_is_absent(scd_decoder *d, bool *ok)
{
    *ok = true;
    if (scd_scan_peek(&d->scan) != SCD_SCAN_NULL)
        return false;
    *ok = scd_scan_skip(&d->scan, NULL);
    return true;
}

bool scd_oip_read_size(scd_decoder *d, const scd_place *place, size_t *out, scd_fault *fault)
{
    double value = 0;
    if (!scd_read_number(d, place, &value, fault))
        return false;
    if (!scd_whole(value, out))
        scd_fault_set(fault, SCD_PROBLEM_INVALID, place, "must be a whole number from 0");
    return true;
}

/* ---- one input ------------------------------------------------------------------------------ */

static bool read_shape(scd_oip_reader *r, const scd_place *place, scd_oip_tensor *t,
                       scd_fault *fault)
{
    const double *dims;
    size_t n;
    if (!scd_read_numbers(&r->decoder, place, MAX_SHAPE_NUMBERS, &dims, &n, fault))
        return false;
    if (n > SCD_OIP_MAX_DIMS)
        scd_fault_set(fault, SCD_PROBLEM_INVALID, place,
                      "has %zu dimensions, at most %d are "
                      "accepted",
                      n, SCD_OIP_MAX_DIMS);
    if (fault->kind != SCD_PROBLEM_NONE)
        return true;
    t->n_dims = n;
    t->n = 1;
    bool ok = true;
    for (size_t i = 0; i < n; i++) {
        scd_place at = *place;
        at.element = i;
        if (!scd_whole(dims[i], &t->dims[i]))
            scd_fault_set(fault, SCD_PROBLEM_INVALID, &at,
                          "is %.17g, must be a whole number from 0", dims[i]);
        else
            ok = ok && scd_size_mul(t->n, t->dims[i], &t->n);
    }
    if (!ok)
        scd_fault_set(fault, SCD_PROBLEM_INVALID, place, "is of more elements than can be counted");
    return true;
}

static bool read_datatype(scd_oip_reader *r, const scd_place *place, scd_oip_tensor *t,
                          scd_fault *fault)
{
    scd_text name = {"FP32", 4};
    if (!scd_read_text(&r->decoder, place, SIZE_MAX, &name, fault))
        return false;
    if (!scd_oip_type_parse(name, &t->type))
        scd_fault_set(fault, SCD_PROBLEM_INVALID, place,
                      "\"%.*s\" is no datatype: there are BOOL, UINT8 to UINT64, INT8 to INT64, "
                      "FP16, BF16, FP32, FP64 and BYTES",
                      (int)scd_utf8_cut(name.data, name.n < 40 ? name.n : 40), name.data);
    return true;
}

static bool read_data(scd_oip_reader *r, const scd_place *place, scd_oip_tensor *t,
                      scd_fault *fault)
{
    scd_scan *scan = &r->decoder.scan;
    scd_scan_type type = scd_scan_peek(scan);
    if (type != SCD_SCAN_ARRAY)
        scd_fault_set(fault, SCD_PROBLEM_INVALID, place, "must be an array, not %s",
                      scd_scan_type_name(type));
    return scd_scan_skip(scan, &t->data);
}

static bool read_input_parameter(scd_oip_reader *r, const char *base, scd_text key, unsigned *seen,
                                 scd_oip_tensor *t, scd_fault *fault)
{
    static const char *const names[] = {"binary_data_size", "shared_memory_region"};
    scd_place place = {base, SCD_NO_INDEX, NULL, SCD_NO_INDEX};
    size_t m = scd_oip_member(key, names, 2, &place, seen, fault);
    if (m == 0) {
        t->is_binary = true;
        return scd_oip_read_size(&r->decoder, &place, &t->n_binary, fault);
    }
    if (m == 1)
        scd_fault_set(fault, SCD_PROBLEM_INVALID, &place,
                      "shared memory is not served here: send the elements in the body");
    else if (!scd_oip_note_unknown(r, "inputs.parameters.", key))
        return false;
    return scd_scan_skip(&r->decoder.scan, NULL);
}

static bool read_input_parameters(scd_oip_reader *r, const scd_place *place, scd_oip_tensor *t,
                                  scd_fault *fault)
{
    char base[48];
    unsigned seen = 0;
    scd_text key;
    bool ok;
    snprintf(base, sizeof base, "%s/parameters", t->at);
    if (!scd_read_expect(&r->decoder, SCD_SCAN_OBJECT, place, fault, &ok))
        return ok;
    if (!scd_scan_enter(&r->decoder.scan, '{'))
        return false;
    for (size_t i = 0; scd_scan_member(&r->decoder.scan, i, r->decoder.arena, &key); i++)
        if (!read_input_parameter(r, base, key, &seen, t, fault))
            return false;
    return !r->decoder.scan.error;
}

/* What every input must say, and may not say twice over. */
static void judge_input(const scd_oip_reader *r, const scd_oip_tensor *t, unsigned seen,
                        scd_fault *fault)
{
    enum { NAME = 1, SHAPE = 2, DATATYPE = 4, DATA = 8 };
    scd_place place = {t->at, SCD_NO_INDEX, NULL, SCD_NO_INDEX};
    const char *missing = !(seen & NAME)       ? "name"
                          : !(seen & SHAPE)    ? "shape"
                          : !(seen & DATATYPE) ? "datatype"
                                               : NULL;
    if (missing)
        scd_fault_set(fault, SCD_PROBLEM_INVALID, &place, "\"%s\" is missing", missing);
    if (!(seen & DATA) && !t->is_binary)
        scd_fault_set(fault, SCD_PROBLEM_INVALID, &place,
                      "\"data\" is missing, or \"binary_data_size\" in its parameters");
    if (seen & DATA && t->is_binary)
        scd_fault_set(fault, SCD_PROBLEM_INVALID, &place,
                      "has both \"data\" and binary data: give one of them");
    for (size_t i = 0; i < r->n_inputs; i++)
        if (t->name.n == r->inputs[i].name.n &&
            !memcmp(t->name.data, r->inputs[i].name.data, t->name.n))
            scd_fault_set(fault, SCD_PROBLEM_INVALID, &place, "\"%.*s\" is input %zu already",
                          (int)scd_utf8_cut(t->name.data, t->name.n < 40 ? t->name.n : 40),
                          t->name.data, i);
}

static bool read_input_member(scd_oip_reader *r, scd_text key, scd_place *place, unsigned *seen,
                              scd_oip_tensor *t, scd_fault *fault)
{
    static const char *const names[] = {"name", "shape", "datatype", "data", "parameters"};
    scd_decoder *d = &r->decoder;
    size_t m = scd_oip_member(key, names, 5, place, seen, fault);
    bool ok;
    if ((m == 3 || m == 4) && scd_oip_is_absent(d, &ok)) {
        *seen &= ~(1u << m);
        return ok;
    }
    switch (m) {
    case 0:
        return scd_read_text(d, place, d->limits->max_name_bytes, &t->name, fault);
    case 1:
        return read_shape(r, place, t, fault);
    case 2:
        return read_datatype(r, place, t, fault);
    case 3:
        return read_data(r, place, t, fault);
    case 4:
        return read_input_parameters(r, place, t, fault);
    default:
        scd_fault_unknown_member(fault, place, key, "name, shape, datatype, parameters, data");
        return scd_scan_skip(&d->scan, NULL);
    }
}

bool scd_oip_read_input(scd_oip_reader *r, size_t index, scd_fault *fault)
{
    scd_scan *scan = &r->decoder.scan;
    scd_place place = {"/inputs", index, NULL, SCD_NO_INDEX};
    bool ok;
    if (index >= SCD_OIP_MAX_INPUTS) {
        scd_fault_set(fault, SCD_PROBLEM_INVALID, &place, "more than %d inputs",
                      SCD_OIP_MAX_INPUTS);
        return scd_scan_skip(scan, NULL);
    }
    if (!scd_read_expect(&r->decoder, SCD_SCAN_OBJECT, &place, fault, &ok))
        return ok;
    scd_oip_tensor t = {.name = {"", 0}};
    snprintf(t.at, sizeof t.at, "/inputs/%zu", index);
    snprintf(t.at_data, sizeof t.at_data, "/inputs/%zu/data", index);
    snprintf(t.at_shape, sizeof t.at_shape, "/inputs/%zu/shape", index);
    unsigned seen = 0;
    scd_text key;
    if (!scd_scan_enter(scan, '{'))
        return false;
    for (size_t i = 0; scd_scan_member(scan, i, r->decoder.arena, &key); i++) {
        place.member = NULL;
        if (!read_input_member(r, key, &place, &seen, &t, fault))
            return false;
    }
    if (scan->error)
        return false;
    judge_input(r, &t, seen, fault);
    if (fault->kind == SCD_PROBLEM_NONE)
        r->inputs[r->n_inputs++] = t;
    return true;
}

/* ---- one output ----------------------------------------------------------------------------- */

static bool read_output_parameter(scd_oip_reader *r, const char *base, scd_text key, unsigned *seen,
                                  scd_oip_output *o, scd_fault *fault)
{
    static const char *const names[] = {"binary_data", "classification", "shared_memory_region"};
    scd_place place = {base, SCD_NO_INDEX, NULL, SCD_NO_INDEX};
    size_t m = scd_oip_member(key, names, 3, &place, seen, fault);
    if (m == 0) {
        o->has_binary = true;
        return scd_read_bool(&r->decoder, &place, &o->is_binary, fault);
    }
    if (m < 3)
        scd_fault_set(fault, SCD_PROBLEM_INVALID, &place, "%s",
                      m == 1 ? "is not served here: ask for the output top_labels, and \"top_k\" "
                               "among the request's parameters"
                             : "shared memory is not served here: results come in the body");
    else if (!scd_oip_note_unknown(r, "outputs.parameters.", key))
        return false;
    return scd_scan_skip(&r->decoder.scan, NULL);
}

static bool read_output_member(scd_oip_reader *r, scd_text key, scd_place *place, unsigned *seen,
                               scd_oip_output *o, scd_fault *fault)
{
    static const char *const names[] = {"name", "parameters"};
    scd_scan *scan = &r->decoder.scan;
    size_t m = scd_oip_member(key, names, 2, place, seen, fault);
    bool ok;
    if (m == 0)
        return scd_read_text(&r->decoder, place, r->decoder.limits->max_name_bytes, &o->name,
                             fault);
    if (m == 2) {
        scd_fault_unknown_member(fault, place, key, "name, parameters");
        return scd_scan_skip(scan, NULL);
    }
    if (scd_oip_is_absent(&r->decoder, &ok) ||
        !scd_read_expect(&r->decoder, SCD_SCAN_OBJECT, place, fault, &ok))
        return ok;
    char base[48];
    unsigned seen_parameters = 0;
    snprintf(base, sizeof base, "/outputs/%zu/parameters", place->index);
    if (!scd_scan_enter(scan, '{'))
        return false;
    for (size_t i = 0; scd_scan_member(scan, i, r->decoder.arena, &key); i++)
        if (!read_output_parameter(r, base, key, &seen_parameters, o, fault))
            return false;
    return !scan->error;
}

bool scd_oip_read_output(scd_oip_reader *r, size_t index, scd_fault *fault)
{
    scd_scan *scan = &r->decoder.scan;
    scd_oip_request *out = r->out;
    scd_place place = {"/outputs", index, NULL, SCD_NO_INDEX};
    bool ok;
    if (index >= SCD_OIP_MAX_OUTPUTS) {
        scd_fault_set(fault, SCD_PROBLEM_INVALID, &place, "more than %d outputs",
                      SCD_OIP_MAX_OUTPUTS);
        return scd_scan_skip(scan, NULL);
    }
    if (!scd_read_expect(&r->decoder, SCD_SCAN_OBJECT, &place, fault, &ok))
        return ok;
    scd_oip_output o = {.name = {"", 0}};
    unsigned seen = 0;
    scd_text key;
    if (!scd_scan_enter(scan, '{'))
        return false;
    for (size_t i = 0; scd_scan_member(scan, i, r->decoder.arena, &key); i++) {
        place.member = NULL;
        if (!read_output_member(r, key, &place, &seen, &o, fault))
            return false;
    }
    if (scan->error)
        return false;
    place.member = NULL;
    if (!(seen & 1))
        scd_fault_set(fault, SCD_PROBLEM_INVALID, &place, "\"name\" is missing");
    for (size_t i = 0; i < out->n_outputs; i++)
        if (o.name.n == out->outputs[i].name.n &&
            !memcmp(o.name.data, out->outputs[i].name.data, o.name.n))
            scd_fault_set(fault, SCD_PROBLEM_INVALID, &place, "is output %zu already", i);
    if (fault->kind == SCD_PROBLEM_NONE)
        out->outputs[out->n_outputs++] = o;
    return true;
}
