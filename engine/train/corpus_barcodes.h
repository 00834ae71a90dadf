/* corpus_barcodes.h - the names of all cells, without reading what they express.
 *
 * Threads: one at a time. Owns: nothing; the list lives in the caller's arena. */
#ifndef SCD_TRAIN_CORPUS_BARCODES_H
#define SCD_TRAIN_CORPUS_BARCODES_H

#include "engine/train/corpus.h"

typedef struct scd_corpus_barcode {
    const char *text; /* "" where the file has none */
    uint32_t file;
    size_t cell; /* its number in the list; SIZE_MAX: it is left out (scd_corpus_options.exclude) */
} scd_corpus_barcode;

/* One for each row of every file, in order. SCD_E_NOMEM, SCD_E_IO. */
scd_code scd_corpus_barcodes(scd_corpus *corpus, scd_arena *arena, scd_corpus_barcode **out,
                             size_t *n, scd_error *err);

#endif
