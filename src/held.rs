//! What the current thread holds that others wait for.
//!
//! User code runs under some locks, and may call a cache from there. One who holds something and
//! waits for a lock could close a circle, so those who are about to wait ask here, and panic.

use crate::sync::{LocalKey, thread_local};
use crate::thread_slot::{SHARED, ThreadSlot};
use std::cell::Cell;
use std::sync::atomic::Ordering;

thread_local! {
    // Without a destructor, so that they are there to the thread's end.
    // loom's macro knows no `const` blocks.
    #[allow(clippy::missing_const_for_thread_local)]
    static READING: Cell<usize> = Cell::new(0);
    #[allow(clippy::missing_const_for_thread_local)]
    static EXCLUSIVE: Cell<usize> = Cell::new(0);
}

/// Something that the current thread holds.
pub(crate) struct Held(&'static LocalKey<Cell<usize>>);

impl Held {
    /// This thread reads a lock without an announcement.
    pub(crate) fn reading() -> Self {
        Self::one_more(&READING)
    }

    /// This thread keeps everybody else out of something.
    pub(crate) fn exclusively() -> Self {
        Self::one_more(&EXCLUSIVE)
    }

    fn one_more(count: &'static LocalKey<Cell<usize>>) -> Self {
        count.with(|count| count.set(count.get() + 1));
        Self(count)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.with(|count| count.set(count.get() - 1));
    }
}

/// Does this thread read any lock?
pub(crate) fn is_reading() -> bool {
    let announced = ThreadSlot::current().announced().load(Ordering::Relaxed);
    announced > SHARED || READING.with(Cell::get) > 0
}

/// Does this thread keep everybody else out of something?
pub(crate) fn is_exclusive() -> bool {
    EXCLUSIVE.with(Cell::get) > 0
}

/// Refuses what might wait for the thread's own locks.
///
/// # Panics
///
/// If this thread holds any.
pub(crate) fn assert_holds_nothing(what: &str) {
    refuse_if(is_reading() || is_exclusive(), what);
}

/// Refuses what might wait for a lock that this thread holds exclusively.
///
/// # Panics
///
/// If this thread holds any that way.
pub(crate) fn assert_nothing_exclusive(what: &str) {
    refuse_if(is_exclusive(), what);
}

fn refuse_if(refused: bool, what: &str) {
    assert!(
        !refused,
        "hotset: user code tried to {what} a cache from inside a cache: Clone, Eq and Hash of keys \
         and values, and the closure of get_with, run under a lock and may only read"
    );
}
