//! A plain start against a holder: quick, harmless, and told by a code of its own.

use std::fs;
use std::time::{Duration, Instant};

use crate::harness::{
    End, Locker, Payload, SOON, Scene, Signal, injected, need, state, wait_until,
};

/// NousResearch/hermes-agent#73203: "already running" must not look like a failure.
#[test]
fn a_refusal_is_one_line_with_a_code_of_its_own() {
    let scene = Scene::new();
    let holder = scene.hold();
    let output = scene.finish(["run", "--", "true"]);
    output.assert_code(80).assert_one_line();
    assert!(output.took < Duration::from_secs(1), "{:?}", output.took);
    assert_eq!(output.stdout, "");
    let path = scene.pid_file();
    let path = path.to_str().unwrap();
    let start = format!("gateway: held by pid {} (", holder.pid());
    assert!(output.stderr.starts_with(&start), "{}", output.stderr);
    assert!(output.stderr.contains("up 0"), "{}", output.stderr);
    let end = format!(
        "{path}; take over: gateway -f {path} run --replace -- COMMAND; stop it: gateway -f {path} stop\n"
    );
    assert!(output.stderr.ends_with(&end), "{}", output.stderr);
}

#[test]
fn a_named_instance_is_stopped_by_its_name() {
    let scene = Scene::new();
    let mut holder = scene.spawn(scene.bare(["run", "-n", "web", "--", "sleep", "infinity"]));
    wait_until("it holds", SOON, || {
        assert!(holder.is_running(), "{}", holder.stderr());
        scene
            .finish_command(scene.bare(["-n", "web", "status"]))
            .end
            == End::Code(0)
    });
    let output = scene.finish_command(scene.bare(["run", "-n", "web", "--", "true"]));
    output
        .assert_code(80)
        .assert_says("stop it: gateway -n web stop\n");
}

/// knsd/daemonize#20: a refused contender wiped the holder's record.
#[test]
fn a_refused_start_leaves_no_trace() {
    let scene = Scene::new();
    let mut holder = scene.hold();
    let before = scene.footprint();
    let files = || {
        let mut names: Vec<_> = fs::read_dir(scene.path(""))
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        names.sort();
        names
    };
    let files_before = files();
    for _ in 0..20 {
        scene.finish(["run", "--", "true"]).assert_code(80);
    }
    assert_eq!(scene.footprint(), before);
    assert_eq!(files(), files_before);
    assert!(holder.is_running());
    assert_eq!(holder.stderr(), "", "the holder has nothing to tell");
}

#[test]
fn quiet_leaves_a_refusal_to_the_code() {
    let scene = Scene::new();
    let _holder = scene.hold();
    scene
        .finish(["-q", "run", "--", "true"])
        .assert_code(80)
        .assert_silent();
}

/// NousResearch/hermes-agent#2189: a suspended holder is a holder.
#[test]
fn a_stopped_holder_refuses_too() {
    let scene = Scene::new();
    let holder = scene.hold();
    holder.signal(Signal::STOP);
    wait_until("it is stopped", SOON, || state(holder.pid()) == Some('T'));
    scene.finish(["run", "--", "true"]).assert_code(80);
    assert_eq!(state(holder.pid()), Some('T'), "it was not woken");
}

#[test]
fn a_foreign_locker_is_named_and_left_alone() {
    let scene = Scene::new();
    let mut stranger = Locker::on(&scene, &scene.pid_file());
    let before = scene.footprint();
    let output = scene.finish(["run", "--", "true"]);
    output.assert_code(82).assert_one_line();
    output.assert_says(&format!("pid {} (", stranger.pid()));
    output.assert_says(scene.pid_file().to_str().unwrap());
    assert!(output.took < Duration::from_secs(2), "{:?}", output.took);
    assert_eq!(scene.footprint(), before);
    assert!(stranger.0.is_running());
}

#[test]
fn who_shares_the_lock_is_named_and_left_alone() {
    let scene = Scene::new();
    let mut stranger = Locker::sharing(&scene, &scene.pid_file());
    let named = format!("pid {} (sleep infinity)", stranger.pid());
    let before = scene.footprint();
    let output = scene.finish(["run", "--", "true"]);
    output.assert_code(82).assert_one_line().assert_says(&named);
    output.assert_says("shared lock");
    scene.finish(["stop"]).assert_code(82).assert_says(&named);
    let status = scene.finish(["status"]);
    status.assert_code(0);
    assert!(status.stdout.starts_with("foreign: "), "{}", status.stdout);
    assert!(status.stdout.contains(&named), "{}", status.stdout);
    assert_eq!(scene.footprint(), before);
    assert!(stranger.0.is_running());
}

/// Whoever looks is soon through; the other one is not.
#[test]
fn of_two_who_share_the_lock_the_one_that_does_not_only_look_is_named() {
    let scene = Scene::new();
    fs::copy("/bin/sleep", scene.path("gateway")).unwrap();
    for gateway_is_first in [true, false] {
        let path = scene.pid_file();
        let look = || Locker::sharing_as(&scene, &path, &["./gateway", "infinity"]);
        let first = gateway_is_first.then(look);
        let stranger = Locker::sharing(&scene, &path);
        let _last = first.or_else(|| Some(look()));
        let output = scene.finish(["run", "--", "true"]);
        output
            .assert_code(82)
            .assert_says(&format!("pid {} (", stranger.pid()));
        assert!(output.took < Duration::from_secs(2), "{:?}", output.took);
    }
}

/// `status` takes a shared lock for an instant where nobody is to be seen, and may be stopped in that.
#[test]
fn a_gateway_that_is_stopped_while_it_looks_is_waited_for_and_named() {
    let scene = Scene::new();
    fs::copy("/bin/sleep", scene.path("gateway")).unwrap();
    let mut looking = Locker::sharing_as(&scene, &scene.pid_file(), &["./gateway", "infinity"]);
    assert_eq!(scene.state(), "foreign");
    let mut start = scene.start(["run", "--", "true"]);
    // Longer than anybody's probe would be waited for.
    let patience = Instant::now() + Duration::from_millis(600);
    while Instant::now() < patience {
        assert!(start.is_running(), "{}", start.stderr());
        std::thread::sleep(Duration::from_millis(5));
    }
    looking.0.crash();
    start.output().assert_code(0);
}

/// arcboxlabs/arcbox#367: a probe of the lock made a start fail.
#[test]
fn a_probe_refuses_nobody() {
    need("perl", "perl-base");
    let scene = Scene::new();
    fs::write(scene.pid_file(), "").unwrap();
    // Exclusive and shared in turn, half of the time: flock(1) would hold it for as long as a busy
    // machine lets a process of its own wait. Those that had the lock are counted.
    starts_beside_a_prober(
        &scene,
        r#"perl -MFcntl=:flock -e '
            open my $file, "+<", "gateway.pid"; open my $count, ">>", "probes";
            for (my $kind = LOCK_EX;; $kind ^= LOCK_EX | LOCK_SH) {
                syswrite $count, "\n" if flock $file, $kind | LOCK_NB;
                select undef, undef, undef, 0.002;
                flock $file, LOCK_UN;
                select undef, undef, undef, 0.002;
            }'"#,
    );
}

/// Starts at least thirty times while somebody looks over and over, and really gets to look.
#[track_caller]
fn starts_beside_a_prober(scene: &Scene, probe: &str) {
    let mut command = scene.command("sh");
    let script = format!("while :; do {probe}; done");
    command
        .args(["-c", &script])
        .env("GATEWAY", scene.program());
    let mut prober = scene.spawn(command);
    let probes = || scene.lines("probes").len();
    wait_until("the first probe", SOON, || probes() > 0);
    let enough = probes() + 10;
    let mut starts = 0;
    wait_until("thirty starts, and ten probes meanwhile", 3 * SOON, || {
        scene.finish(["run", "--", "true"]).assert_code(0);
        starts += 1;
        starts >= 30 && probes() >= enough
    });
    assert!(prober.is_running());
}

/// The probe's own answer is right, too.
#[test]
fn status_refuses_nobody() {
    let scene = Scene::new();
    starts_beside_a_prober(&scene, "\"$GATEWAY\" -f gateway.pid status; echo >>probes");
}

#[test]
fn a_holder_that_drains_still_refuses() {
    let scene = Scene::new();
    let mut holder = scene.hold_with(&[], Payload::Slow("1"));
    scene.wait_for_mark("ready");
    holder.signal(Signal::TERM);
    scene.wait_for_mark("stopped by TERM");
    scene.finish(["run", "--", "true"]).assert_code(80);
    assert!(holder.is_running());
    assert_eq!(holder.end(), End::Code(0));
    scene.finish(["run", "--", "true"]).assert_code(0);
}

/// A start that is not done yet is waited for, so that one that comes to nothing keeps nobody down.
#[test]
fn a_start_in_progress_is_waited_for() {
    let scene = Scene::new();
    fs::write(scene.pid_file(), "").unwrap();
    // The lock is taken, and a second passes before the record is written.
    let command = scene.gateway(["run", "--", "sleep", "infinity"]);
    let _starting = scene.spawn(injected(&scene, "pwrite64:delay_enter=1000000", &command));
    wait_until("it has the lock", SOON, || !scene.lockers().is_empty());
    assert_eq!(scene.state(), "starting");
    let output = scene.finish(["run", "--", "true"]);
    output.assert_code(80);
    assert_eq!(scene.state(), "held");
}

/// GATEWAY_PID_FILE is handed down, so a gateway within COMMAND means the same file.
#[test]
fn a_start_below_its_own_holder_is_told_so_and_sent_nowhere_in_vain() {
    let scene = Scene::new();
    let script = "\"$GATEWAY\" run -- true 2>\"$SCENE/below\"\necho \"code $?\"\n";
    let payload = scene.payload(Payload::Script(script));
    let mut command = scene.gateway(["run", "--", &payload]);
    command.env("GATEWAY", scene.program());
    let output = scene.finish_command(command);
    output.assert_code(0);
    assert_eq!(output.stdout, "code 80\n");
    let said = scene.lines("below").join("\n");
    assert!(said.contains("it is an ancestor of this process"), "{said}");
    assert!(
        said.ends_with("-n NAME") && !said.contains("--replace"),
        "{said}"
    );
}
