//! What a path means to another process: it may have another root directory, or other mounts.

use std::path::{Path, PathBuf};

use crate::file_id::FileId;
use crate::process::Pid;

/// Whether a process sees, at this path's directory, the directory that we see there.
#[must_use]
pub fn sees_our_directory(pid: Pid, path: &Path) -> bool {
    let Some(parent) = path.parent() else {
        return false;
    };
    is_one_directory(pid, parent)
}

/// Whether a process has our root directory, as far as we may look.
#[must_use]
pub fn has_our_root(pid: Pid) -> bool {
    is_one_directory(pid, Path::new("/"))
}

fn is_one_directory(pid: Pid, path: &Path) -> bool {
    let theirs = FileId::at(&seen_by(pid, path));
    matches!((theirs, FileId::at(path)), (Ok(theirs), Ok(ours)) if theirs == ours)
}

/// What a process finds at an absolute path: it starts from its own root (proc_pid_root(5)).
#[must_use]
pub fn seen_by(pid: Pid, path: &Path) -> PathBuf {
    Path::new("/proc")
        .join(pid.to_string())
        .join("root")
        .join(path.strip_prefix("/").unwrap_or(path))
}
