//! The pid file's directory: made where it is missing, and on what kind of file system it lies.

use std::io;
use std::path::Path;

use rustix::fs::Mode;
use rustix::io::Errno;

use crate::unusable::explain;
use crate::{Error, Result};

/// Where the system's own gateways keep their pid files.
pub const SYSTEM_PLACE: &str = "/var/lib/gateway";

/// Makes the missing directories: open to all below `/var/lib/gateway`, private elsewhere.
///
/// # Errors
/// One cannot be made, or something else stands there.
pub(crate) fn create_directories(path: &Path) -> Result<()> {
    let Some(directory) = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
    else {
        return Ok(());
    };
    let mode = if directory.starts_with(SYSTEM_PLACE) {
        0o755
    } else {
        0o700
    };
    let mut missing: Vec<&Path> = directory
        .ancestors()
        .take_while(|ancestor| !ancestor.as_os_str().is_empty() && !ancestor.exists())
        .collect();
    while let Some(next) = missing.pop() {
        match rustix::fs::mkdir(next, Mode::from_raw_mode(mode)) {
            // Whatever the umask: a directory of the system that others cannot pass would hide it.
            Ok(()) => drop(rustix::fs::chmod(next, Mode::from_raw_mode(mode))),
            Err(Errno::EXIST) if next.exists() => {}
            Err(Errno::EXIST) => {
                return Err(Error::pid_file("cannot use the directory", next)
                    .because(io::Error::other(
                        "it is a symbolic link that leads nowhere, or no directory",
                    ))
                    .advise("name another path with -f PATH"));
            }
            Err(errno) => return Err(explain("cannot create the directory", next, errno)),
        }
    }
    Ok(())
}

/// The name of the network file system that a path lies on, if it does: flock may mean less there.
#[must_use]
pub fn network_file_system(path: &Path) -> Option<&'static str> {
    let existing = path.ancestors().find(|ancestor| ancestor.exists())?;
    let kind = rustix::fs::statfs(existing).ok()?.f_type;
    // statfs(2) lists these numbers.
    match kind {
        0x6969 => Some("NFS"),
        0x517b | 0xff53_4d42 | 0xfe53_4d42 => Some("SMB"),
        0x0102_1997 => Some("9p"),
        0x00c3_6400 => Some("Ceph"),
        0x5346_414f => Some("AFS"),
        _ => None,
    }
}

/// Whether what is done to a path elsewhere may go untold here: on a network, or by a program.
#[must_use]
pub fn is_on_the_network(path: &Path) -> bool {
    // FUSE: its program may show what somebody else does.
    let fuse = rustix::fs::statfs(path).is_ok_and(|stat| stat.f_type == 0x6573_5546);
    fuse || network_file_system(path).is_some()
}
