/* bench_gpu.c - a GPU by itself: operations, cells per second by length, one cell, training.
 *
 *     build/bench/bench_gpu MODEL_DIR [--precision fp32|bf16] [--rows N] [--seconds S] [--train N]
 *
 * Prints tab-separated lines for tests/bench/gpu.py, which puts ceilings and PyTorch beside them:
 *   device  name  identity
 *   op      ...                                    see gpu_ops.h
 *   rate    workload  cells/s (median)  least  most  batches
 *   latency one cell  milliseconds (median)  10th  90th percentile  runs
 *   train   tokens/s (median)  least  most  rows of a micro-batch
 * The backend is the scdiva_cuda.so beside this program. --train 0 leaves training out. */
#include "engine/backend/registry.h"
#include "engine/base/clock.h"
#include "engine/base/rng.h"
#include "engine/model/forward.h"
#include "engine/train/net.h"
#include "tests/bench/gpu_ops.h"
#include "tests/bench/spread.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_BATCHES = 512, LATENCY_RUNS = 200, STEPS = 5 };

typedef struct bench {
    const scd_backend *be;
    scd_device *device;
    scd_model *model;
    scd_forward *forward;
    const scd_model_config *c;
    size_t rows, train_rows;
    double seconds;
} bench;

static void must(scd_code code, const scd_error *err)
{
    if (code) {
        fprintf(stderr, "bench_gpu: %s\n", err->message);
        exit(1);
    }
}

static void *need(size_t count, size_t size)
{
    void *p = calloc(count ? count : 1, size);
    if (!p)
        abort();
    return p;
}

/* One cell of n genes. */
static scd_cell make_cell(const scd_model_config *c, size_t n, uint64_t stream)
{
    scd_cell cell = {
        .n_tokens = n, .ids = need(n, sizeof(int32_t)), .values = need(n, sizeof(float))};
    size_t genes = c->vocab - 5, at = (size_t)(scd_rng_uniform(1, stream, 0) * (float)genes);
    for (size_t i = 0; i < n; i++, at = (at + 7919) % genes) {
        cell.ids[i] = (int32_t)(2 + at);
        cell.values[i] = 0.2f + 4 * scd_rng_uniform(1, stream, i + 1);
    }
    return cell;
}

typedef struct cells {
    scd_cell *cell;
    const scd_cell **list;
    size_t n;
} cells;

/* As many cells of `shortest` to `longest` genes as fill a batch. */
static cells fill(const bench *b, size_t shortest, size_t longest, uint64_t seed)
{
    cells s = {need(b->rows, sizeof *s.cell), need(b->rows, sizeof *s.list), 0};
    for (size_t rows = 0;; s.n++) {
        float u = scd_rng_uniform(seed, 2, s.n);
        size_t genes = shortest + (size_t)(u * (float)(longest - shortest));
        if (rows + genes + 1 > b->rows)
            break;
        s.cell[s.n] = make_cell(b->c, genes, seed * 100000 + s.n);
        s.list[s.n] = &s.cell[s.n];
        rows += genes + 1;
    }
    return s;
}

static void empty(cells *s)
{
    for (size_t i = 0; i < s->n; i++) {
        free(s->cell[i].ids);
        free(s->cell[i].values);
    }
    free(s->list);
    free(s->cell);
}

static void rate(bench *b, const char *name, size_t shortest, size_t longest)
{
    double rates[MAX_BATCHES], spent = 0;
    size_t n = 0;
    scd_error err = {0};
    longest = longest < b->c->max_gene_len ? longest : b->c->max_gene_len;
    shortest = shortest < longest ? shortest : longest;
    cells s = fill(b, shortest, longest, 3);
    float *out = need(s.n * b->c->hidden_dim, sizeof *out);
    for (size_t i = 0; (i < 4 || spent < b->seconds) && n < MAX_BATCHES; i++) {
        int64_t start = scd_now_ns();
        must(scd_forward_embed(b->forward, s.list, s.n, out, &err), &err);
        double seconds = (double)(scd_now_ns() - start) * 1e-9;
        if (i) /* the first warms up */
            rates[n++] = (double)s.n / seconds, spent += seconds;
    }
    scd_bench_sort(rates, n);
    printf("rate\t%s\t%.3f\t%.3f\t%.3f\t%zu\n", name, rates[n / 2], rates[0], rates[n - 1], n);
    fflush(stdout);
    free(out);
    empty(&s);
}

static void latency(bench *b, size_t genes)
{
    double ms[LATENCY_RUNS], spent = 0;
    size_t n = 0;
    scd_error err = {0};
    genes = genes < b->c->max_gene_len ? genes : b->c->max_gene_len;
    scd_cell cell = make_cell(b->c, genes, 9);
    const scd_cell *list[1] = {&cell};
    float *out = need(b->c->hidden_dim, sizeof *out);
    for (size_t i = 0; n < LATENCY_RUNS && (n < 10 || spent < b->seconds); i++) {
        int64_t start = scd_now_ns();
        must(scd_forward_embed(b->forward, list, 1, out, &err), &err);
        double seconds = (double)(scd_now_ns() - start) * 1e-9;
        if (i > 2) /* plain, recorded, put again */
            ms[n++] = seconds * 1e3, spent += seconds;
    }
    scd_bench_sort(ms, n);
    printf("latency\tone cell of %zu genes\t%.4f\t%.4f\t%.4f\t%zu\n", genes, ms[n / 2], ms[n / 10],
           ms[n * 9 / 10], n);
    fflush(stdout);
    free(out);
    free(cell.ids);
    free(cell.values);
}

/* ---- training ------------------------------------------------------------------------------ */

/* The cells of one micro-batch as training sees them: every second token hidden, gene and value. */
typedef struct hidden_batch {
    scd_net_batch b;
    uint32_t *cu, *pos, *masked;
    int32_t *ids, *targets;
    float *values, *value_targets;
    uint8_t *hidden;
} hidden_batch;

static hidden_batch hide(const cells *s, size_t rows)
{
    hidden_batch h = {.cu = need(s->n + 1, 4),
                      .pos = need(rows, 4),
                      .masked = need(rows, 4),
                      .ids = need(rows, 4),
                      .targets = need(rows, 4),
                      .values = need(rows, 4),
                      .value_targets = need(rows, 4),
                      .hidden = need(rows, 1)};
    size_t row = 0, m = 0;
    for (size_t c = 0; c < s->n; c++) {
        h.cu[c] = (uint32_t)row;
        h.ids[row++] = -1;
        for (size_t i = 0; i < s->cell[c].n_tokens; i++, row++) {
            h.pos[row] = (uint32_t)i + 1;
            h.ids[row] = s->cell[c].ids[i];
            h.values[row] = s->cell[c].values[i];
            if (i % 2)
                continue;
            h.hidden[row] = SCD_HIDE_GENE | SCD_HIDE_VALUE;
            h.masked[m] = (uint32_t)row;
            h.targets[m] = h.ids[row];
            h.value_targets[m++] = h.values[row];
        }
    }
    h.cu[s->n] = (uint32_t)row;
    h.b = (scd_net_batch){.n_cells = s->n,
                          .n_rows = row,
                          .cu_rows = h.cu,
                          .ids = h.ids,
                          .values = h.values,
                          .hidden = h.hidden,
                          .pos = h.pos,
                          .n_masked = m,
                          .masked = h.masked,
                          .targets = h.value_targets,
                          .n_gene_masked = m,
                          .gene_masked = h.masked,
                          .gene_targets = h.targets};
    return h;
}

static void drop(hidden_batch *h)
{
    void *all[] = {h->cu,      h->pos,    h->masked,        h->ids,
                   h->targets, h->values, h->value_targets, h->hidden};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        free(all[i]);
}

/* Forward, losses, backward and an update, again and again. */
static void train(bench *b)
{
    bench half = *b;
    half.rows = b->train_rows;
    cells s = fill(&half, b->c->max_gene_len, b->c->max_gene_len, 5);
    hidden_batch h = hide(&s, b->train_rows);
    scd_error err = {0};
    scd_net *net;
    const scd_net_options options = {.max_rows = b->train_rows};
    double rates[STEPS], norm;
    must(scd_net_new(b->be, b->be->train, b->device, b->c, &options, &net, &err), &err);
    must(scd_net_randomize(net, 1, &err), &err);
    for (int i = 0; i < STEPS + 1; i++) {
        const scd_net_step step = {.step = (uint64_t)i + 1,
                                   .lr = 1e-4f,
                                   .beta1 = 0.9f,
                                   .beta2 = 0.98f,
                                   .eps = 1e-8f,
                                   .decay = 0.05f,
                                   .clip = 1};
        scd_net_loss loss;
        float scale, share = 1.0f / (float)h.b.n_masked;
        int64_t start = scd_now_ns();
        must(scd_net_zero_grads(net, &err), &err);
        must(scd_net_forward(net, &h.b, 1, &err), &err);
        must(scd_net_pretrain_loss(net, share, 10 * share, &loss, &err), &err);
        must(scd_net_backward(net, 0, &err), &err);
        must(scd_net_update(net, &step, &norm, &scale, &err), &err);
        must(b->be->synchronize(b->device, &err), &err);
        if (i) /* the first warms up */
            rates[i - 1] =
                (double)(h.b.n_rows - h.b.n_cells) / ((double)(scd_now_ns() - start) * 1e-9);
    }
    scd_bench_sort(rates, STEPS);
    printf("train\ttokens/s, fp32\t%.1f\t%.1f\t%.1f\t%zu\n", rates[STEPS / 2], rates[0],
           rates[STEPS - 1], h.b.n_rows);
    scd_net_free(net);
    drop(&h);
    empty(&s);
}

static void open_all(bench *b, const char *dir, const scd_device_options *options)
{
    char why[512];
    scd_error err = {0};
    must(scd_backend_open(SCD_DEVICE_CUDA, options, &b->be, &b->device, why, sizeof why, &err),
         &err);
    must(scd_model_open(dir, &b->model, &err), &err);
    b->c = scd_model_get_config(b->model);
    size_t least = b->c->max_gene_len + 1;
    b->rows = b->rows > least ? b->rows : least;
    if (b->train_rows)
        b->train_rows = b->train_rows > least ? b->train_rows : least;
    must(scd_forward_open(b->be, b->device, b->model, b->rows, &b->forward, &err), &err);
    const scd_device_info *info = b->be->info(b->device);
    printf("device\t%s\t%s\n", info->name, info->identity);
    fflush(stdout);
}

int main(int argc, char **argv)
{
    bench b = {.rows = 65536, .train_rows = 9608, .seconds = 3};
    scd_device_options options = {0};
    scd_error err = {0};
    const char *dir = NULL;
    for (int i = 1; i < argc; i++) {
        bool more = i + 1 < argc;
        if (!strcmp(argv[i], "--precision") && more)
            options.precision = strcmp(argv[++i], "fp32") ? SCD_PRECISION_BF16 : SCD_PRECISION_FP32;
        else if (!strcmp(argv[i], "--rows") && more)
            b.rows = (size_t)atoll(argv[++i]);
        else if (!strcmp(argv[i], "--train") && more)
            b.train_rows = (size_t)atoll(argv[++i]);
        else if (!strcmp(argv[i], "--seconds") && more)
            b.seconds = atof(argv[++i]);
        else
            dir = argv[i];
    }
    if (!dir) {
        fprintf(stderr, "usage: bench_gpu MODEL_DIR [--precision fp32|bf16] [--rows N] "
                        "[--seconds S] [--train N]\n");
        return 2;
    }
    open_all(&b, dir, &options);
    size_t tokens = b.c->max_gene_len, n = b.rows / (tokens + 1);
    must(scd_bench_gpu_ops(b.be, b.device, b.c, n, tokens, b.seconds, &err), &err);
    rate(&b, "200 genes", 200, 200);
    rate(&b, "512 genes", 512, 512);
    rate(&b, "1,200 genes", 1200, 1200);
    rate(&b, "mixed 200 to 1,200", 200, 1200);
    latency(&b, 1200);
    latency(&b, 200);
    scd_forward_close(b.forward);
    if (b.train_rows)
        train(&b);
    scd_model_close(b.model);
    b.be->close(b.device);
    return 0;
}
