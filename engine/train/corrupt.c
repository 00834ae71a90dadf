/* corrupt.c - see corrupt.h. */
#include "engine/train/corrupt.h"

#include "engine/base/rng.h"

#include <math.h>
#include <stdlib.h>

/* Streams of the generator: one for the numbers of cells, one for each draw's tokens. The top byte
 * keeps them apart from the streams of weights, which count from 0. */
#define CELL_STREAM (UINT64_C(0xC1) << 56)
#define TOKEN_STREAM (UINT64_C(0xC2) << 56)
#define LEFT_AS_IS 0.1

typedef struct token {
    int32_t id;
    uint32_t words[3]; /* membership of M, what is hidden, random order */
    float clean;
    double seen;
} token;

/* Uniform in [0, 1), 32 bits. */
static double unit(uint32_t word)
{
    return word * 0x1p-32;
}

scd_code scd_clean_cell_of(const scd_corpus_cell *cell, scd_arena *arena, scd_clean_cell *out,
                           scd_error *err)
{
    int32_t *ids = scd_arena_alloc(arena, cell->n, sizeof *ids);
    float *values = scd_arena_alloc(arena, cell->n, sizeof *values);
    size_t n = 0;
    if (!ids || !values)
        return scd_fail(err, SCD_E_NOMEM, "out of memory for a cell of %zu genes", cell->n);
    for (size_t i = 0; i < cell->n; i++) {
        float x = cell->kind == SCD_INPUT_COUNTS
                      ? (float)log1p(1e4 * (double)cell->values[i] / cell->total)
                      : cell->values[i];
        if (!(x > 0))
            continue;
        ids[n] = cell->tokens[i];
        values[n++] = x;
    }
    *out = (scd_clean_cell){n, ids, values};
    return SCD_OK;
}

/* ---- order ----------------------------------------------------------------------------------- */

static int by_id(const void *a, const void *b)
{
    const token *x = a, *y = b;
    return (x->id > y->id) - (x->id < y->id);
}

static int by_order_word(const void *a, const void *b)
{
    const token *x = a, *y = b;
    if (x->words[2] != y->words[2])
        return x->words[2] < y->words[2] ? -1 : 1;
    return by_id(a, b);
}

/* `tokens` (n, by id) in model order and cut at MAX_GENE_LEN: *out (*n_out) in the arena. */
static scd_code order(const scd_model_config *config, const scd_vocab *vocab, bool random_order,
                      const token *tokens, size_t n, scd_arena *arena, token **out, size_t *n_out,
                      scd_error *err)
{
    int32_t *ids = scd_arena_alloc(arena, n, sizeof *ids);
    double *values = scd_arena_alloc(arena, n, sizeof *values);
    *out = scd_arena_alloc(arena, n, sizeof **out);
    if (!ids || !values || !*out)
        return scd_fail(err, SCD_E_NOMEM, "out of memory for a cell of %zu genes", n);
    for (size_t i = 0; i < n; i++) {
        ids[i] = tokens[i].id;
        values[i] = tokens[i].seen;
    }
    scd_cell cell;
    const scd_cell_values in = {.n = n, .tokens = ids, .values = values};
    scd_code code =
        scd_cell_serialize(config, vocab, SCD_INPUT_LOG1P_CP10K, &in, arena, &cell, NULL, err);
    if (code)
        return code;
    for (size_t i = 0; i < cell.n_tokens; i++) {
        const token key = {.id = cell.ids[i]};
        (*out)[i] = *(const token *)bsearch(&key, tokens, n, sizeof key, by_id);
    }
    *n_out = cell.n_tokens;
    if (random_order)
        qsort(*out, *n_out, sizeof **out, by_order_word);
    return SCD_OK;
}

/* ---- what is hidden -------------------------------------------------------------------------- */

static void hide(const scd_corrupt_options *o, const token *t, double rate, uint8_t *hidden,
                 uint8_t *target)
{
    *hidden = *target = 0;
    if (!(unit(t->words[0]) < rate))
        return;
    double u = unit(t->words[1]);
    *target = SCD_TARGET_VALUE;
    if (u < o->value_only) {
        *hidden = SCD_HIDE_VALUE;
        return;
    }
    *target |= SCD_TARGET_GENE;
    /* What is left of u is uniform again over what value_only leaves. */
    if (o->rate > 0 || u - o->value_only >= LEFT_AS_IS * (1 - o->value_only))
        *hidden = SCD_HIDE_GENE | SCD_HIDE_VALUE;
}

static scd_code emit(const scd_corrupt_options *o, const token *tokens, size_t n, double rate,
                     scd_arena *arena, scd_corrupted *out, scd_error *err)
{
    int32_t *ids = scd_arena_alloc(arena, n, sizeof *ids);
    float *clean = scd_arena_alloc(arena, n, sizeof *clean);
    float *seen = scd_arena_alloc(arena, n, sizeof *seen);
    uint8_t *hidden = scd_arena_alloc(arena, n, 1);
    uint8_t *target = scd_arena_alloc(arena, n, 1);
    if (!ids || !clean || !seen || !hidden || !target)
        return scd_fail(err, SCD_E_NOMEM, "out of memory for a cell of %zu genes", n);
    for (size_t i = 0; i < n; i++) {
        ids[i] = tokens[i].id;
        clean[i] = tokens[i].clean;
        seen[i] = (float)tokens[i].seen;
        hide(o, &tokens[i], rate, &hidden[i], &target[i]);
        out->n_value += (target[i] & SCD_TARGET_VALUE) != 0;
        out->n_gene += (target[i] & SCD_TARGET_GENE) != 0;
    }
    out->sequence = (scd_sequence){n, ids, seen, hidden, target, clean};
    return SCD_OK;
}

scd_code scd_corrupt(const scd_corrupt_options *o, const scd_model_config *config,
                     const scd_vocab *vocab, const scd_clean_cell *cell, uint64_t draw,
                     scd_arena *arena, scd_corrupted *out, scd_error *err)
{
    uint32_t words[4]; /* t, s */
    *out = (scd_corrupted){0};
    if (!cell->n)
        return SCD_OK;
    scd_rng_block(o->seed, CELL_STREAM, draw, words);
    double t = unit(words[0]), rate = o->rate > 0 ? o->rate : t < 1e-6 ? 1e-6 : t;
    double scale = o->depth_min + (1 - o->depth_min) * unit(words[1]);

    token *tokens = scd_arena_alloc(arena, cell->n, sizeof *tokens), *ordered;
    size_t n = 0;
    if (!tokens)
        return scd_fail(err, SCD_E_NOMEM, "out of memory for a cell of %zu genes", cell->n);
    for (size_t i = 0; i < cell->n; i++) {
        uint32_t drawn[4];
        scd_rng_block(o->seed, TOKEN_STREAM | draw, (uint64_t)cell->ids[i], drawn);
        float x = cell->values[i];
        tokens[i] = (token){.id = cell->ids[i],
                            .words = {drawn[0], drawn[1], drawn[2]},
                            .clean = x,
                            .seen = scale < 1 ? (float)log1p(scale * expm1((double)x)) : x};
    }
    qsort(tokens, cell->n, sizeof *tokens, by_id);
    scd_code code =
        order(config, vocab, o->random_order, tokens, cell->n, arena, &ordered, &n, err);
    if (code)
        return code;
    out->n_truncated = cell->n - n;
    return emit(o, ordered, n, rate, arena, out, err);
}
