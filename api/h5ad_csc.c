/* h5ad_csc.c - a matrix stored by columns, read by rows.
 *
 * It is turned once, in bounded memory and with sequential reads and writes alone: count the
 * entries of each row; cut the rows into bands of some 32 MB; walk through the columns and append
 * every entry to its band's place in a temporary file; from then on a block of rows is in one or
 * two bands, sorted when they are loaded. A matrix of one band never touches the disk.
 *
 * Memory: 8 bytes a row, 16 KB a band, one band. Disk: 16 bytes an entry, in $TMPDIR or /tmp, gone
 * with the process whatever happens to it.
 *
 * Threads: as the file. Owns: the bands, until scd_h5_bands_free. */
#include "api/h5ad_impl.h"

#include "engine/base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { BAND_ENTRIES = 2 << 20, BUFFERED = 1024, WINDOW = 4096 };

struct entry {
    uint32_t row, col;
    double value;
};

struct scd_h5_bands {
    uint64_t *row_start; /* (rows + 1) entries before each row */
    size_t n, cap;
    size_t *first_row;     /* (n + 1) */
    int fd;                /* entries in order of band, then column; -1: all are in the one band */
    struct entry *entries; /* of one band, in order of column */
    size_t loaded;         /* band whose entries are sorted below; SIZE_MAX: none */
    uint32_t *cols;
    double *values;
};

void scd_h5_bands_free(scd_h5_bands *bands)
{
    if (!bands)
        return;
    if (bands->fd >= 0)
        close(bands->fd);
    free(bands->values);
    free(bands->cols);
    free(bands->entries);
    free(bands->first_row);
    free(bands->row_start);
    free(bands);
}

static uint64_t band_start(const scd_h5_bands *bands, size_t band)
{
    return bands->row_start[bands->first_row[band]];
}

static size_t band_of(const scd_h5_bands *bands, size_t row)
{
    size_t low = 0, high = bands->n;
    while (high - low > 1) {
        size_t middle = low + (high - low) / 2;
        if (bands->first_row[middle] <= row)
            low = middle;
        else
            high = middle;
    }
    return low;
}

/* ---- turning ---- */

static scd_code count_rows(const scd_h5ad *file, const scd_h5_matrix *m, scd_h5_bands *bands,
                           scd_error *err)
{
    scd_code code = SCD_OK;
    uint32_t *rows = scd_malloc(SCD_H5_BATCH, sizeof *rows);
    if (!rows)
        return scd_h5_no_memory(file, m->path, err);
    for (uint64_t at = 0; at < m->facts.n_stored && !code; at += SCD_H5_BATCH) {
        uint64_t left = m->facts.n_stored - at;
        size_t some = left < SCD_H5_BATCH ? (size_t)left : SCD_H5_BATCH;
        code = scd_h5_indices(file, m, at, some, m->facts.rows, rows, err);
        for (size_t i = 0; i < some && !code; i++)
            bands->row_start[rows[i] + 1]++;
    }
    for (size_t row = 0; row < m->facts.rows; row++)
        bands->row_start[row + 1] += bands->row_start[row];
    free(rows);
    return code;
}

/* A band ends before the row that would make it larger than BAND_ENTRIES, and has one row at
 * least. */
static scd_code cut_bands(const scd_h5ad *file, const scd_h5_matrix *m, scd_h5_bands *bands,
                          scd_error *err)
{
    size_t largest = 0;
    for (size_t row = 0; row < m->facts.rows || bands->n == 0;) {
        if (bands->n + 2 > bands->cap) {
            size_t cap = bands->cap ? bands->cap * 2 : 8;
            size_t *grown = scd_realloc(bands->first_row, cap, sizeof *grown);
            if (!grown)
                return scd_h5_no_memory(file, m->path, err);
            bands->first_row = grown;
            bands->cap = cap;
        }
        bands->first_row[bands->n++] = row;
        uint64_t start = bands->row_start[row];
        size_t end = row < m->facts.rows ? row + 1 : row;
        while (end < m->facts.rows && bands->row_start[end + 1] - start <= BAND_ENTRIES)
            end++;
        if (bands->row_start[end] - start > largest)
            largest = bands->row_start[end] - start;
        row = end;
        bands->first_row[bands->n] = end;
    }
    bands->entries = scd_malloc(largest + 1, sizeof *bands->entries);
    bands->cols = scd_malloc(largest + 1, sizeof *bands->cols);
    bands->values = scd_malloc(largest + 1, sizeof *bands->values);
    if (!bands->entries || !bands->cols || !bands->values)
        return scd_h5_no_memory(file, m->path, err);
    return SCD_OK;
}

static scd_code open_temporary(const scd_h5ad *file, const scd_h5_matrix *m, scd_h5_bands *bands,
                               scd_error *err)
{
    char path[SCD_H5_PATH_BYTES];
    const char *folder = getenv("TMPDIR");
    if (!folder || !folder[0])
        folder = "/tmp";
    uint64_t n_bytes = m->facts.n_stored * sizeof(struct entry);
    int n = snprintf(path, sizeof path, "%s/scdiva-XXXXXX", folder);
    bands->fd = n > 0 && (size_t)n < sizeof path ? mkostemp(path, O_CLOEXEC) : -1;
    int failed = bands->fd < 0 ? errno : 0;
    if (!failed) {
        unlink(path);
        failed = posix_fallocate(bands->fd, 0, (off_t)n_bytes);
    }
    if (failed)
        return scd_h5_fail(file, m->path, SCD_E_IO, err,
                           "stored by columns: turning it needs %" PRIu64 " MB in %s ($TMPDIR): %s",
                           n_bytes >> 20, folder, strerror(failed));
    return SCD_OK;
}

static bool write_all(int fd, const void *bytes, size_t n, uint64_t offset)
{
    for (const char *at = bytes; n;) {
        ssize_t wrote = pwrite(fd, at, n, (off_t)offset);
        if (wrote < 0 && errno == EINTR)
            continue;
        if (wrote <= 0)
            return false;
        at += wrote;
        n -= (size_t)wrote;
        offset += (uint64_t)wrote;
    }
    return true;
}

static bool read_all(int fd, void *bytes, size_t n, uint64_t offset)
{
    for (char *at = bytes; n;) {
        ssize_t got = pread(fd, at, n, (off_t)offset);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return false;
        at += got;
        n -= (size_t)got;
        offset += (uint64_t)got;
    }
    return true;
}

/* What is being written: a buffer for each band, and how much of the band is on disk. */
struct writer {
    struct entry *buffers; /* (n bands, BUFFERED) */
    size_t *buffered;      /* (n bands) */
    uint64_t *written;     /* (n bands) */
};

static bool flush(const scd_h5_bands *bands, struct writer *w, size_t band)
{
    uint64_t at = band_start(bands, band) + w->written[band];
    size_t n = w->buffered[band];
    w->written[band] += n;
    w->buffered[band] = 0;
    return write_all(bands->fd, w->buffers + band * BUFFERED, n * sizeof *w->buffers,
                     at * sizeof *w->buffers);
}

static bool put(scd_h5_bands *bands, struct writer *w, struct entry entry)
{
    if (bands->fd < 0) {
        bands->entries[w->written[0]++] = entry;
        return true;
    }
    size_t band = band_of(bands, entry.row);
    w->buffers[band * BUFFERED + w->buffered[band]++] = entry;
    return w->buffered[band] < BUFFERED || flush(bands, w, band);
}

/* Walks through the columns; `window` holds indptr of WINDOW of them. */
static scd_code scatter(const scd_h5ad *file, const scd_h5_matrix *m, scd_h5_bands *bands,
                        struct writer *w, scd_error *err)
{
    scd_code code = SCD_OK;
    uint32_t *rows = scd_malloc(SCD_H5_BATCH, sizeof *rows);
    double *values = scd_malloc(SCD_H5_BATCH, sizeof *values);
    uint64_t *window = scd_malloc(WINDOW + 1, sizeof *window);
    size_t col = 0, at_window = 0, n_window = 0;
    if (!rows || !values || !window) {
        code = scd_h5_no_memory(file, m->path, err);
        goto done;
    }
    for (uint64_t at = 0; at < m->facts.n_stored; at += SCD_H5_BATCH) {
        uint64_t left = m->facts.n_stored - at;
        size_t some = left < SCD_H5_BATCH ? (size_t)left : SCD_H5_BATCH;
        if ((code = scd_h5_indices(file, m, at, some, m->facts.rows, rows, err)) ||
            (code = scd_h5_read(file, &m->data, SCD_H5_DOUBLE, at, some, values, err)))
            goto done;
        for (size_t i = 0; i < some; i++) {
            while (n_window == 0 || window[col - at_window + 1] <= at + i) {
                col += n_window != 0;
                if (n_window && col < at_window + n_window)
                    continue;
                at_window = col;
                n_window = m->facts.cols - col < WINDOW ? m->facts.cols - col : WINDOW;
                if ((code = scd_h5_indptr(file, m, at_window, n_window, window, err)))
                    goto done;
            }
            if (!put(bands, w, (struct entry){rows[i], (uint32_t)col, values[i]})) {
                code = scd_h5_fail(file, m->path, SCD_E_IO, err, "temporary file: %s",
                                   strerror(errno));
                goto done;
            }
        }
    }
    for (size_t band = 0; bands->fd >= 0 && band < bands->n; band++)
        if (!flush(bands, w, band)) {
            code = scd_h5_fail(file, m->path, SCD_E_IO, err, "temporary file: %s", strerror(errno));
            goto done;
        }

done:
    free(window);
    free(values);
    free(rows);
    return code;
}

static scd_code turn(const scd_h5ad *file, scd_h5_matrix *m, scd_error *err)
{
    scd_code code = SCD_OK;
    struct writer w = {0};
    scd_h5_bands *bands = scd_calloc(1, sizeof *bands);
    if (!bands)
        return scd_h5_no_memory(file, m->path, err);
    bands->fd = -1;
    bands->loaded = SIZE_MAX;
    bands->row_start = scd_calloc(m->facts.rows + 1, sizeof *bands->row_start);
    if (!bands->row_start) {
        code = scd_h5_no_memory(file, m->path, err);
        goto done;
    }
    if ((code = count_rows(file, m, bands, err)) || (code = cut_bands(file, m, bands, err)) ||
        (bands->n > 1 && (code = open_temporary(file, m, bands, err))))
        goto done;
    if (bands->n > 1)
        w.buffers = scd_malloc(bands->n, BUFFERED * sizeof *w.buffers);
    w.buffered = scd_calloc(bands->n, sizeof *w.buffered);
    w.written = scd_calloc(bands->n, sizeof *w.written);
    if ((bands->n > 1 && !w.buffers) || !w.buffered || !w.written) {
        code = scd_h5_no_memory(file, m->path, err);
        goto done;
    }
    if ((code = scatter(file, m, bands, &w, err)))
        goto done;
    m->bands = bands;
    bands = NULL;

done:
    free(w.written);
    free(w.buffered);
    free(w.buffers);
    scd_h5_bands_free(bands);
    return code;
}

/* ---- reading ---- */

/* Sorts a band by row; entries of a row stay in order of column. */
static scd_code load(const scd_h5ad *file, const scd_h5_matrix *m, scd_h5_bands *bands, size_t band,
                     scd_error *err)
{
    if (bands->loaded == band)
        return SCD_OK;
    bands->loaded = SIZE_MAX;
    size_t first = bands->first_row[band], n_rows = bands->first_row[band + 1] - first;
    uint64_t start = band_start(bands, band);
    size_t n = bands->row_start[first + n_rows] - start;
    uint64_t *to = scd_malloc(n_rows + 1, sizeof *to);
    if (!to)
        return scd_h5_no_memory(file, m->path, err);
    if (bands->fd >= 0 && !read_all(bands->fd, bands->entries, n * sizeof *bands->entries,
                                    start * sizeof *bands->entries)) {
        free(to);
        return scd_h5_fail(file, m->path, SCD_E_IO, err, "temporary file: %s", strerror(errno));
    }
    for (size_t row = 0; row < n_rows; row++)
        to[row] = bands->row_start[first + row] - start;
    for (size_t i = 0; i < n; i++) {
        const struct entry *e = bands->entries + i;
        uint64_t at = to[e->row - first]++;
        bands->cols[at] = e->col;
        bands->values[at] = e->value;
    }
    free(to);
    bands->loaded = band;
    return SCD_OK;
}

scd_code scd_h5_csc_read(const scd_h5ad *file, scd_h5_matrix *m, size_t first, size_t n,
                         scd_arena *arena, scd_h5ad_rows *out, scd_error *err)
{
    scd_code code = m->bands ? SCD_OK : turn(file, m, err);
    if (code)
        return code;
    scd_h5_bands *bands = m->bands;
    const uint64_t *row_start = bands->row_start;
    uint64_t n_entries = row_start[first + n] - row_start[first], to = 0;
    uint64_t *indptr = scd_arena_alloc(arena, n + 1, sizeof *indptr);
    uint32_t *cols = scd_arena_alloc(arena, n_entries, sizeof *cols);
    double *values = scd_arena_alloc(arena, n_entries, sizeof *values);
    if (!indptr || !cols || !values)
        return scd_h5_no_memory(file, m->path, err);
    for (size_t row = first; row < first + n; row++) {
        size_t band = band_of(bands, row), n_row = row_start[row + 1] - row_start[row];
        if ((code = load(file, m, bands, band, err)))
            return code;
        uint64_t from = row_start[row] - band_start(bands, band);
        indptr[row - first] = to;
        if (n_row == 0)
            continue;
        memcpy(cols + to, bands->cols + from, n_row * sizeof *cols);
        memcpy(values + to, bands->values + from, n_row * sizeof *values);
        if ((n_row = scd_h5_row_tidy(cols + to, values + to, n_row)) == SIZE_MAX)
            return scd_h5_no_memory(file, m->path, err);
        to += n_row;
    }
    indptr[n] = to;
    *out = (scd_h5ad_rows){n, indptr, cols, values};
    return SCD_OK;
}
