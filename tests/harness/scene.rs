//! A fresh folder, and everything that is started in it.

use std::cell::Cell;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Once;

use serde_json::Value;

use super::lock::lockers;
use super::payload::Payload;
use super::process::{MARK, Output, Process, end_all_of, members_of_scene, remember};
use super::record::Record;
use super::tools::SEARCH;
use super::wait::{SOON, until, wait_until};

/// One test's folder. When it is dropped, everything that was started in it is ended.
pub struct Scene {
    folder: tempfile::TempDir,
    root: PathBuf,
    started: Cell<u32>,
    gateway: PathBuf,
}

impl Scene {
    pub fn new() -> Self {
        leave_the_terminal();
        let folder = tempfile::tempdir().expect("a temporary folder");
        // Canonical, because that is how the program names paths.
        let root = fs::canonicalize(folder.path()).expect("a folder has a name");
        for part in ["said", "bin"] {
            fs::create_dir(root.join(part)).expect("a folder");
        }
        Self {
            folder,
            root,
            started: Cell::new(0),
            gateway: PathBuf::from(env!("CARGO_BIN_EXE_gateway")),
        }
    }

    /// A folder that every user may enter, with a copy of the program that every user may run.
    pub fn for_everybody() -> Self {
        let mut scene = Self::new();
        for folder in [scene.path(""), scene.path("bin")] {
            set_mode(&folder, 0o755);
        }
        let copy = scene.path("bin/gateway");
        fs::copy(&scene.gateway, &copy).expect("a copy of the program");
        scene.gateway = copy;
        scene
    }

    /// A path inside.
    pub fn path(&self, inside: impl AsRef<Path>) -> PathBuf {
        if inside.as_ref() == Path::new("") {
            self.root.clone()
        } else {
            self.root.join(inside)
        }
    }

    /// The pid file that [`Self::gateway`] speaks of.
    pub fn pid_file(&self) -> PathBuf {
        self.path("gateway.pid")
    }

    /// The program under test.
    pub fn program(&self) -> &Path {
        &self.gateway
    }

    /// A command with a clean environment that marks it as part of the scene.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", SEARCH)
            .env("HOME", &self.root)
            .env("LANG", "C.UTF-8")
            .env("GATEWAY_STATE_DIR", self.path("state"))
            .env(MARK, &self.root)
            .current_dir(&self.root)
            .stdin(Stdio::null());
        command
    }

    /// The program, and nothing said about the pid file.
    pub fn bare<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = self.command(&self.gateway);
        command.args(args);
        command
    }

    /// Makes the pid file of this name, with this in it.
    pub fn write_named(&self, name: &str, text: &str) {
        let folder = self.path("state").join(name);
        fs::create_dir_all(&folder).expect("a folder");
        fs::write(folder.join("gateway.pid"), text).expect("a pid file");
    }

    /// The program, speaking of the scene's pid file.
    pub fn gateway<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = self.command(&self.gateway);
        command.arg("-f").arg(self.pid_file()).args(args);
        command
    }

    /// The same command, run by another one: program, arguments, environment and folder go behind
    /// the runner's options.
    pub fn behind(&self, runner: &str, options: &[&str], command: &Command) -> Command {
        let mut outer = self.command(runner);
        outer
            .args(options)
            .arg(command.get_program())
            .args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => outer.env(name, value),
                None => outer.env_remove(name),
            };
        }
        if let Some(folder) = command.get_current_dir() {
            outer.current_dir(folder);
        }
        outer
    }

    /// Starts any command; what it says goes to files.
    #[track_caller]
    pub fn spawn(&self, command: Command) -> Process {
        let (stdout, stderr) = self.words();
        Process::start(command, stdout, stderr)
    }

    /// Two names for files that nobody has written to yet.
    pub fn words(&self) -> (PathBuf, PathBuf) {
        let number = self.started.get();
        self.started.set(number + 1);
        (
            self.path(format!("said/{number}.out")),
            self.path(format!("said/{number}.err")),
        )
    }

    /// Starts the program.
    #[track_caller]
    pub fn start<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Process {
        self.spawn(self.gateway(args))
    }

    /// Runs the program to its end.
    #[track_caller]
    pub fn finish<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Output {
        self.start(args).output()
    }

    /// Runs any command to its end.
    #[track_caller]
    pub fn finish_command(&self, command: Command) -> Output {
        self.spawn(command).output()
    }

    // ------------------------------------------------------------ payloads

    /// Writes a payload, and gives its path.
    pub fn payload(&self, payload: Payload<'_>) -> String {
        let number = self.started.get();
        self.started.set(number + 1);
        let path = self.path(format!("bin/payload-{number}"));
        self.script(&path, &payload.text());
        path.to_str().expect("the folder's name is text").to_owned()
    }

    /// Writes an executable file.
    pub fn script(&self, path: &Path, text: &str) {
        fs::write(path, text).expect("a script");
        set_mode(path, 0o755);
    }

    /// A gateway that holds, with its payload running.
    #[track_caller]
    pub fn hold(&self) -> Process {
        self.hold_with(&[], Payload::Plain)
    }

    /// The same, with options of `run` and a payload.
    #[track_caller]
    pub fn hold_with(&self, options: &[&str], payload: Payload<'_>) -> Process {
        let payload = self.payload(payload);
        let process = self.start(["run"].iter().chain(options).chain(&["--", &payload]));
        self.wait_for_payload(process)
    }

    /// Waits until this gateway's payload runs, has its record, and has passed its first lines.
    #[track_caller]
    pub fn wait_for_payload(&self, mut process: Process) -> Process {
        let pid = process.pid();
        until(&format!("the payload of pid {pid}"), SOON, || {
            let ended = process.try_end();
            assert!(
                ended.is_none(),
                "the holder ended: {ended:?}, {}",
                process.stderr()
            );
            let record = self.record_if_any()?;
            (record.pid() == pid && record.has_payload() && !record.is_ended())
                .then(|| record.payload_pid())
                .filter(|payload| self.started_payloads().contains(payload))
        });
        process
    }

    /// The pids of all payloads that have started, in order.
    pub fn started_payloads(&self) -> Vec<u32> {
        self.lines("starts")
            .iter()
            .filter_map(|line| line.split(' ').next()?.parse().ok())
            .collect()
    }

    /// The generations that the payloads were given, in order.
    pub fn generations(&self) -> Vec<u64> {
        self.lines("starts")
            .iter()
            .filter_map(|line| line.split(' ').nth(1)?.parse().ok())
            .collect()
    }

    /// The lines of a file inside; none if it is not there.
    pub fn lines(&self, inside: &str) -> Vec<String> {
        let text = fs::read(self.path(inside)).unwrap_or_default();
        String::from_utf8_lossy(&text)
            .lines()
            .map(str::to_owned)
            .collect()
    }

    /// Waits for a line in the file `marks`, which payloads write to.
    #[track_caller]
    pub fn wait_for_mark(&self, mark: &str) {
        wait_until(&format!("{mark:?} in the payload's marks"), SOON, || {
            self.lines("marks").iter().any(|line| line == mark)
        });
    }

    /// Waits for the process that a payload has written down in the file `child`.
    #[track_caller]
    pub fn wait_for_child(&self) -> u32 {
        until("the payload's child", SOON, || {
            self.lines("child").first()?.parse().ok().map(remember)
        })
    }

    /// Fails if a payload ever met another.
    #[track_caller]
    pub fn assert_never_two_payloads(&self) {
        assert_eq!(
            self.lines("overlap"),
            Vec::<String>::new(),
            "payloads that met another"
        );
    }

    // ------------------------------------------------------------ the file

    pub fn bytes(&self) -> Vec<u8> {
        fs::read(self.pid_file()).expect("the pid file can be read")
    }

    #[track_caller]
    pub fn record(&self) -> Record {
        let bytes = self.bytes();
        Record::read(&bytes)
            .unwrap_or_else(|| panic!("no record: {:?}", String::from_utf8_lossy(&bytes)))
    }

    /// Read while somebody may be writing it.
    pub fn record_if_any(&self) -> Option<Record> {
        Record::read(&fs::read(self.pid_file()).ok()?)
    }

    /// Waits until the record fits.
    #[track_caller]
    pub fn wait_for_record(&self, what: &str, fits: impl Fn(&Record) -> bool) -> Record {
        until(what, SOON, || {
            self.record_if_any().filter(|record| fits(record))
        })
    }

    /// Who has the scene's pid file locked.
    pub fn lockers(&self) -> Vec<u32> {
        lockers(&self.pid_file())
    }

    /// Everything about the pid file that a start that was refused must not change.
    pub fn footprint(&self) -> Footprint {
        Footprint::of(&self.pid_file())
    }

    // ------------------------------------------------------------ looking

    /// `status --json`, whatever its code.
    #[track_caller]
    pub fn status(&self) -> Value {
        let output = self.finish(["status", "--json"]);
        serde_json::from_str(&output.stdout).unwrap_or_else(|cause| panic!("{cause}: {output:#?}"))
    }

    /// The state that `status` tells.
    #[track_caller]
    pub fn state(&self) -> String {
        self.status()["state"].as_str().expect("a state").to_owned()
    }

    /// Living processes of this scene.
    pub fn members(&self) -> Vec<u32> {
        members_of_scene(&self.root)
    }

    /// Waits until nothing lives that was started here.
    #[track_caller]
    pub fn wait_until_empty(&self) {
        wait_until("all processes of the scene are gone", SOON, || {
            self.members().is_empty()
        });
    }
}

impl Default for Scene {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let file = fs::read(self.pid_file()).unwrap_or_default();
            eprintln!("-- the pid file: {}", String::from_utf8_lossy(&file));
        }
        end_all_of(&self.root);
    }
}

/// A file, as a stranger could see it changed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Footprint {
    bytes: Vec<u8>,
    inode: u64,
    mode: u32,
    owner: (u32, u32),
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Footprint {
    pub fn of(path: &Path) -> Self {
        let file = fs::metadata(path).expect("the file is there");
        Self {
            bytes: fs::read(path).expect("the file can be read"),
            inode: file.ino(),
            mode: file.mode(),
            owner: (file.uid(), file.gid()),
            modified: (file.mtime(), file.mtime_nsec()),
            changed: (file.ctime(), file.ctime_nsec()),
        }
    }
}

pub fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("chmod");
}

/// Who runs the tests from a terminal must see what others see: children without one. We keep our
/// process group, so that Ctrl-C still ends the tests.
fn leave_the_terminal() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let Ok(terminal) = fs::File::open("/dev/tty") else {
            return;
        };
        // SAFETY: TIOCNOTTY takes no argument, and the descriptor is open for the whole call.
        unsafe { libc::ioctl(std::os::fd::AsRawFd::as_raw_fd(&terminal), libc::TIOCNOTTY) };
    });
}
