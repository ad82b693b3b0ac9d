//! Standing in line: what a standby has done by the time the holder ends, and what it need not do.
//!
//! A thousand may stand behind one holder for months, and each looks once a second: what that look
//! costs is what the line costs. Only the front row is woken by the holder's end ([`crate::seats`]). For
//! whoever sits there, the proof of before is good enough to go on waiting as long as the path names the
//! same file, somebody has its lock, the same bytes are in it and the pinned process lives. Whoever has
//! no seat need not know at once who holds: it tries the lock, and looks for a seat.
//!
//! Nobody is signalled on that: a signal is preceded by a proof of its own
//! ([`Holder::signal`](crate::holder::Holder::signal)).

use std::path::Path;
use std::time::{Duration, Instant};

use crate::Result;
use crate::bystanders::Bystanders;
use crate::file_id::FileId;
use crate::holder::{Holder, Sighting};
use crate::lock::{Locked, OpenFile, Try};
use crate::record::{Contents, Record};
use crate::seats::Seat;

/// The holder is proven again after so long, whatever it looks like: it may have closed its lock and
/// live on, and whoever has the lock now not have written. Without a seat a standby learns of a new
/// holder no sooner.
const PROVE_AGAIN: Duration = Duration::from_secs(10);

/// What a standby finds when it looks again.
#[derive(Debug)]
pub enum Again {
    /// Nothing that concerns it: this file is at the path, and somebody has the lock.
    Same(OpenFile),
    /// Something that must be looked at properly.
    Changed,
    /// The lock.
    Mine(Locked),
}

/// A place in line.
#[derive(Debug, Default)]
pub struct Standby {
    seat: Option<Seat>,
    observed: Option<Observed>,
    /// What the holder had written whose end we were woken by.
    ended: Option<Record>,
}

impl Standby {
    /// Remembers how this holder was proven, just now and of this file.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn observe(&mut self, who: &Sighting, file: &OpenFile) -> Result<()> {
        self.observed = Observed::of(who, file)?;
        Ok(())
    }

    /// Sits down, if it can, and does now what would cost time when the holder has ended.
    pub fn prepare(&mut self, who: &Sighting, file: OpenFile, bystanders: &mut Bystanders) {
        let Sighting::Proven(holder) = who else {
            return;
        };
        if self.seat.as_ref().map(Seat::file) != Some(file.id()) {
            self.seat = Seat::take(file);
        }
        let lives = || !holder.has_ended();
        let record = holder.record().filter(|_| lives());
        if let (Some(_), Some(record)) = (&self.seat, record) {
            bystanders.note(holder.pid(), record, &lives);
        }
    }

    /// Whether the holder's end is to wake us. In a line it wakes the front row alone.
    #[must_use]
    pub fn is_called(&self) -> bool {
        self.seat.is_some()
    }

    /// Tries the lock, and tells whether there is anything that concerns us.
    ///
    /// # Errors
    /// The pid file cannot be opened, tried or read.
    pub fn look_again(&mut self, who: &Sighting, path: &Path) -> Result<Again> {
        if self.is_called() && who.has_ended() {
            self.ended = who.holder().and_then(Holder::record).cloned();
            return self.rise(path);
        }
        let Some(observed) = self.observed.as_ref().filter(|known| known.is_recent()) else {
            return Ok(Again::Changed);
        };
        let file = match OpenFile::open_or_create(path)?.try_lock()? {
            Try::Locked(locked) => return Ok(Again::Mine(locked)),
            Try::Busy(file) => file,
        };
        let same =
            observed.file == file.id() && (!self.is_called() || observed.is_still_in(&file)?);
        Ok(if same {
            Again::Same(file)
        } else {
            Again::Changed
        })
    }

    /// Tries the lock on what is open already, if the path leads there still.
    fn rise(&mut self, path: &Path) -> Result<Again> {
        let here = |seat: &mut Seat| FileId::at(path).is_ok_and(|id| id == seat.file());
        match self.seat.take_if(here).map(Seat::try_lock).transpose()? {
            Some(Try::Locked(locked)) => return Ok(Again::Mine(locked)),
            Some(Try::Busy(seat)) => self.seat = Some(seat),
            None => {}
        }
        Ok(Again::Changed)
    }

    /// What these bytes say, if that was found out when the holder was proven.
    #[must_use]
    pub fn known(&self, bytes: &[u8]) -> Option<&Contents> {
        let observed = self.observed.as_ref()?;
        (observed.bytes == bytes).then_some(&observed.contents)
    }

    /// Whether we were woken by the end of the gateway that wrote this.
    #[must_use]
    pub fn saw_the_end_of(&self, last: &Contents) -> bool {
        let ended = self.ended.as_ref().zip(last.record());
        ended.is_some_and(|(ended, last)| ended.is_of_the_same_run(last))
    }
}

/// What was seen when the holder was proven.
#[derive(Debug)]
struct Observed {
    file: FileId,
    bytes: Vec<u8>,
    contents: Contents,
    proven: Instant,
}

impl Observed {
    /// `None`: nobody is proven, or not by what is in the file now.
    fn of(who: &Sighting, file: &OpenFile) -> Result<Option<Self>> {
        let Sighting::Proven(holder) = who else {
            return Ok(None);
        };
        let bytes = file.bytes()?;
        let contents = Contents::decode(&bytes);
        let same = holder.record().is_some() && contents.record() == holder.record();
        Ok(same.then(|| Self {
            file: file.id(),
            bytes,
            contents,
            proven: Instant::now(),
        }))
    }

    fn is_recent(&self) -> bool {
        self.proven.elapsed() < PROVE_AGAIN
    }

    fn is_still_in(&self, file: &OpenFile) -> Result<bool> {
        Ok(file.bytes()? == self.bytes)
    }
}
