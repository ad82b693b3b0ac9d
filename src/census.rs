//! Every gateway that can be seen, and every pid file in some places, in one go.
//!
//! The kernel's table of locks is read once. A file that nobody has locked is what is written in it;
//! one whose record names the taker in the table is held by it; only the others are looked at one by
//! one, as `status` does.

use std::collections::{HashMap, HashSet};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::held;
use crate::holder::{self, Holder, is_of_namespace};
use crate::kernel_locks::{
    LockLine, parse_locks, parse_shared_locks, printed_device, table_of_locks,
};
use crate::listing::{self, Directory, Peeked};
use crate::lock::FileId;
use crate::process::{self, Pid};
use crate::record::Contents;
use crate::view::{self, State, View};
use crate::workers::{both, share_out};
use crate::{Error, ErrorKind, Result};

/// Every gateway that can be seen, by its lock, and every pid file in the given directories and one
/// level below them, in the order of their paths. Waits for nobody.
///
/// # Errors
/// `/proc` cannot be read.
pub fn list(places: &[PathBuf]) -> Result<Vec<View>> {
    list_as(places, |view| view)
}

/// Likewise, each made into something else as soon as it is seen. Many are looked at by several threads,
/// which have ended when this returns; where no thread can be had, by this one alone. They call `make` at
/// the same time and in any order, and sometimes for what is seen twice and returned once.
///
/// # Errors
/// As [`list`].
pub fn list_as<T: Send>(places: &[PathBuf], make: impl Fn(View) -> T + Sync) -> Result<Vec<T>> {
    if !Path::new("/proc/self").exists() {
        return Err(Error::new(ErrorKind::System, "cannot read /proc")
            .advise("mount it (mount -t proc proc /proc)"));
    }
    let opened = places.iter().filter_map(|path| Directory::open(path));
    let directories: Vec<Directory> = opened.collect();
    // Who opens /proc/locks waits for a grace period of RCU, about 8 ms, unless somebody has just done so
    // (percpu_down_write in locks_start of the kernel's fs/locks.c); the longer, the busier we are.
    let (table, files) = both(table_of_locks, || listing::files_in(&directories));
    let census = Census::of(&table);
    let entry = |view| Entry::of(view, &make);
    let mut entries = share_out(&files, |(directory, name)| {
        census.view(directory, name).map(entry)
    });
    entries.extend(census.others().filter_map(view_elsewhere).map(entry));
    entries.sort_by(|one, other| one.path.as_os_str().cmp(other.path.as_os_str()));
    // Two containers may each have one at the same path.
    entries.dedup_by(|one, other| {
        (&one.path, one.state, one.pid) == (&other.path, other.state, other.pid)
    });
    Ok(entries.into_iter().map(|entry| entry.made).collect())
}

/// What was made of a view, and what tells it from others.
struct Entry<T> {
    path: PathBuf,
    state: &'static str,
    pid: Option<Pid>,
    made: T,
}

impl<T> Entry<T> {
    fn of(view: View, make: impl Fn(View) -> T) -> Self {
        Self {
            path: view.path.clone(),
            state: view.state.name(),
            pid: view.state.pid(),
            made: make(view),
        }
    }
}

/// The kernel's table of locks, and which lines of it are explained by a file that was found.
struct Census<'t> {
    lines: Vec<(LockLine<'t>, AtomicBool)>,
    by_inode: HashMap<u64, Vec<usize>>,
    /// Inodes on which somebody has a shared lock.
    shared: HashSet<u64>,
    /// Our own pid namespace.
    namespace: Option<u64>,
    /// What the table calls a file system, by `st_dev`.
    devices: Mutex<HashMap<u64, String>>,
}

impl<'t> Census<'t> {
    fn of(table: &'t [u8]) -> Self {
        let lines: Vec<_> = parse_locks(table)
            .map(|line| (line, AtomicBool::new(false)))
            .collect();
        let mut by_inode: HashMap<u64, Vec<usize>> = HashMap::new();
        for (index, (line, _)) in lines.iter().enumerate() {
            by_inode.entry(line.inode).or_default().push(index);
        }
        Self {
            lines,
            by_inode,
            shared: parse_shared_locks(table).map(|line| line.inode).collect(),
            namespace: process::own_pid_namespace(),
            devices: Mutex::default(),
        }
    }

    fn view(&self, directory: &Directory, name: &Path) -> Option<View> {
        let path = directory.path_of(name);
        let Some(peeked) = directory.peek(name) else {
            return view::look_from_outside(&path);
        };
        let look = || view::look(&path).ok();
        match self.by_inode.get(&peeked.id.inode) {
            Some(lines) => self.locked(lines, &peeked).or_else(|| {
                let view = look()?;
                self.explain(lines, view.state.pid());
                Some(view)
            }),
            None if self.shared.contains(&peeked.id.inode) => look(),
            None => unlocked(directory, name, &path, peeked).or_else(look),
        }
    }

    /// The holder that the record and the table name.
    fn locked(&self, lines: &[usize], peeked: &Peeked) -> Option<View> {
        let record = peeked.contents.record()?;
        let device = self.device_of(peeked);
        for (line, _) in lines.iter().map(|index| &self.lines[*index]) {
            let is_its = line.device == device && is_of_namespace(record, self.namespace);
            let taker = || holder::named_taker(record, peeked.id, line.pid, &device);
            if let Some(holder) = is_its.then(taker).flatten() {
                self.explain(lines, Some(line.pid));
                return held_view(holder, true);
            }
        }
        None
    }

    fn explain(&self, lines: &[usize], pid: Option<Pid>) {
        let lines = lines.iter().map(|index| &self.lines[*index]);
        for (_, explained) in lines.filter(|(line, _)| Some(line.pid) == pid) {
            explained.store(true, Ordering::Relaxed);
        }
    }

    fn device_of(&self, peeked: &Peeked) -> String {
        let mut known = self.devices.lock().unwrap_or_else(PoisonError::into_inner);
        let printed = || printed_device(peeked.file.as_fd(), peeked.id.dev);
        known.entry(peeked.id.dev).or_insert_with(printed).clone()
    }

    /// The gateways behind the lines that no file has explained: their pid files lie elsewhere, or
    /// are not at their paths any more.
    fn others(self) -> impl Iterator<Item = Holder> {
        let unexplained = self
            .lines
            .into_iter()
            .filter(|(_, explained)| !explained.load(Ordering::Relaxed));
        held::holders_among(unexplained.map(|(line, _)| line.pid).collect())
    }
}

/// A file that the table has no lock on. It was read later than the table: `None` where somebody has taken
/// it since, or has ended since.
fn unlocked(directory: &Directory, name: &Path, path: &Path, peeked: Peeked) -> Option<View> {
    let contents = peeked.contents;
    if view::goes_on(&contents) {
        return None;
    }
    let state = view::left_behind(&contents);
    if matches!(state, State::Crashed) && directory.peek(name)?.contents != contents {
        return None;
    }
    Some(View {
        path: path.to_path_buf(),
        state,
        contents,
    })
}

fn held_view(holder: Holder, is_there: bool) -> Option<View> {
    let record = holder.record()?.clone();
    let path = record.path();
    let contents = Contents::Record(Box::new(record));
    let state = match &contents {
        Contents::Record(record) if record.end.is_some() => State::Ending(holder),
        _ if is_there || holder.is_in_another_root() => State::Held(holder),
        _ => State::Removed(holder),
    };
    Some(View {
        path,
        state,
        contents,
    })
}

fn view_elsewhere(holder: Holder) -> Option<View> {
    let path = holder.record()?.path();
    let is_there = FileId::at(&path).is_ok_and(|id| id == holder.file());
    let is_there = is_there || view::is_elsewhere(&holder, &path);
    held_view(holder, is_there)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_found_one_level_deep() {
        let room = tempfile::tempdir().unwrap();
        for name in ["gateway.pid", "a/gateway.pid", "b/other", "c/d/gateway.pid"] {
            let path = room.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        let views = list(&[room.path().to_path_buf()]).unwrap();
        let mine = views
            .iter()
            .filter(|view| view.path.starts_with(room.path()))
            .map(|view| view.path.strip_prefix(room.path()).unwrap());
        assert_eq!(
            mine.collect::<Vec<_>>(),
            [Path::new("a/gateway.pid"), Path::new("gateway.pid")]
        );
    }
}
