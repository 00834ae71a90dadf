/* lengths.c - see lengths.h. */
#include "engine/model/lengths.h"

#include "engine/base/buf.h"
#include "engine/base/mem.h"
#include "engine/model/file.h"
#include "engine/model/tsv.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { MAX_BYTES = 8 * SCD_MAX_MODEL_LENGTHS, PATH_BYTES = 4400 };

static scd_code parse(const char *path, const char *text, size_t n_bytes, size_t most, size_t *out,
                      size_t *n, scd_error *err)
{
    scd_tsv tsv;
    scd_tsv_field field;
    size_t n_fields;
    scd_tsv_init(&tsv, text, n_bytes);
    if (!scd_tsv_next(&tsv, &field, 1, &n_fields) || n_fields != 1 || !scd_tsv_is(field, "tokens"))
        return scd_fail(err, SCD_E_CORRUPT, "%s: the first line must be \"tokens\"", path);
    while (scd_tsv_next(&tsv, &field, 1, &n_fields)) {
        int32_t length;
        if (n_fields != 1 || !scd_tsv_whole(field, (int32_t)most, &length) || length < 1)
            return scd_fail(err, SCD_E_CORRUPT, "%s, line %zu: must be a number from 1 to %zu",
                            path, tsv.line, most);
        if (*n == SCD_MAX_MODEL_LENGTHS)
            return scd_fail(err, SCD_E_CORRUPT, "%s: more than %d lengths", path,
                            (int)SCD_MAX_MODEL_LENGTHS);
        out[(*n)++] = (size_t)length;
    }
    return *n ? SCD_OK : scd_fail(err, SCD_E_CORRUPT, "%s: there is no length", path);
}

scd_code scd_lengths_read(const char *dir, size_t max_gene_len, size_t **out, size_t *n,
                          scd_error *err)
{
    char path[PATH_BYTES], *text = NULL;
    int fd = -1;
    size_t n_bytes = 0;
    *out = NULL;
    *n = 0;
    if ((size_t)snprintf(path, sizeof path, "%s/lengths.tsv", dir) >= sizeof path)
        return scd_fail(err, SCD_E_INVALID, "%.100s...: the path is too long", dir);
    if (access(path, F_OK) < 0 && errno == ENOENT)
        return SCD_OK;
    scd_code code = scd_file_open(path, &fd, &n_bytes, err);
    if (!code)
        code = scd_file_read(fd, path, MAX_BYTES, &text, &n_bytes, err);
    size_t *lengths = code ? NULL : scd_malloc(SCD_MAX_MODEL_LENGTHS, sizeof *lengths);
    if (!code && !lengths)
        code = scd_fail(err, SCD_E_NOMEM, "%s: out of memory", path);
    if (!code)
        code = parse(path, text, n_bytes, max_gene_len, lengths, n, err);
    if (fd >= 0)
        close(fd);
    free(text);
    if (code) {
        free(lengths);
        *n = 0;
        return code;
    }
    *out = lengths;
    return SCD_OK;
}

static int by_size(const void *a, const void *b)
{
    size_t x = *(const size_t *)a, y = *(const size_t *)b;
    return (x > y) - (x < y);
}

scd_code scd_lengths_write(const char *path, size_t *lengths, size_t n, scd_error *err)
{
    scd_buf out;
    scd_buf_init(&out, MAX_BYTES);
    scd_buf_puts(&out, "tokens\n");
    qsort(lengths, n, sizeof *lengths, by_size);
    size_t shown = n < SCD_LENGTH_QUANTILES ? n : SCD_LENGTH_QUANTILES;
    for (size_t i = 0; i < shown; i++)
        scd_buf_printf(&out, "%zu\n", lengths[shown > 1 ? i * (n - 1) / (shown - 1) : 0]);
    scd_code code = out.failed ? scd_fail(err, SCD_E_NOMEM, "%s: out of memory", path)
                               : scd_file_write(path, out.data, out.n_bytes, err);
    scd_buf_release(&out);
    return code;
}
