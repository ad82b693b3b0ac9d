//! NousResearch/hermes-agent#14203: a crash left the pid file behind, each
//! restart tripped over it, and the start limit kept the service down.

use crate::harness::{SOON, Systemd, until};
use crate::scene::{
    assert_never_two_payloads, boot, new_payload, payload, pid_file, take_over, unit,
};

#[test]
fn four_crashes_within_the_start_limit_are_four_restarts() {
    let systemd = boot();
    let text = unit(
        "--replace -n hermes -- /run/test/plain hermes",
        "StateDirectory=gateway/hermes\n",
    )
    .replace(
        "StartLimitIntervalSec=0",
        "StartLimitIntervalSec=600\nStartLimitBurst=5",
    );
    systemd.units([("hermes.service", &text)]);
    systemd.ok(["systemctl", "start", "hermes"]);
    let mut last = payload(&systemd, "hermes");
    for crash in 1..=4 {
        systemd.ok([
            "systemctl",
            "kill",
            "-s",
            "KILL",
            "--kill-who=main",
            "hermes",
        ]);
        last = new_payload(&systemd, "hermes", &last);
        systemd.wait_for("hermes", "ActiveState", "active");
        assert_eq!(systemd.property("hermes", "NRestarts"), crash.to_string());
    }
    let journal = systemd.ok(["journalctl", "--no-pager", "-q"]);
    assert!(!journal.contains("start-limit-hit"), "{journal}");

    // By hand it is taken over: the unit ends clean and stays down.
    let mut by_hand = take_over(&systemd, "hermes");
    let last = new_payload(&systemd, "hermes", &last);
    systemd.wait_for("hermes", "SubState", "dead");
    assert_eq!(systemd.property("hermes", "Result"), "success");

    // Starting it takes back. It is the sixth start of the ten minutes, which
    // is one too many for the unit's own limit.
    systemd.ok(["systemctl", "reset-failed", "hermes"]);
    systemd.ok(["systemctl", "start", "hermes"]);
    new_payload(&systemd, "hermes", &last);
    by_hand.wait();
    assert_never_two_payloads(&systemd, "hermes");
}

/// What dies.
const KILLS: [&str; 3] = ["main", "payload", "all"];

/// What has become of the pid file by the next start.
const SPOILS: [&str; 6] = ["left", "emptied", "junk", "stranger", "forged", "removed"];

/// Run between the death and the restart.
const SPOIL: &str = r#"#!/bin/sh
# spoil HOW FILE STRANGER
file=$2
case $1 in
    left) ;;
    emptied) : >$file ;;
    junk) head -c 3000 /dev/urandom >$file ;;
    stranger) echo $3 >$file ;;
    forged)
        # All that a record says of a process is true of the stranger.
        start=$(sed 's/.*) //' /proc/$3/stat | cut -d' ' -f20)
        text=$(sed "1s/.*/$3/; 2s/\"pid\":[0-9]*/\"pid\":$3/; 2s/\"start_time\":[0-9]*/\"start_time\":$start/" $file)
        echo "$text" >$file ;;
    removed) rm $file ;;
esac
"#;

/// Kills each unit once, and sees all of them up again.
fn each_crash_is_one_restart(start: &str) {
    let systemd = boot();
    systemd.script("/run/test/spoil", SPOIL);
    systemd.units([(
        "stranger.service",
        "[Service]\nType=exec\nExecStart=/bin/sleep infinity\n",
    )]);
    systemd.ok(["systemctl", "start", "stranger"]);
    let stranger = systemd.property("stranger", "MainPID");
    let names: Vec<(String, &str)> = KILLS
        .iter()
        .flat_map(|kill| SPOILS.map(|spoil| (format!("{kill}-{spoil}"), *kill)))
        .collect();
    for (name, _) in &names {
        let spoil = name.rsplit_once('-').expect("two words").1;
        let more = format!(
            "StateDirectory=gateway/{name}\n\
             ExecStopPost=/run/test/spoil {spoil} {} {stranger}\n",
            pid_file(name)
        );
        let arguments = format!("{start} -n {name} -- /run/test/plain {name}");
        systemd.unit(&format!("{name}.service"), &unit(&arguments, &more));
    }
    systemd.ok(["systemctl", "daemon-reload"]);
    systemd.ok([
        "sh",
        "-c",
        "cd /run/systemd/system && systemctl start main-* payload-* all-*",
    ]);
    let old: Vec<String> = names
        .iter()
        .map(|(name, _)| payload(&systemd, name))
        .collect();
    for ((name, kill), payload) in names.iter().zip(&old) {
        crash(&systemd, name, kill, payload);
    }
    for ((name, _), old) in names.iter().zip(&old) {
        assert_is_back(&systemd, name, old);
    }
    assert!(systemd.lives(&stranger), "the stranger was ended");
    assert_eq!(systemd.property("stranger", "MainPID"), stranger);
    systemd.ok([
        "sh",
        "-c",
        "cd /run/systemd/system && systemctl stop main-* payload-* all-*",
    ]);
}

fn crash(systemd: &Systemd, name: &str, kill: &str, payload: &str) {
    match kill {
        "payload" => systemd.ok(["kill", "-KILL", payload]),
        who => systemd.ok([
            "systemctl",
            "kill",
            "-s",
            "KILL",
            &format!("--kill-who={who}"),
            name,
        ]),
    };
}

fn assert_is_back(systemd: &Systemd, name: &str, old: &str) {
    new_payload(systemd, name, old);
    systemd.wait_for(name, "ActiveState", "active");
    let now = systemd.properties(name);
    assert_eq!(now["NRestarts"], "1", "{name}: {}", systemd.journal(name));
    assert_never_two_payloads(systemd, name);
    until(
        &format!("the record of {name} names its gateway"),
        SOON,
        || {
            let first = systemd
                .read(&pid_file(name))
                .lines()
                .next()
                .map(str::to_owned);
            (first.as_deref() == Some(&now["MainPID"])).then_some(())
        },
    );
}

#[test]
fn a_crashed_unit_comes_back_whatever_died_and_whatever_the_file_says() {
    each_crash_is_one_restart("");
}

#[test]
fn a_crashed_replacing_unit_comes_back_whatever_died_and_whatever_the_file_says() {
    each_crash_is_one_restart("--replace");
}
