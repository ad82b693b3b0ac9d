//! Who certainly belongs to no gateway's run: noted while there is time, so that the search after a
//! crash looks at nobody twice.
//!
//! A standby has nothing to do until the holder ends, and everything to do then. What it can know
//! before is who is no part of the payload: a process without a gateway's marks in its environment
//! that does not descend from one that has them, nor from the holder. That does not change later:
//! whoever joins a run is born into it.
//!
//! A noted process is known again by its pid and the inode number of its directory in `/proc`. That
//! directory is made anew for each process (`proc_flush_pid` in the kernel's `fs/proc/base.c` drops
//! it at the end), so that a pid that was handed on shows another inode.

use std::collections::HashMap;
use std::io;
use std::os::unix::fs::DirEntryExt;
use std::time::{Duration, Instant};

use crate::process::{self, Environ, Family, Pid, Stat};
use crate::survivors;

/// Somebody so young may be about to become another program, with another environment.
const YOUNG: Duration = Duration::from_secs(1);

/// How long a note is good enough: who is born later costs a look after the crash, and no more.
const FRESH: Duration = Duration::from_secs(60);

/// Processes that are no part of any run.
#[derive(Debug, Default)]
pub struct Bystanders {
    known: HashMap<Pid, u64>,
    noted: Option<(Pid, Instant)>,
}

impl Bystanders {
    /// Nobody is known.
    #[must_use]
    pub fn unknown() -> Self {
        Self::default()
    }

    /// Notes who is no part of the run of this holder, which lives: once for each holder, and again
    /// when a minute has passed. Never waits; who cannot be looked at is not noted.
    pub fn note(&mut self, holder: Pid) {
        let fresh = |(whose, at): (Pid, Instant)| whose == holder && at.elapsed() < FRESH;
        if self.noted.is_some_and(fresh) {
            return;
        }
        self.noted = Some((holder, Instant::now()));
        // A note that cannot be taken now costs time after a crash, and nothing else.
        let _ = self.note_now(holder);
    }

    fn note_now(&mut self, holder: Pid) -> io::Result<()> {
        let listed = everybody()?;
        let present: HashMap<Pid, u64> = listed.iter().copied().collect();
        self.known
            .retain(|pid, inode| present.get(pid) == Some(inode));
        let family = Family::of(self.strangers(&listed))?;
        let (mut roots, mut plain) = (vec![holder], Vec::new());
        for stat in family.members() {
            match mark(stat)? {
                Mark::Some => roots.push(stat.pid),
                Mark::None => plain.push(stat.pid),
                Mark::Unclear => {}
            }
        }
        let heirs = family.descendants(&roots, &[]);
        let is_heir = |pid: &Pid| heirs.iter().any(|stat| stat.pid == *pid);
        let noted = plain.into_iter().filter(|pid| !is_heir(pid));
        self.known
            .extend(noted.filter_map(|pid| Some((pid, *present.get(&pid)?))));
        Ok(())
    }

    /// Everybody but the noted, as they are now.
    ///
    /// # Errors
    /// Somebody could not be looked at just now.
    pub fn all_others(&self) -> io::Result<Family> {
        Family::of(self.strangers(&everybody()?))
    }

    fn strangers(&self, listed: &[(Pid, u64)]) -> Vec<Pid> {
        let unknown = |(pid, inode): &&(Pid, u64)| self.known.get(pid) != Some(inode);
        listed.iter().filter(unknown).map(|(pid, _)| *pid).collect()
    }
}

/// Every process in `/proc` now, with the inode number of its directory there.
fn everybody() -> io::Result<Vec<(Pid, u64)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let entry = entry?;
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| Pid::new(name.parse().ok()?));
        found.extend(pid.map(|pid| (pid, entry.ino())));
    }
    Ok(found)
}

/// Whether a process carries the marks of a gateway's run.
enum Mark {
    Some,
    None,
    Unclear,
}

fn mark(stat: &Stat) -> io::Result<Mark> {
    if stat.is_kernel_thread() {
        return Ok(Mark::None);
    }
    let environ = Environ::look(stat.pid)?.unwrap_or_default();
    Ok(if survivors::is_marked_at_all(&environ) {
        Mark::Some
    } else if environ.is_empty() || process::age(stat) < YOUNG {
        Mark::Unclear
    } else {
        Mark::None
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Child, Command};

    struct Ended(Child);

    impl Ended {
        fn pid(&self) -> Pid {
            Pid::new(self.0.id().into()).unwrap()
        }
    }

    impl Drop for Ended {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    fn sleeper(marks: &[(&str, &str)]) -> Ended {
        let mut command = Command::new("sleep");
        let child = command.arg("60").env_clear().env("A", "b");
        let child = Ended(child.envs(marks.iter().copied()).spawn().unwrap());
        let executed = |pid| Environ::look(pid).unwrap().unwrap().get("A") == Some(b"b");
        while !executed(child.pid()) || process::age(&Stat::of(child.pid()).unwrap()) < YOUNG {
            std::thread::sleep(Duration::from_millis(5));
        }
        child
    }

    fn others(bystanders: &Bystanders) -> Vec<Pid> {
        let family = bystanders.all_others().unwrap();
        family.members().map(|stat| stat.pid).collect()
    }

    #[test]
    fn only_who_is_no_part_of_a_run_is_noted() {
        let (plain, marked) = (sleeper(&[]), sleeper(&[(survivors::RUN_ID, "x")]));
        let holder = sleeper(&[]);
        let mut bystanders = Bystanders::unknown();
        let before = others(&bystanders);
        assert!(before.contains(&plain.pid()) && before.contains(&marked.pid()));
        bystanders.note(holder.pid());
        let after = others(&bystanders);
        assert!(!after.contains(&plain.pid()) && after.contains(&marked.pid()));
    }

    #[test]
    fn children_of_the_holder_are_not_noted_whatever_their_environment() {
        let child = sleeper(&[]);
        let mut bystanders = Bystanders::unknown();
        bystanders.note(Pid::this());
        assert!(others(&bystanders).contains(&child.pid()));
        // Behind another holder the same child is nobody's.
        let stranger = sleeper(&[]);
        bystanders.note(stranger.pid());
        assert!(!others(&bystanders).contains(&child.pid()));
    }

    #[test]
    fn a_number_that_is_handed_on_is_somebody_else() {
        let child = sleeper(&[]);
        let mut bystanders = Bystanders::unknown();
        bystanders.note(sleeper(&[]).pid());
        assert!(!others(&bystanders).contains(&child.pid()));
        let inode = bystanders.known[&child.pid()];
        bystanders.known.insert(child.pid(), inode + 1);
        assert!(others(&bystanders).contains(&child.pid()));
    }
}
