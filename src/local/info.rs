//! The size, the settings and the statistics of a cache.

use crate::local::shard::Shard;
use crate::local::{Bound, Inner, LocalCache};
use crate::single_flight::Bulkhead;
use crate::stats::Stats;
use crate::storage::allocated::{AllocatedBytes, arc_bytes};
use std::alloc::Layout;
use std::fmt;

impl<K, V, S> LocalCache<K, V, S> {
    /// Returns the number of entries, including expired ones that have not been removed yet. It never exceeds the
    /// capacity, except while [`set_capacity`](Self::set_capacity) lowers it.
    ///
    /// # Examples
    ///
    /// ```
    /// let cache = hotset::LocalCache::new(100);
    /// cache.insert("apple", 120);
    /// assert_eq!(cache.len(), 1);
    /// ```
    #[must_use]
    #[allow(clippy::cast_possible_truncation)]
    #[doc(alias("entry_count", "estimatedSize", "size", "estimated_size"))]
    pub fn len(&self) -> usize {
        let entries = match self.inner.bound {
            Bound::Weight => {
                let cells = self.inner.cells.iter();
                cells.map(|cell| cell.shard.read(Shard::len)).sum()
            }
            // Each entry weighs 1.
            Bound::Entries | Bound::None => self.inner.budget.used(),
        };
        entries as usize
    }

    /// Returns `true` if the cache contains no entries.
    ///
    /// # Examples
    ///
    /// ```
    /// let cache = hotset::LocalCache::new(100);
    /// assert!(cache.is_empty());
    /// cache.insert("apple", 120);
    /// assert!(!cache.is_empty());
    /// ```
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.weight() == 0
    }

    /// Returns the total weight of all entries. It never exceeds the budget, except while
    /// [`set_max_weight`](Self::set_max_weight) lowers it. Without a
    /// [weigher](crate::LocalCacheBuilder::weigher), each entry weighs 1.
    ///
    /// # Examples
    ///
    /// ```
    /// let pages = hotset::LocalCache::<u32, String>::builder()
    ///     .max_weight(1 << 20)
    ///     .weigher(|_, page| page.len() as u64)
    ///     .build()?;
    /// pages.insert(7, "hello".to_string());
    /// assert_eq!(pages.weight(), 5);
    /// # Ok::<(), hotset::BuildError>(())
    /// ```
    #[must_use]
    #[doc(alias("weighted_size", "weightedSize"))]
    pub fn weight(&self) -> u64 {
        self.inner.budget.used()
    }

    /// Returns the budget: the highest number of entries, or the highest total weight if there is a weigher. Returns
    /// `None` if the cache is unbounded.
    ///
    /// # Examples
    ///
    /// ```
    /// let cache: hotset::LocalCache<u32, u32> = hotset::LocalCache::new(100);
    /// assert_eq!(cache.capacity(), Some(100));
    /// cache.set_capacity(200)?;
    /// assert_eq!(cache.capacity(), Some(200));
    /// # Ok::<(), hotset::BuildError>(())
    /// ```
    #[must_use]
    #[doc(alias("max_capacity", "policy"))]
    pub fn capacity(&self) -> Option<u64> {
        (self.inner.bound != Bound::None).then(|| self.inner.budget.limit())
    }

    /// Returns the [name](crate::LocalCacheBuilder::name) of the cache, if it has one.
    ///
    /// # Examples
    ///
    /// ```
    /// let prices = hotset::LocalCache::<u64, u64>::builder().name("prices").capacity(100).build()?;
    /// assert_eq!(prices.name(), Some("prices"));
    /// # Ok::<(), hotset::BuildError>(())
    /// ```
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.inner.settings.name.as_deref()
    }

    /// Returns the statistics of the cache.
    ///
    /// # Examples
    ///
    /// ```
    /// let cache = hotset::LocalCache::new(100);
    /// cache.insert(1, "one");
    /// cache.get(&1);
    /// cache.get(&2);
    /// let stats = cache.stats();
    /// assert_eq!((stats.hits, stats.misses, stats.entries), (1, 1, 1));
    /// ```
    #[must_use]
    #[doc(alias("hits", "misses", "recordStats"))]
    pub fn stats(&self) -> Stats {
        let mut stats = self.inner.counters.snapshot();
        for cell in &self.inner.cells {
            cell.shard.read(|shard| shard.add_to(&mut stats));
        }
        if let Some(bulkhead) = &self.inner.bulkhead {
            stats.abandoned_loads += bulkhead.abandoned().1;
        }
        stats.weight = self.inner.budget.used();
        stats
    }
}

impl<K, V, S> LocalCache<K, V, S> {
    /// Returns an estimate of the memory that the cache has allocated, in bytes: for entries, the index, metadata,
    /// tags, the policy, statistics and loads in flight.
    ///
    /// Keys and values count with their own size (`size_of::<K>()` and `size_of::<V>()`), without the memory that they
    /// own, such as the text of a `String`. To estimate the total, add that memory. If a
    /// [weigher](crate::LocalCacheBuilder::weigher) returns it for each entry, the sum is [`weight`](Self::weight).
    ///
    /// The estimate is the sum of the sizes that the cache requested from the allocator. While the cache is not in use,
    /// it is exact to 256 bytes, which a test checks with each policy. Three things are not included:
    ///
    /// - The overhead of the allocator, which rounds sizes up: usually by less than 24 bytes, and in allocators with
    ///   size classes by up to a quarter. An entry without tags has no allocation of its own, and one with tags has
    ///   two.
    /// - The queues of callers that wait for loads, and removed entries that were not dropped yet.
    /// - The memory that closures of the builder and a [`Clock`](crate::Clock) own.
    ///
    /// The cache allocates memory in advance, and keeps it for later entries: see
    /// [`shrink_to_fit`](Self::shrink_to_fit). The resident memory of the process does not include pages of it that
    /// were never written to.
    ///
    /// # Blocking
    ///
    /// Locks one shard after the other, never two at once, and reads a few sizes of each, whatever the number of
    /// entries. Like a lookup, this waits for a write to the shard that is in progress, and delays writes as briefly.
    ///
    /// # Examples
    ///
    /// ```
    /// let pages = hotset::LocalCache::<u64, String>::builder()
    ///     .max_weight(1 << 20)
    ///     .weigher(|_, page| page.capacity() as u64)
    ///     .build()?;
    /// pages.insert(7, "hello ".repeat(1_000));
    ///
    /// let total = pages.memory_usage() as u64 + pages.weight();
    /// assert!(total > 6_000);
    /// # Ok::<(), hotset::BuildError>(())
    /// ```
    #[must_use]
    #[doc(alias = "memory_used")]
    pub fn memory_usage(&self) -> usize {
        let inner = &*self.inner;
        let shards = inner.cells.iter().map(|cell| {
            let shard = cell.shard.read(Shard::allocated_bytes);
            shard + cell.in_flight.allocated_bytes()
        });
        let bulkhead = inner.bulkhead.as_ref().map_or(0, |bulkhead| {
            arc_bytes(Layout::new::<Bulkhead>()) + bulkhead.allocated_bytes()
        });
        arc_bytes(Layout::new::<Inner<K, V, S>>())
            + inner.cells.allocated_bytes()
            + shards.sum::<usize>()
            + inner.settings.allocated_bytes()
            + inner.counters.allocated_bytes()
            + inner.tags.allocated_bytes()
            + bulkhead
    }
}

impl<K, V, S> fmt::Debug for LocalCache<K, V, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalCache")
            .field("name", &self.name())
            .field("capacity", &self.capacity())
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}

/// Checks the invariants of a cache, for tests. No other call may be in progress.
///
/// # Panics
///
/// Panics if an invariant does not hold.
pub fn validate<K: Eq, V, S>(cache: &LocalCache<K, V, S>) {
    let inner = &cache.inner;
    let weights = inner.cells.iter().map(|cell| {
        assert_eq!(cell.in_flight.len(), 0, "a load is still in flight");
        cell.shard.read(Shard::validate)
    });
    assert_eq!(weights.sum::<u64>(), inner.budget.used());
    assert!(inner.budget.used() <= inner.budget.limit());
}
