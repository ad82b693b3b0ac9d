//! The kernel, where the safe wrappers end: the only unsafe code, and the only use of fs2.
//!
//! Everything else in this crate speaks to the kernel through std and rustix.

use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use libc::c_int;

/// Tries to take the exclusive `flock(2)` lock on this open file. Never waits.
///
/// `false` means that another open file description has a lock. fs2 is called by its trait path
/// because std's `File` has methods of its own with nearly the same names. Neither of them tries
/// again after a signal (`EINTR`), hence the loop.
pub fn try_flock(file: &File) -> io::Result<bool> {
    retry_flock(|| fs2::FileExt::try_lock_exclusive(file))
}

/// Tries to take a shared lock. Never waits. `false`: somebody has the exclusive one.
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

/// What a process does when a signal comes: only the two answers that survive `execve(2)`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Disposition {
    /// The kernel's own answer, or a handler (which `execve` resets to it).
    Default,
    /// Nothing.
    Ignored,
}

/// Reads how this process answers a signal now.
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
    // SAFETY: SIG_DFL and SIG_IGN run no code of ours, so nothing can be called at a bad moment.
    unsafe { libc::signal(signal, handler) };
}

/// All signals blocked until this is dropped; the mask of before is then put back.
///
/// A child forked meanwhile inherits the full mask and cannot hear a signal before it has set
/// its dispositions (see [`Upbringing`]).
#[must_use]
pub struct Quiet {
    before: libc::sigset_t,
}

impl Quiet {
    /// Blocks every signal that can be blocked, in this thread.
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
        Self { before }
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

/// What a child does between fork and exec.
#[derive(Clone, Debug)]
pub struct Upbringing {
    /// Die with the parent: SIGKILL when the thread that forked ends. `None` where we become the
    /// command ourselves.
    pub parent: Option<rustix::process::Pid>,
    /// Make a process group of its own.
    pub own_group: bool,
    /// The dispositions to leave behind.
    pub dispositions: Vec<(c_int, Disposition)>,
}

/// Makes `command` follow `plan` between fork and exec, and start with an empty signal mask.
pub fn bring_up(command: &mut Command, plan: Upbringing) {
    // SAFETY: between fork and exec only async-signal-safe calls are allowed. `follow` makes plain
    // system calls through libc and rustix, allocates nothing and takes no lock.
    unsafe { command.pre_exec(move || follow(&plan)) };
}

fn follow(plan: &Upbringing) -> io::Result<()> {
    if let Some(parent) = plan.parent {
        die_with(parent)?;
    }
    if plan.own_group {
        rustix::process::setpgid(None, None)?;
    }
    for &(signal, disposition) in &plan.dispositions {
        set_disposition(signal, disposition);
    }
    let mut none = MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: the set is ours and zero is a valid set; see `Quiet::begin`.
    unsafe {
        libc::sigemptyset(none.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, none.as_ptr(), std::ptr::null_mut());
    }
    Ok(())
}

/// prctl(2), PR_SET_PDEATHSIG: the signal comes when the parent dies *after* the call, so whether
/// the parent is still the one that forked us is looked at once more.
fn die_with(parent: rustix::process::Pid) -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    if rustix::process::getppid() == Some(parent) {
        return Ok(());
    }
    Err(io::Error::from_raw_os_error(libc::ECHILD))
}

/// The sender that a signal's `siginfo_t` names: `si_code`, `si_pid`, `si_uid`.
pub fn sender(info: &libc::siginfo_t) -> (c_int, c_int, u32) {
    // SAFETY: the two fields are plain integers inside a union that the kernel filled in full;
    // reading them is sound for every si_code, and the caller believes them only for SI_USER.
    let (pid, uid) = unsafe { (info.si_pid(), info.si_uid()) };
    (info.si_code, pid, uid)
}

/// Whether a signal to the process behind this pidfd would be allowed, without sending one
/// (kill(2): signal 0). Gone counts as allowed.
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
/// `events` (`DN_*`). 0 cancels.
pub fn notify_directory(directory: BorrowedFd<'_>, events: c_int) -> io::Result<()> {
    // SAFETY: F_NOTIFY takes an int and touches no memory of ours; the descriptor is open.
    match unsafe { libc::fcntl(directory.as_raw_fd(), libc::F_NOTIFY, events) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Makes sure that descriptors 0, 1 and 2 are open, as Rust's runtime does: where one is closed,
/// the next file opened would get its number, and our messages would be written into it.
pub fn ensure_standard_streams() -> io::Result<()> {
    let mut fds = [0, 1, 2].map(|fd| libc::pollfd {
        fd,
        events: 0,
        revents: 0,
    });
    // SAFETY: poll(2) reads and writes exactly the three entries that are ours.
    if unsafe { libc::poll(fds.as_mut_ptr(), 3, 0) } < 0 {
        return Err(io::Error::last_os_error());
    }
    for closed in fds.iter().filter(|fd| fd.revents & libc::POLLNVAL != 0) {
        // The lowest free number is taken (open(2)), and that is this one: they come in order.
        let opened = File::options().read(true).write(true).open("/dev/null")?;
        debug_assert_eq!(opened.as_raw_fd(), closed.fd);
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
