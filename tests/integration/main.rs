//! The program seen from outside.

#[path = "../harness/mod.rs"]
mod harness;

mod exit_status;
mod people;
mod refuse;
mod signals;
mod start;
mod stop;
mod takeover;
