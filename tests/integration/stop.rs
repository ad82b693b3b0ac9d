//! `stop`: the holder that is found is gone with its payload, or it says why not.

use std::time::Duration;

use crate::harness::{
    End, Locker, Payload, SOON, Scene, Signal, Trace, descendants, exists, injected, is_held_up_in,
    need, remember, signal, state, wait_until,
};

#[test]
fn stop_waits_for_the_holder_and_its_payload() {
    let scene = Scene::new();
    let mut holder = scene.hold_with(&[], Payload::Slow("1"));
    scene.wait_for_mark("ready");
    let payload = scene.record().payload_pid();
    let output = scene.finish(["stop"]);
    output.assert_code(0);
    assert!(output.took > Duration::from_secs(1), "{output:?}");
    assert!(!exists(payload));
    assert_eq!(scene.lockers(), [0; 0]);
    assert_eq!(holder.end(), End::Code(0));
    let record = scene.record();
    assert_eq!(record.text("/reason"), "stopped");
    assert_eq!(record.json["by"]["uid"], 0);
    let by = record.json["by"]["argv"].to_string();
    assert!(by.contains("stop"), "{by}");
}

#[test]
fn nothing_to_stop_is_said_and_is_no_failure() {
    let scene = Scene::new();
    scene
        .finish(["stop"])
        .assert_code(0)
        .assert_one_line()
        .assert_says("nothing to stop");
    assert!(!scene.pid_file().exists(), "stop makes no file");
    scene.finish(["-q", "stop"]).assert_code(0).assert_silent();
    scene.finish(["run", "--", "true"]).assert_code(0);
    let before = scene.footprint();
    scene.finish(["stop"]).assert_code(0);
    assert_eq!(scene.footprint(), before);
}

#[test]
fn a_stop_that_goes_well_prints_nothing_beyond_whom_it_asked() {
    let scene = Scene::new();
    let holder = scene.hold();
    let output = scene.finish(["stop"]);
    output.assert_code(0).assert_one_line();
    output.assert_says(&format!("asked pid {}", holder.pid()));
    let _holder = scene.hold();
    scene.finish(["-q", "stop"]).assert_code(0).assert_silent();
}

#[test]
fn stop_kills_what_does_not_go_and_marks_the_record_itself() {
    let scene = Scene::new();
    let mut holder = scene.hold_with(&["--stop-timeout", "1h"], Payload::Deaf);
    scene.wait_for_mark("deaf");
    let output = scene.finish(["stop", "--kill-after", "300ms"]);
    output.assert_code(0).assert_says("sent SIGKILL");
    assert_eq!(holder.end(), End::of(Signal::KILL));
    scene.wait_until_empty();
    let record = scene.record();
    assert_eq!(record.first_line, "");
    assert_eq!(record.text("/reason"), "stopped");
    assert_eq!(scene.state(), "free");
}

/// `rm -f web.pid` in a deploy script, while the holder takes its time: it puts its claim back on a new
/// file, and lets go of the old one.
#[test]
fn a_stop_does_not_lose_a_holder_whose_file_is_removed_meanwhile() {
    type Spoil = fn(&Scene);
    let spoils: [Spoil; 2] = [
        |scene| std::fs::remove_file(scene.pid_file()).unwrap(),
        |scene| {
            // As an editor saves.
            let copy = scene.path("copy");
            std::fs::copy(scene.pid_file(), &copy).unwrap();
            std::fs::rename(copy, scene.pid_file()).unwrap();
        },
    ];
    for spoil in spoils {
        let scene = Scene::new();
        let mut holder = scene.hold_with(&["--stop-timeout", "3s"], Payload::Deaf);
        scene.wait_for_mark("deaf");
        let payload = scene.record().payload_pid();
        let mut stop = scene.start(["stop"]);
        stop.wait_for_line("asked pid");
        spoil(&scene);
        wait_until("the claim is put back", SOON, || {
            scene.lockers() == [holder.pid()]
        });
        let output = stop.output();
        output.assert_code(0);
        assert!(!exists(payload) && !exists(holder.pid()), "{output:?}");
        assert_eq!(holder.end(), End::of(Signal::TERM));
        assert_eq!(scene.state(), "free");
    }
}

/// The grandchildren of a killed holder have shed nothing that would end them.
#[test]
fn stop_ends_what_a_killed_holder_leaves() {
    let scene = Scene::new();
    let script = "trap '' TERM\nsetsid sleep infinity & echo $! >\"$SCENE/child\"\n\
        echo deaf >>\"$SCENE/marks\"\nwhile :; do sleep 9; done\n";
    let _holder = scene.hold_with(&["--stop-timeout", "1h"], Payload::Script(script));
    scene.wait_for_mark("deaf");
    let child: u32 = scene.lines("child")[0].parse().map(remember).unwrap();
    assert!(exists(child));
    scene
        .finish(["stop", "--kill-after", "300ms"])
        .assert_code(0);
    assert!(!exists(child));
    scene.assert_never_two_payloads();
}

#[test]
fn a_crashed_record_is_marked_and_what_survived_is_ended() {
    let scene = Scene::new();
    let script = "setsid sleep infinity & echo $! >\"$SCENE/child\"; sleep infinity\n";
    let mut holder = scene.hold_with(&[], Payload::Script(script));
    let child = scene.wait_for_child();
    holder.crash();
    assert!(exists(child));
    assert_eq!(scene.state(), "crashed");
    scene
        .finish(["stop"])
        .assert_code(0)
        .assert_says(&child.to_string());
    assert!(!exists(child));
    assert_eq!(scene.state(), "free");
    assert_eq!(scene.record().first_line, "");
    scene
        .finish(["stop"])
        .assert_code(0)
        .assert_says("nothing to stop");
}

#[test]
fn a_stopped_holder_is_woken_to_stop() {
    let scene = Scene::new();
    let mut holder = scene.hold();
    holder.signal(Signal::STOP);
    wait_until("it is stopped", SOON, || state(holder.pid()) == Some('T'));
    scene.finish(["stop"]).assert_code(0);
    assert_eq!(holder.end(), End::of(Signal::TERM));
}

#[test]
fn a_successor_is_named_and_left_alone() {
    let scene = Scene::new();
    let mut holder = scene.hold();
    let payload = scene.payload(Payload::Plain);
    let mut standby = scene.start(["run", "--wait", "--", &payload]);
    standby.wait_for_line("standing by");
    // The standby is faster than stop's next look at the file.
    let slow = "pidfd_send_signal:delay_exit=2000000";
    let stop = scene.spawn(injected(&scene, slow, &scene.gateway(["stop"])));
    assert_eq!(holder.end(), End::of(Signal::TERM));
    let mut standby = scene.wait_for_payload(standby);
    let output = stop.output();
    let stopped = format!("stopped pid {} (", holder.pid());
    output.assert_code(0).assert_says(&stopped);
    let named = format!("; pid {} (", standby.pid());
    output.assert_says(&named).assert_says("has taken over");
    assert!(standby.is_running());
    let record = scene.record();
    assert_eq!(record.pid(), standby.pid());
}

#[test]
fn a_deadline_ends_the_wait() {
    let scene = Scene::new();
    let mut holder = scene.hold_with(&["--stop-timeout", "1h"], Payload::Deaf);
    scene.wait_for_mark("deaf");
    let output = scene.finish(["stop", "--timeout", "400ms", "--kill-after", "infinity"]);
    output.assert_code(81);
    assert!(output.took < Duration::from_secs(3));
    assert!(holder.is_running());
}

#[test]
fn an_interrupted_stop_says_what_it_has_set_going() {
    let scene = Scene::new();
    let mut holder = scene.hold_with(&[], Payload::Slow("1"));
    scene.wait_for_mark("ready");
    let mut stop = scene.start(["stop"]);
    stop.wait_for_line("asked pid");
    stop.signal(Signal::INT);
    assert_eq!(stop.end(), End::of(Signal::INT));
    assert!(
        stop.stderr().contains("will stop all the same"),
        "{}",
        stop.stderr()
    );
    assert_eq!(holder.end(), End::Code(0));
}

#[test]
fn two_stops_at_once_both_succeed() {
    let scene = Scene::new();
    let _holder = scene.hold_with(&[], Payload::Slow("0.5"));
    scene.wait_for_mark("ready");
    let (one, other) = (scene.start(["stop"]), scene.start(["stop"]));
    one.output().assert_code(0);
    other.output().assert_code(0);
    assert_eq!(scene.lockers(), [0; 0]);
}

/// Runs `stop`, and fails if it removes, moves or empties anything, or makes a file.
#[track_caller]
fn stop_and_watch(scene: &Scene) {
    let calls = "trace=unlink,unlinkat,rename,renameat,renameat2,link,linkat,truncate,ftruncate,open,openat,openat2,creat,pwrite64";
    let mut trace = Trace::start(scene, calls, &scene.gateway(["stop"]));
    assert_eq!(trace.process.end(), End::Code(0));
    let calls = trace.calls();
    let path = scene.pid_file();
    let path = path.to_str().unwrap();
    assert!(
        calls
            .iter()
            .any(|call| call.name.starts_with("open") && call.rest.contains(path)),
        "the trace shows what is done to the file: {calls:#?}"
    );
    for call in calls {
        let harms = ["unlink", "rename", "link", "creat", "truncate"]
            .iter()
            .any(|name| call.name.starts_with(name));
        let empties = call.name == "ftruncate" && call.rest.contains(", 0)")
            || call.rest.contains("O_TRUNC")
            || call.rest.contains("O_CREAT");
        assert!(!harms && !empties, "{call:?}");
    }
}

/// Nobody ever has to remove anything, and nobody does.
#[test]
fn the_file_is_never_removed() {
    let scene = Scene::new();
    let mut holder = scene.hold();
    stop_and_watch(&scene);
    assert_eq!(holder.end(), End::of(Signal::TERM));
    // Nothing to stop, and a crash.
    stop_and_watch(&scene);
    scene.hold().crash();
    stop_and_watch(&scene);
    assert_eq!(scene.state(), "free");
}

/// What keeps the file from being written keeps nobody alive.
#[test]
fn a_holder_of_a_file_that_nobody_may_change_is_stopped_all_the_same() {
    need("chattr", "e2fsprogs");
    let scene = Scene::new();
    let mut holder = scene.hold();
    let chattr = |how: &str| {
        let status = scene
            .command("chattr")
            .arg(how)
            .arg(scene.pid_file())
            .status();
        assert!(status.unwrap().success(), "chattr {how}");
    };
    chattr("+i");
    let output = scene.finish(["stop"]);
    let next = scene.finish(["run", "--", "true"]);
    chattr("-i");
    output.assert_code(0);
    assert_eq!(holder.end(), End::of(Signal::TERM));
    next.assert_code(83)
        .assert_one_line()
        .assert_says("chattr -ia");
    scene.finish(["run", "--", "true"]).assert_code(0);
}

/// A crash stays one, though nothing was left of it to stop.
#[test]
fn a_crash_that_was_cleared_is_not_called_a_stop() {
    let scene = Scene::new();
    scene.hold().crash();
    scene
        .finish(["stop"])
        .assert_code(0)
        .assert_says("crashed and left nothing");
    assert_eq!(scene.record().text("/reason"), "crashed");
    let status = scene.finish(["status"]);
    assert!(
        status
            .stdout
            .contains("last run crashed, and was cleared by pid "),
        "{status:?}"
    );
}

/// A pid and a start time of another boot are somebody else's by now, even where both are the same.
#[test]
fn the_locker_that_a_record_of_an_earlier_boot_names_is_asked_by_nobody() {
    let scene = Scene::new();
    let mut locker = Locker::on(&scene, &scene.pid_file());
    let text = crate::people::record_naming(&scene.pid_file(), locker.pid());
    std::fs::write(scene.pid_file(), &text).unwrap();
    assert_eq!(scene.state(), "held", "only the boot makes the difference");
    let text = text.replace(
        &crate::people::boot_id(),
        "00000000-0000-0000-0000-000000000000",
    );
    std::fs::write(scene.pid_file(), &text).unwrap();
    assert_eq!(scene.state(), "foreign");
    for words in [&["stop"][..], &["run", "--replace", "--", "true"]] {
        let (verb, rest) = words.split_first().unwrap();
        let limits = ["--timeout", "500ms", "--kill-after", "0"];
        let output = scene.finish([&[*verb][..], &limits, rest].concat());
        output.assert_code(82);
        assert!(locker.0.is_running(), "{words:?}");
    }
}

#[test]
fn a_stop_that_looks_through_everybody_can_be_interrupted() {
    let scene = Scene::new();
    let stop = scene.gateway(["stop"]);
    let mut slow = scene.spawn(injected(&scene, "getdents64:delay_enter=300000", &stop));
    wait_until("it looks through everybody", SOON, || {
        is_held_up_in(&slow, libc::SYS_getdents64)
    });
    let began = std::time::Instant::now();
    signal(descendants(slow.pid())[0], Signal::TERM);
    assert_eq!(slow.end(), End::of(Signal::TERM), "{}", slow.stderr());
    assert!(
        began.elapsed() < Duration::from_secs(5),
        "{:?}",
        began.elapsed()
    );
}
