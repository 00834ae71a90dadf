/* serialize.c - see serialize.h.
 *
 * Order comes from a least-significant-digit radix sort on integers: by token id (so that several
 * inputs of one gene meet), then, stably, by the bits of the float32 score. It has no comparisons
 * to mispredict, a bound that a hostile million of inputs cannot worsen, and gives ties in id order
 * for free. Small counts repeat all over a cell, so their logarithms are computed once.
 *
 * Threads: any. Owns: scratch during the call; results live in the caller's arena. */
#include "engine/model/serialize.h"

#include "engine/base/mem.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define MAX_COUNT 0x1p53     /* the last whole number up to which float64 is exact */
#define TOTAL_TOLERANCE 1e-6 /* a total that went through float32 may be this much short */
enum { STACK_INPUTS = 1536, N_LOGS = 64, RADIX_BITS = 8, RADIX = 1 << RADIX_BITS };

/* What is sorted: a 32-bit key and what it stands for (input index, then token index). */
typedef struct item {
    uint32_t key, at;
} item;

typedef struct token {
    int32_t id;
    float x;
} token;

typedef struct work {
    const scd_model_config *config;
    const scd_vocab *vocab;
    scd_input_kind kind;
    const scd_cell_values *in;
    const uint8_t *used; /* of the vocabulary; NULL: all are */
    double total;        /* counts: what they are divided by */
    size_t n_positive;   /* known inputs with a value above 0 */
    item *items, *swap;  /* (n_positive) */
    token *tokens;       /* (n_positive) */
    double logs[N_LOGS]; /* ln(1 + 1e4 c / total) of small counts c, NaN: not computed yet */
} work;

/* ---- values are what they are said to be ----------------------------------------------------- */

static scd_code refuse_value(const work *w, size_t i, size_t *bad_index, scd_error *err)
{
    double v = w->in->values[i];
    *bad_index = i;
    if (isnan(v) || isinf(v))
        return scd_fail(err, SCD_E_INVALID, "value %zu is %s, must be a finite number", i,
                        isnan(v) ? "NaN" : "infinite");
    if (v < 0)
        return scd_fail(err, SCD_E_INVALID,
                        "value %zu is %.9g: negative values come from scaled data, which cannot be "
                        "used; send the counts",
                        i, v);
    if (w->kind == SCD_INPUT_LOG1P_CP10K)
        return scd_fail(err, SCD_E_INVALID,
                        "value %zu is %.9g, above ln(1 + 10^4) = 9.2104: these are not log1p CP10K "
                        "values; send counts with \"input\": \"counts\"",
                        i, v);
    if (v > MAX_COUNT)
        return scd_fail(err, SCD_E_INVALID, "value %zu is %.9g, a count is at most 2^53", i, v);
    return scd_fail(err, SCD_E_INVALID,
                    "value %zu is %.9g, a count must be a whole number; send log-normalised values "
                    "with \"input\": \"log1p_cp10k\"",
                    i, v);
}

/* What the inputs of a cell add up to, in count space and in their order. */
typedef struct tally {
    double given, mapped;
    size_t known, positive, unwanted;
} tally;

static inline bool is_kept(const work *w, int32_t id)
{
    return (!w->in->wanted || w->in->wanted[id]) && (!w->used || w->used[id]);
}

static inline void count_input(tally *t, const work *w, int32_t id, double count)
{
    bool known = id >= 0, positive = known && count > 0;
    bool kept = positive && is_kept(w, id);
    t->given += count;
    t->mapped += known ? count : 0;
    t->known += known;
    t->positive += kept;
    t->unwanted += positive && !kept;
}

static void finish_scan(work *w, const tally *t, scd_cell *out)
{
    *out = (scd_cell){.genes_known = t->known,
                      .genes_unknown = w->in->n - t->known,
                      .genes_unwanted = t->unwanted,
                      .mapped_counts = t->mapped,
                      .given_counts = t->given};
    w->n_positive = t->positive;
}

/* Checks every input; the sums are exact, for counts are whole. */
static scd_code scan_counts(work *w, scd_cell *out, size_t *bad_index, scd_error *err)
{
    const scd_cell_values *in = w->in;
    tally t = {0};
    for (size_t i = 0; i < in->n; i++) {
        double v = in->values[i];
        if (!(v >= 0 && v <= MAX_COUNT) || (double)(int64_t)v != v)
            return refuse_value(w, i, bad_index, err);
        count_input(&t, w, in->tokens[i], v);
    }
    finish_scan(w, &t, out);
    w->total = in->total != 0 ? in->total : t.given;
    if (!isfinite(in->total) || in->total < 0)
        return scd_fail(err, SCD_E_INVALID, "total is %g, must be a finite number above 0",
                        in->total);
    if (w->total < t.given * (1 - TOTAL_TOLERANCE))
        return scd_fail(err, SCD_E_INVALID,
                        "total is %.17g, less than the sum %.17g of the counts given; leave it "
                        "out to use their sum",
                        w->total, t.given);
    return SCD_OK;
}

static scd_code scan_log1p(work *w, scd_cell *out, size_t *bad_index, scd_error *err)
{
    const scd_cell_values *in = w->in;
    const float most = (float)log1p(1e4); /* compared as float32: so the values were stored */
    tally t = {0};
    for (size_t i = 0; i < in->n; i++) {
        double v = in->values[i];
        if (!(v >= 0 && v <= 16) || (float)v > most)
            return refuse_value(w, i, bad_index, err);
        count_input(&t, w, in->tokens[i], v > 0 ? expm1(v) : 0);
    }
    finish_scan(w, &t, out);
    return SCD_OK;
}

/* ---- order ----------------------------------------------------------------------------------- */

/* Sorts by key, ascending and stable; the result is in w->items. */
static void sort_items(work *w, size_t n)
{
    uint32_t counts[4][RADIX] = {{0}};
    for (size_t i = 0; i < n; i++)
        for (size_t d = 0; d < 4; d++)
            counts[d][w->items[i].key >> d * RADIX_BITS & (RADIX - 1)]++;
    for (size_t d = 0; d < 4; d++) {
        uint32_t shift = (uint32_t)d * RADIX_BITS;
        if (counts[d][w->items[0].key >> shift & (RADIX - 1)] == n)
            continue; /* all keys share this digit */
        uint32_t at = 0;
        for (size_t b = 0; b < RADIX; b++) {
            uint32_t here = counts[d][b];
            counts[d][b] = at;
            at += here;
        }
        for (size_t i = 0; i < n; i++)
            w->swap[counts[d][w->items[i].key >> shift & (RADIX - 1)]++] = w->items[i];
        item *sorted = w->swap;
        w->swap = w->items;
        w->items = sorted;
    }
}

static void collect(work *w)
{
    const scd_cell_values *in = w->in;
    size_t n = 0;
    bool ordered = true;
    for (size_t i = 0; i < in->n; i++) {
        if (in->tokens[i] < 0 || !(in->values[i] > 0))
            continue;
        assert((size_t)in->tokens[i] < w->config->vocab);
        if (!is_kept(w, in->tokens[i]))
            continue;
        w->items[n] = (item){(uint32_t)in->tokens[i], (uint32_t)i};
        ordered = ordered && (!n || w->items[n - 1].key <= w->items[n].key);
        n++;
    }
    if (!ordered)
        sort_items(w, n);
}

/* ---- values ---------------------------------------------------------------------------------- */

static float log_of_count(work *w, double count)
{
    if (count >= N_LOGS)
        return (float)log1p(1e4 * count / w->total);
    double *known = &w->logs[(size_t)count];
    if (isnan(*known))
        *known = log1p(1e4 * count / w->total);
    return (float)*known;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The value of the n > 1 inputs items[0..n) of one gene, added in ascending order so that the order
 * in which a client names them does not matter. */
static scd_code combine(work *w, const item *items, size_t n, float *x)
{
    double few[16], *values = n <= 16 ? few : scd_malloc(n, sizeof *values);
    if (!values)
        return SCD_E_NOMEM;
    for (size_t i = 0; i < n; i++)
        values[i] = w->in->values[items[i].at];
    qsort(values, n, sizeof *values, by_value);
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += w->kind == SCD_INPUT_COUNTS ? values[i] : expm1((double)(float)values[i]);
    *x = w->kind == SCD_INPUT_COUNTS ? log_of_count(w, sum) : (float)log1p(sum);
    if (values != few)
        free(values);
    return SCD_OK;
}

/* One token per gene, in id order; a value that is 0 in float32 is none. */
static scd_code make_tokens(work *w, size_t *n_tokens)
{
    size_t n = 0;
    for (size_t i = 0, next; i < w->n_positive; i = next) {
        uint32_t id = w->items[i].key;
        next = i + 1;
        while (next < w->n_positive && w->items[next].key == id)
            next++;
        float x;
        double first = w->in->values[w->items[i].at];
        if (next - i > 1) {
            if (combine(w, w->items + i, next - i, &x))
                return SCD_E_NOMEM;
        } else {
            x = w->kind == SCD_INPUT_COUNTS ? log_of_count(w, first) : (float)first;
        }
        if (x > 0)
            w->tokens[n++] = (token){(int32_t)id, x};
    }
    *n_tokens = n;
    return SCD_OK;
}

/* Highest score first: positive floats order as their bits do, complemented for descending. */
static void order_by_score(work *w, size_t n)
{
    bool weighted = scd_vocab_has_entropies(w->vocab);
    for (size_t i = 0; i < n; i++) {
        float score = w->tokens[i].x;
        if (weighted)
            score /= scd_vocab_entropy(w->vocab, w->tokens[i].id) + 1e-6f;
        uint32_t bits;
        memcpy(&bits, &score, sizeof bits);
        w->items[i] = (item){~bits, (uint32_t)i};
    }
    sort_items(w, n);
}

static scd_code emit(const work *w, size_t n, scd_arena *arena, scd_cell *out)
{
    size_t kept = n < w->config->max_gene_len ? n : w->config->max_gene_len;
    out->ids = scd_arena_alloc(arena, kept, sizeof *out->ids);
    out->values = scd_arena_alloc(arena, kept, sizeof *out->values);
    if (!out->ids || !out->values)
        return SCD_E_NOMEM;
    for (size_t i = 0; i < kept; i++) {
        const token *t = &w->tokens[w->items[i].at];
        out->ids[i] = t->id;
        out->values[i] = t->x;
    }
    out->n_tokens = kept;
    out->genes_truncated = n - kept;
    return SCD_OK;
}

static scd_code build(work *w, scd_arena *arena, scd_cell *out, scd_error *err)
{
    struct {
        item items[STACK_INPUTS], swap[STACK_INPUTS];
        token tokens[STACK_INPUTS];
    } small;
    void *large = NULL;
    size_t n = w->n_positive, n_tokens = 0;
    if (n <= STACK_INPUTS) {
        w->items = small.items;
        w->swap = small.swap;
        w->tokens = small.tokens;
    } else {
        large = scd_malloc(n, 2 * sizeof(item) + sizeof(token));
        if (!large)
            return scd_fail(err, SCD_E_NOMEM, "out of memory for %zu values", n);
        w->items = large;
        w->swap = w->items + n;
        w->tokens = (token *)(void *)(w->swap + n);
    }
    collect(w);
    scd_code code = make_tokens(w, &n_tokens);
    if (!code && n_tokens) {
        order_by_score(w, n_tokens);
        code = emit(w, n_tokens, arena, out);
    }
    free(large);
    if (code)
        return scd_fail(err, code, "out of memory for a cell of %zu values", n);
    return SCD_OK;
}

scd_code scd_cell_serialize(const scd_model_config *config, const scd_vocab *vocab,
                            scd_input_kind kind, const scd_cell_values *in, scd_arena *arena,
                            scd_cell *out, size_t *bad_index, scd_error *err)
{
    size_t unused;
    bad_index = bad_index ? bad_index : &unused;
    *bad_index = SIZE_MAX;
    *out = (scd_cell){0};
    work w = {
        .config = config, .vocab = vocab, .kind = kind, .in = in, .used = scd_vocab_used(vocab)};
    if (in->n > UINT32_MAX)
        return scd_fail(err, SCD_E_TOO_LARGE, "%zu values in one cell, at most 2^32 - 1", in->n);
    scd_code code = kind == SCD_INPUT_COUNTS ? scan_counts(&w, out, bad_index, err)
                                             : scan_log1p(&w, out, bad_index, err);
    if (code)
        return code;
    for (size_t i = 0; i < N_LOGS; i++)
        w.logs[i] = NAN;
    if (w.n_positive && (code = build(&w, arena, out, err)))
        return code;
    if (!out->n_tokens && in->may_be_blank)
        return SCD_OK;
    if (!out->n_tokens && out->genes_unwanted)
        return scd_fail(err, SCD_E_INVALID,
                        "none of its %zu expressed genes was measured by the training data",
                        out->genes_unwanted);
    if (!out->n_tokens)
        return scd_fail(err, SCD_E_INVALID,
                        "no known gene with a value above 0 (%zu genes known, %zu unknown)",
                        out->genes_known, out->genes_unknown);
    return SCD_OK;
}
