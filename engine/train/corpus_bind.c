/* corpus_bind.c - every file's genes become tokens, once: by the column whose names the vocabulary
 * knows best, unless the user named one.
 *
 * A list of a thousand files has few different lists of genes: those that resolve alike share one
 * map.
 *
 * Threads: one at a time. Owns: nothing; maps belong to the corpus. */
#include "engine/train/corpus_impl.h"

#include "api/cells_genes.h"
#include "engine/base/buf.h"
#include "engine/base/mem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { N_EXAMPLES = 4 };

static void free_map(scd_corpus_map *map)
{
    if (!map)
        return;
    free(map->tokens);
    free(map->panel);
    free(map);
}

void scd_corpus_unbind(scd_corpus *corpus)
{
    for (size_t i = 0; i < corpus->n_maps; i++)
        free_map(corpus->maps[i]);
    free(corpus->maps);
    free(corpus->sums);
    free(corpus->seen);
    free(corpus->met);
    for (size_t i = 0; i < corpus->n_files; i++)
        corpus->files[i].map = NULL;
    corpus->maps = NULL;
    corpus->sums = NULL;
    corpus->seen = corpus->met = NULL;
    corpus->n_maps = corpus->n_ids = 0;
    corpus->vocab = NULL;
}

static int by_token(const void *a, const void *b)
{
    int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    return (x > y) - (x < y);
}

/* The map for these tokens: one that is there, or a new one. */
static scd_code share_map(scd_corpus *corpus, const int32_t *tokens, size_t n, scd_corpus_map **out,
                          scd_error *err)
{
    for (size_t i = corpus->n_maps; i-- > 0;) {
        scd_corpus_map *map = corpus->maps[i];
        if (map->n_columns == n && !memcmp(map->tokens, tokens, n * sizeof *tokens)) {
            *out = map;
            return SCD_OK;
        }
    }
    scd_corpus_map *map = scd_calloc(1, sizeof *map);
    if (!map || !(map->tokens = scd_malloc(n, sizeof *tokens)) ||
        !(map->panel = scd_malloc(n, sizeof *tokens))) {
        free_map(map);
        return scd_fail(err, SCD_E_NOMEM, "corpus: out of memory for %zu genes", n);
    }
    map->n_columns = n;
    memcpy(map->tokens, tokens, n * sizeof *tokens);
    memcpy(map->panel, tokens, n * sizeof *tokens);
    qsort(map->panel, n, sizeof *map->panel, by_token);
    for (size_t i = 0; i < n; i++)
        if (map->panel[i] >= 0 && (!map->n_panel || map->panel[map->n_panel - 1] < map->panel[i]))
            map->panel[map->n_panel++] = map->panel[i];
    corpus->maps[corpus->n_maps++] = *out = map;
    return SCD_OK;
}

/* Too little of the file's genes is known: say which are not. */
static scd_code refuse(const scd_corpus *corpus, const scd_corpus_file *f,
                       const scd_gene_name *names, const int32_t *tokens, size_t n, size_t n_known,
                       double min_mapped, scd_error *err)
{
    char examples[256] = "";
    size_t at = 0, shown = 0, n_mouse = 0;
    for (size_t i = 0; i < n; i++) {
        const char *text = names[i].text ? names[i].text : "(no name)";
        if (tokens[i] >= 0)
            continue;
        n_mouse += scd_vocab_looks_mouse(corpus->vocab, text, strlen(text));
        if (shown < N_EXAMPLES) {
            int put =
                snprintf(examples + at, sizeof examples - at, "%s%.40s", shown ? ", " : "", text);
            at += put > 0 ? (size_t)put : 0; /* N_EXAMPLES of them fit */
            shown++;
        }
    }
    bool mouse = scd_vocab_is_human(corpus->vocab) && 2 * n_mouse > n - n_known;
    return scd_fail(
        err, SCD_E_INVALID,
        "%s: the vocabulary knows %zu of the %zu genes in %s/%s, at least %g %% must be "
        "known; unknown are %s%s%s",
        f->path, n_known, n, f->frame, scd_corpus_column_label(f->gene_column), 100 * min_mapped,
        examples, n - n_known > shown ? ", ..." : "",
        mouse ? ": these are mouse genes, the vocabulary is human" : "");
}

/* Where a file has ids they decide: symbols may be shared by several genes, and change. What the
 * vocabulary does not know by its id it may know as it is written, or by a symbol of its own. */
static scd_code resolve(const scd_vocab *vocab, const scd_gene_name *names, size_t n,
                        scd_arena *arena, int32_t *tokens, scd_error *err)
{
    const char **texts = scd_arena_alloc(arena, n, sizeof *texts);
    size_t *lengths = scd_arena_alloc(arena, n, sizeof *lengths);
    scd_rung *rungs = scd_arena_alloc(arena, n, sizeof *rungs);
    if (!texts || !lengths || !rungs)
        return scd_fail(err, SCD_E_NOMEM, "out of memory for the names of %zu genes", n);
    for (size_t i = 0; i < n; i++) {
        texts[i] = names[i].id ? names[i].id : names[i].text ? names[i].text : "";
        lengths[i] = strlen(texts[i]);
    }
    scd_vocab_resolve_all(vocab, texts, lengths, n, tokens, rungs);
    for (size_t i = 0; i < n; i++) {
        const char *others[] = {names[i].text, names[i].symbol};
        for (size_t k = 0; k < 2 && tokens[i] < 0; k++)
            if (others[k] && others[k] != texts[i])
                tokens[i] = scd_vocab_resolve(vocab, others[k], strlen(others[k]), &rungs[i]);
    }
    return SCD_OK;
}

/* The column that the vocabulary knows best takes the place of the one that looked best without it;
 * where it knows none, examples of unknown names come from that one. */
static scd_code choose_column(scd_corpus *corpus, scd_corpus_file *f, scd_cells *handle,
                              scd_arena *arena, scd_error *err)
{
    scd_cells_genes genes;
    scd_buf why;
    scd_gene_book book = scd_gene_book_of(corpus->vocab);
    if (f->column_is_given)
        return SCD_OK;
    scd_code code = scd_cells_genes_choose(handle, f->frame, NULL, &book, arena, &genes, err);
    if (code || !genes.n_known)
        return code;
    scd_buf_init(&why, 1 << 16);
    scd_buf_printf(&why, "%s; %s", f->matrix_why, genes.why);
    const char *text = why.failed ? NULL : scd_corpus_keep_text(corpus, why.data);
    const char *column = scd_corpus_keep_text(corpus, genes.column);
    scd_buf_release(&why);
    if (!text || (genes.column && !column))
        return scd_fail(err, SCD_E_NOMEM, "%s: out of memory", f->path);
    f->why = text;
    f->gene_column = column;
    return SCD_OK;
}

static scd_code bind_file(scd_corpus *corpus, size_t file, double min_mapped, scd_arena *arena,
                          scd_error *err)
{
    scd_corpus_file *f = &corpus->files[file];
    const scd_gene_name *names;
    size_t n, n_known = 0;
    scd_corpus_map *map = NULL;
    scd_cells *handle;
    scd_code code;
    if ((code = scd_corpus_handle(corpus, file, &handle, err)) ||
        (code = choose_column(corpus, f, handle, arena, err)) ||
        (code = scd_corpus_gene_names(corpus, file, arena, &names, &n, err)))
        return code;
    int32_t *tokens = scd_arena_alloc(arena, n, sizeof *tokens);
    if (!tokens)
        return scd_fail(err, SCD_E_NOMEM, "%s: out of memory for %zu genes", f->path, n);
    if ((code = resolve(corpus->vocab, names, n, arena, tokens, err)))
        return code;
    for (size_t i = 0; i < n; i++) {
        n_known += tokens[i] >= 0;
        if (tokens[i] >= 0 && (size_t)tokens[i] >= corpus->n_ids)
            corpus->n_ids = (size_t)tokens[i] + 1;
    }
    if (!n_known || (double)n_known < min_mapped * (double)n)
        return refuse(corpus, f, names, tokens, n, n_known, min_mapped, err);
    code = share_map(corpus, tokens, n, &map, err);
    f->map = map;
    return code;
}

scd_code scd_corpus_bind(scd_corpus *corpus, const scd_vocab *vocab, double min_mapped,
                         scd_error *err)
{
    scd_code code = SCD_OK;
    scd_corpus_unbind(corpus);
    corpus->vocab = vocab;
    corpus->maps = scd_calloc(corpus->n_files, sizeof *corpus->maps);
    if (!corpus->maps)
        code = scd_fail(err, SCD_E_NOMEM, "corpus: out of memory");
    for (size_t i = 0; i < corpus->n_files && !code; i++) {
        scd_arena arena;
        scd_arena_init(&arena, SIZE_MAX / 2);
        code = bind_file(corpus, i, min_mapped, &arena, err);
        scd_arena_release(&arena);
    }
    size_t n_words = corpus->n_ids / 64 + 1;
    if (!code && (!(corpus->sums = scd_calloc(corpus->n_ids, sizeof *corpus->sums)) ||
                  !(corpus->seen = scd_calloc(n_words, sizeof *corpus->seen)) ||
                  !(corpus->met = scd_calloc(n_words, sizeof *corpus->met))))
        code = scd_fail(err, SCD_E_NOMEM, "corpus: out of memory for %zu genes", corpus->n_ids);
    if (code)
        scd_corpus_unbind(corpus);
    return code;
}

const int32_t *scd_corpus_panel(const scd_corpus *corpus, size_t file, size_t *n)
{
    const scd_corpus_map *map = corpus->files[file].map;
    *n = map ? map->n_panel : 0;
    return map ? map->panel : NULL;
}
