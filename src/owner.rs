//! Whose is what root makes in somebody's directory: theirs.

use std::os::fd::{AsFd, AsRawFd};

use rustix::fs::{Access, AtFlags, CWD, Gid, Stat, Uid, accessat, chownat};
use rustix::io::Errno;

/// Gives what root has just made to the owner of the directory that it was made in: a service's user could
/// not use root's, and every start of it would fail until somebody removed that.
///
/// It stays root's where root could not use it so any more, where the owner has no number in this user
/// namespace, and where a server lets root give nothing.
///
/// # Errors
/// `chown(2)` fails for another reason.
pub(crate) fn give(made: impl AsFd, directory: &Stat, needed: Access) -> Result<(), Errno> {
    let us = rustix::process::geteuid();
    let theirs = directory.st_uid;
    if !us.is_root() || theirs == us.as_raw() || has_no_number(theirs) {
        return Ok(());
    }
    let change = |uid: u32, gid: u32| {
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        chownat(&made, "", Some(uid), Some(gid), AtFlags::EMPTY_PATH)
    };
    match change(theirs, directory.st_gid) {
        Err(Errno::INVAL | Errno::PERM) => return Ok(()),
        changed => changed?,
    }
    // Root without CAP_DAC_OVERRIDE may use its own alone.
    let link = format!("/proc/self/fd/{}", made.as_fd().as_raw_fd());
    if accessat(CWD, link, needed, AtFlags::EACCESS) == Err(Errno::ACCESS) {
        change(us.as_raw(), rustix::process::getegid().as_raw())?;
    }
    Ok(())
}

/// Whether this is the number that stands for all who have none here (user_namespaces(7), "Unmapped user
/// and group IDs"): in a container it is that of a user, too, and of nobody else's choice.
fn has_no_number(uid: u32) -> bool {
    let number = |path: &str| std::fs::read_to_string(path).ok()?.trim().parse().ok();
    if uid != number("/proc/sys/kernel/overflowuid").unwrap_or(65534) {
        return false;
    }
    // On the host everybody has one.
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    !map.split_ascii_whitespace().eq(["0", "0", "4294967295"])
}
