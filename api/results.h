/* results.h - what a model says of the cells of a file, written beside them.
 *
 *   .h5ad         the input itself where it is one, byte for byte, with obsm["X_scdiva"],
 *                 obs["scdiva_label"], ["scdiva_probability"], ["scdiva_unknown"],
 *                 layers["scdiva_denoised"] and uns["scdiva"][task] added; of other formats a new
 *                 file with the counts that were used, the names, and these
 *   .csv, .tsv    a line for each cell, its name first (read.csv(row.names = 1) and Seurat's
 *                 AddMetaData take it as it is)
 *   .npy          embeddings or probabilities, (cells, n) float32
 *
 * Of a result that is a table an .h5ad has uns["scdiva"][task]["table"], a data frame; .csv and
 * .tsv hold its lines, .npy the matrix that goes with it.
 *
 * The file appears complete or not at all: it is written under a temporary name, synced and
 * renamed. Nothing is overwritten unless asked: neither the file nor what it already holds under
 * these names. The same results give the same bytes.
 *
 * Rows come in order, in blocks; memory is bounded by a block and nine bytes a cell.
 *
 * Threads: one at a time. Owns: the temporary file, until commit or abandon. Errors: SCD_E_INVALID
 * what is there already or an unknown suffix, SCD_E_IO with the path. */
#ifndef SCD_API_RESULTS_H
#define SCD_API_RESULTS_H

#include "api/cells_plan.h"
#include "engine/base/hash.h"

typedef struct scd_results scd_results;

/* A result that is not about cells: columns of as many rows; of a column one pointer is not NULL.
 */
typedef struct scd_table_column {
    const char *name;
    const char *const *texts; /* (n_rows) each */
    const float *floats;      /* NaN: none */
    const double *doubles;
    const int64_t *wholes;
    const uint8_t *bools;
} scd_table_column;

enum { SCD_TABLE_COLUMNS = 24 };

typedef struct scd_table {
    size_t n_rows, n_columns;
    scd_table_column columns[SCD_TABLE_COLUMNS];
    const float *matrix; /* what a .npy holds; NULL: it cannot */
    size_t n_matrix_rows, n_matrix_columns;
} scd_table;

typedef struct scd_results_spec {
    const char *path;
    scd_cells *cells; /* the input, borrowed until the end */
    const scd_file_plan *plan;
    const char *task; /* "embed", "annotate": its place in uns["scdiva"] */
    bool overwrite;
    size_t embedding_width;     /* 0: no embeddings */
    size_t n_labels;            /* 0: no annotation */
    const char *const *labels;  /* (n_labels) */
    double threshold;           /* below it a cell is "unknown" */
    bool denoised;              /* a layer of the matrix's shape is given */
    const char *const *columns; /* (embedding_width) names in a table; NULL: scdiva_1, ... */
    /* Of a task that finds values: of which of the matrix's columns (n_genes), -1 where it finds
     * none; NULL: it finds none at all. */
    const int32_t *values_of;
    size_t n_values;
    const scd_table *table; /* NULL: the result is about cells. Filled by the time of commit */
} scd_results_spec;

/* A fact for uns["scdiva"][task]; exactly one of text, list and number is meant. */
typedef struct scd_fact {
    const char *key;
    const char *text;
    const char *const *list;
    size_t n_list;
    double number;
    bool is_list, is_number;
} scd_fact;

/* Is this the path of a file that can be written? SCD_E_INVALID names the suffixes. */
scd_code scd_results_check_path(const char *path, scd_error *err);
bool scd_results_is_h5ad(const char *path);

/* Is the place free, or may what is there be replaced? */
scd_code scd_results_check_free(const char *path, bool overwrite, scd_error *err);
/* What would be in the way, told before anything is computed. */
scd_code scd_results_check(const scd_results_spec *spec, scd_error *err);
/* Refuses that as well. */
scd_code scd_results_open(const scd_results_spec *spec, scd_results **out, scd_error *err);

/* SHA-256 of the input where writing it took reading it (an .h5ad into an .h5ad), else NULL. */
const scd_digest *scd_results_input_digest(const scd_results *results);

typedef struct scd_results_block {
    size_t n;
    const float *embeddings;        /* (n, embedding_width); NaN: no answer for this cell */
    const float *probabilities;     /* (n, n_labels); NaN likewise */
    const scd_cells_rows *rows;     /* the input's, which a new .h5ad keeps */
    const scd_cells_rows *denoised; /* where announced */
} scd_results_block;
/* Which of a cell's n probabilities is the largest, of equals the first; SIZE_MAX: no answer. */
size_t scd_best_label(const float *probabilities, size_t n);
scd_code scd_results_add(scd_results *results, const scd_results_block *block, scd_error *err);

/* The rows of the layer, in the arena: the matrix as the model sees it - ln(1 + 10^4 count / total)
 * -, and in the columns that values were found of, these. values: (n, n_values), each row `stride`
 * bytes behind the one before it. Columns that are left out of the plan stay empty. SCD_E_NOMEM. */
scd_code scd_results_layer(const scd_results_spec *spec, const void *values, size_t stride,
                           const scd_cells_rows *input, scd_arena *arena, scd_cells_rows *out,
                           scd_error *err);

scd_code scd_results_commit(scd_results *results, const scd_fact *facts, size_t n, scd_error *err);
void scd_results_free(scd_results *results); /* NULL is fine; before commit nothing is left */

#endif
