//! Hostile neighbours and odd surroundings: it works, or fails closed with a sentence.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::confine::{deny, kill_at};
use crate::harness::{
    Canary, End, Output, Payload, Process, Scene, Signal, as_nobody, lockers, need, set_mode,
    stat_field, wait_until,
};
use crate::recycle::Successor;
use crate::stage::HUNG;
use crate::world::{alone, shell};

/// The program as another user, who owns nothing.
fn nobody(scene: &Scene, args: &[&str]) -> Command {
    as_nobody(scene, &scene.gateway(args))
}

/// A folder that belongs to everybody, with the pid file in it to be.
fn open_scene() -> Scene {
    let scene = Scene::for_everybody();
    set_mode(&scene.path(""), 0o777);
    scene
}

/// Waits until this process is the proven holder.
#[track_caller]
fn held(scene: &Scene, process: Process) -> Process {
    let pid = process.pid();
    wait_until("the holder's record", HUNG, || {
        scene
            .record_if_any()
            .is_some_and(|record| record.pid() == pid && record.has_payload())
    });
    process
}

#[track_caller]
fn assert_refused(output: &Output, code: i32, path: &str) {
    output.assert_code(code).assert_one_line().assert_says(path);
    assert_eq!(output.stdout, "", "COMMAND ran");
}

const TAKE: [&str; 5] = ["run", "--replace", "--", "echo", "taken"];
/// A program that takes over has to press this long, if it presses at all.
pub const SHORT_TAKE: [&str; 9] = [
    "run",
    "--replace",
    "--timeout",
    "1s",
    "--kill-after",
    "500ms",
    "--",
    "echo",
    "taken",
];

#[test]
fn a_strangers_file_in_a_sticky_folder_is_used() {
    alone(|| {
        let scene = open_scene();
        set_mode(&scene.path(""), 0o1777);
        let mut touch = Command::new("touch");
        touch.arg(scene.pid_file());
        scene
            .finish_command(as_nobody(&scene, &touch))
            .assert_code(0);
        let output = scene.finish(TAKE);
        assert_eq!(
            (output.end, output.stdout.as_str()),
            (End::Code(0), "taken\n")
        );
        assert!(scene.record().is_ended());
    });
}

/// A record that names a process with all that there is to know of it.
fn named(pid: u32) -> String {
    let start = stat_field(pid, 22).expect("it lives");
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("a boot id");
    format!(
        "{pid}\n{{\"format\":1,\"pid\":{pid},\"start_time\":{start},\"boot_id\":\"{}\"}}\n",
        boot.trim()
    )
}

#[test]
fn a_locked_file_that_names_roots_process_moves_root_to_nothing() {
    alone(|| {
        let scene = open_scene();
        let canary = Canary::new();
        let legacy = format!("{}\n", canary.pid());
        for contents in [legacy, named(canary.pid())] {
            fs::write(scene.pid_file(), contents).expect("the file can be written");
            set_mode(&scene.pid_file(), 0o666);
            let mut flock = scene.command("flock");
            flock
                .arg("--no-fork")
                .arg(scene.pid_file())
                .args(["sleep", "infinity"]);
            let attacker = scene.spawn(as_nobody(&scene, &flock));
            wait_until("the attacker's lock", HUNG, || {
                scene.lockers() == [attacker.pid()]
            });
            let output = scene.finish(SHORT_TAKE);
            output.assert_code(82).assert_says("gateway.pid");
            assert_refused(&scene.finish(["stop"]), 82, "gateway.pid");
            assert_refused(
                &scene.finish(["run", "--", "echo", "ran"]),
                82,
                "gateway.pid",
            );
            canary.assert_heard_nothing();
        }
    });
}

#[test]
fn a_taker_of_the_lock_whose_number_is_now_roots_is_no_proof() {
    alone(|| {
        let scene = open_scene();
        fs::write(scene.pid_file(), "").expect("the file can be written");
        set_mode(&scene.pid_file(), 0o666);
        let mut flock = scene.command("flock");
        flock.arg(scene.pid_file()).args(["sleep", "infinity"]);
        let mut taker = scene.spawn(as_nobody(&scene, &flock));
        wait_until("the attacker's lock", HUNG, || scene.lockers().len() == 2);
        // Its child keeps the lock that the taker took.
        taker.crash();
        assert_eq!(scene.lockers().len(), 1);
        let heir = Successor::of(taker.pid());
        fs::write(scene.pid_file(), named(heir.pid())).expect("the file can be written");
        scene.finish(SHORT_TAKE).assert_code(82);
        assert_refused(&scene.finish(["stop"]), 82, "gateway.pid");
        heir.assert_heard_nothing();
    });
}

#[test]
fn a_hard_link_to_another_file_is_refused() {
    alone(|| {
        let scene = Scene::new();
        fs::write(scene.path("precious"), "precious\n").expect("a file");
        fs::hard_link(scene.path("precious"), scene.pid_file()).expect("a link");
        assert_refused(
            &scene.finish(["run", "--", "echo", "ran"]),
            83,
            "gateway.pid",
        );
        assert_eq!(
            fs::read_to_string(scene.path("precious")).expect("it is there"),
            "precious\n"
        );
    });
}

#[test]
fn where_others_processes_are_hidden_a_users_own_holder_is_found_and_roots_is_let_be() {
    alone(|| {
        let scene = open_scene();
        shell(&scene, "mount -t proc -o hidepid=2 proc /proc");
        let own = held(
            &scene,
            scene.spawn(nobody(&scene, &["run", "--", "sleep", "600"])),
        );
        let refused = scene.finish_command(nobody(&scene, &["run", "--", "echo", "ran"]));
        assert_refused(&refused, 80, &format!("pid {}", own.pid()));
        let taken = scene.finish_command(nobody(&scene, &TAKE));
        assert_eq!(
            (taken.end, taken.stdout.as_str()),
            (End::Code(0), "taken\n")
        );
        fs::remove_file(scene.pid_file()).expect("it is there");
        let mut roots = held(&scene, scene.start(["run", "--", "sleep", "600"]));
        set_mode(&scene.pid_file(), 0o666);
        let before = scene.footprint();
        let refused = scene.finish_command(nobody(&scene, &["run", "--", "echo", "ran"]));
        assert_refused(&refused, 82, "gateway.pid");
        scene
            .finish_command(nobody(&scene, &SHORT_TAKE))
            .assert_code(82);
        assert_refused(
            &scene.finish_command(nobody(&scene, &["stop"])),
            82,
            "gateway.pid",
        );
        scene
            .finish_command(nobody(&scene, &["status"]))
            .assert_code(4);
        assert!(roots.is_running());
        assert_eq!(scene.footprint(), before);
    });
}

#[test]
fn without_proc_nothing_runs_and_the_holder_is_let_be() {
    alone(|| {
        let scene = Scene::new();
        let mut holder = scene.hold();
        let bytes = scene.bytes();
        shell(&scene, "mount -t tmpfs none /proc");
        let attempts: [&[&str]; 3] = [&["run", "--", "echo", "ran"], &TAKE, &["stop"]];
        for args in attempts {
            assert_refused(&scene.finish(args), 70, "/proc");
        }
        let elsewhere = scene.path("other.pid");
        let mut fresh = scene.bare(["-f"]);
        fresh.arg(&elsewhere).args(["run", "--", "echo", "ran"]);
        assert_refused(&scene.finish_command(fresh), 70, "/proc");
        // The holder of a removed file is looked for there, too.
        let mut stop = scene.bare(["-f"]);
        stop.arg(&elsewhere).arg("stop");
        assert_refused(&scene.finish_command(stop), 70, "/proc");
        shell(&scene, "umount /proc");
        assert!(holder.is_running());
        assert_eq!(scene.bytes(), bytes);
        assert_eq!(scene.finish(TAKE).stdout, "taken\n");
    });
}

#[test]
fn a_filter_that_takes_pidfds_away_lets_nobody_be_asked() {
    alone(|| {
        // Nobody can be proven, or the holder is not for us to ask.
        for (call, errno, code) in [
            (libc::SYS_pidfd_open, libc::ENOSYS, 70),
            (libc::SYS_pidfd_open, libc::EPERM, 70),
            (libc::SYS_pidfd_send_signal, libc::ENOSYS, 82),
            (libc::SYS_pidfd_send_signal, libc::EPERM, 82),
        ] {
            let scene = Scene::new();
            let mut holder = scene.hold();
            let before = scene.footprint();
            for args in [&TAKE[..], &["stop"]] {
                let output = scene.finish_command(deny(scene.gateway(args), call, errno));
                output.assert_code(code);
                assert_eq!(output.stdout, "", "COMMAND ran");
                output.assert_one_line();
            }
            // Nobody can be proven: that is no empty list.
            let list = scene.finish_command(deny(scene.bare(["list"]), call, errno));
            if call == libc::SYS_pidfd_open {
                assert_refused(&list, 70, "pid");
            } else {
                let holder = holder.pid().to_string();
                assert!(list.assert_code(0).stdout.contains(&holder), "{list:?}");
            }
            assert!(holder.is_running(), "{}", holder.stderr());
            assert_eq!(scene.footprint(), before);
            holder.signal(Signal::TERM);
            holder.end();
            // A free lock: what cannot be watched is not left running.
            if call == libc::SYS_pidfd_open {
                let command = ["run", "--", "sleep", "600"];
                let fresh = scene.finish_command(deny(scene.gateway(command), call, errno));
                fresh.assert_code(70).assert_one_line();
            }
            scene.wait_until_empty();
        }
    });
}

#[test]
fn a_child_is_signalled_where_a_filter_knows_no_signals_through_pidfds() {
    alone(|| {
        for (payload, stubborn) in [(Payload::Plain, false), (Payload::Slow("60"), true)] {
            let scene = Scene::new();
            let payload = scene.payload(payload);
            let command = scene.gateway(["run", "--stop-timeout", "300ms", "--", &payload]);
            let denied = deny(command, libc::SYS_pidfd_send_signal, libc::EPERM);
            let mut holder = scene.wait_for_payload(scene.spawn(denied));
            holder.signal(Signal::TERM);
            holder.end();
            assert!(
                !stubborn || holder.stderr().contains("SIGKILL"),
                "{}",
                holder.stderr()
            );
            scene.wait_until_empty();
        }
    });
}

#[test]
fn calls_that_older_kernels_and_filters_lack_are_not_needed() {
    alone(|| {
        for call in [
            libc::SYS_statx,
            libc::SYS_clone3,
            libc::SYS_faccessat2,
            libc::SYS_close_range,
        ] {
            let scene = Scene::new();
            let payload = scene.payload(Payload::Plain);
            let filtered = deny(scene.gateway(["run", "--", &payload]), call, libc::ENOSYS);
            let mut holder = scene.wait_for_payload(scene.spawn(filtered));
            let taken = scene.finish_command(deny(scene.gateway(TAKE), call, libc::ENOSYS));
            assert_eq!(
                (taken.end, taken.stdout.as_str()),
                (End::Code(0), "taken\n"),
                "{taken:?}"
            );
            assert_eq!(holder.end(), End::of(Signal::TERM));
        }
    });
}

/// systemd's `~@resources` kills who asks for a processor, and more than that may be forbidden.
#[test]
fn many_are_listed_under_a_filter_that_kills() {
    let scene = Scene::new();
    for number in 0..100 {
        scene.write_named(&format!("name-{number}"), "");
    }
    for call in [
        libc::SYS_sched_setaffinity,
        libc::SYS_clone3,
        libc::SYS_clone,
    ] {
        let list = scene.finish_command(kill_at(scene.bare(["list"]), call));
        list.assert_code(0);
        assert!(list.stdout.lines().count() > 100, "{}", list.stdout);
    }
}

/// A whole life on a file system: refusal, takeover, a removed file, a crash, and the next start.
#[track_caller]
fn live_on(scene: &Scene, folder: &Path) {
    let file = folder.join("gateway.pid");
    let gateway = |args: &[&str]| {
        let mut command = scene.bare(["-f"]);
        command.arg(&file).args(args);
        command
    };
    let payload = scene.payload(Payload::Plain);
    let up = |process: Process| {
        let pid = process.pid().to_string();
        wait_until("the holder's record", HUNG, || {
            fs::read_to_string(&file).is_ok_and(|text| {
                text.starts_with(&format!("{pid}\n")) && text.contains("\"payload\":{")
            })
        });
        process
    };
    let mut first = up(scene.spawn(gateway(&["run", "--", &payload])));
    scene
        .finish_command(gateway(&["run", "--", &payload]))
        .assert_code(80);
    assert_eq!(status(scene, &gateway(&["status", "--json"])), "held");
    let mut second = up(scene.spawn(gateway(&["run", "--replace", "--", &payload])));
    assert_eq!(first.end(), End::of(Signal::TERM));
    fs::remove_file(&file).expect("it is there");
    wait_until("the file is put back", HUNG, || file.exists());
    scene
        .finish_command(gateway(&["run", "--", &payload]))
        .assert_code(80);
    second.crash();
    let mut third = up(scene.spawn(gateway(&["run", "--", &payload])));
    wait_until("three payloads", HUNG, || {
        scene.started_payloads().len() == 3
    });
    scene.finish_command(gateway(&["stop"])).assert_code(0);
    assert_eq!(third.end(), End::of(Signal::TERM));
    scene.assert_never_two_payloads();
}

fn status(scene: &Scene, command: &Command) -> String {
    let mut again = scene.command(command.get_program());
    again.args(command.get_args());
    let said = scene.finish_command(again).stdout;
    let json: serde_json::Value = serde_json::from_str(&said).expect("JSON");
    json["state"].as_str().expect("a state").to_owned()
}

#[test]
fn an_overlay_holds_locks() {
    alone(|| {
        let scene = Scene::new();
        let line = "mkdir low up work all; echo 1 >low/gateway.pid; chmod 600 low/gateway.pid\n\
                    mount -t overlay -o lowerdir=low,upperdir=up,workdir=work overlay all";
        shell(&scene, line);
        // The file is one of the lower layer at first: it is copied up when it is opened.
        live_on(&scene, &scene.path("all"));
        shell(&scene, "umount all");
    });
}

/// A container's /proc/loadavg is given by a program (lxcfs); when that has ended, nothing is to be had there.
#[test]
fn a_crash_is_recovered_from_where_the_load_cannot_be_read() {
    alone(|| {
        let scene = Scene::new();
        let mut holder = scene.hold();
        let _socket = std::os::unix::net::UnixListener::bind(scene.path("dead")).expect("a socket");
        shell(&scene, "mount --bind dead /proc/loadavg");
        assert!(fs::read("/proc/loadavg").is_err());
        holder.crash();
        let output = scene.finish(["run", "--", "true"]);
        output.assert_code(0);
        assert!(output.took < Duration::from_secs(5), "{:?}", output.took);
    });
}

#[test]
fn btrfs_holds_locks_whatever_device_it_prints() {
    alone(|| {
        need("mkfs.btrfs", "btrfs-progs");
        let scene = Scene::new();
        let line = "truncate -s 200M image; mkfs.btrfs -q image; mkdir disk\n\
                    mount -o loop image disk; btrfs subvolume create disk/sub";
        shell(&scene, line);
        live_on(&scene, &scene.path("disk"));
        fs::remove_file(scene.path("starts")).expect("our own list");
        live_on(&scene, &scene.path("disk/sub"));
        shell(&scene, "umount disk");
    });
}

/// All subvolumes have one device in the kernel's table of locks, and each numbers its files by itself.
#[test]
fn a_lock_on_another_subvolumes_file_of_the_same_number_is_nobodys() {
    alone(|| {
        need("mkfs.btrfs", "btrfs-progs");
        let scene = open_scene();
        let line = "truncate -s 200M image; mkfs.btrfs -q image; mkdir disk\n\
                    mount -o loop image disk; chmod 755 disk\n\
                    btrfs subvolume create disk/one; btrfs subvolume create disk/two\n\
                    touch disk/one/gateway.pid disk/two/theirs; chmod 666 disk/two/theirs";
        shell(&scene, line);
        let (ours, theirs) = (
            scene.path("disk/one/gateway.pid"),
            scene.path("disk/two/theirs"),
        );
        let inode = |path: &Path| fs::metadata(path).unwrap().ino();
        assert_eq!(inode(&ours), inode(&theirs));
        let mut flock = scene.command("flock");
        flock.arg("-F").arg(&theirs).args(["sleep", "600"]);
        let mut locker = scene.spawn(as_nobody(&scene, &flock));
        wait_until("it is locked", HUNG, || !lockers(&theirs).is_empty());
        let finish = |words: &[&str]| {
            let mut command = scene.bare(["-f"]);
            command.arg(&ours).args(words);
            scene.finish_command(command)
        };
        finish(&["status"]).assert_code(3);
        finish(&["stop"]).assert_code(0);
        finish(&["run", "--", "true"]).assert_code(0);
        locker.signal(Signal::KILL);
        locker.end();
        shell(&scene, "umount disk");
    });
}

#[test]
fn a_holder_with_other_capabilities_is_proven_by_the_kernels_table() {
    alone(|| {
        let scene = open_scene();
        let caps = [
            "--inh-caps",
            "+net_bind_service",
            "--ambient-caps",
            "+net_bind_service",
        ];
        let mut setpriv = scene.command("setpriv");
        setpriv
            .args(["--reuid", "65534", "--regid", "65534", "--clear-groups"])
            .args(caps)
            .arg(scene.program())
            .arg("-f")
            .arg(scene.pid_file())
            .args(["run", "--", "sleep", "600"]);
        let mut holder = held(&scene, scene.spawn(setpriv));
        let mut look = Command::new("readlink");
        look.arg(format!("/proc/{}/fd/0", holder.pid()));
        let looked = scene.finish_command(as_nobody(&scene, &look));
        assert_eq!(looked.end, End::Code(1), "its descriptors can be looked at");
        let refused = scene.finish_command(nobody(&scene, &["run", "--", "echo", "ran"]));
        assert_refused(&refused, 80, &format!("pid {}", holder.pid()));
        let taken = scene.finish_command(nobody(&scene, &TAKE));
        assert_eq!(
            (taken.end, taken.stdout.as_str()),
            (End::Code(0), "taken\n"),
            "{taken:?}"
        );
        assert_eq!(holder.end(), End::of(Signal::TERM));
    });
}

#[test]
fn a_program_that_may_not_be_read_holds_and_is_replaced() {
    alone(|| {
        let scene = open_scene();
        // Who may execute a program but not read it is not dumpable: its /proc belongs to root.
        set_mode(&scene.path("bin/gateway"), 0o711);
        let mut holder = held(
            &scene,
            scene.spawn(nobody(&scene, &["run", "--", "sleep", "600"])),
        );
        let refused = scene.finish_command(nobody(&scene, &["run", "--", "echo", "ran"]));
        assert_refused(&refused, 80, &format!("pid {}", holder.pid()));
        let taken = scene.finish_command(nobody(&scene, &TAKE));
        assert_eq!(
            (taken.end, taken.stdout.as_str()),
            (End::Code(0), "taken\n"),
            "{taken:?}"
        );
        assert_eq!(holder.end(), End::of(Signal::TERM));
    });
}

#[cfg(target_arch = "x86_64")]
mod swaps {
    use super::*;
    use crate::form::Chance;
    use crate::stage::{Stage, Tally, points};
    use crate::trace::{Plan, Report, Traced};

    const QUIET: Duration = Duration::from_millis(40);

    fn none(_: i64, _: Option<&str>) -> &'static [i32] {
        &[]
    }

    type Swap = fn(&Stage, &Path);

    fn to_symlink(stage: &Stage, path: &Path) {
        symlink(stage.scene.path("away/precious"), path).expect("a link");
    }

    fn to_dangling(stage: &Stage, path: &Path) {
        symlink(stage.scene.path("away/nothing"), path).expect("a link");
    }

    fn to_folder(_: &Stage, path: &Path) {
        fs::create_dir(path).expect("a folder");
    }

    fn to_fifo(stage: &Stage, _: &Path) {
        shell(&stage.scene, "mkfifo gateway.pid");
    }

    /// A start, with the path being another thing from this call on.
    fn start(stage: &Stage, plan: Plan, swap: Swap) -> Report {
        let scene = &stage.scene;
        fs::create_dir(scene.path("away")).expect("a folder");
        fs::write(scene.path("away/precious"), "precious\n").expect("a file");
        scene.finish(["run", "--", "true"]).assert_code(0);
        let brief = scene.payload(Payload::Script("exit 7\n"));
        let (command, _) = stage.saying(vec!["run", "--", &brief]);
        let gateway = Traced::start(command, plan, none);
        let paused = gateway.pauses(HUNG, QUIET, || true);
        if paused {
            fs::remove_file(scene.pid_file()).expect("it is there");
            swap(stage, &scene.pid_file());
        }
        gateway.go_on();
        let (report, in_time) = gateway.report(HUNG);
        assert!(in_time, "hung: {report:?}");
        assert!(matches!(report.end, End::Code(7 | 83 | 84)), "{report:?}");
        let precious = fs::read_to_string(scene.path("away/precious")).expect("it is there");
        assert_eq!(precious, "precious\n", "somebody else's file was written");
        assert!(!scene.path("away/nothing").exists(), "a link was followed");
        stage.assert_unharmed();
        if paused {
            shell(scene, "rm -r gateway.pid");
        }
        report
    }

    fn sweep(name: &str, swap: Swap) {
        let mut chance = Chance::new();
        let mut tally = Tally::default();
        let untouched = start(&Stage::new(), Plan::Watch, swap);
        for call in points(&mut chance, &untouched, 7) {
            tally.point(&format!("{name}, at call {call}"), || {
                let stage = Stage::new();
                let report = start(&stage, Plan::PauseAt(call), swap);
                stage.assert_recovers();
                report.struck
            });
        }
        tally.close(&format!("the path swapped for {name}"), &chance);
    }

    #[test]
    fn a_link_may_be_swapped_in_at_any_call() {
        alone(|| {
            sweep("a link to a file", to_symlink);
            sweep("a link to nothing", to_dangling);
        });
    }

    #[test]
    fn what_is_no_file_may_be_swapped_in_at_any_call() {
        alone(|| {
            sweep("a folder", to_folder);
            sweep("a pipe", to_fifo);
        });
    }
}
