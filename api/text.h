/* text.h - text by pointer and length, and the one judge of what UTF-8 is.
 *
 * A sequence is valid when RFC 3629 says so: shortest form, no surrogates, at most U+10FFFF.
 *
 * Threads: any. Owns: nothing. */
#ifndef SCD_API_TEXT_H
#define SCD_API_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <string.h>

typedef struct scd_text { /* n bytes of UTF-8, not NUL-terminated */
    const char *data;
    size_t n;
} scd_text;

static inline bool scd_text_is(scd_text text, const char *literal)
{
    size_t n = strlen(literal);
    return text.n == n && memcmp(text.data, literal, n) == 0;
}

/* Bytes of the UTF-8 sequence at `at`, of which n > 0 bytes can be read; 0: it is not valid. */
static inline size_t scd_utf8_length(const char *at, size_t n)
{
    const unsigned char *p = (const unsigned char *)at;
    size_t length = p[0] < 0x80 ? 1 : p[0] < 0xC2 ? 0 : p[0] < 0xE0 ? 2 : p[0] < 0xF0 ? 3 : 4;
    if (length == 1)
        return 1;
    if (length == 0 || length > n || p[0] > 0xF4)
        return 0;
    /* The second byte alone decides about overlong forms, surrogates and the end of Unicode. */
    unsigned char low = p[0] == 0xE0 ? 0xA0 : p[0] == 0xF0 ? 0x90 : 0x80;
    unsigned char high = p[0] == 0xED ? 0x9F : p[0] == 0xF4 ? 0x8F : 0xBF;
    if (p[1] < low || p[1] > high)
        return 0;
    for (size_t i = 2; i < length; i++)
        if ((p[i] & 0xC0) != 0x80)
            return 0;
    return length;
}

/* The greatest length up to n at which valid UTF-8 can be cut without splitting a sequence. */
static inline size_t scd_utf8_cut(const char *text, size_t n)
{
    size_t start = n;
    while (start > 0 && n - start < 3 && ((unsigned char)text[start - 1] & 0xC0) == 0x80)
        start--;
    if (start == 0 || (unsigned char)text[start - 1] < 0x80)
        return n; /* the last character is ASCII, or this is not UTF-8 at all */
    return scd_utf8_length(text + start - 1, n - start + 1) == n - start + 1 ? n : start - 1;
}

#endif
