//! Changes of the bound of a cache that is in use.

use crate::error::BuildError;
use crate::local::removal::Removals;
use crate::local::{Bound, LocalCache, ShardCell};
use crate::storage::work_slice::WorkSlice;
use crate::sync::reentrancy::assert_no_lock_held;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::thread;

/// The number of entries that are evicted from one shard before the next one has its turn. All shards then lose about
/// the same part of their entries.
const EVICTIONS_PER_TURN: u32 = 64;

impl<K, V, S> LocalCache<K, V, S> {
    /// Changes the maximum number of entries of a cache that is in use.
    ///
    /// A higher capacity is available at once. With a lower one, the coldest entries of all shards are evicted, and
    /// when the call returns, the cache contains at most `entries` entries. If several threads change the capacity at
    /// the same time, the last change counts.
    ///
    /// The number of [shards](crate::LocalCacheBuilder::shards) does not change. Memory for evicted entries is kept for
    /// later ones: [`shrink_to_fit`](Self::shrink_to_fit) frees it.
    ///
    /// # Errors
    ///
    /// Returns an error if the cache was not built with [`capacity`](crate::LocalCacheBuilder::capacity).
    ///
    /// # Panics
    ///
    /// Panics if a listener or the `Drop` of a key or value does, after all entries in excess were evicted.
    ///
    /// # Blocking
    ///
    /// Evicts on this thread, at most a few hundred slots under each hold of a shard's lock.
    ///
    /// # Examples
    ///
    /// ```
    /// let cache: hotset::LocalCache<u64, u64> = hotset::LocalCache::new(1_000);
    /// (0..1_000).for_each(|key| cache.insert(key, key));
    /// cache.set_capacity(100)?;
    /// assert_eq!(cache.len(), 100);
    /// # Ok::<(), hotset::BuildError>(())
    /// ```
    #[doc(alias("resize", "setMaximum"))]
    pub fn set_capacity(&self, entries: usize) -> Result<(), BuildError> {
        if self.inner.bound != Bound::Entries {
            return Err(BuildError::OtherBound("set_capacity"));
        }
        self.set_limit(entries as u64);
        Ok(())
    }

    /// Changes the maximum total weight of a cache that is in use. Like [`set_capacity`](Self::set_capacity) otherwise.
    ///
    /// # Errors
    ///
    /// Returns an error if the cache was not built with [`max_weight`](crate::LocalCacheBuilder::max_weight).
    ///
    /// # Panics
    ///
    /// See [`set_capacity`](Self::set_capacity).
    ///
    /// # Blocking
    ///
    /// See [`set_capacity`](Self::set_capacity).
    ///
    /// # Examples
    ///
    /// ```
    /// let names = hotset::LocalCache::<u64, String>::builder()
    ///     .max_weight(1_000)
    ///     .weigher(|_, name| name.len() as u64)
    ///     .build()?;
    /// (0..100).for_each(|key| names.insert(key, "ten bytes.".to_string()));
    /// names.set_max_weight(505)?;
    /// assert_eq!((names.len(), names.weight()), (50, 500));
    /// # Ok::<(), hotset::BuildError>(())
    /// ```
    #[doc(alias("resize", "setMaximum", "set_capacity"))]
    pub fn set_max_weight(&self, weight: u64) -> Result<(), BuildError> {
        if self.inner.bound != Bound::Weight {
            return Err(BuildError::OtherBound("set_max_weight"));
        }
        self.set_limit(weight);
        Ok(())
    }

    /// Changes the limit of the budget, and evicts entries until it holds.
    fn set_limit(&self, limit: u64) {
        // Before the limit is changed, because an eviction would panic, and the limit would stay exceeded.
        assert_no_lock_held("change the bound of");
        self.inner.budget.set_limit(limit);
        let mut panicked = None;
        while self.inner.budget.is_exceeded() {
            let mut has_evicted = false;
            for cell in &self.inner.cells {
                let mut removals = self.evict_turn(cell);
                has_evicted |= removals.len() > 0;
                // The rest is evicted after a panic too. Insertions would only replace it.
                let result = catch_unwind(AssertUnwindSafe(|| removals.finish()));
                panicked = panicked.or(result.err());
            }
            if !has_evicted {
                // Insertions in progress have reserved the rest. They give it back or spend it.
                thread::yield_now();
            }
        }
        if let Some(panic) = panicked {
            resume_unwind(panic);
        }
    }

    /// Evicts entries of one shard while the budget is exceeded, and returns them.
    fn evict_turn(&self, cell: &ShardCell<K, V>) -> Removals<'_, K, V> {
        let budget = &self.inner.budget;
        let mut removals = self.removals();
        if !budget.is_exceeded() {
            return removals;
        }
        let now = self.inner.settings.clock.now();
        let mut work = WorkSlice::new();
        let mut shard = cell.shard.write();
        for _ in 0..EVICTIONS_PER_TURN {
            let Some(freed) = shard.evict(now, &mut work, &mut removals) else {
                break;
            };
            budget.release(freed);
            if work.is_used_up() || !budget.is_exceeded() {
                break;
            }
        }
        drop(shard);
        removals
    }
}
