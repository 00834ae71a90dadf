/* train_check.c - see train_check.h. */
#include "tests/ops/train_check.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

enum { LOOKED_AT = 64 };

void train_ok(scd_code code, const scd_error *err)
{
    if (code)
        fail_msg("%s", err->message);
}

void train_same_host(const fixture *f, const char *what, const double *want, const float *got,
                     size_t n)
{
    double worst = 0, most = 1e-30;
    for (size_t i = 0; i < n; i++) {
        double e = fabs((double)got[i] - want[i]);
        worst = e <= worst ? worst : isnan(e) ? INFINITY : e;
        most = fmax(most, fabs(want[i]));
    }
    if (!(worst <= TRAIN_TOLERANCE * most))
        fail_msg("%s on %s: error %g of the largest element", what, f->info->isa, worst / most);
}

void train_same(fixture *f, const char *what, const double *want, const float *got, size_t n)
{
    train_same_host(f, what, want, fixture_fetch(f, got, n * sizeof *got), n);
}

void train_equal(fixture *f, const float *a, const float *b, size_t n)
{
    size_t bytes = n * sizeof *a;
    assert_memory_equal(fixture_fetch(f, a, bytes), fixture_fetch(f, b, bytes), bytes);
}

double train_dot(const double *a, const double *b, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += a[i] * b[i];
    return sum;
}

void train_gradient(fixture *f, const char *what, train_scalar *scalar, void *ctx, const array *x,
                    const float *before, const float *got)
{
    double want[LOOKED_AT];
    float have[LOOKED_AT], *all = fixture_fetch(f, got, x->n * sizeof *got);
    size_t n = x->n < LOOKED_AT ? x->n : LOOKED_AT;
    for (size_t i = 0; i < n; i++) {
        size_t at = i * (x->n - 1) / (n > 1 ? n - 1 : 1); /* the first and the last among them */
        double here = x->d[at], step = 1e-6;
        x->d[at] = here + step;
        double up = scalar(ctx);
        x->d[at] = here - step;
        double down = scalar(ctx);
        x->d[at] = here;
        want[i] = (up - down) / (2 * step) + (before ? (double)before[at] : 0);
        have[i] = all[at];
    }
    train_same_host(f, what, want, have, n);
}
