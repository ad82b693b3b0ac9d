//! What the service manager hears.

use std::time::{Duration, Instant};

use gateway_lock::claim::{Contest, Finding};
use gateway_lock::holder::Sighting;
use gateway_lock::notify::{Notifier, watchdog_interval};
use gateway_lock::progress::Progress;
use gateway_lock::record::Record;
use gateway_lock::signal::Signal;
use gateway_lock::supervise::{Ended, Happening};
use gateway_lock::takeover::{BEYOND_BUDGET, Mode};
use gateway_lock::time::Limit;

use crate::cli::{Notify, Run};
use crate::words;

/// The way to it, and what it has been told.
pub struct ServiceManager {
    notifier: Notifier,
    who: Notify,
    ready: bool,
    watchdog: Option<Watchdog>,
    /// What goes on, also while the pid file is contested.
    state: String,
}

struct Watchdog {
    every: Duration,
    next: Instant,
}

impl ServiceManager {
    pub fn new(run: &Run) -> Self {
        let notifier = Notifier::from_environment();
        Self {
            who: run.notify,
            ready: false,
            watchdog: watchdog_interval()
                .filter(|_| notifier.is_connected())
                .map(|every| Watchdog {
                    every,
                    next: Instant::now(),
                }),
            notifier,
            state: String::new(),
        }
    }

    /// Whether it waits for WATCHDOG=1, and nobody but us could send it.
    pub fn watches_us(&self) -> bool {
        self.watchdog.is_some() && self.who == Notify::Gateway
    }

    /// The loop turned: that is all a WATCHDOG=1 of ours proves.
    pub fn turned(&mut self) {
        self.notifier.flush();
        let Some(watchdog) = self
            .watchdog
            .as_mut()
            .filter(|watchdog| Instant::now() >= watchdog.next)
        else {
            return;
        };
        let again = self.notifier.repeat("WATCHDOG=1");
        watchdog.next = Instant::now() + again.unwrap_or(watchdog.every);
    }

    pub fn longest_sleep(&self) -> Option<Duration> {
        let next = |watchdog: &Watchdog| watchdog.next.saturating_duration_since(Instant::now());
        self.watchdog
            .as_ref()
            .map(next)
            .into_iter()
            .chain(self.notifier.due())
            .min()
    }

    /// COMMAND is about to take our place, and then nobody can send what is unsent: waits for room,
    /// two seconds at most.
    pub fn becoming(&mut self, command: &str) {
        self.running(format!("running {command}"));
        self.notifier.drain();
    }

    fn running(&mut self, status: String) {
        match self.who {
            Notify::Gateway => self.ready(&status),
            Notify::Payload => self.status(&status),
        }
        self.state = status;
    }

    fn enter(&mut self, state: String) {
        self.status(&state);
        self.state = state;
    }

    /// Said once; later it is but a status.
    fn ready(&mut self, status: &str) {
        if std::mem::replace(&mut self.ready, true) {
            self.status(status);
        } else {
            self.notifier.send(format!("READY=1\nSTATUS={status}"));
        }
    }

    pub fn status(&mut self, status: &str) {
        self.notifier.send(format!("STATUS={status}"));
    }

    pub fn progress(&mut self, progress: &Progress<'_>, mode: Mode) {
        if !self.notifier.is_connected() {
            return;
        }
        match progress {
            Progress::Waiting { who, .. } if mode == Mode::Wait => self.stand_by(who),
            Progress::Waiting { who, .. } => {
                self.extend(&format!("waiting for {}", words::sighting(who)));
            }
            Progress::Asked { holder, .. } => {
                let who = words::subject(&words::holder(holder));
                self.extend(&format!("asked {who} to stop"));
            }
            Progress::Killed { holder } => {
                self.extend(&format!("killed {}", words::holder(holder)));
            }
            Progress::Ending { survivors } => self.extend(&format!(
                "ending {} of a crashed run",
                words::processes(survivors.len())
            )),
        }
    }

    /// A standby is all it can be for now: the boot need not wait for it.
    fn stand_by(&mut self, who: &Sighting) {
        self.ready(&match who.pid() {
            Some(pid) => format!("standby behind pid {pid}"),
            None => "standby".to_owned(),
        });
    }

    /// Until the next word, which comes within a second or two.
    fn extend(&mut self, status: &str) {
        self.notifier
            .send(format!("STATUS={status}\nEXTEND_TIMEOUT_USEC=20000000"));
    }

    /// `budget`: what COMMAND gets at a stop; none: there is no COMMAND.
    pub fn happening(&mut self, happening: &Happening<'_>, budget: Option<Limit>) {
        if matches!(happening, Happening::Running(_)) && self.who == Notify::Payload {
            // From here on COMMAND speaks for itself, and ours would prove nothing.
            self.watchdog = None;
        }
        if !self.notifier.is_connected() {
            return;
        }
        match happening {
            Happening::Running(record) => self.running(running(record)),
            Happening::Stopping {
                signal, replaced, ..
            } => self.stopping(*signal, *replaced, budget),
            Happening::Left { left, .. } => self.enter(format!(
                "COMMAND has ended and left {}, to be ended",
                words::processes(left.len())
            )),
            Happening::Killing { left, why } => self.enter(format!(
                "{}: sent SIGKILL to {}",
                words::why(*why),
                words::processes(left.len())
            )),
            Happening::Name(finding) => self.finding(finding),
        }
    }

    fn stopping(&mut self, signal: Signal, replaced: bool, budget: Option<Limit>) {
        self.ordered_end();
        let budget = budget.unwrap_or(Limit::After(Duration::ZERO));
        let micros = budget
            .plus(BEYOND_BUDGET)
            .finite()
            .and_then(|budget| u64::try_from(budget.as_micros()).ok())
            .unwrap_or(u64::MAX / 2);
        self.state = format!("{} on {signal}", words::stopping(replaced));
        self.notifier.send(format!(
            "STATUS={}\nEXTEND_TIMEOUT_USEC={micros}",
            self.state
        ));
    }

    fn finding(&mut self, finding: &Finding) {
        match finding {
            Finding::Contested(Contest::Locked(_)) => {
                self.status("somebody replaced the pid file; waiting for its lock");
            }
            Finding::Contested(Contest::Unusable(_)) => {
                self.status("the pid file is not what was written, and cannot be put back yet");
            }
            Finding::Contested(Contest::LedElsewhere) => {
                self.status("the pid file's path leads to another directory");
            }
            Finding::Contested(Contest::OwnWrite(_)) => {
                self.status("the record cannot be written; trying again");
            }
            Finding::Lost(theirs) => self.enter(format!(
                "the pid file was taken by pid {}; stopping",
                theirs.pid
            )),
            Finding::Intact | Finding::PutBack | Finding::Rewritten => {
                self.enter(self.state.clone());
            }
            Finding::Overwritten => {}
        }
    }

    /// Two messages: in one, or without READY, systemd takes the end for a failed start.
    pub fn ordered_end(&mut self) {
        if !std::mem::replace(&mut self.ready, true) {
            self.notifier.send("READY=1");
        }
        self.notifier.send("STOPPING=1");
    }

    pub fn over(&mut self, ended: &Ended) {
        if let Some(exit) = ended.exit.filter(|_| self.notifier.is_connected()) {
            self.status(&format!("COMMAND ended, {exit}"));
        }
    }
}

fn running(record: &Record) -> String {
    match &record.payload {
        Some(payload) => format!("running pid {}", payload.pid),
        None => "holding the lock".to_owned(),
    }
}
