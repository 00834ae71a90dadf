/* test_metrics.c - counting, and the Prometheus text. */
#include "server/metrics.h"

#include "engine/base/clock.h"
#include "engine/base/mem.h"

#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const char *const routes[] = {"/v1/embeddings", "/odd\"\\\nname"};
static scd_buf text;
static scd_error err;

static int make_metrics(void **state)
{
    scd_metrics *m = NULL;
    scd_buf_init(&text, 1 << 20);
    if (scd_metrics_new(routes, 2, &m, &err))
        return -1;
    *state = m;
    return 0;
}

static int free_metrics(void **state)
{
    scd_metrics_free(*state);
    scd_buf_release(&text);
    return 0;
}

/* The value of the line "series value"; the series is compared in full. */
static double value_of(const char *series)
{
    size_t n = strlen(series);
    for (const char *line = text.data; line && *line; line = strchr(line, '\n') + 1)
        if (!strncmp(line, series, n) && line[n] == ' ')
            return strtod(line + n + 1, NULL);
    fail_msg("no series %s", series);
    return 0;
}

static void write_all(scd_metrics *m)
{
    scd_buf_clear(&text);
    scd_metrics_write(m, &text);
    assert_false(text.failed);
}

static void requests_are_counted_by_route_and_status(void **state)
{
    scd_metrics *m = *state;
    scd_metrics_request(m, 0, 200, 0.004);
    scd_metrics_request(m, 0, 200, 0.004);
    scd_metrics_request(m, 0, 429, 0.00001);
    scd_metrics_request(m, 0, 7, 0.1);   /* no HTTP status */
    scd_metrics_request(m, 9, 200, 0.1); /* no such route */
    write_all(m);
    assert_true(value_of("scdiva_requests_total{route=\"/v1/embeddings\",code=\"200\"}") == 2);
    assert_true(value_of("scdiva_requests_total{route=\"/v1/embeddings\",code=\"429\"}") == 1);
    assert_true(value_of("scdiva_requests_total{route=\"/v1/embeddings\",code=\"500\"}") == 1);
    assert_null(strstr(text.data, "code=\"404\""));
    assert_true(value_of("scdiva_request_seconds_count{route=\"/v1/embeddings\"}") == 4);
}

static void histogram_buckets_are_cumulative_and_bounds_inclusive(void **state)
{
    scd_metrics *m = *state;
    scd_metrics_observe(m, SCD_HIST_INFER_SECONDS, 0.001);
    scd_metrics_observe(m, SCD_HIST_INFER_SECONDS, 0.0011);
    scd_metrics_observe(m, SCD_HIST_INFER_SECONDS, 1000);
    scd_metrics_observe(m, SCD_HIST_INFER_SECONDS, -1);
    scd_metrics_observe(m, SCD_HIST_INFER_SECONDS, NAN);
    write_all(m);
    assert_true(value_of("scdiva_infer_seconds_bucket{le=\"0.0001\"}") == 2);
    assert_true(value_of("scdiva_infer_seconds_bucket{le=\"0.001\"}") == 3);
    assert_true(value_of("scdiva_infer_seconds_bucket{le=\"0.0025\"}") == 4);
    assert_true(value_of("scdiva_infer_seconds_bucket{le=\"100\"}") == 4);
    assert_true(value_of("scdiva_infer_seconds_bucket{le=\"+Inf\"}") == 5);
    assert_true(value_of("scdiva_infer_seconds_count") == 5);
    /* the sum is kept in nanoseconds: three roundings of half of one, at most */
    assert_true(fabs(value_of("scdiva_infer_seconds_sum") - 1000.0021) < 2e-9);
}

static void token_buckets_are_powers_of_two_written_in_full(void **state)
{
    scd_metrics *m = *state;
    scd_metrics_observe(m, SCD_HIST_BATCH_TOKENS, 1201);
    scd_metrics_observe(m, SCD_HIST_BATCH_TOKENS, 2e6);
    write_all(m);
    assert_true(value_of("scdiva_batch_tokens_bucket{le=\"1024\"}") == 0);
    assert_true(value_of("scdiva_batch_tokens_bucket{le=\"2048\"}") == 1);
    assert_true(value_of("scdiva_batch_tokens_bucket{le=\"1048576\"}") == 1);
    assert_true(value_of("scdiva_batch_tokens_sum") == 2001201);
}

static void counters_gauges_and_rejections_show_from_zero(void **state)
{
    scd_metrics *m = *state;
    write_all(m);
    assert_true(value_of("scdiva_engine_cells_total") == 0);
    assert_true(value_of("scdiva_rejected_total{reason=\"queue_full\"}") == 0);
    scd_metrics_add(m, SCD_COUNTER_ENGINE_CELLS, 3);
    scd_metrics_add(m, SCD_COUNTER_CACHE_HITS, UINT64_C(1) << 40);
    scd_metrics_set(m, SCD_GAUGE_QUEUE_TOKENS, 77);
    scd_metrics_rejected(m, SCD_REJECTED_QUEUE_FULL);
    write_all(m);
    assert_int_equal(scd_metrics_get(m, SCD_COUNTER_ENGINE_CELLS), 3);
    assert_true(value_of("scdiva_engine_cells_total") == 3);
    assert_true(value_of("scdiva_cache_hits_total") == 1099511627776.0);
    assert_true(value_of("scdiva_queue_tokens") == 77);
    assert_true(value_of("scdiva_rejected_total{reason=\"queue_full\"}") == 1);
}

static void label_values_are_escaped(void **state)
{
    scd_metrics *m = *state;
    scd_metrics_request(m, 1, 200, 0);
    assert_int_equal(scd_metrics_model(m, "a\"b", "ff", "cpu", "bf16", &err), SCD_OK);
    write_all(m);
    assert_true(value_of("scdiva_requests_total{route=\"/odd\\\"\\\\\\nname\",code=\"200\"}") == 1);
    assert_true(value_of("scdiva_model_info{name=\"a\\\"b\",digest=\"ff\",device=\"cpu\","
                         "precision=\"bf16\"}") == 1);
}

/* Each family: HELP, TYPE, then its samples and nobody else's, and no family twice. */
static void the_text_keeps_the_format(void **state)
{
    scd_metrics *m = *state;
    scd_store_stats stats = {.entries = 5, .memory_bytes = 10, .pending = 2};
    scd_metrics_request(m, 0, 200, 1);
    write_all(m);
    scd_metrics_write_store(&text, &stats);
    scd_metrics_write_family(&text, "scdiva_jobs", "gauge", "Jobs by state.");
    scd_metrics_write_sample(&text, "scdiva_jobs", "state", "running", 1.5);
    assert_true(value_of("scdiva_store_entries{tier=\"disk\"}") == 5);
    assert_true(value_of("scdiva_jobs{state=\"running\"}") == 1.5);
    assert_int_equal(text.data[text.n_bytes - 1], '\n');

    char family[80] = "", seen[8192] = " ";
    for (char *line = text.data, *end; *line; line = end + 1) {
        end = strchr(line, '\n');
        assert_non_null(end);
        char name[80];
        if (sscanf(line, "# HELP %79s", name) == 1) {
            char entry[90];
            snprintf(entry, sizeof entry, " %s ", name);
            assert_null(strstr(seen, entry));
            strcat(strcat(seen, name), " ");
            strcpy(family, name);
            assert_int_equal(sscanf(end + 1, "# TYPE %79s", name), 1);
            assert_string_equal(name, family);
        } else if (*line != '#') {
            size_t n = strlen(family);
            assert_memory_equal(line, family, n);
            assert_true(line[n] == ' ' || line[n] == '{' || line[n] == '_');
        }
    }
}

static void the_process_describes_itself(void **state)
{
    scd_metrics *m = *state;
    write_all(m);
    assert_true(value_of("process_resident_memory_bytes") > 100000);
    double age_s = (double)scd_wall_ms() / 1000 - value_of("process_start_time_seconds");
    assert_true(age_s > -1 && age_s < 3600); /* a test does not run for an hour */
    assert_true(value_of("scdiva_build_info{version=\"" SCD_VERSION "\"}") == 1);
}

enum { THREADS = 4, ROUNDS = 20000 };

static void *count(void *arg)
{
    scd_metrics *m = arg;
    for (int i = 0; i < ROUNDS; i++) {
        scd_metrics_request(m, 0, 200, 0.01);
        scd_metrics_add(m, SCD_COUNTER_ENGINE_TOKENS, 2);
    }
    return NULL;
}

static void nothing_is_lost_between_threads_while_it_is_read(void **state)
{
    scd_metrics *m = *state;
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, count, m), 0);
    for (int i = 0; i < 20; i++) {
        write_all(m);
        assert_true(
            value_of("scdiva_request_seconds_count{route=\"/v1/embeddings\"}") ==
            value_of("scdiva_request_seconds_bucket{route=\"/v1/embeddings\",le=\"+Inf\"}"));
    }
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    write_all(m);
    assert_true(value_of("scdiva_requests_total{route=\"/v1/embeddings\",code=\"200\"}") ==
                THREADS * ROUNDS);
    assert_int_equal(scd_metrics_get(m, SCD_COUNTER_ENGINE_TOKENS), 2 * THREADS * ROUNDS);
}

static void the_table_of_models_is_bounded(void **state)
{
    scd_metrics *m = *state;
    for (int i = 0; i < SCD_METRICS_MODELS; i++)
        assert_int_equal(scd_metrics_model(m, "m", "d", "cpu", "fp32", &err), SCD_OK);
    assert_int_equal(scd_metrics_model(m, "m", "d", "cpu", "fp32", &err), SCD_E_TOO_LARGE);
}

static void a_model_that_is_forgotten_is_written_no_more(void **state)
{
    scd_metrics *m = *state;
    assert_int_equal(scd_metrics_model(m, "m", "d", "cuda", "bf16", &err), SCD_OK);
    scd_metrics_forget_models(m);
    assert_int_equal(scd_metrics_model(m, "m", "d", "cpu", "fp32", &err), SCD_OK);
    write_all(m);
    assert_null(strstr(text.data, "device=\"cuda\""));
    assert_non_null(strstr(text.data, "device=\"cpu\""));
}

static void every_failing_allocation_is_reported(void **state)
{
    (void)state;
    scd_metrics *m = NULL;
    for (long n = 0; n < 4; n++) {
        scd_mem_fail_after(n);
        assert_int_equal(scd_metrics_new(routes, 2, &m, &err), SCD_E_NOMEM);
        scd_mem_fail_after(-1);
        assert_null(m);
    }
    assert_int_equal(scd_metrics_new(routes, 2, &m, &err), SCD_OK);
    for (long n = 0; n < 4; n++) {
        scd_mem_fail_after(n);
        assert_int_equal(scd_metrics_model(m, "m", "d", "c", "p", &err), SCD_E_NOMEM);
        scd_mem_fail_after(-1);
    }
    scd_metrics_free(m);
}

int main(void)
{
#define WITH_METRICS(test) cmocka_unit_test_setup_teardown(test, make_metrics, free_metrics)
    const struct CMUnitTest tests[] = {
        WITH_METRICS(requests_are_counted_by_route_and_status),
        WITH_METRICS(histogram_buckets_are_cumulative_and_bounds_inclusive),
        WITH_METRICS(token_buckets_are_powers_of_two_written_in_full),
        WITH_METRICS(counters_gauges_and_rejections_show_from_zero),
        WITH_METRICS(label_values_are_escaped),
        WITH_METRICS(the_text_keeps_the_format),
        WITH_METRICS(the_process_describes_itself),
        WITH_METRICS(nothing_is_lost_between_threads_while_it_is_read),
        WITH_METRICS(the_table_of_models_is_bounded),
        WITH_METRICS(a_model_that_is_forgotten_is_written_no_more),
        cmocka_unit_test(every_failing_allocation_is_reported),
    };
    return cmocka_run_group_tests_name("metrics", tests, NULL, NULL);
}
