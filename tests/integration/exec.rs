//! `--exec`: becoming the command, with the lock.

use std::fs;
use std::time::Duration;

use crate::harness::{End, Payload, SOON, Scene, Signal, exists, wait_until};

#[test]
fn the_gateway_becomes_the_command_and_keeps_the_lock() {
    let scene = Scene::new();
    let payload = scene.payload(Payload::Plain);
    let mut process = scene.start(["run", "--exec", "--", &payload]);
    wait_until("it became the command", SOON, || {
        scene.started_payloads() == [process.pid()]
    });
    assert_eq!(scene.record().pid(), process.pid());
    assert_eq!(scene.lockers(), [process.pid()]);
    assert_eq!(scene.state(), "held");
    scene.finish(["run", "--", "true"]).assert_code(80);
    assert!(process.is_running());
    process.signal(Signal::TERM);
    assert_eq!(process.end(), End::of(Signal::TERM));
    assert_eq!(scene.lockers(), [0; 0]);
    scene.finish(["run", "--", "true"]).assert_code(0);
}

#[test]
fn the_lock_lasts_until_the_last_process_that_has_it_is_gone() {
    let scene = Scene::new();
    let script = "setsid sleep infinity & echo $! >\"$SCENE/child\"; exit 3\n";
    let payload = scene.payload(Payload::Script(script));
    let output = scene.finish(["run", "--exec", "--", &payload]);
    output.assert_code(3);
    let child: u32 = scene.lines("child")[0].parse().unwrap();
    assert_eq!(scene.lockers(), [child]);
    scene
        .finish(["run", "--", "true"])
        .assert_code(82)
        .assert_says(&child.to_string());
    crate::harness::kill(child);
    scene.finish(["run", "--", "true"]).assert_code(0);
}

#[test]
fn a_takeover_ends_it() {
    let scene = Scene::new();
    let payload = scene.payload(Payload::Plain);
    let mut old = scene.start(["run", "--exec", "--", &payload]);
    wait_until("it runs", SOON, || scene.started_payloads().len() == 1);
    let _new = scene.wait_for_payload(scene.start(["run", "--replace", "--", &payload]));
    assert_eq!(old.end(), End::of(Signal::TERM));
    scene.assert_never_two_payloads();
}

#[test]
fn stop_ends_it() {
    let scene = Scene::new();
    let payload = scene.payload(Payload::Plain);
    let mut old = scene.start(["run", "--exec", "--", &payload]);
    wait_until("it runs", SOON, || scene.started_payloads().len() == 1);
    scene.finish(["stop"]).assert_code(0);
    assert_eq!(old.end(), End::of(Signal::TERM));
    assert_eq!(scene.state(), "free");
}

/// Socket activation needs the number that the service manager started.
#[test]
fn socket_activation_goes_through() {
    let scene = Scene::new();
    let mut command = scene.command("sh");
    let script = "exec 3</etc/hostname 7</etc/passwd; LISTEN_FDS=1 LISTEN_PID=$$ exec \"$@\"";
    command.args(["-c", script, "sh"]).arg(scene.program());
    let look = "echo $LISTEN_PID $$ $LISTEN_FDS; readlink /proc/self/fd/3 /proc/self/fd/7";
    command.args(["-f", "gateway.pid", "run", "--exec", "--", "sh", "-c", look]);
    let output = scene.finish_command(command);
    output.assert_code(0);
    let lines: Vec<&str> = output.stdout.lines().collect();
    let words: Vec<&str> = lines[0].split(' ').collect();
    assert_eq!(words[0], words[1]);
    assert_eq!(words[2], "1");
    assert_eq!(&lines[1..], ["/etc/hostname", "/etc/passwd"]);
}

/// The descriptors of a process that was started with two of its own, and by whom.
fn descriptors(scene: &Scene, by: &[&str]) -> Vec<String> {
    let mut command = scene.command("sh");
    let script = "exec 5</etc/passwd 9</etc/hostname; exec \"$@\"";
    command.args(["-c", script, "sh"]).args(by);
    // In one process: what a shell opens for itself is not there any more.
    let look = "exec stat -c %N /proc/self/fd/* 2>/dev/null";
    command.args(["sh", "-c", look]);
    let links = scene.finish_command(command).stdout;
    let links = links
        .lines()
        .map(|line| line.replace("/proc/self/fd/", "").replace('\'', ""));
    let not_first_three = |line: &String| !["0 ", "1 ", "2 "].iter().any(|fd| line.starts_with(fd));
    links.filter(not_first_three).collect()
}

#[test]
fn other_descriptors_go_to_the_command_unchanged() {
    let scene = Scene::new();
    let gateway = scene.program().to_str().unwrap();
    let plain = descriptors(&scene, &[]);
    assert!(plain.contains(&"5 -> /etc/passwd".to_owned()), "{plain:?}");
    let ours = descriptors(&scene, &[gateway, "-f", "gateway.pid", "run", "--"]);
    assert_eq!(ours, plain);
    let exec = descriptors(
        &scene,
        &[gateway, "-f", "gateway.pid", "run", "--exec", "--"],
    );
    let is_lock = |line: &&String| line.ends_with("/gateway.pid");
    assert_eq!(exec.iter().filter(is_lock).count(), 1, "{exec:?}");
    let others: Vec<_> = exec.iter().filter(|line| !is_lock(line)).collect();
    assert_eq!(others, plain.iter().collect::<Vec<_>>());
}

/// It can be found and executed by all that can be told beforehand, and execve(2) fails all the same:
/// somebody has the script open for writing. By then the lock is held and the record written.
#[test]
fn a_command_that_cannot_be_executed_lets_the_lock_go() {
    for options in [&[][..], &["--exec"], &["--replace"]] {
        let scene = Scene::new();
        let script = scene.path("script");
        scene.script(&script, "#!/bin/sh\nexit 0\n");
        let mut old = options.contains(&"--replace").then(|| scene.hold());
        let words = [&["run"], options, &["--", "./script"]].concat();
        let writer = fs::File::options().append(true).open(&script).unwrap();
        let output = scene.finish(&words);
        output.assert_code(126).assert_says("/script");
        assert_eq!(
            output.stderr.matches("/script").count(),
            1,
            "said once: {output:?}"
        );
        match &mut old {
            Some(old) => assert_eq!(old.end(), End::of(Signal::TERM), "it was asked before"),
            None => _ = output.assert_one_line(),
        }
        assert_eq!(scene.lockers(), [0; 0], "{options:?}");
        let record = scene.record();
        if !options.contains(&"--exec") {
            assert!(record.is_ended(), "{options:?}: {record:?}");
            assert_eq!(scene.state(), "free", "{options:?}");
        }
        drop(writer);
        scene.finish(&words).assert_code(0);
    }
}

/// NousResearch/hermes-agent#56402: it was asked and went, and something of it has the lock still.
#[test]
fn a_lock_that_the_asked_holder_leaves_behind_is_waited_for_and_told() {
    let scene = Scene::new();
    let script = "setsid sleep infinity & echo $! >\"$SCENE/child\"; exec sleep infinity\n";
    let payload = scene.payload(Payload::Script(script));
    let mut old = scene.start(["run", "--exec", "--", &payload]);
    let child = scene.wait_for_child();
    wait_until("both have the lock", SOON, || {
        let lockers = scene.lockers();
        lockers.len() == 2 && lockers.contains(&child) && lockers.contains(&old.pid())
    });
    let before = scene.bytes();
    let options = [
        "run",
        "--replace",
        "--kill-after",
        "300ms",
        "--timeout",
        "2",
    ];
    let words = options.iter().chain(&["--", "touch", "ran"]);
    let output = scene.finish(words);
    assert_eq!(old.end(), End::of(Signal::TERM));
    output
        .assert_code(82)
        .assert_says(&format!("pid {child} ("))
        .assert_says(&format!("pid {} (", old.pid()));
    assert!(output.took >= Duration::from_secs(2), "{output:?}");
    assert!(output.took < Duration::from_secs(4), "{output:?}");
    assert!(!scene.path("ran").exists());
    assert!(exists(child), "named, and not ended");
    assert_eq!(scene.lockers(), [child]);
    assert_eq!(scene.bytes(), before);
}

#[test]
fn it_needs_a_command() {
    let scene = Scene::new();
    scene
        .finish(["run", "--exec"])
        .assert_code(2)
        .assert_says("--exec");
}

#[test]
fn signals_mean_to_it_what_they_mean_to_the_command() {
    let scene = Scene::new();
    let words = ["grep", "-E", "^Sig(Blk|Ign|Cgt)", "/proc/self/status"];
    let masks = |command| {
        let output = scene.finish_command(command);
        output.assert_code(0);
        let mask = |line: &str| u64::from_str_radix(line.split_whitespace().nth(1).unwrap(), 16);
        // 32 and 33 are the C library's own affair.
        let known = |line| mask(line).unwrap() & !(0b11 << 31);
        output.stdout.lines().map(known).collect::<Vec<_>>()
    };
    let mut plain = scene.command(words[0]);
    plain.args(&words[1..]);
    let ours = scene.gateway(["run", "--exec", "--"].iter().chain(&words));
    assert_eq!(masks(ours), masks(plain));
}
