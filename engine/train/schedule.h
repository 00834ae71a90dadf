/* schedule.h - the learning rate of a step: linear warm-up, then half a cosine.
 *
 * Threads: any. Owns: nothing. */
#ifndef SCD_TRAIN_SCHEDULE_H
#define SCD_TRAIN_SCHEDULE_H

#include <stdint.h>

/* Of step 1 ... n_steps: peak * step / warmup up to step `warmup`, which has the peak itself; from
 * there down the cosine, whose zero lies one step past the last. */
double scd_schedule_lr(double peak, uint64_t step, uint64_t warmup, uint64_t n_steps);

#endif
