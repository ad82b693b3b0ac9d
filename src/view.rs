//! What can be said of a pid file without changing anything: no write, no new file, and no lock
//! taken while a holder can be seen.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::Result;
use crate::file_id::FileId;
use crate::held;
use crate::holder::{self, Holder, Sighting};
use crate::lock::OpenFile;
use crate::process::{self, Pid, Stat};
use crate::record::{Contents, Payload, Record};
use crate::roots::seen_by;
use crate::wait::{Interrupt, Watched, sleep};

/// How long somebody who has been killed is given to be gone, and somebody who only looks to be through.
const LAST_BREATH: Duration = Duration::from_millis(200);

/// So often a look is begun again where what is written has changed in the middle of it.
const MOST_LOOKS: u32 = 5;

/// A look takes no longer, if it is let.
const A_LOOK: Duration = Duration::from_millis(5);

/// What is true of a pid file at one moment.
#[derive(Debug)]
pub enum State {
    /// Nobody holds it.
    Free,
    /// Nobody holds it, and its last holder ended without a word.
    Crashed,
    /// Somebody has its lock.
    Locked(Sighting),
    /// Held, on a file that is not at the path any more.
    Removed(Holder),
}

impl State {
    /// Who has the lock, wherever the file lies. `None`: nobody.
    #[must_use]
    pub fn into_sighting(self) -> Option<Sighting> {
        match self {
            Self::Locked(who) => Some(who),
            Self::Removed(holder) => Some(Sighting::Proven(holder)),
            Self::Free | Self::Crashed => None,
        }
    }

    /// The state's name, the same in every output.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Free => "free",
            Self::Crashed => "crashed",
            Self::Locked(Sighting::Proven(_)) => "held",
            Self::Locked(Sighting::Starting(_)) => "starting",
            Self::Locked(Sighting::Ending(_)) => "ending",
            Self::Locked(Sighting::Foreign(_)) => "foreign",
            Self::Locked(Sighting::Invisible(_)) => "invisible",
            Self::Removed(_) => "removed",
        }
    }

    /// The pid of whoever has the lock, if that can be told.
    #[must_use]
    pub fn pid(&self) -> Option<Pid> {
        match self {
            Self::Locked(who) => who.pid(),
            Self::Removed(holder) => Some(holder.pid()),
            Self::Free | Self::Crashed => None,
        }
    }

    /// The proven holder, if there is one.
    #[must_use]
    pub fn holder(&self) -> Option<&Holder> {
        match self {
            Self::Locked(who) => who.holder(),
            Self::Removed(holder) => Some(holder),
            Self::Free | Self::Crashed => None,
        }
    }
}

/// What stands for a state's name where a look failed.
pub const UNKNOWN: &str = "unknown";

/// A look at a pid file.
#[derive(Debug)]
pub struct View {
    /// The absolute path; canonical where the file exists.
    pub path: PathBuf,
    /// What is true of it.
    pub state: State,
    /// What is written in it. Empty where there is no file, or none that we may read.
    pub contents: Contents,
}

impl View {
    /// The record in the file at the path, if there is one.
    #[must_use]
    pub fn record(&self) -> Option<&Record> {
        self.contents.record()
    }

    /// Whether the path means another file here than it does for the holder: that is in a container,
    /// or has other mounts.
    #[must_use]
    pub fn is_elsewhere(&self) -> bool {
        self.state
            .holder()
            .is_some_and(|holder| is_elsewhere(holder, &self.path))
    }
}

pub(crate) fn is_elsewhere(holder: &Holder, path: &Path) -> bool {
    let leads_to_it = |path: &Path| FileId::at(path).map(|id| id == holder.file());
    if matches!(leads_to_it(path), Ok(true)) {
        return false;
    }
    // Where its root may not be looked through, it is not ours.
    leads_to_it(&seen_by(holder.pid(), path)).unwrap_or_else(|_| holder.is_in_another_root())
}

/// Looks at the pid file at an absolute path. Waits for a holder that has just been killed, and for
/// somebody else who only looks: 200 ms each time, three seconds where that is so again and again.
///
/// # Errors
/// `ErrorKind::PidFile`: something is there that no pid file can be, or it may not be looked at
/// and the kernel's table of locks does not tell either. `ErrorKind::System`: `/proc` does not tell of us, or
/// `interrupt` ended a search through everybody.
pub fn look(path: &Path, interrupt: &mut dyn Interrupt) -> Result<View> {
    // In a `/proc` of another pid namespace everybody has another number than the one that is recorded.
    // (The link is there in each, but leads nowhere where we have no number.)
    if Path::new("/proc/self").is_symlink() {
        Stat::of_this()?;
    }
    look_again(path, interrupt)
}

/// The same for who has made sure of `/proc` ([`Stat::of_this`]), and looks more than once.
pub(crate) fn look_again(path: &Path, interrupt: &mut dyn Interrupt) -> Result<View> {
    match OpenFile::open_existing(path) {
        Ok(Some(file)) => look_at(&file, interrupt),
        Ok(None) => look_at_nothing(path, interrupt),
        Err(error) => look_from_outside(path).ok_or(error),
    }
}

fn look_at(file: &OpenFile, interrupt: &mut dyn Interrupt) -> Result<View> {
    let view = look_once(file, interrupt)?;
    match view.state.holder() {
        // `kill -9 PID; gateway status` asks what is true after the kill.
        Some(holder) if holder.is_dying() => {
            sleep([Watched::Readable(holder.pidfd())], Some(LAST_BREATH));
            look_once(file, interrupt)
        }
        _ => Ok(view),
    }
}

/// Who starts or ends after the contents were read, and before it is seen that nobody has the lock, has
/// written since.
fn look_once(file: &OpenFile, interrupt: &mut dyn Interrupt) -> Result<View> {
    let mut view = look_now(file, file.read_settled()?, interrupt)?;
    for looks in 1..=MOST_LOOKS {
        if view.state.holder().is_some() {
            break;
        }
        let contents = file.read_settled()?;
        if contents == view.contents {
            break;
        }
        if looks < MOST_LOOKS {
            view = look_now(file, contents, interrupt)?;
        } else if matches!(view.state, State::Crashed) {
            // One run follows the other, and this one did not end without a word.
            view.state = State::Free;
        }
    }
    Ok(view)
}

fn look_now(file: &OpenFile, contents: Contents, interrupt: &mut dyn Interrupt) -> Result<View> {
    let state = match identify_settled(file)? {
        // Taken only this instant, perhaps, or let go: then that can be seen now.
        Some(Sighting::Invisible(None)) => identify_settled(file)?,
        who => who,
    };
    let state = match state {
        Some(who) => State::Locked(who),
        None => unlocked(file, &contents, interrupt)?,
    };
    // Read before the holder was identified: a start in between has written since.
    let contents = state
        .holder()
        .and_then(Holder::record)
        .map_or(contents, |record| {
            Contents::Record(Box::new(record.clone()))
        });
    Ok(View {
        path: file.path().to_path_buf(),
        state,
        contents,
    })
}

/// Who has the lock, but for others who only look, as we do, and for those whom only their end keeps: they
/// are given time to be through. `None`: nobody has it.
fn identify_settled(file: &OpenFile) -> Result<Option<Sighting>> {
    let end = Instant::now() + LAST_BREATH;
    let mut gone = None;
    loop {
        let Some(who) = holder::identify_any(file)? else {
            return Ok(None);
        };
        let undescribed = who.pid().filter(|_| who.holder().is_none());
        if !who.is_a_look() && !undescribed.is_some_and(|pid| is_leaving(pid, &mut gone)) {
            return Ok(Some(who));
        }
        if Instant::now() >= end {
            return Ok(Some(match who {
                // It is stopped in the middle of that, and keeps everybody from starting.
                Sighting::Starting(locker) if locker.shared => Sighting::Foreign(locker),
                who => who,
            }));
        }
        sleep([], Some(A_LOOK));
    }
}

/// Whether it is on its way out: who has lost its memory shows no program any more, and who is closing its
/// files shows none of them, and both have the lock for a little longer. One that is gone has nothing: named
/// a second time, it is named for a lock that somebody else has from it.
fn is_leaving(pid: Pid, gone: &mut Option<Pid>) -> bool {
    match Stat::of(pid).filter(|stat| !stat.is_dead()) {
        Some(stat) => stat.is_leaving(),
        None => gone.replace(pid) != Some(pid),
    }
}

/// Nobody has this file; perhaps somebody has an earlier one of its path. If nobody does, a pid on line 1 means
/// a crash, unless the file is the copy of another one.
fn unlocked(file: &OpenFile, contents: &Contents, interrupt: &mut dyn Interrupt) -> Result<State> {
    if !file.names_itself(contents)
        && let Some(who) = held::holder_of_earlier_file(file.path(), Some(file.id()), interrupt)?
    {
        return Ok(elsewhere(who));
    }
    Ok(match left_behind(contents) {
        State::Crashed if goes_on(contents)? => State::Free,
        state => state,
    })
}

/// What its contents say of a file whose run is over.
pub(crate) fn left_behind(contents: &Contents) -> State {
    match contents {
        Contents::Record(record) if record.end.is_some() || record.exec => State::Free,
        Contents::Record(_) | Contents::Hint(_) => State::Crashed,
        _ => State::Free,
    }
}

/// Whether no run of these contents can go on, whoever lives: there is none, or it has ended in order.
pub(crate) fn is_over(contents: &Contents) -> bool {
    matches!(left_behind(contents), State::Free) && unended(contents).is_none()
}

/// Whether the run that wrote this goes on: with another file, if nobody has locked this one.
///
/// # Errors
/// That cannot be told just now.
pub(crate) fn goes_on(contents: &Contents) -> Result<bool> {
    let of_this_boot =
        |record: &&Record| process::boot_id().is_ok_and(|boot_id| boot_id == record.boot_id);
    unended(contents)
        .filter(of_this_boot)
        .map_or(Ok(false), held::still_runs)
}

fn unended(contents: &Contents) -> Option<&Record> {
    contents.record().filter(|record| record.end.is_none())
}

/// Somebody who holds a file that is not at the path.
fn elsewhere(who: Sighting) -> State {
    match who {
        Sighting::Proven(holder) => State::Removed(holder),
        who => State::Locked(who),
    }
}

fn look_at_nothing(path: &Path, interrupt: &mut dyn Interrupt) -> Result<View> {
    let path = canonical_name(path);
    let state =
        held::holder_of_earlier_file(&path, None, interrupt)?.map_or(State::Free, elsewhere);
    Ok(View {
        path,
        state,
        contents: Contents::Empty,
    })
}

/// The name in its directory's canonical form, as far as the directory exists.
fn canonical_name(path: &Path) -> PathBuf {
    let directory = path
        .parent()
        .and_then(|parent| std::fs::canonicalize(parent).ok());
    match (directory, path.file_name()) {
        (Some(directory), Some(name)) => directory.join(name),
        _ => path.to_path_buf(),
    }
}

/// Not ours to open: the kernel's table of locks names the taker all the same.
pub(crate) fn look_from_outside(path: &Path) -> Option<View> {
    let stat = rustix::fs::lstat(path).ok()?;
    if !rustix::fs::FileType::from_raw_mode(stat.st_mode).is_file() {
        return None;
    }
    let pid = crate::kernel_locks::taker_of(&stat)?;
    Some(View {
        path: canonical_name(path),
        state: State::Locked(Sighting::Invisible(Some(pid))),
        contents: Contents::Empty,
    })
}

/// What runs under the lock, by our own number: in the record it has the one of the holder's pid namespace.
/// `None`: nothing, or nothing that is seen from here.
#[must_use]
pub fn payload(holder: &Holder) -> Option<Payload> {
    let record = holder.record()?;
    let mut payload = record.payload.clone()?;
    if !holder::numbers_mean_the_same(record) {
        let is_it = |pid: &Pid| {
            process::innermost_pid(*pid).is_ok_and(|inside| inside == Some(payload.pid))
                && Stat::of(*pid).is_some_and(|stat| stat.start_time == payload.start_time)
        };
        let mut descendants = process::listed_descendants(holder.pid()).into_iter();
        payload.pid = descendants.find(is_it)?;
    }
    Some(payload)
}

/// How many processes descend from the holder now: its payload.
#[must_use]
pub fn payload_size(holder: Pid) -> usize {
    process::listed_descendants(holder).len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wait::Uninterrupted;

    #[test]
    fn looking_creates_nothing_and_a_missing_file_is_free() {
        let room = tempfile::tempdir().unwrap();
        let path = room.path().join("no/gateway.pid");
        let view = look(&path, &mut Uninterrupted).unwrap();
        assert_eq!(
            (view.state.name(), path.parent().unwrap().exists()),
            ("free", false)
        );
    }

    #[test]
    fn what_an_unlocked_file_says() {
        let room = tempfile::tempdir().unwrap();
        let path = room.path().join("gateway.pid");
        for (bytes, state) in [("", "free"), ("junk", "free"), ("1\n", "crashed")] {
            std::fs::write(&path, bytes).unwrap();
            assert_eq!(
                look(&path, &mut Uninterrupted).unwrap().state.name(),
                state,
                "{bytes:?}"
            );
            assert_eq!(std::fs::read_to_string(&path).unwrap(), bytes);
        }
    }
}
