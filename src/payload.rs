//! COMMAND: found before anybody is asked to go, started under the lock, never left alone.

use std::cell::Cell;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD};
use rustix::process::{WaitId, WaitIdOptions, waitid};

use crate::marks;
use crate::process::{self, Pid, Pinned, Stat};
use crate::process_table::Family;
use crate::record::Record;
use crate::signal::Signal;
use crate::signals::Signals;
use crate::sys::{self, Image, Upbringing, Words};
use crate::text::{command_line, printable, quoted};
use crate::{Error, ErrorKind, Result, variables};

/// A command that exists and may be executed.
#[derive(Clone, Debug)]
pub struct Command {
    program: PathBuf,
    argv: Vec<OsString>,
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
fn absolute(program: &Path) -> PathBuf {
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
fn not_executable(shown: &str, cause: impl Into<io::Error>) -> Error {
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

/// What the command gets beside our own environment.
#[derive(Clone, Copy, Debug)]
pub struct Surroundings<'a> {
    /// The record of the gateway it runs under.
    pub record: &'a Record,
    /// Whether it may speak to the service manager.
    pub may_notify: bool,
}

fn image(command: &Command, around: Surroundings<'_>) -> Result<Image> {
    let record = around.record;
    let outer = std::env::var_os(variables::RUN_ID);
    let ours = marks::of_run(record, outer);
    // WATCHDOG_PID is ours; without it the watchdog is for whoever asks (sd_watchdog_enabled(3)).
    // That asks for no socket, so who may not speak must not hear of a watchdog, either: after
    // --exec even WATCHDOG_PID is the command's own.
    let hidden: &[&str] = if around.may_notify {
        &["WATCHDOG_PID"]
    } else {
        &["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"]
    };
    let is_kept = |name: &[u8]| {
        let is = |other: &str| other.as_bytes() == name;
        !hidden.iter().any(|hidden| is(hidden)) && !ours.iter().any(|(own, _)| is(own))
    };
    let mut environment = Words::of_our_environment(is_kept);
    for (name, value) in &ours {
        environment.push(&[name.as_bytes(), b"=", value.as_bytes()]);
    }
    let mut argv = Words::default();
    for word in &command.argv {
        argv.push(&[word.as_bytes()]);
    }
    Image::new(command.program.as_os_str(), argv, environment)
        .map_err(|error| cannot_start(command, error))
}

/// The command, running, and what descends from it.
#[derive(Debug)]
pub struct Payload {
    pinned: Pinned,
    start_time: u64,
    heard_nothing: Cell<bool>,
    /// What descended from us before: pids with their start times.
    not_ours: Vec<(Pid, u64)>,
    run_id: String,
}

/// Why there is no payload.
#[derive(Debug)]
pub enum NotStarted {
    /// It never ran.
    Never(Error),
    /// It ran, could not be looked at, and was killed at once: what it has started by then may live.
    Unseen(Error),
}

impl From<Error> for NotStarted {
    fn from(error: Error) -> Self {
        Self::Never(error)
    }
}

impl Payload {
    /// Starts the command: with the parent-death signal set, original dispositions and an empty
    /// mask; in our process group if that has a terminal, else in one of its own.
    ///
    /// `None`: a signal that asks to stop had come before the fork, so nothing was started.
    ///
    /// # Errors
    /// The command cannot be executed after all, or the system has no room for a process, or is short of
    /// what it takes to look at one.
    pub fn start(
        command: &Command,
        around: Surroundings<'_>,
        signals: &mut Signals,
        terminal: bool,
    ) -> Result<Option<Self>, NotStarted> {
        let not_ours = earlier_descendants()?;
        // What the payload leaves behind comes to us instead of to init (prctl(2)). A kernel that
        // refuses (a filter of system calls) leaves orphans to init, and they live on.
        let _ = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
        let image = image(command, around)?;
        let quiet = sys::Quiet::begin();
        if crate::wait::Interrupt::interrupted(signals) {
            return Ok(None);
        }
        let upbringing = Upbringing {
            parent: Some(rustix::process::getpid()),
            own_group: !terminal,
            dispositions: signals.originally().to_vec(),
        };
        let child = image
            .start(&upbringing, &quiet)
            .map_err(|error| cannot_start(command, error))?;
        // Blocked since before the fork: what is pending now the child may not have heard.
        let heard_nothing =
            quiet.is_pending(Signal::INT.number()) || quiet.is_pending(Signal::QUIT.number());
        drop(quiet);
        let pid = Pid::new(child.into()).expect("a child has a pid");
        let (pinned, start_time) = meet(pid).map_err(|error| {
            take_back(pid);
            NotStarted::Unseen(error)
        })?;
        let run_id = around.record.run_id.clone();
        Ok(Some(Self {
            pinned,
            start_time,
            heard_nothing: Cell::new(heard_nothing),
            not_ours,
            run_id,
        }))
    }

    /// Its first process.
    #[must_use]
    pub fn pid(&self) -> Pid {
        self.pinned.pid()
    }

    /// When that started.
    #[must_use]
    pub fn start_time(&self) -> u64 {
        self.start_time
    }

    /// Whether the terminal's driver sends it what it sends us, now: it may leave our group.
    #[must_use]
    pub fn shares_our_group(&self) -> bool {
        let theirs = rustix::process::getpgid(Some(self.pinned.pid().raw()));
        theirs.is_ok_and(|theirs| theirs == rustix::process::getpgrp())
    }

    /// Whether a key was pressed so early that it may not have heard of it: true once at the most.
    #[must_use]
    pub fn heard_nothing(&self) -> bool {
        self.heard_nothing.take()
    }

    /// Signals the first process.
    pub fn signal(&self, signal: Signal) {
        // It may have ended in this instant, or have become somebody whom we may not signal.
        if let Err(error) = send(&self.pinned, signal)
            && error.raw_os_error() != Some(libc::ESRCH)
        {
            log::error!(
                "cannot send {signal} to COMMAND, pid {}: {error}",
                self.pid()
            );
        }
    }

    /// Everything that descends from it.
    ///
    /// Where we had children before the command, what is left of *them* comes to us, too: there only
    /// those count that descend from the first process or have our run id.
    ///
    /// # Errors
    /// Somebody could not be looked at just now.
    pub fn left(&self) -> io::Result<Vec<Stat>> {
        let family = Family::now()?;
        let earlier = |stat: &&Stat| self.not_ours.contains(&(stat.pid, stat.start_time));
        let except: Vec<Pid> = family
            .members()
            .filter(earlier)
            .map(|stat| stat.pid)
            .collect();
        let mut found = family.descendants(&[Pid::this()], &except);
        if !self.not_ours.is_empty() {
            let first = family.descendants(&[self.pid()], &[]);
            let below = |stat: &Stat| {
                stat.pid == self.pid() || first.iter().any(|known| known.pid == stat.pid)
            };
            found.retain(|stat| below(stat) || marks::is_marked(stat.pid, &self.run_id));
        }
        Ok(found
            .into_iter()
            .filter(|stat| !stat.is_dead())
            .cloned()
            .collect())
    }

    /// The members that are stopped now, as far as they are quickly found.
    #[must_use]
    pub fn stopped(&self) -> Vec<Stat> {
        let members = process::listed_descendants(self.pid())
            .into_iter()
            .chain([self.pid()]);
        members
            .filter_map(Stat::of)
            .filter(Stat::is_stopped)
            .collect()
    }

    /// Signals each of these, pinned and looked at again, one by one; tells whom it was sent to. The first
    /// process is pinned already, and needs nothing that the system may be short of.
    pub fn signal_each(&self, processes: &[Stat], signal: Signal) -> Vec<Stat> {
        let reach = |stat: &&Stat| {
            if stat.pid == self.pid() {
                send(&self.pinned, signal).is_ok()
            } else {
                signal_one(stat, signal)
            }
        };
        processes.iter().filter(reach).cloned().collect()
    }

    /// Whether any of it lives, where we have living children at all.
    #[must_use]
    pub fn has_members(&self) -> bool {
        // Who cannot be looked at now is not gone.
        self.not_ours.is_empty() || self.left().map_or(true, |left| !left.is_empty())
    }
}

/// Whether it was sent: it may be gone, or not be ours to signal.
fn signal_one(stat: &Stat, signal: Signal) -> bool {
    let Ok(Some(pinned)) = Pinned::open_shown(stat.pid) else {
        return false;
    };
    let same = matches!(stat.again(), Ok(Some(_)));
    same && send(&pinned, signal).is_ok()
}

/// Signals a process through its pidfd. Where a filter of system calls knows no such thing, a child of
/// ours is signalled by its number: nobody else gets that before we have collected the child (wait(2)).
fn send(pinned: &Pinned, signal: Signal) -> io::Result<()> {
    pinned.signal(signal).or_else(|error| {
        let gone = error.raw_os_error() == Some(libc::ESRCH);
        let number = pinned.pid().raw();
        match signal
            .raw()
            .filter(|_| !gone && uncollected(WaitId::Pid(number)).is_ok())
        {
            Some(signal) => Ok(rustix::process::kill_process(number, signal)?),
            None => Err(error),
        }
    })
}

/// ECHILD: there is no such child of ours that has not been collected (waitid(2)). Collects none.
fn uncollected(whom: WaitId<'_>) -> rustix::io::Result<()> {
    let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    waitid(whom, look).map(drop)
}

/// What descends from us already (`helper & exec gateway run …`): not of the command.
fn earlier_descendants() -> Result<Vec<(Pid, u64)>> {
    if uncollected(WaitId::All) == Err(rustix::io::Errno::CHILD) {
        return Ok(Vec::new());
    }
    let family = Family::now().map_err(|error| {
        Error::system("cannot look through /proc for our own children").because(error)
    })?;
    Ok(family
        .descendants(&[Pid::this()], &[])
        .iter()
        .map(|stat| (stat.pid, stat.start_time))
        .collect())
}

/// Pins our own child. It stays, at least as a zombie, until we collect it: the number is its own.
fn meet(pid: Pid) -> Result<(Pinned, u64)> {
    let cannot =
        |error| Error::system(format!("cannot look at our own child {pid}")).because(error);
    let gone = || Error::system(format!("our own child {pid} cannot be seen in /proc"));
    let pinned = Pinned::open(pid).map_err(cannot)?.ok_or_else(gone)?;
    let stat = Stat::look(pid).map_err(cannot)?.ok_or_else(gone)?;
    Ok((pinned, stat.start_time))
}

/// Ends a child that cannot be supervised: nothing may run when the lock is let go.
fn take_back(pid: Pid) {
    let _ = rustix::process::kill_process(pid.raw(), rustix::process::Signal::KILL);
    let _ = rustix::process::waitpid(Some(pid.raw()), rustix::process::WaitOptions::empty());
}

fn cannot_start(command: &Command, error: io::Error) -> Error {
    let shown = printable(absolute(&command.program).as_os_str());
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::ENOMEM | libc::EMFILE | libc::ENFILE) => {
            Error::system(format!("cannot start a process for {shown}")).because(error)
        }
        Some(libc::ENOENT) => not_executable(&shown, error)
            .advise("its interpreter is missing: look at its first line"),
        _ => not_executable(&shown, error),
    }
}

/// Becomes the command. Comes back only with the reason why it could not; `None`: a signal that
/// asks to stop had come before.
pub fn become_command(
    command: &Command,
    around: Surroundings<'_>,
    signals: &mut Signals,
) -> Option<Error> {
    let image = match image(command, around) {
        Ok(image) => image,
        Err(error) => return Some(error),
    };
    let upbringing = Upbringing {
        parent: None,
        own_group: false,
        dispositions: signals.originally().to_vec(),
    };
    // What comes from here on finds the kernel's own answer, before or after the program is there.
    let _quiet = sys::Quiet::begin();
    if crate::wait::Interrupt::interrupted(signals) {
        return None;
    }
    Some(cannot_start(command, image.become_it(&upbringing)))
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
