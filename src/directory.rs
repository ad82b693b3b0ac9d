//! The pid file's directory: made where it is missing.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD, Mode, OFlags, RenameFlags, Stat};
use rustix::io::Errno;
use rustix::rand::GetRandomFlags;

use crate::unusable::{SYSTEM_PLACE, explain_part};
use crate::{Error, Result, owner};

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
    let mut at = opened.map_err(|errno| unusable(above, path, errno))?;
    for next in missing.iter().rev() {
        // From one to the next: who may rename what is above it leads us nowhere else by that.
        let name = next
            .components()
            .next_back()
            .map_or(*next, |name| Path::new(name.as_os_str()));
        at = enter_or_make(at.as_fd(), name, mode_below(directory))
            .map_err(|errno| unusable(next, path, errno))?;
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
/// hide what is in it.
fn make(at: BorrowedFd<'_>, name: &Path, mode: Mode) -> Result<OwnedFd, Errno> {
    let above = rustix::fs::fstat(at)?;
    if rustix::process::geteuid().is_root() && above.st_uid != 0 {
        match make_for_somebody(at, &above, name, mode) {
            // A file system that cannot rename so: it stays root's.
            Err(Errno::INVAL | Errno::NOSYS) => {}
            made => return made,
        }
    }
    rustix::fs::mkdirat(at, name, mode)?;
    let made = enter(at, name)?;
    set_mode(&made, mode);
    Ok(made)
}

/// What root makes in somebody's directory gets its name when it is theirs: whoever comes in between finds
/// nothing yet, and makes one as well.
fn make_for_somebody(
    at: BorrowedFd<'_>,
    above: &Stat,
    name: &Path,
    mode: Mode,
) -> Result<OwnedFd, Errno> {
    let mut random = [0; 8];
    rustix::rand::getrandom(&mut random, GetRandomFlags::empty())?;
    let hidden = format!(".gateway-{:016x}", u64::from_ne_bytes(random));
    rustix::fs::mkdirat(at, &hidden, mode)?;
    let made = enter(at, Path::new(&hidden))?;
    // They may rename in there: another one of root's in its place is not theirs to have.
    if is_empty(&made) {
        set_mode(&made, mode);
        owner::give(&made, above, Access::WRITE_OK | Access::EXEC_OK)?;
    }
    match rustix::fs::renameat_with(at, &hidden, at, name, RenameFlags::NOREPLACE) {
        Ok(()) => Ok(made),
        Err(errno) => {
            let _ = rustix::fs::unlinkat(at, &hidden, AtFlags::REMOVEDIR);
            Err(errno)
        }
    }
}

/// O_PATH, because a umask may have taken the right to read, too; fchmod(2) refuses such a descriptor, and
/// its link leads to nothing else (proc_pid_fd(5)).
fn set_mode(made: &OwnedFd, mode: Mode) {
    let ours = |stat: &Stat| stat.st_uid == rustix::process::geteuid().as_raw();
    let differs = |stat: &Stat| Mode::from_raw_mode(stat.st_mode) != mode;
    if rustix::fs::fstat(made).is_ok_and(|stat| ours(&stat) && differs(&stat)) {
        let _ = rustix::fs::chmod(link_of(made), mode);
    }
}

fn is_empty(directory: &OwnedFd) -> bool {
    std::fs::read_dir(link_of(directory)).is_ok_and(|mut inside| inside.next().is_none())
}

fn link_of(directory: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", directory.as_raw_fd())
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
    let mut at = enter(CWD, &walked).map_err(|errno| unusable(&walked, path, errno))?;
    for part in directory.components().skip(1) {
        let part = Path::new(part.as_os_str());
        walked.push(part);
        at = match enter_or_make(at.as_fd(), part, mode) {
            // With O_PATH a link is opened itself, and then is no directory (open(2), O_NOFOLLOW).
            Err(Errno::NOTDIR | Errno::LOOP) if walked.is_symlink() => return Ok(None),
            entered => entered.map_err(|errno| unusable(&walked, path, errno))?,
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

fn unusable(directory: &Path, pid_file: &Path, errno: Errno) -> Error {
    if !matches!(errno, Errno::EXIST | Errno::NOTDIR | Errno::LOOP) {
        return explain_part("cannot create the directory", directory, pid_file, errno);
    }
    Error::pid_file("cannot use the directory", directory)
        .because(io::Error::other(
            "it is a symbolic link that leads nowhere, or no directory",
        ))
        .advise("name another path with -f PATH")
}
