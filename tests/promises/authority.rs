//! Whom a record may end: nobody whom its writers could not have had, and nobody is overlooked.

use std::fs;
use std::os::unix::fs::chown;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::harness::{NOBODY, Payload, Process, SOON, Scene, exists, need, set_mode, wait_until};
use crate::kit::{compiled, marked_pid, wait_until_gone};

/// Becomes nobody, which sheds the parent-death signal, and does not listen to TERM.
const CHANGED_AND_DEAF: &str = "exec setpriv --reuid 65534 --regid 65534 --clear-groups \
    sh -c 'trap \"\" TERM; echo \"deaf $$\" >>\"$SCENE/marks\"; while :; do sleep 0.1; done'\n";

/// A scene in which nobody may write what payloads write.
fn open_scene() -> Scene {
    need("setpriv", "util-linux");
    let scene = Scene::for_everybody();
    set_mode(&scene.path(""), 0o777);
    for file in ["marks", "alone", "starts", "overlap"] {
        fs::write(scene.path(file), "").unwrap();
        set_mode(&scene.path(file), 0o666);
    }
    scene
}

fn held_by_a_changed_payload(scene: &Scene, options: &[&str]) -> (Process, u32) {
    let holder = scene.hold_with(options, Payload::Script(CHANGED_AND_DEAF));
    let payload = marked_pid(scene, "deaf");
    (holder, payload)
}

/// A stop that had to kill left the payload of another user alive, and said that it was gone.
#[test]
fn a_stop_that_kills_ends_a_payload_that_changed_its_user() {
    let scene = open_scene();
    let (mut holder, payload) = held_by_a_changed_payload(&scene, &["--stop-timeout", "1h"]);
    scene
        .finish(["stop", "--kill-after", "300ms", "--timeout", "4"])
        .assert_code(0);
    holder.end();
    assert!(!exists(payload), "stop says that the payload is gone");
    assert!(scene.record().is_ended());
    let next = scene.hold();
    scene.assert_never_two_payloads();
    drop(next);
}

/// Where others may write the file, its record alone ends nobody; but what the payload was started
/// with is no record.
#[test]
fn a_file_that_others_may_write_hides_no_survivor() {
    for mode in [0o664, 0o666] {
        let scene = open_scene();
        fs::write(scene.pid_file(), "").unwrap();
        set_mode(&scene.pid_file(), mode);
        let (mut holder, payload) = held_by_a_changed_payload(&scene, &[]);
        holder.crash();
        assert!(exists(payload), "nothing ends it by itself");
        let _next = scene.hold();
        assert!(!exists(payload), "mode {mode:o}");
        scene.assert_never_two_payloads();
    }
}

/// The service user's file, and a crash of root's run: what it left belongs to neither the file's
/// owner nor, by the record, to anybody else.
#[test]
fn what_roots_run_left_on_a_users_file_is_ended_by_the_next_start_and_by_stop() {
    let script =
        "setsid sleep infinity & echo \"child $!\" >>\"$SCENE/marks\"\nexec sleep infinity\n";
    for ended_by in ["run", "stop"] {
        let scene = open_scene();
        fs::write(scene.pid_file(), "").unwrap();
        chown(scene.pid_file(), Some(NOBODY), Some(NOBODY)).unwrap();
        let mut holder = scene.hold_with(&[], Payload::Script(script));
        let child = marked_pid(&scene, "child");
        holder.crash();
        if ended_by == "run" {
            let _next = scene.hold();
            assert!(!exists(child));
        } else {
            scene.finish(["stop"]).assert_code(0);
            assert!(!exists(child));
        }
        scene.assert_never_two_payloads();
    }
}

/// An environment without INVOCATION_ID is no service manager's doing.
#[test]
fn a_survivor_that_dropped_its_invocation_id_is_found() {
    let scene = Scene::new();
    let script = "env -u INVOCATION_ID setsid sleep infinity &\necho \"child $!\" >>\"$SCENE/marks\"\nexec sleep infinity\n";
    let payload = scene.payload(Payload::Script(script));
    let mut command = scene.gateway(["run", "--", &payload]);
    command.env("INVOCATION_ID", "0123456789abcdef0123456789abcdef");
    let mut holder = scene.wait_for_payload(scene.spawn(command));
    let child = marked_pid(&scene, "child");
    let shed =
        || !crate::harness::environment(child).contains_key(std::ffi::OsStr::new("INVOCATION_ID"));
    wait_until("the child has dropped it", SOON, shed);
    holder.crash();
    let _next = scene.hold();
    assert!(!exists(child));
    scene.assert_never_two_payloads();
}

/// A child with a cleared environment is known by its parent only; the parent ends first.
#[test]
fn an_heir_is_not_lost_when_its_parent_ends() {
    let scene = Scene::new();
    let program = compiled(&scene, "heirs", HEIRS);
    let script = format!("setsid {program} &\nexec sleep infinity\n");
    let mut holder = scene.hold_with(&[], Payload::Script(&script));
    let (parent, heir) = (marked_pid(&scene, "parent"), marked_pid(&scene, "heir"));
    holder.crash();
    let _next = scene.hold();
    assert!(!exists(parent) && !exists(heir));
    scene.assert_never_two_payloads();
}

/// A parent that obeys TERM, and a child without an environment that does not.
const HEIRS: &str = r#"
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
int main(int argc, char **argv) {
    char path[4096];
    if (argc > 1) {
        signal(SIGTERM, SIG_IGN);
        FILE *marks = fopen(argv[1], "a");
        fprintf(marks, "heir %d\n", (int)getpid());
        fclose(marks);
        for (;;) pause();
    }
    snprintf(path, sizeof path, "%s/marks", getenv("SCENE"));
    if (fork() == 0) {
        char *none[] = {NULL};
        execve(argv[0], (char *[]){argv[0], path, NULL}, none);
        _exit(1);
    }
    FILE *marks = fopen(path, "a");
    fprintf(marks, "parent %d\n", (int)getpid());
    fclose(marks);
    for (;;) pause();
}
"#;

/// More survivors than there are descriptors for.
#[test]
fn any_number_of_survivors_is_ended_with_few_descriptors() {
    let scene = Scene::new();
    let script = "i=0; while [ $i -lt 120 ]; do sleep infinity & i=$((i+1)); done\necho ready >>\"$SCENE/marks\"\nexec sleep infinity\n";
    let mut holder = scene.hold_with(&[], Payload::Script(script));
    scene.wait_for_mark("ready");
    holder.crash();
    let survivors = || scene.members().len();
    wait_until("the first process is gone", SOON, || survivors() <= 120);
    assert!(survivors() >= 100);
    let mut few = scene.command("prlimit");
    few.arg("--nofile=40").arg(scene.program()).arg("-f");
    few.arg(scene.pid_file()).args(["run", "--", "true"]);
    scene.finish_command(few).assert_code(0);
    scene.wait_until_empty();
}

/// A takeover does not ask and then leave: what a killed holder left is ended within the deadline.
#[test]
fn a_takeover_that_had_to_kill_ends_what_is_left_in_time() {
    let deaf_child = "setsid sh -c 'trap \"\" TERM; echo \"child $$\" >>\"$SCENE/marks\"; while :; do sleep 0.1; done' 9>&- &\n";
    let script = format!("trap '' TERM\n{deaf_child}while :; do sleep 0.1; done\n");
    for (command, code) in [(&["run", "--replace"][..], 0), (&["stop"], 0)] {
        let scene = Scene::new();
        let mut holder = scene.hold_with(&["--stop-timeout", "1h"], Payload::Script(&script));
        let child = marked_pid(&scene, "child");
        let began = Instant::now();
        let limits = ["--timeout", "3", "--kill-after", "1"];
        let mut words = [command, &limits].concat();
        if command.len() > 1 {
            words.extend(["--", "touch", "ran"]);
        }
        scene.finish(words).assert_code(code);
        let took = began.elapsed();
        assert!(took < Duration::from_millis(3500), "{took:?}");
        assert_eq!(scene.path("ran").exists(), command.len() > 1);
        holder.end();
        wait_until_gone(child);
        assert_eq!(scene.state(), "free");
    }
}

/// Nobody's own run, for the harness's sake: nobody may use `stop` on a file of its own.
#[test]
fn an_ordinary_users_stop_that_kills_ends_its_payload() {
    let scene = open_scene();
    let payload = scene.payload(Payload::Deaf);
    set_mode(&scene.path("bin"), 0o777);
    let by_nobody =
        |words: &[&str]| -> Command { crate::harness::as_nobody(&scene, &scene.gateway(words)) };
    let words = ["run", "--stop-timeout", "1h", "--", &payload];
    let mut holder = scene.wait_for_payload(scene.spawn(by_nobody(&words)));
    let payload = scene.record().payload_pid();
    let stop = by_nobody(&["stop", "--kill-after", "300ms"]);
    scene.finish_command(stop).assert_code(0);
    holder.end();
    assert!(!exists(payload) && scene.record().is_ended());
}

/// Root's run in a service's directory: the file that it makes there, or puts back, is the service
/// user's to open.
#[test]
fn what_root_makes_in_somebodys_directory_is_theirs() {
    use std::os::unix::fs::MetadataExt;
    let scene = open_scene();
    let directory = scene.path("theirs");
    fs::create_dir(&directory).unwrap();
    chown(&directory, Some(NOBODY), Some(NOBODY)).unwrap();
    let file = directory.join("gateway.pid");
    let path = file.to_str().unwrap();
    let payload = scene.payload(Payload::Plain);
    let mut command = scene.bare(["-f", path, "run", "--", &payload]);
    let roots = scene.spawn(command);
    let is_theirs =
        || fs::metadata(&file).is_ok_and(|file| (file.uid(), file.gid()) == (NOBODY, NOBODY));
    wait_until("root's file is theirs", SOON, is_theirs);
    wait_until("root's payload runs", SOON, || {
        !scene.started_payloads().is_empty()
    });
    fs::remove_file(&file).unwrap();
    wait_until("the claim is put back, and theirs", SOON, is_theirs);
    roots.signal(crate::harness::Signal::TERM);
    let mut roots = roots;
    roots.end();
    command = crate::harness::as_nobody(&scene, &scene.bare(["-f", path, "run", "--", "true"]));
    scene.finish_command(command).assert_code(0);
}

/// Whom somebody of the run has born needs no word of the file: the kernel tells.
#[test]
fn an_heir_is_ended_where_the_file_speaks_for_nobody() {
    let scene = Scene::new();
    let script = "setsid sh -c 'env -i sleep infinity & echo \"heir $!\" >>\"$SCENE/marks\"; wait' &\nexec sleep infinity\n";
    let mut holder = scene.hold_with(&[], Payload::Script(script));
    let heir = marked_pid(&scene, "heir");
    wait_until("it has no environment", SOON, || {
        crate::harness::environment(heir).is_empty()
    });
    set_mode(&scene.pid_file(), 0o666);
    holder.crash();
    scene.finish(["run", "--", "true"]).assert_code(0);
    assert!(!exists(heir));
}
