/* What stamp.c writes to its standard output. Shorter than PIPE_BUF, so it arrives whole. */
#pragma once

#include <stdint.h>
#include <sys/types.h>

struct stamp {
    int64_t nanoseconds; /* CLOCK_MONOTONIC */
    pid_t pid;
    pid_t parent;
};
