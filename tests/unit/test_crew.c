/* test_crew.c - the thread for long jobs: in order, one at a time, none lost at the end.
 *
 * Threads: main, prep-0, those a test starts. */
#include "engine/base/mem.h"
#include "engine/base/thread.h"
#include "server/crew.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

enum { N_JOBS = 100 };

typedef struct job {
    scd_job job; /* first: run gets this */
    scd_crew *crew;
    int number, posts_left;
    pthread_t ran_in;
} job;

static atomic_int n_running, n_ran, order[4 * N_JOBS];
static atomic_bool overlapped;

static void run(scd_job *base)
{
    job *j = (job *)base;
    if (atomic_fetch_add(&n_running, 1))
        atomic_store(&overlapped, true);
    j->ran_in = pthread_self();
    atomic_store(&order[atomic_fetch_add(&n_ran, 1)], j->number);
    atomic_fetch_sub(&n_running, 1);
    if (j->posts_left-- > 0)
        scd_crew_post(j->crew, &j->job);
}

static scd_crew *open_crew(void)
{
    scd_crew *c = NULL;
    assert_int_equal(scd_crew_open(&c, NULL), SCD_OK);
    atomic_store(&n_ran, 0);
    atomic_store(&overlapped, false);
    return c;
}

static void jobs_run_in_order_and_all_of_them_before_it_closes(void **state)
{
    (void)state;
    static job jobs[N_JOBS];
    scd_crew *c = open_crew();
    for (int i = 0; i < N_JOBS; i++) {
        jobs[i] = (job){.job.run = run, .crew = c, .number = i};
        scd_crew_post(c, &jobs[i].job);
    }
    scd_crew_close(c);
    assert_int_equal(atomic_load(&n_ran), N_JOBS);
    for (int i = 0; i < N_JOBS; i++)
        assert_int_equal(atomic_load(&order[i]), i);
    assert_false(pthread_equal(jobs[0].ran_in, pthread_self()));
}

static void a_job_that_runs_may_be_posted_again_even_while_it_closes(void **state)
{
    (void)state;
    scd_crew *c = open_crew();
    job j = {.job.run = run, .crew = c, .posts_left = 50};
    scd_crew_post(c, &j.job);
    scd_crew_close(c);
    assert_int_equal(atomic_load(&n_ran), 51);
}

static void after_the_stop_a_job_runs_where_it_is_posted(void **state)
{
    (void)state;
    scd_crew *c = open_crew();
    scd_crew_stop(c);
    job j = {.job.run = run, .crew = c, .posts_left = 2};
    scd_crew_post(c, &j.job);
    assert_int_equal(atomic_load(&n_ran), 3);
    assert_true(pthread_equal(j.ran_in, pthread_self()));
    scd_crew_close(c);
}

static void *post_some(void *arg)
{
    job *jobs = arg;
    for (int i = 0; i < N_JOBS; i++)
        scd_crew_post(jobs[i].crew, &jobs[i].job);
    return NULL;
}

static void jobs_of_several_threads_run_one_at_a_time(void **state)
{
    (void)state;
    static job jobs[3][N_JOBS];
    pthread_t threads[3];
    scd_crew *c = open_crew();
    for (size_t t = 0; t < 3; t++) {
        for (int i = 0; i < N_JOBS; i++)
            jobs[t][i] = (job){.job.run = run, .crew = c};
        assert_int_equal(pthread_create(&threads[t], NULL, post_some, jobs[t]), 0);
    }
    for (size_t t = 0; t < 3; t++)
        pthread_join(threads[t], NULL);
    scd_crew_close(c);
    assert_int_equal(atomic_load(&n_ran), 3 * N_JOBS);
    assert_false(atomic_load(&overlapped));
}

static void a_sleeping_crew_wakes_for_a_job_and_an_idle_one_closes(void **state)
{
    (void)state;
    scd_crew *c = open_crew();
    job j = {.job.run = run, .crew = c};
    usleep(5000);
    scd_crew_post(c, &j.job);
    for (int i = 0; i < 60000 && !atomic_load(&n_ran); i++)
        usleep(1000);
    assert_int_equal(atomic_load(&n_ran), 1);
    scd_crew_close(c);
    scd_crew_close(open_crew());
    scd_crew_close(NULL);
}

static void a_crew_without_memory_is_not_opened(void **state)
{
    (void)state;
    scd_crew *c = (scd_crew *)1;
    scd_mem_fail_after(0);
    assert_int_equal(scd_crew_open(&c, NULL), SCD_E_NOMEM);
    scd_mem_fail_after(-1);
    assert_null(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(jobs_run_in_order_and_all_of_them_before_it_closes),
        cmocka_unit_test(a_job_that_runs_may_be_posted_again_even_while_it_closes),
        cmocka_unit_test(after_the_stop_a_job_runs_where_it_is_posted),
        cmocka_unit_test(jobs_of_several_threads_run_one_at_a_time),
        cmocka_unit_test(a_sleeping_crew_wakes_for_a_job_and_an_idle_one_closes),
        cmocka_unit_test(a_crew_without_memory_is_not_opened),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
