//! Signals: on to the command, once, and to nobody else.

use std::fs;

use crate::harness::{
    Call, End, Payload, Process, SOON, Scene, Signal, Trace, injected, need, signal, stat_field,
    state, until, wait_until,
};

fn listen(scene: &Scene, options: &[&str]) -> Process {
    let holder = scene.hold_with(options, Payload::Listener);
    scene.wait_for_mark("ready");
    holder
}

fn heard(scene: &Scene, count: usize) -> Vec<String> {
    until("the payload heard it", SOON, || {
        let heard = scene.lines("heard");
        (heard.len() >= count).then_some(heard)
    })
}

fn enough(scene: &Scene) {
    fs::write(scene.path("enough"), "").unwrap();
}

/// jwilder/dockerize#12: the wrapper ended at once and left the child running.
#[test]
fn a_stop_is_passed_on_once_and_the_gateway_waits() {
    for (signal, name) in [(Signal::TERM, "TERM"), (Signal::INT, "INT")] {
        let scene = Scene::new();
        let mut holder = listen(&scene, &[]);
        holder.signal(signal);
        assert_eq!(heard(&scene, 1), [name]);
        assert!(holder.is_running());
        assert_eq!(
            scene.lockers(),
            [holder.pid()],
            "it holds until the payload is gone"
        );
        // Passed on in order: a second one would have come before this.
        holder.signal(Signal::USR1);
        // And CONT follows only a stopped payload.
        assert_eq!(heard(&scene, 2), [name, "USR1"]);
        enough(&scene);
        assert_eq!(holder.end(), End::Code(0));
        assert_eq!(scene.lines("heard"), [name, "USR1"]);
    }
}

#[test]
fn other_signals_are_passed_on_and_stop_nothing() {
    let scene = Scene::new();
    let mut holder = listen(&scene, &[]);
    let signals = [
        (Signal::USR1, "USR1"),
        (Signal::USR2, "USR2"),
        (Signal::QUIT, "QUIT"),
        (Signal::WINCH, "WINCH"),
        (Signal::ALARM, "ALRM"),
        (Signal::HUP, "HUP"),
    ];
    for (count, (signal, name)) in signals.into_iter().enumerate() {
        holder.signal(signal);
        assert_eq!(heard(&scene, count + 1)[count], name);
    }
    assert!(holder.is_running());
    assert_eq!(scene.state(), "held");
    enough(&scene);
    assert_eq!(holder.end(), End::Code(0));
    let names: Vec<&str> = signals.iter().map(|(_, name)| *name).collect();
    assert_eq!(scene.lines("heard"), names, "each was heard once");
}

/// Two of a kind that come at once are one to whoever hears them, so the sender is watched, too.
#[test]
fn without_a_terminal_each_signal_is_sent_once_and_to_one_process() {
    for (signal, name) in [
        (Signal::TERM, "TERM"),
        (Signal::INT, "INT"),
        (Signal::HUP, "HUP"),
    ] {
        let scene = Scene::new();
        let payload = scene.payload(Payload::Listener);
        let command = scene.gateway(["run", "--", &payload]);
        let calls = "trace=pidfd_send_signal,pidfd_open,kill,tkill,tgkill,rt_sigqueueinfo";
        let mut trace = Trace::start(&scene, calls, &command);
        scene.wait_for_mark("ready");
        let record = scene.wait_for_record("the payload", |record| record.has_payload());
        crate::harness::signal(record.pid(), signal);
        // strace may have it stopped at that moment: then it hears CONT, too, and perhaps first.
        wait_until("it is heard", SOON, || {
            scene.lines("heard").iter().any(|heard| heard == name)
        });
        enough(&scene);
        assert_eq!(trace.process.end(), End::Code(0));
        let calls = trace.calls();
        // CONT is sent to a command that is stopped, as it is for a moment under strace.
        let sent: Vec<&Call> = calls
            .iter()
            .filter(|call| call.pid == record.pid() && call.name != "pidfd_open")
            .filter(|call| !call.rest.contains("SIGCONT"))
            .collect();
        assert_eq!(sent.len(), 1, "{sent:?}");
        assert_eq!(sent[0].name, "pidfd_send_signal");
        assert!(sent[0].rest.contains(&format!("SIG{name}")), "{sent:?}");
    }
}

/// A listener's gateway that is held for most of a second after each of these calls.
fn listen_slowly(scene: &Scene, call: &str) -> Process {
    let payload = scene.payload(Payload::Listener);
    let command = scene.gateway(["run", "--", &payload]);
    let slow = format!("{call}:delay_exit=700000");
    scene.spawn(injected(scene, &slow, &command))
}

/// strace holds it, and not just for the moment that each call is looked at.
#[track_caller]
fn wait_until_held(pid: u32) {
    let mut held = 0;
    wait_until("strace holds it", SOON, || {
        let stopped = state(pid) == Some('t');
        held = if stopped { held + 1 } else { 0 };
        held > 20
    });
}

#[test]
fn a_stop_before_the_command_starts_nothing() {
    let scene = Scene::new();
    let mut slow = listen_slowly(&scene, "pwrite64");
    let record = scene.wait_for_record("its own", |_| true);
    wait_until_held(record.pid());
    crate::harness::signal(record.pid(), Signal::TERM);
    assert_eq!(slow.end(), End::of(Signal::TERM));
    assert_eq!(scene.started_payloads().len(), 0);
    assert_eq!(scene.record().text("/reason"), "stopped");
}

/// It is blocked before there is a handler for it: one that came in between was noted, and the first
/// sleep of a standby took its whole second.
#[test]
fn what_comes_while_the_handlers_are_installed_ends_the_first_sleep() {
    need("strace", "strace");
    let scene = Scene::new();
    let _holder = scene.hold();
    let command = scene.gateway(["run", "--wait", "--", "true"]);
    // There are more before it sleeps, even where its starter ignores some of the signals.
    for when in (3..31).step_by(3) {
        let log = scene.path(format!("log-{when}"));
        let inject = format!("inject=rt_sigaction:signal=SIGTERM:when={when}");
        let calls = "trace=rt_sigaction,ppoll";
        let options = [
            "-o",
            log.to_str().unwrap(),
            "-e",
            calls,
            "-e",
            &inject,
            "--",
        ];
        let mut standby = scene.spawn(scene.behind("strace", &options, &command));
        assert_eq!(standby.end(), End::of(Signal::TERM), "told at call {when}");
        let calls = fs::read_to_string(&log).unwrap();
        let mut handlers = calls.match_indices("rt_sigaction(");
        let (told_at, _) = handlers.nth(when - 1).expect("it was told");
        let after = &calls[told_at..];
        let slept =
            |call: &str| call.starts_with("ppoll") && !call.contains("tv_sec=0, tv_nsec=0}");
        let in_vain = |call: &str| slept(call) && call.contains("(Timeout)");
        assert!(!after.lines().any(in_vain), "told at call {when}: {after}");
    }
}

fn has_a_descriptor_for_signals(pid: u32) -> bool {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let mut leads = descriptors.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    leads.any(|lead| lead.to_str() == Some("anon_inode:[signalfd]"))
}

#[test]
fn the_command_does_not_inherit_the_descriptor_for_signals() {
    let scene = Scene::new();
    let holder = scene.hold();
    assert!(has_a_descriptor_for_signals(holder.pid()));
    let payload = crate::harness::descendants(holder.pid());
    assert!(!payload.is_empty());
    for process in payload {
        assert!(!has_a_descriptor_for_signals(process), "pid {process}");
    }
}

/// A filter of system calls may refuse it: then the handlers note what comes.
#[test]
fn without_a_descriptor_for_signals_they_are_heard_all_the_same() {
    for refused in [false, true] {
        let scene = Scene::new();
        let payload = scene.payload(Payload::Listener);
        let command = scene.gateway(["run", "--", &payload]);
        let injection = if refused {
            "signalfd4:error=ENOSYS"
        } else {
            "signalfd4:delay_exit=1"
        };
        let mut run = scene.spawn(injected(&scene, injection, &command));
        scene.wait_for_mark("ready");
        let record = scene.wait_for_record("the payload", |record| record.has_payload());
        assert_eq!(has_a_descriptor_for_signals(record.pid()), !refused);
        // A CONT may come between them, because strace stops the payload, too.
        for (signal, name) in [(Signal::USR1, "USR1"), (Signal::TERM, "TERM")] {
            crate::harness::signal(record.pid(), signal);
            wait_until("it is passed on", SOON, || {
                scene.lines("heard").contains(&name.to_owned())
            });
        }
        enough(&scene);
        assert_eq!(run.end(), End::Code(0));
        let this = u64::from(std::process::id());
        assert_eq!(scene.record().number("/by/pid"), this);
    }
}

/// The moment between the look at what has come and the sleep, made most of a second long: each look is
/// followed by a wait4(2).
#[test]
fn what_comes_between_a_look_and_the_sleep_is_heard() {
    let scene = Scene::new();
    let mut slow = listen_slowly(&scene, "wait4");
    scene.wait_for_mark("ready");
    let record = scene.wait_for_record("the payload", |record| record.has_payload());
    crate::harness::signal(record.pid(), Signal::USR1);
    wait_until_held(record.pid());
    crate::harness::signal(record.pid(), Signal::TERM);
    // In what order, and with a CONT because strace stops the payload, too, is not the question.
    wait_until("it is passed on", SOON, || {
        scene.lines("heard").contains(&"TERM".to_owned())
    });
    enough(&scene);
    assert_eq!(slow.end(), End::Code(0));
}

#[test]
fn a_stop_signal_can_be_chosen() {
    for option in ["QUIT", "SIGQUIT", "3"] {
        let scene = Scene::new();
        let mut holder = listen(&scene, &["--stop-signal", option]);
        holder.signal(Signal::TERM);
        assert_eq!(heard(&scene, 1), ["QUIT"]);
        enough(&scene);
        assert_eq!(holder.end(), End::Code(0));
    }
}

#[test]
fn a_takeover_uses_the_holders_stop_signal() {
    let scene = Scene::new();
    let mut holder = listen(&scene, &["--stop-signal", "USR2"]);
    let new = scene.start(["run", "--replace", "--", "true"]);
    assert_eq!(heard(&scene, 1), ["USR2"]);
    enough(&scene);
    assert_eq!(holder.end(), End::Code(0));
    new.output().assert_code(0);
}

#[test]
fn a_second_term_does_not_shorten_the_stop() {
    let scene = Scene::new();
    let mut holder = scene.hold_with(&["--stop-timeout", "1500ms"], Payload::Deaf);
    scene.wait_for_mark("deaf");
    let began = std::time::Instant::now();
    holder.signal(Signal::TERM);
    std::thread::sleep(std::time::Duration::from_millis(300));
    holder.signal(Signal::TERM);
    holder.signal(Signal::INT);
    assert_eq!(holder.end(), End::of(Signal::TERM));
    assert!(
        began.elapsed() >= std::time::Duration::from_millis(1400),
        "{:?}",
        began.elapsed()
    );
}

/// A worker that was forked twice, for which the command waits at its end: it is our child by then.
#[test]
fn a_stopped_orphan_of_the_payload_hears_the_stop() {
    let scene = Scene::new();
    let script = r#"cd "$SCENE"; mkfifo over never; exec 8<>over 9<>never
        (sh -c 'trap "echo over >&8; exit" TERM; echo $$ >child; while :; do read -r _ <&9; done' &)
        trap 'kill $(cat child); read -r _ <&8; exit 0' TERM
        echo ready >>marks
        while :; do read -r _ <&9; done
        "#;
    let mut holder = scene.hold_with(&[], Payload::Script(script));
    scene.wait_for_mark("ready");
    let worker = scene.wait_for_child();
    wait_until("it is ours", SOON, || {
        stat_field(worker, 4) == Some(holder.pid().to_string())
    });
    signal(worker, Signal::STOP);
    wait_until("it is stopped", SOON, || state(worker) == Some('T'));
    holder.signal(Signal::TERM);
    assert_eq!(holder.end(), End::Code(0));
}

#[test]
fn a_stopped_payload_hears_the_stop() {
    let scene = Scene::new();
    let mut holder = scene.hold();
    let payload = scene.record().payload_pid();
    crate::harness::signal(payload, Signal::STOP);
    wait_until("it is stopped", SOON, || state(payload) == Some('T'));
    holder.signal(Signal::TERM);
    assert_eq!(holder.end(), End::of(Signal::TERM));
}

/// Signals go to the first process; its group, where it is not ours, hears nothing.
#[test]
fn only_the_first_process_is_signalled() {
    let scene = Scene::new();
    let script = "sh -c 'trap \"echo child >>\\\"$SCENE/heard\\\"\" USR1; while :; do sleep 0.05; done' &\n\
        trap 'echo first >>\"$SCENE/heard\"' USR1\necho ready >>\"$SCENE/marks\"\n\
        while [ ! -e \"$SCENE/enough\" ]; do sleep 0.05; done\nkill $!\n";
    let mut holder = scene.hold_with(&[], Payload::Script(script));
    scene.wait_for_mark("ready");
    holder.signal(Signal::USR1);
    assert_eq!(heard(&scene, 1), ["first"]);
    holder.signal(Signal::USR1);
    assert_eq!(heard(&scene, 2), ["first", "first"]);
    enough(&scene);
    holder.end();
}

#[test]
fn who_asked_is_recorded() {
    let scene = Scene::new();
    let mut holder = scene.hold();
    let mut kill = scene.command("sh");
    // The shell is still there when the gateway asks who it was.
    kill.args(["-c", &format!("kill {}; sleep 1", holder.pid())]);
    let kill = scene.spawn(kill);
    assert_eq!(holder.end(), End::of(Signal::TERM));
    let record = scene.record();
    assert_eq!(record.number("/by/pid"), u64::from(kill.pid()));
    assert_eq!(record.number("/by/uid"), 0);
    assert!(record.json["by"]["argv"].to_string().contains("kill"));
}

/// The signal masks of a process that was started with these ignored, and by whom.
fn masks(scene: &Scene, ignored: &str, by: &[&str]) -> (u64, u64) {
    // dash does not pass an ignored CHLD on.
    need("bash", "bash");
    let mut command = scene.command("bash");
    let script = format!("trap '' {ignored}; exec \"$@\"");
    command.args(["-c", &script, "bash"]).args(by);
    command.args(["grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status"]);
    let output = scene.finish_command(command);
    output.assert_code(0);
    let mask = |name: &str| {
        let mut lines = output.stdout.lines();
        let line = lines.find(|line| line.starts_with(name)).expect("a line");
        let mask = u64::from_str_radix(line.split_whitespace().nth(1).unwrap(), 16);
        // 32 and 33 are the C library's own affair.
        mask.unwrap() & !(0b11 << 31)
    };
    (mask("SigBlk"), mask("SigIgn"))
}

/// What was ignored stays ignored (nohup), and nothing else is.
#[test]
fn the_command_gets_the_dispositions_that_we_were_given() {
    let scene = Scene::new();
    let gateway = scene.program().to_str().unwrap();
    let under_us = [gateway, "-f", "gateway.pid", "run", "--"];
    for ignored in [
        "URG",
        "HUP",
        "CHLD",
        "HUP INT QUIT TTOU TTIN PIPE USR1 CHLD TERM",
    ] {
        let (blocked, ours) = masks(&scene, ignored, &under_us);
        let (_, plain) = masks(&scene, ignored, &[]);
        assert_eq!((blocked, ours), (0, plain), "{ignored}");
        assert_ne!(plain, 0);
    }
}

#[test]
fn a_gateway_started_with_term_ignored_can_still_be_stopped() {
    let scene = Scene::new();
    let mut command = scene.command("bash");
    command
        .args(["-c", "trap '' TERM CHLD; exec \"$@\"", "bash"])
        .arg(scene.program());
    command.args([
        "-f",
        "gateway.pid",
        "run",
        "--stop-timeout",
        "300ms",
        "--",
        "sleep",
        "infinity",
    ]);
    let mut holder = scene.spawn(command);
    scene.wait_for_record("a holder", |record| record.has_payload());
    holder.signal(Signal::TERM);
    assert_eq!(holder.end(), End::of(Signal::TERM));
}

/// NousResearch/hermes-agent#103191: a stop that comes while the start is still under way.
#[test]
fn a_stop_at_any_moment_of_the_start_leaves_nothing_running() {
    let scene = Scene::new();
    let payload = scene.payload(Payload::Plain);
    // From before main to well after the payload's start, however slow the machine is.
    let late_enough = |step| step >= 60 && !scene.started_payloads().is_empty();
    for step in (0..1000).take_while(|step| !late_enough(*step)) {
        let mut start = scene.start(["run", "--", &payload]);
        let delay = if step < 60 {
            step * 150
        } else {
            (step - 59) * 10_000
        };
        std::thread::sleep(std::time::Duration::from_micros(delay));
        start.signal(Signal::TERM);
        assert_eq!(start.end(), End::of(Signal::TERM), "after {delay} µs");
        assert_eq!(scene.members(), [0; 0]);
        assert_ne!(scene.state(), "held");
    }
    scene.assert_never_two_payloads();
    assert!(
        !scene.started_payloads().is_empty(),
        "some came late enough"
    );
}

#[test]
fn no_time_at_all_is_an_answer_too() {
    let scene = Scene::new();
    let mut holder = scene.hold_with(&["--stop-timeout", "0"], Payload::Deaf);
    scene.wait_for_mark("deaf");
    holder.signal(Signal::TERM);
    assert_eq!(holder.end(), End::of(Signal::TERM));
    assert_eq!(scene.record().number("/exit/signal"), 9);
}

/// Whoever asks once more has not stopped it.
#[test]
fn the_first_who_asked_is_recorded() {
    let scene = Scene::new();
    let mut holder = listen(&scene, &[]);
    let mut kill = scene.command("sh");
    // The shell is still there when the gateway asks who it was.
    kill.args(["-c", &format!("kill {}; exec sleep infinity", holder.pid())]);
    let kill = scene.spawn(kill);
    assert_eq!(heard(&scene, 1), ["TERM"]);
    holder.signal(Signal::INT);
    // Taken out together with it or later: by then that has been looked at.
    holder.signal(Signal::USR1);
    assert_eq!(heard(&scene, 2), ["TERM", "USR1"]);
    enough(&scene);
    holder.end();
    assert_eq!(scene.record().number("/by/pid"), u64::from(kill.pid()));
}
