/* answer.h - the list answer of the /v1 routes as JSON, from plain data.
 *
 *     {"object":"list","model":{...},"data":[ITEM, ...],"usage":{...},"warnings":[...],
 *      "sample_id":...,"external_ids":[...]}
 *
 * Called in the order begin, items in the order of the request's cells, end. Nothing is kept back:
 * everything is appended to the caller's buffer at once, whose `failed` tells in the end whether it
 * was large enough.
 *
 * Threads: one at a time. Owns: nothing. */
#ifndef SCD_API_ANSWER_H
#define SCD_API_ANSWER_H

#include "api/problem.h"
#include "api/text.h"
#include "engine/base/buf.h"

typedef enum scd_encoding {
    SCD_ENCODING_FLOAT, /* shortest decimals that read back to the same float32 */
    SCD_ENCODING_BASE64 /* of the little-endian float32, RFC 4648 */
} scd_encoding;

typedef struct scd_answer {
    scd_buf *out;
    size_t n_items;
    scd_encoding encoding;
} scd_answer;

typedef struct scd_answer_item {
    size_t index; /* of the cell in the request */
    scd_text id;  /* n == 0: null */
    size_t tokens, genes_known, genes_unknown, genes_truncated;
    const char *cache;      /* "hit", "miss" or "coalesced" */
    const float *embedding; /* (dim) */
    size_t dim;
} scd_answer_item;

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
    scd_text sample_id, external_ids; /* raw JSON; n == 0: left out */
} scd_answer_end_args;

void scd_answer_begin(scd_answer *answer, scd_buf *out, scd_encoding encoding,
                      const char *model_name, const char *digest_hex);
void scd_answer_item_write(scd_answer *answer, const scd_answer_item *item);
void scd_answer_error_write(scd_answer *answer, const scd_answer_error *error);
void scd_answer_end(scd_answer *answer, const scd_answer_end_args *args);

/* {"name":...,"digest":...}, and [{"code","detail"}, ...]: for answers that are no lists of cells.
 */
void scd_answer_model(scd_buf *out, const char *name, const char *digest_hex);
void scd_answer_warnings(scd_buf *out, const scd_warning *warnings, size_t n);

/* "float" or "base64"; false: neither. */
bool scd_encoding_parse(scd_text text, scd_encoding *out);

#endif
