//! Readiness, longer times, the watchdog and the standby.

use std::io::ErrorKind;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::harness::{SOON, Systemd, until};
use crate::scene::{
    assert_ended_well, assert_never_two_payloads, assert_runs_undisturbed, boot, new_payload,
    payload, run_by_hand, take_over, unit,
};

#[test]
fn a_takeover_may_outlast_the_start_timeout() {
    let systemd = boot();
    let text = unit(
        "--replace -n slow -- /run/test/plain slow",
        "TimeoutStartSec=2s\n",
    );
    systemd.units([("slow.service", &text)]);
    let mut by_hand = run_by_hand(&systemd, &[], "slow", &["/run/test/drain", "slow", "4"]);
    let first = payload(&systemd, "slow");
    let began = Instant::now();
    systemd.ok(["systemctl", "start", "slow"]);
    assert!(
        began.elapsed() > Duration::from_secs(3),
        "the holder did not take its time"
    );
    new_payload(&systemd, "slow", &first);
    assert_runs_undisturbed(&systemd, "slow");
    assert_eq!(by_hand.wait().code(), Some(0));
    assert_eq!(systemd.read("/run/test/slow.drained"), "done\n");
    assert_never_two_payloads(&systemd, "slow");
}

#[test]
fn a_drain_may_outlast_the_stop_timeout() {
    let systemd = boot();
    let text = unit(
        "--replace -n slow -- /run/test/drain slow 4",
        "TimeoutStopSec=2s\n",
    );
    systemd.units([("slow.service", &text)]);
    systemd.ok(["systemctl", "start", "slow"]);
    payload(&systemd, "slow");
    systemd.ok(["systemctl", "stop", "slow"]);
    assert_ended_well(&systemd, "slow.service");
    assert_eq!(systemd.read("/run/test/slow.drained"), "done\n");
}

#[test]
fn a_drain_at_a_takeover_may_outlast_the_stop_timeout() {
    let systemd = boot();
    let text = unit(
        "--replace -n slow -- /run/test/drain slow 4",
        "TimeoutStopSec=2s\n",
    );
    systemd.units([("slow.service", &text)]);
    systemd.ok(["systemctl", "start", "slow"]);
    let first = payload(&systemd, "slow");
    let _by_hand = take_over(&systemd, "slow");
    new_payload(&systemd, "slow", &first);
    assert_ended_well(&systemd, "slow.service");
    assert_eq!(systemd.read("/run/test/slow.drained"), "done\n");
    assert_never_two_payloads(&systemd, "slow");
}

/// A unit whose payload has not said yet that it is ready.
fn starting(systemd: &Systemd) {
    let more = "NotifyAccess=all\nTimeoutStartSec=60s\n";
    let text = unit(
        "--replace --notify payload -n early -- /run/test/plain early",
        more,
    );
    systemd.units([("early.service", &text)]);
    systemd.ok(["systemctl", "start", "--no-block", "early"]);
    payload(systemd, "early");
    assert_eq!(systemd.property("early", "ActiveState"), "activating");
}

#[test]
fn a_unit_taken_over_before_it_was_ready_is_not_revived() {
    let systemd = boot();
    starting(&systemd);
    let _by_hand = take_over(&systemd, "early");
    assert_ended_well(&systemd, "early.service");
    assert_never_two_payloads(&systemd, "early");
}

#[test]
fn a_unit_told_to_stop_before_it_was_ready_is_not_revived() {
    let systemd = boot();
    starting(&systemd);
    systemd.ok([
        "systemctl",
        "kill",
        "-s",
        "TERM",
        "--kill-who=main",
        "early",
    ]);
    assert_ended_well(&systemd, "early.service");
}

/// Fills the queue of systemd's notification socket, as a busy machine may.
fn fill_the_queue(systemd: &Systemd) {
    let path = systemd.inside("/run/systemd/notify");
    // A fresh socket each time: the limit to be met is the receiver's.
    let full = (0..100_000).find_map(|_| {
        let socket = UnixDatagram::unbound().expect("a socket");
        socket.set_nonblocking(true).expect("a socket option");
        socket.send_to(b"STATUS=x", &path).err()
    });
    assert_eq!(full.map(|cause| cause.kind()), Some(ErrorKind::WouldBlock));
}

#[test]
fn a_full_queue_of_notifications_does_not_swallow_readiness() {
    let systemd = boot();
    let text = unit(
        "--replace -n busy -- /run/test/plain busy",
        "TimeoutStartSec=90s\n",
    );
    systemd.units([("busy.service", &text)]);
    let mut holder = run_by_hand(&systemd, &[], "busy", &["/run/test/drain", "busy", "1"]);
    let first = payload(&systemd, "busy");
    systemd.ok(["systemctl", "start", "--no-block", "busy"]);
    until("the takeover waits", SOON, || {
        systemd
            .property("busy", "StatusText")
            .contains("wait")
            .then_some(())
    });
    let deaf = systemd.deafen();
    fill_the_queue(&systemd);
    new_payload(&systemd, "busy", &first);
    holder.wait();
    drop(deaf);
    systemd.wait_for("busy", "ActiveState", "active");
}

#[test]
fn a_unit_replaced_while_it_takes_over_is_not_revived() {
    let systemd = boot();
    let text = unit(
        "--replace -n early -- /run/test/plain early",
        "TimeoutStartSec=60s\n",
    );
    systemd.units([("early.service", &text)]);
    let _by_hand = run_by_hand(&systemd, &[], "early", &["/run/test/drain", "early", "2"]);
    payload(&systemd, "early");
    systemd.ok(["systemctl", "start", "--no-block", "early"]);
    until("the takeover waits", SOON, || {
        systemd
            .property("early", "StatusText")
            .contains("wait")
            .then_some(())
    });
    systemd.ok([
        "systemctl",
        "kill",
        "-s",
        "TERM",
        "--kill-who=main",
        "early",
    ]);
    assert_ended_well(&systemd, "early.service");
}

#[test]
fn a_payload_that_never_gets_ready_is_started_again() {
    let systemd = boot();
    let more = "NotifyAccess=all\nTimeoutStartSec=2s\n";
    let text = unit(
        "--replace --notify payload -n hangs -- /run/test/hangs-once hangs",
        more,
    );
    systemd.units([("hangs.service", &text)]);
    systemd.ok(["systemctl", "start", "--no-block", "hangs"]);
    let first = payload(&systemd, "hangs");
    new_payload(&systemd, "hangs", &first);
    systemd.wait_for("hangs", "ActiveState", "active");
    assert_eq!(systemd.property("hangs", "NRestarts"), "1");
    assert_never_two_payloads(&systemd, "hangs");
}

#[test]
fn a_stopped_gateway_is_ended_by_its_watchdog_and_started_again() {
    let systemd = boot();
    let more = "WatchdogSec=3s\n";
    systemd.units([
        (
            "dog.service",
            &unit("--replace -n dog -- /run/test/plain dog", more),
        ),
        (
            "well.service",
            &unit("--replace -n well -- /run/test/plain well", more),
        ),
    ]);
    systemd.ok(["systemctl", "start", "dog", "well"]);
    let first = payload(&systemd, "dog");
    systemd.ok(["systemctl", "kill", "-s", "STOP", "--kill-who=main", "dog"]);
    new_payload(&systemd, "dog", &first);
    systemd.wait_for("dog", "ActiveState", "active");
    assert_eq!(systemd.property("dog", "NRestarts"), "1");
    systemd.journal_line("dog", "Watchdog timeout");
    assert_never_two_payloads(&systemd, "dog");

    // The other one turned all the while, and said once what that proves.
    assert_runs_undisturbed(&systemd, "well");
    let journal = systemd.journal("well");
    let warnings = journal
        .lines()
        .filter(|line| line.contains("WatchdogSec="))
        .count();
    assert_eq!(warnings, 1, "{journal}");
}

#[test]
fn a_standby_does_not_hold_up_systemctl_start() {
    let systemd = boot();
    systemd.units([
        (
            "first.service",
            &unit("-n pair -- /run/test/plain pair", ""),
        ),
        (
            "second.service",
            &unit(
                "--wait -n pair -- /run/test/plain pair",
                "TimeoutStartSec=5s\n",
            ),
        ),
    ]);
    systemd.ok(["systemctl", "start", "first"]);
    let first = payload(&systemd, "pair");
    systemd.ok(["systemctl", "start", "second"]);
    assert_runs_undisturbed(&systemd, "second");
    let holder = systemd.property("first", "MainPID");
    let standby = format!("standby behind pid {holder}");
    assert_eq!(systemd.property("second", "StatusText"), standby);

    systemd.ok(["systemctl", "stop", "first"]);
    new_payload(&systemd, "pair", &first);
    assert_runs_undisturbed(&systemd, "second");
    until("a status without standby", SOON, || {
        (!systemd.property("second", "StatusText").contains("standby")).then_some(())
    });
    systemd.ok(["systemctl", "stop", "second"]);
    assert_ended_well(&systemd, "second.service");
    assert_never_two_payloads(&systemd, "pair");
}

#[test]
fn a_standby_that_is_stopped_in_line_ends_well() {
    let systemd = boot();
    systemd.units([(
        "second.service",
        &unit("--wait -n pair -- /run/test/plain pair", ""),
    )]);
    let mut holder = run_by_hand(&systemd, &[], "pair", &["/run/test/plain", "pair"]);
    let first = payload(&systemd, "pair");
    systemd.ok(["systemctl", "start", "second"]);
    assert!(
        systemd
            .property("second", "StatusText")
            .starts_with("standby behind pid ")
    );
    systemd.ok(["systemctl", "stop", "second"]);
    assert_ended_well(&systemd, "second.service");
    assert_never_two_payloads(&systemd, "pair");
    assert!(holder.is_running() && systemd.lives(&first));
    holder.signal(Signal::TERM);
    holder.wait();
}

#[test]
fn a_standby_turns_for_the_watchdog_too() {
    let systemd = boot();
    systemd.units([(
        "second.service",
        &unit("--wait -n pair -- /run/test/plain pair", "WatchdogSec=3s\n"),
    )]);
    let _holder = run_by_hand(&systemd, &[], "pair", &["/run/test/plain", "pair"]);
    payload(&systemd, "pair");
    systemd.ok(["systemctl", "start", "second"]);
    // Three times half a period: more than its watchdog would have let pass in silence.
    for _ in 0..3 {
        let last = systemd.property("second", "WatchdogTimestampMonotonic");
        until("a sign of life", SOON, || {
            (systemd.property("second", "WatchdogTimestampMonotonic") != last).then_some(())
        });
    }
    assert_runs_undisturbed(&systemd, "second");
}
