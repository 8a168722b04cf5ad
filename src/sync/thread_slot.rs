//! A slot that is the current thread's alone while it lives.
//!
//! [`ReadBiasedLock`](crate::sync::read_biased_lock) announces readers in it and statistics are striped by
//! it: both may then write a cache line of their own without a contended instruction.

use parking_lot::Mutex;
use std::cell::{Cell, OnceCell};
use std::marker::PhantomData;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How many threads can own a slot at one time. Those above it share one, and are a little slower.
pub(crate) const SLOTS: usize = 64;

/// What a slot announces that announces no reader.
pub(crate) const NOBODY: usize = 0;
/// What the shared slot announces, for ever: no address, but not [`NOBODY`] either.
pub(crate) const SHARED: usize = 1;

/// On two cache lines of its own, since lines are fetched in pairs.
#[repr(align(128))]
struct Slot {
    announced: AtomicUsize,
    index: usize,
}

static ALL: [Slot; SLOTS + 1] = {
    let mut slots = [const {
        Slot {
            announced: AtomicUsize::new(NOBODY),
            index: 0,
        }
    }; SLOTS + 1];
    let mut index = 0;
    while index <= SLOTS {
        slots[index].index = index;
        index += 1;
    }
    slots[SLOTS].announced = AtomicUsize::new(SHARED);
    slots
};

/// One bit an owned slot.
static TAKEN: Mutex<u64> = Mutex::new(0);
/// One more than the highest index ever owned.
static HIGH_WATER: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static MINE: Cell<Option<&'static Slot>> = const { Cell::new(None) };
    static RELEASE: OnceCell<Release> = const { OnceCell::new() };
}

/// The slot of the current thread. Not `Send`, so it cannot be another thread's.
#[derive(Clone, Copy)]
pub(crate) struct ThreadSlot {
    slot: &'static Slot,
    _not_send: PhantomData<*const ()>,
}

impl ThreadSlot {
    #[inline]
    pub(crate) fn current() -> Self {
        Self {
            slot: MINE.get().unwrap_or_else(assign),
            _not_send: PhantomData,
        }
    }

    /// The address of the lock that the owner reads, or [`NOBODY`].
    #[inline]
    pub(crate) fn announced(self) -> &'static AtomicUsize {
        &self.slot.announced
    }

    /// At most [`SLOTS`], which is the shared one.
    #[inline]
    pub(crate) fn index(self) -> usize {
        self.slot.index
    }
}

/// All slots that a thread may own.
///
/// Sequentially consistent with their assignment: one that is missing here is first used after
/// this was called.
pub(crate) fn in_use() -> impl Iterator<Item = &'static AtomicUsize> {
    let slots = &ALL[..HIGH_WATER.load(Ordering::SeqCst)];
    slots.iter().map(|slot| &slot.announced)
}

#[cold]
fn assign() -> &'static Slot {
    let assigned = RELEASE.try_with(|release| {
        let mut taken = TAKEN.lock();
        let index = (!*taken).trailing_zeros() as usize;
        if index < SLOTS {
            *taken |= 1 << index;
            HIGH_WATER.fetch_max(index + 1, Ordering::SeqCst);
            // Empty until now: this is reached once in a thread's life.
            let _ = release.set(Release(index));
        }
        index
    });
    // An error: the thread is ending and `RELEASE` is gone, so a slot would never come back.
    let slot = &ALL[assigned.unwrap_or(SLOTS)];
    MINE.set(Some(slot));
    slot
}

struct Release(usize);

impl Drop for Release {
    fn drop(&mut self) {
        MINE.set(Some(&ALL[SLOTS]));
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
                            let slot = ThreadSlot::current().index();
                            gate.wait();
                            assert_eq!(ThreadSlot::current().index(), slot);
                            slot
                        })
                    })
                    .collect();
                threads.into_iter().map(|t| t.join().unwrap()).collect()
            });
            slots.sort_unstable();
            slots.dedup();
            assert_eq!(slots.len(), 32);
            assert!(slots[31] < SLOTS, "more threads than slots");
            assert!(in_use().count() > slots[31]);
        }
    }
}
