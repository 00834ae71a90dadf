/* roof.h - the rate that the engine is measured against: oneDNN's best plain matrix product over
 * M 64, 300, 1201, N 512, 2048, K 512, called with its own threads in the same run.
 *
 * Threads: one at a time. */
#ifndef SCD_BENCH_ROOF_H
#define SCD_BENCH_ROOF_H

#include <stdbool.h>

/* Floating-point operations per second; threads 0: one per core. Ends the program on failure. */
double scd_bench_roof(bool bf16, int threads);

#endif
