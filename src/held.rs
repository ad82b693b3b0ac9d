//! The files that processes have locked, and the gateways behind them: found where no path leads.

use std::cell::OnceCell;
use std::io;
use std::path::Path;
use std::sync::OnceLock;

use crate::descriptors::{LockedFile, locked_files};
use crate::file_id::{Features, FileId};
use crate::holder::{self, Holder, Locker, Sighting, is_gateway};
use crate::kernel_locks::{parse_locks, table_of_locks};
use crate::mounts::Mounts;
use crate::process::{self, Pid};
use crate::process_table;
use crate::procfs::{is_shortage, unless_absent};
use crate::record::{Contents, Record};
use crate::roots::{has_our_root, seen_by, sees_our_directory};
use crate::wait::Interrupt;
use crate::{Error, Result};

/// A process that took the exclusive lock on a file, with what is written in that.
struct Held {
    file: LockedFile,
    contents: Contents,
}

impl Held {
    fn pid(&self) -> Pid {
        self.file.pid
    }

    /// The gateway that holds this file, if the record in it names the file and the process.
    fn holder(&self) -> Option<Holder> {
        let record = self.contents.record()?;
        holder::prove_taker(self.pid(), record, self.file.features.id)
    }
}

/// The files of one process that are worth it, opened and read. One that cannot be read says nothing:
/// anybody may lock one, and must not keep others from starting by that.
fn files_held_by(
    pid: Pid,
    worth: impl Fn(&LockedFile) -> io::Result<bool>,
) -> io::Result<Vec<Held>> {
    let mut held = Vec::new();
    for file in locked_files(pid)? {
        if !worth(&file)? {
            continue;
        }
        let contents = match unless_absent(file.read()) {
            Err(error) if !is_shortage(&error) => Some(Contents::Empty),
            looked => looked?,
        };
        held.extend(contents.map(|contents| Held { file, contents }));
    }
    Ok(held)
}

/// A live holder of an earlier file of this path: removed, renamed away, or replaced.
///
/// It took the lock itself, its record must name the file it holds and our path, and its directory
/// must be the one that our file is in, seen from its own root: link texts and device numbers alike
/// coincide between containers. The file must be of somebody who can have made it there, and so must
/// the process, unless the file is private. A gateway on
/// a removed file of this path without such a record is starting, or its record was overwritten: it
/// will look at the path itself. Whom we may not look at is not found: the manual says so. Nor is who
/// has a file of a server or of a FUSE program, unless our directory is on that, too.
///
/// Looks at everything that everybody has open, of which anybody may have very much; `interrupt` ends that.
///
/// # Errors
/// Somebody could not be looked at just now, and might be it; or it was interrupted.
pub fn holder_of_earlier_file(
    path: &Path,
    file: Option<FileId>,
    interrupt: &mut dyn Interrupt,
) -> Result<Option<Sighting>> {
    let cannot = |error| {
        Error::system("cannot look through /proc for the holder of an earlier pid file")
            .because(error)
            .advise("where /proc is missing, mount it (mount -t proc proc /proc)")
    };
    let name = Name::of(path);
    let this = Pid::this();
    let mut starting = None;
    for pid in process_table::all()
        .map_err(cannot)?
        .into_iter()
        .filter(|pid| *pid != this)
    {
        if interrupt.interrupted() {
            return Err(Error::interrupted());
        }
        let worth = |found: &LockedFile| {
            Ok(Some(found.features.id) != file
                && name.may_have_had(found)?
                && name.will_answer(found))
        };
        for held in files_held_by(pid, worth).map_err(cannot)? {
            if name.is_of(&held) {
                let alive =
                    |holder: &Holder| holder.record().is_some_and(|record| record.end.is_none());
                if let Some(holder) = held.holder().filter(alive) {
                    return Ok(Some(Sighting::Proven(holder)));
                }
            } else if name.was_of_undescribed(&held) {
                starting = Some(Sighting::Starting(Locker::now(pid, false)));
            }
        }
    }
    Ok(starting)
}

/// The pid file's name, and the directory that it is a name in.
struct Name<'a> {
    path: &'a Path,
    directory: Option<Features>,
    /// Read when it is needed.
    mounts: OnceCell<Mounts>,
}

impl<'a> Name<'a> {
    fn of(path: &'a Path) -> Self {
        Self {
            path,
            directory: path.parent().and_then(|parent| Features::at(parent).ok()),
            mounts: OnceCell::new(),
        }
    }

    /// Whether a file can have had this name, as far as is known without opening it.
    fn may_have_had(&self, found: &LockedFile) -> io::Result<bool> {
        let owned = self.can_be_made_by(found.features.owner);
        Ok(owned && self.is_locked_by_right(found)? || self.was_removed_here(found))
    }

    /// Nobody but its owner can have opened a file that only its owner may open, whoever the process has
    /// become since. One that others may open, too, is of its owner by name alone: root has many, of which
    /// some say what others want them to. Then it is the process that must be of somebody who can have
    /// made the file here.
    fn is_locked_by_right(&self, found: &LockedFile) -> io::Result<bool> {
        let of = |uids: [u32; 4]| uids.iter().all(|uid| self.can_be_made_by(*uid));
        Ok(found.features.mode & 0o077 == 0 || process::uids(found.pid)?.is_some_and(of))
    }

    /// Root, the directory's owner, and we; anybody where others may write it, too. Everybody else can
    /// lock a file of their own and write our path into it, and must not keep us from starting by that.
    fn can_be_made_by(&self, owner: u32) -> bool {
        let in_directory =
            |directory: Features| directory.owner == owner || directory.mode & 0o022 != 0;
        owner == 0
            || owner == rustix::process::geteuid().as_raw()
            || self.directory.is_some_and(in_directory)
    }

    /// The directory may be another one by now, or the file was given to its owner: the kernel's word
    /// is as good.
    fn was_removed_here(&self, found: &LockedFile) -> bool {
        found.was_removed_from(self.path) && found.has_a_true_path()
    }

    /// Whether to open it asks nobody whom we do not depend on anyway.
    fn will_answer(&self, found: &LockedFile) -> bool {
        let dev = found.features.id.dev;
        self.directory
            .is_some_and(|directory| directory.id.dev == dev)
            || !found.is_remote(self.mounts.get_or_init(Mounts::ours))
    }

    /// A gateway on a removed file of this name that has not described itself.
    fn was_of_undescribed(&self, held: &Held) -> bool {
        held.file.was_removed_from(self.path)
            && held.contents.record().is_none()
            && is_gateway(held.pid())
            && sees_our_directory(held.pid(), self.path)
    }

    fn is_of(&self, held: &Held) -> bool {
        let Some(record) = held.contents.record() else {
            return false;
        };
        let theirs = record.path();
        if theirs.file_name() != self.path.file_name() {
            return false;
        }
        match (self.directory, theirs.parent()) {
            (Some(directory), Some(parent)) => {
                FileId::at(&seen_by(held.pid(), parent)).is_ok_and(|id| id == directory.id)
            }
            // The directory is gone, too: the path means the same where the root is the same.
            (None, _) => theirs == self.path && has_our_root(held.pid()),
            (Some(_), None) => false,
        }
    }
}

/// Each of these once, and not ourselves.
pub(crate) fn others_among(mut pids: Vec<Pid>) -> Vec<Pid> {
    pids.sort_unstable();
    pids.dedup();
    pids.retain(|pid| *pid != Pid::this());
    pids
}

/// A search for gateways among many processes.
#[derive(Default)]
pub(crate) struct Search {
    /// Read when it is needed.
    mounts: OnceLock<Mounts>,
}

impl Search {
    /// What a process holds as a gateway. Nothing where it may not be looked at.
    pub(crate) fn held_by(&self, pid: Pid) -> Vec<Found> {
        // A dead server must not keep the others from being found. That it is a gateway's file is no
        // reason to ask it: anybody may run one on a file of a program that never answers.
        let is_remote = |file: &LockedFile| file.is_remote(self.mounts.get_or_init(Mounts::ours));
        let held = files_held_by(pid, |file| Ok(!is_remote(file)));
        let found = held.into_iter().flatten().filter_map(Found::of);
        found.collect()
    }
}

/// A gateway that was found by its lock.
pub(crate) struct Found {
    pub holder: Holder,
    file: LockedFile,
}

impl Found {
    fn of(held: Held) -> Option<Self> {
        let holder = held.holder()?;
        let file = held.file;
        Some(Self { holder, file })
    }

    /// Whether its file can have been at this path: anybody can lock a file of their own and write any path
    /// into it. Where the directory is gone, too, what is left of the way to it tells.
    pub(crate) fn can_have_been_at(&self, path: &Path) -> bool {
        let mut name = Name::of(path);
        let mut above = path.ancestors().skip(2);
        let left = || above.find_map(|directory| Features::at(directory).ok());
        name.directory = name.directory.or_else(left);
        name.may_have_had(&self.file).unwrap_or(false)
    }
}

/// Whether the run that wrote the record goes on: then the record is a copy, and no crash. A gateway takes its
/// lock itself, so the kernel's table names it, also where its numbers are those of another pid namespace.
///
/// # Errors
/// That cannot be told just now.
pub fn still_runs(record: &Record) -> Result<bool> {
    if holder::numbers_mean_the_same(record) {
        return holder::lives(record);
    }
    let table = table_of_locks()?;
    let takers = parse_locks(&table).map(|line| line.pid).collect();
    for pid in others_among(takers) {
        if holder::is_writer(pid, record)? {
            return Ok(true);
        }
    }
    Ok(false)
}
