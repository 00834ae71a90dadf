/* tiles.c - row tiles in shrinking sizes (see cpu.h).
 *
 * A batch that gives every thread one tile at most is cut evenly. In a larger one a tile takes
 * about half of a thread's share of what is left, so that threads end together although none waits
 * for another: large tiles read the weights from cache less often, small ones at the end fill the
 * gaps. Which thread computes which rows, and in which company, has no influence on their bits. */
#include "engine/cpu/cpu.h"

enum { LEAST_ROWS = 16 };

void scd_tiles_init(scd_tiles *tiles, size_t rows, int threads)
{
    scd_cursor_init(&tiles->cursor);
    tiles->rows = rows;
    tiles->threads = threads;
    atomic_init(&tiles->failed, SCD_OK);
}

static size_t tile_for(const scd_tiles *tiles, size_t left)
{
    size_t threads = (size_t)tiles->threads, rows = left / (2 * threads);
    if (tiles->rows <= threads * SCD_TILE_ROWS)
        rows = (tiles->rows + threads - 1) / threads;
    else if (threads == 1 || rows > SCD_TILE_ROWS)
        rows = SCD_TILE_ROWS;
    else if (rows < LEAST_ROWS)
        rows = LEAST_ROWS;
    rows = scd_tile_round(rows);
    return rows < left ? rows : left;
}

bool scd_tiles_take(scd_tiles *tiles, size_t *first, size_t *n)
{
    if (atomic_load_explicit(&tiles->failed, memory_order_relaxed))
        return false;
    size_t at = atomic_load_explicit(&tiles->cursor.next, memory_order_relaxed);
    do {
        if (at >= tiles->rows)
            return false;
        *n = tile_for(tiles, tiles->rows - at);
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
