//! `status`: what is true of a pid file, and how the last run ended.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use gateway_lock::Error;
use gateway_lock::holder::{Holder, Sighting};
use gateway_lock::process::Pid;
use gateway_lock::record::{Contents, End, Manager, Payload, Record, begins_as_record};
use gateway_lock::signal::Signal;
use gateway_lock::survivors::{self, Survivor};
use gateway_lock::text::{Text, printable};
use gateway_lock::time::{Limit, Timestamp};
use gateway_lock::view::{self, State, View};
use gateway_lock::wait::Uninterrupted;
use serde::Serialize;

use crate::cli::Show;
use crate::commands::{Context, print};
use crate::exit::{STATUS_CRASHED, STATUS_FREE, STATUS_HELD, STATUS_UNKNOWN, Verdict};
use crate::words::{self, Subject};

pub fn status(context: &Context, show: &Show) -> Verdict {
    let subject = match context.subject() {
        Ok(subject) => subject,
        Err(error) => return cannot_tell(context, show, None, &error),
    };
    let view = match view::look(&subject.path, &mut Uninterrupted) {
        Ok(view) => view,
        Err(error) => return cannot_tell(context, show, Some(&subject), &error),
    };
    let left = left_by(&view);
    let answer = if show.json {
        json(&view, left.as_deref())
    } else {
        let others = matches!(view.state, State::Free).then(|| context.others());
        let others = others.flatten().map(|others| format!("      {others}\n"));
        text(&view, &left.unwrap_or_default(), &subject) + &others.unwrap_or_default()
    };
    print(context.voice, &answer, Verdict::Code(code(&view.state)))
}

/// What still runs of a crashed run. `None`: it is no such, or it cannot be told.
fn left_by(view: &View) -> Option<Vec<Survivor>> {
    let is_crashed = matches!(view.state, State::Crashed);
    let left = is_crashed.then(|| survivors::left_by(&view.path, &view.contents));
    left.and_then(Result::ok)
}

/// LSB: 0 runs, 1 dead with a pid file, 3 not running, 4 unknown.
fn code(state: &State) -> u8 {
    match state {
        State::Locked(Sighting::Invisible(_)) => STATUS_UNKNOWN,
        State::Locked(_) | State::Removed(_) => STATUS_HELD,
        State::Crashed => STATUS_CRASHED,
        State::Free => STATUS_FREE,
    }
}

/// Why is told on stderr; without a subject not even the pid file's path is known.
fn cannot_tell(
    context: &Context,
    show: &Show,
    subject: Option<&Subject>,
    error: &Error,
) -> Verdict {
    context.voice.fault(&format!("{error:#}"));
    let state = view::UNKNOWN;
    let path = subject.map(|subject| subject.path.as_path());
    let answer = if show.json {
        line(&StatusJson {
            format: 1,
            state,
            pid_file: path.map(|path| Text(path.as_os_str().to_os_string())),
            holder: None,
            last: None,
            survivors: None,
        })
    } else {
        let file = path.map_or_else(String::new, |path| file(&words::path(path)));
        format!("{state}: cannot tell who holds the lock\n{file}")
    };
    print(context.voice, &answer, Verdict::Code(STATUS_UNKNOWN))
}

/// What `--json` prints. Keys are only ever added.
#[derive(Serialize)]
pub struct StatusJson {
    format: u32,
    state: &'static str,
    /// Null where it could not be told which one is meant.
    pid_file: Option<Text>,
    holder: Option<HolderJson>,
    last: Option<LastJson>,
    /// What still runs of a crashed run. `list` does not look.
    survivors: Option<Vec<SurvivorJson>>,
}

#[derive(Serialize)]
struct SurvivorJson {
    pid: i32,
    argv: Vec<Text>,
}

#[derive(Default, Serialize)]
struct HolderJson {
    pid: i32,
    start_time: Option<u64>,
    uptime_s: Option<f64>,
    argv: Vec<Text>,
    uid: Option<u32>,
    unit: Option<String>,
    manager: Option<Manager>,
    payload: Option<Payload>,
    generation: Option<u64>,
    run_id: Option<String>,
    since: Option<Timestamp>,
    stop_timeout: Option<Limit>,
    host: Option<Text>,
    /// Whether it became its command.
    exec: Option<bool>,
}

/// How the previous run ended; its record's end is missing where it crashed.
#[derive(Serialize)]
struct LastJson {
    pid: i32,
    generation: u64,
    run_id: String,
    since: Timestamp,
    argv: Vec<Text>,
    payload: Option<Payload>,
    unit: Option<String>,
    #[serde(flatten)]
    end: Option<End>,
}

/// The object of one pid file.
pub fn object(view: &View) -> StatusJson {
    let holder = match &view.state {
        State::Locked(who) => of_sighting(who),
        State::Removed(holder) => Some(of_holder(holder)),
        State::Free | State::Crashed => None,
    };
    let idle = matches!(view.state, State::Free | State::Crashed);
    StatusJson {
        format: 1,
        state: view.state.name(),
        pid_file: Some(Text(view.path.as_os_str().to_os_string())),
        holder,
        last: view.record().filter(|_| idle).map(of_last),
        survivors: None,
    }
}

fn of_sighting(who: &Sighting) -> Option<HolderJson> {
    match who {
        Sighting::Proven(holder) | Sighting::Ending(holder) => Some(of_holder(holder)),
        Sighting::Starting(locker) | Sighting::Foreign(locker) => {
            Some(of_pid(locker.pid, &locker.argv))
        }
        Sighting::Invisible(pid) => pid.map(|pid| of_pid(pid, &gateway_lock::process::argv(pid))),
    }
}

fn of_last(record: &Record) -> LastJson {
    LastJson {
        pid: record.pid.get(),
        generation: record.generation,
        run_id: record.run_id.clone(),
        since: record.since,
        argv: record.argv.clone(),
        payload: record.payload.clone(),
        unit: record.unit.clone(),
        end: record.end.clone(),
    }
}

fn of_holder(holder: &Holder) -> HolderJson {
    let record = holder.record();
    let mut json = of_pid(holder.pid(), &holder.command());
    json.start_time = Some(holder.start_time());
    if let Some(record) = record {
        json.uptime_s = Some(record.since.age().as_secs_f64());
        json.argv.clone_from(&record.argv);
        // What it says of itself anybody could say.
        json.uid = json.uid.or(Some(record.uid));
        json.unit.clone_from(&record.unit);
        json.manager = record.manager;
        json.payload = view::payload(holder);
        json.generation = Some(record.generation);
        json.run_id = Some(record.run_id.clone());
        json.since = Some(record.since);
        json.stop_timeout = record.stop_timeout;
        json.host = Some(record.host.clone());
        json.exec = Some(record.exec);
    }
    json
}

fn of_pid(pid: Pid, argv: &[std::ffi::OsString]) -> HolderJson {
    HolderJson {
        pid: pid.get(),
        argv: argv.iter().cloned().map(Text).collect(),
        uid: gateway_lock::process::uid(pid),
        ..HolderJson::default()
    }
}

fn json(view: &View, left: Option<&[Survivor]>) -> String {
    let of_survivor = |survivor: &Survivor| SurvivorJson {
        pid: survivor.pid().get(),
        argv: survivor.command().into_iter().map(Text).collect(),
    };
    line(&StatusJson {
        survivors: left.map(|left| left.iter().map(of_survivor).collect()),
        ..object(view)
    })
}

pub fn line(json: &impl Serialize) -> String {
    let mut text = serde_json::to_string(json).expect("this has nothing that JSON cannot say");
    text.push('\n');
    text
}

fn text(view: &View, left: &[Survivor], subject: &Subject) -> String {
    let path = words::path(&view.path);
    match &view.state {
        State::Locked(Sighting::Proven(holder) | Sighting::Ending(holder)) => format!(
            "{}: {}\n{}",
            view.state.name(),
            headline(holder),
            details(holder, &path)
        ),
        State::Removed(holder) => format!(
            "removed: {}, whose pid file is not at its path any more; it puts it back by itself as soon as it can\n{}",
            headline(holder),
            details(holder, &path)
        ),
        State::Locked(Sighting::Starting(locker)) => {
            format!(
                "starting: {} has the lock, and its record is not in the file yet, or was overwritten\n{}",
                words::process(locker.pid, &locker.argv),
                file(&path)
            )
        }
        State::Locked(Sighting::Foreign(locker)) if locker.shared => format!(
            "foreign: {} has a shared lock on the pid file, so nobody holds it and nobody can\n{}",
            words::process(locker.pid, &locker.argv),
            file(&path)
        ),
        State::Locked(Sighting::Foreign(locker)) => format!(
            "foreign: {} has the lock, and the pid file does not name it\n{}",
            words::process(locker.pid, &locker.argv),
            file(&path)
        ),
        State::Locked(Sighting::Invisible(Some(pid))) => format!(
            "invisible: {} has the lock, and this user may not look at it; {}\n{}",
            words::process(*pid, &gateway_lock::process::argv(*pid)),
            words::look_elsewhere(),
            file(&path)
        ),
        State::Locked(Sighting::Invisible(None)) => format!(
            "invisible: the lock is held by {}\n{}",
            words::UNSEEN,
            file(&path)
        ),
        State::Crashed if left.is_empty() => {
            let why = words::named_by_others(view).unwrap_or_else(|| {
                format!("{}; the next start needs nothing removed", crashed(view))
            });
            format!("crashed: {why}\n{}", file(&path))
        }
        State::Crashed => format!(
            "crashed: {}; the next start ends what still runs of it, and so does: {}\n{}{}",
            crashed(view),
            subject.typed("stop"),
            file(&path),
            detail("left", &words::series(left, words::survivor))
        ),
        State::Free => format!("free: {}\n{}", free(view, subject), file(&path)),
    }
}

fn headline(holder: &Holder) -> String {
    let up = holder.record().map_or_else(String::new, |record| {
        format!(", up {}", words::span(record.since.age()))
    });
    format!("{}{up}", words::process(holder.pid(), &holder.command()))
}

fn file(path: &str) -> String {
    detail("pid file", path)
}

fn detail(name: &str, value: &str) -> String {
    format!("  {name:<9} {value}\n")
}

fn details(holder: &Holder, path: &str) -> String {
    let told = holder.record().map_or_else(String::new, |record| {
        [
            unit(record),
            payload(record, holder),
            since(record),
            at_stop(record),
        ]
        .concat()
    });
    told + &file(path)
}

fn unit(record: &Record) -> String {
    let user = match record.manager {
        Some(Manager::User) => " (user manager)",
        _ => "",
    };
    record.unit.as_ref().map_or_else(String::new, |unit| {
        detail("unit", &format!("{}{user}", printable(unit.as_ref())))
    })
}

fn payload(record: &Record, holder: &Holder) -> String {
    match &record.payload {
        Some(_) => {
            let size = words::processes(view::payload_size(holder.pid()));
            let pid = view::payload(holder).map(|payload| format!("pid {}, ", payload.pid));
            detail("payload", &(pid.unwrap_or_default() + &size))
        }
        None if record.exec => detail("payload", "the holder became the command (--exec)"),
        None => detail("payload", "none"),
    }
}

fn since(record: &Record) -> String {
    let moment = words::moment(record.since);
    detail(
        "since",
        &format!("{moment}, generation {}", record.generation),
    )
}

fn at_stop(record: &Record) -> String {
    // Whoever became its command ends as that likes.
    let Some(limit) = record.stop_timeout.filter(|_| !record.exec) else {
        return String::new();
    };
    let signal = record.stop_signal.unwrap_or(Signal::TERM);
    let kill = limit.finite().map_or_else(
        || "never SIGKILL".to_owned(),
        |limit| format!("SIGKILL after {}", words::span(limit)),
    );
    detail("at stop", &format!("{signal}, {kill}"))
}

fn crashed(view: &View) -> String {
    match view.record() {
        Some(record) => {
            let rebooted =
                gateway_lock::process::boot_id().is_ok_and(|boot| boot != record.boot_id);
            let how = if rebooted {
                "ended with the host"
            } else {
                "ended without a word"
            };
            format!(
                "{} {how} at or after {}",
                words::process(record.pid, record.command()),
                words::rough_moment(record.since, Timestamp::now())
            )
        }
        None => "the pid file names a process that does not hold the lock".to_owned(),
    }
}

fn free(view: &View, subject: &Subject) -> String {
    match view.record() {
        Some(Record { end: Some(end), .. }) => words::end(end),
        Some(record) if record.exec => {
            format!(
                "{} became its command, and let go",
                words::process(record.pid, record.command())
            )
        }
        Some(record) => {
            let who = words::process(record.pid, record.command());
            let original = words::path(&record.path());
            format!("nobody holds the lock; it is a copy of {original}, which {who} wrote")
        }
        None if is_something_else(view) => format!(
            "nobody holds the lock, but {} is no pid file, and run would overwrite it",
            words::path(&view.path)
        ),
        None => format!(
            "nobody holds the lock; start with: {}",
            subject.typed("run -- COMMAND")
        ),
    }
}

/// Whether a start would cost somebody a file: what is in it was not written by us, and is no bare number,
/// as others write it.
fn is_something_else(view: &View) -> bool {
    let is_ours = |head: &[u8]| begins_as_record(head) || head.iter().all(u8::is_ascii_digit);
    matches!(view.contents, Contents::Unreadable)
        && head(&view.path).is_ok_and(|head| !is_ours(&head) && !is_ours(head.trim_ascii()))
}

/// As much of a file as tells what it is.
fn head(path: &Path) -> std::io::Result<Vec<u8>> {
    // It was a regular file a moment ago; a pipe that has taken its place does not hold us up.
    let file = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOFOLLOW)
        .open(path)?;
    let mut head = Vec::new();
    file.take(64).read_to_end(&mut head)?;
    Ok(head)
}
