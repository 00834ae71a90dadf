/* pack.h - cells become micro-batches of the net: rows, positions and targets, without padding.
 *
 * Threads: one. Owns: its arrays, until free. */
#ifndef SCD_TRAIN_PACK_H
#define SCD_TRAIN_PACK_H

#include "engine/train/net.h"

enum { SCD_TARGET_GENE = 1, SCD_TARGET_VALUE = 2 };

/* One training sequence: tokens in model order. */
typedef struct scd_sequence {
    size_t n;              /* tokens, without [LAT] */
    const int32_t *ids;    /* (n) true genes */
    const float *values;   /* (n) what the model sees */
    const uint8_t *hidden; /* (n) SCD_HIDE_*; NULL: nothing hidden */
    const uint8_t *target; /* (n) SCD_TARGET_*: membership of M; NULL: no targets */
    const float *clean;    /* (n) value targets; NULL without targets */
} scd_sequence;

typedef struct scd_pack scd_pack;

scd_code scd_pack_new(size_t max_rows, scd_pack **out, scd_error *err);
void scd_pack_free(scd_pack *pack);
void scd_pack_clear(scd_pack *pack);
/* Copies the sequence in; false where it does not fit any more. */
bool scd_pack_add(scd_pack *pack, const scd_sequence *sequence);
/* What was added since clear; borrowed until the next add or clear. */
const scd_net_batch *scd_pack_batch(const scd_pack *pack);

#endif
