//! Tags: names that entries share, so that any number of entries can be invalidated at once.
//!
//! The *epoch* of a cache is the number of invalidations so far. An entry with tags stores the epoch in which its load
//! began, and its tags. A tag stores the epoch of its last invalidation. So an invalidation is one store, and a hit on
//! an entry with tags compares the two. A load records its epoch when it begins, before it is known which tags it
//! returns.
//!
//! The L1 of a tiered cache also has a *minimum live epoch* for each partition: an entry of an older epoch is dead, with
//! or without tags.

use crate::local::DefaultHasher;
use crate::local::shard::epoch_column::MinLiveEpochs;
use crate::storage::allocated::{AllocatedBytes, arc_bytes};
use hashbrown::HashMap;
use parking_lot::{Mutex, MutexGuard};
use std::alloc::Layout;
use std::sync::Arc;
use std::sync::atomic::{
    AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};

/// A tag that entries have, or that was invalidated recently.
struct Tag {
    name: Arc<str>,
    /// The epoch of the last invalidation.
    invalidated: AtomicU64,
}

/// The tags of a cache.
pub(crate) struct Tags {
    epoch: Arc<AtomicU64>,
    min_live: Arc<MinLiveEpochs>,
    known: Mutex<KnownTags>,
}

/// The tags of entries, and those that were invalidated recently, because loads in flight may still return them.
struct KnownTags {
    by_name: HashMap<Arc<str>, Arc<Tag>, DefaultHasher>,
    /// The size of all tags and of their names, in bytes. It is counted here, because a sum over all tags would take
    /// long.
    tag_bytes: usize,
    /// The epoch of the last invalidation of a tag that is not known any more.
    last_unknown_invalidation: u64,
    /// The number of tags at which those that no entry has are removed.
    cleanup_len: usize,
}

/// The lowest number of tags at which those that no entry has are removed.
const MIN_CLEANUP_LEN: usize = 64;

impl Tags {
    /// Creates an empty set of tags, in epoch 0, for a cache with this number of partitions.
    pub(crate) fn new(partitions: u16) -> Self {
        Self {
            epoch: Arc::default(),
            min_live: Arc::new(MinLiveEpochs::new(partitions)),
            known: Mutex::new(KnownTags {
                by_name: HashMap::default(),
                tag_bytes: 0,
                last_unknown_invalidation: 0,
                cleanup_len: MIN_CLEANUP_LEN,
            }),
        }
    }

    /// Returns the number of invalidations so far. It is read before a load begins. An invalidation that returned
    /// before is always included.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch.load(Acquire)
    }

    /// Returns the counter of the epoch, for the shards.
    pub(crate) fn shared_epoch(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.epoch)
    }

    /// Returns the minimum live epochs, for the shards.
    pub(crate) fn shared_min_live(&self) -> Arc<MinLiveEpochs> {
        Arc::clone(&self.min_live)
    }

    /// Returns the tags of an entry whose load began in `epoch`, or `None` if there are no names.
    pub(crate) fn entry_tags(&self, names: &[Arc<str>], epoch: u64) -> Option<Box<EntryTags>> {
        if names.is_empty() {
            return None;
        }
        let mut known = self.known.lock();
        let tags = names.iter().map(|name| known.get_or_add(name)).collect();
        Some(Box::new(EntryTags { epoch, tags }))
    }

    /// Invalidates all entries with this tag.
    pub(crate) fn invalidate(&self, name: &str) {
        let mut known = self.known.lock();
        let tag = match known.by_name.get(name) {
            Some(tag) => Arc::clone(tag),
            None => known.get_or_add(&Arc::from(name)),
        };
        self.raise_epoch(|epoch| tag.invalidated.store(epoch, Relaxed), &known);
    }

    /// Invalidates all entries, in a cache whose shards have minimum live epochs.
    #[cfg(feature = "redis")]
    pub(crate) fn invalidate_all(&self) {
        self.raise_epoch(|epoch| self.min_live.raise_all(epoch), &self.known.lock());
    }

    /// Invalidates the entries of one partition, like [`invalidate_all`](Self::invalidate_all).
    #[cfg(feature = "redis")]
    pub(crate) fn invalidate_partition(&self, partition: usize) {
        self.raise_epoch(
            |epoch| self.min_live.raise(partition, epoch),
            &self.known.lock(),
        );
    }

    /// Begins an epoch without an invalidation, so that later loads are distinguished from earlier ones.
    #[cfg(feature = "redis")]
    pub(crate) fn begin_epoch(&self) {
        self.raise_epoch(|_| {}, &self.known.lock());
    }

    /// Begins an epoch and calls `store` with it. The lock is held, so that epochs rise. A thread that sees the new
    /// epoch also sees what `store` has stored.
    fn raise_epoch(&self, store: impl FnOnce(u64), _: &MutexGuard<'_, KnownTags>) {
        let epoch = self.epoch.load(Relaxed) + 1;
        store(epoch);
        self.epoch.store(epoch, Release);
    }
}

impl KnownTags {
    /// Returns a tag, which is added if it is not known.
    fn get_or_add(&mut self, name: &Arc<str>) -> Arc<Tag> {
        if let Some(tag) = self.by_name.get(name) {
            return Arc::clone(tag);
        }
        if self.by_name.len() >= self.cleanup_len {
            self.remove_unused();
        }
        let tag = Arc::new(Tag {
            name: Arc::clone(name),
            invalidated: AtomicU64::new(self.last_unknown_invalidation),
        });
        self.tag_bytes += tag_bytes(name);
        self.by_name.insert(Arc::clone(name), Arc::clone(&tag));
        tag
    }

    /// Removes tags that no entry has. A load in flight that returns one of them counts as outdated if it began before
    /// the last invalidation of any of them.
    fn remove_unused(&mut self) {
        let last = &mut self.last_unknown_invalidation;
        self.by_name.retain(|_, tag| {
            let is_used = Arc::strong_count(tag) > 1;
            if !is_used {
                self.tag_bytes -= tag_bytes(&tag.name);
                *last = (*last).max(tag.invalidated.load(Relaxed));
            }
            is_used
        });
        self.cleanup_len = (self.by_name.len() * 2).max(MIN_CLEANUP_LEN);
    }
}

/// Returns the size of a tag with this name, in bytes.
fn tag_bytes(name: &str) -> usize {
    arc_bytes(Layout::new::<Tag>()) + arc_bytes(Layout::for_value(name))
}

impl AllocatedBytes for Tags {
    fn allocated_bytes(&self) -> usize {
        let epochs = arc_bytes(Layout::new::<AtomicU64>()) + self.min_live.allocated_bytes();
        let known = self.known.lock();
        epochs + known.by_name.allocated_bytes() + known.tag_bytes
    }
}

/// The tags of one entry.
#[derive(Clone)]
pub(crate) struct EntryTags {
    /// The epoch in which the load of the entry began.
    epoch: u64,
    tags: Box<[Arc<Tag>]>,
}

impl EntryTags {
    /// Checks whether none of the tags was invalidated since the load began. Relaxed suffices, because a caller that
    /// comes after an invalidation sees its store.
    pub(crate) fn is_current(&self) -> bool {
        let mut tags = self.tags.iter();
        tags.all(|tag| tag.invalidated.load(Relaxed) <= self.epoch)
    }

    /// Returns the names of the tags.
    pub(crate) fn names(&self) -> impl Iterator<Item = Arc<str>> {
        self.tags.iter().map(|tag| Arc::clone(&tag.name))
    }
}

impl AllocatedBytes for EntryTags {
    fn allocated_bytes(&self) -> usize {
        // The tags themselves belong to the table of the cache.
        self.tags.allocated_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<Arc<str>> {
        names.iter().map(|name| Arc::from(*name)).collect()
    }

    #[test]
    fn invalidation_makes_entries_outdated_whose_load_began_before_it() {
        let tags = Tags::new(1);
        let early = tags.epoch();
        let entry = tags.entry_tags(&names(&["a", "b"]), early).unwrap();
        let other = tags.entry_tags(&names(&["c"]), early).unwrap();
        assert!(entry.is_current());
        tags.invalidate("b");
        assert!(!entry.is_current() && other.is_current());
        assert!(!tags.entry_tags(&names(&["b"]), early).unwrap().is_current());
        assert!(
            tags.entry_tags(&names(&["b"]), tags.epoch())
                .unwrap()
                .is_current()
        );
        assert!(tags.entry_tags(&[], early).is_none());
    }

    #[test]
    fn known_tags_are_bounded_and_early_loads_of_removed_tags_are_outdated() {
        let tags = Tags::new(1);
        let used = tags.entry_tags(&names(&["used"]), tags.epoch()).unwrap();
        let early = tags.epoch();
        for n in 0..10_000 {
            tags.invalidate(&format!("tag {n}"));
        }
        assert!(tags.known.lock().by_name.len() <= 2 * MIN_CLEANUP_LEN);
        assert!(used.is_current());
        assert!(
            !tags
                .entry_tags(&names(&["tag 0"]), early)
                .unwrap()
                .is_current()
        );
        assert!(
            tags.entry_tags(&names(&["tag 0"]), tags.epoch())
                .unwrap()
                .is_current()
        );
        tags.invalidate("used");
        assert!(!used.is_current());
    }
}
