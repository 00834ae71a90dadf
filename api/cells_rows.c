/* cells_rows.c - what every format does with its rows and its names: tidy entries, text as codes.
 */
#include "api/cells_impl.h"

#include "engine/base/mem.h"

#include <stdlib.h>
#include <string.h>

/* ---- the entries of a row ---- */

struct entry {
    uint64_t key; /* column, then place in the file */
    double value;
};

static int by_key(const void *a, const void *b)
{
    const struct entry *x = a, *y = b;
    return (x->key > y->key) - (x->key < y->key);
}

size_t scd_cells_row_tidy(uint32_t *cols, double *values, size_t n)
{
    bool ascending = true;
    for (size_t i = 1; i < n && ascending; i++)
        ascending = cols[i - 1] < cols[i];
    if (!ascending) {
        struct entry *entries = n > UINT32_MAX ? NULL : scd_malloc(n, sizeof *entries);
        if (!entries)
            return SIZE_MAX;
        for (size_t i = 0; i < n; i++)
            entries[i] = (struct entry){(uint64_t)cols[i] << 32 | i, values[i]};
        qsort(entries, n, sizeof *entries, by_key);
        size_t to = 0;
        for (size_t i = 0; i < n; i++) {
            uint32_t col = (uint32_t)(entries[i].key >> 32);
            if (to && cols[to - 1] == col) {
                values[to - 1] += entries[i].value;
                continue;
            }
            cols[to] = col;
            values[to++] = entries[i].value;
        }
        free(entries);
        n = to;
    }
    size_t to = 0;
    for (size_t i = 0; i < n; i++) {
        cols[to] = cols[i];
        values[to] = values[i];
        to += values[i] != 0; /* NaN stays: whoever reads must see it */
    }
    return to;
}

/* ---- text as codes ---- */

static uint64_t text_hash(const char *text)
{
    uint64_t h = UINT64_C(14695981039346656037); /* FNV-1a */
    for (; *text; text++)
        h = (h ^ (unsigned char)*text) * UINT64_C(1099511628211);
    return h ^ h >> 32;
}

bool scd_cells_intern(const char *const *text, size_t n, scd_arena *arena,
                      scd_cells_categories *out)
{
    size_t n_slots = 16;
    while (n_slots < n * 2)
        n_slots *= 2;
    int32_t *slots = n > INT32_MAX ? NULL : scd_calloc(n_slots, sizeof *slots); /* code + 1 */
    int32_t *codes = scd_arena_alloc(arena, n, sizeof *codes);
    const char **categories = scd_arena_alloc(arena, n, sizeof *categories);
    if (!slots || !codes || !categories) {
        free(slots);
        return false;
    }
    size_t n_categories = 0;
    for (size_t i = 0; i < n; i++) {
        codes[i] = -1;
        if (!text[i])
            continue;
        size_t at = text_hash(text[i]) & (n_slots - 1);
        while (slots[at] && strcmp(categories[slots[at] - 1], text[i]) != 0)
            at = (at + 1) & (n_slots - 1);
        if (!slots[at]) {
            categories[n_categories++] = text[i];
            slots[at] = (int32_t)n_categories;
        }
        codes[i] = slots[at] - 1;
    }
    free(slots);
    *out = (scd_cells_categories){n, n_categories, codes, categories};
    return true;
}
