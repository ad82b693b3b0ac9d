//! The units that we ship, as they are.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;

use rustix::process::Signal;

use crate::harness::{ByHand, SOON, Systemd, until};
use crate::scene::{
    assert_ended_well, assert_is_set_up_well, assert_never_two_payloads, assert_runs_undisturbed,
    boot, new_payload, payload, run_by_hand,
};

/// Installs a file of `packaging/systemd`.
fn install(systemd: &Systemd, file: &str, unit: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("packaging/systemd")
        .join(file);
    let text = std::fs::read_to_string(&path).expect("a shipped file");
    systemd.units([(unit, &text)]);
}

/// A stray holder by hand ends when the unit starts, and the unit runs undisturbed.
#[track_caller]
fn takes_over_from_a_stray(systemd: &Systemd, unit: &str, name: &str, mut stray: ByHand) {
    let strays = payload(systemd, name);
    systemd.ok(["systemctl", "start", unit]);
    new_payload(systemd, name, &strays);
    assert_eq!(stray.wait().signal(), Some(15), "{}", stray.stderr());
    assert!(!systemd.lives(&strays));
    systemd.wait_for(unit, "ActiveState", "active");
    assert_runs_undisturbed(systemd, unit);
    assert_never_two_payloads(systemd, name);
}

#[test]
fn the_template_takes_over_from_a_stray_holder() {
    let systemd = boot();
    install(&systemd, "gateway@.service", "gateway@.service");
    systemd.script(
        "/etc/gateway/demo",
        "#!/bin/sh\nexec /run/test/plain demo\n",
    );
    let stray = run_by_hand(&systemd, &[], "demo", &["/etc/gateway/demo"]);
    takes_over_from_a_stray(&systemd, "gateway@demo", "demo", stray);
    assert_is_set_up_well("gateway@demo", &systemd.properties("gateway@demo"));
    install(
        &systemd,
        "examples/give-way.conf",
        "gateway@demo.service.d/give-way.conf",
    );
    assert_is_set_up_well("give-way", &systemd.properties("gateway@demo"));
}

#[test]
fn the_template_runs_the_executable_of_its_name() {
    let systemd = boot();
    install(&systemd, "gateway@.service", "gateway@.service");
    let missing = systemd.run(["systemctl", "start", "gateway@demo"]);
    assert!(
        !missing.status.success(),
        "started without /etc/gateway/demo"
    );

    systemd.script(
        "/etc/gateway/demo",
        "#!/bin/sh\nexec /run/test/plain demo\n",
    );
    systemd.ok(["systemctl", "start", "gateway@demo"]);
    let first = payload(&systemd, "demo");
    systemd.ok([
        "systemctl",
        "kill",
        "-s",
        "KILL",
        "--kill-who=main",
        "gateway@demo",
    ]);
    let second = new_payload(&systemd, "demo", &first);
    systemd.wait_for("gateway@demo", "ActiveState", "active");

    // The same words by hand.
    let mut by_hand = run_by_hand(&systemd, &["--replace"], "demo", &["/etc/gateway/demo"]);
    new_payload(&systemd, "demo", &second);
    by_hand.wait_for_line("systemctl start gateway@demo.service");
    systemd.wait_for("gateway@demo", "SubState", "dead");
    assert_eq!(systemd.property("gateway@demo", "Result"), "success");
    by_hand.signal(Signal::TERM);
    by_hand.wait();
    assert_never_two_payloads(&systemd, "demo");
}

#[test]
fn the_give_way_drop_in_lets_a_session_have_the_lock_and_comes_back() {
    let systemd = boot();
    install(&systemd, "gateway@.service", "gateway@.service");
    install(
        &systemd,
        "examples/give-way.conf",
        "gateway@demo.service.d/give-way.conf",
    );
    systemd.script(
        "/etc/gateway/demo",
        "#!/bin/sh\nexec /run/test/plain demo\n",
    );
    systemd.ok(["systemctl", "start", "gateway@demo"]);
    let units = payload(&systemd, "demo");
    let mut session = run_by_hand(&systemd, &["--replace"], "demo", &["/etc/gateway/demo"]);
    let sessions = new_payload(&systemd, "demo", &units);
    // RestartSec= is the shipped one here.
    until("the unit stands in line", SOON, || {
        systemd
            .property("gateway@demo", "StatusText")
            .contains("standby")
            .then_some(())
    });
    session.signal(Signal::INT);
    session.wait();
    new_payload(&systemd, "demo", &sessions);
    assert_never_two_payloads(&systemd, "demo");
}

#[test]
fn the_founding_outages_unit_runs_as_its_own_user_and_is_seen_by_root() {
    let systemd = boot();
    install(&systemd, "hermes-gateway.service", "hermes-gateway.service");
    for (file, line) in [
        (
            "/etc/passwd",
            "hermes:x:990:990::/var/lib/hermes:/usr/sbin/nologin\n",
        ),
        ("/etc/group", "hermes:x:990:\n"),
    ] {
        let text = systemd.read(file) + line;
        systemd.write(file, &text);
    }
    systemd.ok([
        "install",
        "-d",
        "-o",
        "hermes",
        "-g",
        "hermes",
        "/var/lib/hermes",
    ]);
    systemd.ok(["chmod", "777", "/run/test"]);
    systemd.script(
        "/usr/local/bin/hermes",
        "#!/bin/sh\nexec /run/test/plain hermes\n",
    );
    systemd.ok(["systemctl", "start", "hermes-gateway"]);
    let first = payload(&systemd, "hermes");
    assert_is_set_up_well("hermes", &systemd.properties("hermes-gateway"));

    let status = systemd.ok(["gateway", "-n", "hermes", "status"]);
    assert!(
        status.starts_with("held:") && status.contains("hermes-gateway.service"),
        "{status}"
    );
    let owner = systemd.ok(["stat", "-c", "%U", &format!("/proc/{first}")]);
    assert_eq!(owner, "hermes\n");

    systemd.ok([
        "systemctl",
        "kill",
        "-s",
        "KILL",
        "--kill-who=main",
        "hermes-gateway",
    ]);
    let second = new_payload(&systemd, "hermes", &first);
    systemd.wait_for("hermes-gateway", "ActiveState", "active");

    // Root's shell means the same file, and takes over from the service's user.
    let _by_hand = run_by_hand(
        &systemd,
        &["--replace"],
        "hermes",
        &["hermes", "gateway", "run"],
    );
    let third = new_payload(&systemd, "hermes", &second);
    systemd.wait_for("hermes-gateway", "SubState", "dead");
    assert_eq!(systemd.property("hermes-gateway", "Result"), "success");
    // The way back: root's process is not the service user's to end.
    systemd.ok(["gateway", "-n", "hermes", "stop"]);
    assert!(!systemd.lives(&third));
    systemd.ok(["systemctl", "start", "hermes-gateway"]);
    payload(&systemd, "hermes");
    assert_never_two_payloads(&systemd, "hermes");

    // A run in the service user's own shell means the same file, and gives way to the unit.
    systemd.ok(["systemctl", "stop", "hermes-gateway"]);
    let stray = systemd.by_hand([
        "setpriv",
        "--reuid=hermes",
        "--regid=hermes",
        "--clear-groups",
        "gateway",
        "run",
        "-n",
        "hermes",
        "--",
        "hermes",
        "gateway",
        "run",
    ]);
    takes_over_from_a_stray(&systemd, "hermes-gateway", "hermes", stray);
}

#[test]
fn the_drop_in_puts_an_existing_unit_under_the_lock() {
    let systemd = boot();
    let web = "[Service]\nType=forking\nPIDFile=/run/web.pid\nExecStart=/usr/local/bin/web -d\n";
    systemd.units([("web.service", web)]);
    systemd.script(
        "/usr/local/bin/web",
        "#!/bin/sh\nexec /run/test/plain web\n",
    );
    install(
        &systemd,
        "examples/drop-in.conf",
        "web.service.d/gateway.conf",
    );
    let stray = run_by_hand(&systemd, &[], "web", &["/usr/local/bin/web"]);
    takes_over_from_a_stray(&systemd, "web", "web", stray);
    assert_is_set_up_well("drop-in", &systemd.properties("web"));
    let status = systemd.ok(["gateway", "-n", "web", "status"]);
    assert!(status.starts_with("held:"), "{status}");
    systemd.ok(["systemctl", "stop", "web"]);
    assert_ended_well(&systemd, "web.service");
    assert_never_two_payloads(&systemd, "web");
}
