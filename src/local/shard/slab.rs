//! Slots addressed by `u32`, stable while they are occupied.

use crate::storage::allocated::AllocatedBytes;
use crate::storage::column::Column;

/// The end of the free list, which is never a slot's number.
const NO_SLOT: u32 = u32::MAX;

/// Values in slots. The slot that was freed last is used next.
#[repr(C)]
pub(crate) struct Slab<T> {
    slots: Column<Slot<T>>,
    /// The first slot of the free list, or [`NO_SLOT`].
    free: u32,
    /// The number of occupied slots.
    len: u32,
}

/// The content of a slot. It is as large as a `T` if that has a niche, such as a `NonZero` field.
pub(crate) enum Slot<T> {
    Occupied(T),
    /// A member of the free list, with the next one.
    Vacant {
        next: u32,
    },
}

impl<T> Default for Slot<T> {
    fn default() -> Self {
        Self::Vacant { next: NO_SLOT }
    }
}

impl<T> Slab<T> {
    /// Creates a slab without slots.
    pub(crate) const fn new() -> Self {
        Self {
            slots: Column::new(),
            free: NO_SLOT,
            len: 0,
        }
    }

    /// Returns the number of occupied slots.
    pub(crate) fn len(&self) -> u32 {
        self.len
    }

    /// Returns one more than the highest slot that was ever occupied.
    #[inline]
    #[allow(clippy::cast_possible_truncation)]
    pub(crate) fn end(&self) -> u32 {
        self.slots.len() as u32
    }

    /// Returns the number of slots that there is memory for.
    pub(crate) fn capacity(&self) -> usize {
        self.slots.capacity()
    }

    /// Returns the value of a slot. Unlike [`get`](Self::get), returns `None` if the slot has not moved to the larger
    /// storage yet.
    #[inline(always)]
    pub(crate) fn get_moved(&self, slot: u32) -> Option<&T> {
        match self.slots.get_moved(slot) {
            Some(Slot::Occupied(value)) => Some(value),
            _ => None,
        }
    }

    /// Returns the value of a slot for writing. Unlike [`get_mut`](Self::get_mut), returns `None` if the slot has not
    /// moved to the larger storage yet.
    #[inline(always)]
    pub(crate) fn get_moved_mut(&mut self, slot: u32) -> Option<&mut T> {
        match self.slots.get_moved_mut(slot) {
            Some(Slot::Occupied(value)) => Some(value),
            _ => None,
        }
    }

    /// Returns the value of a slot, or `None` if it is vacant.
    #[inline]
    pub(crate) fn get(&self, slot: u32) -> Option<&T> {
        match self.slots.get(slot) {
            Some(Slot::Occupied(value)) => Some(value),
            _ => None,
        }
    }

    /// Returns the value of a slot for writing, or `None` if it is vacant.
    #[inline]
    pub(crate) fn get_mut(&mut self, slot: u32) -> Option<&mut T> {
        match self.slots.get_mut(slot) {
            Some(Slot::Occupied(value)) => Some(value),
            _ => None,
        }
    }

    /// Returns `true` if the next insertion allocates nothing.
    pub(crate) fn has_room(&self) -> bool {
        self.free != NO_SLOT || self.slots.room_left() > 0
    }

    /// Returns `true` if the next insertion takes a slot that was never used, and there is memory for at most `slots`
    /// of those.
    #[inline]
    pub(crate) fn is_nearly_full(&self, slots: usize) -> bool {
        self.free == NO_SLOT && self.slots.room_left() <= slots
    }

    /// Returns `true` while slots are moved to larger storage.
    pub(crate) fn is_growing(&self) -> bool {
        self.slots.is_growing()
    }

    /// Begins to make room for `slots` slots: see [`Column::grow`].
    pub(crate) fn grow(&mut self, slots: usize) {
        self.slots.grow(slots);
    }

    /// Moves up to `most` slots: see [`Column::step`].
    pub(crate) fn step(&mut self, most: usize) -> Option<Vec<Slot<T>>> {
        self.slots.step(most)
    }

    /// Inserts a value into a free slot and returns the slot.
    ///
    /// # Panics
    ///
    /// Panics if there is no number left for a slot. The shard evicts long before.
    #[inline]
    pub(crate) fn insert(&mut self, value: T) -> u32 {
        self.len += 1;
        let slot = self.free;
        if slot != NO_SLOT {
            if let Some(free) = self.slots.get_mut(slot) {
                let Slot::Vacant { next } = *free else {
                    unreachable!("the free list names vacant slots only")
                };
                self.free = next;
                *free = Slot::Occupied(value);
                return slot;
            }
        }
        let slot = self.end();
        assert!(slot < NO_SLOT, "slots are numbered by u32");
        self.slots.push(Slot::Occupied(value));
        slot
    }

    /// Removes the value of a slot and returns it, or `None` if the slot is vacant.
    #[inline]
    pub(crate) fn remove(&mut self, slot: u32) -> Option<T> {
        let content = self.slots.get_mut(slot)?;
        match std::mem::replace(content, Slot::Vacant { next: self.free }) {
            Slot::Occupied(value) => {
                self.free = slot;
                self.len -= 1;
                Some(value)
            }
            vacant @ Slot::Vacant { .. } => {
                *content = vacant;
                None
            }
        }
    }

    /// Moves the values of these slots, which are all occupied ones, to the first slots of a new slab with room for
    /// `capacity` slots. Their order is kept.
    #[allow(clippy::cast_possible_truncation)]
    pub(crate) fn select(&mut self, occupied: &[u32], capacity: usize) -> Self {
        Self {
            slots: self.slots.select(occupied, capacity),
            free: NO_SLOT,
            len: occupied.len() as u32,
        }
    }

    /// Returns all values with their slots.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        (0..self.end()).filter_map(|slot| Some((slot, self.get(slot)?)))
    }
}

impl<T> AllocatedBytes for Slab<T> {
    fn allocated_bytes(&self) -> usize {
        self.slots.allocated_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::num::NonZeroU32;

    #[test]
    fn freed_slot_is_reused_last_in_first_out_and_never_twice() {
        let mut slab = Slab::new();
        let slots: Vec<u32> = (0..4).map(|n| slab.insert(n)).collect();
        assert_eq!(slots, [0, 1, 2, 3]);
        assert_eq!(slab.remove(1), Some(1));
        assert_eq!(slab.remove(1), None);
        assert_eq!(slab.remove(2), Some(2));
        assert_eq!(slab.remove(9), None);
        assert_eq!(
            (slab.insert(20), slab.insert(10), slab.insert(40)),
            (2, 1, 4)
        );
        assert_eq!(slab.len(), 5);
        let all: Vec<_> = slab.iter().map(|(slot, &n)| (slot, n)).collect();
        assert_eq!(all, [(0, 0), (1, 10), (2, 20), (3, 3), (4, 40)]);
    }

    #[test]
    fn slot_of_a_type_with_a_niche_is_as_large_as_the_type() {
        type Entry = (NonZeroU32, u64);
        assert_eq!(size_of::<Slot<Entry>>(), size_of::<Entry>());
    }
}
