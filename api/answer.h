/* answer.h - the list answer of the /v1 routes as JSON, from plain data.
 *
 *     {"object":"list","model":{...},"head":{...},"data":[ITEM, ...],"usage":{...},
 *      "warnings":[...],"sample_id":...,"external_ids":[...]}
 *
 * Called in the order begin, items in the order of the request's cells, end; an item is item_begin,
 * its result (scd_answer_embedding, scd_answer_annotation), item_end. Nothing is kept back:
 * everything is appended to the caller's buffer at once, whose `failed` tells in the end whether it
 * was large enough.
 *
 * Threads: one at a time. Owns: nothing. */
#ifndef SCD_API_ANSWER_H
#define SCD_API_ANSWER_H

#include "api/problem.h"
#include "api/text.h"
#include "engine/base/buf.h"
#include "engine/denoise/head.h"

#include <stdint.h>

typedef enum scd_encoding {
    SCD_ENCODING_FLOAT, /* shortest decimals that read back to the same float32 */
    SCD_ENCODING_BASE64 /* of the little-endian float32, RFC 4648 */
} scd_encoding;

typedef struct scd_answer {
    scd_buf *out;
    size_t n_items;
} scd_answer;

typedef struct scd_answer_head { /* which one was used, and how */
    const char *name, *digest_hex;
    double threshold; /* NAN: left out */
} scd_answer_head;

typedef struct scd_answer_begin_args {
    const char *model_name, *model_digest_hex;
    const scd_answer_head *head; /* NULL: left out */
} scd_answer_begin_args;

typedef struct scd_answer_item {
    size_t index; /* of the cell in the request */
    scd_text id;  /* n == 0: null */
    size_t tokens, genes_known, genes_unknown, genes_truncated;
    bool leaves_out;     /* the model has genes that it does not use: */
    size_t genes_unused; /* expressed ones among them */
    const char *cache;   /* "hit", "miss" or "coalesced" */
} scd_answer_item;

/* What a head says about a cell. */
typedef struct scd_annotation {
    const scd_head_label *labels; /* (n_labels) */
    const float *probabilities;   /* (n_labels) */
    size_t n_labels;
    size_t genes_unused; /* expressed genes that the head's training data did not measure */
    size_t top_k;        /* how many are listed, 1 to n_labels */
    double threshold;    /* below it the best label is called unknown */
    uint64_t *order;     /* (n_labels) scratch */
} scd_annotation;

/* Fills order with the labels' indices: the most probable first, of equals the one that the head
 * lists first. Then: is the first one's probability below the threshold? */
void scd_annotation_sort(const scd_annotation *annotation);
bool scd_annotation_is_unknown(const scd_annotation *annotation);

/* In place of a bad cell, with "on_error": "skip". */
typedef struct scd_answer_error {
    size_t index;
    scd_text id;
    scd_problem_kind kind;
    const char *detail, *pointer; /* pointer NULL: left out */
} scd_answer_error;

typedef struct scd_warning {
    const char *code;   /* stable, for programs: "genes-unknown" */
    const char *detail; /* for people */
} scd_warning;

typedef struct scd_answer_end_args {
    size_t cells, tokens, cached; /* usage: cells answered, their tokens, how many from the cache */
    const scd_warning *warnings;
    size_t n_warnings;
    scd_text sample_id, external_ids;            /* raw JSON; n == 0: left out */
    void (*write_more)(scd_buf *out, void *arg); /* members behind "data"; NULL: none */
    void *more_arg;
} scd_answer_end_args;

void scd_answer_begin(scd_answer *answer, scd_buf *out, const scd_answer_begin_args *args);
void scd_answer_item_begin(scd_answer *answer, const scd_answer_item *item);
void scd_answer_item_end(scd_answer *answer);

/* ,"embedding":[...] */
void scd_answer_embedding(scd_answer *answer, scd_encoding encoding, const float *values, size_t n);
/* ,"label":...,"ontology_id":...,"probability":...,"unknown":...,"top":[...]: the most probable
 * first, of equals the one that the head lists first. */
void scd_answer_annotation(scd_answer *answer, const scd_annotation *annotation);

void scd_answer_error_write(scd_answer *answer, const scd_answer_error *error);
void scd_answer_end(scd_answer *answer, const scd_answer_end_args *args);

/* {"name":...,"digest":...}, and [{"code","detail"}, ...]: for answers that are no lists of cells.
 */
void scd_answer_model(scd_buf *out, const char *name, const char *digest_hex);
void scd_answer_warnings(scd_buf *out, const scd_warning *warnings, size_t n);

/* "float" or "base64"; false: neither. */
bool scd_encoding_parse(scd_text text, scd_encoding *out);

#endif
