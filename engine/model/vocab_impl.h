/* vocab_impl.h - the body of a vocabulary, shared by vocab.c (which fills it) and resolve.c (which
 * looks names up). Nothing else includes this.
 *
 * Every name - symbol, Ensembl id, alias - is one record of a pool; an open-addressing table of
 * (hash tag, record) leads to it. A look-up touches two cache lines: the slot, and the record with
 * token, rung and text side by side.
 *
 * Threads: read only once parsed. Owns: see scd_vocab_free. */
#ifndef SCD_MODEL_VOCAB_IMPL_H
#define SCD_MODEL_VOCAB_IMPL_H

#include "engine/model/vocab.h"

enum { SCD_NAME_MAX = 255 }; /* bytes of one name in genes.tsv */

typedef struct scd_name {
    int32_t token; /* -1: an alias of several genes */
    uint16_t n;
    uint8_t rung;
    char text[]; /* n bytes and a NUL */
} scd_name;

typedef struct scd_name_slot {
    uint32_t tag; /* upper half of the hash */
    uint32_t at;  /* byte offset of the record in the pool; 0: empty */
} scd_name_slot;

struct scd_vocab {
    size_t n_ids, n_genes;
    bool has_entropies, human;
    bool versioned_symbols;           /* some symbol is an Ensembl id with its version */
    uint32_t *symbol_at, *ensembl_at; /* (n_ids) record of the id's name, 0: none */
    float *entropy;                   /* (n_ids) */
    uint8_t *used;                    /* (n_ids); NULL: all are */
    size_t n_used;
    char *pool;
    size_t pool_bytes, pool_cap;
    scd_name_slot *slots;
    size_t mask; /* slots - 1; slots are a power of two, at most half full */
};

/* Room for n_names names of text_bytes bytes together. False: out of memory. */
bool scd_names_reserve(scd_vocab *vocab, size_t n_names, size_t text_bytes);

/* The record of a name, NULL when there is none. */
scd_name *scd_names_find(const scd_vocab *vocab, const char *text, size_t n);

/* Add a name that is not there yet; the record's offset. Room was reserved. */
uint32_t scd_names_add(scd_vocab *vocab, const char *text, size_t n, int32_t token, scd_rung rung);

/* ENS, perhaps a species, G, digits: ENSG00000187608, ENSMUSG00000035692. */
bool scd_is_ensembl(const char *text, size_t n);

/* The length of an Ensembl id without its version; n when there is no version. */
size_t scd_ensembl_stem(const char *text, size_t n);

#endif
