//! The library as a user has it: only what its front page calls stable, with real other processes.

#[path = "harness/mod.rs"]
mod harness;

use std::io::Write;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use gateway_lock::{
    Attempt, Error, ErrorKind, HolderInfo, Limits, Lock, PidFile, Progress, Role, Standing, Wait,
    Watch, Why,
};
use harness::{
    End, Locker, Payload, Process, Record, SOON, Scene, Signal, exists, lockers, stat_field,
    wait_until,
};

#[track_caller]
fn acquired(attempt: Attempt) -> Lock {
    match attempt {
        Attempt::Acquired(lock) => lock,
        Attempt::Held(holder) => panic!("{holder}"),
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn held(attempt: Attempt) -> HolderInfo {
    match attempt {
        Attempt::Held(holder) => holder,
        Attempt::Acquired(_) => panic!("two hold the lock"),
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn taken(wait: Wait) -> Lock {
    match wait {
        Wait::Acquired(lock) => lock,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn refused(wait: Wait) -> HolderInfo {
    match wait {
        Wait::Refused(holder) => holder,
        other => panic!("{other:?}"),
    }
}

fn file(scene: &Scene) -> PidFile {
    PidFile::at(scene.pid_file())
}

fn pid_of(process: &Process) -> Option<i32> {
    Some(process.pid().cast_signed())
}

const MOMENT: Duration = Duration::from_millis(300);
const LONG: Duration = Duration::from_secs(60);
const SECOND: Duration = Duration::from_secs(1);

#[test]
fn whatever_it_gives_may_go_to_another_thread() {
    fn may_be_sent<T: Send>() {}
    may_be_sent::<(PidFile, Lock, Watch, Attempt, Wait, HolderInfo)>();
    may_be_sent::<(Progress, Standing, Limits<'static>, Error)>();
    let scene = Scene::new();
    let lock = acquired(file(&scene).try_lock().unwrap());
    std::thread::spawn(move || drop(lock)).join().unwrap();
    assert!(lockers(&scene.pid_file()).is_empty());
}

#[test]
fn a_path_is_only_a_path_until_the_lock_is_taken() {
    let scene = Scene::new();
    let path = scene.path("not/yet/gateway.pid");
    let file = PidFile::at(&path);
    assert_eq!(file.path(), path);
    assert!(!scene.path("not").exists());
    let lock = acquired(file.try_lock().unwrap());
    assert_eq!(lock.path(), path);
    assert_eq!(lockers(&path), [std::process::id()]);
}

#[test]
fn the_path_of_a_lock_is_canonical() {
    let scene = Scene::new();
    std::os::unix::fs::symlink(scene.path("said"), scene.path("link")).unwrap();
    let lock = acquired(PidFile::at(scene.path("link/x.pid")).try_lock().unwrap());
    assert_eq!(lock.path(), scene.path("said/x.pid"));
}

#[test]
fn the_record_names_this_process_and_dropping_marks_it_ended() {
    let scene = Scene::new();
    let lock = acquired(file(&scene).try_lock().unwrap());
    let record = scene.record();
    assert_eq!(record.first_line, std::process::id().to_string());
    assert_eq!(record.pid(), std::process::id());
    assert_eq!(record.number("/generation"), lock.generation());
    assert_eq!(scene.state(), "held");
    drop(lock);
    let record = scene.record();
    assert_eq!((record.first_line.as_str(), record.is_ended()), ("", true));
    assert_eq!(record.text("/reason"), "exited");
    assert_eq!(scene.state(), "free");
}

#[test]
fn closing_marks_the_record_ended_too_and_tells_what_fails() {
    let scene = Scene::new();
    acquired(file(&scene).try_lock().unwrap()).close().unwrap();
    assert!(scene.record().is_ended());
    assert!(lockers(&scene.pid_file()).is_empty());
}

#[test]
fn a_gateway_is_refused_and_told_that_this_process_holds() {
    let scene = Scene::new();
    let lock = acquired(file(&scene).try_lock().unwrap());
    let output = scene.finish(["run", "--", "true"]);
    output.assert_code(80);
    output.assert_says(&format!("held by pid {}", std::process::id()));
    drop(lock);
    scene.finish(["run", "--", "true"]).assert_code(0);
}

#[test]
fn a_holder_is_told_with_pid_command_and_path() {
    let scene = Scene::new();
    let gateway = scene.hold();
    let holder = held(file(&scene).try_lock().unwrap());
    assert_eq!((holder.pid, holder.proven), (pid_of(&gateway), true));
    assert_eq!(
        (&holder.path, holder.role),
        (&scene.pid_file(), Role::Holder)
    );
    let told = holder.to_string();
    let begin = format!("held by pid {} (", gateway.pid());
    let end = format!("), {}", scene.pid_file().display());
    assert!(told.starts_with(&begin) && told.ends_with(&end), "{told}");
    assert!(!holder.argv.is_empty());
}

#[test]
fn a_second_lock_in_this_process_is_refused_and_nobody_is_proven() {
    let scene = Scene::new();
    let _lock = acquired(file(&scene).try_lock().unwrap());
    let began = Instant::now();
    let holder = held(file(&scene).try_lock().unwrap());
    assert!(!holder.proven);
    assert!(began.elapsed() >= Duration::from_millis(200));
    let limits = Limits::default().timeout(MOMENT);
    let holder = refused(
        file(&scene)
            .replace(limits.kill_after(Duration::ZERO), |_| {})
            .unwrap(),
    );
    assert!(!holder.proven, "this process does not end itself");
}

#[test]
fn generations_grow_across_ends_junk_and_a_removed_file() {
    let scene = Scene::new();
    let mut generations = Vec::new();
    for change in ["end", "junk", "remove", "gateway"] {
        generations.push(acquired(file(&scene).try_lock().unwrap()).generation());
        match change {
            "junk" => std::fs::write(scene.pid_file(), "junk").unwrap(),
            "remove" => std::fs::remove_file(scene.pid_file()).unwrap(),
            "gateway" => {
                scene.finish(["run", "--", "true"]).assert_code(0);
                generations.push(scene.record().number("/generation"));
            }
            _ => {}
        }
    }
    generations.push(acquired(file(&scene).try_lock().unwrap()).generation());
    assert!(
        generations.is_sorted_by(|one, next| one < next),
        "{generations:?}"
    );
}

#[test]
fn waiting_ends_at_the_timeout_and_leaves_no_trace() {
    let scene = Scene::new();
    let mut gateway = scene.hold();
    let before = scene.footprint();
    let began = Instant::now();
    let holder = refused(
        file(&scene)
            .wait(Limits::default().timeout(MOMENT))
            .unwrap(),
    );
    let took = began.elapsed();
    assert!(
        took >= MOMENT && took < MOMENT + Duration::from_millis(2600),
        "{took:?}"
    );
    assert_eq!(holder.pid, pid_of(&gateway));
    assert!(scene.footprint() == before && gateway.is_running());
}

#[test]
fn waiting_ends_when_the_holder_does() {
    let scene = Scene::new();
    let mut gateway = scene.hold();
    let waiting = {
        let file = file(&scene);
        std::thread::spawn(move || file.wait(Limits::default().timeout(LONG)).unwrap())
    };
    assert!(!waiting.is_finished());
    gateway.crash();
    let lock = taken(waiting.join().unwrap());
    assert_eq!(scene.record().pid(), std::process::id());
    drop(lock);
}

#[test]
fn a_readable_descriptor_cancels_a_wait() {
    let scene = Scene::new();
    let mut gateway = scene.hold();
    let (reader, mut writer) = std::io::pipe().unwrap();
    let limits = Limits::default().timeout(LONG).cancel(reader.as_fd());
    let began = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            std::thread::sleep(MOMENT);
            writer.write_all(b"x").unwrap();
        });
        let answer = file(&scene).wait(limits).unwrap();
        assert!(matches!(answer, Wait::Cancelled), "{answer:?}");
    });
    assert!(began.elapsed() < SOON && gateway.is_running());
}

#[test]
fn a_readable_descriptor_cancels_a_takeover_that_has_asked() {
    let scene = Scene::new();
    let mut gateway = scene.hold_with(&["--stop-timeout", "600"], Payload::Deaf);
    let (reader, mut writer) = std::io::pipe().unwrap();
    let limits = Limits::default().cancel(reader.as_fd());
    let mut asked = 0;
    let answer = file(&scene).replace(limits, |step| {
        asked += usize::from(matches!(step, Progress::Asked(_)));
        writer.write_all(b"x").unwrap();
    });
    assert!(matches!(answer, Ok(Wait::Cancelled)), "{answer:?}");
    assert!(asked == 1 && gateway.is_running());
}

#[test]
fn replacing_asks_the_holder_tells_the_steps_and_takes_the_lock() {
    let scene = Scene::new();
    let mut gateway = scene.hold();
    let mut asked = Vec::new();
    let limits = Limits::default().timeout(LONG).kill_after(SOON);
    let lock = taken(
        file(&scene)
            .replace(limits, |step| {
                if let Progress::Asked(holder) = step {
                    asked.push((holder.pid, holder.proven));
                }
            })
            .unwrap(),
    );
    assert_eq!(asked, [(pid_of(&gateway), true)]);
    gateway.end();
    assert_eq!(scene.record().number("/generation"), lock.generation());
    assert_eq!(lockers(&scene.pid_file()), [std::process::id()]);
}

#[test]
fn a_holder_that_does_not_go_is_killed_when_the_limits_say_so() {
    let scene = Scene::new();
    let mut gateway = scene.hold_with(&["--stop-timeout", "600"], Payload::Deaf);
    let mut killed = Vec::new();
    let limits = Limits::default().timeout(LONG).kill_after(MOMENT);
    let lock = taken(
        file(&scene)
            .replace(limits, |step| {
                if let Progress::Killed(holder) = step {
                    killed.push(holder.pid);
                }
            })
            .unwrap(),
    );
    assert_eq!(killed, [pid_of(&gateway)]);
    assert_eq!(gateway.end(), End::of(Signal::KILL));
    drop(lock);
}

#[test]
fn nobody_is_asked_by_limits_that_would_leave_before_the_holder_is_gone() {
    let scene = Scene::new();
    let mut gateway = scene.hold();
    let before = scene.footprint();
    let limits = Limits::default().timeout(MOMENT);
    let holder = refused(file(&scene).replace(limits, |_| {}).unwrap());
    assert_eq!(holder.pid, pid_of(&gateway));
    // Its own stop timeout, and five seconds.
    let Some(Why::TooShort { needed: Some(time) }) = holder.why else {
        panic!("{holder:?}")
    };
    assert!((LONG / 2 + 5 * SECOND..LONG).contains(&time), "{time:?}");
    assert!(holder.to_string().contains("may take 35s"), "{holder}");
    assert!(scene.footprint() == before && gateway.is_running());
}

/// As `--kill-after infinity --timeout` of the program.
#[test]
fn a_holder_may_be_asked_and_left_alone() {
    let scene = Scene::new();
    let mut gateway = scene.hold_with(&[], Payload::Deaf);
    scene.wait_for_mark("deaf");
    let mut asked = 0;
    let limits = Limits::default().timeout(MOMENT).kill_after(Duration::MAX);
    let count = |step| asked += usize::from(matches!(step, Progress::Asked(_)));
    let holder = refused(file(&scene).replace(limits, count).unwrap());
    assert_eq!((asked, holder.why), (1, Some(Why::Deadline)));
    assert!(
        holder.to_string().ends_with("; the time is over"),
        "{holder}"
    );
    assert!(gateway.is_running());
}

#[test]
fn the_stop_timeout_of_a_lock_is_recorded_for_who_takes_over() {
    let scene = Scene::new();
    for (time, json) in [
        (Duration::from_millis(2500), serde_json::json!(2.5)),
        (Duration::MAX, serde_json::json!("infinity")),
    ] {
        let lock = acquired(file(&scene).stop_timeout(time).try_lock().unwrap());
        assert_eq!(scene.record().json["stop_timeout"], json);
        drop(lock);
    }
}

#[test]
fn who_holds_is_told_without_a_trace() {
    let scene = Scene::new();
    let holder = || file(&scene).holder().unwrap();
    assert_eq!(holder(), None);
    assert!(!scene.pid_file().exists());
    let mut gateway = scene.hold();
    let before = scene.footprint();
    let found = holder().expect("it holds");
    assert_eq!(
        (found.pid, found.proven, found.why),
        (pid_of(&gateway), true, None)
    );
    assert!(scene.footprint() == before);
    gateway.crash();
    assert_eq!(holder(), None, "a crash is nobody");
}

#[test]
fn a_stranger_with_the_lock_is_named_and_never_asked() {
    let scene = Scene::new();
    std::fs::write(scene.pid_file(), "").unwrap();
    let mut stranger = Locker::on(&scene, &scene.pid_file());
    let limits = Limits::default().timeout(MOMENT).kill_after(Duration::ZERO);
    let mut steps = 0;
    let count = |step| {
        assert!(matches!(step, Progress::Waiting(_)), "{step:?}");
        steps += 1;
    };
    let holder = refused(file(&scene).replace(limits, count).unwrap());
    assert_eq!((holder.pid, holder.proven), (pid_of(&stranger.0), false));
    assert!(steps > 0 && stranger.0.is_running());
}

#[test]
fn a_watch_tells_of_a_removed_file_and_a_check_puts_it_back() {
    let scene = Scene::new();
    let mut lock = acquired(file(&scene).try_lock().unwrap());
    let watch = lock.watch().unwrap();
    watch.clear();
    assert!(!is_readable(&watch));
    assert_eq!(lock.check().unwrap(), Standing::Held);
    std::fs::remove_file(scene.pid_file()).unwrap();
    wait_until("the watch tells", SOON, || is_readable(&watch));
    watch.clear();
    assert_eq!(lock.check().unwrap(), Standing::PutBack);
    assert_eq!(scene.record().pid(), std::process::id());
    let watch = lock.watch().unwrap();
    std::fs::rename(scene.path("said"), scene.path("bin/said")).unwrap();
    std::fs::write(scene.pid_file(), "junk").unwrap();
    wait_until("the new watch tells", SOON, || is_readable(&watch));
    assert_eq!(lock.check().unwrap(), Standing::PutBack);
    assert_eq!(lock.check().unwrap(), Standing::Held);
}

fn is_readable(watch: &Watch) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    poll(&mut [PollFd::new(watch, PollFlags::IN)], Some(&now)).unwrap() == 1
}

#[test]
fn a_check_beside_another_locker_is_contested_and_beside_another_holder_lost() {
    let scene = Scene::new();
    let mut lock = acquired(file(&scene).try_lock().unwrap());
    std::fs::remove_file(scene.pid_file()).unwrap();
    std::fs::write(scene.pid_file(), "").unwrap();
    let stranger = Locker::on(&scene, &scene.pid_file());
    assert_eq!(lock.check().unwrap(), Standing::Contested);
    drop(stranger);
    assert_eq!(lock.check().unwrap(), Standing::PutBack);
    // Somebody who does not look for us: a record of a later generation.
    let mut record: serde_json::Value = scene.record().json;
    record["generation"] = (lock.generation() + 1).into();
    std::fs::remove_file(scene.pid_file()).unwrap();
    std::fs::write(scene.pid_file(), format!("{}\n{record}\n", record["pid"])).unwrap();
    assert_eq!(lock.check().unwrap(), Standing::Lost);
}

#[test]
fn a_newcomer_finds_a_holder_that_does_not_watch_its_name() {
    let scene = Scene::new();
    let _lock = acquired(file(&scene).try_lock().unwrap());
    std::fs::remove_file(scene.pid_file()).unwrap();
    let output = scene.finish(["run", "--", "true"]);
    output.assert_code(80);
    output.assert_says(&format!("held by pid {}", std::process::id()));
}

#[test]
fn a_child_does_not_keep_the_lock() {
    let scene = Scene::new();
    let lock = acquired(file(&scene).try_lock().unwrap());
    let mut sleep = scene.command("sleep");
    sleep.arg("600");
    let mut child = scene.spawn(sleep);
    assert_eq!(lockers(&scene.pid_file()), [std::process::id()]);
    drop(lock);
    scene.finish(["run", "--", "true"]).assert_code(0);
    assert!(child.is_running());
}

#[test]
fn what_cannot_be_a_pid_file_is_an_error_that_names_the_path() {
    let scene = Scene::new();
    std::fs::create_dir(scene.path("folder")).unwrap();
    for path in [scene.path("folder"), scene.path("said/0.out/x")] {
        std::fs::write(scene.path("said/0.out"), "").unwrap();
        let error = PidFile::at(&path).try_lock().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PidFile);
        let shown = path.display().to_string();
        assert!(error.to_string().contains(&shown), "{error}");
        let advice = error.advice().expect("there is some");
        assert!(!error.to_string().contains(advice), "{error}");
        assert!(format!("{error:#}").ends_with(&format!("; {advice}")));
    }
}

/// The variable that makes this test program play the second process.
const PART: &str = "GATEWAY_TEST_PART";

/// This program once more, with only this test, as a process of its own.
fn myself(scene: &Scene, test: &str, part: &Path) -> Command {
    let mut command = scene.command(std::env::current_exe().unwrap());
    command
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env(PART, part);
    command
}

fn part() -> Option<std::path::PathBuf> {
    std::env::var_os(PART).map(Into::into)
}

#[test]
fn a_holder_by_the_library_is_asked_with_sigterm_and_its_end_frees_the_lock() {
    if let Some(path) = part() {
        let _lock = acquired(PidFile::at(path).try_lock().unwrap());
        std::thread::sleep(LONG);
        unreachable!("nobody asked");
    }
    let scene = Scene::new();
    let name = "a_holder_by_the_library_is_asked_with_sigterm_and_its_end_frees_the_lock";
    let mut other = scene.spawn(myself(&scene, name, &scene.pid_file()));
    let pid = other.pid();
    scene.wait_for_record("it holds", |record: &Record| record.pid() == pid);
    assert_eq!(held(file(&scene).try_lock().unwrap()).pid, pid_of(&other));
    let lock = taken(file(&scene).replace(Limits::default(), |_| {}).unwrap());
    assert_eq!(other.end(), End::of(Signal::TERM));
    drop(lock);
}

#[test]
fn what_a_crash_left_and_cannot_be_ended_is_not_called_the_holder() {
    let name = "what_a_crash_left_and_cannot_be_ended_is_not_called_the_holder";
    if let Some(path) = part() {
        return behind_an_ancestor(&path);
    }
    let scene = Scene::new();
    let mut gateway = scene.hold();
    let payload = scene.record().payload_pid();
    gateway.crash();
    wait_until("the kernel has ended its command", SOON, || {
        !exists(payload)
    });
    // Between this test and its part, so that a fault ends nobody but this shell.
    let part = myself(&scene, name, &scene.pid_file());
    let mut shell = scene.command("sh");
    shell.args(["-c", "\"$@\"; exit $?", "sh"]);
    shell.arg(part.get_program()).args(part.get_args());
    shell.env(PART, scene.pid_file());
    scene.finish_command(shell).assert_code(0);
}

/// Writes into the crashed record that our parent was its command.
fn behind_an_ancestor(path: &Path) {
    let parent = std::os::unix::process::parent_id();
    let start_time: u64 = stat_field(parent, 22).unwrap().parse().unwrap();
    let mut record = Record::read(&std::fs::read(path).unwrap()).unwrap();
    record.json["payload"]["pid"] = parent.into();
    record.json["payload"]["start_time"] = start_time.into();
    std::fs::write(path, format!("{}\n{}\n", record.first_line, record.json)).unwrap();
    let left = held(PidFile::at(path).try_lock().unwrap());
    assert_eq!((left.role, left.proven), (Role::Survivor, false));
    assert_eq!(left.why, Some(Why::Ancestor));
    let told = left.to_string();
    let begin = format!("left of a crashed run, and cannot be ended: pid {parent} (sh ");
    let end = format!("), {}; it is an ancestor of this process", path.display());
    assert!(told.starts_with(&begin) && told.ends_with(&end), "{told}");
}

#[test]
fn a_timeout_that_is_no_longer_than_thirty_seconds_never_asks_a_lock() {
    let name = "a_timeout_that_is_no_longer_than_thirty_seconds_never_asks_a_lock";
    if let Some(path) = part() {
        let _lock = acquired(PidFile::at(path).try_lock().unwrap());
        std::thread::sleep(LONG);
        unreachable!("nobody ended this");
    }
    let scene = Scene::new();
    let mut other = scene.spawn(myself(&scene, name, &scene.pid_file()));
    let pid = other.pid();
    scene.wait_for_record("it holds", |record: &Record| record.pid() == pid);
    let began = Instant::now();
    let limits = Limits::default().timeout(Duration::from_secs(30));
    let holder = refused(
        file(&scene)
            .replace(limits, |step| panic!("{step:?}"))
            .unwrap(),
    );
    assert_eq!((holder.pid, holder.proven), (pid_of(&other), true));
    assert!(began.elapsed() < SOON && other.is_running());
    other.crash();
}

/// Signals that have a handler, signals that are ignored, and how many threads there are.
fn fingerprint() -> Vec<String> {
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
    let kept = ["SigCgt:", "SigIgn:", "SigBlk:", "Threads:"];
    status
        .lines()
        .filter(|line| kept.iter().any(|key| line.starts_with(key)))
        .map(str::to_owned)
        .collect()
}

#[test]
fn it_leaves_handlers_threads_descriptors_and_stdout_alone() {
    if let Some(path) = part() {
        return everything_once(&path);
    }
    let scene = Scene::new();
    let mut gateway = scene.hold();
    let name = "it_leaves_handlers_threads_descriptors_and_stdout_alone";
    let output = scene.finish_command(myself(&scene, name, &scene.pid_file()));
    output.assert_code(0);
    gateway.end();
    assert_eq!(output.stderr, "");
    let of_the_test_runner = |line: &&str| {
        line.is_empty() || line.starts_with("running 1 test") || line.starts_with("test ")
    };
    let printed: Vec<&str> = output
        .stdout
        .lines()
        .filter(|line| !of_the_test_runner(line))
        .collect();
    assert_eq!(printed, [""; 0], "{}", output.stdout);
}

fn everything_once(path: &Path) {
    let descriptors = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let before = (fingerprint(), descriptors());
    assert_eq!(before.0.len(), 4, "{:?}", before.0);
    let file = PidFile::at(path);
    held(file.try_lock().unwrap());
    refused(file.wait(Limits::default().timeout(MOMENT)).unwrap());
    let limits = Limits::default().timeout(LONG).kill_after(SOON);
    let mut lock = taken(file.replace(limits, |_| {}).unwrap());
    let watch = lock.watch().unwrap();
    std::fs::remove_file(path).unwrap();
    assert_eq!(lock.check().unwrap(), Standing::PutBack);
    assert_eq!(fingerprint(), before.0);
    drop(watch);
    lock.close().unwrap();
    assert_eq!((fingerprint(), descriptors()), before);
}

/// Many changes are more than is read at once.
#[test]
fn a_watch_that_was_cleared_forgets_all_that_has_happened() {
    let scene = Scene::new();
    let lock = acquired(file(&scene).try_lock().unwrap());
    let watch = lock.watch().unwrap();
    for round in 0..300 {
        let neighbour = scene.path(format!("neighbour-{round}"));
        std::fs::write(&neighbour, "x").unwrap();
        std::fs::remove_file(&neighbour).unwrap();
    }
    assert!(is_readable(&watch));
    watch.clear();
    assert!(!is_readable(&watch));
}
