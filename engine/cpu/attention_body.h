/* attention_body.h - attention of one head of one cell over vec.h. Included once by each
 * kernels_<isa>.c.
 *
 * Keys and values of the head are packed once per task. Then blocks of QUERIES rows go over chunks
 * of KEYS keys: a register tile of scores q K^T becomes weights p = 2^(factor (score - top)) before
 * it leaves the registers, and a chunk of weights is multiplied with its values,
 * sums = sums * alpha + p V.
 *
 * `top` need not be the row's largest score: any number near it keeps p in range, since p is a
 * floating-point number with as many digits at 2^40 as at 1. It is raised only when a score exceeds
 * it by more than HEADROOM powers of two, which after the first keys of a row hardly happens.
 *
 * Chunks begin at multiples of KEYS whatever the batch, and every row goes through the same
 * operations whichever rows share its tile: a row's bits depend on its cell alone.
 *
 * PAIR neighbours along the summed dimension lie together, 1 for float and 2 for bf16, as the
 * multiply-add takes them:
 *   K: panels of COLS keys, each (head_dim / PAIR, keys of the panel, PAIR)
 *   V: (keys / PAIR, head_dim rounded up to whole vectors, PAIR) */

#ifdef __AVX512BF16__
enum { PAIR = 2 };
typedef __m512bh vpair;
SCD_INLINE vpair vload_pair(const act *p)
{
    return (__m512bh)_mm512_loadu_si512(p);
}
SCD_INLINE vpair vset_pair(const act *p)
{
    int32_t two;
    memcpy(&two, p, sizeof two);
    return (__m512bh)_mm512_set1_epi32(two);
}
SCD_INLINE vf vfma_pair(vpair a, vpair b, vf c)
{
    return _mm512_dpbf16_ps(c, a, b);
}
/* VW pairs (a[i], b[i]); b NULL: zeros; lanes from n on are zeros */
SCD_INLINE void vinterleave(const act *a, const act *b, size_t n, act *out)
{
    __m512i low = _mm512_cvtepu16_epi32(vload_half_n(a, n)), high = _mm512_setzero_si512();
    if (b)
        high = _mm512_cvtepu16_epi32(vload_half_n(b, n));
    _mm512_storeu_si512(out, _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
}
/* 2^x with a relative error below 8e-5: p is rounded to 8 bits (4e-3) right after. Minimax of
 * degree 3 over the fraction [0, 1). */
SCD_INLINE vf vweight(vf x)
{
    vf f = _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
    vf p = vset(7.8024521e-2f);
    p = vfma(p, f, vset(2.2606716e-1f));
    p = vfma(p, f, vset(6.9583356e-1f));
    p = vfma(p, f, vset(9.9992520e-1f));
    return _mm512_scalef_ps(p, x); /* scales by the whole part */
}
#else
enum { PAIR = 1 };
typedef vf vpair;
SCD_INLINE vpair vload_pair(const act *p)
{
    return vload(p);
}
SCD_INLINE vpair vset_pair(const act *p)
{
    return vset(*p);
}
SCD_INLINE vf vfma_pair(vpair a, vpair b, vf c)
{
    return vfma(a, b, c);
}
SCD_INLINE void vinterleave(const act *a, const act *b, size_t n, act *out)
{
    (void)b;
    vstore(out, vload_n(a, n));
}
SCD_INLINE vf vweight(vf x)
{
    return vexp2(x);
}
#endif

#if defined(__AVX512F__)
enum { ROWS = 6, VECS = 4 }; /* register tile: 24 sums of 32 registers */
#elif defined(__AVX2__)
enum { ROWS = 6, VECS = 2 }; /* 12 of 16 */
#else
enum { ROWS = 4, VECS = 2 };
#endif
enum { COLS = VECS * VW, KEYS = 512, QUERIES = 24, HEADROOM = 40 };
#define NO_SCORE -1e30f /* below every score; 2^ of it is 0 */

SCD_INLINE size_t round_up(size_t n, size_t to)
{
    return (n + to - 1) / to * to;
}

/* One task's scratch, carved. */
typedef struct attention_space {
    act *k, *v;         /* packed */
    act *p;             /* (QUERIES, KEYS) weights of a chunk */
    float *sums;        /* (QUERIES, padded head_dim) */
    float *totals;      /* (QUERIES, VW) sum of p, lane by lane */
    float *top, *alpha; /* (QUERIES) alpha: what the sums so far must be multiplied with */
    size_t padded_dim;
    float factor; /* e^(x / sqrt head_dim) = 2^(factor x) */
} attention_space;

static size_t attention_carve(char *base, size_t n_k, size_t dim, attention_space *s)
{
    size_t padded = round_up(dim, VW), keys = round_up(n_k, VW), at = 0;
    const size_t bytes[] = {keys * dim * sizeof(act),     keys * padded * sizeof(act),
                            QUERIES * KEYS * sizeof(act), QUERIES * padded * sizeof(float),
                            QUERIES * VW * sizeof(float), QUERIES * sizeof(float),
                            QUERIES * sizeof(float)};
    void *place[7] = {0};
    for (size_t i = 0; i < 7; at += round_up(bytes[i], 64), i++)
        place[i] = base ? base + at : NULL;
    *s = (attention_space){place[0], place[1], place[2],
                           place[3], place[4], place[5],
                           place[6], padded,   1.44269504f / sqrtf((float)dim)};
    return at;
}

static size_t attention_scratch(size_t n_k, size_t head_dim)
{
    attention_space s;
    return attention_carve(NULL, n_k, head_dim, &s);
}

/* A word is PAIR elements, four bytes in every type: VW words a vector, moved and never computed
 * with. */
static void pack_keys(const act *k, size_t ld, size_t n_k, size_t dim, act *out)
{
    size_t words = dim / PAIR;
    for (size_t first = 0; first < n_k; first += COLS) {
        size_t left = n_k - first, wide = left < COLS ? round_up(left, VW) : COLS;
        for (size_t j = 0; j < wide; j += VW)
            for (size_t i = 0; i < words; i += VW) {
                vf t[VW];
                SCD_UNROLL
                for (size_t r = 0; r < VW; r++) {
                    const act *row = k + (first + j + r) * ld + i * PAIR;
                    t[r] = j + r < left ? vload_n((const float *)(const void *)row, words - i)
                                        : vzero();
                }
                vtranspose(t);
                SCD_UNROLL
                for (size_t r = 0; r < VW; r++)
                    if (i + r < words)
                        vstore((float *)(void *)(out + ((i + r) * wide + j) * PAIR), t[r]);
            }
        out += wide * dim;
    }
}

static void pack_values(const act *v, size_t ld, size_t n_k, size_t dim, size_t padded, act *out)
{
    for (size_t j = 0; j < n_k; j += PAIR, out += padded * PAIR)
        for (size_t i = 0; i < padded; i += VW)
            vinterleave(v + j * ld + i, j + 1 < n_k ? v + (j + 1) * ld + i : NULL, dim - i,
                        out + i * PAIR);
}

/* acc (rows, vecs) += a (rows, steps x PAIR) b (steps, ldb / PAIR, PAIR); rows and vecs constant */
SCD_INLINE void tile_sum(size_t rows, size_t vecs, const act *a, size_t lda, const act *b,
                         size_t ldb, size_t steps, vf acc[ROWS][VECS])
{
    for (size_t s = 0; s < steps; s++, b += ldb, a += PAIR) {
        vpair bv[VECS];
        SCD_UNROLL
        for (size_t j = 0; j < vecs; j++)
            bv[j] = vload_pair(b + j * VW * PAIR);
        SCD_UNROLL
        for (size_t r = 0; r < rows; r++) {
            vpair av = vset_pair(a + r * lda);
            SCD_UNROLL
            for (size_t j = 0; j < vecs; j++)
                acc[r][j] = vfma_pair(av, bv[j], acc[r][j]);
        }
    }
}

/* A row has a score far above its top: what was computed under the old one is scaled down. `done`
 * weights of this chunk exist already. */
static __attribute__((noinline, cold)) void raise_top(const attention_space *s, size_t row,
                                                      float to, size_t done)
{
    float lanes[VW], *total = s->totals + row * VW;
    vstore(lanes, vexp2(vset((s->top[row] - to) * s->factor)));
    vf alpha = vset(lanes[0]);
    s->top[row] = to;
    s->alpha[row] *= lanes[0];
    vstore(total, vmul(vload(total), alpha));
    act *p = s->p + row * KEYS;
    for (size_t i = 0; i < done; i += VW)
        vstore_act(p + i, vmul(vload_act(p + i), alpha));
}

/* Weights of `rows` queries from `row` on for `vecs` vectors of keys, n_keys of which are real. */
SCD_INLINE void weights_tile(size_t rows, size_t vecs, const attention_space *s, size_t row,
                             const act *q, size_t ldq, const act *k, size_t steps, size_t done,
                             size_t n_keys)
{
    vf acc[ROWS][VECS];
    SCD_UNROLL
    for (size_t r = 0; r < rows; r++) {
        SCD_UNROLL
        for (size_t j = 0; j < vecs; j++)
            acc[r][j] = vzero();
    }
    tile_sum(rows, vecs, q, ldq, k, vecs * VW * PAIR, steps, acc);
    act *p = s->p + row * KEYS + done;
    float *totals = s->totals + row * VW, *top = s->top + row, headroom = HEADROOM / s->factor;
    vf factor = vset(s->factor);
    SCD_UNROLL
    for (size_t r = 0; r < rows; r++) {
        if (n_keys < vecs * VW)
            acc[r][vecs - 1] = vkeep_n(acc[r][vecs - 1], n_keys - (vecs - 1) * VW, NO_SCORE);
        vf most = acc[r][0];
        SCD_UNROLL
        for (size_t j = 1; j < vecs; j++)
            most = vmax(most, acc[r][j]);
        if (__builtin_expect(vany_above(most, top[r] + headroom), 0))
            raise_top(s, row + r, vhmax(most), done);
        vf shift = vmul(vset(-top[r]), factor), total = vload(totals + r * VW);
        SCD_UNROLL
        for (size_t j = 0; j + 1 < vecs; j += 2) {
            vf a = vweight(vfma(acc[r][j], factor, shift));
            vf b = vweight(vfma(acc[r][j + 1], factor, shift));
            total = vadd(total, vadd(a, b));
            vstore_act_2(p + r * KEYS + j * VW, a, b);
        }
        if (vecs % 2) {
            vf a = vweight(vfma(acc[r][vecs - 1], factor, shift));
            total = vadd(total, a);
            vstore_act(p + r * KEYS + (vecs - 1) * VW, a);
        }
        vstore(totals + r * VW, total);
    }
}

/* All rows of the block, one panel of keys; vecs is a constant. */
SCD_INLINE void weights_rows(size_t n_rows, size_t vecs, const attention_space *s, const act *q,
                             size_t ldq, const act *k, size_t steps, size_t done, size_t n_keys)
{
    size_t r = 0;
    for (; r + ROWS <= n_rows; r += ROWS)
        weights_tile(ROWS, vecs, s, r, q + r * ldq, ldq, k, steps, done, n_keys);
    for (; r < n_rows; r++)
        weights_tile(1, vecs, s, r, q + r * ldq, ldq, k, steps, done, n_keys);
}

static void weights_panel(size_t n_rows, const attention_space *s, const act *q, size_t ldq,
                          const act *k, size_t steps, size_t done, size_t n_keys)
{
    switch ((n_keys + VW - 1) / VW) {
    case 1:
        weights_rows(n_rows, 1, s, q, ldq, k, steps, done, n_keys);
        break;
    case 2:
        weights_rows(n_rows, 2, s, q, ldq, k, steps, done, n_keys);
        break;
#if defined(__AVX512F__)
    case 3:
        weights_rows(n_rows, 3, s, q, ldq, k, steps, done, n_keys);
        break;
    default:
        weights_rows(n_rows, 4, s, q, ldq, k, steps, done, n_keys);
#endif
    }
}

/* sums = sums * alpha + p v for `rows` rows and `vecs` vectors of the head's columns from `col` on
 */
SCD_INLINE void values_tile(size_t rows, size_t vecs, const attention_space *s, size_t row,
                            size_t col, const act *v, size_t steps)
{
    vf acc[ROWS][VECS];
    float *sums = s->sums + row * s->padded_dim + col;
    SCD_UNROLL
    for (size_t r = 0; r < rows; r++) {
        SCD_UNROLL
        for (size_t j = 0; j < vecs; j++)
            acc[r][j] = vmul(vload(sums + r * s->padded_dim + j * VW), vset(s->alpha[row + r]));
    }
    tile_sum(rows, vecs, s->p + row * KEYS, KEYS, v + col * PAIR, s->padded_dim * PAIR, steps, acc);
    SCD_UNROLL
    for (size_t r = 0; r < rows; r++) {
        SCD_UNROLL
        for (size_t j = 0; j < vecs; j++)
            vstore(sums + r * s->padded_dim + j * VW, acc[r][j]);
    }
}

static void values_chunk(size_t n_rows, const attention_space *s, const act *v, size_t steps)
{
    for (size_t r = 0; r < n_rows; r += r + ROWS <= n_rows ? ROWS : 1) {
        bool whole = r + ROWS <= n_rows;
        size_t col = 0;
        for (; col + COLS <= s->padded_dim; col += COLS)
            if (whole)
                values_tile(ROWS, VECS, s, r, col, v, steps);
            else
                values_tile(1, VECS, s, r, col, v, steps);
        for (; col < s->padded_dim; col += VW)
            if (whole)
                values_tile(ROWS, 1, s, r, col, v, steps);
            else
                values_tile(1, 1, s, r, col, v, steps);
    }
}

static void attention_block(const scd_attention_task *t, const attention_space *s, size_t first,
                            size_t n_rows)
{
    const act *q = (const act *)t->q + first * t->ld;
    memset(s->sums, 0, n_rows * s->padded_dim * sizeof *s->sums);
    memset(s->totals, 0, n_rows * VW * sizeof *s->totals);
    for (size_t r = 0; r < n_rows; r++)
        s->top[r] = NO_SCORE;
    for (size_t at = 0; at < t->n_k; at += KEYS) {
        size_t n = t->n_k - at < KEYS ? t->n_k - at : KEYS;
        for (size_t r = 0; r < n_rows; r++)
            s->alpha[r] = 1;
        for (size_t j = 0; j < n; j += COLS)
            weights_panel(n_rows, s, q, t->ld, s->k + (at + j) * t->head_dim, t->head_dim / PAIR, j,
                          n - j < COLS ? n - j : COLS);
        values_chunk(n_rows, s, s->v + at * s->padded_dim, (n + PAIR - 1) / PAIR);
    }
    act *out = (act *)t->out + first * t->ld;
    for (size_t r = 0; r < n_rows; r++, out += t->ld) {
        vf share = vset(1.0f / vsum(vload(s->totals + r * VW)));
        for (size_t i = 0; i < t->head_dim; i += VW)
            vstore_act_n(out + i, vmul(vload(s->sums + r * s->padded_dim + i), share),
                         t->head_dim - i);
    }
}

static void attention(const scd_attention_task *t)
{
    attention_space s;
    attention_carve(t->scratch, t->n_k, t->head_dim, &s);
    pack_keys(t->k, t->ld, t->n_k, t->head_dim, s.k);
    pack_values(t->v, t->ld, t->n_k, t->head_dim, s.padded_dim, s.v);
    for (size_t first = 0; first < t->n_q; first += QUERIES)
        attention_block(t, &s, first, t->n_q - first < QUERIES ? t->n_q - first : QUERIES);
}

/* The entries of scd_kernels that every instruction set fills alike. */
#define SCD_KERNELS_ENTRIES                                                                        \
    .act_bytes = sizeof(act), .norm = norm, .norm_f32 = norm_f32, .add_norm = add_norm,            \
    .add = add, .add_act = add_act, .scale = scale, .store = store, .silu_mul = silu_mul,          \
    .rope = rope, .bias = bias, .value_in = value_in, .layer_norm_relu = layer_norm_relu,          \
    .to_f32 = to_f32, .attention_scratch = attention_scratch, .attention = attention,              \
    .exp_test = exp_test
