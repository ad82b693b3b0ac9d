//! Every gateway that can be seen, and every pid file in some places, in one go.
//!
//! The kernel's table of locks is read once, and the files meanwhile: one may be read before the table is,
//! or after. A file that nobody has locked is what is written in it; one whose record names the taker in
//! the table is held by it; only the others are looked at one by one, as `status` does.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::descriptors::ensure_descriptors;
use crate::file_id::FileId;
use crate::held::{self, Search, others_among};
use crate::holder::{self, Holder, Sighting, is_of_namespace};
use crate::kernel_locks::{LockLine, parse_locks, parse_shared_locks, table_of_locks};
use crate::listing::{self, Directory, Found, Peeked};
use crate::lock::OpenFile;
use crate::process::{self, Pid};
use crate::record::Contents;
use crate::view::{self, State, View};
use crate::wait::Uninterrupted;
use crate::workers::{both, share_out};
use crate::{Error, ErrorKind, Result};

/// More than all threads of a list have open at a time, whoever is looked at.
const DESCRIPTORS: usize = 48;

/// Every gateway that can be seen, by its lock, and every pid file in the given directories and one
/// level below them, in the order of their paths. Waits as [`view::look`] does where one has to be looked at
/// by itself; and for a file system that does not answer.
///
/// # Errors
/// `/proc` cannot be read, not enough files can be opened, or the system refuses what proof needs.
pub fn list(places: &[PathBuf]) -> Result<Vec<View>> {
    list_as(places, |view| view)
}

/// Likewise, each made into something else as soon as it is seen. Many are looked at by several threads,
/// which have ended when this returns; where no thread can be had, by this one alone. They call `make` at
/// the same time and in any order, and sometimes for what is not returned: it was seen twice, or has changed.
///
/// # Errors
/// As [`list`].
pub fn list_as<T: Send>(places: &[PathBuf], make: impl Fn(View) -> T + Sync) -> Result<Vec<T>> {
    ensure_sight()?;
    let opened = places.iter().filter_map(|path| Directory::open(path));
    let directories: Vec<Directory> = opened.collect();
    let entry = |view| Entry::of(view, &make);
    // Who reads /proc/locks waits for a grace period of RCU, about 8 ms, unless somebody has just done so
    // (percpu_down_write in locks_start of the kernel's fs/locks.c). The files are read meanwhile.
    let (table, shares) = both(table_of_locks, |table| {
        let seen = |found| Seen::of(found, entry);
        listing::each_found(&directories, seen, || table.give_way())
    });
    let table = table?;
    let census = Census::of(&table);
    let settle = |seen| census.settle(seen, entry);
    let settled = share_out(shares, |share| {
        let settled = share.into_iter().map(settle);
        settled.filter_map(Result::transpose).collect()
    });
    let settled: Vec<Vec<_>> = settled.into_iter().collect::<Result<_>>()?;
    let mut entries: Vec<_> = settled.into_iter().flatten().collect();
    add(&mut entries, census.elsewhere(entry));
    // Two containers may each have one at the same path; one that keeps an earlier file, which was moved
    // away, has two at its own.
    entries.sort_by(|one, other| one.rank().cmp(&other.rank()));
    entries.dedup_by(|one, other| {
        (&one.path, one.pid) == (&other.path, other.pid)
            && (one.pid.is_some() || one.state == other.state)
    });
    Ok(entries.into_iter().map(|entry| entry.made).collect())
}

/// Makes sure of what is needed to look at anybody: whoever cannot be looked at is left out.
fn ensure_sight() -> Result<()> {
    if !Path::new("/proc/self").exists() {
        return Err(
            Error::system("cannot read /proc").advise("mount it (mount -t proc proc /proc)")
        );
    }
    ensure_descriptors(DESCRIPTORS)
        .map_err(|error| Error::system("cannot look at every gateway").because(error))?;
    process::Stat::of_this()?;
    holder::ensure_pinning()
}

/// Adds those whose files were not found, each with whether its file is at its path now: then the file that
/// was read there has been replaced.
fn add<T>(entries: &mut Vec<Entry<T>>, elsewhere: Vec<(Entry<T>, bool)>) {
    let there = elsewhere.iter().filter(|(_, is_there)| *is_there);
    let replaced: HashSet<&Path> = there.map(|(entry, _)| entry.path.as_path()).collect();
    entries.retain(|entry| entry.pid.is_some() || !replaced.contains(entry.path.as_path()));
    entries.extend(elsewhere.into_iter().map(|(entry, _)| entry));
}

/// What is known of a file before the table of locks is.
enum Seen<'d, T> {
    /// Its run is over, unless somebody has locked it again.
    Over(FileId, Entry<T>),
    /// The table is needed.
    Unsettled(Found<'d>),
}

impl<'d, T> Seen<'d, T> {
    fn of(found: Found<'d>, entry: impl Fn(View) -> Entry<T>) -> Self {
        let path = found.path();
        match found.peeked {
            Some(peeked) if view::is_over(&peeked.contents) => {
                Self::Over(peeked.id, entry(over(path, peeked.contents)))
            }
            _ => Self::Unsettled(found),
        }
    }
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

    /// By their paths; of the same run's the one that is at its path comes first.
    fn rank(&self) -> (&OsStr, Option<Pid>, bool) {
        (self.path.as_os_str(), self.pid, self.state == "removed")
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
        }
    }

    fn settle<T>(
        &self,
        seen: Seen<'_, T>,
        entry: impl Fn(View) -> Entry<T>,
    ) -> Result<Option<Entry<T>>> {
        let view = match seen {
            Seen::Over(id, entry) if !self.has_lock_on(id) && !self.hides_lock_on(&entry.path) => {
                return Ok(Some(entry));
            }
            Seen::Over(_, over) => self.look(&over.path)?,
            Seen::Unsettled(found) => self.view(found)?,
        };
        Ok(view.map(entry))
    }

    fn view(&self, found: Found<'_>) -> Result<Option<View>> {
        let path = found.path();
        let Some(peeked) = &found.peeked else {
            return if found.is_still_there() {
                Ok(view::look_from_outside(&path))
            } else {
                self.look(&path)
            };
        };
        if self.has_lock_on(peeked.id) || !self.tells_all() {
            return match self.held(peeked) {
                None => self.look(&path),
                held => Ok(held),
            };
        }
        if needs_a_look(&found, &peeked.contents) {
            return self.look(&path);
        }
        Ok(found.peeked.map(|peeked| over(path, peeked.contents)))
    }

    /// Whether somebody has a lock on the file, or on one of another file system with its number.
    fn has_lock_on(&self, file: FileId) -> bool {
        self.by_inode.contains_key(&file.inode) || self.shared.contains(&file.inode)
    }

    /// Whether the table tells of everybody's locks: the kernel leaves out who took one outside the reader's
    /// pid namespace (`locks_translate_pid` in its `fs/locks.c`), and nobody is outside the first.
    fn tells_all(&self) -> bool {
        self.namespace == Some(process::FIRST_PID_NAMESPACE)
    }

    /// Whether somebody has a lock of whom the table does not tell.
    fn hides_lock_on(&self, path: &Path) -> bool {
        let is_locked = || OpenFile::open_existing(path).ok()??.is_locked().ok();
        !self.tells_all() && is_locked() == Some(true)
    }

    /// The holder that the record and the table name.
    fn held(&self, peeked: &Peeked) -> Option<View> {
        let record = peeked.contents.record()?;
        let device = &*peeked.device;
        for line in self.lines_of(peeked.id).map(|(line, _)| line) {
            let is_its = line.device == device && is_of_namespace(record, self.namespace);
            let taker = || holder::named_taker(record, peeked.id, line.pid, device);
            if let Some(holder) = is_its.then(taker).flatten() {
                self.explain(peeked.id, Some(line.pid));
                return held_view(holder, true);
            }
        }
        None
    }

    /// What is seen of the file by itself: it may be another one by now, or no pid file.
    fn look(&self, path: &Path) -> Result<Option<View>> {
        let view = match view::look_again(path, &mut Uninterrupted) {
            Err(error) if error.kind() == ErrorKind::System => return Err(error),
            look => look.ok(),
        };
        if let (Some(view), Ok(file)) = (&view, FileId::at(path)) {
            self.explain(file, view.state.pid());
        }
        Ok(view)
    }

    fn explain(&self, file: FileId, pid: Option<Pid>) {
        let lines = self.lines_of(file);
        for (_, explained) in lines.filter(|(line, _)| Some(line.pid) == pid) {
            explained.store(true, Ordering::Relaxed);
        }
    }

    fn lines_of(&self, file: FileId) -> impl Iterator<Item = &(LockLine<'t>, AtomicBool)> {
        let indices = self.by_inode.get(&file.inode).into_iter().flatten();
        indices.map(|index| &self.lines[*index])
    }

    /// The gateways behind the lines that no file has explained: their pid files lie elsewhere, or are not
    /// at their paths any more. Each with whether it is at its path, here.
    fn elsewhere<T: Send>(&self, entry: impl Fn(View) -> Entry<T> + Sync) -> Vec<(Entry<T>, bool)> {
        let lines = self.lines.iter();
        let unexplained = lines.filter(|(_, explained)| !explained.load(Ordering::Relaxed));
        let others = others_among(unexplained.map(|(line, _)| line.pid).collect());
        let search = Search::default();
        let found = share_out(others, |pid| {
            let views = search.held_by(pid).into_iter().filter_map(view_elsewhere);
            let entries = views.map(|(view, is_there)| (entry(view), is_there));
            entries.collect::<Vec<_>>()
        });
        found.into_iter().flatten().collect()
    }
}

/// Whether a file that the table has no lock on is held all the same, by another name, or is not what was
/// read any more: who ends between the table and the file, or the file and the table, leaves a word.
fn needs_a_look(found: &Found<'_>, contents: &Contents) -> bool {
    // Where that cannot be told, a look says why.
    view::goes_on(contents).unwrap_or(true)
        || matches!(view::left_behind(contents), State::Crashed) && !found.is_still_there()
}

/// A file whose run is over.
fn over(path: PathBuf, contents: Contents) -> View {
    View {
        path,
        state: view::left_behind(&contents),
        contents,
    }
}

fn held_view(holder: Holder, is_there: bool) -> Option<View> {
    let record = holder.record()?.clone();
    let path = record.path();
    let contents = Contents::Record(Box::new(record));
    let state = match &contents {
        Contents::Record(record) if record.end.is_some() => State::Locked(Sighting::Ending(holder)),
        _ if is_there || holder.is_in_another_root() => State::Locked(Sighting::Proven(holder)),
        _ => State::Removed(holder),
    };
    Some(View {
        path,
        state,
        contents,
    })
}

/// With whether its file is at its path, here.
fn view_elsewhere(found: held::Found) -> Option<(View, bool)> {
    let holder = &found.holder;
    let path = holder.record()?.path();
    let is_there = FileId::at(&path).is_ok_and(|id| id == holder.file());
    let is_known = is_there || view::is_elsewhere(holder, &path);
    let is_credible = is_known || found.can_have_been_at(&path);
    let view = is_credible.then(|| held_view(found.holder, is_known));
    Some((view??, is_there))
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
