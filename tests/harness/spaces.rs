//! Other users, other mounts, other pid namespaces.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::process::Process;
use super::scene::Scene;
use super::tools::{must_be_root, need};
use super::wait::{SOON, wait_until};

/// The user that owns nothing.
pub const NOBODY: u32 = 65534;

/// The same command, run by the user nobody. The pid stays the one that was started.
#[track_caller]
pub fn as_nobody(scene: &Scene, command: &Command) -> Command {
    must_be_root();
    need("setpriv", "util-linux");
    let options = ["--reuid", "65534", "--regid", "65534", "--clear-groups"];
    scene.behind("setpriv", &options, command)
}

/// The same command as the first process of a pid namespace. The process that is started is
/// `unshare`, which passes its ending on.
#[track_caller]
pub fn in_pid_namespace(scene: &Scene, command: &Command) -> Command {
    must_be_root();
    need("unshare", "util-linux");
    let options = ["--pid", "--fork", "--kill-child=KILL", "--mount-proc"];
    scene.behind("unshare", &options, command)
}

/// A mount namespace that lives as long as this value.
pub struct MountSpace<'a> {
    scene: &'a Scene,
    keeper: Process,
}

impl<'a> MountSpace<'a> {
    /// Makes one, runs these commands of a shell in it, and keeps it.
    #[track_caller]
    pub fn new(scene: &'a Scene, setup: &str) -> Self {
        must_be_root();
        need("unshare", "util-linux");
        need("nsenter", "util-linux");
        let mut command = scene.command("unshare");
        let script = format!("set -e\n{setup}\n: >\"$SCENE/mounted\"\nexec sleep infinity\n");
        command.args(["--mount", "--propagation", "private", "sh", "-c", &script]);
        let mut keeper = scene.spawn(command);
        wait_until("the mounts are made", SOON, || {
            let ended = keeper.try_end();
            assert!(ended.is_none(), "{ended:?}: {}", keeper.stderr());
            scene.path("mounted").exists()
        });
        Self { scene, keeper }
    }

    /// A small file system in memory over a folder of the scene, which is made.
    #[track_caller]
    pub fn tmpfs(scene: &'a Scene, folder: &str, options: &str) -> Self {
        let path = scene.path(folder);
        std::fs::create_dir_all(&path).expect("a folder to mount on");
        Self::new(
            scene,
            &format!("mount -t tmpfs -o {options} tmpfs '{}'", path.display()),
        )
    }

    /// The same command, run in there. The pid stays the one that was started.
    pub fn command(&self, command: &Command) -> Command {
        let target = self.keeper.pid().to_string();
        let folder = format!(
            "--wd={}",
            command
                .get_current_dir()
                .unwrap_or(Path::new("/"))
                .display()
        );
        let options = ["--mount", "--target", &target, &folder];
        self.scene.behind("nsenter", &options, command)
    }

    /// The program, run in there.
    pub fn gateway<S: AsRef<OsStr>>(
        &self,
        pid_file: &Path,
        args: impl IntoIterator<Item = S>,
    ) -> Command {
        let mut command = self.scene.bare(["-f"]);
        command.arg(pid_file).args(args);
        self.command(&command)
    }

    /// A path in there, as we reach it.
    pub fn inside(&self, path: &Path) -> PathBuf {
        let mut inside = PathBuf::from(format!("/proc/{}/root", self.keeper.pid()));
        inside.push(path.strip_prefix("/").unwrap_or(path));
        inside
    }
}
