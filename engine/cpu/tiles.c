/* tiles.c - row tiles in shrinking sizes (see cpu.h).
 *
 * A tile takes about half of a thread's share of what is left, at most SCD_TILE_ROWS and at least
 * the smallest tile: large ones read the weights from cache less often, small ones at the end let
 * all threads finish together. Which thread computes which rows has no influence on their bits. */
#include "engine/cpu/cpu.h"

void scd_tiles_init(scd_tiles *tiles, size_t rows, int threads)
{
    scd_cursor_init(&tiles->cursor);
    tiles->rows = rows;
    tiles->threads = threads;
    atomic_init(&tiles->failed, SCD_OK);
}

static size_t tile_for(size_t left, int threads)
{
    size_t share = threads > 1 ? left / (2 * (size_t)threads) : left;
    for (size_t i = 0; i + 1 < SCD_N_TILES; i++)
        if (scd_tile_sizes[i] <= share)
            return scd_tile_sizes[i];
    size_t smallest = scd_tile_sizes[SCD_N_TILES - 1];
    return left < smallest ? left : smallest;
}

bool scd_tiles_take(scd_tiles *tiles, size_t *first, size_t *n)
{
    if (atomic_load_explicit(&tiles->failed, memory_order_relaxed))
        return false;
    size_t at = atomic_load_explicit(&tiles->cursor.next, memory_order_relaxed);
    do {
        if (at >= tiles->rows)
            return false;
        *n = tile_for(tiles->rows - at, tiles->threads);
    } while (!atomic_compare_exchange_weak_explicit(&tiles->cursor.next, &at, at + *n,
                                                    memory_order_relaxed, memory_order_relaxed));
    *first = at;
    return true;
}

scd_code scd_tiles_end(scd_tiles *tiles, scd_error *err)
{
    scd_code code = (scd_code)atomic_load(&tiles->failed);
    return code ? scd_fail(err, code, "a product failed in oneDNN") : SCD_OK;
}
