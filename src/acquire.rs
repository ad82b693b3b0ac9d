//! Getting the lock: looks at the system, asks the decision, performs its step.
//!
//! The order of the steps is what makes the promises true: lock, compare the path, look for a
//! holder of an earlier file, end what a crash left, write the record, compare the path again.
//! The last comparison and the search are two halves: a start that wrote its record sees a newer
//! file at the path, or whoever made that file sees the record.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::bystanders::Bystanders;
use crate::claim::{Claim, Description};
use crate::held;
use crate::holder::{self, Holder, Sighting};
use crate::lock::{Locked, OpenFile, Try};
use crate::process::Pid;
use crate::progress::{Progress, Told};
use crate::record::Contents;
use crate::request::{Former, Requests, Sent, standing};
use crate::signal::Signal;
use crate::standby::{Again, Standby};
use crate::survivors::{Run, Survivor};
use crate::sweep::{self, Patience, Swept};
use crate::takeover::{Bar, Mode, Refusal, Rules, START_PATIENCE, Seen, Step, Takeover};
use crate::wait::{Interrupt, nap};
use crate::{Error, Result};

/// Beside a pidfd, which tells the end of a process but not of its lock.
const TICK_PINNED: Duration = Duration::from_secs(1);
/// Where nothing tells, at first and then.
const TICK_EARLY: Duration = Duration::from_millis(10);
const TICK_LATER: Duration = Duration::from_millis(50);
const EARLY: Duration = Duration::from_secs(1);

/// The lock and the record are ours.
#[derive(Debug)]
pub struct Acquired {
    /// What we hold.
    pub claim: Claim,
    /// What was in the file before.
    pub last: Contents,
    /// Who was asked to go.
    pub replaced: Vec<Former>,
    /// What was left of a crashed run, and was ended.
    pub swept: Vec<sweep::Ended>,
    /// How long it took.
    pub waited: Duration,
}

/// How an attempt ended.
#[derive(Debug)]
pub enum Outcome {
    /// It is ours.
    Acquired(Box<Acquired>),
    /// It is not, and why.
    Refused(Refused),
    /// The caller interrupted the wait. Whoever was asked before will stop all the same.
    Interrupted {
        /// Who was asked.
        asked: Vec<Former>,
    },
}

/// Why not.
#[derive(Debug)]
pub enum Refused {
    /// Somebody has the lock.
    By {
        /// The decision.
        refusal: Refusal,
        /// Who has it.
        who: Sighting,
        /// Who was asked before.
        asked: Vec<Former>,
    },
    /// Processes of a crashed run could not be ended.
    Survivors {
        /// These.
        left: Vec<Survivor>,
        /// One of them is our own ancestor.
        own_ancestor: bool,
    },
}

/// Seeks the lock on the pid file at `path`, by `rules`, and writes the record.
///
/// Waits as the rules say, never longer, never in `flock(2)`; `interrupt` ends every wait.
///
/// # Errors
/// The pid file cannot be used, or the system refuses what proof needs. Nobody was signalled
/// before the file was open, and writable as far as can be told.
pub fn acquire(
    path: &Path,
    rules: Rules,
    description: &Description,
    interrupt: &mut dyn Interrupt,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Outcome> {
    Seeker::new(path, rules, description, interrupt, progress).run()
}

struct Seeker<'a, 't> {
    path: &'a Path,
    rules: Rules,
    description: &'a Description,
    interrupt: &'a mut dyn Interrupt,
    progress: &'a mut (dyn FnMut(Progress<'_>) + 't),
    told: Told,
    /// A fault was told, and has not passed yet.
    in_trouble: bool,
    began: Instant,
    takeover: Takeover,
    asked: Requests,
    /// Others are at the lock, too, and do not stay.
    crowd: Option<Crowd>,
    /// The unproven locker of the last look.
    prober: Option<Option<Pid>>,
    failed: Option<Failed>,
    /// Since when every turn has ended in a fault.
    faulty_since: Option<Instant>,
    bystanders: Bystanders,
    /// Who stands in line has a place in it.
    standby: Option<Standby>,
    /// The lock, got while standing there.
    caught: Option<Locked>,
    swept: Vec<sweep::Ended>,
}

/// The lock is ours, and so is the name.
struct Mine {
    locked: Locked,
    /// What was written in the file, and what that says.
    before: Vec<u8>,
    last: Contents,
    /// Tells whether anything may have changed since ([`OpenFile::change_mark`]).
    mark: (i64, u64),
}

/// Looks in a row that found the lock free, and the file not the one to keep.
struct Failed {
    since: Instant,
    times: u32,
}

impl Failed {
    fn now() -> Self {
        Self {
            since: Instant::now(),
            times: 0,
        }
    }
}

/// What a look at the file gave.
enum Look {
    Mine(Mine),
    Moved,
    Held { who: Sighting, file: OpenFile },
}

impl<'a, 't> Seeker<'a, 't> {
    fn new(
        path: &'a Path,
        rules: Rules,
        description: &'a Description,
        interrupt: &'a mut dyn Interrupt,
        progress: &'a mut (dyn FnMut(Progress<'_>) + 't),
    ) -> Self {
        Self {
            path,
            rules,
            description,
            interrupt,
            progress,
            told: Told::default(),
            in_trouble: false,
            began: Instant::now(),
            takeover: Takeover::new(rules),
            asked: Requests::default(),
            crowd: None,
            prober: None,
            failed: None,
            faulty_since: None,
            bystanders: Bystanders::unknown(),
            standby: (rules.mode == Mode::Wait).then(Standby::default),
            caught: None,
            swept: Vec::new(),
        }
    }

    fn run(mut self) -> Result<Outcome> {
        loop {
            match self.turn() {
                Ok(Some(outcome)) => return Ok(outcome),
                Ok(None) => self.faulty_since = None,
                Err(error) if error.is_interruption() && self.interrupt.interrupted() => {
                    return Ok(self.gave_in());
                }
                Err(error) => match self.why_to_stay() {
                    Some(why) => {
                        self.tell_trouble(&error, why);
                        nap([], TICK_LATER, self.interrupt);
                    }
                    None => return Err(error),
                },
            }
            if self.interrupt.interrupted() {
                return Ok(self.gave_in());
            }
        }
    }

    /// Looks, decides, does. `None`: not over yet.
    fn turn(&mut self) -> Result<Option<Outcome>> {
        let look = match (self.caught.take(), self.crowd.take()) {
            (Some(locked), _) => self.with_lock(locked)?,
            (None, Some(crowd)) => self.look_in_a_crowd(crowd)?,
            (None, None) => self.look()?,
        };
        self.notice_probes(&look);
        let step = self
            .takeover
            .next(self.began.elapsed(), seen(&look, self.rules.mode));
        match (step, look) {
            (Step::Start, Look::Mine(mine)) => {
                if let Some(outcome) = self.finish(&mine)? {
                    return Ok(Some(outcome));
                }
                match self.stake(mine)? {
                    Some(outcome) => Ok(Some(outcome)),
                    None => self.begin_again(),
                }
            }
            (Step::Ask | Step::Kill, Look::Held { who, file }) => {
                // Whoever was proven may have asked *us* before it had the lock: two who ask each
                // other would both end.
                if self.interrupt.interrupted() {
                    return Ok(None);
                }
                let kill = step == Step::Kill;
                self.signal(if kill { Signal::KILL } else { Signal::TERM }, who, &file)
            }
            (Step::Sleep(until), Look::Held { who, file }) => {
                self.failed = None;
                self.in_trouble = false;
                self.sleep(&who, file, until)?;
                self.crowd = Crowd::behind(&who, self.rules.mode, self.began.elapsed());
                Ok(None)
            }
            (Step::Refuse(refusal), Look::Held { who, .. }) => Ok(Some(self.refused(refusal, who))),
            // The descriptor is closed, and the path looked at anew.
            _ => self.begin_again(),
        }
    }

    /// Each time means that somebody replaced or changed the file at that moment; on a file system
    /// without stable inode numbers or times it would never end.
    fn begin_again(&mut self) -> Result<Option<Outcome>> {
        let failed = self.failed.get_or_insert_with(Failed::now);
        failed.times += 1;
        let (since, times) = (failed.since, failed.times);
        if self.is_late() || since.elapsed() >= START_PATIENCE {
            return Err(Error::pid_file("cannot keep", self.path)
                .because(std::io::Error::other("it is another file at each look, or a changed one"))
                .advise("somebody replaces it all the time, or its file system has no stable inode numbers and times; name another path with -f PATH"));
        }
        if times > 3 {
            nap([], TICK_EARLY, self.interrupt);
        }
        Ok(None)
    }

    fn gave_in(&mut self) -> Outcome {
        let asked = self.asked.take();
        Outcome::Interrupted { asked }
    }

    fn tell_trouble(&mut self, error: &Error, why_to_stay: &str) {
        if !std::mem::replace(&mut self.in_trouble, true) {
            log::warn!("{error:#}; trying again, because {why_to_stay}");
        }
    }

    fn refused(&mut self, refusal: Refusal, who: Sighting) -> Outcome {
        let asked = self.asked.take();
        Outcome::Refused(Refused::By {
            refusal,
            who,
            asked,
        })
    }

    /// Another unproven locker than at the last look: in between the lock was free.
    fn notice_probes(&mut self, look: &Look) {
        let Look::Held {
            who: who @ (Sighting::Foreign(_) | Sighting::Invisible(_)),
            ..
        } = look
        else {
            return;
        };
        let pid = who.pid();
        if self.prober != Some(pid) {
            self.prober = Some(pid);
            self.takeover.another_locker(self.began.elapsed());
        }
    }

    /// Why not to leave at a fault that may pass, if there is a reason.
    fn why_to_stay(&mut self) -> Option<&'static str> {
        let since = *self.faulty_since.get_or_insert_with(Instant::now);
        let stands_in_line = self.standby.is_some() && self.told.anybody();
        if self.is_late() {
            None
        } else if !self.asked.is_empty() {
            // Nobody would run then.
            Some("the holder was asked to stop already")
        } else {
            // All of a line would leave at the same moment, and nobody take over when the holder ends.
            (stands_in_line && since.elapsed() < START_PATIENCE).then_some("it may pass")
        }
    }

    /// Whether the whole wait is over.
    fn is_late(&self) -> bool {
        let deadline = self.takeover.deadline();
        deadline.is_some_and(|deadline| self.began.elapsed() >= deadline)
    }

    /// Tries the lock some times, and looks at no more than the record in between.
    fn look_in_a_crowd(&mut self, crowd: Crowd) -> Result<Look> {
        let left = self
            .takeover
            .deadline()
            .map(|deadline| deadline.saturating_sub(self.began.elapsed()));
        let end = Instant::now() + left.map_or(crowd.span, |left| left.min(crowd.span));
        let mut tries = 0;
        while (Instant::now() < end || tries < crowd.tries) && !self.interrupt.interrupted() {
            tries += 1;
            match OpenFile::open_or_create(self.path)?.try_lock()? {
                Try::Locked(locked) => return self.with_lock(locked),
                Try::Busy(file) => {
                    if let Some(who) = holder::named(&file)? {
                        return Ok(Look::Held { who, file });
                    }
                }
            }
            nap([], crowd.pause, self.interrupt);
        }
        self.look()
    }

    fn left(&self, until: Option<Duration>) -> Option<Duration> {
        until.map(|until| until.saturating_sub(self.began.elapsed()))
    }

    fn signal(
        &mut self,
        signal: Signal,
        who: Sighting,
        file: &OpenFile,
    ) -> Result<Option<Outcome>> {
        let Some(holder) = who.holder() else {
            return Ok(None);
        };
        if signal != Signal::KILL {
            // A takeover that cannot work harms nobody: the file must take a record.
            file.check_room(self.description.room(file))
                .inspect_err(|_| self.takeover.step_failed())?;
        }
        let (takeover, progress) = (&mut self.takeover, &mut *self.progress);
        Ok(match self.asked.send(signal, holder, takeover, progress)? {
            Sent::Yes | Sent::Gone => None,
            Sent::Forbidden => Some(self.refused(Refusal::Barred(Bar::NotPermitted), who)),
        })
    }

    /// Sleeps; a standby goes on sleeping as long as it finds nothing that concerns it.
    fn sleep(&mut self, who: &Sighting, mut file: OpenFile, until: Option<Duration>) -> Result<()> {
        if let Some(standby) = &mut self.standby {
            standby.observe(who, &file)?;
        }
        loop {
            let left = self.left(until);
            self.told.waiting(who, left, self.progress);
            if let Some(standby) = &mut self.standby {
                standby.prepare(who, file, &mut self.bystanders);
            }
            self.doze(who, until);
            let over = until.is_some_and(|until| self.began.elapsed() >= until);
            let Some(standby) = self.standby.as_mut().filter(|_| !over) else {
                return Ok(());
            };
            if self.interrupt.interrupted() {
                return Ok(());
            }
            file = match standby.look_again(who, self.path)? {
                Again::Same(file) => file,
                Again::Changed => return Ok(()),
                Again::Mine(locked) => {
                    self.caught = Some(locked);
                    return Ok(());
                }
            };
        }
    }

    /// Whether the holder's end is to wake us.
    fn is_called(&self) -> bool {
        self.standby.as_ref().is_none_or(Standby::is_called)
    }

    fn doze(&mut self, who: &Sighting, until: Option<Duration>) {
        let is_called = self.is_called();
        let ended = who.has_ended();
        let holder = who.holder().filter(|_| !ended);
        let elapsed = self.began.elapsed();
        let tick = if holder.is_some() || ended && !is_called {
            TICK_PINNED
        } else if elapsed < EARLY {
            TICK_EARLY
        } else {
            TICK_LATER
        };
        let limit = until.map_or(tick, |until| until.saturating_sub(elapsed).min(tick));
        let pidfd = holder.filter(|_| is_called).map(Holder::pidfd);
        nap(pidfd, limit, self.interrupt);
    }

    /// Ends what a crash left. `None`: nobody is left.
    fn finish(&mut self, mine: &Mine) -> Result<Option<Outcome>> {
        match self.sweep(mine)? {
            Swept::Clean(swept) => {
                self.swept = swept;
                Ok(None)
            }
            Swept::Interrupted => Ok(Some(self.gave_in())),
            Swept::Stuck { left, own_ancestor } => {
                let refused = Refused::Survivors { left, own_ancestor };
                Ok(Some(Outcome::Refused(refused)))
            }
        }
    }

    /// Writes the record. `None`: the path changed hands meanwhile, if only for a moment, so begin
    /// again.
    fn stake(&mut self, mine: Mine) -> Result<Option<Outcome>> {
        let Mine {
            locked,
            before,
            last,
            mark,
        } = mine;
        // Told to end before anything is written: then nothing is.
        let changed = !locked.is_at_path()? || locked.change_mark()? != mark;
        if self.interrupt.interrupted() || changed {
            return Ok(None);
        }
        let Some(claim) = Claim::stake(locked, &before, &last, self.description)? else {
            return Ok(None);
        };
        Ok(Some(Outcome::Acquired(Box::new(Acquired {
            claim,
            last,
            replaced: self.asked.take(),
            swept: std::mem::take(&mut self.swept),
            waited: self.began.elapsed(),
        }))))
    }

    fn sweep(&mut self, mine: &Mine) -> Result<Swept> {
        let ended = self.saw_the_end_of(&mine.last);
        let run = Run::of(&mine.locked, &mine.last, ended)?;
        let patience = self.patience_with_survivors();
        let progress = &mut *self.progress;
        let mut tell = |survivors: &[Survivor]| progress(Progress::Ending { survivors });
        sweep::sweep(
            &run,
            &mut self.bystanders,
            patience,
            self.interrupt,
            &mut tell,
        )
    }

    /// Whoever has ended the holder does not leave before what it left is ended, too: nobody would
    /// run then.
    fn patience_with_survivors(&self) -> Patience {
        let now = self.began.elapsed();
        let hurry = self.rules.mode == Mode::Replace;
        let bound = match self.rules.mode {
            Mode::Plain | Mode::Stop => Some(now + START_PATIENCE),
            Mode::Wait => self.takeover.deadline(),
            Mode::Replace => self
                .takeover
                .deadline()
                .map(|deadline| deadline.max(now + sweep::LEAST_TIME)),
        };
        Patience {
            deadline: bound.and_then(|bound| self.began.checked_add(bound)),
            hurry,
        }
    }

    /// Opens the file, tries the lock, and finds out what that means.
    fn look(&mut self) -> Result<Look> {
        match OpenFile::open_or_create(self.path)?.try_lock()? {
            Try::Busy(file) => Ok(Look::Held {
                who: holder::identify(&file)?,
                file,
            }),
            Try::Locked(locked) => self.with_lock(locked),
        }
    }

    /// The lock is ours. Is the name?
    fn with_lock(&mut self, locked: Locked) -> Result<Look> {
        let before = locked.bytes()?;
        let last = self.understand(&before);
        let mark = locked.change_mark()?;
        if !locked.is_at_path()? {
            return Ok(Look::Moved);
        }
        let Some(earlier) = self.earlier_holder(&locked, &last)? else {
            return Ok(Look::Mine(Mine {
                locked,
                before,
                last,
                mark,
            }));
        };
        // Let go before anything else, so that the holder can put its claim back.
        drop(locked);
        let file = OpenFile::open_or_create(self.path)?;
        Ok(Look::Held { who: earlier, file })
    }

    fn understand(&self, bytes: &[u8]) -> Contents {
        let known = self
            .standby
            .as_ref()
            .and_then(|standby| standby.known(bytes));
        known.cloned().unwrap_or_else(|| Contents::decode(bytes))
    }

    /// Whether somebody holds an earlier file of this path. Asked where the record does not name this
    /// very file, where the file was moved since it was written (an old one may be back), and where it
    /// names a process that lives although the lock is free.
    fn earlier_holder(&mut self, locked: &Locked, last: &Contents) -> Result<Option<Sighting>> {
        let named = locked.names_itself(last) && !locked.was_moved()?;
        let unended = || last.record().filter(|record| record.end.is_none());
        let lives = || unended().map_or(Ok(false), holder::lives);
        if named && (self.saw_the_end_of(last) || !lives()?) {
            return Ok(None);
        }
        held::holder_of_earlier_file(locked.path(), Some(locked.id()), self.interrupt)
    }

    /// Whether a pidfd told the end of the gateway that wrote this.
    fn saw_the_end_of(&self, last: &Contents) -> bool {
        let standby = self.standby.as_ref();
        standby.is_some_and(|standby| standby.saw_the_end_of(last))
    }
}

/// Others who are at the lock for a moment.
#[derive(Clone, Copy)]
struct Crowd {
    /// How long to pause between tries.
    pause: Duration,
    /// How long before a look at who really holds.
    span: Duration,
    /// How often it is tried before that, at least: on a busy machine a pause may last for long.
    tries: u32,
}

impl Crowd {
    fn behind(who: &Sighting, mode: Mode, elapsed: Duration) -> Option<Self> {
        let millis = Duration::from_millis;
        match (who, mode) {
            // Everybody in line was woken by the same end, and one has won. To look for it before
            // it has written its record would take the processor from the very one we wait for.
            // The pause is not the same for everybody.
            (_, Mode::Wait) if who.has_ended() => {
                let pause = millis(10 + u64::from(std::process::id() % 10));
                Some(Self {
                    pause,
                    span: millis(200),
                    tries: 0,
                })
            }
            // Probes come and go quicker than anybody can be looked for.
            (Sighting::Foreign(_) | Sighting::Invisible(_), Mode::Plain) => Some(Self {
                pause: millis(1),
                span: millis(20),
                tries: 20,
            }),
            // Who it is changes seldom, and to look for it means to look at everybody.
            (Sighting::Foreign(_) | Sighting::Starting(_) | Sighting::Invisible(_), _) => {
                let pause = if elapsed < EARLY {
                    TICK_EARLY
                } else {
                    TICK_LATER
                };
                Some(Self {
                    pause,
                    span: TICK_PINNED,
                    tries: 0,
                })
            }
            _ => None,
        }
    }
}

fn seen(look: &Look, mode: Mode) -> Seen {
    match look {
        Look::Mine(_) => Seen::Free,
        Look::Moved => Seen::Moved,
        Look::Held { who, .. } => Seen::Held(standing(who, mode)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Puts a new file at the path each time it is asked.
    struct Replacer<'a>(&'a Path);

    impl Interrupt for Replacer<'_> {
        fn interrupted(&mut self) -> bool {
            let new = self.0.with_extension("new");
            std::fs::write(&new, "").unwrap();
            std::fs::rename(&new, self.0).unwrap();
            false
        }
    }

    #[test]
    fn a_file_that_is_another_at_each_look_is_told_and_not_sought_for_ever() {
        let room = tempfile::tempdir().unwrap();
        let path = room.path().join("gateway.pid");
        let error = acquire(
            &path,
            Rules::of(Mode::Wait),
            &Description::of_this_process().unwrap(),
            &mut Replacer(&path),
            &mut |progress| panic!("{progress:?}"),
        )
        .unwrap_err();
        let shown = error.to_string();
        assert!(shown.contains("another file at each look"), "{shown}");
        assert!(shown.contains(&path.display().to_string()), "{shown}");
    }

    fn locked(path: &Path) -> Locked {
        match OpenFile::open_or_create(path).unwrap().try_lock().unwrap() {
            Try::Locked(locked) => locked,
            Try::Busy(_) => panic!("busy"),
        }
    }

    /// Who stands in line for days may meet such a moment more than once.
    #[test]
    fn a_file_that_changed_hands_before_a_sleep_is_forgotten() {
        let room = tempfile::tempdir().unwrap();
        let path = room.path().join("gateway.pid");
        let _other = locked(&path);
        let description = Description::of_this_process().unwrap();
        let (mut interrupt, mut progress) = (crate::wait::Uninterrupted, |_: Progress<'_>| {});
        let rules = Rules::of(Mode::Wait);
        let mut seeker = Seeker::new(&path, rules, &description, &mut interrupt, &mut progress);
        seeker.failed = Some(Failed {
            since: Instant::now() - START_PATIENCE,
            times: 1,
        });
        assert!(seeker.turn().unwrap().is_none(), "it has slept");
        assert!(seeker.begin_again().unwrap().is_none(), "it begins again");
    }

    /// Puts a directory in the file's place when it is first asked, and ends the wait later.
    struct Spoiler<'a>(&'a Path, u32);

    impl Interrupt for Spoiler<'_> {
        fn interrupted(&mut self) -> bool {
            self.1 += 1;
            if self.1 == 1 {
                std::fs::remove_file(self.0).unwrap();
                std::fs::create_dir(self.0).unwrap();
            }
            self.1 > 5
        }
    }

    /// Only a fault that stays sends who stands in line away, and not one a day.
    #[test]
    fn a_fault_that_has_passed_is_forgotten() {
        let room = tempfile::tempdir().unwrap();
        let path = room.path().join("gateway.pid");
        let _other = locked(&path);
        let description = Description::of_this_process().unwrap();
        let (mut interrupt, mut progress) = (Spoiler(&path, 0), |_: Progress<'_>| {});
        let rules = Rules::of(Mode::Wait);
        let mut seeker = Seeker::new(&path, rules, &description, &mut interrupt, &mut progress);
        let somebody = Sighting::Foreign(holder::Locker::now(Pid::this(), false));
        seeker.told.waiting(&somebody, None, &mut |_| {});
        seeker.faulty_since = Some(Instant::now() - START_PATIENCE);
        let outcome = seeker.run().unwrap();
        assert!(
            matches!(outcome, Outcome::Interrupted { .. }),
            "{outcome:?}"
        );
    }

    /// Is always asked to end.
    struct ToldToEnd;

    impl Interrupt for ToldToEnd {
        fn interrupted(&mut self) -> bool {
            true
        }
    }

    /// Two who ask each other would both end: who is told to end asks nobody any more.
    #[test]
    fn who_is_told_to_end_asks_nobody() {
        let room = tempfile::tempdir().unwrap();
        let path = room.path().join("gateway.pid");
        drop(locked(&path));
        let mut holder = std::process::Command::new("flock")
            .arg("--no-fork")
            .arg(&path)
            .args(["sleep", "60"])
            .spawn()
            .unwrap();
        std::fs::write(&path, format!("{}\n", holder.id())).unwrap();
        let is_proven = || {
            let file = OpenFile::open_or_create(&path).unwrap();
            holder::named(&file).unwrap().is_some()
        };
        for _ in 0..2000 {
            if is_proven() {
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(is_proven());
        let outcome = acquire(
            &path,
            Rules::of(Mode::Replace),
            &Description::of_this_process().unwrap(),
            &mut ToldToEnd,
            &mut |progress| panic!("{progress:?}"),
        );
        let lives = holder.try_wait().unwrap().is_none();
        let _ = (holder.kill(), holder.wait());
        assert!(
            matches!(outcome, Ok(Outcome::Interrupted { ref asked }) if asked.is_empty()),
            "{outcome:?}"
        );
        assert!(lives, "it was asked");
    }
}
