//! What a crashed holder's payload left behind: found, pinned and proven; [`crate::sweep`] ends it.
//!
//! The kernel frees a killed gateway's lock before its payload has heard of it, and a large process
//! needs long to die. So whoever takes the lock after a crash first makes sure that it is alone.
//!
//! A process belongs to the crashed run if it is the recorded payload (pid, start time and boot id),
//! if it has the run id in the environment it was started with, or if it descends from such a one.
//! A process that is being killed loses its environment at once (`exit_mm` in the kernel's
//! `kernel/exit.c`), but keeps its descriptors for long; one that may belong to the run is awaited,
//! and never signalled.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use crate::bystanders::Bystanders;
use crate::lock::{Authority, OpenFile};
use crate::marks::{gateway_of, has_run_id};
use crate::process::{self, Environ, Identity, Pid, Pinned, Stat};
use crate::record::{self, Contents, Record};
use crate::roots::sees_our_directory;
use crate::signal::Signal;
use crate::variables::PID_FILE;
use crate::{Error, Result, held, holder};

/// No more survivors than this are pinned at a time: each costs a descriptor.
const MOST_PINNED: usize = 256;

/// Descriptors that are left for looking at those who are pinned.
const SPARE: usize = 8;

/// How a process came to be counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tie {
    /// It is the recorded payload.
    Payload,
    /// It was started under the run, or descends from such a process.
    Marked,
    /// Likewise, by a record that others could have written: it is awaited, and not ended.
    Barred,
    /// It is on its way out, or in the middle of becoming another program, and nobody can tell whether it
    /// belongs to the run.
    Unsure,
}

impl Tie {
    /// Whether it is to be ended, and not only awaited.
    pub(crate) fn is_sure(self) -> bool {
        matches!(self, Self::Payload | Self::Marked)
    }
}

/// A process that is left.
#[derive(Debug)]
pub struct Survivor {
    pinned: Pinned,
    start_time: u64,
    tie: Tie,
    name: OsString,
    argv: Vec<OsString>,
}

impl Survivor {
    /// Its pid.
    #[must_use]
    pub fn pid(&self) -> Pid {
        self.pinned.pid()
    }

    /// Its command line; its name where it has lost that.
    #[must_use]
    pub fn command(&self) -> Vec<OsString> {
        if self.argv.is_empty() {
            vec![self.name.clone()]
        } else {
            self.argv.clone()
        }
    }

    /// Its state now, as ps(1) prints it.
    #[must_use]
    pub fn state(&self) -> char {
        Stat::of(self.pid()).map_or('X', |stat| stat.state as char)
    }

    /// `None`: it is gone.
    pub(crate) fn pin(stat: &Stat, tie: Tie) -> io::Result<Option<Self>> {
        let Some(pinned) = Pinned::open_shown(stat.pid)? else {
            return Ok(None);
        };
        // Looked at again behind the pidfd: the number may have been handed on since.
        Ok(stat.again()?.map(|stat| Self {
            pinned,
            start_time: stat.start_time,
            tie,
            argv: process::argv(stat.pid),
            name: stat.name,
        }))
    }

    /// Who it is.
    pub(crate) fn identity(&self) -> Identity {
        self.pid().started(self.start_time)
    }

    pub(crate) fn is_gone(&self) -> bool {
        self.pinned.exited()
    }

    /// How it came to be counted.
    pub(crate) fn tie(&self) -> Tie {
        self.tie
    }

    /// Its pidfd: readable once it has ended.
    pub(crate) fn pidfd(&self) -> BorrowedFd<'_> {
        self.pinned.as_fd()
    }

    /// Whether it was sent: it may be gone, or not be ours to signal.
    pub(crate) fn signal(&self, signal: Signal) -> bool {
        let same = Stat::of_same(self.identity()).is_some();
        self.tie.is_sure() && same && self.pinned.signal(signal).is_ok()
    }
}

/// What still runs of a crashed run, by the pid file at `path` and what is written there: what the next start
/// ends. Looks through everybody; ends nobody. May wait for a process that nobody can look at because it is
/// stuck in the kernel.
///
/// # Errors
/// The file cannot be opened, or somebody could not be looked at.
pub fn left_by(path: &Path, last: &Contents) -> Result<Vec<Survivor>> {
    let Some(file) = OpenFile::open_existing(path)? else {
        return Ok(Vec::new());
    };
    let run = Run::of(&file, last, false)?;
    if !run.may_have_survivors() {
        return Ok(Vec::new());
    }
    let found = run
        .survivors(&mut Bystanders::unknown())
        .map_err(cannot_look)?;
    let sure = found.survivors.into_iter().filter(|one| one.tie.is_sure());
    Ok(sure.collect())
}

/// Why the survivors cannot be told.
pub(crate) fn cannot_look(error: io::Error) -> Error {
    Error::system("cannot look through /proc for what a crashed run left").because(error)
}

/// How many more times a process without an environment is looked at, and how far apart.
const ROUNDS: u32 = 6;
const ROUND: Duration = Duration::from_millis(1);

/// What a look at one process says.
enum Look {
    Tied(Tie),
    Stranger,
    Unclear,
}

/// What is known of the run whose survivors are looked for.
#[derive(Clone, Debug)]
pub struct Run<'a> {
    /// The crashed run's record: nothing is left of an ordered end or across a reboot, and a record
    /// whose gateway lives is a copy. What became the command (`--exec`) was never watched.
    record: Option<&'a Record>,
    /// Where the record is not of this very file, or others could have written it, the search goes
    /// by the path as well: what a process was started with is beyond their reach.
    by_path: Option<&'a Path>,
    authority: Authority,
}

impl<'a> Run<'a> {
    /// The last run of a pid file that holds `last`; `ended`: its gateway is known to be gone.
    ///
    /// # Errors
    /// `/proc` cannot be read.
    pub fn of(file: &'a OpenFile, last: &'a Contents, ended: bool) -> Result<Self> {
        // A copy of another record, or an old file that is back, says nothing about the last run.
        let own = file.names_itself(last) && !file.was_moved()?;
        let record = crashed(last, ended)?;
        let authority = file.authority()?;
        let doubted = record.is_some() && authority != Authority::OverAll;
        Ok(Self {
            record,
            by_path: (!own || doubted).then(|| file.path()),
            authority,
        })
    }

    /// The run that a proven holder with this effective uid recorded for a file that is not at
    /// `path` any more.
    ///
    /// # Errors
    /// `/proc` cannot be read.
    pub fn of_holder(record: &'a Contents, path: &'a Path, uid: u32) -> Result<Self> {
        Ok(Self {
            record: crashed(record, false)?,
            by_path: Some(path),
            authority: Authority::Over(uid),
        })
    }

    /// Whether it may have left anything.
    #[must_use]
    pub fn may_have_survivors(&self) -> bool {
        self.record.is_some() || self.by_path.is_some()
    }

    /// Looks for them now, among all but the bystanders.
    ///
    /// # Errors
    /// Somebody could not be looked at just now: that does not mean that nobody is left.
    pub fn survivors(&self, bystanders: &mut Bystanders) -> io::Result<Found> {
        let mut found = Found::default();
        let family = bystanders.all_others()?;
        let this = Pid::this();
        let living = family
            .members()
            .filter(|stat| stat.pid != this && !stat.is_dead());
        let Sorted { tied, strangers } = self.sort(living)?;
        let sure = tied.iter().filter(|(_, tie)| tie.is_sure());
        let roots: Vec<Pid> = sure.map(|(stat, _)| stat.pid).collect();
        let heirs = family.descendants(&roots, &[this]);
        let is = |known: &Stat, stat: &Stat| known.pid == stat.pid;
        let is_tied = |stat: &Stat| tied.iter().any(|(known, _)| is(known, stat));
        let is_heir = |stat: &Stat| heirs.iter().any(|heir| is(heir, stat));
        bystanders.learn(strangers.into_iter().filter(|stat| !is_heir(stat)));
        let heirs = heirs
            .iter()
            .filter(|stat| !stat.is_dead() && !is_tied(stat))
            .map(|stat| (*stat, None));
        let tied = tied.iter().map(|(stat, tie)| (*stat, Some(*tie)));
        for (stat, tie) in tied.chain(heirs) {
            let tie = tie.map_or_else(|| self.tie_of_heir(stat), Ok)?;
            found.pin(stat, tie)?;
            if found.more {
                break;
            }
        }
        Ok(found)
    }

    /// Of who descends from somebody that certainly belongs to the run. Where the file speaks for nobody,
    /// that was known without it, and descent is the kernel's word.
    fn tie_of_heir(&self, stat: &Stat) -> io::Result<Tie> {
        let ours = self.authority == Authority::OverNobody || self.may_end(stat)?;
        Ok(if ours { Tie::Marked } else { Tie::Barred })
    }

    /// Who belongs to the run, and who does not. Those without an environment are looked at some
    /// times more, all together, because most of them will have one in a moment.
    fn sort<'f>(&self, members: impl Iterator<Item = &'f Stat>) -> io::Result<Sorted<'f>> {
        let mut sorted = Sorted::default();
        let mut unclear: Vec<&Stat> = members.collect();
        for round in 0..=ROUNDS {
            let mut still = Vec::new();
            for stat in unclear {
                match self.tie(stat)? {
                    Look::Tied(tie) => sorted.tied.push((stat, tie)),
                    Look::Stranger => sorted.strangers.push(stat),
                    Look::Unclear => still.push(stat),
                }
            }
            unclear = still;
            if unclear.is_empty() || round == ROUNDS {
                break;
            }
            std::thread::sleep(ROUND);
        }
        for stat in unclear {
            if self.may_turn_out_to_belong(stat)? {
                sorted.tied.push((stat, Tie::Unsure));
            }
        }
        Ok(sorted)
    }

    /// A disk may keep a process in the middle of execve(2) for long: until it is through, its
    /// environment is empty, as that of a process which was started without one.
    fn may_turn_out_to_belong(&self, stat: &Stat) -> io::Result<bool> {
        let eligible = |record| is_of_an_eligible_user(record, stat);
        let becomes_another = stat.again()?.is_some_and(|now| now.is_becoming_another());
        Ok(becomes_another && self.record.is_none_or(eligible))
    }

    fn tie(&self, stat: &Stat) -> io::Result<Look> {
        let recorded = self
            .record
            .is_some_and(|record| is_payload_of(record, stat));
        if recorded && self.may_end(stat)? {
            return Ok(Look::Tied(Tie::Payload));
        }
        // The kernel's own threads have no environment, and are nobody's.
        if stat.is_kernel_thread() {
            return Ok(Look::Stranger);
        }
        // Nobody older than the gateway can have its run id.
        let record = self
            .record
            .filter(|record| stat.start_time >= record.start_time);
        if record.is_none() && self.by_path.is_none() {
            return Ok(Look::Stranger);
        }
        // A process without memory has an empty one, or, on newer kernels, none (ESRCH).
        let look = match Environ::look(stat.pid)? {
            Some(environ) if !environ.is_empty() => self.tie_by(&environ, stat, record)?,
            _ if record.is_some_and(|record| may_have_belonged(record, stat)) => {
                Look::Tied(Tie::Unsure)
            }
            Some(_) => Look::Unclear,
            None => Look::Stranger,
        };
        Ok(match look {
            // The file does not speak for it, and it may have cleared its environment.
            Look::Stranger | Look::Unclear if recorded => Look::Tied(Tie::Barred),
            look => look,
        })
    }

    fn tie_by(&self, environ: &Environ, stat: &Stat, record: Option<&Record>) -> io::Result<Look> {
        let by_id = record.is_some_and(|record| is_marked_by(record, environ));
        let ours = by_id && self.may_end(stat)? || self.is_ours_by_path(stat, environ);
        Ok(if ours {
            Look::Tied(Tie::Marked)
        } else if by_id {
            Look::Tied(Tie::Barred)
        } else {
            Look::Stranger
        })
    }

    /// Pids, start times and run ids can be read off any process: they prove nothing about who wrote
    /// them. A file speaks only for the processes of who alone could have written it.
    fn may_end(&self, stat: &Stat) -> io::Result<bool> {
        Ok(match self.authority {
            Authority::OverAll => true,
            // A daemon of root's that acts as this user for a moment is still root's.
            Authority::Over(uid) => process::uids(stat.pid)? == Some([uid; 4]),
            Authority::OverNobody => false,
        })
    }

    /// Started for this very pid file, by a gateway that is certainly gone. Paths and numbers mean
    /// what they say only in our own pid namespace and where the directory is the same.
    fn is_ours_by_path(&self, stat: &Stat, environ: &Environ) -> bool {
        let Some(path) = self.by_path else {
            return false;
        };
        environ.get(PID_FILE) == Some(path.as_os_str().as_bytes())
            && process::pid_namespace(stat.pid)
                .is_ok_and(|theirs| theirs.is_some() && theirs == process::own_pid_namespace())
            && sees_our_directory(stat.pid, path)
            && gateway_of(environ).is_some_and(|pid| is_gone(pid, stat))
    }
}

/// Everybody who was looked at, but for those about whom nothing can be said.
#[derive(Default)]
struct Sorted<'f> {
    tied: Vec<(&'f Stat, Tie)>,
    strangers: Vec<&'f Stat>,
}

/// What a look found.
#[derive(Debug, Default)]
pub struct Found {
    /// These.
    pub survivors: Vec<Survivor>,
    /// There are others, and no descriptors to pin them all.
    pub more: bool,
}

impl Found {
    fn pin(&mut self, stat: &Stat, tie: Tie) -> io::Result<()> {
        if self.survivors.len() == MOST_PINNED {
            self.more = true;
            return Ok(());
        }
        match Survivor::pin(stat, tie) {
            Ok(survivor) => self.survivors.extend(survivor),
            Err(error) if is_out_of_descriptors(&error) && self.survivors.len() > SPARE => {
                self.survivors.truncate(self.survivors.len() - SPARE);
                self.more = true;
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

fn is_out_of_descriptors(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}

/// The record, if it is that of a run which crashed since the host came up.
fn crashed(last: &Contents, ended: bool) -> Result<Option<&Record>> {
    let unended = |record: &&Record| record.end.is_none() && !record.exec;
    let Some(record) = last.record().filter(unended) else {
        return Ok(None);
    };
    let crashed = record.boot_id == process::boot_id()? && (ended || !held::still_runs(record)?);
    Ok(crashed.then_some(record))
}

/// Whether the gateway that started this process is gone: nobody has its number, or somebody who is
/// younger than the process. Whoever cannot be looked at may be it.
fn is_gone(gateway: Pid, started: &Stat) -> bool {
    match Pinned::open(gateway) {
        Ok(None) => true,
        Ok(Some(pinned)) if pinned.exited() => true,
        Ok(Some(_)) => Stat::of(gateway).is_some_and(|now| now.start_time > started.start_time),
        Err(_) => false,
    }
}

fn is_payload_of(record: &Record, stat: &Stat) -> bool {
    let same = |payload: &record::Payload| payload.identity() == stat.identity();
    record.payload.as_ref().is_some_and(same) && holder::numbers_mean_the_same(record)
}

fn is_marked_by(record: &Record, environ: &Environ) -> bool {
    has_run_id(environ, &record.run_id) && same_invocation(environ, record)
}

/// A process with another `INVOCATION_ID` was started by a service manager, and not by the payload.
/// One without any was not: a service manager always sets it (systemd.exec(5)).
fn same_invocation(environ: &Environ, record: &Record) -> bool {
    let ours = record.invocation_id.as_deref().map(str::as_bytes);
    let theirs = environ.get("INVOCATION_ID");
    let theirs = theirs.filter(|theirs| record::is_invocation_id(theirs));
    theirs.is_none_or(|theirs| Some(theirs) == ours)
}

/// On its way out, and of a user whose processes the run could have had. It is looked at again: it
/// may have been killed since.
fn may_have_belonged(record: &Record, stat: &Stat) -> bool {
    let leaving = |now: Stat| now.is_exiting() && !now.is_dead();
    let now = || stat.again().ok().flatten();
    is_of_an_eligible_user(record, stat) && now().is_some_and(leaving)
}

fn is_of_an_eligible_user(record: &Record, stat: &Stat) -> bool {
    record.uid == 0 || process::uid(stat.pid) == Some(record.uid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::tests::example;

    #[test]
    fn another_invocation_was_started_by_a_service_manager() {
        let with = Environ::from_bytes(b"INVOCATION_ID=abc\0");
        let without = Environ::from_bytes(b"X=1\0");
        let none = example();
        let some = Record {
            invocation_id: Some("abc".into()),
            ..example()
        };
        let other = Environ::from_bytes(b"INVOCATION_ID=def\0");
        assert!(same_invocation(&without, &none) && same_invocation(&with, &some));
        assert!(!same_invocation(&with, &none) && !same_invocation(&other, &some));
        assert!(same_invocation(&without, &some), "a payload may drop it");
    }

    #[test]
    fn an_ended_run_another_boot_and_an_exec_leave_nothing_to_look_for() {
        let asked = |record: Record| {
            crashed(&Contents::Record(Box::new(record)), false)
                .unwrap()
                .is_some()
        };
        let here = process::boot_id().unwrap();
        assert!(!asked(example()));
        assert!(asked(Record {
            boot_id: here.clone(),
            ..example()
        }));
        assert!(!asked(Record {
            boot_id: here,
            exec: true,
            ..example()
        }));
    }

    #[test]
    fn a_file_without_a_record_of_its_own_is_searched_by_its_path() {
        let room = tempfile::tempdir().unwrap();
        let file = OpenFile::open_or_create(&room.path().join("gateway.pid")).unwrap();
        assert!(
            Run::of(&file, &Contents::Empty, false)
                .unwrap()
                .may_have_survivors()
        );
        let other = Contents::decode(&example().encode());
        assert!(
            Run::of(&file, &other, false).unwrap().may_have_survivors(),
            "somebody else's record"
        );
    }

    #[test]
    fn a_gateway_is_gone_when_its_number_is_free_or_somebody_younger_has_it() {
        let this = Stat::of_this().unwrap();
        let older = Stat {
            start_time: this.start_time - 1,
            ..this.clone()
        };
        assert!(!is_gone(this.pid, &this));
        assert!(is_gone(this.pid, &older));
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = Pid::new(child.id().into()).unwrap();
        child.wait().unwrap();
        assert!(is_gone(pid, &this));
    }

    /// Nobody may collect it for long, as where a container has no proper first process.
    #[test]
    fn a_gateway_that_nobody_has_collected_is_gone() {
        let this = Stat::of_this().unwrap();
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = Pid::new(child.id().into()).unwrap();
        let born_later = Stat {
            start_time: u64::MAX,
            ..this
        };
        let pinned = Pinned::open(pid).unwrap().expect("it is not collected");
        crate::wait::sleep([crate::wait::Watched::Readable(pinned.as_fd())], None);
        assert!(Stat::of(pid).is_some_and(|stat| stat.is_dead()));
        assert!(is_gone(pid, &born_later));
        child.wait().unwrap();
    }
}
