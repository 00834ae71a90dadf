/* progress.c - see progress.h. Everything for people goes to standard error; what a run came to is
 * the verb's to print. */
#include "engine/train/progress.h"

#include "engine/base/buf.h"
#include "engine/base/clock.h"
#include "engine/base/mem.h"
#include "engine/model/file.h"

#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

enum { REDRAW_MS = 200, LINE_MS = 30000, BAR_CHARS = 24, MAX_LOG_BYTES = 1 << 28 };
#define RATE_SECONDS 30.0 /* the rate shown is of about the last half minute */

struct scd_progress {
    const char *title; /* borrowed: a literal of the verb */
    uint64_t n_steps, first_step, step;
    FILE *csv;
    char *csv_path;
    size_t n_columns;
    bool terminal, drawn; /* drawn: a bar stands on the last line */
    int64_t started_ns, stepped_ns, shown_ns;
    double rate_tokens, rate_seconds; /* both fade: their ratio is the rate */
    char text[160];
};

/* ---- the CSV --------------------------------------------------------------------------------- */

static scd_code header_of(const char *const *columns, size_t n, scd_buf *out, scd_error *err)
{
    scd_buf_puts(out, "step");
    for (size_t i = 0; i < n; i++)
        scd_buf_printf(out, ",%s", columns[i]);
    scd_buf_putc(out, '\n');
    return out->failed ? scd_fail(err, SCD_E_NOMEM, "out of memory") : SCD_OK;
}

/* Appends to `kept` the whole rows of an earlier log up to `last`; a row that a killed run left
 * half-written has no line end and goes too. */
static scd_code keep_rows(const char *path, uint64_t last, scd_buf *kept, scd_error *err)
{
    int fd;
    size_t n;
    char *text = NULL;
    if (access(path, F_OK) < 0)
        return SCD_OK; /* somebody took the log away: it begins anew */
    scd_code code = scd_file_open(path, &fd, &n, err);
    if (code)
        return code;
    code = scd_file_read(fd, path, MAX_LOG_BYTES, &text, &n, err);
    close(fd);
    if (!code && n && (n < kept->n_bytes || memcmp(text, kept->data, kept->n_bytes)))
        code = scd_fail(err, SCD_E_INVALID,
                        "%s: has other columns than this run would write; move it away", path);
    for (char *at = code || !n ? NULL : text + kept->n_bytes; at && *at;) {
        char *end = strchr(at, '\n');
        if (!end)
            break;
        if (strtoull(at, NULL, 10) <= last)
            scd_buf_append(kept, at, (size_t)(end + 1 - at));
        at = end + 1;
    }
    free(text);
    return code;
}

static scd_code open_csv(scd_progress *p, const char *path, const char *const *columns,
                         scd_error *err)
{
    scd_buf text;
    scd_buf_init(&text, MAX_LOG_BYTES);
    scd_code code = header_of(columns, p->n_columns, &text, err);
    if (!code && p->first_step)
        code = keep_rows(path, p->first_step, &text, err);
    if (!code && (text.failed || !(p->csv_path = scd_strdup(path))))
        code = scd_fail(err, SCD_E_NOMEM, "%s: out of memory", path);
    if (!code)
        code = scd_file_write(path, text.data, text.n_bytes, err);
    if (!code && !(p->csv = fopen(path, "ae")))
        code = scd_fail(err, SCD_E_IO, "%s: cannot append: %s", path, strerror(errno));
    scd_buf_release(&text);
    return code;
}

scd_code scd_progress_log(scd_progress *p, uint64_t step, const double *values, scd_error *err)
{
    if (!p->csv)
        return SCD_OK;
    fprintf(p->csv, "%llu", (unsigned long long)step);
    for (size_t i = 0; i < p->n_columns; i++)
        if (isnan(values[i]))
            fputc(',', p->csv);
        else
            fprintf(p->csv, ",%.9g", values[i]);
    fputc('\n', p->csv);
    if (fflush(p->csv) || ferror(p->csv))
        return scd_fail(err, SCD_E_IO, "%s: cannot write: %s", p->csv_path, strerror(errno));
    return SCD_OK;
}

/* ---- the bar --------------------------------------------------------------------------------- */

static void write_duration(double seconds, char *out, size_t n)
{
    unsigned long s = seconds < 0 ? 0 : (unsigned long)(seconds + 0.5);
    if (s >= 3600)
        snprintf(out, n, "%lu h %02lu min", s / 3600, s % 3600 / 60);
    else if (s >= 60)
        snprintf(out, n, "%lu min %02lu s", s / 60, s % 60);
    else
        snprintf(out, n, "%lu s", s);
}

static double seconds_left(const scd_progress *p)
{
    uint64_t done = p->step - p->first_step;
    double took = (double)(p->stepped_ns - p->started_ns) / 1e9;
    return done && p->n_steps > p->step ? took / (double)done * (double)(p->n_steps - p->step) : 0;
}

static size_t terminal_columns(void)
{
    struct winsize size;
    if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) < 0 || size.ws_col < 20)
        return 80;
    return size.ws_col;
}

static void draw(scd_progress *p)
{
    char line[512], bar[BAR_CHARS + 1] = "", left[40];
    size_t full = p->n_steps ? (size_t)(BAR_CHARS * p->step / p->n_steps) : 0;
    memset(bar, '.', BAR_CHARS);
    memset(bar, '#', full < BAR_CHARS ? full : BAR_CHARS);
    write_duration(seconds_left(p), left, sizeof left);
    int n = snprintf(line, sizeof line, "%s %s%s%sstep %llu/%llu  %s  %.0f tokens/s  %s left",
                     p->title, p->terminal ? "[" : "", p->terminal ? bar : "",
                     p->terminal ? "] " : "", (unsigned long long)p->step,
                     (unsigned long long)p->n_steps, p->text, scd_progress_tokens_per_s(p), left);
    if (p->terminal) {
        size_t room = terminal_columns() - 1; /* a full last column would wrap */
        fprintf(stderr, "\r\033[K%.*s", n > 0 && (size_t)n < room ? n : (int)room, line);
        p->drawn = true;
    } else {
        fprintf(stderr, "%s\n", line);
    }
    fflush(stderr);
}

void scd_progress_step(scd_progress *p, uint64_t step, size_t tokens, const char *text)
{
    int64_t now = scd_now_ns();
    double seconds = (double)(now - p->stepped_ns) / 1e9, keep = exp(-seconds / RATE_SECONDS);
    p->rate_tokens = p->rate_tokens * keep + (double)tokens;
    p->rate_seconds = p->rate_seconds * keep + seconds;
    p->stepped_ns = now;
    p->step = step;
    snprintf(p->text, sizeof p->text, "%s", text);
    int64_t every = (p->terminal ? REDRAW_MS : LINE_MS) * SCD_NS_PER_MS;
    if (now - p->shown_ns >= every || (p->terminal && step == p->n_steps)) {
        p->shown_ns = now;
        draw(p);
    }
}

double scd_progress_tokens_per_s(const scd_progress *p)
{
    return p->rate_seconds > 0 ? p->rate_tokens / p->rate_seconds : 0;
}

void scd_progress_say(scd_progress *p, const char *fmt, ...)
{
    va_list args;
    if (p->drawn)
        fputs("\r\033[K", stderr);
    va_start(args, fmt);
    vfprintf(stderr, fmt, args);
    va_end(args);
    fputc('\n', stderr);
    if (p->drawn)
        draw(p);
}

scd_code scd_progress_new(const char *title, uint64_t n_steps, uint64_t first_step,
                          const char *csv_path, const char *const *columns, size_t n_columns,
                          scd_progress **out, scd_error *err)
{
    *out = NULL;
    scd_progress *p = scd_calloc(1, sizeof *p);
    if (!p)
        return scd_fail(err, SCD_E_NOMEM, "out of memory");
    p->title = title;
    p->n_steps = n_steps;
    p->first_step = p->step = first_step;
    p->n_columns = n_columns;
    p->terminal = isatty(STDERR_FILENO) == 1;
    p->started_ns = p->stepped_ns = p->shown_ns = scd_now_ns();
    scd_code code = csv_path ? open_csv(p, csv_path, columns, err) : SCD_OK;
    if (code) {
        scd_progress_free(p);
        return code;
    }
    *out = p;
    return SCD_OK;
}

void scd_progress_free(scd_progress *p)
{
    if (!p)
        return;
    if (p->drawn)
        fputc('\n', stderr);
    if (p->csv)
        fclose(p->csv);
    free(p->csv_path);
    free(p);
}

/* ---- stopping -------------------------------------------------------------------------------- */

static volatile sig_atomic_t stop;

static void note_signal(int number)
{
    (void)number;
    stop = 1;
}

void scd_stop_on_signals(void)
{
    /* SA_RESETHAND: the second one does what it does to any program. */
    struct sigaction action = {.sa_handler = note_signal,
                               .sa_flags = (int)SA_RESETHAND | SA_RESTART};
    sigemptyset(&action.sa_mask);
    stop = 0;
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
}

bool scd_stop_asked(void)
{
    return stop != 0;
}
