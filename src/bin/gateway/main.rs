//! The program: parse, start the diary, run, turn the outcome into an exit code.
//!
//! With glibc it is entered from the C runtime and not through Rust's, which would parse
//! `/proc/self/maps` for a stack guard, and change SIGPIPE before we could see what COMMAND is to
//! inherit. What else it does for a program is done here: see [`start`]. With musl only Rust's runtime
//! finds the program's arguments: there it comes first, and SIGPIPE is put back.

#![cfg_attr(all(target_env = "gnu", not(test)), no_main)]
#![deny(unsafe_code)]

mod cli;
mod commands;
mod describe;
mod duration;
mod exit;
mod manager;
mod message;
mod narrator;
mod refusal;
#[cfg(not(target_env = "gnu"))]
mod sigpipe;
mod usage;
mod words;

use std::io::Write;

use clap::CommandFactory;
use clap::error::ErrorKind;

use crate::cli::{Cli, Command};
use crate::commands::Context;
use crate::exit::{FAULT, USAGE, Verdict};
use crate::message::Voice;

/// Called by the C runtime. std finds the arguments by itself (glibc hands them to `.init_array`).
// SAFETY: the name is the C runtime's own for this very function, and nothing else here defines it.
#[cfg(target_env = "gnu")]
#[allow(unsafe_code, reason = "the attribute alone: nothing in here is unsafe")]
#[cfg_attr(not(test), unsafe(no_mangle))]
extern "C" fn main() -> std::ffi::c_int {
    start().into()
}

/// Called by Rust's runtime.
#[cfg(not(target_env = "gnu"))]
fn main() -> std::process::ExitCode {
    sigpipe::put_back();
    start().into()
}

fn start() -> u8 {
    gateway_lock::sys::warm_heap();
    if gateway_lock::sys::ensure_standard_streams().is_err() {
        return FAULT;
    }
    match cli::parse() {
        Ok(cli) => run(cli).end(),
        Err(error) => usage(&error),
    }
}

fn run(cli: Cli) -> Verdict {
    let context = Context {
        voice: Voice::new(cli.global.quiet),
        global: cli.global,
    };
    message::start_diary(context.voice, context.global.verbose);
    let outcome = match cli.command {
        Command::Run(run) => commands::run::run(&context, &run),
        Command::Status(show) => Ok(commands::status::status(&context, &show)),
        Command::Stop(patience) => commands::stop::stop(&context, &patience),
        Command::List(all) => commands::list::list(&context, &all.show),
        Command::Completions { language, .. } => {
            let text = describe::describe(Cli::command(), language);
            Ok(commands::print(context.voice, &text, Verdict::SUCCESS))
        }
    };
    outcome.unwrap_or_else(|error| {
        context.voice.fault(&format!("{error:#}"));
        Verdict::of_error(&error)
    })
}

/// Help and version go to stdout and are no error; wrong usage ends with 2.
fn usage(error: &clap::Error) -> u8 {
    let help = error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand;
    // Quiet or not: the options are not known.
    let voice = Voice::new(false);
    if error.use_stderr() && !help {
        voice.wrong_usage(&usage::text(error));
        return USAGE;
    }
    let printed = match error.kind() {
        // Of the program, whichever command it was asked of.
        ErrorKind::DisplayVersion => {
            writeln!(std::io::stdout(), "gateway {}", env!("CARGO_PKG_VERSION"))
        }
        _ => error.print(),
    };
    if error.use_stderr() {
        return USAGE;
    }
    commands::printed(voice, printed, Verdict::SUCCESS).end()
}
