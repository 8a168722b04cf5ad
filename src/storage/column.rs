//! Per-slot storage that grows without moving all of its items in one call.

use crate::storage::allocated::AllocatedBytes;

/// A vector of items by slot whose growth is spread over many calls.
///
/// [`grow`](Self::grow) allocates the larger storage and moves no item. Each [`step`](Self::step) then moves some
/// items, the lowest slots first. [`get`](Self::get) searches the larger storage first, and then the former one for an
/// item that has not moved yet. While the column does not grow, a lookup costs the same as in a `Vec`.
#[repr(C)]
pub(crate) struct Column<T> {
    /// All items, except those that have not moved yet.
    items: Vec<T>,
    /// The former storage while its items are moved. It still contains the items from `items.len()` on. It is boxed,
    /// so that the fields that a hit reads of a shard stay on two cache lines.
    #[allow(clippy::box_collection)]
    outgrown: Option<Box<Vec<T>>>,
}

impl<T> Column<T> {
    /// Creates an empty column.
    pub(crate) const fn new() -> Self {
        Self {
            items: Vec::new(),
            outgrown: None,
        }
    }

    /// Returns the number of items.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        match &self.outgrown {
            None => self.items.len(),
            Some(outgrown) => outgrown.len().max(self.items.len()),
        }
    }

    /// Returns the number of items that can be added before the storage has to grow, or to grow again.
    #[inline]
    pub(crate) fn room_left(&self) -> usize {
        match &self.outgrown {
            None => self.items.capacity() - self.items.len(),
            Some(outgrown) => outgrown.capacity() - outgrown.len(),
        }
    }

    /// Returns the number of items that the storage has room for, once all have moved.
    pub(crate) fn capacity(&self) -> usize {
        self.items.capacity()
    }

    /// Returns the item of a slot. Unlike [`get`](Self::get), returns `None` if it has not moved yet.
    #[inline(always)]
    pub(crate) fn get_moved(&self, slot: u32) -> Option<&T> {
        self.items.get(slot as usize)
    }

    /// Returns the item of a slot for writing. Unlike [`get_mut`](Self::get_mut), returns `None` if it has not moved
    /// yet.
    #[inline(always)]
    pub(crate) fn get_moved_mut(&mut self, slot: u32) -> Option<&mut T> {
        self.items.get_mut(slot as usize)
    }

    /// Returns the item of a slot, or `None` if the slot is past the end.
    #[inline(always)]
    pub(crate) fn get(&self, slot: u32) -> Option<&T> {
        match self.items.get(slot as usize) {
            None => self.get_outgrown(slot),
            found => found,
        }
    }

    /// Returns the item of a slot that has not moved yet.
    #[cold]
    #[inline(never)]
    fn get_outgrown(&self, slot: u32) -> Option<&T> {
        self.outgrown.as_ref()?.get(slot as usize)
    }

    /// Returns the item of a slot for writing, or `None` if the slot is past the end.
    #[inline]
    pub(crate) fn get_mut(&mut self, slot: u32) -> Option<&mut T> {
        let Self { items, outgrown } = self;
        match items.get_mut(slot as usize) {
            None => outgrown.as_mut()?.get_mut(slot as usize),
            found => found,
        }
    }

    /// Adds an item at the end. If there is no room, all items move at once: call [`grow`](Self::grow) before that.
    #[inline]
    pub(crate) fn push(&mut self, item: T) {
        match &mut self.outgrown {
            None => self.items.push(item),
            Some(outgrown) => outgrown.push(item),
        }
    }

    /// Sets the item of a slot, which may be the first one past the end.
    #[inline]
    pub(crate) fn put(&mut self, slot: u32, item: T) {
        if let Some(present) = self.get_mut(slot) {
            *present = item;
        } else {
            debug_assert!(slot as usize == self.len(), "slot {slot} is past the end");
            self.push(item);
        }
    }
}

impl<T> AllocatedBytes for Column<T> {
    fn allocated_bytes(&self) -> usize {
        self.items.allocated_bytes() + self.outgrown.allocated_bytes()
    }
}

impl<T: Default> Column<T> {
    /// Allocates room for `capacity` items and begins to move the present ones there.
    pub(crate) fn grow(&mut self, capacity: usize) {
        while self.outgrown.is_some() {
            self.step(usize::MAX);
        }
        let items = Vec::with_capacity(capacity.max(self.items.len()));
        let outgrown = std::mem::replace(&mut self.items, items);
        if !outgrown.is_empty() {
            self.outgrown = Some(Box::new(outgrown));
        }
    }

    /// Returns `true` while items are left to be moved.
    pub(crate) fn is_growing(&self) -> bool {
        self.outgrown.is_some()
    }

    /// Moves up to `most` items. After the last one, returns the former storage. The caller drops it where no lock is
    /// held, because freeing a large one takes milliseconds.
    pub(crate) fn step(&mut self, most: usize) -> Option<Vec<T>> {
        let Self { items, outgrown } = self;
        let from = outgrown.as_mut()?;
        let moved = items.len();
        let rest = from.get_mut(moved..).unwrap_or_default();
        items.extend(rest.iter_mut().take(most).map(std::mem::take));
        if items.len() < from.len() {
            return None;
        }
        outgrown.take().map(|emptied| *emptied)
    }

    /// Moves the items of these slots, in this order, to a new column that has room for `capacity` items.
    pub(crate) fn select(&mut self, slots: &[u32], capacity: usize) -> Self {
        let mut items = Vec::with_capacity(capacity.max(slots.len()));
        let take = |&slot| self.get_mut(slot).map(std::mem::take).unwrap_or_default();
        items.extend(slots.iter().map(take));
        Self {
            items,
            outgrown: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_keep_their_slots_while_the_column_grows() {
        let mut column = Column::new();
        for round in 1..6_u32 {
            column.grow(column.len() + 100);
            let mut emptied = None;
            while column.is_growing() {
                for slot in 0..u32::try_from(column.len()).unwrap() {
                    assert_eq!(column.get(slot), Some(&(slot * 3)));
                }
                column.put(1, 3);
                let moved = column.items.len();
                emptied = column.step(7);
                assert!(column.items.len() <= moved + 7);
            }
            assert_eq!(emptied.is_some(), round > 1);
            while column.room_left() > 0 {
                column.push(u32::try_from(column.len()).unwrap() * 3);
            }
        }
        assert_eq!(column.len(), column.items.len());
        let chosen = column.select(&[5, 0, 9], 3);
        assert_eq!(chosen.items, [15, 0, 27]);
    }

    #[test]
    fn item_pushed_while_the_column_grows_is_moved_too() {
        let mut column = Column::new();
        column.grow(4);
        (0..3).for_each(|item| column.push(item));
        column.grow(100);
        column.step(1);
        column.push(3);
        assert_eq!(column.len(), 4);
        assert!(column.step(10).is_some());
        assert_eq!(column.items, [0, 1, 2, 3]);
    }
}
