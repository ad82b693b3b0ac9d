//! A pid namespace for a test: nobody else's processes are looked at, and everything in it ends
//! with it. The test program runs itself again as the namespace's first process.

use std::any::type_name;
use std::fs;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use rustix::process::{Signal, WaitOptions};

use crate::harness::{Scene, must_be_root, need, state};

const INSIDE: &str = "GATEWAY_TEST_ALONE";

/// Runs the closure of a test, which must be the test's own, in namespaces of its own.
#[track_caller]
pub fn alone<F: FnOnce()>(body: F) {
    if std::env::var_os(INSIDE).is_some() {
        return body();
    }
    must_be_root();
    need("unshare", "util-linux");
    let output = again(test_name::<F>())
        .output()
        .expect("unshare(1) can be started");
    let said = String::from_utf8_lossy(&output.stdout);
    let cried = String::from_utf8_lossy(&output.stderr);
    for figure in cried.lines().filter(|line| line.starts_with("figure: ")) {
        eprintln!("{figure}");
    }
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{}\n{said}\n{cried}",
        output.status
    );
}

/// `breaking::module::test::{{closure}}` is the closure of the test `module::test`.
fn test_name<F>() -> &'static str {
    let name = type_name::<F>();
    let (_, name) = name.split_once("::").expect("a closure in a crate");
    name.strip_suffix("::{{closure}}")
        .expect("the closure of a test")
}

fn again(test: &str) -> Command {
    let mut command = Command::new("unshare");
    command
        .args([
            "--pid",
            "--fork",
            "--kill-child=KILL",
            "--mount",
            "--mount-proc",
        ])
        // A quiet place: a holder looks whenever something is removed in a directory above its file.
        .args(["sh", "-c", "mount -t tmpfs tmpfs /mnt && exec \"$@\"", "sh"])
        .arg(std::env::current_exe().expect("we run"))
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(INSIDE, "1")
        .env("TMPDIR", "/mnt")
        .stdin(Stdio::null());
    // SAFETY: the closure makes one system call that touches no memory of ours.
    unsafe {
        command.pre_exec(|| {
            // A test that is ended from outside takes its world with it.
            rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
            Ok(())
        });
    }
    command
}

/// Runs a line of a shell as root.
#[track_caller]
pub fn shell(scene: &Scene, line: &str) {
    let mut command = scene.command("sh");
    command.args(["-e", "-c", line]);
    scene.finish_command(command).assert_code(0);
}

/// Collects orphans that came to us and have ended. Only where no child of ours is still awaited.
pub fn reap() {
    while matches!(rustix::process::wait(WaitOptions::NOHANG), Ok(Some(_))) {}
}

/// Every other process in here that runs, but those.
pub fn others(known: &[u32]) -> Vec<u32> {
    fs::read_dir("/proc")
        .expect("/proc is mounted")
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid| *pid != std::process::id() && !known.contains(pid) && runs(*pid))
        .collect()
}

/// Whoever has this number now: numbers are handed on in here, and all who have them count.
fn runs(pid: u32) -> bool {
    state(pid).is_some_and(|state| state != 'Z' && state != 'X')
}

/// What there is to say of a process that should not be there.
pub fn describe(pid: u32) -> String {
    let argv = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let argv = String::from_utf8_lossy(&argv).replace('\0', " ");
    format!("{pid} {:?} {argv}", state(pid))
}
