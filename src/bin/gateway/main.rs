//! The program: parse, start the diary, run, turn the outcome into an exit code.

mod cli;
mod commands;
mod describe;
mod duration;
mod exit;
mod message;
mod words;

use std::process::ExitCode;

use clap::CommandFactory;

use crate::cli::{Cli, Command};
use crate::commands::Context;
use crate::exit::{USAGE, Verdict};
use crate::message::Voice;

fn main() -> ExitCode {
    match cli::parse() {
        Ok(cli) => run(cli).end(),
        Err(error) => usage(&error),
    }
}

fn run(cli: Cli) -> Verdict {
    message::start_diary(cli.global.verbose, cli.global.quiet);
    let context = Context {
        voice: Voice::new(cli.global.quiet),
        global: cli.global,
    };
    let outcome = match cli.command {
        Command::Run(run) => commands::run::run(&context, &run),
        Command::Status(show) => commands::status::status(&context, &show),
        Command::Stop(patience) => commands::stop::stop(&context, &patience),
        Command::List(show) => commands::list::list(&show),
        Command::Completions { language } => {
            commands::status::print(&describe::describe(Cli::command(), language));
            Ok(Verdict::SUCCESS)
        }
    };
    outcome.unwrap_or_else(|error| {
        context.voice.fault(&error.to_string());
        Verdict::of_error(&error)
    })
}

/// Help and version go to stdout and are no error; wrong usage ends with 2.
fn usage(error: &clap::Error) -> ExitCode {
    let _ = error.print();
    ExitCode::from(if error.use_stderr() { USAGE } else { 0 })
}
