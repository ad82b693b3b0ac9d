//! The interface, declared once: help, completions and the manual's options come from here.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum, ValueHint};
use gateway_lock::place::{Choice, Name};
use gateway_lock::signal::Signal;
use gateway_lock::time::Limit;

use crate::describe::Language;
use crate::duration;
use crate::words;

/// One running instance of a command per pid file.
///
/// An advisory lock on the pid file is held for as long as the command runs: a crash releases it,
/// and nothing ever has to be removed by hand.
#[derive(Parser, Debug)]
#[command(
    name = "gateway",
    version,
    propagate_version = true,
    disable_help_subcommand = true,
    disable_help_flag = true,
    disable_version_flag = true,
    max_term_width = 100
)]
pub struct Cli {
    // Once it is parsed: what was given before the command and after it.
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

// Each command declares them for itself. Those that clap hands down (`global`) it copies into every
// command, whichever is in use.
#[derive(Args, Default, Debug)]
#[command(next_help_heading = "Options of every command")]
pub struct Global {
    /// The pid file's path.
    #[arg(short = 'f', long, alias = "pidfile", value_name = "PATH", value_hint = ValueHint::FilePath)]
    pub pid_file: Option<PathBuf>,

    /// An instance's name: its pid file is PLACE/NAME/gateway.pid.
    ///
    /// PLACE is $GATEWAY_STATE_DIR; else /var/lib/gateway for root, and for any user to whom
    /// /var/lib/gateway/NAME belongs; else ~/.local/state/gateway. Letters, digits, and . _ - @ :
    /// are allowed.
    #[arg(short = 'n', long, value_name = "NAME", value_parser = name)]
    pub name: Option<Name>,

    /// Tell more: what is done, and why.
    #[arg(short, long, action = clap::ArgAction::Count)]
    pub verbose: u8,

    /// Tell only of faults.
    ///
    /// Whatever was to be expected (held, waiting, gave up, nothing to stop) is told by the exit
    /// code alone.
    #[arg(short, long)]
    pub quiet: bool,

    /// Print help: -h a summary, --help all of it.
    #[arg(short, long, action = clap::ArgAction::Help)]
    help: Option<bool>,

    /// Print the version.
    #[arg(short = 'V', long, action = clap::ArgAction::Version)]
    version: Option<bool>,
}

impl Global {
    /// Which pid file is meant.
    pub fn choice(&self) -> Choice {
        match (&self.pid_file, &self.name) {
            (Some(path), _) => Choice::Path(path.clone()),
            (None, Some(name)) => Choice::Name(name.clone()),
            (None, None) => Choice::Default,
        }
    }

    /// These, and the others where these say nothing.
    fn or(self, others: Self) -> Self {
        Self {
            pid_file: self.pid_file.or(others.pid_file),
            name: self.name.or(others.name),
            verbose: self.verbose.saturating_add(others.verbose),
            quiet: self.quiet || others.quiet,
            help: self.help.or(others.help),
            version: self.version.or(others.version),
        }
    }
}

// Only the command in use is built: the others would cost each start some microseconds.
#[derive(Subcommand, Debug)]
#[command(defer = true)]
pub enum Command {
    /// Run COMMAND under the lock, and end with it.
    ///
    /// Without COMMAND the lock is held until somebody asks for the end. Without --replace or
    /// --wait a holder refuses the start at once.
    Run(Run),
    /// Say who holds the lock. Changes nothing.
    ///
    /// The exit code is 0 for held, starting, ending, foreign and removed, 1 for crashed, 3 for
    /// free, and 4 where it cannot tell.
    Status(Show),
    /// Stop the holder and its payload, and wait for their end.
    Stop(StopPatience),
    /// List every gateway that can be seen.
    ///
    /// For one of them: gateway -n NAME status.
    List(ShowAll),
    /// Print the completions for a shell.
    #[command(hide = true)]
    Completions {
        /// For what.
        language: Language,
        #[command(flatten)]
        global: Global,
    },
}

impl Command {
    fn global(&mut self) -> &mut Global {
        match self {
            Self::Run(run) => &mut run.global,
            Self::Status(show) | Self::List(ShowAll { show }) => &mut show.global,
            Self::Stop(patience) => &mut patience.global,
            Self::Completions { global, .. } => global,
        }
    }
}

#[derive(Args, Debug)]
pub struct Run {
    /// Take over: ask the holder to stop, wait for the lock, then run COMMAND.
    ///
    /// Only a holder that the pid file names and that is proven to have the lock is asked (with
    /// SIGTERM), and killed where --kill-after says so.
    #[arg(long, conflicts_with = "wait")]
    pub replace: bool,

    /// Stand in line: wait for the lock without asking anybody to stop.
    ///
    /// Of those who wait any may be the next, not the first that came.
    #[arg(short, long)]
    pub wait: bool,

    #[command(flatten)]
    pub patience: Patience,

    /// The signal that COMMAND is sent at an ordered stop, instead of the one that came.
    #[arg(long, value_name = "SIG", value_parser = signal)]
    pub stop_signal: Option<Signal>,

    /// How long COMMAND gets between the stop signal and SIGKILL.
    #[arg(long, value_name = "D", default_value = "30s", value_parser = duration::parse)]
    pub stop_timeout: Limit,

    /// Who tells the service manager that the service is ready.
    ///
    /// gateway: we do, when COMMAND runs. payload: COMMAND does, through $NOTIFY_SOCKET, and the
    /// unit needs NotifyAccess=all.
    #[arg(long, value_name = "WHO", default_value = "gateway")]
    pub notify: Notify,

    /// Become COMMAND instead of supervising it; it inherits the lock.
    ///
    /// The lock lasts until the last process that has it is gone. Nobody is left to end COMMAND's
    /// descendants, to watch the pid file, or to mark its record ended; so --stop-signal and
    /// --stop-timeout are refused.
    #[arg(long, conflicts_with_all = ["stop_signal", "stop_timeout"])]
    pub exec: bool,

    /// The command and its arguments.
    #[arg(last = true, value_name = "COMMAND", value_hint = ValueHint::CommandWithArguments)]
    pub command: Vec<OsString>,

    #[command(flatten)]
    global: Global,
}

#[derive(Args, Debug)]
pub struct Patience {
    /// The end of the whole wait of --wait or --replace.
    ///
    /// By default --wait has none, and --replace ends 10 seconds after --kill-after. With --replace
    /// it must be longer than --kill-after, or nobody is asked.
    #[arg(long, value_name = "D", value_parser = duration::parse)]
    pub timeout: Option<Limit>,

    /// How long the asked holder gets before SIGKILL; infinity: it is never killed.
    ///
    /// By default its own --stop-timeout plus 5 seconds; 30 seconds where it recorded none.
    #[arg(long, value_name = "D", value_parser = duration::parse)]
    pub kill_after: Option<Limit>,
}

#[derive(Args, Debug)]
pub struct StopPatience {
    /// The end of the whole wait for the holder's end.
    ///
    /// By default 10 seconds after --kill-after. It must be longer than --kill-after, or nobody is
    /// asked.
    #[arg(long, value_name = "D", value_parser = duration::parse)]
    pub timeout: Option<Limit>,

    /// How long the holder gets before SIGKILL; infinity: it is never killed.
    ///
    /// By default its own --stop-timeout plus 5 seconds; 30 seconds where it recorded none.
    #[arg(long, value_name = "D", value_parser = duration::parse)]
    pub kill_after: Option<Limit>,

    #[command(flatten)]
    global: Global,
}

#[derive(Args, Debug)]
pub struct Show {
    /// Print JSON.
    #[arg(long)]
    pub json: bool,

    #[command(flatten)]
    global: Global,
}

// The same, of no file. What says which is taken and then refused, with a better sentence than that there is
// no such option.
#[derive(Args, Debug)]
#[command(
    mut_arg("pid_file", |option| option.hide(true)),
    mut_arg("name", |option| option.hide(true))
)]
pub struct ShowAll {
    #[command(flatten)]
    pub show: Show,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Notify {
    Gateway,
    Payload,
}

fn name(text: &str) -> Result<Name, String> {
    let wrong = match text.len() {
        0 => "it is empty",
        256.. => "it is too long (at most 255)",
        _ => {
            "letters, digits, and . _ - @ : are allowed, not starting with . (for a path: -f PATH)"
        }
    };
    Name::new(text).ok_or_else(|| wrong.to_owned())
}

/// None of these is a request to end, whoever gets it: they stop, go on, or tell of a child.
const NO_REQUESTS: [Signal; 6] = [
    Signal::STOP,
    Signal::TSTP,
    Signal::TTIN,
    Signal::TTOU,
    Signal::CONT,
    Signal::CHLD,
];

fn signal(text: &str) -> Result<Signal, String> {
    let allowed = "give a signal's name or number: TERM, INT, QUIT, USR1, 15";
    let signal = Signal::parse(text).ok_or(allowed)?;
    if NO_REQUESTS.contains(&signal) {
        return Err(format!("{signal} asks no command to end; {allowed}"));
    }
    Ok(signal)
}

/// Reads the command line.
pub fn parse() -> Result<Cli, clap::Error> {
    let cli = all_given(Cli::try_parse()?);
    check(&cli)?;
    check_end(&cli)?;
    Ok(cli)
}

/// What is said after the command is nearer to it, and wins.
fn all_given(mut cli: Cli) -> Cli {
    let nearer = std::mem::take(cli.command.global());
    cli.global = nearer.or(cli.global);
    cli
}

fn wrong(text: &str) -> Result<(), clap::Error> {
    Err(Cli::command().error(ErrorKind::ArgumentConflict, text))
}

/// What clap cannot be told.
fn check(cli: &Cli) -> Result<(), clap::Error> {
    if cli.global.pid_file.is_some() && cli.global.name.is_some() {
        return wrong("--pid-file and --name both say where the pid file is: give one of them");
    }
    if cli.global.verbose > 0 && cli.global.quiet {
        return wrong("--verbose and --quiet contradict each other: give one of them");
    }
    let run = match &cli.command {
        Command::Run(run) => run,
        Command::List(_) => return check_list(&cli.global),
        _ => return Ok(()),
    };
    if run.patience.timeout.is_some() && !run.replace && !run.wait {
        return wrong(
            "--timeout bounds a wait, and a plain run does not wait: add --replace or --wait",
        );
    }
    if run.patience.kill_after.is_some() && !run.replace {
        return wrong("--kill-after is about the holder that is asked to stop: add --replace");
    }
    if run.exec && run.command.is_empty() {
        return wrong("--exec becomes COMMAND, and there is none: add -- COMMAND");
    }
    Ok(())
}

/// A shell's `-- $CMD` with nothing in it would hold the lock for ever. (An option takes no `--` for its value.)
fn check_end(cli: &Cli) -> Result<(), clap::Error> {
    // The words are copied to be looked at: not where there is a command, as at most starts.
    let ends_with_dashes = || {
        std::env::args_os()
            .next_back()
            .is_some_and(|last| last == "--")
    };
    match &cli.command {
        Command::Run(run) if run.command.is_empty() && ends_with_dashes() => {
            wrong("there is no COMMAND after --; to hold the lock without one, leave out the --")
        }
        _ => Ok(()),
    }
}

/// Whoever names one pid file does not want to see all of them.
fn check_list(global: &Global) -> Result<(), clap::Error> {
    let one = match (&global.pid_file, &global.name) {
        (Some(path), _) => format!("-f {}", words::quoted(path.as_os_str())),
        (None, Some(name)) => format!("-n {}", name.as_str()),
        (None, None) => return Ok(()),
    };
    wrong(&format!(
        "list shows every gateway; for one: gateway {one} status"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_declaration_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn an_option_stands_before_the_command_or_after_it() {
        for (line, pid_file, name, verbose, quiet) in [
            ("-f a status", Some("a"), None, 0, false),
            ("status -f a", Some("a"), None, 0, false),
            ("-f a stop -f b", Some("b"), None, 0, false),
            ("-n a run -n b -- -n c", None, Some("b"), 0, false),
            ("-v list -vv", None, None, 3, false),
            ("-q run", None, None, 0, true),
            ("completions -q bash", None, None, 0, true),
        ] {
            let words = std::iter::once("gateway").chain(line.split(' '));
            let global = all_given(Cli::try_parse_from(words).unwrap()).global;
            assert_eq!(global.pid_file, pid_file.map(PathBuf::from), "{line}");
            assert_eq!(global.name, name.and_then(Name::new), "{line}");
            assert_eq!((global.verbose, global.quiet), (verbose, quiet), "{line}");
        }
    }

    #[test]
    fn a_signal_that_asks_for_nothing_is_refused() {
        for (text, name) in [
            ("STOP", "STOP"),
            ("sigcont", "CONT"),
            ("TSTP", "TSTP"),
            ("21", "TTIN"),
            ("TTOU", "TTOU"),
            ("17", "CHLD"),
        ] {
            let why = signal(text).unwrap_err();
            assert!(
                why.starts_with(&format!("{name} asks no command to end; give")),
                "{why}"
            );
        }
        for text in ["TERM", "INT", "QUIT", "USR1", "WINCH", "KILL", "15"] {
            assert!(signal(text).is_ok(), "{text}");
        }
    }
}
