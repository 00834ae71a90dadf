/* response_fit.c - see response_fit.h. Systems are small (the conditions of one context) and solved
 * by Cholesky in float64; tables are float32. */
#include "engine/train/response_fit.h"

#include "engine/base/mem.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const double RIDGE = 0.1; /* as Ahlmann-Eltze et al. have it */

/* ---- small linear algebra -------------------------------------------------------------------- */

/* a (n, n) = L L^T, in place below the diagonal. Every matrix here has a positive diagonal added.
 */
static void cholesky(double *a, size_t n)
{
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j <= i; j++) {
            double sum = a[i * n + j];
            for (size_t k = 0; k < j; k++)
                sum -= a[i * n + k] * a[j * n + k];
            a[i * n + j] = i == j ? sqrt(fmax(sum, 1e-12)) : sum / a[j * n + j];
        }
}

/* L L^T x = b, in place. */
static void solve(const double *l, size_t n, double *x)
{
    for (size_t i = 0; i < n; i++) {
        for (size_t k = 0; k < i; k++)
            x[i] -= l[i * n + k] * x[k];
        x[i] /= l[i * n + i];
    }
    for (size_t i = n; i-- > 0;) {
        for (size_t k = i + 1; k < n; k++)
            x[i] -= l[k * n + i] * x[k];
        x[i] /= l[i * n + i];
    }
}

/* ---- one context's mixed model --------------------------------------------------------------- */

/* What is known of the kept conditions of one context, for one set of settings. */
typedef struct model {
    const scd_study *s;
    size_t n;
    uint32_t *rows;  /* (n) conditions */
    double *k;       /* (n) n_targets^power */
    double *mean;    /* (G) */
    double *factor;  /* (n, n) Cholesky factor of the conditions' covariance */
    double *weights; /* (n) scratch */
    size_t room;
} model;

static scd_code model_new(const scd_study *s, size_t room, model *m, scd_error *err)
{
    *m = (model){.s = s, .room = room};
    m->rows = scd_malloc(room + 1, sizeof *m->rows);
    m->k = scd_malloc(2 * room + 1, sizeof *m->k);
    m->mean = scd_malloc(s->n_genes, sizeof *m->mean);
    m->factor = scd_malloc(room * room + 1, sizeof *m->factor);
    m->weights = m->k ? m->k + room : NULL;
    if (!m->rows || !m->k || !m->mean || !m->factor)
        return scd_fail(err, SCD_E_NOMEM, "out of memory for %zu conditions", room);
    return SCD_OK;
}

static void model_release(model *m)
{
    free(m->rows);
    free(m->k);
    free(m->mean);
    free(m->factor);
}

static size_t shared(const scd_response_condition *a, const scd_response_condition *b)
{
    size_t n = 0;
    for (size_t i = 0; i < a->n_targets; i++)
        for (size_t k = 0; k < b->n_targets; k++)
            n += a->targets[i] == b->targets[k];
    return n;
}

static double squares_of(const scd_study *s, size_t row, double factor, const double *mean)
{
    double sum = 0;
    for (size_t g = 0; g < s->n_genes; g++) {
        double x = (double)s->deltas[row * s->n_genes + g] - factor * (mean ? mean[g] : 0);
        sum += x * x;
    }
    return sum;
}

static void fit_mean(model *m, const scd_fit_settings *o)
{
    const scd_study *s = m->s;
    double total = 0;
    memset(m->mean, 0, s->n_genes * sizeof *m->mean);
    for (size_t i = 0; i < m->n; i++) {
        double w = pow(fmax(squares_of(s, m->rows[i], 0, NULL), 1e-12), -0.5 * o->weight);
        total += w * m->k[i] * m->k[i];
        for (size_t g = 0; g < s->n_genes; g++)
            m->mean[g] += w * m->k[i] * (double)s->deltas[m->rows[i] * s->n_genes + g];
    }
    for (size_t g = 0; g < s->n_genes && m->n; g++)
        m->mean[g] *= o->shrink / total;
}

/* The variance of one target's effect, summed over genes: what the conditions show beyond the mean
 * and beyond their noise; a thousandth of it at least, so that a study of pure noise has some. */
static double effect_variance(const model *m)
{
    const scd_study *s = m->s;
    double seen = 0, noise = 0, targets = 0;
    for (size_t i = 0; i < m->n; i++) {
        seen += squares_of(s, m->rows[i], m->k[i], m->mean);
        noise += s->noise[m->rows[i]];
        targets += s->conditions[m->rows[i]].n_targets;
    }
    return fmax(fmax(seen - noise, 1e-3 * seen), 1e-12) / targets;
}

/* Everything for the conditions in m->rows. */
static void model_fit(model *m, const scd_fit_settings *o)
{
    const scd_study *s = m->s;
    for (size_t i = 0; i < m->n; i++)
        m->k[i] = pow(s->conditions[m->rows[i]].n_targets, o->power);
    fit_mean(m, o);
    double variance = m->n ? effect_variance(m) : 1;
    for (size_t i = 0; i < m->n; i++) {
        for (size_t k = 0; k < i; k++)
            m->factor[i * m->n + k] =
                (double)shared(&s->conditions[m->rows[i]], &s->conditions[m->rows[k]]);
        m->factor[i * m->n + i] =
            s->conditions[m->rows[i]].n_targets + o->misfit + s->noise[m->rows[i]] / variance;
    }
    cholesky(m->factor, m->n);
}

/* out (G): the prediction of condition `at`. */
static void model_predict(model *m, const scd_fit_settings *o, size_t at, float *out)
{
    const scd_study *s = m->s;
    double rest = pow(s->conditions[at].n_targets, o->power);
    for (size_t i = 0; i < m->n; i++)
        m->weights[i] = (double)shared(&s->conditions[at], &s->conditions[m->rows[i]]);
    solve(m->factor, m->n, m->weights);
    for (size_t i = 0; i < m->n; i++)
        rest -= m->weights[i] * m->k[i];
    for (size_t g = 0; g < s->n_genes; g++) {
        double x = rest * m->mean[g];
        for (size_t i = 0; i < m->n; i++)
            x += m->weights[i] * (double)s->deltas[m->rows[i] * s->n_genes + g];
        out[g] = (float)x;
    }
}

static void take_rows(model *m, const uint8_t *keep, uint32_t context)
{
    m->n = 0;
    for (size_t i = 0; i < m->s->n_conditions; i++)
        if (keep[i] && m->s->conditions[i].context == context)
            m->rows[m->n++] = (uint32_t)i;
}

scd_code scd_fit_predict(const scd_study *s, const uint8_t *keep, const scd_fit_settings *settings,
                         size_t at, float *out, scd_error *err)
{
    model m;
    scd_code code = model_new(s, s->n_conditions, &m, err);
    if (!code) {
        take_rows(&m, keep, s->conditions[at].context);
        size_t n = 0;
        for (size_t i = 0; i < m.n; i++)
            if (m.rows[i] != at)
                m.rows[n++] = m.rows[i];
        m.n = n;
        model_fit(&m, settings);
        model_predict(&m, settings, at, out);
    }
    model_release(&m);
    return code;
}

/* ---- choosing -------------------------------------------------------------------------------- */

/* Squared error over parts of the rows: row i is of part i % folds, so that with as many parts as
 * rows each is left out alone. */
static double cross_validate(model *m, const uint32_t *rows, size_t n, size_t folds,
                             const scd_fit_settings *o, float *out)
{
    const scd_study *s = m->s;
    double sum = 0;
    for (size_t f = 0; f < folds; f++) {
        m->n = 0;
        for (size_t i = 0; i < n; i++)
            if (i % folds != f)
                m->rows[m->n++] = rows[i];
        model_fit(m, o);
        for (size_t i = f; i < n; i += folds) {
            model_predict(m, o, rows[i], out);
            for (size_t g = 0; g < s->n_genes; g++) {
                double miss = (double)out[g] - (double)s->deltas[rows[i] * s->n_genes + g];
                sum += miss * miss;
            }
        }
    }
    return sum;
}

scd_code scd_fit_choose(const scd_study *s, const uint8_t *keep, uint32_t context, size_t folds,
                        scd_fit_settings *out, scd_error *err)
{
    static const double misfit[] = {0.03, 0.1, 0.3, 1}, power[] = {0, 0.5, 1}, weight[] = {0, 1},
                        shrink[] = {0.5, 0.75, 1};
    enum { N = 4 * 3 * 2 * 3 };
    model m;
    *out = (scd_fit_settings){0.1, 0.5, 0, 1};
    scd_code code = model_new(s, s->n_conditions, &m, err);
    uint32_t *rows = code ? NULL : scd_malloc(s->n_conditions + 1, sizeof *rows);
    float *predicted = code ? NULL : scd_malloc(s->n_genes, sizeof *predicted);
    if (!code && (!rows || !predicted))
        code = scd_fail(err, SCD_E_NOMEM, "out of memory for %zu conditions", s->n_conditions);
    double least = INFINITY;
    if (!code)
        take_rows(&m, keep, context);
    size_t n = code ? 0 : m.n;
    if (n)
        memcpy(rows, m.rows, n * sizeof *rows);
    for (size_t i = 0; i < N && n > 1; i++) {
        scd_fit_settings o = {misfit[i % 4], power[i / 4 % 3], weight[i / 12 % 2], shrink[i / 24]};
        double error = cross_validate(&m, rows, n, folds && folds < n ? folds : n, &o, predicted);
        if (error < least) {
            least = error;
            *out = o;
        }
    }
    free(predicted);
    free(rows);
    model_release(&m);
    return code;
}

/* ---- tables ---------------------------------------------------------------------------------- */

static scd_code allocate(const scd_study *s, size_t n, scd_fit *f, scd_error *err)
{
    size_t g = s->n_genes, c = s->n_contexts;
    size_t sizes[] = {n * g, c * g, c * g, c * s->n_targets * g, n * g, n * s->feature_dim};
    size_t total = 0;
    for (size_t i = 0; i < 6; i++)
        total += sizes[i];
    f->block = scd_calloc(total + 1, sizeof *f->block);
    f->conditions = scd_calloc(n + 1, sizeof *f->conditions);
    f->power = scd_calloc(c, sizeof *f->power);
    f->settings = scd_calloc(c, sizeof *f->settings);
    if (!f->block || !f->conditions || !f->power || !f->settings)
        return scd_fail(err, SCD_E_NOMEM, "out of memory for %zu conditions of %zu genes", n, g);
    float *at[6];
    at[0] = f->block;
    for (size_t i = 1; i < 6; i++)
        at[i] = at[i - 1] + sizes[i - 1];
    f->response = (scd_response){.n_genes = g,
                                 .n_targets = s->n_targets,
                                 .n_contexts = c,
                                 .n_conditions = n,
                                 .feature_dim = s->feature_dim,
                                 .conditions = f->conditions,
                                 .deltas = at[0],
                                 .means = at[1],
                                 .effect_mean = at[2],
                                 .effects = at[3],
                                 .power = f->power,
                                 .ridge = at[4],
                                 .features = at[5]};
    return SCD_OK;
}

/* The tables are the fit's own block; the response shows them read only. */
static float *own(const scd_fit *f, const float *table)
{
    return f->block + (table - f->block);
}

/* Effects u_t = sum over conditions with t of the weights C^-1 (delta - k m), gene by gene. */
static void table_effects(model *m, const scd_fit *f, uint32_t context, double *column)
{
    const scd_study *s = m->s;
    size_t G = s->n_genes;
    float *effects = own(f, f->response.effects) + context * s->n_targets * G;
    for (size_t g = 0; g < G; g++) {
        own(f, f->response.effect_mean)[context * G + g] = (float)m->mean[g];
        for (size_t i = 0; i < m->n; i++)
            column[i] = (double)s->deltas[m->rows[i] * G + g] - m->k[i] * m->mean[g];
        solve(m->factor, m->n, column);
        for (size_t i = 0; i < m->n; i++)
            for (size_t k = 0; k < s->conditions[m->rows[i]].n_targets; k++)
                effects[s->conditions[m->rows[i]].targets[k] * G + g] += (float)column[i];
    }
}

/* (K + RIDGE I) ridge = delta - mean, where K are the products of the conditions' features. place:
 * of the kept conditions in the fit. */
static void table_ridge(model *m, const scd_fit *f, uint32_t context, const uint32_t *place,
                        double *column)
{
    const scd_study *s = m->s;
    size_t G = s->n_genes, d = s->feature_dim;
    const float *mean = f->response.means + context * G;
    for (size_t i = 0; i < m->n; i++)
        for (size_t k = 0; k <= i; k++) {
            double sum = i == k ? RIDGE : 0;
            for (size_t j = 0; j < d; j++)
                sum += (double)s->features[m->rows[i] * d + j] *
                       (double)s->features[m->rows[k] * d + j];
            m->factor[i * m->n + k] = sum;
        }
    cholesky(m->factor, m->n);
    for (size_t g = 0; g < G; g++) {
        for (size_t i = 0; i < m->n; i++)
            column[i] = (double)s->deltas[m->rows[i] * G + g] - (double)mean[g];
        solve(m->factor, m->n, column);
        for (size_t i = 0; i < m->n; i++)
            own(f, f->response.ridge)[place[m->rows[i]] * G + g] = (float)column[i];
    }
}

static void table_means(const model *m, const scd_fit *f, uint32_t context)
{
    const scd_study *s = m->s;
    float *mean = own(f, f->response.means) + context * s->n_genes;
    for (size_t g = 0; g < s->n_genes && m->n; g++) {
        double sum = 0;
        for (size_t i = 0; i < m->n; i++)
            sum += (double)s->deltas[m->rows[i] * s->n_genes + g];
        mean[g] = (float)(sum / (double)m->n);
    }
}

/* The kept conditions with what was measured of them; place (N) says where each went. */
static void copy_conditions(const scd_study *s, const uint8_t *keep, scd_fit *f, uint32_t *place)
{
    size_t n = 0, G = s->n_genes, d = s->feature_dim;
    for (size_t i = 0; i < s->n_conditions; i++) {
        if (!keep[i])
            continue;
        f->conditions[n] = s->conditions[i];
        memcpy(own(f, f->response.deltas) + n * G, s->deltas + i * G, G * sizeof(float));
        memcpy(own(f, f->response.features) + n * d, s->features + i * d, d * sizeof(float));
        place[i] = (uint32_t)n++;
    }
}

scd_code scd_fit_new(const scd_study *s, const uint8_t *keep, const scd_fit_settings *settings,
                     scd_fit *out, scd_error *err)
{
    size_t n = 0;
    model m = {0};
    *out = (scd_fit){0};
    for (size_t i = 0; i < s->n_conditions; i++)
        n += keep[i] != 0;
    uint32_t *place = scd_calloc(s->n_conditions + 1, sizeof *place);
    double *column = scd_malloc(n + 1, sizeof *column);
    scd_code code = place && column ? allocate(s, n, out, err)
                                    : scd_fail(err, SCD_E_NOMEM, "out of memory for a fit");
    if (!code)
        code = model_new(s, n, &m, err);
    if (!code)
        copy_conditions(s, keep, out, place);
    for (uint32_t c = 0; c < s->n_contexts && !code; c++) {
        take_rows(&m, keep, c);
        out->settings[c] = settings[c];
        out->power[c] = settings[c].power;
        model_fit(&m, &settings[c]);
        table_means(&m, out, c);
        table_effects(&m, out, c, column);
        table_ridge(&m, out, c, place, column);
    }
    if (code)
        scd_fit_release(out);
    model_release(&m);
    free(column);
    free(place);
    return code;
}

void scd_fit_release(scd_fit *f)
{
    free(f->block);
    free(f->conditions);
    free(f->power);
    free(f->settings);
    *f = (scd_fit){0};
}
