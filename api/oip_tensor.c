/* oip_tensor.c - see oip_tensor.h. */
#include "api/oip_tensor.h"

#include "engine/base/mem.h"
#include "engine/model/dtype.h"

#include <string.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "binary tensors are little-endian");

static const struct {
    const char *name;
    size_t n_bytes;
} types[SCD_N_OIP_TYPES] = {
    [SCD_OIP_BOOL] = {"BOOL", 1},     [SCD_OIP_UINT8] = {"UINT8", 1},
    [SCD_OIP_UINT16] = {"UINT16", 2}, [SCD_OIP_UINT32] = {"UINT32", 4},
    [SCD_OIP_UINT64] = {"UINT64", 8}, [SCD_OIP_INT8] = {"INT8", 1},
    [SCD_OIP_INT16] = {"INT16", 2},   [SCD_OIP_INT32] = {"INT32", 4},
    [SCD_OIP_INT64] = {"INT64", 8},   [SCD_OIP_FP16] = {"FP16", 2},
    [SCD_OIP_BF16] = {"BF16", 2},     [SCD_OIP_FP32] = {"FP32", 4},
    [SCD_OIP_FP64] = {"FP64", 8},     [SCD_OIP_BYTES] = {"BYTES", 0},
};

const char *scd_oip_type_name(scd_oip_type type)
{
    return types[type].name;
}

size_t scd_oip_type_bytes(scd_oip_type type)
{
    return types[type].n_bytes;
}

bool scd_oip_type_parse(scd_text name, scd_oip_type *out)
{
    for (int type = 0; type < SCD_N_OIP_TYPES; type++)
        if (scd_text_is(name, types[type].name)) {
            *out = (scd_oip_type)type;
            return true;
        }
    return false;
}

static scd_place whole_place(const char *base)
{
    return (scd_place){base, SCD_NO_INDEX, NULL, SCD_NO_INDEX};
}

static bool within(const scd_oip_tensor *t, size_t max, scd_fault *fault)
{
    scd_place place = whole_place(t->at_shape);
    if (t->n > max)
        scd_fault_set(fault, SCD_PROBLEM_TOO_LARGE, &place,
                      "has %zu elements, at most %zu are accepted", t->n, max);
    return t->n <= max;
}

/* ---- binary ---------------------------------------------------------------------------------- */

#define SCD_CONVERT(name, type, expression)                                                        \
    case SCD_OIP_##name:                                                                           \
        for (size_t i = 0; i < n; i++) {                                                           \
            type v;                                                                                \
            memcpy(&v, bytes + i * sizeof v, sizeof v);                                            \
            out[i] = (double)(expression);                                                         \
        }                                                                                          \
        break;

void scd_oip_convert(const scd_oip_tensor *t, size_t first, size_t n, double *out)
{
    const char *bytes = t->data.data + first * scd_oip_type_bytes(t->type);
    switch (t->type) {
        SCD_CONVERT(UINT8, uint8_t, v)
        SCD_CONVERT(UINT16, uint16_t, v)
        SCD_CONVERT(UINT32, uint32_t, v)
        SCD_CONVERT(UINT64, uint64_t, v)
        SCD_CONVERT(INT8, int8_t, v)
        SCD_CONVERT(INT16, int16_t, v)
        SCD_CONVERT(INT32, int32_t, v)
        SCD_CONVERT(INT64, int64_t, v)
        SCD_CONVERT(FP16, uint16_t, scd_f32_of_f16(v))
        SCD_CONVERT(BF16, uint16_t, scd_f32_of_bf16(v))
        SCD_CONVERT(FP32, float, v)
        SCD_CONVERT(FP64, double, v)
    default: /* no numbers: refused before */
        break;
    }
}

#undef SCD_CONVERT

/* The bytes were counted against the shape when the tensor was read. */
static bool binary_numbers(scd_decoder *decoder, const scd_oip_tensor *t, const double **out)
{
    double *numbers = scd_decoder_alloc(decoder, t->n, sizeof *numbers);
    if (!numbers)
        return false;
    scd_oip_convert(t, 0, t->n, numbers);
    *out = numbers;
    return true;
}

/* Bytes of valid UTF-8 at the front. */
static size_t valid_bytes(scd_text text)
{
    size_t i = 0, length = 1;
    for (; i < text.n && length; i += length)
        length = scd_utf8_length(text.data + i, text.n - i);
    return i;
}

/* The text at *at, which moves behind it; false: a fault. */
static bool next_text(const scd_oip_tensor *t, size_t i, size_t max_bytes, size_t *at,
                      scd_text *out, scd_fault *fault)
{
    scd_place place = {t->at_data, SCD_NO_INDEX, NULL, i};
    size_t left = t->data.n - *at;
    uint32_t length;
    if (left < sizeof length) {
        scd_fault_set(fault, SCD_PROBLEM_INVALID, &place,
                      "%zu bytes are left of the tensor, an element begins with 4 bytes of length",
                      left);
        return false;
    }
    memcpy(&length, t->data.data + *at, sizeof length);
    left -= sizeof length;
    if (length > left) {
        scd_fault_set(fault, SCD_PROBLEM_INVALID, &place,
                      "announces %u bytes, %zu are left of the tensor", length, left);
        return false;
    }
    *out = (scd_text){t->data.data + *at + sizeof length, length};
    *at += sizeof length + length;
    if (length > max_bytes)
        scd_fault_set(fault, SCD_PROBLEM_INVALID, &place,
                      "is a name of more than the %zu bytes that are accepted", max_bytes);
    else if (valid_bytes(*out) != length)
        scd_fault_set(fault, SCD_PROBLEM_INVALID, &place, "is not valid UTF-8");
    return fault->kind == SCD_PROBLEM_NONE;
}

static bool binary_texts(scd_decoder *decoder, const scd_oip_tensor *t, const scd_text **out,
                         scd_fault *fault)
{
    size_t max_bytes = decoder->limits->max_name_bytes;
    scd_place place = whole_place(t->at_shape);
    if (t->n > t->data.n / SCD_OIP_LENGTH_BYTES) {
        scd_fault_set(fault, SCD_PROBLEM_INVALID, &place,
                      "has %zu elements, which %zu bytes cannot hold", t->n, t->data.n);
        return true;
    }
    scd_text *texts = scd_decoder_alloc(decoder, t->n, sizeof *texts);
    if (!texts)
        return false;
    size_t at = 0;
    for (size_t i = 0; i < t->n; i++)
        if (!next_text(t, i, max_bytes, &at, &texts[i], fault))
            return true;
    if (at == t->data.n)
        *out = texts;
    else
        scd_fault_set(fault, SCD_PROBLEM_INVALID, &place,
                      "has %zu elements, behind which %zu bytes of the tensor are left", t->n,
                      t->data.n - at);
    return true;
}

/* ---- JSON: the array was read once, to its end, when the request was ------------------------ */

/* The decoder reads this tensor's array, until json_end gives it back its place. */
static scd_scan json_begin(scd_decoder *decoder, const scd_oip_tensor *t)
{
    scd_scan outer = decoder->scan;
    scd_scan_init(&decoder->scan, t->data.data, t->data.n, decoder->limits->max_depth);
    return outer;
}

/* `ok` as it is. What stopped the inner reader - memory alone - stays with the decoder. */
static bool json_end(scd_decoder *decoder, const scd_scan *outer, bool ok)
{
    if (ok)
        decoder->scan = *outer;
    return ok;
}

static void check_count(const char *what, size_t n, size_t wanted, const scd_place *place,
                        scd_fault *fault)
{
    if (n != wanted)
        scd_fault_set(fault, SCD_PROBLEM_INVALID, place, "has %zu %s, the shape says %zu", n, what,
                      wanted);
}

/* An array for each row. */
static bool json_rows(scd_decoder *decoder, const scd_oip_tensor *t, double *numbers,
                      scd_fault *fault)
{
    size_t n_rows = t->dims[0], n_columns = t->dims[1], row = 0;
    if (!scd_scan_enter(&decoder->scan, '['))
        return false;
    for (; scd_scan_element(&decoder->scan, row); row++) {
        const double *values;
        size_t n;
        scd_place place = {t->at_data, row, NULL, SCD_NO_INDEX};
        if (!scd_read_numbers(decoder, &place, SIZE_MAX, &values, &n, fault))
            return false;
        check_count("elements", n, n_columns, &place, fault);
        if (fault->kind == SCD_PROBLEM_NONE && row < n_rows && n)
            memcpy(numbers + row * n_columns, values, n * sizeof *values);
    }
    scd_place place = whole_place(t->at_data);
    check_count("rows", row, n_rows, &place, fault);
    return !decoder->scan.error;
}

/* Is the first element an array itself? */
static bool is_nested(const scd_oip_tensor *t)
{
    size_t i = 1;
    while (i < t->data.n && memchr(" \t\r\n", t->data.data[i], 4))
        i++;
    return i < t->data.n && t->data.data[i] == '[';
}

static bool json_numbers(scd_decoder *decoder, const scd_oip_tensor *t, const double **out,
                         scd_fault *fault)
{
    scd_place place = whole_place(t->at_data);
    if (t->n > t->data.n) { /* an element has a byte at least */
        scd_fault_set(fault, SCD_PROBLEM_INVALID, &place,
                      "has fewer elements than the %zu of the "
                      "shape",
                      t->n);
        return true;
    }
    if (t->n_dims == 2 && is_nested(t)) {
        double *numbers = scd_decoder_alloc(decoder, t->n, sizeof *numbers);
        if (!numbers || !json_rows(decoder, t, numbers, fault))
            return false;
        *out = numbers;
    } else {
        size_t n;
        if (!scd_read_numbers(decoder, &place, SIZE_MAX, out, &n, fault))
            return false;
        check_count("elements", n, t->n, &place, fault);
    }
    return true;
}

bool scd_oip_numbers(scd_decoder *decoder, const scd_oip_tensor *t, size_t max, const double **out,
                     scd_fault *fault)
{
    *out = NULL;
    if (!within(t, max, fault))
        return true;
    if (t->is_binary)
        return binary_numbers(decoder, t, out);
    scd_scan outer = json_begin(decoder, t);
    bool ok = json_end(decoder, &outer, json_numbers(decoder, t, out, fault));
    if (fault->kind != SCD_PROBLEM_NONE)
        *out = NULL;
    return ok;
}

bool scd_oip_texts(scd_decoder *decoder, const scd_oip_tensor *t, size_t max, const scd_text **out,
                   scd_fault *fault)
{
    *out = NULL;
    if (!within(t, max, fault))
        return true;
    if (t->is_binary)
        return binary_texts(decoder, t, out, fault);
    size_t n;
    scd_place place = whole_place(t->at_data);
    scd_scan outer = json_begin(decoder, t);
    if (!json_end(decoder, &outer, scd_read_names(decoder, &place, SIZE_MAX, out, &n, fault)))
        return false;
    check_count("elements", n, t->n, &place, fault);
    if (fault->kind != SCD_PROBLEM_NONE)
        *out = NULL;
    return true;
}
