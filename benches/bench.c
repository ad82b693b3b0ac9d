/*
 * One table: what the program costs beside its peers.
 *
 *   bench [-r ROUNDS] [-s SECONDS] [-c CPU] PROGRAMS WORKDIR [ROW...]
 *
 * PROGRAMS is a directory with the measured programs, WORKDIR an empty one that
 * may be filled. Started by `benches/run`; see README.md for what a number means.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kit.h"
#include "sent.h"

enum { WARM_UP = 20, MOST_STANDBYS = 1000 };

static int rounds = 500;
static int seconds = 60;
static int cpu = 1;
static char *programs, *work;

/* ---- the table ---- */

struct line {
    const char *what, *against;
    double must, aim;
    double value; /* what must and aim speak of */
    char *measured, *ours, *peer, *calls;
};

static const char *verdict(const struct line *line)
{
    /* Limits have two decimals, so have the values that are compared with them. */
    if (line->value < line->aim + 0.005)
        return "aim";
    return line->value < line->must + 0.005 ? "must" : "MISS";
}

static void print_head(void)
{
    const char *format = "| %-42s | %-38s | %-18s | %5s | %5s | %-4s | %-22s | %-22s | %-9s |\n";

    printf(format, "what", "against", "measured", "must", "aim", "", "ours", "peer", "calls");
    printf(format, "---", "---", "---", "---", "---", "---", "---", "---", "---");
    fflush(stdout);
}

static void print_line(const struct line *line)
{
    printf("| %-42s | %-38s | %-18s | %5.2f | %5.2f | %-4s | %-22s | %-22s | %-9s |\n", line->what,
           line->against, line->measured, line->must, line->aim, verdict(line), line->ours,
           line->peer, line->calls ? line->calls : "");
    fflush(stdout);
}

struct duel {
    struct samples ours, peer, ratios;
};

static void score(struct duel *duel, double ours, double peer)
{
    add(&duel->ours, ours);
    add(&duel->peer, peer);
    add(&duel->ratios, ours / peer);
}

/* The median of the ratios of the rounds: what drifts over minutes drifts in both. */
static void conclude(struct duel *duel, struct line *line)
{
    line->value = quantile(&duel->ratios, 0.5);
    line->measured = text("%.2f (%.2f-%.2f)", line->value, quantile(&duel->ratios, 0.25),
                          quantile(&duel->ratios, 0.75));
    line->ours = text("%.0f us", quantile(&duel->ours, 0.5));
    line->peer = text("%.0f us", quantile(&duel->peer, 0.5));
    print_line(line);
}

/* ---- commands, from start to end ---- */

static char *program(const char *name)
{
    return text("%s/%s", programs, name);
}

static char *file(const char *name)
{
    return text("%s/%s", work, name);
}

#define ARGV(...) ((char *[]){__VA_ARGS__, NULL})

static double run_after(useconds_t pause, char *const argv[], int exit)
{
    /* To sleep for no time is to sleep for 50 us. */
    if (pause)
        usleep(pause);
    return run(argv, exit);
}

/* Who goes first alternates: the second finds warmer caches. */
static void race_with_pauses(useconds_t pause, struct line line, char *const ours[], int our_exit,
                             char *const peer[], int peer_exit, int count)
{
    struct duel duel = {0};
    double our_time, peer_time;

    for (int i = -WARM_UP; i < count; i++) {
        if (i % 2)
            our_time = run_after(pause, ours, our_exit);
        peer_time = run_after(pause, peer, peer_exit);
        if (i % 2 == 0)
            our_time = run_after(pause, ours, our_exit);
        if (i >= 0)
            score(&duel, our_time, peer_time);
    }
    line.calls = text("%ld / %ld", count_calls(ours), count_calls(peer));
    conclude(&duel, &line);
}

static void race(struct line line, char *const ours[], int our_exit, char *const peer[],
                 int peer_exit, int count)
{
    pin(cpu);
    press_ahead(true);
    race_with_pauses(0, line, ours, our_exit, peer, peer_exit, count);
    press_ahead(false);
    pin(ANY_CPU);
}

static void row_itself(void)
{
    char *lock = file("itself.lock");
    char **flock = ARGV(program("flock"), "-n", lock, "/bin/true");

    race((struct line){.what = "flock -n, to know the noise", .against = "the same", .must = 1.03, .aim = 1},
         flock, 0, flock, 0, rounds);
}

static void row_start(void)
{
    race((struct line){.what = "run -- /bin/true", .against = "flock -n FILE /bin/true", .must = 1, .aim = 0.85},
         ARGV(program("gateway"), "run", "-f", file("start.pid"), "--", "/bin/true"), 0,
         ARGV(program("flock"), "-n", file("start.lock"), "/bin/true"), 0, rounds);
}

static void row_exec(void)
{
    race((struct line){.what = "run --exec -- /bin/true", .against = "flock -n -F FILE /bin/true", .must = 0.95, .aim = 0.8},
         ARGV(program("gateway"), "run", "--exec", "-f", file("exec.pid"), "--", "/bin/true"), 0,
         ARGV(program("flock"), "-n", "-F", file("exec.lock"), "/bin/true"), 0, rounds);
}

static void row_replace(void)
{
    char *pid_file = file("replace.pid");

    race((struct line){.what = "run --replace -- /bin/true, nobody holding", .against = "run -- /bin/true", .must = 1.02, .aim = 1},
         ARGV(program("gateway"), "run", "--replace", "-f", pid_file, "--", "/bin/true"), 0,
         ARGV(program("gateway"), "run", "-f", pid_file, "--", "/bin/true"), 0, rounds);
}

/* Somebody who holds, and sleeps. */
static pid_t hold(char *const argv[], int out, int in)
{
    pid_t holder = start(argv, out);

    settle((pid_t[]){holder, read_stamp(in).pid}, 2);
    return holder;
}

static void make_pipe(int ends[2])
{
    if (pipe2(ends, O_CLOEXEC) != 0)
        die("cannot make a pipe: %s", strerror(errno));
}

/* Against a holder of its own kind each. */
static void race_refused(struct line line, char *const ours[], int our_exit, char *pid_file)
{
    int ends[2];
    char *lock = file("refusal.lock");

    make_pipe(ends);
    hold(ARGV(program("gateway"), "run", "-f", pid_file, "--", program("stamp"), "hold"), ends[1], ends[0]);
    hold(ARGV(program("flock"), lock, program("stamp"), "hold"), ends[1], ends[0]);
    race(line, ours, our_exit, ARGV(program("flock"), "-n", lock, "/bin/true"), 1, rounds);
    end_all();
}

static void row_refusal(void)
{
    char *pid_file = file("refusal.pid");

    race_refused((struct line){.what = "run, refused", .against = "flock -n, refused", .must = 1.1, .aim = 0.95},
                 ARGV(program("gateway"), "run", "-f", pid_file, "--", "/bin/true"), 80, pid_file);
}

static void row_status(void)
{
    char *pid_file = file("status.pid");

    race_refused((struct line){.what = "status of a live holder", .against = "flock -n, refused", .must = 1.3, .aim = 1},
                 ARGV(program("gateway"), "status", "-f", pid_file), 0, pid_file);
}

/* ---- standing in line ---- */

/* One holder, its command, and those who wait; each who gets the lock holds it until asked. */
struct line_up {
    char **argv;
    int ends[2];
    pid_t holder, command;
    pid_t waiting[MOST_STANDBYS + 1];
    int count;
};

static void enlist(struct line_up *line_up)
{
    line_up->waiting[line_up->count++] = start(line_up->argv, line_up->ends[1]);
}

static void promote(struct line_up *line_up, struct stamp stamp)
{
    for (int i = 0; i < line_up->count; i++)
        if (line_up->waiting[i] == stamp.parent) {
            line_up->waiting[i] = line_up->waiting[--line_up->count];
            line_up->holder = stamp.parent;
            line_up->command = stamp.pid;
            return;
        }
    die("process %d started a command, but it was not in line", (int)stamp.parent);
}

static void open_line(struct line_up *line_up, char **argv, int waiting)
{
    *line_up = (struct line_up){.argv = argv};
    make_pipe(line_up->ends);
    enlist(line_up);
    promote(line_up, read_stamp(line_up->ends[0]));
    for (int i = 0; i < waiting; i++)
        enlist(line_up);
}

static void settle_line(struct line_up *line_up)
{
    settle(line_up->waiting, line_up->count);
    settle((pid_t[]){line_up->holder, line_up->command}, 2);
}

/* From the signal until the next command runs, in microseconds. */
static double advance(struct line_up *line_up, pid_t target, int signal)
{
    int64_t began;
    struct stamp stamp;

    settle_line(line_up);
    began = now();
    kill(target, signal);
    stamp = read_stamp(line_up->ends[0]);
    promote(line_up, stamp);
    enlist(line_up);
    return (stamp.nanoseconds - began) / 1e3;
}

static void close_line(struct line_up *line_up)
{
    end_all();
    close(line_up->ends[0]);
    close(line_up->ends[1]);
}

/* flock's command outlives it and has to be ended; it comes to us as an orphan. */
static double crash(struct line_up *line_up)
{
    pid_t orphan = line_up->command;
    double taken = advance(line_up, line_up->holder, SIGKILL);

    kill(orphan, SIGKILL);
    reap_zombies();
    return taken;
}

static char **waiting_gateway(char *pid_file)
{
    static char *argv[9];

    memcpy(argv, ARGV(program("gateway"), "run", "--wait", "-f", pid_file, "--", program("stamp"), "hold"), sizeof argv);
    return argv;
}

/* A standby that has come just now has not yet noted who is none of the payload: it looks once a second, and leaves
   out whoever is younger than one. */
static void crash_after(unsigned seconds, int count, const char *what)
{
    struct line_up ours, peer;
    struct duel duel = {0};

    press_ahead(true);
    open_line(&ours, waiting_gateway(file("crash.pid")), 1);
    /* -o: otherwise flock's command keeps the lock when flock is killed. */
    open_line(&peer, ARGV(program("flock"), "-o", file("crash.lock"), program("stamp"), "hold"), 1);
    for (int i = -2; i < count; i++) {
        double our_time, peer_time;

        sleep(seconds);
        our_time = crash(&ours);
        peer_time = crash(&peer);
        if (i >= 0)
            score(&duel, our_time, peer_time);
    }
    press_ahead(false);
    close_line(&ours);
    close_line(&peer);
    conclude(&duel, &(struct line){.what = what, .against = "a waiter blocked in flock(1)", .must = 1.25, .aim = 1.05});
}

static void row_crash(void)
{
    crash_after(3, rounds / 12, "SIGKILL of the holder to the standby's command");
    crash_after(0, rounds / 2, "the same, the standby came that very moment");
}

/* flock(1) knows no order to stop: its command is asked, and flock ends with it. */
static void stand_by(int standbys, int count)
{
    struct line_up ours, peer;
    struct duel duel = {0};

    open_line(&ours, waiting_gateway(file(text("line.%d.pid", standbys))), standbys);
    open_line(&peer, ARGV(program("flock"), file(text("line.%d.lock", standbys)), program("stamp"), "hold"), standbys);
    for (int i = -2; i < count; i++) {
        double our_time = advance(&ours, ours.holder, SIGTERM);
        double peer_time = advance(&peer, peer.command, SIGTERM);

        reap_zombies();
        if (i >= 0)
            score(&duel, our_time, peer_time);
    }
    close_line(&ours);
    close_line(&peer);
    conclude(&duel, &(struct line){.what = text("ordered stop with %d standbys", standbys), .against = "as many waiters blocked in flock(1)", .must = 2, .aim = 1.1});
}

static void row_standbys(void)
{
    stand_by(10, rounds / 4);
    stand_by(100, rounds / 8);
    stand_by(1000, rounds / 25);
}

/* ---- taking over ---- */

struct reign {
    pid_t holder, command;
};

/* From the taker's signal to the holder until the taker's command runs. */
static double take_over(struct reign *reign, char *const argv[], int out, int in)
{
    pid_t before = reign->holder;
    struct stamp stamp;
    int64_t sent;

    settle((pid_t[]){reign->holder, reign->command}, 2);
    watch_for(before, SIGTERM);
    reign->holder = start(argv, out);
    stamp = read_stamp(in);
    sent = sent_at();
    if (stamp.parent != reign->holder)
        die("the command that started is not the taker's");
    reign->command = stamp.pid;
    reap(before);
    return (stamp.nanoseconds - sent) / 1e3;
}

static struct reign begin_reign(char *const argv[], int out, int in)
{
    pid_t holder = start(argv, out);

    return (struct reign){holder, read_stamp(in).pid};
}

static void row_takeover(void)
{
    char **ours = ARGV(program("gateway"), "run", "--replace", "-f", file("takeover.pid"), "--", program("stamp"), "hold");
    char **peer = ARGV(program("handover"), file("takeover.lock"), program("stamp"), "hold");
    struct duel duel = {0};
    int ends[2];

    make_pipe(ends);
    begin_watching(work);
    press_ahead(true);
    struct reign our_reign = begin_reign(ours, ends[1], ends[0]);
    struct reign peer_reign = begin_reign(peer, ends[1], ends[0]);
    for (int i = -5; i < rounds / 2; i++) {
        double our_time = take_over(&our_reign, ours, ends[1], ends[0]);
        double peer_time = take_over(&peer_reign, peer, ends[1], ends[0]);

        if (i >= 0)
            score(&duel, our_time, peer_time);
    }
    press_ahead(false);
    end_all();
    conclude(&duel, &(struct line){.what = "takeover: signal sent to new command running", .against = "two C processes doing only that", .must = 2, .aim = 1.3});
}

/* ---- rest ---- */

struct rest {
    long switches;
    int64_t cpu;
};

static struct rest look(pid_t pid)
{
    return (struct rest){status_number(pid, "\nvoluntary_ctxt_switches:"), cpu_nanoseconds(pid)};
}

/* Its own look at the path is not counted as a wake-up, but its price is. */
static void report_rest(const char *what, pid_t pid, struct rest before, int backstops, long peer)
{
    struct rest after = look(pid);
    long wakes = after.switches - before.switches;
    double percent = (after.cpu - before.cpu) / (seconds * 1e7);
    struct line line = {.what = what, .against = "flock(1)"};

    line.value = wakes > backstops ? wakes - backstops : 0;
    if (percent > 0.1)
        line.value = wakes;
    line.measured = text("%.0f", line.value);
    line.ours = text("%ld in %d s, %.4f %%", wakes, seconds, percent);
    line.peer = text("%ld", peer);
    print_line(&line);
}

static void row_idle(void)
{
    struct line_up ours, peer;

    open_line(&ours, waiting_gateway(file("idle.pid")), 1);
    open_line(&peer, ARGV(program("flock"), file("idle.lock"), program("stamp"), "hold"), 1);
    settle_line(&ours);
    settle_line(&peer);
    struct rest holder = look(ours.holder), standby = look(ours.waiting[0]);
    struct rest peer_holder = look(peer.holder), peer_standby = look(peer.waiting[0]);
    sleep(seconds);
    report_rest(text("wake-ups in %d s: holder", seconds), ours.holder, holder, seconds / 10,
                look(peer.holder).switches - peer_holder.switches);
    report_rest(text("wake-ups in %d s: standby", seconds), ours.waiting[0], standby, seconds,
                look(peer.waiting[0]).switches - peer_standby.switches);
    close_line(&ours);
    close_line(&peer);
}

static void row_memory(void)
{
    int ends[2];

    make_pipe(ends);
    pid_t ours = hold(ARGV(program("gateway"), "run", "-f", file("memory.pid"), "--", program("stamp"), "hold"), ends[1], ends[0]);
    pid_t peer = hold(ARGV(program("flock"), file("memory.lock"), program("stamp"), "hold"), ends[1], ends[0]);
    /* Idle is who has done nothing for a while. */
    sleep(1);
    long threads = status_number(ours, "\nThreads:"), anonymous = status_number(ours, "\nRssAnon:");
    long peer_anonymous = status_number(peer, "\nRssAnon:");

    print_line(&(struct line){.what = "holder idle: threads", .against = "flock(1)", .must = 1, .aim = 1, .value = threads, .measured = text("%ld", threads), .ours = "", .peer = text("%ld", status_number(peer, "\nThreads:"))});
    print_line(&(struct line){.what = "holder idle: RssAnon, kB", .against = "flock(1)", .must = 160, .aim = peer_anonymous, .value = anonymous, .measured = text("%ld", anonymous), .ours = text("VmRSS %ld kB", status_number(ours, "\nVmRSS:")), .peer = text("%ld, VmRSS %ld kB", peer_anonymous, status_number(peer, "\nVmRSS:"))});
    end_all();
}

/* ---- many pid files ---- */

static void fill_place(const char *place, int out, int in)
{
    if (mkdir(place, 0755) != 0 || setenv("GATEWAY_STATE_DIR", place, 1) != 0)
        die("cannot make %s: %s", place, strerror(errno));
    for (int i = 0; i < 1000; i++) {
        char *name = text("name-%d", i);

        if (i % 10)
            run(ARGV(program("gateway"), "run", "-n", name, "--", "/bin/true"), 0);
        else
            hold(ARGV(program("gateway"), "run", "-n", name, "--", program("stamp"), "hold"), out, in);
    }
}

static void row_list(void)
{
    int ends[2];

    make_pipe(ends);
    fill_place(file("place"), ends[1], ends[0]);
    /* Both open /proc/locks, which waits for 8 ms where nobody has done so in the last 20: who comes at once after the
       other would be spared that. Ours has two threads. */
    race_with_pauses(100000, (struct line){.what = "list, 1,000 pid files, 100 of them held", .against = "lslocks", .must = 1, .aim = 0.2},
                     ARGV(program("gateway"), "list"), 0, ARGV(program("lslocks")), 0, rounds / 10);
    unsetenv("GATEWAY_STATE_DIR");
    end_all();
}

/* ---- signals on their way ---- */

static double deliver(pid_t target, int in)
{
    int64_t began = now();

    kill(target, SIGUSR1);
    return (read_stamp(in).nanoseconds - began) / 1e3;
}

static void row_signal(void)
{
    struct duel duel = {0};
    int our_ends[2], peer_ends[2];

    make_pipe(our_ends);
    make_pipe(peer_ends);
    /* On one processor: waking a sleeping one costs more than all the rest. */
    pin(cpu);
    press_ahead(true);
    pid_t ours = hold(ARGV(program("gateway"), "run", "-f", file("signal.pid"), "--", program("stamp"), "echo"), our_ends[1], our_ends[0]);
    pid_t peer = hold(ARGV(program("tini"), "-s", "--", program("stamp"), "echo"), peer_ends[1], peer_ends[0]);
    for (int i = -WARM_UP; i < rounds * 4; i++) {
        double our_time = deliver(ours, our_ends[0]), peer_time = deliver(peer, peer_ends[0]);

        if (i >= 0)
            score(&duel, our_time, peer_time);
    }
    press_ahead(false);
    pin(ANY_CPU);
    end_all();
    conclude(&duel, &(struct line){.what = "a signal's arrival to COMMAND's having it", .against = "tini", .must = 1.2, .aim = 1});
}

/* ---- which rows ---- */

static const struct row {
    const char *name;
    void (*measure)(void);
} rows[] = {
    {"itself", row_itself},     {"start", row_start},       {"exec", row_exec},
    {"replace", row_replace},   {"refusal", row_refusal},   {"status", row_status},
    {"crash", row_crash},       {"takeover", row_takeover}, {"standbys", row_standbys},
    {"idle", row_idle},         {"memory", row_memory},     {"list", row_list},
    {"signal", row_signal},
};

static const size_t row_count = sizeof rows / sizeof *rows;

static const struct row *row_called(const char *name)
{
    for (size_t i = 0; i < row_count; i++)
        if (strcmp(rows[i].name, name) == 0)
            return &rows[i];
    return NULL;
}

static int usage(void)
{
    fputs("usage: bench [-r ROUNDS] [-s SECONDS] [-c CPU] PROGRAMS WORKDIR [ROW...]\nrows:", stderr);
    for (size_t i = 0; i < row_count; i++)
        fprintf(stderr, " %s", rows[i].name);
    fputc('\n', stderr);
    return 2;
}

int main(int argc, char **argv)
{
    for (int option; (option = getopt(argc, argv, "r:s:c:")) != -1;) {
        int *chosen = option == 'r' ? &rounds : option == 's' ? &seconds : option == 'c' ? &cpu : NULL;

        if (!chosen)
            return usage();
        *chosen = atoi(optarg);
    }
    if (argc - optind < 2 || rounds < 50 || seconds < 1)
        return usage();
    programs = realpath(argv[optind++], NULL);
    work = realpath(argv[optind++], NULL);
    if (!programs || !work || chdir(work) != 0)
        return usage();
    for (int i = optind; i < argc; i++)
        if (!row_called(argv[i]))
            return usage();
    adopt();
    print_head();
    for (int i = optind; i < argc; i++)
        row_called(argv[i])->measure();
    for (size_t i = 0; i < row_count && optind == argc; i++)
        rows[i].measure();
    return 0;
}
