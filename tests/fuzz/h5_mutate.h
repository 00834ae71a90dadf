/* h5_mutate.h - another HDF5 file out of one.
 *
 * What fuzzing looks for are our own mistakes. libhdf5 itself does not stand up to any bytes
 * whatever, which is why strangers' files are to be read in a process of their own; so a mutation
 * changes, by the library, what a sound file says - values, attributes, names, what leads where -
 * and none of its bytes.
 *
 * Threads: one. */
#ifndef SCD_TESTS_FUZZ_H5_MUTATE_H
#define SCD_TESTS_FUZZ_H5_MUTATE_H

#include <stddef.h>
#include <stdint.h>

/* libFuzzer's; a replay of the corpus has none. */
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max) __attribute__((weak));

/* The file's new size, at most max; as it was where it cannot be opened or would be larger. */
size_t scd_h5_mutate(uint8_t *data, size_t size, size_t max, unsigned seed);

#endif
