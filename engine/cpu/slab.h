/* slab.h - memory of packed weights: large blocks on huge pages, shared by many matrices.
 *
 * A forward pass walks through all weights; on 4 KiB pages address translation alone costs three
 * percent. A block is given back when its last matrix is.
 *
 * Threads: the device's owner. */
#ifndef SCD_CPU_SLAB_H
#define SCD_CPU_SLAB_H

#include <stddef.h>

typedef struct scd_slab scd_slab;

/* `bytes` of a block of *list, 64-byte aligned; *from names the block. NULL: out of memory. */
void *scd_slab_take(scd_slab **list, size_t bytes, scd_slab **from);
void scd_slab_give(scd_slab **list, scd_slab *from); /* NULL is fine */

/* Ask the kernel to back what lies in whole huge pages with such. Never fails. */
void scd_huge_pages(void *memory, size_t bytes);

#endif
