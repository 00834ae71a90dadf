/* warp.cc - see emulator.cuh: the instructions that a whole warp carries out together.
 *
 * Written from the PTX ISA's figures for mma.m16n8k16 and ldmatrix, on purpose without the
 * functions of engine/cuda/index.h, so that the one checks the other: lane = 4 group + thread. */
#include "tests/cuda_host/emulator.cuh"

#include <stdlib.h>
#include <string.h>

enum { LANES = 32 };

void scd_emu_store_16(void *to, const uint32_t v[4])
{
    if ((uintptr_t)to % 16)
        abort();
    memcpy(to, v, 16);
}

struct shuffle {
    float in, out;
    int from;
};

static void shuffle_all(void *const lanes[LANES])
{
    for (int i = 0; i < LANES; i++) {
        struct shuffle *s = (struct shuffle *)lanes[i];
        s->out = ((struct shuffle *)lanes[s->from])->in;
    }
}

float scd_emu_shfl_xor(struct scd_emu_place place, float x, int mask)
{
    struct shuffle s = {x, 0.0f, (int)threadIdx.x % LANES ^ mask};
    scd_emu_warp(place, &s, shuffle_all);
    return s.out;
}

uint32_t scd_emu_shfl_xor_bits(struct scd_emu_place place, uint32_t x, int mask)
{
    float in, out;
    memcpy(&in, &x, sizeof in);
    out = scd_emu_shfl_xor(place, in, mask);
    memcpy(&x, &out, sizeof x);
    return x;
}

struct product {
    float *c;
    const uint32_t *a;
    uint32_t b[2];
};

static float half_of(uint32_t pair, int upper)
{
    return scd_bf16_to_f32((uint16_t)(upper ? pair >> 16 : pair));
}

/* PTX ISA, "Matrix Fragments for mma.m16n8k16 with floating point type":
 *   A: a_i is row group for 0 <= i < 2 and 4 <= i < 6, else group + 8;
 *      column 2 thread + (i & 1) for i < 4, else that + 8
 *   B: b_i is row 2 thread + (i & 1) for i < 2, else that + 8; column group
 *   C: c_i is row group for i < 2, else group + 8; column 2 thread + (i & 1) */
static void product_all(void *const lanes[LANES])
{
    float a[16][16], b[16][8];
    for (int lane = 0; lane < LANES; lane++) {
        const struct product *p = (const struct product *)lanes[lane];
        int group = lane >> 2, thread = lane & 3;
        for (int i = 0; i < 8; i++) {
            int row = i < 2 || (i >= 4 && i < 6) ? group : group + 8;
            int col = thread * 2 + (i & 1) + (i < 4 ? 0 : 8);
            a[row][col] = half_of(p->a[i / 2], i & 1);
        }
        for (int i = 0; i < 4; i++)
            b[thread * 2 + (i & 1) + (i < 2 ? 0 : 8)][group] = half_of(p->b[i / 2], i & 1);
    }
    for (int lane = 0; lane < LANES; lane++) {
        struct product *p = (struct product *)lanes[lane];
        int group = lane >> 2, thread = lane & 3;
        for (int i = 0; i < 4; i++) {
            int row = i < 2 ? group : group + 8, col = thread * 2 + (i & 1);
            float sum = p->c[i];
            for (int k = 0; k < 16; k++)
                sum += a[row][k] * b[k][col];
            p->c[i] = sum;
        }
    }
}

void scd_emu_mma(struct scd_emu_place place, float c[4], const uint32_t a[4], uint32_t b0,
                 uint32_t b1)
{
    struct product p = {c, a, {b0, b1}};
    scd_emu_warp(place, &p, product_all);
}

struct load {
    uint32_t *r;
    const uint16_t *row;
    bool transposed;
};

/* PTX ISA, ldmatrix: lanes 8 j .. 8 j + 7 hold the addresses of the rows of matrix j; a lane
 * receives row `group`, elements 2 thread and 2 thread + 1, or with .trans those of the transpose.
 */
static void load_all(void *const lanes[LANES])
{
    for (int j = 0; j < 4; j++) {
        uint16_t m[8][8];
        for (int i = 0; i < 8; i++)
            memcpy(m[i], ((const struct load *)lanes[8 * j + i])->row, sizeof m[i]);
        for (int lane = 0; lane < LANES; lane++) {
            struct load *l = (struct load *)lanes[lane];
            int group = lane >> 2, thread = lane & 3;
            uint16_t lo = l->transposed ? m[2 * thread][group] : m[group][2 * thread];
            uint16_t hi = l->transposed ? m[2 * thread + 1][group] : m[group][2 * thread + 1];
            l->r[j] = (uint32_t)hi << 16 | lo;
        }
    }
}

void scd_emu_ldmatrix(struct scd_emu_place place, uint32_t r[4], const uint16_t *row,
                      bool transposed)
{
    struct load l = {r, row, transposed};
    scd_emu_warp(place, &l, load_all);
}

/* PTX ISA, "Asynchronous Warpgroup Level Matrix Multiply-Accumulate": D of m64nNk16 is, in each
 * warp's 16 rows, the fragments C of N / 8 products side by side; A in registers is theirs. Shared
 * memory with the 128-byte swizzle: bits 4 to 6 of an address are turned by bits 7 to 9. */
static uint16_t swizzled(const void *tile, int row, int col)
{
    uint32_t at = (uint32_t)(row * 128 + col * 2);
    uint16_t value;
    memcpy(&value, (const char *)tile + (at ^ (at >> 3 & 0x70)), sizeof value);
    return value;
}

void scd_emu_group_mma(struct scd_emu_place place, float *d, const uint32_t a[4], const void *tile,
                       int step, bool rows_are_n, bool first)
{
    int lane = (int)threadIdx.x % LANES, group = lane >> 2, thread = lane & 3;
    for (int n = 0; n < 8; n++) {
        uint32_t b[2];
        for (int reg = 0; reg < 2; reg++) {
            int k = step * 16 + thread * 2 + reg * 8, col = n * 8 + group;
            uint16_t lo = rows_are_n ? swizzled(tile, col, k) : swizzled(tile, k, col);
            uint16_t hi = rows_are_n ? swizzled(tile, col, k + 1) : swizzled(tile, k + 1, col);
            b[reg] = (uint32_t)hi << 16 | lo;
        }
        float *c = d + n * 4;
        if (first)
            c[0] = c[1] = c[2] = c[3] = 0.0f;
        scd_emu_mma(place, c, a, b[0], b[1]);
    }
}
