//! Neighbours who own nothing of the pid file, and what they can do to a start and to others by it.

use std::fs::{self, File};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::fs::{FlockOperation, Mode, OFlags};

use crate::attackers::SHORT_TAKE;
use crate::harness::{
    Canary, End, NOBODY, Payload, Process, Scene, as_nobody, lockers, need, set_mode, stat_field,
    wait_until,
};
use crate::stage::HUNG;
use crate::world::alone;

/// A record in `file` that says that this process holds it, under the name `path`.
#[track_caller]
fn forge(file: &Path, path: &Path, pid: u32) {
    let stat = fs::metadata(file).expect("it is there");
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("a boot id");
    let record = serde_json::json!({
        "format": 1, "pid": pid, "path": path, "dev": stat.dev(), "inode": stat.ino(),
        "start_time": stat_field(pid, 22).expect("it lives").parse::<u64>().expect("a number"),
        "boot_id": boot.trim(), "run_id": "0123456789abcdef0123456789abcdef", "generation": 1,
        "since": "2026-11-24T13:43:46.484522Z", "stop_timeout": 1_000_000.0,
    });
    fs::write(file, format!("{pid}\n{record}\n")).expect("it can be written");
}

/// A file of nobody's with a lock that we took, in the hands of somebody who heard of neither: as if
/// passed by `SCM_RIGHTS`, which gives away the open file itself, and so does fork(2).
#[track_caller]
fn pass_locked(path: &Path, owner: u32) -> Canary {
    let file = File::create(path).expect("a file");
    chown(path, Some(owner), Some(owner)).expect("it is ours to give");
    rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).expect("a lock");
    rustix::io::fcntl_setfd(&file, rustix::io::FdFlags::empty()).expect("a descriptor");
    let innocent = Canary::new();
    drop(file);
    assert_eq!(lockers(path), [innocent.pid()]);
    innocent
}

/// The same user's process with a lock of its own on this file.
#[track_caller]
fn nobodys_locker(scene: &Scene, path: &Path) -> Process {
    need("flock", "util-linux");
    let mut flock = scene.command("flock");
    flock.arg("--no-fork").arg(path).args(["sleep", "infinity"]);
    let locker = scene.spawn(as_nobody(scene, &flock));
    wait_until("the lock", HUNG, || lockers(path) == [locker.pid()]);
    locker
}

/// Any user could have root end any process that takes descriptors: by a locked one, and a record.
#[test]
fn who_was_handed_a_locked_descriptor_is_no_holder() {
    alone(|| {
        let scene = Scene::for_everybody();
        let innocent = pass_locked(&scene.pid_file(), NOBODY);
        let bare = |file: &Path| fs::write(file, format!("{}\n", innocent.pid())).expect("a file");
        let whole = |file: &Path| forge(file, &scene.pid_file(), innocent.pid());
        for name in [&whole as &dyn Fn(&Path), &bare] {
            name(&scene.pid_file());
            scene.finish(SHORT_TAKE).assert_code(82);
            scene.finish(["stop"]).assert_code(82);
            scene.finish(["run", "--", "echo", "ran"]).assert_code(82);
            assert_eq!(scene.state(), "foreign");
            innocent.assert_heard_nothing();
        }
    });
}

/// The same with a file of another name, as if it were an earlier one of this path.
#[test]
fn who_was_handed_another_locked_file_is_no_earlier_holder() {
    alone(|| {
        let scene = Scene::for_everybody();
        // Everybody can have made a file in here.
        set_mode(&scene.path(""), 0o777);
        let theirs = scene.path("theirs");
        let innocent = pass_locked(&theirs, NOBODY);
        forge(&theirs, &scene.pid_file(), innocent.pid());
        assert_eq!(scene.state(), "free");
        assert_eq!(scene.finish(SHORT_TAKE).stdout, "taken\n");
        innocent.assert_heard_nothing();
    });
}

/// Who forks after it has locked its file and before it writes its number is not the taker.
#[test]
fn a_bare_number_that_only_we_can_have_written_is_believed_whoever_took_the_lock() {
    alone(|| {
        let scene = Scene::for_everybody();
        let daemon = pass_locked(&scene.pid_file(), 0);
        set_mode(&scene.pid_file(), 0o600);
        fs::write(scene.pid_file(), format!("{}\n", daemon.pid())).expect("a file");
        let refused = scene.finish(["run", "--", "echo", "ran"]);
        refused
            .assert_code(80)
            .assert_says(&format!("pid {}", daemon.pid()));
        assert_eq!(scene.finish(SHORT_TAKE).stdout, "taken\n");
    });
}

/// A folder that is root's, with the pid file in it to be.
fn roots_folder(scene: &Scene) -> PathBuf {
    let folder = scene.path("roots");
    fs::create_dir(&folder).expect("a folder");
    set_mode(&folder, 0o700);
    folder.join("gateway.pid")
}

fn on(scene: &Scene, file: &Path, args: &[&str]) -> Command {
    let mut command = scene.bare(["-f"]);
    command.arg(file).args(args);
    command
}

/// Fails unless a start at this path runs its command.
#[track_caller]
fn assert_starts(scene: &Scene, file: &Path) {
    let output = scene.finish_command(on(scene, file, &["run", "--", "echo", "ran"]));
    assert_eq!(
        (output.end, output.stdout.as_str()),
        (End::Code(0), "ran\n"),
        "{output:?}"
    );
}

/// Any user could keep root from starting, by a file of their own that says that it is an earlier one.
#[test]
fn a_file_of_who_may_not_write_the_folder_is_no_earlier_one() {
    alone(|| {
        let scene = Scene::for_everybody();
        let file = roots_folder(&scene);
        let theirs = scene.path("theirs");
        File::create(&theirs).expect("a file");
        chown(&theirs, Some(NOBODY), Some(NOBODY)).expect("it is ours to give");
        let mut attacker = nobodys_locker(&scene, &theirs);
        forge(&theirs, &file, attacker.pid());
        assert_starts(&scene, &file);
        let taken = on(&scene, &file, &SHORT_TAKE);
        assert_eq!(scene.finish_command(taken).stdout, "taken\n");
        assert!(attacker.is_running(), "it was signalled");
    });
}

/// The same file counts where its owner may write the folder.
#[test]
fn a_file_of_who_may_write_the_folder_is_an_earlier_one() {
    alone(|| {
        for (owner, mode) in [(NOBODY, 0o755), (0, 0o777), (0, 0o1777), (0, 0o775)] {
            let scene = Scene::for_everybody();
            let file = roots_folder(&scene);
            let folder = file.parent().expect("a folder");
            chown(folder, Some(owner), Some(owner)).expect("it is ours to give");
            set_mode(folder, mode);
            let earlier = folder.join("moved");
            File::create(&earlier).expect("a file");
            chown(&earlier, Some(NOBODY), Some(NOBODY)).expect("it is ours to give");
            let holder = nobodys_locker(&scene, &earlier);
            forge(&earlier, &file, holder.pid());
            scene
                .finish_command(on(&scene, &file, &["run", "--", "echo", "ran"]))
                .assert_code(80)
                .assert_says(&format!("pid {}", holder.pid()));
        }
    });
}

/// A service's folder under root's is removed as a whole: nobody but root can make it again, and root's
/// new one is not the service's.
#[test]
fn the_holder_of_a_removed_folder_is_found_by_root_whosever_the_folder_was() {
    alone(|| {
        let scene = Scene::for_everybody();
        let folder = scene.path("service");
        fs::create_dir(&folder).expect("a folder");
        chown(&folder, Some(NOBODY), Some(NOBODY)).expect("it is ours to give");
        let file = folder.join("gateway.pid");
        let run = on(&scene, &file, &["run", "--", "sleep", "600"]);
        let mut holder = scene.spawn(as_nobody(&scene, &run));
        wait_until("its record", HUNG, || {
            fs::read_to_string(&file).is_ok_and(|text| text.contains("\"payload\":{"))
        });
        fs::remove_dir_all(&folder).expect("it can be removed");
        let found = format!("pid {}", holder.pid());
        let look = scene.finish_command(on(&scene, &file, &["status"]));
        assert!(
            look.stdout.starts_with("removed") && look.stdout.contains(&found),
            "{look:?}"
        );
        scene
            .finish_command(on(&scene, &file, &["run", "--", "echo", "ran"]))
            .assert_code(80)
            .assert_says(&found);
        assert!(holder.is_running());
    });
}

/// `readlink` on such a descriptor fails with ENAMETOOLONG, and any user can have one.
#[test]
fn a_path_that_is_too_long_to_be_told_keeps_nobody_from_starting() {
    alone(|| {
        let scene = Scene::new();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut at: OwnedFd = File::open(scene.path("")).expect("a folder").into();
        for _ in 0..20 {
            let name = "d".repeat(250);
            rustix::fs::mkdirat(&at, &name, Mode::RWXU).expect("a folder");
            at = rustix::fs::openat(&at, &name, flags, Mode::empty()).expect("a folder");
        }
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
        let deep = rustix::fs::openat(&at, "f", flags, Mode::RUSR | Mode::WUSR).expect("a file");
        let told = fs::read_link(format!("/proc/self/fd/{}", deep.as_raw_fd()));
        let errno = told.expect_err("it is too long").raw_os_error();
        assert_eq!(errno, Some(libc::ENAMETOOLONG));
        for locked in [false, true] {
            if locked {
                rustix::fs::flock(&deep, FlockOperation::NonBlockingLockExclusive).expect("a lock");
            }
            fs::remove_file(scene.pid_file()).ok();
            assert_starts(&scene, &scene.pid_file());
            scene.finish(["stop"]).assert_code(0);
        }
    });
}

/// A gateway on a removed file is waited for; one on a file of that very name is somebody else.
#[test]
fn a_file_whose_name_ends_in_deleted_is_not_removed() {
    alone(|| {
        let scene = Scene::for_everybody();
        set_mode(&scene.path(""), 0o777);
        need("flock", "util-linux");
        fs::create_dir(scene.path("bin/theirs")).expect("a folder");
        let program = scene.path("bin/theirs/gateway");
        fs::copy("/usr/bin/flock", &program).expect("a copy of flock(1)");
        let named = scene.path("gateway.pid (deleted)");
        let mut flock = scene.command(&program);
        flock.arg(&named).args(["sleep", "infinity"]);
        let mut locker = scene.spawn(as_nobody(&scene, &flock));
        wait_until("the lock", HUNG, || lockers(&named).contains(&locker.pid()));
        assert_starts(&scene, &scene.pid_file());
        assert!(locker.is_running());
    });
}

/// A directory that is made is not looked up by its name again, where others can have exchanged it.
#[cfg(target_arch = "x86_64")]
mod exchanged {
    use super::*;
    use crate::form::Chance;
    use crate::stage::{Stage, Tally, points};
    use crate::trace::{Plan, Report, Traced};

    fn none(_: i64, _: Option<&str>) -> &'static [i32] {
        &[]
    }

    const MODE: u32 = 0o755;

    /// A first start, with the new directory exchanged for a link at this call. Whether it was.
    fn start(stage: &Stage, plan: Plan) -> (Report, bool) {
        let scene = &stage.scene;
        let precious = scene.path("precious");
        fs::create_dir(&precious).expect("a folder");
        set_mode(&precious, MODE);
        let made = scene.path("made");
        let brief = scene.payload(Payload::Script("exit 7\n"));
        let mut command = on(scene, &made.join("gateway.pid"), &["run", "--", &brief]);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let gateway = Traced::start(command, plan, none);
        let paused = gateway.pauses(Duration::from_secs(20), Duration::from_millis(40), || true);
        let exchange = paused && made.is_dir();
        if exchange {
            fs::rename(&made, scene.path("away")).expect("it can be moved");
            symlink(&precious, &made).expect("a link");
        }
        gateway.go_on();
        let (report, in_time) = gateway.report(HUNG);
        assert!(in_time, "hung: {report:?}");
        let mode = fs::metadata(&precious)
            .expect("it is there")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, MODE, "the mode of something else was changed");
        (report, exchange)
    }

    #[test]
    fn the_mode_of_nothing_else_is_changed_whatever_a_new_directory_is_exchanged_for() {
        alone(|| {
            let mut chance = Chance::new();
            let mut tally = Tally::default();
            let (untouched, _) = start(&Stage::new(), Plan::Watch);
            let mut exchanged = 0;
            for call in points(&mut chance, &untouched, 1) {
                // Its mode is set in the first calls after it was made.
                if exchanged == 30 {
                    break;
                }
                tally.point(&format!("exchanged at call {call}"), || {
                    let (report, done) = start(&Stage::new(), Plan::PauseAt(call));
                    exchanged += u32::from(done);
                    report.struck
                });
            }
            assert!(exchanged > 0, "the directory was never there in time");
            tally.close("a new directory exchanged for a link", &chance);
        });
    }
}

/// A umask that takes our own bits takes them from neither the directories nor the file.
#[test]
fn new_directories_have_their_mode_whatever_the_umask() {
    alone(|| {
        let scene = Scene::for_everybody();
        set_mode(&scene.path(""), 0o777);
        let file = scene.path("a/b/gateway.pid");
        let mut shell = scene.command("sh");
        shell.args(["-c", "umask 777; exec \"$@\"", "sh"]);
        shell.arg(scene.program()).arg("-f").arg(&file);
        shell.args(["run", "--", "true"]);
        scene
            .finish_command(as_nobody(&scene, &shell))
            .assert_code(0);
        let mode = |path: &Path| fs::metadata(path).expect("it is there").mode() & 0o777;
        let modes = [scene.path("a"), scene.path("a/b"), file].map(|path| mode(&path));
        assert_eq!(modes, [0o700, 0o700, 0o600]);
    });
}

/// A FUSE file system that is one file, a process that has the lock on it, and a server that stops
/// answering when it is told to (fuse(4); the kernel's `include/uapi/linux/fuse.h`).
///
/// No process that has the file open may execute a program or end while nobody answers: closing it asks
/// the server, too, and the kernel lets nobody look at a process that does that in execve(2). Hence a
/// program of its own, whose server is the last to end: the device is closed then, and all are told.
const DEAD_SERVER: &str = r#"
#include <fcntl.h>
#include <linux/fuse.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <unistd.h>
static char request[1 << 20];
static struct { struct fuse_out_header head; char body[256]; } reply;
static void answer(int device, size_t length, int error) {
    struct fuse_in_header *asked = (void *)request;
    reply.head.len = sizeof reply.head + length;
    reply.head.error = error;
    reply.head.unique = asked->unique;
    write(device, &reply, reply.head.len);
}
static void serve(int device) {
    struct fuse_in_header *asked = (void *)request;
    struct fuse_init_out *init = (void *)reply.body;
    struct fuse_attr_out *attr = (void *)reply.body;
    if (read(device, request, sizeof request) < (ssize_t)sizeof *asked) return;
    memset(reply.body, 0, sizeof reply.body);
    switch (asked->opcode) {
    case FUSE_INIT:
        init->major = FUSE_KERNEL_VERSION;
        init->minor = 31;
        init->max_write = 131072;
        init->time_gran = 1;
        answer(device, sizeof *init, 0);
        break;
    case FUSE_GETATTR: /* valid for no time at all */
        attr->attr.ino = 1;
        attr->attr.mode = 0100600;
        attr->attr.nlink = 1;
        answer(device, sizeof *attr, 0);
        break;
    case FUSE_OPEN:
        answer(device, sizeof(struct fuse_open_out), 0);
        break;
    default:
        answer(device, 0, -38);
    }
}
static void hold(const char *path) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    int file = open(path, O_RDWR);
    if (file < 0 || flock(file, LOCK_EX)) _exit(1);
    close(creat("locked", 0600));
    for (;;) pause();
}
int main(int argc, char **argv) {
    char options[100];
    int device = open("/dev/fuse", O_RDWR | O_CLOEXEC);
    snprintf(options, sizeof options, "fd=%d,rootmode=100600,user_id=0,group_id=0,allow_other", device);
    if (mount("dead", argv[1], "fuse", 0, options)) { perror("mount"); return 1; }
    if (fork() == 0) { close(device); hold(argv[1]); }
    struct pollfd asked = {device, POLLIN, 0};
    while (access("die", F_OK)) if (poll(&asked, 1, 10) == 1) serve(device);
    close(creat("dead", 0600));
    for (;;) pause();
}
"#;

/// Starts it, and waits until nobody answers for a file that somebody has locked.
#[track_caller]
fn dead_server(scene: &Scene, file: &Path) -> Process {
    need("cc", "gcc");
    assert!(
        Path::new("/dev/fuse").exists(),
        "this test needs a kernel with FUSE: modprobe fuse"
    );
    let (text, program) = (scene.path("bin/server.c"), scene.path("bin/server"));
    fs::write(&text, DEAD_SERVER).expect("a source");
    let mut compiler = scene.command("cc");
    compiler.arg("-w").arg("-o").args([&program, &text]);
    scene.finish_command(compiler).assert_code(0);
    File::create(file).expect("a file to mount on");
    let mut command = scene.command(program);
    command.arg(file);
    let server = scene.spawn(command);
    wait_until("a lock on its file", HUNG, || scene.path("locked").exists());
    File::create(scene.path("die")).expect("a file");
    wait_until("the server's silence", HUNG, || scene.path("dead").exists());
    server
}

/// One dead mount anywhere hung every first start, in a sleep that hardly a signal ends.
#[test]
fn a_dead_server_behind_a_strangers_lock_is_not_waited_for() {
    alone(|| {
        let scene = Scene::new();
        let mounted = scene.path("mounted");
        let server = dead_server(&scene, &mounted);
        let fresh = |around: &str| {
            fs::remove_file(scene.pid_file()).ok();
            let start = on(&scene, &scene.pid_file(), &["run", "--", "echo", "ran"]);
            let mut shell = scene.command("unshare");
            shell.args([
                "--mount",
                "sh",
                "-c",
                &format!("{around} exec \"$0\" \"$@\""),
            ]);
            shell.arg(start.get_program()).args(start.get_args());
            let mut start = scene.spawn(shell);
            start.end_within(Duration::from_secs(3));
            assert_eq!(start.stdout(), "ran\n", "{around} {}", start.stderr());
        };
        // In our table of mounts; in the locker's only; in nobody's.
        fresh("");
        fresh("umount -l mounted;");
        let mut list = scene.spawn(scene.bare(["list"]));
        assert_eq!(list.end_within(Duration::from_secs(3)), End::Code(0));
        rustix::mount::unmount(&mounted, rustix::mount::UnmountFlags::DETACH).expect("a mount");
        fresh("");
        drop(server);
    });
}
