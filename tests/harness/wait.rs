//! Waiting for facts, with a limit.

use std::time::{Duration, Instant};

/// How long anything may take that takes a moment on an idle machine.
pub const SOON: Duration = Duration::from_secs(20);

/// Looks until there is something to see; who waits in vain fails, and says for what.
#[track_caller]
pub fn until<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(began.elapsed() < limit, "in vain for {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(3));
    }
}

/// Waits until something is so.
#[track_caller]
pub fn wait_until(what: &str, limit: Duration, mut is_so: impl FnMut() -> bool) {
    until(what, limit, || is_so().then_some(()));
}
