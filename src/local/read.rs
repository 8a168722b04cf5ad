//! Reads: what happens under a shard's shared lock.

use super::hash::KeyHash;
use super::reader_lock::Reader;
use super::shard::Shard;
use super::{Iter, LocalCache, Place};
use crate::clock::{NEVER, Nanos, TimeSource};
use crate::stats::Count;
use crate::thread_slot::ThreadSlot;
use equivalent::Equivalent;
use std::hash::{BuildHasher, Hash};
use std::time::Duration;

/// A look-up, as the lock takes it.
struct Hit<'a, Q: ?Sized, F> {
    hash: KeyHash,
    key: &'a Q,
    ahead: Option<Nanos>,
    clock: &'a TimeSource,
    /// Is the caller one who can renew the entry?
    renews: bool,
    read: F,
}

impl<K, V, Q, F, R> Reader<Shard<K, V>> for Hit<'_, Q, F>
where
    Q: Equivalent<K> + ?Sized,
    F: FnOnce(&V) -> R,
{
    /// With a hit, whether the caller is to renew it. On a miss the closure, which is the user's and
    /// so must not be dropped under the lock.
    type Output = Result<(R, bool), F>;

    #[inline(always)]
    fn read(self, shard: &Shard<K, V>) -> Result<(R, bool), F> {
        let now = || self.ahead.unwrap_or_else(|| self.clock.now());
        match shard.hit(self.hash, self.key, now) {
            Some((slot, value)) => {
                let due = self.renews && shard.claim_renewal(slot, now);
                Ok(((self.read)(value), due))
            }
            None => Err(self.read),
        }
    }
}

impl<K: Eq + Hash, V, S: BuildHasher> LocalCache<K, V, S> {
    /// A clone of the value of a key, if a live one is held.
    ///
    /// `Clone` runs under the shard's shared lock: keep it cheap, with an `Arc` around what is not.
    #[inline]
    pub fn get<Q>(&self, key: &Q) -> Option<V>
    where
        Q: Hash + Equivalent<K> + ?Sized,
        V: Clone,
    {
        self.get_with(key, V::clone)
    }

    /// What `read` returns of the value of a key, if a live one is held.
    ///
    /// `read` runs under the shard's shared lock, so it delays writers of the shard.
    ///
    /// # Panics
    ///
    /// If `read` writes to a cache or calls `get_or_load`. It may read.
    #[inline]
    pub fn get_with<Q, R>(&self, key: &Q, read: impl FnOnce(&V) -> R) -> Option<R>
    where
        Q: Hash + Equivalent<K> + ?Sized,
    {
        let (result, _) = self.hit(&self.place(key), key, false, read)?;
        Some(result)
    }

    /// What `read` returns of a live value, and whether the caller is to renew it, if it can.
    #[inline(always)]
    pub(super) fn hit<Q, R>(
        &self,
        place: &Place<'_, K, V>,
        key: &Q,
        renews: bool,
        read: impl FnOnce(&V) -> R,
    ) -> Option<(R, bool)>
    where
        Q: Hash + Equivalent<K> + ?Sized,
    {
        let slot = ThreadSlot::current();
        let settings = &self.inner.settings;
        // Where most entries have a deadline, the clock is read ahead of the lock: a processor
        // overlaps the two badly the other way round.
        let ahead = self.inner.expires.then(|| settings.clock.now());
        let hit = Hit {
            hash: place.hash,
            key,
            ahead,
            clock: &settings.clock,
            renews,
            read,
        };
        let found = place.cell.shard.read_as(slot, hit).ok();
        let count = if found.is_some() {
            Count::Hit
        } else {
            Count::Miss
        };
        self.inner.counters.add(slot, count);
        found
    }

    /// A live value as `read` sees it, without a trace in statistics and order.
    pub(super) fn peek<Q, R>(
        &self,
        place: &Place<'_, K, V>,
        key: &Q,
        read: impl FnOnce(&V, u64) -> R,
    ) -> Option<R>
    where
        Q: Hash + Equivalent<K> + ?Sized,
    {
        place.cell.shard.read(|shard| {
            let now = || self.inner.settings.clock.now();
            let found = shard.peek(place.hash, key, now);
            found.map(|(value, deadline)| read(value, deadline))
        })
    }

    /// Is a live value of the key held? Counts as no lookup and no use.
    pub fn contains_key<Q>(&self, key: &Q) -> bool
    where
        Q: Hash + Equivalent<K> + ?Sized,
    {
        self.peek(&self.place(key), key, |_, _| ()).is_some()
    }

    /// How long the entry of a key has to live, if a live one is held; `Duration::MAX` if it does
    /// not expire. Counts as no lookup and no use.
    pub fn remaining_ttl<Q>(&self, key: &Q) -> Option<Duration>
    where
        Q: Hash + Equivalent<K> + ?Sized,
    {
        let deadline = self.peek(&self.place(key), key, |_, deadline| deadline)?;
        if deadline == NEVER {
            return Some(Duration::MAX);
        }
        let left = deadline.checked_sub(self.inner.settings.clock.now())?;
        (left > 0).then(|| Duration::from_nanos(left))
    }

    /// Clones of all live entries, the hottest first as the policy sees it.
    ///
    /// Each shard is read under its shared lock, one after the other, so the snapshot is of one
    /// moment within a shard only.
    #[must_use]
    pub fn iter(&self) -> Iter<K, V>
    where
        K: Clone,
        V: Clone,
    {
        let now = self.inner.settings.clock.now();
        let shards = self.inner.cells.iter().map(|cell| {
            // Outside, so that it is dropped there if a `clone` panics.
            let mut clones = Vec::new();
            cell.shard.read(|shard| {
                let entries = shard.hottest_first(now);
                clones.extend(entries.map(|(key, value)| (key.clone(), value.clone())));
            });
            clones
        });
        Iter::merge(shards.collect())
    }
}
