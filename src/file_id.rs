//! Which file it is: what the kernel knows of one, opened or not.

use std::io;
use std::path::Path;

use rustix::fs::{AtFlags, CWD};
use rustix::io::Errno;

/// A file's identity on this machine while it exists: device and inode.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct FileId {
    /// `st_dev`
    pub dev: u64,
    /// `st_ino`
    pub inode: u64,
}

impl FileId {
    /// The file at a path, symbolic links followed. The file itself is not asked, so that a dead server
    /// behind it is not waited for; one behind a directory on the way may be.
    ///
    /// # Errors
    /// `statx(2)` fails: there is nothing, or a directory on the way may not be searched.
    pub fn at(path: &Path) -> io::Result<Self> {
        Ok(Features::at(path)?.id)
    }

    pub(crate) fn of(stat: &rustix::fs::Stat) -> Self {
        Self {
            dev: stat.st_dev,
            inode: stat.st_ino,
        }
    }
}

/// What the kernel knows of a file, opened or not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Features {
    pub id: FileId,
    /// Type and permissions: `st_mode`.
    pub mode: u32,
    pub size: u64,
    /// How many names it has: none, if it was removed.
    pub links: u64,
    pub owner: u32,
}

impl Features {
    /// Of the file at a path, symbolic links followed. `AT_STATX_DONT_SYNC`: a server on the network or
    /// a program (FUSE) is not asked whether what is known is still true. It might never answer, and
    /// what a file is does not change.
    pub(crate) fn at(path: &Path) -> io::Result<Self> {
        use rustix::fs::{StatxFlags, makedev, statx};
        let known = match statx(CWD, path, AtFlags::STATX_DONT_SYNC, StatxFlags::BASIC_STATS) {
            // A filter of system calls (seccomp(2)) may not know it.
            Err(Errno::NOSYS | Errno::PERM) => return Ok(Self::of(&rustix::fs::stat(path)?)),
            other => other?,
        };
        Ok(Self {
            id: FileId {
                dev: makedev(known.stx_dev_major, known.stx_dev_minor),
                inode: known.stx_ino,
            },
            mode: known.stx_mode.into(),
            size: known.stx_size,
            links: known.stx_nlink.into(),
            owner: known.stx_uid,
        })
    }

    pub(crate) fn of(stat: &rustix::fs::Stat) -> Self {
        Self {
            id: FileId::of(stat),
            mode: stat.st_mode,
            size: stat.st_size.unsigned_abs(),
            #[allow(
                clippy::useless_conversion,
                reason = "its width differs between architectures"
            )]
            links: stat.st_nlink.into(),
            owner: stat.st_uid,
        }
    }
}
