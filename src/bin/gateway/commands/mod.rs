//! What each command does: arguments into a library call, the answer into words.

pub mod list;
pub mod run;
pub mod status;
pub mod stop;

use gateway_lock::place::{Choice, Surroundings};
use gateway_lock::{census, variables};

use crate::cli::Global;
use crate::message::Voice;
use crate::words::Subject;

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
