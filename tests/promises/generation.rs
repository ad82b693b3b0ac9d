//! `generation`: a number that only grows, so that whoever is given two can tell the later one.

use std::fs;

use serde_json::Value;

use crate::harness::{End, Payload, SOON, Scene, Signal, until};

/// What a run is given, and what its record says.
fn next(scene: &Scene) -> u64 {
    let script =
        r#"echo "$GATEWAY_GENERATION" >"$SCENE/given.new"; mv "$SCENE/given.new" "$SCENE/given""#;
    let payload = scene.payload(Payload::Script(script));
    let _ = fs::remove_file(scene.path("given"));
    let mut run = scene.start(["run", "--", &payload]);
    assert_eq!(run.end(), End::Code(0), "{}", run.stderr());
    let given = until("a generation", SOON, || {
        scene.lines("given").first()?.parse().ok()
    });
    assert_eq!(scene.record().number("/generation"), given);
    given
}

fn microseconds() -> u64 {
    let now = std::time::SystemTime::now();
    let since = now.duration_since(std::time::UNIX_EPOCH).unwrap();
    u64::try_from(since.as_micros()).unwrap()
}

#[test]
fn it_grows_from_run_to_run_whatever_happens_to_the_file() {
    let scene = Scene::new();
    let before = microseconds();
    let mut last = next(&scene);
    assert!(
        (before..=microseconds()).contains(&last),
        "{last} is no time of now"
    );
    let between: [(&str, &dyn Fn()); 7] = [
        ("an ordered end", &|| {}),
        ("a crash", &|| scene.hold().crash()),
        ("junk", &|| fs::write(scene.pid_file(), "junk").unwrap()),
        ("an empty file", &|| {
            fs::write(scene.pid_file(), "").unwrap()
        }),
        ("a bare number", &|| {
            fs::write(scene.pid_file(), "77\n").unwrap()
        }),
        ("an old record", &|| {
            fs::write(
                scene.pid_file(),
                r#"{"pid":77,"start_time":5,"argv":["x"]}"#,
            )
            .unwrap();
        }),
        ("a removed file", &|| {
            fs::remove_file(scene.pid_file()).unwrap()
        }),
    ];
    for (what, happens) in between {
        happens();
        let generation = next(&scene);
        assert!(generation > last, "{what}: {generation} after {last}");
        last = generation;
    }
}

/// Writes a record of a run that has ended, of this generation.
fn pretend(scene: &Scene, generation: u64) {
    let mut json: Value = scene.record().json;
    json["generation"] = generation.into();
    fs::write(scene.pid_file(), format!("\n{json}\n")).unwrap();
}

/// A clock that was set back makes the last number one of the future.
#[test]
fn it_grows_where_the_clock_was_set_back() {
    let scene = Scene::new();
    next(&scene);
    let future = microseconds() + 400 * 24 * 3600 * 1_000_000;
    pretend(&scene, future);
    assert_eq!(next(&scene), future + 1);
    assert_eq!(next(&scene), future + 2);
    scene.hold().crash();
    assert_eq!(next(&scene), future + 4);
}

/// 2^53 is as far as every reader of JSON can count.
#[test]
fn a_number_that_cannot_be_counted_on_is_no_generation() {
    let scene = Scene::new();
    for wrong in [
        "9007199254740993",
        "18446744073709551615",
        "-5",
        "1.5",
        "\"7\"",
    ] {
        next(&scene);
        let text = fs::read_to_string(scene.pid_file()).unwrap();
        let own = scene.record().number("/generation").to_string();
        fs::write(scene.pid_file(), text.replace(&own, wrong)).unwrap();
        let before = microseconds();
        let generation = next(&scene);
        assert!(
            (before..=microseconds()).contains(&generation),
            "{wrong}: {generation}"
        );
    }
}

#[test]
fn it_stays_as_it_is_for_the_length_of_a_run() {
    let scene = Scene::new();
    let mut holder = scene.hold();
    let given = scene.generations()[0];
    assert_eq!(scene.record().number("/generation"), given);
    fs::remove_file(scene.pid_file()).unwrap();
    let back = scene.wait_for_record("it is put back", |record| record.pid() == holder.pid());
    assert_eq!(back.number("/generation"), given);
    holder.signal(Signal::TERM);
    holder.end();
    assert_eq!(scene.record().number("/generation"), given);
}
