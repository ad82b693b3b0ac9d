//! Who holds the lock, proven: the record against the kernel's own lists.
//!
//! The record is a hint. Before anybody is called the holder, the process is pinned by a pidfd and
//! *then* shown to have this very file open with the lock on it, in one of two ways:
//!
//! 1. `/proc/PID/fdinfo/N` has a `lock:` line for an exclusive flock (proc_pid_fdinfo(5)) and
//!    `/proc/PID/fd/N` is our device and inode by `stat`.
//! 2. Where its descriptors may not be read: `/proc/locks` names it as the taker of the lock
//!    (proc_locks(5)), *and* the record names it with its actual start time and boot id.
//!
//! Device numbers printed in `/proc` differ from `stat`'s on btrfs and others, and are only ever
//! compared with each other.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::kernel_locks::{fdinfo_has_exclusive_flock, fdinfo_has_lease, printed_device, takers};
pub use crate::kernel_locks::{parse_locks, table_of_locks, taker_of};
use crate::lock::{FileId, OpenFile};
use crate::process::{self, Pid, Pinned, Stat};
use crate::procfs::{read_bounded, unless_absent};
use crate::record::{Contents, Record};
use crate::signal::Signal;
use crate::unusable::may_be_pid_file;
use crate::{Error, Result, record};

/// A process proven to have the lock, and pinned.
#[derive(Debug)]
pub struct Holder {
    pinned: Pinned,
    start_time: u64,
    file: FileId,
    record: Option<Box<Record>>,
    way: Way,
}

/// How it was proven.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Way {
    /// By its descriptor.
    Descriptor,
    /// By the kernel's table of locks; the device is the one that table prints for our file.
    Table { device: String },
}

/// What is found behind a lock that somebody has.
#[derive(Debug)]
pub enum Sighting {
    /// The record names the holder, and it is proven.
    Proven(Holder),
    /// Likewise, but it has already marked its record ended: it is about to let go.
    Ending(Holder),
    /// A gateway that has not described itself yet.
    Starting(Locker),
    /// Somebody whom the record does not describe.
    Foreign(Locker),
    /// Nobody who can be seen: outside our pid namespace, or not ours to look at. The kernel's
    /// table of locks may still name who took it.
    Invisible(Option<Pid>),
}

/// A process that has the lock, but that the record does not describe: never to be signalled.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Locker {
    /// Its pid.
    pub pid: Pid,
    /// Its command line.
    pub argv: Vec<OsString>,
}

impl Holder {
    /// Its pid.
    #[must_use]
    pub fn pid(&self) -> Pid {
        self.pinned.pid()
    }

    /// When it started, in clock ticks since boot: with the pid, who it is.
    #[must_use]
    pub fn start_time(&self) -> u64 {
        self.start_time
    }

    /// What it wrote of itself, if it wrote more than a pid.
    #[must_use]
    pub fn record(&self) -> Option<&Record> {
        self.record.as_deref()
    }

    /// The file it has locked.
    #[must_use]
    pub fn file(&self) -> FileId {
        self.file
    }

    /// Its command, as people know it: the payload's where there is one.
    #[must_use]
    pub fn command(&self) -> Vec<OsString> {
        match &self.record {
            Some(record) => record.command().iter().map(|text| text.0.clone()).collect(),
            None => process::argv(self.pid()),
        }
    }

    /// Its pidfd: readable once it has ended.
    #[must_use]
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pinned.as_fd()
    }

    /// The same holder once more, with a pidfd of its own; `None` if it cannot be had.
    #[must_use]
    pub fn duplicate(&self) -> Option<Self> {
        Some(Self {
            pinned: self.pinned.duplicate()?,
            start_time: self.start_time,
            file: self.file,
            record: self.record.clone(),
            way: self.way.clone(),
        })
    }

    /// Whether its paths are not ours: it lives in another root directory, or we may not look.
    #[must_use]
    pub fn is_in_another_root(&self) -> bool {
        !has_our_root(self.pid())
    }

    /// Whether it has ended.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.pinned.exited()
    }

    /// Whether we may signal it.
    #[must_use]
    pub fn may_be_signalled(&self) -> bool {
        self.pinned.may_signal()
    }

    /// Proves it once more, then signals it through its pidfd. `false`: it does not hold any more,
    /// and nothing was sent.
    ///
    /// # Errors
    /// EPERM: it is not ours to signal.
    pub fn signal(&self, signal: Signal) -> io::Result<bool> {
        if !self.still_holds() {
            return Ok(false);
        }
        match self.pinned.signal(signal) {
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(false),
            sent => sent.map(|()| true),
        }
    }

    /// Wakes it where it is stopped: SIGTERM alone would only be noted (signal(7)).
    pub fn wake_if_stopped(&self) {
        if Stat::of(self.pid()).is_some_and(|stat| stat.is_stopped()) && self.still_holds() {
            let _ = self.pinned.signal(Signal::CONT);
        }
    }

    /// Whether it has been killed, and only takes its time to be gone.
    #[must_use]
    pub fn is_dying(&self) -> bool {
        self.pinned.exited()
            || process::has_pending_kill(self.pid())
            || Stat::of(self.pid()).is_some_and(|stat| stat.is_exiting())
    }

    /// Whether it certainly holds no more: it has ended, or its descriptors can be read and none has
    /// the lock. That it could not be looked at just now is no such thing.
    #[must_use]
    pub fn has_let_go(&self) -> bool {
        let without = || descriptor_with_lock(self.pid(), self.file) == Descriptors::NotLocked;
        self.pinned.exited() || self.way == Way::Descriptor && without()
    }

    /// The proof, made again from the start.
    #[must_use]
    pub fn still_holds(&self) -> bool {
        let same = || Stat::of(self.pid()).is_some_and(|stat| stat.start_time == self.start_time);
        let holds = || match &self.way {
            Way::Descriptor => descriptor_with_lock(self.pid(), self.file) == Descriptors::Locked,
            Way::Table { device } => takers(device, self.file.inode).contains(&self.pid()),
        };
        !self.pinned.exited() && same() && holds()
    }
}

/// Who has the lock on this file, which we could not get.
///
/// # Errors
/// The file or `/proc` cannot be read.
pub fn identify(file: &OpenFile) -> Result<Sighting> {
    let contents = file.read_settled()?;
    if let Some(holder) = prove_named(file, &contents)? {
        return Ok(proven(holder));
    }
    search(file, &contents)
}

/// The holder that the record names, if it can be proven: no search, and so cheap.
///
/// # Errors
/// As [`identify`].
pub fn named(file: &OpenFile) -> Result<Option<Sighting>> {
    Ok(prove_named(file, &file.read()?)?.map(proven))
}

/// Not the one that is named: looks through everybody.
fn search(file: &OpenFile, contents: &Contents) -> Result<Sighting> {
    let device = printed_device(file.as_fd(), file.id().dev);
    let takers = takers(&device, file.id().inode);
    let Some(pid) = find_locker(file.id(), &takers) else {
        return Ok(Sighting::Invisible(takers.first().copied()));
    };
    if let Some(holder) = prove_elsewhere(pid, file, contents)? {
        return Ok(proven(holder));
    }
    let locker = Locker {
        pid,
        argv: process::argv(pid),
    };
    Ok(if is_gateway(pid) {
        Sighting::Starting(locker)
    } else {
        Sighting::Foreign(locker)
    })
}

fn proven(holder: Holder) -> Sighting {
    let ended = holder
        .record
        .as_ref()
        .is_some_and(|record| record.end.is_some());
    if ended {
        Sighting::Ending(holder)
    } else {
        Sighting::Proven(holder)
    }
}

/// The process that the contents name: its identity compared, its lock proven.
fn prove_named(file: &OpenFile, contents: &Contents) -> Result<Option<Holder>> {
    match contents {
        Contents::Record(record) => {
            if !numbers_mean_the_same(record) || !may_speak_of(record, file.id())? {
                return Ok(None);
            }
            prove(record.pid, Named::Record(record), file.id(), Some(file))
        }
        Contents::Hint(hint) => prove(hint.pid, Named::Hint(hint.start_time), file.id(), None),
        Contents::Empty | Contents::Unreadable => Ok(None),
    }
}

/// A holder in a pid namespace below ours: the record has its number *there*.
fn prove_elsewhere(pid: Pid, file: &OpenFile, contents: &Contents) -> Result<Option<Holder>> {
    match contents.record() {
        Some(record) if !numbers_mean_the_same(record) && may_speak_of(record, file.id())? => {
            prove(pid, Named::Record(record), file.id(), None)
        }
        _ => Ok(None),
    }
}

/// What a process is compared with.
#[derive(Clone, Copy)]
enum Named<'a> {
    /// A whole record.
    Record(&'a Record),
    /// A bare pid, perhaps with its start time.
    Hint(Option<u64>),
}

/// The core of every proof: the process is pinned, then shown to be the one that is named, then
/// shown to have the lock on this file. `opened` is that file where the second way is allowed, too.
fn prove(
    pid: Pid,
    named: Named<'_>,
    file: FileId,
    opened: Option<&OpenFile>,
) -> Result<Option<Holder>> {
    if pid == Pid::this() {
        return Ok(None);
    }
    // Pinned first: what is seen under the number from here on is this process, or this process is
    // gone, and no signal through its pidfd reaches anybody.
    let Some(pinned) = pin(pid)? else {
        return Ok(None);
    };
    let holder = |start_time| {
        Some(Holder {
            pinned,
            start_time,
            file,
            record: match named {
                Named::Record(record) => Some(Box::new(record.clone())),
                Named::Hint(_) => None,
            },
            way: way(pid, file, opened)?,
        })
    };
    Ok(identity(pid, named).and_then(holder))
}

/// The start time, if this is the process that is named.
fn identity(pid: Pid, named: Named<'_>) -> Option<u64> {
    let start_time = Stat::of(pid)?.start_time;
    let same = match named {
        Named::Record(record) => record.start_time == start_time && has_its_number(pid, record),
        Named::Hint(named) => named.is_none_or(|named| named == start_time),
    };
    same.then_some(start_time)
}

/// Whether the record's number is this process's: here, or in the namespace where it was written.
fn has_its_number(pid: Pid, record: &Record) -> bool {
    if numbers_mean_the_same(record) {
        return record.pid == pid;
    }
    process::pid_namespace(pid) == Some(record.pid_namespace)
        && process::innermost_pid(pid) == Some(record.pid)
}

/// How it is shown that the process has the lock, if it is.
fn way(pid: Pid, file: FileId, opened: Option<&OpenFile>) -> Option<Way> {
    match descriptor_with_lock(pid, file) {
        Descriptors::Locked => Some(Way::Descriptor),
        Descriptors::NotLocked => None,
        Descriptors::Unreadable => {
            let device = printed_device(opened?.as_fd(), file.dev);
            let taken = takers(&device, file.inode).contains(&pid);
            taken.then_some(Way::Table { device })
        }
    }
}

fn pin(pid: Pid) -> Result<Option<Pinned>> {
    Pinned::open(pid).map_err(|error| {
        let told = crate::Error::system(format!("cannot open a pidfd on pid {pid}")).because(error);
        told.advise(
            "without pidfd_open(2) (Linux 5.3, and not filtered by seccomp) nobody can be proven",
        )
    })
}

/// Whether the record was written to this file; not by its path, which a container may call
/// otherwise.
fn names_file(record: &Record, file: FileId) -> bool {
    (record.dev, record.inode) == (file.dev, file.inode)
}

/// Whether the record can be that of who has the lock on this file. Layered file systems may number a
/// file anew when it is written first and so copied up (the kernel's
/// Documentation/filesystems/overlayfs.rst, "Inode properties" and "Non-standard behavior"); but a
/// run that has its command has passed all comparisons.
fn may_describe(record: &Record, file: FileId) -> bool {
    names_file(record, file) || record.payload.is_some()
}

/// A copied record names another file: who has the lock on this one may only look at it. And what was
/// written before the host was started says nothing about who lives now.
fn may_speak_of(record: &Record, file: FileId) -> Result<bool> {
    Ok(may_describe(record, file) && record.boot_id == process::boot_id()?)
}

/// Whether the record's pids are numbers of our own pid namespace.
#[must_use]
pub fn numbers_mean_the_same(record: &Record) -> bool {
    record.pid_namespace == 0
        || process::own_pid_namespace().is_none_or(|own| own == record.pid_namespace)
}

/// Whether a process is a gateway, by its executable.
fn is_gateway(pid: Pid) -> bool {
    let Some(path) = process::executable(pid) else {
        return false;
    };
    let exe = |who: &str| FileId::at(Path::new(&format!("/proc/{who}/exe"))).ok();
    path.file_name().is_some_and(|name| name == "gateway") || exe(&pid.to_string()) == exe("self")
}

/// What a process's descriptors say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Descriptors {
    Locked,
    NotLocked,
    Unreadable,
}

/// The first way of the proof. `fdinfo` is read before anything is looked at through the
/// descriptor, because a `stat` on a dead network mount blocks.
fn descriptor_with_lock(pid: Pid, file: FileId) -> Descriptors {
    let Ok(entries) = std::fs::read_dir(format!("/proc/{pid}/fdinfo")) else {
        return Descriptors::Unreadable;
    };
    let mut answer = Descriptors::NotLocked;
    for entry in entries {
        match entry.and_then(|entry| is_locked_file(pid, &entry.file_name(), file)) {
            Ok(true) => return Descriptors::Locked,
            // Closed since it was listed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(_) => answer = Descriptors::Unreadable,
            Ok(false) => {}
        }
    }
    answer
}

fn is_locked_file(pid: Pid, fd: &OsStr, file: FileId) -> io::Result<bool> {
    let fd = fd.to_string_lossy();
    Ok(has_exclusive_flock(pid, &fd)?
        && FileId::at(Path::new(&format!("/proc/{pid}/fd/{fd}")))? == file)
}

fn has_exclusive_flock(pid: Pid, fd: &str) -> io::Result<bool> {
    Ok(fdinfo_has_exclusive_flock(&read_fdinfo(pid, fd)?))
}

fn read_fdinfo(pid: Pid, fd: &str) -> io::Result<Vec<u8>> {
    read_bounded(&format!("/proc/{pid}/fdinfo/{fd}"), 64 * 1024)
}

/// A process that has the lock: the takers are looked at first, then everybody, because a child
/// may have inherited the descriptor from a taker that is gone.
fn find_locker(file: FileId, takers: &[Pid]) -> Option<Pid> {
    let this = Pid::this();
    let has = |pid: &Pid| *pid != this && descriptor_with_lock(*pid, file) == Descriptors::Locked;
    takers
        .iter()
        .copied()
        .find(has)
        .or_else(|| process::all().unwrap_or_default().into_iter().find(has))
}

/// A process and a file it has locked exclusively.
#[derive(Debug)]
pub struct Held {
    /// The process.
    pub pid: Pid,
    /// The file.
    pub file: FileId,
    /// What the kernel calls it.
    link: PathBuf,
    /// What is written in it, read through the process's descriptor.
    contents: Contents,
}

/// The exclusive flocks of one process on files that may be pid files, with what is written in them.
///
/// # Errors
/// The process could not be looked at just now. One that is gone, or not ours to see, has none.
pub fn files_held_by(pid: Pid) -> io::Result<Vec<Held>> {
    let mut found = Vec::new();
    let Some(entries) = unless_absent(std::fs::read_dir(format!("/proc/{pid}/fd")))? else {
        return Ok(found);
    };
    for entry in entries {
        let Some(entry) = unless_absent(entry)? else {
            continue;
        };
        found.extend(unless_absent(file_held_by(pid, &entry.file_name()))?.flatten());
    }
    Ok(found)
}

fn file_held_by(pid: Pid, fd: &OsStr) -> io::Result<Option<Held>> {
    let fd = fd.to_string_lossy();
    let through = PathBuf::from(format!("/proc/{pid}/fd/{fd}"));
    // Sockets, pipes and the like have no path; asking for it is cheap and touches nothing.
    let link = std::fs::read_link(&through)?;
    if !link.is_absolute() {
        return Ok(None);
    }
    let fdinfo = read_fdinfo(pid, &fd)?;
    // To open a file somebody has a lease on would break the lease, and end or hold up (fcntl(2)).
    if !fdinfo_has_exclusive_flock(&fdinfo) || fdinfo_has_lease(&fdinfo) {
        return Ok(None);
    }
    let stat = rustix::fs::stat(&through)?;
    if !may_be_pid_file(&stat) {
        return Ok(None);
    }
    let contents = Contents::decode(&read_through(&through)?);
    Ok(Some(Held {
        pid,
        file: FileId::of(&stat),
        link,
        contents,
    }))
}

/// Never waits, and leaves the time of the last look alone where that is allowed.
fn read_through(link: &Path) -> io::Result<Vec<u8>> {
    use rustix::fs::{Mode, OFlags};
    use std::io::Read;
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let opened = rustix::fs::open(link, flags | OFlags::NOATIME, Mode::empty())
        .or_else(|_| rustix::fs::open(link, flags, Mode::empty()))?;
    let mut bytes = Vec::new();
    File::from(opened)
        .take(record::MAX_SIZE + 1)
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}

impl Held {
    /// The gateway that holds this file, if the record in it names the file and the process.
    #[must_use]
    pub fn into_holder(self) -> Option<Holder> {
        let record = self.contents.record()?;
        if !names_file(record, self.file) {
            return None;
        }
        prove(self.pid, Named::Record(record), self.file, None).ok()?
    }
}

/// A live holder of an earlier file of this path: removed, renamed away, or replaced.
///
/// Its record must name the file it holds and our path, and its directory must be the one that
/// our file is in, seen from its own root: link texts and device numbers alike coincide between
/// containers. A gateway on a removed file of this path without such a record is starting, or its
/// record was overwritten: it will look at the path itself. Whom we may not look at is not found:
/// the manual says so.
///
/// # Errors
/// Somebody could not be looked at just now, and might be it.
pub fn holder_of_earlier_file(path: &Path, file: Option<FileId>) -> Result<Option<Sighting>> {
    let cannot = |error| {
        Error::system("cannot look through /proc for the holder of an earlier pid file")
            .because(error)
            .advise("where /proc is missing, mount it (mount -t proc proc /proc)")
    };
    let directory = path.parent().and_then(|parent| FileId::at(parent).ok());
    let this = Pid::this();
    let mut starting = None;
    for pid in process::all()
        .map_err(cannot)?
        .into_iter()
        .filter(|pid| *pid != this)
    {
        let held = files_held_by(pid).map_err(cannot)?;
        for held in held.into_iter().filter(|held| Some(held.file) != file) {
            if is_ours_by_name(&held, path, directory) {
                let alive =
                    |holder: &Holder| holder.record().is_some_and(|record| record.end.is_none());
                if let Some(holder) = held.into_holder().filter(alive) {
                    return Ok(Some(Sighting::Proven(holder)));
                }
            } else if is_undescribed(&held, path) {
                starting = Some(Sighting::Starting(Locker {
                    pid,
                    argv: process::argv(pid),
                }));
            }
        }
    }
    Ok(starting)
}

fn is_undescribed(held: &Held, path: &Path) -> bool {
    let removed = [path.as_os_str().as_bytes(), b" (deleted)"].concat();
    held.link.as_os_str().as_bytes() == removed
        && held.contents.record().is_none()
        && is_gateway(held.pid)
        && sees_our_directory(held.pid, path)
}

fn is_ours_by_name(held: &Held, path: &Path, directory: Option<FileId>) -> bool {
    let Some(record) = held.contents.record() else {
        return false;
    };
    let theirs = record.path();
    if theirs.file_name() != path.file_name() {
        return false;
    }
    match (directory, theirs.parent()) {
        (Some(directory), Some(parent)) => {
            FileId::at(&seen_by(held.pid, parent)).is_ok_and(|id| id == directory)
        }
        // The directory is gone, too: the path means the same where the root is the same.
        (None, _) => theirs == path && has_our_root(held.pid),
        (Some(_), None) => false,
    }
}

/// Whether a process sees, at this path's directory, the directory that we see there.
#[must_use]
pub fn sees_our_directory(pid: Pid, path: &Path) -> bool {
    let Some(parent) = path.parent() else {
        return false;
    };
    is_one_directory(pid, parent)
}

fn has_our_root(pid: Pid) -> bool {
    is_one_directory(pid, Path::new("/"))
}

fn is_one_directory(pid: Pid, path: &Path) -> bool {
    let theirs = FileId::at(&seen_by(pid, path));
    matches!((theirs, FileId::at(path)), (Ok(theirs), Ok(ours)) if theirs == ours)
}

/// What a process finds at an absolute path: it starts from its own root (proc_pid_root(5)).
fn seen_by(pid: Pid, path: &Path) -> PathBuf {
    Path::new("/proc")
        .join(pid.to_string())
        .join("root")
        .join(path.strip_prefix("/").unwrap_or(path))
}

/// The holder that a record names, proven in the second way alone: `/proc/locks` prints `taker` as the
/// taker of the lock on this file, whose device it prints as `device`. For a look at many files.
#[must_use]
pub fn named_taker(record: &Record, file: FileId, taker: Pid, device: &str) -> Option<Holder> {
    let named = names_file(record, file) && numbers_mean_the_same(record) && record.pid == taker;
    if !named || record.boot_id != process::boot_id().ok()? {
        return None;
    }
    let pinned = Pinned::open(taker).ok()??;
    let same = Stat::of(taker).is_some_and(|stat| stat.start_time == record.start_time);
    same.then(|| Holder {
        pinned,
        start_time: record.start_time,
        file,
        record: Some(Box::new(record.clone())),
        way: Way::Table {
            device: device.to_owned(),
        },
    })
}

/// Every gateway that can be seen, by its lock: a gateway takes its lock itself, so the kernel's
/// table names it.
pub fn all_holders() -> impl Iterator<Item = Holder> {
    let mut takers: Vec<Pid> = parse_locks(&table_of_locks())
        .map(|line| line.pid)
        .collect();
    takers.sort_unstable();
    takers.dedup();
    let others = takers.into_iter().filter(|pid| *pid != Pid::this());
    others
        .flat_map(|pid| files_held_by(pid).unwrap_or_default())
        .filter_map(Held::into_holder)
}

/// Whether the run that wrote the record goes on: then the record is a copy, and no crash.
#[must_use]
pub fn still_runs(record: &Record) -> bool {
    if numbers_mean_the_same(record) {
        return lives(record);
    }
    let same_run = |holder: Holder| {
        holder
            .record()
            .is_some_and(|theirs| theirs.run_id == record.run_id)
    };
    all_holders().any(same_run)
}

/// Whether the process that the record names lives. One that is on its way out has let go of what
/// it held, or is about to.
#[must_use]
pub fn lives(record: &Record) -> bool {
    let same = |stat: &Stat| stat.start_time == record.start_time;
    Stat::of(record.pid)
        .filter(same)
        .is_some_and(|stat| !stat.is_dead() && !stat.is_exiting())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lock::Try;
    use std::process::{Child, Command};

    struct Ended(Child);

    impl Drop for Ended {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    fn flock_by_a_stranger(path: &Path) -> Ended {
        let child = Command::new("flock")
            .arg("--no-fork")
            .arg(path)
            .args(["sleep", "60"])
            .spawn()
            .unwrap();
        let child = Ended(child);
        let file = OpenFile::open_or_create(path).unwrap();
        for _ in 0..2000 {
            if file.is_locked().unwrap() {
                return child;
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        panic!("flock did not lock {}", path.display());
    }

    #[test]
    fn a_strangers_lock_is_named_and_not_proven() {
        let room = tempfile::tempdir().unwrap();
        let path = room.path().join("gateway.pid");
        let child = flock_by_a_stranger(&path);
        let file = OpenFile::open_or_create(&path).unwrap();
        match identify(&file).unwrap() {
            Sighting::Foreign(locker) => assert_eq!(locker.pid.get(), child.0.id().cast_signed()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_bare_pid_of_the_locker_is_proven_and_of_a_bystander_is_not() {
        let room = tempfile::tempdir().unwrap();
        let path = room.path().join("gateway.pid");
        let locker = flock_by_a_stranger(&path);
        let bystander = Ended(Command::new("sleep").arg("60").spawn().unwrap());
        std::fs::write(&path, format!("{}\n", bystander.0.id())).unwrap();
        let file = OpenFile::open_or_create(&path).unwrap();
        assert!(matches!(identify(&file).unwrap(), Sighting::Foreign(_)));
        std::fs::write(&path, format!("{}\n", locker.0.id())).unwrap();
        let Sighting::Proven(holder) = identify(&file).unwrap() else {
            panic!("not proven")
        };
        assert!(holder.still_holds() && holder.may_be_signalled());
        drop(locker);
        assert!(!holder.still_holds());
        assert!(!holder.signal(Signal::TERM).unwrap());
    }

    #[test]
    fn the_table_of_locks_prints_the_device_of_our_mount() {
        let room = tempfile::tempdir().unwrap();
        let path = room.path().join("gateway.pid");
        let Try::Locked(lock) = OpenFile::open_or_create(&path).unwrap().try_lock().unwrap() else {
            panic!()
        };
        let device = printed_device(lock.as_fd(), lock.id().dev);
        assert_eq!(takers(&device, lock.id().inode), [Pid::this()]);
    }

    #[test]
    fn the_start_time_belongs_to_the_identity() {
        let room = tempfile::tempdir().unwrap();
        let path = room.path().join("gateway.pid");
        let locker = flock_by_a_stranger(&path);
        let pid = Pid::new(locker.0.id().into()).unwrap();
        let start_time = Stat::of(pid).unwrap().start_time;
        let file = OpenFile::open_or_create(&path).unwrap();
        assert!(
            prove(pid, Named::Hint(Some(start_time + 1)), file.id(), None)
                .unwrap()
                .is_none()
        );
        let holder = prove(pid, Named::Hint(Some(start_time)), file.id(), None)
            .unwrap()
            .unwrap();
        assert_eq!(holder.start_time(), start_time);
        assert!(
            !holder.has_ended() && holder.duplicate().is_some() && !holder.is_in_another_root()
        );
        assert!(holder.signal(Signal::TERM).unwrap());
    }

    #[test]
    fn numbers_of_another_namespace_mean_something_else() {
        let own = process::own_pid_namespace().unwrap();
        let record = |pid_namespace| Record {
            pid_namespace,
            ..crate::record::tests::example()
        };
        assert!(numbers_mean_the_same(&record(0)) && numbers_mean_the_same(&record(own)));
        assert!(!numbers_mean_the_same(&record(own + 1)));
    }
}
