//! What a crashed holder's payload left behind: found, pinned, proven, ended, awaited.
//!
//! The kernel frees a killed gateway's lock before its payload has heard of it, and a large process
//! needs long to die. So whoever takes the lock after a crash first makes sure that it is alone.
//!
//! A process belongs to the crashed run if it is the recorded payload (pid, start time and boot id),
//! if it has the run id in the environment it was started with, or if it descends from such a one.
//! A process that is being killed loses its environment at once, but keeps its descriptors for
//! long; one that may belong to the run is awaited, and never signalled.

use std::ffi::OsString;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::lock::{Authority, OpenFile};
use crate::process::{self, Environ, Family, Pid, Pinned, Signal, Stat};
use crate::record::{self, Contents, Record};
use crate::wait::{Interrupt, Watched, sleep};
use crate::{Result, holder};

/// The payload's own pid file, in its environment.
pub const PID_FILE: &str = "GATEWAY_PID_FILE";
/// The gateway's pid, in the payload's environment.
pub const PID: &str = "GATEWAY_PID";
/// The run ids of the gateways above a process, outermost first, joined by `:`.
pub const RUN_ID: &str = "GATEWAY_RUN_ID";
/// The generation, in the payload's environment.
pub const GENERATION: &str = "GATEWAY_GENERATION";

/// The kernel is about to kill a crashed gateway's command by itself (the parent-death signal): what
/// ends so soon is neither asked nor mentioned.
const KERNELS_TURN: Duration = Duration::from_millis(50);

/// How long survivors get between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_secs(5);

/// How long a dying process that may not even belong to the run goes unmentioned.
const UNNAMED: Duration = Duration::from_secs(2);

/// A dying process that may not even belong to the run is waited for no longer.
const LONGEST_DOUBT: Duration = Duration::from_secs(15);

/// A long sweep is spoken of so often: whoever counts on hearing of it does not give up on us.
const TELL_AGAIN: Duration = Duration::from_secs(5);

/// So many looks are taken, at the most, until one finds nobody and sees no birth.
const MOST_LOOKS: u32 = 40;

/// New survivors may be born while the known ones die.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// How a process came to be counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tie {
    /// It is the recorded payload.
    Payload,
    /// It has the run id, or descends from one that has.
    Marked,
    /// It is on its way out, and nobody can tell any more whether it belonged to the run.
    Exiting,
}

impl Tie {
    /// Whether it is to be ended, and not only awaited.
    fn is_sure(self) -> bool {
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

    fn pin(stat: &Stat, tie: Tie) -> io::Result<Option<Self>> {
        let Some(pinned) = Pinned::open(stat.pid)? else {
            return Ok(None);
        };
        // Looked at again behind the pidfd: the number may have been handed on since.
        let again = Stat::look(stat.pid)?.filter(|again| again.start_time == stat.start_time);
        Ok(again.map(|stat| Self {
            pinned,
            start_time: stat.start_time,
            tie,
            argv: process::argv(stat.pid),
            name: stat.name,
        }))
    }

    fn signal(&self, signal: Signal) {
        let same = Stat::of(self.pid()).is_some_and(|stat| stat.start_time == self.start_time);
        if self.tie.is_sure() && same {
            let _ = self.pinned.signal(signal);
        }
    }
}

/// Those without an environment are looked at so often more, with so long in between.
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
    /// Without a record of this very file the search goes by the path.
    by_path: Option<&'a Path>,
    authority: Authority,
}

impl<'a> Run<'a> {
    /// The last run of a pid file that holds `last`.
    ///
    /// # Errors
    /// `/proc` cannot be read.
    pub fn of(file: &'a OpenFile, last: &'a Contents) -> Result<Self> {
        // A copy of another record, or an old file that is back, says nothing about the last run.
        let own = file.names_itself(last) && !file.was_moved()?;
        let by_path = (!own).then(|| file.path());
        Self::new(last, by_path, file.authority()?)
    }

    /// The run that a proven holder recorded.
    ///
    /// # Errors
    /// `/proc` cannot be read.
    pub fn of_holder(record: &'a Contents, uid: u32) -> Result<Self> {
        Self::new(record, None, Authority::Over(uid))
    }

    fn new(last: &'a Contents, by_path: Option<&'a Path>, authority: Authority) -> Result<Self> {
        let crashed = |record: &&Record| record.end.is_none() && !record.exec;
        let is_crash = |record: &Record| -> Result<bool> {
            Ok(record.boot_id == process::boot_id()? && !holder::still_runs(record))
        };
        let record = match last.record().filter(crashed) {
            Some(record) if is_crash(record)? => Some(record),
            _ => None,
        };
        Ok(Self {
            record,
            by_path,
            authority,
        })
    }

    /// Whether it may have left anything.
    #[must_use]
    pub fn may_have_survivors(&self) -> bool {
        self.record.is_some() || self.by_path.is_some()
    }

    /// Looks for them now.
    ///
    /// # Errors
    /// Somebody could not be looked at just now: that does not mean that nobody is left.
    pub fn survivors(&self) -> io::Result<Vec<Survivor>> {
        let mut found = Vec::new();
        if !self.may_have_survivors() {
            return Ok(found);
        }
        let family = Family::now()?;
        let this = Pid::this();
        let tied = self.tied(
            family
                .members()
                .filter(|stat| stat.pid != this && !stat.is_dead()),
        )?;
        let sure = tied.iter().filter(|(_, tie)| tie.is_sure());
        let roots: Vec<Pid> = sure.map(|(stat, _)| stat.pid).collect();
        let known = |pid| tied.iter().any(|(stat, _)| stat.pid == pid);
        let heirs = family.descendants(&roots, &[this]).into_iter();
        let heirs = heirs.filter(|stat| !stat.is_dead() && !known(stat.pid) && self.may_end(stat));
        for (stat, tie) in tied
            .iter()
            .copied()
            .chain(heirs.map(|stat| (stat, Tie::Marked)))
        {
            found.extend(Survivor::pin(stat, tie)?);
        }
        Ok(found)
    }

    /// Who belongs to the run. Those without an environment are looked at some times more, all
    /// together, because most of them will have one in a moment.
    fn tied<'f>(
        &self,
        members: impl Iterator<Item = &'f Stat>,
    ) -> io::Result<Vec<(&'f Stat, Tie)>> {
        let mut tied = Vec::new();
        let mut unclear: Vec<&Stat> = members.collect();
        for round in 0..=ROUNDS {
            let mut still = Vec::new();
            for stat in unclear {
                match self.tie(stat)? {
                    Look::Tied(tie) => tied.push((stat, tie)),
                    Look::Stranger => {}
                    Look::Unclear => still.push(stat),
                }
            }
            unclear = still;
            if unclear.is_empty() || round == ROUNDS {
                break;
            }
            std::thread::sleep(ROUND);
        }
        Ok(tied)
    }

    fn tie(&self, stat: &Stat) -> io::Result<Look> {
        if self
            .record
            .is_some_and(|record| is_payload_of(record, stat))
            && self.may_end(stat)
        {
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
        let looked = Environ::look(stat.pid)?;
        let readable = looked.is_some();
        let Some(environ) = looked.filter(|environ| !environ.is_empty()) else {
            let leaving = record.is_some_and(|record| may_have_belonged(record, stat));
            return Ok(match (leaving, readable) {
                (true, _) => Look::Tied(Tie::Exiting),
                (false, true) => Look::Unclear,
                (false, false) => Look::Stranger,
            });
        };
        let by_id =
            record.is_some_and(|record| is_marked_by(record, &environ) && self.may_end(stat));
        let ours = by_id || self.is_ours_by_path(stat, &environ);
        Ok(if ours {
            Look::Tied(Tie::Marked)
        } else {
            Look::Stranger
        })
    }

    /// Pids, start times and run ids can be read off any process: they prove nothing about who wrote
    /// them. A file speaks only for the processes of those who could have written it.
    fn may_end(&self, stat: &Stat) -> bool {
        match self.authority {
            Authority::OverAll => true,
            Authority::Over(uid) => process::uid(stat.pid) == Some(uid),
        }
    }

    /// Started for this very pid file, by a gateway that is certainly gone. Paths and numbers mean
    /// what they say only in our own pid namespace and where the directory is the same.
    fn is_ours_by_path(&self, stat: &Stat, environ: &Environ) -> bool {
        let Some(path) = self.by_path else {
            return false;
        };
        environ.get(PID_FILE) == Some(path.as_os_str().as_bytes())
            && process::pid_namespace(stat.pid)
                .is_some_and(|theirs| process::own_pid_namespace() == Some(theirs))
            && holder::sees_our_directory(stat.pid, path)
            && gateway_of(environ).is_some_and(|pid| is_gone(pid, stat))
    }
}

fn gateway_of(environ: &Environ) -> Option<Pid> {
    Pid::new(std::str::from_utf8(environ.get(PID)?).ok()?.parse().ok()?)
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
    let same = |payload: &record::Payload| {
        (payload.pid, payload.start_time) == (stat.pid, stat.start_time)
    };
    record.payload.as_ref().is_some_and(same) && holder::numbers_mean_the_same(record)
}

fn is_marked_by(record: &Record, environ: &Environ) -> bool {
    has_run_id(environ, &record.run_id) && same_invocation(environ, record)
}

/// Whether a process was started under the run of this id.
#[must_use]
pub fn is_marked(pid: Pid, run_id: &str) -> bool {
    Environ::look(pid)
        .ok()
        .flatten()
        .is_some_and(|environ| has_run_id(&environ, run_id))
}

fn has_run_id(environ: &Environ, run_id: &str) -> bool {
    environ.get(RUN_ID).is_some_and(|ids| {
        ids.split(|byte| *byte == b':')
            .any(|id| id == run_id.as_bytes())
    })
}

/// A process with another `INVOCATION_ID` was started by a service manager: not by the payload.
fn same_invocation(environ: &Environ, record: &Record) -> bool {
    environ.get("INVOCATION_ID") == record.invocation_id.as_deref().map(str::as_bytes)
}

/// On its way out, and of a user whose processes the run could have had. It is looked at again: it
/// may have been killed since.
fn may_have_belonged(record: &Record, stat: &Stat) -> bool {
    let eligible = || record.uid == 0 || process::uid(stat.pid) == Some(record.uid);
    let leaving =
        |now: Stat| now.start_time == stat.start_time && now.is_exiting() && !now.is_dead();
    eligible() && Stat::of(stat.pid).is_some_and(leaving)
}

/// What became of them.
#[derive(Debug)]
pub enum Swept {
    /// Nobody is left. These were ended.
    Clean(Vec<Ended>),
    /// The caller was interrupted first.
    Interrupted,
    /// These could not be ended in time, or are our own ancestors.
    Stuck(Vec<Survivor>),
    /// Until the deadline they could not be looked for.
    Blind(io::Error),
}

/// A survivor that was ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ended {
    /// Its pid.
    pub pid: Pid,
    /// Its command line.
    pub argv: Vec<OsString>,
}

/// Ends what is left: SIGTERM, after five seconds SIGKILL, until nobody is left or `deadline`.
///
/// `told` hears of the ones that are waited for, whenever there is something to say.
pub fn sweep(
    run: &Run<'_>,
    deadline: Option<Instant>,
    interrupt: &mut dyn Interrupt,
    told: &mut dyn FnMut(&[Survivor]),
) -> Swept {
    let began = Instant::now();
    let ancestors = process::ancestors();
    let mut asked: Vec<Ended> = Vec::new();
    let mut tell_at = UNNAMED;
    let (mut looks, mut births) = (1, 0);
    let mut unsure = Unsure::default();
    loop {
        let overdue = deadline.is_some_and(|deadline| Instant::now() >= deadline);
        let newest = process::newest();
        let mut left = match run.survivors() {
            Ok(left) => left,
            Err(error) if overdue => return Swept::Blind(error),
            Err(_) => {
                sleep(
                    interrupt.descriptor().map(Watched::Readable),
                    Some(KERNELS_TURN),
                );
                if interrupt.interrupted() {
                    return Swept::Interrupted;
                }
                continue;
            }
        };
        unsure.keep(&mut left);
        if overdue || began.elapsed() >= LONGEST_DOUBT {
            // One that only may have belonged to the run neither ends the start nor keeps it.
            left.retain(|survivor| survivor.tie != Tie::Exiting);
        }
        if left.is_empty() {
            // Somebody may have been born behind the look's back, and its parent have ended before
            // it: only a look during which nobody was born is sure. On a busy machine none is.
            births += u32::from(newest != process::newest());
            if births == looks && looks < MOST_LOOKS && run.may_have_survivors() {
                looks += 1;
                continue;
            }
            return Swept::Clean(asked);
        }
        let own = left
            .iter()
            .any(|survivor| survivor.tie.is_sure() && ancestors.contains(&survivor.pid()));
        if overdue || own {
            return Swept::Stuck(left);
        }
        let asked_before = asked.len();
        if began.elapsed() >= KERNELS_TURN {
            press(&left, began, &mut asked);
        }
        if asked.len() > asked_before || began.elapsed() >= tell_at {
            tell_at = began.elapsed() + TELL_AGAIN;
            told(&left);
        }
        doze(&left, began, deadline, interrupt);
        if interrupt.interrupted() {
            return Swept::Interrupted;
        }
    }
}

/// The dying processes that may belong to the run: those of the first look, and of every look while
/// sure ones lived to bear them. Later ones are strangers: on a busy machine somebody always dies.
#[derive(Default)]
struct Unsure {
    known: Vec<(Pid, u64)>,
    closed: bool,
}

impl Unsure {
    fn keep(&mut self, left: &mut Vec<Survivor>) {
        let closed = self.closed;
        left.retain(|survivor| {
            let who = (survivor.pid(), survivor.start_time);
            survivor.tie != Tie::Exiting || !closed || self.known.contains(&who)
        });
        let unsure = left.iter().filter(|survivor| survivor.tie == Tie::Exiting);
        self.known = unsure
            .map(|survivor| (survivor.pid(), survivor.start_time))
            .collect();
        self.closed = left.iter().all(|survivor| survivor.tie == Tie::Exiting);
    }
}

fn press(left: &[Survivor], began: Instant, asked: &mut Vec<Ended>) {
    let due = began.elapsed() >= GRACE;
    for survivor in left.iter().filter(|survivor| survivor.tie.is_sure()) {
        let known = asked.iter().any(|ended| ended.pid == survivor.pid());
        if due {
            survivor.signal(Signal::KILL);
        } else if !known {
            survivor.signal(Signal::TERM);
            survivor.signal(Signal::CONT);
        }
        if !known {
            asked.push(Ended {
                pid: survivor.pid(),
                argv: survivor.command(),
            });
        }
    }
}

fn doze(
    left: &[Survivor],
    began: Instant,
    deadline: Option<Instant>,
    interrupt: &mut dyn Interrupt,
) {
    let until_kill = GRACE.checked_sub(began.elapsed()).unwrap_or(LOOK_AGAIN);
    let until_deadline = deadline.map_or(LOOK_AGAIN, |deadline| {
        deadline.saturating_duration_since(Instant::now())
    });
    let until_turn = KERNELS_TURN
        .checked_sub(began.elapsed())
        .unwrap_or(LOOK_AGAIN);
    let longest = interrupt.longest_sleep().unwrap_or(LOOK_AGAIN);
    let limit = LOOK_AGAIN
        .min(until_kill)
        .min(until_turn)
        .min(until_deadline)
        .min(longest);
    // A process is not gone when its pidfd is readable for others in the list: any end wakes us.
    let fds = left
        .iter()
        .take(256)
        .map(|survivor| Watched::Readable(survivor.pinned.as_fd()));
    sleep(
        fds.chain(interrupt.descriptor().map(Watched::Readable)),
        Some(limit),
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::tests::example;

    #[test]
    fn a_run_id_is_a_member_of_a_list() {
        let id = example().run_id;
        let list = format!("{RUN_ID}=ffff:{id}:0000\0");
        assert!(has_run_id(&Environ::from_bytes(list.as_bytes()), &id));
        let longer = format!("{RUN_ID}={id}0\0");
        assert!(!has_run_id(&Environ::from_bytes(longer.as_bytes()), &id));
    }

    #[test]
    fn another_invocation_was_started_by_a_service_manager() {
        let with = Environ::from_bytes(b"INVOCATION_ID=abc\0");
        let without = Environ::from_bytes(b"X=1\0");
        let none = example();
        let some = Record {
            invocation_id: Some("abc".into()),
            ..example()
        };
        assert!(same_invocation(&without, &none) && same_invocation(&with, &some));
        assert!(!same_invocation(&with, &none) && !same_invocation(&without, &some));
    }

    #[test]
    fn an_ended_run_another_boot_and_an_exec_leave_nothing_to_look_for() {
        let asked = |record: Record| {
            let contents = Contents::Record(Box::new(record));
            Run::of_holder(&contents, 0).unwrap().may_have_survivors()
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
            Run::of(&file, &Contents::Empty)
                .unwrap()
                .may_have_survivors()
        );
        let other = Contents::decode(&example().encode());
        assert!(
            Run::of(&file, &other).unwrap().may_have_survivors(),
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
}
