//! The size, the settings and the statistics of a cache.

use crate::local::shard::Shard;
use crate::local::{Bound, LocalCache};
use crate::stats::Stats;
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
