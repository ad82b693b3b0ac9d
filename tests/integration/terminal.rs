//! At a terminal: Ctrl-C, Ctrl-Z, `fg`, reading, closing the window, and who must not hear anything.

use std::time::Duration;

use crate::harness::{
    End, LISTENER, Payload, Process, SOON, Scene, Signal, Terminal, descendants, exists, need,
    stat_field, state, until, wait_until,
};

/// The program with this pid file, as one word of a shell's command line.
fn typed(scene: &Scene) -> String {
    format!("{} -f gateway.pid", scene.program().display())
}

fn payload_pid(scene: &Scene) -> u32 {
    until("the payload has passed its first lines", SOON, || {
        let record = scene.record_if_any()?;
        (record.has_payload() && !record.is_ended())
            .then(|| record.payload_pid())
            .filter(|pid| scene.started_payloads().contains(pid))
    })
}

fn start_at(terminal: &Terminal, scene: &Scene, options: &[&str], payload: Payload<'_>) -> Process {
    let payload = scene.payload(payload);
    let command = scene.gateway(["run"].iter().chain(options).chain(&["--", &payload]));
    let process = terminal.start(scene, &command);
    payload_pid(scene);
    process
}

#[test]
fn ctrl_c_is_heard_once_by_the_command() {
    let scene = Scene::new();
    let terminal = Terminal::open();
    let mut gateway = start_at(&terminal, &scene, &[], Payload::Listener);
    scene.wait_for_mark("ready");
    terminal.ctrl_c();
    wait_until("the command heard it", SOON, || {
        !scene.lines("heard").is_empty()
    });
    // Signals are passed on in order: a second INT would come before this.
    gateway.signal(Signal::USR1);
    wait_until("the command heard the mark", SOON, || {
        scene.lines("heard").iter().any(|heard| heard == "USR1")
    });
    assert_eq!(scene.lines("heard"), ["INT", "USR1"]);
    assert!(gateway.is_running(), "it waits for the command");
    std::fs::write(scene.path("enough"), "").unwrap();
    assert_eq!(gateway.end(), End::Code(0));
}

#[test]
fn ctrl_c_ends_a_command_that_does_not_listen_for_it() {
    let scene = Scene::new();
    let terminal = Terminal::open();
    let mut gateway = start_at(&terminal, &scene, &[], Payload::Plain);
    terminal.ctrl_c();
    assert_eq!(gateway.end(), End::of(Signal::INT));
    scene.wait_until_empty();
    assert_eq!(scene.record().text("/reason"), "stopped");
}

/// A command in a group of its own has not heard the terminal: then it is told.
#[test]
fn ctrl_c_reaches_a_command_that_left_the_group() {
    let scene = Scene::new();
    let terminal = Terminal::open();
    scene.script(&scene.path("listener"), &format!("#!/bin/sh\n{LISTENER}"));
    let script = "exec setsid \"$SCENE/listener\"\n";
    let mut gateway = start_at(&terminal, &scene, &[], Payload::Script(script));
    scene.wait_for_mark("ready");
    terminal.ctrl_c();
    wait_until("the command heard it", SOON, || {
        scene.lines("heard") == ["INT"]
    });
    std::fs::write(scene.path("enough"), "").unwrap();
    assert_eq!(gateway.end(), End::Code(0));
}

#[test]
fn a_second_ctrl_c_skips_the_wait() {
    let scene = Scene::new();
    let terminal = Terminal::open();
    let mut gateway = start_at(&terminal, &scene, &["--stop-timeout", "1h"], Payload::Deaf);
    scene.wait_for_mark("deaf");
    let payload = scene.record().payload_pid();
    terminal.ctrl_c();
    std::thread::sleep(Duration::from_millis(400));
    assert!(gateway.is_running() && exists(payload));
    terminal.ctrl_c();
    assert_eq!(gateway.end(), End::of(Signal::INT));
    assert!(!exists(payload), "nothing is orphaned");
    scene.wait_until_empty();
}

/// Dying of the signal is what tells a shell to end its loop.
#[test]
fn ctrl_c_ends_a_loop_of_the_shell() {
    for shell in [
        &["bash", "--norc", "--noprofile", "-i"][..],
        &["dash", "-i"],
    ] {
        let scene = Scene::new();
        let terminal = Terminal::open();
        let mut shell = terminal.shell(&scene, shell);
        let payload = scene.payload(Payload::Plain);
        terminal.type_line(&format!(
            "for i in 1 2 3; do {} run -- {payload}; done",
            typed(&scene)
        ));
        payload_pid(&scene);
        terminal.ctrl_c();
        terminal.wait_for_times("$ ", 2);
        terminal.type_line("echo over $((6 * 7))");
        terminal.wait_for("over 42");
        assert_eq!(scene.started_payloads().len(), 1, "{}", terminal.screen());
        terminal.type_line("exit");
        shell.end();
    }
}

#[test]
fn ctrl_z_stops_both_and_fg_continues() {
    for shell in [
        &["bash", "--norc", "--noprofile", "-i"][..],
        &["dash", "-i"],
    ] {
        let scene = Scene::new();
        let terminal = Terminal::open();
        let _shell = terminal.shell(&scene, shell);
        let script = "echo ready >>\"$SCENE/marks\"\nread line\necho \"got $line\"\nexit 0\n";
        let payload = scene.payload(Payload::Script(script));
        terminal.type_line(&format!("{} run -- {payload}; echo code $?", typed(&scene)));
        let pid = payload_pid(&scene);
        scene.wait_for_mark("ready");
        let gateway = scene.record().pid();
        terminal.ctrl_z();
        wait_until("both are stopped", SOON, || {
            (state(gateway), state(pid)) == (Some('T'), Some('T'))
        });
        terminal.type_line("fg");
        wait_until("both go on", SOON, || {
            state(gateway) == Some('S') && state(pid) == Some('S')
        });
        terminal.type_line("hello");
        terminal.wait_for("got hello");
        wait_until("the gateway has ended", SOON, || !exists(gateway));
    }
}

#[test]
fn the_command_reads_from_the_terminal_and_is_in_its_foreground() {
    let scene = Scene::new();
    let terminal = Terminal::open();
    let command = scene.gateway([
        "run",
        "--",
        "sh",
        "-c",
        "read line; echo \"got $line\"; exit 4",
    ]);
    let mut gateway = terminal.start(&scene, &command);
    terminal.type_line("hello");
    terminal.wait_for("got hello");
    assert_eq!(gateway.end(), End::Code(4));
    // Nothing of ours is on the screen.
    assert_eq!(terminal.screen(), "hello\ngot hello\n");
}

#[test]
fn with_a_terminal_the_group_is_shared_and_without_one_it_is_not() {
    let group = |pid: u32| stat_field(pid, 5).unwrap();
    let scene = Scene::new();
    let terminal = Terminal::open();
    let gateway = start_at(&terminal, &scene, &[], Payload::Plain);
    assert_eq!(group(gateway.pid()), group(scene.record().payload_pid()));
    let scene = Scene::new();
    let gateway = scene.hold();
    assert_ne!(group(gateway.pid()), group(scene.record().payload_pid()));
}

// ---------------------------------------------------------------- closing the window

/// NousResearch/hermes-agent#35240, #14200: a closed terminal left things behind.
#[test]
fn closing_the_window_ends_everything() {
    for (shell, background) in [
        (&["bash", "--norc", "--noprofile", "-i"][..], ""),
        (&["bash", "--norc", "--noprofile", "-i"], " &"),
        (&["dash", "-i"], ""),
    ] {
        let what = format!("{shell:?}{background}");
        let scene = Scene::new();
        let terminal = Terminal::open();
        let _shell = terminal.shell(&scene, shell);
        let payload = scene.payload(Payload::Plain);
        terminal.type_line(&format!("{} run -- {payload}{background}", typed(&scene)));
        let pid = payload_pid(&scene);
        let gateway = scene.record().pid();
        terminal.hang_up();
        wait_until(&format!("both have ended: {what}"), SOON, || {
            !exists(gateway) && !exists(pid)
        });
        assert_eq!(
            scene.record().text("/reason"),
            "stopped",
            "in order: {what}"
        );
        scene.finish(["run", "--", "true"]).assert_code(0);
    }
}

/// dash passes no HUP to jobs in the background, whatever they are: ours lives on, whole.
#[test]
fn a_background_job_of_dash_lives_on_as_any_other() {
    let scene = Scene::new();
    let terminal = Terminal::open();
    let mut shell = terminal.shell(&scene, &["dash", "-i"]);
    let payload = scene.payload(Payload::Plain);
    terminal.type_line("sleep 1000 & echo $! >other");
    terminal.type_line(&format!("{} run -- {payload} &", typed(&scene)));
    let pid = payload_pid(&scene);
    let gateway = scene.record().pid();
    let other: u32 = scene.lines("other")[0].parse().unwrap();
    terminal.hang_up();
    shell.end();
    // Not a wait for something: the time in which they must not end.
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!([exists(other), exists(gateway), exists(pid)], [true; 3]);
    scene.finish(["stop"]).assert_code(0);
}

#[test]
fn hup_with_a_terminal_is_an_ordered_stop() {
    let scene = Scene::new();
    let terminal = Terminal::open();
    let mut gateway = start_at(&terminal, &scene, &[], Payload::Plain);
    gateway.signal(Signal::HUP);
    assert_eq!(gateway.end(), End::of(Signal::HUP));
    assert_eq!(scene.record().text("/reason"), "stopped");
}

#[test]
fn nohup_outlives_the_window() {
    let scene = Scene::new();
    let terminal = Terminal::open();
    let mut shell = terminal.shell(&scene, &["bash", "--norc", "--noprofile", "-i"]);
    let payload = scene.payload(Payload::Plain);
    terminal.type_line(&format!(
        "nohup {} run -- {payload} >out 2>&1 &",
        typed(&scene)
    ));
    let pid = payload_pid(&scene);
    let gateway = scene.record().pid();
    terminal.hang_up();
    shell.end();
    // Not a wait for something: the time in which it must not end.
    std::thread::sleep(Duration::from_millis(500));
    assert!(exists(gateway) && exists(pid));
    assert_eq!(scene.state(), "held");
    scene.finish(["stop"]).assert_code(0);
}

// ---------------------------------------------------------------- whose group it is

/// A script that calls us: its group is not ours, and hears no signal of ours.
#[test]
fn a_script_that_calls_us_hears_nothing_of_ours() {
    let scene = Scene::new();
    let terminal = Terminal::open();
    let payload = scene.payload(Payload::Script(
        "sleep infinity &\necho ready >>\"$SCENE/marks\"\nexec sleep infinity\n",
    ));
    let script = format!(
        "for s in TERM INT HUP QUIT CONT; do trap \"echo script $s >>heard\" $s; done\n\
         sh -c 'for s in TERM INT HUP QUIT; do trap \"echo sibling $s >>heard\" $s; done; while :; do sleep 0.05; done' &\n\
         {} run --stop-timeout 300ms -- {payload}\necho code $? >>heard\nkill -9 $!\n",
        typed(&scene)
    );
    scene.script(&scene.path("script"), &format!("#!/bin/bash\n{script}"));
    let mut running = terminal.start(&scene, &scene.command(scene.path("script")));
    payload_pid(&scene);
    scene.wait_for_mark("ready");
    let gateway = scene.record().pid();
    assert_eq!(
        stat_field(gateway, 5),
        stat_field(running.pid(), 5),
        "one group"
    );
    crate::harness::signal(gateway, Signal::TERM);
    running.end();
    assert_eq!(scene.lines("heard"), ["code 143"]);
}

#[test]
fn a_pipeline_works_and_ends_with_ctrl_c() {
    let scene = Scene::new();
    let terminal = Terminal::open();
    let _shell = terminal.shell(&scene, &["bash", "--norc", "--noprofile", "-i"]);
    terminal.type_line(&format!(
        "echo hello | {} run -- cat | tr a-z A-Z",
        typed(&scene)
    ));
    terminal.wait_for("HELLO");
    let payload = scene.payload(Payload::Plain);
    terminal.type_line(&format!(
        "sleep 1000 | {} run -- {payload} | cat",
        typed(&scene)
    ));
    payload_pid(&scene);
    terminal.ctrl_c();
    terminal.type_line("echo over $((6 * 7))");
    terminal.wait_for("over 42");
    wait_until("the lock is free", SOON, || scene.lockers().is_empty());
}

/// The child stops with the key, and we sleep for it where nothing wakes us (CLONE_VFORK): no key and
/// no signal would be heard, and the shell not know that the job was stopped.
#[test]
fn ctrl_z_before_the_command_is_there_gives_the_shell_back() {
    need("strace", "strace");
    let scene = Scene::new();
    let terminal = Terminal::open();
    let shell = terminal.shell(&scene, &["bash", "--norc", "--noprofile", "-i"]);
    let mut strace = scene.command("strace");
    let slow = "inject=prctl:delay_exit=1500000";
    strace.args(["-f", "-o", "/dev/null", "-e", "trace=prctl", "-e", slow]);
    strace.arg("-p").arg(shell.pid().to_string());
    let _strace = scene.spawn(strace);
    wait_until("the shell is traced", SOON, || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", shell.pid()));
        status.is_ok_and(|status| !status.contains("TracerPid:\t0\n"))
    });
    let payload = scene.payload(Payload::Slow("0"));
    terminal.type_line(&format!("{} run -- {payload}", typed(&scene)));
    // The shell's child, and its.
    wait_until("the child is there", SOON, || {
        descendants(shell.pid()).len() == 2
    });
    terminal.ctrl_z();
    terminal.wait_for_times("$ ", 2);
    let gateway = descendants(shell.pid())[0];
    // As strace has it.
    assert!(matches!(state(gateway), Some('T' | 't')));
    terminal.type_line("fg");
    scene.wait_for_mark("ready");
    terminal.ctrl_c();
    wait_until("the gateway has ended", SOON, || !exists(gateway));
}

/// A background job that is stopped for writing must not keep us from hearing.
#[test]
fn a_background_job_is_not_stopped_for_writing() {
    let scene = Scene::new();
    let terminal = Terminal::open();
    let _shell = terminal.shell(&scene, &["bash", "--norc", "--noprofile", "-i"]);
    terminal.type_line("stty tostop");
    let payload = scene.payload(Payload::Slow("0.2"));
    terminal.type_line(&format!("{} -v run -- {payload} &", typed(&scene)));
    payload_pid(&scene);
    scene.wait_for_mark("ready");
    let gateway = scene.record().pid();
    assert_ne!(state(gateway), Some('T'));
    scene.finish(["stop"]).assert_code(0);
    assert!(!exists(gateway));
}

// ---------------------------------------------------------------- what is shown

#[test]
fn a_wait_is_counted_down() {
    let scene = Scene::new();
    let _holder = scene.hold_with(&[], Payload::Slow("3"));
    scene.wait_for_mark("ready");
    let terminal = Terminal::open();
    let command = scene.gateway(["run", "--replace", "--", "true"]);
    let mut gateway = terminal.start(&scene, &command);
    terminal.wait_for("taking over: asked pid");
    terminal.wait_for(" s left");
    assert_eq!(gateway.end(), End::Code(0));
    let screen = terminal.screen();
    assert!(
        screen.contains("\x1b[K"),
        "the countdown is wiped: {screen:?}"
    );
}

#[test]
fn a_good_start_shows_nothing() {
    let scene = Scene::new();
    let terminal = Terminal::open();
    let mut gateway = terminal.start(&scene, &scene.gateway(["run", "--", "true"]));
    assert_eq!(gateway.end(), End::Code(0));
    assert_eq!(terminal.screen(), "");
}

/// A command line with control characters must not move anybody's cursor.
#[test]
fn control_characters_of_others_are_not_shown() {
    let scene = Scene::new();
    let _holder = scene.start(["run", "--", "sh", "-c", "sleep infinity", "\x1b[2J\x07"]);
    scene.wait_for_record("a payload", |record| record.has_payload());
    for words in [
        &["status"][..],
        &["run", "--", "true"],
        &["list"],
        &["stop"],
    ] {
        let command = match words {
            // It is of all of them.
            ["list"] => scene.bare(words),
            _ => scene.gateway(words),
        };
        let output = scene.finish_command(command);
        let said = output.stdout + &output.stderr;
        assert!(
            !said.contains('\x1b') && !said.contains('\x07'),
            "{words:?}: {said:?}"
        );
    }
}

/// A shell as the command makes a group of its own and takes the terminal: Ctrl-C is its affair.
#[test]
fn an_interactive_shell_as_the_command_keeps_its_terminal() {
    let scene = Scene::new();
    let terminal = Terminal::open();
    let _outer = terminal.shell(&scene, &["bash", "--norc", "--noprofile", "-i"]);
    terminal.type_line(&format!(
        "PS1='inner ' {} run -- bash --norc --noprofile -i",
        typed(&scene)
    ));
    terminal.wait_for("\ninner ");
    let gateway = scene
        .wait_for_record("a payload", |record| record.has_payload())
        .pid();
    terminal.type_line("sleep 1000");
    // Its name shows that the shell has handed it the terminal: that comes before the exec.
    until("the inner command runs", SOON, || {
        let name = |pid| std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        let below = crate::harness::descendants(gateway);
        below.iter().any(|pid| name(pid) == "sleep\n").then_some(())
    });
    terminal.ctrl_c();
    terminal.type_line("echo inside $((6 * 7))");
    terminal.wait_for("inside 42");
    assert!(exists(gateway), "{}", terminal.screen());
    terminal.type_line("exit 3");
    wait_until("the gateway has ended", SOON, || !exists(gateway));
    terminal.type_line("echo outside $?");
    terminal.wait_for("outside 3");
}

// ---------------------------------------------------------------- a second Ctrl-C

/// Only a second Ctrl-C shortens a stop: the first may be meant for something else, and comes to a
/// command that is draining after somebody else's TERM.
#[test]
fn one_ctrl_c_after_a_term_kills_nothing_and_a_second_one_does() {
    let scene = Scene::new();
    let terminal = Terminal::open();
    let options = ["--stop-timeout", "1h"];
    let mut gateway = start_at(&terminal, &scene, &options, Payload::Script(LISTENER));
    scene.wait_for_mark("ready");
    let payload = scene.record().payload_pid();
    gateway.signal(Signal::TERM);
    wait_until("the command heard it", SOON, || {
        scene.lines("heard") == ["TERM"]
    });
    terminal.ctrl_c();
    wait_until("the command heard the key", SOON, || {
        scene.lines("heard") == ["TERM", "INT"]
    });
    // Not a wait for something: the time in which it must not be killed.
    std::thread::sleep(Duration::from_millis(300));
    assert!(gateway.is_running() && exists(payload));
    terminal.ctrl_c();
    assert_eq!(gateway.end(), End::of(Signal::TERM));
    let screen = terminal.screen();
    let line = format!("interrupted again: sent SIGKILL to pid {payload} (");
    assert!(screen.contains(&line), "{screen}");
    assert!(!screen.contains("time is over"), "{screen}");
}

/// The shell says `Terminated`, and no more.
#[test]
fn who_is_taken_over_at_a_terminal_is_told_by_whom() {
    for (options, times) in [(&[][..], 1), (&["-q"], 0), (&["-v"], 1)] {
        let scene = Scene::new();
        let terminal = Terminal::open();
        let mut old = start_at(&terminal, &scene, options, Payload::Plain);
        let mut new = scene.start(["run", "--replace", "--", "sleep", "infinity"]);
        assert_eq!(old.end(), End::of(Signal::TERM));
        let screen = terminal.screen();
        let told = |line: &&str| line.contains("being replaced");
        assert_eq!(screen.lines().filter(told).count(), times, "{screen}");
        if options.is_empty() {
            let who = format!("gateway: being replaced by pid {} (", new.pid());
            let at = format!("), {}\n", scene.pid_file().display());
            assert!(
                screen.starts_with(&who) && screen.ends_with(&at),
                "{screen}"
            );
        }
        new.signal(Signal::TERM);
        new.end();
        // Elsewhere it is for the diary alone.
        let mut old = scene.hold();
        let mut new = scene.start(["run", "--replace", "--", "sleep", "infinity"]);
        assert_eq!(old.end(), End::of(Signal::TERM));
        assert_eq!(old.stderr(), "");
        new.signal(Signal::TERM);
        new.end();
    }
}
