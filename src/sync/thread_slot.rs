//! A slot that belongs to one thread while the thread lives.
//!
//! A [`ReadBiasedLock`](crate::sync::read_biased_lock) publishes its readers there, and statistics are striped by slot.
//! Both thereby write to a cache line of their own without a contended instruction.
//!
//! There are at least as many slots as threads have used a cache at the same time. They are allocated in chunks and
//! never deallocated, so that a reference to a slot is always valid. A thread that ends frees its slot, and the next
//! thread that needs one gets the lowest free one.
//!
//! The high-water mark is one more than the highest index that is owned. Writers look for readers only below it. It is
//! sequentially consistent with the assignment of slots, for this reason: it changes only under the lock of
//! [`ASSIGNMENT`], to which a thread is admitted before it first uses its slot and after it last used it. Consider a
//! writer that reads the mark after it has revoked a bias, and a reader in a slot at or above the mark that has seen
//! the bias granted.
//!
//! - The mark was above the slot when the slot was assigned. This store precedes the reader's load of the bias in the
//!   order of all sequentially consistent accesses, and that load precedes the writer's load of the mark.
//! - So a later store has lowered the mark to the slot or below, and the writer has read this store or a later one.
//!   Only a critical section in which the slot is free stores such a mark. A slot becomes free when the destructors of
//!   its thread run, when the thread has no reader left. The reader has therefore ended, and the writer has acquired
//!   its end through the mark.

use crate::sync::slot_assignment::SlotAssignment;
use parking_lot::Mutex;
use std::cell::{Cell, OnceCell};
use std::marker::PhantomData;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The number of slots in the first chunk. The second chunk is as large, and each further one doubles the number of
/// slots.
const FIRST_CHUNK: usize = 64;
/// The number of chunks.
const CHUNKS: usize = 17;
/// The number of threads that can own a slot at a time. Linux has no more thread ids. Further threads would share one
/// slot, and would be slower.
const MAX_SLOTS: usize = FIRST_CHUNK << (CHUNKS - 1);

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

impl Slot {
    /// Creates a slot.
    const fn new(published_lock: usize, index: usize) -> Self {
        Self {
            published_lock: AtomicUsize::new(published_lock),
            index,
        }
    }
}

/// The slots that threads own, in chunks.
static ALL: [OnceLock<Box<[Slot]>>; CHUNKS] = [const { OnceLock::new() }; CHUNKS];
/// The slot of all threads that own none: those that have used no cache yet, and those whose destructors run after that
/// of `RELEASE`. No lock is ever published there.
static SHARED_SLOT: Slot = Slot::new(SHARED, MAX_SLOTS);

/// The indices of the slots that are owned.
static ASSIGNMENT: Mutex<SlotAssignment> = Mutex::new(SlotAssignment::new());
/// The high-water mark of `ASSIGNMENT`, for threads that do not acquire its lock.
static HIGH_WATER: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// The slot of the current thread. Only addresses of slots that live forever are stored here. It is a pointer,
    /// because Rust 1.85 accepts no reference to a static with atomics in a constant.
    static CURRENT: Cell<*const Slot> = const { Cell::new(&raw const SHARED_SLOT) };
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
    /// Returns the slot of the current thread. Assigns one if the thread has none.
    #[inline]
    pub(crate) fn current() -> Self {
        let current = Self::current_or_shared();
        if current.index() == MAX_SLOTS {
            return Self::new(assign());
        }
        current
    }

    /// Returns the slot of the current thread, or the shared one if the thread has none. A reader with the shared slot
    /// is never published. So a hit need not check whether it has its own, and the thread gets one when it cannot
    /// publish a reader.
    #[inline(always)]
    #[allow(unsafe_code)]
    pub(crate) fn current_or_shared() -> Self {
        // SAFETY: The pointer is always that of `SHARED_SLOT` or of a slot in `ALL`, which are never deallocated, and
        // which are only accessed by shared references.
        Self::new(unsafe { &*CURRENT.get() })
    }

    #[inline(always)]
    const fn new(slot: &'static Slot) -> Self {
        Self {
            slot,
            _not_send: PhantomData,
        }
    }

    /// Returns the variable that contains the address of the lock that the owner reads, or [`NO_LOCK`].
    #[inline]
    pub(crate) fn published_lock(self) -> &'static AtomicUsize {
        &self.slot.published_lock
    }

    /// Returns the index of the slot. No two live threads have the same, except for threads without a slot of their
    /// own, whose index is the highest.
    #[inline]
    pub(crate) fn index(self) -> usize {
        self.slot.index
    }
}

/// Returns the published locks of all slots below the high-water mark, which include all slots that a thread owns.
///
/// This is sequentially consistent with their assignment: a slot that is missing here is first used after this call, or
/// was last used before it.
pub(crate) fn slots_in_use() -> impl Iterator<Item = &'static AtomicUsize> {
    let high_water = HIGH_WATER.load(Ordering::SeqCst);
    let slots = ALL.iter().map_while(OnceLock::get).flatten();
    slots.take(high_water).map(|slot| &slot.published_lock)
}

/// Returns the approximate number of slots that [`slots_in_use`] returns.
#[inline]
pub(crate) fn count_in_use() -> usize {
    HIGH_WATER.load(Ordering::Relaxed)
}

/// Returns the slot with this index. Allocates its chunk, if that does not exist yet.
fn slot(index: usize) -> &'static Slot {
    // The first index of a chunk is also the number of its slots, except in the first chunk.
    let (chunk, first) = match index.checked_ilog2() {
        Some(power) if index >= FIRST_CHUNK => {
            ((power - FIRST_CHUNK.ilog2() + 1) as usize, 1 << power)
        }
        _ => (0, 0),
    };
    let slots = first..first + first.max(FIRST_CHUNK);
    let allocate = || slots.map(|index| Slot::new(NO_LOCK, index)).collect();
    &ALL[chunk].get_or_init(allocate)[index - first]
}

/// Assigns a free slot to the current thread, or the shared one if there is none.
#[cold]
fn assign() -> &'static Slot {
    let assigned = RELEASE.try_with(|release| {
        let mut assignment = ASSIGNMENT.lock();
        let index = assignment.assign(MAX_SLOTS)?;
        // The chunk is allocated before the mark is raised, so that a writer finds all slots below the mark.
        let slot = slot(index);
        HIGH_WATER.store(assignment.high_water(), Ordering::SeqCst);
        // `RELEASE` is still empty, because a thread assigns a slot only once.
        let _ = release.set(Release(index));
        Some(slot)
    });
    // `try_with` fails if the thread is ending and `RELEASE` was dropped. A slot that it got now would never be freed.
    let slot = assigned.ok().flatten().unwrap_or(&SHARED_SLOT);
    CURRENT.set(slot);
    slot
}

/// A guard that frees the slot with this index when its thread ends.
struct Release(usize);

impl Drop for Release {
    fn drop(&mut self) {
        CURRENT.set(&raw const SHARED_SLOT);
        let mut assignment = ASSIGNMENT.lock();
        assignment.release(self.0);
        HIGH_WATER.store(assignment.high_water(), Ordering::SeqCst);
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
    use std::sync::Barrier;
    use std::thread;

    /// Runs `run` on this number of threads that all own a slot at the same time. Returns the results, and waits until
    /// the threads have freed their slots.
    pub(crate) fn on_live_threads<R: Send>(threads: usize, run: impl Fn() -> R + Sync) -> Vec<R> {
        let barrier = Barrier::new(threads);
        let run = || {
            let slot = ThreadSlot::current().index();
            barrier.wait();
            let result = catch_unwind(AssertUnwindSafe(&run));
            assert_eq!(ThreadSlot::current().index(), slot);
            barrier.wait();
            result.unwrap_or_else(|panic| resume_unwind(panic))
        };
        thread::scope(|scope| {
            let spawn = |_| {
                let small = thread::Builder::new().stack_size(256 << 10);
                small.spawn_scoped(scope, run).expect("a thread starts")
            };
            let live: Vec<_> = (0..threads).map(spawn).collect();
            live.into_iter()
                .map(|thread| thread.join().unwrap())
                .collect()
        })
    }

    #[test]
    fn slots_of_live_threads_are_distinct_and_those_of_ended_threads_are_reused() {
        // Tests that run in other threads of this process own slots as well.
        const OTHERS: usize = 1_000;
        for (threads, rounds) in [(200, 8), (2_000, 3)] {
            for _ in 0..rounds {
                let mut slots = on_live_threads(threads, || {
                    let slot = ThreadSlot::current();
                    assert_ne!(slot.published_lock().load(Ordering::SeqCst), SHARED);
                    let in_use = |slot: ThreadSlot| slots_in_use().nth(slot.index()).unwrap();
                    assert!(std::ptr::eq(in_use(slot), slot.published_lock()));
                    slot.index()
                });
                slots.sort_unstable();
                slots.dedup();
                assert_eq!(slots.len(), threads);
                assert!(
                    slots[threads - 1] < threads + OTHERS,
                    "slots are not reused"
                );
            }
        }
    }

    #[test]
    fn slot_of_each_index_is_in_the_chunk_of_its_power_of_two() {
        for index in (0..300).chain([4_095, 4_096]) {
            assert_eq!(slot(index).index, index);
        }
        let sizes = ALL.iter().map_while(OnceLock::get).map(|chunk| chunk.len());
        assert_eq!(sizes.take(4).collect::<Vec<_>>(), [64, 64, 128, 256]);
    }
}
