/* test_cuda_emulator.cc - the emulator finds what it says it finds.
 *
 * Each mistake is a small kernel that runs in a child process, which must abort, or whose result
 * must show it. */
#include "engine/cuda/gpu.cuh"

#include <signal.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

extern "C" {
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>
}

static struct scd_device device;

enum { THREADS = 64 };

static bool aborts(void (*what)(void))
{
    pid_t child = fork();
    if (child == 0) {
        if (!freopen("/dev/null", "w", stderr))
            _exit(2);
        what();
        _exit(0);
    }
    int status = 0;
    waitpid(child, &status, 0);
    /* the emulator aborts; the address sanitizer, where it is, exits with 1 */
    return (WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT) ||
           (WIFEXITED(status) && WEXITSTATUS(status) == 1);
}

#define RUN(kernel, shared, ...)                                                                   \
    (void)SCD_LAUNCH(&device, (scd_error *)NULL, kernel, 1, THREADS, shared, __VA_ARGS__)

/* ---- mistakes ---- */

SCD_KERNEL two_barriers(int *x)
{
    if (threadIdx.x < 32)
        gpu_sync_block();
    else
        gpu_sync_block();
    x[threadIdx.x] = 1;
}

SCD_KERNEL leaves_early(int *x)
{
    if (threadIdx.x == 3)
        return;
    gpu_sync_block();
    x[threadIdx.x] = 1;
}

SCD_KERNEL half_a_warp(float *x)
{
    if (threadIdx.x % 32 < 16)
        x[threadIdx.x] = gpu_shfl_xor(1.0f, 1);
}

SCD_KERNEL crooked_copy(const char *from)
{
    gpu_copy_async<16>((char *)gpu_shared(), from + 4, 16);
}

SCD_KERNEL past_the_end(float x)
{
    ((float *)gpu_shared())[threadIdx.x + 1] = x;
}

static int ints[THREADS];
static float floats[THREADS];
alignas(16) static char bytes[64];

static void run_two_barriers(void)
{
    RUN(two_barriers, 0, ints);
}

static void run_leaves_early(void)
{
    RUN(leaves_early, 0, ints);
}

static void run_half_a_warp(void)
{
    RUN(half_a_warp, 0, floats);
}

static void run_crooked_copy(void)
{
    RUN(crooked_copy, 1024, bytes);
}

static void run_too_much_shared(void)
{
    RUN(leaves_early, 49 << 10, ints);
}

static void run_past_the_end(void)
{
    RUN(past_the_end, THREADS * sizeof(float), 1.0f);
}

static void threads_that_part_at_a_barrier_are_found(void **state)
{
    (void)state;
    assert_true(aborts(run_two_barriers));
    assert_true(aborts(run_leaves_early));
    assert_true(aborts(run_half_a_warp));
}

static void launches_and_copies_that_no_device_would_take_are_found(void **state)
{
    (void)state;
    assert_true(aborts(run_crooked_copy));
    assert_true(aborts(run_too_much_shared));
}

static void a_write_past_the_end_of_shared_memory_is_found(void **state)
{
    (void)state;
    assert_true(aborts(run_past_the_end));
}

/* ---- results ---- */

SCD_KERNEL neighbours(float *out, int barrier)
{
    float *s = (float *)gpu_shared();
    s[threadIdx.x] = (float)threadIdx.x;
    if (barrier)
        gpu_sync_block();
    out[threadIdx.x] = s[(threadIdx.x + 32) % THREADS];
}

static void a_missing_barrier_shows(void **state)
{
    (void)state;
    for (int order = 0; order < 2; order++) {
        int wrong = 0;
        scd_emu_order = order;
        RUN(neighbours, THREADS * sizeof(float), floats, 1);
        for (int i = 0; i < THREADS; i++)
            assert_true(floats[i] == (float)((i + 32) % THREADS));
        RUN(neighbours, THREADS * sizeof(float), floats, 0);
        for (int i = 0; i < THREADS; i++)
            wrong += floats[i] != (float)((i + 32) % THREADS);
        assert_true(wrong > 0);
    }
    scd_emu_order = 0;
}

SCD_KERNEL copies(const float *from, float *out, int wait)
{
    float *s = (float *)gpu_shared();
    gpu_copy_async<4>(&s[threadIdx.x], &from[threadIdx.x], threadIdx.x == 5 ? 0 : 4);
    gpu_copy_commit();
    gpu_copy_async<4>(&s[THREADS + threadIdx.x], &from[threadIdx.x], 4);
    gpu_copy_commit();
    if (wait)
        gpu_copy_wait<1>();
    out[threadIdx.x] = s[threadIdx.x];
    out[THREADS + threadIdx.x] = s[THREADS + threadIdx.x];
    gpu_copy_wait<0>();
}

static void a_copy_arrives_when_it_is_waited_for_and_no_sooner(void **state)
{
    (void)state;
    float from[THREADS], out[2 * THREADS];
    for (int i = 0; i < THREADS; i++)
        from[i] = (float)i;
    for (int wait = 0; wait < 2; wait++) {
        RUN(copies, 2 * THREADS * sizeof(float), from, out, wait);
        for (int i = 0; i < THREADS; i++) {
            assert_true(wait ? out[i] == (i == 5 ? 0.0f : (float)i) : isnan(out[i]));
            assert_true(isnan(out[THREADS + i])); /* the newer group */
        }
    }
}

/* c (16, 8) = a (16, 16) b (16, 8) through the instructions, from matrices in shared memory: `a` by
 * hand, b (k, n) by ldmatrix.trans from rows of k, and by ldmatrix from rows of n. */
SCD_KERNEL one_product(const uint16_t *a, const uint16_t *b, float *c, float *c_t)
{
    int lane = (int)threadIdx.x % 32;
    uint16_t *rows = (uint16_t *)gpu_shared(), *cols = rows + 16 * 16;
    for (int i = lane; i < 16 * 16; i += 32) {
        rows[i] = b[i];                    /* (k, n) */
        cols[i % 16 * 16 + i / 16] = b[i]; /* (n, k) */
    }
    gpu_sync_block();
    uint32_t fa[4], fb[4], ft[4];
    for (int reg = 0; reg < 4; reg++) {
        const uint16_t *at = a + scd_frag_a_row(lane, reg) * 16 + scd_frag_a_col(lane, reg);
        fa[reg] = (uint32_t)at[1] << 16 | at[0];
    }
    gpu_ldmatrix(fb, cols + scd_ldm_key_row(lane) * 16 + scd_ldm_key_col(lane));
    gpu_ldmatrix_trans(ft, rows + scd_ldm_value_row(lane) * 16 + scd_ldm_value_col(lane));
    for (int n = 0; n < 2; n++) {
        float s[4] = {0, 0, 0, 0}, t[4] = {0, 0, 0, 0};
        gpu_mma_bf16(s, fa, fb[2 * n], fb[2 * n + 1]);
        gpu_mma_bf16(t, fa, ft[2 * n], ft[2 * n + 1]);
        for (int i = 0; i < 4 && threadIdx.x < 32; i++) {
            int at = scd_frag_c_row(lane, i) * 16 + n * 8 + scd_frag_c_col(lane, i);
            c[at] = s[i];
            c_t[at] = t[i];
        }
    }
}

static void fragments_and_loads_multiply_matrices(void **state)
{
    (void)state;
    uint16_t a[16 * 16], b[16 * 16];
    float c[16 * 16], c_t[16 * 16];
    for (int i = 0; i < 16 * 16; i++) { /* small integers: exact */
        a[i] = scd_f32_to_bf16((float)(i * 7 % 13 - 6));
        b[i] = scd_f32_to_bf16((float)(i * 5 % 11 - 5));
    }
    RUN(one_product, 2 * 16 * 16 * sizeof(uint16_t), a, b, c, c_t);
    for (int i = 0; i < 16; i++)
        for (int j = 0; j < 16; j++) {
            float sum = 0.0f;
            for (int k = 0; k < 16; k++)
                sum += scd_bf16_to_f32(a[i * 16 + k]) * scd_bf16_to_f32(b[k * 16 + j]);
            assert_true(c[i * 16 + j] == sum && c_t[i * 16 + j] == sum);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(threads_that_part_at_a_barrier_are_found),
        cmocka_unit_test(launches_and_copies_that_no_device_would_take_are_found),
        cmocka_unit_test(a_write_past_the_end_of_shared_memory_is_found),
        cmocka_unit_test(a_missing_barrier_shows),
        cmocka_unit_test(a_copy_arrives_when_it_is_waited_for_and_no_sooner),
        cmocka_unit_test(fragments_and_loads_multiply_matrices),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
