/* test_gunzip.c - compressed bodies: whole, cut, damaged, larger than they look.
 *
 * Threads: main. */
#include "api/gunzip.h"
#include "engine/base/mem.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include <cmocka.h>

/* Append n bytes as one gzip member (window 15 + 16) or in another of zlib's formats. */
static void deflate_to(scd_buf *out, const void *bytes, size_t n, int window)
{
    z_stream z = {0};
    assert_int_equal(deflateInit2(&z, 6, Z_DEFLATED, window, 8, Z_DEFAULT_STRATEGY), Z_OK);
    size_t bound = deflateBound(&z, n);
    z.next_in = (Bytef *)(uintptr_t)bytes;
    z.avail_in = (uInt)n;
    z.next_out = (Bytef *)scd_buf_reserve(out, bound);
    z.avail_out = (uInt)bound;
    assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
    scd_buf_commit(out, bound - z.avail_out);
    deflateEnd(&z);
}

static void gzip_to(scd_buf *out, const void *bytes, size_t n)
{
    deflate_to(out, bytes, n, 15 + 16);
}

typedef struct fixture {
    scd_buf zipped, plain;
    scd_error err;
    char *text; /* n bytes that do not compress too well */
    size_t n;
} fixture;

static int set_up(void **state)
{
    fixture *f = calloc(1, sizeof *f);
    unsigned seed = 1;
    *state = f;
    f->n = 300000;
    f->text = malloc(f->n);
    for (size_t i = 0; i < f->n; i++)
        f->text[i] = (char)('0' + rand_r(&seed) % 10);
    scd_buf_init(&f->zipped, 64 << 20);
    scd_buf_init(&f->plain, 1 << 20);
    return 0;
}

static int tear_down(void **state)
{
    fixture *f = *state;
    scd_buf_release(&f->zipped);
    scd_buf_release(&f->plain);
    free(f->text);
    free(f);
    return 0;
}

static scd_code gunzip(fixture *f, size_t n)
{
    return scd_gunzip(f->zipped.data, n, &f->plain, &f->err);
}

static void a_body_comes_out_as_it_went_in(void **state)
{
    fixture *f = *state;
    static const size_t sizes[] = {0, 1, 65535, 65536, 65537, 131072, 300000};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        scd_buf_clear(&f->zipped);
        scd_buf_clear(&f->plain);
        gzip_to(&f->zipped, f->text, sizes[i]);
        assert_int_equal(gunzip(f, f->zipped.n_bytes), SCD_OK);
        assert_int_equal(f->plain.n_bytes, sizes[i]);
        if (sizes[i])
            assert_memory_equal(f->plain.data, f->text, sizes[i]);
    }
}

static void members_one_after_the_other_are_one_body(void **state)
{
    fixture *f = *state; /* RFC 1952 section 2.2; what cat a.gz b.gz and bgzip make */
    gzip_to(&f->zipped, f->text, 1000);
    gzip_to(&f->zipped, f->text + 1000, 0);
    gzip_to(&f->zipped, f->text + 1000, 200000);
    assert_int_equal(gunzip(f, f->zipped.n_bytes), SCD_OK);
    assert_int_equal(f->plain.n_bytes, 201000);
    assert_memory_equal(f->plain.data, f->text, 201000);
}

static void every_cut_is_noticed(void **state)
{
    fixture *f = *state;
    gzip_to(&f->zipped, f->text, 500);
    for (size_t n = 0; n < f->zipped.n_bytes; n++) {
        char *cut = malloc(n ? n : 1); /* of its own, so that reading on would be noticed */
        memcpy(cut, f->zipped.data, n);
        scd_buf_clear(&f->plain);
        assert_int_equal(scd_gunzip(cut, n, &f->plain, &f->err), SCD_E_INVALID);
        assert_string_equal(f->err.message, "the gzip body is cut off");
        free(cut);
    }
    assert_int_equal(scd_gunzip(NULL, 0, &f->plain, &f->err), SCD_E_INVALID);
}

static void a_second_member_that_is_cut_is_noticed_too(void **state)
{
    fixture *f = *state;
    gzip_to(&f->zipped, f->text, 500);
    size_t whole = f->zipped.n_bytes;
    gzip_to(&f->zipped, f->text, 500);
    for (size_t n = whole + 1; n < f->zipped.n_bytes; n++) {
        scd_buf_clear(&f->plain);
        assert_int_equal(gunzip(f, n), SCD_E_INVALID);
    }
}

static void a_flipped_bit_never_gives_another_body(void **state)
{
    fixture *f = *state;
    gzip_to(&f->zipped, f->text, 200);
    for (size_t bit = 0; bit < 8 * f->zipped.n_bytes; bit++) {
        f->zipped.data[bit / 8] ^= (char)(1 << bit % 8);
        scd_buf_clear(&f->plain);
        scd_code code = gunzip(f, f->zipped.n_bytes);
        if (code == SCD_OK)
            assert_memory_equal(f->plain.data, f->text, 200);
        else
            assert_int_equal(code, SCD_E_INVALID);
        f->zipped.data[bit / 8] ^= (char)(1 << bit % 8);
    }
}

static void other_formats_are_refused(void **state)
{
    fixture *f = *state;
    deflate_to(&f->zipped, f->text, 500, 15); /* zlib */
    assert_int_equal(gunzip(f, f->zipped.n_bytes), SCD_E_INVALID);
    assert_string_equal(f->err.message, "the gzip body is damaged or not gzip");
    scd_buf_clear(&f->zipped);
    deflate_to(&f->zipped, f->text, 500, -15); /* raw deflate */
    assert_int_equal(gunzip(f, f->zipped.n_bytes), SCD_E_INVALID);
    scd_buf_clear(&f->zipped);
    scd_buf_puts(&f->zipped, "{\"cells\": []}");
    assert_int_equal(gunzip(f, f->zipped.n_bytes), SCD_E_INVALID);
}

static void bytes_behind_the_end_are_refused(void **state)
{
    fixture *f = *state;
    gzip_to(&f->zipped, f->text, 500);
    scd_buf_puts(&f->zipped, "more");
    assert_int_equal(gunzip(f, f->zipped.n_bytes), SCD_E_INVALID);
}

static void a_body_of_exactly_the_bound_is_taken_and_one_byte_more_is_not(void **state)
{
    fixture *f = *state;
    for (size_t bound = 65535; bound <= 65537; bound++) {
        scd_buf plain;
        scd_buf_init(&plain, bound);
        scd_buf_clear(&f->zipped);
        gzip_to(&f->zipped, f->text, bound);
        assert_int_equal(scd_gunzip(f->zipped.data, f->zipped.n_bytes, &plain, NULL), SCD_OK);
        assert_int_equal(plain.n_bytes, bound);
        scd_buf_release(&plain);
        scd_buf_clear(&f->zipped);
        gzip_to(&f->zipped, f->text, bound + 1);
        assert_int_equal(scd_gunzip(f->zipped.data, f->zipped.n_bytes, &plain, &f->err),
                         SCD_E_TOO_LARGE);
        assert_non_null(strstr(f->err.message, "the decompressed body is over 65"));
        scd_buf_release(&plain);
    }
}

static void a_bomb_is_stopped_at_the_bound(void **state)
{
    fixture *f = *state;
    enum { MB = 1 << 20 };
    char *zeros = calloc(16, MB);
    gzip_to(&f->zipped, zeros, 16 * MB); /* about 16 kB */
    free(zeros);
    assert_true(f->zipped.n_bytes < 20000);
    assert_int_equal(gunzip(f, f->zipped.n_bytes), SCD_E_TOO_LARGE);
    assert_true(f->plain.n_bytes <= MB);
    assert_true(f->plain.cap_bytes <= 2 * MB);
    scd_buf_clear(&f->zipped); /* and one made of many small pieces */
    for (size_t i = 0; i < 100; i++)
        gzip_to(&f->zipped, f->text, 20000);
    scd_buf_clear(&f->plain);
    assert_int_equal(gunzip(f, f->zipped.n_bytes), SCD_E_TOO_LARGE);
}

static void out_of_memory_is_told_as_such(void **state)
{
    fixture *f = *state;
    gzip_to(&f->zipped, f->text, 200000);
    for (long n = 0; n < 2; n++) {
        scd_mem_fail_after(n);
        assert_int_equal(gunzip(f, f->zipped.n_bytes), SCD_E_NOMEM);
        scd_mem_fail_after(-1);
        scd_buf_release(&f->plain);
    }
}

#define WITH_BUFFERS(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)

/* ---- piece by piece ---- */

static bool append(void *arg, const char *bytes, size_t n)
{
    return scd_buf_append(arg, bytes, n);
}

/* The bytes in pieces of `step`; false: damaged. */
static bool feed(const scd_buf *packed, size_t step, scd_buf *out, bool *whole)
{
    bool damaged = false;
    scd_gunzip_stream *stream = scd_gunzip_new();
    assert_non_null(stream);
    for (size_t at = 0; at < packed->n_bytes && !damaged; at += step) {
        size_t left = packed->n_bytes - at;
        scd_gunzip_feed(stream, packed->data + at, left < step ? left : step, append, out,
                        &damaged);
    }
    *whole = scd_gunzip_is_whole(stream);
    scd_gunzip_free(stream);
    return !damaged;
}

static void pieces_of_any_size_give_the_same_body(void **state)
{
    (void)state;
    enum { N = 300000 };
    static char plain[N];
    scd_buf packed, out;
    bool whole;
    for (size_t i = 0; i < N; i++)
        plain[i] = (char)(i * i % 251 % (1 + i / 50000));
    scd_buf_init(&packed, 1 << 20);
    gzip_to(&packed, plain, N / 2);
    gzip_to(&packed, plain + N / 2, N - N / 2);
    for (size_t step = 1; step < packed.n_bytes + 2; step = step * 3 + 1) {
        scd_buf_init(&out, 1 << 20);
        assert_true(feed(&packed, step, &out, &whole) && whole);
        assert_int_equal(out.n_bytes, N);
        assert_memory_equal(out.data, plain, N);
        scd_buf_release(&out);
    }
    packed.n_bytes -= 5;
    scd_buf_init(&out, 1 << 20);
    assert_true(feed(&packed, 1000, &out, &whole) && !whole);
    packed.data[packed.n_bytes / 3] = (char)(packed.data[packed.n_bytes / 3] ^ 0x55);
    scd_buf_clear(&out);
    bool ok = feed(&packed, 1000, &out, &whole);
    assert_true(!ok || !whole);
    scd_buf_release(&out);
    scd_buf_release(&packed);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_BUFFERS(a_body_comes_out_as_it_went_in),
        WITH_BUFFERS(members_one_after_the_other_are_one_body),
        WITH_BUFFERS(every_cut_is_noticed),
        WITH_BUFFERS(a_second_member_that_is_cut_is_noticed_too),
        WITH_BUFFERS(a_flipped_bit_never_gives_another_body),
        WITH_BUFFERS(other_formats_are_refused),
        WITH_BUFFERS(bytes_behind_the_end_are_refused),
        WITH_BUFFERS(a_body_of_exactly_the_bound_is_taken_and_one_byte_more_is_not),
        WITH_BUFFERS(a_bomb_is_stopped_at_the_bound),
        WITH_BUFFERS(out_of_memory_is_told_as_such),
        cmocka_unit_test(pieces_of_any_size_give_the_same_body),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
