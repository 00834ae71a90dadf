/* test_cache_key.c - the key is the documented hash, and everything that a result depends on is in
 * it. */
#include "api/cache_key.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

static int32_t ids[] = {7, 5, 300};
static float values[] = {2.5f, 1.25f, 0.5f};
static scd_hasher *hasher;

static scd_cache_scope scope_of_test(void)
{
    scd_cache_scope scope = {.task = "embed", .parameters = "", .identity = "cpu avx512 bf16 1"};
    for (uint8_t i = 0; i < SCD_DIGEST_BYTES; i++)
        scope.model.bytes[i] = i;
    return scope;
}

static scd_cell cell_of_test(void)
{
    return (scd_cell){.n_tokens = 3, .ids = ids, .values = values};
}

static void the_key_is_the_one_that_another_program_computes(void **state)
{
    (void)state;
    /* Python: sha256 over struct.pack("<Q", len(field)) + field for each of "scdiva-cache-1",
     * bytes(range(32)), bytes(32), "embed", "", "cpu avx512 bf16 1", pack("<Q", 3),
     * pack("<3i", 7, 5, 300), pack("<3f", 2.5, 1.25, 0.5) */
    scd_cache_scope scope = scope_of_test();
    scd_cell cell = cell_of_test();
    scd_digest key = scd_cache_key(hasher, &scope, &cell);
    char hex[SCD_DIGEST_HEX];
    scd_digest_hex(&key, hex);
    assert_string_equal(hex, "cd346358b03ceda3fdef331e1b13e71cf463d14bc73adf163d9b296b1e2c9007");
    scd_digest again = scd_cache_key(hasher, &scope, &cell);
    assert_true(scd_digest_equal(&key, &again));
}

static void anything_that_changes_the_result_changes_the_key(void **state)
{
    (void)state;
    enum { VARIANTS = 11 };
    scd_digest keys[VARIANTS];
    for (int v = 0; v < VARIANTS; v++) {
        scd_cache_scope scope = scope_of_test();
        scd_cell cell = cell_of_test();
        int32_t other_ids[] = {7, 5, 301}, swapped_ids[] = {5, 7, 300};
        float other_values[] = {2.5f, 1.25f, 0.50000006f};
        scope.model.bytes[31] ^= v == 1;
        scope.head.bytes[0] ^= v == 2;
        scope.task = v == 3 ? "annotate" : v == 4 ? "embe" : scope.task;
        scope.parameters = v == 4 ? "d" : v == 5 ? "steps=4" : scope.parameters;
        scope.identity = v == 6 ? "cpu avx2 fp32 1" : scope.identity;
        cell.ids = v == 7 ? other_ids : v == 8 ? swapped_ids : cell.ids;
        cell.values = v == 9 ? other_values : cell.values;
        cell.n_tokens = v == 10 ? 2 : cell.n_tokens;
        keys[v] = scd_cache_key(hasher, &scope, &cell);
        for (int other = 0; other < v; other++)
            if (scd_digest_equal(&keys[v], &keys[other]))
                fail_msg("variants %d and %d have the same key", v, other);
    }
}

static void what_the_model_does_not_see_is_not_in_the_key(void **state)
{
    (void)state;
    scd_cache_scope scope = scope_of_test();
    scd_cell cell = cell_of_test(), other = cell_of_test();
    other.genes_unknown = 5; /* the same tokens from another gene list */
    other.mapped_counts = 17;
    scd_digest a = scd_cache_key(hasher, &scope, &cell), b = scd_cache_key(hasher, &scope, &other);
    assert_true(scd_digest_equal(&a, &b));
}

static int open_hasher(void **state)
{
    (void)state;
    hasher = scd_hasher_new();
    return hasher ? 0 : -1;
}

static int close_hasher(void **state)
{
    (void)state;
    scd_hasher_free(hasher);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_key_is_the_one_that_another_program_computes),
        cmocka_unit_test(anything_that_changes_the_result_changes_the_key),
        cmocka_unit_test(what_the_model_does_not_see_is_not_in_the_key),
    };
    return cmocka_run_group_tests(tests, open_hasher, close_hasher);
}
