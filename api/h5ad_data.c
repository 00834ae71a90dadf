/* h5ad_data.c - data sets: what may be opened, and slabs of them as numbers or as text.
 *
 * A stranger's file can name storage outside of itself (external files, virtual data sets), chunks
 * of gigabytes, or 10^12 elements that were never written: all of it is refused when the data set
 * is opened or before its first element is read. Deflate packs 1032:1 at best, so a bound follows
 * from the size of the file. */
#include "api/h5ad_impl.h"

#include "engine/base/mem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    DEFLATE_RATIO = 1100,
    ANY_RATIO = 1 << 16, /* of filters that keep constants in almost no space */
    MIN_CACHE_BYTES = 1 << 20,
    MAX_CACHE_BYTES = 64 << 20,
    MAX_CHUNK_BYTES = 1 << 30,
    CACHE_SLOTS = 12421 /* a prime, HDF5's advice */
};

static const char *filter_name(H5Z_filter_t id)
{
    switch (id) {
    case 307:
        return "bzip2";
    case 32001:
        return "blosc";
    case 32004:
        return "lz4";
    case 32015:
        return "zstd";
    case 32026:
        return "blosc2";
    default:
        return id == H5Z_FILTER_SZIP ? "szip" : "unknown";
    }
}

/* How many bytes at most come out of one stored byte; 0: a filter is missing, *err says so. */
static hsize_t filters_ratio(const scd_h5ad *file, const char *path, hid_t plist, scd_error *err)
{
    hsize_t ratio = 1;
    int n = H5Pget_nfilters(plist), packers = 0;
    for (int i = 0; i < n; i++) {
        unsigned flags, config;
        size_t n_values = 0;
        H5Z_filter_t id =
            H5Pget_filter2(plist, (unsigned)i, &flags, &n_values, NULL, 0, NULL, &config);
        if (id < 0 || H5Zfilter_avail(id) <= 0) {
            scd_h5_fail(file, path, SCD_E_INVALID, err,
                        "compressed with filter %d (%s), which is not installed; write the file "
                        "again with compression=\"gzip\"",
                        (int)id, filter_name(id));
            return 0;
        }
        if (id == H5Z_FILTER_SHUFFLE || id == H5Z_FILTER_FLETCHER32)
            continue;
        packers++;
        hsize_t most = id == H5Z_FILTER_DEFLATE || id == 32000 ? DEFLATE_RATIO : ANY_RATIO;
        ratio = most > ratio ? most : ratio;
    }
    if (packers > 1) {
        scd_h5_fail(file, path, SCD_E_INVALID, err, "compressed %d times over", packers);
        return 0;
    }
    return ratio;
}

/* Bytes of chunk cache so that reading on by rows unpacks every chunk once; 0: *err says why not.
 * Not chunked: 1. */
static size_t cache_bytes(const scd_h5ad *file, const scd_h5_data *data, hid_t plist, hsize_t ratio,
                          scd_error *err)
{
    hsize_t chunk[2] = {1, 1}, across = 1;
    if (H5Pget_layout(plist) != H5D_CHUNKED)
        return 1;
    if (H5Pget_chunk(plist, 2, chunk) != data->rank)
        chunk[0] = 0;
    hsize_t bytes = 0;
    if (chunk[0] && chunk[1] && chunk[0] <= MAX_CHUNK_BYTES && chunk[1] <= MAX_CHUNK_BYTES) {
        if (data->rank == 2)
            across = data->dims[1] / chunk[1] + 1;
        bytes = chunk[0] * chunk[1];
        bytes = bytes > MAX_CHUNK_BYTES / data->element_bytes ? 0 : bytes * data->element_bytes;
    }
    if (bytes == 0 || (bytes > MIN_CACHE_BYTES && bytes / ratio > file->file_bytes)) {
        scd_h5_fail(file, data->path, SCD_E_CORRUPT, err,
                    "chunks of %llu x %llu elements of %zu bytes: more than the file can hold",
                    (unsigned long long)chunk[0], (unsigned long long)chunk[1],
                    data->element_bytes);
        return 0;
    }
    hsize_t row = bytes > MAX_CACHE_BYTES / across ? MAX_CACHE_BYTES : bytes * across;
    row = row < bytes ? bytes : row;
    return (size_t)(row < MIN_CACHE_BYTES ? MIN_CACHE_BYTES : row);
}

static hid_t dataset_open(const scd_h5ad *file, const char *path, size_t cache)
{
    hid_t access = H5Pcreate(H5P_DATASET_ACCESS);
    hid_t dset = -1;
    hid_t object = H5Oopen(file->id, path, file->links); /* links of other files are refused here */
    if (access >= 0 && object >= 0 && H5Iget_type(object) == H5I_DATASET &&
        (!cache || H5Pset_chunk_cache(access, CACHE_SLOTS, cache, 0.75) >= 0))
        dset = H5Dopen2(object, ".", access);
    if (object >= 0)
        H5Oclose(object);
    if (access >= 0)
        H5Pclose(access);
    return dset;
}

/* The type of the elements, or of one member of a record; and the shape. */
static scd_code data_facts(const scd_h5ad *file, const char *member, scd_h5_data *data,
                           scd_error *err)
{
    scd_code code = SCD_OK;
    hid_t space = H5Dget_space(data->dset);
    data->type = H5Dget_type(data->dset);
    if (space < 0 || data->type < 0) {
        code = scd_h5_fail_library(file, data->path, "has no shape or type", err);
        goto done;
    }
    data->element_bytes = H5Tget_size(data->type);
    data->rank = H5Sget_simple_extent_ndims(space);
    if (data->rank < 1 || data->rank > 2 || data->element_bytes == 0) {
        code = scd_h5_fail(file, data->path, SCD_E_INVALID, err, "%d dimensions, 1 or 2 are read",
                           data->rank);
        goto done;
    }
    data->dims[1] = 1;
    H5Sget_simple_extent_dims(space, data->dims, NULL);
    if (data->dims[0] > INT64_MAX / 16 || data->dims[1] > UINT32_MAX)
        code = scd_h5_fail(file, data->path, SCD_E_CORRUPT, err, "absurd shape");
    if (!code && member) {
        int at =
            H5Tget_class(data->type) == H5T_COMPOUND ? H5Tget_member_index(data->type, member) : -1;
        hid_t inner = at < 0 ? -1 : H5Tget_member_type(data->type, (unsigned)at);
        if (inner < 0) {
            code = scd_h5_fail_library(file, data->path, "no such column", err);
            goto done;
        }
        H5Tclose(data->type);
        data->type = inner;
    }
    data->class = H5Tget_class(data->type);

done:
    if (space >= 0)
        H5Sclose(space);
    return code;
}

scd_code scd_h5_data_open(const scd_h5ad *file, const char *path, const char *member,
                          scd_h5_data *out, scd_error *err)
{
    scd_code code = SCD_OK;
    hid_t plist = -1;
    *out = (scd_h5_data){.dset = -1, .type = -1};
    snprintf(out->path, sizeof out->path, member ? "%s[%s]" : "%s%s", path, member ? member : "");

    scd_h5_enter();
    if (scd_h5_kind(file, path) != H5I_DATASET || (out->dset = dataset_open(file, path, 0)) < 0) {
        code = scd_h5_fail_library(file, out->path, "not a data set of this file", err);
        goto done;
    }
    if (member && !(out->member = scd_strdup(member))) {
        code = scd_h5_no_memory(file, out->path, err);
        goto done;
    }
    if ((code = data_facts(file, member, out, err)))
        goto done;
    plist = H5Dget_create_plist(out->dset);
    if (plist < 0 || H5Pget_external_count(plist) != 0 || H5Pget_layout(plist) == H5D_VIRTUAL) {
        code = scd_h5_fail(file, out->path, SCD_E_INVALID, err,
                           "its values lie outside of this file, where they are not followed");
        goto done;
    }
    hsize_t ratio = filters_ratio(file, out->path, plist, err);
    size_t cache = ratio ? cache_bytes(file, out, plist, ratio, err) : 0;
    if (!cache) {
        code = ratio ? SCD_E_CORRUPT : SCD_E_INVALID;
        goto done;
    }
    if (cache > MIN_CACHE_BYTES) {
        hid_t again = dataset_open(file, path, cache);
        if (again >= 0) {
            H5Dclose(out->dset);
            out->dset = again;
        }
    }

done:
    if (plist >= 0)
        H5Pclose(plist);
    if (code)
        scd_h5_data_close(out);
    scd_h5_leave();
    return code;
}

void scd_h5_data_close(scd_h5_data *data)
{
    scd_h5_enter();
    if (data->type > 0)
        H5Tclose(data->type);
    if (data->dset > 0)
        H5Dclose(data->dset);
    scd_h5_leave();
    free(data->member);
    *data = (scd_h5_data){.dset = -1, .type = -1};
}

scd_code scd_h5_data_bounded(const scd_h5ad *file, const scd_h5_data *data, scd_error *err)
{
    scd_h5_enter();
    hid_t plist = H5Dget_create_plist(data->dset);
    hsize_t stored = H5Dget_storage_size(data->dset);
    hsize_t ratio = plist < 0 ? 1 : filters_ratio(file, data->path, plist, NULL);
    if (plist >= 0)
        H5Pclose(plist);
    scd_h5_leave();
    stored = stored > file->file_bytes ? file->file_bytes : stored;
    hsize_t most = stored * (ratio ? ratio : 1) / data->element_bytes;
    if (data->dims[1] && data->dims[0] > most / data->dims[1])
        return scd_h5_fail(file, data->path, SCD_E_CORRUPT, err,
                           "%llu elements, for which the %llu bytes stored are too few",
                           (unsigned long long)data->dims[0], (unsigned long long)stored);
    return SCD_OK;
}

/* ---- slabs ---- */

/* `inner` as the only member of a record where the data are one member of records. */
static hid_t memory_type(const scd_h5_data *data, hid_t inner)
{
    if (!data->member)
        return H5Tcopy(inner);
    hid_t record = H5Tcreate(H5T_COMPOUND, H5Tget_size(inner));
    if (record >= 0 && H5Tinsert(record, data->member, 0, inner) < 0) {
        H5Tclose(record);
        record = -1;
    }
    return record;
}

herr_t scd_h5_slab(const scd_h5_data *data, hid_t inner, hid_t transfer, hsize_t first, hsize_t n,
                   void *out)
{
    herr_t failed = -1;
    hsize_t from[2] = {first, 0}, count[2] = {n, data->dims[1]};
    hid_t type = memory_type(data, inner);
    hid_t space = H5Dget_space(data->dset);
    hid_t memory = H5Screate_simple(data->rank, count, NULL);
    if (type >= 0 && space >= 0 && memory >= 0 &&
        H5Sselect_hyperslab(space, H5S_SELECT_SET, from, NULL, count, NULL) >= 0)
        failed = H5Dread(data->dset, type, memory, space, transfer, out);
    if (failed < 0)
        scd_h5_note();
    if (memory >= 0)
        H5Sclose(memory);
    if (space >= 0)
        H5Sclose(space);
    if (type >= 0)
        H5Tclose(type);
    return failed;
}

/* Enums come out as their own integers first: the library has no way from them to numbers. */
static herr_t enum_read(const scd_h5_data *data, hid_t wanted, hsize_t first, hsize_t n, void *out)
{
    hid_t native = H5Tget_native_type(data->type, H5T_DIR_ASCEND);
    hid_t base = native < 0 ? -1 : H5Tget_super(native);
    herr_t failed = -1;
    if (base >= 0 && H5Tget_size(base) <= 8 &&
        scd_h5_slab(data, native, H5P_DEFAULT, first, n, out) >= 0)
        failed = H5Tconvert(base, wanted, (size_t)(n * data->dims[1]), out, NULL, H5P_DEFAULT);
    if (base >= 0)
        H5Tclose(base);
    if (native >= 0)
        H5Tclose(native);
    return failed;
}

bool scd_h5_is_number(const scd_h5_data *data)
{
    return data->class == H5T_INTEGER || data->class == H5T_FLOAT || data->class == H5T_ENUM;
}

scd_code scd_h5_read(const scd_h5ad *file, const scd_h5_data *data, scd_h5_as as, hsize_t first,
                     hsize_t n, void *out, scd_error *err)
{
    if (!scd_h5_is_number(data))
        return scd_h5_fail(file, data->path, SCD_E_INVALID, err, "does not hold numbers");
    if (first > data->dims[0] || n > data->dims[0] - first)
        return scd_h5_fail(file, data->path, SCD_E_CORRUPT, err,
                           "elements up to %llu are needed, there are %llu",
                           (unsigned long long)(first + n), (unsigned long long)data->dims[0]);
    if (n == 0 || data->dims[1] == 0)
        return SCD_OK;
    scd_h5_enter();
    hid_t wanted = as == SCD_H5_INT64    ? H5T_NATIVE_INT64
                   : as == SCD_H5_UINT64 ? H5T_NATIVE_UINT64
                                         : H5T_NATIVE_DOUBLE;
    herr_t failed = data->class == H5T_ENUM ? enum_read(data, wanted, first, n, out)
                                            : scd_h5_slab(data, wanted, H5P_DEFAULT, first, n, out);
    scd_code code = SCD_OK;
    if (failed < 0)
        code = scd_h5_fail_library(file, data->path, "cannot be read", err);
    scd_h5_leave();
    return code;
}

bool scd_h5_is_bool(const scd_h5_data *data)
{
    bool is = false;
    scd_h5_enter();
    if (data->class == H5T_ENUM && H5Tget_nmembers(data->type) == 2) {
        int no = H5Tget_member_index(data->type, "FALSE");
        is = no >= 0 && H5Tget_member_index(data->type, "TRUE") >= 0;
    }
    scd_h5_leave();
    return is;
}
