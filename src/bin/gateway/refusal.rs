//! Why a start or a stop came to nothing, in words.

use std::time::Duration;

use gateway_lock::acquire::Refused;
use gateway_lock::holder::{Holder, Sighting};
use gateway_lock::process::{self, Pid};
use gateway_lock::record::Record;
use gateway_lock::request::Former;
use gateway_lock::survivors::Survivor;
use gateway_lock::takeover::{Bar, Mode, Refusal};
use gateway_lock::user::user_name;
use gateway_lock::variables;

use crate::words::{
    self, Subject, as_user, holder, how_to_stop, inherited, look_elsewhere, series, sighting, span,
    survivor, typed_seconds, will_stop,
};

/// What to say of it, after so long.
pub fn text(refused: &Refused, subject: &Subject, waited: Duration, mode: Mode) -> String {
    match refused {
        Refused::By {
            refusal,
            who,
            asked,
        } => Defeat {
            who,
            asked,
            subject,
            waited,
            mode,
        }
        .text(*refusal),
        Refused::Survivors { left, own_ancestor } => survivors(left, *own_ancestor, subject),
    }
}

/// Somebody has the lock, and keeps it.
struct Defeat<'a> {
    who: &'a Sighting,
    /// Who was asked to stop, `who` or others before.
    asked: &'a [Former],
    subject: &'a Subject,
    waited: Duration,
    mode: Mode,
}

impl Defeat<'_> {
    fn text(&self, refusal: Refusal) -> String {
        let Some(known) = self.who.holder() else {
            return self.by_somebody_unproven(refusal);
        };
        match refusal {
            Refusal::Held => self.held(known),
            Refusal::Barred(bar) => self.barred(bar, known),
            Refusal::TooShort { timeout, needed } => self.too_short(timeout, needed, known),
            Refusal::Deadline => self.deadline(),
            Refusal::Unproven => {
                let (verb, who, at) = (self.verb(), sighting(self.who), self.subject.path());
                format!("cannot {verb} {who}, {at}")
            }
        }
    }

    /// What was wanted.
    fn verb(&self) -> &'static str {
        match self.mode {
            Mode::Plain | Mode::Wait => "start",
            Mode::Replace => "replace",
            Mode::Stop => "stop",
        }
    }

    fn held(&self, known: &Holder) -> String {
        if runs_under(known) {
            return format!(
                "held by {}, {}: it is an ancestor of this process, which runs under it; to run something beside it, give that a name of its own: -n NAME",
                holder(known),
                self.subject.path()
            );
        }
        // Who may not signal it cannot take over, either.
        let replace = if known.may_be_signalled() {
            let take_over = self.subject.typed("run --replace -- COMMAND");
            format!("take over: {take_over}; ")
        } else {
            String::new()
        };
        format!(
            "held by {}, {}; {replace}stop it: {}",
            holder(known),
            self.subject.path(),
            how_to_stop(known, self.subject)
        )
    }

    fn deadline(&self) -> String {
        let pid = self.who.pid();
        let is_it = |former: &Former| Some(former.pid) == pid;
        let next = match self.asked.iter().rfind(|former| is_it(former)) {
            Some(former) => format!("; it {}", will_stop(former, self.subject, self.mode)),
            None => format!("; give it longer with --timeout{}", look_at(self.who)),
        };
        let others = self.asked.iter().filter(|former| !is_it(former));
        format!(
            "gave up after {}: {} still has the lock, {}{}{next}",
            span(self.waited),
            words::subject(&sighting(self.who)),
            self.subject.path(),
            said_before(others),
        )
    }

    fn by_somebody_unproven(&self, refusal: Refusal) -> String {
        let (verb, at) = (self.verb(), self.subject.path());
        if let Some(inherited) = inherited(self.subject) {
            return format!("cannot {verb}: {inherited}, {at}");
        }
        if refusal == Refusal::Deadline {
            return self.deadline();
        }
        let next = match self.who {
            Sighting::Foreign(known) => {
                let wait = match self.mode {
                    Mode::Stop => "",
                    _ => "wait for it with --wait, or ",
                };
                format!(
                    "it is not ours to end: {wait}look at it with: ps -fp {}",
                    known.pid
                )
            }
            Sighting::Starting(known) => format!("look at it with: ps -fp {}", known.pid),
            Sighting::Invisible(Some(_)) => look_elsewhere().to_owned(),
            _ if rustix::process::geteuid().is_root() => {
                "stop it where it runs, or look on the host".to_owned()
            }
            _ => "stop it where it runs, or look as root on the host".to_owned(),
        };
        format!(
            "cannot {verb}: held by {}, {at}{}; {next}",
            sighting(self.who),
            said_before(self.asked)
        )
    }

    fn barred(&self, bar: Bar, known: &Holder) -> String {
        let (who, at, verb) = (holder(known), self.subject.path(), self.verb());
        match bar {
            Bar::Ancestor if self.mode == Mode::Wait => format!(
                "cannot wait for {who}, {at}: it is an ancestor of this process and cannot end before it; start from outside of it"
            ),
            // An ancestor of everybody in it.
            Bar::Ancestor | Bar::Init if known.pid() == Pid::INIT => format!(
                "cannot {verb} {who}, {at}: it is the first process of this container, which would end with it; {} the container",
                if self.mode == Mode::Stop {
                    "stop"
                } else {
                    "restart"
                }
            ),
            Bar::Ancestor | Bar::Init => format!(
                "cannot {verb} {who}, {at}: it is an ancestor of this process, which would end with it; do it from outside, for example with: {} {}",
                systemd_run(),
                self.subject.typed_elsewhere(match self.mode {
                    Mode::Stop => "stop",
                    _ => "run --replace -- COMMAND",
                })
            ),
            Bar::NotPermitted => {
                let recorded = known.record().map(|record| record.uid);
                let Some(uid) = process::uid(known.pid()).or(recorded) else {
                    return format!("may not signal {who}, {at}");
                };
                format!(
                    "may not signal {who}, {at}: it belongs to {}; do it {}",
                    user_name(uid),
                    as_user(uid, self.subject)
                )
            }
        }
    }

    fn too_short(&self, timeout: Duration, needed: Option<Duration>, known: &Holder) -> String {
        let who = words::process(known.pid(), &known.command());
        let (needs, longer) = match needed {
            Some(needed) => (
                format!(
                    "may need {} to stop",
                    span(needed.max(Duration::from_secs(1)))
                ),
                (typed_seconds(needed) + 10).to_string(),
            ),
            None => (
                "has no time limit for its stop".to_owned(),
                "infinity".to_owned(),
            ),
        };
        // It must be shorter than the timeout.
        let sooner = typed_seconds(timeout).saturating_sub(1);
        let kill_after = if Duration::from_secs(sooner) < timeout {
            format!(" or --kill-after {sooner}")
        } else {
            String::new()
        };
        format!(
            "not asked: {who} {needs}, and --timeout {} ends before that, {}{}; use --timeout {longer}{kill_after}",
            timeout.as_secs_f64(),
            self.subject.path(),
            said_before(self.asked),
        )
    }
}

/// Who is not root has a manager of their own to ask.
fn systemd_run() -> &'static str {
    if rustix::process::geteuid().is_root() {
        "systemd-run"
    } else {
        "systemd-run --user"
    }
}

/// Whether this process is of the holder's payload: what it was started with is asked first, because to go
/// through the ancestors takes a look at each.
fn runs_under(known: &Holder) -> bool {
    let outer = std::env::var(variables::RUN_ID).unwrap_or_default();
    let is_its = |record: &Record| outer.split(':').any(|run_id| run_id == record.run_id);
    known.record().is_some_and(is_its) && process::ancestors().contains(&known.pid())
}

fn said_before<'a>(asked: impl IntoIterator<Item = &'a Former>) -> String {
    let asked: Vec<&Former> = asked.into_iter().collect();
    if asked.is_empty() {
        return String::new();
    }
    let gone = series(&asked, |former| words::process(former.pid, &former.argv));
    format!(" (asked to stop: {gone})")
}

fn look_at(who: &Sighting) -> String {
    who.pid().map_or_else(String::new, |pid| {
        format!(", or look at it with: ps -fp {pid}")
    })
}

fn survivors(left: &[Survivor], own_ancestor: bool, subject: &Subject) -> String {
    let (named, at) = (series(left, survivor), subject.path());
    if own_ancestor {
        return format!(
            "left of the crashed run: {named}, {at}; one of them is an ancestor of this process: start from outside of it"
        );
    }
    let first = left
        .first()
        .map_or_else(String::new, |survivor| survivor.pid().to_string());
    format!(
        "left of the crashed run, and cannot be ended: {named}, {at}; look at it with: ps -o pid,stat,wchan,args -p {first}"
    )
}
