/* safetensors.c - see safetensors.h.
 *
 * The file is somebody else's: nothing in it is believed before it was checked, and once open
 * nothing is checked again. Tensors of other dtypes or ranks than ours may stand in a file, they
 * only cannot be got. The header is read with cJSON, whose tree stays alive for its names.
 *
 * Threads: any after open. Owns: the mapping and the header tree. */
#include "engine/model/safetensors.h"

#include "engine/base/mem.h"
#include "engine/model/dtype.h"
#include "engine/model/file.h"
#include "engine/model/safetensors_impl.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { MAX_RANK = 8, MAX_HEADER = 100000000, LENGTH_BYTES = 8 }; /* the format's own bound */

typedef struct type {
    const char *name;
    size_t bytes;
    int ours; /* scd_dtype, or -1: known to the format, of no use to a model */
} type;

static const type types[] = {
    {"F32", 4, SCD_F32}, {"F16", 2, SCD_F16}, {"BF16", 2, SCD_BF16}, {"F64", 8, -1},
    {"I64", 8, -1},      {"I32", 4, -1},      {"I16", 2, -1},        {"I8", 1, -1},
    {"U64", 8, -1},      {"U32", 4, -1},      {"U16", 2, -1},        {"U8", 1, -1},
    {"BOOL", 1, -1},     {"F8_E4M3", 1, -1},  {"F8_E5M2", 1, -1},
};

typedef struct entry {
    const char *name; /* in the header tree */
    const type *type;
    size_t rank, dims[MAX_RANK];
    size_t n_elements, begin, end; /* bytes from the start of the data */
} entry;

struct scd_safetensors {
    char *name; /* for messages */
    const unsigned char *bytes, *data;
    size_t n_bytes, n_data;
    bool mapped;
    cJSON *header;
    entry *entries; /* (n_entries) by name */
    size_t n_entries, n_params;
};

static scd_code corrupt(const scd_safetensors *file, const char *what, scd_error *err)
{
    return scd_fail(err, SCD_E_CORRUPT, "%s: %s", file->name, what);
}

/* ---- header ---------------------------------------------------------------------------------- */

/* Header numbers pass through float64, which is exact up to 2^53: far more than a file holds. */
static bool read_whole(const cJSON *item, size_t *out)
{
    double v = item->valuedouble;
    if (!cJSON_IsNumber(item) || !(v >= 0 && v <= 0x1p53) || v != floor(v))
        return false;
    *out = (size_t)v;
    return true;
}

static scd_code read_type(const scd_safetensors *file, entry *e, const cJSON *item, scd_error *err)
{
    const char *name = cJSON_GetStringValue(item);
    for (size_t i = 0; name && i < sizeof types / sizeof types[0]; i++)
        if (!strcmp(types[i].name, name))
            e->type = &types[i];
    if (e->type)
        return SCD_OK;
    return scd_fail(err, SCD_E_CORRUPT, "%s: tensor %.80s has the unknown dtype %.32s", file->name,
                    e->name, name ? name : "(not a string)");
}

static scd_code read_shape(const scd_safetensors *file, entry *e, const cJSON *shape,
                           scd_error *err)
{
    e->n_elements = 1;
    bool good = cJSON_IsArray(shape);
    const cJSON *dim = good ? shape->child : NULL;
    for (; good && dim; dim = dim->next) {
        good = e->rank < MAX_RANK && read_whole(dim, &e->dims[e->rank]) &&
               scd_size_mul(e->n_elements, e->dims[e->rank], &e->n_elements);
        e->rank++;
    }
    if (good)
        return SCD_OK;
    return scd_fail(err, SCD_E_CORRUPT,
                    "%s: shape of tensor %.80s must be at most %d whole numbers whose product "
                    "fits 64 bits",
                    file->name, e->name, MAX_RANK);
}

static scd_code read_range(const scd_safetensors *file, entry *e, const cJSON *range,
                           scd_error *err)
{
    if (!cJSON_IsArray(range) || cJSON_GetArraySize(range) != 2 ||
        !read_whole(range->child, &e->begin) || !read_whole(range->child->next, &e->end))
        return scd_fail(err, SCD_E_CORRUPT,
                        "%s: data_offsets of tensor %.80s must be two whole numbers", file->name,
                        e->name);
    size_t bytes;
    if (e->begin > e->end || e->end > file->n_data)
        return scd_fail(err, SCD_E_CORRUPT,
                        "%s: tensor %.80s lies at bytes %zu to %zu of the data, but the file has "
                        "%zu: truncated or damaged",
                        file->name, e->name, e->begin, e->end, file->n_data);
    if (!scd_size_mul(e->n_elements, e->type->bytes, &bytes) || bytes != e->end - e->begin)
        return scd_fail(err, SCD_E_CORRUPT,
                        "%s: tensor %.80s has %zu bytes of data, but %zu elements of %s",
                        file->name, e->name, e->end - e->begin, e->n_elements, e->type->name);
    return SCD_OK;
}

static scd_code read_entry(const scd_safetensors *file, entry *e, const cJSON *item, scd_error *err)
{
    const cJSON *dtype = NULL, *shape = NULL, *range = NULL, *member;
    size_t n_members = 0;
    e->name = item->string;
    for (member = cJSON_IsObject(item) ? item->child : NULL; member; member = member->next) {
        const cJSON **slot = !strcmp(member->string, "dtype")          ? &dtype
                             : !strcmp(member->string, "shape")        ? &shape
                             : !strcmp(member->string, "data_offsets") ? &range
                                                                       : NULL;
        if (slot)
            *slot = member;
        n_members++;
    }
    if (n_members != 3 || !dtype || !shape || !range)
        return scd_fail(err, SCD_E_CORRUPT,
                        "%s: tensor %.80s must have dtype, shape and data_offsets, each once",
                        file->name, e->name);
    scd_code code = read_type(file, e, dtype, err);
    if (!code)
        code = read_shape(file, e, shape, err);
    return code ? code : read_range(file, e, range, err);
}

static scd_code check_metadata(const scd_safetensors *file, const cJSON *item, scd_error *err)
{
    bool good = cJSON_IsObject(item);
    for (const cJSON *m = good ? item->child : NULL; good && m; m = m->next)
        good = cJSON_IsString(m);
    return good ? SCD_OK : corrupt(file, "__metadata__ must be an object of strings", err);
}

static scd_code read_entries(scd_safetensors *file, scd_error *err)
{
    const cJSON *item;
    size_t n = 0, n_metadata = 0;
    cJSON_ArrayForEach(item, file->header) n++;
    file->entries = scd_calloc(n, sizeof *file->entries);
    if (!file->entries)
        return scd_fail(err, SCD_E_NOMEM, "%s: out of memory", file->name);
    cJSON_ArrayForEach(item, file->header)
    {
        scd_code code;
        if (!strcmp(item->string, "__metadata__")) {
            code = n_metadata++ ? corrupt(file, "__metadata__ is given twice", err)
                                : check_metadata(file, item, err);
        } else {
            entry *e = &file->entries[file->n_entries++];
            code = read_entry(file, e, item, err);
            file->n_params += code ? 0 : e->n_elements; /* ranges are disjoint: no overflow */
        }
        if (code)
            return code;
    }
    return SCD_OK;
}

static int by_range(const void *a, const void *b)
{
    const entry *x = a, *y = b;
    if (x->begin != y->begin)
        return x->begin < y->begin ? -1 : 1;
    return (x->end > y->end) - (x->end < y->end);
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const entry *)a)->name, ((const entry *)b)->name);
}

/* The format wants every byte of the data to belong to exactly one tensor. */
static scd_code check_layout(scd_safetensors *file, scd_error *err)
{
    size_t at = 0;
    qsort(file->entries, file->n_entries, sizeof *file->entries, by_range);
    for (size_t i = 0; i < file->n_entries; i++) {
        const entry *e = &file->entries[i];
        if (e->begin != at)
            return scd_fail(err, SCD_E_CORRUPT,
                            "%s: tensor %.80s starts at byte %zu of the data, must start at %zu: "
                            "tensors may neither overlap nor leave holes",
                            file->name, e->name, e->begin, at);
        at = e->end;
    }
    if (at != file->n_data)
        return scd_fail(err, SCD_E_CORRUPT, "%s: %zu bytes of data, but its tensors have %zu",
                        file->name, file->n_data, at);
    qsort(file->entries, file->n_entries, sizeof *file->entries, by_name);
    for (size_t i = 1; i < file->n_entries; i++)
        if (!strcmp(file->entries[i - 1].name, file->entries[i].name))
            return scd_fail(err, SCD_E_CORRUPT, "%s: tensor %.80s is given twice", file->name,
                            file->entries[i].name);
    return SCD_OK;
}

static scd_code read_header(scd_safetensors *file, scd_error *err)
{
    if (file->n_bytes < LENGTH_BYTES)
        return corrupt(file, "too short for a safetensors file", err);
    uint64_t length = 0;
    for (size_t i = 0; i < LENGTH_BYTES; i++)
        length |= (uint64_t)file->bytes[i] << 8 * i;
    if (length > MAX_HEADER)
        return corrupt(file, "header of more than 100 MB: not a safetensors file", err);
    if (length > file->n_bytes - LENGTH_BYTES)
        return scd_fail(err, SCD_E_CORRUPT,
                        "%s: header of %llu bytes in a file of %zu: truncated or damaged",
                        file->name, (unsigned long long)length, file->n_bytes);
    const char *json = (const char *)file->bytes + LENGTH_BYTES, *end = NULL;
    file->header = cJSON_ParseWithLengthOpts(json, (size_t)length, &end, 0);
    while (file->header && end < json + length && (*end == ' ' || *end == '\n'))
        end++;
    if (!cJSON_IsObject(file->header) || end != json + length)
        return corrupt(file, "its header is not a JSON object", err);
    file->data = file->bytes + LENGTH_BYTES + length;
    file->n_data = file->n_bytes - LENGTH_BYTES - (size_t)length;
    return SCD_OK;
}

/* ---- open and close -------------------------------------------------------------------------- */

scd_code scd_safetensors_parse(const void *bytes, size_t n, const char *name, scd_safetensors **out,
                               scd_error *err)
{
    *out = NULL;
    scd_safetensors *file = scd_calloc(1, sizeof *file);
    if (!file || !(file->name = scd_strdup(name))) {
        scd_safetensors_close(file);
        return scd_fail(err, SCD_E_NOMEM, "%s: out of memory", name);
    }
    file->bytes = bytes;
    file->n_bytes = n;
    scd_code code = read_header(file, err);
    if (!code)
        code = read_entries(file, err);
    if (!code)
        code = check_layout(file, err);
    if (code) {
        scd_safetensors_close(file);
        return code;
    }
    *out = file;
    return SCD_OK;
}

scd_code scd_safetensors_map(int fd, size_t n, const char *name, scd_safetensors **out,
                             scd_error *err)
{
    *out = NULL;
    if (!n)
        return scd_fail(err, SCD_E_CORRUPT, "%s: the file is empty", name);
    void *bytes = mmap(NULL, n, PROT_READ, MAP_PRIVATE, fd, 0);
    if (bytes == MAP_FAILED)
        return scd_fail(err, SCD_E_IO, "%s: cannot map %zu bytes", name, n);
    scd_code code = scd_safetensors_parse(bytes, n, name, out, err);
    if (code)
        munmap(bytes, n);
    else
        (*out)->mapped = true;
    return code;
}

scd_code scd_safetensors_open(const char *path, scd_safetensors **out, scd_error *err)
{
    int fd;
    size_t n;
    *out = NULL;
    scd_code code = scd_file_open(path, &fd, &n, err);
    if (code)
        return code;
    code = scd_safetensors_map(fd, n, path, out, err);
    close(fd);
    return code;
}

void scd_safetensors_close(scd_safetensors *file)
{
    if (!file)
        return;
    if (file->mapped)
        munmap((void *)(uintptr_t)file->bytes, file->n_bytes);
    free(file->entries);
    cJSON_Delete(file->header);
    free(file->name);
    free(file);
}

/* ---- tensors --------------------------------------------------------------------------------- */

size_t scd_safetensors_count(const scd_safetensors *file)
{
    return file->n_entries;
}

size_t scd_safetensors_n_params(const scd_safetensors *file)
{
    return file->n_params;
}

static const entry *find(const scd_safetensors *file, const char *name)
{
    const entry key = {.name = name};
    return bsearch(&key, file->entries, file->n_entries, sizeof *file->entries, by_name);
}

const char *scd_safetensors_name(const scd_safetensors *file, size_t index)
{
    return file->entries[index].name;
}

bool scd_safetensors_has(const scd_safetensors *file, const char *name, size_t *rows)
{
    const entry *e = find(file, name);
    if (e && rows)
        *rows = e->rank ? e->dims[0] : 1;
    return e != NULL;
}

static void print_shape(const size_t *dims, size_t rank, char out[200])
{
    size_t at = (size_t)sprintf(out, "[");
    for (size_t i = 0; i < rank; i++)
        at += (size_t)sprintf(out + at, "%s%zu", i ? ", " : "", dims[i]);
    sprintf(out + at, "]");
}

scd_code scd_safetensors_get(const scd_safetensors *file, const char *name, size_t rows,
                             size_t cols, scd_tensor *out, scd_error *err)
{
    const size_t wanted[2] = {rows, cols}, rank = cols ? 2 : 1;
    char must[200], has[200];
    *out = (scd_tensor){0};
    const entry *e = find(file, name);
    if (!e || e->rank != rank || memcmp(e->dims, wanted, rank * sizeof wanted[0])) {
        print_shape(wanted, rank, must);
        if (e)
            print_shape(e->dims, e->rank, has);
        return scd_fail(err, SCD_E_CORRUPT,
                        e ? "%s: tensor %s must have shape %s, has %s"
                          : "%s: tensor %s of shape %s is missing",
                        file->name, name, must, has);
    }
    if (e->type->ours < 0)
        return scd_fail(err, SCD_E_CORRUPT, "%s: tensor %s is %s, must be F32, F16 or BF16",
                        file->name, name, e->type->name);
    const unsigned char *data = file->data + e->begin;
    if ((uintptr_t)data % e->type->bytes)
        return scd_fail(err, SCD_E_CORRUPT,
                        "%s: tensor %s is not aligned to its %zu-byte elements; write the file "
                        "again with a current safetensors library",
                        file->name, name, e->type->bytes);
    *out = (scd_tensor){data, (scd_dtype)e->type->ours, rows, cols ? cols : 1};
    return SCD_OK;
}

void scd_safetensors_forget(const scd_safetensors *file, const scd_tensor *tensor)
{
    if (!file->mapped || !tensor->data)
        return;
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    uintptr_t begin = (uintptr_t)tensor->data;
    uintptr_t end = begin + tensor->rows * tensor->cols * scd_dtype_bytes(tensor->dtype);
    begin = (begin + page - 1) / page * page; /* a page shared with a neighbour stays */
    end = end / page * page;
    if (begin < end)
        madvise((void *)begin, end - begin, MADV_DONTNEED);
}

void scd_tensor_to_f32(const scd_tensor *tensor, size_t first, size_t n, float *out)
{
    if (tensor->dtype == SCD_F32) {
        memcpy(out, (const float *)tensor->data + first, n * sizeof *out);
        return;
    }
    const uint16_t *half = (const uint16_t *)tensor->data + first;
    if (tensor->dtype == SCD_BF16) {
        for (size_t i = 0; i < n; i++)
            out[i] = scd_f32_of_bf16(half[i]);
    } else {
        for (size_t i = 0; i < n; i++)
            out[i] = scd_f32_of_f16(half[i]);
    }
}
