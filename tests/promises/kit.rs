//! What the tests of this crate share beyond the harness.

use std::time::Duration;

use crate::harness::{Process, SOON, Scene, environment, exists, until, wait_until};

/// Waits for a line `NAME PID` among the payloads' marks, and gives the pid.
#[track_caller]
pub fn marked_pid(scene: &Scene, name: &str) -> u32 {
    until(&format!("{name} in the marks"), SOON, || {
        scene.lines("marks").iter().rev().find_map(|line| {
            let (named, pid) = line.split_once(' ')?;
            (named == name).then(|| pid.parse().ok())?
        })
    })
}

/// Waits until a process is gone, a zombie counting as gone.
#[track_caller]
pub fn wait_until_gone(pid: u32) {
    wait_until(&format!("the end of pid {pid}"), SOON, || !exists(pid));
}

/// A variable of a process, as text.
#[track_caller]
pub fn variable(pid: u32, name: &str) -> String {
    // Looked for again: what was just forked has its parent's environment still.
    until(&format!("{name} of pid {pid}"), SOON, || {
        let value = environment(pid).remove(std::ffi::OsStr::new(name))?;
        value.into_string().ok()
    })
}

/// Whether the process still runs after a while in which a defect would have shown.
#[track_caller]
pub fn assert_stays(process: &mut Process, length: Duration) {
    let began = std::time::Instant::now();
    while began.elapsed() < length {
        assert!(
            process.is_running(),
            "pid {} ended: {:?}, {}",
            process.pid(),
            process.try_end(),
            process.stderr()
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Compiles a program in C, and gives its path.
#[track_caller]
pub fn compiled(scene: &Scene, name: &str, source: &str) -> String {
    crate::harness::need("cc", "gcc");
    let (text, program) = (
        scene.path(format!("bin/{name}.c")),
        scene.path(format!("bin/{name}")),
    );
    std::fs::write(&text, source).expect("a source");
    let mut compiler = scene.command("cc");
    compiler.args(["-pthread", "-o"]).args([&program, &text]);
    scene.finish_command(compiler).assert_code(0);
    program.to_str().expect("text").to_owned()
}
