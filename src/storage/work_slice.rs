//! The limit on the work that a call does under one hold of a shard's lock.

/// The approximate number of slots that may be visited under one hold of a shard's lock. It takes up to four
/// microseconds to visit a slot and remove its entry, if nothing of it is in the processor's cache, as in a shard of
/// 2,000,000 entries. A hold therefore takes about two milliseconds at most.
pub(crate) const SLOTS_PER_HOLD: u32 = 512;

/// The highest number of slots that are visited under one hold. It exceeds the limit, because a step that has begun is
/// finished. The longest step is a sweep and then an eviction that gives as many second chances as it may, up to 1,000
/// in each of both queues.
#[cfg(debug_assertions)]
const MAX_SLOTS_PER_HOLD: u32 = SLOTS_PER_HOLD + 4_000;

/// A counter of the slots that are visited under one hold of a lock. When the limit is reached, the caller releases the
/// lock and does the rest of its work under the next hold.
pub(crate) struct WorkSlice {
    /// The number of slots visited so far.
    done: u32,
    /// The number of slots after which the lock is released.
    limit: u32,
}

impl WorkSlice {
    /// Creates a counter with the limit of one hold.
    pub(crate) const fn new() -> Self {
        Self {
            done: 0,
            limit: SLOTS_PER_HOLD,
        }
    }

    /// Creates a counter without a limit.
    #[cfg(test)]
    pub(crate) const fn unlimited() -> Self {
        Self {
            done: 0,
            limit: u32::MAX,
        }
    }

    /// Counts slots that are visited.
    #[inline]
    pub(crate) fn spend(&mut self, slots: u32) {
        self.done = self.done.saturating_add(slots);
    }

    /// Returns `true` if the lock has to be released before anything else is done.
    #[inline]
    pub(crate) fn is_used_up(&self) -> bool {
        self.done >= self.limit
    }

    /// Returns the number of slots visited so far.
    #[cfg(test)]
    pub(crate) fn done(&self) -> u32 {
        self.done
    }
}

/// Checks that no hold of a lock does more work than it may, in each test of a build with assertions.
#[cfg(debug_assertions)]
impl Drop for WorkSlice {
    fn drop(&mut self) {
        if self.limit != u32::MAX && !std::thread::panicking() {
            assert!(
                self.done <= MAX_SLOTS_PER_HOLD,
                "{} slots were visited under one hold of a lock",
                self.done
            );
        }
    }
}
