/* number.h - 16-bit floats in plain integer arithmetic, the same on the host and in kernels.
 *
 * Threads: any. Owns: nothing. */
#ifndef SCD_CUDA_NUMBER_H
#define SCD_CUDA_NUMBER_H

#include <stdint.h>
#include <string.h>

#ifdef __CUDACC__
#define SCD_BOTH __host__ __device__ static inline
#else
#define SCD_BOTH static inline
#endif

SCD_BOTH float scd_from_bits(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

SCD_BOTH uint32_t scd_to_bits(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

SCD_BOTH float scd_bf16_to_f32(uint16_t h)
{
    return scd_from_bits((uint32_t)h << 16);
}

/* To nearest, ties to even; a NaN stays one. */
SCD_BOTH uint16_t scd_f32_to_bf16(float x)
{
    uint32_t bits = scd_to_bits(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)(bits >> 16 | 0x40u);
    return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

/* Exact: a subnormal half m * 2^-24 is what the integer m scales to. */
SCD_BOTH float scd_f16_to_f32(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16, exponent = h >> 10 & 31u, m = h & 0x3ffu;
    if (exponent == 0) {
        float x = (float)m * 0x1p-24f;
        return sign ? -x : x;
    }
    exponent = exponent == 31 ? 255 : exponent + 112;
    return scd_from_bits(sign | exponent << 23 | m << 13);
}

#endif
