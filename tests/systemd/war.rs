//! NousResearch/hermes-agent#32951: two units, each of which takes over and is
//! always started again. The lock cannot make peace, but it can keep order.

use crate::harness::{SOON, until};
use crate::scene::{
    assert_ended_well, assert_never_two_payloads, boot, living_payload, new_payload, payload,
    take_over, unit,
};

#[test]
fn two_units_at_war_never_run_two_payloads_and_say_who_fights() {
    let systemd = boot();
    let text = unit("--replace -n prize -- /run/test/plain prize", "")
        .replace("Restart=on-failure", "Restart=always");
    systemd.units([("red.service", &text), ("blue.service", &text)]);
    systemd.ok(["systemctl", "start", "--no-block", "red", "blue"]);
    until("five takeovers by each", 2 * SOON, || {
        let restarts = |unit| systemd.property(unit, "NRestarts").parse().unwrap_or(0);
        (restarts("red") >= 5 && restarts("blue") >= 5).then_some(())
    });
    assert_never_two_payloads(&systemd, "prize");
    systemd.journal_line("red", "blue.service");
    systemd.journal_line("blue", "red.service");

    systemd.ok(["systemctl", "stop", "red"]);
    systemd.wait_for("blue", "ActiveState", "active");
    payload(&systemd, "prize");
    systemd.ok(["systemctl", "stop", "blue"]);
    assert_eq!(living_payload(&systemd, "prize"), None);
    assert_never_two_payloads(&systemd, "prize");
}

#[test]
fn a_unit_that_gives_way_comes_back_by_itself() {
    let systemd = boot();
    let text = unit("--wait -n web -- /run/test/plain web", "")
        .replace("Restart=on-failure", "Restart=always");
    systemd.units([("web.service", &text)]);
    systemd.ok(["systemctl", "start", "web"]);
    let units = payload(&systemd, "web");

    let mut session = take_over(&systemd, "web");
    let sessions = new_payload(&systemd, "web", &units);
    until("the unit stands in line", SOON, || {
        systemd
            .property("web", "StatusText")
            .contains("standby")
            .then_some(())
    });
    assert!(session.is_running());

    session.signal(rustix::process::Signal::INT);
    session.wait();
    new_payload(&systemd, "web", &sessions);
    systemd.ok(["systemctl", "stop", "web"]);
    systemd.wait_for("web", "SubState", "dead");
    assert_eq!(systemd.property("web", "Result"), "success");
    assert_eq!(systemd.members("web.service"), "");
    assert_never_two_payloads(&systemd, "web");
}

#[test]
fn the_remedy_for_the_war_is_restart_on_failure() {
    let systemd = boot();
    let text = unit("--replace -n prize -- /run/test/plain prize", "");
    systemd.units([("red.service", &text), ("blue.service", &text)]);
    systemd.ok(["systemctl", "start", "red"]);
    let first = payload(&systemd, "prize");
    systemd.ok(["systemctl", "start", "blue"]);
    new_payload(&systemd, "prize", &first);
    assert_ended_well(&systemd, "red.service");
    assert_eq!(systemd.property("blue", "NRestarts"), "0");
    assert_never_two_payloads(&systemd, "prize");
}
