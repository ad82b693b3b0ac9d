//! Everything else that reads pid files or takes locks reads and respects ours.

use crate::harness::{End, Locker, Payload, SOON, Scene, Signal, need, wait_until};

fn shell(scene: &Scene, script: &str) -> crate::harness::Output {
    let mut command = scene.command("sh");
    command.args(["-c", script]).env("GATEWAY", scene.program());
    scene.finish_command(command)
}

#[test]
fn the_first_line_is_the_pid() {
    let scene = Scene::new();
    let holder = scene.hold();
    let output = shell(&scene, "head -n1 gateway.pid");
    assert_eq!(output.stdout, format!("{}\n", holder.pid()));
    scene.finish(["stop"]).assert_code(0);
    assert_eq!(
        shell(&scene, "head -n1 gateway.pid").stdout,
        "\n",
        "after an ordered end"
    );
}

#[test]
fn pkill_believes_the_file_while_it_is_locked() {
    need("pkill", "procps");
    let scene = Scene::new();
    let mut holder = scene.hold();
    let found = shell(&scene, "pgrep -F gateway.pid -L");
    assert_eq!(found.stdout, format!("{}\n", holder.pid()), "{found:?}");
    assert_eq!(shell(&scene, "pkill -F gateway.pid -L").end, End::Code(0));
    assert_eq!(holder.end(), End::of(Signal::TERM));
    assert_ne!(
        shell(&scene, "pgrep -F gateway.pid -L").end,
        End::Code(0),
        "not locked any more"
    );
    let mut holder = scene.hold();
    holder.crash();
    assert_ne!(
        shell(&scene, "pgrep -F gateway.pid -L").end,
        End::Code(0),
        "a crash unlocks"
    );
}

#[test]
fn start_stop_daemon_reads_the_file() {
    need("start-stop-daemon", "dpkg");
    let scene = Scene::new();
    let mut holder = scene.hold();
    let status = "start-stop-daemon --status --pidfile gateway.pid --exec \"$GATEWAY\"";
    assert_eq!(shell(&scene, status).end, End::Code(0));
    let stop = "start-stop-daemon --stop --pidfile gateway.pid --exec \"$GATEWAY\" --retry 10";
    let mut command = scene.command("sh");
    command.args(["-c", stop]).env("GATEWAY", scene.program());
    let stopped = scene.spawn(command);
    // It waits for a zombie, too: ours is reaped here.
    assert_eq!(holder.end(), End::of(Signal::TERM));
    stopped.output().assert_code(0);
    assert_ne!(shell(&scene, status).end, End::Code(0));
}

#[test]
fn kill_with_the_whole_file_hits_the_holder_alone() {
    let scene = Scene::new();
    let mut holder = scene.hold();
    // The second word is no number; the shell's kill says so and goes on.
    shell(&scene, "kill $(cat gateway.pid)");
    assert_eq!(holder.end(), End::of(Signal::TERM));
}

#[test]
fn flock_waits_for_us_and_we_for_flock() {
    need("flock", "util-linux");
    let scene = Scene::new();
    let mut holder = scene.hold();
    assert_eq!(shell(&scene, "flock -n gateway.pid true").end, End::Code(1));
    assert_eq!(
        shell(&scene, "flock -s -n gateway.pid true").end,
        End::Code(1)
    );
    let mut waiting = scene.command("flock");
    waiting.args(["gateway.pid", "true"]);
    let waiting = scene.spawn(waiting);
    holder.signal(Signal::TERM);
    holder.end();
    waiting.output().assert_code(0);
    let mut locker = Locker::on(&scene, &scene.pid_file());
    scene.finish(["run", "--", "true"]).assert_code(82);
    locker.0.crash();
    scene.finish(["run", "--", "true"]).assert_code(0);
}

/// A shared lock excludes us as well.
#[test]
fn a_shared_lock_is_respected() {
    let scene = Scene::new();
    std::fs::write(scene.pid_file(), "").unwrap();
    let mut command = scene.command("flock");
    command.args([
        "--shared",
        "--no-fork",
        "gateway.pid",
        "sh",
        "-c",
        "echo >locked; exec sleep infinity",
    ]);
    let mut reader = scene.spawn(command);
    wait_until("it has the lock", SOON, || scene.path("locked").exists());
    let output = scene.finish(["run", "--", "touch", "ran"]);
    assert!(matches!(output.end, End::Code(82)), "{output:?}");
    assert!(!scene.path("ran").exists());
    assert!(reader.is_running());
    reader.crash();
    scene.finish(["run", "--", "true"]).assert_code(0);
}

/// A lock by flock(2) lasts as long as its open file description, whoever opens and closes the file
/// besides.
#[test]
fn readers_that_open_and_close_the_file_leave_the_lock() {
    let scene = Scene::new();
    let holder = scene.hold();
    for _ in 0..10 {
        scene.bytes();
        shell(
            &scene,
            "cat gateway.pid >/dev/null; exec 5<gateway.pid; exec 5<&-",
        );
    }
    assert_eq!(scene.lockers(), [holder.pid()]);
}

#[test]
fn lslocks_shows_the_holder() {
    need("lslocks", "util-linux");
    let scene = Scene::new();
    let holder = scene.hold();
    let output = shell(
        &scene,
        "lslocks --noheadings --raw --output PID,TYPE,MODE,PATH",
    );
    let line = format!(
        "{} FLOCK WRITE {}",
        holder.pid(),
        scene.pid_file().display()
    );
    assert!(
        output.stdout.lines().any(|found| found == line),
        "{}",
        output.stdout
    );
}

/// `flock FILE gateway -f FILE run …`: the lock is our own parent's, and nobody is ended for it.
#[test]
fn a_lock_of_our_own_parent_is_not_ours() {
    need("flock", "util-linux");
    let scene = Scene::new();
    let output = shell(
        &scene,
        "flock gateway.pid \"$GATEWAY\" -f gateway.pid run --replace --timeout 600ms --kill-after 200ms -- touch ran",
    );
    assert!(matches!(output.end, End::Code(82)), "{output:?}");
    assert!(!scene.path("ran").exists());
}

/// Two gateways around one command, on two files.
#[test]
fn gateways_can_be_nested() {
    let scene = Scene::new();
    let output = shell(
        &scene,
        "\"$GATEWAY\" -f a.pid run -- \"$GATEWAY\" -f b.pid run -- sh -c 'echo $GATEWAY_PID_FILE; exit 6'",
    );
    output.assert_code(6);
    assert_eq!(
        output.stdout,
        format!("{}\n", scene.path("b.pid").display())
    );
}

#[test]
fn a_graceful_stop_through_the_file_is_a_stop() {
    let scene = Scene::new();
    let mut holder = scene.hold_with(&[], Payload::Graceful);
    scene.wait_for_mark("ready");
    shell(&scene, "kill $(head -n1 gateway.pid)");
    assert_eq!(holder.end(), End::Code(0));
    scene.assert_never_two_payloads();
}

/// What start-stop-daemon and `echo $!` leave beside a daemon that goes on.
#[test]
fn who_is_named_by_an_old_file_and_lives_is_told_and_left_alone() {
    let scene = Scene::new();
    let mut sleep = scene.command("sleep");
    sleep.arg("infinity");
    let mut daemon = scene.spawn(sleep);
    let said = format!(
        "the file names pid {0} (sleep infinity), which runs and has no lock: it is not ours to end; \
         if it is an instance started without gateway, end it first: kill {0}",
        daemon.pid()
    );
    let named = format!("{}\n", daemon.pid());
    std::fs::write(scene.pid_file(), &named).unwrap();
    let status = scene.finish(["status"]);
    status.assert_code(1);
    let first = status.stdout.lines().next().unwrap();
    assert_eq!(first, format!("crashed: {said}"));
    let stop = scene.finish(["stop"]);
    stop.assert_code(0).assert_one_line();
    let path = scene.pid_file();
    stop.assert_says(&format!("nothing to stop: {}: {said}\n", path.display()));
    assert_eq!(
        scene.bytes(),
        named.as_bytes(),
        "its own script knows it by that"
    );
    assert!(daemon.is_running());
    // A number that is somebody else's by now.
    let text = format!("{{\"pid\":{},\"start_time\":1}}\n", daemon.pid());
    std::fs::write(scene.pid_file(), text).unwrap();
    scene
        .finish(["stop"])
        .assert_code(0)
        .assert_says("the last run crashed and left nothing");
    daemon.signal(Signal::TERM);
    daemon.end();
    std::fs::write(scene.pid_file(), &named).unwrap();
    let status = scene.finish(["status"]);
    assert!(
        status.stdout.contains("needs nothing removed"),
        "{status:?}"
    );
}
