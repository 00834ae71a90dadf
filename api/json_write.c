/* json_write.c - see json_write.h. */
#include "api/json_write.h"

#include "api/text.h"

#include <math.h>
#include <string.h>

/* Bytes that a JSON string takes as they are, in runs. */
static size_t plain_run(const char *text, size_t n)
{
    size_t i = 0;
    while (i < n) {
        unsigned char c = (unsigned char)text[i];
        if (c < 0x20 || c == '"' || c == '\\')
            break;
        size_t length = c < 0x80 ? 1 : scd_utf8_length(text + i, n - i);
        if (!length)
            break;
        i += length;
    }
    return i;
}

/* One byte that plain_run stopped at. */
static void write_special(scd_buf *out, unsigned char c)
{
    static const char letters[] = "\"\\\b\f\n\r\t", escapes[] = "\"\\bfnrt";
    const char *known = c ? strchr(letters, c) : NULL;
    if (known) {
        scd_buf_putc(out, '\\');
        scd_buf_putc(out, escapes[known - letters]);
    } else if (c < 0x20) {
        scd_buf_printf(out, "\\u%04x", c);
    } else {
        scd_buf_puts(out, "\xEF\xBF\xBD"); /* U+FFFD, the replacement character */
    }
}

void scd_json_string(scd_buf *out, const char *text, size_t n)
{
    scd_buf_putc(out, '"');
    for (size_t i = 0; i < n;) {
        size_t run = plain_run(text + i, n - i);
        scd_buf_append(out, text + i, run);
        i += run;
        if (i < n)
            write_special(out, (unsigned char)text[i++]);
    }
    scd_buf_putc(out, '"');
}

void scd_json_text(scd_buf *out, const char *text)
{
    scd_json_string(out, text, strlen(text));
}

void scd_json_double(scd_buf *out, double value)
{
    char text[SCD_DOUBLE_TEXT_BYTES];
    if (isfinite(value))
        scd_buf_append(out, text, scd_double_text(value, text));
    else
        scd_buf_puts(out, "null");
}

void scd_json_uint(scd_buf *out, uint64_t value)
{
    char text[20];
    size_t at = sizeof text;
    do {
        text[--at] = (char)('0' + value % 10);
        value /= 10;
    } while (value);
    scd_buf_append(out, text + at, sizeof text - at);
}

/* Text of one float at `at` (SCD_FLOAT_TEXT_BYTES of room); returns its length. */
static size_t float_or_null(float value, char *at)
{
    if (isfinite(value))
        return scd_float_text(value, at);
    memcpy(at, "null", 4);
    return 4;
}

void scd_json_float(scd_buf *out, float value)
{
    char text[SCD_FLOAT_TEXT_BYTES];
    scd_buf_append(out, text, float_or_null(value, text));
}

void scd_json_floats(scd_buf *out, const float *values, size_t n)
{
    enum { CHUNK = 256 }; /* reserving for the worst case all at once would grow far too much */
    scd_buf_putc(out, '[');
    for (size_t i = 0; i < n;) {
        size_t stop = n - i < CHUNK ? n : i + CHUNK;
        char *at = scd_buf_reserve(out, (stop - i) * (SCD_FLOAT_TEXT_BYTES + 1));
        if (!at)
            return;
        char *first = at;
        for (; i < stop; i++) {
            if (i > 0)
                *at++ = ',';
            at += float_or_null(values[i], at);
        }
        scd_buf_commit(out, (size_t)(at - first));
    }
    scd_buf_putc(out, ']');
}

void scd_base64(scd_buf *out, const void *bytes, size_t n)
{
    static const char alphabet[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const unsigned char *in = bytes;
    char *at = scd_buf_reserve(out, n / 3 * 4 + (n % 3 ? 4 : 0));
    if (!at)
        return;
    char *first = at;
    for (; n >= 3; n -= 3, in += 3) {
        uint32_t word = (uint32_t)in[0] << 16 | (uint32_t)in[1] << 8 | in[2];
        *at++ = alphabet[word >> 18];
        *at++ = alphabet[word >> 12 & 63];
        *at++ = alphabet[word >> 6 & 63];
        *at++ = alphabet[word & 63];
    }
    if (n > 0) {
        uint32_t word = (uint32_t)in[0] << 16 | (n > 1 ? (uint32_t)in[1] << 8 : 0);
        *at++ = alphabet[word >> 18];
        *at++ = alphabet[word >> 12 & 63];
        *at++ = n > 1 ? alphabet[word >> 6 & 63] : '=';
        *at++ = '=';
    }
    scd_buf_commit(out, (size_t)(at - first));
}
