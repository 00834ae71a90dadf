/* page.h - the files of the web page (api/web/), linked into the program.
 *
 * Threads: any; constant. */
#ifndef SCD_API_PAGE_H
#define SCD_API_PAGE_H

#include <stddef.h>

typedef struct scd_page_file {
    const char *name, *type; /* type: its Content-Type */
    const char *bytes, *end;
} scd_page_file;

/* NULL: there is none of this name. */
const scd_page_file *scd_page_find(const char *name);
/* The i-th of all; NULL past the last one. */
const scd_page_file *scd_page_at(size_t i);

#endif
