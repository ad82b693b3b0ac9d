//! What the service manager hears.

use std::time::{Duration, Instant};

use gateway_lock::acquire::{self, Progress};
use gateway_lock::notify::{Notifier, watchdog_interval};
use gateway_lock::supervise::{Ended, Happening};
use gateway_lock::takeover::Mode;
use gateway_lock::time::Limit;

use crate::cli::{Notify, Run};
use crate::words;

/// The way to it, and what it has been told.
pub struct ServiceManager {
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
        }
    }

    /// Whether there is one.
    pub fn is_connected(&self) -> bool {
        self.notifier.is_connected()
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
        watchdog.next = Instant::now() + watchdog.every;
        self.notifier.send("WATCHDOG=1");
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

    pub fn ready(&mut self, status: &str) {
        if self.who == Notify::Gateway && !self.ready {
            self.ready = true;
            self.notifier.send(format!("READY=1\nSTATUS={status}"));
        } else {
            self.status(status);
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

    pub fn happening(&mut self, happening: &Happening<'_>, stop_timeout: Limit) {
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
    pub fn ordered_end(&mut self) {
        if !self.ready {
            self.ready = true;
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
