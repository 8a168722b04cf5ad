//! Stored entries, and new entries before they are stored.

use crate::clock::Nanos;
use crate::entry::Loaded;
use crate::local::shard::hash::{KeyHash, StoredHash};
use crate::local::shard::metadata::{EntryMetadata, MetadataTable};
use crate::local::shard::slab::Slab;
use crate::local::tags::EntryTags;
use crate::policy::{EntryBounds, PolicyStates};
use crate::storage::slot_table::CellHash;
use std::num::NonZero;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

/// A stored entry. The alignment keeps a small entry within one cache line.
#[repr(align(32))]
pub(super) struct Entry<K, V> {
    pub(super) key: K,
    pub(super) value: V,
    /// The time from which the entry counts as expired. In a cache with a time to idle, hits extend it.
    pub(super) deadline: AtomicU64,
    /// The policy's state of the entry.
    pub(super) policy_state: AtomicU32,
    pub(super) hash: StoredHash,
}

/// An entry to be stored.
pub(crate) struct NewEntry<K, V> {
    pub(crate) hash: KeyHash,
    pub(crate) key: K,
    pub(crate) value: V,
    pub(crate) deadline: Nanos,
    pub(crate) metadata: EntryMetadata,
}

/// The settings that an entry was stored with.
#[derive(Default)]
pub(crate) struct EntrySettings {
    /// The latest deadline to which hits may extend the entry's deadline.
    pub(crate) latest_deadline: Option<NonZero<Nanos>>,
    /// The weight, if the caller set it. Otherwise the weigher determines it.
    pub(crate) weight: Option<u64>,
    pub(crate) tags: Option<Box<EntryTags>>,
    /// The duration of the load, in nanoseconds.
    pub(crate) load_time: Nanos,
}

impl EntrySettings {
    /// Checks whether the entry has neither expired nor been invalidated since its settings were read.
    pub(crate) fn is_current(&self, now: Nanos) -> bool {
        let is_live = |deadline: NonZero<Nanos>| now < deadline.get();
        let has_current_tags = self.tags.as_ref().is_none_or(|tags| tags.is_current());
        has_current_tags && self.latest_deadline.is_none_or(is_live)
    }

    /// Gives a reloaded value the weight and the tags of the entry that it replaces.
    pub(crate) fn pass_on<V>(&self, loaded: &mut Loaded<V>) {
        loaded.weight = self.weight;
        let tags = self.tags.iter().flat_map(|tags| tags.names());
        loaded.tags = tags.collect();
    }
}

impl<K, V> Slab<Entry<K, V>> {
    /// Returns a function from a slot to the hash of its entry, for the index.
    #[inline]
    pub(super) fn hash_of(&self) -> impl Fn(u32) -> CellHash + '_ {
        |slot| {
            let entry = self.get(slot).expect("a slot in the index is occupied");
            entry.hash.cell()
        }
    }
}

/// The entries of a shard that does not grow, and whose entries weigh the same. Accesses need no second lookup for
/// entries that have not moved yet.
pub(super) struct MovedEntries<'a, K, V> {
    pub(super) slab: &'a Slab<Entry<K, V>>,
    /// The time, or `None` if no entry has a deadline.
    pub(super) now: Option<Nanos>,
}

impl<K, V> PolicyStates for MovedEntries<'_, K, V> {
    #[inline(always)]
    fn state(&self, slot: u32) -> Option<&AtomicU32> {
        Some(&self.slab.get_moved(slot)?.policy_state)
    }

    #[inline(always)]
    fn hash(&self, slot: u32) -> u32 {
        let entry = self.slab.get_moved(slot);
        entry.map_or(0, |entry| entry.hash.bits())
    }

    #[inline(always)]
    fn now(&self) -> Option<Nanos> {
        self.now
    }

    fn bounds(&self, slot: u32) -> EntryBounds {
        let entry = self.slab.get_moved(slot);
        bounds_of(entry, 1, self.now.unwrap_or(0))
    }
}

/// Returns the bounds of an entry with this weight.
fn bounds_of<K, V>(entry: Option<&Entry<K, V>>, weight: u64, now: Nanos) -> EntryBounds {
    let deadline = entry.map_or(0, |entry| entry.deadline.load(Relaxed));
    EntryBounds {
        weight,
        lifetime: deadline.saturating_sub(now),
    }
}

impl<K, V> PolicyStates for Slab<Entry<K, V>> {
    #[inline]
    fn state(&self, slot: u32) -> Option<&AtomicU32> {
        Some(&self.get(slot)?.policy_state)
    }

    #[inline]
    fn hash(&self, slot: u32) -> u32 {
        self.get(slot).map_or(0, |entry| entry.hash.bits())
    }
}

/// The entries of a shard whose entries have weights or deadlines.
pub(super) struct BoundedEntries<'a, K, V> {
    pub(super) slab: &'a Slab<Entry<K, V>>,
    pub(super) metadata: Option<&'a MetadataTable>,
    pub(super) now: Nanos,
}

impl<K, V> PolicyStates for BoundedEntries<'_, K, V> {
    #[inline]
    fn state(&self, slot: u32) -> Option<&AtomicU32> {
        self.slab.state(slot)
    }

    #[inline]
    fn hash(&self, slot: u32) -> u32 {
        self.slab.hash(slot)
    }

    fn now(&self) -> Option<Nanos> {
        Some(self.now)
    }

    fn bounds(&self, slot: u32) -> EntryBounds {
        let weight = self.metadata.map_or(1, |metadata| metadata.weight(slot));
        bounds_of(self.slab.get(slot), weight, self.now)
    }
}
