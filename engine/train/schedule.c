/* schedule.c - see schedule.h. */
#include "engine/train/schedule.h"

#include <math.h>

#define PI 3.14159265358979323846

double scd_schedule_lr(double peak, uint64_t step, uint64_t warmup, uint64_t n_steps)
{
    if (step <= warmup)
        return peak * (double)step / (double)warmup;
    uint64_t first = warmup ? warmup : 1; /* the step that has the peak */
    if (step > n_steps)
        return 0;
    return peak * 0.5 * (1 + cos(PI * (double)(step - first) / (double)(n_steps + 1 - first)));
}
