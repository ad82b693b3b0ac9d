//! One command under the lock: signals in, exit reason out.
//!
//! The driver of the decision in [`crate::course`]: it blocks in one place, and performs what that
//! says. The order at the end is the promise: payload gone, record marked ended, lock let go.

use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::{WaitOptions, WaitStatus};

use crate::bell::Bell;
use crate::claim::{Claim, Contest, Finding};
use crate::course::{Action, Course, KeySource, Rules, Why};
use crate::payload::{NotStarted, Payload, Surroundings};
use crate::process::{self, Pid, Stat};
use crate::program::Command;
use crate::record::{self, Asker, End, Exit, Reason, Record};
use crate::signal::Signal;
use crate::signals::{Arrival, Origin, Signals};
use crate::wait::{self, Interrupt, Watched};
use crate::{Error, Result};

/// The name is watched once the command has lived so long, and looked at then: a command that ends
/// sooner does not pay for the watch. A newcomer finds us by our lock meanwhile.
const SETTLED: Duration = Duration::from_millis(20);

/// A name that cannot be claimed now is looked at so often.
const CONTEST_INTERVAL: Duration = Duration::from_millis(200);

/// What happens, for whoever tells people.
#[derive(Debug)]
pub enum Happening<'a> {
    /// The command runs, or there is none and the lock is held.
    Running(&'a Record),
    /// An ordered stop begins.
    Stopping {
        /// The signal that came.
        signal: Signal,
        /// Who sent it.
        by: Option<&'a Asker>,
        /// It came from another gateway that takes over.
        replaced: bool,
        /// It came from outside our pid namespace.
        from_outside: bool,
    },
    /// The command has ended and left processes, which are asked to end.
    Left {
        /// These.
        left: &'a [Stat],
        /// What is there after so long is killed.
        within: Duration,
    },
    /// These are killed. Told again when others are.
    Killing {
        /// These.
        left: &'a [Stat],
        /// Why now.
        why: Why,
    },
    /// A look at the name found something, or found it whole again.
    Name(&'a Finding),
}

/// Whoever tells people and the service manager what happens.
pub trait Attendant {
    /// This happened.
    fn tell(&mut self, happening: Happening<'_>);

    /// The loop turned.
    fn turned(&mut self) {}

    /// No sleep is to be longer than this, if there is such a limit.
    fn longest_sleep(&self) -> Option<Duration> {
        None
    }
}

/// Why it ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cause {
    /// By itself.
    Exited,
    /// By an order: this signal came.
    Stopped(Signal),
    /// Somebody else has the name.
    Lost,
}

/// How it ended.
#[derive(Clone, PartialEq, Debug)]
pub struct Ended {
    /// How the command ended; none if there was none, or it was never started.
    pub exit: Option<Exit>,
    /// Why.
    pub cause: Cause,
    /// Whether another gateway has asked for that, to take over.
    pub replaced: bool,
    /// How many processes the command left, which were ended.
    pub left: usize,
    /// How long it ran: until its first process ended.
    pub ran: Duration,
}

/// Runs the command under the claim until it is over, marks the record ended, and lets go.
/// Without a command the lock is held until somebody asks for the end.
///
/// # Errors
/// The command cannot be started, and nothing is left running; or it could not be looked at, was killed,
/// and the record is that of a crash, for what it may have started by then. A record that cannot be
/// written is only told (`log`), and tried again.
pub fn supervise(
    mut claim: Claim,
    command: Option<&Command>,
    signals: &mut Signals,
    rules: &Rules,
    attendant: &mut dyn Attendant,
) -> Result<Ended> {
    let began = Instant::now();
    let payload = match start(&mut claim, command, signals, rules) {
        Ok(payload) => payload,
        Err(NotStarted::Never(error)) => {
            mark_ended(claim, End::now(Reason::Exited));
            return Err(error);
        }
        // Not marked: the next start ends what is left, as after a crash.
        Err(NotStarted::Unseen(error)) => return Err(error),
    };
    let never_started = command.is_some() && payload.is_none();
    let supervision = Supervision {
        signals,
        attendant,
        course: Course::new(rules, payload.is_some()),
        claim,
        payload,
        began,
        name: NameWatch::new(began),
        outcome: Outcome::default(),
        killed: Vec::new(),
        over: false,
    };
    Ok(if never_started {
        supervision.stopped_before()
    } else {
        supervision.run()
    })
}

/// Starts the command, if there is one. None also where a stop came first.
fn start(
    claim: &mut Claim,
    command: Option<&Command>,
    signals: &mut Signals,
    rules: &Rules,
) -> Result<Option<Payload>, NotStarted> {
    let Some(command) = command else {
        return Ok(None);
    };
    let around = Surroundings {
        record: claim.record(),
        may_notify: rules.may_notify,
    };
    let Some(payload) = Payload::start(command, around, signals, rules.terminal)? else {
        return Ok(None);
    };
    let entry = record::Payload {
        pid: payload.pid(),
        start_time: payload.identity().start_time,
        argv: record::command_line(command.argv()),
    };
    if let Err(error) = claim.set_payload(entry) {
        // The record had room a moment ago; without the entry the run id still finds it.
        let pid = payload.pid();
        log::error!("{error:#}; COMMAND runs as pid {pid}, which the record may not say");
    }
    Ok(Some(payload))
}

/// Marks the record ended and lets go, which cannot be undone by a fault.
fn mark_ended(claim: Claim, end: End) {
    if let Err(error) = claim.end(end) {
        log::error!(
            "{error:#}; how this run ended is not recorded, and the next start may take it for a crash"
        );
    }
}

/// The loop of a held lock.
struct Supervision<'a> {
    signals: &'a mut Signals,
    attendant: &'a mut dyn Attendant,
    claim: Claim,
    payload: Option<Payload>,
    course: Course,
    began: Instant,
    name: NameWatch,
    outcome: Outcome,
    /// Who was told to be killed.
    killed: Vec<Pid>,
    over: bool,
}

/// When to look at the name, and whether the last look found somebody else there.
struct NameWatch {
    bell: Option<Bell>,
    /// When to hang it.
    hang_at: Option<Instant>,
    /// When to look at the name without the bell.
    look_at: Option<Instant>,
    mounts_changed: bool,
    contested: bool,
}

/// What is known of the end.
#[derive(Default)]
struct Outcome {
    /// How the first process ended, and after how long.
    first: Option<(Exit, Duration)>,
    cause: Option<Cause>,
    by: Option<Asker>,
    replaced: bool,
    left: usize,
}

impl NameWatch {
    fn new(began: Instant) -> Self {
        Self {
            bell: None,
            hang_at: Some(began + SETTLED),
            look_at: None,
            mounts_changed: false,
            contested: false,
        }
    }

    fn hang_bell(&mut self, path: &Path) {
        self.hang_at = None;
        self.bell = Some(Bell::hang(path));
    }

    fn is_to_be_hung(&self) -> bool {
        self.hang_at.is_some_and(|at| Instant::now() >= at)
    }

    /// Whether to look now; `rang`: there was a signal of the bell's kind.
    fn calls(&mut self, rang: bool) -> bool {
        let Some(bell) = &mut self.bell else {
            return false;
        };
        let due = bell.is_due();
        let scheduled = self.look_at.is_some_and(|at| Instant::now() >= at);
        rang && bell.rang() || due || scheduled
    }

    fn look_again_in(&mut self, length: Duration) {
        self.look_at = Some(Instant::now() + length);
    }

    /// When something is due by itself.
    fn due(&self) -> Option<Instant> {
        let bell = self.bell.as_ref().and_then(Bell::due);
        [self.hang_at, self.look_at, bell]
            .into_iter()
            .flatten()
            .min()
    }

    fn close(&mut self) {
        (self.bell, self.hang_at) = (None, None);
    }
}

impl Supervision<'_> {
    fn run(mut self) -> Ended {
        self.attendant.tell(Happening::Running(self.claim.record()));
        loop {
            self.turn();
            if self.over {
                return self.finish();
            }
            self.doze();
        }
    }

    /// A stop that was recorded before the fork: nothing was started.
    fn stopped_before(mut self) -> Ended {
        if let Some(arrival) = self.signals.take_stop() {
            self.note_stop(arrival);
        }
        self.finish()
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// Everything that may have happened is looked at; then everything that is due is done.
    fn turn(&mut self) {
        let arrivals = self.signals.take();
        for arrival in arrivals
            .iter()
            .filter(|arrival| !is_for_the_loop(arrival.signal))
        {
            self.arrived(*arrival);
        }
        self.reap();
        let rang = arrivals.iter().any(|arrival| arrival.signal == Signal::IO)
            || std::mem::take(&mut self.name.mounts_changed);
        self.listen(rang);
        let action = self.course.time(self.now());
        self.act(action);
        self.attendant.turned();
    }

    fn arrived(&mut self, arrival: Arrival) {
        let source = self.source(arrival.origin);
        let stops = self.course.stops(arrival.signal) && !self.course.is_ending();
        let action = self.course.signal(self.now(), arrival.signal, source);
        self.act(action);
        if stops {
            self.note_stop(arrival);
        }
    }

    fn source(&self, origin: Origin) -> KeySource {
        match &self.payload {
            _ if origin != Origin::Kernel => KeySource::Somebody,
            // A key that was pressed before the fork is passed on.
            Some(payload) if payload.heard_nothing() => KeySource::Terminal,
            Some(payload) if payload.shares_our_group() => KeySource::TerminalToAll,
            _ => KeySource::Terminal,
        }
    }

    fn note_stop(&mut self, arrival: Arrival) {
        let outcome = &mut self.outcome;
        outcome.by = asker(arrival.origin);
        outcome.replaced = outcome.by.as_ref().is_some_and(is_replacer);
        outcome.cause.get_or_insert(Cause::Stopped(arrival.signal));
        self.attendant.tell(Happening::Stopping {
            signal: arrival.signal,
            by: outcome.by.as_ref(),
            replaced: outcome.replaced,
            from_outside: arrival.origin == Origin::Outside,
        });
    }

    fn act(&mut self, action: Action) {
        self.over |= action == Action::Finish;
        let Some(payload) = &self.payload else {
            return;
        };
        match action {
            Action::Nothing | Action::Finish => {}
            Action::PassOn(signal) => payload.signal(signal),
            Action::Stop { send } => {
                if let Some(signal) = send {
                    payload.signal(signal);
                }
                // A stopped process only notes a signal: it hears it once it goes on (signal(7)).
                payload.signal_each(&payload.stopped(), Signal::CONT);
            }
            Action::AskRest { within } => {
                // Who cannot be looked at now is killed when the time is over.
                let left = payload.left().unwrap_or_default();
                self.outcome.left = self.outcome.left.max(left.len());
                payload.signal_each(&left, Signal::TERM);
                payload.signal_each(&left, Signal::CONT);
                self.attendant.tell(Happening::Left {
                    left: &left,
                    within,
                });
            }
            Action::KillAll(why) => {
                let left = payload.left().unwrap_or_else(|_| {
                    // The others are found at the next turn.
                    payload.signal(Signal::KILL);
                    Vec::new()
                });
                let left = payload.signal_each(&left, Signal::KILL);
                let pids: Vec<Pid> = left.iter().map(|stat| stat.pid).collect();
                if !left.is_empty() && pids != self.killed {
                    self.attendant.tell(Happening::Killing { left: &left, why });
                    self.killed = pids;
                }
            }
        }
    }

    /// Collects every child that has ended: the first process, and orphans that came to us.
    fn reap(&mut self) {
        let Some(first) = self.payload.as_ref().map(Payload::pid) else {
            return;
        };
        let nobody = loop {
            match rustix::process::wait(WaitOptions::NOHANG) {
                // Once collected, its number may be handed on to somebody who comes to us.
                Ok(Some((pid, status)))
                    if self.outcome.first.is_none()
                        && pid.as_raw_nonzero().get() == first.get() =>
                {
                    self.outcome.first = Some((exit_of(status), self.now()));
                }
                Ok(Some(_)) | Err(rustix::io::Errno::INTR) => {}
                Ok(None) => break false,
                Err(_) => break true,
            }
        };
        if self.outcome.first.is_none() {
            return;
        }
        let left = !nobody && self.payload.as_ref().is_some_and(Payload::has_members);
        let action = self.course.first_gone(self.now(), left);
        self.act(action);
    }

    fn listen(&mut self, rang: bool) {
        if self.name.is_to_be_hung() {
            self.name.hang_bell(self.claim.path());
            self.look();
            crate::sys::trim_heap();
        }
        if self.name.calls(rang) {
            self.look();
        }
    }

    /// Looks at the name, and says so if something was found.
    fn look(&mut self) {
        self.name.look_at = None;
        let finding = match self.claim.check() {
            Ok(finding) => finding,
            Err(error) => Finding::Contested(Contest::Unusable(error)),
        };
        let was_contested = self.name.contested;
        self.name.contested = match &finding {
            Finding::Intact | Finding::PutBack => false,
            Finding::Contested(_) => true,
            _ => was_contested,
        };
        match &finding {
            Finding::Intact if !was_contested => return,
            Finding::Intact | Finding::Rewritten => {}
            Finding::Overwritten => return self.name.look_again_in(Duration::from_secs(1)),
            Finding::PutBack => {
                // The directories may be others now.
                self.name.hang_bell(self.claim.path());
                self.name.look_again_in(CONTEST_INTERVAL);
            }
            Finding::Contested(_) => {
                self.name.look_again_in(CONTEST_INTERVAL);
                if was_contested {
                    return;
                }
            }
            Finding::Lost(_) => self.lost(),
        }
        self.attendant.tell(Happening::Name(&finding));
    }

    fn lost(&mut self) {
        self.outcome.cause.get_or_insert(Cause::Lost);
        let action = self.course.lost(self.now());
        self.act(action);
        self.name.close();
    }

    fn doze(&mut self) {
        let course = self.course.due().map(|due| due.saturating_sub(self.now()));
        let until = |at: Instant| at.saturating_duration_since(Instant::now());
        let limit = self
            .name
            .due()
            .map(until)
            .into_iter()
            .chain(course)
            .chain(self.attendant.longest_sleep())
            .min();
        let mounts = self.name.bell.as_ref().and_then(Bell::mounts);
        // The mounts come first: see below.
        let watched = mounts.map(Watched::Changed).into_iter();
        let watched = watched.chain(self.signals.descriptor().map(Watched::Readable));
        let ready = wait::ready(watched, limit, self.signals.lets_in());
        // The kernel tells of a change once: whoever asks again hears nothing.
        self.name.mounts_changed = mounts.is_some() && ready[0];
    }

    fn finish(mut self) -> Ended {
        // What is written from here on is written by us.
        self.name.close();
        let ran = self.now();
        let Outcome {
            first,
            cause,
            by,
            replaced,
            left,
        } = self.outcome;
        let cause = cause.unwrap_or(Cause::Exited);
        let exit = first.map(|(exit, _)| exit);
        let end = End {
            exit,
            by,
            ..End::now(reason(&cause, replaced))
        };
        mark_ended(self.claim, end);
        Ended {
            exit,
            cause,
            replaced,
            left,
            ran: first.map_or(ran, |(_, ran)| ran),
        }
    }
}

fn reason(cause: &Cause, replaced: bool) -> Reason {
    match cause {
        Cause::Exited => Reason::Exited,
        Cause::Stopped(_) if replaced => Reason::Replaced,
        Cause::Stopped(_) => Reason::Stopped,
        Cause::Lost => Reason::Lost,
    }
}

fn is_for_the_loop(signal: Signal) -> bool {
    signal == Signal::CHLD || signal == Signal::IO
}

fn exit_of(status: WaitStatus) -> Exit {
    match status.terminating_signal() {
        Some(signal) => Exit::Signal(Signal::from_wait(signal)),
        None => Exit::Code(status.exit_status().unwrap_or(0)),
    }
}

/// Only a sender the kernel vouches for is believed.
fn asker(origin: Origin) -> Option<Asker> {
    let Origin::Process { pid, uid } = origin else {
        return None;
    };
    Some(Asker {
        pid,
        uid,
        argv: record::command_line(&process::argv(pid)),
    })
}

/// A label, no more: a gateway that was called with `--replace`. One around us never takes over from us, but
/// passes on that it was stopped.
fn is_replacer(asker: &Asker) -> bool {
    called_to_replace(asker) && !process::ancestors().contains(&asker.pid)
}

fn called_to_replace(asker: &Asker) -> bool {
    let mut words = asker.argv.iter().map(|text| &text.0);
    let program = words
        .next()
        .map(std::path::Path::new)
        .and_then(std::path::Path::file_name);
    let ours = process::executable(Pid::this());
    let ours = ours.as_deref().and_then(std::path::Path::file_name);
    program.is_some()
        && program == ours
        && words
            .take_while(|word| *word != "--")
            .any(|word| word == "--replace")
}

/// Becomes the command under the claim: the lock is inherited, and nobody watches any more.
/// Comes back only where it could not. `None`: a signal that asks to stop had come before.
pub fn become_command(
    claim: Claim,
    command: &Command,
    signals: &mut Signals,
    may_notify: bool,
) -> Option<Error> {
    if let Err(error) = claim.inherit() {
        return Some(error);
    }
    let around = Surroundings {
        record: claim.record(),
        may_notify,
    };
    let error = crate::payload::become_command(command, around, signals);
    let reason = if error.is_some() {
        Reason::Exited
    } else {
        Reason::Stopped
    };
    mark_ended(claim, End::now(reason));
    error
}
