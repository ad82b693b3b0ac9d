//! A bystander that nobody may signal.
//!
//! It blocks every signal, so that whatever is sent to it stays pending, where the kernel shows it;
//! what cannot be blocked kills or stops it.

use std::fs;
use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::harness::{Process, Scene, state};

/// A process that remembers all signals it was ever sent.
pub struct Canary(Process);

impl Canary {
    pub fn new(scene: &Scene) -> Self {
        let mut command = Command::new("sleep");
        command.arg("infinity").env_clear();
        // SAFETY: both calls are async-signal-safe, and the set lives on this stack.
        unsafe {
            command.pre_exec(|| {
                let mut all = std::mem::zeroed();
                libc::sigfillset(&raw mut all);
                match libc::sigprocmask(libc::SIG_SETMASK, &raw const all, std::ptr::null_mut()) {
                    0 => Ok(()),
                    _ => Err(std::io::Error::last_os_error()),
                }
            });
        }
        Self(scene.spawn(command))
    }

    pub fn pid(&self) -> u32 {
        self.0.pid()
    }

    /// Fails if it was ever signalled.
    #[track_caller]
    pub fn assert_heard_nothing(&self) {
        assert_heard_nothing(self.pid());
    }
}

/// Fails if this process, which blocks all signals, was ever sent one.
#[track_caller]
pub fn assert_heard_nothing(pid: u32) {
    let state = state(pid);
    assert!(
        matches!(state, Some('R' | 'S' | 'D')),
        "the bystander {pid} was killed or stopped: {state:?}"
    );
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it lives");
    let pending: Vec<&str> = status
        .lines()
        .filter(|line| line.starts_with("SigPnd") || line.starts_with("ShdPnd"))
        .filter_map(|line| line.split_whitespace().nth(1))
        .filter(|set| set.bytes().any(|digit| digit != b'0'))
        .collect();
    assert_eq!(
        pending,
        Vec::<&str>::new(),
        "the bystander {pid} was signalled"
    );
}
