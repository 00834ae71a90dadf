/* json_scan_arrays.c - whole arrays of numbers and of names, where a request's bytes are.
 *
 * Each has two lanes. The general one reads any element through json_scan.h. Behind an element the
 * plain lane takes over: it goes on for as long as elements look as programs write them - a comma,
 * at most one space, a number of up to 19 digits without exponent or a short string without escapes
 * - and stops in front of the first that does not, or that is too close to the end of the body to
 * be read without looking at every byte's distance. It never judges: what it leaves, the general
 * lane does. */
#include "api/json_scan.h"

#include "api/float_text.h"
#include "engine/base/mem.h"

#include <math.h>
#include <stdlib.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

/* Bytes that the plain lane may look at for one element: comma, space, sign, 19 digits and a point,
 * what follows; or comma, space, quote, 16 bytes of name. */
enum { PLAIN_BYTES = 32, NAME_WINDOW = 16 };

bool scd_scan_vec_reserve(scd_scan_vec *vec, size_t i, size_t size)
{
    if (i < vec->cap)
        return true;
    size_t cap = vec->cap ? vec->cap * 2 : 256;
    if (cap > vec->max)
        cap = vec->max;
    void *data = scd_realloc(vec->data, cap, size);
    if (!data)
        return false;
    vec->data = data;
    vec->cap = cap;
    return true;
}

void scd_scan_vec_release(scd_scan_vec *vec)
{
    free(vec->data);
    vec->data = NULL;
    vec->cap = 0;
}

/* Elements that the plain lane may store from i on. */
static size_t room_from(const scd_scan_vec *vec, size_t i)
{
    size_t end = vec->cap < vec->max ? vec->cap : vec->max;
    return i < end ? end - i : 0;
}

static void note_bad(scd_scan_type type, size_t i, scd_scan_array *out)
{
    if (out->bad != SIZE_MAX)
        return;
    out->bad = i;
    out->bad_type = type;
}

static bool skip_bad(scd_scan *scan, scd_scan_type type, size_t i, scd_scan_array *out)
{
    note_bad(type, i, out);
    return scd_scan_skip(scan, NULL);
}

static const char *plain_digits(const char *at, const char *limit, uint64_t *w)
{
    for (; at < limit && (unsigned char)(*at - '0') <= 9; at++)
        *w = *w * 10 + (uint64_t)(*at - '0');
    return at;
}

/* A number at `at`, with PLAIN_BYTES to read: the byte behind it, or NULL where it is not plain. */
static const char *plain_number(const char *at, double *out)
{
    bool negative = *at == '-';
    const char *digits = at + negative;
    uint64_t w = 0;
    at = plain_digits(digits, digits + SCD_DECIMAL_DIGITS, &w);
    if (at == digits || (*digits == '0' && at - digits > 1))
        return NULL;
    int64_t exponent = 0;
    if (*at == '.') {
        const char *fraction = at + 1;
        at = plain_digits(fraction, digits + SCD_DECIMAL_DIGITS + 1, &w);
        exponent = fraction - at;
        if (exponent == 0)
            return NULL;
    }
    if ((unsigned char)(*at - '0') <= 9 || *at == '.' || *at == 'e' || *at == 'E')
        return NULL;
    double value = exponent == 0 && w <= UINT64_C(1) << 53
                       ? (double)w
                       : scd_decimal_to_double(w, exponent, digits, (size_t)(at - digits));
    *out = negative ? -value : value;
    return at;
}

/* The plain lane for numbers, from behind an element: how many were stored. */
static size_t plain_numbers(scd_scan *scan, double *out, size_t room)
{
    const char *at = scan->at;
    size_t n = 0;
    for (; n < room && scan->end - at > PLAIN_BYTES && *at == ','; n++) {
        const char *behind = plain_number(at + 1 + (at[1] == ' '), &out[n]);
        if (!behind)
            break;
        at = behind;
    }
    scan->at = at;
    return n;
}

/* Length of the name at `at`, with NAME_WINDOW bytes to read; SIZE_MAX where its end is not among
 * them or anything but plain ASCII comes before it. */
static size_t plain_name(const char *at)
{
#ifdef __SSE2__
    __m128i v = _mm_loadu_si128((const __m128i *)(const void *)at);
    __m128i special = _mm_cmplt_epi8(v, _mm_set1_epi8(0x20)); /* signed: also 0x80 and up */
    special = _mm_or_si128(special, _mm_cmpeq_epi8(v, _mm_set1_epi8('"')));
    special = _mm_or_si128(special, _mm_cmpeq_epi8(v, _mm_set1_epi8('\\')));
    unsigned mask = (unsigned)_mm_movemask_epi8(special);
    size_t n = mask ? (size_t)__builtin_ctz(mask) : NAME_WINDOW;
#else
    size_t n = 0;
    while (n < NAME_WINDOW && (signed char)at[n] >= 0x20 && at[n] != '"' && at[n] != '\\')
        n++;
#endif
    return n < NAME_WINDOW && at[n] == '"' ? n : SIZE_MAX;
}

/* The plain lane for names of at most max_name_bytes. */
static size_t plain_names(scd_scan *scan, size_t max_name_bytes, scd_text *out, size_t room)
{
    const char *at = scan->at;
    size_t n = 0;
    for (; n < room && scan->end - at > PLAIN_BYTES && *at == ','; n++) {
        const char *quote = at + 1 + (at[1] == ' ');
        size_t length = *quote == '"' ? plain_name(quote + 1) : SIZE_MAX;
        if (length > max_name_bytes)
            break;
        out[n] = (scd_text){quote + 1, length};
        at = quote + length + 2;
    }
    scan->at = at;
    return n;
}

bool scd_scan_numbers(scd_scan *scan, scd_scan_vec *vec, scd_scan_array *out)
{
    *out = (scd_scan_array){.bad = SIZE_MAX};
    if (!scd_scan_enter(scan, '['))
        return false;
    size_t i = 0;
    for (; scd_scan_element(scan, i); i++) {
        double value = 0;
        scd_scan_type type = scd_scan_peek(scan);
        bool is_number = type == SCD_SCAN_NUMBER, is_null = type == SCD_SCAN_NULL && scan->nulls;
        if (!(is_number ? scd_scan_number(scan, &value)
              : is_null ? scd_scan_skip(scan, NULL)
                        : skip_bad(scan, type, i, out)))
            return false;
        if (!isfinite(value))
            note_bad(SCD_SCAN_NUMBER, i, out);
        if (is_null)
            value = NAN;
        if (i >= vec->max)
            continue;
        if (!scd_scan_vec_reserve(vec, i, sizeof value))
            return scd_scan_no_memory(scan);
        double *values = vec->data;
        values[i] = value;
        i += plain_numbers(scan, values + i + 1, room_from(vec, i + 1));
    }
    out->n = i;
    return !scan->error;
}

bool scd_scan_names(scd_scan *scan, scd_arena *arena, size_t max_name_bytes, scd_scan_vec *vec,
                    scd_scan_array *out)
{
    *out = (scd_scan_array){.bad = SIZE_MAX};
    if (!scd_scan_enter(scan, '['))
        return false;
    if (max_name_bytes == SIZE_MAX) /* which is how plain_name says no */
        max_name_bytes--;
    size_t i = 0;
    for (; scd_scan_element(scan, i); i++) {
        scd_text name = {"", 0};
        scd_scan_type type = scd_scan_peek(scan);
        bool is_string = type == SCD_SCAN_STRING;
        if (!(is_string ? scd_scan_string(scan, arena, &name) : skip_bad(scan, type, i, out)))
            return false;
        if (name.n > max_name_bytes)
            note_bad(SCD_SCAN_STRING, i, out);
        if (i >= vec->max)
            continue;
        if (!scd_scan_vec_reserve(vec, i, sizeof name))
            return scd_scan_no_memory(scan);
        scd_text *names = vec->data;
        names[i] = name;
        i += plain_names(scan, max_name_bytes, names + i + 1, room_from(vec, i + 1));
    }
    out->n = i;
    return !scan->error;
}
