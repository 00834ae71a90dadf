/* cells_genes.c - see cells_genes.h. */
#include "api/cells_genes.h"

#include "engine/base/mem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NAMES_BYTES = 1 << 28, MAX_OTHERS = 32 };

/* In order of preference; the index (NULL) comes last. */
static const char *const usual[] = {"ensembl_id", "gene_ids",     "feature_name",
                                    "gene_name",  "gene_symbols", NULL};
enum { N_USUAL = sizeof usual / sizeof usual[0] };

static const char *find_column(const scd_cells *file, const char *frame, const char *name)
{
    for (size_t i = 0; i < scd_cells_n_columns(file, frame); i++) {
        const char *column = scd_cells_column_name(file, frame, i);
        if (strcmp(column, name) == 0)
            return column;
    }
    return NULL;
}

/* "AAACCCAAGGAGAGTA-1": what a cell is called, and no gene. */
static bool is_barcode(const char *text)
{
    size_t n = strspn(text, "ACGT");
    return n >= 10 && (text[n] == '\0' || text[n] == '-' || text[n] == '_' || text[n] == '.');
}

/* Anything but a number, a barcode, or what a missing one was written as: Entrez ids and row
 * numbers name no gene to a vocabulary of symbols and Ensembl ids. */
static bool is_name(const char *text)
{
    char *end;
    strtod(text, &end);
    return *end && strcmp(text, "None") != 0 && strcmp(text, "<NA>") != 0 && !is_barcode(text);
}

static scd_code resolve_here(void *arg, const char *const *names, size_t n, int32_t *tokens,
                             scd_rung *rungs, scd_error *err)
{
    const scd_vocab *vocab = arg;
    (void)err;
    for (size_t i = 0; i < n; i++)
        tokens[i] = scd_vocab_resolve(vocab, names[i], strlen(names[i]), rungs + i);
    return SCD_OK;
}

scd_gene_book scd_gene_book_of(const scd_vocab *vocab)
{
    return (scd_gene_book){resolve_here, (void *)(uintptr_t)vocab};
}

/* "GRCh38_CD3D" of the genome GRCh38 -> "CD3D"; "mm10___Cd3d" is written so, too. */
static const char *without_genome(const char *name, const char *genome)
{
    size_t n = strlen(genome);
    if (n == 0 || strncmp(name, genome, n) != 0 || name[n] != '_')
        return name;
    const char *at = name + n;
    while (*at == '_')
        at++;
    return *at ? at : name;
}

scd_code scd_cells_gene_names(scd_cells *file, const char *frame, const char *column,
                              scd_arena *arena, const char *const **out, size_t *n,
                              size_t *n_prefixed, scd_error *err)
{
    const char *const *genomes;
    size_t n_genomes;
    *n_prefixed = 0;
    scd_code code = scd_cells_column_text(file, frame, column, arena, out, n, err);
    if (code || !find_column(file, frame, "genome") ||
        scd_cells_column_text(file, frame, "genome", arena, &genomes, &n_genomes, NULL))
        return code;
    const char **names = scd_arena_alloc(arena, *n + 1, sizeof *names);
    if (!names)
        return scd_fail(err, SCD_E_NOMEM, "%s: %s: out of memory", scd_cells_path(file), frame);
    for (size_t i = 0; i < *n; i++) {
        const char *name = (*out)[i];
        names[i] = name && i < n_genomes && genomes[i] ? without_genome(name, genomes[i]) : name;
        *n_prefixed += names[i] != name;
    }
    *out = names;
    return SCD_OK;
}

typedef struct column_names {
    size_t n_given; /* that are not empty */
    size_t n_good;  /* that the book knows; without one, that look like a name */
} column_names;

static scd_code count_known(const scd_gene_book *book, const char *const *names, size_t n,
                            scd_arena *arena, size_t *n_known, scd_error *err)
{
    int32_t *tokens = scd_arena_alloc(arena, n, sizeof *tokens);
    scd_rung *rungs = scd_arena_alloc(arena, n, sizeof *rungs);
    if (!tokens || !rungs)
        return scd_fail(err, SCD_E_NOMEM, "out of memory for %zu names of genes", n);
    scd_code code = book->resolve(book->arg, names, n, tokens, rungs, err);
    for (size_t i = 0; i < n && !code; i++)
        *n_known += tokens[i] >= 0;
    return code;
}

static scd_code count_names(scd_cells *file, const char *frame, const char *column,
                            const scd_gene_book *book, column_names *out, scd_error *err)
{
    scd_arena arena;
    const char *const *names = NULL;
    size_t n = 0, n_prefixed;
    *out = (column_names){0};
    scd_arena_init(&arena, NAMES_BYTES);
    scd_code code = scd_cells_gene_names(file, frame, column, &arena, &names, &n, &n_prefixed, err);
    const char **given = code ? NULL : scd_arena_alloc(&arena, n, sizeof *given);
    if (!code && !given)
        code = scd_fail(err, SCD_E_NOMEM, "%s: %s: out of memory", scd_cells_path(file), frame);
    for (size_t i = 0; i < n && !code; i++) {
        if (!names[i] || !names[i][0])
            continue;
        given[out->n_given++] = names[i];
        out->n_good += !book && is_name(names[i]);
    }
    if (!code && book)
        code = count_known(book, given, out->n_given, &arena, &out->n_good, err);
    scd_arena_release(&arena);
    return code;
}

static scd_code done(scd_cells *file, const char *frame, const char *column, size_t n_known,
                     const scd_gene_book *book, scd_arena *arena, scd_cells_genes *out,
                     scd_error *err)
{
    char why[512];
    size_t n = scd_cells_frame_rows(file, frame);
    int length = snprintf(why, sizeof why,
                          book ? "genes from %s[%s], %zu of %zu known" : "genes from %s[%s]", frame,
                          column ? column : "index", n_known, n);
    *out = (scd_cells_genes){.column = column, .n_known = n_known};
    if (column)
        out->column = scd_arena_strndup(arena, column, strlen(column));
    out->why = scd_arena_strndup(arena, why, length < 0 ? 0 : strlen(why));
    if (!out->why || (column && !out->column))
        return scd_fail(err, SCD_E_NOMEM, "%s: %s: out of memory", scd_cells_path(file), frame);
    return SCD_OK;
}

/* Columns of other names, where the usual ones hold little that the book knows. */
static scd_code look_elsewhere(scd_cells *file, const char *frame, const scd_gene_book *book,
                               column_names *most, const char **best, scd_error *err)
{
    for (size_t i = 0; i < scd_cells_n_columns(file, frame) && i < MAX_OTHERS; i++) {
        column_names names;
        const char *column = scd_cells_column_name(file, frame, i);
        bool is_usual = false;
        for (size_t k = 0; k < N_USUAL && !is_usual; k++)
            is_usual = usual[k] && strcmp(column, usual[k]) == 0;
        if (is_usual)
            continue;
        scd_code code = count_names(file, frame, column, book, &names, err);
        if (code == SCD_E_NOMEM)
            return code;
        if (!code && names.n_good > most->n_good) {
            *most = names;
            *best = column;
        }
    }
    return SCD_OK;
}

scd_code scd_cells_genes_choose(scd_cells *file, const char *frame, const char *named,
                                const scd_gene_book *book, scd_arena *arena, scd_cells_genes *out,
                                scd_error *err)
{
    column_names names, most = {0};
    const char *best = NULL;
    if (named) {
        /* the index is called so by everyone, whatever its name in the file */
        bool index = !find_column(file, frame, named) &&
                     (strcmp(named, "index") == 0 || strcmp(named, "_index") == 0);
        const char *column = index ? NULL : named;
        scd_code code = count_names(file, frame, column, book, &names, err);
        return code ? code : done(file, frame, column, names.n_good, book, arena, out, err);
    }
    for (size_t i = 0; i < N_USUAL; i++) {
        const char *column = usual[i] ? find_column(file, frame, usual[i]) : NULL;
        if (usual[i] && !column)
            continue;
        scd_code code = count_names(file, frame, column, book, &names, err);
        if (code == SCD_E_NOMEM || (code && !usual[i]))
            return code; /* a column that cannot be read is not taken; the index has to be */
        bool first = !book && !most.n_given; /* where all are numbers, the first that is filled */
        if (!code && (names.n_good > most.n_good || (first && names.n_given))) {
            most = names;
            best = column;
        }
    }
    if (book && 2 * most.n_good < scd_cells_frame_rows(file, frame)) {
        scd_code code = look_elsewhere(file, frame, book, &most, &best, err);
        if (code)
            return code;
    }
    if (book && !most.n_good) { /* what to show of the names, then, is the column that looks best */
        scd_code code = scd_cells_genes_choose(file, frame, NULL, NULL, arena, out, err);
        return code ? code : done(file, frame, out->column, 0, book, arena, out, err);
    }
    return done(file, frame, best, most.n_good, book, arena, out, err);
}
