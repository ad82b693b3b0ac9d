//! What a process asked of the kernel, in order.

use std::path::PathBuf;
use std::process::Command;

use super::process::{Process, state};
use super::scene::Scene;
use super::tools::need;

/// A process under strace(1).
pub struct Trace {
    /// strace; the program's pid is its child's.
    pub process: Process,
    log: PathBuf,
}

/// The same command under strace(1), which does something to these calls: `prctl:delay_enter=500000`.
#[track_caller]
pub fn injected(scene: &Scene, injection: &str, command: &Command) -> Command {
    need("strace", "strace");
    let (call, _) = injection.split_once(':').expect("a call and what happens");
    let (trace, inject) = (format!("trace={call}"), format!("inject={injection}"));
    let options = ["-f", "-o", "/dev/null", "-e", &trace, "-e", &inject, "--"];
    scene.behind("strace", &options, command)
}

/// Likewise, of these calls about this path the first, or which it says.
#[track_caller]
pub fn injected_at(scene: &Scene, path: &str, injection: &str, command: &Command) -> Command {
    need("strace", "strace");
    let which = if injection.contains(":when=") {
        ""
    } else {
        ":when=1"
    };
    let inject = format!("inject={injection}{which}");
    let options = ["-f", "-o", "/dev/null", "-P", path, "-e", &inject, "--"];
    scene.behind("strace", &options, command)
}

/// Whether a thread of the only child of this strace(1) is held up in this call.
pub fn is_held_up_in(strace: &Process, call: i64) -> bool {
    let Some(child) = child_of(strace) else {
        return false;
    };
    let threads = std::fs::read_dir(format!("/proc/{child}/task"));
    let names = threads.into_iter().flatten().flatten();
    let ids = names.filter_map(|thread| thread.file_name().to_str()?.parse().ok());
    // proc_pid_syscall(5)
    let current = |id: u32| read(format!("/proc/{id}/syscall"));
    let mut ids = ids.into_iter();
    ids.any(|id| state(id) == Some('t') && current(id).starts_with(&format!("{call} ")))
}

/// Whether the first thread of the only child of this strace(1) sleeps.
pub fn sleeps(strace: &Process) -> bool {
    child_of(strace).and_then(state) == Some('S')
}

fn child_of(strace: &Process) -> Option<u32> {
    let pid = strace.pid();
    let children = read(format!("/proc/{pid}/task/{pid}/children"));
    children.trim().parse().ok()
}

fn read(path: String) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// One system call: a line of strace, with its process.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Call {
    pub pid: u32,
    pub name: String,
    /// Everything after the name.
    pub rest: String,
}

impl Trace {
    /// Starts a command under strace. `calls` is what `-e` takes.
    #[track_caller]
    pub fn start(scene: &Scene, calls: &str, command: &Command) -> Self {
        need("strace", "strace");
        let (log, _) = scene.words();
        let log = log.with_extension("strace");
        let to = log.to_str().expect("the folder's name is text");
        let options = ["-f", "-s", "300", "-e", calls, "-o", to, "--"];
        let outer = scene.behind("strace", &options, command);
        Self {
            process: scene.spawn(outer),
            log,
        }
    }

    /// All calls so far. One that was interrupted by another process's is put together again.
    pub fn calls(&self) -> Vec<Call> {
        let text = std::fs::read(&self.log).unwrap_or_default();
        let mut calls: Vec<Call> = Vec::new();
        for line in String::from_utf8_lossy(&text).lines() {
            let Some((pid, what)) = line.split_once(' ') else {
                continue;
            };
            let (Ok(pid), what) = (pid.parse(), what.trim_start()) else {
                continue;
            };
            if let Some((name, rest)) = what
                .strip_prefix("<... ")
                .and_then(|what| what.split_once(" resumed>"))
            {
                let begun = calls
                    .iter_mut()
                    .rev()
                    .find(|call| call.pid == pid && call.name == name);
                if let Some(call) = begun {
                    call.rest = call.rest.replace(" <unfinished ...>", "") + rest;
                }
            } else if let Some((name, rest)) = what.split_once('(') {
                calls.push(Call {
                    pid,
                    name: name.to_owned(),
                    rest: rest.to_owned(),
                });
            }
        }
        calls
    }
}
