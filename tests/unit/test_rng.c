/* test_rng.c - Philox4x32-10 against its authors' vectors, and the numbers made from it.
 *
 * Threads: main. */
#include "engine/base/rng.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

/* "philox4x32 10" of kat_vectors in Random123, the library of the paper's authors. The file has the
 * counter as four words: ours are counter (low, high), then stream (low, high); key: seed. */
static void the_known_answers_of_the_authors_come_out(void **state)
{
    (void)state;
    static const struct {
        uint64_t seed, stream, counter;
        uint32_t out[4];
    } known[] = {
        {0, 0, 0, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {UINT64_MAX, UINT64_MAX, UINT64_MAX, {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {0x299f31d0a4093822,
         0x0370734413198a2e,
         0x85a308d3243f6a88,
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        uint32_t out[4];
        scd_rng_block(known[i].seed, known[i].stream, known[i].counter, out);
        assert_memory_equal(out, known[i].out, sizeof out);
    }
}

static void seed_stream_and_counter_each_matter_in_both_halves(void **state)
{
    (void)state;
    const uint64_t low = 1, high = UINT64_C(1) << 32;
    const uint64_t inputs[][3] = {{0, 0, 0},    {low, 0, 0}, {high, 0, 0}, {0, low, 0},
                                  {0, high, 0}, {0, 0, low}, {0, 0, high}};
    enum { N = sizeof inputs / sizeof inputs[0] };
    uint32_t out[N][4];
    for (size_t i = 0; i < N; i++) {
        scd_rng_block(inputs[i][0], inputs[i][1], inputs[i][2], out[i]);
        for (size_t j = 0; j < i; j++)
            assert_memory_not_equal(out[i], out[j], sizeof out[i]);
    }
}

static void a_uniform_number_is_the_top_24_bits_of_its_word(void **state)
{
    (void)state;
    for (uint64_t n = 0; n < 64; n++) {
        uint32_t out[4];
        scd_rng_block(5, 7, n / 4, out);
        float expected = (float)(out[n % 4] >> 8) / 16777216.0f;
        assert_true(scd_rng_uniform(5, 7, n) == expected);
    }
}

/* 1e5 draws: the standard error of the mean is 0.0009 (uniform) and 0.0032 (normal), of the
 * variance 0.0002 and 0.0045; the tolerances are five of these and the seed is fixed. */
static void the_moments_are_those_of_the_distributions(void **state)
{
    (void)state;
    enum { N = 100000 };
    double u1 = 0, u2 = 0, z1 = 0, z2 = 0;
    for (uint64_t n = 0; n < N; n++) {
        double u = (double)scd_rng_uniform(1, 2, n), z = (double)scd_rng_normal(1, 3, n);
        assert_true(u >= 0 && u < 1);
        assert_true(isfinite(z));
        u1 += u / N;
        u2 += u * u / N;
        z1 += z / N;
        z2 += z * z / N;
    }
    assert_true(fabs(u1 - 0.5) < 0.0046);
    assert_true(fabs(u2 - u1 * u1 - 1.0 / 12) < 0.0012);
    assert_true(fabs(z1) < 0.016);
    assert_true(fabs(z2 - z1 * z1 - 1) < 0.023);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_known_answers_of_the_authors_come_out),
        cmocka_unit_test(seed_stream_and_counter_each_matter_in_both_halves),
        cmocka_unit_test(a_uniform_number_is_the_top_24_bits_of_its_word),
        cmocka_unit_test(the_moments_are_those_of_the_distributions),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
