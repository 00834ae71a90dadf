/* rng.c - see rng.h. */
#include "engine/base/rng.h"

#include <math.h>

static inline void round_once(uint32_t c[4], uint32_t k0, uint32_t k1)
{
    uint64_t p0 = (uint64_t)0xD2511F53u * c[0];
    uint64_t p1 = (uint64_t)0xCD9E8D57u * c[2];
    uint32_t n0 = (uint32_t)(p1 >> 32) ^ c[1] ^ k0;
    uint32_t n2 = (uint32_t)(p0 >> 32) ^ c[3] ^ k1;
    c[1] = (uint32_t)p1;
    c[3] = (uint32_t)p0;
    c[0] = n0;
    c[2] = n2;
}

void scd_rng_block(uint64_t seed, uint64_t stream, uint64_t counter, uint32_t out[4])
{
    out[0] = (uint32_t)counter;
    out[1] = (uint32_t)(counter >> 32);
    out[2] = (uint32_t)stream;
    out[3] = (uint32_t)(stream >> 32);
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    for (int i = 0; i < 10; i++, k0 += 0x9E3779B9u, k1 += 0xBB67AE85u)
        round_once(out, k0, k1);
}

static inline float unit(uint32_t word)
{
    return (float)(word >> 8) * 0x1p-24f;
}

float scd_rng_uniform(uint64_t seed, uint64_t stream, uint64_t counter)
{
    uint32_t w[4];
    scd_rng_block(seed, stream, counter >> 2, w);
    return unit(w[counter & 3]);
}

float scd_rng_normal(uint64_t seed, uint64_t stream, uint64_t counter)
{
    uint32_t w[4];
    scd_rng_block(seed, stream, counter >> 1, w);
    const uint32_t *pair = w + 2 * (counter & 1);
    float radius = sqrtf(-2.0f * logf(1.0f - unit(pair[0])));
    return radius * cosf(6.283185307179586f * unit(pair[1]));
}

double scd_rng_gumbel(uint32_t word)
{
    return -log(-log(((double)word + 0.5) * 0x1p-32));
}
