//! Strings of the system, which need not be UTF-8: in a record, and on a person's terminal.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A string of the system, which need not be UTF-8: JSON text where it is, else an array of byte
/// numbers (the form that `journalctl --output=json` uses).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Text(pub OsString);

impl AsRef<OsStr> for Text {
    fn as_ref(&self) -> &OsStr {
        &self.0
    }
}

impl Serialize for Text {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.to_str() {
            Some(text) => serializer.serialize_str(text),
            None => serializer.collect_seq(self.0.as_bytes()),
        }
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(EitherForm)
    }
}

struct EitherForm;

impl<'de> Visitor<'de> for EitherForm {
    type Value = Text;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text, or an array of byte numbers")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Text, E> {
        Ok(Text(text.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut numbers: A) -> Result<Text, A::Error> {
        let mut bytes = Vec::new();
        while let Some(byte) = numbers.next_element()? {
            bytes.push(byte);
        }
        Ok(Text(OsString::from_vec(bytes)))
    }
}

/// Text for a person's terminal: control characters of strangers do not get there.
#[must_use]
pub fn printable(text: &OsStr) -> String {
    let text = text.to_string_lossy();
    if text.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        return text.into_owned();
    }
    let mut out = String::new();
    for character in text.chars() {
        if is_printable(character) {
            out.push(character);
        } else {
            out.extend(character.escape_default());
        }
    }
    out
}

/// A word that a shell takes as one. What is not printable is written in the way of bash, ksh, zsh and
/// POSIX since 2024: `$'a\012b'`.
#[must_use]
pub fn quoted(word: &OsStr) -> String {
    let shown = printable(word);
    let plain = !shown.is_empty()
        && shown
            .chars()
            .all(|character| character.is_alphanumeric() || "_-./:=@%+,".contains(character));
    if OsStr::new(&shown) != word {
        format!("$'{}'", escaped(word))
    } else if plain {
        shown
    } else {
        format!("'{}'", shown.replace('\'', "'\\''"))
    }
}

fn escaped(word: &OsStr) -> String {
    let mut out = String::new();
    let bytes =
        |bytes: &[u8]| -> String { bytes.iter().map(|byte| format!("\\{byte:03o}")).collect() };
    for chunk in word.as_bytes().utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '\'' | '\\' => out.extend(['\\', character]),
                _ if is_printable(character) => out.push(character),
                _ => out += &bytes(character.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        out += &bytes(chunk.invalid());
    }
    out
}

/// A command line, as it can be typed.
#[must_use]
pub fn command_line(argv: &[impl AsRef<OsStr>]) -> String {
    let words: Vec<String> = argv.iter().map(|word| quoted(word.as_ref())).collect();
    words.join(" ")
}

fn is_printable(character: char) -> bool {
    !character.is_control() && !turns_text_around(character)
}

/// The characters that make a line read otherwise than it is written.
fn turns_text_around(character: char) -> bool {
    matches!(character, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_takes_a_quoted_word_as_it_was() {
        for word in [
            &b"plain"[..],
            b"",
            b"two words",
            b"it's",
            b"$HOME `id`",
            b"line\nend",
            b"bad\xffbyte",
            b"it's\ta \\ \x1b[31m",
            "ümlaut \u{202e}".as_bytes(),
        ] {
            let script = format!("printf %s {}", quoted(OsStr::from_bytes(word)));
            let output = std::process::Command::new("bash")
                .args(["-c", &script])
                .output();
            assert_eq!(output.unwrap().stdout, word, "{script}");
        }
    }
}
