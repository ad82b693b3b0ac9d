//! `list`: every gateway that can be seen.

use std::collections::HashMap;

use gateway_lock::Result;
use gateway_lock::census;
use gateway_lock::holder::{Holder, Locker};
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

const HEADINGS: [&str; 8] = [
    "NAME", "STATE", "PID", "UP", "USER", "UNIT", "COMMAND", "PID FILE",
];

pub fn list(context: &Context, show: &Show) -> Result<Verdict> {
    let around = Surroundings::of_this_process();
    let views = census::list(&around.places())?;
    let text = if show.json {
        let objects: Vec<_> = views.iter().map(status::object).collect();
        let text = serde_json::to_string(&objects).expect("this has nothing that JSON cannot say");
        format!("{text}\n")
    } else {
        let mut users = HashMap::new();
        let rows: Vec<[String; 8]> = views
            .iter()
            .map(|view| Row::of(view, &around, &mut users).cells())
            .collect();
        table(&rows)
    };
    Ok(commands::print(context.voice, &text, Verdict::SUCCESS))
}

/// One line of the table; what is not known is shown as `-`.
#[derive(Default)]
struct Row {
    name: Option<String>,
    state: String,
    pid: Option<Pid>,
    up: Option<String>,
    user: Option<String>,
    unit: Option<String>,
    command: Option<String>,
    path: String,
}

impl Row {
    fn of(view: &View, around: &Surroundings, users: &mut HashMap<u32, String>) -> Self {
        let mut row = Self {
            name: name(view, around),
            state: view.state.name().to_owned(),
            path: words::path(&view.path),
            ..Self::default()
        };
        if let Some(record) = view.record() {
            row.recorded(record, users);
        }
        match &view.state {
            State::Starting(Some(locker)) | State::Foreign(locker) => row.locker(locker),
            State::Invisible(pid) => row.pid = *pid,
            State::Held(holder) | State::Ending(holder) | State::Removed(holder) => {
                row.holder(holder);
            }
            State::Starting(None) | State::Free | State::Crashed => {}
        }
        row
    }

    fn recorded(&mut self, record: &Record, users: &mut HashMap<u32, String>) {
        let user = users
            .entry(record.uid)
            .or_insert_with(|| user_name(record.uid));
        self.user = Some(user.clone());
        self.unit = record.unit.as_ref().map(|unit| printable(unit.as_ref()));
        self.command = Some(words::command(record.command()));
    }

    fn locker(&mut self, locker: &Locker) {
        self.pid = Some(locker.pid);
        self.command = Some(words::command(&locker.argv));
    }

    fn holder(&mut self, holder: &Holder) {
        self.pid = Some(holder.pid());
        self.command = Some(words::command(&holder.command()));
        self.up = holder
            .record()
            .map(|record| words::span(record.since.age()));
    }

    fn cells(self) -> [String; 8] {
        let shown = |cell: Option<String>| cell.unwrap_or_else(|| "-".to_owned());
        [
            shown(self.name),
            self.state,
            shown(self.pid.map(|pid| pid.to_string())),
            shown(self.up),
            shown(self.user),
            shown(self.unit),
            shown(self.command),
            self.path,
        ]
    }
}

/// What `-n` takes for it, here and for this user.
fn name(view: &View, around: &Surroundings) -> Option<String> {
    let name = around
        .name_of(&view.path)
        .filter(|_| !view.is_elsewhere())?;
    Some(name.as_str().to_owned())
}

fn table(rows: &[[String; 8]]) -> String {
    let headings = HEADINGS.map(str::to_owned);
    let width = |column: usize| {
        rows.iter()
            .chain([&headings])
            .map(|row| row[column].chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..HEADINGS.len()).map(width).collect();
    let mut out = String::new();
    for row in [&headings].into_iter().chain(rows) {
        let cells: Vec<String> = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        out += cells.join("  ").trim_end();
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_aligned() {
        let row = ["web", "held", "7", "1 s", "root", "-", "sleep 9", "/p"].map(str::to_owned);
        let table = table(&[row]);
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines[0].find("STATE"), lines[1].find("held"));
        assert_eq!(lines[0].find("PID FILE"), lines[1].find("/p"));
    }

    #[test]
    fn what_is_not_known_is_a_dash() {
        let row = Row {
            state: "invisible".to_owned(),
            path: "/p".to_owned(),
            ..Row::default()
        };
        assert_eq!(
            row.cells(),
            ["-", "invisible", "-", "-", "-", "-", "-", "/p"]
        );
    }
}
