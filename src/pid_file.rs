//! The lock for one's own process: the part of this crate that is stable.

use std::ffi::OsString;
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};

use crate::acquire::{self, Outcome, Refused};
use crate::claim::{Claim, Description, Finding};
use crate::holder::{Holder, Sighting};
use crate::record::{End, Reason};
use crate::takeover::{Mode, Rules};
use crate::text::printable;
use crate::time::Limit;
use crate::wait::{Interrupt, Uninterrupted};
use crate::{Error, Result};

/// A pid file at a path. It need not exist: taking the lock makes it, and its directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PidFile {
    path: PathBuf,
}

/// How long to wait, and what ends a wait early.
///
/// The default waits without end, and nothing ends it early.
#[derive(Clone, Copy, Default, Debug)]
#[non_exhaustive]
pub struct Limits<'a> {
    /// The end of the whole wait. `None`: no end for [`PidFile::wait`]; for [`PidFile::replace`]
    /// ten seconds after `kill_after`.
    pub timeout: Option<Duration>,
    /// How long an asked holder gets before SIGKILL. `None`: the stop budget that it recorded and
    /// five seconds, or thirty seconds where it recorded none.
    pub kill_after: Option<Duration>,
    /// Ends the wait as soon as it is readable: an eventfd, a pipe, a socket.
    pub cancel: Option<BorrowedFd<'a>>,
}

impl<'a> Limits<'a> {
    /// No longer than this.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// An asked holder is killed after this.
    #[must_use]
    pub fn kill_after(mut self, kill_after: Duration) -> Self {
        self.kill_after = Some(kill_after);
        self
    }

    /// The wait ends when this is readable.
    #[must_use]
    pub fn cancel(mut self, cancel: BorrowedFd<'a>) -> Self {
        self.cancel = Some(cancel);
        self
    }

    fn rules(&self, mode: Mode) -> Rules {
        let limit = |length: Option<Duration>| length.map(Limit::After);
        Rules {
            mode,
            timeout: limit(self.timeout),
            kill_after: limit(self.kill_after),
        }
    }
}

/// The answer of [`PidFile::try_lock`].
#[derive(Debug)]
#[must_use = "the lock is held only as long as it is kept"]
pub enum Attempt {
    /// It is ours.
    Acquired(Lock),
    /// Somebody else has it.
    Held(HolderInfo),
}

/// The answer of [`PidFile::wait`] and [`PidFile::replace`].
#[derive(Debug)]
#[must_use = "the lock is held only as long as it is kept"]
#[non_exhaustive]
pub enum Wait {
    /// It is ours.
    Acquired(Lock),
    /// The time is over, or the holder cannot be asked, or will not have stopped in time.
    Refused(HolderInfo),
    /// The descriptor that cancels was readable. A holder that was asked will stop all the same.
    Cancelled,
}

/// Who has the lock, as far as it is known: a label, not a thing to signal.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct HolderInfo {
    /// Its pid, if it can be seen.
    pub pid: Option<i32>,
    /// Its command line; that of its payload where it runs one.
    pub argv: Vec<OsString>,
    /// Whether it was proven to be the holder that the pid file names.
    pub proven: bool,
    /// The pid file.
    pub path: PathBuf,
}

impl fmt::Display for HolderInfo {
    /// `held by pid 4925 (sleep 600), /run/demo/gateway.pid`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pid {
            Some(pid) => write!(f, "held by pid {pid}")?,
            None => f.write_str("held by a process that cannot be seen from here")?,
        }
        if !self.argv.is_empty() {
            let words: Vec<String> = self.argv.iter().map(|word| printable(word)).collect();
            write!(f, " ({})", words.join(" "))?;
        }
        write!(f, ", {}", printable(self.path.as_os_str()))
    }
}

impl HolderInfo {
    fn of(who: &Sighting, path: &Path) -> Self {
        let (argv, proven) = match who {
            Sighting::Proven(holder) | Sighting::Ending(holder) => (holder.command(), true),
            Sighting::Starting(locker) | Sighting::Foreign(locker) => (locker.argv.clone(), false),
            Sighting::Invisible(_) => (Vec::new(), false),
        };
        let pid = acquire::pid_of(who).map(crate::process::Pid::get);
        Self {
            pid,
            argv,
            proven,
            path: path.to_path_buf(),
        }
    }
}

/// What [`PidFile::replace`] tells on the way.
#[derive(Debug)]
#[non_exhaustive]
pub enum Progress {
    /// Somebody has the lock. Told at once, and about once a second.
    Waiting(HolderInfo),
    /// This holder was sent SIGTERM.
    Asked(HolderInfo),
    /// This holder did not stop in time, and was sent SIGKILL.
    Killed(HolderInfo),
    /// This many processes that a crashed run left are being ended.
    Ending(usize),
}

impl PidFile {
    /// The pid file at this path. Touches nothing yet.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// The path, as it was given.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Takes the lock if it is free, and writes the record.
    ///
    /// Does not wait for a proven holder. Where somebody has the lock who is not proven (a probe
    /// by another program, a start in progress) it tries again for 200 ms, and up to 15 s for a
    /// gateway that is just starting; after a crash it ends what the crashed run left, within 15 s.
    ///
    /// # Errors
    /// The file or its directory cannot be made, opened, locked or written; it is not a regular
    /// file, is executable, or larger than 64 KiB; `/proc` is missing. Nothing is held then.
    ///
    /// # What is not promised
    /// That another *thread* of this process is refused: it is, by the lock, but a second `Lock`
    /// in one process is named as held by somebody who cannot be proven.
    pub fn try_lock(&self) -> Result<Attempt> {
        Ok(
            match self.acquire(Rules::of(Mode::Plain), &mut Uninterrupted, &mut |_| {})? {
                Wait::Acquired(lock) => Attempt::Acquired(lock),
                Wait::Refused(holder) => Attempt::Held(holder),
                Wait::Cancelled => unreachable!("nothing cancels this"),
            },
        )
    }

    /// Waits for the lock, without asking anybody to leave, and writes the record.
    ///
    /// Waits as `limits` say, in `poll(2)`, never in `flock(2)`.
    ///
    /// # Errors
    /// As [`PidFile::try_lock`].
    pub fn wait(&self, limits: Limits<'_>) -> Result<Wait> {
        self.seek(Mode::Wait, limits, &mut |_| {})
    }

    /// Takes over: asks the holder to leave, waits for the lock, and writes the record.
    ///
    /// Only a holder that the record names, and that is proven to have this very file locked, is
    /// sent SIGTERM through a pidfd, and SIGKILL where `limits` say so. Nobody else is signalled.
    ///
    /// # Errors
    /// As [`PidFile::try_lock`]; and when the system refuses what proof needs.
    pub fn replace(&self, limits: Limits<'_>, mut step: impl FnMut(Progress)) -> Result<Wait> {
        self.seek(Mode::Replace, limits, &mut step)
    }

    fn seek(&self, mode: Mode, limits: Limits<'_>, step: &mut dyn FnMut(Progress)) -> Result<Wait> {
        let rules = limits.rules(mode);
        match limits.cancel {
            Some(mut cancel) => self.acquire(rules, &mut cancel, step),
            None => self.acquire(rules, &mut Uninterrupted, step),
        }
    }

    fn acquire(
        &self,
        rules: Rules,
        interrupt: &mut dyn Interrupt,
        step: &mut dyn FnMut(Progress),
    ) -> Result<Wait> {
        let path = std::path::absolute(&self.path)
            .map_err(|error| Error::pid_file("cannot make absolute:", &self.path).because(error))?;
        let mut told = |progress: acquire::Progress<'_>| step(translate(&progress, &path));
        let description = Description::of_this_process()?;
        Ok(
            match acquire::acquire(&path, rules, &description, interrupt, &mut told)? {
                Outcome::Acquired(acquired) => Wait::Acquired(Lock {
                    claim: Some(acquired.claim),
                }),
                Outcome::Refused(Refused::By { who, .. }) => {
                    Wait::Refused(HolderInfo::of(&who, &path))
                }
                Outcome::Refused(Refused::Survivors { left, .. }) => Wait::Refused(HolderInfo {
                    pid: left.first().map(|survivor| survivor.pid().get()),
                    argv: left
                        .first()
                        .map(crate::survivors::Survivor::command)
                        .unwrap_or_default(),
                    proven: false,
                    path,
                }),
                Outcome::Interrupted { .. } => Wait::Cancelled,
            },
        )
    }
}

fn translate(progress: &acquire::Progress<'_>, path: &Path) -> Progress {
    let info = |holder: &Holder| HolderInfo {
        pid: Some(holder.pid().get()),
        argv: holder.command(),
        proven: true,
        path: path.to_path_buf(),
    };
    match progress {
        acquire::Progress::Waiting { who, .. } => Progress::Waiting(HolderInfo::of(who, path)),
        acquire::Progress::Asked { holder, .. } => Progress::Asked(info(holder)),
        acquire::Progress::Killed { holder } => Progress::Killed(info(holder)),
        acquire::Progress::Ending { survivors } => Progress::Ending(survivors.len()),
    }
}

/// The lock, held until this is dropped.
///
/// The descriptor is close-on-exec: no child keeps the lock. When the process dies, however it
/// dies, the kernel releases it. Dropping marks the record ended; a failure to do so is logged, and
/// [`Lock::close`] tells of it.
///
/// Somebody may remove or replace the file behind the lock: the name is then free for another one.
/// [`Lock::watch`] and [`Lock::check`] put the claim back. Who does not use them goes without: a
/// newcomer still finds this process as the holder of the earlier file, unless it may not look.
#[derive(Debug)]
#[must_use = "the lock is held only as long as it is kept"]
pub struct Lock {
    claim: Option<Claim>,
}

/// What [`Lock::check`] found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Standing {
    /// All is well.
    Held,
    /// The file had been removed, replaced or overwritten; the claim is put back.
    PutBack,
    /// The claim cannot be put back now: check again soon.
    Contested,
    /// Another holder has the name by now: stop what the lock protects.
    Lost,
}

impl Lock {
    fn claim(&self) -> &Claim {
        self.claim.as_ref().expect("only close and drop take it")
    }

    /// The pid file's path, in canonical form.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.claim().path()
    }

    /// A number that grows with every taking of this pid file's lock: a fencing token. It grows
    /// across crashes and unreadable records; across a removed file as long as the clock was not
    /// set back.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.claim().record().generation
    }

    /// Looks at the name and the record, and puts both back. Never waits.
    ///
    /// # Errors
    /// The path or the record cannot be looked at.
    pub fn check(&mut self) -> Result<Standing> {
        let claim = self.claim.as_mut().expect("only close and drop take it");
        Ok(match claim.check()? {
            Finding::Intact => Standing::Held,
            Finding::PutBack | Finding::Rewritten => Standing::PutBack,
            Finding::Overwritten | Finding::Contested(_) => Standing::Contested,
            Finding::Lost(_) => Standing::Lost,
        })
    }

    /// A descriptor to poll: readable when [`Lock::check`] should be called.
    ///
    /// It is an inotify instance on the file's directory and those above it (inotify(7)). A mount
    /// on top of a directory gives no event: check now and then, too. Make a new one after
    /// [`Standing::PutBack`], because the directories may be others.
    ///
    /// When a process ends with an open inotify instance, the kernel may take some milliseconds
    /// longer to tell those who wait for its end.
    ///
    /// # Errors
    /// There are no descriptors or watches left (`inotify_init1(2)`, `inotify_add_watch(2)`).
    pub fn watch(&self) -> Result<Watch> {
        Watch::on(self.path())
    }

    /// Marks the record ended, and lets go. Dropping does the same, and logs what fails.
    ///
    /// # Errors
    /// The record cannot be written: the lock is let go all the same, and the next start takes
    /// this run for a crashed one.
    pub fn close(mut self) -> Result<()> {
        self.claim.take().map_or(Ok(()), |claim| claim.end(ended()))
    }
}

fn ended() -> End {
    End::now(Reason::Exited)
}

impl Drop for Lock {
    fn drop(&mut self) {
        if let Some(Err(error)) = self.claim.take().map(|claim| claim.end(ended())) {
            log::warn!("{error}; the next start will take this run for a crashed one");
        }
    }
}

/// Tells when the name of a held pid file may have changed.
#[derive(Debug)]
pub struct Watch {
    inotify: OwnedFd,
}

impl Watch {
    fn on(path: &Path) -> Result<Self> {
        let cannot = |error: rustix::io::Errno| {
            Error::system(format!("cannot watch {}", path.display())).because(error)
        };
        let inotify =
            inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).map_err(cannot)?;
        let entries =
            WatchFlags::CREATE | WatchFlags::DELETE | WatchFlags::MOVE | WatchFlags::MODIFY;
        let itself = WatchFlags::DELETE_SELF | WatchFlags::MOVE_SELF | WatchFlags::ONLYDIR;
        for (depth, directory) in path.ancestors().skip(1).enumerate() {
            let flags = if depth == 0 { entries | itself } else { itself };
            match inotify::add_watch(&inotify, directory, flags) {
                // A directory above that may not be read: its renaming is not told.
                Err(rustix::io::Errno::ACCESS) if depth > 0 => {}
                other => drop(other.map_err(cannot)?),
            }
        }
        Ok(Self { inotify })
    }

    /// Forgets what has happened, so that the descriptor is readable only for what comes. Never
    /// waits. Call it before [`Lock::check`].
    pub fn clear(&self) {
        let mut buffer = [0; 4096];
        while matches!(rustix::io::read(&self.inotify, &mut buffer), Ok(read) if read > 0) {}
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}
