/* client.c - see client.h. */
#include "api/client.h"

#include "engine/base/clock.h"
#include "engine/base/mem.h"

#include <cjson/cJSON.h>
#include <curl/curl.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
    MAX_URL_BYTES = 32768,
    MAX_ANSWER_BYTES = 1 << 30,
    MAX_KEY_BYTES = 4096,
    CONNECT_S = 10,
    BROKEN_TRIES = 4,
    MAX_WAIT_S = 60,     /* at a time */
    PATIENCE_S = 15 * 60 /* altogether */
};

struct scd_client {
    CURL *curl;
    struct curl_slist *headers;
    char *url;
    scd_buf answer;
    scd_client_call *call; /* under way */
    bool sink_failed;
    char why[CURL_ERROR_SIZE];
};

/* ---- opening ---- */

static scd_code read_key(const char *path, char key[MAX_KEY_BYTES], scd_error *err)
{
    const char *from_env = getenv("SCDIVA_API_KEY");
    key[0] = '\0';
    if (!path) {
        if (from_env && strlen(from_env) < MAX_KEY_BYTES)
            strcpy(key, from_env);
        return SCD_OK;
    }
    FILE *f = fopen(path, "re");
    if (!f || !fgets(key, MAX_KEY_BYTES, f))
        key[0] = '\0';
    int failed = f ? 0 : errno;
    if (f)
        fclose(f);
    key[strcspn(key, "\r\n")] = '\0';
    if (failed)
        return scd_fail(err, SCD_E_IO, "%s: %s", path, strerror(failed));
    return key[0] ? SCD_OK : scd_fail(err, SCD_E_INVALID, "%s: no key on its first line", path);
}

static size_t take_bytes(char *bytes, size_t size, size_t n, void *arg)
{
    scd_client *c = arg;
    long status = 0;
    curl_easy_getinfo(c->curl, CURLINFO_RESPONSE_CODE, &status);
    if (!c->call->sink || status < 200 || status > 299)
        return scd_buf_append(&c->answer, bytes, size * n) ? size * n : 0;
    c->sink_failed = !c->call->sink(c->call->arg, bytes, size * n);
    return c->sink_failed ? 0 : size * n;
}

static bool is_stopped(const scd_client_call *call)
{
    return call->stop && call->stop(call->arg);
}

static int look(void *arg, curl_off_t a, curl_off_t b, curl_off_t x, curl_off_t y)
{
    const scd_client *c = arg;
    (void)a, (void)b, (void)x, (void)y;
    return is_stopped(c->call);
}

static bool add_header(scd_client *c, const char *line)
{
    struct curl_slist *more = curl_slist_append(c->headers, line);
    if (more)
        c->headers = more;
    return more != NULL;
}

static bool set_up(scd_client *c, const char *key)
{
    char line[MAX_KEY_BYTES + 32];
    snprintf(line, sizeof line, "Authorization: Bearer %s", key);
    return (!key[0] || add_header(c, line)) && add_header(c, "Expect:") &&
           !curl_easy_setopt(c->curl, CURLOPT_PROTOCOLS_STR, "http,https") &&
           !curl_easy_setopt(c->curl, CURLOPT_WRITEFUNCTION, take_bytes) &&
           !curl_easy_setopt(c->curl, CURLOPT_WRITEDATA, c) &&
           !curl_easy_setopt(c->curl, CURLOPT_NOPROGRESS, 0L) &&
           !curl_easy_setopt(c->curl, CURLOPT_XFERINFOFUNCTION, look) &&
           !curl_easy_setopt(c->curl, CURLOPT_XFERINFODATA, c) &&
           !curl_easy_setopt(c->curl, CURLOPT_ERRORBUFFER, c->why) &&
           !curl_easy_setopt(c->curl, CURLOPT_CONNECTTIMEOUT, (long)CONNECT_S) &&
           !curl_easy_setopt(c->curl, CURLOPT_NOSIGNAL, 1L) &&
           !curl_easy_setopt(c->curl, CURLOPT_USERAGENT, "scdiva/" SCD_VERSION);
}

scd_code scd_client_open(const char *url, const char *key_file, scd_client **out, scd_error *err)
{
    char key[MAX_KEY_BYTES];
    size_t n = strlen(url);
    scd_code code = read_key(key_file, key, err);
    if (code)
        return code;
    if (strncmp(url, "http://", 7) != 0 && strncmp(url, "https://", 8) != 0)
        return scd_fail(err, SCD_E_INVALID, "%s: a URL begins with http:// or https://", url);
    while (n && url[n - 1] == '/')
        n--;
    scd_client *c = curl_global_init(CURL_GLOBAL_DEFAULT) ? NULL : scd_calloc(1, sizeof *c);
    if (c) {
        scd_buf_init(&c->answer, MAX_ANSWER_BYTES);
        c->curl = curl_easy_init();
        c->url = scd_strndup(url, n);
    }
    if (!c || !c->curl || !c->url || !set_up(c, key)) {
        scd_client_close(c);
        return scd_fail(err, SCD_E_NOMEM, "out of memory");
    }
    *out = c;
    return SCD_OK;
}

void scd_client_close(scd_client *c)
{
    if (!c)
        return;
    scd_buf_release(&c->answer);
    curl_slist_free_all(c->headers);
    if (c->curl)
        curl_easy_cleanup(c->curl);
    free(c->url);
    free(c);
}

/* ---- asking ---- */

const char *scd_client_url(const scd_client *c)
{
    return c->url;
}

static void wait_s(const scd_client_call *call, double seconds)
{
    int64_t end = scd_now_ns() + (int64_t)(seconds * 1e9);
    const struct timespec pause = {.tv_nsec = 50 * SCD_NS_PER_MS};
    while (scd_now_ns() < end && !is_stopped(call))
        nanosleep(&pause, NULL);
}

static bool is_busy(long status)
{
    return status == 429 || status == 503;
}

/* Until there is an answer that is not "come again"; call->status 0: none at all. */
static CURLcode perform(scd_client *c, scd_client_call *call)
{
    CURLcode result = CURLE_OK;
    int64_t end = scd_now_ns() + (int64_t)PATIENCE_S * SCD_NS_PER_S;
    for (int broken = 0;;) {
        curl_off_t after = 0;
        scd_buf_clear(&c->answer);
        c->why[0] = '\0';
        call->status = 0;
        result = curl_easy_perform(c->curl);
        if (result == CURLE_OK)
            curl_easy_getinfo(c->curl, CURLINFO_RESPONSE_CODE, &call->status);
        if (is_stopped(call) || c->sink_failed)
            return result;
        if (result != CURLE_OK && (call->once || call->sink || ++broken == BROKEN_TRIES))
            return result;
        if (result == CURLE_OK && (!is_busy(call->status) || scd_now_ns() > end))
            return result;
        curl_easy_getinfo(c->curl, CURLINFO_RETRY_AFTER, &after);
        wait_s(call, result != CURLE_OK   ? 0.2 * broken
                     : after < 1          ? 1
                     : after > MAX_WAIT_S ? MAX_WAIT_S
                                          : (double)after);
    }
}

static const char *text_of(const cJSON *object, const char *key)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, key);
    return cJSON_IsString(item) ? item->valuestring : NULL;
}

/* A problem document, or what else came. */
static scd_code refuse(const scd_client *c, long status, const cJSON *said, scd_error *err)
{
    const char *detail = text_of(said, "detail");
    const cJSON *first = cJSON_GetArrayItem(cJSON_GetObjectItemCaseSensitive(said, "errors"), 0);
    const char *pointer = text_of(first, "pointer"), *place = text_of(first, "detail");
    scd_code code = status == 404                    ? SCD_E_NOT_FOUND
                    : status == 413                  ? SCD_E_TOO_LARGE
                    : is_busy(status)                ? SCD_E_BUSY
                    : status >= 400 && status <= 499 ? SCD_E_INVALID
                                                     : SCD_E_IO;
    return scd_fail(err, code, "%s: %s%s%s%s%s (%ld)%s", c->url,
                    detail ? detail : "an answer that says nothing", place ? "; " : "",
                    pointer ? pointer : "", place ? ": " : "", place ? place : "", status,
                    status == 401 ? ": the token is in --key-file FILE or $SCDIVA_API_KEY" : "");
}

/* The headers of this call before those of all. */
static struct curl_slist *list_headers(const scd_client *c, const scd_client_call *call)
{
    struct curl_slist *all = NULL;
    for (size_t i = 0; i < SCD_CLIENT_MAX_HEADERS && call->headers[i]; i++)
        all = curl_slist_append(all, call->headers[i]);
    for (const struct curl_slist *h = c->headers; h; h = h->next)
        all = curl_slist_append(all, h->data);
    return all;
}

static scd_code prepare(scd_client *c, const scd_client_call *call, const char *url,
                        const struct curl_slist *headers, scd_error *err)
{
    bool has_body = call->body || !strcmp(call->method, "POST") || !strcmp(call->method, "PATCH");
    bool ok = !curl_easy_setopt(c->curl, CURLOPT_URL, url) &&
              !curl_easy_setopt(c->curl, CURLOPT_HTTPHEADER, headers);
    if (has_body)
        ok = ok && !curl_easy_setopt(c->curl, CURLOPT_POST, 1L) &&
             !curl_easy_setopt(c->curl, CURLOPT_POSTFIELDS, call->body ? call->body : "") &&
             !curl_easy_setopt(c->curl, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)call->n_bytes);
    else
        ok = ok && !curl_easy_setopt(c->curl, CURLOPT_HTTPGET, 1L);
    ok = ok && !curl_easy_setopt(c->curl, CURLOPT_CUSTOMREQUEST, call->method);
    return ok ? SCD_OK : scd_fail(err, SCD_E_INVALID, "%s: not a URL that can be asked", url);
}

scd_code scd_client_do(scd_client *c, scd_client_call *call, scd_error *err)
{
    char url[MAX_URL_BYTES];
    call->status = 0;
    call->answer = NULL;
    c->call = call;
    c->sink_failed = false;
    int n = snprintf(url, sizeof url, "%s%s", c->url, call->path);
    if (n < 0 || (size_t)n >= sizeof url)
        return scd_fail(err, SCD_E_TOO_LARGE, "%s: the request is too large", c->url);
    struct curl_slist *headers = list_headers(c, call);
    scd_code code = prepare(c, call, url, headers, err);
    CURLcode result = code ? CURLE_OK : perform(c, call);
    curl_easy_setopt(c->curl, CURLOPT_HTTPHEADER, NULL);
    curl_slist_free_all(headers);
    if (code)
        return code;
    if (is_stopped(call))
        return scd_fail(err, SCD_E_CANCELED, "interrupted");
    if (c->sink_failed)
        return scd_fail(err, SCD_E_IO, "%s: the answer could not be kept", url);
    if (result != CURLE_OK)
        return scd_fail(err, SCD_E_IO, "%s: %s", url,
                        c->why[0] ? c->why : curl_easy_strerror(result));
    call->answer =
        c->answer.n_bytes ? cJSON_ParseWithLength(c->answer.data, c->answer.n_bytes) : NULL;
    return call->status >= 200 && call->status <= 299 ? SCD_OK
                                                      : refuse(c, call->status, call->answer, err);
}

scd_code scd_client_ask(scd_client *c, const char *path, const scd_buf *body, cJSON **out,
                        scd_error *err)
{
    scd_client_call call = {.method = body ? "POST" : "GET",
                            .path = path,
                            .headers = {"Content-Type: application/json"},
                            .body = body ? body->data : NULL,
                            .n_bytes = body ? body->n_bytes : 0};
    *out = NULL;
    if (body && body->failed)
        return scd_fail(err, SCD_E_TOO_LARGE, "%s: the request is too large", c->url);
    scd_code code = scd_client_do(c, &call, err);
    if (!code && !call.answer)
        code = scd_fail(err, SCD_E_CORRUPT, "%s%s: the answer is no JSON", c->url, path);
    if (code)
        cJSON_Delete(call.answer);
    else
        *out = call.answer;
    return code;
}
