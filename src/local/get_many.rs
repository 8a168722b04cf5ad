//! Reads of several entries, whose loads from memory overlap.

use crate::local::{KeyLocation, LocalCache};
use crate::sync::thread_slot::ThreadSlot;
use equivalent::Equivalent;
use std::hash::{BuildHasher, Hash};

/// The number of keys whose loads from memory overlap. Processors keep track of 10 to 24 loads at a time.
const GROUP: usize = 16;
/// The size of all entries in bytes from which on they are prefetched. The second-level cache of most processors is
/// about as large.
const MIN_PREFETCHED: usize = 1 << 20;

impl<K: Eq + Hash, V, S: BuildHasher> LocalCache<K, V, S> {
    /// Returns clones of the values for several keys, in their order, with `None` for each key that is absent or
    /// expired.
    ///
    /// In a cache that is much larger than the processor's caches, this is faster than a [`get`](Self::get) for each
    /// key, because the processor waits for several entries at once.
    ///
    /// [`get_many_or_load`](Self::get_many_or_load) also loads the missing values.
    ///
    /// # Examples
    ///
    /// ```
    /// let cache = hotset::LocalCache::<String, u32>::new(100);
    /// cache.insert("one".to_string(), 1);
    /// assert_eq!(cache.get_many(["one", "two"]), [Some(1), None]);
    /// ```
    #[doc(alias("get_all_present", "getAllPresent"))]
    pub fn get_many<'q, Q>(&self, keys: impl IntoIterator<Item = &'q Q>) -> Vec<Option<V>>
    where
        Q: Hash + Equivalent<K> + ?Sized + 'q,
        V: Clone,
    {
        let mut keys = keys.into_iter();
        let mut values = Vec::with_capacity(keys.size_hint().0);
        let mut group = Vec::with_capacity(GROUP);
        loop {
            let located = keys.by_ref().map(|key| (self.location(key), key));
            group.extend(located.take(GROUP));
            if group.is_empty() {
                return values;
            }
            self.prefetch(&group);
            let get = |(location, key): (_, &Q)| self.get_at(&location, key);
            values.extend(group.drain(..).map(get));
        }
    }

    /// Begins to load the entries of several keys from memory, if the cache is large.
    fn prefetch<Q: ?Sized>(&self, group: &[(KeyLocation<'_, K, V>, &Q)]) {
        let thread = ThreadSlot::current();
        let is_large = |(location, _): &(KeyLocation<'_, K, V>, _)| {
            let shard = location.cell.shard.publish(thread);
            shard.is_some_and(|shard| shard.memory() * self.inner.cells.len() >= MIN_PREFETCHED)
        };
        if group.len() < 2 || !is_large(&group[0]) {
            return;
        }
        // A shard whose reader cannot be published is left out, because its lock costs more than the loads.
        for (location, _) in group {
            if let Some(shard) = location.cell.shard.publish(thread) {
                shard.prefetch_index(location.hash);
            }
        }
        for (location, _) in group {
            if let Some(shard) = location.cell.shard.publish(thread) {
                shard.prefetch_entry(location.hash);
            }
        }
    }
}
