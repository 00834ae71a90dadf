/* webhook.c - see webhook.h. */
#include "server/webhook.h"

#include "api/json_write.h"
#include "engine/base/clock.h"
#include "engine/base/mem.h"
#include "engine/model/file.h"
#include "server/jobs_impl.h"

#include <arpa/inet.h>
#include <curl/curl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

enum {
    MAX_PAYLOAD = 4 << 20,
    CONNECT_S = 5,
    WHOLE_S = 15,
    LONGEST_WAIT_MS = 60000,
    N_SECRET = 64,
    MIN_SECRET = 24
};
#define MAX_ANSWER ((size_t)64 << 10)

static const int retry_s[] = {5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400};
enum { N_RETRIES = sizeof retry_s / sizeof retry_s[0] };

/* Receivers that hang hold up themselves: so many are told at once, and of these only a part may be
 * of one host, or of one key's jobs. */
enum { AT_ONCE = 8, OF_ONE_HOST = 2, OF_ONE_OWNER = 4 };

/* One attempt under way. */
typedef struct sending {
    bool busy;
    scd_delivery d; /* with a payload of its own */
    CURL *curl;
    struct curl_slist *headers;
    int64_t begun_ms;
    size_t answered; /* bytes of the answer so far */
    bool refused;    /* its address is not public */
    bool allows_private;
} sending;

struct scd_webhooks {
    scd_jobs *jobs;
    bool allows_private;
    unsigned char secret[N_SECRET];
    size_t n_secret;
    scd_thread thread;
    atomic_bool stopping, dirty; /* dirty: the database has more than is known here */
    CURLM *multi;                /* woken from any thread */
    /* of the thread alone */
    scd_delivery *due; /* (n_due) not yet over */
    size_t n_due, cap_due;
    sending slots[AT_ONCE];
};

/* ---- addresses, signatures ------------------------------------------------------------------ */

static bool is_public_v4(uint32_t a)
{
    static const struct {
        uint32_t net;
        int bits;
    } closed[] = {{0x00000000, 8},  {0x0a000000, 8},  {0x64400000, 10}, {0x7f000000, 8},
                  {0xa9fe0000, 16}, {0xac100000, 12}, {0xc0000000, 24}, {0xc0000200, 24},
                  {0xc0586300, 24}, {0xc0a80000, 16}, {0xc6120000, 15}, {0xc6336400, 24},
                  {0xcb007100, 24}, {0xe0000000, 4},  {0xf0000000, 4}};
    for (size_t i = 0; i < sizeof closed / sizeof closed[0]; i++)
        if (a >> (32 - closed[i].bits) == closed[i].net >> (32 - closed[i].bits))
            return false;
    return true;
}

static uint32_t v4_at(const unsigned char *bytes)
{
    return (uint32_t)bytes[0] << 24 | (uint32_t)bytes[1] << 16 | (uint32_t)bytes[2] << 8 | bytes[3];
}

/* Global unicast, but for documentation, Teredo and what carries a v4 address that is closed. */
static bool is_public_v6(const unsigned char *a)
{
    static const unsigned char mapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff},
                               nat64[12] = {0, 0x64, 0xff, 0x9b};
    if (!memcmp(a, mapped, 12) || !memcmp(a, nat64, 12))
        return is_public_v4(v4_at(a + 12));
    if (a[0] == 0x20 && a[1] == 0x02)
        return is_public_v4(v4_at(a + 2));
    if (a[0] == 0x20 && a[1] == 0x01 && (!(a[2] | a[3]) || (a[2] == 0x0d && a[3] == 0xb8)))
        return false;
    return a[0] >> 5 == 1; /* 2000::/3 */
}

bool scd_webhook_is_public(const struct sockaddr *address)
{
    if (address->sa_family == AF_INET)
        return is_public_v4(ntohl(((const struct sockaddr_in *)address)->sin_addr.s_addr));
    return address->sa_family == AF_INET6 &&
           is_public_v6(((const struct sockaddr_in6 *)address)->sin6_addr.s6_addr);
}

size_t scd_webhook_read_secret(const char *text, unsigned char out[64])
{
    static const char begins[] = "whsec_";
    size_t n = strncmp(text, begins, sizeof begins - 1)
                   ? SIZE_MAX
                   : scd_base64_read(text + sizeof begins - 1, out, N_SECRET);
    return n == SIZE_MAX || n < MIN_SECRET ? 0 : n;
}

void scd_webhook_sign(const unsigned char *secret, size_t n_secret, const char *id, int64_t time_s,
                      const char *body, char out[64])
{
    scd_buf text;
    scd_buf_init(&text, MAX_PAYLOAD + 256);
    scd_buf_printf(&text, "%s.%lld.", id, (long long)time_s);
    scd_buf_puts(&text, body);
    scd_digest mac = scd_hmac_of(secret, n_secret, text.data ? text.data : "", text.n_bytes);
    scd_buf_clear(&text);
    scd_base64(&text, mac.bytes, sizeof mac.bytes);
    snprintf(out, 64, "v1,%s", text.failed || !text.data ? "" : text.data);
    scd_buf_release(&text);
}

/* ---- what is to be told --------------------------------------------------------------------- */

scd_code scd_webhooks_add(scd_jobs *jobs, const scd_job_record *job, scd_error *err)
{
    static const char *const types[SCD_N_JOB_STATES] = {"",           "",          "job.completed",
                                                        "job.failed", "job.error", "job.canceled"};
    scd_delivery d = {.created_ms = scd_wall_ms()};
    scd_buf payload;
    if (!*job->query.webhook)
        return SCD_OK;
    d.next_ms = d.created_ms;
    snprintf(d.id, sizeof d.id, "msg_%s_%s", job->id + strlen("job_"),
             types[job->state] + strlen("job."));
    memcpy(d.job, job->id, sizeof d.job);
    memcpy(d.owner, job->owner, sizeof d.owner);
    memcpy(d.url, job->query.webhook, sizeof d.url);
    scd_buf_init(&payload, MAX_PAYLOAD);
    scd_buf_printf(&payload, "{\"type\":\"%s\"", types[job->state]);
    scd_job_write_time(&payload, "timestamp", d.created_ms);
    scd_buf_puts(&payload, ",\"data\":");
    scd_jobs_write(jobs, job, 0, &payload);
    scd_buf_putc(&payload, '}');
    d.payload = payload.data;
    scd_code code = payload.failed ? scd_fail(err, SCD_E_NOMEM, "out of memory for a webhook")
                                   : scd_job_db_save_delivery(jobs->db, &d, err);
    scd_buf_release(&payload);
    scd_webhooks_wake(jobs->webhooks);
    return code;
}

void scd_webhooks_wake(scd_webhooks *w)
{
    if (!w)
        return;
    atomic_store(&w->dirty, true);
    curl_multi_wakeup(w->multi);
}

static void forget_due(scd_webhooks *w)
{
    for (size_t i = 0; i < w->n_due; i++)
        free(w->due[i].payload);
    w->n_due = 0;
}

static scd_code add_due(void *arg, scd_delivery *d)
{
    scd_webhooks *w = arg;
    if (w->n_due == w->cap_due) {
        size_t cap = w->cap_due ? 2 * w->cap_due : 16;
        scd_delivery *grown = scd_realloc(w->due, cap, sizeof *grown);
        if (!grown) {
            free(d->payload);
            return SCD_E_NOMEM;
        }
        w->due = grown;
        w->cap_due = cap;
    }
    w->due[w->n_due++] = *d;
    return SCD_OK;
}

/* In jobs-db, while the thread waits for it. */
static void read_due(scd_job_change *change, scd_job_db *db)
{
    scd_webhooks *w = change->arg;
    forget_due(w);
    scd_job_db_each_delivery(db, NULL, add_due, w, NULL);
}

typedef struct keeping {
    scd_delivery *d;
    bool attempted;
} keeping;

static void keep_delivery(scd_job_change *change, scd_job_db *db)
{
    const keeping *k = change->arg;
    scd_error err = {0};
    if (scd_job_db_save_delivery(db, k->d, &err) ||
        (k->attempted && scd_job_db_add_attempt(db, k->d, &err)))
        scd_problem_set(&change->problem, SCD_PROBLEM_STORAGE, "%s", err.message);
}

/* ---- one attempt ---------------------------------------------------------------------------- */

static curl_socket_t open_socket(void *arg, curlsocktype purpose, struct curl_sockaddr *address)
{
    sending *s = arg;
    (void)purpose;
    if (!s->allows_private && !scd_webhook_is_public(&address->addr)) {
        s->refused = true;
        return CURL_SOCKET_BAD;
    }
    return socket(address->family, address->socktype | SOCK_CLOEXEC, address->protocol);
}

/* What they say is of no interest, and not without end. */
static size_t take_answer(char *bytes, size_t size, size_t n, void *arg)
{
    sending *s = arg;
    (void)bytes;
    s->answered += size * n;
    return s->answered <= MAX_ANSWER ? size * n : 0;
}

static bool set_up(sending *s)
{
    CURL *c = s->curl;
    curl_easy_reset(c);
    return !curl_easy_setopt(c, CURLOPT_URL, s->d.url) &&
           !curl_easy_setopt(c, CURLOPT_PROTOCOLS_STR, "http,https") &&
           !curl_easy_setopt(c, CURLOPT_FOLLOWLOCATION, 0L) &&
           !curl_easy_setopt(c, CURLOPT_PROXY, "") &&
           !curl_easy_setopt(c, CURLOPT_FRESH_CONNECT, 1L) &&
           !curl_easy_setopt(c, CURLOPT_FORBID_REUSE, 1L) &&
           !curl_easy_setopt(c, CURLOPT_OPENSOCKETFUNCTION, open_socket) &&
           !curl_easy_setopt(c, CURLOPT_OPENSOCKETDATA, s) &&
           !curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, take_answer) &&
           !curl_easy_setopt(c, CURLOPT_WRITEDATA, s) && !curl_easy_setopt(c, CURLOPT_PRIVATE, s) &&
           !curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L) &&
           !curl_easy_setopt(c, CURLOPT_QUICK_EXIT, 1L) && /* no stop waits for a name server */
           !curl_easy_setopt(c, CURLOPT_CONNECTTIMEOUT, (long)CONNECT_S) &&
           !curl_easy_setopt(c, CURLOPT_TIMEOUT, (long)WHOLE_S) &&
           !curl_easy_setopt(c, CURLOPT_USERAGENT, "scdivad/" SCD_VERSION) &&
           !curl_easy_setopt(c, CURLOPT_HTTPHEADER, s->headers) &&
           !curl_easy_setopt(c, CURLOPT_POSTFIELDS, s->d.payload) &&
           !curl_easy_setopt(c, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)strlen(s->d.payload));
}

static struct curl_slist *make_headers(const scd_webhooks *w, const scd_delivery *d, int64_t time_s)
{
    char lines[3][128], signature[64];
    struct curl_slist *list = curl_slist_append(NULL, "Content-Type: application/json"), *more;
    scd_webhook_sign(w->secret, w->n_secret, d->id, time_s, d->payload, signature);
    snprintf(lines[0], sizeof lines[0], "webhook-id: %s", d->id);
    snprintf(lines[1], sizeof lines[1], "webhook-timestamp: %lld", (long long)time_s);
    snprintf(lines[2], sizeof lines[2], "webhook-signature: %s", signature);
    for (size_t i = 0; i < 3 && list; i++)
        if ((more = curl_slist_append(list, lines[i])))
            list = more;
        else {
            curl_slist_free_all(list);
            list = NULL;
        }
    return list;
}

/* What came of it. */
static void judge(scd_delivery *d, const sending *s, CURLcode rc, long status)
{
    d->last_ms = s->begun_ms;
    d->status = (int)status;
    d->done = status >= 200 && status < 300;
    if (d->done)
        snprintf(d->why, sizeof d->why, "delivered");
    else if (s->refused)
        snprintf(d->why, sizeof d->why, "its address is not public (--webhook-private allows it)");
    else if (status)
        snprintf(d->why, sizeof d->why, "answered %ld%s", status,
                 status >= 300 && status < 400 ? ": redirects are not followed" : "");
    else
        snprintf(d->why, sizeof d->why, "%s", curl_easy_strerror(rc));
    d->given_up = !d->done && (status == 410 || d->attempts >= N_RETRIES);
    if (!d->done && !d->given_up)
        d->next_ms = scd_wall_ms() + (int64_t)retry_s[d->attempts] * 1000;
    d->attempts++;
}

static void let_go(scd_webhooks *w, sending *s)
{
    if (s->busy)
        curl_multi_remove_handle(w->multi, s->curl);
    curl_slist_free_all(s->headers);
    free(s->d.payload);
    s->headers = NULL;
    s->d.payload = NULL;
    s->busy = false;
}

/* It is over: on record, and what is known here of it as well. */
static void finish(scd_webhooks *w, sending *s, CURLcode rc)
{
    long status = 0;
    keeping k = {&s->d, true};
    scd_job_change change = {.visit = keep_delivery, .arg = &k};
    curl_easy_getinfo(s->curl, CURLINFO_RESPONSE_CODE, &status);
    judge(&s->d, s, rc, status);
    if (scd_jobs_apply(w->jobs, &change))
        scd_jobs_log(w->jobs, 3, "webhook_not_kept", s->d.job, change.problem.detail);
    scd_jobs_log(w->jobs, s->d.done ? 1 : 2, "webhook", s->d.job, s->d.why);
    for (size_t i = 0; i < w->n_due; i++)
        if (w->due[i].row == s->d.row) {
            char *payload = w->due[i].payload;
            w->due[i] = s->d;
            w->due[i].payload = payload;
        }
    let_go(w, s);
}

static void begin(scd_webhooks *w, sending *s, const scd_delivery *d)
{
    CURL *curl = s->curl;
    *s = (sending){
        .d = *d, .curl = curl, .begun_ms = scd_wall_ms(), .allows_private = w->allows_private};
    s->d.payload = scd_strdup(d->payload);
    s->headers = s->d.payload ? make_headers(w, d, s->begun_ms / 1000) : NULL;
    if (s->headers && set_up(s) && !curl_multi_add_handle(w->multi, curl))
        s->busy = true;
    else
        finish(w, s, CURLE_OUT_OF_MEMORY);
}

/* ---- who is next ---------------------------------------------------------------------------- */

/* Of two URLs: the same host and port? */
static bool same_host(const char *a, const char *b)
{
    const char *x = strstr(a, "://"), *y = strstr(b, "://");
    x = x ? x + 3 : a;
    y = y ? y + 3 : b;
    size_t n = strcspn(x, "/?#");
    return n == strcspn(y, "/?#") && !strncasecmp(x, y, n);
}

static bool may_begin(const scd_webhooks *w, const scd_delivery *d)
{
    int of_host = 0, of_owner = 0;
    if (d->done || d->given_up)
        return false;
    for (size_t i = 0; i < AT_ONCE; i++) {
        const sending *s = &w->slots[i];
        if (s->busy && s->d.row == d->row)
            return false;
        of_host += s->busy && same_host(s->d.url, d->url);
        of_owner += s->busy && !strcmp(s->d.owner, d->owner);
    }
    return of_host < OF_ONE_HOST && of_owner < OF_ONE_OWNER;
}

/* The first that is due; NULL: none, and *wait_ms how long. */
static const scd_delivery *next_due(const scd_webhooks *w, int64_t *wait_ms)
{
    const scd_delivery *first = NULL;
    for (size_t i = 0; i < w->n_due; i++)
        if ((!first || w->due[i].next_ms < first->next_ms) && may_begin(w, &w->due[i]))
            first = &w->due[i];
    *wait_ms = first ? first->next_ms - scd_wall_ms() : LONGEST_WAIT_MS;
    return *wait_ms <= 0 ? first : NULL;
}

static sending *free_slot(scd_webhooks *w)
{
    for (size_t i = 0; i < AT_ONCE; i++)
        if (!w->slots[i].busy)
            return &w->slots[i];
    return NULL;
}

static void *run(void *arg)
{
    scd_webhooks *w = arg;
    while (!atomic_load(&w->stopping)) {
        const scd_delivery *d = NULL;
        sending *slot;
        int64_t wait_ms = LONGEST_WAIT_MS;
        int n_running, n_left;
        if (atomic_exchange(&w->dirty, false)) {
            scd_job_change change = {.visit = read_due, .arg = w};
            scd_jobs_apply(w->jobs, &change);
        }
        while ((slot = free_slot(w)) && (d = next_due(w, &wait_ms)))
            begin(w, slot, d);
        curl_multi_perform(w->multi, &n_running);
        for (const CURLMsg *m; (m = curl_multi_info_read(w->multi, &n_left));) {
            sending *s = NULL;
            if (m->msg == CURLMSG_DONE && !curl_easy_getinfo(m->easy_handle, CURLINFO_PRIVATE, &s))
                finish(w, s, m->data.result);
            wait_ms = 0; /* another one may begin */
        }
        wait_ms = wait_ms < 0 ? 0 : wait_ms < LONGEST_WAIT_MS ? wait_ms : LONGEST_WAIT_MS;
        if (!atomic_load(&w->dirty) && !atomic_load(&w->stopping))
            curl_multi_poll(w->multi, NULL, 0, (int)wait_ms, NULL);
    }
    for (size_t i = 0; i < AT_ONCE; i++) /* these attempts do not count */
        if (w->slots[i].busy)
            let_go(w, &w->slots[i]);
    return NULL;
}

/* ---- life ----------------------------------------------------------------------------------- */

static scd_code read_secret(scd_webhooks *w, const char *path, scd_error *err)
{
    enum { MAX_FILE = 4096 };
    int fd;
    size_t n;
    char *text = NULL;
    scd_code code = scd_file_open(path, &fd, &n, err);
    if (code)
        return code;
    code = scd_file_read(fd, path, MAX_FILE, &text, &n, err);
    close(fd);
    if (!code) {
        text[strcspn(text, "\r\n")] = '\0';
        w->n_secret = scd_webhook_read_secret(text, w->secret);
    }
    if (!code && !w->n_secret)
        code = scd_fail(err, SCD_E_INVALID,
                        "%s: its first line is no secret of webhooks: whsec_ and the base64 of 24 "
                        "to 64 bytes (echo whsec_$(openssl rand -base64 32))",
                        path);
    if (text)
        memset(text, 0, strlen(text));
    free(text);
    return code;
}

scd_code scd_webhooks_open(scd_jobs *jobs, const scd_config *config, scd_webhooks **out,
                           scd_error *err)
{
    *out = NULL;
    if (!*config->webhook_secret)
        return SCD_OK;
    scd_webhooks *w = scd_calloc(1, sizeof *w);
    if (!w)
        return scd_fail(err, SCD_E_NOMEM, "out of memory");
    w->jobs = jobs;
    w->allows_private = config->webhook_private;
    atomic_init(&w->dirty, true);
    scd_code code = read_secret(w, config->webhook_secret, err);
    if (!code && (curl_global_init(CURL_GLOBAL_DEFAULT) || !(w->multi = curl_multi_init())))
        code = scd_fail(err, SCD_E_NOMEM, "libcurl does not start");
    for (size_t i = 0; i < AT_ONCE && !code; i++)
        if (!(w->slots[i].curl = curl_easy_init()))
            code = scd_fail(err, SCD_E_NOMEM, "libcurl does not start");
    if (!code)
        code = scd_thread_start(&w->thread, "webhook", run, w, err);
    if (code)
        scd_webhooks_close(w);
    else
        *out = w;
    return code;
}

void scd_webhooks_stop(scd_webhooks *w)
{
    if (!w)
        return;
    atomic_store(&w->stopping, true);
    if (w->multi)
        curl_multi_wakeup(w->multi);
    scd_thread_join(&w->thread);
}

void scd_webhooks_close(scd_webhooks *w)
{
    if (!w)
        return;
    scd_webhooks_stop(w);
    forget_due(w);
    free(w->due);
    for (size_t i = 0; i < AT_ONCE; i++)
        if (w->slots[i].curl)
            curl_easy_cleanup(w->slots[i].curl);
    if (w->multi)
        curl_multi_cleanup(w->multi);
    memset(w->secret, 0, sizeof w->secret);
    free(w);
}
