//! A full disk, and space again.

use crate::harness::{SOON, Systemd, until};
use crate::scene::{
    assert_never_two_payloads, boot, living_payload, new_payload, payload, pid_file, unit,
};

/// A unit whose pid file lies on a small disk.
fn unit_on_a_small_disk(systemd: &Systemd) {
    systemd.ok(["mkdir", "-p", "/var/lib/gateway/full"]);
    systemd.ok([
        "mount",
        "-t",
        "tmpfs",
        "-o",
        "size=64k",
        "tmpfs",
        "/var/lib/gateway/full",
    ]);
    let text = unit(
        "--replace -n full -- /run/test/plain full",
        "StateDirectory=gateway/full\n",
    );
    systemd.units([("full.service", &text)]);
}

fn fill(systemd: &Systemd) {
    let filled = systemd.run([
        "dd",
        "if=/dev/zero",
        "of=/var/lib/gateway/full/ballast",
        "bs=4k",
    ]);
    assert!(
        String::from_utf8_lossy(&filled.stderr).contains("No space left"),
        "{filled:?}"
    );
}

fn restarts(systemd: &Systemd) -> u32 {
    systemd
        .property("full", "NRestarts")
        .parse()
        .expect("a number")
}

#[test]
fn a_unit_on_a_full_disk_recovers_by_itself_once_there_is_space() {
    let systemd = boot();
    unit_on_a_small_disk(&systemd);
    fill(&systemd);
    systemd.ok(["systemctl", "start", "--no-block", "full"]);
    until("some starts in vain", SOON, || {
        (restarts(&systemd) >= 3).then_some(())
    });
    systemd.wait_for("full", "ExecMainStatus", "83");
    assert_eq!(living_payload(&systemd, "full"), None);
    let said = systemd.journal_line("full", &pid_file("full"));
    assert!(said.to_lowercase().contains("space"), "{said}");

    systemd.ok(["rm", "/var/lib/gateway/full/ballast"]);
    payload(&systemd, "full");
    systemd.wait_for("full", "ActiveState", "active");
}

#[test]
fn a_crash_on_a_full_disk_is_recovered_from() {
    let systemd = boot();
    unit_on_a_small_disk(&systemd);
    systemd.ok(["systemctl", "start", "full"]);
    let first = payload(&systemd, "full");
    fill(&systemd);
    systemd.ok(["systemctl", "kill", "-s", "KILL", "--kill-who=main", "full"]);
    until("a restart", SOON, || {
        (restarts(&systemd) >= 1).then_some(())
    });
    systemd.ok(["rm", "/var/lib/gateway/full/ballast"]);
    new_payload(&systemd, "full", &first);
    systemd.wait_for("full", "ActiveState", "active");
    let record = systemd.read(&pid_file("full"));
    assert_eq!(
        record.lines().next(),
        Some(systemd.property("full", "MainPID").as_str())
    );
    assert_never_two_payloads(&systemd, "full");
}
