/* thread.h - named threads, and a mutex with a condition that waits on the monotonic clock.
 *
 * Every wait has a deadline (SCD_NEVER only where a shutdown flag is certain to wake it).
 *
 * Threads: any, that is the point. */
#ifndef SCD_BASE_THREAD_H
#define SCD_BASE_THREAD_H

#include "engine/base/error.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct scd_thread {
    pthread_t id;
    bool running; /* started and not yet joined */
} scd_thread;

/* Starts body(arg) in a thread called `name` (at most 15 characters), with every signal blocked:
 * signals belong to main. */
scd_code scd_thread_start(scd_thread *thread, const char *name, void *(*body)(void *), void *arg,
                          scd_error *err);
void scd_thread_join(scd_thread *thread); /* nothing when it does not run */

/* The calling thread gives way to the others of the process and the machine (nice 10): for threads
 * that compute for long while others must answer within milliseconds. Never fails. */
void scd_thread_give_way(void);

/* A mutex and one condition. */
typedef struct scd_gate {
    pthread_mutex_t mutex;
    pthread_cond_t cond;
} scd_gate;

scd_code scd_gate_init(scd_gate *gate, scd_error *err);
void scd_gate_release(scd_gate *gate);
void scd_gate_lock(scd_gate *gate);
void scd_gate_unlock(scd_gate *gate);
void scd_gate_wake(scd_gate *gate); /* everyone who waits */

/* With the gate locked: sleep until woken or until the monotonic deadline; false at the deadline.
 * May wake early: look at the condition again. */
bool scd_gate_wait(scd_gate *gate, int64_t deadline_ns);

#endif
