//! A holder, call by call, as `supervise` and `claim` make them.

use crate::seeker::Broken;
use crate::world::{At, Fault, Life, Process, Setting, Text, World};

pub fn step(world: &mut World, slot: usize, setting: &Setting) -> Result<(), Broken> {
    match world.processes[slot].at {
        At::HealOpen => {
            // The record is read before the lock is tried, and may be an old one by then.
            world.open_or_create(slot);
            world.processes[slot].read = world.file(world.fd(slot)).text;
            world.processes[slot].at = At::HealLock;
        }
        At::HealLock => heal_lock(world, slot, setting),
        At::HealWrite => heal_write(world, slot),
        At::HealRewrite => {
            let current = world.processes[slot].current.expect("it holds");
            let text = world.entry(slot, current, false);
            world.write(current, text);
            world.processes[slot].at = At::Running;
        }
        At::HealIdentify => give_way_only_to_a_record(world, slot),
        At::EndEarlier => {
            for file in world.processes[slot].earlier.into_iter().flatten() {
                let text = world.entry(slot, file, true);
                world.write(file, text);
            }
            world.processes[slot].at = At::EndCurrent;
        }
        At::EndCurrent => {
            let current = world.processes[slot].current.expect("it holds");
            let text = world.entry(slot, current, true);
            world.write(current, text);
            world.processes[slot].at = At::EndClose;
        }
        At::EndClose => world.vanish(slot),
        other => unreachable!("{other:?} is no step of a holder"),
    }
    Ok(())
}

/// Whether a look at the name would find something.
pub fn has_cause_to_look(world: &World, slot: usize, setting: &Setting) -> bool {
    world.processes[slot].at == At::Running
        && !setting.has(Fault::NoHealing)
        && !world.claim_is_whole(slot)
}

/// The comparison with the path; then with the earlier files.
pub fn look_at_name(world: &mut World, slot: usize) {
    let process = &mut world.processes[slot];
    if world.path == process.current {
        process.at = At::HealRewrite;
        return;
    }
    let back = process
        .earlier
        .iter_mut()
        .find(|earlier| earlier.is_some() && **earlier == world.path);
    if let Some(back) = back {
        process.fd = back.take();
        process.read = Text::Empty;
        process.at = At::HealWrite;
    } else {
        process.at = At::HealOpen;
    }
}

fn heal_lock(world: &mut World, slot: usize, setting: &Setting) {
    let file = world.fd(slot);
    let lock = &mut world.file_mut(file).lock;
    if lock.is_none() {
        *lock = Some(slot as u8);
        world.processes[slot].at = At::HealWrite;
    } else if setting.has(Fault::GivesWayToAnyLock) {
        lost(world, slot);
    } else {
        world.processes[slot].at = At::HealIdentify;
    }
}

fn heal_write(world: &mut World, slot: usize) {
    let file = world.fd(slot);
    let process = &world.processes[slot];
    let newer = |entry: crate::world::Entry| entry.generation > process.generation;
    if process.read.entry().is_some_and(newer) {
        return lost(world, slot);
    }
    let text = world.entry(slot, file, false);
    world.write(file, text);
    let process = &mut world.processes[slot];
    let before = std::mem::replace(&mut process.current, process.fd.take());
    let room = process.earlier.iter_mut().find(|earlier| earlier.is_none());
    *room.expect("few earlier files") = before;
    process.read = Text::Empty;
    process.at = At::Running;
}

fn give_way_only_to_a_record(world: &mut World, slot: usize) {
    let file = world.fd(slot);
    let theirs = world.file(file).text.entry().filter(|entry| {
        usize::from(entry.slot) != slot
            && !entry.ended
            && entry.file == file
            && world.proven(entry.slot, file)
    });
    if theirs.is_some() {
        lost(world, slot);
    } else {
        back_to_work(world, slot);
    }
}

fn back_to_work(world: &mut World, slot: usize) {
    world.close(slot);
    world.processes[slot].read = Text::Empty;
    world.processes[slot].at = At::Running;
}

fn lost(world: &mut World, slot: usize) {
    back_to_work(world, slot);
    world.processes[slot].stopping = true;
}

/// It hears that it is to stop, or that its payload is gone.
pub fn heed(world: &mut World, slot: usize, setting: &Setting) {
    let process = &mut world.processes[slot];
    if process.payload == Life::Gone || setting.has(Fault::LetsGoFirst) {
        process.at = end_of(process);
    } else {
        process.stopping = true;
    }
}

/// The first of the files to be marked ended.
pub fn end_of(process: &Process) -> At {
    if process.earlier.iter().any(Option::is_some) {
        At::EndEarlier
    } else {
        At::EndCurrent
    }
}

pub fn has_cause_to_heed(world: &World, slot: usize) -> bool {
    let process = &world.processes[slot];
    process.at == At::Running
        && (process.payload == Life::Gone || process.term && !process.stopping)
}
