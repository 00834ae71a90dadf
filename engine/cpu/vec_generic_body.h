/* vec_generic_body.h - vec.h in the compiler's own 16-byte vectors: any x86-64, any other machine.
 * Included by vec.h only. */
#include <math.h>

typedef float vf __attribute__((vector_size(16)));
typedef int32_t vi __attribute__((vector_size(16)));
typedef float act;
enum { VW = 4 };

SCD_INLINE vf vset(float x)
{
    return (vf){x, x, x, x};
}
SCD_INLINE vf vzero(void)
{
    return vset(0);
}
SCD_INLINE vf vload(const float *p)
{
    vf v;
    memcpy(&v, p, sizeof v);
    return v;
}
SCD_INLINE vf vload_n(const float *p, size_t n)
{
    vf v = vzero();
    memcpy(&v, p, (n < VW ? n : VW) * sizeof *p);
    return v;
}
SCD_INLINE void vstore(float *p, vf v)
{
    memcpy(p, &v, sizeof v);
}
SCD_INLINE void vstore_n(float *p, vf v, size_t n)
{
    memcpy(p, &v, (n < VW ? n : VW) * sizeof *p);
}
SCD_INLINE vf vadd(vf a, vf b)
{
    return a + b;
}
SCD_INLINE vf vsub(vf a, vf b)
{
    return a - b;
}
SCD_INLINE vf vmul(vf a, vf b)
{
    return a * b;
}
SCD_INLINE vf vdiv(vf a, vf b)
{
    return a / b;
}
/* a b + c with two roundings */
SCD_INLINE vf vfma(vf a, vf b, vf c)
{
    return a * b + c;
}
SCD_INLINE vf vselect(vi mask, vf a, vf b)
{
    return (vf)((mask & (vi)a) | (~mask & (vi)b));
}
SCD_INLINE vf vmax(vf a, vf b)
{
    return vselect(a > b, a, b);
}
SCD_INLINE vf vmin(vf a, vf b)
{
    return vselect(a < b, a, b);
}
SCD_INLINE vf vsqrt(vf x)
{
    return (vf){sqrtf(x[0]), sqrtf(x[1]), sqrtf(x[2]), sqrtf(x[3])};
}
/* x where y > 0, else 0 */
SCD_INLINE vf vwhere_positive(vf y, vf x)
{
    return vselect(y > vzero(), x, vzero());
}
/* Adding 1.5 x 2^23 leaves no bits for a fraction: |x| < 2^22. */
SCD_INLINE vf vround(vf x)
{
    return x + vset(12582912.0f) - vset(12582912.0f);
}
/* p 2^n for integral n <= 127; 0 where n < -126 */
SCD_INLINE vf vscale2(vf p, vf n)
{
    vi e = (vi)(n + vset(12582912.0f)) + 127; /* n in the low bits; what is above falls off */
    vf scaled = p * (vf)(e << 23);
    return (vf)((vi)scaled & (n >= vset(-126.0f)));
}
SCD_INLINE float vsum(vf v)
{
    return (v[0] + v[2]) + (v[1] + v[3]);
}
SCD_INLINE float vhmax(vf v)
{
    float a = v[0] > v[2] ? v[0] : v[2], b = v[1] > v[3] ? v[1] : v[3];
    return a > b ? a : b;
}
/* lanes from n on become `fill` */
SCD_INLINE vf vkeep_n(vf v, size_t n, float fill)
{
    for (size_t i = n; i < VW; i++)
        v[i] = fill;
    return v;
}
SCD_INLINE int vany_above(vf v, float limit)
{
    return v[0] > limit || v[1] > limit || v[2] > limit || v[3] > limit;
}
/* t[i] lane j <-> t[j] lane i */
SCD_INLINE void vtranspose(vf t[VW])
{
    vf a = t[0], b = t[1], c = t[2], d = t[3];
    t[0] = (vf){a[0], b[0], c[0], d[0]};
    t[1] = (vf){a[1], b[1], c[1], d[1]};
    t[2] = (vf){a[2], b[2], c[2], d[2]};
    t[3] = (vf){a[3], b[3], c[3], d[3]};
}
SCD_INLINE vf vload_bf16_n(const uint16_t *p, size_t n)
{
    vi bits = {0};
    for (size_t i = 0; i < n && i < VW; i++)
        bits[i] = (int32_t)((uint32_t)p[i] << 16);
    return (vf)bits;
}
SCD_INLINE vf vload_f16_n(const uint16_t *p, size_t n)
{
    vf v = vzero();
    for (size_t i = 0; i < n && i < VW; i++)
        v[i] = scd_half_to_float(p[i]);
    return v;
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
