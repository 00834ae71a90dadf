/* bench_engine.c - the bare engine: cells per second by length, without HTTP, queue or cache.
 *
 *     build/bench/bench_engine MODEL_DIR [--precision fp32|bf16] [--threads N] [--seconds S]
 *
 * Batches are filled as the daemon fills them. The roof is oneDNN's best plain product of the same
 * run (roof.h). A cell's nominal work is that of every layer in full, as in the paper (0.156 TFLOP
 * at the official size and 1,200 genes); the last layer computes less, since only [LAT] is asked
 * for. Medians over batches of the rate, with the 10th and 90th percentile. */
#include "engine/base/clock.h"
#include "engine/base/mem.h"
#include "engine/base/rng.h"
#include "engine/engine.h"
#include "tests/bench/roof.h"
#include "tests/bench/spread.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_BATCHES = 4096 };

typedef struct workload {
    const char *name;
    size_t shortest, longest; /* genes */
} workload;

static const workload workloads[] = {{"200 genes", 200, 200},
                                     {"512 genes", 512, 512},
                                     {"1,200 genes", 1200, 1200},
                                     {"mixed 200 to 1,200", 200, 1200}};

/* Floating-point operations of one cell of `genes` tokens through every layer in full. */
static double nominal_flop(const scd_model_config *c, double genes)
{
    double rows = genes + 1, h = (double)c->hidden_dim, f = (double)c->ffn_dim, d = (double)c->d;
    double layer = 2 * rows * (4 * h * h + 3 * h * f) + 4 * rows * rows * h;
    return (double)c->n_layers * layer + 2 * genes * (d * d + d * h);
}

/* One cell of n different genes; arrays are malloc-ed and kept until the end of the program. */
static scd_cell make_cell(const scd_model_config *c, size_t n, uint64_t stream)
{
    scd_cell cell = {.n_tokens = n};
    cell.ids = malloc(n * sizeof *cell.ids);
    cell.values = malloc(n * sizeof *cell.values);
    if (!cell.ids || !cell.values)
        abort();
    size_t genes = c->vocab - 5; /* the special ids stand at both ends */
    size_t step = genes / n, at = (size_t)(scd_rng_uniform(1, stream, 0) * (float)genes);
    for (size_t i = 0; i < n; i++, at = (at + step) % genes) {
        cell.ids[i] = (int32_t)(2 + at);
        cell.values[i] = 0.2f + 4 * scd_rng_uniform(1, stream, i + 1);
    }
    return cell;
}

static void run(scd_engine *engine, const workload *w, double seconds, double roof)
{
    const scd_model_config *c = scd_engine_model(engine, 0)->config;
    size_t max_rows = scd_engine_max_rows(engine), longest = w->longest;
    if (longest > c->max_gene_len)
        longest = c->max_gene_len;
    static double rates[MAX_BATCHES];
    size_t n_batches = 0, total = 0;
    double flop = 0, spent = 0;
    scd_cell *cells = calloc(max_rows, sizeof *cells);
    const scd_cell **batch = calloc(max_rows, sizeof *batch);
    float *out = malloc(max_rows * c->hidden_dim * sizeof *out);
    if (!cells || !batch || !out)
        abort();
    for (uint64_t stream = 1; (spent < seconds || n_batches < 5) && n_batches < MAX_BATCHES;) {
        size_t n = 0;
        double batch_flop = 0;
        for (size_t rows = 0;; n++, stream++) {
            double u = scd_rng_uniform(2, 0, stream);
            size_t genes = w->shortest + (size_t)(u * (double)(longest - w->shortest));
            if (rows + genes + 1 > max_rows)
                break;
            cells[n] = make_cell(c, genes, stream);
            batch[n] = &cells[n];
            rows += genes + 1;
            batch_flop += nominal_flop(c, (double)genes);
        }
        stream++;
        scd_error err = {0};
        int64_t start = scd_now_ns();
        if (scd_engine_compute(engine, (scd_work){0}, batch, n, out, &err)) {
            fprintf(stderr, "bench_engine: %s\n", err.message);
            exit(1);
        }
        double s = (double)(scd_now_ns() - start) * 1e-9;
        rates[n_batches++] = batch_flop / s;
        total += n;
        spent += s;
        flop += batch_flop;
        for (size_t i = 0; i < n; i++) {
            free(cells[i].ids);
            free(cells[i].values);
        }
    }
    scd_bench_sort(rates, n_batches);
    double median = rates[n_batches / 2], per_cell = flop / (double)total;
    printf("  %-20s %9.2f cells/s (%.2f to %.2f, %zu batches)  %7.1f GFLOP/s nominal  %5.1f %% of "
           "the roof\n",
           w->name, median / per_cell, rates[n_batches / 10] / per_cell,
           rates[n_batches * 9 / 10] / per_cell, n_batches, median * 1e-9, 100 * median / roof);
    free(out);
    free(batch);
    free(cells);
}

int main(int argc, char **argv)
{
    scd_engine_options o = {.n_models = 1};
    const char *dir = NULL;
    double seconds = 4;
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--precision") && i + 1 < argc)
            o.precision = strcmp(argv[++i], "bf16") ? SCD_PRECISION_FP32 : SCD_PRECISION_BF16;
        else if (!strcmp(argv[i], "--threads") && i + 1 < argc)
            o.threads = atoi(argv[++i]);
        else if (!strcmp(argv[i], "--seconds") && i + 1 < argc)
            seconds = atof(argv[++i]);
        else
            dir = argv[i];
    }
    if (!dir) {
        fprintf(stderr, "usage: bench_engine MODEL_DIR [--precision fp32|bf16] [--threads N]\n");
        return 2;
    }
    o.model_dirs = &dir;
    scd_engine *engine;
    scd_error err = {0};
    int64_t start = scd_now_ns();
    if (scd_engine_open(&o, &engine, &err)) {
        fprintf(stderr, "bench_engine: %s\n", err.message);
        return 1;
    }
    const scd_device_info *info = scd_engine_device(engine);
    bool bf16 = info->precision == SCD_PRECISION_BF16;
    printf("bare engine: %s, %s, batches of %zu rows, open in %.2f s\n", info->name, info->identity,
           scd_engine_max_rows(engine), (double)(scd_now_ns() - start) * 1e-9);
    double roof = scd_bench_roof(bf16, o.threads);
    printf("  roof                 %9.1f GFLOP/s (oneDNN's best plain product)\n", roof * 1e-9);
    for (size_t i = 0; i < sizeof workloads / sizeof workloads[0]; i++)
        run(engine, &workloads[i], seconds, roof);
    printf("  roof, again          %9.1f GFLOP/s\n", scd_bench_roof(bf16, o.threads) * 1e-9);
    scd_engine_close(engine);
    return 0;
}
