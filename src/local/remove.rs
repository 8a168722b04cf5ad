//! Removals and invalidations by callers, and the removal of dead entries.

use crate::local::removal::{RemovalCause, Removals};
use crate::local::shard::entry::EntrySettings;
use crate::local::shard::{FoundDead, Shard};
use crate::local::walk::{Span, Walk};
use crate::local::{KeyLocation, LocalCache, ShardCell};
use crate::single_flight::{Leader, Outdated};
use crate::stats::Count;
use crate::storage::work_slice::WorkSlice;
use equivalent::Equivalent;
use std::hash::{BuildHasher, Hash};

/// The number of blocks of 32 slots that `remove_expired` visits under one hold of a shard's lock.
const BLOCKS_PER_HOLD: u32 = 32;

impl<K: Eq + Hash, V, S: BuildHasher> LocalCache<K, V, S> {
    /// Removes the entry of `key`, if there is one.
    ///
    /// Loads of the key that are in flight do not store their results. [`remove`](Self::remove) returns the value as
    /// well.
    ///
    /// # Examples
    ///
    /// ```
    /// let cache = hotset::LocalCache::new(100);
    /// cache.insert("apple", 120);
    /// cache.invalidate("apple");
    /// assert_eq!(cache.get("apple"), None);
    /// ```
    #[doc(alias = "delete")]
    pub fn invalidate<Q>(&self, key: &Q)
    where
        Q: Hash + Equivalent<K> + ?Sized,
    {
        let mut removals = self.removals();
        let location = self.location(key);
        let cause = RemovalCause::Removed;
        // Without a leader nothing is outdated.
        let _ = self.remove_entry(&location, key, cause, None, None, &mut removals);
        removals.finish();
    }

    /// Removes the entry of `key`. Returns its value, or `None` if the key was absent or expired.
    ///
    /// Loads of the key that are in flight do not store their results.
    ///
    /// # Examples
    ///
    /// ```
    /// let cache = hotset::LocalCache::new(100);
    /// cache.insert("apple", 120);
    /// assert_eq!(cache.remove("apple"), Some(120));
    /// assert_eq!(cache.remove("apple"), None);
    /// ```
    #[doc(alias("pop", "take"))]
    pub fn remove<Q>(&self, key: &Q) -> Option<V>
    where
        Q: Hash + Equivalent<K> + ?Sized,
        V: Clone,
    {
        let mut removals = self.removals();
        let location = self.location(key);
        let cause = RemovalCause::Removed;
        let result = self.remove_entry(&location, key, cause, None, None, &mut removals);
        // The first removed entry is the key's own, if there was one.
        let removed = removals.finish_with_value();
        let (value, cause) = removed.filter(|_| result.unwrap_or(false))?;
        (cause == RemovalCause::Removed).then_some(value)
    }

    /// Invalidates every entry that was stored with this [tag](crate::Loaded::tags). Loads in flight that return the
    /// tag do not store their results.
    ///
    /// The call takes the same short time for any number of entries. The entries are never served again. Their room is
    /// reclaimed by later writes to the cache, or by [`remove_expired`](Self::remove_expired).
    ///
    /// The tags of a load in flight are not known yet, so later callers do not wait for a load that began before the
    /// invalidation. The first of them starts another load, and the others wait for that one.
    ///
    /// # Examples
    ///
    /// ```
    /// use hotset::{Loaded, LocalCache};
    ///
    /// let pages: LocalCache<&str, u64> = LocalCache::new(100);
    /// pages.insert_loaded("/users", Loaded::new(1).tags(["user 7", "user 8"]));
    /// pages.insert_loaded("/users/8", Loaded::new(2).tags(["user 8"]));
    /// pages.invalidate_tag("user 7");
    /// assert!(!pages.contains_key("/users") && pages.contains_key("/users/8"));
    /// ```
    pub fn invalidate_tag(&self, tag: &str) {
        self.inner.tags.invalidate(tag);
    }

    /// Removes all entries, one shard after the other, and frees their memory. Loads in flight do not store their
    /// results.
    ///
    /// A shard's lock is held only briefly, for any number of entries. They are dropped, and reported to the listener,
    /// after it is released.
    ///
    /// # Panics
    ///
    /// Panics if a listener or the `Drop` of a key or value does. The shards after that one are then not cleared.
    ///
    /// # Examples
    ///
    /// ```
    /// let cache = hotset::LocalCache::new(100);
    /// cache.insert("apple", 120);
    /// cache.clear();
    /// assert!(cache.is_empty());
    /// ```
    #[doc(alias("invalidate_all", "invalidateAll", "drain"))]
    pub fn clear(&self) {
        for cell in &self.inner.cells {
            let now = self.inner.settings.clock.now();
            let mut removals = self.removals();
            let mut shard = cell.shard.write();
            cell.in_flight.revoke_all();
            let cleared = shard.clear(&self.inner.budget);
            drop(shard);
            let dead = cleared.remove_all(now, &mut removals);
            if dead != FoundDead::default() {
                cell.shard.write().recount(&dead);
            }
            removals.finish();
        }
    }

    /// Frees memory that was allocated for more entries than the cache contains now, for instance after a mass removal.
    ///
    /// [`clear`](Self::clear) frees memory by itself, and so does a shard whose last entry is removed. Otherwise a
    /// cache keeps memory for the highest number of entries that it ever had, because it usually needs that memory
    /// again.
    ///
    /// # Blocking
    ///
    /// One shard after the other, this moves all entries under the shard's exclusive lock, unless there is little
    /// memory to free. It takes about 0.2 s for each million entries that a shard has or had. Reads and writes of that
    /// shard wait meanwhile. Call it when the cache is idle, and give the cache several
    /// [shards](crate::LocalCacheBuilder::shards), which it has by default.
    ///
    /// # Examples
    ///
    /// ```
    /// let cache: hotset::LocalCache<u64, u64> = hotset::LocalCache::new(100_000);
    /// (0..100_000).for_each(|key| cache.insert(key, key));
    /// cache.retain(|key, _| key % 1_000 == 0);
    /// cache.shrink_to_fit();
    /// assert_eq!(cache.get(&5_000), Some(5_000));
    /// ```
    pub fn shrink_to_fit(&self) {
        for cell in &self.inner.cells {
            let mut removals = self.removals();
            cell.shard.write().shrink(&mut removals);
        }
    }

    /// Removes all entries that are past their deadline (by more than `stale_if_error`, if that is set) or whose tags
    /// were invalidated. Returns the number of removed entries.
    ///
    /// Writes to a cache remove such entries too, a few at a time. Call this if the cache is not written to. The lock
    /// of a shard is held for 1,024 slots at a time.
    ///
    /// # Panics
    ///
    /// Panics if a listener or the `Drop` of a key or value does. The slots after that one are then left for the next
    /// call.
    ///
    /// # Examples
    ///
    /// ```
    /// use hotset::{LocalCache, ManualClock};
    /// use std::time::Duration;
    ///
    /// let clock = ManualClock::new();
    /// let cache = LocalCache::builder().capacity(100).clock(clock.clone()).build()?;
    /// cache.insert_with_ttl("apple", 120, Duration::from_secs(60));
    /// clock.advance(Duration::from_secs(60));
    /// assert_eq!((cache.get("apple"), cache.len()), (None, 1));
    /// assert_eq!(cache.remove_expired(), 1);
    /// assert!(cache.is_empty());
    /// # Ok::<(), hotset::BuildError>(())
    /// ```
    #[allow(clippy::must_use_candidate)]
    #[doc(alias("run_pending_tasks", "cleanUp", "clean_up"))]
    pub fn remove_expired(&self) -> usize {
        self.inner
            .cells
            .iter()
            .map(|cell| self.remove_expired_of(cell))
            .sum()
    }

    /// Removes the expired and invalidated entries of one shard, and returns their number.
    fn remove_expired_of(&self, cell: &ShardCell<K, V>) -> usize {
        let now = self.inner.settings.clock.now();
        let mut left = cell.shard.read(Shard::blocks);
        let mut expired = 0;
        while left > 0 {
            let slice = left.min(BLOCKS_PER_HOLD);
            left -= slice;
            let mut removals = self.removals();
            let freed = |weight| self.inner.budget.release(weight);
            let work = &mut WorkSlice::new();
            let more = cell
                .shard
                .write()
                .sweep(slice, now, freed, work, &mut removals);
            expired += removals.len();
            removals.finish();
            if !more {
                break;
            }
        }
        expired
    }

    /// Removes the entry of a key, unless `leader` is given and outdated, or the entry that it has read, which had the
    /// settings `read`, has expired or was invalidated since. Returns whether there was an entry.
    ///
    /// # Errors
    ///
    /// Returns an error if the leader or what it has read is outdated. Nothing is then removed.
    pub(crate) fn remove_entry<Q>(
        &self,
        location: &KeyLocation<'_, K, V>,
        key: &Q,
        cause: RemovalCause,
        leader: Option<&mut Leader<'_, K, V>>,
        read: Option<&EntrySettings>,
        removals: &mut Removals<'_, K, V>,
    ) -> Result<bool, Outdated>
    where
        Q: Hash + Equivalent<K> + ?Sized,
    {
        let now = self.inner.settings.clock.now();
        let mut shard = location.cell.shard.write();
        // Checked first, because the write revokes loads.
        if read.is_some_and(|read| !read.is_current(now)) {
            self.inner.counters.count(Count::Outdated);
            return Err(Outdated);
        }
        let key_write = self.begin_write(location, key, leader)?;
        let budget = &self.inner.budget;
        let removed = shard.remove(location.hash, key, cause, budget, now, removals);
        key_write.finish();
        Ok(removed)
    }
}

impl<K, V, S> LocalCache<K, V, S>
where
    K: Eq + Hash + Clone,
    V: Clone,
    S: BuildHasher,
{
    /// Removes the entries for which `keep` returns `false`.
    ///
    /// `keep` is called without a lock, once for each live entry. It is called again for an entry that is written to
    /// meanwhile, and may be called again for all entries if [`shrink_to_fit`](Self::shrink_to_fit) runs meanwhile. A
    /// call counts neither as a lookup nor as a use. Expired entries are removed, also those that
    /// [`stale_if_error`](crate::LocalCacheBuilder::stale_if_error) would still serve.
    ///
    /// This is an invalidation: loads that are in flight when it is called do not store their results, whatever their
    /// keys, because `keep` cannot be called for results that do not exist yet. Their callers get the loaded values. So
    /// a value that a load has read from a database before a change is not cached after the change, if `retain` is
    /// called after the change. `keep` may or may not be called for entries that are stored meanwhile by insertions and
    /// by loads that began later.
    ///
    /// # Examples
    ///
    /// ```
    /// use hotset::LocalCache;
    ///
    /// let prices: LocalCache<&str, u64> = LocalCache::new(100);
    /// prices.insert("apple", 120);
    /// prices.insert("pear", 90);
    /// prices.retain(|_, price| *price > 100);
    /// assert!(prices.contains_key("apple") && !prices.contains_key("pear"));
    /// ```
    #[doc(alias("invalidate_entries_if", "invalidate_if"))]
    pub fn retain(&self, mut keep: impl FnMut(&K, &V) -> bool) {
        for cell in &self.inner.cells {
            // The loads are revoked before the entries are listed. So a value that a load has stored by now is listed,
            // and a value that it has not stored by now is never stored.
            let shard = cell.shard.write();
            cell.in_flight.revoke_all();
            drop(shard);
            let mut walk = Walk::new();
            while !walk.is_over() {
                // Outside of the lock, so that it is dropped there if a `clone` panics.
                let mut keys = Vec::new();
                let list = |shard: &Shard<K, V>, span: &Span| {
                    keys.extend(shard.keys_in(span).cloned());
                };
                walk.step(&cell.shard, list);
                for key in keys {
                    while self.retain_one(&key, &mut keep).is_err() {}
                }
            }
        }
    }

    /// Removes the entry of a key if `keep` returns `false` for it, or if it has expired.
    ///
    /// # Errors
    ///
    /// Returns an error if the key was written to meanwhile.
    fn retain_one(&self, key: &K, keep: &mut impl FnMut(&K, &V) -> bool) -> Result<(), Outdated> {
        let location = self.location(key);
        let mut claim = self.claim(&location, key.clone());
        let value = self.peek_at(&location, key, |value, _| value.clone());
        // An expired entry is removed too: `keep` was not called for it, so it may not serve after a failed load.
        if value.is_some_and(|value| keep(key, &value)) {
            return Ok(());
        }
        let mut removals = self.removals();
        let removed = self.remove_claimed(&location, key, &mut claim, None, &mut removals);
        drop(claim);
        removals.finish();
        removed
    }

    /// Removes the entry of a claimed key.
    ///
    /// # Errors
    ///
    /// Returns an error if the key was written to since the claim, or if the entry with the settings `read`, from which
    /// the removal was decided, has expired or was invalidated since.
    pub(in crate::local) fn remove_claimed<Q>(
        &self,
        location: &KeyLocation<'_, K, V>,
        key: &Q,
        claim: &mut Leader<'_, K, V>,
        read: Option<&EntrySettings>,
        removals: &mut Removals<'_, K, V>,
    ) -> Result<(), Outdated>
    where
        Q: Hash + Equivalent<K> + ?Sized,
    {
        let cause = RemovalCause::Removed;
        self.remove_entry(location, key, cause, Some(claim), read, removals)?;
        Ok(())
    }
}
