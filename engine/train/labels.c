/* labels.c - what every kind of labels needs, and those from an obs column; see labels.h. */
#include "engine/train/labels_impl.h"

#include "api/json_write.h"
#include "api/text.h"
#include "engine/base/mem.h"
#include "engine/denoise/head.h"
#include "engine/train/scores.h"

#include <stdlib.h>
#include <string.h>

/* Of all labels as JSON, of the 16 MiB that head.c reads; the rest is for recipe and scores. */
enum { MAX_JSON_BYTES = 14 << 20 };

static void free_names(char **names, size_t n)
{
    for (size_t i = 0; names && i < n; i++)
        free(names[i]);
    free(names);
}

void scd_labels_release(scd_labels *l)
{
    free_names(l->names, l->n_classes);
    free_names(l->ontology, l->n_classes);
    free_names(l->group_names, l->n_groups);
    free(l->targets);
    free(l->best);
    free(l->groups);
    *l = (scd_labels){0};
}

size_t scd_labels_find(const scd_labels *l, const char *name)
{
    for (size_t k = 0; k < l->n_classes; k++)
        if (!strcmp(l->names[k], name))
            return k;
    return SIZE_MAX;
}

scd_code scd_labels_no_memory(scd_error *err)
{
    return scd_fail(err, SCD_E_NOMEM, "out of memory for labels");
}

scd_code scd_labels_init(scd_labels *l, size_t n_cells, size_t n_classes, scd_error *err)
{
    size_t n;
    *l = (scd_labels){.n_cells = n_cells, .n_classes = n_classes};
    if (!scd_size_mul(n_cells, n_classes, &n))
        return scd_labels_no_memory(err);
    l->names = scd_calloc(n_classes + 1, sizeof *l->names);
    l->ontology = scd_calloc(n_classes + 1, sizeof *l->ontology);
    l->targets = scd_calloc(n + 1, sizeof *l->targets);
    l->best = scd_malloc(n_cells + 1, sizeof *l->best);
    l->groups = scd_malloc(n_cells + 1, sizeof *l->groups);
    if (!l->names || !l->ontology || !l->targets || !l->best || !l->groups)
        return scd_labels_no_memory(err);
    for (size_t i = 0; i < n_cells; i++)
        l->best[i] = l->groups[i] = -1;
    return SCD_OK;
}

const char *scd_labels_why_not(const char *text, size_t n)
{
    if (!n)
        return "is empty";
    if (n > SCD_HEAD_MAX_LABEL_BYTES)
        return "is longer than the 256 bytes that a head takes";
    if (memchr(text, 0, n))
        return "holds a NUL byte";
    for (size_t i = 0, length; i < n; i += length)
        if (!(length = scd_utf8_length(text + i, n - i)))
            return "is no valid UTF-8";
    return NULL;
}
_Static_assert(SCD_HEAD_MAX_LABEL_BYTES == 256, "as the message says");

/* What head.json will hold, label by label and as a whole. */
static scd_code check_texts(const scd_labels *l, const char *where, scd_error *err)
{
    size_t n_bytes = 0;
    for (size_t k = 0; k < l->n_classes; k++) {
        const char *name = l->names[k], *id = l->ontology[k], *why;
        if ((why = scd_labels_why_not(name, strlen(name))))
            return scd_fail(err, SCD_E_INVALID, "%s: the label '%.80s' of some cells %s: rename it",
                            where, name, why);
        if (id && *id && (why = scd_labels_why_not(id, strlen(id))))
            return scd_fail(err, SCD_E_INVALID,
                            "%s: the ontology id '%.80s' of label '%.80s' %s: correct it", where,
                            id, name, why);
        scd_buf text;
        scd_buf_init(&text, 1u << 16);
        scd_json_text(&text, name);
        scd_json_text(&text, id ? id : "");
        bool failed = text.failed;
        n_bytes += text.n_bytes + 64; /* keys, commas, indentation */
        scd_buf_release(&text);
        if (failed)
            return scd_labels_no_memory(err);
    }
    if (n_bytes > MAX_JSON_BYTES)
        return scd_fail(err, SCD_E_INVALID,
                        "%s: %zu labels take %zu bytes of head.json, at most %d: shorten or merge "
                        "them",
                        where, l->n_classes, n_bytes, (int)MAX_JSON_BYTES);
    return SCD_OK;
}

scd_code scd_labels_check(const scd_labels *l, const char *where, scd_error *err)
{
    if (l->n_classes < 2)
        return scd_fail(err, SCD_E_INVALID, "%s: %zu label%s, at least two are needed", where,
                        l->n_classes, l->n_classes == 1 ? "" : "s");
    size_t *n = scd_calloc(l->n_classes, sizeof *n);
    if (!n)
        return scd_labels_no_memory(err);
    for (size_t i = 0; i < l->n_cells; i++)
        if (l->best[i] >= 0)
            n[l->best[i]]++;
    scd_code code = SCD_OK;
    for (size_t k = 0; k < l->n_classes && !code; k++)
        if (n[k] < 2)
            code = scd_fail(err, SCD_E_INVALID,
                            "%s: label '%.80s' has %zu cell%s; at least two are needed, leave it "
                            "out or merge it with another",
                            where, l->names[k], n[k], n[k] == 1 ? "" : "s");
    free(n);
    return code ? code : check_texts(l, where, err);
}

/* ---- from a column of obs ------------------------------------------------------------------ */

static const char *const *sort_values; /* of the column being sorted; qsort has no argument */

static int by_value(const void *a, const void *b)
{
    return strcmp(sort_values[*(const int32_t *)a], sort_values[*(const int32_t *)b]);
}

/* order[k]: the value that becomes class k; class_of[value]. Values that no cell has are left out.
 */
static scd_code order_values(const scd_corpus_column *column, int32_t **order, int32_t **class_of,
                             size_t *n_classes, scd_error *err)
{
    *n_classes = 0;
    *order = scd_malloc(column->n_values + 1, sizeof **order);
    *class_of = scd_malloc(column->n_values + 1, sizeof **class_of);
    if (!*order || !*class_of)
        return scd_labels_no_memory(err);
    for (size_t v = 0; v < column->n_values; v++)
        (*class_of)[v] = -1;
    for (size_t i = 0; i < column->n; i++)
        if (column->codes[i] >= 0 && (*class_of)[column->codes[i]] < 0) {
            (*class_of)[column->codes[i]] = 0;
            (*order)[(*n_classes)++] = column->codes[i];
        }
    sort_values = (const char *const *)column->values;
    qsort(*order, *n_classes, sizeof **order, by_value);
    for (size_t k = 0; k < *n_classes; k++)
        (*class_of)[(*order)[k]] = (int32_t)k;
    return SCD_OK;
}

static scd_code fill_ontology(scd_labels *l, scd_corpus *corpus, const char *name, scd_error *err)
{
    scd_corpus_column column = {0};
    scd_code code = scd_corpus_obs(corpus, name, &column, err);
    for (size_t i = 0; !code && i < l->n_cells; i++) {
        if (l->best[i] < 0 || column.codes[i] < 0)
            continue;
        char **id = &l->ontology[l->best[i]];
        const char *value = column.values[column.codes[i]];
        if (!*id && !(*id = scd_strdup(value)))
            code = scd_labels_no_memory(err);
        else if (strcmp(*id, value))
            code = scd_fail(err, SCD_E_INVALID,
                            "column %s: label '%s' has two ontology ids, %s and %s", name,
                            l->names[l->best[i]], *id, value);
    }
    scd_corpus_column_release(&column);
    return code;
}

static scd_code fill_groups(scd_labels *l, scd_corpus *corpus, const char *name, scd_error *err)
{
    scd_corpus_column column = {0};
    scd_code code = scd_corpus_obs(corpus, name, &column, err);
    if (!code) {
        memcpy(l->groups, column.codes, l->n_cells * sizeof *l->groups);
        l->group_names = column.values; /* ownership moves */
        l->n_groups = column.n_values;
        column.values = NULL;
        column.n_values = 0;
    }
    scd_corpus_column_release(&column);
    return code;
}

/* One class for each value that some cell has. */
static scd_code read_column(scd_corpus *corpus, const char *name, scd_labels *out, scd_error *err)
{
    scd_corpus_column column = {0};
    int32_t *order = NULL, *class_of = NULL;
    size_t n_classes = 0;
    *out = (scd_labels){0};
    scd_code code = scd_corpus_obs(corpus, name, &column, err);
    if (!code)
        code = order_values(&column, &order, &class_of, &n_classes, err);
    if (!code && !n_classes)
        code = scd_fail(err, SCD_E_INVALID, "column %s: no cell has a value", name);
    if (!code && n_classes > SCD_SCORES_MAX_CLASSES)
        code = scd_fail(err, SCD_E_INVALID,
                        "column %s: %zu distinct values, a head has at most %d labels: is it the "
                        "column of cell types?",
                        name, n_classes, (int)SCD_SCORES_MAX_CLASSES);
    if (!code)
        code = scd_labels_init(out, column.n, n_classes, err);
    for (size_t k = 0; !code && k < n_classes; k++)
        if (!(out->names[k] = scd_strdup(column.values[order[k]])))
            code = scd_labels_no_memory(err);
    for (size_t i = 0; !code && i < column.n; i++)
        if (column.codes[i] >= 0) {
            out->best[i] = class_of[column.codes[i]];
            out->targets[i * n_classes + (size_t)out->best[i]] = 1;
        }
    free(order);
    free(class_of);
    scd_corpus_column_release(&column);
    return code;
}

scd_code scd_labels_from_column(scd_corpus *corpus, const char *name, const char *ontology_column,
                                const char *group_column, scd_labels *out, scd_error *err)
{
    scd_code code = read_column(corpus, name, out, err);
    if (!code && ontology_column)
        code = fill_ontology(out, corpus, ontology_column, err);
    if (!code && group_column)
        code = fill_groups(out, corpus, group_column, err);
    if (!code)
        code = scd_labels_check(out, name, err);
    if (code)
        scd_labels_release(out);
    return code;
}

scd_code scd_labels_truth_from_column(scd_corpus *corpus, const char *name, scd_labels *out,
                                      scd_error *err)
{
    scd_code code = read_column(corpus, name, out, err);
    if (code)
        scd_labels_release(out);
    return code;
}
