//! What the holder wrote into the pid file, as bytes.
//!
//! Line 1 is the holder's pid in decimal, for everything that reads pid files. Line 2 is one JSON
//! object for us, without one byte of white space, so that `kill $(cat gateway.pid)` cannot hit a
//! number inside an argument. After an ordered end line 1 is blank: a pid on line 1 of an unlocked
//! file means a crash.

mod end;

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize};

use crate::file_id::FileId;
use crate::process::{Identity, Pid, Stat};
use crate::signal::Signal;
use crate::text::Text;
use crate::time::{Limit, Timestamp, unix_micros};
use end::read_record;
pub use end::{Asker, End, Exit, Reason};

/// The format this version writes. Keys are only ever added; unknown ones are ignored.
pub const FORMAT: u32 = 1;

/// No pid file is larger: what is, was not written by us, and a mistyped path must not cost a file.
pub const MAX_SIZE: u64 = 64 * 1024;

/// JSON numbers beyond this are not exact everywhere.
const MAX_EXACT: u64 = 1 << 53;

/// How many bytes of a command line are kept: even with every byte escaped the record stays far
/// below [`MAX_SIZE`].
const MAX_ARGV: usize = 2048;

/// A command line for the record: cut to what a record has room for, with `…` where it was cut.
#[must_use]
pub fn command_line(argv: &[OsString]) -> Vec<Text> {
    let mut room = MAX_ARGV;
    let mut kept = Vec::new();
    for argument in argv {
        if room == 0 || argument.len() > room {
            kept.push(Text("…".into()));
            break;
        }
        room -= argument.len();
        kept.push(Text(argument.clone()));
        room = room.saturating_sub(8);
    }
    kept
}

/// Which service manager runs the holder's unit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Manager {
    /// `systemctl`
    System,
    /// `systemctl --user`
    User,
}

/// The command that runs under the lock.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Payload {
    /// Its first process.
    pub pid: Pid,
    /// That process's start, in clock ticks since boot.
    pub start_time: u64,
    /// The command.
    pub argv: Vec<Text>,
}

impl Payload {
    /// Who its first process is, by the numbers of the holder's pid namespace.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.pid.started(self.start_time)
    }
}

/// systemd's `INVOCATION_ID` has 32 digits (systemd.exec(5)). What is much longer is none, and would make a
/// record that nobody reads any more.
pub(crate) fn is_invocation_id(text: &[u8]) -> bool {
    text.len() <= 64
}

/// The record: everything a stranger needs to know of the holder.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Record {
    /// See [`FORMAT`].
    pub format: u32,
    /// The process that has the lock and that SIGTERM stops in order.
    pub pid: Pid,
    /// Field 22 of its `/proc/PID/stat`: clock ticks since boot.
    pub start_time: u64,
    /// The boot that the start time counts from.
    pub boot_id: String,
    /// The pid namespace in which its pid is its pid.
    #[serde(default)]
    pub pid_namespace: u64,
    /// The host's name.
    #[serde(default)]
    pub host: Text,
    /// Its effective uid.
    #[serde(default)]
    pub uid: u32,
    /// The file this record was written to, in canonical form.
    pub path: Text,
    /// That file's device.
    pub dev: u64,
    /// That file's inode.
    pub inode: u64,
    /// 128 random bits naming this run.
    pub run_id: String,
    /// Grows with every taking of the lock: a fencing token.
    pub generation: u64,
    /// When the lock was taken.
    pub since: Timestamp,
    /// The holder's own command line.
    #[serde(default)]
    pub argv: Vec<Text>,
    /// How long its payload gets at an ordered stop, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_timeout: Option<Limit>,
    /// The signal that an ordered stop sends to its payload, where one was chosen. A number that has no
    /// name here is as good as none: it must not make a living holder's record unreadable.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "known_signal"
    )]
    pub stop_signal: Option<Signal>,
    /// The holder became the command: nobody supervises it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub exec: bool,
    /// The service manager's unit, where the holder is its main process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// Whose unit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manager: Option<Manager>,
    /// `$INVOCATION_ID` of the holder: null if it had none.
    #[serde(default)]
    pub invocation_id: Option<String>,
    /// The command, once it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload: Option<Payload>,
    /// How it ended, if it ended in order. Its keys stand beside the others; [`Contents::decode`] reads
    /// them, this type's `Deserialize` alone does not.
    #[serde(flatten, skip_deserializing, skip_serializing_if = "Option::is_none")]
    pub end: Option<End>,
}

fn known_signal<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Signal>, D::Error> {
    let number: Option<i64> = Option::deserialize(deserializer)?;
    Ok(number.and_then(|number| Signal::try_from(number).ok()))
}

impl Record {
    /// The file that it describes.
    pub(crate) fn file(&self) -> FileId {
        FileId {
            dev: self.dev,
            inode: self.inode,
        }
    }

    /// The same of another file.
    pub(crate) fn of_file(self, file: FileId) -> Self {
        Self {
            dev: file.dev,
            inode: file.inode,
            ..self
        }
    }

    /// Whether it describes this very file.
    pub(crate) fn names(&self, path: &Path, file: FileId) -> bool {
        self.path.0 == path.as_os_str() && self.file() == file
    }

    /// Who wrote it, by the numbers of its pid namespace.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.pid.started(self.start_time)
    }

    /// Whether both were written by the same gateway for the same run.
    #[must_use]
    pub fn is_of_the_same_run(&self, other: &Self) -> bool {
        (self.identity(), &self.run_id) == (other.identity(), &other.run_id)
    }

    /// The file it was written to.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        PathBuf::from(&self.path.0)
    }

    /// What runs, as people know it: the command if there is one, else the holder.
    #[must_use]
    pub fn command(&self) -> &[Text] {
        self.payload
            .as_ref()
            .map_or(&self.argv, |payload| &payload.argv)
    }

    /// The bytes of the file.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let first = if self.end.is_some() {
            String::new()
        } else {
            self.pid.to_string()
        };
        let mut bytes = format!("{first}\n").into_bytes();
        let mut json = serde_json::Serializer::with_formatter(&mut bytes, NoWhiteSpace);
        self.serialize(&mut json)
            .expect("a record has nothing that JSON cannot say");
        bytes.push(b'\n');
        bytes
    }
}

/// What a pid file's bytes say. Everything is allowed; only some of it helps.
#[derive(Clone, PartialEq, Debug)]
pub enum Contents {
    /// Nothing.
    Empty,
    /// A record.
    Record(Box<Record>),
    /// A pid, and perhaps its start time: a bare integer, or what older gateways wrote.
    Hint(Hint),
    /// Anything else, half a record included.
    Unreadable,
}

/// As much as other writers of pid files say.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
pub struct Hint {
    /// The holder, they say.
    pub pid: Pid,
    /// Its start, in clock ticks since boot.
    #[serde(default)]
    pub start_time: Option<u64>,
}

impl Hint {
    /// Whether there is a process now that may be the one which is meant.
    #[must_use]
    pub fn lives(&self) -> bool {
        let is_it = |stat: &Stat| self.start_time.is_none_or(|named| named == stat.start_time);
        Stat::of(self.pid).is_some_and(|stat| !stat.is_dead() && is_it(&stat))
    }
}

impl Contents {
    /// Understands a file's bytes: the first two lines of them.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Self {
        if bytes.is_empty() {
            return Self::Empty;
        }
        decode_record(bytes)
            .map(|record| Self::Record(Box::new(record)))
            .or_else(|| decode_hint(bytes).map(Self::Hint))
            .unwrap_or(Self::Unreadable)
    }

    /// Reads until it makes sense, a few times: the writer may be in the middle of it.
    pub(crate) fn settled<E>(mut read: impl FnMut() -> Result<Self, E>) -> Result<Self, E> {
        for _ in 0..5 {
            match read()? {
                Self::Unreadable => std::thread::yield_now(),
                settled => return Ok(settled),
            }
        }
        read()
    }

    /// The record, if that is what it is.
    #[must_use]
    pub fn record(&self) -> Option<&Record> {
        match self {
            Self::Record(record) => Some(record),
            _ => None,
        }
    }
}

/// Whether the bytes begin as a record does, though they may be torn anywhere: by a kill in the middle
/// of the write, which may have gone over an older record.
#[must_use]
pub fn begins_as_record(bytes: &[u8]) -> bool {
    const HEAD: &[u8] = b"{\"format\":";
    let digits = bytes
        .iter()
        .take_while(|byte| byte.is_ascii_digit())
        .count();
    match bytes[digits..].strip_prefix(b"\n") {
        Some(rest) => rest.starts_with(HEAD) || HEAD.starts_with(rest),
        None => digits > 0 && digits == bytes.len(),
    }
}

fn decode_record(bytes: &[u8]) -> Option<Record> {
    // Checked for UTF-8 once, and not string by string.
    let (first, rest) = valid_part(bytes).split_once('\n')?;
    let (json, _) = rest.split_once('\n')?;
    let record = read_record(json).ok()?;
    let agrees = if first.is_empty() {
        record.end.is_some()
    } else {
        decode_pid(first.as_bytes())? == record.pid
    };
    let sound = record.format >= 1 && record.generation <= MAX_EXACT && is_run_id(&record.run_id);
    (agrees && sound).then_some(record)
}

/// As much as is UTF-8: behind the record may be anything.
fn valid_part(bytes: &[u8]) -> &str {
    let part = |error: std::str::Utf8Error| std::str::from_utf8(&bytes[..error.valid_up_to()]);
    std::str::from_utf8(bytes).or_else(part).unwrap_or_default()
}

fn decode_hint(bytes: &[u8]) -> Option<Hint> {
    let text = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    if let Some(pid) = decode_pid(text) {
        return Some(Hint {
            pid,
            start_time: None,
        });
    }
    // serde would take an array for it, too, and white space in front.
    text.starts_with(b"{")
        .then(|| serde_json::from_slice(text).ok())?
}

/// Digits and nothing else: no sign, no blank, no zero.
fn decode_pid(text: &[u8]) -> Option<Pid> {
    if !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Pid::new(std::str::from_utf8(text).ok()?.parse().ok()?)
}

fn is_run_id(text: &str) -> bool {
    text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// A new run id: 128 random bits in hex.
///
/// # Errors
/// The kernel has no random bytes to give (`getrandom(2)`).
pub fn new_run_id() -> crate::Result<String> {
    let mut bits = [0u8; 16];
    let mut filled = 0;
    while filled < bits.len() {
        match rustix::rand::getrandom(&mut bits[filled..], rustix::rand::GetRandomFlags::empty()) {
            Ok(count) => filled += count,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => {
                return Err(crate::Error::system("cannot get random bytes").because(error));
            }
        }
    }
    Ok(format!("{:032x}", u128::from_be_bytes(bits)))
}

/// The generation after `last`: unix microseconds, unless that would not grow. A last one that cannot
/// grow any more counts as none: what is written can be read again.
#[must_use]
pub fn next_generation(last: Option<u64>) -> u64 {
    let grown = last.filter(|last| *last < MAX_EXACT).map(|last| last + 1);
    grown.unwrap_or(0).max(unix_micros()).min(MAX_EXACT)
}

/// JSON without one byte of white space: blanks in strings become `\u0020`. (serde writes all
/// other white space of ASCII escaped anyway.)
struct NoWhiteSpace;

impl serde_json::ser::Formatter for NoWhiteSpace {
    fn write_string_fragment<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        for (index, piece) in fragment.split(' ').enumerate() {
            if index > 0 {
                writer.write_all(br"\u0020")?;
            }
            writer.write_all(piece.as_bytes())?;
        }
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::os::unix::ffi::OsStringExt;
    use std::time::Duration;

    pub fn example() -> Record {
        Record {
            format: FORMAT,
            pid: Pid::new(4925).unwrap(),
            start_time: 84532,
            boot_id: "b".into(),
            pid_namespace: 4_026_531_836,
            host: Text("host".into()),
            uid: 1000,
            path: Text("/var/lib/gateway/my name/gateway.pid".into()),
            dev: 65024,
            inode: 131,
            run_id: "0123456789abcdef0123456789abcdef".into(),
            generation: 1_795_478_401_000_000,
            since: Timestamp::now(),
            argv: command_line(&["gateway".into(), "run".into()]),
            stop_timeout: Some(Limit::After(Duration::from_secs(30))),
            stop_signal: None,
            exec: false,
            unit: Some("hermes-gateway.service".into()),
            manager: Some(Manager::System),
            invocation_id: None,
            payload: Some(Payload {
                pid: Pid::new(4930).unwrap(),
                start_time: 84533,
                argv: command_line(&["sleep".into(), OsString::from_vec(vec![0xff, b' ', b'\n'])]),
            }),
            end: None,
        }
    }

    fn ended() -> Record {
        let by = Asker {
            pid: Pid::INIT,
            uid: 0,
            argv: command_line(&["systemd".into()]),
        };
        let end = End {
            ended: Timestamp::now(),
            exit: Some(Exit::Code(0)),
            reason: Reason::Stopped,
            by: Some(by),
        };
        Record {
            end: Some(end),
            ..example()
        }
    }

    #[test]
    fn a_record_comes_back_as_it_was_written() {
        for record in [example(), ended()] {
            assert_eq!(
                Contents::decode(&record.encode()),
                Contents::Record(Box::new(record))
            );
        }
    }

    #[test]
    fn the_json_has_no_white_space_and_line_one_is_the_pid() {
        let bytes = example().encode();
        let lines: Vec<&[u8]> = bytes.split(|byte| *byte == b'\n').collect();
        assert_eq!(
            (lines.len(), lines[0], lines[2]),
            (3, &b"4925"[..], &b""[..])
        );
        assert!(!lines[1].iter().any(u8::is_ascii_whitespace));
    }

    #[test]
    fn line_one_of_an_ended_record_is_blank() {
        assert!(ended().encode().starts_with(b"\n{"));
    }

    #[test]
    fn a_record_is_read_in_front_of_an_old_longer_one() {
        let mut bytes = example().encode();
        bytes.extend(b"tail\nof an older \xff record\n");
        assert_eq!(
            Contents::decode(&bytes),
            Contents::Record(Box::new(example_like(&bytes)))
        );
    }

    fn example_like(bytes: &[u8]) -> Record {
        decode_record(bytes).unwrap()
    }

    #[test]
    fn every_prefix_of_a_record_is_no_record() {
        let is_known = |bytes: &[u8]| Contents::decode(bytes) != Contents::Unreadable;
        // Digits alone may be what another program wrote; half a JSON object is nobody's.
        let live = example().encode();
        let first_line = b"4925\n".len();
        for end in 0..live.len() {
            let prefix = &live[..end];
            assert_eq!(Contents::decode(prefix).record(), None, "{end} bytes");
            assert_eq!(is_known(prefix), end <= first_line, "{end} bytes");
        }
        let ended = ended().encode();
        for end in 1..ended.len() {
            assert!(!is_known(&ended[..end]), "{end} bytes");
        }
    }

    #[test]
    fn every_prefix_of_a_record_begins_as_one_and_strangers_do_not() {
        for bytes in [example().encode(), ended().encode()] {
            for end in 1..bytes.len() {
                let torn = &bytes[..end];
                assert!(begins_as_record(torn), "{}", String::from_utf8_lossy(torn));
            }
            let over_another = [&bytes[..50], b"\"x\ny"].concat();
            assert!(begins_as_record(&over_another));
        }
        for stranger in [
            &b"precious\n"[..],
            b"42 precious\n",
            b"42\nprecious\n",
            b"\nprecious\n",
            b"\n\n",
            b"42\n{\"name\":1}\n",
            b"{\"format\":1}\n",
            b"#!/bin/sh\n",
            b"",
        ] {
            assert!(!begins_as_record(stranger));
        }
    }

    #[test]
    fn lines_that_disagree_are_unreadable() {
        let bytes = example().encode();
        let other = [b"4926\n", &bytes[5..]].concat();
        assert_eq!(Contents::decode(&other), Contents::Unreadable);
        let blank = [b"\n", &bytes[5..]].concat();
        assert_eq!(Contents::decode(&blank), Contents::Unreadable);
    }

    #[test]
    fn a_stop_signal_without_a_name_is_none_and_what_a_child_died_of_keeps_its_number() {
        let record = Record {
            stop_signal: Some(Signal::USR1),
            ..ended()
        };
        let text = String::from_utf8(record.encode()).unwrap();
        let usr1 = format!("\"stop_signal\":{}", libc::SIGUSR1);
        for (number, signal) in [
            (libc::SIGUSR1.to_string(), Some(Signal::USR1)),
            ("99".into(), None),
            ("0".into(), None),
            ("-9".into(), None),
            ("99999999999".into(), None),
        ] {
            let forged = text.replace(&usr1, &format!("\"stop_signal\":{number}"));
            let contents = Contents::decode(forged.as_bytes());
            assert_eq!(contents.record().unwrap().stop_signal, signal, "{number}");
        }
        let died = text.replace("{\"code\":0}", "{\"signal\":40}");
        let contents = Contents::decode(died.as_bytes());
        let exit = contents.record().unwrap().end.as_ref().unwrap().exit;
        assert_eq!(exit.unwrap().to_string(), "killed by signal 40");
    }

    #[test]
    fn unknown_keys_are_ignored_and_an_end_without_sense_makes_no_record_unreadable() {
        let live = String::from_utf8(example().encode()).unwrap();
        let with = |text: &str, more: &str| {
            let text = text.replacen("{\"format\"", &format!("{{{more},\"format\""), 1);
            Contents::decode(text.as_bytes())
        };
        for more in [
            r#""new":{"a":[1]}"#,
            r#""n\"e\u0077":1"#,
            r#""exit":"x""#,
            r#""reason":"moved""#,
            r#""by":7"#,
            r#""ended":null"#,
        ] {
            assert_eq!(
                with(&live, more).record(),
                Some(&example_like(live.as_bytes())),
                "{more}"
            );
        }
        let ended = String::from_utf8(ended().encode()).unwrap();
        let known = example_like(ended.as_bytes());
        assert_eq!(with(&ended, r#""n\"e\u0077":1"#).record(), Some(&known));
        let other = ended.replace("\"reason\":\"stopped\"", "\"reason\":\"moved\"");
        assert_eq!(Contents::decode(other.as_bytes()), Contents::Unreadable);
    }

    #[test]
    fn a_bare_integer_and_an_older_object_are_hints() {
        let hint = |bytes: &[u8]| match Contents::decode(bytes) {
            Contents::Hint(hint) => Some((hint.pid.get(), hint.start_time)),
            _ => None,
        };
        assert_eq!(hint(b"42\n"), Some((42, None)));
        assert_eq!(hint(b"42"), Some((42, None)));
        assert_eq!(
            hint(br#"{"pid":42,"start_time":7,"argv":["a","b"],"kind":"x"}"#),
            Some((42, Some(7)))
        );
        assert_eq!(hint(br#"{"pid":42,"start_time":null}"#), Some((42, None)));
    }

    #[test]
    fn junk_is_unreadable_and_empty_is_empty() {
        assert_eq!(Contents::decode(b""), Contents::Empty);
        for junk in [
            &b"\n"[..],
            b"0",
            b"-1",
            b"+5",
            b" 5",
            b"5 ",
            b"5\n\n",
            b"99999999999",
            b"abc",
            b"5abc",
            b"\xff\x00",
            b"{}",
            b"[1]",
        ] {
            assert_eq!(
                Contents::decode(junk),
                Contents::Unreadable,
                "{}",
                String::from_utf8_lossy(junk)
            );
        }
    }

    #[test]
    fn a_generation_is_read_up_to_the_last_exact_number() {
        let decoded = |generation| {
            let record = Record {
                generation,
                ..example()
            };
            Contents::decode(&record.encode())
        };
        assert!(decoded(MAX_EXACT).record().is_some());
        assert_eq!(decoded(MAX_EXACT + 1), Contents::Unreadable);
    }

    #[test]
    fn generations_grow_also_when_the_clock_was_set_back() {
        let far = MAX_EXACT - 10;
        assert_eq!(next_generation(Some(far)), far + 1);
        assert_eq!(next_generation(Some(MAX_EXACT - 1)), MAX_EXACT);
        for stuck in [MAX_EXACT, MAX_EXACT + 1, u64::MAX] {
            assert!(next_generation(Some(stuck)) < MAX_EXACT, "{stuck}");
        }
        assert!(next_generation(None) > 1_795_000_000_000_000);
    }

    #[test]
    fn the_longest_record_fits_the_largest_pid_file() {
        let long = command_line(&vec![OsString::from("\u{1}".repeat(200)); 1000]);
        let payload = Payload {
            argv: long.clone(),
            ..example().payload.unwrap()
        };
        let by = Asker {
            argv: long.clone(),
            ..ended().end.unwrap().by.unwrap()
        };
        let end = End {
            by: Some(by),
            ..ended().end.unwrap()
        };
        let path = Text("\u{1}".repeat(4096).into());
        let record = Record {
            argv: long,
            payload: Some(payload),
            end: Some(end),
            path,
            ..example()
        };
        assert!((record.encode().len() as u64) < MAX_SIZE);
    }

    proptest! {
        #[test]
        fn any_bytes_decode_to_something(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            let _ = Contents::decode(&bytes);
        }

        #[test]
        fn any_arguments_come_back(arguments in proptest::collection::vec(proptest::collection::vec(1u8.., 0..40), 0..20)) {
            let argv: Vec<OsString> = arguments.into_iter().map(OsString::from_vec).collect();
            let record = Record { argv: command_line(&argv), ..example() };
            let bytes = record.encode();
            prop_assert!(!bytes[5..bytes.len() - 1].iter().any(u8::is_ascii_whitespace));
            prop_assert_eq!(Contents::decode(&bytes), Contents::Record(Box::new(record)));
        }

        #[test]
        fn a_changed_byte_never_moves_the_pid(at in 0usize..4, byte in any::<u8>()) {
            let mut bytes = example().encode();
            bytes[at] = byte;
            if let Contents::Record(record) = Contents::decode(&bytes) {
                prop_assert_eq!(record.pid, example().pid);
            }
        }
    }

    /// Their quotes and commas take room, too.
    #[test]
    fn empty_words_without_end_are_cut_as_well() {
        let argv = vec![OsString::new(); 100_000];
        let kept = command_line(&argv);
        assert!(kept.len() < 1000, "{}", kept.len());
        assert_eq!(kept.last().unwrap().0, "…");
    }
}
