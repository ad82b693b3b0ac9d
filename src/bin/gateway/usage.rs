//! Wrong usage, in words: what is wrong and what to type, then the usage of the command in use.

use std::ffi::{OsStr, OsString};

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, Command, CommandFactory};
use gateway_lock::place::Name;
use gateway_lock::program;
use gateway_lock::text::printable;

use crate::cli::Cli;
use crate::describe;
use crate::duration;
use crate::words;

/// What others call what we do.
const SYNONYMS: [(&str, &[&str]); 6] = [
    ("start", &["run"]),
    ("exec", &["run"]),
    ("restart", &["run", "--replace"]),
    ("kill", &["stop"]),
    ("ls", &["list"]),
    ("ps", &["list"]),
];

/// What others have an option for, and here a tool does.
const NOT_BUILT: [(&[&str], &str); 6] = [
    (
        &[
            "--daemon",
            "--daemonize",
            "--background",
            "--detach",
            "--fork",
        ],
        "gateway stays in the foreground; to the background leads systemd-run, or & of the shell",
    ),
    (
        &["--user", "--group", "--uid", "--gid", "--chuid"],
        "for another user put setpriv before COMMAND, or User= into its unit",
    ),
    (
        &["--chdir", "--cwd", "--directory", "--workdir"],
        "for another directory put env --chdir=DIR before COMMAND, or WorkingDirectory= into its unit",
    ),
    (
        &["--restart", "--respawn"],
        "what starts COMMAND again is Restart= of its unit, or runsv",
    ),
    (
        &["--log", "--log-file", "--logfile", "--syslog"],
        "log files are kept by the journal, s6-log or multilog",
    ),
    (&["--shared"], "shared locks are taken by flock --shared"),
];

/// What is told of an error of this process's command line.
pub fn text(error: &clap::Error) -> Text {
    let words: Vec<OsString> = std::env::args_os().skip(1).collect();
    text_of(error, &words)
}

/// What is told of a command line that was not understood.
pub struct Text {
    /// What is wrong with it, in a sentence.
    pub wrong: String,
    /// How it is right: lines for who is there to read them.
    pub usage: String,
}

fn text_of(error: &clap::Error, words: &[OsString]) -> Text {
    let mut interface = Cli::command();
    interface.build();
    let line = Line::new(words, &interface);
    let said = line.said(error).unwrap_or_else(|| plain(error));
    let used = line.used.map(|at| line.ours[at].to_string_lossy());
    let verb = used.map_or_else(String::new, |verb| format!("{verb} "));
    let command = match interface.find_subcommand_mut(verb.trim_end()) {
        Some(command) => command,
        None => &mut interface,
    };
    Text {
        wrong: printable(said.as_ref()),
        usage: format!(
            "\n{}\n\nfor more: gateway {verb}--help\n",
            command.render_usage()
        ),
    }
}

/// The parser's own sentence in one line: without the usage, and without its tips, which lead astray.
fn plain(error: &clap::Error) -> String {
    let mut shown = error.to_string();
    // Before the lines are joined: a line end in a word is not one of the parser's.
    if let Some(ContextValue::String(value)) = error.get(ContextKind::InvalidValue) {
        shown = shown.replace(value.as_str(), &printable(value.as_ref()));
    }
    let ends = ["Usage:", "tip:", "For more information"];
    let sentence: Vec<&str> = shown
        .lines()
        .map(str::trim)
        .take_while(|line| !ends.iter().any(|end| line.starts_with(end)))
        .filter(|line| !line.is_empty())
        .collect();
    let sentence = sentence.join(" ");
    sentence
        .strip_prefix("error: ")
        .unwrap_or(&sentence)
        .to_owned()
}

/// A command line that was not understood.
struct Line<'a> {
    interface: &'a Command,
    /// What is said to us.
    ours: &'a [OsString],
    /// `--` and COMMAND.
    theirs: &'a [OsString],
    /// Where the command in use stands.
    used: Option<usize>,
}

impl<'a> Line<'a> {
    fn new(words: &'a [OsString], interface: &'a Command) -> Self {
        let dashes = words.iter().position(|word| word == "--");
        let (ours, theirs) = words.split_at(dashes.unwrap_or(words.len()));
        let mut line = Self {
            interface,
            ours,
            theirs,
            used: None,
        };
        line.used = line.first_word().filter(|at| {
            let name = ours[*at].to_str();
            name.is_some_and(|name| interface.find_subcommand(name).is_some())
        });
        line
    }

    /// Likely slips get a sentence of their own.
    fn said(&self, error: &clap::Error) -> Option<String> {
        match error.kind() {
            ErrorKind::InvalidSubcommand | ErrorKind::MissingSubcommand => {
                Some(self.one_dash().unwrap_or_else(|| self.no_command()))
            }
            ErrorKind::InvalidValue => self.empty(error),
            ErrorKind::UnknownArgument | ErrorKind::TooManyValues => self
                .wait_with_a_time()
                .or_else(|| self.one_dash())
                .or_else(|| self.unknown(argument(error)?)),
            _ => None,
        }
    }

    /// No command of ours, or one that there is not.
    fn no_command(&self) -> String {
        let Some(at) = self.first_word() else {
            if self.theirs.is_empty() {
                return format!("no command is given; {}", self.commands());
            }
            return format!(
                "no command is given; did you mean: gateway run {}",
                words::command_line(&[self.ours, self.theirs].concat())
            );
        };
        let wrong = words::quoted(&self.ours[at]);
        match self.meant_by(at) {
            Some(meant) => format!("{wrong} is no command; did you mean: gateway {meant}"),
            None => format!("{wrong} is no command; {}", self.commands()),
        }
    }

    /// What to type instead of a word that is no command of ours.
    fn meant_by(&self, at: usize) -> Option<String> {
        let wrong = &self.ours[at];
        if wrong == "help" {
            let about = self.ours.get(at + 1).and_then(|word| word.to_str());
            let about = about.filter(|about| self.interface.find_subcommand(about).is_some());
            return Some(
                about.map_or_else(|| "--help".to_owned(), |about| format!("{about} --help")),
            );
        }
        let known = SYNONYMS.iter().find(|(word, _)| wrong == word);
        if let Some((_, ours)) = known {
            return Some(self.with(at, ours));
        }
        match nearest(wrong, self.names()) {
            Some(name) => Some(self.with(at, &[&name])),
            None => self.a_program(at),
        }
    }

    /// The line with these words of ours in the place of one.
    fn with(&self, at: usize, ours: &[&str]) -> String {
        let before = self.ours[..at].iter().cloned();
        let mut line: Vec<OsString> = before.chain(ours.iter().map(OsString::from)).collect();
        let behind = at + 1;
        if ours[0] != "run" || !self.theirs.is_empty() {
            line.extend_from_slice(&self.ours[behind..]);
            line.extend_from_slice(self.theirs);
            return words::command_line(&line);
        }
        let command = self.word_from(behind).unwrap_or(self.ours.len());
        line.extend_from_slice(&self.ours[behind..command]);
        line.push("--".into());
        line.extend_from_slice(&self.ours[command..]);
        if command == self.ours.len() {
            line.push("COMMAND".into());
        }
        words::command_line(&line)
    }

    /// COMMAND, without a word of ours.
    fn a_program(&self, at: usize) -> Option<String> {
        let (ours, command) = self.ours.split_at(at);
        let is_one = self.theirs.is_empty() && program::Command::resolve(&command[..1]).is_ok();
        is_one.then(|| {
            let run = ["run", "--"].map(OsString::from);
            words::command_line(&[ours, &run, command].concat())
        })
    }

    fn names(&self) -> impl Iterator<Item = String> {
        describe::commands(self.interface).map(|command| command.get_name().to_owned())
    }

    fn commands(&self) -> String {
        let names: Vec<String> = self.names().collect();
        format!("there are: {}", names.join(", "))
    }

    /// An empty word, as a shell makes it of a variable that is not set.
    fn empty(&self, error: &clap::Error) -> Option<String> {
        let given = self
            .ours
            .iter()
            .any(|word| word.is_empty() || word.as_encoded_bytes().ends_with(b"="));
        let Some(ContextValue::String(value)) = error.get(ContextKind::InvalidValue) else {
            return None;
        };
        let option = argument(error)?;
        (given && value.is_empty()).then(|| format!("the value of {option} is empty"))
    }

    fn wait_with_a_time(&self) -> Option<String> {
        let is_time = |word: &str| duration::parse(word).is_ok();
        let time = self.ours.iter().enumerate().find_map(|(at, word)| {
            let word = word.to_str()?;
            let joined = word
                .strip_prefix("--wait=")
                .or_else(|| word.strip_prefix("-w"));
            let apart = matches!(word, "-w" | "--wait")
                .then(|| self.ours.get(at + 1)?.to_str())
                .flatten();
            joined
                .filter(|time| is_time(time))
                .or(apart.filter(|time| is_time(time)))
        })?;
        Some(format!(
            "--wait takes no time: for at most {time}, say --wait --timeout {time}"
        ))
    }

    fn unknown(&self, argument: &str) -> Option<String> {
        if argument.starts_with('-') {
            return self.value_or_option(argument);
        }
        let at = self.standing_alone(argument)?;
        match self.ours[self.used?].to_str()? {
            "run" if self.theirs.is_empty() => {}
            "run" => {
                return Some(format!(
                    "{} stands before --: COMMAND goes after it, and an instance's name after -n",
                    words::quoted(&self.ours[at])
                ));
            }
            "status" | "stop" => return self.subject(at),
            "list" => return self.listed(at),
            _ => return None,
        }
        let (ours, behind) = self.ours.split_at(at);
        let (command, options) = self.without_options(behind);
        let and = if options.is_empty() {
            ""
        } else {
            ", and options of run before it"
        };
        Some(format!(
            "COMMAND goes after --{and}: gateway {} -- {}",
            words::command_line(&[ours, &options].concat()),
            words::command_line(&command)
        ))
    }

    /// A command, and what stands behind it that only `run` is known to have. (`-f` and its kind have others,
    /// too.)
    fn without_options(&self, words: &[OsString]) -> (Vec<OsString>, Vec<OsString>) {
        let ours = |word: &OsString| {
            let name = word.to_str()?.split('=').next()?;
            let is_it =
                |option: &&Arg| name.starts_with("--") && is_spelling(option, name.as_ref());
            let of_every_command = describe::options(self.interface).any(|option| is_it(&option));
            let option = self.options().find(is_it).filter(|_| !of_every_command)?;
            let apart = option.get_action().takes_values() && name.len() == word.len();
            Some(1 + usize::from(apart))
        };
        let (mut command, mut options, mut rest) = (Vec::new(), Vec::new(), words);
        while let Some(word) = rest.first() {
            let (to, length) = match ours(word) {
                Some(length) => (&mut options, length.min(rest.len())),
                None => (&mut command, 1),
            };
            to.extend_from_slice(&rest[..length]);
            rest = &rest[length..];
        }
        (command, options)
    }

    /// One of them is `status`'s to tell.
    fn listed(&self, at: usize) -> Option<String> {
        let word = &self.ours[at];
        let option = naming(word)?;
        Some(format!(
            "list shows every gateway; for one: gateway {option} {} status",
            words::quoted(word)
        ))
    }

    /// A word by itself, where only a pid file's path or an instance's name can be meant.
    fn subject(&self, at: usize) -> Option<String> {
        let word = &self.ours[at];
        let option = naming(word)?;
        let is_given = |word: &OsString| {
            let word = word.to_string_lossy();
            let short = word.starts_with('-') && !word.starts_with("--");
            short && word.contains(['f', 'n'])
                || word.starts_with("--pid")
                || word.starts_with("--name")
        };
        if self.ours.iter().any(is_given) {
            return None;
        }
        let mut line = self.ours.to_vec();
        line.insert(at, option.into());
        Some(format!(
            "{} is no option; did you mean: gateway {}",
            words::quoted(word),
            words::command_line(&[&line, self.theirs].concat())
        ))
    }

    /// An option of the command in use, where it cannot stand or has a value that it does not take.
    fn misplaced(&self, at: usize, argument: &str) -> Option<String> {
        let used = self.used?;
        if !self
            .options()
            .any(|option| is_spelling(option, argument.as_ref()))
        {
            return None;
        }
        if at < used {
            let verb = self.ours[used].to_string_lossy();
            return Some(format!(
                "{argument} goes after the command: gateway {verb} {argument}"
            ));
        }
        let with_value = self.ours[at].as_encoded_bytes().contains(&b'=');
        with_value.then(|| format!("{argument} takes no value"))
    }

    /// What begins with a dash: a value that is none, or a mistyped option.
    fn value_or_option(&self, argument: &str) -> Option<String> {
        let is_it = |word: &OsString| {
            word.to_str().is_some_and(|word| {
                word == argument
                    || word.starts_with(&format!("{argument}="))
                    || !argument.starts_with("--") && word.starts_with(argument)
            })
        };
        let at = self.ours.iter().position(is_it)?;
        if let Some(option) = at
            .checked_sub(1)
            .filter(|at| self.takes_value(&self.ours[*at]))
        {
            return Some(self.no_value(at, &self.ours[option]));
        }
        if let Some((_, tool)) = NOT_BUILT
            .iter()
            .find(|(names, _)| names.contains(&argument))
        {
            return Some(format!("there is no option {argument}: {tool}"));
        }
        if let Some(said) = self.misplaced(at, argument) {
            return Some(said);
        }
        let longs = || {
            self.options()
                .filter_map(Arg::get_long)
                .map(|long| format!("--{long}"))
        };
        let mut begun = longs().filter(|long| argument.len() > 4 && long.starts_with(argument));
        let meant = match (begun.next(), begun.next()) {
            (Some(long), None) => long,
            _ => nearest(argument.as_ref(), longs())?,
        };
        Some(format!(
            "there is no option {argument}; did you mean {meant}?"
        ))
    }

    fn no_value(&self, at: usize, option: &OsStr) -> String {
        let takes_time = |arg: &Arg| {
            let names = arg.get_value_names().unwrap_or_default();
            is_spelling(arg, option) && names.iter().any(|name| name.as_str() == "D")
        };
        let allowed = if self.options().any(takes_time) {
            format!("; {}", duration::ALLOWED)
        } else {
            String::new()
        };
        format!(
            "{} is no value for {}{allowed}",
            words::quoted(&self.ours[at]),
            words::quoted(option)
        )
    }

    /// `-replace`, which the parser takes for `-r`, `-e` and so on.
    fn one_dash(&self) -> Option<String> {
        let is_long = |meant: &str| {
            self.options()
                .any(|option| is_spelling(option, meant.as_ref()))
        };
        let alone = (0..self.ours.len()).filter(|at| !self.is_value(*at));
        alone.into_iter().find_map(|at| {
            let typed = self.ours[at].to_str()?.split('=').next()?;
            let meant = format!("-{typed}");
            let is_it = typed.starts_with('-') && !typed.starts_with("--") && is_long(&meant);
            is_it.then(|| format!("there is no option {typed}; did you mean {meant}?"))
        })
    }

    /// The options that may stand here.
    fn options(&self) -> impl Iterator<Item = &Arg> {
        let name = self.used.and_then(|at| self.ours[at].to_str());
        let command = name.and_then(|name| self.interface.find_subcommand(name));
        describe::options(command.unwrap_or(self.interface))
    }

    /// The first word that is neither an option nor the value of one.
    fn first_word(&self) -> Option<usize> {
        self.word_from(0)
    }

    fn word_from(&self, start: usize) -> Option<usize> {
        (start..self.ours.len()).find(|at| {
            let option = self.ours[*at].as_encoded_bytes().starts_with(b"-");
            !option && !self.is_value(*at)
        })
    }

    /// Where a word stands by itself, and not as an option's value.
    fn standing_alone(&self, word: &str) -> Option<usize> {
        (0..self.ours.len()).find(|at| self.ours[*at] == word && !self.is_value(*at))
    }

    fn is_value(&self, at: usize) -> bool {
        at.checked_sub(1)
            .is_some_and(|before| self.takes_value(&self.ours[before]))
    }

    fn takes_value(&self, word: &OsStr) -> bool {
        let commands = self.interface.get_subcommands().chain([self.interface]);
        commands
            .flat_map(Command::get_arguments)
            .filter(|option| option.get_action().takes_values())
            .any(|option| is_spelling(option, word))
    }
}

/// The option that takes a word by itself, where a pid file's path or an instance's name can be meant.
fn naming(word: &OsStr) -> Option<&'static str> {
    if word.as_encoded_bytes().contains(&b'/') {
        return Some("-f");
    }
    Name::new(word.to_str()?).map(|_| "-n")
}

/// What the parser complains of.
fn argument(error: &clap::Error) -> Option<&str> {
    match error.get(ContextKind::InvalidArg)? {
        ContextValue::String(argument) => Some(argument),
        _ => None,
    }
}

fn is_spelling(option: &Arg, word: &OsStr) -> bool {
    describe::spellings(option)
        .iter()
        .any(|known| OsStr::new(known) == word)
}

/// The one that is meant, where it is a slip or two away.
fn nearest(typed: &OsStr, all: impl Iterator<Item = String>) -> Option<String> {
    let typed = typed.to_str()?;
    all.map(|one| (distance(typed, &one), one))
        .filter(|(distance, one)| {
            *distance <= 2 && distance * 2 < one.trim_start_matches('-').len()
        })
        .min()
        .map(|(_, one)| one)
}

/// How many letters are to be put in, left out or changed (Levenshtein).
fn distance(one: &str, other: &str) -> usize {
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.bytes().enumerate() {
        let mut before = row[0];
        row[0] = i + 1;
        for (j, b) in other.bytes().enumerate() {
            let changed = before + usize::from(a != b);
            before = row[j + 1];
            row[j + 1] = changed.min(before + 1).min(row[j] + 1);
        }
    }
    row[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    /// What is said to be wrong.
    fn said(words: &[&str]) -> String {
        let typed: Vec<OsString> = words.iter().map(OsString::from).collect();
        let whole = ["gateway"].iter().chain(words);
        let error = Cli::try_parse_from(whole).expect_err("wrong usage");
        text_of(&error, &typed).wrong
    }

    #[test]
    fn a_forgotten_double_dash_is_put_in() {
        for (typed, meant) in [
            (&["run", "-n", "x", "sleep", "9"][..], "run -n x -- sleep 9"),
            (
                &["-n", "web", "run", "--stop-signal", "QUIT", "web", "web"],
                "-n web run --stop-signal QUIT -- web web",
            ),
            (
                &["run", "-n", "x", "sh", "-c", "echo a b"],
                "run -n x -- sh -c 'echo a b'",
            ),
        ] {
            let expected = format!("COMMAND goes after --: gateway {meant}");
            assert_eq!(said(typed), expected);
        }
    }

    #[test]
    fn a_time_for_wait_has_an_option_of_its_own() {
        for typed in [
            &["run", "-w", "10"][..],
            &["run", "-w10"],
            &["run", "--wait=10"],
        ] {
            let words = [typed, &["--", "true"]].concat();
            assert_eq!(
                said(&words),
                "--wait takes no time: for at most 10, say --wait --timeout 10"
            );
        }
    }

    #[test]
    fn a_slip_is_told_with_what_was_meant() {
        for (typed, expected) in [
            (
                &["run", "--replce", "--", "true"][..],
                "there is no option --replce; did you mean --replace?",
            ),
            (
                &["run", "--kill", "--", "true"],
                "there is no option --kill; did you mean --kill-after?",
            ),
            (
                &["run", "--frobnicate"],
                "unexpected argument '--frobnicate' found",
            ),
            (
                &["stop", "--timeout", "-5"],
                "-5 is no value for --timeout; give seconds (30, 1.5), or units: ms, s, m, h, d (500ms, 30s, 1m30s, 2h); 0; infinity",
            ),
            (&["-n", "-5", "status"], "-5 is no value for -n"),
            (
                &["status", "x"],
                "x is no option; did you mean: gateway status -n x",
            ),
            (
                &["stop", "/run/x.pid"],
                "/run/x.pid is no option; did you mean: gateway stop -f /run/x.pid",
            ),
            (
                &["run", "x", "--", "true"],
                "x stands before --: COMMAND goes after it, and an instance's name after -n",
            ),
            (
                &["list", "x"],
                "list shows every gateway; for one: gateway -n x status",
            ),
            (
                &["list", "/run/x.pid"],
                "list shows every gateway; for one: gateway -f /run/x.pid status",
            ),
            (&["list", "a b"], "unexpected argument 'a b' found"),
            (&["-vnx", "stop", "y"], "unexpected argument 'y' found"),
            (
                &["--pidfile=x", "stop", "y"],
                "unexpected argument 'y' found",
            ),
            (&["status", "a b"], "unexpected argument 'a b' found"),
            (
                &["--json", "status"],
                "--json goes after the command: gateway status --json",
            ),
            (
                &["--timeout", "5", "-n", "x", "run", "--wait"],
                "--timeout goes after the command: gateway run --timeout",
            ),
            (&["run", "--replace=yes"], "--replace takes no value"),
            (
                &["-n", "demo", "--", "true"],
                "no command is given; did you mean: gateway run -n demo -- true",
            ),
            (
                &["-n", "demo", "statsu"],
                "statsu is no command; did you mean: gateway -n demo status",
            ),
            (
                &["help", "run"],
                "help is no command; did you mean: gateway run --help",
            ),
            (
                &["frobnicate"],
                "frobnicate is no command; there are: run, status, stop, list",
            ),
            (
                &["-n", "demo"],
                "no command is given; there are: run, status, stop, list",
            ),
            (
                &["-f", "", "status"],
                "the value of --pid-file <PATH> is empty",
            ),
        ] {
            assert_eq!(said(typed), expected, "{typed:?}");
        }
    }

    #[test]
    fn what_others_call_it_is_understood() {
        for (typed, meant) in [
            (&["sleep", "1"][..], "run -- sleep 1"),
            (
                &["-n", "demo", "sh", "-c", "a b"],
                "-n demo run -- sh -c 'a b'",
            ),
            (&["-n", "demo", "start"], "-n demo run -- COMMAND"),
            (&["start", "-n", "demo"], "run -n demo -- COMMAND"),
            (
                &["start", "-n", "demo", "sleep", "1"],
                "run -n demo -- sleep 1",
            ),
            (
                &["restart", "-n", "demo", "--", "sleep", "1"],
                "run --replace -n demo -- sleep 1",
            ),
            (&["kill", "-n", "demo"], "stop -n demo"),
            (&["ps"], "list"),
        ] {
            let expected = format!(" is no command; did you mean: gateway {meant}");
            assert!(said(typed).ends_with(&expected), "{}", said(typed));
        }
    }

    #[test]
    fn one_dash_is_one_too_few() {
        for (typed, option) in [
            (&["run", "-replace", "--", "true"][..], "replace"),
            (&["run", "-wait", "-timeout", "5"], "wait"),
            (&["run", "-timeout=5", "--", "true"], "timeout"),
            (&["-name", "demo", "status"], "name"),
            (&["status", "-json"], "json"),
        ] {
            let expected = format!("there is no option -{option}; did you mean --{option}?");
            assert_eq!(said(typed), expected, "{typed:?}");
        }
    }

    #[test]
    fn an_option_behind_the_command_is_put_before_it() {
        let and = "COMMAND goes after --, and options of run before it";
        for (typed, meant) in [
            (
                &["run", "-n", "demo", "sleep", "600", "--replace"][..],
                "run -n demo --replace -- sleep 600",
            ),
            (
                &[
                    "run",
                    "sleep",
                    "9",
                    "--kill-after",
                    "5",
                    "--timeout=9",
                    "--replace",
                ],
                "run --kill-after 5 --timeout=9 --replace -- sleep 9",
            ),
        ] {
            assert_eq!(said(typed), format!("{and}: gateway {meant}"));
        }
        // Which may be COMMAND's own.
        assert_eq!(
            said(&["run", "tail", "-f", "log", "--verbose"]),
            "COMMAND goes after --: gateway run -- tail -f log --verbose"
        );
    }

    #[test]
    fn for_what_is_not_built_the_tool_is_named() {
        for (typed, tool) in [
            (&["run", "--daemon", "--", "true"][..], "systemd-run"),
            (&["run", "--background", "--", "true"], "& of the shell"),
            (&["run", "--user", "web", "--", "true"], "setpriv"),
            (&["run", "--user=web", "--", "true"], "User="),
            (&["run", "--chdir", "/srv", "--", "true"], "env --chdir=DIR"),
        ] {
            let said = said(typed);
            let option = typed[1].split('=').next().unwrap();
            let (wrong, instead) = said.split_once(": ").expect("a tool");
            assert_eq!(wrong, format!("there is no option {option}"));
            assert!(instead.contains(tool), "{said}");
        }
    }

    #[test]
    fn letters_are_counted() {
        for (one, other, apart) in [
            ("", "ab", 2),
            ("run", "run", 0),
            ("rnu", "run", 2),
            ("abc", "axcd", 2),
        ] {
            assert_eq!(distance(one, other), apart, "{one} {other}");
        }
    }
}
