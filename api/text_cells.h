/* text_cells.h - cells read from text: names in memory, entries in api/entries.h; what mex.c and
 * table.c fill, behind scd_text_cells_ops.
 *
 * Threads: one at a time. Owns: everything it points to, until free. */
#ifndef SCD_API_TEXT_CELLS_H
#define SCD_API_TEXT_CELLS_H

#include "api/cells_impl.h"
#include "api/entries.h"

/* A growing list of texts in the arena of the cells. */
typedef struct scd_text_names {
    const char **at;
    size_t n, cap;
} scd_text_names;

enum { SCD_TEXT_MAX_COLUMNS = 4 };

/* One side of the matrix: an index and further columns, all of `n` texts. */
typedef struct scd_text_frame {
    const char *name; /* static */
    scd_text_names index;
    size_t n_columns;
    const char *column_names[SCD_TEXT_MAX_COLUMNS]; /* static */
    scd_text_names columns[SCD_TEXT_MAX_COLUMNS];
} scd_text_frame;

typedef struct scd_text_matrix {
    const char *name; /* static */
    bool by_columns;  /* cells are the columns of the entries */
    size_t obs, var;  /* frames */
} scd_text_matrix;

typedef struct scd_text_cells {
    char *path;
    const char *format;
    scd_arena arena;
    scd_text_frame frames[2];
    scd_text_matrix matrices[2];
    size_t n_matrices;
    scd_entries *entries;
} scd_text_cells;

enum { SCD_TEXT_NAMES_BYTES = 1 << 30 }; /* of all names of a file together */

scd_code scd_text_cells_new(const char *path, const char *format, scd_text_cells **out,
                            scd_error *err);
void scd_text_cells_free(scd_text_cells *cells); /* NULL is fine */

/* A copy of n bytes of UTF-8 at the end of the list. `where` and `line` for messages. */
scd_code scd_text_names_add(scd_text_cells *cells, scd_text_names *names, const char *text,
                            size_t n, const char *where, scd_error *err);

#endif
