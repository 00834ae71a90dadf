/* head_perturb.c - what head.json of a perturbation head holds (head.h), checked as a whole:
 * counts, names, and that every number points at something. */
#include "engine/base/mem.h"
#include "engine/denoise/head_impl.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_NAMES = 1 << 17, MAX_CONTEXTS = 1 << 10, MAX_CONDITIONS = 1 << 16, MAX_CELLS = 1 << 20 };

/* The array `key` of 1 to `most` elements. */
static scd_code find_array(const scd_head *head, const char *path, const char *key, int most,
                           const cJSON **out, size_t *n, scd_error *err)
{
    if (scd_head_find(path, head->json, key, out, err))
        return SCD_E_INVALID;
    int size = cJSON_IsArray(*out) ? cJSON_GetArraySize(*out) : 0;
    if (size < 1 || size > most)
        return scd_fail(err, SCD_E_INVALID, "%s: %s must be an array of 1 to %d elements", path,
                        key, most);
    *n = (size_t)size;
    return SCD_OK;
}

/* A number of `object` in [least, most], whole where `whole`. `what` and index name the object. */
static scd_code get_number(const char *path, const cJSON *object, const char *what, size_t index,
                           const char *key, double least, double most, bool whole, double *out,
                           scd_error *err)
{
    const cJSON *item = NULL;
    if (cJSON_IsObject(object) && scd_head_find(path, object, key, &item, err))
        return SCD_E_INVALID;
    double x = cJSON_IsNumber(item) ? item->valuedouble : NAN;
    if (!(x >= least && x <= most) || (whole && x != floor(x)))
        return scd_fail(err, SCD_E_INVALID, "%s: %s of %s[%zu] must be a %snumber from %g to %g",
                        path, key, what, index, whole ? "whole " : "", least, most);
    *out = x;
    return SCD_OK;
}

/* ---- names ----------------------------------------------------------------------------------- */

static int by_text(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static scd_code read_names(const char *path, const char *key, const cJSON *array, const char **out,
                           size_t n, scd_error *err)
{
    const cJSON *item;
    size_t i = 0;
    cJSON_ArrayForEach(item, array)
    {
        const char *text = cJSON_GetStringValue(item);
        if (!text || !*text || strlen(text) > SCD_HEAD_MAX_LABEL_BYTES)
            return scd_fail(err, SCD_E_INVALID, "%s: %s[%zu] must be a name of 1 to %d bytes", path,
                            key, i, SCD_HEAD_MAX_LABEL_BYTES);
        out[i++] = text;
    }
    const char **sorted = scd_malloc(n, sizeof *sorted);
    if (!sorted)
        return scd_fail(err, SCD_E_NOMEM, "%s: out of memory", path);
    memcpy(sorted, out, n * sizeof *sorted);
    qsort(sorted, n, sizeof *sorted, by_text);
    scd_code code = SCD_OK;
    for (i = 1; i < n && !code; i++)
        if (!strcmp(sorted[i - 1], sorted[i]))
            code = scd_fail(err, SCD_E_INVALID, "%s: %s has \"%.80s\" twice", path, key, sorted[i]);
    free(sorted);
    return code;
}

static scd_code read_genes(scd_head *head, const char *path, scd_error *err)
{
    const cJSON *genes, *targets;
    scd_perturb_info *p = &head->perturb;
    if (find_array(head, path, "readout", MAX_NAMES, &genes, &p->n_genes, err) ||
        find_array(head, path, "targets", MAX_NAMES, &targets, &p->n_targets, err))
        return SCD_E_INVALID;
    head->names = scd_calloc(p->n_genes + p->n_targets, sizeof *head->names);
    if (!head->names)
        return scd_fail(err, SCD_E_NOMEM, "%s: out of memory", path);
    p->genes = head->names;
    p->targets = head->names + p->n_genes;
    scd_code code = read_names(path, "readout", genes, head->names, p->n_genes, err);
    return code ? code
                : read_names(path, "targets", targets, head->names + p->n_genes, p->n_targets, err);
}

/* ---- contexts -------------------------------------------------------------------------------- */

static scd_code read_direction(const char *path, const cJSON *object, size_t index,
                               scd_direction *out, scd_error *err)
{
    const cJSON *item = NULL;
    if (cJSON_IsObject(object) && scd_head_find(path, object, "direction", &item, err))
        return SCD_E_INVALID;
    const char *text = cJSON_GetStringValue(item);
    for (int k = 0; text && k < SCD_N_DIRECTIONS; k++)
        if (!strcmp(text, scd_direction_name((scd_direction)k))) {
            *out = (scd_direction)k;
            return SCD_OK;
        }
    return scd_fail(err, SCD_E_INVALID,
                    "%s: direction of contexts[%zu] must be \"knockdown\" or \"activation\"", path,
                    index);
}

static scd_code read_context(scd_head *head, const char *path, const cJSON *item, size_t i,
                             scd_error *err)
{
    scd_perturb_context *c = &head->contexts[i];
    const cJSON *name = NULL;
    double cells = 0;
    if (cJSON_IsObject(item) && scd_head_find(path, item, "name", &name, err))
        return SCD_E_INVALID;
    c->name = cJSON_GetStringValue(name);
    if (!c->name || !*c->name || strlen(c->name) > SCD_HEAD_MAX_LABEL_BYTES)
        return scd_fail(err, SCD_E_INVALID, "%s: name of contexts[%zu] must have 1 to %d bytes",
                        path, i, SCD_HEAD_MAX_LABEL_BYTES);
    if (read_direction(path, item, i, &c->direction, err) ||
        get_number(path, item, "contexts", i, "cells", 1, MAX_CELLS, true, &cells, err) ||
        get_number(path, item, "contexts", i, "power", 0, 1, false, &c->power, err) ||
        get_number(path, item, "contexts", i, "gate", 0, 1, false, &c->gate, err))
        return SCD_E_INVALID;
    for (size_t k = 0; k < i; k++)
        if (!strcmp(head->contexts[k].name, c->name) && head->contexts[k].direction == c->direction)
            return scd_fail(err, SCD_E_INVALID, "%s: context \"%.80s\" is given twice", path,
                            c->name);
    c->n_cells = (size_t)cells;
    c->first_cell = head->perturb.n_cells;
    head->perturb.n_cells += c->n_cells;
    return SCD_OK;
}

static scd_code read_contexts(scd_head *head, const char *path, scd_error *err)
{
    const cJSON *array, *item;
    scd_perturb_info *p = &head->perturb;
    if (find_array(head, path, "contexts", MAX_CONTEXTS, &array, &p->n_contexts, err))
        return SCD_E_INVALID;
    head->contexts = scd_calloc(p->n_contexts, sizeof *head->contexts);
    if (!head->contexts)
        return scd_fail(err, SCD_E_NOMEM, "%s: out of memory", path);
    p->contexts = head->contexts;
    scd_code code = SCD_OK;
    size_t i = 0;
    cJSON_ArrayForEach(item, array) if (!code) code = read_context(head, path, item, i++, err);
    return code;
}

/* ---- conditions ------------------------------------------------------------------------------ */

static scd_code read_condition(scd_head *head, const char *path, const cJSON *object, size_t i,
                               scd_error *err)
{
    const scd_perturb_info *p = &head->perturb;
    scd_response_condition *c = &head->conditions[i];
    const cJSON *targets = NULL, *item;
    double context = 0, cells = 0;
    if (get_number(path, object, "conditions", i, "context", 0, (double)p->n_contexts - 1, true,
                   &context, err) ||
        get_number(path, object, "conditions", i, "cells", 1, UINT32_MAX, true, &cells, err) ||
        scd_head_find(path, object, "targets", &targets, err))
        return SCD_E_INVALID;
    int n = cJSON_IsArray(targets) ? cJSON_GetArraySize(targets) : 0;
    if (n < 1 || n > SCD_MAX_TARGETS)
        return scd_fail(err, SCD_E_INVALID,
                        "%s: targets of conditions[%zu] must be 1 to %d numbers", path, i,
                        SCD_MAX_TARGETS);
    *c = (scd_response_condition){.context = (uint32_t)context, .n_cells = (uint32_t)cells};
    cJSON_ArrayForEach(item, targets)
    {
        double t = cJSON_IsNumber(item) ? item->valuedouble : -1;
        bool rises = !c->n_targets || t > c->targets[c->n_targets - 1];
        if (!(t >= 0 && t < (double)p->n_targets) || t != floor(t) || !rises)
            return scd_fail(err, SCD_E_INVALID,
                            "%s: targets of conditions[%zu] must be rising numbers under %zu", path,
                            i, p->n_targets);
        c->targets[c->n_targets++] = (uint32_t)t;
    }
    return SCD_OK;
}

static scd_code read_conditions(scd_head *head, const char *path, scd_error *err)
{
    const cJSON *array, *item;
    scd_perturb_info *p = &head->perturb;
    if (find_array(head, path, "conditions", MAX_CONDITIONS, &array, &p->n_conditions, err))
        return SCD_E_INVALID;
    head->conditions = scd_calloc(p->n_conditions, sizeof *head->conditions);
    if (!head->conditions)
        return scd_fail(err, SCD_E_NOMEM, "%s: out of memory", path);
    p->conditions = head->conditions;
    scd_code code = SCD_OK;
    size_t i = 0;
    cJSON_ArrayForEach(item, array) if (!code) code = read_condition(head, path, item, i++, err);
    return code;
}

/* ---- scores ---------------------------------------------------------------------------------- */

static scd_code read_score(const char *path, const cJSON *context, size_t i, const char *name,
                           scd_response_score *out, scd_error *err)
{
    const cJSON *score = NULL;
    double n = 0;
    if (cJSON_IsObject(context) && scd_head_find(path, context, name, &score, err))
        return SCD_E_INVALID;
    if (!cJSON_IsObject(score))
        return scd_fail(err, SCD_E_INVALID, "%s: evaluation.contexts[%zu] must have an object %s",
                        path, i, name);
    if (get_number(path, score, name, i, "perturbations", 0, MAX_CONDITIONS, true, &n, err) ||
        get_number(path, score, name, i, "pearson_delta", -1, 1, false, &out->pearson, err) ||
        get_number(path, score, name, i, "mse", 0, 1e6, false, &out->mse, err) ||
        get_number(path, score, name, i, "overlap_at_20", 0, 1, false, &out->overlap, err) ||
        get_number(path, score, name, i, "direction_match", 0, 1, false, &out->direction, err))
        return SCD_E_INVALID;
    out->n = (size_t)n;
    return SCD_OK;
}

static scd_code read_evaluation(scd_head *head, const char *path, scd_error *err)
{
    const cJSON *evaluation, *array = NULL, *item;
    if (scd_head_find(path, head->json, "evaluation", &evaluation, err) ||
        (cJSON_IsObject(evaluation) && scd_head_find(path, evaluation, "contexts", &array, err)))
        return SCD_E_INVALID;
    size_t n = cJSON_IsArray(array) ? (size_t)cJSON_GetArraySize(array) : 0, i = 0;
    if (n != head->perturb.n_contexts)
        return scd_fail(err, SCD_E_INVALID,
                        "%s: evaluation.contexts must be an array of %zu, one for each context",
                        path, head->perturb.n_contexts);
    cJSON_ArrayForEach(item, array)
    {
        scd_response_score *scores = head->contexts[i].scores;
        for (int b = 0; b < SCD_N_BASELINES; b++)
            if (read_score(path, item, i, scd_baseline_name((scd_baseline)b), &scores[b], err))
                return SCD_E_INVALID;
        if (read_score(path, item, i++, "model", &scores[SCD_SCORE_MODEL], err))
            return SCD_E_INVALID;
    }
    return SCD_OK;
}

scd_code scd_head_read_perturb(scd_head *head, const char *path, scd_error *err)
{
    scd_code code = read_genes(head, path, err);
    if (!code)
        code = read_contexts(head, path, err);
    if (!code)
        code = read_conditions(head, path, err);
    if (!code)
        code = read_evaluation(head, path, err);
    head->info.perturb = &head->perturb;
    return code;
}
