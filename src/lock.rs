//! The flock: open the pid file, try the lock, check that the path still names the file.
//!
//! The file is never unlinked or renamed, and is not written before the lock is held.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, OFlags};
use rustix::io::Errno;

use crate::directory::{create_directories, directory_without_links};
use crate::file_id::FileId;
use crate::opening::{Opened, canonical_path, create, is_plain, open, open_typed};
use crate::procfs::beginning_of;
use crate::record::{Contents, MAX_SIZE, begins_as_record};
use crate::unusable::{ANOTHER_PATH, MAKE_ROOM, explain, refuse_unlikely};
use crate::{Error, Result, sys};

/// Whose processes a file's contents may be believed to name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Authority {
    /// Anybody's: only we could have written it.
    OverAll,
    /// Only this user's, who alone could have written it.
    Over(u32),
    /// Nobody's: others than its owner could have written it.
    OverNobody,
}

/// The pid file, open for reading and writing, not locked by us.
#[derive(Debug)]
pub struct OpenFile {
    file: File,
    id: FileId,
    path: PathBuf,
}

/// The pid file with the exclusive lock on our open file description.
///
/// Closing frees it; there is no other way, because unlocking explicitly would also free it for a
/// description that somebody inherited.
#[derive(Debug)]
pub struct Locked(OpenFile);

/// The answer to an attempt.
#[derive(Debug)]
pub enum Try<Tried = OpenFile> {
    /// The lock is ours.
    Locked(Locked),
    /// Another open file description has one: this is given back.
    Busy(Tried),
}

impl OpenFile {
    /// Opens the pid file read-write, and creates it and its directory where there is none.
    ///
    /// First without `O_CREAT`: with it, `fs.protected_regular` refuses even root an existing file
    /// of another user in a sticky directory (proc_sys_fs(5)). Never follows a symbolic link at the
    /// last component, never blocks.
    ///
    /// # Errors
    /// `ErrorKind::PidFile`: missing permissions, not a regular file, an executable or large file
    /// (a mistyped path must not cost anybody a program), no file system to write to.
    pub fn open_or_create(path: &Path) -> Result<Self> {
        let mut errno = Errno::AGAIN;
        // Each round lost means that somebody else made or removed the file in between.
        for _ in 0..1000 {
            match open_typed(path, OFlags::RDWR) {
                Err(Errno::NOENT) => {}
                other => return Self::checked(other, path, "cannot open"),
            }
            create_directories(path)?;
            match create(CWD, path) {
                Err(lost @ (Errno::EXIST | Errno::NOENT)) => errno = lost,
                other => return Self::checked(other, path, "cannot create"),
            }
        }
        Err(explain("cannot create", path, errno))
    }

    /// The same for a path in canonical form, which must lead where it led: no symbolic link is
    /// followed anywhere on it. `None`: there is one now, or the directory was moved just now.
    ///
    /// # Errors
    /// As `open_or_create`.
    pub fn reopen_or_create(path: &Path) -> Result<Option<Self>> {
        let Some(directory) = directory_without_links(path)? else {
            return Ok(None);
        };
        let name = Path::new(path.file_name().unwrap_or_default());
        let mut errno = Errno::AGAIN;
        for _ in 0..1000 {
            let opened = match open(directory.as_fd(), name, OFlags::RDWR) {
                Err(Errno::NOENT) => create(directory.as_fd(), name),
                other => other,
            };
            match opened {
                Err(lost @ Errno::EXIST) => errno = lost,
                other => {
                    let file = Self::checked(other, path, "cannot open")?;
                    return Ok((file.path == path).then_some(file));
                }
            }
        }
        Err(explain("cannot create", path, errno))
    }

    /// Opens an existing pid file for reading only. `None`: there is none.
    ///
    /// # Errors
    /// As `open_or_create`.
    pub fn open_existing(path: &Path) -> Result<Option<Self>> {
        match open_typed(path, OFlags::RDONLY) {
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            other => Self::checked(other, path, "cannot open").map(Some),
        }
    }

    fn checked<T: Into<Opened>>(
        opened: Result<T, Errno>,
        path: &Path,
        action: &str,
    ) -> Result<Self> {
        let opened = opened.map_err(|errno| explain(action, path, errno))?;
        let Opened { file, straight } = opened.into();
        let stat = rustix::fs::fstat(&file)
            .map_err(|errno| Error::pid_file("cannot stat", path).because(errno))?;
        refuse_unlikely(path, &file, &stat)?;
        let path = if straight && is_plain(path) {
            path.to_path_buf()
        } else {
            canonical_path(file.as_fd(), path, stat.st_nlink == 0)?
        };
        let file = Self {
            file,
            id: FileId::of(&stat),
            path,
        };
        if stat.st_nlink > 1 {
            file.refuse_strange_link()?;
        }
        Ok(file)
    }

    /// A hard link may lead to anybody's file: one that has another name is used only if it is
    /// empty or was written as a pid file, be it only in part.
    fn refuse_strange_link(&self) -> Result<()> {
        let bytes = self.bytes()?;
        match Contents::decode(&bytes) {
            Contents::Unreadable if !begins_as_record(&bytes) => {
                Err(Error::pid_file("will not use", &self.path)
                    .because(io::Error::other(
                        "it has another name, too (a hard link), and was not written by us",
                    ))
                    .advise(ANOTHER_PATH))
            }
            _ => Ok(()),
        }
    }

    /// Tries the lock. Never waits.
    ///
    /// # Errors
    /// Every errno of `flock(2)` but "would block" and "interrupted": without a lock nothing runs.
    pub fn try_lock(self) -> Result<Try> {
        match sys::try_flock(&self.file) {
            Ok(true) => Ok(Try::Locked(Locked(self))),
            Ok(false) => Ok(Try::Busy(self)),
            Err(error) => Err(self.cannot_lock(error)),
        }
    }

    /// Whether somebody has the exclusive lock, asked by taking a shared one for an instant.
    ///
    /// # Errors
    /// As `try_lock`.
    pub fn is_locked(&self) -> Result<bool> {
        let Ok(probe) = File::open(format!("/proc/self/fd/{}", self.file.as_raw_fd())) else {
            return Ok(true); // cannot tell: the careful answer
        };
        sys::try_flock_shared(&probe)
            .map(|free| !free)
            .map_err(|error| self.cannot_lock(error))
    }

    fn cannot_lock(&self, error: io::Error) -> Error {
        Error::pid_file("cannot lock", &self.path)
            .because(error)
            .advise(
                "this file system may have no flock: put the pid file on a local one, with -f PATH",
            )
    }

    /// Reads what is written. Not locked, and so possibly torn: see [`OpenFile::read_settled`].
    ///
    /// # Errors
    /// Reading fails (EIO and the like).
    pub fn read(&self) -> Result<Contents> {
        Ok(Contents::decode(&self.bytes()?))
    }

    /// Reads until it makes sense, a few times: the writer may be in the middle of it.
    ///
    /// # Errors
    /// As `read`.
    pub fn read_settled(&self) -> Result<Contents> {
        Contents::settled(|| self.read())
    }

    /// The bytes as they are: all of a pid file's, and not much more of what has grown beyond one.
    ///
    /// # Errors
    /// Reading fails.
    pub fn bytes(&self) -> Result<Vec<u8>> {
        beginning_of(&self.file, MAX_SIZE as usize + 1, |_| false)
            .map_err(|error| Error::pid_file("cannot read", &self.path).because(error))
    }

    /// Whether its path names this very file now.
    ///
    /// # Errors
    /// The path cannot be looked at, for another reason than its being gone.
    pub fn is_at_path(&self) -> Result<bool> {
        match rustix::fs::lstat(&self.path) {
            Ok(stat) => Ok(FileId::of(&stat) == self.id),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(false),
            Err(errno) => Err(Error::pid_file("cannot look at", &self.path).because(errno)),
        }
    }

    fn stat(&self) -> Result<rustix::fs::Stat> {
        rustix::fs::fstat(&self.file)
            .map_err(|errno| Error::pid_file("cannot stat", &self.path).because(errno))
    }

    /// Whether it was renamed, linked, or given to somebody since it was last written: those change
    /// the inode (`st_ctime`), and writing changes both times alike (inode(7)).
    ///
    /// # Errors
    /// `fstat(2)` fails.
    pub fn was_moved(&self) -> Result<bool> {
        let stat = self.stat()?;
        Ok((stat.st_ctime, stat.st_ctime_nsec) != (stat.st_mtime, stat.st_mtime_nsec))
    }

    /// A mark that changes whenever the file is written, renamed or linked (`st_ctime`).
    ///
    /// # Errors
    /// `fstat(2)` fails.
    pub fn change_mark(&self) -> Result<(i64, u64)> {
        let stat = self.stat()?;
        Ok((stat.st_ctime, stat.st_ctime_nsec))
    }

    /// Whom its contents speak for: its owner; and nobody, where others may write it, too.
    ///
    /// # Errors
    /// `fstat(2)` fails.
    pub fn authority(&self) -> Result<Authority> {
        let stat = self.stat()?;
        Ok(if stat.st_mode & 0o022 != 0 {
            Authority::OverNobody
        } else if stat.st_uid == rustix::process::geteuid().as_raw() {
            Authority::OverAll
        } else {
            Authority::Over(stat.st_uid)
        })
    }

    /// Whether any path leads to it.
    ///
    /// # Errors
    /// `fstat(2)` fails.
    pub fn has_a_name(&self) -> Result<bool> {
        let stat = self.stat()?;
        Ok(stat.st_nlink > 0)
    }

    /// Whether there is room for `length` bytes, as far as the file system tells without writing. That
    /// a write will succeed is not promised: others write, too, and a file system that copies what
    /// is written (btrfs, bcachefs, ZFS) may need room for what is overwritten, and does not tell.
    ///
    /// # Errors
    /// There is no room, or files may not be so large here (RLIMIT_FSIZE).
    pub fn check_room(&self, length: u64) -> Result<()> {
        let cannot = |errno: Errno| Error::pid_file("cannot write", &self.path).because(errno);
        let limit = rustix::process::getrlimit(rustix::process::Resource::Fsize).current;
        if limit.is_some_and(|limit| limit < length) {
            return Err(cannot(Errno::FBIG)
                .advise("raise the limit of file sizes (ulimit -f, LimitFSIZE=)"));
        }
        let stat = self.stat()?;
        // What is allocated is overwritten in place. st_blocks counts 512 bytes each (stat(2)). (Where
        // it is copied, small files lie among the file system's own tables, of whose room it tells
        // nothing: to ask for room among the data would refuse what mostly works.)
        if stat.st_blocks.unsigned_abs() * 512 >= length && stat.st_size > 0 {
            return Ok(());
        }
        let room = rustix::fs::fstatvfs(&self.file).map_err(cannot)?;
        // Some file systems know no number of blocks and say 0 of 0.
        if room.f_blocks > 0
            && room.f_bavail == 0
            && (room.f_bfree == 0 || !rustix::process::geteuid().is_root())
        {
            return Err(cannot(Errno::NOSPC).advise(MAKE_ROOM));
        }
        Ok(())
    }

    /// A file that no path leads to.
    #[cfg(test)]
    pub(crate) fn nameless(file: File) -> Self {
        let id = FileId::of(&rustix::fs::fstat(&file).unwrap());
        let path = PathBuf::from("/nowhere");
        Self { file, id, path }
    }

    /// The file's identity.
    #[must_use]
    pub fn id(&self) -> FileId {
        self.id
    }

    /// Its path in canonical form: what the kernel prints of our descriptor.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether what was read from it is a record that names this very file: by path, device and
    /// inode.
    #[must_use]
    pub fn names_itself(&self, contents: &Contents) -> bool {
        contents
            .record()
            .is_some_and(|record| record.names(&self.path, self.id))
    }
}

impl AsFd for OpenFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Locked {
    /// Writes the whole contents: one positioned write, then cut to length, so that no reader ever
    /// meets an empty file.
    ///
    /// # Errors
    /// No room, no permission any more, a broken disk.
    pub fn write(&self, bytes: &[u8]) -> Result<()> {
        let cannot = |error: io::Error| {
            let full = matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT));
            let told = Error::pid_file("cannot write", &self.0.path).because(error);
            if full { told.advise(MAKE_ROOM) } else { told }
        };
        let length = bytes.len() as u64;
        self.0.file.write_all_at(bytes, 0).map_err(cannot)?;
        // Cutting costs more than looking whether there is anything to cut.
        let stat = rustix::fs::fstat(&self.0.file).map_err(|errno| cannot(errno.into()))?;
        if stat.st_size.unsigned_abs() == length {
            return Ok(());
        }
        self.0.file.set_len(length).map_err(cannot)
    }

    /// Lets the descriptor be inherited, for a command that replaces this process.
    ///
    /// # Errors
    /// `fcntl(2)` fails.
    pub fn inherit(&self) -> io::Result<()> {
        Ok(rustix::io::fcntl_setfd(
            &self.0.file,
            rustix::io::FdFlags::empty(),
        )?)
    }
}

impl std::ops::Deref for Locked {
    type Target = OpenFile;

    fn deref(&self) -> &OpenFile {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::Mode;
    use std::os::unix::fs::PermissionsExt;

    fn locked(path: &Path) -> Locked {
        match OpenFile::open_or_create(path).unwrap().try_lock().unwrap() {
            Try::Locked(locked) => locked,
            Try::Busy(_) => panic!("somebody has {}", path.display()),
        }
    }

    #[test]
    fn two_spellings_of_a_path_are_one() {
        let room = tempfile::tempdir().unwrap();
        let room = room.path().canonicalize().unwrap();
        std::fs::create_dir(room.join("a")).unwrap();
        std::os::unix::fs::symlink("a", room.join("link")).unwrap();
        let path = room.join("a/gateway.pid");
        let typed = |typed: &str| {
            let typed = room.join(typed);
            let opened = OpenFile::open_or_create(&typed).unwrap();
            opened.path().to_path_buf()
        };
        for spelling in [
            "a/gateway.pid",
            "a//gateway.pid",
            "a/./gateway.pid",
            "a/../a/gateway.pid",
            "link/gateway.pid",
            "link/../a/gateway.pid",
        ] {
            // The first time it is made.
            assert_eq!(typed(spelling).as_os_str(), path.as_os_str(), "{spelling}");
        }
        assert_eq!(typed("a/gateway.pid").as_os_str(), path.as_os_str());
    }

    #[test]
    fn a_new_file_is_private_and_its_directories_are_made() {
        let room = tempfile::tempdir().unwrap();
        let path = room.path().join("a/b/gateway.pid");
        let lock = locked(&path);
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert_eq!(
            std::fs::metadata(path.parent().unwrap())
                .unwrap()
                .permissions()
                .mode()
                & 0o777,
            0o700
        );
        assert!(lock.is_at_path().unwrap());
        std::fs::rename(&path, room.path().join("elsewhere")).unwrap();
        assert!(!lock.is_at_path().unwrap());
        std::fs::write(&path, "").unwrap();
        assert!(!lock.is_at_path().unwrap());
    }

    #[test]
    fn a_move_shows_until_the_next_write() {
        let room = tempfile::tempdir().unwrap();
        let (path, away) = (room.path().join("gateway.pid"), room.path().join("away"));
        let lock = locked(&path);
        lock.write(b"longer\n").unwrap();
        lock.write(b"1\n").unwrap();
        assert!(!lock.was_moved().unwrap());
        // The kernel's clock for files ticks some hundred times a second.
        let written = std::fs::metadata(&path).unwrap().modified().unwrap();
        while written.elapsed().unwrap() < std::time::Duration::from_millis(20) {
            std::thread::yield_now();
        }
        std::fs::rename(&path, &away).unwrap();
        std::fs::rename(&away, &path).unwrap();
        assert!(lock.was_moved().unwrap());
        lock.write(b"1\n").unwrap();
        assert!(!lock.was_moved().unwrap());
    }

    #[test]
    fn busy_is_an_answer_and_closing_frees() {
        let room = tempfile::tempdir().unwrap();
        let path = room.path().join("gateway.pid");
        let first = locked(&path);
        let second = OpenFile::open_or_create(&path).unwrap();
        assert!(second.is_locked().unwrap());
        let Try::Busy(second) = second.try_lock().unwrap() else {
            panic!("two locks")
        };
        drop(first);
        assert!(!second.is_locked().unwrap());
        assert!(matches!(second.try_lock().unwrap(), Try::Locked(_)));
    }

    #[test]
    fn a_shorter_write_leaves_no_tail() {
        let room = tempfile::tempdir().unwrap();
        let path = room.path().join("gateway.pid");
        let lock = locked(&path);
        lock.write(&[b'x'; 9000]).unwrap();
        assert_eq!(lock.bytes().unwrap().len(), 9000);
        lock.write(b"12\n").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"12\n");
    }

    #[test]
    fn what_no_pid_file_can_be_is_refused_and_untouched() {
        let room = tempfile::tempdir().unwrap();
        let at = |name: &str| room.path().join(name);
        std::fs::create_dir(at("directory")).unwrap();
        std::os::unix::fs::symlink(at("target"), at("link")).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            at("fifo"),
            rustix::fs::FileType::Fifo,
            Mode::RUSR | Mode::WUSR,
            0,
        )
        .unwrap();
        std::fs::write(at("program"), "#!/bin/sh\n").unwrap();
        std::fs::set_permissions(at("program"), PermissionsExt::from_mode(0o755)).unwrap();
        std::fs::write(at("large"), vec![b'1'; 70_000]).unwrap();
        for (name, word) in [
            ("directory", "directory"),
            ("link", "symbolic link"),
            ("fifo", "named pipe"),
            ("program", "executable"),
            ("large", "64 KiB"),
        ] {
            let error = OpenFile::open_or_create(&at(name)).unwrap_err();
            assert!(error.to_string().contains(word), "{name}: {error}");
            assert_eq!(error.kind(), crate::ErrorKind::PidFile);
        }
        assert!(!at("target").exists());
        assert_eq!(std::fs::metadata(at("large")).unwrap().len(), 70_000);
    }

    #[test]
    fn contents_of_any_length_are_read_whole() {
        let room = tempfile::tempdir().unwrap();
        let path = room.path().join("gateway.pid");
        for length in [0, 1, 4095, 4096, 4097, 16384, 65536] {
            std::fs::write(&path, vec![b'x'; length]).unwrap();
            let file = OpenFile::open_or_create(&path).unwrap();
            assert_eq!(file.bytes().unwrap().len(), length);
        }
    }

    #[test]
    fn a_file_of_exactly_the_limit_may_be_a_pid_file_and_has_room_for_a_record() {
        let room = tempfile::tempdir().unwrap();
        let path = room.path().join("gateway.pid");
        std::fs::write(&path, vec![b'x'; MAX_SIZE as usize]).unwrap();
        let file = OpenFile::open_or_create(&path).unwrap();
        file.check_room(4096).unwrap();
    }

    #[test]
    fn what_to_do_about_it_is_said() {
        let room = tempfile::tempdir().unwrap();
        std::fs::write(room.path().join("file"), "").unwrap();
        let advice = |path: PathBuf| {
            let error = OpenFile::open_or_create(&path).unwrap_err();
            error.advice().map(str::to_owned).unwrap_or_default()
        };
        assert!(advice(room.path().join("file/gateway.pid")).contains("is a file"));
        assert!(advice(room.path().join("x".repeat(300))).contains("shorter"));
    }
}
