/* op_gene_pick.cu - which genes a row may be: softmax over the vocabulary and the best of it.
 *
 * ROWS rows at a time: one product makes their logits, and a block takes a row. A thread goes
 * through groups of four genes, THREADS groups apart: first the running maximum and sum of
 * exp(logit - m) (Milakov & Gimelshein 2018), and the key of each gene - its logit, with noise
 * where the temperature asks for it -; then the best keys one by one: every thread offers the best
 * of its own that was not taken, the block takes the best of these, and its owner looks for the
 * next.
 *
 * All orders are fixed, and how many rows go at a time is nothing a row's bits know of. */
#include "engine/cuda/gpu.cuh"
#include "engine/cuda/philox.h"

enum { THREADS = 256, WARPS = THREADS / SCD_WARP, GROUP = 4, STRIDE = THREADS * GROUP };
static const size_t ROWS = 128;

typedef struct pick_space {
    void *x;       /* (ROWS, H) act */
    float *logits; /* (ROWS, V) */
    float *keys;   /* (ROWS, V) */
} pick_space;

static size_t carve(char *base, const scd_matrix *w, size_t act, pick_space *s)
{
    size_t used = 0;
    s->x = scd_cuda_carve(base, &used, ROWS * w->cols, act);
    s->logits = (float *)scd_cuda_carve(base, &used, ROWS * w->part_rows, sizeof(float));
    s->keys = (float *)scd_cuda_carve(base, &used, ROWS * w->part_rows, sizeof(float));
    return used;
}

typedef struct pick_args {
    const scd_pick_row *of; /* of the rows at hand, as all below */
    const uint32_t *sets;
    size_t n_sets, vocab, words;
    float *logits, *keys; /* (rows, V) */
    float *lse;
    int32_t *genes;
    float *best_logits;
    volatile uint32_t *fault;
} pick_args;

/* A key and its gene; genes are below 2^24, so that a float holds them for a shuffle. */
typedef struct offer {
    float key, gene;
} offer;

/* Whether a stands before b: the larger key, of equals the lower id. */
SCD_DEVICE bool before(offer a, offer b)
{
    return a.key > b.key || (a.key == b.key && a.gene < b.gene);
}

/* The best offer of the block, for all its threads. Shared: (WARPS) offers. */
SCD_DEVICE offer block_best(offer mine, offer *of_warps)
{
    for (int mask = SCD_WARP / 2; mask; mask /= 2) {
        offer other;
        other.key = gpu_shfl_xor(mine.key, mask);
        other.gene = gpu_shfl_xor(mine.gene, mask);
        if (before(other, mine))
            mine = other;
    }
    gpu_sync_block(); /* what was there is read */
    if (threadIdx.x % SCD_WARP == 0)
        of_warps[threadIdx.x / SCD_WARP] = mine;
    gpu_sync_block();
    mine = of_warps[0];
    for (int w = 1; w < WARPS; w++)
        if (before(of_warps[w], mine))
            mine = of_warps[w];
    return mine;
}

/* Logits become what the set allows, keys are made; the thread's own maximum and sum. */
SCD_DEVICE void make_keys(const pick_args &a, const scd_pick_row &of, float *y, float *keys,
                          float *m, float *l)
{
    const uint32_t *set = a.sets + of.set * a.words;
    for (size_t first = threadIdx.x * GROUP; first < a.vocab; first += STRIDE) {
        uint32_t words[GROUP] = {0, 0, 0, 0};
        if (of.temperature > 0.0f)
            scd_philox(of.seed, of.stream, of.block + first / GROUP, words);
        for (size_t k = 0; k < GROUP && first + k < a.vocab; k++) {
            size_t j = first + k;
            bool allowed = set[j / 32] >> j % 32 & 1;
            float logit = allowed ? y[j] : -INFINITY, key = logit;
            if (allowed && of.temperature > 0.0f)
                key += of.temperature * scd_gumbel(words[k]);
            y[j] = logit;
            keys[j] = key;
            if (logit > *m) {
                *l *= expf(*m - logit);
                *m = logit;
            }
            *l += allowed ? expf(logit - *m) : 0.0f;
        }
    }
}

/* The best of the thread's own that stands behind `taken`. */
SCD_DEVICE offer next_of_mine(const float *keys, size_t vocab, offer taken)
{
    offer best = {-INFINITY, (float)vocab};
    for (size_t first = threadIdx.x * GROUP; first < vocab; first += STRIDE)
        for (size_t k = 0; k < GROUP && first + k < vocab; k++) {
            offer o = {keys[first + k], (float)(first + k)};
            if (before(taken, o) && before(o, best))
                best = o;
        }
    return best;
}

/* The sum of exp over the block, relative to the largest maximum; thread 0's answer is the row's
 * lse. Shared: (THREADS) floats. */
SCD_DEVICE float block_lse(float m, float l, float *shared)
{
    shared[threadIdx.x] = m;
    gpu_sync_block();
    float top = -INFINITY;
    for (int t = 0; t < THREADS; t++)
        top = fmaxf(top, shared[t]);
    gpu_sync_block();
    shared[threadIdx.x] = top > -INFINITY ? l * expf(m - top) : 0.0f;
    for (unsigned n = THREADS / 2; n; n /= 2) {
        gpu_sync_block();
        if (threadIdx.x < n)
            shared[threadIdx.x] += shared[threadIdx.x + n];
    }
    return threadIdx.x == 0 ? top + logf(shared[0]) : 0.0f;
}

SCD_KERNEL_OF(THREADS) pick_rows(pick_args a)
{
    float *sums = (float *)gpu_shared();
    offer *of_warps = (offer *)(sums + THREADS);
    size_t row = blockIdx.x, at = row * SCD_PICK_TOP;
    float *y = a.logits + row * a.vocab, *keys = a.keys + row * a.vocab;
    scd_pick_row of = a.of[row];
    float m = -INFINITY, l = 0.0f;
    if (of.set >= a.n_sets) {
        *a.fault = SCD_FAULT_SET;
        of.set = 0;
    }
    make_keys(a, of, y, keys, &m, &l);
    float lse = block_lse(m, l, sums);
    if (threadIdx.x == 0)
        a.lse[row] = lse;
    const offer nothing_yet = {INFINITY, -1.0f};
    offer mine = next_of_mine(keys, a.vocab, nothing_yet);
    for (int k = 0; k < SCD_PICK_TOP; k++) {
        offer best = block_best(mine, of_warps);
        bool real = best.key > -INFINITY;
        if (real && best.gene == mine.gene) { /* mine: I know its logit */
            a.genes[at + (size_t)k] = (int32_t)best.gene;
            a.best_logits[at + (size_t)k] = y[(size_t)best.gene];
            mine = next_of_mine(keys, a.vocab, best);
        } else if (!real && threadIdx.x == 0) {
            a.genes[at + (size_t)k] = -1;
            a.best_logits[at + (size_t)k] = -INFINITY;
        }
    }
}

/* Rows [first, first + n). */
static scd_code some_rows(scd_device *device, const scd_gene_pick_args *a, const pick_space *s,
                          size_t first, size_t n, scd_error *err)
{
    const void *x;
    pick_args p = {};
    p.of = a->of + first;
    p.sets = a->sets;
    p.n_sets = a->n_sets;
    p.vocab = a->vocab;
    p.words = scd_pick_words(a->vocab);
    p.logits = s->logits;
    p.keys = s->keys;
    p.lse = a->lse + first;
    p.genes = a->genes + first * SCD_PICK_TOP;
    p.best_logits = a->logits + first * SCD_PICK_TOP;
    p.fault = device->fault;
    scd_code code =
        scd_cuda_rows_act(device, a->x + first * a->hidden_dim, n, a->hidden_dim, s->x, &x, err);
    if (!code)
        code = scd_cuda_product(device, a->w, 0, 1, x, n, false, s->logits, 0, err);
    size_t shared = THREADS * sizeof(float) + WARPS * sizeof(offer);
    return code ? code : SCD_LAUNCH(device, err, pick_rows, n, THREADS, shared, p);
}

scd_code scd_cuda_gene_pick(scd_device *device, const scd_gene_pick_args *args, scd_error *err)
{
    const scd_matrix *w = args->w;
    pick_space s;
    if (w->n_parts != 1 || w->cols != args->hidden_dim || w->part_rows != args->vocab)
        return scd_fail(err, SCD_E_INVALID, "gene_pick: the matrix is %zu x %zu, not %zu x %zu",
                        w->n_parts * w->part_rows, w->cols, args->vocab, args->hidden_dim);
    if (args->vocab >= (size_t)1 << 24)
        return scd_fail(err, SCD_E_INVALID, "gene_pick: a vocabulary of %zu", args->vocab);
    scd_code code = scd_gpu_enter(device->gpu, err);
    if (!code)
        code = scd_cuda_scratch_want(device, carve(NULL, w, device->act, &s), err);
    carve(device->scratch, w, device->act, &s);
    for (size_t at = 0; at < args->rows && !code; at += ROWS)
        code =
            some_rows(device, args, &s, at, args->rows - at < ROWS ? args->rows - at : ROWS, err);
    return code;
}
