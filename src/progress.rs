//! What happens while a lock is sought or a holder is stopped, for whoever tells people.

use std::time::{Duration, Instant};

use crate::holder::{Holder, Sighting};
use crate::process::Pid;
use crate::survivors::Survivor;
use crate::time::Limit;

/// For this long an unseen holder is not reported.
const UNSEEN: Duration = Duration::from_secs(1);

/// The least time between two reports of the same wait.
const AGAIN: Duration = Duration::from_millis(900);

/// One thing that happened.
#[derive(Debug)]
pub enum Progress<'a> {
    /// Somebody has the lock. Told at once, and then about once a second.
    Waiting {
        /// Who.
        who: &'a Sighting,
        /// How long until the next thing happens by itself; none: no end.
        left: Option<Duration>,
    },
    /// The holder was asked to go.
    Asked {
        /// Whom.
        holder: &'a Holder,
        /// When it will be killed.
        kill_after: Limit,
    },
    /// The holder did not go in time, and was sent SIGKILL.
    Killed {
        /// Whom.
        holder: &'a Holder,
    },
    /// What a crash left is being ended.
    Ending {
        /// These.
        survivors: &'a [Survivor],
    },
}

/// What was told of a wait: whom it is for is told at once, again when that changes, and about once
/// a second.
#[derive(Default)]
pub(crate) struct Told {
    whom: Option<Option<Pid>>,
    at: Option<Instant>,
    unseen_since: Option<Instant>,
}

impl Told {
    /// Whether anybody has been told of.
    pub(crate) fn anybody(&self) -> bool {
        self.whom.is_some()
    }

    pub(crate) fn waiting(
        &mut self,
        who: &Sighting,
        left: Option<Duration>,
        progress: &mut dyn FnMut(Progress<'_>),
    ) {
        // A holder that is just being killed cannot be seen for a moment either; and who looks is soon through.
        let unseen = matches!(who, Sighting::Invisible(_)) || who.is_a_look();
        self.unseen_since = if unseen {
            self.unseen_since.or(Some(Instant::now()))
        } else {
            None
        };
        if self
            .unseen_since
            .is_some_and(|since| since.elapsed() < UNSEEN)
        {
            return;
        }
        let whom = Some(who.pid());
        let due = self.at.is_none_or(|at| at.elapsed() >= AGAIN);
        if self.whom != whom || due {
            self.whom = whom;
            self.at = Some(Instant::now());
            progress(Progress::Waiting { who, left });
        }
    }
}
