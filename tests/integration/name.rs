//! The name is guarded too: whoever removes, renames, replaces or overwrites the file neither gets
//! two payloads nor none.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use crate::harness::{
    End, Locker, MountSpace, Payload, Process, Record, SOON, Scene, Signal, as_nobody, lockers,
    set_mode, state, until, wait_until,
};

/// By the watch, that is, and well before the look that comes every ten seconds anyway.
const BY_THE_WATCH: Duration = Duration::from_secs(6);

/// Waits until the file at the path is locked by this process and says so.
#[track_caller]
fn wait_for_claim(scene: &Scene, holder: &Process) {
    wait_until("the claim is at the path", BY_THE_WATCH, || {
        scene.lockers() == [holder.pid()]
            && scene.record_if_any().is_some_and(|record| {
                let file = fs::metadata(scene.pid_file()).unwrap();
                record.pid() == holder.pid()
                    && record.has_payload()
                    && record.number("/inode") == file.ino()
                    && record.number("/dev") == file.dev()
                    && record.text("/path") == scene.pid_file().to_str().unwrap()
            })
    });
}

fn make_folder(scene: &Scene) {
    fs::create_dir_all(scene.path("state")).unwrap();
}

/// A holder whose file lies in a folder of its own.
fn hold_in_folder(scene: &Scene) -> (Process, std::path::PathBuf) {
    make_folder(scene);
    let file = scene.path("state/gateway.pid");
    let payload = scene.payload(Payload::Plain);
    let mut command = scene.bare(["-f"]);
    command.arg(&file).args(["run", "--", &payload]);
    let mut holder = scene.spawn(command);
    wait_until("it holds", SOON, || {
        assert!(holder.is_running(), "{}", holder.stderr());
        scene.started_payloads().len() == 1
    });
    (holder, file)
}

#[track_caller]
fn wait_for_lock(file: &Path, holder: &Process) {
    wait_for_lock_within(BY_THE_WATCH, file, holder);
}

#[track_caller]
fn wait_for_lock_within(limit: Duration, file: &Path, holder: &Process) {
    wait_until("the lock is at the path", limit, || {
        lockers(file) == [holder.pid()]
    });
}

/// A holder watches from before it has recorded its payload; what comes earlier is its start's affair.
#[track_caller]
fn wait_until_it_watches(file: &Path) {
    wait_until("a payload is recorded", SOON, || {
        let bytes = fs::read(file).unwrap_or_default();
        Record::read(&bytes).is_some_and(|record| record.has_payload())
    });
}

/// NousResearch/hermes-agent#26643: cleanup code removed the file of a live gateway.
#[test]
fn a_removed_file_is_put_back() {
    let scene = Scene::new();
    let mut holder = scene.hold();
    let before = scene.record();
    fs::remove_file(scene.pid_file()).unwrap();
    wait_for_claim(&scene, &holder);
    let line = holder.wait_for_line("put back");
    assert!(line.contains(scene.pid_file().to_str().unwrap()), "{line}");
    assert_eq!(
        fs::metadata(scene.pid_file()).unwrap().mode() & 0o7777,
        0o600
    );
    let after = scene.record();
    assert_eq!(after.text("/run_id"), before.text("/run_id"));
    assert_eq!(after.number("/generation"), before.number("/generation"));
    scene.finish(["run", "--", "true"]).assert_code(80);
    assert_eq!(scene.state(), "held");
    assert_eq!(scene.finish(["stop"]).end, End::Code(0));
    assert_eq!(holder.end(), End::of(Signal::TERM));
    assert_eq!(scene.record().text("/reason"), "stopped");
    scene.assert_never_two_payloads();
}

#[test]
fn a_file_that_is_removed_over_and_over_is_put_back_each_time() {
    let scene = Scene::new();
    let mut holder = scene.hold();
    for _ in 0..20 {
        wait_for_claim(&scene, &holder);
        fs::remove_file(scene.pid_file()).unwrap();
    }
    wait_for_claim(&scene, &holder);
    assert!(holder.is_running());
    assert_eq!(scene.started_payloads().len(), 1);
}

#[test]
fn a_file_that_is_moved_away_is_put_back_and_one_that_comes_back_is_recognised() {
    let scene = Scene::new();
    let mut holder = scene.hold();
    let first = fs::metadata(scene.pid_file()).unwrap().ino();
    fs::rename(scene.pid_file(), scene.path("away")).unwrap();
    wait_until("a file is put back", SOON, || {
        fs::metadata(scene.pid_file()).is_ok_and(|file| file.ino() != first)
    });
    wait_for_claim(&scene, &holder);
    assert_eq!(
        lockers(&scene.path("away")),
        [holder.pid()],
        "the earlier file stays locked"
    );
    fs::rename(scene.path("away"), scene.pid_file()).unwrap();
    wait_for_claim(&scene, &holder);
    assert_eq!(fs::metadata(scene.pid_file()).unwrap().ino(), first);
    assert!(holder.is_running());
    assert_eq!(scene.started_payloads().len(), 1);
}

#[test]
fn a_replaced_file_is_claimed() {
    let scene = Scene::new();
    let mut holder = scene.hold();
    for text in ["", "junk\n", "4711\n"] {
        fs::write(scene.path("new"), text).unwrap();
        fs::rename(scene.path("new"), scene.pid_file()).unwrap();
        wait_for_claim(&scene, &holder);
    }
    // A copy of its own record on another inode.
    fs::copy(scene.pid_file(), scene.path("new")).unwrap();
    fs::rename(scene.path("new"), scene.pid_file()).unwrap();
    wait_for_claim(&scene, &holder);
    assert!(holder.is_running());
    scene.finish(["run", "--", "true"]).assert_code(80);
}

/// Puts something into the file's place, which stays as it is until it is removed.
#[track_caller]
fn is_not_touched(put: fn(&Scene) -> std::io::Result<()>, is_whole: fn(&Scene) -> bool) {
    let scene = Scene::new();
    let mut holder = scene.hold();
    fs::write(scene.path("precious"), "precious").unwrap();
    fs::remove_file(scene.pid_file()).unwrap();
    // The holder may be faster: then there is a file in the way, which is removed again.
    until("it is in the file's place", SOON, || {
        let _ = fs::remove_file(scene.pid_file());
        put(&scene).ok()
    });
    holder.wait_for_line("cannot be put back yet");
    assert!(is_whole(&scene));
    assert!(holder.is_running(), "its payload goes on");
    let _ = fs::remove_file(scene.pid_file());
    let _ = fs::remove_dir(scene.pid_file());
    wait_for_claim(&scene, &holder);
}

#[test]
fn a_link_in_the_files_place_is_not_touched() {
    is_not_touched(
        |scene| std::os::unix::fs::symlink(scene.path("precious"), scene.pid_file()),
        |scene| fs::read(scene.path("precious")).is_ok_and(|text| text == b"precious"),
    );
}

#[test]
fn a_folder_in_the_files_place_is_not_touched() {
    is_not_touched(
        |scene| fs::create_dir(scene.pid_file()),
        |scene| fs::read_dir(scene.pid_file()).is_ok_and(|inside| inside.count() == 0),
    );
}

#[test]
fn an_overwritten_record_is_written_again() {
    let scene = Scene::new();
    let mut holder = scene.hold();
    let before = scene.bytes();
    fs::write(scene.pid_file(), "4711\n").unwrap();
    wait_until("the record is there again", SOON, || {
        scene.bytes() == before
    });
    let line = holder.wait_for_line("written again");
    assert!(line.contains(scene.pid_file().to_str().unwrap()), "{line}");
    assert_eq!(scene.state(), "held");
}

/// At most every ten seconds: two that fight over a file must not fill a disk with their log.
#[test]
fn a_record_that_is_overwritten_all_the_time_is_not_written_all_the_time() {
    let scene = Scene::new();
    let mut holder = scene.hold();
    for round in 0..20 {
        fs::write(scene.pid_file(), format!("{round}\n")).unwrap();
        std::thread::sleep(Duration::from_millis(50));
    }
    let said = holder.stderr();
    assert_eq!(said.matches("written again").count(), 1, "{said}");
    assert!(holder.is_running());
    // Newcomers take it for what it is: held.
    let refused = scene.finish(["run", "--", "true"]);
    refused.assert_code(80);
    wait_until("the record is there again", SOON, || {
        scene
            .record_if_any()
            .is_some_and(|record| record.pid() == holder.pid())
    });
}

#[test]
fn a_removed_folder_is_made_again() {
    let scene = Scene::new();
    let (mut holder, file) = hold_in_folder(&scene);
    fs::remove_dir_all(scene.path("state")).unwrap();
    wait_for_lock(&file, &holder);
    assert!(holder.is_running());
    let mut refused = scene.bare(["-f"]);
    refused.arg(&file).args(["run", "--", "true"]);
    scene.finish_command(refused).assert_code(80);
}

#[test]
fn a_renamed_folder_is_made_again() {
    let scene = Scene::new();
    let (mut holder, file) = hold_in_folder(&scene);
    fs::rename(scene.path("state"), scene.path("old-state")).unwrap();
    wait_for_lock(&file, &holder);
    assert!(holder.is_running());
    assert_eq!(scene.started_payloads().len(), 1);
}

#[test]
fn a_renamed_grandparent_is_noticed() {
    let scene = Scene::new();
    fs::create_dir_all(scene.path("a/b/c")).unwrap();
    let file = scene.path("a/b/c/gateway.pid");
    let mut command = scene.bare(["-f"]);
    command.arg(&file).args(["run", "--", "sleep", "infinity"]);
    let mut holder = scene.spawn(command);
    wait_until_it_watches(&file);
    fs::rename(scene.path("a"), scene.path("z")).unwrap();
    wait_for_lock(&file, &holder);
    assert!(holder.is_running());
    let moved = scene.path("z/b/c/gateway.pid");
    assert_eq!(
        lockers(&moved),
        [holder.pid()],
        "the earlier one stays locked"
    );
}

// ---------------------------------------------------------------- newcomers

/// Both a newcomer and the holder find the file gone at the same moment.
#[test]
fn newcomers_at_a_removed_file_find_the_holder() {
    let scene = Scene::new();
    let mut holder = scene.hold();
    let payload = scene.payload(Payload::Plain);
    for _ in 0..10 {
        fs::remove_file(scene.pid_file()).unwrap();
        let newcomers: Vec<_> = (0..3)
            .map(|_| scene.start(["run", "--", &payload]))
            .collect();
        for newcomer in newcomers {
            let output = newcomer.output();
            output.assert_code(80);
        }
        wait_for_claim(&scene, &holder);
    }
    assert!(holder.is_running(), "{}", holder.stderr());
    assert_eq!(scene.started_payloads().len(), 1);
    scene.assert_never_two_payloads();
}

/// A stopped holder can put nothing back: the newcomer looks for it.
#[test]
fn a_stopped_holder_of_a_removed_file_refuses_newcomers() {
    let scene = Scene::new();
    let mut holder = scene.hold();
    holder.signal(Signal::STOP);
    wait_until("it is stopped", SOON, || state(holder.pid()) == Some('T'));
    fs::remove_file(scene.pid_file()).unwrap();
    let status = scene.finish(["status"]);
    status.assert_code(0);
    assert!(status.stdout.starts_with("removed: pid"), "{status:?}");
    assert!(!scene.pid_file().exists(), "status makes no file");
    // Several in a row: the file that the first one made does not mislead the second.
    for _ in 0..3 {
        let output = scene.finish(["run", "--", "true"]);
        output
            .assert_code(80)
            .assert_says(&holder.pid().to_string());
    }
    assert_eq!(state(holder.pid()), Some('T'));
    holder.signal(Signal::CONT);
    wait_for_claim(&scene, &holder);
    assert!(holder.is_running());
    scene.assert_never_two_payloads();
}

#[test]
fn a_stopped_holder_of_a_replaced_file_refuses_newcomers() {
    for text in ["", "junk", "4711\n"] {
        let scene = Scene::new();
        let mut holder = scene.hold();
        holder.signal(Signal::STOP);
        wait_until("it is stopped", SOON, || state(holder.pid()) == Some('T'));
        fs::write(scene.path("new"), text).unwrap();
        fs::rename(scene.path("new"), scene.pid_file()).unwrap();
        scene.finish(["run", "--", "true"]).assert_code(80);
        // A copy of its record, too, names another inode.
        fs::write(scene.path("new"), scene.bytes()).unwrap();
        fs::rename(scene.path("new"), scene.pid_file()).unwrap();
        scene.finish(["run", "--", "true"]).assert_code(80);
        holder.signal(Signal::CONT);
        wait_for_claim(&scene, &holder);
        assert!(holder.is_running());
    }
}

#[test]
fn a_takeover_finds_the_holder_of_a_removed_file() {
    for stopped in [false, true] {
        let scene = Scene::new();
        let mut old = scene.hold();
        if stopped {
            old.signal(Signal::STOP);
            wait_until("it is stopped", SOON, || state(old.pid()) == Some('T'));
        }
        fs::remove_file(scene.pid_file()).unwrap();
        let payload = scene.payload(Payload::Plain);
        let new = scene.wait_for_payload(scene.start(["run", "--replace", "--", &payload]));
        assert_eq!(old.end(), End::of(Signal::TERM));
        assert_eq!(scene.lockers(), [new.pid()]);
        scene.assert_never_two_payloads();
    }
}

#[test]
fn stop_finds_the_holder_of_a_removed_file() {
    let scene = Scene::new();
    let mut holder = scene.hold();
    holder.signal(Signal::STOP);
    wait_until("it is stopped", SOON, || state(holder.pid()) == Some('T'));
    fs::remove_file(scene.pid_file()).unwrap();
    scene.finish(["stop"]).assert_code(0);
    assert_eq!(holder.end(), End::of(Signal::TERM));
    scene.wait_until_empty();
}

#[test]
fn a_standby_waits_for_the_holder_of_a_removed_file() {
    let scene = Scene::new();
    let mut holder = scene.hold();
    holder.signal(Signal::STOP);
    wait_until("it is stopped", SOON, || state(holder.pid()) == Some('T'));
    fs::remove_file(scene.pid_file()).unwrap();
    let payload = scene.payload(Payload::Plain);
    let mut standby = scene.start(["run", "--wait", "--", &payload]);
    let line = standby.wait_for_line("standing by");
    assert!(line.contains(&holder.pid().to_string()), "{line}");
    holder.crash();
    let _standby = scene.wait_for_payload(standby);
    scene.assert_never_two_payloads();
}

/// Takeovers while somebody keeps removing the file.
#[test]
fn takeovers_survive_a_remover() {
    let scene = Scene::new();
    let payload = scene.payload(Payload::Plain);
    let mut remover = scene.command("sh");
    remover.args(["-c", "while :; do rm -f gateway.pid; sleep 0.25; done"]);
    let mut holder = scene.start(["run", "--", &payload]);
    until("the first payload", SOON, || {
        (scene.started_payloads().len() == 1).then_some(())
    });
    let _remover = scene.spawn(remover);
    for round in 2..=12 {
        let mut next = scene.start(["run", "--replace", "--", &payload]);
        until("the next payload", SOON, || {
            let ended = next.try_end();
            assert!(ended.is_none(), "{ended:?} {}", next.stderr());
            (scene.started_payloads().len() == round).then_some(())
        });
        assert_eq!(holder.end(), End::of(Signal::TERM), "{}", holder.stderr());
        holder = next;
    }
    scene.assert_never_two_payloads();
}

// ---------------------------------------------------------------- somebody else has the name

/// A locker without a record is waited out, with one warning.
#[test]
fn a_foreign_locker_at_the_path_is_waited_out() {
    let scene = Scene::new();
    let mut holder = scene.hold();
    fs::write(scene.path("new"), "").unwrap();
    let mut locker = Locker::on(&scene, &scene.path("new"));
    fs::rename(scene.path("new"), scene.pid_file()).unwrap();
    let line = holder.wait_for_line("has the lock there");
    assert!(line.contains(&locker.pid().to_string()), "{line}");
    // The payload goes on, and there is one warning however long it takes.
    std::thread::sleep(Duration::from_millis(1500));
    assert!(holder.is_running() && locker.0.is_running());
    assert_eq!(holder.stderr().matches("has the lock there").count(), 1);
    locker.0.crash();
    wait_for_claim(&scene, &holder);
    assert_eq!(scene.started_payloads().len(), 1);
}

/// The holder gives way only to a record: of somebody who could not see it.
#[test]
fn a_holder_whose_name_was_taken_stops_with_its_own_code() {
    let scene = Scene::for_everybody();
    set_mode(&scene.path(""), 0o777);
    let mut holder = scene.hold();
    holder.signal(Signal::STOP);
    wait_until("it is stopped", SOON, || state(holder.pid()) == Some('T'));
    fs::remove_file(scene.pid_file()).unwrap();
    // Nobody may not look into root's descriptors, and finds the name free.
    let command = scene.gateway(["run", "--", "sleep", "infinity"]);
    let mut thief = scene.spawn(as_nobody(&scene, &command));
    scene.wait_for_record("the other's record", |record| {
        record.pid() == thief.pid() && record.has_payload()
    });
    holder.signal(Signal::CONT);
    let line = holder.wait_for_line("was taken by");
    assert!(line.contains(&thief.pid().to_string()), "{line}");
    assert_eq!(holder.end(), End::Code(84));
    assert!(thief.is_running());
    let record = scene.record();
    assert_eq!(
        record.pid(),
        thief.pid(),
        "the record of the one who has the name is untouched"
    );
    assert_eq!(scene.lockers(), [thief.pid()]);
}

/// Without polling: a holder whose file nobody touches does nothing at all.
#[test]
fn the_watch_costs_nothing() {
    let scene = Scene::new();
    // Mounts of its own, and away from the folder for temporary files: others are busy there.
    let space = MountSpace::new(&scene, "mount -t tmpfs tmpfs /mnt");
    let holder = scene.spawn(space.gateway(
        Path::new("/mnt/gateway.pid"),
        ["run", "--", "sleep", "infinity"],
    ));
    wait_for_lock(&space.inside(Path::new("/mnt/gateway.pid")), &holder);
    let switches = || -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", holder.pid())).unwrap();
        let count = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name)).unwrap();
            line.split_whitespace()
                .nth(1)
                .unwrap()
                .parse::<u64>()
                .unwrap()
        };
        count("voluntary_ctxt_switches") + count("nonvoluntary_ctxt_switches")
    };
    // The watch is set a moment after the payload has started; then nothing is left to do.
    let mut last = switches();
    wait_until("it has gone to sleep", SOON, || {
        std::thread::sleep(Duration::from_millis(300));
        std::mem::replace(&mut last, switches()) == last
    });
    let before = switches();
    std::thread::sleep(Duration::from_secs(3));
    assert!(
        switches() - before <= 1,
        "its look every ten seconds, and nothing else"
    );
}

/// A new file beside it, and reads of it, are not taken for damage.
#[test]
fn neighbours_and_readers_disturb_nobody() {
    let scene = Scene::new();
    let mut holder = scene.hold();
    for round in 0..50 {
        fs::write(scene.path("neighbour"), format!("{round}")).unwrap();
        fs::remove_file(scene.path("neighbour")).unwrap();
        scene.bytes();
    }
    scene.finish(["status"]).assert_code(0);
    assert_eq!(holder.stderr(), "");
    assert!(holder.is_running());
}

/// A file mounted over ours is a replacement, too.
#[test]
fn a_file_mounted_over_ours_is_claimed() {
    let scene = Scene::new();
    let space = MountSpace::new(&scene, "mount -t tmpfs tmpfs /mnt\n: >/mnt/other");
    let file = Path::new("/mnt/gateway.pid");
    let mut holder = scene.spawn(space.gateway(file, ["run", "--", "sleep", "infinity"]));
    wait_until_it_watches(&space.inside(file));
    let mut mount = scene.command("mount");
    mount.args(["--bind", "/mnt/other", "/mnt/gateway.pid"]);
    scene.finish_command(space.command(&mount)).assert_code(0);
    // A mount gives no event.
    let other = space.inside(Path::new("/mnt/other"));
    wait_for_lock_within(Duration::from_secs(13), &other, &holder);
    scene
        .finish_command(space.gateway(file, ["run", "--", "true"]))
        .assert_code(80);
    assert!(holder.is_running());
}

/// Moved back after the end, it is that of no crash.
#[test]
fn a_file_that_was_moved_away_is_marked_ended_with_the_run() {
    let scene = Scene::new();
    let mut holder = scene.hold();
    fs::rename(scene.pid_file(), scene.path("away")).unwrap();
    wait_for_claim(&scene, &holder);
    holder.signal(Signal::TERM);
    assert_eq!(holder.end(), End::of(Signal::TERM));
    let away = Record::read(&fs::read(scene.path("away")).unwrap()).expect("a record");
    assert!(away.is_ended() && away.first_line.is_empty(), "{away:?}");
    fs::rename(scene.path("away"), scene.pid_file()).unwrap();
    assert_eq!(scene.state(), "free");
}

/// A gateway of another path, whose file was moved here, has not taken this name: it is waited out.
#[test]
fn a_holder_gives_way_to_no_gateway_of_another_path() {
    let scene = Scene::new();
    let mut holder = scene.hold();
    let path = scene.path("other.pid");
    let mut command = scene.bare(["-f"]);
    command.arg(&path).args(["run", "--", "sleep", "infinity"]);
    let mut other = scene.spawn(command);
    let has_claim = |pid| {
        lockers(&path) == [pid]
            && fs::read(&path)
                .is_ok_and(|bytes| Record::read(&bytes).is_some_and(|record| record.has_payload()))
    };
    wait_until("the other one holds", SOON, || has_claim(other.pid()));
    fs::rename(&path, scene.pid_file()).unwrap();
    let line = holder.wait_for_line("has the lock there");
    assert!(line.contains(&other.pid().to_string()), "{line}");
    wait_until("its own claim is put back", BY_THE_WATCH, || {
        has_claim(other.pid())
    });
    assert!(holder.is_running() && other.is_running());
    other.signal(Signal::TERM);
    assert_eq!(other.end(), End::of(Signal::TERM));
    wait_for_claim(&scene, &holder);
    assert_eq!(scene.started_payloads().len(), 1);
}
