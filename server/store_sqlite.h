/* store_sqlite.h - what the writing and the reading half of the store's database share; included
 * by store_db*.c only, which keeps sqlite3.h out of the rest. */
#ifndef SCD_STORE_SQLITE_H
#define SCD_STORE_SQLITE_H

#include "engine/base/error.h"
#include "engine/base/hash.h"

#include <sqlite3.h>

/* "what: why", with the code that store_db.h promises for a result of SQLite. */
scd_code scd_sqlite_fail(sqlite3 *handle, int rc, const char *what, scd_error *err);

/* The first 8 bytes of SHA-256 over key and value. */
int64_t scd_sqlite_checksum(scd_hasher *hasher, const scd_digest *key, const void *bytes, size_t n);

#endif
