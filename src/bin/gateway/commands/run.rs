//! `run`: takes the lock, runs COMMAND under it, ends with it.

use std::cell::RefCell;
use std::collections::HashSet;
use std::mem::ManuallyDrop;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use gateway_lock::Result;
use gateway_lock::acquire::{self, Acquired, Outcome, Refused};
use gateway_lock::claim::Description;
use gateway_lock::course;
use gateway_lock::program::Command;
use gateway_lock::record::{Exit, Record};
use gateway_lock::request::Former;
use gateway_lock::signal::Signal;
use gateway_lock::signals::Signals;
use gateway_lock::supervise::{self, Attendant, Cause, Ended, Happening};
use gateway_lock::takeover::{Mode, Rules};
use gateway_lock::wait::{Interrupt, LetIn};

use crate::cli::{Notify, Run};
use crate::commands::{Context, give_up, interrupted};
use crate::exit::{LOST, Verdict};
use crate::manager::ServiceManager;
use crate::narrator::{Chronicle, Narrator};
use crate::refusal;
use crate::words::{self, Subject};

/// A wait that is told of in the diary.
const WORTH_A_WORD: Duration = Duration::from_secs(1);

/// Who goes to the background has done so by then.
const SOON_GONE: Duration = Duration::from_secs(5);

pub fn run(context: &Context, run: &Run) -> Result<Verdict> {
    // Before anything else happens, so that no signal finds us half started.
    // Never dropped: the process ends right after, and the kernel closes faster than we would.
    let mut signals = ManuallyDrop::new(route(run)?);
    let command = if run.command.is_empty() {
        None
    } else {
        Some(Command::resolve(&run.command)?)
    };
    let subject = context.subject()?;
    let mut session = Session {
        context,
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

/// A plain start that becomes COMMAND has nothing to do at a signal but to end.
fn route(run: &Run) -> Result<Signals> {
    if run.exec && mode(run) == Mode::Plain {
        Signals::leave()
    } else {
        Signals::route()
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
    context: &'a Context,
    manager: ServiceManager,
    subject: Subject,
    run: &'a Run,
    began: Instant,
}

impl Session<'_> {
    /// What the environment shows to be wrong.
    fn warn(&self, signals: &Signals) {
        if self.manager.watches_us() {
            log::warn!(
                "{}",
                if self.run.exec {
                    "WatchdogSec= is set, and nobody will answer the watchdog once COMMAND has taken our place: add --notify payload"
                } else {
                    "WatchdogSec= watches this gateway, not COMMAND; to watch COMMAND: --notify payload, NotifyAccess=all"
                }
            );
        }
        if signals.was_ignored(Signal::CHLD) {
            log::warn!(
                "SIGCHLD was ignored when we were started, and COMMAND inherits that: it may not see its children end"
            );
        }
        if let Some(kind) = gateway_lock::remote::remote_file_system(&self.subject.path) {
            log::warn!(
                "{} is on {kind}: its locks are only as good as that file system's",
                words::path(&self.subject.path)
            );
        }
    }

    fn description(&self) -> Result<Description> {
        let mut description = Description::of_this_process()?;
        description.stop_timeout = Some(self.run.stop_timeout);
        description.stop_signal = self.run.stop_signal;
        description.exec = self.run.exec;
        Ok(description)
    }

    fn acquire(&mut self, description: &Description, signals: &mut Signals) -> Result<Outcome> {
        let mode = mode(self.run);
        let rules = Rules {
            mode,
            timeout: self.run.patience.timeout,
            kill_after: self.run.patience.kill_after,
        };
        let mut narrator = Narrator::new(self.context.voice, &self.subject, mode);
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
        if command.is_none() && self.context.voice.counts_down() {
            self.context.voice.expected(&format!(
                "holding {} with no command; Ctrl-C lets go",
                words::path(&self.subject.path)
            ));
        }
        let (replaced, own) = (acquired.replaced, acquired.claim.record().clone());
        let may_notify = self.run.notify == Notify::Payload;
        if let Some(command) = command.filter(|_| self.run.exec) {
            self.manager.becoming(&words::command(command.argv()));
            return match supervise::become_command(acquired.claim, command, signals, may_notify) {
                Some(error) => Err(error),
                None => Ok(self.interrupted(signals, &[])),
            };
        }
        let rules = course::Rules {
            stop_signal: self.run.stop_signal,
            stop_timeout: self.run.stop_timeout,
            terminal,
            may_notify,
        };
        let mut told = Told {
            chronicle: Chronicle {
                voice: self.context.voice,
                subject: &self.subject,
                budget: command.map(|_| self.run.stop_timeout),
            },
            manager: &mut self.manager,
        };
        let ended = supervise::supervise(acquired.claim, command, signals, &rules, &mut told)?;
        // Whoever holds now may be that very unit.
        let nobody_follows = !ended.replaced && ended.cause != Cause::Lost;
        let verdict = self.over(&ended, command);
        if nobody_follows {
            self.tell_units(&replaced, &own, "this run had taken over from");
        }
        Ok(verdict)
    }

    fn tell_acquired(&self, acquired: &Acquired) {
        let path = words::path(acquired.claim.path());
        let (replaced, own) = (&acquired.replaced, acquired.claim.record());
        if !acquired.swept.is_empty() {
            log::warn!(
                "ended what a crashed run had left: {}, {path}",
                words::ended(&acquired.swept)
            );
        }
        log::info!(
            "{}, {path}, generation {}{}",
            how(acquired),
            own.generation,
            after(acquired)
        );
        self.tell_units(replaced, own, "took over from");
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
                self.context.voice.expected(&format!(
                    "{what} {}, which is down unless it restarts by itself; start it again with: {start}",
                    gateway_lock::text::printable(unit.as_ref())
                ));
            }
        }
    }

    fn over(&mut self, ended: &Ended, command: Option<&Command>) -> Verdict {
        let path = words::path(&self.subject.path);
        match command {
            None => log::info!("held without a command; let go of {path}"),
            Some(command) => self.command_over(ended, &words::command(command.argv()), &path),
        }
        self.manager.over(ended);
        verdict(ended, command.is_some())
    }

    fn command_over(&self, ended: &Ended, shown: &str, path: &str) {
        if ended.cause == Cause::Exited && ended.left > 0 {
            self.context.voice.expected(&format!(
                "{shown} ended{} after {} and left {}, which {} ended{}",
                ended.exit.map_or_else(String::new, ending),
                words::span(ended.ran),
                words::processes(ended.left),
                if ended.left == 1 { "was" } else { "were" },
                if looks_like_a_daemon(ended) {
                    "; run it in the foreground"
                } else {
                    ""
                }
            ));
        }
        let exit = ended
            .exit
            .map_or_else(|| "did not run".to_owned(), |exit| format!("ended, {exit}"));
        let is_bad = ended.cause == Cause::Exited && ended.exit != Some(Exit::Code(0));
        let level = if is_bad {
            self.context.voice.bad_end()
        } else {
            log::Level::Info
        };
        log::log!(level, "{shown} {exit}; let go of {path}");
    }

    fn refused(&mut self, refused: &Refused) -> Verdict {
        let mode = mode(self.run);
        let text = refusal::text(refused, &self.subject, self.began.elapsed(), mode);
        let verdict = give_up(self.context, refused, &text);
        self.manager.status(&text);
        verdict
    }

    fn interrupted(&mut self, signals: &mut Signals, asked: &[Former]) -> Verdict {
        self.manager.ordered_end();
        interrupted(self.context, signals, asked, &self.subject, mode(self.run))
    }
}

/// How the lock was got.
fn how(acquired: &Acquired) -> String {
    let waited = words::span(acquired.waited);
    match acquired.replaced.last() {
        Some(former) => format!(
            "took over from {} after {waited} ({})",
            words::process(former.pid, &former.argv),
            if former.killed {
                "killed it"
            } else {
                "it stopped"
            }
        ),
        None if acquired.waited >= WORTH_A_WORD => format!("got the lock after {waited}"),
        None => "got the lock".to_owned(),
    }
}

/// Why the lock was free, if nobody was asked: a crash is worth a word in the diary.
fn after(acquired: &Acquired) -> String {
    match acquired.last.record() {
        Some(record) if record.end.is_none() && !record.exec && acquired.replaced.is_empty() => {
            format!(
                "; the last run, {}, ended without a word",
                words::process(record.pid, record.command())
            )
        }
        _ => String::new(),
    }
}

/// Whether the command has gone to the background by itself, as far as that can be told.
fn looks_like_a_daemon(ended: &Ended) -> bool {
    ended.exit == Some(Exit::Code(0)) && ended.ran <= SOON_GONE
}

fn ending(exit: Exit) -> String {
    match exit {
        Exit::Code(code) => format!(" {code}"),
        Exit::Signal(signal) => format!(" by {signal}"),
    }
}

/// Ordered ends are clean where COMMAND's was; else we die of the signal that asked.
fn verdict(ended: &Ended, command: bool) -> Verdict {
    match (&ended.cause, ended.exit) {
        (Cause::Lost, _) => Verdict::Code(LOST),
        (Cause::Stopped(_), Some(Exit::Code(0))) => Verdict::SUCCESS,
        (Cause::Stopped(_), None) if !command => Verdict::SUCCESS,
        (Cause::Stopped(signal), _) => Verdict::Signal(*signal),
        (Cause::Exited, Some(exit)) => Verdict::of(exit),
        (Cause::Exited, None) => Verdict::SUCCESS,
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

    fn lets_in(&self) -> LetIn {
        self.signals.lets_in()
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
    chronicle: Chronicle<'a>,
    manager: &'a mut ServiceManager,
}

impl Attendant for Told<'_> {
    fn tell(&mut self, happening: Happening<'_>) {
        self.manager.happening(&happening, self.chronicle.budget);
        self.chronicle.tell(&happening);
    }

    fn turned(&mut self) {
        self.manager.turned();
    }

    fn longest_sleep(&self) -> Option<Duration> {
        self.manager.longest_sleep()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(cause: Cause, exit: Option<Exit>) -> Ended {
        Ended {
            exit,
            cause,
            replaced: false,
            left: 0,
            ran: Duration::ZERO,
        }
    }

    #[test]
    fn only_who_ends_well_and_soon_is_taken_for_a_daemon() {
        let is_one = |exit, ran| {
            looks_like_a_daemon(&Ended {
                ran,
                ..ended(Cause::Exited, Some(exit))
            })
        };
        let second = Duration::from_secs(1);
        assert!(is_one(Exit::Code(0), second));
        assert!(!is_one(Exit::Code(0), 3600 * second));
        assert!(!is_one(Exit::Code(1), second));
        assert!(!is_one(Exit::Signal(Signal::KILL), second));
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
