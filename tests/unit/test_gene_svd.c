/* test_gene_svd.c - genes of one program lie together, and nothing else is touched.
 *
 * The corpus is made up: its two functions that are needed stand here and win over the archive's.
 *
 * Threads: main. */
#include "engine/base/mem.h"
#include "engine/base/rng.h"
#include "engine/train/gene_svd.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { N_CELLS = 700, N_GENES = 40, FIRST = 2, PROGRAM = 10, N_PROGRAMS = 3, D = 8 };
enum { VOCAB = FIRST + N_GENES + 5 }; /* two genes that nobody expresses, and the specials */

size_t scd_corpus_n_cells(const scd_corpus *corpus)
{
    (void)corpus;
    return N_CELLS;
}

/* Genes of program p are on where the cell's activity of p is high; genes past the programs are on
 * at random. */
static bool is_on(size_t cell, size_t gene)
{
    float noise = scd_rng_uniform(1, 100 + gene, cell);
    size_t program = gene / PROGRAM;
    float activity = program < N_PROGRAMS ? scd_rng_uniform(1, program, cell) : 0.5f;
    return 0.3f * noise + 0.7f * activity > 0.5f;
}

scd_code scd_corpus_read(scd_corpus *corpus, size_t first, size_t n, scd_arena *arena,
                         scd_corpus_cell *out, scd_error *err)
{
    (void)corpus;
    (void)err;
    for (size_t i = 0; i < n; i++) {
        int32_t *tokens = scd_arena_alloc(arena, N_GENES, sizeof *tokens);
        float *values = scd_arena_alloc(arena, N_GENES, sizeof *values);
        if (!tokens || !values)
            return SCD_E_NOMEM;
        out[i] =
            (scd_corpus_cell){.kind = SCD_INPUT_LOG1P_CP10K, .tokens = tokens, .values = values};
        for (size_t g = 0; g < N_GENES; g++)
            if (is_on(first + i, g)) {
                tokens[out[i].n] = (int32_t)g + FIRST;
                values[out[i].n++] = 1.0f + scd_rng_uniform(1, 200 + g, first + i);
            }
    }
    return SCD_OK;
}

static void fill_random(float *embedding, size_t d)
{
    for (size_t i = 0; i < VOCAB * d; i++)
        embedding[i] = scd_rng_normal(9, 0, i);
}

static void run(float *embedding, size_t d, const uint8_t *keep)
{
    scd_error err = {0};
    const scd_gene_svd_input in = {
        .keep = keep, .max_cells = 100000, .vocab = VOCAB, .d = d, .seed = 4};
    fill_random(embedding, d);
    if (scd_gene_svd(&in, embedding, &err))
        fail_msg("%s", err.message);
}

static double cosine(const float *embedding, size_t d, size_t a, size_t b)
{
    double ab = 0, aa = 0, bb = 0;
    for (size_t j = 0; j < d; j++) {
        double x = (double)embedding[(FIRST + a) * d + j],
               y = (double)embedding[(FIRST + b) * d + j];
        ab += x * y;
        aa += x * x;
        bb += y * y;
    }
    return ab / sqrt(aa * bb);
}

static void genes_of_one_program_lie_together(void **state)
{
    (void)state;
    static float embedding[VOCAB * D];
    double within = 0, across = 0;
    size_t n_within = 0, n_across = 0;
    run(embedding, D, NULL);
    for (size_t a = 0; a < PROGRAM * N_PROGRAMS; a++)
        for (size_t b = 0; b < a; b++)
            if (a / PROGRAM == b / PROGRAM) {
                within += cosine(embedding, D, a, b);
                n_within++;
            } else {
                across += fabs(cosine(embedding, D, a, b));
                n_across++;
            }
    /* A fifth of the variance is random: two perfect copies would have 0.8. */
    assert_true(within / (double)n_within > 0.6);
    assert_true(across / (double)n_across < 0.35);
}

static void rows_keep_their_scale(void **state)
{
    (void)state;
    static float embedding[VOCAB * D];
    double squares = 0;
    run(embedding, D, NULL);
    for (size_t i = FIRST * D; i < (FIRST + N_GENES) * D; i++)
        squares += (double)embedding[i] * (double)embedding[i];
    assert_true(fabs(squares / (N_GENES * D) - 1) < 0.15); /* 320 numbers of variance 1 */
}

static void genes_that_nobody_expresses_stay_as_they_were(void **state)
{
    (void)state;
    static float embedding[VOCAB * D], before[VOCAB * D];
    fill_random(before, D);
    run(embedding, D, NULL);
    assert_memory_equal(embedding, before, FIRST * D * sizeof *before);
    size_t tail = (FIRST + N_GENES) * D;
    assert_memory_equal(embedding + tail, before + tail, (VOCAB * D - tail) * sizeof *before);
}

static void only_kept_cells_count(void **state)
{
    (void)state;
    static float all[VOCAB * D], half[VOCAB * D], again[VOCAB * D];
    uint8_t keep[N_CELLS];
    for (size_t i = 0; i < N_CELLS; i++)
        keep[i] = i % 2 == 0;
    run(all, D, NULL);
    run(half, D, keep);
    run(again, D, keep);
    assert_memory_not_equal(all, half, sizeof all);
    assert_memory_equal(half, again, sizeof half);
    float untouched[VOCAB * D];
    memset(keep, 0, sizeof keep);
    run(all, D, keep);
    fill_random(untouched, D);
    assert_memory_equal(all, untouched, sizeof all);
}

static void more_dimensions_than_genes_are_no_trouble(void **state)
{
    (void)state;
    enum { WIDE = 64 };
    static float embedding[VOCAB * WIDE];
    run(embedding, WIDE, NULL);
    for (size_t i = 0; i < VOCAB * WIDE; i++)
        assert_true(isfinite(embedding[i]));
}

static void every_allocation_may_fail(void **state)
{
    (void)state;
    static float embedding[VOCAB * D];
    const scd_gene_svd_input in = {.max_cells = 256, .vocab = VOCAB, .d = D};
    for (long n = 0; n < 12; n++) {
        fill_random(embedding, D);
        scd_mem_fail_after(n);
        scd_code code = scd_gene_svd(&in, embedding, NULL);
        scd_mem_fail_after(-1);
        assert_int_equal(code, SCD_E_NOMEM);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(genes_of_one_program_lie_together),
        cmocka_unit_test(rows_keep_their_scale),
        cmocka_unit_test(genes_that_nobody_expresses_stay_as_they_were),
        cmocka_unit_test(only_kept_cells_count),
        cmocka_unit_test(more_dimensions_than_genes_are_no_trouble),
        cmocka_unit_test(every_allocation_may_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
