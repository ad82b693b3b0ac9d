//! Proof by breaking it: every step killed, every call failed, storms, recycled pids, attackers.
//!
//! The normal run takes a part of the points; `GATEWAY_TEST_LONG=1` takes all of them. A seed is
//! printed with every figure, and `GATEWAY_TEST_SEED` repeats it:
//!
//! ```text
//! GATEWAY_TEST_LONG=1 cargo nextest run --profile long --test breaking --no-capture
//! ```

#[path = "../harness/mod.rs"]
mod harness;

mod attackers;
mod births;
mod borders;
mod confine;
mod detectors;
#[cfg(target_arch = "x86_64")]
mod errnos;
#[cfg(target_arch = "x86_64")]
mod fault_sweep;
mod form;
#[cfg(target_arch = "x86_64")]
mod kill_sweep;
mod notes;
#[cfg(target_arch = "x86_64")]
mod pid_reuse;
mod recycle;
mod stage;
mod storm;
// It puts a call's number and answer into registers, whose places are those of this architecture.
#[cfg(target_arch = "x86_64")]
mod trace;
mod world;
