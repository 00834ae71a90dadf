/* rng.h - Philox4x32-10, a counter-based generator: the n-th number of a stream is a pure function
 * of (seed, stream, n), so that results do not depend on threads or order.
 *
 * Source: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
 *
 * Threads: any; there is no state but what the caller holds. */
#ifndef SCD_BASE_RNG_H
#define SCD_BASE_RNG_H

#include <stdint.h>

/* Four 32-bit words for block `counter` of stream `stream` under `seed`. */
void scd_rng_block(uint64_t seed, uint64_t stream, uint64_t counter, uint32_t out[4]);

/* One number of the stream: uniform in [0, 1) with 24 bits; standard normal (Box-Muller). */
float scd_rng_uniform(uint64_t seed, uint64_t stream, uint64_t counter);
float scd_rng_normal(uint64_t seed, uint64_t stream, uint64_t counter);

/* Standard Gumbel from a word of a block: -ln(-ln((word + 0.5) / 2^32)), -3.14 to 22.9. */
double scd_rng_gumbel(uint32_t word);

#endif
