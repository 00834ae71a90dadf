/* crew.h - a thread for what would hold up an HTTP thread: parsing and printing of large bodies.
 *
 * Threads: post from any thread; jobs run one after the other in `prep-0`, and after a stop in the
 *          thread that posts, for a connection may still bring one.
 * Owns:    the list of jobs; what a job points to is its own affair. */
#ifndef SCD_CREW_H
#define SCD_CREW_H

#include "engine/base/error.h"

typedef struct scd_crew scd_crew;

/* A job embeds this; it may be posted again once it runs. */
typedef struct scd_job {
    struct scd_job *next;
    void (*run)(struct scd_job *job);
} scd_job;

scd_code scd_crew_open(scd_crew **out, scd_error *err);
void scd_crew_stop(scd_crew *crew);  /* runs what is posted, then ends the thread */
void scd_crew_close(scd_crew *crew); /* stops, then frees: nobody may post any more; NULL is fine */
void scd_crew_post(scd_crew *crew, scd_job *job);

#endif
