//! How the pid file is opened: as every kind of file that may lie there needs it.

use std::fs;

use crate::harness::{Call, End, Scene, Trace};

/// Every call that opens the pid file, in order, of `run -- true`; and every look at it before.
fn calls_at_the_path(scene: &Scene) -> Vec<Call> {
    let calls = "trace=open,openat,openat2,creat,lstat,newfstatat,statx";
    let command = scene.gateway(["run", "--", "true"]);
    let mut trace = Trace::start(scene, calls, &command);
    assert_eq!(trace.process.end(), End::Code(0));
    let path = format!("\"{}\"", scene.pid_file().display());
    let mut calls = trace.calls();
    calls.retain(|call| call.rest.contains(&path));
    calls
}

fn opens(calls: &[Call]) -> Vec<&Call> {
    let opens = calls
        .iter()
        .filter(|call| call.name.starts_with("open") || call.name == "creat");
    opens.collect()
}

/// Each flag ends an outage: wolfSSL/wolfssh#1074 (a link's target was truncated, a FIFO blocked
/// for ever), MaterializeInc/materialize#12050 (a child kept the lock), and
/// thin-edge/thin-edge.io#1740: with `fs.protected_regular`, O_CREAT on another user's file in a
/// sticky directory is refused even to root. That setting is the whole machine's and is not touched
/// here: that O_CREAT is never there for a file that exists is the proof.
#[test]
fn an_existing_file_is_opened_with_every_care_and_never_created() {
    let scene = Scene::new();
    fs::write(scene.pid_file(), "").unwrap();
    let calls = calls_at_the_path(&scene);
    let opens = opens(&calls);
    assert!(!opens.is_empty());
    for call in opens {
        for flag in ["O_RDWR", "O_NOFOLLOW", "O_CLOEXEC", "O_NONBLOCK"] {
            assert!(call.rest.contains(flag), "no {flag}: {call:?}");
        }
        assert!(!call.rest.contains("O_CREAT"), "{call:?}");
        assert!(!call.rest.contains("O_TRUNC"), "{call:?}");
    }
}

#[test]
fn a_missing_file_is_created_by_one_of_all_who_try() {
    let scene = Scene::new();
    let calls = calls_at_the_path(&scene);
    assert!(
        !calls[0].rest.contains("O_CREAT") && calls[0].rest.contains("ENOENT"),
        "it looks first: {calls:#?}"
    );
    let created: Vec<&Call> = opens(&calls)
        .into_iter()
        .filter(|call| call.rest.contains("O_CREAT"))
        .collect();
    assert_eq!(created.len(), 1, "{calls:#?}");
    for flag in ["O_RDWR", "O_EXCL", "O_NOFOLLOW", "O_CLOEXEC", "0600"] {
        assert!(created[0].rest.contains(flag), "no {flag}: {created:?}");
    }
}
