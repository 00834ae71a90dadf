/* init_weights.h - the random numbers of `init`, one tensor at a time: for whoever keeps weights in
 * memory and not in a file. scd_init_weights (train.h) writes the same numbers.
 *
 * Threads: any. */
#ifndef SCD_TRAIN_INIT_WEIGHTS_H
#define SCD_TRAIN_INIT_WEIGHTS_H

#include "engine/model/safetensors.h"

/* Elements [first, first + n) of `entry`, which is number `index` of scd_model_each_tensor. */
void scd_init_weights_fill(const scd_tensor_entry *entry, size_t index, uint64_t seed, size_t first,
                           size_t n, float *out);

#endif
