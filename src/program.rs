//! The program of COMMAND: found, and looked at, before anybody is asked to go for it.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD};
use rustix::io::Errno;

use crate::elf;
use crate::procfs::beginning_of;
use crate::text::{command_line, printable, quoted};
use crate::{Error, ErrorKind, Result};

/// A command that exists and may be executed.
#[derive(Clone, Debug)]
pub struct Command {
    pub(crate) program: PathBuf,
    pub(crate) argv: Vec<OsString>,
}

impl Command {
    /// Finds the program as `execvp(3)` would, so that a mistyped command costs nobody anything.
    ///
    /// # Errors
    /// `CommandNotFound` and `CommandNotExecutable`.
    pub fn resolve(argv: &[OsString]) -> Result<Self> {
        let name = argv.first().filter(|name| !name.is_empty());
        let Some(name) = name else {
            return Err(
                Error::new(ErrorKind::CommandNotFound, "the command is an empty word")
                    .advise("give it after --"),
            );
        };
        let program = if name.as_bytes().contains(&b'/') {
            check(Path::new(name))?
        } else {
            search(name).map_err(|error| match likely_slip(argv) {
                Some(advice) if error.kind() == ErrorKind::CommandNotFound => error.advise(advice),
                _ => error,
            })?
        };
        Ok(Self {
            program,
            argv: argv.to_vec(),
        })
    }

    /// The words, as they were given.
    #[must_use]
    pub fn argv(&self) -> &[OsString] {
        &self.argv
    }
}

/// No programs, but words of every shell's own. (A system may have a program for some of them.)
const BUILTINS: [&str; 14] = [
    ".", "alias", "bg", "cd", "eval", "exec", "export", "fg", "jobs", "set", "trap", "ulimit",
    "umask", "wait",
];

/// Words that a shell would have taken apart, or for itself.
fn likely_slip(argv: &[OsString]) -> Option<String> {
    let (name, rest) = argv.split_first()?;
    let text = name.to_str()?;
    if BUILTINS.contains(&text) {
        let line = command_line(argv);
        return Some(format!(
            "it is a word of the shell's own; write: -- sh -c {}",
            quoted(line.as_ref())
        ));
    }
    let assigned = text.split_once('=').map(|(variable, _)| variable);
    let is_variable = |variable: &str| {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        variable.bytes().all(allowed) && !variable.starts_with(|first: char| first.is_ascii_digit())
    };
    if assigned.is_some_and(|variable| !variable.is_empty() && is_variable(variable)) {
        return Some(format!(
            "to set a variable for it, write: -- env {}",
            command_line(argv)
        ));
    }
    let words: Vec<OsString> = text.split_whitespace().map(OsString::from).collect();
    (words.len() > 1).then(|| {
        let apart = command_line(&[&words, rest].concat());
        format!(
            "{} is one word; write: -- {apart}, or -- sh -c {}",
            quoted(name),
            quoted(name)
        )
    })
}

fn search(name: &OsStr) -> Result<PathBuf> {
    // execvp(3): the default path of the C library, without the current directory.
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/bin:/usr/bin".into());
    let mut refused = None;
    for directory in path.as_bytes().split(|byte| *byte == b':') {
        let directory = if directory.is_empty() {
            Path::new(".")
        } else {
            Path::new(OsStr::from_bytes(directory))
        };
        match check(&directory.join(name)) {
            Ok(program) => return Ok(program),
            Err(error) if error.kind() == ErrorKind::CommandNotExecutable => {
                refused = refused.or(Some(error))
            }
            Err(_) => {}
        }
    }
    let shown = printable(name);
    Err(refused.unwrap_or_else(|| {
        log::info!("PATH is {}", printable(&path));
        Error::new(
            ErrorKind::CommandNotFound,
            format!("cannot find the command {shown}"),
        )
        .advise("it is in no directory of PATH: give its full path")
    }))
}

fn check(program: &Path) -> Result<PathBuf> {
    let absolute = absolute(program);
    let shown = printable(absolute.as_os_str());
    let is_absent = |errno| matches!(errno, Errno::NOENT | Errno::NOTDIR);
    match may_execute(program) {
        Err(Bar::Errno(errno)) if is_absent(errno) => Err(Error::new(
            ErrorKind::CommandNotFound,
            format!("cannot find the command {shown}"),
        )
        .because(errno)),
        Err(Bar::NoRight(errno)) => {
            Err(not_executable(&shown, errno).advise(how_to_execute(&absolute)))
        }
        Err(bar) => Err(not_executable(&shown, bar)),
        Ok(size) => check_format(program, size, &shown, 0),
    }?;
    Ok(program.to_path_buf())
}

/// What keeps us from executing a file, before what it contains is looked at.
enum Bar {
    Errno(Errno),
    /// It is nothing that is executed: why.
    Unfit(&'static str),
    /// It has no execute bit for us, or its file system lets nothing be executed.
    NoRight(Errno),
}

impl From<Bar> for io::Error {
    fn from(bar: Bar) -> Self {
        match bar {
            Bar::Errno(errno) | Bar::NoRight(errno) => errno.into(),
            Bar::Unfit(kind) => Self::other(kind),
        }
    }
}

/// How large it is.
fn may_execute(program: &Path) -> Result<u64, Bar> {
    let stat = rustix::fs::stat(program).map_err(Bar::Errno)?;
    let kind = rustix::fs::FileType::from_raw_mode(stat.st_mode);
    if !kind.is_file() {
        return Err(Bar::Unfit(crate::unusable::describe(kind)));
    }
    has_right(program).map_err(Bar::NoRight)?;
    Ok(stat.st_size.unsigned_abs())
}

fn has_right(program: &Path) -> Result<(), Errno> {
    rustix::fs::accessat(CWD, program, Access::EXEC_OK, AtFlags::EACCESS)
}

/// For messages: a log tells no current directory.
pub(crate) fn absolute(program: &Path) -> PathBuf {
    std::path::absolute(program).unwrap_or_else(|_| program.to_path_buf())
}

/// What makes a file executable, if that is all it lacks.
fn how_to_execute(program: &Path) -> String {
    let typed = quoted(program.as_os_str());
    let by_name = interpreter_of(program).map(|interpreter| format!("{interpreter} {typed}"));
    let noexec = rustix::fs::statvfs(program)
        .is_ok_and(|stat| stat.f_flag.contains(rustix::fs::StatVfsMountFlags::NOEXEC));
    let advice = if noexec {
        "nothing on its file system may be executed (it is mounted noexec); move it".to_owned()
    } else {
        format!("chmod +x {typed}")
    };
    match by_name {
        Some(by_name) => format!("{advice}, or name its interpreter: {by_name}"),
        None => advice,
    }
}

/// What a script is read by, to be typed: as its first line has it, or the shell that one without such a
/// line is given to. `None`: it is no script, or nobody can tell.
fn interpreter_of(program: &Path) -> Option<String> {
    let file = std::fs::File::open(program).ok()?;
    let head = beginning_of(&file, LINE, |_| false).ok()?;
    let first = head.split(|byte| *byte == b'\n').next()?;
    let Some(line) = first.strip_prefix(b"#!") else {
        return (!first.contains(&0)).then(|| "sh".to_owned());
    };
    let words: Vec<&OsStr> = line
        .split(u8::is_ascii_whitespace)
        .filter(|word| !word.is_empty())
        .map(OsStr::from_bytes)
        .collect();
    (!words.is_empty()).then(|| command_line(&words))
}

/// `shown` is the program, and what there is to say about it.
pub(crate) fn not_executable(shown: &str, cause: impl Into<io::Error>) -> Error {
    Error::new(
        ErrorKind::CommandNotExecutable,
        format!("cannot execute {shown}"),
    )
    .because(cause)
}

/// As much of a first line as the kernel looks at (execve(2)).
const LINE: usize = 256;

/// As much as is read at once: most programs name their loader in it.
const HEAD: usize = 2048;

/// How many interpreters of interpreters the kernel follows (`exec_binprm` in its fs/exec.c).
const DEEPEST: u32 = 5;

/// What the file begins with is looked at, too, so that nobody is asked to go for a command that cannot
/// run. What cannot be read is left to the kernel. `depth`: how many interpreters led here.
fn check_format(program: &Path, size: u64, shown: &str, depth: u32) -> Result<()> {
    let Ok(file) = std::fs::File::open(program) else {
        return Ok(());
    };
    let Ok(head) = beginning_of(&file, HEAD, |_| false) else {
        return Ok(());
    };
    if let Some(line) = head[..head.len().min(LINE)].strip_prefix(b"#!") {
        return check_interpreter(program, shown, line, depth);
    }
    let flaw = |why| Err(not_executable(shown, io::Error::other(why)));
    if let Some(why) = foreign(&head, depth) {
        return if other_formats_may_be_known() {
            Ok(())
        } else {
            flaw(why)
        };
    }
    if !head.starts_with(ELF) {
        return Ok(());
    }
    match elf::flaw(&head).map_or_else(|| elf::loader(&file, size, &head), Err) {
        Ok(Some(loader)) => check_loader(&loader, shown),
        Ok(None) => Ok(()),
        Err(why) => flaw(why),
    }
}

/// A script needs the program that its first line names (execve(2)).
fn check_interpreter(script: &Path, shown: &str, line: &[u8], depth: u32) -> Result<()> {
    let (line, head_is_cut) = match line.iter().position(|byte| *byte == b'\n') {
        Some(end) => (&line[..end], false),
        None => (line, line.len() + 2 >= LINE),
    };
    let is_blank = |byte: &u8| b" \t".contains(byte);
    if head_is_cut && !line.trim_ascii_start().iter().any(is_blank) {
        // Its name is longer than the kernel reads: then it is a text for the shell.
        return Ok(());
    }
    // As the kernel has it: a carriage return belongs to the name, and a zero byte ends it.
    let line = line.split(|byte| *byte == 0).next().unwrap_or_default();
    let mut words = line.split(is_blank).filter(|word| !word.is_empty());
    let Some(interpreter) = words.next().map(|word| Path::new(OsStr::from_bytes(word))) else {
        return Ok(());
    };
    let named = format!(
        "{shown}: its interpreter {}",
        printable(interpreter.as_os_str())
    );
    let bar = if depth < DEEPEST {
        may_execute(interpreter)
    } else {
        Err(Bar::Unfit(
            "it is one interpreter too many: the kernel follows five",
        ))
    };
    match bar {
        Ok(size) => check_format(interpreter, size, &named, depth + 1),
        Err(bar) if line.ends_with(b"\r") => {
            let typed = quoted(absolute(script).as_os_str());
            Err(not_executable(&named, bar).advise(format!(
                "its first line ends with \\r, as DOS has it: sed -i 's/\\r$//' {typed}"
            )))
        }
        Err(bar) => Err(not_executable(&named, bar).advise("look at its first line")),
    }
}

/// A program of another C library, or of another distribution, may name one that is not here.
fn check_loader(loader: &Path, shown: &str) -> Result<()> {
    has_right(loader).map_err(|errno| {
        not_executable(
            &format!("{shown}: its loader {}", printable(loader.as_os_str())),
            errno,
        )
        .advise(
            "it was built for another C library or system: install that, or build it for this one",
        )
    })
}

const ELF: &[u8] = b"\x7fELF";

/// Why the kernel by itself would not execute a file that begins so (ENOEXEC, execve(2)), and perhaps by a
/// format that it was told of. What then is text is given to the shell, as execvp(3) does, but not where
/// another script names it; what has a zero byte in its first line is no text.
fn foreign(head: &[u8], depth: u32) -> Option<&'static str> {
    if head.starts_with(ELF) {
        return elf::is_foreign(head).then_some("it is a program for another kind of machine");
    }
    let first_line = head.split(|byte| *byte == b'\n').next().unwrap_or_default();
    (depth > 0 || first_line.contains(&0)).then_some("it is neither a program nor a script")
}

/// Whether the kernel was told of other formats (binfmt_misc): then it may run what it could not. Where
/// that cannot be seen, as in most containers, it may have been.
fn other_formats_may_be_known() -> bool {
    let told = std::fs::read_dir("/proc/sys/fs/binfmt_misc");
    let names: Vec<OsString> = told
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name())
        .collect();
    let own = |name: &OsString| name == "register" || name == "status";
    !names.iter().any(own) || !names.iter().all(own)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_found_as_the_shell_finds_them() {
        let found = Command::resolve(&["sh".into(), "-c".into()]).unwrap();
        assert!(found.program.is_absolute() && found.program.ends_with("sh"));
        assert_eq!(found.argv(), ["sh", "-c"]);
    }

    #[test]
    fn what_cannot_be_executed_is_told_apart_from_what_is_not_there() {
        let kind = |name: &str| Command::resolve(&[name.into()]).unwrap_err().kind();
        assert_eq!(kind("/no/such/program"), ErrorKind::CommandNotFound);
        assert_eq!(kind("no-such-program-anywhere"), ErrorKind::CommandNotFound);
        assert_eq!(kind(""), ErrorKind::CommandNotFound);
        assert_eq!(kind("/etc/passwd"), ErrorKind::CommandNotExecutable);
        assert_eq!(kind("/etc"), ErrorKind::CommandNotExecutable);
    }

    #[test]
    fn what_the_shell_reads_may_be_a_program() {
        for text in [
            &b""[..],
            b"echo a\n",
            b"#!/bin/sh\n\0",
            b"echo a\nexit\n\0\0",
        ] {
            assert_eq!(foreign(text, 0), None, "{}", String::from_utf8_lossy(text));
        }
    }
}
