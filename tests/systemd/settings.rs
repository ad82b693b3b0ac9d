//! Settings of units that could blind the gateway, or take its file away.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::harness::{SOON, Systemd, until};
use crate::scene::{
    assert_ended_well, assert_never_two_payloads, assert_runs_undisturbed, boot, new_payload,
    payload, take_over, unit,
};

/// A crash, a takeover by hand, and back.
fn crash_takeover_and_back(systemd: &Systemd, name: &str) {
    systemd.ok(["systemctl", "start", name]);
    let first = payload(systemd, "web");
    systemd.ok(["systemctl", "kill", "-s", "KILL", "--kill-who=main", name]);
    let second = new_payload(systemd, "web", &first);
    systemd.wait_for(name, "ActiveState", "active");
    let mut by_hand = take_over(systemd, "web");
    let third = new_payload(systemd, "web", &second);
    systemd.wait_for(name, "SubState", "dead");
    assert_eq!(systemd.property(name, "Result"), "success");
    assert!(by_hand.is_running());
    systemd.ok(["systemctl", "start", name]);
    new_payload(systemd, "web", &third);
    by_hand.wait();
    assert_never_two_payloads(systemd, "web");
    systemd.ok(["systemctl", "stop", name]);
    assert_eq!(systemd.members(name), "");
}

#[test]
fn all_hardening_that_the_template_offers_leaves_the_gateway_its_sight() {
    let systemd = boot();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/systemd/gateway@.service");
    let shipped = std::fs::read_to_string(path).expect("a shipped file");
    // What is commented out without a space is meant to be used; another user is another test.
    let is_setting = |line: &&str| {
        line.starts_with('#')
            && line.contains('=')
            && !line.starts_with("# ")
            && !line.starts_with("#User")
    };
    let hardening: Vec<&str> = shipped
        .lines()
        .filter(is_setting)
        .map(|line| &line[1..])
        .collect();
    assert!(hardening.len() > 10, "{hardening:?}");
    let more = format!(
        "StateDirectory=gateway/web\nReadWritePaths=/run/test\n{}\n",
        hardening.join("\n")
    );
    systemd.units([(
        "web.service",
        &unit("--replace -n web -- /run/test/plain web", &more),
    )]);
    crash_takeover_and_back(&systemd, "web.service");
}

#[test]
fn a_user_that_systemd_makes_up_means_the_same_file_as_root() {
    let systemd = boot();
    systemd.ok(["chmod", "777", "/run/test"]);
    systemd.script(
        "/run/test/shared",
        "#!/bin/sh\numask 0\nexec /run/test/plain web\n",
    );
    let more = "DynamicUser=yes\nReadWritePaths=/run/test\nStateDirectory=gateway/web\n";
    systemd.units([(
        "web.service",
        &unit("--replace -n web -- /run/test/shared", more),
    )]);
    systemd.ok(["systemctl", "start", "web"]);
    let first = payload(&systemd, "web");
    let status = systemd.ok(["gateway", "-n", "web", "status"]);
    assert!(
        status.starts_with("held:") && status.contains("web.service"),
        "{status}"
    );

    systemd.ok(["systemctl", "kill", "-s", "KILL", "--kill-who=main", "web"]);
    let second = new_payload(&systemd, "web", &first);
    systemd.wait_for("web", "ActiveState", "active");
    let mut by_hand = take_over(&systemd, "web");
    let third = new_payload(&systemd, "web", &second);
    systemd.wait_for("web", "SubState", "dead");
    assert_eq!(systemd.property("web", "Result"), "success");

    // Root's process is not this user's to end: root makes room.
    systemd.ok(["gateway", "-n", "web", "stop"]);
    by_hand.wait();
    systemd.ok(["systemctl", "start", "web"]);
    new_payload(&systemd, "web", &third);
    assert_never_two_payloads(&systemd, "web");
}

#[test]
fn a_folder_that_systemd_removes_with_the_unit_costs_nobody_the_lock() {
    let systemd = boot();
    let file = "/run/web/gateway.pid";
    let arguments = format!("--replace -f {file} -- /run/test/plain web");
    systemd.units([("web.service", &unit(&arguments, "RuntimeDirectory=web\n"))]);
    systemd.ok(["systemctl", "start", "web"]);
    let first = payload(&systemd, "web");
    let folder = || std::fs::metadata(systemd.inside("/run/web")).map(|folder| folder.ino());
    let made_by_systemd = folder().expect("RuntimeDirectory= is there");
    let mut by_hand = systemd.by_hand([
        "gateway",
        "run",
        "--replace",
        "-f",
        file,
        "--",
        "/run/test/plain",
        "web",
    ]);
    let second = new_payload(&systemd, "web", &first);
    assert_ended_well(&systemd, "web.service");
    // systemd removes the folder meanwhile, under whoever has the lock by then.
    let refused = systemd.run(["gateway", "run", "-f", file, "--", "true"]);
    assert_eq!(refused.status.code(), Some(80), "{refused:?}");
    until("the claim at the path again", SOON, || {
        systemd
            .read(file)
            .contains(&format!("\"pid\":{second},"))
            .then_some(())
    });
    let made_again = folder().expect("made again by whoever has the lock");
    assert_ne!(made_again, made_by_systemd, "systemd did not remove it");

    systemd.ok(["systemctl", "start", "web"]);
    new_payload(&systemd, "web", &second);
    by_hand.wait();
    assert_runs_undisturbed(&systemd, "web");
    assert_never_two_payloads(&systemd, "web");
}
