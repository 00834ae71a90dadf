/* h5ad_strings.c - strings of either kind, out of data sets, as valid UTF-8 without a NUL inside.
 *
 * Strings of variable length are allocated through our own functions, which keep their lengths:
 * strlen alone would not see a NUL inside, and a small file whose strings all point to one long
 * string would fill the memory. h5py stores each string of its own and unpacked, so that those of
 * one column are never longer than the file together.
 *
 * Threads: any. Owns: nothing; the strings live in the caller's arena. */
#include "api/h5ad_impl.h"

#include "api/text.h"
#include "engine/base/mem.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

enum { BATCH = 4096, BATCH_BYTES = 4 << 20, MAX_STRING_BYTES = 1 << 20 };

/* The library may fail half way and forget what it allocated: the pool does not. */
struct block {
    struct block *next;
    size_t n_bytes;
    _Alignas(max_align_t) char bytes[];
};

struct pool {
    struct block *head;
    hsize_t left; /* bytes that may still be handed out */
    bool over;    /* more were asked for */
    bool no_memory;
};

static void *pool_alloc(size_t n_bytes, void *data)
{
    struct pool *pool = data;
    pool->over = n_bytes > pool->left || n_bytes > SIZE_MAX - sizeof(struct block);
    if (pool->over)
        return NULL;
    struct block *block = scd_malloc(1, sizeof *block + n_bytes);
    pool->no_memory = !block;
    if (!block)
        return NULL;
    *block = (struct block){.next = pool->head, .n_bytes = n_bytes};
    pool->head = block;
    pool->left -= n_bytes;
    return block->bytes;
}

static void pool_free(void *bytes, void *data)
{
    (void)bytes, (void)data; /* with the pool */
}

static void pool_release(struct pool *pool)
{
    for (struct block *b = pool->head, *next; b; b = next) {
        next = b->next;
        free(b);
    }
    pool->head = NULL;
}

static size_t pool_length(const char *bytes)
{
    return ((const struct block *)(const void *)(bytes - offsetof(struct block, bytes)))->n_bytes;
}

/* n bytes as they were stored become text: NULs at the end go, anything else is judged. */
static scd_code take_text(const scd_h5ad *file, const scd_h5_data *data, hsize_t row,
                          const char *bytes, size_t n, scd_arena *arena, const char **out,
                          scd_error *err)
{
    while (n && bytes[n - 1] == '\0')
        n--;
    for (size_t at = 0; at < n;) {
        size_t length = bytes[at] ? scd_utf8_length(bytes + at, n - at) : 0;
        if (length == 0)
            return scd_h5_fail(file, data->path, SCD_E_INVALID, err, "row %llu: the text %s",
                               (unsigned long long)row,
                               bytes[at] ? "is not UTF-8" : "has a NUL inside");
        at += length;
    }
    *out = scd_arena_strndup(arena, bytes, n);
    return *out ? SCD_OK : scd_h5_no_memory(file, data->path, err);
}

static scd_code read_variable(const scd_h5ad *file, const scd_h5_data *data, hsize_t first,
                              size_t n, hsize_t *left, scd_arena *arena, const char **out,
                              scd_error *err)
{
    scd_code code = SCD_OK;
    char *strings[BATCH] = {NULL};
    struct pool pool = {.left = *left};
    hid_t transfer = H5Pcreate(H5P_DATASET_XFER);
    hid_t type = H5Tcopy(H5T_C_S1);
    if (transfer < 0 || type < 0 || H5Tset_size(type, H5T_VARIABLE) < 0 ||
        H5Tset_cset(type, H5Tget_cset(data->type)) < 0 ||
        H5Pset_vlen_mem_manager(transfer, pool_alloc, &pool, pool_free, &pool) < 0) {
        code = scd_h5_no_memory(file, data->path, err);
        goto done;
    }
    if (scd_h5_slab(data, type, transfer, first, n, strings) < 0) {
        code = pool.no_memory ? scd_h5_no_memory(file, data->path, err)
               : pool.over    ? scd_h5_fail(file, data->path, SCD_E_CORRUPT, err,
                                            "its text is longer than the file")
                           : scd_h5_fail_library(file, data->path, "its text cannot be read", err);
        goto done;
    }
    for (size_t i = 0; i < n && !code; i++) {
        size_t length = strings[i] ? pool_length(strings[i]) : 0;
        code = take_text(file, data, first + i, strings[i] ? strings[i] : "", length, arena,
                         out + i, err);
    }

done:
    *left = pool.left;
    pool_release(&pool);
    if (type >= 0)
        H5Tclose(type);
    if (transfer >= 0)
        H5Pclose(transfer);
    return code;
}

static scd_code read_fixed(const scd_h5ad *file, const scd_h5_data *data, hsize_t first, size_t n,
                           char *buf, scd_arena *arena, const char **out, scd_error *err)
{
    size_t width = H5Tget_size(data->type);
    H5T_str_t padding = H5Tget_strpad(data->type);
    if (scd_h5_slab(data, data->type, H5P_DEFAULT, first, n, buf) < 0)
        return scd_h5_fail_library(file, data->path, "its text cannot be read", err);
    for (size_t i = 0; i < n; i++) {
        const char *text = buf + i * width;
        size_t length = padding == H5T_STR_NULLTERM ? strnlen(text, width) : width;
        while (padding == H5T_STR_SPACEPAD && length && text[length - 1] == ' ')
            length--;
        scd_code code = take_text(file, data, first + i, text, length, arena, out + i, err);
        if (code)
            return code;
    }
    return SCD_OK;
}

scd_code scd_h5_read_strings(const scd_h5ad *file, const scd_h5_data *data, hsize_t first, size_t n,
                             scd_arena *arena, const char **out, scd_error *err)
{
    if (data->class != H5T_STRING || data->rank != 1)
        return scd_h5_fail(file, data->path, SCD_E_INVALID, err, "does not hold a column of text");
    if (first > data->dims[0] || n > data->dims[0] - first)
        return scd_h5_fail(file, data->path, SCD_E_CORRUPT, err, "too short");
    scd_code code = SCD_OK;
    char *buf = NULL;
    hsize_t left = file->file_bytes;

    scd_h5_enter();
    bool variable = H5Tis_variable_str(data->type) > 0;
    size_t width = variable ? sizeof(char *) : H5Tget_size(data->type);
    if (width == 0 || width > MAX_STRING_BYTES) {
        code = scd_h5_fail(file, data->path, SCD_E_INVALID, err, "strings of %zu bytes", width);
        goto done;
    }
    size_t batch = BATCH_BYTES / width < BATCH ? BATCH_BYTES / width : BATCH;
    batch = batch > n && n ? n : batch;
    if (!variable && !(buf = scd_malloc(batch, width))) {
        code = scd_h5_no_memory(file, data->path, err);
        goto done;
    }
    for (size_t at = 0; at < n && !code; at += batch) {
        size_t some = n - at < batch ? n - at : batch;
        code = variable ? read_variable(file, data, first + at, some, &left, arena, out + at, err)
                        : read_fixed(file, data, first + at, some, buf, arena, out + at, err);
    }

done:
    scd_h5_leave();
    free(buf);
    return code;
}
