/* philox.h - engine/base/rng.h in functions that kernels call too: Philox4x32-10 (Salmon, Moraes,
 * Dror, Shaw, SC 2011) and the Gumbel number of a word. tests/ops/test_cuda_order.c holds them
 * against those of base.
 *
 * Threads: any. Owns: nothing. */
#ifndef SCD_CUDA_PHILOX_H
#define SCD_CUDA_PHILOX_H

#include "engine/cuda/number.h"

#include <math.h>

/* Four words of block `counter` of stream `stream` under `seed`. */
SCD_BOTH void scd_philox(uint64_t seed, uint64_t stream, uint64_t counter, uint32_t out[4])
{
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    uint32_t c0 = (uint32_t)counter, c1 = (uint32_t)(counter >> 32);
    uint32_t c2 = (uint32_t)stream, c3 = (uint32_t)(stream >> 32);
    for (int i = 0; i < 10; i++, k0 += 0x9E3779B9u, k1 += 0xBB67AE85u) {
        uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
        c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
        c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)p1;
        c3 = (uint32_t)p0;
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

/* -ln(-ln((word + 0.5) / 2^32)) */
SCD_BOTH float scd_gumbel(uint32_t word)
{
    return (float)-log(-log(((double)word + 0.5) * 0x1p-32));
}

#endif
