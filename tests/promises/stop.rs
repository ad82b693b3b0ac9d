//! `stop` beyond a holder that goes when it is asked.

use std::fs;
use std::time::Duration;

use crate::harness::{
    End, Locker, NOBODY, Payload, SOON, Scene, Signal, as_nobody, exists, in_pid_namespace,
    must_be_root, wait_until,
};
use crate::kit::marked_pid;

#[test]
fn a_foreign_locker_is_named_and_not_stopped() {
    let scene = Scene::new();
    let mut locker = Locker::on(&scene, &scene.pid_file());
    let output = scene.finish(["stop", "--timeout", "500ms", "--kill-after", "0"]);
    output
        .assert_code(82)
        .assert_one_line()
        .assert_says(&format!("pid {} (sleep infinity)", locker.pid()));
    assert!(locker.0.is_running());
}

#[test]
fn root_stops_another_users_holder() {
    must_be_root();
    let scene = Scene::for_everybody();
    fs::create_dir(scene.path("theirs")).unwrap();
    std::os::unix::fs::chown(scene.path("theirs"), Some(NOBODY), Some(NOBODY)).unwrap();
    let path = scene.path("theirs/gateway.pid");
    let mut command = scene.bare(["-f"]);
    command.arg(&path).args(["run", "--", "sleep", "infinity"]);
    let mut holder = scene.spawn(as_nobody(&scene, &command));
    wait_until("it holds", SOON, || {
        crate::harness::lockers(&path) == [holder.pid()]
    });
    let mut command = scene.bare(["-f"]);
    command.arg(&path).arg("stop");
    scene.finish_command(command).assert_code(0);
    assert_eq!(holder.end(), End::of(Signal::TERM));
    use std::os::unix::fs::MetadataExt;
    assert_eq!(fs::metadata(&path).unwrap().uid(), NOBODY);
}

/// Its own end would end the stop with it.
#[test]
fn a_stop_from_inside_the_payload_is_refused() {
    let scene = Scene::new();
    let gateway = scene.program().to_str().unwrap();
    let script = format!("{gateway} -f gateway.pid stop\necho \"code $?\" >>\"$SCENE/marks\"\n");
    let payload = scene.payload(Payload::Script(&script));
    let output = scene.finish(["run", "--", &payload]);
    output
        .assert_code(0)
        .assert_says("an ancestor of this process");
    assert_eq!(scene.lines("marks"), ["code 82"]);
}

#[test]
fn a_holder_outside_our_pid_namespace_is_not_guessed_at() {
    must_be_root();
    let scene = Scene::new();
    let mut holder = scene.hold();
    let inner = scene.gateway(["stop", "--timeout", "500ms", "--kill-after", "0"]);
    let output = scene.finish_command(in_pid_namespace(&scene, &inner));
    output.assert_code(82);
    assert!(holder.is_running());
}

#[test]
fn a_holder_inside_a_pid_namespace_is_stopped_from_outside() {
    must_be_root();
    let scene = Scene::new();
    let inner = scene.gateway(["run", "--", "sleep", "infinity"]);
    let mut holder = scene.spawn(in_pid_namespace(&scene, &inner));
    scene.wait_for_record("a holder", crate::harness::Record::has_payload);
    scene.finish(["stop"]).assert_code(0);
    // pid 1 cannot die of a signal of its own: 128 + 15.
    assert_eq!(holder.end(), End::Code(143));
    assert_eq!(scene.state(), "free");
}

/// What a crashed record names is ended, KILL included, and then nothing is left to stop.
#[test]
fn survivors_that_do_not_listen_are_killed() {
    let scene = Scene::new();
    let script = r#"mkfifo "$SCENE/never"; exec 8<>"$SCENE/never"
        sh -c 'trap "echo asked >>\"$SCENE/marks\"" TERM; echo "stubborn $$" >>"$SCENE/marks"
            while :; do read -r _ <&8; done' &
        exec sleep infinity
        "#;
    let mut holder = scene.hold_with(&[], Payload::Script(script));
    let stubborn = marked_pid(&scene, "stubborn");
    holder.crash();
    let output = scene.finish(["stop"]);
    output
        .assert_code(0)
        .assert_says(&format!("pid {stubborn} "));
    assert!(output.took >= Duration::from_millis(4900), "{output:?}");
    assert!(!exists(stubborn));
    assert_eq!(
        scene
            .lines("marks")
            .iter()
            .filter(|line| *line == "asked")
            .count(),
        1
    );
    assert_eq!(scene.state(), "free");
    assert_eq!(scene.record().first_line, "");
    scene
        .finish(["stop"])
        .assert_code(0)
        .assert_says("nothing to stop");
}

/// It is stopped as soon as it can be proven, and its command never started, or stopped as well.
#[test]
fn a_start_in_progress_is_stopped_when_it_has_its_record() {
    let scene = Scene::new();
    let script = r#"mkfifo "$SCENE/never"; exec 8<>"$SCENE/never"
        sh -c 'trap "" TERM; echo "stubborn $$" >>"$SCENE/marks"; while :; do read -r _ <&8; done' &
        exec sleep infinity
        "#;
    let mut crashed = scene.hold_with(&[], Payload::Script(script));
    marked_pid(&scene, "stubborn");
    crashed.crash();
    let payload = scene.payload(Payload::Plain);
    let mut start = scene.start(["run", "--", &payload]);
    start.wait_for_line("a crashed run left");
    let output = scene.finish(["stop"]);
    output
        .assert_code(0)
        .assert_says(&format!("pid {} ", start.pid()));
    assert_eq!(start.end(), End::of(Signal::TERM));
    scene.assert_never_two_payloads();
    scene.wait_until_empty();
}

/// Nested: the outer one's end is an ordered end of the inner one, and both records say so.
#[test]
fn the_end_of_an_outer_gateway_is_an_ordered_end_of_the_inner_one() {
    let scene = Scene::new();
    let gateway = scene.program().to_str().unwrap();
    let script = format!(
        "exec {gateway} -f inner.pid run -- sh -c 'echo up >>\"$SCENE/marks\"; exec sleep infinity'\n"
    );
    // As the shipped units are: whose `--replace` has nothing to do with the inner one.
    let mut outer = scene.hold_with(&["--replace"], Payload::Script(&script));
    scene.wait_for_mark("up");
    scene.finish(["stop"]).assert_code(0);
    assert_eq!(outer.end(), End::of(Signal::TERM));
    let inner = fs::read(scene.path("inner.pid")).unwrap();
    let inner = crate::harness::Record::read(&inner).expect("a record");
    assert!(inner.is_ended() && scene.record().is_ended());
    assert_eq!(inner.text("/reason"), "stopped");
    scene.wait_until_empty();
}

#[test]
fn a_budget_of_nothing_kills_at_once() {
    let scene = Scene::new();
    let mut holder = scene.hold_with(&["--stop-timeout", "0"], Payload::Deaf);
    scene.wait_for_mark("deaf");
    let output = scene.finish(["stop"]);
    output.assert_code(0);
    assert!(output.took < Duration::from_secs(4), "{output:?}");
    assert_eq!(holder.end(), End::of(Signal::TERM));
    assert!(scene.record().is_ended(), "it was an ordered end");
}

/// A bare number, as other programs leave it: the lock is free, so the number says nothing.
#[test]
fn a_number_without_a_lock_is_never_signalled_and_is_cleared_when_it_is_nobodys() {
    let scene = Scene::new();
    let mut stranger = scene.command("sleep");
    stranger.arg("infinity");
    let mut stranger = scene.spawn(stranger);
    let named = format!("{}\n", stranger.pid());
    fs::write(scene.pid_file(), &named).unwrap();
    scene.finish(["stop"]).assert_code(0);
    assert!(stranger.is_running());
    // Its own script may find it by that alone.
    assert_eq!(scene.bytes(), named.as_bytes());
    stranger.signal(Signal::KILL);
    stranger.end();
    scene.finish(["stop"]).assert_code(0);
    assert_eq!(scene.bytes(), b"\n");
    assert_eq!(scene.state(), "free");
}
