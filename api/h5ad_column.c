/* h5ad_column.c - one column as text or as codes, whatever it is stored as.
 *
 * Numbers and text are data sets (or members of records). A categorical is codes and categories: a
 * group of the two (0.2.0), a data set with its categories in __categories (0.1.0), a member of
 * records with its categories in uns/NAME_categories (before 0.7). A nullable column is a group of
 * values and a mask of what is missing. Missing is also: code -1, and NaN in floating point, as
 * pandas has it. */
#include "api/h5ad_impl.h"

#include "api/float_text.h"
#include "engine/base/mem.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_DEPTH = 2 }; /* categories may be nullable, and no more than that */

/* Where a column is. */
struct place {
    char path[SCD_H5_PATH_BYTES];
    const char *member;                 /* of records, or NULL */
    char categories[SCD_H5_PATH_BYTES]; /* codes: of these; else "" */
    bool nullable;                      /* a group of values and mask */
};

static scd_code place_at(const scd_h5ad *file, const char *path, const char *member,
                         struct place *place, scd_error *err)
{
    *place = (struct place){.member = member};
    bool fits = snprintf(place->path, sizeof place->path, "%s", path) < SCD_H5_PATH_BYTES;
    H5I_type_t kind = scd_h5_kind(file, path);
    if (kind == H5I_DATASET)
        return SCD_OK;
    if (kind == H5I_GROUP && scd_h5_has(file, path, "codes") &&
        scd_h5_has(file, path, "categories")) {
        fits = fits && scd_h5_join(place->path, path, "codes") &&
               scd_h5_join(place->categories, path, "categories");
    } else if (kind == H5I_GROUP && scd_h5_has(file, path, "values") &&
               scd_h5_has(file, path, "mask")) {
        place->nullable = true;
    } else {
        return scd_h5_fail(file, path, SCD_E_INVALID, err,
                           "neither values nor a categorical nor a nullable column");
    }
    return fits ? SCD_OK : scd_h5_fail(file, path, SCD_E_INVALID, err, "a name is too long");
}

scd_code scd_h5_length(const scd_h5ad *file, const char *path, const char *member, size_t *n,
                       scd_error *err)
{
    struct place place;
    scd_h5_data data;
    char values[SCD_H5_PATH_BYTES];
    scd_code code = place_at(file, path, member, &place, err);
    if (code)
        return code;
    const char *at = place.path;
    if (place.nullable) {
        if (!scd_h5_join(values, path, "values"))
            return scd_h5_fail(file, path, SCD_E_INVALID, err, "a name is too long");
        at = values;
    }
    if ((code = scd_h5_data_open(file, at, member, &data, err)))
        return code;
    if (data.rank != 1)
        code = scd_h5_fail(file, data.path, SCD_E_INVALID, err, "not one-dimensional");
    else
        code = scd_h5_data_bounded(file, &data, err);
    *n = data.dims[0];
    scd_h5_data_close(&data);
    return code;
}

/* ---- values as text ---- */

static const char *number_text(const scd_h5_data *data, bool boolean, scd_h5_as as, uint64_t bits,
                               scd_arena *arena, bool *missing)
{
    char text[SCD_DOUBLE_TEXT_BYTES];
    double value;
    memcpy(&value, &bits, sizeof value);
    *missing = as == SCD_H5_DOUBLE && isnan(value);
    if (*missing)
        return NULL;
    if (boolean)
        return bits ? "true" : "false";
    if (as == SCD_H5_INT64)
        snprintf(text, sizeof text, "%" PRId64, (int64_t)bits);
    else if (as == SCD_H5_UINT64)
        snprintf(text, sizeof text, "%" PRIu64, bits);
    else if (isinf(value))
        snprintf(text, sizeof text, value < 0 ? "-inf" : "inf");
    else if (H5Tget_size(data->type) <= sizeof(float))
        text[scd_float_text((float)value, text)] = '\0';
    else
        scd_double_text(value, text);
    return scd_arena_strndup(arena, text, strlen(text));
}

static scd_code numbers_text(const scd_h5ad *file, const scd_h5_data *data, scd_arena *arena,
                             const char **out, scd_error *err)
{
    scd_code code = SCD_OK;
    size_t n = data->dims[0], batch = n < SCD_H5_BATCH ? n : SCD_H5_BATCH;
    bool boolean = scd_h5_is_bool(data);
    scd_h5_as as = data->class == H5T_FLOAT ? SCD_H5_DOUBLE : SCD_H5_INT64;
    if (data->class == H5T_INTEGER && H5Tget_sign(data->type) == H5T_SGN_NONE)
        as = SCD_H5_UINT64;
    uint64_t *bits = scd_malloc(batch, sizeof *bits);
    if (!bits)
        return scd_h5_no_memory(file, data->path, err);
    for (size_t at = 0; at < n && !code; at += batch) {
        size_t some = n - at < batch ? n - at : batch;
        code = scd_h5_read(file, data, as, at, some, bits, err);
        for (size_t i = 0; i < some && !code; i++) {
            bool missing;
            out[at + i] = number_text(data, boolean, as, bits[i], arena, &missing);
            if (!out[at + i] && !missing)
                code = scd_h5_no_memory(file, data->path, err);
        }
    }
    free(bits);
    return code;
}

static scd_code plain_text(const scd_h5ad *file, const char *path, const char *member,
                           scd_arena *arena, const char ***out, size_t *n, scd_error *err)
{
    scd_h5_data data;
    scd_code code = scd_h5_data_open(file, path, member, &data, err);
    if (code)
        return code;
    if (data.rank != 1) {
        code = scd_h5_fail(file, data.path, SCD_E_INVALID, err, "not one-dimensional");
        goto done;
    }
    if ((code = scd_h5_data_bounded(file, &data, err)))
        goto done;
    *n = data.dims[0];
    *out = scd_arena_zalloc(arena, *n, sizeof **out);
    if (!*out)
        code = scd_h5_no_memory(file, data.path, err);
    else if (data.class == H5T_STRING)
        code = scd_h5_read_strings(file, &data, 0, *n, arena, *out, err);
    else if (scd_h5_is_number(&data))
        code = numbers_text(file, &data, arena, *out, err);
    else
        code = scd_h5_fail(file, data.path, SCD_E_INVALID, err, "neither text nor numbers");

done:
    scd_h5_data_close(&data);
    return code;
}

/* ---- codes, masks ---- */

/* Whole numbers in [low, high), n of them as the caller expects. */
static scd_code small_numbers(const scd_h5ad *file, const char *path, const char *member,
                              int64_t low, int64_t high, scd_arena *arena, int32_t **out, size_t *n,
                              scd_error *err)
{
    scd_h5_data data;
    int64_t *batch = NULL;
    scd_code code = scd_h5_data_open(file, path, member, &data, err);
    if (code)
        return code;
    if (data.rank != 1 || data.class == H5T_FLOAT || !scd_h5_is_number(&data)) {
        code = scd_h5_fail(file, data.path, SCD_E_INVALID, err, "not a column of whole numbers");
        goto done;
    }
    if ((code = scd_h5_data_bounded(file, &data, err)))
        goto done;
    *n = data.dims[0];
    *out = scd_arena_alloc(arena, *n, sizeof **out);
    batch = scd_malloc(SCD_H5_BATCH, sizeof *batch);
    if (!*out || !batch) {
        code = scd_h5_no_memory(file, data.path, err);
        goto done;
    }
    for (size_t at = 0; at < *n && !code; at += SCD_H5_BATCH) {
        size_t some = *n - at < SCD_H5_BATCH ? *n - at : SCD_H5_BATCH;
        code = scd_h5_read(file, &data, SCD_H5_INT64, at, some, batch, err);
        for (size_t i = 0; i < some && !code; i++) {
            if (batch[i] < low || batch[i] >= high)
                code =
                    scd_h5_fail(file, data.path, SCD_E_CORRUPT, err,
                                "row %zu: code %" PRId64 ", and there are %" PRId64 " categories",
                                at + i, batch[i], high);
            (*out)[at + i] = (int32_t)batch[i];
        }
    }

done:
    free(batch);
    scd_h5_data_close(&data);
    return code;
}

static scd_code text_at(const scd_h5ad *file, const struct place *place, int depth,
                        scd_arena *arena, const char ***out, size_t *n, scd_error *err);

static scd_code codes_at(const scd_h5ad *file, const struct place *place, int depth,
                         scd_arena *arena, int32_t **codes, size_t *n, const char ***categories,
                         size_t *n_categories, scd_error *err)
{
    struct place names;
    scd_code code = place_at(file, place->categories, NULL, &names, err);
    if (!code)
        code = text_at(file, &names, depth + 1, arena, categories, n_categories, err);
    if (!code && *n_categories > INT32_MAX)
        code = scd_h5_fail(file, place->categories, SCD_E_INVALID, err, "too many categories");
    if (!code)
        code = small_numbers(file, place->path, place->member, -1, (int64_t)*n_categories, arena,
                             codes, n, err);
    return code;
}

static scd_code nullable_text(const scd_h5ad *file, const struct place *place, scd_arena *arena,
                              const char ***out, size_t *n, scd_error *err)
{
    char path[SCD_H5_PATH_BYTES];
    int32_t *mask = NULL;
    size_t n_mask = 0;
    if (!scd_h5_join(path, place->path, "values"))
        return scd_h5_fail(file, place->path, SCD_E_INVALID, err, "a name is too long");
    scd_code code = plain_text(file, path, NULL, arena, out, n, err);
    if (!code && !scd_h5_join(path, place->path, "mask"))
        code = scd_h5_fail(file, place->path, SCD_E_INVALID, err, "a name is too long");
    if (!code)
        code = small_numbers(file, path, NULL, 0, 2, arena, &mask, &n_mask, err);
    if (!code && n_mask != *n)
        code = scd_h5_fail(file, place->path, SCD_E_CORRUPT, err, "%zu values, a mask of %zu", *n,
                           n_mask);
    for (size_t i = 0; !code && i < *n; i++)
        if (mask[i])
            (*out)[i] = NULL;
    return code;
}

static scd_code text_at(const scd_h5ad *file, const struct place *place, int depth,
                        scd_arena *arena, const char ***out, size_t *n, scd_error *err)
{
    if (depth > MAX_DEPTH)
        return scd_h5_fail(file, place->path, SCD_E_INVALID, err, "nested too deeply");
    if (place->nullable)
        return nullable_text(file, place, arena, out, n, err);
    if (!place->categories[0])
        return plain_text(file, place->path, place->member, arena, out, n, err);

    int32_t *codes = NULL;
    const char **categories = NULL;
    size_t n_categories = 0;
    scd_code code = codes_at(file, place, depth, arena, &codes, n, &categories, &n_categories, err);
    if (code)
        return code;
    *out = scd_arena_zalloc(arena, *n, sizeof **out);
    if (!*out)
        return scd_h5_no_memory(file, place->path, err);
    for (size_t i = 0; i < *n; i++)
        if (codes[i] >= 0)
            (*out)[i] = categories[codes[i]];
    return SCD_OK;
}

/* ---- columns of frames ---- */

/* "a, b, c, ..." */
static void list_columns(const scd_h5_frame *frame, char *out, size_t n_bytes)
{
    size_t at = 0;
    out[0] = '\0';
    for (size_t i = 0; i < frame->n_columns && at < n_bytes - 40; i++) {
        int n = snprintf(out + at, n_bytes - at, "%s%s", i ? ", " : "", frame->columns[i]);
        at += n < 0 ? 0 : (size_t)n;
        if (at >= n_bytes - 40 && i + 1 < frame->n_columns)
            snprintf(out + n_bytes - 40, 40, ", ...");
    }
    if (frame->n_columns == 0)
        snprintf(out, n_bytes, "none");
}

static scd_code place_find(const scd_h5ad *file, const scd_h5_frame *frame, const char *column,
                           struct place *place, scd_error *err)
{
    char path[SCD_H5_PATH_BYTES], list[300];
    const char *name = NULL;
    if (!column || strcmp(column, frame->index) == 0)
        name = frame->index;
    for (size_t i = 0; i < frame->n_columns && !name; i++)
        if (strcmp(frame->columns[i], column) == 0)
            name = frame->stored ? frame->stored[i] : frame->columns[i];
    if (!name) {
        list_columns(frame, list, sizeof list);
        return scd_h5_fail(file, frame->path, SCD_E_NOT_FOUND, err,
                           "no column \"%s\"; there are: %s", column, list);
    }
    if (frame->compound) {
        scd_code code = place_at(file, frame->path, name, place, err);
        char *at = place->categories;
        int n = snprintf(at, SCD_H5_PATH_BYTES, "uns/%s_categories", name);
        if (n >= SCD_H5_PATH_BYTES || name == frame->index || scd_h5_kind(file, at) != H5I_DATASET)
            at[0] = '\0';
        return code;
    }
    if (!scd_h5_join(path, frame->path, name))
        return scd_h5_fail(file, frame->path, SCD_E_INVALID, err, "a name is too long");
    scd_code code = place_at(file, path, NULL, place, err);
    if (!code && !place->nullable && !place->categories[0] &&
        scd_h5_has_attr(file, path, "categories")) {
        int n =
            snprintf(place->categories, SCD_H5_PATH_BYTES, "%s/__categories/%s", frame->path, name);
        if (n >= SCD_H5_PATH_BYTES || scd_h5_kind(file, place->categories) == H5I_BADID)
            return scd_h5_fail(file, path, SCD_E_CORRUPT, err, "its categories are not there");
    }
    return code;
}

static scd_code column_find(const scd_h5ad *file, const char *name, const char *column,
                            const scd_h5_frame **frame, struct place *place, scd_error *err)
{
    *frame = scd_h5_frame_find(file, name);
    if (!*frame)
        return scd_h5_fail(file, NULL, SCD_E_NOT_FOUND, err, "no data frame \"%s\"", name);
    return place_find(file, *frame, column, place, err);
}

static scd_code check_rows(const scd_h5ad *file, const scd_h5_frame *frame,
                           const struct place *place, size_t n, scd_error *err)
{
    if (n == frame->rows)
        return SCD_OK;
    return scd_h5_fail(file, place->path, SCD_E_CORRUPT, err, "%zu rows, its index has %zu", n,
                       frame->rows);
}

scd_code scd_h5_column_text(void *self, const char *frame_name, const char *column,
                            scd_arena *arena, const char *const **out, size_t *n, scd_error *err)
{
    scd_h5ad *file = self;
    const scd_h5_frame *frame;
    struct place place;
    const char **text = NULL;
    size_t n_text = 0;
    scd_h5_enter();
    scd_code code = column_find(file, frame_name, column, &frame, &place, err);
    if (!code)
        code = text_at(file, &place, 0, arena, &text, &n_text, err);
    if (!code)
        code = check_rows(file, frame, &place, n_text, err);
    scd_h5_leave();
    if (code)
        return code;
    *out = text;
    *n = n_text;
    return SCD_OK;
}

scd_code scd_h5_column_categories(void *self, const char *frame_name, const char *column,
                                  scd_arena *arena, scd_cells_categories *out, scd_error *err)
{
    scd_h5ad *file = self;
    const scd_h5_frame *frame;
    struct place place;
    size_t n = 0, n_categories = 0;
    scd_h5_enter();
    scd_code code = column_find(file, frame_name, column, &frame, &place, err);
    if (!code && place.categories[0]) {
        int32_t *codes = NULL;
        const char **categories = NULL;
        code = codes_at(file, &place, 0, arena, &codes, &n, &categories, &n_categories, err);
        *out = (scd_cells_categories){n, n_categories, codes, categories};
    } else if (!code) {
        const char **text = NULL;
        code = text_at(file, &place, 0, arena, &text, &n, err);
        if (!code && !scd_cells_intern(text, n, arena, out))
            code = scd_h5_no_memory(file, place.path, err);
    }
    if (!code)
        code = check_rows(file, frame, &place, n, err);
    scd_h5_leave();
    return code;
}
