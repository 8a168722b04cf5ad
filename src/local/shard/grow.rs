//! The growth of a shard, which moves a few entries at a time.

use crate::local::removal::Removals;
use crate::local::shard::Shard;
use crate::local::shard::hash::StoredHash;
use crate::policy::EvictionPolicy;
use crate::storage::index::BUCKETS_PER_STEP;
use crate::storage::slot_table::SlotTable;
use crate::storage::work_slice::WorkSlice;

/// The number of entries that a shard has room for at first.
const INITIAL_ROOM: usize = 16;
/// The number of slots that each write moves while a shard grows. A shard with `n` slots begins to grow when
/// `n / SLOTS_PER_STEP` of them are left. So it has moved all slots when the last one is taken.
const SLOTS_PER_STEP: usize = 64;

/// The number of entries that the largest table of the index has room for.
const MAX_INDEX_ROOM: usize = (1 << StoredHash::POSITION_BITS) / 4 * 3;

impl<K, V> Shard<K, V> {
    /// Makes room for one more slot. If entries have to be moved for it, this write moves the first of them, and later
    /// writes move the others.
    #[inline]
    pub(super) fn make_room(&mut self, work: &mut WorkSlice, out: &mut Removals<'_, K, V>) {
        self.continue_growing(work, out);
        if self
            .slab
            .is_nearly_full(self.slab.capacity() / SLOTS_PER_STEP)
        {
            self.grow(work, out);
        }
    }

    /// Moves a few entries if the shard is growing.
    #[inline]
    pub(super) fn continue_growing(&mut self, work: &mut WorkSlice, out: &mut Removals<'_, K, V>) {
        if self.is_growing {
            self.step(work, out);
        }
    }

    /// Begins to move everything that is stored by slot to larger storage.
    #[cold]
    fn grow(&mut self, work: &mut WorkSlice, out: &mut Removals<'_, K, V>) {
        if self.slab.is_growing() {
            return;
        }
        let room = self.next_room(self.slab.end() as usize);
        // The last slots are used while entries are moved to the next storage. The next growth begins when `room` slots
        // are in use and one more is needed, not earlier.
        let room = room + room / (SLOTS_PER_STEP - 1) + 1;
        self.slab.grow(room);
        self.policy.grow(room);
        if let Some(metadata) = &mut self.metadata {
            metadata.grow(room);
        }
        if let Some(read_times) = &mut self.read_times {
            read_times.read_at.grow(room);
        }
        self.is_growing = true;
        self.step(work, out);
    }

    /// Begins to move the index to a larger table.
    #[cold]
    #[inline(never)]
    pub(super) fn grow_index(&mut self) {
        let room = self.next_index_room();
        self.index.grow(room, self.slab.hash_of());
        self.is_growing = true;
    }

    /// Returns the number of entries for which the next table of the index has to have room.
    pub(crate) fn next_index_room(&self) -> usize {
        let len = self.index.len();
        let room = self.next_room(len).max(len * 2);
        room.min(MAX_INDEX_ROOM)
    }

    /// Returns `true` if the index is about to need another table. The caller allocates it where no lock is held. A
    /// shard with all expected entries rarely gets more of them, and then allocates the table under its lock.
    #[inline]
    pub(crate) fn needs_spare_table(&self) -> bool {
        let expected = self.setup.expected_entries;
        self.index.needs_spare() && (expected == 0 || self.index.len() < expected)
    }

    /// Stores an empty table for the index, or returns it as an error if there is one already.
    pub(crate) fn set_spare_table(&mut self, table: SlotTable) -> Result<(), SlotTable> {
        self.index.set_spare(table)
    }

    /// Returns the number of entries for which a shard with `len` entries has to have room. That is twice as many, or
    /// soon all that are expected, so that few entries are moved and little memory stays unused.
    ///
    /// It is at least an eighth more than `len`. With less, the next growth would have to begin before this one has
    /// moved all slots.
    fn next_room(&self, len: usize) -> usize {
        let expected = self.setup.expected_entries;
        let least = len + (len / 8).max(INITIAL_ROOM);
        if (least..=len * 16).contains(&expected) {
            expected
        } else if (1..least).contains(&expected) {
            // The shard has more than its share of the entries, or almost. It rarely gets many more.
            least
        } else {
            (len * 2).max(INITIAL_ROOM)
        }
    }

    /// Moves a few entries of a shard that is growing.
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
        if let Some(metadata) = &mut self.metadata {
            metadata.step(SLOTS_PER_STEP, |emptied| out.retire(emptied));
        }
        let read_times = self.read_times.as_mut();
        if let Some(emptied) = read_times.and_then(|times| times.read_at.step(SLOTS_PER_STEP)) {
            out.retire(Box::new(emptied));
        }
        self.is_growing = self.slab.is_growing() || self.index.is_growing();
    }
}
