/* test_sandbox.c - what a confined process can still do, and what it cannot, tried by one that
 * wants to. */
#include "api/sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/landlock.h>
#include <linux/seccomp.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

enum { PATH_BYTES = 256, MEMORY = 1 << 30, FILE_LIMIT = 1 << 20 };

static char top[PATH_BYTES], mine[PATH_BYTES], input[PATH_BYTES], secret[PATH_BYTES];

static void make_file(const char *path)
{
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs("of others", f);
    fclose(f);
}

static int make_folders(void **state)
{
    (void)state;
    if (scd_sandbox_is_open())
        return 0;
    snprintf(top, sizeof top, "/tmp/scdiva-sandbox-XXXXXX");
    if (!mkdtemp(top))
        return -1;
    snprintf(mine, sizeof mine, "%.200s/mine", top);
    snprintf(input, sizeof input, "%.200s/input", top);
    snprintf(secret, sizeof secret, "%.200s/secret", top);
    make_file(input);
    make_file(secret);
    return mkdir(mine, 0700);
}

static int remove_folders(void **state)
{
    (void)state;
    char command[PATH_BYTES + 16];
    snprintf(command, sizeof command, "rm -rf '%s'", top);
    return *top && system(command) ? -1 : 0;
}

/* In a child, confined, that may write `mine` and read `input`. Its exit status: 0, or the line
 * that found something else. */
static void confined(int (*attempt)(void))
{
    int status = 0;
    if (scd_sandbox_is_open())
        skip();
    pid_t child = fork();
    assert_true(child >= 0);
    if (!child) {
        const scd_sandbox box = {.reads = {input},
                                 .writes = mine,
                                 .renames = true,
                                 .memory_bytes = MEMORY,
                                 .file_bytes = FILE_LIMIT};
        signal(SIGXFSZ, SIG_IGN);
        _exit(scd_sandbox_enter(&box) ? attempt() : 255);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    if (!WIFEXITED(status) || WEXITSTATUS(status))
        fail_msg("ended with %s %d", WIFEXITED(status) ? "line (modulo 256)" : "signal",
                 WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status));
}

#define EXPECT(x)                                                                                  \
    do {                                                                                           \
        if (!(x))                                                                                  \
            return __LINE__ & 0xFF;                                                                \
    } while (0)

static bool has_landlock(void)
{
    return syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION) > 0;
}

static const char *in(const char *folder, const char *name)
{
    static char paths[4][2 * PATH_BYTES];
    static int next;
    char *path = paths[next++ % 4];
    snprintf(path, sizeof paths[0], "%s/%s", folder, name);
    return path;
}

/* ---- what it may ---- */

static int try_own_work(void)
{
    char bytes[16];
    int fd = open(input, O_RDONLY);
    EXPECT(fd >= 0 && read(fd, bytes, sizeof bytes) == 9);
    close(fd);
    fd = open(in(mine, "new.tmp"), O_RDWR | O_CREAT | O_TRUNC, 0600);
    EXPECT(fd >= 0 && write(fd, "x", 1) == 1 && !ftruncate(fd, 100) && !fsync(fd));
    close(fd);
    EXPECT(!rename(in(mine, "new.tmp"), in(mine, "new")));
    fd = open(mine, O_RDONLY | O_DIRECTORY);
    EXPECT(fd >= 0 && !fsync(fd));
    EXPECT(!unlink(in(mine, "new")));
    return 0;
}

static void its_own_work_is_done(void **state)
{
    (void)state;
    confined(try_own_work);
}

static int try_to_abort(void)
{
    abort();
}

static void an_abort_is_one(void **state)
{
    (void)state;
    int status = 0;
    if (scd_sandbox_is_open())
        skip();
    pid_t child = fork();
    if (!child) {
        const scd_sandbox box = {.reads = {input}};
        _exit(scd_sandbox_enter(&box) ? try_to_abort() : 255);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
}

/* ---- what it may not ---- */

static int try_files_of_others(void)
{
    struct stat facts;
    EXPECT(open(secret, O_RDONLY) < 0 && errno == EACCES);
    EXPECT(open(secret, O_WRONLY | O_TRUNC) < 0 && errno == EACCES);
    EXPECT(open("/etc/passwd", O_RDONLY) < 0 && errno == EACCES);
    EXPECT(open("/proc/self/mem", O_RDWR) < 0 && errno == EACCES);
    EXPECT(open(in(top, "new"), O_WRONLY | O_CREAT, 0600) < 0 && errno == EACCES);
    EXPECT(open(input, O_WRONLY) < 0 && errno == EACCES);
    EXPECT(unlink(secret) < 0 && errno == EACCES);
    EXPECT(unlink(input) < 0 && errno == EACCES);
    EXPECT(rename(input, in(mine, "input")) < 0);
    EXPECT(mkdir(in(mine, "folder"), 0700) < 0);
    EXPECT(symlink("/etc/passwd", in(mine, "link")) < 0);
    EXPECT(link(secret, in(mine, "link")) < 0);
    EXPECT(truncate(secret, 0) < 0 && !stat(secret, &facts) && facts.st_size == 9);
    return 0;
}

static void files_of_others_are_neither_read_nor_changed(void **state)
{
    (void)state;
    if (!has_landlock())
        skip();
    confined(try_files_of_others);
}

static int try_others(void)
{
    int ends[2];
    char *argv[] = {"true", NULL};
    pid_t parent = getppid();
    EXPECT(parent < 0); /* it is not even told whose child it is */
    EXPECT(kill(1, SIGKILL) < 0 && errno == EPERM);
    EXPECT(socket(AF_INET, SOCK_STREAM, 0) < 0 && errno == EPERM);
    EXPECT(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) < 0);
    EXPECT(execv("/bin/true", argv) < 0);
    EXPECT(fork() < 0);
    EXPECT(prctl(PR_SET_DUMPABLE, 1) < 0);
    EXPECT(syscall(SYS_ptrace, 0, 0, 0, 0) < 0 && errno == EPERM);
    return 0;
}

static void programs_networks_and_processes_are_out_of_reach(void **state)
{
    (void)state;
    confined(try_others);
}

static pid_t tests_pid;
static int open_end; /* of a socket that the child keeps */

static int try_signals(void)
{
    EXPECT(syscall(SYS_tgkill, tests_pid, tests_pid, SIGKILL) < 0 && errno == EPERM);
    EXPECT(syscall(SYS_tkill, tests_pid, SIGKILL) < 0 && errno == EPERM);
    EXPECT(syscall(SYS_rt_sigqueueinfo, tests_pid, SIGKILL, NULL) < 0 && errno == EPERM);
    EXPECT(fcntl(open_end, F_SETOWN, tests_pid) < 0 && errno == EPERM);
    EXPECT(fcntl(open_end, F_SETFL, O_ASYNC) < 0 && errno == EPERM);
    EXPECT(fcntl(open_end, F_GETFL) >= 0);
    return 0;
}

static void nobody_else_gets_a_signal(void **state)
{
    (void)state;
    tests_pid = getpid();
    open_end = 0; /* standard input is below those that are closed */
    confined(try_signals);
}

static int try_too_much(void)
{
    struct rlimit more = {RLIM_INFINITY, RLIM_INFINITY};
    static char bytes[FILE_LIMIT + 1];
    EXPECT(!malloc((size_t)2 * MEMORY));
    EXPECT(setrlimit(RLIMIT_AS, &more) < 0);
    int fd = open(in(mine, "large"), O_WRONLY | O_CREAT, 0600);
    EXPECT(fd >= 0 && write(fd, bytes, sizeof bytes) == FILE_LIMIT);
    EXPECT(write(fd, bytes, 1) < 0 && errno == EFBIG);
    return 0;
}

static void memory_and_files_have_their_bounds(void **state)
{
    (void)state;
    confined(try_too_much);
}

/* What some containers do: Landlock is not for them. */
static bool forbid_landlock(void)
{
    struct sock_filter steps[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_landlock_create_ruleset, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
    const struct sock_fprog program = {4, steps};
    return !prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) &&
           !prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
}

static void without_landlock_all_else_holds(void **state)
{
    (void)state;
    int status = 0;
    if (scd_sandbox_is_open())
        skip();
    pid_t child = fork();
    assert_true(child >= 0);
    if (!child) {
        const scd_sandbox box = {.reads = {input}, .memory_bytes = MEMORY};
        bool ok = forbid_landlock() && !scd_sandbox_has_files() && scd_sandbox_enter(&box) &&
                  socket(AF_INET, SOCK_STREAM, 0) < 0 && open(input, O_RDONLY) >= 0;
        _exit(ok ? 0 : 1);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static int secret_fd;

static int try_descriptors(void)
{
    char byte;
    EXPECT(read(secret_fd, &byte, 1) < 0 && errno == EBADF);
    return 0;
}

static void descriptors_that_it_was_left_are_closed(void **state)
{
    (void)state;
    if (scd_sandbox_is_open())
        skip();
    int low = open(secret, O_RDONLY);
    assert_true(low >= 0);
    secret_fd = fcntl(low, F_DUPFD, 10);
    close(low);
    confined(try_descriptors);
    close(secret_fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(its_own_work_is_done),
        cmocka_unit_test(an_abort_is_one),
        cmocka_unit_test(files_of_others_are_neither_read_nor_changed),
        cmocka_unit_test(programs_networks_and_processes_are_out_of_reach),
        cmocka_unit_test(nobody_else_gets_a_signal),
        cmocka_unit_test(memory_and_files_have_their_bounds),
        cmocka_unit_test(without_landlock_all_else_holds),
        cmocka_unit_test(descriptors_that_it_was_left_are_closed),
    };
    return cmocka_run_group_tests(tests, make_folders, remove_folders);
}
