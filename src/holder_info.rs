//! Who is in the way of a lock, and why that was the end of it: the answers of `pid_file`.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::holder::{Holder, Sighting};
use crate::survivors::Survivor;
use crate::takeover::{Bar, Refusal};
use crate::text::{command_line, printable};

/// What somebody has to do with the lock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Role {
    /// It has the lock.
    Holder,
    /// A crashed run left it, and it cannot be ended: in time, or at all, because it is an ancestor of
    /// this process. Nobody has the lock, but what it protects is not alone.
    Survivor,
}

/// Why a lock was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Why {
    /// A proven holder has it, and was not to be asked.
    Held,
    /// The time was over. A holder that was asked may still stop.
    Deadline,
    /// It is not proven that whoever has the lock is the holder which the file names.
    Unproven,
    /// The holder is not ours to signal.
    NotPermitted,
    /// It is an ancestor of this process, which would end with it.
    Ancestor,
    /// It is the first process of our pid namespace, whose end is the end of all.
    Init,
    /// Nobody was asked: the wait would end before the holder's time to stop does.
    TooShort {
        /// A timeout must be longer than this: the holder's time to stop, and what had passed of the wait
        /// before. `None`: the holder may take for ever.
        needed: Option<Duration>,
    },
}

impl Why {
    pub(crate) fn of(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Held => Self::Held,
            Refusal::Deadline => Self::Deadline,
            Refusal::Unproven => Self::Unproven,
            Refusal::Barred(Bar::NotPermitted) => Self::NotPermitted,
            Refusal::Barred(Bar::Ancestor) => Self::Ancestor,
            Refusal::Barred(Bar::Init) => Self::Init,
            Refusal::TooShort { needed, .. } => Self::TooShort { needed },
        }
    }

    pub(crate) fn of_survivors(own_ancestor: bool) -> Self {
        if own_ancestor {
            Self::Ancestor
        } else {
            Self::Deadline
        }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Held => "it was not to be asked to go",
            Self::Deadline => "the time is over",
            Self::Unproven => "nothing proves that it is the holder which the file names",
            Self::NotPermitted => "it is not ours to signal",
            Self::Ancestor => "it is an ancestor of this process",
            Self::Init => "it is the first process here",
            Self::TooShort { needed: None } => {
                "it was not asked to go, because it may take for ever to stop"
            }
            Self::TooShort { needed: Some(time) } => {
                // What had passed is of no interest as long as it is no second.
                let whole = match time.as_secs() {
                    0 => Duration::from_millis(time.subsec_millis().into()),
                    seconds => Duration::from_secs(seconds),
                };
                let time = humantime::format_duration(whole);
                return write!(
                    f,
                    "it was not asked to go, because it may take {time} to stop"
                );
            }
        })
    }
}

/// Who is in the way, as far as it is known: a label, not a thing to signal. By the time it is read,
/// the process may be gone, and its number another's.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct HolderInfo {
    /// Its pid, if it can be seen.
    pub pid: Option<i32>,
    /// Its command line; that of its payload where it runs one.
    pub argv: Vec<OsString>,
    /// Whether it was proven to be the holder that the pid file names.
    pub proven: bool,
    /// What it has to do with the lock.
    pub role: Role,
    /// Why the lock was refused, where it was.
    pub why: Option<Why>,
    /// The pid file.
    pub path: PathBuf,
}

impl fmt::Display for HolderInfo {
    /// `held by pid 4925 (sleep 600), /run/demo/gateway.pid; it is not ours to signal`, or
    /// `left of a crashed run, and cannot be ended: pid 4930 (sleep 600), /run/demo/gateway.pid`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.role {
            Role::Holder => "held by ",
            Role::Survivor => "left of a crashed run, and cannot be ended: ",
        })?;
        match self.pid {
            Some(pid) => write!(f, "pid {pid}")?,
            None => f.write_str("a process that cannot be seen from here")?,
        }
        if !self.argv.is_empty() {
            write!(f, " ({})", command_line(&self.argv))?;
        }
        write!(f, ", {}", printable(self.path.as_os_str()))?;
        match self.why {
            // That it holds says it all.
            None | Some(Why::Held) => Ok(()),
            Some(why) => write!(f, "; {why}"),
        }
    }
}

impl HolderInfo {
    pub(crate) fn of(who: &Sighting, path: &Path) -> Self {
        let argv = match who {
            Sighting::Proven(holder) | Sighting::Ending(holder) => {
                return Self::of_holder(holder, path);
            }
            Sighting::Starting(locker) | Sighting::Foreign(locker) => locker.argv.clone(),
            Sighting::Invisible(_) => Vec::new(),
        };
        Self {
            pid: who.pid().map(crate::process::Pid::get),
            argv,
            proven: false,
            role: Role::Holder,
            why: None,
            path: path.to_path_buf(),
        }
    }

    pub(crate) fn of_holder(holder: &Holder, path: &Path) -> Self {
        Self {
            pid: Some(holder.pid().get()),
            argv: holder.command(),
            proven: true,
            role: Role::Holder,
            why: None,
            path: path.to_path_buf(),
        }
    }

    /// The first of those that are left: it is named, the others are its like.
    pub(crate) fn of_survivor(left: &[Survivor], path: &Path) -> Self {
        let first = left.first();
        Self {
            pid: first.map(|survivor| survivor.pid().get()),
            argv: first.map(Survivor::command).unwrap_or_default(),
            proven: false,
            role: Role::Survivor,
            why: None,
            path: path.to_path_buf(),
        }
    }
}
