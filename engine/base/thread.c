/* thread.c - see thread.h. */
#include "engine/base/thread.h"

#include "engine/base/clock.h"

#include <assert.h>
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

scd_code scd_thread_start(scd_thread *thread, const char *name, void *(*body)(void *), void *arg,
                          scd_error *err)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int rc = pthread_create(&thread->id, NULL, body, arg);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (rc)
        return scd_fail(err, SCD_E_NOMEM, "cannot start thread %s: %s", name, strerror(rc));
    pthread_setname_np(thread->id, name);
    thread->running = true;
    return SCD_OK;
}

void scd_thread_join(scd_thread *thread)
{
    if (!thread->running)
        return;
    pthread_join(thread->id, NULL);
    thread->running = false;
}

void scd_thread_give_way(void)
{
    enum { NICE = 10 };
    setpriority(PRIO_PROCESS, (id_t)gettid(), NICE); /* on Linux of one thread */
}

scd_code scd_gate_init(scd_gate *gate, scd_error *err)
{
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    int rc = pthread_mutex_init(&gate->mutex, NULL);
    if (!rc && (rc = pthread_cond_init(&gate->cond, &attr)))
        pthread_mutex_destroy(&gate->mutex);
    pthread_condattr_destroy(&attr);
    return rc ? scd_fail(err, SCD_E_NOMEM, "cannot make a mutex: %s", strerror(rc)) : SCD_OK;
}

void scd_gate_release(scd_gate *gate)
{
    pthread_cond_destroy(&gate->cond);
    pthread_mutex_destroy(&gate->mutex);
}

void scd_gate_lock(scd_gate *gate)
{
    int rc = pthread_mutex_lock(&gate->mutex);
    assert(!rc);
    (void)rc;
}

void scd_gate_unlock(scd_gate *gate)
{
    pthread_mutex_unlock(&gate->mutex);
}

void scd_gate_wake(scd_gate *gate)
{
    pthread_cond_broadcast(&gate->cond);
}

bool scd_gate_wait(scd_gate *gate, int64_t deadline_ns)
{
    if (deadline_ns == SCD_NEVER) {
        pthread_cond_wait(&gate->cond, &gate->mutex);
        return true;
    }
    /* A negative time is EINVAL, which would look like being woken, again and again. */
    struct timespec at = scd_timespec(deadline_ns > 0 ? deadline_ns : 0);
    return pthread_cond_timedwait(&gate->cond, &gate->mutex, &at) != ETIMEDOUT;
}
