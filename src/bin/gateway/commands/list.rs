//! `list`: every gateway that can be seen.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use gateway_lock::Result;
use gateway_lock::census;
use gateway_lock::holder::{Holder, Sighting};
use gateway_lock::place::Surroundings;
use gateway_lock::process::Pid;
use gateway_lock::record::{Manager, Record};
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
    let places = around.places();
    let text = if show.json {
        status::line(&census::list_as(&places, |view| status::object(&view))?)
    } else {
        let users = Users::default();
        let line = |view: View| Row::of(&view, &around, &users).line();
        table(&census::list_as(&places, line)?)
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
        if let Some(holder) = view.state.holder() {
            row.holder(holder, users);
        } else if let State::Locked(Sighting::Starting(locker) | Sighting::Foreign(locker)) =
            &view.state
        {
            row.command = Some(words::command(&locker.argv));
        }
        row
    }

    fn recorded(&mut self, record: &Record, users: &Users) {
        self.user = Some(users.name(record.uid));
        let mark = match record.manager {
            Some(Manager::User) => " (user)",
            _ => "",
        };
        let shown = |unit: &String| printable(unit.as_ref()) + mark;
        self.unit = record.unit.as_ref().map(shown);
        self.command = Some(words::command(record.command()));
    }

    fn holder(&mut self, holder: &Holder, users: &Users) {
        // Its record could say anything.
        if let Some(uid) = gateway_lock::process::uid(holder.pid()) {
            self.user = Some(users.name(uid));
        }
        match holder.record() {
            Some(record) => self.up = Some(words::span(record.since.age())),
            None => self.command = Some(words::command(&holder.command())),
        }
    }

    fn line(self) -> Line {
        let shown = |cell: Option<String>| cell.map_or(Cow::Borrowed("-"), Cow::Owned);
        Line::of(&[
            shown(self.name),
            self.state.into(),
            shown(self.pid.map(|pid| pid.to_string())),
            shown(self.up),
            shown(self.user),
            shown(self.unit),
            shown(self.command),
            self.path.into(),
        ])
    }
}

/// The cells of a line, in one piece of memory: there may be thousands of lines.
struct Line {
    text: String,
    ends: [usize; HEADINGS.len()],
}

impl Line {
    fn of(cells: &[impl AsRef<str>; HEADINGS.len()]) -> Self {
        let mut end = 0;
        let ends = cells.each_ref().map(|cell| {
            end += cell.as_ref().len();
            end
        });
        let mut text = String::with_capacity(end);
        text.extend(cells.iter().map(AsRef::as_ref));
        Self { text, ends }
    }

    fn cells(&self) -> impl Iterator<Item = &str> {
        let mut start = 0;
        self.ends.iter().map(move |end| {
            let cell = &self.text[start..*end];
            start = *end;
            cell
        })
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

fn table(lines: &[Line]) -> String {
    let headings = Line::of(&HEADINGS);
    let all = || std::iter::once(&headings).chain(lines);
    let mut widths = [0; HEADINGS.len()];
    for line in all() {
        for (width, cell) in widths.iter_mut().zip(line.cells()) {
            *width = cell.chars().count().max(*width);
        }
    }
    let blank = " ".repeat(widths.iter().max().map_or(0, |widest| widest + 2));
    let mut out = String::new();
    for line in all() {
        for (width, cell) in widths.iter().zip(line.cells()) {
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
        let line = Line::of(&["web", "held", "7", "1 s", "root", "-", "sleep 9", "/p"]);
        let table = table(&[line]);
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
        let cells = ["-", "invisible", "-", "-", "-", "-", "-", "/p"];
        assert!(row.line().cells().eq(cells));
    }
}
