//! What a process has open and locked, as its `/proc/PID/fdinfo` and `/proc/PID/fd` tell.
//!
//! `fdinfo` is read before anything is looked at through a descriptor, and nothing is asked of the
//! file itself: on a dead network mount the answer may never come.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, fcntl_dupfd_cloexec};

use crate::file_id::{Features, FileId};
use crate::kernel_locks::{Flock, exclusive_flock, fdinfo_has_lease, has_shared_flock};
use crate::mounts::{MountId, Mounts};
use crate::process::{Pid, Stat};
use crate::procfs::{is_shortage, read_bounded, unless_absent};
use crate::record::{self, Contents};
use crate::unusable::may_be_pid_file;

/// Whose lock counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Taking {
    /// One that the process took itself. A descriptor can be passed to anybody (unix(7),
    /// `SCM_RIGHTS`), the lock on it with it; but that makes nobody the one who called `flock(2)`.
    Own,
    /// Whoever took it.
    Anybodys,
}

/// What a process's descriptors say of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Descriptors {
    Locked,
    NotLocked,
    Unreadable,
}

/// Whether a process has this very file open with the exclusive lock on it.
pub(crate) fn descriptor_with_lock(pid: Pid, file: FileId, taking: Taking) -> Descriptors {
    look_with(pid, file, &|fdinfo| {
        exclusive_flock(fdinfo).is_some_and(|flock| counts(flock, pid, taking))
    })
}

/// Whether a process has this very file open with a shared lock on it.
pub(crate) fn descriptor_with_shared_lock(pid: Pid, file: FileId) -> Descriptors {
    look_with(pid, file, &has_shared_flock)
}

fn look_with(pid: Pid, file: FileId, has_lock: &dyn Fn(&[u8]) -> bool) -> Descriptors {
    let look = |folder: &str| look_through(folder, file, has_lock);
    if let Some(answer) = look(&format!("/proc/{pid}")) {
        return answer;
    }
    // Nothing is open, or the first thread has ended and has taken its view of what is open along
    // (`exit_files` in the kernel's `kernel/exit.c`): the others have the same descriptors.
    let others = threads_without_the_first(pid);
    if others.is_empty() {
        return Descriptors::NotLocked;
    }
    let answer = others.iter().find_map(|folder| look(folder));
    answer.unwrap_or(Descriptors::Unreadable)
}

fn counts(flock: Flock, pid: Pid, taking: Taking) -> bool {
    taking == Taking::Anybodys || flock.taker == Some(pid)
}

/// `None`: nothing is open there.
fn look_through(
    folder: &str,
    file: FileId,
    has_lock: &dyn Fn(&[u8]) -> bool,
) -> Option<Descriptors> {
    let Ok(entries) = std::fs::read_dir(format!("{folder}/fdinfo")) else {
        return Some(Descriptors::Unreadable);
    };
    let mut answer = None;
    for entry in entries {
        match entry.and_then(|entry| is_locked_file(folder, &entry.file_name(), file, has_lock)) {
            Ok(true) => return Some(Descriptors::Locked),
            Ok(false) => answer = answer.or(Some(Descriptors::NotLocked)),
            // Closed since it was listed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                answer = answer.or(Some(Descriptors::NotLocked));
            }
            Err(_) => answer = Some(Descriptors::Unreadable),
        }
    }
    answer
}

fn is_locked_file(
    folder: &str,
    fd: &OsStr,
    file: FileId,
    has_lock: &dyn Fn(&[u8]) -> bool,
) -> io::Result<bool> {
    let fd = fd.to_string_lossy();
    Ok(has_lock(&read_fdinfo(folder, &fd)?)
        && FileId::at(Path::new(&format!("{folder}/fd/{fd}")))? == file)
}

/// The descriptor through which this very process has the lock on a file, whoever took it.
pub(crate) fn own_descriptor_with_lock(file: FileId) -> Option<i32> {
    let folder = "/proc/self";
    let entries = std::fs::read_dir(format!("{folder}/fdinfo")).ok()?;
    entries.flatten().find_map(|entry| {
        let name = entry.file_name();
        let has_lock = |fdinfo: &[u8]| exclusive_flock(fdinfo).is_some();
        let locked = is_locked_file(folder, &name, file, &has_lock).unwrap_or(false);
        locked.then(|| name.to_str()?.parse().ok())?
    })
}

fn read_fdinfo(folder: &str, fd: &str) -> io::Result<Vec<u8>> {
    read_bounded(&format!("{folder}/fdinfo/{fd}"), 64 * 1024)
}

/// The folders of the threads of a process that lives on without its first one.
fn threads_without_the_first(pid: Pid) -> Vec<String> {
    let lost = |stat: &Stat| stat.threads > 1 && (stat.state == b'Z' || stat.is_exiting());
    if !Stat::of(pid).as_ref().is_some_and(lost) {
        return Vec::new();
    }
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task"));
    let names = tasks.into_iter().flatten().flatten();
    names
        .map(|task| task.path().to_string_lossy().into_owned())
        .collect()
}

/// A file that a process has open, with an exclusive lock on it that the process took itself, and
/// that may be a pid file by what is known without opening it.
#[derive(Debug)]
pub(crate) struct LockedFile {
    pub pid: Pid,
    pub features: Features,
    /// What the kernel calls it; nothing, if that is longer than a path may be.
    pub link: PathBuf,
    /// The mount it was opened in.
    mount: Option<MountId>,
    through: PathBuf,
}

/// Every such file of a process.
///
/// # Errors
/// The process could not be looked at just now. One that is gone, or not ours to see, has none.
pub(crate) fn locked_files(pid: Pid) -> io::Result<Vec<LockedFile>> {
    let mut found = Vec::new();
    let Some(entries) = unless_absent(std::fs::read_dir(format!("/proc/{pid}/fd")))? else {
        return Ok(found);
    };
    for entry in entries {
        let Some(entry) = unless_absent(entry)? else {
            continue;
        };
        found.extend(unless_absent(locked_file(pid, &entry.file_name()))?.flatten());
    }
    Ok(found)
}

fn locked_file(pid: Pid, fd: &OsStr) -> io::Result<Option<LockedFile>> {
    let fd = fd.to_string_lossy();
    let folder = format!("/proc/{pid}");
    let through = PathBuf::from(format!("{folder}/fd/{fd}"));
    // Sockets, pipes and the like have no path; asking for it is cheap and touches nothing.
    let Some(link) = link_text(&through)?.filter(|link| link.is_absolute()) else {
        return Ok(None);
    };
    let fdinfo = read_fdinfo(&folder, &fd)?;
    let own = exclusive_flock(&fdinfo).is_some_and(|flock| counts(flock, pid, Taking::Own));
    // To open a file somebody has a lease on would break the lease, and end or hold up (fcntl(2)).
    if !own || fdinfo_has_lease(&fdinfo) {
        return Ok(None);
    }
    let features = match Features::at(&through) {
        // Its file system has broken down.
        Err(error) if !is_shortage(&error) => return Ok(None),
        known => known?,
    };
    Ok(
        may_be_pid_file(features.mode, features.size).then(|| LockedFile {
            pid,
            features,
            link,
            mount: MountId::in_fdinfo(&fdinfo),
            through,
        }),
    )
}

/// A path that is too long to be printed (ENAMETOOLONG) is somebody's own affair; `/` stands for it.
fn link_text(link: &Path) -> io::Result<Option<PathBuf>> {
    match std::fs::read_link(link) {
        Err(error) if error.raw_os_error() == Some(libc::ENAMETOOLONG) => Ok(Some("/".into())),
        other => other.map(Some),
    }
}

impl LockedFile {
    /// What is written in it, read through the process's descriptor. Waits for whoever answers for the
    /// file where that is not this kernel: see [`LockedFile::is_remote`].
    ///
    /// # Errors
    /// It cannot be read. ENOENT: the process has closed it; the number may be another file's now.
    pub(crate) fn read(&self) -> io::Result<Contents> {
        use std::io::Read;
        let pinned = pin(&self.through)?;
        if FileId::of(&rustix::fs::fstat(&pinned)?) != self.features.id {
            return Err(rustix::io::Errno::NOENT.into());
        }
        let mut bytes = Vec::new();
        let file = open_pinned(&pinned)?;
        file.take(record::MAX_SIZE + 1).read_to_end(&mut bytes)?;
        Ok(Contents::decode(&bytes))
    }

    /// Whether to open it would ask somebody else, who may be dead: a server, or a program (FUSE).
    /// A mount that neither we nor the process have is taken for one: dead ones are detached
    /// (`umount -l`) while they are in use.
    pub(crate) fn is_remote(&self, ours: &Mounts) -> bool {
        let remote = |id| {
            ours.is_remote(id)
                .or_else(|| self.is_remote_there(id, ours))
        };
        self.mount.and_then(remote).unwrap_or(true)
    }

    /// By the process's own table, of which whoever has a user namespace may be the author.
    fn is_remote_there(&self, id: MountId, ours: &Mounts) -> Option<bool> {
        let theirs = Mounts::of(self.pid);
        if self.is_in_our_user_namespace() {
            theirs.is_remote(id)
        } else {
            theirs.is_remote_to(ours, id)
        }
    }

    fn is_in_our_user_namespace(&self) -> bool {
        let space = |who: &str| std::fs::read_link(format!("/proc/{who}/ns/user")).ok();
        let theirs = space(&self.pid.to_string());
        theirs.is_some() && theirs == space("self")
    }

    /// Whether it was removed from this path. The kernel says so: a file may have ` (deleted)` in its
    /// very name, but then it has that name.
    pub(crate) fn was_removed_from(&self, path: &Path) -> bool {
        let removed = [path.as_os_str().as_bytes(), b" (deleted)"].concat();
        self.features.links == 0 && self.link.as_os_str().as_bytes() == removed
    }

    /// Whether its link tells a path in which nobody but an administrator of this machine had a hand:
    /// who has a user namespace of their own may mount anything anywhere (mount_namespaces(7)).
    pub(crate) fn has_a_true_path(&self) -> bool {
        let mounted = |id| Mounts::of(self.pid).is_remote(id).is_some();
        self.is_in_our_user_namespace() && self.mount.is_some_and(mounted)
    }
}

/// Makes sure that our limit (RLIMIT_NOFILE) lets us open so many files more, just now.
pub(crate) fn ensure_descriptors(count: usize) -> io::Result<()> {
    let one = pin(Path::new("/proc/self"))?;
    let copy = |_| fcntl_dupfd_cloexec(&one, 0);
    let copies: Result<Vec<OwnedFd>, Errno> = (1..count).map(copy).collect();
    copies.map(drop).map_err(io::Error::from)
}

/// The file behind a link, without opening it: a device may do something when it is opened (open(2),
/// O_PATH).
fn pin(link: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(
        link,
        OFlags::PATH | OFlags::CLOEXEC,
        Mode::empty(),
    )?)
}

/// Leaves the time of the last look alone where that is allowed.
fn open_pinned(file: &OwnedFd) -> io::Result<File> {
    let link = format!("/proc/self/fd/{}", file.as_raw_fd());
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let opened = rustix::fs::open(&link, flags | OFlags::NOATIME, Mode::empty())
        .or_else(|_| rustix::fs::open(&link, flags, Mode::empty()))?;
    Ok(opened.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The holder's directories, opened to be watched, took the number of a lock that was let go: a
    /// start ended with "Is a directory".
    #[test]
    fn a_number_that_was_handed_on_is_not_read() {
        let room = tempfile::tempdir().unwrap();
        let path = room.path().join("gateway.pid");
        std::fs::write(&path, "42\n").unwrap();
        let file = File::open(&path).unwrap();
        assert!(crate::sys::try_flock(&file).unwrap());
        let found = locked_files(Pid::this()).unwrap();
        let ours = found.iter().find(|found| found.link == path).unwrap();
        assert!(matches!(ours.read().unwrap(), Contents::Hint(_)));
        let mut number = OwnedFd::from(file);
        let directory = File::open(room.path()).unwrap();
        rustix::io::dup2(&directory, &mut number).unwrap();
        let read = ours.read().map(|_| ());
        assert!(unless_absent(read).unwrap().is_none());
    }
}
