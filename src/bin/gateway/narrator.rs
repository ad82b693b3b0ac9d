//! What happens, told to people: while the lock is sought, and while COMMAND runs.

use std::collections::HashSet;
use std::error::Error as _;
use std::time::{Duration, Instant};

use gateway_lock::Error;
use gateway_lock::claim::{Contest, Finding};
use gateway_lock::course::Why;
use gateway_lock::holder::{Holder, Sighting};
use gateway_lock::process::{Pid, Stat};
use gateway_lock::progress::Progress;
use gateway_lock::record::{Asker, Record};
use gateway_lock::signal::Signal;
use gateway_lock::supervise::Happening;
use gateway_lock::survivors::Survivor;
use gateway_lock::takeover::Mode;
use gateway_lock::time::Limit;

use crate::exit::LOST;
use crate::message::Voice;
use crate::words::{self, Subject};

/// Behind a storm of probes no more pids than this are remembered.
const MOST_TOLD: usize = 64;

/// A probe or a start in progress is not worth a word unless it lasts.
const WORTH_A_WORD: Duration = Duration::from_secs(1);

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
        match progress {
            Progress::Waiting { who, left } => self.waiting(who, *left),
            Progress::Asked { holder, kill_after } => self.asked(holder, *kill_after),
            Progress::Killed { holder } => self.killed(holder),
            Progress::Ending { survivors } => self.ending(survivors),
        }
    }

    fn waiting(&mut self, who: &Sighting, left: Option<Duration>) {
        let pressing = matches!(self.mode, Mode::Plain | Mode::Stop);
        if pressing && self.began.elapsed() < WORTH_A_WORD {
            return;
        }
        if self.told.len() > MOST_TOLD {
            self.told.clear();
        }
        if self.told.insert(who.pid()) {
            self.stand_by(who, left);
        } else if self.voice.counts_down() {
            self.count_down(who, left);
        }
    }

    fn stand_by(&mut self, who: &Sighting, left: Option<Duration>) {
        let end = left.map_or_else(String::new, |left| {
            format!(", for at most {}", words::at_most(left))
        });
        let verb = match self.mode {
            Mode::Wait => "standing by behind",
            _ => "waiting for",
        };
        let inherited = match who.holder() {
            Some(_) => None,
            None => words::inherited(self.subject),
        };
        let who = inherited.unwrap_or_else(|| words::sighting(who));
        self.say(&format!("{verb} {who}{end}"));
    }

    fn count_down(&mut self, who: &Sighting, left: Option<Duration>) {
        self.counting = true;
        let end = left.map_or_else(String::new, |left| {
            format!(", {} left", words::at_most(left))
        });
        self.voice
            .countdown(&format!("waiting for {}{end}", words::sighting(who)));
    }

    fn asked(&mut self, holder: &Holder, kill_after: Limit) {
        self.told.insert(Some(holder.pid()));
        let kill = kill_after.finite().map_or_else(
            || "no SIGKILL".to_owned(),
            |limit| format!("SIGKILL in {}", words::span(limit)),
        );
        let why = match self.mode {
            Mode::Stop => "asked",
            _ => "taking over: asked",
        };
        self.say(&format!(
            "{why} {} to stop ({kill})",
            words::subject(&words::holder(holder))
        ));
    }

    fn killed(&mut self, holder: &Holder) {
        self.say(&format!(
            "{} did not stop in time: sent SIGKILL",
            words::subject(&words::holder(holder))
        ));
    }

    fn ending(&mut self, survivors: &[Survivor]) {
        self.say(&format!(
            "a crashed run left {}, which must end first: {}",
            words::processes(survivors.len()),
            words::series(survivors, words::survivor)
        ));
    }

    fn say(&mut self, text: &str) {
        self.end();
        self.voice
            .expected(&format!("{text}, {}", words::path(&self.subject.path)));
    }

    /// Nothing more comes.
    pub fn end(&mut self) {
        if std::mem::take(&mut self.counting) {
            self.voice.end_countdown();
        }
    }
}

/// Tells what happens to COMMAND and to the pid file.
pub struct Chronicle<'a> {
    pub voice: Voice,
    pub subject: &'a Subject,
    /// What COMMAND gets at a stop; none: there is no COMMAND.
    pub budget: Option<Limit>,
}

impl Chronicle<'_> {
    pub fn tell(&self, happening: &Happening<'_>) {
        match happening {
            Happening::Running(record) => running(record),
            Happening::Stopping {
                signal,
                by,
                replaced,
                from_outside,
            } => self.stopping(*signal, *by, *replaced, *from_outside),
            Happening::Left { left, within } => left_behind(left, *within),
            Happening::Killing { left, why } => self.killing(left, *why),
            Happening::Name(finding) => tell_finding(&self.voice, &self.path(), finding),
        }
    }

    fn path(&self) -> String {
        words::path(&self.subject.path)
    }

    fn stopping(&self, signal: Signal, by: Option<&Asker>, replaced: bool, from_outside: bool) {
        if let Some(asker) = by.filter(|_| replaced) {
            self.replaced(asker);
        }
        let who = match by {
            Some(asker) => format!(" from {}", words::asker(asker)),
            None if from_outside => " from outside this pid namespace".to_owned(),
            None => String::new(),
        };
        let budget = match self.budget.map(Limit::finite) {
            Some(Some(length)) => format!("; the command gets {}", words::span(length)),
            Some(None) => "; the command has no time limit".to_owned(),
            None => String::new(),
        };
        log::info!(
            "{}: {signal}{who}{budget}, {}",
            words::stopping(replaced),
            self.path()
        );
    }

    /// A shell would say no more than `Terminated`. The diary, where it is kept, says it at once, and more.
    fn replaced(&self, asker: &Asker) {
        if self.voice.counts_down() && !log::log_enabled!(log::Level::Info) {
            self.voice.expected(&format!(
                "{} by {}, {}",
                words::stopping(true),
                words::asker(asker),
                self.path()
            ));
        }
    }

    fn killing(&self, left: &[Stat], why: Why) {
        log::warn!(
            "{}: sent SIGKILL to {}, {}",
            words::why(why),
            words::series(left, member),
            self.path()
        );
    }
}

fn running(record: &Record) {
    if let Some(payload) = &record.payload {
        log::info!("running {}", words::process(payload.pid, &payload.argv));
    }
}

fn left_behind(left: &[Stat], within: Duration) {
    let named = |stat: &Stat| words::process(stat.pid, std::slice::from_ref(&stat.name));
    log::info!(
        "the command left {}, which must end within {}: {}",
        words::processes(left.len()),
        words::span(within),
        words::series(left, named)
    );
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
            voice.fault(&format!("{path} is not what was written, and cannot be put back yet: {error:#}"));
        }
        Finding::Contested(Contest::OwnWrite(error)) => {
            voice.fault(&format!("cannot write the record of {path}: {}; trying again", cause(error)));
        }
        Finding::Contested(Contest::LedElsewhere) => {
            voice.fault(&format!("{path} leads elsewhere now: a directory on the way was moved, or replaced by a symbolic link; nothing is written there, and the lock is held"));
        }
        Finding::Lost(theirs) => voice.fault(&format!(
            "{path} was taken by {}; stopping, and ending with {LOST}",
            words::recorded(theirs)
        )),
        Finding::Intact => voice.fault(&format!("{path} is back, and the lock is held")),
        Finding::Overwritten => {}
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

fn member(stat: &Stat) -> String {
    words::in_state(
        stat.pid,
        std::slice::from_ref(&stat.name),
        stat.state.into(),
    )
}
