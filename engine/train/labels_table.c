/* labels_table.c - labels from a table, see labels.h.
 *
 * A table's rows are matched to cells through a sorted index of (barcode, file): n log n string
 * comparisons once, against a hash table that nothing else here would need. */
#include "engine/train/labels_impl.h"

#include "engine/base/mem.h"
#include "engine/model/file.h"
#include "engine/model/tsv.h"
#include "engine/train/corpus_barcodes.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAX_COLUMNS = 1024, MAX_BARCODE = 512 };

/* The whole file, free() it. */
static scd_code read_text(const char *path, char **out, size_t *n, scd_error *err)
{
    int fd;
    *out = NULL;
    scd_code code = scd_file_open(path, &fd, n, err);
    if (code)
        return code;
    code = scd_file_read(fd, path, (size_t)1 << 32, out, n, err);
    close(fd);
    return code;
}

/* A table may be for more files than these: labels that no cell has are no classes here. */
static void drop_empty(scd_labels *l)
{
    size_t kept = 0, n = l->n_classes;
    for (size_t k = 0; k < n; k++) {
        bool used = false;
        for (size_t i = 0; i < l->n_cells && !used; i++)
            used = l->best[i] == (int32_t)k;
        if (!used) {
            free(l->names[k]);
            free(l->ontology[k]);
            l->names[k] = l->ontology[k] = NULL;
            continue;
        }
        for (size_t i = 0; i < l->n_cells && kept < k; i++) {
            l->targets[i * n + kept] = l->targets[i * n + k];
            l->best[i] = l->best[i] == (int32_t)k ? (int32_t)kept : l->best[i];
        }
        if (kept < k) {
            l->names[kept] = l->names[k];
            l->ontology[kept] = l->ontology[k];
            l->names[k] = l->ontology[k] = NULL;
        }
        kept++;
    }
    for (size_t i = 0; i < l->n_cells && kept < n; i++) {
        float sum = 0;
        for (size_t k = 0; k < kept; k++)
            sum += l->targets[i * kept + k] = l->targets[i * n + k];
        for (size_t k = 0; k < kept && sum > 0; k++)
            l->targets[i * kept + k] /= sum;
    }
    l->n_classes = kept;
}

typedef struct table {
    const scd_corpus *corpus;
    const char *path;
    scd_corpus_barcode *index; /* by barcode, then file */
    size_t n_index;
    size_t n_columns, file_column, barcode_column, group_column; /* SIZE_MAX: not there */
    size_t class_of[MAX_COLUMNS];                                /* SIZE_MAX: not a label */
    size_t n_rows;
    size_t n_missing, first_missing; /* rows whose cell does not exist; the first one's line, */
    uint32_t missing_file;           /* file (UINT32_MAX: any) */
    char missing_barcode[MAX_BARCODE];
} table;

static int by_barcode(const void *a, const void *b)
{
    const scd_corpus_barcode *x = a, *y = b;
    int order = strcmp(x->text, y->text);
    return order ? order : (x->file > y->file) - (x->file < y->file);
}

static scd_code copy_field(const table *t, size_t line, scd_tsv_field field, char *out, size_t room,
                           scd_error *err)
{
    if (field.n >= room)
        return scd_fail(err, SCD_E_INVALID, "%s line %zu: a field of %zu bytes, at most %zu",
                        t->path, line, field.n, room - 1);
    memcpy(out, field.text, field.n);
    out[field.n] = 0;
    return SCD_OK;
}

/* The file that a row names: UINT32_MAX without a column `file`, or where it is not given. */
static scd_code find_file(const table *t, size_t line, const scd_tsv_field *fields, uint32_t *file,
                          scd_error *err)
{
    *file = UINT32_MAX;
    for (size_t f = 0; t->file_column != SIZE_MAX && f < scd_corpus_n_files(t->corpus); f++) {
        const char *name = scd_corpus_file_name(t->corpus, f);
        if (!scd_tsv_is(fields[t->file_column], name))
            continue;
        if (*file != UINT32_MAX)
            return scd_fail(err, SCD_E_INVALID,
                            "%s line %zu: two of the data files are called %.80s, in different "
                            "folders, and the table cannot say which is meant: rename one",
                            t->path, line, name);
        *file = (uint32_t)f;
    }
    return SCD_OK;
}

/* The first entry of the index that is not below (barcode, file). */
static size_t find_entry(const table *t, const char *barcode, uint32_t file)
{
    size_t low = 0, high = t->n_index;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int order = strcmp(t->index[middle].text, barcode);
        if (order < 0 || (!order && file != UINT32_MAX && t->index[middle].file < file))
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static bool is_match(const table *t, size_t entry, const char *barcode, uint32_t file)
{
    return entry < t->n_index && !strcmp(t->index[entry].text, barcode) &&
           (file == UINT32_MAX || t->index[entry].file == file);
}

/* Where several cells have the barcode, a label is for none. */
static scd_code check_one(const table *t, size_t line, size_t entry, uint32_t file, scd_error *err)
{
    const scd_corpus_barcode *x = &t->index[entry];
    const char *one = scd_corpus_file_name(t->corpus, x->file);
    size_t n = 1;
    for (; is_match(t, entry + n, x->text, file); n++) {
        const char *other = scd_corpus_file_name(t->corpus, x[n].file);
        if (x[n].file != x->file)
            return scd_fail(err, SCD_E_INVALID,
                            "%s line %zu: barcode %.80s is in %.80s and in %.80s; %sadd a column "
                            "`file`",
                            t->path, line, x->text, one, other,
                            strcmp(one, other) ? "" : "rename one of the files, and ");
    }
    if (n == 1 || x->cell == SIZE_MAX) /* all of them are left out */
        return SCD_OK;
    return scd_fail(err, SCD_E_INVALID,
                    "%s line %zu: %zu cells of %.80s have the barcode %.80s, and the label could "
                    "be any one's: make the index of its obs unique (obs_names_make_unique of "
                    "anndata), or leave the row out",
                    t->path, line, n, one, x->text);
}

/* The cell of a row: SIZE_MAX where its file is not given or the cell is left out, which is
 * counted, and where it does not exist, which is remembered. */
static scd_code find_cell(table *t, size_t line, const scd_tsv_field *fields, size_t *cell,
                          scd_labels *out, scd_error *err)
{
    char barcode[MAX_BARCODE];
    uint32_t file;
    *cell = SIZE_MAX;
    scd_code code = copy_field(t, line, fields[t->barcode_column], barcode, sizeof barcode, err);
    if (!code && !*barcode)
        code = scd_fail(err, SCD_E_INVALID, "%s line %zu: the barcode is empty", t->path, line);
    if (!code)
        code = find_file(t, line, fields, &file, err);
    if (code)
        return code;
    if (file == UINT32_MAX && t->file_column != SIZE_MAX) {
        out->n_other_files++;
        return SCD_OK;
    }
    size_t entry = find_entry(t, barcode, file);
    if (!is_match(t, entry, barcode, file)) {
        if (!t->n_missing++) {
            t->first_missing = line;
            t->missing_file = file;
            memcpy(t->missing_barcode, barcode, sizeof barcode);
        }
        return SCD_OK;
    }
    code = check_one(t, line, entry, file, err);
    if (!code)
        *cell = t->index[entry].cell;
    out->n_left_out += !code && *cell == SIZE_MAX;
    return code;
}

/* All rows are read: did they name cells that there are? */
static scd_code check_found(const table *t, const scd_labels *l, scd_error *err)
{
    bool any = false;
    const char *where = "any of the files";
    for (size_t i = 0; i < l->n_cells && !any; i++)
        any = l->best[i] >= 0;
    if (scd_corpus_n_files(t->corpus) == 1)
        where = scd_corpus_file_name(t->corpus, 0);
    if (t->n_missing && t->missing_file != UINT32_MAX)
        where = scd_corpus_file_name(t->corpus, t->missing_file);
    if (t->n_missing && any)
        return scd_fail(err, SCD_E_INVALID,
                        "%s line %zu: barcode %.80s is not in %.80s; %zu of the table's %zu rows "
                        "are about cells that do not exist: correct or remove them",
                        t->path, t->first_missing, t->missing_barcode, where, t->n_missing,
                        t->n_rows);
    if (t->n_missing)
        return scd_fail(err, SCD_E_INVALID,
                        "%s: none of its %zu cells is in the data; line %zu: barcode %.80s is not "
                        "in %.80s: is it the table for these files?",
                        t->path, t->n_rows, t->first_missing, t->missing_barcode, where);
    if (!any)
        return scd_fail(err, SCD_E_INVALID,
                        "%s: none of its %zu cells is in the data: %zu are of files that are not "
                        "given, %zu are left out",
                        t->path, t->n_rows, l->n_other_files, l->n_left_out);
    return SCD_OK;
}

/* Every column has a name of its own that a head can have. */
static scd_code check_header(const table *t, const scd_tsv_field *fields, size_t n, scd_error *err)
{
    for (size_t i = 0; i < n; i++) {
        int n_shown = (int)(fields[i].n < 80 ? fields[i].n : 80);
        const char *why = scd_labels_why_not(fields[i].text, fields[i].n);
        if (why)
            return scd_fail(err, SCD_E_INVALID, "%s: the name '%.*s' of column %zu %s: correct it",
                            t->path, n_shown, fields[i].text, i + 1, why);
        for (size_t j = 0; j < i; j++)
            if (fields[j].n == fields[i].n && !memcmp(fields[j].text, fields[i].text, fields[i].n))
                return scd_fail(err, SCD_E_INVALID,
                                "%s: columns %zu and %zu have one name, '%.*s': merge them or "
                                "rename one",
                                t->path, j + 1, i + 1, n_shown, fields[i].text);
    }
    return SCD_OK;
}

/* Which columns are labels. */
static scd_code read_header(table *t, const scd_tsv_field *fields, size_t n, scd_labels *out,
                            scd_error *err)
{
    if (n > MAX_COLUMNS)
        return scd_fail(err, SCD_E_INVALID, "%s: %zu columns, at most %d", t->path, n,
                        (int)MAX_COLUMNS);
    t->n_columns = n;
    t->file_column = t->barcode_column = t->group_column = SIZE_MAX;
    size_t n_classes = 0;
    scd_code code = check_header(t, fields, n, err);
    if (code)
        return code;
    for (size_t i = 0; i < n; i++) {
        t->class_of[i] = SIZE_MAX;
        if (scd_tsv_is(fields[i], "file"))
            t->file_column = i;
        else if (scd_tsv_is(fields[i], "barcode"))
            t->barcode_column = i;
        else if (scd_tsv_is(fields[i], "group"))
            t->group_column = i;
        else
            t->class_of[i] = n_classes++;
    }
    if (t->barcode_column == SIZE_MAX)
        return scd_fail(err, SCD_E_INVALID, "%s: the header has no column `barcode`", t->path);
    if (!n_classes)
        return scd_fail(err, SCD_E_INVALID,
                        "%s: the header has no column of a label: after barcode, file and group "
                        "there must be one for each label, of its probabilities",
                        t->path);
    code = scd_labels_init(out, scd_corpus_n_cells(t->corpus), n_classes, err);
    for (size_t i = 0; i < n && !code; i++)
        if (t->class_of[i] != SIZE_MAX &&
            !(out->names[t->class_of[i]] = scd_strndup(fields[i].text, fields[i].n)))
            code = scd_labels_no_memory(err);
    return code;
}

static scd_code read_targets(const table *t, size_t line, const scd_tsv_field *fields, size_t cell,
                             scd_labels *out, scd_error *err)
{
    float *targets = out->targets + cell * out->n_classes;
    double sum = 0;
    char text[64], *end;
    if (out->best[cell] >= 0)
        return scd_fail(err, SCD_E_INVALID, "%s line %zu: this cell was given before", t->path,
                        line);
    for (size_t i = 0; i < t->n_columns; i++) {
        size_t k = t->class_of[i];
        if (k == SIZE_MAX)
            continue;
        scd_code code = copy_field(t, line, fields[i], text, sizeof text, err);
        if (code)
            return code;
        double p = strtod(text, &end);
        if (end == text || *end || !(p >= 0 && p <= 1))
            return scd_fail(err, SCD_E_INVALID, "%s line %zu: '%s' under %s is no probability",
                            t->path, line, text, out->names[k]);
        targets[k] = (float)p;
        sum += p;
        if (out->best[cell] < 0 || targets[k] > targets[out->best[cell]])
            out->best[cell] = (int32_t)k;
    }
    if (fabs(sum - 1) > 0.02) /* three decimals a column */
        return scd_fail(err, SCD_E_INVALID, "%s line %zu: probabilities add up to %g, not 1",
                        t->path, line, sum);
    for (size_t k = 0; k < out->n_classes; k++)
        targets[k] = (float)(targets[k] / sum);
    return SCD_OK;
}

/* The group's number, made where it is new. Groups are few: a walk. */
static scd_code find_group(scd_labels *l, scd_tsv_field field, int32_t *out, scd_error *err)
{
    for (size_t g = 0; g < l->n_groups; g++)
        if (scd_tsv_is(field, l->group_names[g])) {
            *out = (int32_t)g;
            return SCD_OK;
        }
    char **names = scd_realloc(l->group_names, l->n_groups + 1, sizeof *names);
    if (!names)
        return scd_labels_no_memory(err);
    l->group_names = names;
    if (!(names[l->n_groups] = scd_strndup(field.text, field.n)))
        return scd_labels_no_memory(err);
    *out = (int32_t)l->n_groups++;
    return SCD_OK;
}

static scd_code read_rows(table *t, scd_tsv *tsv, scd_tsv_field *fields, scd_labels *out,
                          scd_error *err)
{
    size_t n;
    while (scd_tsv_next(tsv, fields, MAX_COLUMNS, &n)) {
        size_t cell;
        t->n_rows++;
        if (n != t->n_columns)
            return scd_fail(err, SCD_E_INVALID, "%s line %zu: %zu fields, the header has %zu",
                            t->path, tsv->line, n, t->n_columns);
        scd_code code = find_cell(t, tsv->line, fields, &cell, out, err);
        if (!code && cell != SIZE_MAX)
            code = read_targets(t, tsv->line, fields, cell, out, err);
        if (!code && cell != SIZE_MAX && t->group_column != SIZE_MAX)
            code = find_group(out, fields[t->group_column], &out->groups[cell], err);
        if (code)
            return code;
    }
    return check_found(t, out, err);
}

/* One line of the file of ontology ids. */
static scd_code add_ontology(scd_labels *l, const char *path, size_t line,
                             const scd_tsv_field *fields, scd_error *err)
{
    size_t k = 0;
    int n_shown = (int)(fields[0].n < 80 ? fields[0].n : 80);
    const char *why = scd_labels_why_not(fields[1].text, fields[1].n);
    if (why)
        return scd_fail(err, SCD_E_INVALID, "%s line %zu: the ontology id of '%.*s' %s: correct it",
                        path, line, n_shown, fields[0].text, why);
    while (k < l->n_classes && !scd_tsv_is(fields[0], l->names[k]))
        k++;
    if (k == l->n_classes)
        return scd_fail(err, SCD_E_INVALID,
                        "%s line %zu: '%.*s' is no label, '%.80s' is one for example: write it as "
                        "the header of the labels does, or remove the line",
                        path, line, n_shown, fields[0].text, l->names[0]);
    if (l->ontology[k])
        return scd_fail(err, SCD_E_INVALID,
                        "%s line %zu: label '%.80s' was given before, as %.80s: remove one of the "
                        "lines",
                        path, line, l->names[k], l->ontology[k]);
    l->ontology[k] = scd_strndup(fields[1].text, fields[1].n);
    return l->ontology[k] ? SCD_OK : scd_labels_no_memory(err);
}

/* Before labels that nobody has are dropped: the file may be for all of the table's. */
static scd_code read_ontology(scd_labels *l, const char *path, scd_error *err)
{
    char *text;
    size_t n = 0;
    scd_code code = read_text(path, &text, &n, err);
    scd_tsv tsv;
    scd_tsv_field fields[2];
    scd_tsv_init(&tsv, text, n);
    while (!code && scd_tsv_next(&tsv, fields, 2, &n)) {
        if (n != 2)
            code =
                scd_fail(err, SCD_E_INVALID,
                         "%s line %zu: %zu fields; a label, a tab and its ontology id are needed",
                         path, tsv.line, n);
        else
            code = add_ontology(l, path, tsv.line, fields, err);
    }
    free(text);
    return code;
}

/* `is_truth`: to be compared with, not learned. */
static scd_code read_table(scd_corpus *corpus, const char *path, const char *ontology_path,
                           bool is_truth, scd_labels *out, scd_error *err)
{
    char *text = NULL;
    scd_tsv tsv;
    size_t n = 0;
    table t = {.corpus = corpus, .path = path};
    scd_arena arena;
    scd_arena_init(&arena, SIZE_MAX / 2);
    *out = (scd_labels){0};
    scd_tsv_field *fields = scd_malloc(MAX_COLUMNS, sizeof *fields);
    scd_code code = fields ? read_text(path, &text, &n, err) : scd_labels_no_memory(err);
    if (code)
        goto done;
    scd_tsv_init(&tsv, text, n);
    if (!scd_tsv_next(&tsv, fields, MAX_COLUMNS, &n)) {
        code = scd_fail(err, SCD_E_INVALID, "%s: the file is empty", path);
        goto done;
    }
    code = read_header(&t, fields, n, out, err);
    if (!code)
        code = scd_corpus_barcodes(corpus, &arena, &t.index, &t.n_index, err);
    if (!code)
        qsort(t.index, t.n_index, sizeof *t.index, by_barcode);
    if (!code)
        code = read_rows(&t, &tsv, fields, out, err);
    if (!code && ontology_path)
        code = read_ontology(out, ontology_path, err);
    if (!code)
        drop_empty(out);
    if (!code && !is_truth)
        code = scd_labels_check(out, path, err);
done:
    scd_arena_release(&arena);
    free(fields);
    free(text);
    if (code)
        scd_labels_release(out);
    return code;
}

scd_code scd_labels_from_table(scd_corpus *corpus, const char *path, const char *ontology_path,
                               scd_labels *out, scd_error *err)
{
    return read_table(corpus, path, ontology_path, false, out, err);
}

scd_code scd_labels_truth_from_table(scd_corpus *corpus, const char *path, scd_labels *out,
                                     scd_error *err)
{
    return read_table(corpus, path, NULL, true, out, err);
}
