/* confined.h - a stranger's file, read by a process of its own that can do nothing else.
 *
 * libhdf5 does not stand up to any bytes whatever: a damaged file can crash it, or keep it busy for
 * ever. The file is therefore opened by a child, which hands over matrices and names as plain
 * numbers and text through a socket; api/cells.h works on it as on any other file. What comes back
 * is checked here once more. Before it opens the file the child enters a sandbox (api/sandbox.h)
 * with the file itself for reading and $TMPDIR for writing, and the parent kills it when a request
 * takes longer than a file of this size can take. Whatever becomes of it is an error of this file:
 * SCD_E_CORRUPT crashed or too long, with what it was.
 *
 * The child is this very program again, with the argument SCD_CONFINED_ARGUMENT: a program that
 * reads so calls scd_confined_main first in its main. No thread of the parent is copied.
 *
 * Threads: any; one call at a time for each file. Owns: child and socket, until close. */
#ifndef SCD_API_CONFINED_H
#define SCD_API_CONFINED_H

#include "api/cells.h"

#define SCD_CONFINED_ARGUMENT "--confined-reader"

typedef struct scd_confinement {
    size_t memory_bytes;           /* of the child's address space; 0: half of the
                                      machine's memory, from 2 to 8 GB */
    uint64_t file_bytes;           /* of a file that it writes in $TMPDIR; 0: no bound */
    double seconds, mb_per_second; /* a request may take seconds + size / mb_per_second;
                                      0: 60, 0.5 */
    /* Asked several times a second while it is waited for; true: SCD_E_CANCELED. May be NULL. */
    bool (*is_unwanted)(void *arg);
    void *arg;
} scd_confinement;

/* limits NULL: the defaults. SCD_E_INTERNAL: the child could not be started. */
scd_code scd_cells_open_confined(const char *path, const scd_confinement *limits, scd_cells **out,
                                 scd_error *err);

/* Is this process such a child? Then it serves its parent and *status is what main returns. */
bool scd_confined_main(int argc, char **argv, int *status);

#endif
