/* h5_mutate.c - see h5_mutate.h. */
#include "tests/fuzz/h5_mutate.h"

#include <hdf5.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MAX_OBJECTS = 256, NAME_BYTES = 200, MAX_VALUES = 1 << 16, MOST_CHANGES = 4 };

typedef struct objects {
    char names[MAX_OBJECTS][NAME_BYTES];
    size_t n;
} objects;

static unsigned next(unsigned *seed)
{
    *seed = *seed * 1664525U + 1013904223U;
    return *seed >> 8;
}

static herr_t note(hid_t at, const char *name, const H5O_info_t *info, void *arg)
{
    objects *o = arg;
    (void)at;
    (void)info;
    if (o->n < MAX_OBJECTS && strlen(name) < NAME_BYTES && strcmp(name, ".") != 0)
        strcpy(o->names[o->n++], name);
    return 0;
}

/* Numbers and texts of a fixed width, as they are stored. */
static void change_values(hid_t object)
{
    hid_t type = H5Dget_type(object), space = H5Dget_space(object);
    hssize_t n = space < 0 ? 0 : H5Sget_simple_extent_npoints(space);
    size_t n_bytes = n > 0 && n < MAX_VALUES ? (size_t)n * H5Tget_size(type) : 0;
    uint8_t *values = n_bytes && n_bytes < MAX_VALUES ? malloc(n_bytes) : NULL;
    if (values && !H5Tdetect_class(type, H5T_VLEN) && !H5Tis_variable_str(type) &&
        !H5Tdetect_class(type, H5T_REFERENCE) &&
        H5Dread(object, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, values) >= 0) {
        LLVMFuzzerMutate(values, n_bytes, n_bytes);
        H5Dwrite(object, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, values);
    }
    free(values);
    H5Sclose(space);
    H5Tclose(type);
}

static void change_attribute(hid_t object, unsigned *seed)
{
    static const char *const words[] = {
        "csr_matrix", "csc_matrix", "dataframe",        "categorical", "array",       "",
        "0.1.0",      "0.2.0",      "nullable-integer", "_index",      "string-array"};
    static const char *const names[] = {"encoding-type", "encoding-version", "_index",    "shape",
                                        "column-order",  "h5sparse_shape",   "categories"};
    const char *name = names[next(seed) % 7];
    int64_t shape[2] = {(int64_t)next(seed) % 20, (int64_t)next(seed) % 20 - 3};
    bool is_shape = strstr(name, "shape") != NULL, is_one = next(seed) % 2;
    hsize_t two = 2;
    if (H5Aexists(object, name) > 0)
        H5Adelete(object, name);
    if (next(seed) % 4 == 0)
        return;
    const char *word = words[next(seed) % 11];
    hid_t type = H5Tcopy(is_shape ? H5T_NATIVE_INT64 : H5T_C_S1);
    if (!is_shape)
        H5Tset_size(type, strlen(word) + 1);
    hid_t space = is_shape && !is_one ? H5Screate_simple(1, &two, NULL) : H5Screate(H5S_SCALAR);
    hid_t made = H5Acreate2(object, name, type, space, H5P_DEFAULT, H5P_DEFAULT);
    if (made >= 0) {
        H5Awrite(made, type, is_shape ? (const void *)shape : word);
        H5Aclose(made);
    }
    H5Sclose(space);
    H5Tclose(type);
}

/* A group inside of itself is not for libhdf5's own walk over a file. */
static bool leads_to_itself(hid_t file, const char *one, const char *other)
{
    hid_t object = H5Oopen(file, other, H5P_DEFAULT);
    bool is_group = object >= 0 && H5Iget_type(object) == H5I_GROUP;
    if (object >= 0)
        H5Oclose(object);
    return is_group || strncmp(one, other, strlen(one)) == 0;
}

static void change_links(hid_t file, const objects *o, unsigned *seed)
{
    const char *one = o->names[next(seed) % o->n], *other = o->names[next(seed) % o->n];
    if (leads_to_itself(file, one, other))
        return;
    switch (next(seed) % 4) {
    case 0:
        H5Ldelete(file, one, H5P_DEFAULT);
        break;
    case 1:
        H5Ldelete(file, one, H5P_DEFAULT);
        H5Lcreate_hard(file, other, file, one, H5P_DEFAULT, H5P_DEFAULT);
        break;
    case 2:
        H5Ldelete(file, one, H5P_DEFAULT);
        H5Lcreate_soft(other, file, one, H5P_DEFAULT, H5P_DEFAULT);
        break;
    default:
        H5Ldelete(file, other, H5P_DEFAULT);
        H5Lmove(file, one, file, other, H5P_DEFAULT, H5P_DEFAULT);
        break;
    }
}

static void change_one(hid_t file, unsigned *seed)
{
    static objects o;
    o.n = 0;
    H5Ovisit2(file, H5_INDEX_NAME, H5_ITER_INC, note, &o, H5O_INFO_BASIC);
    if (!o.n)
        return;
    hid_t object = H5Oopen(file, o.names[next(seed) % o.n], H5P_DEFAULT);
    unsigned what = next(seed) % 8;
    if (object >= 0 && what < 5 && H5Iget_type(object) == H5I_DATASET)
        change_values(object);
    else if (object >= 0 && what < 7)
        change_attribute(object, seed);
    else
        change_links(file, &o, seed);
    if (object >= 0)
        H5Oclose(object);
}

/* In a file: the image of one that is open has a checksum that does not fit it, and libhdf5 opens
 * no file that has no name. */
size_t scd_h5_mutate(uint8_t *data, size_t size, size_t max, unsigned seed)
{
    char path[] = "/tmp/scdiva-mutation-XXXXXX";
    struct stat facts;
    int fd = mkstemp(path);
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
    if (fd < 0 || write(fd, data, size) != (ssize_t)size)
        abort();
    hid_t file = H5Fopen(path, H5F_ACC_RDWR, H5P_DEFAULT);
    if (file >= 0) {
        for (unsigned n = 1 + next(&seed) % MOST_CHANGES; n; n--)
            change_one(file, &seed);
        H5Fclose(file);
        if (!fstat(fd, &facts) && (size_t)facts.st_size <= max)
            size = (size_t)pread(fd, data, (size_t)facts.st_size, 0);
    }
    unlink(path);
    close(fd);
    return size;
}
