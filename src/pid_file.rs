//! The lock for one's own process: the part of this crate that is stable.
//!
//! Everything that waits does so in `ppoll(2)`, never in `flock(2)`, and says for how long. A signal
//! handler of the caller's that runs meanwhile does not end a wait: [`Limits::cancel`] does.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};

use crate::acquire::{self, Outcome, Refused};
use crate::claim::{Claim, Description, Finding};
use crate::holder_info::{HolderInfo, Why};
use crate::place::absolute;
use crate::progress;
use crate::record::{End, Reason};
use crate::takeover::{Mode, Rules};
use crate::text::printable;
use crate::time::Limit;
use crate::view;
use crate::wait::{Interrupt, Uninterrupted};
use crate::{Error, Result};

/// A pid file at a path. It need not exist: taking the lock makes it, and its directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PidFile {
    path: PathBuf,
    stop_timeout: Option<Duration>,
}

/// How long to wait, and what ends a wait early.
///
/// The default waits without end, and nothing ends it early.
#[derive(Clone, Copy, Default, Debug)]
#[non_exhaustive]
pub struct Limits<'a> {
    /// The end of the whole wait. `None`: no end for [`PidFile::wait`]; for [`PidFile::replace`]
    /// ten seconds after `kill_after`. One that is not longer than `kill_after` asks nobody: see
    /// [`PidFile::replace`].
    pub timeout: Option<Duration>,
    /// How long an asked holder gets before SIGKILL. `None`: the stop timeout that it recorded and
    /// five seconds, or thirty seconds where it recorded none. [`Duration::MAX`]: it is never killed.
    pub kill_after: Option<Duration>,
    /// Ends the wait as soon as it is readable: an eventfd, a pipe, a socket. It is not read from.
    pub cancel: Option<BorrowedFd<'a>>,
}

impl<'a> Limits<'a> {
    /// No longer than this: sets [`Limits::timeout`].
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// An asked holder is killed after this: sets [`Limits::kill_after`].
    #[must_use]
    pub fn kill_after(mut self, kill_after: Duration) -> Self {
        self.kill_after = Some(kill_after);
        self
    }

    /// The wait ends when this is readable: sets [`Limits::cancel`].
    #[must_use]
    pub fn cancel(mut self, cancel: BorrowedFd<'a>) -> Self {
        self.cancel = Some(cancel);
        self
    }

    fn rules(&self, mode: Mode) -> Rules {
        Rules {
            mode,
            timeout: self.timeout.map(limit),
            kill_after: self.kill_after.map(limit),
        }
    }
}

fn limit(length: Duration) -> Limit {
    match length {
        Duration::MAX => Limit::Never,
        length => Limit::After(length),
    }
}

/// The answer of [`PidFile::try_lock`].
#[derive(Debug)]
#[must_use = "the lock is held only as long as it is kept"]
#[non_exhaustive]
pub enum Attempt {
    /// It is ours.
    Acquired(Lock),
    /// Somebody else has it; or nobody has, but what a crashed run left cannot be ended:
    /// [`HolderInfo::role`] tells which.
    Held(HolderInfo),
}

/// The answer of [`PidFile::wait`] and [`PidFile::replace`].
#[derive(Debug)]
#[must_use = "the lock is held only as long as it is kept"]
#[non_exhaustive]
pub enum Wait {
    /// It is ours.
    Acquired(Lock),
    /// The time is over, or the holder cannot be asked, or will not have stopped in time; or what a
    /// crashed run left cannot be ended. [`HolderInfo::role`] tells who is named.
    Refused(HolderInfo),
    /// The descriptor that cancels was readable. A holder that was asked will stop all the same.
    Cancelled,
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
    /// The pid file at this path; a relative one is of the working directory at each call. Touches nothing
    /// yet.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            stop_timeout: None,
        }
    }

    /// How long this process may take to stop once it is asked to: recorded with the lock. Whoever takes over
    /// then sends SIGKILL five seconds after that, and not after thirty; [`Duration::MAX`]: never, by itself.
    #[must_use]
    pub fn stop_timeout(mut self, stop_timeout: Duration) -> Self {
        self.stop_timeout = Some(stop_timeout);
        self
    }

    /// The path, as it was given.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Who holds it, as far as it can be told without changing anything; also the holder of a file that is
    /// not at the path any more. `None`: nobody, whatever a crashed run has left.
    ///
    /// May wait for a holder that has just been killed, and for somebody who only looks: 200 ms each time,
    /// three seconds where that is so again and again.
    ///
    /// # Errors
    /// The file may not be looked at, or is no pid file; `/proc` is missing where that is needed.
    ///
    /// # What is not promised
    /// That the answer is still true when it is read. To find out whether a lock can be had, take it.
    pub fn holder(&self) -> Result<Option<HolderInfo>> {
        let path = absolute(&self.path)?;
        let who = view::look(&path, &mut Uninterrupted)?.state.into_sighting();
        Ok(who.map(|who| HolderInfo::of(&who, &path)))
    }

    /// Takes the lock if it is free, and writes the record.
    ///
    /// Does not wait for a proven holder. Where somebody has the lock who is not proven (a probe by
    /// another program, another `Lock` of this process) it tries again for 200 ms, and for up to 15 s
    /// behind a gateway that is just starting or letting go.
    ///
    /// After a crash it first ends what the crashed run left: SIGTERM, after five seconds SIGKILL, for
    /// up to 15 s. Those are processes that the pid file names, or that carry its run id or path in
    /// their environment, and what descends from them.
    ///
    /// # Errors
    /// The file or its directory cannot be made, opened, locked or written; it is not a regular
    /// file, is executable, or larger than 64 KiB; `/proc` is missing. Nothing is held then.
    ///
    /// # What is not promised
    /// A second `Lock` in one process is refused by the kernel like any other, but nobody proves
    /// anything of himself: it is told, after the 200 ms, as held by a process that is not proven.
    ///
    /// That the answer is still true when it is read: who has the lock may let go at any moment.
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
    /// Waits as `limits` say, without end where they say nothing: for another `Lock` of this very
    /// process, too. What a crashed run left is ended as [`PidFile::try_lock`] does it, until the
    /// deadline.
    ///
    /// # Errors
    /// As [`PidFile::try_lock`].
    ///
    /// # What is not promised
    /// That whoever waits first gets the lock first.
    pub fn wait(&self, limits: Limits<'_>) -> Result<Wait> {
        self.seek(Mode::Wait, limits, &mut |_| {})
    }

    /// Takes over: asks the holder to leave, waits for the lock, and writes the record.
    ///
    /// Of those who have the lock, only a holder that the record names, and that is proven to have
    /// this very file locked, is sent SIGTERM through a pidfd, SIGCONT where it is stopped, and
    /// SIGKILL where `limits` say so; whoever else has the lock is waited for. Beside the holder, what
    /// a crashed run left is ended as [`PidFile::try_lock`] does it.
    ///
    /// Waits as `limits` say. A wait that would end before the holder's time to stop does harms
    /// somebody for nothing, so it is refused at once and nobody is asked ([`Why::TooShort`]). That time is
    /// `kill_after`; where that is not given, the stop timeout that the holder recorded and five seconds;
    /// and thirty seconds for who recorded none, as a [`Lock`] without [`PidFile::stop_timeout`]. So a
    /// `timeout` of thirty seconds or less, without a shorter `kill_after`, never replaces such a one. A
    /// `kill_after` of [`Duration::MAX`] asks, and leaves at the timeout.
    ///
    /// `step` is told what happens, in this thread; while it runs, nothing is done.
    ///
    /// # Errors
    /// As [`PidFile::try_lock`]; and when the system refuses what proof needs. A fault that comes after
    /// the holder was asked is logged and tried again until the deadline.
    ///
    /// # What is not promised
    /// That who was asked comes back if this does not get the lock: one that has heard SIGTERM stops,
    /// also after [`Wait::Cancelled`], [`Wait::Refused`] or an error.
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
        let path = absolute(&self.path)?;
        let mut told = |progress: progress::Progress<'_>| step(translate(&progress, &path));
        let mut description = Description::of_this_process()?;
        description.stop_timeout = self.stop_timeout.map(limit);
        Ok(
            match acquire::acquire(&path, rules, &description, interrupt, &mut told)? {
                Outcome::Acquired(acquired) => Wait::Acquired(Lock {
                    claim: Some(acquired.claim),
                }),
                Outcome::Refused(Refused::By { who, refusal, .. }) => Wait::Refused(HolderInfo {
                    why: Some(Why::of(refusal)),
                    ..HolderInfo::of(&who, &path)
                }),
                Outcome::Refused(Refused::Survivors { left, own_ancestor }) => {
                    Wait::Refused(HolderInfo {
                        why: Some(Why::of_survivors(own_ancestor)),
                        ..HolderInfo::of_survivor(&left, &path)
                    })
                }
                Outcome::Interrupted { .. } => Wait::Cancelled,
            },
        )
    }
}

fn translate(progress: &progress::Progress<'_>, path: &Path) -> Progress {
    match progress {
        progress::Progress::Waiting { who, .. } => Progress::Waiting(HolderInfo::of(who, path)),
        progress::Progress::Asked { holder, .. } => {
            Progress::Asked(HolderInfo::of_holder(holder, path))
        }
        progress::Progress::Killed { holder } => {
            Progress::Killed(HolderInfo::of_holder(holder, path))
        }
        progress::Progress::Ending { survivors } => Progress::Ending(survivors.len()),
    }
}

/// The lock, held until this is dropped.
///
/// The descriptor is close-on-exec: no program that this process starts keeps the lock. A child that
/// was forked and becomes no program (fork(2) alone) has it, too: the lock then lasts until that child
/// is gone or has closed it, whatever became of this process, and the child must not drop its copy of
/// this value, because that marks the record ended.
///
/// When the process dies, however it dies, the kernel releases the lock. Dropping marks the record
/// ended, does not wait, and logs a failure to do so; [`Lock::close`] tells of it.
///
/// **Who holds can be asked to go.** The record names this process, so a takeover
/// (`gateway run --replace`, `gateway stop`, [`PidFile::replace`]) by anybody who may signal it sends
/// it SIGTERM, and SIGKILL thirty seconds later, or five after its [`PidFile::stop_timeout`]. A program that
/// has something to finish handles SIGTERM, and drops this value at the end. One that dies of SIGTERM frees
/// the lock, too, and leaves the record of a crash.
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
    /// The claim cannot be put back, or the record not be written again, now: check again soon.
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

    /// Looks at the name and the record, and puts both back. Never waits. A record that is overwritten
    /// all the time is written again once in ten seconds, and is [`Standing::Contested`] in between.
    ///
    /// # Errors
    /// The path or the record cannot be looked at. The lock is held all the same.
    ///
    /// # What is not promised
    /// That the name is still ours when this returns. After [`Standing::Lost`] the lock on the earlier
    /// file is held as before, but protects nothing any more.
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
    /// ```no_run
    /// # use gateway_lock::{Lock, Standing};
    /// use rustix::event::{PollFd, PollFlags, Timespec, poll};
    /// use rustix::io::Errno;
    ///
    /// # fn stop() {}
    /// # fn keep(mut lock: Lock) -> Result<(), Box<dyn std::error::Error>> {
    /// let mut watch = lock.watch()?;
    /// loop {
    ///     let ten_seconds = Timespec { tv_sec: 10, tv_nsec: 0 };
    ///     match poll(&mut [PollFd::new(&watch, PollFlags::IN)], Some(&ten_seconds)) {
    ///         // A signal was handled: the lock is looked at, and the loop goes on.
    ///         Ok(_) | Err(Errno::INTR) => {}
    ///         Err(errno) => return Err(errno.into()),
    ///     }
    ///     watch.clear();
    ///     match lock.check()? {
    ///         Standing::PutBack => watch = lock.watch()?,
    ///         Standing::Lost => break stop(),
    ///         _ => {}
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// There are no descriptors or watches left (`inotify_init1(2)`, `inotify_add_watch(2)`), or the
    /// file's directory may not be read or is gone: check, and try again.
    pub fn watch(&self) -> Result<Watch> {
        Watch::on(self.path())
    }

    /// Marks the record ended, and lets go. Never waits. Dropping does the same, and logs what fails.
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
            log::warn!("{error:#}; the next start will take this run for a crashed one");
        }
    }
}

/// Tells when the name of a held pid file may have changed: poll it, by its descriptor. It outlives
/// the [`Lock`], and does not keep it.
#[derive(Debug)]
pub struct Watch {
    inotify: OwnedFd,
}

impl Watch {
    fn on(path: &Path) -> Result<Self> {
        let cannot = |error: rustix::io::Errno| {
            Error::system(format!("cannot watch {}", printable(path.as_os_str()))).because(error)
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
