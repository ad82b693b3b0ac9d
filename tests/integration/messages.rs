//! Words on stderr: few, with our name, and never in the way.

use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::process::Stdio;
use std::time::Duration;

use crate::harness::{
    End, Locker, MountSpace, Payload, Process, SOON, Scene, Signal, Terminal, as_nobody, set_mode,
    until, wait_until,
};

#[test]
fn a_start_and_an_end_that_go_well_are_silent() {
    let scene = Scene::new();
    scene
        .finish(["run", "--", "true"])
        .assert_code(0)
        .assert_silent();
    let holder = scene.hold_with(&[], Payload::Graceful);
    scene.wait_for_mark("ready");
    holder.signal(Signal::TERM);
    let output = holder.output();
    output.assert_code(0).assert_silent();
}

/// Whatever was tried: the cause tells what to do.
#[test]
fn a_limit_and_a_place_that_cannot_be_written_tell_what_to_do() {
    let scene = Scene::new();
    let start = scene.gateway(["run", "--", "true"]);
    for limit in ["--nofile=4", "--nofile=6"] {
        let output = scene.finish_command(scene.behind("prlimit", &[limit], &start));
        assert_ne!(output.end, End::Code(0));
        output.assert_one_line().assert_says("ulimit -n");
        assert!(!output.stderr.contains("mount"), "{output:?}");
    }
    let space = MountSpace::tmpfs(&scene, "place", "ro");
    let path = scene.path("place/gateway.pid");
    let output = scene.finish_command(space.gateway(&path, ["run", "--", "true"]));
    output.assert_code(83).assert_one_line();
    output
        .assert_says(path.to_str().unwrap())
        .assert_says("-f PATH");
}

#[test]
fn stdout_belongs_to_the_command() {
    let scene = Scene::new();
    let output = scene.finish(["-vvv", "run", "--", "printf", "mine"]);
    output.assert_code(0);
    assert_eq!(output.stdout, "mine");
    assert!(!output.stderr.is_empty(), "-v tells more");
    let _holder = scene.hold();
    let refused = scene.finish(["run", "--", "true"]);
    assert_eq!(refused.stdout, "");
}

#[test]
fn every_line_has_our_name() {
    let scene = Scene::new();
    let holder = scene.hold_with(&["--stop-timeout", "300ms"], Payload::Deaf);
    scene.wait_for_mark("deaf");
    fs::remove_file(scene.pid_file()).unwrap();
    wait_until("the holder says so", SOON, || !holder.stderr().is_empty());
    let payload = scene.payload(Payload::Script("setsid sleep infinity & exit 3\n"));
    let output = scene.finish(["-v", "run", "--replace", "--", &payload]);
    let said = holder.stderr() + &output.stderr;
    assert!(said.lines().count() >= 4, "{said}");
    for line in said.lines() {
        assert!(line.starts_with("gateway: "), "{said}");
    }
}

#[test]
fn quiet_silences_what_was_to_be_expected_and_no_fault() {
    let scene = Scene::new();
    let _holder = scene.hold_with(&[], Payload::Slow("0.2"));
    scene.wait_for_mark("ready");
    for (words, code) in [
        (&["-q", "run", "--", "true"][..], 80),
        (
            &["-q", "run", "--wait", "--timeout", "100ms", "--", "true"],
            81,
        ),
        (&["-q", "run", "--replace", "--", "true"], 0),
        (&["-q", "stop"], 0),
    ] {
        scene.finish(words).assert_code(code).assert_silent();
    }
    fs::remove_file(scene.pid_file()).unwrap();
    fs::create_dir(scene.pid_file()).unwrap();
    let output = scene.finish(["-q", "run", "--", "true"]);
    output.assert_code(83).assert_one_line();
    scene
        .finish(["-q", "run", "--", "no-such-command"])
        .assert_code(127)
        .assert_one_line();
}

#[test]
fn a_filter_can_be_set_by_the_environment() {
    let scene = Scene::new();
    let mut command = scene.gateway(["run", "--", "true"]);
    command.env("GATEWAY_LOG", "info");
    let output = scene.finish_command(command);
    output.assert_code(0).assert_says("got the lock");
    let mut command = scene.gateway(["run", "--", "true"]);
    command.env("GATEWAY_LOG", "nonsense=");
    scene.finish_command(command).assert_code(0);
}

/// A message that finds a pipe's reader gone, or asleep, holds up nothing.
fn hold_with_a_full_pipe(scene: &Scene) -> (Process, std::io::PipeReader) {
    let (reader, writer) = std::io::pipe().unwrap();
    // Filled to the brim, so that no word of ours has room.
    rustix::io::ioctl_fionbio(&writer, true).unwrap();
    while rustix::io::write(&writer, &[b'.'; 4096]).is_ok() {}
    while rustix::io::write(&writer, b".").is_ok() {}
    rustix::io::ioctl_fionbio(&writer, false).unwrap();
    let payload = scene.payload(Payload::Plain);
    let mut command = scene.gateway(["-v", "run", "--", &payload]);
    command.stderr(writer).stdout(Stdio::null());
    let (out, err) = scene.words();
    (Process::start_as_is(command, out, err), reader)
}

/// A terminal whose emulator reads nothing any more has room for some bytes, and not for a line.
#[test]
fn a_terminal_with_too_little_room_does_not_hold_up_a_signal() {
    for room in [32, 64, 128] {
        let scene = Scene::new();
        let _holder = scene.hold();
        let terminal = Terminal::open();
        terminal.fill_but(room);
        let command = scene.gateway(["run", "--wait", "--", "true"]);
        let mut standby = terminal.start(&scene, &command);
        // It has said so much as fits, and sleeps where it hears.
        wait_until("it sleeps in ppoll(2)", SOON, || {
            let call = std::fs::read_to_string(format!("/proc/{}/syscall", standby.pid()));
            let poll = format!("{} ", libc::SYS_ppoll);
            call.is_ok_and(|call| call.starts_with(&poll))
        });
        standby.signal(Signal::TERM);
        assert_eq!(standby.end(), End::of(Signal::TERM));
    }
}

#[test]
fn a_full_pipe_does_not_hold_up_a_signal() {
    let scene = Scene::new();
    let (mut holder, mut reader) = hold_with_a_full_pipe(&scene);
    scene.wait_for_record("the payload", |record| record.has_payload());
    let began = std::time::Instant::now();
    holder.signal(Signal::TERM);
    assert_eq!(holder.end(), End::of(Signal::TERM));
    assert!(
        began.elapsed() < Duration::from_secs(3),
        "{:?}",
        began.elapsed()
    );
    // It was full all the while: what it had no room for was dropped, whole.
    let mut read = Vec::new();
    reader.read_to_end(&mut read).unwrap();
    assert!(read.len() >= 4096 && read.iter().all(|byte| *byte == b'.'));
}

#[test]
fn a_closed_pipe_does_not_end_the_holder() {
    let scene = Scene::new();
    let (mut holder, reader) = hold_with_a_full_pipe(&scene);
    drop(reader);
    scene.wait_for_record("the payload", |record| record.has_payload());
    fs::remove_file(scene.pid_file()).unwrap();
    wait_until("the claim is put back", SOON, || {
        scene.lockers() == [holder.pid()]
    });
    assert!(holder.is_running());
    holder.signal(Signal::TERM);
    assert_eq!(holder.end(), End::of(Signal::TERM));
}

/// What the journal gets of a run, all of it with priorities, and how the stream is named to it.
fn told_to_the_journal(scene: &Scene, words: &[&str], end: End) -> (String, String) {
    let file = fs::File::create(scene.path("journal")).unwrap();
    let stream = file.metadata().unwrap();
    let named = format!("{}:{}", stream.dev(), stream.ino());
    let mut command = scene.gateway(words);
    command
        .env("JOURNAL_STREAM", &named)
        .stderr(file)
        .stdout(Stdio::null());
    let (out, err) = scene.words();
    assert_eq!(Process::start_as_is(command, out, err).end(), end);
    let said = fs::read_to_string(scene.path("journal")).unwrap();
    for line in said.lines() {
        let plain = line.starts_with('<') && !line.contains("gateway: ");
        assert!(plain, "{said}");
    }
    (said, named)
}

#[test]
fn a_unit_that_does_not_work_is_found_in_the_journal_by_priority() {
    let scene = Scene::new();
    let (said, _) = told_to_the_journal(&scene, &["run", "--replce", "--", "true"], End::Code(2));
    assert_eq!(
        said,
        "<3>there is no option --replce; did you mean --replace?\n"
    );
    for (script, ending, code) in [
        ("exit 3", "exit 3", 3),
        ("kill -SEGV $$", "killed by SEGV", 139),
    ] {
        let words = ["run", "--", "sh", "-c", script];
        let (said, _) = told_to_the_journal(&scene, &words, End::Code(code));
        let last = said.lines().last().unwrap();
        let is_warning = last.starts_with("<4>sh -c ") && last.contains(ending);
        assert!(is_warning, "{said}");
        // By hand its code says so already.
        scene.finish(words).assert_code(code).assert_silent();
    }
}

/// In the journal, lines carry their priority, and neither time nor our name.
#[test]
fn the_journal_gets_priorities() {
    let scene = Scene::new();
    let (said, named) = told_to_the_journal(&scene, &["run", "--", "true"], End::Code(0));
    assert!(said.contains("<6>got the lock"), "{said}");
    assert!(said.contains("<6>true ended, exit 0"), "{said}");
    // Named, but not our stderr: inherited from somebody else's unit.
    let mut command = scene.gateway(["run", "--", "true"]);
    command.env("JOURNAL_STREAM", &named);
    scene.finish_command(command).assert_code(0).assert_silent();
}

/// Seen in the kernel's table alone: who it is, its user and root can say.
#[test]
fn a_locker_that_may_not_be_looked_at_is_told_with_who_may() {
    let scene = Scene::for_everybody();
    let mut locker = Locker::on(&scene, &scene.pid_file());
    set_mode(&scene.pid_file(), 0o666);
    for words in [
        &["run", "--", "true"][..],
        &[
            "run",
            "--replace",
            "--timeout",
            "500ms",
            "--kill-after",
            "200ms",
            "--",
            "true",
        ],
        &["stop"],
    ] {
        let command = as_nobody(&scene, &scene.gateway(words));
        let output = scene.finish_command(command);
        output.assert_code(82);
        output.assert_says(&format!("pid {} (sleep infinity),", locker.pid()));
        output.assert_says("look at it as root, or as its user");
    }
    assert!(locker.0.is_running());
}

#[test]
fn a_long_command_line_is_cut() {
    let scene = Scene::new();
    let _holder = scene.start(["run", "--", "sh", "-c", "sleep infinity", &"x".repeat(5000)]);
    scene.wait_for_record("the payload", |record| record.has_payload());
    let output = scene.finish(["run", "--", "true"]);
    output.assert_code(80).assert_one_line().assert_says("…");
    assert!(output.stderr.len() < 400, "{}", output.stderr);
}

#[test]
fn whoever_was_replaced_is_told_by_whom_with_v() {
    let scene = Scene::new();
    let payload = scene.payload(Payload::Plain);
    let holder = scene.wait_for_payload(scene.start(["-v", "run", "--", &payload]));
    let new = scene.wait_for_payload(scene.start(["-v", "run", "--replace", "--", &payload]));
    let mut holder = holder;
    let line = holder.wait_for_line("being replaced: TERM from pid");
    assert!(line.contains(&new.pid().to_string()), "{line}");
    let mut new = new;
    let line = new.wait_for_line("took over from pid");
    assert!(line.contains(&holder.pid().to_string()), "{line}");
}

// ---------------------------------------------------------------- faults, with -q

/// `-q` silences what was to be expected. That the record could not be written was not.
#[test]
fn quiet_does_not_silence_a_record_that_cannot_be_written() {
    let scene = Scene::new();
    // Room for a record without its command, and not for one with it.
    let words = format!(
        "ulimit -f 1; exec \"$@\" -q run -- sh -c : {}",
        "x".repeat(250)
    );
    let mut command = scene.command("bash");
    command.args(["-c", &words, "bash"]).arg(scene.program());
    command.arg("-f").arg(scene.pid_file());
    let output = scene.finish_command(command);
    output
        .assert_code(0)
        .assert_says("cannot write")
        .assert_says("COMMAND runs as pid ")
        .assert_says("how this run ended is not recorded");
}

/// A command that has become another user's hears nothing of a gateway that is not root's.
#[test]
fn quiet_does_not_silence_a_signal_that_cannot_be_sent() {
    let scene = Scene::for_everybody();
    fs::create_dir(scene.path("open")).unwrap();
    crate::harness::set_mode(&scene.path("open"), 0o777);
    fs::copy("/usr/bin/setpriv", scene.path("bin/setpriv")).unwrap();
    crate::harness::set_mode(&scene.path("bin/setpriv"), 0o4755);
    let mut command = scene.bare(["-q", "-f", "open/gateway.pid", "run", "--"]);
    command
        .arg(scene.path("bin/setpriv"))
        .args(["--reuid", "0", "--regid", "0", "--clear-groups"])
        .args(["sleep", "infinity"]);
    let mut holder = scene.spawn(crate::harness::as_nobody(&scene, &command));
    let payload = until("root's command", SOON, || {
        let below = crate::harness::descendants(holder.pid());
        let name = |pid: &u32| fs::read_to_string(format!("/proc/{pid}/comm"));
        below
            .into_iter()
            .find(|pid| name(pid).is_ok_and(|name| name == "sleep\n"))
    });
    holder.signal(Signal::TERM);
    holder.wait_for_line(&format!("cannot send TERM to COMMAND, pid {payload}: "));
    crate::harness::kill(payload);
    assert_eq!(holder.end(), End::of(Signal::TERM));
}

// ---------------------------------------------------------------- what is true without a command

#[test]
fn without_a_command_nothing_is_said_of_one() {
    let scene = Scene::new();
    let mut holder = scene.start(["-v", "run"]);
    scene.wait_for_record("it holds", |record| record.pid() == holder.pid());
    holder.wait_for_line("got the lock");
    holder.signal(Signal::TERM);
    assert_eq!(holder.end(), End::Code(0));
    let said = holder.stderr();
    assert!(
        said.contains("held without a command; let go of /"),
        "{said}"
    );
    let stopping = said.lines().find(|line| line.contains("stopping: TERM"));
    assert!(!stopping.unwrap().contains("the command"), "{said}");
    let options = ["-v", "run", "--stop-timeout", "infinity", "--"];
    let payload = scene.payload(Payload::Plain);
    let holder = scene.start(options.iter().chain(&[payload.as_str()]));
    let mut holder = scene.wait_for_payload(holder);
    holder.signal(Signal::TERM);
    holder.end();
    let said = holder.stderr();
    assert!(
        said.contains("; the command has no time limit, /"),
        "{said}"
    );
}

// ---------------------------------------------------------------- GATEWAY_LOG

#[test]
fn quiet_wins_over_the_environments_filter() {
    let scene = Scene::new();
    let mut command = scene.gateway(["-q", "run", "--", "true"]);
    command.env("GATEWAY_LOG", "trace");
    scene.finish_command(command).assert_code(0).assert_silent();
    let mut command = scene.gateway(["-q", "run", "--", "true"]);
    command.env("GATEWAY_LOG", "nonsense=");
    scene.finish_command(command).assert_code(0).assert_silent();
}

/// In our words, through our own writer, with our name.
#[test]
fn a_filter_that_is_not_understood_is_told_in_our_words() {
    let scene = Scene::new();
    for (filter, named) in [
        ("nonsense=", "\"nonsense=\""),
        ("verbose", "\"verbose\""),
        ("info,a=b=c", "\"a=b=c\""),
    ] {
        let mut command = scene.gateway(["run", "--", "true"]);
        command.env("GATEWAY_LOG", filter);
        let output = scene.finish_command(command);
        output.assert_code(0).assert_one_line();
        let expected = format!("gateway: GATEWAY_LOG is ignored: {named} is no level; give ");
        assert!(output.stderr.starts_with(&expected), "{output:?}");
    }
}

// ---------------------------------------------------------------- advice that works

#[test]
fn whoever_may_not_signal_the_holder_is_not_told_to_take_over() {
    let scene = Scene::for_everybody();
    let _holder = scene.hold();
    set_mode(&scene.pid_file(), 0o666);
    let command = as_nobody(&scene, &scene.gateway(["run", "--", "true"]));
    let output = scene.finish_command(command);
    output.assert_code(80).assert_says("; stop it: as root: ");
    assert!(!output.stderr.contains("--replace"), "{output:?}");
}

/// `exec 9>FILE; flock -n 9; exec gateway run -f FILE`
#[test]
fn a_lock_of_our_own_is_told_as_such() {
    let scene = Scene::new();
    crate::harness::need("flock", "util-linux");
    let script = "exec 9>gateway.pid; flock -n 9; exec \"$@\"";
    let started = |words: &[&str]| {
        let mut command = scene.command("bash");
        command.args(["-c", script, "bash"]).arg(scene.program());
        command.args(["-f", "gateway.pid"]).args(words);
        scene.finish_command(command)
    };
    let says = "this process inherited the lock in descriptor 9: drop flock from the script";
    for words in [
        &["run", "--", "true"][..],
        &[
            "run",
            "--replace",
            "--timeout",
            "2",
            "--kill-after",
            "1",
            "--",
            "true",
        ],
    ] {
        started(words).assert_code(82).assert_says(says);
    }
    let output = started(&["run", "--wait", "--timeout", "200ms", "--", "true"]);
    output.assert_code(81).assert_says(says);
}

#[test]
fn an_answer_that_cannot_be_written_is_a_fault() {
    let scene = Scene::new();
    for words in [
        &["status"][..],
        &["status", "--json"],
        &["list"],
        &["completions", "bash"],
        &["--version"],
        &["run", "--help"],
    ] {
        let mut command = scene.bare(words);
        command.stdout(fs::File::create("/dev/full").unwrap());
        let (out, err) = scene.words();
        drop(out);
        command.stderr(fs::File::create(&err).unwrap());
        assert_eq!(command.status().unwrap().code(), Some(70), "{words:?}");
        let said = fs::read_to_string(&err).unwrap();
        assert!(
            said.starts_with("gateway: cannot write to stdout: No space left"),
            "{words:?}: {said}"
        );
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = scene.bare(words);
        command.stdout(writer);
        command.stderr(fs::File::create(&err).unwrap());
        command.status().unwrap();
        assert_eq!(fs::read_to_string(&err).unwrap(), "", "{words:?}");
    }
}

#[test]
fn an_exec_holder_has_no_stop_of_its_own() {
    let scene = Scene::new();
    let mut holder = scene.start(["run", "--exec", "--", "sleep", "infinity"]);
    scene.wait_for_record("it holds", |record| record.pid() == holder.pid());
    wait_until("it is the command", SOON, || {
        fs::read_to_string(format!("/proc/{}/comm", holder.pid())).unwrap() == "sleep\n"
    });
    let output = scene.finish(["status"]);
    output.assert_code(0);
    assert!(output.stdout.contains("--exec"), "{output:?}");
    assert!(!output.stdout.contains("at stop"), "{output:?}");
    assert_eq!(scene.status()["holder"]["exec"], true);
    holder.signal(Signal::TERM);
    holder.end();
}

#[test]
fn what_was_typed_is_not_advised() {
    let scene = Scene::new();
    let holder = scene.hold();
    let with = |timeout: &str, kill_after: &str| {
        let options = ["--timeout", timeout, "--kill-after", kill_after];
        scene.finish([&["stop"][..], &options].concat())
    };
    let output = with("0", "0");
    output.assert_code(82);
    output.assert_says(&format!("gateway: not asked: pid {} (", holder.pid()));
    output.assert_says("use --timeout 1");
    assert!(!output.stderr.contains("--kill-after"), "{output:?}");
    let output = with("10", "35");
    output.assert_code(82);
    output.assert_says("may need 35 s to stop, and --timeout 10 ends before that, ");
    output.assert_says(" or --kill-after 9\n");
}

#[test]
fn a_holder_without_a_command_tells_a_terminal_how_it_ends() {
    let scene = Scene::new();
    let terminal = crate::harness::Terminal::open();
    let mut holder = terminal.start(&scene, &scene.gateway(["run"]));
    let path = scene.pid_file();
    terminal.wait_for(&format!(
        "gateway: holding {} with no command; Ctrl-C lets go",
        path.to_str().unwrap()
    ));
    terminal.ctrl_c();
    assert_eq!(holder.end(), End::Code(0));
    // Elsewhere nobody presses a key.
    let mut holder = scene.start(["run"]);
    scene.wait_for_record("it holds", |record| record.pid() == holder.pid());
    holder.signal(Signal::TERM);
    assert_eq!(holder.end(), End::Code(0));
    assert_eq!(holder.stderr(), "");
}
