/* kernels_body.h - the kernels that go along a row, over vec.h. Included once by each
 * kernels_<isa>.c; see kernels.h for the contracts. */
#include <math.h>
#include <stdbool.h>

/* 1 / sqrt(mean h^2 + eps) */
SCD_INLINE float inverse_rms(const float *h, size_t n)
{
    vf sum = vzero();
    for (size_t i = 0; i < n; i += VW) {
        vf x = vload_n(h + i, n - i);
        sum = vfma(x, x, sum);
    }
    return 1.0f / sqrtf(vsum(sum) / (float)n + SCD_NORM_EPS);
}

static void norm(const float *h, const float *w, size_t n, void *out)
{
    act *o = out;
    vf r = vset(inverse_rms(h, n));
    for (size_t i = 0; i < n; i += VW)
        vstore_act_n(o + i, vmul(vmul(vload_n(h + i, n - i), r), vload_n(w + i, n - i)), n - i);
}

static void norm_f32(const float *h, const float *w, size_t n, float *out)
{
    vf r = vset(inverse_rms(h, n));
    for (size_t i = 0; i < n; i += VW)
        vstore_n(out + i, vmul(vmul(vload_n(h + i, n - i), r), vload_n(w + i, n - i)), n - i);
}

static void add(const float *a, const float *b, size_t n, float *out)
{
    for (size_t i = 0; i < n; i += VW)
        vstore_n(out + i, vadd(vload_n(a + i, n - i), vload_n(b + i, n - i)), n - i);
}

static void add_norm(float *h, const float *y, const float *w, size_t n, void *out)
{
    add(h, y, n, h);
    norm(h, w, n, out);
}

static void add_act(const float *a, const float *b, size_t n, void *out)
{
    act *o = out;
    for (size_t i = 0; i < n; i += VW)
        vstore_act_n(o + i, vadd(vload_n(a + i, n - i), vload_n(b + i, n - i)), n - i);
}

static void scale(float *a, float factor, size_t n)
{
    vf f = vset(factor);
    for (size_t i = 0; i < n; i += VW)
        vstore_n(a + i, vmul(vload_n(a + i, n - i), f), n - i);
}

static void store(const float *y, size_t n, void *out)
{
    act *o = out;
    for (size_t i = 0; i < n; i += VW)
        vstore_act_n(o + i, vload_n(y + i, n - i), n - i);
}

static void silu_mul(const float *g, const float *u, size_t n, void *out)
{
    act *o = out;
    vf one = vset(1.0f);
    for (size_t i = 0; i < n; i += VW) {
        vf x = vload_n(g + i, n - i);
        vf y = vdiv(vmul(x, vload_n(u + i, n - i)), vadd(one, vexp(vsub(vzero(), x))));
        vstore_act_n(o + i, y, n - i);
    }
}

static void rope(const float *y, const float *cos_sin, size_t n_heads, size_t dim, void *out)
{
    act *o = out;
    size_t half = dim / 2;
    for (size_t j = 0; j < n_heads; j++, y += dim, o += dim)
        for (size_t i = 0; i < half; i += VW) {
            size_t left = half - i;
            vf a = vload_n(y + i, left), b = vload_n(y + half + i, left);
            vf c = vload_n(cos_sin + i, left), s = vload_n(cos_sin + half + i, left);
            vstore_act_n(o + i, vsub(vmul(a, c), vmul(b, s)), left);
            vstore_act_n(o + half + i, vadd(vmul(b, c), vmul(a, s)), left);
        }
}

static void bias(const float *y, const float *b, int relu, size_t n, float *out)
{
    vf floor = vset(relu ? 0.0f : -INFINITY);
    for (size_t i = 0; i < n; i += VW) {
        vf x = vload_n(y + i, n - i);
        if (b)
            x = vadd(x, vload_n(b + i, n - i));
        vstore_n(out + i, vmax(x, floor), n - i);
    }
}

static void value_in(float x, const float *w, const float *b, size_t n, void *out)
{
    act *o = out;
    vf v = vset(x), zero = vzero();
    for (size_t i = 0; i < n; i += VW) {
        vf y = vfma(v, vload_n(w + i, n - i), vload_n(b + i, n - i));
        vstore_act_n(o + i, vmax(y, zero), n - i);
    }
}

static void layer_norm_relu(float *y, const float *lin_bias, const float *w, const float *b,
                            size_t n, void *out)
{
    act *o = out;
    vf sum = vzero(), square = vzero(), zero = vzero();
    for (size_t i = 0; i < n; i += VW) {
        vf x = vadd(vload_n(y + i, n - i), vload_n(lin_bias + i, n - i));
        sum = vadd(sum, x);
        vstore_n(y + i, x, n - i);
    }
    float mean = vsum(sum) / (float)n;
    for (size_t i = 0; i < n; i++)
        y[i] -= mean;
    for (size_t i = 0; i < n; i += VW) {
        vf x = vload_n(y + i, n - i);
        square = vfma(x, x, square);
    }
    vf r = vset(1.0f / sqrtf(vsum(square) / (float)n + SCD_NORM_EPS));
    for (size_t i = 0; i < n; i += VW) {
        vf x = vmul(vload_n(y + i, n - i), r);
        x = vfma(x, vload_n(w + i, n - i), vload_n(b + i, n - i));
        vstore_act_n(o + i, vmax(x, zero), n - i);
    }
}

static void to_f32(const void *in, scd_dtype dtype, size_t n, float *out)
{
    const uint16_t *h = in;
    if (dtype == SCD_F32)
        memcpy(out, in, n * sizeof *out);
    else if (dtype == SCD_BF16)
        for (size_t i = 0; i < n; i += VW)
            vstore_n(out + i, vload_bf16_n(h + i, n - i), n - i);
    else
        for (size_t i = 0; i < n; i += VW)
            vstore_n(out + i, vload_f16_n(h + i, n - i), n - i);
}

static void exp_test(const float *x, size_t n, float *e, float *e2)
{
    for (size_t i = 0; i < n; i += VW) {
        vf v = vload_n(x + i, n - i);
        vstore_n(e + i, vexp(v), n - i);
        vstore_n(e2 + i, vexp2(v), n - i);
    }
}
