//! What becomes COMMAND: a program's image, and the way from our process into it.

use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;

use libc::{c_char, c_int, c_void};

use super::{Disposition, Quiet, set_disposition, set_of, unblock_all};

/// What a child does between fork and exec.
#[derive(Clone, Debug)]
pub struct Upbringing {
    /// Die with the parent: SIGKILL when the thread that forked ends. `None` where we become the
    /// command ourselves.
    pub parent: Option<rustix::process::Pid>,
    /// Make a process group of its own.
    pub own_group: bool,
    /// The dispositions to leave behind.
    pub dispositions: Vec<(c_int, Disposition)>,
}

/// Words without zero bytes, one behind the other in one piece of memory: a process has dozens in its
/// environment, and each would be a piece of its own.
#[derive(Debug, Default)]
pub struct Words {
    /// Each with the zero byte that ends it.
    bytes: Vec<u8>,
    /// Where each begins.
    starts: Vec<usize>,
    has_zero_byte: bool,
}

impl Words {
    /// What `execve(2)` would hand on of this process's environment: the entries whose names are kept,
    /// and those that have no name.
    ///
    /// No other thread may change the environment meanwhile, [`set_var`] included: it is not known to
    /// std that we read.
    ///
    /// [`set_var`]: std::env::set_var
    pub fn of_our_environment(is_kept: impl Fn(&[u8]) -> bool) -> Self {
        unsafe extern "C" {
            static environ: *const *const c_char;
        }
        let mut words = Self {
            bytes: Vec::with_capacity(4096),
            ..Self::default()
        };
        // SAFETY: environ(7) is null or an array of strings that ends with a null pointer. Who changes it
        // while another thread may read it breaks the condition of `set_var`; every entry is copied
        // before this returns.
        unsafe {
            let mut entry = environ;
            while !entry.is_null() && !(*entry).is_null() {
                let word = CStr::from_ptr(*entry).to_bytes();
                if name_of(word).is_none_or(&is_kept) {
                    words.push(&[word]);
                }
                entry = entry.add(1);
            }
        }
        words
    }

    /// Adds one, made of these parts.
    pub fn push(&mut self, parts: &[&[u8]]) {
        self.starts.push(self.bytes.len());
        for part in parts {
            self.has_zero_byte |= part.contains(&0);
            self.bytes.extend_from_slice(part);
        }
        self.bytes.push(0);
    }

    fn pointers(&self) -> impl Iterator<Item = *const c_char> {
        self.starts
            .iter()
            .map(|start| self.bytes[*start..].as_ptr().cast())
    }
}

/// The first byte may be anything, as for std.
fn name_of(entry: &[u8]) -> Option<&[u8]> {
    let end = 1 + entry.get(1..)?.iter().position(|byte| *byte == b'=')?;
    Some(&entry[..end])
}

/// A program, its arguments and its environment, in the form that `execve(2)` takes: made before
/// the child is, which may not allocate.
#[derive(Debug)]
pub struct Image {
    program: CString,
    argv: Words,
    environment: Words,
}

impl Image {
    /// From words without zero bytes.
    ///
    /// # Errors
    /// One has a zero byte, which no argument of a process can.
    pub fn new(program: &OsStr, argv: Words, environment: Words) -> io::Result<Self> {
        if argv.has_zero_byte || environment.has_zero_byte {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        Ok(Self {
            program: CString::new(program.as_bytes())?,
            argv,
            environment,
        })
    }

    /// Becomes the program, as `plan` says. Comes back only with the reason why it could not.
    pub fn become_it(&self, plan: &Upbringing) -> io::Error {
        let pointers = Pointers::to(self);
        match follow(plan) {
            Ok(()) => {
                unblock_all();
                io::Error::from_raw_os_error(pointers.execute())
            }
            Err(error) => error,
        }
    }

    /// Starts the program in a child that follows `plan`. All signals must be blocked.
    ///
    /// The child borrows our memory until it has become the program (`clone(2)` with `CLONE_VM` and
    /// `CLONE_VFORK`), so that nothing is copied and its failure can be told by a plain store. Waits
    /// as long as that takes.
    ///
    /// That the program runs is not promised: a child that is killed before has told no failure, and
    /// its pid comes back like any other. Its end is found by waiting for it. `plan` must name every
    /// signal that has a handler: it would run in our memory.
    ///
    /// # Errors
    /// There is no room for a process, or the program could not be executed.
    pub fn start(&self, plan: &Upbringing, _quiet: &Quiet) -> io::Result<c_int> {
        let mut stack = vec![MaybeUninit::<u128>::uninit(); CHILD_STACK / size_of::<u128>()];
        let mut birth = Birth {
            pointers: Pointers::to(self),
            plan,
            failure: 0,
            job_stop: None,
        };
        let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
        // SAFETY: this thread is suspended until the child has executed a program or is gone, killed
        // included (CLONE_VFORK), so `birth` and `stack` outlive the child's use of them. The child
        // alone reads and writes them: no other thread of ours, which goes on running, knows them.
        // The stack is aligned, large enough for the few calls of `child`, and grows down from its
        // end. Without CLONE_SETTLS the child has this thread's thread pointer, so it shares its
        // `errno` and whatever else is thread-local: this thread does not look at them meanwhile, and
        // `child` and what it calls are plain system calls. Every signal is blocked in this thread
        // (`Quiet` cannot leave it), and the child inherits that mask, so it runs no handler of ours
        // before `plan` has put its dispositions back, which are its own (no CLONE_SIGHAND).
        let pid = unsafe {
            let top = stack.as_mut_ptr_range().end.cast();
            libc::clone(child, top, flags, (&raw mut birth).cast())
        };
        if pid < 0 {
            return Err(io::Error::last_os_error());
        }
        if birth.failure == 0 {
            if let Some(signal) = birth.job_stop {
                // SAFETY: kill(2) touches no memory. Nobody else can have the number of a child of ours.
                unsafe { libc::kill(pid, signal) };
            }
            return Ok(pid);
        }
        // It has exited; nobody else may find it.
        // SAFETY: waitpid(2) with a null status writes nothing.
        unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) };
        Err(io::Error::from_raw_os_error(birth.failure))
    }
}

/// Far more than `child` needs.
const CHILD_STACK: usize = 64 * 1024;

struct Birth<'a> {
    pointers: Pointers<'a>,
    plan: &'a Upbringing,
    failure: c_int,
    /// It came for the child before the program was there, and is sent again when it is.
    job_stop: Option<c_int>,
}

/// Runs in the child, on borrowed memory: plain system calls only, no allocation, no lock, no panic.
extern "C" fn child(birth: *mut c_void) -> c_int {
    // SAFETY: `Image::start` passes a `Birth` that lives, and that only we use, until we are gone.
    let birth = unsafe { &mut *birth.cast::<Birth<'_>>() };
    birth.failure = match follow(birth.plan) {
        Ok(()) => {
            // Stopped here we would hold up our parent, which nothing can wake or stop (CLONE_VFORK). So would
            // a key that comes while execve(2) looks at a file that it then refuses: that is not prevented.
            while let Some(signal) = take_job_stop() {
                birth.job_stop = Some(signal);
            }
            unblock_all();
            birth.pointers.execute()
        }
        Err(error) => error.raw_os_error().unwrap_or(libc::EINVAL),
    };
    // SAFETY: _exit ends the child without running anything of the parent's.
    unsafe { libc::_exit(127) }
}

/// The null-terminated arrays that `execve(2)` takes. They point into the `Image`.
struct Pointers<'a> {
    image: &'a Image,
    argv: Vec<*const c_char>,
    /// As `execvp(3)`: a text without `#!` is given to the shell.
    shell: Vec<*const c_char>,
    environment: Vec<*const c_char>,
}

impl<'a> Pointers<'a> {
    fn to(image: &'a Image) -> Self {
        let null = || std::iter::once(std::ptr::null());
        let head = [c"sh".as_ptr(), image.program.as_ptr()];
        let tail = image.argv.pointers().skip(1);
        Self {
            image,
            argv: image.argv.pointers().chain(null()).collect(),
            shell: head.into_iter().chain(tail).chain(null()).collect(),
            environment: image.environment.pointers().chain(null()).collect(),
        }
    }

    /// The errno of why it came back.
    fn execute(&self) -> c_int {
        // SAFETY: every array ends with a null pointer and holds pointers to strings that end with
        // a zero byte and that `image` keeps alive.
        unsafe {
            libc::execve(
                self.image.program.as_ptr(),
                self.argv.as_ptr(),
                self.environment.as_ptr(),
            );
            let failure = *libc::__errno_location();
            if failure != libc::ENOEXEC {
                return failure;
            }
            libc::execve(
                c"/bin/sh".as_ptr(),
                self.shell.as_ptr(),
                self.environment.as_ptr(),
            );
            *libc::__errno_location()
        }
    }
}

fn follow(plan: &Upbringing) -> io::Result<()> {
    if let Some(parent) = plan.parent {
        die_with(parent)?;
    }
    if plan.own_group {
        rustix::process::setpgid(None, None)?;
    }
    for &(signal, disposition) in &plan.dispositions {
        set_disposition(signal, disposition);
    }
    Ok(())
}

/// What a terminal stops a job with.
const JOB_STOPS: [c_int; 3] = [libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU];

/// Takes out one of these that is pending, if there is one.
fn take_job_stop() -> Option<c_int> {
    let set = set_of(&JOB_STOPS);
    let at_once = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: sigtimedwait(2) reads the set and the time, and writes nothing where it is given no info.
    let taken =
        unsafe { libc::sigtimedwait(&raw const set, std::ptr::null_mut(), &raw const at_once) };
    (taken > 0).then_some(taken)
}

/// prctl(2), PR_SET_PDEATHSIG: the signal comes when the parent dies *after* the call, so whether
/// the parent is still the one that forked us is looked at once more.
fn die_with(parent: rustix::process::Pid) -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    match rustix::process::getppid() {
        Some(now) if now == parent => return Ok(()),
        // It is in another pid namespace: who was told to have its children in a new one (unshare(2),
        // CLONE_NEWPID) has no number there. /proc has one, if it is that of the parent's namespace.
        None if parent_in_proc() == Some(parent.as_raw_nonzero().get()) => return Ok(()),
        _ => {}
    }
    Err(io::Error::from_raw_os_error(libc::ECHILD))
}

/// Our parent, as `/proc` numbers it: the second word behind the name in `/proc/self/stat`
/// (proc_pid_stat(5)). Plain system calls only, on memory of this stack: see [`Image::start`].
fn parent_in_proc() -> Option<c_int> {
    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let file = rustix::fs::open(c"/proc/self/stat", flags, Mode::empty()).ok()?;
    let mut bytes = [0; 512];
    let length = rustix::io::read(&file, &mut bytes).ok()?;
    parent_of(&bytes[..length])
}

fn parent_of(stat: &[u8]) -> Option<c_int> {
    let behind_name = stat.rsplit(|byte| *byte == b')').next()?;
    let word = behind_name.split(|byte| *byte == b' ').nth(2)?;
    std::str::from_utf8(word).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parent_is_found_behind_any_name() {
        assert_eq!(parent_of(b"42 (a) R 1) S 7 42 42 0"), Some(7));
        for torn in [&b""[..], b"42 (a) S", b"42 (a) S x 1"] {
            assert_eq!(parent_of(torn), None);
        }
        let ours = rustix::process::getppid().unwrap().as_raw_nonzero().get();
        assert_eq!(parent_in_proc(), Some(ours));
    }

    #[test]
    fn words_lie_behind_one_another_each_with_its_end() {
        let mut words = Words::default();
        words.push(&[b"a", b"=", b""]);
        words.push(&[b""]);
        words.push(&[b"bc"]);
        assert_eq!(words.bytes, b"a=\0\0bc\0");
        // SAFETY: each is a string in `words` that ends with a zero byte.
        let back = words.pointers().map(|word| unsafe { CStr::from_ptr(word) });
        assert_eq!(back.collect::<Vec<_>>(), [c"a=", c"", c"bc"]);
    }

    #[test]
    fn a_zero_byte_in_a_word_makes_no_image() {
        let mut torn = Words::default();
        torn.push(&[b"a\0b"]);
        assert!(Image::new(OsStr::new("true"), torn, Words::default()).is_err());
    }

    #[test]
    fn the_environment_is_handed_on_but_for_what_is_not_kept() {
        let names = |words: &Words| -> Vec<Vec<u8>> {
            let entries = words.bytes.split(|byte| *byte == 0).filter_map(name_of);
            entries.map(<[u8]>::to_vec).collect()
        };
        let all = names(&Words::of_our_environment(|_| true));
        let ours = std::env::vars_os().map(|(name, _)| name.as_bytes().to_vec());
        assert_eq!(all, ours.collect::<Vec<_>>());
        let kept = names(&Words::of_our_environment(|name| name != b"PATH"));
        assert!(all.contains(&b"PATH".to_vec()));
        assert!(!kept.contains(&b"PATH".to_vec()));
        assert_eq!(kept.len() + 1, all.len());
    }

    #[test]
    fn a_name_ends_at_the_first_sign_but_may_begin_with_one() {
        assert_eq!(name_of(b"A=1=2"), Some(&b"A"[..]));
        assert_eq!(name_of(b"=A=1"), Some(&b"=A"[..]));
        for nameless in [&b""[..], b"A", b"=A"] {
            assert_eq!(name_of(nameless), None);
        }
    }
}
