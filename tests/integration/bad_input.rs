//! Whatever cannot be used gets one sentence, with the path and what to do; nothing is lost by it.

use std::fs;
use std::os::unix::fs::{FileTypeExt, symlink};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::harness::{
    End, Footprint, MountSpace, Output, SOON, Scene, Signal, as_nobody, injected, set_mode,
    wait_until,
};

/// Runs every command that would use the file; each must refuse, quickly, in one line that has
/// the path, and no command may run.
#[track_caller]
fn assert_unusable(scene: &Scene, path: &Path, why: &str) {
    let with = |words: &[&str]| {
        let mut command = scene.bare(["-f"]);
        command.arg(path).args(words);
        scene.finish_command(command)
    };
    for words in [
        &["run", "--", "touch", "ran"][..],
        &["run", "--replace", "--", "touch", "ran"],
        &["run", "--wait", "--", "touch", "ran"],
    ] {
        let output = with(words);
        assert_eq!(output.end, End::Code(83), "{why}: {output:?}");
        assert_sentence(&output, path, why);
    }
    let stop = with(&["stop"]);
    assert_eq!(stop.end, End::Code(83), "{why}: {stop:?}");
    assert_sentence(&stop, path, why);
    let status = with(&["status"]);
    assert_eq!(status.end, End::Code(4), "{why}: {status:?}");
    assert_sentence(&status, path, why);
    assert!(!scene.path("ran").exists(), "{why}");
}

#[track_caller]
fn assert_sentence(output: &Output, path: &Path, why: &str) {
    assert_eq!(output.stderr.lines().count(), 1, "{why}: {output:?}");
    assert!(output.stderr.starts_with("gateway: "), "{why}: {output:?}");
    let name = path
        .file_name()
        .unwrap_or(path.as_os_str())
        .to_str()
        .unwrap();
    assert!(output.stderr.contains(name), "{why}: {output:?}");
    assert!(output.took < Duration::from_secs(1), "{why}: {output:?}");
}

/// wolfSSL/wolfssh#1074: root truncated the link's target; a FIFO blocked the daemon for ever.
#[test]
fn anything_but_a_regular_file_is_refused() {
    let scene = Scene::new();
    fs::write(scene.path("target"), "precious").unwrap();
    symlink(scene.path("target"), scene.path("link")).unwrap();
    symlink(scene.path("nothing"), scene.path("dangling")).unwrap();
    fs::create_dir(scene.path("folder")).unwrap();
    let mut mkfifo = scene.command("mkfifo");
    mkfifo.arg("fifo");
    scene.finish_command(mkfifo).assert_code(0);
    let _socket = std::os::unix::net::UnixListener::bind(scene.path("socket")).unwrap();
    for name in ["link", "dangling", "folder", "fifo", "socket"] {
        assert_unusable(&scene, &scene.path(name), name);
    }
    assert_unusable(&scene, Path::new("/dev/null"), "a device");
    // What is written into such a file is an order to the kernel: it is one that would rename us.
    assert_unusable(&scene, Path::new("/proc/self/comm"), "a setting");
    assert_eq!(
        fs::read_to_string(scene.path("target")).unwrap(),
        "precious"
    );
    assert!(!scene.path("nothing").exists());
    assert!(
        fs::metadata(scene.path("fifo"))
            .unwrap()
            .file_type()
            .is_fifo()
    );
}

/// A mistyped path must not cost a program.
#[test]
fn a_file_that_no_pid_file_looks_like_is_refused() {
    let scene = Scene::new();
    let program = scene.path("program");
    scene.script(&program, "#!/bin/sh\n");
    let large = scene.path("large");
    fs::write(&large, vec![b'x'; 64 * 1024 + 1]).unwrap();
    for path in [&program, &large] {
        let before = Footprint::of(path);
        assert_unusable(&scene, path, "no pid file looks like that");
        assert_eq!(Footprint::of(path), before);
    }
}

/// As after `chmod -R 755` on the place: it is a pid file all the same.
#[test]
fn a_pid_file_that_was_made_executable_is_still_one() {
    let scene = Scene::new();
    let mut holder = scene.hold();
    set_mode(&scene.pid_file(), 0o755);
    assert_eq!(scene.state(), "held");
    scene.finish(["run", "--", "true"]).assert_code(80);
    scene
        .finish(["run", "--replace", "--", "true"])
        .assert_code(0);
    assert_eq!(holder.end(), End::of(Signal::TERM));
    assert_eq!(scene.state(), "free");
    scene
        .finish(["run", "--", "true"])
        .assert_code(0)
        .assert_silent();
}

#[test]
fn a_pid_file_that_was_made_executable_is_listed() {
    let scene = Scene::new();
    let start = scene.bare(["run", "-n", "web", "--", "true"]);
    scene.finish_command(start).assert_code(0);
    set_mode(&scene.path("state/web/gateway.pid"), 0o755);
    let list = scene.finish_command(scene.bare(["list"]));
    assert!(list.stdout.contains("\nweb "), "{list:?}");
}

/// The holder cannot put it back as long as it stands still.
#[test]
fn the_holder_of_a_removed_file_that_was_made_executable_is_found() {
    let scene = Scene::new();
    let mut holder = scene.hold();
    set_mode(&scene.pid_file(), 0o755);
    holder.signal(Signal::STOP);
    fs::remove_file(scene.pid_file()).unwrap();
    scene.finish(["run", "--", "touch", "ran"]).assert_code(80);
    holder.signal(Signal::CONT);
    wait_until("it is back", SOON, || scene.state() == "held");
    assert!(holder.is_running());
}

#[test]
fn paths_that_lead_nowhere_are_refused() {
    let scene = Scene::new();
    fs::write(scene.path("file"), "").unwrap();
    // Nothing can be held there, and nothing can be started.
    let mut command = scene.bare(["-f", "file/gateway.pid"]);
    command.args(["run", "--", "true"]);
    let output = scene.finish_command(command);
    output.assert_code(83);
    assert_sentence(
        &output,
        &scene.path("file/gateway.pid"),
        "a file for a folder",
    );
    assert_unusable(&scene, &scene.path("x".repeat(300)), "a name too long");
    let deep = scene.path(format!("{}gateway.pid", "d/".repeat(2100)));
    let mut command = scene.bare(["-f"]);
    command.arg(deep).args(["run", "--", "true"]);
    let output = scene.finish_command(command);
    output.assert_code(83).assert_one_line();
    let empty = scene.bare(["-f", "", "run", "--", "true"]);
    scene
        .finish_command(empty)
        .assert_code(2)
        .assert_says("--pid-file");
    let folder = scene.bare(["-f", "folder/", "run", "--", "true"]);
    let output = scene.finish_command(folder);
    output
        .assert_code(83)
        .assert_one_line()
        .assert_says("did you mean");
}

#[test]
fn missing_folders_are_made() {
    let scene = Scene::new();
    let command = scene.bare(["-f", "a/b/c/gateway.pid", "run", "--", "true"]);
    scene.finish_command(command).assert_code(0);
    assert!(scene.path("a/b/c/gateway.pid").exists());
}

/// NousResearch/hermes-agent#42685: one run as root locked every later user out, without a word.
#[test]
fn a_file_of_another_user_is_named_with_its_owner() {
    let scene = Scene::for_everybody();
    scene.finish(["run", "--", "true"]).assert_code(0);
    let before = scene.footprint();
    for words in [
        &["run", "--", "true"][..],
        &["run", "--replace", "--", "true"],
        &["stop"],
    ] {
        let output = scene.finish_command(as_nobody(&scene, &scene.gateway(words)));
        output.assert_code(83).assert_one_line();
        output.assert_says(scene.pid_file().to_str().unwrap());
        output.assert_says("root").assert_says("0600");
    }
    assert_eq!(scene.footprint(), before);
}

#[test]
fn a_folder_that_cannot_be_written_is_named() {
    let scene = Scene::for_everybody();
    let command = scene.bare(["-f", "new/gateway.pid", "run", "--", "true"]);
    let output = scene.finish_command(as_nobody(&scene, &command));
    output
        .assert_code(83)
        .assert_one_line()
        .assert_says("ermission denied");
    output.assert_says(scene.path("new").to_str().unwrap());
    assert!(!scene.path("new").exists());
}

/// thin-edge/thin-edge.io#1740: O_CREAT on somebody's file in a sticky folder fails even for root.
#[test]
fn a_foreign_file_in_a_sticky_folder_can_be_locked_by_root() {
    let scene = Scene::for_everybody();
    fs::create_dir(scene.path("sticky")).unwrap();
    set_mode(&scene.path("sticky"), 0o1777);
    let run = || scene.bare(["-f", "sticky/gateway.pid", "run", "--", "true"]);
    scene
        .finish_command(as_nobody(&scene, &run()))
        .assert_code(0);
    scene.finish_command(run()).assert_code(0);
}

#[test]
fn a_read_only_file_system_is_named() {
    let scene = Scene::new();
    fs::create_dir(scene.path("ro")).unwrap();
    fs::write(scene.path("ro/gateway.pid"), "").unwrap();
    let mount = format!(
        "mount --bind '{0}' '{0}'\nmount -o remount,ro,bind '{0}'",
        scene.path("ro").display()
    );
    let space = MountSpace::new(&scene, &mount);
    for file in ["ro/gateway.pid", "ro/new.pid"] {
        let output =
            scene.finish_command(space.gateway(&scene.path(file), ["run", "--", "touch", "ran"]));
        output
            .assert_code(83)
            .assert_one_line()
            .assert_says("ead-only");
    }
    assert!(!scene.path("ran").exists());
}

/// rhandom/perl-net-server#15: no room for the record means no payload.
#[test]
fn a_full_disk_starts_nothing() {
    let scene = Scene::new();
    let space = MountSpace::tmpfs(&scene, "small", "size=16k");
    let file = scene.path("small/gateway.pid");
    fs::write(space.inside(&file), "").unwrap();
    let filler = space.inside(&scene.path("small/filler"));
    let _ = fs::write(&filler, vec![1; 64 * 1024]);
    let run = |words: &[&str]| scene.finish_command(space.gateway(&file, words));
    for words in [
        &["run", "--", "touch", "ran"][..],
        &["run", "--replace", "--", "touch", "ran"],
    ] {
        run(words)
            .assert_code(83)
            .assert_one_line()
            .assert_says("o space")
            .assert_says("gateway.pid");
    }
    assert!(!scene.path("ran").exists());
    fs::remove_file(&filler).unwrap();
    run(&["run", "--", "true"]).assert_code(0);
}

/// With `--replace`, the full disk is noticed before the holder is asked.
#[test]
fn a_full_disk_harms_no_holder() {
    let scene = Scene::new();
    let space = MountSpace::tmpfs(&scene, "small", "size=16k");
    let file = scene.path("small/gateway.pid");
    let mut holder = scene.spawn(space.gateway(&file, ["run", "--", "sleep", "infinity"]));
    wait_until("it holds", SOON, || {
        let bytes = fs::read(space.inside(&file)).unwrap_or_default();
        bytes.windows(9).any(|word| word == b"\"payload\"")
    });
    let _ = fs::write(
        space.inside(&scene.path("small/filler")),
        vec![1; 64 * 1024],
    );
    // A record that needs more room than the holder's: its blanks are written as `\u0020`.
    let blanks = " ".repeat(1700);
    let mut words = vec!["run", "--replace", "--timeout", "3", "--kill-after", "1"];
    words.extend(["--", "true", &blanks]);
    let output = scene.finish_command(space.gateway(&file, words));
    output
        .assert_code(83)
        .assert_one_line()
        .assert_says("o space");
    assert!(holder.is_running());
    let status = scene.finish_command(space.gateway(&file, ["status"]));
    status.assert_code(0);
}

/// Every error of the lock but "held" ends the start: without a lock, nothing runs.
#[test]
fn a_file_system_that_cannot_lock_starts_nothing() {
    let scene = Scene::new();
    for error in ["ENOLCK", "EBADF", "EINVAL", "EOPNOTSUPP", "ENOSYS", "EIO"] {
        let command = scene.gateway(["run", "--", "touch", "ran"]);
        let fails = format!("flock:error={error}");
        let output = scene.finish_command(injected(&scene, &fails, &command));
        output.assert_code(83).assert_one_line();
        output.assert_says("cannot lock").assert_says("gateway.pid");
        output.assert_says("local one");
        assert!(!scene.path("ran").exists(), "{error}");
    }
}

#[test]
fn an_interrupted_lock_is_tried_again() {
    let scene = Scene::new();
    let command = scene.gateway(["run", "--", "true"]);
    let command = injected(&scene, "flock:error=EINTR:when=1..3", &command);
    scene.finish_command(command).assert_code(0);
}

// ---------------------------------------------------------------- commands

#[test]
fn commands_that_cannot_run_have_their_codes() {
    let scene = Scene::new();
    fs::write(scene.path("text"), "").unwrap();
    fs::create_dir(scene.path("folder")).unwrap();
    for (command, code) in [
        ("no-such-command", 127),
        ("./no-such-file", 127),
        ("text/below-a-file", 127),
        ("", 127),
        ("./text", 126),
        ("./folder", 126),
    ] {
        let output = scene.finish(["run", "--", command]);
        output
            .assert_code(code)
            .assert_one_line()
            .assert_says(command.trim_start_matches('.'));
        assert!(
            !scene.pid_file().exists(),
            "not even the file is made: {command:?}"
        );
    }
}

#[test]
fn a_missing_interpreter_is_named() {
    let scene = Scene::new();
    scene.script(&scene.path("script"), "#!/no/such/interpreter\n");
    let output = scene.finish(["run", "--", "./script"]);
    output
        .assert_code(126)
        .assert_one_line()
        .assert_says(scene.path("script").to_str().unwrap())
        .assert_says("interpreter");
}

/// What a shell would run, we run: execvp(3) gives a script without a first line to sh.
#[test]
fn a_script_without_a_first_line_is_run_as_a_shell_would_run_it() {
    let scene = Scene::new();
    scene.script(&scene.path("script"), "echo hello\n");
    let output = scene.finish(["run", "--", "./script"]);
    output.assert_code(0);
    assert_eq!(output.stdout, "hello\n");
}

// ---------------------------------------------------------------- usage

#[track_caller]
fn usage(scene: &Scene, words: &[&str]) -> Output {
    let output = scene.finish(words);
    assert_eq!(output.end, End::Code(2), "{words:?}: {output:?}");
    assert_eq!(output.stdout, "");
    assert!(!scene.pid_file().exists(), "{words:?}");
    output
}

#[test]
fn durations_that_cannot_be_meant_are_refused() {
    let scene = Scene::new();
    for wrong in [
        "",
        " ",
        "-1",
        "-1s",
        "+1",
        "1e3",
        "1x",
        "s",
        "x",
        "inf",
        "nan",
        "NaN",
        "0x10",
        "1:30",
        "99999999999999999999",
        "1 000",
        "1,5",
        "--",
        "∞",
        "200y",
        ".",
    ] {
        for option in ["--timeout", "--kill-after", "--stop-timeout"] {
            let value = format!("{option}={wrong}");
            let output = usage(&scene, &["run", "--replace", &value, "--", "true"]);
            output.assert_says(option);
        }
    }
    let output = usage(&scene, &["run", "--stop-timeout", "soon", "--", "true"]);
    output.assert_says(
        "give seconds (30, 1.5), or units: ms, s, m, h, d (500ms, 30s, 1m30s, 2h); 0; infinity",
    );
}

#[test]
fn durations_that_people_type_are_understood() {
    let scene = Scene::new();
    for right in [
        "0", "1", "1.5", "30s", "1m30s", "500ms", "infinity", "2h", "0.25", "1d",
    ] {
        let value = format!("--stop-timeout={right}");
        scene.finish(["run", &value, "--", "true"]).assert_code(0);
    }
    let recorded = |value: &str| {
        scene
            .finish(["run", "--stop-timeout", value, "--", "true"])
            .assert_code(0);
        scene.record().json["stop_timeout"].clone()
    };
    assert_eq!(recorded("1m30s"), 90.0);
    assert_eq!(recorded("1.5"), 1.5);
    assert_eq!(recorded("500ms"), 0.5);
    assert_eq!(recorded("infinity"), "infinity");
}

#[test]
fn options_that_contradict_each_other_are_refused() {
    let scene = Scene::new();
    for (words, says) in [
        (&["run", "--timeout", "5", "--", "true"][..], "--wait"),
        (&["run", "--kill-after", "5", "--", "true"], "--replace"),
        (
            &["run", "--wait", "--kill-after", "5", "--", "true"],
            "--replace",
        ),
        (&["run", "--replace", "--wait", "--", "true"], "--wait"),
        (
            &["run", "--stop-signal", "NOPE", "--", "true"],
            "TERM, INT, QUIT",
        ),
        (
            &["run", "--stop-signal", "0", "--", "true"],
            "TERM, INT, QUIT",
        ),
        (&["run", "--stop-signal", "-9", "--", "true"], "-9"),
        (&["run", "--notify", "nobody", "--", "true"], "--notify"),
        (&["-q", "-v", "run", "--", "true"], "--quiet"),
        (&["frobnicate"], "frobnicate"),
        (&["run", "--frobnicate", "--", "true"], "--frobnicate"),
        (&[], "Usage"),
    ] {
        usage(&scene, words).assert_says(says);
    }
}

#[test]
fn likely_slips_are_answered_with_what_to_type() {
    let scene = Scene::new();
    let output = usage(&scene, &["run", "-w", "10", "--", "true"]);
    output.assert_says("--wait --timeout 10");
    let output = usage(&scene, &["run", "sleep", "9"]);
    output.assert_says("run -- sleep 9");
    let output = usage(&scene, &["run", "--replace", "sleep", "9"]);
    output.assert_says("run --replace -- sleep 9");
}

// ---------------------------------------------------------------- surroundings

#[test]
fn closed_standard_descriptors_are_no_fault() {
    let scene = Scene::new();
    for closed in ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"] {
        let mut command = scene.command("sh");
        let script = format!("exec \"$@\" {closed}");
        command.args(["-c", &script, "sh"]).arg(scene.program());
        command.args(["-f", "gateway.pid", "run", "--", "sh", "-c", "exit 3"]);
        scene.finish_command(command).assert_code(3);
        assert_eq!(
            scene.record().number("/exit/code"),
            3,
            "{closed}: nothing was written over it"
        );
    }
}

#[test]
fn a_folder_that_is_gone_is_no_fault_for_an_absolute_path() {
    let scene = Scene::new();
    fs::create_dir(scene.path("gone")).unwrap();
    let mut command: Command = scene.command("sh");
    let script = "cd gone && rmdir ../gone && exec \"$@\"";
    command
        .args(["-c", script, "sh"])
        .arg(scene.program())
        .arg("-f")
        .arg(scene.pid_file());
    command.args(["run", "--", "true"]);
    scene.finish_command(command).assert_code(0);
    let mut command: Command = scene.command("sh");
    fs::create_dir(scene.path("gone")).unwrap();
    command
        .args(["-c", script, "sh"])
        .arg(scene.program())
        .args(["-f", "gateway.pid", "run", "--", "true"]);
    scene
        .finish_command(command)
        .assert_code(83)
        .assert_one_line()
        .assert_says(
            "gateway.pid absolute: the current directory was removed; cd elsewhere, or give an absolute path\n",
        );
}

#[test]
fn a_path_that_ends_with_a_slash_is_answered_with_what_is_there() {
    let scene = Scene::new();
    fs::write(scene.path("a.pid"), "").unwrap();
    let root = scene.path("").display().to_string();
    for (path, meant) in [
        ("a.pid/", "a.pid"),
        ("said/", "said/gateway.pid"),
        ("no/where/", "no/where/gateway.pid"),
    ] {
        let output = scene.finish_command(scene.bare(["-f", path, "run", "--", "true"]));
        let expected = format!(
            "gateway: {root}/{path} names a directory, not a pid file; did you mean {root}/{meant}?\n"
        );
        output.assert_code(83);
        assert_eq!(output.stderr, expected);
    }
}

// ---------------------------------------------------------------- what cannot be meant

/// Minutes, to whoever types it; months, to the library that reads such words.
#[test]
fn months_and_years_are_no_patience() {
    let scene = Scene::new();
    for time in ["10M", "1y", "2w", "5min"] {
        let output = scene.finish(["run", "--wait", "--timeout", time, "--", "touch", "ran"]);
        let unit = time.trim_start_matches(|digit: char| digit.is_ascii_digit());
        output
            .assert_code(2)
            .assert_says(&format!("{unit:?} is not a unit"))
            .assert_says("ms, s, m, h, d");
        assert!(!scene.path("ran").exists());
    }
}

#[test]
fn a_stop_signal_that_ends_nothing_is_refused() {
    let scene = Scene::new();
    for signal in ["STOP", "CONT", "TSTP", "TTIN", "TTOU", "CHLD", "19"] {
        let output = scene.finish(["run", "--stop-signal", signal, "--", "touch", "ran"]);
        output.assert_code(2).assert_says("asks no command to end");
        assert!(!scene.path("ran").exists());
    }
}

#[test]
fn a_missing_double_dash_is_answered_with_what_can_be_typed() {
    let scene = Scene::new();
    let output = scene.finish_command(scene.bare(["run", "-n", "sh", "sh", "-c", "echo a b"]));
    output
        .assert_code(2)
        .assert_says("COMMAND goes after --: gateway run -n sh -- sh -c 'echo a b'\n");
}

// ---------------------------------------------------------------- advice that works

/// A service's user: its home is nowhere, and no directory of the system is to be opened for it.
#[test]
fn a_user_without_a_home_is_told_of_a_place_for_a_service() {
    let scene = Scene::for_everybody();
    for (user, owner) in [("65534", "nobody"), ("54321", "54321")] {
        let mut command = scene.command("setpriv");
        command
            .args(["--reuid", user, "--regid", user, "--clear-groups"])
            .arg(scene.program())
            .args(["run", "-n", "demo", "--", "touch", "ran"])
            .env_remove("GATEWAY_STATE_DIR");
        let output = scene.finish_command(command);
        output
            .assert_code(83)
            .assert_one_line()
            .assert_says("has no home")
            .assert_says(&format!(
                "as root: install -d -o {owner} /var/lib/gateway/demo (in a unit: "
            ))
            .assert_says("StateDirectory=gateway/demo")
            .assert_says("-f PATH");
        assert!(!output.stderr.contains("writable"), "{output:?}");
    }
}

#[test]
fn a_directory_of_the_system_is_not_to_be_opened() {
    let scene = Scene::for_everybody();
    let command = scene.bare(["-f", "/etc/demo/gateway.pid", "run", "--", "true"]);
    let output = scene.finish_command(as_nobody(&scene, &command));
    output
        .assert_code(83)
        .assert_one_line()
        .assert_says("; /etc belongs to root; name another path with -f PATH\n");
}

#[test]
fn wrong_usage_names_the_program_and_where_to_read_more() {
    let scene = Scene::new();
    let output = usage(&scene, &["run", "--replce", "--", "true"]);
    assert!(
        output
            .stderr
            .starts_with("gateway: there is no option --replce; did you mean --replace?\n"),
        "{output:?}"
    );
    output.assert_says("\nUsage: gateway run ");
    assert!(
        output.stderr.ends_with("\nfor more: gateway run --help\n"),
        "{output:?}"
    );
    for words in [&["run", "--frobnicate"][..], &["stop", "--timeout", "-5"]] {
        let output = usage(&scene, words);
        assert!(!output.stderr.contains("tip:"), "{output:?}");
        assert!(output.stderr.starts_with("gateway: "), "{output:?}");
    }
    let output = usage(&scene, &["frobnicate"]);
    assert!(!output.stderr.contains("completions"), "{output:?}");
}

#[test]
fn a_bad_name_is_told_with_what_is_wrong() {
    let scene = Scene::new();
    for (name, says) in [
        ("x".repeat(256).as_str(), "too long (at most 255)"),
        ("a\x1b[2J", "\\u{1b}[2J"),
        ("a\nb", "invalid value 'a\\nb' for"),
        ("", "empty"),
    ] {
        let output = scene.finish_command(scene.bare(["-n", name, "run", "--", "true"]));
        output.assert_code(2).assert_says(says);
        assert!(!output.stderr.contains('\x1b'), "{output:?}");
    }
    let output = scene.finish_command(scene.bare(["-f", "", "status"]));
    output
        .assert_code(2)
        .assert_says("--pid-file <PATH> is empty");
}

#[test]
fn exec_leaves_nobody_to_stop_the_command() {
    let scene = Scene::new();
    for option in ["--stop-timeout=5", "--stop-signal=INT"] {
        usage(&scene, &["run", "--exec", option, "--", "true"]).assert_says("--exec");
    }
    scene.finish(["run", "--exec", "--", "true"]).assert_code(0);
}

/// `gateway run -- $CMD`, where CMD is empty.
#[test]
fn a_double_dash_without_a_command_holds_nothing() {
    let scene = Scene::new();
    let says =
        "gateway: there is no COMMAND after --; to hold the lock without one, leave out the --\n";
    for words in [
        &["run", "--"][..],
        &["run", "--wait", "--timeout", "5", "--"],
    ] {
        let output = scene.finish(words);
        output.assert_code(2);
        assert!(output.stderr.starts_with(says), "{output:?}");
    }
    assert!(!scene.pid_file().exists());
    let mut holder = scene.start(["run"]);
    scene.wait_for_record("it holds", |record| record.pid() == holder.pid());
    holder.signal(Signal::TERM);
    assert_eq!(holder.end(), End::Code(0));
}

#[test]
fn a_command_line_in_one_word_is_taken_apart() {
    let scene = Scene::new();
    for (words, says) in [
        (
            &["sleep 5"][..],
            "'sleep 5' is one word; write: -- sleep 5, or -- sh -c 'sleep 5'\n",
        ),
        (&["A=b c", "x"], "write: -- env 'A=b c' x\n"),
        (
            &["export", "A=b"],
            "cannot find the command export; it is a word of the shell's own; write: -- sh -c 'export A=b'\n",
        ),
        (
            &["no-such-command"],
            "it is in no directory of PATH: give its full path\n",
        ),
    ] {
        let output = scene.finish([&["run", "--"], words].concat());
        output.assert_code(127).assert_one_line().assert_says(says);
    }
    let output = scene.finish(["-v", "run", "--", "no-such-command"]);
    output.assert_code(127).assert_says("PATH is ");
}

#[test]
fn what_cannot_be_executed_is_told_with_what_to_type() {
    let scene = Scene::new();
    fs::write(scene.path("a b"), "").unwrap();
    scene.script(&scene.path("dos"), "#!/bin/sh\r\necho\r\n");
    fs::create_dir(scene.path("folder")).unwrap();
    fs::write(scene.path("py"), "#! /usr/bin/env  python3\nprint()\n").unwrap();
    fs::copy("/bin/true", scene.path("elf")).unwrap();
    set_mode(&scene.path("elf"), 0o644);
    let path = |name: &str| scene.path(name).to_str().unwrap().to_owned();
    let by_name = |interpreter: &str, name: &str| {
        let path = path(name);
        format!("; chmod +x {path}, or name its interpreter: {interpreter} {path}\n")
    };
    fs::write(scene.path("text"), "echo a\n").unwrap();
    for (command, says) in [
        ("./a b", format!("; chmod +x '{}', or ", path("a b"))),
        ("./py", by_name("/usr/bin/env python3", "py")),
        ("./text", by_name("sh", "text")),
        // Nothing reads a program.
        ("./elf", format!("; chmod +x {}\n", path("elf"))),
        ("./dos", format!("sed -i 's/\\r$//' {}\n", path("dos"))),
        ("./dos", "its first line ends with \\r".to_owned()),
        (
            "./folder",
            format!("cannot execute {}: it is a directory", path("folder")),
        ),
    ] {
        let output = scene.finish(["run", "--", command]);
        output.assert_code(126).assert_one_line().assert_says(&says);
    }
}

#[test]
fn a_file_system_where_nothing_may_run_is_named() {
    let scene = Scene::new();
    let space = MountSpace::tmpfs(&scene, "still", "noexec");
    let script = space.inside(&scene.path("still/script"));
    fs::write(&script, "#!/bin/sh\n").unwrap();
    set_mode(&script, 0o755);
    let program = scene.path("still/script");
    let words = ["run", "--", program.to_str().unwrap()];
    let output = scene.finish_command(space.gateway(&scene.pid_file(), words));
    output
        .assert_code(126)
        .assert_one_line()
        .assert_says("mounted noexec");
    assert!(!output.stderr.contains("chmod"), "{output:?}");
}

/// A file system without a limit knows no number of blocks (tmpfs(5), size=0): 0 of 0 is not full.
#[test]
fn a_file_system_that_counts_no_blocks_is_not_full() {
    let scene = Scene::new();
    let space = MountSpace::tmpfs(&scene, "endless", "size=0");
    let file = scene.path("endless/gateway.pid");
    let mut holder = scene.spawn(space.gateway(&file, ["run", "--", "sleep", "infinity"]));
    wait_until("it holds", SOON, || {
        let bytes = fs::read(space.inside(&file)).unwrap_or_default();
        bytes.windows(9).any(|word| word == b"\"payload\"")
    });
    // A record that needs more room than the holder's has.
    let blanks = " ".repeat(1700);
    let words = ["run", "--replace", "--", "true", &blanks];
    let output = scene.finish_command(space.gateway(&file, words));
    output.assert_code(0);
    assert_eq!(holder.end(), End::of(Signal::TERM));
}
