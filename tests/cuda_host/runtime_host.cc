/* runtime_host.cc - engine/cuda/runtime.h on the CPU: device memory is host memory.
 *
 * Copies happen as late as they may, when something waits or is put behind them, so that a pinned
 * buffer which is reused or read too early shows. New memory holds NaN.
 *
 * CUDA_EMULATOR_GPUS=N: so many GPUs, one if it is not set. What else is told of them by the
 * environment holds for all, or, as "K:N", for GPU K alone; several are separated by commas.
 * A thread works on the GPU that it entered last, as with CUDA; the memory of the others is closed
 * to it where CUDA_EMULATOR_GUARD is set.
 *
 * Threads: any, one at a time: a lock of its own sees to that. */
#include "tests/cuda_host/impl.h"

#include <atomic>
#include <map>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <vector>

struct transfer {
    void *to;
    const void *from;
    size_t bytes;
};

/* Copies that were put on a stream and not done yet. */
enum { MAX_COPIES = 4096 };
struct stream {
    struct transfer copies[MAX_COPIES];
    size_t n;
};

typedef std::vector<std::function<void()>> recording;

struct scd_gpu {
    int index;
    struct stream work, beside;
    size_t marks[SCD_GPU_MARKS]; /* copies of the stream that were put before */
    size_t work_waits_for;       /* copies beside, before whatever is put on the work next */
    bool waits_for_work;         /* the copy beside that is put next */
    recording *recorded;         /* NULL: what is called is done */
};

static thread_local scd_gpu *current; /* that this thread entered last */

/* What each GPU has. A dead one is given nothing back: all of it goes when that is closed. */
static std::map<void *, const scd_gpu *> memory_of;
static std::map<recording *, const scd_gpu *> graph_of;

long scd_emu_fail_after = -1;
long scd_emu_blocks;
long scd_emu_replays;

/* One at a time; a call may need others. */
static pthread_mutex_t everything = PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;
struct turn {
    turn()
    {
        pthread_mutex_lock(&everything);
    }
    ~turn()
    {
        pthread_mutex_unlock(&everything);
    }
};

/* What the environment says of this GPU, or `otherwise`. */
static long setting(const char *name, int gpu, long otherwise)
{
    const char *text = getenv(name);
    while (text && *text) {
        char *end;
        long n = strtol(text, &end, 10), of = gpu;
        if (*end == ':') {
            of = n;
            n = strtol(end + 1, &end, 10);
        }
        if (of == gpu)
            otherwise = n;
        text = *end == ',' ? end + 1 : NULL;
    }
    return otherwise;
}

enum { MOST_GPUS = 64 };
static std::atomic<bool> killed[MOST_GPUS]; /* by a hang */

/* CUDA_EMULATOR_DIES_AFTER=N: a device fails for good after N calls. */
static bool died(int gpu)
{
    static long left[MOST_GPUS];
    static bool known[MOST_GPUS];
    if (gpu >= MOST_GPUS)
        return false;
    if (!known[gpu])
        left[gpu] = setting("CUDA_EMULATOR_DIES_AFTER", gpu, -1);
    known[gpu] = true;
    left[gpu] -= left[gpu] > 0;
    return left[gpu] == 0 || killed[gpu];
}

/* CUDA_EMULATOR_HANGS_AFTER=N: a device's Nth wait takes CUDA_EMULATOR_HANG_S seconds, or for ever;
 * with CUDA_EMULATOR_HANG_KILLS=1 it fails for good then. Without the lock: other devices go on. */
static void hang(int gpu)
{
    enum { FOR_EVER = 1 << 30 };
    static std::atomic<long> left[MOST_GPUS]; /* 0: not known yet */
    if (gpu >= MOST_GPUS)
        return;
    long unknown = 0, n = setting("CUDA_EMULATOR_HANGS_AFTER", gpu, -1);
    if (n > 0 && (left[gpu].compare_exchange_strong(unknown, n + 1), left[gpu] > 1) &&
        --left[gpu] == 1) {
        sleep((unsigned)setting("CUDA_EMULATOR_HANG_S", gpu, FOR_EVER));
        killed[gpu] = setting("CUDA_EMULATOR_HANG_KILLS", gpu, 0) == 1;
    }
}

scd_code scd_emu_call(const char *name, scd_error *err)
{
    turn t;
    if (current && died(current->index))
        return scd_fail(err, SCD_E_DEVICE, "%s: the device is lost", name);
    if (scd_emu_fail_after < 0)
        return SCD_OK;
    if (scd_emu_fail_after-- > 0)
        return SCD_OK;
    return scd_fail(err, SCD_E_DEVICE, "%s: told to fail", name);
}

/* The same of a call that is for the thread's own device alone. */
static scd_code call_of(const scd_gpu *gpu, const char *name, scd_error *err)
{
    if (gpu != current)
        return scd_fail(err, SCD_E_INTERNAL, "%s: GPU %d was not entered by this thread", name,
                        gpu->index);
    return scd_emu_call(name, err);
}

/* ---- device memory that only the device may touch ------------------------------------------- */

enum { PAGE = 4096, MAX_REGIONS = 4096 };
struct region {
    void *at;
    size_t bytes;
    const scd_gpu *of;
};
static struct region regions[MAX_REGIONS];
static size_t n_regions;
static int unlocked;
static const scd_gpu *unlocked_of;

static bool guarded(void)
{
    static int wanted = -1;
    if (wanted < 0)
        wanted = getenv("CUDA_EMULATOR_GUARD") != NULL;
    return wanted > 0;
}

static void protect(const scd_gpu *gpu, int how)
{
    for (size_t i = 0; i < n_regions; i++)
        if (regions[i].of == gpu && mprotect(regions[i].at, regions[i].bytes, how))
            abort();
}

static void unlock(const scd_gpu *gpu)
{
    pthread_mutex_lock(&everything);
    if (unlocked++ == 0) {
        unlocked_of = gpu;
        if (guarded())
            protect(gpu, PROT_READ | PROT_WRITE);
    }
}

void scd_emu_unlock(void)
{
    unlock(current);
}

void scd_emu_lock(void)
{
    if (--unlocked == 0 && guarded())
        protect(unlocked_of, PROT_NONE);
    pthread_mutex_unlock(&everything);
}

static void *region_new(const scd_gpu *gpu, size_t bytes)
{
    size_t whole = (bytes + PAGE) / PAGE * PAGE;
    void *at = mmap(NULL, whole, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED || n_regions == MAX_REGIONS)
        abort();
    memset(at, 0xff, whole);
    regions[n_regions++] = {at, whole, gpu};
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

bool scd_emu_keep(std::function<void()> work)
{
    turn t;
    recording *recorded = current ? current->recorded : NULL;
    if (recorded)
        recorded->push_back(work);
    return recorded != NULL;
}

/* What CUDA refuses while it records. */
static scd_code not_recorded(const scd_gpu *gpu, const char *name, scd_error *err)
{
    return gpu->recorded
               ? scd_fail(err, SCD_E_INTERNAL, "%s: not while launches are recorded", name)
               : SCD_OK;
}

scd_code scd_gpu_record(scd_gpu *gpu, scd_error *err)
{
    turn t;
    scd_code code = call_of(gpu, "record", err);
    if (!code)
        code = not_recorded(gpu, "record", err);
    if (!code)
        gpu->recorded = new recording;
    return code;
}

scd_code scd_gpu_record_end(scd_gpu *gpu, void **out, scd_error *err)
{
    turn t;
    recording *done = gpu->recorded;
    gpu->recorded = NULL;
    scd_code code = call_of(gpu, "record_end", err);
    if (code)
        delete done;
    *out = code ? NULL : done;
    if (!code)
        graph_of[done] = gpu;
    scd_emu_blocks += !code;
    return code;
}

scd_code scd_gpu_replay(scd_gpu *gpu, void *graph, scd_error *err)
{
    turn t;
    scd_code code = call_of(gpu, "replay", err);
    scd_emu_replays += !code;
    for (size_t i = 0; !code && i < ((recording *)graph)->size(); i++)
        (*(recording *)graph)[i]();
    return code;
}

void scd_gpu_graph_free(scd_gpu *gpu, void *graph)
{
    turn t;
    (void)gpu;
    scd_emu_blocks -= graph != NULL;
    graph_of.erase((recording *)graph);
    delete (recording *)graph;
}

/* ---- copies ---------------------------------------------------------------------------------- */

/* The first n of those that wait. */
static void flush_some(scd_gpu *gpu, struct stream *of, size_t n)
{
    if (!n)
        return;
    unlock(gpu);
    for (size_t i = 0; i < n; i++)
        memcpy(of->copies[i].to, of->copies[i].from, of->copies[i].bytes);
    scd_emu_lock();
    memmove(of->copies, of->copies + n, (of->n - n) * sizeof *of->copies);
    of->n -= n;
    int first = of == &gpu->work ? 0 : SCD_GPU_WORK_MARKS;
    int last = of == &gpu->work ? SCD_GPU_WORK_MARKS : SCD_GPU_MARKS;
    for (int i = first; i < last; i++)
        gpu->marks[i] = gpu->marks[i] < n ? 0 : gpu->marks[i] - n;
    if (of == &gpu->beside)
        gpu->work_waits_for = gpu->work_waits_for < n ? 0 : gpu->work_waits_for - n;
}

/* All that the work must have seen before it goes on. */
static void flush_work(scd_gpu *gpu)
{
    flush_some(gpu, &gpu->beside, gpu->work_waits_for);
    flush_some(gpu, &gpu->work, gpu->work.n);
}

static void flush_all(scd_gpu *gpu)
{
    flush_work(gpu);
    flush_some(gpu, &gpu->beside, gpu->beside.n);
}

void scd_emu_flush(void)
{
    turn t;
    if (current)
        flush_work(current);
}

/* ---- the device ------------------------------------------------------------------------------ */

scd_code scd_gpu_count(int *n, scd_error *err)
{
    turn t;
    *n = (int)setting("CUDA_EMULATOR_GPUS", 0, 1);
    return scd_emu_call("count", err);
}

scd_code scd_gpu_open(int index, scd_gpu **out, scd_gpu_facts *facts, scd_error *err)
{
    turn t;
    int n;
    *out = NULL;
    scd_code code = scd_gpu_count(&n, err);
    if (code)
        return code;
    if (index < 0 || index >= n)
        return scd_fail(err, SCD_E_DEVICE, "there is no GPU %d: this machine has %d, from 0", index,
                        n);
    scd_gpu *gpu = (scd_gpu *)calloc(1, sizeof *gpu);
    if (!gpu)
        return scd_fail(err, SCD_E_NOMEM, "out of memory");
    gpu->index = index;
    long isa = setting("CUDA_EMULATOR_ISA", index, 80);
    scd_emu_order = (int)setting("CUDA_EMULATOR_ORDER", index, 0);
    snprintf(facts->name, sizeof facts->name, "emulated");
    facts->major = (int)isa / 10;
    facts->minor = (int)isa % 10;
    facts->processors = (int)setting("CUDA_EMULATOR_PROCESSORS", index, 1);
    facts->memory_bytes = (size_t)1 << 30;
    current = gpu;
    *out = gpu;
    return SCD_OK;
}

static void bury(const scd_gpu *gpu)
{
    for (auto at = memory_of.begin(); at != memory_of.end();) {
        bool its = at->second == gpu;
        if (its)
            free(at->first);
        at = its ? memory_of.erase(at) : std::next(at);
    }
    for (auto at = graph_of.begin(); at != graph_of.end();) {
        bool its = at->second == gpu;
        if (its)
            delete at->first;
        at = its ? graph_of.erase(at) : std::next(at);
    }
}

void scd_gpu_close(scd_gpu *gpu)
{
    turn t;
    if (!gpu)
        return;
    flush_all(gpu);
    if (died(gpu->index))
        bury(gpu);
    if (current == gpu)
        current = NULL;
    free(gpu);
}

scd_code scd_gpu_enter(scd_gpu *gpu, scd_error *err)
{
    turn t;
    current = gpu;
    return scd_emu_call("enter", err);
}

static scd_code give(size_t bytes, void **out, scd_error *err)
{
    *out = malloc(bytes ? bytes : 1);
    if (!*out)
        return scd_fail(err, SCD_E_NOMEM, "out of memory");
    memset(*out, 0xff, bytes);
    memory_of[*out] = current;
    scd_emu_blocks++;
    return SCD_OK;
}

static void take(scd_gpu *gpu, void *memory)
{
    turn t;
    flush_all(gpu);
    scd_emu_blocks -= memory != NULL;
    if (region_free(memory))
        return;
    memory_of.erase(memory);
    free(memory);
}

/* CUDA_EMULATOR_LARGEST=N: no block of device memory larger than N bytes. */
static bool too_much(const scd_gpu *gpu, size_t bytes)
{
    long most = setting("CUDA_EMULATOR_LARGEST", gpu->index, -1);
    return most >= 0 && bytes > (size_t)most;
}

scd_code scd_gpu_alloc(scd_gpu *gpu, size_t bytes, void **out, scd_error *err)
{
    turn t;
    *out = NULL;
    scd_code code = call_of(gpu, "alloc", err);
    if (!code)
        code = not_recorded(gpu, "alloc", err);
    if (!code && too_much(gpu, bytes))
        code = scd_fail(err, SCD_E_NOMEM, "the GPU has no room for %zu bytes", bytes);
    if (code || !guarded())
        return code ? code : give(bytes, out, err);
    *out = region_new(gpu, bytes);
    scd_emu_blocks++;
    return SCD_OK;
}

void scd_gpu_free(scd_gpu *gpu, void *memory)
{
    take(gpu, memory);
}

scd_code scd_gpu_alloc_host(scd_gpu *gpu, size_t bytes, void **out, scd_error *err)
{
    turn t;
    *out = NULL;
    scd_code code = call_of(gpu, "alloc_host", err);
    return code ? code : give(bytes, out, err);
}

void scd_gpu_free_host(scd_gpu *gpu, void *memory)
{
    take(gpu, memory);
}

static scd_code put(scd_gpu *gpu, struct stream *on, const char *name, void *to, const void *from,
                    size_t bytes, scd_error *err)
{
    turn t;
    scd_code code = call_of(gpu, name, err);
    if (!code)
        code = not_recorded(gpu, name, err);
    if (code)
        return code;
    if (on->n == MAX_COPIES)
        flush_some(gpu, on, on->n);
    on->copies[on->n++] = {to, from, bytes};
    return SCD_OK;
}

scd_code scd_gpu_copy_in(scd_gpu *gpu, void *device, const void *host, size_t bytes, scd_error *err)
{
    return put(gpu, &gpu->work, "copy_in", device, host, bytes, err);
}

scd_code scd_gpu_copy_out(scd_gpu *gpu, void *host, const void *device, size_t bytes,
                          scd_error *err)
{
    return put(gpu, &gpu->work, "copy_out", host, device, bytes, err);
}

scd_code scd_gpu_copy_in_beside(scd_gpu *gpu, void *device, const void *host, size_t bytes,
                                scd_error *err)
{
    return put(gpu, &gpu->beside, "copy_in_beside", device, host, bytes, err);
}

/* Done as late as it may be, it would find what it is for in any case: so that is asked. */
scd_code scd_gpu_copy_out_beside(scd_gpu *gpu, void *host, const void *device, size_t bytes,
                                 scd_error *err)
{
    if (!gpu->waits_for_work)
        return scd_fail(err, SCD_E_INTERNAL, "copy_out_beside: it does not wait for the work");
    gpu->waits_for_work = false;
    return put(gpu, &gpu->beside, "copy_out_beside", host, device, bytes, err);
}

scd_code scd_gpu_work_after_copies(scd_gpu *gpu, scd_error *err)
{
    turn t;
    gpu->work_waits_for = gpu->beside.n;
    scd_code code = call_of(gpu, "work_after_copies", err);
    return code ? code : not_recorded(gpu, "work_after_copies", err);
}

scd_code scd_gpu_copies_after(scd_gpu *gpu, int mark, scd_error *err)
{
    turn t;
    flush_some(gpu, &gpu->work, gpu->marks[mark]);
    gpu->waits_for_work = true;
    scd_code code = call_of(gpu, "copies_after", err);
    return code ? code : not_recorded(gpu, "copies_after", err);
}

scd_code scd_gpu_mark(scd_gpu *gpu, int mark, scd_error *err)
{
    turn t;
    gpu->marks[mark] = mark < SCD_GPU_WORK_MARKS ? gpu->work.n : gpu->beside.n;
    return call_of(gpu, "mark", err);
}

scd_code scd_gpu_wait_mark(scd_gpu *gpu, int mark, scd_error *err)
{
    hang(gpu->index);
    turn t;
    flush_some(gpu, mark < SCD_GPU_WORK_MARKS ? &gpu->work : &gpu->beside, gpu->marks[mark]);
    return call_of(gpu, "wait_mark", err);
}

scd_code scd_gpu_synchronize(scd_gpu *gpu, scd_error *err)
{
    hang(gpu->index);
    turn t;
    flush_all(gpu);
    scd_code code = call_of(gpu, "synchronize", err);
    return code ? code : not_recorded(gpu, "synchronize", err);
}

scd_code scd_gpu_map_rows(scd_gpu *gpu, const void *matrix, size_t rows, size_t cols,
                          scd_gpu_map *out, scd_error *err)
{
    scd_code code = call_of(gpu, "map_rows", err);
    if (!code && ((uintptr_t)matrix % 16 || cols % 8 || !rows || !cols))
        code = scd_fail(err, SCD_E_DEVICE, "no such matrix can be mapped");
    *out = {{(uint64_t)(uintptr_t)matrix, rows, cols}};
    return code;
}

scd_code scd_gpu_allow_shared(scd_gpu *gpu, const void *kernel, size_t bytes, scd_error *err)
{
    (void)kernel, (void)bytes; /* the launch is held to what there is */
    return call_of(gpu, "allow_shared", err);
}

scd_code scd_gpu_launched(scd_gpu *gpu, const char *kernel, scd_error *err)
{
    return call_of(gpu, kernel, err);
}

void *scd_gpu_stream(scd_gpu *gpu)
{
    return gpu;
}
