/* gene_order.c - see gene_order.h: a counting sort over the genes that occur. */
#include "engine/cuda/gene_order.h"

#include "engine/base/mem.h"

#include <stdlib.h>

static scd_code make_room(scd_gene_order *o, size_t n, size_t vocab, scd_error *err)
{
    size_t words = 3 * n + 1;
    if (words > o->room) {
        uint32_t *more = scd_realloc(o->genes, words, sizeof *more);
        if (!more)
            return scd_fail(err, SCD_E_NOMEM, "out of memory for the genes of %zu rows", n);
        o->genes = more;
        o->room = words;
    }
    if (vocab > o->vocab) {
        uint32_t *counts = scd_calloc(vocab, sizeof *counts);
        if (!counts)
            return scd_fail(err, SCD_E_NOMEM, "out of memory for %zu genes", vocab);
        free(o->counts);
        o->counts = counts;
        o->vocab = vocab;
    }
    return SCD_OK;
}

/* Genes in the order in which they first occur, and how often each does. */
static scd_code count(scd_gene_order *o, const int32_t *ids, size_t n, size_t vocab, size_t *n_rows,
                      scd_error *err)
{
    scd_code code = SCD_OK;
    o->n_genes = *n_rows = 0;
    for (size_t r = 0; r < n && !code; r++) {
        if (ids[r] < 0)
            continue;
        if ((size_t)ids[r] >= vocab) {
            code = scd_fail(err, SCD_E_INVALID, "gene id %d is outside the vocabulary of %zu",
                            ids[r], vocab);
        } else {
            if (!o->counts[ids[r]]++)
                o->genes[o->n_genes++] = (uint32_t)ids[r];
            ++*n_rows;
        }
    }
    for (size_t g = 0; g < o->n_genes && code; g++)
        o->counts[o->genes[g]] = 0;
    return code;
}

scd_code scd_gene_order_sort(scd_gene_order *o, const int32_t *ids, size_t n, size_t vocab,
                             scd_error *err)
{
    size_t n_rows;
    scd_code code = make_room(o, n, vocab, err);
    if (!code)
        code = count(o, ids, n, vocab, &n_rows, err);
    if (code)
        return code;
    o->starts = o->genes + o->n_genes;
    o->rows = o->starts + o->n_genes + 1;
    o->n_words = 2 * o->n_genes + 1 + n_rows;
    o->starts[0] = 0;
    for (size_t g = 0; g < o->n_genes; g++) { /* counts become where a gene's next row goes */
        uint32_t times = o->counts[o->genes[g]];
        o->counts[o->genes[g]] = o->starts[g];
        o->starts[g + 1] = o->starts[g] + times;
    }
    for (size_t r = 0; r < n; r++)
        if (ids[r] >= 0)
            o->rows[o->counts[ids[r]]++] = (uint32_t)r;
    for (size_t g = 0; g < o->n_genes; g++)
        o->counts[o->genes[g]] = 0;
    return SCD_OK;
}

void scd_gene_order_release(scd_gene_order *o)
{
    free(o->genes);
    free(o->counts);
    *o = (scd_gene_order){0};
}
