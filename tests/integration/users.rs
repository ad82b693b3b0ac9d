//! An ordinary user has all of it; and a payload may become another user.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::{
    End, Locker, NOBODY, Payload, Process, SOON, Scene, Signal, as_nobody, exists, injected, need,
    set_mode, stat_field, until, wait_until,
};

/// A scene in which nobody may do everything.
fn for_nobody() -> Scene {
    let scene = Scene::for_everybody();
    for folder in ["", "bin"] {
        set_mode(&scene.path(folder), 0o777);
    }
    scene
}

fn by_nobody(scene: &Scene, words: &[&str]) -> Command {
    as_nobody(scene, &scene.gateway(words))
}

fn hold(scene: &Scene, words: &[&str], payload: &str) -> Process {
    let words = [words, &["--", payload]].concat();
    scene.wait_for_payload(scene.spawn(by_nobody(scene, &words)))
}

#[test]
fn an_ordinary_user_has_all_of_it() {
    let scene = for_nobody();
    let finish = |words: &[&str]| scene.finish_command(by_nobody(&scene, words));
    let script = "(setsid sh -c 'sleep infinity & echo $! >\"$SCENE/child\"; wait' &)\nexec sleep infinity\n";
    let payload = scene.payload(Payload::Script(script));
    let mut holder = hold(&scene, &["run"], &payload);
    assert_eq!(scene.record().number("/uid"), u64::from(NOBODY));
    finish(&["status"]).assert_code(0);
    finish(&["run", "--", "true"]).assert_code(80);
    let mut next = hold(&scene, &["run", "--replace"], &payload);
    assert_eq!(holder.end(), End::of(Signal::TERM));
    let child: u32 = until("the child", SOON, || {
        let child = scene.lines("child").first()?.parse().ok()?;
        exists(child).then_some(child)
    });
    next.crash();
    assert!(exists(child));
    finish(&["status"]).assert_code(1);
    let mut next = hold(&scene, &["run"], &payload);
    assert!(!exists(child), "what the crash left is ended");
    fs::remove_file(scene.pid_file()).unwrap();
    wait_until("the claim is put back", SOON, || {
        scene.lockers() == [next.pid()]
    });
    finish(&["stop"]).assert_code(0);
    assert_eq!(next.end(), End::of(Signal::TERM));
    finish(&["status"]).assert_code(3);
    scene.assert_never_two_payloads();
}

/// `unshare -r`: root there, but the owner of the folder has no number, and nothing can be given to it.
#[test]
fn the_root_of_a_user_namespace_starts_in_somebody_elses_folder() {
    let scene = for_nobody();
    let there = scene.behind(
        "unshare",
        &["-r"],
        &scene.gateway(["run", "--", "id", "-u"]),
    );
    let start = scene.finish_command(as_nobody(&scene, &there));
    start.assert_code(0);
    assert_eq!((&*start.stdout, &*start.stderr), ("0\n", ""));
}

#[test]
fn it_is_told_whose_process_has_asked() {
    let scene = for_nobody();
    let payload = scene.payload(Payload::Plain);
    let mut holder = hold(&scene, &["-v", "run"], &payload);
    let stop = scene.start(["stop"]);
    let pid = stop.pid();
    stop.output().assert_code(0);
    holder.end();
    let said = holder.stderr();
    let line = said.lines().find(|line| line.contains("stopping: TERM"));
    let line = line.unwrap_or_else(|| panic!("{said}"));
    assert!(line.contains(&format!(" from pid {pid} (")), "{line}");
    assert!(line.contains(") of root; "), "{line}");
}

/// Root's `stop` and `--replace` reach a user's holder.
#[test]
fn root_takes_over_from_a_user_and_stops_its_holder() {
    let scene = for_nobody();
    let payload = scene.payload(Payload::Plain);
    let mut users = hold(&scene, &["run"], &payload);
    scene.finish(["stop"]).assert_code(0);
    assert_eq!(users.end(), End::of(Signal::TERM));
    let mut users = hold(&scene, &["run"], &payload);
    let roots = scene.wait_for_payload(scene.start(["run", "--replace", "--", &payload]));
    assert_eq!(users.end(), End::of(Signal::TERM));
    assert_eq!(scene.lockers(), [roots.pid()]);
    scene.assert_never_two_payloads();
}

/// A change of user sheds the parent-death signal: the next start finds what is left.
#[test]
fn a_payload_that_changed_its_user_is_ended_after_a_crash() {
    need("setpriv", "util-linux");
    let scene = for_nobody();
    for environment in ["", "env -i"] {
        let script = format!(
            "exec setpriv --reuid 65534 --regid 65534 --clear-groups {environment} sleep infinity\n"
        );
        let payload = scene.payload(Payload::Script(&script));
        let mut holder = scene.wait_for_payload(scene.start(["run", "--", &payload]));
        let pid = scene.record().payload_pid();
        until("it is nobody's, and sleeps", SOON, || {
            let uid = fs::metadata(format!("/proc/{pid}")).ok()?;
            let comm = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
            use std::os::unix::fs::MetadataExt;
            (uid.uid() == NOBODY && comm == "sleep\n").then_some(())
        });
        holder.crash();
        assert!(exists(pid), "nothing ends it by itself");
        scene.finish(["run", "--", "true"]).assert_code(0);
        assert!(!exists(pid), "{environment}");
    }
    scene.assert_never_two_payloads();
}

#[test]
fn a_payload_that_changed_its_user_is_stopped_in_order() {
    need("setpriv", "util-linux");
    let scene = for_nobody();
    let script = "exec setpriv --reuid 65534 --regid 65534 --clear-groups sleep infinity\n";
    let mut holder = scene.hold_with(&[], Payload::Script(script));
    let pid = scene.record().payload_pid();
    scene.finish(["stop"]).assert_code(0);
    assert!(!exists(pid));
    assert_eq!(holder.end(), End::of(Signal::TERM));
}

/// cron and `env -i`: neither PATH nor HOME.
#[test]
fn an_empty_environment_is_enough() {
    let scene = Scene::new();
    let mut command = scene.command("env");
    command
        .arg("-i")
        .arg(scene.program())
        .arg("-f")
        .arg(scene.pid_file());
    command.args(["run", "--", "true"]);
    scene.finish_command(command).assert_code(0).assert_silent();
}

/// execvp(3): what cannot be executed does not hide what can.
#[test]
fn a_command_is_looked_for_as_a_shell_does() {
    let scene = Scene::new();
    for folder in ["folder/prog", "text", "good"] {
        fs::create_dir_all(scene.path(folder)).unwrap();
    }
    fs::write(scene.path("text/prog"), "").unwrap();
    scene.script(&scene.path("good/prog"), "#!/bin/sh\necho found\n");
    let run = |path: &str| {
        let mut command = scene.gateway(["run", "--", "prog"]);
        command.env("PATH", path);
        scene.finish_command(command)
    };
    for path in [
        "good",
        "folder:text:good",
        ":good",
        "./good",
        "/nowhere:good",
    ] {
        let output = run(path);
        output.assert_code(0);
        assert_eq!(output.stdout, "found\n", "{path}");
    }
    for path in ["text", "folder"] {
        run(path).assert_code(126).assert_one_line();
    }
    run("/nowhere").assert_code(127).assert_one_line();
}

/// A parent that ignores its children's end leaves that to them, too.
#[test]
fn the_payload_is_our_child_and_reaped_by_us() {
    let scene = Scene::new();
    let mut holder = scene.hold_with(
        &[],
        Payload::Script("(setsid sleep 0.2 &)\nexec sleep infinity\n"),
    );
    let payload = scene.record().payload_pid();
    assert_eq!(stat_field(payload, 4), Some(holder.pid().to_string()));
    // The orphan comes to us, ends, and does not stay a zombie.
    wait_until("the payload is alone again", SOON, || {
        crate::harness::descendants(holder.pid()) == [payload]
    });
    holder.signal(Signal::TERM);
    holder.end();
}

/// Anybody may lock a file that anybody may read: one that can only be opened, and gives an error when
/// it is read, once stopped every fresh start of the machine.
#[test]
fn a_file_that_cannot_be_read_and_somebody_has_locked_stops_nobody() {
    let unreadable = std::path::Path::new("/sys/class/net/lo/speed");
    let read = std::fs::read(unreadable).unwrap_err();
    assert_eq!(read.raw_os_error(), Some(libc::EINVAL));
    let scene = Scene::new();
    let _locker = Locker::on(&scene, unreadable);
    scene.finish(["status"]).assert_code(3);
    scene.finish(["stop"]).assert_code(0);
    for options in [&[][..], &["--replace"], &["--wait"]] {
        let _ = std::fs::remove_file(scene.pid_file());
        let words = [&["run"], options, &["--", "true"]].concat();
        scene.finish(words).assert_code(0).assert_silent();
    }
}

fn owner_and_mode(path: &Path) -> (u32, u32) {
    let found = fs::symlink_metadata(path).unwrap();
    (found.uid(), found.mode() & 0o7777)
}

/// A folder of somebody's, in which root starts once, by hand.
fn folder_of_nobodys(scene: &Scene) -> PathBuf {
    let folder = scene.path("theirs");
    fs::create_dir(&folder).unwrap();
    std::os::unix::fs::chown(&folder, Some(NOBODY), Some(NOBODY)).unwrap();
    folder
}

#[test]
fn what_root_makes_in_somebodys_folder_is_theirs() {
    let scene = for_nobody();
    let folder = folder_of_nobodys(&scene);
    let path = folder.join(".local/state/gateway.pid");
    let mut command = scene.bare(["-f"]);
    command.arg(&path).args(["run", "--", "true"]);
    scene.finish_command(command).assert_code(0).assert_silent();
    for made in [".local", ".local/state"] {
        assert_eq!(
            owner_and_mode(&folder.join(made)),
            (NOBODY, 0o700),
            "{made}"
        );
    }
    assert_eq!(owner_and_mode(&path).0, NOBODY);
    let mut command = scene.bare(["-f"]);
    command.arg(&path).args(["run", "--", "true"]);
    let theirs = as_nobody(&scene, &command);
    scene.finish_command(theirs).assert_code(0).assert_silent();
}

/// Whoever may rename a directory on the way puts a link in its place while root makes the next one.
#[test]
fn root_sets_the_mode_of_no_directory_that_it_did_not_make() {
    let scene = for_nobody();
    let folder = folder_of_nobodys(&scene);
    let roots = scene.path("roots/run");
    fs::create_dir_all(&roots).unwrap();
    let before = owner_and_mode(&roots);
    fs::create_dir(folder.join("app")).unwrap();
    let path = folder.join("app/run/gateway.pid");
    let mut command = scene.bare(["-f"]);
    command.arg(&path).args(["run", "--", "true"]);
    let slow = injected(&scene, "mkdirat:delay_exit=1500000", &command);
    let mut start = scene.spawn(slow);
    wait_until("it is made", SOON, || folder.join("app/run").exists());
    fs::rename(folder.join("app"), folder.join("moved")).unwrap();
    std::os::unix::fs::symlink(scene.path("roots"), folder.join("app")).unwrap();
    start.end();
    assert_eq!(owner_and_mode(&roots), before);
    assert_eq!(owner_and_mode(&folder.join("moved/run")).1, 0o700);
}

/// Two that root starts at one moment make one directory, which is the user's whoever comes second.
#[test]
fn what_two_of_roots_starts_make_in_somebodys_folder_is_theirs() {
    let scene = for_nobody();
    let folder = folder_of_nobodys(&scene);
    for round in 0..30 {
        let path = folder.join(format!("{round}/gateway.pid"));
        let start = |mode| {
            let mut command = scene.bare(["-q", "-f"]);
            command.arg(&path).args(["run", mode, "--", "true"]);
            scene.spawn(command)
        };
        let (mut one, mut other) = (start("--wait"), start("--wait"));
        assert_eq!((one.end(), other.end()), (End::Code(0), End::Code(0)));
        assert_eq!(owner_and_mode(path.parent().unwrap()), (NOBODY, 0o700));
        assert_eq!(owner_and_mode(&path), (NOBODY, 0o600));
    }
    let left = fs::read_dir(&folder).unwrap().count();
    assert_eq!(left, 30, "nothing lies beside them");
}

/// A unit's CapabilityBoundingSet= may leave root the right to give, and not the right to use.
#[test]
fn root_gives_away_nothing_that_it_could_not_use_any_more() {
    need("setpriv", "util-linux");
    let scene = for_nobody();
    let folder = folder_of_nobodys(&scene);
    set_mode(&folder, 0o777);
    let path = folder.join("a/b/gateway.pid");
    let mut command = scene.bare(["-f"]);
    command.arg(&path).args(["run", "--", "true"]);
    let without = "-dac_override,-dac_read_search";
    let sets = ["--bounding-set", without, "--inh-caps", without];
    for _ in 0..2 {
        let poor = scene.behind("setpriv", &sets, &command);
        scene.finish_command(poor).assert_code(0).assert_silent();
    }
    assert_eq!(owner_and_mode(&folder.join("a")), (0, 0o700));
}

/// As on a server that lets root give nothing away.
#[test]
fn root_that_may_give_nothing_away_starts_in_somebodys_folder() {
    let scene = for_nobody();
    let folder = scene.path("theirs");
    std::fs::create_dir(&folder).unwrap();
    std::os::unix::fs::chown(&folder, Some(NOBODY), Some(NOBODY)).unwrap();
    let mut command = scene.bare(["-f"]);
    command
        .arg(folder.join("gateway.pid"))
        .args(["run", "--", "echo", "ran"]);
    let weak = ["--bounding-set", "-chown", "--inh-caps", "-chown"];
    let output = scene.finish_command(scene.behind("setpriv", &weak, &command));
    output.assert_code(0);
    assert_eq!(output.stdout, "ran\n");
}
