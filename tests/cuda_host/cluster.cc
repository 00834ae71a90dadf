/* cluster.cc - see emulator.cuh: barriers that count bytes, bulk copies, and a warpgroup's products
 * of two tiles in shared memory.
 *
 * All of them are as late as they can be. A copy fills its place with NaN when it starts and ends
 * only when no thread can go on, the oldest first or, where scd_emu_order says so, the newest; or
 * any of them at any time. A product reads its tiles when it is waited for: if they are filled anew
 * before that, it shows. */
#include "tests/cuda_host/cluster.h"

#include "engine/cuda/number.h"
#include "engine/cuda/runtime.h"
#include "tests/cuda_host/host.h"

#include <string.h>
#include <vector>

static const struct scd_emu_place here = {"cluster", 0};

/* ---- mbarrier: PTX ISA, "Parallel Synchronization and Communication Instructions: mbarrier" ----
 */

enum { READY = 0x5a };

/* A phase is over when all have arrived and all bytes that were announced are here. */
static void settle(scd_emu_mbarrier *b)
{
    if (b->pending || b->bytes)
        return;
    b->phase ^= 1;
    b->pending = b->arrivals;
}

static void check(const scd_emu_mbarrier *b)
{
    if (b->ready != READY || (uintptr_t)b % 8)
        scd_emu_fault("an mbarrier that nobody made", here);
}

void scd_emu_mbarrier_init(scd_emu_mbarrier *b, unsigned arrivals)
{
    *b = {READY, 0, (uint8_t)arrivals, (uint8_t)arrivals, 0};
}

void scd_emu_mbarrier_arrive(scd_emu_mbarrier *b, unsigned rank, int32_t bytes)
{
    scd_emu_maybe_yield();
    b = (scd_emu_mbarrier *)scd_emu_shared_at(rank, b);
    check(b);
    if (!b->pending)
        scd_emu_fault("more arrivals at an mbarrier than it counts", here);
    b->bytes += bytes;
    b->pending--;
    settle(b);
}

void scd_emu_mbarrier_wait(scd_emu_place place, scd_emu_mbarrier *b, unsigned parity)
{
    scd_emu_maybe_yield();
    check(b);
    scd_emu_wait_mbarrier(place, b, (int)parity);
}

/* ---- bulk copies ---- */

enum { SIDE = 64, TILE_BYTES = SIDE * SIDE * 2 };

struct bulk_copy {
    unsigned char *to;
    const uint16_t *from; /* (rows, cols) */
    uint64_t rows, cols, row, col;
    scd_emu_mbarrier *b;
};

static std::vector<bulk_copy> under_way;

/* PTX ISA, "Swizzling modes": with 128 bytes, bits 4 to 6 of an address are turned by bits 7 to 9.
 */
static uint32_t swizzled(uint64_t row, uint64_t col)
{
    uint32_t at = (uint32_t)(row * 128 + col * 2);
    return at ^ (at >> 3 & 0x70);
}

void scd_emu_copy_tile(void *shared, const scd_gpu_map *map, unsigned col, unsigned row,
                       scd_emu_mbarrier *b, unsigned blocks)
{
    scd_emu_maybe_yield();
    const uint64_t *m = map->of_the_device;
    if (((const char *)shared - (const char *)scd_emu_shared()) % 1024)
        scd_emu_fault("a tile that does not lie at a multiple of 1,024", here);
    for (unsigned rank = 0; rank < SCD_EMU_CLUSTER; rank++)
        if (blocks >> rank & 1) {
            unsigned char *to = (unsigned char *)scd_emu_shared_at(rank, shared);
            memset(to, 0xff, TILE_BYTES);
            under_way.push_back({to, (const uint16_t *)(uintptr_t)m[0], m[1], m[2], row, col,
                                 (scd_emu_mbarrier *)scd_emu_shared_at(rank, b)});
        }
}

bool scd_emu_finish_bulk_copy(int which)
{
    if (under_way.empty())
        return false;
    size_t n = under_way.size(), at = which < 0 ? n - 1 : (size_t)which % n;
    bulk_copy c = under_way[at];
    under_way.erase(under_way.begin() + (ptrdiff_t)at);
    for (uint64_t i = 0; i < SIDE; i++)
        for (uint64_t j = 0; j < SIDE; j++) {
            uint64_t row = c.row + i, col = c.col + j;
            bool inside = row < c.rows && col < c.cols;
            uint16_t value = inside ? c.from[row * c.cols + col] : 0;
            memcpy(c.to + swizzled(i, j), &value, sizeof value);
        }
    check(c.b);
    c.b->bytes -= TILE_BYTES;
    settle(c.b);
    return true;
}

/* ---- products of a warpgroup, A and B in shared memory ---- */

struct group_product {
    float *d;
    const void *a, *b;
    int step, warp, lane;
    bool add;
    int group;
};

enum { N = 128, MAX_THREADS = 1024 };

struct thread_products {
    std::vector<group_product> waiting;
    int groups;
};

static thread_products products[MAX_THREADS];
static bool used; /* by this cluster */

static float element(const void *tile, int row, int col)
{
    uint16_t value;
    memcpy(&value, (const char *)tile + swizzled((uint64_t)row, (uint64_t)col), sizeof value);
    return scd_bf16_to_f32(value);
}

/* PTX ISA, "Register Fragments and Shared Memory Matrix Layouts" of wgmma.mma_async.m64nNk16: D's
 * d_(4 n + i) is row group + 8 (i / 2) of the warp's 16, column 8 n + 2 thread + i % 2. */
static void multiply(const group_product *p)
{
    int group = p->lane >> 2, thread = p->lane & 3;
    for (int i = 0; i < N / 2; i++) {
        int row = p->warp * 16 + group + (i % 4) / 2 * 8, col = i / 4 * 8 + thread * 2 + i % 2;
        float sum = p->add ? p->d[i] : 0.0f;
        for (int k = p->step * 16; k < p->step * 16 + 16; k++)
            sum += element(p->a, row, k) * element(p->b, col, k);
        p->d[i] = sum;
    }
}

void scd_emu_group_product(float *d, const void *a, const void *b, int step, bool add)
{
    thread_products *of = &products[scd_emu_self()];
    int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32 % 4;
    of->waiting.push_back({d, a, b, step, warp, lane, add, of->groups});
    used = true;
}

void scd_emu_group_commit(void)
{
    products[scd_emu_self()].groups++;
}

void scd_emu_group_wait(int left)
{
    thread_products *of = &products[scd_emu_self()];
    size_t n = 0;
    while (n < of->waiting.size() && of->waiting[n].group < of->groups - left)
        multiply(&of->waiting[n++]);
    of->waiting.erase(of->waiting.begin(), of->waiting.begin() + (ptrdiff_t)n);
}

void scd_emu_end_of_cluster(void)
{
    if (!under_way.empty())
        scd_emu_fault("a cluster ended with copies under way", here);
    for (size_t i = 0; used && i < MAX_THREADS; i++)
        if (!products[i].waiting.empty())
            scd_emu_fault("a thread ended with products that it did not wait for", here);
    used = false;
}
