/* cells_choose.c - see cells_choose.h: what the values of a matrix are, and which matrix to take.
 *
 * A matrix is judged by the stored values of some of its rows:
 *
 *   NaN, infinity      of no use
 *   negative           scaled: of no use
 *   whole              counts
 *   up to ln(1 + 1e4)  log1p_cp10k; rows whose expm1 sums to 1e4 support it, but on a subset of the
 *                      genes they do not, so that it is only told
 *   else               normalised in some other way: of no use
 *
 * Counts anywhere in the order go before log1p. Layers other than "counts" are never taken unless
 * asked for (they may be spliced counts, or another sample's), but named where nothing else is of
 * use. */
#include "api/cells_choose.h"

#include "api/cells_genes.h"
#include "engine/base/buf.h"
#include "engine/base/mem.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    PIECES = 10,
    PIECE_ROWS = 100,
    MAX_CANDIDATES = 12, /* that are looked at, the usual three included */
    LOOK_BYTES = 1 << 29
};

/* A little above ln(1 + 1e4), as float32 rounds it. */
static const double MOST_LOG1P = 9.21046;

typedef enum verdict {
    COUNTS,
    LOG1P,
    SCALED,     /* negative values */
    NORMALISED, /* fractions, and too large for log1p */
    NOT_FINITE,
    NOTHING, /* no value but zero */
    BROKEN   /* cannot be read */
} verdict;

typedef struct evidence {
    const char *name;
    scd_cells_matrix facts;
    verdict verdict;
    size_t rows;     /* looked at */
    uint64_t n;      /* values in them */
    double min, max; /* of the values */
    bool fractions;
    double bad; /* the value that decided against it */
    size_t bad_row, bad_col;
    double min_sum, max_sum;         /* of expm1 over a row */
    double min_total, max_total;     /* of the values over a row */
    size_t cells, recoverable_cells; /* with values that tell; whose values are multiples */
    scd_error fault;                 /* BROKEN */
} evidence;

/* ---- looking ---- */

/* Is expm1(x) a multiple of the least for each x of the row? Values may have been rounded to three
 * decimals, as in scanpy's example data, so that a multiple k is known to 0.15 %: those above 50
 * decide nothing. A row without a multiple between tells nothing. */
static void look_for_multiples(evidence *e, const double *values, size_t n)
{
    double least = HUGE_VAL;
    size_t telling = 0;
    bool whole = true;
    for (size_t i = 0; i < n; i++)
        if (values[i] > 0 && values[i] < least)
            least = values[i];
    double unit = expm1(least);
    for (size_t i = 0; i < n && whole; i++) {
        double k = expm1(values[i]) / unit;
        if (k < 1.2 || k > 50)
            continue;
        telling++;
        whole = fabs(k - round(k)) <= 1e-3 + 1.5e-3 * k;
    }
    e->cells += telling > 0;
    e->recoverable_cells += telling > 0 && whole;
}

static bool decides_against(evidence *e, double value, size_t row, size_t col)
{
    if (isfinite(value) && value >= 0)
        return false;
    e->verdict = isfinite(value) ? SCALED : NOT_FINITE;
    e->bad = value;
    e->bad_row = row;
    e->bad_col = col;
    return true;
}

/* False: the row decides against the matrix. */
static bool look_at_row(evidence *e, const double *values, const uint32_t *cols, size_t n,
                        size_t row)
{
    double total = 0, sum = 0;
    for (size_t i = 0; i < n; i++) {
        double value = values[i];
        if (decides_against(e, value, row, cols[i]))
            return false;
        if (value != floor(value) && !e->fractions) {
            e->fractions = true;
            e->bad = value;
            e->bad_row = row;
            e->bad_col = cols[i];
        }
        e->max = value > e->max ? value : e->max;
        e->min = value < e->min ? value : e->min;
        total += value;
        sum += value <= MOST_LOG1P ? expm1(value) : 0;
    }
    e->rows++;
    e->n += n;
    if (n == 0)
        return true;
    e->min_total = total < e->min_total ? total : e->min_total;
    e->max_total = total > e->max_total ? total : e->max_total;
    e->min_sum = sum < e->min_sum ? sum : e->min_sum;
    e->max_sum = sum > e->max_sum ? sum : e->max_sum;
    if (e->fractions && e->max <= MOST_LOG1P)
        look_for_multiples(e, values, n);
    return true;
}

static scd_code look_at_piece(scd_cells *file, evidence *e, size_t first, size_t n, bool *go_on,
                              scd_error *err)
{
    scd_arena arena;
    scd_cells_rows rows;
    scd_arena_init(&arena, LOOK_BYTES);
    scd_code code = scd_cells_rows_read(file, e->name, first, n, &arena, &rows, err);
    for (size_t i = 0; i < n && !code && *go_on; i++) {
        uint64_t from = rows.indptr[i];
        *go_on = look_at_row(e, rows.data + from, rows.indices + from, rows.indptr[i + 1] - from,
                             first + i);
    }
    scd_arena_release(&arena);
    return code;
}

static verdict judge(const evidence *e)
{
    if (e->n == 0)
        return NOTHING;
    if (!e->fractions)
        return COUNTS;
    return e->max <= MOST_LOG1P ? LOG1P : NORMALISED;
}

/* SCD_E_NOMEM alone is an error: anything else that goes wrong is evidence. */
static scd_code look(scd_cells *file, const char *name, evidence *e, scd_error *err)
{
    *e = (evidence){.name = name,
                    .min = HUGE_VAL,
                    .max = -HUGE_VAL,
                    .min_sum = HUGE_VAL,
                    .min_total = HUGE_VAL,
                    .verdict = BROKEN};
    scd_code code = scd_cells_matrix_get(file, name, &e->facts, &e->fault);
    size_t n = e->facts.rows;
    bool go_on = true;
    if (n <= PIECES * PIECE_ROWS) {
        for (size_t at = 0; at < n && !code && go_on; at += PIECE_ROWS)
            code = look_at_piece(file, e, at, n - at < PIECE_ROWS ? n - at : PIECE_ROWS, &go_on,
                                 &e->fault);
    } else {
        for (size_t i = 0; i < PIECES && !code && go_on; i++) {
            double at = (double)(n - PIECE_ROWS) * (double)i / (PIECES - 1);
            code = look_at_piece(file, e, (size_t)at, PIECE_ROWS, &go_on, &e->fault);
        }
    }
    if (code == SCD_E_NOMEM) {
        if (err)
            *err = e->fault;
        return code;
    }
    if (!code && go_on)
        e->verdict = judge(e);
    return SCD_OK;
}

static bool usable(const evidence *e)
{
    return e->verdict == COUNTS || e->verdict == LOG1P;
}

static bool recoverable(const evidence *e)
{
    return e->verdict == LOG1P && e->cells > 0 &&
           (double)e->recoverable_cells >= 0.98 * (double)e->cells;
}

/* ---- telling ---- */

static const char *verdict_name(const evidence *e)
{
    return e->verdict == COUNTS ? "counts" : "log1p_cp10k";
}

/* All rows within 1 % of one another: normalised to that. */
static bool constant(double min, double max)
{
    return min > 0 && max <= min * 1.01;
}

/* "raw/X is log1p_cp10k (...)" */
static void tell_usable(const evidence *e, scd_buf *out)
{
    scd_buf_printf(out, "%s holds %s (%zu rows looked at: ", e->name, verdict_name(e), e->rows);
    if (e->verdict == COUNTS) {
        scd_buf_printf(out, "whole numbers up to %.15g)", e->max);
        return;
    }
    scd_buf_printf(out, "fractions from %.4g to %.4g", e->min, e->max);
    if (constant(e->min_sum, e->max_sum))
        scd_buf_printf(out, "; expm1 of every row sums to %.0f%s", e->max_sum,
                       fabs(e->max_sum - 1e4) < 500 ? "" : ", not 10000: normalised to that");
    scd_buf_printf(out, "; in %zu of %zu cells expm1 is in multiples of the least: counts %s)",
                   e->recoverable_cells, e->cells,
                   recoverable(e) ? "can be recovered" : "cannot be recovered");
}

/* "X is scaled (-1.2 in row 3, column 17)" */
static void tell_unusable(const evidence *e, scd_buf *out)
{
    switch (e->verdict) {
    case SCALED:
        scd_buf_printf(out, "%s is scaled (%.6g in row %zu, column %zu)", e->name, e->bad,
                       e->bad_row, e->bad_col);
        break;
    case NOT_FINITE:
        scd_buf_printf(out, "%s has %.6g in row %zu, column %zu", e->name, e->bad, e->bad_row,
                       e->bad_col);
        break;
    case NORMALISED:
        scd_buf_printf(out,
                       "%s holds neither counts (%.6g in row %zu, column %zu) nor log1p_cp10k "
                       "(%.6g, the most is 9.2104)",
                       e->name, e->bad, e->bad_row, e->bad_col, e->max);
        if (constant(e->min_total, e->max_total))
            scd_buf_printf(out, "; every row sums to %.0f: normalised, not log-transformed",
                           e->max_total);
        break;
    case NOTHING:
        if (e->facts.rows)
            scd_buf_printf(out, "%s is zero in the %zu rows looked at", e->name, e->rows);
        else
            scd_buf_printf(out, "%s has no rows: no cells in it", e->name);
        break;
    default:
        scd_buf_printf(out, "%s cannot be read (%s)", e->name, e->fault.message);
        break;
    }
}

/* ---- choosing ---- */

struct candidates {
    evidence at[MAX_CANDIDATES];
    size_t n;
    size_t n_usual; /* layers/counts, raw/X, X as far as they are there */
};

static bool is_there(const scd_cells *file, const char *name)
{
    for (size_t i = 0; i < scd_cells_n_matrices(file); i++)
        if (strcmp(scd_cells_matrix_name(file, i), name) == 0)
            return true;
    return false;
}

static bool is_anndata(const scd_cells *file)
{
    return strcmp(scd_cells_format(file), "h5ad") == 0;
}

static scd_code look_at_usual(scd_cells *file, struct candidates *c, scd_error *err)
{
    static const char *const usual[] = {"layers/counts", "raw/X", "X"};
    scd_code code = SCD_OK;
    if (!is_anndata(file) && scd_cells_n_matrices(file)) {
        code = look(file, scd_cells_matrix_name(file, 0), c->at, err);
        c->n = c->n_usual = 1;
        return code;
    }
    for (size_t i = 0; i < 3 && !code; i++) {
        if (!is_there(file, usual[i]))
            continue;
        code = look(file, usual[i], c->at + c->n, err);
        if (!code && c->at[c->n++].verdict == COUNTS)
            break; /* nothing later can be better */
    }
    c->n_usual = c->n;
    return code;
}

/* Only to say what could be used instead. */
static scd_code look_at_others(scd_cells *file, struct candidates *c, const char *named,
                               scd_error *err)
{
    scd_code code = SCD_OK;
    for (size_t i = 0; i < scd_cells_n_matrices(file) && c->n < MAX_CANDIDATES && !code; i++) {
        const char *name = scd_cells_matrix_name(file, i);
        bool seen = named && strcmp(name, named) == 0;
        for (size_t k = 0; k < c->n && !seen; k++)
            seen = strcmp(c->at[k].name, name) == 0;
        if (!seen && !(code = look(file, name, c->at + c->n, err)))
            c->n++;
    }
    return code;
}

/* "; use raw/X (counts) or layers/x (log1p_cp10k)" */
static void tell_instead(const struct candidates *c, scd_buf *out)
{
    size_t told = 0;
    for (size_t i = 0; i < c->n; i++)
        if (usable(c->at + i))
            scd_buf_printf(out, "%s%s (%s)", told++ ? " or " : "; use ", c->at[i].name,
                           verdict_name(c->at + i));
    if (!told)
        scd_buf_printf(out,
                       "%sno matrix of the file is of use: keep raw counts in "
                       "layers[\"counts\"]",
                       out->n_bytes ? "; " : "");
}

static scd_code refuse(const scd_cells *file, scd_buf *text, scd_error *err)
{
    if (scd_cells_n_matrices(file) == 0)
        return scd_fail(err, SCD_E_INVALID, "%s: no matrix at all, neither X nor raw/X nor layers",
                        scd_cells_path(file));
    return scd_fail(err, SCD_E_INVALID, "%s: %s", scd_cells_path(file),
                    text->failed ? "no matrix of the file is of use" : text->data);
}

/* The matrix that the user named, or says why not and what instead. */
static scd_code choose_named(scd_cells *file, const char *matrix, struct candidates *c,
                             const evidence **out, scd_buf *text, scd_error *err)
{
    scd_cells_matrix facts;
    char layer[1024];
    const char *name = matrix;
    /* "counts" for "layers/counts", and anndata's own way to write raw.X. */
    if (!is_there(file, name) && snprintf(layer, sizeof layer, "layers/%s", matrix) > 0 &&
        is_there(file, layer))
        name = layer;
    if (strcmp(name, "raw.X") == 0)
        name = "raw/X";
    scd_code code = scd_cells_matrix_get(file, name, &facts, err);
    if (!code)
        code = look(file, facts.name, c->at, err);
    if (code)
        return code;
    c->n = 1;
    *out = c->at;
    if (usable(c->at))
        return SCD_OK;
    if (c->at->verdict == BROKEN) {
        if (err)
            *err = c->at->fault;
        return c->at->fault.code;
    }
    tell_unusable(c->at, text);
    code = look_at_others(file, c, NULL, err);
    if (code)
        return code;
    tell_instead(c, text);
    return refuse(file, text, err);
}

/* Where nothing can be read, that is what is wrong; OK: something can. */
static scd_code all_broken(const struct candidates *c, scd_error *err)
{
    for (size_t i = 0; i < c->n; i++)
        if (c->at[i].verdict != BROKEN)
            return SCD_OK;
    if (c->n && err)
        *err = c->at[0].fault;
    return c->n ? c->at[0].fault.code : SCD_OK;
}

static scd_code choose_by_evidence(scd_cells *file, struct candidates *c, const evidence **out,
                                   scd_buf *text, scd_error *err)
{
    scd_code code = look_at_usual(file, c, err);
    if (code)
        return code;
    for (size_t i = 0; i < c->n; i++) /* counts first, then the first log1p */
        if (usable(c->at + i) && (!*out || (c->at[i].verdict == COUNTS && *out != c->at + i)))
            *out = c->at + i;
    if (*out)
        return SCD_OK;
    if ((code = look_at_others(file, c, NULL, err)))
        return code;
    if ((code = all_broken(c, err)))
        return code;
    for (size_t i = 0; i < c->n_usual; i++) {
        scd_buf_puts(text, i ? "; " : "");
        tell_unusable(c->at + i, text);
    }
    tell_instead(c, text);
    return refuse(file, text, err);
}

static bool differ_in_genes(const scd_cells *file)
{
    return scd_cells_n_matrices(file) > 1 && !is_anndata(file);
}

/* Matrices that differ in their genes: the one with most known ones, of equals that with most
 * entries, of equals the first. */
static scd_code choose_by_names(scd_cells *file, const char *gene_column, const scd_gene_book *book,
                                struct candidates *c, const evidence **out, scd_buf *text,
                                scd_error *err)
{
    const char *best = NULL;
    size_t most = 0;
    uint64_t n_stored = 0;
    scd_buf_printf(text, "of the matrices");
    for (size_t i = 0; i < scd_cells_n_matrices(file); i++) {
        scd_cells_matrix facts;
        scd_cells_genes genes;
        scd_arena arena;
        const char *name = scd_cells_matrix_name(file, i);
        if (scd_cells_matrix_get(file, name, &facts, NULL))
            continue; /* damaged; another one may be of use */
        scd_arena_init(&arena, LOOK_BYTES);
        scd_code code =
            scd_cells_genes_choose(file, facts.var_frame, gene_column, book, &arena, &genes, err);
        scd_arena_release(&arena);
        if (code)
            return code;
        scd_buf_printf(text, "%s \"%s\" (%zu genes %s)", best ? "," : "", name, genes.n_known,
                       book ? "known" : "by the look of their names");
        if (!best || genes.n_known > most || (genes.n_known == most && facts.n_stored > n_stored)) {
            best = name;
            most = genes.n_known;
            n_stored = facts.n_stored;
        }
    }
    scd_buf_puts(text, " ");
    return best ? choose_named(file, best, c, out, text, err)
                : choose_by_evidence(file, c, out, text, err);
}

scd_code scd_cells_choose(scd_cells *file, const char *matrix, const char *gene_column,
                          const scd_gene_book *book, scd_arena *arena, scd_cells_choice *out,
                          scd_error *err)
{
    scd_buf text;
    const evidence *e = NULL;
    scd_cells_genes genes;
    scd_buf_init(&text, 8192);
    struct candidates *c = scd_calloc(1, sizeof *c);
    scd_code code =
        c ? SCD_OK : scd_fail(err, SCD_E_NOMEM, "%s: out of memory", scd_cells_path(file));
    if (!code)
        code = matrix                  ? choose_named(file, matrix, c, &e, &text, err)
               : differ_in_genes(file) ? choose_by_names(file, gene_column, book, c, &e, &text, err)
                                       : choose_by_evidence(file, c, &e, &text, err);
    if (code)
        goto done;
    *out = (scd_cells_choice){
        .matrix = scd_arena_strndup(arena, e->name, strlen(e->name)),
        .kind = e->verdict == COUNTS ? SCD_INPUT_COUNTS : SCD_INPUT_LOG1P_CP10K,
        .recoverable = recoverable(e),
        .normalised_to = 1e4,
        .frame = scd_arena_strndup(arena, e->facts.var_frame, strlen(e->facts.var_frame)),
        .obs_frame = scd_arena_strndup(arena, e->facts.obs_frame, strlen(e->facts.obs_frame))};
    if (!out->frame || !out->obs_frame) {
        code = scd_fail(err, SCD_E_NOMEM, "%s: out of memory", scd_cells_path(file));
        goto done;
    }
    if (e->verdict == LOG1P && constant(e->min_sum, e->max_sum))
        out->normalised_to = (e->min_sum + e->max_sum) / 2;
    if ((code = scd_cells_genes_choose(file, out->frame, gene_column, book, arena, &genes, err)))
        goto done;
    out->gene_column = genes.column;
    tell_usable(e, &text);
    for (size_t i = 0; i < c->n && !matrix; i++)
        if (c->at + i != e && !usable(c->at + i)) {
            scd_buf_puts(&text, "; ");
            tell_unusable(c->at + i, &text);
        }
    out->matrix_why = text.failed ? NULL : scd_arena_strndup(arena, text.data, text.n_bytes);
    scd_buf_printf(&text, "; %s", genes.why);
    out->why = text.failed ? NULL : scd_arena_strndup(arena, text.data, text.n_bytes);
    if (!out->why || !out->matrix_why || !out->matrix)
        code = scd_fail(err, SCD_E_NOMEM, "%s: out of memory", scd_cells_path(file));

done:
    free(c);
    scd_buf_release(&text);
    return code;
}
