//! What is known, in words for a tired person: what happened, to which pid, at which path, and
//! what to type next.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use gateway_lock::acquire::{Former, Refused};
use gateway_lock::course::Why;
use gateway_lock::holder::{Holder, Locker, Sighting, numbers_mean_the_same};
use gateway_lock::place::Choice;
use gateway_lock::process::Pid;
use gateway_lock::record::{Asker, End, Manager, Reason, Record};
use gateway_lock::survivors::Survivor;
use gateway_lock::sweep::Ended;
use gateway_lock::takeover::{Bar, Mode, Refusal};
use gateway_lock::text::printable;
pub use gateway_lock::text::{command_line, quoted};
use gateway_lock::time::Timestamp;
use gateway_lock::user::user_name;

/// A command line is shown no longer than this.
const LONGEST_COMMAND: usize = 72;

/// The pid file somebody speaks of, and how to say it again on a command line.
#[derive(Clone, Debug)]
pub struct Subject {
    /// The absolute path.
    pub path: PathBuf,
    choice: Choice,
}

impl Subject {
    /// What was chosen, and what it came to.
    pub fn new(path: PathBuf, choice: Choice) -> Self {
        Self { path, choice }
    }

    /// A command of ours about it, to be typed.
    pub fn typed(&self, verb: &str) -> String {
        match &self.choice {
            Choice::Name(name) => format!("gateway -n {} {verb}", name.as_str()),
            _ => format!("gateway -f {} {verb}", quoted(self.path.as_os_str())),
        }
    }

    fn path(&self) -> String {
        path(&self.path)
    }
}

/// A path for people.
pub fn path(path: &Path) -> String {
    printable(path.as_os_str())
}

/// A command line, cut to a readable length.
pub fn command(argv: &[impl AsRef<OsStr>]) -> String {
    let mut line = command_line(argv);
    if line.chars().count() > LONGEST_COMMAND {
        line = line.chars().take(LONGEST_COMMAND).collect();
        line.push('…');
    }
    line
}

/// `pid 4925 (sleep 600)`
pub fn process(pid: Pid, argv: &[impl AsRef<OsStr>]) -> String {
    if argv.is_empty() {
        format!("pid {pid}")
    } else {
        format!("pid {pid} ({})", command(argv))
    }
}

/// Who wrote a record: its pid may be a number of another pid namespace, and somebody else's here.
pub fn recorded(record: &Record) -> String {
    let who = process(record.pid, record.command());
    if numbers_mean_the_same(record) {
        who
    } else {
        format!("{who}, a number of another pid namespace")
    }
}

/// `3 h 12 min`, `45 s`, `0.2 s`
pub fn span(length: Duration) -> String {
    let seconds = length.as_secs();
    let tenths = length.subsec_millis() / 100;
    match seconds {
        0..10 if tenths > 0 => format!("{seconds}.{tenths} s"),
        0..60 => format!("{seconds} s"),
        60..3600 => pair(seconds, 60, "min", "s"),
        3600..86_400 => pair(seconds / 60, 60, "h", "min"),
        _ => pair(seconds / 3600, 24, "d", "h"),
    }
}

fn pair(value: u64, base: u64, large: &str, small: &str) -> String {
    match value % base {
        0 => format!("{} {large}", value / base),
        rest => format!("{} {large} {rest} {small}", value / base),
    }
}

/// `2026-11-23 22:10:11 UTC`
pub fn moment(time: Timestamp) -> String {
    let shown = humantime::format_rfc3339_seconds(time.0).to_string();
    shown.replace('T', " ").replace('Z', " UTC")
}

/// To the minute, and of today without the day: `22:10 UTC`, `2026-11-23 22:10 UTC`.
pub fn rough_moment(time: Timestamp, now: Timestamp) -> String {
    let (shown, today) = (moment(time), moment(now));
    let day = |text: &str| text.get(..10).map(str::to_owned);
    let from = if day(&shown) == day(&today) { 11 } else { 0 };
    format!("{} UTC", shown.get(from..16).unwrap_or(&shown))
}

/// `1 process`, `3 processes`
pub fn processes(number: usize) -> String {
    match number {
        1 => "1 process".to_owned(),
        _ => format!("{number} processes"),
    }
}

/// No more than this many are named.
const MOST_NAMED: usize = 5;

/// Some of them by name: `pid 7 (a), pid 8 (b)`, `…, and 3 more`
pub fn series<T>(all: &[T], named: impl Fn(&T) -> String) -> String {
    let mut words: Vec<String> = all.iter().take(MOST_NAMED).map(named).collect();
    let more = all.len().saturating_sub(MOST_NAMED);
    if more > 0 {
        words.push(format!("and {more} more"));
    }
    words.join(", ")
}

/// `pid 7 (worker), pid 8 (helper)`
pub fn ended(ended: &[Ended]) -> String {
    series(ended, |one| process(one.pid, &one.argv))
}

/// What an ordered stop is called.
pub fn stopping(replaced: bool) -> &'static str {
    if replaced {
        "being replaced"
    } else {
        "stopping"
    }
}

/// Why it is time for SIGKILL.
pub fn why(why: Why) -> &'static str {
    match why {
        Why::TimeIsOver => "time is over",
        Why::InterruptedAgain => "interrupted again",
    }
}

/// How to say it to us: whole seconds, rounded up.
pub fn typed_seconds(length: Duration) -> u64 {
    length.as_secs() + u64::from(length.subsec_nanos() > 0)
}

/// `systemctl stop NAME.service`
pub fn systemctl(verb: &str, record: &Record) -> Option<String> {
    let unit = record.unit.as_ref()?;
    let user = if record.manager == Some(Manager::User) {
        "--user "
    } else {
        ""
    };
    Some(format!(
        "systemctl {user}{verb} {}",
        quoted(OsStr::new(unit))
    ))
}

/// `pid 4925 (hermes gateway run), up 3 h 12 min, hermes-gateway.service`
pub fn holder(holder: &Holder) -> String {
    let mut text = process(holder.pid(), &holder.command());
    if let Some(record) = holder.record() {
        text += &format!(", up {}", span(record.since.age()));
        if let Some(unit) = &record.unit {
            text += &format!(", {}", printable(OsStr::new(unit)));
        }
    }
    text
}

fn locker(locker: &Locker) -> String {
    process(locker.pid, &locker.argv)
}

/// Who is behind the lock.
pub fn sighting(who: &Sighting) -> String {
    match who {
        Sighting::Proven(known) => holder(known),
        Sighting::Ending(known) => format!("{}, which is about to let go", holder(known)),
        Sighting::Starting(known) | Sighting::Foreign(known) if known.shared => format!("{}, which has a shared lock on it", locker(known)),
        Sighting::Starting(known) => format!("{}, which has not written its record yet", locker(known)),
        Sighting::Foreign(known) => format!("{}, which the pid file does not name", locker(known)),
        Sighting::Invisible(Some(pid)) => format!("pid {pid}, which this user may not look at"),
        Sighting::Invisible(None) => "a process that cannot be seen from here (another container or pid namespace, or another user's)".to_owned(),
    }
}

/// How to stop a holder.
pub fn how_to_stop(holder: &Holder, subject: &Subject) -> String {
    if let Some(systemctl) = holder.record().and_then(|record| systemctl("stop", record)) {
        return systemctl;
    }
    let typed = subject.typed("stop");
    match holder.record().map(|record| record.uid) {
        Some(uid)
            if uid != rustix::process::geteuid().as_raw()
                && !rustix::process::geteuid().is_root() =>
        {
            as_user(uid, subject)
        }
        _ => typed,
    }
}

fn as_user(uid: u32, subject: &Subject) -> String {
    let root = if uid == 0 { "" } else { " or as root" };
    format!(
        "as {}{root}: gateway -f {} stop",
        user_name(uid),
        quoted(subject.path.as_os_str())
    )
}

/// What was wanted, as a verb.
fn verb(mode: Mode) -> &'static str {
    match mode {
        Mode::Plain | Mode::Wait => "start",
        Mode::Replace => "replace",
        Mode::Stop => "stop",
    }
}

/// Why a start or a stop came to nothing, after so long.
pub fn refused(refused: &Refused, subject: &Subject, waited: Duration, mode: Mode) -> String {
    match refused {
        Refused::By {
            refusal,
            who,
            asked,
        } => by(*refusal, who, asked, subject, waited, mode),
        Refused::Survivors { left, own_ancestor } => survivors(left, *own_ancestor, subject),
    }
}

fn by(
    refusal: Refusal,
    who: &Sighting,
    asked: &[Former],
    subject: &Subject,
    waited: Duration,
    mode: Mode,
) -> String {
    let known = match who {
        Sighting::Proven(known) | Sighting::Ending(known) => Some(known),
        _ => None,
    };
    if known.is_none()
        && let Some(inherited) = inherited(subject)
    {
        return format!("cannot {}: {inherited}, {}", verb(mode), subject.path());
    }
    match (refusal, known) {
        (Refusal::Held, Some(known)) => held(known, subject),
        (Refusal::Barred(bar), Some(known)) => barred(bar, known, subject, mode),
        (Refusal::TooShort { timeout, needed }, Some(known)) => {
            too_short(timeout, needed, known, asked, subject)
        }
        (Refusal::Deadline, _) => deadline(who, asked, subject, waited, mode),
        (_, None) => unproven(who, asked, subject, mode),
        (Refusal::Unproven, Some(_)) => format!(
            "cannot {} {}, {}",
            verb(mode),
            sighting(who),
            subject.path()
        ),
    }
}

/// The lock is our own, and nobody else's end can let go of it.
pub fn inherited(subject: &Subject) -> Option<String> {
    let descriptor = gateway_lock::holder::inherited_lock(&subject.path)?;
    Some(format!(
        "this process inherited the lock in descriptor {descriptor}: drop flock from the script"
    ))
}

fn held(known: &Holder, subject: &Subject) -> String {
    // Who may not signal it cannot take over, either.
    let replace = if known.may_be_signalled() {
        format!("take over: {}; ", subject.typed("run --replace -- COMMAND"))
    } else {
        String::new()
    };
    format!(
        "held by {}, {}; {replace}stop it: {}",
        holder(known),
        subject.path(),
        how_to_stop(known, subject)
    )
}

fn deadline(
    who: &Sighting,
    asked: &[Former],
    subject: &Subject,
    waited: Duration,
    mode: Mode,
) -> String {
    let pid = who.pid();
    let asked_too = asked.iter().any(|former| Some(former.pid) == pid);
    let others: Vec<Former> = asked
        .iter()
        .filter(|former| Some(former.pid) != pid)
        .cloned()
        .collect();
    let next = if asked_too {
        format!("; it {}", will_stop(mode))
    } else {
        format!("; give it longer with --timeout{}", look_at(who))
    };
    format!(
        "gave up after {}: {} still has the lock, {}{}{next}",
        span(waited),
        sighting(who),
        subject.path(),
        said_before(&others),
    )
}

/// How to see who may not be looked at.
pub fn look_elsewhere() -> &'static str {
    if rustix::process::geteuid().is_root() {
        "look at it where it runs, or on the host"
    } else {
        "look at it as root, or as its user"
    }
}

/// What becomes of whoever was asked, once nobody waits for it any more.
pub fn will_stop(mode: Mode) -> &'static str {
    match mode {
        Mode::Stop => "was asked, and will stop all the same",
        _ => "was asked to stop and will, and nothing will run then",
    }
}

fn unproven(who: &Sighting, asked: &[Former], subject: &Subject, mode: Mode) -> String {
    let next = match who {
        Sighting::Foreign(known) => {
            let wait = match mode {
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
        "cannot {}: held by {}, {}{}; {next}",
        verb(mode),
        sighting(who),
        subject.path(),
        said_before(asked)
    )
}

fn barred(bar: Bar, known: &Holder, subject: &Subject, mode: Mode) -> String {
    let (who, at, verb) = (holder(known), subject.path(), verb(mode));
    match bar {
        Bar::Ancestor if mode == Mode::Wait => format!(
            "cannot wait for {who}, {at}: it is an ancestor of this process and cannot end before it; start from outside of it"
        ),
        // An ancestor of everybody in it.
        Bar::Ancestor | Bar::Init if known.pid() == Pid::INIT => format!(
            "cannot {verb} {who}, {at}: it is the first process of this container, which would end with it; {} the container",
            if mode == Mode::Stop {
                "stop"
            } else {
                "restart"
            }
        ),
        Bar::Ancestor | Bar::Init => format!(
            "cannot {verb} {who}, {at}: it is an ancestor of this process, which would end with it; do it from outside, for example with: systemd-run {}",
            subject.typed(match mode {
                Mode::Stop => "stop",
                _ => "run --replace -- COMMAND",
            })
        ),
        Bar::NotPermitted => {
            let recorded = known.record().map(|record| record.uid);
            let uid = gateway_lock::process::uid(known.pid()).or(recorded);
            uid.map_or_else(
                || format!("may not signal {who}, {at}"),
                |uid| {
                    format!(
                        "may not signal {who}, {at}: it belongs to {}; do it {}",
                        user_name(uid),
                        as_user(uid, subject)
                    )
                },
            )
        }
    }
}

fn too_short(
    timeout: Duration,
    needed: Option<Duration>,
    known: &Holder,
    asked: &[Former],
    subject: &Subject,
) -> String {
    let (who, at) = (process(known.pid(), &known.command()), subject.path());
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
        "not asked: {who} {needs}, and --timeout {} ends before that, {at}{}; use --timeout {longer}{kill_after}",
        timeout.as_secs_f64(),
        said_before(asked),
    )
}

fn said_before(asked: &[Former]) -> String {
    if asked.is_empty() {
        return String::new();
    }
    let gone = series(asked, |former| process(former.pid, &former.argv));
    format!(" (asked to stop: {gone})")
}

fn look_at(who: &Sighting) -> String {
    who.pid().map_or_else(String::new, |pid| {
        format!(", or look at it with: ps -fp {pid}")
    })
}

/// `pid 77 (worker, state D)`
pub fn survivor(survivor: &Survivor) -> String {
    format!(
        "pid {} ({}, state {})",
        survivor.pid(),
        command(&survivor.command()),
        survivor.state()
    )
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

/// Who asked for the end.
pub fn asker(asker: &Asker) -> String {
    process(asker.pid, &asker.argv)
}

/// How the last run ended: `stopped by pid 1 (systemd) 2 h ago, exit 0`
pub fn end(end: &End) -> String {
    let why = match end.reason {
        Reason::Exited => "ended by itself",
        Reason::Stopped => "stopped",
        Reason::Replaced => "replaced",
        Reason::Lost => "lost its pid file to another gateway and stopped",
    };
    let by = end
        .by
        .as_ref()
        .map_or_else(String::new, |by| format!(" by {}", asker(by)));
    let exit = end
        .exit
        .map_or_else(String::new, |exit| format!(", {exit}"));
    format!("last run {why}{by} {} ago{exit}", span(end.ended.age()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_read_at_a_glance() {
        let shown = |millis| span(Duration::from_millis(millis));
        assert_eq!(shown(120), "0.1 s");
        assert_eq!(shown(3000), "3 s");
        assert_eq!((shown(0), shown(40)), ("0 s".to_owned(), "0 s".to_owned()));
        assert_eq!(
            (shown(3040), shown(9990)),
            ("3 s".to_owned(), "9.9 s".to_owned())
        );
        assert_eq!(shown(59_999), "59 s");
        assert_eq!(shown(90_000), "1 min 30 s");
        assert_eq!(shown(11_520_000), "3 h 12 min");
        assert_eq!(shown(86_400_000), "1 d");
    }

    #[test]
    fn a_number_of_another_namespace_is_called_one() {
        let written = |namespace: u64| {
            format!(
                "7\n{{\"format\":1,\"pid\":7,\"start_time\":1,\"boot_id\":\"b\",\"pid_namespace\":{namespace},\
                 \"host\":\"h\",\"uid\":0,\"path\":\"/p\",\"dev\":1,\"inode\":2,\"run_id\":\"63399ab896304c55321331eb748a0f53\",\"generation\":1,\
                 \"since\":\"2026-11-24T15:27:38Z\",\"argv\":[\"web\"],\"payload\":null}}\n"
            )
        };
        let said = |namespace| {
            let contents = gateway_lock::record::Contents::decode(written(namespace).as_bytes());
            recorded(contents.record().expect("a record"))
        };
        // 0: the writer could not tell.
        assert_eq!(said(0), "pid 7 (web)");
        assert_eq!(said(1), "pid 7 (web), a number of another pid namespace");
    }

    #[test]
    fn a_moment_of_another_day_has_its_date() {
        let at = |text: &str| Timestamp(humantime::parse_rfc3339(text).unwrap());
        let now = at("2026-11-23T23:00:00Z");
        let shown = |text| rough_moment(at(text), now);
        assert_eq!(shown("2026-11-23T22:10:11Z"), "22:10 UTC");
        assert_eq!(shown("2026-11-22T22:10:11Z"), "2026-11-22 22:10 UTC");
        // The clock was set back since.
        assert_eq!(shown("2026-11-24T00:00:00Z"), "2026-11-24 00:00 UTC");
        assert_eq!(moment(now), "2026-11-23 23:00:00 UTC");
    }

    #[test]
    fn command_lines_are_short_and_cannot_move_the_cursor() {
        assert_eq!(command(&["sh", "-c", "a b"]), "sh -c 'a b'");
        assert_eq!(command(&["\x1b[2J"]), "$'\\033[2J'");
        assert_eq!(
            command(&["x".repeat(200).as_str()]).chars().count(),
            LONGEST_COMMAND + 1
        );
    }
}
