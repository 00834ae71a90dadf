/* gpu_ops.h - the operations of a layer alone on a device, for bench_gpu.c.
 *
 * Threads: one. Owns: nothing once it returns. */
#ifndef SCD_TESTS_BENCH_GPU_OPS_H
#define SCD_TESTS_BENCH_GPU_OPS_H

#include "engine/backend/backend.h"
#include "engine/model/config.h"

#include <stddef.h>

/* A line for each operation on `cells` cells of `tokens` tokens, tab-separated:
 *   op  name  times a pass  milliseconds (median)  least  most  FLOP  bytes of its row kernels
 * so that tests/bench/gpu.py can put ceilings beside them. */
scd_code scd_bench_gpu_ops(const scd_backend *be, scd_device *device, const scd_model_config *c,
                           size_t cells, size_t tokens, double seconds, scd_error *err);

#endif
