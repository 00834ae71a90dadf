/* oip_cells.c - see oip_cells.h: the forms in which cells may come as tensors. */
#include "api/oip_cells.h"

#include "api/request_forms.h"

#include <stdio.h>
#include <string.h>

enum { GENES, MATRIX, VALUES, INDICES, INDPTR, TOTALS, N_KINDS };

static const scd_oip_input_kind kinds[N_KINDS] = {
    [GENES] = {"genes", SCD_OIP_BYTES, 1, false},  [MATRIX] = {"matrix", SCD_OIP_FP32, 2, true},
    [VALUES] = {"values", SCD_OIP_FP32, 1, true},  [INDICES] = {"indices", SCD_OIP_INT32, 1, true},
    [INDPTR] = {"indptr", SCD_OIP_INT64, 1, true}, [TOTALS] = {"totals", SCD_OIP_FP64, 1, true},
};

const scd_oip_input_kind *scd_oip_input_kinds(size_t *n)
{
    *n = N_KINDS;
    return kinds;
}

typedef struct forms {
    scd_decoder *decoder;
    const scd_oip_tensor *of[N_KINDS]; /* NULL: not given */
    scd_matrix_places places;
    scd_matrix_parts parts;
    scd_request *out;
} forms;

static bool is_fine(const forms *f)
{
    return f->decoder->problem->kind == SCD_PROBLEM_NONE;
}

/* ---- which tensor is which
 * ---------------------------------------------------------------------*/

static void check_kind(scd_problem *problem, const scd_oip_tensor *t,
                       const scd_oip_input_kind *kind)
{
    char pointer[48];
    bool texts = kind->type == SCD_OIP_BYTES;
    snprintf(pointer, sizeof pointer, "%s/datatype", t->at);
    if (texts != (t->type == SCD_OIP_BYTES) || t->type == SCD_OIP_BOOL)
        scd_problem_add(problem, pointer, "\"%s\" must be %s, not %s", kind->name,
                        texts ? "BYTES" : "of a datatype for numbers", scd_oip_type_name(t->type));
    if (t->n_dims != kind->n_dims)
        scd_problem_add(problem, t->at_shape, "\"%s\" has %zu dimensions, must have %zu: %s",
                        kind->name, t->n_dims, kind->n_dims,
                        kind->n_dims == 2 ? "cells, genes" : "its elements");
}

static void sort_out(forms *f, const scd_oip_tensor *inputs, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        const scd_oip_tensor *t = &inputs[i];
        size_t k = 0;
        while (k < N_KINDS && !scd_text_is(t->name, kinds[k].name))
            k++;
        if (k < N_KINDS) {
            f->of[k] = t;
            check_kind(f->decoder->problem, t, &kinds[k]);
        } else {
            scd_problem_add(f->decoder->problem, t->at,
                            "there is no input \"%.*s\": known are genes, matrix, values, indices, "
                            "indptr, totals",
                            (int)scd_utf8_cut(t->name.data, t->name.n < 40 ? t->name.n : 40),
                            t->name.data);
        }
    }
}

/* The tensors that are there make one form, and one only. */
static void check_form(const forms *f)
{
    scd_problem *problem = f->decoder->problem;
    if (!f->of[GENES])
        scd_problem_add(problem, "/inputs", "\"genes\" is missing: the names of the genes");
    if (!f->of[MATRIX] && !f->of[VALUES])
        scd_problem_add(problem, "/inputs",
                        "\"matrix\" (cells, genes) is missing, or \"values\" with \"indptr\"");
    for (size_t k = VALUES; f->of[MATRIX] && k <= INDPTR; k++)
        if (f->of[k])
            scd_problem_add(problem, f->of[k]->at,
                            "\"%s\" is of sparse cells: give either \"matrix\" or \"values\"",
                            kinds[k].name);
}

/* ---- reading
 * ------------------------------------------------------------------------------------*/

static bool read_names(forms *f, size_t max)
{
    scd_fault fault = {0};
    const scd_oip_tensor *t = f->of[GENES];
    f->parts.has_genes = true;
    f->parts.n_genes = t->n;
    bool ok = scd_oip_texts(f->decoder, t, max, &f->parts.genes, &fault);
    scd_problem_add_fault(f->decoder->problem, &fault);
    return ok;
}

/* Nothing where the tensor is not given. */
static bool read_numbers(forms *f, size_t kind, size_t max, const double **out, size_t *n)
{
    const scd_oip_tensor *t = f->of[kind];
    if (!t)
        return true;
    scd_fault fault = {0};
    *n = t->n;
    bool ok = scd_oip_numbers(f->decoder, t, max, out, &fault);
    scd_problem_add_fault(f->decoder->problem, &fault);
    return ok;
}

static bool read_totals(forms *f)
{
    f->parts.has_totals = f->of[TOTALS] != NULL;
    return read_numbers(f, TOTALS, f->decoder->limits->max_cells, &f->parts.totals,
                        &f->parts.n_totals);
}

/* ---- sparse
 * -------------------------------------------------------------------------------------*/

/* Without indptr all values are one cell's. */
static bool one_cell(forms *f)
{
    double *indptr = scd_decoder_alloc(f->decoder, 2, sizeof *indptr);
    if (!indptr)
        return false;
    indptr[0] = 0;
    indptr[1] = (double)f->of[VALUES]->n;
    f->parts.indptr = indptr;
    f->parts.n_indptr = 2;
    return true;
}

static bool join_sparse(forms *f)
{
    scd_matrix_parts *p = &f->parts;
    const scd_request_limits *limits = f->decoder->limits;
    size_t max = scd_max_entries(limits), max_cells = limits->max_cells;
    p->own_genes = !f->of[INDICES];
    if (!read_names(f, p->own_genes ? max : limits->max_genes_per_cell) ||
        !read_numbers(f, VALUES, max, &p->data, &p->n_data) ||
        !read_numbers(f, INDICES, max, &p->indices, &p->n_indices) ||
        !(f->of[INDPTR] ? read_numbers(f, INDPTR, max_cells < SIZE_MAX ? max_cells + 1 : max_cells,
                                       &p->indptr, &p->n_indptr)
                        : one_cell(f)) ||
        !read_totals(f))
        return false;
    f->out->places = (scd_request_places){
        .cells = f->places.indptr, .values = f->places.data, .cell_step = f->of[INDPTR] ? 1 : 0};
    return !is_fine(f) || scd_join_matrix(f->decoder, p, f->out);
}

/* ---- dense
 * --------------------------------------------------------------------------------------*/

static void check_dense(const forms *f)
{
    const scd_oip_tensor *matrix = f->of[MATRIX];
    size_t n_cells = matrix->dims[0], n_genes = matrix->dims[1];
    size_t max_cells = f->decoder->limits->max_cells;
    scd_fault fault = {0};
    scd_place place = {matrix->at_shape, SCD_NO_INDEX, NULL, 0};
    if (n_cells > max_cells)
        scd_fault_set(&fault, SCD_PROBLEM_TOO_LARGE, &place,
                      "%zu cells, at most %zu are accepted: send several requests", n_cells,
                      max_cells);
    place.element = 1;
    if (n_genes != f->of[GENES]->n)
        scd_fault_set(&fault, SCD_PROBLEM_INVALID, &place, "%zu columns for %zu genes", n_genes,
                      f->of[GENES]->n);
    if (f->of[TOTALS] && f->of[TOTALS]->n != n_cells) {
        place = (scd_place){f->of[TOTALS]->at_shape, SCD_NO_INDEX, NULL, SCD_NO_INDEX};
        scd_fault_set(&fault, SCD_PROBLEM_INVALID, &place, "%zu totals for %zu cells",
                      f->of[TOTALS]->n, n_cells);
    }
    scd_problem_add_fault(f->decoder->problem, &fault);
}

/* The values of a row that are not 0, with their columns; a NaN is one. */
static bool join_row(forms *f, const double *row, scd_cell_input *cell)
{
    size_t n = 0, n_genes = f->parts.n_genes;
    for (size_t g = 0; g < n_genes; g++)
        n += row[g] != 0;
    uint32_t *columns = scd_decoder_alloc(f->decoder, n, sizeof *columns);
    double *values = scd_decoder_alloc(f->decoder, n, sizeof *values);
    if (!columns || !values)
        return false;
    *cell = (scd_cell_input){.columns = columns, .values = values};
    for (size_t g = 0; g < n_genes; g++)
        if (row[g] != 0) {
            columns[cell->n] = (uint32_t)g;
            values[cell->n++] = row[g];
        }
    return true;
}

/* matrix: all elements; NULL: they are bytes, which become numbers a row at a time, for those are
 * up to eight times as long. */
static bool join_rows(forms *f, const double *matrix)
{
    size_t n_cells = f->of[MATRIX]->dims[0], n_genes = f->parts.n_genes;
    scd_cell_input *cells = scd_decoder_alloc(f->decoder, n_cells, sizeof *cells);
    double *scratch = scd_decoder_alloc(f->decoder, n_genes, sizeof *scratch);
    if (!cells || !scratch)
        return false;
    for (size_t c = 0; c < n_cells; c++) {
        const double *row = matrix ? matrix + c * n_genes : scratch;
        scd_fault fault;
        fault.kind = SCD_PROBLEM_NONE;
        if (!matrix)
            scd_oip_convert(f->of[MATRIX], c * n_genes, n_genes, scratch);
        if (!join_row(f, row, &cells[c]))
            return false;
        scd_join_total(&f->parts, c, &cells[c], &fault);
        if (!scd_cell_blame(f->decoder, &cells[c], &fault))
            return false;
    }
    f->out->is_matrix = true;
    f->out->cells = cells;
    f->out->n_cells = n_cells;
    return true;
}

static bool join_dense(forms *f)
{
    const double *matrix = NULL;
    size_t n;
    check_dense(f);
    if (!is_fine(f))
        return true;
    if (!read_names(f, f->decoder->limits->max_genes_per_cell) ||
        (!f->of[MATRIX]->is_binary &&
         !read_numbers(f, MATRIX, scd_max_entries(f->decoder->limits), &matrix, &n)) ||
        !read_totals(f))
        return false;
    f->out->places = (scd_request_places){.cells = f->places.data,
                                          .values = f->places.data,
                                          .cell_step = f->parts.n_genes,
                                          .is_dense = true};
    return !is_fine(f) || join_rows(f, matrix);
}

/* ---- the whole
 * ----------------------------------------------------------------------------------*/

/* Pointers that outlive the decoder. */
static bool set_places(forms *f)
{
    const struct {
        const char **place;
        size_t kind;
    } all[] = {{&f->places.indptr, INDPTR},
               {&f->places.indices, INDICES},
               {&f->places.data, f->of[MATRIX] ? MATRIX : VALUES},
               {&f->places.totals, TOTALS}};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        const scd_oip_tensor *t = f->of[all[i].kind];
        if (!t)
            t = f->of[VALUES] ? f->of[VALUES] : f->of[MATRIX];
        char *place = scd_decoder_alloc(f->decoder, sizeof t->at_data, 1);
        if (!place)
            return false;
        memcpy(place, t->at_data, sizeof t->at_data);
        *all[i].place = place;
    }
    f->parts.places = &f->places;
    return true;
}

bool scd_oip_join(scd_decoder *decoder, const scd_oip_tensor *inputs, size_t n, scd_request *out)
{
    forms f = {.decoder = decoder, .out = out};
    sort_out(&f, inputs, n);
    if (is_fine(&f))
        check_form(&f);
    if (!is_fine(&f))
        return true;
    if (!set_places(&f) || !(f.of[MATRIX] ? join_dense(&f) : join_sparse(&f)))
        return false;
    if (out->is_matrix) {
        out->shared_genes = f.parts.genes;
        out->n_shared_genes = f.parts.n_genes;
    }
    return true;
}
