/* model_dir.h - the folder of a new model while it is made: .NAME.partial beside OUT, which nobody
 * takes for a model, becomes OUT when everything in it is whole; nothing is overwritten.
 *
 * Threads: main. Owns: its paths and a lock on the folder, until release. */
#ifndef SCD_TRAIN_MODEL_DIR_H
#define SCD_TRAIN_MODEL_DIR_H

#include "engine/base/error.h"

typedef struct scd_model_dir {
    char *hidden, *final;
    int lock; /* -1: none */
} scd_model_dir;

/* SCD_E_INVALID: `out` names no folder that could be new, or something is there already (an empty
 * folder is nothing). */
scd_code scd_model_dir_name(const char *out, scd_model_dir *dir, scd_error *err);
/* Make and lock the hidden folder, and remove what a killed run left half-written there: after
 * everything that input can be wrong about, so that a refusal leaves no folder behind. SCD_E_BUSY:
 * another run has it; SCD_E_INVALID: it holds what no run has put there. */
scd_code scd_model_dir_open(scd_model_dir *dir, scd_error *err);
/* Without the run's own file `scratch` it takes the final name, durably. */
scd_code scd_model_dir_publish(const scd_model_dir *dir, const char *scratch, scd_error *err);
void scd_model_dir_release(scd_model_dir *dir);

#endif
