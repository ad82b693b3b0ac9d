//! Pids that are used again at once: a ring of few numbers, and bystanders that get the number of a
//! process that has just gone. Works in a pid namespace of its own (`ns_last_pid`, pid_namespaces(7)).

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::harness::{assert_heard_nothing, stat_field, state};

/// The next process gets the number after this, or the next free one.
fn set_last_pid(pid: u32) {
    fs::write("/proc/sys/kernel/ns_last_pid", pid.to_string())
        .expect("this test needs a kernel with CONFIG_CHECKPOINT_RESTORE");
}

/// Forks a process that blocks every signal, and lives as long as it is told: `None` for ever. When
/// it has lived long enough it ends with the number of a signal that it was sent, else with 0.
fn hatch(life: Option<Duration>) -> u32 {
    // SAFETY: between fork and _exit the child makes async-signal-safe calls only, and touches
    // nothing but its own stack. The mask of this thread is put back as it was.
    unsafe {
        let mut all = std::mem::zeroed();
        let mut before = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before);
        let pid = libc::fork();
        if pid == 0 {
            live(life);
        }
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, std::ptr::null_mut());
        u32::try_from(pid).expect("a process can be forked")
    }
}

/// # Safety
/// Only in a freshly forked child.
unsafe fn live(life: Option<Duration>) -> ! {
    let milliseconds = life.map_or(-1, |life| i32::try_from(life.as_millis()).unwrap_or(1));
    // SAFETY: as the caller says; the set is on this stack.
    unsafe {
        libc::poll(std::ptr::null_mut(), 0, milliseconds);
        let mut heard = std::mem::zeroed();
        libc::sigpending(&raw mut heard);
        let heard = (1..32).find(|signal| libc::sigismember(&raw const heard, *signal) == 1);
        libc::_exit(heard.unwrap_or(0))
    }
}

/// A bystander with a number that somebody else had a moment ago.
pub struct Successor(u32);

impl Successor {
    /// Takes over this number, whose process is gone and collected.
    #[track_caller]
    pub fn of(pid: u32) -> Self {
        let began = Instant::now();
        loop {
            set_last_pid(pid - 1);
            let hatched = hatch(None);
            if hatched == pid {
                return Self(pid);
            }
            end(hatched);
            collect_group(pid);
            assert!(
                began.elapsed() < Duration::from_secs(20),
                "pid {pid} does not get free: {:?}",
                users_of(pid)
            );
        }
    }

    #[track_caller]
    pub fn assert_heard_nothing(&self) {
        assert_heard_nothing(self.0);
    }

    pub fn pid(&self) -> u32 {
        self.0
    }
}

impl Drop for Successor {
    fn drop(&mut self) {
        end(self.0);
    }
}

/// Ends and collects a child of ours.
fn end(pid: u32) {
    // SAFETY: the child is not collected yet, so the number is its own.
    unsafe { libc::kill(pid.cast_signed(), libc::SIGKILL) };
    collect(pid);
}

/// Collects an ended child, whoever started it first: its number is free then.
pub fn collect(pid: u32) {
    // SAFETY: no memory is handed over.
    unsafe { libc::waitpid(pid.cast_signed(), std::ptr::null_mut(), libc::__WALL) };
}

/// A number is not free either while a process group has it: collects orphans that ended in it.
fn collect_group(group: u32) {
    let this = Some(std::process::id().to_string());
    let is_orphan = |pid: &u32| state(*pid) == Some('Z') && stat_field(*pid, 4) == this;
    let group = Some(group.to_string());
    numbers()
        .filter(|pid| stat_field(*pid, 5) == group && is_orphan(pid))
        .for_each(collect);
}

fn numbers() -> impl Iterator<Item = u32> {
    fs::read_dir("/proc")
        .expect("/proc is mounted")
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

/// Who keeps a number from being used again: as a process, a group or a session.
fn users_of(pid: u32) -> Vec<String> {
    let number = Some(pid.to_string());
    numbers()
        .filter(|user| {
            *user == pid
                || [5, 6]
                    .iter()
                    .any(|field| stat_field(*user, *field) == number)
        })
        .filter_map(|user| fs::read_to_string(format!("/proc/{user}/stat")).ok())
        .collect()
}

/// A storm of short-lived bystanders that goes round in a ring of a few hundred numbers.
pub struct Ring {
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<(u64, Vec<String>)>>,
}

/// Numbers below 300 are not used again (RESERVED_PIDS of the kernel).
const RING: (u32, u32) = (300, 600);

/// How many of the ring's numbers bystanders have at a time.
const FLOCK: usize = 60;

impl Ring {
    pub fn new() -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let told = over.clone();
        let thread = std::thread::spawn(move || {
            let mut living = Vec::new();
            let (mut hatched, mut heard) = (0, Vec::new());
            while !told.load(Ordering::SeqCst) || !living.is_empty() {
                if living.len() < FLOCK && !told.load(Ordering::SeqCst) {
                    let pid = hatch(Some(Duration::from_millis(hatched % 40)));
                    hatched += 1;
                    living.push(pid);
                    if pid > RING.1 {
                        set_last_pid(RING.0);
                    }
                }
                // Collected as soon as they have ended: their numbers are free then.
                living.retain(|pid| match fate(*pid) {
                    Fate::Lives => true,
                    Fate::HeardNothing => false,
                    Fate::Heard(status) => {
                        heard.push(format!("{pid}: wait status {status:#x}"));
                        false
                    }
                });
                std::thread::sleep(Duration::from_micros(500));
            }
            (hatched, heard)
        });
        Self {
            over,
            thread: Some(thread),
        }
    }

    /// Ends it; how many there were. Fails if one of them heard anything.
    #[track_caller]
    pub fn close(mut self) -> u64 {
        self.over.store(true, Ordering::SeqCst);
        let thread = self.thread.take().expect("only this takes it");
        let (hatched, heard) = thread.join().expect("the storm does not fail");
        assert_eq!(heard, Vec::<String>::new(), "bystanders were signalled");
        hatched
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

enum Fate {
    Lives,
    HeardNothing,
    Heard(i32),
}

/// What became of a bystander, which is collected if it has ended.
fn fate(pid: u32) -> Fate {
    let mut status = 0;
    let options = libc::WNOHANG | libc::WUNTRACED;
    // SAFETY: the status is ours, and the child is not collected yet.
    match unsafe { libc::waitpid(pid.cast_signed(), &raw mut status, options) } {
        0 => Fate::Lives,
        _ if status == 0 => Fate::HeardNothing,
        _ => Fate::Heard(status),
    }
}
