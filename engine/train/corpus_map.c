/* corpus_map.c - names to numbers: gene symbols, Ensembl ids, categories of obs columns.
 *
 * Open addressing, at most half full; hashes are kept, so that growing reads no key.
 *
 * Threads: one at a time. Owns: the slots, until release. */
#include "engine/train/corpus_impl.h"

#include "engine/base/mem.h"

#include <stdlib.h>
#include <string.h>

/* FNV-1a, folded: http://www.isthe.com/chongo/tech/comp/fnv */
static uint64_t hash_of(const char *key)
{
    uint64_t h = UINT64_C(0xcbf29ce484222325);
    for (; *key; key++)
        h = (h ^ (unsigned char)*key) * UINT64_C(0x100000001b3);
    return h ^ h >> 32;
}

/* The key's slot, or the empty one where it belongs. */
static scd_map_slot *slot_of(const scd_map *map, const char *key, uint64_t hash)
{
    for (size_t i = hash & (map->n_slots - 1);; i = (i + 1) & (map->n_slots - 1)) {
        scd_map_slot *slot = &map->slots[i];
        if (!slot->key || (slot->hash == hash && !strcmp(slot->key, key)))
            return slot;
    }
}

uint32_t scd_map_get(const scd_map *map, const char *key)
{
    if (!map->n)
        return SCD_NO_VALUE;
    const scd_map_slot *slot = slot_of(map, key, hash_of(key));
    return slot->key ? slot->value : SCD_NO_VALUE;
}

static bool grow(scd_map *map)
{
    scd_map larger = {.n = map->n, .n_slots = map->n_slots ? 2 * map->n_slots : 64};
    larger.slots = scd_calloc(larger.n_slots, sizeof *larger.slots);
    if (!larger.slots)
        return false;
    for (size_t i = 0; i < map->n_slots; i++)
        if (map->slots[i].key)
            *slot_of(&larger, map->slots[i].key, map->slots[i].hash) = map->slots[i];
    free(map->slots);
    *map = larger;
    return true;
}

bool scd_map_put(scd_map *map, const char *key, uint32_t value)
{
    if (2 * (map->n + 1) > map->n_slots && !grow(map))
        return false;
    uint64_t hash = hash_of(key);
    scd_map_slot *slot = slot_of(map, key, hash);
    map->n += !slot->key;
    *slot = (scd_map_slot){slot->key ? slot->key : key, hash, value};
    return true;
}

void scd_map_release(scd_map *map)
{
    free(map->slots);
    *map = (scd_map){0};
}
