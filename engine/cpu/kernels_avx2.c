/* kernels_avx2.c - the kernels compiled for AVX2 with FMA; see kernels.h. */
#include "engine/cpu/kernels.h"

#if defined(__x86_64__)
#include "engine/cpu/vec.h"

#include "engine/cpu/kernels_body.h"

#include "engine/cpu/attention_body.h"

#include "engine/cpu/product_body.h"

const scd_kernels scd_kernels_avx2 = {
    SCD_KERNELS_ENTRIES,
    .product_cols = PRODUCT_COLS,
    .product = product,
};
#endif
