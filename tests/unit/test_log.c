/* test_log.c - the lines of engine/base/log.c, read back from a pipe in place of standard error. */
#include "engine/base/log.h"

#include <cjson/cJSON.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static char captured[1 << 20];
static int saved_stderr, capture_fd;

/* Standard error goes to an unlinked file until capture_end, which returns what was written. */
static void capture_begin(void)
{
    char path[] = "/tmp/scd_log_XXXXXX";
    capture_fd = mkstemp(path);
    assert_true(capture_fd >= 0);
    unlink(path);
    assert_int_equal(fcntl(capture_fd, F_SETFL, O_APPEND), 0);
    saved_stderr = dup(STDERR_FILENO);
    dup2(capture_fd, STDERR_FILENO);
}

static const char *capture_end(void)
{
    dup2(saved_stderr, STDERR_FILENO);
    close(saved_stderr);
    ssize_t n = pread(capture_fd, captured, sizeof captured - 1, 0);
    close(capture_fd);
    assert_true(n >= 0);
    captured[n] = '\0';
    return captured;
}

static cJSON *json_line(const char *text)
{
    const char *end = NULL;
    cJSON *json = cJSON_ParseWithOpts(text, &end, 0);
    assert_non_null(json);
    assert_string_equal(end, "\n");
    return json;
}

static const char *json_text(const cJSON *json, const char *key)
{
    const char *text = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(json, key));
    assert_non_null(text);
    return text;
}

static void a_text_line_has_time_level_event_and_pairs(void **state)
{
    (void)state;
    scd_log_setup(SCD_LOG_INFO, false);
    capture_begin();
    SCD_LOG(INFO, "ready", "port", scd_log_num(8080), "model", "blood v1", "load_s",
            scd_log_num(0.25));
    const char *line = capture_end();
    assert_int_equal(line[4], '-');
    assert_int_equal(line[10], 'T');
    assert_int_equal(line[19], '.');
    assert_int_equal(line[23], 'Z');
    assert_string_equal(line + 24, " INFO ready port=8080 model=\"blood v1\" load_s=0.25\n");
}

static void values_are_quoted_when_a_reader_could_not_see_their_end(void **state)
{
    (void)state;
    scd_log_setup(SCD_LOG_INFO, false);
    capture_begin();
    SCD_LOG(WARN, "e", "a", "", "b", "x=y", "c", "line\nbreak", "d", "say \"hi\"", "e", "\x1b[31m",
            "f", NULL, "g", "plain/path-1.0:x");
    const char *line = capture_end();
    assert_string_equal(line + 24,
                        " WARN e a=\"\" b=\"x=y\" c=\"line\\nbreak\" d=\"say \\\"hi\\\"\""
                        " e=\"\\u001b[31m\" f=null g=plain/path-1.0:x\n");
}

static void a_json_line_parses_and_keeps_every_value(void **state)
{
    (void)state;
    scd_log_setup(SCD_LOG_DEBUG, true);
    capture_begin();
    SCD_LOG(ERROR, "bad", "path", "a \"b\"\\c\n\x01", "n", scd_log_num(12), "inf",
            scd_log_num(1.0 / 0.0), "bytes", "ok \xC3\xA9 broken \xFF\xC3", "none", NULL);
    cJSON *json = json_line(capture_end());
    assert_string_equal(json_text(json, "level"), "error");
    assert_string_equal(json_text(json, "event"), "bad");
    assert_string_equal(json_text(json, "path"), "a \"b\"\\c\n\x01");
    assert_true(cJSON_IsNumber(cJSON_GetObjectItem(json, "n")));
    assert_int_equal((int)cJSON_GetObjectItem(json, "n")->valuedouble, 12);
    assert_string_equal(json_text(json, "inf"), "inf");
    assert_string_equal(json_text(json, "bytes"), "ok \xC3\xA9 broken \xEF\xBF\xBD\xEF\xBF\xBD");
    assert_true(cJSON_IsNull(cJSON_GetObjectItem(json, "none")));
    cJSON_Delete(json);
}

static void levels_below_the_set_one_are_silent(void **state)
{
    (void)state;
    scd_log_setup(SCD_LOG_WARN, false);
    capture_begin();
    SCD_LOG(DEBUG, "no");
    SCD_LOG(INFO, "no");
    SCD_LOG(WARN, "yes");
    const char *line = capture_end();
    assert_string_equal(line + 24, " WARN yes\n");
}

/* Every length around the bound, so that each place where a line can be cut is met. */
static void a_long_line_is_cut_to_4096_bytes_and_stays_valid(void **state)
{
    (void)state;
    scd_log_setup(SCD_LOG_INFO, true);
    for (size_t n = 3960; n < 4200; n++) {
        char *value = malloc(n + 4);
        assert_non_null(value);
        memset(value, 'x', n);
        memcpy(value + n, "\xC3\xA9\"", 4); /* two bytes and an escape at the cut */
        capture_begin();
        SCD_LOG(INFO, "long", "value", value, "after", "short", "n", scd_log_num(123456));
        const char *line = capture_end();
        size_t length = strlen(line);
        assert_true(length <= 4096);
        cJSON *json = json_line(line);
        const cJSON *number = cJSON_GetObjectItem(json, "n");
        if (number)
            assert_int_equal((int)number->valuedouble, 123456);
        else
            assert_true(cJSON_IsTrue(cJSON_GetObjectItem(json, "truncated")));
        const char *kept = json_text(json, "value");
        assert_memory_equal(kept, value, strlen(kept));
        cJSON_Delete(json);
        free(value);
    }
}

static void a_cut_text_line_closes_its_quote_and_says_truncated(void **state)
{
    (void)state;
    scd_log_setup(SCD_LOG_INFO, false);
    char value[9000];
    memset(value, ' ', sizeof value);
    value[sizeof value - 1] = '\0';
    capture_begin();
    SCD_LOG(INFO, "long", "value", value, "after", "gone");
    const char *line = capture_end();
    size_t n = strlen(line);
    assert_true(n <= 4096);
    assert_string_equal(line + n - strlen("\" truncated=true\n"), "\" truncated=true\n");
}

enum { THREADS = 4, LINES = 200 };

static void *write_lines(void *arg)
{
    for (int i = 0; i < LINES; i++)
        SCD_LOG(INFO, "line", "thread", (const char *)arg, "i", scd_log_num(i));
    return NULL;
}

static void lines_of_several_threads_do_not_mix(void **state)
{
    (void)state;
    scd_log_setup(SCD_LOG_INFO, true);
    pthread_t threads[THREADS];
    char names[THREADS][2] = {"a", "b", "c", "d"};
    capture_begin();
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, write_lines, names[i]), 0);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    capture_end();
    int n = 0;
    for (char *line = captured; *line; n++) {
        char *end = strchr(line, '\n');
        assert_non_null(end);
        *end = '\0';
        cJSON *json = cJSON_Parse(line);
        assert_non_null(json);
        assert_string_equal(json_text(json, "event"), "line");
        cJSON_Delete(json);
        line = end + 1;
    }
    assert_int_equal(n, THREADS * LINES);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_text_line_has_time_level_event_and_pairs),
        cmocka_unit_test(values_are_quoted_when_a_reader_could_not_see_their_end),
        cmocka_unit_test(a_json_line_parses_and_keeps_every_value),
        cmocka_unit_test(levels_below_the_set_one_are_silent),
        cmocka_unit_test(a_long_line_is_cut_to_4096_bytes_and_stays_valid),
        cmocka_unit_test(a_cut_text_line_closes_its_quote_and_says_truncated),
        cmocka_unit_test(lines_of_several_threads_do_not_mix),
    };
    return cmocka_run_group_tests_name("log", tests, NULL, NULL);
}
