//! Opening a pid file so that nothing happens to anything else: no link is followed, nobody is waited for,
//! and a device is not touched.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD, Mode, OFlags, ResolveFlags, statat};
use rustix::io::Errno;

use crate::file_id::FileId;
use crate::procfs::PROC_NEEDED;
use crate::text::printable;
use crate::{Error, Result, owner};

/// A file, and whether it is known that no symbolic link is on the way to it.
pub(crate) struct Opened {
    pub file: File,
    pub straight: bool,
}

impl From<File> for Opened {
    fn from(file: File) -> Self {
        Self {
            file,
            straight: false,
        }
    }
}

/// Opens what a path that somebody typed leads to.
pub(crate) fn open_typed(path: &Path, access: OFlags) -> Result<Opened, Errno> {
    refuse_device(CWD, path)?;
    let flags = access | FLAGS | OFlags::NOATIME;
    let straight = ResolveFlags::NO_SYMLINKS;
    match retry(|| rustix::fs::openat2(CWD, path, flags, Mode::empty(), straight)) {
        Ok(file) => Ok(Opened {
            file: file.into(),
            straight: true,
        }),
        // There is a link, or this kernel or a filter of system calls (seccomp(2)) has no openat2(2);
        // what else there may be is told again.
        Err(_) => open_unseen(CWD, path, access).map(Opened::from),
    }
}

pub(crate) fn open(at: BorrowedFd<'_>, path: &Path, access: OFlags) -> Result<File, Errno> {
    refuse_device(at, path)?;
    open_unseen(at, path, access)
}

/// A device may do something when it is opened, so it is looked at first.
fn refuse_device(at: BorrowedFd<'_>, path: &Path) -> Result<(), Errno> {
    let stat = rustix::fs::statat(at, path, AtFlags::SYMLINK_NOFOLLOW)?;
    if rustix::fs::FileType::from_raw_mode(stat.st_mode).is_char_device() {
        return Err(Errno::NXIO);
    }
    Ok(())
}

const FLAGS: OFlags = OFlags::CLOEXEC
    .union(OFlags::NOFOLLOW)
    .union(OFlags::NONBLOCK)
    .union(OFlags::NOCTTY);

/// Never follows a link, never waits, and leaves no mark where that is allowed.
pub(crate) fn open_unseen(at: BorrowedFd<'_>, path: &Path, access: OFlags) -> Result<File, Errno> {
    let flags = access | FLAGS;
    let open = |flags| retry(|| rustix::fs::openat(at, path, flags, Mode::empty())).map(File::from);
    // Looking changes nothing, not even the time of the last look; only the owner may ask for that
    // (open(2), O_NOATIME: EPERM for anybody else without CAP_FOWNER).
    match open(flags | OFlags::NOATIME) {
        Err(Errno::PERM) => open(flags),
        other => other,
    }
}

pub(crate) fn create(at: BorrowedFd<'_>, path: &Path) -> Result<File, Errno> {
    let mode = Mode::RUSR | Mode::WUSR;
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = File::from(retry(|| rustix::fs::openat(at, path, flags, mode))?);
    // An odd umask may have taken our own bits: 0600 means 0600.
    if rustix::fs::fstat(&file).is_ok_and(|stat| stat.st_mode & 0o777 != 0o600) {
        rustix::fs::fchmod(&file, mode)?;
    }
    if rustix::process::geteuid().is_root() {
        give_to_the_owner_of_the_directory(&file, at, path)?;
    }
    Ok(file)
}

fn give_to_the_owner_of_the_directory(
    file: &File,
    at: BorrowedFd<'_>,
    path: &Path,
) -> Result<(), Errno> {
    let Some(name) = path.file_name() else {
        return Ok(());
    };
    let named = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let parent = named.unwrap_or(Path::new("."));
    let directory = rustix::fs::openat(at, parent, flags, Mode::empty())?;
    let parent = rustix::fs::fstat(&directory)?;
    // Whoever may rename the directories above could lead us from one to another in between: only
    // the one that has this very file counts.
    let there = statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW);
    let is_ours = |file| there.is_ok_and(|there| FileId::of(&there) == FileId::of(&file));
    if parent.st_uid == 0 || !is_ours(rustix::fs::fstat(file)?) {
        return Ok(());
    }
    owner::give(file, &parent, Access::READ_OK | Access::WRITE_OK)
}

fn retry<T>(mut call: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            other => return other,
        }
    }
}

/// Whether it is written in canonical form: that is then the file's own, if no link is on the way.
pub(crate) fn is_plain(path: &Path) -> bool {
    let mut names = path.components().skip(1);
    let written: PathBuf = path.components().collect();
    path.is_absolute()
        && written.as_os_str() == path.as_os_str()
        && names.all(|name| matches!(name, Component::Normal(_)))
}

/// What our descriptor is called by the kernel, so that two spellings of one path are one path.
pub(crate) fn canonical_path(fd: BorrowedFd<'_>, typed: &Path, removed: bool) -> Result<PathBuf> {
    let link =
        std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).map_err(|error| {
            Error::system(format!(
                "cannot read /proc/self/fd, to find the real path of {}",
                printable(typed.as_os_str())
            ))
            .because(error)
            .advise(PROC_NEEDED)
        })?;
    if !removed {
        return Ok(link);
    }
    // Removed since it was opened: the comparison after locking finds that out.
    let bytes = link.as_os_str().as_bytes();
    Ok(PathBuf::from(OsStr::from_bytes(
        bytes.strip_suffix(b" (deleted)").unwrap_or(bytes),
    )))
}
