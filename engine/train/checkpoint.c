/* checkpoint.c - see checkpoint.h.
 *
 * Layout, in the machine's byte order (a checkpoint does not travel): magic, fingerprint, step,
 * drawn, numbers, count and lengths of the arrays, the arrays, SHA-256. The hash is checked before
 * anything else is believed, so that damage is not taken for another run.
 *
 * Threads: any; no state. */
#include "engine/train/checkpoint.h"

#include "engine/base/mem.h"
#include "engine/model/file.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct head {
    char magic[8];
    uint8_t fingerprint[SCD_DIGEST_BYTES];
    uint64_t step, drawn;
    double numbers[SCD_CHECKPOINT_NUMBERS];
    uint64_t n_arrays;
    uint64_t lengths[SCD_CHECKPOINT_ARRAYS];
} head;

_Static_assert(sizeof(head) ==
                   8 + 32 + 16 + 8 * SCD_CHECKPOINT_NUMBERS + 8 + 8 * SCD_CHECKPOINT_ARRAYS,
               "no padding goes into the file");

static const char magic[8] = "scdckpt1";
enum { CHUNK_BYTES = 1 << 20 };

/* ---- writing --------------------------------------------------------------------------------- */

static scd_code put(scd_file_writer *writer, scd_hasher *hasher, const void *bytes, size_t n,
                    scd_error *err)
{
    scd_hasher_add(hasher, bytes, n);
    return scd_file_writer_add(writer, bytes, n, err);
}

scd_code scd_checkpoint_write(const char *path, const scd_checkpoint *c, scd_error *err)
{
    head h = {.step = c->step, .drawn = c->drawn, .n_arrays = c->n_arrays};
    scd_file_writer writer = {.fd = -1};
    scd_hasher *hasher = scd_hasher_new();
    scd_code code = hasher ? scd_file_writer_open(&writer, path, err)
                           : scd_fail(err, SCD_E_NOMEM, "%s: out of memory", path);
    memcpy(h.magic, magic, sizeof h.magic);
    memcpy(h.fingerprint, c->fingerprint.bytes, sizeof h.fingerprint);
    memcpy(h.numbers, c->numbers, sizeof h.numbers);
    for (size_t i = 0; i < c->n_arrays; i++)
        h.lengths[i] = c->arrays[i].n;
    if (code || (code = put(&writer, hasher, &h, sizeof h, err)))
        goto done;
    for (size_t i = 0; i < c->n_arrays; i++)
        if ((code = put(&writer, hasher, c->arrays[i].data, c->arrays[i].n * sizeof(float), err)))
            goto done;
    scd_digest digest = scd_hasher_finish(hasher);
    if ((code = scd_file_writer_add(&writer, digest.bytes, sizeof digest.bytes, err)))
        goto done;
    code = scd_file_writer_commit(&writer, err);

done:
    scd_file_writer_abandon(&writer);
    scd_hasher_free(hasher);
    return code;
}

/* ---- reading --------------------------------------------------------------------------------- */

/* Exactly n bytes from `at`. */
static scd_code get(int fd, const char *path, size_t at, void *out, size_t n, scd_error *err)
{
    char *to = out;
    while (n) {
        ssize_t got = pread(fd, to, n, (off_t)at);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return scd_fail(err, SCD_E_IO, "%s: cannot read: %s", path, strerror(errno));
        if (got == 0)
            return scd_fail(err, SCD_E_CORRUPT, "%s: became shorter while it was read", path);
        to += got;
        at += (size_t)got;
        n -= (size_t)got;
    }
    return SCD_OK;
}

/* The last 32 bytes are the hash of the others. */
static scd_code check_hash(int fd, const char *path, size_t n_bytes, scd_error *err)
{
    uint8_t expected[SCD_DIGEST_BYTES];
    size_t n = n_bytes - sizeof expected;
    scd_hasher *hasher = scd_hasher_new();
    char *chunk = scd_malloc(CHUNK_BYTES, 1);
    scd_code code = SCD_OK;
    if (!hasher || !chunk)
        code = scd_fail(err, SCD_E_NOMEM, "%s: out of memory", path);
    for (size_t at = 0; !code && at < n; at += CHUNK_BYTES) {
        size_t part = n - at < CHUNK_BYTES ? n - at : CHUNK_BYTES;
        if (!(code = get(fd, path, at, chunk, part, err)))
            scd_hasher_add(hasher, chunk, part);
    }
    if (!code && !(code = get(fd, path, n, expected, sizeof expected, err))) {
        scd_digest digest = scd_hasher_finish(hasher);
        if (memcmp(digest.bytes, expected, sizeof expected))
            code = scd_fail(err, SCD_E_CORRUPT,
                            "%s: the checkpoint is damaged or cut short; remove it to start anew",
                            path);
    }
    free(chunk);
    scd_hasher_free(hasher);
    return code;
}

static scd_code check_head(const head *h, const char *path, size_t n_bytes, const scd_checkpoint *c,
                           scd_error *err)
{
    size_t expected = sizeof *h + SCD_DIGEST_BYTES;
    if (memcmp(h->magic, magic, sizeof magic) || h->n_arrays > SCD_CHECKPOINT_ARRAYS)
        return scd_fail(err, SCD_E_CORRUPT, "%s: is not a checkpoint of this version", path);
    bool same = !memcmp(h->fingerprint, c->fingerprint.bytes, sizeof h->fingerprint) &&
                h->n_arrays == c->n_arrays;
    for (size_t i = 0; i < h->n_arrays; i++) {
        same = same && h->lengths[i] == c->arrays[i].n;
        expected += (size_t)h->lengths[i] * sizeof(float);
    }
    if (!same)
        return scd_fail(err, SCD_E_INVALID,
                        "%s: belongs to another run (other options, model or data); give the "
                        "options of that run to resume it, or remove the file, or choose another "
                        "--out",
                        path);
    if (expected != n_bytes)
        return scd_fail(err, SCD_E_CORRUPT, "%s: %zu bytes, must be %zu", path, n_bytes, expected);
    return SCD_OK;
}

scd_code scd_checkpoint_read(const char *path, scd_checkpoint *c, scd_error *err)
{
    head h;
    int fd;
    size_t n_bytes, at = sizeof h;
    if (access(path, F_OK) < 0 && errno == ENOENT)
        return scd_fail(err, SCD_E_NOT_FOUND, "%s: no such file", path);
    scd_code code = scd_file_open(path, &fd, &n_bytes, err);
    if (code)
        return code;
    if (n_bytes < sizeof h + SCD_DIGEST_BYTES)
        code = scd_fail(err, SCD_E_CORRUPT,
                        "%s: the checkpoint is cut short; remove it to start "
                        "anew",
                        path);
    if (code || (code = check_hash(fd, path, n_bytes, err)) ||
        (code = get(fd, path, 0, &h, sizeof h, err)) ||
        (code = check_head(&h, path, n_bytes, c, err)))
        goto done;
    c->step = h.step;
    c->drawn = h.drawn;
    memcpy(c->numbers, h.numbers, sizeof h.numbers);
    for (size_t i = 0; i < c->n_arrays && !code; i++) {
        size_t bytes = c->arrays[i].n * sizeof(float);
        code = get(fd, path, at, c->arrays[i].data, bytes, err);
        at += bytes;
    }

done:
    close(fd);
    return code;
}
