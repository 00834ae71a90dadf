/* sandbox.c - see sandbox.h: the one user of libseccomp. */
#include "api/sandbox.h"

#include "api/confined_wire.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/landlock.h>
#include <seccomp.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { MAX_FILES = 64 };

/* The shadow of a sanitizer needs the address space, and its report files and system calls. */
#if defined(__has_feature)
#define HAS_FEATURE(x) __has_feature(x)
#else
#define HAS_FEATURE(x) 0
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) ||                               \
    HAS_FEATURE(address_sanitizer) || HAS_FEATURE(thread_sanitizer)
enum { IS_SANITIZED = 1 };
#else
enum { IS_SANITIZED = 0 };
#endif

bool scd_sandbox_is_open(void)
{
    return IS_SANITIZED;
}

static void limit(int resource, rlim_t most)
{
    struct rlimit r = {most, most};
    setrlimit((__rlimit_resource_t)resource, &r);
}

/* ---- files ---- */

#ifndef LANDLOCK_ACCESS_FS_TRUNCATE /* headers older than the third version of its interface */
#define LANDLOCK_ACCESS_FS_TRUNCATE (UINT64_C(1) << 14)
#endif

static const uint64_t reading = LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR;
static const uint64_t writing =
    LANDLOCK_ACCESS_FS_WRITE_FILE | LANDLOCK_ACCESS_FS_MAKE_REG | LANDLOCK_ACCESS_FS_REMOVE_FILE;
static const uint64_t never = LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_ACCESS_FS_REMOVE_DIR |
                              LANDLOCK_ACCESS_FS_MAKE_CHAR | LANDLOCK_ACCESS_FS_MAKE_DIR |
                              LANDLOCK_ACCESS_FS_MAKE_SOCK | LANDLOCK_ACCESS_FS_MAKE_FIFO |
                              LANDLOCK_ACCESS_FS_MAKE_BLOCK | LANDLOCK_ACCESS_FS_MAKE_SYM;

static void add_path(int ruleset, const char *path, uint64_t access)
{
    struct landlock_path_beneath_attr rule = {.allowed_access = access,
                                              .parent_fd = open(path, O_PATH | O_CLOEXEC)};
    struct stat facts;
    if (rule.parent_fd < 0)
        return;
    if (!fstat(rule.parent_fd, &facts) && !S_ISDIR(facts.st_mode))
        rule.allowed_access &= LANDLOCK_ACCESS_FS_READ_FILE;
    syscall(SYS_landlock_add_rule, ruleset, LANDLOCK_RULE_PATH_BENEATH, &rule, 0);
    close(rule.parent_fd);
}

static long landlock_version(void)
{
    return syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
}

bool scd_sandbox_has_files(void)
{
    return landlock_version() > 0;
}

/* False: there is Landlock, and it could not be had. */
static bool confine_files(const scd_sandbox *box)
{
    long version = landlock_version();
    uint64_t changing = version < 3 ? writing : writing | LANDLOCK_ACCESS_FS_TRUNCATE;
    const struct landlock_ruleset_attr all = {.handled_access_fs = reading | changing | never};
    if (version < 1)
        return true;
    int ruleset = (int)syscall(SYS_landlock_create_ruleset, &all, sizeof all, 0);
    if (ruleset < 0)
        return false;
    for (size_t i = 0; i < SCD_SANDBOX_MAX_PATHS; i++)
        if (box->reads[i])
            add_path(ruleset, box->reads[i], reading);
    if (box->writes)
        add_path(ruleset, box->writes, reading | changing);
    bool ok = syscall(SYS_landlock_restrict_self, ruleset, 0) == 0;
    close(ruleset);
    return ok;
}

/* ---- system calls ---- */

/* What reading and writing files, memory and one thread need; all else fails with EPERM. */
static const int needed_calls[] = {
    SCMP_SYS(read),
    SCMP_SYS(write),
    SCMP_SYS(readv),
    SCMP_SYS(writev),
    SCMP_SYS(pread64),
    SCMP_SYS(pwrite64),
    SCMP_SYS(lseek),
    SCMP_SYS(open),
    SCMP_SYS(openat),
    SCMP_SYS(close),
    SCMP_SYS(fstat),
    SCMP_SYS(stat),
    SCMP_SYS(lstat),
    SCMP_SYS(newfstatat),
    SCMP_SYS(statx),
    SCMP_SYS(statfs),
    SCMP_SYS(fstatfs),
    SCMP_SYS(access),
    SCMP_SYS(faccessat),
    SCMP_SYS(faccessat2),
    SCMP_SYS(getdents64),
    SCMP_SYS(readlink),
    SCMP_SYS(readlinkat),
    SCMP_SYS(getcwd),
    SCMP_SYS(unlink),
    SCMP_SYS(unlinkat),
    SCMP_SYS(ftruncate),
    SCMP_SYS(fallocate),
    SCMP_SYS(fsync),
    SCMP_SYS(fdatasync),
    SCMP_SYS(fadvise64),
    SCMP_SYS(flock),
    SCMP_SYS(dup),
    SCMP_SYS(poll),
    SCMP_SYS(mmap),
    SCMP_SYS(munmap),
    SCMP_SYS(mremap),
    SCMP_SYS(mprotect),
    SCMP_SYS(madvise),
    SCMP_SYS(brk),
    SCMP_SYS(futex),
    SCMP_SYS(sched_yield),
    SCMP_SYS(rt_sigaction),
    SCMP_SYS(rt_sigprocmask),
    SCMP_SYS(rt_sigreturn),
    SCMP_SYS(sigaltstack),
    SCMP_SYS(getpid),
    SCMP_SYS(gettid),
    SCMP_SYS(getuid),
    SCMP_SYS(geteuid),
    SCMP_SYS(getgid),
    SCMP_SYS(getegid),
    SCMP_SYS(uname),
    SCMP_SYS(sysinfo),
    SCMP_SYS(getrandom),
    SCMP_SYS(getrusage),
    SCMP_SYS(clock_gettime),
    SCMP_SYS(gettimeofday),
    SCMP_SYS(nanosleep),
    SCMP_SYS(clock_nanosleep),
    SCMP_SYS(restart_syscall),
    SCMP_SYS(exit),
    SCMP_SYS(exit_group),
};

static const int renaming_calls[] = {SCMP_SYS(rename), SCMP_SYS(renameat), SCMP_SYS(renameat2)};

static bool allow(scmp_filter_ctx filter, const int *calls, size_t n)
{
    for (size_t i = 0; i < n; i++)
        seccomp_rule_add(filter, SCMP_ACT_ALLOW, calls[i], 0); /* not there on every machine */
    return filter != NULL;
}

static bool allow_if(scmp_filter_ctx filter, int call, unsigned argument, scmp_datum_t is)
{
    const struct scmp_arg_cmp when = {argument, SCMP_CMP_EQ, is, 0};
    return seccomp_rule_add_array(filter, SCMP_ACT_ALLOW, call, 1, &when) == 0;
}

/* Calls by which a process could signal another one are its own alone: abort() sends itself one;
 * with F_SETOWN and F_SETSIG a descriptor would send any signal to anybody. */
static bool allow_own(scmp_filter_ctx filter)
{
    static const int commands[] = {F_GETFL, F_GETFD, F_SETFD, F_DUPFD, F_DUPFD_CLOEXEC};
    bool ok = allow_if(filter, SCMP_SYS(tgkill), 0, (scmp_datum_t)getpid());
    for (size_t i = 0; i < sizeof commands / sizeof commands[0] && ok; i++)
        ok = allow_if(filter, SCMP_SYS(fcntl), 1, (scmp_datum_t)commands[i]);
    return ok;
}

static bool confine_calls(const scd_sandbox *box)
{
    scmp_filter_ctx filter = seccomp_init(SCMP_ACT_ERRNO(EPERM));
    bool ok = filter && allow(filter, needed_calls, sizeof needed_calls / sizeof needed_calls[0]) &&
              allow_own(filter);
    if (ok && box->renames)
        allow(filter, renaming_calls, sizeof renaming_calls / sizeof renaming_calls[0]);
    ok = ok && seccomp_load(filter) == 0;
    seccomp_release(filter);
    return ok;
}

/* Where memory is out, this process goes before the one that started it. */
static void volunteer(void)
{
    int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return;
    if (write(fd, "1000", 4) < 0)
        errno = 0; /* it is asked for, not needed */
    close(fd);
}

bool scd_sandbox_enter(const scd_sandbox *box)
{
    volunteer();
    limit(RLIMIT_CORE, 0);
    limit(RLIMIT_NOFILE, MAX_FILES);
    if (box->file_bytes)
        limit(RLIMIT_FSIZE, box->file_bytes);
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    if (IS_SANITIZED)
        return true;
    if (box->memory_bytes)
        limit(RLIMIT_AS, box->memory_bytes);
    syscall(SYS_close_range, SCD_WIRE_FD + 1, ~0U, 0);
    return confine_files(box) && confine_calls(box);
}
