/* test_store_kill.c - kill -9 at a random moment, a hundred times over: every entry that is read
 * afterwards is right, and the file is never damaged by it. */
#include "tests/unit/store_fixture.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <time.h>

enum { ROUNDS = 100, PER_ROUND = 4000, N = 700 };

/* Puts entries without end; the bound is small, so that it evicts and shrinks as well. The first
 * commit of many is told through the pipe. */
static void write_until_killed(const fixture *f, uint32_t from, int told)
{
    scd_store *store = NULL;
    unsigned char value[N];
    scd_store_options options = {.dir = f->dir, .max_bytes = 3 * MB};
    if (scd_store_open(&options, &store, NULL))
        _exit(1);
    for (uint32_t i = from;; i = from + (i + 1 - from) % PER_ROUND) {
        scd_digest key = key_of(i);
        value_of(i, value, sizeof value);
        scd_store_put(store, &key, value, sizeof value);
        if (i % 64 != 63)
            continue;
        scd_store_flush(store, scd_now_ns() + SCD_NS_PER_S);
        if (i < from + 128 && write(told, "x", 1) != 1)
            _exit(2);
    }
}

/* A child writes, and is killed up to 15 ms after its start or, every other time, after its first
 * commit, which a slow machine does not reach in 15 ms. */
static void write_and_kill(const fixture *f, uint32_t from, uint32_t random)
{
    int ends[2];
    char byte;
    assert_int_equal(pipe(ends), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (!child)
        write_until_killed(f, from, ends[1]);
    close(ends[1]);
    if (random & 1)
        assert_int_equal(read(ends[0], &byte, 1), 1);
    struct timespec nap = {.tv_nsec = (random >> 1) % 15000000};
    nanosleep(&nap, NULL);
    kill(child, SIGKILL);
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status));
    close(ends[0]);
}

static void kill_9_leaves_only_right_entries(void **state)
{
    fixture *f = *state;
    int hits = 0;
    for (uint32_t round = 0; round < ROUNDS; round++) {
        uint32_t from = round * 100, random[4];
        scd_rng_block(11, 1, round, random);
        write_and_kill(f, from, random[0]);
        fixture_open(f, 3 * MB);
        hits += fixture_hits(f, from, from + 300, N);
        assert_true(fixture_flush(f)); /* the check of the whole file is behind it */
        scd_store_stats stats = fixture_stats(f);
        assert_int_equal(stats.rebuilds, 0);
        assert_int_equal(stats.rejected_checksum, 0);
        fixture_close(f);
    }
    assert_true(hits > ROUNDS); /* half the children committed 64 entries and more */
    assert_string_equal(f->log, "");
}

/* Up to n bytes of noise somewhere in the file, where there is one. */
static void damage(const fixture *f, const char *suffix, const uint32_t random[4], size_t n)
{
    unsigned char noise[4096];
    uint64_t size = file_bytes(f, suffix);
    int fd = open(fixture_path(f, suffix), O_WRONLY);
    if (fd >= 0 && size) {
        value_of(random[0], noise, sizeof noise);
        n = 1 + random[1] % n;
        assert_int_equal(pwrite(fd, noise, n, (off_t)(random[2] % size)), n);
    }
    if (fd >= 0)
        close(fd);
}

static void noise_in_the_files_of_a_killed_one_is_never_served(void **state)
{
    fixture *f = *state;
    int hits = 0;
    for (uint32_t round = 0; round < ROUNDS; round++) {
        uint32_t random[4];
        scd_rng_block(12, 1, round, random);
        write_and_kill(f, 0, random[3]);
        static const char *const suffixes[] = {"", "-wal", "-shm"};
        damage(f, suffixes[round % 3], random, 4096);
        fixture_open(f, 3 * MB);
        hits += fixture_hits(f, 0, 300, N); /* compares every hit with the truth */
        fixture_flush(f);
        hits += fixture_hits(f, 0, 300, N);
        fixture_put(f, 99999, N);
        assert_int_equal(fixture_get(f, 99999, N), 1);
        fixture_close(f);
        f->log[0] = '\0';
    }
    assert_true(hits > ROUNDS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        STORE_TEST(kill_9_leaves_only_right_entries),
        STORE_TEST(noise_in_the_files_of_a_killed_one_is_never_served),
    };
    return cmocka_run_group_tests_name("store_kill", tests, NULL, NULL);
}
