//! Lengths of time, as people type them.

use std::time::Duration;

use gateway_lock::time::{LONGEST, Limit};

/// What can be typed, for messages.
const ALLOWED: &str = "give seconds (30, 1.5), units (500ms, 30s, 1m30s, 2h), 0 or infinity";

/// Reads a length of time.
pub fn parse(text: &str) -> Result<Limit, String> {
    if text == "infinity" {
        return Ok(Limit::Never);
    }
    let length = seconds(text).or_else(|| with_units(text)).ok_or(ALLOWED)?;
    if length > LONGEST {
        return Err(format!("that is more than a hundred years; {ALLOWED}"));
    }
    Ok(Limit::After(length))
}

/// A plain decimal number of seconds; no sign, no exponent, no `inf` or `nan`.
fn seconds(text: &str) -> Option<Duration> {
    let plain = text
        .bytes()
        .all(|byte| byte.is_ascii_digit() || byte == b'.');
    if !plain || !text.bytes().any(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Duration::try_from_secs_f64(text.parse().ok()?).ok()
}

fn with_units(text: &str) -> Option<Duration> {
    if !text.starts_with(|first: char| first.is_ascii_digit()) {
        return None;
    }
    humantime::parse_duration(text)
        .ok()
        .or_else(|| fraction(text))
}

/// `1.5m`: one number with a fraction and one unit.
fn fraction(text: &str) -> Option<Duration> {
    let (number, scale) = [("ms", 0.001), ("s", 1.0), ("m", 60.0), ("h", 3600.0)]
        .iter()
        .find_map(|(unit, scale)| Some((text.strip_suffix(unit)?, scale)))?;
    Duration::try_from_secs_f64(seconds(number)?.as_secs_f64() * scale).ok()
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
            ("0", 0),
            ("2h", 7_200_000),
            ("1.5m", 90_000),
            (".5", 500),
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
            "10x",
            ".",
            "1..2",
            " 5",
            "99999999999999999999",
            "9999999999",
        ] {
            assert!(parse(text).is_err(), "{text:?}");
        }
    }
}
