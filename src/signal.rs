//! A signal by its number and its name.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A signal by its number, with the names people type.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "i64", into = "i32")]
pub struct Signal(i32);

macro_rules! signals {
    ($($name:ident = $number:ident),* $(,)?) => {
        #[allow(missing_docs, reason = "the names are the kernel's: signal(7)")]
        impl Signal {
            $(pub const $name: Self = Self(libc::$number);)*
            const NAMES: &'static [(&'static str, i32)] = &[$((stringify!($name), libc::$number)),*];
        }
    };
}

signals! {
    HUP = SIGHUP, INT = SIGINT, QUIT = SIGQUIT, ILL = SIGILL, TRAP = SIGTRAP, ABRT = SIGABRT,
    BUS = SIGBUS, FPE = SIGFPE, KILL = SIGKILL, USR1 = SIGUSR1, SEGV = SIGSEGV, USR2 = SIGUSR2,
    PIPE = SIGPIPE, ALRM = SIGALRM, TERM = SIGTERM, CHLD = SIGCHLD, CONT = SIGCONT, STOP = SIGSTOP,
    TSTP = SIGTSTP, TTIN = SIGTTIN, TTOU = SIGTTOU, URG = SIGURG, XCPU = SIGXCPU, XFSZ = SIGXFSZ,
    VTALRM = SIGVTALRM, PROF = SIGPROF, WINCH = SIGWINCH, IO = SIGIO, PWR = SIGPWR, SYS = SIGSYS,
}

impl Signal {
    /// A signal by number, if it has a name here.
    #[must_use]
    pub fn from_number(number: i32) -> Option<Self> {
        Self::NAMES
            .iter()
            .find(|(_, known)| *known == number)
            .map(|_| Self(number))
    }

    /// What a child died of, real-time signals included.
    pub(crate) fn from_wait(number: i32) -> Self {
        Self(number)
    }

    /// A signal by name (`TERM`, `SIGTERM`, in any case) or number.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if let Ok(number) = text.parse() {
            return Self::from_number(number);
        }
        let upper = text.to_ascii_uppercase();
        let name = upper.strip_prefix("SIG").unwrap_or(&upper);
        Self::NAMES
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, number)| Self(*number))
    }

    /// The number.
    #[must_use]
    pub fn number(self) -> i32 {
        self.0
    }

    /// None for what has no name: a child may have died of it, but nobody is sent it.
    pub(crate) fn raw(self) -> Option<rustix::process::Signal> {
        rustix::process::Signal::from_named_raw(self.0)
    }
}

impl TryFrom<i64> for Signal {
    type Error = &'static str;

    fn try_from(number: i64) -> Result<Self, Self::Error> {
        i32::try_from(number)
            .ok()
            .and_then(Self::from_number)
            .ok_or("not a signal with a name")
    }
}

impl From<Signal> for i32 {
    fn from(signal: Signal) -> Self {
        signal.0
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Self::NAMES.iter().find(|(_, number)| *number == self.0) {
            Some((name, _)) => f.write_str(name),
            None => write!(f, "signal {}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signal_names_are_read_as_people_type_them() {
        for text in ["TERM", "sigterm", "SIGTERM", "15"] {
            assert_eq!(Signal::parse(text), Some(Signal::TERM), "{text}");
        }
        for text in ["", "0", "-1", "SIG", "TERMINATE", "99"] {
            assert_eq!(Signal::parse(text), None, "{text}");
        }
        for (name, number) in Signal::NAMES {
            let raw = Signal::parse(name).unwrap().raw().unwrap();
            assert_eq!(raw.as_raw(), *number);
        }
    }
}
