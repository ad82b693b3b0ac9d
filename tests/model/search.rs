//! Breadth first through every world that can come to be.
//!
//! Beside what is wrong in one world, two things are asked of all of them together: that each world
//! in which everybody rests is a good one, and that from every world the processes can get to a
//! good one by themselves, without help from outside.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hash, Hasher};

use crate::world::{At, Event, Life, SLOTS, Setting, World};
use crate::{holder, seeker, stopper};

/// How far the search goes.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// More worlds than this are a fault of the model.
    pub states: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { states: 12_000_000 }
    }
}

/// What came out.
pub enum Found {
    /// Every promise was kept in all of them.
    Nothing { states: usize },
    /// One was broken, and how it came to it.
    Violation { what: String, trace: String },
}

/// Looks at every world that the setting allows.
pub fn explore(setting: &Setting, limits: Limits) -> Found {
    let mut search = Search::default();
    let mut first = World::new(setting);
    first.tidy();
    search.remember(&first, None);
    let mut queue = VecDeque::from([first]);
    let mut events = Vec::new();
    let mut from = 0;
    while let Some(world) = queue.pop_front() {
        events.clear();
        possible(&world, setting, &mut events);
        for event in &events {
            let mut next = world.clone();
            let result = perform(&mut next, *event, setting);
            next.tidy();
            let broken = result.err().or_else(|| wrong(&next));
            if let Some(what) = broken {
                let trace = search.trace(setting, from, Some(*event));
                return Found::Violation { what, trace };
            }
            let (to, new) = search.remember(&next, Some((from, *event)));
            if event.is_inner() {
                search.inner.push((from, to));
            }
            if new {
                queue.push_back(next);
            }
        }
        from += 1;
        assert!(
            search.came.len() <= limits.states,
            "more worlds than expected"
        );
    }
    match search.stuck() {
        Some(world) => search.explain_stuck(setting, world),
        None => Found::Nothing {
            states: search.came.len(),
        },
    }
}

#[derive(Default)]
struct Search {
    known: HashMap<u128, u32, BuildHasherDefault<Identity>>,
    /// How each world was first come to.
    came: Vec<Option<(u32, Event)>>,
    /// What processes do by themselves.
    inner: Vec<(u32, u32)>,
    good: Vec<u32>,
    /// A payload lives, and the path does not say so.
    unclaimed: Vec<u32>,
}

impl Search {
    fn remember(&mut self, world: &World, came: Option<(u32, Event)>) -> (u32, bool) {
        let fingerprint = Fingerprint::of(world);
        let next = u32::try_from(self.came.len()).expect("fewer than 2^32 worlds");
        let number = *self.known.entry(fingerprint).or_insert(next);
        let new = number == next;
        if new {
            self.came.push(came);
            if is_good(world) {
                self.good.push(number);
            }
            if has_no_claim(world) {
                self.unclaimed.push(number);
            }
        }
        (number, new)
    }

    /// A world from which the processes cannot get to a good one.
    fn stuck(&mut self) -> Option<u32> {
        let count = self.came.len();
        // Edges backwards, sorted by where they lead.
        self.inner.sort_unstable_by_key(|(_, to)| *to);
        let mut begins = vec![0usize; count + 1];
        for (_, to) in &self.inner {
            begins[*to as usize + 1] += 1;
        }
        for at in 1..=count {
            begins[at] += begins[at - 1];
        }
        let mut reaches = vec![false; count];
        let mut queue: Vec<u32> = self.good.clone();
        for world in &queue {
            reaches[*world as usize] = true;
        }
        while let Some(world) = queue.pop() {
            let at = world as usize;
            for (from, _) in &self.inner[begins[at]..begins[at + 1]] {
                if !std::mem::replace(&mut reaches[*from as usize], true) {
                    queue.push(*from);
                }
            }
        }
        let is_stuck = |world: &&u32| !reaches[**world as usize];
        let first = (0..count as u32).find(|world| is_stuck(&world));
        self.unclaimed.iter().find(is_stuck).copied().or(first)
    }

    fn explain_stuck(&self, setting: &Setting, world: u32) -> Found {
        let (last, trace) = self.replay(setting, world, None);
        let what = if has_no_claim(&last) {
            "the path stays without a claim while a payload lives"
        } else {
            "somebody neither gets the lock nor yields"
        };
        Found::Violation {
            what: what.into(),
            trace,
        }
    }

    fn trace(&self, setting: &Setting, world: u32, last: Option<Event>) -> String {
        self.replay(setting, world, last).1
    }

    /// The events that led there, done again.
    fn replay(&self, setting: &Setting, world: u32, last: Option<Event>) -> (World, String) {
        let mut events: Vec<Event> = last.into_iter().collect();
        let mut at = world;
        while let Some((from, event)) = self.came[at as usize] {
            events.push(event);
            at = from;
        }
        let mut world = World::new(setting);
        world.tidy();
        let mut trace = String::new();
        for event in events.iter().rev() {
            trace.push_str(&told(&world, *event));
            let _ = perform(&mut world, *event, setting);
            world.tidy();
        }
        trace.push_str(&format!("then: {world:#?}\n"));
        (world, trace)
    }
}

fn told(world: &World, event: Event) -> String {
    let at = match event {
        Event::Step(slot) | Event::Look(slot, _) => format!(" {:?}", world.processes[slot].at),
        _ => String::new(),
    };
    format!("{event:?}{at}\n")
}

fn possible(world: &World, setting: &Setting, events: &mut Vec<Event>) {
    // Who starts first does not matter: a search looks at the others in any order.
    if let Some(slot) =
        (0..setting.processes).find(|slot| world.processes[*slot].at == At::NotStarted)
    {
        events.extend(setting.kinds.iter().map(|kind| Event::Start(slot, *kind)));
    }
    for slot in 0..SLOTS {
        let process = &world.processes[slot];
        own_events(world, slot, setting, events);
        if process.payload == Life::Alive
            && (process.stopping || process.payload_asked || !process.lives())
        {
            events.push(Event::PayloadEnds(slot));
        }
        if process.killed {
            events.push(Event::Die(slot));
        }
        if process.lives() && world.crashes > 0 {
            events.push(Event::Crash(slot));
        }
        if process.is_gateway() && world.signals > 0 && !process.term {
            events.push(Event::Terminate(slot));
        }
        if process.at == At::Gone && world.reuses > 0 {
            events.push(Event::Reuse(slot));
        }
    }
    if time_may_pass(world) {
        events.push(Event::Tick);
    }
    let meddlings = setting.meddling.iter().copied();
    events.extend(
        meddlings
            .filter(|meddling| world.may_meddle(*meddling))
            .map(Event::Meddle),
    );
}

fn own_events(world: &World, slot: usize, setting: &Setting, events: &mut Vec<Event>) {
    match world.processes[slot].at {
        At::NotStarted | At::Gone | At::Bystander => {}
        At::Search(seen) | At::ViewSearch(seen) => {
            let left = (0..SLOTS).filter(|at| seen & 1 << at == 0);
            events.extend(left.map(|at| Event::Look(slot, at)));
        }
        At::Running => {
            if holder::has_cause_to_look(world, slot, setting) {
                events.push(Event::LookAtName(slot));
            }
            if holder::has_cause_to_heed(world, slot) {
                events.push(Event::Heed(slot));
            }
        }
        _ => events.push(Event::Step(slot)),
    }
}

/// Calls take no time: it passes only while everybody sleeps, holds, or waits for a payload.
fn time_may_pass(world: &World) -> bool {
    let rests = |slot: usize| {
        let process = &world.processes[slot];
        match process.at {
            At::NotStarted | At::Gone | At::Bystander | At::Running => true,
            At::Sweep | At::ClearPayload => {
                let left = seeker::survivors(world, slot, process.read);
                !process.term && left.iter().any(|left| world.processes[*left].payload_asked)
            }
            At::Doze => !process.term && process.until.is_none_or(|until| until > world.now),
            _ => false,
        }
    };
    let wakes = |process: &crate::world::Process| process.until.is_some();
    (0..SLOTS).all(rests) && world.processes.iter().any(wakes)
}

fn perform(world: &mut World, event: Event, setting: &Setting) -> Result<(), String> {
    match event {
        Event::Start(slot, kind) => world.begin(slot, kind, setting),
        Event::Step(slot) => return step(world, slot, setting),
        Event::Look(slot, at) => return seeker::look(world, slot, at),
        Event::LookAtName(slot) => holder::look_at_name(world, slot),
        Event::Heed(slot) => holder::heed(world, slot, setting),
        Event::PayloadEnds(slot) => world.processes[slot].payload = Life::Gone,
        Event::Die(slot) => world.vanish(slot),
        Event::Tick => {
            let until = world.processes.iter().filter_map(|process| process.until);
            world.now = until.min().expect("somebody wakes up");
        }
        Event::Crash(slot) => {
            world.crashes -= 1;
            world.excused = true;
            world.vanish(slot);
        }
        Event::Terminate(slot) => {
            world.signals -= 1;
            world.excused = true;
            world.processes[slot].term = true;
        }
        Event::Reuse(slot) => {
            world.reuses -= 1;
            world.processes[slot].at = At::Bystander;
        }
        Event::Meddle(meddling) => {
            world.meddlings -= 1;
            world.meddle(meddling);
        }
    }
    Ok(())
}

fn step(world: &mut World, slot: usize, setting: &Setting) -> Result<(), String> {
    match world.processes[slot].at {
        At::HealOpen
        | At::HealLock
        | At::HealWrite
        | At::HealIdentify
        | At::HealRewrite
        | At::EndEarlier
        | At::EndCurrent
        | At::EndClose => holder::step(world, slot, setting),
        At::View
        | At::ViewRead
        | At::ViewIdentify
        | At::Press
        | At::ClearPayload
        | At::MarkOpen
        | At::MarkLock
        | At::MarkWrite => stopper::step(world, slot, setting),
        _ => seeker::step(world, slot, setting),
    }
}

/// What must not be true of any world.
fn wrong(world: &World) -> Option<String> {
    let payloads = world.processes.iter();
    if payloads
        .filter(|process| process.payload == Life::Alive)
        .count()
        > 1
    {
        return Some("two payloads live".into());
    }
    let running = (0..SLOTS).filter(|slot| world.runs(*slot)).count();
    (world.started && all_rest(world) && !world.excused && running != 1)
        .then(|| "nobody runs: all gave way".into())
}

fn has_no_claim(world: &World) -> bool {
    (0..SLOTS).any(|slot| {
        let process = &world.processes[slot];
        process.lives() && process.payload == Life::Alive && !world.claim_is_whole(slot)
    })
}

/// Nobody is on the way to anything.
fn all_rest(world: &World) -> bool {
    (0..SLOTS).all(|slot| {
        let process = &world.processes[slot];
        let idle = matches!(process.at, At::NotStarted | At::Gone | At::Bystander);
        (idle && process.payload != Life::Alive)
            || process.at == At::Running && !process.term && !process.stopping
    })
}

/// Everybody rests, or stands in line behind a holder whose claim is whole.
fn is_good(world: &World) -> bool {
    let whole = |slot: &usize| {
        let process = &world.processes[*slot];
        world.runs(*slot) && !process.term && world.claim_is_whole(*slot)
    };
    let holder = (0..SLOTS).any(|slot| whole(&slot));
    (0..SLOTS).all(|slot| match world.processes[slot].at {
        At::NotStarted | At::Gone | At::Bystander => world.processes[slot].payload != Life::Alive,
        At::Running => whole(&slot),
        At::Doze => holder,
        _ => false,
    })
}

/// Two halves of 64 bits: among some millions of worlds no two are taken for one.
struct Fingerprint {
    low: u64,
    high: u64,
}

impl Fingerprint {
    fn of(world: &World) -> u128 {
        let mut hasher = Self {
            low: 0xcbf2_9ce4_8422_2325,
            high: 0x9e37_79b9_7f4a_7c15,
        };
        world.hash(&mut hasher);
        u128::from(hasher.high) << 64 | u128::from(hasher.low)
    }

    fn mix(&mut self, word: u64) {
        self.low = (self.low ^ word).wrapping_mul(0xff51_afd7_ed55_8ccd);
        self.low ^= self.low >> 32;
        self.high = (self.high.rotate_left(23) ^ word).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
        self.high ^= self.high >> 29;
    }
}

impl Hasher for Fingerprint {
    fn finish(&self) -> u64 {
        self.low
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.mix(u64::from_le_bytes(word));
        }
    }

    fn write_u8(&mut self, number: u8) {
        self.mix(number.into());
    }

    fn write_u16(&mut self, number: u16) {
        self.mix(number.into());
    }

    fn write_u32(&mut self, number: u32) {
        self.mix(number.into());
    }

    fn write_u64(&mut self, number: u64) {
        self.mix(number);
    }

    fn write_usize(&mut self, number: usize) {
        self.mix(number as u64);
    }
}

/// A fingerprint is spread well enough already.
#[derive(Default)]
struct Identity(u64);

impl Hasher for Identity {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("only fingerprints are looked up")
    }

    fn write_u128(&mut self, number: u128) {
        self.0 = number as u64;
    }
}
