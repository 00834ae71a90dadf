/* cores.c - see cores.h. */
#include "engine/cpu/cores.h"

#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

/* The first n numbers of a file, "max" counting as -1; false where there are fewer. */
static bool read_numbers(const char *path, long *out, int n)
{
    FILE *f = fopen(path, "re");
    if (!f)
        return false;
    int got = 0;
    for (char word[32]; got < n && fscanf(f, "%31s", word) == 1; got++)
        if (!strcmp(word, "max") || sscanf(word, "%ld", &out[got]) != 1)
            out[got] = -1;
    fclose(f);
    return got == n;
}

/* Processors that the control group pays for, rounded up; 0: no bound. */
static int quota(void)
{
    long v[2]; /* microseconds of processor time in every period of so many */
    if (!read_numbers("/sys/fs/cgroup/cpu.max", v, 2) &&
        !(read_numbers("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", &v[0], 1) &&
          read_numbers("/sys/fs/cgroup/cpu/cpu.cfs_period_us", &v[1], 1)))
        return 0;
    return v[0] > 0 && v[1] > 0 ? (int)((v[0] + v[1] - 1) / v[1]) : 0;
}

/* Is another hardware thread of this core in the set that comes first? */
static bool is_second_thread(int cpu, const cpu_set_t *set)
{
    char path[96];
    long first;
    snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list", cpu);
    return read_numbers(path, &first, 1) && first >= 0 && first < cpu &&
           CPU_ISSET((size_t)first, set);
}

int scd_cores(void)
{
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set))
        return 1;
    int n = 0, most = quota();
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
        n += CPU_ISSET((size_t)cpu, &set) && !is_second_thread(cpu, &set);
    if (most && most < n)
        n = most;
    return n > 0 ? n : 1;
}
