/* request_forms.h - the two forms of cells in a request body; internal to the decoder.
 *
 * Threads: one at a time. Owns: nothing; results live in the decoder's arena. */
#ifndef SCD_API_REQUEST_FORMS_H
#define SCD_API_REQUEST_FORMS_H

#include "api/request_parts.h"

/* JSON pointers to the parts of a matrix, and to what belongs to its rows. */
typedef struct scd_matrix_places {
    const char *indptr, *indices, *data, *ids, *totals;
} scd_matrix_places;

/* Of a body of /v1. */
extern const scd_matrix_places scd_matrix_of_request;

/* What was read of the matrix form; its parts may come in any order and are joined at the end. */
typedef struct scd_matrix_parts {
    const scd_matrix_places *places;
    bool own_genes; /* there are no indices: genes[i] is that of data[i] */
    bool has_genes, has_matrix, has_ids, has_totals;
    const scd_text *genes, *ids;
    size_t n_genes, n_ids;
    const double *totals;
    size_t n_totals;
    const double *indptr, *indices, *data;
    size_t n_indptr, n_indices, n_data;
} scd_matrix_parts;

/* Entries that all cells of a request may have together. */
size_t scd_max_entries(const scd_request_limits *limits);

/* The value of "cells", into out->cells. Faults of a cell stay with the cell. */
bool scd_read_cells(scd_decoder *decoder, scd_request *out);

/* The value of "matrix". */
bool scd_read_matrix(scd_decoder *decoder, scd_matrix_parts *parts);

/* Rows of the matrix become out->cells. What is wrong with the matrix as a whole goes to the
 * decoder's problem, what is wrong with one row stays with its cell. false: no memory. */
bool scd_join_matrix(scd_decoder *decoder, const scd_matrix_parts *parts, scd_request *out);

/* The total of that row's cell, where totals are given. */
void scd_join_total(const scd_matrix_parts *parts, size_t row, scd_cell_input *cell,
                    scd_fault *fault);

/* Note a fault with its cell, which then has no inputs; the first stays. false: no memory. */
bool scd_cell_blame(scd_decoder *decoder, scd_cell_input *cell, const scd_fault *fault);

#endif
