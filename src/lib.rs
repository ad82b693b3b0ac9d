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
//! [`PidFile`], [`Lock`], [`Watch`], [`Limits`], [`HolderInfo`], [`Attempt`], [`Wait`], [`Progress`],
//! [`Standing`], [`Role`], [`Error`] and [`ErrorKind`]: no handler, no thread, no print, no exit and
//! no global state of ours. What cannot be returned (a record that could not be marked ended, a fault
//! that is tried again) goes to the [`log`] crate: who sets up no logger does not hear it. Everything
//! in the public modules serves the program `gateway` and may change with any release.
//!
//! # How it is built
//!
//! ```text
//! pid_file -> acquire, stop -> takeover (pure), view, survivors, claim -> holder -> lock
//! supervise -> payload, bell, claim, signals                            -> record, user
//! place, notify                                                         -> process, wait -> sys
//! ```
//!
//! A module owns a noun, and imports point one way. The protocol is a pure decision ([`takeover`])
//! and a driver ([`acquire`]). [`sys`] alone has unsafe code.
//!
//! # Limitations
//!
//! - Linux 5.4 or newer: without `pidfd_open(2)` nobody can be proven. `/proc` must be mounted.
//! - Local file systems. On others the promise is what their `flock` gives.
//! - Lockers by `fcntl(2)` are not excluded: the two kinds of lock do not see each other.
//! - Whoever may write the pid file's directory may always break things.
//! - Who may not be looked at (another user's process, another pid namespace) cannot be proven, is
//!   never signalled, and is not found as the holder of a removed file.

#![warn(missing_docs)]
#![deny(unsafe_code)]

pub mod acquire;
pub mod bell;
pub mod bystanders;
pub mod claim;
pub mod directory;
mod error;
pub mod holder;
mod kernel_locks;
pub mod lock;
pub mod notify;
pub mod payload;
mod pid_file;
pub mod place;
pub mod process;
mod procfs;
pub mod record;
pub mod signal;
pub mod signals;
pub mod stop;
pub mod supervise;
pub mod survivors;
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

pub use error::{Error, ErrorKind, Result};
pub use pid_file::{
    Attempt, HolderInfo, Limits, Lock, PidFile, Progress, Role, Standing, Wait, Watch,
};
