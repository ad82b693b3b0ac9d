//! What the kernel prints of locks: `/proc/locks` and `/proc/PID/fdinfo/N`.
//!
//! Device numbers printed there differ from `stat`'s on btrfs and others, and are only ever compared
//! with each other.

use std::os::fd::BorrowedFd;

use crate::mounts::{MountId, Mounts};
use crate::process::Pid;
use crate::procfs::{read_bounded, unless_absent};
use crate::{Error, Result};

/// An exclusive flock that a descriptor has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Flock {
    /// Who took it: the process that called `flock(2)`, whoever has the descriptor now. `None`: it has
    /// ended, or is not visible in this pid namespace.
    pub taker: Option<Pid>,
}

/// The exclusive flock in the text of a `fdinfo` file: a line like
/// `lock: 1: FLOCK  ADVISORY  WRITE 4925 fe:00:131 0 EOF` (proc_pid_fdinfo(5)). The number is one of
/// the pid namespace that this `/proc` was mounted for (`locks_translate_pid` in the kernel's
/// `fs/locks.c`), like the names of the folders in it.
#[must_use]
pub(crate) fn exclusive_flock(fdinfo: &[u8]) -> Option<Flock> {
    lock_lines(fdinfo).find_map(|mut words| {
        let taker = |word: Option<&str>| Pid::new(word?.parse().ok()?);
        is_flock(&mut words, EXCLUSIVE).then(|| Flock {
            taker: taker(words.next()),
        })
    })
}

/// Whether there is a line for a shared flock.
#[must_use]
pub(crate) fn has_shared_flock(fdinfo: &[u8]) -> bool {
    lock_lines(fdinfo).any(|mut words| is_flock(&mut words, SHARED))
}

/// Whether there is a line like `lock: 2: LEASE  ACTIVE    WRITE 4925 fe:00:131 0 EOF`.
pub(crate) fn fdinfo_has_lease(fdinfo: &[u8]) -> bool {
    lock_lines(fdinfo).any(|mut words| words.next() == Some("LEASE"))
}

/// The `lock:` lines of a `fdinfo` file, each as its words behind the number.
fn lock_lines(fdinfo: &[u8]) -> impl Iterator<Item = impl Iterator<Item = &str>> {
    fdinfo
        .split(|byte| *byte == b'\n')
        .filter_map(|line| std::str::from_utf8(line.strip_prefix(b"lock:")?).ok())
        .map(|line| line.split_ascii_whitespace().skip(1))
}

/// What the kernel prints of an exclusive flock, and of a shared one.
const EXCLUSIVE: &str = "WRITE";
const SHARED: &str = "READ";

/// Whether the next three words are those of such a flock.
fn is_flock<'t>(words: &mut impl Iterator<Item = &'t str>, kind: &str) -> bool {
    words.take(3).eq(["FLOCK", "ADVISORY", kind])
}

/// A flock in `/proc/locks`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LockLine<'a> {
    /// Who took it; it may have ended since, and left the lock to a child.
    pub pid: Pid,
    /// The device as printed: `major:minor` in hex.
    pub device: &'a str,
    /// The inode.
    pub inode: u64,
}

/// The exclusive flocks that are held; waiters (`->`), other locks and torn lines are left out.
pub(crate) fn parse_locks(table: &[u8]) -> impl Iterator<Item = LockLine<'_>> {
    parse_flocks(table, EXCLUSIVE)
}

/// The shared ones, likewise. No gateway keeps one: who only looks takes it for an instant.
pub(crate) fn parse_shared_locks(table: &[u8]) -> impl Iterator<Item = LockLine<'_>> {
    parse_flocks(table, SHARED)
}

fn parse_flocks<'t>(table: &'t [u8], kind: &'static str) -> impl Iterator<Item = LockLine<'t>> {
    table.split(|byte| *byte == b'\n').filter_map(move |line| {
        let mut words = std::str::from_utf8(line)
            .ok()?
            .split_ascii_whitespace()
            .skip(1);
        if !is_flock(&mut words, kind) {
            return None;
        }
        let pid = Pid::new(words.next()?.parse().ok()?)?;
        let (device, inode) = words.next()?.rsplit_once(':')?;
        Some(LockLine {
            pid,
            device,
            inode: inode.parse().ok()?,
        })
    })
}

/// The kernel's table of locks, as far as it is visible from our pid namespace; empty where there is none.
///
/// # Errors
/// It cannot be read just now.
pub(crate) fn table_of_locks() -> Result<Vec<u8>> {
    let table = unless_absent(read_bounded("/proc/locks", 64 << 20));
    let cannot = |error| Error::system("cannot read /proc/locks").because(error);
    Ok(table.map_err(cannot)?.unwrap_or_default())
}

/// The processes that `/proc/locks` names as takers of an exclusive flock on this file; nobody where that
/// cannot be told.
pub(crate) fn takers(device: &str, inode: u64) -> Vec<Pid> {
    let table = table_of_locks().unwrap_or_default();
    takers_in(parse_locks(&table), device, inode)
}

/// The takers of those of these locks that are on this file.
pub(crate) fn takers_in<'t>(
    lines: impl Iterator<Item = LockLine<'t>>,
    device: &str,
    inode: u64,
) -> Vec<Pid> {
    lines
        .filter(|line| line.device == device && line.inode == inode)
        .map(|line| line.pid)
        .collect()
}

/// Who took the exclusive flock on a file that we may not open, as far as the table tells.
#[must_use]
pub(crate) fn taker_of(stat: &rustix::fs::Stat) -> Option<Pid> {
    takers(&in_hex(numbers(stat.st_dev)), stat.st_ino)
        .first()
        .copied()
}

/// Our file's device as `/proc/locks` prints it: that of its mount in `/proc/self/mountinfo`.
pub(crate) fn printed_device(fd: BorrowedFd<'_>, dev: u64) -> String {
    let of_mount = MountId::of(fd).and_then(|id| Mounts::ours().device(id));
    in_hex(of_mount.unwrap_or_else(|| numbers(dev)))
}

fn numbers(dev: u64) -> (u32, u32) {
    (rustix::fs::major(dev), rustix::fs::minor(dev))
}

fn in_hex((major, minor): (u32, u32)) -> String {
    format!("{major:02x}:{minor:02x}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_held_exclusive_flocks_count() {
        let table = b"1: POSIX  ADVISORY  WRITE 5 fe:00:7 0 EOF\n2: FLOCK  ADVISORY  WRITE 6 fe:00:7 0 EOF\n\
            2: -> FLOCK  ADVISORY  WRITE 8 fe:00:7 0 EOF\n3: FLOCK  ADVISORY  READ  9 fe:00:7 0 EOF\n\
            4: OFDLCK ADVISORY  WRITE -1 fe:00:7 0 EOF\n5: FLOCK  ADVISORY  WRITE -1 fe:00:7 0 EOF\n6: FLOCK";
        let found: Vec<_> = parse_locks(table)
            .map(|line| (line.pid.get(), line.device, line.inode))
            .collect();
        assert_eq!(found, [(6, "fe:00", 7)]);
        let shared: Vec<_> = parse_shared_locks(table)
            .map(|line| (line.pid.get(), line.device, line.inode))
            .collect();
        assert_eq!(shared, [(9, "fe:00", 7)]);
    }

    #[test]
    fn a_descriptors_flock_has_a_taker_while_that_lives_and_is_visible() {
        let taker = |number: &str| {
            let line =
                format!("pos:\t0\nlock:\t1: FLOCK  ADVISORY  WRITE {number} fe:00:7 0 EOF\n");
            exclusive_flock(line.as_bytes()).expect("a flock").taker
        };
        assert_eq!(taker("6"), Pid::new(6));
        for unknown in ["0", "-1", "x", ""] {
            assert_eq!(taker(unknown), None, "{unknown:?}");
        }
        let behind_a_lease = b"lock:\t1: LEASE  ACTIVE    READ 5 fe:00:7 0 EOF\n\
            lock:\t2: FLOCK  ADVISORY  WRITE 6 fe:00:7 0 EOF\n";
        let flock = exclusive_flock(behind_a_lease);
        assert_eq!(flock.expect("a flock").taker, Pid::new(6));
        for other in [
            &b"lock:\t1: FLOCK  ADVISORY  READ  6 fe:00:7 0 EOF"[..],
            b"lock:\t1: POSIX  ADVISORY  WRITE 6",
            b"FLOCK ADVISORY WRITE",
            b"",
        ] {
            assert_eq!(exclusive_flock(other), None);
        }
        assert!(has_shared_flock(
            b"lock:\t1: FLOCK  ADVISORY  READ  6 fe:00:7 0 EOF"
        ));
        assert!(!has_shared_flock(behind_a_lease));
    }

    proptest! {
        #[test]
        fn any_kernel_text_is_survived(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = exclusive_flock(&bytes);
            let _ = (parse_locks(&bytes).count(), parse_shared_locks(&bytes).count());
            let _ = has_shared_flock(&bytes);
        }
    }
}
