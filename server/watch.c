/* watch.c - see watch.h. */
#include "server/watch.h"

#include "engine/base/clock.h"
#include "engine/base/mem.h"
#include "engine/base/thread.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

enum { BUCKETS = 1024, MAX_EVENTS = 64 };
static const uint64_t WAKE = 0; /* ids start at 1 */

typedef struct entry {
    struct entry *next;
    uint64_t id;
    int fd;
    int64_t deadline_ns;
    scd_code fired; /* SCD_OK: not yet */
} entry;

struct scd_watch {
    scd_watch_event *on_event;
    void *arg;
    int64_t delay_ns;
    int epoll_fd, wake_fd;
    scd_gate gate;
    scd_thread thread;
    bool stopping;
    int64_t next_ns; /* the watch thread sleeps until then */
    entry *buckets[BUCKETS];
};

static entry **find(scd_watch *w, uint64_t id)
{
    entry **at = &w->buckets[id % BUCKETS];
    while (*at && (*at)->id != id)
        at = &(*at)->next;
    return at;
}

static void wake(scd_watch *w)
{
    uint64_t one = 1;
    while (write(w->wake_fd, &one, sizeof one) < 0 && errno == EINTR)
        ;
}

/* Mark the entry and tell, unless it is gone or has told already. */
static void fire(scd_watch *w, uint64_t id, scd_code code)
{
    scd_gate_lock(&w->gate);
    entry *e = *find(w, id);
    bool tell = e && !e->fired;
    if (tell)
        e->fired = code;
    scd_gate_unlock(&w->gate);
    if (tell)
        w->on_event(w->arg, id, code);
}

/* Under the lock: up to `max` ids whose deadline has passed; sets next_ns to the earliest other. */
static size_t expired(scd_watch *w, uint64_t *ids, size_t max)
{
    int64_t now = scd_now_ns();
    size_t n = 0;
    w->next_ns = SCD_NEVER;
    for (size_t b = 0; b < BUCKETS; b++)
        for (entry *e = w->buckets[b]; e; e = e->next) {
            if (e->fired)
                continue;
            if (e->deadline_ns <= now && n < max)
                ids[n++] = e->id;
            else if (e->deadline_ns < w->next_ns)
                w->next_ns = e->deadline_ns;
        }
    return n;
}

static int timeout_ms(int64_t until_ns)
{
    if (until_ns == SCD_NEVER)
        return -1;
    int64_t left = until_ns - scd_now_ns();
    if (left <= 0)
        return 0;
    int64_t ms = (left + SCD_NS_PER_MS - 1) / SCD_NS_PER_MS;
    return ms > 60000 ? 60000 : (int)ms;
}

static void *run(void *arg)
{
    scd_watch *w = arg;
    struct epoll_event events[MAX_EVENTS];
    uint64_t ids[MAX_EVENTS];
    for (;;) {
        scd_gate_lock(&w->gate);
        bool stop = w->stopping;
        size_t n_expired = expired(w, ids, MAX_EVENTS);
        int64_t until = n_expired ? 0 : w->next_ns;
        scd_gate_unlock(&w->gate);
        if (stop)
            return NULL;
        for (size_t i = 0; i < n_expired; i++)
            fire(w, ids[i], SCD_E_TIMEOUT);
        int n = epoll_wait(w->epoll_fd, events, MAX_EVENTS, timeout_ms(until));
        for (int i = 0; i < n; i++) {
            uint64_t id = events[i].data.u64, drain;
            if (id != WAKE && w->delay_ns)
                scd_watch_set_deadline(w, id, scd_now_ns() + w->delay_ns);
            else if (id != WAKE)
                fire(w, id, SCD_E_CANCELED);
            else if (read(w->wake_fd, &drain, sizeof drain) < 0)
                continue;
        }
    }
}

scd_code scd_watch_open(scd_watch_event *on_event, void *arg, int64_t delay_ns, scd_watch **out,
                        scd_error *err)
{
    *out = NULL;
    scd_watch *w = scd_calloc(1, sizeof *w);
    if (!w)
        return scd_fail(err, SCD_E_NOMEM, "out of memory");
    w->on_event = on_event;
    w->arg = arg;
    w->delay_ns = delay_ns;
    w->next_ns = SCD_NEVER;
    w->epoll_fd = w->wake_fd = -1;
    scd_code code = scd_gate_init(&w->gate, err);
    if (code) {
        free(w);
        return code;
    }
    w->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    w->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    struct epoll_event wake_event = {.events = EPOLLIN, .data.u64 = WAKE};
    if (w->epoll_fd < 0 || w->wake_fd < 0 ||
        epoll_ctl(w->epoll_fd, EPOLL_CTL_ADD, w->wake_fd, &wake_event))
        code = scd_fail(err, SCD_E_IO, "cannot watch connections: %s", strerror(errno));
    if (!code)
        code = scd_thread_start(&w->thread, "watch", run, w, err);
    if (code) {
        scd_watch_close(w);
        return code;
    }
    *out = w;
    return SCD_OK;
}

void scd_watch_close(scd_watch *w)
{
    if (!w)
        return;
    scd_gate_lock(&w->gate);
    w->stopping = true;
    scd_gate_unlock(&w->gate);
    if (w->thread.running)
        wake(w);
    scd_thread_join(&w->thread);
    for (size_t b = 0; b < BUCKETS; b++)
        while (w->buckets[b]) {
            entry *e = w->buckets[b];
            w->buckets[b] = e->next;
            free(e);
        }
    if (w->epoll_fd >= 0)
        close(w->epoll_fd);
    if (w->wake_fd >= 0)
        close(w->wake_fd);
    scd_gate_release(&w->gate);
    free(w);
}

scd_code scd_watch_add(scd_watch *w, uint64_t id, int fd, int64_t deadline_ns, scd_error *err)
{
    entry *e = scd_calloc(1, sizeof *e);
    if (!e)
        return scd_fail(err, SCD_E_NOMEM, "out of memory");
    e->id = id;
    e->fd = fd;
    e->deadline_ns = deadline_ns;
    scd_code code = SCD_OK;
    scd_gate_lock(&w->gate);
    struct epoll_event event = {.events = EPOLLRDHUP | EPOLLONESHOT, .data.u64 = id};
    if (fd >= 0 && epoll_ctl(w->epoll_fd, EPOLL_CTL_ADD, fd, &event)) {
        code = scd_fail(err, SCD_E_IO, "cannot watch a connection: %s", strerror(errno));
        free(e);
    } else {
        entry **bucket = &w->buckets[id % BUCKETS];
        e->next = *bucket;
        *bucket = e;
    }
    bool sooner = !code && deadline_ns < w->next_ns;
    scd_gate_unlock(&w->gate);
    if (sooner)
        wake(w);
    return code;
}

void scd_watch_set_deadline(scd_watch *w, uint64_t id, int64_t deadline_ns)
{
    scd_gate_lock(&w->gate);
    entry *e = *find(w, id);
    if (e)
        e->deadline_ns = deadline_ns;
    bool sooner = e && deadline_ns < w->next_ns;
    scd_gate_unlock(&w->gate);
    if (sooner)
        wake(w);
}

void scd_watch_shut(scd_watch *w, uint64_t id)
{
    scd_gate_lock(&w->gate); /* an entry is removed before its fd is closed: it is ours here */
    entry *e = *find(w, id);
    if (e && e->fd >= 0)
        shutdown(e->fd, SHUT_RD);
    scd_gate_unlock(&w->gate);
}

void scd_watch_remove(scd_watch *w, uint64_t id)
{
    scd_gate_lock(&w->gate);
    entry **at = find(w, id), *e = *at;
    if (e) {
        *at = e->next;
        if (e->fd >= 0)
            epoll_ctl(w->epoll_fd, EPOLL_CTL_DEL, e->fd, NULL);
    }
    scd_gate_unlock(&w->gate);
    free(e);
}

bool scd_watch_check(scd_watch *w, uint64_t id)
{
    scd_gate_lock(&w->gate);
    entry *e = *find(w, id);
    scd_code fired = e ? e->fired : SCD_OK;
    scd_gate_unlock(&w->gate);
    if (fired)
        w->on_event(w->arg, id, fired);
    return fired != SCD_OK;
}
