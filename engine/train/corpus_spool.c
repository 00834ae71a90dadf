/* corpus_spool.c - the barcodes of all files, in a temporary file.
 *
 * They are needed by the block, at random, for as long as the corpus lives: in memory they would be
 * a gigabyte for 59 million cells, and an h5ad gives its index only as a whole.
 *
 * Threads: one at a time. Owns: the file, which has no name and goes with its descriptor. */
#include "engine/train/corpus_impl.h"

#include "engine/base/buf.h"
#include "engine/base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { FLUSH_BYTES = 1 << 16 };

scd_code scd_spool_open(scd_spool *spool, scd_error *err)
{
    const char *dir = getenv("TMPDIR");
    char path[4096];
    *spool = (scd_spool){.fd = -1};
    if (!dir || !*dir)
        dir = "/tmp";
    if (snprintf(path, sizeof path, "%s/scdiva-barcodes-XXXXXX", dir) >= (int)sizeof path)
        return scd_fail(err, SCD_E_INVALID, "TMPDIR is longer than a path may be");
    spool->fd = mkostemp(path, O_CLOEXEC);
    if (spool->fd < 0)
        return scd_fail(err, SCD_E_IO, "%s: cannot make a temporary file: %s", dir,
                        strerror(errno));
    unlink(path);
    return SCD_OK;
}

void scd_spool_close(scd_spool *spool)
{
    if (spool->fd >= 0)
        close(spool->fd);
    *spool = (scd_spool){.fd = -1};
}

static scd_code flush(scd_spool *spool, scd_buf *buf, scd_error *err)
{
    size_t at = 0;
    if (buf->failed)
        return scd_fail(err, SCD_E_NOMEM, "out of memory for barcodes");
    while (at < buf->n_bytes) {
        ssize_t put = write(spool->fd, buf->data + at, buf->n_bytes - at);
        if (put < 0 && errno == EINTR)
            continue;
        if (put < 0)
            return scd_fail(err, SCD_E_IO, "cannot write barcodes to a temporary file: %s",
                            strerror(errno));
        at += (size_t)put;
    }
    spool->n_bytes += at;
    scd_buf_clear(buf);
    return SCD_OK;
}

scd_code scd_spool_add(scd_spool *spool, const char *const *texts, size_t n, uint64_t *marks,
                       scd_error *err)
{
    scd_code code = SCD_OK;
    scd_buf buf;
    scd_buf_init(&buf, SIZE_MAX / 2);
    for (size_t i = 0; i < n && !code; i++) {
        const char *text = texts[i] ? texts[i] : "";
        if (i % SCD_MARK_ROWS == 0)
            marks[i / SCD_MARK_ROWS] = spool->n_bytes + buf.n_bytes;
        scd_buf_append(&buf, text, strlen(text) + 1);
        if (buf.n_bytes >= FLUSH_BYTES || buf.failed)
            code = flush(spool, &buf, err);
    }
    if (!code)
        code = flush(spool, &buf, err);
    scd_buf_release(&buf);
    return code;
}

static scd_code read_bytes(const scd_spool *spool, uint64_t first, size_t n, char *out,
                           scd_error *err)
{
    for (size_t at = 0; at < n;) {
        ssize_t got = pread(spool->fd, out + at, n - at, (off_t)(first + at));
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return scd_fail(err, SCD_E_IO, "cannot read barcodes from a temporary file: %s",
                            got < 0 ? strerror(errno) : "it became shorter");
        at += (size_t)got;
    }
    return SCD_OK;
}

scd_code scd_spool_get(const scd_spool *spool, const uint64_t *marks, uint64_t end, size_t n_all,
                       size_t first, size_t n, scd_arena *arena, const char **out, scd_error *err)
{
    size_t mark = first / SCD_MARK_ROWS;
    size_t stop = (first + n + SCD_MARK_ROWS - 1) / SCD_MARK_ROWS; /* the mark behind them */
    uint64_t from = marks[mark];
    uint64_t to = stop * SCD_MARK_ROWS < n_all ? marks[stop] : end;
    size_t n_bytes = (size_t)(to - from);
    char *text = scd_arena_alloc(arena, n_bytes + 1, 1);
    if (!text)
        return scd_fail(err, SCD_E_NOMEM, "out of memory for %zu barcodes", n);
    scd_code code = read_bytes(spool, from, n_bytes, text, err);
    if (code)
        return code;
    for (size_t row = mark * SCD_MARK_ROWS; row < first + n; row++) {
        if (row >= first)
            out[row - first] = text;
        text += strlen(text) + 1;
    }
    return SCD_OK;
}
