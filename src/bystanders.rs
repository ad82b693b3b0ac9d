//! Who certainly belongs to no run under a pid file: noted while there is time, so that the search
//! after a crash looks at nobody twice, and lists nobody where nobody was born since.
//!
//! A standby has nothing to do until the holder ends, and everything to do then. What it can know
//! before is who is no part of the payload: a process whose environment names neither the run nor
//! the pid file, and that descends neither from one that does, nor from the holder. That does not
//! change later: whoever joins a run is born into it.
//!
//! A noted process is known again by its pid and the inode number of its directory in `/proc`. That
//! directory is made anew for each process (`proc_flush_pid` in the kernel's `fs/proc/base.c` drops
//! it at the end), so that a pid that was handed on shows another inode.
//!
//! To list everybody is most of what a search costs. The list of before will do as long as nobody has
//! come, which the kernel's count of births tells ([`ProcessTable::births`]).

use std::io;
use std::time::{Duration, Instant};

use crate::marks;
use crate::process::{self, Environ, Identity, Pid, Stat};
use crate::process_table::{Family, Listed, ProcessTable, Roll};
use crate::record::Record;

/// Somebody so young may be about to become another program, with another environment.
const YOUNG: Duration = Duration::from_secs(1);

/// How long a note is good enough, whatever it costs to take another: who is born later costs a look
/// after the crash, and no more.
const FRESH: Duration = Duration::from_secs(60);

/// Notes may take so much of the time: one two-thousandth.
const SHARE: u32 = 2000;

/// Processes that are no part of any run under one pid file.
#[derive(Debug, Default)]
pub struct Bystanders {
    /// In the order of their numbers.
    known: Vec<Listed>,
    /// Who was there when everybody was listed last.
    roll: Roll,
    note: Option<Note>,
    /// Opened when it is first read.
    table: Option<ProcessTable>,
}

/// A look at everybody while the holder lived.
#[derive(Debug)]
struct Note {
    holder: Identity,
    taken: Instant,
    /// How long the next one will take.
    cost: Duration,
    /// Somebody was too young to be noted.
    young: bool,
    /// The pid that had been handed out last: a hint whether another note would find anybody.
    newest: Option<Pid>,
}

impl Note {
    /// Whether another one would be worth its price by now.
    fn is_old(&self) -> bool {
        self.taken.elapsed() >= FRESH.min(self.cost * SHARE)
    }
}

impl Bystanders {
    /// Nobody is known.
    #[must_use]
    pub fn unknown() -> Self {
        Self::default()
    }

    /// Notes who is no part of the run of this holder, which wrote this record: once for each holder, and
    /// again where somebody was born since, as often as that is worth its price. Never waits; who cannot
    /// be looked at is not noted. `lives` tells whether the holder has not ended: once it has, its
    /// children have another parent, and nobody is noted.
    pub fn note(&mut self, holder: Pid, record: &Record, lives: &dyn Fn() -> bool) {
        let newest = opened(&mut self.table).ok().and_then(ProcessTable::newest);
        let holder = holder.started(record.start_time);
        let last = self.note.as_ref().filter(|note| note.holder == holder);
        if let Some(note) = last
            && (!note.is_old() || !note.young && note.newest == newest)
        {
            return;
        }
        let first = last.is_none();
        let began = Instant::now();
        // A note that cannot be taken now costs time after a crash, and nothing else.
        let young = self.look_around(holder.pid, record, lives);
        self.note = Some(Note {
            holder,
            taken: Instant::now(),
            // The first one is not the measure: who was noted is not looked at again.
            cost: if first {
                Duration::ZERO
            } else {
                began.elapsed()
            },
            young: young.unwrap_or(true),
            newest,
        });
    }

    /// Whether somebody was too young to be noted.
    fn look_around(
        &mut self,
        holder: Pid,
        record: &Record,
        lives: &dyn Fn() -> bool,
    ) -> io::Result<bool> {
        opened(&mut self.table)?.open_statistics();
        let family = self.all_others()?;
        // The payload is of the run whatever it was started with.
        let payload = record.payload.as_ref().map(|payload| payload.pid);
        let mut roots: Vec<Pid> = [holder].into_iter().chain(payload).collect();
        let mut plain = Vec::new();
        for stat in family.members() {
            match mark(stat, record)? {
                Mark::None => plain.push(stat),
                // Without an environment; who is older than the holder is nobody's of its run.
                Mark::Unclear if stat.start_time < record.start_time => plain.push(stat),
                Mark::Some | Mark::Unclear => roots.push(stat.pid),
            }
        }
        let heirs = family.descendants(&roots, &[]);
        let is_of_the_run = |stat: &&Stat| {
            roots.contains(&stat.pid) || heirs.iter().any(|heir| heir.pid == stat.pid)
        };
        plain.retain(|stat| !is_of_the_run(stat));
        if !lives() {
            return Ok(true);
        }
        self.learn(plain.iter().copied());
        Ok(!plain.into_iter().all(is_grown))
    }

    /// Everybody but the known and ourselves, as they are now. They are listed only where somebody may have
    /// come since that was done.
    ///
    /// # Errors
    /// Somebody could not be looked at just now.
    pub fn all_others(&mut self) -> io::Result<Family> {
        let table = opened(&mut self.table)?;
        let births = table.births();
        if !self.roll.is_current(births) {
            self.roll = table.roll(births)?;
            let roll = &self.roll;
            self.known.retain(|known| roll.holds(known));
        }
        let (known, this) = (&self.known, Pid::this());
        let unknown = |who: &&Listed| who.pid != this && known.binary_search(who).is_err();
        let others = self.roll.present().iter().filter(unknown);
        Family::of(others.map(|who| who.pid))
    }

    /// Whether everybody who is there now was there at the last look, too ([`Self::all_others`]), but for the
    /// children of those who are still there. `false` also where that cannot be told.
    ///
    /// # Errors
    /// They cannot be listed just now.
    pub fn nobody_came(&mut self) -> io::Result<bool> {
        self.roll.nobody_came(opened(&mut self.table)?)
    }

    /// These were looked at, and are no part of any run under the pid file. The young ones are
    /// looked at again all the same.
    pub fn learn<'a>(&mut self, strangers: impl IntoIterator<Item = &'a Stat>) {
        let grown = strangers.into_iter().filter(|stat| is_grown(stat));
        let listed = self.roll.present();
        let noted = grown.filter_map(|stat| {
            let at = listed.binary_search_by_key(&stat.pid, |who| who.pid).ok()?;
            Some(listed[at])
        });
        self.known.extend(noted);
        self.known.sort_unstable();
        self.known.dedup();
    }
}

fn opened(table: &mut Option<ProcessTable>) -> io::Result<&mut ProcessTable> {
    match table {
        Some(table) => Ok(table),
        none => Ok(none.insert(ProcessTable::open()?)),
    }
}

/// It will not become another program by what it was born for.
fn is_grown(stat: &Stat) -> bool {
    stat.is_kernel_thread() || process::age(stat) >= YOUNG
}

/// Whether a process was started under the pid file.
enum Mark {
    Some,
    None,
    Unclear,
}

fn mark(stat: &Stat, record: &Record) -> io::Result<Mark> {
    if stat.is_kernel_thread() {
        return Ok(Mark::None);
    }
    let environ = Environ::look(stat.pid)?.unwrap_or_default();
    Ok(if marks::names_run_or_file(&environ, record) {
        Mark::Some
    } else if environ.is_empty() {
        Mark::Unclear
    } else {
        Mark::None
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::process_table::tests::table_that_counts;
    use crate::record::tests::example;
    use crate::variables::{PID_FILE, RUN_ID};
    use std::process::{Child, Command};

    /// A process that ends with this value.
    pub(crate) struct Ended(Child);

    impl Ended {
        pub(crate) fn pid(&self) -> Pid {
            Pid::new(self.0.id().into()).unwrap()
        }
    }

    impl Drop for Ended {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    pub(crate) fn sleeper(marks: &[(&str, &str)]) -> Ended {
        let mut command = Command::new("sleep");
        let child = command.arg("60").env_clear().env("A", "b");
        Ended(child.envs(marks.iter().copied()).spawn().unwrap())
    }

    impl Bystanders {
        /// From now on so many were born, whoever really is.
        pub(crate) fn set_births(&mut self, births: u64) {
            self.table = Some(table_that_counts(births));
        }
    }

    /// Waits until they are what they will be, and no longer young.
    fn grow(sleepers: &[&Ended]) {
        let executed = |pid| Environ::look(pid).unwrap().unwrap().get("A") == Some(b"b");
        let is_young = |pid| process::age(&Stat::of(pid).unwrap()) < YOUNG;
        for pid in sleepers.iter().map(|sleeper| sleeper.pid()) {
            while !executed(pid) || is_young(pid) {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }

    fn others(bystanders: &mut Bystanders) -> Vec<Pid> {
        let family = bystanders.all_others().unwrap();
        family.members().map(|stat| stat.pid).collect()
    }

    #[test]
    fn only_who_is_no_part_of_a_run_is_noted() {
        let record = example();
        let ids = format!("outer:{}", record.run_id);
        let path = record.path().to_str().unwrap().to_owned();
        let (plain, holder) = (sleeper(&[]), sleeper(&[]));
        let another = sleeper(&[(RUN_ID, "x"), (PID_FILE, "/y")]);
        let marked = [sleeper(&[(RUN_ID, &ids)]), sleeper(&[(PID_FILE, &path)])];
        grow(&[&plain, &holder, &another, &marked[0], &marked[1]]);
        let mut bystanders = Bystanders::unknown();
        let before = others(&mut bystanders);
        assert!(before.contains(&plain.pid()) && before.contains(&another.pid()));
        bystanders.note(holder.pid(), &record, &|| true);
        let after = others(&mut bystanders);
        assert!(!after.contains(&plain.pid()) && !after.contains(&another.pid()));
        assert!(marked.iter().all(|marked| after.contains(&marked.pid())));
    }

    #[test]
    fn children_of_the_holder_are_not_noted_whatever_their_environment() {
        let (child, stranger) = (sleeper(&[]), sleeper(&[]));
        grow(&[&child, &stranger]);
        let mut bystanders = Bystanders::unknown();
        bystanders.note(Pid::this(), &example(), &|| true);
        assert!(others(&mut bystanders).contains(&child.pid()));
        // Behind another holder the same child is nobody's.
        bystanders.note(stranger.pid(), &example(), &|| true);
        assert!(!others(&mut bystanders).contains(&child.pid()));
    }

    #[test]
    fn who_is_born_after_the_note_is_looked_at() {
        let (holder, older) = (sleeper(&[]), sleeper(&[]));
        grow(&[&holder, &older]);
        let mut bystanders = Bystanders::unknown();
        bystanders.note(holder.pid(), &example(), &|| true);
        let newborn = sleeper(&[]);
        let after = others(&mut bystanders);
        assert!(after.contains(&newborn.pid()) && !after.contains(&older.pid()));
    }

    /// What a holder leaves has another parent at once.
    #[test]
    fn a_note_during_which_the_holder_has_ended_says_nothing() {
        let (holder, orphan) = (sleeper(&[]), sleeper(&[]));
        grow(&[&holder, &orphan]);
        let mut bystanders = Bystanders::unknown();
        bystanders.note(holder.pid(), &example(), &|| false);
        assert!(others(&mut bystanders).contains(&orphan.pid()));
    }

    #[test]
    fn the_payload_is_never_noted() {
        let (holder, payload) = (sleeper(&[]), sleeper(&[]));
        grow(&[&holder, &payload]);
        let mut record = example();
        record.payload.as_mut().unwrap().pid = payload.pid();
        let mut bystanders = Bystanders::unknown();
        bystanders.note(holder.pid(), &record, &|| true);
        assert!(others(&mut bystanders).contains(&payload.pid()));
    }

    #[test]
    fn who_was_too_young_for_a_note_is_noted_by_the_next() {
        let record = example();
        let (holder, young) = (sleeper(&[]), sleeper(&[]));
        let mut bystanders = Bystanders::unknown();
        bystanders.note(holder.pid(), &record, &|| true);
        assert!(others(&mut bystanders).contains(&young.pid()));
        grow(&[&holder, &young]);
        bystanders.note(holder.pid(), &record, &|| true);
        assert!(!others(&mut bystanders).contains(&young.pid()));
    }

    /// What a search costs is mostly the list.
    #[test]
    fn where_nobody_was_born_nobody_is_listed() {
        let mut bystanders = Bystanders::unknown();
        bystanders.set_births(5);
        others(&mut bystanders);
        // Not counted: only who lists sees it.
        let newborn = sleeper(&[]);
        assert!(!others(&mut bystanders).contains(&newborn.pid()));
        assert!(bystanders.nobody_came().unwrap());
        bystanders.set_births(6);
        assert!(!bystanders.nobody_came().unwrap());
        assert!(others(&mut bystanders).contains(&newborn.pid()));
    }

    #[test]
    fn who_came_since_the_last_look_is_noticed_and_who_went_is_not() {
        let mut bystanders = Bystanders::unknown();
        // Others come and go beside this test.
        let mut looks = 0..1000;
        assert!(looks.any(|_| {
            let gone = sleeper(&[]);
            others(&mut bystanders);
            drop(gone);
            bystanders.nobody_came().unwrap()
        }));
        let _newborn = sleeper(&[]);
        assert!(!bystanders.nobody_came().unwrap());
    }

    #[test]
    fn a_number_that_is_handed_on_is_somebody_else() {
        let (child, holder) = (sleeper(&[]), sleeper(&[]));
        grow(&[&child, &holder]);
        let mut bystanders = Bystanders::unknown();
        bystanders.note(holder.pid(), &example(), &|| true);
        assert!(!others(&mut bystanders).contains(&child.pid()));
        let known = &mut bystanders.known;
        let at = known.binary_search_by_key(&child.pid(), |who| who.pid);
        known[at.unwrap()].inode += 1;
        assert!(others(&mut bystanders).contains(&child.pid()));
    }
}
