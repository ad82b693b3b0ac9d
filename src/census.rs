//! Every gateway that can be seen, and every pid file in some places, in one go.
//!
//! The kernel's table of locks is read once. A file that nobody has locked is what is written in it;
//! one whose record names the taker in the table is held by it; only the others are looked at one by
//! one, as `status` does.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use crate::held;
use crate::holder::{self, Holder};
use crate::kernel_locks::{
    LockLine, parse_locks, parse_shared_locks, printed_device, table_of_locks,
};
use crate::lock::{FileId, open_unseen};
use crate::place::FILE_NAME;
use crate::record::{Contents, MAX_SIZE};
use crate::unusable::may_be_pid_file;
use crate::view::{self, State, View};
use crate::{Error, ErrorKind, Result};

/// A file that makes no sense is read so often: it may be in the middle of being written.
const TRIES: u32 = 5;

/// Every gateway that can be seen, by its lock, and every pid file in the given directories and one
/// level below them, in the order of their paths. Waits for nobody.
///
/// # Errors
/// `/proc` cannot be read.
pub fn list(places: &[PathBuf]) -> Result<Vec<View>> {
    if !Path::new("/proc/self").exists() {
        return Err(Error::new(ErrorKind::System, "cannot read /proc")
            .advise("mount it (mount -t proc proc /proc)"));
    }
    let table = table_of_locks();
    let mut census = Census::of(&table);
    let mut views: Vec<View> = Vec::new();
    for place in places {
        views.extend(census.take_in(place));
    }
    views.extend(census.others().filter_map(view_elsewhere));
    let key = |view: &View| view.path.as_os_str().to_owned();
    views.sort_by_cached_key(key);
    // Two containers may each have one at the same path.
    let pid = |view: &View| view.state.holder().map(Holder::pid);
    views.dedup_by(|one, other| {
        one.path == other.path && one.state.name() == other.state.name() && pid(one) == pid(other)
    });
    Ok(views)
}

/// The kernel's table of locks, and which lines of it are explained by a file that was found.
struct Census<'t> {
    lines: Vec<(LockLine<'t>, bool)>,
    by_inode: HashMap<u64, Vec<usize>>,
    /// Inodes on which somebody has a shared lock.
    shared: HashSet<u64>,
    /// What the table calls a file system, by `st_dev`.
    devices: HashMap<u64, String>,
}

impl<'t> Census<'t> {
    fn of(table: &'t [u8]) -> Self {
        let lines: Vec<_> = parse_locks(table).map(|line| (line, false)).collect();
        let mut by_inode: HashMap<u64, Vec<usize>> = HashMap::new();
        for (index, (line, _)) in lines.iter().enumerate() {
            by_inode.entry(line.inode).or_default().push(index);
        }
        Self {
            lines,
            by_inode,
            shared: parse_shared_locks(table).map(|line| line.inode).collect(),
            devices: HashMap::new(),
        }
    }

    /// `PLACE/gateway.pid` and `PLACE/NAME/gateway.pid`.
    fn take_in(&mut self, place: &Path) -> Vec<View> {
        let Some(mut directory) = Directory::open(place) else {
            return Vec::new();
        };
        let names = std::fs::read_dir(place).into_iter().flatten();
        let below =
            names.filter_map(|entry| Some(Path::new(&entry.ok()?.file_name()).join(FILE_NAME)));
        let files: Vec<PathBuf> = below.chain([PathBuf::from(FILE_NAME)]).collect();
        files
            .iter()
            .filter_map(|name| self.view(&mut directory, name))
            .collect()
    }

    fn view(&mut self, directory: &mut Directory, name: &Path) -> Option<View> {
        let path = directory.path.join(name);
        let Some(peeked) = directory.peek(name) else {
            return view::look_from_outside(&path);
        };
        let inode = peeked.id.inode;
        let Some(lines) = self.by_inode.get(&inode) else {
            if self.shared.contains(&inode) {
                return view::look(&path).ok();
            }
            let contents = peeked.contents;
            let state = view::unlocked(&contents);
            return Some(View {
                path,
                state,
                contents,
            });
        };
        let record = peeked.contents.record();
        let device = self
            .devices
            .entry(peeked.id.dev)
            .or_insert_with(|| printed_device(peeked.file.as_fd(), peeked.id.dev));
        for index in lines {
            let (line, explained) = &mut self.lines[*index];
            let record = record.filter(|_| line.device == device);
            let taker = |record| holder::named_taker(record, peeked.id, line.pid, device);
            if let Some(holder) = record.and_then(taker) {
                *explained = true;
                return held_view(holder, true);
            }
        }
        view::look(&path).ok()
    }

    /// The gateways behind the lines that no file has explained: their pid files lie elsewhere, or
    /// are not at their paths any more.
    fn others(self) -> impl Iterator<Item = Holder> {
        let unexplained = self.lines.into_iter().filter(|(_, explained)| !explained);
        held::holders_among(unexplained.map(|(line, _)| line.pid).collect())
    }
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

/// A directory of pid files, from which many are read.
struct Directory {
    path: PathBuf,
    opened: OwnedFd,
    buffer: Vec<u8>,
}

/// A pid file, and what is written in it.
struct Peeked {
    file: File,
    id: FileId,
    contents: Contents,
}

impl Directory {
    fn open(path: &Path) -> Option<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Some(Self {
            path: path.to_path_buf(),
            opened: rustix::fs::open(path, flags, Mode::empty()).ok()?,
            buffer: vec![0; 4096],
        })
    }

    /// `None`: no pid file, or none for us to read.
    fn peek(&mut self, name: &Path) -> Option<Peeked> {
        let file = open_unseen(self.opened.as_fd(), name, OFlags::RDONLY).ok()?;
        let stat = rustix::fs::fstat(&file).ok()?;
        if !may_be_pid_file(stat.st_mode, stat.st_size.unsigned_abs()) {
            return None;
        }
        Some(Peeked {
            id: FileId::of(&stat),
            contents: self.read(&file, stat.st_size.unsigned_abs())?,
            file,
        })
    }

    /// Reads until it makes sense, a few times: the writer may be in the middle of it.
    fn read(&mut self, file: &File, size: u64) -> Option<Contents> {
        let room = usize::try_from(size.min(MAX_SIZE)).ok()? + 1;
        self.buffer.resize(self.buffer.len().max(room), 0);
        let mut contents = Contents::Unreadable;
        for _ in 0..TRIES {
            let length = file.read_at(&mut self.buffer, 0).ok()?;
            contents = Contents::decode(&self.buffer[..length]);
            if contents != Contents::Unreadable {
                break;
            }
        }
        Some(contents)
    }
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

    #[test]
    fn a_file_of_any_length_is_read_whole_and_what_is_no_file_is_none() {
        let room = tempfile::tempdir().unwrap();
        let at = |name: &str| room.path().join(name);
        std::fs::create_dir(at("directory")).unwrap();
        std::os::unix::fs::symlink(at("short"), at("link")).unwrap();
        std::fs::write(at("short"), "77\n").unwrap();
        let padding = "x".repeat(9000);
        let long = format!("{{\"pid\":78,\"argv\":[\"{padding}\"]}}");
        std::fs::write(at("long"), long).unwrap();
        std::fs::write(at("large"), vec![b'1'; 70_000]).unwrap();
        let mut directory = Directory::open(room.path()).unwrap();
        let mut pid = |name: &str| match directory.peek(Path::new(name))?.contents {
            Contents::Hint(hint) => Some(hint.pid.get()),
            _ => None,
        };
        assert_eq!((pid("short"), pid("long")), (Some(77), Some(78)));
        for name in ["directory", "link", "large", "missing"] {
            assert_eq!(pid(name), None, "{name}");
        }
    }
}
