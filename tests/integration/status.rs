//! `status`: the state is the lock's; looking changes nothing.

use std::fs;
use std::path::Path;

use crate::harness::{
    Call, End, Locker, Output, Payload, SOON, Scene, Signal, Trace, as_nobody, descendants, exists,
    in_pid_namespace, injected, is_held_up_in, set_mode, state, until, wait_until,
};
use crate::people::record_naming;

/// The first word of what is printed, the word in JSON, and the code are about the same state.
#[track_caller]
fn assert_state(scene: &Scene, state: &str, code: i32) {
    let text = scene.finish(["status"]);
    text.assert_code(code);
    assert_eq!(text.stdout.split(':').next(), Some(state), "{text:?}");
    assert!(
        text.stdout.contains(scene.pid_file().to_str().unwrap()),
        "{text:?}"
    );
    let json = scene.finish(["status", "--json"]);
    json.assert_code(code);
    assert_eq!(json.stdout.lines().count(), 1);
    let value: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(value["state"], state);
    assert_eq!(value["format"], 1);
    assert_eq!(value["pid_file"], scene.pid_file().to_str().unwrap());
}

#[test]
fn no_file_is_free() {
    let scene = Scene::new();
    assert_state(&scene, "free", 3);
    assert!(!scene.pid_file().exists());
}

#[test]
fn a_run_that_ends_in_the_middle_of_a_look_has_not_crashed() {
    let scene = Scene::new();
    let mut holder = scene.hold();
    let slow = "pread64:delay_exit=1500000:when=1";
    let look = scene.spawn(injected(&scene, slow, &scene.gateway(["status"])));
    wait_until("the record is read", SOON, || {
        is_held_up_in(&look, libc::SYS_pread64)
    });
    holder.signal(Signal::TERM);
    holder.end();
    let output = look.output();
    output.assert_code(3);
    assert!(output.stdout.starts_with("free: "), "{output:?}");
}

#[test]
fn unlocked_junk_is_free() {
    for text in ["", "junk", "0\n"] {
        let scene = Scene::new();
        fs::write(scene.pid_file(), text).unwrap();
        assert_state(&scene, "free", 3);
        assert_eq!(scene.bytes(), text.as_bytes());
    }
}

/// Whoever types what is advised must not lose a file by it.
#[test]
fn a_file_of_somebody_elses_is_not_advised_for_a_start() {
    let scene = Scene::new();
    let said = |text: &str| {
        fs::write(scene.pid_file(), text).unwrap();
        let output = scene.finish(["status"]);
        output.assert_code(3);
        output.stdout.lines().next().unwrap().to_owned()
    };
    for text in ["127.0.0.1 localhost\n", "{\"a\":1}\n", "7 days\n", "\0\0"] {
        let expected = format!(
            "free: nobody holds the lock, but {} is no pid file, and run would overwrite it",
            scene.pid_file().display()
        );
        assert_eq!(said(text), expected, "{text:?}");
    }
    // What we wrote or tore, and what others' pid files are cleared to.
    for text in [
        "",
        "\n",
        "0\n",
        "  12 \n",
        "12\n{\"format\":1,\"pid",
        "\n{\"form",
    ] {
        let first = said(text);
        assert!(
            first.contains("; start with: gateway -f "),
            "{text:?}: {first}"
        );
    }
}

#[test]
fn a_run_that_ended_is_free_and_how_it_ended_is_told() {
    let scene = Scene::new();
    scene
        .finish(["run", "--", "sh", "-c", "exit 6"])
        .assert_code(6);
    assert_state(&scene, "free", 3);
    let text = scene.finish(["status"]).stdout;
    assert!(text.starts_with("free: last run ended by itself"), "{text}");
    assert!(text.contains("exit 6"), "{text}");
    let last = &scene.status()["last"];
    assert_eq!(last["exit"]["code"], 6);
    assert_eq!(last["reason"], "exited");
    let mut holder = scene.hold();
    scene.finish(["stop"]).assert_code(0);
    assert_eq!(holder.end(), End::of(Signal::TERM));
    let text = scene.finish(["status"]).stdout;
    assert!(text.starts_with("free: last run stopped by pid"), "{text}");
}

#[test]
fn a_holder_is_described() {
    let scene = Scene::new();
    let holder = scene.hold_with(&["--stop-timeout", "12"], Payload::Plain);
    assert_state(&scene, "held", 0);
    let text = scene.finish(["status"]).stdout;
    let first = text.lines().next().unwrap();
    assert!(
        first.starts_with(&format!("held: pid {} (", holder.pid())),
        "{text}"
    );
    assert!(first.contains("up "), "{text}");
    for detail in [
        "payload ",
        "since ",
        "at stop   TERM, SIGKILL after 12 s",
        "pid file ",
    ] {
        assert!(
            text.lines()
                .any(|line| line.starts_with(&format!("  {detail}"))),
            "{text}"
        );
    }
    let record = scene.record();
    let status = scene.status();
    let told = &status["holder"];
    assert_eq!(told["pid"], holder.pid());
    assert_eq!(told["start_time"], record.json["start_time"]);
    assert_eq!(told["argv"], record.json["argv"]);
    assert_eq!(told["uid"], 0);
    assert_eq!(told["unit"], serde_json::Value::Null);
    assert_eq!(told["payload"], record.json["payload"]);
    assert_eq!(told["generation"], record.json["generation"]);
    assert!(told["uptime_s"].as_f64().unwrap() < 60.0);
}

/// NousResearch/hermes-agent#46133: a file written by the dead process was trusted.
#[test]
fn a_crash_is_told_from_the_lock() {
    let scene = Scene::new();
    let mut holder = scene.hold();
    holder.crash();
    assert_state(&scene, "crashed", 1);
    let text = scene.finish(["status"]).stdout;
    assert!(
        text.starts_with(&format!("crashed: pid {} (", holder.pid())),
        "{text}"
    );
    assert!(text.contains("ended without a word at or after"), "{text}");
    assert!(
        text.contains("the next start needs nothing removed"),
        "{text}"
    );
    assert_eq!(scene.status()["last"]["pid"], holder.pid());
    // A bare number, as other programs leave it.
    fs::write(scene.pid_file(), "4000000\n").unwrap();
    assert_state(&scene, "crashed", 1);
}

#[test]
fn a_locker_that_the_record_does_not_describe_is_foreign() {
    let scene = Scene::new();
    let locker = Locker::on(&scene, &scene.pid_file());
    assert_state(&scene, "foreign", 0);
    let text = scene.finish(["status"]).stdout;
    assert!(
        text.starts_with(&format!("foreign: pid {} (sleep infinity", locker.pid())),
        "{text}"
    );
    // Also when the file names somebody who lives.
    let text = record_naming(&scene.pid_file(), std::process::id());
    fs::write(scene.pid_file(), text).unwrap();
    assert_state(&scene, "foreign", 0);
}

#[test]
fn a_holder_that_has_marked_its_record_is_ending() {
    let scene = Scene::new();
    let mut holder = scene.hold();
    // A record that is marked, with the lock still held.
    let text = String::from_utf8(scene.bytes()).unwrap();
    let (_, json) = text.split_once('\n').unwrap();
    let json = json.trim_end().strip_suffix('}').unwrap();
    holder.signal(Signal::STOP);
    wait_until("it is stopped", SOON, || state(holder.pid()) == Some('T'));
    let ended = "\"ended\":\"2026-01-01T00:00:00.000000Z\",\"exit\":{\"code\":0},\"reason\":\"exited\",\"by\":null";
    fs::write(scene.pid_file(), format!("\n{json},{ended}}}\n")).unwrap();
    assert_state(&scene, "ending", 0);
    // It is waited for, and asked where it does not go.
    let mut new = scene.start(["run", "--replace", "--kill-after", "300ms", "--", "true"]);
    assert_eq!(new.end(), End::Code(0), "{}", new.stderr());
    assert_eq!(holder.end(), End::of(Signal::KILL));
}

#[test]
fn a_stopped_holder_is_held() {
    let scene = Scene::new();
    let holder = scene.hold();
    holder.signal(Signal::STOP);
    wait_until("it is stopped", SOON, || state(holder.pid()) == Some('T'));
    assert_state(&scene, "held", 0);
}

#[test]
fn a_holder_outside_the_pid_namespace_is_invisible() {
    let scene = Scene::new();
    let _holder = scene.hold();
    for json in [false, true] {
        let words = if json {
            &["status", "--json"][..]
        } else {
            &["status"]
        };
        let command = in_pid_namespace(&scene, &scene.gateway(words));
        let output = scene.finish_command(command);
        output.assert_code(4);
        assert!(output.stdout.contains("invisible"), "{output:?}");
    }
}

/// A crash of the gateway alone: COMMAND's children live on, and nobody must have to look for them.
#[test]
fn what_a_crashed_run_left_is_named() {
    let scene = Scene::new();
    let script = "setsid sleep infinity &\necho $! >\"$SCENE/child\"\nexec sleep infinity\n";
    let mut holder = scene.hold_with(&[], Payload::Script(script));
    let child = scene.wait_for_child();
    holder.crash();
    wait_until("it has crashed", SOON, || scene.state() == "crashed");
    let status = scene.finish(["status"]);
    status.assert_code(1);
    assert!(
        status
            .stdout
            .contains(&format!("left      pid {child} (sleep infinity")),
        "{status:?}"
    );
    let json = scene.status();
    assert_eq!(json["survivors"][0]["pid"], child);
    assert_eq!(json["survivors"][0]["argv"][0], "sleep");
    scene.finish(["stop"]).assert_code(0);
    assert!(!exists(child));
    assert!(scene.status()["survivors"].is_null());
}

/// Its record has the numbers of its own pid namespace; those here are others.
#[test]
fn the_payload_of_a_holder_in_another_pid_namespace_has_our_number() {
    let scene = Scene::new();
    let start = scene.gateway(["run", "--", "sleep", "infinity"]);
    let outer = scene.spawn(in_pid_namespace(&scene, &start));
    let payload = until("the payload", SOON, || {
        let asleep = |pid: &u32| {
            fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.starts_with(b"sleep"))
        };
        descendants(outer.pid()).into_iter().find(asleep)
    });
    wait_until("it is held", SOON, || scene.state() == "held");
    let status = scene.finish(["status"]);
    assert!(
        status.stdout.contains(&format!("pid {payload}, 1 process")),
        "{status:?}"
    );
    assert_eq!(scene.status()["holder"]["payload"]["pid"], payload);
}

#[test]
fn another_users_file_that_cannot_be_opened_still_has_an_answer() {
    let scene = Scene::for_everybody();
    let holder = scene.hold();
    let command = as_nobody(&scene, &scene.gateway(["status"]));
    let output = scene.finish_command(command);
    output.assert_code(4);
    // What anybody may know of it.
    let json = scene.finish_command(as_nobody(&scene, &scene.gateway(["status", "--json"])));
    let json: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    assert!(
        json["holder"]["argv"].to_string().contains("\"run\""),
        "{json}"
    );
    assert!(output.stdout.starts_with("invisible: pid"), "{output:?}");
    assert!(
        output.stdout.contains(&holder.pid().to_string()),
        "{output:?}"
    );
}

/// Who has taken a lock and is gone is not waited for: its child has the lock, and may have it for long.
#[test]
fn a_lock_that_outlives_its_taker_is_looked_at_no_more_than_twice() {
    let scene = Scene::for_everybody();
    fs::write(scene.pid_file(), "").unwrap();
    set_mode(&scene.pid_file(), 0o644);
    let mut flock = scene.command("flock");
    let leave = "sleep infinity </dev/null >/dev/null 2>&1 &";
    flock.arg(scene.pid_file()).args(["sh", "-c", leave]);
    scene.finish_command(flock).assert_code(0);
    let command = as_nobody(&scene, &scene.gateway(["status"]));
    let mut trace = Trace::start(&scene, "trace=openat", &command);
    trace.process.end();
    let calls = trace.calls();
    let tables = calls
        .iter()
        .filter(|call| call.rest.contains("/proc/locks"));
    assert!((1..=2).contains(&tables.count()), "{calls:?}");
}

/// The kernel names the taker, who is gone, in the first pid namespace alone; elsewhere nothing tells.
#[test]
fn a_shared_lock_that_outlives_its_taker_is_foreign() {
    let scene = Scene::new();
    fs::write(scene.pid_file(), "").unwrap();
    let mut flock = scene.command("flock");
    let leave = "sleep infinity </dev/null >/dev/null 2>&1 & echo $! >child";
    flock.args(["--shared", "gateway.pid", "sh", "-c", leave]);
    scene.finish_command(flock).assert_code(0);
    let is_first = fs::read_link("/proc/self/ns/pid").unwrap() == Path::new("pid:[4026531836]");
    if is_first {
        assert_state(&scene, "foreign", 0);
        let child = scene.lines("child").remove(0);
        let output = scene.finish(["status"]);
        assert!(output.stdout.contains(&child), "{output:?}");
    } else {
        assert_state(&scene, "free", 3);
    }
    scene.finish(["run", "--", "true"]).assert_code(82);
}

/// What nobody has need not be looked for at everybody.
#[test]
fn of_a_free_file_nobody_is_looked_through() {
    let scene = Scene::new();
    let payload = scene.payload(Payload::Script("exit 0\n"));
    scene.finish(["run", "--", &payload]).assert_code(0);
    let mut trace = Trace::start(&scene, "trace=openat", &scene.gateway(["status"]));
    assert_eq!(trace.process.end(), End::Code(3));
    let calls = trace.calls();
    let another = |call: &&Call| {
        let path = call.rest.split_once("\"/proc/").map(|(_, path)| path);
        path.is_some_and(|path| path.starts_with(|c: char| c.is_ascii_digit()))
    };
    let others: Vec<_> = calls.iter().filter(another).collect();
    assert!(calls.len() > 3 && others.is_empty(), "{others:#?}");
}

#[test]
fn what_cannot_be_told_has_its_code_and_its_json() {
    let scene = Scene::new();
    fs::create_dir(scene.pid_file()).unwrap();
    let output = scene.finish(["status"]);
    output
        .assert_code(4)
        .assert_one_line()
        .assert_says(scene.pid_file().to_str().unwrap());
    let output = scene.finish(["status", "--json"]);
    output.assert_code(4);
    let value: serde_json::Value = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!(value["state"], "unknown");
}

// ---------------------------------------------------------------- looking changes nothing

#[test]
fn looking_changes_nothing_and_makes_nothing() {
    let scene = Scene::new();
    for path in ["no/such/folder/gateway.pid", "gateway.pid"] {
        let mut command = scene.bare(["-f", path]);
        command.arg("status");
        scene.finish_command(command).assert_code(3);
    }
    assert!(!scene.path("no").exists() && !scene.pid_file().exists());
    scene
        .finish_command(scene.bare(["-n", "web", "status"]))
        .assert_code(3);
    scene.finish_command(scene.bare(["list"])).assert_code(0);
    assert!(!scene.path("state").exists());
    for prepare in ["free", "crashed", "held"] {
        let scene = Scene::new();
        let mut holder = scene.hold();
        match prepare {
            "free" => drop(scene.finish(["stop"])),
            "crashed" => holder.crash(),
            _ => {}
        }
        let before = scene.footprint();
        for _ in 0..5 {
            scene.finish(["status"]);
            scene.finish(["status", "--json"]);
            scene.finish_command(scene.bare(["list"]));
        }
        assert_eq!(scene.footprint(), before, "{prepare}");
    }
}

/// public hermes `gateway/status.py`: the probe itself took the lock.
#[test]
fn the_lock_is_not_touched_while_a_holder_is_visible() {
    let scene = Scene::new();
    let _holder = scene.hold();
    let calls = "trace=flock,openat,unlink,unlinkat,rename,renameat2,ftruncate,pwrite64,mkdir";
    for words in [&["status"][..], &["status", "--json"], &["list"]] {
        let command = match words {
            ["list"] => scene.bare(words),
            _ => scene.gateway(words),
        };
        let mut trace = Trace::start(&scene, calls, &command);
        assert_eq!(trace.process.end(), End::Code(0));
        for call in trace.calls() {
            let reads = call.name == "openat"
                && !["O_CREAT", "O_TRUNC", "O_WRONLY", "O_RDWR"]
                    .iter()
                    .any(|flag| call.rest.contains(flag));
            assert!(reads, "{words:?}: {call:?}");
        }
    }
}

#[test]
fn a_file_that_may_only_be_read_can_be_looked_at() {
    let scene = Scene::for_everybody();
    let mut holder = scene.hold();
    set_mode(&scene.pid_file(), 0o644);
    let command = as_nobody(&scene, &scene.gateway(["status"]));
    let output = scene.finish_command(command);
    // Its descriptors may not be read; the kernel's table of locks may.
    output.assert_code(0);
    let held = format!("held: pid {} (", holder.pid());
    assert!(output.stdout.starts_with(&held), "{output:?}");
    holder.crash();
    let command = as_nobody(&scene, &scene.gateway(["status"]));
    scene.finish_command(command).assert_code(1);
}

/// A reader that has gone away is no fault.
#[test]
fn a_closed_pipe_is_no_fault() {
    let scene = Scene::new();
    let mut command = scene.command("bash");
    let script = "\"$@\" -f gateway.pid status | true; echo ${PIPESTATUS[0]}";
    command.args(["-c", script, "bash"]).arg(scene.program());
    let output = scene.finish_command(command);
    assert!(
        ["3\n", "141\n"].contains(&output.stdout.as_str()),
        "{output:?}"
    );
    assert_eq!(output.stderr, "");
}

// ---------------------------------------------------------------- what cannot be told

/// Without a path there is nothing to look at: that is no other code, and no other form.
#[test]
fn a_path_that_cannot_be_found_is_unknown() {
    let scene = Scene::for_everybody();
    let relative = |words: &[&str]| {
        let mut command = scene.bare(words);
        command.env("GATEWAY_PID_FILE", "relative/gateway.pid");
        scene.finish_command(command)
    };
    let homeless = |words: &[&str]| {
        let mut command = scene.command("setpriv");
        command
            .args(["--reuid", "54321", "--regid", "54321", "--clear-groups"])
            .arg(scene.program())
            .args(words)
            .env_remove("GATEWAY_STATE_DIR");
        scene.finish_command(command)
    };
    assert_unknown(relative, "not an absolute path");
    assert_unknown(homeless, "no home");
}

#[track_caller]
fn assert_unknown(with: impl Fn(&[&str]) -> Output, why: &str) {
    let text = with(&["status"]);
    text.assert_code(4).assert_one_line().assert_says(why);
    assert!(text.stdout.starts_with("unknown: "), "{text:?}");
    let json = with(&["status", "--json"]);
    json.assert_code(4).assert_one_line().assert_says(why);
    let value: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(value["state"], "unknown");
    for key in ["pid_file", "holder", "last"] {
        assert_eq!(value.get(key), Some(&serde_json::Value::Null), "{value}");
    }
}

#[test]
fn what_cannot_be_told_is_a_word_on_stdout_too() {
    let scene = Scene::new();
    fs::create_dir(scene.pid_file()).unwrap();
    assert_state(&scene, "unknown", 4);
}

/// A time alone would mean today.
#[test]
fn a_crash_of_another_day_has_its_date() {
    let scene = Scene::new();
    let text = record_naming(&scene.pid_file(), 4_000_000);
    fs::write(scene.pid_file(), text).unwrap();
    let text = scene.finish(["status"]).stdout;
    assert!(
        text.contains("at or after 2026-01-01 00:00 UTC"),
        "the date of the record: {text}"
    );
}

/// One key, one meaning: `argv` is the gateway's, also of a run that is over.
#[test]
fn argv_is_the_gateways_in_every_state() {
    let scene = Scene::new();
    let mut holder = scene.hold();
    let held = scene.status();
    holder.crash();
    let crashed = scene.status();
    for key in ["argv", "payload", "pid", "run_id"] {
        assert_eq!(crashed["last"][key], held["holder"][key], "{key}");
    }
    assert_eq!(crashed["last"]["argv"][3], "run");
    scene.finish(["run", "--", "true"]).assert_code(0);
    let ended = scene.status();
    assert_eq!(ended["last"]["argv"][3], "run");
    assert_eq!(ended["last"]["payload"]["argv"][0], "true");
}

/// That we may open too few files says nothing of who holds.
#[test]
fn a_limit_of_our_own_is_not_taken_for_somebody_who_cannot_be_seen() {
    let scene = Scene::new();
    fs::write(scene.pid_file(), "").unwrap();
    let locker = Locker::on(&scene, &scene.pid_file());
    let mut told = 0;
    for limit in 4..12 {
        let script = format!("ulimit -n {limit}; exec \"$@\"");
        let status = scene.gateway(["status"]);
        let output = scene.finish_command(scene.behind("sh", &["-c", &script, "sh"], &status));
        if output.end == End::Code(0) {
            assert!(
                output
                    .stdout
                    .starts_with(&format!("foreign: pid {}", locker.pid()))
            );
        } else {
            output.assert_code(4).assert_says("ulimit -n");
            told += 1;
        }
    }
    assert!(told > 0);
}

/// A copy of a record is that of no crash as long as the run that wrote it goes on.
#[test]
fn a_copy_of_a_living_holders_record_is_no_crash() {
    let scene = Scene::new();
    let mut holder = scene.hold();
    let copy = scene.path("copy.pid");
    std::fs::copy(scene.pid_file(), &copy).unwrap();
    let status = || {
        let mut command = scene.bare(["-f"]);
        command.arg(&copy).arg("status");
        scene.finish_command(command)
    };
    status().assert_code(3);
    holder.crash();
    status().assert_code(1);
}
