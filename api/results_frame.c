/* results_frame.c - three columns for obs: label, probability, unknown; as the frame would have
 * been written with them.
 *
 *   0.2.0          a group of codes and categories; column-order names the columns
 *   0.1.0          codes whose attribute "categories" refers to __categories/NAME
 *   before 0.7     members of records; categories in uns/NAME_categories */
#include "api/results_impl.h"

#include "engine/base/mem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

scd_code scd_results_used_labels(const scd_results *r, const char ***labels, size_t *n,
                                 int32_t **codes, scd_error *err)
{
    size_t n_cells = r->spec.plan->n_cells, n_labels = r->spec.n_labels;
    int32_t *shift = scd_malloc(n_labels, sizeof *shift);
    *labels = scd_malloc(n_labels, sizeof **labels);
    *codes = scd_malloc(n_cells, sizeof **codes);
    if (!shift || !*labels || !*codes) {
        free(shift);
        return scd_h5_no_memory(&r->file, "obs", err);
    }
    for (size_t i = 0; i < n_labels; i++)
        shift[i] = -1;
    for (size_t i = 0; i < n_cells; i++)
        if (r->said.codes[i] >= 0)
            shift[r->said.codes[i]] = 0;
    *n = 0;
    for (size_t i = 0; i < n_labels; i++)
        if (shift[i] >= 0) {
            shift[i] = (int32_t)*n;
            (*labels)[(*n)++] = r->spec.labels[i];
        }
    for (size_t i = 0; i < n_cells; i++)
        (*codes)[i] = r->said.codes[i] < 0 ? -1 : shift[r->said.codes[i]];
    free(shift);
    return SCD_OK;
}

/* ---- column-order ---- */

/* The texts of an attribute of texts; anything else counts as none (h5py writes an empty list as
 * one of floats). Inside the lock; scd_h5_names_free. */
static bool attr_texts(const scd_h5ad *file, const char *object, const char *name, char ***out,
                       size_t *n)
{
    bool ok = true;
    hid_t attr = H5Aopen_by_name(file->id, object, name, H5P_DEFAULT, file->links);
    hid_t type = attr < 0 ? -1 : H5Aget_type(attr), space = attr < 0 ? -1 : H5Aget_space(attr);
    hssize_t n_texts = space < 0 ? 0 : H5Sget_simple_extent_npoints(space);
    bool is_text = type >= 0 && H5Tget_class(type) == H5T_STRING && n_texts > 0 &&
                   n_texts <= SCD_H5_MAX_COLUMNS;
    *out = NULL;
    *n = 0;
    if (is_text) {
        bool variable = H5Tis_variable_str(type) > 0;
        size_t width = variable ? sizeof(char *) : H5Tget_size(type);
        char *raw = scd_calloc((size_t)n_texts, width + 1);
        *out = scd_calloc((size_t)n_texts, sizeof **out);
        ok = raw && *out && H5Aread(attr, type, raw) >= 0;
        for (size_t i = 0; i < (size_t)n_texts && ok; i++) {
            const char *text = variable ? ((char **)(void *)raw)[i] : raw + i * width;
            (*out)[i] =
                variable ? scd_strdup(text ? text : "") : scd_strndup(text, strnlen(text, width));
            ok = (*out)[i] != NULL;
            *n += ok;
        }
        if (variable && raw)
            H5Dvlen_reclaim(type, space, H5P_DEFAULT, raw);
        free(raw);
    }
    scd_h5_note();
    if (space >= 0)
        H5Sclose(space);
    if (type >= 0)
        H5Tclose(type);
    if (attr >= 0)
        H5Aclose(attr);
    return ok;
}

static scd_code extend_order(scd_results *r, scd_error *err)
{
    char **order = NULL;
    size_t n = 0;
    scd_code code = SCD_OK;
    if (!scd_h5_has_attr(&r->file, "obs", "column-order"))
        return SCD_OK;
    scd_h5_enter();
    bool ok = attr_texts(&r->file, "obs", "column-order", &order, &n);
    const char **all = ok ? scd_malloc(n + 3, sizeof *all) : NULL;
    if (!ok)
        code = scd_h5_fail_library(&r->file, "obs", "its column-order cannot be read", err);
    else if (!all)
        code = scd_h5_no_memory(&r->file, "obs", err);
    size_t n_all = n;
    for (size_t i = 0; i < n && !code; i++)
        all[i] = order[i];
    for (size_t k = 0; k < 3 && !code; k++) {
        bool is_there = false;
        for (size_t i = 0; i < n && !is_there; i++)
            is_there = strcmp(order[i], scd_obs_keys[k]) == 0;
        if (!is_there)
            all[n_all++] = scd_obs_keys[k];
    }
    if (!code)
        code = scd_h5_put_attr_texts(&r->file, "obs", "column-order", all, n_all, err);
    scd_h5_leave();
    free(all);
    scd_h5_names_free(order, n);
    return code;
}

/* ---- the generations ---- */

static scd_code put_categorical(scd_results *r, const char *const *labels, size_t n,
                                const int32_t *codes, scd_error *err)
{
    static const scd_h5_encoding categorical = {"categorical", "0.2.0"};
    scd_h5ad *f = &r->file;
    scd_code code = scd_h5_put_group(f, "obs/scdiva_label", categorical, err);
    if (!code)
        code = scd_h5_put_attr_bool(f, "obs/scdiva_label", "ordered", false, err);
    if (!code)
        code = scd_h5_put_texts(f, "obs/scdiva_label/categories", labels, n, scd_h5_texts, err);
    if (!code)
        code = scd_h5_put_codes(f, "obs/scdiva_label/codes", codes, r->spec.plan->n_cells, n,
                                scd_h5_array, err);
    return code;
}

static scd_code refer(scd_h5ad *f, const char *object, const char *to, scd_error *err)
{
    hobj_ref_t reference;
    scd_code code = SCD_OK;
    scd_h5_enter();
    hid_t space = H5Screate(H5S_SCALAR), attr = H5I_INVALID_HID;
    if (space >= 0 && H5Rcreate(&reference, f->id, to, H5R_OBJECT, -1) >= 0)
        attr = H5Acreate_by_name(f->id, object, "categories", H5T_STD_REF_OBJ, space, H5P_DEFAULT,
                                 H5P_DEFAULT, H5P_DEFAULT);
    if (attr < 0 || H5Awrite(attr, H5T_STD_REF_OBJ, &reference) < 0) {
        scd_h5_note();
        code = scd_h5_write_failed(f, object, err);
    }
    if (attr >= 0)
        H5Aclose(attr);
    if (space >= 0)
        H5Sclose(space);
    scd_h5_leave();
    return code;
}

static scd_code put_old_categorical(scd_results *r, const char *const *labels, size_t n,
                                    const int32_t *codes, scd_error *err)
{
    static const char where[] = "obs/__categories/scdiva_label", column[] = "obs/scdiva_label";
    scd_h5ad *f = &r->file;
    scd_code code = SCD_OK;
    if (!scd_h5_there(f, "obs/__categories"))
        code = scd_h5_put_group(f, "obs/__categories", scd_h5_no_encoding, err);
    if (!code)
        code = scd_h5_remove(f, where, err);
    if (!code)
        code = scd_h5_put_texts(f, where, labels, n, scd_h5_no_encoding, err);
    if (!code)
        code = scd_h5_put_attr_bool(f, where, "ordered", false, err);
    if (!code)
        code =
            scd_h5_put_codes(f, column, codes, r->spec.plan->n_cells, n, scd_h5_no_encoding, err);
    return code ? code : refer(f, column, where, err);
}

static scd_code add_to_group(scd_results *r, const char *const *labels, size_t n,
                             const int32_t *codes, scd_error *err)
{
    char *version = NULL, path[SCD_H5_PATH_BYTES];
    scd_h5ad *f = &r->file;
    size_t n_cells = r->spec.plan->n_cells;
    scd_code code = scd_h5_attr_text(f, "obs", "encoding-version", &version, err);
    bool is_old = version && strcmp(version, "0.1.0") == 0;
    scd_h5_encoding array = is_old ? scd_h5_no_encoding : scd_h5_array;
    free(version);
    for (size_t i = 0; i < 3 && !code; i++) {
        snprintf(path, sizeof path, "obs/%s", scd_obs_keys[i]);
        code = scd_h5_remove(f, path, err);
    }
    if (!code)
        code = is_old ? put_old_categorical(r, labels, n, codes, err)
                      : put_categorical(r, labels, n, codes, err);
    if (!code)
        code = scd_h5_put_floats(f, "obs/scdiva_probability", r->said.probabilities, n_cells, array,
                                 err);
    if (!code)
        code = scd_h5_put_bools(f, "obs/scdiva_unknown", r->said.unknown, n_cells, array, err);
    return code ? code : extend_order(r, err);
}

static scd_code add_to_records(scd_results *r, const char *const *labels, size_t n,
                               const int32_t *codes, scd_error *err)
{
    static const char categories[] = "uns/scdiva_label_categories";
    scd_h5ad *f = &r->file;
    scd_code code = SCD_OK;
    if (!scd_h5_there(f, "uns"))
        code = scd_h5_put_group(f, "uns", scd_h5_no_encoding, err);
    if (!code)
        code = scd_h5_remove(f, categories, err);
    if (!code)
        code = scd_h5_put_texts(f, categories, labels, n, scd_h5_no_encoding, err);
    if (code)
        return code;
    scd_h5_enter();
    hid_t boolean = scd_h5_bool_type();
    /* Codes stay as wide as they are in memory: pandas takes any integer. */
    const scd_h5_member members[3] = {
        {.name = scd_obs_keys[0], .type = H5T_STD_I32LE, .values = codes},
        {.name = scd_obs_keys[1], .type = H5T_IEEE_F32LE, .values = r->said.probabilities},
        {.name = scd_obs_keys[2], .type = boolean, .values = r->said.unknown}};
    code = boolean < 0 ? scd_h5_write_failed(f, "obs", err)
                       : scd_h5_add_members(f, "obs", members, 3, err);
    if (boolean >= 0)
        H5Tclose(boolean);
    scd_h5_leave();
    return code;
}

scd_code scd_results_add_obs(scd_results *r, scd_error *err)
{
    const char **labels = NULL;
    int32_t *codes = NULL;
    size_t n = 0;
    scd_code code = scd_results_used_labels(r, &labels, &n, &codes, err);
    if (!code)
        code = scd_h5_kind(&r->file, "obs") == H5I_DATASET
                   ? add_to_records(r, labels, n, codes, err)
                   : add_to_group(r, labels, n, codes, err);
    free(codes);
    free(labels);
    return code;
}
