/* h5_write.c - see h5_write.h: the file, groups, attributes, whole arrays. */
#include "api/h5_write.h"

#include "engine/base/mem.h"

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const scd_h5_encoding scd_h5_dict = {"dict", "0.1.0"};
const scd_h5_encoding scd_h5_array = {"array", "0.2.0"};
const scd_h5_encoding scd_h5_texts = {"string-array", "0.2.0"};
const scd_h5_encoding scd_h5_text = {"string", "0.2.0"};
const scd_h5_encoding scd_h5_dataframe = {"dataframe", "0.2.0"};
const scd_h5_encoding scd_h5_number = {"numeric-scalar", "0.2.0"};
const scd_h5_encoding scd_h5_no_encoding = {NULL, NULL};

scd_code scd_h5_write_failed(const scd_h5ad *file, const char *object, scd_error *err)
{
    static const char mark[] = "error message = '";
    char reason[64];
    scd_error failed;
    scd_code code = scd_h5_fail_library(file, object, "cannot be written", &failed);
    const char *at = strstr(failed.message, mark),
               *end = at ? strchr(at + sizeof mark, '\'') : NULL;
    if (end) { /* the system's own words, out of a paragraph of the library's */
        snprintf(reason, sizeof reason, "%.*s", (int)(end - at - (ptrdiff_t)sizeof mark + 1),
                 at + sizeof mark - 1);
        return scd_h5_fail(file, object, SCD_E_IO, err, "cannot be written: %s", reason);
    }
    if (err)
        *err = failed;
    return code; /* not the disk: what the file holds already is damaged */
}

/* ---- the file ---- */

scd_code scd_h5_write_open(scd_h5ad *file, const char *path, bool is_new, scd_error *err)
{
    scd_code code = SCD_OK;
    *file = (scd_h5ad){.path = scd_strdup(path), .id = H5I_INVALID_HID};
    if (!file->path)
        return scd_fail(err, SCD_E_NOMEM, "%s: out of memory", path);
    scd_h5_enter();
    hid_t access = H5Pcreate(H5P_FILE_ACCESS), create = H5Pcreate(H5P_FILE_CREATE);
    file->links = scd_h5_links();
    if (access >= 0 && create >= 0 && file->links >= 0 &&
        H5Pset_file_locking(access, true, true) >= 0)
        file->id = is_new ? H5Fcreate(path, H5F_ACC_TRUNC, create, access)
                          : H5Fopen(path, H5F_ACC_RDWR, access);
    scd_h5_note();
    if (file->id < 0)
        code = scd_h5_write_failed(file, NULL, err);
    if (create >= 0)
        H5Pclose(create);
    if (access >= 0)
        H5Pclose(access);
    scd_h5_leave();
    if (code)
        scd_h5_write_close(file, NULL);
    return code;
}

scd_code scd_h5_write_close(scd_h5ad *file, scd_error *err)
{
    scd_code code = SCD_OK;
    if (!file->path)
        return SCD_OK;
    scd_h5_enter();
    if (file->id >= 0 && (H5Fflush(file->id, H5F_SCOPE_GLOBAL) < 0 || H5Fclose(file->id) < 0))
        code = scd_h5_write_failed(file, NULL, err);
    if (file->links >= 0)
        H5Pclose(file->links);
    scd_h5_leave();
    free(file->path);
    *file = (scd_h5ad){.id = H5I_INVALID_HID};
    return code;
}

/* ---- types ---- */

hid_t scd_h5_text_type(void)
{
    hid_t type = H5Tcopy(H5T_C_S1);
    if (type >= 0 &&
        (H5Tset_size(type, H5T_VARIABLE) < 0 || H5Tset_cset(type, H5T_CSET_UTF8) < 0)) {
        H5Tclose(type);
        type = H5I_INVALID_HID;
    }
    return type;
}

hid_t scd_h5_bool_type(void)
{
    const int8_t no = 0, yes = 1;
    hid_t type = H5Tenum_create(H5T_STD_I8LE);
    if (type >= 0 &&
        (H5Tenum_insert(type, "FALSE", &no) < 0 || H5Tenum_insert(type, "TRUE", &yes) < 0)) {
        H5Tclose(type);
        type = H5I_INVALID_HID;
    }
    return type;
}

hid_t scd_h5_codes_type(size_t n_categories)
{
    return n_categories <= INT8_MAX    ? H5T_STD_I8LE
           : n_categories <= INT16_MAX ? H5T_STD_I16LE
                                       : H5T_STD_I32LE;
}

/* ---- attributes ---- */

/* Inside the lock. */
static herr_t put_attr(const scd_h5ad *file, const char *object, const char *name, hid_t type,
                       hid_t memory, hid_t space, const void *value)
{
    herr_t failed = -1;
    if (H5Aexists_by_name(file->id, object, name, H5P_DEFAULT) > 0 &&
        H5Adelete_by_name(file->id, object, name, H5P_DEFAULT) < 0)
        return -1;
    hid_t attr = H5Acreate_by_name(file->id, object, name, type, space, H5P_DEFAULT, H5P_DEFAULT,
                                   H5P_DEFAULT);
    if (attr >= 0)
        failed = H5Awrite(attr, memory, value);
    scd_h5_note();
    if (attr >= 0)
        H5Aclose(attr);
    return failed;
}

/* Of n elements; SIZE_MAX: a scalar. */
static scd_code put_any_attr(scd_h5ad *file, const char *object, const char *name, hid_t type,
                             hid_t memory, size_t n, const void *value, scd_error *err)
{
    scd_code code = SCD_OK;
    hsize_t dims = n;
    scd_h5_enter();
    hid_t space = n == SIZE_MAX ? H5Screate(H5S_SCALAR) : H5Screate_simple(1, &dims, NULL);
    if (type < 0 || space < 0 || put_attr(file, object, name, type, memory, space, value) < 0)
        code = scd_h5_write_failed(file, object, err);
    if (space >= 0)
        H5Sclose(space);
    scd_h5_leave();
    return code;
}

scd_code scd_h5_put_attr_texts(scd_h5ad *file, const char *object, const char *name,
                               const char *const *texts, size_t n, scd_error *err)
{
    scd_h5_enter();
    hid_t type = scd_h5_text_type();
    scd_code code = put_any_attr(file, object, name, type, type, n, texts, err);
    if (type >= 0)
        H5Tclose(type);
    scd_h5_leave();
    return code;
}

scd_code scd_h5_put_attr_text(scd_h5ad *file, const char *object, const char *name,
                              const char *text, scd_error *err)
{
    return scd_h5_put_attr_texts(file, object, name, &text, SIZE_MAX, err);
}

scd_code scd_h5_put_attr_shape(scd_h5ad *file, const char *object, const uint64_t shape[2],
                               scd_error *err)
{
    scd_h5_enter();
    scd_code code =
        put_any_attr(file, object, "shape", H5T_STD_I64LE, H5T_NATIVE_UINT64, 2, shape, err);
    scd_h5_leave();
    return code;
}

scd_code scd_h5_put_attr_bool(scd_h5ad *file, const char *object, const char *name, bool value,
                              scd_error *err)
{
    int8_t byte = value;
    scd_h5_enter();
    hid_t type = scd_h5_bool_type();
    scd_code code = put_any_attr(file, object, name, type, type, SIZE_MAX, &byte, err);
    if (type >= 0)
        H5Tclose(type);
    scd_h5_leave();
    return code;
}

static scd_code put_encoding(scd_h5ad *file, const char *object, scd_h5_encoding encoding,
                             scd_error *err)
{
    if (!encoding.kind)
        return SCD_OK;
    scd_code code = scd_h5_put_attr_text(file, object, "encoding-type", encoding.kind, err);
    return code ? code
                : scd_h5_put_attr_text(file, object, "encoding-version", encoding.version, err);
}

/* ---- groups and whole arrays ---- */

scd_code scd_h5_put_group(scd_h5ad *file, const char *path, scd_h5_encoding encoding,
                          scd_error *err)
{
    scd_code code = SCD_OK;
    scd_h5_enter();
    hid_t plist = H5Pcreate(H5P_GROUP_CREATE), group = H5I_INVALID_HID;
    if (plist >= 0 && H5Pset_obj_track_times(plist, false) >= 0)
        group = H5Gcreate2(file->id, path, H5P_DEFAULT, plist, H5P_DEFAULT);
    scd_h5_note();
    if (group < 0)
        code = scd_h5_write_failed(file, path, err);
    else
        H5Gclose(group);
    if (plist >= 0)
        H5Pclose(plist);
    scd_h5_leave();
    return code ? code : put_encoding(file, path, encoding, err);
}

/* n elements; SIZE_MAX: a scalar. */
static scd_code put_any(scd_h5ad *file, const char *path, hid_t type, hid_t memory, size_t n,
                        const void *values, scd_h5_encoding encoding, scd_error *err)
{
    scd_code code = SCD_OK;
    hsize_t dims = n;
    hid_t dset = H5I_INVALID_HID;
    scd_h5_enter();
    hid_t plist = H5Pcreate(H5P_DATASET_CREATE);
    hid_t space = n == SIZE_MAX ? H5Screate(H5S_SCALAR) : H5Screate_simple(1, &dims, NULL);
    if (type >= 0 && plist >= 0 && space >= 0 && H5Pset_obj_track_times(plist, false) >= 0)
        dset = H5Dcreate2(file->id, path, type, space, H5P_DEFAULT, plist, H5P_DEFAULT);
    if (dset < 0 || (n && H5Dwrite(dset, memory, H5S_ALL, H5S_ALL, H5P_DEFAULT, values) < 0)) {
        scd_h5_note();
        code = scd_h5_write_failed(file, path, err);
    }
    if (dset >= 0)
        H5Dclose(dset);
    if (space >= 0)
        H5Sclose(space);
    if (plist >= 0)
        H5Pclose(plist);
    scd_h5_leave();
    return code ? code : put_encoding(file, path, encoding, err);
}

scd_code scd_h5_put_texts(scd_h5ad *file, const char *path, const char *const *texts, size_t n,
                          scd_h5_encoding encoding, scd_error *err)
{
    scd_h5_enter();
    hid_t type = scd_h5_text_type();
    scd_code code = put_any(file, path, type, type, n, texts, encoding, err);
    if (type >= 0)
        H5Tclose(type);
    scd_h5_leave();
    return code;
}

scd_code scd_h5_put_text(scd_h5ad *file, const char *path, const char *text, scd_error *err)
{
    return scd_h5_put_texts(file, path, &text, SIZE_MAX, scd_h5_text, err);
}

scd_code scd_h5_put_double(scd_h5ad *file, const char *path, double value, scd_error *err)
{
    scd_h5_enter();
    scd_code code = put_any(file, path, H5T_IEEE_F64LE, H5T_NATIVE_DOUBLE, SIZE_MAX, &value,
                            scd_h5_number, err);
    scd_h5_leave();
    return code;
}

scd_code scd_h5_put_int(scd_h5ad *file, const char *path, int64_t value, scd_error *err)
{
    scd_h5_enter();
    scd_code code =
        put_any(file, path, H5T_STD_I64LE, H5T_NATIVE_INT64, SIZE_MAX, &value, scd_h5_number, err);
    scd_h5_leave();
    return code;
}

scd_code scd_h5_put_floats(scd_h5ad *file, const char *path, const float *values, size_t n,
                           scd_h5_encoding encoding, scd_error *err)
{
    scd_h5_enter();
    scd_code code = put_any(file, path, H5T_IEEE_F32LE, H5T_NATIVE_FLOAT, n, values, encoding, err);
    scd_h5_leave();
    return code;
}

scd_code scd_h5_put_doubles(scd_h5ad *file, const char *path, const double *values, size_t n,
                            scd_h5_encoding encoding, scd_error *err)
{
    scd_h5_enter();
    scd_code code =
        put_any(file, path, H5T_IEEE_F64LE, H5T_NATIVE_DOUBLE, n, values, encoding, err);
    scd_h5_leave();
    return code;
}

scd_code scd_h5_put_ints(scd_h5ad *file, const char *path, const int64_t *values, size_t n,
                         scd_h5_encoding encoding, scd_error *err)
{
    scd_h5_enter();
    scd_code code = put_any(file, path, H5T_STD_I64LE, H5T_NATIVE_INT64, n, values, encoding, err);
    scd_h5_leave();
    return code;
}

scd_code scd_h5_put_bools(scd_h5ad *file, const char *path, const uint8_t *values, size_t n,
                          scd_h5_encoding encoding, scd_error *err)
{
    scd_h5_enter();
    hid_t type = scd_h5_bool_type();
    scd_code code = put_any(file, path, type, type, n, values, encoding, err);
    if (type >= 0)
        H5Tclose(type);
    scd_h5_leave();
    return code;
}

scd_code scd_h5_put_codes(scd_h5ad *file, const char *path, const int32_t *codes, size_t n,
                          size_t n_categories, scd_h5_encoding encoding, scd_error *err)
{
    scd_h5_enter();
    scd_code code = put_any(file, path, scd_h5_codes_type(n_categories), H5T_NATIVE_INT32, n, codes,
                            encoding, err);
    scd_h5_leave();
    return code;
}

/* ---- links ---- */

scd_code scd_h5_remove(scd_h5ad *file, const char *path, scd_error *err)
{
    scd_code code = SCD_OK;
    scd_h5_enter();
    if (scd_h5_there(file, path) && H5Ldelete(file->id, path, H5P_DEFAULT) < 0) {
        scd_h5_note();
        code = scd_h5_write_failed(file, path, err);
    }
    scd_h5_leave();
    return code;
}

scd_code scd_h5_move(scd_h5ad *file, const char *from, const char *to, scd_error *err)
{
    scd_code code = SCD_OK;
    scd_h5_enter();
    if (H5Lmove(file->id, from, file->id, to, H5P_DEFAULT, H5P_DEFAULT) < 0) {
        scd_h5_note();
        code = scd_h5_write_failed(file, from, err);
    }
    scd_h5_leave();
    return code;
}
