//! `run`: takes the lock, runs COMMAND under it, ends with it.

use std::cell::RefCell;
use std::collections::HashSet;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use gateway_lock::Result;
use gateway_lock::acquire::{self, Acquired, Former, Outcome, Progress, Refused};
use gateway_lock::claim::{Contest, Description, Finding};
use gateway_lock::notify::{Notifier, watchdog_interval};
use gateway_lock::payload::Command;
use gateway_lock::process::{Pid, Signal};
use gateway_lock::record::{Exit, Limit, Record};
use gateway_lock::signals::Signals;
use gateway_lock::supervise::{self, Attendant, Cause, Ended, Happening};
use gateway_lock::takeover::{Mode, Refusal, Rules};
use gateway_lock::wait::Interrupt;

use crate::cli::{Notify, Run};
use crate::commands::Context;
use crate::exit::{CANNOT_REPLACE, DEADLINE, HELD, LOST, Verdict};
use crate::message::Voice;
use crate::words::{self, Subject};

pub fn run(context: &Context, run: &Run) -> Result<Verdict> {
    // Before anything else happens, so that no signal finds us half started.
    let mut signals = Signals::route()?;
    let command = if run.command.is_empty() {
        None
    } else {
        Some(Command::resolve(&run.command)?)
    };
    let subject = context.subject()?;
    let mut session = Session {
        voice: context.voice,
        manager: ServiceManager::new(run),
        subject,
        run,
        began: Instant::now(),
    };
    session.warn(&signals);
    let description = session.description()?;
    let terminal = description.stat.terminal != 0;
    match session.acquire(&description, &mut signals)? {
        Outcome::Acquired(acquired) => {
            session.hold(*acquired, command.as_ref(), terminal, &mut signals)
        }
        Outcome::Refused(refused) => Ok(session.refused(&refused)),
        Outcome::Interrupted { asked } => Ok(session.interrupted(&mut signals, &asked)),
    }
}

fn mode(run: &Run) -> Mode {
    match (run.replace, run.wait) {
        (true, _) => Mode::Replace,
        (_, true) => Mode::Wait,
        _ => Mode::Plain,
    }
}

struct Session<'a> {
    voice: Voice,
    manager: ServiceManager,
    subject: Subject,
    run: &'a Run,
    began: Instant,
}

impl Session<'_> {
    /// What the environment shows to be wrong.
    fn warn(&self, signals: &Signals) {
        if self.manager.notifier.is_connected()
            && self.run.notify == Notify::Gateway
            && watchdog_interval().is_some()
        {
            log::warn!(
                "WatchdogSec= watches this gateway, not COMMAND; to watch COMMAND: --notify payload, NotifyAccess=all"
            );
        }
        if signals.was_ignored(Signal::CHLD) {
            log::warn!(
                "SIGCHLD was ignored when we were started, and COMMAND inherits that: it may not see its children end"
            );
        }
        if let Some(kind) = acquire::network_file_system(&self.subject.path) {
            log::warn!(
                "{} is on {kind}: its locks are only as good as that file system's",
                words::path(&self.subject.path)
            );
        }
    }

    fn description(&self) -> Result<Description> {
        Ok(Description {
            stop_timeout: Some(self.run.stop_timeout),
            stop_signal: self.run.stop_signal,
            exec: self.run.exec,
            ..Description::of_this_process()?
        })
    }

    fn acquire(&mut self, description: &Description, signals: &mut Signals) -> Result<Outcome> {
        let mode = mode(self.run);
        let rules = Rules {
            mode,
            timeout: self.run.patience.timeout,
            kill_after: self.run.patience.kill_after,
        };
        let mut narrator = Narrator::new(self.voice, &self.subject, mode);
        // Both the sleeper and whoever tells of progress speak to the service manager.
        let manager = RefCell::new(&mut self.manager);
        let mut patrol = Patrol {
            signals,
            manager: &manager,
        };
        let path = &self.subject.path;
        let outcome = acquire::acquire(path, rules, description, &mut patrol, &mut |progress| {
            manager.borrow_mut().progress(&progress, mode);
            narrator.progress(&progress);
        });
        narrator.end();
        outcome
    }

    fn hold(
        &mut self,
        acquired: Acquired,
        command: Option<&Command>,
        terminal: bool,
        signals: &mut Signals,
    ) -> Result<Verdict> {
        self.tell_acquired(&acquired);
        let (replaced, own) = (acquired.replaced, acquired.claim.record().clone());
        let may_notify = self.run.notify == Notify::Payload;
        if let Some(command) = command.filter(|_| self.run.exec) {
            self.manager
                .ready(&format!("running {}", words::command(command.argv())));
            return Err(supervise::become_command(
                acquired.claim,
                command,
                signals,
                may_notify,
            ));
        }
        let rules = supervise::Rules {
            stop_signal: self.run.stop_signal,
            stop_timeout: self.run.stop_timeout,
            terminal,
            may_notify,
        };
        let mut told = Told {
            voice: self.voice,
            subject: &self.subject,
            manager: &mut self.manager,
            stop_timeout: self.run.stop_timeout,
        };
        let ended = supervise::supervise(acquired.claim, command, signals, &rules, &mut told)?;
        Ok(self.over(&ended, command, &replaced, &own))
    }

    fn tell_acquired(&self, acquired: &Acquired) {
        let path = words::path(acquired.claim.path());
        let generation = acquired.claim.record().generation;
        if !acquired.swept.is_empty() {
            let ended: Vec<String> = acquired
                .swept
                .iter()
                .map(|one| words::process(one.pid, &one.argv))
                .collect();
            log::warn!(
                "ended what a crashed run had left: {}, {path}",
                ended.join(", ")
            );
        }
        match acquired.replaced.last() {
            Some(former) => {
                let who = words::process(former.pid, &former.argv);
                let how = if former.killed {
                    "killed it"
                } else {
                    "it stopped"
                };
                log::info!(
                    "took over from {who} after {} ({how}), {path}, generation {generation}",
                    words::span(acquired.waited)
                );
            }
            None if acquired.waited >= Duration::from_secs(1) => {
                log::info!(
                    "got the lock after {}, {path}, generation {generation}",
                    words::span(acquired.waited)
                );
            }
            None => log::info!(
                "got the lock, {path}, generation {generation}{}",
                after(acquired)
            ),
        }
        self.tell_units(
            &acquired.replaced,
            acquired.claim.record(),
            "took over from",
        );
    }

    /// A unit whose holder we replaced is down, and nobody will remember.
    fn tell_units(&self, replaced: &[Former], own: &Record, what: &str) {
        let mut told = HashSet::new();
        // Started by the manager, too: the one that was replaced was our own unit's.
        let is_own = |theirs: &Record| (&theirs.unit, theirs.manager) == (&own.unit, own.manager);
        for record in replaced.iter().filter_map(|former| former.record.as_ref()) {
            if let (Some(unit), Some(start)) = (&record.unit, words::systemctl("start", record))
                && told.insert(unit.clone())
                && !is_own(record)
            {
                self.voice.notice(&format!(
                    "{what} {unit}, which is down now; start it again with: {start}"
                ));
            }
        }
    }

    fn over(
        &mut self,
        ended: &Ended,
        command: Option<&Command>,
        replaced: &[Former],
        own: &Record,
    ) -> Verdict {
        let path = words::path(&self.subject.path);
        let shown = command.map_or_else(
            || "no command".to_owned(),
            |command| words::command(command.argv()),
        );
        if ended.cause == Cause::Exited && ended.left > 0 {
            let exit = ended
                .exit
                .map_or_else(String::new, |exit| format!(" {}", ending(exit)));
            let processes = if ended.left == 1 {
                "1 process, which was"
            } else {
                &format!("{} processes, which were", ended.left)
            };
            self.voice.expected(&format!(
                "{shown} ended{exit} after {} and left {processes} ended; run it in the foreground",
                words::span(ended.ran)
            ));
        }
        log::info!(
            "{shown} {}; let go of {path}",
            ended
                .exit
                .map_or_else(|| "did not run".to_owned(), |exit| format!("ended, {exit}"))
        );
        self.manager.over(ended);
        self.tell_units(replaced, own, "this run had taken over from");
        verdict(ended, command.is_some())
    }

    fn refused(&mut self, refused: &Refused) -> Verdict {
        let began = self.began.elapsed();
        let verb = if self.run.replace { "replace" } else { "start" };
        let text = words::refused(refused, &self.subject, began, verb);
        let code = match refused {
            Refused::By {
                refusal: Refusal::Held,
                ..
            } => HELD,
            Refused::By {
                refusal: Refusal::Deadline,
                ..
            }
            | Refused::Survivors {
                own_ancestor: false,
                ..
            } => DEADLINE,
            // Standing in line asks nobody to go: it can only run out of time.
            Refused::By {
                refusal: Refusal::Unproven,
                ..
            } if self.run.wait => DEADLINE,
            Refused::By { .. } | Refused::Survivors { .. } => CANNOT_REPLACE,
        };
        if code == CANNOT_REPLACE {
            self.voice.fault(&text)
        } else {
            self.voice.expected(&text)
        }
        self.manager.status(&text);
        Verdict::Code(code)
    }

    fn interrupted(&mut self, signals: &mut Signals, asked: &[Former]) -> Verdict {
        if let Some(former) = asked.last() {
            let who = words::process(former.pid, &former.argv);
            let path = words::path(&self.subject.path);
            self.voice.notice(&format!(
                "interrupted; {who} was asked to stop and will, and nothing will run then, {path}"
            ));
        }
        self.manager.ordered_end();
        signals
            .take_stop()
            .map_or(Verdict::SUCCESS, |arrival| Verdict::Signal(arrival.signal))
    }
}

/// Why the lock was free: a crash is worth a word in the diary.
fn after(acquired: &Acquired) -> String {
    match acquired.last.record() {
        Some(record) if record.end.is_none() && !record.exec => {
            format!(
                "; the last run, {}, ended without a word",
                words::process(record.pid, &words::words(record.command()))
            )
        }
        _ => String::new(),
    }
}

fn ending(exit: Exit) -> String {
    match exit {
        Exit::Code(code) => code.to_string(),
        Exit::Signal(signal) => format!("by {signal}"),
    }
}

/// Ordered ends are clean where COMMAND's was; else we die of the signal that asked.
fn verdict(ended: &Ended, command: bool) -> Verdict {
    match (&ended.cause, ended.exit) {
        (Cause::Lost(_), _) => Verdict::Code(LOST),
        (Cause::Stopped(_), Some(Exit::Code(0))) => Verdict::SUCCESS,
        (Cause::Stopped(_), None) if !command => Verdict::SUCCESS,
        (Cause::Stopped(signal), _) => Verdict::Signal(*signal),
        (Cause::Exited, Some(exit)) => Verdict::of(exit),
        (Cause::Exited, None) => Verdict::SUCCESS,
    }
}

fn tell(voice: &Voice, subject: &Subject, stop_timeout: Limit, happening: &Happening<'_>) {
    let path = words::path(&subject.path);
    match happening {
        Happening::Running(record) => {
            if let Some(payload) = &record.payload {
                log::info!(
                    "running {}",
                    words::process(payload.pid, &words::words(&payload.argv))
                );
            }
        }
        Happening::Stopping {
            signal,
            by,
            replaced,
            from_outside,
        } => {
            let who = match by {
                Some(asker) => format!(" from {}", words::asker(asker)),
                None if *from_outside => " from outside this pid namespace".to_owned(),
                None => String::new(),
            };
            let why = if *replaced {
                "being replaced"
            } else {
                "stopping"
            };
            log::info!(
                "{why}: {signal}{who}; the command gets {}, {path}",
                words::limit(stop_timeout)
            );
        }
        Happening::Left(left) => {
            let named: Vec<String> = left
                .iter()
                .take(5)
                .map(|stat| words::process(stat.pid, std::slice::from_ref(&stat.name)))
                .collect();
            log::info!(
                "the command left {} processes, which get 5 s: {}",
                left.len(),
                named.join(", ")
            );
        }
        Happening::Killing(count) => {
            log::warn!("time is over: killed {count} processes of the command, {path}")
        }
        Happening::Name(finding) => tell_finding(voice, &path, finding),
        _ => {}
    }
}

fn tell_finding(voice: &Voice, path: &str, finding: &Finding) {
    match finding {
        Finding::PutBack => voice.fault(&format!("somebody removed or replaced {path}, or its directory; it was put back, and the lock is held")),
        Finding::Rewritten => voice.fault(&format!("somebody overwrote {path}; the record was written again")),
        Finding::Contested(Contest::Locked(Some(pid))) => {
            voice.fault(&format!("somebody replaced {path}, and pid {pid} has the lock there; waiting for it to let go"));
        }
        Finding::Contested(Contest::Locked(None)) => {
            voice.fault(&format!("somebody replaced {path}, and has the lock there; waiting for it to be let go"));
        }
        Finding::Contested(Contest::Unusable(error)) => {
            voice.fault(&format!("somebody removed or replaced {path}, and it cannot be put back yet: {error}"));
        }
        Finding::Lost(theirs) => voice.fault(&format!(
            "{path} was taken by {}; stopping, and ending with {LOST}",
            words::process(theirs.pid, &words::words(theirs.command()))
        )),
        Finding::Intact | Finding::Overwritten => {}
    }
}

/// Tells people what happens while the lock is sought.
pub struct Narrator<'a> {
    voice: Voice,
    subject: &'a Subject,
    mode: Mode,
    began: Instant,
    told: HashSet<Option<Pid>>,
    counting: bool,
}

impl<'a> Narrator<'a> {
    pub fn new(voice: Voice, subject: &'a Subject, mode: Mode) -> Self {
        Self {
            voice,
            subject,
            mode,
            began: Instant::now(),
            told: HashSet::new(),
            counting: false,
        }
    }

    pub fn progress(&mut self, progress: &Progress<'_>) {
        let path = words::path(&self.subject.path);
        match progress {
            Progress::Waiting { who, left } => self.waiting(who, *left, &path),
            Progress::Asked { holder, kill_after } => {
                self.told.insert(Some(holder.pid()));
                let kill = kill_after.finite().map_or_else(
                    || "no SIGKILL".to_owned(),
                    |limit| format!("SIGKILL in {}", words::span(limit)),
                );
                let why = if self.mode == Mode::Stop {
                    "asked"
                } else {
                    "taking over: asked"
                };
                self.say(&format!(
                    "{why} {} to stop ({kill}), {path}",
                    words::holder(holder)
                ));
            }
            Progress::Killed { holder } => self.say(&format!(
                "{} did not stop in time: sent SIGKILL, {path}",
                words::holder(holder)
            )),
            Progress::Ending { survivors } => {
                let named: Vec<String> = survivors.iter().take(5).map(words::survivor).collect();
                self.say(&format!(
                    "a crashed run left {}, which must end first: {}, {path}",
                    count(survivors.len()),
                    named.join(", ")
                ));
            }
            _ => {}
        }
    }

    fn waiting(
        &mut self,
        who: &gateway_lock::holder::Sighting,
        left: Option<Duration>,
        path: &str,
    ) {
        let pid = acquire::pid_of(who);
        if self.mode == Mode::Plain || self.mode == Mode::Stop {
            // A probe or a start in progress: not worth a word unless it lasts.
            if self.began.elapsed() < Duration::from_secs(1) {
                return;
            }
        }
        if self.told.insert(pid) {
            let end = left.map_or_else(String::new, |left| {
                format!(", for at most {}", words::span(left))
            });
            let verb = if self.mode == Mode::Wait {
                "standing by behind"
            } else {
                "waiting for"
            };
            self.say(&format!("{verb} {}{end}, {path}", words::sighting(who)));
        } else if self.voice.counts_down() {
            self.counting = true;
            let end = left.map_or_else(String::new, |left| {
                format!(
                    ", {} left",
                    words::span(Duration::from_secs(left.as_secs()))
                )
            });
            self.voice
                .countdown(&format!("waiting for {}{end}", words::sighting(who)));
        }
    }

    fn say(&mut self, text: &str) {
        self.end();
        self.voice.expected(text);
    }

    /// Nothing more comes.
    pub fn end(&mut self) {
        if std::mem::take(&mut self.counting) {
            self.voice.end_countdown();
        }
    }
}

fn count(processes: usize) -> String {
    if processes == 1 {
        "a process".to_owned()
    } else {
        format!("{processes} processes")
    }
}

/// Signals end the wait, and the service manager hears that the loop turns: READY may have armed
/// its watchdog.
struct Patrol<'a, 'm> {
    signals: &'a mut Signals,
    manager: &'a RefCell<&'m mut ServiceManager>,
}

impl Interrupt for Patrol<'_, '_> {
    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.signals.descriptor()
    }

    fn interrupted(&mut self) -> bool {
        self.manager.borrow_mut().turned();
        self.signals.interrupted()
    }

    fn longest_sleep(&self) -> Option<Duration> {
        self.manager.borrow().longest_sleep()
    }
}

/// Tells people and the service manager what happens to COMMAND.
struct Told<'a> {
    voice: Voice,
    subject: &'a Subject,
    manager: &'a mut ServiceManager,
    stop_timeout: Limit,
}

impl Attendant for Told<'_> {
    fn tell(&mut self, happening: Happening<'_>) {
        self.manager.happening(&happening, self.stop_timeout);
        tell(&self.voice, self.subject, self.stop_timeout, &happening);
    }

    fn turned(&mut self) {
        self.manager.turned();
    }

    fn longest_sleep(&self) -> Option<Duration> {
        self.manager.longest_sleep()
    }
}

/// What the service manager hears.
struct ServiceManager {
    notifier: Notifier,
    who: Notify,
    ready: bool,
    watchdog: Option<Watchdog>,
}

struct Watchdog {
    every: Duration,
    next: Instant,
}

impl ServiceManager {
    fn new(run: &Run) -> Self {
        Self {
            notifier: Notifier::from_environment(),
            who: run.notify,
            ready: false,
            watchdog: watchdog_interval().map(|every| Watchdog {
                every,
                next: Instant::now(),
            }),
        }
    }

    /// The loop turned: that is all a WATCHDOG=1 of ours proves.
    fn turned(&mut self) {
        self.notifier.flush();
        let Some(watchdog) = self
            .watchdog
            .as_mut()
            .filter(|watchdog| Instant::now() >= watchdog.next)
        else {
            return;
        };
        watchdog.next = Instant::now() + watchdog.every;
        self.notifier.send("WATCHDOG=1");
    }

    fn longest_sleep(&self) -> Option<Duration> {
        let next = |watchdog: &Watchdog| watchdog.next.saturating_duration_since(Instant::now());
        self.watchdog
            .as_ref()
            .map(next)
            .into_iter()
            .chain(self.notifier.due())
            .min()
    }

    fn ready(&mut self, status: &str) {
        if self.who == Notify::Gateway && !self.ready {
            self.ready = true;
            self.notifier.send(format!("READY=1\nSTATUS={status}"));
        } else {
            self.status(status);
        }
    }

    fn status(&mut self, status: &str) {
        self.notifier.send(format!("STATUS={status}"));
    }

    fn progress(&mut self, progress: &Progress<'_>, mode: Mode) {
        if !self.notifier.is_connected() {
            return;
        }
        match progress {
            Progress::Waiting { who, .. } if mode == Mode::Wait => {
                let status = match acquire::pid_of(who) {
                    Some(pid) => format!("standby behind pid {pid}"),
                    None => "standby".to_owned(),
                };
                if self.ready {
                    self.status(&status);
                } else {
                    // A standby is all it can be for now: the boot need not wait for it.
                    self.ready = true;
                    self.notifier.send(format!("READY=1\nSTATUS={status}"));
                }
            }
            Progress::Waiting { who, .. } => {
                self.extend(&format!("waiting for {}", words::sighting(who)))
            }
            Progress::Asked { holder, .. } => {
                self.extend(&format!("asked {} to stop", words::holder(holder)))
            }
            Progress::Killed { holder } => {
                self.extend(&format!("killed {}", words::holder(holder)))
            }
            Progress::Ending { survivors } => self.extend(&format!(
                "ending {} processes of a crashed run",
                survivors.len()
            )),
            _ => {}
        }
    }

    /// Until the next word, which comes within a second or two.
    fn extend(&mut self, status: &str) {
        self.notifier
            .send(format!("STATUS={status}\nEXTEND_TIMEOUT_USEC=20000000"));
    }

    fn happening(&mut self, happening: &Happening<'_>, stop_timeout: Limit) {
        if matches!(happening, Happening::Running(_)) && self.who == Notify::Payload {
            // From here on COMMAND speaks for itself, and ours would prove nothing.
            self.watchdog = None;
        }
        if !self.notifier.is_connected() {
            return;
        }
        match happening {
            Happening::Running(record) => match &record.payload {
                Some(payload) => self.ready(&format!("running pid {}", payload.pid)),
                None => self.ready("holding the lock"),
            },
            Happening::Stopping {
                signal, replaced, ..
            } => {
                self.ordered_end();
                let why = if *replaced {
                    "being replaced"
                } else {
                    "stopping"
                };
                let budget = stop_timeout
                    .plus(Duration::from_secs(5))
                    .finite()
                    .map_or(u64::MAX / 2, |budget| {
                        u64::try_from(budget.as_micros()).unwrap_or(u64::MAX / 2)
                    });
                self.notifier.send(format!(
                    "STATUS={why} on {signal}\nEXTEND_TIMEOUT_USEC={budget}"
                ));
            }
            _ => {}
        }
    }

    /// Two messages: in one, or without READY, systemd takes the end for a failed start.
    fn ordered_end(&mut self) {
        if !self.ready {
            self.ready = true;
            self.notifier.send("READY=1");
        }
        self.notifier.send("STOPPING=1");
    }

    fn over(&mut self, ended: &Ended) {
        if let Some(exit) = ended.exit.filter(|_| self.notifier.is_connected()) {
            self.status(&format!("COMMAND ended, {exit}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(cause: Cause, exit: Option<Exit>) -> Ended {
        Ended {
            exit,
            cause,
            by: None,
            replaced: false,
            left: 0,
            ran: Duration::ZERO,
        }
    }

    #[test]
    fn the_verdict_tells_the_truth() {
        let stopped = |exit| verdict(&ended(Cause::Stopped(Signal::TERM), exit), true);
        assert_eq!(stopped(Some(Exit::Code(0))), Verdict::SUCCESS);
        assert_eq!(stopped(Some(Exit::Code(3))), Verdict::Signal(Signal::TERM));
        assert_eq!(
            stopped(Some(Exit::Signal(Signal::KILL))),
            Verdict::Signal(Signal::TERM)
        );
        assert_eq!(stopped(None), Verdict::Signal(Signal::TERM));
        assert_eq!(
            verdict(&ended(Cause::Stopped(Signal::INT), None), false),
            Verdict::SUCCESS
        );
        assert_eq!(
            verdict(&ended(Cause::Exited, Some(Exit::Code(3))), true),
            Verdict::Code(3)
        );
        assert_eq!(
            verdict(
                &ended(Cause::Exited, Some(Exit::Signal(Signal::SEGV))),
                true
            ),
            Verdict::Code(139)
        );
    }
}
