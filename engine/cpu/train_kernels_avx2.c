/* train_kernels_avx2.c - the kernels of training compiled for AVX2 with FMA; see train_kernels.h.
 */
#include "engine/cpu/train_kernels.h"

#if defined(__x86_64__)
#include "engine/cpu/vec.h"

#include "engine/cpu/train_kernels_body.h"

const scd_train_kernels scd_train_kernels_avx2 = {SCD_TRAIN_KERNELS_ENTRIES};
#endif
