/* test_audit.c - the chain of the audit: what was changed, removed, added or moved is seen. */
#include "api/audit.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

enum { N_LINES = 5, LINE_BYTES = 512 };
static char lines[N_LINES][LINE_BYTES];
static char path[] = "/tmp/scdiva-audit-XXXXXX";

static int make_lines(void **state)
{
    (void)state;
    char hash[SCD_DIGEST_HEX] = SCD_AUDIT_NO_HASH, next[SCD_DIGEST_HEX];
    for (int i = 0; i < N_LINES; i++) {
        scd_buf line;
        scd_buf_init(&line, LINE_BYTES);
        scd_buf_printf(&line, "{\"seq\":%d,\"event\":\"e%d\"", i + 1, i);
        scd_audit_seal(&line, hash, next);
        memcpy(hash, next, sizeof hash);
        strcpy(lines[i], line.data);
        scd_buf_release(&line);
    }
    int fd = mkstemp(path);
    return fd < 0 ? -1 : close(fd);
}

static int remove_file(void **state)
{
    (void)state;
    return unlink(path);
}

/* The lines in this order, NULL-terminated, into the file; what verify says. */
static scd_code verify(const char *const *order, const char *end, scd_audit_state *out,
                       scd_error *err)
{
    FILE *f = fopen(path, "w");
    for (; *order; order++)
        fprintf(f, "%s%s", *order, order[1] ? "\n" : end);
    fclose(f);
    return scd_audit_verify(path, out, err);
}

static void a_whole_chain_is_good(void **state)
{
    (void)state;
    scd_audit_state s;
    scd_error err = {0};
    const char *all[] = {lines[0], lines[1], lines[2], lines[3], lines[4], NULL}, *none[] = {NULL};
    assert_int_equal(verify(all, "\n", &s, &err), SCD_OK);
    assert_int_equal(s.seq, N_LINES);
    assert_non_null(strstr(lines[4], s.hash));
    assert_int_equal(verify(none, "", &s, &err), SCD_OK);
    assert_int_equal(s.seq, 0);
    assert_int_equal(scd_audit_verify("/no/such/file", &s, &err), SCD_E_IO);
}

static void whatever_breaks_the_chain_is_seen_and_its_line_named(void **state)
{
    (void)state;
    char changed[LINE_BYTES], resealed[LINE_BYTES], hash[SCD_DIGEST_HEX];
    strcpy(changed, lines[2]);
    strstr(changed, "\"e2\"")[2] = '9';
    scd_buf line; /* changed, with a hash that fits it: the next line does not follow */
    scd_buf_init(&line, LINE_BYTES);
    scd_buf_puts(&line, "{\"seq\":3,\"event\":\"x\"");
    const char *prev = strstr(lines[2], "\"prev\":\"") + 8;
    char before[SCD_DIGEST_HEX] = "";
    memcpy(before, prev, SCD_DIGEST_HEX - 1);
    scd_audit_seal(&line, before, hash);
    strcpy(resealed, line.data);
    scd_buf_release(&line);
    const struct {
        const char *order[7], *end, *says;
    } cases[] = {
        {{lines[0], lines[1], changed, lines[3], NULL}, "\n", "line 3 is not what was written"},
        {{lines[0], lines[2], NULL}, "\n", "line 2 has number 3 after 1"},
        {{lines[0], lines[1], lines[1], NULL}, "\n", "line 3 has number 2"},
        {{lines[1], lines[2], NULL}, "\n", "line 1 has number 2"},
        {{lines[0], lines[1], resealed, lines[3], NULL}, "\n", "line 4 does not follow"},
        {{lines[0], "hello", NULL}, "\n", "line 2 is no line"},
        {{lines[0], lines[1], NULL}, "", "line 2 is cut short"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        scd_audit_state s;
        scd_error err = {0};
        assert_int_equal(verify(cases[i].order, cases[i].end, &s, &err), SCD_E_CORRUPT);
        char flat[sizeof err.message]; /* "..., line 3: is not" without the colon */
        size_t n = 0;
        for (const char *c = err.message; *c; c++)
            if (*c != ':')
                flat[n++] = *c;
        flat[n] = '\0';
        if (!strstr(flat, cases[i].says))
            fail_msg("\"%s\" is not in \"%s\"", cases[i].says, flat);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_whole_chain_is_good),
        cmocka_unit_test(whatever_breaks_the_chain_is_seen_and_its_line_named),
    };
    return cmocka_run_group_tests(tests, make_lines, remove_file);
}
