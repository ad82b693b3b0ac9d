//! One running instance per pid file: an advisory `flock(2)` on `gateway.pid`, held for life.
//!
//! The existence of a file, or of a pid, is not a lock. Here only the kernel's lock decides: a
//! crash releases it by itself, and nothing ever has to be removed by hand. What is written in the
//! file is a hint whom to ask to leave, and is proven before anybody is signalled.
//!
//! ```
//! use gateway_lock::{Attempt, PidFile};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let room = tempfile::tempdir()?;
//! # let path = room.path().join("gateway.pid");
//! let file = PidFile::at(&path);
//! let lock = match file.try_lock()? {
//!     Attempt::Acquired(lock) => lock,
//!     Attempt::Held(holder) => return Err(format!("not started: {holder}").into()),
//!     other => return Err(format!("not started: {other:?}").into()),
//! };
//! // The lock is held, and the record is written, until `lock` is dropped.
//! # drop(lock);
//! # Ok(())
//! # }
//! ```
//!
//! # What is stable
//!
//! [`PidFile`], [`Lock`], [`Watch`], [`Limits`], [`HolderInfo`], [`Attempt`], [`Wait`], [`Why`],
//! [`Progress`], [`Standing`], [`Role`], [`Error`] and [`ErrorKind`]: no handler, no thread, no print, no exit and
//! no global state of ours, but for the id of the boot, which is read once. What cannot be returned (a
//! record that could not be marked ended, a fault that is tried again) goes to the [`log`] crate: who
//! sets up no logger does not hear it. Everything in the public modules serves the
//! program `gateway` and may change with any release.
//!
//! # How it is built
//!
//! ```text
//! census, pid_file, stop, supervise
//! acquire, payload
//! request
//! claim, holder_info, progress, sweep, view
//! standby, survivors
//! held
//! bell, holder, seats
//! descriptors, listing, roots
//! bystanders, lock, place
//! directory, marks, opening, program
//! unusable
//! kernel_locks, process_table, record, signals, takeover
//! course, mounts, notify, process, user
//! wait
//! elf, file_id, owner, procfs, remote, signal, sys, text, time, variables, workers
//! ```
//!
//! A module owns a noun, and names only modules of lines below its own; any may name `error`, which
//! names `text`. The protocol is a pure decision ([`takeover`]) and a driver ([`acquire`]); so is
//! what is done to a command ([`course`], [`supervise`]). [`sys`] alone has unsafe code.
//!
//! # Limitations
//!
//! - Linux 5.4 or newer: without `pidfd_open(2)` nobody can be proven. `/proc` must be mounted, and be that
//!   of our own pid namespace.
//! - Local file systems. On others the promise is what their `flock` gives.
//! - Lockers by `fcntl(2)` are not excluded: the two kinds of lock do not see each other.
//! - Where a directory does not tell upper from lower case, a path is one of several for the same file. The
//!   lock is one; what goes by the path (survivors of a run under a lost record) sees several.
//! - Whoever may write the pid file's directory may always break things.
//! - Who may not be looked at (another user's process, another pid namespace) cannot be proven, is
//!   never signalled, and is not found as the holder of a removed file. Nor is one whose removed file is
//!   of a user who may not write the directory, or lies on FUSE or a network where the directory does not.
//! - Linux lets nobody look at a process that is stuck in execve(2), as when it closes a file of a dead
//!   FUSE server there: whoever looks through `/proc` waits with it.

#![warn(missing_docs)]
#![deny(unsafe_code)]

pub mod acquire;
mod bell;
mod bystanders;
pub mod census;
pub mod claim;
pub mod course;
mod descriptors;
mod directory;
mod elf;
mod error;
mod file_id;
mod held;
pub mod holder;
mod holder_info;
mod kernel_locks;
mod listing;
mod lock;
mod marks;
mod mounts;
pub mod notify;
mod opening;
mod owner;
pub mod payload;
mod pid_file;
pub mod place;
pub mod process;
mod process_table;
mod procfs;
pub mod program;
pub mod progress;
pub mod record;
pub mod remote;
pub mod request;
mod roots;
mod seats;
pub mod signal;
pub mod signals;
mod standby;
pub mod stop;
pub mod supervise;
pub mod survivors;
pub mod sweep;
#[allow(unsafe_code, reason = "the one fenced place")]
pub mod sys;
pub mod takeover;
pub mod text;
pub mod time;
mod unusable;
pub mod user;
pub mod variables;
pub mod view;
pub mod wait;
mod workers;

pub use error::{Error, ErrorKind, Result};
pub use holder_info::{HolderInfo, Role, Why};
pub use pid_file::{Attempt, Limits, Lock, PidFile, Progress, Standing, Wait, Watch};

#[cfg(test)]
mod tests {
    /// The lines of the diagram above, the lowest first.
    fn layers() -> Vec<Vec<&'static str>> {
        let (_, rest) = include_str!("lib.rs").split_once("```text\n").unwrap();
        let (diagram, _) = rest.split_once("//! ```").unwrap();
        let modules = |line: &'static str| line["//! ".len()..].split(", ").collect();
        diagram.lines().rev().map(modules).collect()
    }

    /// The words that stand where a source names modules: `crate::word`, `crate::{word, word}`.
    fn named(source: &str) -> Vec<String> {
        let code = source.split("#[cfg(test)]").next().unwrap();
        let code = code
            .lines()
            .map(str::trim)
            .filter(|line| !line.starts_with("//"))
            .collect::<String>();
        let mut words = Vec::new();
        for rest in code.split("crate::").skip(1) {
            let list = match rest.strip_prefix('{') {
                Some(list) => list.split('}').next(),
                None => rest
                    .split(|c: char| !c.is_alphanumeric() && c != '_')
                    .next(),
            };
            words.extend(list.unwrap().split(',').map(|word| word.trim().to_owned()));
        }
        words
    }

    #[test]
    fn imports_point_down_as_the_diagram_says() {
        let layers = layers();
        let layer = |name: &str| layers.iter().position(|layer| layer.contains(&name));
        let mut seen = 0;
        for entry in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/src")).unwrap() {
            let path = entry.unwrap().path();
            let module = path.file_stem().unwrap().to_str().unwrap();
            if path.is_dir() || ["lib", "error"].contains(&module) {
                continue;
            }
            let own = layer(module).unwrap_or_else(|| panic!("{module} is not in the diagram"));
            let source = std::fs::read_to_string(&path).unwrap();
            for below in named(&source).iter().filter(|name| *name != module) {
                let allowed = layer(below).is_none_or(|theirs| theirs < own);
                assert!(allowed, "{module} names {below}, which is not below it");
            }
            seen += 1;
        }
        assert_eq!(seen, layers.iter().flatten().count(), "each once");
        let found = named("use crate::{\n    Error, holder\n};\n// crate::no\ncrate::lock::x();");
        assert_eq!(found, ["Error", "holder", "lock"]);
    }
}
