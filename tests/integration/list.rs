//! `list`: every gateway that can be seen, and every file in the caller's place.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::harness::{
    Locker, MountSpace, Process, SOON, Scene, Signal, as_nobody, in_pid_namespace, injected,
    injected_at, is_held_up_in, need, sleeps, until, wait_until,
};

fn listed(scene: &Scene) -> Vec<Value> {
    listed_through(scene, scene.bare(["list", "--json"]))
}

fn listed_through(scene: &Scene, list: Command) -> Vec<Value> {
    let output = scene.finish_command(list);
    output.assert_code(0);
    assert_eq!(output.stdout.lines().count(), 1);
    serde_json::from_str(&output.stdout).unwrap()
}

/// The entries of this scene's files, by the end of their path.
fn states(scene: &Scene) -> Vec<(String, String)> {
    states_among(scene, &listed(scene))
}

fn states_among(scene: &Scene, listed: &[Value]) -> Vec<(String, String)> {
    let root = scene.path("");
    listed
        .iter()
        .filter_map(|entry| {
            let path = entry["pid_file"].as_str()?.strip_prefix(root.to_str()?)?;
            Some((
                path.trim_start_matches('/').to_owned(),
                entry["state"].as_str()?.to_owned(),
            ))
        })
        .collect()
}

fn hold_named(scene: &Scene, name: &str) -> Process {
    let holder = scene.spawn(scene.bare(["-n", name, "run", "--", "sleep", "infinity"]));
    let status = || scene.finish_command(scene.bare(["-n", name, "status"]));
    wait_until("it holds", SOON, || status().stdout.starts_with("held"));
    holder
}

/// For want of a descriptor somebody would be left out.
#[test]
fn where_too_few_files_can_be_opened_nothing_is_listed() {
    let scene = Scene::new();
    let list = scene.bare(["list", "--json"]);
    for (limit, enough) in [(4, false), (16, false), (64, true)] {
        let limit = format!("--nofile={limit}");
        let output = scene.finish_command(scene.behind("prlimit", &[&limit], &list));
        if enough {
            output.assert_code(0);
            continue;
        }
        output.assert_code(70).assert_one_line();
        output.assert_says("ulimit -n");
        assert_eq!(output.stdout, "");
    }
}

/// One of whom status would say that nobody can tell is not left out either.
#[test]
fn where_the_system_refuses_to_tell_of_one_nothing_is_listed() {
    let scene = Scene::new();
    let _holder = hold_named(&scene, "web");
    // The first pidfd is one on itself.
    let refused = "pidfd_open:error=ENOMEM:when=2+";
    let list = scene.finish_command(injected(&scene, refused, &scene.bare(["list"])));
    list.assert_code(70).assert_one_line();
    list.assert_says("cannot open a pidfd");
    assert_eq!(list.stdout, "");
}

#[test]
fn holders_are_listed_wherever_their_files_are() {
    let scene = Scene::new();
    let elsewhere = scene.hold();
    let named = hold_named(&scene, "web");
    assert_eq!(
        states(&scene),
        [
            ("gateway.pid".to_owned(), "held".to_owned()),
            ("state/web/gateway.pid".to_owned(), "held".to_owned()),
        ]
    );
    let pids: Vec<Value> = listed(&scene)
        .iter()
        .filter(|entry| {
            entry["pid_file"]
                .as_str()
                .unwrap()
                .starts_with(scene.path("").to_str().unwrap())
        })
        .map(|entry| entry["holder"]["pid"].clone())
        .collect();
    assert_eq!(
        pids,
        [Value::from(elsewhere.pid()), Value::from(named.pid())]
    );
}

#[test]
fn files_in_our_place_are_listed_in_every_state() {
    let scene = Scene::new();
    let mut crashed = hold_named(&scene, "crashed");
    crashed.crash();
    let command = scene.bare(["-n", "done", "run", "--", "true"]);
    scene.finish_command(command).assert_code(0);
    let _held = hold_named(&scene, "held");
    std::fs::create_dir_all(scene.path("state/foreign")).unwrap();
    let _locker = Locker::on(&scene, &scene.path("state/foreign/gateway.pid"));
    std::fs::create_dir_all(scene.path("state/shared")).unwrap();
    let _sharer = Locker::sharing(&scene, &scene.path("state/shared/gateway.pid"));
    let of = |name: &str, state: &str| (format!("state/{name}/gateway.pid"), state.to_owned());
    assert_eq!(
        states(&scene),
        [
            of("crashed", "crashed"),
            of("done", "free"),
            of("foreign", "foreign"),
            of("held", "held"),
            of("shared", "foreign")
        ]
    );
}

/// Several threads look at them; where there is one processor, or no thread to be had, one does.
#[test]
fn many_are_listed_in_order_by_one_thread_or_by_several() {
    let scene = Scene::for_everybody();
    for number in 0..100 {
        let written = if number % 3 == 0 { "77777777\n" } else { "" };
        scene.write_named(&format!("name-{number:02}"), written);
    }
    let list = scene.bare(["list"]);
    let limited = scene.behind("prlimit", &["--nproc=1"], &list);
    let mut alone = as_nobody(&scene, &limited);
    alone.env("GATEWAY_STATE_DIR", scene.path("state"));
    for command in [
        scene.behind("taskset", &["--cpu-list", "0"], &list),
        alone,
        list,
    ] {
        let output = scene.finish_command(command);
        output.assert_code(0);
        let ours = |line: &&str| line.starts_with("name-");
        let lines: Vec<&str> = output.stdout.lines().filter(ours).collect();
        assert_eq!(lines.len(), 100, "{}", output.stdout);
        for (number, line) in lines.iter().enumerate() {
            let state = if number % 3 == 0 { "crashed" } else { "free" };
            let words: Vec<&str> = line.split_whitespace().take(2).collect();
            assert_eq!(words, [format!("name-{number:02}").as_str(), state]);
        }
    }
}

/// What a list says of a path: it is there once.
#[track_caller]
fn listed_by(list: Process, path: &Path) -> Value {
    let output = list.output();
    output.assert_code(0);
    let listed: Vec<Value> = serde_json::from_str(&output.stdout).unwrap();
    let is_it = |entry: &&Value| entry["pid_file"] == path.to_str().unwrap();
    let found: Vec<&Value> = listed.iter().filter(is_it).collect();
    assert_eq!(found.len(), 1, "{found:?}");
    found[0].clone()
}

#[track_caller]
fn assert_held_by(holder: &Process, list: Process, path: &Path) {
    let found = listed_by(list, path);
    assert_eq!(found["state"], "held");
    assert_eq!(found["holder"]["pid"], holder.pid());
}

/// The table of locks is read, and a file later.
#[test]
fn a_run_that_starts_before_its_file_is_read_is_listed() {
    let scene = Scene::new();
    scene.write_named("web", "");
    let slow = "pread64:delay_enter=1500000:when=1";
    let list = scene.spawn(injected(&scene, slow, &scene.bare(["list", "--json"])));
    wait_until("the list reads the file", SOON, || {
        is_held_up_in(&list, libc::SYS_pread64)
    });
    let holder = hold_named(&scene, "web");
    assert_held_by(&holder, list, &scene.path("state/web/gateway.pid"));
}

/// A list that has read the files, and waits for the table of locks for some time.
fn list_that_waits_for_the_table(scene: &Scene) -> Process {
    let slow = "openat:delay_enter=4000000";
    let list = scene.bare(["list", "--json"]);
    let list = scene.spawn(injected_at(scene, "/proc/locks", slow, &list));
    wait_until("the list waits for the table", SOON, || {
        is_held_up_in(&list, libc::SYS_openat) && sleeps(&list)
    });
    list
}

#[test]
fn a_run_that_starts_after_its_file_was_read_is_listed() {
    let scene = Scene::new();
    scene.write_named("web", "");
    let list = list_that_waits_for_the_table(&scene);
    let holder = hold_named(&scene, "web");
    assert_held_by(&holder, list, &scene.path("state/web/gateway.pid"));
}

#[test]
fn a_run_whose_file_is_made_after_it_was_looked_for_is_listed() {
    let scene = Scene::new();
    std::fs::create_dir_all(scene.path("state/web")).unwrap();
    let list = list_that_waits_for_the_table(&scene);
    let holder = hold_named(&scene, "web");
    assert_held_by(&holder, list, &scene.path("state/web/gateway.pid"));
}

#[test]
fn a_run_with_a_new_file_at_the_path_of_one_that_was_read_is_listed_once() {
    let scene = Scene::new();
    let path = scene.path("state/web/gateway.pid");
    scene.write_named("web", "");
    // Its number is not handed on.
    std::fs::hard_link(&path, scene.path("kept")).unwrap();
    let list = list_that_waits_for_the_table(&scene);
    std::fs::remove_file(&path).unwrap();
    let holder = hold_named(&scene, "web");
    assert_held_by(&holder, list, &path);
}

#[test]
fn a_run_that_ends_after_its_file_was_read_has_not_crashed() {
    let scene = Scene::new();
    let mut holder = hold_named(&scene, "web");
    let list = list_that_waits_for_the_table(&scene);
    holder.signal(Signal::TERM);
    holder.end();
    let found = listed_by(list, &scene.path("state/web/gateway.pid"));
    assert_eq!(found["state"], "free");
}

/// It was looked at while it had no record yet, and has one by the time that the table's other lines are.
#[test]
fn a_start_in_the_middle_of_a_list_is_listed_once() {
    let scene = Scene::new();
    scene.write_named("first", "");
    let second = hold_named(&scene, "second");
    let run = scene.bare(["-n", "first", "run", "--", "sleep", "infinity"]);
    let run = scene.spawn(injected(
        &scene,
        "pwrite64:delay_enter=2000000:when=1",
        &run,
    ));
    wait_until("it is about to write its record", SOON, || {
        is_held_up_in(&run, libc::SYS_pwrite64)
    });
    // Opened when the second is proven, and so after the first was looked at.
    let path = format!("/proc/{}/stat", second.pid());
    let slow = "openat:delay_enter=4000000";
    let list = scene.bare(["list", "--json"]);
    let list = scene.spawn(injected_at(&scene, &path, slow, &list));
    let found = listed_by(list, &scene.path("state/first/gateway.pid"));
    assert_eq!(found["state"], "starting");
}

#[test]
fn the_table_has_one_line_for_each() {
    let scene = Scene::new();
    let holder = hold_named(&scene, "web");
    let output = scene.finish_command(scene.bare(["list"]));
    output.assert_code(0);
    let lines: Vec<&str> = output.stdout.lines().collect();
    let headings: Vec<&str> = lines[0].split_whitespace().collect();
    let expected = [
        "NAME", "STATE", "PID", "UP", "USER", "UNIT", "COMMAND", "PID", "FILE",
    ];
    assert_eq!(headings, expected);
    let line = lines
        .iter()
        .find(|line| line.starts_with("web "))
        .expect("a line");
    for word in ["held", &holder.pid().to_string(), "root", "sleep infinity"] {
        assert!(line.contains(word), "{word}: {line}");
    }
    assert!(
        line.ends_with(scene.path("state/web/gateway.pid").to_str().unwrap()),
        "{line}"
    );
}

#[test]
fn nothing_at_all_is_a_list_too() {
    let scene = Scene::new();
    let output = scene.finish_command(scene.bare(["list"]));
    output.assert_code(0);
    assert!(output.stdout.starts_with("NAME "), "{output:?}");
    assert_eq!(states(&scene), []);
}

#[test]
fn a_user_sees_what_is_its_own() {
    let scene = Scene::for_everybody();
    std::fs::create_dir(scene.path("state")).unwrap();
    std::os::unix::fs::chown(scene.path("state"), Some(65534), Some(65534)).unwrap();
    let roots = scene.hold();
    let command = scene.bare(["-n", "mine", "run", "--", "sleep", "infinity"]);
    let mine = scene.spawn(as_nobody(&scene, &command));
    let list = as_nobody(&scene, &scene.bare(["list", "--json"]));
    let listed = until("the holder is listed", SOON, || {
        let mut again = scene.command(list.get_program());
        again
            .args(list.get_args())
            .env("GATEWAY_STATE_DIR", scene.path("state"));
        let output = scene.finish_command(again);
        output.assert_code(0);
        // The file is there, and listed, before anybody holds it.
        let held = format!("\"holder\":{{\"pid\":{},", mine.pid());
        output.stdout.contains(&held).then_some(output.stdout)
    });
    assert!(listed.contains("state/mine/gateway.pid"), "{listed}");
    assert!(
        !listed.contains(&format!("\"pid\":{},", roots.pid())),
        "{listed}"
    );
    // Root sees both.
    let all = scene.finish_command(scene.bare(["list", "--json"])).stdout;
    for pid in [mine.pid(), roots.pid()] {
        assert!(all.contains(&format!("\"pid\":{pid},")), "{all}");
    }
}

/// It keeps the earlier file, in which the same record is, and locks a new one.
#[test]
fn one_whose_file_was_moved_away_is_listed_once() {
    let scene = Scene::new();
    let _elsewhere = scene.hold();
    let _named = hold_named(&scene, "web");
    for path in ["gateway.pid", "state/web/gateway.pid"].map(|path| scene.path(path)) {
        std::fs::rename(&path, path.with_extension("old")).unwrap();
        wait_until("it has a file again", SOON, || {
            std::fs::read_to_string(&path).is_ok_and(|text| text.contains("\"pid\""))
        });
    }
    assert_eq!(
        states(&scene),
        ["gateway.pid", "state/web/gateway.pid"].map(|path| (path.to_owned(), "held".to_owned()))
    );
}

/// The kernel's table of locks leaves out who is outside the reader's pid namespace.
#[test]
fn who_is_outside_the_pid_namespace_is_listed_as_status_sees_it() {
    let scene = Scene::new();
    let _held = hold_named(&scene, "held");
    let mut crashed = hold_named(&scene, "crashed");
    crashed.crash();
    for name in ["done", "locked"] {
        let command = scene.bare(["-n", name, "run", "--", "true"]);
        scene.finish_command(command).assert_code(0);
    }
    let _locker = Locker::on(&scene, &scene.path("state/locked/gateway.pid"));
    let list = in_pid_namespace(&scene, &scene.bare(["list", "--json"]));
    let expected = [
        ("state/crashed/gateway.pid", "crashed"),
        ("state/done/gateway.pid", "free"),
        ("state/held/gateway.pid", "invisible"),
        ("state/locked/gateway.pid", "invisible"),
    ];
    assert_eq!(
        states_among(&scene, &listed_through(&scene, list)),
        expected.map(|(path, state)| (path.to_owned(), state.to_owned()))
    );
}

/// A removed file's holder is found by its lock.
#[test]
fn a_holder_whose_file_is_gone_is_listed() {
    use crate::harness::{Signal, state};
    let scene = Scene::new();
    let holder = scene.hold();
    holder.signal(Signal::STOP);
    wait_until("it is stopped", SOON, || state(holder.pid()) == Some('T'));
    std::fs::remove_file(scene.pid_file()).unwrap();
    assert_eq!(
        states(&scene),
        [("gateway.pid".to_owned(), "removed".to_owned())]
    );
}

/// A name is what `-n` takes here and now: another place's file is none of ours.
#[test]
fn only_what_a_name_finds_has_a_name() {
    let scene = Scene::new();
    let space = MountSpace::new(&scene, "mount -t tmpfs tmpfs /var/lib");
    let ask = |words: &[&str], place: bool| {
        let mut command = space.command(&scene.bare(words));
        if !place {
            command.env_remove("GATEWAY_STATE_DIR");
        }
        scene.spawn(command)
    };
    let holder = ask(&["-n", "web", "run", "--", "sleep", "infinity"], false);
    let path = "/var/lib/gateway/web/gateway.pid";
    let pid = format!(" {} ", holder.pid());
    let line_of = |output: crate::harness::Output| {
        let mut lines = output.stdout.lines();
        lines.find(|line| line.contains(&pid)).map(str::to_owned)
    };
    let line = |place: bool| line_of(ask(&["list"], place).output());
    let own = until("it is listed", SOON, || line(false));
    assert!(own.starts_with("web ") && own.ends_with(path), "{own}");
    let other = line(true).unwrap();
    assert!(other.starts_with("- ") && other.ends_with(path), "{other}");
    // Here that path is another file's.
    let outside = until("it is listed outside", SOON, || {
        let mut command = scene.bare(["list"]);
        command.env_remove("GATEWAY_STATE_DIR");
        line_of(scene.finish_command(command))
    });
    let words: Vec<&str> = outside.split_whitespace().take(2).collect();
    assert_eq!(words, ["-", "held"], "{outside}");
}

/// Runs a script where no other gateway of the machine is seen, with a `/var/lib` of its own.
fn alone(scene: &Scene, script: &str) -> String {
    let mut command = scene.command("sh");
    let script = format!(
        "set -e\nmount -t tmpfs tmpfs /var/lib\nunset GATEWAY_STATE_DIR\n\
         held() {{ until \"$GATEWAY\" \"$@\" status | grep -q ^held; do sleep 0.01; done; }}\n\
         {script}\n"
    );
    command
        .args(["-c", &script])
        .env("GATEWAY", scene.program());
    let output = scene.finish_command(in_pid_namespace(scene, &command));
    output.assert_code(0);
    output.stdout
}

/// What is advised finds what it speaks of, here and now.
#[test]
fn the_other_gateways_are_named_by_what_finds_them() {
    let scene = Scene::new();
    let said = alone(
        &scene,
        "\"$GATEWAY\" -n web run -- sleep infinity &\nheld -n web\n\
         \"$GATEWAY\" status || true\n\
         GATEWAY_STATE_DIR=$SCENE/state \"$GATEWAY\" status || true",
    );
    let others: Vec<&str> = said
        .lines()
        .filter_map(|line| Some(line.split_once("other gateways run: ")?.1))
        .collect();
    assert_eq!(
        others,
        [
            "gateway -n web status",
            "gateway -f /var/lib/gateway/web/gateway.pid status"
        ],
        "{said}"
    );
}

#[test]
fn a_path_in_an_advice_can_be_typed() {
    let scene = Scene::new();
    let said = alone(
        &scene,
        "\"$GATEWAY\" -f 'a b/gateway.pid' run -- sleep infinity &\n\
         held -f 'a b/gateway.pid'\n\"$GATEWAY\" status || true",
    );
    let path = scene.path("a b/gateway.pid");
    let advice = format!("gateway -f '{}' status\n", path.display());
    assert!(said.contains(&advice), "{said}");
}

#[test]
fn a_list_of_one_is_refused() {
    let scene = Scene::new();
    for (words, one) in [
        (&["-n", "nosuch", "list"][..], "gateway -n nosuch status"),
        (&["list", "--json", "-f", "a b"], "gateway -f 'a b' status"),
    ] {
        let output = scene.finish_command(scene.bare(words));
        output
            .assert_code(2)
            .assert_says("list shows every gateway")
            .assert_says(one);
        assert_eq!(output.stdout, "");
    }
}

/// Below the layers there may be a program that answers nobody, and the kernel would ask it for us.
#[test]
fn what_a_user_has_laid_over_other_files_is_not_opened() {
    need("unshare", "util-linux");
    let scene = Scene::for_everybody();
    let space = scene.path("space");
    std::fs::create_dir(&space).unwrap();
    let hold = |folder: &str| {
        let script = format!(
            "set -e\nmount -t tmpfs tmpfs space\ncd space\nmkdir plain low up work layers\n\
             mount -t overlay -o lowerdir=low,upperdir=up,workdir=work,userxattr overlay layers\n\
             exec {} -f \"$PWD/{folder}/gateway.pid\" run -- sleep infinity\n",
            scene.program().display()
        );
        let mut command = scene.command("unshare");
        command.args(["-r", "-m", "sh", "-c", &script]);
        scene.spawn(as_nobody(&scene, &command))
    };
    let holders = ["plain", "layers"].map(hold);
    for holder in &holders {
        let pid = holder.pid();
        wait_until("it holds", SOON, || has_payload(pid));
    }
    let listed = listed(&scene);
    let is_listed = |pid: u32| listed.iter().any(|entry| entry["holder"]["pid"] == pid);
    assert_eq!(holders.map(|holder| is_listed(holder.pid())), [true, false]);
}

fn has_payload(pid: u32) -> bool {
    let read = |file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}"));
    let children = read(&format!("task/{pid}/children"));
    read("comm").is_ok_and(|name| name == "gateway\n")
        && children.is_ok_and(|children| !children.trim().is_empty())
}

/// The table of locks names its number, and /proc its start time: but they are those of this boot.
#[test]
fn the_locker_that_a_record_of_an_earlier_boot_names_is_a_stranger() {
    let scene = Scene::new();
    scene.write_named("web", "");
    let file = scene.path("state/web/gateway.pid");
    let locker = Locker::on(&scene, &file);
    let text = crate::people::record_naming(&file, locker.pid());
    std::fs::write(&file, &text).unwrap();
    let entry = |state: &str| ("state/web/gateway.pid".to_owned(), state.to_owned());
    assert_eq!(states(&scene), [entry("held")]);
    let text = text.replace(
        &crate::people::boot_id(),
        "00000000-0000-0000-0000-000000000000",
    );
    std::fs::write(&file, text).unwrap();
    assert_eq!(states(&scene), [entry("foreign")]);
}
