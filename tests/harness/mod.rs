//! What every test crate shares: a fresh folder, real processes in it, and an end for all of them.
//!
//! Used with `#[path = "../harness/mod.rs"] mod harness;`. A [`Scene`] owns a folder; whatever is
//! started in it carries the folder's path in its environment, so that nothing outlives the test.
#![allow(
    dead_code,
    unused_imports,
    reason = "every test crate uses a part of it"
)]

mod canary;
mod lock;
mod payload;
mod process;
mod record;
mod scene;
mod spaces;
mod strace;
mod terminal;
mod tools;
mod wait;

pub use canary::{Canary, assert_heard_nothing};
pub use lock::{Locker, lockers};
pub use payload::{LISTENER, Payload};
pub use process::{
    End, Output, Process, descendants, end_all_of, environment, exists, has_pending, kill,
    members_of_scene, remember, signal, stat_field, state, variable,
};
pub use record::Record;
pub use scene::{Footprint, Scene, set_mode};
pub use spaces::{MountSpace, NOBODY, as_nobody, in_pid_namespace};
pub use strace::{Call, Trace, injected, injected_at, is_held_up_in, sleeps};
pub use terminal::Terminal;
pub use tools::{must_be_root, need};
pub use wait::{SOON, until, wait_until};

pub use rustix::process::Signal;
