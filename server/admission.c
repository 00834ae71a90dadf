/* admission.c - see admission.h. */
#include "server/admission.h"

#include "engine/base/clock.h"

#include <math.h>

/* Each batch weighs what was measured before it by this. */
static const double RATE_MEMORY = 0.9;
static const double SPREAD = 0.25, LONGEST_S = 3600;

void scd_admission_measure(scd_admission *a, size_t tokens, double seconds)
{
    a->rate_tokens = RATE_MEMORY * a->rate_tokens + (double)tokens;
    a->rate_s = RATE_MEMORY * a->rate_s + seconds;
}

double scd_admission_rate(const scd_admission *a)
{
    return a->rate_s > 0 ? a->rate_tokens / a->rate_s : 0;
}

bool scd_admission_has_room(const scd_admission *a, size_t tokens)
{
    return tokens <= a->max_tokens && a->queued_tokens <= a->max_tokens - tokens;
}

/* In [0, 1): multiples of the golden ratio, so that any few in a row lie far apart. */
static double share_of(uint64_t serial)
{
    return (double)(uint32_t)(serial * 2654435769u) * 0x1p-32;
}

/* How many passes a queued token still needs, on average; 1 where nobody says. */
static double passes(const scd_admission *a)
{
    return a->work_tokens > a->queued_tokens && a->queued_tokens
               ? (double)a->work_tokens / (double)a->queued_tokens
               : 1;
}

int scd_admission_turn_away(scd_admission *a, size_t tokens, uint64_t serial, int64_t now_ns)
{
    double rate = scd_admission_rate(a) / passes(a), wait = 0;
    if (rate > 0) {
        double passed_s = (double)(now_ns - a->turned_away_ns) / (double)SCD_NS_PER_S;
        double before = fmax(0, a->turned_away_tokens - rate * passed_s);
        double excess = (double)(a->queued_tokens + tokens) - (double)a->max_tokens;
        wait = (fmax(0, excess) + before) / rate;
        a->turned_away_tokens = fmin(before + (double)tokens, (double)a->max_tokens);
        a->turned_away_ns = now_ns;
    }
    wait = ceil(wait + share_of(serial) * fmax(1, SPREAD * wait));
    return (int)fmin(LONGEST_S, fmax(1, wait));
}
