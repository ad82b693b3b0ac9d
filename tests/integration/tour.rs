//! The README's tour, typed line by line into an interactive bash.

use std::fs;
use std::path::PathBuf;

use crate::harness::{SOON, Scene, Terminal, until, wait_until};

/// The commands of the README's first block after this heading, without their comments.
fn block_after(heading: &str) -> Vec<String> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let text = fs::read_to_string(&path).expect("the README");
    let (_, rest) = text.split_once(heading).expect("the heading");
    let (_, rest) = rest.split_once("```sh\n").expect("a block");
    let (block, _) = rest.split_once("```").expect("its end");
    let without_comment = |line: &str| line.split("  #").next().unwrap_or(line).trim().to_owned();
    block.lines().map(without_comment).collect()
}

#[test]
fn the_tour_is_as_the_readme_tells_it() {
    let lines = block_after("## A two-minute tour");
    assert_eq!(lines.len(), 7, "{lines:?}");
    let scene = Scene::new();
    std::os::unix::fs::symlink(scene.program(), scene.path("bin/gateway")).unwrap();
    let terminal = Terminal::open();
    let mut shell = terminal.shell(&scene, &["bash", "--norc", "--noprofile", "-i"]);
    terminal.type_line("PATH=$PWD/bin:$PATH");
    let held = || {
        let status = scene
            .finish_command(scene.bare(["-n", "demo", "status"]))
            .stdout;
        status.starts_with("held").then_some(status)
    };
    terminal.type_line(&lines[0]);
    until("the first one holds", SOON, held);
    terminal.type_line(&lines[1]);
    terminal.wait_for("held: pid ");
    terminal.type_line(&format!("{}; echo code=$?", lines[2]));
    terminal.wait_for("gateway: held by pid ");
    terminal.wait_for("code=80");
    // `kill` does not wait for the end of what it kills.
    let (kill, status) = lines[3].split_once("; ").expect("two commands in one line");
    terminal.type_line(kill);
    wait_until("it has let go", SOON, || held().is_none());
    terminal.type_line(status);
    terminal.wait_for("crashed: pid ");
    terminal.type_line(&lines[4]);
    until("it is up at the first try", SOON, || {
        held()?.contains("sleep 602").then_some(())
    });
    terminal.type_line(&lines[5]);
    terminal.wait_for_times("held: pid ", 2);
    terminal.type_line(&format!("{}; echo over=$?", lines[6]));
    terminal.wait_for("over=0");
    wait_until("it is free", SOON, || held().is_none());
    terminal.type_line("exit");
    shell.end();
}

/// A block that is copied is copied whole: no line may come too early for the one before it.
#[test]
fn the_tour_can_be_pasted_as_a_whole() {
    let lines = block_after("## A two-minute tour");
    let scene = Scene::new();
    std::os::unix::fs::symlink(scene.program(), scene.path("bin/gateway")).unwrap();
    let terminal = Terminal::open();
    let mut shell = terminal.shell(&scene, &["bash", "--norc", "--noprofile", "-i"]);
    terminal.type_line("PATH=$PWD/bin:$PATH");
    terminal.type_text(&(lines.join("\n") + "\necho over=$?; exit\n"));
    terminal.wait_for("\nover=0");
    shell.end();
    let screen = terminal.screen();
    for (text, times) in [
        ("held: pid ", 2),
        ("gateway: held by pid ", 1),
        ("gateway: asked pid ", 1),
        ("nothing to stop", 0),
    ] {
        assert_eq!(screen.matches(text).count(), times, "{text:?}: {screen}");
    }
}
