/* fuzz_h5ad.c - any bytes as an .h5ad file: refused with a message, or every matrix, column and
 * choice in it can be read (or refused) in bounded memory.
 *
 * What it looks for are our own mistakes. libhdf5 itself does not stand up to any bytes whatever,
 * which is why strangers' files are to be read in a process of their own; so a mutation changes, by
 * the library, what a sound file says - values, attributes, names, what leads where - and none of
 * its bytes.
 *
 * Threads: one. */
#include "api/cells_choose.h"

#include <hdf5.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed);
/* libFuzzer's; a replay of the corpus has none. */
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max) __attribute__((weak));

static void check(scd_code code, const scd_error *err)
{
    if (code && (err->code != code || !memchr(err->message, '\0', sizeof err->message)))
        abort();
}

static void read_matrices(scd_cells *file, scd_arena *arena)
{
    for (size_t i = 0; i < scd_cells_n_matrices(file) && i < 8; i++) {
        const char *name = scd_cells_matrix_name(file, i);
        scd_cells_matrix m;
        scd_cells_rows rows;
        scd_error err;
        scd_code code = scd_cells_matrix_get(file, name, &m, &err);
        if (!code)
            code = scd_cells_rows_read(file, name, m.rows / 2, m.rows - m.rows / 2, arena, &rows,
                                       &err);
        check(code, &err);
        if (code)
            continue;
        for (size_t row = 0; row < rows.n; row++)
            for (uint64_t at = rows.indptr[row]; at < rows.indptr[row + 1]; at++)
                if (rows.indices[at] >= m.cols || rows.data[at] == 0 ||
                    (at > rows.indptr[row] && rows.indices[at] <= rows.indices[at - 1]))
                    abort();
    }
}

static void read_columns(scd_cells *file, const char *frame, scd_arena *arena)
{
    size_t n = scd_cells_n_columns(file, frame), n_text;
    for (size_t i = 0; i <= n && i < 16; i++) {
        const char *column = i < n ? scd_cells_column_name(file, frame, i) : NULL;
        const char *const *text = NULL;
        scd_cells_categories c;
        scd_error err;
        scd_code code = scd_cells_column_text(file, frame, column, arena, &text, &n_text, &err);
        check(code, &err);
        size_t bytes = 0;
        for (size_t k = 0; !code && k < n_text; k++)
            bytes += text[k] ? strlen(text[k]) : 0;
        code = scd_cells_column_categories(file, frame, column, arena, &c, &err);
        check(code, &err);
        for (size_t k = 0; !code && k < c.n; k++)
            if (c.codes[k] < -1 || c.codes[k] >= (int32_t)c.n_categories || bytes > SIZE_MAX / 2)
                abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    scd_cells *file = NULL;
    scd_cells_choice choice;
    scd_error err;
    scd_arena arena;
    scd_arena_init(&arena, 64 << 20);
    scd_code code = scd_cells_open_image(data, size, "fuzz", &file, &err);
    check(code, &err);
    if (!code) {
        read_columns(file, "obs", &arena);
        read_columns(file, "var", &arena);
        read_columns(file, "raw/var", &arena);
        read_matrices(file, &arena);
        check(scd_cells_choose(file, NULL, NULL, NULL, &arena, &choice, &err), &err);
    }
    scd_cells_close(file);
    scd_arena_release(&arena);
    return 0;
}

/* ---- mutations ------------------------------------------------------------------------------ */

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
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed)
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
