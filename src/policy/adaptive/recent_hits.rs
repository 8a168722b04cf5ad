//! The hits since the last write to a shard.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// The highest number of hits that are counted, and of those that are recorded, between two writes. Further hits are
/// ignored, and no thread writes here for them.
const MAX_HITS: usize = 64;

/// The hits since the last write. Several threads add hits at a time, under a shared lock.
pub(super) struct RecentHits {
    /// The number of hits, each of which was the first on its entry in a tick.
    count: AtomicU32,
    /// The number of hits on entries whose keys are observed.
    observed: AtomicU32,
    /// The slots of the first hits on entries whose keys are observed.
    slots: [AtomicU32; MAX_HITS],
}

impl RecentHits {
    /// Creates a record of no hits.
    pub(super) const fn new() -> Self {
        Self {
            count: AtomicU32::new(0),
            observed: AtomicU32::new(0),
            slots: [const { AtomicU32::new(0) }; MAX_HITS],
        }
    }

    /// Adds a hit.
    #[inline]
    pub(super) fn add(&self, slot: u32, is_observed: bool) {
        if (self.count.load(Relaxed) as usize) < MAX_HITS {
            self.count.fetch_add(1, Relaxed);
        }
        if is_observed && (self.observed.load(Relaxed) as usize) < MAX_HITS {
            let at = self.observed.fetch_add(1, Relaxed) as usize;
            if let Some(location) = self.slots.get(at) {
                location.store(slot, Relaxed);
            }
        }
    }

    /// Returns the number of hits, and begins to count again.
    #[inline]
    pub(super) fn take_count(&mut self) -> u32 {
        std::mem::take(self.count.get_mut())
    }

    /// Checks whether there were hits.
    #[inline(always)]
    pub(super) fn is_empty(&mut self) -> bool {
        *self.count.get_mut() == 0
    }

    /// Checks whether there were hits on entries whose keys are observed.
    #[inline]
    pub(super) fn has_observed(&mut self) -> bool {
        *self.observed.get_mut() > 0
    }

    /// Returns the slots of the hits on entries whose keys are observed, and begins to record again.
    pub(super) fn take_observed(&mut self) -> impl Iterator<Item = u32> + '_ {
        let observed = std::mem::take(self.observed.get_mut()) as usize;
        let slots = self.slots.iter_mut().take(observed);
        slots.map(|slot| *slot.get_mut())
    }

    /// Discards the recorded slots.
    pub(super) fn discard_slots(&mut self) {
        *self.observed.get_mut() = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hits_are_counted_and_recorded_up_to_a_limit() {
        let mut hits = RecentHits::new();
        (0..10).for_each(|slot| hits.add(slot, slot % 2 == 0));
        assert_eq!(hits.take_count(), 10);
        assert!(hits.take_observed().eq([0, 2, 4, 6, 8]));
        assert_eq!((hits.take_count(), hits.take_observed().count()), (0, 0));
        (0..1_000).for_each(|slot| hits.add(slot, true));
        assert_eq!(hits.take_count() as usize, MAX_HITS);
        assert_eq!(hits.take_observed().count(), MAX_HITS);
    }
}
