//! Ending the holder that is found, and not its successors.

use std::ops::ControlFlow;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::acquire::Refused;
use crate::bystanders::Bystanders;
use crate::file_id::FileId;
use crate::holder::{Holder, Sighting};
use crate::lock::{OpenFile, Try};
use crate::process::{Pid, Stat};
use crate::progress::{Progress, Told};
use crate::record::{self, Asker, Contents, End, Reason, Record};
use crate::request::{Former, Requests, Sent, standing};
use crate::signal::Signal;
use crate::survivors::{Run, Survivor};
use crate::sweep::{self, Patience, Swept};
use crate::takeover::{Bar, Mode, Refusal, Rules, START_PATIENCE, Seen, Step, Takeover};
use crate::text::Text;
use crate::view::{self, State, View};
use crate::wait::{Interrupt, Uninterrupted, Watched, nap, sleep};
use crate::{Result, process};

/// Between two looks at somebody who is not watched.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Nobody is told of a wait that is no longer than this.
const SOON: Duration = Duration::from_millis(500);

/// How long a process that has let go is given to be gone as well.
const LAST_STEPS: Duration = Duration::from_secs(1);

/// What became of it.
#[derive(Debug)]
pub enum Stopped {
    /// Nobody held, and nothing was left of anybody.
    Nothing(View),
    /// The holder is gone, with its payload.
    Gone(Box<Gone>),
    /// Nobody held, but a crashed run had left these; they were ended.
    Cleared(Vec<sweep::Ended>),
    /// It could not be.
    Refused(Refused),
    /// The caller interrupted the wait; whoever was asked will stop all the same.
    Interrupted(Vec<Former>),
}

/// A holder that was stopped.
#[derive(Debug)]
pub struct Gone {
    /// Who it was.
    pub holder: Former,
    /// What it left behind, and was ended.
    pub swept: Vec<sweep::Ended>,
    /// How long it took.
    pub after: Duration,
    /// Who has the lock now.
    pub successor: Option<Sighting>,
}

/// Stops the holder of the pid file at `path`: asks it, kills it when due, ends what it leaves.
///
/// # Errors
/// The pid file cannot be looked at, or the system refuses what proof needs.
pub fn stop(
    path: &Path,
    rules: Rules,
    interrupt: &mut dyn Interrupt,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Stopped> {
    let began = Instant::now();
    // Where there is no `/proc`, or one that shows others under our numbers, nobody can be found.
    Stat::of_this()?;
    let mut stopper = Stopper {
        path,
        interrupt,
        progress,
        began,
        takeover: Takeover::new(Rules {
            mode: Mode::Stop,
            ..rules
        }),
        asked: Requests::default(),
        told: Told::default(),
        lost_sight_of: None,
    };
    stopper.run()
}

struct Stopper<'a, 't> {
    path: &'a Path,
    interrupt: &'a mut dyn Interrupt,
    progress: &'a mut (dyn FnMut(Progress<'_>) + 't),
    began: Instant,
    takeover: Takeover,
    asked: Requests,
    told: Told,
    /// Whom we had in view, and who lives but does not hold that file any more, as far as is seen.
    lost_sight_of: Option<Target>,
}

/// The holder that is to be stopped, as far as it matters when it is gone.
struct Target {
    former: Former,
    file: FileId,
    uid: u32,
}

impl Target {
    fn of(holder: &Holder) -> Self {
        Self {
            former: Former::of(holder),
            file: holder.file(),
            // Of the process itself, not of what it wrote; and while it is there to be asked.
            uid: process::uid(holder.pid()).unwrap_or(u32::MAX),
        }
    }

    /// Whether the holder of now, if there is one, is certainly somebody else.
    fn is_gone(&self, now: &State) -> bool {
        match now.pid() {
            Some(pid) => pid != self.former.pid,
            None => !matches!(now, State::Locked(_)),
        }
    }
}

impl Stopper<'_, '_> {
    fn run(&mut self) -> Result<Stopped> {
        loop {
            let view = match view::look_again(self.path, self.interrupt) {
                Err(error) if error.is_interruption() && self.interrupt.interrupted() => {
                    return Ok(Stopped::Interrupted(self.asked.take()));
                }
                looked => looked?,
            };
            let is_gone = |target: &mut Target| target.is_gone(&view.state);
            if let Some(target) = self.lost_sight_of.take_if(is_gone) {
                return self.finish(target);
            }
            let who = match view.state {
                State::Free => return Ok(Stopped::Nothing(view)),
                State::Crashed => return self.clear(view),
                State::Removed(holder) => Sighting::Proven(holder),
                State::Locked(who) => who,
            };
            if who.holder().is_some() {
                if let Some(stopped) = self.end(who)? {
                    return Ok(stopped);
                }
            } else if let Some(refusal) = self.refusal(&who) {
                return Ok(self.refused(refusal, who));
            }
            nap(None, LOOK_AGAIN, self.interrupt);
            if self.interrupt.interrupted() {
                return Ok(Stopped::Interrupted(self.asked.take()));
            }
        }
    }

    /// Why to give up on somebody who is not proven to hold, if it is time to.
    fn refusal(&mut self, who: &Sighting) -> Option<Refusal> {
        let seen = Seen::Held(standing(who, Mode::Stop));
        match self.takeover.next(self.began.elapsed(), seen) {
            Step::Refuse(refusal) => Some(refusal),
            // There is nobody to ask.
            Step::Start | Step::Reopen | Step::Ask | Step::Kill | Step::Sleep(_) => None,
        }
    }

    /// Presses one proven holder until it is gone. `None`: it is not proven any more, and
    /// who holds is to be looked at anew.
    fn end(&mut self, who: Sighting) -> Result<Option<Stopped>> {
        let Some(holder) = who.holder() else {
            return Ok(None);
        };
        let target = Target::of(holder);
        while !holder.has_let_go() {
            match self.press(&who, holder)? {
                ControlFlow::Continue(()) => {}
                ControlFlow::Break(None) => {
                    self.lost_sight_of = (!self.asked.is_empty()).then_some(target);
                    return Ok(None);
                }
                ControlFlow::Break(Some(refusal)) => {
                    return Ok(Some(self.refused(refusal, who)));
                }
            }
            if self.interrupt.interrupted() {
                return Ok(Some(Stopped::Interrupted(self.asked.take())));
            }
        }
        doze_until_exit(holder);
        if holder.has_ended() {
            return self.finish(target).map(Some);
        }
        // It let go of this file, and lives: its file was removed or replaced, and it has put its claim
        // back on another one; or it is a command (`--exec`) that has closed the lock.
        self.lost_sight_of = Some(target);
        Ok(None)
    }

    /// Does the next step to a proven holder. `Break`: why there is none; for no reason, where it is
    /// not proven any more.
    fn press(&mut self, who: &Sighting, holder: &Holder) -> Result<ControlFlow<Option<Refusal>>> {
        let seen = Seen::Held(standing(who, Mode::Stop));
        let signal = match self.takeover.next(self.began.elapsed(), seen) {
            Step::Ask => Signal::TERM,
            Step::Kill => Signal::KILL,
            Step::Refuse(refusal) => return Ok(ControlFlow::Break(Some(refusal))),
            Step::Sleep(until) => {
                self.doze(who, holder, until);
                return Ok(ControlFlow::Continue(()));
            }
            Step::Start | Step::Reopen => return Ok(ControlFlow::Continue(())),
        };
        let (takeover, progress) = (&mut self.takeover, &mut *self.progress);
        Ok(match self.asked.send(signal, holder, takeover, progress)? {
            Sent::Yes => ControlFlow::Continue(()),
            Sent::Gone => ControlFlow::Break(None),
            Sent::Forbidden => ControlFlow::Break(Some(Refusal::Barred(Bar::NotPermitted))),
        })
    }

    fn doze(&mut self, who: &Sighting, holder: &Holder, until: Option<Duration>) {
        let elapsed = self.began.elapsed();
        let left = until.map(|until| until.saturating_sub(elapsed));
        if elapsed > SOON {
            self.told.waiting(who, left, self.progress);
        }
        let limit = left.unwrap_or(LAST_STEPS).min(LAST_STEPS);
        nap(Some(holder.pidfd()), limit, self.interrupt);
    }

    fn refused(&mut self, refusal: Refusal, who: Sighting) -> Stopped {
        let asked = self.asked.take();
        Stopped::Refused(Refused::By {
            refusal,
            who,
            asked,
        })
    }

    /// The holder is gone. If it could not say so itself, its payload is ended here, without the
    /// lock: a run id is never used twice.
    fn finish(&mut self, target: Target) -> Result<Stopped> {
        let holder = self.asked.take_last().unwrap_or(target.former);
        let mut swept = Vec::new();
        if let Some(record) = holder.record.clone() {
            let unmarked = is_unmarked(self.path, &record);
            let last = Contents::Record(Box::new(record));
            if unmarked || holder.killed {
                // What keeps the file from being opened keeps nobody alive.
                let file = OpenFile::open_existing(self.path).ok().flatten();
                let file = file.filter(|file| file.id() == target.file);
                let run = match &file {
                    Some(file) => Run::of(file, &last, false)?,
                    None => Run::of_holder(&last, self.path, target.uid)?,
                };
                match self.sweep(&run)? {
                    Ok(ended) => swept = ended,
                    Err(other) => return Ok(*other),
                }
                leave_marked(self.path, &last, Reason::Stopped);
            }
        }
        let successor = successor(self.path, holder.pid);
        Ok(Stopped::Gone(Box::new(Gone {
            holder,
            swept,
            after: self.began.elapsed(),
            successor,
        })))
    }

    fn clear(&mut self, view: View) -> Result<Stopped> {
        let Some(file) = OpenFile::open_existing(&view.path)? else {
            return Ok(Stopped::Nothing(view));
        };
        let run = Run::of(&file, &view.contents, false)?;
        let ended = match self.sweep(&run)? {
            Ok(ended) => ended,
            Err(other) => return Ok(*other),
        };
        leave_marked(&view.path, &view.contents, Reason::Crashed);
        Ok(if ended.is_empty() {
            Stopped::Nothing(view)
        } else {
            Stopped::Cleared(ended)
        })
    }

    fn sweep(&mut self, run: &Run<'_>) -> Result<Result<Vec<sweep::Ended>, Box<Stopped>>> {
        let left = |deadline: Duration| deadline.saturating_sub(self.began.elapsed());
        let bound = self.takeover.deadline().map_or(START_PATIENCE, left);
        let patience = Patience {
            deadline: Instant::now().checked_add(bound.max(sweep::LEAST_TIME)),
            hurry: true,
        };
        let progress = &mut *self.progress;
        let mut tell = |survivors: &[Survivor]| progress(Progress::Ending { survivors });
        let mut bystanders = Bystanders::unknown();
        let swept = sweep::sweep(run, &mut bystanders, patience, self.interrupt, &mut tell)?;
        Ok(match swept {
            Swept::Clean(ended) => Ok(ended),
            Swept::Interrupted => Err(Box::new(Stopped::Interrupted(Vec::new()))),
            Swept::Stuck { left, own_ancestor } => {
                let refused = Refused::Survivors { left, own_ancestor };
                Err(Box::new(Stopped::Refused(refused)))
            }
        })
    }
}

fn doze_until_exit(holder: &Holder) {
    let end = Instant::now() + LAST_STEPS;
    while !holder.has_ended() && Instant::now() < end {
        sleep(
            [Watched::Readable(holder.pidfd())],
            Some(end.saturating_duration_since(Instant::now())),
        );
    }
}

fn is_unmarked(path: &Path, record: &Record) -> bool {
    let on_disk = OpenFile::open_existing(path)
        .ok()
        .flatten()
        .and_then(|file| file.read_settled().ok());
    on_disk.is_none_or(|contents| {
        contents
            .record()
            .is_none_or(|found| !found.is_of_the_same_run(record) || found.end.is_none())
    })
}

/// Marks the record ended. That it cannot be written takes nothing back of what was done.
fn leave_marked(path: &Path, last: &Contents, reason: Reason) {
    if let Err(error) = mark_ended(path, last, reason) {
        log::warn!("{error:#}; so the record stays as it was: that of a crash");
    }
}

/// Marks a crashed record ended, if the lock is free and it still is that record.
fn mark_ended(path: &Path, last: &Contents, reason: Reason) -> Result<()> {
    if OpenFile::open_existing(path)?.is_none() {
        return Ok(());
    }
    let Try::Locked(locked) = OpenFile::open_or_create(path)?.try_lock()? else {
        return Ok(());
    };
    let now = locked.read()?;
    if now != *last && !same_run(&now, last) {
        return Ok(());
    }
    match now {
        Contents::Record(mut record) if record.end.is_none() => {
            let by = Some(Asker {
                pid: Pid::this(),
                uid: rustix::process::geteuid().as_raw(),
                argv: own_argv(),
            });
            record.end = Some(End {
                by,
                ..End::now(reason)
            });
            locked.write(&record.encode())
        }
        // A bare pid of nobody. Who is there has it from somebody else, and may be found by it alone.
        Contents::Hint(hint) if !hint.lives() => locked.write(b"\n"),
        _ => Ok(()),
    }
}

fn same_run(one: &Contents, other: &Contents) -> bool {
    let records = one.record().zip(other.record());
    records.is_some_and(|(one, other)| one.is_of_the_same_run(other))
}

fn own_argv() -> Vec<Text> {
    record::command_line(&std::env::args_os().collect::<Vec<_>>())
}

fn successor(path: &Path, stopped: Pid) -> Option<Sighting> {
    let who = view::look_again(path, &mut Uninterrupted)
        .ok()?
        .state
        .into_sighting()?;
    let is_it = who.holder().is_some_and(|holder| holder.pid() == stopped);
    (!is_it).then_some(who)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::tests::example;

    /// Somebody may have come, and crashed, since the holder was stopped.
    #[test]
    fn the_record_of_another_run_is_not_marked() {
        let room = tempfile::tempdir().unwrap();
        let path = room.path().join("gateway.pid");
        let other = Record {
            run_id: "f".repeat(32),
            ..example()
        };
        let says = |record: &Record| Contents::Record(Box::new(record.clone()));
        std::fs::write(&path, other.encode()).unwrap();
        mark_ended(&path, &says(&example()), Reason::Stopped).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), other.encode());
        mark_ended(&path, &says(&other), Reason::Stopped).unwrap();
        let now = Contents::decode(&std::fs::read(&path).unwrap());
        assert!(now.record().is_some_and(|record| record.end.is_some()));
    }
}
