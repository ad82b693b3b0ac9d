//! How much of a test is run, and with which chance.

use std::time::{SystemTime, UNIX_EPOCH};

/// Whether all of it is run, however long it takes.
pub fn is_long() -> bool {
    std::env::var_os("GATEWAY_TEST_LONG").is_some_and(|value| value != "0")
}

/// One of two, by the form.
pub fn choose<T>(short: T, long: T) -> T {
    if is_long() { long } else { short }
}

/// Chance that can be repeated.
#[derive(Clone, Debug)]
pub struct Chance {
    seed: u64,
    state: u64,
}

impl Chance {
    /// From `GATEWAY_TEST_SEED`, else from the clock.
    pub fn new() -> Self {
        let given = std::env::var("GATEWAY_TEST_SEED").ok();
        let seed = given.and_then(|seed| seed.parse().ok()).unwrap_or_else(|| {
            let now = SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .expect("after 1970");
            u64::from(now.subsec_nanos()) ^ now.as_secs() << 20
        });
        Self { seed, state: seed }
    }

    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// splitmix64: every seed gives another sequence, and all of them are good enough here.
    pub fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// A number below this.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// One of these.
    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        let at = usize::try_from(self.below(from.len() as u64)).expect("an index");
        &from[at]
    }
}

/// The points of a sweep of so many: all, or every `step`th from a place that chance gives; a sweep
/// of few points takes them closer.
pub fn points(chance: &mut Chance, total: u64, short_step: u64) -> Vec<u64> {
    let step = choose(short_step.min(total / 20).max(1), 1);
    let first = 1 + chance.below(step);
    let step = usize::try_from(step).expect("a small number");
    (first..=total).step_by(step).collect()
}
