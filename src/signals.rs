//! Signals, with their senders, brought into one loop.
//!
//! Who sent them is only noted; the loop decides. The signals are blocked, and the loop sleeps on a
//! descriptor that tells of them, so that none is missed between its look and its sleep. Handlers
//! (signal-hook) note what comes to other threads, and everything where there is no such descriptor: then
//! the signals are let in while the loop sleeps. Nothing here is installed unless [`Signals::route`] is
//! called: a library that only locks has no handlers.

use std::marker::PhantomData;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use crate::process::Pid;
use crate::signal::Signal;
use crate::sys::{self, Disposition, LetIn, Mailbox, Sender};
use crate::wait::{self, Interrupt};
use crate::{Error, Result};

/// What is brought into the loop, in the order of the numbers: what stops, what is passed on, and
/// what the loop needs itself.
const ROUTED: [Signal; 11] = [
    Signal::HUP,
    Signal::INT,
    Signal::QUIT,
    Signal::USR1,
    Signal::USR2,
    Signal::ALRM,
    Signal::TERM,
    Signal::CHLD,
    Signal::WINCH,
    Signal::IO,
    Signal::PWR,
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
    fn new(number: libc::c_int, sender: Sender) -> Option<Self> {
        let signal = Signal::from_number(number)?;
        let origin = match sender {
            Sender::Kernel => Origin::Kernel,
            Sender::Process(0, _) => Origin::Outside,
            Sender::Process(pid, uid) => {
                Pid::new(pid.into()).map_or(Origin::Unknown, |pid| Origin::Process { pid, uid })
            }
            Sender::Other if signal == Signal::CHLD || signal == Signal::IO => Origin::Kernel,
            Sender::Other => Origin::Unknown,
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
    mailbox: Mailbox,
    originally: Vec<(libc::c_int, Disposition)>,
    stop: Option<Arrival>,
    /// A mask belongs to its thread: this value must not be used in another one.
    _here: PhantomData<*const ()>,
}

impl std::fmt::Debug for Signals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Signals")
            .field("stop", &self.stop)
            .finish_non_exhaustive()
    }
}

impl Signals {
    /// Routes the signals to this thread, first of all that happens. What was ignored when the program
    /// was started stays ignored, but for SIGCHLD, SIGTERM and SIGIO, which the loop cannot do without.
    ///
    /// From here on they are blocked in this thread, and told where it sleeps with this value as its
    /// [`Interrupt`]. Threads that are there already may be interrupted by them. What this thread takes out
    /// no handler hears: signals are for one part of a program.
    ///
    /// # Errors
    /// The system refuses a handler.
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
        // Before there is a handler: what comes from here on is found at the first look. And
        // all others are let in: a starter that waits for signals in a thread hands its mask on.
        sys::block_only(&wanted);
        let mailbox = Mailbox::open(&wanted).map_err(|error| {
            sys::unblock_all();
            Error::system("cannot route signals").because(error)
        })?;
        // A line on the terminal must not stop us while we are in the background.
        sys::set_disposition(libc::SIGTTOU, Disposition::Ignored);
        // A reader of our messages that goes away must not end COMMAND.
        sys::set_disposition(libc::SIGPIPE, Disposition::Ignored);
        // A limit of file sizes is told as an error of the write.
        sys::set_disposition(libc::SIGXFSZ, Disposition::Ignored);
        Ok(Self {
            mailbox,
            originally,
            stop: None,
            _here: PhantomData,
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
        let came = self.noted();
        if !came.is_empty() || self.lets_in() == LetIn::Unblocked {
            return came;
        }
        // There is no descriptor: what is blocked and pending is handled here.
        wait::ready([], Some(Duration::ZERO), LetIn::All);
        self.noted()
    }

    fn noted(&mut self) -> Vec<Arrival> {
        let came = self.mailbox.take();
        came.filter_map(|(number, sender)| Arrival::new(number, sender))
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

/// TERM, INT and HUP end a wait; everything else that comes while waiting has nobody to go to.
impl Interrupt for Signals {
    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.mailbox.queue()
    }

    fn lets_in(&self) -> LetIn {
        if self.mailbox.queue().is_some() || self.mailbox.is_empty() {
            LetIn::Unblocked
        } else {
            LetIn::All
        }
    }

    fn interrupted(&mut self) -> bool {
        let stop = self.take().into_iter().find(Arrival::asks_to_stop);
        self.stop = self.stop.or(stop);
        self.stop.is_some()
    }
}

/// The signals are let in again, and then answered by nothing.
impl Drop for Signals {
    fn drop(&mut self) {
        sys::unblock_all();
    }
}
