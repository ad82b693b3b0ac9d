//! What a payload leaves behind is ended before the next payload starts.

use std::fs;
use std::time::Duration;

use crate::harness::{
    End, MountSpace, Payload, SOON, Scene, Signal, Trace, exists, must_be_root, need, signal,
    wait_until,
};
use crate::kit::{compiled, marked_pid, variable, wait_until_gone};

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

/// What is done to a record, and its name in the output.
type Spoil = (&'static str, fn(&Scene));

fn family(scene: &Scene) -> [u32; 3] {
    scene.wait_for_mark("ready");
    ["child", "setsid", "orphan"].map(|name| marked_pid(scene, name))
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
    // In the middle of an execve(2) it has none at all.
    wait_until("it has shed its environment", SOON, || {
        let has = |name: &str| {
            let environment = crate::harness::environment(payload);
            environment.contains_key(std::ffi::OsStr::new(name))
        };
        has("SCENE") && !has("GATEWAY_RUN_ID")
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

/// Two gateways, one below the other, killed at once: what is left belongs to the inner one, too.
#[test]
fn a_process_below_two_gateways_is_left_of_the_inner_one() {
    let scene = Scene::new();
    let leaf = "sleep infinity & echo \"leaf $!\" >>\"$SCENE/marks\"\nexec sleep infinity\n";
    scene.script(&scene.path("bin/leaf"), &format!("#!/bin/sh\n{leaf}"));
    let gateway = scene.program().to_str().unwrap().to_owned();
    let script = format!("exec {gateway} -f inner.pid run -- \"$SCENE/bin/leaf\"\n");
    let mut outer = scene.hold_with(&[], Payload::Script(&script));
    let leaf = marked_pid(&scene, "leaf");
    let inner = scene.record().payload_pid();
    let text = fs::read(scene.path("inner.pid")).unwrap();
    let record = crate::harness::Record::read(&text).expect("a record");
    let ids = variable(leaf, "GATEWAY_RUN_ID");
    let expected = format!(
        "{}:{}",
        scene.record().text("/run_id"),
        record.text("/run_id")
    );
    assert_eq!(ids, expected, "the outer one's first");
    // Stopped first, so that it cannot see to it.
    outer.signal(Signal::STOP);
    signal(inner, Signal::KILL);
    outer.crash();
    wait_until_gone(inner);
    assert!(exists(leaf));
    let output = scene.finish_command(scene.bare(["-f", "inner.pid", "run", "--", "true"]));
    output.assert_code(0).assert_says(&format!("pid {leaf} "));
    assert!(!exists(leaf));
}

/// A supervisor's loop below a gateway that lives: it has the outer run id, and is nobody's survivor.
#[test]
fn a_nested_gateway_that_crashed_is_started_again_by_what_is_around_it() {
    let scene = Scene::new();
    let gateway = scene.program().to_str().unwrap().to_owned();
    let script = format!(
        r#"sleep infinity & echo "beside $!" >>"$SCENE/marks"
        {gateway} -f inner.pid run -- sh -c 'sleep infinity & echo "leaf $!" >>"$SCENE/marks"; kill -KILL $GATEWAY_PID; sleep 9'
        echo "code $?" >>"$SCENE/marks"
        {gateway} -f inner.pid run -- true
        echo "again $?" >>"$SCENE/marks"
        exec sleep infinity
        "#
    );
    let mut outer = scene.hold_with(&[], Payload::Script(&script));
    scene.wait_for_mark("code 137");
    scene.wait_for_mark("again 0");
    assert!(!exists(marked_pid(&scene, "leaf")));
    assert!(exists(marked_pid(&scene, "beside")) && outer.is_running());
    assert!(exists(scene.record().payload_pid()));
}

/// A process with threads is not gone with its first thread, whatever its state letter says.
#[test]
fn a_payload_whose_first_thread_has_gone_is_awaited() {
    let scene = Scene::new();
    let source = r#"
        #include <fcntl.h>
        #include <pthread.h>
        #include <stdlib.h>
        #include <string.h>
        #include <unistd.h>
        static void *rest(void *path) {
            size_t size = 500u << 20;
            memset(malloc(size), 1, size);
            int marks = open(path, O_WRONLY | O_APPEND | O_CREAT, 0600);
            write(marks, "large\n", 6);
            for (;;) pause();
        }
        int main(int count, char **words) {
            pthread_t thread;
            pthread_create(&thread, NULL, rest, words[1]);
            pthread_exit(NULL);
        }
    "#;
    let program = compiled(&scene, "threads", source);
    let script = format!("exec {program} \"$SCENE/marks\"\n");
    let mut holder = scene.hold_with(&[], Payload::Script(&script));
    scene.wait_for_mark("large");
    let payload = scene.record().payload_pid();
    assert_eq!(
        crate::harness::state(payload),
        Some('Z'),
        "its first thread has gone"
    );
    // The payload's own lock is let go with its last thread.
    let plain = scene.payload(Payload::Plain);
    let mut standby = scene.start(["run", "--wait", "--", &plain]);
    standby.wait_for_line("standing by");
    holder.crash();
    let _standby = scene.wait_for_payload(standby);
    scene.assert_never_two_payloads();
}

/// What is being killed has no environment any more, and its descriptors still.
#[test]
fn a_large_child_that_dies_with_the_gateway_is_awaited() {
    need("perl", "perl-base");
    let scene = Scene::new();
    let script = r#"perl -e '$x = "x" x 400_000_000;
        open my $marks, ">>", "$ENV{SCENE}/marks"; print $marks "large $$
"; close $marks; sleep 1000' &
        exec sleep infinity
        "#;
    let mut holder = scene.hold_with(&[], Payload::Script(script));
    let large = marked_pid(&scene, "large");
    let plain = scene.payload(Payload::Plain);
    let mut standby = scene.start(["run", "--wait", "--", &plain]);
    standby.wait_for_line("standing by");
    // As a control group is killed: all at once.
    signal(large, Signal::KILL);
    holder.crash();
    let _standby = scene.wait_for_payload(standby);
    assert!(!exists(large));
    scene.assert_never_two_payloads();
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
        assert!(!exists(none), "a service manager always sets it: {ours:?}");
        assert_eq!(exists(same), ours.is_none(), "{ours:?}");
    }
}

#[test]
fn without_a_record_survivors_are_known_by_the_path_of_their_pid_file() {
    let spoil: [Spoil; 4] = [
        ("junk", |scene| {
            fs::write(scene.pid_file(), "what?\n").unwrap()
        }),
        ("empty", |scene| fs::write(scene.pid_file(), "").unwrap()),
        ("cut", |scene| {
            fs::write(scene.pid_file(), &scene.bytes()[..40]).unwrap()
        }),
        ("missing", |scene| {
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

/// The search reads everybody's environment: a start after an ordered end does not pay for it.
#[test]
fn only_a_start_after_a_crash_looks_for_survivors() {
    let scene = Scene::new();
    scene.finish(["run", "--", "true"]).assert_code(0);
    let environments = || {
        let mut trace = Trace::start(
            &scene,
            "openat,openat2,open",
            &scene.gateway(["run", "--", "true"]),
        );
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

/// A path means what it says only where its directory is the same: in a container it is another one.
#[test]
fn what_a_crash_left_at_the_same_path_of_other_mounts_is_let_be() {
    let scene = Scene::new();
    let space = MountSpace::tmpfs(&scene, "place", "size=1m");
    let file = scene.path("place/gateway.pid");
    let script = format!("{FAMILY}exec sleep infinity\n");
    let payload = scene.payload(Payload::Script(&script));
    let mut holder = scene.spawn(space.gateway(&file, ["run", "--", &payload]));
    let left = family(&scene);
    holder.crash();
    let mut command = scene.bare(["-f"]);
    command.arg(&file).args(["run", "--", "true"]);
    scene.finish_command(command).assert_code(0);
    for pid in left {
        assert!(exists(pid), "{pid}");
    }
}
