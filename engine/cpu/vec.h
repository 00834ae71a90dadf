/* vec.h - one vector of floats, whatever the instruction set of the file that includes it.
 *
 * `vf` holds VW floats; AVX-512, AVX2 + FMA, or the compiler's own 16-byte vectors. `act` is the
 * type of activations: bf16 where the file is compiled for it, else float. Sums over lanes take a
 * fixed order. Functions ending in _n touch the first n lanes only, 0 < n; n may exceed VW and then
 * means all of them, so that a loop along a row needs no second body. Loads leave zeros in the
 * other lanes. Pointers need no alignment.
 *
 * Threads: any; pure functions. */
#ifndef SCD_CPU_VEC_H
#define SCD_CPU_VEC_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define SCD_INLINE static inline __attribute__((always_inline, unused))

/* Loops over registers must be gone after compilation, at -O2 too. */
#ifdef __clang__
#define SCD_UNROLL _Pragma("clang loop unroll(full)")
#else
#define SCD_UNROLL _Pragma("GCC unroll 32")
#endif

/* IEEE half to float without F16C. */
SCD_INLINE float scd_half_to_float(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, rest = (uint32_t)(h & 0x7fff) << 13, bits;
    float f;
    if ((h & 0x7c00) == 0x7c00) {
        bits = sign | 0x7f800000 | rest; /* infinity and NaN */
    } else {
        bits = rest;
        memcpy(&f, &bits, 4);
        f *= 0x1p112f; /* moves the exponent and makes subnormals normal */
        memcpy(&bits, &f, 4);
        bits |= sign;
    }
    memcpy(&f, &bits, 4);
    return f;
}

#if defined(__AVX512F__)
#include "engine/cpu/vec_avx512_body.h"
#elif defined(__AVX2__)
#include "engine/cpu/vec_avx2_body.h"
#else
#include "engine/cpu/vec_generic_body.h"
#endif

/* 2^x for x <= 127; 0 below -126 (AVX-512: gradual). Relative error below 2e-7 (measured against
 * float64 over [-126, 127] by tests/ops/test_cpu_kernels.c). The polynomial is the minimax one of
 * degree 6 for 2^f, f in [-0.5, 0.5]. */
SCD_INLINE vf vexp2(vf x)
{
    x = vmax(x, vset(-160.0f));
    vf n = vround(x), f = vsub(x, n);
    vf p = vset(1.534581202e-4f);
    p = vfma(p, f, vset(1.339993122e-3f));
    p = vfma(p, f, vset(9.618488957e-3f));
    p = vfma(p, f, vset(5.550328777e-2f));
    p = vfma(p, f, vset(2.402264689e-1f));
    p = vfma(p, f, vset(6.931472057e-1f));
    p = vfma(p, f, vset(1.0f));
    return vscale2(p, n);
}

/* e^x; the product x log2(e) is split in two so that its rounding does not count. */
SCD_INLINE vf vexp(vf x)
{
    x = vmin(vmax(x, vset(-100.0f)), vset(88.0f));
    vf n = vround(vmul(x, vset(1.44269504f)));
    vf r = vfma(n, vset(-0.693359375f), x);
    r = vfma(n, vset(2.12194440e-4f), r);
    vf p = vset(1.98412698e-4f);
    p = vfma(p, r, vset(1.38888889e-3f));
    p = vfma(p, r, vset(8.33333333e-3f));
    p = vfma(p, r, vset(4.16666667e-2f));
    p = vfma(p, r, vset(1.66666667e-1f));
    p = vfma(p, r, vset(0.5f));
    p = vfma(p, r, vset(1.0f));
    p = vfma(p, r, vset(1.0f));
    return vscale2(p, n);
}

#endif
