/* test_options.c - the daemon's options from flags, environment and file: who wins, and what is
 * said about mistakes.
 *
 * Threads: main. */
#include "config/config.h"
#include "engine/base/mem.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

enum { MAX_WORDS = 16 };

static char path[] = "/tmp/scdiva-options-XXXXXX";
static scd_config config;
static scd_config_action action;
static scd_error err;

static int make_file(void **state)
{
    (void)state;
    int fd = mkstemp(path);
    return fd < 0 ? -1 : close(fd);
}

static int remove_file(void **state)
{
    (void)state;
    return unlink(path);
}

static void write_file(const char *text)
{
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    assert_true(fputs(text, f) >= 0);
    assert_int_equal(fclose(f), 0);
}

/* Words of `flags` behind the program's name; lines of `env`; @ stands for the file's path. */
static scd_code load(const char *flags, const char *env)
{
    char words[512], lines[512], *argv[MAX_WORDS] = {(char[]){"scdivad"}}, *envp[MAX_WORDS] = {0};
    const char *at = strchr(flags, '@');
    int before = at ? (int)(at - flags) : (int)strlen(flags);
    snprintf(words, sizeof words, "%.*s%s%s", before, flags, at ? path : "", at ? at + 1 : "");
    snprintf(lines, sizeof lines, "%s", env);
    int argc = 1, n = 0;
    for (char *w = strtok(words, " "); w; w = strtok(NULL, " "))
        argv[argc++] = w;
    for (char *l = strtok(lines, "\n"); l; l = strtok(NULL, "\n"))
        envp[n++] = l;
    memset(&err, 0, sizeof err);
    return scd_config_load(argc, argv, envp, &config, &action, &err);
}

static void assert_loads(const char *flags, const char *env)
{
    if (load(flags, env))
        fail_msg("%s | %s: %s", flags, env, err.message);
}

static void assert_refused(const char *flags, const char *env, const char *message)
{
    assert_int_equal(load(flags, env), SCD_E_INVALID);
    assert_string_equal(err.message, message);
    assert_null(config.listen); /* nothing is left to release */
}

/* ---- what is taken --------------------------------------------------------------------------- */

static void without_any_option_every_key_has_its_default(void **state)
{
    (void)state;
    assert_loads("", "");
    assert_int_equal(action, SCD_CONFIG_RUN);
    assert_int_equal(config.models.n, 0);
    assert_string_equal(config.listen, "127.0.0.1:8080");
    assert_int_equal(config.max_queue_tokens, 262144);
    assert_int_equal(config.cache_mb, 1024);
    assert_int_equal(config.device.choice, 0);
    assert_string_equal(config.keys, "");
    assert_false(config.insecure);
    scd_config_release(&config);
    scd_config_release(&config); /* twice is fine */
}

static void gpus_may_be_named_by_their_numbers(void **state)
{
    (void)state;
    static const struct {
        const char *flags;
        int choice;
        bool all;
        size_t n;
        int numbers[3];
    } cases[] = {{"--device auto", 0, false, 0, {0}},
                 {"--device cpu", 1, false, 0, {0}},
                 {"--device cuda", 2, false, 0, {0}},
                 {"--device cuda:0", 2, false, 1, {0}},
                 {"--device=cuda:3", 2, false, 1, {3}},
                 {"--device cuda:999", 2, false, 1, {999}},
                 {"--device cuda:0,1", 2, false, 2, {0, 1}},
                 {"--device cuda:all", 2, true, 0, {0}},
                 {"--device cuda:7,0,2", 2, false, 3, {7, 0, 2}}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        assert_loads(cases[i].flags, "");
        assert_int_equal(config.device.choice, cases[i].choice);
        assert_int_equal(config.device.all, cases[i].all);
        assert_int_equal(config.device.n, cases[i].n);
        for (size_t k = 0; k < cases[i].n; k++)
            assert_int_equal(config.device.numbers[k], cases[i].numbers[k]);
        scd_config_release(&config);
    }
    assert_loads("--device cuda:2", "SCDIVA_DEVICE=cuda:0,1"); /* instead of, not beside */
    assert_int_equal(config.device.n, 1);
    scd_config_release(&config);
    assert_loads("--on-device-loss cpu", "");
    assert_int_equal(config.on_device_loss, 1);
    scd_config_release(&config);
}

static void a_flag_has_its_value_behind_it_or_behind_an_equals_sign(void **state)
{
    (void)state;
    assert_loads("--listen 0.0.0.0:1 --threads=3 --precision bf16 --insecure --model a --model=b=c",
                 "");
    assert_string_equal(config.listen, "0.0.0.0:1");
    assert_int_equal(config.threads, 3);
    assert_int_equal(config.precision, 2);
    assert_true(config.insecure);
    assert_int_equal(config.models.n, 2);
    assert_string_equal(config.models.items[0], "a");
    assert_string_equal(config.models.items[1], "b=c");
    scd_config_release(&config);
    assert_loads("--insecure=false --keys=", "");
    assert_false(config.insecure);
    assert_string_equal(config.keys, "");
    scd_config_release(&config);
}

static void the_last_of_two_equal_flags_counts(void **state)
{
    (void)state;
    assert_loads("--threads 1 --threads 2 --data a --data b", "");
    assert_int_equal(config.threads, 2);
    assert_string_equal(config.data, "b");
    scd_config_release(&config);
}

static void the_environment_names_every_key_in_capitals(void **state)
{
    (void)state;
    assert_loads("", "SCDIVA_MAX_QUEUE_TOKENS=77\nSCDIVA_MODEL=a:b::c\nSCDIVA_LOG_FORMAT=json\n"
                     "SCDIVA_INSECURE=1\nHOME=/root\nSCDIVAD=x\nPATH");
    assert_int_equal(config.max_queue_tokens, 77);
    assert_int_equal(config.models.n, 3);
    assert_string_equal(config.models.items[2], "c");
    assert_int_equal(config.log_format, 1);
    assert_true(config.insecure);
    scd_config_release(&config);
}

static void variables_that_belong_to_others_are_left_alone(void **state)
{
    (void)state;
    assert_loads("", "SCDIVA_PORT=tcp://10.0.0.1:80\nSCDIVA_PORT_8080_TCP_ADDR=10.0.0.1\n"
                     "SCDIVA_SERVICE_HOST=10.0.0.1\nSCDIVA_ISA=avx2\nSCDIVA_TEST_SLOW=1");
    scd_config_release(&config);
}

static void a_file_has_a_key_and_a_value_a_line(void **state)
{
    (void)state;
    write_file("# a comment\n\nmodel = a\nmodel = b:c\ncache-mb=5\ninsecure = true\n"
               "listen = [::1]:0\n");
    assert_loads("--config @", "");
    assert_int_equal(config.models.n, 2);
    assert_string_equal(config.models.items[1], "b:c"); /* only the environment splits */
    assert_int_equal(config.cache_mb, 5);
    assert_true(config.insecure);
    assert_string_equal(config.listen, "[::1]:0");
    scd_config_release(&config);
}

static void a_flag_wins_over_the_environment_and_that_over_the_file(void **state)
{
    (void)state;
    write_file("threads = 1\nhttp-threads = 1\ncache-mb = 1\nmodel = f\nmodel = g\ndata = f\n"
               "log-level = warn\ninsecure = true\n");
    assert_loads("--config=@ --threads 3 --model m --insecure=false",
                 "SCDIVA_THREADS=2\nSCDIVA_HTTP_THREADS=2\nSCDIVA_MODEL=e:d\nSCDIVA_DATA=e");
    assert_int_equal(config.threads, 3);
    assert_int_equal(config.http_threads, 2);
    assert_int_equal(config.cache_mb, 1);
    assert_string_equal(config.data, "e");
    assert_int_equal(config.log_level, 2);
    assert_int_equal(config.models.n, 1); /* lists replace one another, they do not add up */
    assert_string_equal(config.models.items[0], "m");
    assert_false(config.insecure);
    scd_config_release(&config);
    assert_loads("--config @", "SCDIVA_MODEL=e:d");
    assert_int_equal(config.models.n, 2);
    assert_string_equal(config.models.items[0], "e");
    scd_config_release(&config);
}

static void the_file_is_named_by_flag_before_environment(void **state)
{
    (void)state;
    char env[128];
    write_file("threads = 9\n");
    snprintf(env, sizeof env, "SCDIVA_CONFIG=%s", path);
    assert_loads("", env);
    assert_int_equal(config.threads, 9);
    scd_config_release(&config);
    assert_loads("--config @", "SCDIVA_CONFIG=/nonexistent");
    assert_int_equal(config.threads, 9);
    scd_config_release(&config);
}

static void help_version_and_print_config_ask_for_nothing_else_to_be_right(void **state)
{
    (void)state;
    assert_loads("--help --nonsense", "SCDIVA_NONSENSE=1");
    assert_int_equal(action, SCD_CONFIG_HELP);
    scd_config_release(&config);
    assert_loads("--threads 2 -h", "");
    assert_int_equal(action, SCD_CONFIG_HELP);
    scd_config_release(&config);
    assert_loads("--version", "");
    assert_int_equal(action, SCD_CONFIG_VERSION);
    scd_config_release(&config);
    assert_loads("--print-config", "");
    assert_int_equal(action, SCD_CONFIG_PRINT);
    scd_config_release(&config);
}

/* ---- what is refused ------------------------------------------------------------------------- */

static void a_wrong_flag_is_named(void **state)
{
    (void)state;
    assert_refused("--treads 2", "", "unknown option --treads (see --help)");
    assert_refused("--treads=2", "", "unknown option --treads (see --help)");
    assert_refused("--thread 2", "", "unknown option --thread (see --help)");
    assert_refused("serve", "", "unexpected argument \"serve\" (see --help)");
    assert_refused("-t 2", "", "unexpected argument \"-t\" (see --help)");
    assert_refused("--threads", "", "--threads needs a value (see --help)");
    assert_refused("--config", "", "--config needs a value (see --help)");
}

static void a_wrong_value_is_named_with_its_place_and_what_it_may_be(void **state)
{
    (void)state;
    static const char range[] = "--threads: threads is \"%s\", must be a whole number from 0 to "
                                "1024";
    static const char *const bad[] = {"x", "1.5", "-1", "1025", "2x", "99999999999999999999"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        char flags[64], message[160];
        snprintf(flags, sizeof flags, "--threads %s", bad[i]);
        snprintf(message, sizeof message, range, bad[i]);
        assert_refused(flags, "", message);
    }
    assert_refused("--threads=", "",
                   "--threads: threads is \"\", must be a whole number from 0 to 1024");
    assert_refused("--max-queue-tokens 0", "",
                   "--max-queue-tokens: max-queue-tokens is \"0\", must be a whole number from 1 "
                   "to 1073741824");
    static const char *const devices[] = {"gpu",      "cud",        "cuda:",          "cuda:x",
                                          "cuda:-1",  "cuda:1000",  "cuda:0,",        "cuda:,1",
                                          "cuda:0,0", "cuda:0,,1",  "cpu:0",          "auto:1",
                                          "cudal",    "cuda:all,1", "cpu:all",        "cuda:0,1x",
                                          "cuda:al",  "cuda:0.5,1", "cuda:4294967296"};
    for (size_t i = 0; i < sizeof devices / sizeof devices[0]; i++) {
        char flags[64], message[160];
        snprintf(flags, sizeof flags, "--device=%s", devices[i]);
        snprintf(message, sizeof message,
                 "--device: device is \"%s\", must be auto|cpu|cuda[:N[,N]]", devices[i]);
        assert_refused(flags, "", message);
    }
    assert_refused("--insecure=yes", "", "--insecure: insecure is \"yes\", must be true or false");
}

static void a_wrong_variable_is_named(void **state)
{
    (void)state;
    assert_refused("", "SCDIVA_TREADS=2", "environment: unknown option SCDIVA_TREADS");
    assert_refused("", "SCDIVA_=2", "environment: unknown option SCDIVA_");
    assert_refused("", "SCDIVA_THREADS=two",
                   "environment SCDIVA_THREADS: threads is \"two\", must be a whole number from 0 "
                   "to 1024");
    char env[256] = "SCDIVA_";
    memset(env + 7, 'A', 100);
    strcpy(env + 107, "=1");
    assert_int_equal(load("", env), SCD_E_INVALID);
}

static void a_mistake_in_the_file_is_named_with_its_line(void **state)
{
    (void)state;
    static const struct {
        const char *text, *message;
    } bad[] = {
        {"threads = 1\n\ntreads = 2\n",
         ": line 3: unknown key \"treads\" (scdivad --print-config lists all)"},
        {"# x\nthreads = two\n",
         ": line 2: threads is \"two\", must be a whole number from 0 to 1024"},
        {"[server]\nthreads = 2\n", ": line 2: sections are not used here: [server]"},
        {"threads = 1\nthreads\n", ": line 2 is not \"key = value\""},
        {"log-level = warn\nlog-level = loud\nfoo = 1\n",
         ": line 2: log-level is \"loud\", must be debug|info|warn|error"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        char message[256];
        snprintf(message, sizeof message, "%s%s", path, bad[i].message);
        write_file(bad[i].text);
        assert_refused("--config @", "", message);
    }
}

static void a_line_that_is_too_long_is_not_taken_for_two(void **state)
{
    (void)state;
    char text[600], message[128];
    memset(text, 'x', sizeof text);
    memcpy(text, "threads = 1\nmodel = /", 21);
    strcpy(text + 250, "threads = 7\ndata = d\n");
    write_file(text);
    snprintf(message, sizeof message, "%s: line 2 is too long", path);
    assert_refused("--config @", "", message);
}

static void a_file_that_cannot_be_read_is_named(void **state)
{
    (void)state;
    assert_int_equal(load("--config /nonexistent/conf", ""), SCD_E_IO);
    assert_string_equal(err.message,
                        "cannot read the configuration file /nonexistent/conf: No such "
                        "file or directory");
    assert_int_equal(load("--config /tmp", ""), SCD_E_IO);
}

static void every_allocation_that_fails_is_reported_and_leaks_nothing(void **state)
{
    (void)state;
    scd_code code = SCD_E_NOMEM;
    long n = 0;
    write_file("model = a\nmodel = b\ndata = c\n");
    for (; code && n < 100; n++) {
        scd_mem_fail_after(n);
        code = load("--config @ --keys k", "SCDIVA_LISTEN=x");
        scd_mem_fail_after(-1);
        if (code)
            assert_int_equal(code, SCD_E_NOMEM);
    }
    assert_int_equal(code, SCD_OK);
    assert_true(n > 8);
    scd_config_release(&config);
}

/* ---- what is printed ------------------------------------------------------------------------- */

static const char *const keys[] = {
#define SCD_TEXT(field, key, dflt, metavar, help) key,
#define SCD_LIST(field, key, metavar, help) key,
#define SCD_INT(field, key, dflt, lo, hi, metavar, help) key,
#define SCD_CHOICE(field, key, dflt, choices, help) key,
#define SCD_NUMBERED(field, key, dflt, choices, help) key,
#define SCD_SWITCH(field, key, help) key,
#include "config/config.def"
};

static void help_lists_every_option(void **state)
{
    (void)state;
    scd_buf text;
    scd_buf_init(&text, 1 << 16);
    scd_config_help(&text);
    assert_false(text.failed);
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        char flag[80];
        snprintf(flag, sizeof flag, "  --%s ", keys[i]);
        if (!strstr(text.data, flag))
            fail_msg("--help does not list%s", flag);
    }
    scd_buf_release(&text);
}

/* The sample with its keys brought to life is a file that loads and says what the defaults are. */
static void the_sample_file_loads_as_the_defaults(void **state)
{
    (void)state;
    scd_buf text, live;
    scd_config dflt;
    scd_buf_init(&text, 1 << 16);
    scd_buf_init(&live, 1 << 16);
    scd_config_sample(&text);
    for (char *line = strtok(text.data, "\n"); line; line = strtok(NULL, "\n"))
        for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
            size_t n = strlen(keys[i]);
            if (!strncmp(line, "# ", 2) && !strncmp(line + 2, keys[i], n) &&
                !strncmp(line + 2 + n, " =", 2))
                scd_buf_printf(&live, "%s\n", line + 2);
        }
    write_file(live.data);
    assert_loads("", "");
    dflt = config;
    assert_loads("--config @", "");
    assert_string_equal(config.listen, dflt.listen);
    assert_string_equal(config.keys, dflt.keys);
    assert_string_equal(config.data, dflt.data);
    assert_int_equal(config.max_connections, dflt.max_connections);
    assert_int_equal(config.drain_s, dflt.drain_s);
    assert_int_equal(config.log_level, dflt.log_level);
    assert_int_equal(config.models.n, 1);
    scd_config_release(&config);
    scd_config_release(&dflt);
    scd_buf_release(&text);
    scd_buf_release(&live);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(without_any_option_every_key_has_its_default),
        cmocka_unit_test(gpus_may_be_named_by_their_numbers),
        cmocka_unit_test(a_flag_has_its_value_behind_it_or_behind_an_equals_sign),
        cmocka_unit_test(the_last_of_two_equal_flags_counts),
        cmocka_unit_test(the_environment_names_every_key_in_capitals),
        cmocka_unit_test(variables_that_belong_to_others_are_left_alone),
        cmocka_unit_test(a_file_has_a_key_and_a_value_a_line),
        cmocka_unit_test(a_flag_wins_over_the_environment_and_that_over_the_file),
        cmocka_unit_test(the_file_is_named_by_flag_before_environment),
        cmocka_unit_test(help_version_and_print_config_ask_for_nothing_else_to_be_right),
        cmocka_unit_test(a_wrong_flag_is_named),
        cmocka_unit_test(a_wrong_value_is_named_with_its_place_and_what_it_may_be),
        cmocka_unit_test(a_wrong_variable_is_named),
        cmocka_unit_test(a_mistake_in_the_file_is_named_with_its_line),
        cmocka_unit_test(a_line_that_is_too_long_is_not_taken_for_two),
        cmocka_unit_test(a_file_that_cannot_be_read_is_named),
        cmocka_unit_test(every_allocation_that_fails_is_reported_and_leaks_nothing),
        cmocka_unit_test(help_lists_every_option),
        cmocka_unit_test(the_sample_file_loads_as_the_defaults),
    };
    return cmocka_run_group_tests(tests, make_file, remove_file);
}
