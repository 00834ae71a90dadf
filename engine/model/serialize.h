/* serialize.h - one cell's resolved genes and values become the model's token sequence.
 *
 * SPEC sections 1 ("Entropy-normalised serialization") and 2: value = ln(1 + 1e4 count / total) in
 * float64, rounded to float32; several inputs on one token are summed (counts) or combined in count
 * space (log1p); zero values are not tokens; score = x / (H + 1e-6) in float32, descending, ties by
 * token id ascending, cut at MAX_GENE_LEN.
 *
 * Threads: any. Owns: nothing; results live in the caller's arena. */
#ifndef SCD_MODEL_SERIALIZE_H
#define SCD_MODEL_SERIALIZE_H

#include "engine/base/arena.h"
#include "engine/model/vocab.h"

typedef enum scd_input_kind { SCD_INPUT_COUNTS, SCD_INPUT_LOG1P_CP10K } scd_input_kind;

typedef struct scd_cell_values {
    size_t n;             /* inputs of this cell */
    const int32_t *tokens; /* (n) resolved token, -1: unknown */
    const double *values; /* (n) */
    double total;         /* counts: total of the cell; 0: the sum of all values given */
    const uint8_t *wanted; /* (vocab) tokens to keep, 0: left out, as those are that the vocabulary
                              does not use; NULL: all. Totals are over all */
    bool may_be_blank;     /* a cell without a positive value is one without tokens, and no fault */
} scd_cell_values;

typedef struct scd_cell {
    size_t n_tokens;
    int32_t *ids;    /* (n_tokens) in model order */
    float *values;   /* (n_tokens) */
    size_t genes_known, genes_unknown; /* inputs (not tokens) with a value above 0 or not */
    size_t genes_truncated;            /* tokens cut at MAX_GENE_LEN */
    size_t genes_unwanted;             /* known inputs with a value above 0, left out */
    double mapped_counts, given_counts; /* in count space; their ratio is the fraction mapped */
} scd_cell;

/* SCD_E_INVALID: NaN, infinity, negative, fractional counts, log1p above ln(1 + 1e4), a total below
 * the sum of its counts, no known (and wanted) gene with a positive value (but see may_be_blank).
 * *bad_index (may be NULL) is the offending input, or SIZE_MAX where none is to blame.
 * SCD_E_NOMEM. */
scd_code scd_cell_serialize(const scd_model_config *config, const scd_vocab *vocab,
                            scd_input_kind kind, const scd_cell_values *in, scd_arena *arena,
                            scd_cell *out, size_t *bad_index, scd_error *err);

#endif
