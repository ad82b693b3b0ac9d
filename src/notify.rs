//! Words to the service manager (sd_notify(3)). Without a `NOTIFY_SOCKET` there is nothing to do.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

/// How long the end of the program may wait for what is unsent.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// A watchdog that wants to hear more often is not served: the loop would do nothing else.
const SHORTEST_WATCH: Duration = Duration::from_millis(10);

/// No more than this waits to be sent: a service manager that reads nothing for so long is gone.
const MOST_UNSENT: usize = 64;

/// Whether a message says all that the one before it says, and newer: how things stand, and where that was
/// asked for, more time.
fn supersedes(message: &str, before: &str) -> bool {
    let is_state = |message: &str| message.starts_with("STATUS=");
    let asks_for_time = |message: &str| message.contains("\nEXTEND_TIMEOUT_USEC=");
    is_state(message) && is_state(before) && (asks_for_time(message) || !asks_for_time(before))
}

/// How often what is unsent is tried again.
const TRY_AGAIN: Duration = Duration::from_millis(50);

/// Where the service manager listens, and what it has not taken yet.
///
/// Its queue is short (`net.unix.max_dgram_qlen`), and what is lost is lost for good: a service that
/// is up, and never said so, is killed. So messages wait here, in order, and never hold us up.
#[derive(Debug)]
pub struct Notifier {
    line: Option<(UnixDatagram, SocketAddr)>,
    unsent: VecDeque<String>,
}

impl Notifier {
    /// From `$NOTIFY_SOCKET`: a path, or an abstract name after `@`.
    #[must_use]
    pub fn from_environment() -> Self {
        Self::to(std::env::var_os("NOTIFY_SOCKET").and_then(|name| address(&name)))
    }

    fn to(address: Option<SocketAddr>) -> Self {
        let line = address.and_then(|address| Some((socket()?, address)));
        Self {
            line,
            unsent: VecDeque::new(),
        }
    }

    /// Whether anybody listens.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.line.is_some()
    }

    /// Sends one message that is said again and again, unless others wait to be sent: then it returns in what
    /// time to try it again. Never waits.
    pub fn repeat(&mut self, message: &str) -> Option<Duration> {
        self.flush();
        let again = self.due();
        if again.is_none() {
            self.send(message);
        }
        again
    }

    /// Sends one message: lines of `NAME=value`. Never waits; [`Notifier::flush`] sends what finds
    /// no room now. A `STATUS=` that waits is replaced by one that comes right behind it.
    pub fn send(&mut self, message: impl Into<String>) {
        if self.is_connected() {
            let message = message.into();
            let stale = |before: &String| supersedes(&message, before);
            if self.unsent.back().is_some_and(stale) {
                self.unsent.pop_back();
            }
            if self.unsent.len() < MOST_UNSENT {
                self.unsent.push_back(message);
            }
            self.flush();
        }
    }

    /// Sends what is unsent, as far as there is room.
    pub fn flush(&mut self) {
        let Some((socket, address)) = &self.line else {
            return;
        };
        while let Some(message) = self.unsent.front() {
            match socket.send_to_addr(message.as_bytes(), address) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    // A service manager that does not listen is none of our business.
                    log::debug!("cannot notify the service manager: {error}");
                    self.unsent.pop_front();
                }
                Ok(_) => drop(self.unsent.pop_front()),
            }
        }
    }

    /// Sends what is unsent; waits up to two seconds for room.
    pub fn drain(&mut self) {
        let end = Instant::now() + LAST_WORDS;
        while self.due().is_some() && Instant::now() < end {
            crate::wait::sleep([], Some(TRY_AGAIN));
            self.flush();
        }
    }

    /// When to call [`Notifier::flush`], if anything is unsent.
    #[must_use]
    pub fn due(&self) -> Option<Duration> {
        (!self.unsent.is_empty()).then_some(TRY_AGAIN)
    }
}

/// What is unsent when the program ends is tried for two seconds more.
impl Drop for Notifier {
    fn drop(&mut self) {
        self.drain();
    }
}

fn socket() -> Option<UnixDatagram> {
    let socket = UnixDatagram::unbound().ok()?;
    socket.set_nonblocking(true).ok()?;
    Some(socket)
}

fn address(name: &OsStr) -> Option<SocketAddr> {
    match name.as_bytes() {
        [] => None,
        [b'@', rest @ ..] => SocketAddr::from_abstract_name(rest).ok(),
        [b'/', ..] => SocketAddr::from_pathname(name).ok(),
        _ => None,
    }
}

/// How often the service manager wants to hear from us: half of `WATCHDOG_USEC`, if it is meant
/// for this process (sd_watchdog_enabled(3)).
#[must_use]
pub fn watchdog_interval() -> Option<Duration> {
    let number = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
    let micros = number("WATCHDOG_USEC").filter(|micros| *micros > 0)?;
    let ours = std::env::var_os("WATCHDOG_PID").is_none()
        || number("WATCHDOG_PID") == Some(std::process::id().into());
    ours.then(|| Duration::from_micros(micros / 2).max(SHORTEST_WATCH))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(listener: &UnixDatagram) -> Vec<u8> {
        let mut buffer = [0; 64];
        let length = listener.recv(&mut buffer).unwrap();
        buffer[..length].to_vec()
    }

    #[test]
    fn a_path_and_an_abstract_name_are_reached() {
        let room = tempfile::tempdir().unwrap();
        let path = room.path().join("notify");
        let listener = UnixDatagram::bind(&path).unwrap();
        Notifier::to(address(path.as_os_str())).send("READY=1");
        assert_eq!(heard(&listener), b"READY=1");

        let name = format!("gateway-test-{}", std::process::id());
        let listener =
            UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        Notifier::to(address(format!("@{name}").as_ref())).send("STOPPING=1");
        assert_eq!(heard(&listener), b"STOPPING=1");
    }

    #[test]
    fn what_finds_no_room_is_sent_later_and_in_order() {
        let room = tempfile::tempdir().unwrap();
        let path = room.path().join("notify");
        let listener = UnixDatagram::bind(&path).unwrap();
        let mut notifier = Notifier::to(address(path.as_os_str()));
        let mut sent = 0;
        while notifier.due().is_none() && sent < 100_000 {
            notifier.send(sent.to_string());
            sent += 1;
        }
        assert!(notifier.due().is_some(), "the queue is never full");
        notifier.send("last");
        // Whatever is repeated takes nobody's place.
        for _ in 0..2 * MOST_UNSENT {
            assert!(notifier.repeat("WATCHDOG=1").is_some());
        }
        for expected in (0..sent)
            .map(|number| number.to_string())
            .chain(["last".to_owned()])
        {
            assert_eq!(heard(&listener), expected.as_bytes());
            notifier.flush();
        }
        assert!(notifier.due().is_none());
    }

    #[test]
    fn the_last_of_many_states_is_kept_and_ready_is_not_lost_behind_them() {
        let room = tempfile::tempdir().unwrap();
        let path = room.path().join("notify");
        let listener = UnixDatagram::bind(&path).unwrap();
        let mut notifier = Notifier::to(address(path.as_os_str()));
        while notifier.due().is_none() {
            notifier.send("X=1");
        }
        for second in 0..2 * MOST_UNSENT {
            notifier.send(format!("STATUS={second}\nEXTEND_TIMEOUT_USEC=1"));
        }
        notifier.send("READY=1\nSTATUS=up");
        notifier.send("STATUS=a\nEXTEND_TIMEOUT_USEC=9");
        notifier.send("STATUS=on");
        notifier.send("STATUS=off");
        let mut told = Vec::new();
        while told.last().is_none_or(|last| last != b"STATUS=off") {
            let message = heard(&listener);
            notifier.flush();
            if message != b"X=1" {
                told.push(message);
            }
        }
        let last = format!("STATUS={}\nEXTEND_TIMEOUT_USEC=1", 2 * MOST_UNSENT - 1);
        let ready = &b"READY=1\nSTATUS=up"[..];
        let more_time = &b"STATUS=a\nEXTEND_TIMEOUT_USEC=9"[..];
        assert_eq!(told, [last.as_bytes(), ready, more_time, b"STATUS=off"]);
    }

    #[test]
    fn nobody_listening_is_no_fault() {
        assert!(address("".as_ref()).is_none() && address("vsock:2:1".as_ref()).is_none());
        Notifier::to(address("/no/such/socket".as_ref())).send("READY=1");
    }
}
