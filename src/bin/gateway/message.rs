//! Words on stderr: a line for a person goes through [`Voice`], a line for the diary through `log`.
//! Both end up in one place, because stderr is the log (systemd.exec(5), "logging").
//!
//! A full stderr that nobody reads must not hold up a signal: a line that finds no room soon is
//! dropped.

use std::io::{IsTerminal, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use gateway_lock::text::printable;
use log::{Level, LevelFilter};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::usage::Text;

/// How long a full pipe may delay us.
const PATIENCE: Duration = Duration::from_millis(50);

/// `poll(2)` promises room for this much in a pipe (PIPE_BUF, pipe(7)).
const LONGEST: usize = 4000;

/// How to speak to people.
#[derive(Clone, Copy, Debug)]
pub struct Voice {
    quiet: bool,
    terminal: bool,
    journal: bool,
}

impl Voice {
    /// Speaks as `-q` says, and to whom stderr leads.
    pub fn new(quiet: bool) -> Self {
        Self {
            quiet,
            terminal: std::io::stderr().is_terminal(),
            journal: is_journal(),
        }
    }

    /// Something is wrong: always told.
    pub fn fault(&self, text: &str) {
        self.line(Level::Error, text);
    }

    /// A command line that was not understood. A unit's is read in the journal, where a fault is one line.
    pub fn wrong_usage(&self, text: &Text) {
        if self.journal {
            self.fault(&text.wrong);
        } else {
            write_soon(format!("gateway: {}\n{}", text.wrong, text.usage).as_bytes());
        }
    }

    /// Something that was to be expected; `-q` leaves it to the exit code.
    pub fn expected(&self, text: &str) {
        if !self.quiet {
            self.line(Level::Warn, text);
        }
    }

    /// How COMMAND's end is told of, where nobody asked for it and it is no good one: whoever started it by
    /// hand has its code, and the journal is searched for what went wrong.
    pub fn bad_end(&self) -> Level {
        if self.journal {
            Level::Warn
        } else {
            Level::Info
        }
    }

    /// Whether somebody may be looking on: then a countdown can be shown.
    pub fn counts_down(&self) -> bool {
        self.terminal && !self.quiet && !self.journal
    }

    /// Shows a line that the next one overwrites.
    pub fn countdown(&self, text: &str) {
        write_soon(format!("\r\x1b[Kgateway: {text}").as_bytes());
    }

    /// Removes it.
    pub fn end_countdown(&self) {
        write_soon(b"\r\x1b[K");
    }

    fn line(&self, level: Level, text: &str) {
        write_soon(line(self.journal, level, text).as_bytes());
    }
}

/// Names the environment variable that filters the diary.
const FILTER: &str = "GATEWAY_LOG";

/// Starts the diary: info in the journal, warnings elsewhere, `GATEWAY_LOG` and `-v` on top. `-q`
/// leaves faults alone, whatever the environment says.
pub fn start_diary(voice: Voice, verbose: u8) {
    let journal = voice.journal;
    let level = match (verbose, voice.quiet, journal) {
        (_, true, _) => LevelFilter::Error,
        (0, false, false) => LevelFilter::Warn,
        (0, false, true) | (1, false, _) => LevelFilter::Info,
        (2, false, _) => LevelFilter::Debug,
        (_, false, _) => LevelFilter::Trace,
    };
    let wanted = std::env::var_os(FILTER).filter(|_| !voice.quiet);
    let filter = wanted.map(|wanted| checked(&printable(&wanted)));
    let mut builder = env_logger::Builder::new();
    builder
        .filter_level(level)
        .target(env_logger::Target::Pipe(Box::new(Soon)));
    if let Some(Ok(filter)) = &filter {
        builder.parse_filters(filter);
    }
    builder.format(move |out, record| {
        let text = record.args().to_string();
        let dated = if journal || record.level() <= Level::Warn {
            text
        } else {
            dated(&text)
        };
        out.write_all(line(journal, record.level(), &dated).as_bytes())
    });
    builder.init();
    if let Some(Err(why)) = filter {
        log::warn!("{why}");
    }
}

/// What env_logger understands; it would print its own warning, and wait for a full pipe.
fn checked(filter: &str) -> Result<String, String> {
    let (directives, text) = filter.split_once('/').unwrap_or((filter, ""));
    let wrong = directives
        .split(',')
        .map(str::trim)
        .find(|directive| !is_directive(directive))
        .or(text.contains('/').then_some(text));
    match wrong {
        None => Ok(filter.to_owned()),
        Some(wrong) => Err(format!(
            "{FILTER} is ignored: {wrong:?} is no level; give off, error, warn, info, debug or trace"
        )),
    }
}

/// A level, or a module of ours with one. Nothing else writes to the diary.
fn is_directive(directive: &str) -> bool {
    let is_level = |word: &str| word.trim().parse::<LevelFilter>().is_ok();
    match directive.split_once('=') {
        Some((module, level)) => module.starts_with("gateway") && is_level(level),
        None => directive.is_empty() || directive.starts_with("gateway") || is_level(directive),
    }
}

fn dated(text: &str) -> String {
    format!(
        "{}: {text}",
        humantime::format_rfc3339_millis(std::time::SystemTime::now())
    )
}

/// One line; in the journal with its priority (sd-daemon(3)) and without our name, which it knows.
fn line(journal: bool, level: Level, text: &str) -> String {
    let text = shortened(&text.replace('\n', " "));
    if !journal {
        return format!("gateway: {text}\n");
    }
    let priority = match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    };
    format!("<{priority}>{text}\n")
}

/// Fit for one write: a long path loses its middle, not the advice behind it.
fn shortened(text: &str) -> String {
    if text.len() <= LONGEST {
        return text.to_owned();
    }
    let half = LONGEST / 2;
    let head = (0..=half)
        .rev()
        .find(|at| text.is_char_boundary(*at))
        .unwrap_or(0);
    let tail = (text.len() - half..)
        .find(|at| text.is_char_boundary(*at))
        .unwrap_or(text.len());
    format!("{}…{}", &text[..head], &text[tail..])
}

/// Whether stderr is the journal's stream: `$JOURNAL_STREAM` names its device and inode.
fn is_journal() -> bool {
    let Some(stream) = std::env::var("JOURNAL_STREAM").ok() else {
        return false;
    };
    let Ok(stderr) = std::io::stderr().as_fd().try_clone_to_owned() else {
        return false;
    };
    let Ok(metadata) = std::fs::File::from(stderr).metadata() else {
        return false;
    };
    stream == format!("{}:{}", metadata.dev(), metadata.ino())
}

/// Writes to stderr, or drops what finds no room soon.
pub fn write_soon(bytes: &[u8]) {
    let stderr = std::io::stderr();
    if let Some(mut way) = own_way_out() {
        let patience = Timespec::try_from(PATIENCE).expect("a short time fits");
        let _ = poll(&mut [PollFd::new(&way, PollFlags::OUT)], Some(&patience));
        // COMMAND may have filled it meanwhile: then the line is dropped, or on a terminal cut.
        let _ = way.write(bytes);
        return;
    }
    let mut fds = [PollFd::new(&stderr, PollFlags::OUT)];
    let patience = Timespec::try_from(PATIENCE).expect("a short time fits");
    if matches!(poll(&mut fds, Some(&patience)), Ok(1)) {
        let _ = stderr.lock().write_all(bytes);
    }
}

/// A pipe and a terminal can be opened once more, without blocking and without changing COMMAND's end of
/// it: of a terminal poll(2) promises some room, and not room for a line. (A file may not be: the new
/// description would begin at its start.) `None` also for the terminal of another user.
fn own_way_out() -> Option<std::fs::File> {
    use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
    let path = "/proc/self/fd/2";
    let is_pipe = || std::fs::metadata(path).is_ok_and(|found| found.file_type().is_fifo());
    if !std::io::stderr().is_terminal() && !is_pipe() {
        return None;
    }
    std::fs::OpenOptions::new()
        .write(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)
        .ok()
}

/// The diary's way to stderr.
struct Soon;

impl Write for Soon {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        write_soon(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_understood_or_named() {
        for good in [
            "info",
            "OFF",
            "",
            "gateway_lock=debug, warn",
            "gateway_lock::takeover",
            "trace/lock",
        ] {
            assert_eq!(checked(good), Ok(good.to_owned()), "{good}");
        }
        for (bad, named) in [
            ("verbose", "verbose"),
            ("info,gateway=loud", "gateway=loud"),
            ("nonsense=", "nonsense="),
            ("gateway=info=1", "gateway=info=1"),
            ("info/a/b", "a/b"),
        ] {
            let why = checked(bad).unwrap_err();
            assert!(why.contains(&format!("{named:?}")), "{why}");
        }
    }

    #[test]
    fn the_journal_gets_priorities_and_people_get_our_name() {
        assert_eq!(line(true, Level::Error, "x\ny"), "<3>x y\n");
        assert_eq!(line(true, Level::Info, "x"), "<6>x\n");
        assert_eq!(line(false, Level::Error, "x"), "gateway: x\n");
        let long = line(
            false,
            Level::Warn,
            &format!("{}; do this", "ä".repeat(4000)),
        );
        assert!(long.len() < 4096 && long.ends_with("; do this\n"));
    }
}
