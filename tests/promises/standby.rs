//! `--wait`: in line behind a holder, without asking anybody to go.

use std::fs;
use std::time::Duration;

use crate::harness::{
    End, Locker, Payload, Process, SOON, Scene, Signal, Trace, until, wait_until,
};
use crate::kit::assert_stays;

fn stand_by(scene: &Scene, payload: &str) -> Process {
    let mut standby = scene.start(["run", "--wait", "--", payload]);
    standby.wait_for_line("standing by behind");
    standby
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

/// jikig-ai/soleur#7697: no busy polling while the holder is known.
#[test]
fn a_standby_wakes_no_more_than_about_once_a_second() {
    let scene = Scene::new();
    let _holder = scene.hold();
    let mut standby = stand_by(&scene, "true");
    let pid = standby.pid();
    let woken = || -> u64 {
        let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let name = "voluntary_ctxt_switches:";
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap().trim().parse().unwrap()
    };
    let before = woken();
    assert_stays(&mut standby, Duration::from_secs(4));
    let woken = woken() - before;
    assert!(woken <= 16, "{woken} times in four seconds");
    assert_eq!(standby.stderr().lines().count(), 1, "it says so once");
}

/// Who sits in front and is stopped keeps nobody from the lock for longer than a second or two.
#[test]
fn a_stopped_front_row_does_not_hold_up_the_line() {
    let scene = Scene::new();
    let mut holder = scene.hold();
    let payload = scene.payload(Payload::Plain);
    let stand_by = || {
        let mut standby = scene.start(["run", "--wait", "--", &payload]);
        standby.wait_for_line("standing by");
        standby
    };
    let front: Vec<Process> = (0..6).map(|_| stand_by()).collect();
    for standby in &front {
        standby.signal(Signal::STOP);
    }
    let behind = stand_by();
    let began = std::time::Instant::now();
    holder.signal(Signal::TERM);
    holder.end();
    let behind = scene.wait_for_payload(behind);
    let took = began.elapsed();
    assert!(took < std::time::Duration::from_secs(4), "{took:?}");
    for standby in &front {
        standby.signal(Signal::CONT);
    }
    scene.assert_never_two_payloads();
    assert_eq!(scene.lockers(), [behind.pid()]);
}

/// A thousand may look once a second: a proof once in ten seconds is enough while nothing changes.
#[test]
fn a_standby_proves_nobody_again_while_nothing_changes() {
    let scene = Scene::new();
    let holder = scene.hold();
    let command = scene.gateway(["run", "--wait", "--", "true"]);
    let mut trace = Trace::start(&scene, "trace=flock,openat", &command);
    trace.process.wait_for_line("standing by behind");
    let proofs = format!("/proc/{}/fdinfo", holder.pid());
    until("three looks without a proof", SOON, || {
        let calls = trace.calls();
        let last_proof = calls.iter().rposition(|call| call.rest.contains(&proofs))?;
        let since = calls[last_proof..].iter();
        (since.filter(|call| call.name == "flock").count() >= 3).then_some(())
    });
}

/// Its process lives, and its record stays: only a proof tells that somebody else has the lock.
#[test]
fn a_standby_sees_through_a_holder_that_has_closed_its_lock() {
    let scene = Scene::new();
    let script = "trap 'for fd in /proc/$$/fd/*; do fd=${fd##*/}; [ \"$fd\" -le 2 ] || \
                  [ \"$fd\" -gt 9 ] || eval \"exec $fd>&-\"; done' USR1\necho ready >>\"$SCENE/marks\"\n\
                  while :; do sleep 0.1; done\n";
    let payload = scene.payload(Payload::Script(script));
    let holder = scene.start(["run", "--exec", "--", &payload]);
    scene.wait_for_mark("ready");
    let mut next = scene.command("flock");
    next.arg("--no-fork").arg(scene.pid_file());
    next.args(["sleep", "infinity"]);
    let next = scene.spawn(next);
    let waits = format!("-> FLOCK  ADVISORY  WRITE {} ", next.pid());
    wait_until("flock(1) waits", SOON, || {
        fs::read_to_string("/proc/locks").unwrap().contains(&waits)
    });
    let mut standby = stand_by(&scene, "true");
    holder.signal(Signal::USR1);
    wait_until("flock(1) has the lock", SOON, || {
        scene.lockers() == [next.pid()]
    });
    standby.wait_for_line(&format!("standing by behind pid {}", next.pid()));
    assert!(standby.is_running());
}

/// Behind the front row nobody has to know at once who holds.
#[test]
fn the_back_of_the_line_hears_of_a_new_holder_too() {
    let scene = Scene::new();
    let mut holder = scene.hold();
    let payload = scene.payload(Payload::Plain);
    let mut line: Vec<Process> = (0..6).map(|_| stand_by(&scene, &payload)).collect();
    holder.crash();
    let new = scene.wait_for_record("its record", |record| {
        record.pid() != holder.pid() && record.has_payload()
    });
    for standby in line.iter_mut().filter(|one| one.pid() != new.pid()) {
        standby.wait_for_line(&format!("standing by behind pid {}", new.pid()));
    }
}

/// Who finds the lock free when it looks keeps it: a stranger could have it in between.
#[test]
fn a_lock_that_a_standby_gets_by_looking_is_kept() {
    let scene = Scene::new();
    let holder = scene.hold();
    let payload = scene.payload(Payload::Plain);
    let front: Vec<Process> = (0..4).map(|_| stand_by(&scene, &payload)).collect();
    let command = scene.gateway(["run", "--wait", "--", "true"]);
    let mut behind = Trace::start(&scene, "trace=flock", &command);
    behind.process.wait_for_line("standing by behind");
    for standby in &front {
        standby.signal(Signal::STOP);
    }
    holder.signal(Signal::TERM);
    assert_eq!(behind.process.end(), End::Code(0));
    let calls = behind.calls();
    let got = calls.iter().filter(|call| call.rest.ends_with("= 0"));
    assert_eq!(got.count(), 1, "{calls:?}");
}

/// A copied record names a gateway that lives: what belongs to it is nobody's leftover.
#[test]
fn a_standby_over_a_copied_record_leaves_the_gateway_that_wrote_it_alone() {
    let scene = Scene::new();
    let mut other = scene.hold();
    let theirs = scene.record();
    let copy = scene.path("copy.pid");
    fs::copy(scene.pid_file(), &copy).unwrap();
    let mut locker = Locker::on(&scene, &copy);
    let mut command = scene.bare(["-f"]);
    command.arg(&copy).args(["run", "--wait", "--", "true"]);
    let mut standby = scene.spawn(command);
    standby.wait_for_line("standing by behind");
    locker.0.crash();
    assert_eq!(standby.end(), End::Code(0), "{}", standby.stderr());
    assert!(other.is_running(), "{}", other.stderr());
    assert_eq!(scene.record(), theirs);
    assert_eq!(scene.started_payloads().len(), 1);
}
