//! A start, call by call, as `acquire` makes them.

use std::time::Duration;

use gateway_lock::takeover::{Refusal, Seen, Standing, Step};
use gateway_lock::time::Limit;

use crate::holder::end_of;
use crate::world::{At, Fault, Kind, Life, SLOTS, Send, Setting, Text, World};

/// What every holder records as its stop budget.
const BUDGET: Limit = Limit::After(Duration::from_secs(1));

/// A promise was broken.
pub type Broken = String;

pub fn step(world: &mut World, slot: usize, setting: &Setting) -> Result<(), Broken> {
    match world.processes[slot].at {
        At::Open => {
            world.open_or_create(slot);
            world.processes[slot].at = At::TryLock;
        }
        At::TryLock => try_lock(world, slot, setting),
        At::CompareFirst => return compare_first(world, slot, setting),
        At::LetGo => return let_go(world, slot, setting),
        At::Sweep => return sweep(world, slot, setting),
        At::WriteRecord => write_record(world, slot),
        At::CompareAfterRecord => {
            let skipped = setting.has(Fault::NoComparison) || setting.has(Fault::NoLastComparison);
            if !skipped && !is_still_at_path(world, slot) && !setting.has(Fault::LeavesItsRecord) {
                // Who does not start leaves the file as it was.
                let (file, before) = (world.fd(slot), world.processes[slot].read);
                world.write(file, before);
            }
            compare(world, slot, skipped, At::Fork);
        }
        At::Fork => fork(world, slot),
        At::Identify => return identify(world, slot, setting),
        At::Doze => wake(world, slot, setting),
        At::ProveAgain(send) => prove_again(world, slot, send, setting),
        At::Signal(send) => return signal(world, slot, send),
        At::ProbeClose => world.vanish(slot),
        other => unreachable!("{other:?} is no step of a start"),
    }
    Ok(())
}

fn probe(world: &mut World, slot: usize) {
    let file = world.fd(slot);
    if world.file(file).lock.is_none() {
        world.file_mut(file).lock = Some(slot as u8);
        world.processes[slot].at = At::ProbeClose;
    } else {
        world.vanish(slot);
    }
}

fn try_lock(world: &mut World, slot: usize, setting: &Setting) {
    if world.processes[slot].kind == Kind::Probe {
        return probe(world, slot);
    }
    let file = world.fd(slot);
    let free = world.file(file).lock.is_none() || setting.has(Fault::NoLock);
    world.processes[slot].at = if free {
        world.file_mut(file).lock = Some(slot as u8);
        world.processes[slot].mark = world.file(file).renamed;
        At::CompareFirst
    } else {
        At::Identify
    };
}

/// Nor was it away for a moment: its times tell.
fn is_still_at_path(world: &World, slot: usize) -> bool {
    is_at_path(world, slot) && world.file(world.fd(slot)).renamed == world.processes[slot].mark
}

fn is_at_path(world: &World, slot: usize) -> bool {
    world.path == Some(world.fd(slot))
}

/// The file is read and compared with the path; then it may be known already that nobody holds an
/// earlier one.
fn compare_first(world: &mut World, slot: usize, setting: &Setting) -> Result<(), Broken> {
    let file = world.fd(slot);
    let read = world.file(file).text;
    world.processes[slot].read = read;
    if !is_at_path(world, slot) && !setting.has(Fault::NoComparison) {
        return decide(world, slot, Seen::Moved, None);
    }
    let entry = read.entry();
    let named = entry.is_some_and(|entry| entry.file == file)
        && (!world.file(file).moved || setting.has(Fault::TrustsAnyNamedFile));
    let lives =
        entry.is_some_and(|entry| !entry.ended && world.processes[usize::from(entry.slot)].lives());
    if named && !lives || setting.has(Fault::NoSearch) {
        return decide(world, slot, Seen::Free, None);
    }
    let seen = 1 << slot;
    world.processes[slot].at = At::Search(seen);
    Ok(())
}

/// One process of `/proc` is looked at.
pub fn look(world: &mut World, slot: usize, at: usize) -> Result<(), Broken> {
    let (At::Search(seen) | At::ViewSearch(seen)) = world.processes[slot].at else {
        unreachable!("only a search looks")
    };
    let stops = world.processes[slot].kind == Kind::Stop;
    let found = world
        .held_by(at, world.processes[slot].fd)
        .filter(|_| world.processes[at].is_gateway());
    if let Some(file) = found {
        world.processes[slot].target = Some((at as u8, file));
        world.processes[slot].read = world.file(file).text;
        world.processes[slot].at = if stops { At::Press } else { At::LetGo };
        if stops {
            world.close(slot);
        }
        return Ok(());
    }
    let seen = seen | 1 << at;
    if seen + 1 < 1 << SLOTS {
        world.processes[slot].at = if stops {
            At::ViewSearch(seen)
        } else {
            At::Search(seen)
        };
        return Ok(());
    }
    if stops {
        crate::stopper::nobody_holds(world, slot);
        return Ok(());
    }
    decide(world, slot, Seen::Free, None)
}

/// The new file goes first, so that the holder can put its claim back; then it is opened again.
fn let_go(world: &mut World, slot: usize, setting: &Setting) -> Result<(), Broken> {
    let target = world.processes[slot].target;
    if !setting.has(Fault::KeepsTheNewFile) {
        world.close(slot);
        world.open_or_create(slot);
    }
    let (who, _) = target.expect("found");
    decide(world, slot, Seen::Held(proven(who, false)), target)
}

fn proven(who: u8, ending: bool) -> Standing {
    Standing::Proven {
        who: World::who(who),
        budget: Some(BUDGET),
        bar: None,
        ending,
    }
}

fn identify(world: &mut World, slot: usize, setting: &Setting) -> Result<(), Broken> {
    world.processes[slot].read = world.file(world.fd(slot)).text;
    let (standing, target) = identified(world, slot, setting);
    decide(world, slot, Seen::Held(standing), target)
}

/// Who has the lock on the file that is open, by the record that was read and by the proof.
pub fn identified(world: &World, slot: usize, setting: &Setting) -> (Standing, Option<(u8, u8)>) {
    let file = world.fd(slot);
    if let Some(entry) = world.processes[slot].read.entry()
        && usize::from(entry.slot) != slot
        && (entry.file == file || setting.has(Fault::ProvesByACopiedRecord))
        && (world.proven(entry.slot, file) || setting.has(Fault::NoProof))
    {
        return (proven(entry.slot, entry.ended), Some((entry.slot, file)));
    }
    let locker = world.file(file).lock;
    let gateway = locker.is_some_and(|locker| world.processes[usize::from(locker)].is_gateway());
    let standing = if gateway {
        Standing::Starting
    } else {
        Standing::Unproven
    };
    (standing, None)
}

/// The shipped decision, and the beginning of its step.
pub fn decide(
    world: &mut World,
    slot: usize,
    seen: Seen,
    target: Option<(u8, u8)>,
) -> Result<(), Broken> {
    // Only one who has let go of nothing has the lock of what it looks at.
    let keeps = world.processes[slot].fd.is_some_and(|file| {
        target.is_some_and(|(_, theirs)| theirs != file)
            && world.file(file).lock == Some(slot as u8)
    });
    let elapsed = world.elapsed(slot);
    let now = world.now;
    let stranger =
        target.is_some_and(|(who, _)| world.processes[usize::from(who)].at == At::Bystander);
    let process = &mut world.processes[slot];
    let takeover = process.takeover.as_mut().expect("a start decides");
    let step = takeover.next(elapsed, seen);
    process.target = target;
    process.pinned_stranger = stranger;
    if step != Step::Start && process.kind != Kind::Stop {
        process.read = Text::Empty;
    }
    match step {
        Step::Start => process.at = At::Sweep,
        Step::Reopen => again(world, slot),
        Step::Ask => process.at = At::ProveAgain(Send::Term),
        Step::Kill => process.at = At::ProveAgain(Send::Kill),
        Step::Sleep(until) => {
            let began = process.began;
            let until = until.map(|until| began + u16::try_from(until.as_millis() / 100).unwrap());
            if until.is_some_and(|until| until <= now) {
                return Err(format!(
                    "a deadline is exceeded: {slot} sleeps at {now} until {until:?}, after {seen:?}"
                ));
            }
            process.until = until;
            process.at = At::Doze;
            if !keeps {
                world.close(slot);
            }
        }
        Step::Refuse(refusal) => return give_up(world, slot, refusal, seen),
    }
    Ok(())
}

fn give_up(world: &mut World, slot: usize, refusal: Refusal, seen: Seen) -> Result<(), Broken> {
    let Seen::Held(standing) = seen else {
        return Err(format!("{slot} gives up although nobody holds"));
    };
    let process = &world.processes[slot];
    if let (Some((asked, false)), Standing::Proven { who, .. }) = (process.asked, standing)
        && who == World::who(asked)
        && world.processes[usize::from(asked)].lives()
    {
        return Err(format!("{slot} asked {asked} to go and leaves"));
    }
    // Refused by a holder: it is to be there afterwards. Anything else is the end of a patience.
    world.excused |= refusal != Refusal::Held;
    world.vanish(slot);
    Ok(())
}

/// A stop goes on pressing the holder that it found; a start looks anew.
fn wake(world: &mut World, slot: usize, setting: &Setting) {
    let target = world.processes[slot].target;
    let waits = target.is_some_and(|(target, _)| world.processes[usize::from(target)].lives());
    if setting.has(Fault::KeepsTheNewFile) && world.processes[slot].fd.is_some() && waits {
        return;
    }
    let process = &mut world.processes[slot];
    if process.kind == Kind::Stop && process.target.is_some() && !process.term {
        process.until = None;
        process.at = At::Press;
    } else {
        again(world, slot);
    }
}

/// Begins again at the path, unless it was told to end.
fn again(world: &mut World, slot: usize) {
    world.close(slot);
    if world.processes[slot].term {
        return world.vanish(slot);
    }
    let process = &mut world.processes[slot];
    process.until = None;
    process.target = None;
    process.mark = 0;
    process.read = Text::Empty;
    process.at = match process.kind {
        Kind::Stop => At::View,
        _ => At::Open,
    };
}

fn prove_again(world: &mut World, slot: usize, send: Send, setting: &Setting) {
    let (target, file) = world.processes[slot]
        .target
        .expect("somebody is to be signalled");
    // Its descriptor may be gone, and the file with it.
    let holds = file != u8::MAX && world.proven(target, file);
    if world.processes[slot].term && !setting.has(Fault::AsksAlthoughTold) {
        // Whoever told us to end may be the one we are about to ask.
        return again(world, slot);
    }
    if holds || setting.has(Fault::NoProof) {
        world.processes[slot].at = At::Signal(send);
    } else {
        not_sent(world, slot);
    }
}

fn not_sent(world: &mut World, slot: usize) {
    if world.processes[slot].kind == Kind::Stop {
        world.processes[slot].at = At::Press;
        return;
    }
    let takeover = world.processes[slot].takeover.as_mut();
    takeover.expect("a start decides").take_back();
    again(world, slot);
}

/// Through the pidfd: whoever has that number by now is not hit.
fn signal(world: &mut World, slot: usize, send: Send) -> Result<(), Broken> {
    let (target, _) = world.processes[slot]
        .target
        .expect("somebody is to be signalled");
    let pinned_stranger = world.processes[slot].pinned_stranger;
    let there = &mut world.processes[usize::from(target)];
    if there.at == At::Bystander && pinned_stranger {
        return Err("a bystander is signalled".into());
    }
    if !there.lives() {
        not_sent(world, slot);
        return Ok(());
    }
    if !there.claimed {
        return Err(format!("{target} is signalled, and never wrote a record"));
    }
    match send {
        Send::Term => there.term = true,
        Send::Kill => there.killed = true,
    }
    let process = &mut world.processes[slot];
    process.asked = Some((target, send == Send::Kill));
    if process.kind == Kind::Stop {
        world.excused = true;
        world.processes[slot].at = At::Press;
    } else {
        again(world, slot);
    }
    Ok(())
}

/// Survivors of the crashed run that left this record; and, where it does not name this very file,
/// of every gateway of this path that is gone.
pub fn survivors(world: &World, slot: usize, last: Text) -> Vec<usize> {
    let gone = |other: usize| !world.processes[other].lives();
    let by_record = |other: usize| {
        last.entry().is_some_and(|entry| {
            !entry.ended
                && usize::from(entry.slot) == other
                && entry.generation == world.processes[other].generation
        })
    };
    let fd = world.processes[slot].fd;
    let by_path = fd.is_some_and(|file| last.entry().is_none_or(|entry| entry.file != file));
    let belongs = |other: usize| gone(other) && (by_record(other) || by_path);
    (0..SLOTS)
        .filter(|other| *other != slot && world.processes[*other].payload == Life::Alive)
        .filter(|other| belongs(*other))
        .collect()
}

fn sweep(world: &mut World, slot: usize, setting: &Setting) -> Result<(), Broken> {
    let left = if setting.has(Fault::NoSweep) {
        Vec::new()
    } else {
        survivors(world, slot, world.processes[slot].read)
    };
    if left.is_empty() {
        if setting.has(Fault::PayloadFirst) {
            world.processes[slot].payload = Life::Alive;
        }
        // Looking for processes and looking at the path do not touch each other: one step.
        compare(
            world,
            slot,
            setting.has(Fault::NoComparison),
            At::WriteRecord,
        );
        return Ok(());
    }
    press_survivors(world, &left)?;
    if world.processes[slot].term {
        again(world, slot);
    }
    Ok(())
}

pub fn press_survivors(world: &mut World, left: &[usize]) -> Result<(), Broken> {
    for survivor in left {
        if world.processes[*survivor].lives() {
            return Err(format!(
                "the payload of {survivor} is ended, and its gateway lives"
            ));
        }
        world.processes[*survivor].payload_asked = true;
    }
    Ok(())
}

fn compare(world: &mut World, slot: usize, skipped: bool, next: At) {
    if skipped || is_still_at_path(world, slot) {
        world.processes[slot].at = next;
    } else {
        again(world, slot);
    }
}

fn write_record(world: &mut World, slot: usize) {
    let generation = world.next_generation();
    let file = world.fd(slot);
    world.processes[slot].generation = generation;
    world.processes[slot].claimed = true;
    let text = world.entry(slot, file, false);
    world.write(file, text);
    world.processes[slot].at = At::CompareAfterRecord;
}

fn fork(world: &mut World, slot: usize) {
    let process = &mut world.processes[slot];
    process.current = process.fd.take();
    process.takeover = None;
    process.target = None;
    process.asked = None;
    process.read = Text::Empty;
    process.mark = 0;
    process.began = 0;
    if process.term {
        process.at = end_of(process);
    } else {
        process.payload = Life::Alive;
        process.at = At::Running;
    }
}
