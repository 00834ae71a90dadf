/* index.h - the index arithmetic of the kernels, in functions that tests on the host call too.
 *
 * Fragment layouts are those of the PTX ISA, "Matrix Fragments for mma.m16n8k16 with floating point
 * type" and "Warp-level matrix load instruction: ldmatrix": a lane is 4 * group + thread, group
 * 0..7 and thread 0..3.
 *
 * Threads: any. Owns: nothing. */
#ifndef SCD_CUDA_INDEX_H
#define SCD_CUDA_INDEX_H

#include "engine/cuda/number.h"

#include <stddef.h>

SCD_BOTH size_t scd_ceil_div(size_t n, size_t by)
{
    return (n + by - 1) / by;
}

/* ---- fragments of an m16n8k16 product ---- */

/* Row (0..15) of the pair in register `reg` (0..3) of A; its first column (0, 2, .. 14). */
SCD_BOTH int scd_frag_a_row(int lane, int reg)
{
    return lane / 4 + (reg & 1) * 8;
}

SCD_BOTH int scd_frag_a_col(int lane, int reg)
{
    return lane % 4 * 2 + (reg / 2) * 8;
}

/* First row (0, 2, .. 14) of the pair in register `reg` (0, 1) of B; its column (0..7). */
SCD_BOTH int scd_frag_b_row(int lane, int reg)
{
    return lane % 4 * 2 + reg * 8;
}

SCD_BOTH int scd_frag_b_col(int lane)
{
    return lane / 4;
}

/* Row and column of element `i` (0..3) of C and D. */
SCD_BOTH int scd_frag_c_row(int lane, int i)
{
    return lane / 4 + (i / 2) * 8;
}

SCD_BOTH int scd_frag_c_col(int lane, int i)
{
    return lane % 4 * 2 + (i & 1);
}

/* ---- which row a lane names to ldmatrix.x4: lanes 8 j .. 8 j + 7 name the rows of matrix j ----
 */

/* Keys as B of Q K^T, (keys, dim) in memory, not transposed: matrices (keys 0-7, dims 0-7), (0-7,
 * 8-15), (8-15, 0-7), (8-15, 8-15) are B's registers 0, 1 of keys 0-7, then of keys 8-15. */
SCD_BOTH int scd_ldm_key_row(int lane)
{
    return lane / 16 * 8 + lane % 8;
}

SCD_BOTH int scd_ldm_key_col(int lane)
{
    return lane / 8 % 2 * 8;
}

/* Values as B of P V, (keys, dim) in memory, transposed: matrices (keys 0-7, dims 0-7), (8-15,
 * 0-7), (0-7, 8-15), (8-15, 8-15) are B's registers 0, 1 of dims 0-7, then of dims 8-15. */
SCD_BOTH int scd_ldm_value_row(int lane)
{
    return lane / 8 % 2 * 8 + lane % 8;
}

SCD_BOTH int scd_ldm_value_col(int lane)
{
    return lane / 16 * 8;
}

/* Where 16-byte piece `piece` (0..7) of row `row` lies in a tile of 128-byte rows with the 128-byte
 * swizzle (PTX ISA, "Swizzling modes"): the same pieces of eight rows lie in different banks. */
SCD_BOTH int scd_swizzled(int row, int piece)
{
    return row * 128 + (piece ^ (row & 7)) * 16;
}

/* Bulk copies bring tiles of 64 rows and 64 columns of bf16, laid so. */
enum { SCD_TILE_SIDE = 64, SCD_TILE_BYTES = SCD_TILE_SIDE * SCD_TILE_SIDE * 2 };

/* ---- attention: blocks and tiles ---- */

/* Block x of a grid of n_cells * tiles is tile `tile` of cell `cell`. */
typedef struct scd_query_tile {
    size_t cell, tile;
} scd_query_tile;

SCD_BOTH scd_query_tile scd_query_tile_at(size_t block, size_t tiles)
{
    scd_query_tile t = {block / tiles, block % tiles};
    return t;
}

/* Rows of the tile [first, first + size) that lie below `end`. */
SCD_BOTH int scd_rows_left(size_t first, size_t size, size_t end)
{
    return (int)(first >= end ? 0 : end - first < size ? end - first : size);
}

/* The cell c with cu[c] <= row < cu[c + 1]; cu (n + 1) ascends from 0 to more than row. */
SCD_BOTH size_t scd_cell_of_row(const uint32_t *cu, size_t n, size_t row)
{
    size_t low = 0, high = n;
    while (high - low > 1) {
        size_t mid = low + (high - low) / 2;
        if (cu[mid] <= row)
            low = mid;
        else
            high = mid;
    }
    return low;
}

/* A sum over `rows` rows is cut into this many pieces of scd_piece_rows rows, so that there are
 * some `wanted` blocks of work where one piece makes `blocks`; no piece is shorter than `least`. */
SCD_BOTH size_t scd_piece_rows(size_t rows, size_t blocks, size_t wanted, size_t least)
{
    size_t most = rows / least, pieces = scd_ceil_div(wanted, blocks ? blocks : 1);
    pieces = pieces < most ? pieces : most;
    return scd_ceil_div(rows, pieces ? pieces : 1);
}

/* ---- RoPE, rotate-half ---- */

/* Pair p of a part's row (H / 2 pairs): columns a and a + half, entry i of the head's table row. */
typedef struct scd_rope_pair {
    unsigned a, i;
} scd_rope_pair;

SCD_BOTH scd_rope_pair scd_rope_pair_at(unsigned p, unsigned half)
{
    scd_rope_pair r = {p / half * 2 * half + p % half, p % half};
    return r;
}

#endif
