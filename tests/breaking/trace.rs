//! A gateway under ptrace(2): killed at its n-th system call, or with that call failed.
//!
//! The calls of the gateway are counted, and those of the child that it forks, until the child
//! becomes the command. What a call would have done is not done when it is struck.

use std::ffi::c_void;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use std::os::unix::process::ExitStatusExt;

use crate::harness::{End, Signal, signal};

/// What is done to the process.
#[derive(Clone, Copy, Debug)]
pub enum Plan {
    /// Nothing, but counting.
    Watch,
    /// SIGKILL to the gateway at this call, before it is performed.
    KillAt(u64),
    /// Every call that reads or writes moves one byte, and never more.
    Short,
    /// Stands still before this call, until [`Traced::go_on`].
    PauseAt(u64),
    /// This call fails, with the errno of this number in the table for the call.
    FailAt { call: u64, choice: usize },
    /// The same, with one that chance takes.
    FailSomehowAt { call: u64, chance: usize },
}

/// A call, as it was found when it was struck.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Struck {
    pub number: i64,
    pub name: String,
    /// Its path, where it has one.
    pub path: Option<String>,
    /// What it failed with.
    pub errno: Option<i32>,
    /// It was a call of the child before it became the command.
    pub in_child: bool,
}

/// What a run under the tracer came to.
#[derive(Clone, Debug)]
pub struct Report {
    pub end: End,
    pub calls: u64,
    pub struck: Option<Struck>,
    /// The signals that it sent through a pidfd, each with the number of its call; watched only.
    pub sent: Vec<(u64, i32)>,
}

/// The errnos that a call can give: chosen by its number and the path it names.
pub type Errnos = fn(number: i64, path: Option<&str>) -> &'static [i32];

/// A gateway under the tracer.
pub struct Traced {
    pid: u32,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<Report>>,
}

#[derive(Default)]
struct Shared {
    /// Calls are counted from the moment this is set.
    armed: AtomicBool,
    calls: AtomicU64,
    paused: AtomicBool,
    released: AtomicBool,
    ended: AtomicBool,
}

impl Traced {
    /// Starts it; its calls are counted from its first one.
    pub fn start(command: Command, plan: Plan, errnos: Errnos) -> Self {
        Self::start_with(command, plan, errnos, true)
    }

    /// Starts it; its calls are counted from [`Self::arm`] on.
    pub fn start_unarmed(command: Command, plan: Plan, errnos: Errnos) -> Self {
        Self::start_with(command, plan, errnos, false)
    }

    fn start_with(command: Command, plan: Plan, errnos: Errnos, armed: bool) -> Self {
        let shared = Arc::new(Shared::default());
        shared.armed.store(armed, Ordering::SeqCst);
        let (tell, told) = channel();
        let mine = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            // The tracer is the thread that forks.
            let pid = begin(command).expect("the program can be started and traced");
            tell.send(pid).expect("somebody waits for it");
            let report = Tracer::new(pid, plan, errnos, &mine).run();
            mine.ended.store(true, Ordering::SeqCst);
            report
        });
        let pid = told.recv().expect("the tracer starts the program");
        Self {
            pid: pid.cast_unsigned(),
            shared,
            thread: Some(thread),
        }
    }

    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// From now on calls are counted.
    pub fn arm(&self) {
        self.shared.armed.store(true, Ordering::SeqCst);
    }

    pub fn has_ended(&self) -> bool {
        self.shared.ended.load(Ordering::SeqCst)
    }

    /// Waits until it stands still. `false`: it ended, or was done by this measure and came to rest,
    /// without that.
    pub fn pauses(&self, limit: Duration, quiet: Duration, done: impl FnMut() -> bool) -> bool {
        self.settle(limit, quiet, done);
        self.shared.paused.load(Ordering::SeqCst)
    }

    /// Lets it go on, and past the place where it was to stand still.
    pub fn go_on(&self) {
        self.shared.released.store(true, Ordering::SeqCst);
        while self.shared.paused.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    fn calls(&self) -> u64 {
        self.shared.calls.load(Ordering::SeqCst)
    }

    /// Waits until it has ended, or is done by this measure and makes no call for a while.
    /// `false`: not within the limit.
    pub fn settle(&self, limit: Duration, quiet: Duration, mut done: impl FnMut() -> bool) -> bool {
        let began = Instant::now();
        let (mut calls, mut since) = (self.calls(), Instant::now());
        while !self.has_ended() && !self.shared.paused.load(Ordering::SeqCst) {
            if self.calls() != calls {
                (calls, since) = (self.calls(), Instant::now());
            }
            if since.elapsed() >= quiet && done() {
                return true;
            }
            if began.elapsed() > limit {
                return false;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        true
    }

    /// Waits until it makes no call for so long, or has ended.
    pub fn rest(&self, quiet: Duration) -> bool {
        self.settle(Duration::from_secs(20), quiet, || true)
    }

    /// Waits for its end, and kills it if that takes too long.
    pub fn report(mut self, limit: Duration) -> (Report, bool) {
        let in_time = self.settle(limit, Duration::MAX, || false);
        if !in_time {
            signal(self.pid, Signal::KILL);
        }
        let thread = self.thread.take().expect("only this takes it");
        (thread.join().expect("the tracer does not fail"), in_time)
    }
}

impl Drop for Traced {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            if !self.has_ended() {
                signal(self.pid, Signal::KILL);
            }
            self.go_on();
            let _ = thread.join();
        }
    }
}

fn begin(mut command: Command) -> io::Result<i32> {
    // SAFETY: ptrace(PTRACE_TRACEME) is one system call that touches no memory.
    unsafe {
        command.pre_exec(|| {
            let none = std::ptr::null_mut::<c_void>();
            match libc::ptrace(libc::PTRACE_TRACEME, 0, none, none) {
                -1 => Err(io::Error::last_os_error()),
                _ => Ok(()),
            }
        });
    }
    // Not waited for as a child: the tracer collects it.
    Ok(command.spawn()?.id().cast_signed())
}

/// As libc declares it.
#[cfg(target_env = "gnu")]
type Request = libc::c_uint;
#[cfg(not(target_env = "gnu"))]
type Request = libc::c_int;

fn ptrace(request: Request, pid: i32, address: usize, data: usize) -> io::Result<i64> {
    // SAFETY: only requests that take plain numbers, and no memory of ours, come here.
    match unsafe { libc::ptrace(request, pid, address, data) } {
        -1 => Err(io::Error::last_os_error()),
        value => Ok(value),
    }
}

struct Tracee {
    pid: i32,
    in_call: bool,
    fail_with: Option<i32>,
    new: bool,
}

struct Tracer<'a> {
    main: i32,
    plan: Plan,
    errnos: Errnos,
    shared: &'a Shared,
    tracees: Vec<Tracee>,
    struck: Option<Struck>,
    sent: Vec<(u64, i32)>,
    end: Option<End>,
}

impl<'a> Tracer<'a> {
    fn new(main: i32, plan: Plan, errnos: Errnos, shared: &'a Shared) -> Self {
        Self {
            main,
            plan,
            errnos,
            shared,
            tracees: vec![Tracee {
                pid: main,
                in_call: false,
                fail_with: None,
                new: false,
            }],
            struck: None,
            sent: Vec::new(),
            end: None,
        }
    }

    fn run(mut self) -> Report {
        self.first_stop();
        while !self.tracees.is_empty() {
            let mut status = 0;
            // SAFETY: the status is ours. Only this thread's children are waited for.
            let pid =
                unsafe { libc::waitpid(-1, &raw mut status, libc::__WALL | libc::__WNOTHREAD) };
            if pid == -1 {
                assert_eq!(
                    io::Error::last_os_error().raw_os_error(),
                    Some(libc::EINTR),
                    "there are tracees"
                );
                continue;
            }
            if libc::WIFSTOPPED(status) {
                self.stopped(pid, status);
            } else {
                self.ended(pid, status);
            }
        }
        Report {
            end: self.end.expect("the gateway has ended"),
            calls: self.shared.calls.load(Ordering::SeqCst),
            struck: self.struck,
            sent: self.sent,
        }
    }

    /// After its execve(2) the process stops with SIGTRAP.
    fn first_stop(&self) {
        let mut status = 0;
        // SAFETY: the status is ours.
        unsafe { libc::waitpid(self.main, &raw mut status, libc::__WALL) };
        assert!(libc::WIFSTOPPED(status), "it stops at its execve");
        let options = libc::PTRACE_O_TRACESYSGOOD
            | libc::PTRACE_O_EXITKILL
            | libc::PTRACE_O_TRACEFORK
            | libc::PTRACE_O_TRACEVFORK
            | libc::PTRACE_O_TRACECLONE
            | libc::PTRACE_O_TRACEEXEC;
        let options = usize::try_from(options).expect("flags");
        ptrace(libc::PTRACE_SETOPTIONS, self.main, 0, options).expect("it is our tracee");
        go_on(self.main, 0);
    }

    fn ended(&mut self, pid: i32, status: i32) {
        self.tracees.retain(|tracee| tracee.pid != pid);
        if pid == self.main {
            self.end = Some(End::from(ExitStatus::from_raw(status)));
        }
    }

    fn stopped(&mut self, pid: i32, status: i32) {
        let stop = libc::WSTOPSIG(status);
        let event = status >> 16;
        if stop == libc::SIGTRAP | 0x80 {
            self.at_call(pid);
            go_on(pid, 0);
        } else if event == libc::PTRACE_EVENT_EXEC && pid != self.main {
            self.tracees.retain(|tracee| tracee.pid != pid);
            let _ = ptrace(libc::PTRACE_DETACH, pid, 0, 0);
        } else if event != 0 || stop == libc::SIGSTOP && self.is_new(pid) {
            go_on(pid, 0);
        } else {
            go_on(pid, stop);
        }
    }

    /// The first stop of a forked child is the tracer's.
    fn is_new(&mut self, pid: i32) -> bool {
        std::mem::replace(&mut self.tracee(pid).new, false)
    }

    fn tracee(&mut self, pid: i32) -> &mut Tracee {
        if let Some(at) = self.tracees.iter().position(|tracee| tracee.pid == pid) {
            return &mut self.tracees[at];
        }
        self.tracees.push(Tracee {
            pid,
            in_call: false,
            fail_with: None,
            new: true,
        });
        self.tracees.last_mut().expect("just pushed")
    }

    fn at_call(&mut self, pid: i32) {
        let tracee = self.tracee(pid);
        tracee.in_call = !tracee.in_call;
        if tracee.in_call {
            self.enters(pid);
        } else if let Some(errno) = tracee.fail_with.take() {
            let _ = poke(pid, RAX, -i64::from(errno));
        }
    }

    fn enters(&mut self, pid: i32) {
        if !self.shared.armed.load(Ordering::SeqCst) {
            return;
        }
        let call = self.shared.calls.fetch_add(1, Ordering::SeqCst) + 1;
        match self.plan {
            Plan::Watch => self.note(pid, call),
            Plan::KillAt(at) if at == call => {
                self.strike(pid, found(pid), None);
                signal(self.main.cast_unsigned(), Signal::KILL);
            }
            Plan::Short => self.shorten(pid),
            Plan::PauseAt(at) if at == call => {
                self.strike(pid, found(pid), None);
                self.pause();
            }
            Plan::FailAt { call: at, choice } if at == call => {
                self.fail(pid, |errnos| errnos.get(choice).copied());
            }
            Plan::FailSomehowAt { call: at, chance } if at == call => {
                self.fail(pid, |errnos| {
                    errnos.get(chance % errnos.len().max(1)).copied()
                });
            }
            _ => {}
        }
    }

    fn note(&mut self, pid: i32, call: u64) {
        if peek(pid, ORIG_RAX) == libc::SYS_pidfd_send_signal {
            let signal = i32::try_from(peek(pid, RSI)).unwrap_or(0);
            self.sent.extend((signal != 0).then_some((call, signal)));
        }
    }

    fn shorten(&mut self, pid: i32) {
        let moves_bytes = [
            libc::SYS_read,
            libc::SYS_write,
            libc::SYS_pread64,
            libc::SYS_pwrite64,
        ];
        let number = peek(pid, ORIG_RAX);
        if moves_bytes.contains(&number) && peek(pid, RDX) > 1 && poke(pid, RDX, 1).is_ok() {
            self.strike(pid, found(pid), None);
        }
    }

    fn pause(&self) {
        self.shared.paused.store(true, Ordering::SeqCst);
        while !self.shared.released.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_micros(200));
        }
        self.shared.paused.store(false, Ordering::SeqCst);
    }

    fn strike(&mut self, pid: i32, call: Struck, errno: Option<i32>) {
        self.struck = Some(Struck {
            in_child: pid != self.main,
            errno,
            ..call
        });
    }

    fn fail(&mut self, pid: i32, choose: impl Fn(&[i32]) -> Option<i32>) {
        let call = found(pid);
        let errnos = (self.errnos)(call.number, call.path.as_deref());
        let Some(errno) = choose(errnos) else {
            return;
        };
        // Call -1 does not exist: nothing is done, and its answer is put in place afterwards.
        if poke(pid, ORIG_RAX, -1).is_ok() {
            self.strike(pid, call, Some(errno));
            self.tracee(pid).fail_with = Some(errno);
        }
    }
}

/// A process that has been killed meanwhile is no tracee any more; its end is told by waitpid(2).
fn go_on(pid: i32, deliver: i32) {
    let deliver = usize::try_from(deliver).expect("a signal");
    let _ = ptrace(libc::PTRACE_SYSCALL, pid, 0, deliver);
}

/// Where the kernel keeps a stopped tracee's registers: sys/reg.h.
const RAX: usize = 10;
const RDX: usize = 12;
const RSI: usize = 13;
const RDI: usize = 14;
const ORIG_RAX: usize = 15;

fn poke(pid: i32, register: usize, value: i64) -> io::Result<i64> {
    let value = usize::from_ne_bytes(value.to_ne_bytes());
    ptrace(libc::PTRACE_POKEUSER, pid, register * 8, value)
}

fn peek(pid: i32, register: usize) -> i64 {
    ptrace(libc::PTRACE_PEEKUSER, pid, register * 8, 0).unwrap_or(-1)
}

/// What call a process is about to make.
fn found(pid: i32) -> Struck {
    let number = peek(pid, ORIG_RAX);
    let (name, path_in) = CALLS
        .iter()
        .find(|(known, ..)| *known == number)
        .map_or_else(
            || (format!("call {number}"), None),
            |(_, name, path_in)| ((*name).to_owned(), *path_in),
        );
    let path = match path_in {
        Some(In::Path(register)) => text_at(pid, peek(pid, register)),
        Some(In::Descriptor(register)) => file_of(pid, peek(pid, register)),
        None => None,
    };
    Struck {
        number,
        name,
        path,
        errno: None,
        in_child: false,
    }
}

fn text_at(pid: i32, address: i64) -> Option<String> {
    use std::os::unix::fs::FileExt;
    let memory = std::fs::File::open(format!("/proc/{pid}/mem")).ok()?;
    let mut bytes = vec![0; 256];
    let read = memory.read_at(&mut bytes, address.cast_unsigned()).ok()?;
    let text = bytes[..read].split(|byte| *byte == 0).next()?;
    Some(String::from_utf8_lossy(text).into_owned())
}

fn file_of(pid: i32, descriptor: i64) -> Option<String> {
    let link = std::fs::read_link(format!("/proc/{pid}/fd/{descriptor}")).ok()?;
    Some(link.to_string_lossy().into_owned())
}

/// Where a call says which file it is about.
#[derive(Clone, Copy)]
enum In {
    Path(usize),
    Descriptor(usize),
}

/// The calls that are known by name.
const CALLS: [(i64, &str, Option<In>); 49] = [
    (libc::SYS_read, "read", Some(In::Descriptor(RDI))),
    (libc::SYS_write, "write", Some(In::Descriptor(RDI))),
    (libc::SYS_writev, "writev", Some(In::Descriptor(RDI))),
    (libc::SYS_open, "open", Some(In::Path(RDI))),
    (libc::SYS_openat, "openat", Some(In::Path(RSI))),
    (libc::SYS_openat2, "openat2", Some(In::Path(RSI))),
    (libc::SYS_close, "close", Some(In::Descriptor(RDI))),
    (libc::SYS_stat, "stat", Some(In::Path(RDI))),
    (libc::SYS_lstat, "lstat", Some(In::Path(RDI))),
    (libc::SYS_fstat, "fstat", Some(In::Descriptor(RDI))),
    (libc::SYS_newfstatat, "newfstatat", Some(In::Path(RSI))),
    (libc::SYS_statx, "statx", Some(In::Path(RSI))),
    (libc::SYS_statfs, "statfs", Some(In::Path(RDI))),
    (libc::SYS_fstatfs, "fstatfs", Some(In::Descriptor(RDI))),
    (libc::SYS_pread64, "pread64", Some(In::Descriptor(RDI))),
    (libc::SYS_pwrite64, "pwrite64", Some(In::Descriptor(RDI))),
    (libc::SYS_ftruncate, "ftruncate", Some(In::Descriptor(RDI))),
    (libc::SYS_flock, "flock", Some(In::Descriptor(RDI))),
    (libc::SYS_readlink, "readlink", Some(In::Path(RDI))),
    (libc::SYS_readlinkat, "readlinkat", Some(In::Path(RSI))),
    (
        libc::SYS_getdents64,
        "getdents64",
        Some(In::Descriptor(RDI)),
    ),
    (libc::SYS_mkdirat, "mkdirat", Some(In::Path(RSI))),
    (libc::SYS_mkdir, "mkdir", Some(In::Path(RDI))),
    (libc::SYS_fchmodat, "fchmodat", Some(In::Path(RSI))),
    (libc::SYS_fchmod, "fchmod", Some(In::Descriptor(RDI))),
    (libc::SYS_faccessat2, "faccessat2", Some(In::Path(RSI))),
    (libc::SYS_faccessat, "faccessat", Some(In::Path(RSI))),
    (libc::SYS_pidfd_open, "pidfd_open", None),
    (
        libc::SYS_pidfd_send_signal,
        "pidfd_send_signal",
        Some(In::Descriptor(RDI)),
    ),
    (libc::SYS_poll, "poll", None),
    (libc::SYS_ppoll, "ppoll", None),
    (libc::SYS_clone, "clone", None),
    (libc::SYS_clone3, "clone3", None),
    (libc::SYS_fork, "fork", None),
    (libc::SYS_vfork, "vfork", None),
    (libc::SYS_wait4, "wait4", None),
    (libc::SYS_waitid, "waitid", None),
    (libc::SYS_madvise, "madvise", None),
    (libc::SYS_pipe2, "pipe2", None),
    (libc::SYS_fcntl, "fcntl", Some(In::Descriptor(RDI))),
    (libc::SYS_prctl, "prctl", None),
    (libc::SYS_getrandom, "getrandom", None),
    (libc::SYS_setpgid, "setpgid", None),
    (libc::SYS_dup2, "dup2", None),
    (libc::SYS_dup3, "dup3", None),
    (libc::SYS_execve, "execve", Some(In::Path(RDI))),
    (libc::SYS_kill, "kill", None),
    (libc::SYS_tgkill, "tgkill", None),
    (libc::SYS_exit_group, "exit_group", None),
];
