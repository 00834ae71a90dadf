/* test_hash.c - SHA-256 against FIPS 180-4's examples, fields, files, digests as text.
 *
 * Threads: main. */
#include "engine/base/hash.h"
#include "engine/base/mem.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static const char EMPTY[] = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
static const char ABC[] = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
static const char MILLION_A[] = "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0";
static const char TWO_BLOCKS[] = "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1";

static void assert_hex(scd_digest digest, const char *expected)
{
    char hex[SCD_DIGEST_HEX];
    scd_digest_hex(&digest, hex);
    assert_string_equal(hex, expected);
}

static void the_known_answers_of_the_standard_come_out(void **state)
{
    (void)state;
    static const char two[] = "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq";
    assert_hex(scd_digest_of("", 0), EMPTY);
    assert_hex(scd_digest_of("abc", 3), ABC);
    assert_hex(scd_digest_of(two, sizeof two - 1), TWO_BLOCKS);
}

static void pieces_hash_as_the_whole_and_a_hasher_serves_again(void **state)
{
    (void)state;
    scd_hasher *h = scd_hasher_new();
    assert_non_null(h);
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < 1000; i++) {
            char a[1000];
            memset(a, 'a', sizeof a);
            scd_hasher_add(h, a, sizeof a);
        }
        assert_hex(scd_hasher_finish(h), MILLION_A);
    }
    assert_hex(scd_hasher_finish(h), EMPTY);
    scd_hasher_free(h);
    scd_hasher_free(NULL);
}

static void fields_cannot_run_into_one_another(void **state)
{
    (void)state;
    scd_hasher *h = scd_hasher_new();
    scd_hasher_add_text(h, "ab");
    scd_hasher_add_text(h, "c");
    scd_digest one = scd_hasher_finish(h);
    scd_hasher_add_text(h, "a");
    scd_hasher_add_text(h, "bc");
    scd_digest other = scd_hasher_finish(h);
    assert_false(scd_digest_equal(&one, &other));
    scd_hasher_add_field(h, "ab", 2);
    scd_hasher_add_field(h, "c", 1);
    other = scd_hasher_finish(h);
    assert_true(scd_digest_equal(&one, &other));
    scd_hasher_add(h, "\2\0\0\0\0\0\0\0ab\1\0\0\0\0\0\0\0c", 19);
    other = scd_hasher_finish(h);
    assert_true(scd_digest_equal(&one, &other));
    scd_hasher_free(h);
}

static void a_file_is_hashed_from_its_start_whatever_was_read_before(void **state)
{
    (void)state;
    char path[] = "/tmp/scdiva-hash-XXXXXX", block[4096];
    int fd = mkstemp(path);
    scd_hasher *h = scd_hasher_new();
    scd_error err = {0};
    memset(block, 'a', sizeof block);
    for (size_t left = 1000000, n; left; left -= n) {
        n = left < sizeof block ? left : sizeof block;
        assert_int_equal(write(fd, block, n), n);
    }
    assert_int_equal(scd_hasher_add_file(h, fd, "f", &err), SCD_OK);
    assert_hex(scd_hasher_finish(h), MILLION_A);
    assert_int_equal(lseek(fd, 0, SEEK_CUR), 1000000);
    assert_int_equal(ftruncate(fd, 0), 0);
    assert_int_equal(scd_hasher_add_file(h, fd, "f", &err), SCD_OK);
    assert_hex(scd_hasher_finish(h), EMPTY);
    scd_hasher_free(h);
    close(fd);
    unlink(path);
}

static void a_file_that_cannot_be_read_is_named(void **state)
{
    (void)state;
    scd_hasher *h = scd_hasher_new();
    scd_error err = {0};
    assert_int_equal(scd_hasher_add_file(h, -1, "genes.tsv", &err), SCD_E_IO);
    assert_non_null(strstr(err.message, "genes.tsv: cannot read"));
    scd_mem_fail_after(0);
    assert_int_equal(scd_hasher_add_file(h, -1, "genes.tsv", &err), SCD_E_NOMEM);
    scd_mem_fail_after(0);
    assert_null(scd_hasher_new());
    scd_mem_fail_after(-1);
    scd_hasher_free(h);
}

static void a_digest_is_64_hex_digits_and_nothing_else(void **state)
{
    (void)state;
    scd_digest d, abc = scd_digest_of("abc", 3);
    char text[80];
    assert_true(scd_digest_parse(ABC, &d));
    assert_true(scd_digest_equal(&d, &abc));
    for (size_t i = 0; i < sizeof ABC; i++)
        text[i] = (char)(ABC[i] >= 'a' ? ABC[i] - 32 : ABC[i]);
    assert_true(scd_digest_parse(text, &d));
    assert_true(scd_digest_equal(&d, &abc));
    snprintf(text, sizeof text, "%s0", ABC);
    assert_false(scd_digest_parse(text, &d));
    for (size_t n = 0; n < 64; n++) { /* cut short: no byte behind the NUL is read */
        char *cut = strndup(ABC, n);
        assert_false(scd_digest_parse(cut, &d));
        free(cut);
    }
    for (size_t at = 0; at < 64; at += 21) {
        snprintf(text, sizeof text, "%s", ABC);
        text[at] = 'g';
        assert_false(scd_digest_parse(text, &d));
    }
}

static void digests_differ_when_any_bit_does(void **state)
{
    (void)state;
    scd_digest a = scd_digest_of("abc", 3);
    for (size_t bit = 0; bit < 256; bit++) {
        scd_digest b = a;
        b.bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
        assert_false(scd_digest_equal(&a, &b));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_known_answers_of_the_standard_come_out),
        cmocka_unit_test(pieces_hash_as_the_whole_and_a_hasher_serves_again),
        cmocka_unit_test(fields_cannot_run_into_one_another),
        cmocka_unit_test(a_file_is_hashed_from_its_start_whatever_was_read_before),
        cmocka_unit_test(a_file_that_cannot_be_read_is_named),
        cmocka_unit_test(a_digest_is_64_hex_digits_and_nothing_else),
        cmocka_unit_test(digests_differ_when_any_bit_does),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
