/* bench_train_ops.c - how fast the operations of training are on this machine, beside oneDNN's own
 * best sgemm in the same run.
 *
 *     make build/bench/bench_train_ops && build/bench/bench_train_ops [--threads N] [--rows N]
 *         [--hidden N] [--heads N] [--ffn N] [--vocab N] [--clock wall|cpu] [--only NAME]
 *
 * Sizes are those of a micro-batch: cells of 200 to 500 rows, half of them masked. Each figure is
 * the median of several runs with the spread from least to most. Where others compute on the same
 * cores,
 * `--clock cpu --threads 1` measures the processor's time instead of the wall's. */
#include "engine/backend/train_ops.h"
#include "engine/base/mem.h"
#include "engine/cpu/train_gemm.h"
#include "tests/bench/spread.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { RUNS = 7, MOST_CELLS = 4096 };

static void die(const char *what)
{
    fprintf(stderr, "bench_train_ops: %s\n", what);
    exit(1);
}

static void must(scd_code code, const scd_error *err)
{
    if (code)
        die(err->message);
}

typedef struct sizes {
    size_t threads, rows, hidden, heads, ffn, vocab;
} sizes;

typedef struct bench {
    sizes s;
    const scd_train_ops *ops;
    scd_device *device;
    size_t n_cells, masked;
    uint32_t cu[MOST_CELLS + 1], *pos, *index;
    int32_t *ids, *targets, *best;
    uint8_t *hidden;
    /* by width: rows of H, of 3H, of F, of 2F, and weights that fit any of them */
    float *x, *y, *qkv, *dqkv, *mid, *dmid, *gate_up, *dgate_up, *w, *dw, *table, *dtable, *lse;
    const char *only; /* NULL: all */
    clockid_t clock;
    double roof; /* floating-point operations per second of all threads */
} bench;

static float *floats(bench *b, size_t n)
{
    void *p;
    scd_error err;
    must(scd_backend_cpu.alloc(b->device, n * sizeof(float), &p, &err), &err);
    float *x = p;
    for (size_t i = 0; i < n; i++)
        x[i] = (float)((i * 2654435761u >> 7) % 2000) / 10000 - 0.1f;
    return x;
}

static void make(bench *b)
{
    size_t r = b->s.rows, h = b->s.hidden, f = b->s.ffn, widest = 3 * h > 2 * f ? 3 * h : 2 * f;
    b->pos = (uint32_t *)(void *)floats(b, r);
    b->index = (uint32_t *)(void *)floats(b, r);
    b->ids = (int32_t *)(void *)floats(b, r);
    b->targets = (int32_t *)(void *)floats(b, r);
    b->best = (int32_t *)(void *)floats(b, r);
    b->hidden = (uint8_t *)floats(b, r);
    for (size_t at = 0, n; at < r; at += n) { /* 200 to 500 rows, the last cell what is left */
        n = 200 + b->n_cells * 7919 % 301;
        n = n < r - at ? n : r - at;
        for (size_t i = 0; i < n; i++) {
            b->pos[at + i] = (uint32_t)i;
            b->ids[at + i] = i ? (int32_t)(2 + (at + i) * 7919 % (b->s.vocab - 5)) : -1;
            b->hidden[at + i] = (uint8_t)(i % 2 ? SCD_HIDE_GENE | SCD_HIDE_VALUE : 0);
        }
        if (b->n_cells == MOST_CELLS)
            die("too many rows");
        b->cu[++b->n_cells] = (uint32_t)(at + n);
    }
    for (size_t i = 0; i < r; i++)
        if (b->hidden[i]) {
            b->index[b->masked] = (uint32_t)i;
            b->targets[b->masked++] = b->ids[i];
        }
    b->x = floats(b, r * h);
    b->y = floats(b, r * h);
    b->qkv = floats(b, r * 3 * h);
    b->dqkv = floats(b, r * 3 * h);
    b->mid = floats(b, r * f);
    b->dmid = floats(b, r * f);
    b->gate_up = floats(b, r * 2 * f);
    b->dgate_up = floats(b, r * 2 * f);
    b->w = floats(b, h * widest);
    b->dw = floats(b, h * widest);
    b->table = floats(b, b->s.vocab * h);
    b->dtable = floats(b, b->s.vocab * h);
    b->lse = floats(b, r * b->s.heads);
}

/* ---- what is measured ---- */

typedef scd_code step(bench *b, scd_error *err);

static scd_code qkv(bench *b, scd_error *err)
{
    scd_t_linear a = {b->s.rows, b->s.hidden, 3 * b->s.hidden, b->x, b->w, NULL, b->qkv};
    return b->ops->linear(b->device, &a, err);
}
static scd_code qkv_dx(bench *b, scd_error *err)
{
    size_t h = b->s.hidden;
    scd_t_linear_back a = {b->s.rows, h, 3 * h, b->x, b->w, b->dqkv, b->y, NULL, NULL, 0};
    return b->ops->linear_back(b->device, &a, err);
}
static scd_code qkv_dw(bench *b, scd_error *err)
{
    size_t h = b->s.hidden;
    scd_t_linear_back a = {b->s.rows, h, 3 * h, b->x, b->w, b->dqkv, NULL, b->dw, NULL, 0};
    return b->ops->linear_back(b->device, &a, err);
}
static scd_code square(bench *b, scd_error *err)
{
    scd_t_linear a = {b->s.rows, b->s.hidden, b->s.hidden, b->x, b->w, NULL, b->y};
    return b->ops->linear(b->device, &a, err);
}
static scd_code square_back(bench *b, scd_error *err)
{
    size_t h = b->s.hidden;
    scd_t_linear_back a = {b->s.rows, h, h, b->x, b->w, b->y, b->qkv, b->dw, NULL, 0};
    return b->ops->linear_back(b->device, &a, err);
}
static scd_code gate_up(bench *b, scd_error *err)
{
    scd_t_linear a = {b->s.rows, b->s.hidden, 2 * b->s.ffn, b->x, b->w, NULL, b->gate_up};
    return b->ops->linear(b->device, &a, err);
}
static scd_code gate_up_back(bench *b, scd_error *err)
{
    size_t h = b->s.hidden, f = b->s.ffn;
    scd_t_linear_back a = {b->s.rows, h, 2 * f, b->x, b->w, b->dgate_up, b->y, b->dw, NULL, 0};
    return b->ops->linear_back(b->device, &a, err);
}
static scd_code down(bench *b, scd_error *err)
{
    scd_t_linear a = {b->s.rows, b->s.ffn, b->s.hidden, b->mid, b->w, NULL, b->y};
    return b->ops->linear(b->device, &a, err);
}
static scd_code down_back(bench *b, scd_error *err)
{
    size_t h = b->s.hidden, f = b->s.ffn;
    scd_t_linear_back a = {b->s.rows, f, h, b->mid, b->w, b->y, b->dmid, b->dw, NULL, 0};
    return b->ops->linear_back(b->device, &a, err);
}
static scd_code attention(bench *b, scd_error *err)
{
    scd_t_attention a = {b->n_cells, b->s.hidden, b->s.heads, b->cu, b->cu, b->qkv, b->y, b->lse};
    return b->ops->attention(b->device, &a, err);
}
static scd_code attention_back(bench *b, scd_error *err)
{
    scd_t_attention_back a = {b->n_cells, b->s.hidden, b->s.heads, b->cu, b->cu,
                              b->qkv,     b->y,        b->lse,     b->x,  b->dqkv};
    return b->ops->attention_back(b->device, &a, err);
}
static scd_code gene_loss(bench *b, scd_error *err)
{
    scd_t_gene_loss a = {b->masked, b->s.hidden, b->s.vocab, b->x, b->table, b->targets,
                         1e-4f,     b->lse,      b->best,    b->y, b->dtable};
    return b->ops->gene_loss(b->device, &a, err);
}
static scd_code gene_loss_only(bench *b, scd_error *err)
{
    scd_t_gene_loss a = {b->masked, b->s.hidden, b->s.vocab, b->x, b->table, b->targets,
                         1e-4f,     b->lse,      b->best,    NULL, NULL};
    return b->ops->gene_loss(b->device, &a, err);
}
static scd_code rms_norm(bench *b, scd_error *err)
{
    scd_t_rms_norm a = {b->s.rows, b->s.hidden, b->x, b->w, b->y, b->lse};
    return b->ops->rms_norm(b->device, &a, err);
}
static scd_code rms_norm_back(bench *b, scd_error *err)
{
    scd_t_rms_norm_back a = {b->s.rows, b->s.hidden, b->x, b->w, b->lse, b->y, b->mid, b->dw};
    return b->ops->rms_norm_back(b->device, &a, err);
}
static scd_code rope(bench *b, scd_error *err)
{
    size_t h = b->s.hidden;
    scd_t_rope a = {b->s.rows, 2 * h, 2 * b->s.heads, 3 * h, 1e4, b->pos, b->qkv, 0};
    return b->ops->rope(b->device, &a, err);
}
static scd_code swiglu(bench *b, scd_error *err)
{
    scd_t_swiglu a = {b->s.rows, b->s.ffn, b->gate_up, b->mid};
    return b->ops->swiglu(b->device, &a, err);
}
static scd_code swiglu_back(bench *b, scd_error *err)
{
    scd_t_swiglu_back a = {b->s.rows, b->s.ffn, b->gate_up, b->dmid, b->dgate_up};
    return b->ops->swiglu_back(b->device, &a, err);
}
static scd_t_tokens tokens(const bench *b)
{
    return (scd_t_tokens){b->n_cells, b->s.rows, b->s.hidden, b->s.vocab, b->cu,
                          b->cu,      b->ids,    b->ids,      b->hidden,  0};
}
static scd_code embed(bench *b, scd_error *err)
{
    scd_t_embed a = {tokens(b), b->table, b->w, b->w, b->x, b->y, b->lse};
    return b->ops->embed(b->device, &a, err);
}
static scd_code embed_back(bench *b, scd_error *err)
{
    scd_t_embed_back a = {tokens(b), b->y, b->lse, b->qkv, b->dtable, b->dw, b->dw};
    return b->ops->embed_back(b->device, &a, err);
}
static scd_code add(bench *b, scd_error *err)
{
    return b->ops->add(b->device, b->x, b->s.rows * b->s.hidden, b->y, err);
}
static scd_code adamw(bench *b, scd_error *err)
{
    size_t n = b->s.vocab * b->s.hidden, most = b->s.rows * b->s.ffn;
    n = n < most ? n : most; /* mid and dmid serve as the moments */
    memset(b->dmid, 0, n * sizeof(float));
    scd_t_adamw a = {n,      b->table, b->mid, b->dmid, b->dtable, 1e-4f, 0.9f,
                     0.999f, 1e-8f,    0.01f,  1,       0.5f,      0.5f};
    return b->ops->adamw(b->device, &a, err);
}

/* ---- timing ---- */

static double seconds(const bench *b)
{
    struct timespec t;
    clock_gettime(b->clock, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* Runs `body` often enough for 30 ms, RUNS times, sorted into `each`. */
static void time_step(bench *b, step *body, double each[RUNS])
{
    scd_error err;
    must(body(b, &err), &err);
    for (int i = 0; i < RUNS; i++) {
        double start = seconds(b), now;
        int n = 0;
        do {
            must(body(b, &err), &err);
            n++;
            now = seconds(b);
        } while (now - start < 0.03);
        each[i] = (now - start) / n;
    }
    scd_bench_sort(each, RUNS);
}

/* The fastest of three shapes that leave nothing to be desired, by this thread alone. */
static scd_code sgemm_wide(bench *b, scd_error *err)
{
    (void)err;
    return scd_gemm_nt(256, 512, 256, 1, b->gate_up, 256, b->qkv, 256, 0, b->dgate_up, 512);
}
static scd_code sgemm_deep(bench *b, scd_error *err)
{
    (void)err;
    return scd_gemm_nn(256, 128, 1024, 1, b->gate_up, 1024, b->qkv, 128, 0, b->dgate_up, 128);
}
static scd_code sgemm_sums(bench *b, scd_error *err)
{
    (void)err;
    return scd_gemm_tn(256, 128, 256, 1, b->gate_up, 256, b->qkv, 128, 1, b->dgate_up, 128);
}

static double sgemm_rate(bench *b)
{
    step *const steps[] = {sgemm_wide, sgemm_deep, sgemm_sums};
    const double flop[] = {2.0 * 256 * 512 * 256, 2.0 * 256 * 128 * 1024, 2.0 * 256 * 128 * 256};
    double each[RUNS], best = 0;
    for (size_t i = 0; i < 3; i++) {
        time_step(b, steps[i], each);
        best = flop[i] / each[RUNS / 2] > best ? flop[i] / each[RUNS / 2] : best;
    }
    return best;
}

/* flop 0: no products in it. */
static void measure(bench *b, const char *name, step *body, double flop)
{
    double each[RUNS];
    if (b->only && strcmp(b->only, name))
        return;
    time_step(b, body, each);
    printf("%-22s %9.3f ms (%.3f - %.3f)", name, each[RUNS / 2] * 1e3, each[0] * 1e3,
           each[RUNS - 1] * 1e3);
    if (flop > 0)
        printf(" %8.1f GFLOP/s %5.1f %% of the roof", flop / each[RUNS / 2] / 1e9,
               100 * flop / each[RUNS / 2] / b->roof);
    printf("\n");
}

static void report(bench *b)
{
    double r = (double)b->s.rows, h = (double)b->s.hidden, f = (double)b->s.ffn, pairs = 0;
    double loss = 2 * (double)b->masked * h * (double)b->s.vocab;
    for (size_t c = 0; c < b->n_cells; c++)
        pairs += (double)(b->cu[c + 1] - b->cu[c]) * (b->cu[c + 1] - b->cu[c]);
    measure(b, "qkv", qkv, 6 * r * h * h);
    measure(b, "qkv dx", qkv_dx, 6 * r * h * h);
    measure(b, "qkv dw", qkv_dw, 6 * r * h * h);
    measure(b, "o_proj", square, 2 * r * h * h);
    measure(b, "o_proj back", square_back, 4 * r * h * h);
    measure(b, "gate_up", gate_up, 4 * r * h * f);
    measure(b, "gate_up back", gate_up_back, 8 * r * h * f);
    measure(b, "down", down, 2 * r * h * f);
    measure(b, "down back", down_back, 4 * r * h * f);
    measure(b, "attention", attention, 4 * pairs * h);
    measure(b, "attention back", attention_back, 10 * pairs * h);
    measure(b, "gene_loss", gene_loss, 4 * loss); /* logits twice, dx, dw */
    measure(b, "gene_loss, loss only", gene_loss_only, loss);
    measure(b, "rms_norm", rms_norm, 0);
    measure(b, "rms_norm back", rms_norm_back, 0);
    measure(b, "rope", rope, 0);
    measure(b, "swiglu", swiglu, 0);
    measure(b, "swiglu back", swiglu_back, 0);
    measure(b, "embed", embed, 0);
    measure(b, "embed back", embed_back, 0);
    measure(b, "add", add, 0);
    measure(b, "adamw (table)", adamw, 0);
}

int main(int argc, char **argv)
{
    static bench b = {.s = {0, 4096, 128, 4, 512, 9600}};
    struct {
        const char *name;
        size_t *value;
    } options[] = {{"--threads", &b.s.threads}, {"--rows", &b.s.rows}, {"--hidden", &b.s.hidden},
                   {"--heads", &b.s.heads},     {"--ffn", &b.s.ffn},   {"--vocab", &b.s.vocab}};
    b.clock = CLOCK_MONOTONIC;
    for (int i = 1; i < argc; i += 2) {
        size_t k = 0;
        if (!strcmp(argv[i], "--only") && i + 1 < argc) {
            b.only = argv[i + 1];
            continue;
        }
        if (!strcmp(argv[i], "--clock") && i + 1 < argc) {
            b.clock = strcmp(argv[i + 1], "cpu") ? CLOCK_MONOTONIC : CLOCK_PROCESS_CPUTIME_ID;
            continue;
        }
        while (k < 6 && strcmp(argv[i], options[k].name))
            k++;
        if (k == 6 || i + 1 == argc)
            die("options: --threads, --rows, --hidden, --heads, --ffn, --vocab, --clock, --only");
        *options[k].value = (size_t)strtoul(argv[i + 1], NULL, 10);
    }
    scd_device_options device = {.precision = SCD_PRECISION_FP32, .threads = (int)b.s.threads};
    scd_error err;
    b.ops = &scd_train_ops_cpu;
    must(scd_backend_cpu.open(&device, &b.device, &err), &err);
    make(&b);
    const scd_device_info *info = scd_backend_cpu.info(b.device);
    printf("%s\n%s\n%zu rows in %zu cells, %zu masked, hidden %zu, %zu heads, ffn %zu, vocab %zu\n",
           info->name, info->identity, b.s.rows, b.n_cells, b.masked, b.s.hidden, b.s.heads,
           b.s.ffn, b.s.vocab);
    int threads = 0;
    sscanf(strrchr(info->name, ',') + 1, "%d", &threads);
    b.roof = sgemm_rate(&b) * threads;
    printf("roof: %.1f GFLOP/s (oneDNN's best sgemm of one thread, times %d)\n", b.roof / 1e9,
           threads);
    report(&b);
    return 0;
}
