/* buf.c - see buf.h. */
#include "engine/base/buf.h"

#include "engine/base/mem.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void scd_buf_init(scd_buf *buf, size_t max_bytes)
{
    /* One less than everything: the NUL has room too. */
    *buf = (scd_buf){.max_bytes = max_bytes < SIZE_MAX ? max_bytes : SIZE_MAX - 1};
}

void scd_buf_release(scd_buf *buf)
{
    free(buf->data);
    scd_buf_init(buf, buf->max_bytes);
}

void scd_buf_clear(scd_buf *buf)
{
    buf->n_bytes = 0;
    buf->failed = false;
    if (buf->data)
        buf->data[0] = '\0';
}

char *scd_buf_reserve(scd_buf *buf, size_t n)
{
    if (buf->failed || n > buf->max_bytes || buf->n_bytes > buf->max_bytes - n) {
        buf->failed = true;
        return NULL;
    }
    size_t need = buf->n_bytes + n + 1;
    if (need > buf->cap_bytes) {
        size_t cap = buf->cap_bytes ? buf->cap_bytes : 256;
        while (cap < need)
            cap = cap > SIZE_MAX / 2 ? need : cap * 2;
        char *data = scd_realloc(buf->data, cap, 1);
        if (!data) {
            buf->failed = true;
            return NULL;
        }
        buf->data = data;
        buf->cap_bytes = cap;
    }
    return buf->data + buf->n_bytes;
}

void scd_buf_commit(scd_buf *buf, size_t n)
{
    buf->n_bytes += n;
    buf->data[buf->n_bytes] = '\0';
}

bool scd_buf_append(scd_buf *buf, const void *bytes, size_t n)
{
    char *at = scd_buf_reserve(buf, n);
    if (!at)
        return false;
    if (n)
        memcpy(at, bytes, n);
    scd_buf_commit(buf, n);
    return true;
}

bool scd_buf_puts(scd_buf *buf, const char *text)
{
    return scd_buf_append(buf, text, strlen(text));
}

bool scd_buf_putc(scd_buf *buf, char c)
{
    return scd_buf_append(buf, &c, 1);
}

bool scd_buf_printf(scd_buf *buf, const char *fmt, ...)
{
    va_list args, again;
    va_start(args, fmt);
    va_copy(again, args);
    int n = vsnprintf(NULL, 0, fmt, args);
    va_end(args);
    if (n < 0) /* a character that the locale does not have */
        buf->failed = true;
    char *at = n < 0 ? NULL : scd_buf_reserve(buf, (size_t)n);
    if (at) {
        vsnprintf(at, (size_t)n + 1, fmt, again);
        scd_buf_commit(buf, (size_t)n);
    }
    va_end(again);
    return at != NULL;
}

char *scd_buf_take(scd_buf *buf)
{
    char *data = buf->data;
    buf->data = NULL;
    scd_buf_release(buf);
    return data;
}
