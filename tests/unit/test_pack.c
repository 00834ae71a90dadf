/* test_pack.c - sequences become rows, positions and targets of a micro-batch.
 *
 * Threads: main. */
#include "engine/base/mem.h"
#include "engine/train/pack.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

enum { GENE_AND_VALUE = SCD_TARGET_GENE | SCD_TARGET_VALUE };

static const int32_t ids[] = {7, 9, 4};
static const float seen[] = {1.5f, 0.5f, 0.25f}, clean[] = {2.5f, 1.0f, 0.75f};
static const uint8_t hidden[] = {SCD_HIDE_GENE | SCD_HIDE_VALUE, 0, SCD_HIDE_VALUE};
static const uint8_t target[] = {GENE_AND_VALUE, 0, SCD_TARGET_VALUE};
static const scd_sequence three = {3, ids, seen, hidden, target, clean};

static scd_pack *new_pack(size_t max_rows)
{
    scd_pack *pack = NULL;
    assert_int_equal(scd_pack_new(max_rows, &pack, NULL), SCD_OK);
    return pack;
}

static void a_cell_begins_with_its_latent_row(void **state)
{
    (void)state;
    scd_pack *pack = new_pack(20);
    assert_true(scd_pack_add(pack, &three));
    assert_true(scd_pack_add(pack, &three));
    const scd_net_batch *b = scd_pack_batch(pack);
    const uint32_t cu[] = {0, 4, 8}, pos[] = {0, 1, 2, 3, 0, 1, 2, 3};
    const int32_t all[] = {-1, 7, 9, 4, -1, 7, 9, 4};
    const float values[] = {0, 1.5f, 0.5f, 0.25f, 0, 1.5f, 0.5f, 0.25f};
    const uint8_t hides[] = {0, 3, 0, 2, 0, 3, 0, 2};
    assert_int_equal(b->n_cells, 2);
    assert_int_equal(b->n_rows, 8);
    assert_memory_equal(b->cu_rows, cu, sizeof cu);
    assert_memory_equal(b->pos, pos, sizeof pos);
    assert_memory_equal(b->ids, all, sizeof all);
    assert_memory_equal(b->values, values, sizeof values);
    assert_memory_equal(b->hidden, hides, sizeof hides);
    scd_pack_free(pack);
}

static void targets_are_clean_and_in_row_order(void **state)
{
    (void)state;
    scd_pack *pack = new_pack(20);
    assert_true(scd_pack_add(pack, &three));
    assert_true(scd_pack_add(pack, &three));
    const scd_net_batch *b = scd_pack_batch(pack);
    const uint32_t masked[] = {1, 3, 5, 7}, gene_masked[] = {1, 5};
    const float targets[] = {2.5f, 0.75f, 2.5f, 0.75f};
    assert_int_equal(b->n_masked, 4);
    assert_memory_equal(b->masked, masked, sizeof masked);
    assert_memory_equal(b->targets, targets, sizeof targets);
    assert_int_equal(b->n_gene_masked, 2);
    assert_memory_equal(b->gene_masked, gene_masked, sizeof gene_masked);
    assert_int_equal(b->gene_targets[0], 7);
    assert_int_equal(b->gene_targets[1], 7);
    scd_pack_free(pack);
}

static void a_sequence_without_targets_is_only_rows(void **state)
{
    (void)state;
    scd_pack *pack = new_pack(8);
    const scd_sequence plain = {.n = 3, .ids = ids, .values = seen};
    assert_true(scd_pack_add(pack, &plain));
    const scd_net_batch *b = scd_pack_batch(pack);
    const uint8_t none[4] = {0};
    assert_memory_equal(b->hidden, none, sizeof none);
    assert_int_equal(b->n_masked, 0);
    assert_int_equal(b->n_gene_masked, 0);
    scd_pack_free(pack);
}

static void what_does_not_fit_changes_nothing(void **state)
{
    (void)state;
    scd_pack *pack = new_pack(7);
    assert_true(scd_pack_add(pack, &three));
    assert_false(scd_pack_add(pack, &three)); /* 4 + 4 rows */
    const scd_sequence two = {.n = 2, .ids = ids, .values = seen};
    assert_true(scd_pack_add(pack, &two)); /* 4 + 3: full to the last row */
    assert_false(scd_pack_add(pack, &(scd_sequence){0}));
    assert_int_equal(scd_pack_batch(pack)->n_rows, 7);
    assert_int_equal(scd_pack_batch(pack)->n_cells, 2);
    assert_int_equal(scd_pack_batch(pack)->n_masked, 2);
    scd_pack_free(pack);
}

static void clear_makes_it_empty_again(void **state)
{
    (void)state;
    scd_pack *pack = new_pack(4);
    assert_true(scd_pack_add(pack, &three));
    scd_pack_clear(pack);
    const scd_net_batch *b = scd_pack_batch(pack);
    assert_int_equal(b->n_cells + b->n_rows + b->n_masked + b->n_gene_masked, 0);
    assert_int_equal(b->cu_rows[0], 0);
    assert_true(scd_pack_add(pack, &three));
    assert_int_equal(b->cu_rows[1], 4);
    scd_pack_free(pack);
}

static void every_allocation_may_fail(void **state)
{
    (void)state;
    scd_pack *pack = NULL;
    scd_code code = SCD_E_NOMEM;
    long n = 0;
    for (; code; n++) {
        scd_mem_fail_after(n);
        code = scd_pack_new(16, &pack, NULL);
        scd_mem_fail_after(-1);
        assert_true(code == SCD_OK || code == SCD_E_NOMEM);
    }
    assert_true(n > 2);
    scd_pack_free(pack);
    scd_pack_free(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_cell_begins_with_its_latent_row),
        cmocka_unit_test(targets_are_clean_and_in_row_order),
        cmocka_unit_test(a_sequence_without_targets_is_only_rows),
        cmocka_unit_test(what_does_not_fit_changes_nothing),
        cmocka_unit_test(clear_makes_it_empty_again),
        cmocka_unit_test(every_allocation_may_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
