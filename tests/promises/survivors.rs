//! What a payload leaves behind is ended before the next payload starts.

use std::fs;
use std::time::Duration;

use crate::harness::{
    End, Footprint, Payload, SOON, Scene, Signal, Trace, exists, must_be_root, need, signal,
    stat_field, wait_until,
};
use crate::kit::{marked_pid, variable, wait_until_gone};

/// Leaves a child, one in a session of its own, and one whose parent is gone.
const FAMILY: &str = r#"sleep infinity & echo "child $!" >>"$SCENE/marks"
setsid sleep infinity & echo "setsid $!" >>"$SCENE/marks"
sh -c 'setsid sh -c "sleep infinity & echo orphan \$! >>\"$SCENE/marks\""'
echo ready >>"$SCENE/marks"
"#;

/// Leaves a child that writes down that it was asked, and does not go.
const STUBBORN: &str = r#"cat >"$SCENE/bin/stubborn" <<'END'
trap 'echo asked >>"$SCENE/marks"' TERM
echo "stubborn $$" >>"$SCENE/marks"
while :; do read -r _ <&8; done
END
mkfifo "$SCENE/never"
exec 8<>"$SCENE/never"
sh "$SCENE/bin/stubborn" &
"#;

fn family(scene: &Scene) -> [u32; 3] {
    scene.wait_for_mark("ready");
    ["child", "setsid", "orphan"].map(|name| marked_pid(scene, name))
}

/// Supervisor/supervisor#199: the worker outlived its killed parent, and the next start ran a second.
#[test]
fn what_a_crashed_run_left_is_ended_before_the_next_payload_starts() {
    let scene = Scene::new();
    let script = format!("{FAMILY}exec sleep infinity\n");
    let mut holder = scene.hold_with(&[], Payload::Script(&script));
    let left = family(&scene);
    let first = scene.record().payload_pid();
    holder.crash();
    wait_until_gone(first);
    assert!(
        left.iter().all(|pid| exists(*pid)),
        "they outlive the crash"
    );
    let next = scene.hold();
    assert!(!left.iter().any(|pid| exists(*pid)), "{left:?}");
    scene.assert_never_two_payloads();
    let said = next.stderr();
    assert!(said.contains("ended what a crashed run had left"), "{said}");
    for pid in left {
        assert!(said.contains(&format!("pid {pid} ")), "{pid} in {said}");
    }
}

/// The lock of a killed gateway is free before its large payload is gone.
#[test]
fn a_large_payload_is_awaited_while_it_dies() {
    need("perl", "perl-base");
    let scene = Scene::new();
    let script = r#"exec perl -e '$x = "x" x 400_000_000;
        open my $marks, ">>", "$ENV{SCENE}/marks"; print $marks "large\n"; close $marks; sleep 1000'
        "#;
    let mut holder = scene.hold_with(&[], Payload::Script(script));
    scene.wait_for_mark("large");
    let large = scene.record().payload_pid();
    // In line already, so that it has the lock as soon as anybody can.
    let plain = scene.payload(Payload::Plain);
    let mut standby = scene.start(["run", "--wait", "--", &plain]);
    standby.wait_for_line("standing by");
    holder.crash();
    let _standby = scene.wait_for_payload(standby);
    assert!(!exists(large));
    scene.assert_never_two_payloads();
}

/// NousResearch/hermes-agent#80204: six of seven leftovers ignored TERM.
#[test]
fn survivors_that_do_not_listen_are_killed_after_five_seconds() {
    let scene = Scene::new();
    let script = format!("{STUBBORN}exec sleep infinity\n");
    let mut holder = scene.hold_with(&[], Payload::Script(&script));
    let stubborn = marked_pid(&scene, "stubborn");
    holder.crash();
    let began = std::time::Instant::now();
    let plain = scene.payload(Payload::Plain);
    let mut next = scene.start(["run", "--", &plain]);
    let line = next.wait_for_line("a crashed run left");
    assert!(line.contains(&format!("pid {stubborn} (sh ")), "{line}");
    assert!(line.contains("state "), "{line}");
    scene.wait_for_mark("asked");
    assert!(exists(stubborn), "asked is not killed");
    let _next = scene.wait_for_payload(next);
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(4900), "{took:?}");
    assert!(!exists(stubborn));
    scene.assert_never_two_payloads();
}

#[test]
fn survivors_that_cannot_be_ended_in_time_bound_the_start_by_name() {
    for mode in [["--wait", "infinity"], ["--replace", "0"]] {
        let scene = Scene::new();
        let script = format!("{STUBBORN}exec sleep infinity\n");
        let mut holder = scene.hold_with(&[], Payload::Script(&script));
        let stubborn = marked_pid(&scene, "stubborn");
        holder.crash();
        let before = scene.footprint();
        let mut args = vec!["run", mode[0], "--timeout", "1s"];
        if mode[0] == "--replace" {
            args.extend(["--kill-after", mode[1]]);
        }
        args.extend(["--", "touch", "ran"]);
        let output = scene.finish(args);
        output
            .assert_code(81)
            .assert_says("cannot be ended")
            .assert_says(&format!("pid {stubborn} (sh "))
            .assert_says("state ");
        assert!(!scene.path("ran").exists());
        assert_eq!(scene.footprint(), before);
    }
}

/// A payload that changed its user sheds the parent-death signal; its environment may be gone, too.
#[test]
fn a_payload_without_a_trace_of_us_is_found_by_its_recorded_pid() {
    must_be_root();
    need("setpriv", "util-linux");
    let scene = Scene::new();
    let script = r#"exec setpriv --reuid 65534 --regid 65534 --clear-groups \
        env -i SCENE="$SCENE" sleep infinity
        "#;
    let mut holder = scene.hold_with(&[], Payload::Script(script));
    let payload = scene.record().payload_pid();
    wait_until("it has shed its environment", SOON, || {
        !crate::harness::environment(payload).contains_key(std::ffi::OsStr::new("GATEWAY_RUN_ID"))
            && exists(payload)
    });
    holder.crash();
    assert!(exists(payload), "nothing has killed it");
    let next = scene.hold();
    assert!(!exists(payload));
    assert!(next.stderr().contains(&format!("pid {payload} ")));
    scene.assert_never_two_payloads();
}

#[test]
fn children_of_survivors_are_ended_whatever_their_environment() {
    let scene = Scene::new();
    let script = r#"sh -c 'env -i SCENE="$SCENE" sleep infinity & echo "bare $!" >>"$SCENE/marks"
        wait' & echo "parent $!" >>"$SCENE/marks"
        exec sleep infinity
        "#;
    let mut holder = scene.hold_with(&[], Payload::Script(script));
    let (bare, parent) = (marked_pid(&scene, "bare"), marked_pid(&scene, "parent"));
    holder.crash();
    assert!(exists(bare) && exists(parent));
    let _next = scene.hold();
    assert!(!exists(bare) && !exists(parent));
    scene.assert_never_two_payloads();
}

/// A gateway under a gateway: what is left belongs to both.
#[test]
fn a_process_below_two_gateways_is_left_of_either() {
    for crashed in ["outer", "inner"] {
        let scene = Scene::new();
        let leaf = "sleep infinity & echo \"leaf $!\" >>\"$SCENE/marks\"\nexec sleep infinity\n";
        scene.script(&scene.path("bin/leaf"), &format!("#!/bin/sh\n{leaf}"));
        let gateway = scene.program().to_str().unwrap().to_owned();
        let script = format!("exec {gateway} -f inner.pid run -- \"$SCENE/bin/leaf\"\n");
        let mut outer = scene.hold_with(&[], Payload::Script(&script));
        let leaf = marked_pid(&scene, "leaf");
        let inner = scene.record().payload_pid();
        let ids = variable(leaf, "GATEWAY_RUN_ID");
        let (above, own) = ids.split_once(':').expect("two run ids");
        assert_eq!(above, scene.record().text("/run_id"));
        let text = fs::read(scene.path("inner.pid")).unwrap();
        let record = crate::harness::Record::read(&text).expect("a record");
        assert_eq!(own, record.text("/run_id"));
        if crashed == "outer" {
            outer.crash();
            wait_until_gone(inner);
            assert!(exists(leaf));
            let output = scene.finish(["run", "--", "true"]);
            output.assert_code(0).assert_says(&format!("pid {leaf} "));
        } else {
            // Both go at once, so that the outer one cannot see to it.
            outer.signal(Signal::STOP);
            signal(inner, Signal::KILL);
            outer.crash();
            wait_until_gone(inner);
            assert!(exists(leaf));
            let output = scene.finish_command(scene.bare(["-f", "inner.pid", "run", "--", "true"]));
            output.assert_code(0).assert_says(&format!("pid {leaf} "));
        }
        assert!(!exists(leaf));
    }
}

/// A helper that the payload started through a service manager is not the payload's.
#[test]
fn what_a_service_manager_started_is_left_alone() {
    for ours in [None, Some("aaaa")] {
        let scene = Scene::new();
        let script = r#"env -u INVOCATION_ID sleep infinity & echo "none $!" >>"$SCENE/marks"
            INVOCATION_ID=aaaa sleep infinity & echo "same $!" >>"$SCENE/marks"
            INVOCATION_ID=bbbb sleep infinity & echo "other $!" >>"$SCENE/marks"
            exec sleep infinity
            "#;
        let payload = scene.payload(Payload::Script(script));
        let mut command = scene.gateway(["run", "--", &payload]);
        if let Some(id) = ours {
            command.env("INVOCATION_ID", id);
        }
        let mut holder = scene.wait_for_payload(scene.spawn(command));
        let [none, same, other] = ["none", "same", "other"].map(|name| marked_pid(&scene, name));
        variable(same, "INVOCATION_ID");
        variable(other, "INVOCATION_ID");
        holder.crash();
        scene.finish(["run", "--", "true"]).assert_code(0);
        assert!(exists(other), "{ours:?}");
        assert_eq!(exists(none), ours.is_some(), "{ours:?}");
        assert_eq!(exists(same), ours.is_none(), "{ours:?}");
    }
}

#[test]
fn without_a_record_survivors_are_known_by_the_path_of_their_pid_file() {
    let spoil: [(&str, &dyn Fn(&Scene)); 4] = [
        ("junk", &|scene| {
            fs::write(scene.pid_file(), "what?\n").unwrap()
        }),
        ("empty", &|scene| fs::write(scene.pid_file(), "").unwrap()),
        ("cut", &|scene| {
            fs::write(scene.pid_file(), &scene.bytes()[..40]).unwrap()
        }),
        ("missing", &|scene| {
            fs::remove_file(scene.pid_file()).unwrap()
        }),
    ];
    for (how, spoil) in spoil {
        let scene = Scene::new();
        let script = format!("{FAMILY}exec sleep infinity\n");
        let mut holder = scene.hold_with(&[], Payload::Script(&script));
        let left = family(&scene);
        // Of another pid file: it has nothing to do with ours.
        let mut other = scene.command("sleep");
        other
            .arg("infinity")
            .env("GATEWAY_PID_FILE", scene.path("other.pid"))
            .env("GATEWAY_PID", holder.pid().to_string());
        let mut other = scene.spawn(other);
        holder.crash();
        spoil(&scene);
        let _next = scene.hold();
        assert!(!left.iter().any(|pid| exists(*pid)), "{how}: {left:?}");
        assert!(other.is_running(), "{how}");
        scene.assert_never_two_payloads();
    }
}

#[test]
fn a_start_from_inside_what_a_crash_left_is_refused() {
    let scene = Scene::new();
    let gateway = scene.program().to_str().unwrap().to_owned();
    let script = format!(
        r#"sh -c 'echo "inside $$" >>"$SCENE/marks"
        while [ ! -e "$SCENE/go" ]; do sleep 0.05; done
        {gateway} -f gateway.pid run -- touch ran 2>"$SCENE/said/inside"
        echo "code $?" >>"$SCENE/marks"; exec sleep infinity' &
        exec sleep infinity
        "#
    );
    let mut holder = scene.hold_with(&[], Payload::Script(&script));
    let inside = marked_pid(&scene, "inside");
    holder.crash();
    let before = scene.footprint();
    fs::write(scene.path("go"), "").unwrap();
    scene.wait_for_mark("code 82");
    let said = scene.lines("said/inside").join("\n");
    assert!(said.contains("is an ancestor of this process"), "{said}");
    assert!(exists(inside), "it was not signalled");
    assert!(!scene.path("ran").exists());
    assert_eq!(scene.footprint(), before);
}

#[test]
fn a_stop_during_the_sweep_leaves_the_old_record_as_it_was() {
    for stop in [Signal::TERM, Signal::INT, Signal::HUP] {
        let scene = Scene::new();
        let script = format!("{STUBBORN}exec sleep infinity\n");
        let mut holder = scene.hold_with(&[], Payload::Script(&script));
        let stubborn = marked_pid(&scene, "stubborn");
        holder.crash();
        let before = Footprint::of(&scene.pid_file());
        let mut next = scene.start(["run", "--", "touch", "ran"]);
        next.wait_for_line("a crashed run left");
        next.signal(stop);
        assert_eq!(next.end(), End::of(stop));
        assert_eq!(Footprint::of(&scene.pid_file()), before);
        assert!(!scene.path("ran").exists());
        // So the next start still knows what was left.
        let mut again = scene.start(["run", "--", "true"]);
        again.wait_for_line(&format!("pid {stubborn} "));
    }
}

/// The search reads everybody's environment: a start after an ordered end does not pay for it.
#[test]
fn only_a_start_after_a_crash_looks_for_survivors() {
    let scene = Scene::new();
    scene.finish(["run", "--", "true"]).assert_code(0);
    let environments = || {
        let mut trace = Trace::start(&scene, "openat,open", &scene.gateway(["run", "--", "true"]));
        assert_eq!(trace.process.end(), End::Code(0));
        let calls = trace.calls();
        assert!(calls.iter().any(|call| call.rest.contains("gateway.pid")));
        calls
            .iter()
            .filter(|call| call.rest.contains("/environ\""))
            .count()
    };
    assert_eq!(environments(), 0);
    scene.hold().crash();
    assert!(environments() > 0);
    assert_eq!(environments(), 0);
}

/// multikernel/sandlock#238: helpers outlived the end and fought with the next ones.
#[test]
fn what_a_payload_leaves_at_its_end_is_ended_before_the_lock_goes_and_said() {
    let scene = Scene::new();
    let script = format!("{FAMILY}exit 0\n");
    let payload = scene.payload(Payload::Script(&script));
    let holder = scene.start(["run", "--", &payload]);
    // Whoever is next in line would meet what is left.
    let next = scene.payload(Payload::Script("exit 0\n"));
    scene.wait_for_mark("ready");
    let standby = scene.start(["run", "--wait", "--", &next]);
    let output = holder.output();
    output
        .assert_code(0)
        .assert_says("ended 0 after")
        .assert_says("left 3 processes, which were ended; run it in the foreground");
    standby.output().assert_code(0);
    let left = ["child", "setsid", "orphan"].map(|name| marked_pid(&scene, name));
    assert!(!left.iter().any(|pid| exists(*pid)), "{left:?}");
    scene.assert_never_two_payloads();
}

#[test]
fn leftovers_that_do_not_listen_are_killed_after_five_seconds() {
    let scene = Scene::new();
    let script =
        format!("{STUBBORN}while [ ! -s \"$SCENE/marks\" ]; do sleep 0.01; done; exit 7\n");
    let payload = scene.payload(Payload::Script(&script));
    let mut holder = scene.start(["run", "--", &payload]);
    let stubborn = marked_pid(&scene, "stubborn");
    scene.wait_for_mark("asked");
    assert_eq!(
        scene.lockers(),
        [holder.pid()],
        "it holds until all is gone"
    );
    assert_eq!(scene.finish(["run", "--", "true"]).end, End::Code(80));
    assert!(holder.is_running() && exists(stubborn));
    let output = holder.output();
    output
        .assert_code(7)
        .assert_says("left 1 process, which was ended");
    assert!(
        output.took >= Duration::from_millis(4900),
        "{:?}",
        output.took
    );
    assert!(!exists(stubborn));
}

#[test]
fn an_ordered_stop_ends_all_of_the_payload_within_its_budget() {
    let scene = Scene::new();
    let script = format!("{STUBBORN}{FAMILY}exec sleep infinity\n");
    let options = ["--stop-timeout", "1s"];
    let mut holder = scene.hold_with(&options, Payload::Script(&script));
    let left = family(&scene);
    let stubborn = marked_pid(&scene, "stubborn");
    let began = std::time::Instant::now();
    holder.signal(Signal::TERM);
    assert_eq!(holder.end(), End::of(Signal::TERM));
    let took = began.elapsed();
    assert!((900..4500).contains(&took.as_millis()), "{took:?}");
    assert!(!exists(stubborn) && !left.iter().any(|pid| exists(*pid)));
    assert!(scene.record().is_ended());
}

/// `helper & exec gateway run …`: the helper is not payload, and lives on.
#[test]
fn children_that_we_had_before_are_not_payload() {
    let scene = Scene::new();
    let gateway = scene.program().to_str().unwrap();
    let script = format!(
        "sleep infinity & echo \"helper $!\" >>\"$SCENE/marks\"\n\
         exec {gateway} -f gateway.pid run -- sh -c 'sleep infinity & echo \"child $!\" >>\"$SCENE/marks\"'\n"
    );
    let mut command = scene.command("sh");
    command.args(["-c", &script]);
    let started = scene.spawn(command);
    let output = started.output();
    let (helper, child) = (marked_pid(&scene, "helper"), marked_pid(&scene, "child"));
    output.assert_code(0).assert_says("left 1 process");
    assert!(exists(helper) && !exists(child));
    assert_ne!(stat_field(helper, 3).as_deref(), Some("Z"));
}
