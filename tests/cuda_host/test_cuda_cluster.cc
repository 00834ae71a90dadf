/* test_cuda_cluster.cc - the emulator's pairs of blocks, barriers, bulk copies and products of two
 * tiles: one kernel does them right, and each mistake in it is found. */
#include "engine/cuda/gpu_cluster.cuh"

#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

extern "C" {
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>
}

static struct scd_device device;

/* a has fewer rows than a tile; two tiles side by side are its columns. */
enum { THREADS = 128, ROWS = 56, COLS = 128, SIDE = SCD_TILE_SIDE, K = 2 * SIDE };
enum { TILE = SCD_TILE_BYTES, A_BYTES = 2 * TILE, B_BYTES = 4 * TILE };

typedef enum mistake {
    NONE,
    NO_WAIT_FOR_COPIES,
    NO_WAIT_FOR_PRODUCTS,
    FILLED_TOO_EARLY,
    ONE_ARRIVAL_TOO_FEW,
    LEAVES_THE_OTHER,
    CROOKED_TILE,
    NO_BARRIER_MADE,
    MISTAKES
} mistake;

/* Both blocks multiply the same a, one tile of which each copies to both, by rows of b of their
 * own. A tile is then filled anew, which must not show. */
SCD_KERNEL_PAIRS(THREADS)
pair_product(SCD_GRID_CONSTANT scd_gpu_map a, SCD_GRID_CONSTANT scd_gpu_map b, float *c, int m)
{
    unsigned char *s = (unsigned char *)gpu_shared(), *to = s + A_BYTES;
    gpu_mbarrier *full = (gpu_mbarrier *)(void *)(to + B_BYTES), *used = full + 1;
    unsigned rank = gpu_cluster_rank();
    if (threadIdx.x == 0 && m != NO_BARRIER_MADE) {
        gpu_mbarrier_init(full, 1);
        gpu_mbarrier_init(used, m == ONE_ARRIVAL_TOO_FEW ? 9 : 8);
        gpu_mbarrier_ready();
    }
    gpu_cluster_sync();
    if (threadIdx.x == 0) {
        gpu_mbarrier_expect(full, A_BYTES + B_BYTES);
        gpu_copy_tile_pair(s + rank * TILE + (m == CROOKED_TILE ? 128 : 0), &a, rank * SIDE, 0,
                           full);
        for (unsigned i = 0; i < 4; i++)
            gpu_copy_tile(to + i * TILE, &b, i / 2 * SIDE, rank * COLS + i % 2 * SIDE, full);
    }
    float d[64];
    if (m != NO_WAIT_FOR_COPIES)
        gpu_mbarrier_wait(full, 0);
    gpu_group_begin();
    for (int k = 0; k < 2; k++)
        for (int step = 0; step < SIDE / 16; step++)
            gpu_group_mma_shared(d, s + k * TILE, to + k * 2 * TILE, step, k || step);
    gpu_group_commit();
    if (m != FILLED_TOO_EARLY && m != NO_WAIT_FOR_PRODUCTS)
        gpu_group_wait_for<0>(d);
    if (threadIdx.x % 32 < 2)
        gpu_mbarrier_arrive(used, threadIdx.x % 32);
    if (threadIdx.x == 0) {
        gpu_mbarrier_wait(used, 0);
        gpu_mbarrier_expect(full, TILE);
        gpu_copy_tile(s, &a, SIDE, 0, full);
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

alignas(16) static uint16_t matrix_a[ROWS][K], matrix_b[2 * COLS][K];
static float c[SIDE][2 * COLS];

/* Small whole numbers, whose sums are exact. */
static float number(int row, int k, int of)
{
    return (float)((row * 7 + k * (3 + of)) % 9 - 4);
}

static void fill(uint16_t m[][K], int rows, int of)
{
    for (int row = 0; row < rows; row++)
        for (int k = 0; k < K; k++)
            m[row][k] = scd_f32_to_bf16(number(row, k, of));
}

/* How many elements are wrong; rows that a does not have are 0. */
static int run(mistake m)
{
    int wrong = 0;
    scd_gpu_map a, b;
    if (scd_gpu_map_rows(NULL, matrix_a, ROWS, K, &a, NULL) ||
        scd_gpu_map_rows(NULL, matrix_b, (size_t)(2 * COLS), K, &b, NULL))
        abort();
    (void)SCD_LAUNCH_PAIRS(&device, (scd_error *)NULL, pair_product, dim3(2, 1), THREADS,
                           (size_t)(A_BYTES + B_BYTES + 64), a, b, &c[0][0], m);
    for (int i = 0; i < SIDE; i++)
        for (int j = 0; j < 2 * COLS; j++) {
            float sum = 0.0f;
            for (int k = 0; k < K && i < ROWS; k++)
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
    fill(matrix_a, ROWS, 0);
    fill(matrix_b, 2 * COLS, 1);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
