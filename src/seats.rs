//! The front seats of a line of standbys: who sits in one is woken by the holder's end.
//!
//! Whoever polls the holder's pidfd is woken when it ends, and all but one in vain: a thousand
//! standbys would take the processors from the one that has won. So only a few poll it. Who they are
//! is told by locks on single bytes far behind the end of the pid file (open file description locks,
//! fcntl(2)), one for each seat: the kernel frees them however their owner ends, and they and
//! flock(2) do not see each other.
//!
//! Who has no seat looks once a second, and sits down where a seat has become free. So a seat whose
//! owner is stopped costs the line a second at most, and nobody the lock.

use crate::lock::{FileId, OpenFile};
use crate::sys;

/// So many wake together: enough that one of them can act, and too few to be in each other's way.
const SEATS: i64 = 4;

/// The byte of the first seat. No file is as long.
const FIRST: i64 = 1 << 62;

/// A seat in the front row, until this is dropped.
#[derive(Debug)]
pub struct Seat {
    file: OpenFile,
}

impl Seat {
    /// Sits down, if a seat is free. Never waits. Where the file system has no such locks everybody
    /// sits in front.
    pub fn take(file: OpenFile) -> Option<Self> {
        let free = |seat| !matches!(sys::try_byte_lock(&file, FIRST + seat), Ok(false));
        (0..SEATS).any(free).then_some(Self { file })
    }

    /// The file before which it stands.
    #[must_use]
    pub fn file(&self) -> FileId {
        self.file.id()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_sit_in_front_and_whoever_leaves_makes_room() {
        let room = tempfile::tempdir().unwrap();
        let path = room.path().join("gateway.pid");
        let take = || Seat::take(OpenFile::open_or_create(&path).unwrap());
        let mut seats: Vec<Seat> = (0..SEATS).map(|_| take().unwrap()).collect();
        assert!(take().is_none());
        seats.remove(1);
        assert!(take().is_some());
        let other = room.path().join("other.pid");
        assert!(Seat::take(OpenFile::open_or_create(&other).unwrap()).is_some());
    }

    #[test]
    fn a_seat_is_no_lock_on_the_pid_file() {
        let room = tempfile::tempdir().unwrap();
        let path = room.path().join("gateway.pid");
        let _seat = Seat::take(OpenFile::open_or_create(&path).unwrap()).unwrap();
        let file = OpenFile::open_or_create(&path).unwrap();
        assert!(!file.is_locked().unwrap());
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 0);
    }
}
