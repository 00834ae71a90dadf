/* http.c - see http.h: the listening socket and libmicrohttpd's callbacks. What happens to one
 * request is in exchange.c. */
#include "server/http.h"

#include "engine/base/clock.h"
#include "engine/base/mem.h"
#include "server/http_impl.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

static const int64_t LEAVE_DELAY_NS = 50 * SCD_NS_PER_MS;
enum { IDLE_TIMEOUT_S = 30, CONNECTION_MEMORY_BYTES = 64 << 10, BACKLOG = 1024 };

/* ---- addresses ------------------------------------------------------------------------------ */

static bool is_loopback(const struct sockaddr_storage *a)
{
    return a->ss_family == AF_INET6
               ? IN6_IS_ADDR_LOOPBACK(&((const struct sockaddr_in6 *)a)->sin6_addr)
               : ntohl(((const struct sockaddr_in *)a)->sin_addr.s_addr) >> 24 == 127;
}

scd_code scd_address_resolve(const char *listen, scd_address *out, scd_error *err)
{
    char host[256];
    *out = (scd_address){0};
    const char *colon = strrchr(listen, ':');
    size_t n_host = colon ? (size_t)(colon - listen) : 0;
    char *end = NULL;
    long port = colon && colon[1] ? strtol(colon + 1, &end, 10) : -1;
    if (!n_host || n_host >= sizeof host || port < 0 || port > 65535 || *end)
        return scd_fail(err, SCD_E_INVALID,
                        "listen address \"%s\" is not ADDR:PORT, like 127.0.0.1:8080", listen);
    bool brackets = listen[0] == '[' && colon[-1] == ']';
    snprintf(host, sizeof host, "%.*s", (int)(brackets ? n_host - 2 : n_host),
             listen + (brackets ? 1 : 0));
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE}, *found = NULL;
    int rc = getaddrinfo(host, colon + 1, &hints, &found);
    if (rc)
        return scd_fail(err, SCD_E_INVALID, "listen address \"%s\": %s", listen, gai_strerror(rc));
    memcpy(&out->socket, found->ai_addr, found->ai_addrlen);
    out->n_bytes = found->ai_addrlen;
    out->loopback = is_loopback(&out->socket);
    snprintf(out->text, sizeof out->text, "%s", listen);
    freeaddrinfo(found);
    return SCD_OK;
}

static scd_code bind_socket(scd_http *h, const scd_address *address, scd_error *err)
{
    struct sockaddr_storage a = address->socket;
    socklen_t n = address->n_bytes;
    int one = 1;
    h->listen_fd = socket(a.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (h->listen_fd < 0 || setsockopt(h->listen_fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) ||
        bind(h->listen_fd, (struct sockaddr *)&a, n) || listen(h->listen_fd, BACKLOG))
        return scd_fail(err, SCD_E_IO, "cannot listen on %s: %s", address->text, strerror(errno));
    n = sizeof a;
    getsockname(h->listen_fd, (struct sockaddr *)&a, &n);
    char text[INET6_ADDRSTRLEN];
    if (a.ss_family == AF_INET6) {
        struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)&a;
        inet_ntop(AF_INET6, &v6->sin6_addr, text, sizeof text);
        snprintf(h->url, sizeof h->url, "http://[%s]:%d", text, ntohs(v6->sin6_port));
    } else {
        struct sockaddr_in *v4 = (struct sockaddr_in *)&a;
        inet_ntop(AF_INET, &v4->sin_addr, text, sizeof text);
        snprintf(h->url, sizeof h->url, "http://%s:%d", text, ntohs(v4->sin_port));
    }
    return SCD_OK;
}

/* ---- libmicrohttpd's callbacks ----------------------------------------------------------------
 */

static enum MHD_Result on_access(void *cls, struct MHD_Connection *connection, const char *url,
                                 const char *method, const char *version, const char *upload,
                                 size_t *upload_bytes, void **slot)
{
    (void)version;
    if (!*slot)
        *slot = scd_exchange_new(cls, connection, method, url);
    return *slot ? scd_exchange_step(*slot, upload, upload_bytes) : MHD_NO;
}

static void on_completed(void *cls, struct MHD_Connection *connection, void **slot,
                         enum MHD_RequestTerminationCode why)
{
    (void)cls;
    (void)connection;
    (void)why;
    scd_exchange *x = *slot;
    if (!x)
        return;
    if (!x->finished)
        x->status = 499;
    scd_exchange_finish(x);
    scd_exchange_free(x);
    *slot = NULL;
}

/* When the end of a stream arrives together with bytes before it, libmicrohttpd reads the bytes and
 * is never told of the end: its edge-triggered poll has spoken. Such a client would keep its
 * connection until the idle timeout. The door sees it leave and, when those bytes have been read,
 * shuts the reading side, which is an edge of its own. */
static void on_left(void *arg, uint64_t id, scd_code code)
{
    scd_http *h = arg;
    (void)code;
    scd_watch_shut(h->door, id);
}

static void on_connection(void *cls, struct MHD_Connection *connection, void **slot,
                          enum MHD_ConnectionNotificationCode what)
{
    scd_http *h = cls;
    uint64_t id = (uint64_t)(uintptr_t)*slot;
    if (what == MHD_CONNECTION_NOTIFY_CLOSED) {
        scd_watch_remove(h->door, id);
        return;
    }
    id = atomic_fetch_add(&h->last_connection, 1) + 1;
    *slot = (void *)(uintptr_t)id;
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    if (info) /* without it only a leaving client's slot is lost for the idle timeout */
        scd_watch_add(h->door, id, info->connect_fd, SCD_NEVER, NULL);
}

static void on_log(void *cls, const char *fmt, va_list args)
{
    scd_http *h = cls;
    char message[512];
    vsnprintf(message, sizeof message, fmt, args);
    message[strcspn(message, "\n")] = '\0';
    if (h->o.log)
        h->o.log(h->o.app, message);
}

/* Of a path or of a part of the query. A NUL would end the text before its end, and what stands
 * before it may be something else that is served: such a text stays as it was sent. */
static size_t on_escaped(void *cls, struct MHD_Connection *connection, char *text)
{
    (void)cls;
    (void)connection;
    return strstr(text, "%00") ? strlen(text) : MHD_http_unescape(text);
}

/* ---- life ----------------------------------------------------------------------------------- */

scd_code scd_http_open(const scd_http_options *options, scd_http **out, scd_error *err)
{
    *out = NULL;
    scd_http *h = scd_calloc(1, sizeof *h);
    if (!h)
        return scd_fail(err, SCD_E_NOMEM, "out of memory");
    h->o = *options;
    h->listen_fd = -1;
    if (getrandom(&h->id_seed, sizeof h->id_seed, 0) != sizeof h->id_seed)
        h->id_seed = (uint64_t)getpid();
    scd_code code = bind_socket(h, h->o.address, err);
    if (!code)
        code = scd_watch_open(on_left, h, LEAVE_DELAY_NS, &h->door, err);
    if (code) {
        scd_http_close(h);
        return code;
    }
    h->mhd = MHD_start_daemon(
        MHD_USE_EPOLL_INTERNAL_THREAD | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG, 0, NULL, NULL,
        on_access, h, MHD_OPTION_EXTERNAL_LOGGER, on_log, h, MHD_OPTION_LISTEN_SOCKET, h->listen_fd,
        MHD_OPTION_THREAD_POOL_SIZE, (unsigned)h->o.threads, MHD_OPTION_CONNECTION_LIMIT,
        (unsigned)h->o.max_connections, MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)IDLE_TIMEOUT_S,
        MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)CONNECTION_MEMORY_BYTES,
        MHD_OPTION_UNESCAPE_CALLBACK, on_escaped, NULL, MHD_OPTION_NOTIFY_COMPLETED, on_completed,
        h, MHD_OPTION_NOTIFY_CONNECTION, on_connection, h, MHD_OPTION_END);
    if (!h->mhd) {
        code = scd_fail(err, SCD_E_IO, "cannot start the HTTP server: %s", strerror(errno));
        scd_http_close(h);
        return code;
    }
    *out = h;
    return SCD_OK;
}

const char *scd_http_url(const scd_http *h)
{
    return h->url;
}

void scd_http_quiesce(scd_http *h)
{
    if (!h->quiesced)
        h->listen_fd = MHD_quiesce_daemon(h->mhd);
    h->quiesced = true;
}

bool scd_http_wait_idle(scd_http *h, int64_t deadline_ns)
{
    while (atomic_load(&h->answering) && scd_now_ns() < deadline_ns)
        usleep(2000);
    return !atomic_load(&h->answering);
}

void scd_http_close(scd_http *h)
{
    if (!h)
        return;
    if (h->mhd)
        MHD_stop_daemon(h->mhd); /* closes the socket unless quiesced */
    scd_watch_close(h->door);
    if (h->listen_fd >= 0 && (!h->mhd || h->quiesced))
        close(h->listen_fd);
    free(h);
}
