/* main.c - scdivad: options in, a running daemon, signals out. */
#include "api/confined.h"
#include "engine/base/log.h"
#include "engine/base/mem.h"
#include "server/daemon.h"
#include "server/job_writer.h"

#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { EXIT_USAGE = 2, MAX_TEXT_BYTES = 64 << 10, OWN_PAGES_BYTES = 256 << 10 };

extern char **environ;

static int print(void (*write_text)(scd_buf *out))
{
    scd_buf text;
    scd_buf_init(&text, MAX_TEXT_BYTES);
    write_text(&text);
    int rc = text.data && fputs(text.data, stdout) >= 0 ? EXIT_SUCCESS : EXIT_FAILURE;
    scd_buf_release(&text);
    return rc;
}

/* Readers of jobs' files write where nothing else is kept: the root may be read-only, and /tmp is
 * everybody's. Before any thread, for that is when the environment may change. */
static void set_scratch(const scd_config *config)
{
    size_t n = strlen(config->data) + sizeof "/" SCD_JOBS_SCRATCH;
    char *path = scd_malloc(n, 1);
    if (!path)
        return;
    snprintf(path, n, "%s/" SCD_JOBS_SCRATCH, config->data);
    setenv("TMPDIR", path, 0);
    free(path);
}

/* Serve until SIGTERM or SIGINT; a second one kills at once. With keys, SIGHUP reads
 * their file again. */
static int serve(const scd_config *config)
{
    sigset_t stop;
    sigemptyset(&stop);
    sigaddset(&stop, SIGTERM);
    sigaddset(&stop, SIGINT);
    if (*config->keys)
        sigaddset(&stop, SIGHUP);
    pthread_sigmask(SIG_BLOCK, &stop, NULL);
    signal(SIGPIPE, SIG_IGN);

    scd_daemon daemon;
    scd_error err = {0};
    scd_code code = scd_daemon_start(&daemon, config, &err);
    if (code) {
        scd_log(SCD_LOG_ERROR, "start_failed", "code", scd_code_name(code), "message", err.message,
                NULL);
    } else {
        int signal_number;
        while (!sigwait(&stop, &signal_number) && signal_number == SIGHUP)
            scd_daemon_read_keys(&daemon);
        SCD_LOG(INFO, "stopping", "signal", signal_number == SIGTERM ? "SIGTERM" : "SIGINT");
        sigdelset(&stop, SIGHUP); /* which does not hurry the end */
        pthread_sigmask(SIG_UNBLOCK, &stop, NULL);
    }
    if (!scd_daemon_stop(&daemon)) {
        SCD_LOG(ERROR, "stopped", "message", "a device that does not answer was left behind");
        fflush(NULL);
        _exit(EXIT_FAILURE);
    }
    if (!code)
        SCD_LOG(INFO, "stopped");
    return code ? EXIT_FAILURE : EXIT_SUCCESS;
}

int main(int argc, char **argv)
{
    int status;
    /* The reader of a job's file, the writer of its result. */
    if (scd_confined_main(argc, argv, &status) || scd_job_writer_main(argc, argv, &status))
        return status;
    /* What is large goes back to the system when it is freed, however often that was: glibc would
     * raise this bound with every large block and keep the memory of the largest bodies. */
    mallopt(M_MMAP_THRESHOLD, OWN_PAGES_BYTES);
    scd_config config;
    scd_config_action action;
    scd_error err = {0};
    scd_code code = scd_config_load(argc, argv, environ, &config, &action, &err);
    if (code) {
        fprintf(stderr, "scdivad: %s\n", err.message);
        return EXIT_USAGE;
    }
    int rc = EXIT_SUCCESS;
    switch (action) {
    case SCD_CONFIG_HELP:
        rc = print(scd_config_help);
        break;
    case SCD_CONFIG_PRINT:
        rc = print(scd_config_sample);
        break;
    case SCD_CONFIG_VERSION:
        puts("scdivad " SCD_VERSION);
        break;
    case SCD_CONFIG_RUN:
        scd_log_setup((scd_log_level)config.log_level, config.log_format == 1);
        set_scratch(&config);
        rc = serve(&config);
        break;
    }
    scd_config_release(&config);
    return rc;
}
