/* test_cuda_cluster.cc - the emulator's pairs of blocks, barriers, bulk copies and products of two
 * tiles: one kernel does them right, and each mistake in it is found. */
#include "engine/cuda/gpu_cluster.cuh"

#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

extern "C" {
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>
}

static struct scd_device device;

enum { THREADS = 128, ROWS = SCD_TILE_SIDE, COLS = 128, K = SCD_TILE_SIDE };
enum { A_BYTES = SCD_TILE_BYTES, B_BYTES = 2 * SCD_TILE_BYTES };

typedef enum mistake {
    NONE,
    NO_WAIT_FOR_COPIES,
    NO_WAIT_FOR_PRODUCTS,
    FILLED_TOO_EARLY,
    ONE_ARRIVAL_TOO_FEW,
    LEAVES_THE_OTHER,
    COPY_FROM_NOWHERE_NEAR,
    NO_BARRIER_MADE,
    MISTAKES
} mistake;

/* Both blocks multiply the same a, half of which each copies to both, by a b of their own. Tiles
 * are then filled anew with another half of a, which must not show. */
SCD_KERNEL_PAIRS(THREADS)
pair_product(const unsigned char *a, const unsigned char *b, float *c, int m)
{
    unsigned char *s = (unsigned char *)gpu_shared(), *to = s + A_BYTES;
    gpu_mbarrier *full = (gpu_mbarrier *)(void *)(to + B_BYTES), *used = full + 1;
    unsigned rank = gpu_cluster_rank(), half = A_BYTES / 2;
    if (threadIdx.x == 0 && m != NO_BARRIER_MADE) {
        gpu_mbarrier_init(full, 1);
        gpu_mbarrier_init(used, m == ONE_ARRIVAL_TOO_FEW ? 9 : 8);
        gpu_mbarrier_ready();
    }
    gpu_cluster_sync();
    const unsigned char *half_a = a + rank * half + (m == COPY_FROM_NOWHERE_NEAR ? 8 : 0);
    if (threadIdx.x == 0) {
        gpu_mbarrier_expect(full, A_BYTES + B_BYTES);
        gpu_copy_bulk_pair(s + rank * half, half_a, half, full);
        gpu_copy_bulk(to, b + rank * B_BYTES, B_BYTES, full);
    }
    float d[64];
    if (m != NO_WAIT_FOR_COPIES)
        gpu_mbarrier_wait(full, 0);
    gpu_group_begin();
    for (int step = 0; step < K / 16; step++)
        gpu_group_mma_shared(d, s, to, step, step > 0);
    gpu_group_commit();
    if (m != FILLED_TOO_EARLY && m != NO_WAIT_FOR_PRODUCTS)
        gpu_group_wait_for<0>(d);
    if (threadIdx.x % 32 < 2)
        gpu_mbarrier_arrive(used, threadIdx.x % 32);
    if (threadIdx.x == 0) {
        gpu_mbarrier_wait(used, 0);
        gpu_mbarrier_expect(full, half);
        gpu_copy_bulk(s, a + half, half, full);
    }
    gpu_mbarrier_wait(full, 1);
    if (m == FILLED_TOO_EARLY)
        gpu_group_wait_for<0>(d);
    for (int i = 0; i < 64; i++) {
        int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
        int row = warp * 16 + scd_frag_c_row(lane, i % 4);
        c[row * 2 * COLS + (int)rank * COLS + i / 4 * 8 + scd_frag_c_col(lane, i % 4)] = d[i];
    }
    if (m == LEAVES_THE_OTHER && rank == 1)
        gpu_mbarrier_arrive(used, 0);
    if (m != LEAVES_THE_OTHER)
        gpu_cluster_sync();
}

alignas(16) static unsigned char tile_a[A_BYTES + 16], tile_b[2 * B_BYTES];
static float c[ROWS][2 * COLS];

/* Small whole numbers, whose sums are exact. */
static float number(int row, int k, int of)
{
    return (float)((row * 7 + k * (3 + of)) % 9 - 4);
}

static void fill(unsigned char *to, int rows, int of)
{
    for (int row = 0; row < rows; row++)
        for (int k = 0; k < K; k++) {
            uint16_t value = scd_f32_to_bf16(number(row, k, of));
            size_t at = scd_tiled((size_t)row, (size_t)(k / 4 * 4), 1) + (size_t)(k % 4) * 2;
            *(uint16_t *)(void *)(to + at) = value;
        }
}

/* How many elements are wrong. */
static int run(mistake m)
{
    int wrong = 0;
    (void)SCD_LAUNCH_PAIRS(&device, (scd_error *)NULL, pair_product, dim3(2, 1), THREADS,
                           (size_t)(A_BYTES + B_BYTES + 64), tile_a, tile_b, &c[0][0], m);
    for (int i = 0; i < ROWS; i++)
        for (int j = 0; j < 2 * COLS; j++) {
            float sum = 0.0f;
            for (int k = 0; k < K; k++)
                sum += number(i, k, 0) * number(j, k, 1);
            wrong += !(c[i][j] == sum);
        }
    return wrong;
}

/* It aborts, or its numbers are wrong; the address sanitizer exits with 1. */
static bool shows(mistake m)
{
    pid_t child = fork();
    if (child == 0) {
        if (!freopen("/dev/null", "w", stderr))
            _exit(0);
        _exit(run(m) > 0 ? 2 : 0);
    }
    int status = 0;
    waitpid(child, &status, 0);
    return WIFSIGNALED(status) || WEXITSTATUS(status) != 0;
}

static void a_pair_multiplies_what_both_have_copied(void **state)
{
    (void)state;
    for (scd_emu_order = 0; scd_emu_order < 2; scd_emu_order++)
        assert_int_equal(run(NONE), 0);
    scd_emu_order = 0;
}

static void every_mistake_shows(void **state)
{
    (void)state;
    assert_false(shows(NONE));
    for (int m = NONE + 1; m < MISTAKES; m++)
        if (!shows((mistake)m))
            fail_msg("mistake %d is not found", m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_pair_multiplies_what_both_have_copied),
        cmocka_unit_test(every_mistake_shows),
    };
    fill(tile_a, ROWS, 0);
    fill(tile_b, 2 * COLS, 1);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
