/* train_kernels_body.h - the kernels of training over vec.h. Included once by each
 * train_kernels_<isa>.c; see train_kernels.h for the contracts.
 *
 * Loops take whole vectors and a masked last one. A masked load leaves zeros, which sums of
 * products do not notice; where zeros would count, vkeep_n comes first. */
#include <math.h>

/* ---- along a row, element by element ---- */

static void add(float *y, const float *x, size_t n)
{
    for (size_t i = 0; i < n; i += VW)
        vstore_n(y + i, vadd(vload_n(y + i, n - i), vload_n(x + i, n - i)), n - i);
}

static void axpy(float *y, float a, const float *x, size_t n)
{
    vf f = vset(a);
    for (size_t i = 0; i < n; i += VW)
        vstore_n(y + i, vfma(f, vload_n(x + i, n - i), vload_n(y + i, n - i)), n - i);
}

static void scale(float *y, float a, size_t n)
{
    vf f = vset(a);
    for (size_t i = 0; i < n; i += VW)
        vstore_n(y + i, vmul(f, vload_n(y + i, n - i)), n - i);
}

static void sum(float *y, const float *a, const float *b, size_t n)
{
    for (size_t i = 0; i < n; i += VW)
        vstore_n(y + i, vadd(vload_n(a + i, n - i), vload_n(b + i, n - i)), n - i);
}

static float dot(const float *a, const float *b, size_t n)
{
    vf total = vzero();
    for (size_t i = 0; i < n; i += VW)
        total = vfma(vload_n(a + i, n - i), vload_n(b + i, n - i), total);
    return vsum(total);
}

static void relu(float *y, size_t n)
{
    vf zero = vzero();
    for (size_t i = 0; i < n; i += VW)
        vstore_n(y + i, vmax(vload_n(y + i, n - i), zero), n - i);
}

static void relu_back(const float *y, float *dy, size_t n)
{
    for (size_t i = 0; i < n; i += VW)
        vstore_n(dy + i, vwhere_positive(vload_n(y + i, n - i), vload_n(dy + i, n - i)), n - i);
}

/* ---- norms ---- */

static float rms_norm(const float *x, const float *w, size_t n, float *y)
{
    float rstd = 1.0f / sqrtf(dot(x, x, n) / (float)n + SCD_NORM_EPS);
    vf r = vset(rstd);
    for (size_t i = 0; i < n; i += VW)
        vstore_n(y + i, vmul(vmul(vload_n(x + i, n - i), r), vload_n(w + i, n - i)), n - i);
    return rstd;
}

/* With g = dy w and s = mean(g x): dx = rstd g - rstd^3 s x; dw = dy x rstd. */
static void rms_norm_back(const float *x, const float *w, float rstd, const float *dy, size_t n,
                          float *dx, float *dw)
{
    vf total = vzero(), r = vset(rstd);
    for (size_t i = 0; i < n; i += VW) {
        vf g = vmul(vload_n(dy + i, n - i), vload_n(w + i, n - i));
        total = vfma(g, vload_n(x + i, n - i), total);
    }
    vf back = vset(-rstd * rstd * rstd * (vsum(total) / (float)n));
    for (size_t i = 0; i < n; i += VW) {
        vf d = vload_n(dy + i, n - i), v = vload_n(x + i, n - i);
        vf sum_so_far = vfma(back, v, vload_n(dx + i, n - i));
        vstore_n(dx + i, vfma(r, vmul(d, vload_n(w + i, n - i)), sum_so_far), n - i);
        if (dw)
            vstore_n(dw + i, vfma(d, vmul(v, r), vload_n(dw + i, n - i)), n - i);
    }
}

static void norm_relu(const float *x, const float *w, const float *b, size_t n, float *y,
                      float *mean, float *rstd)
{
    vf total = vzero(), square = vzero(), zero = vzero();
    for (size_t i = 0; i < n; i += VW)
        total = vadd(total, vload_n(x + i, n - i));
    *mean = vsum(total) / (float)n;
    vf m = vset(*mean);
    for (size_t i = 0; i < n; i += VW) {
        vf c = vkeep_n(vsub(vload_n(x + i, n - i), m), n - i, 0);
        square = vfma(c, c, square);
    }
    *rstd = 1.0f / sqrtf(vsum(square) / (float)n + SCD_NORM_EPS);
    vf r = vset(*rstd);
    for (size_t i = 0; i < n; i += VW) {
        vf c = vmul(vsub(vload_n(x + i, n - i), m), r);
        vf v = vfma(c, vload_n(w + i, n - i), vload_n(b + i, n - i));
        vstore_n(y + i, vmax(v, zero), n - i);
    }
}

/* With e = dy where y > 0, c = (x - mean) rstd, g = e w:
 * dx = rstd (g - mean(g) - c mean(g c)); dw = e c; db = e. */
static void norm_relu_back(const float *x, const float *w, const float *y, float mean, float rstd,
                           const float *dy, size_t n, float *dx, float *dw, float *db)
{
    vf sum_g = vzero(), sum_gc = vzero(), m = vset(mean), r = vset(rstd);
    for (size_t i = 0; i < n; i += VW) {
        vf e = vwhere_positive(vload_n(y + i, n - i), vload_n(dy + i, n - i));
        vf c = vmul(vsub(vload_n(x + i, n - i), m), r), g = vmul(e, vload_n(w + i, n - i));
        sum_g = vadd(sum_g, g);
        sum_gc = vfma(g, c, sum_gc);
        vstore_n(dw + i, vfma(e, c, vload_n(dw + i, n - i)), n - i);
        vstore_n(db + i, vadd(e, vload_n(db + i, n - i)), n - i);
    }
    vf mean_g = vset(vsum(sum_g) / (float)n), mean_gc = vset(vsum(sum_gc) / (float)n);
    for (size_t i = 0; i < n; i += VW) {
        vf e = vwhere_positive(vload_n(y + i, n - i), vload_n(dy + i, n - i));
        vf c = vmul(vsub(vload_n(x + i, n - i), m), r), g = vmul(e, vload_n(w + i, n - i));
        vf d = vsub(vsub(g, mean_g), vmul(c, mean_gc));
        vstore_n(dx + i, vmul(r, d), n - i);
    }
}

/* ---- attention ---- */

static void rope(float *x, const float *cos_sin, float turn, size_t n_heads, size_t dim)
{
    size_t half = dim / 2;
    vf t = vset(turn);
    for (size_t j = 0; j < n_heads; j++, x += dim)
        for (size_t i = 0; i < half; i += VW) {
            size_t left = half - i;
            vf a = vload_n(x + i, left), b = vload_n(x + half + i, left);
            vf c = vload_n(cos_sin + i, left), s = vmul(t, vload_n(cos_sin + half + i, left));
            vstore_n(x + i, vsub(vmul(a, c), vmul(b, s)), left);
            vstore_n(x + half + i, vadd(vmul(b, c), vmul(a, s)), left);
        }
}

/* Four chains, since a maximum takes as long as four vectors take to load. */
static float top(const float *x, size_t n)
{
    vf lowest = vset(-INFINITY), best[4] = {lowest, lowest, lowest, lowest};
    size_t i = 0;
    for (; i + 4 * VW <= n; i += 4 * VW)
        for (size_t j = 0; j < 4; j++)
            best[j] = vmax(best[j], vload(x + i + j * VW));
    for (; i < n; i += VW)
        best[0] = vmax(best[0], vkeep_n(vload_n(x + i, n - i), n - i, -INFINITY));
    return vhmax(vmax(vmax(best[0], best[1]), vmax(best[2], best[3])));
}

static float exp2_sum(float *x, float top, size_t n)
{
    vf total = vzero(), t = vset(top);
    size_t i = 0;
    for (; i + VW <= n; i += VW) {
        vf e = vexp2(vsub(vload(x + i), t));
        total = vadd(total, e);
        vstore(x + i, e);
    }
    if (i < n) {
        vf e = vkeep_n(vexp2(vsub(vload_n(x + i, n - i), t)), n - i, 0);
        total = vadd(total, e);
        vstore_n(x + i, e, n - i);
    }
    return vsum(total);
}

static void softmax_back(float *s, float *dp, float lse2, float delta, size_t n)
{
    vf l = vset(lse2), d = vset(delta);
    size_t i = 0;
    for (; i + VW <= n; i += VW) {
        vf p = vexp2(vsub(vload(s + i), l));
        vstore(s + i, p);
        vstore(dp + i, vmul(p, vsub(vload(dp + i), d)));
    }
    if (i < n) {
        vf p = vexp2(vsub(vload_n(s + i, n - i), l));
        vstore_n(s + i, p, n - i);
        vstore_n(dp + i, vmul(p, vsub(vload_n(dp + i, n - i), d)), n - i);
    }
}

/* ---- gated unit, value encoder ---- */

SCD_INLINE vf sigmoid(vf x)
{
    vf one = vset(1.0f);
    return vdiv(one, vadd(one, vexp(vsub(vzero(), x))));
}

static void swiglu(const float *gate, const float *up, size_t n, float *y)
{
    for (size_t i = 0; i < n; i += VW) {
        vf g = vload_n(gate + i, n - i);
        vstore_n(y + i, vmul(vmul(g, sigmoid(g)), vload_n(up + i, n - i)), n - i);
    }
}

/* d silu(g) / dg = s (1 + g (1 - s)), s = sigmoid(g) */
static void swiglu_back(const float *gate, const float *up, const float *dy, size_t n, float *dgate,
                        float *dup)
{
    vf one = vset(1.0f);
    for (size_t i = 0; i < n; i += VW) {
        vf g = vload_n(gate + i, n - i), u = vload_n(up + i, n - i), d = vload_n(dy + i, n - i);
        vf s = sigmoid(g), slope = vmul(s, vfma(g, vsub(one, s), one));
        vstore_n(dgate + i, vmul(vmul(d, u), slope), n - i);
        vstore_n(dup + i, vmul(d, vmul(g, s)), n - i);
    }
}

static void value_in(float x, const float *w, const float *b, size_t n, float *u)
{
    vf v = vset(x), zero = vzero();
    for (size_t i = 0; i < n; i += VW) {
        vf y = vfma(v, vload_n(w + i, n - i), vload_n(b + i, n - i));
        vstore_n(u + i, vmax(y, zero), n - i);
    }
}

static void value_in_back(float x, const float *u, const float *du, size_t n, float *dw, float *db)
{
    vf v = vset(x);
    for (size_t i = 0; i < n; i += VW) {
        vf d = vwhere_positive(vload_n(u + i, n - i), vload_n(du + i, n - i));
        vstore_n(dw + i, vfma(v, d, vload_n(dw + i, n - i)), n - i);
        vstore_n(db + i, vadd(d, vload_n(db + i, n - i)), n - i);
    }
}

/* ---- losses and the optimizer ---- */

static size_t place(const float *x, float value, size_t n)
{
    size_t i = 0;
    while (i + 1 < n && x[i] != value)
        i++;
    return i;
}

static void adamw(const scd_t_adamw *a, size_t first, size_t n)
{
    float *w = a->w + first, *m = a->m + first, *v = a->v + first;
    const float *g = a->g + first;
    vf b1 = vset(a->beta1), c1 = vset(1.0f - a->beta1), b2 = vset(a->beta2);
    vf c2 = vset(1.0f - a->beta2), scaled = vset(a->grad_scale), eps = vset(a->eps);
    vf step = vset(a->lr / a->bias1), root = vset(1.0f / a->bias2);
    vf decay = vset(a->lr * a->decay);
    for (size_t i = 0; i < n; i += VW) {
        size_t left = n - i;
        vf d = vmul(vload_n(g + i, left), scaled);
        vf m1 = vfma(b1, vload_n(m + i, left), vmul(c1, d));
        vf v1 = vfma(b2, vload_n(v + i, left), vmul(c2, vmul(d, d)));
        vf move = vdiv(vmul(step, m1), vadd(vsqrt(vmul(v1, root)), eps));
        vf old = vload_n(w + i, left);
        vstore_n(m + i, m1, left);
        vstore_n(v + i, v1, left);
        vstore_n(w + i, vsub(old, vfma(decay, old, move)), left);
    }
}

/* Squares and their sums in float64, lane by lane. */
static double sum_squares(const float *x, size_t n)
{
    enum { LANES = 8 };
    double lane[LANES] = {0}, total = 0;
    size_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (size_t j = 0; j < LANES; j++)
            lane[j] += (double)x[i + j] * (double)x[i + j];
    for (; i < n; i++)
        lane[i % LANES] += (double)x[i] * (double)x[i];
    for (size_t j = 0; j < LANES; j++)
        total += lane[j];
    return total;
}

#define SCD_TRAIN_KERNELS_ENTRIES                                                                  \
    .add = add, .axpy = axpy, .scale = scale, .sum = sum, .dot = dot, .relu = relu,                \
    .relu_back = relu_back, .rms_norm = rms_norm, .rms_norm_back = rms_norm_back,                  \
    .norm_relu = norm_relu, .norm_relu_back = norm_relu_back, .rope = rope, .top = top,            \
    .exp2_sum = exp2_sum, .softmax_back = softmax_back, .swiglu = swiglu,                          \
    .swiglu_back = swiglu_back, .value_in = value_in, .value_in_back = value_in_back,              \
    .place = place, .adamw = adamw, .sum_squares = sum_squares
