//! What a service manager hears, message by message (sd_notify(3)).

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::harness::{End, Payload, Process, SOON, Scene, Signal, variable};

/// A service manager's ear.
struct Manager {
    socket: UnixDatagram,
    /// What `NOTIFY_SOCKET` says.
    name: String,
}

impl Manager {
    fn at_a_path(scene: &Scene) -> Self {
        let path = scene.path("notify");
        let name = path.to_str().unwrap().to_owned();
        Self::on(UnixDatagram::bind(path).unwrap(), name)
    }

    fn with_an_abstract_name(scene: &Scene) -> Self {
        let name = format!("{}/notify", scene.path("").display());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        Self::on(
            UnixDatagram::bind_addr(&address).unwrap(),
            format!("@{name}"),
        )
    }

    fn on(socket: UnixDatagram, name: String) -> Self {
        socket.set_read_timeout(Some(SOON)).unwrap();
        Self { socket, name }
    }

    /// The next message.
    #[track_caller]
    fn next(&self) -> String {
        let mut bytes = [0; 8192];
        let length = self.socket.recv(&mut bytes).expect("a message in time");
        String::from_utf8(bytes[..length].to_vec()).expect("text")
    }

    /// Reads nothing until there is no room for one message more; tells how many there are.
    fn is_deaf(&self, scene: &Scene) -> usize {
        let other = UnixDatagram::unbound().unwrap();
        other.set_nonblocking(true).unwrap();
        let sent = (0..100_000)
            .take_while(|_| other.send_to(b"other", scene.path("notify")).is_ok())
            .count();
        assert!(sent < 100_000, "its queue is never full");
        sent
    }

    /// All that has come so far.
    fn rest(&self) -> Vec<String> {
        self.socket.set_nonblocking(true).unwrap();
        let mut bytes = [0; 8192];
        let mut messages = Vec::new();
        while let Ok(length) = self.socket.recv(&mut bytes) {
            messages.push(String::from_utf8_lossy(&bytes[..length]).into_owned());
        }
        self.socket.set_nonblocking(false).unwrap();
        messages
    }

    fn command(&self, scene: &Scene, words: &[&str]) -> Command {
        let mut command = scene.gateway(words);
        command.env("NOTIFY_SOCKET", &self.name);
        command
    }

    /// Starts `run` with these options and a command that ends well when it is told to stop.
    fn start(&self, scene: &Scene, options: &[&str]) -> Process {
        let payload = scene.payload(Payload::Graceful);
        let words = [&["run"], options, &["--", &payload]].concat();
        scene.spawn(self.command(scene, &words))
    }
}

#[track_caller]
fn assert_a_life_is_told(scene: &Scene, manager: &Manager) {
    let mut holder = manager.start(scene, &[]);
    let ready = manager.next();
    scene.wait_for_mark("ready");
    let payload = scene.record().payload_pid();
    assert_eq!(ready, format!("READY=1\nSTATUS=running pid {payload}"));
    assert_eq!(manager.rest(), [""; 0]);
    holder.signal(Signal::TERM);
    assert_eq!(holder.end(), End::Code(0));
    // The stop budget and five seconds.
    assert_eq!(
        manager.rest(),
        [
            "STOPPING=1",
            "STATUS=stopping on TERM\nEXTEND_TIMEOUT_USEC=35000000",
            // The sleep that it waits in.
            "STATUS=COMMAND has ended and left 1 process, to be ended",
            "STATUS=COMMAND ended, exit 0"
        ]
    );
}

#[test]
fn a_life_is_told_at_a_path() {
    let scene = Scene::new();
    assert_a_life_is_told(&scene, &Manager::at_a_path(&scene));
}

#[test]
fn a_life_is_told_under_an_abstract_name() {
    let scene = Scene::new();
    assert_a_life_is_told(&scene, &Manager::with_an_abstract_name(&scene));
}

#[test]
fn a_takeover_is_told_on_both_sides() {
    let scene = Scene::new();
    let manager = Manager::at_a_path(&scene);
    let mut old = manager.start(&scene, &[]);
    scene.wait_for_mark("ready");
    manager.rest();
    let theirs = Scene::new();
    let newcomers = Manager::at_a_path(&theirs);
    let new = scene.wait_for_payload(newcomers.start(&scene, &["--replace"]));
    assert_eq!(old.end(), End::Code(0));
    assert_eq!(
        manager.rest()[..2],
        [
            "STOPPING=1",
            "STATUS=being replaced on TERM\nEXTEND_TIMEOUT_USEC=35000000"
        ]
    );
    let told = newcomers.rest();
    let asked = format!("STATUS=asked pid {} (", old.pid());
    assert!(told[0].starts_with(&asked), "{told:?}");
    assert!(
        told[0].ends_with("\nEXTEND_TIMEOUT_USEC=20000000"),
        "{told:?}"
    );
    let payload = scene.record().payload_pid();
    let ready = format!("READY=1\nSTATUS=running pid {payload}");
    assert_eq!(told.last(), Some(&ready), "{told:?}");
    assert_eq!(scene.record().pid(), new.pid());
}

/// systemd takes a number, and this one is longer than any machine runs.
#[test]
fn a_stop_without_a_limit_is_extended_without_one() {
    let scene = Scene::new();
    let manager = Manager::at_a_path(&scene);
    let mut holder = manager.start(&scene, &["--stop-timeout", "infinity"]);
    scene.wait_for_mark("ready");
    manager.rest();
    holder.signal(Signal::TERM);
    assert_eq!(holder.end(), End::Code(0));
    let longest = format!(
        "STATUS=stopping on TERM\nEXTEND_TIMEOUT_USEC={}",
        u64::MAX / 2
    );
    assert!(manager.rest().contains(&longest));
}

/// Ready in line, for the boot's sake; from then on COMMAND speaks for itself.
#[test]
fn a_standby_is_ready_in_line_even_where_the_command_speaks_for_itself() {
    let scene = Scene::new();
    let mut holder = scene.hold();
    let manager = Manager::at_a_path(&scene);
    let standby = manager.start(&scene, &["--wait", "--notify", "payload"]);
    let behind = format!("STATUS=standby behind pid {}", holder.pid());
    assert_eq!(manager.next(), format!("READY=1\n{behind}"));
    holder.signal(Signal::TERM);
    holder.end();
    let _standby = scene.wait_for_payload(standby);
    let payload = scene.record().payload_pid();
    assert_eq!(variable(payload, "NOTIFY_SOCKET"), manager.name);
    let told = manager.rest();
    let running = format!("STATUS=running pid {payload}");
    assert_eq!(told.last(), Some(&running), "{told:?}");
    assert!(
        !told.iter().any(|said| said.contains("READY=1")),
        "{told:?}"
    );
}

#[test]
fn a_command_that_speaks_for_itself_is_not_called_ready() {
    let scene = Scene::new();
    let manager = Manager::at_a_path(&scene);
    let holder = manager.start(&scene, &["--notify", "payload"]);
    let _holder = scene.wait_for_payload(holder);
    let payload = scene.record().payload_pid();
    assert_eq!(manager.next(), format!("STATUS=running pid {payload}"));
    assert_eq!(manager.rest(), [""; 0]);
}

// ---------------------------------------------------------------- the watchdog

const PERIOD: Duration = Duration::from_millis(600);

/// Under a watchdog that means the process that this shell line says.
fn watched(scene: &Scene, manager: &Manager, pid: &str, options: &[&str]) -> Process {
    watched_for(PERIOD, scene, manager, pid, options)
}

fn watched_for(
    period: Duration,
    scene: &Scene,
    manager: &Manager,
    pid: &str,
    options: &[&str],
) -> Process {
    let payload = scene.payload(Payload::Plain);
    let words = [&["run"], options, &["--", &payload]].concat();
    let script = format!(
        "export WATCHDOG_USEC={} WATCHDOG_PID={pid}; exec \"$@\"",
        period.as_micros()
    );
    let gateway = manager.command(scene, &words);
    let command = scene.behind("sh", &["-c", &script, "sh"], &gateway);
    scene.wait_for_payload(scene.spawn(command))
}

#[test]
fn a_sign_of_life_comes_at_half_of_the_watchdogs_period() {
    let scene = Scene::new();
    let manager = Manager::at_a_path(&scene);
    let holder = watched(&scene, &manager, "$$", &[]);
    let mut signs = Vec::new();
    while signs.len() < 9 {
        if manager.next() == "WATCHDOG=1" {
            signs.push(Instant::now());
        }
    }
    let took = signs[8] - signs[0];
    // A busy machine may be late now and then, and is never early twice.
    assert!(took >= PERIOD / 2 * 7, "{took:?}");
    assert!(took < PERIOD * 8, "{took:?}");
    assert_eq!(
        holder
            .stderr()
            .matches("watches this gateway, not COMMAND")
            .count(),
        1,
        "{}",
        holder.stderr()
    );
}

#[test]
fn what_found_no_room_comes_as_soon_as_there_is_some() {
    let scene = Scene::new();
    let manager = Manager::at_a_path(&scene);
    let others = manager.is_deaf(&scene);
    let _holder = watched_for(SOON * 4, &scene, &manager, "$$", &[]);
    for _ in 0..others {
        assert_eq!(manager.next(), "other");
    }
    // Another one by the clock is later than anybody waits here.
    assert_eq!(manager.next(), "WATCHDOG=1");
    let ready = manager.next();
    assert!(ready.starts_with("READY=1\n"), "{ready}");
}

/// As in a shell that was started by a watched service (sd_watchdog_enabled(3)).
#[test]
fn the_watchdog_of_another_process_is_not_ours() {
    let scene = Scene::new();
    let manager = Manager::at_a_path(&scene);
    let holder = watched(&scene, &manager, "1", &[]);
    // The time in which three would have come.
    std::thread::sleep(PERIOD * 2);
    let told = manager.rest();
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].starts_with("READY=1\n"), "{told:?}");
    assert_eq!(holder.stderr(), "");
}

/// A sign of ours would prove nothing about it.
#[test]
fn a_command_that_speaks_for_itself_answers_to_the_watchdog_itself() {
    let scene = Scene::new();
    let manager = Manager::at_a_path(&scene);
    let holder = watched(&scene, &manager, "$$", &["--notify", "payload"]);
    manager.rest();
    std::thread::sleep(PERIOD * 2);
    assert_eq!(manager.rest(), [""; 0]);
    assert_eq!(holder.stderr(), "");
}
