//! `stop`: ends the holder that is found, and says what became of it.

use std::time::Instant;

use gateway_lock::Result;
use gateway_lock::acquire::{Former, Progress, Refused};
use gateway_lock::record::Record;
use gateway_lock::signals::Signals;
use gateway_lock::stop::{Gone, Stopped, stop as stop_holder};
use gateway_lock::survivors::Ended;
use gateway_lock::takeover::{Mode, Refusal, Rules};
use gateway_lock::view::State;

use crate::cli::Patience;
use crate::commands::Context;
use crate::exit::{CANNOT_REPLACE, DEADLINE, Verdict};
use crate::narrator::Narrator;
use crate::words::{self, Subject};

pub fn stop(context: &Context, patience: &Patience) -> Result<Verdict> {
    let mut signals = Signals::route()?;
    let subject = context.subject()?;
    let began = Instant::now();
    let rules = Rules {
        mode: Mode::Stop,
        timeout: patience.timeout,
        kill_after: patience.kill_after,
    };
    let mut narrator = Narrator::new(context.voice, &subject, Mode::Stop);
    let stopped = stop_holder(
        &subject.path,
        rules,
        &mut signals,
        &mut |progress: Progress<'_>| narrator.progress(&progress),
    )?;
    narrator.end();
    Ok(match stopped {
        Stopped::Nothing(view) => {
            let path = words::path(&view.path);
            let why = if matches!(view.state, State::Crashed) {
                "the last run crashed and left nothing"
            } else {
                "nobody holds it"
            };
            context
                .voice
                .expected(&format!("nothing to stop: {why}, {path}"));
            if let Some(others) = context.others() {
                context.voice.expected(&others);
            }
            Verdict::SUCCESS
        }
        Stopped::Gone(gone) => {
            tell(context, &gone, &subject);
            Verdict::SUCCESS
        }
        Stopped::Cleared(ended) => {
            context.voice.expected(&format!(
                "ended what a crashed run had left: {}, {}",
                names(&ended),
                words::path(&subject.path)
            ));
            Verdict::SUCCESS
        }
        Stopped::Refused(refused) => {
            let text = words::refused(&refused, &subject, began.elapsed(), "stop");
            let code = code(&refused);
            // That the time is over was to be expected; that it cannot be stopped was not.
            if code == DEADLINE {
                context.voice.expected(&text)
            } else {
                context.voice.fault(&text)
            }
            Verdict::Code(code)
        }
        Stopped::Interrupted(asked) => interrupted(context, &mut signals, &asked, &subject),
    })
}

fn code(refused: &Refused) -> u8 {
    match refused {
        Refused::By {
            refusal: Refusal::Deadline,
            ..
        }
        | Refused::Survivors {
            own_ancestor: false,
            ..
        } => DEADLINE,
        _ => CANNOT_REPLACE,
    }
}

fn interrupted(
    context: &Context,
    signals: &mut Signals,
    asked: &[Former],
    subject: &Subject,
) -> Verdict {
    if let Some(former) = asked.last() {
        let who = words::process(former.pid, &former.argv);
        context.voice.notice(&format!(
            "interrupted; {who} was asked, and will stop all the same, {}",
            words::path(&subject.path)
        ));
    }
    signals
        .take_stop()
        .map_or(Verdict::SUCCESS, |arrival| Verdict::Signal(arrival.signal))
}

fn names(ended: &[Ended]) -> String {
    ended
        .iter()
        .map(|one| words::process(one.pid, &one.argv))
        .collect::<Vec<_>>()
        .join(", ")
}

fn tell(context: &Context, gone: &Gone, subject: &Subject) {
    let who = words::process(gone.holder.pid, &gone.holder.argv);
    let path = words::path(&subject.path);
    if !gone.swept.is_empty() {
        context.voice.expected(&format!(
            "ended what {who} had left: {}, {path}",
            names(&gone.swept)
        ));
    }
    log::info!("stopped {who} after {}, {path}", words::span(gone.after));
    if let Some(successor) = &gone.successor {
        let now = match successor {
            State::Held(holder) | State::Ending(holder) | State::Removed(holder) => {
                words::holder(holder)
            }
            State::Starting(Some(locker)) | State::Foreign(locker) => {
                words::process(locker.pid, &locker.argv)
            }
            _ => "somebody else".to_owned(),
        };
        context.voice.notice(&format!(
            "stopped {who}; {now} has taken over, {path}; to stop that, too: {}",
            subject.typed("stop")
        ));
    }
    if let Some(record) = &gone.holder.record {
        revival(context, record);
    }
}

/// A service manager may bring it back.
fn revival(context: &Context, record: &Record) {
    let Some(stop) = words::systemctl("stop", record) else {
        return;
    };
    context.voice.notice(&format!(
        "it belonged to a unit, which Restart=always would bring back; to stop the unit: {stop}"
    ));
}
