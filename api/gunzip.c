/* gunzip.c - see gunzip.h. */
#include "api/gunzip.h"

#include "engine/base/mem.h"

#include <limits.h>
#include <stdint.h>
#include <stdlib.h>
#include <zlib.h>

enum { STEP_BYTES = 1 << 16, GZIP_WINDOW = 15 + 16 };

scd_code scd_gunzip(const void *bytes, size_t n, scd_buf *out, scd_error *err)
{
    z_stream z = {0};
    if (n > UINT_MAX)
        return scd_fail(err, SCD_E_TOO_LARGE, "the gzip body is too large");
    if (inflateInit2(&z, GZIP_WINDOW) != Z_OK)
        return scd_fail(err, SCD_E_NOMEM, "out of memory");
    z.next_in = (Bytef *)(uintptr_t)bytes;
    z.avail_in = (uInt)n;
    scd_code code = SCD_OK;
    for (int rc = Z_OK; !code && (rc != Z_STREAM_END || z.avail_in);) {
        if (rc == Z_STREAM_END)
            inflateReset(&z); /* another member follows: together they are the body */
        size_t room = out->max_bytes - out->n_bytes;
        char *at = scd_buf_reserve(out, room < STEP_BYTES ? room : STEP_BYTES);
        if (!at) {
            code = scd_fail(err, SCD_E_NOMEM, "out of memory for the decompressed body");
            break;
        }
        z.next_out = (Bytef *)at;
        z.avail_out = (uInt)(room < STEP_BYTES ? room : STEP_BYTES);
        uInt before = z.avail_out;
        rc = inflate(&z, Z_NO_FLUSH);
        scd_buf_commit(out, before - z.avail_out);
        if (rc == Z_STREAM_END)
            continue;
        if (rc == Z_OK && z.avail_out == before && !z.avail_in)
            rc = Z_BUF_ERROR;
        if (rc == Z_BUF_ERROR && room == 0)
            code = scd_fail(err, SCD_E_TOO_LARGE, "the decompressed body is over %zu bytes",
                            out->max_bytes);
        else if (rc != Z_OK)
            code = scd_fail(err, SCD_E_INVALID, "the gzip body is %s",
                            rc == Z_BUF_ERROR ? "cut off" : "damaged or not gzip");
    }
    inflateEnd(&z);
    return code;
}

/* ---- piece by piece ---- */

struct scd_gunzip_stream {
    z_stream z;
    bool between; /* members */
    char plain[STEP_BYTES];
};

scd_gunzip_stream *scd_gunzip_new(void)
{
    scd_gunzip_stream *s = scd_calloc(1, sizeof *s);
    if (s && inflateInit2(&s->z, GZIP_WINDOW) != Z_OK) {
        free(s);
        return NULL;
    }
    return s;
}

void scd_gunzip_free(scd_gunzip_stream *s)
{
    if (!s)
        return;
    inflateEnd(&s->z);
    free(s);
}

bool scd_gunzip_feed(scd_gunzip_stream *s, const void *bytes, size_t n,
                     bool (*take)(void *arg, const char *bytes, size_t n), void *arg, bool *damaged)
{
    const char *at = bytes;
    *damaged = false;
    while (n || !s->z.avail_out) {
        uInt step = n < UINT_MAX ? (uInt)n : UINT_MAX;
        if (s->between && n) {
            inflateReset(&s->z);
            s->between = false;
        }
        s->z.next_in = (Bytef *)(uintptr_t)at;
        s->z.avail_in = step;
        s->z.next_out = (Bytef *)s->plain;
        s->z.avail_out = STEP_BYTES;
        int rc = inflate(&s->z, Z_NO_FLUSH);
        size_t got = STEP_BYTES - s->z.avail_out;
        at += step - s->z.avail_in;
        n -= step - s->z.avail_in;
        if (rc != Z_OK && rc != Z_STREAM_END && rc != Z_BUF_ERROR) {
            *damaged = true;
            return false;
        }
        if (got && !take(arg, s->plain, got))
            return false;
        s->between = rc == Z_STREAM_END;
        if (s->between)
            s->z.avail_out = STEP_BYTES; /* nothing more is in it */
    }
    return true;
}

bool scd_gunzip_is_whole(const scd_gunzip_stream *s)
{
    return s->between;
}
