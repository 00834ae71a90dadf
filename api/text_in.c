/* text_in.c - see text_in.h. */
#include "api/text_in.h"

#include "engine/base/buf.h"
#include "engine/base/mem.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>

enum {
    IN_BYTES = 1 << 16,
    OUT_BYTES = 1 << 18,
    MAX_LINE_BYTES = 256 << 20,
    DEFLATE_RATIO = 1100,
    SMALL_BYTES = 1 << 20,
    EITHER_GZIP = 15 + 16
};

struct scd_text_in {
    scd_bytes_read *read;
    void *arg;
    char *name;
    uint64_t max_bytes, n_bytes, line;
    bool is_packed, is_started, is_over; /* is_over: no more bytes come from below */
    z_stream z;
    bool z_open, z_done; /* z_done: between two members */
    unsigned char *raw;  /* (IN_BYTES) as they came */
    size_t raw_at, raw_n;
    char *out; /* (OUT_BYTES) unpacked */
    size_t at, n;
    scd_buf long_line; /* where it goes past the end of `out` */
};

uint64_t scd_text_in_bound(uint64_t file_bytes)
{
    return file_bytes * DEFLATE_RATIO + SMALL_BYTES;
}

scd_code scd_text_in_new(scd_bytes_read *read, void *arg, const char *name, uint64_t max_bytes,
                         scd_text_in **out, scd_error *err)
{
    scd_text_in *in = scd_calloc(1, sizeof *in);
    if (in) {
        *in = (scd_text_in){.read = read, .arg = arg, .max_bytes = max_bytes};
        in->name = scd_strdup(name);
        in->raw = scd_malloc(IN_BYTES, 1);
        in->out = scd_malloc(OUT_BYTES, 1);
        scd_buf_init(&in->long_line, MAX_LINE_BYTES);
    }
    if (!in || !in->name || !in->raw || !in->out) {
        scd_text_in_free(in);
        return scd_fail(err, SCD_E_NOMEM, "%s: out of memory", name);
    }
    *out = in;
    return SCD_OK;
}

void scd_text_in_free(scd_text_in *in)
{
    if (!in)
        return;
    if (in->z_open)
        inflateEnd(&in->z);
    scd_buf_release(&in->long_line);
    free(in->out);
    free(in->raw);
    free(in->name);
    free(in);
}

uint64_t scd_text_in_line_number(const scd_text_in *in)
{
    return in->line;
}

uint64_t scd_text_in_bytes(const scd_text_in *in)
{
    return in->n_bytes;
}

const char *scd_text_in_name(const scd_text_in *in)
{
    return in->name;
}

scd_code scd_text_in_fail(const scd_text_in *in, scd_code code, scd_error *err, const char *fmt,
                          ...)
{
    char what[400];
    va_list args;
    va_start(args, fmt);
    vsnprintf(what, sizeof what, fmt, args);
    va_end(args);
    if (!in->line)
        return scd_fail(err, code, "%s: %s", in->name, what);
    return scd_fail(err, code, "%s: line %" PRIu64 ": %s", in->name, in->line, what);
}

/* ---- bytes ---- */

static scd_code fill_raw(scd_text_in *in, scd_error *err)
{
    if (in->raw_at < in->raw_n || in->is_over)
        return SCD_OK;
    in->raw_at = 0;
    scd_code code = in->read(in->arg, in->raw, IN_BYTES, &in->raw_n, err);
    if (code)
        scd_fail_within(err, "%s", in->name);
    in->is_over = !code && in->raw_n == 0;
    return code;
}

static scd_code start(scd_text_in *in, scd_error *err)
{
    scd_code code = fill_raw(in, err);
    if (code)
        return code;
    in->is_started = true;
    in->is_packed = in->raw_n >= 2 && in->raw[0] == 0x1f && in->raw[1] == 0x8b;
    if (!in->is_packed)
        return SCD_OK;
    in->z_open = inflateInit2(&in->z, EITHER_GZIP) == Z_OK;
    return in->z_open ? SCD_OK : scd_fail(err, SCD_E_NOMEM, "%s: out of memory", in->name);
}

/* Unpacks something into out[0 ... n); n = 0: the end. Members of gzip follow one another. */
static scd_code inflate_more(scd_text_in *in, scd_error *err)
{
    in->n = 0;
    while (in->n == 0) {
        scd_code code = fill_raw(in, err);
        if (code)
            return code;
        if (in->is_over)
            return in->z_done ? SCD_OK
                              : scd_text_in_fail(in, SCD_E_CORRUPT, err,
                                                 "cut off: its gzip stream does not end");
        if (in->z_done) {
            if (in->raw[in->raw_at] == 0) { /* padding of tapes */
                in->raw_at++;
                continue;
            }
            inflateReset(&in->z);
            in->z_done = false;
        }
        in->z.next_in = in->raw + in->raw_at;
        in->z.avail_in = (unsigned)(in->raw_n - in->raw_at);
        in->z.next_out = (unsigned char *)in->out;
        in->z.avail_out = OUT_BYTES;
        int status = inflate(&in->z, Z_NO_FLUSH);
        in->raw_at = in->raw_n - in->z.avail_in;
        in->n = OUT_BYTES - in->z.avail_out;
        in->z_done = status == Z_STREAM_END;
        if (status == Z_MEM_ERROR)
            return scd_fail(err, SCD_E_NOMEM, "%s: out of memory", in->name);
        if (status != Z_OK && status != Z_STREAM_END && status != Z_BUF_ERROR)
            return scd_text_in_fail(in, SCD_E_CORRUPT, err, "damaged gzip (%s)",
                                    in->z.msg ? in->z.msg : "no reason given");
    }
    return SCD_OK;
}

static scd_code more(scd_text_in *in, scd_error *err)
{
    scd_code code = in->is_started ? SCD_OK : start(in, err);
    if (code)
        return code;
    in->at = in->n = 0;
    if (in->is_packed) {
        code = inflate_more(in, err);
    } else if (!(code = fill_raw(in, err))) {
        in->n = in->is_over ? 0 : in->raw_n - in->raw_at;
        memcpy(in->out, in->raw + in->raw_at, in->n);
        in->raw_at = in->raw_n;
    }
    in->n_bytes += in->n;
    if (!code && in->n_bytes > in->max_bytes)
        return scd_text_in_fail(in, SCD_E_TOO_LARGE, err,
                                "unpacks to more than %" PRIu64 " bytes, the bound here",
                                in->max_bytes);
    return code;
}

/* ---- lines ---- */

/* What was found, without \r and, of the first line, without the byte order mark. */
static scd_code take(scd_text_in *in, char *text, size_t n, char **line, size_t *n_line,
                     scd_error *err)
{
    if (n && text[n - 1] == '\r')
        n--;
    text[n] = '\0';
    in->line++;
    if (in->line == 1 && n >= 3 && memcmp(text, "\xef\xbb\xbf", 3) == 0) {
        text += 3;
        n -= 3;
    }
    if (memchr(text, '\0', n))
        return scd_text_in_fail(in, SCD_E_INVALID, err, "not text: it has a NUL inside");
    *line = text;
    *n_line = n;
    return SCD_OK;
}

static scd_code too_long(scd_text_in *in, scd_error *err)
{
    in->line++;
    return scd_text_in_fail(in, SCD_E_TOO_LARGE, err, "longer than %d MB, or out of memory",
                            MAX_LINE_BYTES >> 20);
}

scd_code scd_text_in_line(scd_text_in *in, char **line, size_t *n, scd_error *err)
{
    scd_buf *whole = &in->long_line;
    scd_buf_clear(whole);
    *line = NULL;
    for (;;) {
        if (in->at == in->n) {
            scd_code code = more(in, err);
            if (code)
                return code;
            if (in->n == 0) /* a last line without an end */
                return whole->n_bytes ? take(in, whole->data, whole->n_bytes, line, n, err)
                                      : SCD_OK;
        }
        char *from = in->out + in->at, *end = memchr(from, '\n', in->n - in->at);
        size_t some = end ? (size_t)(end - from) : in->n - in->at;
        in->at += some + (end != NULL);
        if (end && whole->n_bytes == 0)
            return take(in, from, some, line, n, err);
        if (!scd_buf_append(whole, from, some) || (end && !scd_buf_reserve(whole, 1)))
            return too_long(in, err);
        if (end)
            return take(in, whole->data, whole->n_bytes, line, n, err);
    }
}

/* ---- files ---- */

scd_code scd_bytes_of_fd(void *arg, void *buf, size_t cap, size_t *n, scd_error *err)
{
    const int *fd = arg;
    for (;;) {
        ssize_t got = read(*fd, buf, cap);
        if (got < 0 && errno == EINTR)
            continue;
        *n = got > 0 ? (size_t)got : 0;
        return got < 0 ? scd_fail(err, SCD_E_IO, "cannot be read: %s", strerror(errno)) : SCD_OK;
    }
}

scd_code scd_text_in_peek(int fd, const char *path, char *out, size_t cap, size_t *n,
                          bool *is_packed, scd_error *err)
{
    scd_text_in *in = NULL;
    *n = 0;
    scd_code code = scd_text_in_new(scd_bytes_of_fd, &fd, path, UINT64_MAX, &in, err);
    while (!code && *n < cap) {
        if ((code = more(in, err)) || in->n == 0)
            break;
        size_t some = in->n < cap - *n ? in->n : cap - *n;
        memcpy(out + *n, in->out, some);
        *n += some;
    }
    *is_packed = in && in->is_packed;
    scd_text_in_free(in);
    return code;
}

/* ---- numbers ---- */

bool scd_number_read(const char *text, const char *end, double *out)
{
    uint64_t whole = 0;
    const char *at = text;
    while (at < end && end - text < 18 && *at >= '0' && *at <= '9')
        whole = whole * 10 + (uint64_t)(*at++ - '0');
    if (at == end && at > text) {
        *out = (double)whole;
        return true;
    }
    char *stopped;
    size_t n = (size_t)(end - text);
    if (n == 0 || n > 100 || *text == ' ' || memchr(text, 'x', n) || memchr(text, 'X', n))
        return false;
    *out = strtod(text, &stopped);
    return stopped == end && isfinite(*out);
}
