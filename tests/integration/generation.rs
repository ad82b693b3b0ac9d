//! The fencing token: a number that only grows, one per taking of the lock.

use std::fs;

use crate::harness::Scene;
use crate::people::record_naming;

/// Takes the lock once, and gives the number that the command was told.
fn take(scene: &Scene) -> u64 {
    let output = scene.finish(["run", "--", "sh", "-c", "echo $GATEWAY_GENERATION"]);
    output.assert_code(0);
    let told: u64 = output.stdout.trim().parse().expect("a number");
    assert_eq!(scene.record().number("/generation"), told);
    assert!(told <= 1 << 53, "exact in every JSON reader");
    told
}

#[test]
fn it_grows_over_ends_crashes_junk_and_removals() {
    let scene = Scene::new();
    let mut last = take(&scene);
    for damage in ["none", "crash", "junk", "empty", "removed"] {
        match damage {
            "crash" => {
                let mut holder = scene.hold();
                last = scene.record().number("/generation");
                holder.crash();
            }
            "junk" => fs::write(scene.pid_file(), "junk").unwrap(),
            "empty" => fs::write(scene.pid_file(), "").unwrap(),
            "removed" => fs::remove_file(scene.pid_file()).unwrap(),
            _ => {}
        }
        let next = take(&scene);
        assert!(next > last, "{damage}: {next} after {last}");
        last = next;
    }
}

/// The clock was set back since the last run.
#[test]
fn it_grows_although_the_last_one_is_in_the_future() {
    let scene = Scene::new();
    let future = (1u64 << 53) - 10;
    let text = record_naming(&scene.pid_file(), 4_000_000);
    fs::write(
        scene.pid_file(),
        text.replace("\"generation\":7", &format!("\"generation\":{future}")),
    )
    .unwrap();
    assert_eq!(take(&scene), future + 1);
    assert_eq!(take(&scene), future + 2);
}

#[test]
fn a_number_that_is_not_exact_everywhere_is_not_believed() {
    let scene = Scene::new();
    let text = record_naming(&scene.pid_file(), 4_000_000);
    let beyond = (1u64 << 53) + 1;
    fs::write(
        scene.pid_file(),
        text.replace("\"generation\":7", &format!("\"generation\":{beyond}")),
    )
    .unwrap();
    assert!(take(&scene) < beyond);
}

#[test]
fn every_payload_of_a_burst_has_its_own_in_order() {
    let scene = Scene::new();
    let payload = scene.payload(crate::harness::Payload::Plain);
    let mut holder = scene.hold();
    for _ in 0..15 {
        holder = scene.wait_for_payload(scene.start(["run", "--replace", "--", &payload]));
    }
    let generations = scene.generations();
    assert_eq!(generations.len(), 16);
    assert!(
        generations.is_sorted_by(|one, other| one < other),
        "{generations:?}"
    );
    assert!(holder.is_running());
}
