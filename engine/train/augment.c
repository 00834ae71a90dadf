/* augment.c - see augment.h.
 *
 * A cell on its way is a list of (token, count) with its total; counts that were never measured
 * (log1p_cp10k) are expm1(x) with a total of 1e4, which panels and scales can work on as well. Each
 * step writes a new list and becomes the cell unless it is empty. */
#include "engine/train/augment.h"

#include "engine/base/rng.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Streams of the generator; a draw has its own range of them. */
enum { PICK, PARTNER, THIN, EFFECT, PANEL, SUBSET, N_STREAMS = 16 };
/* Which of PICK's numbers decides what. */
enum {
    SUM_YES,
    SUM_N,
    THIN_YES,
    THIN_BY,
    PANEL_YES,
    PANEL_BY,
    PANEL_TOTAL,
    PANEL_TOP,
    PANEL_TOP_BY,
    PANEL_SPREAD,
    SCALE_YES,
    SCALE_BY,
    SUBSET_YES,
    SUBSET_BY
};

/* Share of all genes that a selection leaves out for being expressed too much (scanpy's default, a
 * mean above 3 in log1p, is 1 to 2 % of them in blood). */
static const double TOP_GENES = 0.03;

/* From a strict selection of variable genes to one that hardly looks at them. */
static const double SPREAD_LOW = 0.05, SPREAD_HIGH = 2;

typedef struct count {
    int32_t token;
    double n;
} count;

typedef struct state {
    const scd_augment_options *o;
    const scd_augment_input *in;
    scd_arena *arena;
    count *list; /* ascending tokens, no repeats, all above 0 */
    size_t n;
    double total;
} state;

static float uniform(const state *s, unsigned stream, uint64_t counter)
{
    return scd_rng_uniform(s->o->seed, s->in->draw * N_STREAMS + stream, counter);
}

static bool happens(const state *s, unsigned which, double share)
{
    return (double)uniform(s, PICK, which) < share;
}

/* Log-uniform in [low, high]. */
static double log_uniform(const state *s, unsigned which, double low, double high)
{
    return low * pow(high / low, (double)uniform(s, PICK, which));
}

scd_code scd_augment_check(const scd_augment_options *o, scd_error *err)
{
    const struct {
        const char *name;
        double value, low, high;
    } ranges[] = {
        {"sum-share", o->sum_share, 0, 1},
        {"gene-sigma", o->gene_sigma, 0, 4},
        {"thin-share", o->thin_share, 0, 1},
        {"thin-min", o->thin_min, o->thin_share > 0 ? 1e-3 : 0, 1},
        {"panel-share", o->panel_share, 0, 1},
        {"panel-min", o->panel_min, o->panel_share > 0 ? 1e-3 : 0, 1},
        {"panel-top", o->panel_top, 0, 1},
        {"panel-total", o->panel_total, 0, 1},
        {"scale-share", o->scale_share, 0, 1},
        {"scale", o->scale, o->scale_share > 0 ? 1 : 0, 1000},
        {"subset-share", o->subset_share, 0, 1},
        {"subset-min", o->subset_min, o->subset_share > 0 ? 1e-3 : 0, 1},
        {"sum-max", (double)o->sum_max, o->sum_share > 0 ? 2 : 0, 64},
    };
    for (size_t i = 0; i < sizeof ranges / sizeof ranges[0]; i++)
        if (!(ranges[i].value >= ranges[i].low && ranges[i].value <= ranges[i].high))
            return scd_fail(err, SCD_E_INVALID, "%s %g: must be from %g to %g", ranges[i].name,
                            ranges[i].value, ranges[i].low, ranges[i].high);
    return SCD_OK;
}

static scd_code no_memory(scd_error *err)
{
    return scd_fail(err, SCD_E_NOMEM, "out of memory for a training cell");
}

static count *new_list(const state *s, size_t n)
{
    return scd_arena_alloc(s->arena, n + 1, sizeof(count));
}

/* ---- steps ----------------------------------------------------------------------------------- */

static int by_token(const void *a, const void *b)
{
    int32_t x = ((const count *)a)->token, y = ((const count *)b)->token;
    return (x > y) - (x < y);
}

static void append(count *list, size_t *n, const scd_corpus_cell *cell, double *total)
{
    bool counts = cell->kind == SCD_INPUT_COUNTS;
    for (size_t i = 0; i < cell->n; i++) {
        double x = (double)cell->values[i];
        list[(*n)++] = (count){cell->tokens[i], counts ? x : expm1(x)};
    }
    *total += counts ? cell->total : 1e4;
}

/* The cell, and with some luck partners on top of it. */
static scd_code begin(state *s, scd_error *err)
{
    const scd_augment_input *in = s->in;
    const scd_corpus_cell *cells[64] = {in->cell};
    size_t n_cells = 1, room = in->cell->n;
    if (in->cell->kind == SCD_INPUT_COUNTS && in->n_partners &&
        happens(s, SUM_YES, s->o->sum_share)) {
        size_t more = 1 + (size_t)(uniform(s, PICK, SUM_N) * (float)(s->o->sum_max - 1));
        for (size_t i = 0; i < more; i++) {
            size_t at = (size_t)((double)uniform(s, PARTNER, i) * (double)in->n_partners);
            if (in->partners[at]->kind != SCD_INPUT_COUNTS)
                continue;
            cells[n_cells++] = in->partners[at];
            room += in->partners[at]->n;
        }
    }
    s->list = new_list(s, room);
    if (!s->list)
        return no_memory(err);
    size_t n = 0;
    for (size_t i = 0; i < n_cells; i++)
        append(s->list, &n, cells[i], &s->total);
    if (n_cells > 1)
        qsort(s->list, n, sizeof *s->list, by_token);
    for (size_t i = 0; i < n; i++) {
        if (s->n && s->list[s->n - 1].token == s->list[i].token)
            s->list[s->n - 1].n += s->list[i].n;
        else
            s->list[s->n++] = s->list[i];
    }
    return SCD_OK;
}

/* Binomial(n, p): exact for small n, else the rounded normal (n p (1 - p) is above 5 there, or the
 * result is within one count of its mean). */
static double binomial(const state *s, int32_t token, double n, double p)
{
    uint64_t base = (uint64_t)(uint32_t)token << 8;
    if (n <= 64) {
        double left = 0;
        for (uint64_t i = 0; i < (uint64_t)n; i++)
            left += (double)uniform(s, THIN, base + i) < p;
        return left;
    }
    double z = (double)scd_rng_normal(s->o->seed, s->in->draw * N_STREAMS + THIN, base);
    return fmin(fmax(round(n * p + z * sqrt(n * p * (1 - p))), 0), n);
}

/* What the cell's total counts beside these genes is thinned in the mean. */
static scd_code thin(state *s, scd_error *err)
{
    if (s->in->cell->kind != SCD_INPUT_COUNTS || !happens(s, THIN_YES, s->o->thin_share))
        return SCD_OK;
    double p = log_uniform(s, THIN_BY, s->o->thin_min, 1), before = 0, after = 0;
    count *list = new_list(s, s->n);
    size_t n = 0;
    if (!list)
        return no_memory(err);
    for (size_t i = 0; i < s->n; i++) {
        double left = binomial(s, s->list[i].token, s->list[i].n, p);
        before += s->list[i].n;
        after += left;
        if (left > 0)
            list[n++] = (count){s->list[i].token, left};
    }
    if (!n)
        return SCD_OK;
    s->total = fmax(s->total - before, 0) * p + after;
    s->list = list;
    s->n = n;
    return SCD_OK;
}

static void gene_effects(state *s)
{
    if (s->o->gene_sigma <= 0)
        return;
    uint64_t stream = s->in->draw * N_STREAMS + EFFECT;
    for (size_t i = 0; i < s->n; i++) {
        count *c = &s->list[i];
        double z = (double)scd_rng_normal(s->o->seed, stream, (uint64_t)(uint32_t)c->token);
        double now = c->n * exp(s->o->gene_sigma * z);
        s->total += now - c->n;
        c->n = now;
    }
}

/* How surely a gene of rank r, in [0, 1], is on a panel of a fraction f of all genes:
 *
 *     p(r) = 1 / (1 + exp((c - r) / s)),  c such that the mean of p over r ~ U(0, 1) is f
 *
 * s is how little the panel minds the rank: near 0 it takes the first f genes, above 1 any. */
typedef struct selection {
    double fraction, centre, spread;
} selection;

static selection select_genes(double fraction, double spread)
{
    double a = expm1(fraction / spread), all = expm1(1 / spread);
    double centre = fraction < 1 ? -spread * log(a / (all - a)) : -INFINITY;
    return (selection){fraction, centre, spread};
}

static double chance(const selection *p, double rank)
{
    return 1 / (1 + exp((p->centre - rank) / p->spread));
}

/* Panels may also lack up to TOP_GENES of all genes, those expressed most. */
static scd_code panel(state *s, scd_error *err)
{
    if (!happens(s, PANEL_YES, s->o->panel_share))
        return SCD_OK;
    selection by = select_genes(log_uniform(s, PANEL_BY, s->o->panel_min, 1),
                                log_uniform(s, PANEL_SPREAD, SPREAD_LOW, SPREAD_HIGH));
    bool top = s->o->gene_level && happens(s, PANEL_TOP, s->o->panel_top);
    double highest = top ? 1 - TOP_GENES * (double)uniform(s, PICK, PANEL_TOP_BY) : 1;
    count *list = new_list(s, s->n);
    size_t n = 0;
    double kept = 0;
    if (!list)
        return no_memory(err);
    for (size_t i = 0; i < s->n; i++) {
        int32_t token = s->list[i].token;
        if (top && (double)s->o->gene_level[token] > highest)
            continue;
        double p = s->o->gene_rank ? chance(&by, (double)s->o->gene_rank[token]) : by.fraction;
        if ((double)uniform(s, PANEL, (uint64_t)(uint32_t)token) < p) {
            kept += s->list[i].n;
            list[n++] = s->list[i];
        }
    }
    if (!n)
        return SCD_OK;
    if (happens(s, PANEL_TOTAL, s->o->panel_total))
        s->total = kept;
    s->list = list;
    s->n = n;
    return SCD_OK;
}

static int by_value(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

/* Keep the genes with the least random keys. */
static scd_code subset(state *s, scd_error *err)
{
    size_t keep = s->n;
    if (happens(s, SUBSET_YES, s->o->subset_share)) {
        double f = s->o->subset_min + (1 - s->o->subset_min) * (double)uniform(s, PICK, SUBSET_BY);
        keep = (size_t)ceil(f * (double)s->n);
    }
    if (s->o->max_tokens && keep > s->o->max_tokens)
        keep = s->o->max_tokens;
    if (keep >= s->n)
        return SCD_OK;
    float *keys = scd_arena_alloc(s->arena, s->n, sizeof *keys);
    float *sorted = scd_arena_alloc(s->arena, s->n, sizeof *sorted);
    if (!keys || !sorted)
        return no_memory(err);
    for (size_t i = 0; i < s->n; i++)
        sorted[i] = keys[i] = uniform(s, SUBSET, (uint64_t)(uint32_t)s->list[i].token);
    qsort(sorted, s->n, sizeof *sorted, by_value);
    float limit = sorted[keep];
    size_t n = 0;
    for (size_t i = 0; i < s->n && n < keep; i++)
        if (keys[i] < limit)
            s->list[n++] = s->list[i];
    s->n = n ? n : 1; /* all keys alike: the first one */
    return SCD_OK;
}

/* ---- the whole way --------------------------------------------------------------------------- */

static scd_code serialize(const state *s, const scd_model_config *config, const scd_vocab *vocab,
                          scd_cell *out, scd_error *err)
{
    double scale = happens(s, SCALE_YES, s->o->scale_share)
                       ? log_uniform(s, SCALE_BY, 1 / s->o->scale, s->o->scale)
                       : 1;
    int32_t *tokens = scd_arena_alloc(s->arena, s->n + 1, sizeof *tokens);
    double *values = scd_arena_alloc(s->arena, s->n + 1, sizeof *values);
    size_t bad;
    if (!tokens || !values)
        return no_memory(err);
    for (size_t i = 0; i < s->n; i++) {
        double fraction = fmin(s->list[i].n / s->total * scale, 1);
        tokens[i] = s->list[i].token;
        values[i] = log1p(1e4 * fraction);
    }
    scd_cell_values in = {.n = s->n, .tokens = tokens, .values = values};
    return scd_cell_serialize(config, vocab, SCD_INPUT_LOG1P_CP10K, &in, s->arena, out, &bad, err);
}

scd_code scd_augment(const scd_augment_options *options, const scd_augment_input *in,
                     const scd_model_config *config, const scd_vocab *vocab, scd_arena *arena,
                     scd_cell *out, scd_error *err)
{
    state s = {.o = options, .in = in, .arena = arena};
    scd_code code = begin(&s, err);
    if (!code)
        code = thin(&s, err);
    if (!code)
        gene_effects(&s);
    if (!code)
        code = panel(&s, err);
    if (!code)
        code = subset(&s, err);
    return code ? code : serialize(&s, config, vocab, out, err);
}
