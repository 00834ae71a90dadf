/* spread.c - see spread.h. */
#include "tests/bench/spread.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void scd_bench_print_machine(void)
{
    char line[256];
    FILE *file = fopen("/proc/cpuinfo", "r");
    while (file && fgets(line, sizeof line, file))
        if (strncmp(line, "model name", 10) == 0) {
            printf("machine: %s", strchr(line, ':') + 2);
            break;
        }
    if (file)
        fclose(file);
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

void scd_bench_sort(double *values, size_t n)
{
    qsort(values, n, sizeof *values, by_value);
}

double scd_bench_print_us(const char *name, double *us, size_t n)
{
    scd_bench_sort(us, n);
    printf("  %-34s %8.2f us  (%.2f to %.2f)\n", name, us[n / 2], us[n / 10], us[n * 9 / 10]);
    return us[n / 2];
}
