/* recorded.h - small batches as graphs: where a launch takes longer than what it launches, the
 * launches of a whole pass are recorded once for each of a few sizes and put again as one.
 *
 * A size is a bucket of rows and one of cells; the caller pads its batch to them. A bucket's first
 * pass is plain - it fills tables and shows that all fits -, its second is recorded.
 *
 * Threads: the device's owner. Owns: the graphs, until release. */
#ifndef SCD_MODEL_RECORDED_H
#define SCD_MODEL_RECORDED_H

#include "engine/backend/backend.h"

#include <stdbool.h>

enum {
    SCD_RECORDED_ROWS = 2048,
    SCD_RECORDED_STEP = 128, /* rows from one bucket to the next */
    SCD_RECORDED_CELLS = 16,
    /* what else makes passes differ: pooling, and whose memory they use, a slot's or none's */
    SCD_RECORDED_KINDS = 2 * (1 + SCD_SLOTS),
    SCD_RECORDED_SLOTS = SCD_RECORDED_ROWS / SCD_RECORDED_STEP * 3 * SCD_RECORDED_KINDS
};

typedef struct scd_recorded {
    scd_graph *graphs[SCD_RECORDED_SLOTS];
    bool seen[SCD_RECORDED_SLOTS];
} scd_recorded;

typedef struct scd_bucket {
    size_t rows, cells; /* of the padded batch: at least one row more than the real ones */
    size_t slot;
} scd_bucket;

/* The bucket of a batch; false: it is too large for one, or the device records nothing. */
bool scd_recorded_bucket(const scd_backend *backend, size_t rows, size_t cells, size_t kind,
                         size_t max_rows, scd_bucket *out);

/* Do `work`, plainly or by its graph. It must do the same whenever it is called for this bucket. */
scd_code scd_recorded_run(scd_recorded *recorded, const scd_backend *backend, scd_device *device,
                          const scd_bucket *bucket, scd_code (*work)(void *arg, scd_error *err),
                          void *arg, scd_error *err);
void scd_recorded_release(scd_recorded *recorded, const scd_backend *backend, scd_device *device);

#endif
