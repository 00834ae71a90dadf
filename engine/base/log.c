/* log.c - see log.h.
 *
 * A line is built on the stack and written at once. It never exceeds PIPE_BUF bytes, so that lines
 * of several threads and processes do not mix even in a pipe. What does not fit is cut between
 * whole characters, and the line says so with truncated=true.
 *
 * Threads: any. Owns: nothing. */
#include "engine/base/log.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum {
    LINE_BYTES = 4096, /* PIPE_BUF on Linux */
    TAIL_BYTES = 24,   /* room kept for ","truncated":true} and the newline */
    RING_SLOTS = 16,
    SLOT_BYTES = 32,
};

typedef struct line {
    char data[LINE_BYTES];
    size_t n;
    bool json;
    bool cut;
} line;

static atomic_int min_level = SCD_LOG_INFO;
static atomic_bool as_json;

/* Numbers of this thread. A value that points in here is a number, and JSON shows it as one. */
static _Thread_local char ring[RING_SLOTS][SLOT_BYTES];
static _Thread_local unsigned ring_next;

void scd_log_setup(scd_log_level level, bool json)
{
    atomic_store(&min_level, (int)level);
    atomic_store(&as_json, json);
}

const char *scd_log_num(double value)
{
    char *slot = ring[ring_next++ % RING_SLOTS];
    if (fabs(value) < 1e15 && value == floor(value))
        snprintf(slot, SLOT_BYTES, "%.0f", value);
    else
        snprintf(slot, SLOT_BYTES, "%.6g", value);
    return slot;
}

static bool is_number(const char *value)
{
    uintptr_t at = (uintptr_t)value, start = (uintptr_t)ring;
    bool ours = at >= start && at < start + sizeof ring;
    return ours && strcmp(value, "inf") && strcmp(value, "-inf") && !strstr(value, "nan");
}

/* All of it or nothing; after the first refusal nothing more goes in. */
static void put(line *l, const char *bytes, size_t n)
{
    if (l->cut || l->n + n > LINE_BYTES - TAIL_BYTES) {
        l->cut = true;
        return;
    }
    memcpy(l->data + l->n, bytes, n);
    l->n += n;
}

static void put_text(line *l, const char *text)
{
    put(l, text, strlen(text));
}

/* What must follow no matter what: TAIL_BYTES keeps its place. */
static void put_tail(line *l, const char *text)
{
    size_t n = strlen(text);
    memcpy(l->data + l->n, text, n);
    l->n += n;
}

/* Bytes of the UTF-8 character at s, 0 when it is not one (overlong, surrogate, too large). */
static size_t utf8_length(const unsigned char *s)
{
    static const struct {
        unsigned char first_low, first_high, second_low, second_high, n;
    } row[] = {{0xC2, 0xDF, 0x80, 0xBF, 2}, {0xE0, 0xE0, 0xA0, 0xBF, 3},
               {0xE1, 0xEC, 0x80, 0xBF, 3}, {0xED, 0xED, 0x80, 0x9F, 3},
               {0xEE, 0xEF, 0x80, 0xBF, 3}, {0xF0, 0xF0, 0x90, 0xBF, 4},
               {0xF1, 0xF3, 0x80, 0xBF, 4}, {0xF4, 0xF4, 0x80, 0x8F, 4}};
    if (s[0] < 0x80)
        return 1;
    for (size_t i = 0; i < sizeof row / sizeof row[0]; i++) {
        if (s[0] < row[i].first_low || s[0] > row[i].first_high)
            continue;
        if (s[1] < row[i].second_low || s[1] > row[i].second_high)
            return 0;
        for (size_t k = 2; k < row[i].n; k++)
            if ((s[k] & 0xC0) != 0x80)
                return 0;
        return row[i].n;
    }
    return 0;
}

/* The inside of a JSON string; the text form quotes the same way. */
static void put_escaped(line *l, const char *text)
{
    const unsigned char *s = (const unsigned char *)text;
    while (*s && !l->cut) {
        char escape[8];
        size_t n = utf8_length(s);
        if (*s == '"' || *s == '\\') {
            put(l, (char[]){'\\', (char)*s}, 2);
        } else if (*s == '\n') {
            put(l, "\\n", 2);
        } else if (*s < 0x20 || *s == 0x7F) {
            snprintf(escape, sizeof escape, "\\u%04x", *s);
            put(l, escape, 6);
        } else if (n) {
            put(l, (const char *)s, n);
        } else {
            put(l, "\xEF\xBF\xBD", 3); /* U+FFFD, the replacement character */
            n = 1;
        }
        s += n;
    }
}

/* The text form leaves a value bare when a reader cannot mistake where it ends. */
static bool needs_quotes(const char *value)
{
    if (!*value)
        return true;
    for (const unsigned char *s = (const unsigned char *)value; *s; s++)
        if (*s <= ' ' || *s >= 0x7F || *s == '"' || *s == '\\' || *s == '=')
            return true;
    return false;
}

static void put_pair(line *l, const char *key, const char *value)
{
    size_t before = l->n;
    bool number = value && is_number(value);
    bool quoted = value && (l->json ? !number : needs_quotes(value));
    put_text(l, l->json ? ",\"" : " ");
    put_escaped(l, key);
    put_text(l, l->json ? "\":" : "=");
    put_text(l, quoted ? "\"" : "");
    if (l->cut) { /* not even the key fits: no half of it */
        l->n = before;
        return;
    }
    if (quoted)
        put_escaped(l, value);
    else
        put_text(l, value ? value : "null");
    if (l->cut && !quoted) /* half a number would be another number */
        l->n = before;
    if (quoted && l->n > before)
        put_tail(l, "\"");
}

static void put_head(line *l, scd_log_level level, const char *event)
{
    static const char *const names[] = {"DEBUG", "INFO", "WARN", "ERROR"};
    static const char *const lower[] = {"debug", "info", "warn", "error"};
    struct timespec now;
    struct tm utc;
    char stamp[64];
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &utc);
    size_t n = strftime(stamp, sizeof stamp, "%Y-%m-%dT%H:%M:%S", &utc);
    snprintf(stamp + n, sizeof stamp - n, ".%03dZ", (int)(now.tv_nsec / 1000000));

    put_text(l, l->json ? "{\"ts\":\"" : "");
    put_text(l, stamp);
    put_text(l, l->json ? "\",\"level\":\"" : " ");
    put_text(l, l->json ? lower[level] : names[level]);
    put_text(l, l->json ? "\",\"event\":\"" : " ");
    put_escaped(l, event);
    if (l->json)
        put_tail(l, "\"");
}

void scd_log(scd_log_level level, const char *event, ...)
{
    if ((int)level < atomic_load_explicit(&min_level, memory_order_relaxed))
        return;
    int saved_errno = errno;
    line l;
    l.n = 0;
    l.cut = false;
    l.json = atomic_load_explicit(&as_json, memory_order_relaxed);
    put_head(&l, level, event);

    va_list args;
    va_start(args, event);
    for (const char *key; (key = va_arg(args, const char *));) {
        const char *value = va_arg(args, const char *);
        put_pair(&l, key, value);
    }
    va_end(args);

    if (l.cut)
        put_tail(&l, l.json ? ",\"truncated\":true" : " truncated=true");
    put_tail(&l, l.json ? "}\n" : "\n");
    /* A log that cannot be written has nowhere to complain: the line is lost. */
    while (write(STDERR_FILENO, l.data, l.n) < 0 && errno == EINTR)
        continue;
    errno = saved_errno;
}
