//! Writes: what happens under a shard's exclusive lock, and around it.

use super::budget::Reservation;
use super::extras::{Extra, Origin};
use super::index::Index;
use super::removal::{RemovalCause, Removals};
use super::shard::{FoundDead, NewEntry, Shard};
use super::work::WorkSlice;
use super::{Cell, LocalCache, Place};
use crate::clock::Nanos;
use crate::entry::Loaded;
use crate::flight::{Leader, Outdated, Writing};
use crate::stats::Count;
use equivalent::Equivalent;
use std::hash::{BuildHasher, Hash};
use std::num::NonZero;
use std::thread;
use std::time::Duration;

/// How many blocks of 32 slots `evict_expired` looks at under one hold of a shard's lock.
const SLICE: u32 = 32;

impl<K: Eq + Hash, V, S: BuildHasher> LocalCache<K, V, S> {
    /// Stores a value for as long as the cache's settings say, in place of one that is held.
    ///
    /// Nothing of an entry that is replaced is kept: not its time to live, its weight or its tags.
    /// [`update`](Self::update) keeps them.
    ///
    /// A value heavier than the whole budget is not stored, and counted in
    /// [`Stats::refused`](crate::Stats::refused); the old value goes all the same. Loads of the key
    /// that are under way do not store their results.
    pub fn insert(&self, key: K, value: V) {
        self.insert_loaded(key, Loaded::new(value));
    }

    /// As [`insert`](Self::insert), with a time to live of its own. `Duration::MAX` is for ever,
    /// unless the cache has a time to idle; with zero nothing is stored.
    pub fn insert_with_ttl(&self, key: K, value: V, ttl: Duration) {
        self.insert_loaded(key, Loaded::new(value).ttl(ttl));
    }

    /// As [`insert`](Self::insert), with a time to live, a weight and tags of its own.
    pub fn insert_loaded(&self, key: K, loaded: Loaded<V>) {
        let place = self.place(&key);
        let mut removals = self.removals();
        let origin = self.origin(&loaded, self.inner.tags.epoch(), 0);
        // Without a leader nothing is outdated.
        let _ = self.store(&place, key, loaded, origin, None, &mut removals);
        removals.finish();
    }

    /// Takes a key out and returns its value, if a live one was held. Loads of the key that are
    /// under way do not store their results.
    pub fn remove<Q>(&self, key: &Q) -> Option<V>
    where
        Q: Hash + Equivalent<K> + ?Sized,
    {
        let mut removals = self.removals();
        let place = self.place(key);
        let taken = self.take_out(&place, key, RemovalCause::Removed, None, &mut removals);
        // The first to leave is the key's own entry, if there was one.
        let removed = removals.finish().filter(|_| taken.unwrap_or(false))?;
        // Not as it returns: a panic in a `drop` then leaks what is on its way to the caller.
        drop(removed.key);
        (removed.cause == RemovalCause::Removed).then_some(removed.value)
    }

    /// Takes out, for all who look, every entry that was stored with this [tag](Loaded::tags). Loads
    /// that are under way and return it do not store their results.
    ///
    /// It takes the same short time whatever the number of entries. They are never served again;
    /// their room is reclaimed as the cache is written to, or by
    /// [`evict_expired`](Self::evict_expired).
    ///
    /// Since nobody knows the tags of a load under way, callers to come do not wait for one that
    /// began before: they start another. While that one is under way nobody starts a third.
    pub fn invalidate_tag(&self, tag: &str) {
        self.inner.tags.invalidate(tag);
    }

    /// Takes out, for all who look, whatever there is, in no time. Loads that are under way store
    /// what nobody finds, and callers to come do not wait for them.
    #[cfg(feature = "redis")]
    pub(crate) fn forget(&self) {
        debug_assert!(self.inner.settings.forgets);
        self.inner.tags.forget();
    }

    /// Callers to come do not wait for loads that are under way now.
    #[cfg(feature = "redis")]
    pub(crate) fn begin_epoch(&self) {
        self.inner.tags.begin_epoch();
    }

    /// Removes all entries, one shard after the other, and frees their memory. Loads in flight do not store their
    /// results.
    ///
    /// A shard's lock is held only briefly, whatever the number of entries. They are dropped, and reported to the
    /// listener, after it is released.
    ///
    /// # Panics
    ///
    /// Panics if a listener or the `Drop` of a key or value does; shards that come later are then not cleared.
    pub fn clear(&self) {
        for cell in &self.inner.cells {
            let now = self.inner.settings.clock.now();
            let mut removals = self.removals();
            let mut shard = cell.shard.write();
            cell.flights.revoke_all();
            let cleared = shard.clear(&self.inner.budget);
            drop(shard);
            let dead = cleared.remove_all(now, &mut removals);
            if dead != FoundDead::default() {
                cell.shard.write().recount(&dead);
            }
            removals.finish();
        }
    }

    /// Frees memory that was allocated for more entries than the cache has now, as after a mass removal.
    ///
    /// [`clear`](Self::clear) does this by itself, and so does a shard whose last entry is removed. Otherwise
    /// a cache keeps the memory of the most entries that it ever had, because it usually needs it again.
    ///
    /// # Blocking
    ///
    /// It moves all entries of a shard under that shard's exclusive lock, one shard after the other, unless
    /// it has little to free: about 0.2 s for each million entries that a shard has or had. Reads and writes
    /// of that shard wait meanwhile. Call it when the cache is idle, and give the cache several
    /// [shards](crate::Builder::shards), as it has by default.
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

    /// Takes out all entries that are past their deadline (by more than `stale_if_error`, if that is
    /// set) or whose tags were invalidated, and returns how many there were.
    ///
    /// A cache that is written to does this as it goes along; an idle one waits for this call. The
    /// lock of a shard is held for 1,024 slots at a time.
    ///
    /// # Panics
    ///
    /// If a listener or the `Drop` of a key or value does; slots that come later are then left for
    /// the next call.
    #[allow(clippy::must_use_candidate)]
    pub fn evict_expired(&self) -> usize {
        self.inner
            .cells
            .iter()
            .map(|cell| self.evict_expired_of(cell))
            .sum()
    }

    fn evict_expired_of(&self, cell: &Cell<K, V>) -> usize {
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

    /// Where a value comes from whose load began in `epoch`.
    pub(super) fn origin(&self, loaded: &Loaded<V>, epoch: u64, load_time: Nanos) -> Origin {
        let tags = self.inner.tags.tag(&loaded.tags, epoch);
        Origin {
            load_time,
            // A load may have read it as soon as it began; a tier knows better.
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

    /// Stores a value, unless its leader may not. Entries that are removed for it go to `removals`.
    ///
    /// If many have to be evicted, the shard's lock is released between slices of them. What was freed is
    /// reserved meanwhile, so that no other write takes it.
    pub(super) fn store(
        &self,
        place: &Place<'_, K, V>,
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
            // What the value was made of has expired meanwhile.
            inner.counters.count(Count::Outdated);
            return Err(Outdated);
        }
        let new_deadline = || inner.settings.deadline(now, ttl);
        let deadline = kept_deadline.unwrap_or_else(new_deadline);
        if weight > inner.budget.limit() || deadline <= now {
            // One that a tier keeps elsewhere is not refused.
            if !inner.settings.forgets || ttl != Some(Duration::ZERO) {
                inner.counters.count(Count::Refused);
            }
            self.take_out(place, &key, RemovalCause::Replaced, leader, removals)?;
            return Ok(());
        }
        // Declared before the lock is taken, so that it is dropped outside even if `Eq` panics.
        let mut new = Some(NewEntry {
            hash: place.hash,
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
            let mut shard = place.cell.shard.write();
            if let Some(NewEntry { key, extra, .. }) = &new {
                let writing = self.begin_write(place, key, leader.as_deref_mut())?;
                if writing.is_leaders() && !extra.origin.is_current() {
                    inner.counters.count(Count::Outdated);
                    return Err(Outdated);
                }
                if shard.insert(&mut new, &mut room, now, &mut work, removals) {
                    writing.done();
                    if shard.needs_spare_table() {
                        drop(shard);
                        Self::prepare_table(place.cell);
                    }
                    return Ok(());
                }
            }
            drop(shard);
            if !work.is_used_up() {
                self.evict_elsewhere(place.index, weight, &mut room, now, removals);
            }
        }
    }

    /// Allocates a table for the index of a shard that is about to grow, without its lock.
    #[cold]
    #[inline(never)]
    fn prepare_table(cell: &Cell<K, V>) {
        let table = Index::prepare_table(cell.shard.read(Shard::next_index_room));
        // Not dropped under the lock if it is given back.
        let unneeded = cell.shard.write().set_spare_table(table);
        drop(unneeded);
    }

    /// What a write does first under the lock: see that it may, and revoke loads under way.
    #[inline(always)]
    fn begin_write<'a, 'f, Q>(
        &self,
        place: &Place<'a, K, V>,
        key: &Q,
        leader: Option<&'a mut Leader<'f, K, V>>,
    ) -> Result<Writing<'a, 'f, K, V>, Outdated>
    where
        Q: Equivalent<K> + ?Sized,
    {
        let writing = place.cell.flights.write(place.hash.0, key, leader);
        if writing.is_err() {
            self.inner.counters.count(Count::Outdated);
        }
        writing
    }

    /// Takes a key out, and says whether it was there, unless the leader may not.
    pub(super) fn take_out<Q>(
        &self,
        place: &Place<'_, K, V>,
        key: &Q,
        cause: RemovalCause,
        leader: Option<&mut Leader<'_, K, V>>,
        removals: &mut Removals<'_, K, V>,
    ) -> Result<bool, Outdated>
    where
        Q: Hash + Equivalent<K> + ?Sized,
    {
        let now = self.inner.settings.clock.now();
        let mut shard = place.cell.shard.write();
        let writing = self.begin_write(place, key, leader)?;
        let budget = &self.inner.budget;
        let removed = shard.remove(place.hash, key, cause, budget, now, removals);
        writing.done();
        Ok(removed)
    }

    /// The key's own shard has nothing left to evict: evicts in others until `room` has `weight`.
    ///
    /// First where that waits for nobody. If it does not suffice, it waits for each shard in turn,
    /// holding no other: else readers of the one shard that has something could put it off for ever.
    /// If even that does not suffice, others hold what is missing for insertions of their own; what
    /// this one holds is given back, so that they do not wait for each other.
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

    /// Evicts entries of a shard until `room` has `weight`, or the work of one hold of its lock is used up.
    /// Returns whether there is more to evict for it.
    fn evict_slice(
        cell: &Cell<K, V>,
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
