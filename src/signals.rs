//! Signals, with their senders, brought into one poll loop.
//!
//! The handlers only record (signal-hook); whoever polls the descriptor decides. Nothing here is
//! installed unless [`Signals::route`] is called: a library that only locks has no handlers.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use signal_hook::iterator::backend::SignalDelivery;
use signal_hook::iterator::exfiltrator::WithRawSiginfo;

use crate::process::Pid;
use crate::signal::Signal;
use crate::sys::{self, Disposition};
use crate::wait::Interrupt;
use crate::{Error, Result};

/// What is brought into the loop: what stops, what is passed on, and what the loop needs itself.
const ROUTED: [Signal; 11] = [
    Signal::TERM,
    Signal::INT,
    Signal::HUP,
    Signal::QUIT,
    Signal::USR1,
    Signal::USR2,
    Signal::ALRM,
    Signal::WINCH,
    Signal::PWR,
    Signal::CHLD,
    Signal::IO,
];

/// Where a signal came from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Origin {
    /// The kernel: a terminal's driver, a child's end.
    Kernel,
    /// A process, vouched for by the kernel (`SI_USER`, sigaction(2)).
    Process {
        /// Its pid.
        pid: Pid,
        /// Its uid.
        uid: u32,
    },
    /// A process outside our pid namespace (`SI_USER` with pid 0).
    Outside,
    /// A process that says of itself who it is.
    Unknown,
}

/// A signal that came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Arrival {
    /// Which.
    pub signal: Signal,
    /// From where.
    pub origin: Origin,
}

impl Arrival {
    fn from(info: &libc::siginfo_t) -> Option<Self> {
        let signal = Signal::from_number(info.si_signo)?;
        let origin = match sys::sender(info) {
            (libc::SI_USER, 0, _) => Origin::Outside,
            (libc::SI_USER, pid, uid) => {
                Pid::new(pid.into()).map_or(Origin::Unknown, |pid| Origin::Process { pid, uid })
            }
            (libc::SI_KERNEL, ..) => Origin::Kernel,
            _ if signal == Signal::CHLD || signal == Signal::IO => Origin::Kernel,
            _ => Origin::Unknown,
        };
        Some(Self { signal, origin })
    }

    /// Whether it asks a wait to end.
    #[must_use]
    pub fn asks_to_stop(&self) -> bool {
        [Signal::TERM, Signal::INT, Signal::HUP].contains(&self.signal)
    }
}

/// The routed signals, and how they were answered before.
pub struct Signals {
    delivery: SignalDelivery<UnixStream, WithRawSiginfo>,
    originally: Vec<(libc::c_int, Disposition)>,
    stop: Option<Arrival>,
}

impl std::fmt::Debug for Signals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Signals")
            .field("stop", &self.stop)
            .finish_non_exhaustive()
    }
}

impl Signals {
    /// Routes the signals, first of all that happens. What was ignored when the program was
    /// started stays ignored, but for SIGCHLD, SIGTERM and SIGIO, which the loop cannot do without.
    ///
    /// # Errors
    /// There are no descriptors left.
    pub fn route() -> Result<Self> {
        Self::routing(&ROUTED)
    }

    /// Routes nothing: for a program that is about to become another one, and for which the
    /// kernel's own answers are right until then.
    ///
    /// # Errors
    /// As [`Signals::route`].
    pub fn leave() -> Result<Self> {
        Self::routing(&[])
    }

    fn routing(routed: &[Signal]) -> Result<Self> {
        let cannot = |error: io::Error| Error::system("cannot route signals").because(error);
        let (read, write) = UnixStream::pair().map_err(cannot)?;
        // Sent and received without blocking (MSG_DONTWAIT): the sockets need not be told.
        let mut originally: Vec<_> = routed.iter().map(|signal| original(*signal)).collect();
        originally.push(original(Signal::TTOU));
        originally.push(original(Signal::PIPE));
        originally.push(original(Signal::XFSZ));
        let indispensable = [Signal::CHLD, Signal::TERM, Signal::IO].map(Signal::number);
        let wanted: Vec<libc::c_int> = originally
            .iter()
            .take(routed.len())
            .filter(|(number, before)| {
                *before == Disposition::Default || indispensable.contains(number)
            })
            .map(|(number, _)| *number)
            .collect();
        let delivery =
            SignalDelivery::with_pipe(read, write, WithRawSiginfo, &wanted).map_err(cannot)?;
        // A line on the terminal must not stop us while we are in the background.
        sys::set_disposition(libc::SIGTTOU, Disposition::Ignored);
        // A reader of our messages that goes away must not end COMMAND.
        sys::set_disposition(libc::SIGPIPE, Disposition::Ignored);
        // A limit of file sizes is told as an error of the write.
        sys::set_disposition(libc::SIGXFSZ, Disposition::Ignored);
        // A starter that waits for signals in a thread hands its mask on.
        sys::unblock_all();
        Ok(Self {
            delivery,
            originally,
            stop: None,
        })
    }

    /// The dispositions that COMMAND gets: what we were started with.
    #[must_use]
    pub fn originally(&self) -> &[(libc::c_int, Disposition)] {
        &self.originally
    }

    /// Whether this signal was ignored when we were started.
    #[must_use]
    pub fn was_ignored(&self, signal: Signal) -> bool {
        self.originally
            .contains(&(signal.number(), Disposition::Ignored))
    }

    /// What has come since the last call. Never waits. In the order of the numbers, not of arrival.
    pub fn take(&mut self) -> Vec<Arrival> {
        self.delivery
            .pending()
            .filter_map(|info| Arrival::from(&info))
            .collect()
    }

    /// The signal that ended a wait, or came before the command was started.
    pub fn take_stop(&mut self) -> Option<Arrival> {
        self.interrupted();
        self.stop.take()
    }
}

fn original(signal: Signal) -> (libc::c_int, Disposition) {
    (signal.number(), sys::disposition(signal.number()))
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.delivery.get_read().as_fd()
    }
}

/// TERM, INT and HUP end a wait; everything else that comes while waiting has nobody to go to.
impl Interrupt for Signals {
    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        Some(self.as_fd())
    }

    fn interrupted(&mut self) -> bool {
        let stop = self.take().into_iter().find(Arrival::asks_to_stop);
        self.stop = self.stop.or(stop);
        self.stop.is_some()
    }
}
