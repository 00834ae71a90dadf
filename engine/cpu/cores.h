/* cores.h - how many threads are worth starting.
 *
 * Threads: any. */
#ifndef SCD_CPU_CORES_H
#define SCD_CPU_CORES_H

/* Cores this process may use, at least 1: those of its affinity mask, of two hardware threads of a
 * core only one, and no more than a container's processor quota pays for - threads beyond it would
 * be stopped in the middle of a barrier that all others wait at. */
int scd_cores(void);

#endif
