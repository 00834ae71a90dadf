/* clock.h - time. Durations and deadlines are monotonic; wall time is for people and files.
 *
 * Threads: any. */
#ifndef SCD_BASE_CLOCK_H
#define SCD_BASE_CLOCK_H

#include <stdint.h>
#include <time.h>

#define SCD_NEVER INT64_MAX /* a deadline that does not come */

int64_t scd_now_ns(void);                           /* CLOCK_MONOTONIC */
int64_t scd_wall_ms(void);                          /* milliseconds since 1970 UTC */
struct timespec scd_timespec(int64_t monotonic_ns); /* for pthread_cond_timedwait */

#define SCD_NS_PER_MS INT64_C(1000000)
#define SCD_NS_PER_S INT64_C(1000000000)

#endif
