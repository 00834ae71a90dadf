/* router.h - from a path to its handler; what http.c calls for every exchange.
 *
 * Threads: http-N. Owns: nothing. */
#ifndef SCD_ROUTER_H
#define SCD_ROUTER_H

#include "server/daemon.h"

/* Names of the routes in the order of routes.def, then "other" for what matches none. */
const char *const *scd_router_names(size_t *n);

void scd_router_begin(void *daemon, scd_exchange *x);
void scd_router_handle(void *daemon, scd_exchange *x);
void scd_router_finished(void *daemon, scd_exchange *x);

/* Why readiness is denied; NULL: the server is ready (handle_ops.c). */
const char *scd_daemon_unready(scd_daemon *d);

#define SCD_PAGE_FILES "/page/" /* what is below it belongs to the route "/" */

/* The handlers, one handle_*.c per family. */
#define SCD_ROUTE(method, path, name, access)                                                      \
    void scd_handle_##name(scd_daemon *d, scd_exchange *x);
#include "api/routes.def"
#undef SCD_ROUTE

#endif
