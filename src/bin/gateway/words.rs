//! What is known, in words for a tired person: what happened, to which pid, at which path, and
//! what to type next.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use gateway_lock::course::Why;
use gateway_lock::holder::{Holder, Locker, Sighting, numbers_mean_the_same};
use gateway_lock::place::Choice;
use gateway_lock::process::Pid;
use gateway_lock::record::{Asker, Contents, End, Manager, Reason, Record};
use gateway_lock::request::Former;
use gateway_lock::survivors::Survivor;
use gateway_lock::sweep::Ended;
use gateway_lock::takeover::Mode;
use gateway_lock::text::printable;
pub use gateway_lock::text::{command_line, quoted};
use gateway_lock::time::{Limit, Timestamp};
use gateway_lock::user::{passwd_of, user_name};
use gateway_lock::view::View;

/// Who has a lock that nobody here can be seen to have.
pub const UNSEEN: &str = "a process that cannot be seen from here (another container or pid namespace, or another user's)";

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
            _ => self.typed_elsewhere(verb),
        }
    }

    /// The same for who may have another environment, home or user: it names the path.
    pub fn typed_elsewhere(&self, verb: &str) -> String {
        format!("gateway -f {} {verb}", quoted(self.path.as_os_str()))
    }

    pub fn path(&self) -> String {
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

/// As long as time is left, some is shown, and never less than there is.
pub fn at_most(left: Duration) -> String {
    span(Duration::from_secs(typed_seconds(left)))
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
    let manager = match record.manager {
        Some(Manager::User) => its_manager(record.uid)?,
        _ => String::new(),
    };
    Some(format!(
        "systemctl {manager}{verb} {}",
        quoted(OsStr::new(unit))
    ))
}

/// How systemctl(1) is told whose manager is meant: `--user` is one's own, and into another's only root gets.
fn its_manager(uid: u32) -> Option<String> {
    let us = rustix::process::geteuid();
    if us.as_raw() == uid {
        return Some("--user ".to_owned());
    }
    let user = passwd_of(uid).map_or_else(|| uid.to_string(), |user| printable(&user.name));
    us.is_root().then(|| format!("--user -M {user}@ "))
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

/// The same as the subject of a sentence: what stands behind a comma ends with one.
pub fn subject(who: &str) -> String {
    let ends = who.ends_with(')') || !who.contains(", ");
    format!("{who}{}", if ends { "" } else { "," })
}

fn locker(locker: &Locker) -> String {
    process(locker.pid, &locker.argv)
}

/// Who is behind the lock.
pub fn sighting(who: &Sighting) -> String {
    match who {
        Sighting::Proven(known) => holder(known),
        Sighting::Ending(known) => format!("{}, which is about to let go", holder(known)),
        Sighting::Starting(known) | Sighting::Foreign(known) if known.shared => {
            format!("{}, which has a shared lock on it", locker(known))
        }
        Sighting::Starting(known) => {
            format!(
                "{}, whose record is not in the file yet, or was overwritten",
                locker(known)
            )
        }
        Sighting::Foreign(known) => format!("{}, which the pid file does not name", locker(known)),
        Sighting::Invisible(Some(pid)) => format!(
            "{}, which this user may not look at",
            process(*pid, &gateway_lock::process::argv(*pid))
        ),
        Sighting::Invisible(None) => UNSEEN.to_owned(),
    }
}

/// A file that no gateway wrote, and nobody has locked, names somebody who lives: an instance from before the
/// change to us, perhaps, or whoever has got its number since.
pub fn named_by_others(view: &View) -> Option<String> {
    let Contents::Hint(hint) = &view.contents else {
        return None;
    };
    let pid = hint.pid;
    hint.lives().then(|| {
        format!(
            "the file names {}, which runs and has no lock: it is not ours to end; if it is an instance started without gateway, end it first: kill {pid}",
            process(pid, &gateway_lock::process::argv(pid))
        )
    })
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

/// How another user stops it.
pub fn as_user(uid: u32, subject: &Subject) -> String {
    let root = if uid == 0 { "" } else { " or as root" };
    let typed = subject.typed_elsewhere("stop");
    format!("as {}{root}: {typed}", user_name(uid))
}

/// The lock is our own, and nobody else's end can let go of it.
pub fn inherited(subject: &Subject) -> Option<String> {
    let descriptor = gateway_lock::holder::inherited_lock(&subject.path)?;
    Some(format!(
        "this process inherited the lock in descriptor {descriptor}: drop flock from the script"
    ))
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
pub fn will_stop(former: &Former, subject: &Subject, mode: Mode) -> String {
    let text = match (mode, has_an_end(former)) {
        (Mode::Stop, true) => "was asked, and will stop all the same",
        (_, true) => "was asked to stop and will, and nothing will run then",
        (Mode::Stop, false) => "was asked, and may never stop",
        (_, false) => "was asked to stop and may never do so, and nothing will run then",
    };
    let end = (!has_an_end(former))
        .then(|| format!("; to end it: {}", subject.typed("stop --kill-after 30")));
    text.to_owned() + &end.unwrap_or_default()
}

/// Whether somebody sees to it that it ends: a gateway does, of its command, within a stop budget that has an
/// end. What is recorded of others is their own affair.
fn has_an_end(former: &Former) -> bool {
    let limit = |record: &Record| record.stop_timeout.and_then(Limit::finite);
    let supervises = |record: &&Record| !record.exec && record.payload.is_some();
    let record = former.record.as_ref().filter(supervises);
    former.killed || record.and_then(limit).is_some()
}

/// `pid 77 (worker, state D)`
pub fn survivor(survivor: &Survivor) -> String {
    in_state(survivor.pid(), &survivor.command(), survivor.state())
}

/// `pid 77 (worker, state D)`
pub fn in_state(pid: Pid, argv: &[impl AsRef<OsStr>], state: char) -> String {
    format!("pid {pid} ({}, state {state})", command(argv))
}

/// Who asked for the end: `pid 1 (systemd)`, of whom where that is not our own user.
pub fn asker(asker: &Asker) -> String {
    let process = process(asker.pid, &asker.argv);
    if asker.uid == rustix::process::geteuid().as_raw() {
        process
    } else {
        format!("{process} of {}", user_name(asker.uid))
    }
}

/// How the last run ended: `stopped by pid 1 (systemd) 2 h ago, exit 0`
pub fn end(end: &End) -> String {
    let why = match end.reason {
        Reason::Exited => "ended by itself",
        Reason::Stopped => "stopped",
        Reason::Replaced => "replaced",
        Reason::Lost => "lost its pid file to another gateway and stopped",
        Reason::Crashed => "crashed, and was cleared",
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
    fn what_stands_behind_a_comma_ends_with_one() {
        for (who, as_subject) in [
            ("pid 7", "pid 7"),
            ("pid 7 (a, b)", "pid 7 (a, b)"),
            (UNSEEN, UNSEEN),
            ("pid 7 (a), up 3 s", "pid 7 (a), up 3 s,"),
            ("pid 7 (a), which ends", "pid 7 (a), which ends,"),
        ] {
            assert_eq!(subject(who), as_subject);
        }
    }

    #[test]
    fn of_what_is_left_nothing_is_cut_off() {
        let shown = |millis| at_most(Duration::from_millis(millis));
        assert_eq!((shown(999), shown(1000)), ("1 s".into(), "1 s".into()));
        assert_eq!(shown(59_999), "1 min");
        assert_eq!(shown(0), "0 s");
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
