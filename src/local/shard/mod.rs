//! A shard: index, slots, policy and expiration behind `&mut self`.
//!
//! It knows neither locks nor loads in flight nor callbacks. Entries that it removes are returned to the caller, who
//! drops them with no lock held.
//!
//! The only user code that runs here is the `Eq` of keys, and a custom clock on reads. Both run before anything is
//! changed, so a panic in them changes nothing.

mod clear;
pub(crate) mod entry;
pub(crate) mod epoch_column;
mod evict;
pub(crate) mod expiry;
mod grow;
pub(crate) mod hash;
pub(crate) mod metadata;
mod plain;
mod read;
pub(crate) mod read_times;
pub(crate) mod slab;
#[cfg(feature = "snapshot")]
mod snapshot;
mod tag_column;
#[cfg(test)]
mod tests;
mod write;

pub(crate) use clear::FoundDead;
pub(crate) use plain::PlainEntry;
pub(crate) use read::HitTime;
#[cfg(feature = "snapshot")]
pub(crate) use snapshot::{Copied, NotRestored};

use crate::clock::Nanos;
use crate::local::shard::entry::Entry;
use crate::local::shard::epoch_column::MinLiveEpochs;
use crate::local::shard::expiry::Expiry;
use crate::local::shard::hash::StoredHash;
use crate::local::shard::metadata::{ColumnSet, MetadataTable};
use crate::local::shard::read_times::ReadTimes;
use crate::local::shard::slab::Slab;
use crate::policy::{AnyPolicy, EvictionPolicy};
use crate::stats::Stats;
use crate::storage::allocated::AllocatedBytes;
use crate::storage::index::Index;
use crate::storage::slot_table::{MAX_SLOTS, SlotTable};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The number of entries at which a shard evicts, whatever the budget. Its index then has a table with room for half as
/// many more, and no more cells than a [`StoredHash`] distinguishes.
pub(crate) const MAX_ENTRIES: u32 = (1 << StoredHash::POSITION_BITS) / 16 * 7;

const _: () = assert!(MAX_ENTRIES < MAX_SLOTS);

/// The settings of a shard.
pub(crate) struct Setup {
    /// The number of entries that the shard probably has when the cache is full, or 0 if it is unknown.
    pub(crate) expected_entries: usize,
    pub(crate) columns: ColumnSet,
    /// The time for which entries are kept past their deadline, in nanoseconds.
    pub(crate) grace: Nanos,
    /// `true` if the times at which values were read from their source are recorded.
    pub(crate) has_read_times: bool,
    /// The epoch of the cache's tags. It is raised when a tag is invalidated.
    pub(crate) tag_epoch: Arc<AtomicU64>,
    /// The lowest epoch whose entries are live. `None` if entries are not invalidated by their epoch.
    pub(crate) min_live: Option<Arc<MinLiveEpochs>>,
}

impl Setup {
    /// Returns the metadata of a shard without entries.
    fn metadata(&self) -> Option<Box<MetadataTable>> {
        let has_columns = !self.columns.is_empty() || self.min_live.is_some();
        has_columns.then(|| {
            let min_live = self.min_live.clone();
            Box::new(MetadataTable::new(self.columns, min_live))
        })
    }
}

/// A part of a cache, with the entries of one part of the keys.
///
/// The fields are in this order: those that every hit reads and few writes change, those that every write changes, and
/// those that are rarely needed.
#[repr(C)]
pub(crate) struct Shard<K, V> {
    index: Index<SlotTable>,
    slab: Slab<Entry<K, V>>,
    metadata: Option<Box<MetadataTable>>,
    inserts: u64,
    policy: AnyPolicy,
    /// `true` while the index, or anything that is stored by slot, moves to larger storage.
    is_growing: bool,
    expiry: Expiry,
    read_times: Option<ReadTimes>,
    /// The number of removals by cause. Evictions are not counted: [`add_to`](Self::add_to) computes their number.
    removals: [u64; 6],
    setup: Setup,
    /// The epoch of the tags when the last search for invalidated entries began.
    searched_epoch: u64,
    /// The number of times that entries were given other slots.
    renumberings: u32,
}

impl<K, V> Shard<K, V> {
    /// Creates a shard without entries.
    pub(crate) fn new(setup: Setup, policy: AnyPolicy) -> Self {
        Self {
            index: Index::default(),
            slab: Slab::new(),
            metadata: setup.metadata(),
            inserts: 0,
            policy,
            is_growing: false,
            expiry: Expiry::new(setup.grace),
            read_times: setup.has_read_times.then(ReadTimes::new),
            removals: [0; 6],
            setup,
            searched_epoch: 0,
            renumberings: 0,
        }
    }

    /// Returns the number of entries.
    pub(crate) fn len(&self) -> u64 {
        self.slab.len().into()
    }

    /// Returns one more than the highest slot in use.
    pub(crate) fn end(&self) -> u32 {
        self.slab.end()
    }

    /// Returns the number of times that entries were given other slots, so that a walk over the slots has to begin
    /// again.
    pub(crate) fn renumberings(&self) -> u32 {
        self.renumberings
    }

    /// Returns the time of the policy's clock.
    pub(crate) fn time(&self) -> u32 {
        self.policy.time()
    }

    /// Returns the number of entries that were stored so far.
    pub(crate) fn inserts(&self) -> u64 {
        self.inserts
    }

    /// Returns the weight of an entry.
    fn weight(&self, slot: u32) -> u64 {
        let metadata = self.metadata.as_ref();
        metadata.map_or(1, |metadata| metadata.weight(slot))
    }

    /// Returns the sum of the weights of all entries.
    fn total_weight(&self) -> u64 {
        let metadata = self.metadata.as_ref();
        let total = metadata.and_then(|metadata| metadata.total_weight());
        total.unwrap_or(self.len())
    }

    /// Adds the counts of this shard to `stats`.
    pub(crate) fn add_to(&self, stats: &mut Stats) {
        let [replaced, removed, expired, _, cleared, invalidated] = self.removals;
        stats.inserts += self.inserts;
        stats.replaced += replaced;
        stats.removed += removed;
        stats.expired += expired;
        stats.evicted += self.inserts - self.len() - self.removals.iter().sum::<u64>();
        stats.cleared += cleared;
        stats.invalidated += invalidated;
        stats.entries += self.len();
    }

    /// Checks all invariants that hold between writes, and returns the total weight.
    ///
    /// # Panics
    ///
    /// Panics if an invariant does not hold.
    pub(crate) fn validate(&self) -> u64 {
        assert_eq!(self.index.len(), self.slab.len() as usize);
        for slot in self.index.iter() {
            assert!(self.slab.get(slot).is_some(), "slot {slot} is vacant");
        }
        for (slot, entry) in self.slab.iter() {
            let hash = entry.hash.cell();
            let found = self.index.find(hash, |other| (other == slot).then_some(()));
            assert!(found.is_some(), "slot {slot} is not in the index");
        }
        self.policy.validate(&self.slab);
        let deadlines = self.slab.iter();
        self.expiry
            .validate(deadlines.map(|(slot, entry)| (slot, entry.deadline.load(Relaxed))));
        let weight = self.slab.iter().map(|(slot, _)| self.weight(slot)).sum();
        assert_eq!(weight, self.total_weight());
        weight
    }
}

impl<K, V> AllocatedBytes for Shard<K, V> {
    fn allocated_bytes(&self) -> usize {
        self.index.allocated_bytes()
            + self.slab.allocated_bytes()
            + self.metadata.allocated_bytes()
            + self.policy.allocated_bytes()
            + self.expiry.allocated_bytes()
            + self.read_times.allocated_bytes()
    }
}
