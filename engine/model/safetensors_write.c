/* safetensors_write.c - the writer of safetensors.h.
 *
 * Data is laid out widest dtype first and otherwise in the order of the list, after a header padded
 * to 8 bytes: so every tensor is aligned to its elements, as the reader wants it. Same entries and
 * values, same bytes.
 *
 * Threads: any, one file each. Owns: its buffers during the call. */
#include "engine/base/buf.h"
#include "engine/base/mem.h"
#include "engine/model/dtype.h"
#include "engine/model/file.h"
#include "engine/model/safetensors.h"

#include <stdlib.h>
#include <string.h>

enum { CHUNK = 1 << 16, MAX_HEADER = 100000000, WIDTHS = 2 };

static const size_t widths[WIDTHS] = {4, 2};
static const char *const dtype_names[] = {
    [SCD_F32] = "F32", [SCD_F16] = "F16", [SCD_BF16] = "BF16"};

static bool is_plain(const char *name)
{
    for (; *name; name++)
        if (*name < 0x20 || *name > 0x7e || *name == '"' || *name == '\\')
            return false;
    return true;
}

static scd_code add_entry(scd_buf *header, const scd_tensor_entry *e, size_t *offset,
                          scd_error *err)
{
    size_t bytes;
    if (!is_plain(e->name))
        return scd_fail(err, SCD_E_INVALID, "tensor name %.80s needs escapes in JSON", e->name);
    if (!scd_size_mul(e->rows, e->cols ? e->cols : 1, &bytes) ||
        !scd_size_mul(bytes, scd_dtype_bytes(e->dtype), &bytes) || bytes > SIZE_MAX - *offset)
        return scd_fail(err, SCD_E_INVALID, "tensor %.80s is too large", e->name);
    scd_buf_printf(header, ",\"%s\":{\"dtype\":\"%s\",\"shape\":[%zu", e->name,
                   dtype_names[e->dtype], e->rows);
    if (e->cols)
        scd_buf_printf(header, ",%zu", e->cols);
    scd_buf_printf(header, "],\"data_offsets\":[%zu,%zu]}", *offset, *offset + bytes);
    *offset += bytes;
    return SCD_OK;
}

/* Length, JSON, padding. */
static scd_code make_header(scd_buf *out, const scd_tensor_entry *entries, size_t n_entries,
                            scd_error *err)
{
    size_t offset = 0;
    char length[8];
    scd_buf_append(out, "\0\0\0\0\0\0\0", 8);
    scd_buf_puts(out, "{\"__metadata__\":{\"format\":\"pt\"}");
    for (size_t w = 0; w < WIDTHS; w++)
        for (size_t i = 0; i < n_entries; i++)
            if (scd_dtype_bytes(entries[i].dtype) == widths[w] &&
                add_entry(out, &entries[i], &offset, err))
                return SCD_E_INVALID;
    scd_buf_putc(out, '}');
    while (out->n_bytes % 8 && scd_buf_putc(out, ' '))
        ;
    if (out->failed)
        return scd_fail(err, SCD_E_NOMEM, "no room for the header of %zu tensors", n_entries);
    for (size_t i = 0; i < sizeof length; i++)
        length[i] = (char)((out->n_bytes - sizeof length) >> 8 * i);
    memcpy(out->data, length, sizeof length);
    return SCD_OK;
}

static void to_half(scd_dtype dtype, const float *in, size_t n, uint16_t *out)
{
    for (size_t i = 0; i < n; i++)
        out[i] = dtype == SCD_BF16 ? scd_bf16_of_f32(in[i]) : scd_f16_of_f32(in[i]);
}

static scd_code write_tensor(scd_file_writer *writer, const scd_tensor_entry *entries, size_t index,
                             scd_tensor_fill *fill, void *arg, float *chunk, uint16_t *half,
                             scd_error *err)
{
    const scd_tensor_entry *e = &entries[index];
    size_t total = e->rows * (e->cols ? e->cols : 1);
    for (size_t first = 0; first < total; first += CHUNK) {
        size_t n = total - first < CHUNK ? total - first : CHUNK;
        const void *bytes = chunk;
        fill(arg, index, first, n, chunk);
        if (e->dtype != SCD_F32) {
            to_half(e->dtype, chunk, n, half);
            bytes = half;
        }
        if (scd_file_writer_add(writer, bytes, n * scd_dtype_bytes(e->dtype), err))
            return SCD_E_IO;
    }
    return SCD_OK;
}

scd_code scd_safetensors_write(const char *path, const scd_tensor_entry *entries, size_t n_entries,
                               scd_tensor_fill *fill, void *arg, scd_error *err)
{
    scd_file_writer writer = {.fd = -1};
    scd_buf header;
    scd_buf_init(&header, MAX_HEADER);
    float *chunk = scd_malloc(CHUNK, sizeof *chunk);
    uint16_t *half = scd_malloc(CHUNK, sizeof *half);
    scd_code code = SCD_OK;
    if (!chunk || !half) {
        code = scd_fail(err, SCD_E_NOMEM, "%s: out of memory", path);
        goto done;
    }
    if ((code = make_header(&header, entries, n_entries, err)) ||
        (code = scd_file_writer_open(&writer, path, err)) ||
        (code = scd_file_writer_add(&writer, header.data, header.n_bytes, err)))
        goto done;
    for (size_t w = 0; w < WIDTHS; w++)
        for (size_t i = 0; i < n_entries; i++)
            if (scd_dtype_bytes(entries[i].dtype) == widths[w] &&
                (code = write_tensor(&writer, entries, i, fill, arg, chunk, half, err)))
                goto done;
    code = scd_file_writer_commit(&writer, err);
done:
    scd_file_writer_abandon(&writer);
    free(half);
    free(chunk);
    scd_buf_release(&header);
    return code;
}
