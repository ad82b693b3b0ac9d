//! A user's own service manager, without root.

use crate::harness::{SOON, Systemd, until};
use crate::scene::{assert_is_set_up_well, boot, new_payload, payload};

/// What logind and PAM would start for a user that is logged in.
const MANAGER: &str = "[Service]
Type=notify
User=alice
Delegate=yes
Slice=user-991.slice
RuntimeDirectory=user
RuntimeDirectoryMode=0700
Environment=XDG_RUNTIME_DIR=/run/user HOME=/home/alice
Environment=SYSTEMD_UNIT_PATH=/home/alice/units SYSTEMD_GENERATOR_PATH=/run/none
ExecStart=/lib/systemd/systemd --user
KillMode=mixed
";

/// Boots with alice's manager.
fn boot_for_alice() -> Systemd {
    let systemd = boot();
    let passwd = systemd.read("/etc/passwd") + "alice:x:991:991::/home/alice:/bin/sh\n";
    systemd.write("/etc/passwd", &passwd);
    let group = systemd.read("/etc/group") + "alice:x:991:\n";
    systemd.write("/etc/group", &group);
    systemd.ok(["chmod", "777", "/run/test"]);
    for target in ["default", "basic", "shutdown", "sysinit"] {
        let text = "[Unit]\nDefaultDependencies=no\n";
        systemd.write(&format!("/home/alice/units/{target}.target"), text);
    }
    let shipped = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/packaging/systemd/user/gateway@.service"
    );
    let unit = std::fs::read_to_string(shipped).expect("a shipped file");
    systemd.write("/home/alice/units/gateway@.service", &unit);
    systemd.script(
        "/home/alice/.config/gateway/demo",
        "#!/bin/sh\nexec /run/test/plain demo\n",
    );
    systemd.ok(["chown", "-R", "alice:alice", "/home/alice"]);
    systemd.units([("user@991.service", MANAGER)]);
    systemd.ok(["systemctl", "start", "user@991"]);
    systemd
}

/// Alice types a line.
fn alice(systemd: &Systemd, line: &str) -> String {
    let line = format!("export HOME=/home/alice XDG_RUNTIME_DIR=/run/user; {line}");
    systemd.ok([
        "setpriv",
        "--reuid=alice",
        "--regid=alice",
        "--clear-groups",
        "sh",
        "-c",
        &line,
    ])
}

#[test]
fn a_users_own_unit_recovers_and_is_recorded_with_its_manager() {
    let systemd = boot_for_alice();
    alice(&systemd, "systemctl --user start gateway@demo");
    let first = payload(&systemd, "demo");
    let status = alice(&systemd, "gateway -n demo status --json");
    let status: serde_json::Value = serde_json::from_str(&status).expect("JSON");
    assert_eq!(status["holder"]["unit"], "gateway@demo.service", "{status}");
    assert_eq!(status["holder"]["manager"], "user", "{status}");
    assert_eq!(
        status["pid_file"], "/home/alice/.local/state/gateway/demo/gateway.pid",
        "{status}"
    );

    let shown = alice(&systemd, "systemctl --user show --all gateway@demo");
    let properties = shown.lines().filter_map(|line| line.split_once('='));
    let properties = properties.map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_is_set_up_well("the user's gateway@demo", &properties.collect());

    alice(
        &systemd,
        "systemctl --user kill -s KILL --kill-who=main gateway@demo",
    );
    new_payload(&systemd, "demo", &first);
    until("the unit is up again", SOON, || {
        alice(
            &systemd,
            "systemctl --user show -P ActiveState gateway@demo",
        )
        .starts_with("active\n")
        .then_some(())
    });
    alice(&systemd, "systemctl --user stop gateway@demo");
    let end = alice(&systemd, "systemctl --user show -P Result gateway@demo");
    assert_eq!(end, "success\n");
}

#[test]
fn a_refusal_tells_how_to_stop_a_users_unit() {
    let systemd = boot_for_alice();
    alice(&systemd, "systemctl --user start gateway@demo");
    payload(&systemd, "demo");
    let said = alice(&systemd, "gateway run -n demo -- true 2>&1; echo $?");
    assert!(
        said.contains("systemctl --user stop gateway@demo.service"),
        "{said}"
    );
    assert!(said.ends_with("\n80\n"), "{said}");
}

/// `systemctl --user` of root's is root's own manager.
#[test]
fn root_is_told_whose_manager_has_the_unit() {
    let systemd = boot_for_alice();
    alice(&systemd, "systemctl --user start gateway@demo");
    payload(&systemd, "demo");
    let file = "/home/alice/.local/state/gateway/demo/gateway.pid";
    let refused = systemd.run(["gateway", "-f", file, "run", "--", "true"]);
    let said = String::from_utf8_lossy(&refused.stderr);
    let expected = "stop it: systemctl --user -M alice@ stop gateway@demo.service\n";
    assert!(said.ends_with(expected), "{said}");
    // In the table its unit is told from the system's of that name.
    for list in [
        alice(&systemd, "gateway list"),
        systemd.ok(["gateway", "list"]),
    ] {
        assert!(list.contains("  gateway@demo.service (user)  "), "{list}");
    }
}
