/* confined_wire.h - what goes over the socket between a confined reader and its parent.
 *
 * A message is a head and so many bytes: numbers as they are in memory, texts as a length (NO_TEXT:
 * none) and bytes. Requests are small; answers carry an error or the data.
 *
 * Threads: one at a time. Owns: nothing. */
#ifndef SCD_API_CONFINED_WIRE_H
#define SCD_API_CONFINED_WIRE_H

#include "api/cells.h"
#include "engine/base/buf.h"

#include <sys/types.h>

enum { SCD_WIRE_FD = 3, SCD_WIRE_MAX_REQUEST = 1 << 16, SCD_WIRE_MAX_FRAMES = 128 };
#define SCD_WIRE_MAX_ANSWER ((size_t)1 << 32)
#define SCD_WIRE_NO_TEXT UINT32_MAX

typedef enum scd_wire_op {
    SCD_WIRE_OPEN,      /* path, memory, file bytes -> snapshot */
    SCD_WIRE_ROWS,      /* matrix, first, n -> n, n entries, indptr, indices, data */
    SCD_WIRE_TEXT,      /* frame, column -> n, texts */
    SCD_WIRE_CATEGORIES /* frame, column -> n, n categories, codes, texts */
} scd_wire_op;

/* This very program again, with one argument: it finds the other end of *fd at SCD_WIRE_FD. No
 * thread is copied. SCD_E_INTERNAL: it could not be started. */
scd_code scd_wire_start(const char *argument, pid_t *child, int *fd, scd_error *err);

/* Of a request `what` is the op, of an answer the code; an answer with a code holds the message. */
typedef struct scd_wire_head {
    uint32_t what, magic;
    uint64_t n_bytes;
} scd_wire_head;
#define SCD_WIRE_MAGIC UINT32_C(0x5ce115)

/* Appending. */
void scd_wire_put_u64(scd_buf *out, uint64_t value);
void scd_wire_put_text(scd_buf *out, const char *text); /* NULL is kept */

/* Taking apart; after the first failure everything fails. */
typedef struct scd_wire_in {
    const char *at, *end;
    bool failed;
} scd_wire_in;
uint64_t scd_wire_get_u64(scd_wire_in *in);
/* In the arena; NULL: none (or failed). */
const char *scd_wire_get_text(scd_wire_in *in, scd_arena *arena);
/* n elements of `size` bytes each, copied into the arena; NULL: failed. */
const void *scd_wire_get_array(scd_wire_in *in, uint64_t n, size_t size, scd_arena *arena);

#endif
