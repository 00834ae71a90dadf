/* train_kernels.c - see train_kernels.h. */
#include "engine/cpu/train_kernels.h"

const scd_train_kernels *scd_train_kernels_of(const scd_kernels *kernels)
{
#if defined(__x86_64__)
    if (kernels == &scd_kernels_avx512bf16 || kernels == &scd_kernels_avx512)
        return &scd_train_kernels_avx512;
    if (kernels == &scd_kernels_avx2)
        return &scd_train_kernels_avx2;
#endif
    (void)kernels;
    return &scd_train_kernels_generic;
}
