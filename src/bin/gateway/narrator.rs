//! What happens, told to people: while the lock is sought, and while COMMAND runs.

use std::collections::HashSet;
use std::error::Error as _;
use std::time::{Duration, Instant};

use gateway_lock::Error;
use gateway_lock::acquire::{self, Progress};
use gateway_lock::claim::{Contest, Finding};
use gateway_lock::process::{Pid, Stat};
use gateway_lock::supervise::Happening;
use gateway_lock::takeover::Mode;
use gateway_lock::time::Limit;

use crate::exit::LOST;
use crate::message::Voice;
use crate::words::{self, Subject};

/// Behind a storm of probes no more pids than this are remembered.
const MOST_TOLD: usize = 64;

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
                    "{why} {}, to stop ({kill}), {path}",
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
        if self.told.len() > MOST_TOLD {
            self.told.clear();
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

/// Tells what happens to COMMAND and to the pid file.
pub fn tell(voice: &Voice, subject: &Subject, stop_timeout: Limit, happening: &Happening<'_>) {
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
                "the command left {}, which must end within 5 s: {}",
                count(left.len()),
                named.join(", ")
            );
        }
        Happening::Killing(left) => {
            let named: Vec<String> = left.iter().take(5).map(member).collect();
            log::warn!("time is over: sent SIGKILL to {}, {path}", named.join(", "));
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
        Finding::Contested(Contest::OwnWrite(error)) => {
            voice.fault(&format!("cannot write the record of {path}: {}; trying again", cause(error)));
        }
        Finding::Lost(theirs) => voice.fault(&format!(
            "{path} was taken by {}; stopping, and ending with {LOST}",
            words::process(theirs.pid, &words::words(theirs.command()))
        )),
        Finding::Intact | Finding::Overwritten => {}
    }
}

/// Why, without what was tried: `No space left on device (os error 28); make room on that file system`
fn cause(error: &Error) -> String {
    let cause = error
        .source()
        .map_or_else(|| error.to_string(), ToString::to_string);
    match error.advice() {
        Some(advice) => format!("{cause}; {advice}"),
        None => cause,
    }
}

/// `pid 77 (worker, state D)`
fn member(stat: &Stat) -> String {
    let name = words::command(std::slice::from_ref(&stat.name));
    format!("pid {} ({name}, state {})", stat.pid, stat.state as char)
}
