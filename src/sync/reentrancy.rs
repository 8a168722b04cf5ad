//! What the current thread holds that others wait for.
//!
//! User code runs under some locks, and may call a cache from there. One who holds something and
//! waits for a lock could close a circle, so those who are about to wait ask here, and panic.

use crate::sync::thread_slot::{SHARED, ThreadSlot};
use std::cell::Cell;
use std::marker::PhantomData;
use std::sync::atomic::Ordering;

/// How much the current thread holds exclusively, times [`EXCLUSIVE`], and how many locks it reads
/// without an announcement.
type Holdings = Cell<usize>;

const READING: usize = 1;
const EXCLUSIVE: usize = 1 << (usize::BITS / 2);

// Without a destructor, so that it is there to the thread's end.
#[cfg(not(any(loom_models, shuttle_models)))]
std::thread_local! {
    static HELD: Holdings = const { Cell::new(0) };
}
// The models' macros know no `const` blocks.
#[cfg(any(loom_models, shuttle_models))]
crate::sync::thread_local! {
    static HELD: Holdings = Cell::new(0);
}

/// Something that the current thread holds. Not `Send`: another thread would give it back.
pub(crate) struct LockGuardMark(usize, PhantomData<*const ()>);

impl LockGuardMark {
    /// This thread reads a lock without an announcement.
    #[inline]
    pub(crate) fn reading() -> Self {
        Self::one_more(READING)
    }

    /// This thread keeps everybody else out of something.
    #[inline]
    pub(crate) fn exclusively() -> Self {
        Self::one_more(EXCLUSIVE)
    }

    #[inline]
    fn one_more(unit: usize) -> Self {
        HELD.with(|held| held.set(held.get() + unit));
        Self(unit, PhantomData)
    }
}

impl Drop for LockGuardMark {
    #[inline]
    fn drop(&mut self) {
        HELD.with(|held| held.set(held.get() - self.0));
    }
}

/// Has this thread announced that it reads a lock?
#[inline]
fn has_announced() -> bool {
    ThreadSlot::current().announced().load(Ordering::Relaxed) > SHARED
}

/// Does this thread read any lock?
pub(crate) fn is_reading() -> bool {
    has_announced() || HELD.with(Cell::get) % EXCLUSIVE > 0
}

/// Does this thread keep everybody else out of something?
#[inline]
pub(crate) fn is_exclusive() -> bool {
    HELD.with(Cell::get) >= EXCLUSIVE
}

/// Refuses what might wait for the thread's own locks.
///
/// # Panics
///
/// If this thread holds any.
#[inline]
pub(crate) fn assert_holds_nothing(what: &str) {
    refuse_if(has_announced() || HELD.with(Cell::get) > 0, what);
}

/// Refuses what might wait for a lock that this thread holds exclusively.
///
/// # Panics
///
/// If this thread holds any that way.
#[inline]
pub(crate) fn assert_nothing_exclusive(what: &str) {
    refuse_if(is_exclusive(), what);
}

#[inline]
fn refuse_if(refused: bool, what: &str) {
    if refused {
        refuse(what);
    }
}

/// # Panics
///
/// Always.
#[cold]
#[inline(never)]
pub(crate) fn refuse(what: &str) -> ! {
    panic!(
        "hotset: user code tried to {what} a cache from inside a cache: Clone, Eq and Hash of keys \
         and values, and the closure of get_with, run under a lock and may only read"
    );
}
