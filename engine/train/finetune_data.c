/* finetune_data.c - the split, and how much each cell and each gene counts. */
#include "engine/base/mem.h"
#include "engine/base/rng.h"
#include "engine/train/finetune.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCK_CELLS = 1024, SPLIT_STREAM = 0x53504c, MEAN_BINS = 20 };

/* ---- split ----------------------------------------------------------------------------------- */

static scd_code find_groups(const scd_finetune *run, uint8_t *held_group, scd_error *err)
{
    const scd_option_list *names = &run->o->held_out_groups;
    for (size_t i = 0; i < names->n; i++) {
        size_t g = 0;
        while (g < run->labels.n_groups && strcmp(run->labels.group_names[g], names->items[i]))
            g++;
        if (g == run->labels.n_groups)
            return scd_fail(err, SCD_E_INVALID, "--held-out-group %s: no cell is of this group",
                            names->items[i]);
        held_group[g] = 1;
    }
    return SCD_OK;
}

/* Whole groups go to one side: in an order that the seed fixes, each that leaves the share nearer
 * to what was asked for; the smallest, where each is too much. */
static void draw_groups(const scd_finetune *run, uint8_t *held_group, const size_t *sizes)
{
    size_t n_groups = run->labels.n_groups, n_held = 0, smallest = 0, n = 0;
    for (size_t g = 0; g < n_groups; g++) {
        n += sizes[g];
        if (sizes[g] && (!sizes[smallest] || sizes[g] < sizes[smallest]))
            smallest = g;
    }
    double goal = run->o->held_out * (double)n;
    float last = -1;
    for (size_t visited = 0; visited < n_groups; visited++) {
        size_t next = SIZE_MAX;
        float least = 2;
        for (size_t g = 0; g < n_groups; g++) {
            float key = scd_rng_uniform(run->o->seed, SPLIT_STREAM + 1, g);
            if (key > last && key < least) {
                least = key;
                next = g;
            }
        }
        if (next == SIZE_MAX)
            break;
        last = least;
        if (fabs((double)(n_held + sizes[next]) - goal) < fabs((double)n_held - goal)) {
            held_group[next] = 1;
            n_held += sizes[next];
        }
    }
    if (!n_held)
        held_group[smallest] = 1;
}

/* Sizes of the groups, and how many have cells. */
static size_t count_groups(const scd_labels *l, size_t *sizes)
{
    size_t n = 0;
    for (size_t i = 0; i < l->n_cells; i++)
        if (l->best[i] >= 0 && l->groups[i] >= 0)
            n += !sizes[l->groups[i]]++;
    return n;
}

/* A held-out class must have been learned, and an empty side is no split. */
static scd_code check_split(const scd_finetune *run, scd_error *err)
{
    const scd_labels *l = &run->labels;
    for (size_t k = 0; k < l->n_classes; k++) {
        size_t n = 0;
        for (size_t i = 0; i < l->n_cells; i++)
            n += run->train[i] && l->best[i] == (int32_t)k;
        if (!n)
            return scd_fail(err, SCD_E_INVALID,
                            "no cell of label '%s' is left to train on: all were held out",
                            l->names[k]);
    }
    if (!run->n_held)
        return scd_fail(err, SCD_E_INVALID,
                        "no cell is held out of %zu: early stopping and calibration need some; "
                        "give --held-out a larger share",
                        run->n_train);
    return SCD_OK;
}

scd_code scd_finetune_split(scd_finetune *run, scd_error *err)
{
    const scd_labels *l = &run->labels;
    uint8_t *held_group = scd_calloc(l->n_groups + 1, 1);
    size_t *sizes = scd_calloc(l->n_groups + 1, sizeof *sizes);
    size_t n_groups = sizes ? count_groups(l, sizes) : 0;
    bool by_group = run->o->held_out_groups.n || (n_groups > 1 && strcmp(run->o->split, "cell"));
    run->train = scd_calloc(l->n_cells + 1, 1);
    run->held = scd_calloc(l->n_cells + 1, 1);
    scd_code code = SCD_OK;
    if (!held_group || !sizes || !run->train || !run->held)
        code = scd_fail(err, SCD_E_NOMEM, "out of memory for a split");
    run->by_group = by_group;
    if (!code && run->o->held_out_groups.n)
        code = find_groups(run, held_group, err);
    else if (!code && by_group)
        draw_groups(run, held_group, sizes);
    for (size_t i = 0; i < l->n_cells && !code; i++) {
        if (l->best[i] < 0)
            continue;
        bool held = by_group
                        ? l->groups[i] >= 0 && held_group[l->groups[i]]
                        : (double)scd_rng_uniform(run->o->seed, SPLIT_STREAM, i) < run->o->held_out;
        run->held[i] = held;
        run->train[i] = !held;
        run->n_held += held;
        run->n_train += !held;
    }
    free(held_group);
    free(sizes);
    return code ? code : check_split(run, err);
}

/* ---- weights --------------------------------------------------------------------------------- */

/* weight of a cell = (cells / (classes n_class))^class_power (cells / (files n_file))^file_power,
 * scaled to a mean of 1 over the training cells; soft labels average their classes. */
static void weigh_cells(scd_finetune *run, const uint32_t *file_of, double *class_n, double *file_n)
{
    const scd_labels *l = &run->labels;
    size_t classes = l->n_classes, n_files = scd_corpus_n_files(run->corpus);
    double n = (double)run->n_train, sum = 0;
    for (size_t i = 0; i < l->n_cells; i++)
        for (size_t k = 0; run->train[i] && k < classes; k++)
            class_n[k] += (double)l->targets[i * classes + k];
    for (size_t i = 0; i < l->n_cells; i++)
        file_n[file_of[i]] += run->train[i];
    for (size_t i = 0; i < l->n_cells; i++) {
        double w = 0;
        for (size_t k = 0; run->train[i] && k < classes; k++)
            if (l->targets[i * classes + k] > 0)
                w += (double)l->targets[i * classes + k] *
                     pow(n / ((double)classes * fmax(class_n[k], 1)), run->o->class_power);
        if (run->train[i])
            w *= pow(n / ((double)n_files * file_n[file_of[i]]), run->o->file_power);
        run->weights[i] = (float)w;
        sum += w;
    }
    for (size_t i = 0; i < l->n_cells; i++)
        run->weights[i] = (float)((double)run->weights[i] * n / sum);
}

typedef struct gene_stats {
    double *sum, *squares; /* (vocab) of counts per 10,000 over training cells */
    double *n;             /* (vocab) training cells whose file measures the gene */
} gene_stats;

static double value_of(const scd_corpus_cell *cell, size_t i)
{
    double x = (double)cell->values[i];
    return cell->kind == SCD_INPUT_COUNTS ? 1e4 * x / cell->total : expm1(x);
}

/* Without any gene that the model knows there is nothing to learn from, or to judge by. */
static void leave_out(scd_finetune *run, size_t cell)
{
    run->n_unknown += run->train[cell] || run->held[cell];
    run->n_train -= run->train[cell];
    run->n_held -= run->held[cell];
    run->train[cell] = run->held[cell] = 0;
}

/* One pass over the corpus: each cell's file, each gene's moments; cells without genes leave. */
static scd_code gather(scd_finetune *run, uint32_t *file_of, gene_stats *stats, scd_error *err)
{
    size_t n = run->labels.n_cells;
    scd_corpus_cell *cells = scd_malloc(BLOCK_CELLS, sizeof *cells);
    scd_code code = cells ? SCD_OK : scd_fail(err, SCD_E_NOMEM, "out of memory");
    for (size_t first = 0; first < n && !code; first += BLOCK_CELLS) {
        size_t count = n - first < BLOCK_CELLS ? n - first : BLOCK_CELLS;
        scd_arena arena;
        scd_arena_init(&arena, SIZE_MAX / 2);
        code = scd_corpus_read(run->corpus, first, count, &arena, cells, err);
        for (size_t c = 0; c < count && !code; c++) {
            file_of[first + c] = cells[c].file;
            if (!cells[c].n)
                leave_out(run, first + c);
            for (size_t i = 0; run->train[first + c] && i < cells[c].n; i++) {
                double x = value_of(&cells[c], i);
                stats->sum[cells[c].tokens[i]] += x;
                stats->squares[cells[c].tokens[i]] += x * x;
            }
        }
        scd_arena_release(&arena);
    }
    free(cells);
    for (size_t i = 0; i < n && !code; i++) {
        size_t n_panel = 0;
        if (!run->train[i] || (i && run->train[i - 1] && file_of[i] == file_of[i - 1]))
            continue; /* counted with the run it continues */
        const int32_t *panel = scd_corpus_panel(run->corpus, file_of[i], &n_panel);
        size_t end = i;
        while (end < n && run->train[end] && file_of[end] == file_of[i])
            end++;
        for (size_t g = 0; g < n_panel; g++)
            stats->n[panel[g]] += (double)(end - i);
    }
    return code;
}

static const double *sort_key; /* qsort has no argument */

static int by_key(const void *a, const void *b)
{
    uint32_t i = *(const uint32_t *)a, k = *(const uint32_t *)b;
    double x = sort_key[i], y = sort_key[k];
    return x != y ? (x > y) - (x < y) : (i > k) - (i < k);
}

/* order: genes by rising key. */
static void sort_genes(uint32_t *order, size_t n, const double *key)
{
    sort_key = key;
    qsort(order, n, sizeof *order, by_key);
}

/* Dispersion (variance over mean, its logarithm) against that of genes of like mean: z-scores
 * within bins of equal size along the order of means, as Seurat's and scanpy's selections of
 * variable genes have it. Genes nobody expresses come last. */
static void normalise(double *dispersion, const double *mean, const uint32_t *by_mean, size_t vocab)
{
    size_t first = 0;
    while (first < vocab && !(mean[by_mean[first]] > 0))
        dispersion[by_mean[first++]] = -INFINITY;
    for (size_t bin = 0; bin < MEAN_BINS; bin++) {
        size_t from = first + (vocab - first) * bin / MEAN_BINS;
        size_t to = first + (vocab - first) * (bin + 1) / MEAN_BINS;
        double sum = 0, squares = 0, n = (double)(to - from);
        for (size_t i = from; i < to; i++) {
            sum += dispersion[by_mean[i]];
            squares += dispersion[by_mean[i]] * dispersion[by_mean[i]];
        }
        double sd = sqrt(fmax(squares / fmax(n, 1) - sum * sum / fmax(n * n, 1), 1e-12));
        for (size_t i = from; i < to; i++)
            dispersion[by_mean[i]] = (dispersion[by_mean[i]] - sum / n) / sd;
    }
}

/* rank: by normalised dispersion; level: by mean. Both rise to 1. */
static scd_code rank_genes(scd_finetune *run, const gene_stats *stats, scd_error *err)
{
    size_t vocab = scd_model_get_config(run->model)->vocab;
    double *mean = scd_calloc(2 * vocab, sizeof *mean), *dispersion = mean + vocab;
    uint32_t *order = scd_malloc(vocab, sizeof *order);
    scd_code code = SCD_OK;
    if (!mean || !order)
        code = scd_fail(err, SCD_E_NOMEM, "out of memory for %zu genes", vocab);
    for (size_t g = 0; g < vocab && !code; g++) {
        double n = fmax(stats->n[g], 1);
        mean[g] = stats->sum[g] / n;
        double variance = stats->squares[g] / n - mean[g] * mean[g];
        dispersion[g] = mean[g] > 0 ? log(fmax(variance / mean[g], 1e-12)) : 0;
        order[g] = (uint32_t)g;
    }
    if (!code) {
        sort_genes(order, vocab, mean);
        for (size_t r = 0; r < vocab; r++)
            run->gene_level[order[r]] = (float)((double)(r + 1) / (double)vocab);
        normalise(dispersion, mean, order, vocab);
        sort_genes(order, vocab, dispersion);
        for (size_t r = 0; r < vocab; r++)
            run->gene_rank[order[r]] = (float)((double)(r + 1) / (double)vocab);
    }
    free(mean);
    free(order);
    return code;
}

scd_code scd_finetune_weigh(scd_finetune *run, scd_error *err)
{
    size_t vocab = scd_model_get_config(run->model)->vocab, n = run->labels.n_cells;
    size_t n_sums = run->labels.n_classes + scd_corpus_n_files(run->corpus);
    double *sums = scd_calloc(3 * vocab + n_sums, sizeof *sums);
    uint32_t *file_of = scd_malloc(n + 1, sizeof *file_of);
    run->weights = scd_calloc(n + 1, sizeof *run->weights);
    run->gene_rank = scd_calloc(vocab, sizeof *run->gene_rank);
    run->gene_level = scd_calloc(vocab, sizeof *run->gene_level);
    run->measured = scd_calloc(vocab, 1);
    scd_code code = SCD_OK;
    if (!sums || !file_of || !run->weights || !run->gene_rank || !run->gene_level || !run->measured)
        code = scd_fail(err, SCD_E_NOMEM, "out of memory for %zu cells", n);
    gene_stats stats = {sums, sums + vocab, sums + 2 * vocab};
    if (!code)
        code = gather(run, file_of, &stats, err);
    if (!code && run->n_unknown)
        code = check_split(run, err);
    for (size_t g = 0; g < vocab && !code; g++)
        run->measured[g] = stats.n[g] > 0;
    if (!code) {
        weigh_cells(run, file_of, sums + 3 * vocab, sums + 3 * vocab + run->labels.n_classes);
        code = rank_genes(run, &stats, err);
    }
    run->augment = run->o->augment;
    run->augment.seed = run->o->seed;
    run->augment.gene_rank = run->gene_rank;
    run->augment.gene_level = run->gene_level;
    free(sums);
    free(file_of);
    return code;
}
