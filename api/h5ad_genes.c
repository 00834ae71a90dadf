/* h5ad_genes.c - see h5ad_genes.h. */
#include "api/h5ad_genes.h"

#include "engine/base/mem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NAMES_BYTES = 1 << 30 };

/* In order of preference; the index (NULL) comes last. */
static const char *const usual[] = {"ensembl_id", "gene_ids",     "feature_name",
                                    "gene_name",  "gene_symbols", NULL};
enum { N_USUAL = sizeof usual / sizeof usual[0] };

static const char *find_column(const scd_h5ad *file, const char *frame, const char *name)
{
    for (size_t i = 0; i < scd_h5ad_n_columns(file, frame); i++) {
        const char *column = scd_h5ad_column_name(file, frame, i);
        if (strcmp(column, name) == 0)
            return column;
    }
    return NULL;
}

/* How many of the column's names the vocabulary knows; without one, how many there are. */
static scd_code count_known(scd_h5ad *file, const char *frame, const char *column,
                            const scd_vocab *vocab, size_t *n_known, scd_error *err)
{
    scd_arena arena;
    const char *const *names = NULL;
    size_t n = 0;
    *n_known = 0;
    scd_arena_init(&arena, NAMES_BYTES);
    scd_code code = scd_h5ad_column_text(file, frame, column, &arena, &names, &n, err);
    for (size_t i = 0; i < n && !code; i++) {
        scd_rung rung;
        if (names[i] && names[i][0])
            *n_known += !vocab || scd_vocab_resolve(vocab, names[i], strlen(names[i]), &rung) >= 0;
    }
    scd_arena_release(&arena);
    return code;
}

static scd_code done(scd_h5ad *file, const char *frame, const char *column, size_t n_known,
                     const scd_vocab *vocab, scd_arena *arena, scd_h5ad_genes *out, scd_error *err)
{
    char why[512];
    size_t n = scd_h5ad_frame_rows(file, frame);
    int length = snprintf(why, sizeof why,
                          vocab ? "genes from %s[%s], %zu of %zu known" : "genes from %s[%s]",
                          frame, column ? column : "index", n_known, n);
    *out = (scd_h5ad_genes){.column = column};
    if (column)
        out->column = scd_arena_strndup(arena, column, strlen(column));
    out->why = scd_arena_strndup(arena, why, length < 0 ? 0 : strlen(why));
    if (!out->why || (column && !out->column))
        return scd_fail(err, SCD_E_NOMEM, "%s: %s: out of memory", scd_h5ad_path(file), frame);
    return SCD_OK;
}

scd_code scd_h5ad_genes_choose(scd_h5ad *file, const char *frame, const char *named,
                               const scd_vocab *vocab, scd_arena *arena, scd_h5ad_genes *out,
                               scd_error *err)
{
    size_t n_known = 0, most = 0;
    const char *best = NULL;
    if (named) {
        /* the index is called so by everyone, whatever its name in the file */
        bool index = !find_column(file, frame, named) &&
                     (strcmp(named, "index") == 0 || strcmp(named, "_index") == 0);
        const char *column = index ? NULL : named;
        scd_code code = count_known(file, frame, column, vocab, &n_known, err);
        return code ? code : done(file, frame, column, n_known, vocab, arena, out, err);
    }
    for (size_t i = 0; i < N_USUAL; i++) {
        const char *column = usual[i] ? find_column(file, frame, usual[i]) : NULL;
        if (usual[i] && !column)
            continue;
        scd_code code = count_known(file, frame, column, vocab, &n_known, err);
        if (code == SCD_E_NOMEM || (code && !usual[i]))
            return code; /* a column that cannot be read is not taken; the index has to be */
        if (!code && n_known > most) {
            most = n_known;
            best = column;
            if (!vocab)
                break;
        }
    }
    return done(file, frame, best, most, vocab, arena, out, err);
}
