//! The interface in other words: completions for three shells and the manual's
//! options. All of it is made by walking the one declaration of the interface,
//! so none of it can go stale.

use std::fmt::Write as _;

use clap::{Arg, Command, ValueEnum, ValueHint};

/// What the interface can be put into.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Language {
    Bash,
    Zsh,
    Fish,
    /// The OPTIONS section of the manual page, in roff.
    Man,
}

/// The interface, in `language`.
pub fn describe(mut interface: Command, language: Language) -> String {
    // Declares what is put off until a command is used.
    interface.build();
    match language {
        Language::Bash => bash(&interface),
        Language::Zsh => zsh(&interface),
        Language::Fish => fish(&interface),
        Language::Man => man(&interface),
    }
}

/// What may stand in the place of an option's value.
enum Values {
    None,
    File,
    Name,
    Signal,
    OneOf(Vec<String>),
    Free,
}

/// The signals that anyone would stop a program with.
const SIGNALS: &str = "TERM INT HUP QUIT USR1 USR2 KILL";

/// Prints the names that `-n` could mean. The first column is the name.
const NAMES: &str = "gateway list 2>/dev/null | awk 'NR > 1 && $1 != \"-\" { print $1 }'";

fn values(option: &Arg) -> Values {
    if !option.get_action().takes_values() {
        return Values::None;
    }
    let choices = option.get_possible_values();
    if !choices.is_empty() {
        return Values::OneOf(choices.iter().map(|v| v.get_name().to_owned()).collect());
    }
    match (option.get_value_hint(), option.get_id().as_str()) {
        (ValueHint::FilePath, _) => Values::File,
        (_, "name") => Values::Name,
        (_, "stop_signal") => Values::Signal,
        _ => Values::Free,
    }
}

/// The commands that are told of.
pub fn commands(interface: &Command) -> impl Iterator<Item = &Command> {
    interface.get_subcommands().filter(|c| !c.is_hide_set())
}

/// The options that are told of.
pub fn options(command: &Command) -> impl Iterator<Item = &Arg> {
    command
        .get_arguments()
        .filter(|a| !a.is_hide_set() && !a.is_positional())
}

/// `-f` and `--pid-file`, as far as the option has them.
pub fn spellings(option: &Arg) -> Vec<String> {
    let short = option.get_short().map(|s| format!("-{s}"));
    let long = option.get_long().map(|l| format!("--{l}"));
    short.into_iter().chain(long).collect()
}

fn takes_command(command: &Command) -> bool {
    command.get_positionals().any(|a| !a.is_hide_set())
}

/// The first line of a help text, without its full stop.
fn summary(text: Option<&clap::builder::StyledStr>) -> String {
    let text = text.map(ToString::to_string).unwrap_or_default();
    let line = text.lines().next().unwrap_or_default();
    line.trim_end_matches('.').to_owned()
}

// ------------------------------------------------------------------ bash

fn bash(interface: &Command) -> String {
    let names: Vec<&str> = commands(interface).map(Command::get_name).collect();
    let mut taking: Vec<String> = commands(interface)
        .chain([interface])
        .flat_map(options)
        .filter(|o| o.get_action().takes_values())
        .flat_map(spellings)
        .collect();
    taking.sort();
    taking.dedup();
    let mut out = String::from("# bash completion for gateway\n\n_gateway() {\n");
    out +=
        "    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} command='' i\n";
    out += "    COMPREPLY=()\n";
    out += "    for ((i = 1; i < COMP_CWORD; i++)); do\n        case ${COMP_WORDS[i]} in\n";
    let _ = writeln!(out, "            {}) ((i++)) ;;", taking.join("|"));
    out += "            --)\n                if declare -F _command_offset >/dev/null; then\n";
    out += "                    _command_offset $((i + 1))\n                else\n";
    out += "                    mapfile -t COMPREPLY < <(compgen -c -f -- \"$cur\")\n";
    out += "                fi\n                return ;;\n";
    let _ = writeln!(
        out,
        "            {}) [[ $command ]] || command=${{COMP_WORDS[i]}} ;;",
        names.join("|")
    );
    out += "        esac\n    done\n    case $prev in\n";
    out += &bash_values(interface);
    out += "    esac\n    local words\n    case $command in\n";
    for command in commands(interface) {
        let dashes = if takes_command(command) { " --" } else { "" };
        let _ = writeln!(
            out,
            "        {}) words='{}{dashes}' ;;",
            command.get_name(),
            all_spellings(command)
        );
    }
    let _ = writeln!(
        out,
        "        *) words='{} {}' ;;",
        names.join(" "),
        all_spellings(interface)
    );
    out += "    esac\n    mapfile -t COMPREPLY < <(compgen -W \"$words\" -- \"$cur\")\n}\n\n";
    out += "complete -F _gateway gateway\n";
    out
}

fn all_spellings(command: &Command) -> String {
    let all: Vec<String> = options(command).flat_map(spellings).collect();
    all.join(" ")
}

/// One branch for each option that takes a value, whatever command has it.
fn bash_values(interface: &Command) -> String {
    let mut out = String::new();
    let mut seen = Vec::new();
    for option in commands(interface).chain([interface]).flat_map(options) {
        let generate = match values(option) {
            Values::None => continue,
            Values::File => "-f".to_owned(),
            Values::Name => format!("-W \"$({NAMES})\""),
            Values::Signal => format!("-W '{SIGNALS}'"),
            Values::OneOf(choices) => format!("-W '{}'", choices.join(" ")),
            Values::Free => "-W ''".to_owned(),
        };
        if seen.contains(&option.get_id()) {
            continue;
        }
        seen.push(option.get_id());
        let _ = writeln!(
            out,
            "        {})\n            mapfile -t COMPREPLY < <(compgen {generate} -- \"$cur\")\n            return ;;",
            spellings(option).join("|")
        );
    }
    out
}

// ------------------------------------------------------------------ zsh

fn zsh(interface: &Command) -> String {
    let mut out = String::from("#compdef gateway\n\n");
    let _ = writeln!(
        out,
        "_gateway_names() {{\n    local -a names\n    names=(${{(f)\"$({NAMES})\"}})\n    compadd -a names\n}}\n"
    );
    out += "_gateway() {\n";
    // What follows -- is COMMAND's own.
    out += "    local -i at=${words[(i)--]}\n    if (( at < CURRENT )); then\n";
    out += "        words=(\"${(@)words[at+1,-1]}\")\n        (( CURRENT -= at ))\n";
    out += "        _normal\n        return\n    fi\n";
    out += "    local context state state_descr line\n    local -A opt_args\n    local -a commands\n    commands=(\n";
    for command in commands(interface) {
        let _ = writeln!(
            out,
            "        '{}:{}'",
            command.get_name(),
            zsh_quoted(&summary(command.get_about()))
        );
    }
    out += "    )\n    _arguments -s -C \\\n";
    out += &zsh_options(interface);
    out += "        '(-)1:command:->command' \\\n        '(-)*::argument:->argument' && return\n";
    out += "    case $state in\n    command) _describe command commands ;;\n    argument)\n        case $words[1] in\n";
    for command in commands(interface) {
        let _ = writeln!(
            out,
            "        {})\n            _arguments -s \\",
            command.get_name()
        );
        out += &zsh_options(command).replace("        '", "                '");
        out += "                && return ;;\n";
    }
    out += "        esac ;;\n    esac\n}\n\n";
    // Works both ways: found in fpath, and sourced.
    out += "if [[ $funcstack[1] == _gateway ]]; then\n    _gateway \"$@\"\nelse\n    compdef _gateway gateway\nfi\n";
    out
}

fn zsh_options(command: &Command) -> String {
    options(command).flat_map(zsh_option).collect()
}

fn zsh_option(option: &Arg) -> Vec<String> {
    let help = zsh_quoted(&summary(option.get_help()));
    let action = match values(option) {
        Values::None => String::new(),
        Values::File => ":file:_files".to_owned(),
        Values::Name => ":name:_gateway_names".to_owned(),
        Values::Signal => format!(":signal:({SIGNALS})"),
        Values::OneOf(choices) => format!(":value:({})", choices.join(" ")),
        Values::Free => ":value: ".to_owned(),
    };
    let every = spellings(option);
    every
        .iter()
        .map(|spelling| {
            let plus = match (action.is_empty(), spelling.starts_with("--")) {
                (true, _) => "",
                (false, true) => "=",
                (false, false) => "+",
            };
            format!(
                "        '({}){spelling}{plus}[{help}]{action}' \\\n",
                every.join(" ")
            )
        })
        .collect()
}

/// Fit to stand between single quotes and, there, between brackets.
fn zsh_quoted(text: &str) -> String {
    text.replace('\'', "'\\''")
        .replace('[', "\\[")
        .replace(']', "\\]")
        .replace(':', "\\:")
}

// ------------------------------------------------------------------ fish

fn fish(interface: &Command) -> String {
    let names: Vec<&str> = commands(interface).map(Command::get_name).collect();
    let names = names.join(" ");
    let mut out = String::from("# fish completion for gateway\n\n");
    out += "function __gateway_payload\n    set -l words (commandline -opc)\n";
    out += "    set -l at (contains -i -- -- $words)\n";
    out += "    complete -C (string join ' ' -- (string escape -- $words[(math $at + 1)..]) (commandline -ct))\nend\n\n";
    out += "complete -c gateway -f\n";
    out += "complete -c gateway -n 'contains -- -- (commandline -opc)' -a '(__gateway_payload)'\n";
    for command in commands(interface) {
        let _ = writeln!(
            out,
            "complete -c gateway -n 'not __fish_seen_subcommand_from {names}' -a {} -d '{}'",
            command.get_name(),
            fish_quoted(&summary(command.get_about()))
        );
    }
    let global: Vec<&clap::Id> = options(interface).map(Arg::get_id).collect();
    for option in options(interface) {
        out += &fish_option(option, "not contains -- -- (commandline -opc)");
    }
    for command in commands(interface) {
        let when = format!(
            "__fish_seen_subcommand_from {}; and not contains -- -- (commandline -opc)",
            command.get_name()
        );
        for option in options(command).filter(|o| !global.contains(&o.get_id())) {
            out += &fish_option(option, &when);
        }
    }
    out
}

fn fish_option(option: &Arg, when: &str) -> String {
    let mut line = format!("complete -c gateway -n '{when}'");
    if let Some(short) = option.get_short() {
        let _ = write!(line, " -s {short}");
    }
    if let Some(long) = option.get_long() {
        let _ = write!(line, " -l {long}");
    }
    line += &match values(option) {
        Values::None => String::new(),
        Values::File => " -r -F".to_owned(),
        Values::Name => format!(" -x -a '({})'", fish_quoted(NAMES)),
        Values::Signal => format!(" -x -a '{SIGNALS}'"),
        Values::OneOf(choices) => format!(" -x -a '{}'", choices.join(" ")),
        Values::Free => " -x".to_owned(),
    };
    let help = fish_quoted(&summary(option.get_help()));
    let _ = writeln!(line, " -d '{help}'");
    line
}

fn fish_quoted(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\'', "\\'")
}

// ------------------------------------------------------------------ manual

fn man(interface: &Command) -> String {
    let mut out = String::new();
    let global: Vec<&clap::Id> = options(interface).map(Arg::get_id).collect();
    for command in commands(interface) {
        let own: Vec<&Arg> = options(command)
            .filter(|o| !global.contains(&o.get_id()))
            .collect();
        if own.is_empty() {
            continue;
        }
        let _ = writeln!(out, ".SS \"Options of gateway {}\"", command.get_name());
        out.extend(own.into_iter().map(man_option));
    }
    out += ".SS \"Options of every command\"\n";
    out.extend(options(interface).map(man_option));
    out
}

fn man_option(option: &Arg) -> String {
    let mut tag: Vec<String> = Vec::new();
    let value = option
        .get_value_names()
        .filter(|_| option.get_action().takes_values())
        .map(|names| format!(" \\fI{}\\fR", roff(&names.join(" "))))
        .unwrap_or_default();
    for spelling in spellings(option) {
        tag.push(format!("\\fB{}\\fR{value}", roff(&spelling)));
    }
    let text = option.get_long_help().or(option.get_help());
    let text = text.map(ToString::to_string).unwrap_or_default();
    let mut out = format!(".TP\n{}\n", tag.join(", "));
    let mut paragraphs: Vec<String> = text.split("\n\n").map(roff_lines).collect();
    let defaults = option.get_default_values();
    if option.get_action().takes_values() && !defaults.is_empty() {
        let defaults: Vec<_> = defaults.iter().map(|d| d.to_string_lossy()).collect();
        paragraphs.push(format!("Default: {}.\n", roff(&defaults.join(" "))));
    }
    out += &paragraphs.join(".IP\n");
    out
}

/// One sentence a line, as a manual's source has it, in lines of 78 at most.
fn roff_lines(paragraph: &str) -> String {
    let mut text = paragraph.trim().to_owned();
    // clap drops the full stop of a single sentence.
    if !text.ends_with(['.', ':']) {
        text.push('.');
    }
    let mut out = String::new();
    let mut column = 0;
    for word in text.split_whitespace().map(roff) {
        if column > 0 && column + 1 + word.len() > 78 {
            out += "\n";
            column = 0;
        }
        if column > 0 {
            out += " ";
            column += 1;
        } else if word.starts_with(['.', '\'']) {
            // A line that begins with a dot or a quote would be a request.
            out += "\\&";
        }
        out += &word;
        column += word.len();
        if word.len() > 1 && word.ends_with('.') {
            out += "\n";
            column = 0;
        }
    }
    out.trim_end().to_owned() + "\n"
}

fn roff(text: &str) -> String {
    text.replace('\\', "\\e").replace('-', "\\-")
}
