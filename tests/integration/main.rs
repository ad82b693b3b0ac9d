//! The program seen from outside.

#[path = "../harness/mod.rs"]
mod harness;

mod start;
