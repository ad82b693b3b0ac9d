//! Processes: started, watched, signalled, and ended without fail.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::wait::{SOON, until};

/// How a process ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// With a code.
    Code(i32),
    /// Of a signal.
    Signal(i32),
}

impl End {
    /// Died of this signal.
    pub const fn of(signal: Signal) -> Self {
        Self::Signal(signal.as_raw())
    }
}

impl From<ExitStatus> for End {
    fn from(status: ExitStatus) -> Self {
        status.code().map_or_else(
            || Self::Signal(status.signal().expect("no code, so a signal")),
            Self::Code,
        )
    }
}

/// What a process that has ended left.
#[derive(Clone, Debug)]
pub struct Output {
    pub end: End,
    pub stdout: String,
    pub stderr: String,
    pub took: Duration,
}

impl Output {
    /// Fails unless it ended with this code.
    #[track_caller]
    pub fn assert_code(&self, code: i32) -> &Self {
        assert_eq!(self.end, End::Code(code), "{self:#?}");
        self
    }

    /// Fails unless stderr has this text.
    #[track_caller]
    pub fn assert_says(&self, text: &str) -> &Self {
        assert!(
            self.stderr.contains(text),
            "nothing of {text:?} in {self:#?}"
        );
        self
    }

    /// Fails unless stderr is one line.
    #[track_caller]
    pub fn assert_one_line(&self) -> &Self {
        assert_eq!(self.stderr.lines().count(), 1, "{self:#?}");
        assert!(self.stderr.ends_with('\n'), "{self:#?}");
        self
    }

    /// Fails unless it took this long, and not much longer.
    #[track_caller]
    pub fn assert_took(&self, length: Duration) -> &Self {
        assert!(self.took >= length, "{self:#?}");
        assert!(
            self.took < length + Duration::from_millis(2600),
            "{self:#?}"
        );
        self
    }

    /// Fails if it said anything.
    #[track_caller]
    pub fn assert_silent(&self) -> &Self {
        assert_eq!(
            (self.stdout.as_str(), self.stderr.as_str()),
            ("", ""),
            "{self:#?}"
        );
        self
    }
}

/// A process of ours; killed when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    pidfd: OwnedFd,
    stdout: PathBuf,
    stderr: PathBuf,
    began: Instant,
    ended: Option<End>,
}

impl Process {
    /// Starts it, with its words going to two files.
    #[track_caller]
    pub fn start(mut command: Command, stdout: PathBuf, stderr: PathBuf) -> Self {
        let file = |path: &Path| File::create(path).expect("a file for what it says");
        command.stdout(file(&stdout)).stderr(file(&stderr));
        Self::start_as_is(command, stdout, stderr)
    }

    /// Starts it with the descriptors that the command has.
    #[track_caller]
    pub fn start_as_is(mut command: Command, stdout: PathBuf, stderr: PathBuf) -> Self {
        // Before it can run: it must not be found to have waited for less than it did.
        let began = Instant::now();
        let child = command
            .spawn()
            .unwrap_or_else(|cause| panic!("cannot start {command:?}: {cause}"));
        let pid = Pid::from_raw(child.id().cast_signed()).expect("a pid");
        remember(child.id());
        Self {
            // The child is not reaped yet: the number is still its own.
            pidfd: pidfd_open(pid, PidfdFlags::empty()).expect("a pidfd of our child"),
            child,
            stdout,
            stderr,
            began,
            ended: None,
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn stdout(&self) -> String {
        read(&self.stdout)
    }

    pub fn stderr(&self) -> String {
        read(&self.stderr)
    }

    /// Waits for a line on stderr that has this text, and gives it.
    #[track_caller]
    pub fn wait_for_line(&mut self, text: &str) -> String {
        let deadline = Instant::now() + SOON;
        loop {
            // Asked before the file is read: what it said last is in there then.
            let ended = self.try_end();
            let said = self.stderr();
            if let Some(line) = said.lines().find(|line| line.contains(text)) {
                return line.to_owned();
            }
            assert!(
                ended.is_none(),
                "ended ({ended:?}) without a word of {text:?}: {said:?}"
            );
            assert!(
                Instant::now() < deadline,
                "no word of {text:?} for {SOON:?}: {said:?}"
            );
            std::thread::sleep(Duration::from_millis(3));
        }
    }

    /// Signals it.
    pub fn signal(&self, signal: Signal) {
        pidfd_send_signal(&self.pidfd, signal).expect("a signal to our own process");
    }

    /// `kill -9`, and the kernel has let go of everything it had.
    pub fn crash(&mut self) {
        self.signal(Signal::KILL);
        assert_eq!(self.end(), End::of(Signal::KILL));
    }

    pub fn try_end(&mut self) -> Option<End> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().expect("our child").map(End::from);
        }
        self.ended
    }

    pub fn is_running(&mut self) -> bool {
        self.try_end().is_none()
    }

    /// Waits for its end.
    #[track_caller]
    pub fn end(&mut self) -> End {
        self.end_within(SOON)
    }

    #[track_caller]
    pub fn end_within(&mut self, limit: Duration) -> End {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(end) = self.try_end() {
                return end;
            }
            assert!(
                Instant::now() < deadline,
                "pid {} did not end for {limit:?}; it said: {:?}",
                self.pid(),
                self.stderr()
            );
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Waits for its end, and gives all that it said.
    #[track_caller]
    pub fn output(mut self) -> Output {
        let end = self.end();
        Output {
            end,
            took: self.began.elapsed(),
            stdout: self.stdout(),
            stderr: self.stderr(),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.ended.is_none() {
            if std::thread::panicking() {
                eprintln!("-- pid {} said: {}", self.pid(), self.stderr());
            }
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn read(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}

fn pid(number: u32) -> Option<Pid> {
    Pid::from_raw(i32::try_from(number).ok()?)
}

/// Signals a process that is known to be part of the test. Says whether it was there.
pub fn signal(number: u32, signal: Signal) -> bool {
    pid(number)
        .and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok())
        .is_some_and(|pidfd| pidfd_send_signal(&pidfd, signal).is_ok())
}

/// SIGKILL, and waits until it is gone.
pub fn kill(number: u32) {
    signal(number, Signal::KILL);
    until(&format!("the end of pid {number}"), SOON, || {
        (!exists(number)).then_some(())
    });
}

/// A field of `/proc/PID/stat`, counted as in proc_pid_stat(5); 3 and above.
pub fn stat_field(number: u32, field: usize) -> Option<String> {
    let stat = fs::read(format!("/proc/{number}/stat")).ok()?;
    let stat = String::from_utf8_lossy(&stat).into_owned();
    let (_, after_name) = stat.rsplit_once(") ")?;
    after_name
        .split_whitespace()
        .nth(field - 3)
        .map(str::to_owned)
}

/// The state letter of a process that exists.
pub fn state(number: u32) -> Option<char> {
    stat_field(number, 3)?.chars().next()
}

/// The signals that were sent to the process, or to its first thread, and that it blocks: a bit for each
/// (proc_pid_status(5), `SigPnd` and `ShdPnd`). `None`: it is gone.
pub fn pending(number: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{number}/status")).ok()?;
    let set = |name| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        u64::from_str_radix(line.expect("a set of signals").trim(), 16).expect("in hex")
    };
    Some(set("SigPnd:") | set("ShdPnd:"))
}

/// Whether this signal was sent to the process, which blocks it.
pub fn has_pending(number: u32, signal: Signal) -> bool {
    pending(number).is_some_and(|set| set & 1 << (signal.as_raw() - 1) != 0)
}

/// Whether a process is there and runs; a zombie does not. Numbers are handed on, quickly on a busy
/// machine: a process is remembered by its start from the first look on, and who comes after it
/// under its number is another.
pub fn exists(number: u32) -> bool {
    static SEEN: Mutex<BTreeMap<u32, String>> = Mutex::new(BTreeMap::new());
    let Some(start) = stat_field(number, 22) else {
        return false;
    };
    let runs = state(number).is_some_and(|state| state != 'Z' && state != 'X');
    let mut seen = SEEN.lock().expect("nobody panics with it");
    runs && *seen.entry(number).or_insert_with(|| start.clone()) == start
}

/// Looks at a process for the first time, so that its number means it from now on.
pub fn remember(number: u32) -> u32 {
    exists(number);
    number
}

/// The environment of a process, as far as it can be read.
pub fn environment(number: u32) -> HashMap<OsString, OsString> {
    let bytes = fs::read(format!("/proc/{number}/environ")).unwrap_or_default();
    bytes
        .split(|byte| *byte == 0)
        .filter_map(|entry| {
            let at = entry.iter().position(|byte| *byte == b'=')?;
            let (name, value) = (&entry[..at], &entry[at + 1..]);
            Some((
                OsString::from_vec(name.to_vec()),
                OsString::from_vec(value.to_vec()),
            ))
        })
        .collect()
}

/// One variable of a process. Waits for it: a process that is about to become another program has
/// no environment for a moment.
#[track_caller]
pub fn variable(number: u32, name: &str) -> String {
    until(&format!("{name} of pid {number}"), SOON, || {
        let value = environment(number).remove(OsStr::new(name))?;
        value.into_string().ok()
    })
}

/// Every process number there is.
pub fn all() -> impl Iterator<Item = u32> {
    fs::read_dir("/proc")
        .expect("/proc is mounted")
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

/// Children of a process, and theirs, by parenthood now.
pub fn descendants(of: u32) -> Vec<u32> {
    let parents: Vec<(u32, u32)> = all()
        .filter_map(|pid| Some((pid, stat_field(pid, 4)?.parse().ok()?)))
        .collect();
    let mut found = vec![of];
    let mut next = 0;
    while next < found.len() {
        let parent = found[next];
        found.extend(
            parents
                .iter()
                .filter(|(pid, of)| *of == parent && !found.contains(pid))
                .map(|(pid, _)| *pid)
                .collect::<Vec<_>>(),
        );
        next += 1;
    }
    found.split_off(1)
}

/// The name under which every process of a scene carries the scene's folder.
pub const MARK: &str = "SCENE";

/// Every living process of a scene, by the mark it inherited.
pub fn members_of_scene(folder: &Path) -> Vec<u32> {
    let mark = [MARK.as_bytes(), b"=", folder.as_os_str().as_bytes()].concat();
    all()
        .filter(|pid| {
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environment
                .split(|byte| *byte == 0)
                .any(|entry| entry == mark)
                && exists(*pid)
        })
        .collect()
}

/// Ends every process of a scene, those included that left their parents.
pub fn end_all_of(folder: &Path) {
    let deadline = Instant::now() + SOON;
    // Looked at more than once: who is about to become another program has no environment just now.
    let mut quiet = 0;
    while quiet < 3 && Instant::now() < deadline {
        let left = members_of_scene(folder);
        quiet = if left.is_empty() { quiet + 1 } else { 0 };
        for number in left {
            kill_member(number, folder);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Pinned first, then looked at once more: the number may have been given to another meanwhile.
fn kill_member(number: u32, folder: &Path) {
    let Some(pidfd) = pid(number).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok()) else {
        return;
    };
    if environment(number).get(OsStr::new(MARK)) == Some(&folder.as_os_str().to_os_string()) {
        let _ = pidfd_send_signal(&pidfd, Signal::KILL);
    }
}
