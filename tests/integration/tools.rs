//! The harness itself: a check that cannot fail proves nothing.

use crate::harness::{Payload, SOON, Scene, exists, until};

#[test]
fn the_detector_sees_two_payloads() {
    let scene = Scene::new();
    let payload = scene.payload(Payload::Plain);
    let first = scene.spawn(scene.command(&payload));
    until("the first one is alone", SOON, || {
        (scene.started_payloads() == [first.pid()]).then_some(())
    });
    let second = scene.finish_command(scene.command(&payload));
    second.assert_code(99);
    assert_eq!(scene.lines("overlap").len(), 1);
}

#[test]
fn the_detector_sees_a_payloads_child() {
    let scene = Scene::new();
    let parent = scene.payload(Payload::Script("setsid sleep infinity &\nexit 0\n"));
    scene.finish_command(scene.command(&parent)).assert_code(0);
    let payload = scene.payload(Payload::Plain);
    scene
        .finish_command(scene.command(&payload))
        .assert_code(99);
}

#[test]
fn nothing_outlives_its_scene() {
    let scene = Scene::new();
    let script = "(setsid sh -c 'trap \"\" TERM HUP; echo $$ >\"$SCENE/child\"; while :; do sleep 9; done' &)\nexec sleep infinity\n";
    let holder = scene.hold_with(&[], Payload::Script(script));
    let child = scene.wait_for_child();
    let (holder, payload) = (holder.pid(), scene.record().payload_pid());
    assert!([holder, payload, child].into_iter().all(exists));
    drop(scene);
    for pid in [holder, payload, child] {
        assert!(!exists(pid), "pid {pid}");
    }
}
