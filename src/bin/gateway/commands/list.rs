//! `list`: every gateway that can be seen.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use gateway_lock::Result;
use gateway_lock::census;
use gateway_lock::directory::SYSTEM_PLACE;
use gateway_lock::place::{FILE_NAME, Surroundings};
use gateway_lock::text::printable;
use gateway_lock::user::user_name;
use gateway_lock::view::{State, View};

use crate::cli::Show;
use crate::commands::status;
use crate::exit::Verdict;
use crate::words;

const HEADINGS: [&str; 8] = [
    "NAME", "STATE", "PID", "UP", "USER", "UNIT", "COMMAND", "PID FILE",
];

pub fn list(show: &Show) -> Result<Verdict> {
    let places = places(&Surroundings::of_this_process());
    let views = census::list(&places)?;
    if show.json {
        let objects: Vec<_> = views.iter().map(status::object).collect();
        let text = serde_json::to_string(&objects).expect("this has nothing that JSON cannot say");
        status::print(&format!("{text}\n"));
    } else {
        let mut users = HashMap::new();
        let rows: Vec<[String; 8]> = views
            .iter()
            .map(|view| row(view, &places, &mut users))
            .collect();
        status::print(&table(&rows));
    }
    Ok(Verdict::SUCCESS)
}

/// The caller's own place, and the system's.
pub fn places(surroundings: &Surroundings) -> Vec<PathBuf> {
    let mut places: Vec<PathBuf> = surroundings.place(None).into_iter().collect();
    places.push(PathBuf::from(SYSTEM_PLACE));
    places.dedup();
    places
}

/// The name with which `-n` finds this file.
pub fn name_of(path: &Path, places: &[PathBuf]) -> Option<String> {
    let directory = path
        .parent()
        .filter(|_| path.file_name().is_some_and(|name| name == FILE_NAME))?;
    let ours = |place: &PathBuf| {
        directory.parent() == Some(place)
            || std::fs::canonicalize(place).is_ok_and(|place| directory.parent() == Some(&place))
    };
    places
        .iter()
        .any(ours)
        .then(|| directory.file_name()?.to_str().map(str::to_owned))?
}

fn row(view: &View, places: &[PathBuf], users: &mut HashMap<u32, String>) -> [String; 8] {
    let none = || "-".to_owned();
    let mut row = [
        none(),
        view.state.name().to_owned(),
        none(),
        none(),
        none(),
        none(),
        none(),
        words::path(&view.path),
    ];
    row[0] = name_of(&view.path, places).unwrap_or_else(none);
    match &view.state {
        State::Starting(Some(locker)) | State::Foreign(locker) => {
            row[2] = locker.pid.to_string();
            row[6] = words::command(&locker.argv);
        }
        State::Invisible(Some(pid)) => row[2] = pid.to_string(),
        _ => {}
    }
    if let Some(holder) = view.state.holder() {
        row[2] = holder.pid().to_string();
        row[6] = words::command(&holder.command());
    }
    if let Some(record) = view.record() {
        if view.state.holder().is_some() {
            row[3] = words::span(record.since.age());
        }
        row[4] = users
            .entry(record.uid)
            .or_insert_with(|| user_name(record.uid))
            .clone();
        row[5] = record
            .unit
            .as_ref()
            .map_or_else(none, |unit| printable(unit.as_ref()));
        if view.state.holder().is_none() && row[6] == "-" {
            row[6] = words::command(&words::words(record.command()));
        }
    }
    row
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
    fn a_name_is_what_finds_the_file() {
        let places = [PathBuf::from("/p")];
        assert_eq!(
            name_of(Path::new("/p/web/gateway.pid"), &places).as_deref(),
            Some("web")
        );
        for other in [
            "/p/gateway.pid",
            "/q/web/gateway.pid",
            "/p/web/other.pid",
            "/p/a/b/gateway.pid",
        ] {
            assert_eq!(name_of(Path::new(other), &places), None, "{other}");
        }
    }

    #[test]
    fn the_table_is_aligned() {
        let row = ["web", "held", "7", "1 s", "root", "-", "sleep 9", "/p"].map(str::to_owned);
        let table = table(&[row]);
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines[0].find("STATE"), lines[1].find("held"));
        assert_eq!(lines[0].find("PID FILE"), lines[1].find("/p"));
    }
}
