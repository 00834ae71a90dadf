/* spread.h - what the benchmarks in C share: the machine's name, and times in order.
 *
 * Threads: any. Owns: nothing. */
#ifndef SCD_BENCH_SPREAD_H
#define SCD_BENCH_SPREAD_H

#include <stddef.h>

/* "machine: AMD EPYC ..." on a line. */
void scd_bench_print_machine(void);

/* Ascending, so that values[n / 2] is the median and values[n / 10] the 10th percentile. */
void scd_bench_sort(double *values, size_t n);

/* Sorts microseconds and prints median, 10th and 90th percentile under a name; the median. */
double scd_bench_print_us(const char *name, double *us, size_t n);

#endif
