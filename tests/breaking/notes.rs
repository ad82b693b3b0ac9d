//! What a standby notes while the holder lives is no more than a note: who comes afterwards is found.

use std::fs;

use crate::harness::{Payload, Process, Scene, as_nobody, exists, set_mode, state, wait_until};
use crate::stage::HUNG;
use crate::world::{alone, shell};

/// A command that is soon through.
pub const BRIEF: Payload<'_> = Payload::Script("exit 5\n");

/// A standby that has noted who is there, and sleeps. It notes again after a second at the earliest.
pub fn standby_with_a_note(scene: &Scene) -> Process {
    let brief = scene.payload(BRIEF);
    having_noted(scene.start(["run", "--wait", "--", &brief]))
}

fn having_noted(mut standby: Process) -> Process {
    standby.wait_for_line("standing by");
    let pid = standby.pid();
    // What a note begins with; it sleeps when it is through.
    let begun = || is_open(pid, "/proc/loadavg");
    wait_until("its note", HUNG, || begun() && state(pid) == Some('S'));
    standby
}

fn is_open(pid: u32, path: &str) -> bool {
    let links = fs::read_dir(format!("/proc/{pid}/fd"))
        .into_iter()
        .flatten();
    let mut targets = links.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    targets.any(|target| target.as_os_str() == path)
}

/// Bears a child that leaves it, when it is told to. It waits without a child.
const LATE: &str = "mkfifo \"$SCENE/go\" && echo ready >>\"$SCENE/marks\"
read go <\"$SCENE/go\"
(setsid sh -c 'echo $$ >\"$SCENE/child\"; exec sleep infinity' &)
exec sleep infinity
";

fn assert_that_a_late_child_is_found(scene: &Scene, births_are_counted: bool) {
    let mut holder = scene.hold_with(&[], Payload::Script(LATE));
    scene.wait_for_mark("ready");
    let standby = standby_with_a_note(scene);
    assert_eq!(is_open(standby.pid(), "/proc/stat"), births_are_counted);
    fs::write(scene.path("go"), "go\n").expect("somebody reads");
    let child = scene.wait_for_child();
    holder.crash();
    standby.output().assert_code(5);
    assert!(!exists(child));
    scene.assert_never_two_payloads();
}

#[test]
fn a_child_that_is_born_after_the_note_is_found() {
    alone(|| assert_that_a_late_child_is_found(&Scene::new(), true));
}

/// In a container /proc/stat may be given by a program (lxcfs), which counts as it likes.
#[test]
fn a_count_of_births_that_is_not_the_kernels_is_not_believed() {
    alone(|| {
        let scene = Scene::new();
        fs::write(scene.path("count"), "processes 5\n").expect("a file");
        shell(&scene, "mount --bind count /proc/stat");
        assert_that_a_late_child_is_found(&scene, false);
    });
}

/// A program that may not be read hides its process from others of the same user (proc(5), `hidepid`),
/// until it becomes another one: a process that nobody saw, and that was not born just now.
#[test]
fn who_comes_out_of_hiding_after_the_note_is_found() {
    const HIDES: &str = "setsid \"$SCENE/hidden\" -c 'echo $$ >\"$SCENE/child\"
read go <\"$SCENE/go\"; exec sleep infinity' &
exec sleep infinity
";
    alone(|| {
        let scene = Scene::for_everybody();
        set_mode(&scene.path(""), 0o777);
        shell(
            &scene,
            "cp /bin/sh hidden; chmod 111 hidden; mkfifo -m 666 go",
        );
        shell(&scene, "mount -t proc -o hidepid=2 proc /proc");
        let start = |options: &[&str], payload| {
            let payload = scene.payload(payload);
            let command = scene.gateway(options.iter().chain(&["--", &payload]));
            scene.spawn(as_nobody(&scene, &command))
        };
        let mut holder = scene.wait_for_payload(start(&["run"], Payload::Script(HIDES)));
        let child = scene.wait_for_child();
        let standby = having_noted(start(&["run", "--wait"], BRIEF));
        fs::write(scene.path("go"), "go\n").expect("somebody reads");
        wait_until("another program", HUNG, || {
            let name = fs::read(format!("/proc/{child}/comm")).unwrap_or_default();
            name == b"sleep\n"
        });
        holder.crash();
        standby.output().assert_code(5);
        assert!(!exists(child));
        scene.assert_never_two_payloads();
    });
}
