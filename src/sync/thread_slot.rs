//! A slot that belongs to one thread while the thread lives.
//!
//! A [`ReadBiasedLock`](crate::sync::read_biased_lock) publishes its readers there, and statistics are striped by slot.
//! Both thereby write to a cache line of their own without a contended instruction.

use parking_lot::Mutex;
use std::cell::{Cell, OnceCell};
use std::marker::PhantomData;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The number of threads that can own a slot at a time. Further threads share one, and are a little slower.
pub(crate) const SLOTS: usize = 64;

/// The value of a slot through which no lock is read.
pub(crate) const NO_LOCK: usize = 0;
/// The value of the shared slot, which never changes. It is neither the address of a lock nor [`NO_LOCK`].
pub(crate) const SHARED: usize = 1;

/// A slot, on two cache lines of its own, because some processors fetch lines in pairs.
#[repr(align(128))]
struct Slot {
    /// The address of the lock that the owner reads, or [`NO_LOCK`].
    published_lock: AtomicUsize,
    index: usize,
}

/// All slots. The last one is shared by all threads that own none.
static ALL: [Slot; SLOTS + 1] = {
    let mut slots = [const {
        Slot {
            published_lock: AtomicUsize::new(NO_LOCK),
            index: 0,
        }
    }; SLOTS + 1];
    let mut index = 0;
    while index <= SLOTS {
        slots[index].index = index;
        index += 1;
    }
    slots[SLOTS].published_lock = AtomicUsize::new(SHARED);
    slots
};

/// A bit for each slot that is owned.
static OWNED: Mutex<u64> = Mutex::new(0);
/// One more than the highest index that was ever owned.
static HIGH_WATER: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// The slot of the current thread, once it has one.
    static CURRENT: Cell<Option<&'static Slot>> = const { Cell::new(None) };
    /// Frees the slot when the thread ends.
    static RELEASE: OnceCell<Release> = const { OnceCell::new() };
}

/// The slot of the current thread. It is not `Send`, so that no other thread uses it.
#[derive(Clone, Copy)]
pub(crate) struct ThreadSlot {
    slot: &'static Slot,
    _not_send: PhantomData<*const ()>,
}

impl ThreadSlot {
    /// Returns the slot of the current thread.
    #[inline]
    pub(crate) fn current() -> Self {
        Self {
            slot: CURRENT.get().unwrap_or_else(assign),
            _not_send: PhantomData,
        }
    }

    /// Returns the variable that contains the address of the lock that the owner reads, or [`NO_LOCK`].
    #[inline]
    pub(crate) fn published_lock(self) -> &'static AtomicUsize {
        &self.slot.published_lock
    }

    /// Returns the index of the slot. The shared one has the index [`SLOTS`].
    #[inline]
    pub(crate) fn index(self) -> usize {
        self.slot.index
    }
}

/// Returns the published locks of all slots that a thread may own.
///
/// This is sequentially consistent with their assignment: a slot that is missing here is first used after this call.
pub(crate) fn slots_in_use() -> impl Iterator<Item = &'static AtomicUsize> {
    let slots = &ALL[..HIGH_WATER.load(Ordering::SeqCst)];
    slots.iter().map(|slot| &slot.published_lock)
}

/// Assigns a free slot to the current thread, or the shared one if there is none.
#[cold]
fn assign() -> &'static Slot {
    let assigned = RELEASE.try_with(|release| {
        let mut owned = OWNED.lock();
        let index = (!*owned).trailing_zeros() as usize;
        if index < SLOTS {
            *owned |= 1 << index;
            HIGH_WATER.fetch_max(index + 1, Ordering::SeqCst);
            // `RELEASE` is still empty, because a thread assigns a slot only once.
            let _ = release.set(Release(index));
        }
        index
    });
    // `try_with` fails if the thread is ending and `RELEASE` was dropped. A slot that it got now would never be freed.
    let slot = &ALL[assigned.unwrap_or(SLOTS)];
    CURRENT.set(Some(slot));
    slot
}

/// A guard that frees the slot with this index when its thread ends.
struct Release(usize);

impl Drop for Release {
    fn drop(&mut self) {
        CURRENT.set(Some(&ALL[SLOTS]));
        *OWNED.lock() &= !(1 << self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;
    use std::thread;

    #[test]
    fn live_threads_have_different_slots_and_ended_threads_free_theirs() {
        for _ in 0..3 {
            let barrier = Barrier::new(32);
            let mut slots: Vec<usize> = thread::scope(|scope| {
                let threads: Vec<_> = (0..32)
                    .map(|_| {
                        scope.spawn(|| {
                            let slot = ThreadSlot::current().index();
                            barrier.wait();
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
            assert!(slots_in_use().count() > slots[31]);
        }
    }
}
