/*
 * The command that the measured programs run: it writes when it began.
 *
 *   stamp        one stamp, then the end
 *   stamp hold   one stamp, then sleep until a signal ends it
 *   stamp echo   one stamp, then one more for each SIGUSR1
 */
#include <signal.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "stamp.h"

static int write_stamp(void)
{
    struct timespec now;
    struct stamp stamp;

    clock_gettime(CLOCK_MONOTONIC, &now);
    stamp.nanoseconds = now.tv_sec * 1000000000LL + now.tv_nsec;
    stamp.pid = getpid();
    stamp.parent = getppid();
    return write(STDOUT_FILENO, &stamp, sizeof stamp) == sizeof stamp ? 0 : 1;
}

static int echo(void)
{
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigprocmask(SIG_BLOCK, &set, NULL);
    for (;;) {
        if (write_stamp() != 0)
            return 1;
        while (sigwaitinfo(&set, NULL) < 0)
            ;
    }
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "echo") == 0)
        return echo();
    if (write_stamp() != 0)
        return 1;
    if (argc > 1 && strcmp(argv[1], "hold") == 0)
        for (;;)
            pause();
    return 0;
}
