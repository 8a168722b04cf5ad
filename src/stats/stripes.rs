//! The division of statistics into stripes, so that threads rarely write to the same cache line.

use crate::sync::thread_slot::ThreadSlot;

/// The number of stripes that belong to one thread each.
const OWN_STRIPES: usize = 64;
/// The number of stripes that all further threads share.
const SHARED_STRIPES: usize = 16;

/// Stripes of statistics: one for each of the first 64 thread slots, and some that the threads of all other slots
/// share. The memory of a cache therefore does not grow with the number of threads.
///
/// A thread that has a stripe of its own adds to it without an atomic read-modify-write instruction. The threads of a
/// shared stripe need one, but rarely wait for each other, because at most as many of them run at a time as there are
/// processors.
pub(crate) struct Stripes<T> {
    own: [T; OWN_STRIPES],
    shared: [T; SHARED_STRIPES],
}

impl<T: Default> Default for Stripes<T> {
    fn default() -> Self {
        Self {
            own: std::array::from_fn(|_| T::default()),
            shared: std::array::from_fn(|_| T::default()),
        }
    }
}

impl<T> Stripes<T> {
    /// Returns the stripe to which only the thread with this slot adds, or `None` if it has none.
    #[inline]
    pub(crate) fn own(&self, slot: ThreadSlot) -> Option<&T> {
        self.own.get(slot.index())
    }

    /// Returns the stripe that a thread without a stripe of its own shares with others.
    #[inline]
    pub(crate) fn shared(&self, slot: ThreadSlot) -> &T {
        &self.shared[slot.index() % SHARED_STRIPES]
    }

    /// Returns all stripes.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.own.iter().chain(&self.shared)
    }
}
