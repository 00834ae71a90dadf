/* test_store_damage.c - the store when things go wrong: a damaged entry is never served, a damaged
 * file is moved aside and begun anew, a disk that cannot be used leaves the memory tier. */
#include "tests/unit/store_fixture.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>

enum { N = 2048, ENTRIES = 500 };

static void fill(fixture *f)
{
    fixture_open(f, 64 * MB);
    for (uint32_t i = 0; i < ENTRIES; i++)
        fixture_put(f, i, N);
    fixture_close(f);
}

static bool is_rebuilt(fixture *f)
{
    fixture_hits(f, 0, 50, N);
    return fixture_stats(f).rebuilds > 0;
}

static void overwrite(const fixture *f, off_t at, const void *bytes, size_t n)
{
    int fd = open(fixture_path(f, ""), O_WRONLY | O_CREAT, 0600);
    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, bytes, n, at), n);
    close(fd);
}

/* After a rebuild the store works as ever, and once more after a restart. */
static void works_again(fixture *f)
{
    assert_true(fixture_has(f, ".damaged"));
    assert_non_null(strstr(f->log, "moved aside"));
    fixture_put(f, 77777, N);
    assert_true(fixture_flush(f));
    fixture_close(f);
    fixture_open(f, 64 * MB);
    assert_int_equal(fixture_get(f, 77777, N), 1);
    assert_true(fixture_flush(f));
    assert_int_equal(fixture_stats(f).rebuilds, 0);
}

static void an_entry_with_a_wrong_value_is_never_served(void **state)
{
    fixture *f = *state;
    fill(f);
    fixture_sql(f, "UPDATE entries SET value = zeroblob(length(value)) WHERE id = 1;"
                   "UPDATE entries SET value = substr(value, 1, 100) WHERE id = 2;"
                   "UPDATE entries SET checksum = checksum + 1 WHERE id = 3;"
                   "UPDATE entries SET value = (SELECT value FROM entries WHERE id = 5),"
                   " checksum = (SELECT checksum FROM entries WHERE id = 5) WHERE id = 4;"
                   "UPDATE entries SET value = 'text' WHERE id = 6;"
                   "UPDATE entries SET value = 17 WHERE id = 7;");
    fixture_open(f, 64 * MB);
    static const uint32_t bad[] = {0, 1, 2, 3, 5, 6};
    for (size_t i = 0; i < 6; i++)
        assert_int_equal(fixture_get(f, bad[i], N), 0);
    assert_int_equal(fixture_get(f, 4, N), 1);
    assert_int_equal(fixture_stats(f).rejected_checksum, 6);
    assert_true(fixture_flush(f));
    assert_int_equal(fixture_stats(f).entries, ENTRIES - 6); /* deleted, not kept to fail again */
    assert_int_equal(fixture_hits(f, 0, ENTRIES, N), ENTRIES - 6);
    fixture_put(f, 0, N);
    assert_true(fixture_flush(f));
    fixture_close(f);
    assert_int_equal(fixture_ask(f, "SELECT count(*) FROM entries"), ENTRIES - 5);
    assert_non_null(strstr(f->log, "wrong checksum"));
    assert_false(fixture_has(f, ".damaged"));
}

static void random_bytes_in_the_middle_serve_nothing_wrong(void **state)
{
    fixture *f = *state;
    unsigned char noise[40000];
    for (uint32_t round = 0; round < 20; round++) {
        fill(f);
        uint64_t size = file_bytes(f, "");
        uint32_t random[4];
        scd_rng_block(round, 3, 0, random);
        value_of(random[0], noise, sizeof noise);
        size_t n = 1 + random[1] % sizeof noise;
        overwrite(f, (off_t)(100 + random[2] % (size - n - 100)), noise, n);
        fixture_open(f, 64 * MB);
        fixture_hits(f, 0, ENTRIES, N); /* compares every hit with the truth */
        fixture_put(f, 100000, N);
        assert_int_equal(fixture_get(f, 100000, N), 1);
        fixture_flush(f);
        fixture_hits(f, 0, ENTRIES, N);
        fixture_close(f);
        fixture_open(f, 64 * MB);
        fixture_hits(f, 0, ENTRIES, N);
        fixture_close(f);
        unlink(fixture_path(f, ""));
        f->log[0] = '\0';
    }
}

static void a_truncated_file_is_replaced(void **state)
{
    fixture *f = *state;
    fill(f);
    uint64_t size = file_bytes(f, "");
    assert_int_equal(truncate(fixture_path(f, ""), (off_t)(size / 2)), 0);
    fixture_open(f, 64 * MB);
    assert_true(fixture_wait(f, is_rebuilt));
    works_again(f);
}

static void a_file_cut_to_a_few_bytes_is_replaced(void **state)
{
    fixture *f = *state;
    fill(f);
    assert_int_equal(truncate(fixture_path(f, ""), 50), 0);
    fixture_open(f, 64 * MB);
    assert_true(fixture_wait(f, is_rebuilt));
    works_again(f);
}

static void an_empty_file_is_a_new_cache(void **state)
{
    fixture *f = *state;
    fill(f);
    assert_int_equal(truncate(fixture_path(f, ""), 0), 0);
    fixture_open(f, 64 * MB);
    assert_int_equal(fixture_hits(f, 0, 10, N), 0);
    fixture_put(f, 1, N);
    assert_true(fixture_flush(f));
    assert_int_equal(fixture_stats(f).entries, 1);
    assert_int_equal(fixture_stats(f).rebuilds, 0);
}

static void a_text_file_is_moved_aside_with_its_content(void **state)
{
    fixture *f = *state;
    char text[5000], kept[5000] = {0};
    memset(text, 'x', sizeof text);
    overwrite(f, 0, text, sizeof text);
    fixture_open(f, 64 * MB);
    assert_true(fixture_wait(f, is_rebuilt));
    assert_int_equal(fixture_stats(f).rebuilds, 1);
    FILE *file = fopen(fixture_path(f, ".damaged"), "r");
    assert_non_null(file);
    assert_int_equal(fread(kept, 1, sizeof kept, file), sizeof kept);
    fclose(file);
    assert_memory_equal(kept, text, sizeof text);
    works_again(f);
}

static void a_database_of_another_program_is_moved_aside(void **state)
{
    fixture *f = *state;
    fixture_sql(f, "CREATE TABLE photos(id INTEGER); INSERT INTO photos VALUES(1);");
    fixture_open(f, 64 * MB);
    assert_true(fixture_wait(f, is_rebuilt));
    assert_non_null(strstr(f->log, "some other program"));
    works_again(f);
}

static void a_newer_schema_is_moved_aside_and_named(void **state)
{
    fixture *f = *state;
    fill(f);
    fixture_sql(f, "PRAGMA user_version = 99");
    fixture_open(f, 64 * MB);
    assert_true(fixture_wait(f, is_rebuilt));
    assert_non_null(strstr(f->log, "schema 99 is newer"));
    assert_int_equal(fixture_hits(f, 0, ENTRIES, N), 0);
    works_again(f);
}

static void a_table_that_is_gone_means_a_new_file(void **state)
{
    fixture *f = *state;
    fill(f);
    fixture_sql(f, "DROP TABLE entries");
    fixture_open(f, 64 * MB);
    assert_true(fixture_wait(f, is_rebuilt));
    works_again(f);
}

/* The layout of schema 1, as it was written, with one entry whose checksum is taken from a file of
 * today. */
static void an_older_schema_is_brought_up_to_date_with_its_entries(void **state)
{
    fixture *f = *state;
    fill(f);
    fixture_sql(f, "DROP INDEX entries_by_use; PRAGMA user_version = 1;");
    fixture_open(f, 64 * MB);
    assert_int_equal(fixture_hits(f, 0, ENTRIES, N), ENTRIES);
    assert_true(fixture_flush(f));
    assert_int_equal(fixture_stats(f).entries, ENTRIES);
    assert_int_equal(fixture_stats(f).rebuilds, 0);
    fixture_close(f);
    assert_int_equal(fixture_ask(f, "PRAGMA user_version"), 2);
    assert_int_equal(fixture_ask(f, "SELECT count(*) FROM sqlite_schema WHERE name = "
                                    "'entries_by_use'"),
                     1);
}

static void a_file_removed_under_the_daemon_is_made_again(void **state)
{
    fixture *f = *state;
    fill(f);
    fixture_open(f, 64 * MB);
    assert_true(fixture_flush(f));
    unlink(fixture_path(f, ""));
    unlink(fixture_path(f, "-wal"));
    unlink(fixture_path(f, "-shm"));
    assert_true(fixture_wait(f, is_rebuilt));
    fixture_put(f, 600, N);
    assert_true(fixture_flush(f));
    fixture_close(f);
    fixture_open(f, 64 * MB);
    assert_int_equal(fixture_get(f, 600, N), 1);
}

static void a_file_damaged_under_the_daemon_is_replaced(void **state)
{
    fixture *f = *state;
    unsigned char noise[16384];
    fill(f);
    fixture_open(f, 64 * MB);
    assert_true(fixture_flush(f));
    value_of(9, noise, sizeof noise);
    uint64_t size = file_bytes(f, "");
    for (uint64_t at = 16384; at < size; at += sizeof noise)
        overwrite(f, (off_t)at, noise, sizeof noise);
    for (int i = 0; i < 500 && !fixture_stats(f).rebuilds; i++) {
        fixture_hits(f, 0, ENTRIES, N);
        usleep(10000);
    }
    works_again(f);
}

static bool is_writable_again(fixture *f)
{
    fixture_put(f, 900, N);
    fixture_put(f, 901, N);
    return fixture_flush(f) && fixture_stats(f).entries > 0;
}

static void a_second_opener_has_memory_only_until_the_first_goes(void **state)
{
    fixture *f = *state;
    fixture_open(f, 64 * MB);
    scd_store *first = f->store;
    fixture_open(f, 64 * MB);
    assert_non_null(strstr(f->log, "held by another process"));
    fixture_put(f, 1, N);
    assert_int_equal(fixture_get(f, 1, N), 1);
    assert_false(fixture_flush(f));
    assert_int_equal(fixture_stats(f).entries, 0);
    scd_store_close(first);
    assert_true(fixture_wait(f, is_writable_again));
    assert_non_null(strstr(f->log, "usable again"));
    assert_int_equal(fixture_stats(f).rebuilds, 0);
}

enum { CANNOT_RUN = 77 };

/* Runs body in a child, which may give up rights or set limits; its exit status says how it went.
 */
static void in_a_child(fixture *f, int (*body)(fixture *f))
{
    pid_t child = fork();
    assert_true(child >= 0);
    if (!child)
        _exit(body(f));
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    if (WEXITSTATUS(status) == CANNOT_RUN)
        skip();
    assert_int_equal(WEXITSTATUS(status), 0);
}

static bool put_get_one(fixture *f, uint32_t i)
{
    unsigned char value[N];
    scd_digest key = key_of(i);
    value_of(i, value, sizeof value);
    scd_store_put(f->store, &key, value, sizeof value);
    scd_buf_clear(&f->value);
    return scd_store_get(f->store, &key, &f->value) && f->value.n_bytes == N &&
           !memcmp(f->value.data, value, N);
}

static int use_read_only(fixture *f)
{
    scd_store_options options = {
        .dir = f->dir, .max_bytes = 16 * MB, .log = fixture_log, .log_arg = f};
    if (getuid() == 0 && setuid(65534)) /* root may write everywhere */
        return 1;
    if (access(f->dir, R_OK | X_OK)) /* a chroot whose own top only root may enter */
        return CANNOT_RUN;
    if (scd_store_open(&options, &f->store, NULL))
        return 2;
    if (!put_get_one(f, 1))
        return 3;
    scd_store_close(f->store);
    return strstr(f->log, "results stay in memory") ? 0 : 4;
}

static void a_directory_that_is_read_only_leaves_the_memory_tier(void **state)
{
    fixture *f = *state;
    assert_int_equal(chmod(f->dir, 0555), 0);
    in_a_child(f, use_read_only);
    assert_false(fixture_has(f, ""));
}

static int use_full(fixture *f)
{
    scd_store_options options = {
        .dir = f->dir, .max_bytes = 64 * MB, .log = fixture_log, .log_arg = f};
    signal(SIGXFSZ, SIG_IGN);
    if (scd_store_open(&options, &f->store, NULL) || !fixture_flush(f))
        return 1;
    struct rlimit limit = {.rlim_cur = 3 * MB, .rlim_max = RLIM_INFINITY};
    if (setrlimit(RLIMIT_FSIZE, &limit))
        return 2;
    for (uint32_t i = 0; i < 3000; i++) {
        if (!put_get_one(f, i))
            return 3;
        if (i % 250 == 0)
            fixture_flush(f);
    }
    scd_store_stats stats = fixture_stats(f);
    if (!stats.write_errors || !stats.dropped || !strstr(f->log, "results stay in memory"))
        return 4;
    limit.rlim_cur = RLIM_INFINITY; /* somebody made room */
    if (setrlimit(RLIMIT_FSIZE, &limit))
        return 5;
    bool works = false;
    for (uint32_t i = 0; i < 400 && !works; i++) {
        usleep(20000);
        works = put_get_one(f, 5000 + i) && fixture_flush(f);
    }
    scd_store_close(f->store);
    return works ? 0 : 6;
}

static void a_full_disk_leaves_the_memory_tier_until_there_is_room(void **state)
{
    fixture *f = *state;
    in_a_child(f, use_full);
    fixture_open(f, 64 * MB);
    assert_true(fixture_hits(f, 0, 3000, N) > 100);
    assert_true(fixture_flush(f));
    assert_int_equal(fixture_stats(f).rebuilds, 0);
}

static void a_file_locked_by_another_program_costs_only_the_disk_tier(void **state)
{
    fixture *f = *state;
    sqlite3 *other = NULL;
    fixture_open(f, 64 * MB);
    fixture_put(f, 1, N);
    assert_true(fixture_flush(f));
    assert_int_equal(sqlite3_open(fixture_path(f, ""), &other), SQLITE_OK);
    assert_int_equal(sqlite3_exec(other, "BEGIN IMMEDIATE", NULL, NULL, NULL), SQLITE_OK);
    fixture_put(f, 2, N);
    assert_false(fixture_flush(f));
    assert_int_equal(fixture_get(f, 2, N), 1);
    assert_int_equal(sqlite3_exec(other, "COMMIT", NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(other);
    assert_true(fixture_wait(f, is_writable_again));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        STORE_TEST(an_entry_with_a_wrong_value_is_never_served),
        STORE_TEST(random_bytes_in_the_middle_serve_nothing_wrong),
        STORE_TEST(a_truncated_file_is_replaced),
        STORE_TEST(a_file_cut_to_a_few_bytes_is_replaced),
        STORE_TEST(an_empty_file_is_a_new_cache),
        STORE_TEST(a_text_file_is_moved_aside_with_its_content),
        STORE_TEST(a_database_of_another_program_is_moved_aside),
        STORE_TEST(a_newer_schema_is_moved_aside_and_named),
        STORE_TEST(a_table_that_is_gone_means_a_new_file),
        STORE_TEST(an_older_schema_is_brought_up_to_date_with_its_entries),
        STORE_TEST(a_file_removed_under_the_daemon_is_made_again),
        STORE_TEST(a_file_damaged_under_the_daemon_is_replaced),
        STORE_TEST(a_second_opener_has_memory_only_until_the_first_goes),
        STORE_TEST(a_directory_that_is_read_only_leaves_the_memory_tier),
        STORE_TEST(a_full_disk_leaves_the_memory_tier_until_there_is_room),
        STORE_TEST(a_file_locked_by_another_program_costs_only_the_disk_tier),
    };
    return cmocka_run_group_tests_name("store_damage", tests, NULL, NULL);
}
