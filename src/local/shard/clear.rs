//! The removal of all entries of a shard, and the release of memory that the entries do not need.

use crate::clock::Nanos;
use crate::local::budget::Budget;
use crate::local::removal::{RemovalCause, Removals, Removed};
use crate::local::shard::Shard;
use crate::local::shard::entry::Entry;
use crate::local::shard::expiry::Expiry;
use crate::local::shard::metadata::MetadataTable;
use crate::local::shard::read_times::ReadTimes;
use crate::local::shard::slab::Slab;
use crate::policy::{AnyPolicy, EvictionPolicy};
use crate::storage::index::Index;
use crate::storage::slot_table::SlotTable;
use std::mem::{replace, take};
use std::sync::atomic::Ordering::Relaxed;

/// The number of slots above which a shard frees its memory when its last entry is removed.
const MAX_SLOTS_WHEN_EMPTY: u32 = 1_024;
/// The number of unused slots below which no entries are moved to free memory.
const MIN_SLOTS_FREED: usize = 64;

/// The storage of a shard: all of it except its settings and counters.
struct Storage<K, V> {
    slab: Slab<Entry<K, V>>,
    metadata: Option<Box<MetadataTable>>,
    _index: Index<SlotTable>,
    _policy: AnyPolicy,
    _expiry: Expiry,
    _read_times: Option<ReadTimes>,
}

/// The entries of a shard that was cleared. The time to list and drop them is proportional to their number, so that is
/// done with no lock held.
pub(crate) struct Cleared<K, V>(Storage<K, V>);

/// The numbers of cleared entries that had been dead before.
#[derive(Default, PartialEq)]
pub(crate) struct FoundDead {
    expired: u64,
    invalidated: u64,
}

impl<K, V> Shard<K, V> {
    /// Takes the storage, and leaves the shard with that of a new one.
    fn take_storage(&mut self) -> Storage<K, V> {
        let policy = self.policy.emptied();
        self.is_growing = false;
        Storage {
            slab: replace(&mut self.slab, Slab::new()),
            metadata: replace(&mut self.metadata, self.setup.metadata()),
            _index: take(&mut self.index),
            _policy: replace(&mut self.policy, policy),
            _expiry: replace(&mut self.expiry, Expiry::new(self.setup.grace)),
            _read_times: replace(
                &mut self.read_times,
                self.setup.has_read_times.then(ReadTimes::new),
            ),
        }
    }

    /// Removes all entries with their memory, and counts all of them as cleared.
    pub(crate) fn clear(&mut self, budget: &Budget) -> Cleared<K, V> {
        budget.release(self.total_weight());
        self.removals[RemovalCause::Cleared as usize] += self.len();
        Cleared(self.take_storage())
    }

    /// Counts entries that were dead before they were cleared as expired or invalidated instead of cleared.
    pub(crate) fn recount(&mut self, dead: &FoundDead) {
        self.removals[RemovalCause::Cleared as usize] -= dead.expired + dead.invalidated;
        self.removals[RemovalCause::Expired as usize] += dead.expired;
        self.removals[RemovalCause::Invalidated as usize] += dead.invalidated;
    }

    /// Frees the memory of a shard whose last entry has been removed, if it has many slots. Otherwise a call that lists
    /// the entries would visit all slots that were ever in use.
    #[inline]
    pub(super) fn release_if_empty(&mut self, out: &mut Removals<'_, K, V>) {
        if self.slab.len() == 0 && self.slab.end() > MAX_SLOTS_WHEN_EMPTY {
            out.retire(Box::new(self.take_storage()));
        }
    }

    /// Frees the memory that the entries do not need, unless there is little of it. Moves all entries, which takes a
    /// time proportional to the number of slots.
    pub(crate) fn shrink(&mut self, out: &mut Removals<'_, K, V>) {
        let len = self.slab.len() as usize;
        if self.slab.capacity() == 0 {
            return;
        }
        if len == 0 {
            out.retire(Box::new(self.take_storage()));
            return;
        }
        let room = len + len / 64 + 1;
        if self.slab.capacity() < room + room / 8 + MIN_SLOTS_FREED && !self.is_growing {
            return;
        }
        let occupied: Vec<u32> = self.slab.iter().map(|(slot, _)| slot).collect();
        self.renumber(&occupied, room, out);
    }

    /// Moves the entries of these slots, which are all occupied ones, to the first slots of storage with room for
    /// `room` slots.
    fn renumber(&mut self, occupied: &[u32], room: usize, out: &mut Removals<'_, K, V>) {
        self.renumberings = self.renumberings.wrapping_add(1);
        let mut numbers = vec![None; self.slab.end() as usize];
        for (to, &from) in (0..).zip(occupied) {
            numbers[from as usize] = Some(to);
        }
        self.policy.renumber(room, |slot| numbers[slot as usize]);
        let slab = self.slab.select(occupied, room);
        out.retire(Box::new(replace(&mut self.slab, slab)));
        if let Some(metadata) = &mut self.metadata {
            metadata.select(occupied, room);
        }
        if let Some(read_times) = &mut self.read_times {
            read_times.read_at = read_times.read_at.select(occupied, room);
        }
        let mut index = Index::with_capacity(room);
        self.expiry.restart(self.slab.end());
        for (slot, entry) in self.slab.iter() {
            index.insert(entry.hash.cell(), slot, self.slab.hash_of());
            self.expiry.set(slot, entry.deadline.load(Relaxed));
        }
        out.retire(Box::new(replace(&mut self.index, index)));
        self.is_growing = false;
    }
}

impl<K, V> Cleared<K, V> {
    /// Moves all entries to `out`, and returns how many of them had been dead before.
    pub(crate) fn remove_all(mut self, now: Nanos, out: &mut Removals<'_, K, V>) -> FoundDead {
        let mut dead = FoundDead::default();
        let Storage { slab, metadata, .. } = &mut self.0;
        for slot in 0..slab.end() {
            let Some(entry) = slab.remove(slot) else {
                continue;
            };
            let metadata = metadata.as_ref();
            let cause = if metadata.is_some_and(|metadata| !metadata.is_current(slot)) {
                dead.invalidated += 1;
                RemovalCause::Invalidated
            } else if entry.deadline.load(Relaxed) <= now {
                dead.expired += 1;
                RemovalCause::Expired
            } else {
                RemovalCause::Cleared
            };
            let Entry { key, value, .. } = entry;
            out.push(Removed { key, value, cause });
        }
        dead
    }
}
