//! The harness itself.

use crate::harness::Systemd;

#[test]
fn a_service_runs_and_its_words_reach_the_journal() {
    let systemd = Systemd::boot();
    systemd.units([(
        "hello.service",
        "[Service]\nType=oneshot\nExecStart=/bin/echo hello\n",
    )]);
    systemd.ok(["systemctl", "start", "hello"]);
    systemd.journal_line("hello", "hello");
}

#[test]
fn nothing_is_left_when_a_booted_systemd_is_dropped() {
    let systemd = Systemd::boot();
    let root = systemd.inside("/");
    systemd.write("/var/lib/gateway/left", "");
    systemd.units([(
        "sleeper.service",
        "[Service]\nType=exec\nExecStart=/bin/sleep infinity\n",
    )]);
    systemd.ok(["systemctl", "start", "sleeper"]);
    let cgroup = systemd.cgroup().to_owned();
    assert!(cgroup.exists() && root.exists());
    drop(systemd);
    assert!(!cgroup.exists() && !root.exists());
    assert!(!std::path::Path::new("/var/lib/gateway/left").exists());
}
