//! What COMMAND gets from the service manager through us, and what it leaves behind.

use crate::harness::{SOON, Systemd, until};
use crate::scene::{
    assert_never_two_payloads, assert_runs_undisturbed, boot, new_payload, payload, unit,
};

/// One variable of a living process.
fn variable(systemd: &Systemd, pid: &str, name: &str) -> Option<String> {
    let environment = systemd.read(&format!("/proc/{pid}/environ"));
    let start = format!("{name}=");
    environment
        .split('\0')
        .find_map(|entry| entry.strip_prefix(&start).map(str::to_owned))
}

#[test]
fn the_notification_socket_is_only_for_a_payload_that_is_to_use_it() {
    let systemd = boot();
    let more = "NotifyAccess=all\nWatchdogSec=30s\n";
    systemd.units([
        (
            "hidden.service",
            &unit("-n hidden -- /run/test/plain hidden", more),
        ),
        (
            "shown.service",
            &unit("--notify payload -n shown -- /run/test/plain shown", more),
        ),
    ]);
    systemd.ok(["systemctl", "start", "--no-block", "hidden", "shown"]);
    let hidden = payload(&systemd, "hidden");
    assert_eq!(variable(&systemd, &hidden, "NOTIFY_SOCKET"), None);
    let shown = payload(&systemd, "shown");
    assert!(variable(&systemd, &shown, "NOTIFY_SOCKET").is_some());
    // sd_watchdog_enabled(3) counts only where the pid is the asker's, or is not given.
    let watched = variable(&systemd, &shown, "WATCHDOG_PID");
    assert!(
        watched.is_none() || watched == Some(shown),
        "WATCHDOG_PID={watched:?}"
    );
}

/// Gets ready, and only from its second start on gives signs of life.
const SLEEPS_ONCE: &str = r#"#!/bin/sh
exec 9>>/run/test/$1.alone
flock -n 9 || { echo $$ >>/run/test/$1.overlap; exit 99; }
echo $$ >/run/test/$1.pid
systemd-notify --ready
[ -e /run/test/$1.once ] || { : >/run/test/$1.once; exec sleep infinity; }
while :; do systemd-notify WATCHDOG=1; echo alive >>/run/test/$1.signs; sleep 0.5; done
"#;

#[test]
fn a_payload_that_speaks_for_itself_is_what_the_watchdog_watches() {
    let systemd = boot();
    systemd.script("/run/test/sleeps-once", SLEEPS_ONCE);
    let more = "NotifyAccess=all\nWatchdogSec=3s\n";
    let text = unit("--notify payload -n dog -- /run/test/sleeps-once dog", more);
    systemd.units([("dog.service", &text)]);
    systemd.ok(["systemctl", "start", "dog"]);
    let first = payload(&systemd, "dog");
    new_payload(&systemd, "dog", &first);
    until(
        "signs of life for longer than the watchdog waits",
        SOON,
        || (systemd.read("/run/test/dog.signs").lines().count() >= 8).then_some(()),
    );
    assert_eq!(systemd.property("dog", "NRestarts"), "1");
    assert_never_two_payloads(&systemd, "dog");
}

#[test]
fn a_socket_reaches_a_command_that_we_become() {
    let systemd = boot();
    systemd.script(
        "/run/test/listener",
        "#!/bin/sh\necho $LISTEN_PID $$ $(readlink /proc/self/fd/3) >/run/test/listening\n\
         exec /run/test/plain web\n",
    );
    let text = unit("--exec -n web -- /run/test/listener", "");
    systemd.units([
        ("web.socket", "[Socket]\nListenStream=/run/test/web.sock\n"),
        ("web.service", &text),
    ]);
    systemd.ok(["systemctl", "start", "web.socket", "web.service"]);
    let first = payload(&systemd, "web");
    let words = systemd.read("/run/test/listening");
    let words: Vec<&str> = words.split_whitespace().collect();
    assert_eq!((words[0], words[1]), (first.as_str(), first.as_str()));
    assert!(words[2].starts_with("socket:"), "{words:?}");

    // The lock lasts as long as the command, and the next start needs nothing removed.
    let refused = systemd.run(["gateway", "run", "-n", "web", "--", "true"]);
    assert_eq!(refused.status.code(), Some(80), "{refused:?}");
    systemd.ok(["kill", "-KILL", &first]);
    new_payload(&systemd, "web", &first);
    systemd.wait_for("web.service", "ActiveState", "active");
    assert_never_two_payloads(&systemd, "web");
}

#[test]
fn what_systemd_spares_after_a_crash_is_ended_before_the_next_payload() {
    let systemd = boot();
    let text =
        unit("-n web -- /run/test/forks web", "").replace("KillMode=mixed", "KillMode=process");
    systemd.units([("web.service", &text)]);
    systemd.ok(["systemctl", "start", "web"]);
    let first = payload(&systemd, "web");
    let child = until("the payload's child", SOON, || {
        let pid = systemd.read("/run/test/web.child").trim().to_owned();
        (!pid.is_empty()).then_some(pid)
    });
    systemd.ok(["systemctl", "kill", "-s", "KILL", "--kill-who=main", "web"]);
    new_payload(&systemd, "web", &first);
    assert!(
        !systemd.lives(&child),
        "the crashed run's child lives beside the next payload"
    );
    systemd.journal_line("web", "ended what a crashed run had left");
    assert_never_two_payloads(&systemd, "web");
}

#[test]
fn another_service_that_only_inherited_the_run_id_is_left_alone() {
    let systemd = boot();
    systemd.units([
        ("web.service", &unit("-n web -- /run/test/plain web", "")),
        (
            "other.service",
            "[Service]\nType=exec\nExecStart=/bin/sleep infinity\n",
        ),
    ]);
    systemd.ok(["systemctl", "start", "web"]);
    let first = payload(&systemd, "web");
    // As a payload may do that hands its environment to the service manager.
    for name in ["GATEWAY_RUN_ID", "GATEWAY_PID_FILE", "GATEWAY_PID"] {
        // What becomes another program has none for a moment.
        let value = until(name, SOON, || variable(&systemd, &first, name));
        systemd.ok(["systemctl", "set-environment", &format!("{name}={value}")]);
    }
    systemd.ok(["systemctl", "start", "other"]);
    let other = systemd.property("other", "MainPID");
    let run_id = |pid: &str| {
        until("a run id", SOON, || {
            variable(&systemd, pid, "GATEWAY_RUN_ID")
        })
    };
    assert_eq!(run_id(&other), run_id(&first));

    systemd.ok(["systemctl", "kill", "-s", "KILL", "--kill-who=main", "web"]);
    new_payload(&systemd, "web", &first);
    assert_eq!(systemd.property("other", "MainPID"), other);
    assert_runs_undisturbed(&systemd, "other");
}
