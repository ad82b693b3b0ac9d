//! A stop, call by call, as `view` and `stop` make them.

use gateway_lock::takeover::{Seen, Standing};

use crate::seeker::{self, Broken, decide, identified};
use crate::world::{At, Setting, Text, World};

pub fn step(world: &mut World, slot: usize, setting: &Setting) -> Result<(), Broken> {
    match world.processes[slot].at {
        At::View => {
            world.processes[slot].fd = world.path;
            world.processes[slot].at = match world.path {
                Some(_) => At::ViewRead,
                None => At::ViewSearch(1 << slot),
            };
        }
        At::ViewRead => {
            world.processes[slot].read = world.file(world.fd(slot)).text;
            world.processes[slot].at = At::ViewIdentify;
        }
        At::ViewIdentify => return view(world, slot, setting),
        At::Press => return press(world, slot),
        At::ClearPayload => return clear_payload(world, slot),
        At::MarkOpen => {
            if world.path.is_some() {
                world.open_or_create(slot);
                world.processes[slot].at = At::MarkLock;
            } else {
                world.vanish(slot);
            }
        }
        At::MarkLock => {
            let file = world.fd(slot);
            if world.file(file).lock.is_none() {
                world.file_mut(file).lock = Some(slot as u8);
                world.processes[slot].at = At::MarkWrite;
            } else {
                world.vanish(slot);
            }
        }
        At::MarkWrite => mark(world, slot),
        other => unreachable!("{other:?} is no step of a stop"),
    }
    Ok(())
}

fn view(world: &mut World, slot: usize, setting: &Setting) -> Result<(), Broken> {
    let (standing, target) = identified(world, slot, setting);
    if target.is_some() {
        world.processes[slot].target = target;
        world.close(slot);
        world.processes[slot].at = At::Press;
        return Ok(());
    }
    let file = world.fd(slot);
    if world.file(file).lock.is_some() {
        return decide(world, slot, Seen::Held(standing), None);
    }
    let names_itself = |entry: crate::world::Entry| entry.file == file;
    if world.processes[slot].read.entry().is_some_and(names_itself) {
        nobody_holds(world, slot);
    } else {
        world.processes[slot].at = At::ViewSearch(1 << slot);
    }
    Ok(())
}

/// Either nothing is to be done, or a crashed run is to be cleared away.
pub fn nobody_holds(world: &mut World, slot: usize) {
    world.close(slot);
    match world.processes[slot].read {
        Text::Record(entry) if !entry.ended => world.processes[slot].at = At::ClearPayload,
        _ => world.vanish(slot),
    }
}

/// One holder is pressed until it holds no more.
fn press(world: &mut World, slot: usize) -> Result<(), Broken> {
    let (target, file) = world.processes[slot].target.expect("a proven one");
    if file != u8::MAX && world.proven(target, file) {
        let ended = world
            .file(file)
            .text
            .entry()
            .is_some_and(|entry| entry.ended);
        let standing = Standing::Proven {
            who: World::who(target),
            budget: None,
            bar: None,
            ending: ended,
        };
        return decide(world, slot, Seen::Held(standing), Some((target, file)));
    }
    let on_path = world.path.and_then(|path| world.file(path).text.entry());
    let run = world.processes[slot]
        .read
        .entry()
        .map(|entry| entry.generation);
    let marked = on_path.is_some_and(|entry| Some(entry.generation) == run && entry.ended);
    let killed = world.processes[slot].asked == Some((target, true));
    if marked && !killed {
        world.vanish(slot);
        return Ok(());
    }
    if let Text::Record(entry) = &mut world.processes[slot].read {
        entry.ended = false;
    }
    world.processes[slot].at = At::ClearPayload;
    Ok(())
}

fn clear_payload(world: &mut World, slot: usize) -> Result<(), Broken> {
    let left = seeker::survivors(world, slot, world.processes[slot].read);
    if left.is_empty() {
        world.processes[slot].at = At::MarkOpen;
        return Ok(());
    }
    seeker::press_survivors(world, &left)
}

fn mark(world: &mut World, slot: usize) {
    let file = world.fd(slot);
    let run = world.processes[slot]
        .read
        .entry()
        .map(|entry| entry.generation);
    if let Text::Record(entry) = world.file(file).text
        && Some(entry.generation) == run
        && !entry.ended
    {
        let text = Text::Record(crate::world::Entry {
            ended: true,
            ..entry
        });
        world.write(file, text);
    }
    world.vanish(slot);
}
