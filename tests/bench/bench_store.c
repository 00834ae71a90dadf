/* bench_store.c - the result cache by itself: gets from memory and from disk, misses, puts.
 *
 * Values of 2 KB (an embedding of 512 floats). Disk gets go to a file that the page cache holds, in
 * random order, each key once, so that the memory tier does not help. Median of the runs and the
 * 10th and 90th percentile. Takes the directory to work in, by default one under /tmp. */
#include "engine/base/clock.h"
#include "engine/base/rng.h"
#include "server/store.h"
#include "tests/bench/spread.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { N_ENTRIES = 40000, N_BYTES = 2048, N_RUNS = 31, PER_RUN = 1000, THREADS = 2 };

static unsigned char value[N_BYTES];
static scd_digest keys[N_ENTRIES], absent[N_ENTRIES];
static scd_store *store;
static volatile size_t sink;

static void report(const char *name, double *seconds, size_t n_runs, double per_run,
                   const char *unit)
{
    for (size_t i = 0; i < n_runs; i++)
        seconds[i] *= 1e6 / per_run;
    scd_bench_sort(seconds, n_runs);
    printf("%-34s %9.3f  [%8.3f %8.3f] %s\n", name, seconds[n_runs / 2], seconds[n_runs / 10],
           seconds[n_runs * 9 / 10], unit);
}

static void open_store(const char *dir, size_t max_bytes)
{
    scd_error err;
    scd_store_options options = {.dir = dir, .max_bytes = max_bytes};
    if (scd_store_open(&options, &store, &err)) {
        fprintf(stderr, "%s\n", err.message);
        exit(1);
    }
    scd_store_flush(store, scd_now_ns() + 60 * SCD_NS_PER_S);
}

static void get_range(const scd_digest *from, size_t n, size_t distinct)
{
    scd_buf buf;
    scd_buf_init(&buf, 1 << 20);
    for (size_t i = 0; i < n; i++) {
        scd_buf_clear(&buf);
        sink += scd_store_get(store, &from[i % distinct], &buf);
    }
    scd_buf_release(&buf);
}

static void bench_gets(const char *name, const scd_digest *from, size_t distinct)
{
    double seconds[N_RUNS];
    for (size_t run = 0; run < N_RUNS; run++) {
        const scd_digest *start = distinct == N_ENTRIES ? from + run * PER_RUN : from;
        int64_t t = scd_now_ns();
        get_range(start, PER_RUN, distinct);
        seconds[run] = (double)(scd_now_ns() - t) / 1e9;
    }
    report(name, seconds, N_RUNS, PER_RUN, "us/get");
}

static void *get_many(void *arg)
{
    (void)arg;
    get_range(keys, 100000, 500);
    return NULL;
}

static void bench_threads(void)
{
    double seconds[N_RUNS];
    for (size_t run = 0; run < N_RUNS; run++) {
        pthread_t threads[THREADS];
        int64_t t = scd_now_ns();
        for (size_t i = 0; i < THREADS; i++)
            pthread_create(&threads[i], NULL, get_many, NULL);
        for (size_t i = 0; i < THREADS; i++)
            pthread_join(threads[i], NULL);
        seconds[run] = (double)(scd_now_ns() - t) / 1e9;
    }
    report("get, memory, 2 threads at once", seconds, N_RUNS, 100000, "us/get and thread");
}

/* Returned from put, and on disk after the flush. */
static void bench_puts(void)
{
    double put_s[N_ENTRIES / PER_RUN], disk_s[N_ENTRIES / PER_RUN];
    for (size_t run = 0; run < N_ENTRIES / PER_RUN; run++) {
        int64_t t = scd_now_ns();
        for (size_t i = 0; i < PER_RUN; i++)
            scd_store_put(store, &keys[run * PER_RUN + i], value, N_BYTES);
        int64_t put = scd_now_ns();
        scd_store_flush(store, scd_now_ns() + 60 * SCD_NS_PER_S);
        put_s[run] = (double)(put - t) / 1e9;
        disk_s[run] = (double)(scd_now_ns() - t) / 1e9;
    }
    report("put, until it returns", put_s, N_ENTRIES / PER_RUN, PER_RUN, "us/put");
    report("put, until it is committed", disk_s, N_ENTRIES / PER_RUN, PER_RUN, "us/put");
}

static void shuffle(scd_digest *what)
{
    for (size_t i = N_ENTRIES - 1; i > 0; i--) {
        uint32_t random[4];
        scd_rng_block(5, 1, i, random);
        size_t j = random[0] % (i + 1);
        scd_digest swap = what[i];
        what[i] = what[j];
        what[j] = swap;
    }
}

int main(int argc, char **argv)
{
    char scratch[] = "/tmp/scd_bench_XXXXXX", path[4200];
    const char *dir = argc > 1 ? argv[1] : mkdtemp(scratch);
    for (uint32_t i = 0; i < N_ENTRIES; i++) {
        uint32_t other[2] = {i, 1};
        keys[i] = scd_digest_of(&i, sizeof i);
        absent[i] = scd_digest_of(other, sizeof other);
    }
    memset(value, 0x5a, sizeof value);
    printf("%d entries of %d bytes, %ld cores; median [10th 90th percentile]\n", N_ENTRIES, N_BYTES,
           sysconf(_SC_NPROCESSORS_ONLN));
    open_store(dir, (size_t)1 << 30);
    bench_puts();
    bench_gets("get, memory", keys + N_ENTRIES - 1000, 500);
    bench_gets("miss", absent, N_ENTRIES);
    scd_store_close(store);
    snprintf(path, sizeof path, "%s/cache.db", dir);
    struct stat st;
    if (!stat(path, &st))
        printf("%-34s %9.0f bytes/entry\n", "file", (double)st.st_size / N_ENTRIES);

    open_store(dir, (size_t)1 << 30);
    shuffle(keys);
    bench_gets("get, disk, page cache warm", keys, N_ENTRIES);
    get_range(keys, 500, 500);
    bench_threads();
    scd_store_close(store);
    if (argc < 2) {
        unlink(path);
        strcat(path, ".lock");
        unlink(path);
        rmdir(dir);
    }
    return 0;
}
