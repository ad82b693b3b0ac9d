//! What the surroundings show to be wrong is said once, and stops nothing.

use crate::harness::{Scene, injected, need};

#[test]
fn an_ignored_sigchld_is_told() {
    let scene = Scene::new();
    // dash does not pass it on.
    need("bash", "bash");
    let script = ["-c", "trap '' CHLD; exec \"$@\"", "bash"];
    let command = scene.behind("bash", &script, &scene.gateway(["run", "--", "true"]));
    let output = scene.finish_command(command);
    output.assert_code(0).assert_one_line();
    output.assert_says("SIGCHLD was ignored");
    let quiet = scene.behind("bash", &script, &scene.gateway(["-q", "run", "--", "true"]));
    scene.finish_command(quiet).assert_code(0);
    scene
        .finish(["run", "--", "true"])
        .assert_code(0)
        .assert_silent();
}

/// sifiveinc/wake#593: flock(2) means less on a network. The kernel's answer is NFS's number here,
/// as statfs(2) would give it there.
#[test]
fn a_network_file_system_is_told() {
    let scene = Scene::new();
    let command = scene.gateway(["run", "--", "true"]);
    let nfs = "statfs:poke_exit=@arg2=6969000000000000";
    let output = scene.finish_command(injected(&scene, nfs, &command));
    output.assert_code(0).assert_one_line();
    output.assert_says(scene.pid_file().to_str().unwrap());
    output.assert_says("is on NFS");
}
