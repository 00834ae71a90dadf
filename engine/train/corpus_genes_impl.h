/* corpus_genes_impl.h - the union of genes while it grows: corpus_genes.c fills it from the files,
 * corpus_table.c adds what a table of Ensembl ids knows. Nothing else includes this.
 *
 * Threads: one at a time. Owns: genes and maps; all text is in the arena. */
#ifndef SCD_TRAIN_CORPUS_GENES_IMPL_H
#define SCD_TRAIN_CORPUS_GENES_IMPL_H

#include "engine/train/corpus_impl.h"

typedef struct scd_gene_alias {
    const struct scd_gene_alias *next;
    const char *text;
} scd_gene_alias;

typedef struct scd_gene {
    const char *symbol; /* NULL: only the id is known */
    const char *id;     /* without version; NULL: not known */
    const scd_gene_alias *aliases;
    uint32_t source; /* the file that gave its id last, counted from 1 */
    bool is_merged;  /* it turned out to be another one, and counts no more */
} scd_gene;

typedef struct scd_union {
    scd_arena arena;
    scd_gene *genes;
    size_t n, n_room;
    scd_map by_symbol, by_id; /* -> number of the gene; symbols and aliases; all its ids */
} scd_union;

/* The gene of a name, or NULL; so for name NULL. */
scd_gene *scd_union_find(const scd_union *u, const scd_map *map, const char *name);
/* A copy that lives as long as the union; NULL: out of memory. */
const char *scd_union_copy(scd_union *u, const char *text);
/* Give a gene a symbol, or an alias where it has one; copies it. False: out of memory. */
bool scd_union_name(scd_union *u, scd_gene *gene, const char *symbol);
/* Give it an id, which becomes an alias where it has one; copies it. False: out of memory. */
bool scd_union_identify(scd_union *u, scd_gene *gene, const char *id);
/* `from` is `into`: its names move there. False: out of memory. */
bool scd_union_merge(scd_union *u, scd_gene *into, scd_gene *from);

/* corpus_table.c: ids for symbols without one, symbols for ids without one, and one gene for two
 * symbols of the same id. SCD_E_INVALID names the line. */
scd_code scd_union_fill(scd_union *u, const char *path, scd_error *err);

#endif
