/* attention_body.h - attention of one head of one cell over vec.h. Included once by each
 * kernels_<isa>.c.
 *
 * Keys and values of the head are packed once per task, then blocks of QUERIES rows go over chunks of
 * KEYS keys: scores = q K^T, online softmax in base 2, out = out * alpha + p V. Chunks begin at
 * multiples of KEYS whatever the batch, every row runs through the same multiply-adds whichever rows
 * share its register tile: a row's bits depend on its cell alone.
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
#endif

#if defined(__AVX512F__)
enum { ROWS = 6, VECS = 4 }; /* register tile: 24 sums of 32 registers */
#elif defined(__AVX2__)
enum { ROWS = 6, VECS = 2 }; /* 12 of 16 */
#else
enum { ROWS = 4, VECS = 2 };
#endif
enum { COLS = VECS * VW, KEYS = 256, QUERIES = 24 };

SCD_INLINE size_t round_up(size_t n, size_t to)
{
    return (n + to - 1) / to * to;
}

/* One task's scratch, carved. */
typedef struct attention_space {
    act *k, *v;      /* packed */
    float *scores;   /* (QUERIES, KEYS), as p: act in the first part of each row */
    float *sums;     /* (QUERIES, padded head_dim) */
    float *top, *total, *alpha; /* (QUERIES) largest score, sum of p, factor of what was summed */
    size_t padded_dim;
} attention_space;

static size_t attention_carve(char *base, size_t n_k, size_t dim, attention_space *s)
{
    char *at = base;
    size_t keys = round_up(n_k, VW);
    s->padded_dim = round_up(dim, VW);
    s->k = (act *)(void *)at;
    at += round_up(keys * dim * sizeof(act), 64);
    s->v = (act *)(void *)at;
    at += round_up(keys * s->padded_dim * sizeof(act), 64);
    s->scores = (float *)(void *)at;
    at += QUERIES * KEYS * sizeof(float);
    s->sums = (float *)(void *)at;
    at += QUERIES * s->padded_dim * sizeof(float);
    s->top = (float *)(void *)at;
    s->total = s->top + QUERIES;
    s->alpha = s->total + QUERIES;
    at += round_up(3 * QUERIES * sizeof(float), 64);
    return (size_t)(at - base);
}

static size_t attention_scratch(size_t n_k, size_t head_dim)
{
    attention_space s;
    return attention_carve(NULL, n_k, head_dim, &s);
}

static void pack_keys(const act *k, size_t ld, size_t n_k, size_t dim, act *out)
{
    for (size_t first = 0; first < n_k; first += COLS) {
        size_t n = n_k - first < COLS ? n_k - first : COLS, wide = round_up(n, VW);
        for (size_t j = 0; j < wide; j++)
            for (size_t i = 0; i < dim; i++)
                out[(i / PAIR * wide + j) * PAIR + i % PAIR] = j < n ? k[(first + j) * ld + i] : 0;
        out += wide * dim;
    }
}

static void pack_values(const act *v, size_t ld, size_t n_k, size_t dim, size_t padded, act *out)
{
    for (size_t j = 0; j < round_up(n_k, PAIR); j++)
        for (size_t i = 0; i < padded; i++)
            out[(j / PAIR * padded + i) * PAIR + j % PAIR] = j < n_k && i < dim ? v[j * ld + i] : 0;
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

/* y (rows, vecs) = alpha y + a b; alpha NULL: y = a b */
SCD_INLINE void tile(size_t rows, size_t vecs, const act *a, size_t lda, const act *b, size_t ldb,
                     size_t steps, const float *alpha, float *y, size_t ldy)
{
    vf acc[ROWS][VECS];
    SCD_UNROLL
    for (size_t r = 0; r < rows; r++) {
        SCD_UNROLL
        for (size_t j = 0; j < vecs; j++)
            acc[r][j] = alpha ? vmul(vload(y + r * ldy + j * VW), vset(alpha[r])) : vzero();
    }
    tile_sum(rows, vecs, a, lda, b, ldb, steps, acc);
    SCD_UNROLL
    for (size_t r = 0; r < rows; r++) {
        SCD_UNROLL
        for (size_t j = 0; j < vecs; j++)
            vstore(y + r * ldy + j * VW, acc[r][j]);
    }
}

/* All rows of a block, `vecs` vectors wide. */
SCD_INLINE void strip(size_t n_rows, size_t vecs, const act *a, size_t lda, const act *b,
                      size_t ldb, size_t steps, const float *alpha, float *y, size_t ldy)
{
    size_t r = 0;
    for (; r + ROWS <= n_rows; r += ROWS)
        tile(ROWS, vecs, a + r * lda, lda, b, ldb, steps, alpha ? alpha + r : NULL, y + r * ldy,
             ldy);
    for (; r < n_rows; r++)
        tile(1, vecs, a + r * lda, lda, b, ldb, steps, alpha ? alpha + r : NULL, y + r * ldy, ldy);
}

/* The same for any number of vectors up to VECS. */
static void scores_strip(size_t n_rows, size_t vecs, const act *q, size_t ldq, const act *k,
                         size_t steps, float *y)
{
    size_t ldb = vecs * VW * PAIR;
    if (vecs == VECS)
        strip(n_rows, VECS, q, ldq, k, ldb, steps, NULL, y, KEYS);
    else
        for (size_t j = 0; j < vecs; j++)
            strip(n_rows, 1, q, ldq, k + j * VW * PAIR, ldb, steps, NULL, y + j * VW, KEYS);
}

static void values_strip(size_t n_rows, const act *p, const act *v, size_t steps,
                         const attention_space *s)
{
    size_t lda = KEYS * sizeof(float) / sizeof(act), vecs = s->padded_dim / VW, j = 0;
    size_t ldb = s->padded_dim * PAIR;
    for (; j + VECS <= vecs; j += VECS)
        strip(n_rows, VECS, p, lda, v + j * VW * PAIR, ldb, steps, s->alpha, s->sums + j * VW,
              s->padded_dim);
    for (; j < vecs; j++)
        strip(n_rows, 1, p, lda, v + j * VW * PAIR, ldb, steps, s->alpha, s->sums + j * VW,
              s->padded_dim);
}

/* Scores of one row and chunk become p = 2^(factor (score - top)), in place; n is padded to whole
 * vectors with scores so low that p is 0. */
static void softmax_chunk(float *scores, size_t n, float factor, float *top, float *total,
                          float *alpha)
{
    vf m = vset(*top);
    for (size_t i = 0; i < n; i += VW)
        m = vmax(m, vload(scores + i));
    float new_top = vhmax(m);
    vf f = vset(factor), shift = vset(-new_top * factor), sum = vzero();
    act *p = (act *)(void *)scores;
    for (size_t i = 0; i < n; i += VW) {
        vf e = vexp2(vfma(vload(scores + i), f, shift));
        sum = vadd(sum, e);
        vstore_act(p + i, e);
    }
    float lanes[VW];
    vstore(lanes, vexp2(vset((*top - new_top) * factor)));
    *alpha = lanes[0];
    *total = *total * *alpha + vsum(sum);
    *top = new_top;
}

static void attention_block(const scd_attention_task *t, const attention_space *s, size_t first,
                            size_t n_rows, float factor)
{
    const act *q = (const act *)t->q + first * t->ld;
    memset(s->sums, 0, n_rows * s->padded_dim * sizeof *s->sums);
    for (size_t r = 0; r < n_rows; r++) {
        s->top[r] = -1e30f;
        s->total[r] = 0;
    }
    for (size_t at = 0; at < t->n_k; at += KEYS) {
        size_t n = t->n_k - at < KEYS ? t->n_k - at : KEYS, padded = round_up(n, VW);
        for (size_t j = 0; j < n; j += COLS) {
            size_t left = (padded - j) / VW, vecs = left < VECS ? left : VECS;
            scores_strip(n_rows, vecs, q, t->ld, s->k + (at + j) * t->head_dim,
                         t->head_dim / PAIR, s->scores + j);
        }
        for (size_t r = 0; r < n_rows; r++) {
            float *row = s->scores + r * KEYS;
            for (size_t j = n; j < padded; j++)
                row[j] = -1e30f;
            softmax_chunk(row, padded, factor, &s->top[r], &s->total[r], &s->alpha[r]);
        }
        values_strip(n_rows, (const act *)(const void *)s->scores, s->v + at * s->padded_dim,
                     (n + PAIR - 1) / PAIR, s);
    }
    act *out = (act *)t->out + first * t->ld;
    for (size_t r = 0; r < n_rows; r++, out += t->ld) {
        const float *sum = s->sums + r * s->padded_dim;
        vf scale_by = vset(1.0f / s->total[r]);
        for (size_t i = 0; i < t->head_dim; i += VW)
            vstore_act_n(out + i, vmul(vload(sum + i), scale_by), t->head_dim - i);
    }
}

static void attention(const scd_attention_task *t)
{
    attention_space s;
    attention_carve(t->scratch, t->n_k, t->head_dim, &s);
    pack_keys(t->k, t->ld, t->n_k, t->head_dim, s.k);
    pack_values(t->v, t->ld, t->n_k, t->head_dim, s.padded_dim, s.v);
    float factor = 1.44269504f / sqrtf((float)t->head_dim); /* e^(x / sqrt D) = 2^(factor x) */
    for (size_t first = 0; first < t->n_q; first += QUERIES) {
        size_t n = t->n_q - first < QUERIES ? t->n_q - first : QUERIES;
        attention_block(t, &s, first, n, factor);
    }
}
