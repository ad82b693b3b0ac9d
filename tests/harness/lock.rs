//! Who has a file locked, as the kernel tells; and lockers that are no gateways.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use super::process::{Process, all};
use super::scene::Scene;
use super::wait::{SOON, wait_until};

/// Every process that has this very file open with an exclusive flock on it.
pub fn lockers(path: &Path) -> Vec<u32> {
    let Ok(file) = fs::metadata(path) else {
        return Vec::new();
    };
    let id = (file.dev(), file.ino());
    all().filter(|pid| has_locked(*pid, id)).collect()
}

fn has_locked(pid: u32, id: (u64, u64)) -> bool {
    fs::read_dir(format!("/proc/{pid}/fdinfo"))
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .any(|fd| {
            let info = fs::read_to_string(format!("/proc/{pid}/fdinfo/{fd}")).unwrap_or_default();
            info.lines().any(is_exclusive_flock)
                && fs::metadata(format!("/proc/{pid}/fd/{fd}"))
                    .is_ok_and(|file| (file.dev(), file.ino()) == id)
        })
}

fn is_exclusive_flock(line: &str) -> bool {
    line.starts_with("lock:")
        && line
            .split_whitespace()
            .skip(2)
            .take(3)
            .eq(["FLOCK", "ADVISORY", "WRITE"])
}

/// A foreign locker: `flock FILE sleep`, in one process.
pub struct Locker(pub Process);

impl Locker {
    /// Locks the file, and waits until it is locked.
    #[track_caller]
    pub fn on(scene: &Scene, path: &Path) -> Self {
        let locker = Self::start(scene, "--exclusive", path, &["sleep", "infinity"]);
        wait_until("flock(1) has the lock", SOON, || {
            lockers(path).contains(&locker.pid())
        });
        locker
    }

    /// The same with a shared lock.
    #[track_caller]
    pub fn sharing(scene: &Scene, path: &Path) -> Self {
        Self::sharing_as(scene, path, &["sleep", "infinity"])
    }

    /// The same, by another command.
    #[track_caller]
    pub fn sharing_as(scene: &Scene, path: &Path, command: &[&str]) -> Self {
        let locker = Self::start(scene, "--shared", path, command);
        let line = format!(" READ {} ", locker.pid());
        wait_until("flock(1) has the shared lock", SOON, || {
            let table = fs::read_to_string("/proc/locks");
            table.expect("the kernel's table").contains(&line)
        });
        let words = format!("{}\0", command.join("\0"));
        wait_until("its command", SOON, || {
            let now = fs::read_to_string(format!("/proc/{}/cmdline", locker.pid()));
            now.is_ok_and(|now| now == words)
        });
        locker
    }

    fn start(scene: &Scene, kind: &str, path: &Path, words: &[&str]) -> Self {
        super::need("flock", "util-linux");
        let mut command: Command = scene.command("flock");
        command.args(["--no-fork", kind]).arg(path).args(words);
        Self(scene.spawn(command))
    }

    pub fn pid(&self) -> u32 {
        self.0.pid()
    }
}
