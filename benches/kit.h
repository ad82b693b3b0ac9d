/* Processes, clocks and medians for the rows. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "stamp.h"

enum { ANY_CPU = -1 };

/* Ends everything that was started, says why on stderr, and exits. */
void die(const char *format, ...) __attribute__((noreturn, format(printf, 1, 2)));

char *text(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Makes this process the one that every orphan of a row comes to. */
void adopt(void);

/* Ends and reaps every process that a row has left. */
void end_all(void);

void pin(int cpu);

/* Whether what is started from now on goes before the machine's other work; for root only. */
bool press_ahead(bool ahead);
int64_t now(void);

/* Starts a command without a terminal; its stdout is `out`, its stderr nobody reads. */
pid_t start(char *const argv[], int out);
void end(pid_t pid);
void reap(pid_t pid);
void reap_zombies(void);

/* Runs a command to its end: microseconds from before the fork until it is reaped. */
double run(char *const argv[], int expected);

/* Waits until all of them sleep: three looks in a row, ten milliseconds apart. */
void settle(const pid_t *pids, size_t count);

struct stamp read_stamp(int in);

/* A number from /proc/PID/status, such as "Threads:". */
long status_number(pid_t pid, const char *key);
int64_t cpu_nanoseconds(pid_t pid);

/* System calls of a command and all it starts, by strace; -1 where strace is missing. */
long count_calls(char *const argv[]);

struct samples {
    double *values;
    size_t count, room;
};

void add(struct samples *samples, double value);
double quantile(struct samples *samples, double at);
