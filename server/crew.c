/* crew.c - see crew.h. */
#include "server/crew.h"

#include "engine/base/clock.h"
#include "engine/base/mem.h"
#include "engine/base/thread.h"

#include <stdlib.h>

struct scd_crew {
    scd_gate gate;
    scd_thread thread;
    scd_job *first, **last;
    bool stopping, ended; /* ended: the thread takes no more */
};

static void *run(void *arg)
{
    scd_crew *c = arg;
    for (;;) {
        scd_gate_lock(&c->gate);
        while (!c->first && !c->stopping)
            scd_gate_wait(&c->gate, SCD_NEVER);
        scd_job *job = c->first;
        if (job && !(c->first = job->next))
            c->last = &c->first;
        c->ended = !job;
        scd_gate_unlock(&c->gate);
        if (!job)
            return NULL;
        job->run(job);
    }
}

scd_code scd_crew_open(scd_crew **out, scd_error *err)
{
    *out = NULL;
    scd_crew *c = scd_calloc(1, sizeof *c);
    if (!c)
        return scd_fail(err, SCD_E_NOMEM, "out of memory");
    c->last = &c->first;
    scd_code code = scd_gate_init(&c->gate, err);
    if (code) {
        free(c);
        return code;
    }
    code = scd_thread_start(&c->thread, "prep-0", run, c, err);
    if (code) {
        scd_crew_close(c);
        return code;
    }
    *out = c;
    return SCD_OK;
}

void scd_crew_stop(scd_crew *c)
{
    scd_gate_lock(&c->gate);
    c->stopping = true;
    scd_gate_wake(&c->gate);
    scd_gate_unlock(&c->gate);
    scd_thread_join(&c->thread);
}

void scd_crew_close(scd_crew *c)
{
    if (!c)
        return;
    scd_crew_stop(c);
    scd_gate_release(&c->gate);
    free(c);
}

void scd_crew_post(scd_crew *c, scd_job *job)
{
    scd_gate_lock(&c->gate);
    bool ended = c->ended;
    if (!ended) {
        job->next = NULL;
        *c->last = job;
        c->last = &job->next;
        scd_gate_wake(&c->gate);
    }
    scd_gate_unlock(&c->gate);
    if (ended)
        job->run(job);
}
