/* train_kernels_generic.c - the kernels of training compiled for any machine; see train_kernels.h.
 */
#include "engine/cpu/train_kernels.h"

#include "engine/cpu/vec.h"

#include "engine/cpu/train_kernels_body.h"

const scd_train_kernels scd_train_kernels_generic = {SCD_TRAIN_KERNELS_ENTRIES};
