/* safetensors.h - bounds-checked, memory-mapped reader of one .safetensors file.
 *
 * Layout: u64 little-endian header length, JSON header, data. Everything is checked at open: header
 * length, JSON, dtypes, shapes against byte ranges, ranges inside the file, no overlap, no holes,
 * no duplicate names. Data stays in the mapping; pages are read when touched.
 *
 * Threads: any after open. Owns: the mapping, until close. */
#ifndef SCD_MODEL_SAFETENSORS_H
#define SCD_MODEL_SAFETENSORS_H

#include "engine/backend/backend.h"

#include <stdbool.h>

typedef struct scd_safetensors scd_safetensors;

/* SCD_E_IO: cannot open; SCD_E_CORRUPT: not a valid file, the message says where. */
scd_code scd_safetensors_open(const char *path, scd_safetensors **out, scd_error *err);
void scd_safetensors_close(scd_safetensors *file);

size_t scd_safetensors_count(const scd_safetensors *file);
size_t scd_safetensors_n_params(const scd_safetensors *file); /* elements over all tensors */

/* The name of tensor `index`, in the order of names; borrowed. */
const char *scd_safetensors_name(const scd_safetensors *file, size_t index);
/* Is there a tensor `name`, whatever its shape? *rows (may be NULL): its first dimension. */
bool scd_safetensors_has(const scd_safetensors *file, const char *name, size_t *rows);

/* The tensor `name` with exactly this shape (cols 0: a vector of `rows`, else rows x cols).
 * SCD_E_CORRUPT names the tensor and both shapes, or says that it is missing. */
scd_code scd_safetensors_get(const scd_safetensors *file, const char *name, size_t rows,
                             size_t cols, scd_tensor *out, scd_error *err);

/* Tell the kernel that the pages of this tensor are not needed any more (after packing). */
void scd_safetensors_forget(const scd_safetensors *file, const scd_tensor *tensor);

/* One element as double / n elements from `first` as float, whatever the dtype. */
void scd_tensor_to_f32(const scd_tensor *tensor, size_t first, size_t n, float *out);

/* Writer, for init and training: header and offsets from a list, then the data in order. */
typedef struct scd_tensor_entry {
    const char *name;
    scd_dtype dtype;
    size_t rows, cols; /* cols 0: vector */
} scd_tensor_entry;

/* Write `path` (through a temporary file, fsync and rename). fill(arg, entry index, first element,
 * n, out) gives float values in chunks; they are rounded to the entry's dtype (to nearest even). */
typedef void scd_tensor_fill(void *arg, size_t entry, size_t first, size_t n, float *out);
scd_code scd_safetensors_write(const char *path, const scd_tensor_entry *entries, size_t n_entries,
                               scd_tensor_fill *fill, void *arg, scd_error *err);

#endif
