//! How a run ended: written beside the keys of its record, and read together with them.

use std::borrow::Cow;
use std::fmt;

use serde::de::value::{CowStrDeserializer, MapAccessDeserializer};
use serde::de::{DeserializeSeed, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::Record;
use crate::process::Pid;
use crate::signal::Signal;
use crate::text::Text;
use crate::time::Timestamp;

/// How a command ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Exit {
    /// By itself, with this code.
    Code(i32),
    /// By this signal, real-time ones included.
    Signal(#[serde(deserialize_with = "died_of")] Signal),
}

/// What a child died of need not have a name.
fn died_of<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Signal, D::Error> {
    i32::deserialize(deserializer).map(Signal::from_wait)
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit {code}"),
            Self::Signal(signal) => write!(f, "killed by {signal}"),
        }
    }
}

/// Why a run ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reason {
    /// The command ended by itself.
    Exited,
    /// Somebody asked for it.
    Stopped,
    /// Another gateway took over.
    Replaced,
    /// Somebody else has the pid file.
    Lost,
    /// It crashed, and `stop` found that nothing is left of it.
    Crashed,
}

/// Who asked for the end.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Asker {
    /// The sender of the signal, as the kernel vouches for it.
    pub pid: Pid,
    /// Its uid.
    pub uid: u32,
    /// Its command line, if it could still be read.
    #[serde(default)]
    pub argv: Vec<Text>,
}

/// How a run ended in order.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct End {
    /// When.
    pub ended: Timestamp,
    /// How the command ended; none where there was none, or nobody knows.
    #[serde(default)]
    pub exit: Option<Exit>,
    /// Why.
    pub reason: Reason,
    /// Who asked.
    #[serde(default)]
    pub by: Option<Asker>,
}

impl End {
    /// Now, for this reason, and with nothing known of a command.
    #[must_use]
    pub fn now(reason: Reason) -> Self {
        Self {
            ended: Timestamp::now(),
            exit: None,
            reason,
            by: None,
        }
    }
}

/// Reads a record with its end in one pass (serde's `flatten` would make a copy of every value first); or
/// without, where the end makes no sense: a living holder's record is worth more than that.
pub(super) fn read_record(json: &str) -> serde_json::Result<Record> {
    let mut reader = serde_json::Deserializer::from_str(json);
    let record = reader.deserialize_map(WithEnd);
    let record = record.and_then(|record| reader.end().map(|()| record));
    record.or_else(|_| serde_json::from_str(json))
}

struct WithEnd;

impl<'de> Visitor<'de> for WithEnd {
    type Value = Record;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a record")
    }

    fn visit_map<M: MapAccess<'de>>(self, map: M) -> Result<Record, M::Error> {
        let mut end = Found::default();
        let rest = Rest { map, end: &mut end };
        let mut record = Record::deserialize(MapAccessDeserializer::new(rest))?;
        record.end = end.into_end();
        Ok(record)
    }
}

/// What has been found of an end.
#[derive(Default)]
struct Found {
    ended: Option<Timestamp>,
    exit: Option<Exit>,
    reason: Option<Reason>,
    by: Option<Asker>,
}

impl Found {
    fn into_end(self) -> Option<End> {
        Some(End {
            ended: self.ended?,
            exit: self.exit,
            reason: self.reason?,
            by: self.by,
        })
    }
}

/// A map without the keys of an end, which are found in it meanwhile.
struct Rest<'f, M> {
    map: M,
    end: &'f mut Found,
}

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "lowercase")]
enum Key<'t> {
    Ended,
    Exit,
    Reason,
    By,
    Other(#[serde(borrow)] Name<'t>),
}

/// A copy only where there are escapes in it.
#[derive(Deserialize)]
#[serde(transparent)]
struct Name<'t>(#[serde(borrow)] Cow<'t, str>);

impl<'de, M: MapAccess<'de>> MapAccess<'de> for Rest<'_, M> {
    type Error = M::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, M::Error> {
        while let Some(key) = self.map.next_key()? {
            match key {
                Key::Ended => self.end.ended = self.map.next_value()?,
                Key::Exit => self.end.exit = self.map.next_value()?,
                Key::Reason => self.end.reason = self.map.next_value()?,
                Key::By => self.end.by = self.map.next_value()?,
                Key::Other(Name(name)) => {
                    return seed.deserialize(CowStrDeserializer::new(name)).map(Some);
                }
            }
        }
        Ok(None)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, M::Error> {
        self.map.next_value_seed(seed)
    }
}
