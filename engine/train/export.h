/* export.h - the parts of `scdiva-train export`; only export*.c include it.
 *
 *   export.c        the verb: options, folders, publication
 *   export_write.c  weights, config.json, genes.tsv, card.md
 *   export_heads.c  which heads go along, bound to the new digest
 *
 * Threads: main. Owns: the run owns everything in it; export.c releases it. */
#ifndef SCD_TRAIN_EXPORT_H
#define SCD_TRAIN_EXPORT_H

#include "engine/model/model.h"
#include "engine/train/options.h"

enum { SCD_EXPORT_PATH = 4400, SCD_EXPORT_DTYPES = 3, SCD_EXPORT_KEPT = SCD_EXPORT_DTYPES };

typedef struct scd_export {
    /* as given */
    const char *from, *out, *dtype_name; /* dtype_name NULL: every tensor keeps its own */
    scd_option_list head_names;
    bool no_heads, force, has_lengths;

    size_t dtype;                /* an scd_dtype, or SCD_EXPORT_KEPT */
    char stage[SCD_EXPORT_PATH]; /* the folder that is written to; "" while there is none */
    int dir_lock;
    bool made_out;
    scd_model *model;
    scd_digest old_digest, new_digest;
    char **heads; /* (n_heads) folders in the model, by name */
    size_t n_heads;
    /* what the weights were and what became of them */
    bool had[SCD_EXPORT_DTYPES];
    double max_change; /* largest distance of a weight from what it was */
    size_t n_unused;   /* tensors of the file that the model does not use, left out */
    bool is_converted, config_changed;
} scd_export;

/* "F32", "BF16"; of what was there "F32 and BF16". */
const char *scd_export_dtype_text(scd_dtype dtype);
void scd_export_had_text(const scd_export *run, char out[32]);

/* export_write.c: into the stage. Weights first: the card says what became of them; where there is
 * nothing to convert, the file is copied. SCD_E_INVALID: a weight that the dtype cannot hold. */
scd_code scd_export_weights(scd_export *run, scd_error *err);
scd_code scd_export_texts(scd_export *run, scd_error *err);
/* The file from/name to stage/name. */
scd_code scd_export_copy(const scd_export *run, const char *name, scd_error *err);

/* export_heads.c: which, before anything is written (SCD_E_NOT_FOUND names those there are,
 * SCD_E_INVALID one of another model); then into the stage, once new_digest is known. */
scd_code scd_export_choose_heads(scd_export *run, scd_error *err);
scd_code scd_export_heads(scd_export *run, scd_error *err);

#endif
