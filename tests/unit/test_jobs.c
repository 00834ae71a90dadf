/* test_jobs.c - what there is of jobs: changes, what is found again after a restart, bounds of
 * disk, who is told; with no file and no model run. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "tests/unit/tiny_model.h"

#include "engine/base/mem.h"
#include "engine/engine.h"
#include "server/jobs.h"

#include <stdatomic.h>
#include <stdio.h>
#include <unistd.h>

static tiny_model model;
static scd_engine *engine;
static char data[] = "/tmp/scdiva-jobs-XXXXXX";
static scd_config config;

static int open_engine(void **state)
{
    (void)state;
    const char *dir = model.dir;
    const scd_engine_options o = {.device = SCD_DEVICE_CPU,
                                  .precision = SCD_PRECISION_FP32,
                                  .threads = 1,
                                  .model_dirs = &dir,
                                  .n_models = 1};
    if (tiny_model_make(&model, "tiny", "1") || scd_engine_open(&o, &engine, NULL))
        return -1;
    config = (scd_config){.max_jobs = 3, .job_disk_mb = 10, .job_key_disk_mb = 5, .job_keep_h = 1};
    return 0;
}

static int close_engine(void **state)
{
    (void)state;
    scd_engine_close(engine);
    tiny_model_remove(&model);
    return 0;
}

static int make_dir(void **state)
{
    (void)state;
    strcpy(data + strlen(data) - 6, "XXXXXX");
    config.data = mkdtemp(data);
    config.webhook_secret = "";
    return config.data ? 0 : -1;
}

static int remove_dir(void **state)
{
    (void)state;
    char command[64];
    snprintf(command, sizeof command, "rm -rf %s", data);
    return system(command);
}

static scd_jobs *open_jobs(void)
{
    scd_jobs *jobs;
    scd_error err = {0};
    const scd_jobs_options o = {.config = &config, .engine = engine};
    assert_int_equal(scd_jobs_open(&o, &jobs, &err), SCD_OK);
    assert_null(scd_jobs_unavailable(jobs));
    return jobs;
}

/* A job whose file is still to come, so that no worker takes it. */
static scd_problem_kind create(scd_jobs *jobs, const char *id, const char *owner, const char *key)
{
    scd_problem problem = {0};
    scd_job_change c = {.creates = true, .actor = owner};
    strcpy(c.id, id);
    strcpy(c.job.id, id);
    strcpy(c.job.owner, owner);
    strcpy(c.job.idempotency_key, key);
    scd_job_query_set(&c.job.query, "task", "embed", &problem);
    scd_job_query_set(&c.job.query, "format", "csv", &problem);
    c.job.created_ms = INT64_MAX / 2;
    c.job.upload_length = 100;
    scd_problem_kind kind = scd_jobs_apply(jobs, &c);
    scd_job_release(&c.job);
    return kind;
}

static scd_problem_kind cancel(scd_job_change *change, scd_job_record *job, scd_problem *problem)
{
    (void)change;
    if (job->state == SCD_JOB_CANCELED)
        return scd_problem_set(problem, SCD_PROBLEM_CONFLICT, "once is enough");
    job->state = SCD_JOB_CANCELED;
    return SCD_PROBLEM_NONE;
}

static scd_problem_kind apply(scd_jobs *jobs, const char *id, scd_job_mutate *mutate, bool deletes)
{
    scd_job_change c = {.mutate = mutate, .deletes = deletes, .actor = "who"};
    strcpy(c.id, id);
    scd_problem_kind kind = scd_jobs_apply(jobs, &c);
    scd_job_release(&c.job);
    return kind;
}

static void what_was_changed_is_found_after_a_restart(void **state)
{
    (void)state;
    scd_job_record job;
    scd_jobs *jobs = open_jobs();
    assert_int_equal(create(jobs, "job_a", "one", "k"), SCD_PROBLEM_NONE);
    assert_int_equal(create(jobs, "job_b", "two", "k"), SCD_PROBLEM_NONE);
    assert_int_equal(apply(jobs, "job_b", cancel, false), SCD_PROBLEM_NONE);
    assert_int_equal(apply(jobs, "job_b", cancel, false), SCD_PROBLEM_CONFLICT);
    assert_int_equal(apply(jobs, "job_c", cancel, false), SCD_PROBLEM_NOT_FOUND);
    scd_jobs_close(jobs);
    jobs = open_jobs();
    assert_true(scd_jobs_get(jobs, "job_b", NULL, &job, NULL));
    assert_int_equal(job.state, SCD_JOB_CANCELED);
    assert_int_equal(job.version, 2);
    scd_job_release(&job);
    assert_false(scd_jobs_get(jobs, "job_b", "one", &job, NULL));
    assert_true(scd_jobs_find_key(jobs, "one", "k", &job));
    assert_string_equal(job.id, "job_a");
    scd_job_release(&job);
    assert_false(scd_jobs_find_key(jobs, "three", "k", &job));
    assert_int_equal(apply(jobs, "job_b", NULL, true), SCD_PROBLEM_NONE);
    assert_false(scd_jobs_get(jobs, "job_b", NULL, &job, NULL));
    scd_jobs_close(jobs);
    jobs = open_jobs();
    assert_false(scd_jobs_get(jobs, "job_b", NULL, &job, NULL));
    scd_jobs_close(jobs);
}

static void disk_and_jobs_have_bounds(void **state)
{
    (void)state;
    enum { MIB = 1 << 20 };
    scd_problem problem = {0};
    scd_jobs *jobs = open_jobs();
    assert_true(scd_jobs_reserve(jobs, "one", 4 * MIB, true, &problem));
    assert_false(scd_jobs_reserve(jobs, "one", 2 * MIB, true, &problem));
    assert_int_equal(problem.kind, SCD_PROBLEM_STORAGE);
    assert_true(scd_jobs_reserve(jobs, "two", 5 * MIB, true, &problem));
    assert_false(scd_jobs_reserve(jobs, "three", 2 * MIB, true, &problem));
    scd_jobs_unreserve(jobs, "one", 4 * MIB);
    assert_true(scd_jobs_reserve(jobs, "three", 2 * MIB, true, &problem));
    create(jobs, "job_a", "", "");
    create(jobs, "job_b", "", "");
    create(jobs, "job_c", "", "");
    assert_false(scd_jobs_reserve(jobs, "four", 0, true, &problem));
    assert_true(scd_jobs_reserve(jobs, "four", 0, false, &problem));
    scd_jobs_close(jobs);
}

typedef struct ear {
    scd_job_listener listener;
    atomic_int n;
} ear;

static void hear(scd_job_listener *l)
{
    atomic_fetch_add(&((ear *)l)->n, 1);
}

static void who_listens_is_told_of_its_job_and_of_the_end(void **state)
{
    (void)state;
    scd_jobs *jobs = open_jobs();
    ear e = {.listener = {.id = "job_a", .wake = hear, .exchange = 7}};
    create(jobs, "job_a", "", "");
    create(jobs, "job_b", "", "");
    scd_jobs_listen(jobs, &e.listener);
    int before = atomic_load(&e.n);
    assert_true(before >= 1); /* of what was there already */
    apply(jobs, "job_a", cancel, false);
    assert_true(atomic_load(&e.n) > before);
    scd_jobs_expire_exchange(jobs, 8);
    assert_false(e.listener.expired);
    scd_jobs_expire_exchange(jobs, 7);
    assert_true(e.listener.expired);
    before = atomic_load(&e.n);
    scd_jobs_stop(jobs);
    assert_true(atomic_load(&e.n) > before && scd_jobs_stopping(jobs));
    scd_jobs_unlisten(jobs, &e.listener);
    scd_jobs_close(jobs);
}

static void a_directory_is_one_daemons(void **state)
{
    (void)state;
    scd_jobs *first = open_jobs(), *second;
    const scd_jobs_options o = {.config = &config, .engine = engine};
    assert_int_equal(scd_jobs_open(&o, &second, NULL), SCD_OK);
    assert_non_null(strstr(scd_jobs_unavailable(second), "another scdivad"));
    scd_jobs_close(second);
    scd_jobs_close(first);
    scd_jobs_close(open_jobs());
}

static void memory_that_is_out_at_the_start_is_told(void **state)
{
    (void)state;
    const scd_jobs_options o = {.config = &config, .engine = engine};
    bool good = false;
    for (long n = 0; !good && n < 200; n++) {
        scd_jobs *jobs = NULL;
        scd_error err = {0};
        scd_mem_fail_after(n);
        scd_code code = scd_jobs_open(&o, &jobs, &err);
        scd_mem_fail_after(-1);
        good = !code && !scd_jobs_unavailable(jobs);
        assert_true(good || code == SCD_E_NOMEM || !code);
        scd_jobs_close(jobs);
    }
    assert_true(good);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, make_dir, remove_dir)
        TEST(what_was_changed_is_found_after_a_restart),     TEST(disk_and_jobs_have_bounds),
        TEST(who_listens_is_told_of_its_job_and_of_the_end), TEST(a_directory_is_one_daemons),
        TEST(memory_that_is_out_at_the_start_is_told),
    };
    return cmocka_run_group_tests(tests, open_engine, close_engine);
}
