/* vec_avx512.h - vec.h for AVX-512 (F, BW, VL, DQ); with AVX512_BF16 `act` is bf16. Included by
 * vec.h only. */
#include <immintrin.h>

typedef __m512 vf;
enum { VW = 16 };

SCD_INLINE __mmask16 vmask(size_t n)
{
    return n >= VW ? (__mmask16)0xffff : (__mmask16)((1u << n) - 1);
}
SCD_INLINE vf vzero(void)
{
    return _mm512_setzero_ps();
}
SCD_INLINE vf vset(float x)
{
    return _mm512_set1_ps(x);
}
SCD_INLINE vf vload(const float *p)
{
    return _mm512_loadu_ps(p);
}
SCD_INLINE vf vload_n(const float *p, size_t n)
{
    return _mm512_maskz_loadu_ps(vmask(n), p);
}
SCD_INLINE void vstore(float *p, vf v)
{
    _mm512_storeu_ps(p, v);
}
SCD_INLINE void vstore_n(float *p, vf v, size_t n)
{
    _mm512_mask_storeu_ps(p, vmask(n), v);
}
SCD_INLINE vf vadd(vf a, vf b)
{
    return _mm512_add_ps(a, b);
}
SCD_INLINE vf vsub(vf a, vf b)
{
    return _mm512_sub_ps(a, b);
}
SCD_INLINE vf vmul(vf a, vf b)
{
    return _mm512_mul_ps(a, b);
}
SCD_INLINE vf vdiv(vf a, vf b)
{
    return _mm512_div_ps(a, b);
}
/* a b + c with one rounding */
SCD_INLINE vf vfma(vf a, vf b, vf c)
{
    return _mm512_fmadd_ps(a, b, c);
}
SCD_INLINE vf vmax(vf a, vf b)
{
    return _mm512_max_ps(a, b);
}
SCD_INLINE vf vmin(vf a, vf b)
{
    return _mm512_min_ps(a, b);
}
SCD_INLINE vf vround(vf x)
{
    return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
/* p 2^n for integral n */
SCD_INLINE vf vscale2(vf p, vf n)
{
    return _mm512_scalef_ps(p, n);
}

SCD_INLINE __m256 vhalf_low(vf v)
{
    return _mm512_castps512_ps256(v);
}
SCD_INLINE __m256 vhalf_high(vf v)
{
    return _mm512_extractf32x8_ps(v, 1);
}
SCD_INLINE float vsum(vf v)
{
    __m256 a = _mm256_add_ps(vhalf_low(v), vhalf_high(v));
    __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    b = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(b, _mm_movehdup_ps(b)));
}
SCD_INLINE float vhmax(vf v)
{
    __m256 a = _mm256_max_ps(vhalf_low(v), vhalf_high(v));
    __m128 b = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    b = _mm_max_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_max_ss(b, _mm_movehdup_ps(b)));
}

SCD_INLINE vf vload_bf16_n(const uint16_t *p, size_t n)
{
    __m256i h = _mm256_maskz_loadu_epi16(vmask(n), p);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16));
}
SCD_INLINE vf vload_f16_n(const uint16_t *p, size_t n)
{
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(vmask(n), p));
}

#ifdef __AVX512BF16__
typedef uint16_t act;
/* to nearest even */
SCD_INLINE void vstore_act(act *p, vf v)
{
    _mm256_storeu_si256((__m256i *)p, (__m256i)_mm512_cvtneps_pbh(v));
}
SCD_INLINE void vstore_act_n(act *p, vf v, size_t n)
{
    _mm256_mask_storeu_epi16(p, vmask(n), (__m256i)_mm512_cvtneps_pbh(v));
}
#else
typedef float act;
SCD_INLINE void vstore_act(act *p, vf v)
{
    vstore(p, v);
}
SCD_INLINE void vstore_act_n(act *p, vf v, size_t n)
{
    vstore_n(p, v, n);
}
#endif
