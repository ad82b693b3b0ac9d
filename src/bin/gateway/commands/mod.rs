//! What each command does: arguments into a library call, the answer into words.

pub mod list;
pub mod run;
pub mod status;
pub mod stop;

use std::io::{ErrorKind, Write};

use gateway_lock::acquire::Refused;
use gateway_lock::place::{Choice, Surroundings};
use gateway_lock::request::Former;
use gateway_lock::signals::Signals;
use gateway_lock::takeover::Mode;
use gateway_lock::{Result, census, variables};

use crate::cli::Global;
use crate::exit::{CANNOT_REPLACE, FAULT, Verdict};
use crate::message::Voice;
use crate::words::{self, Subject};

/// What every command needs.
pub struct Context {
    pub voice: Voice,
    pub global: Global,
}

impl Context {
    /// The pid file that is meant.
    pub fn subject(&self) -> Result<Subject> {
        let choice = self.global.choice();
        let path = Surroundings::of_this_process().pid_file(&choice)?;
        Ok(Subject::new(path, choice))
    }

    /// Nothing is at a path that nobody named: perhaps another one was meant.
    fn others(&self) -> Option<String> {
        let named = self.global.pid_file.is_some()
            || self.global.name.is_some()
            || std::env::var_os(variables::PID_FILE).is_some();
        if named {
            return None;
        }
        let around = Surroundings::of_this_process();
        let views = census::list(&around.places()).ok()?;
        let held: Vec<String> = views
            .iter()
            .filter(|view| view.state.holder().is_some() && !view.is_elsewhere())
            .take(5)
            .map(|view| {
                let choice = around
                    .name_of(&view.path)
                    .map_or(Choice::Default, Choice::Name);
                Subject::new(view.path.clone(), choice).typed("status")
            })
            .collect();
        (!held.is_empty()).then(|| {
            format!(
                "nobody named a pid file; other gateways run: {}",
                held.join("; ")
            )
        })
    }
}

/// Prints an answer; what cannot be printed is a fault, unless its reader has gone away.
pub fn print(voice: Voice, text: &str, verdict: Verdict) -> Verdict {
    printed(voice, std::io::stdout().write_all(text.as_bytes()), verdict)
}

/// What became of an answer that was printed.
pub fn printed(voice: Voice, written: std::io::Result<()>, verdict: Verdict) -> Verdict {
    match written.and_then(|()| std::io::stdout().flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            voice.fault(&format!("cannot write to stdout: {error}"));
            Verdict::Code(FAULT)
        }
        _ => verdict,
    }
}

/// Says why it came to nothing. That somebody else holds or the time is over was to be expected;
/// that a holder cannot be asked was not.
fn give_up(context: &Context, refused: &Refused, text: &str) -> Verdict {
    let verdict = Verdict::of_refusal(refused);
    if verdict == Verdict::Code(CANNOT_REPLACE) {
        context.voice.fault(text);
    } else {
        context.voice.expected(text);
    }
    verdict
}

/// A wait was interrupted: says what will become of whoever was asked, and ends of the signal.
fn interrupted(
    context: &Context,
    signals: &mut Signals,
    asked: &[Former],
    subject: &Subject,
    mode: Mode,
) -> Verdict {
    if let Some(former) = asked.last() {
        context.voice.expected(&format!(
            "interrupted; {}, {}, {}",
            words::process(former.pid, &former.argv),
            words::path(&subject.path),
            words::will_stop(former, subject, mode)
        ));
    }
    signals
        .take_stop()
        .map_or(Verdict::SUCCESS, |arrival| Verdict::Signal(arrival.signal))
}
