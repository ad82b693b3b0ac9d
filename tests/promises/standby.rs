//! `--wait`: in line behind a holder, without asking anybody to go.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use crate::harness::{End, Locker, Payload, Process, SOON, Scene, Signal, stat_field, wait_until};
use crate::kit::assert_stays;

fn stand_by(scene: &Scene, payload: &str) -> Process {
    let mut standby = scene.start(["run", "--wait", "--", payload]);
    standby.wait_for_line("standing by behind");
    standby
}

/// NousResearch/hermes-agent#47189: hundreds of waiters, each of which started.
#[test]
fn of_dozens_in_line_one_at_a_time_gets_the_lock() {
    let scene = Scene::new();
    let payload = scene.payload(Payload::Plain);
    let mut holder = scene.hold();
    let mut line: Vec<Process> = (0..40)
        .map(|_| scene.start(["run", "--wait", "--", &payload]))
        .collect();
    for standby in &mut line {
        standby.wait_for_line("standing by behind");
    }
    for turn in 0..6 {
        // A crash and an ordered end hand over alike.
        let by = if turn % 2 == 0 {
            Signal::KILL
        } else {
            Signal::TERM
        };
        holder.signal(by);
        assert_eq!(holder.end(), End::of(by));
        let record = scene.wait_for_record("a successor", |record| {
            record.pid() != holder.pid() && record.has_payload() && !record.is_ended()
        });
        let index = line
            .iter()
            .position(|standby| standby.pid() == record.pid())
            .expect("one of the line");
        holder = scene.wait_for_payload(line.swap_remove(index));
        assert_eq!(scene.started_payloads().len(), turn + 2);
    }
    assert!(line.iter_mut().all(Process::is_running));
    scene.assert_never_two_payloads();
    let generations = scene.generations();
    assert!(
        generations.is_sorted_by(|one, next| one < next),
        "{generations:?}"
    );
}

#[test]
fn a_free_lock_is_taken_at_once() {
    let scene = Scene::new();
    let output = scene.finish(["run", "--wait", "--", "true"]);
    output.assert_code(0).assert_silent();
    fs::write(scene.pid_file(), "1\n").unwrap();
    scene
        .finish(["run", "-w", "--", "true"])
        .assert_code(0)
        .assert_silent();
}

#[test]
fn a_standby_that_is_stopped_ends_at_once_and_leaves_no_trace() {
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        let scene = Scene::new();
        let mut holder = scene.hold();
        let before = scene.footprint();
        let mut standby = stand_by(&scene, "true");
        standby.signal(signal);
        assert_eq!(standby.end(), End::of(signal));
        assert_eq!(scene.footprint(), before);
        assert!(holder.is_running());
        assert_eq!(scene.started_payloads().len(), 1);
    }
}

#[test]
fn a_standby_outlives_the_files_removal_and_gets_the_new_one() {
    let scene = Scene::new();
    let mut holder = scene.hold();
    let payload = scene.payload(Payload::Plain);
    let mut line = [(); 3].map(|()| stand_by(&scene, &payload));
    let earlier = fs::metadata(scene.pid_file()).unwrap().ino();
    // It exists elsewhere still, so that the number is not used again.
    fs::rename(scene.pid_file(), scene.path("away")).unwrap();
    wait_until("the holder has put its claim back", SOON, || {
        scene.lockers() == [holder.pid()] && scene.record().pid() == holder.pid()
    });
    for standby in &mut line {
        assert_stays(standby, Duration::from_millis(500));
    }
    holder.signal(Signal::TERM);
    holder.end();
    let record = scene.wait_for_record("a successor", |record| {
        record.has_payload() && !record.is_ended()
    });
    assert!(line.iter().any(|standby| standby.pid() == record.pid()));
    let now = fs::metadata(scene.pid_file()).unwrap().ino();
    assert_ne!(now, earlier);
    assert_eq!(record.number("/inode"), now);
    assert_eq!(scene.lockers(), [record.pid()]);
    let running = line
        .iter_mut()
        .filter_map(|one| one.is_running().then_some(()))
        .count();
    assert_eq!(running, 3);
    scene.assert_never_two_payloads();
}

#[test]
fn standbys_do_not_take_the_file_of_a_stopped_holder_that_lost_it() {
    let scene = Scene::new();
    let mut holder = scene.hold();
    let mut standby = stand_by(&scene, "true");
    holder.signal(Signal::STOP);
    fs::remove_file(scene.pid_file()).unwrap();
    // It comes back to the path every second at the latest.
    assert_stays(&mut standby, Duration::from_millis(2500));
    let mut late = stand_by(&scene, "true");
    holder.signal(Signal::KILL);
    holder.end();
    assert_eq!(standby.end(), End::Code(0));
    assert_eq!(late.end(), End::Code(0));
    scene.assert_never_two_payloads();
}

#[test]
fn a_replacer_gets_past_the_line() {
    let scene = Scene::new();
    let mut holder = scene.hold();
    let payload = scene.payload(Payload::Plain);
    let mut line = [(); 3].map(|()| stand_by(&scene, &payload));
    let replacer = scene.payload(Payload::Plain);
    let new = scene.start(["run", "--replace", "--", &replacer]);
    assert_eq!(holder.end(), End::of(Signal::TERM));
    let mut new = scene.wait_for_payload(new);
    // Who of the line was faster was asked to go as well, and never anybody else.
    for standby in &mut line {
        if let Some(end) = standby.try_end() {
            assert_eq!(end, End::of(Signal::TERM));
        }
    }
    assert!(new.is_running());
    assert_eq!(scene.record().pid(), new.pid());
    scene.assert_never_two_payloads();
}

#[test]
fn a_standby_gives_up_at_its_deadline() {
    let scene = Scene::new();
    let mut holder = scene.hold();
    let before = scene.footprint();
    let output = scene.finish(["run", "--wait", "--timeout", "700ms", "--", "true"]);
    output
        .assert_code(81)
        .assert_says("standing by behind")
        .assert_says(&format!("pid {} ", holder.pid()));
    assert!(
        output.took >= Duration::from_millis(690),
        "{:?}",
        output.took
    );
    assert!(holder.is_running());
    assert_eq!(scene.footprint(), before);
    let quiet = scene.finish(["run", "-q", "--wait", "--timeout", "0", "--", "true"]);
    quiet.assert_code(81).assert_silent();
}

#[test]
fn a_standby_behind_a_foreign_locker_waits_for_it() {
    let scene = Scene::new();
    let locker = Locker::on(&scene, &scene.pid_file());
    let mut standby = stand_by(&scene, "true");
    let said = standby.stderr();
    assert!(said.contains(&format!("pid {} ", locker.pid())), "{said}");
    assert_stays(&mut standby, Duration::from_millis(400));
    drop(locker);
    assert_eq!(standby.end(), End::Code(0));
}

/// It would wait for itself.
#[test]
fn a_standby_inside_the_payload_is_refused() {
    let scene = Scene::new();
    let gateway = scene.program().to_str().unwrap();
    let script = format!(
        "{gateway} -f gateway.pid run --wait -- true\necho \"code $?\" >>\"$SCENE/marks\"\n"
    );
    let payload = scene.payload(Payload::Script(&script));
    let output = scene.finish(["run", "--", &payload]);
    output
        .assert_code(0)
        .assert_says("ancestor of this process");
    assert_eq!(scene.lines("marks"), ["code 82"]);
}

/// jikig-ai/soleur#7697: waiting must not burn the processor.
#[test]
fn a_standby_sleeps() {
    let scene = Scene::new();
    let _holder = scene.hold();
    let mut standby = stand_by(&scene, "true");
    let pid = standby.pid();
    let status = |name: &str| -> u64 {
        let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .unwrap();
        line.trim().parse().unwrap()
    };
    let ticks = || -> u64 {
        [14, 15]
            .map(|field| stat_field(pid, field).unwrap().parse::<u64>().unwrap())
            .iter()
            .sum()
    };
    let before = (status("voluntary_ctxt_switches:"), ticks());
    assert_stays(&mut standby, Duration::from_secs(4));
    let (woken, ticks) = (
        status("voluntary_ctxt_switches:") - before.0,
        ticks() - before.1,
    );
    // The backstop comes once a second.
    assert!(woken <= 16 && ticks <= 4, "{woken} times, {ticks} ticks");
    assert_eq!(standby.stderr().lines().count(), 1, "it says so once");
}
