/* json_scan.c - see json_scan.h.
 *
 * One pass, no tree. Strings are searched 16 bytes at a time for the first byte that needs a look;
 * numbers are collected digit by digit into an integer that scd_decimal_to_double converts. */
#include "api/json_scan.h"

#include "api/float_text.h"
#include "engine/base/mem.h"

#include <math.h>
#include <stdio.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

/* Remember the first thing wrong; nothing is read any more. */
static bool fail(scd_scan *scan, const char *at, const char *expected)
{
    if (!scan->error) {
        scan->error = expected;
        scan->error_at = at;
    }
    scan->at = scan->end;
    return false;
}

bool scd_scan_no_memory(scd_scan *scan)
{
    scan->no_memory = true;
    return fail(scan, scan->at, "memory");
}

void *scd_scan_alloc(scd_scan *scan, scd_arena *arena, size_t count, size_t size)
{
    void *memory = scd_arena_alloc(arena, count, size);
    if (memory)
        return memory;
    size_t bytes, left = arena->max_bytes - arena->used_bytes;
    bool over = !scd_size_mul(count, size, &bytes) || bytes + 16 > left; /* 16: it aligns to that */
    scd_scan_no_memory(scan);
    scan->no_memory = !over;
    scan->over_arena = over;
    return NULL;
}

static void skip_space(scd_scan *scan)
{
    const char *at = scan->at;
    while (at < scan->end && (*at == ' ' || *at == '\n' || *at == '\r' || *at == '\t'))
        at++;
    scan->at = at;
}

void scd_scan_init(scd_scan *scan, const char *body, size_t n, size_t max_depth)
{
    static const char nothing[1] = "";
    if (!body)
        body = nothing;
    *scan =
        (scd_scan){.begin = body,
                   .at = body,
                   .end = body + n,
                   .max_depth = max_depth < SCD_SCAN_MAX_DEPTH ? max_depth : SCD_SCAN_MAX_DEPTH};
    if (n >= 3 && memcmp(body, "\xEF\xBB\xBF", 3) == 0)
        fail(scan, body, "JSON without a byte order mark in front");
}

scd_scan_type scd_scan_peek(scd_scan *scan)
{
    skip_space(scan);
    if (scan->at == scan->end)
        return SCD_SCAN_NOTHING;
    switch (*scan->at) {
    case '{':
        return SCD_SCAN_OBJECT;
    case '[':
        return SCD_SCAN_ARRAY;
    case '"':
        return SCD_SCAN_STRING;
    case 't':
    case 'f':
        return SCD_SCAN_BOOL;
    case 'n':
        return SCD_SCAN_NULL;
    default:
        return *scan->at == '-' || (*scan->at >= '0' && *scan->at <= '9') ? SCD_SCAN_NUMBER
                                                                          : SCD_SCAN_NOTHING;
    }
}

const char *scd_scan_type_name(scd_scan_type type)
{
    static const char *const names[] = {"nothing",  "an object", "an array", "a string",
                                        "a number", "a boolean", "null"};
    return names[type];
}

/* ---- containers -------------------------------------------------------------------------------*/

bool scd_scan_enter(scd_scan *scan, char bracket)
{
    skip_space(scan);
    if (scan->at == scan->end || *scan->at != bracket)
        return fail(scan, scan->at, bracket == '{' ? "'{'" : "'['");
    if (scan->depth == scan->max_depth)
        return fail(scan, scan->at, "less nesting: this is deeper than the limit allows");
    scan->depth++;
    scan->at++;
    return true;
}

/* Before member or element i: true when there is one and scan->at stands on it. */
static bool advance(scd_scan *scan, size_t i, char close, const char *expected_next,
                    const char *expected_value)
{
    skip_space(scan);
    if (scan->at < scan->end && *scan->at == close) {
        scan->at++;
        scan->depth--;
        return false;
    }
    if (i > 0) {
        if (scan->at == scan->end || *scan->at != ',')
            return fail(scan, scan->at, expected_next);
        scan->at++;
        skip_space(scan);
        if (scan->at < scan->end && *scan->at == close)
            return fail(scan, scan->at, expected_value);
    }
    return true;
}

bool scd_scan_element(scd_scan *scan, size_t i)
{
    return !scan->error && advance(scan, i, ']', "',' or ']' after an array element",
                                   "a value after ',' (JSON has no trailing comma)");
}

bool scd_scan_member(scd_scan *scan, size_t i, scd_arena *arena, scd_text *key)
{
    if (scan->error || !advance(scan, i, '}', "',' or '}' after an object member",
                                "a name after ',' (JSON has no trailing comma)"))
        return false;
    if (scan->at == scan->end || *scan->at != '"')
        return fail(scan, scan->at,
                    i ? "a name in double quotes" : "a name in double quotes or '}'");
    if (!scd_scan_string(scan, arena, key))
        return false;
    skip_space(scan);
    if (scan->at == scan->end || *scan->at != ':')
        return fail(scan, scan->at, "':' after an object's name");
    scan->at++;
    return true;
}

/* ---- strings ----------------------------------------------------------------------------------*/

/* The first byte from `at` that needs a look: a quote, a backslash, a control, or not ASCII. */
static const char *skip_plain(const char *at, const char *end)
{
#ifdef __SSE2__
    while (end - at >= 16) {
        __m128i v = _mm_loadu_si128((const __m128i *)(const void *)at);
        __m128i special = _mm_cmplt_epi8(v, _mm_set1_epi8(0x20)); /* signed: also 0x80 and up */
        special = _mm_or_si128(special, _mm_cmpeq_epi8(v, _mm_set1_epi8('"')));
        special = _mm_or_si128(special, _mm_cmpeq_epi8(v, _mm_set1_epi8('\\')));
        unsigned mask = (unsigned)_mm_movemask_epi8(special);
        if (mask)
            return at + __builtin_ctz(mask);
        at += 16;
    }
#endif
    while (at < end && (signed char)*at >= 0x20 && *at != '"' && *at != '\\')
        at++;
    return at;
}

/* Four hex digits at `at`; -1: they are not. */
static int32_t hex4(const char *at, const char *end)
{
    if (end - at < 4)
        return -1;
    int32_t value = 0;
    for (int i = 0; i < 4; i++) {
        char c = at[i];
        int digit = c >= '0' && c <= '9'   ? c - '0'
                    : c >= 'a' && c <= 'f' ? c - 'a' + 10
                    : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                           : -1;
        if (digit < 0)
            return -1;
        value = value << 4 | digit;
    }
    return value;
}

/* Bytes of the escape at `at` (on its backslash) and the code point it stands for; 0: failed. */
static size_t read_escape(scd_scan *scan, const char *at, uint32_t *code)
{
    static const char letters[] = "\"\\/bfnrt", values[] = "\"\\/\b\f\n\r\t";
    if (scan->end - at < 2)
        return fail(scan, scan->end, "the rest of an escape in a string");
    const char *letter = at[1] ? strchr(letters, at[1]) : NULL;
    if (letter) {
        *code = (uint32_t)values[letter - letters];
        return 2;
    }
    if (at[1] != 'u')
        return fail(scan, at + 1, "one of \" \\ / b f n r t u after '\\'");
    int32_t unit = hex4(at + 2, scan->end);
    if (unit < 0)
        return fail(scan, at + 2, "four hex digits after \\u");
    scan->met_nul |= unit == 0;
    *code = (uint32_t)unit;
    if (unit < 0xD800 || unit > 0xDFFF)
        return 6;
    bool paired = unit < 0xDC00 && scan->end - at >= 12 && at[6] == '\\' && at[7] == 'u';
    int32_t low = paired ? hex4(at + 8, scan->end) : -1;
    if (low < 0xDC00 || low > 0xDFFF)
        return fail(scan, at, "a pair of surrogates, not half of one");
    *code = 0x10000u + ((uint32_t)(unit - 0xD800) << 10) + (uint32_t)(low - 0xDC00);
    return 12;
}

static size_t write_utf8(uint32_t code, char *out)
{
    if (code < 0x80) {
        out[0] = (char)code;
        return 1;
    }
    size_t n = code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
    static const unsigned char lead[] = {0, 0, 0xC0, 0xE0, 0xF0};
    for (size_t i = n - 1; i > 0; i--, code >>= 6)
        out[i] = (char)(0x80 | (code & 0x3F));
    out[0] = (char)(lead[n] | code);
    return n;
}

/* From behind the opening quote to the closing one: *close stands on it. */
static bool check_string(scd_scan *scan, const char **close, bool *escaped)
{
    const char *at = scan->at;
    *escaped = false;
    for (;;) {
        at = skip_plain(at, scan->end);
        if (at == scan->end)
            return fail(scan, at, "'\"' at the end of a string");
        if (*at == '"')
            break;
        size_t n;
        uint32_t code;
        if (*at == '\\') {
            n = read_escape(scan, at, &code);
            *escaped = true;
        } else if ((unsigned char)*at < 0x20) {
            return fail(scan, at, "control characters in a string to be escaped");
        } else {
            n = scd_utf8_length(at, (size_t)(scan->end - at));
            if (!n)
                return fail(scan, at, "valid UTF-8");
        }
        if (!n)
            return false;
        at += n;
    }
    *close = at;
    return true;
}

/* The escapes of [at, end), which check_string has passed, are never shorter than what they mean.
 */
static size_t unescape(scd_scan *scan, const char *at, const char *end, char *out)
{
    size_t n = 0;
    while (at < end) {
        if (*at != '\\') {
            out[n++] = *at++;
            continue;
        }
        uint32_t code = 0;
        at += read_escape(scan, at, &code);
        n += write_utf8(code, out + n);
    }
    return n;
}

bool scd_scan_string(scd_scan *scan, scd_arena *arena, scd_text *out)
{
    skip_space(scan);
    if (scan->at == scan->end || *scan->at != '"')
        return fail(scan, scan->at, "a string");
    scan->at++;
    const char *first = scan->at, *close;
    bool escaped;
    if (!check_string(scan, &close, &escaped))
        return false;
    scan->at = close + 1;
    *out = (scd_text){first, (size_t)(close - first)};
    if (!escaped)
        return true;
    char *decoded = scd_scan_alloc(scan, arena, out->n, 1);
    if (!decoded)
        return false;
    *out = (scd_text){decoded, unescape(scan, first, close, decoded)};
    return true;
}

/* ---- numbers ----------------------------------------------------------------------------------*/

static bool is_digit(const char *at, const char *end)
{
    return at < end && (unsigned char)(*at - '0') <= 9;
}

/* Digits into *w (which wraps when there are more than 19: the caller counts). */
static const char *read_digits(const char *at, const char *end, uint64_t *w)
{
    for (; is_digit(at, end); at++)
        *w = *w * 10 + (uint64_t)(*at - '0');
    return at;
}

/* The exponent behind 'e'; what exceeds any double is clamped. NULL: failed. */
static const char *read_exponent(scd_scan *scan, const char *at, int64_t *exponent)
{
    bool negative = at < scan->end && *at == '-';
    if (at < scan->end && (*at == '-' || *at == '+'))
        at++;
    if (!is_digit(at, scan->end)) {
        fail(scan, at, "a digit in the exponent");
        return NULL;
    }
    int64_t e = 0;
    for (; is_digit(at, scan->end); at++)
        e = e < 100000 ? e * 10 + (*at - '0') : e;
    *exponent = negative ? -e : e;
    return at;
}

bool scd_scan_number(scd_scan *scan, double *out)
{
    skip_space(scan);
    const char *first = scan->at, *at = first, *end = scan->end;
    bool negative = at < end && *at == '-';
    at += negative;
    const char *digits = at;
    if (!is_digit(at, end))
        return fail(scan, negative ? first : at, "a number (JSON has no NaN and no Infinity)");
    uint64_t w = 0;
    at = read_digits(at, end, &w);
    if (*digits == '0' && at - digits > 1)
        return fail(scan, digits, "a number without leading zeros");
    int64_t n_digits = at - digits, exponent = 0;
    if (at < end && *at == '.') {
        const char *fraction = ++at;
        at = read_digits(at, end, &w);
        if (at == fraction)
            return fail(scan, at, "a digit after '.'");
        exponent = -(at - fraction);
        n_digits -= exponent;
    }
    if (at < end && (*at == 'e' || *at == 'E')) {
        int64_t written;
        at = read_exponent(scan, at + 1, &written);
        if (!at)
            return false;
        exponent += written;
    }
    if (at - first > SCD_NUMBER_MAX_BYTES)
        return fail(scan, first, "a number of at most 1024 characters");
    double value = n_digits <= SCD_DECIMAL_DIGITS
                       ? scd_decimal_to_double(w, exponent, digits, (size_t)(at - digits))
                       : scd_text_to_double(digits, (size_t)(at - digits));
    *out = negative ? -value : value;
    if ((size_t)(at - first) > scan->longest_number)
        scan->longest_number = (size_t)(at - first);
    scan->met_infinity |= !isfinite(value);
    scan->at = at;
    return true;
}

/* ---- the rest ---------------------------------------------------------------------------------*/

static bool read_word(scd_scan *scan, const char *word)
{
    size_t n = strlen(word);
    if ((size_t)(scan->end - scan->at) < n || memcmp(scan->at, word, n) != 0)
        return fail(scan, scan->at,
                    "a value (true, false, null, a number, string, array or object)");
    scan->at += n;
    return true;
}

bool scd_scan_bool(scd_scan *scan, bool *out)
{
    skip_space(scan);
    *out = scan->at < scan->end && *scan->at == 't';
    return read_word(scan, *out ? "true" : "false");
}

static bool skip_container(scd_scan *scan, bool is_object)
{
    if (!scd_scan_enter(scan, is_object ? '{' : '['))
        return false;
    for (size_t i = 0; !scan->error; i++) {
        if (!advance(scan, i, is_object ? '}' : ']',
                     is_object ? "',' or '}' after an object member"
                               : "',' or ']' after an array element",
                     "something after ',' (JSON has no trailing comma)"))
            break;
        if (is_object) {
            const char *close;
            bool escaped;
            if (scan->at == scan->end || *scan->at != '"')
                return fail(scan, scan->at, "a name in double quotes");
            scan->at++;
            if (!check_string(scan, &close, &escaped))
                return false;
            scan->at = close + 1;
            skip_space(scan);
            if (scan->at == scan->end || *scan->at != ':')
                return fail(scan, scan->at, "':' after an object's name");
            scan->at++;
        }
        if (!scd_scan_skip(scan, NULL))
            return false;
    }
    return !scan->error;
}

bool scd_scan_skip(scd_scan *scan, scd_text *raw)
{
    scd_scan_type type = scd_scan_peek(scan);
    const char *first = scan->at, *close;
    double number;
    bool ok, escaped;
    switch (type) {
    case SCD_SCAN_OBJECT:
    case SCD_SCAN_ARRAY:
        ok = skip_container(scan, type == SCD_SCAN_OBJECT);
        break;
    case SCD_SCAN_STRING:
        scan->at++;
        ok = check_string(scan, &close, &escaped);
        if (ok)
            scan->at = close + 1;
        break;
    case SCD_SCAN_NUMBER:
        ok = scd_scan_number(scan, &number);
        break;
    case SCD_SCAN_BOOL:
        ok = scd_scan_bool(scan, &escaped);
        break;
    case SCD_SCAN_NULL:
        ok = read_word(scan, "null");
        break;
    default:
        ok = fail(scan, scan->at, "a value (JSON has no NaN, no Infinity, no comments)");
    }
    if (ok && raw)
        *raw = (scd_text){first, (size_t)(scan->at - first)};
    return ok;
}

bool scd_scan_end(scd_scan *scan)
{
    skip_space(scan);
    return !scan->error &&
           (scan->at == scan->end || fail(scan, scan->at, "nothing after the end of the value"));
}

/* ---- errors -----------------------------------------------------------------------------------*/

void scd_scan_describe(const scd_scan *scan, char *out, size_t cap)
{
    size_t line = 1, column = 1;
    for (const char *at = scan->begin; at < scan->error_at; at++) {
        if (*at == '\n') {
            line++;
            column = 1;
        } else if (((unsigned char)*at & 0xC0) != 0x80) {
            column++;
        }
    }
    char found[24] = "the end of the body";
    if (scan->error_at < scan->end) {
        unsigned char c = (unsigned char)*scan->error_at;
        snprintf(found, sizeof found, c > 0x20 && c < 0x7F ? "'%c'" : "byte 0x%02X", c);
    }
    snprintf(out, cap, "line %zu, column %zu: expected %s, found %s", line, column,
             scan->error ? scan->error : "nothing else", found);
}
