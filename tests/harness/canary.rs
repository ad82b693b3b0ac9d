//! A bystander that nobody may signal.
//!
//! It blocks every signal, so that whatever is sent to it stays pending, where the kernel shows it;
//! what cannot be blocked kills or stops it.

use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use super::process::{pending, state};

/// A process that remembers all signals it was ever sent; in nobody's scene.
pub struct Canary(Child);

impl Canary {
    pub fn new() -> Self {
        Self::start(false)
    }

    /// One in a session of its own, as under another login.
    pub fn elsewhere() -> Self {
        Self::start(true)
    }

    fn start(leads_a_session: bool) -> Self {
        let mut command = Command::new("sleep");
        command.arg("infinity").env_clear().stdin(Stdio::null());
        // SAFETY: all calls are async-signal-safe, and the set lives on this stack.
        unsafe {
            command.pre_exec(move || {
                if leads_a_session {
                    rustix::process::setsid()?;
                }
                let mut all = std::mem::zeroed();
                libc::sigfillset(&raw mut all);
                match libc::sigprocmask(libc::SIG_SETMASK, &raw const all, std::ptr::null_mut()) {
                    0 => Ok(()),
                    _ => Err(std::io::Error::last_os_error()),
                }
            });
        }
        Self(command.spawn().expect("sleep starts"))
    }

    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Fails if it was ever signalled.
    #[track_caller]
    pub fn assert_heard_nothing(&self) {
        assert_heard_nothing(self.pid());
    }
}

impl Drop for Canary {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
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
    let pending = pending(pid).expect("it lives");
    assert_eq!(pending, 0, "the bystander {pid} was signalled: {pending:b}");
}
