/* store_readers.h - a pool of read connections to the database: any thread takes one per get.
 *
 * Threads: get from any thread; open_all, close_all by the writer.
 * Owns:    its connections. */
#ifndef SCD_STORE_READERS_H
#define SCD_STORE_READERS_H

#include "server/store_db.h"

typedef struct scd_readers scd_readers;

/* Closed at first: every get is a miss. */
scd_code scd_readers_new(const char *path, scd_readers **out, scd_error *err);
void scd_readers_free(scd_readers *readers); /* NULL is fine */

/* Let gets through from now on; connections are made when they are needed. */
void scd_readers_open_all(scd_readers *readers);

/* Turn every get into a miss and close the connections. Waits for those in use to the deadline;
 * one that comes back later is closed then. */
void scd_readers_close_all(scd_readers *readers, int64_t deadline_ns);

/* Like scd_db_reader_get; *generation says which opening of the pool the result belongs to. */
scd_db_result scd_readers_get(scd_readers *readers, const scd_digest *key, scd_buf *value,
                              int64_t *last_used_ms, uint64_t *generation);
uint64_t scd_readers_generation(scd_readers *readers);

#endif
