//! One error type: what was tried, on what, why it failed, and what to do about it.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::path::Path;

/// Where a failure belongs, for a caller that wants to tell them apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The pid file cannot be used: its path, type, permissions, room, or no locking there.
    PidFile,
    /// The command does not exist.
    CommandNotFound,
    /// The command exists and cannot be executed.
    CommandNotExecutable,
    /// The system refused something that this crate cannot do without.
    System,
}

/// What was tried, on which object, and why it failed.
///
/// That somebody else holds the lock is not an error but an answer: see [`Attempt`](crate::Attempt) and
/// [`Wait`](crate::Wait).
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    what: String,
    cause: Option<io::Error>,
    advice: Option<String>,
}

/// The result of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub(crate) fn new(kind: ErrorKind, what: impl Into<String>) -> Self {
        Self {
            kind,
            what: what.into(),
            cause: None,
            advice: None,
        }
    }

    pub(crate) fn pid_file(action: &str, path: &Path) -> Self {
        Self::new(
            ErrorKind::PidFile,
            format!("{action} {}", crate::text::printable(path.as_os_str())),
        )
    }

    pub(crate) fn system(what: impl Into<String>) -> Self {
        Self::new(ErrorKind::System, what)
    }

    /// Whoever waited was told to end before anything could be said.
    pub(crate) fn interrupted() -> Self {
        Self::system("interrupted").because(io::ErrorKind::Interrupted)
    }

    pub(crate) fn is_interruption(&self) -> bool {
        let kind = self.cause.as_ref().map(io::Error::kind);
        kind == Some(io::ErrorKind::Interrupted)
    }

    pub(crate) fn because(mut self, cause: impl Into<io::Error>) -> Self {
        self.cause = Some(cause.into());
        self
    }

    pub(crate) fn advise(mut self, advice: impl Into<String>) -> Self {
        self.advice = Some(advice.into());
        self
    }

    /// Which of the few ways to fail this is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// What to do about it, if that can be said: a sentence without a full stop, in the words of the program
    /// `gateway`, whose options (`-f PATH`) it may name.
    #[must_use]
    pub fn advice(&self) -> Option<&str> {
        let remedy = self.cause.as_ref().and_then(remedy);
        remedy.or(self.advice.as_deref())
    }
}

/// What to do about a cause, whatever was tried.
fn remedy(cause: &io::Error) -> Option<&'static str> {
    match cause.raw_os_error()? {
        libc::EMFILE => Some("raise the limit of open files (ulimit -n, LimitNOFILE=)"),
        libc::ENFILE => Some("the whole system has too many open files (sysctl fs.file-max)"),
        _ => None,
    }
}

/// What was tried, on what, and why it failed; with `{:#}` also what to do about it.
impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        if let Some(cause) = &self.cause {
            write!(f, ": {cause}")?;
        }
        match self.advice().filter(|_| f.alternate()) {
            Some(advice) => write!(f, "; {advice}"),
            None => Ok(()),
        }
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.cause
            .as_ref()
            .map(|cause| cause as &(dyn StdError + 'static))
    }
}
