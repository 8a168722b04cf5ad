//! Insertions: the work under a shard's exclusive lock, and around it.

use crate::clock::{NEVER, Nanos};
use crate::entry::Loaded;
use crate::local::budget::Reservation;
use crate::local::removal::{RemovalCause, Removals};
use crate::local::shard::entry::NewEntry;
use crate::local::shard::metadata::{EntryMetadata, Provenance};
use crate::local::shard::{PlainEntry, Shard};
use crate::local::{Insertions, KeyLocation, LocalCache, ShardCell};
use crate::single_flight::{KeyWrite, Leader, Outdated};
use crate::stats::Count;
use crate::storage::slot_table::SlotTable;
use crate::storage::work_slice::WorkSlice;
use equivalent::Equivalent;
use std::hash::{BuildHasher, Hash};
use std::num::NonZero;
use std::thread;
use std::time::Duration;

/// A load whose result is inserted on the short path.
pub(in crate::local) struct PlainLoad<'a, 'f, K, V> {
    pub(in crate::local) leader: &'a mut Leader<'f, K, V>,
    /// The age of the loaded value.
    pub(in crate::local) age: Nanos,
}

impl<K: Eq + Hash, V, S: BuildHasher> LocalCache<K, V, S> {
    /// Inserts a value with the time to live of the cache, and replaces an existing one.
    ///
    /// The new entry keeps nothing of the replaced one: neither its time to live nor its weight nor its tags.
    /// [`update`](Self::update) keeps them.
    ///
    /// A value whose weight alone exceeds the bound of the cache is not stored, and is counted in
    /// [`Stats::refused`](crate::Stats::refused). An existing value is removed even then. Loads of the key that are in
    /// flight do not store their results.
    ///
    /// # Examples
    ///
    /// ```
    /// let cache = hotset::LocalCache::new(100);
    /// cache.insert("apple", 120);
    /// cache.insert("apple", 130);
    /// assert_eq!(cache.get("apple"), Some(130));
    /// ```
    #[doc(alias("put", "set", "replace", "putAll"))]
    pub fn insert(&self, key: K, value: V) {
        let location = self.location(&key);
        if let Err((key, value)) = self.insert_plain(&location, key, value, None, None) {
            self.insert_at(&location, key, Loaded::new(value));
        }
    }

    /// Inserts a value with its own time to live, like [`insert`](Self::insert) otherwise.
    ///
    /// With `Duration::MAX` the entry never expires, unless the cache has a time to idle. With zero nothing is stored,
    /// and an existing value is removed.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// let cache = hotset::LocalCache::new(100);
    /// cache.insert_with_ttl("session", 7, Duration::from_secs(1_800));
    /// assert!(cache.remaining_ttl("session").unwrap() <= Duration::from_secs(1_800));
    /// ```
    #[doc(alias("put", "put_with_ttl"))]
    pub fn insert_with_ttl(&self, key: K, value: V, ttl: Duration) {
        let location = self.location(&key);
        if let Err((key, value)) = self.insert_plain(&location, key, value, Some(ttl), None) {
            self.insert_at(&location, key, Loaded::new(value).ttl(ttl));
        }
    }

    /// Inserts a value with its own time to live, weight and tags, like [`insert`](Self::insert) otherwise.
    ///
    /// # Examples
    ///
    /// ```
    /// use hotset::{Loaded, LocalCache};
    ///
    /// let pages: LocalCache<&str, String> = LocalCache::new(100);
    /// pages.insert_loaded("/users/7", Loaded::new("Alice".to_string()).tags(["user 7"]));
    /// pages.invalidate_tag("user 7");
    /// assert_eq!(pages.get("/users/7"), None);
    /// ```
    #[doc(alias = "put")]
    pub fn insert_loaded(&self, key: K, loaded: Loaded<V>) {
        let location = self.location(&key);
        self.insert_at(&location, key, loaded);
    }

    /// Inserts a value at the location of its key.
    fn insert_at(&self, location: &KeyLocation<'_, K, V>, key: K, loaded: Loaded<V>) {
        let mut removals = self.removals();
        let provenance = self.provenance(&loaded, self.inner.tags.epoch(), 0);
        // Without a leader nothing is outdated.
        let _ = self.store(location, key, loaded, provenance, None, &mut removals);
        removals.finish();
    }

    /// Checks whether an insertion may take the short path.
    #[inline]
    pub(in crate::local) fn may_insert_plain(&self) -> bool {
        self.inner.insertions == Insertions::Plain && self.inner.budget.is_used_up()
    }

    /// Inserts a value in place of the entry of its key, or of the policy's victim, and returns that one. This is the
    /// short path of most insertions into a full cache without optional settings. `loaded` is given for the result of
    /// a load, whose leader then [finishes its write](Leader::finish_lone_write).
    ///
    /// # Errors
    ///
    /// Returns the key and the value if the insertion needs more work than this.
    #[inline(always)]
    pub(in crate::local) fn insert_plain(
        &self,
        location: &KeyLocation<'_, K, V>,
        key: K,
        value: V,
        ttl: Option<Duration>,
        loaded: Option<PlainLoad<'_, '_, K, V>>,
    ) -> Result<(K, V), (K, V)> {
        if !self.may_insert_plain() {
            return Err((key, value));
        }
        let settings = &self.inner.settings;
        let needs_time = self.inner.expires || settings.tracks_ages || ttl.is_some();
        let (now, deadline) = if needs_time {
            let now = settings.clock.now();
            (now, settings.deadline(now, ttl))
        } else {
            (0, NEVER)
        };
        if deadline <= now {
            return Err((key, value));
        }
        let mut shard = location.cell.shard.write();
        let may_write = match &loaded {
            Some(load) => load.leader.is_alone(),
            None => location.cell.in_flight.is_quiet(),
        };
        if !may_write {
            return Err((key, value));
        }
        // If `Eq` panics, the lock is released before the key and the value are dropped.
        let Some(place) = shard.look_up_plain(location.hash, &key, now) else {
            return Err((key, value));
        };
        let new = PlainEntry {
            hash: location.hash,
            key,
            value,
            deadline,
            age: loaded.as_ref().map_or(0, |load| load.age),
        };
        let replaced = shard.store_plain(place, new, now)?;
        if let Some(load) = loaded {
            load.leader.finish_lone_write();
        }
        Ok(replaced)
    }

    /// Replaces the time to live of the entry of `key`, counted from now. Returns `false` if the key is absent or
    /// expired.
    ///
    /// With `Duration::MAX` the entry never expires, unless the cache has a time to idle. With zero the entry is
    /// removed. The value, its weight, its tags and its place in the order of eviction are unchanged. A time to idle
    /// begins again. If there is an entry, loads of the key that are in flight do not store their results.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// let sessions = hotset::LocalCache::<String, u64>::new(100);
    /// sessions.insert("alice".to_string(), 7);
    /// assert!(sessions.set_ttl("alice", Duration::from_secs(1_800)));
    /// assert!(sessions.remaining_ttl("alice").unwrap() <= Duration::from_secs(1_800));
    /// assert!(!sessions.set_ttl("bob", Duration::from_secs(1_800)));
    /// ```
    #[allow(clippy::must_use_candidate)]
    #[doc(alias("expire", "setExpiresAfter"))]
    pub fn set_ttl<Q>(&self, key: &Q, ttl: Duration) -> bool
    where
        Q: Hash + Equivalent<K> + ?Sized,
    {
        let location = self.location(key);
        let mut removals = self.removals();
        let now = self.inner.settings.clock.now();
        let deadline = self.inner.settings.deadline(now, Some(ttl));
        let mut shard = location.cell.shard.write();
        if shard.peek(location.hash, key, || now).is_none() {
            return false;
        }
        // Without a leader nothing is outdated.
        let Ok(key_write) = self.begin_write(&location, key, None) else {
            return false;
        };
        if deadline <= now {
            let (cause, budget) = (RemovalCause::Removed, &self.inner.budget);
            shard.remove(location.hash, key, cause, budget, now, &mut removals);
        } else {
            shard.set_deadline(location.hash, key, deadline, now);
        }
        key_write.finish();
        drop(shard);
        removals.finish();
        true
    }

    /// Returns the provenance of a value whose load began in `epoch` and took `load_time`.
    pub(crate) fn provenance(
        &self,
        loaded: &Loaded<V>,
        epoch: u64,
        load_time: Nanos,
    ) -> Provenance {
        let tags = self.inner.tags.entry_tags(&loaded.tags, epoch);
        let load_time = match loaded.load_time {
            0 => load_time,
            // The time that L1 has measured includes that of L2.
            load_time => load_time,
        };
        Provenance {
            load_time,
            // A load may have read the value as soon as it began. A tier knows the age more exactly.
            age: if self.inner.settings.is_l1 {
                loaded.age
            } else {
                load_time.max(loaded.age)
            },
            write: loaded.write,
            epoch,
            tags,
            ..Provenance::default()
        }
    }

    /// Stores a value, unless `leader` is given and may not store because the key was written to. Entries that are
    /// removed for the value are added to `removals`.
    ///
    /// If many entries have to be evicted, the shard's lock is released after a limited number of them, and acquired
    /// again. The room that they leave is reserved meanwhile, so that no other write takes it.
    ///
    /// # Errors
    ///
    /// Returns an error if the value is outdated. It is then not stored.
    pub(crate) fn store(
        &self,
        location: &KeyLocation<'_, K, V>,
        key: K,
        loaded: Loaded<V>,
        mut provenance: Provenance,
        mut leader: Option<&mut Leader<'_, K, V>>,
        removals: &mut Removals<'_, K, V>,
    ) -> Result<(), Outdated> {
        let inner = &*self.inner;
        let Loaded {
            value,
            ttl,
            weight,
            is_cacheable,
            ..
        } = loaded;
        let is_explicit_weight = weight.is_some();
        let weight = inner.settings.weigh(&key, &value, weight);
        let ttl = inner.settings.ttl_of(&key, &value, ttl);
        let now = inner.settings.clock.now();
        // A time to live of its own prevails over the deadline of an entry that was updated.
        let kept_deadline = provenance.deadline.filter(|_| ttl.is_none());
        let kept_deadline = kept_deadline.map(NonZero::get);
        if kept_deadline.is_some_and(|deadline| deadline <= now) {
            // The entry that the value was computed from has expired meanwhile.
            inner.counters.count(Count::Outdated);
            return Err(Outdated);
        }
        let new_deadline = || inner.settings.deadline(now, ttl);
        let deadline = kept_deadline.unwrap_or_else(new_deadline);
        if weight > inner.budget.limit() || deadline <= now {
            // A tier gives a time to live of zero to a value that it keeps elsewhere. Such a value is not refused.
            let is_kept_elsewhere = inner.settings.is_l1 && ttl == Some(Duration::ZERO);
            let counts = is_cacheable && !is_kept_elsewhere;
            return self.refuse(location, &key, counts, leader, removals);
        }
        provenance.partition = inner.settings.partition_of(&key);
        // Declared before the lock is acquired, so that it is dropped after the release even if `Eq` panics.
        let mut new = NewEntry {
            hash: location.hash,
            key,
            value,
            deadline,
            metadata: EntryMetadata {
                weight,
                is_explicit_weight,
                provenance,
            },
        };
        let mut room = Reservation::none(&inner.budget);
        loop {
            let mut work = WorkSlice::new();
            let mut shard = location.cell.shard.write();
            // Checked first, because the write revokes other loads, which may have begun after the invalidation.
            if leader.is_some() && !new.metadata.provenance.is_current() {
                inner.counters.count(Count::Outdated);
                return Err(Outdated);
            }
            let key_write = self.begin_write(location, &new.key, leader.as_deref_mut())?;
            // `Eq` runs for the last time here, while `new` is still owned outside of the lock.
            let existing = shard.slot_of(new.hash, &new.key);
            match shard.insert(new, existing, &mut room, now, &mut work, removals) {
                Ok(()) => {
                    key_write.finish();
                    if shard.needs_spare_table() {
                        drop(shard);
                        Self::prepare_table(location.cell);
                    }
                    return Ok(());
                }
                Err(not_inserted) => new = not_inserted,
            }
            // The write ends here: another shard may not be locked while the table of loads in flight is.
            drop(key_write);
            drop(shard);
            if weight > inner.budget.limit() {
                // The limit was lowered meanwhile, so there will never be room.
                return self.refuse(location, &new.key, is_cacheable, leader, removals);
            }
            if !work.is_used_up() {
                let index = inner.shard_index(location.hash);
                self.evict_elsewhere(index, weight, &mut room, now, removals);
            }
        }
    }

    /// Removes the entry of a key whose new value is not stored. Counts the value as refused if `counts` is `true`.
    #[cold]
    fn refuse(
        &self,
        location: &KeyLocation<'_, K, V>,
        key: &K,
        counts: bool,
        leader: Option<&mut Leader<'_, K, V>>,
        removals: &mut Removals<'_, K, V>,
    ) -> Result<(), Outdated> {
        if counts {
            self.inner.counters.count(Count::Refused);
        }
        self.remove_entry(
            location,
            key,
            RemovalCause::Replaced,
            leader,
            None,
            removals,
        )?;
        Ok(())
    }

    /// Allocates a table for the index of a shard that is about to grow, while its lock is not held.
    #[cold]
    #[inline(never)]
    fn prepare_table(cell: &ShardCell<K, V>) {
        let table = SlotTable::prepared(cell.shard.read(Shard::next_index_room));
        // If the table is returned, it is dropped after the lock is released.
        let unneeded = cell.shard.write().set_spare_table(table);
        drop(unneeded);
    }

    /// Checks whether a write may proceed, and revokes loads in flight. A write calls this before anything else that it
    /// does under the lock.
    #[inline(always)]
    pub(in crate::local) fn begin_write<'a, 'f, Q>(
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
