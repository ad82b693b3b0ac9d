//! The world: a path, files with their locks and records, processes, their payloads, and the time.

use std::time::Duration;

use gateway_lock::process::{Identity, Pid};
use gateway_lock::takeover::{Mode, Rules, Takeover};
use gateway_lock::time::Limit;

pub const SLOTS: usize = 3;
const FILES: usize = 10;
const EARLIER: usize = 3;

/// What a process may be.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Kind {
    Plain,
    Wait,
    Replace,
    Stop,
    /// A foreigner who locks the file for a moment: `flock -n gateway.pid true`.
    Probe,
}

/// What somebody does to the file.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Meddling {
    Remove,
    /// By an empty one.
    Replace,
    /// By another file with the same bytes.
    Copy,
    Overwrite,
    MoveAway,
    /// Over whatever is at the path by then.
    MoveBack,
}

/// A fault planted into the model, to show that the search sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    NoLock,
    NoProof,
    NoComparison,
    NoLastComparison,
    NoSearch,
    NoSweep,
    NoHealing,
    TrustsAnyNamedFile,
    GivesWayToAnyLock,
    KeepsTheNewFile,
    LetsGoFirst,
    PayloadFirst,
    AsksAlthoughTold,
    ProvesByACopiedRecord,
    LeavesItsRecord,
}

/// What is tried.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    pub processes: usize,
    pub kinds: &'static [Kind],
    pub meddling: &'static [Meddling],
    /// How often each of these may happen.
    pub meddlings: u8,
    pub crashes: u8,
    pub signals: u8,
    pub reuses: u8,
    /// The limits of whoever replaces or stops, in seconds; none: the defaults.
    pub limits: Option<(u64, u64)>,
    /// Somebody need not be left running: only the other promises are asked for.
    pub excused: bool,
    pub fault: Option<Fault>,
}

impl Setting {
    pub const NOTHING: Self = Self {
        processes: SLOTS,
        kinds: &[],
        meddling: &[],
        meddlings: 0,
        crashes: 0,
        signals: 0,
        reuses: 0,
        limits: Some((1, 3)),
        excused: false,
        fault: None,
    };

    pub fn has(&self, fault: Fault) -> bool {
        self.fault == Some(fault)
    }

    fn rules(&self, kind: Kind) -> Rules {
        let (mode, limited) = match kind {
            Kind::Plain | Kind::Probe => (Mode::Plain, false),
            Kind::Wait => (Mode::Wait, false),
            Kind::Replace => (Mode::Replace, true),
            Kind::Stop => (Mode::Stop, true),
        };
        let limits = self.limits.filter(|_| limited);
        let seconds = |number| Limit::After(Duration::from_secs(number));
        Rules {
            mode,
            kill_after: limits.map(|(kill_after, _)| seconds(kill_after)),
            timeout: limits.map(|(_, timeout)| seconds(timeout)),
        }
    }
}

/// A record: whose, of which file, of which generation.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Entry {
    pub slot: u8,
    pub file: u8,
    pub generation: u8,
    pub ended: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Text {
    Empty,
    Junk,
    Record(Entry),
}

impl Text {
    pub fn entry(self) -> Option<Entry> {
        match self {
            Self::Record(entry) => Some(entry),
            Self::Empty | Self::Junk => None,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct File {
    pub lock: Option<u8>,
    pub text: Text,
    /// It was renamed after the last write: its times tell (rename(2) changes st_ctime alone).
    pub moved: bool,
    /// How often it was renamed.
    pub renamed: u8,
}

/// Where a process is: the next atomic call it will make.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum At {
    NotStarted,
    Gone,
    /// The pid belongs to somebody else by now.
    Bystander,
    // A start: acquire.rs.
    Open,
    TryLock,
    CompareFirst,
    /// The slots that were looked at already, as bits.
    Search(u8),
    LetGo,
    Sweep,
    WriteRecord,
    CompareAfterRecord,
    Fork,
    /// Reads the record and proves it. A record that changes in between is not proven: the next
    /// look finds the new one.
    Identify,
    Doze,
    ProveAgain(Send),
    Signal(Send),
    // A holder: supervise.rs and claim.rs.
    Running,
    HealOpen,
    HealLock,
    HealWrite,
    HealIdentify,
    HealRewrite,
    EndEarlier,
    EndCurrent,
    EndClose,
    // A stop: view.rs and stop.rs.
    View,
    ViewRead,
    ViewIdentify,
    ViewSearch(u8),
    Press,
    ClearPayload,
    MarkOpen,
    MarkLock,
    MarkWrite,
    // A foreigner.
    ProbeClose,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Send {
    Term,
    Kill,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Life {
    None,
    Alive,
    Gone,
}

/// A process; its number is its place in the world, and its one run has the same number.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Process {
    pub kind: Kind,
    pub at: At,
    pub payload: Life,
    /// Survivors of it were asked to end.
    pub payload_asked: bool,
    pub began: u16,
    pub takeover: Option<Takeover>,
    /// The file it is looking at.
    pub fd: Option<u8>,
    /// The files it holds, with its record.
    pub current: Option<u8>,
    pub earlier: [Option<u8>; EARLIER],
    pub generation: u8,
    pub read: Text,
    /// How often the file had been renamed when it was locked.
    pub mark: u8,
    /// The proven holder, and which file of it the proof was made on.
    pub target: Option<(u8, u8)>,
    /// Behind its number was somebody else already when the pidfd was opened.
    pub pinned_stranger: bool,
    /// Who was asked, and whether killed: for the promise not to ask and leave.
    pub asked: Option<(u8, bool)>,
    pub until: Option<u16>,
    /// SIGTERM is pending.
    pub term: bool,
    /// SIGKILL is.
    pub killed: bool,
    pub stopping: bool,
    /// It has written a record: only such a one may be signalled.
    pub claimed: bool,
}

impl Process {
    fn new() -> Self {
        Self {
            kind: Kind::Plain,
            at: At::NotStarted,
            payload: Life::None,
            payload_asked: false,
            began: 0,
            takeover: None,
            fd: None,
            current: None,
            earlier: [None; EARLIER],
            generation: 0,
            read: Text::Empty,
            mark: 0,
            target: None,
            pinned_stranger: false,
            asked: None,
            until: None,
            term: false,
            killed: false,
            stopping: false,
            claimed: false,
        }
    }

    pub fn lives(&self) -> bool {
        !matches!(self.at, At::NotStarted | At::Gone | At::Bystander)
    }

    pub fn is_gateway(&self) -> bool {
        self.lives() && self.kind != Kind::Probe
    }

    fn files_mut(&mut self) -> impl Iterator<Item = &mut Option<u8>> {
        [&mut self.fd, &mut self.current]
            .into_iter()
            .chain(self.earlier.iter_mut())
    }
}

/// Everything. Two worlds that are equal go on equally.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct World {
    pub path: Option<u8>,
    pub aside: Option<u8>,
    pub files: [Option<File>; FILES],
    pub processes: [Process; SLOTS],
    /// In tenths of a second.
    pub now: u16,
    pub meddlings: u8,
    pub crashes: u8,
    pub signals: u8,
    pub reuses: u8,
    /// Somebody has begun who wants to hold.
    pub started: bool,
    /// Something happened after which nobody needs to be left running.
    pub excused: bool,
}

/// What may happen next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// A process begins.
    Start(usize, Kind),
    /// It makes its next call.
    Step(usize),
    /// A start looks at this slot next.
    Look(usize, usize),
    /// A holder looks at its name.
    LookAtName(usize),
    /// A holder hears that it is to stop.
    Heed(usize),
    /// A payload ends that was asked to, or is killed.
    PayloadEnds(usize),
    /// SIGKILL arrives.
    Die(usize),
    /// Time passes, until somebody wakes up.
    Tick,
    // Below is what the outside does.
    Crash(usize),
    Terminate(usize),
    Reuse(usize),
    Meddle(Meddling),
}

impl Event {
    /// Whether processes and time do it by themselves.
    pub fn is_inner(self) -> bool {
        !matches!(
            self,
            Self::Start(..)
                | Self::Crash(_)
                | Self::Terminate(_)
                | Self::Reuse(_)
                | Self::Meddle(_)
        )
    }
}

impl World {
    pub fn new(setting: &Setting) -> Self {
        Self {
            path: None,
            aside: None,
            files: [None; FILES],
            processes: std::array::from_fn(|_| Process::new()),
            now: 0,
            meddlings: setting.meddlings,
            crashes: setting.crashes,
            signals: setting.signals,
            reuses: setting.reuses,
            started: false,
            excused: setting.excused,
        }
    }

    pub fn file(&self, file: u8) -> &File {
        self.files[usize::from(file)].as_ref().expect("it is open")
    }

    pub fn file_mut(&mut self, file: u8) -> &mut File {
        self.files[usize::from(file)].as_mut().expect("it is open")
    }

    pub fn fd(&self, slot: usize) -> u8 {
        self.processes[slot].fd.expect("it has a file open")
    }

    pub fn elapsed(&self, slot: usize) -> Duration {
        Duration::from_millis(u64::from(self.now - self.processes[slot].began) * 100)
    }

    pub fn who(slot: u8) -> Identity {
        Identity {
            pid: Pid::new(i64::from(slot) + 2).expect("a number above 0"),
            start_time: 1,
        }
    }

    fn create(&mut self, text: Text) -> u8 {
        let free = self.files.iter().position(Option::is_none);
        let free = free.expect("more files than the model has room for");
        self.files[free] = Some(File {
            lock: None,
            text,
            moved: false,
            renamed: 0,
        });
        u8::try_from(free).expect("few files")
    }

    /// `open` without and then with O_CREAT|O_EXCL, again and again: in effect one call.
    pub fn open_or_create(&mut self, slot: usize) {
        let file = self.path.unwrap_or_else(|| self.create(Text::Empty));
        self.path = Some(file);
        self.processes[slot].fd = Some(file);
    }

    /// Closes what it looks at; the lock goes with the description, and another description of a
    /// file that it holds has none.
    pub fn close(&mut self, slot: usize) {
        let process = &mut self.processes[slot];
        if let Some(file) = process.fd.take() {
            let held = process.current == Some(file) || process.earlier.contains(&Some(file));
            if !held {
                self.unlock(slot, file);
            }
        }
    }

    fn unlock(&mut self, slot: usize, file: u8) {
        let lock = &mut self.file_mut(file).lock;
        if lock.is_some_and(|owner| usize::from(owner) == slot) {
            *lock = None;
        }
    }

    pub fn write(&mut self, file: u8, text: Text) {
        let file = self.file_mut(file);
        file.text = text;
        file.moved = false;
    }

    /// The record of a holder for one of its files.
    pub fn entry(&self, slot: usize, file: u8, ended: bool) -> Text {
        Text::Record(Entry {
            slot: slot as u8,
            file,
            generation: self.processes[slot].generation,
            ended,
        })
    }

    /// One beyond everything that was ever written: the clock sees to that.
    pub fn next_generation(&self) -> u8 {
        let written = self
            .files
            .iter()
            .flatten()
            .filter_map(|file| file.text.entry());
        let read = self
            .processes
            .iter()
            .filter_map(|process| process.read.entry());
        let known = written.chain(read).map(|entry| entry.generation);
        let own = self.processes.iter().map(|process| process.generation);
        known.chain(own).max().unwrap_or(0) + 1
    }

    /// The proof: this process lives, is who the record means, and has this very file locked.
    pub fn proven(&self, slot: u8, file: u8) -> bool {
        self.processes[usize::from(slot)].is_gateway() && self.file(file).lock == Some(slot)
    }

    /// A file that the process has locked, with its own record that names it and is not ended.
    pub fn held_by(&self, slot: usize, but: Option<u8>) -> Option<u8> {
        (0..FILES as u8).find(|file| {
            let is_own = |entry: &Entry| {
                entry.file == *file && usize::from(entry.slot) == slot && !entry.ended
            };
            Some(*file) != but
                && self.files[usize::from(*file)].is_some_and(|found| {
                    found.lock == Some(slot as u8)
                        && found.text.entry().as_ref().is_some_and(is_own)
                })
        })
    }

    /// A holder's file is at the path, with its record in it.
    pub fn claim_is_whole(&self, slot: usize) -> bool {
        let process = &self.processes[slot];
        process.current.is_some_and(|current| {
            self.path == Some(current)
                && self.file(current).text == self.entry(slot, current, false)
        })
    }

    pub fn runs(&self, slot: usize) -> bool {
        self.processes[slot].at == At::Running && !self.processes[slot].stopping
    }

    /// A process is gone, in whatever way: the kernel closes all it had open.
    pub fn vanish(&mut self, slot: usize) {
        for file in self.files.iter_mut().flatten() {
            if file.lock == Some(slot as u8) {
                file.lock = None;
            }
        }
        let process = &mut self.processes[slot];
        *process = Process {
            at: At::Gone,
            payload: process.payload,
            payload_asked: process.payload_asked,
            // The run of a payload that is left keeps its number.
            generation: if process.payload == Life::Alive {
                process.generation
            } else {
                0
            },
            ..Process::new()
        };
    }

    pub fn begin(&mut self, slot: usize, kind: Kind, setting: &Setting) {
        self.started |= !matches!(kind, Kind::Stop | Kind::Probe);
        self.processes[slot] = Process {
            kind,
            at: match kind {
                Kind::Stop => At::View,
                _ => At::Open,
            },
            began: self.now,
            takeover: Some(Takeover::new(setting.rules(kind))),
            ..Process::new()
        };
    }

    pub fn meddle(&mut self, meddling: Meddling) {
        match meddling {
            Meddling::Remove => self.path = None,
            Meddling::Replace => self.path = Some(self.create(Text::Empty)),
            Meddling::Copy => {
                let text = self.path.map_or(Text::Empty, |path| self.file(path).text);
                self.path = Some(self.create(text));
            }
            Meddling::Overwrite => {
                if let Some(path) = self.path {
                    self.write(path, Text::Junk);
                }
            }
            Meddling::MoveAway => {
                self.aside = self.path.take();
                self.touch_times(self.aside);
            }
            Meddling::MoveBack => {
                self.path = self.aside.take();
                self.touch_times(self.path);
            }
        }
    }

    fn touch_times(&mut self, file: Option<u8>) {
        if let Some(file) = file {
            self.file_mut(file).moved = true;
            self.file_mut(file).renamed += 1;
        }
    }

    /// Away and back within the few calls of one start: that never makes two payloads, but a start
    /// and a holder may then both give way. It is tried where that does not matter.
    fn may_move_back(&self) -> bool {
        let starts = |process: &Process| {
            matches!(
                process.at,
                At::CompareFirst
                    | At::Search(_)
                    | At::Sweep
                    | At::WriteRecord
                    | At::CompareAfterRecord
            )
        };
        self.excused || !self.processes.iter().any(starts)
    }

    pub fn may_meddle(&self, meddling: Meddling) -> bool {
        self.meddlings > 0
            && match meddling {
                Meddling::MoveBack => self.aside.is_some() && self.may_move_back(),
                Meddling::MoveAway => self.path.is_some() && self.aside.is_none(),
                _ => self.path.is_some(),
            }
    }

    /// Gives files the numbers of their order, forgets those that nobody can reach any more, and
    /// writes generations by their rank: so worlds that differ only in names are one.
    pub fn tidy(&mut self) {
        let names = self.reachable();
        let new_name = |old: u8| {
            names
                .iter()
                .position(|name| *name == old)
                .map(|at| at as u8)
        };
        let mut files = [None; FILES];
        for (new, old) in names.iter().enumerate() {
            files[new] = self.files[usize::from(*old)];
        }
        self.files = files;
        self.path = self.path.and_then(new_name);
        self.aside = self.aside.and_then(new_name);
        // A record may name a file that is gone: no file has that number again.
        let rename = |text: &mut Text| {
            if let Text::Record(entry) = text {
                entry.file = new_name(entry.file).unwrap_or(u8::MAX);
            }
        };
        for file in self.files.iter_mut().flatten() {
            rename(&mut file.text);
        }
        for process in &mut self.processes {
            rename(&mut process.read);
            for file in process.files_mut() {
                *file = file.and_then(new_name);
            }
            process.target = process
                .target
                .map(|(slot, file)| (slot, new_name(file).unwrap_or(u8::MAX)));
        }
        for process in &mut self.processes {
            if process.payload == Life::Gone && !process.lives() {
                (process.payload, process.payload_asked) = (Life::None, false);
                process.generation = 0;
            }
        }
        self.rank_generations();
        self.forget_time();
    }

    /// Only how long ago somebody began matters.
    fn forget_time(&mut self) {
        let counts = |process: &&mut Process| process.takeover.is_some();
        let first = self
            .processes
            .iter_mut()
            .filter(counts)
            .map(|process| process.began)
            .min();
        let passed = first.unwrap_or(self.now);
        self.now -= passed;
        for process in self.processes.iter_mut().filter(counts) {
            process.began -= passed;
            process.until = process.until.map(|until| until - passed);
        }
    }

    fn reachable(&self) -> Vec<u8> {
        let mut names: Vec<u8> = Vec::with_capacity(FILES);
        let held = self.processes.iter().flat_map(|process| {
            [process.fd, process.current]
                .into_iter()
                .chain(process.earlier)
        });
        for file in [self.path, self.aside].into_iter().chain(held).flatten() {
            if !names.contains(&file) {
                names.push(file);
            }
        }
        names
    }

    fn rank_generations(&mut self) {
        let mut known: u64 = 1;
        let mut each = |generation: &mut u8| known |= 1 << *generation;
        self.each_generation(&mut each);
        let rank = |generation: u8| (known & ((1 << generation) - 1)).count_ones() as u8;
        self.each_generation(&mut |generation| *generation = rank(*generation));
    }

    fn each_generation(&mut self, act: &mut dyn FnMut(&mut u8)) {
        let in_text = |text: &mut Text, act: &mut dyn FnMut(&mut u8)| {
            if let Text::Record(entry) = text {
                act(&mut entry.generation);
            }
        };
        for file in self.files.iter_mut().flatten() {
            in_text(&mut file.text, act);
        }
        for process in &mut self.processes {
            in_text(&mut process.read, act);
            act(&mut process.generation);
        }
    }
}
