//! The pid file's directory: made where it is missing.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;

use crate::unusable::{SYSTEM_PLACE, explain};
use crate::{Error, Result};

/// Makes the missing directories: open to all below `/var/lib/gateway`, private elsewhere, and each of
/// whoever owns the one above it.
///
/// # Errors
/// One cannot be made, or something else stands there.
pub(crate) fn create_directories(path: &Path) -> Result<()> {
    let Some(directory) = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
    else {
        return Ok(());
    };
    let missing: Vec<&Path> = directory
        .ancestors()
        .take_while(|ancestor| !ancestor.as_os_str().is_empty() && !ancestor.exists())
        .collect();
    let Some(first) = missing.last() else {
        return Ok(());
    };
    let above = first
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = rustix::fs::open(above, flags, Mode::empty());
    let mut at = opened.map_err(|errno| unusable(above, errno))?;
    for next in missing.iter().rev() {
        // From one to the next: who may rename what is above it leads us nowhere else by that.
        let name = next
            .components()
            .next_back()
            .map_or(*next, |name| Path::new(name.as_os_str()));
        at = enter_or_make(at.as_fd(), name, mode_below(directory))
            .map_err(|errno| unusable(next, errno))?;
    }
    Ok(())
}

fn mode_below(directory: &Path) -> Mode {
    Mode::from_raw_mode(if directory.starts_with(SYSTEM_PLACE) {
        0o755
    } else {
        0o700
    })
}

/// Makes a directory with this mode, whatever the umask: one of the system that others cannot pass would
/// hide what is in it. What root makes in somebody's directory is theirs: a service's user could not use
/// root's, nor anything else of theirs that is to lie beside it.
///
/// Mode and owner are set on what was made, not on what is at the path then: whoever may rename in there
/// could put a link to anybody's file in its place, or a directory of root's that is full.
fn make(at: BorrowedFd<'_>, name: &Path, mode: Mode) -> Result<OwnedFd, Errno> {
    rustix::fs::mkdirat(at, name, mode)?;
    // O_PATH, because a umask may have taken the right to read, too; fchmod(2) refuses such a
    // descriptor, and its link leads to nothing else (proc_pid_fd(5)).
    let made = enter(at, name)?;
    let link = format!("/proc/self/fd/{}", made.as_raw_fd());
    let us = rustix::process::geteuid();
    let is_empty = || !std::fs::read_dir(&link).is_ok_and(|mut inside| inside.next().is_some());
    let stat = rustix::fs::fstat(&made)?;
    if stat.st_uid == us.as_raw() && is_empty() {
        if Mode::from_raw_mode(stat.st_mode) != mode {
            let _ = rustix::fs::chmod(&link, mode);
        }
        if us.is_root() {
            // It stays ours where a server lets root give nothing, or the owner has no number here.
            let _ = give_to_the_owner_of(at, &made);
        }
    }
    Ok(made)
}

fn give_to_the_owner_of(above: BorrowedFd<'_>, made: &OwnedFd) -> Result<(), Errno> {
    let owner = rustix::fs::fstat(above)?;
    if owner.st_uid == 0 {
        return Ok(());
    }
    let uid = rustix::fs::Uid::from_raw(owner.st_uid);
    let gid = rustix::fs::Gid::from_raw(owner.st_gid);
    rustix::fs::chownat(made, "", Some(uid), Some(gid), AtFlags::EMPTY_PATH)
}

/// Opens a directory, and no symbolic link to one.
fn enter(at: BorrowedFd<'_>, name: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(at, name, flags, Mode::empty())
}

/// Opens the directory of a path in canonical form, and makes what is missing of it. Such a path has no
/// symbolic link on the way. `None`: by now it has one, which is not followed.
///
/// # Errors
/// A part cannot be opened or made, or is no directory.
pub(crate) fn directory_without_links(path: &Path) -> Result<Option<OwnedFd>> {
    let directory = path.parent().unwrap_or(path);
    let mode = mode_below(directory);
    let mut walked = PathBuf::from("/");
    let mut at = enter(CWD, &walked).map_err(|errno| unusable(&walked, errno))?;
    for part in directory.components().skip(1) {
        let part = Path::new(part.as_os_str());
        walked.push(part);
        at = match enter_or_make(at.as_fd(), part, mode) {
            // With O_PATH a link is opened itself, and then is no directory (open(2), O_NOFOLLOW).
            Err(Errno::NOTDIR | Errno::LOOP) if walked.is_symlink() => return Ok(None),
            entered => entered.map_err(|errno| unusable(&walked, errno))?,
        };
    }
    Ok(Some(at))
}

fn enter_or_make(at: BorrowedFd<'_>, name: &Path, mode: Mode) -> Result<OwnedFd, Errno> {
    match enter(at, name) {
        Err(Errno::NOENT) => {}
        other => return other,
    }
    match make(at, name, mode) {
        Err(Errno::EXIST) => enter(at, name),
        made => made,
    }
}

fn unusable(directory: &Path, errno: Errno) -> Error {
    if !matches!(errno, Errno::EXIST | Errno::NOTDIR | Errno::LOOP) {
        return explain("cannot create the directory", directory, errno);
    }
    Error::pid_file("cannot use the directory", directory)
        .because(io::Error::other(
            "it is a symbolic link that leads nowhere, or no directory",
        ))
        .advise("name another path with -f PATH")
}
