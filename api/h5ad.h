/* h5ad.h - read AnnData's .h5ad files by row blocks, in bounded memory.
 *
 * Reads what anndata wrote since 0.5: X, layers and raw/X as dense, CSR or CSC with any integer
 * index type and any number type; obs and var as 0.1.0/0.2.0 data frames, as compound datasets
 * before that, categoricals old and new, nullable columns. Format: https://anndata.readthedocs.io
 * (file format specification).
 *
 * Nothing is decided here: which matrix, which column is the caller's choice (api/h5ad_choose.h
 * decides by evidence). A block is read in time proportional to its entries for dense and CSR; CSC
 * is turned once, through a temporary file, when its first block is read.
 *
 * libhdf5 serves one call at a time, however it was built: calls of all open files hold one lock.
 *
 * Threads: any; one call at a time for each file. Owns: the open file, until close. Errors name
 * file and dataset: SCD_E_IO cannot open, SCD_E_CORRUPT not HDF5 or contradicts itself,
 * SCD_E_INVALID HDF5 but not an AnnData, SCD_E_NOT_FOUND no such matrix or column (names those
 * there are). */
#ifndef SCD_API_H5AD_H
#define SCD_API_H5AD_H

#include "engine/base/arena.h"
#include "engine/base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct scd_h5ad scd_h5ad;

scd_code scd_h5ad_open(const char *path, scd_h5ad **out, scd_error *err);
/* The same of n bytes in memory, which are copied; `name` stands for the path. */
scd_code scd_h5ad_open_image(const void *bytes, size_t n, const char *name, scd_h5ad **out,
                             scd_error *err);
void scd_h5ad_close(scd_h5ad *file); /* NULL is fine */

const char *scd_h5ad_path(const scd_h5ad *file);
size_t scd_h5ad_n_obs(const scd_h5ad *file);

/* The names of the matrices there are: "X", "layers/NAME", "raw/X". */
size_t scd_h5ad_n_matrices(const scd_h5ad *file);
const char *scd_h5ad_matrix_name(const scd_h5ad *file, size_t index);

typedef enum scd_h5ad_encoding { SCD_H5AD_DENSE, SCD_H5AD_CSR, SCD_H5AD_CSC } scd_h5ad_encoding;
typedef struct scd_h5ad_matrix {
    const char *name;
    scd_h5ad_encoding encoding;
    size_t rows, cols;
    uint64_t n_stored; /* stored entries; dense: rows * cols */
    bool is_raw;       /* its columns are raw/var's, not var's */
} scd_h5ad_matrix;
scd_code scd_h5ad_matrix_get(const scd_h5ad *file, const char *name, scd_h5ad_matrix *out,
                             scd_error *err);

/* Rows [first, first + n) as CSR in the caller's arena, columns ascending, zeros left out, repeated
 * entries summed. */
typedef struct scd_h5ad_rows {
    size_t n;
    const uint64_t *indptr;  /* (n + 1), from 0 */
    const uint32_t *indices; /* (indptr[n]) */
    const double *data;
} scd_h5ad_rows;
scd_code scd_h5ad_rows_read(scd_h5ad *file, const char *matrix, size_t first, size_t n,
                            scd_arena *arena, scd_h5ad_rows *out, scd_error *err);

/* A data frame of the file: "obs", "var" or "raw/var". */
size_t scd_h5ad_n_columns(const scd_h5ad *file, const char *frame);
const char *scd_h5ad_column_name(const scd_h5ad *file, const char *frame, size_t index);
size_t scd_h5ad_frame_rows(const scd_h5ad *file, const char *frame); /* 0: no such frame */

/* A column as text, whatever it is stored as (numbers in their shortest form, booleans as "true"
 * and "false"); NULL where missing. column NULL: the index. Strings and array in the arena. */
scd_code scd_h5ad_column_text(scd_h5ad *file, const char *frame, const char *column,
                              scd_arena *arena, const char *const **out, size_t *n, scd_error *err);

/* A column as codes of its distinct values in order of category (categoricals) or of first
 * appearance; -1: missing. */
typedef struct scd_h5ad_categories {
    size_t n, n_categories;
    const int32_t *codes;
    const char *const *categories;
} scd_h5ad_categories;
scd_code scd_h5ad_column_categories(scd_h5ad *file, const char *frame, const char *column,
                                    scd_arena *arena, scd_h5ad_categories *out, scd_error *err);

#endif
