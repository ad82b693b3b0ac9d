//! What a crashed holder's payload left behind: found, pinned, proven, ended, awaited.
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
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::bystanders::Bystanders;
use crate::lock::{Authority, OpenFile};
use crate::marks::{gateway_of, has_run_id};
use crate::process::{self, Environ, Pid, Pinned, Stat};
use crate::record::{self, Contents, Record};
use crate::signal::Signal;
use crate::variables::PID_FILE;
use crate::wait::{Interrupt, nap};
use crate::{Error, Result, holder};

/// The kernel is about to kill a crashed gateway's command by itself (the parent-death signal): what
/// ends so soon is neither asked nor mentioned.
const KERNELS_TURN: Duration = Duration::from_millis(50);

/// How long survivors get between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_secs(5);

/// How long a dying process that may not even belong to the run goes unmentioned.
const UNNAMED: Duration = Duration::from_secs(2);

/// A dying process that may not even belong to the run is waited for no longer.
const LONGEST_DOUBT: Duration = Duration::from_secs(15);

/// A sweep is told of at least this often, so that a service manager extends its time limit.
const TELL_AGAIN: Duration = Duration::from_secs(5);

/// At most this many looks are taken until one finds nobody and no process was born during it.
const MOST_LOOKS: u32 = 40;

/// New survivors may be born while the known ones die.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// Whoever has ended a holder gives what it left at least so long, whatever the deadline.
pub const LEAST_TIME: Duration = Duration::from_secs(1);

/// What somebody in a hurry keeps of its time for the killed to be gone.
const LAST_BREATH: Duration = Duration::from_millis(500);

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

    fn who(&self) -> (Pid, u64) {
        (self.pid(), self.start_time)
    }

    fn is_gone(&self) -> bool {
        self.pinned.exited()
    }

    /// Whether it was sent: it may be gone, or not be ours to signal.
    fn signal(&self, signal: Signal) -> bool {
        let same = Stat::of(self.pid()).is_some_and(|stat| stat.start_time == self.start_time);
        self.tie.is_sure() && same && self.pinned.signal(signal).is_ok()
    }
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

    /// Looks for them now, among all but the bystanders. `newest` is the pid that was handed out last
    /// before.
    ///
    /// # Errors
    /// Somebody could not be looked at just now: that does not mean that nobody is left.
    pub fn survivors(&self, bystanders: &mut Bystanders, newest: Option<Pid>) -> io::Result<Found> {
        let mut found = Found::default();
        if !self.may_have_survivors() {
            return Ok(found);
        }
        let family = bystanders.all_others(newest)?;
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
            .map(|stat| (*stat, self.tie_of_heir(stat)));
        for (stat, tie) in tied.iter().copied().chain(heirs) {
            found.pin(stat, tie)?;
            if found.more {
                break;
            }
        }
        Ok(found)
    }

    fn tie_of_heir(&self, stat: &Stat) -> Tie {
        if self.may_end(stat) {
            Tie::Marked
        } else {
            Tie::Barred
        }
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
        Ok(sorted)
    }

    fn tie(&self, stat: &Stat) -> io::Result<Look> {
        let recorded = self
            .record
            .is_some_and(|record| is_payload_of(record, stat));
        if recorded && self.may_end(stat) {
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
        Ok(match Environ::look(stat.pid)? {
            Some(environ) if !environ.is_empty() => self.tie_by(&environ, stat, record),
            _ if record.is_some_and(|record| may_have_belonged(record, stat)) => {
                Look::Tied(Tie::Exiting)
            }
            Some(_) => Look::Unclear,
            None if recorded => Look::Tied(Tie::Barred),
            None => Look::Stranger,
        })
    }

    fn tie_by(&self, environ: &Environ, stat: &Stat, record: Option<&Record>) -> Look {
        let by_id = record.is_some_and(|record| is_marked_by(record, environ));
        if by_id && self.may_end(stat) || self.is_ours_by_path(stat, environ) {
            Look::Tied(Tie::Marked)
        } else if by_id {
            Look::Tied(Tie::Barred)
        } else {
            Look::Stranger
        }
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
    let crashed = record.boot_id == process::boot_id()? && (ended || !holder::still_runs(record));
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
    let same = |payload: &record::Payload| {
        (payload.pid, payload.start_time) == (stat.pid, stat.start_time)
    };
    record.payload.as_ref().is_some_and(same) && holder::numbers_mean_the_same(record)
}

fn is_marked_by(record: &Record, environ: &Environ) -> bool {
    has_run_id(environ, &record.run_id) && same_invocation(environ, record)
}

/// A process with another `INVOCATION_ID` was started by a service manager, and not by the payload.
/// One without any was not: a service manager always sets it (systemd.exec(5)).
fn same_invocation(environ: &Environ, record: &Record) -> bool {
    let ours = record.invocation_id.as_deref().map(str::as_bytes);
    environ
        .get("INVOCATION_ID")
        .is_none_or(|theirs| Some(theirs) == ours)
}

/// On its way out, and of a user whose processes the run could have had. It is looked at again: it
/// may have been killed since.
fn may_have_belonged(record: &Record, stat: &Stat) -> bool {
    let eligible = || record.uid == 0 || process::uid(stat.pid) == Some(record.uid);
    let leaving =
        |now: Stat| now.start_time == stat.start_time && now.is_exiting() && !now.is_dead();
    eligible() && Stat::of(stat.pid).is_some_and(leaving)
}

/// How long the survivors may take.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// The end of the sweep, whoever is left; none: no end.
    pub deadline: Option<Instant>,
    /// Whether they are killed in time for the deadline, even before their five seconds are over:
    /// nobody runs any more, so to leave them to the next start would help nobody.
    pub hurry: bool,
}

impl Patience {
    fn is_over(&self) -> bool {
        self.deadline
            .is_some_and(|deadline| Instant::now() >= deadline)
    }

    /// How long they get between SIGTERM and SIGKILL.
    fn grace(&self) -> Duration {
        let left = |deadline: Instant| {
            let left = deadline.saturating_duration_since(Instant::now());
            left.saturating_sub(LAST_BREATH)
        };
        self.deadline
            .filter(|_| self.hurry)
            .map_or(GRACE, |deadline| GRACE.min(left(deadline)))
    }
}

/// What became of them.
#[derive(Debug)]
pub enum Swept {
    /// Nobody is left. These were ended.
    Clean(Vec<Ended>),
    /// The caller was interrupted first.
    Interrupted,
    /// These could not be ended in time, or are our own ancestors.
    Stuck {
        /// Who is left.
        left: Vec<Survivor>,
        /// One of them is our own ancestor.
        own_ancestor: bool,
    },
}

/// A survivor that was ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ended {
    /// Its pid.
    pub pid: Pid,
    /// Its command line.
    pub argv: Vec<OsString>,
}

/// Ends what is left: SIGTERM, after five seconds SIGKILL, until nobody is left or the patience is
/// over. Waits so long, and no longer; `interrupt` ends it.
///
/// `told` hears of the ones that are waited for, whenever there is something to say.
///
/// # Errors
/// Until the deadline they could not be looked for.
pub fn sweep(
    run: &Run<'_>,
    bystanders: &mut Bystanders,
    patience: Patience,
    interrupt: &mut dyn Interrupt,
    told: &mut dyn FnMut(&[Survivor]),
) -> Result<Swept> {
    let mut sweep = Sweep::begin(run, bystanders, patience);
    loop {
        if let Some(swept) = sweep.turn(told)? {
            return Ok(swept);
        }
        sweep.doze(interrupt);
        if interrupt.interrupted() {
            return Ok(Swept::Interrupted);
        }
    }
}

struct Sweep<'a> {
    run: &'a Run<'a>,
    bystanders: &'a mut Bystanders,
    patience: Patience,
    grace: Duration,
    began: Instant,
    /// Who was found and is not gone: whoever descends from one that has ended by now is not found
    /// a second time.
    left: Vec<Survivor>,
    unsure: Unsure,
    asked: Vec<Ended>,
    killing: bool,
    tell_at: Duration,
    looks: u32,
    /// The pid that had been handed out last before the last look, if nobody was born during it.
    quiet_since: Option<Pid>,
    blind: bool,
}

impl<'a> Sweep<'a> {
    fn begin(run: &'a Run<'a>, bystanders: &'a mut Bystanders, patience: Patience) -> Self {
        Self {
            run,
            bystanders,
            patience,
            grace: patience.grace(),
            began: Instant::now(),
            left: Vec::new(),
            unsure: Unsure::default(),
            asked: Vec::new(),
            killing: false,
            tell_at: UNNAMED,
            looks: 0,
            quiet_since: None,
            blind: false,
        }
    }

    /// Looks, and does what is due. `None`: not over yet.
    fn turn(&mut self, told: &mut dyn FnMut(&[Survivor])) -> Result<Option<Swept>> {
        if !self.is_known_to_be_over() && !self.look_until_quiet()? {
            return Ok(None);
        }
        if self.left.is_empty() {
            return Ok(Some(Swept::Clean(std::mem::take(&mut self.asked))));
        }
        if let Some(stuck) = self.stuck() {
            return Ok(Some(stuck));
        }
        self.press(told);
        Ok(None)
    }

    /// Everybody of the last look is gone, and nobody was born since it began.
    fn is_known_to_be_over(&mut self) -> bool {
        let newest = self.quiet_since;
        let over = newest.is_some() && self.left.iter().all(Survivor::is_gone);
        if over && newest == process::newest() {
            self.left.clear();
            return true;
        }
        false
    }

    /// Somebody may have been born behind the look's back, and its parent have ended before it: only
    /// a look during which nobody was born is sure. On a busy machine none is. `false`: look later.
    fn look_until_quiet(&mut self) -> Result<bool> {
        loop {
            let before = process::newest();
            let Some(whole) = self.look(before)? else {
                return Ok(false);
            };
            self.looks += 1;
            let quiet = |before: &Pid| whole && process::newest() == Some(*before);
            self.quiet_since = before.filter(quiet);
            let again = self.left.is_empty()
                && self.quiet_since.is_none()
                && self.looks < MOST_LOOKS
                && self.run.may_have_survivors();
            if !again {
                return Ok(true);
            }
        }
    }

    /// Finds who is left now, and tells whether that is everybody. `None`: it could not be looked,
    /// and nobody is known.
    fn look(&mut self, newest: Option<Pid>) -> Result<Option<bool>> {
        self.left.retain(|survivor| !survivor.is_gone());
        self.blind = false;
        let mut whole = false;
        match self.run.survivors(self.bystanders, newest) {
            Ok(found) => {
                whole = !found.more;
                self.meet(found.survivors);
            }
            // To end those who are known makes room to look for others.
            Err(_) if !self.left.is_empty() => {}
            Err(error) if self.patience.is_over() => {
                let what = "cannot look through /proc for what a crashed run left";
                return Err(Error::system(what).because(error));
            }
            Err(_) => {
                self.blind = true;
                return Ok(None);
            }
        }
        if self.patience.is_over() || self.began.elapsed() >= LONGEST_DOUBT {
            // One that only may have belonged to the run neither ends the start nor keeps it.
            self.left.retain(|survivor| survivor.tie != Tie::Exiting);
        }
        Ok(Some(whole))
    }

    fn meet(&mut self, mut found: Vec<Survivor>) {
        self.unsure.keep(&mut found);
        let sure = |survivor: &Survivor| survivor.tie != Tie::Exiting;
        let missed = std::mem::take(&mut self.left).into_iter();
        let missed = missed.filter(|known| {
            sure(known) && !found.iter().any(|survivor| survivor.who() == known.who())
        });
        let missed: Vec<Survivor> = missed.collect();
        self.left = found;
        self.left.extend(missed);
    }

    fn stuck(&mut self) -> Option<Swept> {
        let sure = || self.left.iter().filter(|survivor| survivor.tie.is_sure());
        let ancestors = sure()
            .next()
            .map_or_else(Vec::new, |_| process::ancestors());
        let own_ancestor = sure().any(|survivor| ancestors.contains(&survivor.pid()));
        if !own_ancestor && !self.patience.is_over() {
            return None;
        }
        Some(Swept::Stuck {
            left: std::mem::take(&mut self.left),
            own_ancestor,
        })
    }

    fn press(&mut self, told: &mut dyn FnMut(&[Survivor])) {
        let elapsed = self.began.elapsed();
        let first = self.asked.is_empty();
        let kill = elapsed >= self.grace;
        if elapsed >= KERNELS_TURN {
            for survivor in self.left.iter().filter(|survivor| survivor.tie.is_sure()) {
                press_one(survivor, kill, &mut self.asked);
            }
        }
        let began_to_ask = first && !self.asked.is_empty();
        let began_to_kill = kill && !std::mem::replace(&mut self.killing, kill);
        if began_to_ask || began_to_kill || elapsed >= self.tell_at {
            self.tell_at = elapsed + TELL_AGAIN;
            told(&self.left);
        }
    }

    fn doze(&self, interrupt: &dyn Interrupt) {
        let elapsed = self.began.elapsed();
        let until = |at: Duration| at.checked_sub(elapsed).filter(|left| !left.is_zero());
        let deadline = self.patience.deadline.map_or(LOOK_AGAIN, |deadline| {
            deadline.saturating_duration_since(Instant::now())
        });
        let limit = if self.blind { KERNELS_TURN } else { LOOK_AGAIN };
        let limit = [until(KERNELS_TURN), until(self.grace), Some(deadline)]
            .into_iter()
            .flatten()
            .fold(limit, Duration::min);
        // Any end wakes us: the others may take longer.
        let fds = self.left.iter().map(|survivor| survivor.pinned.as_fd());
        nap(fds, limit, interrupt);
    }
}

fn press_one(survivor: &Survivor, kill: bool, asked: &mut Vec<Ended>) {
    let known = asked.iter().any(|ended| ended.pid == survivor.pid());
    if kill {
        survivor.signal(Signal::KILL);
    } else if !known && survivor.signal(Signal::TERM) {
        // Within a session SIGCONT reaches even those whom nothing else may (kill(2)).
        survivor.signal(Signal::CONT);
    }
    if !known {
        asked.push(Ended {
            pid: survivor.pid(),
            argv: survivor.command(),
        });
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
            survivor.tie != Tie::Exiting || !closed || self.known.contains(&survivor.who())
        });
        let unsure = left.iter().filter(|survivor| survivor.tie == Tie::Exiting);
        self.known = unsure.map(Survivor::who).collect();
        self.closed = left.iter().all(|survivor| survivor.tie == Tie::Exiting);
    }
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
}
