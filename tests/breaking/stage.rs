//! One point of a sweep: a fresh folder, a bystander, and what must be true afterwards.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::form::Chance;
use crate::harness::{Canary, End, Payload, Process, Scene, Signal, stat_field, until};
use crate::trace::{Report, Struck};
use crate::world;

/// How soon the next start must be up.
pub const NEXT: Duration = Duration::from_secs(2);

/// How long anything may take before it counts as hung.
pub const HUNG: Duration = Duration::from_secs(20);

/// A command that stays, and reports if the pid file was not locked when it started. It waits a
/// moment before: after a kill of the gateway the kernel frees the lock before it ends the command.
pub const STAYS: Payload<'static> = Payload::Script(concat!(
    "flock -n \"$GATEWAY_PID_FILE\" true && sleep 0.1 && echo $$ >>\"$SCENE/unlocked\"\n",
    "exec sleep infinity\n"
));

/// The same, with a process of its own session that outlives a crash of the gateway.
pub const LEAVES_ORPHAN: Payload<'static> =
    Payload::Script("setsid sleep infinity &\necho $! >\"$SCENE/orphan\"\nexec sleep infinity\n");

/// What may lie in the folder afterwards.
const KNOWN_FILES: [&str; 8] = [
    "alone",
    "bin",
    "gateway.pid",
    "marks",
    "orphan",
    "said",
    "starts",
    "away",
];

pub struct Stage {
    kept: RefCell<Vec<Process>>,
    pub scene: Scene,
    pub canary: Canary,
    pub stays: String,
}

impl Stage {
    pub fn new() -> Self {
        let scene = Scene::new();
        Self {
            kept: RefCell::default(),
            canary: Canary::new(),
            stays: scene.payload(STAYS),
            scene,
        }
    }

    /// `run` with these options, and a command that stays.
    pub fn run<'a>(&'a self, options: &[&'a str]) -> Vec<&'a str> {
        [&["run"], options, &["--", &self.stays]].concat()
    }

    /// The program as a command, and where it says what it has to say.
    pub fn saying(&self, args: Vec<&str>) -> (Command, PathBuf) {
        let mut command = self.scene.gateway(args);
        let (stdout, stderr) = self.scene.words();
        let file = |path| fs::File::create(path).expect("a file for what it says");
        command.stdout(file(&stdout)).stderr(file(&stderr));
        (command, stderr)
    }

    /// A holder that was not asked to go holds as before.
    #[track_caller]
    pub fn assert_kept_are_up(&self, what: &str) {
        for kept in self.kept.borrow_mut().iter_mut() {
            assert!(
                kept.is_running() && self.is_up(kept.pid()),
                "{what}: the holder was harmed: {}",
                kept.stderr()
            );
        }
    }

    /// Another gateway holds, and its command runs.
    #[track_caller]
    pub fn holder(&self) -> Process {
        self.up(self.scene.start(self.run(&[])), HUNG)
    }

    /// A gateway that the next start finds, or has ended in order by then.
    pub fn keep(&self, process: Process) {
        self.kept.borrow_mut().push(process);
    }

    /// Waits until this gateway's command runs.
    #[track_caller]
    pub fn up(&self, mut process: Process, limit: Duration) -> Process {
        let pid = process.pid();
        until(&format!("the command of pid {pid}"), limit, || {
            let ended = process.try_end();
            assert!(ended.is_none(), "{ended:?}: {}", process.stderr());
            self.is_up(pid).then_some(())
        });
        process
    }

    /// Whether the record names this gateway, and its command runs.
    pub fn is_up(&self, pid: u32) -> bool {
        self.scene.record_if_any().is_some_and(|record| {
            // Its number may have been that of the last holder, too.
            let started = record.number("/start_time").to_string();
            record.pid() == pid
                && stat_field(pid, 22) == Some(started)
                && record.has_payload()
                && !record.is_ended()
                && self
                    .scene
                    .started_payloads()
                    .contains(&record.payload_pid())
        })
    }

    /// A holder, and the process that its command leaves behind when the gateway crashes.
    #[track_caller]
    pub fn leaver(&self) -> (Process, u32) {
        let payload = self.scene.payload(LEAVES_ORPHAN);
        let holder = self.up(self.scene.start(["run", "--", &payload]), HUNG);
        let orphan = until("the orphan", HUNG, || {
            let text = fs::read_to_string(self.scene.path("orphan")).ok()?;
            text.trim().parse().ok()
        });
        (holder, orphan)
    }

    /// A gateway that was killed, and a process that its command left; the record names the
    /// bystander wherever it names a pid.
    #[track_caller]
    pub fn crashed(&self) -> u32 {
        let (mut holder, orphan) = self.leaver();
        holder.crash();
        self.plant();
        orphan
    }

    fn plant(&self) {
        let text = String::from_utf8(self.scene.bytes()).expect("a record is text");
        let record = self.scene.record();
        let canary = format!("\"pid\":{}", self.canary.pid());
        let text = text
            .replace(&format!("\"pid\":{}", record.pid()), &canary)
            .replace(&format!("\"pid\":{}", record.payload_pid()), &canary)
            .replacen(
                &format!("{}\n", record.pid()),
                &format!("{}\n", self.canary.pid()),
                1,
            );
        // Pid and start time together are an identity: who has the pid now has started later.
        let start = |pointer| record.number(pointer);
        let earlier = start("/start_time") - 100;
        let text = [start("/start_time"), start("/payload/start_time")]
            .iter()
            .fold(text, |text, start| {
                text.replace(
                    &format!("\"start_time\":{start}"),
                    &format!("\"start_time\":{earlier}"),
                )
            });
        fs::write(self.scene.pid_file(), text).expect("the pid file can be written");
    }

    /// What must be true after whatever was done: the next takeover works at the first try and
    /// soon, and ends in order, and nothing is left.
    #[track_caller]
    pub fn assert_recovers(&self) {
        let began = Instant::now();
        let next = self.scene.start(self.run(&["--replace"]));
        let mut next = self.up(next, NEXT);
        let took = began.elapsed();
        assert!(took < NEXT, "the next start took {took:?}");
        self.assert_unharmed();
        assert_eq!(self.scene.lockers(), [next.pid()]);
        for mut kept in self.kept.take() {
            // Its command ended of the TERM that it was passed.
            assert_eq!(
                kept.end_within(HUNG),
                End::of(Signal::TERM),
                "{}",
                kept.stderr()
            );
        }
        next.signal(Signal::TERM);
        assert_eq!(
            next.end_within(HUNG),
            End::of(Signal::TERM),
            "{}",
            next.stderr()
        );
        assert!(self.scene.record().is_ended());
        self.assert_nothing_left();
    }

    /// Nobody met another command, nobody ran without the lock, no bystander was signalled.
    #[track_caller]
    pub fn assert_unharmed(&self) {
        self.scene.assert_never_two_payloads();
        assert_eq!(
            self.scene.lines("unlocked"),
            Vec::<String>::new(),
            "ran without the lock"
        );
        self.canary.assert_heard_nothing();
    }

    /// No process, and no file but those we know.
    #[track_caller]
    pub fn assert_nothing_left(&self) {
        let mut left = Vec::new();
        let known = [self.canary.pid()];
        let began = Instant::now();
        loop {
            world::reap();
            left.clear();
            left.extend(world::others(&known));
            if left.is_empty() {
                break;
            }
            let described: Vec<String> = left.iter().map(|pid| world::describe(*pid)).collect();
            assert!(began.elapsed() < NEXT, "left: {described:?}");
            std::thread::sleep(Duration::from_millis(2));
        }
        assert_eq!(self.scene.lockers(), Vec::<u32>::new());
        let files: BTreeSet<String> = fs::read_dir(self.scene.path(""))
            .expect("our folder")
            .map(|entry| {
                entry
                    .expect("an entry")
                    .file_name()
                    .to_string_lossy()
                    .into_owned()
            })
            .filter(|name| !KNOWN_FILES.contains(&name.as_str()))
            .collect();
        assert_eq!(files, BTreeSet::new(), "files left");
    }
}

/// What a sweep came to.
#[derive(Default)]
pub struct Tally {
    tried: u64,
    failed: Vec<String>,
}

impl Tally {
    /// Performs one point, and counts it if it struck anything. Says whether it did.
    pub fn point(&mut self, what: &str, point: impl FnOnce() -> Option<Struck>) -> bool {
        match catch_unwind(AssertUnwindSafe(point)) {
            Ok(None) => return false,
            Ok(Some(_)) => {}
            Err(cause) => {
                let why = cause
                    .downcast_ref::<String>()
                    .cloned()
                    .or_else(|| cause.downcast_ref::<&str>().map(|text| (*text).to_owned()));
                let why = why.unwrap_or_default();
                eprintln!("BROKEN {what}: {why}");
                self.failed.push(format!("{what}: {why}"));
            }
        }
        self.tried += 1;
        true
    }

    /// Says how many points were tried and held, and fails if one did not hold.
    #[track_caller]
    pub fn close(self, sweep: &str, chance: &Chance) {
        let held = self.tried - self.failed.len() as u64;
        eprintln!(
            "figure: {sweep}: {} points tried, {held} held (seed {})",
            self.tried,
            chance.seed()
        );
        assert!(self.tried > 0, "no point was tried");
        assert!(
            self.failed.is_empty(),
            "{} points broke: {:#?}",
            self.failed.len(),
            self.failed
        );
    }
}

/// The points to try, by how many calls an untouched run makes.
pub fn points(chance: &mut Chance, untouched: &Report, short_step: u64) -> Vec<u64> {
    crate::form::points(chance, untouched.calls, short_step)
}
