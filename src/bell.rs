//! Rings when the pid file's name may have changed, so that the holder looks.
//!
//! Made of three things the kernel offers: `F_NOTIFY` on the file's directory and on each directory
//! above it (fcntl(2), "File and directory change notification"; a SIGIO each), and `poll(2)` on
//! `/proc/self/mountinfo` for a mount on top (proc_pid_mountinfo(5)). Not inotify: when a process
//! with an inotify instance ends, the kernel waits for a grace period before it tells anybody
//! (5 to 14 ms, measured on Linux 6.18), and so long the parent-death signal and everybody who
//! waits for the holder would be late.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};

use crate::{remote, sys};

/// Where a directory cannot be watched, the path is looked at so often.
const BLIND_INTERVAL: Duration = Duration::from_secs(10);

/// In a busy directory it rings no more often than this.
const REARM_INTERVAL: Duration = Duration::from_millis(250);

/// The name of a pid file, watched.
#[derive(Debug)]
pub struct Bell {
    directories: Vec<(File, i32)>,
    mounts: Option<File>,
    complete: bool,
    armed: Instant,
    rearm: Option<Instant>,
}

impl Bell {
    /// Watches the name. What changed before this is not told: look once afterwards.
    #[must_use]
    pub fn hang(path: &Path) -> Self {
        let mut bell = Self {
            directories: Vec::new(),
            mounts: None,
            complete: true,
            armed: Instant::now(),
            rearm: None,
        };
        let mut events = sys::DN_CREATE | sys::DN_DELETE | sys::DN_RENAME | sys::DN_MODIFY;
        for directory in path.ancestors().skip(1) {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            match rustix::fs::open(directory, flags, Mode::empty()) {
                Ok(opened) => bell.directories.push((File::from(opened), events)),
                Err(_) => bell.complete = false,
            }
            // Of the directories above only the names on the way matter.
            events = sys::DN_DELETE | sys::DN_RENAME;
        }
        bell.mounts = File::open("/proc/self/mountinfo").ok();
        // What is done on another machine rings nothing here.
        bell.complete &= bell.mounts.is_some() && !remote::may_change_untold(path);
        bell.arm();
        bell
    }

    /// Each notification comes once: asks for the next one.
    fn arm(&mut self) {
        self.armed = Instant::now();
        self.rearm = None;
        for (directory, events) in &self.directories {
            self.complete &= sys::notify_directory(directory.as_fd(), *events).is_ok();
        }
    }

    /// It rang: arms it again, now or soon. `true`: look at the name now.
    pub fn rang(&mut self) -> bool {
        if self.rearm.is_some() {
            return false;
        }
        if self.armed.elapsed() >= REARM_INTERVAL {
            self.arm();
        } else {
            self.rearm = Some(self.armed + REARM_INTERVAL);
        }
        true
    }

    /// When to look without being told, if ever.
    #[must_use]
    pub fn due(&self) -> Option<Instant> {
        self.rearm
            .or_else(|| (!self.complete).then(|| self.armed + BLIND_INTERVAL))
    }

    /// Whether that time has come; it is then armed again. `true`: look at the name now.
    pub fn is_due(&mut self) -> bool {
        let due = self.due().is_some_and(|due| Instant::now() >= due);
        if due {
            self.arm();
        }
        due
    }

    /// Has an exceptional condition when a mount changed.
    #[must_use]
    pub fn mounts(&self) -> Option<BorrowedFd<'_>> {
        self.mounts.as_ref().map(AsFd::as_fd)
    }
}
