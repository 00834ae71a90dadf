/* head_impl.h - what head.c and the fuzzer share; nothing else includes it.
 *
 * Threads: as head.h. */
#ifndef SCD_DENOISE_HEAD_IMPL_H
#define SCD_DENOISE_HEAD_IMPL_H

#include "engine/denoise/head.h"

/* A head from the n bytes of head.json, behind which a NUL stands: without name, tensors, digest
 * and what is known of them. */
scd_code scd_head_parse(const char *json, size_t n, const char *path, scd_head **out,
                        scd_error *err);

#endif
