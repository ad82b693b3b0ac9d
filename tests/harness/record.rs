//! The pid file's text, read as a stranger reads it.

use serde_json::Value;

use super::process::remember;

/// What is in a pid file.
#[derive(Clone, PartialEq, Debug)]
pub struct Record {
    /// Line 1: a pid, or nothing after an ordered end.
    pub first_line: String,
    /// Line 2.
    pub json: Value,
}

impl Record {
    /// Understands the bytes of a pid file; nothing but two whole lines will do.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?;
        let (first_line, rest) = text.split_once('\n')?;
        let json = rest.strip_suffix('\n')?;
        Some(Self {
            first_line: first_line.to_owned(),
            json: serde_json::from_str(json).ok()?,
        })
    }

    /// A number of the JSON object, by its JSON pointer: `/payload/pid`.
    #[track_caller]
    pub fn number(&self, pointer: &str) -> u64 {
        self.json
            .pointer(pointer)
            .and_then(Value::as_u64)
            .unwrap_or_else(|| panic!("no number at {pointer} in {}", self.json))
    }

    /// A text of the JSON object.
    #[track_caller]
    pub fn text(&self, pointer: &str) -> &str {
        self.json
            .pointer(pointer)
            .and_then(Value::as_str)
            .unwrap_or_else(|| panic!("no text at {pointer} in {}", self.json))
    }

    /// The holder.
    #[track_caller]
    pub fn pid(&self) -> u32 {
        u32::try_from(self.number("/pid")).expect("a pid")
    }

    /// The first process of its command.
    #[track_caller]
    pub fn payload_pid(&self) -> u32 {
        remember(u32::try_from(self.number("/payload/pid")).expect("a pid"))
    }

    /// Whether the run ended in order.
    pub fn is_ended(&self) -> bool {
        self.json.get("ended").is_some_and(|ended| !ended.is_null())
    }

    /// Whether the command runs.
    pub fn has_payload(&self) -> bool {
        self.json.pointer("/payload/pid").is_some()
    }
}
