//! `list`: every gateway that can be seen.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use gateway_lock::Result;
use gateway_lock::census;
use gateway_lock::holder::Holder;
use gateway_lock::place::Surroundings;
use gateway_lock::process::Pid;
use gateway_lock::record::Record;
use gateway_lock::text::printable;
use gateway_lock::user::user_name;
use gateway_lock::view::{State, View};

use crate::cli::Show;
use crate::commands::{self, Context, status};
use crate::exit::Verdict;
use crate::words;

type Cells = [Cow<'static, str>; 8];

const HEADINGS: [&str; 8] = [
    "NAME", "STATE", "PID", "UP", "USER", "UNIT", "COMMAND", "PID FILE",
];

pub fn list(context: &Context, show: &Show) -> Result<Verdict> {
    let around = Surroundings::of_this_process();
    let places = around.places();
    let text = if show.json {
        let objects = census::list_as(&places, |view| status::object(&view))?;
        let text = serde_json::to_string(&objects).expect("this has nothing that JSON cannot say");
        format!("{text}\n")
    } else {
        let users = Users::default();
        let row = |view: View| Row::of(&view, &around, &users).cells();
        table(&census::list_as(&places, row)?)
    };
    Ok(commands::print(context.voice, &text, Verdict::SUCCESS))
}

/// One line of the table; what is not known is shown as `-`.
#[derive(Default)]
struct Row {
    name: Option<String>,
    state: &'static str,
    pid: Option<Pid>,
    up: Option<String>,
    user: Option<String>,
    unit: Option<String>,
    command: Option<String>,
    path: String,
}

impl Row {
    fn of(view: &View, around: &Surroundings, users: &Users) -> Self {
        let mut row = Self {
            name: name(view, around),
            state: view.state.name(),
            pid: view.state.pid(),
            path: words::path(&view.path),
            ..Self::default()
        };
        if let Some(record) = view.record() {
            row.recorded(record, users);
        }
        match &view.state {
            State::Starting(Some(locker)) | State::Foreign(locker) => {
                row.command = Some(words::command(&locker.argv));
            }
            State::Held(holder) | State::Ending(holder) | State::Removed(holder) => {
                row.holder(holder);
            }
            State::Starting(None) | State::Invisible(_) | State::Free | State::Crashed => {}
        }
        row
    }

    fn recorded(&mut self, record: &Record, users: &Users) {
        self.user = Some(users.name(record.uid));
        self.unit = record.unit.as_ref().map(|unit| printable(unit.as_ref()));
        self.command = Some(words::command(record.command()));
    }

    fn holder(&mut self, holder: &Holder) {
        match holder.record() {
            Some(record) => self.up = Some(words::span(record.since.age())),
            None => self.command = Some(words::command(&holder.command())),
        }
    }

    fn cells(self) -> Cells {
        let shown = |cell: Option<String>| cell.map_or(Cow::Borrowed("-"), Cow::Owned);
        [
            shown(self.name),
            self.state.into(),
            shown(self.pid.map(|pid| pid.to_string())),
            shown(self.up),
            shown(self.user),
            shown(self.unit),
            shown(self.command),
            self.path.into(),
        ]
    }
}

/// The names of users, each looked up once.
#[derive(Default)]
struct Users(Mutex<HashMap<u32, String>>);

impl Users {
    fn name(&self, uid: u32) -> String {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.entry(uid).or_insert_with(|| user_name(uid)).clone()
    }
}

/// What `-n` takes for it, here and for this user.
fn name(view: &View, around: &Surroundings) -> Option<String> {
    let name = around
        .name_of(&view.path)
        .filter(|_| !view.is_elsewhere())?;
    Some(name.as_str().to_owned())
}

fn table(rows: &[Cells]) -> String {
    let headings = HEADINGS.map(Cow::from);
    let all = || std::iter::once(&headings).chain(rows);
    let mut widths = [0; HEADINGS.len()];
    for row in all() {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let blank = " ".repeat(widths.iter().max().map_or(0, |widest| widest + 2));
    let mut out = String::new();
    for row in all() {
        for (width, cell) in widths.iter().zip(row) {
            out.push_str(cell);
            out.push_str(&blank[..width + 2 - cell.chars().count()]);
        }
        out.truncate(out.trim_end_matches(' ').len());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_aligned() {
        let row = ["web", "held", "7", "1 s", "root", "-", "sleep 9", "/p"].map(Cow::from);
        let table = table(&[row]);
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines[0].find("STATE"), lines[1].find("held"));
        assert_eq!(lines[0].find("PID FILE"), lines[1].find("/p"));
    }

    #[test]
    fn what_is_not_known_is_a_dash() {
        let row = Row {
            state: "invisible",
            path: "/p".to_owned(),
            ..Row::default()
        };
        assert_eq!(
            row.cells(),
            ["-", "invisible", "-", "-", "-", "-", "-", "/p"]
        );
    }
}
