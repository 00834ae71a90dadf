/* vec_avx2_body.h - vec.h for AVX2 with FMA. Included by vec.h only. */
#include <immintrin.h>

typedef __m256 vf;
typedef float act;
enum { VW = 8 };

SCD_INLINE __m256i vmask(size_t n)
{
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
SCD_INLINE vf vzero(void)
{
    return _mm256_setzero_ps();
}
SCD_INLINE vf vset(float x)
{
    return _mm256_set1_ps(x);
}
SCD_INLINE vf vload(const float *p)
{
    return _mm256_loadu_ps(p);
}
SCD_INLINE vf vload_n(const float *p, size_t n)
{
    return n >= VW ? vload(p) : _mm256_maskload_ps(p, vmask(n));
}
SCD_INLINE void vstore(float *p, vf v)
{
    _mm256_storeu_ps(p, v);
}
SCD_INLINE void vstore_n(float *p, vf v, size_t n)
{
    if (n >= VW)
        vstore(p, v);
    else
        _mm256_maskstore_ps(p, vmask(n), v);
}
SCD_INLINE vf vadd(vf a, vf b)
{
    return _mm256_add_ps(a, b);
}
SCD_INLINE vf vsub(vf a, vf b)
{
    return _mm256_sub_ps(a, b);
}
SCD_INLINE vf vmul(vf a, vf b)
{
    return _mm256_mul_ps(a, b);
}
SCD_INLINE vf vdiv(vf a, vf b)
{
    return _mm256_div_ps(a, b);
}
/* a b + c with one rounding */
SCD_INLINE vf vfma(vf a, vf b, vf c)
{
    return _mm256_fmadd_ps(a, b, c);
}
SCD_INLINE vf vmax(vf a, vf b)
{
    return _mm256_max_ps(a, b);
}
SCD_INLINE vf vmin(vf a, vf b)
{
    return _mm256_min_ps(a, b);
}
SCD_INLINE vf vsqrt(vf x)
{
    return _mm256_sqrt_ps(x);
}
/* x where y > 0, else 0 */
SCD_INLINE vf vwhere_positive(vf y, vf x)
{
    return _mm256_and_ps(_mm256_cmp_ps(y, vzero(), _CMP_GT_OQ), x);
}
SCD_INLINE vf vround(vf x)
{
    return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
/* p 2^n for integral n <= 127; 0 where n < -126 */
SCD_INLINE vf vscale2(vf p, vf n)
{
    __m256i e = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
    vf scaled = _mm256_mul_ps(p, _mm256_castsi256_ps(_mm256_slli_epi32(e, 23)));
    return _mm256_and_ps(scaled, _mm256_cmp_ps(n, vset(-126.0f), _CMP_GE_OQ));
}
SCD_INLINE float vsum(vf v)
{
    __m128 b = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    b = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(b, _mm_movehdup_ps(b)));
}
SCD_INLINE float vhmax(vf v)
{
    __m128 b = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    b = _mm_max_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_max_ss(b, _mm_movehdup_ps(b)));
}
/* lanes from n on become `fill` */
SCD_INLINE vf vkeep_n(vf v, size_t n, float fill)
{
    return n >= VW ? v : _mm256_blendv_ps(vset(fill), v, _mm256_castsi256_ps(vmask(n)));
}
SCD_INLINE int vany_above(vf v, float limit)
{
    return _mm256_movemask_ps(_mm256_cmp_ps(v, vset(limit), _CMP_GT_OQ)) != 0;
}
/* t[i] lane j <-> t[j] lane i */
SCD_INLINE void vtranspose(vf t[VW])
{
    vf u[VW];
    SCD_UNROLL
    for (size_t i = 0; i < VW; i += 4) { /* 4 x 4 blocks within 128-bit lanes */
        vf a = _mm256_unpacklo_ps(t[i], t[i + 1]), b = _mm256_unpackhi_ps(t[i], t[i + 1]);
        vf c = _mm256_unpacklo_ps(t[i + 2], t[i + 3]), d = _mm256_unpackhi_ps(t[i + 2], t[i + 3]);
        u[i] = _mm256_shuffle_ps(a, c, 0x44);
        u[i + 1] = _mm256_shuffle_ps(a, c, 0xee);
        u[i + 2] = _mm256_shuffle_ps(b, d, 0x44);
        u[i + 3] = _mm256_shuffle_ps(b, d, 0xee);
    }
    SCD_UNROLL
    for (size_t i = 0; i < 4; i++) {
        t[i] = _mm256_permute2f128_ps(u[i], u[i + 4], 0x20);
        t[i + 4] = _mm256_permute2f128_ps(u[i], u[i + 4], 0x31);
    }
}
SCD_INLINE vf vload_bf16_n(const uint16_t *p, size_t n)
{
    uint16_t h[8] = {0};
    memcpy(h, p, (n < VW ? n : VW) * sizeof *h);
    __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)h));
    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}
SCD_INLINE vf vload_f16_n(const uint16_t *p, size_t n)
{
    uint16_t h[8] = {0};
    memcpy(h, p, (n < VW ? n : VW) * sizeof *h);
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)h));
}
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
