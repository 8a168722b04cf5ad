//! The indices of the slots that threads own.

use std::collections::BTreeSet;

/// Assigns indices to threads, the lowest free one first, so that the indices in use stay few and low.
pub(crate) struct SlotAssignment {
    /// The free indices below the high-water mark.
    free: BTreeSet<usize>,
    /// One more than the highest assigned index, or 0 if none is assigned.
    high_water: usize,
}

impl SlotAssignment {
    /// Creates an assignment in which all indices are free.
    pub(crate) const fn new() -> Self {
        Self {
            free: BTreeSet::new(),
            high_water: 0,
        }
    }

    /// Assigns the lowest free index, or returns `None` if all indices below `limit` are assigned.
    pub(crate) fn assign(&mut self, limit: usize) -> Option<usize> {
        let index = self.free.pop_first().unwrap_or(self.high_water);
        if index >= limit {
            return None;
        }
        self.high_water = self.high_water.max(index + 1);
        Some(index)
    }

    /// Makes an assigned index free. Lowers the high-water mark if no higher index is assigned.
    pub(crate) fn release(&mut self, index: usize) {
        self.free.insert(index);
        while self
            .free
            .last()
            .is_some_and(|&last| last + 1 == self.high_water)
        {
            self.free.pop_last();
            self.high_water -= 1;
        }
    }

    /// Returns one more than the highest assigned index, or 0 if none is assigned.
    pub(crate) fn high_water(&self) -> usize {
        self.high_water
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lowest_free_index_is_assigned_first_and_none_at_the_limit() {
        let mut slots = SlotAssignment::new();
        let assigned: Vec<_> = (0..6).map(|_| slots.assign(5)).collect();
        assert_eq!(
            assigned,
            [Some(0), Some(1), Some(2), Some(3), Some(4), None]
        );
        slots.release(3);
        slots.release(1);
        assert_eq!(
            [slots.assign(5), slots.assign(5), slots.assign(5)],
            [Some(1), Some(3), None]
        );
    }

    #[test]
    fn release_of_the_highest_index_lowers_the_high_water_mark_to_the_highest_assigned_one() {
        let mut slots = SlotAssignment::new();
        (0..5).for_each(|_| assert!(slots.assign(5).is_some()));
        let release = |slots: &mut SlotAssignment, index| {
            slots.release(index);
            slots.high_water()
        };
        assert_eq!(
            [2, 3, 4, 0, 1].map(|index| release(&mut slots, index)),
            [5, 5, 2, 2, 0]
        );
        assert_eq!((slots.assign(5), slots.high_water()), (Some(0), 1));
    }
}
