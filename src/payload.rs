//! COMMAND: started under the lock, never left alone.

use std::cell::Cell;
use std::io;
use std::os::unix::ffi::OsStrExt;

use rustix::process::{WaitId, WaitIdOptions, waitid};

use crate::marks;
use crate::process::{self, Identity, Pid, Pinned, Stat};
use crate::process_table::Family;
use crate::program::{Command, absolute, not_executable};
use crate::record::Record;
use crate::signal::Signal;
use crate::signals::Signals;
use crate::sys::{self, Image, Upbringing, Words};
use crate::text::printable;
use crate::{Error, Result, variables};

/// What the command gets beside our own environment.
#[derive(Clone, Copy, Debug)]
pub struct Surroundings<'a> {
    /// The record of the gateway it runs under.
    pub record: &'a Record,
    /// Whether it may speak to the service manager.
    pub may_notify: bool,
}

fn image(command: &Command, around: Surroundings<'_>) -> Result<Image> {
    let record = around.record;
    let outer = std::env::var_os(variables::RUN_ID);
    let ours = marks::of_run(record, outer);
    // WATCHDOG_PID is ours; without it the watchdog is for whoever asks (sd_watchdog_enabled(3)).
    // That asks for no socket, so who may not speak must not hear of a watchdog, either: after
    // --exec even WATCHDOG_PID is the command's own.
    let hidden: &[&str] = if around.may_notify {
        &["WATCHDOG_PID"]
    } else {
        &["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"]
    };
    let is_kept = |name: &[u8]| {
        let is = |other: &str| other.as_bytes() == name;
        !hidden.iter().any(|hidden| is(hidden)) && !ours.iter().any(|(own, _)| is(own))
    };
    let mut environment = Words::of_our_environment(is_kept);
    for (name, value) in &ours {
        environment.push(&[name.as_bytes(), b"=", value.as_bytes()]);
    }
    let mut argv = Words::default();
    for word in &command.argv {
        argv.push(&[word.as_bytes()]);
    }
    Image::new(command.program.as_os_str(), argv, environment)
        .map_err(|error| cannot_start(command, error))
}

/// The command, running, and what descends from it.
#[derive(Debug)]
pub struct Payload {
    pinned: Pinned,
    start_time: u64,
    heard_nothing: Cell<bool>,
    /// What descended from us before.
    not_ours: Vec<Identity>,
    run_id: String,
}

/// Why there is no payload.
#[derive(Debug)]
pub enum NotStarted {
    /// It never ran.
    Never(Error),
    /// It ran, could not be looked at, and was killed at once: what it has started by then may live.
    Unseen(Error),
}

impl From<Error> for NotStarted {
    fn from(error: Error) -> Self {
        Self::Never(error)
    }
}

impl Payload {
    /// Starts the command: with the parent-death signal set, original dispositions and an empty
    /// mask; in our process group if that has a terminal, else in one of its own.
    ///
    /// `None`: a signal that asks to stop had come before the fork, so nothing was started.
    ///
    /// # Errors
    /// The command cannot be executed after all, or the system has no room for a process, or is short of
    /// what it takes to look at one.
    pub fn start(
        command: &Command,
        around: Surroundings<'_>,
        signals: &mut Signals,
        terminal: bool,
    ) -> Result<Option<Self>, NotStarted> {
        let not_ours = earlier_descendants()?;
        // What the payload leaves behind comes to us instead of to init (prctl(2)). A kernel that
        // refuses (a filter of system calls) leaves orphans to init, and they live on.
        if let Err(errno) = rustix::process::set_child_subreaper(Some(rustix::process::getpid())) {
            log::warn!("cannot adopt what COMMAND leaves behind: {errno}; it will live on");
        }
        let image = image(command, around)?;
        let quiet = sys::Quiet::begin();
        if crate::wait::Interrupt::interrupted(signals) {
            return Ok(None);
        }
        let upbringing = Upbringing {
            parent: Some(rustix::process::getpid()),
            own_group: !terminal,
            dispositions: signals.originally().to_vec(),
        };
        let child = image
            .start(&upbringing, &quiet)
            .map_err(|error| cannot_start(command, error))?;
        // Blocked since before the fork: what is pending now the child may not have heard.
        let heard_nothing =
            quiet.is_pending(Signal::INT.number()) || quiet.is_pending(Signal::QUIT.number());
        drop(quiet);
        let pid = Pid::new(child.into()).expect("a child has a pid");
        let (pinned, start_time) = meet(pid).map_err(|error| {
            take_back(pid);
            NotStarted::Unseen(error)
        })?;
        let run_id = around.record.run_id.clone();
        Ok(Some(Self {
            pinned,
            start_time,
            heard_nothing: Cell::new(heard_nothing),
            not_ours,
            run_id,
        }))
    }

    /// Its first process.
    #[must_use]
    pub fn pid(&self) -> Pid {
        self.pinned.pid()
    }

    /// Who that is.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.pid().started(self.start_time)
    }

    /// Whether the terminal's driver sends it what it sends us, now: it may leave our group.
    #[must_use]
    pub fn shares_our_group(&self) -> bool {
        let theirs = rustix::process::getpgid(Some(self.pinned.pid().raw()));
        theirs.is_ok_and(|theirs| theirs == rustix::process::getpgrp())
    }

    /// Whether a key was pressed so early that it may not have heard of it: true once at the most.
    #[must_use]
    pub fn heard_nothing(&self) -> bool {
        self.heard_nothing.take()
    }

    /// Signals the first process.
    pub fn signal(&self, signal: Signal) {
        // It may have ended in this instant, or have become somebody whom we may not signal.
        if let Err(error) = send(&self.pinned, signal)
            && error.raw_os_error() != Some(libc::ESRCH)
        {
            log::error!(
                "cannot send {signal} to COMMAND, pid {}: {error}",
                self.pid()
            );
        }
    }

    /// Everything that descends from it.
    ///
    /// Where we had children before the command, what is left of *them* comes to us, too: there only
    /// those count that descend from the first process or have our run id.
    ///
    /// # Errors
    /// Somebody could not be looked at just now.
    pub fn left(&self) -> io::Result<Vec<Stat>> {
        let family = Family::now()?;
        let earlier = |stat: &&Stat| self.not_ours.contains(&stat.identity());
        let except: Vec<Pid> = family
            .members()
            .filter(earlier)
            .map(|stat| stat.pid)
            .collect();
        let mut found = family.descendants(&[Pid::this()], &except);
        if !self.not_ours.is_empty() {
            let first = family.descendants(&[self.pid()], &[]);
            let below = |stat: &Stat| {
                stat.pid == self.pid() || first.iter().any(|known| known.pid == stat.pid)
            };
            found.retain(|stat| below(stat) || marks::is_marked(stat.pid, &self.run_id));
        }
        Ok(found
            .into_iter()
            .filter(|stat| !stat.is_dead())
            .cloned()
            .collect())
    }

    /// The members that are stopped now, as far as they are quickly found.
    #[must_use]
    pub fn stopped(&self) -> Vec<Stat> {
        // An orphan of the payload's is our child (subreaper); where we had children before, it may be an
        // orphan of theirs.
        let members = if self.not_ours.is_empty() {
            process::listed_descendants(Pid::this())
        } else {
            [process::listed_descendants(self.pid()), vec![self.pid()]].concat()
        };
        members
            .into_iter()
            .filter_map(Stat::of)
            .filter(Stat::is_stopped)
            .collect()
    }

    /// Signals each of these, pinned and looked at again, one by one; tells whom it was sent to. The first
    /// process is pinned already, and needs nothing that the system may be short of.
    pub fn signal_each(&self, processes: &[Stat], signal: Signal) -> Vec<Stat> {
        let reach = |stat: &&Stat| {
            if stat.identity() == self.identity() {
                send(&self.pinned, signal).is_ok()
            } else {
                signal_one(stat, signal)
            }
        };
        processes.iter().filter(reach).cloned().collect()
    }

    /// Whether any of it lives, where we have living children at all.
    #[must_use]
    pub fn has_members(&self) -> bool {
        // Who cannot be looked at now is not gone.
        self.not_ours.is_empty() || self.left().map_or(true, |left| !left.is_empty())
    }
}

/// Whether it was sent: it may be gone, or not be ours to signal.
fn signal_one(stat: &Stat, signal: Signal) -> bool {
    let Ok(Some(pinned)) = Pinned::open_shown(stat.pid) else {
        return false;
    };
    let same = matches!(stat.again(), Ok(Some(_)));
    same && send(&pinned, signal).is_ok()
}

/// Signals a process through its pidfd. Where a filter of system calls knows no such thing, a child of
/// ours is signalled by its number: nobody else gets that before we have collected the child (wait(2)).
fn send(pinned: &Pinned, signal: Signal) -> io::Result<()> {
    pinned.signal(signal).or_else(|error| {
        let gone = error.raw_os_error() == Some(libc::ESRCH);
        let number = pinned.pid().raw();
        match signal
            .raw()
            .filter(|_| !gone && uncollected(WaitId::Pid(number)).is_ok())
        {
            Some(signal) => Ok(rustix::process::kill_process(number, signal)?),
            None => Err(error),
        }
    })
}

/// ECHILD: there is no such child of ours that has not been collected (waitid(2)). Collects none.
fn uncollected(whom: WaitId<'_>) -> rustix::io::Result<()> {
    let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    waitid(whom, look).map(drop)
}

/// What descends from us already (`helper & exec gateway run …`): not of the command.
fn earlier_descendants() -> Result<Vec<Identity>> {
    if uncollected(WaitId::All) == Err(rustix::io::Errno::CHILD) {
        return Ok(Vec::new());
    }
    let family = Family::now().map_err(|error| {
        Error::system("cannot look through /proc for our own children").because(error)
    })?;
    Ok(family
        .descendants(&[Pid::this()], &[])
        .iter()
        .map(|stat| stat.identity())
        .collect())
}

/// Pins our own child. It stays, at least as a zombie, until we collect it: the number is its own.
fn meet(pid: Pid) -> Result<(Pinned, u64)> {
    let cannot =
        |error| Error::system(format!("cannot look at our own child {pid}")).because(error);
    let gone = || Error::system(format!("our own child {pid} cannot be seen in /proc"));
    let pinned = Pinned::open(pid).map_err(cannot)?.ok_or_else(gone)?;
    let stat = Stat::look(pid).map_err(cannot)?.ok_or_else(gone)?;
    Ok((pinned, stat.start_time))
}

/// Ends a child that cannot be supervised: nothing may run when the lock is let go.
fn take_back(pid: Pid) {
    let _ = rustix::process::kill_process(pid.raw(), rustix::process::Signal::KILL);
    let _ = rustix::process::waitpid(Some(pid.raw()), rustix::process::WaitOptions::empty());
}

fn cannot_start(command: &Command, error: io::Error) -> Error {
    let shown = printable(absolute(&command.program).as_os_str());
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::ENOMEM | libc::EMFILE | libc::ENFILE) => {
            Error::system(format!("cannot start a process for {shown}")).because(error)
        }
        Some(libc::ENOENT) => {
            not_executable(&shown, error).advise("its interpreter or its loader is missing")
        }
        _ => not_executable(&shown, error),
    }
}

/// Becomes the command. Comes back only with the reason why it could not; `None`: a signal that
/// asks to stop had come before.
pub fn become_command(
    command: &Command,
    around: Surroundings<'_>,
    signals: &mut Signals,
) -> Option<Error> {
    let image = match image(command, around) {
        Ok(image) => image,
        Err(error) => return Some(error),
    };
    let upbringing = Upbringing {
        parent: None,
        own_group: false,
        dispositions: signals.originally().to_vec(),
    };
    // What comes from here on finds the kernel's own answer, before or after the program is there.
    let _quiet = sys::Quiet::begin();
    if crate::wait::Interrupt::interrupted(signals) {
        return None;
    }
    Some(cannot_start(command, image.become_it(&upbringing)))
}
