/* head_genes.c - which genes a head's training files measured: head.json's "genes".
 *
 * Threads: any. Owns: nothing. */
#include "engine/base/mem.h"
#include "engine/denoise/head_impl.h"

#include <cjson/cJSON.h>
#include <stdlib.h>
#include <string.h>

enum { FIRST_GENE = 2, LAST_SPECIALS = 3 }; /* PAD and MASK before, PAD_FILL, BOS and EOS behind */

/* A whole number from least to most. */
static bool read_token(const cJSON *item, size_t least, size_t most, size_t *out)
{
    if (!cJSON_IsNumber(item) || !(item->valuedouble >= (double)least) ||
        !(item->valuedouble <= (double)most))
        return false;
    *out = (size_t)item->valuedouble;
    return (double)*out == item->valuedouble;
}

scd_code scd_head_read_genes(const cJSON *json, const char *path, size_t vocab, uint8_t **out,
                             size_t *n_genes, scd_error *err)
{
    const cJSON *array, *range;
    *out = NULL;
    *n_genes = 0;
    if (scd_head_find(path, json, "genes", &array, err))
        return SCD_E_INVALID;
    if (!array)
        return SCD_OK;
    if (!cJSON_IsArray(array) || !array->child || vocab < FIRST_GENE + LAST_SPECIALS + 1)
        return scd_fail(err, SCD_E_INVALID,
                        "%s: genes must be an array of ranges [first, past] of token ids", path);
    uint8_t *genes = scd_calloc(vocab, 1);
    if (!genes)
        return scd_fail(err, SCD_E_NOMEM, "%s: out of memory", path);
    size_t least = FIRST_GENE, index = 0;
    cJSON_ArrayForEach(range, array)
    {
        size_t first = 0, past = 0;
        if (!cJSON_IsArray(range) || cJSON_GetArraySize(range) != 2 ||
            !read_token(range->child, least, vocab, &first) ||
            !read_token(range->child->next, first + 1, vocab - LAST_SPECIALS, &past)) {
            free(genes);
            return scd_fail(err, SCD_E_INVALID,
                            "%s: genes[%zu] must be [first, past] with %zu <= first < past <= %zu, "
                            "ranges ascending",
                            path, index, least, vocab - LAST_SPECIALS);
        }
        memset(genes + first, 1, past - first);
        *n_genes += past - first;
        least = past;
        index++;
    }
    *out = genes;
    return SCD_OK;
}
