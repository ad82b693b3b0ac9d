//! A pid namespace has numbers of its own: what the record says there means nothing, or somebody
//! else, in another one.

use std::time::Duration;

use crate::harness::{
    Output, Payload, Process, Record, SOON, Scene, Signal, descendants, exists, in_pid_namespace,
    injected_at, need, remember, signal, state, until, wait_until,
};

/// What a newcomer could do about the holder, and give up soon.
const VERBS: [&[&str]; 3] = [
    &["run", "--", "touch", "ran"],
    &[
        "run",
        "--replace",
        "--timeout",
        "1",
        "--kill-after",
        "0.5",
        "--",
        "touch",
        "ran",
    ],
    &["stop", "--timeout", "1", "--kill-after", "0.5"],
];

/// As in most images: a shell is the first process, and an innocent helper of it the second. It says
/// so if the helper is not asleep any more, and ends as the command did.
const BESIDE_A_HELPER: &str = r#"sleep 60 & "$@"; code=$?
case $(cut -d' ' -f3 /proc/2/stat) in S) echo alive >>"$SCENE/helpers" ;; *) echo killed >>"$SCENE/helpers" ;; esac
kill -KILL 2; exit $code"#;

/// The first process of a pid namespace, its command being the second.
fn container(scene: &Scene) -> Process {
    let payload = scene.payload(Payload::Plain);
    let command = scene.gateway(["run", "--", &payload]);
    let outer = scene.spawn(in_pid_namespace(scene, &command));
    let record = scene.wait_for_record("a holder", |record| record.has_payload());
    assert_eq!((record.pid(), record.number("/payload/pid")), (1, 2));
    wait_until("its command runs", SOON, || scene.started_payloads() == [2]);
    outer
}

/// The holder's number outside.
fn first_process(container: &Process) -> u32 {
    remember(descendants(container.pid())[0])
}

/// The program as the first process of another namespace.
fn alone(scene: &Scene, words: &[&str]) -> Output {
    scene.finish_command(in_pid_namespace(scene, &scene.gateway(words)))
}

/// The program as a later process of another namespace.
fn beside_a_helper(scene: &Scene, words: &[&str]) -> Output {
    let script = ["-c", BESIDE_A_HELPER, "sh"];
    let command = scene.behind("sh", &script, &scene.gateway(words));
    scene.finish_command(in_pid_namespace(scene, &command))
}

/// garrytan/gbrain#2840: two containers, one volume; each has a pid 1 and a pid 2.
#[test]
fn two_containers_with_the_same_numbers() {
    let scene = Scene::new();
    let mut holder = container(&scene);
    let first = first_process(&holder);
    let before = scene.footprint();
    for words in VERBS {
        for ask in [alone, beside_a_helper] {
            let output = ask(&scene, words);
            output.assert_code(82).assert_one_line();
            output.assert_says("stop it where it runs");
            assert!(output.took < Duration::from_secs(5), "{output:?}");
            assert!(holder.is_running() && exists(first));
            assert_eq!(scene.lockers(), [first]);
        }
    }
    assert_eq!(scene.footprint(), before);
    assert!(!scene.path("ran").exists());
    assert_eq!(scene.lines("helpers"), ["alive"; 3]);

    // Its record stays behind, and its numbers are the shell's and the helper's in there.
    holder.crash();
    wait_until("the lock is free", SOON, || scene.lockers().is_empty());
    beside_a_helper(&scene, &["run", "--", "true"]).assert_code(0);
    assert_eq!(scene.lines("helpers"), ["alive"; 4]);
    scene.assert_never_two_payloads();
}

/// It would take the container down, and the newcomer with it.
#[test]
fn the_first_process_of_our_own_container_is_not_replaced() {
    need("nsenter", "util-linux");
    let scene = Scene::new();
    let mut holder = container(&scene);
    let first = first_process(&holder);
    let before = scene.footprint();
    let options = ["run", "--replace", "--", "touch", "ran"];
    let target = first.to_string();
    let enter = ["--pid", "--mount", "--target", &target];
    let enter = scene.behind("nsenter", &enter, &scene.gateway(options));
    let output = scene.finish_command(enter);
    output.assert_code(82).assert_one_line();
    output.assert_says("pid 1 (");
    output.assert_says("first process of this container");
    assert!(holder.is_running() && exists(first));
    assert_eq!(scene.footprint(), before);
    assert!(!scene.path("ran").exists());
}

/// A crash is what nobody goes on with: the run goes on in there, wherever its own file lies.
#[test]
fn a_copy_of_the_file_of_a_container_that_lives_is_no_crash() {
    let scene = Scene::new();
    let payload = scene.payload(Payload::Plain);
    std::fs::create_dir(scene.path("space")).unwrap();
    let script = format!(
        "set -e\nmount -t tmpfs tmpfs space\ncd space\nmkdir low up work layers\n\
         mount -t overlay -o lowerdir=low,upperdir=up,workdir=work overlay layers\n\
         exec {} -f \"$PWD/layers/gateway.pid\" run -- {payload}\n",
        scene.program().display()
    );
    let mut command = scene.command("sh");
    command.args(["-c", &script]);
    let outer = scene.spawn(in_pid_namespace(&scene, &command));
    let inside = || {
        let first = *descendants(outer.pid()).first()?;
        let path = scene.path("space/layers/gateway.pid");
        std::fs::read(format!("/proc/{first}/root{}", path.display())).ok()
    };
    let bytes = until("its record", SOON, || {
        let bytes = inside()?;
        Record::read(&bytes).filter(Record::has_payload)?;
        Some(bytes)
    });
    wait_until("its command runs", SOON, || {
        scene.started_payloads().len() == 1
    });
    let list = scene.finish_command(scene.bare(["list", "--json"]));
    let first = first_process(&outer);
    assert!(
        list.stdout.contains(&format!("\"pid\":{first},")),
        "{list:?}"
    );
    std::fs::write(scene.pid_file(), bytes).unwrap();
    assert_eq!(scene.state(), "free");
    // Nor where it cannot be looked at.
    let status = format!("/proc/{first}/status");
    let blind = injected_at(
        &scene,
        &status,
        "openat:error=ENFILE:when=1+",
        &scene.gateway(["stop"]),
    );
    scene.finish_command(blind).assert_code(70);
    scene.finish(["stop"]).assert_code(0);
    scene.finish(["run", "--", "true"]).assert_code(0);
    let alive = descendants(outer.pid());
    assert_eq!(alive.len(), 2, "the gateway and its command");
}

/// A `/proc` in which we have no number at all: its /proc/self leads nowhere.
#[test]
fn in_the_proc_of_a_container_from_outside_nobody_is_told_of() {
    need("nsenter", "util-linux");
    let scene = Scene::new();
    let mut holder = container(&scene);
    let first = first_process(&holder);
    let target = first.to_string();
    // So that it does not put its claim back.
    signal(first, Signal::STOP);
    wait_until("it is stopped", SOON, || state(first) == Some('T'));
    let enter = |words: &[&str]| {
        let options = ["--mount", "--target", &target];
        scene.finish_command(scene.behind("nsenter", &options, &scene.gateway(words)))
    };
    for file in [true, false] {
        if !file {
            std::fs::remove_file(scene.pid_file()).unwrap();
        }
        enter(&["status"]).assert_code(4).assert_says("/proc");
        enter(&["stop"]).assert_code(70).assert_says("/proc");
    }
    assert!(holder.is_running());
}
