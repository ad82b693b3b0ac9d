//! The pid file's name is guarded, too: a lock on an inode does not protect the name.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::harness::{
    End, Locker, MountSpace, Payload, Process, Record, SOON, Scene, Signal, exists,
    in_pid_namespace, lockers, must_be_root, state, wait_until,
};
use crate::kit::{assert_stays, wait_until_gone};

/// Without polling: well before the look that comes every ten seconds anyway.
const AT_ONCE: Duration = Duration::from_secs(6);

/// A scene whose pid file lies two directories down, and a holder of it.
struct Deep {
    scene: Scene,
    path: PathBuf,
}

impl Deep {
    fn new() -> Self {
        let scene = Scene::new();
        let path = scene.path("grand/parent/gateway.pid");
        Self { scene, path }
    }

    fn gateway(&self, args: &[&str]) -> Command {
        let mut command = self.scene.bare(["-f"]);
        command.arg(&self.path).args(args);
        command
    }

    fn start(&self, args: &[&str]) -> Process {
        self.scene.spawn(self.gateway(args))
    }

    /// Holds, and has been at it for so long that its watch stands.
    fn hold(&self) -> Process {
        let payload = self.scene.payload(Payload::Plain);
        let mut holder = self.start(&["run", "--", &payload]);
        wait_until("the payload runs", SOON, || {
            assert!(holder.is_running(), "{}", holder.stderr());
            self.scene.started_payloads().len() == 1 && self.has_claim(&holder)
        });
        holder
    }

    fn record(&self) -> Option<Record> {
        Record::read(&fs::read(&self.path).ok()?)
    }

    /// The file at the path is locked by this process, and its record names file and process.
    fn has_claim(&self, holder: &Process) -> bool {
        use std::os::unix::fs::MetadataExt;
        let Ok(file) = fs::metadata(&self.path) else {
            return false;
        };
        self.record().is_some_and(|record| {
            record.pid() == holder.pid()
                && record.has_payload()
                && record.text("/path") == self.path.to_str().unwrap()
                && (record.number("/dev"), record.number("/inode")) == (file.dev(), file.ino())
        }) && lockers(&self.path) == [holder.pid()]
    }

    /// The holder puts its claim back, says so, and its payload has noticed nothing.
    #[track_caller]
    fn assert_put_back(&self, holder: &mut Process, words: &str) {
        wait_until("the claim is at the path again", AT_ONCE, || {
            self.has_claim(holder)
        });
        let line = holder.wait_for_line(words);
        assert!(line.contains(self.path.to_str().unwrap()), "{line}");
        assert_eq!(self.scene.started_payloads().len(), 1);
        let output = self
            .scene
            .finish_command(self.gateway(&["run", "--", "true"]));
        output.assert_code(80);
        assert!(holder.is_running());
        self.scene.assert_never_two_payloads();
    }

    #[track_caller]
    fn assert_stops_in_order(&self, mut holder: Process) {
        holder.signal(Signal::TERM);
        assert_eq!(holder.end(), End::of(Signal::TERM));
        assert!(self.record().expect("a record").is_ended());
        self.scene.wait_until_empty();
    }
}

const GONE: &str = "it was put back";

fn parent(path: &Path) -> &Path {
    path.parent().unwrap()
}

/// What other people's cleaning does to a pid file. NousResearch/hermes-agent#26643.
#[test]
fn a_name_that_is_taken_away_is_put_back() {
    let harm: [(&str, fn(&Path)); 7] = [
        ("file removed", |path| fs::remove_file(path).unwrap()),
        ("file renamed", |path| {
            fs::rename(path, path.with_extension("away")).unwrap()
        }),
        ("directory removed", |path| {
            fs::remove_dir_all(parent(path)).unwrap()
        }),
        ("directory renamed", |path| {
            fs::rename(parent(path), parent(path).with_extension("away")).unwrap();
        }),
        ("grandparent renamed", |path| {
            fs::rename(
                parent(parent(path)),
                parent(parent(path)).with_extension("away"),
            )
            .unwrap();
        }),
        ("another file in its place", |path| {
            fs::write(path.with_extension("new"), "junk\n").unwrap();
            fs::rename(path.with_extension("new"), path).unwrap();
        }),
        ("a copy of it in its place", |path| {
            fs::copy(path, path.with_extension("new")).unwrap();
            fs::rename(path.with_extension("new"), path).unwrap();
        }),
    ];
    for (what, harm) in harm {
        eprintln!("{what}");
        let deep = Deep::new();
        let mut holder = deep.hold();
        let generation = deep.record().unwrap().number("/generation");
        harm(&deep.path);
        deep.assert_put_back(&mut holder, GONE);
        assert_eq!(
            deep.record().unwrap().number("/generation"),
            generation,
            "{what}"
        );
        deep.assert_stops_in_order(holder);
    }
}

#[test]
fn a_file_that_was_moved_away_and_back_is_found_held() {
    let deep = Deep::new();
    let mut holder = deep.hold();
    let away = deep.path.with_extension("away");
    fs::rename(&deep.path, &away).unwrap();
    deep.assert_put_back(&mut holder, GONE);
    assert_eq!(
        lockers(&away),
        [holder.pid()],
        "the earlier file stays locked"
    );
    fs::rename(&away, &deep.path).unwrap();
    deep.assert_put_back(&mut holder, GONE);
    // And so fast that nobody could look in between.
    fs::rename(&deep.path, &away).unwrap();
    fs::rename(&away, &deep.path).unwrap();
    wait_until("it has its claim", AT_ONCE, || deep.has_claim(&holder));
    assert_stays(&mut holder, Duration::from_millis(500));
    assert!(deep.has_claim(&holder));
    deep.assert_stops_in_order(holder);
}

#[test]
fn an_overwritten_record_is_written_again_at_most_every_ten_seconds() {
    let deep = Deep::new();
    let mut holder = deep.hold();
    let record = fs::read(&deep.path).unwrap();
    fs::write(&deep.path, "junk").unwrap();
    let restored = || fs::read(&deep.path).is_ok_and(|bytes| bytes == record);
    wait_until("the record is back", AT_ONCE, restored);
    let first = Instant::now();
    holder.wait_for_line("the record was written again");
    // Longer than the record: what is behind it is cut off.
    fs::write(&deep.path, "x".repeat(3000)).unwrap();
    wait_until("the record is back again", SOON, restored);
    let apart = first.elapsed();
    assert!((9_000..14_000).contains(&apart.as_millis()), "{apart:?}");
    assert_eq!(deep.scene.started_payloads().len(), 1);
    deep.assert_stops_in_order(holder);
}

#[test]
fn a_mount_on_top_of_the_name_is_seen() {
    let scene = Scene::new();
    fs::create_dir(scene.path("place")).unwrap();
    let space = MountSpace::new(&scene, "true");
    let path = scene.path("place/gateway.pid");
    let payload = scene.payload(Payload::Plain);
    let mut holder = scene.spawn(space.gateway(&path, ["run", "--", &payload]));
    wait_until("the payload runs", SOON, || {
        scene.started_payloads().len() == 1
    });
    let mut mount = scene.command("mount");
    mount
        .args(["-t", "tmpfs", "tmpfs"])
        .arg(scene.path("place"));
    scene.finish_command(space.command(&mount)).assert_code(0);
    let inside = space.inside(&path);
    wait_until("the claim is on the new mount", AT_ONCE, || {
        lockers(&inside) == [holder.pid()]
    });
    holder.wait_for_line(GONE);
    scene
        .finish_command(space.gateway(&path, ["run", "--", "true"]))
        .assert_code(80);
    // Away again: what was below is still ours.
    let mut unmount = scene.command("umount");
    unmount.arg("-l").arg(scene.path("place"));
    scene.finish_command(space.command(&unmount)).assert_code(0);
    wait_until("it is at the path", AT_ONCE, || {
        lockers(&path) == [holder.pid()]
    });
    scene
        .finish_command(space.gateway(&path, ["run", "--", "true"]))
        .assert_code(80);
    scene.assert_never_two_payloads();
}

/// The holder cannot put anything back, so every newcomer has to find it.
#[test]
fn newcomers_find_a_stopped_holder_of_an_earlier_file() {
    let harm: [(&str, fn(&Path)); 5] = [
        ("removed", |path| fs::remove_file(path).unwrap()),
        ("directory removed", |path| {
            fs::remove_dir_all(parent(path)).unwrap()
        }),
        ("renamed", |path| {
            fs::rename(path, path.with_extension("away")).unwrap()
        }),
        ("replaced by junk", |path| {
            fs::write(path.with_extension("new"), "4\n").unwrap();
            fs::rename(path.with_extension("new"), path).unwrap();
        }),
        ("replaced by a copy", |path| {
            fs::copy(path, path.with_extension("new")).unwrap();
            fs::rename(path.with_extension("new"), path).unwrap();
        }),
    ];
    for (what, harm) in harm {
        eprintln!("{what}");
        let deep = Deep::new();
        let mut holder = deep.hold();
        holder.signal(Signal::STOP);
        wait_until("it is stopped", SOON, || state(holder.pid()) == Some('T'));
        harm(&deep.path);
        for _ in 0..3 {
            let output = deep
                .scene
                .finish_command(deep.gateway(&["run", "--", "touch", "ran"]));
            output
                .assert_code(80)
                .assert_one_line()
                .assert_says(&format!("held by pid {} ", holder.pid()));
            assert_eq!(lockers(&deep.path), [0; 0], "{what}: it has let go");
        }
        assert!(!deep.scene.path("ran").exists());
        holder.signal(Signal::CONT);
        deep.assert_put_back(&mut holder, GONE);
        deep.assert_stops_in_order(holder);
    }
}

#[test]
fn a_takeover_asks_the_holder_of_an_earlier_file() {
    for stopped in [false, true] {
        let deep = Deep::new();
        let mut holder = deep.hold();
        if stopped {
            holder.signal(Signal::STOP);
        }
        fs::remove_dir_all(parent(&deep.path)).unwrap();
        let payload = deep.scene.payload(Payload::Plain);
        let new = deep.start(&["run", "--replace", "--", &payload]);
        assert_eq!(holder.end(), End::of(Signal::TERM));
        wait_until("the newcomer has the path", SOON, || deep.has_claim(&new));
        wait_until("its payload runs", SOON, || {
            deep.scene.started_payloads().len() == 2
        });
        deep.scene.assert_never_two_payloads();
        let said = new.stderr();
        assert!(
            said.contains(&format!("asked pid {} ", holder.pid())),
            "{said}"
        );
        deep.assert_stops_in_order(new);
    }
}

#[test]
fn stop_ends_the_holder_of_a_removed_file() {
    let deep = Deep::new();
    let mut holder = deep.hold();
    holder.signal(Signal::STOP);
    wait_until("it is stopped", SOON, || state(holder.pid()) == Some('T'));
    fs::remove_file(&deep.path).unwrap();
    deep.scene
        .finish_command(deep.gateway(&["stop"]))
        .assert_code(0);
    assert_eq!(holder.end(), End::of(Signal::TERM));
    deep.scene.wait_until_empty();
}

/// Whoever removes the file again and again gets neither two payloads nor none.
#[test]
fn removals_and_starts_at_once_leave_the_one_holder() {
    let deep = Deep::new();
    let mut holder = deep.hold();
    for round in 0..25 {
        let _ = fs::remove_file(&deep.path);
        let plain: Vec<Process> = (0..3)
            .map(|_| deep.start(&["run", "--", "touch", "ran"]))
            .collect();
        if round % 3 == 0 {
            let _ = fs::remove_file(&deep.path);
        }
        for plain in plain {
            plain.output().assert_code(80);
        }
        assert!(holder.is_running(), "{}", holder.stderr());
    }
    assert!(!deep.scene.path("ran").exists());
    wait_until("the claim is at the path", AT_ONCE, || {
        deep.has_claim(&holder)
    });
    assert_eq!(deep.scene.started_payloads().len(), 1);
    deep.assert_stops_in_order(holder);
}

/// A start is not settled yet when the file goes: the look after the record is written sees it.
#[test]
fn removals_during_starts_never_make_two() {
    let deep = Deep::new();
    let payload = deep.scene.payload(Payload::Plain);
    for round in 0..12u64 {
        let mut all: Vec<Process> = (0..2)
            .map(|_| deep.start(&["run", "--", &payload]))
            .collect();
        std::thread::sleep(Duration::from_millis(round));
        let _ = fs::remove_file(&deep.path);
        all.push(deep.start(&["run", "--", &payload]));
        // One holds, the others are told so.
        wait_until("two are refused", SOON, || {
            all.iter_mut()
                .map(Process::try_end)
                .filter(Option::is_some)
                .count()
                >= 2
        });
        let mut running = Vec::new();
        for mut one in all {
            match one.try_end() {
                None => running.push(one),
                Some(end) => assert!(
                    matches!(end, End::Code(80 | 82)),
                    "round {round}: {end:?}, {}",
                    one.stderr()
                ),
            }
        }
        assert_eq!(running.len(), 1, "round {round}");
        let mut left = running.pop().unwrap();
        wait_until("it has the path", SOON, || deep.has_claim(&left));
        left.signal(Signal::TERM);
        left.end();
    }
    deep.scene.assert_never_two_payloads();
}

/// NousResearch/hermes-agent#11718: takeovers that each removed the other's file.
#[test]
fn removals_during_takeovers_leave_one() {
    let deep = Deep::new();
    let payload = deep.scene.payload(Payload::Plain);
    let mut all = vec![deep.hold()];
    for round in 0..12u64 {
        all.push(deep.start(&["run", "--replace", "--", &payload]));
        std::thread::sleep(Duration::from_millis(round * 3));
        let _ = fs::remove_file(&deep.path);
        if round % 4 == 0 {
            all.push(deep.start(&["run", "--replace", "--", &payload]));
        }
    }
    let mut last = None;
    wait_until("one is left, and has the path", SOON, || {
        all.retain_mut(Process::is_running);
        assert!(!all.is_empty(), "nobody is left");
        let settled = all.len() == 1 && deep.has_claim(&all[0]);
        let since = *last.get_or_insert_with(Instant::now);
        if !settled {
            last = None;
        }
        settled && since.elapsed() > Duration::from_millis(500)
    });
    deep.scene.assert_never_two_payloads();
    deep.assert_stops_in_order(all.pop().unwrap());
}

/// A holder that nobody could see when the other one started.
#[test]
fn the_holder_gives_way_to_a_record_and_ends_with_a_code_of_its_own() {
    must_be_root();
    let deep = Deep::new();
    let mut holder = deep.hold();
    let payload = deep.record().unwrap().payload_pid();
    holder.signal(Signal::STOP);
    wait_until("it is stopped", SOON, || state(holder.pid()) == Some('T'));
    fs::remove_file(&deep.path).unwrap();
    let inner = deep.gateway(&["run", "--", "sleep", "infinity"]);
    let mut other = deep.scene.spawn(in_pid_namespace(&deep.scene, &inner));
    wait_until("the other one has its record", SOON, || {
        deep.record().is_some_and(|record| record.has_payload())
    });
    let before = fs::read(&deep.path).unwrap();
    holder.signal(Signal::CONT);
    assert_eq!(holder.end(), End::Code(84));
    assert!(!exists(payload), "its payload went first");
    let said = holder.stderr();
    assert!(said.contains("was taken by"), "{said}");
    assert!(other.is_running());
    assert_eq!(fs::read(&deep.path).unwrap(), before);
}

#[test]
fn a_file_with_a_higher_generation_is_not_healed_onto() {
    let deep = Deep::new();
    let mut holder = deep.hold();
    let payload = deep.record().unwrap().payload_pid();
    let mut newer = deep.record().unwrap().json;
    newer["generation"] = (newer["generation"].as_u64().unwrap() + 1).into();
    newer["run_id"] = "0123456789abcdef0123456789abcdef".into();
    let text = format!("{}\n{newer}\n", holder.pid());
    fs::write(deep.path.with_extension("new"), &text).unwrap();
    fs::rename(deep.path.with_extension("new"), &deep.path).unwrap();
    assert_eq!(holder.end(), End::Code(84));
    wait_until_gone(payload);
    assert_eq!(fs::read_to_string(&deep.path).unwrap(), text);
}

#[test]
fn a_locker_without_a_record_is_waited_out_with_one_warning() {
    let deep = Deep::new();
    let mut holder = deep.hold();
    holder.signal(Signal::STOP);
    wait_until("it is stopped", SOON, || state(holder.pid()) == Some('T'));
    fs::remove_file(&deep.path).unwrap();
    let locker = Locker::on(&deep.scene, &deep.path);
    holder.signal(Signal::CONT);
    let line = holder.wait_for_line("waiting for it to let go");
    assert!(line.contains(&format!("pid {} ", locker.pid())), "{line}");
    assert_stays(&mut holder, Duration::from_millis(1500));
    assert_eq!(
        holder.stderr().matches("waiting for it to let go").count(),
        1
    );
    drop(locker);
    deep.assert_put_back(&mut holder, GONE);
    deep.assert_stops_in_order(holder);
}

/// Another container's holder has the same words for its path; that makes it nobody's rival.
#[test]
fn a_holder_of_the_same_path_in_another_mount_namespace_is_no_earlier_holder() {
    let scene = Scene::new();
    let space = MountSpace::tmpfs(&scene, "place", "size=1m");
    let path = scene.path("place/gateway.pid");
    let mut inner = scene.spawn(space.gateway(&path, ["run", "--", "sleep", "infinity"]));
    let inside = space.inside(&path);
    wait_until("it holds inside", SOON, || {
        lockers(&inside) == [inner.pid()]
    });
    for mode in [&["run"][..], &["run", "--replace"], &["run", "--wait"]] {
        fs::write(&path, "junk\n").unwrap();
        let mut command = scene.bare(["-f"]);
        command.arg(&path).args(mode).args(["--", "true"]);
        scene.finish_command(command).assert_code(0);
        fs::remove_file(&path).unwrap();
    }
    assert!(inner.is_running());
    // Removed inside: only who stands inside is refused.
    inner.signal(Signal::STOP);
    wait_until("it is stopped", SOON, || state(inner.pid()) == Some('T'));
    fs::remove_file(&inside).unwrap();
    let mut command = scene.bare(["-f"]);
    command.arg(&path).args(["run", "--", "true"]);
    scene.finish_command(command).assert_code(0);
    scene
        .finish_command(space.gateway(&path, ["run", "--", "true"]))
        .assert_code(80);
}

/// A path is what the kernel calls it, however it was typed.
#[test]
fn other_spellings_of_the_path_find_the_holder_of_an_earlier_file() {
    let deep = Deep::new();
    let holder = deep.hold();
    holder.signal(Signal::STOP);
    wait_until("it is stopped", SOON, || state(holder.pid()) == Some('T'));
    fs::remove_file(&deep.path).unwrap();
    std::os::unix::fs::symlink(deep.scene.path("grand"), deep.scene.path("link")).unwrap();
    for spelling in [
        "grand/parent/gateway.pid",
        "grand/../grand/./parent//gateway.pid",
        "link/parent/gateway.pid",
    ] {
        let command = deep.scene.bare(["-f", spelling, "run", "--", "true"]);
        deep.scene.finish_command(command).assert_code(80);
    }
}

/// Two pid files in one directory, one removed: they are two names.
#[test]
fn the_holder_of_another_file_in_the_directory_is_no_earlier_holder() {
    let deep = Deep::new();
    let mut holder = deep.hold();
    let other = deep.path.with_file_name("other.pid");
    let mut command = deep.scene.bare(["-f"]);
    command.arg(&other).args(["run", "--", "true"]);
    deep.scene.finish_command(command).assert_code(0);
    assert!(holder.is_running() && deep.has_claim(&holder));
}
