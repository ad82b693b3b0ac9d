//! Where the pid file lies: the same words mean the same file for a shell, a unit and cron.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::{End, MountSpace, NOBODY, SOON, Scene, as_nobody, until, wait_until};

/// The path that `status --json` speaks of.
fn path_of(scene: &Scene, mut command: Command) -> PathBuf {
    command.args(["status", "--json"]);
    let output = scene.finish_command(command);
    let json: serde_json::Value =
        serde_json::from_str(&output.stdout).unwrap_or_else(|cause| panic!("{cause}: {output:#?}"));
    PathBuf::from(json["pid_file"].as_str().expect("a path"))
}

#[test]
fn an_option_wins_over_the_environment() {
    let scene = Scene::new();
    let mut by_path = scene.bare(["-f", "here.pid"]);
    by_path.env("GATEWAY_PID_FILE", "/elsewhere/gateway.pid");
    assert_eq!(path_of(&scene, by_path), scene.path("here.pid"));
    let mut by_name = scene.bare(["-n", "web"]);
    by_name.env("GATEWAY_PID_FILE", "/elsewhere/gateway.pid");
    assert_eq!(
        path_of(&scene, by_name),
        scene.path("state/web/gateway.pid")
    );
    let mut by_variable = scene.bare([""; 0]);
    by_variable.env("GATEWAY_PID_FILE", "/elsewhere/gateway.pid");
    assert_eq!(
        path_of(&scene, by_variable),
        Path::new("/elsewhere/gateway.pid")
    );
    assert_eq!(
        path_of(&scene, scene.bare([""; 0])),
        scene.path("state/gateway.pid")
    );
}

#[test]
fn options_stand_before_or_behind_the_command() {
    let scene = Scene::new();
    let _holder = scene.hold();
    for words in [
        &["-f", "gateway.pid", "status"][..],
        &["status", "-f", "gateway.pid"],
        &["status", "--pid-file", "gateway.pid"],
        &["status", "--pid-file=gateway.pid"],
        &["--pidfile", "gateway.pid", "status"],
        &["status", "--pidfile=gateway.pid"],
    ] {
        scene.finish_command(scene.bare(words)).assert_code(0);
    }
}

#[test]
fn a_path_and_a_name_together_are_wrong_usage() {
    let scene = Scene::new();
    let output = scene.finish_command(scene.bare(["-f", "a", "-n", "b", "status"]));
    output
        .assert_code(2)
        .assert_says("--pid-file")
        .assert_says("--name");
}

#[test]
fn xdg_variables_are_not_read() {
    let scene = Scene::new();
    let mut command = scene.bare(["-n", "web"]);
    for variable in [
        "XDG_STATE_HOME",
        "XDG_RUNTIME_DIR",
        "XDG_DATA_HOME",
        "XDG_CONFIG_HOME",
    ] {
        command.env(variable, scene.path("xdg"));
    }
    assert_eq!(
        path_of(&scene, command),
        scene.path("state/web/gateway.pid")
    );
}

#[test]
fn variables_must_be_absolute() {
    let scene = Scene::new();
    for variable in ["GATEWAY_PID_FILE", "GATEWAY_STATE_DIR"] {
        let mut command = scene.bare(["run", "--", "touch", "ran"]);
        command.env(variable, "relative/gateway.pid");
        let output = scene.finish_command(command);
        output
            .assert_code(83)
            .assert_one_line()
            .assert_says(variable)
            .assert_says("absolute");
        assert!(!scene.path("ran").exists() && !scene.path("relative").exists());
    }
}

#[test]
fn messages_name_the_absolute_path() {
    let scene = Scene::new();
    fs::create_dir(scene.path("sub")).unwrap();
    let _holder = scene.hold();
    let mut command = scene.bare(["-f", "../gateway.pid", "run", "--", "true"]);
    command.current_dir(scene.path("sub"));
    let output = scene.finish_command(command);
    // From the root on, and otherwise as it was typed.
    output.assert_code(80);
    output.assert_says(&format!(
        ", {}/../gateway.pid;",
        scene.path("sub").display()
    ));
}

/// A link in a folder's place is followed; the file is one and the same.
#[test]
fn one_file_by_two_paths_is_one_lock() {
    let scene = Scene::new();
    std::os::unix::fs::symlink(scene.path(""), scene.path("link")).unwrap();
    let holder = scene.hold();
    let mut command = scene.bare(["-f", "link/gateway.pid", "run", "--replace", "--", "true"]);
    assert_eq!(
        path_of(&scene, scene.bare(["-f", "link/gateway.pid"])),
        scene.pid_file()
    );
    command.current_dir(scene.path(""));
    scene.finish_command(command).assert_code(0);
    let mut holder = holder;
    assert!(matches!(holder.end(), End::Signal(15)));
}

// ---------------------------------------------------------------- places

/// Root's default, in a mount namespace whose `/var/lib` is its own.
#[test]
fn roots_place_is_var_lib_gateway() {
    let scene = Scene::new();
    let space = MountSpace::new(&scene, "mount -t tmpfs tmpfs /var/lib");
    let mut plain = scene.bare(["run", "-n", "web", "--", "true"]);
    plain.env_remove("GATEWAY_STATE_DIR");
    let mut command = space.command(&plain);
    command.env_remove("GATEWAY_STATE_DIR");
    scene.finish_command(command).assert_code(0);
    let mode = |path: &str| fs::metadata(space.inside(Path::new(path))).unwrap().mode() & 0o7777;
    assert_eq!(mode("/var/lib/gateway"), 0o755);
    assert_eq!(mode("/var/lib/gateway/web"), 0o755);
    assert_eq!(mode("/var/lib/gateway/web/gateway.pid"), 0o600);
    let mut command = space.command(&scene.bare([""; 0]));
    command.env_remove("GATEWAY_STATE_DIR");
    assert_eq!(
        path_of(&scene, command),
        Path::new("/var/lib/gateway/gateway.pid")
    );
}

/// A service user's shell and its unit mean one file: the folder that the unit made is that user's.
#[test]
fn a_service_users_place_is_the_units() {
    let scene = Scene::for_everybody();
    let space = MountSpace::new(
        &scene,
        "mount -t tmpfs tmpfs /var/lib\nmkdir -p /var/lib/gateway/web /var/lib/gateway/other\nchown 65534 /var/lib/gateway/web",
    );
    let ask = |name: &str| {
        let mut command = space.command(&as_nobody(&scene, &scene.bare(["-n", name])));
        command.env_remove("GATEWAY_STATE_DIR");
        path_of(&scene, command)
    };
    assert_eq!(ask("web"), Path::new("/var/lib/gateway/web/gateway.pid"));
    let home = fs::read_to_string("/etc/passwd").unwrap();
    let home = home
        .lines()
        .find(|line| line.starts_with("nobody:"))
        .expect("a line for nobody");
    let home = Path::new(home.split(':').nth(5).unwrap()).join(".local/state/gateway");
    assert_eq!(ask("other"), home.join("other/gateway.pid"));
}

/// Cron, units, sudo and shells agree: the home of the password file wins over `$HOME`.
#[test]
fn a_user_without_a_home_is_told_what_to_type() {
    let scene = Scene::for_everybody();
    let nowhere = 54321;
    let ask = |home: &Path| {
        let mut command = scene.command("setpriv");
        command.args(["--reuid", "54321", "--regid", "54321", "--clear-groups"]);
        command.arg(scene.program()).args(["run", "--", "true"]);
        command.env_remove("GATEWAY_STATE_DIR").env("HOME", home);
        scene.finish_command(command)
    };
    // Somebody else's home.
    let output = ask(&scene.path(""));
    output
        .assert_code(83)
        .assert_one_line()
        .assert_says("-f PATH")
        .assert_says("54321");
    let output = ask(Path::new("relative"));
    output.assert_code(83);
    let own = scene.path("own");
    fs::create_dir(&own).unwrap();
    chown(&own, Some(nowhere), Some(nowhere)).unwrap();
    ask(&own).assert_code(0);
    let file = own.join(".local/state/gateway/gateway.pid");
    assert_eq!(fs::metadata(&file).unwrap().mode() & 0o7777, 0o600);
    for folder in [".local/state/gateway", ".local/state", ".local"] {
        assert_eq!(
            fs::metadata(own.join(folder)).unwrap().mode() & 0o7777,
            0o700,
            "{folder}"
        );
    }
}

#[test]
fn nothing_found_at_a_path_that_nobody_named_points_to_the_others() {
    let scene = Scene::new();
    let holder = scene.spawn(scene.bare(["-n", "web", "run", "--", "sleep", "infinity"]));
    wait_until("it holds", SOON, || {
        let status = scene.finish_command(scene.bare(["-n", "web", "status"]));
        status.stdout.starts_with("held")
    });
    let status = scene.finish_command(scene.bare(["status"]));
    status.assert_code(3);
    assert!(
        status.stdout.contains("gateway -n web status"),
        "{status:?}"
    );
    let stop = scene.finish_command(scene.bare(["stop"]));
    stop.assert_code(0).assert_says("gateway -n web");
    let named = scene.finish_command(scene.bare(["-n", "other", "status"]));
    assert!(!named.stdout.contains("-n web"), "{named:?}");
    drop(holder);
}

// ---------------------------------------------------------------- names

#[test]
fn names_that_cannot_be_folders_are_refused() {
    let scene = Scene::new();
    let long = "x".repeat(256);
    for name in [
        "", ".", "..", ".hidden", "a/b", "/abs", "a b", "ä", "a\n", "a*", &long,
    ] {
        let output = scene.finish_command(scene.bare(["-n", name, "run", "--", "touch", "ran"]));
        output.assert_code(2).assert_says(match name.len() {
            0 => "it is empty",
            256 => "it is too long (at most 255)",
            _ => "letters, digits, and . _ - @ : are allowed",
        });
        assert!(!scene.path("ran").exists());
    }
    for name in ["a", "A-1_b.c@d:e", "x@y"] {
        scene
            .finish_command(scene.bare(["-n", name, "run", "--", "true"]))
            .assert_code(0);
        assert!(scene.path(format!("state/{name}/gateway.pid")).exists());
    }
}

// ---------------------------------------------------------------- not UTF-8

#[test]
fn paths_and_arguments_need_not_be_utf_8() {
    let scene = Scene::new();
    let name = OsString::from_vec(b"caf\xe9 \"x\".pid".to_vec());
    let path = scene.path(&name);
    let odd = OsStr::from_bytes(b"\xff\xfe");
    let mut command = scene.bare(["-f"]);
    command
        .arg(&path)
        .args([
            "run",
            "--",
            "sh",
            "-c",
            "printf %s \"$1\" >argument; sleep infinity",
            "sh",
        ])
        .arg(odd);
    let holder = scene.spawn(command);
    wait_until("the command has its argument", SOON, || {
        fs::read(scene.path("argument")).is_ok_and(|bytes| bytes == b"\xff\xfe")
    });
    let json = until("the payload is recorded", SOON, || {
        let mut status = scene.bare(["-f"]);
        status.arg(&path).args(["status", "--json"]);
        let output = scene.finish_command(status);
        let json: serde_json::Value = serde_json::from_str(&output.stdout).ok()?;
        json.pointer("/holder/payload/pid")
            .is_some()
            .then_some(json)
    });
    let bytes = |value: &serde_json::Value| -> Vec<u8> {
        let list = value
            .as_array()
            .unwrap_or_else(|| panic!("an array of bytes: {value}"));
        list.iter()
            .map(|byte| u8::try_from(byte.as_u64().unwrap()).unwrap())
            .collect()
    };
    assert_eq!(bytes(&json["pid_file"]), path.as_os_str().as_bytes());
    let argv = json["holder"]["payload"]["argv"].as_array().unwrap();
    assert_eq!(bytes(argv.last().unwrap()), b"\xff\xfe");
    for words in [&["status"][..], &["run", "--", "true"], &["stop"]] {
        let mut command = scene.bare(["-f"]);
        command.arg(&path).args(words);
        let output = scene.finish_command(command);
        let said = output.stdout + &output.stderr;
        assert!(said.contains("caf"), "{said}");
    }
    let mut holder = holder;
    assert_eq!(holder.end(), End::Signal(15));
}

/// `kill $(cat gateway.pid)` must not hit a number inside an argument.
#[test]
fn the_record_has_no_white_space_within_its_lines() {
    let scene = Scene::new();
    let script = "sleep infinity # 1 2 3\t4\n5";
    let _holder = scene.start([
        "run",
        "--",
        "sh",
        "-c",
        script,
        "a b",
        "\u{a0}",
        "\u{2003}x",
    ]);
    let record = scene.wait_for_record("a record", |record| record.has_payload());
    let text = String::from_utf8(scene.bytes()).unwrap();
    let lines: Vec<&str> = text.split('\n').collect();
    assert_eq!(lines.len(), 3);
    assert_eq!(lines[2], "");
    assert!(
        !lines[1].bytes().any(|byte| byte.is_ascii_whitespace()),
        "{text}"
    );
    let words: Vec<&str> = text.split_ascii_whitespace().collect();
    assert_eq!(words.len(), 2);
    assert_eq!(record.json["payload"]["argv"][2], script);
}

#[test]
fn a_very_long_command_line_fits_into_the_record() {
    let scene = Scene::new();
    let long = "\u{1}".repeat(120_000);
    let output = scene.finish([
        "run",
        "--",
        "sh",
        "-c",
        "wc -c <\"$GATEWAY_PID_FILE\"",
        "sh",
        &long,
    ]);
    output.assert_code(0);
    let size: u64 = output.stdout.trim().parse().unwrap();
    assert!(size < 64 * 1024, "{size}");
    assert_eq!(scene.state(), "free");
}

#[test]
fn ownership_of_what_is_made_is_the_callers() {
    let scene = Scene::for_everybody();
    fs::create_dir(scene.path("open")).unwrap();
    crate::harness::set_mode(&scene.path("open"), 0o777);
    let command = scene.bare(["-f", "open/a/b/gateway.pid", "run", "--", "true"]);
    scene
        .finish_command(as_nobody(&scene, &command))
        .assert_code(0);
    let file = fs::metadata(scene.path("open/a/b/gateway.pid")).unwrap();
    assert_eq!((file.uid(), file.mode() & 0o7777), (NOBODY, 0o600));
}
