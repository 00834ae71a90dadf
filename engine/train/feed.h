/* feed.h - the cells of a corpus in a shuffled order that a seed fixes, through a bounded window.
 *
 * An epoch is a permutation of blocks of consecutive cells; a window of several blocks is held, and
 * its cells are drawn in shuffled order. Position n of a feed is a pure function of its options and
 * n, so a run resumes by seeking. Only cells that `keep` marks are drawn.
 *
 * Threads: one. Owns: the window's cells, until the next window is read. */
#ifndef SCD_TRAIN_FEED_H
#define SCD_TRAIN_FEED_H

#include "engine/train/corpus.h"

typedef struct scd_feed scd_feed;

typedef struct scd_feed_options {
    uint64_t seed;
    size_t block_cells;   /* 0: 256 */
    size_t window_blocks; /* 0: 32 */
    const uint8_t *keep;  /* (n_cells of the corpus): non-zero cells are drawn; NULL: all */
    bool shuffle;         /* false: file order, for evaluation */
} scd_feed_options;

/* SCD_E_INVALID: no cell is kept. The corpus (bound to a vocabulary) and `keep` are borrowed. */
scd_code scd_feed_new(scd_corpus *corpus, const scd_feed_options *options, scd_feed **out,
                      scd_error *err);
void scd_feed_free(scd_feed *feed);

size_t scd_feed_epoch_cells(const scd_feed *feed); /* kept cells: the length of an epoch */

/* The next cell; after an epoch's last the next epoch's first. *index is its number in the corpus.
 * The cell lives while it is in the window, that is at most until the next draw or seek: copy what
 * is kept longer. After an error the same draw may be tried again. */
scd_code scd_feed_next(scd_feed *feed, const scd_corpus_cell **cell, size_t *index, scd_error *err);
/* Draw from position n_drawn on (cells drawn since the feed was new). */
scd_code scd_feed_seek(scd_feed *feed, uint64_t n_drawn, scd_error *err);

/* All cells that are in the window now, in the order of their draw, and their numbers: partners for
 * summing. None before the first draw. Borrowed until the next draw. */
size_t scd_feed_window(const scd_feed *feed, const scd_corpus_cell **cells, const size_t **indices);

#endif
