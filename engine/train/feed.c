/* feed.c - see feed.h.
 *
 * Blocks are cut from the list as it is, kept cells or not, so that a block is near one another on
 * disk; those without a kept cell do not take part. What is drawn at position n follows from n, the
 * options and the corpus: epoch n / E, the epoch's permutation of blocks, the window that holds the
 * position, the window's permutation of cells.
 *
 * Threads: one. Owns: the window's cells and the orders; the corpus and `keep` are borrowed. */
#include "engine/train/feed.h"

#include "engine/base/mem.h"
#include "engine/base/rng.h"

#include <stdlib.h>
#include <string.h>

enum { BLOCK_CELLS = 256, WINDOW_BLOCKS = 32, GAP_CELLS = 16 };

/* Streams of the generator: a kind in the upper bits, an epoch in the lower ones. */
#define STREAM_BLOCKS (UINT64_C(0xfeed0001) << 32)
#define STREAM_CELLS (UINT64_C(0xfeed0002) << 32)

struct scd_feed {
    scd_corpus *corpus;
    scd_feed_options options;
    size_t n_corpus, n_epoch, n_blocks;
    size_t *blocks;    /* (n_blocks) blocks with a kept cell, in the order of `epoch` */
    uint32_t *n_kept;  /* (all blocks) */
    uint64_t position; /* of the next draw */
    uint64_t epoch;    /* whose order `blocks` has */
    bool has_order;
    /* the window */
    uint64_t from; /* the position of its first draw */
    size_t n;      /* its cells; 0: none is loaded */
    scd_arena arena;
    scd_corpus_cell *cells; /* (window_blocks * block_cells) in the order of their draw */
    scd_corpus_cell *read;  /* likewise: as they come from the files */
    size_t *indices, *order;
};

/* ---- orders ---------------------------------------------------------------------------------- */

/* Fisher and Yates: the exchange of place i by block first + i of the stream. */
static void shuffle(size_t *items, size_t n, uint64_t seed, uint64_t stream, uint64_t first)
{
    __extension__ typedef unsigned __int128 u128;
    for (size_t i = n; i > 1; i--) {
        uint32_t words[4];
        scd_rng_block(seed, stream, first + i, words);
        uint64_t word = (uint64_t)words[0] << 32 | words[1];
        size_t j = (size_t)((u128)word * i >> 64); /* below i, to one part in 2^64 / i */
        size_t other = items[j];
        items[j] = items[i - 1];
        items[i - 1] = other;
    }
}

static size_t n_all_blocks(const scd_feed *feed)
{
    size_t size = feed->options.block_cells;
    return feed->n_corpus / size + (feed->n_corpus % size > 0);
}

static void order_blocks(scd_feed *feed, uint64_t epoch)
{
    if (feed->has_order && feed->epoch == epoch)
        return;
    size_t n = 0;
    for (size_t b = 0; b < n_all_blocks(feed); b++)
        if (feed->n_kept[b])
            feed->blocks[n++] = b;
    if (feed->options.shuffle)
        shuffle(feed->blocks, n, feed->options.seed, STREAM_BLOCKS | (epoch & UINT32_MAX), 0);
    feed->epoch = epoch;
    feed->has_order = true;
}

/* ---- the window ------------------------------------------------------------------------------ */

static bool is_kept(const scd_feed *feed, size_t cell)
{
    return !feed->options.keep || feed->options.keep[cell];
}

/* The kept cells of a block, by stretches that are near one another. */
static scd_code read_block(scd_feed *feed, size_t block, scd_error *err)
{
    size_t size = feed->options.block_cells, first = block * size;
    size_t end = size < feed->n_corpus - first ? first + size : feed->n_corpus;
    while (first < end) {
        if (!is_kept(feed, first)) {
            first++;
            continue;
        }
        size_t last = first; /* the last kept cell of the stretch */
        for (size_t i = first + 1; i < end && i - last <= GAP_CELLS; i++)
            if (is_kept(feed, i))
                last = i;
        size_t n = last + 1 - first, n_drawn = feed->n;
        scd_corpus_cell *at = feed->read + n_drawn;
        scd_code code = scd_corpus_read(feed->corpus, first, n, &feed->arena, at, err);
        if (code)
            return code;
        for (size_t i = 0; i < n; i++) {
            if (!is_kept(feed, first + i))
                continue;
            feed->read[feed->n] = at[i];
            feed->indices[feed->n++] = first + i;
        }
        first = last + 1;
    }
    return SCD_OK;
}

static int by_number(const void *a, const void *b)
{
    size_t x = *(const size_t *)a, y = *(const size_t *)b;
    return (x > y) - (x < y);
}

/* The blocks [first, first + n) of the epoch's order. They are read in the order of the files,
 * which opens each file once; what is drawn does not depend on that order. */
static scd_code load(scd_feed *feed, size_t first, size_t n_blocks, scd_error *err)
{
    scd_code code = SCD_OK;
    size_t *blocks = feed->order; /* as scratch; a window has at most as many blocks as cells */
    scd_arena_release(&feed->arena);
    feed->n = 0;
    memcpy(blocks, feed->blocks + first, n_blocks * sizeof *blocks);
    qsort(blocks, n_blocks, sizeof *blocks, by_number);
    for (size_t b = 0; b < n_blocks && !code; b++)
        code = read_block(feed, blocks[b], err);
    if (code) {
        feed->n = 0;
        return code;
    }
    for (size_t i = 0; i < feed->n; i++)
        feed->order[i] = i;
    if (feed->options.shuffle)
        shuffle(feed->order, feed->n, feed->options.seed, STREAM_CELLS | (feed->epoch & UINT32_MAX),
                (uint64_t)first << 32);
    for (size_t i = 0; i < feed->n; i++)
        feed->cells[i] = feed->read[feed->order[i]];
    for (size_t i = 0; i < feed->n; i++) /* each cell was copied: `order` may become numbers */
        feed->order[i] = feed->indices[feed->order[i]];
    memcpy(feed->indices, feed->order, feed->n * sizeof *feed->indices);
    return SCD_OK;
}

/* Load the window that holds feed->position. */
static scd_code find_window(scd_feed *feed, scd_error *err)
{
    uint64_t epoch = feed->position / feed->n_epoch, at = epoch * feed->n_epoch;
    order_blocks(feed, epoch);
    for (size_t first = 0; first < feed->n_blocks; first += feed->options.window_blocks) {
        size_t left = feed->n_blocks - first, n_cells = 0;
        size_t n = left < feed->options.window_blocks ? left : feed->options.window_blocks;
        for (size_t b = 0; b < n; b++)
            n_cells += feed->n_kept[feed->blocks[first + b]];
        if (feed->position < at + n_cells) {
            feed->from = at;
            return load(feed, first, n, err);
        }
        at += n_cells;
    }
    return scd_fail(err, SCD_E_INTERNAL, "feed: no window holds position %llu",
                    (unsigned long long)feed->position);
}

/* ---- the interface --------------------------------------------------------------------------- */

static bool allocate(scd_feed *feed)
{
    size_t room, n = n_all_blocks(feed);
    if (!scd_size_mul(feed->options.block_cells, feed->options.window_blocks, &room))
        return false;
    room = room < feed->n_corpus ? room : feed->n_corpus;
    feed->blocks = scd_malloc(n, sizeof *feed->blocks);
    feed->n_kept = scd_calloc(n, sizeof *feed->n_kept);
    feed->cells = scd_malloc(room, sizeof *feed->cells);
    feed->read = scd_malloc(room, sizeof *feed->read);
    feed->indices = scd_malloc(room, sizeof *feed->indices);
    feed->order = scd_malloc(room, sizeof *feed->order);
    return feed->blocks && feed->n_kept && feed->cells && feed->read && feed->indices &&
           feed->order;
}

scd_code scd_feed_new(scd_corpus *corpus, const scd_feed_options *options, scd_feed **out,
                      scd_error *err)
{
    *out = NULL;
    scd_feed *feed = scd_calloc(1, sizeof *feed);
    if (!feed)
        return scd_fail(err, SCD_E_NOMEM, "feed: out of memory");
    feed->corpus = corpus;
    feed->n_corpus = scd_corpus_n_cells(corpus);
    feed->options = *options;
    feed->options.block_cells = options->block_cells ? options->block_cells : BLOCK_CELLS;
    feed->options.window_blocks = options->window_blocks ? options->window_blocks : WINDOW_BLOCKS;
    scd_arena_init(&feed->arena, SIZE_MAX / 2);
    if (!allocate(feed)) {
        scd_fail(err, SCD_E_NOMEM, "feed: out of memory for a window of %zu x %zu cells",
                 feed->options.window_blocks, feed->options.block_cells);
        scd_feed_free(feed);
        return SCD_E_NOMEM;
    }
    for (size_t i = 0; i < feed->n_corpus; i++)
        if (is_kept(feed, i)) {
            feed->n_blocks += !feed->n_kept[i / feed->options.block_cells]++;
            feed->n_epoch++;
        }
    if (!feed->n_epoch) {
        scd_feed_free(feed);
        return scd_fail(err, SCD_E_INVALID, "none of the %zu cells is left to draw from",
                        scd_corpus_n_cells(corpus));
    }
    *out = feed;
    return SCD_OK;
}

void scd_feed_free(scd_feed *feed)
{
    if (!feed)
        return;
    scd_arena_release(&feed->arena);
    free(feed->order);
    free(feed->indices);
    free(feed->read);
    free(feed->cells);
    free(feed->n_kept);
    free(feed->blocks);
    free(feed);
}

size_t scd_feed_epoch_cells(const scd_feed *feed)
{
    return feed->n_epoch;
}

scd_code scd_feed_next(scd_feed *feed, const scd_corpus_cell **cell, size_t *index, scd_error *err)
{
    if (!feed->n || feed->position < feed->from || feed->position >= feed->from + feed->n) {
        scd_code code = find_window(feed, err);
        if (code)
            return code;
    }
    size_t at = (size_t)(feed->position++ - feed->from);
    *cell = &feed->cells[at];
    *index = feed->indices[at];
    return SCD_OK;
}

scd_code scd_feed_seek(scd_feed *feed, uint64_t n_drawn, scd_error *err)
{
    if (n_drawn > UINT64_MAX - feed->n_epoch)
        return scd_fail(err, SCD_E_INVALID, "position %llu: out of range",
                        (unsigned long long)n_drawn);
    feed->position = n_drawn;
    return SCD_OK;
}

size_t scd_feed_window(const scd_feed *feed, const scd_corpus_cell **cells, const size_t **indices)
{
    *cells = feed->cells;
    *indices = feed->indices;
    return feed->n;
}
