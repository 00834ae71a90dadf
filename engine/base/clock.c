/* clock.c - see clock.h. */
#include "engine/base/clock.h"

int64_t scd_now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * SCD_NS_PER_S + t.tv_nsec;
}

int64_t scd_wall_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / SCD_NS_PER_MS;
}

struct timespec scd_timespec(int64_t monotonic_ns)
{
    return (struct timespec){.tv_sec = (time_t)(monotonic_ns / SCD_NS_PER_S),
                             .tv_nsec = (long)(monotonic_ns % SCD_NS_PER_S)};
}
