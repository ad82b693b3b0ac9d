//! What the other tests rely on is seen to work: a detector that cannot find anything proves nothing.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::harness::{Payload, Scene, Signal, signal, wait_until};
use crate::recycle::Successor;
use crate::stage::{HUNG, Stage};
use crate::storm::Eye;
use crate::world::alone;

fn fails(check: impl FnOnce()) -> bool {
    catch_unwind(AssertUnwindSafe(check)).is_err()
}

#[test]
fn a_bystander_tells_of_every_signal() {
    alone(|| {
        for sent in [
            Signal::TERM,
            Signal::CONT,
            Signal::HUP,
            Signal::STOP,
            Signal::KILL,
        ] {
            let stage = Stage::new();
            stage.canary.assert_heard_nothing();
            assert!(signal(stage.canary.pid(), sent));
            wait_until("the bystander tells", HUNG, || {
                fails(|| stage.canary.assert_heard_nothing())
            });
        }
    });
}

#[test]
fn a_number_that_is_handed_on_is_another_process_and_tells_too() {
    alone(|| {
        let stage = Stage::new();
        let mut holder = stage.holder();
        holder.crash();
        let successor = Successor::of(holder.pid());
        assert_eq!(successor.pid(), holder.pid());
        successor.assert_heard_nothing();
        assert!(signal(successor.pid(), Signal::TERM));
        assert!(fails(|| successor.assert_heard_nothing()));
    });
}

#[test]
fn two_commands_at_a_time_are_seen_by_both_detectors() {
    alone(|| {
        let scene = Scene::new();
        let eye = Eye::open();
        let payload = scene.payload(Payload::Plain);
        let of_run = |run: &str| {
            let mut command = scene.command(&payload);
            command.env("GATEWAY_RUN_ID", run);
            scene.spawn(command)
        };
        let first = of_run("1");
        wait_until("the first one is alone", HUNG, || {
            scene.started_payloads() == [first.pid()]
        });
        let mut second = of_run("2");
        second.end();
        assert!(fails(|| scene.assert_never_two_payloads()));
        let mut sleep = scene.command("sleep");
        sleep.arg("infinity").env("GATEWAY_RUN_ID", "3");
        let _third = scene.spawn(sleep);
        wait_until("the eye sees both", HUNG, || eye.has_seen_something());
        assert!(!eye.close().is_empty());
    });
}

#[test]
fn a_command_without_the_lock_and_a_process_that_is_left_are_told() {
    alone(|| {
        let stage = Stage::new();
        let mut command = stage.scene.command(&stage.stays);
        command.env("GATEWAY_PID_FILE", stage.scene.path("gateway.pid"));
        let _unlocked = stage.scene.spawn(command);
        wait_until("the command tells", HUNG, || {
            fails(|| stage.assert_unharmed())
        });
        assert!(fails(|| stage.assert_nothing_left()));
    });
}
