//! `list`: every gateway that can be seen, and every file in the caller's place.

use serde_json::Value;

use crate::harness::{Locker, Process, SOON, Scene, as_nobody, until, wait_until};

fn listed(scene: &Scene) -> Vec<Value> {
    let output = scene.finish_command(scene.bare(["list", "--json"]));
    output.assert_code(0);
    assert_eq!(output.stdout.lines().count(), 1);
    serde_json::from_str(&output.stdout).unwrap()
}

/// The entries of this scene's files, by the end of their path.
fn states(scene: &Scene) -> Vec<(String, String)> {
    let root = scene.path("");
    listed(scene)
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
    let of = |name: &str, state: &str| (format!("state/{name}/gateway.pid"), state.to_owned());
    assert_eq!(
        states(&scene),
        [
            of("crashed", "crashed"),
            of("done", "free"),
            of("foreign", "foreign"),
            of("held", "held")
        ]
    );
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
