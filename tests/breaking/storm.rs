//! Many gateways at once, and everything that can be done to them, by chance.
//!
//! Two detectors look for payloads that overlap: a lock of their own that the kernel releases, and
//! an eye on `/proc`. Probers look at the file all the while.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::form::{Chance, choose};
use crate::harness::{End, Output, Payload, Process, Signal, environment};
use crate::stage::{HUNG, Stage};
use crate::world::alone;

/// Commands of all kinds. Each has the first detector in its first lines.
const KINDS: [Payload<'static>; 7] = [
    Payload::Plain,
    Payload::Graceful,
    Payload::Slow("0.2"),
    Payload::Deaf,
    Payload::Script("sleep 0.05\nexit 0\n"),
    Payload::Script("sleep 0.02\nexit 3\n"),
    Payload::Script(
        "setsid sleep infinity &\n(sleep infinity &)\nsleep 0.1\nexec sleep infinity\n",
    ),
];

/// What `run` is called with.
const MODES: [&[&str]; 6] = [
    &[],
    &["--replace", "--kill-after", "500ms"],
    &["--replace", "--kill-after", "1s", "--timeout", "3s"],
    &["--replace"],
    &["--wait", "--timeout", "2s"],
    &["--wait"],
];

/// How many gateways there may be at a time.
fn crowd() -> usize {
    choose(30, 120)
}

fn length() -> Duration {
    choose(Duration::from_secs(10), Duration::from_secs(180))
}

struct Storm<'a> {
    stage: &'a Stage,
    chance: Chance,
    commands: Vec<String>,
    gateways: Vec<Process>,
    stopped: Vec<(u32, Instant)>,
    away: Vec<PathBuf>,
    deeds: BTreeMap<&'static str, u64>,
    ends: BTreeMap<String, u64>,
}

impl<'a> Storm<'a> {
    fn new(stage: &'a Stage, chance: Chance) -> Self {
        Self {
            commands: KINDS.map(|kind| stage.scene.payload(kind)).into(),
            stage,
            chance,
            gateways: Vec::new(),
            stopped: Vec::new(),
            away: Vec::new(),
            deeds: BTreeMap::new(),
            ends: BTreeMap::new(),
        }
    }

    fn blow(&mut self, length: Duration) {
        let until = Instant::now() + length;
        while Instant::now() < until {
            self.wake_the_stopped(false);
            self.collect();
            self.deed();
            let pause = self.chance.below(12);
            std::thread::sleep(Duration::from_millis(pause));
        }
    }

    fn deed(&mut self) {
        let deed = match self.chance.below(100) {
            0..=44 => self.start(),
            45..=52 => self.signal(Signal::TERM, "TERM"),
            53..=54 => self.signal(Signal::INT, "INT"),
            55..=69 => self.signal(Signal::KILL, "KILL"),
            70..=79 => self.stop_for_a_while(),
            80..=87 => self.remove(),
            88..=92 => self.move_away(),
            93..=95 => self.move_back(),
            _ => self.ask_to_stop(),
        };
        *self.deeds.entry(deed).or_default() += 1;
    }

    fn start(&mut self) -> &'static str {
        if self.gateways.len() >= crowd() {
            return "nothing";
        }
        let mode = *self.chance.pick(&MODES);
        let command = self.chance.pick(&self.commands).clone();
        let args = [&["run", "--stop-timeout", "1s"], mode, &["--", &command]].concat();
        self.gateways.push(self.stage.scene.start(args));
        "start"
    }

    fn ask_to_stop(&mut self) -> &'static str {
        let args = ["stop", "--kill-after", "1s"];
        self.gateways.push(self.stage.scene.start(args));
        "gateway stop"
    }

    fn one(&mut self) -> Option<u32> {
        if self.gateways.is_empty() {
            return None;
        }
        let at = self.chance.below(self.gateways.len() as u64);
        Some(self.gateways[usize::try_from(at).expect("an index")].pid())
    }

    fn signal(&mut self, signal: Signal, name: &'static str) -> &'static str {
        if let Some(pid) = self.one() {
            crate::harness::signal(pid, signal);
        }
        name
    }

    fn stop_for_a_while(&mut self) -> &'static str {
        if let Some(pid) = self.one() {
            crate::harness::signal(pid, Signal::STOP);
            let length = Duration::from_millis(self.chance.below(400));
            self.stopped.push((pid, Instant::now() + length));
        }
        "STOP"
    }

    fn wake_the_stopped(&mut self, all: bool) {
        self.stopped.retain(|(pid, until)| {
            let due = all || Instant::now() >= *until;
            if due {
                crate::harness::signal(*pid, Signal::CONT);
            }
            !due
        });
    }

    fn remove(&mut self) -> &'static str {
        let _ = fs::remove_file(self.stage.scene.pid_file());
        "rm"
    }

    fn move_away(&mut self) -> &'static str {
        let number = self.chance.next();
        let to = self.stage.scene.path(format!("away/{number}"));
        if fs::rename(self.stage.scene.pid_file(), &to).is_ok() {
            self.away.push(to);
        }
        "mv away"
    }

    fn move_back(&mut self) -> &'static str {
        if let Some(from) = self.away.pop() {
            let _ = fs::rename(from, self.stage.scene.pid_file());
        }
        "mv back"
    }

    /// Looks at those that have ended.
    fn collect(&mut self) {
        let mut at = 0;
        while at < self.gateways.len() {
            if self.gateways[at].is_running() {
                at += 1;
            } else {
                let output = self.gateways.swap_remove(at).output();
                assert_end_is_documented(&output);
                *self.ends.entry(format!("{:?}", output.end)).or_default() += 1;
            }
        }
    }

    /// Everybody who is left is told to go, one way or the other.
    fn calm(&mut self) {
        self.wake_the_stopped(true);
        for gateway in &self.gateways {
            let signal = *self
                .chance
                .pick(&[Signal::TERM, Signal::TERM, Signal::KILL]);
            gateway.signal(signal);
        }
        for mut gateway in std::mem::take(&mut self.gateways) {
            gateway.end_within(HUNG);
            assert_end_is_documented(&gateway.output());
        }
    }
}

#[track_caller]
fn assert_end_is_documented(output: &Output) {
    let documented = match output.end {
        // 3 is a command's own; 137 one that was killed.
        End::Code(code) => matches!(code, 0 | 3 | 80..=84 | 128..=143),
        End::Signal(signal) => [2, 9, 15].contains(&signal),
    };
    assert!(documented, "{output:#?}");
    assert!(
        output
            .stderr
            .lines()
            .all(|line| line.starts_with("gateway: ")),
        "{output:#?}"
    );
}

/// The second detector: processes of two runs that live at the same time.
pub struct Eye {
    over: Arc<AtomicBool>,
    found: Arc<Mutex<Vec<String>>>,
    thread: JoinHandle<()>,
}

impl Eye {
    pub fn open() -> Self {
        let (over, found) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let (told, mine) = (over.clone(), Arc::clone(&found));
        let thread = std::thread::spawn(move || {
            while !told.load(Ordering::SeqCst) {
                let seen = overlaps();
                let found: &Mutex<Vec<String>> = &mine;
                found.lock().expect("not poisoned").extend(seen);
                std::thread::sleep(Duration::from_millis(3));
            }
        });
        Self {
            over,
            found,
            thread,
        }
    }

    pub fn has_seen_something(&self) -> bool {
        !self.found.lock().expect("not poisoned").is_empty()
    }

    /// All that it has seen.
    pub fn close(self) -> Vec<String> {
        self.over.store(true, Ordering::SeqCst);
        self.thread.join().expect("the eye does not fail");
        std::mem::take(&mut self.found.lock().expect("not poisoned"))
    }
}

fn overlaps() -> Vec<String> {
    let runs: Vec<(u32, String)> = crate::world::others(&[])
        .into_iter()
        .filter_map(|pid| Some((pid, run_of(pid)?)))
        .collect();
    // Both were seen, and the first one is still there after the second one was.
    let lives = |pid: u32, run: &String| run_of(pid).as_ref() == Some(run);
    runs.iter()
        .filter_map(|(pid, run)| {
            let (other, theirs) = runs.iter().find(|(_, theirs)| theirs != run)?;
            let both = lives(*pid, run) && lives(*other, theirs) && lives(*pid, run);
            both.then(|| format!("{pid} of {run} and {other} of {theirs}"))
        })
        .collect()
}

/// The run that a process belongs to.
fn run_of(pid: u32) -> Option<String> {
    let run = environment(pid).remove(OsStr::new("GATEWAY_RUN_ID"))?;
    Some(run.to_string_lossy().into_owned())
}

/// Those who only look. None may ever fail in a way of its own.
struct Probers {
    over: Arc<AtomicBool>,
    looks: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
    wrong: Arc<Mutex<Vec<String>>>,
}

impl Probers {
    fn new(stage: &Stage) -> Self {
        let scene = &stage.scene;
        let file = scene.pid_file();
        let quietly = |mut command: Command| {
            command.stdin(Stdio::null());
            command
        };
        let mut flock = scene.command("flock");
        flock
            .args(["--nonblock", "--no-fork"])
            .arg(&file)
            .arg("true");
        let mut pkill = scene.command("pkill");
        pkill.args(["-0", "-L", "-F"]).arg(&file);
        let commands: Vec<(Command, &'static [i32])> = vec![
            (quietly(scene.gateway(["status", "--json"])), &[0, 1, 3, 4]),
            (quietly(scene.bare(["list", "--json"])), &[0]),
            (flock, &[0, 1]),
            // 3: the file is not there, not locked, or has no pid.
            (pkill, &[0, 1, 3]),
        ];
        let mut probers = Self {
            over: Arc::default(),
            looks: Arc::default(),
            threads: Vec::new(),
            wrong: Arc::default(),
        };
        for (command, codes) in commands {
            probers.look_with(command, codes);
        }
        probers
    }

    fn look_with(&mut self, mut command: Command, codes: &'static [i32]) {
        let (over, looks, wrong) = (self.over.clone(), self.looks.clone(), self.wrong.clone());
        self.threads.push(std::thread::spawn(move || {
            while !over.load(Ordering::SeqCst) {
                let output = command.output().expect("a prober");
                if !output
                    .status
                    .code()
                    .is_some_and(|code| codes.contains(&code))
                {
                    wrong
                        .lock()
                        .expect("not poisoned")
                        .push(format!("{command:?}: {output:?}"));
                }
                looks.fetch_add(1, Ordering::SeqCst);
                std::thread::sleep(Duration::from_millis(15));
            }
        }));
    }

    #[track_caller]
    fn close(self) -> u64 {
        self.over.store(true, Ordering::SeqCst);
        for thread in self.threads {
            thread.join().expect("a prober does not fail");
        }
        let wrong = self.wrong.lock().expect("not poisoned");
        assert!(wrong.is_empty(), "{wrong:#?}");
        self.looks.load(Ordering::SeqCst)
    }
}

/// With nobody there but those who look, nobody is refused.
#[track_caller]
fn assert_probers_refuse_nobody(stage: &Stage) {
    let brief = stage.scene.payload(Payload::Script("exit 5\n"));
    for _ in 0..choose(20, 200) {
        stage.scene.finish(["run", "--", &brief]).assert_code(5);
    }
}

fn storm(chance: Chance) {
    let seed = chance.seed();
    eprintln!("figure: storm: seed {seed}");
    let stage = Stage::new();
    fs::create_dir(stage.scene.path("away")).expect("a folder");
    let eye = Eye::open();
    let probers = Probers::new(&stage);
    let mut storm = Storm::new(&stage, chance);
    storm.blow(length());
    storm.calm();
    let (deeds, ends) = (storm.deeds, storm.ends);
    assert_probers_refuse_nobody(&stage);
    let looks = probers.close();
    stage.assert_recovers();
    assert_eq!(eye.close(), Vec::<String>::new(), "overlaps seen");
    let generations = stage.scene.generations();
    assert!(
        generations.is_sorted_by(|one, next| one < next),
        "fencing tokens only grow: {generations:?}"
    );
    // Less would be no storm: the floors are a tenth of what a slow machine with two cores does.
    let rounds = length().as_secs();
    assert!(looks >= 10 * rounds, "{looks} looks");
    assert!(
        generations.len() as u64 >= rounds / 2,
        "{} commands",
        generations.len()
    );
    for (deed, floor) in [
        ("start", 5 * rounds),
        ("KILL", rounds),
        ("TERM", rounds),
        ("STOP", rounds),
        ("rm", rounds),
        ("mv away", rounds / 2),
        ("gateway stop", rounds / 2),
    ] {
        let done = deeds.get(deed).copied().unwrap_or(0);
        assert!(done >= floor, "{deed}: {deeds:?}");
    }
    eprintln!(
        "figure: storm: {:?}, {} commands ran, never two; {looks} looks (seed {seed}); {deeds:?}; ends {ends:?}",
        length(),
        generations.len()
    );
}

#[test]
fn a_storm_never_has_two_payloads_and_is_always_recovered_from() {
    alone(|| storm(Chance::new()));
}
