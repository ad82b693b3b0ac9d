//! Taking a free lock: whatever the file holds, and whether or not it is there.

use crate::harness::{End, Scene};

#[test]
fn a_start_without_a_file_makes_one_and_runs() {
    let scene = Scene::new();
    let holder = scene.hold();
    assert_eq!(scene.record().pid(), holder.pid());
    assert_eq!(scene.lockers(), [holder.pid()]);
    assert_eq!(scene.state(), "held");
}

#[test]
fn the_commands_code_is_passed_on() {
    let scene = Scene::new();
    let output = scene.finish(["run", "--", "sh", "-c", "exit 7"]);
    assert_eq!(output.end, End::Code(7));
}
