//! Detection of calls from user code that could wait for a lock that their own thread holds.
//!
//! Some user code runs under a lock, and may call a cache from there. If a thread that holds a lock waited for another
//! lock, the waiting threads could form a circle. Before a thread waits, it therefore checks which locks it holds, and
//! panics instead.

use crate::sync::thread_slot::{SHARED, ThreadSlot};
use std::cell::Cell;
use std::marker::PhantomData;
use std::sync::atomic::Ordering;

/// The locks that the current thread holds: the number of those that it writes, times [`ONE_WRITE`], plus the number of
/// those that it reads without a published slot, times [`ONE_READ`].
type LockCounts = Cell<usize>;

/// The amount by which a lock that is read raises the counts.
const ONE_READ: usize = 1;
/// The amount by which a lock that is written raises the counts.
const ONE_WRITE: usize = 1 << (usize::BITS / 2);

// Without a destructor, so that it can be used until the thread ends.
#[cfg(not(any(loom_models, shuttle_models)))]
std::thread_local! {
    static LOCK_COUNTS: LockCounts = const { Cell::new(0) };
}
// The macros of the models do not support `const` blocks.
#[cfg(any(loom_models, shuttle_models))]
crate::sync::thread_local! {
    static LOCK_COUNTS: LockCounts = Cell::new(0);
}

/// The record that the current thread holds a lock. It is not `Send`, because it is removed from the same thread's
/// counts when it is dropped.
pub(crate) struct LockGuardMark {
    unit: usize,
    _not_send: PhantomData<*const ()>,
}

impl LockGuardMark {
    /// Records that this thread reads a lock without a published slot.
    #[inline]
    pub(crate) fn reading() -> Self {
        Self::add(ONE_READ)
    }

    /// Records that this thread holds a lock exclusively.
    #[inline]
    pub(crate) fn writing() -> Self {
        Self::add(ONE_WRITE)
    }

    #[inline]
    fn add(unit: usize) -> Self {
        LOCK_COUNTS.with(|counts| counts.set(counts.get() + unit));
        Self {
            unit,
            _not_send: PhantomData,
        }
    }
}

impl Drop for LockGuardMark {
    #[inline]
    fn drop(&mut self) {
        LOCK_COUNTS.with(|counts| counts.set(counts.get() - self.unit));
    }
}

/// Checks whether this thread has published that it reads a lock.
#[inline]
fn has_published() -> bool {
    ThreadSlot::current_or_shared()
        .published_lock()
        .load(Ordering::Relaxed)
        > SHARED
}

/// Checks whether this thread reads any lock.
pub(crate) fn is_reading() -> bool {
    has_published() || LOCK_COUNTS.with(Cell::get) % ONE_WRITE > 0
}

/// Checks that this thread holds no lock exclusively, and reads none without a published slot.
#[inline(always)]
pub(crate) fn holds_no_unpublished_lock() -> bool {
    LOCK_COUNTS.with(Cell::get) == 0
}

/// Checks whether this thread holds any lock exclusively.
#[inline]
pub(crate) fn is_writing() -> bool {
    LOCK_COUNTS.with(Cell::get) >= ONE_WRITE
}

/// Checks that this thread holds no lock, before an operation that might wait for one. `operation` completes the
/// sentence "user code tried to .. a cache".
///
/// # Panics
///
/// Panics if this thread holds any lock.
#[inline(always)]
pub(crate) fn assert_no_lock_held(operation: &str) {
    if has_published() {
        panic_on_reentry(operation);
    }
    if LOCK_COUNTS.with(Cell::get) > 0 {
        panic_on_reentry(operation);
    }
}

/// Checks that this thread holds no lock exclusively, before an operation that might wait for one.
///
/// # Panics
///
/// Panics if this thread holds a lock exclusively.
#[inline]
pub(crate) fn assert_no_exclusive_lock_held(operation: &str) {
    if is_writing() {
        panic_on_reentry(operation);
    }
}

/// Reports that user code called a cache in a way that could wait for its own thread.
///
/// # Panics
///
/// Panics always.
#[cold]
#[inline(never)]
pub(crate) fn panic_on_reentry(operation: &str) -> ! {
    panic!(
        "hotset: user code tried to {operation} a cache from inside a cache: Clone, Eq and Hash of keys \
         and values, and the closure of get_with, run under a lock and may only read"
    );
}
