/* labels_impl.h - what labels.c and labels_table.c share. Nothing else includes this.
 *
 * Threads: any. Owns: nothing. */
#ifndef SCD_TRAIN_LABELS_IMPL_H
#define SCD_TRAIN_LABELS_IMPL_H

#include "engine/train/labels.h"

scd_code scd_labels_no_memory(scd_error *err);

/* Arrays for n_cells cells of n_classes classes, nothing labelled; release them after an error too.
 */
scd_code scd_labels_init(scd_labels *labels, size_t n_cells, size_t n_classes, scd_error *err);

/* Why no head can have a label or an ontology id of this text, to follow its name in a message;
 * NULL where one can. */
const char *scd_labels_why_not(const char *text, size_t n);

/* Can a head be trained on them, and opened after hours of it (engine/denoise/head.c)? Every label
 * needs cells on both sides of a split. `where`: path or column, for messages. */
scd_code scd_labels_check(const scd_labels *labels, const char *where, scd_error *err);

#endif
