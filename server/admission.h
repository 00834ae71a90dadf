/* admission.h - is there room in the queue, and if not: when to come back?
 *
 * Room is counted in tokens that are admitted and not yet answered: they are what is held in
 * memory. How long they take is counted too, a token once for every pass that it may still need, so
 * that a queue of many-pass work is known to drain slowly. Who is turned away is told when its turn
 * would come if all who were turned away before it came back: by how much the queue is too full,
 * and what the others wanted, at the measured rate. What others wanted is forgotten as fast as it
 * could have been computed and never counts for more than one full queue, since not everybody comes
 * back. So a lone cell hears the next second, one of thousands up to the time in which a full queue
 * drains. A quarter of that on top, a second at least, in a share that differs from request to
 * request, keeps those who were turned away together from coming back in one second.
 *
 * Threads: one at a time (under the batcher's lock). Owns: nothing. */
#ifndef SCD_ADMISSION_H
#define SCD_ADMISSION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct scd_admission {
    size_t max_tokens, queued_tokens;
    size_t work_tokens;         /* of those queued: each as often as it may still be computed */
    double rate_tokens, rate_s; /* decayed sums; their ratio is the rate */
    double turned_away_tokens;  /* as of turned_away_ns */
    int64_t turned_away_ns;
} scd_admission;

/* So many tokens were computed in so many seconds. */
void scd_admission_measure(scd_admission *admission, size_t tokens, double seconds);
double scd_admission_rate(const scd_admission *admission); /* tokens/s; 0: not known yet */

bool scd_admission_has_room(const scd_admission *admission, size_t tokens);

/* Turn `tokens` away, which are at most max_tokens: seconds after which to try again, 1 to 3600.
 * `serial` is the request's, consecutive ones are spread best. */
int scd_admission_turn_away(scd_admission *admission, size_t tokens, uint64_t serial,
                            int64_t now_ns);

#endif
