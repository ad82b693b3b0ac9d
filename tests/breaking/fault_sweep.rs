//! Every system call of start, takeover and stop fails, with every errno that it can give.
//!
//! One call fails, once. Either the gateway does not need it, or it says what failed and ends with
//! a code of the table: without a command that runs unlocked, and without harm to a holder that
//! could have stayed.

use std::time::Duration;

use crate::errnos;
use crate::form::{Chance, is_long};
use crate::harness::{End, Payload, Signal, signal, wait_until};
use crate::stage::{HUNG, Stage, Tally, points};
use crate::trace::{Plan, Report, Struck, Traced};
use crate::world::alone;

/// Every so manieth call in the normal run, each with one errno.
const SHORT_STEP: u64 = 5;

/// A gateway that makes no call for so long is idle.
const QUIET: Duration = Duration::from_millis(60);

/// What COMMAND ends with.
const OWN: i32 = 7;

/// The codes of the table that can be an honest answer to a call that failed. Wrong usage (2), a
/// proven holder in the way of a plain start (80) and a lost claim (84) are none of these.
const REFUSALS: [i32; 6] = [70, 81, 82, 83, 126, 127];

/// What a scene came to.
struct Seen {
    report: Report,
    said: String,
    in_time: bool,
    /// Codes that are right whatever failed.
    good: &'static [End],
}

fn sweep(name: &str, scene: fn(&Stage, Plan) -> Seen) {
    sweep_every(SHORT_STEP, name, scene);
}

fn sweep_every(short_step: u64, name: &str, scene: fn(&Stage, Plan) -> Seen) {
    let mut chance = Chance::new();
    let mut tally = Tally::default();
    let stage = Stage::new();
    let untouched = scene(&stage, Plan::Watch);
    assert!(
        untouched.in_time && untouched.good.contains(&untouched.report.end),
        "{}",
        untouched.said
    );
    stage.assert_recovers();
    drop(stage);
    for call in points(&mut chance, &untouched.report, short_step) {
        let what = format!("{name}, call {call}");
        if is_long() {
            let mut choices = 0..;
            let plan = |choice| Plan::FailAt { call, choice };
            while let Some(choice) = choices.next()
                && tally.point(&what, || point(scene, plan(choice)))
            {}
        } else {
            let chance = usize::try_from(chance.below(1 << 20)).expect("small");
            tally.point(&what, || point(scene, Plan::FailSomehowAt { call, chance }));
        }
    }
    tally.close(&format!("fault sweep, {name}"), &chance);
}

fn point(scene: fn(&Stage, Plan) -> Seen, plan: Plan) -> Option<Struck> {
    let stage = Stage::new();
    let seen = scene(&stage, plan);
    let struck = seen.report.struck.clone()?;
    let what = describe(&struck);
    if std::env::var_os("GATEWAY_TEST_TABLE").is_some() {
        eprintln!("figure: {what}: {:?} {:?}", seen.report.end, seen.said);
    }
    assert!(seen.in_time, "{what}: hung: {}", seen.said);
    assert_told(&what, &struck, &seen, &stage);
    stage.assert_unharmed();
    if !seen.good.contains(&seen.report.end) && !seen.said.contains("asked pid") {
        stage.assert_kept_are_up(&what);
    }
    stage.assert_recovers();
    Some(struck)
}

fn describe(struck: &Struck) -> String {
    let errno = struck.errno.map(errnos::name).unwrap_or_default();
    let path = struck.path.as_deref().unwrap_or("");
    let whose = if struck.in_child { "the child's " } else { "" };
    format!("{whose}{} {path}: {errno}", struck.name)
}

#[track_caller]
fn assert_told(what: &str, struck: &Struck, seen: &Seen, stage: &Stage) {
    let end = seen.report.end;
    let said = &seen.said;
    let goes_on = seen.good.contains(&end);
    let refused = matches!(end, End::Code(code) if REFUSALS.contains(&code));
    assert!(goes_on || refused, "{what}: {end:?}: {said}");
    assert!(!said.contains("panicked"), "{what}: {said}");
    if struck.errno == Some(libc::EINTR) {
        assert!(
            goes_on,
            "an interruption is no error: {what}: {end:?}: {said}"
        );
    }
    assert!(
        said.lines().all(|line| line.starts_with("gateway: ")),
        "{what}: {said}"
    );
    if refused {
        assert!(!said.is_empty(), "{what}: {end:?} without a word");
    }
    if refused && struck.path.is_some() {
        // Before it there may be lines that say who was asked to go, and what was left.
        let last = said.lines().last().expect("a word");
        assert!(names_a_place(last, stage), "{what}: {said}");
        assert!(said.lines().count() <= 4, "{what}: {said}");
    }
}

/// A line that says where it failed.
fn names_a_place(line: &str, stage: &Stage) -> bool {
    let folder = stage.scene.path("");
    [folder.to_str().expect("text"), "/proc", "our own child"]
        .iter()
        .any(|place| line.contains(place))
}

/// A command that is gone at once, with a code of its own.
fn brief(stage: &Stage) -> String {
    stage.scene.payload(Payload::Script(concat!(
        "flock -n \"$GATEWAY_PID_FILE\" true && echo $$ >>\"$SCENE/unlocked\"\n",
        "exit 7\n"
    )))
}

fn run_brief(stage: &Stage, options: &[&str], plan: Plan) -> Seen {
    run_brief_and(stage, options, plan, |_| {})
}

/// Something happens while it is on its way.
fn run_brief_and(stage: &Stage, options: &[&str], plan: Plan, then: impl FnOnce(&Traced)) -> Seen {
    let brief = brief(stage);
    let args = [
        &["run", "--stop-timeout", "1s"],
        options,
        &["--", brief.as_str()],
    ]
    .concat();
    let (command, stderr) = stage.saying(args);
    let traced = Traced::start(command, plan, errnos::of);
    then(&traced);
    let (report, in_time) = traced.report(HUNG);
    let said = std::fs::read_to_string(stderr).expect("what it said");
    let ran = stage.scene.started_payloads().len();
    if report.end == End::Code(OWN) {
        assert!(ran > 0, "{report:?}: {said}");
    }
    Seen {
        report,
        said,
        in_time,
        good: &[End::Code(OWN)],
    }
}

fn first_start(stage: &Stage, plan: Plan) -> Seen {
    run_brief(stage, &[], plan)
}

#[test]
fn any_call_of_a_first_start_may_fail() {
    alone(|| sweep("first start", first_start));
}

fn after_a_crash(stage: &Stage, plan: Plan) -> Seen {
    stage.crashed();
    run_brief(stage, &[], plan)
}

#[test]
fn any_call_of_a_start_over_a_crash_may_fail() {
    alone(|| sweep("start over a crash", after_a_crash));
}

/// What the standby noted while the holder lived is all that it knows of the orphan.
fn standby(stage: &Stage, plan: Plan) -> Seen {
    let (mut holder, _orphan) = stage.leaver();
    let options = ["--wait", "--timeout", "8s"];
    run_brief_and(stage, &options, plan, |standby| {
        standby.rest(QUIET);
        holder.crash();
    })
}

#[test]
fn any_call_of_a_standby_may_fail() {
    // Each point has a crash, and an orphan that the kernel gets its time to end.
    alone(|| sweep_every(3 * SHORT_STEP, "standby", standby));
}

fn takeover(stage: &Stage, plan: Plan) -> Seen {
    let holder = stage.holder();
    stage.keep(holder);
    run_brief(
        stage,
        &["--replace", "--kill-after", "3s", "--timeout", "6s"],
        plan,
    )
}

#[test]
fn any_call_of_a_takeover_may_fail() {
    alone(|| sweep("takeover", takeover));
}

fn stop(stage: &Stage, plan: Plan) -> Seen {
    stage.keep(stage.holder());
    let (command, stderr) = stage.saying(vec!["stop", "--kill-after", "3s", "--timeout", "6s"]);
    let (report, in_time) = Traced::start(command, plan, errnos::of).report(HUNG);
    let said = std::fs::read_to_string(stderr).expect("what it said");
    Seen {
        report,
        said,
        in_time,
        good: &[End::Code(0)],
    }
}

#[test]
fn any_call_of_a_stop_may_fail() {
    alone(|| sweep("stop", stop));
}

/// A traced holder whose command runs; from now on its calls count.
fn holder(stage: &Stage, plan: Plan) -> (Traced, std::path::PathBuf) {
    let (command, stderr) = stage.saying(stage.run(&["--stop-timeout", "1s"]));
    let holder = Traced::start_unarmed(command, plan, errnos::of);
    wait_until("the traced holder's command", HUNG, || {
        stage.is_up(holder.pid())
    });
    assert!(holder.rest(QUIET));
    holder.arm();
    (holder, stderr)
}

fn stopped(stage: &Stage, plan: Plan) -> Seen {
    let (holder, stderr) = holder(stage, plan);
    signal(holder.pid(), Signal::TERM);
    let (report, in_time) = holder.report(HUNG);
    let said = std::fs::read_to_string(stderr).expect("what it said");
    Seen {
        report,
        said,
        in_time,
        good: &[End::Signal(15)],
    }
}

#[test]
fn any_call_of_an_ordered_stop_may_fail() {
    alone(|| sweep("ordered stop", stopped));
}

fn replaced(stage: &Stage, plan: Plan) -> Seen {
    let (holder, stderr) = holder(stage, plan);
    let next = stage.scene.start(stage.run(&["--replace"]));
    let (report, in_time) = holder.report(HUNG);
    stage.keep(stage.up(next, HUNG));
    let said = std::fs::read_to_string(stderr).expect("what it said");
    Seen {
        report,
        said,
        in_time,
        good: &[End::Signal(15)],
    }
}

#[test]
fn any_call_of_a_replaced_holder_may_fail() {
    alone(|| sweep("replaced holder", replaced));
}

/// A read or a write may do less than it was asked for (read(2), write(2)); that is no error either.
#[track_caller]
fn assert_goes_on_byte_by_byte(scene: fn(&Stage, Plan) -> Seen) {
    let stage = Stage::new();
    let seen = scene(&stage, Plan::Short);
    assert!(seen.report.struck.is_some(), "nothing was read or written");
    assert!(
        seen.in_time && seen.good.contains(&seen.report.end),
        "{:?}: {}",
        seen.report,
        seen.said
    );
    stage.assert_unharmed();
    stage.assert_recovers();
}

#[test]
fn short_reads_and_writes_are_no_errors() {
    alone(|| {
        for scene in [
            first_start,
            after_a_crash,
            standby,
            takeover,
            stop,
            stopped,
            replaced,
        ] {
            assert_goes_on_byte_by_byte(scene);
        }
    });
}
