//! A terminal, with somebody typing at it.

use std::cell::RefCell;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use super::process::Process;
use super::scene::Scene;
use super::tools::need;
use super::wait::SOON;

/// The near end of a pseudo terminal. When it is dropped, the terminal hangs up.
pub struct Terminal {
    master: OwnedFd,
    slave: PathBuf,
    seen: RefCell<Vec<u8>>,
}

impl Terminal {
    pub fn open() -> Self {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = openpt(flags).expect("a pseudo terminal");
        grantpt(&master).expect("grantpt");
        unlockpt(&master).expect("unlockpt");
        let size = Winsize {
            ws_row: 50,
            ws_col: 400,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&master, size).expect("a wide terminal");
        rustix::io::ioctl_fionbio(&master, true).expect("reads that do not wait");
        let slave = ptsname(&master, Vec::new()).expect("a name");
        let slave = PathBuf::from(slave.to_str().expect("a plain name"));
        Self {
            master,
            slave,
            seen: RefCell::default(),
        }
    }

    /// The far end; it does not become our terminal.
    fn far_end(&self) -> File {
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(&self.slave, flags, Mode::empty()).expect("the far end");
        File::from(fd)
    }

    /// Starts a command in a session of its own on this terminal. Its pid is the one started: not
    /// being the leader of a group, setsid(1) does not fork.
    #[track_caller]
    pub fn start(&self, scene: &Scene, command: &Command) -> Process {
        need("setsid", "util-linux");
        let mut outer = scene.behind("setsid", &["--ctty"], command);
        outer.env("TERM", "dumb");
        let end = || Stdio::from(self.far_end());
        outer.stdin(end()).stdout(end()).stderr(end());
        let (stdout, stderr) = scene.words();
        Process::start_as_is(outer, stdout, stderr)
    }

    /// Starts an interactive shell that prints `$ ` when it waits for a command.
    #[track_caller]
    pub fn shell(&self, scene: &Scene, shell: &[&str]) -> Process {
        need(shell[0], shell[0]);
        let mut command = scene.command(shell[0]);
        command
            .args(&shell[1..])
            .env("PS1", "$ ")
            .env("HISTFILE", "/dev/null");
        let process = self.start(scene, &command);
        self.wait_for("$ ");
        process
    }

    /// Writes so much to it, and nobody reads, that there is room for no more than this many bytes.
    pub fn fill_but(&self, room: usize) {
        let whole = Self::open().write_until_full(usize::MAX);
        let written = self.write_until_full(whole - room);
        assert_eq!(written, whole - room, "it has less room than another one");
    }

    fn write_until_full(&self, most: usize) -> usize {
        let end = self.far_end();
        rustix::io::ioctl_fionbio(&end, true).expect("writes that do not wait");
        (0..most)
            .take_while(|_| rustix::io::write(&end, b"x").is_ok())
            .count()
    }

    /// Types a text.
    pub fn type_text(&self, text: &str) {
        let mut left = text.as_bytes();
        while !left.is_empty() {
            let written = rustix::io::write(&self.master, left).expect("typing");
            left = &left[written..];
        }
    }

    /// Types a line.
    pub fn type_line(&self, line: &str) {
        self.type_text(&format!("{line}\n"));
    }

    pub fn ctrl_c(&self) {
        self.type_text("\x03");
    }

    pub fn ctrl_z(&self) {
        self.type_text("\x1a");
    }

    pub fn ctrl_backslash(&self) {
        self.type_text("\x1c");
    }

    /// All that was ever shown, echoes of what was typed included.
    pub fn screen(&self) -> String {
        let mut seen = self.seen.borrow_mut();
        let mut buffer = [0u8; 4096];
        while let Ok(count @ 1..) = rustix::io::read(&self.master, &mut buffer) {
            seen.extend_from_slice(&buffer[..count]);
        }
        String::from_utf8_lossy(&seen).replace('\r', "")
    }

    /// Waits until this text is shown.
    #[track_caller]
    pub fn wait_for(&self, text: &str) {
        self.wait_for_times(text, 1);
    }

    /// Waits until this text was shown that often.
    #[track_caller]
    pub fn wait_for_times(&self, text: &str, times: usize) {
        let deadline = Instant::now() + SOON;
        loop {
            let screen = self.screen();
            if screen.matches(text).count() >= times {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "{text:?} is not on the screen {times} times: {screen:?}"
            );
            std::thread::sleep(Duration::from_millis(3));
        }
    }

    /// Closes the window.
    pub fn hang_up(self) {}
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("-- the screen: {}", self.screen());
        }
    }
}
