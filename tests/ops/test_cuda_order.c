/* test_cuda_order.c - what the CUDA backend's training counts on the host: rows sorted by gene, the
 * cell of a row, the pieces of a sum. */
#include "engine/base/mem.h"
#include "engine/base/rng.h"
#include "engine/cuda/gene_order.h"
#include "engine/cuda/index.h"
#include "engine/cuda/philox.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

enum { ROWS = 500, VOCAB = 60 };

static void random_ids(int32_t *ids, size_t n, uint64_t seed)
{
    for (size_t i = 0; i < n; i++) {
        uint32_t word[4];
        scd_rng_block(seed, 0, i, word);
        ids[i] = word[0] % 7 ? (int32_t)(word[1] % VOCAB) : -1;
    }
}

/* Every row with a gene stands once, under its gene, after the smaller ones. */
static void check_order(const scd_gene_order *o, const int32_t *ids, size_t n)
{
    bool gene_seen[VOCAB] = {false}, row_seen[ROWS] = {false};
    size_t n_rows = 0;
    for (size_t g = 0; g < o->n_genes; g++) {
        assert_true(o->genes[g] < VOCAB && !gene_seen[o->genes[g]]);
        gene_seen[o->genes[g]] = true;
        assert_true(o->starts[g] < o->starts[g + 1]);
        for (size_t i = o->starts[g]; i < o->starts[g + 1]; i++) {
            size_t r = o->rows[i];
            assert_true(r < n && !row_seen[r] && ids[r] == (int32_t)o->genes[g]);
            assert_true(i == o->starts[g] || o->rows[i - 1] < r);
            row_seen[r] = true;
            n_rows++;
        }
    }
    for (size_t r = 0; r < n; r++)
        assert_int_equal(row_seen[r], ids[r] >= 0);
    assert_int_equal(o->n_words, 2 * o->n_genes + 1 + n_rows);
}

static void rows_are_sorted_by_gene_and_keep_their_order(void **state)
{
    (void)state;
    scd_gene_order o = {0};
    static const size_t counts[] = {0, 1, 2, 40, ROWS, 3, ROWS};
    int32_t ids[ROWS];
    for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++) {
        random_ids(ids, counts[i], i);
        assert_int_equal(scd_gene_order_sort(&o, ids, counts[i], VOCAB, NULL), SCD_OK);
        check_order(&o, ids, counts[i]);
    }
    scd_gene_order_release(&o);
    scd_gene_order_release(&o);
}

static void an_id_outside_the_vocabulary_is_refused_and_the_next_sort_is_right(void **state)
{
    (void)state;
    scd_gene_order o = {0};
    scd_error err;
    int32_t ids[4] = {3, 3, VOCAB, 5};
    assert_int_equal(scd_gene_order_sort(&o, ids, 4, VOCAB, &err), SCD_E_INVALID);
    assert_string_equal(err.message, "gene id 60 is outside the vocabulary of 60");
    ids[2] = 3;
    assert_int_equal(scd_gene_order_sort(&o, ids, 4, VOCAB, &err), SCD_OK);
    check_order(&o, ids, 4);
    scd_gene_order_release(&o);
}

static void a_sort_without_memory_says_so_and_may_be_tried_again(void **state)
{
    (void)state;
    scd_gene_order o = {0};
    int32_t ids[ROWS];
    random_ids(ids, ROWS, 1);
    scd_code code = SCD_E_NOMEM;
    for (long n = 0; code; n++) {
        scd_mem_fail_after(n);
        code = scd_gene_order_sort(&o, ids, ROWS, VOCAB, NULL);
        scd_mem_fail_after(-1);
        assert_true(code == SCD_OK || code == SCD_E_NOMEM);
    }
    check_order(&o, ids, ROWS);
    scd_gene_order_release(&o);
}

static void a_row_is_found_in_its_cell(void **state)
{
    (void)state;
    static const uint32_t cu[] = {0, 3, 3, 4, 20, 21}; /* one cell without rows */
    for (size_t row = 0; row < 21; row++) {
        size_t cell = scd_cell_of_row(cu, 5, row);
        assert_true(cell < 5 && cu[cell] <= row && row < cu[cell + 1]);
    }
}

static void pieces_of_a_sum_are_few_and_not_short(void **state)
{
    (void)state;
    for (size_t rows = 1; rows < 9000; rows += 37)
        for (size_t blocks = 1; blocks <= 256; blocks *= 2) {
            size_t piece = scd_piece_rows(rows, blocks, 128, 512);
            size_t n = scd_ceil_div(rows, piece);
            assert_true(piece >= 1 && piece <= rows && (n == 1 || piece >= 512));
            assert_true(n * blocks < 128 + blocks);
        }
}

static void random_words_are_those_of_the_library(void **state)
{
    (void)state;
    for (uint64_t i = 0; i < 500; i++) {
        uint32_t want[4], got[4];
        uint64_t seed = i * 0x9E3779B97F4A7C15u, stream = i << (i % 60), block = ~i * 77;
        scd_rng_block(seed, stream, block, want);
        scd_philox(seed, stream, block, got);
        for (size_t k = 0; k < 4; k++) {
            assert_int_equal(got[k], want[k]);
            assert_true(scd_gumbel(got[k]) == (float)scd_rng_gumbel(want[k]));
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_are_sorted_by_gene_and_keep_their_order),
        cmocka_unit_test(an_id_outside_the_vocabulary_is_refused_and_the_next_sort_is_right),
        cmocka_unit_test(a_sort_without_memory_says_so_and_may_be_tried_again),
        cmocka_unit_test(a_row_is_found_in_its_cell),
        cmocka_unit_test(pieces_of_a_sum_are_few_and_not_short),
        cmocka_unit_test(random_words_are_those_of_the_library),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
