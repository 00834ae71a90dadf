/* store_fixture.h - what the tests of the store share: a directory of their own, values that are a
 * function of their key, and the log lines that the store wrote. */
#ifndef SCD_TESTS_STORE_FIXTURE_H
#define SCD_TESTS_STORE_FIXTURE_H

#include "engine/base/clock.h"
#include "engine/base/rng.h"
#include "server/store.h"

#include <dirent.h>
#include <setjmp.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define MB ((size_t)1 << 20)

typedef struct fixture {
    char dir[64];
    char log[8192]; /* messages, one per line */
    scd_store *store;
    scd_buf value;
} fixture;

static inline void fixture_log(void *arg, int level, const char *message)
{
    fixture *f = arg;
    (void)level;
    size_t n = strlen(f->log);
    snprintf(f->log + n, sizeof f->log - n, "%s\n", message);
}

static inline int fixture_make(void **state)
{
    fixture *f = calloc(1, sizeof *f);
    if (!f)
        return -1;
    strcpy(f->dir, "/tmp/scd_store_XXXXXX");
    scd_buf_init(&f->value, 64 * MB);
    *state = f;
    return mkdtemp(f->dir) ? 0 : -1;
}

static inline int fixture_remove(void **state)
{
    fixture *f = *state;
    scd_store_close(f->store);
    scd_buf_release(&f->value);
    chmod(f->dir, 0700);
    DIR *dir = opendir(f->dir);
    for (struct dirent *e; dir && (e = readdir(dir));) {
        char path[400];
        snprintf(path, sizeof path, "%s/%s", f->dir, e->d_name);
        unlink(path);
    }
    if (dir)
        closedir(dir);
    rmdir(f->dir);
    free(f);
    return 0;
}

#define STORE_TEST(test) cmocka_unit_test_setup_teardown(test, fixture_make, fixture_remove)

static inline const char *fixture_path(const fixture *f, const char *suffix)
{
    static char path[128];
    snprintf(path, sizeof path, "%s/cache.db%s", f->dir, suffix);
    return path;
}

static inline bool fixture_has(const fixture *f, const char *suffix)
{
    return access(fixture_path(f, suffix), F_OK) == 0;
}

static inline void fixture_open(fixture *f, size_t max_bytes)
{
    scd_error err;
    scd_store_options options = {
        .dir = f->dir, .max_bytes = max_bytes, .log = fixture_log, .log_arg = f};
    scd_code code = scd_store_open(&options, &f->store, &err);
    if (code)
        fail_msg("open: %s", err.message);
}

static inline void fixture_close(fixture *f)
{
    scd_store_close(f->store);
    f->store = NULL;
}

static inline bool fixture_flush(fixture *f)
{
    return scd_store_flush(f->store, scd_now_ns() + 120 * SCD_NS_PER_S);
}

static inline scd_store_stats fixture_stats(fixture *f)
{
    scd_store_stats stats;
    scd_store_get_stats(f->store, &stats);
    return stats;
}

static inline scd_digest key_of(uint32_t i)
{
    return scd_digest_of(&i, sizeof i);
}

/* n bytes that only key i has. */
static inline void value_of(uint32_t i, unsigned char *out, size_t n)
{
    for (size_t at = 0; at < n; at += 16) {
        uint32_t block[4];
        scd_rng_block(i, 7, at, block);
        memcpy(out + at, block, n - at < 16 ? n - at : 16);
    }
}

static inline void fixture_put(fixture *f, uint32_t i, size_t n)
{
    unsigned char *value = malloc(n + 1);
    assert_non_null(value);
    scd_digest key = key_of(i);
    value_of(i, value, n);
    scd_store_put(f->store, &key, value, n);
    free(value);
}

/* 1: a hit with the right value; 0: a miss. Anything else fails the test. */
static inline int fixture_get(fixture *f, uint32_t i, size_t n)
{
    scd_digest key = key_of(i);
    scd_buf_clear(&f->value);
    if (!scd_store_get(f->store, &key, &f->value)) {
        assert_int_equal(f->value.n_bytes, 0);
        assert_false(f->value.failed);
        return 0;
    }
    unsigned char *value = malloc(n + 1);
    assert_non_null(value);
    value_of(i, value, n);
    assert_int_equal(f->value.n_bytes, n);
    if (n)
        assert_memory_equal(f->value.data, value, n);
    free(value);
    return 1;
}

static inline int fixture_hits(fixture *f, uint32_t from, uint32_t to, size_t n)
{
    int hits = 0;
    for (uint32_t i = from; i < to; i++)
        hits += fixture_get(f, i, n);
    return hits;
}

/* Run SQL on the file with a connection of our own. */
static inline void fixture_sql(const fixture *f, const char *sql)
{
    sqlite3 *db = NULL;
    assert_int_equal(sqlite3_open(fixture_path(f, ""), &db), SQLITE_OK);
    sqlite3_busy_timeout(db, 5000);
    if (sqlite3_exec(db, sql, NULL, NULL, NULL))
        fail_msg("%s: %s", sql, sqlite3_errmsg(db));
    sqlite3_close(db);
}

static inline int64_t fixture_ask(const fixture *f, const char *sql)
{
    sqlite3 *db = NULL;
    sqlite3_stmt *stmt = NULL;
    assert_int_equal(sqlite3_open(fixture_path(f, ""), &db), SQLITE_OK);
    assert_int_equal(sqlite3_prepare_v2(db, sql, -1, &stmt, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_step(stmt), SQLITE_ROW);
    int64_t number = sqlite3_column_int64(stmt, 0);
    sqlite3_finalize(stmt);
    sqlite3_close(db);
    return number;
}

/* Wait until condition(f), ten seconds at most. */
static inline bool fixture_wait(fixture *f, bool (*condition)(fixture *f))
{
    for (int i = 0; i < 1000; i++) {
        if (condition(f))
            return true;
        usleep(10000);
    }
    return false;
}

static inline uint64_t file_bytes(const fixture *f, const char *suffix)
{
    struct stat st;
    return stat(fixture_path(f, suffix), &st) ? 0 : (uint64_t)st.st_size;
}

#endif
