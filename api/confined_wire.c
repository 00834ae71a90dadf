/* confined_wire.c - see confined_wire.h. */
#include "api/confined_wire.h"

#include <string.h>

void scd_wire_put_u64(scd_buf *out, uint64_t value)
{
    scd_buf_append(out, &value, sizeof value);
}

void scd_wire_put_text(scd_buf *out, const char *text)
{
    size_t n = text ? strlen(text) : 0;
    uint32_t length = text && n < SCD_WIRE_NO_TEXT ? (uint32_t)n : SCD_WIRE_NO_TEXT;
    scd_buf_append(out, &length, sizeof length);
    if (text)
        scd_buf_append(out, text, n);
}

static bool take(scd_wire_in *in, void *out, size_t n)
{
    if (in->failed || (size_t)(in->end - in->at) < n) {
        in->failed = true;
        return false;
    }
    memcpy(out, in->at, n);
    in->at += n;
    return true;
}

uint64_t scd_wire_get_u64(scd_wire_in *in)
{
    uint64_t value = 0;
    take(in, &value, sizeof value);
    return value;
}

const char *scd_wire_get_text(scd_wire_in *in, scd_arena *arena)
{
    uint32_t n = 0;
    if (!take(in, &n, sizeof n) || n == SCD_WIRE_NO_TEXT)
        return NULL;
    if ((size_t)(in->end - in->at) < n || memchr(in->at, '\0', n)) {
        in->failed = true;
        return NULL;
    }
    const char *text = scd_arena_strndup(arena, in->at, n);
    in->at += n;
    in->failed = !text;
    return text;
}

const void *scd_wire_get_array(scd_wire_in *in, uint64_t n, size_t size, scd_arena *arena)
{
    size_t left = in->failed ? 0 : (size_t)(in->end - in->at);
    if (in->failed || n > left / size) {
        in->failed = true;
        return NULL;
    }
    void *out = scd_arena_alloc(arena, n, size);
    if (out)
        take(in, out, n * size);
    else
        in->failed = true;
    return in->failed ? NULL : out;
}
