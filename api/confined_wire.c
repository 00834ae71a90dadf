/* confined_wire.c - see confined_wire.h. */
#include "api/confined_wire.h"

#include <errno.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { PATH_BYTES = 4096 };

extern char **environ;

/* By its path where that is still there; an upgrade may have put another one in its place, and this
 * one is to be found by the link alone. */
static bool find_program(char program[PATH_BYTES])
{
    static const char link[] = "/proc/self/exe";
    ssize_t n = readlink(link, program, PATH_BYTES - 1);
    if (n <= 0)
        return false;
    program[n] = '\0';
    if (access(program, X_OK))
        memcpy(program, link, sizeof link);
    return true;
}

scd_code scd_wire_start(const char *argument, pid_t *child, int *fd, scd_error *err)
{
    char program[PATH_BYTES], word[64];
    char *argv[] = {program, word, NULL};
    int ends[2];
    posix_spawn_file_actions_t actions;
    snprintf(word, sizeof word, "%s", argument);
    *child = 0;
    *fd = -1;
    if (!find_program(program) || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends))
        return scd_fail(err, SCD_E_INTERNAL, "no process of its own: %s", strerror(errno));
    int failed = posix_spawn_file_actions_init(&actions);
    if (!failed) { /* dup2 onto itself clears the flag that would close it */
        failed = posix_spawn_file_actions_adddup2(&actions, ends[1], SCD_WIRE_FD);
        if (!failed)
            failed = posix_spawn(child, program, &actions, NULL, argv, environ);
        posix_spawn_file_actions_destroy(&actions);
    }
    close(ends[1]);
    if (!failed) {
        *fd = ends[0];
        return SCD_OK;
    }
    close(ends[0]);
    *child = 0;
    return scd_fail(err, SCD_E_INTERNAL, "no process of its own: %s", strerror(failed));
}

void scd_wire_put_u64(scd_buf *out, uint64_t value)
{
    scd_buf_append(out, &value, sizeof value);
}

void scd_wire_put_text(scd_buf *out, const char *text)
{
    size_t n = text ? strlen(text) : 0;
    uint32_t length = text && n < SCD_WIRE_NO_TEXT ? (uint32_t)n : SCD_WIRE_NO_TEXT;
    scd_buf_append(out, &length, sizeof length);
    if (text)
        scd_buf_append(out, text, n);
}

static bool take(scd_wire_in *in, void *out, size_t n)
{
    if (in->failed || (size_t)(in->end - in->at) < n) {
        in->failed = true;
        return false;
    }
    memcpy(out, in->at, n);
    in->at += n;
    return true;
}

uint64_t scd_wire_get_u64(scd_wire_in *in)
{
    uint64_t value = 0;
    take(in, &value, sizeof value);
    return value;
}

const char *scd_wire_get_text(scd_wire_in *in, scd_arena *arena)
{
    uint32_t n = 0;
    if (!take(in, &n, sizeof n) || n == SCD_WIRE_NO_TEXT)
        return NULL;
    if ((size_t)(in->end - in->at) < n || memchr(in->at, '\0', n)) {
        in->failed = true;
        return NULL;
    }
    const char *text = scd_arena_strndup(arena, in->at, n);
    in->at += n;
    in->failed = !text;
    return text;
}

const void *scd_wire_get_array(scd_wire_in *in, uint64_t n, size_t size, scd_arena *arena)
{
    size_t left = in->failed ? 0 : (size_t)(in->end - in->at);
    if (in->failed || n > left / size) {
        in->failed = true;
        return NULL;
    }
    void *out = scd_arena_alloc(arena, n, size);
    if (out)
        take(in, out, n * size);
    else
        in->failed = true;
    return in->failed ? NULL : out;
}
