//! `journalctl -u` tells an outage in a few lines.

use rustix::process::Signal;

use crate::harness::{SOON, Systemd, until};
use crate::scene::{boot, new_payload, payload, run_by_hand, unit};

/// Looks for these texts, one after the other.
fn assert_told_in_order(journal: &str, story: &[String]) {
    let mut rest = journal;
    for part in story {
        let Some(at) = rest.find(part.as_str()) else {
            panic!("{part:?} is missing, or not in its place, in:\n{journal}");
        };
        rest = &rest[at + part.len()..];
    }
}

/// The gateway's own lines: priority and text.
fn gateways_lines(systemd: &Systemd, unit: &str) -> Vec<(String, String)> {
    let text = systemd.ok(["journalctl", "--no-pager", "-q", "-o", "json", "-u", unit]);
    let lines = text.lines().map(serde_json::from_str::<serde_json::Value>);
    let field = |line: &serde_json::Value, name: &str| line[name].as_str().unwrap_or("").to_owned();
    lines
        .map(|line| line.expect("JSON"))
        .filter(|line| line["SYSLOG_IDENTIFIER"] == "gateway")
        .map(|line| (field(&line, "PRIORITY"), field(&line, "MESSAGE")))
        .collect()
}

#[test]
fn the_journal_tells_who_held_who_asked_what_was_ended_and_after_how_long() {
    let systemd = boot();
    let text = unit(
        "--replace -n web -- /run/test/plain web",
        "StateDirectory=gateway/web\n",
    );
    systemd.units([("web.service", &text)]);

    // A run by hand is killed, and leaves a process.
    let mut killed = run_by_hand(&systemd, &[], "web", &["/run/test/forks", "web"]);
    payload(&systemd, "web");
    let orphan = until("the payload's child", SOON, || {
        let pid = systemd.read("/run/test/web.child").trim().to_owned();
        (!pid.is_empty()).then_some(pid)
    });
    let killed_pid = systemd.read("/var/lib/gateway/web/gateway.pid");
    let killed_pid = killed_pid.lines().next().expect("a pid");
    killed.signal(Signal::KILL);
    killed.wait();

    // The unit follows, crashes, and comes back.
    systemd.ok(["systemctl", "start", "web"]);
    let first = payload(&systemd, "web");
    assert!(!systemd.lives(&orphan));
    let crashed_pid = systemd.property("web", "MainPID");
    systemd.ok(["systemctl", "kill", "-s", "KILL", "--kill-who=main", "web"]);
    let second = new_payload(&systemd, "web", &first);

    // By hand, and back, and the end.
    let mut by_hand = run_by_hand(
        &systemd,
        &["--replace"],
        "web",
        &["/run/test/drain", "web", "1"],
    );
    let third = new_payload(&systemd, "web", &second);
    systemd.wait_for("web", "SubState", "dead");
    systemd.ok(["systemctl", "start", "web"]);
    new_payload(&systemd, "web", &third);
    by_hand.wait();
    systemd.ok(["gateway", "-n", "web", "stop"]);
    systemd.wait_for("web", "SubState", "dead");
    systemd.journal_line("web", "gateway -n web stop");

    let story = [
        "ended what a crashed run had left".to_owned(),
        format!("pid {orphan} "),
        format!("pid {killed_pid} (/run/test/forks web), ended without a word"),
        "status=9/KILL".to_owned(),
        format!("pid {crashed_pid} (/run/test/plain web), ended without a word"),
        "being replaced: TERM from pid ".to_owned(),
        "(gateway run --replace -n web -- /run/test/drain web 1)".to_owned(),
        "asked pid ".to_owned(),
        "took over from pid ".to_owned(),
        "(/run/test/drain web 1) after 1".to_owned(),
        "stopping: TERM from pid ".to_owned(),
        "(gateway -n web stop)".to_owned(),
    ];
    assert_told_in_order(&systemd.journal("web"), &story);

    // What a person should look at is a warning; the rest is the diary.
    let lines = gateways_lines(&systemd, "web");
    assert!(lines.len() <= 15, "that is no few lines: {lines:#?}");
    for (priority, text) in lines {
        let expected = if text.contains("a crashed run") || text.contains("asked pid") {
            "4"
        } else {
            "6"
        };
        assert_eq!(priority, expected, "{text}");
        assert!(
            !text.starts_with('<') && !text.starts_with("gateway: "),
            "{text}"
        );
    }
}

#[test]
fn a_refusal_in_the_journal_is_a_warning_and_a_bad_file_an_error() {
    let systemd = boot();
    systemd.units([
        ("held.service", &unit("-n web -- /run/test/plain web", "")),
        (
            "bad.service",
            &unit("-f /run/test -- /run/test/plain bad", "Restart=no\n"),
        ),
    ]);
    let _holder = run_by_hand(&systemd, &[], "web", &["/run/test/plain", "web"]);
    payload(&systemd, "web");
    systemd.run(["systemctl", "start", "held"]);
    systemd.run(["systemctl", "start", "bad"]);
    systemd.journal_line("held", "held by pid");
    systemd.journal_line("bad", "/run/test");
    let priorities = |unit| {
        gateways_lines(&systemd, unit)
            .into_iter()
            .map(|line| line.0)
    };
    assert_eq!(priorities("held").collect::<Vec<_>>(), ["4"]);
    assert_eq!(priorities("bad").collect::<Vec<_>>(), ["3"]);
}
