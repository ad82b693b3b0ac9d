//! Every number that a record can name is given to a bystander, at the worst moments. No bystander
//! ever hears anything.

use std::time::Duration;

use crate::form::{Chance, choose};
use crate::harness::{End, Payload, Process, Signal};
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

/// A holder that does not stop when it is asked.
fn deaf_holder(stage: &Stage) -> Process {
    let payload = stage.scene.payload(Payload::Deaf);
    let words = ["run", "--stop-timeout", "1h", "--", &payload];
    let holder = stage.up(stage.scene.start(words), HUNG);
    stage.scene.wait_for_mark("deaf");
    std::thread::sleep(TICK);
    holder
}

/// A run of a newcomer, and whether the holder's numbers were handed on meanwhile.
struct Run {
    report: Report,
    handed_on: bool,
}

/// The whole takeover, the holder's numbers being handed on before this call of the newcomer.
fn newcomer(stage: &Stage, mut holder: Process, args: &[&str], plan: Plan) -> Run {
    let newcomer = Traced::start(stage.saying(args.to_vec()).0, plan, none);
    // It also rests while it waits for the holder: what comes after that is swept, too.
    let pid = newcomer.pid();
    let paused = newcomer.pauses(HUNG, QUIET, || args[0] == "run" && stage.is_up(pid));
    let mut successors = Vec::new();
    if paused && holder.is_running() {
        successors.extend(recycle(stage, &mut holder));
    }
    newcomer.go_on();
    if args[0] == "run" {
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
    Run {
        report,
        handed_on: !successors.is_empty(),
    }
}

/// What is swept.
struct Sweep {
    name: &'static str,
    holder: fn(&Stage) -> Process,
    args: fn(&Stage) -> Vec<&str>,
    /// The calls at which it is worth trying, in an untouched run.
    points: fn(&mut Chance, &Report) -> Vec<u64>,
}

impl Sweep {
    fn run(&self, plan: Plan) -> Run {
        let stage = Stage::new();
        let run = newcomer(&stage, (self.holder)(&stage), &(self.args)(&stage), plan);
        stage.assert_recovers();
        run
    }

    /// A point counts if the numbers were really handed on: after its end the holder has none.
    fn sweep(&self) {
        let mut chance = Chance::new();
        let mut tally = Tally::default();
        let untouched = self.run(Plan::Watch).report;
        for call in (self.points)(&mut chance, &untouched) {
            let what = format!("{}, numbers handed on at call {call}", self.name);
            tally.point(&what, || {
                let run = self.run(Plan::PauseAt(call));
                run.report.struck.filter(|_| run.handed_on)
            });
        }
        tally.close(&format!("pid reuse, {}", self.name), &chance);
    }
}

fn all_points(chance: &mut Chance, untouched: &Report) -> Vec<u64> {
    points(chance, untouched, SHORT_STEP)
}

/// From the call after the TERM to the KILL itself.
fn points_between_the_signals(chance: &mut Chance, untouched: &Report) -> Vec<u64> {
    let sent = |signal: Signal| {
        let sent = untouched.sent.iter();
        let mut calls = sent.filter(|(_, sent)| *sent == signal.as_raw());
        let (call, _) = calls.next().expect("it is sent");
        *call
    };
    let (asked, killed) = (sent(Signal::TERM), sent(Signal::KILL));
    assert!(asked < killed, "{:?}", untouched.sent);
    let within = crate::form::points(chance, killed - asked, SHORT_STEP);
    within.into_iter().map(|call| asked + call).collect()
}

#[test]
fn the_holders_numbers_may_be_handed_on_at_any_call_of_a_takeover() {
    alone(|| {
        let sweep = Sweep {
            name: "takeover",
            holder: aged_holder,
            args: |stage| stage.run(&["--replace"]),
            points: all_points,
        };
        sweep.sweep();
    });
}

#[test]
fn the_holders_numbers_may_be_handed_on_at_any_call_of_a_stop() {
    alone(|| {
        let sweep = Sweep {
            name: "stop",
            holder: aged_holder,
            args: |_| vec!["stop"],
            points: all_points,
        };
        sweep.sweep();
    });
}

/// giampaolo/psutil#2400: seconds pass between the request and the kill, and the window is widest.
#[test]
fn the_holders_numbers_may_be_handed_on_between_the_request_and_the_kill() {
    alone(|| {
        let sweep = Sweep {
            name: "request to kill",
            holder: deaf_holder,
            args: |stage| stage.run(&["--replace", "--kill-after", "200ms"]),
            points: points_between_the_signals,
        };
        sweep.sweep();
    });
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
