//! What users hold us to, word for word: it only grows.
//!
//! Each snapshot is a plain file in `snapshots/`. After an intended change they are written anew
//! with `GATEWAY_TEST_UPDATE=1 cargo nextest run --test integration snapshots`, and the difference
//! is part of the commit.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use serde_json::Value;

use crate::harness::{End, Locker, Payload, Scene, Signal, environment, variable};

const UPDATE: &str = "GATEWAY_TEST_UPDATE";

/// Compares with the file of this name, and shows what is different.
#[track_caller]
fn assert_snapshot(name: &str, actual: &str) {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/integration/snapshots");
    let path = folder.join(format!("{name}.txt"));
    if std::env::var_os(UPDATE).is_some() {
        fs::create_dir_all(&folder).unwrap();
        fs::write(&path, actual).unwrap();
        return;
    }
    let expected = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        expected == actual,
        "{} is not what it was (- before, + now); if that is meant: \
         {UPDATE}=1 cargo nextest run --test integration snapshots\n{}",
        path.display(),
        difference(&expected, actual)
    );
}

/// Line by line, by the longest common sequence.
fn difference(before: &str, now: &str) -> String {
    let (before, now): (Vec<&str>, Vec<&str>) = (before.lines().collect(), now.lines().collect());
    let mut common = vec![vec![0u32; now.len() + 1]; before.len() + 1];
    for i in (0..before.len()).rev() {
        for j in (0..now.len()).rev() {
            common[i][j] = if before[i] == now[j] {
                common[i + 1][j + 1] + 1
            } else {
                common[i + 1][j].max(common[i][j + 1])
            };
        }
    }
    let (mut i, mut j, mut out) = (0, 0, String::new());
    while i < before.len() || j < now.len() {
        let (mark, line) = if i < before.len() && j < now.len() && before[i] == now[j] {
            (i, j) = (i + 1, j + 1);
            (' ', now[j - 1])
        } else if j == now.len() || i < before.len() && common[i + 1][j] >= common[i][j + 1] {
            i += 1;
            ('-', before[i - 1])
        } else {
            j += 1;
            ('+', now[j - 1])
        };
        let _ = writeln!(out, "{mark} {line}");
    }
    out
}

#[test]
fn a_difference_shows_what_went_and_what_came() {
    assert_eq!(difference("a\nb\nc\n", "a\nx\nc\n"), "  a\n- b\n+ x\n  c\n");
    assert_eq!(difference("", "a\n"), "+ a\n");
    assert_eq!(difference("a\nb\n", "b\n"), "- a\n  b\n");
}

// ---------------------------------------------------------------- the interface

#[test]
fn the_help_of_every_command() {
    let scene = Scene::new();
    for (name, words) in [
        ("help", &["--help"][..]),
        ("help-short", &["-h"]),
        ("help-run", &["run", "--help"]),
        ("help-status", &["status", "--help"]),
        ("help-stop", &["stop", "--help"]),
        ("help-list", &["list", "--help"]),
    ] {
        let output = scene.finish_command(scene.bare(words));
        output.assert_code(0);
        assert_eq!(output.stderr, "");
        assert_snapshot(name, &output.stdout);
    }
}

#[test]
fn the_version_is_the_packages() {
    let scene = Scene::new();
    for words in [&["--version"][..], &["run", "-V"], &["list", "--version"]] {
        let output = scene.finish_command(scene.bare(words));
        output.assert_code(0);
        assert_eq!(
            output.stdout,
            concat!("gateway ", env!("CARGO_PKG_VERSION"), "\n")
        );
    }
}

/// Each code as it comes out of the program, not out of its source.
#[test]
fn the_exit_codes() {
    let mut out = String::new();
    let mut line = |what: &str, end: End| {
        let _ = match end {
            End::Code(code) => writeln!(out, "{code:<9} {what}"),
            End::Signal(signal) => writeln!(out, "signal {signal:<2} {what}"),
        };
    };
    let scene = Scene::new();
    line(
        "run: COMMAND ended 0",
        scene.finish(["run", "--", "true"]).end,
    );
    line(
        "run: COMMAND ended 5",
        scene.finish(["run", "--", "sh", "-c", "exit 5"]).end,
    );
    line(
        "run: COMMAND died by SEGV",
        scene.finish(["run", "--", "sh", "-c", "kill -SEGV $$"]).end,
    );
    line(
        "run: wrong usage",
        scene.finish(["run", "--frobnicate"]).end,
    );
    line(
        "run: COMMAND not found",
        scene.finish(["run", "--", "no-such-command"]).end,
    );
    line(
        "run: COMMAND cannot be executed",
        scene.finish(["run", "--", "/"]).end,
    );
    let folder = scene.bare(["-f", "/", "run", "--", "true"]);
    line(
        "run: the pid file cannot be used",
        scene.finish_command(folder).end,
    );
    line("status: free", scene.finish(["status"]).end);
    line("stop: nothing to stop", scene.finish(["stop"]).end);
    line("list", scene.finish_command(scene.bare(["list"])).end);

    let mut holder = scene.hold_with(&["--stop-timeout", "200ms"], Payload::Deaf);
    scene.wait_for_mark("deaf");
    line("status: held", scene.finish(["status"]).end);
    line(
        "run: held by someone else",
        scene.finish(["run", "--", "true"]).end,
    );
    let wait = ["run", "--wait", "--timeout", "100ms", "--", "true"];
    line(
        "run --wait: gave up at the deadline",
        scene.finish(wait).end,
    );
    let short = ["run", "--replace", "--timeout", "100ms", "--", "true"];
    line(
        "run --replace: the deadline is too short",
        scene.finish(short).end,
    );
    let short = ["stop", "--timeout", "100ms"];
    line("stop: the deadline is too short", scene.finish(short).end);
    let mut standby = scene.start(["run", "--wait", "--", "true"]);
    standby.wait_for_line("standing by");
    standby.signal(Signal::INT);
    line("run --wait: interrupted by INT", standby.end());
    holder.signal(Signal::TERM);
    line("run: stopped by TERM, COMMAND did not end 0", holder.end());

    let mut holder = scene.hold_with(&[], Payload::Graceful);
    scene.wait_for_mark("ready");
    holder.signal(Signal::TERM);
    line("run: stopped by TERM, COMMAND ended 0", holder.end());
    let mut holder = scene.hold();
    holder.crash();
    line("status: crashed", scene.finish(["status"]).end);
    let locker = Locker::on(&scene, &scene.pid_file());
    line(
        "run: held by nobody who can be proven",
        scene.finish(["run", "--", "true"]).end,
    );
    line("status: foreign", scene.finish(["status"]).end);
    line(
        "stop: held by nobody who can be proven",
        scene.finish(["stop"]).end,
    );
    drop(locker);
    fs::remove_file(scene.pid_file()).unwrap();
    fs::create_dir(scene.pid_file()).unwrap();
    line("status: cannot tell", scene.finish(["status"]).end);
    line(
        "stop: the pid file cannot be used",
        scene.finish(["stop"]).end,
    );
    assert_snapshot("exit-codes", &out);
}

#[test]
fn the_names_of_the_environment() {
    let scene = Scene::new();
    let _holder = scene.hold();
    let payload = scene.record().payload_pid();
    // Waits until the payload has its environment.
    variable(payload, "GATEWAY_PID");
    let payload = environment(payload);
    let names: BTreeSet<_> = payload
        .keys()
        .map(|name| name.to_str().unwrap().to_owned())
        .filter(|name| name.starts_with("GATEWAY"))
        // Ours, and given to everything in the scene.
        .filter(|name| name != "GATEWAY_STATE_DIR")
        .collect();
    let names: Vec<String> = names.into_iter().collect();
    assert_snapshot("environment", &(names.join("\n") + "\n"));
}

// ---------------------------------------------------------------- what is written

/// Every key with the kind of its value, in the order in which it is written.
fn keys(value: &Value) -> String {
    fn collect(value: &Value, prefix: &str, out: &mut String) {
        let kind = match value {
            Value::Null => "null",
            Value::Bool(_) => "true or false",
            Value::Number(number) if number.is_f64() => "number with a fraction",
            Value::Number(_) => "number",
            Value::String(_) => "text",
            Value::Array(_) => "list",
            Value::Object(members) => {
                for (name, value) in members {
                    collect(value, &format!("{prefix}.{name}"), out);
                }
                return;
            }
        };
        let _ = writeln!(out, "{} {kind}", prefix.trim_start_matches('.'));
    }
    let mut out = String::new();
    collect(value, "", &mut out);
    let mut lines: Vec<&str> = out.lines().collect();
    lines.sort_unstable();
    lines.join("\n") + "\n"
}

#[test]
fn the_keys_of_the_record() {
    let scene = Scene::new();
    let options = ["--stop-signal", "QUIT", "--stop-timeout", "1.5"];
    let mut holder = scene.hold_with(&options, Payload::Plain);
    assert_snapshot("record-held", &keys(&scene.record().json));
    holder.signal(Signal::TERM);
    holder.end();
    assert_snapshot("record-ended", &keys(&scene.record().json));
    scene.finish(["run", "--", "true"]).assert_code(0);
    assert_snapshot("record-ended-by-itself", &keys(&scene.record().json));
}

#[test]
fn the_keys_of_status_and_list() {
    let scene = Scene::new();
    assert_snapshot("status-free", &keys(&scene.status()));
    let mut holder = scene.hold();
    assert_snapshot("status-held", &keys(&scene.status()));
    let list = scene.finish_command(scene.bare(["list", "--json"])).stdout;
    let list: Vec<Value> = serde_json::from_str(&list).unwrap();
    let ours = |entry: &&Value| entry["pid_file"] == scene.pid_file().to_str().unwrap();
    assert_snapshot(
        "list-held",
        &keys(list.iter().find(ours).expect("our entry")),
    );
    holder.crash();
    assert_snapshot("status-crashed", &keys(&scene.status()));
    scene.finish(["stop"]).assert_code(0);
    assert_snapshot("status-stopped", &keys(&scene.status()));
    let locker = Locker::on(&scene, &scene.pid_file());
    assert_snapshot("status-foreign", &keys(&scene.status()));
    drop(locker);
}

/// The first word is the state; the rest of the line may say more one day.
#[test]
fn the_first_words_of_status() {
    let scene = Scene::new();
    let mut out = String::new();
    let mut look = |scene: &Scene| {
        let text = scene.finish(["status"]).stdout;
        let _ = writeln!(out, "{}", text.split(' ').next().unwrap_or_default());
    };
    look(&scene);
    let mut holder = scene.hold();
    look(&scene);
    holder.signal(Signal::STOP);
    fs::rename(scene.pid_file(), scene.path("away")).unwrap();
    look(&scene);
    fs::rename(scene.path("away"), scene.pid_file()).unwrap();
    holder.crash();
    look(&scene);
    scene.finish(["stop"]).assert_code(0);
    look(&scene);
    let locker = Locker::on(&scene, &scene.pid_file());
    look(&scene);
    drop(locker);
    assert_snapshot("status-first-words", &out);
}

/// Their content is checked in the shells themselves, where the packages are.
#[test]
fn completions_are_printed_for_each_shell() {
    let scene = Scene::new();
    for shell in ["bash", "zsh", "fish"] {
        let output = scene.finish_command(scene.bare(["completions", shell]));
        output.assert_code(0);
        for word in ["run", "status", "stop", "list", "replace"] {
            assert!(output.stdout.contains(word), "{shell}: {word}");
        }
    }
}
