/* fd.h - whole reads and writes of file descriptors: interrupted calls go on, short ones too.
 *
 * False: errno says why; 0 where the other side has ended.
 *
 * Threads: any. Owns: nothing. */
#ifndef SCD_BASE_FD_H
#define SCD_BASE_FD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

bool scd_read_all(int fd, void *bytes, size_t n);
bool scd_write_all(int fd, const void *bytes, size_t n);
bool scd_pread_all(int fd, void *bytes, size_t n, uint64_t offset);
bool scd_pwrite_all(int fd, const void *bytes, size_t n, uint64_t offset);

#endif
