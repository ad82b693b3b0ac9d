#define _GNU_SOURCE
#include "kit.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "sent.h"

static int nowhere;

void die(const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    fputs("bench: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    end_all();
    exit(1);
}

char *text(const char *format, ...)
{
    va_list arguments;
    char *made;

    va_start(arguments, format);
    if (vasprintf(&made, format, arguments) < 0)
        die("no memory");
    va_end(arguments);
    return made;
}

static void interrupted(int signal)
{
    end_all();
    stop_watching();
    _exit(128 + signal);
}

void adopt(void)
{
    struct sigaction action = {.sa_handler = interrupted};

    nowhere = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (nowhere < 0 || prctl(PR_SET_CHILD_SUBREAPER, 1) != 0)
        die("cannot prepare: %s", strerror(errno));
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGHUP, &action, NULL);
    /* A shell starts what it does not wait for with SIGQUIT ignored. */
    signal(SIGQUIT, SIG_DFL);
}

/* Only what is needed after a signal: no stdio. */
static pid_t any_child(void)
{
    char list[64];
    int file = open("/proc/thread-self/children", O_RDONLY | O_CLOEXEC);
    ssize_t length = file < 0 ? -1 : read(file, list, sizeof list - 1);

    if (file >= 0)
        close(file);
    if (length <= 0)
        return 0;
    list[length] = '\0';
    return atoi(list);
}

void end_all(void)
{
    pid_t child;

    while ((child = any_child()) > 0) {
        kill(child, SIGKILL);
        waitpid(child, NULL, 0);
    }
}

void pin(int cpu)
{
    static cpu_set_t before;
    static bool known;
    cpu_set_t one;

    if (!known)
        known = sched_getaffinity(0, sizeof before, &before) == 0;
    CPU_ZERO(&one);
    CPU_SET(cpu == ANY_CPU ? 0 : cpu, &one);
    if (sched_setaffinity(0, sizeof one, cpu == ANY_CPU ? &before : &one) != 0)
        die("cannot choose a processor: %s", strerror(errno));
}

bool press_ahead(bool ahead)
{
    struct sched_param first = {.sched_priority = ahead ? 1 : 0};

    return sched_setscheduler(0, ahead ? SCHED_RR : SCHED_OTHER, &first) == 0;
}

int64_t now(void)
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000LL + time.tv_nsec;
}

/* A session of its own: whether the bench has a terminal must not change what is measured. */
static void become(char *const argv[], int out, bool dies_with_us)
{
    setsid();
    if (dies_with_us)
        prctl(PR_SET_PDEATHSIG, SIGKILL);
    dup2(nowhere, STDIN_FILENO);
    dup2(out, STDOUT_FILENO);
    dup2(nowhere, STDERR_FILENO);
    execv(argv[0], argv);
    _exit(127);
}

static pid_t spawn(char *const argv[], int out, bool dies_with_us)
{
    pid_t child = vfork();

    if (child == 0)
        become(argv, out, dies_with_us);
    if (child < 0)
        die("cannot fork: %s", strerror(errno));
    return child;
}

pid_t start(char *const argv[], int out)
{
    return spawn(argv, out < 0 ? nowhere : out, true);
}

void reap(pid_t pid)
{
    while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
        ;
}

void reap_zombies(void)
{
    while (waitpid(-1, NULL, WNOHANG) > 0)
        ;
}

void end(pid_t pid)
{
    kill(pid, SIGKILL);
    reap(pid);
}

double run(char *const argv[], int expected)
{
    int64_t began = now();
    pid_t child = spawn(argv, nowhere, false);
    int status = 0;

    if (wait4(child, &status, 0, NULL) != child)
        die("cannot wait for %s: %s", argv[0], strerror(errno));
    double taken = (now() - began) / 1e3;

    /* A program that fails is quick: it must not count. */
    if (!WIFEXITED(status) || WEXITSTATUS(status) != expected)
        die("%s %s ended with wait status %#x, expected exit %d", argv[0], argv[1], status, expected);
    return taken;
}

static char *read_all(const char *path, char *buffer, size_t size)
{
    int file = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t length = file < 0 ? -1 : read(file, buffer, size - 1);

    if (file >= 0)
        close(file);
    buffer[length < 0 ? 0 : length] = '\0';
    return length < 0 ? NULL : buffer;
}

static bool sleeps(pid_t pid)
{
    char path[64], stat[512], *after;

    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    if (!read_all(path, stat, sizeof stat) || !(after = strrchr(stat, ')')))
        die("process %d is gone", (int)pid);
    if (after[2] == 'Z')
        die("process %d has ended", (int)pid);
    return after[2] == 'S';
}

static bool all_sleep(const pid_t *pids, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (!sleeps(pids[i]))
            return false;
    return true;
}

static void pause_milliseconds(long milliseconds)
{
    struct timespec time = {milliseconds / 1000, milliseconds % 1000 * 1000000};

    while (nanosleep(&time, &time) != 0 && errno == EINTR)
        ;
}

void settle(const pid_t *pids, size_t count)
{
    int64_t limit = now() + 60 * 1000000000LL;

    for (int looks = 0; looks < 3;) {
        looks = all_sleep(pids, count) ? looks + 1 : 0;
        if (now() > limit)
            die("the processes do not come to rest");
        pause_milliseconds(10);
    }
}

struct stamp read_stamp(int in)
{
    struct pollfd ready = {.fd = in, .events = POLLIN};
    struct stamp stamp;

    if (poll(&ready, 1, 60000) != 1 || read(in, &stamp, sizeof stamp) != sizeof stamp)
        die("no command was started within a minute");
    return stamp;
}

long status_number(pid_t pid, const char *key)
{
    char path[64], status[8192], *found;

    snprintf(path, sizeof path, "/proc/%d/status", (int)pid);
    if (!read_all(path, status, sizeof status) || !(found = strstr(status, key)))
        die("process %d has no %s", (int)pid, key);
    return atol(found + strlen(key));
}

int64_t cpu_nanoseconds(pid_t pid)
{
    char path[64], numbers[128];

    snprintf(path, sizeof path, "/proc/%d/schedstat", (int)pid);
    if (!read_all(path, numbers, sizeof numbers))
        die("process %d has no schedstat", (int)pid);
    return atoll(numbers);
}

/* The line `100.00 0.001 12 97 3 total` of `strace -c`; the errors may be missing. */
static long total_of(FILE *summary)
{
    char line[256];
    long calls = -1;

    while (fgets(line, sizeof line, summary))
        if (strstr(line, " total"))
            sscanf(line, "%*s %*s %*s %ld", &calls);
    return calls;
}

long count_calls(char *const argv[])
{
    char *traced[32] = {"/usr/bin/strace", "-f", "-c", "-o", text("calls.%d", (int)getpid())};
    size_t used = 5;
    FILE *summary;
    long calls;

    for (size_t i = 0; argv[i] && used < 31; i++)
        traced[used++] = argv[i];
    reap(spawn(traced, nowhere, true));
    summary = fopen(traced[4], "re");
    if (!summary)
        return -1;
    calls = total_of(summary);
    fclose(summary);
    unlink(traced[4]);
    return calls;
}

void add(struct samples *samples, double value)
{
    if (samples->count == samples->room) {
        samples->room = samples->room * 2 + 64;
        samples->values = realloc(samples->values, samples->room * sizeof value);
        if (!samples->values)
            die("no memory");
    }
    samples->values[samples->count++] = value;
}

static int by_value(const void *left, const void *right)
{
    double a = *(const double *)left, b = *(const double *)right;

    return (a > b) - (a < b);
}

double quantile(struct samples *samples, double at)
{
    double place = at * (samples->count - 1);
    size_t below = (size_t)place;

    if (samples->count == 0)
        die("nothing was measured");
    qsort(samples->values, samples->count, sizeof *samples->values, by_value);
    if (below + 1 >= samples->count)
        return samples->values[below];
    return samples->values[below]
        + (place - below) * (samples->values[below + 1] - samples->values[below]);
}
