//! Slots addressed by `u32`, stable while they are occupied.

/// What a slot number can never be: the end of the free list.
const NO_SLOT: u32 = u32::MAX;

/// Values in slots; a freed slot is the next to be used again.
#[repr(C)]
pub(crate) struct Slab<T> {
    slots: Vec<Slot<T>>,
    free: u32,
    len: u32,
}

/// As large as a `T` that has a niche, such as a `NonZero` field.
enum Slot<T> {
    Occupied(T),
    Vacant { next: u32 },
}

impl<T> Slab<T> {
    pub(crate) const fn new() -> Self {
        Self {
            slots: Vec::new(),
            free: NO_SLOT,
            len: 0,
        }
    }

    /// The number of occupied slots.
    pub(crate) fn len(&self) -> u32 {
        self.len
    }

    /// One more than the highest slot in use.
    #[allow(clippy::cast_possible_truncation)]
    pub(crate) fn end(&self) -> u32 {
        self.slots.len() as u32
    }

    #[inline]
    pub(crate) fn get(&self, slot: u32) -> Option<&T> {
        match self.slots.get(slot as usize) {
            Some(Slot::Occupied(value)) => Some(value),
            _ => None,
        }
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, slot: u32) -> Option<&mut T> {
        match self.slots.get_mut(slot as usize) {
            Some(Slot::Occupied(value)) => Some(value),
            _ => None,
        }
    }

    /// Is there no room for another value?
    #[inline]
    pub(crate) fn is_full(&self) -> bool {
        self.free == NO_SLOT && self.slots.len() == self.slots.capacity()
    }

    /// Makes room for so many values, or a few more, and returns for how many.
    pub(crate) fn grow(&mut self, slots: usize) -> usize {
        self.slots.reserve_exact(slots - self.slots.len());
        self.slots.capacity()
    }

    /// Puts a value into a free slot.
    ///
    /// # Panics
    ///
    /// If `u32` has no number left for it; the shard evicts long before.
    #[inline]
    pub(crate) fn insert(&mut self, value: T) -> u32 {
        self.len += 1;
        let slot = self.free;
        if let Some(free) = self.slots.get_mut(slot as usize) {
            let Slot::Vacant { next } = *free else {
                unreachable!("the free list names vacant slots only")
            };
            self.free = next;
            *free = Slot::Occupied(value);
            return slot;
        }
        let slot = self.end();
        assert!(slot < NO_SLOT, "slots are numbered by u32");
        self.slots.push(Slot::Occupied(value));
        slot
    }

    /// Takes the value of an occupied slot.
    #[inline]
    pub(crate) fn remove(&mut self, slot: u32) -> Option<T> {
        let place = self.slots.get_mut(slot as usize)?;
        match std::mem::replace(place, Slot::Vacant { next: self.free }) {
            Slot::Occupied(value) => {
                self.free = slot;
                self.len -= 1;
                Some(value)
            }
            vacant @ Slot::Vacant { .. } => {
                *place = vacant;
                None
            }
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        (0..self.end()).filter_map(|slot| Some((slot, self.get(slot)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::num::NonZeroU32;

    #[test]
    fn slots_are_used_again_and_never_twice() {
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
    fn vacancy_costs_no_memory() {
        type Entry = (NonZeroU32, u64);
        assert_eq!(size_of::<Slot<Entry>>(), size_of::<Entry>());
    }
}
