/* cells_impl.h - what a format has to be able to do to stand behind api/cells.h.
 *
 * Each function has the contract of its namesake there. To add a format: fill a table, and let
 * scd_cells_open recognise its first bytes.
 *
 * Threads: as api/cells.h. Owns: `self`, until close. */
#ifndef SCD_API_CELLS_IMPL_H
#define SCD_API_CELLS_IMPL_H

#include "api/cells.h"

typedef struct scd_cells_format_ops {
    void (*close)(void *self);
    const char *(*path)(const void *self);
    const char *(*format)(const void *self);
    size_t (*n_obs)(const void *self);
    size_t (*n_matrices)(const void *self);
    const char *(*matrix_name)(const void *self, size_t index);
    scd_code (*matrix_get)(const void *self, const char *name, scd_cells_matrix *out,
                           scd_error *err);
    scd_code (*rows_read)(void *self, const char *matrix, size_t first, size_t n, scd_arena *arena,
                          scd_cells_rows *out, scd_error *err);
    size_t (*n_columns)(const void *self, const char *frame);
    const char *(*column_name)(const void *self, const char *frame, size_t index);
    size_t (*frame_rows)(const void *self, const char *frame);
    scd_code (*column_text)(void *self, const char *frame, const char *column, scd_arena *arena,
                            const char *const **out, size_t *n, scd_error *err);
    scd_code (*column_categories)(void *self, const char *frame, const char *column,
                                  scd_arena *arena, scd_cells_categories *out, scd_error *err);
} scd_cells_format_ops;

struct scd_cells {
    const scd_cells_format_ops *ops;
    void *self;
};

/* ---- cells_rows.c ---- */
/* Sorts the n entries of one row in place, sums repeated ones, drops zeros; how many are left, or
 * SIZE_MAX: out of memory. */
size_t scd_cells_row_tidy(uint32_t *cols, double *values, size_t n);
/* Text as codes of its distinct values in order of first appearance, NULL as -1. False: out of
 * memory, or more texts than codes. */
bool scd_cells_intern(const char *const *text, size_t n, scd_arena *arena,
                      scd_cells_categories *out);

/* ---- the formats: h5ad_file.c; text_cells.c, mex.c, table.c ---- */
/* image NULL: the file itself. */
scd_code scd_h5_cells_open(const char *path, const void *image, size_t n_bytes, void **self,
                           scd_error *err);
extern const scd_cells_format_ops scd_h5_cells_ops;

scd_code scd_mex_open(const char *path, bool is_folder, void **self, scd_error *err);
scd_code scd_table_open(const char *path, void **self, scd_error *err);
extern const scd_cells_format_ops scd_text_cells_ops;

#endif
