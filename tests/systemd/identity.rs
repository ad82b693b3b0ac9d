//! Who runs in a unit, and who only lives in its cgroup.

use rustix::process::Signal;

use crate::harness::Systemd;
use crate::scene::{boot, new_payload, payload, take_over, unit};

/// The `holder` that `gateway status --json` shows.
fn holder(systemd: &Systemd, name: &str) -> serde_json::Value {
    let text = systemd.ok(["gateway", "-n", name, "status", "--json"]);
    let status: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(status["state"], "held", "{text}");
    status["holder"].clone()
}

/// Takes a lock over by hand, and gives all that was said about it, up to its end.
fn words_of_a_takeover(systemd: &Systemd, name: &str) -> String {
    let old = payload(systemd, name);
    let mut by_hand = take_over(systemd, name);
    new_payload(systemd, name, &old);
    by_hand.wait_for_line("asked pid");
    by_hand.signal(Signal::TERM);
    by_hand.wait();
    by_hand.stderr()
}

#[test]
fn a_service_is_recorded_with_its_unit() {
    let systemd = boot();
    let wrapped = unit("-n web -- /run/test/plain web", "")
        .replace("/usr/bin/gateway", "/usr/bin/nice -n 1 /usr/bin/gateway");
    systemd.units([("web.service", &wrapped)]);
    systemd.ok(["systemctl", "start", "web"]);
    let holder = holder(&systemd, "web");
    assert_eq!(holder["unit"], "web.service", "{holder}");
    assert_eq!(holder["manager"], "system", "{holder}");
}

#[test]
fn a_cron_job_is_not_mistaken_for_cron() {
    let systemd = boot();
    // As cron does: one of its children runs the line, in its cgroup and
    // with its environment.
    let cron =
        "[Service]\nExecStart=/bin/sh -c 'gateway run -n job -- /run/test/plain job; true'\n";
    systemd.units([("cron.service", cron)]);
    systemd.ok(["systemctl", "start", "cron"]);
    payload(&systemd, "job");
    let holder = holder(&systemd, "job");
    let environment = systemd.read(&format!("/proc/{}/environ", holder["pid"]));
    assert!(
        environment.contains("SYSTEMD_EXEC_PID="),
        "not what cron hands down: {environment}"
    );
    assert_eq!(holder["unit"], serde_json::Value::Null, "{holder}");

    let refused = systemd.run([
        "gateway",
        "run",
        "-n",
        "job",
        "--",
        "/run/test/plain",
        "job",
    ]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        refused.status.code() == Some(80)
            && said.contains("held by pid")
            && !said.contains("cron.service"),
        "{said}"
    );
    let said = words_of_a_takeover(&systemd, "job");
    assert!(!said.contains("cron.service"), "{said}");
}

#[test]
fn a_login_session_is_not_mistaken_for_a_unit() {
    let systemd = boot();
    // What pam_systemd makes for ssh: a scope in the user's slice.
    let _session = systemd.by_hand([
        "systemd-run",
        "--scope",
        "--slice=user-0.slice",
        "--unit=session-7.scope",
        "--",
        "gateway",
        "run",
        "-n",
        "job",
        "--",
        "/run/test/plain",
        "job",
    ]);
    payload(&systemd, "job");
    let holder = holder(&systemd, "job");
    let cgroup = systemd.read(&format!("/proc/{}/cgroup", holder["pid"]));
    assert!(
        cgroup.contains("session-7.scope"),
        "not in a session: {cgroup}"
    );
    assert_eq!(holder["unit"], serde_json::Value::Null, "{holder}");
    let said = words_of_a_takeover(&systemd, "job");
    assert!(!said.contains("session-7.scope"), "{said}");
}
