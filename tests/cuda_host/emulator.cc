/* emulator.cc - see emulator.cuh: fibers, barriers and copies; warp.cc has the warp's instructions.
 *
 * A fiber takes the next thread of the block that has not started and runs it; while threads end
 * without waiting, one fiber runs them all. */
#include "tests/cuda_host/emulator.cuh"

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
    MAX_THREADS = 256,
    MAX_SHARED = 48 << 10, /* what a kernel has without asking for more */
    STACK_BYTES = 256 << 10,
    MAX_COPIES = 1024
};

enum state { IDLE, READY, AT_WARP, AT_BLOCK };

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
    unsigned thread;
    struct scd_emu_place place;
    void *operands;
    void (*all)(void *const lanes[32]);
    struct copy copies[MAX_COPIES];
    int n_copies, groups;
};

dim3 threadIdx, blockIdx, blockDim, gridDim;
int scd_emu_order;

static struct fiber *fibers[MAX_THREADS];
static struct fiber *of_thread[MAX_THREADS]; /* NULL: not started, or done */
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
static unsigned n_threads, n_started, n_done;
static void *shared_memory;

[[noreturn]] static void fault(const char *what, struct scd_emu_place a, struct scd_emu_place b)
{
    fprintf(stderr, "emulator: %s, block (%u, %u): %s: %s:%d and %s:%d\n", kernel_name, blockIdx.x,
            blockIdx.y, what, a.file, a.line, b.file, b.line);
    abort();
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

static void resume(struct fiber *f)
{
    running = f;
    threadIdx = dim3(f->thread, 0, 0);
    to_fiber(f);
    running = NULL;
}

/* The next thread that nobody runs yet. */
static unsigned take_thread(void)
{
    unsigned i = n_started++;
    return scd_emu_order ? n_threads - 1 - i : i;
}

static void fiber_main(void)
{
#ifdef FIBERS_KNOWN
    __sanitizer_finish_switch_fiber(NULL, &scheduler_stack, &scheduler_bytes);
#endif
    for (;;) {
        struct fiber *me = running;
        while (n_started < n_threads) {
            me->thread = take_thread();
            of_thread[me->thread] = me;
            threadIdx = dim3(me->thread, 0, 0);
            me->state = READY;
            me->n_copies = me->groups = 0;
            kernel_body(kernel_arg);
            me = running;
            of_thread[me->thread] = NULL;
            n_done++;
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

void scd_emu_sync_block(struct scd_emu_place place)
{
    struct fiber *me = running;
    me->place = place;
    me->state = AT_BLOCK;
    if (n_started == n_threads && all_wait(0, n_threads, AT_BLOCK))
        release(0, n_threads);
    else
        wait_as(AT_BLOCK, place);
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
    for (unsigned t = 0; t < n_threads; t++) {
        const struct fiber *f = of_thread[t];
        if (f && first.line == 0)
            first = f->place;
        else if (f && !same(f->place, first))
            other = f->place;
    }
    fault("some threads wait for others that do not come", first, other);
}

static void run_block(void)
{
    n_started = n_done = 0;
    while (n_done < n_threads) {
        bool moved = false;
        for (unsigned i = 0; i < MAX_THREADS && n_done < n_threads; i++) {
            unsigned at = scd_emu_order ? MAX_THREADS - 1 - i : i;
            if (!fibers[at])
                fibers[at] = fiber_new();
            struct fiber *f = fibers[at];
            if (f->state == READY || (f->state == IDLE && n_started < n_threads)) {
                resume(f);
                moved = true;
            }
        }
        if (!moved)
            stuck();
    }
}

/* Behind a block's shared memory: the sanitizer's own fence, or bytes that must stay as they are.
 */
#ifdef FIBERS_KNOWN
enum { FENCE = 0 };
#else
enum { FENCE = 256 };
#endif

static void shared_open(size_t bytes)
{
    if (posix_memalign(&shared_memory, 16, bytes + FENCE + !bytes))
        abort();
    memset(shared_memory, 0xff, bytes);
    memset((char *)shared_memory + bytes, 0xa5, FENCE);
}

static void shared_close(size_t bytes)
{
    const unsigned char *fence = (const unsigned char *)shared_memory + bytes;
    struct scd_emu_place end = {"shared memory", (int)bytes};
    for (int i = 0; i < FENCE; i++)
        if (fence[i] != 0xa5)
            fault("a write past the end of shared memory", end, end);
    free(shared_memory);
}

void scd_emu_run(const char *kernel, dim3 grid, unsigned block, size_t shared, scd_emu_thread body,
                 void *arg)
{
    struct scd_emu_place none = {"launch", 0};
    scd_emu_flush();
    scd_emu_unlock();
    kernel_name = kernel;
    kernel_body = body;
    kernel_arg = arg;
    n_threads = block;
    gridDim = grid;
    blockDim = dim3(block);
    if (block == 0 || block > MAX_THREADS || block % WARP || shared > MAX_SHARED ||
        grid.y > 65535 || grid.z != 1)
        fault("no such launch is possible", none, none);
    for (unsigned y = 0; y < grid.y; y++)
        for (unsigned x = 0; x < grid.x; x++) {
            blockIdx = dim3(x, y, 0);
            shared_open(shared);
            run_block();
            shared_close(shared);
        }
    scd_emu_lock();
}

void *scd_emu_shared(void)
{
    return shared_memory;
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
