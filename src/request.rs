//! Requests to proven holders: who may be asked to go, asking, and SIGKILL when that is due.

use std::ffi::OsString;

use crate::holder::{Holder, Sighting};
use crate::process::{self, Pid};
use crate::progress::Progress;
use crate::record::Record;
use crate::signal::Signal;
use crate::takeover::{Bar, Mode, Standing, Takeover};
use crate::{Error, Result};

/// A holder that was asked, as far as it matters when it is gone.
#[derive(Clone, PartialEq, Debug)]
pub struct Former {
    /// Its pid.
    pub pid: Pid,
    /// Its command.
    pub argv: Vec<OsString>,
    /// Its record.
    pub record: Option<Record>,
    /// It had to be killed.
    pub killed: bool,
}

impl Former {
    /// Whether both are one: its record is another where it has put its claim back on another file.
    fn is(&self, other: &Self) -> bool {
        match (&self.record, &other.record) {
            (Some(one), Some(other)) => one.is_of_the_same_run(other),
            (None, None) => self.pid == other.pid,
            _ => false,
        }
    }

    /// What is worth keeping of a holder.
    pub(crate) fn of(holder: &Holder) -> Self {
        Self {
            pid: holder.pid(),
            argv: holder.command(),
            record: holder.record().cloned(),
            killed: false,
        }
    }
}

/// What a sighting means to the decision.
pub(crate) fn standing(who: &Sighting, mode: Mode) -> Standing {
    let proven = |holder: &Holder, ending| Standing::Proven {
        who: holder.identity(),
        budget: holder.stop_budget(),
        bar: bar(holder, mode),
        ending,
    };
    match who {
        // Just killed: the lock is as good as free.
        Sighting::Proven(holder) => proven(holder, mode == Mode::Plain && holder.is_dying()),
        Sighting::Ending(holder) => proven(holder, true),
        Sighting::Starting(_) => Standing::Starting,
        Sighting::Foreign(_) | Sighting::Invisible(_) => Standing::Unproven,
    }
}

fn bar(holder: &Holder, mode: Mode) -> Option<Bar> {
    let pid = holder.pid();
    match mode {
        Mode::Plain => None,
        Mode::Replace if pid == Pid::INIT => Some(Bar::Init),
        _ if process::ancestors().contains(&pid) => Some(Bar::Ancestor),
        Mode::Wait => None,
        Mode::Replace | Mode::Stop => (!holder.may_be_signalled()).then_some(Bar::NotPermitted),
    }
}

/// What became of a signal to a holder.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Sent {
    /// It was sent.
    Yes,
    /// The process does not hold any more, and nothing was sent.
    Gone,
    /// It is not ours to signal.
    Forbidden,
}

/// Those who were asked, one after another.
#[derive(Default)]
pub(crate) struct Requests(Vec<Former>);

impl Requests {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn take(&mut self) -> Vec<Former> {
        std::mem::take(&mut self.0)
    }

    /// The last one who was asked.
    pub(crate) fn take_last(&mut self) -> Option<Former> {
        self.0.pop()
    }

    /// Sends what `takeover` decided, SIGTERM or SIGKILL, and tells it what became of that.
    ///
    /// # Errors
    /// The system refuses, for another reason than permission.
    pub(crate) fn send(
        &mut self,
        signal: Signal,
        holder: &Holder,
        takeover: &mut Takeover,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<Sent> {
        let sent = send(signal, holder).inspect_err(|_| takeover.step_failed())?;
        match sent {
            Sent::Yes if signal == Signal::KILL => {
                self.note_killed(holder);
                progress(Progress::Killed { holder });
            }
            Sent::Yes => {
                self.note_asked(Former::of(holder));
                let kill_after = takeover.rules().kill_after(holder.stop_budget());
                progress(Progress::Asked { holder, kill_after });
            }
            // Nobody heard anything: who is not asked is not killed later, either.
            Sent::Gone => takeover.take_back(),
            Sent::Forbidden => {}
        }
        Ok(sent)
    }

    /// Who is asked once more is still one.
    fn note_asked(&mut self, former: Former) {
        self.0.retain(|asked| !asked.is(&former));
        self.0.push(former);
    }

    fn note_killed(&mut self, holder: &Holder) {
        let mut asked = self.0.iter_mut();
        if let Some(asked) = asked.rfind(|asked| asked.pid == holder.pid()) {
            asked.killed = true;
        }
    }
}

/// Sends a proven holder a signal, and wakes it if it is stopped.
fn send(signal: Signal, holder: &Holder) -> Result<Sent> {
    match holder.signal(signal) {
        Ok(true) => {
            if signal != Signal::KILL {
                holder.wake_if_stopped();
            }
            Ok(Sent::Yes)
        }
        Ok(false) => Ok(Sent::Gone),
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => Ok(Sent::Forbidden),
        Err(error) => Err(
            Error::system(format!("cannot send {signal} to pid {}", holder.pid())).because(error),
        ),
    }
}
