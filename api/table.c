/* table.c - a table of numbers with names on both sides: .csv, .tsv, gzip or not.
 *
 * The separator is the one of tab, comma and semicolon that the first line has most of. The first
 * line names the columns: as many names as the other lines have fields, or one less (R writes no
 * name above its row names). Fields may be quoted (RFC 4180), but not over several lines. Which
 * side the genes are on is not decided here: there are two matrices, one for each reading.
 *
 * Zeros are not kept, so that memory is bounded by the names and by api/entries.h. */
#include "api/text_cells.h"
#include "api/text_in.h"

#include "engine/base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct table {
    scd_text_cells *cells;
    scd_text_in *in;
    char separator;
    scd_text_names header; /* its first one may stand above the row names */
    size_t n_fields;       /* of the other lines, row name included */
} table;

/* ---- fields ---- */

/* The field at *at, unquoted in place; *at moves behind it and its separator, NULL: it was the
 * last. */
static bool next_field(const table *t, char **at, char *end, char **field, size_t *n)
{
    char *from = *at;
    if (from < end && *from == '"') {
        char *to = from;
        *field = from;
        for (from++; from < end; from++) {
            if (*from == '"' && from + 1 < end && from[1] == '"')
                from++;
            else if (*from == '"')
                break;
            *to++ = *from;
        }
        if (from == end || (from + 1 < end && from[1] != t->separator))
            return false; /* no closing quote, or something behind it */
        *n = (size_t)(to - *field);
        *at = from + 1 < end ? from + 2 : NULL;
        return true;
    }
    char *stop = memchr(from, t->separator, (size_t)(end - from));
    *field = from;
    *n = (size_t)((stop ? stop : end) - from);
    *at = stop ? stop + 1 : NULL;
    return true;
}

static scd_code bad_quotes(const table *t, size_t field, scd_error *err)
{
    return scd_text_in_fail(t->in, SCD_E_INVALID, err, "field %zu: quotes that do not match",
                            field + 1);
}

/* From `at` on; NULL: none. */
static size_t count_fields(const table *t, char *at, char *end)
{
    size_t n = 0, n_field;
    char *field;
    while (at && next_field(t, &at, end, &field, &n_field))
        n++;
    return n;
}

static char find_separator(const char *line, size_t n)
{
    static const char among[] = "\t,;";
    size_t counts[3] = {0}, best = 0;
    bool quoted = false;
    for (size_t i = 0; i < n; i++) {
        quoted = quoted != (line[i] == '"');
        const char *which = quoted || !line[i] ? NULL : strchr(among, line[i]);
        if (which)
            counts[which - among]++;
    }
    for (size_t i = 1; i < 3; i++)
        best = counts[i] > counts[best] ? i : best;
    return counts[best] ? among[best] : '\0';
}

static scd_code read_header(table *t, scd_error *err)
{
    char *line, *at, *field;
    size_t n, n_field;
    scd_code code = scd_text_in_line(t->in, &line, &n, err);
    if (code)
        return code;
    t->separator = line ? find_separator(line, n) : '\0';
    if (!t->separator)
        return scd_text_in_fail(t->in, SCD_E_INVALID, err,
                                "text, but no table: its first line has neither tabs nor commas");
    t->cells->format = t->separator == '\t' ? "tsv" : "csv";
    for (at = line; at && !code;) {
        if (!next_field(t, &at, line + n, &field, &n_field))
            return bad_quotes(t, t->header.n, err);
        code = scd_text_names_add(t->cells, &t->header, field, n_field, "first line", err);
    }
    return code;
}

/* ---- lines ---- */

/* `n_fields` of its line: as many as names, and the first of those stands above the row names. */
static scd_code not_a_number(const table *t, const char *text, size_t n, size_t field,
                             size_t n_fields, scd_error *err)
{
    size_t shift = t->header.n == n_fields ? 0 : 1;
    const char *column =
        field >= shift && field - shift < t->header.n ? t->header.at[field - shift] : "";
    return scd_text_in_fail(t->in, SCD_E_INVALID, err,
                            "column \"%.60s\": \"%.*s\" is no number (leave columns that are not "
                            "genes out of the table)",
                            column, (int)(n < 40 ? n : 40), text);
}

static scd_code read_line(table *t, char *line, size_t n, scd_error *err)
{
    scd_text_names *rows = &t->cells->frames[0].index;
    char *at = line, *end = line + n, *field;
    size_t n_field, i = 0, row = rows->n;
    scd_code code = SCD_OK;
    for (; at && !code; i++) {
        double value = 0;
        if (!next_field(t, &at, end, &field, &n_field))
            return bad_quotes(t, i, err);
        if (i == 0) {
            code = scd_text_names_add(t->cells, rows, field, n_field, "first column", err);
            continue;
        }
        if (n_field == 1 && *field == '0')
            continue;
        if (!scd_number_read(field, field + n_field, &value))
            return not_a_number(t, field, n_field, i, i + 1 + count_fields(t, at, end), err);
        if (value != 0)
            code = scd_entries_add(t->cells->entries,
                                   (scd_entry){(uint32_t)row, (uint32_t)(i - 1), value}, err);
    }
    if (code)
        return code;
    if (row == 0) {
        if (i < 2 || (i != t->header.n && i != t->header.n + 1))
            return scd_text_in_fail(t->in, SCD_E_INVALID, err,
                                    "%zu fields below %zu names in the first line: not a table "
                                    "with names on both sides",
                                    i, t->header.n);
        t->n_fields = i;
    }
    if (i != t->n_fields)
        return scd_text_in_fail(t->in, SCD_E_CORRUPT, err, "%zu fields, the lines before have %zu",
                                i, t->n_fields);
    return SCD_OK;
}

static scd_code read_lines(table *t, scd_error *err)
{
    scd_text_names *rows = &t->cells->frames[0].index;
    for (;;) {
        char *line;
        size_t n;
        scd_code code = scd_text_in_line(t->in, &line, &n, err);
        if (code || !line)
            return code;
        if (n == 0)
            continue;
        if (rows->n == UINT32_MAX - 1)
            return scd_text_in_fail(t->in, SCD_E_TOO_LARGE, err, "more lines than are read");
        if ((code = read_line(t, line, n, err)))
            return code;
    }
}

/* ---- the whole ---- */

/* A first column of numbers is no column of names: the table was written without one. */
static scd_code check_names(table *t, scd_error *err)
{
    const scd_text_names *rows = &t->cells->frames[0].index;
    scd_arena arena;
    scd_cells_categories c = {0};
    double number;
    if (rows->n == 0 || !scd_number_read(rows->at[0], rows->at[0] + strlen(rows->at[0]), &number))
        return SCD_OK;
    scd_arena_init(&arena, SCD_TEXT_NAMES_BYTES);
    bool ok = scd_cells_intern(rows->at, rows->n, &arena, &c);
    scd_arena_release(&arena);
    if (!ok)
        return scd_fail(err, SCD_E_NOMEM, "%s: out of memory", t->cells->path);
    if (c.n_categories == rows->n)
        return SCD_OK;
    return scd_fail(err, SCD_E_INVALID,
                    "%s: its first column holds numbers (\"%.40s\") that come more than once, no "
                    "names: write the names of the lines in front",
                    t->cells->path, rows->at[0]);
}

static scd_code finish(table *t, scd_error *err)
{
    scd_text_cells *cells = t->cells;
    scd_text_frame *lines = cells->frames, *fields = cells->frames + 1;
    if (lines->index.n == 0)
        return scd_fail(err, SCD_E_INVALID, "%s: one line, no values", cells->path);
    scd_code code = check_names(t, err);
    if (code)
        return code;
    fields->index = t->header;
    t->header = (scd_text_names){0};
    if (fields->index.n == t->n_fields) { /* the first stands above the row names */
        fields->index.n--;
        memmove(fields->index.at, fields->index.at + 1, fields->index.n * sizeof *fields->index.at);
    }
    lines->name = "lines";
    fields->name = "columns";
    cells->matrices[0] = (scd_text_matrix){SCD_CELLS_IN_ROWS, false, 0, 1};
    cells->matrices[1] = (scd_text_matrix){SCD_CELLS_IN_COLUMNS, true, 1, 0};
    cells->n_matrices = 2;
    return scd_entries_end(cells->entries, lines->index.n, fields->index.n, err);
}

scd_code scd_table_open(const char *path, void **self, scd_error *err)
{
    table t = {0};
    struct stat facts;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    scd_code code = SCD_OK;
    if (fd < 0 || fstat(fd, &facts))
        code = scd_fail(err, SCD_E_IO, "%s: cannot be opened: %s", path, strerror(errno));
    if (!code)
        code = scd_text_cells_new(path, "csv", &t.cells, err);
    if (!code)
        code = scd_text_in_new(scd_bytes_of_fd, &fd, path,
                               scd_text_in_bound((uint64_t)facts.st_size), &t.in, err);
    if (!code)
        code = read_header(&t, err);
    if (!code)
        code = read_lines(&t, err);
    if (!code)
        code = finish(&t, err);
    scd_text_in_free(t.in);
    free(t.header.at);
    if (fd >= 0)
        close(fd);
    if (code)
        scd_text_cells_free(t.cells);
    else
        *self = t.cells;
    return code;
}
