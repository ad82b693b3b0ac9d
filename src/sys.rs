//! The kernel, where the safe wrappers end: the only unsafe code, and the only use of fs2.
//!
//! Everything else in this crate speaks to the kernel through std and rustix.

use std::fs::File;
use std::io;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::Duration;

use libc::c_int;

mod image;
mod mailbox;

pub use image::{Image, Upbringing, Words};
pub use mailbox::{Mailbox, Sender};

/// Tries to take the exclusive `flock(2)` lock on this open file. Never waits.
///
/// `false` means that another open file description has a lock. fs2 is called by its trait path
/// because std's `File` has methods of its own with nearly the same names. Neither of them tries
/// again after a signal (`EINTR`), hence the loop.
///
/// # Errors
/// Every other errno of `flock(2)`: there is no locking on this file system, or no room for a lock.
pub fn try_flock(file: &File) -> io::Result<bool> {
    retry_flock(|| fs2::FileExt::try_lock_exclusive(file))
}

/// Tries to take a shared lock. Never waits. `false`: somebody has the exclusive one.
///
/// # Errors
/// As [`try_flock`].
pub fn try_flock_shared(file: &File) -> io::Result<bool> {
    retry_flock(|| fs2::FileExt::try_lock_shared(file))
}

fn retry_flock(mut attempt: impl FnMut() -> io::Result<()>) -> io::Result<bool> {
    loop {
        match attempt() {
            Ok(()) => return Ok(true),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Tries to take an exclusive lock on one byte of this open file (fcntl(2), `F_OFD_SETLK`). Never
/// waits. `false`: another open file description has it.
///
/// # Errors
/// The file system has no such locks, or there is no room for one.
pub fn try_byte_lock(file: impl AsFd, byte: i64) -> io::Result<bool> {
    match set_byte_lock(file.as_fd(), libc::F_WRLCK, byte, 1) {
        Ok(()) => Ok(true),
        Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// Frees what this open file has locked from a byte on.
///
/// # Errors
/// The file system has no such locks.
pub fn free_byte_locks(file: impl AsFd, from: i64) -> io::Result<()> {
    const TO_THE_END: i64 = 0;
    set_byte_lock(file.as_fd(), libc::F_UNLCK, from, TO_THE_END)
}

fn set_byte_lock(file: BorrowedFd<'_>, kind: i32, start: i64, length: i64) -> io::Result<()> {
    let mut range = MaybeUninit::<libc::flock>::zeroed();
    // SAFETY: an all-zero `flock` is valid (`l_pid` has to be 0); F_OFD_SETLK only reads it, and the
    // descriptor is open for the whole call.
    let answer = unsafe {
        let fields = range.as_mut_ptr();
        (*fields).l_type = kind as libc::c_short;
        (*fields).l_whence = libc::SEEK_SET as libc::c_short;
        (*fields).l_start = start;
        (*fields).l_len = length;
        libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, fields)
    };
    match answer {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// What a process does when a signal comes: only the two answers that survive `execve(2)`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Disposition {
    /// The kernel's own answer, or a handler (which `execve` resets to it).
    Default,
    /// Nothing.
    Ignored,
}

/// Reads how this process answers a signal now. Never fails for a signal that there is.
pub fn disposition(signal: c_int) -> Disposition {
    let mut old = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: a null new action makes sigaction(2) only write the old one, into memory that is
    // large enough and ours; an all-zero sigaction is a valid value should the call fail.
    let handler = unsafe {
        libc::sigaction(signal, std::ptr::null(), old.as_mut_ptr());
        old.assume_init().sa_sigaction
    };
    if handler == libc::SIG_IGN {
        Disposition::Ignored
    } else {
        Disposition::Default
    }
}

/// Sets how this process answers a signal. Async-signal-safe.
pub fn set_disposition(signal: c_int, disposition: Disposition) {
    let handler = match disposition {
        Disposition::Default => libc::SIG_DFL,
        Disposition::Ignored => libc::SIG_IGN,
    };
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: an all-zero sigaction is valid (no flags, an empty mask); SIG_DFL and SIG_IGN run no
    // code of ours, so nothing can be called at a bad moment.
    unsafe {
        (*action.as_mut_ptr()).sa_sigaction = handler;
        libc::sigaction(signal, action.as_ptr(), std::ptr::null_mut());
    }
}

/// All signals blocked until this is dropped; the mask of before is then put back.
///
/// A child forked meanwhile inherits the full mask and cannot hear a signal before it has set
/// its dispositions (see [`Upbringing`]).
#[must_use]
pub struct Quiet {
    before: libc::sigset_t,
    /// A mask belongs to its thread: this value must not be dropped in another one.
    _here: PhantomData<*const ()>,
}

impl Quiet {
    /// Blocks every signal that can be blocked, in this thread. Other threads go on hearing them.
    pub fn begin() -> Self {
        let mut all = MaybeUninit::<libc::sigset_t>::zeroed();
        let mut before = MaybeUninit::<libc::sigset_t>::zeroed();
        // SAFETY: both sets are ours and zero is a valid set; sigfillset and pthread_sigmask only
        // write into them, and cannot fail with these arguments.
        let before = unsafe {
            libc::sigfillset(all.as_mut_ptr());
            libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr());
            before.assume_init()
        };
        Self {
            before,
            _here: PhantomData,
        }
    }

    /// Whether this signal waits to be heard (sigpending(2)).
    #[must_use]
    pub fn is_pending(&self, signal: c_int) -> bool {
        let mut pending = MaybeUninit::<libc::sigset_t>::zeroed();
        // SAFETY: the set is ours, zero is a valid set, and sigpending only writes into it;
        // sigismember reads it.
        unsafe {
            libc::sigpending(pending.as_mut_ptr());
            libc::sigismember(pending.as_ptr(), signal) == 1
        }
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        // SAFETY: the set was filled in by `begin`; a null old set is allowed.
        unsafe {
            libc::pthread_sigmask(
                libc::SIG_SETMASK,
                &raw const self.before,
                std::ptr::null_mut(),
            )
        };
    }
}

/// Lets every signal in that a starter may have left blocked.
pub fn unblock_all() {
    block_only(&[]);
}

/// Blocks these signals in this thread, and lets all others in. Async-signal-safe.
pub fn block_only(signals: &[c_int]) {
    let blocked = set_of(signals);
    // SAFETY: the set is ours; see `Quiet::begin`.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const blocked, std::ptr::null_mut()) };
}

/// Async-signal-safe.
fn set_of(signals: &[c_int]) -> libc::sigset_t {
    let mut set = MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: the set is ours and zero is a valid set. A number that is no signal's is refused and changes
    // nothing.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in signals {
            libc::sigaddset(set.as_mut_ptr(), *signal);
        }
        set.assume_init()
    }
}

/// Which signals are handled during a sleep.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LetIn {
    /// Those that this thread has not blocked.
    Unblocked,
    /// All, the blocked ones, too; they are blocked again when the sleep is over.
    All,
}

/// Sleeps until a descriptor has what it is polled for, a signal was handled (EINTR), or the time is
/// over; without a limit, or with one beyond what the kernel can count, for as long as that takes.
///
/// With [`LetIn::All`] a blocked signal that was pending before is handled at the latest here: the mask
/// is changed and the sleep begun in one step (ppoll(2)). Where a descriptor is ready at once, it may
/// stay pending.
///
/// # Errors
/// EINTR, and ENOMEM.
pub fn poll(fds: &mut [libc::pollfd], limit: Option<Duration>, let_in: LetIn) -> io::Result<usize> {
    let limit = limit.and_then(|limit| {
        Some(libc::timespec {
            tv_sec: limit.as_secs().try_into().ok()?,
            // Below 10^9, which every c_long holds.
            tv_nsec: limit.subsec_nanos() as libc::c_long,
        })
    });
    let limit = limit.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    let none = set_of(&[]);
    let mask = match let_in {
        LetIn::Unblocked => std::ptr::null(),
        LetIn::All => &raw const none,
    };
    // SAFETY: ppoll(2) reads and writes `fds`, a slice of as many as it is told, reads the limit and the
    // set where they are not null, and keeps neither.
    let ready = unsafe { libc::ppoll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, limit, mask) };
    usize::try_from(ready).map_err(|_| io::Error::last_os_error())
}

/// Whether a signal to the process behind this pidfd would be allowed, without sending one
/// (kill(2): signal 0). Gone counts as allowed. Never waits.
///
/// # Errors
/// The system refuses the question itself, for example by a filter of system calls (seccomp(2)).
pub fn test_signal(pidfd: BorrowedFd<'_>) -> io::Result<bool> {
    let none = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: pidfd_send_signal(2) with signal 0, no siginfo and no flags reads and writes no
    // memory of ours; the descriptor is open.
    if unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), 0, none, 0) } == 0 {
        return Ok(true);
    }
    match io::Error::last_os_error() {
        error if error.raw_os_error() == Some(libc::EPERM) => Ok(false),
        error if error.raw_os_error() == Some(libc::ESRCH) => Ok(true),
        error => Err(error),
    }
}

/// The kinds of change that `F_NOTIFY` tells, from the kernel's `include/uapi/linux/fcntl.h`: a file
/// in the directory was modified, made, removed, renamed.
pub const DN_MODIFY: c_int = 0x2;
/// See [`DN_MODIFY`].
pub const DN_CREATE: c_int = 0x4;
/// See [`DN_MODIFY`].
pub const DN_DELETE: c_int = 0x8;
/// See [`DN_MODIFY`].
pub const DN_RENAME: c_int = 0x10;

/// Asks for one SIGIO at the next change in this directory (fcntl(2), F_NOTIFY), of the kinds in
/// `events` (`DN_*`). 0 cancels. Never waits. A mount on top is no change in it.
///
/// # Errors
/// The kernel was built without it (EINVAL), or it is no directory (ENOTDIR).
pub fn notify_directory(directory: BorrowedFd<'_>, events: c_int) -> io::Result<()> {
    // SAFETY: F_NOTIFY takes an int and touches no memory of ours; the descriptor is open.
    match unsafe { libc::fcntl(directory.as_raw_fd(), libc::F_NOTIFY, events) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Has the kernel hand out the first of the heap in one go (madvise(2), `MADV_POPULATE_WRITE`), instead of
/// page by page as each is touched: a hundredth of a start on one virtual machine (EPYC), nothing that can be
/// measured on another (Xeon). A kernel older than 5.14 goes on page by page.
pub fn warm_heap() {
    /// What a start uses. Beyond 64 KiB glibc would tidy up when it is freed.
    const START: usize = 60 * 1024;
    let mut room = vec![MaybeUninit::<Page>::uninit(); START / size_of::<Page>()];
    // SAFETY: the pages lie in memory that is ours and that nothing was written to; what is written
    // there by the kernel, zeros, is any value of bytes that are not initialized.
    unsafe {
        let length = room.len() * size_of::<Page>();
        libc::madvise(room.as_mut_ptr().cast(), length, libc::MADV_POPULATE_WRITE);
    }
}

#[derive(Clone, Copy)]
#[repr(align(4096))]
struct Page {
    _bytes: [u8; 4096],
}

/// Gives unused heap back to the kernel (malloc_trim(3)): a holder sleeps for months.
pub fn trim_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim takes the allocator's own locks, and touches only what is free.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Makes sure that descriptors 0, 1 and 2 are open, as Rust's runtime does: where one is closed,
/// the next file opened would get its number, and our messages would be written into it.
///
/// # Errors
/// `/dev/null` cannot be opened.
pub fn ensure_standard_streams() -> io::Result<()> {
    for fd in 0..3 {
        // SAFETY: F_GETFD reads a flag of a number that need not be an open descriptor.
        if unsafe { libc::fcntl(fd, libc::F_GETFD) } != -1 {
            continue;
        }
        // The lowest free number is taken (open(2)), and that is this one: they come in order.
        let opened = File::options().read(true).write(true).open("/dev/null")?;
        debug_assert_eq!(opened.as_raw_fd(), fd);
        // It stays open for good, and COMMAND inherits it, as it would inherit a terminal.
        rustix::io::fcntl_setfd(&opened, rustix::io::FdFlags::empty())?;
        std::mem::forget(opened);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_description_is_refused_and_closing_frees() {
        let path = tempfile::NamedTempFile::new().unwrap();
        let first = File::open(path.path()).unwrap();
        let second = File::open(path.path()).unwrap();
        assert!(try_flock(&first).unwrap());
        assert!(!try_flock(&second).unwrap());
        assert!(!try_flock_shared(&second).unwrap());
        drop(first);
        assert!(try_flock(&second).unwrap());
    }

    #[test]
    fn dispositions_are_read_back() {
        set_disposition(libc::SIGTTOU, Disposition::Ignored);
        assert_eq!(disposition(libc::SIGTTOU), Disposition::Ignored);
        set_disposition(libc::SIGTTOU, Disposition::Default);
        assert_eq!(disposition(libc::SIGTTOU), Disposition::Default);
    }

    #[test]
    fn quiet_blocks_and_puts_back() {
        let blocked = || {
            let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
            let line = status
                .lines()
                .find(|line| line.starts_with("SigBlk:"))
                .unwrap();
            u64::from_str_radix(line.split_whitespace().nth(1).unwrap(), 16).unwrap()
        };
        let before = blocked();
        let quiet = Quiet::begin();
        assert_ne!(blocked() & (1 << (libc::SIGTERM - 1)), 0);
        drop(quiet);
        assert_eq!(blocked(), before);
    }
}
