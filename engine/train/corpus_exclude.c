/* corpus_exclude.c - barcodes to leave out, such as those of the demo's cells or of a test set.
 *
 * A barcode that no file has is an error: a name that was mistyped would let a test cell into
 * training, and nobody would notice.
 *
 * Threads: one at a time. Owns: the text of the file, until free. */
#include "engine/train/corpus_impl.h"

#include "engine/base/mem.h"
#include "engine/model/file.h"
#include "engine/model/tsv.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAX_BYTES = 1 << 30 };

typedef struct entry {
    const char *barcode, *file; /* file NULL: any; with a slash: a path as given, else a name */
    size_t line;
    bool met;
} entry;

struct scd_exclude {
    char *path, *text;
    entry *entries; /* (n) by barcode */
    size_t n;
};

static int by_barcode(const void *a, const void *b)
{
    const entry *x = a, *y = b;
    int order = strcmp(x->barcode, y->barcode);
    return order ? order : (x->line > y->line) - (x->line < y->line);
}

static size_t count_lines(const char *text, size_t n)
{
    size_t lines = 1;
    for (size_t i = 0; i < n; i++)
        lines += text[i] == '\n';
    return lines;
}

/* Fields end at a tab, a line end or the end: one byte behind each is ours to make a NUL. */
static const char *terminate(scd_tsv_field field)
{
    char *text = (char *)(uintptr_t)field.text;
    text[field.n] = '\0';
    return text;
}

static scd_code parse(scd_exclude *x, size_t n_bytes, scd_error *err)
{
    scd_tsv tsv;
    scd_tsv_field fields[2];
    size_t n_fields;
    x->entries = scd_calloc(count_lines(x->text, n_bytes), sizeof *x->entries);
    if (!x->entries)
        return scd_fail(err, SCD_E_NOMEM, "%s: out of memory", x->path);
    scd_tsv_init(&tsv, x->text, n_bytes);
    while (scd_tsv_next(&tsv, fields, 2, &n_fields)) {
        if (fields[0].text[0] == '#')
            continue;
        if (n_fields > 2 || !fields[0].n || (n_fields == 2 && !fields[1].n))
            return scd_fail(err, SCD_E_INVALID,
                            "%s line %zu: must be a barcode, or a file's name, a tab and a barcode",
                            x->path, tsv.line);
        entry *e = &x->entries[x->n++];
        e->line = tsv.line;
        e->file = n_fields == 2 ? terminate(fields[0]) : NULL;
        e->barcode = terminate(fields[n_fields - 1]);
    }
    if (x->n)
        qsort(x->entries, x->n, sizeof *x->entries, by_barcode);
    return SCD_OK;
}

scd_code scd_exclude_read(const char *path, scd_exclude **out, scd_error *err)
{
    int fd = -1;
    size_t n;
    *out = NULL;
    scd_exclude *x = scd_calloc(1, sizeof *x);
    if (!x || !(x->path = scd_strdup(path))) {
        scd_exclude_free(x);
        return scd_fail(err, SCD_E_NOMEM, "%s: out of memory", path);
    }
    scd_code code = scd_file_open(path, &fd, &n, err);
    if (!code)
        code = scd_file_read(fd, path, MAX_BYTES, &x->text, &n, err);
    if (fd >= 0)
        close(fd);
    if (!code)
        code = parse(x, n, err);
    if (code) {
        scd_exclude_free(x);
        return code;
    }
    *out = x;
    return SCD_OK;
}

void scd_exclude_free(scd_exclude *exclude)
{
    if (!exclude)
        return;
    free(exclude->entries);
    free(exclude->text);
    free(exclude->path);
    free(exclude);
}

/* What stands behind the last slash. */
static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

static int by_base_name(const void *a, const void *b)
{
    return strcmp(base_name(*(const char *const *)a), base_name(*(const char *const *)b));
}

/* A neighbour with the same name, or NULL. */
static const char **twin(const char **sorted, size_t n, const char **at)
{
    if (at > sorted && !by_base_name(at, at - 1))
        return at - 1;
    return at + 1 < sorted + n && !by_base_name(at, at + 1) ? at + 1 : NULL;
}

scd_code scd_exclude_check_files(const scd_exclude *exclude, const char *const *paths, size_t n,
                                 scd_error *err)
{
    scd_code code = SCD_OK;
    const char **sorted = scd_malloc(n, sizeof *sorted);
    if (!sorted)
        return scd_fail(err, SCD_E_NOMEM, "out of memory for the names of %zu files", n);
    memcpy(sorted, paths, n * sizeof *sorted);
    qsort(sorted, n, sizeof *sorted, by_base_name);
    for (size_t i = 0; i < exclude->n && !code; i++) {
        const entry *e = &exclude->entries[i];
        const char **found =
            e->file ? bsearch(&e->file, sorted, n, sizeof *sorted, by_base_name) : NULL;
        if (!found || strchr(e->file, '/'))
            continue;
        const char **other = twin(sorted, n, found);
        if (other)
            code = scd_fail(err, SCD_E_INVALID,
                            "%s line %zu: %.80s may be %.150s or %.150s; write the path as it was "
                            "given, with its folder, or rename one of the files",
                            exclude->path, e->line, e->file, *found, *other);
    }
    free(sorted);
    return code;
}

bool scd_exclude_has(scd_exclude *exclude, const char *path, const char *barcode)
{
    bool has = false;
    if (!exclude)
        return false;
    size_t low = 0, high = exclude->n; /* the first entry not below the barcode */
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (strcmp(exclude->entries[middle].barcode, barcode) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    for (; low < exclude->n && !strcmp(exclude->entries[low].barcode, barcode); low++) {
        entry *e = &exclude->entries[low];
        if (e->file && strcmp(e->file, strchr(e->file, '/') ? path : base_name(path)) != 0)
            continue;
        e->met = has = true;
    }
    return has;
}

scd_code scd_exclude_check(const scd_exclude *exclude, scd_error *err)
{
    const entry *first = NULL;
    size_t n_unmet = 0;
    for (size_t i = 0; exclude && i < exclude->n; i++) {
        const entry *e = &exclude->entries[i];
        n_unmet += !e->met;
        if (!e->met && (!first || e->line < first->line))
            first = e;
    }
    if (!first)
        return SCD_OK;
    return scd_fail(err, SCD_E_INVALID,
                    "%s: %zu of %zu barcodes to leave out are in no file; the first, line %zu, is "
                    "%.80s%s%.80s",
                    exclude->path, n_unmet, exclude->n, first->line, first->barcode,
                    first->file ? " of " : "", first->file ? first->file : "");
}
