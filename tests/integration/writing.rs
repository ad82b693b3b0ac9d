//! The record on its way into the file, and its order with the lock.

use std::fs;

use crate::harness::{Call, End, Payload, SOON, Scene, Signal, Trace, injected, lockers, until};

/// Whoever started us may have put anything into the environment; a record must stay one that is read.
#[test]
fn a_monstrous_environment_makes_no_monstrous_record() {
    let scene = Scene::new();
    let mut command = scene.gateway(["run", "--", "true"]);
    command.env("INVOCATION_ID", "a".repeat(100_000));
    scene.finish_command(command).assert_code(0);
    scene.finish(["run", "--", "true"]).assert_code(0);
}

/// rhandom/perl-net-server#15: a record that could not be written whole blocked all later starts.
#[test]
fn a_record_that_cannot_be_cut_to_length_starts_nothing() {
    let scene = Scene::new();
    fs::write(scene.pid_file(), "x".repeat(9000)).unwrap();
    let command = scene.gateway(["run", "--", "touch", "ran"]);
    let fails = "ftruncate:error=EIO:when=1";
    let output = scene.finish_command(injected(&scene, fails, &command));
    output.assert_code(83).assert_one_line();
    output.assert_says(scene.pid_file().to_str().unwrap());
    assert!(!scene.path("ran").exists());
    assert_eq!(scene.lockers(), [0; 0]);
    scene.finish(["run", "--", "true"]).assert_code(0);
    assert!(scene.record().is_ended());
    assert_eq!(scene.state(), "free");
}

/// The descriptor that a call is about: its first argument.
fn descriptor(call: &Call) -> &str {
    call.rest.split([',', ')']).next().expect("an argument")
}

/// NousResearch/hermes-agent#21915: whoever finds the lock free finds the end written down, too.
#[test]
fn the_record_is_marked_ended_before_the_lock_goes() {
    let scene = Scene::new();
    let calls = "trace=open,openat,pwrite64,ftruncate,close,close_range,dup,dup2,dup3,fcntl,flock";
    let payload = scene.payload(Payload::Graceful);
    let command = scene.gateway(["run", "--", &payload]);
    let mut trace = Trace::start(&scene, calls, &command);
    let record = scene.wait_for_record("a payload", |record| record.has_payload());
    scene.wait_for_mark("ready");
    crate::harness::signal(record.pid(), Signal::TERM);
    assert_eq!(trace.process.end(), End::Code(0));

    let calls = trace.calls();
    let own: Vec<&Call> = calls
        .iter()
        .filter(|call| call.pid == record.pid())
        .collect();
    let last_write = own
        .iter()
        .rposition(|call| call.name == "pwrite64")
        .expect("it writes its record");
    let held = descriptor(own[last_write]);
    assert!(
        own[last_write].rest.contains(", \"\\n{"),
        "the last record has a blank first line: {:?}",
        own[last_write]
    );
    let answer = format!(" = {held}");
    let opened = own[..last_write]
        .iter()
        .rposition(|call| call.name.starts_with("open") && call.rest.ends_with(&answer))
        .expect("it was opened");
    let path = scene.pid_file();
    assert!(
        own[opened].rest.contains(path.to_str().unwrap()),
        "{:?}",
        own[opened]
    );
    // From the opening to the last write nothing closes it, copies it, or unlocks it.
    for call in &own[opened..last_write] {
        let lets_go = call.name.starts_with("close") || call.name.starts_with("dup");
        let copies = call.name == "fcntl" && call.rest.contains("F_DUPFD");
        let unlocks = call.name == "flock" && call.rest.contains("LOCK_UN");
        assert!(
            !((lets_go || copies || unlocks) && descriptor(call) == held),
            "{call:?}"
        );
    }
}

#[test]
fn whoever_sees_a_pid_in_the_file_sees_the_lock_held_up_to_the_end() {
    let scene = Scene::new();
    let command = scene.gateway(["run", "--", "sleep", "infinity"]);
    // The third write, after the start's and the payload's, is the end's.
    let slow = "pwrite64:delay_enter=3000000:when=3";
    let mut slow = scene.spawn(injected(&scene, slow, &command));
    let record = scene.wait_for_record("a payload", |record| record.has_payload());
    let holder = record.pid();
    crate::harness::signal(holder, Signal::TERM);
    let mut looks = 0;
    until("its end is written down", SOON, || {
        let named = |scene: &Scene| !scene.bytes().starts_with(b"\n");
        let lockers = lockers(&scene.pid_file());
        // Still named after the look: so it was during it.
        if !named(&scene) {
            return Some(());
        }
        assert_eq!(lockers, [holder], "named, and the lock is gone");
        looks += 1;
        None
    });
    assert!(looks > 2, "{looks}");
    assert_eq!(slow.end(), End::of(Signal::TERM));
}
