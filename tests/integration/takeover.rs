//! `--replace`: the proven holder is asked to go, and the lock is waited for.

use std::fs;
use std::process::Command;
use std::time::Duration;

use crate::harness::{
    Call, Canary, End, Locker, Payload, SOON, Scene, Signal, Trace, as_nobody, exists,
    in_pid_namespace, injected, is_held_up_in, need, set_mode, state, until, wait_until,
};
use crate::people::{record_naming, record_with};

/// Starts `run --replace` with a plain payload and these options.
fn replace(scene: &Scene, options: &[&str]) -> crate::harness::Process {
    let payload = scene.payload(Payload::Plain);
    let words = ["run", "--replace"];
    scene.start(words.iter().chain(options).chain(&["--", &payload]))
}

#[test]
fn the_holder_is_asked_and_the_newcomer_runs() {
    let scene = Scene::new();
    let mut old = scene.hold();
    let before = scene.record();
    let new = scene.wait_for_payload(replace(&scene, &[]));
    assert_eq!(old.end(), End::of(Signal::TERM));
    let after = scene.record();
    assert_eq!(after.pid(), new.pid());
    assert_eq!(after.first_line, new.pid().to_string());
    assert_ne!(after.text("/run_id"), before.text("/run_id"));
    assert!(after.number("/generation") > before.number("/generation"));
    assert_eq!(scene.lockers(), [new.pid()]);
    scene.assert_never_two_payloads();
}

#[test]
fn a_takeover_without_a_holder_is_a_start() {
    let scene = Scene::new();
    let output = scene.finish(["run", "--replace", "--", "true"]);
    output.assert_code(0).assert_silent();
}

/// NousResearch/hermes-agent#21915: the new one started before the old one had let go.
#[test]
fn the_newcomer_waits_until_a_slow_payload_is_gone() {
    let scene = Scene::new();
    let mut old = scene.hold_with(&[], Payload::Slow("1"));
    scene.wait_for_mark("ready");
    let mut new = replace(&scene, &[]);
    let line = new.wait_for_line("asked pid");
    assert!(line.contains(&old.pid().to_string()), "{line}");
    assert!(
        line.contains("SIGKILL in 35 s"),
        "its stop budget and 5 s: {line}"
    );
    let _new = scene.wait_for_payload(new);
    assert_eq!(old.end(), End::Code(0));
    scene.assert_never_two_payloads();
}

#[test]
fn the_replaced_run_is_recorded_while_nobody_has_the_file_yet() {
    let scene = Scene::new();
    let mut old = scene.hold_with(&[], Payload::Graceful);
    scene.wait_for_mark("ready");
    // The newcomer is stopped before it can write: the old record is looked at in peace.
    let newcomer = scene.gateway(["run", "--replace", "--", "true"]);
    let slow = "pidfd_send_signal:delay_exit=1000000";
    let newcomer = scene.spawn(injected(&scene, slow, &newcomer));
    assert_eq!(old.end(), End::Code(0));
    let record = scene.record();
    assert_eq!(record.first_line, "");
    assert_eq!(record.text("/reason"), "replaced");
    assert_eq!(record.number("/by/uid"), 0);
    let argv = record.json["by"]["argv"].to_string();
    assert!(argv.contains("--replace"), "{argv}");
    newcomer.output().assert_code(0);
}

/// NousResearch/hermes-agent#41864: a payload that does not listen survived its gateway.
#[test]
fn a_deaf_payload_is_killed_by_its_own_gateway() {
    let scene = Scene::new();
    let mut old = scene.hold_with(&["--stop-timeout", "300ms"], Payload::Deaf);
    scene.wait_for_mark("deaf");
    let deaf = scene.record().payload_pid();
    let _new = scene.wait_for_payload(replace(&scene, &[]));
    assert_eq!(
        old.end(),
        End::of(Signal::TERM),
        "asked, and stopped in its own time"
    );
    assert!(!exists(deaf));
    scene.assert_never_two_payloads();
}

#[test]
fn a_holder_that_does_not_go_is_killed() {
    let scene = Scene::new();
    let mut old = scene.hold_with(&["--stop-timeout", "1h"], Payload::Deaf);
    scene.wait_for_mark("deaf");
    let mut new = replace(&scene, &["--kill-after", "300ms"]);
    new.wait_for_line("sent SIGKILL");
    let _new = scene.wait_for_payload(new);
    assert_eq!(old.end(), End::of(Signal::KILL));
    scene.assert_never_two_payloads();
}

/// NousResearch/hermes-agent#2189: SIGTERM stays pending in a stopped process.
#[test]
fn a_stopped_holder_is_woken_to_stop() {
    let scene = Scene::new();
    let mut old = scene.hold();
    old.signal(Signal::STOP);
    wait_until("it is stopped", SOON, || state(old.pid()) == Some('T'));
    let _new = scene.wait_for_payload(replace(&scene, &[]));
    assert_eq!(old.end(), End::of(Signal::TERM));
    scene.assert_never_two_payloads();
}

#[test]
fn a_stopped_payload_is_woken_to_stop() {
    let scene = Scene::new();
    let mut old = scene.hold();
    let payload = scene.record().payload_pid();
    crate::harness::signal(payload, Signal::STOP);
    wait_until("it is stopped", SOON, || state(payload) == Some('T'));
    let _new = scene.wait_for_payload(replace(&scene, &[]));
    assert_eq!(old.end(), End::of(Signal::TERM));
}

/// NousResearch/hermes-agent#54162: a zombie answers to its number, and holds nothing.
#[test]
fn a_zombie_holds_nothing() {
    let scene = Scene::new();
    let payload = scene.payload(Payload::Plain);
    let mut parent = scene.command("sh");
    // The shell becomes a process that never waits for its child.
    let script = "\"$@\" & exec sleep infinity";
    parent.args(["-c", script, "sh"]).arg(scene.program());
    parent.args(["-f", "gateway.pid", "run", "--", &payload]);
    let _parent = scene.spawn(parent);
    let old = scene
        .wait_for_record("a holder", |record| record.has_payload())
        .pid();
    crate::harness::signal(old, Signal::KILL);
    wait_until("it is a zombie", SOON, || state(old) == Some('Z'));
    assert_eq!(scene.state(), "crashed");
    let new = scene.wait_for_payload(replace(&scene, &[]));
    crate::harness::signal(new.pid(), Signal::TERM);
    // And one that becomes a zombie while it is waited for.
    let mut parent = scene.command("sh");
    parent.args(["-c", script, "sh"]).arg(scene.program());
    parent.args(["-f", "gateway.pid", "run", "--replace", "--", &payload]);
    let _parent = scene.spawn(parent);
    let old = scene.wait_for_record("a second holder", |record| {
        record.has_payload() && record.pid() != new.pid()
    });
    let _new = scene.wait_for_payload(replace(&scene, &[]));
    assert_eq!(state(old.pid()), Some('Z'));
    scene.assert_never_two_payloads();
}

// ---------------------------------------------------------------- the proof

/// NousResearch/hermes-agent#28561: the lock is held, and the file names a stranger.
#[test]
fn neither_a_stranger_in_the_file_nor_a_foreign_locker_is_signalled() {
    let stranger = Canary::new();
    let junk = [
        String::new(),
        "junk".to_owned(),
        "0\n".to_owned(),
        "-1\n".to_owned(),
        "1\n".to_owned(),
        format!("{}\n", stranger.pid()),
        "RECORD".to_owned(),
    ];
    let runs: Vec<_> = junk
        .iter()
        .map(|text| {
            let scene = Scene::new();
            let text = if text == "RECORD" {
                record_naming(&scene.pid_file(), stranger.pid())
            } else {
                text.clone()
            };
            fs::write(scene.pid_file(), text).unwrap();
            let locker = Locker::on(&scene, &scene.pid_file());
            let start = replace(&scene, &["--timeout", "1", "--kill-after", "0.5"]);
            let stop = scene.start(["stop", "--timeout", "1", "--kill-after", "0.5"]);
            (scene, locker, start, stop)
        })
        .collect();
    for (scene, mut locker, start, stop) in runs {
        let before = scene.bytes();
        let named = format!("pid {} (", locker.pid());
        let output = start.output();
        output.assert_code(82).assert_says(&named);
        output.assert_says("wait for it with --wait");
        stop.output().assert_code(82).assert_says(&named);
        assert_eq!(scene.bytes(), before);
        assert!(locker.0.is_running());
        assert_eq!(scene.started_payloads(), [0; 0]);
    }
    stranger.assert_heard_nothing();
}

/// NousResearch/hermes-agent#29092: a copied state directory names a live gateway.
#[test]
fn a_copied_record_harms_nobody() {
    let original = Scene::new();
    let mut theirs = original.hold();
    let copy = Scene::new();
    fs::copy(original.pid_file(), copy.pid_file()).unwrap();
    copy.finish(["run", "--replace", "--", "true"])
        .assert_code(0);
    fs::copy(original.pid_file(), copy.pid_file()).unwrap();
    copy.finish(["stop"]).assert_code(0);
    fs::copy(original.pid_file(), copy.pid_file()).unwrap();
    let mut locker = Locker::on(&copy, &copy.pid_file());
    let options = [
        "run",
        "--replace",
        "--timeout",
        "600ms",
        "--kill-after",
        "0.2",
        "--",
        "true",
    ];
    let output = copy.finish(options);
    output
        .assert_code(82)
        .assert_took(Duration::from_millis(600));
    assert!(locker.0.is_running());
    assert!(theirs.is_running());
    assert_eq!(original.state(), "held");
}

/// What older gateways and other programs wrote, with the lock really held.
#[test]
fn a_bare_number_and_the_old_json_are_records_too() {
    let scene = Scene::new();
    for old_json in [false, true] {
        let mut locker = Locker::on(&scene, &scene.pid_file());
        let text = if old_json {
            let start = crate::harness::stat_field(locker.pid(), 22).unwrap();
            format!(
                "{{\"pid\":{},\"start_time\":{start},\"argv\":[\"hermes\"]}}",
                locker.pid()
            )
        } else {
            format!("{}\n", locker.pid())
        };
        fs::write(scene.pid_file(), text).unwrap();
        scene.finish(["run", "--", "true"]).assert_code(80);
        scene
            .finish(["run", "--replace", "--", "true"])
            .assert_code(0);
        assert_eq!(locker.0.end(), End::of(Signal::TERM));
    }
}

/// A process that may not be looked into is proven by the kernel's table of locks.
#[test]
fn a_holder_with_other_capabilities_is_proven_by_the_table_of_locks() {
    let scene = Scene::for_everybody();
    let folder = scene.path("shared");
    fs::create_dir(&folder).unwrap();
    set_mode(&folder, 0o777);
    let file = folder.join("gateway.pid");
    let mut holder = scene.command("setpriv");
    need("setpriv", "util-linux");
    holder.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]);
    holder.args(["--inh-caps", "+net_raw", "--ambient-caps", "+net_raw"]);
    holder.arg(scene.program()).arg("-f").arg(&file);
    let mut holder = scene.spawn({
        holder.args(["run", "--", "sleep", "infinity"]);
        holder
    });
    wait_until("it holds", SOON, || {
        assert!(holder.is_running(), "{}", holder.stderr());
        fs::read(&file).is_ok_and(|bytes| bytes.windows(9).any(|word| word == b"\"payload\""))
    });
    let mut look = scene.bare(["-f"]);
    look.arg(&file).args(["run", "--", "true"]);
    scene
        .finish_command(as_nobody(&scene, &look))
        .assert_code(80);
    let mut take = scene.bare(["-f"]);
    take.arg(&file).args(["run", "--replace", "--", "true"]);
    scene
        .finish_command(as_nobody(&scene, &take))
        .assert_code(0);
    assert_eq!(holder.end(), End::of(Signal::TERM));
}

/// giampaolo/psutil#2400: pinned, proven, signalled, in that order and by descriptor.
#[test]
fn the_pidfd_comes_first_then_the_proof_then_the_signal() {
    let scene = Scene::new();
    let mut old = scene.hold_with(&["--stop-timeout", "1h"], Payload::Deaf);
    scene.wait_for_mark("deaf");
    let holder = old.pid();
    let command = scene.gateway(["run", "--replace", "--kill-after", "300ms", "--", "true"]);
    let calls = "trace=pidfd_open,pidfd_send_signal,kill,tkill,tgkill,rt_sigqueueinfo,openat,flock";
    let mut trace = Trace::start(&scene, calls, &command);
    assert_eq!(
        trace.process.end(),
        End::Code(0),
        "{}",
        trace.process.stderr()
    );
    assert_eq!(old.end(), End::of(Signal::KILL));
    let calls = trace.calls();
    let newcomer = calls[0].pid;
    for call in &calls {
        let by_number =
            ["kill", "tkill", "tgkill", "rt_sigqueueinfo"].contains(&call.name.as_str());
        assert!(!by_number, "a signal by number: {call:?}");
    }
    let own: Vec<&Call> = calls.iter().filter(|call| call.pid == newcomer).collect();
    let signals: Vec<usize> = own
        .iter()
        .enumerate()
        .filter(|(_, call)| call.name == "pidfd_send_signal" && !call.rest.contains("SIG0"))
        .map(|(at, _)| at)
        .filter(|at| own[*at].rest.contains("SIGTERM") || own[*at].rest.contains("SIGKILL"))
        .collect();
    assert_eq!(signals.len(), 2, "one TERM, one KILL: {own:#?}");
    let pins = format!("{holder},");
    let proof = format!("\"/proc/{holder}/fdinfo");
    let mut after = 0;
    for signal in signals {
        let before = &own[after..signal];
        let pinned = before
            .iter()
            .position(|call| call.name == "pidfd_open" && call.rest.starts_with(&pins));
        let pinned = pinned.unwrap_or_else(|| panic!("not pinned for {:?}", own[signal]));
        let proven = before[pinned..]
            .iter()
            .any(|call| call.name == "openat" && call.rest.contains(&proof));
        assert!(
            proven,
            "no proof between {:?} and {:?}",
            before[pinned], own[signal]
        );
        after = signal;
    }
}

// ---------------------------------------------------------------- nobody to ask

/// NousResearch/hermes-agent#35043: the restart command was a descendant of what it stopped.
#[test]
fn a_takeover_from_inside_the_payload_is_refused() {
    let scene = Scene::new();
    for verb in ["run --replace -- true", "stop", "run --wait -- true"] {
        let script = format!(
            "\"$GATEWAY\" -f \"$GATEWAY_PID_FILE\" {verb}; echo \"code $?\"; exec sleep infinity\n"
        );
        let payload = scene.payload(Payload::Script(&script));
        let mut command = scene.gateway(["run", "--", &payload]);
        command.env("GATEWAY", scene.program());
        let mut holder = scene.wait_for_payload(scene.spawn(command));
        until("the inner command's code", SOON, || {
            holder.stdout().contains("code ").then_some(())
        });
        assert_eq!(holder.stdout(), "code 82\n", "{verb}: {}", holder.stderr());
        assert!(
            holder.stderr().contains("ancestor"),
            "{verb}: {}",
            holder.stderr()
        );
        assert!(holder.is_running());
        holder.signal(Signal::TERM);
        assert_eq!(holder.end(), End::of(Signal::TERM));
    }
}

/// benoitc/gunicorn#1014: not permitted means alive and not ours, and waiting does not help.
#[test]
fn another_users_holder_is_not_waited_for() {
    let scene = Scene::for_everybody();
    let mut holder = scene.hold();
    // To stop it one need not write.
    let replace = &["run", "--replace", "--", "true"][..];
    for (mode, words) in [(0o644, &["stop"][..]), (0o666, replace), (0o666, &["stop"])] {
        set_mode(&scene.pid_file(), mode);
        let before = scene.footprint();
        let command = as_nobody(&scene, &scene.gateway(words));
        let output = scene.finish_command(command);
        output.assert_code(82).assert_one_line();
        output
            .assert_says("root")
            .assert_says(&holder.pid().to_string());
        assert!(output.took < Duration::from_secs(2), "{output:?}");
        assert!(holder.is_running());
        assert_eq!(scene.footprint(), before);
    }
}

/// garrytan/gbrain#2840: the number means another process, or nobody, on the other side.
#[test]
fn a_holder_outside_our_pid_namespace_is_not_guessed_at() {
    let scene = Scene::new();
    let mut holder = scene.hold();
    let options = [
        "run",
        "--replace",
        "--timeout",
        "1",
        "--kill-after",
        "0.5",
        "--",
        "true",
    ];
    let command = in_pid_namespace(&scene, &scene.gateway(options));
    let output = scene.finish_command(command);
    output.assert_code(82).assert_says("pid namespace");
    output.assert_says("stop it where it runs");
    output.assert_took(Duration::from_secs(1));
    let command = in_pid_namespace(&scene, &scene.gateway(["run", "--", "true"]));
    scene.finish_command(command).assert_code(82);
    assert!(holder.is_running());
    scene.assert_never_two_payloads();
}

#[test]
fn a_holder_inside_a_pid_namespace_is_found_from_outside() {
    let scene = Scene::new();
    let payload = scene.payload(Payload::Plain);
    let command = scene.gateway(["run", "--", &payload]);
    let mut container = scene.spawn(in_pid_namespace(&scene, &command));
    scene.wait_for_record("a holder", |record| record.has_payload());
    scene.finish(["run", "--", "true"]).assert_code(80);
    let _new = scene.wait_for_payload(replace(&scene, &[]));
    assert_eq!(
        container.end(),
        End::Code(143),
        "the first process of its namespace"
    );
    scene.assert_never_two_payloads();
}

// ---------------------------------------------------------------- what cannot work harms nobody

/// NousResearch/hermes-agent#99215: the stop half ran, the start half never did.
#[test]
fn a_command_that_cannot_run_harms_nobody() {
    let scene = Scene::new();
    let mut holder = scene.hold();
    let before = scene.footprint();
    fs::write(scene.path("text"), "no program").unwrap();
    for (command, code) in [
        ("no-such-command", 127),
        ("/no/such/command", 127),
        ("./text", 126),
        ("./said", 126),
    ] {
        let output = scene.finish(["run", "--replace", "--", command]);
        output
            .assert_code(code)
            .assert_one_line()
            .assert_says(command.trim_start_matches('.'));
    }
    assert_eq!(scene.footprint(), before);
    assert!(holder.is_running());
}

/// A takeover does not ask and then leave.
#[test]
fn a_deadline_before_the_holders_time_to_stop_signals_nobody() {
    let scene = Scene::new();
    let mut holder = scene.hold_with(&[], Payload::Plain);
    let before = scene.footprint();
    for words in [
        &["run", "--replace", "--timeout", "3", "--", "true"][..],
        &["stop", "--timeout", "3"],
    ] {
        let output = scene.finish(words);
        output.assert_code(82).assert_one_line();
        output.assert_says("--timeout").assert_says("--kill-after");
        assert!(output.took < Duration::from_secs(2), "{output:?}");
    }
    assert_eq!(scene.footprint(), before);
    assert!(holder.is_running());
}

#[test]
fn only_an_explicit_infinity_may_ask_and_then_leave() {
    let scene = Scene::new();
    let mut holder = scene.hold_with(&["--stop-timeout", "1h"], Payload::Deaf);
    scene.wait_for_mark("deaf");
    let options = [
        "run",
        "--replace",
        "--timeout",
        "500ms",
        "--kill-after",
        "infinity",
        "--",
        "true",
    ];
    let output = scene.finish(options);
    output
        .assert_code(81)
        .assert_took(Duration::from_millis(500))
        .assert_says("no SIGKILL")
        .assert_says("gave up after ");
    output.assert_says(&holder.pid().to_string());
    assert!(holder.is_running());
    assert_eq!(
        scene.record().pid(),
        holder.pid(),
        "the record is untouched"
    );
}

#[test]
fn an_interrupted_wait_says_what_it_has_set_going() {
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        let scene = Scene::new();
        let mut old = scene.hold_with(&[], Payload::Slow("1"));
        scene.wait_for_mark("ready");
        let mut new = replace(&scene, &[]);
        new.wait_for_line("asked pid");
        new.signal(signal);
        assert_eq!(new.end(), End::of(signal));
        assert!(
            new.stderr().contains("nothing will run then"),
            "{}",
            new.stderr()
        );
        assert_eq!(old.end(), End::Code(0));
        assert_eq!(scene.started_payloads().len(), 1);
        assert_eq!(scene.state(), "free");
    }
}

// ---------------------------------------------------------------- a holder that changes

/// kaeawc/auto-mobile#5928: the waiter went on about A although B had taken over.
#[test]
fn a_new_holder_is_a_new_proof() {
    let scene = Scene::new();
    let mut first = scene.hold_with(&[], Payload::Slow("0.5"));
    scene.wait_for_mark("ready");
    // Several in line: whoever gets the lock first is asked in turn.
    let payload = scene.payload(Payload::Plain);
    let mut standbys: Vec<_> = (0..4)
        .map(|_| scene.start(["run", "--wait", "--", &payload]))
        .collect();
    for standby in &mut standbys {
        standby.wait_for_line("standing by");
    }
    let new = scene.wait_for_payload(replace(&scene, &["--timeout", "60"]));
    assert_eq!(first.end(), End::Code(0));
    assert_eq!(scene.record().pid(), new.pid());
    for mut standby in standbys {
        if let Some(end) = standby.try_end() {
            assert_eq!(end, End::of(Signal::TERM), "it held, and was asked");
        }
    }
    scene.assert_never_two_payloads();
}

#[test]
fn a_holder_that_crashes_while_it_is_waited_for_is_succeeded_at_once() {
    let scene = Scene::new();
    let mut old = scene.hold_with(&["--stop-timeout", "1h"], Payload::Deaf);
    scene.wait_for_mark("deaf");
    let mut new = replace(&scene, &[]);
    new.wait_for_line("asked pid");
    old.crash();
    let _new = scene.wait_for_payload(new);
    scene.assert_never_two_payloads();
}

/// The second newcomer asks the first one's successor, not a number it has read before.
#[test]
fn two_newcomers_succeed_one_after_the_other() {
    let scene = Scene::new();
    let mut old = scene.hold_with(&[], Payload::Slow("0.3"));
    scene.wait_for_mark("ready");
    let (mut one, mut other) = (replace(&scene, &[]), replace(&scene, &[]));
    assert_eq!(old.end(), End::Code(0));
    // Whoever came first held, and was replaced in turn; or it had not started yet, and heard it then.
    let end = until("one of them has ended", SOON, || {
        one.try_end().or(other.try_end())
    });
    assert_eq!(end, End::of(Signal::TERM));
    let survivor = if one.is_running() { one } else { other };
    let survivor = scene.wait_for_payload(survivor);
    assert_eq!(scene.lockers(), [survivor.pid()]);
    scene.assert_never_two_payloads();
}

/// kernel: a record whose start time does not fit is another process's.
#[test]
fn a_record_with_another_start_time_names_nobody() {
    let scene = Scene::new();
    let mut locker = Locker::on(&scene, &scene.pid_file());
    let text = record_with(&scene.pid_file(), locker.pid(), "");
    let start = crate::harness::stat_field(locker.pid(), 22).unwrap();
    let lie = text.replace(&format!("\"start_time\":{start}"), "\"start_time\":5");
    assert_ne!(lie, text);
    fs::write(scene.pid_file(), lie).unwrap();
    let options = [
        "run",
        "--replace",
        "--timeout",
        "600ms",
        "--kill-after",
        "0.2",
        "--",
        "true",
    ];
    let output = scene.finish(options);
    output
        .assert_code(82)
        .assert_took(Duration::from_millis(600));
    assert!(locker.0.is_running());
    fs::write(scene.pid_file(), text).unwrap();
    scene.finish(options).assert_code(0);
    assert_eq!(locker.0.end(), End::of(Signal::TERM));
}

// ---------------------------------------------------------------- what is said

/// Runs the program under a gateway: its words, where the holder is its own ancestor.
fn said_below(scene: &Scene, words: &str, space: impl Fn(Command) -> Command) -> String {
    let script = format!(
        "\"$GATEWAY\" -f \"$GATEWAY_PID_FILE\" {words} 2>\"$SCENE/below\"\n\
         echo \"code $?\" >>\"$SCENE/marks\"\nexec sleep infinity\n"
    );
    let payload = scene.payload(Payload::Script(&script));
    let mut command = scene.gateway(["run", "--", &payload]);
    command.env("GATEWAY", scene.program());
    let _holder = scene.spawn(space(command));
    scene.wait_for_mark("code 82");
    scene.lines("below").join("\n")
}

#[test]
fn a_standby_below_its_holder_is_told_why_it_would_wait_for_ever() {
    let scene = Scene::new();
    let said = said_below(&scene, "run --wait -- true", |command| command);
    assert!(said.starts_with("gateway: cannot wait for pid "), "{said}");
    let why =
        "it is an ancestor of this process and cannot end before it; start from outside of it";
    assert!(said.ends_with(why), "{said}");
}

/// What is typed elsewhere names the path, and nobody but root may ask the system's manager.
#[test]
fn below_its_own_holder_a_takeover_is_advised_for_whoever_it_is() {
    for (user, run) in [("root", "systemd-run"), ("nobody", "systemd-run --user")] {
        let scene = Scene::for_everybody();
        set_mode(&scene.path(""), 0o777);
        let script = "exec 2>\"$SCENE/below\"\n\"$0\" -n web run --replace -- true\n\
            echo \"code $?\" >>\"$SCENE/marks\"\nexec sleep infinity\n";
        let mut command = scene.bare(["-n", "web", "run", "--", "sh", "-c", script]);
        command.arg(scene.program()).env("SCENE", scene.path(""));
        let command = match user {
            "root" => command,
            _ => as_nobody(&scene, &command),
        };
        let mut holder = scene.spawn(command);
        scene.wait_for_mark("code 82");
        let said = scene.lines("below").join("\n");
        let file = scene.path("state/web/gateway.pid");
        let expected = format!(
            "with: {run} gateway -f {} run --replace -- COMMAND",
            file.display()
        );
        assert!(said.ends_with(&expected), "{said}");
        holder.signal(Signal::TERM);
        holder.end();
    }
}

/// systemd-run does not lead out of a container.
#[test]
fn below_the_first_process_of_a_container_the_container_is_named() {
    for (words, next) in [
        ("stop", "stop the container"),
        ("run --replace -- true", "restart the container"),
    ] {
        let scene = Scene::new();
        let said = said_below(&scene, words, |command| in_pid_namespace(&scene, &command));
        assert!(
            said.contains("the first process of this container"),
            "{said}"
        );
        assert!(
            said.ends_with(next) && !said.contains("systemd-run"),
            "{said}"
        );
    }
}

/// Whoever gives up after it has asked leaves nobody running, sooner or later.
#[test]
fn giving_up_after_asking_says_what_will_become_of_it() {
    let scene = Scene::new();
    let holder = scene.hold_with(&["--stop-timeout", "1h"], Payload::Deaf);
    scene.wait_for_mark("deaf");
    let options = ["--kill-after", "infinity", "--timeout", "0.3"];
    for (words, then) in [
        (
            &["run", "--replace"][..],
            "it was asked to stop and will, and nothing will run then",
        ),
        (&["stop"], "it was asked, and will stop all the same"),
    ] {
        let command = if words[0] == "run" {
            &["--", "true"][..]
        } else {
            &[]
        };
        let output = scene.finish(words.iter().chain(&options).chain(command));
        output.assert_code(81).assert_says(then);
        let again = format!("{} (", holder.pid());
        let last = output.stderr.lines().last().unwrap();
        assert_eq!(last.matches(&again).count(), 1, "named once: {last}");
    }
}

/// A holder may let go, and live on, between the proof and the signal: it is proven once more.
#[test]
fn who_lets_go_at_the_last_moment_is_not_signalled() {
    need("bash", "bash");
    need("flock", "util-linux");
    let scene = Scene::new();
    let mut holder = scene.command("bash");
    let script = r#"exec 9>>"$SCENE/gateway.pid"; flock 9; echo $$ >"$SCENE/gateway.pid"
        trap 'exec 9>&-; echo "free $$" >>"$SCENE/marks"' USR1
        while :; do sleep 0.05 9>&-; done"#;
    holder.args(["-c", script]);
    let mut holder = scene.spawn(holder);
    wait_until("it holds, by its number", SOON, || scene.state() == "held");
    // The first one asks whether it may be signalled; what follows is the signal.
    let late = "pidfd_send_signal:delay_exit=2000000:when=1";
    let command = scene.gateway(["run", "--replace", "--", "true"]);
    let newcomer = scene.spawn(injected(&scene, late, &command));
    wait_until("it has asked whether it may", SOON, || {
        is_held_up_in(&newcomer, libc::SYS_pidfd_send_signal)
    });
    holder.signal(Signal::USR1);
    scene.wait_for_mark(&format!("free {}", holder.pid()));
    newcomer.output().assert_code(0);
    assert!(holder.is_running(), "it was signalled");
}

#[test]
fn a_holder_in_a_sentence_is_set_off_by_commas() {
    let scene = Scene::new();
    let _holder = scene.hold_with(&["--stop-timeout", "1h"], Payload::Deaf);
    scene.wait_for_mark("deaf");
    let wait = scene.finish(["run", "--wait", "--timeout", "1", "--", "true"]);
    wait.assert_code(81).assert_says(" s, for at most 1 s, /");
    wait.assert_says(" s, still has the lock, /");
    let stop = scene.finish(["stop", "--kill-after", "0.2"]);
    stop.assert_code(0).assert_says(" s, to stop (SIGKILL in ");
    stop.assert_says(" s, did not stop in time: sent SIGKILL, /");
}

/// Who has no limit for its stop, or nobody to see to it, may never do what it was asked for.
#[test]
fn of_who_may_never_stop_nothing_else_is_said() {
    for options in [&["--stop-timeout", "infinity"][..], &["--exec"]] {
        let scene = Scene::new();
        let payload = scene.payload(Payload::Deaf);
        let words = [&["run"], options, &["--", &payload]].concat();
        let mut holder = scene.start(words);
        scene.wait_for_mark("deaf");
        let end = format!(
            "; to end it: gateway -f {} stop --kill-after 30\n",
            scene.pid_file().display()
        );
        let patience = ["--kill-after", "infinity", "--timeout", "0.3"];
        let stop = scene.finish(["stop"].iter().chain(&patience));
        stop.assert_code(81);
        stop.assert_says(&format!("; it was asked, and may never stop{end}"));
        let mut new = replace(&scene, &["--kill-after", "infinity"]);
        new.wait_for_line("asked pid");
        new.signal(Signal::INT);
        assert_eq!(new.end(), End::of(Signal::INT));
        let said = new.stderr();
        let expected =
            format!(" was asked to stop and may never do so, and nothing will run then{end}");
        assert!(said.ends_with(&expected), "{said}");
        // What is advised does it.
        scene
            .finish(["stop", "--kill-after", "0.2"])
            .assert_code(0)
            .assert_says("sent SIGKILL");
        assert_eq!(holder.end(), End::of(Signal::KILL));
    }
}
