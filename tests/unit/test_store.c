/* test_store.c - the store in good health: what goes in comes out, within its bounds. */
#include "tests/unit/store_fixture.h"

#include "engine/base/mem.h"

#include <pthread.h>

enum { N = 2048 };

static void a_value_comes_back_from_memory_and_from_disk(void **state)
{
    fixture *f = *state;
    fixture_open(f, 64 * MB);
    assert_int_equal(fixture_get(f, 1, N), 0);
    fixture_put(f, 1, N);
    fixture_put(f, 2, 0);
    fixture_put(f, 3, 300000);
    for (int round = 0; round < 3; round++) { /* memory, disk, memory again */
        assert_int_equal(fixture_get(f, 1, N), 1);
        assert_int_equal(fixture_get(f, 2, 0), 1);
        assert_int_equal(fixture_get(f, 3, 300000), 1);
        assert_int_equal(fixture_get(f, 4, N), 0);
        if (round == 0) {
            fixture_close(f);
            fixture_open(f, 64 * MB);
        }
    }
    assert_true(fixture_flush(f));
    assert_int_equal(fixture_stats(f).entries, 3);
    assert_string_equal(f->log, "");
}

static void a_value_is_appended_behind_what_the_buffer_holds(void **state)
{
    fixture *f = *state;
    fixture_open(f, 64 * MB);
    fixture_put(f, 1, 10);
    for (int round = 0; round < 2; round++) {
        scd_digest key = key_of(1);
        unsigned char value[10];
        value_of(1, value, sizeof value);
        scd_buf_clear(&f->value);
        scd_buf_puts(&f->value, "head");
        assert_true(scd_store_get(f->store, &key, &f->value));
        assert_int_equal(f->value.n_bytes, 14);
        assert_memory_equal(f->value.data, "head", 4);
        assert_memory_equal(f->value.data + 4, value, 10);
        fixture_close(f);
        fixture_open(f, 64 * MB);
    }
}

static void an_entry_that_does_not_fit_into_the_buffer_is_a_miss(void **state)
{
    fixture *f = *state;
    fixture_open(f, 64 * MB);
    fixture_put(f, 1, N);
    for (int round = 0; round < 2; round++) {
        scd_digest key = key_of(1);
        scd_buf small;
        scd_buf_init(&small, 100);
        scd_buf_puts(&small, "kept");
        assert_false(scd_store_get(f->store, &key, &small));
        assert_false(small.failed);
        assert_string_equal(small.data, "kept");
        scd_buf_release(&small);
        fixture_close(f);
        fixture_open(f, 64 * MB);
    }
}

static void a_pending_entry_is_visible_before_its_commit(void **state)
{
    fixture *f = *state;
    fixture_open(f, 64 * MB);
    assert_true(fixture_flush(f)); /* the thread is past its start */
    for (uint32_t i = 0; i < 2000; i++) {
        fixture_put(f, i, 64);
        assert_int_equal(fixture_get(f, i, 64), 1);
    }
    assert_true(fixture_flush(f));
    assert_int_equal(fixture_stats(f).pending, 0);
    assert_int_equal(fixture_stats(f).entries, 2000);
    assert_int_equal(fixture_hits(f, 0, 2000, 64), 2000);
}

static bool nothing_pending(fixture *f)
{
    scd_store_stats stats = fixture_stats(f);
    return !stats.pending && stats.entries == 3;
}

static void entries_are_committed_soon_without_a_flush(void **state)
{
    fixture *f = *state;
    fixture_open(f, 64 * MB);
    for (uint32_t i = 0; i < 3; i++)
        fixture_put(f, i, N);
    assert_true(fixture_wait(f, nothing_pending));
}

static void the_memory_tier_keeps_to_its_bound_and_the_disk_has_the_rest(void **state)
{
    fixture *f = *state;
    fixture_open(f, 16 * MB); /* 2 MB in memory, and 4 MB that wait for their commit */
    for (uint32_t i = 0; i < 3000; i++) {
        fixture_put(f, i, N);
        if (i % 1000 == 999)
            assert_true(fixture_flush(f));
    }
    scd_store_stats stats = fixture_stats(f);
    assert_true(stats.memory_bytes <= 2 * MB);
    assert_true(stats.memory_entries < 1100);
    assert_int_equal(stats.entries, 3000);
    assert_int_equal(fixture_hits(f, 0, 3000, N), 3000);
    assert_true(fixture_stats(f).memory_bytes <= 2 * MB);
}

static void too_much_pending_stays_in_memory_only(void **state)
{
    fixture *f = *state;
    fixture_open(f, 32 * MB); /* 4 MB may be pending */
    assert_true(fixture_flush(f));
    fixture_put(f, 0, 5 * MB); /* never fits */
    assert_int_equal(fixture_stats(f).dropped, 1);
    assert_int_equal(fixture_get(f, 0, 5 * MB), 0); /* nor into the memory tier */
    fixture_put(f, 1, MB);
    assert_int_equal(fixture_get(f, 1, MB), 1);
    assert_true(fixture_flush(f));
    assert_int_equal(fixture_stats(f).entries, 1);
}

static void without_a_directory_there_is_only_memory(void **state)
{
    fixture *f = *state;
    scd_store_options options = {.dir = NULL, .max_bytes = 16 * MB};
    assert_int_equal(scd_store_open(&options, &f->store, NULL), SCD_OK);
    fixture_put(f, 1, N);
    assert_int_equal(fixture_get(f, 1, N), 1);
    assert_int_equal(fixture_get(f, 2, N), 0);
    assert_true(fixture_flush(f));
    scd_store_stats stats = fixture_stats(f);
    assert_int_equal(stats.memory_entries, 1);
    assert_int_equal(stats.entries, 0);
}

static void a_bound_of_zero_means_no_cache_and_no_files(void **state)
{
    fixture *f = *state;
    fixture_open(f, 0);
    fixture_put(f, 1, N);
    assert_int_equal(fixture_get(f, 1, N), 0);
    assert_true(fixture_flush(f));
    fixture_close(f);
    assert_false(fixture_has(f, ""));
    assert_false(fixture_has(f, ".lock"));
}

static void a_missing_directory_is_made_with_its_parents(void **state)
{
    fixture *f = *state;
    char deep[128];
    snprintf(deep, sizeof deep, "%s/a/b", f->dir);
    scd_store_options options = {.dir = deep, .max_bytes = 16 * MB};
    assert_int_equal(scd_store_open(&options, &f->store, NULL), SCD_OK);
    fixture_close(f);
    static const char *const leaves[] = {"/a/b/cache.db", "/a/b/cache.db.lock", "/a/b", "/a"};
    for (size_t i = 0; i < 4; i++) {
        snprintf(deep, sizeof deep, "%s%s", f->dir, leaves[i]);
        assert_int_equal(remove(deep), 0);
    }
}

static void nobody_else_can_read_the_files(void **state)
{
    fixture *f = *state;
    static const char *const suffixes[] = {"", "-wal", "-shm", ".lock"};
    assert_int_equal(chmod(f->dir, 0755), 0);
    fixture_open(f, 16 * MB);
    fixture_put(f, 1, N);
    assert_true(fixture_flush(f));
    for (size_t i = 0; i < 4; i++) {
        struct stat st;
        assert_int_equal(stat(fixture_path(f, suffixes[i]), &st), 0);
        assert_int_equal(st.st_mode & 0777, 0600);
    }
}

static void a_directory_that_cannot_be_is_an_error(void **state)
{
    fixture *f = *state;
    scd_error err;
    scd_store *store = NULL;
    char path[128];
    snprintf(path, sizeof path, "%s/file", f->dir);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fclose(file);
    scd_store_options options = {.dir = path, .max_bytes = MB};
    assert_int_equal(scd_store_open(&options, &store, &err), SCD_E_IO);
    assert_non_null(strstr(err.message, path));
    strcat(path, "/below");
    assert_int_equal(scd_store_open(&options, &store, &err), SCD_E_IO);
    assert_null(store);
}

static void another_value_under_a_key_replaces_the_first(void **state)
{
    fixture *f = *state;
    fixture_open(f, 16 * MB);
    scd_digest key = key_of(5);
    scd_store_put(f->store, &key, "first", 5);
    assert_true(fixture_flush(f));
    fixture_put(f, 5, N);
    assert_int_equal(fixture_get(f, 5, N), 1);
    fixture_close(f);
    fixture_open(f, 16 * MB);
    assert_int_equal(fixture_get(f, 5, N), 1);
    assert_true(fixture_flush(f));
    assert_int_equal(fixture_stats(f).entries, 1);
}

static void the_oldest_go_first_and_the_file_keeps_to_its_bound(void **state)
{
    fixture *f = *state;
    fixture_open(f, 4 * MB);
    for (uint32_t i = 0; i < 1000; i++)
        fixture_put(f, i, N);
    fixture_close(f);
    /* the second half is made the older one, and the newest of all is entry 0 */
    fixture_sql(f, "UPDATE entries SET last_used = last_used - 100000000 WHERE id > 500;"
                   "UPDATE entries SET last_used = last_used + 1000 WHERE id = 1;");
    fixture_open(f, 4 * MB);
    for (uint32_t i = 1000; i < 2000; i++)
        fixture_put(f, i, N);
    assert_true(fixture_flush(f));
    fixture_close(f);
    fixture_open(f, 4 * MB);
    assert_true(fixture_flush(f));
    scd_store_stats stats = fixture_stats(f);
    assert_true(stats.bytes <= 4 * MB);
    assert_int_equal(fixture_get(f, 0, N), 1);
    int first = fixture_hits(f, 1, 500, N), second = fixture_hits(f, 500, 1000, N);
    int third = fixture_hits(f, 1000, 2000, N);
    assert_true(second == 0 || first == 499);
    assert_true(third > 900);
    assert_true(first + second + third > 1300); /* 4 MB hold about 1700 of 2.4 KB */
}

static void hours_of_filling_do_not_make_the_file_grow(void **state)
{
    fixture *f = *state;
    fixture_open(f, 4 * MB);
    for (uint32_t i = 0; i < 12000; i++) {
        fixture_put(f, i, N);
        if (i % 500 == 499)
            assert_true(fixture_flush(f));
    }
    scd_store_stats stats = fixture_stats(f);
    assert_true(stats.evicted > 9000);
    /* over the bound by one group of 512 at most, and the log by its own bound */
    assert_true(file_bytes(f, "") <= 4 * MB + 512 * 3000);
    assert_true(file_bytes(f, "-wal") <= 12 * MB);
    fixture_close(f);
    assert_int_equal(file_bytes(f, "-wal"), 0);
    assert_true(file_bytes(f, "") <= 4 * MB + 512 * 3000);
}

static bool is_small(fixture *f)
{
    return file_bytes(f, "") <= 2 * MB && fixture_stats(f).bytes <= 2 * MB;
}

static void a_smaller_bound_shrinks_the_file(void **state)
{
    fixture *f = *state;
    fixture_open(f, 64 * MB);
    for (uint32_t i = 0; i < 4000; i++) {
        fixture_put(f, i, N);
        if (i % 1000 == 999)
            assert_true(fixture_flush(f));
    }
    fixture_close(f);
    assert_true(file_bytes(f, "") > 8 * MB);
    fixture_open(f, 2 * MB);
    assert_true(fixture_wait(f, is_small));
    fixture_close(f);
    assert_true(file_bytes(f, "") <= 2 * MB);
    fixture_open(f, 2 * MB);
    assert_true(fixture_hits(f, 0, 4000, N) > 600);
}

static void use_moves_an_entry_in_the_order_of_eviction(void **state)
{
    fixture *f = *state;
    fixture_open(f, 64 * MB);
    fixture_put(f, 1, N);
    fixture_put(f, 2, N);
    fixture_close(f);
    fixture_sql(f, "UPDATE entries SET last_used = 1000");
    fixture_open(f, 64 * MB);
    assert_int_equal(fixture_get(f, 1, N), 1);
    assert_int_equal(fixture_get(f, 1, N), 1);
    assert_true(fixture_flush(f));
    fixture_close(f);
    assert_int_equal(fixture_ask(f, "SELECT count(*) FROM entries WHERE last_used > 1000"), 1);
    assert_int_equal(fixture_ask(f, "SELECT last_used FROM entries WHERE id = 2"), 1000);
}

enum { THREADS = 4, KEYS = 400, ROUNDS = 3000 };

static void *get_and_put(void *arg)
{
    scd_store *store = arg;
    unsigned char value[512];
    uintptr_t wrong = 0;
    scd_buf buf;
    scd_buf_init(&buf, 4096);
    for (uint32_t i = 0; i < ROUNDS; i++) {
        uint32_t random[4];
        scd_rng_block((uint64_t)(uintptr_t)&buf, 1, i, random);
        uint32_t k = random[0] % KEYS;
        scd_digest key = key_of(k);
        value_of(k, value, sizeof value);
        scd_buf_clear(&buf);
        if (!scd_store_get(store, &key, &buf))
            scd_store_put(store, &key, value, sizeof value);
        else if (buf.n_bytes != sizeof value || memcmp(buf.data, value, sizeof value) != 0)
            wrong++;
        if (i % 1000 == 999)
            scd_store_flush(store, scd_now_ns() + SCD_NS_PER_S);
    }
    scd_buf_release(&buf);
    return (void *)wrong;
}

static void four_threads_get_and_put_without_a_wrong_value(void **state)
{
    fixture *f = *state;
    fixture_open(f, MB); /* small, so that gets reach the disk and entries are evicted */
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, get_and_put, f->store), 0);
    for (int i = 0; i < THREADS; i++) {
        void *wrong = NULL;
        pthread_join(threads[i], &wrong);
        assert_null(wrong);
    }
    assert_true(fixture_flush(f));
    assert_int_equal(fixture_stats(f).rejected_checksum, 0);
    assert_int_equal(fixture_stats(f).rebuilds, 0);
}

static void every_failing_allocation_of_open_is_reported(void **state)
{
    fixture *f = *state;
    scd_error err;
    scd_store *store = NULL;
    scd_store_options options = {.dir = f->dir, .max_bytes = MB};
    long n = 0;
    for (;; n++) {
        scd_mem_fail_after(n);
        scd_code code = scd_store_open(&options, &store, &err);
        if (code) {
            scd_mem_fail_after(-1);
            assert_int_equal(code, SCD_E_NOMEM);
            assert_null(store);
            continue;
        }
        /* the one that failed may be of the thread, or there was none left to fail */
        bool flushed = scd_store_flush(store, scd_now_ns() + SCD_NS_PER_S);
        scd_mem_fail_after(-1);
        scd_store_close(store);
        assert_true(flushed);
        if (n > 40)
            break;
    }
    fixture_open(f, MB);
    fixture_put(f, 1, N);
    assert_true(fixture_flush(f));
}

static void a_failing_allocation_in_get_or_put_is_a_miss(void **state)
{
    fixture *f = *state;
    fixture_open(f, 16 * MB);
    fixture_put(f, 1, N);
    fixture_close(f);
    for (long n = 0; n < 6; n++) {
        fixture_open(f, 16 * MB);
        assert_true(fixture_flush(f));
        scd_digest key = key_of(1), other = key_of(2);
        scd_buf value;
        scd_buf_init(&value, MB);
        scd_mem_fail_after(n);
        bool hit = scd_store_get(f->store, &key, &value);
        scd_store_put(f->store, &other, "x", 1);
        scd_mem_fail_after(-1);
        assert_false(value.failed);
        assert_int_equal(value.n_bytes, hit ? N : 0);
        scd_buf_release(&value);
        assert_int_equal(fixture_get(f, 1, N), 1);
        fixture_close(f);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        STORE_TEST(a_value_comes_back_from_memory_and_from_disk),
        STORE_TEST(a_value_is_appended_behind_what_the_buffer_holds),
        STORE_TEST(an_entry_that_does_not_fit_into_the_buffer_is_a_miss),
        STORE_TEST(a_pending_entry_is_visible_before_its_commit),
        STORE_TEST(entries_are_committed_soon_without_a_flush),
        STORE_TEST(the_memory_tier_keeps_to_its_bound_and_the_disk_has_the_rest),
        STORE_TEST(too_much_pending_stays_in_memory_only),
        STORE_TEST(without_a_directory_there_is_only_memory),
        STORE_TEST(a_bound_of_zero_means_no_cache_and_no_files),
        STORE_TEST(a_missing_directory_is_made_with_its_parents),
        STORE_TEST(nobody_else_can_read_the_files),
        STORE_TEST(a_directory_that_cannot_be_is_an_error),
        STORE_TEST(another_value_under_a_key_replaces_the_first),
        STORE_TEST(the_oldest_go_first_and_the_file_keeps_to_its_bound),
        STORE_TEST(hours_of_filling_do_not_make_the_file_grow),
        STORE_TEST(a_smaller_bound_shrinks_the_file),
        STORE_TEST(use_moves_an_entry_in_the_order_of_eviction),
        STORE_TEST(four_threads_get_and_put_without_a_wrong_value),
        STORE_TEST(every_failing_allocation_of_open_is_reported),
        STORE_TEST(a_failing_allocation_in_get_or_put_is_a_miss),
    };
    return cmocka_run_group_tests_name("store", tests, NULL, NULL);
}
