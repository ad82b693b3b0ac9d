//! `--wait`: in line behind a holder, without asking anybody to go.

use std::fs;
use std::time::Duration;

use crate::harness::{
    End, Locker, Payload, Process, SOON, Scene, Signal, injected_at, stat_field, state, until,
    wait_until,
};

fn standby(scene: &Scene) -> Process {
    let payload = scene.payload(Payload::Plain);
    let mut standby = scene.start(["run", "--wait", "--", &payload]);
    standby.wait_for_line("standing by behind pid");
    standby
}

#[test]
fn a_standby_starts_when_the_holder_crashes() {
    let scene = Scene::new();
    let mut holder = scene.hold();
    let standby = standby(&scene);
    let line = standby.stderr();
    assert!(line.contains(&holder.pid().to_string()), "{line}");
    assert!(line.contains(scene.pid_file().to_str().unwrap()), "{line}");
    holder.crash();
    let standby = scene.wait_for_payload(standby);
    assert_eq!(scene.lockers(), [standby.pid()]);
    scene.assert_never_two_payloads();
}

#[test]
fn a_standby_starts_when_the_holder_ends() {
    let scene = Scene::new();
    let mut holder = scene.hold();
    let mut standby = standby(&scene);
    assert!(holder.is_running() && standby.is_running());
    assert_eq!(scene.started_payloads().len(), 1, "nobody is asked to go");
    holder.signal(Signal::TERM);
    let _standby = scene.wait_for_payload(standby);
    assert_eq!(holder.end(), End::of(Signal::TERM));
    scene.assert_never_two_payloads();
}

#[test]
fn a_free_lock_is_taken_without_a_word() {
    let scene = Scene::new();
    scene
        .finish(["run", "-w", "--", "true"])
        .assert_code(0)
        .assert_silent();
}

#[test]
fn of_many_standbys_one_starts_each_time() {
    let scene = Scene::new();
    let mut holder = scene.hold();
    let count = 30;
    let payload = scene.payload(Payload::Plain);
    let mut standbys: Vec<Process> = (0..count)
        .map(|_| scene.start(["run", "--wait", "--", &payload]))
        .collect();
    for standby in &mut standbys {
        standby.wait_for_line("standing by");
    }
    for round in 1..=count {
        holder.crash();
        until("the next payload", SOON, || {
            (scene.started_payloads().len() > round).then_some(())
        });
        let now = scene.wait_for_record("its record", |record| {
            record.pid() != holder.pid() && record.has_payload()
        });
        let next = standbys.iter().position(|one| one.pid() == now.pid());
        holder = standbys.swap_remove(next.expect("one of those in line"));
    }
    assert_eq!(scene.started_payloads().len(), count + 1);
    scene.assert_never_two_payloads();
}

#[test]
fn the_deadline_of_a_standby_has_a_code() {
    let scene = Scene::new();
    let mut holder = scene.hold();
    let before = scene.footprint();
    let output = scene.finish(["run", "--wait", "--timeout", "400ms", "--", "true"]);
    output.assert_code(81).assert_says("gave up after ");
    output.assert_says(&holder.pid().to_string());
    output.assert_took(Duration::from_millis(400));
    assert_eq!(scene.footprint(), before);
    assert!(holder.is_running());
    let quiet = ["-q", "run", "--wait", "--timeout", "0", "--", "true"];
    scene.finish(quiet).assert_code(81).assert_silent();
}

#[test]
fn an_interrupted_standby_dies_of_the_signal_and_runs_nothing() {
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        let scene = Scene::new();
        let mut holder = scene.hold();
        let before = scene.footprint();
        let mut standby = standby(&scene);
        standby.signal(signal);
        assert_eq!(standby.end(), End::of(signal));
        assert_eq!(scene.footprint(), before);
        assert!(holder.is_running());
        assert_eq!(scene.started_payloads().len(), 1);
    }
}

/// The CPU time that a process spends in two seconds, in clock ticks (of which a second has 100).
fn ticks_in_two_seconds(pid: u32) -> u64 {
    let ticks = |field| stat_field(pid, field).unwrap().parse::<u64>().unwrap();
    let spent = || ticks(14) + ticks(15);
    let before = spent();
    // Not a wait for something: the time in which nothing is to happen.
    std::thread::sleep(Duration::from_secs(2));
    spent() - before
}

/// Waiting does not burn CPU.
#[test]
fn a_standby_sleeps() {
    let scene = Scene::new();
    let _holder = scene.hold();
    let standby = standby(&scene);
    let ticks = ticks_in_two_seconds(standby.pid());
    assert!(ticks <= 2, "{ticks} clock ticks in 2 s");
}

#[test]
fn a_replacer_sleeps_too() {
    let scene = Scene::new();
    let _slow = scene.hold_with(&[], Payload::Slow("60"));
    scene.wait_for_mark("ready");
    let mut behind_a_holder = scene.start(["run", "--replace", "--", "true"]);
    behind_a_holder.wait_for_line("asked pid");
    let ticks = ticks_in_two_seconds(behind_a_holder.pid());
    assert!(ticks <= 2, "{ticks} clock ticks in 2 s behind a holder");

    let scene = Scene::new();
    let _locker = Locker::on(&scene, &scene.pid_file());
    let mut behind_a_locker = scene.start(["run", "--replace", "--", "true"]);
    behind_a_locker.wait_for_line("waiting for pid");
    // Nobody tells when the lock is free: it is tried now and then.
    let ticks = ticks_in_two_seconds(behind_a_locker.pid());
    assert!(ticks <= 20, "{ticks} clock ticks in 2 s behind a locker");
}

/// jikig-ai/soleur#7697: nothing was printed, and the operator saw a command that hung.
#[test]
fn who_is_waited_for_is_said_at_once() {
    let scene = Scene::new();
    let _locker = Locker::on(&scene, &scene.pid_file());
    for (mode, line) in [("--replace", "waiting for pid"), ("--wait", "standing by")] {
        // A busy machine may be slow to start it; a program that says it later is never quick.
        let quick = (0..5).any(|_| {
            let began = std::time::Instant::now();
            let mut waits = scene.start(["run", mode, "--", "true"]);
            waits.wait_for_line(line);
            began.elapsed() < Duration::from_secs(1)
        });
        assert!(quick, "{mode}");
    }
}

#[test]
fn a_standby_behind_a_foreign_locker_gets_its_turn() {
    let scene = Scene::new();
    let mut locker = Locker::on(&scene, &scene.pid_file());
    let payload = scene.payload(Payload::Plain);
    let mut standby = scene.start(["run", "--wait", "--", &payload]);
    let line = standby.wait_for_line("standing by");
    assert!(line.contains(&locker.pid().to_string()), "{line}");
    locker.0.crash();
    let _standby = scene.wait_for_payload(standby);
}

#[test]
fn a_deadline_behind_a_foreign_locker_is_a_deadline() {
    let scene = Scene::new();
    let mut locker = Locker::on(&scene, &scene.pid_file());
    let output = scene.finish(["run", "--wait", "--timeout", "300ms", "--", "true"]);
    output
        .assert_code(81)
        .assert_says(&locker.pid().to_string())
        .assert_took(Duration::from_millis(300));
    assert!(locker.0.is_running());
}

/// The holder puts its file back, and the standby waits at that one.
#[test]
fn a_standby_stays_in_line_when_the_file_is_removed() {
    let scene = Scene::new();
    let mut holder = scene.hold();
    let mut standby = standby(&scene);
    fs::remove_file(scene.pid_file()).unwrap();
    scene.wait_for_record("the claim put back", |record| record.pid() == holder.pid());
    // Its backstop finds the new file; nothing is to happen meanwhile.
    std::thread::sleep(Duration::from_millis(1500));
    assert!(standby.is_running());
    assert_eq!(scene.started_payloads().len(), 1);
    holder.crash();
    let standby = scene.wait_for_payload(standby);
    assert_eq!(scene.lockers(), [standby.pid()]);
    scene.assert_never_two_payloads();
}

/// A folder that is switched by its link, as deployments do: what was opened before is not the file of
/// the path any more.
#[test]
fn a_standby_follows_its_path_when_a_link_on_it_is_switched() {
    let scene = Scene::new();
    for folder in ["old", "new"] {
        fs::create_dir(scene.path(folder)).unwrap();
    }
    std::os::unix::fs::symlink("old", scene.path("current")).unwrap();
    std::os::unix::fs::symlink("new", scene.path("next")).unwrap();
    let run = |options: &[&str], folder: &str, command: &[&str]| {
        let path = scene.path(folder).join("gateway.pid");
        let path = path.to_str().unwrap();
        let args = [&["run", "-f", path], options, &["--"], command].concat();
        scene.spawn(scene.bare(args))
    };
    let sleeps = ["sleep", "infinity"];
    let locked = |folder: &str| {
        let path = scene.path(folder).join("gateway.pid");
        let path = path.to_str().unwrap().to_owned();
        wait_until("a holder", SOON, || {
            let status = scene.finish_command(scene.bare(["-f", &path, "status"]));
            status.stdout.starts_with("held: ") && status.stdout.contains("payload")
        });
    };
    let mut holder = run(&[], "current", &sleeps);
    locked("old");
    let other = run(&[], "new", &sleeps);
    locked("new");
    let mut standby = run(&["--wait"], "current", &["touch", "ran"]);
    standby.wait_for_line(&format!("standing by behind pid {}", holder.pid()));
    fs::rename(scene.path("next"), scene.path("current")).unwrap();
    holder.crash();
    standby.wait_for_line(&format!("pid {}", other.pid()));
    assert!(standby.is_running() && !scene.path("ran").exists());
}

#[test]
fn a_standby_stays_in_line_behind_a_replacer() {
    let scene = Scene::new();
    let mut first = scene.hold();
    // Stopped, so that the replacer is sure to be first.
    let mut standby = standby(&scene);
    standby.signal(Signal::STOP);
    wait_until("it is stopped", SOON, || state(standby.pid()) == Some('T'));
    let payload = scene.payload(Payload::Plain);
    let mut second = scene.wait_for_payload(scene.start(["run", "--replace", "--", &payload]));
    assert_eq!(first.end(), End::of(Signal::TERM));
    standby.signal(Signal::CONT);
    let line = format!("standing by behind pid {}", second.pid());
    standby.wait_for_line(&line);
    second.crash();
    let _standby = scene.wait_for_payload(standby);
    scene.assert_never_two_payloads();
}

#[test]
fn a_stopped_standby_holds_up_nobody() {
    let scene = Scene::new();
    let mut holder = scene.hold();
    let (sleeper, other) = (standby(&scene), standby(&scene));
    sleeper.signal(Signal::STOP);
    wait_until("it is stopped", SOON, || state(sleeper.pid()) == Some('T'));
    holder.crash();
    let _other = scene.wait_for_payload(other);
    scene.assert_never_two_payloads();
}

#[test]
fn a_plain_start_beside_standbys_is_still_refused() {
    let scene = Scene::new();
    let _holder = scene.hold();
    let _standby = standby(&scene);
    scene.finish(["run", "--", "true"]).assert_code(80);
}

/// A moment without descriptors once ended every standby of a machine.
#[test]
fn a_standby_stays_in_line_through_a_shortage() {
    let scene = Scene::new();
    let mut holder = scene.hold();
    let payload = scene.payload(Payload::Plain);
    let command = scene.gateway(["run", "--wait", "--", &payload]);
    // It opens the file once before it stands, and then once a second.
    let short = "openat,openat2:error=ENFILE:when=3..12";
    let path = scene.pid_file();
    let strace = injected_at(&scene, path.to_str().unwrap(), short, &command);
    let strace = scene.spawn(strace);
    wait_until("it was short of descriptors", SOON, || {
        strace
            .stderr()
            .contains("trying again, because it may pass")
    });
    let first = holder.pid();
    holder.signal(Signal::TERM);
    assert_eq!(holder.end(), End::of(Signal::TERM));
    scene.wait_for_record("the next one's", |record| {
        record.pid() != first && record.has_payload()
    });
    scene.finish(["stop"]).assert_code(0);
}

#[test]
fn a_standby_leaves_where_a_fault_stays() {
    let scene = Scene::new();
    let _holder = scene.hold();
    let mut standby = scene.start(["run", "--wait", "--", "true"]);
    wait_until("it stands in line", SOON, || {
        standby.stderr().contains("standing by")
    });
    std::fs::rename(scene.pid_file(), scene.path("away")).unwrap();
    std::fs::create_dir(scene.pid_file()).unwrap();
    assert_eq!(standby.end_within(SOON * 2), End::Code(83));
    assert!(
        standby.stderr().contains("it may pass"),
        "{}",
        standby.stderr()
    );
}

/// Who tries the lock again and again between two looks keeps an eye on the time, too. The best of some:
/// a machine may stand still.
#[test]
fn a_deadline_behind_a_foreign_locker_is_kept_to_within_a_look() {
    let scene = Scene::new();
    let _locker = Locker::on(&scene, &scene.pid_file());
    let took = (0..5).map(|_| {
        let output = scene.finish(["run", "--wait", "--timeout", "300ms", "--", "true"]);
        output.assert_code(81);
        output.took
    });
    let best = took.min().unwrap();
    assert!((300..800).contains(&best.as_millis()), "{best:?}");
}
