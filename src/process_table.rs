//! Everybody at once: the processes that `/proc` lists, and who descends from whom.

use std::fs::File;
use std::io;
use std::num::NonZeroU64;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags, RawDir, SeekFrom, seek};

use crate::mounts::{MountId, Mounts};
use crate::process::{Pid, Stat};
use crate::procfs::{beginning_of, line_of};

/// `/proc`, opened once for many looks: a standby has it ready when the holder ends.
#[derive(Debug)]
pub struct ProcessTable {
    directory: OwnedFd,
    /// Opened when it is first read.
    load: Option<File>,
    /// `/proc/stat`, if it can be relied upon.
    statistics: Option<File>,
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
            statistics: None,
        })
    }

    /// Opens what [`Self::births`] reads, if the kernel itself gives it and this `/proc` hides nobody.
    /// To find that out takes as long as a list: who lists but once does without.
    pub fn open_statistics(&mut self) {
        self.statistics = self.statistics_of_the_kernel();
    }

    fn statistics_of_the_kernel(&self) -> Option<File> {
        let statistics = File::open("/proc/stat").ok()?;
        let mount = MountId::of(self.directory.as_fd())?;
        // In a container a program may give it, which counts as it likes (lxcfs).
        let mounted_over = MountId::of(statistics.as_fd())? != mount;
        (!mounted_over && Mounts::ours().shows_every_process(mount)?).then_some(statistics)
    }

    /// How many processes and threads were born since the host came up, in whatever namespace: the line
    /// `processes` of `/proc/stat` (proc_stat(5)). `None`: it does not tell, or was not opened.
    ///
    /// A child is counted when it can be seen, and not when it gets its number, whoever chose that; its
    /// parent is in the middle of clone(2) until it is counted, and can be seen so long (`copy_process` in
    /// the kernel's `kernel/fork.c`). As long as the count is the same, nobody has come but children
    /// of those who are still there.
    #[must_use]
    pub fn births(&self) -> Option<NonZeroU64> {
        count_of_births(self.statistics.as_ref()?)
    }

    /// Lists everybody, so that it can be told later whether anybody has come; `births` were counted
    /// before. Never waits.
    ///
    /// # Errors
    /// They cannot be listed just now.
    pub fn roll(&mut self, births: Option<NonZeroU64>) -> io::Result<Roll> {
        // Read before they are listed: who comes in the middle of that has come since.
        let newest = self.newest();
        let present = self.list()?;
        Ok(Roll {
            births,
            newest,
            present,
        })
    }

    /// Every process now, in the order of their numbers. Never waits.
    ///
    /// # Errors
    /// They cannot be listed just now: that does not mean that there are none.
    pub fn list(&self) -> io::Result<Vec<Listed>> {
        seek(&self.directory, SeekFrom::Start(0))?;
        let mut buffer = Vec::with_capacity(32 * 1024);
        let mut entries = RawDir::new(&self.directory, buffer.spare_capacity_mut());
        let mut found = Vec::with_capacity(256);
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let name = entry.file_name().to_str().ok();
            let pid = name.and_then(|name| Pid::new(name.parse().ok()?));
            let inode = entry.ino();
            found.extend(pid.map(|pid| Listed { pid, inode }));
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

/// The most that is read of `/proc/stat`: one number for each interrupt, and a line for each processor.
const MOST_STATISTICS: usize = 1 << 20;

fn count_of_births(statistics: &File) -> Option<NonZeroU64> {
    let is_there = |text: &[u8]| births_in(text).is_some();
    births_in(&beginning_of(statistics, MOST_STATISTICS, is_there).ok()?)
}

/// What the line `processes N` says, if all of it is there.
fn births_in(statistics: &[u8]) -> Option<NonZeroU64> {
    let mut lines = statistics.split_inclusive(|byte| *byte == b'\n');
    let number = lines.find_map(|line| line.strip_prefix(b"processes "))?;
    std::str::from_utf8(number.strip_suffix(b"\n")?)
        .ok()?
        .parse()
        .ok()
}

fn last_word(load: &File) -> Option<Pid> {
    let line = line_of(load).ok()?;
    let text = std::str::from_utf8(&line).ok()?;
    Pid::new(text.split_ascii_whitespace().next_back()?.parse().ok()?)
}

/// A process as `/proc` lists it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Listed {
    /// Its number.
    pub pid: Pid,
    /// The inode number of its directory, which another process of the same number has not.
    pub inode: u64,
}

/// Who was there, and what tells whether anybody has come since.
#[derive(Debug, Default)]
pub struct Roll {
    /// How many had been born before they were listed.
    births: Option<NonZeroU64>,
    /// The pid that had been handed out last before that.
    newest: Option<Pid>,
    present: Vec<Listed>,
}

impl Roll {
    /// Everybody, in the order of their numbers.
    #[must_use]
    pub fn present(&self) -> &[Listed] {
        &self.present
    }

    /// Whether this very process was there.
    #[must_use]
    pub fn holds(&self, who: &Listed) -> bool {
        self.present.binary_search(who).is_ok()
    }

    /// Whether nobody has come since, by a count of births of now: see [`ProcessTable::births`]. It says no as well
    /// where somebody was born in another pid namespace.
    #[must_use]
    pub fn is_current(&self, births: Option<NonZeroU64>) -> bool {
        births.is_some() && births == self.births
    }

    /// Whether nobody has come since, by whatever tells it. Without a count of births: no number was handed out,
    /// and nobody has come to be seen who had one already. Neither is enough by itself: a child gets
    /// its number before it can be seen, and who chooses a number (`set_tid` of clone3(2)) leaves the
    /// last one.
    ///
    /// # Errors
    /// They cannot be listed just now.
    pub fn nobody_came(&self, table: &mut ProcessTable) -> io::Result<bool> {
        if self.is_current(table.births()) {
            return Ok(true);
        }
        let quiet = self.newest.is_some() && self.newest == table.newest();
        Ok(quiet && table.list()?.iter().all(|who| self.holds(who)))
    }
}

/// Every process now.
///
/// # Errors
/// They cannot be listed just now: that does not mean that there are none.
pub fn all() -> io::Result<Vec<Pid>> {
    let listed = ProcessTable::open()?.list()?;
    Ok(listed.into_iter().map(|who| who.pid).collect())
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
    ///
    /// Nobody is older than a parent: who seems so was read while the number went from its parent to
    /// somebody new.
    #[must_use]
    pub fn descendants(&self, roots: &[Pid], except: &[Pid]) -> Vec<&Stat> {
        let mut known: Vec<Pid> = roots.to_vec();
        let mut found = Vec::new();
        let mut next = 0;
        while let Some(parent) = known.get(next).copied() {
            next += 1;
            let born = self.members.iter().find(|stat| stat.pid == parent);
            let born = born.map_or(0, |parent| parent.start_time);
            let is_its = |stat: &&Stat| stat.parent == parent.get() && stat.start_time >= born;
            for child in self.members.iter().filter(is_its) {
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
pub(crate) mod tests {
    use super::*;
    use std::ffi::OsString;
    use std::os::unix::fs::FileExt;
    use std::process::Command;

    fn statistics(text: &str) -> File {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(text.as_bytes(), 0).unwrap();
        file
    }

    /// A table by which so many were born. Really others are born beside a test.
    pub(crate) fn table_that_counts(births: u64) -> ProcessTable {
        ProcessTable {
            statistics: Some(statistics(&format!("processes {births}\n"))),
            ..ProcessTable::open().unwrap()
        }
    }

    #[test]
    fn a_birth_shows() {
        let mut table = ProcessTable::open().unwrap();
        let before = table.newest().unwrap();
        Command::new("true").status().unwrap();
        assert_ne!(table.newest().unwrap(), before);
    }

    #[test]
    fn births_are_counted_once_that_is_opened() {
        let mut table = ProcessTable::open().unwrap();
        assert_eq!(table.births(), None);
        table.open_statistics();
        let before = table.births().expect("the kernel's own /proc");
        let mut child = Command::new("true").spawn().unwrap();
        assert!(table.births().unwrap() > before);
        child.wait().unwrap();
    }

    #[test]
    fn the_count_of_births_is_a_whole_line() {
        let count = |text: &str| births_in(text.as_bytes()).map(NonZeroU64::get);
        assert_eq!(
            count("btime 5\nprocesses 28642\nprocs_running 2\n"),
            Some(28642)
        );
        for none in [
            "",
            "processes 286",
            "processes 0\n",
            "processes x\n",
            "2 processes 5\n",
        ] {
            assert_eq!(count(none), None, "{none:?}");
        }
    }

    /// The processors and interrupts of a large machine fill many pieces.
    #[test]
    fn a_long_file_is_read_up_to_the_count() {
        let count = |text: String| count_of_births(&statistics(&text)).map(NonZeroU64::get);
        let line = "\nprocesses 7\n";
        let long = |length| format!("intr{}{line}", " 0".repeat(length));
        assert_eq!(count(long(400_000)), Some(7));
        assert_eq!(count(long(600_000)), None, "more than is read");
        assert_eq!(count(" 0".repeat(400_000)), None);
    }

    #[test]
    fn a_roll_is_current_until_somebody_is_born() {
        let mut table = ProcessTable::open().unwrap();
        let uncounted = table.roll(None).unwrap();
        assert!(!uncounted.is_current(None), "nobody counts");
        table.open_statistics();
        let before = table.births();
        let roll = table.roll(before).unwrap();
        assert!(roll.is_current(before));
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        assert!(!roll.is_current(table.births()) && !roll.nobody_came(&mut table).unwrap());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!roll.is_current(table.births()));
    }

    #[test]
    fn one_table_lists_who_is_there_at_each_look() {
        let table = ProcessTable::open().unwrap();
        let is_listed = |pid| table.list().unwrap().iter().any(|listed| listed.pid == pid);
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
        let born = |start_time, number, parent| Stat {
            pid: pid(number),
            name: OsString::new(),
            state: b'S',
            parent,
            terminal: 0,
            flags: 0,
            threads: 1,
            start_time,
            environment_end: 1,
        };
        let stat = |number, parent| born(1, number, parent);
        let family = Family {
            members: vec![stat(4, 3), stat(3, 2), stat(2, 1), stat(5, 1), stat(6, 5)],
        };
        let pids = |found: Vec<&Stat>| found.iter().map(|stat| stat.pid.get()).collect::<Vec<_>>();
        assert_eq!(pids(family.descendants(&[pid(2)], &[])), [3, 4]);
        assert_eq!(pids(family.descendants(&[pid(1)], &[pid(5)])), [2, 3, 4]);
        // 3 went to somebody new after 4 was read as a child of the one before.
        let family = Family {
            members: vec![born(5, 4, 3), born(9, 3, 2), born(9, 6, 3), born(1, 2, 1)],
        };
        assert_eq!(pids(family.descendants(&[pid(2)], &[])), [3, 6]);
    }
}
