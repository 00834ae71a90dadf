/* bands.h - entries of a matrix that come in any order, sorted by rows through a temporary file.
 *
 * The entries of each row are counted beforehand. Rows are cut into bands of some 32 MB, and every
 * entry is appended to its band's place; from then on a block of rows is in one or two bands,
 * sorted when they are loaded. All reads and writes are sequential. A matrix of one band never
 * touches the disk.
 *
 * Memory: 8 bytes a row, 16 KB a band, one band. Disk: 16 bytes an entry, in $TMPDIR or /tmp, gone
 * with the process whatever happens to it.
 *
 * Threads: one at a time. Owns: counts and file, until free. */
#ifndef SCD_API_BANDS_H
#define SCD_API_BANDS_H

#include "api/cells.h"

typedef struct scd_entry {
    uint32_t row, col;
    double value;
} scd_entry;

typedef struct scd_bands scd_bands;

/* row_start[i + 1] holds the number of entries of row i, (rows + 1) in all, row_start[0] is 0; it
 * is taken, also when this fails. `what` ("cells.h5ad: X") begins messages and is copied. */
scd_code scd_bands_new(uint64_t *row_start, size_t rows, const char *what, scd_bands **out,
                       scd_error *err);
void scd_bands_free(scd_bands *bands); /* NULL is fine */

/* As many entries of each row as were counted; entries of one row stay in the order of put. */
scd_code scd_bands_put(scd_bands *bands, scd_entry entry, scd_error *err);
scd_code scd_bands_end(scd_bands *bands, scd_error *err);
/* After end. As scd_cells_rows_read. */
scd_code scd_bands_read(scd_bands *bands, size_t first, size_t n, scd_arena *arena,
                        scd_cells_rows *out, scd_error *err);

/* A file in $TMPDIR, else /tmp, that has no name any more; -1: errno says why, *folder where. */
int scd_temporary_open(const char **folder);

#endif
