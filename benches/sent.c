/*
 * The taker sends its signal by itself, and nothing in it is changed to tell when.
 * The kernel's trace point signal:signal_generate tells, by the clock of the stamps.
 * An instance of its own keeps other users of the trace out of it, and us out of theirs.
 */
#define _GNU_SOURCE
#include "sent.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kit.h"

static char *instance;

static int open_trace(const char *name, int flags)
{
    char *path = text("%s/%s", instance, name);
    int file = open(path, flags | O_CLOEXEC);

    free(path);
    return file;
}

static void tell(const char *name, const char *value)
{
    int file = open_trace(name, O_WRONLY | O_TRUNC);

    if (file < 0 || write(file, value, strlen(value)) < 0)
        die("cannot write %s to %s/%s: %s", value, instance, name, strerror(errno));
    close(file);
}

void stop_watching(void)
{
    if (instance)
        rmdir(instance);
}

void begin_watching(const char *work)
{
    char *mounted = text("%s/tracing", work);

    if (instance)
        return;
    /* A mount name space of our own: the mount ends with us. */
    if (unshare(CLONE_NEWNS) != 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0
        || mkdir(mounted, 0700) != 0 || mount("tracefs", mounted, "tracefs", 0, NULL) != 0)
        die("the row `takeover` needs root and tracefs: %s", strerror(errno));
    instance = text("%s/instances/gateway-bench-%d", mounted, (int)getpid());
    if (mkdir(instance, 0700) != 0)
        die("cannot make %s: %s", instance, strerror(errno));
    atexit(stop_watching);
    tell("trace_clock", "mono");
}

void watch_for(pid_t target, int signal)
{
    char *filter = text("sig==%d && pid==%d", signal, (int)target);

    tell("events/signal/signal_generate/filter", filter);
    tell("events/signal/signal_generate/enable", "1");
    tell("trace", "");
    free(filter);
}

/* A line: `  gateway-4925    [001] d..1. 12345.678901: signal_generate: sig=15 ...` */
static int64_t stamp_of(char *line)
{
    char *end = strstr(line, ": signal_generate:");
    long whole, micros;

    if (!end || *line == '#')
        return 0;
    *end = '\0';
    if (sscanf(strrchr(line, ' '), "%ld.%ld", &whole, &micros) != 2)
        return 0;
    return whole * 1000000000LL + micros * 1000;
}

int64_t sent_at(void)
{
    char line[512];
    int64_t found = 0;
    FILE *trace = fdopen(open_trace("trace", O_RDONLY), "r");

    while (trace && found == 0 && fgets(line, sizeof line, trace))
        found = stamp_of(line);
    if (found == 0)
        die("the kernel saw no such signal");
    fclose(trace);
    return found;
}
