/* safetensors_impl.h - what safetensors.c, the fuzzer and those who hash what they map share
 * (model.c, denoise/head.c); nothing else includes it.
 *
 * Threads: as safetensors.h. */
#ifndef SCD_MODEL_SAFETENSORS_IMPL_H
#define SCD_MODEL_SAFETENSORS_IMPL_H

#include "engine/model/safetensors.h"

/* As scd_safetensors_open, on bytes that the caller keeps (8-byte aligned): nothing is mapped. */
scd_code scd_safetensors_parse(const void *bytes, size_t n, const char *name, scd_safetensors **out,
                               scd_error *err);

/* As scd_safetensors_open, on an open file, which stays the caller's. */
scd_code scd_safetensors_map(int fd, size_t n, const char *name, scd_safetensors **out,
                             scd_error *err);

#endif
