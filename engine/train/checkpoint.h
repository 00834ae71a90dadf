/* checkpoint.h - the whole state of a run in one file that is complete or not there.
 *
 * Written beside the final name, fsynced, renamed; ends with the SHA-256 of all before it, so a
 * damaged one is never resumed. Holds: a fingerprint of everything that fixes the run (verb,
 * options, model config, genes, data: a SHA-256 the verb makes), the step, the feed's position, a
 * few numbers of the verb's own, and float arrays (parameters, moments; a head's too).
 *
 * Threads: any; no state. */
#ifndef SCD_TRAIN_CHECKPOINT_H
#define SCD_TRAIN_CHECKPOINT_H

#include "engine/base/hash.h"

enum { SCD_CHECKPOINT_NUMBERS = 16, SCD_CHECKPOINT_ARRAYS = 12 };

typedef struct scd_checkpoint {
    scd_digest fingerprint;
    uint64_t step, drawn;                   /* optimizer steps done; cells drawn from the feed */
    double numbers[SCD_CHECKPOINT_NUMBERS]; /* the verb's: best score, patience, ... */
    size_t n_arrays;
    struct {
        float *data;
        size_t n;
    } arrays[SCD_CHECKPOINT_ARRAYS];
} scd_checkpoint;

/* SCD_E_IO names path and reason (a full disk leaves the old checkpoint as it was). */
scd_code scd_checkpoint_write(const char *path, const scd_checkpoint *checkpoint, scd_error *err);

/* Fills in everything; arrays must be given with the sizes expected and room for them.
 * SCD_E_NOT_FOUND: no such file; SCD_E_CORRUPT: damaged or cut short; SCD_E_INVALID: of another run
 * (fingerprint or sizes differ): says to remove it or choose another --out. */
scd_code scd_checkpoint_read(const char *path, scd_checkpoint *checkpoint, scd_error *err);

#endif
