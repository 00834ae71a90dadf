/* resolve.c - the name table and the rungs on which a gene name becomes a token.
 *
 * Names come from requests but are never inserted at run time, so the table needs no secret seed:
 * the longest probe is fixed by genes.tsv. The common case (exact symbol or Ensembl id) is one
 * look-up; the other rungs live in a function of their own, off the hot path.
 *
 * Threads: any once the vocabulary is parsed. Owns: nothing, see vocab.c. */
#include "engine/base/mem.h"
#include "engine/model/vocab_impl.h"

#include <assert.h>
#include <string.h>

/* ---- the table ------------------------------------------------------------------------------- */

static inline uint64_t mix(uint64_t a, uint64_t b)
{
    __extension__ typedef unsigned __int128 u128;
    u128 product = (u128)a * b;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

static inline uint64_t load64(const char *at)
{
    uint64_t word;
    memcpy(&word, at, sizeof word);
    return word;
}

static inline uint64_t load32(const char *at)
{
    uint32_t word;
    memcpy(&word, at, sizeof word);
    return word;
}

/* Multiply and fold (the construction of wyhash); overlapping loads instead of a byte loop. */
static inline uint64_t hash_name(const char *text, size_t n)
{
    uint64_t h = n * UINT64_C(0x9E3779B97F4A7C15);
    const uint64_t k = UINT64_C(0xA0761D6478BD642F);
    if (n >= 8) {
        for (size_t i = 0; i + 8 < n; i += 8)
            h = mix(h ^ load64(text + i), k);
        return mix(h ^ load64(text + n - 8), k);
    }
    if (n >= 4)
        return mix(h ^ (load32(text) << 32 | load32(text + n - 4)), k);
    uint64_t word = 0;
    for (size_t i = 0; i < n; i++)
        word = word << 8 | (unsigned char)text[i];
    return mix(h ^ word, k);
}

bool scd_names_reserve(scd_vocab *vocab, size_t n_names, size_t text_bytes)
{
    size_t slots = 16;
    while (slots < 2 * n_names)
        slots *= 2;
    /* Offset 0 means "none"; a record has its head, a NUL and up to 3 bytes of padding. */
    size_t cap = 8 + text_bytes + n_names * (offsetof(scd_name, text) + 4);
    vocab->slots = scd_calloc(slots, sizeof *vocab->slots);
    vocab->pool = scd_malloc(cap, 1);
    vocab->pool_cap = cap;
    vocab->pool_bytes = 8;
    vocab->mask = slots - 1;
    return vocab->slots && vocab->pool;
}

static inline scd_name *record(const scd_vocab *vocab, uint32_t at)
{
    return (scd_name *)(void *)(vocab->pool + at);
}

scd_name *scd_names_find(const scd_vocab *vocab, const char *text, size_t n)
{
    uint64_t h = hash_name(text, n);
    uint32_t tag = (uint32_t)(h >> 32);
    for (size_t i = h & vocab->mask;; i = (i + 1) & vocab->mask) {
        scd_name_slot slot = vocab->slots[i];
        if (!slot.at)
            return NULL;
        if (slot.tag != tag)
            continue;
        scd_name *name = record(vocab, slot.at);
        if (name->n == n && !memcmp(name->text, text, n))
            return name;
    }
}

uint32_t scd_names_add(scd_vocab *vocab, const char *text, size_t n, int32_t token, scd_rung rung)
{
    size_t bytes = (offsetof(scd_name, text) + n + 1 + 3) & ~(size_t)3;
    assert(n <= SCD_NAME_MAX && bytes <= vocab->pool_cap - vocab->pool_bytes);
    uint32_t at = (uint32_t)vocab->pool_bytes;
    scd_name *name = record(vocab, at);
    name->token = token;
    name->n = (uint16_t)n;
    name->rung = (uint8_t)rung;
    memcpy(name->text, text, n);
    name->text[n] = '\0';
    vocab->pool_bytes += bytes;

    uint64_t h = hash_name(text, n);
    size_t i = h & vocab->mask;
    while (vocab->slots[i].at)
        i = (i + 1) & vocab->mask;
    vocab->slots[i] = (scd_name_slot){(uint32_t)(h >> 32), at};
    return at;
}

/* ---- the rungs ------------------------------------------------------------------------------- */

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static bool is_upper(char c)
{
    return c >= 'A' && c <= 'Z';
}

static bool is_lower(char c)
{
    return c >= 'a' && c <= 'z';
}

bool scd_is_ensembl(const char *text, size_t n)
{
    if (n < 5 || memcmp(text, "ENS", 3))
        return false;
    size_t i = 3;
    while (i < n && is_upper(text[i]))
        i++;
    if (text[i - 1] != 'G' || i == n)
        return false;
    while (i < n && is_digit(text[i]))
        i++;
    return i == n;
}

size_t scd_ensembl_stem(const char *text, size_t n)
{
    size_t stem = n;
    while (stem && is_digit(text[stem - 1]))
        stem--;
    if (stem == n || !stem || text[stem - 1] != '.' || !scd_is_ensembl(text, stem - 1))
        return n;
    return stem - 1;
}

/* Exact symbols and Ensembl ids only. */
static const scd_name *find_exact(const scd_vocab *vocab, const char *text, size_t n)
{
    const scd_name *name = scd_names_find(vocab, text, n);
    return name && name->rung <= SCD_RUNG_ENSEMBL ? name : NULL;
}

/* SYMBOL_ENSG..., or ENSG..._SYMBOL, with or without version. The Ensembl id decides where the
 * model has it: it is the stable one of the two; an id that was retired leaves the symbol. */
static const scd_name *find_composite(const scd_vocab *vocab, const char *text, size_t n)
{
    const char *last = memrchr(text, '_', n), *first = memchr(text, '_', n);
    if (!last)
        return NULL;
    const char *id = last + 1, *symbol = text;
    size_t id_n = (size_t)(text + n - id), symbol_n = (size_t)(last - text);
    size_t stem = scd_ensembl_stem(id, id_n);
    if (!scd_is_ensembl(id, stem)) {
        id = text;
        id_n = (size_t)(first - text);
        symbol = first + 1;
        symbol_n = n - id_n - 1;
        stem = scd_ensembl_stem(id, id_n);
        if (!scd_is_ensembl(id, stem))
            return NULL;
    }
    const scd_name *name = find_exact(vocab, id, stem);
    return name ? name : find_exact(vocab, symbol, symbol_n);
}

static int32_t __attribute__((noinline))
resolve_further(const scd_vocab *vocab, const char *text, size_t n, const scd_name *alias,
                scd_rung *rung)
{
    size_t stem = scd_ensembl_stem(text, n);
    const scd_name *name = stem < n ? find_exact(vocab, text, stem) : NULL;
    *rung = SCD_RUNG_VERSIONED;
    if (!name) {
        name = find_composite(vocab, text, n);
        *rung = SCD_RUNG_COMPOSITE;
    }
    if (!name) {
        name = alias;
        *rung = alias ? (scd_rung)alias->rung : SCD_RUNG_UNKNOWN;
    }
    return name ? name->token : -1;
}

/* ENSG00000187608.15, as whole files name their genes: the exact look-up would miss for sure, since
 * ids are kept without version, unless some symbol looks like that. The length to look up first. */
static inline size_t versioned_stem(const scd_vocab *vocab, const char *text, size_t n)
{
    if (n < 8 || memcmp(text, "ENS", 3) || vocab->versioned_symbols ||
        (text[n - 2] != '.' && text[n - 3] != '.'))
        return n;
    return scd_ensembl_stem(text, n);
}

int32_t scd_vocab_resolve(const scd_vocab *vocab, const char *text, size_t n, scd_rung *rung)
{
    const scd_name *name;
    size_t stem = versioned_stem(vocab, text, n);
    if (stem < n && (name = find_exact(vocab, text, stem))) {
        *rung = SCD_RUNG_VERSIONED;
        return name->token;
    }
    name = scd_names_find(vocab, text, n);
    if (name && name->rung <= SCD_RUNG_ENSEMBL) {
        *rung = (scd_rung)name->rung;
        return name->token;
    }
    return resolve_further(vocab, text, n, name, rung);
}

void scd_vocab_resolve_all(const scd_vocab *vocab, const char *const *texts, const size_t *lengths,
                           size_t n, int32_t *tokens, scd_rung *rungs)
{
    enum { AHEAD = 32 }; /* look-ups in flight; each block first touches its slots, then records */
    for (size_t first = 0; first < n; first += AHEAD) {
        size_t stop = n - first < AHEAD ? n : first + AHEAD;
        const scd_name_slot *slots[AHEAD];
        for (size_t i = first; i < stop; i++) {
            size_t stem = versioned_stem(vocab, texts[i], lengths[i]);
            slots[i - first] = &vocab->slots[hash_name(texts[i], stem) & vocab->mask];
            __builtin_prefetch(slots[i - first]);
        }
        for (size_t i = first; i < stop; i++)
            __builtin_prefetch(vocab->pool + slots[i - first]->at);
        for (size_t i = first; i < stop; i++)
            tokens[i] = scd_vocab_resolve(vocab, texts[i], lengths[i], &rungs[i]);
    }
}

const char *scd_rung_name(scd_rung rung)
{
    static const char *const names[SCD_N_RUNGS] = {
        [SCD_RUNG_SYMBOL] = "symbol",       [SCD_RUNG_ENSEMBL] = "ensembl_id",
        [SCD_RUNG_VERSIONED] = "versioned", [SCD_RUNG_COMPOSITE] = "composite",
        [SCD_RUNG_ALIAS] = "alias",         [SCD_RUNG_ORTHOLOG] = "ortholog",
        [SCD_RUNG_AMBIGUOUS] = "ambiguous", [SCD_RUNG_UNKNOWN] = "unknown",
    };
    return (size_t)rung < SCD_N_RUNGS ? names[rung] : "unknown";
}

/* ---- mouse names on a human model ------------------------------------------------------------ */

/* Gapdh, Cd3d, H2-k1: a capital, then no further capital and at least one small letter. */
static bool is_title_case(const char *text, size_t n)
{
    bool small = false;
    for (size_t i = 1; i < n; i++) {
        if (is_upper(text[i]))
            return false;
        small = small || is_lower(text[i]);
    }
    return n > 1 && is_upper(text[0]) && small;
}

bool scd_vocab_looks_mouse(const scd_vocab *vocab, const char *text, size_t n)
{
    if (n > SCD_NAME_MAX)
        return false;
    scd_rung rung;
    if (scd_vocab_resolve(vocab, text, n, &rung) >= 0)
        return false;
    if (n > 7 && !memcmp(text, "ENSMUSG", 7) && is_digit(text[7]))
        return true;
    if (!is_title_case(text, n))
        return false;
    char capitals[SCD_NAME_MAX];
    for (size_t i = 0; i < n; i++)
        capitals[i] = (char)(is_lower(text[i]) ? text[i] - 'a' + 'A' : text[i]);
    return scd_vocab_resolve(vocab, capitals, n, &rung) >= 0;
}
