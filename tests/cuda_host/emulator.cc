/* emulator.cc - see emulator.cuh: fibers, barriers and copies; warp.cc has the warp's instructions,
 * cluster.cc what blocks of a cluster do together.
 *
 * A fiber takes the next thread of the cluster that has not started and runs it; while threads end
 * without waiting, one fiber runs them all. Mostly a cluster is one block. */
#include "tests/cuda_host/emulator.cuh"

#include "tests/cuda_host/cluster.h"
#include "tests/cuda_host/impl.h"

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

#if defined(__SANITIZE_ADDRESS__)
#define FIBERS_KNOWN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define FIBERS_KNOWN 1
#endif
#endif
#ifdef FIBERS_KNOWN
#include <sanitizer/common_interface_defs.h>
#elif defined(SCD_EMU_NO_JUMPS)
/* The thread sanitizer's: it follows jumps, and these files it does not see (Makefile). */
#define __sanitizer_start_switch_fiber(fake, stack, bytes)                                         \
    ((void)(fake), (void)(stack), (void)(bytes))
#define __sanitizer_finish_switch_fiber(fake, stack, bytes)                                        \
    ((void)(fake), (void)(stack), (void)(bytes))
#define FIBERS_KNOWN 1
#endif

enum {
    WARP = 32,
    MAX_THREADS = 512, /* of a block */
    MAX_FIBERS = MAX_THREADS * SCD_EMU_CLUSTER,
    MAX_SHARED = 48 << 10,        /* what a kernel has without asking for more */
    MAX_LARGE_SHARED = 227 << 10, /* what it may ask for, on Hopper */
    STACK_BYTES = 256 << 10,
    MAX_COPIES = 1024
};

enum state { IDLE, READY, AT_WARP, AT_BLOCK, AT_CLUSTER, AT_MBARRIER };

struct copy {
    void *to;
    const void *from;
    int size, real, group;
};

struct fiber {
    ucontext_t context;
    jmp_buf at; /* where it goes on, once it has begun */
    bool begun;
    char *stack;
    void *fake_stack; /* of the sanitizer */
    enum state state;
    unsigned thread; /* of the cluster: all of block 0, then of block 1 */
    struct scd_emu_place place;
    const struct scd_emu_mbarrier *mbarrier;
    int parity;
    void *operands;
    void (*all)(void *const lanes[32]);
    struct copy copies[MAX_COPIES];
    int n_copies, groups;
};

dim3 threadIdx, blockIdx, blockDim, gridDim;
int scd_emu_order;

static struct fiber *fibers[MAX_FIBERS];
static struct fiber *of_thread[MAX_FIBERS]; /* NULL: not started, or done */
static struct fiber *running;
static ucontext_t scheduler;
#ifdef FIBERS_KNOWN
static void *scheduler_fake;
static const void *scheduler_stack;
static size_t scheduler_bytes;
#else
static jmp_buf scheduler_at;
#endif

static const char *kernel_name;
static scd_emu_thread kernel_body;
static void *kernel_arg;
static unsigned n_threads, n_blocks; /* of a block, of a cluster */
static unsigned n_all, n_started, n_done, n_done_of[SCD_EMU_CLUSTER];
static unsigned first_x; /* blockIdx.x of the cluster's first block */
static void *shared_memory[SCD_EMU_CLUSTER];

[[noreturn]] static void fault(const char *what, struct scd_emu_place a, struct scd_emu_place b)
{
    fprintf(stderr, "emulator: %s, block (%u, %u): %s: %s:%d and %s:%d\n", kernel_name, blockIdx.x,
            blockIdx.y, what, a.file, a.line, b.file, b.line);
    abort();
}

void scd_emu_fault(const char *what, struct scd_emu_place place)
{
    fault(what, place, place);
}

/* ---- switching: swapcontext asks the kernel for the signal mask each time, which is most of what
 * a launch would take, so a fiber that has begun is left and entered by a jump. The sanitizer must
 * be told of every switch and takes jumps for returns: there it is swapcontext. ---------------- */

#ifdef FIBERS_KNOWN

static void to_scheduler(void)
{
    struct fiber *me = running;
    __sanitizer_start_switch_fiber(&me->fake_stack, scheduler_stack, scheduler_bytes);
    swapcontext(&me->context, &scheduler);
    __sanitizer_finish_switch_fiber(me->fake_stack, &scheduler_stack, &scheduler_bytes);
}

static void to_fiber(struct fiber *f)
{
    __sanitizer_start_switch_fiber(&scheduler_fake, f->stack, STACK_BYTES);
    swapcontext(&scheduler, &f->context);
    __sanitizer_finish_switch_fiber(scheduler_fake, NULL, NULL);
}

#else

static void to_scheduler(void)
{
    if (!_setjmp(running->at))
        _longjmp(scheduler_at, 1);
}

static void to_fiber(struct fiber *f)
{
    if (_setjmp(scheduler_at))
        return;
    if (f->begun)
        _longjmp(f->at, 1);
    f->begun = true;
    swapcontext(&scheduler, &f->context);
}

#endif

static void be_thread(unsigned thread)
{
    threadIdx = dim3(thread % n_threads, 0, 0);
    blockIdx.x = first_x + thread / n_threads;
}

static void resume(struct fiber *f)
{
    running = f;
    be_thread(f->thread);
    to_fiber(f);
    running = NULL;
}

/* The next thread that nobody runs yet. */
static unsigned take_thread(void)
{
    unsigned i = n_started++;
    return scd_emu_order == 1 ? n_all - 1 - i : i;
}

static void fiber_main(void)
{
#ifdef FIBERS_KNOWN
    __sanitizer_finish_switch_fiber(NULL, &scheduler_stack, &scheduler_bytes);
#endif
    for (;;) {
        struct fiber *me = running;
        while (n_started < n_all) {
            me->thread = take_thread();
            of_thread[me->thread] = me;
            be_thread(me->thread);
            me->state = READY;
            me->n_copies = me->groups = 0;
            kernel_body(kernel_arg);
            me = running;
            of_thread[me->thread] = NULL;
            n_done++;
            n_done_of[me->thread / n_threads]++;
        }
        me->state = IDLE;
        to_scheduler();
    }
}

static struct fiber *fiber_new(void)
{
    struct fiber *f = (struct fiber *)calloc(1, sizeof *f);
    void *stack =
        mmap(NULL, STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (!f || stack == MAP_FAILED || getcontext(&f->context))
        abort();
    f->stack = (char *)stack;
    f->context.uc_stack.ss_sp = stack;
    f->context.uc_stack.ss_size = STACK_BYTES;
    f->context.uc_link = NULL;
    makecontext(&f->context, fiber_main, 0);
    return f;
}

/* ---- waiting ------------------------------------------------------------------------------- */

static bool same(struct scd_emu_place a, struct scd_emu_place b)
{
    return a.line == b.line && !strcmp(a.file, b.file);
}

/* Threads [first, first + n) all wait in `state` at one place; false: not all of them do. */
static bool all_wait(unsigned first, unsigned n, enum state state)
{
    const struct fiber *one = of_thread[first];
    for (unsigned t = first; t < first + n; t++)
        if (!of_thread[t] || of_thread[t]->state != state)
            return false;
    for (unsigned t = first; t < first + n; t++)
        if (!same(of_thread[t]->place, one->place))
            fault("threads wait at different places", one->place, of_thread[t]->place);
    return true;
}

static void release(unsigned first, unsigned n)
{
    for (unsigned t = first; t < first + n; t++)
        of_thread[t]->state = READY;
}

static void wait_as(enum state state, struct scd_emu_place place)
{
    running->place = place;
    running->state = state;
    while (running->state != READY)
        to_scheduler();
}

static void sync_threads(unsigned first, unsigned n, enum state state, struct scd_emu_place place)
{
    running->place = place;
    running->state = state;
    if (all_wait(first, n, state))
        release(first, n);
    else
        wait_as(state, place);
}

void scd_emu_sync_block(struct scd_emu_place place)
{
    sync_threads(scd_emu_rank() * n_threads, n_threads, AT_BLOCK, place);
}

void scd_emu_sync_cluster(struct scd_emu_place place)
{
    sync_threads(0, n_all, AT_CLUSTER, place);
}

void scd_emu_wait_mbarrier(struct scd_emu_place place, const struct scd_emu_mbarrier *mbarrier,
                           int parity)
{
    running->mbarrier = mbarrier;
    running->parity = parity;
    if (mbarrier->phase == parity)
        wait_as(AT_MBARRIER, place);
}

void scd_emu_warp(struct scd_emu_place place, void *mine, void (*all)(void *const lanes[32]))
{
    struct fiber *me = running;
    unsigned first = me->thread / WARP * WARP;
    me->place = place;
    me->operands = mine;
    me->state = AT_WARP;
    if (!all_wait(first, WARP, AT_WARP)) {
        wait_as(AT_WARP, place);
        return;
    }
    if (all) {
        void *lanes[WARP];
        for (unsigned i = 0; i < WARP; i++)
            lanes[i] = of_thread[first + i]->operands;
        all(lanes);
    }
    release(first, WARP);
}

/* ---- blocks -------------------------------------------------------------------------------- */

/* Nobody can go on: say who waits for whom. */
[[noreturn]] static void stuck(void)
{
    struct scd_emu_place none = {"(ended)", 0}, first = none, other = none;
    for (unsigned t = 0; t < n_all; t++) {
        const struct fiber *f = of_thread[t];
        if (f && first.line == 0)
            first = f->place;
        else if (f && !same(f->place, first))
            other = f->place;
    }
    fault("some threads wait for others that do not come", first, other);
}

static struct fiber *fiber_at(unsigned at)
{
    if (!fibers[at])
        fibers[at] = fiber_new();
    return fibers[at];
}

static bool can_go_on(const struct fiber *f)
{
    return f->state == READY || (f->state == IDLE && n_started < n_all) ||
           (f->state == AT_MBARRIER && f->mbarrier->phase != f->parity);
}

static void go_on(struct fiber *f)
{
    if (f->state == AT_MBARRIER)
        f->state = READY;
    resume(f);
}

/* ---- a schedule by chance: warps run ahead and fall behind, copies end at any time ---- */

static uint64_t luck;

static unsigned one_of(unsigned n) /* xorshift, Marsaglia 2003 */
{
    luck ^= luck << 13;
    luck ^= luck >> 7;
    luck ^= luck << 17;
    return (unsigned)(luck >> 16) % n;
}

static bool with_odds(unsigned n) /* 0: never */
{
    return n && one_of(n) == 0;
}

static unsigned copy_odds, yield_odds;
static unsigned ahead[MAX_FIBERS / WARP]; /* the warp with the largest goes on first */

void scd_emu_maybe_yield(void)
{
    if (scd_emu_order > 1 && with_odds(yield_odds)) {
        running->state = READY;
        to_scheduler();
    }
}

/* The thread to go on, those that have not begun first; NULL: none can. Now and then not the one
 * that is most ahead. */
static struct fiber *pick_fiber(void)
{
    struct fiber *best = NULL;
    for (unsigned k = 0, first = one_of(n_all); k < n_all; k++) {
        struct fiber *f = fiber_at((first + k) % n_all);
        if (!can_go_on(f))
            continue;
        if (f->state == IDLE)
            return f;
        if (!best || ahead[f->thread / WARP] > ahead[best->thread / WARP])
            best = f;
        if (with_odds(64))
            break;
    }
    return best;
}

static void run_by_chance(void)
{
    static const unsigned odds[] = {0, 2000, 100, 10, 2};
    copy_odds = odds[one_of(5)];
    yield_odds = odds[one_of(5)];
    for (unsigned &a : ahead)
        a = one_of(1000);
    while (n_done < n_all) {
        if (with_odds(copy_odds))
            (void)scd_emu_finish_bulk_copy(one_of(1 << 16));
        if (with_odds(1000))
            ahead[one_of(MAX_FIBERS / WARP)] = one_of(1000);
        struct fiber *f = pick_fiber();
        if (f)
            go_on(f);
        else if (!scd_emu_finish_bulk_copy(one_of(1 << 16)))
            stuck();
    }
}

static void run_in_order(void)
{
    while (n_done < n_all) {
        bool moved = false;
        for (unsigned i = 0; i < n_all && n_done < n_all; i++) {
            struct fiber *f = fiber_at(scd_emu_order ? n_all - 1 - i : i);
            if (can_go_on(f)) {
                go_on(f);
                moved = true;
            }
        }
        if (!moved && !scd_emu_finish_bulk_copy(scd_emu_order ? -1 : 0)) /* as late as can be */
            stuck();
    }
}

static void run_cluster(void)
{
    n_started = n_done = 0;
    memset(n_done_of, 0, sizeof n_done_of);
    if (scd_emu_order > 1)
        run_by_chance();
    else
        run_in_order();
    scd_emu_end_of_cluster();
}

/* Behind a block's shared memory: the sanitizer's own fence, or bytes that must stay as they are.
 */
#ifdef FIBERS_KNOWN
enum { FENCE = 0 };
#else
enum { FENCE = 256 };
#endif

static void shared_open(void **memory, size_t bytes)
{
    if (posix_memalign(memory, 16, bytes + FENCE + !bytes))
        abort();
    memset(*memory, 0xff, bytes);
    memset((char *)*memory + bytes, 0xa5, FENCE);
}

static void shared_close(void *memory, size_t bytes)
{
    const unsigned char *fence = (const unsigned char *)memory + bytes;
    struct scd_emu_place end = {"shared memory", (int)bytes};
    for (int i = 0; i < FENCE; i++)
        if (fence[i] != 0xa5)
            fault("a write past the end of shared memory", end, end);
    free(memory);
}

void scd_emu_run(const char *kernel, dim3 grid, struct scd_emu_block block, scd_emu_thread body,
                 void *arg)
{
    struct scd_emu_place none = {"launch", 0};
    scd_emu_flush();
    scd_emu_unlock();
    kernel_name = kernel;
    kernel_body = body;
    kernel_arg = arg;
    n_threads = block.threads;
    n_blocks = block.cluster;
    n_all = n_threads * n_blocks;
    gridDim = grid;
    blockDim = dim3(n_threads);
    if (n_threads == 0 || n_threads > MAX_THREADS || n_threads % WARP ||
        block.shared > (block.large ? MAX_LARGE_SHARED : MAX_SHARED) || n_blocks == 0 ||
        n_blocks > SCD_EMU_CLUSTER || grid.x % n_blocks || grid.y > 65535 || grid.z != 1)
        fault("no such launch is possible", none, none);
    luck = 88172645463325252u + (uint64_t)scd_emu_order * 0x9e3779b97f4a7c15u;
    for (unsigned y = 0; y < grid.y; y++)
        for (first_x = 0; first_x < grid.x; first_x += n_blocks) {
            blockIdx = dim3(first_x, y, 0);
            for (unsigned i = 0; i < n_blocks; i++)
                shared_open(&shared_memory[i], block.shared);
            run_cluster();
            for (unsigned i = 0; i < n_blocks; i++)
                shared_close(shared_memory[i], block.shared);
        }
    scd_emu_lock();
}

unsigned scd_emu_rank(void)
{
    return running->thread / n_threads;
}

unsigned scd_emu_self(void)
{
    return running->thread;
}

void *scd_emu_shared(void)
{
    return shared_memory[scd_emu_rank()];
}

void *scd_emu_shared_at(unsigned rank, void *here)
{
    struct scd_emu_place of = {"shared memory", 0};
    if (rank >= n_blocks || n_done_of[rank] == n_threads)
        fault("a block's shared memory is used that has ended", of, of);
    return (char *)shared_memory[rank] + ((char *)here - (char *)scd_emu_shared());
}

/* ---- copies: they happen when they are waited for, and not before ---------------------------- */

void scd_emu_copy_async(void *shared, const void *global, int size, int real)
{
    struct scd_emu_place here = {"cp.async", size};
    struct fiber *f = running;
    if ((size != 4 && size != 16) || real < 0 || real > size ||
        (uintptr_t)shared % (unsigned)size || (real && (uintptr_t)global % (unsigned)size))
        fault("a copy that is not aligned to its size", here, here);
    if (f->n_copies == MAX_COPIES)
        fault("too many copies on their way", here, here);
    memset(shared, 0xff, (size_t)size);
    struct copy c = {shared, global, size, real, f->groups};
    f->copies[f->n_copies++] = c;
}

void scd_emu_copy_commit(void)
{
    running->groups++;
}

void scd_emu_copy_wait(int left)
{
    struct fiber *f = running;
    int n = 0;
    for (int i = 0; i < f->n_copies; i++) {
        struct copy c = f->copies[i];
        if (c.group >= f->groups - left) {
            f->copies[n++] = c;
            continue;
        }
        memset(c.to, 0, (size_t)c.size);
        memcpy(c.to, c.from, (size_t)c.real);
    }
    f->n_copies = n;
}
