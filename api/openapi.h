/* openapi.h - the text of api/openapi.json, linked into the program.
 *
 * Threads: any; constant. */
#ifndef SCD_API_OPENAPI_H
#define SCD_API_OPENAPI_H

extern const char scd_openapi_json[];
extern const char scd_openapi_json_end[]; /* one past the last byte */

#endif
