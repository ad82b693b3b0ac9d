//! Odd commands, odd files and odd surroundings: a start works, or says so before anybody is harmed.

use std::fs;
use std::os::unix::fs::symlink;
use std::time::Duration;

use crate::harness::{
    End, Payload, SOON, Scene, Signal, must_be_root, need, set_mode, state, wait_until,
};
use crate::kit::{compiled, marked_pid};

/// Its first thread ends, and another goes on.
const WITHOUT_FIRST: &str = r#"
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>
static void *stay(void *none) { for (;;) pause(); return none; }
int main(void) {
    pthread_t other;
    pthread_create(&other, NULL, stay, NULL);
    pthread_exit(NULL);
}
"#;

/// What lists a process's descriptors is the first thread's view of them, which ends with that thread.
#[test]
fn a_holder_whose_first_thread_has_ended_is_proven() {
    let scene = Scene::new();
    let program = compiled(&scene, "without-first", WITHOUT_FIRST);
    let mut holder = scene.start(["run", "--exec", "--", &program]);
    wait_until("the first thread's end", SOON, || {
        state(holder.pid()) == Some('Z')
    });
    assert_eq!(holder.try_end(), None);
    assert_eq!(scene.state(), "held");
    let refused = scene.finish(["run", "--", "echo", "ran"]);
    refused
        .assert_code(80)
        .assert_says(&format!("pid {}", holder.pid()));
    // It is not on its way out, which would be waited for.
    assert!(refused.took < Duration::from_secs(5), "{refused:?}");
    let taken = scene.finish(["run", "--replace", "--", "echo", "taken"]);
    assert_eq!(taken.stdout, "taken\n", "{taken:?}");
    assert_eq!(holder.end(), End::of(Signal::TERM));
}

/// `cp -al` of a state directory, and a kill in the middle of the write: the file was refused for ever.
#[test]
fn a_torn_record_with_another_name_is_taken() {
    let scene = Scene::new();
    scene.finish(["run", "--", "true"]).assert_code(0);
    let whole = scene.bytes();
    let crashed = [b"4925\n", &whole[1..]].concat();
    for torn in [
        &whole[..1],
        &whole[..9],
        &whole[..200],
        &crashed[..4],
        &crashed[..5],
        &crashed[..100],
    ] {
        fs::remove_file(scene.pid_file()).unwrap();
        fs::remove_file(scene.path("backup")).ok();
        fs::write(scene.pid_file(), torn).unwrap();
        fs::hard_link(scene.pid_file(), scene.path("backup")).unwrap();
        let output = scene.finish(["run", "--", "echo", "ran"]);
        assert_eq!(output.stdout, "ran\n", "{}", String::from_utf8_lossy(torn));
    }
    for strange in [
        "4925\nprecious\n",
        "\nprecious\n",
        "{\"format\":1}\n",
        "4925\n{\"a\":1}\n",
    ] {
        fs::remove_file(scene.path("backup")).unwrap();
        fs::write(scene.pid_file(), strange).unwrap();
        fs::hard_link(scene.pid_file(), scene.path("backup")).unwrap();
        scene.finish(["run", "--", "echo", "ran"]).assert_code(83);
        assert_eq!(scene.bytes(), strange.as_bytes());
    }
}

/// What only the kernel would say after the holder is gone: an interpreter or a loader that is not there
/// or cannot run, and a program that was cut short by a copy.
#[test]
fn what_a_command_needs_to_run_is_looked_at_before_a_holder_is_asked() {
    let scene = Scene::new();
    let mut holder = scene.hold();
    need("mkfifo", "coreutils");
    let tool = fs::read("/bin/ls").unwrap();
    let loader = b"/lib64/ld-linux";
    let at = tool.windows(loader.len()).position(|text| text == loader);
    let mut of_another_library = tool.clone();
    of_another_library[at.expect("a loader")..][..6].copy_from_slice(b"/lib99");
    fs::write(scene.path("bin/damaged"), &tool[..5000]).unwrap();
    set_mode(&scene.path("bin/damaged"), 0o755);
    let fifo = scene.command("mkfifo").arg(scene.path("bin/fifo")).status();
    assert!(fifo.unwrap().success());
    set_mode(&scene.path("bin/fifo"), 0o755);
    let chain = |link: u32| scene.path(format!("bin/link-{link}"));
    for link in 0..7 {
        let next = chain(link + 1);
        let line = if link < 6 {
            format!("#!{}\n", next.display())
        } else {
            "#!/bin/sh\n".to_owned()
        };
        fs::write(chain(link), line).unwrap();
        set_mode(&chain(link), 0o755);
    }
    let line = |interpreter: &str| format!("#!{interpreter}\n").into_bytes();
    let named = |name: &str| line(scene.path(name).to_str().unwrap());
    let program = scene.path("bin/odd");
    let odd = program.to_str().unwrap();
    for (bytes, why) in [
        (of_another_library, "its loader /lib99/ld-linux"),
        (b"\x7fELF\x02 and so on".to_vec(), "it ends in its header"),
        (tool[..5000].to_vec(), "it ends before its last segment"),
        (line("/nowhere/sh"), "its interpreter /nowhere/sh"),
        (named("bin"), "it is a directory"),
        (named("bin/fifo"), "it is a named pipe"),
        (named("bin/damaged"), "it ends before its last segment"),
        (named("bin/link-2"), "one interpreter too many"),
        (line("/etc/passwd"), "its interpreter /etc/passwd"),
    ] {
        fs::write(&program, bytes).unwrap();
        set_mode(&program, 0o755);
        let output = scene.finish(["run", "--replace", "--", odd]);
        output.assert_code(126).assert_one_line();
        output.assert_says(odd).assert_says(why);
        assert!(holder.is_running(), "{}", holder.stderr());
    }
    // As deep as the kernel goes.
    let deepest = chain(2).to_str().unwrap().to_owned();
    scene
        .finish(["run", "--replace", "--", &deepest])
        .assert_code(0);
    assert_eq!(holder.end(), End::of(Signal::TERM));
}

/// The holder was ended first, and then it turned out that there was nothing to run.
#[test]
fn what_no_kernel_runs_costs_no_holder() {
    let scene = Scene::new();
    let mut holder = scene.hold();
    let own = fs::read(scene.program()).unwrap();
    let mut of_another_machine = own[..4096].to_vec();
    of_another_machine[18] = 2;
    let mut part = own[..4096].to_vec();
    part[16] = 1;
    let files: [&[u8]; 5] = [
        &own[..40],
        b"\x7fELF",
        &of_another_machine,
        &part,
        b"\x01\x02\0junk\n",
    ];
    let program = scene.path("bin/odd");
    let odd = program.to_str().unwrap();
    let mount = "mount -t binfmt_misc none /proc/sys/fs/binfmt_misc && exec \"$@\"";
    let seen = ["--mount", "sh", "-c", mount, "sh"];
    for bytes in files {
        fs::write(&program, bytes).unwrap();
        set_mode(&program, 0o755);
        // Where it can be seen that the kernel was told of no other formats.
        let command = scene.gateway(["run", "--replace", "--", odd]);
        let output = scene.finish_command(scene.behind("unshare", &seen, &command));
        output.assert_code(126).assert_one_line().assert_says(odd);
        assert!(holder.is_running(), "{}", holder.stderr());
    }
    // A text without a first line for the kernel is the shell's (execvp(3)).
    fs::write(&program, "echo read by the shell\n").unwrap();
    let output = scene.finish(["run", "--replace", "--", odd]);
    assert_eq!(output.stdout, "read by the shell\n", "{output:?}");
    assert_eq!(holder.end(), End::of(Signal::TERM));
}

/// `unshare -p` without `--fork`: the command is the first process of a pid namespace, in which we
/// have no number.
#[test]
fn a_command_in_a_pid_namespace_of_its_own_is_started_and_dies_with_its_gateway() {
    must_be_root();
    need("unshare", "util-linux");
    let scene = Scene::new();
    let apart = |payload: &str| {
        let mut command = scene.command("unshare");
        command.arg("--pid").arg(scene.program()).arg("-f");
        command.arg(scene.pid_file()).args(["run", "--", payload]);
        command
    };
    let brief = scene.payload(Payload::Script("echo \"number $$\"\nexit 7\n"));
    let output = scene.finish_command(apart(&brief));
    assert_eq!(
        (output.end, output.stdout.as_str()),
        (End::Code(7), "number 1\n"),
        "{output:?}"
    );
    let stays = scene.payload(Payload::Script(
        "echo up >>\"$SCENE/marks\"\nexec sleep infinity\n",
    ));
    let mut holder = scene.spawn(apart(&stays));
    scene.wait_for_mark("up");
    let payload = scene
        .wait_for_record("its command", |record| record.has_payload())
        .payload_pid();
    holder.crash();
    wait_until("the command's end", SOON, || {
        !crate::harness::exists(payload)
    });
}

/// A holder followed a link that somebody put in its directory's place: to any file, anywhere.
#[test]
fn a_holder_is_led_to_no_other_directory() {
    let scene = Scene::new();
    let (state, away, other) = (scene.path("held"), scene.path("away"), scene.path("other"));
    fs::create_dir(&other).unwrap();
    let file = state.join("gateway.pid");
    let payload = scene.payload(Payload::Script(
        "echo \"up $$\" >>\"$SCENE/marks\"\nexec sleep infinity\n",
    ));
    for there in [false, true] {
        if there {
            // Another gateway's file, which nobody holds just now.
            fs::write(other.join("gateway.pid"), "").unwrap();
        }
        let mut command = scene.bare(["-f"]);
        command.arg(&file).args(["run", "--", &payload]);
        let mut holder = scene.spawn(command);
        wait_until("its command", SOON, || {
            fs::read_to_string(&file).is_ok_and(|text| {
                text.starts_with(&format!("{}\n", holder.pid())) && text.contains("\"payload\":{")
            })
        });
        fs::rename(&state, &away).unwrap();
        symlink(&other, &state).unwrap();
        holder.wait_for_line("leads elsewhere");
        let left = other.join("gateway.pid");
        assert_eq!(
            fs::read(&left).unwrap_or_default(),
            b"",
            "somebody else's file was written"
        );
        assert_eq!(left.exists(), there);
        assert_eq!(
            crate::harness::lockers(&left),
            [] as [u32; 0],
            "it was seized"
        );
        // Nothing leads away any more, and nothing is there.
        fs::remove_file(&state).unwrap();
        wait_until("it is put back", SOON, || {
            crate::harness::lockers(&file) == [holder.pid()]
        });
        assert!(holder.is_running());
        holder.signal(Signal::TERM);
        assert_eq!(holder.end(), End::of(Signal::TERM));
        fs::remove_dir_all(&away).unwrap();
    }
    marked_pid(&scene, "up");
}

/// `unshare --pid --fork` without `--mount-proc`: every number in /proc is somebody else's here.
#[test]
fn where_proc_is_of_another_pid_namespace_nothing_runs_and_nobody_is_asked() {
    must_be_root();
    need("unshare", "util-linux");
    let scene = Scene::new();
    let mut holder = scene.hold();
    let bytes = scene.bytes();
    let finish = |command| {
        let options = ["--pid", "--fork", "--kill-child=KILL"];
        scene.finish_command(scene.behind("unshare", &options, &command))
    };
    let below = |args: &[&str]| finish(scene.gateway(args));
    for args in [
        &["run", "--", "echo", "ran"][..],
        &["run", "--replace", "--", "echo", "ran"],
        &["run", "--wait", "--", "echo", "ran"],
        &["stop"],
    ] {
        let output = below(args);
        output.assert_code(70).assert_one_line();
        output
            .assert_says("another pid namespace")
            .assert_says("--mount-proc");
        assert_eq!(output.stdout, "");
    }
    // Nobody is told of there, either: a holder under another number than its own looks like one that has
    // not described itself.
    let status = below(&["status"]);
    status.assert_code(4).assert_says("another pid namespace");
    assert!(status.stdout.starts_with("unknown: "), "{status:?}");
    let list = finish(scene.bare(["list"]));
    list.assert_code(70).assert_says("--mount-proc");
    assert!(holder.is_running(), "{}", holder.stderr());
    assert_eq!(scene.bytes(), bytes);
    // Nor where the lock is free.
    holder.crash();
    let left = scene.bytes();
    below(&["run", "--", "echo", "ran"]).assert_code(70);
    assert_eq!(scene.bytes(), left);
}
