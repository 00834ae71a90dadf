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

/* Anything but a number, or what a missing one was written as: Entrez ids and row numbers name no
 * gene to a vocabulary of symbols and Ensembl ids. */
static bool is_name(const char *text)
{
    char *end;
    strtod(text, &end);
    return *end && strcmp(text, "None") != 0 && strcmp(text, "<NA>") != 0;
}

typedef struct column_names {
    size_t n_given; /* that are not empty */
    size_t n_good;  /* that the vocabulary knows; without one, that look like a name */
} column_names;

static scd_code count_names(scd_h5ad *file, const char *frame, const char *column,
                            const scd_vocab *vocab, column_names *out, scd_error *err)
{
    scd_arena arena;
    const char *const *names = NULL;
    size_t n = 0;
    *out = (column_names){0};
    scd_arena_init(&arena, NAMES_BYTES);
    scd_code code = scd_h5ad_column_text(file, frame, column, &arena, &names, &n, err);
    for (size_t i = 0; i < n && !code; i++) {
        scd_rung rung;
        if (!names[i] || !names[i][0])
            continue;
        out->n_given++;
        out->n_good += vocab ? scd_vocab_resolve(vocab, names[i], strlen(names[i]), &rung) >= 0
                             : is_name(names[i]);
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
    *out = (scd_h5ad_genes){.column = column, .n_known = n_known};
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
    column_names names, most = {0};
    const char *best = NULL;
    if (named) {
        /* the index is called so by everyone, whatever its name in the file */
        bool index = !find_column(file, frame, named) &&
                     (strcmp(named, "index") == 0 || strcmp(named, "_index") == 0);
        const char *column = index ? NULL : named;
        scd_code code = count_names(file, frame, column, vocab, &names, err);
        return code ? code : done(file, frame, column, names.n_good, vocab, arena, out, err);
    }
    for (size_t i = 0; i < N_USUAL; i++) {
        const char *column = usual[i] ? find_column(file, frame, usual[i]) : NULL;
        if (usual[i] && !column)
            continue;
        scd_code code = count_names(file, frame, column, vocab, &names, err);
        if (code == SCD_E_NOMEM || (code && !usual[i]))
            return code; /* a column that cannot be read is not taken; the index has to be */
        bool first = !vocab && !most.n_given; /* where all are numbers, the first that is filled */
        if (!code && (names.n_good > most.n_good || (first && names.n_given))) {
            most = names;
            best = column;
        }
    }
    return done(file, frame, best, most.n_good, vocab, arena, out, err);
}
