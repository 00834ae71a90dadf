/* test_memo.c - whole answers by the hash of their request: bounded, least recently used first out.
 *
 * Threads: main, those a test starts. */
#include "engine/base/mem.h"
#include "server/memo.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { OVERHEAD = 128 }; /* of an entry, as memo.c counts it */

static scd_digest key_of(uint32_t n)
{
    return scd_digest_of(&n, sizeof n);
}

static void put(scd_memo *m, uint32_t n, const char *answer)
{
    scd_digest key = key_of(n);
    scd_memo_put(m, &key, &(scd_memo_info){"application/json", n, 0, 0}, answer, strlen(answer));
}

/* The answer kept under n, or "-". */
static const char *get(scd_memo *m, uint32_t n)
{
    static char text[1024];
    scd_digest key = key_of(n);
    scd_memo_info info = {0};
    scd_buf out;
    scd_buf_init(&out, sizeof text - 1);
    strcpy(text, "-");
    if (scd_memo_get(m, &key, &out, &info)) {
        strcpy(text, out.n_bytes ? out.data : "");
        assert_int_equal(info.cells, n);
        assert_string_equal(info.content_type, "application/json");
    }
    scd_buf_release(&out);
    return text;
}

static scd_memo *open_memo(size_t max_bytes)
{
    scd_memo *m = NULL;
    assert_int_equal(scd_memo_open(max_bytes, &m, NULL), SCD_OK);
    return m;
}

static void an_answer_comes_back_byte_for_byte(void **state)
{
    (void)state;
    scd_memo *m = open_memo(1 << 20);
    assert_string_equal(get(m, 1), "-");
    put(m, 1, "{\"data\":[1]}");
    put(m, 2, "");
    assert_string_equal(get(m, 1), "{\"data\":[1]}");
    assert_string_equal(get(m, 2), "");
    assert_string_equal(get(m, 3), "-");
    scd_memo_close(m);
    scd_memo_close(NULL);
}

static void it_is_appended_behind_what_the_buffer_has(void **state)
{
    (void)state;
    scd_memo *m = open_memo(1 << 20);
    scd_digest key = key_of(1);
    scd_memo_info info;
    scd_buf out;
    scd_buf_init(&out, 6);
    put(m, 1, "data");
    scd_buf_puts(&out, "x");
    assert_true(scd_memo_get(m, &key, &out, &info));
    assert_string_equal(out.data, "xdata");
    assert_false(scd_memo_get(m, &key, &out, &info)); /* no room: no hit */
    scd_buf_release(&out);
    scd_memo_close(m);
}

static void the_first_answer_of_a_body_stays(void **state)
{
    (void)state;
    scd_memo *m = open_memo(1 << 20);
    put(m, 1, "first");
    put(m, 1, "other");
    assert_string_equal(get(m, 1), "first");
    scd_memo_close(m);
}

static void the_least_recently_used_goes_first(void **state)
{
    (void)state;
    scd_memo *m = open_memo(8 * (OVERHEAD + 10));
    for (uint32_t n = 1; n <= 8; n++)
        put(m, n, "0123456789");
    assert_string_equal(get(m, 1), "0123456789"); /* now the youngest */
    put(m, 9, "0123456789");
    assert_string_equal(get(m, 2), "-");
    assert_string_equal(get(m, 1), "0123456789");
    assert_string_equal(get(m, 3), "0123456789");
    put(m, 10, "0123456789");
    assert_string_equal(get(m, 4), "-");
    scd_memo_close(m);
}

static void one_answer_takes_an_eighth_of_the_room_at_most(void **state)
{
    (void)state;
    char large[1024];
    memset(large, 'x', sizeof large);
    scd_memo *m = open_memo(4096);
    large[513] = '\0';
    put(m, 1, large);
    assert_string_equal(get(m, 1), "-");
    large[512] = '\0';
    put(m, 1, large);
    assert_string_equal(get(m, 1), large);
    scd_memo_close(m);
}

static void room_for_nothing_keeps_nothing(void **state)
{
    (void)state;
    scd_memo *m = open_memo(0);
    put(m, 1, "x");
    put(m, 2, "");
    assert_string_equal(get(m, 1), "-");
    assert_string_equal(get(m, 2), "-");
    scd_memo_close(m);
    m = open_memo(64); /* less than an entry costs */
    put(m, 1, "x");
    assert_string_equal(get(m, 1), "-");
    scd_memo_close(m);
}

static void out_of_memory_is_an_answer_not_kept(void **state)
{
    (void)state;
    scd_memo *m = (scd_memo *)1;
    scd_mem_fail_after(0);
    assert_int_equal(scd_memo_open(4096, &m, NULL), SCD_E_NOMEM);
    assert_null(m);
    scd_mem_fail_after(-1);
    m = open_memo(4096);
    scd_mem_fail_after(0);
    put(m, 1, "x");
    scd_mem_fail_after(-1);
    assert_string_equal(get(m, 1), "-");
    scd_memo_close(m);
}

static void *use(void *arg)
{
    scd_memo *m = arg;
    for (uint32_t i = 0; i < 3000; i++) {
        uint32_t n = i * 7 % 40;
        scd_digest key = key_of(n);
        scd_memo_info info;
        scd_buf out;
        scd_buf_init(&out, 100);
        if (!scd_memo_get(m, &key, &out, &info))
            scd_memo_put(m, &key, &(scd_memo_info){"t", n, 0, 0}, &n, sizeof n);
        else if (info.cells != n || memcmp(out.data, &n, sizeof n))
            return (void *)1;
        scd_buf_release(&out);
    }
    return NULL;
}

static void threads_that_put_get_and_evict_see_whole_answers(void **state)
{
    (void)state;
    pthread_t threads[4];
    scd_memo *m = open_memo(20 * (OVERHEAD + 4));
    for (size_t i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, use, m), 0);
    for (size_t i = 0; i < 4; i++) {
        void *wrong;
        pthread_join(threads[i], &wrong);
        assert_null(wrong);
    }
    scd_memo_close(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_answer_comes_back_byte_for_byte),
        cmocka_unit_test(it_is_appended_behind_what_the_buffer_has),
        cmocka_unit_test(the_first_answer_of_a_body_stays),
        cmocka_unit_test(the_least_recently_used_goes_first),
        cmocka_unit_test(one_answer_takes_an_eighth_of_the_room_at_most),
        cmocka_unit_test(room_for_nothing_keeps_nothing),
        cmocka_unit_test(out_of_memory_is_an_answer_not_kept),
        cmocka_unit_test(threads_that_put_get_and_evict_see_whole_answers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
