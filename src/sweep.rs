//! Ending what a crashed run left: SIGTERM, after five seconds SIGKILL, until nobody is left.

use std::ffi::OsString;
use std::io;
use std::time::{Duration, Instant};

use crate::Result;
use crate::bystanders::Bystanders;
use crate::process::{self, Identity, Pid};
use crate::signal::Signal;
use crate::survivors::{Run, Survivor, Tie, cannot_look};
use crate::wait::{Interrupt, nap};

/// The kernel is about to kill a crashed gateway's command by itself (the parent-death signal): what
/// ends so soon is neither asked nor mentioned.
const KERNELS_TURN: Duration = Duration::from_millis(50);

/// How long survivors get between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_secs(5);

/// How long one that may not even belong to the run goes unmentioned.
const UNNAMED: Duration = Duration::from_secs(2);

/// One that may not even belong to the run is waited for no longer.
const LONGEST_DOUBT: Duration = Duration::from_secs(15);

/// A sweep is told of at least this often, so that a service manager extends its time limit.
const TELL_AGAIN: Duration = Duration::from_secs(5);

/// At most this many looks that find nobody are taken, one after the other, until no process was born since
/// the last of them began.
const MOST_LOOKS: u32 = 40;

/// New survivors may be born while the known ones die.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// Whoever has ended a holder gives what it left at least so long, whatever the deadline.
pub const LEAST_TIME: Duration = Duration::from_secs(1);

/// What somebody in a hurry keeps of its time for the killed to be gone.
const LAST_BREATH: Duration = Duration::from_millis(500);

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
    if !run.may_have_survivors() {
        return Ok(Swept::Clean(Vec::new()));
    }
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
    /// So many looks, one after the other, found nobody.
    looks: u32,
    /// The last look saw everybody.
    saw_all: bool,
    blind: bool,
    /// That was told.
    warned: bool,
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
            saw_all: false,
            blind: false,
            warned: false,
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
        let over = self.left.iter().all(Survivor::is_gone) && self.is_quiet();
        if over {
            self.left.clear();
        }
        over
    }

    /// Somebody may have been born behind the look's back, and its parent have ended before it: only
    /// a look since which nobody was born is sure. On a busy machine none is. `false`: look later.
    fn look_until_quiet(&mut self) -> Result<bool> {
        loop {
            if !self.look()? {
                return Ok(false);
            }
            if !self.left.is_empty() {
                self.looks = 0;
                return Ok(true);
            }
            self.looks += 1;
            if self.is_quiet() || self.looks >= MOST_LOOKS || self.patience.is_over() {
                return Ok(true);
            }
        }
    }

    /// Whether the last look saw everybody, and nobody has come since it began. Asked when all whom that
    /// look found are gone: only they could be bearing a child that is not counted yet.
    fn is_quiet(&mut self) -> bool {
        self.saw_all && self.bystanders.nobody_came().is_ok_and(|nobody| nobody)
    }

    /// Finds who is left now. `false`: it could not be looked, and nobody is known.
    fn look(&mut self) -> Result<bool> {
        self.left.retain(|survivor| !survivor.is_gone());
        self.blind = false;
        self.saw_all = false;
        match self.run.survivors(self.bystanders) {
            Ok(found) => {
                self.saw_all = !found.more;
                self.meet(found.survivors);
            }
            // To end those who are known makes room to look for others.
            Err(_) if !self.left.is_empty() => {}
            // Our own limit does not rise by waiting.
            Err(error) if self.patience.is_over() || is_our_limit(&error) => {
                return Err(cannot_look(error));
            }
            Err(error) => {
                self.blind = true;
                if self.began.elapsed() >= UNNAMED && !std::mem::replace(&mut self.warned, true) {
                    log::warn!("{:#}; trying again", cannot_look(error));
                }
                return Ok(false);
            }
        }
        if self.patience.is_over() || self.began.elapsed() >= LONGEST_DOUBT {
            // One that only may have belonged to the run neither ends the start nor keeps it.
            self.left.retain(|survivor| survivor.tie() != Tie::Unsure);
        }
        Ok(true)
    }

    fn meet(&mut self, mut found: Vec<Survivor>) {
        self.unsure.keep(&mut found);
        let sure = |survivor: &Survivor| survivor.tie() != Tie::Unsure;
        let missed = std::mem::take(&mut self.left).into_iter();
        let missed = missed.filter(|known| {
            sure(known)
                && !found
                    .iter()
                    .any(|survivor| survivor.identity() == known.identity())
        });
        let missed: Vec<Survivor> = missed.collect();
        self.left = found;
        self.left.extend(missed);
    }

    fn stuck(&mut self) -> Option<Swept> {
        let sure = || self.left.iter().filter(|survivor| survivor.tie().is_sure());
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
            for survivor in self.left.iter().filter(|survivor| survivor.tie().is_sure()) {
                press_one(survivor, kill, &mut self.asked);
            }
        }
        let began_to_ask = first && !self.asked.is_empty();
        let began_to_kill = kill && !std::mem::replace(&mut self.killing, kill);
        if began_to_ask || began_to_kill || elapsed >= self.tell_at {
            let named = self.named(elapsed);
            if !named.is_empty() {
                told(named);
                self.tell_at = elapsed + TELL_AGAIN;
            }
        }
    }

    /// Those who are worth a word: not who only happens to be on its way out at this moment.
    fn named(&mut self, elapsed: Duration) -> &[Survivor] {
        let named = |survivor: &Survivor| survivor.tie() != Tie::Unsure || elapsed >= UNNAMED;
        self.left.sort_by_key(|survivor| !named(survivor));
        &self.left[..self.left.partition_point(named)]
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
        let fds = self.left.iter().map(|survivor| survivor.pidfd());
        nap(fds, limit, interrupt);
    }
}

fn is_our_limit(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EMFILE)
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

/// The processes of which nobody can tell whether they belong to the run: those of the first look, and of every look while
/// sure ones lived to bear them. Later ones are strangers: on a busy machine somebody always dies.
#[derive(Default)]
struct Unsure {
    known: Vec<Identity>,
    closed: bool,
}

impl Unsure {
    fn keep(&mut self, left: &mut Vec<Survivor>) {
        let closed = self.closed;
        left.retain(|survivor| {
            survivor.tie() != Tie::Unsure || !closed || self.known.contains(&survivor.identity())
        });
        let unsure = left.iter().filter(|survivor| survivor.tie() == Tie::Unsure);
        self.known = unsure.map(Survivor::identity).collect();
        self.closed = left.iter().all(|survivor| survivor.tie() == Tie::Unsure);
    }
}

#[cfg(test)]
mod tests {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

    use super::*;
    use crate::bystanders::tests::sleeper;
    use crate::lock::OpenFile;
    use crate::record::tests::example;
    use crate::record::{Contents, Record};
    use crate::variables::RUN_ID;

    /// Who came since the last whole look, and could not be looked at, is not taken for nobody.
    #[test]
    fn a_look_that_fails_is_no_look() {
        const PART: &str = "GATEWAY_TEST_PART";
        // In a process of its own: there the limit is nobody else's.
        if std::env::var_os(PART).is_none() {
            let name = "sweep::tests::a_look_that_fails_is_no_look";
            let alone = std::process::Command::new(std::env::current_exe().unwrap())
                .args([name, "--exact", "--test-threads=1"])
                .env(PART, "alone")
                .output()
                .unwrap();
            let ran = String::from_utf8_lossy(&alone.stdout).contains("1 passed");
            assert!(alone.status.success() && ran, "{alone:?}");
            return;
        }
        let room = tempfile::tempdir().unwrap();
        let file = OpenFile::open_or_create(&room.path().join("gateway.pid")).unwrap();
        let record = Record {
            boot_id: process::boot_id().unwrap(),
            start_time: 1,
            // Nobody else's: other tests run beside this one.
            run_id: format!("{:032x}", std::process::id()),
            uid: u32::MAX - 1,
            ..example()
        };
        let marks = [(RUN_ID, record.run_id.as_str())];
        let last = Contents::Record(Box::new(record.clone()));
        let run = Run::of(&file, &last, true).unwrap();
        let patience = Patience {
            deadline: None,
            hurry: false,
        };
        let mut bystanders = Bystanders::unknown();
        let mut sweep = Sweep::begin(&run, &mut bystanders, patience);

        let first = sleeper(&marks);
        sweep.bystanders.set_births(5);
        assert!(sweep.look().unwrap() && sweep.is_quiet());
        let left = |sweep: &Sweep<'_>| sweep.left.iter().map(Survivor::pid).collect::<Vec<_>>();
        assert_eq!(left(&sweep), [first.pid()]);

        let second = sleeper(&marks);
        sweep.bystanders.set_births(6);
        without_descriptors(|| assert!(sweep.look().unwrap(), "the first is known"));
        assert_eq!(left(&sweep), [first.pid()]);
        drop(first);
        assert!(!sweep.is_known_to_be_over());
        assert!(sweep.look().unwrap());
        assert_eq!(left(&sweep), [second.pid()]);
    }

    /// A compiler that ended beside it was called a survivor of the run.
    #[test]
    fn who_is_on_its_way_out_for_a_moment_is_not_named() {
        let room = tempfile::tempdir().unwrap();
        let file = OpenFile::open_or_create(&room.path().join("gateway.pid")).unwrap();
        let run = Run::of(&file, &Contents::Empty, true).unwrap();
        let patience = Patience {
            deadline: None,
            hurry: false,
        };
        let mut bystanders = Bystanders::unknown();
        let mut sweep = Sweep::begin(&run, &mut bystanders, patience);
        let sleepers = [sleeper(&[]), sleeper(&[])];
        for (sleeper, tie) in sleepers.iter().zip([Tie::Unsure, Tie::Payload]) {
            let stat = process::Stat::of(sleeper.pid()).unwrap();
            sweep.left.extend(Survivor::pin(&stat, tie).unwrap());
        }
        let pids = |named: &[Survivor]| named.iter().map(Survivor::pid).collect::<Vec<_>>();
        let [unsure, sure] = sleepers.each_ref().map(|sleeper| sleeper.pid());
        assert_eq!(pids(sweep.named(GRACE.min(UNNAMED) / 2)), [sure]);
        // Of nobody nothing is told, though it is time to kill.
        let both = std::mem::take(&mut sweep.left);
        let (alone, others) = both.into_iter().partition(|one| one.tie() == Tie::Unsure);
        (sweep.left, sweep.grace) = (alone, Duration::ZERO);
        sweep.press(&mut |named| panic!("{named:?}"));
        sweep.left.extend::<Vec<Survivor>>(others);
        let later = pids(sweep.named(UNNAMED));
        assert!(later.len() == 2 && later.contains(&unsure), "{later:?}");
    }

    /// Nothing can be opened meanwhile.
    fn without_descriptors(work: impl FnOnce()) {
        let before = getrlimit(Resource::Nofile);
        let none = Rlimit {
            current: Some(3),
            ..before
        };
        setrlimit(Resource::Nofile, none).unwrap();
        work();
        setrlimit(Resource::Nofile, before).unwrap();
    }
}
