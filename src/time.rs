//! Moments and lengths of time, as records and people write them.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::de::{Error, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A moment, written as RFC 3339 in UTC with microseconds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Timestamp(pub SystemTime);

impl Timestamp {
    /// Now, by the wall clock, in whole microseconds.
    #[must_use]
    pub fn now() -> Self {
        let micros = unix_micros();
        Self(UNIX_EPOCH + Duration::from_micros(micros))
    }

    /// How long ago it is; zero if the clock was set back since.
    #[must_use]
    pub fn age(self) -> Duration {
        self.0.elapsed().unwrap_or_default()
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_rfc3339_micros(self.0).fmt(f)
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let moment = humantime::parse_rfc3339(&text);
        moment.map(Self).map_err(Error::custom)
    }
}

/// A length of time that may have no end.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Limit {
    /// So long.
    After(Duration),
    /// For ever.
    Never,
}

impl Limit {
    /// The sum; without end if this is.
    #[must_use]
    pub fn plus(self, more: Duration) -> Self {
        match self {
            Self::After(length) => Self::After(length.saturating_add(more)),
            Self::Never => Self::Never,
        }
    }

    /// The length, if there is an end.
    #[must_use]
    pub fn finite(self) -> Option<Duration> {
        match self {
            Self::After(length) => Some(length),
            Self::Never => None,
        }
    }
}

impl Serialize for Limit {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::After(length) => serializer.serialize_f64(length.as_secs_f64()),
            Self::Never => serializer.serialize_str("infinity"),
        }
    }
}

impl<'de> Deserialize<'de> for Limit {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SecondsOrInfinity)
    }
}

struct SecondsOrInfinity;

impl Visitor<'_> for SecondsOrInfinity {
    type Value = Limit;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("seconds, or \"infinity\"")
    }

    fn visit_f64<E: Error>(self, seconds: f64) -> Result<Limit, E> {
        let length = Duration::try_from_secs_f64(seconds);
        length.map(Limit::After).map_err(E::custom)
    }

    fn visit_u64<E: Error>(self, seconds: u64) -> Result<Limit, E> {
        self.visit_f64(seconds as f64)
    }

    fn visit_str<E: Error>(self, word: &str) -> Result<Limit, E> {
        match word {
            "infinity" => Ok(Limit::Never),
            _ => Err(E::invalid_value(Unexpected::Str(word), &self)),
        }
    }
}

/// Unix microseconds by the wall clock; 0 before 1970.
pub(crate) fn unix_micros() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(0)
}
