//! A birth that takes long: the child has its number, and cannot be seen before its mother's call of
//! clone(2) is through. What the kernel writes into our memory in the middle of that (the pidfd) waits
//! for a page that nobody has filled yet (userfaultfd(2)).

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::ptr::null_mut;

use crate::harness::{
    Call, Payload, Scene, Signal, Trace, exists, has_pending, kill, until, wait_until,
};
use crate::notes::{BRIEF, standby_with_a_note};
use crate::stage::HUNG;
use crate::world::alone;

const MOTHER: &str = "GATEWAY_TEST_MOTHER";

/// Of linux/userfaultfd.h: numbers of requests, and what they point to.
const UFFDIO_API: libc::Ioctl = 0xc018_aa3f_u32 as libc::Ioctl;
const UFFDIO_REGISTER: libc::Ioctl = 0xc020_aa00_u32 as libc::Ioctl;
const UFFDIO_ZEROPAGE: libc::Ioctl = 0xc020_aa04_u32 as libc::Ioctl;
const VERSION: u64 = 0xaa;
const MISSING: u64 = 1;

fn page_size() -> usize {
    rustix::param::page_size()
}

/// A system call that must work.
macro_rules! must {
    ($what:literal, $call:expr) => {{
        let answer = $call;
        assert!(answer >= 0, "{}: {}", $what, io::Error::last_os_error());
        answer
    }};
}

/// Becomes a mother whose child is not born before somebody fills the page, and who is gone at once
/// then. Tells where the page is and how to fill it.
fn labour(told: &str) -> ! {
    // SAFETY: the page is mapped here and never unmapped; requests get what linux/userfaultfd.h says.
    // Between clone(2) without shared memory and its end the child makes async-signal-safe calls only.
    unsafe {
        let term = block_in_all_threads();
        let size = page_size();
        let filler = must!("userfaultfd", libc::syscall(libc::SYS_userfaultfd, 0));
        let filler = RawFd::try_from(filler).expect("a descriptor");
        let page = libc::mmap(
            null_mut(),
            size,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        );
        assert!(page != libc::MAP_FAILED);
        let mut hello = [VERSION, 0, 0];
        must!(
            "UFFDIO_API",
            libc::ioctl(filler, UFFDIO_API, hello.as_mut_ptr())
        );
        let mut range = [page as u64, size as u64, MISSING, 0];
        must!(
            "UFFDIO_REGISTER",
            libc::ioctl(filler, UFFDIO_REGISTER, range.as_mut_ptr())
        );
        let pid = std::process::id();
        let note = format!("{pid} {filler} {}", page as usize);
        fs::write(format!("{told}.new"), note).expect("a note");
        fs::rename(format!("{told}.new"), told).expect("a note");
        let flags = libc::CLONE_PIDFD | libc::SIGCHLD;
        let child = must!(
            "clone",
            libc::syscall(libc::SYS_clone, flags, 0, page, 0, 0)
        );
        if child == 0 {
            libc::sigprocmask(libc::SIG_UNBLOCK, &raw const term, null_mut());
            libc::pause();
        }
        libc::_exit(0)
    }
}

/// Blocks SIGTERM. The test runner has a second thread, so all begins once more behind that: a mask
/// survives execve(2).
fn block_in_all_threads() -> libc::sigset_t {
    // SAFETY: the sets are on this stack.
    let (term, before) = unsafe {
        let mut term: libc::sigset_t = std::mem::zeroed();
        let mut before: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut term);
        libc::sigaddset(&raw mut term, libc::SIGTERM);
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const term, &raw mut before);
        (term, libc::sigismember(&raw const before, libc::SIGTERM))
    };
    if before == 0 {
        let mut again = Command::new(std::env::current_exe().expect("we run"));
        panic!("{}", again.args(std::env::args_os().skip(1)).exec());
    }
    term
}

/// A mother in labour.
struct Mother {
    pid: u32,
    filler: OwnedFd,
    page: u64,
}

impl Mother {
    fn meet(scene: &Scene) -> Self {
        let note = until("the mother's note", HUNG, || {
            fs::read_to_string(scene.path("mother")).ok()
        });
        let words: Vec<u64> = note
            .split(' ')
            .map(|word| word.parse().expect("a number"))
            .collect();
        let (pid, fd, page) = (words[0], words[1], words[2]);
        // SAFETY: two calls that touch no memory; what the second one returns is ours alone.
        let filler = unsafe {
            let pidfd = must!("pidfd_open", libc::syscall(libc::SYS_pidfd_open, pid, 0));
            let pidfd = OwnedFd::from_raw_fd(RawFd::try_from(pidfd).expect("a descriptor"));
            let fd = must!(
                "pidfd_getfd",
                libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), fd, 0)
            );
            OwnedFd::from_raw_fd(RawFd::try_from(fd).expect("a descriptor"))
        };
        let mother = Self {
            pid: u32::try_from(pid).expect("a pid"),
            filler,
            page,
        };
        wait_until("the labour", HUNG, || mother.is_in_labour());
        mother
    }

    /// Somebody waits for the page.
    fn is_in_labour(&self) -> bool {
        let mut poll = libc::pollfd {
            fd: self.filler.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: one entry, on this stack.
        unsafe { libc::poll(&raw mut poll, 1, 0) == 1 }
    }

    fn deliver(self) {
        let mut range = [self.page, page_size() as u64, 0, 0];
        // SAFETY: the request gets what linux/userfaultfd.h says, and fills the mother's page, not ours.
        unsafe {
            must!(
                "UFFDIO_ZEROPAGE",
                libc::ioctl(self.filler.as_raw_fd(), UFFDIO_ZEROPAGE, range.as_mut_ptr())
            )
        };
    }
}

/// A payload that has the mother of this test for a child.
fn mother(scene: &Scene, test: &str) -> String {
    format!(
        "{MOTHER}={} {} --exact births::{test} --test-threads=1 &\nexec sleep infinity\n",
        scene.path("mother").display(),
        std::env::current_exe().expect("we run").display(),
    )
}

/// The next start begins its search before the child is born, and ends the mother; the child is born behind
/// the back of the last look, and its mother is gone in that instant.
fn assert_the_child_is_found(test: &str, stands_by: bool) {
    let scene = Scene::new();
    let mut holder = scene.hold_with(&[], Payload::Script(&mother(&scene, test)));
    let mother = Mother::meet(&scene);
    let standby = stands_by.then(|| standby_with_a_note(&scene));
    holder.crash();
    let brief = scene.payload(BRIEF);
    let next = standby.unwrap_or_else(|| scene.start(["run", "--", &brief]));
    wait_until("the search", HUNG, || has_pending(mother.pid, Signal::TERM));
    mother.deliver();
    next.output().assert_code(5);
    scene.assert_never_two_payloads();
}

/// The child has its number before the search for what a crash left begins: no number was handed out
/// meanwhile.
#[test]
fn a_child_that_is_born_behind_the_last_look_is_found() {
    if let Ok(told) = std::env::var(MOTHER) {
        labour(&told);
    }
    alone(|| {
        assert_the_child_is_found("a_child_that_is_born_behind_the_last_look_is_found", false);
    });
}

/// The same behind the back of a standby's note, which that takes for the list of all if nobody is born after it.
#[test]
fn a_child_that_is_born_after_a_standbys_note_is_found() {
    if let Ok(told) = std::env::var(MOTHER) {
        labour(&told);
    }
    alone(|| {
        assert_the_child_is_found("a_child_that_is_born_after_a_standbys_note_is_found", true);
    });
}

/// Number 30,000 is far from any that the kernel hands out by itself in here.
const CHOSEN: u32 = 30_000;

/// Has a child whose number it chooses (clone3(2), `set_tid`) once there is a file `go`, and is gone.
fn choose(told: &str) -> ! {
    let number = [CHOSEN.cast_signed()];
    // SAFETY: the arguments are those of linux/sched.h, and live on this stack. The child, whose memory
    // is a copy, makes async-signal-safe calls only.
    unsafe {
        block_in_all_threads();
        fs::write(told, "").expect("a note");
        wait_until("the word", HUNG, || {
            fs::exists(format!("{told}.go")).is_ok_and(|go| go)
        });
        let mut arguments: libc::clone_args = std::mem::zeroed();
        arguments.exit_signal = u64::from(libc::SIGCHLD.cast_unsigned());
        arguments.set_tid = number.as_ptr() as u64;
        arguments.set_tid_size = 1;
        let size = size_of_val(&arguments);
        let child = must!(
            "clone3",
            libc::syscall(libc::SYS_clone3, &raw const arguments, size)
        );
        if child == 0 {
            let mut none: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut none);
            libc::sigsuspend(&raw const none);
        }
        libc::_exit(0)
    }
}

/// The number that was handed out last does not tell of such a birth.
#[test]
fn a_child_whose_number_was_chosen_after_a_standbys_note_is_found() {
    if let Ok(told) = std::env::var(MOTHER) {
        choose(&told);
    }
    alone(|| {
        let scene = Scene::new();
        let name = "a_child_whose_number_was_chosen_after_a_standbys_note_is_found";
        let mut holder = scene.hold_with(&[], Payload::Script(&mother(&scene, name)));
        wait_until("the mother", HUNG, || scene.path("mother").exists());
        let standby = standby_with_a_note(&scene);
        fs::write(scene.path("mother.go"), "").expect("a word");
        wait_until("the child", HUNG, || exists(CHOSEN));
        holder.crash();
        standby.output().assert_code(5);
        assert!(!exists(CHOSEN));
        scene.assert_never_two_payloads();
    });
}

/// Forty-four survivors that do not listen.
const DEAF: &str = "trap '' TERM
for i in 1 2 3 4; do
    for j in 1 2 3 4 5 6 7 8 9 10 11; do sleep infinity & echo $! >>\"$SCENE/deaf\"; done
done
echo ready >>\"$SCENE/marks\"
exec sleep infinity
";

/// However often the search has found somebody: what finds nobody counts only where nobody was born since.
#[test]
fn the_last_look_after_many_deaths_is_believed_no_sooner_than_any() {
    alone(|| {
        let scene = Scene::new();
        let mut holder = scene.hold_with(&[], Payload::Script(DEAF));
        scene.wait_for_mark("ready");
        let mut births = scene.command("sh");
        births.args(["-c", "while :; do /bin/true; done"]);
        let _births = scene.spawn(births);
        holder.crash();
        let start = scene.gateway(["run", "--", "true"]);
        let mut trace = Trace::start(&scene, "trace=lseek,ppoll,pread64,pwrite64", &start);
        for deaf in scene.lines("deaf") {
            let before = lists(&trace.calls());
            // A very busy machine lets the sweep kill the rest first; the look after that is still the last.
            wait_until("another look", HUNG, || {
                lists(&trace.calls()) > before || !trace.process.is_running()
            });
            kill(deaf.parse().expect("a pid"));
        }
        trace.process.end_within(HUNG);
        let calls = trace.calls();
        let gateway = calls[0].pid;
        let written = calls
            .iter()
            .position(|call| call.pid == gateway && call.name == "pwrite64");
        let search = &calls[..written.expect("the record")];
        let asks_a_survivor = |call: &Call| call.name == "ppoll" && call.rest.starts_with("[{");
        let last = search.iter().rposition(asks_a_survivor);
        let after = &search[last.expect("survivors")..];
        // The number that was handed out last is asked for behind it, and nothing else is read any more.
        let asked = after.iter().any(|call| call.name == "pread64");
        assert!(asked, "{after:#?}");
    });
}

/// How often the processes were listed: each time begins with it.
fn lists(calls: &[Call]) -> usize {
    calls.iter().filter(|call| call.name == "lseek").count()
}
