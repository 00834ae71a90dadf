/* vec_avx512_body.h - vec.h for AVX-512 (F, BW, VL, DQ); with AVX512_BF16 `act` is bf16. Included
 * by vec.h only. */
#include <immintrin.h>

typedef __m512 vf;
enum { VW = 16 };

SCD_INLINE __mmask16 vmask(size_t n)
{
    unsigned mask = n >= VW ? 0xffffu : (1u << n) - 1;
    return (__mmask16)mask;
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
    return n >= VW ? vload(p) : _mm512_maskz_loadu_ps(vmask(n), p);
}
SCD_INLINE void vstore(float *p, vf v)
{
    _mm512_storeu_ps(p, v);
}
SCD_INLINE void vstore_n(float *p, vf v, size_t n)
{
    if (n >= VW)
        vstore(p, v);
    else
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
SCD_INLINE vf vsqrt(vf x)
{
    return _mm512_sqrt_ps(x);
}
/* x where y > 0, else 0 */
SCD_INLINE vf vwhere_positive(vf y, vf x)
{
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(y, vzero(), _CMP_GT_OQ), x);
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

/* lanes from n on become `fill` */
SCD_INLINE vf vkeep_n(vf v, size_t n, float fill)
{
    return _mm512_mask_mov_ps(vset(fill), vmask(n), v);
}
SCD_INLINE int vany_above(vf v, float limit)
{
    return _mm512_cmp_ps_mask(v, vset(limit), _CMP_GT_OQ) != 0;
}
/* t[i] lane j <-> t[j] lane i */
SCD_INLINE void vtranspose(vf t[VW])
{
    vf u[VW];
    SCD_UNROLL
    for (size_t i = 0; i < VW; i += 4) { /* 4 x 4 blocks within 128-bit lanes */
        vf a = _mm512_unpacklo_ps(t[i], t[i + 1]), b = _mm512_unpackhi_ps(t[i], t[i + 1]);
        vf c = _mm512_unpacklo_ps(t[i + 2], t[i + 3]), d = _mm512_unpackhi_ps(t[i + 2], t[i + 3]);
        u[i] = _mm512_shuffle_ps(a, c, 0x44);
        u[i + 1] = _mm512_shuffle_ps(a, c, 0xee);
        u[i + 2] = _mm512_shuffle_ps(b, d, 0x44);
        u[i + 3] = _mm512_shuffle_ps(b, d, 0xee);
    }
    SCD_UNROLL
    for (size_t i = 0; i < 4; i++) { /* u[i + 4 r] lane c holds columns 4 c + i of rows 4 r .. */
        vf a = _mm512_shuffle_f32x4(u[i], u[i + 4], 0x88);
        vf b = _mm512_shuffle_f32x4(u[i + 8], u[i + 12], 0x88);
        vf c = _mm512_shuffle_f32x4(u[i], u[i + 4], 0xdd);
        vf d = _mm512_shuffle_f32x4(u[i + 8], u[i + 12], 0xdd);
        t[i] = _mm512_shuffle_f32x4(a, b, 0x88);
        t[i + 4] = _mm512_shuffle_f32x4(c, d, 0x88);
        t[i + 8] = _mm512_shuffle_f32x4(a, b, 0xdd);
        t[i + 12] = _mm512_shuffle_f32x4(c, d, 0xdd);
    }
}

/* n half-precision numbers, zeros after them */
SCD_INLINE __m256i vload_half_n(const uint16_t *p, size_t n)
{
    return n >= VW ? _mm256_loadu_si256((const __m256i *)p) : _mm256_maskz_loadu_epi16(vmask(n), p);
}
SCD_INLINE vf vload_bf16_n(const uint16_t *p, size_t n)
{
    __m256i h = vload_half_n(p, n);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16));
}
SCD_INLINE vf vload_f16_n(const uint16_t *p, size_t n)
{
    return _mm512_cvtph_ps(vload_half_n(p, n));
}

#ifdef __AVX512BF16__
typedef uint16_t act;
SCD_INLINE vf vload_act(const act *p)
{
    return vload_bf16_n(p, VW);
}
/* to nearest even */
SCD_INLINE void vstore_act(act *p, vf v)
{
    _mm256_storeu_si256((__m256i *)p, (__m256i)_mm512_cvtneps_pbh(v));
}
/* a and b behind one another: one conversion for both is the faster one */
SCD_INLINE void vstore_act_2(act *p, vf a, vf b)
{
    _mm512_storeu_si512(p, (__m512i)_mm512_cvtne2ps_pbh(b, a));
}
SCD_INLINE void vstore_act_n(act *p, vf v, size_t n)
{
    if (n >= VW) /* masked stores of 16-bit elements are slow, even where the mask is full */
        vstore_act(p, v);
    else
        _mm256_mask_storeu_epi16(p, vmask(n), (__m256i)_mm512_cvtneps_pbh(v));
}
#else
typedef float act;
SCD_INLINE vf vload_act(const act *p)
{
    return vload(p);
}
SCD_INLINE void vstore_act(act *p, vf v)
{
    vstore(p, v);
}
SCD_INLINE void vstore_act_2(act *p, vf a, vf b)
{
    vstore(p, a);
    vstore(p + VW, b);
}
SCD_INLINE void vstore_act_n(act *p, vf v, size_t n)
{
    vstore_n(p, v, n);
}
#endif
