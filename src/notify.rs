//! Words to the service manager (sd_notify(3)). Without a `NOTIFY_SOCKET` there is nothing to do.

use std::ffi::OsStr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// Where the service manager listens.
#[derive(Debug)]
pub struct Notifier {
    address: Option<SocketAddr>,
}

impl Notifier {
    /// From `$NOTIFY_SOCKET`: a path, or an abstract name after `@`.
    #[must_use]
    pub fn from_environment() -> Self {
        Self {
            address: std::env::var_os("NOTIFY_SOCKET").and_then(|name| address(&name)),
        }
    }

    /// Whether anybody listens.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.address.is_some()
    }

    /// Sends one message: lines of `NAME=value`. Never waits for an answer; a service manager that
    /// does not listen is none of our business.
    pub fn send(&self, message: &str) {
        if let Some(address) = &self.address {
            let sent = UnixDatagram::unbound().and_then(|socket| {
                socket.set_nonblocking(true)?;
                socket.send_to_addr(message.as_bytes(), address)
            });
            if let Err(error) = sent {
                log::debug!("cannot notify the service manager: {error}");
            }
        }
    }
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
    ours.then(|| Duration::from_micros(micros / 2))
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
        Notifier {
            address: address(path.as_os_str()),
        }
        .send("READY=1");
        assert_eq!(heard(&listener), b"READY=1");

        let name = format!("gateway-test-{}", std::process::id());
        let listener =
            UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        Notifier {
            address: address(format!("@{name}").as_ref()),
        }
        .send("STOPPING=1");
        assert_eq!(heard(&listener), b"STOPPING=1");
    }

    #[test]
    fn nobody_listening_is_no_fault() {
        assert!(address("".as_ref()).is_none() && address("vsock:2:1".as_ref()).is_none());
        Notifier {
            address: address("/no/such/socket".as_ref()),
        }
        .send("READY=1");
    }
}
