//! A real systemd as pid 1 of namespaces of its own, for one test.
//!
//! Nothing of the host is touched: the root is read-only inside, and all that
//! is written to lies on memory of the namespace's own (`tests/systemd/boot.sh`
//! lists it). Files inside are read and written through `/proc/PID/root`.
//! When the value is dropped, a failed test included, the namespace's init gets
//! SIGKILL through a pidfd, and the kernel ends everything that lived in there.

use std::collections::HashMap;
use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

const BOOT: &str = include_str!("../systemd/boot.sh");
const SEARCH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What the tests' machine needs, and the Debian package that has it.
const NEEDED: [(&str, &str); 9] = [
    ("/bin/sh", "dash"),
    ("/usr/bin/env", "coreutils"),
    ("/usr/bin/unshare", "util-linux"),
    ("/usr/bin/nsenter", "util-linux"),
    ("/usr/bin/setpriv", "util-linux"),
    ("/usr/bin/flock", "util-linux"),
    ("/lib/systemd/systemd", "systemd"),
    ("/lib/systemd/systemd-journald", "systemd"),
    ("/bin/systemctl", "systemd"),
];

/// How long anything may take that takes a moment on an idle machine.
pub const SOON: Duration = Duration::from_secs(20);

/// Looks until there is something to see; a test that waits for ever fails.
pub fn until<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(Instant::now() < deadline, "in vain for {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A booted systemd.
pub struct Systemd {
    cgroup: Cgroup,
    unshare: Child,
    init: Pid,
    pidfd: OwnedFd,
}

impl Systemd {
    /// Boots one, with journald, and waits until both work.
    pub fn boot() -> Self {
        check_machine();
        let cgroup = Cgroup::create();
        let mut unshare = Command::new("/bin/sh")
            .args([
                "-c",
                "echo $$ >\"$1/cgroup.procs\" && shift && exec \"$@\"",
                "sh",
            ])
            .arg(&cgroup.path)
            // Should this process be killed: its unshare goes with it, and init with that.
            .args([
                "setpriv",
                "--pdeathsig",
                "KILL",
                "unshare",
                "--kill-child=KILL",
            ])
            .args([
                "--pid",
                "--fork",
                "--mount-proc",
                "--mount",
                "--uts",
                "--ipc",
                "--net",
            ])
            .args(["--cgroup", "/bin/sh", "-c", BOOT, "boot"])
            .arg(env!("CARGO_BIN_EXE_gateway"))
            .stdin(Stdio::null())
            .spawn()
            .expect("sh starts");
        let init = until("the namespace's first process", SOON, || {
            assert_runs(&mut unshare);
            child_of(unshare.id())
        });
        let pidfd = pidfd_open(init, PidfdFlags::empty()).expect("pidfd of the namespace's init");
        let mut booted = Self {
            cgroup,
            unshare,
            init,
            pidfd,
        };
        booted.wait_for_boot();
        booted
    }

    fn wait_for_boot(&mut self) {
        until("systemd's socket", SOON, || {
            assert_runs(&mut self.unshare);
            self.inside("/run/systemd/private").exists().then_some(())
        });
        until("test.target", SOON, || {
            assert_runs(&mut self.unshare);
            let answer = self.run(["systemctl", "is-active", "test.target"]);
            (answer.stdout == b"active\n").then_some(())
        });
    }

    /// The cgroup that systemd takes for the root, as the host sees it.
    pub fn cgroup(&self) -> &Path {
        &self.cgroup.path
    }

    /// A path of the namespace, as this process reaches it.
    pub fn inside(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.init.as_raw_nonzero()))
    }

    pub fn read(&self, path: &str) -> String {
        let bytes = fs::read(self.inside(path)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    pub fn write(&self, path: &str, text: &str) {
        let file = self.inside(path);
        fs::create_dir_all(file.parent().expect("a file in a folder")).expect("folder inside");
        fs::write(&file, text)
            .unwrap_or_else(|cause| panic!("cannot write {path} inside: {cause}"));
    }

    /// Writes an executable file.
    pub fn script(&self, path: &str, text: &str) {
        self.write(path, text);
        fs::set_permissions(self.inside(path), fs::Permissions::from_mode(0o755)).expect("chmod");
    }

    /// Writes a unit. It stays loaded, so that its results can be asked for at any time.
    pub fn unit(&self, name: &str, text: &str) {
        self.write(&format!("/run/systemd/system/{name}"), text);
        if name.ends_with(".service") && !name.contains('@') {
            let keep = format!("/run/systemd/system/test.target.d/{name}.conf");
            self.write(&keep, &format!("[Unit]\nAfter={name}\n"));
        }
    }

    /// Writes units, and tells systemd.
    pub fn units<const N: usize>(&self, units: [(&str, &str); N]) {
        for (name, text) in units {
            self.unit(name, text);
        }
        self.ok(["systemctl", "daemon-reload"]);
    }

    /// A command inside, not yet started: no terminal, a clean environment.
    fn command<'a>(&self, argv: impl IntoIterator<Item = &'a str>) -> Command {
        let mut command = Command::new("nsenter");
        command
            .args([
                "--all",
                "--target",
                &self.init.as_raw_nonzero().to_string(),
                "--",
            ])
            .args([
                "env",
                "-i",
                "-C",
                "/",
                SEARCH,
                "HOME=/root",
                "LANG=C.UTF-8",
                "setsid",
            ])
            .args(argv)
            .stdin(Stdio::null());
        command
    }

    pub fn run<const N: usize>(&self, argv: [&str; N]) -> Output {
        self.command(argv).output().expect("nsenter starts")
    }

    /// What a command that has to succeed prints.
    pub fn ok<const N: usize>(&self, argv: [&str; N]) -> String {
        let output = self.run(argv);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "{argv:?}: {}: {stderr}",
            output.status
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Starts a command as somebody at a shell would, outside any unit.
    pub fn by_hand<'a>(&self, argv: impl IntoIterator<Item = &'a str>) -> ByHand {
        let stderr = tempfile::tempfile().expect("a file for stderr");
        let child = self
            .command(argv)
            .stdout(Stdio::null())
            .stderr(stderr.try_clone().expect("a second handle"))
            .spawn()
            .expect("nsenter starts");
        ByHand { child, stderr }
    }

    /// One property of a unit.
    pub fn property(&self, unit: &str, name: &str) -> String {
        self.properties(unit).remove(name).unwrap_or_default()
    }

    /// All properties of a unit.
    pub fn properties(&self, unit: &str) -> HashMap<String, String> {
        let text = self.ok(["systemctl", "show", "--all", unit]);
        text.lines()
            .filter_map(|line| line.split_once('='))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect()
    }

    /// Waits until a property of a unit has this value.
    pub fn wait_for(&self, unit: &str, name: &str, value: &str) {
        until(&format!("{unit}: {name}={value}"), SOON, || {
            (self.property(unit, name) == value).then_some(())
        });
    }

    /// What `journalctl -u` prints, without time and host.
    pub fn journal(&self, unit: &str) -> String {
        self.ok(["journalctl", "--no-pager", "-q", "-o", "cat", "-u", unit])
    }

    /// Waits until the unit's journal has this text, and gives its line.
    pub fn journal_line(&self, unit: &str, text: &str) -> String {
        until(&format!("{text:?} in the journal of {unit}"), SOON, || {
            self.journal(unit)
                .lines()
                .find(|line| line.contains(text))
                .map(str::to_owned)
        })
    }

    /// Whether a process inside lives, by its pid in there.
    pub fn lives(&self, pid: &str) -> bool {
        let stat = self.read(&format!("/proc/{pid}/stat"));
        let state = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
        !state.is_empty() && !state.starts_with('Z')
    }

    /// Everything in a unit's cgroup, as text; empty when nobody is left.
    pub fn members(&self, unit: &str) -> String {
        self.read(&format!("/sys/fs/cgroup/system.slice/{unit}/cgroup.procs"))
    }

    /// Stops systemd itself: it hears nothing until the guard is dropped. No `systemctl` meanwhile.
    pub fn deafen(&self) -> Deaf<'_> {
        pidfd_send_signal(&self.pidfd, Signal::STOP).expect("a signal to the namespace's init");
        Deaf(self)
    }

    fn tell_what_happened(&self) {
        let output = self.run([
            "journalctl",
            "--no-pager",
            "-q",
            "-n",
            "200",
            "-o",
            "short-precise",
        ]);
        eprintln!(
            "-- the journal:\n{}",
            String::from_utf8_lossy(&output.stdout)
        );
    }
}

impl Drop for Systemd {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.tell_what_happened();
        }
        // Init of a pid namespace: the kernel ends all others in it, too.
        let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
        let _ = ended_within(&self.pidfd, SOON);
        let _ = self.unshare.kill();
        let _ = self.unshare.wait();
        self.cgroup.remove();
    }
}

/// A systemd that does not listen for now.
pub struct Deaf<'a>(&'a Systemd);

impl Drop for Deaf<'_> {
    fn drop(&mut self) {
        let _ = pidfd_send_signal(&self.0.pidfd, Signal::CONT);
    }
}

/// A command started by [`Systemd::by_hand`]; killed when dropped.
pub struct ByHand {
    child: Child,
    stderr: File,
}

impl ByHand {
    /// All that it has said so far.
    pub fn stderr(&self) -> String {
        // Positioned reads: the writer's place in the file stays as it is.
        let mut bytes = vec![0; 64 << 10];
        let length = self.stderr.read_at(&mut bytes, 0).expect("a read");
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    }

    pub fn wait_for_line(&self, text: &str) -> String {
        until(
            &format!("{text:?} on stderr, which is {:?}", self.stderr()),
            SOON,
            || {
                self.stderr()
                    .lines()
                    .find(|line| line.contains(text))
                    .map(str::to_owned)
            },
        )
    }

    pub fn signal(&self, signal: Signal) {
        let pid = until("the command behind nsenter", SOON, || {
            child_of(self.child.id())
        });
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).expect("a pidfd of our own command");
        pidfd_send_signal(&pidfd, signal).expect("a signal to our own command");
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("nsenter is ours").is_none()
    }

    /// How it ended; nsenter passes on code and signal.
    pub fn wait(&mut self) -> ExitStatus {
        until(
            &format!("the end of a command that said {:?}", self.stderr()),
            SOON,
            || self.child.try_wait().expect("nsenter is ours"),
        )
    }
}

impl Drop for ByHand {
    fn drop(&mut self) {
        if let Some(pid) = child_of(self.child.id())
            && let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty())
        {
            let _ = pidfd_send_signal(&pidfd, Signal::KILL);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A cgroup of version 2, below our own; systemd's root.
struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    fn create() -> Self {
        let root = cgroup2_mount()
            .expect("these tests need a cgroup2 mount, and /proc/self/mountinfo shows none");
        let own = fs::read_to_string("/proc/self/cgroup").expect("/proc/self/cgroup");
        let own = own
            .lines()
            .find_map(|line| line.strip_prefix("0::/"))
            .unwrap_or("");
        let name = format!(
            "gateway-test-{}-{:?}",
            std::process::id(),
            std::thread::current().id()
        );
        let name: String = name
            .chars()
            .filter(|c| c.is_ascii_alphanumeric() || *c == '-')
            .collect();
        let parent = root.join(own);
        remove_what_killed_tests_left(&parent);
        let path = parent.join(name);
        fs::create_dir(&path)
            .unwrap_or_else(|cause| panic!("cannot create {}: {cause}", path.display()));
        Self { path }
    }

    /// Its processes have just ended; the kernel takes a moment to count them out.
    fn remove(&self) {
        let deadline = Instant::now() + SOON;
        while remove_tree(&self.path).is_err() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// A test that was killed could not remove its cgroup; the kernel ended all in it.
fn remove_what_killed_tests_left(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let pid = name
            .strip_prefix("gateway-test-")
            .and_then(|rest| rest.split('-').next());
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            let _ = remove_tree(&entry.path());
        }
    }
}

fn remove_tree(folder: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    fs::remove_dir(folder)
}

fn cgroup2_mount() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let line = mounts.lines().find(|line| line.contains(" - cgroup2 "))?;
    line.split(' ').nth(4).map(PathBuf::from)
}

fn check_machine() {
    assert!(
        rustix::process::geteuid().is_root(),
        "these tests make namespaces: run them as root"
    );
    for (program, package) in NEEDED {
        assert!(
            Path::new(program).exists(),
            "these tests need {program}: apt-get install {package}"
        );
    }
}

fn assert_runs(unshare: &mut Child) {
    let ended = unshare.try_wait().expect("unshare is ours");
    assert!(
        ended.is_none(),
        "systemd did not boot, see stderr: {ended:?}"
    );
}

/// The first child of a process.
fn child_of(parent: u32) -> Option<Pid> {
    let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).ok()?;
    let first = children.split_whitespace().next()?;
    Pid::from_raw(first.parse().ok()?)
}

fn ended_within(pidfd: &OwnedFd, limit: Duration) -> bool {
    let limit = Timespec::try_from(limit).expect("a short time");
    poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&limit)).is_ok_and(|ready| ready > 0)
}
