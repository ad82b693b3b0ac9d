//! The gateway is killed at its 1st, 2nd, … n-th system call, in every scene of its life.
//!
//! Whatever was half done then, the next `run --replace` is up at its first try, soon, alone, and
//! nobody else has noticed.

use std::fs;
use std::time::Duration;

use crate::form::Chance;
use crate::harness::{End, Signal, wait_until};
use crate::stage::{HUNG, NEXT, Stage, Tally, points};
use crate::trace::{Plan, Report, Traced};
use crate::world::alone;

/// Every so manieth call in the normal run.
const SHORT_STEP: u64 = 7;

/// A gateway that makes no call for so long is idle.
const QUIET: Duration = Duration::from_millis(60);

/// No call fails in this sweep.
fn none(_: i64, _: Option<&str>) -> &'static [i32] {
    &[]
}

fn start(stage: &Stage, options: &[&str], plan: Plan) -> Traced {
    Traced::start(stage.saying(stage.run(options)).0, plan, none)
}

/// A traced holder whose command runs and which has come to rest; from now on its calls count.
fn holder(stage: &Stage, plan: Plan) -> Traced {
    let holder = Traced::start_unarmed(stage.saying(stage.run(&[])).0, plan, none);
    wait_until("the traced holder's command", HUNG, || {
        stage.is_up(holder.pid())
    });
    // The name is watched a moment later.
    assert!(holder.rest(QUIET));
    holder.arm();
    holder
}

/// Ends whoever was not killed.
fn finish(traced: Traced) -> Report {
    if !traced.has_ended() {
        crate::harness::signal(traced.pid(), Signal::KILL);
    }
    let (report, in_time) = traced.report(HUNG);
    assert!(in_time, "hung: {report:?}");
    report
}

fn sweep(name: &str, scene: fn(&Stage, Plan) -> Report) {
    let mut chance = Chance::new();
    let mut tally = Tally::default();
    let stage = Stage::new();
    let untouched = scene(&stage, Plan::Watch);
    stage.assert_recovers();
    drop(stage);
    for call in points(&mut chance, &untouched, SHORT_STEP) {
        tally.point(&format!("{name}, killed at call {call}"), || {
            let stage = Stage::new();
            let report = scene(&stage, Plan::KillAt(call));
            stage.assert_recovers();
            report.struck
        });
    }
    tally.close(&format!("kill sweep, {name}"), &chance);
}

fn first_start(stage: &Stage, plan: Plan) -> Report {
    let gateway = start(stage, &[], plan);
    let pid = gateway.pid();
    assert!(gateway.settle(HUNG, QUIET, || stage.is_up(pid)));
    finish(gateway)
}

#[test]
fn a_first_start_may_be_killed_anywhere() {
    alone(|| sweep("first start", first_start));
}

fn after_a_crash(stage: &Stage, plan: Plan) -> Report {
    stage.crashed();
    first_start(stage, plan)
}

#[test]
fn a_start_over_a_crash_and_its_orphan_may_be_killed_anywhere() {
    alone(|| sweep("start over a crash", after_a_crash));
}

fn refusal(stage: &Stage, plan: Plan) -> Report {
    let mut holder = stage.holder();
    let before = stage.scene.footprint();
    let (report, in_time) = start(stage, &[], plan).report(HUNG);
    assert!(in_time, "hung: {report:?}");
    let killed = report.struck.is_some() && report.end == End::of(Signal::KILL);
    assert!(killed || report.end == End::Code(80), "{report:?}");
    assert!(holder.is_running() && stage.is_up(holder.pid()));
    assert_eq!(stage.scene.footprint(), before);
    stage.keep(holder);
    report
}

#[test]
fn a_refused_start_may_be_killed_anywhere() {
    alone(|| sweep("plain refusal", refusal));
}

fn newcomer(stage: &Stage, plan: Plan) -> Report {
    stage.keep(stage.holder());
    let gateway = start(stage, &["--replace"], plan);
    let pid = gateway.pid();
    assert!(gateway.settle(HUNG, QUIET, || stage.is_up(pid)));
    finish(gateway)
}

#[test]
fn a_newcomer_may_be_killed_anywhere_in_its_takeover() {
    alone(|| sweep("takeover, the newcomer", newcomer));
}

fn replaced(stage: &Stage, plan: Plan) -> Report {
    let holder = holder(stage, plan);
    let next = stage.up(stage.scene.start(stage.run(&["--replace"])), NEXT);
    stage.keep(next);
    finish(holder)
}

#[test]
fn a_holder_may_be_killed_anywhere_while_it_is_replaced() {
    alone(|| sweep("takeover, the holder", replaced));
}

fn stopped(stage: &Stage, plan: Plan) -> Report {
    let holder = holder(stage, plan);
    crate::harness::signal(holder.pid(), Signal::TERM);
    let (report, in_time) = holder.report(HUNG);
    assert!(in_time, "hung: {report:?}");
    report
}

#[test]
fn a_holder_may_be_killed_anywhere_in_an_ordered_stop() {
    alone(|| sweep("ordered stop", stopped));
}

fn standby(stage: &Stage, plan: Plan) -> Report {
    let mut holder = stage.holder();
    let standby = start(stage, &["--wait"], plan);
    let pid = standby.pid();
    assert!(standby.rest(QUIET / 2));
    holder.signal(Signal::TERM);
    holder.end_within(HUNG);
    assert!(standby.settle(HUNG, QUIET, || stage.is_up(pid)));
    finish(standby)
}

#[test]
fn a_standby_may_be_killed_anywhere_while_it_takes_over() {
    alone(|| sweep("standby", standby));
}

fn removed(stage: &Stage, plan: Plan) -> Report {
    let holder = holder(stage, plan);
    fs::remove_file(stage.scene.pid_file()).expect("the file is there");
    let pid = holder.pid();
    assert!(holder.settle(HUNG, QUIET * 5, || stage.is_up(pid)));
    finish(holder)
}

#[test]
fn a_holder_may_be_killed_anywhere_while_it_puts_its_claim_back() {
    alone(|| sweep("file removed", removed));
}
