//! How a shard gets more memory, a few entries at a time, and gives all of it back at once.

use super::{MAX_ENTRIES, Shard};
use crate::local::index::BUCKETS_PER_STEP;
use crate::local::policy::Eviction;
use crate::local::removal::Removals;
use crate::local::work::WorkSlice;
use hashbrown::HashTable;

/// How many entries a shard has room for at first.
const FIRST_ROOM: usize = 16;
/// While a shard grows, each write moves what belongs to so many slots. A shard begins to grow when this part
/// of its slots is left, so it has moved everything when the last one is taken.
const SLOTS_PER_STEP: usize = 64;

impl<K, V> Shard<K, V> {
    /// Makes room for one more slot. What has to be moved for it is moved by this write and those that come
    /// after it.
    #[inline]
    pub(super) fn make_room(&mut self, work: &mut WorkSlice, out: &mut Removals<'_, K, V>) {
        self.go_on_growing(work, out);
        if self
            .slab
            .is_nearly_full(self.slab.capacity() / SLOTS_PER_STEP)
        {
            self.grow(work, out);
        }
    }

    /// Moves a few entries if the shard grows.
    #[inline]
    pub(super) fn go_on_growing(&mut self, work: &mut WorkSlice, out: &mut Removals<'_, K, V>) {
        if self.grows {
            self.step(work, out);
        }
    }

    /// Begins to move everything by slot to storage for more slots.
    #[cold]
    fn grow(&mut self, work: &mut WorkSlice, out: &mut Removals<'_, K, V>) {
        if self.slab.is_growing() {
            return;
        }
        let room = self.next_room(self.slab.end() as usize);
        // The last of them are used while the storage after this one is filled.
        let room = room + room / SLOTS_PER_STEP + 1;
        self.slab.grow(room);
        self.policy.grow(room);
        if let Some(extras) = &mut self.extras {
            extras.grow(room);
        }
        if let Some(ages) = &mut self.ages {
            ages.read_at.grow(room);
        }
        self.grows = true;
        self.step(work, out);
    }

    /// Begins to move the index to a larger table.
    #[cold]
    #[inline(never)]
    pub(super) fn grow_index(&mut self) {
        let room = self.next_index_room();
        self.index.grow(room, self.slab.hash_of());
        self.grows = true;
    }

    /// Returns the number of entries that the next table of the index is to have room for.
    pub(crate) fn next_index_room(&self) -> usize {
        let len = self.index.len();
        let room = self.next_room(len).max(len * 2);
        room.min(MAX_ENTRIES as usize * 2)
    }

    /// Returns `true` if the index is about to need another table, which is better allocated without a lock.
    #[inline]
    pub(crate) fn needs_spare_table(&self) -> bool {
        self.index.needs_spare()
    }

    /// Takes an empty table for the index, or gives it back if it has one.
    pub(crate) fn set_spare_table(&mut self, table: HashTable<u32>) -> Result<(), HashTable<u32>> {
        self.index.set_spare(table)
    }

    /// Returns the number of entries that a shard with so many is to have room for: twice as many, or soon all
    /// that are expected, so that few are moved, and little memory is left unused.
    fn next_room(&self, len: usize) -> usize {
        let expected = self.setup.expected;
        if (len + 1..=len * 16).contains(&expected) {
            expected
        } else if (1..=len).contains(&expected) {
            // More than its share, but hardly much more.
            len + (len / 8).max(FIRST_ROOM)
        } else {
            (len * 2).max(FIRST_ROOM)
        }
    }

    #[cold]
    #[inline(never)]
    #[allow(clippy::cast_possible_truncation)]
    fn step(&mut self, work: &mut WorkSlice, out: &mut Removals<'_, K, V>) {
        work.spend((SLOTS_PER_STEP + BUCKETS_PER_STEP) as u32);
        let hash_of = self.slab.hash_of();
        if let Some(emptied) = self.index.step(BUCKETS_PER_STEP, hash_of) {
            out.retire(Box::new(emptied));
        }
        if let Some(emptied) = self.slab.step(SLOTS_PER_STEP) {
            out.retire(Box::new(emptied));
        }
        if let Some(emptied) = self.policy.step(SLOTS_PER_STEP) {
            out.retire(Box::new(emptied));
        }
        if let Some(extras) = &mut self.extras {
            extras.step(SLOTS_PER_STEP, |emptied| out.retire(emptied));
        }
        let ages = self.ages.as_mut();
        if let Some(emptied) = ages.and_then(|ages| ages.read_at.step(SLOTS_PER_STEP)) {
            out.retire(Box::new(emptied));
        }
        self.grows = self.slab.is_growing() || self.index.is_growing();
    }
}
