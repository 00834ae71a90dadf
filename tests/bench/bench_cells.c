/* bench_cells.c - from gene names and counts to the model's tokens: resolution and serialisation.
 *
 * 64 cells of 1,200 genes drawn evenly from a made-up vocabulary of the official size (41,813 genes
 * with Ensembl ids, two aliases and an entropy each). That is the worst case for the caches: real
 * cells share most of their genes. Median over cells and rounds, 10th and 90th percentile, in
 * microseconds per cell. */
#include "engine/base/buf.h"
#include "engine/base/clock.h"
#include "engine/base/rng.h"
#include "engine/model/serialize.h"
#include "tests/bench/spread.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { N_CELLS = 64, N_GENES = 1200, N_ROUNDS = 31, N_TIMES = N_CELLS * N_ROUNDS, NAME = 40 };

typedef enum { BY_SYMBOL, BY_ENSEMBL, BY_VERSION, BY_ALIAS, N_WAYS } way;

static char names[N_CELLS][N_GENES][NAME];
static size_t lengths[N_CELLS][N_GENES];
static int32_t tokens[N_CELLS][N_GENES];
static double counts[N_CELLS][N_GENES], logs[N_CELLS][N_GENES];
static scd_model_config config;
static scd_vocab *vocab;

static void make_vocab(void)
{
    scd_buf tsv;
    scd_error err;
    if (scd_model_config_parse("{}", 2, &config, &err))
        abort();
    scd_buf_init(&tsv, 1 << 26);
    scd_buf_puts(&tsv, "token_id\tsymbol\tensembl_id\taliases\tentropy\n");
    for (uint32_t id = 2; id < config.vocab - 3; id++)
        scd_buf_printf(&tsv, "%u\tGENE%uP\tENSG%011u\tOLD%uX|C%uorf1\t%.4f\n", id, id, id * 7, id,
                       id, (double)scd_rng_uniform(1, 0, id));
    int64_t start = scd_now_ns();
    if (scd_vocab_parse(tsv.data, tsv.n_bytes, &config, &vocab, &err)) {
        puts(err.message);
        exit(1);
    }
    printf("  %-34s %8.2f ms  (once)\n", "genes.tsv of 41,813 genes",
           1e-6 * (double)(scd_now_ns() - start));
    scd_buf_release(&tsv);
}

static void make_cells(way how)
{
    static const char *const formats[N_WAYS] = {"GENE%uP", "ENSG%011u", "ENSG%011u.12", "OLD%uX"};
    for (uint32_t c = 0; c < N_CELLS; c++)
        for (uint32_t i = 0; i < N_GENES; i++) {
            uint32_t w[4];
            scd_rng_block(2, c, i, w);
            uint32_t id = 2 + w[0] % (uint32_t)(config.vocab - 5);
            bool by_id = how == BY_ENSEMBL || how == BY_VERSION;
            lengths[c][i] = (size_t)snprintf(names[c][i], NAME, formats[how], by_id ? id * 7 : id);
            counts[c][i] = 1 + (w[1] % 4 ? w[1] % 5 : w[2] % 200);
            logs[c][i] = 0.03 * counts[c][i];
        }
}

static void measure_resolve(const char *name, bool at_once)
{
    static double times[N_TIMES];
    static const char *texts[N_CELLS][N_GENES];
    scd_rung rung, rungs[N_GENES];
    for (size_t c = 0; c < N_CELLS; c++)
        for (size_t i = 0; i < N_GENES; i++)
            texts[c][i] = names[c][i];
    for (size_t t = 0; t < N_TIMES; t++) {
        size_t c = t % N_CELLS;
        int64_t start = scd_now_ns();
        if (at_once)
            scd_vocab_resolve_all(vocab, texts[c], lengths[c], N_GENES, tokens[c], rungs);
        for (size_t i = 0; !at_once && i < N_GENES; i++)
            tokens[c][i] = scd_vocab_resolve(vocab, names[c][i], lengths[c][i], &rung);
        times[t] = 1e-3 * (double)(scd_now_ns() - start);
        if (tokens[c][0] < 0)
            abort();
    }
    scd_bench_print_us(name, times, N_TIMES);
}

static void measure_serialize(const char *name, scd_input_kind kind)
{
    static double times[N_TIMES];
    for (size_t t = 0; t < N_TIMES; t++) {
        size_t c = t % N_CELLS;
        const double *values = kind == SCD_INPUT_COUNTS ? counts[c] : logs[c];
        const scd_cell_values in = {.n = N_GENES, .tokens = tokens[c], .values = values};
        scd_arena arena;
        scd_cell cell;
        scd_arena_init(&arena, 1 << 24);
        int64_t start = scd_now_ns();
        if (scd_cell_serialize(&config, vocab, kind, &in, &arena, &cell, NULL, NULL))
            abort();
        times[t] = 1e-3 * (double)(scd_now_ns() - start);
        scd_arena_release(&arena);
    }
    scd_bench_print_us(name, times, N_TIMES);
}

int main(void)
{
    scd_bench_print_machine();
    printf("%d cells of %d genes, %d rounds\n", N_CELLS, N_GENES, N_ROUNDS);
    make_vocab();
    static const char *const titles[N_WAYS] = {"resolve by symbol", "resolve by Ensembl id",
                                               "resolve by versioned Ensembl id",
                                               "resolve by alias"};
    for (way how = BY_SYMBOL; how < N_WAYS; how++) {
        make_cells(how);
        measure_resolve(titles[how], false);
        measure_resolve("  all at once", true);
    }
    measure_serialize("serialize counts", SCD_INPUT_COUNTS);
    measure_serialize("serialize log1p", SCD_INPUT_LOG1P_CP10K);
    scd_vocab_free(vocab);
    return 0;
}
