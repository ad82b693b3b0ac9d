//! From a unit to a shell and back, stops, restarts and refusals.

use rustix::process::Signal;

use crate::harness::{SOON, until};
use crate::scene::{
    assert_ended_well, assert_never_two_payloads, assert_runs_undisturbed, boot, living_payload,
    new_payload, payload, pid_file, run_by_hand, take_over, unit,
};

#[test]
fn a_takeover_by_hand_and_back_is_told_on_both_sides() {
    let systemd = boot();
    let text = unit(
        "--replace -n web -- /run/test/plain web",
        "StateDirectory=gateway/web\n",
    );
    systemd.units([("web.service", &text)]);
    systemd.ok(["systemctl", "start", "web"]);
    let first = payload(&systemd, "web");

    let mut by_hand = take_over(&systemd, "web");
    let second = new_payload(&systemd, "web", &first);
    assert_ended_well(&systemd, "web.service");
    let told = by_hand.wait_for_line("systemctl start web.service");
    assert!(told.contains("web.service"), "{told}");
    let asked = systemd.journal_line("web", "gateway run --replace -n web");
    assert!(asked.contains("pid "), "{asked}");

    systemd.ok(["systemctl", "start", "web"]);
    new_payload(&systemd, "web", &second);
    let ended = by_hand.wait();
    assert_eq!(
        std::os::unix::process::ExitStatusExt::signal(&ended),
        Some(15)
    );
    // The unit is up again: only at the start was it down.
    let said = by_hand.stderr();
    assert_eq!(said.matches("which is down").count(), 1, "{said}");
    assert_runs_undisturbed(&systemd, "web");
    assert_never_two_payloads(&systemd, "web");
}

#[test]
fn at_its_end_a_run_by_hand_says_again_that_the_unit_is_down() {
    let systemd = boot();
    let text = unit(
        "--replace -n web -- /run/test/plain web",
        "StateDirectory=gateway/web\n",
    );
    systemd.units([("web.service", &text)]);
    systemd.ok(["systemctl", "start", "web"]);
    let first = payload(&systemd, "web");
    let mut by_hand = take_over(&systemd, "web");
    new_payload(&systemd, "web", &first);
    by_hand.wait_for_line("systemctl start web.service");
    by_hand.signal(Signal::INT);
    by_hand.wait();
    let said = by_hand.stderr();
    assert_eq!(
        said.matches("systemctl start web.service").count(),
        2,
        "{said}"
    );
    assert_ended_well(&systemd, "web.service");
}

/// Stops and restarts a unit with this payload.
fn stops_and_restarts_well(kind: &str, options: &str, more: &str) {
    let systemd = boot();
    let arguments = format!("--replace {options} -n web -- /run/test/{kind} web 0");
    let more = format!("StateDirectory=gateway/web\n{more}");
    systemd.units([("web.service", &unit(&arguments, &more))]);
    systemd.ok(["systemctl", "start", "web"]);
    let first = payload(&systemd, "web");

    systemd.ok(["systemctl", "restart", "web"]);
    let second = new_payload(&systemd, "web", &first);
    assert_runs_undisturbed(&systemd, "web");

    systemd.ok(["systemctl", "stop", "web"]);
    assert_ended_well(&systemd, "web.service");
    assert!(!systemd.lives(&second));
    systemd.ok(["flock", "-n", &pid_file("web"), "true"]);
    let status = systemd.run(["gateway", "-n", "web", "status"]);
    assert_eq!(status.status.code(), Some(3), "{status:?}");
    let said = String::from_utf8_lossy(&status.stdout).into_owned();
    assert!(
        said.starts_with("free") && said.contains("stopped by pid 1"),
        "{said}"
    );
    assert_never_two_payloads(&systemd, "web");
}

#[test]
fn stop_and_restart_are_clean_with_a_payload_that_dies_of_the_signal() {
    stops_and_restarts_well("plain", "", "");
}

#[test]
fn stop_and_restart_are_clean_with_a_payload_that_ends_well() {
    stops_and_restarts_well("drain", "", "");
}

#[test]
fn stop_and_restart_are_clean_with_a_payload_that_has_to_be_killed() {
    stops_and_restarts_well("deaf", "--stop-timeout 300ms", "");
}

#[test]
fn stop_and_restart_leave_no_descendant_in_the_cgroup() {
    // systemd itself spares everybody but us: what goes, goes by us.
    stops_and_restarts_well("forks", "", "KillMode=process\n");
}

#[test]
fn a_unit_that_does_not_replace_is_refused_once() {
    let systemd = boot();
    let text = unit(
        "-n web -- /run/test/plain web",
        "StateDirectory=gateway/web\n",
    );
    systemd.units([("web.service", &text)]);
    let mut stray = run_by_hand(&systemd, &[], "web", &["/run/test/plain", "web"]);
    let strays = payload(&systemd, "web");

    assert!(!systemd.run(["systemctl", "start", "web"]).status.success());
    // Failed, and not waiting for a restart: no loop.
    systemd.wait_for("web", "SubState", "failed");
    let now = systemd.properties("web");
    assert_eq!(now["ExecMainStatus"], "80");
    assert_eq!(now["NRestarts"], "0");

    // A refusal may be quicker than systemd notes the start, and systemctl then
    // leaves its log line out: the status text is there in any case.
    let status = systemd.run(["systemctl", "status", "--no-pager", "web"]);
    let status = String::from_utf8_lossy(&status.stdout).into_owned();
    let told = status
        .lines()
        .find(|line| line.trim_start().starts_with("Status: "));
    let told = told.unwrap_or_else(|| panic!("no status text: {status}"));
    assert!(
        told.contains("held by pid") && told.contains(&pid_file("web")),
        "{status}"
    );
    systemd.journal_line("web", "held by pid");
    assert_eq!(systemd.journal("web").matches("held by pid").count(), 1);

    assert!(stray.is_running());
    assert_eq!(living_payload(&systemd, "web"), Some(strays));
    stray.signal(Signal::TERM);
    stray.wait();
    systemd.ok(["systemctl", "start", "web"]);
    assert_never_two_payloads(&systemd, "web");
}

#[test]
fn a_unit_that_takes_over_from_another_names_it_however_alike_the_names_are() {
    let systemd = boot();
    let text = unit("--replace -n web -- /run/test/plain web", "");
    systemd.units([("web.service", &text), ("new-web.service", &text)]);
    systemd.ok(["systemctl", "start", "web"]);
    let first = payload(&systemd, "web");
    systemd.ok(["systemctl", "start", "new-web"]);
    new_payload(&systemd, "web", &first);
    assert_ended_well(&systemd, "web.service");
    systemd.journal_line("new-web", "systemctl start web.service");
}

#[test]
fn stop_names_the_unit_whose_holder_it_ended() {
    let systemd = boot();
    let text = unit(
        "-n web -- /run/test/plain web",
        "StateDirectory=gateway/web\n",
    );
    systemd.units([("web.service", &text)]);
    systemd.ok(["systemctl", "start", "web"]);
    payload(&systemd, "web");
    let stopped = systemd.run(["gateway", "-n", "web", "stop"]);
    let said = String::from_utf8_lossy(&stopped.stderr).into_owned();
    assert!(
        stopped.status.success() && said.contains("web.service"),
        "{stopped:?}"
    );
    assert_ended_well(&systemd, "web.service");
    systemd.ok(["systemctl", "stop", "web"]);
    assert_ended_well(&systemd, "web.service");
}

#[test]
fn a_reload_reaches_the_payload() {
    let systemd = boot();
    systemd.script(
        "/run/test/reloads",
        "#!/bin/sh\ntrap 'echo reloaded >>/run/test/heard' HUP\necho $$ >/run/test/web.pid\n\
         while :; do sleep infinity & wait; kill $!; done\n",
    );
    let more = "ExecReload=/bin/kill -HUP $MAINPID\n";
    systemd.units([("web.service", &unit("-n web -- /run/test/reloads", more))]);
    systemd.ok(["systemctl", "start", "web"]);
    let first = payload(&systemd, "web");
    systemd.ok(["systemctl", "reload", "web"]);
    until("the payload's word", SOON, || {
        (systemd.read("/run/test/heard") == "reloaded\n").then_some(())
    });
    assert_eq!(living_payload(&systemd, "web"), Some(first));
    assert_runs_undisturbed(&systemd, "web");
}

#[test]
fn the_end_of_the_command_is_the_end_of_the_unit() {
    let systemd = boot();
    systemd.units([
        ("good.service", &unit("-n good -- sh -c 'exit 0'", "")),
        (
            "bad.service",
            &unit("-n bad -- sh -c 'exit 7'", "Restart=no\n"),
        ),
        (
            "segv.service",
            &unit("-n segv -- sh -c 'kill -SEGV $$$$'", "Restart=no\n"),
        ),
    ]);
    for name in ["good", "bad", "segv"] {
        systemd.run(["systemctl", "start", name]);
    }
    assert_ended_well(&systemd, "good.service");
    for (name, status) in [("bad", "7"), ("segv", "139")] {
        systemd.wait_for(name, "ActiveState", "failed");
        assert_eq!(systemd.property(name, "Result"), "exit-code");
        assert_eq!(systemd.property(name, "ExecMainStatus"), status);
    }
}
