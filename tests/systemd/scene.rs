//! What the tests share: payloads, and units around them.

use std::collections::HashMap;

use crate::harness::{ByHand, SOON, Systemd, until};

/// Holds a lock of its own for life, in a file that the kernel lets go of when
/// the payload is gone. Finds out so if another payload of that name lives.
const PAYLOAD: &str = r#"#!/bin/sh
exec 9>>/run/test/$1.alone
flock -n 9 || { echo $$ >>/run/test/$1.overlap; exit 99; }
echo $$ >/run/test/$1.new && mv /run/test/$1.new /run/test/$1.pid
"#;

/// Ends with TERM, as most programs do.
const PLAIN: &str = "exec sleep infinity\n";

/// Takes $2 seconds to end, then ends well.
const DRAIN: &str = r#"trap 'kill $!; sleep $2; echo done >>/run/test/$1.drained; exit 0' TERM
sleep infinity & wait
"#;

/// Does not end when asked.
const DEAF: &str = "trap '' TERM\nexec sleep infinity\n";

/// Leaves its session and its parent in the lurch, twice over.
const FORKS: &str = r#"(setsid sh -c 'sleep infinity & echo $! >/run/test/'$1'.child; wait' &)
exec sleep infinity
"#;

/// Is ready only at its second start.
const HANGS_ONCE: &str = r#"[ -e /run/test/$1.once ] || { : >/run/test/$1.once; exec sleep infinity; }
systemd-notify --ready
exec sleep infinity
"#;

/// Boots a systemd that has all payloads in `/run/test`.
pub fn boot() -> Systemd {
    let systemd = Systemd::boot();
    let kinds = [
        ("plain", PLAIN),
        ("drain", DRAIN),
        ("deaf", DEAF),
        ("forks", FORKS),
        ("hangs-once", HANGS_ONCE),
    ];
    for (kind, rest) in kinds {
        systemd.script(&format!("/run/test/{kind}"), &format!("{PAYLOAD}{rest}"));
    }
    systemd
}

/// A unit as we ship it, but quicker to restart. `more` goes to `[Service]`.
pub fn unit(arguments: &str, more: &str) -> String {
    format!(
        "[Unit]\nStartLimitIntervalSec=0\n\
         [Service]\nType=notify\nExecStart=/usr/bin/gateway run {arguments}\n\
         Restart=on-failure\nRestartSec=100ms\nRestartPreventExitStatus=80 84\n\
         KillMode=mixed\n{more}"
    )
}

/// Starts `gateway run` with these options as somebody at a shell would.
pub fn run_by_hand(systemd: &Systemd, options: &[&str], name: &str, command: &[&str]) -> ByHand {
    let run = ["gateway", "run"]
        .into_iter()
        .chain(options.iter().copied());
    let what = ["-n", name, "--"]
        .into_iter()
        .chain(command.iter().copied());
    systemd.by_hand(run.chain(what))
}

/// Takes the lock of this name over by hand, with a payload that ends of TERM.
pub fn take_over(systemd: &Systemd, name: &str) -> ByHand {
    run_by_hand(systemd, &["--replace"], name, &["/run/test/plain", name])
}

/// Where a gateway of this name keeps its pid file.
pub fn pid_file(name: &str) -> String {
    format!("/var/lib/gateway/{name}/gateway.pid")
}

/// The payload of this name that came last, if it lives.
pub fn living_payload(systemd: &Systemd, name: &str) -> Option<String> {
    let pid = systemd
        .read(&format!("/run/test/{name}.pid"))
        .trim()
        .to_owned();
    (!pid.is_empty() && systemd.lives(&pid)).then_some(pid)
}

/// Waits for a payload other than `old`.
pub fn new_payload(systemd: &Systemd, name: &str, old: &str) -> String {
    until(&format!("a new payload of {name}"), SOON, || {
        living_payload(systemd, name).filter(|pid| pid != old)
    })
}

pub fn payload(systemd: &Systemd, name: &str) -> String {
    new_payload(systemd, name, "")
}

#[track_caller]
pub fn assert_never_two_payloads(systemd: &Systemd, name: &str) {
    assert_eq!(
        systemd.read(&format!("/run/test/{name}.overlap")),
        "",
        "payloads that met another"
    );
}

/// The unit ended as asked, is not to be started again, and left nobody.
#[track_caller]
pub fn assert_ended_well(systemd: &Systemd, unit: &str) {
    systemd.wait_for(unit, "SubState", "dead");
    let now = systemd.properties(unit);
    assert_eq!(now["ActiveState"], "inactive");
    assert_eq!(now["Result"], "success");
    assert_eq!(now["NRestarts"], "0");
    assert_eq!(systemd.members(unit), "", "left in the cgroup of {unit}");
}

/// What keeps a unit of ours from each known outage, whatever else it says.
#[track_caller]
pub fn assert_is_set_up_well(unit: &str, now: &HashMap<String, String>) {
    // The signal goes to the gateway alone.
    assert_eq!(now["KillMode"], "mixed", "{unit}");
    // A refusal or a lost claim is not repeated for ever.
    let never_again: Vec<&str> = now["RestartPreventExitStatus"].split(' ').collect();
    for code in ["80", "84"] {
        assert!(never_again.contains(&code), "{unit}: {never_again:?}");
    }
    // The founding outage was a start limit.
    assert_eq!(now["StartLimitIntervalUSec"], "0", "{unit}");
    // The manager deletes the file that is named here.
    assert_eq!(now.get("PIDFile").map_or("", String::as_str), "", "{unit}");
}

/// The unit was never started again by the service manager.
#[track_caller]
pub fn assert_runs_undisturbed(systemd: &Systemd, unit: &str) {
    let now = systemd.properties(unit);
    assert_eq!(
        (now["ActiveState"].as_str(), now["NRestarts"].as_str()),
        ("active", "0")
    );
    assert_eq!(now["Result"], "success");
}
