/* runtime_host.cc - engine/cuda/runtime.h on the CPU: device memory is host memory.
 *
 * Copies happen as late as they may, when something waits or is put behind them, so that a pinned
 * buffer which is reused or read too early shows. New memory holds NaN. */
#include "tests/cuda_host/impl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <vector>

struct scd_gpu {
    bool entered;
};

struct transfer {
    void *to;
    const void *from;
    size_t bytes;
};

enum { MAX_COPIES = 4096 };
static struct transfer copies[MAX_COPIES];
static size_t n_copies;
static size_t marks[SCD_GPU_MARKS]; /* copies that were put before */

long scd_emu_fail_after = -1;
long scd_emu_blocks;
long scd_emu_replays;

/* CUDA_EMULATOR_DIES_AFTER=N: the device fails for good after N calls. */
static bool died(void)
{
    static long left = -2;
    if (left == -2) {
        const char *text = getenv("CUDA_EMULATOR_DIES_AFTER");
        left = text ? atol(text) : -1;
    }
    left -= left > 0;
    return left == 0;
}

scd_code scd_emu_call(const char *name, scd_error *err)
{
    if (died())
        return scd_fail(err, SCD_E_DEVICE, "%s: the device is lost", name);
    if (scd_emu_fail_after < 0)
        return SCD_OK;
    if (scd_emu_fail_after-- > 0)
        return SCD_OK;
    return scd_fail(err, SCD_E_DEVICE, "%s: told to fail", name);
}

/* ---- device memory that only the device may touch ------------------------------------------- */

enum { PAGE = 4096, MAX_REGIONS = 4096 };
struct region {
    void *at;
    size_t bytes;
};
static struct region regions[MAX_REGIONS];
static size_t n_regions;
static int unlocked;

static bool guarded(void)
{
    static int wanted = -1;
    if (wanted < 0)
        wanted = getenv("CUDA_EMULATOR_GUARD") != NULL;
    return wanted > 0;
}

static void protect(int how)
{
    for (size_t i = 0; i < n_regions; i++)
        if (mprotect(regions[i].at, regions[i].bytes, how))
            abort();
}

void scd_emu_unlock(void)
{
    if (unlocked++ == 0 && guarded())
        protect(PROT_READ | PROT_WRITE);
}

void scd_emu_lock(void)
{
    if (--unlocked == 0 && guarded())
        protect(PROT_NONE);
}

static void *region_new(size_t bytes)
{
    size_t whole = (bytes + PAGE) / PAGE * PAGE;
    void *at = mmap(NULL, whole, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED || n_regions == MAX_REGIONS)
        abort();
    memset(at, 0xff, whole);
    regions[n_regions].at = at;
    regions[n_regions++].bytes = whole;
    if (!unlocked && mprotect(at, whole, PROT_NONE))
        abort();
    return at;
}

/* False: it is no region. */
static bool region_free(void *at)
{
    for (size_t i = 0; i < n_regions; i++)
        if (regions[i].at == at) {
            munmap(at, regions[i].bytes);
            regions[i] = regions[--n_regions];
            return true;
        }
    return false;
}

/* ---- recording ------------------------------------------------------------------------------- */

typedef std::vector<std::function<void()>> recording;
static recording *recorded; /* NULL: what is called is done */

bool scd_emu_keep(std::function<void()> work)
{
    if (recorded)
        recorded->push_back(work);
    return recorded != NULL;
}

/* What CUDA refuses while it records. */
static scd_code not_recorded(const char *name, scd_error *err)
{
    return recorded ? scd_fail(err, SCD_E_INTERNAL, "%s: not while launches are recorded", name)
                    : SCD_OK;
}

scd_code scd_gpu_record(scd_gpu *gpu, scd_error *err)
{
    (void)gpu;
    scd_code code = scd_emu_call("record", err);
    if (!code)
        code = not_recorded("record", err);
    if (!code)
        recorded = new recording;
    return code;
}

scd_code scd_gpu_record_end(scd_gpu *gpu, void **out, scd_error *err)
{
    (void)gpu;
    recording *done = recorded;
    recorded = NULL;
    scd_code code = scd_emu_call("record_end", err);
    if (code)
        delete done;
    *out = code ? NULL : done;
    scd_emu_blocks += !code;
    return code;
}

scd_code scd_gpu_replay(scd_gpu *gpu, void *graph, scd_error *err)
{
    (void)gpu;
    scd_code code = scd_emu_call("replay", err);
    scd_emu_replays += !code;
    for (size_t i = 0; !code && i < ((recording *)graph)->size(); i++)
        (*(recording *)graph)[i]();
    return code;
}

void scd_gpu_graph_free(scd_gpu *gpu, void *graph)
{
    (void)gpu;
    scd_emu_blocks -= graph != NULL;
    delete (recording *)graph;
}

/* ---- copies ---------------------------------------------------------------------------------- */

/* The first n of those that wait. */
static void flush_some(size_t n)
{
    if (!n)
        return;
    scd_emu_unlock();
    for (size_t i = 0; i < n; i++)
        memcpy(copies[i].to, copies[i].from, copies[i].bytes);
    scd_emu_lock();
    memmove(copies, copies + n, (n_copies - n) * sizeof *copies);
    n_copies -= n;
    for (int i = 0; i < SCD_GPU_MARKS; i++)
        marks[i] = marks[i] < n ? 0 : marks[i] - n;
}

void scd_emu_flush(void)
{
    flush_some(n_copies);
}

scd_code scd_gpu_open(int index, scd_gpu **out, scd_gpu_facts *facts, scd_error *err)
{
    *out = NULL;
    scd_code code = scd_emu_call("open", err);
    if (code)
        return code;
    if (index != 0)
        return scd_fail(err, SCD_E_DEVICE, "there is no GPU %d: this machine has 1, from 0", index);
    snprintf(facts->name, sizeof facts->name, "emulated");
    const char *major = getenv("CUDA_EMULATOR_MAJOR"); /* 9: with a warpgroup's products */
    facts->major = major ? atoi(major) : 8;
    facts->minor = 0;
    facts->memory_bytes = (size_t)1 << 30;
    *out = (scd_gpu *)calloc(1, sizeof **out);
    return *out ? SCD_OK : scd_fail(err, SCD_E_NOMEM, "out of memory");
}

void scd_gpu_close(scd_gpu *gpu)
{
    scd_emu_flush();
    free(gpu);
}

scd_code scd_gpu_enter(scd_gpu *gpu, scd_error *err)
{
    gpu->entered = true;
    return scd_emu_call("enter", err);
}

static scd_code give(size_t bytes, void **out, scd_error *err)
{
    *out = malloc(bytes ? bytes : 1);
    if (!*out)
        return scd_fail(err, SCD_E_NOMEM, "out of memory");
    memset(*out, 0xff, bytes);
    scd_emu_blocks++;
    return SCD_OK;
}

static void take(void *memory)
{
    scd_emu_flush();
    scd_emu_blocks -= memory != NULL;
    if (!region_free(memory))
        free(memory);
}

/* CUDA_EMULATOR_LARGEST=N: no block of device memory larger than N bytes. */
static bool too_much(size_t bytes)
{
    const char *text = getenv("CUDA_EMULATOR_LARGEST");
    return text && bytes > (size_t)atoll(text);
}

scd_code scd_gpu_alloc(scd_gpu *gpu, size_t bytes, void **out, scd_error *err)
{
    (void)gpu;
    *out = NULL;
    scd_code code = scd_emu_call("alloc", err);
    if (!code)
        code = not_recorded("alloc", err);
    if (!code && too_much(bytes))
        code = scd_fail(err, SCD_E_NOMEM, "the GPU has no room for %zu bytes", bytes);
    if (code || !guarded())
        return code ? code : give(bytes, out, err);
    *out = region_new(bytes);
    scd_emu_blocks++;
    return SCD_OK;
}

void scd_gpu_free(scd_gpu *gpu, void *memory)
{
    (void)gpu;
    take(memory);
}

scd_code scd_gpu_alloc_host(scd_gpu *gpu, size_t bytes, void **out, scd_error *err)
{
    (void)gpu;
    *out = NULL;
    scd_code code = scd_emu_call("alloc_host", err);
    return code ? code : give(bytes, out, err);
}

void scd_gpu_free_host(scd_gpu *gpu, void *memory)
{
    (void)gpu;
    take(memory);
}

static scd_code put(void *to, const void *from, size_t bytes)
{
    if (n_copies == MAX_COPIES)
        scd_emu_flush();
    copies[n_copies].to = to;
    copies[n_copies].from = from;
    copies[n_copies++].bytes = bytes;
    return SCD_OK;
}

scd_code scd_gpu_copy_in(scd_gpu *gpu, void *device, const void *host, size_t bytes, scd_error *err)
{
    (void)gpu;
    scd_code code = scd_emu_call("copy_in", err);
    if (!code)
        code = not_recorded("copy_in", err);
    return code ? code : put(device, host, bytes);
}

scd_code scd_gpu_copy_out(scd_gpu *gpu, void *host, const void *device, size_t bytes,
                          scd_error *err)
{
    (void)gpu;
    scd_code code = scd_emu_call("copy_out", err);
    if (!code)
        code = not_recorded("copy_out", err);
    return code ? code : put(host, device, bytes);
}

scd_code scd_gpu_mark(scd_gpu *gpu, int mark, scd_error *err)
{
    (void)gpu;
    marks[mark] = n_copies;
    return scd_emu_call("mark", err);
}

scd_code scd_gpu_wait_mark(scd_gpu *gpu, int mark, scd_error *err)
{
    (void)gpu;
    flush_some(marks[mark]);
    return scd_emu_call("wait_mark", err);
}

scd_code scd_gpu_synchronize(scd_gpu *gpu, scd_error *err)
{
    (void)gpu;
    scd_emu_flush();
    scd_code code = scd_emu_call("synchronize", err);
    return code ? code : not_recorded("synchronize", err);
}

scd_code scd_gpu_launched(scd_gpu *gpu, const char *kernel, scd_error *err)
{
    (void)gpu;
    return scd_emu_call(kernel, err);
}

void *scd_gpu_stream(scd_gpu *gpu)
{
    return gpu;
}
