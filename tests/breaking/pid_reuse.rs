//! Every number that a record can name is given to a bystander, at the worst moments. No bystander
//! ever hears anything.

use std::time::Duration;

use crate::form::{Chance, choose};
use crate::harness::{End, Process, Signal};
use crate::recycle::{Ring, Successor, collect};
use crate::stage::{HUNG, Stage, Tally, points};
use crate::trace::{Plan, Report, Traced};
use crate::world::alone;

/// Every so manieth call in the normal run.
const SHORT_STEP: u64 = 7;

const QUIET: Duration = Duration::from_millis(40);

/// Start times count in ticks: who gets a number back within the same tick has the same identity.
const TICK: Duration = Duration::from_millis(20);

fn none(_: i64, _: Option<&str>) -> &'static [i32] {
    &[]
}

/// The gateway and its command are killed, and both numbers are others' at once.
fn recycle(stage: &Stage, holder: &mut Process) -> [Successor; 2] {
    let payload = stage.scene.record().payload_pid();
    // It may be on its way out by itself.
    holder.signal(Signal::KILL);
    holder.end_within(HUNG);
    // The command came to us when its gateway died, and dies of that.
    collect(payload);
    let successors = [Successor::of(holder.pid()), Successor::of(payload)];
    assert_eq!(successors[0].pid(), holder.pid());
    successors
}

fn assert_silent(successors: &[Successor]) {
    successors.iter().for_each(Successor::assert_heard_nothing);
}

fn aged_holder(stage: &Stage) -> Process {
    let holder = stage.holder();
    std::thread::sleep(TICK);
    holder
}

/// The whole takeover, the holder's numbers being handed on before this call of the newcomer.
fn newcomer(stage: &Stage, args: &[&str], plan: Plan) -> Report {
    let mut holder = aged_holder(stage);
    let newcomer = Traced::start(stage.saying(args.to_vec()).0, plan, none);
    let paused = newcomer.wait_for_pause(QUIET);
    let mut successors = Vec::new();
    if paused && holder.is_running() {
        successors.extend(recycle(stage, &mut holder));
    }
    newcomer.go_on();
    if args[0] == "run" {
        let pid = newcomer.pid();
        assert!(newcomer.settle(HUNG, QUIET, || stage.is_up(pid)));
        crate::harness::signal(pid, Signal::TERM);
    }
    let (report, in_time) = newcomer.report(HUNG);
    assert!(in_time, "hung: {report:?}");
    let expected = if args[0] == "run" {
        End::of(Signal::TERM)
    } else {
        End::Code(0)
    };
    assert_eq!(report.end, expected);
    assert_silent(&successors);
    report
}

fn sweep(name: &str, args: fn(&Stage) -> Vec<&str>) {
    let mut chance = Chance::new();
    let mut tally = Tally::default();
    let stage = Stage::new();
    let untouched = newcomer(&stage, &args(&stage), Plan::Watch);
    drop(stage);
    for call in points(&mut chance, &untouched, SHORT_STEP) {
        tally.point(&format!("{name}, numbers handed on at call {call}"), || {
            let stage = Stage::new();
            let report = newcomer(&stage, &args(&stage), Plan::PauseAt(call));
            stage.assert_recovers();
            report.struck
        });
    }
    tally.close(&format!("pid reuse, {name}"), &chance);
}

#[test]
fn the_holders_numbers_may_be_handed_on_at_any_call_of_a_takeover() {
    alone(|| sweep("takeover", |stage| stage.run(&["--replace"])));
}

#[test]
fn the_holders_numbers_may_be_handed_on_at_any_call_of_a_stop() {
    alone(|| sweep("stop", |_| vec!["stop"]));
}

/// One crash, and what comes after it, with the numbers handed on.
fn after_a_crash(stage: &Stage, args: &[&str]) -> u64 {
    let mut holder = aged_holder(stage);
    let successors = recycle(stage, &mut holder);
    if args[0] == "stop" {
        stage.scene.finish(args).assert_code(0);
        assert_silent(&successors);
        return 1;
    }
    let mut next = stage.up(stage.scene.start(args), HUNG);
    assert_silent(&successors);
    next.signal(Signal::TERM);
    next.end_within(HUNG);
    // The record names the last run, which ended in order: that number is handed on, too.
    let again = Successor::of(next.pid());
    let mut last = stage.up(stage.scene.start(args), HUNG);
    last.crash();
    collect(stage.scene.record().payload_pid());
    assert_silent(&successors);
    again.assert_heard_nothing();
    2
}

#[test]
fn numbers_that_are_handed_on_in_a_fork_storm_are_never_signalled() {
    alone(|| {
        let ring = Ring::new();
        let stage = Stage::new();
        let rounds = choose(30, 400);
        let mut checked = 0;
        for _ in 0..rounds {
            checked += after_a_crash(&stage, &stage.run(&[]));
            checked += after_a_crash(&stage, &stage.run(&["--replace"]));
            checked += after_a_crash(&stage, &["stop"]);
            // A living holder is replaced, while numbers go round.
            let mut holder = stage.holder();
            let mut next = stage.up(stage.scene.start(stage.run(&["--replace"])), HUNG);
            assert_eq!(holder.end_within(HUNG), End::of(Signal::TERM));
            next.signal(Signal::TERM);
            assert_eq!(next.end_within(HUNG), End::of(Signal::TERM));
            checked += 1;
        }
        stage.assert_unharmed();
        let bystanders = ring.close();
        stage.assert_recovers();
        eprintln!(
            "figure: pid reuse in a fork storm: {checked} takeovers, starts and stops over recycled \
             numbers, {bystanders} bystanders, none heard anything"
        );
    });
}
