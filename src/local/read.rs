//! Reads: what happens under a shard's shared lock.

use super::hash::KeyHash;
use super::reader_lock::Reader;
use super::shard::Shard;
use super::{Iter, LocalCache, Place};
use crate::clock::{NEVER, Nanos, TimeSource};
use crate::flight::Boarding;
use crate::held::assert_holds_nothing;
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
    read: F,
}

impl<K, V, Q, F, R> Reader<Shard<K, V>> for Hit<'_, Q, F>
where
    Q: Equivalent<K> + ?Sized,
    F: FnOnce(&V) -> R,
{
    /// On a miss the closure, which is the user's and so must not be dropped under the lock.
    type Output = Result<R, F>;

    #[inline(always)]
    fn read(self, shard: &Shard<K, V>) -> Result<R, F> {
        let now = || self.ahead.unwrap_or_else(|| self.clock.now());
        match shard.hit(self.hash, self.key, now) {
            Some((_, value)) => Ok((self.read)(value)),
            None => Err(self.read),
        }
    }
}

/// A look-up by one who can load, as the lock takes it.
struct Seek<'s, 'a, K, V, S> {
    cache: &'s LocalCache<K, V, S>,
    place: &'s Place<'a, K, V>,
    key: &'s K,
    ahead: Option<Nanos>,
    /// Where it goes if it is not a hit: a way of its own, so that hits stay in registers.
    otherwise: &'s mut Option<Sought<'a, K, V>>,
}

impl<K, V, S> Reader<Shard<K, V>> for Seek<'_, '_, K, V, S>
where
    K: Eq + Hash + Clone,
    V: Clone,
    S: BuildHasher,
{
    /// A hit, and whether the caller is to renew it.
    type Output = Option<(V, bool)>;

    #[inline(always)]
    fn read(self, shard: &Shard<K, V>) -> Option<(V, bool)> {
        let clock = &self.cache.inner.settings.clock;
        let now = || self.ahead.unwrap_or_else(|| clock.now());
        if let Some((slot, value)) = shard.hit(self.place.hash, self.key, now) {
            // Asked of the cache first, whose settings are at hand.
            let due = self.cache.inner.renews && shard.claim_renewal(slot, now);
            return Some((value.clone(), due));
        }
        *self.otherwise = Some(self.cache.board_under(shard, self.place, self.key));
        None
    }
}

/// What one who can load has found.
pub(super) enum Sought<'a, K, V> {
    Live(V),
    /// A live value that the caller is to renew, if it can.
    Due(V),
    /// An expired value: the load failed so lately that it is not tried again.
    Stale(V),
    /// Nothing. The caller has boarded the key's flight.
    Missing(Boarding<'a, K, V>),
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
        self.hit(&self.place(key), key, read)
    }

    /// Where most entries have a deadline, the clock is read ahead of the lock: a processor overlaps
    /// the two badly the other way round.
    #[inline(always)]
    fn read_clock_ahead(&self) -> Option<Nanos> {
        let settings = &self.inner.settings;
        self.inner.expires.then(|| settings.clock.now())
    }

    /// What `read` returns of a live value.
    #[inline(always)]
    pub(super) fn hit<Q, R>(
        &self,
        place: &Place<'_, K, V>,
        key: &Q,
        read: impl FnOnce(&V) -> R,
    ) -> Option<R>
    where
        Q: Hash + Equivalent<K> + ?Sized,
    {
        let slot = ThreadSlot::current();
        let hit = Hit {
            hash: place.hash,
            key,
            ahead: self.read_clock_ahead(),
            clock: &self.inner.settings.clock,
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

impl<K, V, S> LocalCache<K, V, S>
where
    K: Eq + Hash + Clone,
    V: Clone,
    S: BuildHasher,
{
    /// Looks a key up and, if it is not there, boards its flight, as one step: no write comes
    /// between.
    ///
    /// # Panics
    ///
    /// If it is not there and this thread holds a lock: a flight's leader may wait for it.
    #[inline(always)]
    pub(super) fn seek<'a>(&self, place: &Place<'a, K, V>, key: &K) -> Sought<'a, K, V> {
        let slot = ThreadSlot::current();
        let mut otherwise = None;
        let seek = Seek {
            cache: self,
            place,
            key,
            ahead: self.read_clock_ahead(),
            otherwise: &mut otherwise,
        };
        if let Some((value, due)) = place.cell.shard.read_as(slot, seek) {
            self.inner.counters.add(slot, Count::Hit);
            return if due {
                Sought::Due(value)
            } else {
                Sought::Live(value)
            };
        }
        self.inner.counters.add(slot, Count::Miss);
        assert_holds_nothing("load into");
        otherwise.expect("there is something where there is no hit")
    }

    /// As [`seek`](Self::seek), without a trace in statistics and order.
    pub(super) fn board<'a>(&self, place: &Place<'a, K, V>, key: &K) -> Sought<'a, K, V> {
        let now = || self.inner.settings.clock.now();
        let sought = place.cell.shard.read(|shard| {
            let found = shard.peek(place.hash, key, now);
            match found {
                Some((value, _)) => Sought::Live(value.clone()),
                None => self.board_under(shard, place, key),
            }
        });
        assert_holds_nothing("load into");
        sought
    }

    #[cold]
    #[inline(never)]
    fn board_under<'a>(
        &self,
        shard: &Shard<K, V>,
        place: &Place<'a, K, V>,
        key: &K,
    ) -> Sought<'a, K, V> {
        if self.inner.settings.stale_if_error.is_some() {
            let now = self.inner.settings.clock.now();
            if let Some((value, false)) = shard.stale(place.hash, key, now) {
                return Sought::Stale(value.clone());
            }
        }
        let flights = &place.cell.flights;
        Sought::Missing(flights.board(place.hash.0, key, self.candidate()))
    }
}
