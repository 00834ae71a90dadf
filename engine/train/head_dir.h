/* head_dir.h - the folder of a head while it is made: heads/.NAME, which nobody takes for a head,
 * becomes heads/NAME when everything in it is whole; nothing whole is overwritten unasked.
 *
 * Threads: main. Owns: its paths and a lock on the folder, until release. */
#ifndef SCD_TRAIN_HEAD_DIR_H
#define SCD_TRAIN_HEAD_DIR_H

#include "engine/base/buf.h"
#include "engine/base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct scd_head_dir {
    char *hidden, *final; /* heads/.NAME and heads/NAME */
    int lock;
} scd_head_dir;

/* SCD_E_INVALID: no plain folder name, or too long for one. */
scd_code scd_head_name_check(const char *name, scd_error *err);

/* For a name that was checked. SCD_E_INVALID: a head of this name is there, without `force`. */
scd_code scd_head_dir_name(const char *model_dir, const char *name, bool force, scd_head_dir *out,
                           scd_error *err);
/* Make and lock the hidden folder: after everything that input can be wrong about, so that a
 * refusal leaves no folder behind. SCD_E_BUSY: another run has it. */
scd_code scd_head_dir_open(scd_head_dir *dir, const char *model_dir, scd_error *err);
/* The hidden folder takes the head's name; a head that was there is exchanged for it, then removed.
 * `scratch` (or NULL) is a file of the run that does not stay. */
scd_code scd_head_dir_publish(const scd_head_dir *dir, const char *scratch, scd_error *err);
void scd_head_dir_release(scd_head_dir *dir);

/* The member "genes" of head.json and the comma after it: tokens that are marked in measured
 * (vocab), as ranges [first, past). */
void scd_head_put_genes(scd_buf *out, const uint8_t *measured, size_t vocab);

/* a/b, or a/b/c where c is not empty; free() it. NULL: out of memory. */
char *scd_path_join(const char *a, const char *b, const char *c);

#endif
