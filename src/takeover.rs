//! Who may hold the lock next: the decision, as a pure function.
//!
//! What is seen and the time go in, the next step comes out; nothing here looks at the system, so
//! that every order of events can be tried (and is: see the tests, which search them all). Who performs
//! the steps is in `acquire` and `stop`.

use std::time::Duration;

use crate::process::Identity;
use crate::time::Limit;

/// How long a plain start tries again while nobody is proven to hold: a probe by somebody else
/// cannot refuse it.
pub const PROBE_PATIENCE: Duration = Duration::from_millis(200);

/// How long a plain start waits for a gateway that has not described itself, or is letting go.
pub const START_PATIENCE: Duration = Duration::from_secs(15);

/// How long an asked holder gets where it recorded no stop budget.
pub const UNRECORDED_BUDGET: Duration = Duration::from_secs(30);

/// What a holder gets beyond its own stop budget.
pub const BEYOND_BUDGET: Duration = Duration::from_secs(5);

/// What the whole wait has beyond `kill_after`.
const BEYOND_KILL: Duration = Duration::from_secs(10);

/// What to do about a holder.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Mode {
    /// Nothing: be refused.
    Plain,
    /// Stand in line.
    Wait,
    /// Ask it to go, and take over.
    Replace,
    /// Ask it to go, and be done.
    Stop,
}

/// What the caller decided.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Rules {
    /// What to do about a holder.
    pub mode: Mode,
    /// The end of the whole wait, from its beginning.
    pub timeout: Option<Limit>,
    /// How long an asked holder gets before SIGKILL.
    pub kill_after: Option<Limit>,
}

impl Rules {
    /// A mode with its default limits.
    #[must_use]
    pub fn of(mode: Mode) -> Self {
        Self {
            mode,
            timeout: None,
            kill_after: None,
        }
    }

    /// How long a holder with this stop budget gets before SIGKILL.
    #[must_use]
    pub fn kill_after(&self, budget: Option<Limit>) -> Limit {
        self.kill_after.unwrap_or_else(|| match budget {
            Some(budget) => budget.plus(BEYOND_BUDGET),
            None => Limit::After(UNRECORDED_BUDGET),
        })
    }
}

/// Why a proven holder is not for us to ask.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Bar {
    /// It is our own ancestor: we would end with it.
    Ancestor,
    /// It belongs to somebody else.
    NotPermitted,
    /// It is the first process of our own pid namespace.
    Init,
}

/// What is seen at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Seen {
    /// The lock is ours, the path names the file, and nobody holds an earlier one.
    Free,
    /// The path names another file by now.
    Moved,
    /// Somebody has the lock.
    Held(Standing),
}

/// Somebody who has the lock.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Standing {
    /// Recorded and proven.
    Proven {
        /// The process.
        who: Identity,
        /// Its stop budget, if it recorded one.
        budget: Option<Limit>,
        /// What forbids to ask it.
        bar: Option<Bar>,
        /// It has marked its record ended already.
        ending: bool,
    },
    /// A gateway that has not described itself yet.
    Starting,
    /// Somebody whom the record does not describe, or who cannot be seen.
    Unproven,
}

/// What to do next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// The lock is ours: go on.
    Start,
    /// Let go, and begin again at the path.
    Reopen,
    /// Ask the proven holder to go, through its pidfd, after proving it once more.
    Ask,
    /// Kill it, likewise.
    Kill,
    /// Sleep, at most until then (since the beginning), and look again.
    Sleep(Option<Duration>),
    /// Give up.
    Refuse(Refusal),
}

/// Why a start or a stop gives up.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Refusal {
    /// A proven holder, and nobody said to replace it.
    Held,
    /// The time is over.
    Deadline,
    /// Nobody was proven to hold, so there was nobody to ask.
    Unproven,
    /// The holder is not for us to ask.
    Barred(Bar),
    /// The wait would end before the holder's time to stop does, so it is not asked at all.
    TooShort {
        /// The end of the wait, from its beginning.
        timeout: Duration,
        /// The least that would do, from its beginning; none where the holder takes for ever.
        needed: Option<Duration>,
    },
}

/// A holder that was asked to go.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Asked {
    who: Identity,
    at: Duration,
    kill_after: Limit,
    killed: bool,
}

/// How long a wait goes on that asked at this time. `None`: for ever.
fn end(at: Duration, kill_after: Limit) -> Option<Duration> {
    let length = kill_after.plus(BEYOND_KILL).finite()?;
    Some(at.saturating_add(length))
}

impl Asked {
    fn end(&self) -> Option<Duration> {
        end(self.at, self.kill_after)
    }

    fn kill_due(&self) -> Option<Duration> {
        if self.killed {
            None
        } else {
            self.kill_after
                .finite()
                .map(|length| self.at.saturating_add(length))
        }
    }
}

/// The decision: rules, and what has been done so far.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Takeover {
    rules: Rules,
    asked: Option<Asked>,
    /// The end of the wait where nobody is asked: that of those who were asked before, and heard it, if it
    /// is later. `None`: for ever.
    promised: Option<Duration>,
    /// Since when the unproven locker of now has been there.
    unproven_since: Duration,
}

impl Takeover {
    /// Nothing has been done yet.
    #[must_use]
    pub fn new(rules: Rules) -> Self {
        Self {
            rules,
            asked: None,
            promised: end(Duration::ZERO, rules.kill_after(None)),
            unproven_since: Duration::ZERO,
        }
    }

    /// What the caller decided.
    #[must_use]
    pub fn rules(&self) -> Rules {
        self.rules
    }

    /// Decides. `now` is the time since the beginning.
    pub fn next(&mut self, now: Duration, seen: Seen) -> Step {
        let standing = match seen {
            Seen::Free => return Step::Start,
            Seen::Moved => return Step::Reopen,
            Seen::Held(standing) => standing,
        };
        match self.rules.mode {
            Mode::Plain => self.plain(now, standing),
            Mode::Wait => self.wait(now, standing),
            Mode::Replace => self.press(now, standing),
            Mode::Stop => self.stop(now, standing),
        }
    }

    /// When the asked holder is to be killed.
    fn kill_due(&self) -> Option<Duration> {
        self.asked.and_then(|asked| asked.kill_due())
    }

    /// Nobody was there for the last step: the process did not hold any more. That takes no time away which
    /// those who heard it before have.
    pub fn take_back(&mut self) {
        if let Some(asked) = self.asked.take().filter(|asked| asked.killed) {
            self.keep_promise(asked);
        }
    }

    /// The last step failed: who was not asked has heard nothing, and a kill is due at the next look.
    pub fn step_failed(&mut self) {
        self.asked = self.asked.filter(|asked| asked.killed);
        if let Some(asked) = &mut self.asked {
            asked.killed = false;
        }
    }

    fn keep_promise(&mut self, asked: Asked) {
        let both = self.promised.zip(asked.end());
        self.promised = both.map(|(before, end)| before.max(end));
    }

    /// The end of the whole wait, as things stand.
    #[must_use]
    pub fn deadline(&self) -> Option<Duration> {
        if self.rules.mode == Mode::Wait || self.rules.timeout.is_some() {
            return self.rules.timeout.and_then(Limit::finite);
        }
        match self.asked {
            Some(asked) => asked.end(),
            None => self.promised,
        }
    }

    /// The unproven locker is another one than before: the lock was free in between, and patience
    /// begins anew.
    pub fn another_locker(&mut self, now: Duration) {
        self.unproven_since = now;
    }

    fn plain(&self, now: Duration, standing: Standing) -> Step {
        let probed = self
            .unproven_since
            .saturating_add(PROBE_PATIENCE)
            .min(START_PATIENCE);
        let (patience, refusal) = match standing {
            Standing::Proven { ending: false, .. } => return Step::Refuse(Refusal::Held),
            Standing::Proven { ending: true, .. } => (START_PATIENCE, Refusal::Held),
            Standing::Starting => (START_PATIENCE, Refusal::Unproven),
            Standing::Unproven => (probed, Refusal::Unproven),
        };
        if now >= patience {
            Step::Refuse(refusal)
        } else {
            Step::Sleep(Some(patience))
        }
    }

    fn wait(&self, now: Duration, standing: Standing) -> Step {
        if let Standing::Proven {
            bar: Some(Bar::Ancestor),
            ..
        } = standing
        {
            return Step::Refuse(Refusal::Barred(Bar::Ancestor));
        }
        self.sleep_or(now, Refusal::Deadline, None)
    }

    fn stop(&mut self, now: Duration, standing: Standing) -> Step {
        match standing {
            Standing::Proven { .. } => self.press(now, standing),
            // There is nobody to ask, and waiting longer would not make it so.
            Standing::Starting | Standing::Unproven => self.plain(now, standing),
        }
    }

    fn press(&mut self, now: Duration, standing: Standing) -> Step {
        let Standing::Proven {
            who,
            budget,
            bar,
            ending,
        } = standing
        else {
            return self.sleep_or(now, Refusal::Unproven, None);
        };
        if let Some(bar) = bar {
            return Step::Refuse(Refusal::Barred(bar));
        }
        match self.asked {
            Some(asked) if asked.who == who => self.go_on(now, asked),
            _ => self.ask(now, who, self.rules.kill_after(budget), ending),
        }
    }

    fn ask(&mut self, now: Duration, who: Identity, kill_after: Limit, ending: bool) -> Step {
        if let Some(refusal) = self.would_leave(now, kill_after) {
            // Asked nobody yet: say so at once. Otherwise the next one may still go by itself.
            return if self.asked.is_some() {
                self.sleep_or(now, refusal, None)
            } else {
                Step::Refuse(refusal)
            };
        }
        if let Some(before) = self.asked {
            self.keep_promise(before);
        }
        self.asked = Some(Asked {
            who,
            at: now,
            kill_after,
            killed: false,
        });
        if ending {
            self.sleep_or(now, Refusal::Deadline, self.kill_due())
        } else {
            Step::Ask
        }
    }

    /// Whether the wait would end before the holder's time to stop: then it is not asked. Only an
    /// explicit `kill_after` without end may ask and then leave.
    fn would_leave(&self, now: Duration, kill_after: Limit) -> Option<Refusal> {
        let timeout = self.rules.timeout?.finite()?;
        let needed = kill_after.finite().map(|length| now.saturating_add(length));
        let explicit = self.rules.kill_after == Some(Limit::Never);
        let leaves = needed.map_or(!explicit, |needed| needed >= timeout);
        leaves.then_some(Refusal::TooShort { timeout, needed })
    }

    fn go_on(&mut self, now: Duration, asked: Asked) -> Step {
        if asked.kill_due().is_some_and(|due| now >= due) {
            self.asked = Some(Asked {
                killed: true,
                ..asked
            });
            return Step::Kill;
        }
        self.sleep_or(now, Refusal::Deadline, self.kill_due())
    }

    /// `kill`: when the one who holds now is to be killed. A kill that cannot come is no reason to
    /// wake.
    fn sleep_or(&self, now: Duration, refusal: Refusal, kill: Option<Duration>) -> Step {
        let deadline = self.deadline();
        if deadline.is_some_and(|deadline| now >= deadline) {
            return Step::Refuse(refusal);
        }
        Step::Sleep(earliest(deadline, kill))
    }
}

fn earliest(one: Option<Duration>, other: Option<Duration>) -> Option<Duration> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::Pid;

    // Two who had the same number.
    const A: Identity = started(1);
    const B: Identity = started(2);

    const fn started(start_time: u64) -> Identity {
        Identity {
            pid: Pid::INIT,
            start_time,
        }
    }

    fn seconds(number: u64) -> Duration {
        Duration::from_secs(number)
    }

    fn proven(who: Identity) -> Seen {
        Seen::Held(Standing::Proven {
            who,
            budget: Some(Limit::After(seconds(30))),
            bar: None,
            ending: false,
        })
    }

    fn barred(bar: Bar) -> Seen {
        Seen::Held(Standing::Proven {
            who: A,
            budget: None,
            bar: Some(bar),
            ending: false,
        })
    }

    fn rules(mode: Mode, timeout: u64, kill_after: u64) -> Rules {
        let limit = |number| Some(Limit::After(seconds(number)));
        Rules {
            mode,
            timeout: limit(timeout),
            kill_after: limit(kill_after),
        }
    }

    const UNPROVEN: Seen = Seen::Held(Standing::Unproven);

    #[test]
    fn a_free_lock_starts_in_every_mode() {
        for mode in [Mode::Plain, Mode::Wait, Mode::Replace] {
            assert_eq!(
                Takeover::new(Rules::of(mode)).next(seconds(99), Seen::Free),
                Step::Start
            );
            assert_eq!(
                Takeover::new(Rules::of(mode)).next(seconds(99), Seen::Moved),
                Step::Reopen
            );
        }
    }

    #[test]
    fn a_plain_start_is_refused_at_once_by_a_proven_holder_and_by_a_probe_only_after_patience() {
        let mut plain = Takeover::new(Rules::of(Mode::Plain));
        assert_eq!(
            plain.next(seconds(0), proven(A)),
            Step::Refuse(Refusal::Held)
        );
        assert_eq!(
            plain.next(seconds(0), UNPROVEN),
            Step::Sleep(Some(PROBE_PATIENCE))
        );
        assert_eq!(
            plain.next(PROBE_PATIENCE, UNPROVEN),
            Step::Refuse(Refusal::Unproven)
        );
        let starting = Seen::Held(Standing::Starting);
        assert_eq!(
            plain.next(seconds(14), starting),
            Step::Sleep(Some(START_PATIENCE))
        );
        assert_eq!(
            plain.next(seconds(15), starting),
            Step::Refuse(Refusal::Unproven)
        );
    }

    #[test]
    fn one_probe_after_another_refuses_nobody_for_a_while() {
        let mut plain = Takeover::new(Rules::of(Mode::Plain));
        plain.another_locker(seconds(1));
        let patience = seconds(1) + PROBE_PATIENCE;
        assert_eq!(
            plain.next(seconds(1), UNPROVEN),
            Step::Sleep(Some(patience))
        );
        assert_eq!(
            plain.next(patience, UNPROVEN),
            Step::Refuse(Refusal::Unproven)
        );
        plain.another_locker(START_PATIENCE);
        assert_eq!(
            plain.next(START_PATIENCE, UNPROVEN),
            Step::Refuse(Refusal::Unproven)
        );
    }

    #[test]
    fn a_replacer_asks_once_kills_when_due_and_gives_up_at_the_end() {
        let mut takeover = Takeover::new(Rules::of(Mode::Replace));
        assert_eq!(takeover.next(seconds(1), proven(A)), Step::Ask);
        assert_eq!(
            takeover.next(seconds(2), proven(A)),
            Step::Sleep(Some(seconds(36)))
        );
        assert_eq!(takeover.next(seconds(36), proven(A)), Step::Kill);
        assert_eq!(
            takeover.next(seconds(37), proven(A)),
            Step::Sleep(Some(seconds(46)))
        );
        assert_eq!(
            takeover.next(seconds(46), proven(A)),
            Step::Refuse(Refusal::Deadline)
        );
    }

    #[test]
    fn a_new_holder_is_asked_anew_and_the_explicit_deadline_stays() {
        let mut takeover = Takeover::new(rules(Mode::Replace, 20, 5));
        assert_eq!(takeover.next(seconds(0), proven(A)), Step::Ask);
        assert_eq!(takeover.next(seconds(4), proven(B)), Step::Ask);
        assert_eq!(
            takeover.next(seconds(5), proven(B)),
            Step::Sleep(Some(seconds(9)))
        );
        assert_eq!(takeover.next(seconds(9), proven(B)), Step::Kill);
        assert_eq!(
            takeover.next(seconds(16), proven(A)),
            Step::Sleep(Some(seconds(20)))
        );
        let refusal = Refusal::TooShort {
            timeout: seconds(20),
            needed: Some(seconds(25)),
        };
        assert_eq!(takeover.next(seconds(20), proven(A)), Step::Refuse(refusal));
    }

    #[test]
    fn who_could_not_be_asked_is_asked_again_and_not_killed() {
        let mut takeover = Takeover::new(Rules::of(Mode::Replace));
        assert_eq!(takeover.next(seconds(0), proven(A)), Step::Ask);
        assert_eq!(takeover.next(seconds(3), proven(B)), Step::Ask);
        takeover.step_failed();
        assert_eq!(takeover.deadline(), Some(seconds(45)));
        assert_eq!(takeover.next(seconds(39), proven(B)), Step::Ask);
    }

    #[test]
    fn a_kill_that_failed_is_due_again() {
        let mut takeover = Takeover::new(Rules::of(Mode::Replace));
        assert_eq!(takeover.next(seconds(0), proven(A)), Step::Ask);
        assert_eq!(takeover.next(seconds(35), proven(A)), Step::Kill);
        takeover.step_failed();
        assert_eq!(takeover.next(seconds(36), proven(A)), Step::Kill);
    }

    #[test]
    fn a_promise_without_an_end_has_none() {
        let endless = Seen::Held(Standing::Proven {
            who: A,
            budget: Some(Limit::Never),
            bar: None,
            ending: false,
        });
        let mut takeover = Takeover::new(Rules::of(Mode::Replace));
        assert_eq!(takeover.next(seconds(0), endless), Step::Ask);
        assert_eq!(takeover.next(seconds(600), proven(B)), Step::Ask);
        takeover.take_back();
        assert_eq!(takeover.deadline(), None);
    }

    #[test]
    fn one_who_is_gone_when_it_is_to_be_killed_shortens_no_wait() {
        let mut takeover = Takeover::new(Rules::of(Mode::Replace));
        assert_eq!(takeover.next(seconds(30), proven(A)), Step::Ask);
        assert_eq!(takeover.next(seconds(65), proven(A)), Step::Kill);
        takeover.take_back();
        assert_eq!(takeover.deadline(), Some(seconds(75)));
        assert_eq!(
            takeover.next(seconds(66), Seen::Held(Standing::Starting)),
            Step::Sleep(Some(seconds(75)))
        );
    }

    #[test]
    fn the_kill_of_one_who_has_left_wakes_nobody() {
        let mut takeover = Takeover::new(rules(Mode::Replace, 8, 5));
        assert_eq!(takeover.next(seconds(0), proven(A)), Step::Ask);
        assert_eq!(
            takeover.next(seconds(4), UNPROVEN),
            Step::Sleep(Some(seconds(8)))
        );
        assert_eq!(
            takeover.next(seconds(6), UNPROVEN),
            Step::Sleep(Some(seconds(8)))
        );
        assert_eq!(
            takeover.next(seconds(6), proven(B)),
            Step::Sleep(Some(seconds(8)))
        );
    }

    #[test]
    fn nobody_is_asked_by_one_who_would_leave_before() {
        let mut short = Takeover::new(rules(Mode::Replace, 5, 5));
        let refusal = Refusal::TooShort {
            timeout: seconds(5),
            needed: Some(seconds(5)),
        };
        assert_eq!(short.next(seconds(0), proven(A)), Step::Refuse(refusal));
        let endless = Rules {
            timeout: Some(Limit::After(seconds(5))),
            kill_after: Some(Limit::Never),
            mode: Mode::Replace,
        };
        assert_eq!(
            Takeover::new(endless).next(seconds(0), proven(A)),
            Step::Ask
        );
        let endless_holder = Seen::Held(Standing::Proven {
            who: A,
            budget: Some(Limit::Never),
            bar: None,
            ending: false,
        });
        let limited = Rules {
            kill_after: None,
            ..endless
        };
        let refusal = Refusal::TooShort {
            timeout: seconds(5),
            needed: None,
        };
        assert_eq!(
            Takeover::new(limited).next(seconds(0), endless_holder),
            Step::Refuse(refusal)
        );
    }

    #[test]
    fn the_unproven_are_waited_for_and_never_asked() {
        let mut takeover = Takeover::new(Rules::of(Mode::Replace));
        for second in 0..40 {
            assert_eq!(
                takeover.next(seconds(second), UNPROVEN),
                Step::Sleep(Some(seconds(40)))
            );
        }
        assert_eq!(
            takeover.next(seconds(40), UNPROVEN),
            Step::Refuse(Refusal::Unproven)
        );
    }

    #[test]
    fn the_barred_are_refused_without_a_signal() {
        for bar in [Bar::Ancestor, Bar::NotPermitted, Bar::Init] {
            let mut takeover = Takeover::new(Rules::of(Mode::Replace));
            assert_eq!(
                takeover.next(seconds(0), barred(bar)),
                Step::Refuse(Refusal::Barred(bar))
            );
        }
        let mut waiting = Takeover::new(Rules::of(Mode::Wait));
        assert_eq!(
            waiting.next(seconds(0), barred(Bar::Ancestor)),
            Step::Refuse(Refusal::Barred(Bar::Ancestor))
        );
        assert_eq!(
            waiting.next(seconds(0), barred(Bar::NotPermitted)),
            Step::Sleep(None)
        );
    }

    #[test]
    fn an_ending_holder_is_not_asked_again_but_killed_when_due() {
        let ending = Seen::Held(Standing::Proven {
            who: A,
            budget: Some(Limit::After(seconds(1))),
            bar: None,
            ending: true,
        });
        let mut takeover = Takeover::new(Rules::of(Mode::Replace));
        assert_eq!(
            takeover.next(seconds(0), ending),
            Step::Sleep(Some(seconds(6)))
        );
        assert_eq!(takeover.next(seconds(6), ending), Step::Kill);
    }

    #[test]
    fn a_stop_asks_the_proven_and_does_not_wait_for_the_unproven() {
        let mut stop = Takeover::new(Rules::of(Mode::Stop));
        assert_eq!(
            stop.next(seconds(0), UNPROVEN),
            Step::Sleep(Some(PROBE_PATIENCE))
        );
        assert_eq!(stop.next(seconds(0), proven(A)), Step::Ask);
        assert_eq!(
            Takeover::new(Rules::of(Mode::Stop)).next(seconds(1), UNPROVEN),
            Step::Refuse(Refusal::Unproven)
        );
    }

    #[test]
    fn waiting_has_no_end_unless_told() {
        assert_eq!(
            Takeover::new(Rules::of(Mode::Wait)).next(seconds(9999), proven(A)),
            Step::Sleep(None)
        );
        let mut limited = Takeover::new(Rules {
            timeout: Some(Limit::After(seconds(3))),
            ..Rules::of(Mode::Wait)
        });
        assert_eq!(
            limited.next(seconds(2), proven(A)),
            Step::Sleep(Some(seconds(3)))
        );
        assert_eq!(
            limited.next(seconds(3), proven(A)),
            Step::Refuse(Refusal::Deadline)
        );
    }
}
