//! What a run marks its processes with: variables in the environment they are started with.
//!
//! They are inherited, and nobody but the process itself (or who starts it) can change them; a
//! process may overwrite or drop them all the same.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use crate::process::{Environ, Pid};
use crate::record::Record;
use crate::variables::{GENERATION, PID, PID_FILE, RUN_ID};

/// The marks for the command of this run. `outer`: the run ids that we were started with ourselves,
/// which come first: a process belongs to all the runs above it.
#[must_use]
pub fn of_run(record: &Record, outer: Option<OsString>) -> [(&'static str, OsString); 4] {
    [
        (PID_FILE, record.path.0.clone()),
        (PID, record.pid.to_string().into()),
        (RUN_ID, run_ids(outer, &record.run_id)),
        (GENERATION, record.generation.to_string().into()),
    ]
}

fn run_ids(outer: Option<OsString>, own: &str) -> OsString {
    let mut ids = outer
        .filter(|outer| !outer.is_empty())
        .map(OsStringExt::into_vec)
        .unwrap_or_default();
    if !ids.is_empty() {
        ids.push(b':');
    }
    ids.extend(own.as_bytes());
    OsString::from_vec(ids)
}

/// Whether it is the environment of a process of this run, or of a run below it.
#[must_use]
pub fn has_run_id(environ: &Environ, run_id: &str) -> bool {
    environ.get(RUN_ID).is_some_and(|ids| {
        ids.split(|byte| *byte == b':')
            .any(|id| id == run_id.as_bytes())
    })
}

/// Whether it is the environment of a process of this run, or of any run of the same pid file.
#[must_use]
pub fn names_run_or_file(environ: &Environ, record: &Record) -> bool {
    has_run_id(environ, &record.run_id)
        || environ.get(PID_FILE) == Some(record.path.0.as_os_str().as_bytes())
}

/// Whether a process was started under the run of this id.
#[must_use]
pub fn is_marked(pid: Pid, run_id: &str) -> bool {
    Environ::look(pid)
        .ok()
        .flatten()
        .is_some_and(|environ| has_run_id(&environ, run_id))
}

/// The gateway that started the process with this environment.
#[must_use]
pub fn gateway_of(environ: &Environ) -> Option<Pid> {
    Pid::new(std::str::from_utf8(environ.get(PID)?).ok()?.parse().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::tests::example;

    #[test]
    fn run_ids_of_outer_gateways_come_first() {
        assert_eq!(run_ids(None, "b"), "b");
        assert_eq!(run_ids(Some("".into()), "b"), "b");
        assert_eq!(run_ids(Some("a".into()), "b"), "a:b");
    }

    #[test]
    fn a_run_id_is_a_member_of_a_list() {
        let id = example().run_id;
        let list = format!("{RUN_ID}=ffff:{id}:0000\0");
        assert!(has_run_id(&Environ::from_bytes(list.as_bytes()), &id));
        let longer = format!("{RUN_ID}={id}0\0");
        assert!(!has_run_id(&Environ::from_bytes(longer.as_bytes()), &id));
    }

    #[test]
    fn what_a_run_marks_is_known_again() {
        let record = example();
        let marks = of_run(&record, Some("outer".into()));
        let text: Vec<u8> = marks
            .iter()
            .flat_map(|(name, value)| [name.as_bytes(), b"=", value.as_bytes(), b"\0"].concat())
            .collect();
        let environ = Environ::from_bytes(&text);
        assert!(has_run_id(&environ, &record.run_id) && has_run_id(&environ, "outer"));
        assert_eq!(gateway_of(&environ), Some(record.pid));
        let another = Record {
            run_id: "f".repeat(32),
            ..record
        };
        assert!(!has_run_id(&environ, &another.run_id) && names_run_or_file(&environ, &another));
    }
}
