/* When a signal was sent, whoever sent it: from the kernel's own trace. Needs root. */
#pragma once

#include <stdint.h>
#include <sys/types.h>

/* Makes the trace visible below WORKDIR, for this process and what it starts. */
void begin_watching(const char *work);

/* Takes the trace away again; done at exit, and to be done at a signal. Async-signal-safe. */
void stop_watching(void);

/* From now on only this signal to this process counts. */
void watch_for(pid_t target, int signal);

/* CLOCK_MONOTONIC nanoseconds, exact to a microsecond. */
int64_t sent_at(void);
