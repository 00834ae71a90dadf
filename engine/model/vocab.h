/* vocab.h - genes.tsv and how names resolve to tokens (SPEC sections 2 and 3).
 *
 * Threads: any after open (read only). Owns: its strings. */
#ifndef SCD_MODEL_VOCAB_H
#define SCD_MODEL_VOCAB_H

#include "engine/base/arena.h"
#include "engine/model/config.h"

typedef struct scd_vocab scd_vocab;

/* The rungs of resolution, in order; the first hit wins. */
typedef enum scd_rung {
    SCD_RUNG_SYMBOL,    /* exact symbol */
    SCD_RUNG_ENSEMBL,   /* exact Ensembl id */
    SCD_RUNG_VERSIONED, /* Ensembl id without its version */
    SCD_RUNG_COMPOSITE, /* SYMBOL_ENSG... */
    SCD_RUNG_ALIAS,     /* unique previous symbol or alias */
    SCD_RUNG_ORTHOLOG,  /* only when asked for, where the model has a table */
    SCD_RUNG_AMBIGUOUS, /* an alias of several genes: not used */
    SCD_RUNG_UNKNOWN,
    SCD_N_RUNGS
} scd_rung;

const char *scd_rung_name(scd_rung rung); /* "symbol", "ensembl_id", ... */

/* Parse the n bytes of genes.tsv; `config` bounds the ids. SCD_E_INVALID names the line. */
scd_code scd_vocab_parse(const char *tsv, size_t n, const scd_model_config *config,
                         scd_vocab **out, scd_error *err);
void scd_vocab_free(scd_vocab *vocab);

size_t scd_vocab_n_genes(const scd_vocab *vocab);
/* Borrowed; NULL where the vocabulary has none for this id. */
const char *scd_vocab_symbol(const scd_vocab *vocab, int32_t id);
const char *scd_vocab_ensembl(const scd_vocab *vocab, int32_t id);
/* H of the gene; 1 for a gene without one; has_entropies false: the model has none at all. */
float scd_vocab_entropy(const scd_vocab *vocab, int32_t id);
bool scd_vocab_has_entropies(const scd_vocab *vocab);
/* (ids) 0: a gene that has a token and is left out of every cell; NULL: none is. Borrowed. */
const uint8_t *scd_vocab_used(const scd_vocab *vocab);
size_t scd_vocab_n_used(const scd_vocab *vocab);
bool scd_vocab_is_human(const scd_vocab *vocab); /* most Ensembl ids ENSG, or symbols in capitals */

/* The token of a name, -1 when unknown or ambiguous; *rung says how (or why not). */
int32_t scd_vocab_resolve(const scd_vocab *vocab, const char *name, size_t n, scd_rung *rung);
/* The same for n names at once; look-ups overlap, which hides most of the memory's latency. */
void scd_vocab_resolve_all(const scd_vocab *vocab, const char *const *names, const size_t *lengths,
                           size_t n, int32_t *tokens, scd_rung *rungs);

/* Are these names mouse identifiers: ENSMUSG ids, or Title-case symbols of which most would be
 * known in capitals? n_unknown of them did not resolve. */
bool scd_vocab_looks_mouse(const scd_vocab *vocab, const char *name, size_t n);

#endif
