/* watch.h - eyes on suspended requests: has the client left, has the deadline passed?
 *
 * libmicrohttpd neither times out a suspended connection nor notices its client leaving, so one
 * thread (`watch`) does, with an epoll set of its own. A half-closed connection counts as gone.
 *
 * Threads: every function from any thread. The callback runs in `watch` (or in scd_watch_check's
 *          caller) with no lock held, and may call back here.
 * Owns:    no file descriptor but its epoll set; remove an entry before its fd can be closed. */
#ifndef SCD_WATCH_H
#define SCD_WATCH_H

#include "engine/base/error.h"

#include <stdbool.h>
#include <stdint.h>

typedef struct scd_watch scd_watch;

/* code: SCD_E_CANCELED (the client left) or SCD_E_TIMEOUT. May come more than once for one id. */
typedef void scd_watch_event(void *arg, uint64_t id, scd_code code);

/* delay_ns: how long after a client left its event comes. */
scd_code scd_watch_open(scd_watch_event *on_event, void *arg, int64_t delay_ns, scd_watch **out,
                        scd_error *err);
void scd_watch_close(scd_watch *watch); /* NULL is fine */

/* Watch `fd` (-1: none) until deadline_ns (SCD_NEVER: none) under a unique id. */
scd_code scd_watch_add(scd_watch *watch, uint64_t id, int fd, int64_t deadline_ns, scd_error *err);
/* Shut the reading side of an entry's fd, so that who else polls it reads the end of the stream;
 * nothing when the entry is gone. */
void scd_watch_shut(scd_watch *watch, uint64_t id);
/* Change the deadline of an entry; nothing when it is gone. */
void scd_watch_set_deadline(scd_watch *watch, uint64_t id, int64_t deadline_ns);
void scd_watch_remove(scd_watch *watch, uint64_t id);

/* If the event of this id has come already, deliver it again: for work that was not there yet to be
 * canceled when it came. True when it had. */
bool scd_watch_check(scd_watch *watch, uint64_t id);

#endif
