//! A directory of pid files, from which many are read in one go.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{Mode, OFlags, RawDir};

use crate::file_id::FileId;
use crate::kernel_locks::printed_device;
use crate::opening::open_unseen;
use crate::place::FILE_NAME;
use crate::record::{Contents, MAX_SIZE};
use crate::unusable::may_be_pid_file;
use crate::workers::{share_out, shares_of};

/// A directory of pid files, from which many are read.
pub(crate) struct Directory {
    path: PathBuf,
    opened: OwnedFd,
    /// By `st_dev`.
    devices: Mutex<HashMap<u64, Arc<str>>>,
}

/// A name that a pid file may have in a directory, and the file that had it.
pub(crate) struct Found<'d> {
    directory: &'d Directory,
    name: PathBuf,
    /// `None`: no pid file, or none for us to read.
    pub peeked: Option<Peeked>,
}

/// A pid file, and what is written in it.
#[derive(PartialEq)]
pub(crate) struct Peeked {
    pub id: FileId,
    /// What the kernel's table of locks calls its file system.
    pub device: Arc<str>,
    pub contents: Contents,
}

/// What is made of each that is found in these directories and one level below them, in shares, and in the
/// order of the paths in each. Several threads read many; `between` is called after each share.
pub(crate) fn each_found<'d, R: Send>(
    directories: &'d [Directory],
    make: impl Fn(Found<'d>) -> R + Sync,
    between: impl Fn() + Sync,
) -> Vec<Vec<R>> {
    let mut files = Vec::new();
    for directory in directories {
        files.extend(directory.files().into_iter().map(|name| (directory, name)));
    }
    let found = |(directory, name)| Found::of(directory, name);
    share_out(shares_of(files), |share| {
        let made: Vec<R> = share.into_iter().map(found).map(&make).collect();
        between();
        made
    })
}

impl<'d> Found<'d> {
    fn of(directory: &'d Directory, name: PathBuf) -> Self {
        Self {
            peeked: directory.peek(&name),
            directory,
            name,
        }
    }

    /// The absolute path.
    pub(crate) fn path(&self) -> PathBuf {
        self.directory.path.join(&self.name)
    }

    /// Whether the same is found now.
    pub(crate) fn is_still_there(&self) -> bool {
        self.directory.peek(&self.name) == self.peeked
    }
}

impl Directory {
    /// `None`: no directory, or none for us to look into.
    pub(crate) fn open(path: &Path) -> Option<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Some(Self {
            path: path.to_path_buf(),
            opened: rustix::fs::open(path, flags, Mode::empty()).ok()?,
            devices: Mutex::default(),
        })
    }

    /// `gateway.pid` and `NAME/gateway.pid`, in the order of their paths.
    fn files(&self) -> Vec<PathBuf> {
        let mut files = vec![PathBuf::from(FILE_NAME)];
        let mut buffer = Vec::with_capacity(32 * 1024);
        let mut entries = RawDir::new(&self.opened, buffer.spare_capacity_mut());
        while let Some(Ok(entry)) = entries.next() {
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name != "." && name != ".." {
                files.push(Path::new(name).join(FILE_NAME));
            }
        }
        files.sort_unstable_by(|one, other| one.as_os_str().cmp(other.as_os_str()));
        files
    }

    /// `None`: no pid file, or none for us to read.
    fn peek(&self, name: &Path) -> Option<Peeked> {
        let file = open_unseen(self.opened.as_fd(), name, OFlags::RDONLY).ok()?;
        let stat = rustix::fs::fstat(&file).ok()?;
        if !may_be_pid_file(stat.st_mode, stat.st_size.unsigned_abs()) {
            return None;
        }
        Some(Peeked {
            id: FileId::of(&stat),
            device: self.device_of(&file, stat.st_dev),
            contents: read(&file, stat.st_size.unsigned_abs())?,
        })
    }

    fn device_of(&self, file: &File, dev: u64) -> Arc<str> {
        let mut known = self.devices.lock().unwrap_or_else(PoisonError::into_inner);
        let printed = || printed_device(file.as_fd(), dev).into();
        known.entry(dev).or_insert_with(printed).clone()
    }
}

fn read(file: &File, size: u64) -> Option<Contents> {
    let mut buffer = vec![0; usize::try_from(size.min(MAX_SIZE)).ok()? + 1];
    let decode = || {
        let length = file.read_at(&mut buffer, 0)?;
        io::Result::Ok(Contents::decode(&buffer[..length]))
    };
    Contents::settled(decode).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_any_length_is_read_whole_and_what_is_no_file_is_none() {
        let room = tempfile::tempdir().unwrap();
        let at = |name: &str| room.path().join(name);
        std::fs::create_dir(at("directory")).unwrap();
        std::os::unix::fs::symlink(at("short"), at("link")).unwrap();
        std::fs::write(at("short"), "77\n").unwrap();
        let padding = "x".repeat(9000);
        let long = format!("{{\"pid\":78,\"argv\":[\"{padding}\"]}}");
        std::fs::write(at("long"), long).unwrap();
        std::fs::write(at("large"), vec![b'1'; 70_000]).unwrap();
        let directory = Directory::open(room.path()).unwrap();
        let pid = |name: &str| match directory.peek(Path::new(name))?.contents {
            Contents::Hint(hint) => Some(hint.pid.get()),
            _ => None,
        };
        assert_eq!((pid("short"), pid("long")), (Some(77), Some(78)));
        for name in ["directory", "link", "large", "missing"] {
            assert_eq!(pid(name), None, "{name}");
        }
    }
}
