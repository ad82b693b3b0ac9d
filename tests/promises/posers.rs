//! Nobody without a right to the pid file poses as its holder, or has others ended by it.

use std::fs;
use std::os::unix::fs::chown;

use crate::harness::{
    End, NOBODY, Process, SOON, Scene, Signal, as_nobody, exists, injected_at, lockers, need,
    set_mode, signal, stat_field, state, wait_until,
};
use crate::kit::{compiled, wait_until_gone};

/// Locks the file that its second argument names; without one the file of its own command line in
/// /proc, which belongs to root while the process may not be looked at, and says what the process
/// wants: that it holds an earlier file of the path in its first argument.
const POSER: &str = r#"
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

static void lock(int file) {
    if (flock(file, LOCK_EX)) exit(1);
    puts("locked");
    fflush(stdout);
    for (;;) pause();
}

int main(int count, char **words) {
    if (count == 3) lock(open(words[2], O_RDONLY));
    if (strlen(words[0]) < 3000) {
        static char room[3501];
        memset(room, 'A', 3500);
        char *again[] = {room, words[1], 0};
        execv("/proc/self/exe", again);
        return 1;
    }
    prctl(PR_SET_DUMPABLE, 0);
    int file = open("/proc/self/cmdline", O_RDONLY);
    struct stat known;
    fstat(file, &known);
    char text[2048] = {0}, boot[64] = {0};
    int other = open("/proc/self/stat", O_RDONLY);
    read(other, text, sizeof text - 1);
    char *word = strtok(strrchr(text, ')') + 2, " ");
    for (int number = 3; number < 22; number++) word = strtok(0, " ");
    other = open("/proc/sys/kernel/random/boot_id", O_RDONLY);
    read(other, boot, 36);
    snprintf(words[0], 3400, "%d\n{\"format\":1,\"pid\":%d,\"start_time\":%s,\"boot_id\":\"%s\","
        "\"path\":\"%s\",\"dev\":%lu,\"inode\":%lu,\"run_id\":\"00000000000000000000000000000000\","
        "\"generation\":1,\"since\":\"2026-11-24T15:27:38Z\",\"argv\":[\"gateway\"],\"uid\":0}\n",
        getpid(), getpid(), word, boot, words[1],
        (unsigned long)known.st_dev, (unsigned long)known.st_ino);
    lock(file);
}
"#;

fn pose(scene: &Scene, words: &[&str]) -> Process {
    let program = compiled(scene, "poser", POSER);
    let path = scene.pid_file();
    let mut command = scene.command(program);
    command.arg(path).args(words);
    let poser = scene.spawn(as_nobody(scene, &command));
    wait_until("the lock is taken", SOON, || {
        poser.stdout().contains("locked")
    });
    poser
}

fn assert_starts(scene: &Scene) {
    scene.finish(["status"]).assert_code(3);
    scene.finish(["run", "--", "true"]).assert_code(0);
}

#[test]
fn a_file_of_roots_in_proc_that_says_what_others_want_is_no_holders() {
    need("setpriv", "util-linux");
    let scene = Scene::for_everybody();
    let poser = pose(&scene, &[]);
    let text = fs::read(format!("/proc/{}/cmdline", poser.pid())).unwrap();
    assert!(String::from_utf8_lossy(&text).contains("\"format\":1"));
    assert_starts(&scene);
}

/// A log, for instance.
#[test]
fn a_file_of_roots_that_anybody_may_lock_is_no_holders() {
    need("setpriv", "util-linux");
    let scene = Scene::for_everybody();
    let log = scene.path("log");
    fs::write(&log, "").unwrap();
    set_mode(&log, 0o644);
    let poser = pose(&scene, &["log"]);
    let text = forged(&scene, &log, poser.pid(), "");
    fs::write(&log, text).unwrap();
    assert_starts(&scene);
}

/// Has the lock on the file in its first argument, and a lease: whoever opens it for writing is held up, and
/// it must let go.
const LESSEE: &str = r#"
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/file.h>
#include <unistd.h>
int main(int count, char **words) {
    signal(SIGIO, SIG_IGN);
    int file = open(words[1], O_RDWR);
    if (flock(file, LOCK_EX) || fcntl(file, F_SETLEASE, F_WRLCK)) return 1;
    puts("leased");
    fflush(stdout);
    for (;;) pause();
}
"#;

/// To open a file in order to look whose it is would break the lease on it.
#[test]
fn a_lease_on_a_file_that_is_none_of_ours_is_left_alone() {
    let scene = Scene::new();
    let program = compiled(&scene, "lessee", LESSEE);
    fs::write(scene.path("theirs"), "").unwrap();
    let mut command = scene.command(program);
    command.arg("theirs");
    let lessee = scene.spawn(command);
    wait_until("it has a lease", SOON, || {
        lessee.stdout().contains("leased")
    });
    let lease = || {
        let known = fs::read_to_string(format!("/proc/{}/fdinfo/3", lessee.pid())).unwrap();
        let line = known.lines().find(|line| line.contains("LEASE"));
        line.map(|line| line.contains("ACTIVE") && line.contains("WRITE"))
    };
    assert_eq!(lease(), Some(true));
    scene.finish(["run", "--", "true"]).assert_code(0);
    scene.finish_command(scene.bare(["list"])).assert_code(0);
    assert_eq!(lease(), Some(true), "it was opened");
}

/// A line about a service of root's that is not there misleads whoever looks.
#[test]
fn a_file_of_somebodys_own_is_not_listed_as_one_of_roots() {
    need("setpriv", "util-linux");
    let scene = Scene::for_everybody();
    let mine = scene.path("mine");
    fs::write(&mine, "").unwrap();
    chown(&mine, Some(NOBODY), Some(NOBODY)).unwrap();
    let poser = pose(&scene, &["mine"]);
    let text = forged(&scene, &mine, poser.pid(), "");
    let listed = |path: &std::path::Path| {
        let ours = scene.pid_file();
        let text = text.replace(ours.to_str().unwrap(), path.to_str().unwrap());
        fs::write(&mine, text).unwrap();
        let list = scene.finish_command(scene.bare(["list", "--json"]));
        list.assert_code(0);
        let listed: Vec<serde_json::Value> = serde_json::from_str(&list.stdout).unwrap();
        let is_its = |entry: &&serde_json::Value| entry["holder"]["pid"] == poser.pid();
        listed
            .iter()
            .find(is_its)
            .map(|entry| entry["holder"]["uid"].clone())
    };
    assert_eq!(listed(&scene.pid_file()), None);
    assert_eq!(listed(&scene.path("no/such/folder/gateway.pid")), None);
    // What it can have made is, as its own.
    let its_own = Some(serde_json::json!(NOBODY));
    assert_eq!(listed(&mine), its_own);
    let theirs = scene.path("theirs");
    fs::create_dir(&theirs).unwrap();
    chown(&theirs, Some(NOBODY), Some(NOBODY)).unwrap();
    assert_eq!(listed(&theirs.join("gateway.pid")), its_own);
}

/// Who cannot be looked at for a moment is not taken for a poser.
#[test]
fn a_shortage_makes_no_poser_of_the_holder_of_an_earlier_file() {
    need("strace", "strace");
    let scene = Scene::new();
    fs::write(scene.pid_file(), "").unwrap();
    set_mode(&scene.pid_file(), 0o644);
    let mut holder = scene.hold();
    holder.signal(Signal::STOP);
    wait_until("it is stopped", SOON, || state(holder.pid()) == Some('T'));
    fs::rename(scene.pid_file(), scene.path("away")).unwrap();
    let status = format!("/proc/{}/status", holder.pid());
    let start = scene.gateway(["run", "--", "touch", "ran"]);
    let start = injected_at(&scene, &status, "openat:error=ENFILE", &start);
    let output = scene.finish_command(start);
    assert_ne!(output.end, End::Code(0), "{output:?}");
    assert!(!scene.path("ran").exists());
    holder.signal(Signal::CONT);
    assert!(holder.is_running());
}

/// The directory of a user's instance below one of root's is removed; and what root has become, with the lock,
/// is somebody else's process.
#[test]
fn who_holds_a_removed_file_is_listed_whoever_that_is() {
    need("setpriv", "util-linux");
    let scene = Scene::for_everybody();
    let folder = scene.path("runtime");
    fs::create_dir(&folder).unwrap();
    chown(&folder, Some(NOBODY), Some(NOBODY)).unwrap();
    let path = folder.join("gateway.pid");
    let mut run = scene.bare(["-f"]);
    run.arg(&path).args(["run", "--", "sleep", "infinity"]);
    let users = scene.spawn(as_nobody(&scene, &run));
    let to_nobody = ["--reuid", "65534", "--regid", "65534", "--clear-groups"];
    let words = ["run", "--exec", "--", "setpriv"];
    let roots = scene.start([&words[..], &to_nobody, &["sleep", "infinity"]].concat());
    let holds = |path: &std::path::Path, pid| lockers(path) == [pid] && is_of_nobody(pid);
    wait_until("both hold", SOON, || {
        holds(&path, users.pid()) && holds(&scene.pid_file(), roots.pid())
    });
    // Before it looks at its name again.
    users.signal(Signal::STOP);
    wait_until("it is stopped", SOON, || state(users.pid()) == Some('T'));
    fs::remove_dir_all(&folder).unwrap();
    fs::remove_file(scene.pid_file()).unwrap();
    let list = scene.finish_command(scene.bare(["list", "--json"]));
    let listed: Vec<serde_json::Value> = serde_json::from_str(&list.stdout).unwrap();
    for pid in [users.pid(), roots.pid()] {
        let its = listed.iter().find(|entry| entry["holder"]["pid"] == pid);
        assert_eq!(
            its.map(|its| &its["state"]),
            Some(&"removed".into()),
            "{list:?}"
        );
    }
    users.signal(Signal::CONT);
}

fn is_of_nobody(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status.contains("Uid:\t65534\t65534\t65534\t65534")
}

/// The record of a gateway with this pid on this file, which says that it is the scene's pid file.
fn forged(scene: &Scene, file: &std::path::Path, pid: u32, more: &str) -> String {
    use std::os::unix::fs::MetadataExt;
    let known = fs::metadata(file).unwrap();
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    format!(
        "{pid}\n{{\"format\":1,\"pid\":{pid},\"start_time\":{},\"boot_id\":\"{}\",\"path\":\"{}\",\
         \"dev\":{},\"inode\":{},\"run_id\":\"00000000000000000000000000000000\",\"generation\":1,\
         \"since\":\"2026-11-24T15:27:38Z\",{more}\"argv\":[\"gateway\"],\"uid\":0}}\n",
        stat_field(pid, 22).unwrap_or("1".into()),
        boot.trim(),
        scene.pid_file().display(),
        known.dev(),
        known.ino(),
    )
}

/// Acts as nobody most of the time, as servers of files and mail do.
const SERVER: &str = r"
#define _GNU_SOURCE
#include <unistd.h>
int main(void) {
    for (;;) {
        seteuid(65534);
        usleep(20000);
        seteuid(0);
        usleep(1000);
    }
}
";

#[test]
fn a_daemon_that_acts_as_a_user_for_a_moment_is_not_that_users_to_end() {
    let scene = Scene::for_everybody();
    let program = compiled(&scene, "server", SERVER);
    let mut server = scene.spawn(scene.command(program));
    let pid = server.pid();
    let folder = scene.path("theirs");
    fs::create_dir(&folder).unwrap();
    let file = folder.join("gateway.pid");
    fs::write(&file, "").unwrap();
    for path in [&folder, &file] {
        chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
    }
    set_mode(&file, 0o600);
    let payload = format!(
        "\"payload\":{{\"pid\":{pid},\"start_time\":{},\"argv\":[\"web\"]}},",
        stat_field(pid, 22).unwrap()
    );
    // Its gateway has ended.
    let text = forged(&scene, &file, 4_000_000, &payload);
    let text = text.replace(scene.pid_file().to_str().unwrap(), file.to_str().unwrap());
    for words in [
        &["run", "--wait", "--timeout", "1", "--", "true"][..],
        &[
            "run",
            "--replace",
            "--kill-after",
            "300ms",
            "--timeout",
            "1",
            "--",
            "true",
        ],
        &["stop", "--kill-after", "300ms", "--timeout", "1"],
    ] {
        fs::write(&file, &text).unwrap();
        let mut command = scene.bare(["-f"]);
        command.arg(&file).args(words);
        let output = scene.finish_command(command);
        output.assert_code(81).assert_says(&format!("pid {pid}"));
        assert!(server.is_running() && exists(pid), "{words:?}");
    }
    signal(pid, Signal::KILL);
    wait_until_gone(pid);
}
