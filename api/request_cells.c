/* request_cells.c - {"cells": [{"id", "genes", "values", "total"}, ...]}: each cell with names of
 * its own. */
#include "api/request_forms.h"

#include <math.h>
#include <string.h>

enum { HAS_ID = 1, HAS_GENES = 2, HAS_VALUES = 4, HAS_TOTAL = 8 };

typedef struct cell_parts {
    unsigned has;
    const scd_text *genes;
    const double *values;
    size_t n_genes, n_values;
    scd_fault fault;
} cell_parts;

bool scd_cell_blame(scd_decoder *decoder, scd_cell_input *cell, const scd_fault *fault)
{
    if (fault->kind == SCD_PROBLEM_NONE || cell->fault)
        return true;
    size_t n_detail = strlen(fault->detail) + 1, n_pointer = strlen(fault->pointer) + 1;
    char *text = scd_decoder_alloc(decoder, n_detail + n_pointer, 1);
    if (!text)
        return false;
    memcpy(text, fault->detail, n_detail);
    memcpy(text + n_detail, fault->pointer, n_pointer);
    cell->fault = text;
    cell->fault_pointer = text + n_detail;
    cell->fault_kind = fault->kind;
    cell->n = 0;
    return true;
}

static unsigned member_of(scd_text key)
{
    return scd_text_is(key, "genes")    ? HAS_GENES
           : scd_text_is(key, "values") ? HAS_VALUES
           : scd_text_is(key, "id")     ? HAS_ID
           : scd_text_is(key, "total")  ? HAS_TOTAL
                                        : 0;
}

/* One member of a cell, whose key has been read; place->member is free to use. */
static bool read_member(scd_decoder *decoder, scd_place *place, scd_text key, cell_parts *parts,
                        scd_cell_input *cell)
{
    size_t max = decoder->limits->max_genes_per_cell;
    unsigned member = member_of(key);
    if (!member) {
        scd_fault_unknown_member(&parts->fault, place, key, "id, genes, values, total");
        return scd_scan_skip(&decoder->scan, NULL);
    }
    bool again = parts->has & member, ok;
    parts->has |= member;
    switch (member) {
    case HAS_GENES:
        place->member = "genes";
        ok = scd_read_names(decoder, place, max, &parts->genes, &parts->n_genes, &parts->fault);
        break;
    case HAS_VALUES:
        place->member = "values";
        ok = scd_read_values(decoder, place, max, &parts->values, &parts->n_values, &parts->fault);
        break;
    case HAS_ID:
        place->member = "id";
        ok = scd_read_text(decoder, place, decoder->limits->max_name_bytes, &cell->id,
                           &parts->fault);
        break;
    default:
        place->member = "total";
        ok = scd_read_total(decoder, place, &cell->total, &parts->fault);
    }
    if (again)
        scd_fault_set(&parts->fault, SCD_PROBLEM_INVALID, place, "is given twice in one cell");
    place->member = NULL;
    return ok;
}

/* Genes without values, where that is allowed: NaN for each. false: no memory. */
static bool leave_values_open(scd_decoder *decoder, cell_parts *parts)
{
    bool has_names = parts->has & HAS_GENES && parts->fault.kind == SCD_PROBLEM_NONE;
    if (!decoder->values_optional || parts->has & HAS_VALUES || !has_names)
        return true;
    double *values = scd_decoder_alloc(decoder, parts->n_genes, sizeof *values);
    if (!values)
        return false;
    for (size_t i = 0; i < parts->n_genes; i++)
        values[i] = NAN;
    parts->has |= HAS_VALUES;
    parts->values = values;
    parts->n_values = parts->n_genes;
    return true;
}

static void judge_parts(scd_place *place, cell_parts *parts)
{
    if (!(parts->has & HAS_GENES) || !(parts->has & HAS_VALUES)) {
        scd_fault_set(&parts->fault, SCD_PROBLEM_INVALID, place, "\"%s\" is missing",
                      parts->has & HAS_GENES ? "values" : "genes");
        return;
    }
    place->member = "values";
    if (parts->n_genes != parts->n_values)
        scd_fault_set(&parts->fault, SCD_PROBLEM_INVALID, place,
                      "%zu values for %zu genes: give exactly one value for each gene",
                      parts->n_values, parts->n_genes);
    place->member = NULL;
}

static bool read_cell(scd_decoder *decoder, size_t index, scd_cell_input *cell)
{
    scd_place place = {"/cells", index, NULL, SCD_NO_INDEX};
    cell_parts parts;
    parts.has = 0;
    parts.genes = NULL;
    parts.values = NULL;
    parts.n_genes = parts.n_values = 0;
    parts.fault.kind = SCD_PROBLEM_NONE; /* not cleared as a whole: its texts are 400 bytes */
    *cell = (scd_cell_input){0};
    scd_scan *scan = &decoder->scan;
    scd_scan_type type = scd_scan_peek(scan);
    if (type != SCD_SCAN_OBJECT) {
        if (!scd_scan_skip(scan, NULL))
            return false;
        scd_fault_set(&parts.fault, SCD_PROBLEM_INVALID, &place,
                      "must be an object with \"genes\" and \"values\", not %s",
                      scd_scan_type_name(type));
        return scd_cell_blame(decoder, cell, &parts.fault);
    }
    scd_text key;
    if (!scd_scan_enter(scan, '{'))
        return false;
    for (size_t i = 0; scd_scan_member(scan, i, decoder->arena, &key); i++)
        if (!read_member(decoder, &place, key, &parts, cell))
            return false;
    if (scan->error || !leave_values_open(decoder, &parts))
        return false;
    judge_parts(&place, &parts);
    cell->n = parts.n_genes;
    cell->genes = parts.genes;
    cell->values = parts.values;
    return scd_cell_blame(decoder, cell, &parts.fault);
}

bool scd_read_cells(scd_decoder *decoder, scd_request *out)
{
    scd_scan *scan = &decoder->scan;
    scd_scan_type type = scd_scan_peek(scan);
    if (type != SCD_SCAN_ARRAY) {
        if (!scd_scan_skip(scan, NULL))
            return false;
        scd_problem_add(decoder->problem, "/cells", "must be an array of cells, not %s",
                        scd_scan_type_name(type));
        return true;
    }
    if (!scd_scan_enter(scan, '['))
        return false;
    scd_scan_vec *vec = &decoder->cells;
    vec->max = decoder->limits->max_cells;
    size_t n = 0;
    for (; scd_scan_element(scan, n); n++) {
        if (n >= vec->max) { /* only counted, for the message */
            if (!scd_scan_skip(scan, NULL))
                return false;
            continue;
        }
        if (!scd_scan_vec_reserve(vec, n, sizeof(scd_cell_input)))
            return scd_scan_no_memory(scan);
        if (!read_cell(decoder, n, (scd_cell_input *)vec->data + n))
            return false;
    }
    if (scan->error)
        return false;
    if (n > vec->max) {
        scd_fault fault = {0};
        scd_place place = {"/cells", SCD_NO_INDEX, NULL, SCD_NO_INDEX};
        scd_fault_set(&fault, SCD_PROBLEM_TOO_LARGE, &place,
                      "%zu cells, at most %zu are accepted: send several requests", n, vec->max);
        scd_problem_add_fault(decoder->problem, &fault);
        return true;
    }
    out->cells = scd_decoder_alloc(decoder, n, sizeof *out->cells);
    if (!out->cells)
        return false;
    if (n)
        memcpy(out->cells, vec->data, n * sizeof *out->cells);
    out->n_cells = n;
    return true;
}
