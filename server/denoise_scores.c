/* denoise_scores.c - what POST /v1/denoise found against what it had hidden, beside two baselines
 * that need no model: the mean of the gene over the request's other cells, and over the ten nearest
 * of them by what is visible of this one.
 *
 * The baselines are told which genes are hidden, and see the other cells whole; the model that must
 * name genes is told neither. */
#include "api/json_write.h"
#include "engine/denoise/score.h"
#include "server/denoise_call.h"
#include "server/sampling.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    LEAST_CELLS = 3,      /* with fewer there is nobody to take a mean over */
    MOST_KNN_CELLS = 512, /* every cell meets every other: some 0.3 s */
    NEIGHBOURS = 10,
    COLUMNS = 10
};

static const scd_denoise_cell *planned(const scd_infer_call *call, size_t c)
{
    return call->cells[c].planned;
}

bool scd_denoise_scores_prepare(scd_infer_call *call)
{
    scd_denoise_call *d = call->fields.denoise;
    size_t n = call->request.n_cells, vocab = call->model->config->vocab, total = 0;
    for (size_t c = 0; c < n; c++) {
        const scd_infer_cell *cell = &call->cells[c];
        if (cell->bad)
            continue;
        d->n_usable++;
        total += cell->n_hidden;
        d->max_hidden = cell->n_hidden > d->max_hidden ? cell->n_hidden : d->max_hidden;
    }
    d->has_means = d->n_usable >= LEAST_CELLS;
    d->has_knn = d->has_means && d->n_usable <= MOST_KNN_CELLS;
    if (d->has_means && !d->has_knn)
        scd_infer_warn(call, "no-knn",
                       "the nearest-neighbour baseline is computed for at most %d cells at a time",
                       (int)MOST_KNN_CELLS);
    d->sums = scd_arena_zalloc(&call->arena, vocab, sizeof *d->sums);
    d->near = scd_arena_zalloc(&call->arena, vocab, sizeof *d->near);
    d->near_sums = scd_arena_zalloc(&call->arena, vocab, sizeof *d->near_sums);
    d->norms = scd_arena_zalloc(&call->arena, n, sizeof *d->norms);
    d->judged = scd_arena_alloc(&call->arena, total + 1, sizeof *d->judged);
    size_t column = d->max_hidden > n ? d->max_hidden : n; /* a gene has at most a value a cell */
    d->columns = scd_arena_alloc(&call->arena, column + 1, COLUMNS * sizeof *d->columns);
    d->places = scd_arena_alloc(&call->arena, d->max_hidden + 1, sizeof *d->places);
    d->orders = scd_arena_alloc(&call->arena, d->max_hidden + 1, 2 * sizeof *d->orders);
    return d->sums && d->near && d->near_sums && d->norms && d->judged && d->columns && d->places &&
           d->orders;
}

/* ---- baselines ------------------------------------------------------------------------------ */

/* to[gene] += factor * value over the cell's tokens; of what is hidden in it, if `whole`. */
static void add_cell(const scd_infer_call *call, size_t c, bool whole, float factor, float *to)
{
    const scd_cell *cell = &call->cells[c].cell;
    for (size_t i = 0; i < cell->n_tokens; i++)
        if (whole || !planned(call, c)->hidden[i])
            to[cell->ids[i]] += factor * cell->values[i];
}

static void clear_cell(const scd_infer_call *call, size_t c, float *of)
{
    const scd_cell *cell = &call->cells[c].cell;
    for (size_t i = 0; i < cell->n_tokens; i++)
        of[cell->ids[i]] = 0;
}

static float dot_cell(const scd_infer_call *call, size_t c, const float *with)
{
    const scd_cell *cell = &call->cells[c].cell;
    double sum = 0;
    for (size_t i = 0; i < cell->n_tokens; i++)
        sum += (double)with[cell->ids[i]] * (double)cell->values[i];
    return (float)sum;
}

static void make_ready(const scd_infer_call *call)
{
    scd_denoise_call *d = call->fields.denoise;
    for (size_t c = 0; c < call->request.n_cells && d->has_means; c++) {
        if (call->cells[c].bad)
            continue;
        add_cell(call, c, true, 1, d->sums);
        add_cell(call, c, true, 1, d->near);
        d->norms[c] = sqrtf(dot_cell(call, c, d->near));
        clear_cell(call, c, d->near);
    }
    d->ready = true;
}

/* The nearest other cells by the cosine between what is visible of c and all of them; how many. */
static size_t find_neighbours(const scd_infer_call *call, size_t c, size_t out[NEIGHBOURS])
{
    const scd_denoise_call *d = call->fields.denoise;
    float likeness[NEIGHBOURS];
    size_t n = 0;
    add_cell(call, c, false, 1, d->near);
    for (size_t o = 0; o < call->request.n_cells; o++) {
        if (o == c || call->cells[o].bad || !(d->norms[o] > 0))
            continue;
        float l = dot_cell(call, o, d->near) / d->norms[o];
        size_t at = n;
        while (at > 0 && l > likeness[at - 1])
            at--;
        if (at == NEIGHBOURS)
            continue;
        n += n < NEIGHBOURS;
        for (size_t i = n - 1; i > at; i--) {
            likeness[i] = likeness[i - 1];
            out[i] = out[i - 1];
        }
        likeness[at] = l;
        out[at] = o;
    }
    clear_cell(call, c, d->near);
    return n;
}

/* Fills the baselines of the n judged tokens of cell c, whose own values are left out. */
static void judge_baselines(const scd_infer_call *call, size_t c, scd_judged *judged, size_t n)
{
    const scd_denoise_call *d = call->fields.denoise;
    size_t near[NEIGHBOURS], n_near = d->has_knn ? find_neighbours(call, c, near) : 0;
    for (size_t i = 0; i < n_near; i++)
        add_cell(call, near[i], true, 1.0f / (float)n_near, d->near_sums);
    for (size_t i = 0; i < n; i++) {
        float others = d->sums[judged[i].gene] - judged[i].truth;
        judged[i].gene_mean = d->has_means ? others / (float)(d->n_usable - 1) : NAN;
        judged[i].knn = n_near ? d->near_sums[judged[i].gene] : NAN;
    }
    for (size_t i = 0; i < n_near; i++)
        clear_cell(call, near[i], d->near_sums);
}

/* ---- what is compared ----------------------------------------------------------------------- */

/* The value found for a gene: 0 where it was not named. */
static float value_found(const float *found, size_t n_hidden, int32_t gene)
{
    for (size_t i = 0; i < n_hidden; i++)
        if ((int32_t)found[SCD_SAMPLE_WIDTH * i] == gene)
            return found[SCD_SAMPLE_WIDTH * i + 1];
    return 0;
}

/* Hidden tokens of cell c whose truth is known; how many. */
static size_t judge(const scd_infer_call *call, size_t c, scd_judged *out)
{
    const scd_infer_cell *cell = &call->cells[c];
    const scd_denoise_cell *own = planned(call, c);
    size_t n = 0;
    for (size_t i = 0; i < cell->cell.n_tokens; i++)
        if (own->hidden[i] && own->truth_known[i])
            out[n++] = (scd_judged){
                .gene = cell->cell.ids[i],
                .truth = cell->cell.values[i],
                .found = value_found(cell->result + 1, cell->n_hidden, cell->cell.ids[i])};
    judge_baselines(call, c, out, n);
    return n;
}

typedef enum column { FOUND, GENE_MEAN, KNN } column;

static float value_of(const scd_judged *j, column which)
{
    return which == FOUND ? j->found : which == GENE_MEAN ? j->gene_mean : j->knn;
}

static void put_number(scd_buf *out, const char *name, double value)
{
    scd_buf_printf(out, ",\"%s\":", name);
    scd_json_double(out, value);
}

/* "pearson":...,"spearman":...,"mae_nonzero":...,"mae_zero":... of n judged tokens; columns has
 * room for 6 n floats. */
static void put_value_scores(const scd_judged *j, size_t n, column which, float *columns,
                             scd_buf *out)
{
    float *truth = columns, *found = columns + n;
    size_t n_nonzero = 0, n_zero = 0;
    double nonzero = 0, zero = 0;
    for (size_t i = 0; i < n; i++) {
        truth[i] = j[i].truth;
        found[i] = value_of(&j[i], which);
        double error = fabs((double)truth[i] - (double)found[i]);
        *(truth[i] > 0 ? &nonzero : &zero) += error;
        *(truth[i] > 0 ? &n_nonzero : &n_zero) += 1;
    }
    scd_buf_puts(out, "\"pearson\":");
    scd_json_double(out, scd_pearson(truth, found, n));
    put_number(out, "spearman", scd_spearman(truth, found, n, columns + 2 * n));
    put_number(out, "mae_nonzero", n_nonzero ? nonzero / (double)n_nonzero : NAN);
    put_number(out, "mae_zero", n_zero ? zero / (double)n_zero : NAN);
}

static void put_baselines(const scd_infer_call *call, const scd_judged *j, size_t n, float *columns,
                          scd_buf *out)
{
    const scd_denoise_call *d = call->fields.denoise;
    scd_buf_puts(out, ",\"baselines\":{");
    if (d->has_means) {
        scd_buf_puts(out, "\"gene_mean\":{");
        put_value_scores(j, n, GENE_MEAN, columns, out);
        scd_buf_putc(out, '}');
    }
    if (d->has_knn) {
        scd_buf_puts(out, ",\"knn\":{");
        put_value_scores(j, n, KNN, columns, out);
        scd_buf_putc(out, '}');
    }
    scd_buf_putc(out, '}');
}

/* How well hidden genes were named, in place and as an order. */
static void put_name_scores(const scd_infer_call *call, size_t c, scd_buf *out)
{
    const scd_denoise_call *d = call->fields.denoise;
    const scd_infer_cell *cell = &call->cells[c];
    const float *found = cell->result + 1;
    size_t n = cell->n_hidden, at = 0, right = 0, anywhere = 0;
    int32_t *truth = d->orders, *named = d->orders + n;
    for (size_t i = 0; i < cell->cell.n_tokens; i++)
        if (planned(call, c)->hidden[i]) {
            truth[at] = cell->cell.ids[i];
            named[at] = (int32_t)found[SCD_SAMPLE_WIDTH * at];
            right += truth[at] == named[at];
            at++;
        }
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < n; k++)
            anywhere += truth[i] == named[k];
    scd_order_score s = scd_order_compare(truth, named, n, d->places, d->columns);
    put_number(out, "gene_accuracy", (double)right / (double)n);
    put_number(out, "gene_recall", (double)anywhere / (double)n);
    put_number(out, "l_dist", s.edit_distance);
    put_number(out, "bleu", s.bleu);
    put_number(out, "rank_spearman", s.spearman);
}

/* Mean value of the genes that were named though the cell does not have them: their truth is 0. */
static double named_wrongly(const scd_infer_call *call, size_t c, size_t *n)
{
    const scd_infer_cell *cell = &call->cells[c];
    const float *found = cell->result + 1;
    double sum = 0;
    *n = 0;
    for (size_t i = 0; i < cell->n_hidden; i++) {
        int32_t gene = (int32_t)found[SCD_SAMPLE_WIDTH * i];
        bool has = false;
        for (size_t k = 0; k < cell->cell.n_tokens; k++)
            has = has || cell->cell.ids[k] == gene;
        if (!has) {
            sum += (double)found[SCD_SAMPLE_WIDTH * i + 1];
            ++*n;
        }
    }
    return *n ? sum / (double)*n : NAN;
}

void scd_denoise_scores_put(const scd_infer_call *call, size_t c, scd_buf *out)
{
    scd_denoise_call *d = call->fields.denoise;
    if (!d->ready)
        make_ready(call);
    scd_judged *j = d->judged + d->n_judged;
    size_t n = call->cells[c].idle ? 0 : judge(call, c, j);
    if (!n) {
        scd_buf_puts(out, ",\"scores\":null");
        return;
    }
    d->n_judged += n;
    scd_buf_printf(out, ",\"scores\":{\"n\":%zu,", n);
    put_value_scores(j, n, FOUND, d->columns, out);
    if (!d->impute) {
        size_t n_wrong;
        double wrong = named_wrongly(call, c, &n_wrong);
        put_number(out, "mae_wrongly_named", wrong);
        scd_buf_printf(out, ",\"n_wrongly_named\":%zu", n_wrong);
        put_name_scores(call, c, out);
    }
    put_baselines(call, j, n, d->columns, out);
    scd_buf_putc(out, '}');
}

/* ---- over all cells ------------------------------------------------------------------------- */

static int by_gene(const void *a, const void *b)
{
    int32_t x = ((const scd_judged *)a)->gene, y = ((const scd_judged *)b)->gene;
    return (x > y) - (x < y);
}

void scd_denoise_gene_scores_put(const scd_infer_call *call, scd_buf *out)
{
    scd_denoise_call *d = call->fields.denoise;
    if (!d->per_gene)
        return;
    qsort(d->judged, d->n_judged, sizeof *d->judged, by_gene);
    scd_buf_puts(out, ",\"gene_scores\":[");
    for (size_t first = 0, end; first < d->n_judged; first = end) {
        const scd_judged *j = d->judged + first;
        for (end = first + 1; end < d->n_judged && d->judged[end].gene == j->gene;)
            end++;
        scd_buf_puts(out, first ? ",{\"gene\":" : "{\"gene\":");
        scd_sampling_put_gene(out, call->model->vocab, j->gene);
        scd_buf_printf(out, ",\"n\":%zu,", end - first);
        put_value_scores(j, end - first, FOUND, d->columns, out);
        put_baselines(call, j, end - first, d->columns, out);
        scd_buf_putc(out, '}');
    }
    scd_buf_putc(out, ']');
}
