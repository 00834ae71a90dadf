/* cluster.h - what emulator.cc and cluster.cc share.
 *
 * Threads: one at a time, as the emulator. */
#ifndef SCD_TESTS_CLUSTER_H
#define SCD_TESTS_CLUSTER_H

#include "tests/cuda_host/emulator.cuh"

enum { SCD_EMU_CLUSTER = 2 }; /* blocks at most */

/* emulator.cc: the running thread's number in its cluster; the byte of block `rank` that lies where
 * `here` lies in this block; a wait until the phase of `parity` is over. */
unsigned scd_emu_self(void);
void *scd_emu_shared_at(unsigned rank, void *here);
void scd_emu_wait_mbarrier(scd_emu_place place, const scd_emu_mbarrier *mbarrier, int parity);
[[noreturn]] void scd_emu_fault(const char *what, scd_emu_place place);

/* Where the schedule is by chance, others may go on first. */
void scd_emu_maybe_yield(void);

/* cluster.cc: end a copy that is under way, the oldest, the newest (-1) or any other one; false:
 * there is none. Then the end of a cluster, when nothing may be under way. */
bool scd_emu_finish_bulk_copy(int which);
void scd_emu_end_of_cluster(void);

#endif
