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

use crate::file_id::FileId;
use crate::lock::{OpenFile, Try};
use crate::{Result, sys};

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

    /// Tries the lock on the file as it was opened for the seat: the path is to be compared with it
    /// afterwards. Never waits. Who gets it leaves the seat; who does not keeps it.
    ///
    /// # Errors
    /// As [`OpenFile::try_lock`].
    pub fn try_lock(self) -> Result<Try<Self>> {
        match self.file.try_lock()? {
            Try::Locked(locked) => {
                // What cannot be left was none: there are no such locks here.
                let _ = sys::free_byte_locks(&*locked, FIRST);
                Ok(Try::Locked(locked))
            }
            Try::Busy(file) => Ok(Try::Busy(Self { file })),
        }
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
    fn who_gets_the_lock_leaves_the_seat_and_who_does_not_keeps_it() {
        let room = tempfile::tempdir().unwrap();
        let path = room.path().join("gateway.pid");
        let open = || OpenFile::open_or_create(&path).unwrap();
        let sit = || Seat::take(open()).unwrap();
        let row = [sit(), sit(), sit()];
        let Try::Locked(_locked) = sit().try_lock().unwrap() else {
            panic!("nobody else has it");
        };
        let Try::Busy(_kept) = sit().try_lock().unwrap() else {
            panic!("it is locked");
        };
        assert!(Seat::take(open()).is_none());
        drop(row);
        assert!(Seat::take(open()).is_some());
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
