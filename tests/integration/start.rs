//! Taking a free lock: whatever the file holds, and whether or not it is there.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::time::Duration;

use crate::harness::{
    Canary, End, Payload, Process, SOON, Scene, Signal, descendants, in_pid_namespace, injected,
    is_held_up_in, lockers, signal, stat_field, until, wait_until,
};
use crate::people::record_naming;

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
        for replace in [&[][..], &["--replace"]] {
            let options = [&["run"], replace, &["--", "true"]].concat();
            let scene = Scene::new();
            fs::write(scene.pid_file(), &contents).unwrap();
            let output = scene.finish(&options);
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
    strangers.assert_heard_nothing();
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
    stranger.assert_heard_nothing();
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
    let long = std::env::var_os("GATEWAY_TEST_LONG").is_some_and(|value| value != "0");
    let rounds = if long { 1000 } else { 100 };
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
    let told = |name: &str| crate::harness::variable(record.payload_pid(), name);
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
    scene.wait_for_mark("deaf");
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
    // The record names it before its first line has run.
    wait_until("the one payload has started", SOON, || {
        scene.started_payloads() == [held.payload_pid()]
    });
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
        // Each held, or was about to, and was asked: no deadline was near.
        if let Some(end) = start.try_end() {
            assert_eq!(end, End::of(Signal::TERM), "{}", start.stderr());
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

/// jordanhubbard/mac#144: SIGKILL in the middle of a drain left files that blocked every start.
#[test]
fn a_kill_in_the_middle_of_a_stop_blocks_nobody() {
    let scene = Scene::new();
    for round in 0..5 {
        let mut holder = scene.hold_with(&[], Payload::Slow("60"));
        until("the payload is ready", SOON, || {
            let ready = scene
                .lines("marks")
                .iter()
                .filter(|mark| *mark == "ready")
                .count();
            (ready == round + 1).then_some(())
        });
        holder.signal(Signal::TERM);
        until("it drains", SOON, || {
            let stops = scene
                .lines("marks")
                .iter()
                .filter(|mark| mark.starts_with("stopped"))
                .count();
            (stops == round + 1).then_some(())
        });
        holder.crash();
    }
    scene
        .finish(["run", "--replace", "--", "true"])
        .assert_code(0);
    scene.assert_never_two_payloads();
}

/// tox-dev/filelock#561: the file is replaced between the opening and the locking of it.
#[test]
fn a_file_that_is_replaced_between_open_and_lock_is_noticed() {
    let scene = Scene::new();
    fs::write(scene.pid_file(), "").unwrap();
    let payload = scene.payload(Payload::Plain);
    let command = scene.gateway(["run", "--", &payload]);
    let slow = scene.spawn(injected(
        &scene,
        "flock:delay_enter=1500000:when=1",
        &command,
    ));
    let has_it_open = |pid: u32| {
        let fds = fs::read_dir(format!("/proc/{pid}/fd"))
            .into_iter()
            .flatten();
        fds.filter_map(|fd| fs::read_link(fd.ok()?.path()).ok())
            .any(|link| link == scene.pid_file())
    };
    until("the slow one has opened the file", SOON, || {
        crate::harness::descendants(slow.pid())
            .into_iter()
            .find(|pid| has_it_open(*pid))
    });
    fs::remove_file(scene.pid_file()).unwrap();
    let holder = scene.hold();
    let output = slow.output();
    output
        .assert_code(80)
        .assert_says(&holder.pid().to_string());
    scene.assert_never_two_payloads();
}

/// aristanetworks/bst#74: the parent dies between the fork and the parent-death signal.
#[test]
fn a_gateway_that_dies_while_it_forks_starts_nothing() {
    let scene = Scene::new();
    let payload = scene.payload(Payload::Plain);
    let command = scene.gateway(["run", "--", &payload]);
    let _slow = scene.spawn(injected(&scene, "prctl:delay_enter=500000", &command));
    let record = scene.wait_for_record("a record", |record| !record.is_ended());
    let child = until("its child", SOON, || {
        crate::harness::descendants(record.pid()).first().copied()
    });
    assert!(
        scene.started_payloads().is_empty(),
        "the child is held up in time"
    );
    crate::harness::kill(record.pid());
    until("the child has ended", SOON, || {
        (!crate::harness::exists(child)).then_some(())
    });
    assert_eq!(scene.started_payloads(), [0; 0]);
}

/// aristanetworks/bst#74 again, where the orphan comes to a living process, as under a session
/// manager, and not to pid 1.
#[test]
fn a_gateway_that_dies_while_it_forks_starts_nothing_below_a_subreaper_either() {
    let scene = Scene::new();
    let payload = scene.payload(Payload::Plain);
    let inner = scene.gateway(["run", "--", &payload]);
    let slow = injected(&scene, "prctl:delay_enter=1000000", &inner);
    let gateway = scene.program().to_str().unwrap();
    let mut outer = scene.spawn(scene.behind(gateway, &["-f", "outer.pid", "run", "--"], &slow));
    let record = scene.wait_for_record("a record", |record| !record.is_ended());
    let child = until("its child", SOON, || {
        crate::harness::descendants(record.pid()).first().copied()
    });
    crate::harness::remember(child);
    assert_eq!(scene.started_payloads(), [0; 0], "it is held up in time");
    crate::harness::kill(record.pid());
    let foster = outer.pid().to_string();
    until("the child has come to the outer gateway", SOON, || {
        (stat_field(child, 4)? == foster).then_some(())
    });
    until("the child has ended", SOON, || {
        (!crate::harness::exists(child)).then_some(())
    });
    assert_eq!(scene.started_payloads(), [0; 0]);
    assert_eq!(outer.end(), End::Code(128 + 9), "the inner one was killed");
}

/// manticoresoftware/manticoresearch#4895: an exiting daemon removed its successor's file.
#[test]
fn a_whole_life_removes_and_truncates_nothing() {
    let scene = Scene::new();
    let calls = "trace=unlink,unlinkat,rename,renameat,renameat2,link,linkat,truncate,ftruncate,pwrite64,open,openat,creat,flock";
    let payload = scene.payload(Payload::Graceful);
    let command = scene.gateway(["run", "--", &payload]);
    let mut trace = crate::harness::Trace::start(&scene, calls, &command);
    let record = scene.wait_for_record("a payload", |record| record.has_payload());
    scene.wait_for_mark("ready");
    scene
        .finish(["run", "--replace", "--", "true"])
        .assert_code(0);
    assert_eq!(trace.process.end(), End::Code(0));
    let own: Vec<_> = trace
        .calls()
        .into_iter()
        .filter(|call| call.pid == record.pid())
        .collect();
    let path = scene.pid_file();
    let path = path.to_str().unwrap();
    assert!(
        own.iter()
            .any(|call| call.name.starts_with("open") && call.rest.contains(path)),
        "the trace shows how the file is opened"
    );
    for call in &own {
        let forbidden = call.name.starts_with("unlink")
            || call.name.starts_with("rename")
            || call.name.starts_with("link")
            || call.name == "creat"
            || call.name.starts_with("open")
                && call.rest.contains(path)
                && call.rest.contains("O_TRUNC")
            || call.name == "flock" && call.rest.contains("LOCK_UN");
        assert!(!forbidden, "{call:?}");
    }
    // One write each, and a cut only to the length of the one before it: where a longer one was.
    let changes: Vec<_> = own
        .iter()
        .filter(|call| call.name == "pwrite64" || call.name == "ftruncate")
        .collect();
    let writes = changes
        .iter()
        .filter(|call| call.name == "pwrite64")
        .count();
    assert_eq!(writes, 3, "held, with its payload, ended: {changes:#?}");
    assert_eq!(changes[0].name, "pwrite64");
    let number = |text: &str| text.trim().parse::<u64>().expect("a number");
    for pair in changes
        .windows(2)
        .filter(|pair| pair[1].name == "ftruncate")
    {
        assert_eq!(pair[0].name, "pwrite64", "{changes:#?}");
        let (_, written) = pair[0].rest.rsplit_once('=').expect("an answer");
        let (arguments, _) = pair[1].rest.rsplit_once(')').expect("an answer");
        let (_, length) = arguments.rsplit_once(',').expect("two arguments");
        assert_eq!(number(length), number(written), "{pair:#?}");
    }
}

/// irungentoo/toxcore#1111: readers caught the empty moment.
#[test]
fn a_reader_never_meets_an_empty_file() {
    let scene = Scene::new();
    let mut holder = scene.hold();
    let payload = scene.payload(Payload::Plain);
    let enough = std::sync::atomic::AtomicBool::new(false);
    let path = scene.pid_file();
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let (mut reads, mut bad) = (0u32, Vec::new());
            while !enough.load(std::sync::atomic::Ordering::Relaxed) {
                let bytes = fs::read(&path).unwrap();
                let line = bytes.split(|byte| *byte == b'\n').next().unwrap().to_vec();
                let sound = line.iter().all(u8::is_ascii_digit) && bytes.contains(&b'\n');
                if !sound {
                    bad.push(String::from_utf8_lossy(&bytes).into_owned());
                }
                reads += 1;
            }
            (reads, bad)
        });
        for _ in 0..20 {
            holder = scene.wait_for_payload(scene.start(["run", "--replace", "--", &payload]));
        }
        enough.store(true, std::sync::atomic::Ordering::Relaxed);
        let (reads, bad) = reader.join().unwrap();
        assert_eq!(bad, Vec::<String>::new());
        assert!(reads > 100, "{reads}");
    });
    assert!(holder.is_running());
}

/// Two names for one file are one lock.
#[test]
fn a_hard_link_is_the_same_lock() {
    let scene = Scene::new();
    let mut holder = scene.hold();
    fs::hard_link(scene.pid_file(), scene.path("other.pid")).unwrap();
    let other = |words: &[&str]| {
        let mut command = scene.bare(["-f", "other.pid"]);
        command.args(words);
        scene.finish_command(command)
    };
    other(&["run", "--", "true"]).assert_code(80);
    other(&["run", "--replace", "--", "true"]).assert_code(0);
    assert_eq!(holder.end(), End::of(Signal::TERM));
    scene.finish(["run", "--", "true"]).assert_code(0);
}

#[test]
fn the_payload_can_ask_about_itself() {
    let scene = Scene::new();
    let mut command = scene.gateway(["run", "--", "sh", "-c", "\"$GATEWAY\" status --json"]);
    command
        .env("GATEWAY", scene.program())
        .env_remove("GATEWAY_STATE_DIR");
    let output = scene.finish_command(command);
    output.assert_code(0);
    let json: serde_json::Value = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!(json["pid_file"], scene.pid_file().to_str().unwrap());
    assert_eq!(json["state"], "held");
}

/// One descriptor too few, whichever that is, is told, at once: no limit of our own rises by waiting.
#[test]
fn a_start_with_too_few_descriptors_says_so_at_once() {
    for limit in 4..12 {
        for mode in ["--wait", "--replace"] {
            let scene = Scene::new();
            let gateway = scene.gateway(["run", mode, "--", "echo", "ran"]);
            let script = format!("ulimit -n {limit}; exec \"$@\"");
            let command = scene.behind("sh", &["-c", &script, "sh"], &gateway);
            let output = scene.finish_command(command);
            assert!(output.took < Duration::from_secs(5), "{limit}: {output:?}");
            if output.end == End::Code(0) {
                assert_eq!(output.stdout, "ran\n", "{limit}");
            } else {
                output.assert_one_line().assert_says("ulimit -n");
            }
        }
    }
}

/// Where others have very many files open, or answer slowly, to look through them takes long.
#[test]
fn a_search_through_everybody_can_be_interrupted() {
    let scene = Scene::new();
    let start = scene.gateway(["run", "--", "touch", "ran"]);
    let mut slow = scene.spawn(injected(&scene, "getdents64:delay_enter=300000", &start));
    let search = || is_held_up_in(&slow, libc::SYS_getdents64);
    wait_until("it looks through everybody", SOON, search);
    let gateway = descendants(slow.pid())[0];
    assert_eq!(scene.lockers(), [gateway], "it has the lock");
    let began = std::time::Instant::now();
    signal(gateway, Signal::TERM);
    assert_eq!(slow.end(), End::of(Signal::TERM));
    assert!(
        began.elapsed() < Duration::from_secs(5),
        "{:?}",
        began.elapsed()
    );
    assert!(!scene.path("ran").exists());
    assert_eq!(scene.bytes(), b"", "nothing was written");
}

/// Nobody has it, so nobody is told to have it, however late it is.
#[test]
fn an_interrupted_search_is_an_interrupted_start_after_the_deadline_too() {
    let limits = ["--timeout", "1"];
    let wait = [&["run", "--wait"], &limits[..]].concat();
    let replace = [&["run", "--replace", "--kill-after", "0.5"], &limits[..]].concat();
    for words in [wait, replace] {
        let scene = Scene::new();
        let start = scene.gateway([&words[..], &["--", "touch", "ran"]].concat());
        let mut slow = scene.spawn(injected(&scene, "getdents64:delay_enter=2000000", &start));
        wait_until("it looks through everybody", SOON, || {
            is_held_up_in(&slow, libc::SYS_getdents64)
        });
        let began = std::time::Instant::now();
        wait_until("the deadline is over", SOON, || {
            began.elapsed() > Duration::from_millis(1200)
        });
        signal(descendants(slow.pid())[0], Signal::TERM);
        assert_eq!(slow.end(), End::of(Signal::TERM), "{}", slow.stderr());
        assert_eq!(scene.bytes(), b"");
    }
}
