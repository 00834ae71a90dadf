/* h5ad_frame.c - which columns a data frame has, in each of its three shapes.
 *
 *   0.2.0 and 0.1.0   a group; attribute _index names the column of names; a categorical column is
 *                     a group (0.2.0), or codes whose categories stand in __categories (0.1.0)
 *   before 0.7        one data set of records; the names are the member "index"
 *
 * Columns are what the group holds, sorted; the attribute column-order is not needed for that.
 * A column called "a/b" lies in a group "a", which says nothing about itself: it is walked into. */
#include "api/h5ad_impl.h"

#include "engine/base/mem.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_DEPTH = 4 };

static scd_code add_column(const scd_h5ad *file, scd_h5_frame *frame, const char *name,
                           scd_error *err)
{
    if (frame->n_columns == SCD_H5_MAX_COLUMNS)
        return scd_h5_fail(file, frame->path, SCD_E_INVALID, err, "more than %d columns",
                           SCD_H5_MAX_COLUMNS);
    size_t n = frame->n_columns;
    if ((n & (n - 1)) == 0) { /* full at the powers of two */
        char **grown = scd_realloc(frame->columns, n ? n * 2 : 1, sizeof *grown);
        if (!grown)
            return scd_h5_no_memory(file, frame->path, err);
        frame->columns = grown;
    }
    frame->columns[n] = scd_strdup(name);
    if (!frame->columns[n])
        return scd_h5_no_memory(file, frame->path, err);
    frame->n_columns++;
    return SCD_OK;
}

/* A group of columns called "a/...", not a column kept in a group. */
static bool is_folder(const scd_h5ad *file, const char *path)
{
    return scd_h5_kind(file, path) == H5I_GROUP && !scd_h5_has_attr(file, path, "encoding-type") &&
           !scd_h5_has(file, path, "codes") && !scd_h5_has(file, path, "values");
}

/* `inside`: "" or "a/", what the names of the columns there begin with. */
static scd_code walk(const scd_h5ad *file, scd_h5_frame *frame, const char *inside, int depth,
                     scd_error *err)
{
    char path[SCD_H5_PATH_BYTES], name[SCD_H5_PATH_BYTES];
    char **names = NULL;
    size_t n = 0;
    if (!scd_h5_join(path, frame->path, inside))
        return scd_h5_fail(file, frame->path, SCD_E_INVALID, err, "a name is too long");
    scd_code code = scd_h5_names(file, path, SCD_H5_MAX_COLUMNS, &names, &n, err);
    for (size_t i = 0; i < n && !code; i++) {
        size_t n_inside = strlen(inside), n_name = strlen(names[i]);
        if (n_inside + n_name + 2 > sizeof name || !scd_h5_join(path, frame->path, inside)) {
            code = scd_h5_fail(file, frame->path, SCD_E_INVALID, err, "a name is too long");
            break;
        }
        memcpy(name, inside, n_inside);
        memcpy(name + n_inside, names[i], n_name + 1);
        if (!scd_h5_join(path, frame->path, name)) {
            code = scd_h5_fail(file, frame->path, SCD_E_INVALID, err, "a name is too long");
            break;
        }
        if (strcmp(name, "__categories") == 0 || strcmp(name, frame->index) == 0)
            continue;
        if (depth < MAX_DEPTH && is_folder(file, path)) {
            name[n_inside + n_name] = '/';
            name[n_inside + n_name + 1] = '\0';
            code = walk(file, frame, name, depth + 1, err);
        } else {
            code = add_column(file, frame, name, err);
        }
    }
    scd_h5_names_free(names, n);
    return code;
}

static scd_code open_group(const scd_h5ad *file, scd_h5_frame *frame, scd_error *err)
{
    char path[SCD_H5_PATH_BYTES];
    scd_code code = scd_h5_attr_text(file, frame->path, "_index", &frame->index, err);
    if (code)
        return code;
    if (!frame->index) { /* not in the specification, and seen */
        const char *usual = scd_h5_has(file, frame->path, "_index") ? "_index" : "index";
        if (!(frame->index = scd_strdup(usual)))
            return scd_h5_no_memory(file, frame->path, err);
    }
    if (frame->index[0] == '\0' || !scd_h5_has(file, frame->path, frame->index))
        return scd_h5_fail(file, frame->path, SCD_E_INVALID, err,
                           "no index: neither its attribute _index nor a column called index");
    if (!scd_h5_join(path, frame->path, frame->index))
        return scd_h5_fail(file, frame->path, SCD_E_INVALID, err, "a name is too long");
    if ((code = scd_h5_length(file, path, NULL, &frame->rows, err)))
        return code;
    return walk(file, frame, "", 0, err);
}

/* The member of names: "index" or "_index", else the first that is text. */
static int index_member(hid_t type, int n)
{
    static const char *const usual[] = {"index", "_index"};
    for (size_t i = 0; i < 2; i++) {
        int at = H5Tget_member_index(type, usual[i]);
        if (at >= 0)
            return at;
    }
    for (int i = 0; i < n; i++)
        if (H5Tget_member_class(type, (unsigned)i) == H5T_STRING)
            return i;
    return -1;
}

static scd_code open_records(const scd_h5ad *file, scd_h5_frame *frame, scd_error *err)
{
    scd_h5_data data;
    scd_code code = scd_h5_data_open(file, frame->path, NULL, &data, err);
    if (code)
        return code;
    scd_h5_enter();
    int n = data.class == H5T_COMPOUND ? H5Tget_nmembers(data.type) : 0;
    int index = n > 0 && data.rank == 1 ? index_member(data.type, n) : -1;
    if (index < 0)
        code = scd_h5_fail(file, frame->path, SCD_E_INVALID, err, "not a data frame with an index");
    else
        code = scd_h5_data_bounded(file, &data, err);
    for (int i = 0; i < n && !code; i++) {
        char *name = H5Tget_member_name(data.type, (unsigned)i);
        if (!name || (i == index && !(frame->index = scd_strdup(name))))
            code = scd_h5_no_memory(file, frame->path, err);
        else if (i != index)
            code = add_column(file, frame, name, err);
        H5free_memory(name);
    }
    scd_h5_leave();
    frame->compound = true;
    frame->rows = data.dims[0];
    scd_h5_data_close(&data);
    return code;
}

scd_code scd_h5_frame_open(const scd_h5ad *file, const char *name, const char *path,
                           scd_h5_frame *frame, scd_error *err)
{
    *frame = (scd_h5_frame){0};
    H5I_type_t kind = scd_h5_kind(file, path);
    if (kind != H5I_GROUP && kind != H5I_DATASET)
        return scd_h5_there(file, path) ? scd_h5_fail_library(file, path, "cannot be opened", err)
                                        : SCD_OK;
    if (!(frame->path = scd_strdup(path)))
        return scd_h5_no_memory(file, path, err);
    scd_code code =
        kind == H5I_GROUP ? open_group(file, frame, err) : open_records(file, frame, err);
    if (!code && !(frame->name = scd_strdup(name)))
        code = scd_h5_no_memory(file, path, err);
    if (code)
        scd_h5_frame_close(frame);
    return code;
}

scd_code scd_h5_frame_make(const scd_h5ad *file, const char *name, const char *path,
                           const char *index, const scd_h5_column_name *columns, size_t n,
                           scd_h5_frame *frame, scd_error *err)
{
    char at[SCD_H5_PATH_BYTES];
    scd_code code = SCD_OK;
    *frame = (scd_h5_frame){.path = scd_strdup(path), .index = scd_strdup(index)};
    frame->stored = n ? scd_calloc(n, sizeof *frame->stored) : NULL;
    if (!frame->path || !frame->index || (n && !frame->stored))
        code = scd_h5_no_memory(file, path, err);
    else if (!scd_h5_join(at, path, index))
        code = scd_h5_fail(file, path, SCD_E_INVALID, err, "a name is too long");
    if (!code)
        code = scd_h5_length(file, at, NULL, &frame->rows, err);
    for (size_t i = 0; i < n && !code; i++) {
        if (!scd_h5_has(file, path, columns[i].stored))
            continue;
        size_t to = frame->n_columns;
        if (!(code = add_column(file, frame, columns[i].name, err)) &&
            !(frame->stored[to] = scd_strdup(columns[i].stored)))
            code = scd_h5_no_memory(file, path, err);
    }
    if (!code && !(frame->name = scd_strdup(name)))
        code = scd_h5_no_memory(file, path, err);
    if (code)
        scd_h5_frame_close(frame);
    return code;
}

void scd_h5_frame_close(scd_h5_frame *frame)
{
    for (size_t i = 0; frame->stored && i < frame->n_columns; i++)
        free(frame->stored[i]);
    free(frame->stored);
    scd_h5_names_free(frame->columns, frame->n_columns);
    free(frame->index);
    free(frame->path);
    free(frame->name);
    *frame = (scd_h5_frame){0};
}
