//! What is hard to promise, one promise at a time; each test fails without it.

#[path = "../harness/mod.rs"]
mod harness;

mod authority;
mod borders;
mod kit;
mod name;
mod posers;
mod proof;
mod standby;
mod stop;
mod survivors;
mod terminals;
