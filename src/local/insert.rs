//! Writes: the work under a shard's exclusive lock, and around it.

use crate::clock::Nanos;
use crate::entry::Loaded;
use crate::local::budget::Reservation;
use crate::local::removal::{RemovalCause, Removals};
use crate::local::shard::metadata::{Extra, Origin};
use crate::local::shard::{FoundDead, NewEntry, Shard};
use crate::local::{KeyLocation, LocalCache, ShardCell};
use crate::single_flight::{KeyWrite, Leader, Outdated};
use crate::stats::Count;
use crate::storage::index::Index;
use crate::storage::work_slice::WorkSlice;
use equivalent::Equivalent;
use std::hash::{BuildHasher, Hash};
use std::num::NonZero;
use std::thread;
use std::time::Duration;

/// The number of blocks of 32 slots that `evict_expired` visits under one hold of a shard's lock.
const SLICE: u32 = 32;

impl<K: Eq + Hash, V, S: BuildHasher> LocalCache<K, V, S> {
    /// Inserts a value with the time to live of the cache, and replaces an existing one.
    ///
    /// The new entry keeps nothing of the replaced one: neither its time to live nor its weight nor its tags.
    /// [`update`](Self::update) keeps them.
    ///
    /// A value that is heavier than the whole budget is not stored, and is counted in
    /// [`Stats::refused`](crate::Stats::refused). An existing value is removed all the same. Loads of the key
    /// that are in flight do not store their results.
    pub fn insert(&self, key: K, value: V) {
        self.insert_loaded(key, Loaded::new(value));
    }

    /// Inserts a value with its own time to live, like [`insert`](Self::insert) otherwise.
    ///
    /// With `Duration::MAX` the entry never expires, unless the cache has a time to idle. With zero nothing is stored.
    pub fn insert_with_ttl(&self, key: K, value: V, ttl: Duration) {
        self.insert_loaded(key, Loaded::new(value).ttl(ttl));
    }

    /// Inserts a value with its own time to live, weight and tags, like [`insert`](Self::insert) otherwise.
    pub fn insert_loaded(&self, key: K, loaded: Loaded<V>) {
        let location = self.location(&key);
        let mut removals = self.removals();
        let origin = self.origin(&loaded, self.inner.tags.epoch(), 0);
        // Without a leader nothing is outdated.
        let _ = self.store(&location, key, loaded, origin, None, &mut removals);
        removals.finish();
    }

    /// Removes the entry of `key`. Returns its value, or `None` if the key was absent or expired.
    ///
    /// Loads of the key that are in flight do not store their results.
    pub fn remove<Q>(&self, key: &Q) -> Option<V>
    where
        Q: Hash + Equivalent<K> + ?Sized,
    {
        let mut removals = self.removals();
        let location = self.location(key);
        let taken = self.take_out(&location, key, RemovalCause::Removed, None, &mut removals);
        // The first removed entry is the key's own, if there was one.
        let removed = removals.finish().filter(|_| taken.unwrap_or(false))?;
        // Before the value is returned, because a panic of this `drop` would then leak it.
        drop(removed.key);
        (removed.cause == RemovalCause::Removed).then_some(removed.value)
    }

    /// Invalidates every entry that was stored with this [tag](Loaded::tags). Loads in flight that return the tag do
    /// not store their results.
    ///
    /// The call takes the same short time for any number of entries. They are never served again. Their room is
    /// reclaimed by later writes to the cache, or by [`evict_expired`](Self::evict_expired).
    ///
    /// The tags of a load in flight are not known yet, so later callers do not wait for a load that began before the
    /// invalidation. The first of them starts another load, and the others wait for that one.
    pub fn invalidate_tag(&self, tag: &str) {
        self.inner.tags.invalidate(tag);
    }

    /// Invalidates all entries, in the same short time for any number of them. The results of loads in flight are
    /// stored as invalidated entries, and later callers do not wait for those loads.
    #[cfg(feature = "redis")]
    pub(crate) fn forget(&self) {
        debug_assert!(self.inner.settings.forgets);
        self.inner.tags.forget();
    }

    /// Begins an epoch. Later callers do not wait for loads that are in flight now.
    #[cfg(feature = "redis")]
    pub(crate) fn begin_epoch(&self) {
        self.inner.tags.begin_epoch();
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
    #[allow(clippy::must_use_candidate)]
    pub fn evict_expired(&self) -> usize {
        self.inner
            .cells
            .iter()
            .map(|cell| self.evict_expired_of(cell))
            .sum()
    }

    /// Removes the expired and invalidated entries of one shard, and returns their number.
    fn evict_expired_of(&self, cell: &ShardCell<K, V>) -> usize {
        let now = self.inner.settings.clock.now();
        let mut left = cell.shard.read(Shard::blocks);
        let mut expired = 0;
        while left > 0 {
            let slice = left.min(SLICE);
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

    /// Returns the origin of a value whose load began in `epoch`.
    pub(crate) fn origin(&self, loaded: &Loaded<V>, epoch: u64, load_time: Nanos) -> Origin {
        let tags = self.inner.tags.tag(&loaded.tags, epoch);
        Origin {
            load_time,
            // A load may have read the value as soon as it began. A tier knows the age more exactly.
            age: if self.inner.settings.forgets {
                loaded.age
            } else {
                load_time.max(loaded.age)
            },
            epoch,
            tags,
            ..Origin::default()
        }
    }

    /// Stores a value, unless its leader may not. Entries that are removed for it are added to `removals`.
    ///
    /// If many entries have to be evicted, the shard's lock is released between slices of them. The room that they
    /// leave is reserved meanwhile, so that no other write takes it.
    pub(crate) fn store(
        &self,
        location: &KeyLocation<'_, K, V>,
        key: K,
        loaded: Loaded<V>,
        origin: Origin,
        mut leader: Option<&mut Leader<'_, K, V>>,
        removals: &mut Removals<'_, K, V>,
    ) -> Result<(), Outdated> {
        let inner = &*self.inner;
        let Loaded {
            value, ttl, weight, ..
        } = loaded;
        let given_weight = weight.is_some();
        let weight = inner.settings.weigh(&key, &value, weight);
        let now = inner.settings.clock.now();
        let kept_deadline = origin.deadline.map(NonZero::get);
        if kept_deadline.is_some_and(|deadline| deadline <= now) {
            // The entry that the value was computed from has expired meanwhile.
            inner.counters.count(Count::Outdated);
            return Err(Outdated);
        }
        let new_deadline = || inner.settings.deadline(now, ttl);
        let deadline = kept_deadline.unwrap_or_else(new_deadline);
        if weight > inner.budget.limit() || deadline <= now {
            // A tier gives a time to live of zero to a value that it keeps elsewhere. Such a value is not refused.
            if !inner.settings.forgets || ttl != Some(Duration::ZERO) {
                inner.counters.count(Count::Refused);
            }
            self.take_out(location, &key, RemovalCause::Replaced, leader, removals)?;
            return Ok(());
        }
        // Declared before the lock is acquired, so that it is dropped after the release even if `Eq` panics.
        let mut new = Some(NewEntry {
            hash: location.hash,
            key,
            value,
            deadline,
            extra: Extra {
                weight,
                given_weight,
                origin,
            },
        });
        let mut room = Reservation::none(&inner.budget);
        loop {
            let mut work = WorkSlice::new();
            let mut shard = location.cell.shard.write();
            if let Some(NewEntry { key, extra, .. }) = &new {
                let key_write = self.begin_write(location, key, leader.as_deref_mut())?;
                if key_write.is_by_leader() && !extra.origin.is_current() {
                    inner.counters.count(Count::Outdated);
                    return Err(Outdated);
                }
                if shard.insert(&mut new, &mut room, now, &mut work, removals) {
                    key_write.finish();
                    if shard.needs_spare_table() {
                        drop(shard);
                        Self::prepare_table(location.cell);
                    }
                    return Ok(());
                }
            }
            drop(shard);
            if !work.is_used_up() {
                self.evict_elsewhere(location.index, weight, &mut room, now, removals);
            }
        }
    }

    /// Allocates a table for the index of a shard that is about to grow, while its lock is not held.
    #[cold]
    #[inline(never)]
    fn prepare_table(cell: &ShardCell<K, V>) {
        let table = Index::prepare_table(cell.shard.read(Shard::next_index_room));
        // If the table is returned, it is dropped after the lock is released.
        let unneeded = cell.shard.write().set_spare_table(table);
        drop(unneeded);
    }

    /// Checks whether a write may proceed, and revokes loads in flight. A write does this first under the lock.
    #[inline(always)]
    fn begin_write<'a, 'f, Q>(
        &self,
        location: &KeyLocation<'a, K, V>,
        key: &Q,
        leader: Option<&'a mut Leader<'f, K, V>>,
    ) -> Result<KeyWrite<'a, 'f, K, V>, Outdated>
    where
        Q: Equivalent<K> + ?Sized,
    {
        let key_write = location
            .cell
            .in_flight
            .begin_write(location.hash.0, key, leader);
        if key_write.is_err() {
            self.inner.counters.count(Count::Outdated);
        }
        key_write
    }

    /// Removes the entry of a key, unless the leader may not, and returns whether there was one.
    pub(crate) fn take_out<Q>(
        &self,
        location: &KeyLocation<'_, K, V>,
        key: &Q,
        cause: RemovalCause,
        leader: Option<&mut Leader<'_, K, V>>,
        removals: &mut Removals<'_, K, V>,
    ) -> Result<bool, Outdated>
    where
        Q: Hash + Equivalent<K> + ?Sized,
    {
        let now = self.inner.settings.clock.now();
        let mut shard = location.cell.shard.write();
        let key_write = self.begin_write(location, key, leader)?;
        let budget = &self.inner.budget;
        let removed = shard.remove(location.hash, key, cause, budget, now, removals);
        key_write.finish();
        Ok(removed)
    }

    /// Evicts entries of other shards until `room` has `weight`, because the key's own shard has nothing left to evict.
    ///
    /// The first pass skips shards whose lock it would have to wait for. If that does not suffice, the second pass
    /// waits for each shard in turn, with no other lock held. Otherwise readers of the only shard with entries could
    /// delay the insertion without limit. If that does not suffice either, other insertions have reserved the rest of
    /// the budget. The reservation is then given back, so that insertions do not wait for each other.
    fn evict_elsewhere(
        &self,
        home: usize,
        weight: u64,
        room: &mut Reservation<'_>,
        now: Nanos,
        removals: &mut Removals<'_, K, V>,
    ) {
        let cells = &self.inner.cells;
        for wait in [false, true] {
            for index in (home + 1..cells.len()).chain(0..home) {
                while Self::evict_slice(&cells[index], wait, weight, room, now, removals) {}
                if room.reach(weight) {
                    return;
                }
            }
        }
        room.give_back();
        thread::yield_now();
    }

    /// Evicts entries of a shard until `room` has `weight` or the work of one hold of its lock is used up. Returns
    /// whether there may be more to evict in this shard.
    fn evict_slice(
        cell: &ShardCell<K, V>,
        wait: bool,
        weight: u64,
        room: &mut Reservation<'_>,
        now: Nanos,
        removals: &mut Removals<'_, K, V>,
    ) -> bool {
        let mut work = WorkSlice::new();
        let locked = if !wait {
            cell.shard.try_write()
        } else if cell.shard.read(|shard| shard.len() > 0) {
            Some(cell.shard.write())
        } else {
            None
        };
        let Some(mut shard) = locked else {
            return false;
        };
        while !room.reach(weight) {
            match shard.evict(now, &mut work, removals) {
                Some(freed) => room.add(freed),
                None => return work.is_used_up(),
            }
            if work.is_used_up() {
                return true;
            }
        }
        false
    }
}
