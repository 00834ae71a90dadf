/* bands.c - see bands.h. */
#include "api/bands.h"

#include "api/cells_impl.h"
#include "engine/base/fd.h"
#include "engine/base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { BAND_ENTRIES = 2 << 20, BUFFERED = 1024, MAX_PATH_BYTES = 1024 };

struct scd_bands {
    char *what;
    uint64_t *row_start; /* (rows + 1) entries before each row */
    size_t rows, n, cap;
    size_t *first_row;  /* (n + 1) */
    int fd;             /* entries by band, in order of put; -1: all are in the one band */
    scd_entry *entries; /* of one band */
    size_t loaded;      /* band whose entries are sorted below; SIZE_MAX: none */
    uint32_t *cols;
    double *values;

    scd_entry *buffers; /* (n, BUFFERED) until end */
    size_t *buffered;   /* (n) */
    uint64_t *written;  /* (n) */
};

static scd_code no_memory(const scd_bands *bands, scd_error *err)
{
    return scd_fail(err, SCD_E_NOMEM, "%s: out of memory, or more than the caller allows for it",
                    bands->what);
}

static scd_code io_failed(const scd_bands *bands, scd_error *err)
{
    return scd_fail(err, SCD_E_IO, "%s: temporary file: %s", bands->what, strerror(errno));
}

/* Counted once and put once, and the two do not agree. */
static scd_code changed(const scd_bands *bands, scd_error *err)
{
    return scd_fail(err, SCD_E_CORRUPT, "%s: the file changed while it was read", bands->what);
}

/* ---- temporary files ---- */

int scd_temporary_open(const char **folder)
{
    char path[MAX_PATH_BYTES];
    *folder = getenv("TMPDIR");
    if (!*folder || !(*folder)[0])
        *folder = "/tmp";
    int n = snprintf(path, sizeof path, "%s/scdiva-XXXXXX", *folder);
    if (n < 0 || (size_t)n >= sizeof path) {
        errno = ENAMETOOLONG;
        return -1;
    }
    int fd = mkostemp(path, O_CLOEXEC);
    if (fd >= 0)
        unlink(path);
    return fd;
}

/* ---- bands ---- */

static uint64_t band_start(const scd_bands *bands, size_t band)
{
    return bands->row_start[bands->first_row[band]];
}

static size_t band_of(const scd_bands *bands, size_t row)
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

/* A band ends before the row that would make it larger than BAND_ENTRIES, and has one row at
 * least. */
static scd_code cut(scd_bands *bands, scd_error *err)
{
    size_t largest = 0;
    for (size_t row = 0; row < bands->rows || bands->n == 0;) {
        if (bands->n + 2 > bands->cap) {
            size_t cap = bands->cap ? bands->cap * 2 : 8;
            size_t *grown = scd_realloc(bands->first_row, cap, sizeof *grown);
            if (!grown)
                return no_memory(bands, err);
            bands->first_row = grown;
            bands->cap = cap;
        }
        bands->first_row[bands->n++] = row;
        uint64_t start = bands->row_start[row];
        size_t end = row < bands->rows ? row + 1 : row;
        while (end < bands->rows && bands->row_start[end + 1] - start <= BAND_ENTRIES)
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
        return no_memory(bands, err);
    return SCD_OK;
}

static scd_code open_file(scd_bands *bands, scd_error *err)
{
    const char *folder;
    uint64_t n_bytes = bands->row_start[bands->rows] * sizeof(scd_entry);
    bands->fd = scd_temporary_open(&folder);
    int failed = bands->fd < 0 ? errno : posix_fallocate(bands->fd, 0, (off_t)n_bytes);
    if (failed)
        return scd_fail(err, SCD_E_IO,
                        "%s: turning it by cells needs %" PRIu64 " MB in %s ($TMPDIR): %s",
                        bands->what, n_bytes >> 20, folder, strerror(failed));
    return SCD_OK;
}

scd_code scd_bands_new(uint64_t *row_start, size_t rows, const char *what, scd_bands **out,
                       scd_error *err)
{
    scd_bands *bands = scd_calloc(1, sizeof *bands);
    if (!bands || !(bands->what = scd_strdup(what))) {
        free(bands);
        free(row_start);
        return scd_fail(err, SCD_E_NOMEM, "%s: out of memory", what);
    }
    bands->fd = -1;
    bands->loaded = SIZE_MAX;
    bands->rows = rows;
    bands->row_start = row_start;
    for (size_t row = 0; row < rows; row++)
        row_start[row + 1] += row_start[row];
    scd_code code = cut(bands, err);
    if (!code && bands->n > 1)
        code = open_file(bands, err);
    if (!code && bands->n > 1 &&
        !(bands->buffers = scd_malloc(bands->n, BUFFERED * sizeof *bands->buffers)))
        code = no_memory(bands, err);
    bands->buffered = scd_calloc(bands->n, sizeof *bands->buffered);
    bands->written = scd_calloc(bands->n, sizeof *bands->written);
    if (!code && (!bands->buffered || !bands->written))
        code = no_memory(bands, err);
    if (code) {
        scd_bands_free(bands);
        return code;
    }
    *out = bands;
    return SCD_OK;
}

static void release_buffers(scd_bands *bands)
{
    free(bands->written);
    free(bands->buffered);
    free(bands->buffers);
    bands->written = NULL;
    bands->buffered = NULL;
    bands->buffers = NULL;
}

void scd_bands_free(scd_bands *bands)
{
    if (!bands)
        return;
    if (bands->fd >= 0)
        close(bands->fd);
    release_buffers(bands);
    free(bands->values);
    free(bands->cols);
    free(bands->entries);
    free(bands->first_row);
    free(bands->row_start);
    free(bands->what);
    free(bands);
}

/* ---- writing ---- */

static bool flush(scd_bands *bands, size_t band)
{
    uint64_t at = band_start(bands, band) + bands->written[band];
    size_t n = bands->buffered[band];
    bands->written[band] += n;
    bands->buffered[band] = 0;
    return scd_pwrite_all(bands->fd, bands->buffers + band * BUFFERED, n * sizeof *bands->buffers,
                          at * sizeof *bands->buffers);
}

scd_code scd_bands_put(scd_bands *bands, scd_entry entry, scd_error *err)
{
    size_t band = band_of(bands, entry.row);
    if (bands->written[band] + bands->buffered[band] ==
        band_start(bands, band + 1) - band_start(bands, band))
        return changed(bands, err);
    if (bands->fd < 0) {
        bands->entries[bands->written[0]++] = entry;
        return SCD_OK;
    }
    bands->buffers[band * BUFFERED + bands->buffered[band]++] = entry;
    if (bands->buffered[band] == BUFFERED && !flush(bands, band))
        return io_failed(bands, err);
    return SCD_OK;
}

scd_code scd_bands_end(scd_bands *bands, scd_error *err)
{
    scd_code code = SCD_OK;
    for (size_t band = 0; bands->fd >= 0 && band < bands->n && !code; band++)
        if (!flush(bands, band))
            code = io_failed(bands, err);
    release_buffers(bands);
    return code;
}

/* ---- reading ---- */

/* Sorts a band by row; entries of a row stay in the order of put. */
static scd_code load(scd_bands *bands, size_t band, scd_error *err)
{
    if (bands->loaded == band)
        return SCD_OK;
    bands->loaded = SIZE_MAX;
    size_t first = bands->first_row[band], n_rows = bands->first_row[band + 1] - first;
    uint64_t start = band_start(bands, band);
    size_t n = bands->row_start[first + n_rows] - start;
    uint64_t *to = scd_malloc(n_rows + 1, sizeof *to);
    if (!to)
        return no_memory(bands, err);
    if (bands->fd >= 0 && !scd_pread_all(bands->fd, bands->entries, n * sizeof *bands->entries,
                                         start * sizeof *bands->entries)) {
        free(to);
        return io_failed(bands, err);
    }
    for (size_t row = 0; row < n_rows; row++)
        to[row] = bands->row_start[first + row] - start;
    for (size_t i = 0; i < n; i++) {
        const scd_entry *e = bands->entries + i;
        uint64_t at = to[e->row - first]++;
        if (at >= n) {
            free(to);
            return changed(bands, err);
        }
        bands->cols[at] = e->col;
        bands->values[at] = e->value;
    }
    free(to);
    bands->loaded = band;
    return SCD_OK;
}

scd_code scd_bands_read(scd_bands *bands, size_t first, size_t n, scd_arena *arena,
                        scd_cells_rows *out, scd_error *err)
{
    scd_code code;
    const uint64_t *row_start = bands->row_start;
    uint64_t n_entries = row_start[first + n] - row_start[first], to = 0;
    uint64_t *indptr = scd_arena_alloc(arena, n + 1, sizeof *indptr);
    uint32_t *cols = scd_arena_alloc(arena, n_entries, sizeof *cols);
    double *values = scd_arena_alloc(arena, n_entries, sizeof *values);
    if (!indptr || !cols || !values)
        return no_memory(bands, err);
    for (size_t row = first; row < first + n; row++) {
        size_t band = band_of(bands, row), n_row = row_start[row + 1] - row_start[row];
        if ((code = load(bands, band, err)))
            return code;
        uint64_t from = row_start[row] - band_start(bands, band);
        indptr[row - first] = to;
        if (n_row == 0)
            continue;
        memcpy(cols + to, bands->cols + from, n_row * sizeof *cols);
        memcpy(values + to, bands->values + from, n_row * sizeof *values);
        if ((n_row = scd_cells_row_tidy(cols + to, values + to, n_row)) == SIZE_MAX)
            return no_memory(bands, err);
        to += n_row;
    }
    indptr[n] = to;
    *out = (scd_cells_rows){n, indptr, cols, values};
    return SCD_OK;
}
