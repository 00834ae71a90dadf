/* cells.h - a file of cells, whatever its format: matrices by row blocks, data frames, names.
 *
 *   .h5ad                  every generation since anndata 0.5 (api/h5ad.h)
 *   10x Genomics .h5       molecule counts of version 2 (a group for each genome) and 3
 *   10x Genomics MEX       matrix.mtx, genes.tsv or features.tsv, barcodes.tsv, gzip or not: as a
 *                          folder, .zip, .tar or .tar.gz
 *   .csv, .tsv             a table of numbers with names on both sides, gzip or not
 *
 * The format is found by looking at the file, not at its name. Nothing else is decided here: which
 * matrix, which column, and which side of a table are the genes is the caller's choice
 * (api/cells_choose.h decides by evidence).
 *
 * Memory is bounded by the blocks that are read and by the names; what is not stored by cells is
 * turned through a temporary file ($TMPDIR, else /tmp), once.
 *
 * Threads: any; one call at a time for each file. Owns: the open file, until close. Errors name the
 * file and the place in it: SCD_E_IO cannot open, SCD_E_CORRUPT damaged or contradicts itself,
 * SCD_E_INVALID of no known format, SCD_E_NOT_FOUND no such matrix or column (names those there
 * are). */
#ifndef SCD_API_CELLS_H
#define SCD_API_CELLS_H

#include "engine/base/arena.h"
#include "engine/base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct scd_cells scd_cells;

scd_code scd_cells_open(const char *path, scd_cells **out, scd_error *err);
/* The same of n bytes of HDF5 in memory, which are copied; `name` stands for the path. */
scd_code scd_cells_open_image(const void *bytes, size_t n, const char *name, scd_cells **out,
                              scd_error *err);
void scd_cells_close(scd_cells *cells); /* NULL is fine */

const char *scd_cells_path(const scd_cells *cells);
/* "h5ad", "10x h5 v2", "10x h5 v3", "10x mex", "csv", "tsv" */
const char *scd_cells_format(const scd_cells *cells);
size_t scd_cells_n_obs(const scd_cells *cells); /* of the first matrix */

/* The names of the matrices there are. h5ad: "X", "layers/NAME", "raw/X"; 10x: "matrix", of version
 * 2 the genomes; tables: SCD_CELLS_IN_ROWS and SCD_CELLS_IN_COLUMNS, the two ways to read it. */
#define SCD_CELLS_IN_ROWS "cells in rows"
#define SCD_CELLS_IN_COLUMNS "cells in columns"
size_t scd_cells_n_matrices(const scd_cells *cells);
const char *scd_cells_matrix_name(const scd_cells *cells, size_t index);

typedef enum scd_cells_encoding {
    SCD_CELLS_DENSE,
    SCD_CELLS_CSR, /* by cells */
    SCD_CELLS_CSC, /* by genes: has to be turned */
    SCD_CELLS_TEXT /* has been read into a temporary file */
} scd_cells_encoding;
typedef struct scd_cells_matrix {
    const char *name;
    scd_cells_encoding encoding;
    size_t rows, cols;
    uint64_t n_stored;     /* stored entries; dense: rows * cols */
    bool is_raw;           /* h5ad: its columns are raw/var's, not var's */
    const char *obs_frame; /* the data frame that names its rows, ... */
    const char *var_frame; /* ... and its columns */
} scd_cells_matrix;
scd_code scd_cells_matrix_get(const scd_cells *cells, const char *name, scd_cells_matrix *out,
                              scd_error *err);

/* Rows [first, first + n) as CSR in the caller's arena, columns ascending, zeros left out, repeated
 * entries summed. */
typedef struct scd_cells_rows {
    size_t n;
    const uint64_t *indptr;  /* (n + 1), from 0 */
    const uint32_t *indices; /* (indptr[n]) */
    const double *data;
} scd_cells_rows;
scd_code scd_cells_rows_read(scd_cells *cells, const char *matrix, size_t first, size_t n,
                             scd_arena *arena, scd_cells_rows *out, scd_error *err);

/* A data frame of the file: "obs", "var" and "raw/var", or as scd_cells_matrix names them. */
size_t scd_cells_n_columns(const scd_cells *cells, const char *frame);
const char *scd_cells_column_name(const scd_cells *cells, const char *frame, size_t index);
size_t scd_cells_frame_rows(const scd_cells *cells, const char *frame); /* 0: no such frame */

/* A column as text, whatever it is stored as (numbers in their shortest form, booleans as "true"
 * and "false"); NULL where missing. column NULL: the index. Strings and array in the arena. */
scd_code scd_cells_column_text(scd_cells *cells, const char *frame, const char *column,
                               scd_arena *arena, const char *const **out, size_t *n,
                               scd_error *err);

/* A column as codes of its distinct values in order of category (categoricals) or of first
 * appearance; -1: missing. */
typedef struct scd_cells_categories {
    size_t n, n_categories;
    const int32_t *codes;
    const char *const *categories;
} scd_cells_categories;
scd_code scd_cells_column_categories(scd_cells *cells, const char *frame, const char *column,
                                     scd_arena *arena, scd_cells_categories *out, scd_error *err);

#endif
