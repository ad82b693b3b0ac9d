//! What each command does: arguments into a library call, the answer into words.

pub mod list;
pub mod run;
pub mod status;
pub mod stop;

use gateway_lock::place::Surroundings;
use gateway_lock::{Result, census, variables};

use crate::cli::Global;
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
        let places = list::places(&Surroundings::of_this_process());
        let views = census::list(&places).ok()?;
        let held: Vec<String> = views
            .iter()
            .filter(|view| view.state.holder().is_some())
            .take(5)
            .map(|view| match list::name_of(&view.path, &places) {
                Some(name) => format!("gateway -n {name} status"),
                None => format!("gateway -f {} status", words::path(&view.path)),
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
