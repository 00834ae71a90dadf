/* progress.c - how far it is: see cli.h. */
#include "api/cli/cli.h"

#include "engine/base/clock.h"

#include <stdio.h>
#include <unistd.h>

enum { BAR = 30 };
static const int64_t TERMINAL_EVERY_NS = 100 * SCD_NS_PER_MS, LINE_EVERY_NS = 10 * SCD_NS_PER_S;

void cli_progress_begin(cli_progress *p, size_t total, bool quiet)
{
    *p = (cli_progress){.total = total,
                        .start_ns = scd_now_ns(),
                        .is_quiet = quiet,
                        .is_terminal = isatty(STDERR_FILENO) == 1};
    p->last_ns = p->start_ns;
}

static void print(cli_progress *p, int64_t now)
{
    double share = p->total ? (double)p->done / (double)p->total : 1;
    double seconds = (double)(now - p->start_ns) * 1e-9;
    double rate = seconds > 0 ? (double)p->done / seconds : 0;
    double left = rate > 0 ? (double)(p->total - p->done) / rate : 0;
    if (p->is_terminal) {
        char bar[BAR + 1];
        for (int i = 0; i < BAR; i++)
            bar[i] = share * BAR > i ? '#' : '.';
        bar[BAR] = '\0';
        fprintf(stderr, "\r[%s] %3.0f %%  %zu/%zu cells  %.0f cells/s  %d:%02d left ", bar,
                100 * share, p->done, p->total, rate, (int)left / 60, (int)left % 60);
    } else {
        fprintf(stderr, "%zu of %zu cells, %.0f cells/s, %.0f s left\n", p->done, p->total, rate,
                left);
    }
    fflush(stderr);
    p->last_ns = now;
    p->is_shown = true;
}

void cli_progress_add(cli_progress *p, size_t n)
{
    int64_t now = scd_now_ns();
    p->done += n;
    if (!p->is_quiet && now - p->last_ns >= (p->is_terminal ? TERMINAL_EVERY_NS : LINE_EVERY_NS))
        print(p, now);
}

void cli_progress_end(cli_progress *p)
{
    if (p->is_quiet || !p->is_terminal || !p->is_shown)
        return;
    print(p, scd_now_ns());
    fputc('\n', stderr);
}
