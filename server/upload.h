/* upload.h - a job's file on its way from the network to the disk.
 *
 *   POST   /v1/jobs?task=...   the whole file, or with Upload-Length its beginning
 *   PATCH  /v1/jobs/{id}       what follows, with Upload-Offset; as often as it takes
 *
 * Nothing is kept in memory. A job exists from the moment that its file's bytes are synced; 202
 * comes after that. What a broken POST sent is forgotten, of a broken PATCH what came is kept.
 *
 * Threads: http-N, then jobs-db, then http-N. Owns: the open file, until the exchange is over. */
#ifndef SCD_UPLOAD_H
#define SCD_UPLOAD_H

#include "server/daemon.h"

/* The headers are here: judge them, and take the body; or answer. */
void scd_upload_begin(scd_daemon *d, scd_exchange *x);

#endif
