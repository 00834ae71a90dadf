/* test_job_db.c - the database of the jobs: what is saved is there again, and what is not ours is
 * refused and left alone. */
#include "server/job_db.h"

#include "engine/base/mem.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

static char dir[] = "/tmp/scdiva-jobdb-XXXXXX", path[64];

static int make_dir(void **state)
{
    (void)state;
    strcpy(dir + strlen(dir) - 6, "XXXXXX");
    snprintf(path, sizeof path, "%s/jobs.db", mkdtemp(dir));
    return 0;
}

static int remove_dir(void **state)
{
    (void)state;
    static const char *const ends[] = {"", "-wal", "-shm"};
    char name[80];
    for (size_t i = 0; i < 3; i++) {
        snprintf(name, sizeof name, "%s%s", path, ends[i]);
        unlink(name);
    }
    return rmdir(dir);
}

static scd_job_record example(void)
{
    scd_job_record j = {.serial = 7,
                        .version = 3,
                        .state = SCD_JOB_RUNNING,
                        .created_ms = 1000,
                        .upload_bytes = 12,
                        .uploaded = true,
                        .n_cells = 100,
                        .n_done = 40,
                        .row_bytes = 168,
                        .attempts = 2};
    scd_problem problem = {0};
    strcpy(j.id, "job_0123456789");
    strcpy(j.owner, "lims");
    strcpy(j.idempotency_key, "k\"1");
    strcpy(j.model, "pbmc");
    strcpy(j.detail, "it's so");
    scd_job_query_set(&j.query, "task", "embed", &problem);
    scd_job_query_set(&j.query, "format", "csv", &problem);
    scd_job_query_set(&j.query, "layer", "a&b", &problem);
    return j;
}

static scd_code take(void *arg, scd_job_record *job)
{
    *(scd_job_record *)arg = *job;
    return SCD_OK;
}

static scd_code count_chunk(void *arg, uint64_t first, uint64_t n, const scd_digest *digest)
{
    uint64_t *sum = arg;
    *sum = *sum * 1000 + first * 10 + n + digest->bytes[0];
    return SCD_OK;
}

static void what_is_saved_is_there_again(void **state)
{
    (void)state;
    scd_job_db *db;
    scd_error err = {0};
    scd_job_record j = example(), back = {0};
    scd_digest digest = {{1}};
    uint64_t sum = 0;
    j.report = strdup("\"warnings\":[]");
    assert_int_equal(scd_job_db_open(path, &db, &err), SCD_OK);
    assert_int_equal(scd_job_db_begin(db, &err), SCD_OK);
    assert_int_equal(scd_job_db_save(db, &j, &err), SCD_OK);
    assert_int_equal(scd_job_db_add_chunk(db, j.id, 3, 4, &digest, &err), SCD_OK);
    assert_int_equal(scd_job_db_add_chunk(db, j.id, 0, 3, &digest, &err), SCD_OK);
    assert_int_equal(scd_job_db_commit(db, &err), SCD_OK);
    assert_int_equal(scd_job_db_begin(db, &err), SCD_OK); /* and one that is undone */
    assert_int_equal(scd_job_db_delete(db, j.id, &err), SCD_OK);
    scd_job_db_rollback(db);
    scd_job_db_close(db);
    assert_int_equal(scd_job_db_open(path, &db, &err), SCD_OK);
    assert_int_equal(scd_job_db_each(db, take, &back, &err), SCD_OK);
    assert_string_equal(back.id, j.id);
    assert_string_equal(back.owner, "lims");
    assert_string_equal(back.idempotency_key, "k\"1");
    assert_string_equal(back.query.layer, "a&b");
    assert_string_equal(back.detail, "it's so");
    assert_string_equal(back.report, j.report);
    assert_int_equal(back.state, SCD_JOB_RUNNING);
    assert_int_equal(back.serial, 7);
    assert_int_equal(back.n_done, 40);
    assert_int_equal(back.attempts, 2);
    assert_true(back.uploaded);
    assert_int_equal(scd_job_db_each_chunk(db, j.id, count_chunk, &sum, &err), SCD_OK);
    assert_int_equal(sum, 4 * 1000 + 35);
    assert_int_equal(scd_job_db_delete(db, j.id, &err), SCD_OK);
    sum = 0;
    assert_int_equal(scd_job_db_each_chunk(db, j.id, count_chunk, &sum, &err), SCD_OK);
    assert_int_equal(sum, 0);
    scd_job_release(&back);
    scd_job_release(&j);
    scd_job_db_close(db);
}

static void what_is_not_ours_is_refused_and_left_alone(void **state)
{
    (void)state;
    scd_job_db *db = NULL;
    scd_error err = {0};
    char before[64] = "this is no database, and long enough to be taken for one", after[64] = "";
    FILE *f = fopen(path, "w");
    for (int i = 0; i < 100; i++)
        fwrite(before, 1, sizeof before, f);
    fclose(f);
    assert_int_equal(scd_job_db_open(path, &db, &err), SCD_E_CORRUPT);
    assert_null(db);
    assert_non_null(strstr(err.message, "jobs.db"));
    f = fopen(path, "r");
    assert_int_equal(fread(after, 1, sizeof after, f), sizeof after);
    fclose(f);
    assert_memory_equal(before, after, sizeof before);
    assert_int_equal(scd_job_db_open("/no/such/dir/jobs.db", &db, &err), SCD_E_IO);
}

static void memory_that_is_out_is_told(void **state)
{
    (void)state;
    scd_error err = {0};
    scd_job_db *db = NULL;
    for (long n = 0; n < 1; n++) {
        scd_mem_fail_after(n);
        assert_int_equal(scd_job_db_open(path, &db, &err), SCD_E_NOMEM);
        scd_mem_fail_after(-1);
    }
    assert_int_equal(scd_job_db_open(path, &db, &err), SCD_OK);
    scd_job_record j = example();
    scd_mem_fail_after(0);
    assert_int_equal(scd_job_db_save(db, &j, &err), SCD_E_NOMEM);
    scd_mem_fail_after(-1);
    scd_job_db_close(db);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(what_is_saved_is_there_again, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(what_is_not_ours_is_refused_and_left_alone, make_dir,
                                        remove_dir),
        cmocka_unit_test_setup_teardown(memory_that_is_out_is_told, make_dir, remove_dir),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
