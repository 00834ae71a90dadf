/* mex.c - see mex.h. */
#include "api/mex.h"

#include "engine/base/mem.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_FIELDS = 8 };

/* ---- names of files ---- */

static bool ends_with(const char *text, size_t n, const char *end)
{
    size_t n_end = strlen(end);
    return n >= n_end && memcmp(text + n - n_end, end, n_end) == 0;
}

scd_mex_part scd_mex_part_of(const char *path, size_t *prefix_bytes)
{
    static const struct {
        const char *name;
        scd_mex_part part;
    } known[] = {{"matrix.mtx", SCD_MEX_MATRIX},
                 {"features.tsv", SCD_MEX_FEATURES},
                 {"genes.tsv", SCD_MEX_FEATURES},
                 {"barcodes.tsv", SCD_MEX_BARCODES}};
    size_t n = strlen(path);
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    if (strncmp(name, "._", 2) == 0) /* what macOS puts beside every file */
        return SCD_MEX_N;
    if (ends_with(path, n, ".gz"))
        n -= 3;
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        size_t n_name = strlen(known[i].name);
        if (!ends_with(path, n, known[i].name))
            continue;
        *prefix_bytes = n - n_name;
        return known[i].part;
    }
    return SCD_MEX_N;
}

static scd_code note_name(scd_mex *mex, scd_mex_part part, const char *name, scd_error *err)
{
    size_t prefix, other_prefix;
    scd_mex_part_of(name, &prefix);
    for (size_t i = 0; i < SCD_MEX_N; i++) {
        const char *other = mex->names[i];
        if (!other)
            continue;
        scd_mex_part_of(other, &other_prefix);
        if (i == part || prefix != other_prefix || memcmp(name, other, prefix) != 0)
            return scd_fail(err, SCD_E_INVALID,
                            "%s: %s and %s: more than one matrix, or parts of different ones; give "
                            "one set of matrix.mtx, features.tsv (or genes.tsv) and barcodes.tsv",
                            mex->cells->path, other, name);
    }
    mex->names[part] = scd_strdup(name);
    return mex->names[part] ? SCD_OK
                            : scd_fail(err, SCD_E_NOMEM, "%s: out of memory", mex->cells->path);
}

/* ---- names of features and barcodes ---- */

static size_t split(char *line, size_t n, char *fields[MAX_FIELDS], size_t lengths[MAX_FIELDS])
{
    size_t n_fields = 0;
    for (char *at = line, *end = line + n; at && n_fields < MAX_FIELDS; n_fields++) {
        char *tab = memchr(at, '\t', (size_t)(end - at));
        fields[n_fields] = at;
        lengths[n_fields] = (size_t)((tab ? tab : end) - at);
        at = tab ? tab + 1 : NULL;
    }
    return n_fields;
}

static scd_code read_names(scd_mex *mex, scd_mex_part part, scd_text_in *in, scd_error *err)
{
    scd_text_cells *cells = mex->cells;
    scd_text_frame *f = cells->frames + (part == SCD_MEX_FEATURES);
    size_t n_wanted = 0;
    for (;;) {
        char *line, *fields[MAX_FIELDS];
        size_t n, lengths[MAX_FIELDS];
        scd_code code = scd_text_in_line(in, &line, &n, err);
        if (code || !line)
            return code;
        size_t n_fields = split(line, n, fields, lengths);
        if (f->index.n == 0) {
            n_wanted = part == SCD_MEX_BARCODES ? 1 : n_fields > 3 ? 3 : n_fields;
            f->n_columns = n_wanted == 1 ? 0 : n_wanted - 1;
            f->column_names[0] = "gene_ids";
            f->column_names[1] = "feature_types";
        }
        if (n_fields < n_wanted || (n == 0 && part == SCD_MEX_BARCODES))
            return scd_text_in_fail(in, SCD_E_CORRUPT, err, "%zu fields, %zu are needed", n_fields,
                                    n_wanted);
        size_t index = n_wanted > 1 ? 1 : 0;
        const char *where = scd_text_in_name(in);
        code = scd_text_names_add(cells, &f->index, fields[index], lengths[index], where, err);
        if (!code && n_wanted > 1)
            code = scd_text_names_add(cells, f->columns, fields[0], lengths[0], where, err);
        if (!code && n_wanted > 2)
            code = scd_text_names_add(cells, f->columns + 1, fields[2], lengths[2], where, err);
        if (code)
            return code;
    }
}

/* ---- the matrix ---- */

static bool next_whole(const char **at, const char *end, uint64_t *out)
{
    const char *p = *at;
    uint64_t value = 0;
    while (p < end && (*p == ' ' || *p == '\t'))
        p++;
    const char *from = p;
    while (p < end && *p >= '0' && *p <= '9' && p - from < 18)
        value = value * 10 + (uint64_t)(*p++ - '0');
    *at = p;
    *out = value;
    return p > from && (p == end || *p == ' ' || *p == '\t');
}

static const char *trimmed(const char *at, const char **end)
{
    while (at < *end && (*at == ' ' || *at == '\t'))
        at++;
    while (*end > at && ((*end)[-1] == ' ' || (*end)[-1] == '\t'))
        (*end)--;
    return at;
}

static scd_code read_head(scd_mex *mex, scd_text_in *in, scd_error *err)
{
    char *line;
    size_t n;
    scd_code code = scd_text_in_line(in, &line, &n, err);
    if (code)
        return code;
    if (!line || strncmp(line, "%%MatrixMarket matrix coordinate ", 33) != 0 ||
        !(strstr(line, " integer general") || strstr(line, " real general")))
        return scd_text_in_fail(in, SCD_E_INVALID, err,
                                "read are \"%%%%MatrixMarket matrix coordinate integer general\" "
                                "and \"... real general\"");
    do {
        if ((code = scd_text_in_line(in, &line, &n, err)))
            return code;
    } while (line && (n == 0 || line[0] == '%'));
    const char *at = line, *end = line ? line + n : NULL;
    if (!line || !next_whole(&at, end, &mex->rows) || !next_whole(&at, end, &mex->cols) ||
        !next_whole(&at, end, &mex->n) || mex->rows >= UINT32_MAX || mex->cols >= UINT32_MAX)
        return scd_text_in_fail(in, SCD_E_CORRUPT, err, "must hold rows, columns and entries");
    return SCD_OK;
}

static scd_code read_matrix(scd_mex *mex, scd_text_in *in, scd_error *err)
{
    uint64_t n_read = 0;
    scd_code code = read_head(mex, in, err);
    while (!code) {
        char *line;
        size_t n;
        uint64_t row, col;
        double value;
        if ((code = scd_text_in_line(in, &line, &n, err)) || !line)
            break;
        if (n == 0)
            continue;
        const char *at = line, *end = line + n;
        bool ok = next_whole(&at, end, &row) && next_whole(&at, end, &col);
        const char *number = trimmed(at, &end);
        if (!ok || !scd_number_read(number, end, &value))
            return scd_text_in_fail(in, SCD_E_CORRUPT, err,
                                    "must hold a row, a column and a number");
        if (row == 0 || row > mex->rows || col == 0 || col > mex->cols)
            return scd_text_in_fail(in, SCD_E_CORRUPT, err,
                                    "row %" PRIu64 ", column %" PRIu64 "; the matrix has %" PRIu64
                                    " x %" PRIu64,
                                    row, col, mex->rows, mex->cols);
        if (++n_read > mex->n)
            return scd_text_in_fail(in, SCD_E_CORRUPT, err,
                                    "more than the %" PRIu64 " entries it speaks of", mex->n);
        if (value != 0) /* ours by cells: the columns are the barcodes */
            code =
                scd_entries_add(mex->cells->entries,
                                (scd_entry){(uint32_t)(col - 1), (uint32_t)(row - 1), value}, err);
    }
    if (!code && n_read < mex->n)
        code = scd_text_in_fail(in, SCD_E_CORRUPT, err,
                                "cut off: ends after %" PRIu64 " of %" PRIu64 " entries", n_read,
                                mex->n);
    return code;
}

scd_code scd_mex_read(scd_mex *mex, scd_mex_part part, const char *name, scd_text_in *in,
                      scd_error *err)
{
    scd_code code = note_name(mex, part, name, err);
    if (code)
        return code;
    return part == SCD_MEX_MATRIX ? read_matrix(mex, in, err) : read_names(mex, part, in, err);
}

/* ---- the whole ---- */

scd_code scd_mex_finish(scd_mex *mex, scd_error *err)
{
    static const char *const wanted[] = {"matrix.mtx", "features.tsv or genes.tsv", "barcodes.tsv"};
    scd_text_cells *cells = mex->cells;
    for (size_t i = 0; i < SCD_MEX_N; i++)
        if (!mex->names[i])
            return scd_fail(err, SCD_E_INVALID,
                            "%s: no %s in it: a 10x Genomics MEX matrix is matrix.mtx, "
                            "features.tsv (or genes.tsv) and barcodes.tsv, each may be .gz",
                            cells->path, wanted[i]);
    cells->frames[0].name = "obs";
    cells->frames[1].name = "var";
    size_t n_cells = cells->frames[0].index.n, n_genes = cells->frames[1].index.n;
    bool is_turned = mex->rows != n_genes && mex->rows == n_cells && mex->cols == n_genes;
    if (!is_turned && (mex->rows != n_genes || mex->cols != n_cells))
        return scd_fail(err, SCD_E_CORRUPT,
                        "%s: %s is %" PRIu64 " x %" PRIu64 ", but %s has %zu names and %s %zu",
                        cells->path, mex->names[SCD_MEX_MATRIX], mex->rows, mex->cols,
                        mex->names[SCD_MEX_FEATURES], n_genes, mex->names[SCD_MEX_BARCODES],
                        n_cells);
    cells->matrices[0] = (scd_text_matrix){"matrix", is_turned, 0, 1};
    cells->n_matrices = 1;
    return scd_entries_end(cells->entries, is_turned ? n_genes : n_cells,
                           is_turned ? n_cells : n_genes, err);
}

void scd_mex_release(scd_mex *mex)
{
    for (size_t i = 0; i < SCD_MEX_N; i++)
        free(mex->names[i]);
}
