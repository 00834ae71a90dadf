/* results_records.c - members added to a data set of records, which is written anew for that.
 *
 * libhdf5 cannot widen a record in place. The new data set has the old members at their old places
 * in the record, so that their bytes are copied as they are, and the new ones behind them; it takes
 * the old one's chunks, filters, attributes and name. */
#include "api/results_impl.h"

#include "engine/base/mem.h"

#include <stdlib.h>
#include <string.h>

enum { BATCH_BYTES = 4 << 20, MAX_MEMBERS = 8, GZIP_LEVEL = 4 };

static const char again[] = "scdiva.records";

typedef struct widening {
    scd_h5ad *file;
    const char *path;
    const scd_h5_member *members;
    size_t n_members;
    hid_t from, to, from_type, to_type;
    size_t from_bytes, to_bytes, offsets[MAX_MEMBERS]; /* offsets: of the new members */
    hsize_t n_rows;
} widening;

static bool is_replaced(const widening *w, const char *name)
{
    for (size_t i = 0; i < w->n_members; i++)
        if (strcmp(w->members[i].name, name) == 0)
            return true;
    return false;
}

/* The old members that stay, then the new ones. */
static bool make_type(widening *w)
{
    w->from_bytes = w->to_bytes = H5Tget_size(w->from_type);
    for (size_t i = 0; i < w->n_members; i++) {
        w->offsets[i] = w->to_bytes;
        w->to_bytes += H5Tget_size(w->members[i].type);
    }
    w->to_type = H5Tcreate(H5T_COMPOUND, w->to_bytes);
    int n = H5Tget_nmembers(w->from_type);
    bool ok = w->to_type >= 0 && n >= 0;
    for (unsigned i = 0; i < (unsigned)n && ok; i++) {
        char *name = H5Tget_member_name(w->from_type, i);
        hid_t type = H5Tget_member_type(w->from_type, i);
        ok = name && type >= 0 &&
             (is_replaced(w, name) ||
              H5Tinsert(w->to_type, name, H5Tget_member_offset(w->from_type, i), type) >= 0);
        if (type >= 0)
            H5Tclose(type);
        H5free_memory(name);
    }
    for (size_t i = 0; i < w->n_members && ok; i++)
        ok = H5Tinsert(w->to_type, w->members[i].name, w->offsets[i], w->members[i].type) >= 0;
    return ok;
}

/* The old creation properties; filters that can only be read here become gzip. */
static hid_t make_plist(const widening *w)
{
    hid_t old = H5Dget_create_plist(w->from), plist = H5Pcreate(H5P_DATASET_CREATE);
    hsize_t chunk;
    bool ok = old >= 0 && plist >= 0 && H5Pset_obj_track_times(plist, false) >= 0;
    if (ok && H5Pget_layout(old) == H5D_CHUNKED) {
        ok = H5Pget_chunk(old, 1, &chunk) == 1 && H5Pset_chunk(plist, 1, &chunk) >= 0;
        if (ok && H5Pget_nfilters(old) > 0)
            ok = H5Pset_deflate(plist, GZIP_LEVEL) >= 0;
    }
    if (old >= 0)
        H5Pclose(old);
    if (!ok && plist >= 0) {
        H5Pclose(plist);
        plist = H5I_INVALID_HID;
    }
    return plist;
}

static bool make_dataset(widening *w)
{
    hid_t plist = make_plist(w), space = H5Dget_space(w->from);
    if (space >= 0 && H5Sget_simple_extent_ndims(space) == 1 &&
        H5Sget_simple_extent_dims(space, &w->n_rows, NULL) == 1 && plist >= 0)
        w->to = H5Dcreate2(w->file->id, again, w->to_type, space, H5P_DEFAULT, plist, H5P_DEFAULT);
    scd_h5_note();
    if (space >= 0)
        H5Sclose(space);
    if (plist >= 0)
        H5Pclose(plist);
    return w->to >= 0;
}

static herr_t copy_attr(hid_t from, const char *name, const H5A_info_t *info, void *arg)
{
    widening *w = arg;
    herr_t failed = -1;
    void *value = NULL;
    (void)info;
    hid_t attr = H5Aopen(from, name, H5P_DEFAULT), copy = H5I_INVALID_HID;
    hid_t type = attr < 0 ? -1 : H5Aget_type(attr), space = attr < 0 ? -1 : H5Aget_space(attr);
    hssize_t n = space < 0 ? -1 : H5Sget_simple_extent_npoints(space);
    if (n >= 0 && type >= 0 && (value = scd_calloc((size_t)n + 1, H5Tget_size(type))) &&
        H5Aread(attr, type, value) >= 0) {
        copy = H5Acreate2(w->to, name, type, space, H5P_DEFAULT, H5P_DEFAULT);
        failed = copy < 0 ? -1 : H5Awrite(copy, type, value);
        H5Dvlen_reclaim(type, space, H5P_DEFAULT, value);
    }
    if (copy >= 0)
        H5Aclose(copy);
    if (space >= 0)
        H5Sclose(space);
    if (type >= 0)
        H5Tclose(type);
    if (attr >= 0)
        H5Aclose(attr);
    free(value);
    return failed;
}

/* Rows [first, first + n) of a data set, all of its columns. */
static bool move_rows(hid_t dset, hid_t type, hsize_t first, hsize_t n, void *bytes, bool is_read)
{
    hsize_t from[2] = {first, 0}, count[2] = {n, 1}, dims[2] = {0, 0};
    hid_t space = H5Dget_space(dset);
    int rank = space < 0 ? -1 : H5Sget_simple_extent_dims(space, dims, NULL);
    count[1] = dims[1];
    hid_t memory = rank < 1 || rank > 2 ? -1 : H5Screate_simple(rank, count, NULL);
    bool ok = memory >= 0 &&
              H5Sselect_hyperslab(space, H5S_SELECT_SET, from, NULL, count, NULL) >= 0 &&
              (is_read ? H5Dread(dset, type, memory, space, H5P_DEFAULT, bytes)
                       : H5Dwrite(dset, type, memory, space, H5P_DEFAULT, bytes)) >= 0;
    scd_h5_note();
    if (memory >= 0)
        H5Sclose(memory);
    if (space >= 0)
        H5Sclose(space);
    return ok;
}

/* The new members of rows [first, first + n) into their places; `rows` is scratch. */
static bool fill_members(const widening *w, hsize_t first, hsize_t n, char *records, char *rows)
{
    for (size_t i = 0; i < w->n_members; i++) {
        const scd_h5_member *m = w->members + i;
        size_t bytes = H5Tget_size(m->type);
        const char *from = (const char *)m->values + (m->values ? first * bytes : 0);
        if (!m->values) {
            if (!move_rows(m->dset, H5T_IEEE_F32LE, first, n, rows, true))
                return false;
            from = rows;
        }
        for (hsize_t row = 0; row < n; row++)
            memcpy(records + row * w->to_bytes + w->offsets[i], from + row * bytes, bytes);
    }
    return true;
}

static scd_code copy_rows(widening *w, scd_error *err)
{
    scd_code code = SCD_OK;
    hsize_t batch = BATCH_BYTES / w->to_bytes + 1;
    char *old = scd_malloc((size_t)batch, w->from_bytes);
    char *records = scd_calloc((size_t)batch, w->to_bytes), *rows = scd_malloc(batch, w->to_bytes);
    if (!old || !records || !rows)
        code = scd_h5_no_memory(w->file, w->path, err);
    for (hsize_t at = 0; at < w->n_rows && !code; at += batch) {
        hsize_t n = w->n_rows - at < batch ? w->n_rows - at : batch;
        if (!move_rows(w->from, w->from_type, at, n, old, true)) {
            code = scd_h5_write_failed(w->file, w->path, err);
            break;
        }
        for (hsize_t row = 0; row < n; row++)
            memcpy(records + row * w->to_bytes, old + row * w->from_bytes, w->from_bytes);
        if (!fill_members(w, at, n, records, rows) ||
            !move_rows(w->to, w->to_type, at, n, records, false))
            code = scd_h5_write_failed(w->file, w->path, err);
        hid_t space = H5Screate_simple(1, &n, NULL);
        if (space >= 0) { /* texts of variable length were allocated */
            H5Dvlen_reclaim(w->from_type, space, H5P_DEFAULT, old);
            H5Sclose(space);
        }
    }
    free(rows);
    free(records);
    free(old);
    return code;
}

scd_code scd_h5_add_members(scd_h5ad *file, const char *path, const scd_h5_member *members,
                            size_t n, scd_error *err)
{
    widening w = {.file = file,
                  .path = path,
                  .members = members,
                  .n_members = n,
                  .to = H5I_INVALID_HID,
                  .to_type = H5I_INVALID_HID};
    scd_code code = SCD_OK;
    scd_h5_enter();
    w.from = H5Dopen2(file->id, path, H5P_DEFAULT);
    w.from_type = w.from < 0 ? -1 : H5Dget_type(w.from);
    if (w.from_type < 0 || H5Tget_class(w.from_type) != H5T_COMPOUND || !make_type(&w) ||
        !make_dataset(&w) ||
        H5Aiterate2(w.from, H5_INDEX_NAME, H5_ITER_NATIVE, NULL, copy_attr, &w) < 0) {
        scd_h5_note();
        code = scd_h5_write_failed(file, path, err);
    } else {
        code = copy_rows(&w, err);
    }
    if (w.to >= 0)
        H5Dclose(w.to);
    if (w.to_type >= 0)
        H5Tclose(w.to_type);
    if (w.from_type >= 0)
        H5Tclose(w.from_type);
    if (w.from >= 0)
        H5Dclose(w.from);
    if (!code)
        code = scd_h5_remove(file, path, err);
    if (!code)
        code = scd_h5_move(file, again, path, err);
    scd_h5_leave();
    return code;
}
