//! Work that is many times the same, shared out among threads.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread::{self, Builder, ScopedJoinHandle};

use rustix::thread::{
    CpuSet, SecureComputingMode, sched_getaffinity, sched_getcpu, sched_setaffinity,
    secure_computing_mode,
};

/// No more threads than this: what they do is mostly the kernel's work, on the same few locks.
const MOST: usize = 4;

/// Enough for any of this work, and little where memory is short.
const STACK: usize = 512 * 1024;

/// So many that take some microseconds each are a share: less is done sooner than a thread can be had.
const SHARE: usize = 16;

/// What is done quickly, in shares that are worth a thread.
pub(crate) fn shares_of<T>(items: Vec<T>) -> Vec<Vec<T>> {
    let count = items.len().div_ceil(SHARE);
    let mut items = items.into_iter();
    let share = |_| items.by_ref().take(SHARE).collect();
    (0..count).map(share).collect()
}

/// Does the work for each item, on this thread and, where there are processors for them, on some more,
/// which have ended when this returns. What came of it is in the order of the items. Where no thread can
/// be had, this one does it all.
pub(crate) fn share_out<T: Send, R: Send>(items: Vec<T>, work: impl Fn(T) -> R + Sync) -> Vec<R> {
    let count = items.len();
    let rest = Mutex::new(items.into_iter().enumerate());
    let next = || rest.lock().unwrap_or_else(PoisonError::into_inner).next();
    let take_part = || {
        let mut done = Vec::new();
        while let Some((number, item)) = next() {
            done.push((number, work(item)));
        }
        done
    };
    let mut done = match count {
        0 | 1 => take_part(),
        many => with_helpers(many - 1, take_part),
    };
    done.sort_unstable_by_key(|(number, _)| *number);
    done.into_iter().map(|(_, result)| result).collect()
}

/// Lets this thread take part, and as many more as there are processors for, but no more than `useful`.
fn with_helpers<D: Send>(useful: usize, take_part: impl Fn() -> Vec<D> + Sync) -> Vec<D> {
    let Some(processors) = Processors::now() else {
        return take_part();
    };
    let help = || {
        processors.go_elsewhere();
        take_part()
    };
    let number = useful.min(processors.others()).min(MOST - 1);
    thread::scope(|scope| {
        let helper = |_| small().spawn_scoped(scope, help).ok();
        let helpers: Vec<_> = (0..number).map_while(helper).collect();
        // A new thread may have been put behind its maker.
        thread::yield_now();
        let mut done = take_part();
        done.extend(helpers.into_iter().flat_map(result));
        done
    })
}

/// Does two things at the same time, the first of them on another thread; or one after the other, where no
/// thread can be had.
pub(crate) fn both<A: Send, B>(
    aside: impl Fn() -> A + Sync,
    here: impl FnOnce(&Aside) -> B,
) -> (A, B) {
    if is_filtered() {
        return (aside(), here(&Aside(AtomicBool::new(false))));
    }
    let going_on = Aside(AtomicBool::new(true));
    thread::scope(|scope| {
        let there = || {
            let done = aside();
            going_on.0.store(false, Ordering::Relaxed);
            done
        };
        let helper = small().spawn_scoped(scope, there);
        if helper.is_err() {
            going_on.0.store(false, Ordering::Relaxed);
        }
        going_on.give_way();
        let here = here(&going_on);
        (helper.map_or_else(|_| aside(), result), here)
    })
}

/// Whether what is done on the other thread is going on.
pub(crate) struct Aside(AtomicBool);

impl Aside {
    /// Lets others have this processor for a moment, while that goes on. A new thread may have been put
    /// behind its maker, and would wait for the rest of that one's time slice. And a grace period of RCU
    /// takes half as long again where processors are busy and nobody lets go of them.
    pub(crate) fn give_way(&self) {
        if self.0.load(Ordering::Relaxed) {
            thread::yield_now();
        }
    }
}

fn small() -> Builder {
    Builder::new().stack_size(STACK)
}

/// Waits for its end; its panic is ours.
fn result<D>(helper: ScopedJoinHandle<'_, D>) -> D {
    helper
        .join()
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Whether there is a filter of system calls, as in most containers. It may kill who wants a thread, or
/// another processor (`SystemCallFilter=~@resources` of systemd.exec(5)). One that kills who asks this does
/// the same at `pidfd_open(2)`, without which nobody can be proven (`@process`).
fn is_filtered() -> bool {
    secure_computing_mode() == Ok(SecureComputingMode::Filter)
}

/// The processors that this thread may run on, and the one that it runs on.
struct Processors {
    ours: CpuSet,
    here: usize,
}

impl Processors {
    /// `None`: nothing is known of them, or nothing may be asked of them.
    fn now() -> Option<Self> {
        if is_filtered() {
            return None;
        }
        Some(Self {
            ours: sched_getaffinity(None).ok()?,
            here: sched_getcpu(),
        })
    }

    fn others(&self) -> usize {
        (self.ours.count() as usize).saturating_sub(1)
    }

    /// Moves this thread to another processor: the scheduler may leave a new one on that of its maker until
    /// all is done.
    fn go_elsewhere(&self) {
        let mut others = self.ours;
        others.unset(self.here);
        let _ = sched_setaffinity(None, &others);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::sync::Mutex;
    use std::time::Duration;

    #[test]
    fn each_is_done_once_and_the_order_is_kept() {
        for count in [0, 1, SHARE, SHARE + 1, 1000] {
            let items: Vec<usize> = (0..count).collect();
            let odd = |item: usize| (item % 2 == 1).then_some(item * 10);
            let expected: Vec<Option<usize>> = items.iter().copied().map(odd).collect();
            assert_eq!(share_out(items, odd), expected, "{count}");
        }
    }

    #[test]
    fn two_things_are_done_at_the_same_time() {
        let (send, receive) = std::sync::mpsc::channel();
        let receive = Mutex::new(receive);
        let aside = || {
            receive
                .lock()
                .unwrap()
                .recv_timeout(Duration::from_secs(20))
        };
        let (received, sent) = both(aside, |_| send.send(7));
        assert_eq!((received, sent), (Ok(7), Ok(())));
    }

    #[test]
    fn a_few_are_done_by_this_thread_alone() {
        let seen = Mutex::new(HashSet::new());
        share_out(shares_of(vec![(); SHARE]), |_| {
            seen.lock().unwrap().insert(thread::current().id());
        });
        assert_eq!(*seen.lock().unwrap(), [thread::current().id()].into());
    }

    #[test]
    #[should_panic(expected = "the five hundredth")]
    fn a_panic_of_a_helper_is_ours() {
        let items: Vec<usize> = (0..1000).collect();
        share_out(items, |item| {
            assert!(item != 500, "the five hundredth");
        });
    }
}
