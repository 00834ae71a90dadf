/* cells.c - see cells.h: which format a file has, and the way to its reader. */
#include "api/cells_impl.h"

#include "api/text_in.h"
#include "engine/base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { HEAD_BYTES = 512 };

/* ---- which format ---- */

typedef enum kind { HDF5, ARCHIVE, FOLDER, TABLE, MARKET, UNKNOWN } kind;

typedef struct head {
    char bytes[HEAD_BYTES]; /* the first ones, unpacked where the file is gzip */
    size_t n;
    bool is_packed;
} head;

static bool begins(const head *h, const char *with, size_t n)
{
    return h->n >= n && memcmp(h->bytes, with, n) == 0;
}

/* HDF5 may stand behind a block of the user's own, of 512 bytes or a power of two of that. */
static bool is_hdf5(const char *path, const head *h)
{
    static const char signature[] = "\x89HDF\r\n\x1a\n";
    char at[8];
    if (begins(h, signature, 8))
        return true;
    int fd = h->n < HEAD_BYTES ? -1 : open(path, O_RDONLY | O_CLOEXEC);
    bool found = false;
    for (off_t offset = HEAD_BYTES; fd >= 0 && offset < 1 << 26 && !found; offset *= 2) {
        if (pread(fd, at, sizeof at, offset) != sizeof at)
            break;
        found = memcmp(at, signature, sizeof at) == 0;
    }
    if (fd >= 0)
        close(fd);
    return found;
}

/* Another compression than gzip, by its name; NULL: none that is known. */
static const char *packed_with(const head *h)
{
    static const struct {
        const char *magic;
        size_t n;
        const char *name;
    } known[] = {{"BZh", 3, "bzip2"},
                 {"\xfd"
                  "7zXZ",
                  5, "xz"},
                 {"\x28\xb5\x2f\xfd", 4, "zstd"},
                 {"7z\xbc\xaf", 4, "7-Zip"},
                 {"Rar!", 4, "RAR"}};
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (begins(h, known[i].magic, known[i].n))
            return known[i].name;
    return NULL;
}

static bool is_text(const head *h)
{
    for (size_t i = 0; i < h->n; i++) {
        unsigned char c = (unsigned char)h->bytes[i];
        if (c < ' ' && c != '\t' && c != '\n' && c != '\r')
            return false;
    }
    return h->n > 0;
}

static kind kind_of(const char *path, const head *h)
{
    if (!h->is_packed && is_hdf5(path, h))
        return HDF5;
    if (!h->is_packed && (begins(h, "PK\3\4", 4) || begins(h, "PK\5\6", 4)))
        return ARCHIVE;
    if (h->n > 262 && memcmp(h->bytes + 257, "ustar", 5) == 0)
        return ARCHIVE;
    if (begins(h, "%%MatrixMarket", 14))
        return MARKET;
    return is_text(h) ? TABLE : UNKNOWN;
}

static scd_code look(const char *path, head *h, bool *is_folder, scd_error *err)
{
    struct stat facts;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    scd_code code = SCD_OK;
    *h = (head){.n = 0};
    *is_folder = false;
    if (fd < 0 || fstat(fd, &facts)) {
        code = scd_fail(err, SCD_E_IO, "%s: cannot be opened: %s", path, strerror(errno));
        goto done;
    }
    *is_folder = S_ISDIR(facts.st_mode);
    if (*is_folder)
        goto done;
    if (!S_ISREG(facts.st_mode)) {
        code = scd_fail(err, SCD_E_IO, "%s: not a file", path);
        goto done;
    }
    if (facts.st_size == 0) {
        code = scd_fail(err, SCD_E_CORRUPT, "%s: empty", path);
        goto done;
    }
    code = scd_text_in_peek(fd, path, h->bytes, sizeof h->bytes, &h->n, &h->is_packed, err);

done:
    if (fd >= 0)
        close(fd);
    return code;
}

static scd_code refuse(const char *path, const head *h, kind k, scd_error *err)
{
    const char *packed = packed_with(h);
    if (packed)
        return scd_fail(err, SCD_E_INVALID, "%s: compressed with %s: unpack it, or use gzip", path,
                        packed);
    if (k == MARKET)
        return scd_fail(err, SCD_E_INVALID,
                        "%s: a matrix without its names: give the folder, .zip or .tar.gz that "
                        "holds it beside barcodes.tsv and features.tsv (or genes.tsv)",
                        path);
    return scd_fail(err, SCD_E_INVALID,
                    "%s: of no known format; read are .h5ad, 10x Genomics .h5 and MEX (folder, "
                    ".zip, .tar.gz), .csv and .tsv",
                    path);
}

static scd_code open_kind(const char *path, const head *h, bool is_folder, scd_cells *cells,
                          scd_error *err)
{
    kind k = is_folder ? FOLDER : kind_of(path, h);
    switch (k) {
    case HDF5:
        cells->ops = &scd_h5_cells_ops;
        return scd_h5_cells_open(path, NULL, 0, &cells->self, err);
    case ARCHIVE:
    case FOLDER:
        cells->ops = &scd_text_cells_ops;
        return scd_mex_open(path, is_folder, &cells->self, err);
    case TABLE:
        cells->ops = &scd_text_cells_ops;
        return scd_table_open(path, &cells->self, err);
    default:
        return refuse(path, h, k, err);
    }
}

scd_code scd_cells_open(const char *path, scd_cells **out, scd_error *err)
{
    head h;
    bool is_folder;
    scd_code code = look(path, &h, &is_folder, err);
    if (code)
        return code;
    scd_cells *cells = scd_calloc(1, sizeof *cells);
    if (!cells)
        return scd_fail(err, SCD_E_NOMEM, "%s: out of memory", path);
    code = open_kind(path, &h, is_folder, cells, err);
    if (code) {
        free(cells);
        return code;
    }
    *out = cells;
    return SCD_OK;
}

scd_code scd_cells_open_image(const void *bytes, size_t n, const char *name, scd_cells **out,
                              scd_error *err)
{
    scd_cells *cells = scd_calloc(1, sizeof *cells);
    if (!cells)
        return scd_fail(err, SCD_E_NOMEM, "%s: out of memory", name);
    cells->ops = &scd_h5_cells_ops;
    scd_code code = scd_h5_cells_open(name, bytes, n, &cells->self, err);
    if (code)
        free(cells);
    else
        *out = cells;
    return code;
}

/* ---- the way to the format ---- */

void scd_cells_close(scd_cells *cells)
{
    if (!cells)
        return;
    cells->ops->close(cells->self);
    free(cells);
}

const char *scd_cells_path(const scd_cells *cells)
{
    return cells->ops->path(cells->self);
}

const char *scd_cells_format(const scd_cells *cells)
{
    return cells->ops->format(cells->self);
}

size_t scd_cells_n_matrices(const scd_cells *cells)
{
    return cells->ops->n_matrices(cells->self);
}

const char *scd_cells_matrix_name(const scd_cells *cells, size_t index)
{
    return cells->ops->matrix_name(cells->self, index);
}

scd_code scd_cells_matrix_get(const scd_cells *cells, const char *name, scd_cells_matrix *out,
                              scd_error *err)
{
    return cells->ops->matrix_get(cells->self, name, out, err);
}

size_t scd_cells_n_obs(const scd_cells *cells)
{
    return cells->ops->n_obs(cells->self);
}

scd_code scd_cells_rows_read(scd_cells *cells, const char *matrix, size_t first, size_t n,
                             scd_arena *arena, scd_cells_rows *out, scd_error *err)
{
    return cells->ops->rows_read(cells->self, matrix, first, n, arena, out, err);
}

size_t scd_cells_n_columns(const scd_cells *cells, const char *frame)
{
    return cells->ops->n_columns(cells->self, frame);
}

const char *scd_cells_column_name(const scd_cells *cells, const char *frame, size_t index)
{
    return cells->ops->column_name(cells->self, frame, index);
}

size_t scd_cells_frame_rows(const scd_cells *cells, const char *frame)
{
    return cells->ops->frame_rows(cells->self, frame);
}

scd_code scd_cells_column_text(scd_cells *cells, const char *frame, const char *column,
                               scd_arena *arena, const char *const **out, size_t *n, scd_error *err)
{
    return cells->ops->column_text(cells->self, frame, column, arena, out, n, err);
}

scd_code scd_cells_column_categories(scd_cells *cells, const char *frame, const char *column,
                                     scd_arena *arena, scd_cells_categories *out, scd_error *err)
{
    return cells->ops->column_categories(cells->self, frame, column, arena, out, err);
}
