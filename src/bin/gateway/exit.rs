//! How the program ends. The numbers are as public as the flags: the manual prints this table.

use gateway_lock::acquire::Refused;
use gateway_lock::process::Pid;
use gateway_lock::record::Exit;
use gateway_lock::signal::Signal;
use gateway_lock::takeover::Refusal;
use gateway_lock::{Error, ErrorKind};

/// Wrong usage.
pub const USAGE: u8 = 2;
/// A fault of our own.
pub const FAULT: u8 = 70;
/// Held by someone else.
pub const HELD: u8 = 80;
/// Gave up waiting at the deadline.
pub const DEADLINE: u8 = 81;
/// Cannot replace or stop the holder.
pub const CANNOT_REPLACE: u8 = 82;
/// The pid file cannot be used.
pub const PID_FILE: u8 = 83;
/// Lost the claim.
pub const LOST: u8 = 84;
/// COMMAND cannot be executed.
pub const NOT_EXECUTABLE: u8 = 126;
/// COMMAND is not found.
pub const NOT_FOUND: u8 = 127;

/// `status`, as the LSB has it: the lock is held, also by one that starts, ends, or is foreign.
pub const STATUS_HELD: u8 = 0;
/// `status`: the last holder crashed.
pub const STATUS_CRASHED: u8 = 1;
/// `status`: nobody holds.
pub const STATUS_FREE: u8 = 3;
/// `status`: it cannot tell.
pub const STATUS_UNKNOWN: u8 = 4;

/// How to end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// With this code.
    Code(u8),
    /// Of this signal: clean to a service manager, and a shell stops its script.
    Signal(Signal),
}

impl Verdict {
    /// All is well.
    pub const SUCCESS: Self = Self::Code(0);

    /// COMMAND's own ending, passed on.
    pub fn of(exit: Exit) -> Self {
        match exit {
            Exit::Code(code) => Self::Code(u8::try_from(code & 0xff).unwrap_or(FAULT)),
            Exit::Signal(signal) => Self::Code(beyond(signal)),
        }
    }

    /// What an error ends with.
    pub fn of_error(error: &Error) -> Self {
        Self::Code(match error.kind() {
            ErrorKind::PidFile => PID_FILE,
            ErrorKind::CommandNotFound => NOT_FOUND,
            ErrorKind::CommandNotExecutable => NOT_EXECUTABLE,
            _ => FAULT,
        })
    }

    /// What a refusal ends with.
    pub fn of_refusal(refused: &Refused) -> Self {
        Self::Code(match refused {
            Refused::By {
                refusal: Refusal::Held,
                ..
            } => HELD,
            Refused::By {
                refusal: Refusal::Deadline,
                ..
            }
            | Refused::Survivors {
                own_ancestor: false,
                ..
            } => DEADLINE,
            Refused::By { .. } | Refused::Survivors { .. } => CANNOT_REPLACE,
        })
    }

    /// Dies of the signal, or says which code to end with. A signal cannot kill the first process of a pid namespace: 128+s there.
    pub fn end(self) -> u8 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => {
                if Pid::this() != Pid::INIT {
                    // Comes back only for a signal of which nobody dies.
                    let _ = signal_hook::low_level::emulate_default_handler(signal.number());
                }
                beyond(signal)
            }
        }
    }
}

fn beyond(signal: Signal) -> u8 {
    u8::try_from(128 + signal.number()).unwrap_or(FAULT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_is_the_one_in_the_manual() {
        let own = [
            USAGE,
            FAULT,
            HELD,
            DEADLINE,
            CANNOT_REPLACE,
            PID_FILE,
            LOST,
            NOT_EXECUTABLE,
            NOT_FOUND,
        ];
        assert_eq!(own, [2, 70, 80, 81, 82, 83, 84, 126, 127]);
        assert_eq!(
            [STATUS_HELD, STATUS_CRASHED, STATUS_FREE, STATUS_UNKNOWN],
            [0, 1, 3, 4]
        );
    }

    #[test]
    fn a_commands_ending_is_passed_on() {
        assert_eq!(Verdict::of(Exit::Code(7)), Verdict::Code(7));
        assert_eq!(Verdict::of(Exit::Signal(Signal::SEGV)), Verdict::Code(139));
    }
}
