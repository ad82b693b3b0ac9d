//! The exit status tells the truth: of the command, and of what was asked of it.

use crate::harness::{End, Payload, Scene, Signal, in_pid_namespace};

/// NousResearch/hermes-agent#9875: a failure that looks like success is never revived.
#[test]
fn a_commands_own_ending_is_passed_on() {
    let scene = Scene::new();
    for code in [0, 1, 2, 70, 80, 81, 82, 83, 84, 126, 127, 143, 255] {
        let output = scene.finish(["run", "--", "sh", "-c", &format!("exit {code}")]);
        assert_eq!(output.end, End::Code(code));
    }
    for signal in [
        Signal::TERM,
        Signal::INT,
        Signal::HUP,
        Signal::KILL,
        Signal::SEGV,
        Signal::PIPE,
    ] {
        let script = format!("kill -{} $$", signal.as_raw());
        let output = scene.finish(["run", "--", "sh", "-c", &script]);
        assert_eq!(
            output.end,
            End::Code(128 + signal.as_raw()),
            "unasked, so a failure"
        );
    }
}

/// NousResearch/hermes-agent#11909: a stop that is asked for is clean to a service manager.
#[test]
fn an_ordered_stop_is_0_if_the_command_ends_with_0() {
    for signal in [Signal::TERM, Signal::INT] {
        let scene = Scene::new();
        let mut holder = scene.hold_with(&[], Payload::Graceful);
        scene.wait_for_mark("ready");
        holder.signal(signal);
        assert_eq!(holder.end(), End::Code(0));
        assert_eq!(scene.record().number("/exit/code"), 0);
        assert_eq!(scene.record().text("/reason"), "stopped");
    }
}

#[test]
fn an_ordered_stop_is_a_death_of_that_signal_if_the_command_ends_otherwise() {
    for signal in [Signal::TERM, Signal::INT] {
        let scene = Scene::new();
        let mut holder = scene.hold();
        holder.signal(signal);
        assert_eq!(holder.end(), End::of(signal));
    }
    let scene = Scene::new();
    let script =
        "trap 'exit 3' TERM; echo ready >>\"$SCENE/marks\"; while :; do sleep 9 & wait $!; done\n";
    let mut holder = scene.hold_with(&[], Payload::Script(script));
    scene.wait_for_mark("ready");
    holder.signal(Signal::TERM);
    assert_eq!(holder.end(), End::of(Signal::TERM));
    assert_eq!(scene.record().number("/exit/code"), 3);
}

/// `&&` does not go on after half a job.
#[test]
fn a_shell_sees_128_and_the_signal() {
    let scene = Scene::new();
    let mut command = scene.command("sh");
    let script = "\"$@\" -f gateway.pid run -- sleep infinity; echo $?";
    command.args(["-c", script, "sh"]).arg(scene.program());
    let shell = scene.spawn(command);
    let record = scene.wait_for_record("a holder", |record| record.has_payload());
    crate::harness::signal(record.pid(), Signal::TERM);
    assert_eq!(shell.output().stdout.lines().last(), Some("143"));
}

/// Signals without a handler do not end the first process of a pid namespace.
#[test]
fn the_first_process_of_a_container_ends_with_a_code() {
    let scene = Scene::new();
    let command = scene.gateway(["run", "--", "sleep", "infinity"]);
    let mut container = scene.spawn(in_pid_namespace(&scene, &command));
    let record = scene.wait_for_record("a holder", |record| record.has_payload());
    assert_eq!(record.pid(), 1);
    let gateway = crate::harness::descendants(container.pid())[0];
    crate::harness::signal(gateway, Signal::TERM);
    assert_eq!(container.end(), End::Code(143));
    let output = in_pid_namespace(&scene, &scene.gateway(["run", "--", "sh", "-c", "exit 5"]));
    scene.finish_command(output).assert_code(5);
}

#[test]
fn a_payload_killed_at_the_end_of_its_time_is_still_an_ordered_stop() {
    let scene = Scene::new();
    let mut holder = scene.hold_with(&["--stop-timeout", "200ms"], Payload::Deaf);
    scene.wait_for_mark("deaf");
    holder.signal(Signal::TERM);
    assert_eq!(holder.end(), End::of(Signal::TERM));
    let record = scene.record();
    assert_eq!(record.number("/exit/signal"), 9);
    assert_eq!(record.text("/reason"), "stopped");
    scene.wait_until_empty();
}

#[test]
fn the_record_says_how_the_run_ended() {
    let scene = Scene::new();
    scene
        .finish(["run", "--", "sh", "-c", "exit 9"])
        .assert_code(9);
    let record = scene.record();
    assert_eq!(record.first_line, "", "a pid here would mean a crash");
    assert_eq!(record.number("/exit/code"), 9);
    assert_eq!(record.text("/reason"), "exited");
    assert!(record.text("/ended").ends_with('Z'));
    scene
        .finish(["run", "--", "sh", "-c", "kill -SEGV $$"])
        .assert_code(139);
    assert_eq!(scene.record().number("/exit/signal"), 11);
}
