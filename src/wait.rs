//! The one place that sleeps: `ppoll(2)` over descriptors, with a limit.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

use crate::sys;
pub use crate::sys::LetIn;

/// What can cut a wait short. Who wraps another one passes all four on.
pub trait Interrupt {
    /// Readable when there may be a reason, and not any more once [`Interrupt::interrupted`] was asked.
    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// Which signals may be handled during a sleep.
    fn lets_in(&self) -> LetIn {
        LetIn::Unblocked
    }

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

impl Watched<'_> {
    fn asked(self) -> libc::pollfd {
        let (fd, events) = match self {
            Self::Readable(fd) => (fd, libc::POLLIN),
            Self::Changed(fd) => (fd, libc::POLLPRI),
        };
        libc::pollfd {
            fd: fd.as_raw_fd(),
            events,
            revents: 0,
        }
    }
}

/// Sleeps until one of the descriptors is ready, a signal was handled, or the time is over;
/// `true` if it was a descriptor. The caller looks at everything again in any case.
pub fn sleep<'a>(fds: impl IntoIterator<Item = Watched<'a>>, limit: Option<Duration>) -> bool {
    ready(fds, limit, LetIn::Unblocked).contains(&true)
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
    ready(fds.map(Watched::Readable), Some(limit), interrupt.lets_in());
}

/// As [`sleep`], with these signals let in, and tells which of the descriptors are ready.
pub fn ready<'a>(
    fds: impl IntoIterator<Item = Watched<'a>>,
    limit: Option<Duration>,
    let_in: LetIn,
) -> Vec<bool> {
    let mut fds: Vec<libc::pollfd> = fds.into_iter().map(Watched::asked).collect();
    match sys::poll(&mut fds, limit, let_in) {
        Ok(_) => fds.iter().map(|fd| fd.revents != 0).collect(),
        Err(_) => vec![false; fds.len()],
    }
}
