//! Lengths of time, as people type them.

use std::time::Duration;

use gateway_lock::time::Limit;

/// A hundred years: what is longer was not meant.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// What can be typed, for messages.
pub const ALLOWED: &str =
    "give seconds (30, 1.5), or units: ms, s, m, h, d (500ms, 30s, 1m30s, 2h); 0; infinity";

/// In seconds, the longest first. No months: `10M` is ten minutes to whoever types it.
const UNITS: [(&str, f64); 5] = [
    ("d", 86_400.0),
    ("h", 3600.0),
    ("m", 60.0),
    ("s", 1.0),
    ("ms", 0.001),
];

/// Reads a length of time.
pub fn parse(text: &str) -> Result<Limit, String> {
    if text == "infinity" {
        return Ok(Limit::Never);
    }
    let seconds = match number(text) {
        Some(seconds) => seconds,
        None if text.is_empty() => return Err(ALLOWED.to_owned()),
        None => with_units(text)?,
    };
    match Duration::try_from_secs_f64(seconds) {
        Ok(length) if length <= LONGEST => Ok(Limit::After(length)),
        _ => Err(format!("that is more than a hundred years; {ALLOWED}")),
    }
}

/// A plain decimal number; no sign, no exponent, no `inf` or `nan`.
fn number(text: &str) -> Option<f64> {
    text.bytes()
        .all(is_of_a_number)
        .then(|| text.parse().ok())?
}

fn is_of_a_number(byte: u8) -> bool {
    byte.is_ascii_digit() || byte == b'.'
}

/// Numbers with units, each unit shorter than the one before it.
fn with_units(text: &str) -> Result<f64, String> {
    let (mut rest, mut units, mut seconds) = (text, UNITS.as_slice(), 0.0);
    while !rest.is_empty() {
        let (value, after) = split(rest, is_of_a_number);
        let (unit, after) = split(after, |byte| !is_of_a_number(byte));
        let value = number(value).ok_or(ALLOWED)?;
        if !UNITS.iter().any(|(known, _)| *known == unit) {
            return Err(format!("{unit:?} is not a unit; {ALLOWED}"));
        }
        let at = units.iter().position(|(known, _)| *known == unit);
        let at = at.ok_or(ALLOWED)?;
        seconds += value * units[at].1;
        (rest, units) = (after, &units[at + 1..]);
    }
    Ok(seconds)
}

/// Where the bytes are of one kind, and the rest.
fn split(text: &str, kind: impl Fn(u8) -> bool) -> (&str, &str) {
    let end = text.bytes().position(|byte| !kind(byte));
    text.split_at(end.unwrap_or(text.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_type_is_understood() {
        let millis = |text: &str| parse(text).unwrap().finite().unwrap().as_millis();
        for (text, expected) in [
            ("30", 30_000),
            ("1.5", 1500),
            ("30s", 30_000),
            ("1m30s", 90_000),
            ("500ms", 500),
            ("29ms", 29),
            ("0", 0),
            ("0s", 0),
            ("2h", 7_200_000),
            ("1.5m", 90_000),
            ("1d12h", 129_600_000),
            ("1h1m1s1ms", 3_661_001),
            (".5", 500),
            ("36500d", 3_153_600_000_000),
        ] {
            assert_eq!(millis(text), expected, "{text}");
        }
        assert_eq!(parse("infinity"), Ok(Limit::Never));
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for text in [
            "",
            "-1",
            "+1",
            "1e5",
            "inf",
            "nan",
            "abc",
            "s",
            "10x",
            ".",
            "1..2",
            " 5",
            "5 s",
            "1m 30s",
            "1s1s",
            "30s1m",
            "1m30",
            "1ä",
            "99999999999999999999",
            "9999999999",
            "36501d",
        ] {
            assert!(parse(text).is_err(), "{text:?}");
        }
    }

    /// Months were understood once, where minutes were meant.
    #[test]
    fn other_units_are_named_with_those_that_there_are() {
        for (text, unit) in [
            ("1M", "M"),
            ("1y", "y"),
            ("2w", "w"),
            ("5min", "min"),
            ("9us", "us"),
        ] {
            let why = parse(text).unwrap_err();
            let expected =
                format!("{unit:?} is not a unit; give seconds (30, 1.5), or units: ms, s, m, h, d");
            assert!(why.starts_with(&expected), "{why}");
        }
    }
}
