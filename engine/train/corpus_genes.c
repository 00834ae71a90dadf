/* corpus_genes.c - the union of the files' genes, as the text of a genes.tsv.
 *
 * A gene is known by its Ensembl id where it has one, else by its symbol; every further name that a
 * file or the table has for it becomes an alias. Two ids that share a symbol are two genes where
 * one file has both, and one gene (under an id that changed between releases) where different
 * files have them. Symbols that differ by case or punctuation stay different genes.
 *
 * Within a file, columns whose id is known are placed first, so that the order of its columns does
 * not matter.
 *
 * Threads: one at a time. Owns: scratch during the call; the text goes to the caller. */
#include "engine/train/corpus_genes_impl.h"

#include "engine/base/buf.h"
#include "engine/base/mem.h"

#include <stdlib.h>
#include <string.h>

enum { FIRST_GENE = 2, N_SPECIAL_BEHIND = 3, MAX_GENES = (1 << 24) - 5 };

/* ---- genes ----------------------------------------------------------------------------------- */

static scd_code no_memory(scd_error *err)
{
    return scd_fail(err, SCD_E_NOMEM, "out of memory for the union of the genes");
}

scd_gene *scd_union_find(const scd_union *u, const scd_map *map, const char *name)
{
    uint32_t at = name ? scd_map_get(map, name) : SCD_NO_VALUE;
    return at == SCD_NO_VALUE ? NULL : &u->genes[at];
}

const char *scd_union_copy(scd_union *u, const char *text)
{
    return scd_arena_strndup(&u->arena, text, strlen(text));
}

bool scd_union_name(scd_union *u, scd_gene *gene, const char *symbol)
{
    const char *copy = scd_union_copy(u, symbol);
    if (!copy || !scd_map_put(&u->by_symbol, copy, (uint32_t)(gene - u->genes)))
        return false;
    if (!gene->symbol) {
        gene->symbol = copy;
        return true;
    }
    if (!strcmp(gene->symbol, copy))
        return true;
    scd_gene_alias *alias = scd_arena_alloc(&u->arena, 1, sizeof *alias);
    if (!alias)
        return false;
    *alias = (scd_gene_alias){gene->aliases, copy};
    gene->aliases = alias;
    return true;
}

bool scd_union_identify(scd_union *u, scd_gene *gene, const char *id)
{
    const char *copy = scd_union_copy(u, id);
    if (!copy || !scd_map_put(&u->by_id, copy, (uint32_t)(gene - u->genes)))
        return false;
    if (gene->id) {
        const char *symbol = gene->symbol; /* the gene may have none; its id is no symbol of it */
        gene->symbol = symbol ? symbol : gene->id;
        bool ok = scd_union_name(u, gene, copy);
        gene->symbol = symbol;
        return ok;
    }
    gene->id = copy;
    return true;
}

bool scd_union_merge(scd_union *u, scd_gene *into, scd_gene *from)
{
    bool ok = !from->symbol || scd_union_name(u, into, from->symbol);
    for (const scd_gene_alias *a = from->aliases; a && ok; a = a->next)
        ok = scd_union_name(u, into, a->text);
    from->is_merged = true;
    return ok;
}

static scd_gene *new_gene(scd_union *u)
{
    if (u->n == u->n_room) {
        size_t room = u->n_room ? 2 * u->n_room : 1024;
        scd_gene *genes = scd_realloc(u->genes, room, sizeof *genes);
        if (!genes)
            return NULL;
        u->genes = genes;
        u->n_room = room;
    }
    u->genes[u->n] = (scd_gene){0};
    return &u->genes[u->n++];
}

/* One gene that `source` (a file's number and one, 0: nobody) names so. False: out of memory. */
static bool add_gene(scd_union *u, const char *symbol, const char *id, uint32_t source)
{
    scd_gene *gene = scd_union_find(u, &u->by_id, id);
    scd_gene *same = scd_union_find(u, &u->by_symbol, symbol);
    bool ok = true;
    if (gene) {
        if (same && same != gene && !same->id)
            ok = scd_union_merge(u, gene, same);
        else if (symbol && !same)
            ok = scd_union_name(u, gene, symbol);
    } else if (same && (!id || !same->id || same->source != source)) {
        gene = same;
        ok = !id || scd_union_identify(u, gene, id);
    } else {
        bool is_taken = same != NULL;
        gene = new_gene(u);
        ok = gene && (!symbol || is_taken || scd_union_name(u, gene, symbol)) &&
             (!id || scd_union_identify(u, gene, id));
    }
    if (ok && id)
        gene->source = source;
    return ok;
}

/* ---- files ----------------------------------------------------------------------------------- */

static scd_code add_file(scd_union *u, scd_corpus *corpus, size_t file, scd_error *err)
{
    const scd_corpus_file *f = &corpus->files[file];
    const scd_gene_name *names = NULL;
    size_t n = 0;
    scd_arena arena;
    scd_arena_init(&arena, SIZE_MAX / 2);
    scd_code code = scd_corpus_gene_names(corpus, file, &arena, &names, &n, err);
    uint8_t *is_known = code ? NULL : scd_arena_zalloc(&arena, n, sizeof *is_known);
    if (!code && !is_known)
        code = no_memory(err);
    for (size_t i = 0; i < n && !code; i++) {
        is_known[i] = scd_union_find(u, &u->by_id, names[i].id) != NULL;
        if (!names[i].text)
            code = scd_fail(err, SCD_E_INVALID,
                            "%s: %s/%s: the name of gene %zu is missing, or not 1 to %d printable "
                            "ASCII characters",
                            f->path, f->frame, scd_corpus_column_label(f->gene_column), i,
                            SCD_MAX_GENE_NAME);
    }
    for (int round = 0; round < 2 && !code; round++)
        for (size_t i = 0; i < n && !code; i++)
            if (is_known[i] == !round &&
                !add_gene(u, names[i].symbol, names[i].id, (uint32_t)file + 1))
                code = no_memory(err);
    if (!code && u->n > MAX_GENES)
        code =
            scd_fail(err, SCD_E_TOO_LARGE, "%s: more than %d genes together", f->path, MAX_GENES);
    scd_arena_release(&arena);
    return code;
}

/* ---- the text -------------------------------------------------------------------------------- */

static const char *shown_name(const scd_gene *gene)
{
    return gene->symbol ? gene->symbol : gene->id;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(shown_name(a), shown_name(b));
}

static scd_code write_genes(scd_union *u, scd_corpus_genes *out, scd_error *err)
{
    size_t n = 0;
    scd_buf text;
    scd_buf_init(&text, SIZE_MAX / 2);
    for (size_t i = 0; i < u->n; i++)
        if (!u->genes[i].is_merged)
            u->genes[n++] = u->genes[i];
    if (n)
        qsort(u->genes, n, sizeof *u->genes, by_name);
    scd_buf_puts(&text, "token_id\tsymbol\tensembl_id\taliases\n");
    for (size_t i = 0; i < n; i++) {
        const scd_gene *gene = &u->genes[i];
        scd_buf_printf(&text, "%zu\t%s\t%s\t", i + FIRST_GENE, shown_name(gene),
                       gene->id ? gene->id : "");
        const char *between = "";
        for (const scd_gene_alias *a = gene->aliases; a; a = a->next) {
            if (strchr(a->text, '|'))
                continue; /* the column cannot hold it */
            scd_buf_printf(&text, "%s%s", between, a->text);
            between = "|";
        }
        scd_buf_putc(&text, '\n');
    }
    if (text.failed) {
        scd_buf_release(&text);
        return no_memory(err);
    }
    out->vocab = FIRST_GENE + n + N_SPECIAL_BEHIND;
    out->n_bytes = text.n_bytes;
    out->tsv = scd_buf_take(&text);
    return SCD_OK;
}

scd_code scd_corpus_union(scd_corpus *corpus, const char *const *extra, size_t n_extra,
                          const char *table, scd_corpus_genes *out, scd_error *err)
{
    scd_code code = SCD_OK;
    scd_union u = {0};
    *out = (scd_corpus_genes){0};
    scd_arena_init(&u.arena, SIZE_MAX / 2);
    for (size_t i = 0; i < corpus->n_files && !code; i++)
        code = add_file(&u, corpus, i, err);
    for (size_t i = 0; i < n_extra && !code; i++) {
        scd_gene_name name;
        if (!scd_gene_is_usable(extra[i]))
            code = scd_fail(err, SCD_E_INVALID,
                            "further gene %zu: a name must be 1 to %d printable ASCII characters",
                            i, SCD_MAX_GENE_NAME);
        else if (!scd_gene_split(extra[i], &u.arena, &name) ||
                 !add_gene(&u, name.symbol, name.id, 0))
            code = no_memory(err);
    }
    if (!code && table)
        code = scd_union_fill(&u, table, err);
    if (!code)
        code = write_genes(&u, out, err);
    scd_map_release(&u.by_id);
    scd_map_release(&u.by_symbol);
    free(u.genes);
    scd_arena_release(&u.arena);
    return code;
}
