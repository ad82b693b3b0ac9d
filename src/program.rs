//! The program of COMMAND: found, and looked at, before anybody is asked to go for it.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD};

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

/// Words that a shell would have taken apart, or for itself.
fn likely_slip(argv: &[OsString]) -> Option<String> {
    let (name, rest) = argv.split_first()?;
    let text = name.to_str()?;
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
    let stat = rustix::fs::stat(program).map_err(|errno| match errno {
        rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR => Error::new(
            ErrorKind::CommandNotFound,
            format!("cannot find the command {shown}"),
        )
        .because(errno),
        _ => not_executable(&shown, errno),
    })?;
    let kind = rustix::fs::FileType::from_raw_mode(stat.st_mode);
    if !kind.is_file() {
        let cause = io::Error::other(crate::unusable::describe(kind));
        return Err(not_executable(&shown, cause));
    }
    rustix::fs::accessat(CWD, program, Access::EXEC_OK, AtFlags::EACCESS)
        .map_err(|errno| not_executable(&shown, errno).advise(how_to_execute(&absolute)))?;
    check_format(program)?;
    Ok(program.to_path_buf())
}

/// For messages: a log tells no current directory.
pub(crate) fn absolute(program: &Path) -> PathBuf {
    std::path::absolute(program).unwrap_or_else(|_| program.to_path_buf())
}

/// What makes a file executable, if that is all it lacks.
fn how_to_execute(program: &Path) -> String {
    let typed = quoted(program.as_os_str());
    let noexec = rustix::fs::statvfs(program)
        .is_ok_and(|stat| stat.f_flag.contains(rustix::fs::StatVfsMountFlags::NOEXEC));
    if noexec {
        return format!(
            "nothing on its file system may be executed (it is mounted noexec); move it, or for a script name its interpreter: sh {typed}"
        );
    }
    format!("chmod +x {typed}, or name its interpreter: sh {typed}")
}

/// `shown` is the program, and what there is to say about it.
pub(crate) fn not_executable(shown: &str, cause: impl Into<io::Error>) -> Error {
    Error::new(
        ErrorKind::CommandNotExecutable,
        format!("cannot execute {shown}"),
    )
    .because(cause)
}

/// As much as the kernel looks at (execve(2)).
const HEAD: usize = 256;

/// What the file begins with is looked at, too, so that nobody is asked to go for a command that cannot
/// run. What cannot be read is left to the kernel.
fn check_format(program: &Path) -> Result<()> {
    use std::io::Read;
    let mut head = Vec::with_capacity(HEAD);
    let file = std::fs::File::open(program);
    let read = file.and_then(|file| file.take(HEAD as u64).read_to_end(&mut head));
    if read.is_err() {
        return Ok(());
    }
    match (head.strip_prefix(b"#!"), no_program(&head)) {
        (Some(line), _) => check_interpreter(program, line),
        (None, Some(why)) if !other_formats_may_be_known() => {
            let shown = printable(program.as_os_str());
            Err(not_executable(&shown, io::Error::other(why)))
        }
        _ => Ok(()),
    }
}

/// A script needs the program that its first line names (execve(2)).
fn check_interpreter(program: &Path, line: &[u8]) -> Result<()> {
    let line = line.split(|byte| *byte == b'\n').next().unwrap_or_default();
    // As the kernel has it: a carriage return belongs to the name.
    let mut words = line
        .split(|byte| b" \t".contains(byte))
        .filter(|word| !word.is_empty());
    let Some(interpreter) = words.next().map(|word| Path::new(OsStr::from_bytes(word))) else {
        return Ok(());
    };
    rustix::fs::accessat(CWD, interpreter, Access::EXEC_OK, AtFlags::EACCESS).map_err(|errno| {
        let absolute = absolute(program);
        let (script, missing) = (
            printable(absolute.as_os_str()),
            printable(interpreter.as_os_str()),
        );
        let advice = if line.ends_with(b"\r") {
            let typed = quoted(absolute.as_os_str());
            format!("its first line ends with \\r, as DOS has it: sed -i 's/\\r$//' {typed}")
        } else {
            "look at its first line".to_owned()
        };
        not_executable(&format!("{script}: its interpreter {missing}"), errno).advise(advice)
    })
}

/// Why the kernel would not execute a file that begins so (ENOEXEC, execve(2)). What then is text is
/// given to the shell, as execvp(3) does; what has a zero byte in its first line is no text.
fn no_program(head: &[u8]) -> Option<&'static str> {
    if head.starts_with(b"\x7fELF") {
        return no_elf_program(head);
    }
    let first_line = head.split(|byte| *byte == b'\n').next().unwrap_or_default();
    first_line
        .contains(&0)
        .then_some("it is neither a program nor a script")
}

/// elf(5): the class is byte 4, the type and the machine are the two halves at 16 and 18.
fn no_elf_program(head: &[u8]) -> Option<&'static str> {
    let wide = match head.get(4) {
        Some(1) => false,
        Some(2) => true,
        _ => return Some("it is a damaged program"),
    };
    if head.len() < if wide { 64 } else { 52 } {
        return Some("it is a damaged program: it ends in its header");
    }
    let half = |at: usize| u16::from_ne_bytes([head[at], head[at + 1]]);
    let (kind, machine) = (half(16), half(18));
    if !MACHINES.is_empty() && !MACHINES.contains(&(wide, machine)) {
        return Some("it is a program for another kind of machine");
    }
    // ET_EXEC and ET_DYN.
    (!matches!(kind, 2 | 3)).then_some("it is a part of a program, and cannot run by itself")
}

/// What a kernel for us may run, by class and `e_machine` (elf(5)); nothing: not known here.
const MACHINES: &[(bool, u16)] = if cfg!(any(target_arch = "x86_64", target_arch = "x86")) {
    &[(true, 62), (false, 62), (false, 3)]
} else if cfg!(any(target_arch = "aarch64", target_arch = "arm")) {
    &[(true, 183), (false, 183), (false, 40)]
} else {
    &[]
};

/// Whether the kernel was told of other formats (binfmt_misc): then it may run what it could not.
fn other_formats_may_be_known() -> bool {
    let own = |name: &OsStr| name == "register" || name == "status";
    let told = std::fs::read_dir("/proc/sys/fs/binfmt_misc");
    told.into_iter()
        .flatten()
        .flatten()
        .any(|entry| !own(&entry.file_name()))
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

    /// The head of a 64-bit program for the machine that we were built for.
    fn own_head() -> Vec<u8> {
        let mut head = std::fs::read("/proc/self/exe").unwrap();
        head.truncate(256);
        head
    }

    #[test]
    fn what_the_kernel_runs_and_what_the_shell_reads_may_be_a_program() {
        assert_eq!(no_program(&own_head()), None);
        for text in [
            &b""[..],
            b"echo a\n",
            b"#!/bin/sh\n\0",
            b"echo a\nexit\n\0\0",
        ] {
            assert_eq!(no_program(text), None, "{}", String::from_utf8_lossy(text));
        }
    }

    #[test]
    fn what_nothing_can_run_is_no_program() {
        let changed = |at: usize, byte: u8| {
            let mut head = own_head();
            head[at] = byte;
            head
        };
        // No class; a part of a program (ET_REL); junk.
        for head in [changed(4, 0), changed(16, 1), b"\x01\0\x02".to_vec()] {
            assert!(no_program(&head).is_some());
        }
        // EM_SPARC.
        assert_eq!(no_program(&changed(18, 2)).is_some(), !MACHINES.is_empty());
        for end in 4..52 {
            assert!(no_program(&own_head()[..end]).is_some(), "{end} bytes");
        }
    }
}
