/* kernels_generic.c - the kernels for any machine; see kernels.h. */
#include "engine/cpu/kernels.h"

#include "engine/cpu/vec.h"

#include "engine/cpu/kernels_body.h"

#include "engine/cpu/attention_body.h"

#include "engine/cpu/product_body.h"

const scd_kernels scd_kernels_generic = {
    SCD_KERNELS_ENTRIES,
    .product_cols = PRODUCT_COLS,
    .product = product,
};
