//! The course of a command under the lock: the decision, as a pure function.
//!
//! Events and the time go in, what to do to the payload comes out; nothing here looks at the system.
//! Whoever performs it is in `supervise`.

use std::time::Duration;

use crate::signal::Signal;
use crate::time::Limit;

/// How long leftovers of an ended command get between SIGTERM and SIGKILL.
const LEFTOVER_GRACE: Duration = Duration::from_secs(5);

/// Killed processes may have born others in the meantime; the pause doubles, up to sixteen times.
const KILL_AGAIN: Duration = Duration::from_millis(100);

/// What the caller decided.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// What an ordered stop sends; none: the signal that came.
    pub stop_signal: Option<Signal>,
    /// How long the payload then gets.
    pub stop_timeout: Limit,
    /// Whether we were started with a controlling terminal.
    pub terminal: bool,
    /// Whether the command may speak to the service manager.
    pub may_notify: bool,
}

/// Why what is left is killed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Why {
    /// Its time is over.
    TimeIsOver,
    /// Ctrl-C was pressed once more: somebody does not want to wait.
    InterruptedAgain,
}

/// What to do to the payload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// Nothing.
    Nothing,
    /// Send its first process this signal.
    PassOn(Signal),
    /// Begin an ordered stop: send its first process this, unless it has heard it already.
    Stop {
        /// What to send.
        send: Option<Signal>,
    },
    /// Ask everything that is left.
    AskRest {
        /// How long that gets.
        within: Duration,
    },
    /// Kill everything.
    KillAll(Why),
    /// It is over.
    Finish,
}

/// Where a signal came from, as far as it matters to the payload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KeySource {
    /// A process.
    Somebody,
    /// A key was pressed, and the payload's first process has not heard of it.
    Terminal,
    /// A key was pressed, and the first process is in the foreground group like us.
    TerminalToAll,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Running,
    Stopping,
    Clearing,
    Killing(Why),
}

/// The decision.
#[derive(Clone, Debug)]
pub struct Course {
    rules: Rules,
    command: bool,
    phase: Phase,
    /// Ctrl-C has been pressed.
    interrupted: bool,
    due: Option<Duration>,
    kills: u32,
}

impl Course {
    /// A command that runs (or none).
    #[must_use]
    pub fn new(rules: &Rules, command: bool) -> Self {
        Self {
            rules: *rules,
            command,
            phase: Phase::Running,
            interrupted: false,
            due: None,
            kills: 0,
        }
    }

    /// When [`Course::time`] has something to do.
    #[must_use]
    pub fn due(&self) -> Option<Duration> {
        self.due
    }

    /// Whether an ordered stop has begun, or the end.
    #[must_use]
    pub fn is_ending(&self) -> bool {
        self.phase != Phase::Running
    }

    /// Whether this signal asks for an ordered stop. HUP does where a terminal is gone.
    #[must_use]
    pub fn stops(&self, signal: Signal) -> bool {
        matches!(signal, Signal::TERM | Signal::INT) || signal == Signal::HUP && self.rules.terminal
    }

    /// A signal came, from somebody or from the terminal's driver.
    pub fn signal(&mut self, now: Duration, signal: Signal, source: KeySource) -> Action {
        let heard = source == KeySource::TerminalToAll;
        if !self.stops(signal) {
            let keys = matches!(signal, Signal::QUIT | Signal::WINCH);
            return if heard && keys || !self.command {
                Action::Nothing
            } else {
                Action::PassOn(signal)
            };
        }
        let ctrl_c = signal == Signal::INT && source != KeySource::Somebody;
        let again = ctrl_c && std::mem::replace(&mut self.interrupted, true);
        match self.phase {
            Phase::Running => self.stop(now, signal, heard && signal == Signal::INT),
            // Only a second Ctrl-C is a person who does not want to wait: the first may be about
            // something else, after a TERM of somebody else.
            Phase::Stopping | Phase::Clearing if again => self.kill(now, Why::InterruptedAgain),
            _ => Action::Nothing,
        }
    }

    /// The name was lost: an ordered stop.
    pub fn lost(&mut self, now: Duration) -> Action {
        if self.phase == Phase::Running {
            self.stop(now, Signal::TERM, false)
        } else {
            Action::Nothing
        }
    }

    fn stop(&mut self, now: Duration, signal: Signal, heard: bool) -> Action {
        if !self.command {
            return Action::Finish;
        }
        self.phase = Phase::Stopping;
        self.due = self
            .rules
            .stop_timeout
            .finite()
            .map(|length| now.saturating_add(length));
        let first = self.rules.stop_signal.unwrap_or(signal);
        let send = (!heard || first != signal).then_some(first);
        Action::Stop { send }
    }

    fn kill(&mut self, now: Duration, why: Why) -> Action {
        self.phase = Phase::Killing(why);
        self.due = Some(now + KILL_AGAIN * 2u32.pow(self.kills.min(4)));
        self.kills += 1;
        Action::KillAll(why)
    }

    /// The command's first process has ended; `left`: something of it is still there.
    pub fn first_gone(&mut self, now: Duration, left: bool) -> Action {
        if !left {
            return Action::Finish;
        }
        match self.phase {
            Phase::Running | Phase::Stopping => {
                let within = self.grace(now);
                self.due = Some(now + within);
                self.phase = Phase::Clearing;
                Action::AskRest { within }
            }
            Phase::Clearing | Phase::Killing(_) => Action::Nothing,
        }
    }

    /// Leftovers get no more than the stop budget, or what an ordered stop has left of it.
    fn grace(&self, now: Duration) -> Duration {
        let budget = match self.due {
            Some(due) => Some(due.saturating_sub(now)),
            None => self.rules.stop_timeout.finite(),
        };
        budget.map_or(LEFTOVER_GRACE, |budget| budget.min(LEFTOVER_GRACE))
    }

    /// Time has passed.
    pub fn time(&mut self, now: Duration) -> Action {
        if self.due.is_none_or(|due| now < due) {
            return Action::Nothing;
        }
        let why = match self.phase {
            Phase::Killing(why) => why,
            _ => Why::TimeIsOver,
        };
        self.kill(now, why)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(terminal: bool) -> Rules {
        let stop_timeout = Limit::After(Duration::from_secs(30));
        Rules {
            stop_signal: None,
            stop_timeout,
            terminal,
            may_notify: false,
        }
    }

    fn course(terminal: bool) -> Course {
        Course::new(&rules(terminal), true)
    }

    const NOW: Duration = Duration::from_secs(1);
    const LATER: Duration = Duration::from_secs(31);

    #[test]
    fn term_begins_a_stop_and_a_second_one_changes_nothing() {
        let mut course = course(false);
        assert_eq!(
            course.signal(NOW, Signal::TERM, KeySource::Somebody),
            Action::Stop {
                send: Some(Signal::TERM)
            }
        );
        assert_eq!(
            course.signal(NOW, Signal::TERM, KeySource::Somebody),
            Action::Nothing
        );
        assert_eq!(course.time(NOW), Action::Nothing);
        assert_eq!(course.time(LATER), Action::KillAll(Why::TimeIsOver));
        assert_eq!(course.first_gone(LATER, false), Action::Finish);
    }

    #[test]
    fn a_chosen_stop_signal_replaces_the_one_that_came() {
        let mut course = Course::new(
            &Rules {
                stop_signal: Some(Signal::QUIT),
                ..rules(true)
            },
            true,
        );
        assert_eq!(
            course.signal(NOW, Signal::INT, KeySource::TerminalToAll),
            Action::Stop {
                send: Some(Signal::QUIT)
            }
        );
    }

    /// A program for which a second Ctrl-C means to drop everything had two from one key.
    #[test]
    fn a_chosen_stop_signal_that_the_key_has_sent_is_not_doubled() {
        let rules = Rules {
            stop_signal: Some(Signal::INT),
            ..rules(true)
        };
        let send = |signal, source| Course::new(&rules, true).signal(NOW, signal, source);
        let stop = |send| Action::Stop { send };
        assert_eq!(send(Signal::INT, KeySource::TerminalToAll), stop(None));
        for (signal, source) in [
            (Signal::INT, KeySource::Terminal),
            (Signal::INT, KeySource::Somebody),
            (Signal::TERM, KeySource::Somebody),
        ] {
            assert_eq!(send(signal, source), stop(Some(Signal::INT)));
        }
    }

    #[test]
    fn ctrl_c_is_not_doubled_and_a_second_one_kills() {
        let mut course = course(true);
        assert_eq!(
            course.signal(NOW, Signal::INT, KeySource::TerminalToAll),
            Action::Stop { send: None }
        );
        assert_eq!(
            course.signal(NOW, Signal::INT, KeySource::Somebody),
            Action::Nothing
        );
        assert_eq!(
            course.signal(NOW, Signal::INT, KeySource::TerminalToAll),
            Action::KillAll(Why::InterruptedAgain)
        );
    }

    /// Each row: what came, from whom, in order; and what the last of them does.
    #[test]
    fn only_a_second_key_shortens_a_stop() {
        use KeySource::{Somebody, Terminal, TerminalToAll};
        let (kill, nothing) = (Action::KillAll(Why::InterruptedAgain), Action::Nothing);
        let rows: [(&[(Signal, KeySource)], Action); 9] = [
            (&[(Signal::INT, TerminalToAll); 2], kill),
            (&[(Signal::INT, Terminal); 2], kill),
            // A key before the fork counts.
            (
                &[(Signal::INT, Terminal), (Signal::INT, TerminalToAll)],
                kill,
            ),
            (
                &[(Signal::TERM, Somebody), (Signal::INT, TerminalToAll)],
                nothing,
            ),
            (
                &[(Signal::TERM, Somebody), (Signal::INT, Terminal)],
                nothing,
            ),
            (
                &[
                    (Signal::TERM, Somebody),
                    (Signal::INT, TerminalToAll),
                    (Signal::INT, TerminalToAll),
                ],
                kill,
            ),
            (
                &[(Signal::INT, TerminalToAll), (Signal::TERM, Somebody)],
                nothing,
            ),
            (
                &[(Signal::INT, Somebody), (Signal::INT, TerminalToAll)],
                nothing,
            ),
            (
                &[(Signal::INT, TerminalToAll), (Signal::INT, Somebody)],
                nothing,
            ),
        ];
        for (signals, expected) in rows {
            let mut course = course(true);
            let actions: Vec<Action> = signals
                .iter()
                .map(|(signal, source)| course.signal(NOW, *signal, *source))
                .collect();
            assert_eq!(actions.last(), Some(&expected), "{signals:?}");
        }
    }

    #[test]
    fn the_reason_stays_while_it_is_killed_again() {
        let mut course = course(true);
        for _ in 0..2 {
            course.signal(NOW, Signal::INT, KeySource::TerminalToAll);
        }
        assert_eq!(
            course.time(NOW + KILL_AGAIN),
            Action::KillAll(Why::InterruptedAgain)
        );
    }

    #[test]
    fn an_interrupt_from_a_process_is_passed_on() {
        let mut course = course(true);
        assert_eq!(
            course.signal(NOW, Signal::INT, KeySource::Somebody),
            Action::Stop {
                send: Some(Signal::INT)
            }
        );
    }

    #[test]
    fn hangup_stops_with_a_terminal_and_reloads_without() {
        assert_eq!(
            course(true).signal(NOW, Signal::HUP, KeySource::Somebody),
            Action::Stop {
                send: Some(Signal::HUP)
            }
        );
        assert_eq!(
            course(false).signal(NOW, Signal::HUP, KeySource::Somebody),
            Action::PassOn(Signal::HUP)
        );
    }

    #[test]
    fn keys_reach_the_payload_once() {
        for key in [Signal::QUIT, Signal::WINCH] {
            assert_eq!(
                course(true).signal(NOW, key, KeySource::TerminalToAll),
                Action::Nothing
            );
            assert_eq!(
                course(true).signal(NOW, key, KeySource::Somebody),
                Action::PassOn(key)
            );
            assert_eq!(
                course(false).signal(NOW, key, KeySource::Somebody),
                Action::PassOn(key)
            );
        }
    }

    #[test]
    fn leftovers_are_asked_and_killed_within_the_budget() {
        let seconds = Duration::from_secs;
        let ask = |within| Action::AskRest {
            within: seconds(within),
        };
        let killed = Action::KillAll(Why::TimeIsOver);
        let mut unasked = course(false);
        assert_eq!(unasked.first_gone(NOW, true), ask(5));
        assert_eq!(unasked.first_gone(NOW, true), Action::Nothing);
        assert_eq!(unasked.time(seconds(5)), Action::Nothing);
        assert_eq!(unasked.time(seconds(6)), killed);
        assert_eq!(unasked.time(seconds(7)), killed);
        let mut late = course(false);
        late.signal(NOW, Signal::TERM, KeySource::Somebody);
        assert_eq!(late.first_gone(seconds(29), true), ask(2));
        assert_eq!(late.time(LATER), killed);
        // The budget of a run that ends by itself bounds them, too.
        for (budget, within) in [
            (Limit::After(seconds(1)), 1),
            (Limit::After(Duration::ZERO), 0),
            (Limit::Never, 5),
        ] {
            let rules = Rules {
                stop_timeout: budget,
                ..rules(false)
            };
            let mut course = Course::new(&rules, true);
            assert_eq!(course.first_gone(NOW, true), ask(within), "{budget:?}");
            assert_eq!(course.time(NOW + seconds(within)), killed);
        }
    }

    #[test]
    fn without_a_command_an_ordered_stop_is_the_end() {
        let mut course = Course::new(&rules(false), false);
        assert_eq!(
            course.signal(NOW, Signal::HUP, KeySource::Somebody),
            Action::Nothing
        );
        assert_eq!(
            course.signal(NOW, Signal::TERM, KeySource::Somebody),
            Action::Finish
        );
    }

    #[test]
    fn an_endless_budget_never_kills() {
        let mut course = Course::new(
            &Rules {
                stop_timeout: Limit::Never,
                ..rules(false)
            },
            true,
        );
        course.signal(NOW, Signal::TERM, KeySource::Somebody);
        assert_eq!(course.time(Duration::from_secs(1_000_000)), Action::Nothing);
    }

    #[test]
    fn a_lost_name_is_an_ordered_stop_with_its_own_end() {
        let mut course = course(false);
        assert!(!course.is_ending() && course.due().is_none());
        assert_eq!(
            course.lost(NOW),
            Action::Stop {
                send: Some(Signal::TERM)
            }
        );
        assert!(course.is_ending());
        assert_eq!(course.due(), Some(LATER));
        assert_eq!(course.lost(NOW), Action::Nothing);
        assert_eq!(course.time(LATER), Action::KillAll(Why::TimeIsOver));
        assert_eq!(course.due(), Some(LATER + KILL_AGAIN));
    }
}
