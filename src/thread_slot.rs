//! A small number that is the current thread's alone while it lives.
//!
//! Statistics are striped by it and [`ReaderLock`](crate::local::reader_lock) announces readers
//! under it: both may then write their own cache line without a contended instruction.

use parking_lot::Mutex;
use std::cell::{Cell, OnceCell};
use std::sync::atomic::{AtomicUsize, Ordering};

/// How many threads can own a slot at one time. Those above it share, and are a little slower.
pub(crate) const SLOTS: usize = 64;

/// Not asked yet.
const UNASSIGNED: usize = usize::MAX;
/// None was free, or this thread is ending.
const NONE: usize = usize::MAX - 1;

/// One bit a slot.
static TAKEN: Mutex<u64> = Mutex::new(0);
/// One more than the highest slot ever assigned.
static HIGH_WATER: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static SLOT: Cell<usize> = const { Cell::new(UNASSIGNED) };
    static RELEASE: OnceCell<Release> = const { OnceCell::new() };
}

/// The slot of the current thread, if there is one for it.
#[inline]
pub(crate) fn current() -> Option<usize> {
    let slot = SLOT.get();
    if slot < SLOTS {
        Some(slot)
    } else if slot == UNASSIGNED {
        assign()
    } else {
        None
    }
}

/// One more than the highest slot that any thread has owned.
///
/// Sequentially consistent with the assignment of a slot: whoever reads less here than a slot's
/// number has read it before that slot was first used.
#[inline]
pub(crate) fn high_water() -> usize {
    HIGH_WATER.load(Ordering::SeqCst)
}

/// A number that no other live thread has, and that is never zero.
#[inline]
pub(crate) fn thread_token() -> usize {
    SLOT.with(|slot| std::ptr::from_ref(slot) as usize)
}

#[cold]
fn assign() -> Option<usize> {
    let assigned = RELEASE.try_with(|release| {
        let mut taken = TAKEN.lock();
        let slot = (!*taken).trailing_zeros() as usize;
        if slot >= SLOTS {
            return None;
        }
        *taken |= 1 << slot;
        HIGH_WATER.fetch_max(slot + 1, Ordering::SeqCst);
        // Empty until now: `assign` runs once in a thread's life.
        let _ = release.set(Release(slot));
        Some(slot)
    });
    // An error: the thread is ending and `RELEASE` is gone, so a slot would never come back.
    let slot = assigned.unwrap_or(None);
    SLOT.set(slot.unwrap_or(NONE));
    slot
}

struct Release(usize);

impl Drop for Release {
    fn drop(&mut self) {
        SLOT.set(NONE);
        *TAKEN.lock() &= !(1 << self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;
    use std::thread;

    #[test]
    fn live_threads_never_share_a_slot_and_ended_ones_give_theirs_back() {
        for _ in 0..3 {
            let gate = Barrier::new(32);
            let mut slots: Vec<usize> = thread::scope(|scope| {
                let threads: Vec<_> = (0..32)
                    .map(|_| {
                        scope.spawn(|| {
                            let slot = current().expect("fewer threads than slots");
                            gate.wait();
                            assert_eq!(current(), Some(slot));
                            slot
                        })
                    })
                    .collect();
                threads.into_iter().map(|t| t.join().unwrap()).collect()
            });
            slots.sort_unstable();
            slots.dedup();
            assert_eq!(slots.len(), 32);
            assert!(high_water() > slots[31]);
        }
    }
}
