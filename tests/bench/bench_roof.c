/* bench_roof.c - the machine's best plain matrix product (roof.h), for programs that are not in C.
 *
 *     build/bench/bench_roof fp32|bf16 [THREADS]     prints GFLOP/s */
#include "tests/bench/roof.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int main(int argc, char **argv)
{
    if (argc < 2 || (strcmp(argv[1], "fp32") && strcmp(argv[1], "bf16"))) {
        fprintf(stderr, "usage: bench_roof fp32|bf16 [THREADS]\n");
        return 2;
    }
    int threads = argc > 2 ? atoi(argv[2]) : 0;
    printf("%.1f\n", scd_bench_roof(!strcmp(argv[1], "bf16"), threads) / 1e9);
    return 0;
}
