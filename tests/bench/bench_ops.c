/* bench_ops.c - how fast the CPU's operations are, beside oneDNN's own best products on the same
 * cores in the same run.
 *
 *     make build/bench/bench_ops && build/bench/bench_ops [--precision fp32|bf16] [--threads N]
 *                                                         [--cells N] [--tokens N]
 *
 * Prints the roof (roof.h), then every operation at the official size and a whole forward pass made
 * of them. Each figure is the median of several runs with the spread from least to most. */
#include "engine/backend/backend.h"
#include "engine/base/clock.h"
#include "engine/base/mem.h"
#include "tests/bench/roof.h"
#include "tests/bench/spread.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { H = 512, F = 2048, HEADS = 8, LAYERS = 12, VOCAB = 41818, RUNS = 7 };

static void die(const char *what)
{
    fprintf(stderr, "bench_ops: %s\n", what);
    exit(1);
}

static void *need(size_t bytes)
{
    void *p = scd_malloc_aligned(bytes, 1);
    if (!p)
        die("out of memory");
    memset(p, 0, bytes);
    return p;
}

static void must(scd_code code, const scd_error *err)
{
    if (code)
        die(err->message);
}

/* ---- timing ---- */

typedef void step(void *arg);
typedef struct timing {
    double median_s, least_s, most_s;
} timing;

/* Runs `body` often enough for 50 ms, RUNS times. */
static timing measure(step *body, void *arg)
{
    double each[RUNS];
    body(arg);
    for (int i = 0; i < RUNS; i++) {
        int64_t start = scd_now_ns(), now;
        int n = 0;
        do {
            body(arg);
            n++;
            now = scd_now_ns();
        } while (now - start < 50 * SCD_NS_PER_MS);
        each[i] = (double)(now - start) / 1e9 / n;
    }
    scd_bench_sort(each, RUNS);
    return (timing){each[RUNS / 2], each[0], each[RUNS - 1]};
}

static void print_line(const char *name, timing t, double flop, double roof)
{
    printf("%-34s %9.3f ms (%.3f - %.3f)", name, t.median_s * 1e3, t.least_s * 1e3, t.most_s * 1e3);
    if (flop > 0)
        printf(" %8.1f GFLOP/s", flop / t.median_s / 1e9);
    if (flop > 0 && roof > 0)
        printf(" %5.1f %% of the roof", 100 * flop / t.median_s / roof);
    printf("\n");
}

/* ---- the operations ---- */

typedef struct bench {
    const scd_backend *be;
    scd_device *device;
    size_t cells, tokens, rows; /* per batch; tokens per cell */
    scd_batch_rows batch;
    scd_embed_args embed;
    scd_qkv_args qkv;
    scd_attention_args attention, attention_lat;
    scd_block_out_args block_out, block_out_lat;
    scd_linear_args linear;
} bench;

/* Activations as the daemon has them: of the device, on huge pages. */
static void *on_device(bench *b, size_t bytes)
{
    void *p;
    scd_error err;
    must(b->be->alloc(b->device, bytes, &p, &err), &err);
    memset(p, 0, bytes);
    return p;
}

static float *random_floats(size_t n, float spread)
{
    float *x = need(n * sizeof *x);
    for (size_t i = 0; i < n; i++)
        x[i] = (float)((i * 2654435761u >> 7) % 2000) / 1000 * spread - spread;
    return x;
}

static scd_matrix *random_matrix(bench *b, size_t parts, size_t rows, size_t cols)
{
    scd_tensor t[3];
    scd_error err;
    scd_matrix *m = NULL;
    float *w = random_floats(rows * cols, 0.07f);
    for (size_t i = 0; i < parts; i++)
        t[i] = (scd_tensor){.data = w, .dtype = SCD_F32, .rows = rows, .cols = cols};
    must(b->be->matrix_pack(b->device, t, parts, 0, &m, &err), &err);
    free(w);
    return m;
}

static void run_embed(void *arg)
{
    bench *b = arg;
    scd_error err;
    must(b->be->embed(b->device, &b->batch, &b->embed, &err), &err);
}

static void run_qkv(void *arg)
{
    bench *b = arg;
    scd_error err;
    must(b->be->qkv(b->device, &b->qkv, &err), &err);
}

static void run_attention(void *arg)
{
    bench *b = arg;
    scd_error err;
    must(b->be->attention(b->device, &b->attention, &err), &err);
}

static void run_attention_lat(void *arg)
{
    bench *b = arg;
    scd_error err;
    must(b->be->attention(b->device, &b->attention_lat, &err), &err);
}

static void run_block_out(void *arg)
{
    bench *b = arg;
    scd_error err;
    must(b->be->block_out(b->device, &b->block_out, &err), &err);
}

static void run_block_out_lat(void *arg)
{
    bench *b = arg;
    scd_error err;
    must(b->be->block_out(b->device, &b->block_out_lat, &err), &err);
}

static void run_linear(void *arg)
{
    bench *b = arg;
    scd_error err;
    must(b->be->linear(b->device, &b->linear, &err), &err);
}

/* Every layer in full, as reconstruction needs it. */
static void run_forward(void *arg)
{
    run_embed(arg);
    for (int i = 0; i < LAYERS; i++) {
        run_qkv(arg);
        run_attention(arg);
        run_block_out(arg);
    }
}

static void make_batch(bench *b)
{
    size_t rows = b->rows;
    uint32_t *cu = need((b->cells + 1) * sizeof *cu), *lat = need((b->cells + 1) * sizeof *lat);
    uint32_t *pos = need(rows * sizeof *pos);
    int32_t *ids = need(rows * sizeof *ids);
    uint8_t *hidden = need(rows);
    for (size_t c = 0; c <= b->cells; c++) {
        cu[c] = (uint32_t)(c * (b->tokens + 1));
        lat[c] = (uint32_t)c;
    }
    for (size_t r = 0; r < rows; r++) {
        pos[r] = (uint32_t)(r % (b->tokens + 1));
        ids[r] = pos[r] ? (int32_t)(r * 7919 % VOCAB) : -1;
    }
    b->batch = (scd_batch_rows){.n_cells = b->cells,
                                .n_tokens = rows - b->cells,
                                .n_rows = rows,
                                .cu_rows = cu,
                                .host_cu_rows = cu,
                                .ids = ids,
                                .values = random_floats(rows, 2),
                                .hidden = hidden,
                                .pos = pos};
    b->attention = (scd_attention_args){.n_cells = b->cells,
                                        .hidden_dim = H,
                                        .n_heads = HEADS,
                                        .cu_q = cu,
                                        .cu_k = cu,
                                        .host_cu_q = cu,
                                        .host_cu_k = cu};
    b->attention_lat = b->attention;
    b->attention_lat.cu_q = b->attention_lat.host_cu_q = lat;
}

static void make_operations(bench *b)
{
    size_t act = b->be->info(b->device)->act_bytes, rows = b->rows;
    float *h = on_device(b, rows * H * sizeof *h), *vector = random_floats(H, 1);
    void *q = on_device(b, rows * H * act), *k = on_device(b, rows * H * act);
    void *v = on_device(b, rows * H * act), *att = on_device(b, rows * H * act);
    make_batch(b);
    scd_tensor table = {
        .data = random_floats((size_t)VOCAB * H, 1), .dtype = SCD_F32, .rows = VOCAB, .cols = H};
    void *loaded;
    scd_error err;
    must(b->be->table_load(b->device, &table, &loaded, &err), &err);
    b->embed = (scd_embed_args){.gene_embedding = loaded,
                                .gene_embedding_dtype = SCD_F32,
                                .d = H,
                                .hidden_dim = H,
                                .vocab = VOCAB,
                                .value_w0 = vector,
                                .value_b0 = vector,
                                .value_w2 = random_matrix(b, 1, H, H),
                                .value_b2 = vector,
                                .value_mask = vector,
                                .gene_mask = vector,
                                .input_proj = random_matrix(b, 1, H, H),
                                .latent_w0 = random_matrix(b, 1, H, H),
                                .latent_b0 = vector,
                                .latent_norm_w = vector,
                                .latent_norm_b = vector,
                                .latent_w3 = random_matrix(b, 1, H, H),
                                .latent_b3 = vector,
                                .clean = on_device(b, rows * H * sizeof(float)),
                                .h = h};
    b->qkv = (scd_qkv_args){.rows = rows,
                            .hidden_dim = H,
                            .n_heads = HEADS,
                            .h = h,
                            .norm = vector,
                            .wqkv = random_matrix(b, 3, H, H),
                            .pos = b->batch.pos,
                            .parts = SCD_PART_Q | SCD_PART_K | SCD_PART_V,
                            .q = q,
                            .k = k,
                            .v = v};
    b->attention.q = b->attention_lat.q = q;
    b->attention.k = b->attention_lat.k = k;
    b->attention.v = b->attention_lat.v = v;
    b->attention.out = b->attention_lat.out = att;
    b->block_out = (scd_block_out_args){.rows = rows,
                                        .hidden_dim = H,
                                        .ffn_dim = F,
                                        .h = h,
                                        .att = att,
                                        .norm2 = vector,
                                        .wo = random_matrix(b, 1, H, H),
                                        .wgate_up = random_matrix(b, 2, F, H),
                                        .wdown = random_matrix(b, 1, H, F)};
    b->block_out_lat = b->block_out;
    b->block_out_lat.rows = b->cells;
    b->linear = (scd_linear_args){.rows = rows,
                                  .in_dim = H,
                                  .out_dim = H,
                                  .x = h,
                                  .w = random_matrix(b, 1, H, H),
                                  .bias = vector,
                                  .relu = 1,
                                  .y = on_device(b, rows * H * sizeof(float))};
    must(b->be->reserve(b->device, rows, H, F, H, &err), &err);
}

static void report(bench *b, double roof)
{
    double r = (double)b->rows, l = (double)b->tokens + 1, c = (double)b->cells;
    double qkv = 6 * r * H * H, att = 4 * c * l * l * H, out = 2 * r * H * H + 6 * r * H * F;
    double embed = 4 * r * H * H + 4 * c * H * H;
    print_line("embed", measure(run_embed, b), embed, roof);
    print_line("qkv", measure(run_qkv, b), qkv, roof);
    print_line("attention", measure(run_attention, b), att, roof);
    print_line("attention, [LAT] queries", measure(run_attention_lat, b), 0, roof);
    print_line("block_out", measure(run_block_out, b), out, roof);
    print_line("block_out, [LAT] rows", measure(run_block_out_lat, b), out * c / r, roof);
    print_line("linear 512 x 512", measure(run_linear, b), 2 * r * H * H, roof);
    timing t = measure(run_forward, b);
    print_line("forward", t, embed + LAYERS * (qkv + att + out), roof);
    printf("cells/s: %.3f\n", c / t.median_s);
}

int main(int argc, char **argv)
{
    bench b = {.be = &scd_backend_cpu, .cells = 1, .tokens = 1200};
    scd_device_options options = {.precision = SCD_PRECISION_AUTO};
    for (int i = 1; i + 1 < argc; i += 2) {
        if (!strcmp(argv[i], "--precision"))
            options.precision =
                strcmp(argv[i + 1], "fp32") ? SCD_PRECISION_BF16 : SCD_PRECISION_FP32;
        else if (!strcmp(argv[i], "--threads"))
            options.threads = atoi(argv[i + 1]);
        else if (!strcmp(argv[i], "--cells"))
            b.cells = (size_t)atoi(argv[i + 1]);
        else if (!strcmp(argv[i], "--tokens"))
            b.tokens = (size_t)atoi(argv[i + 1]);
        else
            die("options: --precision, --threads, --cells, --tokens");
    }
    b.rows = b.cells * (b.tokens + 1);
    scd_error err;
    must(b.be->open(&options, &b.device, &err), &err);
    const scd_device_info *info = b.be->info(b.device);
    int threads = 0;
    sscanf(strrchr(info->name, ',') + 1, "%d", &threads);
    printf("%s\n%s\n%zu cells of %zu tokens\n", info->name, info->identity, b.cells, b.tokens);
    double roof = scd_bench_roof(info->precision == SCD_PRECISION_BF16, threads);
    printf("roof: %.1f GFLOP/s\n", roof / 1e9);
    make_operations(&b);
    report(&b, roof);
    return 0;
}
