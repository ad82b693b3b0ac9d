//! What a service manager hears, at a socket of our own. (With a real one: tests/systemd.)

use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::harness::{
    End, Locker, Payload, SOON, Scene, Signal, as_nobody, set_mode, state, wait_until,
};

/// The near end of `$NOTIFY_SOCKET`.
struct Listener {
    socket: UnixDatagram,
    heard: Vec<String>,
}

impl Listener {
    fn new(scene: &Scene) -> Self {
        let socket = UnixDatagram::bind(scene.path("notify")).unwrap();
        socket.set_nonblocking(true).unwrap();
        Self {
            socket,
            heard: Vec::new(),
        }
    }

    /// The command, told where we listen, and to answer a watchdog.
    fn tell(scene: &Scene, mut command: Command) -> Command {
        command
            .env("NOTIFY_SOCKET", scene.path("notify"))
            .env("WATCHDOG_USEC", "30000000");
        command
    }

    fn listen(&mut self) {
        let mut buffer = [0; 4096];
        while let Ok(length) = self.socket.recv(&mut buffer) {
            let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
            self.heard.push(text);
        }
    }

    /// Waits until a message has this text.
    #[track_caller]
    fn wait_for(&mut self, text: &str) {
        let deadline = Instant::now() + SOON;
        loop {
            self.listen();
            if self.heard.iter().any(|heard| heard.contains(text)) {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "no word of {text:?}: {:#?}",
                self.heard
            );
            std::thread::sleep(Duration::from_millis(3));
        }
    }
}

/// The queue of a service manager is short: what is unsent at the exec would be lost for good, and
/// a service that never said READY is killed.
#[test]
fn ready_is_sent_before_exec_though_the_queue_is_full() {
    let scene = Scene::new();
    let mut listener = Listener::new(&scene);
    let filler = UnixDatagram::unbound().unwrap();
    filler.set_nonblocking(true).unwrap();
    while filler.send_to(b"full", scene.path("notify")).is_ok() {}
    let payload = scene.payload(Payload::Plain);
    let command = scene.gateway(["run", "--exec", "--", &payload]);
    let mut process = scene.spawn(Listener::tell(&scene, command));
    scene.wait_for_record("the lock is held", |record| record.pid() == process.pid());
    // Not a wait for something: the time in which it must not become the command.
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(scene.started_payloads(), [0; 0]);
    listener.wait_for("READY=1");
    wait_until("it became the command", SOON, || {
        scene.started_payloads() == [process.pid()]
    });
    process.signal(Signal::TERM);
    process.end();
}

/// Nobody reads at all: the command is not held up for ever.
#[test]
fn a_service_manager_that_reads_nothing_does_not_keep_exec_from_its_command() {
    let scene = Scene::new();
    let _listener = Listener::new(&scene);
    let filler = UnixDatagram::unbound().unwrap();
    filler.set_nonblocking(true).unwrap();
    while filler.send_to(b"full", scene.path("notify")).is_ok() {}
    let command = scene.gateway(["run", "--exec", "--", "true"]);
    let output = scene.finish_command(Listener::tell(&scene, command));
    output.assert_code(0);
    assert!(output.took < Duration::from_secs(8), "{output:?}");
}

/// After --exec nobody is left to answer; before, it is the gateway that answers.
#[test]
fn the_warning_about_a_watchdog_is_true() {
    let scene = Scene::new();
    let _listener = Listener::new(&scene);
    let said = |options: &[&str]| {
        let command = ["--", "true"];
        let words = ["run"].iter().chain(options).chain(&command);
        let output = scene.finish_command(Listener::tell(&scene, scene.gateway(words)));
        output.assert_code(0);
        output.stderr
    };
    let (watched, alone) = (said(&[]), said(&["--exec"]));
    assert!(watched.contains("watches this gateway, not COMMAND"));
    assert!(
        alone.contains("nobody will answer the watchdog") && !alone.contains("watches this"),
        "{alone}"
    );
    for options in [
        &["--notify", "payload"][..],
        &["--exec", "--notify", "payload"],
    ] {
        assert_eq!(said(options), "", "{options:?}");
    }
}

/// sd_watchdog_enabled(3) asks for no socket: who cannot answer must not think that it has to.
#[test]
fn a_command_that_may_not_notify_hears_of_no_watchdog() {
    let scene = Scene::new();
    let _listener = Listener::new(&scene);
    let script = "env | grep -E '^(NOTIFY_SOCKET|WATCHDOG_)' | cut -d= -f1 | sort; true";
    let sees = |options: &[&str]| {
        let command = ["--", "sh", "-c", script];
        let words = ["run"].iter().chain(options).chain(&command);
        let mut shell = scene.command("sh");
        // The number becomes the gateway's, as a service manager would say it.
        shell
            .args(["-c", "WATCHDOG_PID=$$ exec \"$@\"", "sh"])
            .arg(scene.program())
            .args(words);
        let output = scene.finish_command(Listener::tell(&scene, shell));
        output.assert_code(0);
        output.stdout
    };
    let all = "NOTIFY_SOCKET\nWATCHDOG_USEC\n";
    assert_eq!(sees(&[]), "");
    assert_eq!(sees(&["--exec"]), "");
    assert_eq!(sees(&["--notify", "payload"]), all);
    assert_eq!(sees(&["--exec", "--notify", "payload"]), all);
}

// ---------------------------------------------------------------- STATUS=

#[test]
fn what_a_command_left_and_what_is_killed_is_told() {
    let scene = Scene::new();
    let mut listener = Listener::new(&scene);
    let script = "(trap '' TERM; echo ready >>\"$SCENE/marks\"; while :; do sleep 0.1; done) &\n\
        until grep -q ready \"$SCENE/marks\"; do sleep 0.01; done\nexit 0\n";
    let payload = scene.payload(Payload::Script(script));
    let words = ["run", "--stop-timeout", "300ms", "--", &payload];
    let command = scene.gateway(words);
    scene
        .finish_command(Listener::tell(&scene, command))
        .assert_code(0);
    listener.wait_for("STATUS=running pid");
    listener.wait_for("STATUS=COMMAND has ended and left ");
    listener.wait_for("STATUS=time is over: sent SIGKILL to ");
    listener.wait_for("STATUS=COMMAND ended, exit 0");
}

#[test]
fn a_pid_file_in_other_hands_is_told() {
    let scene = Scene::new();
    let mut listener = Listener::new(&scene);
    let payload = scene.payload(Payload::Plain);
    let command = scene.gateway(["run", "--", &payload]);
    let holder = scene.spawn(Listener::tell(&scene, command));
    let mut holder = scene.wait_for_payload(holder);
    listener.wait_for("READY=1\nSTATUS=running pid");
    std::fs::write(scene.path("other"), "").unwrap();
    let locker = Locker::on(&scene, &scene.path("other"));
    std::fs::rename(scene.path("other"), scene.pid_file()).unwrap();
    listener.wait_for("STATUS=somebody replaced the pid file; waiting");
    listener.heard.clear();
    drop(locker);
    listener.wait_for("STATUS=running pid");
    holder.signal(Signal::TERM);
    assert_eq!(holder.end(), End::of(Signal::TERM));
    listener.wait_for("STATUS=stopping on TERM");
}

#[test]
fn a_lost_pid_file_is_told() {
    let scene = Scene::for_everybody();
    set_mode(&scene.path(""), 0o777);
    let mut listener = Listener::new(&scene);
    let payload = scene.payload(Payload::Plain);
    let command = scene.gateway(["run", "--", &payload]);
    let holder = scene.spawn(Listener::tell(&scene, command));
    let mut holder = scene.wait_for_payload(holder);
    holder.signal(Signal::STOP);
    wait_until("it is stopped", SOON, || state(holder.pid()) == Some('T'));
    std::fs::remove_file(scene.pid_file()).unwrap();
    // Nobody may not look into root's descriptors, and finds the name free.
    let command = scene.gateway(["run", "--", "sleep", "infinity"]);
    let thief = scene.spawn(as_nobody(&scene, &command));
    scene.wait_for_record("the other's record", |record| {
        record.pid() == thief.pid() && record.has_payload()
    });
    holder.signal(Signal::CONT);
    assert_eq!(holder.end(), End::Code(84));
    listener.wait_for(&format!(
        "STATUS=the pid file was taken by pid {}; stopping",
        thief.pid()
    ));
}
