/* dtype.h - float32 to and from the two half-width types, bit-exact and to nearest even.
 *
 * In integers rather than by compiler types: gcc and clang differ in what they offer without
 * instruction-set flags, and the bits of a model file must not.
 *
 * Threads: any. */
#ifndef SCD_MODEL_DTYPE_H
#define SCD_MODEL_DTYPE_H

#include <stdint.h>
#include <string.h>

static inline uint32_t scd_float_bits(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static inline float scd_bits_float(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline float scd_f32_of_bf16(uint16_t half)
{
    return scd_bits_float((uint32_t)half << 16);
}

static inline uint16_t scd_bf16_of_f32(float value)
{
    uint32_t bits = scd_float_bits(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)(bits >> 16 | 0x40u); /* a NaN stays one */
    return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

static inline float scd_f32_of_f16(uint16_t half)
{
    uint32_t sign = (uint32_t)(half & 0x8000u) << 16, rest = half & 0x7fffu;
    if (rest >= 0x7c00u) /* infinity, NaN */
        return scd_bits_float(sign | 0x7f800000u | (rest & 0x3ffu) << 13);
    if (rest < 0x400u) { /* subnormal: rest * 2^-24, exact in float32 */
        float value = (float)rest * 0x1p-24f;
        return sign ? -value : value;
    }
    return scd_bits_float(sign | ((rest << 13) + ((127u - 15u) << 23)));
}

static inline uint16_t scd_f16_of_f32(float value)
{
    uint32_t bits = scd_float_bits(value), sign = bits >> 16 & 0x8000u;
    bits &= 0x7fffffffu;
    if (bits > 0x7f800000u)
        return (uint16_t)(sign | 0x7e00u);
    if (bits >= 0x477ff000u) /* 65520 and above round to infinity */
        return (uint16_t)(sign | 0x7c00u);
    if (bits < 0x38800000u) { /* below 2^-14: adding 0.5 leaves rest * 2^-24, rounded to even */
        float shifted = scd_bits_float(bits) + 0.5f;
        return (uint16_t)(sign | (scd_float_bits(shifted) - scd_float_bits(0.5f)));
    }
    bits -= (127u - 15u) << 23;
    return (uint16_t)(sign | (bits + 0xfffu + (bits >> 13 & 1u)) >> 13);
}

#endif
