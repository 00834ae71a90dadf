/* request_matrix.c - {"genes": [...], "matrix": {CSR}, "ids": [...], "totals": [...]}: one list of
 * names, rows of (column, value). Everything that indexes anything is checked before it is used. */
#include "api/request_forms.h"

#include <string.h>

enum { HAS_FORMAT = 1, HAS_INDPTR = 2, HAS_INDICES = 4, HAS_DATA = 8, HAS_ALL = 15 };

static const char *const member_names[] = {"format", "indptr", "indices", "data"};

static scd_place matrix_place(const char *member, size_t element)
{
    return (scd_place){"/matrix", SCD_NO_INDEX, member, element};
}

size_t scd_max_entries(const scd_request_limits *limits)
{
    size_t n;
    return __builtin_mul_overflow(limits->max_cells, limits->max_genes_per_cell, &n) ? SIZE_MAX : n;
}

static bool read_format(scd_decoder *decoder, const scd_place *place, scd_fault *fault)
{
    scd_text format = {"csr", 3};
    if (!scd_read_text(decoder, place, SIZE_MAX, &format, fault))
        return false;
    if (!scd_text_is(format, "csr"))
        scd_fault_set(fault, SCD_PROBLEM_INVALID, place,
                      "must be \"csr\": rows are cells, indices are columns of \"genes\"");
    return true;
}

static bool read_member(scd_decoder *decoder, scd_text key, unsigned *has, scd_matrix_parts *parts,
                        scd_fault *fault)
{
    size_t which = 0, max = scd_max_entries(decoder->limits),
           max_cells = decoder->limits->max_cells;
    while (which < 4 && !scd_text_is(key, member_names[which]))
        which++;
    scd_place place = matrix_place(which < 4 ? member_names[which] : NULL, SCD_NO_INDEX);
    if (which == 4) {
        scd_fault_unknown_member(fault, &place, key, "format, indptr, indices, data");
        return scd_scan_skip(&decoder->scan, NULL);
    }
    if (*has & 1u << which)
        scd_fault_set(fault, SCD_PROBLEM_INVALID, &place, "is given twice");
    *has |= 1u << which;
    switch (1u << which) {
    case HAS_FORMAT:
        return read_format(decoder, &place, fault);
    case HAS_INDPTR:
        max = max_cells < SIZE_MAX ? max_cells + 1 : max_cells;
        return scd_read_numbers(decoder, &place, max, &parts->indptr, &parts->n_indptr, fault);
    case HAS_INDICES:
        return scd_read_numbers(decoder, &place, max, &parts->indices, &parts->n_indices, fault);
    default:
        return scd_read_values(decoder, &place, max, &parts->data, &parts->n_data, fault);
    }
}

bool scd_read_matrix(scd_decoder *decoder, scd_matrix_parts *parts)
{
    scd_scan *scan = &decoder->scan;
    scd_scan_type type = scd_scan_peek(scan);
    if (type != SCD_SCAN_OBJECT) {
        if (!scd_scan_skip(scan, NULL))
            return false;
        scd_problem_add(decoder->problem, "/matrix", "must be an object, not %s",
                        scd_scan_type_name(type));
        return true;
    }
    unsigned has = 0;
    scd_text key;
    if (!scd_scan_enter(scan, '{'))
        return false;
    for (size_t i = 0; scd_scan_member(scan, i, decoder->arena, &key); i++) {
        scd_fault fault = {0};
        if (!read_member(decoder, key, &has, parts, &fault))
            return false;
        scd_problem_add_fault(decoder->problem, &fault);
    }
    if (scan->error)
        return false;
    for (size_t i = 0; i < 4; i++)
        if (!(has & 1u << i))
            scd_problem_add(decoder->problem, "/matrix", "\"%s\" is missing", member_names[i]);
    return true;
}

/* ---- joining ----------------------------------------------------------------------------------*/

const scd_matrix_places scd_matrix_of_request = {.indptr = "/matrix/indptr",
                                                 .indices = "/matrix/indices",
                                                 .data = "/matrix/data",
                                                 .ids = "/ids",
                                                 .totals = "/totals"};

static scd_place element_place(const char *base, size_t element)
{
    return (scd_place){base, SCD_NO_INDEX, NULL, element};
}

static void check_length(scd_decoder *decoder, const char *pointer, size_t n, size_t n_rows)
{
    if (n != n_rows)
        scd_problem_add(decoder->problem, pointer,
                        "has %zu elements for %zu cells (indptr has one "
                        "more than there are cells)",
                        n, n_rows);
}

/* The row boundaries: 0 = indptr[0] <= indptr[1] <= ... = number of entries. */
static void check_indptr(scd_decoder *decoder, const scd_matrix_parts *parts)
{
    scd_problem *problem = decoder->problem;
    size_t before = 0;
    for (size_t i = 0; i < parts->n_indptr; i++) {
        size_t value = 0;
        scd_fault fault = {0};
        scd_place place = element_place(parts->places->indptr, i);
        if (!scd_whole(parts->indptr[i], &value))
            scd_fault_set(&fault, SCD_PROBLEM_INVALID, &place, "must be a whole number from 0");
        else if (i == 0 && value != 0)
            scd_fault_set(&fault, SCD_PROBLEM_INVALID, &place,
                          "must be 0: the first row starts "
                          "there");
        else if (value < before)
            scd_fault_set(&fault, SCD_PROBLEM_INVALID, &place,
                          "must not be below the element before "
                          "it: %zu comes after %zu",
                          value, before);
        scd_problem_add_fault(problem, &fault);
        before = value;
    }
    if (problem->kind == SCD_PROBLEM_NONE && before != parts->n_data)
        scd_problem_add(problem, parts->places->indptr, "ends with %zu, but there are %zu %s",
                        before, parts->n_data, parts->own_genes ? "values" : "indices");
}

static void check_shape(scd_decoder *decoder, const scd_matrix_parts *parts)
{
    scd_problem *problem = decoder->problem;
    if (!parts->has_genes)
        scd_problem_add(problem, "", "\"genes\" is missing: the names of the matrix's columns");
    if (parts->n_indptr == 0)
        scd_problem_add(problem, parts->places->indptr,
                        "must have one element more than there are cells");
    if (problem->kind != SCD_PROBLEM_NONE)
        return;
    size_t n_rows = parts->n_indptr - 1;
    size_t n_named = parts->own_genes ? parts->n_genes : parts->n_indices;
    if (parts->n_data != n_named)
        scd_problem_add(problem, parts->places->data, "has %zu elements, but there are %zu %s",
                        parts->n_data, n_named, parts->own_genes ? "genes" : "indices");
    if (parts->has_ids)
        check_length(decoder, parts->places->ids, parts->n_ids, n_rows);
    if (parts->has_totals)
        check_length(decoder, parts->places->totals, parts->n_totals, n_rows);
    check_indptr(decoder, parts);
}

/* Columns [first, last) of one row; last_row[c] is the row (from 1) in which column c was last
 * met.*/
static void join_columns(const scd_matrix_parts *parts, size_t row, size_t first, size_t last,
                         uint32_t *last_row, uint32_t *columns, scd_fault *fault)
{
    for (size_t i = first; i < last; i++) {
        size_t column;
        scd_place place = element_place(parts->places->indices, i);
        if (!scd_whole(parts->indices[i], &column) || column >= parts->n_genes) {
            scd_fault_set(fault, SCD_PROBLEM_INVALID, &place,
                          "%.17g is not a column: there are %zu genes, counted from 0",
                          parts->indices[i], parts->n_genes);
            return;
        }
        if (last_row[column] == row + 1) {
            scd_fault_set(fault, SCD_PROBLEM_INVALID, &place,
                          "column %zu comes twice in the row of cell %zu: add its values up",
                          column, row);
            return;
        }
        last_row[column] = (uint32_t)(row + 1);
        columns[i] = (uint32_t)column;
    }
}

void scd_join_total(const scd_matrix_parts *parts, size_t row, scd_cell_input *cell,
                    scd_fault *fault)
{
    if (!parts->has_totals)
        return;
    if (parts->totals[row] > 0) {
        cell->total = parts->totals[row];
    } else {
        scd_place place = element_place(parts->places->totals, row);
        scd_fault_set(fault, SCD_PROBLEM_INVALID, &place,
                      "the total of a cell must be above 0, not %g", parts->totals[row]);
    }
}

/* columns, last_row: NULL where each entry has a gene of its own. */
static bool join_row(scd_decoder *decoder, const scd_matrix_parts *parts, size_t row,
                     uint32_t *last_row, uint32_t *columns, scd_cell_input *cell)
{
    size_t first = (size_t)parts->indptr[row], last = (size_t)parts->indptr[row + 1];
    size_t max = decoder->limits->max_genes_per_cell;
    scd_fault fault;
    fault.kind = SCD_PROBLEM_NONE;
    *cell = (scd_cell_input){.n = last - first,
                             .columns = columns ? columns + first : NULL,
                             .genes = columns ? NULL : parts->genes + first,
                             .values = parts->data + first};
    if (parts->has_ids)
        cell->id = parts->ids[row];
    scd_join_total(parts, row, cell, &fault);
    scd_place place = element_place(parts->places->indptr, row + 1);
    if (cell->n > max)
        scd_fault_set(&fault, SCD_PROBLEM_TOO_LARGE, &place,
                      "the cell has %zu values, at most %zu are accepted", cell->n, max);
    else if (columns)
        join_columns(parts, row, first, last, last_row, columns, &fault);
    return scd_cell_blame(decoder, cell, &fault);
}

bool scd_join_matrix(scd_decoder *decoder, const scd_matrix_parts *parts, scd_request *out)
{
    check_shape(decoder, parts);
    if (decoder->problem->kind != SCD_PROBLEM_NONE)
        return true;
    size_t n_rows = parts->n_indptr - 1;
    uint32_t *columns = NULL, *last_row = NULL;
    scd_cell_input *cells = scd_decoder_alloc(decoder, n_rows, sizeof *cells);
    if (!cells)
        return false;
    if (!parts->own_genes) {
        columns = scd_decoder_alloc(decoder, parts->n_indices, sizeof *columns);
        last_row = scd_decoder_alloc(decoder, parts->n_genes, sizeof *last_row);
        if (!columns || !last_row)
            return false;
        memset(last_row, 0, parts->n_genes * sizeof *last_row);
    }
    for (size_t row = 0; row < n_rows; row++)
        if (!join_row(decoder, parts, row, last_row, columns, &cells[row]))
            return false;
    out->is_matrix = !parts->own_genes;
    out->cells = cells;
    out->n_cells = n_rows;
    return true;
}
