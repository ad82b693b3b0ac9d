//! The claim: a held lock, the record that says so, and the name of both.
//!
//! A lock on an inode does not protect the inode's name. A claim can be checked: if somebody
//! removed or replaced the file, it is put back; if somebody overwrote the record, it is written
//! again; if somebody else has taken the name by then, the claim is lost. Every earlier file stays
//! locked until the end, so that `mv` away and back finds us.

use std::ffi::OsString;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::holder::{self, Sighting};
use crate::lock::{Locked, OpenFile, Try};
use crate::process::{self, Pid, Stat};
use crate::record::{self, Contents, End, Manager, Payload, Record};
use crate::signal::Signal;
use crate::text::Text;
use crate::time::{Limit, Timestamp};
use crate::{Error, Result};

/// What a holder says of itself. All that the system has to be asked for is asked when this is made,
/// so that a taker has it before it signals anybody.
#[derive(Clone, Debug)]
pub struct Description {
    /// This process.
    pub stat: Stat,
    /// Its command line.
    pub argv: Vec<OsString>,
    /// How long its payload gets at an ordered stop.
    pub stop_timeout: Option<Limit>,
    /// What its payload is sent at an ordered stop, where that was chosen.
    pub stop_signal: Option<Signal>,
    /// It is about to become its command.
    pub exec: bool,
    boot_id: String,
    pid_namespace: u64,
    host: OsString,
    unit: Option<Unit>,
    run_id: String,
}

impl Description {
    /// This process, by its own command line.
    ///
    /// # Errors
    /// `/proc` cannot be read, or there are no random bytes.
    pub fn of_this_process() -> Result<Self> {
        Ok(Self {
            stat: Stat::of_this()?,
            argv: std::env::args_os().collect(),
            stop_timeout: None,
            stop_signal: None,
            exec: false,
            boot_id: process::boot_id()?,
            pid_namespace: process::own_pid_namespace().unwrap_or(0),
            host: host_name(),
            unit: Unit::of_this_process(),
            run_id: record::new_run_id()?,
        })
    }

    /// The record of this process for a file.
    #[must_use]
    pub fn record(&self, file: &OpenFile, last: &Contents) -> Record {
        Record {
            format: record::FORMAT,
            pid: self.stat.pid,
            start_time: self.stat.start_time,
            boot_id: self.boot_id.clone(),
            pid_namespace: self.pid_namespace,
            host: Text(self.host.clone()),
            uid: rustix::process::geteuid().as_raw(),
            path: Text(file.path().as_os_str().to_os_string()),
            dev: file.id().dev,
            inode: file.id().inode,
            run_id: self.run_id.clone(),
            generation: record::next_generation(last.record().map(|record| record.generation)),
            since: Timestamp::now(),
            argv: record::command_line(&self.argv),
            stop_timeout: self.stop_timeout,
            stop_signal: self.stop_signal,
            exec: self.exec,
            manager: self.unit.as_ref().map(|unit| unit.manager),
            unit: self.unit.as_ref().map(|unit| unit.name.clone()),
            invocation_id: invocation_id(),
            payload: None,
            end: None,
        }
    }

    /// How many bytes the record may come to, with the command in it.
    #[must_use]
    pub fn room(&self, file: &OpenFile) -> u64 {
        let argv = record::command_line(&self.argv);
        let payload = Payload {
            pid: self.stat.pid,
            start_time: self.stat.start_time,
            argv,
        };
        let record = Record {
            payload: Some(payload),
            ..self.record(file, &Contents::Empty)
        };
        record.encode().len() as u64
    }
}

fn invocation_id() -> Option<String> {
    let id = std::env::var("INVOCATION_ID").ok();
    id.filter(|id| record::is_invocation_id(id.as_bytes()))
}

fn host_name() -> OsString {
    use std::os::unix::ffi::OsStringExt;
    OsString::from_vec(rustix::system::uname().nodename().to_bytes().to_vec())
}

#[derive(Clone, Debug)]
struct Unit {
    name: String,
    manager: Manager,
}

impl Unit {
    /// The unit whose main process we are. Only `SYSTEMD_EXEC_PID` tells: a cron job and a login
    /// shell live in somebody's cgroup, too (systemd.exec(5)).
    fn of_this_process() -> Option<Self> {
        let main: i32 = std::env::var("SYSTEMD_EXEC_PID").ok()?.parse().ok()?;
        if main != Pid::this().get() {
            return None;
        }
        Self::parse(&std::fs::read_to_string("/proc/self/cgroup").ok()?)
    }

    /// From the text of `/proc/self/cgroup` (cgroups(7)): the unified hierarchy or systemd's own.
    fn parse(cgroups: &str) -> Option<Self> {
        let path = |line: &str| {
            let (_, rest) = line.split_once(':')?;
            let (controllers, path) = rest.split_once(':')?;
            matches!(controllers, "" | "name=systemd").then(|| path.to_owned())
        };
        cgroups.lines().filter_map(path).find_map(|path| {
            let name = path.rsplit('/').find(|part| part.ends_with(".service"))?;
            let manager = if path.contains("/user@") {
                Manager::User
            } else {
                Manager::System
            };
            Some(Self {
                name: name.to_owned(),
                manager,
            })
        })
    }
}

/// What a look at the name found.
#[derive(Debug)]
pub enum Finding {
    /// All is as it should be.
    Intact,
    /// The file had been removed or replaced; the claim is at the path again.
    PutBack,
    /// The record had been overwritten, and was written again.
    Rewritten,
    /// The record is overwritten, and was written again too recently to do it now.
    Overwritten,
    /// Something at the path cannot be claimed now: look again soon.
    Contested(Contest),
    /// Another gateway has the name, by its record and its lock, or had it later, by its record's generation.
    Lost(Box<Record>),
}

/// Why the name cannot be claimed at the moment.
#[derive(Debug)]
pub enum Contest {
    /// Somebody without a record has the lock on what is at the path.
    Locked(Option<Pid>),
    /// What is at the path cannot be opened or written.
    Unusable(Error),
    /// It is our own file, and our own record cannot be written into it.
    OwnWrite(Error),
    /// The path leads elsewhere: a directory on the way is a symbolic link now, or was moved.
    LedElsewhere,
}

/// A writer that overwrites the record all the time is answered no more often than this.
const REWRITE_INTERVAL: Duration = Duration::from_secs(10);

/// A held lock with its record. Closing it without [`Claim::end`] looks like a crash to the next.
#[derive(Debug)]
pub struct Claim {
    current: Locked,
    earlier: Vec<Locked>,
    /// As it was written last.
    record: Box<Record>,
    /// What could not be written: the file may hold half of it, and nobody else is to blame for that.
    unwritten: Option<Box<Record>>,
    rewritten: Option<Instant>,
}

impl Claim {
    /// Writes the record into the locked file, in which `before` is written, which says `last`. `None`: the
    /// path changed hands meanwhile, if only for a moment; what was written before is there again.
    ///
    /// # Errors
    /// The record cannot be made or written. What was in the file before is then there again, as far
    /// as that can be written.
    pub fn stake(
        locked: Locked,
        before: &[u8],
        last: &Contents,
        description: &Description,
    ) -> Result<Option<Self>> {
        let record = description.record(&locked, last);
        if let Err(error) = locked.write(&record.encode()) {
            // A disk that got full in the middle: room for what was there is there.
            if let Err(also) = locked.write(before) {
                log::warn!("what was there before cannot be put back: {also:#}");
            }
            return Err(error);
        }
        let written = locked.change_mark()?;
        if !locked.is_at_path()? || locked.change_mark()? != written {
            locked.write(before)?;
            return Ok(None);
        }
        Ok(Some(Self {
            current: locked,
            earlier: Vec::new(),
            record: Box::new(record),
            unwritten: None,
            rewritten: None,
        }))
    }

    /// The record as it was written last.
    #[must_use]
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// The pid file, in canonical form. It stays the same.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.current.path()
    }

    /// Adds the running command to the record.
    ///
    /// # Errors
    /// The record cannot be written; it then stays as it was, and [`Claim::check`] tries again.
    pub fn set_payload(&mut self, payload: Payload) -> Result<()> {
        let mut record = self.wanted();
        record.payload = Some(payload);
        self.write(record)
    }

    /// What should be in the file.
    fn wanted(&self) -> Box<Record> {
        self.unwritten.as_ref().unwrap_or(&self.record).clone()
    }

    fn write(&mut self, record: Box<Record>) -> Result<()> {
        let written = self.current.write(&record.encode());
        match written {
            Ok(()) => {
                self.record = record;
                self.unwritten = None;
            }
            Err(_) => self.unwritten = Some(record),
        }
        written
    }

    /// Lets the lock be inherited by what this process becomes.
    ///
    /// # Errors
    /// `fcntl(2)` fails.
    pub fn inherit(&self) -> Result<()> {
        self.current
            .inherit()
            .map_err(|error| Error::pid_file("cannot keep open", self.path()).because(error))
    }

    /// Marks the record ended, and lets go.
    ///
    /// # Errors
    /// The record cannot be written: the lock is let go all the same.
    pub fn end(self, end: End) -> Result<()> {
        let mut record = self.wanted();
        record.end = Some(end);
        for earlier in &self.earlier {
            if let Err(error) = earlier.write(&record.clone().of_file(earlier.id()).encode()) {
                log::warn!("{error:#}; it is a file of this run that was moved away");
            }
        }
        self.current.write(&record.encode())
    }

    /// Looks at the name, and puts the claim back where it is gone. Never waits.
    ///
    /// # Errors
    /// The path or the record cannot be looked at. That it cannot be written is a finding.
    pub fn check(&mut self) -> Result<Finding> {
        if self.current.is_at_path()? {
            self.check_record()
        } else {
            Ok(self.put_back())
        }
    }

    fn check_record(&mut self) -> Result<Finding> {
        if let Some(record) = self.unwritten.take() {
            return Ok(self.written(record, Finding::Intact));
        }
        if self.current.bytes()? == self.record.encode() {
            return Ok(Finding::Intact);
        }
        if self
            .rewritten
            .is_some_and(|at| at.elapsed() < REWRITE_INTERVAL)
        {
            return Ok(Finding::Overwritten);
        }
        self.rewritten = Some(Instant::now());
        Ok(self.written(self.record.clone(), Finding::Rewritten))
    }

    fn written(&mut self, record: Box<Record>, finding: Finding) -> Finding {
        match self.write(record) {
            Ok(()) => finding,
            Err(error) => Finding::Contested(Contest::OwnWrite(error)),
        }
    }

    fn put_back(&mut self) -> Finding {
        if let Some(finding) = self.take_up_earlier() {
            return finding;
        }
        // Only what the path first meant is ours to claim: whoever may write a directory on the way
        // could lead us to any other file, and to one in any other directory.
        let file = match OpenFile::reopen_or_create(self.path()) {
            Ok(Some(file)) => file,
            Ok(None) => return Finding::Contested(Contest::LedElsewhere),
            Err(error) => return Finding::Contested(Contest::Unusable(error)),
        };
        match file.try_lock() {
            // Read under the lock: nobody writes it any more.
            Ok(Try::Locked(locked)) => match locked.read() {
                Ok(contents) => self.move_to(locked, &contents),
                Err(error) => Finding::Contested(Contest::Unusable(error)),
            },
            Ok(Try::Busy(file)) => self.give_way_only_to_a_record(&file),
            Err(error) => Finding::Contested(Contest::Unusable(error)),
        }
    }

    /// `mv` away and back: what is at the path again is a file we never let go.
    fn take_up_earlier(&mut self) -> Option<Finding> {
        let index = self
            .earlier
            .iter()
            .position(|earlier| earlier.is_at_path().is_ok_and(|same| same))?;
        let back = self.earlier.swap_remove(index);
        Some(self.move_to(back, &Contents::Empty))
    }

    fn move_to(&mut self, locked: Locked, contents: &Contents) -> Finding {
        // Of this name: a copy of another one's file says nothing of ours.
        let is_newer = |theirs: &&Record| {
            theirs.path() == self.path() && theirs.generation > self.record.generation
        };
        if let Some(newer) = contents.record().filter(is_newer) {
            return Finding::Lost(Box::new(newer.clone()));
        }
        let record = Box::new(self.wanted().of_file(locked.id()));
        match locked.write(&record.encode()) {
            Ok(()) => {
                (self.record, self.unwritten) = (record, None);
                self.earlier
                    .push(std::mem::replace(&mut self.current, locked));
                // What has no name any more cannot come back: its descriptor need not be kept.
                self.earlier
                    .retain(|earlier| earlier.has_a_name().unwrap_or(true));
                Finding::PutBack
            }
            Err(error) => Finding::Contested(Contest::Unusable(error)),
        }
    }

    /// A locker without a record is waited out: it is a newcomer that is about to find us.
    fn give_way_only_to_a_record(&self, file: &OpenFile) -> Finding {
        let who = match holder::identify(file) {
            Ok(who) => who,
            Err(error) => return Finding::Contested(Contest::Unusable(error)),
        };
        let is_anothers = |theirs: &&Record| {
            theirs.names(file.path(), file.id()) && !theirs.is_of_the_same_run(&self.record)
        };
        let theirs = match &who {
            Sighting::Proven(holder) => holder.record().filter(is_anothers),
            _ => None,
        };
        match theirs {
            Some(theirs) => Finding::Lost(Box::new(theirs.clone())),
            None => Finding::Contested(Contest::Locked(who.pid())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn staked(path: &Path) -> Claim {
        let file = OpenFile::open_or_create(path).unwrap();
        let before = file.bytes().unwrap();
        let Try::Locked(locked) = file.try_lock().unwrap() else {
            panic!("busy")
        };
        let description = Description::of_this_process().unwrap();
        Claim::stake(locked, &before, &Contents::decode(&before), &description)
            .unwrap()
            .unwrap()
    }

    fn on_disk(path: &Path) -> Record {
        Contents::decode(&std::fs::read(path).unwrap())
            .record()
            .unwrap()
            .clone()
    }

    #[test]
    fn a_removed_file_a_removed_directory_and_a_moved_file_are_put_back() {
        let room = tempfile::tempdir().unwrap();
        let path = room.path().join("state/gateway.pid");
        let mut claim = staked(&path);
        assert!(matches!(claim.check().unwrap(), Finding::Intact));
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(claim.check().unwrap(), Finding::PutBack));
        assert!(on_disk(&path).names(&path, claim.current.id()));
        std::fs::remove_dir_all(room.path().join("state")).unwrap();
        assert!(matches!(claim.check().unwrap(), Finding::PutBack));
        let first = claim.current.id();
        std::fs::rename(&path, room.path().join("away")).unwrap();
        assert!(matches!(claim.check().unwrap(), Finding::PutBack));
        assert_ne!(claim.current.id(), first);
        std::fs::rename(room.path().join("away"), &path).unwrap();
        assert!(matches!(claim.check().unwrap(), Finding::PutBack));
        assert_eq!((claim.current.id(), claim.earlier.len()), (first, 0));
        assert_eq!(on_disk(&path), *claim.record());
    }

    #[test]
    fn an_overwritten_record_is_written_again_but_not_all_the_time() {
        let room = tempfile::tempdir().unwrap();
        let path = room.path().join("gateway.pid");
        let mut claim = staked(&path);
        std::fs::write(&path, "junk").unwrap();
        assert!(matches!(claim.check().unwrap(), Finding::Rewritten));
        assert_eq!(on_disk(&path), *claim.record());
        std::fs::write(&path, "junk").unwrap();
        assert!(matches!(claim.check().unwrap(), Finding::Overwritten));
    }

    #[test]
    fn a_file_with_a_higher_generation_is_not_taken_over() {
        let room = tempfile::tempdir().unwrap();
        let path = room.path().join("gateway.pid");
        let mut claim = staked(&path);
        let newer = Record {
            generation: claim.record().generation + 1,
            ..claim.record().clone()
        };
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, newer.encode()).unwrap();
        assert!(matches!(claim.check().unwrap(), Finding::Lost(_)));
    }

    #[test]
    fn a_locker_without_a_record_is_waited_out() {
        let room = tempfile::tempdir().unwrap();
        let path = room.path().join("gateway.pid");
        let mut claim = staked(&path);
        std::fs::remove_file(&path).unwrap();
        let Try::Locked(stranger) = OpenFile::open_or_create(&path).unwrap().try_lock().unwrap()
        else {
            panic!()
        };
        assert!(matches!(
            claim.check().unwrap(),
            Finding::Contested(Contest::Locked(_))
        ));
        drop(stranger);
        // A child that another test starts has the descriptor until it becomes its program.
        let put_back = |_| matches!(claim.check().unwrap(), Finding::PutBack);
        assert!(
            (0..1000)
                .map(|_| std::thread::sleep(Duration::from_millis(2)))
                .any(put_back)
        );
    }

    #[test]
    fn an_ended_record_has_no_pid_and_keeps_the_generation() {
        let room = tempfile::tempdir().unwrap();
        let path = room.path().join("gateway.pid");
        let claim = staked(&path);
        let generation = claim.record().generation;
        let end = End {
            ended: Timestamp::now(),
            exit: None,
            reason: record::Reason::Stopped,
            by: None,
        };
        claim.end(end).unwrap();
        assert!(std::fs::read(&path).unwrap().starts_with(b"\n"));
        assert_eq!(on_disk(&path).generation, generation);
        assert!(staked(&path).record().generation > generation);
    }

    #[test]
    fn the_unit_is_the_innermost_service_of_the_cgroup() {
        let unit = |text: &str| Unit::parse(text).map(|unit| (unit.name, unit.manager));
        assert_eq!(
            unit("0::/system.slice/a.service\n"),
            Some(("a.service".into(), Manager::System))
        );
        assert_eq!(
            unit("0::/user.slice/user-7.slice/user@7.service/app.slice/b@x.service\n"),
            Some(("b@x.service".into(), Manager::User))
        );
        assert_eq!(
            unit("5:cpu:/\n1:name=systemd:/system.slice/c.service/sub\n"),
            Some(("c.service".into(), Manager::System))
        );
        assert_eq!(unit("0::/user.slice/session-2.scope\n"), None);
    }

    #[test]
    fn a_copy_of_our_own_record_is_written_over() {
        let room = tempfile::tempdir().unwrap();
        let path = room.path().join("gateway.pid");
        let mut claim = staked(&path);
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, claim.record().encode()).unwrap();
        assert!(matches!(claim.check().unwrap(), Finding::PutBack));
        assert_eq!(on_disk(&path), *claim.record());
    }

    #[test]
    fn a_running_command_is_in_the_record() {
        let room = tempfile::tempdir().unwrap();
        let path = room.path().join("gateway.pid");
        let mut claim = staked(&path);
        let payload = Payload {
            pid: Pid::this(),
            start_time: 7,
            argv: Vec::new(),
        };
        claim.set_payload(payload.clone()).unwrap();
        assert_eq!(on_disk(&path).payload, Some(payload));
    }

    /// Takes the lock of the claim's file once more, by another way of opening it.
    fn opened_anew(claim: &mut Claim, open: impl Fn(&Path) -> OpenFile) {
        let path = claim.path().to_path_buf();
        let room = tempfile::tempdir().unwrap();
        claim.current = staked(&room.path().join("other.pid")).current;
        for _ in 0..1000 {
            if let Ok(Try::Locked(locked)) = open(&path).try_lock() {
                claim.current = locked;
                return;
            }
            // A child that another test starts has the descriptor until it becomes its program.
            std::thread::sleep(Duration::from_millis(2));
        }
        panic!("somebody has {}", path.display());
    }

    #[test]
    fn a_record_that_cannot_be_written_stays_is_tried_again_and_nobody_is_blamed() {
        let room = tempfile::tempdir().unwrap();
        let path = room.path().join("gateway.pid");
        let mut claim = staked(&path);
        let before = claim.record().clone();
        // Not open for writing: every write fails, whoever runs this.
        opened_anew(&mut claim, |path| {
            OpenFile::open_existing(path).unwrap().unwrap()
        });
        let payload = Payload {
            pid: Pid::this(),
            start_time: 7,
            argv: Vec::new(),
        };
        claim.set_payload(payload.clone()).unwrap_err();
        assert_eq!((claim.record(), &on_disk(&path)), (&before, &before));
        for _ in 0..2 {
            let found = claim.check().unwrap();
            assert!(
                matches!(found, Finding::Contested(Contest::OwnWrite(_))),
                "{found:?}"
            );
        }
        opened_anew(&mut claim, |path| OpenFile::open_or_create(path).unwrap());
        assert!(matches!(claim.check().unwrap(), Finding::Intact));
        assert_eq!(on_disk(&path).payload, Some(payload));
        assert_eq!(on_disk(&path), *claim.record());
    }

    #[test]
    fn an_overwritten_record_that_cannot_be_written_again_is_our_own_trouble() {
        let room = tempfile::tempdir().unwrap();
        let path = room.path().join("gateway.pid");
        let mut claim = staked(&path);
        opened_anew(&mut claim, |path| {
            OpenFile::open_existing(path).unwrap().unwrap()
        });
        std::fs::write(&path, "junk").unwrap();
        let found = claim.check().unwrap();
        assert!(
            matches!(found, Finding::Contested(Contest::OwnWrite(_))),
            "{found:?}"
        );
        opened_anew(&mut claim, |path| OpenFile::open_or_create(path).unwrap());
        assert!(matches!(claim.check().unwrap(), Finding::Intact));
        assert_eq!(on_disk(&path), *claim.record());
    }

    #[test]
    fn a_record_says_which_host_wrote_it() {
        let room = tempfile::tempdir().unwrap();
        let claim = staked(&room.path().join("gateway.pid"));
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
        assert_eq!(claim.record().host.0.to_str(), Some(host.trim_end()));
    }

    /// A file that cannot grow (F_SEAL_GROW, fcntl(2)) takes a page of a longer record, and no more: as
    /// a disk does that gets full in the middle.
    #[test]
    fn a_record_that_does_not_fit_leaves_what_was_there() {
        use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
        use std::os::unix::fs::FileExt;
        let page = rustix::param::page_size();
        let before = vec![b'7'; page];
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = std::fs::File::from(memfd_create("record", flags).unwrap());
        file.write_all_at(&before, 0).unwrap();
        fcntl_add_seals(&file, SealFlags::GROW).unwrap();
        let copy = file.try_clone().unwrap();
        let Try::Locked(locked) = OpenFile::nameless(file).try_lock().unwrap() else {
            panic!("busy")
        };
        let mut description = Description::of_this_process().unwrap();
        description.argv = vec!["\u{1}".repeat(2 * page / 6).into()];
        let record = description.record(&locked, &Contents::Empty).encode();
        locked.write(&record).unwrap_err();
        assert_ne!(locked.bytes().unwrap(), before, "the write tears nothing");
        copy.write_all_at(&before, 0).unwrap();
        Claim::stake(locked, &before, &Contents::Empty, &description).unwrap_err();
        let mut after = vec![0; page];
        copy.read_exact_at(&mut after, 0).unwrap();
        assert_eq!(
            (after, copy.metadata().unwrap().len()),
            (before, page as u64)
        );
    }

    #[test]
    fn a_link_in_the_directorys_place_is_not_followed() {
        let room = tempfile::tempdir().unwrap();
        let (state, away, other) = (
            room.path().join("state"),
            room.path().join("away"),
            room.path().join("other"),
        );
        let path = state.join("gateway.pid");
        let mut claim = staked(&path);
        std::fs::create_dir(&other).unwrap();
        std::fs::rename(&state, &away).unwrap();
        std::os::unix::fs::symlink(&other, &state).unwrap();
        let found = claim.check().unwrap();
        assert!(
            matches!(found, Finding::Contested(Contest::LedElsewhere)),
            "{found:?}"
        );
        assert!(!other.join("gateway.pid").exists());
        // A link to where the file is now leads to the file.
        std::fs::remove_file(&state).unwrap();
        std::os::unix::fs::symlink(&away, &state).unwrap();
        assert!(matches!(claim.check().unwrap(), Finding::Intact));
        std::fs::remove_file(&state).unwrap();
        assert!(matches!(claim.check().unwrap(), Finding::PutBack));
        assert_eq!(claim.path(), path);
    }
}
