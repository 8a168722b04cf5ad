//! How much a call does under one hold of a shard's lock.

/// How many slots may be visited under one hold of a shard's lock, approximately: visiting and removing a
/// slot takes up to half a microsecond where nothing is in the processor's cache.
pub(crate) const SLOTS_PER_HOLD: u32 = 2_048;

/// The most that a hold can come to: a step that has begun ends first. The longest step is an eviction
/// that gives as many second chances as there may be, in both queues, and a sweep before it.
const MOST_PER_HOLD: u32 = 4 * SLOTS_PER_HOLD;

/// A slice of work: counts the slots that are visited under one hold of a lock, and tells when to release
/// it. What is left to do is done under the next hold.
pub(crate) struct WorkSlice {
    done: u32,
    limit: u32,
}

impl WorkSlice {
    pub(crate) const fn new() -> Self {
        Self {
            done: 0,
            limit: SLOTS_PER_HOLD,
        }
    }

    /// A slice without a limit, for structures that are small.
    pub(crate) const fn unlimited() -> Self {
        Self {
            done: 0,
            limit: u32::MAX,
        }
    }

    #[inline]
    pub(crate) fn spend(&mut self, slots: u32) {
        self.done = self.done.saturating_add(slots);
    }

    /// Returns `true` if the lock has to be released before anything else is done.
    #[inline]
    pub(crate) fn is_used_up(&self) -> bool {
        self.done >= self.limit
    }

    #[cfg(test)]
    pub(crate) fn done(&self) -> u32 {
        self.done
    }
}

/// Each test of a build with assertions checks that no hold of a lock does more than it may.
#[cfg(debug_assertions)]
impl Drop for WorkSlice {
    fn drop(&mut self) {
        if self.limit != u32::MAX && !std::thread::panicking() {
            assert!(
                self.done <= MOST_PER_HOLD,
                "{} slots were visited under one hold of a lock",
                self.done
            );
        }
    }
}

#[cfg(not(debug_assertions))]
const _: u32 = MOST_PER_HOLD;
