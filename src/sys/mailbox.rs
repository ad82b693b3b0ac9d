//! What signals came, and who sent them, until the thread that owns the mailbox takes it out.
//!
//! The owner keeps the signals blocked, and sleeps on a descriptor that is readable while one is pending
//! (signalfd(2)): none can come between its look into the mailbox and its sleep, and none costs it a
//! handler and the way back from that. Handlers leave here what another thread was interrupted with, and
//! everything where there is no such descriptor: then the owner lets the signals in where it sleeps
//! (ppoll(2)).

use std::fs::File;
use std::io::{self, Read};
use std::mem::size_of;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use libc::c_int;
use signal_hook::SigId;

use super::set_of;

/// Who sent a signal, as the kernel says (sigaction(2), `si_code`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sender {
    /// The kernel itself (`SI_KERNEL`).
    Kernel,
    /// A process, with its pid and uid (`SI_USER`). The pid is 0 for one outside our pid namespace.
    Process(c_int, u32),
    /// Somebody who wrote the rest of the `siginfo_t`, or a source that is no process.
    Other,
}

impl Sender {
    fn of(info: &libc::siginfo_t) -> Self {
        // SAFETY: libc's siginfo_t is made of integers only, so whatever bytes lie where these two fields
        // are, they are some number, and the kernel writes all of it for a handler.
        let (pid, uid) = unsafe { (info.si_pid(), info.si_uid()) };
        Self::new(info.si_code, pid, uid)
    }

    /// With `SI_USER` the pid and the uid are the sender's (sigaction(2)).
    fn new(code: c_int, pid: c_int, uid: u32) -> Self {
        match code {
            libc::SI_KERNEL => Self::Kernel,
            libc::SI_USER => Self::Process(pid, uid),
            _ => Self::Other,
        }
    }

    /// In one word, which is never zero: a handler leaves it with a single store.
    fn pack(self) -> u64 {
        match self {
            Self::Kernel => KERNEL,
            Self::Process(pid, uid) => {
                PROCESS | u64::from(pid.cast_unsigned()) << 32 | u64::from(uid)
            }
            Self::Other => OTHER,
        }
    }

    fn unpack(word: u64) -> Option<Self> {
        match word {
            0 => None,
            KERNEL => Some(Self::Kernel),
            OTHER => Some(Self::Other),
            word => {
                let pid = (word & !PROCESS) >> 32;
                let uid = word & u64::from(u32::MAX);
                let sender = (c_int::try_from(pid).ok()?, u32::try_from(uid).ok()?);
                Some(Self::Process(sender.0, sender.1))
            }
        }
    }
}

/// A pid is below 2^22 (proc(5), `pid_max`): the bits above 31 + 32 are free.
const PROCESS: u64 = 1 << 63;
const KERNEL: u64 = 1;
const OTHER: u64 = 2;

/// A place for each of some signals. Of several that come before they are taken the first stays, as
/// the kernel keeps one of each (signal(7)).
#[derive(Debug)]
pub struct Mailbox {
    signals: Vec<c_int>,
    words: Arc<[AtomicU64]>,
    registered: Vec<SigId>,
    queue: Option<Queue>,
}

impl Mailbox {
    /// Has these signals answered by leaving their senders here. This thread is the owner, and is to block
    /// them: where another thread is interrupted instead, the owner is sent a SIGCHLD of its own, which
    /// should be among the signals, so that it wakes up.
    ///
    /// # Errors
    /// sigaction(2) refuses one of them.
    pub fn open(signals: &[c_int]) -> io::Result<Self> {
        let mut mailbox = Self {
            signals: signals.to_vec(),
            words: signals.iter().map(|_| AtomicU64::new(0)).collect(),
            registered: Vec::with_capacity(signals.len()),
            queue: Queue::of(signals),
        };
        let owner = Owner::this_thread();
        for (at, signal) in signals.iter().enumerate() {
            let words = Arc::clone(&mailbox.words);
            let note = move |info: &libc::siginfo_t| {
                leave(&words[at], Sender::of(info));
                owner.wake_from_elsewhere();
            };
            // SAFETY: `note` runs in a signal handler, where only async-signal-safe things may be
            // done (signal-safety(7)): it reads integers, swaps an atomic at an index that exists, and
            // makes plain system calls. signal-hook keeps errno as it was.
            let id = unsafe { signal_hook_registry::register_sigaction(*signal, note) }?;
            mailbox.registered.push(id);
        }
        Ok(mailbox)
    }

    /// Whether nothing is ever left here.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.signals.is_empty()
    }

    fn note(&self, number: c_int, sender: Sender) {
        let at = self.signals.iter().position(|signal| *signal == number);
        if let Some(at) = at {
            leave(&self.words[at], sender);
        }
    }

    /// Readable while a signal of these is pending; `None` where it must be let in.
    #[must_use]
    pub fn queue(&self) -> Option<BorrowedFd<'_>> {
        self.queue.as_ref().map(|queue| queue.0.as_fd())
    }

    /// What has come since it was last taken out, in the order in which the signals were named.
    pub fn take(&mut self) -> impl Iterator<Item = (c_int, Sender)> {
        let note = |number, sender| self.note(number, sender);
        if self
            .queue
            .as_ref()
            .is_some_and(|queue| queue.drain(note).is_err())
        {
            // It would be readable for ever.
            self.queue = None;
        }
        let words = self.words.iter().map(|word| word.swap(0, Ordering::AcqRel));
        self.signals
            .iter()
            .zip(words)
            .filter_map(|(signal, word)| Some((*signal, Sender::unpack(word)?)))
    }
}

/// The signals are then answered by nothing: who wants the answers of before puts them back.
impl Drop for Mailbox {
    fn drop(&mut self) {
        for id in self.registered.drain(..) {
            signal_hook::low_level::unregister(id);
        }
    }
}

/// Async-signal-safe.
fn leave(word: &AtomicU64, sender: Sender) {
    let _ = word.compare_exchange(0, sender.pack(), Ordering::AcqRel, Ordering::Relaxed);
}

/// The blocked signals that are pending for this thread or the process, as a descriptor (signalfd(2)).
#[derive(Debug)]
struct Queue(File);

impl Queue {
    /// `None`: of no signals, or the system has none to give.
    fn of(signals: &[c_int]) -> Option<Self> {
        if signals.is_empty() {
            return None;
        }
        let set = set_of(signals);
        // SAFETY: signalfd(2) reads the set, touches no other memory, and gives a new descriptor, which
        // nobody else owns, or -1.
        unsafe {
            let flags = libc::SFD_CLOEXEC | libc::SFD_NONBLOCK;
            let queue = libc::signalfd(-1, &raw const set, flags);
            (queue >= 0).then(|| Self(File::from_raw_fd(queue)))
        }
    }

    /// Takes out all that are pending, each with its sender. Never waits.
    fn drain(&self, mut note: impl FnMut(c_int, Sender)) -> io::Result<()> {
        const INFO: usize = size_of::<libc::signalfd_siginfo>();
        /// One of each number below the real-time ones (signal(7)).
        const MOST: usize = 32;
        /// Mostly it is one: room for all would cost each signal the clearing of it.
        const AT_ONCE: usize = 4;
        let mut infos = [[0; INFO]; AT_ONCE];
        for _ in 0..MOST / AT_ONCE {
            let came = match (&self.0).read(infos.as_flattened_mut()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
                length => length? / INFO,
            };
            for info in &infos[..came] {
                // `struct signalfd_siginfo` of signalfd(2): the number, errno, the code, the pid, the uid.
                let word =
                    |at: usize| i32::from_ne_bytes([0, 1, 2, 3].map(|byte| info[4 * at + byte]));
                note(
                    word(0),
                    Sender::new(word(2), word(3), word(4).cast_unsigned()),
                );
            }
            if came < AT_ONCE {
                break;
            }
        }
        Ok(())
    }
}

/// The thread that takes out what has come.
#[derive(Clone, Copy)]
struct Owner {
    process: libc::pid_t,
    thread: libc::pid_t,
    /// The same thread, for a comparison without a system call.
    handle: usize,
}

impl Owner {
    fn this_thread() -> Self {
        // SAFETY: these take nothing and always succeed.
        let (process, thread) = unsafe { (libc::getpid(), libc::gettid()) };
        Self {
            process,
            thread,
            handle: this_handle(),
        }
    }

    /// Async-signal-safe.
    fn wake_from_elsewhere(self) {
        if this_handle() != self.handle {
            // SAFETY: tgkill(2) touches no memory of ours. A thread that has ended is not found.
            unsafe { libc::syscall(libc::SYS_tgkill, self.process, self.thread, libc::SIGCHLD) };
        }
    }
}

/// A number to glibc, an address to musl.
fn this_handle() -> usize {
    // SAFETY: pthread_self(3) takes nothing and always succeeds.
    unsafe { libc::pthread_self() as usize }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use proptest::prelude::*;

    use super::super::{LetIn, block_only, poll, unblock_all};
    use super::*;

    proptest! {
        #[test]
        fn a_sender_comes_out_as_it_was_put_in(pid in 0..1 << 22, uid in any::<u32>()) {
            for sender in [Sender::Kernel, Sender::Other, Sender::Process(pid, uid)] {
                prop_assert_eq!(Sender::unpack(sender.pack()), Some(sender));
            }
        }
    }

    #[test]
    fn what_another_thread_is_interrupted_with_wakes_the_owner() {
        let mut mailbox = Mailbox::open(&[libc::SIGUSR1, libc::SIGCHLD]).unwrap();
        block_only(&[libc::SIGUSR1, libc::SIGCHLD]);
        let other = std::thread::spawn(|| {
            unblock_all();
            let this = Owner::this_thread();
            // SAFETY: tgkill(2) touches no memory of ours.
            unsafe { libc::syscall(libc::SYS_tgkill, this.process, this.thread, libc::SIGUSR1) };
        });
        let woken = poll(&mut [], Some(Duration::from_secs(10)), LetIn::All);
        assert_eq!(woken.unwrap_err().raw_os_error(), Some(libc::EINTR));
        let came: Vec<c_int> = mailbox.take().map(|(signal, _)| signal).collect();
        assert_eq!(came, [libc::SIGUSR1, libc::SIGCHLD]);
        other.join().unwrap();
    }

    #[test]
    fn a_blocked_signal_is_taken_out_with_its_sender() {
        block_only(&[libc::SIGUSR1]);
        let mut mailbox = Mailbox::open(&[libc::SIGUSR1]).unwrap();
        assert!(mailbox.queue().is_some());
        // SAFETY: raise(3) touches no memory of ours.
        unsafe { libc::raise(libc::SIGUSR1) };
        let came: Vec<_> = mailbox.take().collect();
        assert_eq!(came, [(libc::SIGUSR1, Sender::Other)]);
        assert_eq!(mailbox.take().count(), 0);
    }

    #[test]
    fn all_that_are_pending_are_taken_out_at_once() {
        let many = [
            libc::SIGHUP,
            libc::SIGINT,
            libc::SIGQUIT,
            libc::SIGUSR1,
            libc::SIGUSR2,
            libc::SIGALRM,
            libc::SIGTERM,
            libc::SIGWINCH,
        ];
        block_only(&many);
        for count in 0..=many.len() {
            let mut mailbox = Mailbox::open(&many).unwrap();
            for signal in &many[..count] {
                // SAFETY: raise(3) touches no memory of ours.
                unsafe { libc::raise(*signal) };
            }
            let came: Vec<c_int> = mailbox.take().map(|(signal, _)| signal).collect();
            assert_eq!(came, many[..count]);
        }
    }

    #[test]
    fn who_sent_it_is_kept_until_it_is_taken_out_once() {
        let mut mailbox = Mailbox::open(&[libc::SIGUSR2]).unwrap();
        // SAFETY: kill(2) touches no memory of ours.
        unsafe { libc::kill(libc::getpid(), libc::SIGUSR2) };
        let deadline = Instant::now() + Duration::from_secs(10);
        let came = loop {
            let came: Vec<_> = mailbox.take().collect();
            if !came.is_empty() || Instant::now() > deadline {
                break came;
            }
        };
        let uid = rustix::process::getuid().as_raw();
        let this = std::process::id().cast_signed();
        assert_eq!(came, [(libc::SIGUSR2, Sender::Process(this, uid))]);
        assert_eq!(mailbox.take().count(), 0);
    }
}
