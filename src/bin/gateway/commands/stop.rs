//! `stop`: ends the holder that is found, and says what became of it.

use std::time::Instant;

use gateway_lock::Result;
use gateway_lock::acquire::Refused;
use gateway_lock::progress::Progress;
use gateway_lock::record::Record;
use gateway_lock::signals::Signals;
use gateway_lock::stop::{Gone, Stopped, stop as stop_holder};
use gateway_lock::sweep::Ended;
use gateway_lock::takeover::{Mode, Rules};
use gateway_lock::view::{State, View};

use crate::cli::StopPatience;
use crate::commands::{Context, give_up, interrupted};
use crate::exit::Verdict;
use crate::narrator::Narrator;
use crate::refusal;
use crate::words::{self, Subject};

pub fn stop(context: &Context, patience: &StopPatience) -> Result<Verdict> {
    let mut signals = Signals::route()?;
    let subject = context.subject()?;
    let began = Instant::now();
    let mut narrator = Narrator::new(context.voice, &subject, Mode::Stop);
    let mut progress = |progress: Progress<'_>| narrator.progress(&progress);
    let rules = Rules {
        mode: Mode::Stop,
        timeout: patience.timeout,
        kill_after: patience.kill_after,
    };
    let stopped = stop_holder(&subject.path, rules, &mut signals, &mut progress)?;
    narrator.end();
    Ok(match stopped {
        Stopped::Nothing(view) => nothing(context, &view),
        Stopped::Gone(gone) => self::gone(context, &gone, &subject),
        Stopped::Cleared(ended) => cleared(context, &ended, &subject),
        Stopped::Refused(refused) => self::refused(context, &refused, &subject, began),
        Stopped::Interrupted(asked) => {
            interrupted(context, &mut signals, &asked, &subject, Mode::Stop)
        }
    })
}

fn nothing(context: &Context, view: &View) -> Verdict {
    let path = words::path(&view.path);
    let why = match (&view.state, words::named_by_others(view)) {
        (State::Crashed, Some(other)) => format!("{path}: {other}"),
        (State::Crashed, None) => format!("the last run crashed and left nothing, {path}"),
        _ => format!("nobody holds the lock, {path}"),
    };
    context.voice.expected(&format!("nothing to stop: {why}"));
    if let Some(others) = context.others() {
        context.voice.expected(&others);
    }
    Verdict::SUCCESS
}

fn cleared(context: &Context, ended: &[Ended], subject: &Subject) -> Verdict {
    context.voice.expected(&format!(
        "ended what a crashed run had left: {}, {}",
        words::ended(ended),
        words::path(&subject.path)
    ));
    Verdict::SUCCESS
}

fn refused(context: &Context, refused: &Refused, subject: &Subject, began: Instant) -> Verdict {
    let text = refusal::text(refused, subject, began.elapsed(), Mode::Stop);
    give_up(context, refused, &text)
}

fn gone(context: &Context, gone: &Gone, subject: &Subject) -> Verdict {
    let who = words::process(gone.holder.pid, &gone.holder.argv);
    let path = words::path(&subject.path);
    if !gone.swept.is_empty() {
        context.voice.expected(&format!(
            "ended what {who} had left: {}, {path}",
            words::ended(&gone.swept)
        ));
    }
    log::info!("stopped {who} after {}, {path}", words::span(gone.after));
    if let Some(successor) = &gone.successor {
        context.voice.expected(&format!(
            "stopped {who}; {} has taken over, {path}; to stop that, too: {}",
            words::subject(&words::sighting(successor)),
            subject.typed("stop")
        ));
    }
    if let Some(record) = &gone.holder.record {
        revival(context, record);
    }
    Verdict::SUCCESS
}

/// A service manager may bring it back.
fn revival(context: &Context, record: &Record) {
    let Some(stop) = words::systemctl("stop", record) else {
        return;
    };
    context.voice.expected(&format!(
        "it belonged to a unit, which Restart=always would bring back; to stop the unit: {stop}"
    ));
}
