//! Everybody at once: the processes that `/proc` lists, and who descends from whom.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use rustix::fs::{Mode, OFlags, RawDir, SeekFrom, seek};

use crate::process::{Pid, Stat};

/// `/proc`, opened once for many looks: a standby has it ready when the holder ends.
#[derive(Debug)]
pub struct ProcessTable {
    directory: OwnedFd,
    /// Opened when it is first read.
    load: Option<File>,
}

impl ProcessTable {
    /// Opens `/proc`, and keeps it open.
    ///
    /// # Errors
    /// It is not mounted or not readable, or no descriptor is left.
    pub fn open() -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self {
            directory: rustix::fs::open("/proc", flags, Mode::empty())?,
            load: None,
        })
    }

    /// Every process now, in the order of their numbers, each with the inode number of its directory in
    /// `/proc`. Never waits.
    ///
    /// # Errors
    /// They cannot be listed just now: that does not mean that there are none.
    pub fn list(&self) -> io::Result<Vec<(Pid, u64)>> {
        seek(&self.directory, SeekFrom::Start(0))?;
        let mut buffer = Vec::with_capacity(32 * 1024);
        let mut entries = RawDir::new(&self.directory, buffer.spare_capacity_mut());
        let mut found = Vec::with_capacity(256);
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let name = entry.file_name().to_str().ok();
            let pid = name.and_then(|name| Pid::new(name.parse().ok()?));
            found.extend(pid.map(|pid| (pid, entry.ino())));
        }
        // The kernel goes by the numbers already.
        found.sort_unstable();
        Ok(found)
    }

    /// The pid that was handed out last: the last word of `/proc/loadavg` (proc_loadavg(5)), which is kept
    /// open. Where it has not changed, no process got its number from the kernel since. `None`: it does
    /// not tell.
    #[must_use]
    pub fn newest(&mut self) -> Option<Pid> {
        if let Some(newest) = self.load.as_ref().and_then(last_word) {
            return Some(newest);
        }
        // A container's is given by a program (lxcfs), which may end and come back.
        self.load = File::open("/proc/loadavg").ok();
        last_word(self.load.as_ref()?)
    }
}

fn last_word(load: &File) -> Option<Pid> {
    let mut line = [0; 128];
    let length = load.read_at(&mut line, 0).ok()?;
    let text = std::str::from_utf8(&line[..length]).ok()?;
    Pid::new(text.split_ascii_whitespace().next_back()?.parse().ok()?)
}

/// Every process now.
///
/// # Errors
/// They cannot be listed just now: that does not mean that there are none.
pub fn all() -> io::Result<Vec<Pid>> {
    let listed = ProcessTable::open()?.list()?;
    Ok(listed.into_iter().map(|(pid, _)| pid).collect())
}

/// Processes and who their parents are, at one moment.
#[derive(Debug, Default)]
pub struct Family {
    members: Vec<Stat>,
}

impl Family {
    /// Looks at every process that can be seen.
    ///
    /// # Errors
    /// One could not be looked at just now.
    pub fn now() -> io::Result<Self> {
        Self::of(all()?)
    }

    /// Looks at these.
    ///
    /// # Errors
    /// One could not be looked at just now.
    pub fn of(pids: impl IntoIterator<Item = Pid>) -> io::Result<Self> {
        let mut members = Vec::new();
        for pid in pids {
            members.extend(Stat::look(pid)?);
        }
        Ok(Self { members })
    }

    /// Everybody.
    pub fn members(&self) -> impl Iterator<Item = &Stat> {
        self.members.iter()
    }

    /// The children, grandchildren and so on of `roots`, without the roots and without whatever
    /// descends from `except`.
    #[must_use]
    pub fn descendants(&self, roots: &[Pid], except: &[Pid]) -> Vec<&Stat> {
        let mut known: Vec<Pid> = roots.to_vec();
        let mut found = Vec::new();
        let mut next = 0;
        while let Some(parent) = known.get(next).copied() {
            next += 1;
            for child in self
                .members
                .iter()
                .filter(|stat| stat.parent == parent.get())
            {
                if !known.contains(&child.pid) && !except.contains(&child.pid) {
                    known.push(child.pid);
                    found.push(child);
                }
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsString;
    use std::process::Command;

    #[test]
    fn a_birth_shows() {
        let mut table = ProcessTable::open().unwrap();
        let before = table.newest().unwrap();
        Command::new("true").status().unwrap();
        assert_ne!(table.newest().unwrap(), before);
    }

    #[test]
    fn one_table_lists_who_is_there_at_each_look() {
        let table = ProcessTable::open().unwrap();
        let is_listed = |pid| {
            table
                .list()
                .unwrap()
                .iter()
                .any(|(listed, _)| *listed == pid)
        };
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let pid = Pid::new(child.id().into()).unwrap();
        assert!(is_listed(pid) && is_listed(Pid::this()) && is_listed(Pid::INIT));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!is_listed(pid) && is_listed(Pid::this()));
    }

    #[test]
    fn descendants_are_found_through_the_generations() {
        let pid = |number: i32| Pid::new(number.into()).unwrap();
        let stat = |number, parent| Stat {
            pid: pid(number),
            name: OsString::new(),
            state: b'S',
            parent,
            terminal: 0,
            flags: 0,
            threads: 1,
            start_time: 1,
            environment_end: 1,
        };
        let family = Family {
            members: vec![stat(4, 3), stat(3, 2), stat(2, 1), stat(5, 1), stat(6, 5)],
        };
        let pids = |found: Vec<&Stat>| found.iter().map(|stat| stat.pid.get()).collect::<Vec<_>>();
        assert_eq!(pids(family.descendants(&[pid(2)], &[])), [3, 4]);
        assert_eq!(pids(family.descendants(&[pid(1)], &[pid(5)])), [2, 3, 4]);
    }
}
