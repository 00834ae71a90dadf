/* h5_write_rows.c - see h5_write.h: arrays that grow row by row while they are computed. */
#include "api/h5_write.h"

#include "engine/base/mem.h"

#include <stdio.h>
#include <stdlib.h>

enum { CHUNK_ELEMENTS = 1 << 16, GZIP_LEVEL = 4 };

/* ---- dense ---- */

scd_code scd_h5_begin_rows(scd_h5ad *file, const char *path, size_t n_rows, size_t n_cols,
                           hid_t *out, scd_error *err)
{
    scd_code code = SCD_OK;
    hsize_t dims[2] = {n_rows, n_cols};
    hid_t dset = H5I_INVALID_HID;
    scd_h5_enter();
    hid_t plist = H5Pcreate(H5P_DATASET_CREATE), space = H5Screate_simple(2, dims, NULL);
    if (plist >= 0 && space >= 0 && H5Pset_obj_track_times(plist, false) >= 0)
        dset = H5Dcreate2(file->id, path, H5T_IEEE_F32LE, space, H5P_DEFAULT, plist, H5P_DEFAULT);
    if (dset < 0) {
        scd_h5_note();
        code = scd_h5_write_failed(file, path, err);
    }
    if (space >= 0)
        H5Sclose(space);
    if (plist >= 0)
        H5Pclose(plist);
    scd_h5_leave();
    *out = dset;
    if (!code)
        code = scd_h5_put_attr_text(file, path, "encoding-type", scd_h5_array.kind, err);
    if (!code)
        code = scd_h5_put_attr_text(file, path, "encoding-version", scd_h5_array.version, err);
    return code;
}

scd_code scd_h5_add_rows(scd_h5ad *file, const char *path, hid_t dset, size_t first, size_t n,
                         size_t n_cols, const float *values, scd_error *err)
{
    scd_code code = SCD_OK;
    hsize_t from[2] = {first, 0}, count[2] = {n, n_cols};
    if (n == 0)
        return SCD_OK;
    scd_h5_enter();
    hid_t space = H5Dget_space(dset), memory = H5Screate_simple(2, count, NULL);
    if (space < 0 || memory < 0 ||
        H5Sselect_hyperslab(space, H5S_SELECT_SET, from, NULL, count, NULL) < 0 ||
        H5Dwrite(dset, H5T_NATIVE_FLOAT, memory, space, H5P_DEFAULT, values) < 0) {
        scd_h5_note();
        code = scd_h5_write_failed(file, path, err);
    }
    if (memory >= 0)
        H5Sclose(memory);
    if (space >= 0)
        H5Sclose(space);
    scd_h5_leave();
    return code;
}

/* ---- CSR ---- */

/* A growing array of one dimension, packed. Inside the lock. */
static hid_t begin_part(const scd_h5ad *file, const char *group, const char *name, hid_t type)
{
    char path[SCD_H5_PATH_BYTES];
    hsize_t dims = 0, most = H5S_UNLIMITED, chunk = CHUNK_ELEMENTS;
    hid_t dset = H5I_INVALID_HID;
    hid_t plist = H5Pcreate(H5P_DATASET_CREATE), space = H5Screate_simple(1, &dims, &most);
    if (plist >= 0 && space >= 0 && scd_h5_join(path, group, name) &&
        H5Pset_obj_track_times(plist, false) >= 0 && H5Pset_chunk(plist, 1, &chunk) >= 0 &&
        H5Pset_shuffle(plist) >= 0 && H5Pset_deflate(plist, GZIP_LEVEL) >= 0)
        dset = H5Dcreate2(file->id, path, type, space, H5P_DEFAULT, plist, H5P_DEFAULT);
    scd_h5_note();
    if (space >= 0)
        H5Sclose(space);
    if (plist >= 0)
        H5Pclose(plist);
    return dset;
}

/* Elements [first, first + n) at the end. Inside the lock. */
static herr_t extend(hid_t dset, hid_t memory_type, uint64_t first, uint64_t n, const void *values)
{
    hsize_t total = first + n, from = first, count = n;
    herr_t failed = -1;
    if (n == 0)
        return 0;
    if (H5Dset_extent(dset, &total) < 0) {
        scd_h5_note();
        return -1;
    }
    hid_t space = H5Dget_space(dset), memory = H5Screate_simple(1, &count, NULL);
    if (space >= 0 && memory >= 0 &&
        H5Sselect_hyperslab(space, H5S_SELECT_SET, &from, NULL, &count, NULL) >= 0)
        failed = H5Dwrite(dset, memory_type, memory, space, H5P_DEFAULT, values);
    scd_h5_note();
    if (memory >= 0)
        H5Sclose(memory);
    if (space >= 0)
        H5Sclose(space);
    return failed;
}

scd_code scd_h5_begin_csr(scd_h5ad *file, const char *path, uint64_t n_rows, uint64_t n_cols,
                          uint64_t n_expected, bool is_double, scd_h5_csr *out, scd_error *err)
{
    static const scd_h5_encoding csr = {"csr_matrix", "0.1.0"};
    const uint64_t shape[2] = {n_rows, n_cols}, zero = 0;
    *out = (scd_h5_csr){.path = path,
                        .data = H5I_INVALID_HID,
                        .indices = H5I_INVALID_HID,
                        .indptr = H5I_INVALID_HID,
                        .is_double = is_double,
                        .is_wide = n_expected > INT32_MAX};
    scd_code code = scd_h5_put_group(file, path, csr, err);
    if (!code)
        code = scd_h5_put_attr_shape(file, path, shape, err);
    if (code)
        return code;
    scd_h5_enter();
    hid_t whole = out->is_wide ? H5T_STD_I64LE : H5T_STD_I32LE;
    out->data = begin_part(file, path, "data", is_double ? H5T_IEEE_F64LE : H5T_IEEE_F32LE);
    out->indices = out->data < 0 ? -1 : begin_part(file, path, "indices", whole);
    out->indptr = out->indices < 0 ? -1 : begin_part(file, path, "indptr", whole);
    if (out->indptr < 0 || extend(out->indptr, H5T_NATIVE_UINT64, 0, 1, &zero) < 0)
        code = scd_h5_write_failed(file, path, err);
    scd_h5_leave();
    if (code)
        scd_h5_close_csr(out);
    return code;
}

scd_code scd_h5_add_csr(scd_h5ad *file, scd_h5_csr *csr, const scd_cells_rows *rows, scd_error *err)
{
    uint64_t n = rows->indptr[rows->n];
    for (uint64_t i = 0; i < n && !csr->is_double; i++)
        if (rows->data[i] == rows->data[i] && (double)(float)rows->data[i] != rows->data[i])
            return scd_h5_fail(file, csr->path, SCD_E_INVALID, err,
                               "the value %.17g cannot be kept as float32", rows->data[i]);
    if (csr->n_stored + n > INT32_MAX && !csr->is_wide)
        return scd_h5_fail(file, csr->path, SCD_E_INTERNAL, err,
                           "more entries than were announced");
    uint64_t *ends = scd_malloc(rows->n + 1, sizeof *ends);
    if (!ends)
        return scd_h5_no_memory(file, csr->path, err);
    for (size_t row = 0; row < rows->n; row++)
        ends[row] = csr->n_stored + rows->indptr[row + 1];
    scd_code code = SCD_OK;
    scd_h5_enter();
    if (extend(csr->data, H5T_NATIVE_DOUBLE, csr->n_stored, n, rows->data) < 0 ||
        extend(csr->indices, H5T_NATIVE_UINT32, csr->n_stored, n, rows->indices) < 0 ||
        extend(csr->indptr, H5T_NATIVE_UINT64, csr->n_rows + 1, rows->n, ends) < 0)
        code = scd_h5_write_failed(file, csr->path, err);
    scd_h5_leave();
    csr->n_stored += n;
    csr->n_rows += rows->n;
    free(ends);
    return code;
}

void scd_h5_close_csr(scd_h5_csr *csr)
{
    hid_t parts[] = {csr->indptr, csr->indices, csr->data};
    scd_h5_enter();
    for (size_t i = 0; i < 3; i++)
        if (parts[i] > 0)
            H5Dclose(parts[i]);
    scd_h5_leave();
    csr->data = csr->indices = csr->indptr = H5I_INVALID_HID;
}
