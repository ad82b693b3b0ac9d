//! Taking a free lock: whatever the file holds, and whether or not it is there.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use crate::harness::{
    End, Payload, Process, SOON, Scene, Signal, in_pid_namespace, lockers, until,
};
use crate::people::{Canary, record_naming};

#[test]
fn a_start_without_a_file_makes_one_and_runs() {
    let scene = Scene::new();
    let holder = scene.hold();
    let record = scene.record();
    assert_eq!(record.pid(), holder.pid());
    assert_eq!(record.first_line, holder.pid().to_string());
    assert_eq!(scene.lockers(), [holder.pid()]);
    assert_eq!(scene.state(), "held");
}

#[test]
fn a_new_file_is_0600_whatever_the_umask() {
    for umask in ["0000", "0777"] {
        let scene = Scene::new();
        let mut command = scene.command("sh");
        let script = format!("umask {umask}; exec \"$@\"");
        command.args(["-c", &script, "sh"]).arg(scene.program());
        command.arg("-f").arg(scene.path("made/gateway.pid"));
        command.args(["run", "--", "true"]);
        scene.finish_command(command).assert_code(0);
        let mode = |path| fs::metadata(scene.path(path)).unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode("made/gateway.pid"), 0o600, "umask {umask}");
        assert_eq!(mode("made"), 0o700, "umask {umask}");
    }
}

#[test]
fn an_existing_mode_is_left_as_it_is() {
    let scene = Scene::new();
    fs::write(scene.pid_file(), "").unwrap();
    crate::harness::set_mode(&scene.pid_file(), 0o640);
    scene.finish(["run", "--", "true"]).assert_code(0);
    assert_eq!(
        fs::metadata(scene.pid_file()).unwrap().mode() & 0o7777,
        0o640
    );
}

/// thuehlinger/daemons#1, getpaseo/paseo#4803, naemon/naemon-core#75 and their like.
#[test]
fn an_unlocked_file_with_any_contents_is_taken() {
    let strangers = Canary::new();
    let mut everything: Vec<Vec<u8>> = [
        "",
        "\n",
        "0\n",
        "-1\n",
        "1\n",
        "1",
        "+5\n",
        " 7\n",
        "7 \n",
        "4194305\n",
        "99999999999999999999999\n",
        "12abc\n",
        "gateway\n",
        "{}",
        "[]\n",
        "null",
        "{\"pid\":0}",
        "{\"pid\":-5,\"start_time\":3,\"argv\":[]}",
        "7\n{\"format\":1",
        "7\n{\"format\":1}\n",
        "\n{}\n",
    ]
    .iter()
    .map(|text| text.as_bytes().to_vec())
    .collect();
    everything.push(vec![0; 4096]);
    everything.push((0..=255).collect());
    everything.push(vec![b'7'; 60_000]);
    everything.push(format!("{}\n", std::process::id()).into_bytes());
    everything.push(format!("{}\n", strangers.pid()).into_bytes());
    everything.push(
        format!(
            "{{\"pid\":{},\"start_time\":1,\"argv\":[\"hermes\"]}}",
            strangers.pid()
        )
        .into_bytes(),
    );
    for contents in everything {
        for options in [
            &["run", "--", "true"][..],
            &["run", "--replace", "--", "true"],
        ] {
            let scene = Scene::new();
            fs::write(scene.pid_file(), &contents).unwrap();
            let output = scene.finish(options);
            assert_eq!(
                output.end,
                End::Code(0),
                "{options:?} {contents:?} {output:?}"
            );
            let record = scene.record();
            assert_eq!(record.first_line, "", "no leftovers of {contents:?}");
            assert_eq!(scene.state(), "free");
        }
    }
    strangers.assert_undisturbed();
}

/// moby/moby#26729: the number of a crashed holder is given to a stranger.
#[test]
fn nobody_is_signalled_while_the_lock_is_free() {
    let scene = Scene::new();
    let stranger = Canary::new();
    for options in [
        &["run", "--", "true"][..],
        &["run", "--replace", "--", "true"],
        &["stop"],
    ] {
        let text = record_naming(&scene.pid_file(), stranger.pid());
        fs::write(scene.pid_file(), text).unwrap();
        scene.finish(options).assert_code(0);
    }
    stranger.assert_undisturbed();
}

/// cagriekin/charts#346: `kill(tid, 0)` answers yes for a thread of anybody.
#[test]
fn the_number_of_a_thread_blocks_nobody() {
    let scene = Scene::new();
    let thread = rustix::thread::gettid().as_raw_nonzero();
    assert_ne!(
        thread.get().cast_unsigned(),
        std::process::id(),
        "a test has a thread of its own"
    );
    fs::write(scene.pid_file(), format!("{thread}\n")).unwrap();
    scene
        .finish(["run", "--replace", "--", "true"])
        .assert_code(0);
}

/// troglobit/inadyn#334: every run in a container has the same number.
#[test]
fn a_record_with_our_own_number_is_no_rival() {
    let scene = Scene::new();
    let payload = scene.payload(Payload::Plain);
    for round in 1..=3 {
        let command = scene.gateway(["run", "--replace", "--", &payload]);
        let mut container = scene.spawn(in_pid_namespace(&scene, &command));
        until("the payload in the container", SOON, || {
            assert!(container.is_running(), "{}", container.stderr());
            (scene.started_payloads().len() == round).then_some(())
        });
        assert_eq!(scene.record().pid(), 1);
        container.crash();
        scene.wait_until_empty();
    }
    scene.assert_never_two_payloads();
}

/// NousResearch/hermes-agent#14203, linuxserver/docker-mastodon#40: the founding outage.
#[test]
fn a_crash_is_followed_by_a_start_at_the_first_try() {
    let rounds = if std::env::var_os("GATEWAY_TEST_LONG").is_some() {
        1000
    } else {
        100
    };
    let scene = Scene::new();
    let mut holder = scene.hold();
    let payload = scene.payload(Payload::Plain);
    for round in 0..rounds {
        holder.crash();
        let options = if round % 2 == 0 {
            &["run", "--"][..]
        } else {
            &["run", "--replace", "--"]
        };
        holder = scene.wait_for_payload(scene.start(options.iter().chain(&[payload.as_str()])));
    }
    scene.assert_never_two_payloads();
    assert_eq!(scene.started_payloads().len(), rounds + 1);
    assert_eq!(scene.lockers(), [holder.pid()]);
}

/// NousResearch/hermes-agent#6193, rsyslog/rsyslog#1017: lock, then record, then command.
#[test]
fn the_record_is_written_before_the_command_starts() {
    let scene = Scene::new();
    let script = "head -n1 \"$GATEWAY_PID_FILE\"; echo $GATEWAY_PID; echo $PPID; sed -n 2p \"$GATEWAY_PID_FILE\"";
    let output = scene.finish(["run", "--", "sh", "-c", script]);
    output.assert_code(0);
    let lines: Vec<&str> = output.stdout.lines().collect();
    assert_eq!(lines[0], lines[1]);
    assert_eq!(lines[0], lines[2]);
    let record: serde_json::Value = serde_json::from_str(lines[3]).unwrap();
    assert_eq!(record["pid"].to_string(), lines[0]);
}

#[test]
fn the_command_is_told_what_it_runs_under() {
    let scene = Scene::new();
    let _holder = scene.hold();
    let record = scene.record();
    let environment = crate::harness::environment(record.payload_pid());
    let told = |name: &str| {
        environment[std::ffi::OsStr::new(name)]
            .to_str()
            .unwrap()
            .to_owned()
    };
    assert_eq!(told("GATEWAY_PID_FILE"), scene.pid_file().to_str().unwrap());
    assert_eq!(told("GATEWAY_PID"), record.pid().to_string());
    assert_eq!(told("GATEWAY_RUN_ID"), record.text("/run_id"));
    assert_eq!(
        told("GATEWAY_GENERATION"),
        record.number("/generation").to_string()
    );
}

/// MaterializeInc/materialize#12050: a child that inherited the descriptor kept the lock.
#[test]
fn the_command_does_not_inherit_the_lock() {
    let scene = Scene::new();
    let holder = scene.hold();
    assert_eq!(scene.lockers(), [holder.pid()]);
    for process in crate::harness::descendants(holder.pid()) {
        for entry in fs::read_dir(format!("/proc/{process}/fd")).unwrap() {
            let link = fs::read_link(entry.unwrap().path()).unwrap_or_default();
            assert_ne!(link, scene.pid_file(), "pid {process}");
        }
    }
}

/// Supervisor/supervisor#199: the worker of a killed supervisor lived on.
#[test]
fn the_command_dies_with_its_gateway() {
    let scene = Scene::new();
    let mut holder = scene.hold_with(&[], Payload::Deaf);
    holder.crash();
    scene.wait_until_empty();
    assert_eq!(scene.state(), "crashed");
}

#[test]
fn a_run_without_a_command_holds_until_it_is_told_to_stop() {
    let scene = Scene::new();
    let mut holder = scene.start(["run"]);
    scene.wait_for_record("a record", |record| record.pid() == holder.pid());
    assert_eq!(scene.state(), "held");
    assert!(
        scene
            .record()
            .json
            .get("payload")
            .is_none_or(serde_json::Value::is_null)
    );
    holder.signal(Signal::TERM);
    assert_eq!(holder.end(), End::Code(0));
    assert_eq!(scene.state(), "free");
}

#[test]
fn of_many_plain_starts_one_holds_and_the_others_are_refused() {
    let scene = Scene::new();
    let payload = scene.payload(Payload::Plain);
    let mut starts: Vec<Process> = (0..64)
        .map(|_| scene.start(["run", "--", &payload]))
        .collect();
    let held = scene.wait_for_record("a holder", |record| record.has_payload());
    for start in starts.iter_mut().filter(|start| start.pid() != held.pid()) {
        assert_eq!(start.end(), End::Code(80), "{}", start.stderr());
    }
    assert_eq!(scene.started_payloads(), [held.payload_pid()]);
    assert_eq!(scene.lockers(), [held.pid()]);
    assert!(
        starts
            .iter_mut()
            .any(|start| start.pid() == held.pid() && start.is_running())
    );
    scene.assert_never_two_payloads();
}

/// NousResearch/hermes-agent#11718: several `--replace` at once left several, or none.
#[test]
fn of_many_takeovers_one_survives() {
    let scene = Scene::new();
    let payload = scene.payload(Payload::Plain);
    let mut starts: Vec<Process> = (0..64)
        .map(|_| scene.start(["run", "--replace", "--timeout", "120", "--", &payload]))
        .collect();
    let limit = std::time::Duration::from_secs(90);
    until("63 of 64 have ended", limit, || {
        let ended = starts.iter_mut().filter_map(Process::try_end).count();
        assert!(ended < 64, "nobody is left");
        (ended == 63).then_some(())
    });
    for start in &mut starts {
        if let Some(end) = start.try_end() {
            let allowed = [
                End::of(Signal::TERM),
                End::Code(0),
                End::Code(81),
                End::Code(82),
            ];
            assert!(allowed.contains(&end), "{end:?}: {}", start.stderr());
        }
    }
    let survivor = starts
        .into_iter()
        .find_map(|mut start| start.is_running().then_some(start));
    let survivor = scene.wait_for_payload(survivor.expect("one runs"));
    assert_eq!(scene.record().pid(), survivor.pid());
    assert_eq!(scene.lockers(), [survivor.pid()]);
    scene.assert_never_two_payloads();
}

/// Two files are two instances.
#[test]
fn different_files_do_not_exclude_each_other() {
    let scene = Scene::new();
    let holder = scene.hold();
    let mut command = scene.bare(["-f", "other.pid", "run"]);
    command.args(["--", "true"]);
    scene.finish_command(command).assert_code(0);
    assert_eq!(lockers(&scene.pid_file()), [holder.pid()]);
}
