/* train_check.c - see train_check.h. */
#include "tests/ops/train_check.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

enum { LOOKED_AT = 64 };

const scd_train_ops *const train_ops = &scd_train_ops_cpu;

void train_on_every_isa(void (*check)(fixture *f))
{
    size_t tested = 0;
    for (size_t i = 0; i < N_CONFIGS; i++) {
        fixture f;
        if (!fixture_open(&f, i, 2))
            continue;
        check(&f);
        fixture_release(&f);
        tested++;
    }
    assert_true(tested > 0);
}

void train_ok(scd_code code, const scd_error *err)
{
    if (code)
        fail_msg("%s", err->message);
}

void train_same(const fixture *f, const char *what, const double *want, const float *got, size_t n)
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

double train_dot(const double *a, const double *b, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += a[i] * b[i];
    return sum;
}

void train_gradient(const fixture *f, const char *what, train_scalar *scalar, void *ctx,
                    const array *x, const float *before, const float *got)
{
    double want[LOOKED_AT];
    float have[LOOKED_AT];
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
        have[i] = got[at];
    }
    train_same(f, what, want, have, n);
}

float *train_copy(fixture *f, const array *a)
{
    float *copy = fixture_block(f, a->n * sizeof *copy);
    return memcpy(copy, a->f, a->n * sizeof *copy);
}
