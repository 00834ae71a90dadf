/* sandbox.h - a process that gives up what it does not need, before it opens a stranger's file.
 *
 *   memory, size of files, core dump   rlimits; it is the first to go where memory is out
 *   files                              Landlock: what is named is read, one folder is written;
 *                                      where there is none (before Linux 5.13) it does without
 *   system calls                       seccomp: no programs, no network, no other processes, no
 *                                      signals to any; what is not needed fails with EPERM
 *
 * Descriptors above the socket to the parent are closed. There is no way back.
 *
 * Threads: the only one. Owns: nothing. */
#ifndef SCD_API_SANDBOX_H
#define SCD_API_SANDBOX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { SCD_SANDBOX_MAX_PATHS = 4 };

typedef struct scd_sandbox {
    const char *reads[SCD_SANDBOX_MAX_PATHS]; /* files and folders; NULL: none */
    const char *writes;  /* a folder whose files may be made, written and removed; NULL: none */
    bool renames;        /* within it */
    size_t memory_bytes; /* of the address space; 0: no bound */
    uint64_t file_bytes; /* of each file that is written; 0: no bound */
} scd_sandbox;

/* False: errno says why, and the process is to end. A build with a sanitizer, whose runtime needs
 * all of that, is bound in its core dump and descriptors alone. */
bool scd_sandbox_enter(const scd_sandbox *box);

/* Does this kernel confine files? Some containers forbid it. */
bool scd_sandbox_has_files(void);

/* Is this build one of these? */
bool scd_sandbox_is_open(void);

#endif
