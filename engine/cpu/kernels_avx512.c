/* kernels_avx512.c - the kernels compiled for AVX-512; see kernels.h. */
#include "engine/cpu/kernels.h"

#if defined(__x86_64__)
#include "engine/cpu/vec.h"

#include "engine/cpu/kernels_body.h"

#include "engine/cpu/attention_body.h"

const scd_kernels scd_kernels_avx512 = {
    SCD_KERNELS_ENTRIES,
};
#endif
