//! What a payload leaves behind is gone before the lock is let go, or before the next one starts.

use std::fs;
use std::time::Duration;

use crate::harness::{
    Canary, End, NOBODY, Payload, SOON, Scene, Signal, as_nobody, exists, injected, injected_at,
    remember, set_mode, signal, state, variable, wait_until,
};
use crate::people::record_with;

/// A payload that leaves its session and its parent, twice over; the child's pid is in `child`.
const FORKS: &str =
    "(setsid sh -c 'sleep infinity & echo $! >\"$SCENE/child\"; wait' &)\nexec sleep infinity\n";

/// multikernel/sandlock#238, nubjs/nub#464.
#[test]
fn what_a_crashed_holder_left_is_ended_before_the_next_payload_starts() {
    for options in [
        &["run", "--"][..],
        &["run", "--replace", "--"],
        &["run", "--wait", "--"],
    ] {
        let scene = Scene::new();
        let mut holder = scene.hold_with(&[], Payload::Script(FORKS));
        let child = scene.wait_for_child();
        holder.crash();
        assert!(
            exists(child),
            "the parent-death signal is the first process's alone"
        );
        let payload = scene.payload(Payload::Plain);
        let mut next = scene.start(options.iter().chain(&[payload.as_str()]));
        // The child has the payload's own lock, too: had it been alive, there would be a report.
        next = scene.wait_for_payload(next);
        assert!(!exists(child));
        let said = next.stderr();
        assert!(said.contains(&format!("pid {child}")), "{said}");
        scene.assert_never_two_payloads();
    }
}

#[test]
fn a_survivor_that_does_not_listen_is_killed() {
    let scene = Scene::new();
    let script = "setsid sh -c 'trap \"\" TERM; echo $$ >\"$SCENE/child\"; while :; do sleep 9; done' &\nexec sleep infinity\n";
    let mut holder = scene.hold_with(&[], Payload::Script(script));
    let child = scene.wait_for_child();
    holder.crash();
    let payload = scene.payload(Payload::Plain);
    let mut next = scene.start(["run", "--", &payload]);
    next.wait_for_line("must end first");
    assert!(exists(child), "it gets five seconds");
    let _next = scene.wait_for_payload(next);
    assert!(!exists(child));
    scene.assert_never_two_payloads();
}

/// The kernel frees the lock of a killed gateway before it has ended a large payload.
#[test]
fn a_large_payload_is_awaited() {
    let scene = Scene::new();
    let script = "mkfifo \"$SCENE/fifo\" && exec 8<>\"$SCENE/fifo\"\n\
        exec dd if=/dev/zero of=\"$SCENE/fifo\" bs=600M count=1 2>/dev/null\n";
    let mut holder = scene.hold_with(&[], Payload::Script(script));
    let large = scene.record().payload_pid();
    wait_until("it has grown", SOON, || is_large(large));
    let payload = scene.payload(Payload::Plain);
    let standby = scene.start(["run", "--wait", "--", &payload]);
    let mut standby = standby;
    standby.wait_for_line("standing by");
    holder.crash();
    let _next = scene.wait_for_payload(standby);
    assert!(!exists(large));
    scene.assert_never_two_payloads();
}

/// What has become the command (`--exec`) holds the lock until its memory is freed.
#[test]
fn a_holder_that_is_being_killed_refuses_nobody() {
    let scene = Scene::new();
    let script = "mkfifo \"$SCENE/fifo\" && exec 8<>\"$SCENE/fifo\"\n\
        exec dd if=/dev/zero of=\"$SCENE/fifo\" bs=600M count=1 2>/dev/null\n";
    let payload = scene.payload(Payload::Script(script));
    let mut holder = scene.start(["run", "--exec", "--", &payload]);
    wait_until("it has grown", SOON, || is_large(holder.pid()));
    holder.signal(Signal::KILL);
    scene.finish(["run", "--", "true"]).assert_code(0);
    holder.end();
}

fn is_large(pid: u32) -> bool {
    let kilobytes = || -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let line = status.lines().find(|line| line.starts_with("VmRSS"))?;
        line.split_whitespace().nth(1)?.parse().ok()
    };
    kilobytes().is_some_and(|kilobytes| kilobytes > 550_000)
}

/// That it cannot be looked at just now does not make a crash of a run that goes on, with another file.
#[test]
fn a_shortage_makes_no_crash_of_a_living_run() {
    let scene = Scene::new();
    let mut holder = scene.hold();
    let payload = scene.record().payload_pid();
    let copy = scene.path("copy.pid");
    fs::copy(scene.pid_file(), &copy).unwrap();
    let stat = format!("/proc/{}/stat", holder.pid());
    for words in [&["stop"][..], &["run", "--", "touch", "ran"]] {
        let mut command = scene.bare(["-f"]);
        command.arg(&copy).args(words);
        let blind = injected_at(&scene, &stat, "openat:error=ENFILE:when=1+", &command);
        scene.finish_command(blind).assert_code(70);
        assert!(exists(payload) && holder.is_running(), "{words:?}");
    }
    assert!(!scene.path("ran").exists());
}

#[test]
fn what_a_payload_leaves_at_its_end_is_ended_and_said() {
    let scene = Scene::new();
    let script = "(setsid sh -c 'sleep infinity & echo $! >\"$SCENE/child\"; wait' &)\n\
        while [ ! -s \"$SCENE/child\" ]; do sleep 0.01; done\nexit 4\n";
    let payload = scene.payload(Payload::Script(script));
    let output = scene.finish(["run", "--", &payload]);
    output.assert_code(4);
    assert!(!exists(scene.wait_for_child()));
    output
        .assert_says("ended 4 after")
        .assert_says("left 2 processes, which were ended\n");
    scene.wait_until_empty();
}

/// A daemon that goes to the background by itself.
#[test]
fn a_command_that_goes_to_the_background_is_told_to_stay() {
    let scene = Scene::new();
    let script = "setsid sleep infinity &\nexit 0\n";
    let payload = scene.payload(Payload::Script(script));
    let output = scene.finish(["run", "--", &payload]);
    output.assert_code(0).assert_one_line();
    output.assert_says("left 1 process, which was ended; run it in the foreground");
    scene.wait_until_empty();
    scene
        .finish(["-q", "run", "--", &payload])
        .assert_code(0)
        .assert_silent();
}

#[test]
fn a_stopped_child_that_a_command_leaves_hears_that_it_is_asked() {
    let scene = Scene::new();
    let script = "sh -c 'trap \"echo heard >>\\\"$SCENE/marks\\\"; exit\" TERM\n\
        echo $$ >\"$SCENE/child\"; kill -STOP $$; while :; do sleep 0.05; done' &\n\
        until grep -q \"^State:.*stopped\" /proc/$!/status; do sleep 0.01; done\n";
    let payload = scene.payload(Payload::Script(script));
    scene.finish(["run", "--", &payload]).assert_code(0);
    assert_eq!(scene.lines("marks"), ["heard"]);
    assert!(!exists(scene.wait_for_child()));
}

#[test]
fn an_ordered_stop_takes_everything_with_it() {
    let scene = Scene::new();
    let mut holder = scene.hold_with(&[], Payload::Script(FORKS));
    let child = scene.wait_for_child();
    holder.signal(Signal::TERM);
    assert_eq!(holder.end(), End::of(Signal::TERM));
    assert!(!exists(child), "gone before the gateway is");
    assert_eq!(scene.members(), [0; 0]);
}

/// The lock is let go only once the descendants are gone, too.
#[test]
fn the_lock_is_kept_until_the_last_descendant_is_gone() {
    let scene = Scene::new();
    let script = "setsid sh -c 'trap \"sleep 0.7; exit\" TERM; echo $$ >\"$SCENE/child\"; while :; do sleep 0.05; done' &\nexec sleep infinity\n";
    let mut holder = scene.hold_with(&[], Payload::Script(script));
    let child = scene.wait_for_child();
    let payload = scene.payload(Payload::Plain);
    let new = scene.start(["run", "--replace", "--", &payload]);
    let _new = scene.wait_for_payload(new);
    assert!(!exists(child));
    assert_eq!(holder.end(), End::of(Signal::TERM));
    scene.assert_never_two_payloads();
}

/// `helper & exec gateway run …`: what was there before is not payload.
#[test]
fn children_that_we_had_at_the_start_are_left_alone() {
    let scene = Scene::new();
    let mut command = scene.command("sh");
    let script = "sleep infinity & echo $! >helper; exec \"$@\" -f gateway.pid run -- sleep 0.2";
    command.args(["-c", script, "sh"]).arg(scene.program());
    let output = scene.finish_command(command);
    output.assert_code(0).assert_silent();
    let helper: u32 = scene.lines("helper")[0].parse().unwrap();
    assert!(exists(helper));
}

#[test]
fn bystanders_of_a_sweep_are_left_alone() {
    let scene = Scene::new();
    let canary = Canary::new();
    let mut holder = scene.hold_with(&[], Payload::Script(FORKS));
    let survivor = scene.wait_for_child();
    // Somebody that was started by a service manager from inside the payload.
    let mut unit = scene.command("sleep");
    unit.arg("infinity")
        .env("INVOCATION_ID", "00112233445566778899aabbccddeeff");
    let run_id = variable(survivor, "GATEWAY_RUN_ID");
    unit.env("GATEWAY_RUN_ID", &run_id);
    let mut unit = scene.spawn(unit);
    // Somebody with another run id.
    let mut other = scene.command("sleep");
    other
        .arg("infinity")
        .env("GATEWAY_RUN_ID", "ffffffffffffffffffffffffffffffff");
    let mut other = scene.spawn(other);
    // Somebody who joined the run by its id.
    let mut member = scene.command("sleep");
    let list = format!("ffffffffffffffffffffffffffffffff:{}", run_id);
    member.arg("infinity").env("GATEWAY_RUN_ID", list);
    let mut member = scene.spawn(member);
    holder.crash();
    scene.finish(["run", "--", "true"]).assert_code(0);
    assert!(!exists(survivor));
    assert!(unit.is_running(), "a unit of its own");
    assert!(other.is_running(), "another run's");
    assert_eq!(
        member.end(),
        End::of(Signal::TERM),
        "a member of the list of ids"
    );
    canary.assert_heard_nothing();
}

#[test]
fn nothing_is_looked_for_after_an_ordered_end() {
    let scene = Scene::new();
    scene.finish(["run", "--", "true"]).assert_code(0);
    let mut stray = scene.command("sleep");
    stray
        .arg("infinity")
        .env("GATEWAY_RUN_ID", scene.record().text("/run_id"));
    let mut stray = scene.spawn(stray);
    scene
        .finish(["run", "--", "true"])
        .assert_code(0)
        .assert_silent();
    assert!(stray.is_running());
}

#[test]
fn without_a_readable_record_survivors_are_found_by_their_pid_file() {
    let scene = Scene::new();
    let mut holder = scene.hold_with(&[], Payload::Script(FORKS));
    let child = scene.wait_for_child();
    holder.crash();
    fs::write(scene.pid_file(), "junk").unwrap();
    let payload = scene.payload(Payload::Plain);
    let _next = scene.wait_for_payload(scene.start(["run", "--", &payload]));
    assert!(!exists(child));
    scene.assert_never_two_payloads();
}

/// One that cannot be ended bounds the start, by name.
#[test]
fn a_survivor_that_cannot_be_ended_ends_the_start() {
    let scene = Scene::for_everybody();
    let roots = Canary::elsewhere();
    let folder = scene.path("shared");
    fs::create_dir(&folder).unwrap();
    let file = folder.join("gateway.pid");
    let start = crate::harness::stat_field(roots.pid(), 22).unwrap();
    let payload = format!(
        "\"payload\":{{\"pid\":{},\"start_time\":{start},\"argv\":[\"sleep\"]}},",
        roots.pid()
    );
    // The record of a holder that is gone.
    let mut gone = scene.spawn({
        let mut command = scene.command("sleep");
        command.arg("infinity");
        command
    });
    let text = record_with(&file, gone.pid(), &payload);
    gone.crash();
    fs::write(&file, text).unwrap();
    for path in [&folder, &file] {
        std::os::unix::fs::chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
    }
    let mut command = scene.bare(["-f"]);
    command
        .arg(&file)
        .args(["run", "--wait", "--timeout", "1500ms", "--", "true"]);
    let output = scene.finish_command(as_nobody(&scene, &command));
    output
        .assert_code(81)
        .assert_says(&format!("pid {}", roots.pid()))
        .assert_says("sleep");
    output
        .assert_says("state S")
        .assert_says(file.to_str().unwrap());
    assert!(output.took >= Duration::from_millis(1400), "{output:?}");
    assert!(output.took < Duration::from_secs(6), "{output:?}");
    roots.assert_heard_nothing();
    let record = fs::read_to_string(&file).unwrap();
    assert!(
        record.contains("0123456789abcdef"),
        "the old record is as it was: {record}"
    );
}

#[test]
fn a_stop_during_the_sweep_leaves_the_old_record() {
    let scene = Scene::new();
    let script = "setsid sh -c 'trap \"\" TERM; echo $$ >\"$SCENE/child\"; while :; do sleep 9; done' &\nexec sleep infinity\n";
    let mut holder = scene.hold_with(&[], Payload::Script(script));
    scene.wait_for_child();
    holder.crash();
    let before = scene.bytes();
    let mut next = scene.start(["run", "--", "true"]);
    next.wait_for_line("must end first");
    next.signal(Signal::TERM);
    assert_eq!(next.end(), End::of(Signal::TERM));
    assert_eq!(scene.bytes(), before);
    assert_eq!(scene.state(), "crashed");
}

/// A nested gateway is payload of the outer one, and has its own.
#[test]
fn a_crashed_outer_gateway_takes_the_inner_one_with_it() {
    let scene = Scene::new();
    let inner = "exec \"$GATEWAY\" -f \"$SCENE/inner.pid\" run -- sh -c 'echo $$ >\"$SCENE/child\"; exec sleep infinity'\n";
    let payload = scene.payload(Payload::Script(&format!(
        "(setsid {}) &\nexec sleep infinity\n",
        inner.trim_start_matches("exec ").trim_end()
    )));
    let mut command = scene.gateway(["run", "--", &payload]);
    command.env("GATEWAY", scene.program());
    let mut outer = scene.wait_for_payload(scene.spawn(command));
    let inmost = scene.wait_for_child();
    let ids = variable(inmost, "GATEWAY_RUN_ID");
    assert_eq!(
        ids.split(':').next(),
        Some(scene.record().text("/run_id")),
        "the outer one's first"
    );
    assert_eq!(ids.split(':').count(), 2);
    outer.crash();
    assert!(exists(inmost));
    scene.finish(["run", "--", "true"]).assert_code(0);
    assert!(!exists(inmost));
    let mut inner = scene.bare(["-f", "inner.pid", "status"]);
    inner.arg("--json");
    let said = scene.finish_command(inner);
    assert!(
        said.stdout.contains("\"state\":\"free\""),
        "stopped in order: {said:?}"
    );
}

/// A process that becomes another program over and over has no environment for moments.
#[test]
fn a_survivor_that_changes_its_program_all_the_time_is_found() {
    let scene = Scene::new();
    scene.script(&scene.path("looper"), "#!/bin/sh\nexec \"$0\"\n");
    let script = "(setsid \"$SCENE/looper\" &)\nexec sleep infinity\n";
    let payload = scene.payload(Payload::Script(script));
    let mut holder = scene.wait_for_payload(scene.start(["run", "--", &payload]));
    for _ in 0..30 {
        holder.crash();
        holder = scene.wait_for_payload(scene.start(["run", "--", &payload]));
        scene.assert_never_two_payloads();
    }
}

/// What a file says that anybody may write is believed only about processes that were ours to end.
#[test]
fn a_survivor_of_an_earlier_boot_is_nobody() {
    let scene = Scene::new();
    let canary = Canary::new();
    let start = crate::harness::stat_field(canary.pid(), 22).unwrap();
    let payload = format!(
        "\"payload\":{{\"pid\":{},\"start_time\":{start},\"argv\":[]}},",
        canary.pid()
    );
    let text = record_with(&scene.pid_file(), 4_000_000, &payload);
    let text = text.replace(
        &crate::people::boot_id(),
        "00000000-0000-0000-0000-000000000000",
    );
    fs::write(scene.pid_file(), text).unwrap();
    set_mode(&scene.pid_file(), 0o666);
    let status = scene.finish(["status"]);
    status.assert_code(1);
    assert!(status.stdout.contains("ended with the host"), "{status:?}");
    scene.finish(["run", "--", "true"]).assert_code(0);
    canary.assert_heard_nothing();
}

/// A chain of processes, each of which starts the next one in a session of its own and ends. It is
/// no race that a reader of /proc cannot win: each link lives for a few hundredths of a second.
const CHAIN: &str = "#!/bin/sh\necho >>\"$SCENE/links\"\nsleep 0.03\n[ -e \"$SCENE/stop-chain\" ] || setsid \"$0\" &\n";

/// Waits until a link that its maker did not wait for has come.
#[track_caller]
fn wait_for_links(scene: &Scene) {
    let count = || std::fs::read(scene.path("links")).map_or(0, |links| links.len());
    let before = count();
    wait_until("the chain goes on by itself", SOON, || {
        count() >= before + 3
    });
}

#[test]
fn a_chain_of_short_lived_descendants_is_ended_with_the_payload() {
    let scene = Scene::new();
    scene.script(&scene.path("chain"), CHAIN);
    let script = "\"$SCENE/chain\"\nexec sleep infinity\n";
    for _ in 0..3 {
        let mut holder = scene.hold_with(&["--stop-timeout", "2s"], Payload::Script(script));
        wait_for_links(&scene);
        holder.signal(Signal::TERM);
        assert_eq!(holder.end(), End::of(Signal::TERM));
        assert_eq!(scene.members(), [0; 0]);
    }
    scene.assert_never_two_payloads();
}

#[test]
fn a_chain_of_short_lived_descendants_is_ended_after_a_crash() {
    let scene = Scene::new();
    scene.script(&scene.path("chain"), CHAIN);
    let script = "\"$SCENE/chain\"\nexec sleep infinity\n";
    let payload = scene.payload(Payload::Script(script));
    let mut holder = scene.wait_for_payload(scene.start(["run", "--", &payload]));
    for _ in 0..10 {
        wait_for_links(&scene);
        holder.crash();
        holder = scene.wait_for_payload(scene.start(["run", "--", &payload]));
        scene.assert_never_two_payloads();
    }
    std::fs::write(scene.path("stop-chain"), "").unwrap();
}

/// A system that is short of descriptors lets nobody be pinned: the first process is, since it began.
#[test]
fn a_shortage_keeps_no_command_from_being_killed() {
    let scene = Scene::new();
    let payload = scene.payload(Payload::Deaf);
    let words = ["run", "--stop-timeout", "500ms", "--", &payload];
    let short = "pidfd_open:error=ENFILE:when=2+";
    let mut strace = scene.spawn(injected(&scene, short, &scene.gateway(words)));
    scene.wait_for_mark("deaf");
    let record = scene.wait_for_record("its command", |record| record.has_payload());
    signal(record.pid(), Signal::TERM);
    strace.end();
    let killed = format!("sent SIGKILL to pid {}", record.payload_pid());
    assert!(strace.stderr().contains(&killed), "{}", strace.stderr());
    assert_eq!(scene.members(), [0; 0]);
    assert!(scene.record().is_ended());
}

/// The same, when the command has just begun: what it has started by then is left to the next start.
#[test]
fn a_command_that_cannot_be_looked_at_leaves_a_crash_and_no_end() {
    let scene = Scene::new();
    let script = "setsid sleep infinity &\nexec sleep infinity\n";
    let payload = scene.payload(Payload::Script(script));
    let command = scene.gateway(["run", "--", &payload]);
    let short = "pidfd_open:error=ENFILE:delay_enter=1500000";
    let mut strace = scene.spawn(injected(&scene, short, &command));
    wait_until("it gives up", SOON, || {
        strace.stderr().contains("Too many open files")
    });
    let output = scene.finish(["run", "--", "true"]);
    output
        .assert_code(0)
        .assert_says("a crashed run left 1 process");
    // It waits for all that it traces.
    assert_eq!(strace.end(), End::Code(70));
    assert_eq!(scene.members(), [0; 0]);
}

/// Icinga/icinga2#5991: a file that the service's user may write steered root's signals.
#[test]
fn a_forged_record_steers_no_signal_of_roots() {
    let scene = Scene::for_everybody();
    let roots = Canary::new();
    let folder = scene.path("shared");
    fs::create_dir(&folder).unwrap();
    let file = folder.join("gateway.pid");
    let start = crate::harness::stat_field(roots.pid(), 22).unwrap();
    let payload = format!(
        "\"payload\":{{\"pid\":{},\"start_time\":{start},\"argv\":[\"sleep\"]}},",
        roots.pid()
    );
    let limits = ["--timeout", "600ms"];
    let kill = ["--kill-after", "300ms"];
    let command = ["--", "touch", "ran"];
    let wait = [&["run", "--wait"], &limits[..], &command].concat();
    let replace = [&["run", "--replace"], &limits[..], &kill, &command].concat();
    let stop = [&["stop"], &limits[..], &kill].concat();
    for (owner, mode) in [(NOBODY, 0o600), (0, 0o666), (0, 0o620)] {
        for words in [&wait, &replace, &stop] {
            let text = record_with(&file, 4_000_000, &payload);
            fs::write(&file, text).unwrap();
            for path in [&folder, &file] {
                std::os::unix::fs::chown(path, Some(owner), Some(NOBODY)).unwrap();
            }
            set_mode(&file, mode);
            let mut command = scene.bare(["-f"]);
            command.arg(&file).args(words);
            // It might have cleared its environment, so it is awaited.
            let output = scene.finish_command(command);
            output.assert_code(81).assert_says(&roots.pid().to_string());
            roots.assert_heard_nothing();
        }
    }
    assert!(!scene.path("ran").exists());
}

/// What the file cannot prove to be ours to end must not run beside the next payload, either.
#[test]
fn a_payload_without_an_environment_is_awaited_where_the_file_does_not_speak_for_it() {
    for (owner, mode) in [(0, 0o664), (NOBODY, 0o600)] {
        let scene = Scene::for_everybody();
        fs::write(scene.pid_file(), "").unwrap();
        std::os::unix::fs::chown(scene.pid_file(), Some(owner), Some(NOBODY)).unwrap();
        set_mode(&scene.pid_file(), mode);
        // A change of group sheds the parent-death signal.
        let script = "exec setpriv --regid 65534 --clear-groups env -i sleep infinity\n";
        let mut holder = scene.hold_with(&[], Payload::Script(script));
        let payload = scene.record().payload_pid();
        wait_until("it has cleared its environment", SOON, || {
            crate::harness::environment(payload).is_empty() && exists(payload)
        });
        holder.crash();
        let words = ["run", "--wait", "--timeout", "1", "--", "touch", "ran"];
        let output = scene.finish(words);
        output
            .assert_code(81)
            .assert_says(&format!("pid {payload} (sleep"));
        assert!(exists(payload) && !scene.path("ran").exists());
        signal(payload, Signal::KILL);
        scene.finish(["run", "--", "true"]).assert_code(0);
    }
}

// ---------------------------------------------------------------- how long they get, and what is said

/// Leaves a process that does not listen to TERM.
const LEAVES_ONE: &str = "(trap '' TERM; echo ready >>\"$SCENE/marks\"; exec sleep infinity) &\n\
    until grep -q ready \"$SCENE/marks\"; do sleep 0.01; done\nexit 0\n";

#[test]
fn what_a_command_leaves_gets_no_more_than_the_stop_budget() {
    let scene = Scene::new();
    let payload = scene.payload(Payload::Script(LEAVES_ONE));
    let output = scene.finish(["-v", "run", "--stop-timeout", "1", "--", &payload]);
    output
        .assert_code(0)
        .assert_says("the command left 1 process, which must end within 1 s: pid ");
    assert!(
        (Duration::from_secs(1)..Duration::from_secs(4)).contains(&output.took),
        "not its five seconds: {output:?}"
    );
}

/// The time is COMMAND's own, without that of what it left.
#[test]
fn how_long_a_command_ran_ends_with_its_first_process() {
    let scene = Scene::new();
    let payload = scene.payload(Payload::Script(LEAVES_ONE));
    let output = scene.finish(["run", "--stop-timeout", "2", "--", &payload]);
    output
        .assert_code(0)
        .assert_says("run it in the foreground");
    let (_, rest) = output.stderr.split_once(" ended 0 after ").unwrap();
    let (seconds, rest) = rest.split_once(" s and left 1 process").unwrap();
    assert!(rest.starts_with(", which was ended"), "{output:?}");
    assert!(seconds.parse::<f64>().unwrap() < 1.5, "{output:?}");
    assert!(output.took > Duration::from_secs(2), "{output:?}");
}

/// Who is stopped hears SIGTERM only when it goes on: it need not be killed after five seconds.
#[test]
fn a_stopped_survivor_is_asked_and_goes_on_to_hear_it() {
    let scene = Scene::new();
    let mut holder = scene.hold_with(&[], Payload::Script(FORKS));
    let child = scene.wait_for_child();
    signal(child, Signal::STOP);
    wait_until("it is stopped", SOON, || state(child) == Some('T'));
    holder.crash();
    let output = scene.finish(["run", "--", "true"]);
    output.assert_code(0);
    assert!(!exists(child));
    assert!(output.took < Duration::from_secs(4), "{:?}", output.took);
}

/// `helper & exec gateway run …`: what the helper leaves comes to us, and is not of the command.
#[test]
fn what_an_earlier_child_of_ours_leaves_is_let_be() {
    let scene = Scene::new();
    let payload = scene.payload(Payload::Script(
        "until grep -qs late \"$SCENE/marks\"; do sleep 0.02; done\nsleep 0.2\n",
    ));
    let script = r#"(until [ -e "$SCENE/starts" ]; do sleep 0.02; done
        sleep infinity & echo "late $!" >>"$SCENE/marks") &
        exec "$0" -f "$SCENE/gateway.pid" run -- "$1""#;
    let mut command = scene.command("sh");
    command
        .args(["-c", script])
        .arg(scene.program())
        .arg(&payload);
    let output = scene.finish_command(command);
    output.assert_code(0).assert_silent();
    let lines = scene.lines("marks");
    let late = lines.iter().find_map(|line| line.strip_prefix("late "));
    let late = remember(late.expect("it came").parse().unwrap());
    assert!(exists(late), "it was ended");
}
