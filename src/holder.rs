//! Who holds the lock, proven: the record against the kernel's own lists.
//!
//! The record is a hint. Before anybody is called the holder, the process is pinned by a pidfd and
//! *then* shown to have this very file open with the lock on it, in one of two ways:
//!
//! 1. `/proc/PID/fdinfo/N` has a `lock:` line for an exclusive flock (proc_pid_fdinfo(5)) that names
//!    the process itself as its taker, and `/proc/PID/fd/N` is our device and inode by `stat`. (A bare
//!    number that only we can have written is believed of somebody else's lock, too.)
//! 2. Where its descriptors may not be read: `/proc/locks` names it as the taker of the lock
//!    (proc_locks(5)), *and* the record names it with its actual start time and boot id.
//!
//! Device numbers printed in `/proc` differ from `stat`'s on btrfs and others, and are only ever
//! compared with each other.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use crate::descriptors::{
    Descriptors, Taking, descriptor_with_lock, descriptor_with_shared_lock, ensure_descriptors,
    own_descriptor_with_lock,
};
use crate::file_id::FileId;
use crate::kernel_locks::{
    parse_locks, parse_shared_locks, printed_device, table_of_locks, takers, takers_in,
};
use crate::lock::{Authority, OpenFile};
use crate::process::{self, Identity, Pid, Pinned, Stat};
use crate::process_table;
use crate::record::{Contents, Record};
use crate::signal::Signal;
use crate::time::Limit;
use crate::{Error, Result, roots};

/// More than a look at one process has open at a time.
const SIGHT: usize = 4;

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
    Descriptor(Taking),
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

impl Sighting {
    /// The proven holder.
    #[must_use]
    pub fn holder(&self) -> Option<&Holder> {
        match self {
            Self::Proven(holder) | Self::Ending(holder) => Some(holder),
            Self::Starting(_) | Self::Foreign(_) | Self::Invisible(_) => None,
        }
    }

    /// The pid of whoever it is, if that can be told.
    #[must_use]
    pub fn pid(&self) -> Option<Pid> {
        match self {
            Self::Proven(holder) | Self::Ending(holder) => Some(holder.pid()),
            Self::Starting(locker) | Self::Foreign(locker) => Some(locker.pid),
            Self::Invisible(pid) => *pid,
        }
    }

    /// Whether it is a gateway that only looks, as `status` does: it lets go in an instant, unless it is
    /// stopped in that.
    #[must_use]
    pub fn is_a_look(&self) -> bool {
        matches!(self, Self::Starting(locker) if locker.shared)
    }

    /// Whether it was a proven holder that has ended since.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.holder().is_some_and(Holder::has_ended)
    }
}

/// A process that has the lock, but that the record does not describe: never to be signalled.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Locker {
    /// Its pid.
    pub pid: Pid,
    /// Its command line.
    pub argv: Vec<OsString>,
    /// Its lock is a shared one: nobody holds the file, and nobody can.
    pub shared: bool,
}

impl Locker {
    /// The process with this number, as it is now.
    pub(crate) fn now(pid: Pid, shared: bool) -> Self {
        Self {
            pid,
            argv: process::argv(pid),
            shared,
        }
    }
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

    /// Who it is.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.pid().started(self.start_time)
    }

    /// How long its payload gets at an ordered stop, if it recorded that.
    #[must_use]
    pub fn stop_budget(&self) -> Option<Limit> {
        self.record()?.stop_timeout
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

    /// Whether its paths are not ours: it lives in another root directory, or we may not look.
    #[must_use]
    pub fn is_in_another_root(&self) -> bool {
        !roots::has_our_root(self.pid())
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
            || Stat::of(self.pid()).is_some_and(|stat| stat.is_leaving())
    }

    /// Whether it certainly holds no more: it has ended, or its descriptors can be read and none has
    /// the lock. That it could not be looked at just now is no such thing.
    #[must_use]
    pub fn has_let_go(&self) -> bool {
        let without = || {
            descriptor_with_lock(self.pid(), self.file, Taking::Anybodys) == Descriptors::NotLocked
        };
        self.pinned.exited() || matches!(self.way, Way::Descriptor(_)) && without()
    }

    /// The proof, made again from the start.
    #[must_use]
    pub fn still_holds(&self) -> bool {
        let same = || Stat::of_same(self.identity()).is_some();
        let holds = || match &self.way {
            Way::Descriptor(taking) => {
                descriptor_with_lock(self.pid(), self.file, *taking) == Descriptors::Locked
            }
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
    match identify_named(file, &contents)? {
        Some(who) => Ok(who),
        None => describe_locker(file, &contents, &[]),
    }
}

/// The same of a file that perhaps nobody has locked (`None`). Whether somebody has is asked
/// (`OpenFile::is_locked`) only where nobody is named or seen, and before everybody is looked through.
///
/// # Errors
/// As [`identify`], and where the lock cannot be tried.
pub fn identify_any(file: &OpenFile) -> Result<Option<Sighting>> {
    let contents = file.read_settled()?;
    match identify_named(file, &contents)? {
        None if file.is_locked()? => describe_locker(file, &contents, &[]).map(Some),
        // The table may mean another file: on btrfs all subvolumes have one device there, and each numbers
        // its files by itself.
        Some(Sighting::Invisible(_)) if !file.is_locked()? => Ok(None),
        who => Ok(who),
    }
}

/// The holder that the record names, if it can be proven: no search, and so cheap.
///
/// # Errors
/// As [`identify`].
pub fn named(file: &OpenFile) -> Result<Option<Sighting>> {
    Ok(prove_named(file, &file.read()?)?.map(proven))
}

/// Whom the record names and proof confirms, or else whom the kernel's table of locks names.
fn identify_named(file: &OpenFile, contents: &Contents) -> Result<Option<Sighting>> {
    if let Some(holder) = prove_named(file, contents)? {
        return Ok(Some(proven(holder)));
    }
    let device = printed_device(file.as_fd(), file.id().dev);
    let table = table_of_locks()?;
    let inode = file.id().inode;
    let takers = takers_in(parse_locks(&table), &device, inode);
    if !takers.is_empty() {
        return describe_locker(file, contents, &takers).map(Some);
    }
    let sharers = takers_in(parse_shared_locks(&table), &device, inode);
    let sharer = find_sharer(file.id(), &sharers)?;
    Ok(sharer.map(|pid| undescribed(Locker::now(pid, true))))
}

/// Who has the exclusive lock: one of these takers, or somebody who is found among all.
fn describe_locker(file: &OpenFile, contents: &Contents, takers: &[Pid]) -> Result<Sighting> {
    let Some(pid) = find_locker(file.id(), takers)? else {
        // Whoever can open nothing sees nobody.
        ensure_descriptors(SIGHT).map_err(cannot_look)?;
        return Ok(Sighting::Invisible(takers.first().copied()));
    };
    Ok(match prove_elsewhere(pid, file, contents)? {
        Some(holder) => proven(holder),
        None => undescribed(Locker::now(pid, false)),
    })
}

fn undescribed(locker: Locker) -> Sighting {
    if is_gateway(locker.pid) {
        Sighting::Starting(locker)
    } else {
        Sighting::Foreign(locker)
    }
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
            let evidence = Evidence::OwnDescriptorOrTable(file);
            prove(record.pid, Named::Record(record), file.id(), evidence)
        }
        Contents::Hint(hint) => {
            let named = Named::Hint(hint.start_time);
            prove(hint.pid, named, file.id(), evidence_for_hint(file)?)
        }
        Contents::Empty | Contents::Unreadable => Ok(None),
    }
}

/// Who daemonizes after it has locked its pid file and before it has written it (pidfile(3) of the BSDs)
/// is not the taker: that is believed where nobody else can have written the number.
fn evidence_for_hint(file: &OpenFile) -> Result<Evidence<'_>> {
    Ok(match file.authority()? {
        Authority::OverAll => Evidence::AnyDescriptor,
        Authority::Over(_) | Authority::OverNobody => Evidence::OwnDescriptor,
    })
}

/// A holder in a pid namespace below ours: the record has its number *there*.
fn prove_elsewhere(pid: Pid, file: &OpenFile, contents: &Contents) -> Result<Option<Holder>> {
    match contents.record() {
        Some(record) if !numbers_mean_the_same(record) && may_speak_of(record, file.id())? => {
            prove(
                pid,
                Named::Record(record),
                file.id(),
                Evidence::OwnDescriptor,
            )
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

/// What shows that a process has the lock on a file. A gateway takes its lock itself, and keeps its pid
/// when it becomes its command; who got a locked descriptor from somebody else is no holder.
#[derive(Clone, Copy)]
enum Evidence<'a> {
    /// Its descriptor, and that it took the lock.
    OwnDescriptor,
    /// The same; where its descriptors may not be read, the kernel's table of locks, which names takers.
    OwnDescriptorOrTable(&'a OpenFile),
    /// Its descriptor, whoever took the lock.
    AnyDescriptor,
}

/// The core of every proof: the process is pinned, then shown to be the one that is named, then
/// shown to have the lock on this file.
fn prove(
    pid: Pid,
    named: Named<'_>,
    file: FileId,
    evidence: Evidence<'_>,
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
            way: way(pid, file, evidence)?,
        })
    };
    let identity = identity(pid, named).map_err(|error| cannot_look_at(pid, error))?;
    Ok(identity.and_then(holder))
}

/// The start time, if this is the process that is named.
fn identity(pid: Pid, named: Named<'_>) -> io::Result<Option<u64>> {
    let Some(Stat { start_time, .. }) = Stat::look(pid)? else {
        return Ok(None);
    };
    let same = match named {
        Named::Record(record) => record.start_time == start_time && has_its_number(pid, record)?,
        Named::Hint(named) => named.is_none_or(|named| named == start_time),
    };
    Ok(same.then_some(start_time))
}

/// Whether the record's number is this process's: here, or in the namespace where it was written.
fn has_its_number(pid: Pid, record: &Record) -> io::Result<bool> {
    if numbers_mean_the_same(record) {
        return Ok(record.pid == pid);
    }
    Ok(process::pid_namespace(pid)? == Some(record.pid_namespace)
        && process::innermost_pid(pid)? == Some(record.pid))
}

/// Whether the process with this number here is the one that wrote the record, and lives. One that is on its
/// way out has let go of what it held, or is about to.
///
/// # Errors
/// It could not be looked at just now: that does not mean that it is gone.
pub(crate) fn is_writer(pid: Pid, record: &Record) -> Result<bool> {
    let goes_on = |stat: Stat| {
        let same = stat.start_time == record.start_time && has_its_number(pid, record)?;
        Ok(same && !stat.is_dead() && !stat.is_leaving())
    };
    let stat = Stat::look(pid);
    let goes_on = stat.and_then(|stat| stat.map_or(Ok(false), goes_on));
    goes_on.map_err(|error| cannot_look_at(pid, error))
}

/// Whether the process that the record names in our own pid namespace lives.
///
/// # Errors
/// As [`is_writer`].
pub(crate) fn lives(record: &Record) -> Result<bool> {
    is_writer(record.pid, record)
}

fn cannot_look_at(pid: Pid, error: io::Error) -> Error {
    Error::system(format!("cannot look at pid {pid} in /proc")).because(error)
}

/// The process as the holder of a file that it has locked itself, if the record names both.
pub(crate) fn prove_taker(pid: Pid, record: &Record, file: FileId) -> Option<Holder> {
    if !names_file(record, file) {
        return None;
    }
    prove(pid, Named::Record(record), file, Evidence::OwnDescriptor).ok()?
}

/// How it is shown that the process has the lock, if it is.
fn way(pid: Pid, file: FileId, evidence: Evidence<'_>) -> Option<Way> {
    let taking = match evidence {
        Evidence::OwnDescriptor | Evidence::OwnDescriptorOrTable(_) => Taking::Own,
        Evidence::AnyDescriptor => Taking::Anybodys,
    };
    match (descriptor_with_lock(pid, file, taking), evidence) {
        (Descriptors::Locked, _) => Some(Way::Descriptor(taking)),
        (Descriptors::Unreadable, Evidence::OwnDescriptorOrTable(opened)) => {
            let device = printed_device(opened.as_fd(), file.dev);
            let taken = takers(&device, file.inode).contains(&pid);
            taken.then_some(Way::Table { device })
        }
        (Descriptors::NotLocked | Descriptors::Unreadable, _) => None,
    }
}

/// Makes sure that processes can be pinned: where that is not so, nobody is proven.
///
/// # Errors
/// The system refuses it.
pub(crate) fn ensure_pinning() -> Result<()> {
    pin(Pid::this()).map(drop)
}

fn pin(pid: Pid) -> Result<Option<Pinned>> {
    Pinned::open_shown(pid).map_err(|error| {
        let what = format!("cannot open a pidfd on pid {pid} and find it in /proc/self/fdinfo");
        let told = Error::system(what).because(error);
        told.advise(
            "without pidfd_open(2) (Linux 5.3, and not filtered by seccomp) nobody can be proven",
        )
    })
}

/// Whether the record was written to this file; not by its path, which a container may call
/// otherwise.
fn names_file(record: &Record, file: FileId) -> bool {
    record.file() == file
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
    is_of_namespace(record, process::own_pid_namespace())
}

/// Whether the record's pids are numbers of this pid namespace, as far as either is known.
pub(crate) fn is_of_namespace(record: &Record, namespace: Option<u64>) -> bool {
    record.pid_namespace == 0 || namespace.is_none_or(|namespace| namespace == record.pid_namespace)
}

/// Whether a process is a gateway, by its executable.
pub(crate) fn is_gateway(pid: Pid) -> bool {
    let Some(path) = process::executable(pid) else {
        return false;
    };
    let exe = |who: &str| FileId::at(Path::new(&format!("/proc/{who}/exe"))).ok();
    path.file_name().is_some_and(|name| name == "gateway") || exe(&pid.to_string()) == exe("self")
}

/// One of these that has a shared lock: rather one that is no gateway, because those only look. From one
/// that is gone a child may have inherited the descriptor. In the first pid namespace the table of locks
/// names those as well, in others not (`locks_translate_pid` in the kernel's `fs/locks.c`).
fn find_sharer(file: FileId, sharers: &[Pid]) -> Result<Option<Pid>> {
    let this = Pid::this();
    let lives = |pid: &Pid| Stat::of(*pid).is_some();
    let look = |pid: &Pid| descriptor_with_shared_lock(*pid, file);
    let shares = |pid: &Pid| *pid != this && look(pid) != Descriptors::NotLocked && lives(pid);
    let living: Vec<Pid> = sharers.iter().copied().filter(shares).collect();
    let stays = living.iter().copied().find(|pid| !is_gateway(*pid));
    if stays.is_some() || sharers.iter().all(lives) {
        return Ok(stays.or(living.first().copied()));
    }
    let heir = find_other(|pid| look(pid) == Descriptors::Locked)?;
    Ok(heir.or(living.first().copied()))
}

/// A process that has the lock: the takers are looked at first, then everybody, because a child
/// may have inherited the descriptor from a taker that is gone.
fn find_locker(file: FileId, takers: &[Pid]) -> Result<Option<Pid>> {
    let this = Pid::this();
    let has = |pid: &Pid| descriptor_with_lock(*pid, file, Taking::Anybodys) == Descriptors::Locked;
    let taker = takers.iter().find(|pid| **pid != this && has(pid));
    match taker {
        Some(taker) => Ok(Some(*taker)),
        None => find_other(has),
    }
}

/// The first process but ourselves of which this is true.
fn find_other(is: impl Fn(&Pid) -> bool) -> Result<Option<Pid>> {
    let this = Pid::this();
    let everybody = process_table::all().map_err(cannot_look)?;
    Ok(everybody.into_iter().find(|pid| *pid != this && is(pid)))
}

fn cannot_look(error: io::Error) -> Error {
    Error::system("cannot look through /proc for who has the lock").because(error)
}

/// The holder that a record of our pid namespace names, proven in the second way alone: `/proc/locks`
/// prints `taker` as the taker of the lock on this file, whose device it prints as `device`. For a look
/// at many files.
pub(crate) fn named_taker(
    record: &Record,
    file: FileId,
    taker: Pid,
    device: &str,
) -> Option<Holder> {
    let named = names_file(record, file) && record.pid == taker;
    if !named || record.boot_id != process::boot_id().ok()? {
        return None;
    }
    let pinned = Pinned::open(taker).ok()??;
    Stat::of_same(record.identity()).map(|_| Holder {
        pinned,
        start_time: record.start_time,
        file,
        record: Some(Box::new(record.clone())),
        way: Way::Table {
            device: device.to_owned(),
        },
    })
}

/// The descriptor through which this process itself has the lock on the file at this path: a script
/// took it with flock(1), and then became this program.
#[must_use]
pub fn inherited_lock(path: &Path) -> Option<i32> {
    own_descriptor_with_lock(FileId::at(path).ok()?)
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
        let proven = |start_time| {
            let named = Named::Hint(Some(start_time));
            prove(pid, named, file.id(), Evidence::OwnDescriptor).unwrap()
        };
        assert!(proven(start_time + 1).is_none());
        let holder = proven(start_time).unwrap();
        assert_eq!(holder.start_time(), start_time);
        assert!(!holder.has_ended() && !holder.is_in_another_root());
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
