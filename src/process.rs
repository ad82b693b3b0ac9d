//! Who a process is, whether it lives, and how to signal it without hitting somebody else.
//!
//! A pid is not an identity: the kernel hands the number out again. Here a process is a pid with
//! its start time and the boot it belongs to, and a signal goes through a pidfd
//! (`pidfd_open(2)`), which stays with the process it was opened on.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use rustix::process::{PidfdFlags, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

use crate::procfs::{PROC_NEEDED, field, read_bounded, read_line, unless_absent};
use crate::signal::Signal;

/// A process id: a positive number, and no more than a hint.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "i64", into = "i32")]
pub struct Pid(i32);

impl Pid {
    /// The first process of a pid namespace.
    pub const INIT: Self = Self(1);

    /// A pid from a number, if it can be one.
    #[must_use]
    pub fn new(number: i64) -> Option<Self> {
        i32::try_from(number)
            .ok()
            .filter(|number| *number > 0)
            .map(Self)
    }

    /// This process.
    #[must_use]
    pub fn this() -> Self {
        Self(rustix::process::getpid().as_raw_nonzero().get())
    }

    /// The number.
    #[must_use]
    pub fn get(self) -> i32 {
        self.0
    }

    /// The process that had this number and started then.
    #[must_use]
    pub(crate) fn started(self, start_time: u64) -> Identity {
        Identity {
            pid: self,
            start_time,
        }
    }

    pub(crate) fn raw(self) -> rustix::process::Pid {
        rustix::process::Pid::from_raw(self.0).expect("a Pid is positive")
    }
}

/// Who a process is. A number alone is handed on; with the time of its start it is nobody else's, as long as
/// the host runs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Identity {
    /// Its number in our pid namespace.
    pub pid: Pid,
    /// When it started, in clock ticks since boot.
    pub start_time: u64,
}

impl fmt::Display for Pid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl TryFrom<i64> for Pid {
    type Error = &'static str;

    fn try_from(number: i64) -> Result<Self, Self::Error> {
        Self::new(number).ok_or("not a pid")
    }
}

impl From<Pid> for i32 {
    fn from(pid: Pid) -> Self {
        pid.0
    }
}

/// A process that cannot be mistaken for another one that gets its number later.
///
/// An open pidfd does not keep the number: once the process is reaped, the kernel may hand it on. So
/// look at the process *after* it was opened: what is then seen under the number is the pinned
/// process, or the pinned process is gone, and a signal through the pidfd reaches nobody (ESRCH,
/// pidfd_send_signal(2)).
#[derive(Debug)]
pub struct Pinned {
    pid: Pid,
    fd: OwnedFd,
}

impl Pinned {
    /// Opens a pidfd. `None`: there is no such process (or it is a thread's number). Never waits.
    ///
    /// Who it is, is not said: look at the process afterwards.
    ///
    /// # Errors
    /// No descriptor is left, or `pidfd_open(2)` is not there (before Linux 5.3) or not allowed.
    pub fn open(pid: Pid) -> io::Result<Option<Self>> {
        match pidfd_open(pid.raw(), PidfdFlags::empty()) {
            Ok(fd) => Ok(Some(Self { pid, fd })),
            // EINVAL and ENOENT: the number is a thread's, not a process's (pidfd_open(2)).
            Err(rustix::io::Errno::SRCH | rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => {
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Likewise, of the process that `/proc` shows under this number. `None` also where `/proc` is that of
    /// another pid namespace, and shows somebody else there: whom it shows is whom we judge by.
    ///
    /// # Errors
    /// As [`Pinned::open`], and where `/proc` does not show our own pidfds.
    pub fn open_shown(pid: Pid) -> io::Result<Option<Self>> {
        let Some(pinned) = Self::open(pid)? else {
            return Ok(None);
        };
        // A number of the namespace that this `/proc` was mounted for; -1 once the process is gone
        // (pidfd_show_fdinfo in the kernel's kernel/fork.c, since 6.9 in fs/pidfs.c).
        let path = format!("/proc/self/fdinfo/{}", pinned.fd.as_raw_fd());
        let text = read_bounded(&path, 4096)?;
        let same = field(&text, "Pid").is_some_and(|shown| shown.parse() == Ok(pid.0));
        Ok(same.then_some(pinned))
    }

    /// The pid it was opened on.
    #[must_use]
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Whether the process has ended, all its threads included. Never waits.
    #[must_use]
    pub fn exited(&self) -> bool {
        let mut fds = [rustix::event::PollFd::new(
            &self.fd,
            rustix::event::PollFlags::IN,
        )];
        let now = rustix::event::Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        matches!(rustix::event::poll(&mut fds, Some(&now)), Ok(1))
    }

    /// Sends a signal (`pidfd_send_signal(2)`).
    ///
    /// # Errors
    /// EPERM: not ours to signal. ESRCH: it has ended. EINVAL: a signal without a name.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        let signal = signal.raw().ok_or(rustix::io::Errno::INVAL)?;
        Ok(pidfd_send_signal(&self.fd, signal)?)
    }

    /// Whether this process may signal it. Where the question itself is refused, it may not.
    ///
    /// Signal 0 tests the permission without sending anything (`kill(2)`).
    #[must_use]
    pub fn may_signal(&self) -> bool {
        crate::sys::test_signal(self.fd.as_fd()).is_ok_and(|allowed| allowed)
    }
}

impl AsFd for Pinned {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A line of `/proc/PID/stat`, as far as it is used here (`proc_pid_stat(5)`).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stat {
    /// The process.
    pub pid: Pid,
    /// Its name, at most 15 bytes, chosen by itself.
    pub name: OsString,
    /// R, S, D, T, t, Z, X, …
    pub state: u8,
    /// Its parent; 0 for a namespace's first process.
    pub parent: i32,
    /// Its controlling terminal's device number; 0: none.
    pub terminal: i64,
    /// The kernel's PF_ flags.
    pub flags: u64,
    /// How many threads it has.
    pub threads: u64,
    /// When it started, in clock ticks since boot.
    pub start_time: u64,
    /// Where its environment ends; 0: it has none yet (or no more), or that is not for us to know.
    pub environment_end: u64,
}

/// PF_EXITING of the kernel's `include/linux/sched.h`.
const PF_EXITING: u64 = 0x4;

/// PF_KTHREAD, likewise.
const PF_KTHREAD: u64 = 0x20_0000;

impl Stat {
    /// Reads the line of one process; `None` where there is none, or not for us to read, or where
    /// the system is short of something at the moment.
    #[must_use]
    pub fn of(pid: Pid) -> Option<Self> {
        Self::look(pid).ok().flatten()
    }

    /// The same, if the number still is this process's.
    #[must_use]
    pub fn of_same(who: Identity) -> Option<Self> {
        Self::of(who.pid).filter(|stat| stat.identity() == who)
    }

    /// Who it is.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.pid.started(self.start_time)
    }

    /// Reads the line of one process; `None` where there is none, or not for us to read.
    ///
    /// # Errors
    /// It could not be looked at just now: that says nothing.
    pub fn look(pid: Pid) -> io::Result<Option<Self>> {
        let line = unless_absent(read_line(&format!("/proc/{pid}/stat")))?;
        Ok(line.and_then(|line| Self::parse(&line)))
    }

    /// The same process as it is now; `None` where it is gone, and its number may be somebody else's.
    ///
    /// # Errors
    /// As [`Stat::look`].
    pub fn again(&self) -> io::Result<Option<Self>> {
        let same = |now: &Self| now.start_time == self.start_time;
        Ok(Self::look(self.pid)?.filter(same))
    }

    /// Reads our own.
    ///
    /// # Errors
    /// `/proc` is not mounted or not readable, or is that of another pid namespace.
    pub fn of_this() -> crate::Result<Self> {
        let bytes = read_line("/proc/self/stat").map_err(|error| {
            crate::Error::system("cannot read /proc/self/stat")
                .because(error)
                .advise(PROC_NEEDED)
        })?;
        let stat = Self::parse(&bytes)
            .ok_or_else(|| crate::Error::system("cannot understand /proc/self/stat"))?;
        if stat.pid == Pid::this() {
            return Ok(stat);
        }
        let what = format!(
            "cannot use /proc: it is that of another pid namespace, in which pid {} is {}",
            Pid::this(),
            stat.pid
        );
        Err(crate::Error::system(what).advise(
            "mount one of this namespace (mount -t proc proc /proc, or unshare --mount-proc)",
        ))
    }

    /// Parses the line. The name may hold anything, `)` included: it ends at the last one.
    #[must_use]
    pub fn parse(line: &[u8]) -> Option<Self> {
        let open = line.iter().position(|byte| *byte == b'(')?;
        let close = line.iter().rposition(|byte| *byte == b')')?;
        let name = line.get(open + 1..close)?;
        let pid = std::str::from_utf8(line.get(..open)?)
            .ok()?
            .trim_end()
            .parse()
            .ok()?;
        let rest = std::str::from_utf8(line.get(close + 1..)?).ok()?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        // proc_pid_stat(5) counts from 1; the first after the name is field 3.
        let field = |number: usize| fields.get(number - 3).copied();
        Some(Self {
            pid: Pid::new(pid)?,
            name: OsStr::from_bytes(name).to_os_string(),
            state: *field(3)?.as_bytes().first()?,
            parent: field(4)?.parse().ok()?,
            terminal: field(7)?.parse().ok()?,
            flags: field(9)?.parse().ok()?,
            threads: field(20)?.parse().ok()?,
            start_time: field(22)?.parse().ok()?,
            environment_end: field(51).and_then(|end| end.parse().ok()).unwrap_or(0),
        })
    }

    /// Dead, and not yet collected by its parent. One whose first thread alone has ended is not:
    /// the others have its memory and its descriptors.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        self.state == b'X' || self.state == b'Z' && self.threads <= 1
    }

    /// This thread is exiting: it has lost its memory, and keeps its descriptors for a while.
    #[must_use]
    pub fn is_exiting(&self) -> bool {
        self.flags & PF_EXITING != 0
    }

    /// All of its threads are exiting: the first one may end long before the others.
    #[must_use]
    pub fn is_leaving(&self) -> bool {
        let thread = |name: &OsStr| Self::of(Pid::new(name.to_str()?.parse().ok()?)?);
        let goes_on = |name: &OsStr| thread(name).is_some_and(|thread| !thread.is_exiting());
        self.is_exiting()
            && !std::fs::read_dir(format!("/proc/{}/task", self.pid))
                .into_iter()
                .flatten()
                .flatten()
                .any(|task| goes_on(&task.file_name()))
    }

    /// In the middle of execve(2): it has new memory, and its environment is not there yet
    /// (`create_elf_tables` in the kernel's `fs/binfmt_elf.c` comes after what may have to be read from
    /// a disk). True also of one whose memory is not for us to look at.
    #[must_use]
    pub fn is_becoming_another(&self) -> bool {
        self.environment_end == 0 && !self.is_exiting() && !self.is_kernel_thread()
    }

    /// A thread of the kernel's own.
    #[must_use]
    pub fn is_kernel_thread(&self) -> bool {
        self.flags & PF_KTHREAD != 0
    }

    /// Stopped by a signal or a tracer.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        matches!(self.state, b'T' | b't')
    }
}

/// How long ago a process started, as exactly as the kernel's clock ticks tell
/// (`proc_pid_stat(5)`, field 22).
#[must_use]
pub fn age(stat: &Stat) -> Duration {
    let ticks = rustix::param::clock_ticks_per_second();
    let started = Duration::from_millis(stat.start_time.saturating_mul(1000) / ticks);
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::try_from(now)
        .unwrap_or_default()
        .saturating_sub(started)
}

/// The kernel's id of this boot: without it a start time says nothing after a reboot. It is read once.
///
/// # Errors
/// `/proc` is not mounted or not readable.
pub fn boot_id() -> crate::Result<String> {
    static KNOWN: OnceLock<String> = OnceLock::new();
    if let Some(known) = KNOWN.get() {
        return Ok(known.clone());
    }
    let path = "/proc/sys/kernel/random/boot_id";
    let bytes = read_line(path).map_err(|error| {
        crate::Error::system(format!("cannot read {path}"))
            .because(error)
            .advise(PROC_NEEDED)
    })?;
    let read = String::from_utf8_lossy(&bytes).trim().to_owned();
    Ok(KNOWN.get_or_init(|| read).clone())
}

/// The command line, as its arguments; empty for a kernel thread, a zombie or a stranger's.
#[must_use]
pub fn argv(pid: Pid) -> Vec<OsString> {
    let bytes = read_bounded(&format!("/proc/{pid}/cmdline"), 64 * 1024).unwrap_or_default();
    let bytes = bytes.strip_suffix(b"\0").unwrap_or(&bytes);
    if bytes.is_empty() {
        return Vec::new();
    }
    bytes
        .split(|byte| *byte == 0)
        .map(|argument| OsString::from_vec(argument.to_vec()))
        .collect()
}

/// The environment it was started with, as far as it may be read.
#[derive(Debug, Default)]
pub struct Environ(Vec<u8>);

impl Environ {
    /// Reads it; that of a living thread where the first one has ended. Empty: the process is on its
    /// way out, is becoming another program at this moment (execve(2) takes the old environment away
    /// before the new one can be read), or was started without one. `None`: not for us to read.
    ///
    /// # Errors
    /// It could not be looked at just now: that says nothing.
    pub fn look(pid: Pid) -> io::Result<Option<Self>> {
        let read = |path: &str| unless_absent(read_bounded(path, 8 << 20));
        let Some(bytes) = read(&format!("/proc/{pid}/environ"))? else {
            return Ok(None);
        };
        if !bytes.is_empty() {
            return Ok(Some(Self(bytes)));
        }
        let tasks = unless_absent(std::fs::read_dir(format!("/proc/{pid}/task")))?;
        for task in tasks.into_iter().flatten() {
            let path = task?.path().join("environ");
            if let Some(bytes) = read(&path.to_string_lossy())?.filter(|bytes| !bytes.is_empty()) {
                return Ok(Some(Self(bytes)));
            }
        }
        Ok(Some(Self::default()))
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// From bytes as in `/proc/PID/environ`: `NAME=value`, each ended by a zero byte.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Self {
        Self(bytes.to_vec())
    }

    /// The value of the first entry with this name, as `getenv(3)` finds it.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.0
            .split(|byte| *byte == 0)
            .find_map(|entry| entry.strip_prefix(name.as_bytes())?.strip_prefix(b"="))
    }
}

/// The effective uid, from the owner of `/proc/PID`.
#[must_use]
pub fn uid(pid: Pid) -> Option<u32> {
    use std::os::unix::fs::MetadataExt;
    Some(std::fs::metadata(format!("/proc/{pid}")).ok()?.uid())
}

/// Its real, effective, saved and file system uid (proc_pid_status(5)): who it is, also while it acts as
/// somebody else for a moment (seteuid(2)). `None`: it is gone.
///
/// # Errors
/// It could not be looked at just now: that says nothing.
pub fn uids(pid: Pid) -> io::Result<Option<[u32; 4]>> {
    let status = unless_absent(read_bounded(&format!("/proc/{pid}/status"), 64 * 1024))?;
    Ok(status.and_then(|status| parse_uids(&status)))
}

fn parse_uids(status: &[u8]) -> Option<[u32; 4]> {
    let mut uids = field(status, "Uid")?.split_ascii_whitespace();
    let mut next = || uids.next()?.parse().ok();
    Some([next()?, next()?, next()?, next()?])
}

/// The executable's path, as the kernel tells it; a replaced file's name without ` (deleted)`.
#[must_use]
pub fn executable(pid: Pid) -> Option<PathBuf> {
    let link = std::fs::read_link(format!("/proc/{pid}/exe"))
        .ok()?
        .into_os_string()
        .into_vec();
    let link = link.strip_suffix(b" (deleted)").unwrap_or(&link);
    Some(PathBuf::from(OsStr::from_bytes(link)))
}

/// The inode of its pid namespace: numbers mean the same in the same namespace only. `None`: it is gone, or
/// not for us to look at.
///
/// # Errors
/// It could not be looked at just now: that says nothing.
pub fn pid_namespace(pid: Pid) -> io::Result<Option<u64>> {
    let link = unless_absent(std::fs::read_link(format!("/proc/{pid}/ns/pid")))?;
    Ok(link.and_then(|link| parse_namespace(&link)))
}

/// The inode of the pid namespace that the machine was booted in, of which all others are a part
/// (`PROC_PID_INIT_INO` in the kernel's `include/linux/proc_ns.h`).
pub const FIRST_PID_NAMESPACE: u64 = 0xEFFF_FFFC;

/// The inode of our own pid namespace.
#[must_use]
pub fn own_pid_namespace() -> Option<u64> {
    parse_namespace(&std::fs::read_link("/proc/self/ns/pid").ok()?)
}

fn parse_namespace(link: &std::path::Path) -> Option<u64> {
    link.to_str()?
        .strip_prefix("pid:[")?
        .strip_suffix(']')?
        .parse()
        .ok()
}

/// The number a process has in its own pid namespace: the last of `NSpid:` in its status. `None`: it is gone.
///
/// # Errors
/// It could not be looked at just now: that says nothing.
pub fn innermost_pid(pid: Pid) -> io::Result<Option<Pid>> {
    let status = unless_absent(read_bounded(&format!("/proc/{pid}/status"), 64 * 1024))?;
    let last = |status: Vec<u8>| {
        let numbers = field(&status, "NSpid")?;
        Pid::new(numbers.split_ascii_whitespace().next_back()?.parse().ok()?)
    };
    Ok(status.and_then(last))
}

/// Whether SIGKILL has been sent to it and not been acted on yet: `SigPnd:` and `ShdPnd:` of its
/// status are masks in hex (proc_pid_status(5)).
#[must_use]
pub fn has_pending_kill(pid: Pid) -> bool {
    let status = read_bounded(&format!("/proc/{pid}/status"), 64 * 1024).unwrap_or_default();
    let kill = 1 << (libc::SIGKILL - 1);
    ["SigPnd", "ShdPnd"]
        .iter()
        .filter_map(|name| u64::from_str_radix(field(&status, name)?, 16).ok())
        .any(|mask| mask & kill != 0)
}

/// Our parent, its parent, and so on, as far as they can be seen.
#[must_use]
pub fn ancestors() -> Vec<Pid> {
    let mut chain = Vec::new();
    let mut next = Stat::of(Pid::this()).map_or(0, |stat| stat.parent);
    while let Some(pid) = Pid::new(next.into()) {
        if chain.contains(&pid) {
            break;
        }
        chain.push(pid);
        next = Stat::of(pid).map_or(0, |stat| stat.parent);
    }
    chain
}

/// The children of a process now, as far as the kernel lists them (proc_tid_children(5)).
/// `None`: it does not.
#[must_use]
pub fn children(pid: Pid) -> Option<Vec<Pid>> {
    let mut found = Vec::new();
    for task in std::fs::read_dir(format!("/proc/{pid}/task")).ok()? {
        let path = task.ok()?.path().join("children");
        let text = read_bounded(path.to_str()?, 1 << 20).ok()?;
        let numbers = std::str::from_utf8(&text).ok()?.split_ascii_whitespace();
        found.extend(numbers.filter_map(|number| Pid::new(number.parse().ok()?)));
    }
    Some(found)
}

/// What descends from a process, as far as the kernel lists it: quick, and may miss some that are
/// born or adopted meanwhile. `process_table::Family` is a look that does not.
#[must_use]
pub fn listed_descendants(root: Pid) -> Vec<Pid> {
    let mut found = vec![root];
    let mut next = 0;
    while let Some(pid) = found.get(next).copied() {
        next += 1;
        found.extend(children(pid).unwrap_or_default());
    }
    found.remove(0);
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn stat_reads_what_the_kernel_says_of_us() {
        let stat = Stat::of_this().unwrap();
        assert_eq!(stat.pid, Pid::this());
        assert_eq!(
            stat.parent,
            rustix::process::getppid().unwrap().as_raw_nonzero().get()
        );
        assert!(stat.start_time > 0 && !stat.is_dead() && !stat.is_exiting());
    }

    #[test]
    fn a_name_cannot_forge_the_fields_behind_it() {
        let line = b"42 (a) R 1 (b)) S 7 42 42 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 1 0 9999 1 2";
        let stat = Stat::parse(line).unwrap();
        assert_eq!(
            (stat.pid, stat.state, stat.parent, stat.start_time),
            (Pid(42), b'S', 7, 9999)
        );
        assert_eq!(stat.name, "a) R 1 (b)");
    }

    #[test]
    fn a_process_lives_as_long_as_one_of_its_threads() {
        let line = |state: char, threads: u32| {
            format!("42 (a) {state} 7 42 42 0 -1 4 1 2 3 4 5 6 7 8 20 0 {threads} 0 9999 1 2")
        };
        let dead = |state, threads| {
            Stat::parse(line(state, threads).as_bytes())
                .unwrap()
                .is_dead()
        };
        assert!(dead('Z', 1) && dead('Z', 0) && dead('X', 1));
        assert!(!dead('Z', 2) && !dead('S', 1));
    }

    /// proc_pid_stat(5), fields 45 to 52: the last of memory, arguments and environment, and the exit code.
    #[test]
    fn who_has_no_environment_yet_is_becoming_another() {
        let line = |flags: u64, environment_end: u64| {
            let zeros = "0 ".repeat(22);
            let text = format!(
                "42 (a) D 7 42 42 0 -1 {flags} 1 2 3 4 5 6 7 8 20 0 1 0 9999 {zeros}5 6 7 8 9 0 {environment_end} 0"
            );
            Stat::parse(text.as_bytes()).unwrap()
        };
        assert_eq!(line(0, 77).environment_end, 77);
        assert!(line(0, 0).is_becoming_another() && !line(0, 77).is_becoming_another());
        assert!(!line(PF_EXITING, 0).is_becoming_another());
        assert!(!line(PF_KTHREAD, 0).is_becoming_another());
        let this = Stat::of_this().unwrap();
        assert!(this.environment_end > 0 && !this.is_becoming_another());
    }

    #[test]
    fn a_process_that_was_started_without_an_environment_is_what_it_is() {
        let mut child = Command::new("sleep").arg("60").env_clear().spawn().unwrap();
        let pid = Pid::new(child.id().into()).unwrap();
        while argv(pid).is_empty() {
            std::thread::yield_now();
        }
        assert!(Environ::look(pid).unwrap().unwrap().is_empty());
        assert!(!Stat::of(pid).unwrap().is_becoming_another());
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn torn_stat_lines_are_nothing() {
        for line in [
            &b""[..],
            b"1",
            b"1 (a",
            b"1 a)",
            b")(",
            b"1 (a) S",
            b"0 (a) S 1 1 1 0 1 1 1",
        ] {
            assert_eq!(Stat::parse(line), None, "{}", String::from_utf8_lossy(line));
        }
    }

    proptest::proptest! {
        #[test]
        fn any_stat_line_is_survived(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..600)) {
            let _ = Stat::parse(&bytes);
        }
    }

    /// In a pid namespace below that of /proc our own number is somebody else's there.
    #[test]
    fn whom_proc_does_not_show_under_its_number_is_not_pinned() {
        const PART: &str = "GATEWAY_TEST_PART";
        let pinned = |open: fn(Pid) -> io::Result<Option<Pinned>>| open(Pid::this()).unwrap();
        if std::env::var_os(PART).is_some() {
            assert!(pinned(Pinned::open).is_some() && pinned(Pinned::open_shown).is_none());
            assert!(Stat::of_this().is_err());
            return;
        }
        assert!(pinned(Pinned::open_shown).is_some());
        let name = "process::tests::whom_proc_does_not_show_under_its_number_is_not_pinned";
        let below = Command::new("unshare")
            .args(["--pid", "--fork", "--kill-child=KILL"])
            .arg(std::env::current_exe().unwrap())
            .args([name, "--exact", "--test-threads=1"])
            .env(PART, "below")
            .output()
            .unwrap();
        assert!(below.status.success(), "{below:?}");
    }

    #[test]
    fn a_pinned_process_is_told_apart_from_its_number() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let pid = Pid::new(child.id().into()).unwrap();
        let pinned = Pinned::open(pid).unwrap().unwrap();
        assert!(!pinned.exited() && pinned.may_signal());
        // spawn returns when the new memory is there, which is before its command line is.
        while argv(pid).is_empty() {
            std::thread::yield_now();
        }
        assert_eq!(argv(pid).last().unwrap(), "60");
        pinned.signal(Signal::KILL).unwrap();
        child.wait().unwrap();
        assert!(pinned.exited());
        assert_eq!(
            pinned.signal(Signal::TERM).unwrap_err().raw_os_error(),
            Some(libc::ESRCH)
        );
        assert!(Pinned::open(pid).unwrap().is_none());
    }

    #[test]
    fn the_environment_is_searched_by_whole_names() {
        let environ =
            Environ::from_bytes(b"XGATEWAY=1\0GATEWAY_PID=7\0GATEWAY=ok\0GATEWAY=later\0");
        assert_eq!(environ.get("GATEWAY"), Some(&b"ok"[..]));
        assert_eq!(environ.get("GATEWAY_PID"), Some(&b"7"[..]));
        assert_eq!(environ.get("GATE"), None);
    }

    #[test]
    fn an_age_is_counted_from_the_start() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let stat = Stat::of(Pid::new(child.id().into()).unwrap()).unwrap();
        let first = Stat::of(Pid::INIT).unwrap();
        assert!(age(&stat) < Duration::from_secs(20) && age(&stat) < age(&first));
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn our_children_are_listed() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let pid = Pid::new(child.id().into()).unwrap();
        assert!(children(Pid::this()).unwrap().contains(&pid));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!children(Pid::this()).unwrap().contains(&pid));
    }
}
