/* test_auth.c - keys files and Authorization headers. */
#include "api/auth.h"

#include "engine/base/hash.h"
#include "engine/base/mem.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static char path[] = "/tmp/scd_auth_XXXXXX";
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

static void write_file(const char *text, size_t n)
{
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    assert_int_equal(fwrite(text, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
    assert_int_equal(chmod(path, 0600), 0);
}

static const char *hash_of(const char *token)
{
    static char hex[4][SCD_DIGEST_HEX];
    static unsigned next;
    char *out = hex[next++ % 4];
    scd_digest digest = scd_digest_of(token, strlen(token));
    scd_digest_hex(&digest, out);
    return out;
}

static scd_auth *open_text(const char *text)
{
    scd_auth *auth = NULL;
    write_file(text, strlen(text));
    assert_int_equal(scd_auth_open(path, &auth, &err), SCD_OK);
    return auth;
}

static size_t count(const scd_auth *auth)
{
    scd_auth_key *keys;
    size_t n;
    assert_int_equal(scd_auth_list(auth, &keys, &n, &err), SCD_OK);
    free(keys);
    return n;
}

static void refused(const char *text, const char *why)
{
    scd_auth *auth = (scd_auth *)&err;
    write_file(text, strlen(text));
    assert_int_equal(scd_auth_open(path, &auth, &err), SCD_E_INVALID);
    assert_null(auth);
    if (!strstr(err.message, why))
        fail_msg("expected '%s' in '%s'", why, err.message);
}

static void a_token_is_known_by_its_hash_whatever_the_line_ends(void **state)
{
    (void)state;
    char text[600];
    snprintf(text, sizeof text, "\xEF\xBB\xBF# keys\r\n\r\n  %s  portal \r\n%s\tlims\n   \n# end",
             hash_of("alpha"), hash_of("beta/+~._-="));
    scd_auth *auth = open_text(text);
    assert_int_equal(count(auth), 2);
    assert_string_equal(scd_auth_check(auth, "Bearer alpha"), "portal");
    assert_string_equal(scd_auth_check(auth, "bEARER   beta/+~._-= "), "lims");
    assert_null(scd_auth_warning(auth));
    scd_auth_close(auth);
}

static void upper_case_hashes_and_a_last_line_without_end_are_fine(void **state)
{
    (void)state;
    char text[200];
    snprintf(text, sizeof text, "%s name", hash_of("t"));
    for (char *c = text; *c != ' '; c++)
        if (*c >= 'a')
            *c = (char)(*c - 'a' + 'A');
    scd_auth *auth = open_text(text);
    assert_string_equal(scd_auth_check(auth, "Bearer t"), "name");
    scd_auth_close(auth);
}

static void a_header_that_is_not_exactly_one_known_token_gets_nobody(void **state)
{
    (void)state;
    char text[200], longest[SCD_AUTH_MAX_TOKEN + 32];
    snprintf(text, sizeof text, "%s k\n", hash_of("alpha"));
    scd_auth *auth = open_text(text);
    const char *wrong[] = {"",
                           "alpha",
                           "Bearer",
                           "Bearer ",
                           "Beareralpha",
                           "Basic alpha",
                           "Bearer alph",
                           "Bearer alphaa",
                           "Bearer ALPHA",
                           "Bearer alpha beta",
                           "Bearer alpha, Bearer beta",
                           "Bearer alp\x01ha",
                           "Bearer alpha\xC3\xA9",
                           "Bearer \"alpha\""};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        assert_null(scd_auth_check(auth, wrong[i]));
    assert_null(scd_auth_check(auth, NULL));
    assert_null(scd_auth_check(auth, hash_of("alpha")));
    snprintf(longest, sizeof longest, "Bearer %0*d", (int)SCD_AUTH_MAX_TOKEN + 1, 0);
    assert_null(scd_auth_check(auth, longest));
    scd_auth_close(auth);
}

static void the_longest_token_still_works(void **state)
{
    (void)state;
    char token[SCD_AUTH_MAX_TOKEN + 1], header[SCD_AUTH_MAX_TOKEN + 32], text[200];
    snprintf(token, sizeof token, "%0*d", (int)SCD_AUTH_MAX_TOKEN, 7);
    snprintf(header, sizeof header, "Bearer %s", token);
    snprintf(text, sizeof text, "%s k\n", hash_of(token));
    scd_auth *auth = open_text(text);
    assert_string_equal(scd_auth_check(auth, header), "k");
    scd_auth_close(auth);
}

static void a_malformed_line_is_refused_with_its_number(void **state)
{
    (void)state;
    char text[400];
    refused("# one\n\nnothex name\n", "line 3");
    snprintf(text, sizeof text, "%s\n", hash_of("a"));
    refused(text, "line 1");
    snprintf(text, sizeof text, "%sff name\n", hash_of("a"));
    refused(text, "64 hex digits");
    snprintf(text, sizeof text, "%s two words\n", hash_of("a"));
    refused(text, "name must be");
    snprintf(text, sizeof text, "%s %0*d\n", hash_of("a"), (int)SCD_AUTH_MAX_NAME + 1, 0);
    refused(text, "name must be");
}

static void a_hash_or_a_name_that_stands_there_twice_is_refused(void **state)
{
    (void)state;
    char text[400];
    snprintf(text, sizeof text, "%s one\n%s two\n", hash_of("a"), hash_of("a"));
    refused(text, "line 2: the hash of 'two' is that of 'one'");
    snprintf(text, sizeof text, "%s one\n%s one\n", hash_of("a"), hash_of("b"));
    refused(text, "line 2: the name 'one'");
}

static void a_file_without_a_key_is_refused(void **state)
{
    (void)state;
    refused("", "no key in it");
    refused("# nobody yet\n\n", "no key in it");
}

static void binary_and_oversized_files_are_refused(void **state)
{
    (void)state;
    scd_auth *auth = NULL;
    write_file("ab\0cd\n", 6);
    assert_int_equal(scd_auth_open(path, &auth, &err), SCD_E_INVALID);
    assert_non_null(strstr(err.message, "not a text file"));
    size_t n = SCD_AUTH_MAX_FILE + 1;
    char *big = malloc(n);
    assert_non_null(big);
    memset(big, '\n', n);
    write_file(big, n);
    free(big);
    assert_int_equal(scd_auth_open(path, &auth, &err), SCD_E_INVALID);
    assert_non_null(strstr(err.message, "larger than"));
}

static void a_missing_file_is_an_io_error_with_its_name(void **state)
{
    (void)state;
    scd_auth *auth = NULL;
    assert_int_equal(scd_auth_open("/nonexistent/keys", &auth, &err), SCD_E_IO);
    assert_non_null(strstr(err.message, "/nonexistent/keys"));
}

static void a_file_that_others_can_read_gives_a_warning(void **state)
{
    (void)state;
    char text[200];
    scd_auth *auth = NULL;
    snprintf(text, sizeof text, "%s k\n", hash_of("a"));
    write_file(text, strlen(text));
    chmod(path, 0644);
    assert_int_equal(scd_auth_open(path, &auth, &err), SCD_OK);
    assert_non_null(strstr(scd_auth_warning(auth), "others can read it"));
    scd_auth_close(auth);
    chmod(path, 0620);
    assert_int_equal(scd_auth_open(path, &auth, &err), SCD_OK);
    assert_non_null(strstr(scd_auth_warning(auth), "others can change it"));
    scd_auth_close(auth);
    chmod(path, 0640);
    assert_int_equal(scd_auth_open(path, &auth, &err), SCD_OK);
    assert_null(scd_auth_warning(auth));
    scd_auth_close(auth);
}

static void a_file_that_is_read_again_counts_from_then_on(void **state)
{
    (void)state;
    char text[300];
    scd_auth_key *keys, *later;
    size_t n;
    snprintf(text, sizeof text, "%s two\n%s one\n", hash_of("b"), hash_of("a"));
    scd_auth *auth = open_text(text);
    const char *name = scd_auth_check(auth, "Bearer b");
    assert_int_equal(scd_auth_list(auth, &keys, &n, &err), SCD_OK);
    assert_int_equal(n, 2);
    assert_string_equal(keys[0].name, "one");
    assert_string_equal(keys[1].name, "two");
    assert_int_equal(strlen(keys[0].fingerprint), SCD_AUTH_FINGERPRINT);
    assert_string_not_equal(keys[0].fingerprint, keys[1].fingerprint);
    assert_null(strstr(text, keys[0].fingerprint)); /* of the hash, not the hash */

    snprintf(text, sizeof text, "%s one\n", hash_of("c"));
    write_file(text, strlen(text));
    assert_int_equal(scd_auth_read_again(auth, &err), SCD_OK);
    assert_null(scd_auth_check(auth, "Bearer a"));
    assert_null(scd_auth_check(auth, "Bearer b"));
    assert_string_equal(scd_auth_check(auth, "Bearer c"), "one");
    assert_string_equal(name, "two"); /* who has it may go on with it */
    assert_int_equal(scd_auth_list(auth, &later, &n, &err), SCD_OK);
    assert_int_equal(n, 1);
    assert_string_not_equal(keys[0].fingerprint, later[0].fingerprint);

    write_file("nonsense", 8);
    assert_int_equal(scd_auth_read_again(auth, &err), SCD_E_INVALID);
    assert_string_equal(scd_auth_check(auth, "Bearer c"), "one");
    for (long failing = 0; failing < 2; failing++) {
        write_file(text, strlen(text));
        scd_mem_fail_after(failing);
        scd_code code = scd_auth_read_again(auth, &err);
        scd_mem_fail_after(-1);
        assert_int_equal(code, SCD_E_NOMEM);
    }
    free(later);
    free(keys);
    scd_auth_close(auth);
}

static void every_failing_allocation_is_reported(void **state)
{
    (void)state;
    char *text = malloc(40 * 80), *at = text;
    assert_non_null(text);
    for (int i = 0; i < 40; i++) {
        char token[16];
        snprintf(token, sizeof token, "t%d", i);
        at += snprintf(at, 80, "%s k%d\n", hash_of(token), i);
    }
    write_file(text, (size_t)(at - text));
    free(text);
    scd_auth *auth = NULL;
    long n = 0;
    for (;; n++) {
        scd_mem_fail_after(n);
        scd_code code = scd_auth_open(path, &auth, &err);
        scd_mem_fail_after(-1);
        if (!code)
            break;
        assert_int_equal(code, SCD_E_NOMEM);
        assert_null(auth);
    }
    assert_true(n >= 3);
    assert_string_equal(scd_auth_check(auth, "Bearer t39"), "k39");
    scd_auth_close(auth);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_token_is_known_by_its_hash_whatever_the_line_ends),
        cmocka_unit_test(upper_case_hashes_and_a_last_line_without_end_are_fine),
        cmocka_unit_test(a_header_that_is_not_exactly_one_known_token_gets_nobody),
        cmocka_unit_test(the_longest_token_still_works),
        cmocka_unit_test(a_malformed_line_is_refused_with_its_number),
        cmocka_unit_test(a_hash_or_a_name_that_stands_there_twice_is_refused),
        cmocka_unit_test(a_file_without_a_key_is_refused),
        cmocka_unit_test(binary_and_oversized_files_are_refused),
        cmocka_unit_test(a_missing_file_is_an_io_error_with_its_name),
        cmocka_unit_test(a_file_that_others_can_read_gives_a_warning),
        cmocka_unit_test(a_file_that_is_read_again_counts_from_then_on),
        cmocka_unit_test(every_failing_allocation_is_reported),
    };
    return cmocka_run_group_tests_name("auth", tests, make_file, remove_file);
}
