//! On a terminal, under real shells, with somebody typing.

use std::fs;
use std::time::Duration;

use crate::harness::{
    End, Payload, Process, SOON, Scene, Signal, Terminal, exists, stat_field, state, until,
    wait_until,
};
use crate::kit::{assert_stays, marked_pid};

const BASH: &[&str] = &["bash", "--norc", "--noprofile", "-i"];

/// How a run comes to its end, and its name in the output.
type Ending = (&'static str, fn(&Scene));

/// A person before a shell.
struct Desk {
    terminal: Terminal,
    shell: Process,
    scene: Scene,
}

impl Desk {
    fn bash() -> Self {
        let scene = Scene::new();
        // Short words to type.
        std::os::unix::fs::symlink(scene.program(), scene.path("gateway")).unwrap();
        let terminal = Terminal::open();
        let shell = terminal.shell(&scene, BASH);
        Self {
            terminal,
            shell,
            scene,
        }
    }

    /// Types a line in which `%` is a payload and `run` our program with its pid file.
    fn type_line(&self, line: &str, payload: Payload<'_>) {
        let line = line
            .replace("run", "./gateway -f gateway.pid run")
            .replace('%', &self.scene.payload(payload));
        self.terminal.type_line(&line);
    }

    /// The holder's pid, once its payload runs.
    #[track_caller]
    fn holder(&self) -> u32 {
        let record = self.scene.wait_for_record("a holder", |record| {
            record.has_payload() && !record.is_ended()
        });
        let payload = record.payload_pid();
        wait_until("the payload runs", SOON, || {
            self.scene.started_payloads().contains(&payload)
        });
        record.pid()
    }

    /// What the shell says of the last command. It has to be at its prompt, or soon come to it.
    #[track_caller]
    fn code(&self) -> String {
        let _ = fs::remove_file(self.scene.path("code"));
        self.terminal
            .type_line("echo $? >code.new; mv code.new code");
        until("the shell's answer", SOON, || {
            self.scene.lines("code").first().cloned()
        })
    }

    #[track_caller]
    fn wait_until_stopped(&self, pid: u32) {
        wait_until(&format!("pid {pid} is stopped"), SOON, || {
            state(pid) == Some('T')
        });
    }

    fn finish(&self, args: &[&str]) -> crate::harness::Output {
        self.scene.finish(args)
    }

    fn enough(&self) {
        fs::write(self.scene.path("enough"), "").unwrap();
    }

    #[track_caller]
    fn heard(&self, expected: &[&str]) {
        wait_until(&format!("{expected:?} is heard"), SOON, || {
            self.scene.lines("heard").len() >= expected.len()
        });
        assert_eq!(self.scene.lines("heard"), expected);
    }
}

/// The terminal's driver signals the whole group: what we passed on would come twice.
#[test]
fn keys_reach_the_command_once() {
    let desk = Desk::bash();
    desk.type_line("run -- %", Payload::Listener);
    let holder = desk.holder();
    desk.scene.wait_for_mark("ready");
    desk.terminal.ctrl_backslash();
    desk.heard(&["QUIT"]);
    let screen = fs::read_link(format!("/proc/{holder}/fd/0")).unwrap();
    let mut resize = desk.scene.command("stty");
    resize.arg("-F").arg(&screen).args(["rows", "33"]);
    desk.scene.finish_command(resize).assert_code(0);
    desk.heard(&["QUIT", "WINCH"]);
    desk.terminal.ctrl_c();
    desk.heard(&["QUIT", "WINCH", "INT"]);
    // One that did not come from the terminal is passed on.
    crate::harness::signal(holder, Signal::USR1);
    desk.heard(&["QUIT", "WINCH", "INT", "USR1"]);
    desk.enough();
    assert_eq!(desk.code(), "0");
    assert_eq!(
        desk.scene.lines("heard").len(),
        4,
        "{:?}",
        desk.scene.lines("heard")
    );
    let record = desk.scene.record();
    assert_eq!(record.text("/reason"), "stopped");
}

#[test]
fn ctrl_c_ends_the_script_that_calls_us() {
    for shell in ["bash", "dash"] {
        let desk = Desk::bash();
        let payload = desk.scene.payload(Payload::Plain);
        let text = format!(
            "for i in 1 2 3; do ./gateway -f gateway.pid run -- {payload} && echo more; done\necho over >over\n"
        );
        fs::write(desk.scene.path("loop"), text).unwrap();
        desk.terminal.type_line(&format!("{shell} loop"));
        desk.holder();
        desk.terminal.ctrl_c();
        assert_eq!(desk.code(), "130", "{shell}");
        assert_eq!(desk.scene.started_payloads().len(), 1);
        assert!(!desk.scene.path("over").exists());
    }
}

/// Before the fork nobody but us hears the key; after it the command hears it as well.
#[test]
fn ctrl_c_at_any_moment_of_the_start_leaves_nothing_running() {
    let scene = Scene::new();
    let payload = scene.payload(Payload::Plain);
    let script = format!(
        "echo go; exec {} -f gateway.pid run -- {payload}",
        scene.program().display()
    );
    let mut command = scene.command("sh");
    command.args(["-c", &script]);
    let mut steps = 0..150;
    // Dense where the start is, and as late at last as a busy machine needs.
    while steps.start < 60 || scene.started_payloads().is_empty() {
        let step: u64 = steps.next().expect("some come late enough");
        let terminal = Terminal::open();
        let mut start = terminal.start(&scene, &command);
        terminal.wait_for("go");
        let delay = Duration::from_micros(step * step * 20);
        std::thread::sleep(delay);
        terminal.ctrl_c();
        assert_eq!(start.end(), End::of(Signal::INT), "after {delay:?}");
        assert_eq!(scene.members(), [0; 0]);
    }
    scene.assert_never_two_payloads();
}

/// NousResearch/hermes-agent#2178: a suspended gateway blocked everything.
#[test]
fn a_suspended_gateway_can_be_stopped_and_replaced_from_elsewhere() {
    for how in [&["stop"][..], &["run", "--replace", "--", "true"]] {
        let desk = Desk::bash();
        desk.type_line("run -- %", Payload::Graceful);
        let holder = desk.holder();
        desk.scene.wait_for_mark("ready");
        desk.terminal.ctrl_z();
        desk.wait_until_stopped(holder);
        desk.finish(how).assert_code(0);
        assert!(!exists(holder));
        assert_eq!(desk.scene.lines("marks"), ["ready", "stopped by TERM"]);
        desk.scene.assert_never_two_payloads();
    }
}

/// A job in the background that reads is stopped, and we with it, so that the shell sees it.
#[test]
fn a_reader_in_the_background_is_stopped_and_brought_back() {
    let desk = Desk::bash();
    let reader = "read -r line\necho \"got $line\" >>\"$SCENE/marks\"\n";
    desk.type_line("run -- % &", Payload::Script(reader));
    let holder = desk.holder();
    desk.wait_until_stopped(holder);
    desk.wait_until_stopped(desk.scene.record().payload_pid());
    desk.terminal.type_line("fg");
    wait_until("it goes on", SOON, || state(holder) == Some('S'));
    desk.terminal.type_line("late words");
    desk.scene.wait_for_mark("got late words");
    assert_eq!(desk.code(), "0");
}

/// NousResearch/hermes-agent#35240: what becomes of it when the window is closed.
#[test]
fn a_closed_terminal_is_an_ordered_stop_wherever_we_stand() {
    for line in [
        "(run -- %)",
        "run -- % | cat",
        "sh -c \"run -- %; echo more\"",
        "exec run -- %",
    ] {
        eprintln!("{line}");
        let Desk {
            terminal,
            shell: _shell,
            scene,
        } = {
            let desk = Desk::bash();
            desk.type_line(line, Payload::Graceful);
            desk.holder();
            desk.scene.wait_for_mark("ready");
            desk
        };
        terminal.hang_up();
        let record = scene.wait_for_record("the end", crate::harness::Record::is_ended);
        assert_eq!(record.text("/reason"), "stopped");
        assert_eq!(record.number("/exit/code"), 0);
        scene.wait_for_mark("stopped by HUP");
        scene.wait_until_empty();
        let next = scene.finish(["run", "--", "true"]);
        next.assert_code(0).assert_silent();
    }
}

/// As under ssh(1) or a terminal emulator: no shell above us, and a command that does not listen.
#[test]
fn the_leader_of_a_session_takes_a_deaf_command_with_it() {
    let scene = Scene::new();
    let terminal = Terminal::open();
    let payload = scene.payload(Payload::Deaf);
    let options = ["run", "--stop-timeout", "500ms", "--", payload.as_str()];
    let mut leader = terminal.start(&scene, &scene.gateway(options));
    scene.wait_for_mark("deaf");
    scene.wait_for_record("the payload", crate::harness::Record::has_payload);
    terminal.hang_up();
    assert_eq!(leader.end(), End::of(Signal::HUP));
    assert!(scene.record().is_ended());
    scene.wait_until_empty();
}

/// It has something to say, and nobody to say it to.
#[test]
fn a_disowned_job_goes_on_without_its_terminal() {
    let desk = Desk::bash();
    desk.type_line("run -- % & disown -h", Payload::Plain);
    let holder = desk.holder();
    let Desk {
        terminal,
        mut shell,
        scene,
    } = desk;
    terminal.hang_up();
    shell.end();
    fs::remove_file(scene.pid_file()).unwrap();
    let back = scene.wait_for_record("it is put back", |record| record.pid() == holder);
    assert!(exists(holder) && exists(back.payload_pid()));
    scene.finish(["stop"]).assert_code(0);
    scene.wait_until_empty();
}

/// The kernel sends HUP and CONT to a stopped job whose shell has gone (setpgid(2), "orphaned").
#[test]
fn a_suspended_gateway_whose_shell_is_killed_stops_in_order() {
    let mut desk = Desk::bash();
    desk.type_line("run -- %", Payload::Graceful);
    let holder = desk.holder();
    desk.scene.wait_for_mark("ready");
    desk.terminal.ctrl_z();
    desk.wait_until_stopped(holder);
    desk.shell.crash();
    let record = desk
        .scene
        .wait_for_record("the end", crate::harness::Record::is_ended);
    assert_eq!(record.text("/reason"), "stopped");
    desk.scene.wait_until_empty();
}

/// A shell without job control starts `&` with INT and QUIT ignored: so it is for us, too.
#[test]
fn an_asynchronous_command_of_a_script_does_not_hear_ctrl_c() {
    let desk = Desk::bash();
    let payload = desk.scene.payload(Payload::Graceful);
    let text = format!("./gateway -f gateway.pid run -- {payload} &\nwait\n");
    fs::write(desk.scene.path("script"), text).unwrap();
    desk.terminal.type_line("sh script");
    let holder = desk.holder();
    desk.scene.wait_for_mark("ready");
    desk.terminal.ctrl_c();
    assert_eq!(desk.code(), "130", "the script has gone");
    assert!(exists(holder));
    desk.finish(&["run", "--", "true"]).assert_code(80);
    assert_eq!(desk.scene.lines("marks"), ["ready"]);
    desk.finish(&["stop"]).assert_code(0);
    assert_eq!(desk.scene.lines("marks"), ["ready", "stopped by TERM"]);
}

/// It makes groups of its own, takes the terminal, and gives it back.
#[test]
fn an_interactive_shell_can_be_the_command() {
    let desk = Desk::bash();
    let inner = "exec bash --norc --noprofile -i\n";
    desk.type_line("run -- %", Payload::Script(inner));
    let holder = desk.holder();
    desk.terminal.type_line("echo inner $$ >>marks");
    let shell = marked_pid(&desk.scene, "inner");
    assert_eq!(shell, desk.scene.record().payload_pid());
    for key in ["\x03", "\x1a"] {
        desk.terminal
            .type_line("sh -c 'echo job $$ >>marks; exec sleep 1000'");
        let job = marked_pid(&desk.scene, "job");
        wait_until("it sleeps", SOON, || {
            fs::read(format!("/proc/{job}/comm")).is_ok_and(|name| name == b"sleep\n")
        });
        desk.terminal.type_text(key);
        // The key was the job's alone: the shell answers.
        assert_eq!(desk.code(), if key == "\x03" { "130" } else { "148" });
        assert!(exists(shell) && exists(holder));
        fs::remove_file(desk.scene.path("marks")).unwrap();
    }
    // The first time it warns of the stopped job.
    desk.terminal.type_line("exit 5");
    desk.terminal.type_line("exit 5");
    desk.scene
        .wait_for_record("the end", crate::harness::Record::is_ended);
    assert_eq!(desk.code(), "5");
    assert!(!exists(holder));
}

#[test]
fn ctrl_c_and_then_closing_the_window_blocks_no_next_start() {
    let Desk {
        terminal,
        shell: _shell,
        scene,
    } = {
        let desk = Desk::bash();
        desk.type_line("run -- %", Payload::Slow("1"));
        desk.holder();
        desk.scene.wait_for_mark("ready");
        desk.terminal.ctrl_c();
        desk.scene.wait_for_mark("stopped by INT");
        desk
    };
    terminal.hang_up();
    let plain = scene.payload(Payload::Script("exit 0\n"));
    // Behind whatever drains there still.
    scene.finish(["run", "--wait", "--", &plain]).assert_code(0);
    scene.assert_never_two_payloads();
    scene.wait_until_empty();
}

/// The group is the script's, not ours: nobody in it but COMMAND is ever signalled.
#[test]
fn the_group_of_a_script_on_a_terminal_never_hears_a_signal_of_ours() {
    let ends: [Ending; 2] = [
        ("replace", |scene| {
            scene
                .finish(["run", "--replace", "--", "true"])
                .assert_code(0);
        }),
        ("crash", |scene| {
            let holder = scene.record().pid();
            crate::harness::kill(holder);
            scene.finish(["run", "--", "true"]).assert_code(0);
        }),
    ];
    for (what, end) in ends {
        eprintln!("{what}");
        let scene = Scene::new();
        let terminal = Terminal::open();
        let payload = scene.payload(Payload::Script(
            "sleep infinity &\ntrap '' TERM INT HUP\necho deaf >>\"$SCENE/marks\"\nwhile :; do sleep 0.1; done\n",
        ));
        let gateway = scene.program().to_str().unwrap();
        let text = format!(
            "for s in TERM INT HUP CONT QUIT USR1; do trap \"echo $s >>\\\"$SCENE/heard\\\"\" $s; done\n\
             sh -c 'for s in TERM INT HUP CONT QUIT USR1; do trap \"echo beside $s >>\\\"$SCENE/heard\\\"\" $s; done\n\
                    while :; do sleep 0.05; done' & echo \"beside $!\" >>\"$SCENE/marks\"\n\
             {gateway} -f gateway.pid run --stop-timeout 300ms -- {payload}\n\
             echo \"after $?\" >>\"$SCENE/marks\"\n\
             while [ ! -e \"$SCENE/enough\" ]; do sleep 0.05; done\n"
        );
        scene.script(&scene.path("script"), &format!("#!/bin/bash\n{text}"));
        let mut script = terminal.start(&scene, &scene.command(scene.path("script")));
        scene.wait_for_mark("deaf");
        let record = scene.wait_for_record("the payload", crate::harness::Record::has_payload);
        let beside = marked_pid(&scene, "beside");
        let group = |pid: u32| stat_field(pid, 5).expect("a group");
        for pid in [record.pid(), record.payload_pid(), beside] {
            assert_eq!(
                group(pid),
                script.pid().to_string(),
                "one group with the script"
            );
        }
        end(&scene);
        until("the script goes on", SOON, || {
            scene
                .lines("marks")
                .iter()
                .find(|line| line.starts_with("after "))
                .cloned()
        });
        assert_eq!(scene.lines("heard"), Vec::<String>::new(), "{what}");
        assert!(exists(beside) && script.is_running());
        fs::write(scene.path("enough"), "").unwrap();
        assert_eq!(script.end(), End::Code(0));
    }
}

/// Without a terminal the payload has a group of its own, and we signal no group at all.
#[test]
fn the_group_of_a_script_without_a_terminal_never_hears_a_signal_of_ours() {
    let scene = Scene::new();
    let payload = scene.payload(Payload::Deaf);
    let gateway = scene.program().to_str().unwrap();
    let text = format!(
        "#!/bin/sh\nfor s in TERM INT HUP CONT; do trap \"echo $s >>\\\"$SCENE/heard\\\"\" $s; done\n\
         {gateway} -f gateway.pid run --stop-timeout 300ms -- {payload}\n\
         echo \"after $?\" >>\"$SCENE/marks\"\n"
    );
    scene.script(&scene.path("script"), &text);
    let mut script = scene.spawn(scene.command(scene.path("script")));
    scene.wait_for_mark("deaf");
    let record = scene.wait_for_record("the payload", crate::harness::Record::has_payload);
    let group = |pid: u32| stat_field(pid, 5).expect("a group");
    assert_eq!(
        group(record.payload_pid()),
        record.payload_pid().to_string()
    );
    assert_ne!(group(record.pid()), group(record.payload_pid()));
    scene.finish(["stop"]).assert_code(0);
    assert_eq!(script.end(), End::Code(0));
    assert_eq!(scene.lines("heard"), Vec::<String>::new());
    scene.wait_for_mark("after 143");
}

/// The reader has gone: COMMAND dies of SIGPIPE as it would without us.
#[test]
fn a_pipeline_whose_reader_goes_ends() {
    let scene = Scene::new();
    let gateway = scene.program().to_str().unwrap();
    let script =
        format!("{gateway} -f gateway.pid run -- yes | head -n 1; echo \"${{PIPESTATUS[@]}}\"");
    let mut bash = scene.command("bash");
    bash.args(["-c", &script]);
    let output = scene.finish_command(bash);
    output.assert_code(0);
    assert_eq!(output.stdout, "y\n141 0\n");
    assert_eq!(output.stderr, "");
}

#[test]
fn ctrl_c_ends_a_wait_on_a_terminal() {
    let desk = Desk::bash();
    let mut holder = desk.scene.hold();
    let before = desk.scene.footprint();
    desk.type_line("run --wait -- %", Payload::Plain);
    desk.terminal.wait_for("standing by behind");
    desk.terminal.ctrl_c();
    assert_eq!(desk.code(), "130");
    assert_eq!(desk.scene.footprint(), before);
    assert_stays(&mut holder, Duration::from_millis(50));
    assert_eq!(desk.scene.started_payloads().len(), 1);
    // A start that goes well prints nothing in a terminal.
    holder.signal(Signal::TERM);
    holder.end();
    desk.type_line("clear_marker=1; run -- true", Payload::Plain);
    assert_eq!(desk.code(), "0");
    let screen = desk.terminal.screen();
    let (_, after) = screen.rsplit_once("clear_marker=1").unwrap();
    assert!(!after.contains("gateway: "), "{after:?}");
}
