//! The pid file's name is guarded, too: a lock on an inode does not protect the name.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::harness::{
    End, MountSpace, Payload, Process, Record, SOON, Scene, Signal, exists, in_pid_namespace,
    injected, is_held_up_in, lockers, must_be_root, state, wait_until,
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

/// What is done to a pid file, and its name in the output.
type Harm = (&'static str, fn(&Path));

const GONE: &str = "it was put back";

fn parent(path: &Path) -> &Path {
    path.parent().unwrap()
}

/// Overwrites in one step. Cut and written in two, a file could be healed in between, and what was
/// written then would have to wait for its ten seconds.
fn scribble(path: &Path, text: &str) {
    let mut file = fs::OpenOptions::new().write(true).open(path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

#[test]
fn an_overwritten_record_is_written_again_at_most_every_ten_seconds() {
    let deep = Deep::new();
    let mut holder = deep.hold();
    let record = fs::read(&deep.path).unwrap();
    fs::write(&deep.path, "junk").unwrap();
    let restored = || fs::read(&deep.path).is_ok_and(|bytes| bytes == record);
    wait_until("the record is back", SOON, restored);
    let first = Instant::now();
    holder.wait_for_line("the record was written again");
    // Longer than the record: what is behind it is cut off.
    scribble(&deep.path, &"x".repeat(3000));
    wait_until("the record is back again", SOON, restored);
    let apart = first.elapsed();
    assert!((9_000..14_000).contains(&apart.as_millis()), "{apart:?}");
    assert_eq!(deep.scene.started_payloads().len(), 1);
    deep.assert_stops_in_order(holder);
}

#[test]
fn a_mount_on_top_of_the_name_is_seen() {
    let scene = Scene::new();
    // Away from the folder for temporary files, where others make the holder look.
    let setup = "mount -t tmpfs tmpfs /mnt; mkdir /mnt/place";
    let space = MountSpace::new(&scene, setup);
    let path = Path::new("/mnt/place/gateway.pid");
    let inside = space.inside(path);
    let payload = scene.payload(Payload::Plain);
    let mut holder = scene.spawn(space.gateway(path, ["run", "--", &payload]));
    wait_until("the payload runs", SOON, || {
        scene.started_payloads().len() == 1
    });
    // It has looked for the last time of itself, and watches.
    assert_stays(&mut holder, Duration::from_millis(300));
    let run = |program: &str, args: &[&str]| {
        let mut command = scene.command(program);
        command.args(args);
        scene.finish_command(space.command(&command)).assert_code(0);
    };
    run("mount", &["-t", "tmpfs", "tmpfs", "/mnt/place"]);
    wait_until("the claim is on the new mount", AT_ONCE, || {
        lockers(&inside) == [holder.pid()]
    });
    holder.wait_for_line(GONE);
    let refused = || {
        let output = scene.finish_command(space.gateway(path, ["run", "--", "true"]));
        output.assert_code(80);
    };
    refused();
    // Away again: what was below is still ours.
    run("umount", &["-l", "/mnt/place"]);
    wait_until("it is at the path", AT_ONCE, || {
        holder.stderr().matches(GONE).count() == 2 && lockers(&inside) == [holder.pid()]
    });
    refused();
    scene.assert_never_two_payloads();
}

/// linuxserver/docker-mastodon#40: the image itself has a leftover in it, and the container a layer on top.
#[test]
fn a_layered_file_system_is_guarded_like_any_other() {
    let scene = Scene::new();
    let setup = r#"mkdir "$SCENE/layers"; mount -t tmpfs tmpfs "$SCENE/layers"; cd "$SCENE/layers"
        mkdir -p lower/place upper work merged; echo 77 >lower/place/gateway.pid
        mount -t overlay overlay -o lowerdir=lower,upperdir=upper,workdir=work merged"#;
    let space = MountSpace::new(&scene, setup);
    let path = scene.path("layers/merged/place/gateway.pid");
    let inside = space.inside(&path);
    let payload = scene.payload(Payload::Plain);
    let mut holder = scene.spawn(space.gateway(&path, ["run", "--", &payload]));
    let claimed = |holder: &Process| {
        lockers(&inside) == [holder.pid()]
            && fs::read(&inside)
                .is_ok_and(|text| Record::read(&text).is_some_and(|record| record.has_payload()))
    };
    let refused = || {
        let output = scene.finish_command(space.gateway(&path, ["run", "--", "true"]));
        output.assert_code(80);
    };
    wait_until("it holds", SOON, || claimed(&holder));
    refused();
    fs::remove_file(&inside).unwrap();
    wait_until("it is put back", AT_ONCE, || claimed(&holder));
    scribble(&inside, "junk");
    wait_until("it is written again", SOON, || claimed(&holder));
    holder.signal(Signal::STOP);
    wait_until("it is stopped", SOON, || state(holder.pid()) == Some('T'));
    fs::remove_file(&inside).unwrap();
    // The record of a removed file cannot always be read through a layer: its holder is then
    // waited for as one that starts (82), and never passed.
    let output = scene.finish_command(space.gateway(&path, ["run", "--", "true"]));
    assert!(matches!(output.end, End::Code(80 | 82)), "{output:?}");
    holder.signal(Signal::CONT);
    wait_until("it is put back", AT_ONCE, || claimed(&holder));
    let new = scene.spawn(space.gateway(&path, ["run", "--replace", "--", &payload]));
    assert_eq!(holder.end(), End::of(Signal::TERM));
    wait_until("the newcomer holds", SOON, || claimed(&new));
    wait_until("its payload runs", SOON, || {
        scene.started_payloads().len() == 2
    });
    scene.assert_never_two_payloads();
}

/// The holder cannot put anything back, so every newcomer has to find it.
#[test]
fn newcomers_find_a_stopped_holder_of_an_earlier_file() {
    let harm: [Harm; 4] = [
        ("directory removed", |path| {
            fs::remove_dir_all(parent(path)).unwrap()
        }),
        ("directory renamed", |path| {
            fs::rename(parent(path), parent(path).with_extension("away")).unwrap();
        }),
        ("renamed", |path| {
            fs::rename(path, path.with_extension("away")).unwrap()
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

/// The file goes between a start's look at the path and its record; another one starts meanwhile.
#[test]
fn a_file_removed_before_the_record_is_written_leaves_one_holder() {
    std::thread::scope(|all| {
        for mode in [&["--replace"][..], &["--wait"], &[]] {
            all.spawn(move || removed_before_the_record(mode));
        }
    });
}

fn removed_before_the_record(mode: &[&str]) {
    let deep = Deep::new();
    let payload = deep.scene.payload(Payload::Plain);
    let mut slow = deep.scene.bare(["-f"]);
    slow.arg(&deep.path)
        .arg("run")
        .args(mode)
        .args(["--", &payload]);
    // Its record is written that many microseconds late.
    let slow = injected(&deep.scene, "pwrite64:delay_enter=4000000:when=1", &slow);
    let mut slow = deep.scene.spawn(slow);
    // Held up by strace for longer than any other call of it takes.
    let mut held_up = Instant::now();
    wait_until("it is about to write its record", SOON, || {
        let lockers = lockers(&deep.path);
        if lockers.len() != 1 || state(lockers[0]) != Some('t') {
            held_up = Instant::now();
        }
        held_up.elapsed() > Duration::from_millis(300)
    });
    fs::remove_file(&deep.path).unwrap();
    let mut other = deep.start(&["run", "--", &payload]);
    let mut both = [&mut slow, &mut other];
    // strace(1) ends as the program under it does.
    wait_until("one has the path, and its payload runs", SOON, || {
        let Some(record) = deep.record().filter(Record::has_payload) else {
            return false;
        };
        assert!(
            both.iter_mut().any(|one| one.is_running()),
            "{mode:?}: nobody is left"
        );
        lockers(&deep.path) == [record.pid()]
            && deep
                .scene
                .started_payloads()
                .contains(&record.payload_pid())
    });
    if mode.is_empty() {
        wait_until("the other one is refused", SOON, || {
            let ends = both.each_mut().map(|one| one.try_end());
            ends.contains(&Some(End::Code(80))) && ends.contains(&None)
        });
    }
    deep.scene.assert_never_two_payloads();
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

/// Copied or moved over ours: it tells of another name.
#[test]
fn a_newer_file_of_another_gateway_is_healed_onto() {
    let deep = Deep::new();
    let mut holder = deep.hold();
    let mine = deep.record().unwrap().json;
    let mut theirs = mine.clone();
    theirs["generation"] = (mine["generation"].as_u64().unwrap() + 1).into();
    theirs["run_id"] = "0123456789abcdef0123456789abcdef".into();
    theirs["path"] = "/run/another/gateway.pid".into();
    let text = format!("{}\n{theirs}\n", holder.pid());
    fs::write(deep.path.with_extension("new"), text).unwrap();
    fs::rename(deep.path.with_extension("new"), &deep.path).unwrap();
    wait_until("its own record is at the path", SOON, || {
        deep.record()
            .is_some_and(|record| record.json["run_id"] == mine["run_id"])
    });
    assert!(holder.is_running());
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

/// So fast that nobody can look in between.
#[test]
fn a_file_that_was_moved_away_and_back_at_once_stays_claimed() {
    let deep = Deep::new();
    let mut holder = deep.hold();
    let away = deep.path.with_extension("away");
    for _ in 0..50 {
        fs::rename(&deep.path, &away).unwrap();
        fs::rename(&away, &deep.path).unwrap();
    }
    wait_until("it has its claim", AT_ONCE, || {
        // What it made in between may have been replaced by the next move.
        deep.has_claim(&holder)
    });
    assert_stays(&mut holder, Duration::from_secs(1));
    assert!(deep.has_claim(&holder), "{}", holder.stderr());
    deep.assert_stops_in_order(holder);
}

/// The kernel marks a removed file's name with ` (deleted)`; a file may be called so, too.
#[test]
fn a_file_with_deleted_in_its_name_is_another_file() {
    let deep = Deep::new();
    let mut other = deep.path.clone().into_os_string();
    other.push(" (deleted)");
    let mut command = deep.scene.bare(["-f"]);
    command.arg(&other).args(["run", "--", "sleep", "infinity"]);
    let mut held = deep.scene.spawn(command);
    wait_until("it holds", SOON, || {
        lockers(Path::new(&other)) == [held.pid()]
    });
    for mode in [&["run"][..], &["run", "--replace"]] {
        let mut args = mode.to_vec();
        args.extend(["--", "true"]);
        deep.scene
            .finish_command(deep.gateway(&args))
            .assert_code(0);
        fs::remove_file(&deep.path).unwrap();
    }
    assert!(held.is_running());
    // And its own removal is seen.
    held.signal(Signal::STOP);
    wait_until("it is stopped", SOON, || state(held.pid()) == Some('T'));
    fs::remove_file(&other).unwrap();
    let mut command = deep.scene.bare(["-f"]);
    command.arg(&other).args(["run", "--", "true"]);
    deep.scene.finish_command(command).assert_code(80);
}

/// Names are bytes to the kernel.
#[test]
fn a_holder_of_a_removed_file_with_a_strange_name_is_found() {
    use std::os::unix::ffi::OsStrExt;
    for name in [
        &b"caf\xe9 \xff.pid"[..],
        b"two\nlines.pid",
        b"a\\012b\"'$x.pid",
    ] {
        let scene = Scene::new();
        let folder = scene.path(std::ffi::OsStr::from_bytes(b"d\xfe\n"));
        fs::create_dir(&folder).unwrap();
        let path = folder.join(std::ffi::OsStr::from_bytes(name));
        let gateway = |args: &[&str]| {
            let mut command = scene.bare(["-f"]);
            command.arg(&path).args(args);
            command
        };
        let mut holder = scene.spawn(gateway(&["run", "--", "sleep", "infinity"]));
        wait_until("it holds", SOON, || {
            lockers(&path) == [holder.pid()]
                && fs::read(&path)
                    .ok()
                    .and_then(|bytes| Record::read(&bytes))
                    .is_some_and(|record| record.has_payload())
        });
        scene
            .finish_command(gateway(&["run", "--", "true"]))
            .assert_code(80);
        holder.signal(Signal::STOP);
        wait_until("it is stopped", SOON, || state(holder.pid()) == Some('T'));
        fs::remove_file(&path).unwrap();
        scene
            .finish_command(gateway(&["run", "--", "true"]))
            .assert_code(80);
        holder.signal(Signal::CONT);
        wait_until("the claim is at the path", AT_ONCE, || {
            lockers(&path) == [holder.pid()]
        });
        scene.finish_command(gateway(&["stop"])).assert_code(0);
        assert_eq!(holder.end(), End::of(Signal::TERM));
    }
}

/// One directory under two names: what is in it has one name each.
#[test]
fn a_bind_mount_of_the_directory_leads_to_the_same_holder() {
    let scene = Scene::new();
    for folder in ["place", "bound"] {
        fs::create_dir(scene.path(folder)).unwrap();
    }
    let setup = "mount --bind \"$SCENE/place\" \"$SCENE/bound\"";
    let space = MountSpace::new(&scene, setup);
    let path = scene.path("place/gateway.pid");
    let mut command = scene.bare(["-f"]);
    command.arg(&path).args(["run", "--", "sleep", "infinity"]);
    let mut holder = scene.spawn(command);
    wait_until("it holds", SOON, || lockers(&path) == [holder.pid()]);
    let bound = scene.path("bound/gateway.pid");
    scene
        .finish_command(space.gateway(&bound, ["run", "--", "true"]))
        .assert_code(80);
    holder.signal(Signal::STOP);
    wait_until("it is stopped", SOON, || state(holder.pid()) == Some('T'));
    fs::remove_file(&path).unwrap();
    scene
        .finish_command(space.gateway(&bound, ["run", "--", "true"]))
        .assert_code(80);
    holder.signal(Signal::CONT);
    wait_until("the claim is at the path", AT_ONCE, || {
        lockers(&path) == [holder.pid()]
    });
    assert!(holder.is_running());
}

/// Nobody watches the name for a command that inherited the lock; newcomers still look for it.
#[test]
fn a_command_that_inherited_the_lock_of_a_removed_file_is_found() {
    let deep = Deep::new();
    let mut held = deep.start(&["run", "--exec", "--", "sleep", "infinity"]);
    wait_until("it became the command", SOON, || {
        deep.record().is_some()
            && lockers(&deep.path) == [held.pid()]
            && fs::read_link(format!("/proc/{}/exe", held.pid()))
                .is_ok_and(|exe| exe.ends_with("sleep"))
    });
    fs::remove_file(&deep.path).unwrap();
    for _ in 0..2 {
        let output = deep
            .scene
            .finish_command(deep.gateway(&["run", "--", "true"]));
        output
            .assert_code(80)
            .assert_says(&format!("pid {} ", held.pid()));
    }
    assert!(held.is_running());
    let output = deep
        .scene
        .finish_command(deep.gateway(&["run", "--replace", "--", "true"]));
    output.assert_code(0);
    assert_eq!(held.end(), End::of(Signal::TERM));
}

/// An earlier file comes back with an ended record, over the file of a run that crashed.
#[test]
fn an_old_file_that_is_moved_back_hides_no_crash() {
    let deep = Deep::new();
    let away = deep.path.with_extension("away");
    let first = deep.hold();
    fs::rename(&deep.path, &away).unwrap();
    wait_until("the claim is put back", AT_ONCE, || deep.has_claim(&first));
    deep.assert_stops_in_order(first);
    let script =
        "setsid sleep infinity & echo \"child $!\" >>\"$SCENE/marks\"\nexec sleep infinity\n";
    let payload = deep.scene.payload(Payload::Script(script));
    let mut second = deep.start(&["run", "--", &payload]);
    let child = crate::kit::marked_pid(&deep.scene, "child");
    wait_until("it has its record", SOON, || deep.has_claim(&second));
    second.crash();
    fs::rename(&away, &deep.path).unwrap();
    let payload = deep.scene.payload(Payload::Script("exit 0\n"));
    let next = deep
        .scene
        .finish_command(deep.gateway(&["run", "--", &payload]));
    next.assert_code(0);
    assert!(!exists(child));
    deep.scene.assert_never_two_payloads();
}

/// And none over the file of a run that goes on.
#[test]
fn an_old_file_that_is_moved_back_hides_no_holder() {
    let deep = Deep::new();
    let away = deep.path.with_extension("away");
    let first = deep.hold();
    fs::rename(&deep.path, &away).unwrap();
    wait_until("the claim is put back", AT_ONCE, || deep.has_claim(&first));
    deep.assert_stops_in_order(first);
    let payload = deep.scene.payload(Payload::Plain);
    let second = deep.start(&["run", "--", &payload]);
    wait_until("the next one holds", SOON, || deep.has_claim(&second));
    wait_until("its payload runs", SOON, || {
        deep.scene.started_payloads().len() == 2
    });
    second.signal(Signal::STOP);
    wait_until("it is stopped", SOON, || state(second.pid()) == Some('T'));
    fs::rename(&away, &deep.path).unwrap();
    let output = deep
        .scene
        .finish_command(deep.gateway(&["run", "--", &payload]));
    output
        .assert_code(80)
        .assert_says(&format!("pid {} ", second.pid()));
    second.signal(Signal::CONT);
    wait_until("its claim is at the path", AT_ONCE, || {
        deep.has_claim(&second)
    });
    deep.scene.assert_never_two_payloads();
    deep.assert_stops_in_order(second);
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

/// On a file that was moved away nobody sees a start without a record: it has to look once more itself.
#[test]
fn a_file_moved_away_before_the_record_is_written_leaves_one_payload() {
    let deep = Deep::new();
    let payload = deep.scene.payload(Payload::Plain);
    let slow = deep.gateway(&["run", "--", &payload]);
    // Its record is written that many microseconds late.
    let slow = injected(&deep.scene, "pwrite64:delay_enter=4000000:when=1", &slow);
    let slow = deep.scene.spawn(slow);
    wait_until("it is about to write its record", SOON, || {
        is_held_up_in(&slow, libc::SYS_pwrite64)
    });
    fs::rename(&deep.path, deep.path.with_extension("away")).unwrap();
    let mut other = deep.hold();
    slow.output().assert_code(80);
    assert!(other.is_running(), "{}", other.stderr());
    assert_eq!(deep.scene.started_payloads().len(), 1);
    deep.scene.assert_never_two_payloads();
    let away = fs::read(deep.path.with_extension("away")).unwrap();
    assert_eq!(away, b"", "what was there before is put back");
}
