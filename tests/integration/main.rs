//! The program seen from outside.

#[path = "../harness/mod.rs"]
mod harness;

mod bad_input;
mod containers;
mod exec;
mod exit_status;
mod generation;
mod interop;
mod list;
mod manager;
mod messages;
mod name;
mod notify;
mod opening;
mod paths;
mod people;
mod refuse;
mod signals;
mod snapshots;
mod standby;
mod start;
mod status;
mod stop;
mod survivors;
mod takeover;
mod terminal;
mod tools;
mod tour;
mod users;
mod warnings;
mod writing;
