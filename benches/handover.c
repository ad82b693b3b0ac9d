/*
 * The least that an ordered takeover can be: handover FILE COMMAND [ARG...]
 *
 * Take the lock; if somebody has it, send SIGTERM to the pid in the file and
 * block until the lock comes. Write our pid, start COMMAND, pass SIGTERM on to
 * it, and end when it has ended. Nothing is proven, recorded or cleaned up.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/wait.h>
#include <unistd.h>

static sigset_t awaited;

static void fail(const char *what)
{
    perror(what);
    exit(70);
}

static void ask_holder(int file)
{
    char text[32] = "";
    pid_t holder;

    if (pread(file, text, sizeof text - 1, 0) < 0)
        fail("pread");
    holder = atoi(text);
    if (holder > 1 && kill(holder, SIGTERM) != 0)
        fail("kill");
}

static int take(const char *path)
{
    int file = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);

    if (file < 0)
        fail("open");
    if (flock(file, LOCK_EX | LOCK_NB) != 0) {
        ask_holder(file);
        if (flock(file, LOCK_EX) != 0)
            fail("flock");
    }
    return file;
}

static void sign(int file)
{
    char text[32];
    int length = snprintf(text, sizeof text, "%d\n", (int)getpid());

    if (pwrite(file, text, length, 0) != length || ftruncate(file, length) != 0)
        fail("pwrite");
}

static pid_t start(char **command)
{
    pid_t child = vfork();

    if (child == 0) {
        sigprocmask(SIG_UNBLOCK, &awaited, NULL);
        execv(command[0], command);
        _exit(127);
    }
    return child;
}

static int supervise(pid_t child)
{
    for (;;) {
        int status, signal = sigwaitinfo(&awaited, NULL);

        if (signal == SIGTERM)
            kill(child, SIGTERM);
        if (signal == SIGCHLD && waitpid(child, &status, WNOHANG) == child)
            return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    }
}

int main(int argc, char **argv)
{
    if (argc < 3)
        return 2;
    sigemptyset(&awaited);
    sigaddset(&awaited, SIGTERM);
    sigaddset(&awaited, SIGCHLD);
    sigprocmask(SIG_BLOCK, &awaited, NULL);
    sign(take(argv[1]));
    return supervise(start(argv + 2));
}
