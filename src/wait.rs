//! The one place that sleeps: `poll(2)` over descriptors, with a limit.

use std::os::fd::BorrowedFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// What can cut a wait short.
pub trait Interrupt {
    /// Readable when there may be a reason.
    fn descriptor(&self) -> Option<BorrowedFd<'_>>;

    /// Whether there is one. Called after every sleep.
    fn interrupted(&mut self) -> bool;

    /// No sleep is to be longer than this, if there is such a limit.
    fn longest_sleep(&self) -> Option<Duration> {
        None
    }
}

/// Nothing does.
#[derive(Clone, Copy, Debug)]
pub struct Uninterrupted;

impl Interrupt for Uninterrupted {
    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn interrupted(&mut self) -> bool {
        false
    }
}

/// A descriptor that becomes readable (or hangs up) does: an eventfd, a pipe, a socket.
impl Interrupt for BorrowedFd<'_> {
    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        Some(*self)
    }

    fn interrupted(&mut self) -> bool {
        sleep([Watched::Readable(*self)], Some(Duration::ZERO))
    }
}

/// A descriptor, and what to wake up for.
#[derive(Clone, Copy, Debug)]
pub enum Watched<'a> {
    /// Bytes to read, an end, a process that exited.
    Readable(BorrowedFd<'a>),
    /// A mount was added or removed (proc_pid_mountinfo(5)).
    Changed(BorrowedFd<'a>),
}

/// Sleeps until one of the descriptors is ready, a signal was handled, or the time is over;
/// `true` if it was a descriptor. The caller looks at everything again in any case.
pub fn sleep<'a>(fds: impl IntoIterator<Item = Watched<'a>>, limit: Option<Duration>) -> bool {
    ready(fds, limit).contains(&true)
}

/// Sleeps until one of the descriptors is readable, the caller is interrupted, or the time is over.
/// The caller asks [`Interrupt::interrupted`] afterwards.
pub fn nap<'a>(
    fds: impl IntoIterator<Item = BorrowedFd<'a>>,
    limit: Duration,
    interrupt: &'a dyn Interrupt,
) {
    let limit = interrupt
        .longest_sleep()
        .map_or(limit, |longest| limit.min(longest));
    let fds = fds.into_iter().chain(interrupt.descriptor());
    sleep(fds.map(Watched::Readable), Some(limit));
}

/// As [`sleep`], and tells which of them are ready.
pub fn ready<'a>(fds: impl IntoIterator<Item = Watched<'a>>, limit: Option<Duration>) -> Vec<bool> {
    let mut fds: Vec<PollFd<'_>> = fds
        .into_iter()
        .map(|fd| match fd {
            Watched::Readable(fd) => PollFd::from_borrowed_fd(fd, PollFlags::IN),
            Watched::Changed(fd) => PollFd::from_borrowed_fd(fd, PollFlags::PRI),
        })
        .collect();
    // Beyond what a timespec holds is as good as for ever.
    let limit = limit.and_then(|limit| Timespec::try_from(limit).ok());
    match poll(&mut fds, limit.as_ref()) {
        Ok(_) => fds.iter().map(|fd| !fd.revents().is_empty()).collect(),
        Err(_) => vec![false; fds.len()],
    }
}
